"""Build the list of names that may be traded: listed, liquid, with options. Asks Polygon; without a key the embedded
venue's market, whose names are written to another file and never over the real list.

  build_universe_polygon.py --dry-run       what would change
  build_universe_polygon.py                 write it, and where it came from beside it
About one request per session looked at, a few for the listing, and one per name for its options (a free plan: 3 hours).
A list that is too short, or that changed by more than universe.max_change_pct, is not written.
Exit: 0 written, or nothing would change · 2 usage · 10 refused, configuration · 20 the vendor gave no usable answer
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.canonical import iso_utc
from core.domain import Symbol
from core.errors import ConfigError, DataError, Exit, UsageError
from core.files import write_atomic
from core.paths import REPO_ROOT

if TYPE_CHECKING:
    from datetime import date

    from data.providers.polygon_reference import PolygonReference
    from data.universe.build import Candidate, Change, Filters, Funnel
    from scripts.wiring import Context

SHOWN = 20


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, help="the file to write; default: universe.path of the settings")
    p.add_argument("--size", type=int, default=800, help="names wanted")
    p.add_argument("--sessions", type=int, default=20, help="sessions of which the dollar volume is the median")
    p.add_argument("--min-price", type=float, default=5.0, metavar="USD")
    p.add_argument("--min-dollar-volume", type=float, default=5_000_000.0, metavar="USD", help="of a day")
    p.add_argument("--options-file", type=pathlib.Path, help="names with options, one a line; none is asked for")
    p.add_argument("--sectors", type=pathlib.Path, help="CSV symbol,sector for names that have none yet")
    p.add_argument("--accept-change", action="store_true", help="write also a list that changed by more than allowed")
    p.add_argument("--dry-run", action="store_true", help="show, write nothing")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from data.universe.build import Filters
    from scripts import wiring

    if min(args.size, args.sessions) < 1 or args.sessions > 250 or min(args.min_price, args.min_dollar_volume) < 0:
        raise UsageError("--size and --sessions must be positive, --sessions at most 250, amounts not negative")
    context = wiring.open_context(args)
    context.looks_only = True
    filters = Filters(args.sessions, args.min_price, args.min_dollar_volume, args.size)
    with wiring.closing(context):
        out = target(context, args.out)
        source = reference(context)
        try:
            return _build(args, context, source, filters, out)
        except (DataError, ConfigError) as error:
            logs.error_event("universe_not_built", code=error.code, detail=str(error))
            logs.count("universes_refused", code=error.code)
            raise


def target(context: Context, named: pathlib.Path | None) -> pathlib.Path:
    """Where it goes. Names of a simulated market never replace real ones."""
    default = REPO_ROOT / context.settings.universe.path
    if context.keys.polygon:
        return named or default
    if named is not None and named.resolve() == default.resolve():
        raise ConfigError(
            f"{named} holds real names, and without POLYGON_API_KEY there are only simulated ones",
            code="SIMULATED_UNIVERSE", advice="set POLYGON_API_KEY, or name another file with --out",
        )  # fmt: skip
    return named or context.home.cache / "universe" / "simulated.csv"


def reference(context: Context) -> PolygonReference:
    from data.providers.polygon_reference import PolygonReference
    from scripts import wiring

    data, keys = context.settings.data, context.keys
    bounds: Any = {
        "timeout_s": data.request_timeout_s, "deadline_s": data.request_deadline_s, "calendar": context.calendar,
    }  # fmt: skip
    if keys.polygon:
        rpm = data.polygon_requests_per_minute
        return PolygonReference(keys.polygon, context.endpoints.polygon, context.clock, rpm=rpm, **bounds)
    url = wiring.ensure_venue(context).base_url
    return PolygonReference("simulated", url, context.clock, name=context.source_name, simulated=True, **bounds)


def _build(
    args: argparse.Namespace, context: Context, source: PolygonReference, filters: Filters, out: pathlib.Path
) -> int:
    from data.universe import load_universe
    from data.universe.build import Funnel, candidates, change, require_plausible, to_csv

    funnel = Funnel()
    last = context.calendar.last_completed(context.clock.now())
    sessions = context.calendar.sessions_between(context.calendar.offset(last, 1 - filters.sessions), last)
    with cli.progress(enabled=not args.json) as tick:
        listed = [one.symbol for one in source.listed(last)]
        if not listed:
            raise DataError(f"{source.name} lists no stock at all", code="UNIVERSE_NO_DATA", advice="run again later")
        rows: dict[date, Mapping[Symbol, Any]] = {}
        for at, session in enumerate(sessions, start=1):
            tick("session", session, f"{at}/{len(sessions)}")
            rows[session] = source.grouped_daily(session, listed)
        ranked = candidates(listed, rows, filters, funnel)
        symbols = _with_options(args, source, ranked, filters, funnel, last, tick)
    before = load_universe(out, default=False) if out.is_file() else None
    made = change(symbols, before.symbols if before is not None else ())
    _tell_funnel(args, context, source, funnel, made, out)
    limits = context.settings.universe
    require_plausible(
        symbols, made, min_rows=min(limits.min_rows, filters.size), max_change_fraction=limits.max_change_pct,
        accepted=args.accept_change,
    )  # fmt: skip
    sectors = {**(before.sectors if before is not None else {}), **_sectors(args, context)}
    content = to_csv(symbols, sectors)
    if not args.dry_run:
        _write(out, content, _provenance(context, source, filters, funnel, made, sessions, content, symbols, sectors))
    _tell(args, out, made, len(symbols), sum(1 for s in symbols if not sectors.get(s)), funnel)
    return Exit.OK


def _with_options(
    args: argparse.Namespace, source: PolygonReference, ranked: Sequence[Candidate], filters: Filters, funnel: Funnel,
    on: date, tick: Any,
) -> list[Symbol]:  # fmt: skip
    """The most liquid names that have options; asked one by one until there are enough."""
    from data.providers.base import FailureKind, ProviderFailure

    known = _names(args.options_file) if args.options_file is not None else None
    found: list[Symbol] = []
    for asked, one in enumerate(ranked, start=1):
        if len(found) == filters.size:
            break
        tick("options", one.symbol, f"{len(found)}/{filters.size}, {asked} asked")
        try:
            has = one.symbol in known if known is not None else source.has_options(one.symbol, on)
        except ProviderFailure as failure:
            if failure.kind is FailureKind.NOT_ENTITLED:
                raise DataError(
                    f"this plan does not list options: {failure}", code="OPTIONS_NOT_ENTITLED",
                    advice="give the names with options with --options-file",
                ) from failure  # fmt: skip
            raise
        if has:
            found.append(one.symbol)
    funnel.after("options", len(found))
    return found


def _names(path: pathlib.Path) -> frozenset[Symbol]:
    from data.universe import load_universe

    return frozenset(load_universe(path, default=False).symbols)


def _sectors(args: argparse.Namespace, context: Context) -> dict[Symbol, str | None]:
    """Sectors of the default list, then of --sectors; a name that is in neither has none."""
    from data.universe import load_universe

    found: dict[Symbol, str | None] = {}
    default = REPO_ROOT / context.settings.universe.path
    for path in (default, args.sectors):
        if path is not None and path.is_file():
            found |= {s: sector for s, sector in load_universe(path, default=False).sectors.items() if sector}
    return found


def _provenance(
    context: Context, source: PolygonReference, filters: Filters, funnel: Funnel, made: Change,
    sessions: Sequence[date], content: bytes, symbols: Sequence[Symbol], sectors: Mapping[Symbol, str | None],
) -> dict[str, Any]:  # fmt: skip
    from urllib.parse import urlsplit

    from config.pin import code_sha256
    from data.universe.build import sha256

    host = urlsplit(context.endpoints.polygon).hostname if context.keys.polygon else "embedded venue"
    return {
        "schema_version": 1, "made_at": iso_utc(context.clock.now()), "vendor": source.name, "host": host,
        "simulated": source.simulated, "requests": source.requests, "first_session": str(sessions[0]),
        "last_session": str(sessions[-1]), "filters": asdict(filters), "funnel": funnel.counts,
        "names": len(symbols), "without_sector": sum(1 for s in symbols if not sectors.get(s)),
        "added": list(made.added), "removed": list(made.removed), "sha256": sha256(content),
        "code_sha256": code_sha256(),
    }  # fmt: skip


def _write(out: pathlib.Path, content: bytes, provenance: Mapping[str, Any]) -> None:
    """The list, then where it came from: its hash tells whether the two belong together."""
    write_atomic(out, content)
    write_atomic(out.with_suffix(".provenance.json"), json.dumps(provenance, indent=1, sort_keys=True).encode() + b"\n")
    logs.event("universe_built", code="OK", file=str(out), names=provenance["names"], sha256=provenance["sha256"])


def _tell_funnel(
    args: argparse.Namespace, context: Context, source: PolygonReference, funnel: Funnel, made: Change,
    out: pathlib.Path,
) -> None:  # fmt: skip
    if args.json:
        return
    from scripts import wiring

    if source.simulated:
        cli.out(wiring.describe(context, data_source=source.name, simulated=True))
    cli.out("  ".join(f"{step} {left}" for step, left in funnel.counts.items()))
    cli.out(f"{out}: {made}")
    for word, names in (("added", made.added), ("removed", made.removed)):
        if names and made.fraction is not None:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            cli.out(f"  {word}: {', '.join(names[:SHOWN])}{more}")


def _tell(
    args: argparse.Namespace, out: pathlib.Path, made: Change, names: int, unknown: int, funnel: Funnel
) -> None:  # fmt: skip
    if args.json:
        cli.print_json({
            "file": str(out), "written": not args.dry_run, "names": names, "without_sector": unknown,
            "added": list(made.added), "removed": list(made.removed), "funnel": funnel.counts,
        })  # fmt: skip
        return
    if unknown:
        cli.out(f"{unknown} names have no sector: they count as one sector until --sectors names it")
    if args.dry_run:
        cli.out("nothing was written")
    else:
        cli.out(f"written: {names} names; accept it with python scripts/config_pin.py pin")


if __name__ == "__main__":
    sys.exit(cli.run(main))
