"""What a scan decided on, kept beside its verdicts, so that the day can be worked out again later.

`logs/inputs/<day>.jsonl`, one line each: `scan` (everything that the funnel was told, and what it answered), `exits`
(which exits were due, and from which bars), `quote`, `gate` (broker facts of one entry), `leave` (the quote of one
exit). Long values lie in `logs/inputs/blobs/<hash>.json.gz` once, bars in `logs/inputs/bars/` (data/seen.py).
It is telemetry: what cannot be written is told and counted, and stops no trade; that day is then UNKNOWN to parity.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import logs
from core.canonical import canonical_json
from core.errors import DataError
from core.files import write_atomic
from core.market_calendar import NEW_YORK
from core.ports import Opinion, Review
from data.seen import SeenBars
from scripts import wiring

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from config.strategy_params import StrategyParams
    from core.domain import ExitReason, Signal, Symbol
    from core.market_calendar import MarketCalendar
    from core.ports import EarningsCalendar
    from data.universe import Universe
    from execution.scheduler import DueRun
    from portfolio.scan import ScanResult

CALENDAR_DAYS = timedelta(days=40)


def inputs_folder(logs_folder: Path) -> Path:
    return logs_folder / "inputs"


def inputs_file(logs_folder: Path, day: date) -> Path:
    return inputs_folder(logs_folder) / f"{day.isoformat()}.jsonl"


# ---------------------------------------------------------------- long values
def keep_blob(folder: Path, value: Any) -> str:
    """Store a plain value once, under its own hash; the hash. Raises OSError."""
    text = canonical_json(value).encode()
    name = hashlib.sha256(text).hexdigest()
    path = folder / "blobs" / f"{name[:32]}.json.gz"
    if not path.exists():
        write_atomic(path, gzip.compress(text, 1, mtime=0), durable=False)
    return name


def read_blob(folder: Path, name: str) -> Any:
    """Raises DataError INPUTS_ABSENT or INPUTS_DAMAGED: a value that is not the one that was kept is never used."""
    path = folder / "blobs" / f"{name[:32]}.json.gz"
    try:
        text = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: not kept any more", code="INPUTS_ABSENT") from error
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path.name}: {error}", code="INPUTS_DAMAGED") from error
    if hashlib.sha256(text).hexdigest() != name:
        raise DataError(f"{path.name}: not what was kept under this name", code="INPUTS_DAMAGED")
    return json.loads(text)


def settings_value(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def params_value(params: StrategyParams) -> dict[str, Any]:
    return dataclasses.asdict(params)


def universe_value(universe: Universe) -> list[list[str | None]]:
    return [[str(s), universe.sectors.get(s)] for s in universe.symbols]


def earnings_value(earnings: EarningsCalendar, symbols: Collection[Symbol]) -> dict[str, list[str]]:
    """Dates as they are believed; a symbol of which nothing is known is absent."""
    found = {str(s): earnings.dates(s) for s in sorted(symbols)}
    return {s: [day.isoformat() for day in days] for s, days in found.items() if days is not None}


def calendar_value(calendar: MarketCalendar, session: date) -> dict[str, list[str]]:
    """Sessions around this one with their open and close, UTC."""
    first, last = max(session - CALENDAR_DAYS, calendar.first), min(session + CALENDAR_DAYS, calendar.last)
    return {
        day.isoformat(): [calendar.opens_at(day).isoformat(), calendar.closes_at(day).isoformat()]
        for day in calendar.sessions_between(first, last)
    }


def verdicts_value(result: ScanResult) -> list[dict[str, Any]]:
    return [verdict.to_json() for verdict in result.verdicts]


def picks_value(result: ScanResult) -> list[dict[str, Any]]:
    return [
        {**pick.to_json(), "decision_id": pick.signal.decision_id, "scale": str(pick.scale),
         "target_r": pick.signal.target_r, "time_stop_bars": pick.signal.time_stop_bars}
        for pick in result.picks
    ]  # fmt: skip


def opinions_value(result: ScanResult) -> dict[str, list[Any]]:
    """By decision id: probability, code, model."""
    return {d: [o.probability, o.code, o.model, o.weight] for d, o in sorted(result.opinions.items())}


def reviews_value(result: ScanResult) -> dict[str, list[Any]]:
    """By decision id: scale, codes, confidence, final. Signals that nobody reviewed are not in it."""
    return {
        item.scored.signal.decision_id: [
            str(r.scale), list(r.codes), r.confidence, None if r.final is None else str(r.final)
        ]
        for item in result.reviewed if (r := item.review) is not None
    }  # fmt: skip


class RecordedScorer:
    """What the model said that day."""

    def __init__(self, value: Mapping[str, Sequence[Any]]) -> None:
        self._opinions = {d: Opinion(*said) for d, said in value.items()}

    def opinions(self, signals: Sequence[Signal]) -> Mapping[str, Opinion]:
        return self._opinions


class RecordedReviewer:
    """What the reviewer said that day. A signal that it did not see then, because a bar has changed since, passes with
    REVIEW_NOT_RECORDED: only a day that is over is decided with this, and what the rules make of it is asked."""

    def __init__(self, value: Mapping[str, Sequence[Any]]) -> None:
        self._reviews = {
            d: Review(Decimal(scale), tuple(codes), said, None if final is None else Decimal(final))
            for d, (scale, codes, said, final) in value.items()
        }

    def reviews(self, scored: Sequence[tuple[Signal, float]]) -> Mapping[str, Review]:
        return {s.decision_id: self._reviews.get(s.decision_id, _UNSEEN) for s, _ in scored}


_UNSEEN = Review(Decimal(1), ("REVIEW_NOT_RECORDED",))


def scorer_of(row: Mapping[str, Any]) -> RecordedScorer | None:
    """None: no model was asked."""
    return None if row.get("opinions") is None else RecordedScorer(row["opinions"])


def reviewer_of(row: Mapping[str, Any]) -> RecordedReviewer | None:
    return None if row.get("reviews") is None else RecordedReviewer(row["reviews"])


# ---------------------------------------------------------------- recording
class Recorder:
    """One per process. Rows are written as they come; bars wait for `flush`, when the orders have left."""

    def __init__(self, context: wiring.Context, universe: Universe, *, bars: Path | None = None) -> None:
        self._context, self._universe, self._bars = context, universe, bars
        self._folder = inputs_folder(context.home.logs)
        self._blobs: dict[str, tuple[object, str]] = {}  # what -> (the value's owner, its hash)
        self._waiting: dict[str, wiring.MarketData] = {}
        self._code = ""
        self._run = ""

    def scan(
        self, run: DueRun, data: wiring.MarketData, result: ScanResult, held: Mapping[Symbol, Decimal],
        taken: Collection[str], seq: int,
    ) -> None:  # fmt: skip
        self._run = run.id
        self._guarded(lambda: self._scan(run, data, result, held, taken, seq))

    def exits(
        self, run: DueRun, data: wiring.MarketData | None, due: Sequence[tuple[str, ExitReason]], seq: int, *,
        assume_traded: bool,
    ) -> None:  # fmt: skip
        self._run = run.id
        self._keep_bars(data)
        self._row("exits", {
            "first": run.first, "last": run.last, "label": run.label, "seq": seq, "assume_traded": assume_traded,
            "snapshot_sha256": None if data is None else data.snapshot_sha256,
            "session": None if data is None else data.session, "source": None if data is None else data.source,
            "bars_path": self._bars_path(), "due": [[decision_id, str(reason)] for decision_id, reason in due],
        })  # fmt: skip

    def note(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Facts of one order, as the session tells them while it decides."""
        self._row(kind, facts)

    def flush(self) -> None:
        """Write the bars that rows have named."""
        waiting, self._waiting = self._waiting, {}
        for data in waiting.values():
            self._guarded(lambda data=data: self._write_bars(data))  # type: ignore[misc]

    # ------------------------------------------------------------ inside
    def _scan(
        self, run: DueRun, data: wiring.MarketData, result: ScanResult, held: Mapping[Symbol, Decimal],
        taken: Collection[str], seq: int,
    ) -> None:  # fmt: skip
        context, symbols = self._context, self._universe.symbols
        self._keep_bars(data)
        self._row("scan", {
            "seq": seq, "first": run.first, "last": run.last, "label": run.label, "mode": context.mode.value,
            "as_of": result.as_of.isoformat(), "session": result.session,
            "source": data.source, "simulated": data.simulated, "bars_path": self._bars_path(),
            "snapshot_sha256": data.snapshot_sha256,
            "vix": data.vix, "quarantined": dict(sorted(data.quarantined.items())),
            "held": {str(s): str(usd) for s, usd in sorted(held.items())}, "taken": sorted(taken),
            "code_sha256": self._code_sha256(),
            "universe_path": self._universe.path, "universe_cap": self._universe.cap,
            "universe": self._blob("universe", self._universe, lambda: universe_value(self._universe)),
            "earnings": self._blob("earnings", run.session, lambda: earnings_value(
                wiring.earnings_calendar(context), symbols)),
            "calendar": self._blob("calendar", run.session, lambda: calendar_value(context.calendar, run.session)),
            "verdicts": keep_blob(self._folder, verdicts_value(result)), "picks": picks_value(result),
            "opinions": opinions_value(result) if result.model_asked else None,
            "reviews": reviews_value(result) if result.reviewer_asked else None,
            "refused": dict(result.refused), "off": sorted(failed.strategy for failed in result.off),
        })  # fmt: skip

    def _code_sha256(self) -> str:
        if not self._code:
            from config.pin import code_sha256

            self._code = code_sha256()
        return self._code

    def _blob(self, what: str, owner: object, make: Callable[[], Any]) -> str:
        """Settings and the like do not change within a process: they are spelled once, not at every scan."""
        known = self._blobs.get(what)
        if known is None or known[0] != owner:
            known = self._blobs[what] = (owner, keep_blob(self._folder, make()))
        return known[1]

    def _keep_bars(self, data: wiring.MarketData | None) -> None:
        if data is not None:
            self._waiting[data.snapshot_sha256] = data

    def _write_bars(self, data: wiring.MarketData) -> None:
        SeenBars(self._folder, data.source).write(data.panel, data.session, data.snapshot_sha256)

    def _row(self, kind: str, facts: Mapping[str, Any]) -> None:
        self._guarded(lambda: self._append(kind, facts))

    def _bars_path(self) -> str | None:
        return None if self._bars is None else str(self._bars.resolve())

    def _append(self, kind: str, facts: Mapping[str, Any]) -> None:
        context, now = self._context, self._context.clock.now()
        day = now.astimezone(NEW_YORK).date()
        run = self._run if self._run.startswith(day.isoformat()) else f"{day.isoformat()}Tlook"
        shared = {
            "kind": kind, "run": run, "at": now.isoformat(),
            "settings": self._blob("settings", context.settings, lambda: settings_value(context.settings)),
            "params": self._blob("params", context.params, lambda: params_value(context.params)),
        }  # fmt: skip
        line = canonical_json({**shared, **facts}) + "\n"
        path = inputs_file(context.home.logs, day)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii", newline="") as out:
            out.write(line)

    def _guarded(self, write: Callable[[], None]) -> None:
        """No trade is stopped by what cannot be written down (P23), whatever is wrong with it."""
        try:
            write()
        except Exception as error:  # noqa: BLE001 - telemetry's boundary: a bug behind it stops no trade either
            logs.error_event("inputs_not_recorded", code="LOGS_UNWRITABLE", detail=repr(error), traceback=_trace(error))
            logs.count("inputs_not_recorded")


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
