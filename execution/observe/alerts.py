"""What is wrong right now, out of Facts: each alert with its severity, value, limit and what to do. Pure.

| from                | what                                                                                      |
|---------------------|-------------------------------------------------------------------------------------------|
| the runbook's table | LLM cost, IOC fill rate, provider success, slippage, cognitive approval: warning, critical |
| /ready              | every reason why it may not trade, every warning                                           |
| expectations.py     | what should have happened by now: silence is an alarm                                      |
| the error log       | what no other fact shows                                                                   |
| beside              | what only the alerting process sees: sidecar, channels, its own state                      |

UNKNOWN is never OK: it ends no alert. It raises one too, unless the fact cannot be known yet (`NOT_YET`): language
models off, no trade so far, too few of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from execution.observe import expectations
from execution.observe.facts import ErrorFacts, Facts, RunState
from execution.observe.readiness import Readiness, Reason
from execution.observe.words import money, percent, unknown

if TYPE_CHECKING:
    from config.settings_schema import Alerts, Settings

HOLD_S = 10.0
"""What is gone again within this time was nothing."""
LONG_HOLD_S = 60.0
"""For what mends itself in the ordinary course: a retried request, a stop that is being put back."""
RUNNER_WANTED = timedelta(minutes=30)
"""So long before a due run, a runner that is not there is missed."""
ERRORS_COUNT_FOR = timedelta(hours=1)

NOT_YET = frozenset({
    "LLM_ABSENT", "LLM_NO_ANSWERS", "NO_REVIEWS", "NO_CONFIDENCE", "NO_ORDERS", "NO_FILLS_WITH_QUOTE",
    "QUOTES_NOT_RECORDED", "NO_SCAN", "NO_RUN", "EQUITY_NOT_TOLD", "PROVIDERS_NEVER_ASKED", "STARTS_ABSENT",
    "LOGS_INCOMPLETE",
})  # fmt: skip
"""Reason codes of facts that cannot exist yet; they alarm nobody."""
_TOLD_OTHERWISE = frozenset({
    "journal", "book", "schedule", "execution", "runner", "runner.beat_age_s", "disk_free_bytes", "errors",
    "errors_24h", "scan.vix",
})  # fmt: skip
"""Facts whose absence is a reason of /ready already."""


class Severity(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


class State(StrEnum):
    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    CRITICAL = "critical"


_RANK = {State.OK: 0, State.UNKNOWN: 1, State.WARNING: 2, State.CRITICAL: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One alert as it stands at one look."""

    name: str
    state: State
    value: str = ""
    limit: str = ""
    words: str = ""
    action: str = ""
    hold_s: float = HOLD_S
    level: float | None = None  # told again when it grows: the number of missed runs

    @property
    def bad(self) -> bool:
        return self.state in (State.WARNING, State.CRITICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What only the alerting process knows."""

    began_at: datetime  # alerting first worked on this home
    sidecar_up: bool | None = None  # None: none is wanted
    backup_at: datetime | None = None
    channel_failed: str | None = None  # the first channel took no message, in words
    undelivered: int = 0  # messages that no channel has taken
    deadman_failed: str | None = None
    state_trouble: str | None = None  # state/alerts.json: in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One evaluation: conditions by name, and which groups of facts nothing could be said about."""

    at: datetime
    conditions: Mapping[str, Condition]
    blind: frozenset[str]

    def of(self, name: str) -> Condition:
        """A name that is not there is OK, unless what it rests on is not known."""
        found = self.conditions.get(name)
        if found is not None:
            return found
        return Condition(name=name, state=State.UNKNOWN if rests_on(name) in self.blind else State.OK)


def evaluate(facts: Facts, ready: Readiness, settings: Settings, beside: Beside) -> Look:
    found: dict[str, Condition] = {}
    for condition in _all(facts, ready, settings, beside):
        before = found.get(condition.name)
        if before is None or _RANK[condition.state] > _RANK[before.state]:
            found[condition.name] = condition
    groups = ("journal", "book", "schedule", "scan", "data", "execution", "runner", "starts", "errors")
    blind = frozenset(name for name in groups if getattr(facts, name) is None)
    return Look(at=facts.at, conditions=found, blind=blind)


def _all(facts: Facts, ready: Readiness, settings: Settings, beside: Beside) -> Iterator[Condition]:
    yield from thresholds(facts, settings)
    yield from _reasons(facts, ready)
    yield from _book(facts, settings)
    for late in expectations.late(facts, settings.alerts, began_at=beside.began_at, backup_at=beside.backup_at):
        state = State.CRITICAL if late.critical else State.WARNING
        yield Condition(name=late.name, state=state, value=late.value, limit=late.limit, words=late.words,
                        action=late.action, hold_s=HOLD_S)  # fmt: skip
    yield from _errors(facts, settings.alerts)
    yield from _own(beside)
    yield from _not_known(facts)


# ---------------------------------------------------------------- the runbook's table
@dataclass(frozen=True, slots=True)
class Limits:
    """Two limits; the limit itself passes."""

    warning: float
    critical: float
    falling: bool

    def state(self, value: float) -> State:
        for limit, state in ((self.critical, State.CRITICAL), (self.warning, State.WARNING)):
            if value < limit if self.falling else value > limit:
                return state
        return State.OK


ACTIONS: Mapping[str, str] = {
    "LLM_COST": "Reduce LLM mode: cognitive.llm_analyzer.mode briefings_only or off",
    "IOC_FILL_RATE": "Increase clamp offset: execution.max_clamp_bps. It fills more and pays more; see SLIPPAGE first",
    "PROVIDER_SUCCESS": "Check API status: python scripts/preflight.py --apis",
    "SLIPPAGE": "Widen limit offset: execution.entry_offset_bps. The same knob as IOC_FILL_RATE: judge both together",
    "COGNITIVE_APPROVAL": "Review signal quality: logs/daily_picks.csv, python scripts/why.py SYMBOL",
}
"""The runbook's words, with the setting they mean. Nothing is ever changed by itself."""


def thresholds(facts: Facts, settings: Settings) -> Iterator[Condition]:
    """The five rows, whether they hold or not."""
    alerts = settings.alerts
    yield _llm_cost(facts, settings)
    fill = alerts.ioc_fill_rate
    measured = facts.execution
    yield _sampled(facts, "IOC_FILL_RATE", "execution.ioc_fill_rate_avg",
                   None if measured is None else measured.ioc_fill_rate_avg,
                   0 if measured is None else measured.ioc_orders, fill.least, "orders",
                   Limits(fill.warning, fill.critical, falling=True), percent)  # fmt: skip
    slip = alerts.slippage_bps
    yield _sampled(facts, "SLIPPAGE", "execution.slippage_bps_avg",
                   None if measured is None else measured.slippage_bps_avg,
                   0 if measured is None else measured.slippage_fills, slip.least, "fills",
                   Limits(slip.warning, slip.critical, falling=False), _bps)  # fmt: skip
    approval, mind = alerts.cognitive_approval, facts.cognitive
    yield _sampled(facts, "COGNITIVE_APPROVAL", "cognitive.approval_rate", mind.approval_rate,
                   mind.decisions_today or 0, approval.least, "reviews",
                   Limits(approval.warning, approval.critical, falling=True), percent)  # fmt: skip
    yield from _providers(facts, alerts)


def _bps(value: float) -> str:
    return f"{value:.1f} bps"


def llm_limits(settings: Settings) -> Limits:
    """Never above the hard limit of the day, which would never be passed."""
    tracking = settings.cognitive.llm_analyzer.cost_tracking
    most, warning = float(tracking.max_daily_usd), float(tracking.alert_threshold_usd)
    return Limits(min(warning, most), min(float(settings.alerts.llm_cost_critical_usd), most), falling=False)


def _llm_cost(facts: Facts, settings: Settings) -> Condition:
    cost, limits = facts.llm.cost_usd_today, llm_limits(settings)
    if cost is None:
        return _unknown(facts, "LLM_COST", "llm.cost_usd_today")
    state = limits.state(float(cost))
    if state is not State.CRITICAL and cost >= facts.llm.cost_budget_usd > 0:
        state = State.CRITICAL  # all of it is spent
    return _judged("LLM_COST", state, money(cost), limits, lambda usd: money(usd))


def _providers(facts: Facts, alerts: Alerts) -> Iterator[Condition]:
    limit = alerts.provider_success
    limits = Limits(limit.warning, limit.critical, falling=True)
    providers = None if facts.data is None else facts.data.providers
    if providers is None:
        yield _unknown(facts, "PROVIDER_SUCCESS", "data.providers")
    for provider in providers or ():
        yield _sampled(facts, f"PROVIDER_SUCCESS:{provider.name}", "data.providers", provider.success_rate,
                       provider.asked, limit.least, "requests", limits, percent)  # fmt: skip


def _sampled(facts: Facts, name: str, field: str, value: float | None, count: int, least: int, noun: str,
             limits: Limits, spell: object) -> Condition:  # fmt: skip
    """An average over too few is not known. `spell`: percent, or bps."""
    if value is None and count == 0 and name.startswith("PROVIDER_SUCCESS:"):
        return Condition(name=name, state=State.UNKNOWN, words="not asked in seven days")
    if value is None:
        return _unknown(facts, name, field)
    if count < least:
        return Condition(name=name, state=State.UNKNOWN, words=f"too few to tell: {count} {noun} of {least}")
    write = percent if spell is percent else _bps
    return _judged(name, limits.state(value), write(value), limits, write)


def _judged(name: str, state: State, value: str, limits: Limits, write: object) -> Condition:
    spell = write if callable(write) else str
    limit = limits.critical if state is State.CRITICAL else limits.warning
    sign = "below" if limits.falling else "above"
    words = f"{value} is {sign} {spell(limit)}" if state in (State.WARNING, State.CRITICAL) else value
    action = ACTIONS[name.partition(":")[0]]
    return Condition(name=name, state=state, value=value, limit=str(spell(limit)), words=words, action=action)


def _unknown(facts: Facts, name: str, field: str) -> Condition:
    return Condition(name=name, state=State.UNKNOWN, words=unknown(facts, field))


# ---------------------------------------------------------------- reasons of /ready
@dataclass(frozen=True, slots=True)
class Rule:
    """How a reason is told. `rests_on`: the group of Facts without which nothing can be said of it."""

    state: State = State.CRITICAL
    hold_s: float = HOLD_S
    rests_on: str = ""


_C, _W = State.CRITICAL, State.WARNING
RULES: Mapping[str, Rule] = {
    "KILL_SWITCH": Rule(_C, 0.0), "NOT_RESUMED": Rule(_C, 0.0, "journal"),
    "STATE_RESTORED": Rule(_C, HOLD_S, "journal"), "ACCOUNT_MISMATCH": Rule(_C, HOLD_S, "book"),
    "CRASH_LOOP": Rule(_C, 0.0, "starts"), "RUNNER_GAVE_UP": Rule(_C, 0.0, "runner"),
    "RUNNER_STALLED": Rule(_C, 20.0, "runner"), "CLOCK_BEHIND_BEAT": Rule(_C, 20.0, "runner"),
    "RUNNER_STOPPED": Rule(_C, LONG_HOLD_S), "RUNNER_ABSENT": Rule(_C, LONG_HOLD_S),
    "RUNNER_STARTING": Rule(_W, 300.0, "runner"), "RUNNER_BACKING_OFF": Rule(_W, 0.0, "runner"),
    "BROKER_DOWN": Rule(_C, LONG_HOLD_S), "KEYS_REFUSED": Rule(_C, HOLD_S),
    "RUN_OVERDUE": Rule(_C, HOLD_S, "schedule"), "RUN_FAILING": Rule(_C, LONG_HOLD_S, "schedule"),
    "MARKET_CLOSED": Rule(_W, HOLD_S, "schedule"), "UNIVERSE_EMPTY": Rule(_C, HOLD_S, "scan"),
    "VIX_UNKNOWN": Rule(_C, HOLD_S, "scan"), "DISK_FULL": Rule(_C, HOLD_S), "DISK_UNREADABLE": Rule(_C, HOLD_S),
    "ORDERS_UNKNOWN": Rule(_W, LONG_HOLD_S, "book"), "POSITION_UNPROTECTED": Rule(_C, LONG_HOLD_S, "book"),
    "BREAKS": Rule(_C, HOLD_S, "book"), "SYMBOLS_LOCKED": Rule(_W, LONG_HOLD_S, "book"),
    "CRASHED_BEFORE": Rule(_W, 0.0, "starts"), "RUNS_MISSED": Rule(_W, HOLD_S, "schedule"),
    "NO_WATCHDOG": Rule(_W, LONG_HOLD_S, "runner"), "LOGS_UNREADABLE": Rule(_W, LONG_HOLD_S),
    "BREAKER_TRIPPED": Rule(_C, 0.0, "journal"), "BREAKER_SCOPED": Rule(_W, HOLD_S, "journal"),
    "DATA_BEHIND": Rule(_W, HOLD_S, "data"), "STRATEGY_FAILED": Rule(_W, HOLD_S, "scan"),
}  # fmt: skip
_STOP, _WARN = Rule(_C, HOLD_S, "schedule"), Rule(_W, LONG_HOLD_S, "book")


def rests_on(name: str) -> str:
    """The group of Facts that an alert of this name is read from; '' when that is always known."""
    bare = name.partition(":")[0]
    known = RULES.get(bare)
    if known is not None:
        return known.rests_on
    return _RESTS_ON.get(bare, "" if bare.startswith("JOURNAL_") else "schedule")


_RESTS_ON = {
    "PROVIDER_SUCCESS": "data", "IOC_FILL_RATE": "execution", "SLIPPAGE": "execution", "LLM_COST": "",
    "COGNITIVE_APPROVAL": "", "BUDGET_USED": "book", "ORDERS_MANY": "book", "LOSS_STREAK": "book", "DISK_LOW": "",
    "ERRORS_MANY": "errors", "LOGGED": "errors", "PREFLIGHT_LATE": "journal", "BACKUP_LATE": "", "FACT_UNKNOWN": "",
    "RECONCILE_LATE": "book", "SIDECAR_DOWN": "", "CHANNEL_FAILED": "", "NOT_DELIVERED": "", "DEADMAN_FAILED": "",
    "ALERT_STATE": "",
}  # fmt: skip


def _reasons(facts: Facts, ready: Readiness) -> Iterator[Condition]:
    for stop in ready.stops:
        if stop.code in ("RUNNER_STOPPED", "RUNNER_ABSENT") and not _runner_is_wanted(facts):
            continue  # ended by a person, and nothing is due
        yield _reason(stop, RULES.get(stop.code, _STOP), None)
    for warning in ready.warnings:
        if warning.code == "RUNS_MISSED" and facts.schedule is not None:
            missed = [f"{run.id} {run.code}" for run in facts.schedule.today if run.state is RunState.MISSED]
            told = Reason(warning.code, "; ".join((warning.words, *missed)), warning.action)
            yield _reason(told, RULES["RUNS_MISSED"], float(facts.schedule.missed_7d))
        else:
            yield _reason(warning, RULES.get(warning.code, _WARN), None)


def _reason(reason: Reason, rule: Rule, level: float | None) -> Condition:
    return Condition(name=reason.code, state=rule.state, value=reason.words, limit="none", words=reason.words,
                     action=reason.action, hold_s=rule.hold_s, level=level)  # fmt: skip


def _runner_is_wanted(facts: Facts) -> bool:
    if facts.schedule is None:
        return False
    soon = facts.at + RUNNER_WANTED
    waiting = (RunState.WAITING, RunState.OVERDUE, RunState.FAILING, RunState.RUNNING)
    return any(run.state in waiting and run.due_at <= soon for run in facts.schedule.today)


# ---------------------------------------------------------------- book, disk, error log
def _book(facts: Facts, settings: Settings) -> Iterator[Condition]:
    book = facts.book
    if book is not None:
        budget, used = book.budget, settings.alerts.budget_used_pct
        share = float(budget.spent_today_usd / budget.daily_budget_usd)
        state = _C if share > 1 else _W if share > used else State.OK
        yield Condition(name="BUDGET_USED", state=state, value=percent(share), limit=percent(1 if share > 1 else used),
                        words=f"{money(budget.spent_today_usd)} of {money(budget.daily_budget_usd)} today",
                        action="nothing more is bought today; above 100 %: look at it, then reconcile")  # fmt: skip
        many = budget.orders_today / budget.orders_per_day
        yield Condition(name="ORDERS_MANY", state=_C if many > 0.9 else _W if many > 0.5 else State.OK,
                        value=str(budget.orders_today), limit=f"50 % of {budget.orders_per_day}",
                        words=f"{budget.orders_today} orders today",
                        action="why so many? see logs/trades.jsonl")  # fmt: skip
        streak, most = book.trades.loss_streak, settings.cognitive.circuit_breakers.max_loss_streak
        yield Condition(name="LOSS_STREAK", state=_W if streak >= most else State.OK, value=str(streak),
                        limit=str(most), words=f"{streak} losses in a row", action="Review signal quality")  # fmt: skip
    if facts.disk_free_bytes is not None:
        disk = settings.alerts.disk_free_mb
        free = facts.disk_free_bytes / 1_000_000
        state = Limits(disk.warning, disk.critical, falling=True).state(free)
        limit = f"{disk.critical if state is _C else disk.warning} MB"
        yield Condition(name="DISK_LOW", state=state, value=f"{free:,.0f} MB", limit=limit,
                        words=f"{free:,.0f} MB left for state", action="python scripts/cleanup.py --logs")  # fmt: skip


LOGGED: Mapping[str, tuple[State, str]] = {
    "backup_failed": (_W, "python scripts/backup.py --full --verify"),
    "changed_on_disk": (_W, "the program changed under a running process: restart the runner"),
    "inputs_not_recorded": (_W, "free the disk, mend the permissions of logs/"),
    "journal_not_usable": (_C, "python scripts/verify_hash_chain.py"),
    "journal_not_written": (_C, "free the disk; python scripts/verify_hash_chain.py"),
    "journal_unwritable": (_C, "free the disk; python scripts/verify_hash_chain.py"),
    "protection_failed": (_C, "look at the position, close it or place the stop by hand"),
    "resources_strained": (_W, "look at memory, open files and threads of the runner"),
    "beat_not_written": (_W, "mend the permissions of state/"),
    "order_stopped_at_the_door": (_W, "an order was larger than this rung allows: python scripts/ladder.py status"),
    "sidecar_not_started": (_W, "free the port, or set sidecar.port"),
    "vendor_not_believed": (_W, "python scripts/canaries.py; compare the vendors"),
    "watchdog_cannot_reach_broker": (_C, "check the network; cancel at the broker's own page"),
    "watchdog_not_started": (_W, "see logs/errors.jsonl"),
    "watchdog_tripped": (_C, "docs/emergency.md, Resume"),
}
"""Lines of errors.jsonl that no other fact shows, told while they are younger than ERRORS_COUNT_FOR."""


def _errors(facts: Facts, alerts: Alerts) -> Iterator[Condition]:
    if facts.errors_24h is not None:
        state = _W if facts.errors_24h > alerts.errors_24h else State.OK
        yield Condition(name="ERRORS_MANY", state=state, value=str(facts.errors_24h), limit=str(alerts.errors_24h),
                        words=f"{facts.errors_24h} errors in 24 hours", action="see logs/errors.jsonl")  # fmt: skip
    recent = [e for e in facts.errors or () if facts.at - e.at <= ERRORS_COUNT_FOR]
    for error in recent:  # newest first: the first one of a name stands
        if error.code == "BUG":
            yield _logged(error, _C, "a mistake of ours: keep logs/errors.jsonl and report it")
        elif error.event in LOGGED:
            yield _logged(error, *LOGGED[error.event])


def _logged(error: ErrorFacts, state: State, action: str) -> Condition:
    words = f"{error.event}: {error.code} {error.detail}".strip()
    return Condition(name=f"LOGGED:{error.event}", state=state, value=error.code, limit="none", words=words,
                     action=action, hold_s=0.0)  # fmt: skip


# ---------------------------------------------------------------- what only this process sees, what nobody knows
def _own(beside: Beside) -> Iterator[Condition]:
    if beside.sidecar_up is False:
        yield Condition(name="SIDECAR_DOWN", state=_W, words="page and metrics do not answer; trading goes on",
                        action="see logs/errors.jsonl; python scripts/sidecar.py", hold_s=LONG_HOLD_S)  # fmt: skip
    troubles = (
        ("CHANNEL_FAILED", beside.channel_failed, "python scripts/alerts.py test; correct KOBE_ALERT_URLS"),
        ("DEADMAN_FAILED", beside.deadman_failed, "correct KOBE_DEADMAN_URL, or look at the network"),
        ("ALERT_STATE", beside.state_trouble, "mend state/alerts.json or its folder; alerts may come twice"),
    )
    for name, words, action in troubles:
        if words is not None:
            yield Condition(name=name, state=_W, words=words, action=action, hold_s=0.0)
    if beside.undelivered:
        yield Condition(name="NOT_DELIVERED", state=_W, value=str(beside.undelivered), limit="0",
                        words="no channel takes messages; they are kept and tried again",
                        action="python scripts/alerts.py test", hold_s=LONG_HOLD_S)  # fmt: skip


def _not_known(facts: Facts) -> Iterator[Condition]:
    for field, code in facts.unknown.items():
        if field not in _TOLD_OTHERWISE and code not in NOT_YET:
            yield Condition(name=f"FACT_UNKNOWN:{field}", state=_W, value=code, words=f"{field} is unknown: {code}",
                            action="see logs/errors.jsonl", hold_s=LONG_HOLD_S)  # fmt: skip


def standing(look: Look) -> Sequence[Condition]:
    """The bad ones, worst first."""
    return sorted((c for c in look.conditions.values() if c.bad), key=lambda c: (-_RANK[c.state], c.name))
