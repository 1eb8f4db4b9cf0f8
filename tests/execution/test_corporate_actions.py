"""Corporate actions before exits: what is decided from broker and feed, and that a scan acts on it first.

Ratios and dates are those of real actions; the shares are 12 HELD at 5.00 with a stop at 4.50.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import ActionKind, CorporateAction, ExitReason, Position, Side, Symbol
from core.errors import StateLocked
from execution import sync
from execution.breaks import ACTION_LOCK, Cause
from execution.corporate_actions import (
    ASK_AGAIN_S,
    CHANGED,
    PENDING,
    ActionCheck,
    Decided,
    decide,
    shared_out,
)
from execution.fold import Fold
from execution.ledger import Ledger, intent_body
from tests.execution.reconcile_cases import HELD, NEW, PRICE, SHARES, STOP, account
from tests.fakes.feeds import FakeFeed, action
from tests.fakes.scans import Scene, calendar_2024, decision, due
from tests.fakes.trading import NOW, TODAY, entry

SPECIAL = Fraction(1, 20)
EVE = date(2024, 3, 4)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ---------------------------------------------------------------- builders of the pure part
def holding(*quantities: int, symbol: str = "HELD", on: date = date(2024, 2, 29), stop: str | None = "4.50") -> Ledger:
    """One trade of each quantity, bought at 5.00 that day."""
    fold: Any = Fold()
    for number, quantity in enumerate(quantities):
        at = datetime(on.year, on.month, on.day, 15, tzinfo=NOW.tzinfo)
        buy = replace(entry(symbol, quantity=quantity, price="5.02", stop=stop, at=at), decision_id=f"d{number}")
        facts = {"client_order_id": buy.client_order_id, "quantity": quantity, "price": "5.00", "at": at.isoformat()}
        for kind, body in (("order_intended", intent_body(buy)), ("order_filled", facts)):
            fold.add(SimpleNamespace(seq=0, at=at, kind=kind, body=body))
    found: Ledger = fold.ledger()
    return found


def broker(**shares: str) -> dict[Symbol, Position]:
    return {
        Symbol(s): Position(symbol=Symbol(s), quantity=Decimal(q), average_price=PRICE,
                            market_value=PRICE * Decimal(q), asset_id=f"id-{s}")
        for s, q in shares.items()
    }  # fmt: skip


def decided(
    ledger: Ledger, positions: dict[Symbol, Position], *actions: CorporateAction, is_open: bool = True,
    day: date = TODAY,
) -> Decided:  # fmt: skip
    return decide(ledger, positions, actions, day=day, is_open=is_open, special=SPECIAL)


def split(ratio: str, day: date = TODAY, **more: Any) -> CorporateAction:
    return action(ActionKind.SPLIT, "HELD", day, ratio=ratio, **more)


def numbers(found: Decided) -> list[tuple[str, int, Decimal, Decimal | None]]:
    return [(str(r.symbol), r.quantity, r.entry_price, r.stop) for r in found.rebases]


# ---------------------------------------------------------------- splits
@pytest.mark.parametrize(
    ("ratio", "shares", "quantity", "entry_price", "stop"),
    [
        ("4", "48", 48, "1.25", "1.125"),  # AAPL 2020-08-31
        ("20", "240", 240, "0.25", "0.225"),  # AMZN 2022-06-06
        ("3/2", "18", 18, "3.333333333333333333333333333", "3"),
        ("1/8", "1.5", 1, "40", "36"),  # GE 2021-08-02, a fraction kept
        ("1/8", "1", 1, "40", "36"),  # paid out
        ("1/8", "2", 2, "40", "36"),  # rounded up
        ("21/20", "12.6", 12, "4.761904761904761904761904762", "4.285714285714285714285714286"),
    ],
)
def test_broker_and_feed_agree_and_the_trade_is_rebased(
    ratio: str, shares: str, quantity: int, entry_price: str, stop: str
) -> None:
    found = decided(holding(12), broker(HELD=shares), split(ratio))
    assert numbers(found) == [("HELD", quantity, Decimal(entry_price), Decimal(stop))]
    (rebase,) = found.rebases
    assert rebase.basis == TODAY and not found.locks and not found.eases
    assert rebase.cause == ("REVERSE_SPLIT" if Fraction(ratio) < 1 else "SPLIT")
    assert rebase.body()["before"] == {"symbol": "HELD", "quantity": 12, "entry_price": "5.00", "stop": "4.50"}
    assert any("alpaca" in fact for fact in rebase.evidence) and any(shares in fact for fact in rebase.evidence)


@pytest.mark.parametrize("shares", ["47", "49", "24", "0"])
def test_another_number_than_the_feed_says_locks(shares: str) -> None:
    found = decided(holding(12), broker(HELD=shares) if shares != "0" else {}, split("4"))
    assert not found.rebases and not found.eases
    assert HELD in found.locks and any("48 expected" in fact for fact in found.locks[HELD])


def test_one_share_of_a_reverse_split_that_nobody_has_booked_is_not_called_rounded_up() -> None:
    """1 for 8 of 1 share, rounded up, is 1: the same number as before, and the stop would be eight times too high."""
    found = decided(holding(1), broker(HELD="1"), split("1/8"))
    assert not found.rebases and HELD in found.locks
    small = decided(holding(1), broker(HELD="1"), split("21/20"))
    assert numbers(small)[0][1] == 1 and small.rebases[0].stop is not None and small.rebases[0].stop < Decimal("4.50")
    assert not decided(holding(1), broker(HELD="1"), split("21/20"), is_open=False).rebases


def test_a_reverse_split_that_leaves_no_whole_share_closes_the_trade() -> None:
    found = decided(holding(12), {}, split("1/20"))
    assert [(r.quantity, r.cause) for r in found.rebases] == [(0, "REVERSE_SPLIT")]
    fold: Any = Fold()
    ledger = holding(12)
    for record in [SimpleNamespace(seq=0, at=NOW, kind="order_intended", body=intent_body(o.intent))
                   for o in ledger.orders.values()]:  # fmt: skip
        fold.add(record)
    cid = next(iter(ledger.orders))
    fold.add(SimpleNamespace(seq=1, at=NOW, kind="order_filled",
                             body={"client_order_id": cid, "quantity": 12, "price": "5.00"}))  # fmt: skip
    fold.add(SimpleNamespace(seq=2, at=NOW, kind="trade_rebased", body=found.rebases[0].body()))
    after = fold.ledger()
    assert after.open_trades() == () and dict(after.positions) == {}


def test_contradicting_sources_lock_and_agreeing_ones_do_not() -> None:
    against = decided(holding(12), broker(HELD="48"), split("4"), split("5", source="polygon"))
    assert not against.rebases and "contradict" in against.locks[HELD][0]
    assert numbers(decided(holding(12), broker(HELD="48"), split("4", source="alpaca+polygon")))


def test_two_splits_since_the_entry_multiply() -> None:
    both = (split("2", EVE), split("3"))
    assert numbers(decided(holding(12), broker(HELD="72"), *both)) == [("HELD", 72, PRICE / 6, Decimal("0.75"))]


def test_an_action_up_to_the_day_of_entry_is_in_the_numbers_already() -> None:
    for day, due_ in ((date(2024, 2, 29), False), (date(2024, 3, 1), True)):
        found = decided(holding(12), broker(HELD="48"), split("4", day))
        assert bool(found.rebases) is due_
    assert decided(holding(12), broker(HELD="48"), split("4", TODAY + timedelta(days=1))) == Decided()


@pytest.mark.parametrize(
    ("ratio", "shares", "parts"), [("3/2", "12", [8, 4]), ("4", "32", [20, 12]), ("1/4", "2", [1, 1])]
)
def test_several_trades_of_one_symbol_share_what_the_broker_has(ratio: str, shares: str, parts: list[int]) -> None:
    found = decided(holding(5, 3), broker(HELD=shares), split(ratio))
    assert [r.quantity for r in found.rebases] == parts


@given(st.lists(st.fractions(0, 50), min_size=1, max_size=5), st.integers(0, 200))
def test_shared_out_adds_up_and_is_never_negative(exact: list[Fraction], total: int) -> None:
    parts = shared_out(exact, total)
    assert sum(parts) == total and min(parts) >= 0
    if total == sum(part.numerator // part.denominator for part in exact):
        assert all(abs(Fraction(p) - e) < 1 for p, e in zip(parts, exact, strict=True))


def test_shares_without_a_trade_beside_ours_are_left_to_a_person() -> None:
    ledger = replace(holding(12), positions={HELD: 15})
    for shares in ("60", "48"):  # all of them, or those of the trade alone
        found = decided(ledger, broker(HELD=shares), split("4"))
        assert not found.rebases and HELD in found.locks


@given(st.integers(1, 400), st.integers(1, 30), st.integers(1, 30), st.sampled_from(["kept", "paid", "up"]))
def test_whatever_the_ratio_cost_and_risk_stay_what_they_were(held: int, new: int, old: int, fraction: str) -> None:
    """shares × (entry − stop) moves by less than one share's worth, which is the fraction."""
    ratio = Fraction(new, old)
    exact = held * ratio
    whole = exact.numerator // exact.denominator
    shown = {"kept": exact, "paid": Fraction(whole), "up": Fraction(whole + (exact != whole))}[fraction]
    quantity = Decimal(shown.numerator) / Decimal(shown.denominator)
    found = decided(holding(held), broker(HELD=str(quantity)) if quantity else {}, split(str(ratio)))
    if ratio == 1 or (shown == held != exact):
        return  # nothing to see, or not to be told apart from nothing
    (rebase,) = found.rebases
    assert rebase.stop is not None and rebase.quantity == int(quantity)
    before, after = held * Decimal("0.50"), rebase.quantity * (rebase.entry_price - rebase.stop)
    assert abs(after - before) <= (rebase.entry_price - rebase.stop) * Decimal("1.0001")


# ---------------------------------------------------------------- the eve
@pytest.mark.parametrize(
    ("ratio", "quantity", "stop", "keeps_target"),
    [("4", 12, "1.125", True), ("1/8", 1, "4.50", False), ("1/20", 0, "4.50", False)],
)
def test_before_the_open_protection_is_eased_to_what_is_right_on_both_sides(
    ratio: str, quantity: int, stop: str, keeps_target: bool
) -> None:
    """The lower stop, the fewer shares; no target that the new price would hit at once."""
    found = decided(holding(12), broker(HELD="12"), split(ratio), is_open=False)
    (ease,) = found.eases
    assert (ease.quantity, ease.stop, ease.keeps_target) == (quantity, Decimal(stop), keeps_target)
    assert ease.ex_date == TODAY and not found.locks and not found.rebases
    assert HELD in decided(holding(12), broker(HELD="12"), split(ratio)).locks, "open, and the broker has not moved"


def test_a_trade_without_a_stop_needs_no_easing() -> None:
    assert decided(holding(12, stop=None), broker(HELD="12"), split("4"), is_open=False) == Decided()


def test_what_the_broker_booked_before_the_open_is_rebased_before_the_open() -> None:
    assert numbers(decided(holding(12), broker(HELD="48"), split("4"), is_open=False))


# ---------------------------------------------------------------- names
def rename(day: date = TODAY, **more: Any) -> CorporateAction:
    return action(ActionKind.RENAME, "HELD", day, other=NEW, **more)


def test_a_rename_takes_the_trade_along() -> None:
    found = decided(holding(12), broker(NEW="12"), rename())
    assert numbers(found) == [("NEW", 12, PRICE, Decimal("4.50"))] and found.rebases[0].cause == "RENAME"


def test_a_rename_by_asset_id_needs_no_feed() -> None:
    ledger = replace(holding(12), assets={HELD: "id-NEW"})
    found = decided(ledger, broker(NEW="12"))
    assert numbers(found) == [("NEW", 12, PRICE, Decimal("4.50"))]
    assert "asset id" in found.rebases[0].evidence[0]
    assert decided(replace(ledger, assets={HELD: "id-OTHER"}), broker(NEW="12")) == Decided()
    assert HELD in decided(ledger, broker(NEW="11")).locks, "the same share, another number"
    known = replace(ledger, positions={HELD: 12, NEW: 1})
    assert decided(known, broker(NEW="12")) == Decided(), "held under that name already: not the same thing"


def test_a_rename_that_is_not_booked_yet_changes_and_locks_nothing() -> None:
    assert decided(holding(12), broker(HELD="12"), rename()) == Decided()
    both = broker(HELD="12", NEW="12")  # as many of the new name, bought by hand
    assert decided(holding(12), both, rename()) == Decided()
    assert HELD in decided(holding(12), broker(HELD="12", NEW="3"), rename(), split("4")).locks


def test_a_reverse_split_under_a_new_name_is_both() -> None:
    both = split("1/4", other=NEW)
    found = decided(holding(12), broker(NEW="3"), both)
    assert numbers(found) == [("NEW", 3, Decimal(20), Decimal(18))]


# ---------------------------------------------------------------- dividends
def dividend(cash: str, day: date = TODAY, source: str = "alpaca") -> CorporateAction:
    return action(ActionKind.DIVIDEND, "HELD", day, cash_per_share=cash, source=source)


@pytest.mark.parametrize(("cash", "stop"), [("0.25", "4.25"), ("0.2499", None), ("1.00", "3.50")])
def test_a_dividend_of_a_twentieth_of_the_price_and_more_lowers_the_stop(cash: str, stop: str | None) -> None:
    found = decided(holding(12), broker(HELD="12"), dividend(cash), is_open=False)
    if stop is None:
        assert found == Decided()
        return
    (rebase,) = found.rebases
    assert (rebase.stop, rebase.entry_price, rebase.quantity) == (Decimal(stop), PRICE - Decimal(cash), 12)
    assert (rebase.cause, rebase.basis) == ("SPECIAL_DIVIDEND", TODAY)


def test_half_the_price_is_believed_from_two_sources_only() -> None:
    for source, locked in (("alpaca", True), ("alpaca+polygon", False)):
        found = decided(holding(12), broker(HELD="12"), dividend("2.50", source=source))
        assert (HELD in found.locks) is locked and bool(found.rebases) is not locked
    assert HELD not in decided(holding(12), broker(HELD="12"), dividend("2.49")).locks
    assert HELD in decided(holding(12), broker(HELD="12"), dividend("4.50", source="a+b")).locks, "no stop is left"


def test_without_a_price_of_the_broker_the_cost_is_the_measure() -> None:
    bare = {s: replace(p, market_value=None) for s, p in broker(HELD="12").items()}
    assert decided(holding(12), bare, dividend("0.25")).rebases
    assert decided(holding(12), bare, dividend("0.24")) == Decided()


def test_a_dividend_before_a_split_that_is_not_booked_is_still_taken() -> None:
    found = decided(holding(12), broker(HELD="12"), dividend("0.50", EVE), split("4"), is_open=False)
    assert [r.cause for r in found.rebases] == ["SPECIAL_DIVIDEND"] and len(found.eases) == 1
    later = decided(holding(12), broker(HELD="12"), split("4", EVE), dividend("0.50"))
    assert not later.rebases and HELD in later.locks


# ---------------------------------------------------------------- the rest of what companies do
def test_a_spin_off_with_a_known_price_factor_divides_cost_and_stop() -> None:
    """GE 2023-01-04: GE HealthCare, price factor 1.281."""
    told = action(ActionKind.SPINOFF, "HELD", TODAY, other=NEW, ratio="1/3", price_factor="1281/1000")
    (rebase,) = decided(holding(12), broker(HELD="12", NEW="4"), told).rebases
    assert (rebase.quantity, rebase.cause) == (12, "SPINOFF")
    assert rebase.stop is not None and abs(rebase.stop - Decimal("3.513")) < Decimal("0.001")


def test_a_spin_off_of_unknown_worth_halves_the_stop_and_asks_a_person() -> None:
    told = action(ActionKind.SPINOFF, "HELD", TODAY, other=NEW, ratio="241917/1000000")  # T and WBD 2022-04-11
    eve = decided(holding(12), broker(HELD="12"), told, is_open=False)
    assert [(e.stop, e.quantity, e.keeps_target) for e in eve.eases] == [(Decimal("2.25"), 12, True)]
    assert not eve.locks
    morning = decided(holding(12), broker(HELD="12", NEW="2"), told)
    assert any("--adopt HELD --stop PRICE" in fact for fact in morning.locks[HELD])


@pytest.mark.parametrize("factor", ["9/10", "5"])
def test_a_price_factor_that_cannot_be_is_not_believed(factor: str) -> None:
    told = action(ActionKind.SPINOFF, "HELD", TODAY, other=NEW, ratio="1/3", price_factor=factor)
    found = decided(holding(12), broker(HELD="12"), told)
    assert not found.rebases and HELD in found.locks


@pytest.mark.parametrize(
    "told",
    [
        action(ActionKind.MERGER, "HELD", TODAY, cash_per_share="54.20"),  # TWTR 2022-10-28
        action(ActionKind.MERGER, "HELD", TODAY, other=NEW, ratio="895/1000"),  # LSI and EXR 2023-07-20
        action(ActionKind.DELISTING, "HELD", TODAY, cash_per_share="0"),
        action(ActionKind.OTHER, "HELD", TODAY),
    ],
)
def test_what_ends_a_share_locks_it_from_the_open_on_and_rebases_nothing(told: CorporateAction) -> None:
    found = decided(holding(12), {}, told)
    assert not found.rebases and not found.eases and HELD in found.locks
    assert decided(holding(12), broker(HELD="12"), told, is_open=False) == Decided()


# ---------------------------------------------------------------- acting
def ready(tmp_path: Path, *actions: CorporateAction, target_r: float | None = None) -> Scene:
    made = account(tmp_path, target_r=target_r)
    made.feed = FakeFeed(list(actions))
    made.open_session()
    return made


def resting(made: Scene, symbol: Symbol = HELD) -> list[tuple[int, Decimal | None, list[Decimal | None]]]:
    found = [o for o in made.broker.open_orders() if o.symbol == symbol and o.side is Side.SELL]
    return [(o.quantity, o.limit_price, [o.stop_price, *(leg.stop_price for leg in o.legs)]) for o in found]


def test_the_feed_is_asked_once_a_session_and_again_when_shares_change(tmp_path: Path) -> None:
    made = ready(tmp_path)
    for _ in range(3):
        made.session.look_after(TODAY)
    assert made.feed.asked == 1
    made.broker.held[HELD] = 48
    made.session.look_after(TODAY)
    quiet = made.feed.asked
    made.session.look_after(TODAY)
    assert made.feed.asked <= quiet + 1  # reconcile's own question; the check waits ASK_AGAIN_S
    made.world.clock.sleep(ASK_AGAIN_S)
    made.feed.known.append(split("4"))
    made.session.look_after(TODAY)
    (trade,) = [t for t in made.ledger().open_trades() if t.symbol == HELD]
    assert trade.quantity == 48


def test_with_nothing_held_nobody_is_asked(tmp_path: Path) -> None:
    from tests.fakes.scans import scene

    made = scene(tmp_path)
    made.feed = FakeFeed()
    made.open_session().run(due())
    assert made.feed.asked == 0


def test_a_feed_that_fails_is_told_once_and_asked_again_later(tmp_path: Path) -> None:
    made = ready(tmp_path)
    made.feed.down = True
    made.session.look_after(TODAY)
    made.session.look_after(TODAY)
    assert made.feed.asked == 1
    made.feed.down = False
    made.feed.known.append(split("4"))
    made.broker.split(HELD, Fraction(4))
    made.world.clock.sleep(ASK_AGAIN_S)
    made.session.look_after(TODAY)
    assert [t.quantity for t in made.ledger().open_trades() if t.symbol == HELD] == [48]


def test_the_journal_moving_meanwhile_is_decided_again_and_in_the_end_told(tmp_path: Path) -> None:
    made = ready(tmp_path, split("4"))
    made.broker.split(HELD, Fraction(4))
    desk = made.world.desk
    check = ActionCheck(desk, made.feed, calendar_2024(), special_fraction=0.05)
    real = made.broker.positions
    left = [2]

    def while_others_write() -> Any:
        if left[0]:
            left[0] -= 1
            check.feed.actions([HELD], EVE)
            original = made.feed.actions

            def writes(*args: Any) -> Sequence[CorporateAction]:
                made.world.journal.append("note", {})
                made.feed.actions = original
                return original(*args)

            made.feed.actions = writes
            check._answer = None
            check._ask_after = -ASK_AGAIN_S
        return real()

    made.broker.positions = while_others_write
    assert len(check.apply().rebases) == 1 and left == [0]
    assert sum(1 for _ in made.world.journal.kinds("trade_rebased")) == 1

    stuck = ready(tmp_path / "b", split("4"))
    stuck.broker.split(HELD, Fraction(4))
    stuck.world.desk.record_if_unchanged = lambda seq, records: False  # type: ignore[method-assign]
    with pytest.raises(StateLocked):
        ActionCheck(stuck.world.desk, stuck.feed, calendar_2024(), special_fraction=0.05).apply()


@pytest.mark.parametrize(
    ("hour", "expected"),
    [("12:00", (TODAY, False)), ("14:29", (TODAY, False)), ("14:30", (TODAY, True)), ("20:59", (TODAY, True)),
     ("21:00", (date(2024, 3, 6), False)), ("23:30", (date(2024, 3, 6), False))],
)  # fmt: skip
def test_the_day_that_counts_is_the_running_session_or_the_next(
    tmp_path: Path, hour: str, expected: tuple[date, bool]
) -> None:
    made = ready(tmp_path)
    check = ActionCheck(made.world.desk, made.feed, calendar_2024(), special_fraction=0.05)
    h, m = map(int, hour.split(":"))
    assert check._day(NOW.replace(hour=h, minute=m)) == expected


# ---------------------------------------------------------------- the whole way
def test_a_scan_rebases_before_it_sells_or_protects(tmp_path: Path) -> None:
    """The time stop of today sells 48 shares, not 12; nothing is sent at yesterday's price."""
    made = ready(tmp_path, split("4"))
    made.broker.split(HELD, Fraction(4))
    made.planner.exits_ = [(decision("HELD"), ExitReason.TIME)]
    made.broker.bid, made.broker.ask = Decimal("1.24"), Decimal("1.25")
    report = made.session.run(due())
    (sold,) = [o for o in made.broker.orders.values() if "-sell-exit-" in o.client_order_id]
    assert (sold.quantity, sold.filled_quantity) == (48, 48) and HELD not in made.broker.positions()
    assert report.breaks == [] and not made.ledger().locked


@pytest.mark.parametrize("orders", ["cancel", "keep", "scale"])
@pytest.mark.parametrize("ratio", ["4", "1/8"])
@pytest.mark.parametrize("target_r", [None, 0.5])
def test_protection_stands_at_the_new_price_whatever_the_broker_did_to_the_old_one(
    tmp_path: Path, orders: str, ratio: str, target_r: float | None
) -> None:
    """Brokers cancel, keep, or scale the shares and keep the price (alpaca-py 469). No trip, no lock, one stop."""
    made = ready(tmp_path, split(ratio), target_r=target_r)
    made.broker.split(HELD, Fraction(ratio), orders=orders)
    report = made.session.run(due())
    quantity, stop = {"4": (48, Decimal("1.13")), "1/8": (1, Decimal("36.00"))}[ratio]
    ((shares, limit, stops),) = resting(made)
    assert shares == quantity and stop in stops
    assert (limit is None) is (target_r is None)
    assert report.breaks == [] and not made.ledger().locked and report.code == "OK"
    assert dict(made.ledger().positions)[HELD] == made.broker.positions()[HELD].quantity


@pytest.mark.parametrize("orders", ["cancel", "keep"])
def test_a_split_that_nobody_tells_gets_no_new_stop_before_it_is_explained(tmp_path: Path, orders: str) -> None:
    """A look before the open, the feed down: a stop at yesterday's 4.50 would sell 12 shares of 1.25 at once."""
    made = ready(tmp_path)
    made.feed.down = True
    made.broker.split(HELD, Fraction(4), orders=orders)
    sent = len(made.broker.submits)
    for _ in range(2):
        made.session.look_after(TODAY)
    assert len(made.broker.submits) == sent and made.ledger().locked == {HELD: ACTION_LOCK}


def test_the_stop_of_the_eve_does_not_fire_at_the_open(tmp_path: Path) -> None:
    """After the close before the ex-date the stop is lowered; the open at a quarter of the price leaves it alone."""
    made = ready(tmp_path, split("4", date(2024, 3, 6)))
    made.world.clock.set(NOW.replace(hour=21, minute=1))
    made.session.close_out(TODAY)
    assert resting(made) == [(12, None, [Decimal("1.13")])]
    assert [t.eased is not None for t in made.ledger().open_trades() if t.symbol == HELD] == [True]
    made.session.close_out(TODAY)
    assert sum(1 for _ in made.world.journal.kinds("protection_eased")) == 1, "eased once"
    made.world.clock.set(NOW.replace(day=6, hour=14, minute=35))
    made.broker.split(HELD, Fraction(4), orders="keep")
    report = made.session.run(due(session=date(2024, 3, 6), at=made.world.clock.now()))
    assert resting(made) == [(48, None, [Decimal("1.13")])] and report.breaks == []


def test_a_split_that_never_comes_locks_until_a_person_has_looked(tmp_path: Path) -> None:
    made = ready(tmp_path, split("4"))
    made.session.run(due())
    assert made.ledger().locked == {HELD: PENDING}
    made.session.run(due("10:30", first=False))
    assert sum(1 for r in made.world.journal.kinds("symbol_locked") if r.body["code"] == PENDING) == 1
    sync.unlock(made.world.desk, HELD, reason="the feed is wrong")
    made.session.run(due("15:55", first=False))
    assert not made.ledger().locked and resting(made) == [(12, None, [Decimal("4.50")])]


def test_a_lock_is_lifted_when_the_broker_comes_after_the_feed(tmp_path: Path) -> None:
    made = ready(tmp_path, split("4"))
    made.session.run(due())
    made.broker.split(HELD, Fraction(4))
    made.session.look_after(TODAY)
    assert not made.ledger().locked and resting(made) == [(48, None, [Decimal("1.13")])]
    (told,) = [r.body for r in made.world.journal.kinds("symbol_unlocked") if r.body["symbol"] == "HELD"]
    assert told["code"] == "ACTION_BOOKED"


def test_a_changed_order_that_nobody_explains_locks_and_trips_nothing(tmp_path: Path) -> None:
    made = ready(tmp_path)
    made.feed.down = True
    made.broker.split(HELD, Fraction(4), orders="scale", told=False)
    trips: list[str] = []
    made.world.desk._trip = trips.append
    made.session.run(due())
    assert trips == [] and made.ledger().locked[HELD] == CHANGED
    assert resting(made) == [(48, None, [Decimal("4.50")])], "left for a person: nothing is sent while it is unknown"


def test_a_fill_of_a_renamed_share_is_booked_under_its_name_of_today(tmp_path: Path) -> None:
    made = ready(tmp_path, rename())
    made.broker.rename(HELD, NEW)
    made.session.run(due())
    ((shares, _, stops),) = resting(made, NEW)
    assert (shares, stops) == (12, [Decimal("4.50")])
    protect = next(o for o in made.broker.open_orders() if o.symbol == NEW)
    made.broker.fill(protect.client_order_id, SHARES, price=Decimal("4.50"))
    made.session.look_after(TODAY)
    assert NEW not in made.ledger().positions and HELD not in made.ledger().positions
    assert made.ledger().trades[decision("HELD")].symbol == NEW


def test_exits_are_not_tried_again_and_again_while_the_shares_are_unknown(tmp_path: Path) -> None:
    made = ready(tmp_path, action(ActionKind.MERGER, "HELD", TODAY, cash_per_share="54.20"))
    made.broker._end(STOP, "canceled")
    made.broker.happened("MA", HELD, -SHARES, Decimal("650.40"))
    made.planner.exits_ = [(decision("HELD"), ExitReason.TIME)]
    sent = len(made.broker.submits)
    for label in ("10:00", "10:30", "15:55"):
        report = made.session.run(due(label, first=False))
        (row,) = [r for r in report.intents if r["symbol"] == "HELD"]
        assert (row["verdict"], row["codes"]) == ("refused", [PENDING, "OVERSELL"])
    assert not [cid for cid in made.broker.submits[sent:] if "HELD" in cid]
    refused = [r for r in made.world.journal.kinds("order_refused") if r.body["symbol"] == "HELD"]
    assert refused == []
    (gone,) = [b for b in report.breaks if b["kind"] == "MISSING_POSITION"]
    assert gone["cause"] == Cause.MERGER and any("650.4" in fact for fact in gone["evidence"])


def test_a_crash_between_two_rebases_is_finished_by_the_next_look(tmp_path: Path) -> None:
    """Each record says absolute numbers, so the half that was written is not multiplied again."""
    made = ready(tmp_path, split("4", date(2024, 3, 6)))
    made.broker.trade_by_hand(HELD, 3)
    sync.adopt(made.world.desk, made.feed, HELD, Decimal("4.00"), reason="mine")
    made.world.clock.set(NOW.replace(day=6))
    made.broker.split(HELD, Fraction(4))
    real: Callable[..., Any] = made.world.desk.journal.append

    def dies(kind: str, body: Any, **more: Any) -> Any:
        if kind == "trade_rebased" and body["decision_id"].endswith("adopted-HELD"):
            raise KeyboardInterrupt
        return real(kind, body, **more)

    made.world.desk.journal.append = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        made.session.look_after(date(2024, 3, 6))
    made.restart()
    assert [t.quantity for t in made.ledger().open_trades() if t.symbol == HELD] == [48, 3]
    made.session.look_after(date(2024, 3, 6))
    assert [t.quantity for t in made.ledger().open_trades() if t.symbol == HELD] == [48, 12]
    assert sorted(quantity for quantity, _, _ in resting(made)) == [12, 48] and not made.ledger().locked
