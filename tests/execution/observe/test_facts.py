"""Facts against homes that are written record by record: what is told, what is not known, and what it costs."""

from __future__ import annotations

import json
import os
import shutil
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.clock import SteppedClock
from core.errors import StateCorrupt
from core.journal import Journal
from execution.observe.facts import RunState
from execution.observe.journal_look import JournalLook
from tests.fakes.observed import TUESDAY, Observed, a_pick, at_ten, ny


# ---------------------------------------------------------------- what is told
def test_a_morning_is_told_whole(tmp_path: Path) -> None:
    facts = at_ten(tmp_path).look()
    assert facts.book is not None and facts.journal is not None and facts.schedule is not None
    (held,) = facts.book.positions
    assert (held.symbol, held.quantity, held.broker_quantity) == ("AAA", 1, "1")
    assert (held.average_price, held.stop, held.protected) == (Decimal("50.0500"), Decimal("45.00"), True)
    (order,) = facts.book.open_orders
    assert (order.purpose, order.side, order.kind, order.unsettled) == ("protect", "sell", "stop", False)
    assert facts.book.budget.spent_today_usd == Decimal("50.05") and facts.book.budget.orders_today == 2
    assert facts.book.reconcile is not None and facts.book.reconcile.breaks == 0
    assert facts.book.reconcile.age_s == pytest.approx(25 * 60, abs=1)
    assert facts.journal.records == 8 and facts.journal.noted_seq is None
    assert facts.schedule.next_id == "2024-03-05T10:30" and facts.schedule.last_code == "OK"
    assert [run.state for run in facts.schedule.today] == ["done", "waiting", "waiting", "waiting"]
    assert facts.data is not None and facts.data.sessions_behind == 0


def test_an_account_number_is_shortened(tmp_path: Path) -> None:
    facts = at_ten(tmp_path).look()
    assert facts.book is not None and facts.book.account is not None
    assert facts.book.account["number"] == "…RETX" and "account-1" not in repr(facts.book.account)


def test_what_no_module_tells_yet_is_unknown_and_never_zero(tmp_path: Path) -> None:
    facts = at_ten(tmp_path).look()
    assert facts.llm.cost_usd_today is None and facts.unknown["llm.cost_usd_today"] == "LLM_ABSENT"
    assert facts.cognitive.approval_rate is None and facts.unknown["cognitive.approval_rate"] == "NO_REVIEWS"
    assert facts.cognitive.decisions_today == 0 and facts.cognitive.breakers == ()
    assert facts.llm.cost_budget_usd == Decimal("50.0")


def test_a_persons_record_long_after_the_runs_makes_none_of_them_overdue(tmp_path: Path) -> None:
    """The account of a replay stands still; a pin or a lock made in its home later bears the time it really is."""
    made = at_ten(tmp_path)
    before = made.look()
    Journal(made.home.journal, SteppedClock(made.clock.now() + timedelta(days=400))).append(
        "config_pinned", {"items": {}, "acknowledged": []}
    )
    after = made.look()
    assert before.schedule is not None and after.schedule is not None and before.book is not None
    assert [run.state for run in after.schedule.today] == [run.state for run in before.schedule.today]
    assert after.schedule.today[0].state == RunState.DONE and "RUN_OVERDUE" not in made.stops()
    assert after.book is not None and after.book.budget.spent_today_usd == before.book.budget.spent_today_usd


def test_equity_is_one_point_a_session_with_peak_and_drawdown(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    for day, usd in (("2024-03-01", "1000"), ("2024-03-04", "1100"), ("2024-03-05", "900"), ("2024-03-05", "990")):
        made.done(f"{day}T09:35", equity=usd)
    made.done("2024-03-05T10:30", equity=None)
    book = made.look().book
    assert book is not None and book.equity is not None
    assert [float(p.equity_usd) for p in book.equity.points] == [1000, 1100, 990]
    assert book.equity.peak_usd == 1100 and book.equity.drawdown == pytest.approx(0.1)
    assert book.equity.day_change_usd == -110


def test_a_journal_without_equity_says_so(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    made.done("2024-03-05T09:35", equity=None)
    facts = made.look()
    assert facts.book is not None and facts.book.equity is None
    assert facts.unknown["book.equity"] == "EQUITY_NOT_TOLD"


def test_closed_trades_are_summed_from_their_own_fills(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.sell("AAA", price="49.05")
    made.buy("BBB")
    made.sell("BBB", price="49.00")
    book = made.look().book
    assert book is not None
    assert (book.trades.closed, book.trades.closed_today, book.trades.loss_streak) == (2, 2, 2)
    assert book.trades.realised_usd == Decimal("-2.05") == book.trades.realised_today_usd
    assert book.positions == ()


def test_a_win_ends_a_streak_and_yesterday_is_not_today(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.sell("AAA", price="49.05")
    made.clock.advance(timedelta(days=1))
    made.buy("BBB")
    made.sell("BBB", price="60.00")
    book = made.look().book
    assert book is not None
    assert (book.trades.closed, book.trades.closed_today, book.trades.loss_streak) == (2, 1, 0)


# ---------------------------------------------------------------- measures
def test_fill_rate_and_slippage_are_of_orders_that_the_broker_had(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    first = made.buy("AAA", filled=2, quantity=2, price="50.05")
    second = made.buy("BBB", filled=0, quantity=2)
    made.quoted(first, seq=0)  # mid 50.00, paid 50.05: 10 bps worse
    made.quoted(second, seq=4)
    measured = made.look().execution
    assert measured is not None
    assert measured.ioc_fill_rate_avg == 0.5 and measured.ioc_orders == 2
    assert measured.slippage_bps_avg == pytest.approx(10.0) and measured.slippage_fills == 1
    assert measured.latency_ms_avg == pytest.approx(40.0)


def test_selling_below_the_mid_is_worse(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    made.quoted(made.buy("AAA"), seq=0)
    made.sell("AAA", price="49.90")
    made.quoted("20240304-ibs_rsi-AAA", seq=4, kind="leave")
    measured = made.look().execution
    assert measured is not None and measured.slippage_fills == 2
    assert measured.slippage_bps_avg == pytest.approx((10 + 20) / 2)


def test_without_orders_an_average_is_unknown(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    made.bind()
    facts = made.look()
    assert facts.execution is not None and facts.execution.ioc_fill_rate_avg is None
    assert facts.unknown["execution.ioc_fill_rate_avg"] == "NO_ORDERS"
    assert facts.unknown["execution.slippage_bps_avg"] == "NO_FILLS_WITH_QUOTE"
    assert facts.execution.clamp_usage_count == 0


@pytest.mark.parametrize(
    ("ask", "uses"),
    # offset 10 bps, clamp 50 bps above a last of 50.00, 50.25: from ask 50.1998… on the clamp binds
    [("50.19", 0), ("50.21", 1)],
)
def test_a_limit_that_the_clamp_lowered_is_counted(tmp_path: Path, ask: str, uses: int) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    made.quoted(made.buy("AAA"), seq=0, ask=ask, last="50.00")
    measured = made.look().execution
    assert measured is not None and measured.clamp_usage_count == uses


def test_clamp_use_is_unknown_when_a_quote_was_not_recorded(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    made.buy("AAA")
    facts = made.look()
    assert facts.execution is not None and facts.execution.clamp_usage_count is None
    assert facts.unknown["execution.clamp_usage_count"] == "QUOTES_NOT_RECORDED"


# ---------------------------------------------------------------- picks
@pytest.mark.parametrize(
    ("done", "verdict", "codes"),
    [
        (lambda m: m.buy("AAA"), "bought 1 of 1", ()),
        (lambda m: m.buy("AAA", filled=0), "not filled", ()),
        (lambda m: None, "no order", ()),
        (
            lambda m: m.journal.append(
                "pick_refused", {"decision_id": "20240304-ibs_rsi-AAA", "symbol": "AAA", "code": "ZERO_SHARES"}
            ),
            "refused",
            ("ZERO_SHARES",),
        ),
    ],
)
def test_a_pick_has_its_verdict(tmp_path: Path, done: Any, verdict: str, codes: tuple[str, ...]) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    made.bind()
    done(made)
    made.scanned(a_pick("20240304-ibs_rsi-AAA"))
    scan = made.look().scan
    assert scan is not None and scan.considered == 200
    (pick,) = scan.picks
    assert (pick.verdict, pick.codes) == (verdict, codes)


# ---------------------------------------------------------------- breaks
def test_a_break_shows_what_the_broker_had(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    told = {"symbol": "AAA", "kind": "POSITION_QUANTITY", "cause": "MANUAL_TRADE", "ours": "1", "theirs": "3"}
    made.journal.append("break_found", {**told, "proposal": "x", "evidence": []})
    made.done("2024-03-05T10:30", breaks=1)
    book = made.look().book
    assert book is not None and book.reconcile is not None
    assert book.positions[0].broker_quantity == "3" and book.reconcile.breaks == 1
    made.done("2024-03-05T15:55", breaks=0)
    book = made.look().book
    assert book is not None and book.reconcile is not None
    assert book.positions[0].broker_quantity == "1" and book.reconcile.rows == ()


def test_a_break_that_is_over_is_not_counted_with_the_next_one(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    for symbol in ("AAA", "BBB"):
        made.journal.append("break_found", {"symbol": symbol, "kind": "MISSING_PROTECTION", "cause": "UNPROTECTED"})
        book = made.look().book
        assert book is not None and book.reconcile is not None
        assert [b.symbol for b in book.reconcile.rows] == [symbol] and book.reconcile.breaks == 1
        made.done("2024-03-05T10:30", breaks=0)


def test_without_a_run_nothing_is_said_of_the_broker(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    made.buy("AAA")
    facts = made.look()
    assert facts.book is not None and facts.book.reconcile is None
    assert facts.book.positions[0].broker_quantity is None and facts.unknown["book.reconcile"] == "NO_RUN"


def test_a_position_without_its_stop_is_told(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    made.buy("AAA", quantity=2, filled=2)
    made.protect("AAA", quantity=1)
    book = made.look().book
    assert book is not None and book.unprotected == ("AAA",) and not book.positions[0].protected
    made.protect("BBB")
    assert not book.positions[0].protected


# ---------------------------------------------------------------- schedule
@pytest.mark.parametrize(
    ("wall", "state"),
    [("10:29:59", RunState.WAITING), ("10:30:05", RunState.WAITING), ("10:30:06", RunState.OVERDUE)],
)
def test_a_run_is_overdue_five_seconds_after_its_time(tmp_path: Path, wall: str, state: RunState) -> None:
    made = at_ten(tmp_path)
    made.clock.set(ny(wall))
    made.alive()
    schedule = made.look().schedule
    assert schedule is not None and schedule.today[1].state is state


def test_a_run_under_way_is_not_overdue_and_a_failing_one_is_failing(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.clock.set(ny("10:31"))
    made.alive("running 2024-03-05T10:30")
    schedule = made.look().schedule
    assert schedule is not None and schedule.today[1].state is RunState.RUNNING
    made.journal.append("run_failed", {"run": "2024-03-05T10:30", "code": "BROKER_DOWN", "detail": "x"})
    schedule = made.look().schedule
    assert schedule is not None and (schedule.today[1].state, schedule.today[1].code) == ("failing", "BROKER_DOWN")
    assert schedule.failed_24h == 1


def test_missed_runs_are_counted_also_those_told_in_one_record(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.journal.append("run_missed", {"run": "2024-03-04T15:55", "code": "NOT_RUNNING"})
    made.journal.append("runs_missed", {"runs": 12, "code": "NOT_RUNNING"})
    schedule = made.look().schedule
    assert schedule is not None and schedule.missed_7d == 13


def test_on_a_closed_day_the_next_run_is_the_next_sessions_first(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.clock.set(ny("12:00", date(2024, 3, 9)))
    schedule = made.look().schedule
    assert schedule is not None
    assert schedule.session is None and schedule.today == () and schedule.next_id == "2024-03-11T09:35"


def test_the_brokers_own_close_moves_the_last_runs(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.log("errors.jsonl", "market_hours_differ", session="2024-03-05", broker=ny("13:00").isoformat(), code="X")
    schedule = made.look().schedule
    assert schedule is not None and schedule.closes_at == ny("13:00")
    assert schedule.today[-1].due_at == ny("13:01") and schedule.today[-2].due_at == ny("12:55")


# ---------------------------------------------------------------- the beat
def test_a_beat_ages_by_the_clock_handed_in(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    observer = made.observer()
    assert (found := observer.look().runner) is not None and found.beat_age_s == 0.0
    made.clock.advance(timedelta(seconds=3))
    assert (found := observer.look().runner) is not None and found.beat_age_s == 3.0
    made.alive()
    assert (found := observer.look().runner) is not None and found.beat_age_s == 0.0


def test_a_wall_clock_set_back_hides_no_standstill(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    observer = made.observer()
    observer.look()
    for _ in range(4):
        made.clock.set(made.clock.now() - timedelta(hours=1))  # `set` back leaves monotonic where it is
        made.clock.advance(timedelta(seconds=2))
        found = observer.look().runner
    assert found is not None and found.beat_age_s == pytest.approx(8.0)


def test_a_wall_clock_set_forward_makes_no_standstill(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    observer = made.observer()
    observer.look()
    made.clock._now += timedelta(hours=5)  # the wall alone
    made.clock.advance(timedelta(seconds=1))
    made.beat._beats += 1
    facts = json.loads((made.home.state / "runner.json").read_text())
    (made.home.state / "runner.json").write_text(json.dumps({**facts, "beats": facts["beats"] + 1}))
    found = observer.look().runner
    assert found is not None and found.beat_age_s is not None and found.beat_age_s <= 1.0


def test_a_beat_from_the_future_at_first_sight_is_unknown(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.clock.set(made.clock.now() - timedelta(hours=1))
    facts = made.look()
    assert facts.runner is not None and facts.runner.beat_age_s is None
    assert facts.unknown["runner.beat_age_s"] == "CLOCK_BEHIND_BEAT"


# ---------------------------------------------------------------- missing, damaged, half written
def test_an_empty_home_is_all_unknown(tmp_path: Path) -> None:
    made = Observed(tmp_path / "home", SteppedClock(ny("09:35")))
    shutil.rmtree(made.home.root)
    facts = made.look()
    for name in ("journal", "book", "schedule", "execution"):
        assert getattr(facts, name) is None and facts.unknown[name] == "JOURNAL_ABSENT"
    assert facts.unknown["runner"] == "RUNNER_ABSENT" and facts.unknown["scan"] == "NO_SCAN"
    assert facts.switch.present, "a state folder that is not there cannot be looked into"
    assert not made.home.root.exists(), "looking makes nothing"


WRECKS: dict[str, bytes | None] = {
    "gone": None, "empty": b"", "zeros": b"\0" * 300, "half": b'{"a": [1, 2', "list": b"[1]\n", "text": b"hello\n",
    "latin": b"\xff\xfe\xfa\n", "number": b"17\n", "deep": b"[" * 50_000, "null": b"null\n",
    "wrong types": b'{"pid": {}, "host": [], "providers": [1], "seq": "x", "starts": 5, "schema_version": 1}\n',
}  # fmt: skip
FILES = (
    "state/hash_chain.jsonl", "state/runner.json", "state/starts.json", "state/provider_stats.json",
    "state/alerts.json",
    "logs/events.jsonl", "logs/errors.jsonl", "logs/journal_noted.json", "logs/inputs/2024-03-05.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_an_unknown_with_a_code_and_never_a_crash(tmp_path: Path, file: str) -> None:
    made = at_ten(tmp_path)
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    for wreck, content in WRECKS.items():
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        before = _everything(tmp_path)
        facts, alerts = made.look(), made.observer().alerts()
        assert _everything(tmp_path) == before, "looking changes nothing"
        if file == "state/alerts.json":
            assert alerts == ("ALERTS_ABSENT" if wreck == "gone" else "ALERTS_DAMAGED"), wreck
        for name in ("journal", "book", "runner", "scan", "starts"):
            assert (getattr(facts, name) is None) == (name in facts.unknown), (wreck, name)
        if file == "state/hash_chain.jsonl":
            assert facts.book is None and facts.unknown["book"].startswith("JOURNAL_"), wreck
        if file == "state/runner.json":
            assert facts.runner is None, wreck
            assert facts.unknown["runner"] == ("RUNNER_ABSENT" if wreck == "gone" else "RUNNER_FILE_DAMAGED")
        if file == "logs/inputs/2024-03-05.jsonl":
            assert facts.scan is None, wreck


def _everything(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(root.rglob("*"))}


@pytest.mark.parametrize("file", FILES)
def test_a_folder_in_the_place_of_a_file_is_no_crash(tmp_path: Path, file: str) -> None:
    made = at_ten(tmp_path)
    (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / file).mkdir(parents=True)
    facts = made.look()
    if file == "state/hash_chain.jsonl":
        assert facts.unknown["journal"] == "JOURNAL_UNREADABLE"
    if file == "logs/errors.jsonl":
        assert facts.errors is None and facts.unknown["errors"] == "LOGS_UNREADABLE"


def test_a_half_written_last_record_is_left_for_the_next_look(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    observer = made.observer()
    before = observer.look().journal
    whole = made.home.journal.read_bytes()
    made.done("2024-03-05T10:30")
    line = made.home.journal.read_bytes()[len(whole) :]
    made.home.journal.write_bytes(whole + line[:40])
    during = observer.look()
    assert during.journal == before and during.schedule is not None
    made.home.journal.write_bytes(whole + line)
    after = observer.look().journal
    assert after is not None and before is not None and after.records == before.records + 1


def test_a_journal_that_is_damaged_while_it_is_followed_is_unknown_until_it_is_mended(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    observer = made.observer()
    sound = made.home.journal.read_bytes()
    observer.look()
    made.home.journal.write_bytes(sound[:-200])
    facts = observer.look()
    assert facts.book is None and facts.unknown["journal"].startswith("JOURNAL_")
    made.home.journal.write_bytes(sound)
    os.utime(made.home.journal, ns=(1, 1))
    assert observer.look().book is not None


def test_a_scan_row_that_makes_no_sense_is_unknown(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    for changes in ({"refused": [1]}, {"picks": ["x"]}, {"session": "soon"}, {"refused": {"X": float("inf")}}):
        made.scanned(**changes)
        facts = made.look()
        assert facts.scan is None and facts.unknown["scan"] == "INPUTS_DAMAGED", changes


def test_simulated_bars_are_taken_for_real_only_when_it_says_so(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.scanned(simulated="no")
    scan = made.look().scan
    assert scan is not None and scan.simulated


# ---------------------------------------------------------------- errors, vendors
def test_errors_of_a_day_newest_first_and_older_ones_forgotten(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35")))
    observer = made.observer()
    made.log("errors.jsonl", "old_trouble", code="OLD", detail="x")
    made.clock.advance(timedelta(hours=20))
    made.log("errors.jsonl", "new_trouble", code="NEW", detail="two\nlines")
    facts = observer.look()
    assert facts.errors is not None and [x.code for x in facts.errors] == ["NEW", "OLD"] and facts.errors_24h == 2
    assert facts.errors[0].detail == "two lines"
    made.clock.advance(timedelta(hours=5))
    facts = observer.look()
    assert facts.errors is not None and [x.code for x in facts.errors] == ["NEW"]


def test_an_outage_ends_with_the_brokers_return_or_with_a_run(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    observer = made.observer()
    made.log("errors.jsonl", "broker_unreachable", code="BROKER_DOWN")
    assert observer.look().broker.down_since is not None
    made.clock.advance(timedelta(minutes=1))
    made.log("events.jsonl", "broker_reachable_again", code="BROKER_BACK")
    assert observer.look().broker.down_since is None
    made.clock.advance(timedelta(minutes=1))
    made.log("errors.jsonl", "keys_refused", code="UNAUTHORIZED")
    assert observer.look().broker.keys_refused_at is not None
    made.clock.advance(timedelta(minutes=1))
    made.done("2024-03-05T10:30")
    assert observer.look().broker.keys_refused_at is None


def test_vendor_rates_are_of_the_last_week(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    days = {"2024-02-01": {"success": 0, "failure": 99}, "2024-03-04": {"success": 3, "failure": 1}}
    row = {"success": 3, "failure": 100, "kinds": {}, "days": days, "last_error": "boom"}
    document = {"schema_version": 1, "providers": {"polygon": row, "idle": {"success": 9, "failure": 0, "kinds": {}}}}
    (made.home.state / "provider_stats.json").write_text(json.dumps(document))
    data = made.look().data
    assert data is not None and data.providers is not None
    rates = {p.name: (p.success_rate, p.asked) for p in data.providers}
    assert rates == {"polygon": (0.75, 4), "idle": (None, 0)}


def test_the_counts_that_vendors_leave_are_the_ones_that_are_read(tmp_path: Path) -> None:
    from data.providers.base import FailureKind, ProviderFailure
    from data.providers.multi_source import ProviderStats

    made = at_ten(tmp_path)
    stats = ProviderStats(made.home.state / "provider_stats.json", made.clock)
    for failure in (None, None, ProviderFailure("polygon", FailureKind.UNAVAILABLE, "slow")):
        stats.record("polygon", failure)
    stats.flush()
    stats.record("polygon", None)
    stats.flush()
    data = made.look().data
    assert data is not None and data.providers is not None
    assert (data.providers[0].success_rate, data.providers[0].asked) == (0.75, 4)


def test_fallbacks_are_counted_of_today_only(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.clock.set(ny("15:00", date(2024, 3, 4)))
    made.log("events.jsonl", "provider_fallback", code="PROVIDER_FALLBACK")
    made.clock.set(ny("10:00"))
    made.log("events.jsonl", "provider_fallback", code="PROVIDER_FALLBACK")
    data = made.look().data
    assert data is not None and data.fallbacks_today == 1


# ---------------------------------------------------------------- what a look costs
def test_a_later_look_reads_what_is_new_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in bytes: the second look must not depend on how long journal and logs are."""
    made = at_ten(tmp_path)
    for n in range(400):
        made.journal.append("note", {"n": n, "text": "x" * 200})
        made.log("events.jsonl", "noise", n=n)
    observer = made.observer()
    observer.look()
    read = _count_bytes(monkeypatch)
    observer.look()
    idle = sum(read)
    read.clear()
    made.done("2024-03-05T10:30")
    made.log("events.jsonl", "noise", n=0)
    facts = observer.look()
    assert facts.schedule is not None and facts.schedule.today[1].state is RunState.DONE
    size = made.home.journal.stat().st_size
    assert size > 100_000 and idle < 4000 and sum(read) < 8000


def _count_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    read: list[int] = []
    real = Path.open

    class Counted:
        def __init__(self, file: Any) -> None:
            self._file = file

        def read(self, *args: Any) -> Any:
            found = self._file.read(*args)
            read.append(len(found))
            return found

        def readline(self, *args: Any) -> Any:
            found = self._file.readline(*args)
            read.append(len(found))
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *args: object) -> None:
            self._file.close()

        def __iter__(self) -> Any:
            for line in self._file:
                read.append(len(line))
                yield line

    def opened(path: Path, *args: Any, **more: Any) -> Any:
        return Counted(real(path, *args, **more))

    monkeypatch.setattr(Path, "open", opened)
    return read


def test_a_rotated_log_is_followed_to_its_end_and_into_the_new_one(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    observer = made.observer()
    made.log("errors.jsonl", "first", code="A")
    observer.look()
    made.log("errors.jsonl", "second", code="B")
    (made.home.logs / "errors.jsonl").rename(made.home.logs / "errors.jsonl.1")
    made.log("errors.jsonl", "third", code="C")
    facts = observer.look()
    assert facts.errors is not None and sorted(x.code for x in facts.errors) == ["A", "B", "C"]


def test_sealing_a_month_while_it_is_followed_changes_nothing(tmp_path: Path) -> None:
    made = Observed(tmp_path, SteppedClock(ny("09:35", date(2024, 1, 10))))
    made.buy("AAA")
    made.done("2024-01-10T09:35")
    made.clock.set(ny("10:00"))
    made.done("2024-03-05T09:35")
    observer = made.observer()
    before = observer.look().book
    assert made.journal.seal()
    assert observer.look().book is not None and made.look().book == before
    made.done("2024-03-05T10:30")
    after = observer.look()
    assert after.schedule is not None and after.schedule.last_id == "2024-03-05T10:30"


def test_looking_again_at_a_damaged_journal_does_not_read_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = at_ten(tmp_path)
    made.home.journal.write_bytes(b"damaged\n" + made.home.journal.read_bytes())
    look, reads, real = JournalLook(made.journal), [], made.journal.read_after
    monkeypatch.setattr(made.journal, "read_after", lambda mark: (reads.append(1), real(mark))[1])
    for _ in range(3):
        with pytest.raises(StateCorrupt, match="line 1"):
            look.seen()
    assert reads == [1]
    made.home.journal.write_bytes(b"other damage\n")
    with pytest.raises(StateCorrupt):
        look.seen()
    assert reads == [1, 1], "a file that has changed may be mended"


def test_the_world_of_these_tests_is_a_tuesday() -> None:
    assert TUESDAY.weekday() == 1
