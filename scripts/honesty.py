"""Ask a strategy of your own whether it fools itself: look-ahead, fills, costs, survivors, luck. docs/honesty.md.

--strategy module:function, or path/to/file.py:function. The function is called again and again with bars that are cut
short, that go on otherwise, or that begin later, and must make the same trades.
--bars PATH is a folder of SYMBOL.csv or one long CSV; without it the bar store of KOBE_HOME, else the simulated market.
--membership FILE (symbol, first_seen, last_seen or start_date, end_date) tells what could be bought when; --splits FILE
which splits the bars are adjusted for; --earnings FILE and --table NAME=FILE are handed to a function that names them.
What cannot be asked is "unknown", never a pass.
Exit: 0 no check fails (with --strict: all pass) · 1 a check fails · 2 usage, or an answer of another shape ·
10 configuration · 20 no usable bars or file
"""

import argparse
import importlib
import importlib.util
import math
import pathlib
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.errors import DataError, Exit, UsageError

if TYPE_CHECKING:
    from portfolio.backtest.honesty.checks import Known
    from portfolio.backtest.honesty.findings import Check
    from portfolio.backtest.honesty.market import Market
    from portfolio.strategies.boundary import Failed
    from scripts import wiring
    from scripts.backtest_data import Loaded

_SHAPE = "give --strategy module:function or path/to/file.py:function"


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--strategy", required=True, metavar="MODULE:FUNCTION")
    out.add_argument("--bars", type=pathlib.Path, metavar="PATH")
    out.add_argument("--start", type=cli.day, default=date(1900, 1, 1), metavar="DATE", help="first bar")
    out.add_argument("--end", type=cli.day, default=date(2200, 1, 1), metavar="DATE", help="last bar")
    out.add_argument("--universe", type=pathlib.Path, metavar="FILE")
    out.add_argument("--cap", type=int, metavar="N", help="at most N symbols")
    out.add_argument("--membership", type=pathlib.Path, metavar="FILE")
    out.add_argument("--splits", type=pathlib.Path, metavar="FILE")
    out.add_argument("--earnings", type=pathlib.Path, metavar="FILE")
    out.add_argument("--table", action="append", default=[], metavar="NAME=FILE")
    out.add_argument("--participation", type=float, metavar="X", help="largest part of a day's volume (costs.*)")
    out.add_argument("--cuts", type=int, default=12, metavar="N", help="days on which the future is taken away")
    out.add_argument("--quarantine", choices=("on", "off"), help="take bad bars of --bars out, as a scan does")
    out.add_argument("--strict", action="store_true", help="unknown is a no")
    cli.add_common(out)
    return out


def checked(args: argparse.Namespace) -> argparse.Namespace:
    if args.start > args.end:
        raise UsageError(f"--start {args.start} is after --end {args.end}")
    if args.cap is not None and args.cap < 1:
        raise UsageError(f"--cap must be at least 1, was {args.cap}")
    if not 2 <= args.cuts <= 200:
        raise UsageError(f"--cuts must be within 2 and 200, was {args.cuts}")
    if args.participation is not None and not (math.isfinite(args.participation) and 0 < args.participation <= 1):
        raise UsageError(f"--participation must be within 0 and 1, was {args.participation:g}")
    return args


# ---------------------------------------------------------------- the strategy
def load_function(spec: str) -> "Callable[..., Any] | Failed":
    """The function named. Failed: its module raises when it is imported. Raises UsageError when there is none."""
    from portfolio.strategies.boundary import Failed, guarded

    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UsageError(f"--strategy {spec}: no colon", code="STRATEGY_NAME", advice=_SHAPE)
    found = guarded(spec, lambda: _module(place))
    if isinstance(found, Failed):
        return found
    if found is None:
        raise UsageError(f"--strategy {spec}: no module or file {place}", code="STRATEGY_NAME", advice=_SHAPE)
    if not hasattr(found, name):
        raise UsageError(f"--strategy {spec}: {place} has no {name}", code="STRATEGY_NAME", advice=_SHAPE)
    function: Callable[..., Any] = getattr(found, name)
    return function


def _module(place: str) -> Any:
    """A file by its path, a module by its name from the current folder on; None: neither."""
    path = pathlib.Path(place)
    if place.endswith(".py"):
        made = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
        if made is None or made.loader is None:
            return None
        module = importlib.util.module_from_spec(made)
        sys.modules.setdefault(path.stem, module)  # dataclasses of the file look their module up
        made.loader.exec_module(module)
        return module
    sys.path.insert(0, str(pathlib.Path.cwd()))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            return None
        raise
    finally:
        sys.path.remove(str(pathlib.Path.cwd()))


# ---------------------------------------------------------------- the data
def market_for(context: "wiring.Context", args: argparse.Namespace) -> "tuple[Market, Known, Loaded]":
    from core.bars_io import to_day
    from portfolio.backtest.honesty.basis import raw_factors
    from portfolio.backtest.honesty.checks import Known
    from portfolio.backtest.honesty.house import market_of
    from scripts import backtest_data, backtest_honesty

    loaded = backtest_data.load(context, args)
    first, last = to_day(args.start), to_day(args.end)
    market = market_of(loaded.panel).bars_where(lambda _, own: (own.dates >= first) & (own.dates <= last))
    if not market.bars:
        raise DataError(f"no bars from {args.start} to {args.end}", code="NO_BARS", advice="see --start and --end")
    listings = None if args.membership is None else backtest_honesty.read_listings(args.membership)
    splits = None if args.splits is None else backtest_honesty.read_splits(args.splits)
    if splits is not None:
        market = replace(market, factors=raw_factors(market, splits))
    tables: dict[str, Any] = {}
    if listings is not None:
        tables["membership"] = backtest_honesty.membership_table(listings)
    if args.earnings is not None:
        tables["earnings"] = backtest_honesty.read_earnings(args.earnings)
    for pair in args.table:
        name, equals, file = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--table {pair}: must be NAME=FILE")
        tables[name] = backtest_honesty.read_table(pathlib.Path(file))
    most = context.settings.costs.participation_pct if args.participation is None else args.participation
    return replace(market, tables=tables), Known(listings, splits, most), loaded


# ---------------------------------------------------------------- told
def render(name: str, checks: "Sequence[Check]", loaded: "Loaded", market: "Market") -> str:
    from portfolio.backtest.honesty.findings import overall

    mark = "SIMULATED | " if loaded.simulated else ""
    size = f"{len(market.bars)} symbols, {market.sessions.size} sessions"
    rows = [[check.name, check.verdict, check.n, check.blame or "-"] for check in checks]
    lines = [f"{mark}data: {loaded.source}, {size}", cli.table(["check", "verdict", "n", "blame"], rows)]
    for check in checks:
        if check.verdict != "pass" and (check.code != "STRATEGY_RAISED" or check.blame):  # said once
            told = f"{check.name}: {check.code}: {check.detail}"
            lines += textwrap.wrap(told, 80, subsequent_indent="  ", break_on_hyphens=False)
    count = {v: sum(check.verdict == v for check in checks) for v in ("pass", "fail", "unknown")}
    lines.append(f"{name}: {overall(checks)} ({count['pass']} pass, {count['fail']} fail, {count['unknown']} unknown)")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    args = checked(parser().parse_args(argv))
    args.level = "signals"  # bars as they stand, unless --quarantine on
    from portfolio.backtest.honesty import ahead
    from portfolio.backtest.honesty.checks import Effort, examine, raised
    from portfolio.backtest.honesty.findings import Verdict, document, overall
    from portfolio.backtest.honesty.operators import OperatorStrategy
    from portfolio.strategies.boundary import Failed
    from scripts import wiring

    function = load_function(args.strategy)
    context = wiring.open_context(args)
    with wiring.closing(context):
        market, known, loaded = market_for(context, args)
    if isinstance(function, Failed):
        checks = raised(f"when it was imported: {function.detail}")
    else:
        effort = Effort(cuts=ahead.Effort(cuts=args.cuts, truncations=max(2, 2 * args.cuts // 3)))
        checks = examine(OperatorStrategy(function, args.strategy), market, known, effort)
    verdict = overall(checks)
    failing = [check.code for check in checks if check.verdict is Verdict.FAIL]
    logs.event("honesty_checked", strategy=args.strategy, verdict=str(verdict), codes=failing)
    if args.json:
        about = {"strategy": args.strategy, "symbols": len(market.bars), "sessions": int(market.sessions.size)}
        source = {"data_source": loaded.source, "data_sha256": loaded.sha256, "simulated": loaded.simulated}
        cli.print_json({**document(checks), **about, **source})
    else:
        cli.out(render(args.strategy, checks, loaded, market))
    return int(Exit.NO if failing or (args.strict and verdict is not Verdict.PASS) else Exit.OK)


if __name__ == "__main__":
    sys.exit(cli.run(main))
