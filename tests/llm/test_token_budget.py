"""The budget as a ledger: limits on both sides, one day each, and every way its two files can be lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import logs
from core.clock import SteppedClock
from core.errors import StateCorrupt, UsageError
from core.journal import Journal
from core.market_calendar import NEW_YORK
from core.paths import Home
from llm import audit
from llm.spend import Amount, Day, Refusal, Reservation, applied
from llm.token_budget import FILE, Settlement, TokenBudget, get_token_budget
from tests.fakes.llm import NOON, llm_settings

SMALL = Amount(100, Decimal("0.10"))
LIMITS = {"max_daily_tokens": 1000, "cost_tracking__max_daily_usd": Decimal(5)}


def budget(folder: Path, clock: SteppedClock | None = None, **changes: object) -> TokenBudget:
    return TokenBudget(Home(folder), llm_settings(**{**LIMITS, **changes}), clock or SteppedClock(NOON))


def reserve(made: TokenBudget, amount: Amount = SMALL) -> Reservation | Refusal:
    return made.reserve(amount, model="m", purpose="advice", request_sha256="r")


def taken(made: TokenBudget, amount: Amount = SMALL) -> Reservation:
    found = reserve(made, amount)
    assert isinstance(found, Reservation), found
    return found


def booked(made: TokenBudget, amount: Amount = SMALL, *, worst: Amount | None = None) -> None:
    made.settle(taken(made, worst or amount), Settlement(code="OK", amount=amount, answered=True, latency_ms=10.0))


def lines(folder: Path, kind: str = "") -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "state" / audit.FILE).read_bytes().splitlines()]
    return [row for row in rows if not kind or row["kind"] == kind]


# ---------------------------------------------------------------- limits
@pytest.mark.parametrize(
    ("amount", "code"),
    [
        (Amount(1000, Decimal(0)), ""), (Amount(1001, Decimal(0)), "LLM_BUDGET_TOKENS"),
        (Amount(0, Decimal(5)), ""), (Amount(0, Decimal("5.000001")), "LLM_BUDGET_USD"),
        (Amount(1001, Decimal(6)), "LLM_BUDGET_TOKENS"),
    ],
)  # fmt: skip
def test_a_call_that_ends_on_a_limit_passes_and_one_beyond_does_not(tmp_path: Path, amount: Amount, code: str) -> None:
    found = reserve(budget(tmp_path), amount)
    assert (found.code if isinstance(found, Refusal) else "") == code


def test_without_cost_tracking_only_the_token_limit_holds_and_cost_is_still_recorded(tmp_path: Path) -> None:
    made = budget(tmp_path, cost_tracking__enabled=False)
    booked(made, Amount(10, Decimal(50)))
    assert made.cost_usd_today == 50 and made.get_status()["max_daily_usd"] is None
    assert isinstance(reserve(made, Amount(1000, Decimal(0))), Refusal)
    assert lines(tmp_path, "warned") == []


def test_what_was_reserved_too_much_comes_back(tmp_path: Path) -> None:
    made = budget(tmp_path)
    for _ in range(50):
        booked(made, Amount(2, Decimal("0.01")), worst=Amount(900, Decimal(4)))
    assert (made.used_today, made.cost_usd_today) == (100, Decimal("0.50"))


def test_a_call_that_cost_more_than_reserved_is_booked_as_it_was(tmp_path: Path) -> None:
    made = budget(tmp_path)
    booked(made, Amount(1500, Decimal(1)), worst=SMALL)
    assert made.used_today == 1500 and made.get_remaining_percent() == 0
    assert isinstance(reserve(made, Amount(1, Decimal(0))), Refusal)


def test_the_tighter_limit_is_told_beside_the_other(tmp_path: Path) -> None:
    made = budget(tmp_path)
    assert made.get_status()["binding"] == "tokens"  # nothing spent: 1000 tokens cost a cent or two
    booked(made, Amount(100, Decimal(4)))
    status = made.get_status()
    assert (status["binding"], status["remaining_percent"]) == ("usd", 20.0)
    assert (status["remaining_tokens"], status["remaining_usd"]) == (900, 1.0)
    booked(made, Amount(850, Decimal(0)))
    assert made.get_status()["binding"] == "tokens" and made.get_remaining_percent() == pytest.approx(5.0)


def test_the_dollar_alert_and_the_share_of_the_binding_limit_are_told_once_a_day(tmp_path: Path) -> None:
    made = budget(tmp_path, cost_tracking__alert_threshold_usd=Decimal("2.5"))

    def told() -> list[object]:
        return [row["code"] for row in lines(tmp_path, "warned")]

    booked(made, Amount(1, Decimal("2.49")))
    assert told() == []
    booked(made, Amount(1, Decimal("0.01")))
    assert told() == ["LLM_COST_HIGH"]
    booked(made, Amount(1, Decimal("1.49")))
    assert told() == ["LLM_COST_HIGH"]
    booked(made, Amount(1, Decimal("0.01")))
    booked(made, Amount(1, Decimal("0.01")))
    assert told() == ["LLM_COST_HIGH", "LLM_BUDGET_LOW"]
    assert made.get_status()["warned"] == ["LLM_BUDGET_LOW", "LLM_COST_HIGH"]


def test_twenty_threads_take_exactly_what_fits(tmp_path: Path) -> None:
    made, found = budget(tmp_path), list[Reservation | Refusal]()
    threads = [threading.Thread(target=lambda: found.append(reserve(made))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(one, Reservation) for one in found) == 10
    assert made.used_today == 1000


# ---------------------------------------------------------------- the day
CHANGES = [date(2026, 11, 1), date(2027, 3, 14)]  # the clocks change in New York


@pytest.mark.parametrize("change", CHANGES)
def test_a_day_begins_once_at_new_york_midnight_over_a_change_of_clocks(tmp_path: Path, change: date) -> None:
    start = datetime.combine(change - timedelta(days=1), datetime.min.time(), NEW_YORK).astimezone(UTC)
    clock = SteppedClock(start)
    made = budget(tmp_path, clock)
    days = []
    for _ in range(3 * 24 - 1):  # every hour of three days
        clock.advance(timedelta(hours=1))
        booked(made, Amount(1, Decimal(0)))
        days.append(clock.now().astimezone(NEW_YORK).date())
    begun = [row["day"] for row in lines(tmp_path, "day_began")]
    expected = sorted({str(day) for day in days})
    assert begun == expected and len(set(begun)) == len(begun)
    assert made.used_today == sum(day == days[-1] for day in days)


def test_one_second_before_midnight_is_the_old_day_and_midnight_the_new_one(tmp_path: Path) -> None:
    midnight = datetime(2026, 11, 25, tzinfo=NEW_YORK).astimezone(UTC)
    clock = SteppedClock(midnight - timedelta(seconds=1))
    made = budget(tmp_path, clock)
    booked(made)
    assert made.used_today == 100
    clock.set(midnight)
    assert made.used_today == 0, "a reader sees the new day before a writer begins it"
    booked(made)
    assert made.used_today == 100 and made.get_status()["day"] == "2026-11-25"


def test_a_clock_that_goes_back_resets_nothing_and_begins_no_day_twice(tmp_path: Path) -> None:
    clock = SteppedClock(NOON)
    made = budget(tmp_path, clock)
    booked(made)
    for days in (1, 0, -40, 1, 0, 1):
        clock.set(NOON + timedelta(days=days))
        booked(made)
    assert [row["day"] for row in lines(tmp_path, "day_began")] == ["2026-11-24", "2026-11-25"]
    assert made.used_today == 600


def test_a_call_over_midnight_counts_on_both_days_and_an_old_reservation_on_its_own_only(tmp_path: Path) -> None:
    midnight = datetime(2026, 11, 25, tzinfo=NEW_YORK).astimezone(UTC)
    clock = SteppedClock(midnight - timedelta(hours=1))
    made = budget(tmp_path, clock)
    taken(made, Amount(50, Decimal(0)))  # its process is killed
    clock.set(midnight - timedelta(seconds=1))
    late = taken(made)
    clock.set(midnight + timedelta(seconds=1))
    booked(made, Amount(7, Decimal(0)))
    assert made.used_today == 107
    made.settle(late, Settlement(code="OK", amount=Amount(30, Decimal(0)), answered=True))
    assert made.used_today == 37


def test_an_audit_that_tells_a_day_twice_is_not_believed() -> None:
    day = Day(date(2026, 11, 24))
    for again in ("2026-11-24", "2026-11-23"):
        with pytest.raises(ValueError, match="begins after"):
            applied(day, {"kind": "day_began", "day": again, "carried": []})
    assert applied(day, {"kind": "day_began", "day": "2026-11-25", "carried": []}).day == date(2026, 11, 25)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.sampled_from("nskaf")), max_size=30))
def test_never_above_the_limit_and_rebuilt_to_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, str]]
) -> None:
    """Any mix of settling (n), never settling (s), keeping (k), hours passing (a) and files lost (f)."""
    folder = tmp_path_factory.mktemp("b")
    clock = SteppedClock(NOON)
    made = budget(folder, clock)
    for worst, real, what in steps:
        found = reserve(made, Amount(worst, Decimal(0)))
        if isinstance(found, Reservation) and what in "nk":
            amount = found.amount if what == "k" else Amount(min(real, worst), Decimal(0))
            made.settle(found, Settlement(code="OK", amount=amount, kept=what == "k", answered=True))
        elif what == "a":
            clock.advance(timedelta(hours=7))
        elif what == "f":
            (folder / "state" / FILE).unlink(missing_ok=True)
        assert made.used_today <= 1000
    before = made.get_status()
    (folder / "state" / FILE).unlink(missing_ok=True)
    assert made.get_status() == before


# ---------------------------------------------------------------- lost and damaged files
def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
        return
    made = {
        "empty": b"", "half": content[: len(content) // 2], "garbage": b"\x00\xff not json", "list": b"[]",
        "sums": content.replace(b'"used_today":100', b'"used_today":0'),
    }[how]  # fmt: skip
    assert made != content
    path.write_bytes(made)


@pytest.mark.parametrize("how", ["empty", "half", "garbage", "list", "gone", "sums"])
def test_a_lost_budget_file_is_rebuilt_from_the_audit(tmp_path: Path, how: str) -> None:
    made = budget(tmp_path)
    booked(made)
    damaged(tmp_path / "state" / FILE, how)
    again = budget(tmp_path)
    assert (again.used_today, again.get_status()["code"]) == (100, "OK")
    assert isinstance(reserve(again, Amount(901, Decimal(0))), Refusal)
    booked(again)
    assert json.loads((tmp_path / "state" / FILE).read_bytes())["used_today"] == 200


@pytest.mark.parametrize("how", ["gone", "empty", "half", "garbage"])
def test_a_lost_audit_is_begun_again_with_what_the_budget_file_says(tmp_path: Path, how: str) -> None:
    made = budget(tmp_path)
    booked(made)
    damaged(tmp_path / "state" / audit.FILE, how)
    again = budget(tmp_path)
    assert again.used_today == 100
    booked(again)
    assert lines(tmp_path)[0]["kind"] == "adopted"
    (tmp_path / "state" / FILE).unlink()
    assert again.used_today == 200, "and the new one rebuilds it"


@pytest.mark.parametrize("how", ["empty", "half", "garbage", "list", "sums"])
def test_with_both_damaged_everything_counts_as_spent_until_a_person_says(tmp_path: Path, how: str) -> None:
    made = budget(tmp_path)
    booked(made)
    damaged(tmp_path / "state" / FILE, how)
    damaged(tmp_path / "state" / audit.FILE, "gone")
    refused = reserve(made)
    assert isinstance(refused, Refusal) and refused.code == "LLM_BUDGET_DAMAGED"
    status = made.get_status()
    assert (status["code"], status["remaining_percent"], status["remaining_tokens"]) == ("LLM_BUDGET_DAMAGED", 0.0, 0)
    assert made.used_today == 1000 and made.cost_usd_today == 5
    made.reset("looked at the vendor's page", tokens=400, usd=Decimal(1))
    assert made.used_today == 400 and isinstance(reserve(made), Reservation)
    assert list((tmp_path / "state").glob(f"{FILE}.aside-*")), "nothing is deleted"


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_last_line_was_no_call_and_is_cut_off(tmp_path: Path, cut: int) -> None:
    made = budget(tmp_path)
    booked(made)
    whole = (tmp_path / "state" / audit.FILE).read_bytes()
    (tmp_path / "state" / audit.FILE).write_bytes(whole + whole.splitlines()[-1][:cut])
    assert made.used_today == 100
    booked(made)
    assert made.used_today == 200
    (tmp_path / "state" / FILE).unlink()
    assert made.used_today == 200


@pytest.mark.parametrize("change", [lambda raw: raw.replace(b'"tokens":100', b'"tokens":1', 1), lambda raw: raw[1:]])
def test_a_changed_audit_line_is_seen_when_the_budget_file_is_lost(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    made = budget(tmp_path)
    booked(made)
    booked(made)
    path = tmp_path / "state" / audit.FILE
    path.write_bytes(change(path.read_bytes()))
    (tmp_path / "state" / FILE).unlink()
    refused = reserve(made)
    assert isinstance(refused, Refusal) and refused.code == "LLM_AUDIT_DAMAGED"


def test_an_older_budget_file_put_back_catches_up_with_the_audit(tmp_path: Path) -> None:
    made = budget(tmp_path)
    booked(made)
    older = (tmp_path / "state" / FILE).read_bytes()
    booked(made)
    taken(made)
    (tmp_path / "state" / FILE).write_bytes(older)
    assert made.used_today == 300


def test_a_newer_programs_file_is_left_alone_and_nothing_is_asked(tmp_path: Path) -> None:
    made = budget(tmp_path)
    booked(made)
    path = tmp_path / "state" / FILE
    newer = path.read_bytes().replace(b'"schema_version":1', b'"schema_version":2')
    path.write_bytes(newer)
    refused = reserve(made)
    assert isinstance(refused, Refusal) and refused.code == "STATE_NEWER"
    with pytest.raises(StateCorrupt):
        made.reset("try")
    assert path.read_bytes() == newer


def test_a_full_disk_means_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = budget(tmp_path)
    booked(made)
    late = taken(made)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llm.audit.os.write", full)
    refused = reserve(made)
    assert isinstance(refused, Refusal) and refused.code == "LLM_BUDGET_UNWRITABLE"
    made.settle(late, Settlement(code="OK", amount=Amount()))
    monkeypatch.undo()
    assert made.used_today == 200, "what cannot be booked stays reserved"


# ---------------------------------------------------------------- a person's reset
def test_the_runbooks_reset_is_allowed_and_told(own_home: Path) -> None:
    b = get_token_budget()
    b.settle(
        taken(b, Amount(500, Decimal(1))), Settlement(code="OK", amount=Amount(400, Decimal("0.5")), answered=True)
    )  # fmt: skip
    b, told = get_token_budget(), logs.counters().get(("llm_budget_reset", ()), 0)
    assert b.get_remaining_percent() == pytest.approx(99.0)  # USD 0.5 of 50
    b.used_today = 0
    b.cost_usd_today = 0
    b._save_state()
    assert (b.used_today, str(b.cost_usd_today)) == (0, "0")
    (record,) = Journal(own_home / "state" / "hash_chain.jsonl", SteppedClock(NOON)).kinds("llm_budget_reset")
    assert record.body["before"] == {"tokens": 400, "usd": "0.5"}
    assert b.get_status()["resets_today"] == 1
    assert logs.counters()["llm_budget_reset", ()] == told + 1


def test_a_reset_keeps_what_may_be_on_the_wire_and_drops_what_is_dead(tmp_path: Path) -> None:
    clock = SteppedClock(NOON)
    made = budget(tmp_path, clock)
    taken(made, Amount(300, Decimal(0)))
    clock.advance(timedelta(minutes=5))
    taken(made, Amount(200, Decimal(0)))
    made.reset("test")
    assert made.used_today == 200


def test_a_reset_of_damaged_files_that_is_killed_between_two_steps_leaves_everything_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = budget(tmp_path)
    booked(made)
    path = tmp_path / "state" / audit.FILE
    path.write_bytes(path.read_bytes()[1:])
    (tmp_path / "state" / FILE).unlink()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("llm.audit.append", killed)
        made.reset("test")
    assert made.get_status()["code"] == "LLM_BUDGET_DAMAGED" and made.get_remaining_percent() == 0
    made.reset("test again")
    assert made.used_today == 0


def test_a_reset_that_cannot_be_journalled_is_none(tmp_path: Path) -> None:
    made = budget(tmp_path)
    booked(made)
    (tmp_path / "state" / "hash_chain.jsonl").mkdir()
    made.used_today = 0
    with pytest.raises(StateCorrupt):
        made._save_state()
    assert budget(tmp_path).used_today == 100


@pytest.mark.parametrize("value", [-1, 0.5, "x", True])
def test_only_a_whole_number_can_be_set(tmp_path: Path, value: object) -> None:
    with pytest.raises(UsageError):
        budget(tmp_path).used_today = value  # type: ignore[assignment]


@pytest.mark.parametrize("value", [-0.01, "x", float("nan"), float("inf")])
def test_only_an_amount_can_be_set(tmp_path: Path, value: object) -> None:
    with pytest.raises(UsageError):
        budget(tmp_path).cost_usd_today = value  # type: ignore[assignment]


def test_save_state_without_a_change_writes_the_file_again_and_is_no_reset(tmp_path: Path) -> None:
    made = budget(tmp_path)
    booked(made)
    (tmp_path / "state" / FILE).unlink()
    made._save_state()
    assert json.loads((tmp_path / "state" / FILE).read_bytes())["used_today"] == 100
    assert lines(tmp_path, "reset") == [] and not (tmp_path / "state" / "hash_chain.jsonl").exists()


def test_a_status_writes_nothing(tmp_path: Path) -> None:
    made = budget(tmp_path)
    assert made.get_status()["used_today"] == 0
    assert not (tmp_path / "state").exists()
