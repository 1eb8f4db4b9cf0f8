"""Recorded days against what is known today: every decision three times, and a cause for each that is not the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from core.bars_io import BarColumns
from core.domain import OrderIntent, Purpose, Symbol
from core.errors import DataError, KobeError
from core.panel import Panel, snapshot_sha256
from data.vix import VixStore
from execution.ledger import new_york_day
from portfolio.backtest.parity import (
    Cause,
    Change,
    Difference,
    Group,
    bar_changes,
    compare,
    value_changes,
    with_leaf,
)
from scripts import wiring
from scripts.recomputing import Happened, Inputs, Kept, RecordedDay, Row, params_from, read_day, settings_from
from scripts.recording import calendar_value, earnings_value, inputs_folder, params_value, settings_value
from scripts.redeciding import Again, recorded_decisions, recorded_protections, symbol_of

if TYPE_CHECKING:
    from core.journal import Record

SYMBOLS_ASKED = 40  # symbols with changed bars that are moved alone; of more, each answers for itself
NO_DECISION = frozenset({"MARKET_CLOSED"})
BY_CODE: Mapping[str, Cause] = {
    "KILL_SWITCH": Cause.KILL_SWITCH, "STOPPING": Cause.MANUAL, "UNAUTHORIZED": Cause.BROKER,
    "BROKER_DOWN": Cause.BROKER, "RATE_LIMITED": Cause.BROKER, "QUOTES_UNAVAILABLE": Cause.QUOTE,
    "BROKER_REJECTED": Cause.ORDER_REJECTED, "CLOCK_DISAGREES": Cause.BROKER,
    **dict.fromkeys(  # the bars of the session were not there, or not whole, when the scan asked
        ("DATA_STALE", "DATA_PARTIAL", "DATA_UNAVAILABLE", "DATA_FROZEN", "ALL_PROVIDERS_FAILED", "CACHE_CLEARED"),
        Cause.BAR_LATE,
    ),
}  # fmt: skip


@dataclass(slots=True)
class Report:
    """What was compared. `changes`: inputs that are others today, whether a decision hangs on them or not."""

    decisions: int = 0
    again: int = 0  # of these, the same from the recorded inputs
    differing: list[Difference] = field(default_factory=list)
    changes: list[tuple[str, Change]] = field(default_factory=list)
    days: int = 0

    def add(self, day: str, found: Sequence[Difference], decisions: int) -> None:
        self.differing += found
        self.decisions += decisions


# ---------------------------------------------------------------- today
class Today:
    """The inputs of a recorded row as they would be today. Raises DataError when there are no bars to look at."""

    def __init__(self, context: wiring.Context, universe: Path | None = None) -> None:
        self._context, self._universe = context, universe
        self._panels: dict[tuple[str, str], tuple[Panel, Mapping[Symbol, str]]] = {}
        self._read: tuple[tuple[Path, frozenset[Symbol]], Mapping[str, BarColumns]] | None = None

    def universe(self, row: Row, then: Inputs) -> tuple[tuple[Symbol, ...], Mapping[Symbol, str | None]]:
        from data.universe import load_universe

        named = self._universe or (Path(row["universe_path"]) if row["universe_path"] else None)
        if named is None:
            return then.symbols, then.sectors
        found = load_universe(named, default=False)
        found = found if row["universe_cap"] is None else found.capped(row["universe_cap"])
        return found.symbols, found.sectors

    def bars(self, row: Row, symbols: Collection[Symbol]) -> tuple[Panel, Mapping[Symbol, str]]:
        key = (str(row["source"]), str(row["session"]))
        if key not in self._panels:
            if len(self._panels) > 4:
                self._panels.pop(next(iter(self._panels)))
            self._panels[key] = self._load(row, symbols)
        return self._panels[key]

    def _load(self, row: Row, symbols: Collection[Symbol]) -> tuple[Panel, Mapping[Symbol, str]]:
        session = date.fromisoformat(row["session"])
        if row["bars_path"] is not None:
            return self._from_files(Path(row["bars_path"]), session, symbols)
        store = wiring.store_for(self._context, str(row["source"]))
        if not store.exists():
            raise DataError(f"{row['source']}: its bars are not in the cache any more", code="NO_BARS_TODAY")
        panel = store.load_panel(list(symbols), session, basis=self._context.calendar.next_session(session))
        return panel, {Symbol(s): code for s, code in store.quarantined(session).items()}

    def _from_files(self, path: Path, session: date, symbols: Collection[Symbol]) -> tuple[Panel, Mapping[Symbol, str]]:
        from core.bars_io import read_bars
        from data.quality import clean_all

        if not path.exists():
            raise DataError(f"{path} is not there any more", code="NO_BARS_TODAY")
        wanted = (path, frozenset(symbols))
        if self._read is None or self._read[0] != wanted:
            self._read = (wanted, read_bars(path, set(symbols)))
        bars = self._read[1]
        kept, out = clean_all({s: bars[s] for s in symbols if s in bars}, self._context.calendar, session)
        return Panel.from_bars(kept).truncated(session), {Symbol(s): code for s, code in out.items()}

    def vix(self, row: Row) -> float | None:
        session = date.fromisoformat(row["session"])
        if row["bars_path"] is not None:
            beside = wiring.vix_beside(Path(row["bars_path"]), session)
            return row["vix"] if beside is None else beside
        return VixStore(self._context.home.cache, str(row["source"])).level(session)

    def inputs(self, row: Row, then: Inputs) -> Inputs:
        context = self._context
        if row["kind"] != "scan":
            panel = then.panel
            if row.get("snapshot_sha256") is not None:
                panel = self.bars(row, [Symbol(s) for s in then.panel.symbols])[0]
            return replace(then, settings=context.settings, params=context.params, panel=panel)
        symbols, sectors = self.universe(row, then)
        panel, quarantined = self.bars(row, sorted({*then.symbols, *symbols}))
        day = date.fromisoformat(str(row["run"])[:10])
        earnings = earnings_value(wiring.earnings_calendar(context).at(day), symbols)
        return Inputs(
            context.settings, context.params, symbols, sectors, earnings, self.vix(row),
            _refused_too(then, panel, quarantined), panel,
        )  # fmt: skip


def _refused_too(then: Inputs, panel: Panel, now: Mapping[Symbol, str]) -> Mapping[Symbol, str]:
    """What a vendor did not deliver is told at the update only: it stays so while no bar has come."""
    last = panel.sessions[-1] if panel.sessions.size else None
    have = {s for s, own in columns(panel).items() if len(own) and own.dates[-1] == last}
    return {**{s: code for s, code in then.quarantined.items() if s not in now and str(s) not in have}, **now}


def columns(panel: Panel) -> dict[str, BarColumns]:
    out = {}
    for j, symbol in enumerate(panel.symbols):
        rows = slice(0, int(panel.length[j]))
        blocks = (panel.open, panel.high, panel.low, panel.close, panel.volume)
        out[symbol] = BarColumns(panel.sessions[panel.session_index[rows, j]], *(b[rows, j] for b in blocks))
    return out


# ---------------------------------------------------------------- one input from then to now
@dataclass(frozen=True, slots=True)
class Moved:
    """Which inputs are today's; all others are those of then."""

    symbols: frozenset[str] = frozenset()
    settings: str | None = None
    params: str | None = None
    universe: bool = False
    earnings: bool = False
    vix: bool = False


def mixed(then: Inputs, now: Inputs, moved: Moved) -> Inputs:
    """Raises pydantic's ValidationError when one setting alone contradicts the others."""
    settings, params = then.settings, then.params
    if moved.settings is not None:
        after = _leaf(settings_value(now.settings), moved.settings)
        settings = settings_from(with_leaf(settings_value(then.settings), moved.settings, after))
    if moved.params is not None:
        after = _leaf(params_value(now.params), moved.params)
        params = params_from(with_leaf(params_value(then.params), moved.params, after))
    panel, quarantined = then.panel, dict(then.quarantined)
    wanted = moved.symbols | ({s for s in now.symbols if s not in then.symbols} if moved.universe else set())
    if wanted:
        panel = substituted(then.panel, now.panel, wanted)
        for symbol in map(Symbol, wanted):
            quarantined.pop(symbol, None)
            if symbol in now.quarantined:
                quarantined[symbol] = now.quarantined[symbol]
    of_universe = now if moved.universe else then
    return Inputs(
        settings, params, of_universe.symbols, of_universe.sectors, now.earnings if moved.earnings else then.earnings,
        now.vix if moved.vix else then.vix, quarantined, panel,
    )  # fmt: skip


def _leaf(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value[part]
    return value


def substituted(then: Panel, now: Panel, symbols: Collection[str]) -> Panel:
    """The panel of then with these symbols' columns of now."""
    own, other = columns(then), columns(now)
    bars = {s: b for s, b in own.items() if s not in symbols} | {s: other[s] for s in symbols if s in other}
    made = Panel.from_bars(bars)
    sessions = np.union1d(then.sessions, made.sessions).astype(np.int32)  # a session that one name alone had stays one
    at = np.append(np.searchsorted(sessions, made.sessions), -1).astype(np.int32)
    return replace(made, sessions=sessions, session_index=at[made.session_index])


# ---------------------------------------------------------------- one day
class Comparison:
    def __init__(self, context: wiring.Context, happened: Happened, *, today: Today | None, code_sha256: str) -> None:
        self._context, self._happened, self._today, self._code = context, happened, today, code_sha256
        self._kept = Kept(inputs_folder(context.home.logs))
        self._again = Again(context, happened)

    @property
    def intents(self) -> Mapping[str, OrderIntent]:
        """Orders as the newest day was worked out again, by client order id."""
        return self._again.intents

    def day(self, report: Report, recorded: RecordedDay) -> None:
        """Everything of one session. What cannot be worked out is UNKNOWN and says why."""
        name = recorded.day.isoformat()
        report.days += 1
        found = list(self._absent(recorded))
        count = len(found)
        try:
            differing, decisions, again, changes = self._compared(recorded)
            found += differing
            count += decisions
            report.again += again
            report.changes += [(name, change) for change in changes]
        except KobeError as error:
            found.append(_unknown(name, "day", f"{error.code}: {error}"))
            count += 1
        report.add(name, found, count)

    def _absent(self, recorded: RecordedDay) -> Iterator[Difference]:
        """Scans that left no inputs, and why, as far as the journal says."""
        day, told = recorded.day.isoformat(), {str(r["run"]) for r in recorded.rows if r["kind"] == "scan"}
        if recorded.damaged:
            yield _unknown(day, "rows", f"{recorded.damaged} lines of its inputs are damaged")
        runs = [(str(r.body["run"]), r) for r in self._happened.records if r.kind in ("scan_run", "run_missed")]
        mine = [(run, r) for run, r in runs if run.startswith(day) and run[11:13].isdigit()]
        if not mine and not recorded.rows:
            yield _unknown(day, "day", "nothing was recorded")
        for run, record in mine:
            code = str(record.body.get("code", ""))
            if run in told or code in NO_DECISION:
                continue
            cause = Cause.SCAN_MISSED if record.kind == "run_missed" else BY_CODE.get(code, Cause.UNKNOWN)
            why = f"{record.kind} {code}: its inputs were not recorded"
            yield Difference(day=day, decision=f"{run[11:]} scan", symbol=None, cause=cause, detail=why)

    def _compared(self, recorded: RecordedDay) -> tuple[list[Difference], int, int, list[Change]]:
        rows, name = recorded.rows, recorded.day.isoformat()
        protections = self._protections(recorded.day)
        was = recorded_decisions(rows, self._happened, self._kept.blob) | recorded_protections(protections)
        base = next((row for row in rows if row["kind"] == "scan"), None)
        again = self._answers(rows, protections, base, self._kept.inputs)
        stranger = self._stranger(rows)
        changes: list[Change] = []
        groups: list[Group] = []
        now: Mapping[str, str] | None = None
        missing: list[Difference] = []
        if self._today is not None and rows:
            try:
                changes, groups, now = self._of_today(rows, protections, base)
            except KobeError as error:
                missing.append(_unknown(name, "today", f"{error.code}: {error}"))
        found = compare(name, was, again, now, groups, symbol_of, stranger=stranger)
        same = sum(1 for key in was.keys() | again.keys() if was.get(key) == again.get(key))
        return found + missing, len(was.keys() | again.keys()) + len(missing), same, changes

    def _answers(
        self, rows: Sequence[Row], protections: Sequence[Record], base: Row | None, inputs_of: Callable[[Row], Inputs]
    ) -> dict[str, str]:
        found = self._again.decisions(rows, inputs_of)
        if protections and base is not None:
            found |= self._again.protections(protections, inputs_of(base).settings)
        elif protections:
            found |= self._again.protections(protections, self._context.settings)
        return found

    def _protections(self, day: date) -> list[Record]:
        return [
            r for r in self._happened.records
            if r.kind == "order_intended" and r.body["purpose"] == Purpose.PROTECT and new_york_day(r.at) == day
        ]  # fmt: skip

    def _stranger(self, rows: Sequence[Row]) -> Callable[[str, str], Cause]:
        """What a decision is blamed on that the recorded inputs do not give again."""
        codes = {str(r["code_sha256"]) for r in rows if r["kind"] == "scan"}
        calendars = [(r, self._kept.blob(r["calendar"])) for r in rows if r["kind"] == "scan"]
        calendar = any(
            calendar_value(self._context.calendar, date.fromisoformat(str(r["run"])[:10])) != value
            for r, value in calendars
        )

        def cause(name: str, was: str) -> Cause:
            for word in was.replace(",", " ").split():
                if word in BY_CODE:
                    return BY_CODE[word]
            if calendar:
                return Cause.CALENDAR_CHANGED
            return Cause.CODE_CHANGED if codes and codes != {self._code} else Cause.UNKNOWN

        return cause

    # ------------------------------------------------------------ today
    def _of_today(
        self, rows: Sequence[Row], protections: Sequence[Record], base: Row | None
    ) -> tuple[list[Change], list[Group], Mapping[str, str] | None]:
        assert self._today is not None
        pairs = {id(row): self._pair(row) for row in rows if row["kind"] != "gate"}
        changes: dict[Moved, list[Change]] = {}
        for row in _asked(rows):
            for moved, found in _changes(row, *pairs[id(row)]).items():
                changes.setdefault(moved, []).extend(c for c in found if c not in changes.get(moved, ()))
        flat = [change for found in changes.values() for change in found]
        if not flat:
            return [], [], None

        def answers_with(choose: Callable[[Inputs, Inputs], Inputs]) -> Mapping[str, str]:
            return self._answers(rows, protections, base, lambda row: choose(*pairs[id(row)]))

        def alone(moved: Moved) -> Callable[[], Mapping[str, str]]:
            def answers() -> Mapping[str, str]:
                try:
                    return answers_with(lambda then, now: mixed(then, now, moved))
                except ValidationError:
                    return answers_with(lambda then, now: then)

            return answers

        groups = [Group(tuple(found), alone(moved)) for moved, found in _few(changes).items()]
        return flat, groups, answers_with(lambda then, now: now)

    def _pair(self, row: Row) -> tuple[Inputs, Inputs]:
        assert self._today is not None
        then = self._kept.inputs(row)
        return then, self._today.inputs(row, then)


def _asked(rows: Sequence[Row]) -> list[Row]:
    """Every scan, and exits that looked at bars which no scan of the day looked at."""
    scans = [row for row in rows if row["kind"] == "scan"]
    seen = {row["snapshot_sha256"] for row in scans}
    return scans + [row for row in rows if row["kind"] == "exits" and row["snapshot_sha256"] not in seen]


def _few(changes: Mapping[Moved, list[Change]]) -> dict[Moved, list[Change]]:
    """Many symbols at once are moved together: one at a time would be one scan each."""
    symbols = [moved for moved in changes if moved.symbols]
    if len(symbols) <= SYMBOLS_ASKED:
        return dict(changes)
    together = Moved(symbols=frozenset().union(*(m.symbols for m in symbols)))
    rest = {moved: found for moved, found in changes.items() if not moved.symbols}
    return {**rest, together: [change for m in symbols for change in changes[m]]}


def _changes(row: Row, then: Inputs, now: Inputs) -> dict[Moved, list[Change]]:
    """What is another today, by the input that one would move to get it."""
    found: dict[Moved, list[Change]] = {}
    for change in value_changes(Cause.PARAMS_CHANGED, params_value(then.params), params_value(now.params)):
        found[Moved(params=change.key)] = [change]
    for change in value_changes(Cause.CONFIG_CHANGED, settings_value(then.settings), settings_value(now.settings)):
        found[Moved(settings=change.key)] = [change]
    same_bars = snapshot_sha256(now.panel) == row["snapshot_sha256"]
    before, after = ({}, {}) if same_bars else (columns(then.panel), columns(now.panel))
    asked = {str(s) for s in then.symbols} or set(before)
    for symbol in sorted(asked):
        own = bar_changes(symbol, before.get(symbol), after.get(symbol))
        codes = (then.quarantined.get(Symbol(symbol), "ok"), now.quarantined.get(Symbol(symbol), "ok"))
        if codes[0] != codes[1] and {"ok", "NO_BAR"} != set(codes):  # there, and judged otherwise
            key = f"bar of {row['session']}"
            own = [Change(cause=Cause.QUARANTINE, symbol=symbol, key=key, then=codes[0], now=codes[1])]
        if own:
            found[Moved(symbols=frozenset({symbol}))] = own
    if row["kind"] == "scan":
        found |= _facts(row, then, now)
    return found


def _facts(row: Row, then: Inputs, now: Inputs) -> dict[Moved, list[Change]]:
    found: dict[Moved, list[Change]] = {}
    if then.vix != now.vix:
        found[Moved(vix=True)] = [
            Change(
                cause=Cause.VIX_REVISED, symbol=None, key=f"VIX {row['session']}", then=str(then.vix), now=str(now.vix)
            )
        ]
    if then.symbols != now.symbols or dict(then.sectors) != dict(now.sectors):
        found[Moved(universe=True)] = _listed(then, now)
    dates = {s: list(d) for s, d in then.earnings.items()}, {
        s: list(d) for s, d in now.earnings.items() if Symbol(s) in then.sectors
    }  # fmt: skip
    if dates[0] != dates[1]:
        who = sorted(s for s in dates[0].keys() | dates[1].keys() if dates[0].get(s) != dates[1].get(s))
        found[Moved(earnings=True)] = [
            Change(cause=Cause.EARNINGS_CHANGED, symbol=s, key="announcements", then=str(dates[0].get(s, "unknown")),
                   now=str(dates[1].get(s, "unknown")))
            for s in who
        ]  # fmt: skip
    return found


def _listed(then: Inputs, now: Inputs) -> list[Change]:
    def told(sectors: Mapping[Symbol, str | None], symbol: Symbol) -> str:
        return f"listed, sector {sectors[symbol]}" if symbol in sectors else "not listed"

    pairs = {s: (told(then.sectors, s), told(now.sectors, s)) for s in sorted({*then.symbols, *now.symbols})}
    changed = [
        Change(cause=Cause.UNIVERSE_CHANGED, symbol=str(s), key="universe", then=old, now=new)
        for s, (old, new) in pairs.items()
        if old != new
    ]
    if changed:
        return changed
    return [Change(cause=Cause.UNIVERSE_CHANGED, symbol=None, key="order of the rows", then="then", now="now")]


def _unknown(day: str, what: str, why: str) -> Difference:
    return Difference(day=day, decision=what, symbol=None, cause=Cause.UNKNOWN, detail=why)


def days_of(context: wiring.Context, start: date, end: date) -> list[RecordedDay]:
    calendar = context.calendar
    sessions = calendar.sessions_between(max(start, calendar.first), min(end, calendar.last))
    return [read_day(context.home.logs, session) for session in sessions]
