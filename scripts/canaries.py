"""The morning's look at the data: do the newest bars resemble their past, and does a second vendor tell the same?

Once per session and source, before the first scan of the runner decides anything; scan.py only reads the outcome. What
is not believed goes to the quarantine, with a code, a journal record and an event, and comes out by
`scripts/quarantine.py release`. A vendor that differs on a large part of the sample is not believed at all that day.
A look that raises is CANARY_FAILED: no entries by that scan, exits as ever, and the runner goes on.
With the embedded venue alone there is nobody to compare with and its prices are what they are: that is said, and
nothing is quarantined.
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from core import logs
from core.bars_io import BarColumns, from_day
from core.canonical import iso_utc
from core.domain import Symbol
from core.errors import DataError, KobeError, StateCorrupt, StateLocked

if TYPE_CHECKING:
    from core.market_calendar import MarketCalendar
    from core.panel import Panel
    from data.providers.base import DailyProvider
    from data.quality.quarantine import Held, Quarantine
    from data.quality.quorum import Comparison, Row
    from data.store import BarStore
    from scripts.wiring import Context, MarketData

T = TypeVar("T")


def believed(context: Context, data: MarketData) -> MarketData:
    """`known`, after a look at this session when nobody has looked yet: what the runner decides on. Raises as it does,
    and StateCorrupt or StateLocked when the journal cannot be told of it.
    """
    return _bounded(lambda: _looked_at(context, data))


def known(context: Context, data: MarketData) -> MarketData:
    """`data` with every quarantined symbol refused. Asks nobody: this is all that scan.py does.

    Raises DataError: VENDOR_BASIS when the vendor is not believed, QUARANTINE_DAMAGED when it is not known who is in,
    CANARY_FAILED when looking has itself gone wrong.
    """
    return _bounded(lambda: _without_the_refused(context, data))


def _bounded(act: Callable[[], T]) -> T:
    """A bug in here is no verdict on the data: nothing is entered on it, and it is told with its trace."""
    try:
        return act()
    except (KobeError, OSError):
        raise  # trouble of the world, that has its own code
    except Exception as error:  # the canaries' boundary: the exits of what is held must go on
        trace = "".join(traceback.format_exception(error))
        logs.error_event("canary_failed", code="CANARY_FAILED", detail=repr(error), traceback=trace)
        logs.count("canaries_failed")
        raise DataError(
            f"the look at the data failed: {error!r}", code="CANARY_FAILED", advice="see logs/errors.jsonl"
        ) from error


def _looked_at(context: Context, data: MarketData) -> MarketData:
    if not context.real_data:
        logs.event("quorum_looked", code="QUORUM_ONE_VENDOR", source=data.source, simulated=True)
        return data
    from data.quality.quarantine import Quarantine

    place = Quarantine(context.home.state)
    try:
        told = _look(context, data, place) if _is_due(place.morning(), data) else None
    except (StateCorrupt, StateLocked) as error:
        raise _unreadable(error) from error
    if told is not None:
        _tell(context, *told)  # outside: trouble with the journal is not trouble with the quarantine
    return _without_the_refused(context, data)


def _without_the_refused(context: Context, data: MarketData) -> MarketData:
    if not context.real_data:
        return data
    from data.quality.quarantine import Quarantine

    place = Quarantine(context.home.state)
    try:
        morning, held = place.morning(), place.held()
    except StateCorrupt as error:
        raise _unreadable(error) from error
    looked_at = None if morning is None else (morning["session"], morning["source"])
    if morning is not None and looked_at == (str(data.session), data.source) and morning["code"] == "VENDOR_BASIS":
        raise DataError(
            f"{data.source} and {morning['second']} differ on {morning['differ']} of {morning['compared']} symbols",
            code="VENDOR_BASIS", advice=f"python scripts/quarantine.py list, then release {data.source} --reason …",
        )  # fmt: skip
    names = frozenset(data.panel.symbols)
    refused = {Symbol(symbol): row.code for symbol, row in held.items() if symbol in names}
    return dataclasses.replace(data, quarantined={**refused, **data.quarantined})


def _unreadable(error: KobeError) -> DataError:
    return DataError(f"the quarantine cannot be read: {error}", code="QUARANTINE_DAMAGED", advice=error.advice)


def _is_due(morning: Mapping[str, Any] | None, data: MarketData) -> bool:
    """Once per session and source. A scan of the past (`--as-of`) is none of today's mornings: it looks at nothing."""
    if morning is None or str(data.session) > str(morning["session"]):
        return True
    return str(data.session) == str(morning["session"]) and data.source != str(morning["source"])


def _look(context: Context, data: MarketData, place: Quarantine) -> tuple[dict[str, Any], dict[str, Held]]:
    """What this session's look came to, and who is newly in; both are in the quarantine's document by then."""
    from data.quality.quorum import ONE_VENDOR, UNKNOWN, judged, wanted
    from scripts import wiring

    store = wiring.store_for(context, data.source)
    suspects = suspects_of(data.panel, data.session, store, context.calendar)
    released = place.released_of(data.session)
    suspects = {symbol: told for symbol, told in suspects.items() if symbol not in released}
    second, code, compared, before = _second(context, data.source), ONE_VENDOR, None, None
    whole = second is not None and _affords_all(context, second, len(data.panel.symbols))
    size = context.settings.data.quorum_sample
    names = wanted(data.panel.symbols, suspects, data.session, size, whole=whole)
    if second is not None and names:
        answers = _ask(context, second, names, data.session, whole=whole)
        code = UNKNOWN
        if answers is not None:
            compared, before = _compare(context, second, store, answers, names, data, bool(suspects))
            code = compared.code(context.settings.data.quorum_vendor_pct)
    codes = {symbol: told[0] for symbol, told in suspects.items()}
    found, cleared = judged(codes, compared, before)
    if code == "VENDOR_BASIS":
        found = {symbol: c for symbol, c in found.items() if symbol in codes}  # the others are the vendor's, not theirs
    words = {**{s: told[1] for s, told in suspects.items()}, **(compared.differ if compared else {})}
    held = _rows(context, data, {s: c for s, c in found.items() if s not in released}, words)
    morning = _morning(data, code, second.name if second else None, compared, len(names), cleared)
    return morning, place.put(held, morning)


def suspects_of(
    panel: Panel, session: date, store: BarStore, calendar: MarketCalendar
) -> dict[str, tuple[str, str]]:  # fmt: skip
    """Symbol -> (code, words). The panel finds who is looked at closely; raw bars, splits and dividends decide."""
    from data.quality import clean, session_days
    from data.quality.detect import LOOK_BACK, SHARED, shared, suspicions

    newest = _newest(panel, session, LOOK_BACK + 1)
    market, restless = _of_all([own for _, own in newest], LOOK_BACK)
    doubted = [symbol for symbol, own in newest if suspicions(own, market=market, restless=restless)]
    ends = dict(newest)
    twins = shared(_rows_of(ends, session), _rows_of(ends, calendar.previous_session(session)))
    splits, dividends = store.read_actions()
    split_of = _by_symbol([(s.symbol, s.ex_date, s.ratio) for s in splits])
    cash_of = _by_symbol([(d.symbol, d.ex_date, d.amount) for d in dividends])
    moved = {s for s, ratios in split_of.items() if session in ratios}  # a split told and not seen shows in raw bars
    found = {symbol: (SHARED, words) for symbol, words in twins.items()}
    for symbol in sorted({*doubted, *(moved & set(panel.symbols))}):
        bars = store.bars(symbol)
        if not len(bars):
            continue
        kept, _ = clean(bars, session_days(calendar, int(bars.dates[0]), session), session)
        told = suspicions(
            kept, ratios=split_of.get(symbol), dividends=cash_of.get(symbol), market=market, restless=restless
        )
        if told:
            found[symbol] = (told[0].code, told[0].detail)
    return found


def _by_symbol(rows: Sequence[tuple[str, date, float]]) -> dict[str, dict[date, float]]:
    found: dict[str, dict[date, float]] = {}
    for symbol, day, value in rows:
        found.setdefault(symbol, {})[day] = value
    return found


def _newest(panel: Panel, session: date, rows: int) -> list[tuple[str, BarColumns]]:
    """The last bars of every symbol that has this session."""
    found = []
    for j, symbol in enumerate(panel.symbols):
        end = int(panel.length[j])
        part = slice(max(0, end - rows), end)
        days = panel.sessions[panel.session_index[part, j]]
        if len(days) and from_day(days[-1]) == session:
            values = (np.asarray(getattr(panel, f)[part, j]) for f in ("open", "high", "low", "close", "volume"))
            found.append((symbol, BarColumns(days, *values)))
    return found


def _of_all(bars: Sequence[BarColumns], sessions: int) -> tuple[float, float]:
    """The middle move of all symbols in the newest session, and how restless that session was."""
    from data.quality.detect import restlessness

    moves = np.full((sessions, len(bars)), np.nan)
    for column, own in enumerate(bars):
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = own.close[1:] / own.close[:-1] - 1.0
        if len(steps):
            moves[-min(len(steps), sessions) :, column] = steps[-sessions:]
    known = moves[-1][np.isfinite(moves[-1])]
    return float(np.median(known)) if known.size else 0.0, restlessness(moves)


# ---------------------------------------------------------------- the second vendor
def _second(context: Context, source: str) -> DailyProvider | None:
    from scripts import wiring

    if not context.settings.data.quorum_sample:
        return None
    others = [p for p in wiring.multi_source(context).providers if p.name != source and not p.simulated]
    return others[0] if others else None


def _affords_all(context: Context, second: DailyProvider, symbols: int) -> bool:
    """Whether the second vendor tells of the whole universe in so few requests that every morning can have it."""
    takes = second.requests_for_two_sessions(symbols)
    return takes is not None and takes <= context.settings.data.quorum_requests


def _ask(
    context: Context, second: DailyProvider, names: Sequence[str], session: date, *, whole: bool
) -> dict[str, BarColumns] | None:  # fmt: skip
    """The last two sessions of these symbols; None when the vendor gives no answer at all."""
    from data.providers.base import ProviderFailure
    from scripts import wiring

    first = context.calendar.previous_session(session)
    multi, found = wiring.multi_source(context), {}
    until = context.clock.monotonic() + context.settings.data.quorum_deadline_s
    try:
        if whole and not second.shared_requests:
            return _grouped(context, second, names, (session, first), until)
        with _hurried(second, context.settings.data.quorum_deadline_s):
            for symbol, answer in second.bars_many([Symbol(s) for s in names], first, session):
                failure = answer if isinstance(answer, ProviderFailure) else None
                multi.note(second, failure)
                if not isinstance(answer, ProviderFailure):
                    found[str(symbol)] = answer
                if context.clock.monotonic() > until:
                    break  # entries wait for this: whom it has not told of is unknown
    except DataError as error:
        logs.event("quorum_failed", code="QUORUM_UNKNOWN", vendor=second.name, detail=str(error))
        return None
    finally:
        multi.flush()
    return found


def _grouped(
    context: Context, second: DailyProvider, names: Sequence[str], sessions: tuple[date, date], until: float
) -> dict[str, BarColumns]:
    """One request a session, the newest first: without the one before, no jump is cleared. Raises ProviderFailure."""
    from core.bars_io import to_day
    from data.providers.base import ProviderFailure
    from scripts import wiring

    multi, told = wiring.multi_source(context), {}
    for session in sessions:
        try:
            with _hurried(second, max(0.1, until - context.clock.monotonic())):
                told[session] = multi.ask(second, lambda day=session: second.grouped_daily(day, [*map(Symbol, names)]))  # type: ignore[misc]
        except ProviderFailure:
            if not told:
                raise
    found = {}
    for symbol in map(Symbol, names):
        rows = [(day, rows[symbol]) for day, rows in sorted(told.items()) if symbol in rows]
        if rows:
            days = np.array([to_day(day) for day, _ in rows], dtype=np.int32)
            found[str(symbol)] = BarColumns(days, *np.array([row for _, row in rows], dtype=np.float64).T)
    return found


@contextlib.contextmanager
def _hurried(vendor: DailyProvider, deadline_s: float) -> Iterator[None]:
    """One request may take no longer than this; a vendor that has no such bound of ours keeps its own."""
    retrier = getattr(vendor, "_retrier", None)
    if retrier is not None:
        retrier.hurry_s = deadline_s
    try:
        yield
    finally:
        if retrier is not None:
            retrier.hurry_s = None


def _compare(
    context: Context, second: DailyProvider, store: BarStore, answers: Mapping[str, BarColumns], names: Sequence[str],
    data: MarketData, doubted: bool,
) -> tuple[Comparison, Comparison | None]:  # fmt: skip
    """Both sessions. Each vendor's closes of the earlier one are told in the later one's shares, by its own splits.

    doubted : nobody is suspected on most mornings, and then the splits are not asked for: one request is all.
    """
    from data.quality.quorum import compare
    from scripts import wiring

    session, providers = data.session, wiring.multi_source(context).providers
    one_exchange = second.one_exchange or any(p.one_exchange for p in providers if p.name == data.source)
    tolerance, previous = context.settings.data.quorum_tolerance_pct, context.calendar.previous_session(session)
    ours = {symbol: store.bars(symbol) for symbol in names}
    newest = compare(
        _rows_of(ours, session), _rows_of(answers, session), tolerance=tolerance, one_exchange=one_exchange
    )
    if not doubted:
        return newest, None
    our_splits = {s.symbol: s.ratio for s in store.read_actions()[0] if s.ex_date == session}
    earlier = compare(
        _rows_of(ours, previous, our_splits),
        _rows_of(answers, previous, _their_splits(context, second, names, session)),
        tolerance=tolerance, ohlc=False,
    )  # fmt: skip
    return newest, earlier


def _their_splits(
    context: Context, second: DailyProvider, names: Sequence[str], session: date
) -> dict[str, float]:  # fmt: skip
    from data.providers.base import NotSupported

    try:
        with _hurried(second, context.settings.data.quorum_deadline_s):
            found = second.splits(session, session, [Symbol(s) for s in names])
    except (DataError, NotSupported):
        return {}  # then a split of that day makes the two differ, and the suspicion stands
    return {s.symbol: s.ratio for s in found if s.ex_date == session}


def _rows_of(
    bars: Mapping[str, BarColumns], session: date, ratios: Mapping[str, float] | None = None
) -> dict[str, Row]:  # fmt: skip
    found: dict[str, Row] = {}
    for symbol, own in bars.items():
        at = np.flatnonzero(own.dates == (session - date(1970, 1, 1)).days)
        if at.size:
            k, scale = int(at[-1]), (ratios or {}).get(symbol, 1.0)
            o, h, low, c = (float(getattr(own, f)[k]) / scale for f in ("open", "high", "low", "close"))
            found[symbol] = (o, h, low, c, float(own.volume[k]))
    return found


# ---------------------------------------------------------------- telling
def _rows(
    context: Context, data: MarketData, found: Mapping[str, str], words: Mapping[str, str]
) -> dict[str, Held]:  # fmt: skip
    from data.quality.quarantine import Held

    since = iso_utc(context.clock.now())
    return {s: Held(code, str(data.session), data.source, words.get(s, ""), since) for s, code in found.items()}


def _morning(
    data: MarketData, code: str, second: str | None, compared: Comparison | None, asked: int, cleared: frozenset[str]
) -> dict[str, Any]:
    differ, agree = (len(compared.differ), len(compared.agree)) if compared is not None else (0, 0)
    return {
        "session": str(data.session), "source": data.source, "second": second, "code": code, "asked": asked,
        "compared": differ + agree, "differ": differ, "cleared": sorted(cleared),
    }  # fmt: skip


def _tell(context: Context, morning: Mapping[str, Any], new: Mapping[str, Held]) -> None:
    """One event for the look, one journal record and one count per symbol for what was taken in."""
    logs.event("quorum_looked", **morning)
    logs.count("quorum_looks", code=morning["code"])
    if morning["code"] == "VENDOR_BASIS":
        logs.error_event("vendor_not_believed", **morning)
    if not new:
        return
    for symbol, held in new.items():
        logs.error_event(
            "symbol_quarantined", code=held.code, symbol=symbol, session=held.session, source=held.source,
            detail=held.detail,
        )  # fmt: skip
        logs.count("symbols_quarantined", code=held.code)
    rows = {symbol: dataclasses.asdict(held) for symbol, held in new.items()}
    if context.home.journal.is_file():
        from scripts import wiring

        wiring.open_journal(context).append("symbols_quarantined", {"symbols": rows, "morning": dict(morning)})
