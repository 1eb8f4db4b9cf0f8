"""From trades that closed to entries that are refused: the breakers on a real ledger, beside a real session."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cognitive.circuit_breakers import FILE
from config.settings_schema import Settings
from core.domain import ExitReason, Purpose
from core.errors import Exit
from core.paths import Home
from core.ports import Regime
from scripts import breakers as command
from scripts.breaking import BreakerWatch
from tests.fakes.scans import Scene, calendar_2024, decision, due, hold, scene
from tests.fakes.trading import TODAY

LOSERS = ("LOSA", "LOSB", "LOSC", "LOSD", "LOSE")


def watch_of(made: Scene, **breaker_settings: Any) -> BreakerWatch:
    settings = Settings()
    chosen = settings.cognitive.circuit_breakers.model_copy(update=breaker_settings)
    cognitive = settings.cognitive.model_copy(update={"circuit_breakers": chosen})
    context: Any = SimpleNamespace(
        home=Home(made.world.root), settings=settings.model_copy(update={"cognitive": cognitive}),
        clock=made.world.clock, calendar=calendar_2024(),
    )  # fmt: skip
    watch = BreakerWatch(context, made.world.desk.journal, made.world.desk.ledger)
    made.session._locks = watch.locks
    return watch


def lose(made: Scene, *symbols: str, bid: str = "48.00") -> None:
    """They leave at the market, below what they were bought at."""
    before = made.broker.bid, made.broker.ask
    made.broker.bid, made.broker.ask = Decimal(bid), Decimal(bid) + Decimal("0.01")
    made.planner.exits_ = [(decision(s), ExitReason.TIME) for s in symbols]
    made.session.run(due("09:40"))
    made.planner.exits_ = []
    made.broker.bid, made.broker.ask = before
    trades = made.ledger().trades
    assert all(not trades[decision(s)].is_open for s in symbols)


def entered(made: Scene) -> list[str]:
    found = [o for o in made.ledger().orders.values() if o.intent.purpose is Purpose.ENTRY]
    return sorted(str(o.intent.symbol) for o in found if str(o.intent.symbol).startswith("PICK"))


def picks(made: Scene, *symbols: str) -> None:
    from tests.fakes.scans import a_plan

    made.planner.plan_ = a_plan(*symbols)


def streak(root: Path, count: int = 5) -> tuple[Scene, BreakerWatch]:
    made = scene(root)
    hold(made, *LOSERS[:count])
    watch = watch_of(made)
    lose(made, *LOSERS[:count])
    watch.look(TODAY)
    return made, watch


def test_five_losses_refuse_entries_until_a_person_resumes_and_not_again_on_the_same_five(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, watch = streak(tmp_path)
    assert watch.locks().everything == "BREAKER_LOSS_STREAK"
    picks(made, "PICKA")
    assert made.session.run(due("10:00")).code == "BREAKER_LOSS_STREAK" and entered(made) == []
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    argv = ["resume", "loss_streak", "--reason", "looked at all five"]
    assert command.main(argv, clock=made.world.clock) == Exit.OK
    assert watch.locks().everything is None, "the runner obeys at once"
    watch.look(TODAY)
    assert watch.locks().everything is None, "what was seen does not trip again"
    made.session.run(due("10:30"))
    assert entered(made) == ["PICKA"]


def test_four_losses_refuse_nothing(tmp_path: Path) -> None:
    made, watch = streak(tmp_path, 4)
    assert watch.locks().everything is None and not (tmp_path / "state" / FILE).exists()
    assert "breaker_tripped" not in made.world.kinds()


def test_exits_pass_while_a_breaker_is_tripped(tmp_path: Path) -> None:
    made = scene(tmp_path)
    hold(made, *LOSERS, "HELD")
    watch = watch_of(made)
    lose(made, *LOSERS)
    watch.look(TODAY)
    assert watch.locks().everything == "BREAKER_LOSS_STREAK"
    lose(made, "HELD", bid="52.00")


def test_P55_a_breaker_stands_after_a_restart_without_its_file(tmp_path: Path) -> None:
    made, _ = streak(tmp_path)
    (tmp_path / "state" / FILE).unlink()
    made.restart()
    again = watch_of(made)
    assert again.locks().everything == "BREAKER_LOSS_STREAK" and (tmp_path / "state" / FILE).exists()
    picks(made, "PICKA")
    made.session.run(due("10:00"))
    assert entered(made) == []


def test_a_restart_judges_on_the_same_evidence_and_trips_nothing_new(tmp_path: Path) -> None:
    """Profit at each run is what it was then, whatever has closed since."""
    made, watch = streak(tmp_path)
    watch.breakers.clear("loss_streak", reason="seen", by="person")
    made.restart()
    again = watch_of(made)
    assert again.look(TODAY) == () and again.locks().everything is None
    before, after = watch._gathered.collector, again._gathered.collector
    watch.look(TODAY)
    assert before.points == after.points and before.trades == after.trades and len(after.trades) == 5
    assert list(before.entries) == list(after.entries)


def test_what_cannot_be_judged_refuses_entries_until_it_can(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA")
    watch = watch_of(made)
    file = tmp_path / "state" / FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"schema_version": 99}')
    assert watch.look(TODAY) == () and watch.blind == "STATE_NEWER"
    assert watch.locks().everything == "BREAKERS_UNREADABLE"
    assert made.session.run(due("10:00")).code == "BREAKERS_UNREADABLE" and entered(made) == []
    file.unlink()
    watch.look(TODAY)
    assert watch.locks().everything is None
    made.session.run(due("10:30"))
    assert entered(made) == ["PICKA"]


def test_a_mistake_in_a_rule_refuses_entries_and_ends_no_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scene(tmp_path, "PICKA")
    hold(made, "DUE")
    watch = watch_of(made)
    monkeypatch.setattr("scripts.breaking.judge", lambda *_: 1 / 0)
    watch.look(TODAY)
    made.planner.exits_ = [(decision("DUE"), ExitReason.TIME)]
    assert made.session.run(due("10:00")).code == "BREAKERS_UNREADABLE"
    assert not made.ledger().trades[decision("DUE")].is_open and entered(made) == []


def test_a_mistake_in_asking_for_locks_refuses_entries_and_ends_no_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scene(tmp_path, "PICKA")
    hold(made, "DUE")
    watch = watch_of(made)
    monkeypatch.setattr("scripts.breaking.current_session", lambda *_: 1 / 0)
    made.planner.exits_ = [(decision("DUE"), ExitReason.TIME)]
    assert made.session.run(due("10:00")).code == "BREAKERS_UNREADABLE" and watch.blind == ""
    assert not made.ledger().trades[decision("DUE")].is_open and entered(made) == []


def test_off_means_that_nothing_trips_and_no_lock_is_kept(tmp_path: Path) -> None:
    made, _ = streak(tmp_path)
    off = watch_of(made, enabled=False)
    assert off.look(TODAY) == () and off.locks().everything is None


def test_a_drawdown_of_the_day_ends_with_the_next_session(tmp_path: Path) -> None:
    made = scene(tmp_path)
    hold(made, *LOSERS)
    watch = watch_of(made, daily_drawdown_pct=0.004, max_loss_streak=100)
    lose(made, *LOSERS)
    (lock,) = watch.look(TODAY)
    assert (lock.name, lock.until) == ("daily_drawdown", date(2024, 3, 6)) and "USD lost" in lock.reason
    made.world.clock.set(made.world.clock.now() + timedelta(days=1))
    assert watch.locks().everything == "BREAKER_DAILY_DRAWDOWN"
    made.world.clock.set(made.world.clock.now() + timedelta(days=1))
    assert watch.locks().everything is None
    watch.look(date(2024, 3, 7))
    assert made.world.kinds()[-1] == "breaker_cleared"


@pytest.mark.parametrize(("of", "trips"), [(date(2024, 2, 28), False), (date(2024, 2, 27), True)])
def test_the_regime_that_a_scan_is_about_to_decide_with_is_looked_at_first(
    tmp_path: Path, of: date, trips: bool
) -> None:
    """The scan of 5 March decides on the session of 4 March: 28 February is 3 sessions before it."""
    watch = watch_of(scene(tmp_path))
    regime = Regime(label="calm", session=of, since=None, probability=0.9, source="regime-1")
    assert [lock.name for lock in watch.look(TODAY, regime)] == (["regime_stuck"] if trips else [])


def test_entries_that_hardly_fill_trip_execution_quality(tmp_path: Path) -> None:
    """Six entries of two shares each: nothing filled of five, half of one."""
    made = scene(tmp_path)
    watch = watch_of(made, window=6, fill_rate_least=0.5)
    names = [f"PICK{letter}" for letter in "ABCDEF"]
    picks(made, *names)
    for name in names:
        made.broker.plan[f"kobe-20240304-ibs_rsi-{name}-buy-entry-1"] = 0
    made.session.run(due("10:00"))
    sent = [o for o in made.ledger().orders.values() if o.intent.purpose is Purpose.ENTRY]
    found = watch.look(TODAY)
    assert len(sent) == len(watch._gathered.collector.entries) >= 6
    filled = sum(e.filled for e in watch._gathered.collector.entries) / len(sent)
    assert [lock.name for lock in found] == (["execution_quality"] if filled < 0.5 else [])
    assert filled < 0.5, "else this shows nothing"


def test_the_reading_of_a_long_journal_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, watch = streak(tmp_path)
    calls: list[int] = []
    collector = watch._gathered.collector
    plain = collector.add
    monkeypatch.setattr(collector, "add", lambda kind, body, seq, at: (calls.append(seq), plain(kind, body, seq, at)))
    for _ in range(3):
        watch.look(TODAY)
        watch.locks()
    assert calls == []
    made.world.desk.journal.append("preflight_passed", {"may_open": True})
    watch.look(TODAY)
    assert len(calls) == 1


# ---------------------------------------------------------------- the command
@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    (tmp_path / "state").mkdir()
    return tmp_path


def run(*argv: str) -> int:
    from core.clock import SteppedClock

    return command.main(argv, clock=SteppedClock(datetime(2024, 3, 5, 15, 0, tzinfo=UTC)))


def test_trip_status_and_resume(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status") == Exit.OK
    assert run("trip", "manual", "--reason", "travelling") == Exit.OK
    assert run("trip", "manual", "--reason", "again") == Exit.NO
    assert run("trip", "loss_concentration", "--symbol", "brk-b", "--sessions", "3", "--reason", "news") == Exit.OK
    assert run("status") == Exit.NO
    said = capsys.readouterr().out
    assert "TRIPPED  manual: travelling" in said and "to the end of 2024-03-08" in said
    assert run("resume", "manual", "--reason", "back") == Exit.OK
    assert run("resume", "manual", "--reason", "back") == Exit.NO
    assert run("resume", "loss_concentration:symbol:BRK.B", "--reason", "read it", "--json") == Exit.OK
    assert '"id":"loss_concentration:symbol:BRK.B"' in capsys.readouterr().out
    assert run("status", "--json") == Exit.OK


@pytest.mark.parametrize(
    "argv",
    [["resume", "manual"], ["trip", "manual"], ["trip", "nothing", "--reason", "x"], ["status", "manual"],
     ["resume", "--reason", "x"], ["resume", "manual", "--reason", "x", "--sessions", "1"],
     ["trip", "manual", "--reason", "x", "--sessions", "-1"], ["trip", "manual", "--reason", "  "],
     ["trip", "manual", "--reason", "x", "--symbol", "no ticker!"]],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(at_home: Path, argv: list[str]) -> None:
    from core.errors import UsageError

    with pytest.raises(UsageError):
        run(*argv)
    assert not (at_home / "state" / "hash_chain.jsonl").exists()


def test_status_of_a_journal_that_cannot_be_read_has_its_own_exit(
    at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (at_home / "state" / "hash_chain.jsonl").write_text("garbage\n" * 3)
    assert run("status") == Exit.STATE_CORRUPT
    assert "entries refused" in capsys.readouterr().out
