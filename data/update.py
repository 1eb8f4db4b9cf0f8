"""The daily update: bring the store of one vendor to the last completed session with as few requests as it takes.

One missing session is one grouped request, plus splits, dividends and VIX. Corporate actions are written before the
bars, so that a crash in between leaves a store that is behind, never one that is wrong. A partial, empty or frozen
answer is refused as a whole. Bars that cannot be true are not stored; their symbol is refused with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np

from core.bars_io import BarColumns, Dividend, Split
from core.clock import Clock
from core.domain import Symbol
from core.errors import DataError
from core.files import write_atomic
from core.market_calendar import NEW_YORK
from data.providers.base import (
    DailyProvider,
    DatedRow,
    NotSupported,
    ProviderFailure,
    Row,
    bar_problem,
    between,
    columns,
    day_date,
    day_number,
    masked,
)
from data.providers.multi_source import MultiSource
from data.vix import VixStore, plausible

Progress = Callable[[int, int, str], None]
"""(done, total, what): for a progress line; called after each vendor answer."""

NO_BAR = "NO_BAR"
_FLUSH_SESSIONS = 25
_FLUSH_SYMBOLS = 100
_ACTION_OVERLAP = timedelta(days=10)  # actions announced late are still found
_FEWEST_TO_CALL_FROZEN = 5
_OLD_SESSION_FRACTION = 0.5  # of the newest: fewer names traded years ago
_RECENT_SESSIONS = 10
_LAST_CLOSES = "_last_closes.json"


class Store(Protocol):
    """The part of data.store.BarStore that an update needs. Files may vanish between any two calls."""

    def append(self, symbol: Symbol, bars: BarColumns) -> None: ...
    def last_session(self, symbol: Symbol) -> date | None: ...
    def write_actions(self, splits: Sequence[Split], dividends: Sequence[Dividend]) -> None: ...
    def read_actions(self) -> tuple[Sequence[Split], Sequence[Dividend]]: ...


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

    @property
    def newest(self) -> date:
        return self.sessions[-1]


def update(
    store_for: Callable[[str], Store],
    multi: MultiSource,
    symbols: Collection[Symbol],
    sessions: Sequence[date],
    clock: Clock,
    *,
    cache: Path,
    progress: Progress | None = None,
    min_coverage: float = 0.90,
    workers: int = 1,
) -> UpdateReport:
    """Bring the first vendor that can to the last of `sessions` (completed sessions wanted, ascending).

    No request is made when a vendor's store already has that session for `min_coverage` of the symbols (0..1).
    cache : the folder that holds <vendor>/. Raises DataError ALL_PROVIDERS_FAILED; ValueError for empty arguments.
    """
    wanted, days = tuple(sorted(set(symbols))), tuple(sorted(set(sessions)))
    if not wanted or not days:
        raise ValueError("update needs symbols and sessions")
    current = _already_current(store_for, multi, wanted, days[-1], min_coverage, cache)
    if current is not None:
        return current
    before = sum(provider.requests for provider in multi.providers)
    until = clock.now().astimezone(NEW_YORK).date()

    def attempt(provider: DailyProvider) -> tuple[_Work, _Plan]:
        work = _Work(
            provider, store_for(provider.name), multi, wanted, days, until, min_coverage, cache / provider.name,
            progress or (lambda done, total, what: None), workers,
        )  # fmt: skip
        return work, _run(work)

    provider, (work, plan), failed_before = multi.attempt(attempt)
    vix = _update_vix(multi, provider, cache, days[-1])
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
        failed_before=failed_before,
    )


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
        refused = {s: NO_BAR for s in symbols if (last := store.last_session(s)) is None or last < newest}
        coverage = 1 - len(refused) / len(symbols)
        if coverage >= min_coverage:
            return UpdateReport(
                source=provider.name, simulated=provider.simulated, session=newest, requests=0, refused=refused,
                coverage=coverage, vix=VixStore(cache, provider.name).level(newest),
            )  # fmt: skip
    return None


# ---------------------------------------------------------------- one vendor
def _run(work: _Work) -> _Plan:
    if work.provider.basis != "raw":
        raise DataError(f"{work.provider.name} has adjusted prices, the store holds raw ones", code="ADJUSTED_BASIS")
    plan = _plan(work)
    if not work.provider.actions_with_bars:
        _fetch_actions(work, _actions_since(work, plan))
    if len(plan.missing) + len(plan.lagging) <= len(plan.behind):
        try:
            _grouped(work, plan)
        except NotSupported:
            _one_by_one(work, plan.lasts, plan.behind)
    else:
        _one_by_one(work, plan.lasts, plan.behind)
    _require_coverage(work)
    return plan


def _plan(work: _Work) -> _Plan:
    """The bulk is the half of the symbols that are furthest: what they lack is fetched for all at once."""
    lasts = {symbol: work.store.last_session(symbol) for symbol in work.symbols}
    behind = tuple(s for s, last in lasts.items() if last is None or last < work.newest)
    work.have.update(set(work.symbols) - set(behind))
    furthest = sorted((last for last in lasts.values() if last is not None), reverse=True)
    half = (len(work.symbols) + 1) // 2
    frontier = furthest[half - 1] if len(furthest) >= half else None
    if frontier is None:
        return _Plan(lasts, behind, work.sessions, ())
    # When most are current (but fewer than asked), the rest is fetched one by one.
    missing = tuple(session for session in work.sessions if session > frontier)
    lagging = tuple(s for s in behind if (last := lasts[s]) is None or last < frontier)
    return _Plan(lasts, behind, missing, lagging)


def _actions_since(work: _Work, plan: _Plan) -> date:
    """Everything when a symbol is new or nothing is stored yet; else a few days before the first missing session."""
    splits, dividends = work.store.read_actions()
    starts = [last for symbol in plan.behind if (last := plan.lasts[symbol]) is not None]
    if len(starts) < len(plan.behind) or not (splits or dividends):
        return work.sessions[0]
    return max(work.sessions[0], min(starts) - _ACTION_OVERLAP)


def _fetch_actions(work: _Work, since: date) -> None:
    provider, multi = work.provider, work.multi
    splits = multi.ask(provider, lambda: provider.splits(since, work.until, work.symbols))
    work.progress(1, 2, "splits")
    dividends = multi.ask(provider, lambda: provider.dividends(since, work.until, work.symbols))
    work.progress(2, 2, "dividends")
    _write_actions(work.store, splits, dividends)


def _write_actions(store: Store, splits: Sequence[Split], dividends: Sequence[Dividend]) -> None:
    """Merge by symbol and ex-date; the newer word wins. Nothing is written when nothing is new."""
    old_splits, old_dividends = store.read_actions()
    all_splits = {(row.symbol, row.ex_date): row for row in (*old_splits, *splits)}
    all_dividends = {(row.symbol, row.ex_date): row for row in (*old_dividends, *dividends)}
    if splits or dividends:
        store.write_actions(
            [all_splits[key] for key in sorted(all_splits)], [all_dividends[key] for key in sorted(all_dividends)]
        )


# ---------------------------------------------------------------- grouped
def _grouped(work: _Work, plan: _Plan) -> None:
    """One request per missing session; then one per symbol that has a hole before them and trades again."""
    needed = set(plan.behind)
    alone = set(plan.lagging)
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
            if symbol in needed - alone and (last is None or session > last):
                pending.setdefault(symbol, []).append((session, *row))
        if place % _FLUSH_SESSIONS == 0:
            _flush(work, pending)
            pending = {}
    _flush(work, pending)
    for symbol in plan.behind:
        if symbol not in answer and plan.missing:
            work.refused.setdefault(symbol, NO_BAR)  # not traded: do not ask again one by one
    again = tuple(s for s in plan.lagging if s not in work.refused)
    _one_by_one(work, plan.lasts, again)
    if plan.missing:
        _remember_closes(work, closes)


def _good_rows(work: _Work, session: date, answer: Mapping[Symbol, Row]) -> dict[Symbol, Row]:
    good: dict[Symbol, Row] = {}
    for symbol, row in answer.items():
        problem = bar_problem(row)
        if problem is None:
            good[symbol] = row
        elif session == work.newest:
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
            f"{work.provider.name}: {rows} usable bars for {session}, at least {least:.0f} of {len(work.symbols)} expected",
            code="DATA_PARTIAL",
        )


def _refuse_frozen(work: _Work, session: date, before: Mapping[Symbol, float], now: Mapping[Symbol, float]) -> None:
    common = [symbol for symbol in now if symbol in before]
    if len(common) >= _FEWEST_TO_CALL_FROZEN and all(now[symbol] == before[symbol] for symbol in common):
        raise DataError(
            f"{work.provider.name}: all {len(common)} closes of {session} equal the session before", code="DATA_FROZEN"
        )


def _flush(work: _Work, pending: Mapping[Symbol, list[DatedRow]]) -> None:
    for symbol, rows in pending.items():
        _append(work, symbol, columns(rows))


def _append(work: _Work, symbol: Symbol, bars: BarColumns) -> None:
    work.store.append(symbol, bars)
    if bars.dates.size and day_date(int(bars.dates[-1])) == work.newest:
        work.have.add(symbol)


# ---------------------------------------------------------------- one by one
def _one_by_one(work: _Work, lasts: Mapping[Symbol, date | None], symbols: tuple[Symbol, ...]) -> None:
    """Each symbol from its own last session on. Symbols with the same start share requests where the vendor can."""
    starts: dict[date, list[Symbol]] = {}
    for symbol in symbols:
        last = lasts[symbol]
        start = work.sessions[0] if last is None else max(work.sessions[0], last + timedelta(days=1))
        starts.setdefault(start, []).append(symbol)
    done, chunk = 0, dict[Symbol, BarColumns]()
    short = all((work.newest - start).days <= _RECENT_SESSIONS for start in starts)
    for symbol, bars in _answers(work, starts):
        done += 1
        work.progress(done, len(symbols), f"symbol {symbol}")
        if bars is not None:
            chunk[symbol] = bars
        if len(chunk) >= _FLUSH_SYMBOLS and not short:  # a short update is judged as a whole before any of it is stored
            _store_chunk(work, chunk)
            chunk = {}
    if short and len(symbols) > len(work.symbols) // 2:
        _judge(work, chunk)
    _store_chunk(work, chunk)


def _answers(work: _Work, starts: Mapping[date, list[Symbol]]) -> Iterator[tuple[Symbol, BarColumns | None]]:
    wanted = {day_number(session) for session in work.sessions}
    for start, names in sorted(starts.items()):
        try:
            for symbol, answer in work.provider.bars_many(names, start, work.newest, workers=work.workers):
                failure = answer if isinstance(answer, ProviderFailure) else None
                work.multi.note(work.provider, failure)
                if isinstance(answer, ProviderFailure):
                    work.refused[symbol] = NO_BAR if answer.kind == "unknown_symbol" else answer.code
                    yield symbol, None
                else:
                    yield symbol, _good_bars(work, symbol, answer, wanted)
        except ProviderFailure as failure:
            work.multi.note(work.provider, failure)
            raise


def _good_bars(work: _Work, symbol: Symbol, bars: BarColumns, wanted: set[int]) -> BarColumns:
    """Bars of wanted sessions that can be true. A symbol whose newest bar is missing or broken is refused today."""
    inside = between(bars, day_number(work.sessions[0]), day_number(work.newest))
    problems = [
        bar_problem(row)
        for row in zip(
            *(column.tolist() for column in (inside.open, inside.high, inside.low, inside.close, inside.volume)),
            strict=True,
        )
    ]
    keep = [p is None and int(d) in wanted for p, d in zip(problems, inside.dates, strict=True)]
    newest = day_number(work.newest)
    if not inside.dates.size or inside.dates[-1] != newest:
        work.refused[symbol] = NO_BAR
    elif problems[-1] is not None:
        work.refused[symbol] = problems[-1]
    return masked(inside, np.array(keep, dtype=np.bool_))


def _judge(work: _Work, chunk: Mapping[Symbol, BarColumns]) -> None:
    newest = day_number(work.newest)
    fresh = {s: float(b.close[-1]) for s, b in chunk.items() if b.dates.size and int(b.dates[-1]) == newest}
    covered = len(work.have | set(fresh))
    if covered < work.min_coverage * len(work.symbols):
        raise DataError(
            f"{work.provider.name}: {covered} of {len(work.symbols)} symbols have {work.newest}", code="DATA_PARTIAL"
        )
    _refuse_frozen(work, work.newest, _stored_closes(work, (work.newest,)), fresh)
    _remember_closes(work, fresh)


def _store_chunk(work: _Work, chunk: Mapping[Symbol, BarColumns]) -> None:
    if work.provider.actions_with_bars and chunk:
        since, names = work.sessions[0], tuple(chunk)
        splits = work.provider.splits(since, work.until, names)
        _write_actions(work.store, splits, work.provider.dividends(since, work.until, names))
    for symbol, bars in chunk.items():
        if bars.dates.size:
            _append(work, symbol, bars)
            work.backfilled.append(symbol)


def _require_coverage(work: _Work) -> None:
    """What the vendor delivered, together with what was there, must cover the universe."""
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
    """Ask the vendor of the bars first, then the others; None when nobody says. A failure here refuses nothing by itself."""
    store = VixStore(cache, source.name)
    known = store.level(session)
    if known is not None:
        return known
    for provider in (source, *(other for other in multi.providers if other is not source)):
        try:
            level = plausible(provider.vix_close(session))
        except ProviderFailure as failure:
            if failure.kind != "not_entitled":  # a plan without indices is a normal state, not a failing vendor
                multi.note(provider, failure)
            continue
        if level is not None:
            store.put(session, level, provider.name)
            return level
    return None
