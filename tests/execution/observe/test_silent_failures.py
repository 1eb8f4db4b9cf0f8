"""Failures that say nothing by themselves: told within 90 s, not ready within 5 s; a clean month tells nothing.

Times are of the clock handed in. `at` is when the failure begins to be one: a run that is due at 10:30 may begin until
10:30:05.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pytest

from core.clock import SteppedClock
from core.market_calendar import NEW_YORK
from execution.observe import state_look
from execution.observe.readiness import readiness
from tests.fakes.alarms import EVALUATE, Alarmed
from tests.fakes.observed import STALLED_AFTER_S, Observed, a_pick, at_ten, ny
from tests.fakes.scans import calendar_2024

TOLD_WITHIN_S, NOT_READY_WITHIN_S = 90.0, 5.0
HALF = timedelta(seconds=0.5)


@dataclass(frozen=True)
class Fault:
    """`do` injects it; `beats`: the runner goes on beating, as if nothing were wrong."""

    alert: str
    do: Callable[[Observed], object]
    beats: bool = True
    stops: bool = True  # it forbids entries: /ready says so
    at: str = "10:00"
    doing: str = "waiting for 2024-03-05T10:30 New York"


def _failed(code: str) -> Callable[[Observed], object]:
    return lambda m: m.journal.append("run_failed", {"run": "2024-03-05T10:30", "code": code, "detail": "x"})


def _done(code: str) -> Callable[[Observed], object]:
    return lambda m: m.done("2024-03-05T10:30", code)


def _starts(made: Observed) -> None:
    document = {"schema_version": 1, "stopped_at": "2024-03-05T14:00:00+00:00", "starts": []}
    (made.home.state / "starts.json").write_text(json.dumps(document))


def _full(made: Observed) -> None:
    DISK["free"] = 1_000_000


def _unreadable_disk(made: Observed) -> None:
    DISK["free"] = None


DISK: dict[str, int | None] = {}


def _old_copy(made: Observed) -> None:
    (made.home.logs / "journal_noted.json").write_text(json.dumps({"seq": 99, "hash": "ab"}))


def _providers(success: int, failure: int) -> Callable[[Observed], object]:
    def write(made: Observed) -> None:
        day = {"2024-03-05": {"success": success, "failure": failure}}
        row = {"success": success, "failure": failure, "kinds": {}, "days": day, "last_error": "401"}
        document = {"schema_version": 1, "providers": {"polygon": row}}
        (made.home.state / "provider_stats.json").write_text(json.dumps(document))

    return write


def _bare(made: Observed) -> None:
    made.buy("BBB")


def _broken(made: Observed) -> None:
    told = {"symbol": "AAA", "kind": "POSITION_QUANTITY", "cause": "MANUAL_TRADE", "ours": "1", "theirs": "3"}
    made.journal.append("break_found", {**told, "proposal": "x", "evidence": []})


FAULTS: dict[str, Fault] = {
    # ---------------------------------------------------- nothing is entered any more, and nobody said a word
    "hung thread": Fault("RUNNER_STALLED", lambda m: None, beats=False),
    "killed in a run": Fault("RUNNER_STALLED", lambda m: m.beat("running 2024-03-05T10:30"), beats=False),
    "dead scheduler": Fault("RUN_OVERDUE", lambda m: None, at="10:30:05"),
    "swallowed exception": Fault("RUN_FAILING", _failed("BUG")),
    "stuck lock": Fault("RUN_FAILING", _failed("STATE_LOCKED")),
    "empty universe": Fault("UNIVERSE_EMPTY", lambda m: m.scanned(refused={})),
    "zero rows": Fault("DATA_PARTIAL", _done("DATA_PARTIAL")),
    "frozen feed": Fault("DATA_STALE", _done("DATA_STALE")),
    "every vendor gone": Fault("ALL_PROVIDERS_FAILED", _done("ALL_PROVIDERS_FAILED")),
    "no VIX": Fault("VIX_UNKNOWN", lambda m: m.scanned(vix=None)),
    "full disk": Fault("DISK_FULL", _full),
    "disk that cannot be asked": Fault("DISK_UNREADABLE", _unreadable_disk),
    "expired key": Fault("KEYS_REFUSED", lambda m: m.log("errors.jsonl", "keys_refused", code="UNAUTHORIZED")),
    "broker gone": Fault("BROKER_DOWN", lambda m: m.log("errors.jsonl", "broker_unreachable", code="BROKER_DOWN")),
    "crash loop": Fault("CRASH_LOOP", _starts, beats=False),
    "gave up": Fault("RUNNER_GAVE_UP", lambda m: m.beat("gave up"), beats=False),
    "stopped before a run": Fault("RUNNER_STOPPED", lambda m: m.beat("stopped"), beats=False, at="10:01"),
    "runner never started": Fault("RUNNER_ABSENT", lambda m: (m.home.state / "runner.json").unlink(), beats=False,
                                  at="10:01"),
    "runner file damaged": Fault("RUNNER_FILE_DAMAGED", lambda m: (m.home.state / "runner.json").write_bytes(b"{"),
                                 beats=False),
    "journal damaged": Fault("JOURNAL_DAMAGED", lambda m: m.home.journal.write_bytes(b"{}\n")),
    "journal gone": Fault("JOURNAL_SHRANK", lambda m: m.home.journal.unlink()),
    "old journal put back": Fault("STATE_RESTORED", _old_copy),
    "another account": Fault("ACCOUNT_MISMATCH", lambda m: m.bind("live")),
    "kill switch nobody knows of": Fault("KILL_SWITCH", lambda m: m.home.kill_switch.write_bytes(b"\xff\xfe1\0")),
    "halted and forgotten": Fault("NOT_RESUMED", lambda m: m.journal.append(
        "trading_halted", {"code": "KILL_SWITCH", "why": "x"})),
    "clock set back": Fault("RUNNER_STALLED", lambda m: m.clock.set(m.clock.now() - timedelta(hours=1)), beats=False),
    "scan that missed what it needed": Fault("EARNINGS_UNKNOWN", _done("EARNINGS_UNKNOWN")),
    # ---------------------------------------------------- trading goes on, and something else does not
    "a run without an end": Fault("RUN_LONG", lambda m: None, stops=False, at="10:45:01",
                                  doing="running 2024-03-05T10:30"),
    "one strategy off": Fault("STRATEGY_FAILED", lambda m: m.scanned(off=["ibs_rsi"]), stops=False),
    "bars of last week": Fault("DATA_BEHIND", lambda m: m.scanned(session="2024-02-28"), stops=False),
    "bars of the day before": Fault("DATA_LATE", lambda m: m.scanned(session="2024-03-01"), stops=False),
    "vendor dying": Fault("PROVIDER_SUCCESS:polygon", _providers(94, 6), stops=False),
    "vendor key expired": Fault("PROVIDER_SUCCESS:polygon", _providers(0, 9), stops=False),
    "position without its stop": Fault("POSITION_UNPROTECTED", _bare, stops=False),
    "break with the broker": Fault("BREAKS", _broken, stops=False),
    "order nobody knows of": Fault("ORDERS_UNKNOWN", lambda m: m.journal.append(
        "order_intended", _INTENT), stops=False),
    "backup that fails": Fault("LOGGED:backup_failed", lambda m: m.log(
        "errors.jsonl", "backup_failed", code="BACKUP_NO_ROOM"), stops=False),
    "journal not written": Fault("LOGGED:journal_not_written", lambda m: m.log(
        "errors.jsonl", "journal_not_written", code="STATE_LOCKED"), stops=False),
    "a mistake of ours": Fault("LOGGED:command_crashed", lambda m: m.log(
        "errors.jsonl", "command_crashed", code="BUG"), stops=False),
    "error log unreadable": Fault("LOGS_UNREADABLE", lambda m: _folder(m.home.logs / "errors.jsonl"), stops=False),
    "provider file damaged": Fault("FACT_UNKNOWN:data.providers", lambda m: (
        m.home.state / "provider_stats.json").write_bytes(b"{"), stops=False),
    "inputs damaged": Fault("FACT_UNKNOWN:scan", lambda m: m.scanned(refused=7), stops=False),
    "a run missed": Fault("RUNS_MISSED", lambda m: m.journal.append(
        "run_missed", {"run": "2024-03-05T09:35", "code": "OVERSLEPT"}), stops=False),
    "no watchdog": Fault("NO_WATCHDOG", lambda m: setattr(m.beat, "_watchdog", None), stops=False),
}  # fmt: skip
_INTENT: dict[str, object] = {}


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.fixture(autouse=True)
def _disk(monkeypatch: pytest.MonkeyPatch) -> None:
    DISK["free"] = 50_000_000_000
    monkeypatch.setattr(state_look, "disk_free_bytes", lambda folder: DISK["free"])


def injected(root: Path, fault: Fault) -> tuple[Observed, Callable[[], None]]:
    """The world one look before the injection, and how its time passes after it."""
    from execution.ledger import intent_body
    from tests.fakes.trading import entry

    made = at_ten(root)
    made.journal.append("preflight_passed", {"by": "x"})
    made.clock.set(ny(fault.at) - EVALUATE)
    _INTENT.update(intent_body(entry("CCC", at=made.clock.now())))
    made.alive(fault.doing)
    return made, lambda: made.beat(fault.doing) if fault.beats else None


def test_at_least_twenty_kinds_forbid_entries() -> None:
    assert sum(f.stops for f in FAULTS.values()) >= 20 and len(FAULTS) >= 40


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_it_is_told_within_ninety_seconds(tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    made, passes = injected(tmp_path, fault)
    alarmed = Alarmed(made)
    assert alarmed.step().entries == {}
    made.clock.advance(EVALUATE)
    made.alive(fault.doing)
    fault.do(made)
    alarmed.run(TOLD_WITHIN_S - 5, passes)
    assert fault.alert in alarmed.channels[0].text, alarmed.names()
    assert fault.alert in alarmed.names()


@pytest.mark.parametrize("name", sorted(name for name, fault in FAULTS.items() if fault.stops))
def test_ready_says_no_within_five_seconds(tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    made, passes = injected(tmp_path, fault)
    observer = made.observer()
    assert readiness(observer.look(), stalled_after_s=STALLED_AFTER_S).ready
    made.clock.advance(EVALUATE)
    made.alive(fault.doing)
    fault.do(made)
    waited = timedelta(0)
    while readiness(observer.look(), stalled_after_s=STALLED_AFTER_S).ready:
        assert waited < timedelta(seconds=NOT_READY_WITHIN_S), "still ready"
        made.clock.advance(HALF)
        passes()
        waited += HALF


# ---------------------------------------------------------------- nothing wrong, nothing told
def _session(made: Observed, alarmed: Alarmed, day: date) -> None:
    """One trading day: preflight, scans, an order, its fill, the close-out; looked at before, in and after each."""
    calendar = calendar_2024()
    at = ["08:30", "09:00", "09:29:55", "09:31"]
    _looks(made, alarmed, day, at[:1])
    made.journal.append("preflight_passed", {"by": "preflight --all"})
    _looks(made, alarmed, day, at[1:])
    closes = calendar.closes_at(day).astimezone(NEW_YORK)
    scans = ["09:35", "10:30", "15:55"] if closes.hour == 16 else ["09:35", "10:30", "12:55"]
    labels = dict(zip(scans, ["09:35", "10:30", "15:55"], strict=True))
    before = calendar.previous_session(day)
    for wall in scans:
        run = f"{day}T{labels[wall]}"
        _looks(made, alarmed, day, [f"{wall}:00"], doing=f"waiting for {run} New York")
        made.clock.advance(timedelta(seconds=2))
        made.alive(f"running {run}")
        alarmed.step()
        decision = made.buy(f"S{day:%m%d}") if wall == scans[0] else ""
        if decision:
            alarmed.step()  # bought, its stop is not yet out
            made.protect(f"S{day:%m%d}")
        made.scanned(*([a_pick(decision)] if decision else []), run=run, session=before.isoformat())
        made.done(run, "OK" if decision else "NO_PICKS")
        made.log("events.jsonl", "scan_run", code="OK")
        made.alive("waiting")
        alarmed.run(30, lambda: made.alive("waiting"))
    if not decision:
        made.sell(f"S{day:%m%d}")
    close = closes + timedelta(minutes=1)
    _looks(made, alarmed, day, [f"{close:%H:%M}"])
    made.done(f"{day}Tclose")
    _looks(made, alarmed, day, ["16:20", "17:00"])
    _looks(made, alarmed, day, ["20:00", "23:59"], doing="stopped" if day.weekday() == 2 else "waiting")


def _looks(made: Observed, alarmed: Alarmed, day: date, walls: list[str], doing: str = "waiting") -> None:
    for wall in walls:
        made.clock.set(ny(wall, day))
        made.alive(doing)
        alarmed.run(10, lambda: made.alive(doing))


def test_a_clean_month_tells_nothing(tmp_path: Path) -> None:
    first, last = date(2024, 6, 24), date(2024, 7, 26)  # the half day of 3 July and the holiday after it are in it
    calendar = calendar_2024()
    made = Observed(tmp_path, SteppedClock(ny("08:00", first)))
    made.bind()
    made.alive()
    alarmed = Alarmed(made, changes={"backup_at": lambda: ny("18:00", first - timedelta(days=2))})
    day, sessions = first, 0
    while day <= last:
        if calendar.is_session(day):
            _session(made, alarmed, day)
            sessions += 1
        else:
            _looks(made, alarmed, day, ["03:00", "09:40", "12:00", "16:30"])
        day += timedelta(days=1)
    assert sessions >= 23
    assert alarmed.channels[0].text == ""
    assert alarmed.step().entries == {}


def test_the_month_is_not_clean_by_blindness(tmp_path: Path) -> None:
    """The same month would have told: one scan left out of it does."""
    made = Observed(tmp_path, SteppedClock(ny("08:00", date(2024, 7, 8))))
    made.bind()
    made.alive()
    alarmed = Alarmed(made)
    _looks(made, alarmed, date(2024, 7, 8), ["08:30", "09:36"])
    assert "RUN_OVERDUE" in alarmed.channels[0].text
