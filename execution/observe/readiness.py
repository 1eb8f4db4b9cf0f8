"""May it trade, and is it alive? Reason codes in a fixed order, worst first. Pure.

A `stop` is one reason why no entry will be made now; one is enough. A `warning` is told and stops nothing as a whole:
it concerns single symbols, or a thing that mends itself. What is not known is a stop where trading rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from execution.observe.facts import BreakerFacts, Facts, RunFacts, RunnerFacts, RunState
from execution.observe.words import at_new_york, plural

FINE_RUNS = frozenset({"OK", "NO_PICKS", "ENTRIES_AT_FIRST_SCAN"})
"""Ends of a scan that had everything it needed."""
DISK_LEAST_BYTES = 64 * 1024 * 1024
BEHIND_WARN = 2
"""Sessions that the bars may lag: one is usual from a close to the next morning's scan."""
SWITCH, RECONCILE = "docs/emergency.md, Resume", "python scripts/reconcile_alpaca.py"
START = "start the runner: python scripts/runner.py --mode paper"


@dataclass(frozen=True, slots=True)
class Reason:
    code: str
    words: str
    action: str


@dataclass(frozen=True, slots=True)
class Readiness:
    stops: tuple[Reason, ...]
    warnings: tuple[Reason, ...]

    @property
    def ready(self) -> bool:
        return not self.stops

    @property
    def state(self) -> str:
        """One word for people."""
        codes = {reason.code for reason in self.stops}
        if codes & {"KILL_SWITCH", "NOT_RESUMED"}:
            return "HALTED"
        return "ARMED" if self.ready else "NOT READY"


def readiness(facts: Facts, *, stalled_after_s: float) -> Readiness:
    return Readiness(tuple(_stops(facts, stalled_after_s)), tuple(_warnings(facts)))


def alive(facts: Facts, *, stalled_after_s: float) -> tuple[Reason, ...]:
    """Why the runner is not alive and moving; empty when it is."""
    return tuple(_runner(facts, stalled_after_s))


def _when(facts: Facts, at: datetime) -> str:
    return f"{at_new_york(at, facts.at)} New York"


# ---------------------------------------------------------------- stops
def _stops(facts: Facts, stalled_after_s: float) -> Iterator[Reason]:
    yield from _switch(facts)
    yield from _journal(facts)
    yield from _runner(facts, stalled_after_s)
    yield from _broker(facts)
    yield from _schedule(facts)
    yield from _scan(facts)
    yield from _tripped(facts)
    yield from _disk(facts)


def _switch(facts: Facts) -> Iterator[Reason]:
    if facts.switch.present:
        yield Reason("KILL_SWITCH", facts.switch.found or "the kill switch is active", SWITCH)
    elif facts.switch.halted_since is not None and not facts.switch.passed_since_halt:
        words = f"halted since {_when(facts, facts.switch.halted_since)}, no preflight has passed since"
        yield Reason("NOT_RESUMED", words, "python scripts/preflight.py --cognitive")


def _journal(facts: Facts) -> Iterator[Reason]:
    if facts.journal is None:
        code = facts.unknown.get("journal", "JOURNAL_UNREADABLE")
        words = "there is no journal yet" if code == "JOURNAL_ABSENT" else "the journal cannot be read"
        yield Reason(code, words, START if code == "JOURNAL_ABSENT" else "python scripts/verify_hash_chain.py")
    elif facts.journal.noted_seq is not None and facts.journal.noted_seq > facts.journal.records:
        words = f"the journal ends at record {facts.journal.records}, {facts.journal.noted_seq} were seen: an old copy"
        yield Reason("STATE_RESTORED", words, f"{RECONCILE} --full, then restart the runner")
    account = None if facts.book is None else facts.book.account
    if account is not None and account["mode"] != facts.mode:
        words = f"this journal belongs to the {account['mode']} account, this was started for {facts.mode}"
        yield Reason("ACCOUNT_MISMATCH", words, f"--mode {account['mode']}, or another KOBE_HOME")


def _runner(facts: Facts, stalled_after_s: float) -> Iterator[Reason]:
    if facts.starts is not None and facts.starts.stopped_at is not None:
        words = f"it crashed again and again, and stays down since {facts.starts.stopped_at}"
        yield Reason("CRASH_LOOP", words, "read logs/errors.jsonl, then remove state/starts.json and start again")
    runner = facts.runner
    if runner is None:
        code = facts.unknown.get("runner", "RUNNER_ABSENT")
        words = "no runner has worked on this home" if code == "RUNNER_ABSENT" else "state/runner.json is damaged"
        yield Reason(code, words, START)
    elif runner.ended:
        code = "RUNNER_STOPPED" if runner.stopped else "RUNNER_GAVE_UP"
        yield Reason(code, f"the runner {'was stopped' if runner.stopped else 'gave up'}", START)
    else:
        yield from _progress(runner, stalled_after_s)


def _progress(runner: RunnerFacts, stalled_after_s: float) -> Iterator[Reason]:
    who = f"the runner (pid {runner.pid})"
    if runner.beat_age_s is None:
        yield Reason("CLOCK_BEHIND_BEAT", f"{who} beats in the future: this clock was set back", "correct the clock")
    elif runner.beat_age_s > stalled_after_s:
        words = f"{who} has not moved for {runner.beat_age_s:.0f} s, doing: {runner.doing}"
        yield Reason("RUNNER_STALLED", words, "look at it; the watchdog cancels what is out. Then restart it")
    elif runner.doing == "starting":
        yield Reason("RUNNER_STARTING", f"{who} is starting", "wait")
    elif runner.doing.startswith("waiting ") and "crashes" in runner.doing:
        yield Reason("RUNNER_BACKING_OFF", f"{who} is {runner.doing}", "read logs/errors.jsonl")


def _broker(facts: Facts) -> Iterator[Reason]:
    if facts.broker.down_since is not None:
        words = f"the broker cannot be reached since {_when(facts, facts.broker.down_since)}"
        yield Reason("BROKER_DOWN", words, "check the network and the broker's status page")
    if facts.broker.keys_refused_at is not None:
        words = f"the broker refused these keys at {_when(facts, facts.broker.keys_refused_at)}"
        yield Reason("KEYS_REFUSED", words, "renew the keys, then restart the runner")


def _schedule(facts: Facts) -> Iterator[Reason]:
    if facts.schedule is None:
        if facts.journal is not None:
            yield Reason(facts.unknown.get("schedule", "SCHEDULE_UNKNOWN"), "the schedule is not known", "see the logs")
        return
    for run in facts.schedule.today:
        if run.state is RunState.OVERDUE:
            words = f"{run.id} was due at {_when(facts, run.due_at)}, and nothing is known of it"
            yield Reason("RUN_OVERDUE", words, "see logs/errors.jsonl; restart the runner")
        elif run.state is RunState.FAILING:
            yield Reason("RUN_FAILING", f"{run.id} fails: {run.code}", "see logs/errors.jsonl")
    last = _last_scan(facts.schedule.today)
    if last is not None and last.state is RunState.DONE and last.code not in FINE_RUNS and not _by_breaker(last):
        yield Reason(last.code, f"the newest scan, {last.id}, could enter nothing", "see logs/events.jsonl")


def _by_breaker(run: RunFacts) -> bool:
    """Told by the breaker itself, for as long as it stands."""
    return run.code.startswith("BREAKER_")


def _last_scan(runs: tuple[RunFacts, ...]) -> RunFacts | None:
    """The newest scan of today that is over; the close-out makes no entries."""
    over = [r for r in runs if r.state in (RunState.DONE, RunState.MISSED) and r.label != "close"]
    return over[-1] if over else None


def _scan(facts: Facts) -> Iterator[Reason]:
    """What keeps today's scans from opening anything, although each of them ends well."""
    scan, schedule = facts.scan, facts.schedule
    if scan is None or schedule is None or not scan.run.startswith(f"{schedule.session}T"):
        return
    if scan.considered == 0:
        yield Reason("UNIVERSE_EMPTY", f"{scan.run} considered no symbol", "look at the universe file")
    if scan.vix is None:
        yield Reason("VIX_UNKNOWN", "an unknown VIX opens nothing", "python scripts/preflight.py --data")


def _tripped(facts: Facts) -> Iterator[Reason]:
    """Breakers that let nothing be entered; exits always pass."""
    for breaker in facts.cognitive.breakers or ():
        if breaker.scope == "all":
            yield Reason("BREAKER_TRIPPED", f"entries refused: {_breaker(breaker)}", _resume(breaker))


def _breaker(breaker: BreakerFacts) -> str:
    end = "until a person resumes it" if breaker.until is None else f"to the end of {breaker.until}"
    return f"{breaker.name}, {breaker.reason}, {end}"


def _resume(breaker: BreakerFacts) -> str:
    return f"look, then python scripts/breakers.py resume {breaker.lock_id} --reason TEXT"


def _disk(facts: Facts) -> Iterator[Reason]:
    free = facts.disk_free_bytes
    if free is None:
        yield Reason(facts.unknown.get("disk_free_bytes", "DISK_UNREADABLE"), "the state folder cannot be read", "")
    elif free < DISK_LEAST_BYTES:
        yield Reason("DISK_FULL", f"{free // 1_000_000} MB left for state", "free the disk")


# ---------------------------------------------------------------- warnings
def _warnings(facts: Facts) -> Iterator[Reason]:
    book = facts.book
    if book is not None:
        if book.unsettled:
            yield Reason(
                "ORDERS_UNKNOWN", f"{plural(book.unsettled, 'order')} may be live; locked until it is known", RECONCILE
            )
        if book.unprotected:
            words = f"no resting stop known for {', '.join(book.unprotected[:5])}"
            yield Reason("POSITION_UNPROTECTED", words, "the runner puts it back; else close it")
        if book.reconcile is not None and book.reconcile.breaks:
            yield Reason("BREAKS", f"{plural(book.reconcile.breaks, 'break')} with the broker", RECONCILE)
        if book.locked:
            words = ", ".join(f"{s} {code}" for s, code in list(book.locked.items())[:5])
            yield Reason("SYMBOLS_LOCKED", words, RECONCILE)
    if facts.starts is not None and facts.starts.crashes:
        yield Reason("CRASHED_BEFORE", f"{facts.starts.crashes} of the last starts crashed", "read logs/errors.jsonl")
    if facts.schedule is not None and facts.schedule.missed_7d:
        yield Reason("RUNS_MISSED", f"{facts.schedule.missed_7d} in the last seven days", "see logs/errors.jsonl")
    yield from _data(facts)
    for breaker in facts.cognitive.breakers or ():
        if breaker.scope != "all":
            words = f"{breaker.scope} {breaker.what} is not entered: {_breaker(breaker)}"
            yield Reason("BREAKER_SCOPED", words, _resume(breaker))
    if facts.runner is not None and not facts.runner.ended and not facts.runner.watched:
        yield Reason("NO_WATCHDOG", "nobody cancels orders when the runner hangs", "set watchdog.enabled: true")
    if facts.errors_24h is None:
        yield Reason("LOGS_UNREADABLE", "logs/errors.jsonl cannot be read", "mend its permissions")


def _data(facts: Facts) -> Iterator[Reason]:
    if facts.data is not None and (facts.data.sessions_behind or 0) >= BEHIND_WARN:
        words = f"bars of {facts.data.session}, {facts.data.expected_session} has closed"
        yield Reason("DATA_BEHIND", words, "python scripts/preflight.py --data")
    if facts.scan is not None and facts.scan.strategies_off:
        yield Reason("STRATEGY_FAILED", ", ".join(facts.scan.strategies_off), "see logs/errors.jsonl")
