"""The daily update: bring the store of one vendor to the last completed session with as few requests as it takes.

One missing session is one grouped request, plus splits, dividends and VIX. Corporate actions are written before the
bars, so that a crash in between leaves a store that is behind, never one that is wrong. A partial, empty or frozen
answer is refused as a whole. Bars that cannot be true are not stored; their symbol is refused with the reason.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np

from core import logs
from core.bars_io import BarColumns, Days, Dividend, Split, from_day, to_day
from core.clock import Clock
from core.domain import Symbol
from core.errors import DataError
from core.files import write_atomic
from core.market_calendar import NEW_YORK
from core.paths import home
from data.providers.base import (
    DailyProvider,
    DatedRow,
    FailureKind,
    NotSupported,
    ProviderFailure,
    Row,
    SessionCalendar,
    bar_problem,
    between,
    columns,
)
from data.providers.multi_source import MultiSource
from data.quality import NO_BAR, clean
from data.store import Revision
from data.vix import VixStore, plausible

Progress = Callable[[int, int, str], None]
"""(done, total, what): for a progress line; called after each vendor answer."""

_FLUSH_SESSIONS = 100
_FLUSH_SYMBOLS = 100
_ACTION_OVERLAP = timedelta(days=10)  # actions announced late are still found
_FEWEST_TO_CALL_FROZEN = 5
_OLD_SESSION_FRACTION = 0.5  # of the newest: fewer names traded years ago
_RECENT_SESSIONS = 10
_LAST_CLOSES = "_last_closes.json"
_CLEARED_TRIES = 3
_LOOK_AGAIN = 5  # sessions


class Store(Protocol):
    """The part of data.store.BarStore that an update needs. Files may vanish between any two calls."""

    def append(self, symbol: str, bars: BarColumns) -> Sequence[Revision]: ...
    def append_session(self, session: date, rows: Mapping[str, Row]) -> Sequence[Revision]: ...
    def last_sessions(self, symbols: Iterable[str]) -> Mapping[str, date]: ...
    def write_actions(self, splits: Sequence[Split], dividends: Sequence[Dividend]) -> None: ...
    def read_actions(self) -> tuple[Sequence[Split], Sequence[Dividend]]: ...


class _CacheCleared(Exception):
    """Files we were about to extend are gone: what was planned no longer fits, plan again."""


@dataclass(frozen=True, kw_only=True)
class UpdateReport:
    """What one update did. `refused` holds every symbol that must not be traded on this data, with its reason code."""

    source: str
    simulated: bool
    session: date
    requests: int  # HTTP requests of all vendors tried
    sessions_added: tuple[date, ...] = ()
    symbols_backfilled: tuple[Symbol, ...] = ()
    refused: Mapping[Symbol, str] = field(default_factory=dict)
    coverage: float = 0.0  # share of the symbols that have the session's bar, 0..1
    vix: float | None = None
    revisions: int = 0  # stored bars of which the vendor says something else now; the first word is kept
    failed_before: tuple[str, ...] = ()  # vendors tried first, each with its reason


@dataclass(frozen=True)
class _Plan:
    """Which sessions the bulk of the symbols lacks, and which symbols lack more than that."""

    lasts: Mapping[Symbol, date | None]
    behind: tuple[Symbol, ...]  # without the newest session
    missing: tuple[date, ...]  # sessions to fetch for the bulk
    lagging: tuple[Symbol, ...]  # with a hole before the first of `missing`: fetched one by one


@dataclass
class _Work:
    """One vendor, one update."""

    provider: DailyProvider
    store: Store
    multi: MultiSource
    symbols: tuple[Symbol, ...]
    sessions: tuple[date, ...]
    until: date  # actions up to this New York date
    min_coverage: float
    folder: Path
    progress: Progress
    workers: int
    refused: dict[Symbol, str] = field(default_factory=dict)
    backfilled: list[Symbol] = field(default_factory=list)
    have: set[Symbol] = field(default_factory=set)  # symbols with the newest session
    actions_seen: bool = False  # the vendor named at least one split or dividend
    revised: list[Revision] = field(default_factory=list)

    @property
    def newest(self) -> date:
        return self.sessions[-1]


def update(
    store_for: Callable[[str], Store],
    multi: MultiSource,
    symbols: Collection[Symbol],
    sessions: Sequence[date],
    calendar: SessionCalendar,
    clock: Clock,
    progress: Progress | None = None,
    *,
    cache: Path | None = None,
    min_coverage: float = 0.90,
    workers: int = 1,
) -> UpdateReport:
    """Bring the first vendor that can to the last completed one of `sessions` (those wanted, ascending).

    When a vendor's store already has that session for `min_coverage` of the symbols (0..1) no request is made, unless
    the VIX of that session is still unknown: then that is asked for again.
    cache : the folder that holds <vendor>/, default KOBE_HOME/cache. Raises DataError ALL_PROVIDERS_FAILED, or
    CACHE_CLEARED when the files keep vanishing; ValueError when there is nothing to update.
    """
    last = calendar.last_completed(clock.now())
    wanted, days = tuple(sorted(set(symbols))), tuple(sorted(day for day in set(sessions) if day <= last))
    if not wanted or not days:
        raise ValueError("update needs symbols and completed sessions")
    cache = cache if cache is not None else home().cache
    before = sum(provider.requests for provider in multi.providers)
    current = _already_current(store_for, multi, wanted, days[-1], min_coverage, cache)
    if current is not None:
        return replace(current, requests=sum(provider.requests for provider in multi.providers) - before)
    until = clock.now().astimezone(NEW_YORK).date()

    def attempt(provider: DailyProvider) -> tuple[_Work, _Plan]:
        return _until_stored(
            lambda: _Work(
                provider, store_for(provider.name), multi, wanted, days, until, min_coverage, cache / provider.name,
                progress or (lambda done, total, what: None), workers,
            )
        )  # fmt: skip

    provider, (work, plan), failed_before = multi.attempt(attempt)
    vix = _update_vix(multi, provider, cache, days[-1])
    _tell_revisions(provider.name, work.revised)
    return UpdateReport(
        source=provider.name,
        simulated=provider.simulated,
        session=days[-1],
        requests=sum(p.requests for p in multi.providers) - before,
        sessions_added=plan.missing,
        symbols_backfilled=tuple(sorted(work.backfilled)),
        refused=dict(sorted(work.refused.items())),
        coverage=len(work.have) / len(wanted),
        vix=vix,
        revisions=len(work.revised),
        failed_before=failed_before,
    )


def _until_stored(begin: Callable[[], _Work]) -> tuple[_Work, _Plan]:
    """The cache may be cleared at any moment, also between fetching and storing: then plan again, a few times."""
    for _ in range(_CLEARED_TRIES):
        work = begin()
        try:
            return work, _run(work)
        except _CacheCleared:
            continue
    raise DataError("the cache is being cleared again and again", code="CACHE_CLEARED", advice="run again")


def _already_current(
    store_for: Callable[[str], Store],
    multi: MultiSource,
    symbols: tuple[Symbol, ...],
    newest: date,
    min_coverage: float,
    cache: Path,
) -> UpdateReport | None:
    for provider in multi.providers:
        if provider.basis != "raw":
            continue
        store = store_for(provider.name)
        lasts = store.last_sessions(symbols)
        refused = {s: NO_BAR for s in symbols if (last := lasts.get(s)) is None or last < newest}
        coverage = 1 - len(refused) / len(symbols)
        if coverage >= min_coverage:
            return UpdateReport(
                source=provider.name, simulated=provider.simulated, session=newest, requests=0, refused=refused,
                coverage=coverage, vix=_update_vix(multi, provider, cache, newest),
            )  # fmt: skip
    return None


# ---------------------------------------------------------------- one vendor
def _run(work: _Work) -> _Plan:
    if work.provider.basis != "raw":
        raise DataError(f"{work.provider.name} has adjusted prices, the store holds raw ones", code="ADJUSTED_BASIS")
    plan = _plan(work)
    if not work.provider.actions_with_bars:
        # Those with a hole may be dead for ever: they do not make every day's question a long one.
        bulk = set(plan.behind) - set(plan.lagging) if plan.missing else plan.behind
        _fetch_actions(work, _actions_since(work, plan.lasts, bulk))
    if plan.missing and not work.provider.shared_requests:
        try:
            _grouped(work, plan)
        except NotSupported:
            _one_by_one(work, plan.lasts, plan.behind)
    else:
        _one_by_one(work, plan.lasts, plan.behind)
    _require_coverage(work)
    return plan


def _plan(work: _Work) -> _Plan:
    """Choose how many sessions to fetch for all at once, so that these and the one-by-one rest are fewest requests.

    A candidate is the newest session of some symbol: what is after it is fetched grouped, and each symbol with a hole
    before it alone. The newest session itself as candidate means: everything one by one.
    """
    known = work.store.last_sessions(work.symbols)
    lasts: dict[Symbol, date | None] = {symbol: known.get(symbol) for symbol in work.symbols}
    behind = tuple(s for s, last in lasts.items() if last is None or last < work.newest)
    work.have.update(set(work.symbols) - set(behind))
    ends = sorted(last for last in lasts.values() if last is not None)
    best_cost, best = len(behind), work.newest
    for frontier in sorted({*(min(end, work.newest) for end in ends), date.min}):
        first = bisect_right(work.sessions, frontier)
        holes = 0 if frontier == date.min else len(work.symbols) - len(ends) + bisect_left(ends, frontier)
        cost = len(work.sessions) - first + holes
        if cost < best_cost or (cost == best_cost and best == work.newest):
            best_cost, best = cost, frontier
    missing = tuple(session for session in work.sessions if session > best)
    lagging = tuple(s for s in behind if best != date.min and ((last := lasts[s]) is None or last < best))
    return _Plan(lasts, behind, missing, lagging)


def _actions_since(work: _Work, lasts: Mapping[Symbol, date | None], names: Collection[Symbol]) -> date:
    """Everything when one of `names` is new or nothing is stored yet; else from a few days before they end."""
    ends = [last for name in names if (last := lasts[name]) is not None]
    if not ends or len(ends) < len(names) or not any(work.store.read_actions()):
        return work.sessions[0]
    return max(work.sessions[0], min(ends) - _ACTION_OVERLAP)


def _fetch_actions(work: _Work, since: date) -> None:
    provider, multi = work.provider, work.multi
    splits = multi.ask(provider, lambda: provider.splits(since, work.until, work.symbols))
    work.progress(1, 2, "splits")
    dividends = multi.ask(provider, lambda: provider.dividends(since, work.until, work.symbols))
    work.progress(2, 2, "dividends")
    _write_actions(work, splits, dividends)


def _write_actions(work: _Work, splits: Sequence[Split], dividends: Sequence[Dividend]) -> None:
    """Add what is not known yet by symbol and ex-date: a second word on the same action is not a second action."""
    old_splits, old_dividends = work.store.read_actions()
    split_keys = {(row.symbol, row.ex_date) for row in old_splits}
    dividend_keys = {(row.symbol, row.ex_date) for row in old_dividends}
    new_splits = [row for row in splits if (row.symbol, row.ex_date) not in split_keys]
    new_dividends = [row for row in dividends if (row.symbol, row.ex_date) not in dividend_keys]
    if new_splits or new_dividends:
        work.store.write_actions(new_splits, new_dividends)
    work.actions_seen = work.actions_seen or bool(splits or dividends)


# ---------------------------------------------------------------- grouped
def _grouped(work: _Work, plan: _Plan) -> None:
    """One request per missing session; then one per symbol that has a hole before them and trades again."""
    bulk = set(plan.behind) - set(plan.lagging)
    closes = _stored_closes(work, plan.missing)
    counts: list[int] = []
    pending: dict[Symbol, list[DatedRow]] = {}
    answer: Mapping[Symbol, Row] = {}
    for place, session in enumerate(plan.missing, start=1):
        answer = work.multi.ask(work.provider, lambda day=session: work.provider.grouped_daily(day, work.symbols))  # type: ignore[misc]
        work.progress(place, len(plan.missing), f"session {session}")
        good = _good_rows(work, session, answer)
        fresh = {symbol: row[3] for symbol, row in good.items()}
        _refuse_frozen(work, session, closes, fresh)
        _require_rows(work, session, len(good), counts, recent=len(plan.missing) - place < _RECENT_SESSIONS)
        closes = fresh
        for symbol, row in good.items():
            last = plan.lasts[symbol]
            if symbol in bulk and (last is None or session > last):
                pending.setdefault(symbol, []).append((session, *row))
        if place % _FLUSH_SESSIONS == 0:
            _flush(work, plan.lasts, pending)
            pending = {}
    _flush(work, plan.lasts, pending)
    for symbol in plan.behind:
        if symbol not in answer:
            work.refused.setdefault(symbol, NO_BAR)  # not traded: do not ask again one by one
    again = tuple(s for s in plan.lagging if s not in work.refused)
    if again and not work.provider.actions_with_bars:
        _fetch_actions(work, _actions_since(work, plan.lasts, again))
    _one_by_one(work, plan.lasts, again)
    _remember_closes(work, closes)


def _good_rows(work: _Work, session: date, answer: Mapping[Symbol, Row]) -> dict[Symbol, Row]:
    good: dict[Symbol, Row] = {}
    for symbol, row in answer.items():
        problem = bar_problem(row)
        if problem is None:
            good[symbol] = row
            continue
        logs.count("bars_quarantined", code=problem, source=work.provider.name)
        if session == work.newest:
            work.refused[symbol] = problem
    return good


def _require_rows(work: _Work, session: date, rows: int, counts: list[int], *, recent: bool) -> None:
    """A page that lost its second half looks like a success; the number of rows tells."""
    counts.append(rows)
    if recent and session == work.newest:
        least = work.min_coverage * len(work.symbols)
    elif recent:
        least = _OLD_SESSION_FRACTION * len(work.symbols)
    else:
        least = _OLD_SESSION_FRACTION * max(counts)
    if rows < least:
        raise DataError(
            f"{work.provider.name}: {rows} usable bars for {session}, at least {least:.0f} expected",
            code="DATA_PARTIAL",
        )


def _refuse_frozen(work: _Work, session: date, before: Mapping[Symbol, float], now: Mapping[Symbol, float]) -> None:
    common = [symbol for symbol in now if symbol in before]
    if len(common) >= _FEWEST_TO_CALL_FROZEN and all(now[symbol] == before[symbol] for symbol in common):
        raise DataError(
            f"{work.provider.name}: all {len(common)} closes of {session} equal the session before", code="DATA_FROZEN"
        )


def _flush(work: _Work, lasts: Mapping[Symbol, date | None], pending: Mapping[Symbol, list[DatedRow]]) -> None:
    """Store sessions fetched for all. Most days that is one session, and then one write for all symbols."""
    _require_files(work, [symbol for symbol in pending if lasts[symbol] is not None])
    days = {row[0] for rows in pending.values() for row in rows}
    if len(days) == 1:
        work.revised += work.store.append_session(days.pop(), {s: rows[0][1:] for s, rows in pending.items()})
    else:
        for symbol, rows in pending.items():
            work.revised += work.store.append(symbol, columns(rows))
    work.have.update(symbol for symbol, rows in pending.items() if rows[-1][0] == work.newest)


def _require_files(work: _Work, symbols: Collection[Symbol]) -> None:
    """A series begun in the middle of its history would look complete for ever: extend only what is still there."""
    if len(work.store.last_sessions(symbols)) < len(symbols):
        raise _CacheCleared


# ---------------------------------------------------------------- one by one
def _one_by_one(work: _Work, lasts: Mapping[Symbol, date | None], symbols: tuple[Symbol, ...]) -> None:
    """Each symbol from its own last session on. Symbols with the same start share requests where the vendor can."""
    starts = _starts(work, lasts, symbols)
    # A short update is judged as a whole before any of it is stored.
    short = all((work.newest - start).days <= _RECENT_SESSIONS for start in starts)
    chunk: dict[Symbol, BarColumns] = {}
    for done, (symbol, bars) in enumerate(_answers(work, starts), start=1):
        work.progress(done, len(symbols), f"symbol {symbol}")
        if bars is not None:
            chunk[symbol] = bars
        if len(chunk) >= _FLUSH_SYMBOLS and not short:
            _store_chunk(work, lasts, chunk)
            chunk = {}
    if short and len(symbols) > len(work.symbols) // 2:
        _judge(work, chunk)
    _store_chunk(work, lasts, chunk)


def _starts(work: _Work, lasts: Mapping[Symbol, date | None], symbols: tuple[Symbol, ...]) -> dict[date, list[Symbol]]:
    starts: dict[date, list[Symbol]] = {}
    for symbol in symbols:
        last = lasts[symbol]
        start = work.sessions[0] if last is None else max(work.sessions[0], _again_from(work, last))
        starts.setdefault(start, []).append(symbol)
    if work.provider.shared_requests and len(starts) > 2:  # the many, and all others together from the earliest on
        most = max(starts, key=lambda day: (len(starts[day]), day))
        rest = {day: names for day, names in starts.items() if day != most}
        starts = {most: starts[most], min(rest): [symbol for names in rest.values() for symbol in names]}
    return starts


def _again_from(work: _Work, last: date) -> date:
    """A few stored sessions are asked for again, at no further request: so that a revision shows (D25)."""
    return work.sessions[max(0, bisect_right(work.sessions, last) - _LOOK_AGAIN)]


def _tell_revisions(source: str, revised: Sequence[Revision]) -> None:
    if revised:
        told = [f"{r.symbol} {r.session} close {r.ours[3]:g}, now {r.theirs[3]:g}" for r in revised[:5]]
        logs.event("bars_revised", code="BARS_REVISED", source=source, bars=len(revised), examples=told)
        logs.count("bars_revised", len(revised), source=source)


def _answers(work: _Work, starts: Mapping[date, list[Symbol]]) -> Iterator[tuple[Symbol, BarColumns | None]]:
    known = np.array([to_day(session) for session in work.sessions], dtype=np.int32)
    for start, names in sorted(starts.items()):
        try:
            for symbol, answer in work.provider.bars_many(names, start, work.newest, workers=work.workers):
                failure = answer if isinstance(answer, ProviderFailure) else None
                work.multi.note(work.provider, failure)
                if isinstance(answer, ProviderFailure):
                    unknown = answer.kind is FailureKind.UNKNOWN_SYMBOL
                    work.refused[symbol] = NO_BAR if unknown else answer.code
                    yield symbol, None
                else:
                    yield symbol, _good_bars(work, symbol, answer, known)
        except ProviderFailure as failure:
            work.multi.note(work.provider, failure)
            raise


def _good_bars(work: _Work, symbol: Symbol, bars: BarColumns, known: Days) -> BarColumns:
    """Bars of wanted sessions that can be true. A symbol whose newest bar is missing or broken is refused today."""
    kept, flags = clean(between(bars, int(known[0]), int(known[-1])), known, work.newest)
    for flag in flags:
        logs.count("bars_quarantined", code=flag.code, source=work.provider.name)
    if not len(kept) or int(kept.dates[-1]) != int(known[-1]):
        work.refused[symbol] = next((flag.code for flag in flags if flag.session == work.newest), NO_BAR)
    return kept


def _judge(work: _Work, chunk: Mapping[Symbol, BarColumns]) -> None:
    newest = to_day(work.newest)
    fresh = {s: float(b.close[-1]) for s, b in chunk.items() if b.dates.size and int(b.dates[-1]) == newest}
    covered = len(work.have | set(fresh))
    if covered < work.min_coverage * len(work.symbols):
        raise DataError(
            f"{work.provider.name}: {covered} of {len(work.symbols)} symbols have {work.newest}", code="DATA_PARTIAL"
        )
    _refuse_frozen(work, work.newest, _stored_closes(work, (work.newest,)), fresh)
    _remember_closes(work, fresh)


def _store_chunk(work: _Work, lasts: Mapping[Symbol, date | None], chunk: Mapping[Symbol, BarColumns]) -> None:
    if work.provider.actions_with_bars and chunk:
        since, names = work.sessions[0], tuple(chunk)
        splits = work.provider.splits(since, work.until, names)
        _write_actions(work, splits, work.provider.dividends(since, work.until, names))
    _require_files(work, [symbol for symbol in chunk if lasts[symbol] is not None])
    for symbol, bars in chunk.items():
        if not len(bars):
            continue
        work.revised += work.store.append(symbol, bars)
        before = lasts[symbol]
        if before is None or int(bars.dates[-1]) > to_day(before):
            work.backfilled.append(symbol)
        if from_day(int(bars.dates[-1])) == work.newest:
            work.have.add(symbol)


def _require_coverage(work: _Work) -> None:
    """What the vendor delivered, together with what was there, must cover the universe, and still be on disk."""
    stored = work.store.last_sessions(work.have)
    if any((last := stored.get(symbol)) is None or last < work.newest for symbol in work.have):
        raise _CacheCleared
    if work.actions_seen and not any(work.store.read_actions()):
        raise _CacheCleared
    if len(work.have) < work.min_coverage * len(work.symbols):
        raise DataError(
            f"{work.provider.name}: {len(work.have)} of {len(work.symbols)} symbols have {work.newest}",
            code="DATA_PARTIAL",
        )


# ---------------------------------------------------------------- frozen feed, VIX
def _stored_closes(work: _Work, missing: Sequence[date]) -> dict[Symbol, float]:
    """The closes of the last update if they are of the session just before `missing`; {} = nothing to compare with."""
    try:
        document = json.loads((work.folder / _LAST_CLOSES).read_bytes())
        session, closes = date.fromisoformat(document["session"]), document["closes"]
        known = {Symbol(symbol): float(close) for symbol, close in closes.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return known if missing and session < missing[0] else {}


def _remember_closes(work: _Work, closes: Mapping[Symbol, float]) -> None:
    document = {"session": str(work.newest), "closes": closes}
    write_atomic(work.folder / _LAST_CLOSES, json.dumps(document, sort_keys=True).encode(), durable=False)


def _update_vix(multi: MultiSource, source: DailyProvider, cache: Path, session: date) -> float | None:
    """Ask the vendor of the bars first, then the others; None when nobody says, and that refuses nothing by itself."""
    store = VixStore(cache, source.name)
    known = store.level(session)
    if known is not None:
        return known
    for provider in (source, *(other for other in multi.providers if other is not source)):
        try:
            level = plausible(provider.vix_close(session))
        except ProviderFailure as failure:
            if failure.kind is not FailureKind.NOT_ENTITLED:  # a plan without indices is a normal state
                multi.note(provider, failure)
            continue
        if level is not None:
            multi.note(provider, None)
            multi.flush()
            store.put(session, level, provider.name)
            return level
    multi.flush()
    return None
