"""One look at everything: `Observer.look()` gives Facts. The first look reads the journal once, later ones what is new.

It writes nothing, takes no lock, asks no broker, and raises nothing for a file that is missing, damaged or half
written: what that file would have told is None, with the reason code in `Facts.unknown`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from core.clock import Clock
from core.errors import DataError, StateCorrupt
from core.journal import Journal
from core.market_calendar import MarketCalendar
from core.paths import Home
from execution.ledger import new_york_day
from execution.observe import groups, measures, state_look
from execution.observe.facts import (
    BreakerFacts,
    BrokerFacts,
    CognitiveFacts,
    DataFacts,
    ExecutionFacts,
    Facts,
    JournalFacts,
    LlmFacts,
    RunnerFacts,
    ScanFacts,
    ScheduleFacts,
    SwitchFacts,
)
from execution.observe.journal_look import JournalLook, Seen
from execution.observe.logs_look import ErrorsLook, EventsLook, InputsLook, instant, short
from execution.observe.story import Story
from risk.kill_switch import KillSwitch

if TYPE_CHECKING:
    from config.settings_schema import Settings

T = TypeVar("T")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is looked at, and as what it was started."""

    home: Home
    settings: Settings
    clock: Clock
    calendar: MarketCalendar
    mode: str
    broker: str  # "alpaca" or "embedded venue"
    simulated: bool  # broker or prices are not real
    scan_times: tuple[str, ...]
    standing: bool = False


class Unknown:
    """Collects the reason codes of what is not known."""

    def __init__(self) -> None:
        self.codes: dict[str, str] = {}

    def of(self, name: str, found: T | str) -> T | None:
        """The value, or None with its code noted."""
        if isinstance(found, str):
            self.codes[name] = found
            return None
        return found

    def unless(self, name: str, value: T | None, code: str) -> T | None:
        if value is None:
            self.codes[name] = code
        return value


class Observer:
    """Not thread-safe; one per process, asked again and again."""

    def __init__(self, watched: Watched) -> None:
        home = watched.home
        self.watched = watched
        self._switch = KillSwitch(home.kill_switch)
        self._journal = JournalLook(Journal(home.journal, watched.clock))
        self._runner = state_look.RunnerLook(home.state, watched.clock)
        self._errors, self._events = ErrorsLook(home.logs), EventsLook(home.logs)
        self._inputs = InputsLook(home.logs)
        self._measured: tuple[tuple[object, ...], ExecutionFacts] | None = None
        self._table = groups.Timetable(
            calendar=watched.calendar, scan_times=watched.scan_times,
            half_day_rule=watched.settings.runner.half_day_rule,
        )  # fmt: skip

    def look(self) -> Facts:
        watched, unknown = self.watched, Unknown()
        now = watched.clock.now()
        today = new_york_day(now)
        self._errors.look(now)
        self._events.look(now)
        self._inputs.look(today)
        seen = self._seen(unknown)
        story = None if seen is None else seen.story
        runner = unknown.of("runner", self._runner.look())
        if runner is not None:
            unknown.unless("runner.beat_age_s", runner.beat_age_s, "CLOCK_BEHIND_BEAT")
        within = timedelta(seconds=watched.settings.runner.crash_window_s)
        free = state_look.disk_free_bytes(watched.home.state)
        readable = self._errors.readable
        scan = self._scan(story, unknown)
        facts = Facts(
            at=now, mode=watched.mode, standing=watched.standing,
            simulated=watched.simulated or (scan is not None and scan.simulated),
            unknown=unknown.codes, switch=self._switch_facts(story), runner=runner,
            starts=unknown.of("starts", state_look.starts(watched.home.state, now, within)),
            schedule=self._schedule(story, runner, now, unknown),
            journal=None if story is None else self._journal_facts(story),
            book=None if seen is None else groups.book(seen, watched.settings.risk, now),
            broker=self._broker(story), scan=scan, data=self._data(now, today, unknown),
            execution=None if story is None else self._execution(story, today), llm=self._llm(today, unknown),
            cognitive=self._cognitive(story, now, today, unknown),
            errors=self._errors.since(now - _DAY) if readable else None,
            errors_24h=self._errors.count_since(now - _DAY) if readable else None,
            disk_free_bytes=unknown.unless("disk_free_bytes", free, "DISK_UNREADABLE"),
        )  # fmt: skip
        if not readable:
            unknown.codes.update({"errors": "LOGS_UNREADABLE", "errors_24h": "LOGS_UNREADABLE"})
        _tell_gaps(facts, unknown)
        return facts

    def alerts(self) -> state_look.Alerts:
        return state_look.alerts(self.watched.home.state)

    # ------------------------------------------------------------ the journal
    def _seen(self, unknown: Unknown) -> Seen | None:
        try:
            seen = self._journal.seen()
            code = "JOURNAL_ABSENT"
        except StateCorrupt as error:
            seen, code = None, error.code
        except OSError:
            seen, code = None, "JOURNAL_UNREADABLE"
        if seen is None:
            unknown.codes.update(dict.fromkeys(("journal", "book", "schedule", "execution"), code))
        return seen

    def _schedule(
        self, story: Story | None, runner: RunnerFacts | None, now: datetime, unknown: Unknown
    ) -> ScheduleFacts | None:
        if story is None:
            return None
        told = self._errors.closes_at
        return self._guarded(unknown, "schedule", lambda: groups.schedule(self._table, story, runner, now, told))

    def _guarded(self, unknown: Unknown, name: str, read: Callable[[], T]) -> T | None:
        """Beyond the calendar nothing is known of sessions."""
        try:
            return read()
        except DataError as error:
            unknown.codes[name] = error.code
            return None

    def _switch_facts(self, story: Story | None) -> SwitchFacts:
        found = self._switch.found()
        halts = None if story is None else story.halts
        return SwitchFacts(
            present=found is not None, found=found, halted_since=None if story is None else story.halted_at,
            passed_since_halt=halts is not None and halts.newest_pass > halts.halted_at,
        )  # fmt: skip

    def _journal_facts(self, story: Story) -> JournalFacts:
        noted = state_look.noted_seq(self.watched.home.logs)
        return JournalFacts(
            records=story.records, head=story.head, newest_at=story.newest_at, noted_seq=noted,
            preflight_passed_at=story.preflight_passed_at,
        )  # fmt: skip

    def _broker(self, story: Story | None) -> BrokerFacts:
        last = None if story is None or story.last_run is None else story.last_run[1].at
        return BrokerFacts(
            kind=self.watched.broker, answered_at=last,
            down_since=_unless_later(self._errors.broker_down_at, self._events.broker_back_at, last),
            keys_refused_at=_unless_later(self._errors.keys_refused_at, last),
        )  # fmt: skip

    def _execution(self, story: Story, today: date) -> ExecutionFacts:
        """Worked out again only when something new was read, or another day has begun."""
        basis = (story.records, story.head, self._inputs.rows, today)
        if self._measured is None or self._measured[0] != basis:
            settings = self.watched.settings.execution
            self._measured = (basis, measures.execution(story, self._inputs, settings, today))
        return self._measured[1]

    # ------------------------------------------------------------ scan and data
    def _scan(self, story: Story | None, unknown: Unknown) -> ScanFacts | None:
        row = self._inputs.scan
        if row is None:
            return unknown.of("scan", "NO_SCAN")
        try:
            return _scan_facts(row, story or Story())
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return unknown.of("scan", "INPUTS_DAMAGED")

    def _data(self, now: datetime, today: date, unknown: Unknown) -> DataFacts | None:
        expected = self._guarded(unknown, "data", lambda: self.watched.calendar.last_completed(now))
        if expected is None:
            return None
        session = _session(self._inputs.scan)
        behind = age_s = None
        if session is not None:
            behind = self._guarded(unknown, "data.sessions_behind", lambda: self._behind(session, expected))
            closed = self._guarded(unknown, "data.age_s", lambda: self.watched.calendar.closes_at(session))
            age_s = None if closed is None else (now - closed).total_seconds()
        else:
            unknown.codes.update(dict.fromkeys(("data.session", "data.sessions_behind", "data.age_s"), "NO_SCAN"))
        fallbacks = unknown.unless("data.fallbacks_today", self._events.fallbacks_on(today), "LOGS_INCOMPLETE")
        return DataFacts(
            session=session, expected_session=expected, sessions_behind=behind, age_s=age_s,
            providers=unknown.of("data.providers", state_look.providers(self.watched.home.state, now.date())),
            fallbacks_today=fallbacks,
        )  # fmt: skip

    def _behind(self, session: date, expected: date) -> int:
        return max(0, len(self.watched.calendar.sessions_between(session, expected)) - 1)

    # ------------------------------------------------------------ reviews, breakers
    def _cognitive(self, story: Story | None, now: datetime, today: date, unknown: Unknown) -> CognitiveFacts:
        if story is None:
            code = unknown.codes.get("journal", "JOURNAL_UNREADABLE")
            names = ("decisions_today", "approval_rate", "avg_confidence", "breakers")
            unknown.codes.update({f"cognitive.{name}": code for name in names})
            return CognitiveFacts(decisions_today=None, approval_rate=None, avg_confidence=None, breakers=None)
        count, rate, confidence = _reviews(story, today, unknown)
        return CognitiveFacts(
            decisions_today=count, approval_rate=rate, avg_confidence=confidence,
            breakers=self._guarded(unknown, "cognitive.breakers", lambda: self._breakers(story, now)),
        )  # fmt: skip

    def _breakers(self, story: Story, now: datetime) -> tuple[BreakerFacts, ...]:
        """Those that refuse entries in this session, or in the next one; what stops everything comes first."""
        if not self.watched.settings.cognitive.circuit_breakers.enabled:
            return ()
        calendar = self.watched.calendar
        session = calendar.session_at(now) or calendar.next_session(calendar.last_completed(now))
        found = [b for b in story.breakers.values() if b.until is None or session <= b.until]
        return tuple(sorted(found, key=lambda b: (b.scope != "all", b.since)))

    # ------------------------------------------------------------ LLM
    def _llm(self, today: date, unknown: Unknown) -> LlmFacts:
        chosen = self.watched.settings.cognitive.llm_analyzer
        told = state_look.llm_spend(self.watched.home.state, today)
        spend = None if isinstance(told, str) else told
        if isinstance(told, str):
            names = ("cost_usd_today", "tokens_today", "calls_today", "avg_latency_ms")
            unknown.codes.update({f"llm.{name}": told for name in names})
        else:
            unknown.unless("llm.avg_latency_ms", told.avg_latency_ms, "LLM_NO_ANSWERS")
        return LlmFacts(
            cost_usd_today=None if spend is None else spend.cost_usd,
            cost_budget_usd=chosen.cost_tracking.max_daily_usd, tokens_today=None if spend is None else spend.tokens,
            tokens_budget=chosen.max_daily_tokens, calls_today=None if spend is None else spend.calls,
            avg_latency_ms=None if spend is None else spend.avg_latency_ms,
        )  # fmt: skip


def _reviews(story: Story, today: date, unknown: Unknown) -> tuple[int, float | None, float | None]:
    """How many decisions were reviewed today, the part let through, the mean confidence."""
    told = list(story.reviews.values()) if story.reviewed_on == today else []
    said = [confidence for _, confidence in told if confidence is not None]
    rate = sum(1 for let_through, _ in told if let_through) / len(told) if told else None
    confidence = sum(said) / len(said) if said else None
    unknown.unless("cognitive.approval_rate", rate, "NO_REVIEWS")
    unknown.unless("cognitive.avg_confidence", confidence, "NO_CONFIDENCE" if told else "NO_REVIEWS")
    return len(told), rate, confidence


def _unless_later(at: datetime | None, *cures: datetime | None) -> datetime | None:
    """`at`, unless something that proves the contrary came after it."""
    if at is None or any(cure is not None and cure > at for cure in cures):
        return None
    return at


def _session(row: dict[str, Any] | None) -> date | None:
    try:
        return None if row is None else date.fromisoformat(str(row.get("session")))
    except ValueError:
        return None


def _scan_facts(row: dict[str, Any], story: Story) -> ScanFacts:
    at = instant(row["at"])
    if at is None:
        raise ValueError("a scan without an instant")
    refused = {short(code): int(count) for code, count in row["refused"].items()}
    picks = tuple(measures.pick(p, story) for p in row["picks"])
    return ScanFacts(
        at=at, run=short(row["run"]), session=date.fromisoformat(row["session"]), source=short(row["source"]),
        simulated=row["simulated"] is not False, considered=sum(refused.values()) + len(picks), refused=refused,
        snapshot_sha256=short(row["snapshot_sha256"]), vix=measures.number(row.get("vix")),
        strategies_off=tuple(short(name) for name in row.get("off", ())), picks=picks,
    )  # fmt: skip


def _tell_gaps(facts: Facts, unknown: Unknown) -> None:
    """The codes of single values that are not known although their group is."""
    if facts.execution is not None:
        measured = facts.execution
        unknown.unless("execution.ioc_fill_rate_avg", measured.ioc_fill_rate_avg, "NO_ORDERS")
        unknown.unless("execution.slippage_bps_avg", measured.slippage_bps_avg, "NO_FILLS_WITH_QUOTE")
        unknown.unless("execution.clamp_usage_count", measured.clamp_usage_count, "QUOTES_NOT_RECORDED")
        unknown.unless("execution.latency_ms_avg", measured.latency_ms_avg, "NO_ORDERS")
        unknown.unless("execution.latency_ms_max", measured.latency_ms_max, "NO_ORDERS")
    if facts.book is not None:
        unknown.unless("book.reconcile", facts.book.reconcile, "NO_RUN")
        unknown.unless("book.equity", facts.book.equity, "EQUITY_NOT_TOLD")
        unknown.unless("book.account", facts.book.account, "NO_RUN")
    if facts.scan is not None:
        unknown.unless("scan.vix", facts.scan.vix, "VIX_UNKNOWN")
