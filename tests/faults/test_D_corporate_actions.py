"""D01 to D07: what a company does overnight, through the real adapter at the embedded venue. Ratios and amounts are
those of real actions; prices are scaled to what one order may cost.
"""

from __future__ import annotations

import os
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from core.domain import ActionKind, CorporateAction, ExitReason
from execution.breaks import ACTION_LOCK, LOCK
from execution.corporate_actions import PENDING
from execution.evidence import look
from tests.faults.overnight import FRI, HELD, NEW, OTHER, SHARES, THU, WED, holding

DECISION = "20240304-ibs_rsi-HELD"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def event(kind: ActionKind, **more: Any) -> CorporateAction:
    return CorporateAction(kind=kind, symbol=HELD, ex_date=WED, **more)


# ---------------------------------------------------------------- D01
@pytest.mark.parametrize("target_r", [None, 0.5])
def test_D01_a_forward_split_overnight_rebases_the_trade_and_sells_nothing(
    tmp_path: Path, target_r: float | None
) -> None:
    """AAPL 4:1, 2020-08-31: a quarter of the price is no fall."""
    bars = {"HELD": (5.0, 5.0, 1.25, 1.25, 1.25)}
    with holding(tmp_path, bars, splits=[("HELD", WED, 4.0)], target_r=target_r) as night:
        assert night.evening(WED.replace(day=5)).breaks == []
        assert night.stops() == [(SHARES, Decimal("1.13"))], "on the eve: right on either side"
        night.before_open(WED)
        report = night.scan(WED)
        assert night.held() == night.ours() == {HELD: 48} and night.sold() == []
        assert night.stops() == [(48, Decimal("1.13"))] and report.breaks == []
        (told,) = night.records("trade_rebased")
        assert (told["cause"], told["quantity"], told["before"]["quantity"]) == ("SPLIT", 48, 12)
        night.planner.exits_ = [(DECISION, ExitReason.TIME)]
        night.scan(FRI, "15:55", first=False)
        assert night.held() == night.ours() == {} and [(s, q) for s, q, _ in night.sold()] == [(HELD, 48)]


def test_D01_without_a_word_of_the_feed_the_symbol_is_locked_and_nothing_is_sent(tmp_path: Path) -> None:
    bars = {"HELD": (5.0, 5.0, 1.25, 1.25, 1.25)}
    with holding(tmp_path, bars, splits=[("HELD", WED, 4.0)]) as night:
        silent: Any = night.session._actions
        silent.feed = night.session._feed = type("Silent", (), {"actions": lambda *_: []})()
        night.planner.exits_ = [(DECISION, ExitReason.TIME)]
        orders = len(night.desk.ledger().orders)
        night.before_open(WED)
        for clock in ("09:35", "10:30", "15:55"):
            report = night.scan(WED, clock)
        assert night.desk.ledger().locked == {HELD: ACTION_LOCK} and night.sold() == []
        assert len(night.desk.ledger().orders) == orders, "no exit and no stop in shares or prices of yesterday"
        (gap,) = [b for b in report.breaks if b["kind"] == "POSITION_QUANTITY"]
        assert (gap["cause"], gap["ours"], gap["theirs"]) == ("SPLIT", "12", "48")


# ---------------------------------------------------------------- D02
def test_D02_a_reverse_split_pays_the_fraction_and_the_record_says_so(tmp_path: Path) -> None:
    """GE 1:8, 2021-08-02: 12 shares are one and a half."""
    bars = {"HELD": (5.0, 5.0, 40.0, 40.0, 40.0)}
    with holding(tmp_path, bars, splits=[("HELD", WED, 0.125)], target_r=0.5) as night:
        cash = night.broker.account().cash
        report = night.night(WED)
        assert night.held() == night.ours() == {HELD: 1} and night.stops() == [(1, Decimal("36"))]
        assert night.sold() == [] and report.breaks == [], "neither the old target nor the old stop was hit"
        (act,) = night.broker.account_activities(night.clock.now().replace(day=1), ["SPLIT"])
        assert act.net_amount == Decimal("20.00") and night.broker.account().cash == (cash or 0) + 20
        (told,) = night.records("trade_rebased")
        assert told["cause"] == "REVERSE_SPLIT" and any("1 for 8" in fact for fact in told["evidence"])


def test_D02_a_reverse_split_that_the_feed_forgot_is_explained_with_its_cash(tmp_path: Path) -> None:
    bars = {"HELD": (5.0, 5.0, 40.0, 40.0, 40.0)}
    with holding(tmp_path, bars, splits=[("HELD", WED, 0.125)]) as night:
        night.clock.set(night.clock.now().replace(day=6))
        found, _, _ = look(night.broker, None, night.desk.ledger, night.clock)
        (gap,) = [b for b in found if b.kind == "POSITION_QUANTITY"]
        assert gap.cause == "REVERSE_SPLIT" and any("-11 HELD +20 USD" in fact for fact in gap.evidence)


# ---------------------------------------------------------------- D03
def test_D03_a_special_dividend_lowers_the_stop_before_its_drop(tmp_path: Path) -> None:
    """A fifth of the price: the fall at the open is cash, not a loss, and the stop is not hit."""
    bars = {"HELD": (5.0, 5.0, 4.0, 4.0, 4.0)}
    with holding(tmp_path, bars, dividends=[("HELD", WED, 1.0)], target_r=0.5) as night:
        report = night.night(WED)
        assert night.held() == night.ours() == {HELD: SHARES} and night.sold() == []
        assert night.stops() == [(SHARES, Decimal("3.5"))] and report.breaks == []
        (told,) = night.records("trade_rebased")
        assert (told["cause"], told["stop"], told["before"]["stop"]) == ("SPECIAL_DIVIDEND", "3.5", "4.5")
        night.scan(WED, "10:30")
        night.scan(THU)
        assert len(night.records("trade_rebased")) == 1 and night.stops() == [(SHARES, Decimal("3.5"))]


def test_D03_an_ordinary_dividend_moves_nothing(tmp_path: Path) -> None:
    with holding(tmp_path, {"HELD": (5.0,) * 5}, dividends=[("HELD", WED, 0.24)]) as night:
        night.night(WED)
        assert night.stops() == [(SHARES, Decimal("4.5"))] and night.records("trade_rebased") == []


# ---------------------------------------------------------------- D04
def test_D04_a_new_name_is_followed_by_asset_id_and_the_old_one_is_refused(tmp_path: Path) -> None:
    """FB is META since 2022-06-09."""
    bars = {"HELD": (5.0, 5.0, None, None, None), "NEW": (None, None, 5.0, 5.0, 5.0)}
    with holding(tmp_path, bars, events=[event(ActionKind.RENAME, other=NEW)]) as night:
        report = night.night(WED)
        assert night.held() == night.ours() == {NEW: SHARES} and night.stops(NEW) == [(SHARES, Decimal("4.5"))]
        assert report.breaks == [] and night.sold() == []
        (trade,) = night.desk.ledger().open_trades()
        assert (trade.symbol, trade.decision_id, trade.session) == (NEW, DECISION, WED.replace(day=5))
        old = night.broker.asset(HELD)
        assert old is not None and not old.tradable
        night.planner.exits_ = [(DECISION, ExitReason.TIME)]
        night.scan(FRI, "15:55", first=False)
        assert night.held() == {} and [(s, q) for s, q, _ in night.sold()] == [(NEW, SHARES)]


# ---------------------------------------------------------------- D05
@pytest.mark.parametrize(("cash", "fact"), [("3.10", "+37.20 USD"), (None, "worthless until there are")])
def test_D05_a_delisting_locks_reports_the_proceeds_and_does_not_loop(
    tmp_path: Path, cash: str | None, fact: str
) -> None:
    told = event(ActionKind.DELISTING, cash_per_share=None if cash is None else Decimal(cash))
    bars = {"HELD": (5.0, 5.0, None, None, None), "OTHER": (5.0,) * 5}
    with holding(tmp_path, bars, events=[told]) as night:
        night.planner.exits_ = [(DECISION, ExitReason.TIME)]
        night.before_open(WED)
        orders = len(night.desk.ledger().orders)
        for clock in ("09:35", "10:30", "15:55"):
            report = night.scan(WED, clock)
        assert night.desk.ledger().locked == {HELD: PENDING}
        (gap,) = [b for b in report.breaks if b["kind"] == "MISSING_POSITION"]
        assert gap["cause"] == "DELISTING" and any(fact.replace("37.20", "37.2") in f for f in gap["evidence"]), gap
        assert len(night.desk.ledger().orders) == orders and night.records("order_refused") == []
        assert len(night.records("symbol_locked")) == 1


# ---------------------------------------------------------------- D06
def test_D06_the_child_of_a_spin_off_has_a_known_cause_and_is_never_sold(tmp_path: Path) -> None:
    """T and WBD, 2022-04-11: 0.241917 a share."""
    told = event(ActionKind.SPINOFF, other=NEW, ratio=Fraction("0.241917"))
    bars = {"HELD": (5.0, 5.0, 3.9, 3.9, 3.9), "NEW": (None, None, 6.0, 6.0, 6.0)}
    with holding(tmp_path, bars, events=[told]) as night:
        report = night.night(WED)
        assert night.held() == {HELD: SHARES, NEW: 2} and night.sold() == [], "its fall is the child, not a loss"
        (child,) = [b for b in report.breaks if b["symbol"] == "NEW"]
        assert (child["kind"], child["cause"]) == ("UNKNOWN_POSITION", "SPINOFF")
        assert night.desk.ledger().locked == {NEW: LOCK, HELD: PENDING}
        assert night.stops() == [(SHARES, Decimal("2.25"))], "half the stop until a person sets the new one"
        night.scan(THU)
        night.scan(FRI)
        assert night.held() == {HELD: SHARES, NEW: 2} and night.sold() == []


# ---------------------------------------------------------------- D07
def test_D07_a_merger_for_stock_and_cash_names_both_legs(tmp_path: Path) -> None:
    """MLVF and FRBA, 2023-07-18: 0.7733 shares and 7.80 USD."""
    told = event(ActionKind.MERGER, other=OTHER, ratio=Fraction("0.7733"), cash_per_share=Decimal("7.80"))
    bars = {"HELD": (5.0, 5.0, None, None, None), "OTHER": (9.0,) * 5}
    with holding(tmp_path, bars, events=[told]) as night:
        night.planner.exits_ = [(DECISION, ExitReason.TIME)]
        report = night.night(WED)
        assert night.held() == {OTHER: 9} and night.sold() == []
        gone = next(b for b in report.breaks if b["symbol"] == "HELD" and b["kind"] == "MISSING_POSITION")
        came = next(b for b in report.breaks if b["symbol"] == "OTHER")
        assert gone["cause"] == came["cause"] == "MERGER"
        for row in (gone, came):
            text = " ".join(row["evidence"])
            assert "stock leg" in text and "0.7733 OTHER a share" in text and "cash leg: 7.8" in text
            assert "-12 HELD +93.6" in text and "+9 OTHER" in text
        assert set(night.desk.ledger().locked) == {HELD, OTHER}
