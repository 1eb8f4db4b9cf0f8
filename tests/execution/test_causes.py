"""Each cause from the whole path (M7), then the edges of the rules from bare evidence."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.domain import Account, ActionKind, Activity, Asset, Fill, Position, Side, Symbol
from core.errors import BrokerDown
from execution import evidence
from execution.breaks import Break, BreakKind, Cause
from execution.causes import LAG, Evidence, explain
from execution.ledger import Ledger
from execution.reconcile import find_breaks, record_breaks
from tests.execution.reconcile_cases import CASES, HELD, NEW, PICKA, PRICE, SHARES, Case, account
from tests.fakes.feeds import action
from tests.fakes.scans import Scene, due
from tests.fakes.trading import NOW, TODAY

BY_A_PERSON = {"positions_synced", "position_adopted"}


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ---------------------------------------------------------------- the measure
def test_there_are_sixty_scripted_breaks_with_every_cause_that_has_one() -> None:
    assert len(CASES) >= 60
    assert {case.cause for case in CASES} == set(Cause) - {Cause.VIEW_EDITED}  # a file, not a broker: test_reconcile


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_break_is_found_named_and_locks_its_symbol_only(tmp_path: Path, case: Case) -> None:
    made = account(tmp_path, target_r=case.target_r)
    case.happen(made)
    desk = made.world.desk
    before, sent = desk.journal.path.read_bytes(), len(made.broker.submits)
    found, _, _ = evidence.look(made.broker, made.feed, desk.ledger, made.world.clock)
    assert desk.journal.path.read_bytes() == before and len(made.broker.submits) == sent, "looking changes nothing"
    here = [b for b in found if b.symbol == case.symbol and case.kind in (None, b.kind)]
    told = [(str(b.kind), str(b.cause), b.evidence) for b in found]
    assert case.cause in [b.cause for b in here], told
    assert all(b.proposal and (b.evidence or b.kind is BreakKind.MISSING_PROTECTION) for b in here), told
    record_breaks(desk.journal, found, desk.ledger())
    assert set(desk.ledger().locked) <= {b.symbol for b in found}
    assert PICKA not in desk.ledger().locked


@pytest.mark.parametrize("case", [c for c in CASES if c.cause is not Cause.WRONG_ACCOUNT], ids=str)
def test_other_symbols_keep_trading_and_nothing_is_adjusted_by_itself(tmp_path: Path, case: Case) -> None:
    """Another account is refused before there is a session: tests/faults/test_B_reconcile.py."""
    made = account(tmp_path, target_r=case.target_r)
    case.happen(made)
    made.feed.known.clear()  # so that no action is booked: what is left is the break alone
    held, sent = dict(made.ledger().positions), list(made.broker.submits)
    report = made.session.run(due())
    assert made.broker.positions()[PICKA].quantity == 15, [i["codes"] for i in report.intents]
    assert not BY_A_PERSON & set(made.world.kinds())
    assert all(r.body["evidence"] for r in made.world.journal.kinds("trade_rebased"))
    by_fill = {o.intent.symbol for o in made.ledger().orders.values() if o.filled_quantity}
    for symbol in {*held, *made.ledger().positions} - {PICKA}:
        moved = made.ledger().positions.get(symbol, 0) != held.get(symbol, 0)
        renamed = any(symbol in (r.body["symbol"], r.body["before"]["symbol"])
                      for r in made.world.journal.kinds("trade_rebased"))  # fmt: skip
        assert not moved or symbol in by_fill or renamed, f"{symbol} changed without an execution"
    if made.ledger().locked.get(case.symbol, "").startswith("UNKNOWN"):
        new = [cid for cid in made.broker.submits[len(sent):] if f"-{case.symbol}-" in cid]  # fmt: skip
        assert new == [], "shares or prices are not known, and something was sent"


# ---------------------------------------------------------------- no false breaks
@pytest.mark.parametrize("block", range(4))
def test_clean_random_days_have_no_break(block: int) -> None:
    """1,000 days each: any mixture of entries, exits, splits and syncs, told alike by both sides."""
    for seed in range(block * 1000, block * 1000 + 1000):
        ledger, positions = _a_clean_day(random.Random(seed))
        assert find_breaks(ledger, positions, [], account=None) == (), seed


def _a_clean_day(rng: random.Random) -> tuple[Ledger, dict[Symbol, Position]]:
    from execution.fold import Fold
    from execution.ledger import intent_body
    from tests.fakes.trading import entry, sell

    held: dict[str, int] = {}
    fold: Any = Fold()
    seq = 0

    def add(kind: str, body: dict[str, Any]) -> None:
        nonlocal seq
        fold.add(SimpleNamespace(seq=seq, at=NOW + timedelta(minutes=seq), kind=kind, body=body))
        seq += 1

    for name in rng.sample(["AAA", "BBB", "CCC", "DDD"], rng.randint(1, 4)):
        quantity = rng.randint(1, 40)
        filled = rng.choice((quantity, rng.randint(0, quantity)))
        buy = entry(name, quantity=quantity, stop=None)
        facts = {"client_order_id": buy.client_order_id, "quantity": filled, "price": "50.00"}
        add("order_intended", intent_body(buy))
        if filled:
            add("order_filled", facts)
        add("order_closed", {**facts, "status": "canceled", "filled_quantity": filled, "filled_price": "50.00"})
        out = rng.randint(0, filled)
        if out:
            exit_ = sell(name, quantity=filled)
            add("order_intended", intent_body(exit_))
            for _ in range(rng.randint(1, 2)):  # told twice, counted once
                add("order_filled", {"client_order_id": exit_.client_order_id, "quantity": out, "price": "51.00"})
            add("order_closed", {"client_order_id": exit_.client_order_id, "status": "canceled"})
        held[name] = filled - out
        if held[name] and rng.random() < 0.2:
            held[name] *= 2
            add("trade_rebased", {"decision_id": buy.decision_id, "symbol": name, "quantity": held[name],
                                  "entry_price": "25.00", "stop": None, "basis": "2024-03-05"})  # fmt: skip
    kept = {Symbol(s): q for s, q in held.items() if q}
    shown = {s: Position(symbol=s, quantity=Decimal(q), average_price=Decimal(1)) for s, q in kept.items()}
    return fold.ledger(), shown


# ---------------------------------------------------------------- the edges
def position(shares: str, *, price: str = "5.00", worth: str | None = None, symbol: str = "HELD") -> dict[Symbol, Any]:
    found = Position(symbol=Symbol(symbol), quantity=Decimal(shares), average_price=Decimal(price),
                     market_value=None if worth is None else Decimal(worth))  # fmt: skip
    return {Symbol(symbol): found} if Decimal(shares) else {}


def caused(made: Scene, positions: dict[Symbol, Any], **more: Any) -> Break:
    """The one break of HELD or NEW, explained by this evidence alone."""
    rest = {s: p for s, p in made.broker.positions().items() if s not in (HELD, NEW)}
    ledger, seen = made.ledger(), {**rest, **positions}
    facts = Evidence(at=more.pop("at", NOW), ledger=ledger, positions=seen, **more)
    found = find_breaks(ledger, seen, made.broker.open_orders())
    (one,) = [b for b in explain(found, facts) if b.symbol in (HELD, NEW) and "POSITION" in b.kind]
    return one


def test_without_evidence_nothing_is_explained_and_the_gaps_are_named(tmp_path: Path) -> None:
    made = account(tmp_path)
    found = caused(made, position("17"), gaps=("fills (BROKER_DOWN)",))
    assert found.cause is Cause.UNEXPLAINED and found.lock_code == "UNKNOWN_POSITION_CHANGE"
    assert "could not be read: fills (BROKER_DOWN)" in found.evidence
    assert "none explains +5" in found.evidence[0]


def test_a_listing_may_lag_for_sixty_seconds_and_no_longer(tmp_path: Path) -> None:
    made = account(tmp_path)
    copies = {cid: made.broker.find(cid) for cid in made.ledger().orders}
    filled_at = max(o.filled_at for o in made.ledger().orders.values() if o.filled_at is not None)
    for late, cause in ((LAG, Cause.BROKER_LAG), (LAG + timedelta(seconds=1), Cause.UNEXPLAINED)):
        assert caused(made, position("7"), at=filled_at + late, by_client_id=copies).cause is cause
    lost = {**copies, next(iter(copies)): None}
    assert caused(made, position("7"), at=filled_at, by_client_id=lost).cause is Cause.UNEXPLAINED
    for shares, cause in (("0", Cause.BROKER_LAG), ("13", Cause.UNEXPLAINED), ("-1", Cause.UNEXPLAINED)):
        assert caused(made, position(shares), at=filled_at, by_client_id=copies).cause is cause, "twelve were bought"


@pytest.mark.parametrize(
    ("shares", "price", "cause"),
    [
        ("24", "2.50", Cause.SPLIT),
        ("24", "2.55", Cause.SPLIT),  # 2 % more cost
        ("24", "2.56", Cause.UNEXPLAINED),
        ("24", "5.00", Cause.UNEXPLAINED),  # twelve more at full price are no split
        ("4", "15.00", Cause.REVERSE_SPLIT),
        ("108", "0.56", Cause.UNEXPLAINED),  # nine for one is no usual split
        ("0", "0", Cause.UNEXPLAINED),
    ],
)
def test_a_split_nobody_tells_keeps_its_cost(tmp_path: Path, shares: str, price: str, cause: Cause) -> None:
    assert caused(account(tmp_path), position(shares, price=price)).cause is cause


def test_a_split_of_the_feed_must_fit_to_less_than_one_share(tmp_path: Path) -> None:
    made = account(tmp_path)
    told = (action(ActionKind.SPLIT, "HELD", TODAY, ratio="1/8"),)  # 12 / 8 = 1.5
    for shares, cause in (("1", Cause.REVERSE_SPLIT), ("1.5", Cause.REVERSE_SPLIT), ("2", Cause.REVERSE_SPLIT),
                          ("3", Cause.UNEXPLAINED), ("0.5", Cause.UNEXPLAINED)):  # fmt: skip
        assert caused(made, position(shares, price="99"), actions=told).cause is cause, shares


def test_an_action_of_tomorrow_explains_nothing_today(tmp_path: Path) -> None:
    made = account(tmp_path)
    for day, cause in ((TODAY, Cause.SPLIT), (TODAY + timedelta(days=1), Cause.UNEXPLAINED)):
        told = (action(ActionKind.SPLIT, "HELD", day, ratio="3"),)
        assert caused(made, position("36", price="99"), actions=told).cause is cause


def test_a_sale_by_hand_is_not_taken_for_a_delisting(tmp_path: Path) -> None:
    made = account(tmp_path)
    sold = Fill(id="x", order_id="app", symbol=HELD, side=Side.SELL, quantity=12, price=PRICE, at=NOW)
    gone = {HELD: Asset(symbol=HELD, id="a", tradable=False, active=False)}
    assert caused(made, {}, assets=gone).cause is Cause.DELISTING
    assert caused(made, {}, assets=gone, fills=(sold,)).cause is Cause.MANUAL_TRADE
    assert caused(made, {}, assets={}).cause is Cause.UNEXPLAINED, "not asked is not gone"


@pytest.mark.parametrize(("paid", "cause"), [("1.20", Cause.DIVIDEND_REINVEST), ("1.30", Cause.DIVIDEND_REINVEST),
                                             ("1.40", Cause.FRACTIONAL_RESIDUE)])  # fmt: skip
def test_a_reinvested_fraction_is_worth_its_dividend(tmp_path: Path, paid: str, cause: Cause) -> None:
    """0.24 shares at 5.00 are 1.20 USD; up to a tenth off is the price of that day."""
    act = Activity(id="d", kind="DIV", day=TODAY, symbol=HELD, net_amount=Decimal(paid))
    assert caused(account(tmp_path), position("12.24"), activities=(act,)).cause is cause


def test_fills_that_a_person_has_settled_explain_nothing_any_more(tmp_path: Path) -> None:
    made = account(tmp_path)
    bought = Fill(id="x", order_id="app", symbol=HELD, side=Side.BUY, quantity=5, price=PRICE, at=NOW)
    assert caused(made, position("17"), fills=(bought,)).cause is Cause.MANUAL_TRADE
    made.world.clock.sleep(60)
    made.world.journal.append("symbol_unlocked", {"symbol": "HELD", "code": "OPERATOR"})
    assert caused(made, position("17"), fills=(bought,)).cause is Cause.UNEXPLAINED


def test_an_account_that_still_holds_some_of_ours_was_not_reset(tmp_path: Path) -> None:
    made = account(tmp_path)
    lost: dict[str, Any] = dict.fromkeys(made.ledger().orders)  # the broker knows none of our orders
    assert caused(made, {}, by_client_id=lost).cause is not Cause.PAPER_RESET
    made.broker.held.clear()
    side = made.broker.account()
    facts = Evidence(at=NOW, ledger=made.ledger(), account=side, by_client_id=lost)
    found = explain(find_breaks(made.ledger(), {}, [], account=side), facts)
    assert [b.cause for b in found if b.kind is BreakKind.MISSING_POSITION] == [Cause.PAPER_RESET] * 2


def test_another_account_explains_everything_first(tmp_path: Path) -> None:
    made = account(tmp_path)
    made.world.journal.append("account_bound", {"id": "a", "number": "PA123456", "mode": "paper"})
    mine = made.broker.account()
    told = (action(ActionKind.SPLIT, "HELD", TODAY, ratio="2"),)
    assert caused(made, position("24"), actions=told, account=mine).cause is Cause.SPLIT
    other = replace(mine, id="b", number="PA000042")
    found = caused(made, position("24"), actions=told, account=other)
    assert found.cause is Cause.WRONG_ACCOUNT and "3456" in found.evidence[0] and "0042" in found.evidence[0]


def test_a_missing_position_that_the_equity_still_holds_is_doubted(tmp_path: Path) -> None:
    made = account(tmp_path)
    cash = Decimal("1000")
    listed = Decimal(SHARES) * made.broker.bid  # DUE
    for more, doubted in ((Decimal(30), True), (Decimal("29.99"), False)):  # half of what HELD cost
        seen = Account(id="a", number="n", status="ACTIVE", blocked=(), cash=cash, equity=cash + listed + more,
                       buying_power=cash)  # fmt: skip
        found = caused(made, {}, account=seen)
        assert any("may not be whole" in fact for fact in found.evidence) is doubted


def test_explaining_never_adds_or_drops_a_break(tmp_path: Path) -> None:
    rng = random.Random(7)
    made = account(tmp_path)
    for _ in range(300):
        shares = rng.choice(["0", "3", "12.5", "24", "17", "6"])
        kind = rng.choice([k for k in ActionKind if k not in (ActionKind.SPLIT, ActionKind.DIVIDEND)])
        acts = tuple(Activity(id=str(i), kind=rng.choice(["MA", "NC", "SPLIT", "DIV", "SPIN", "ACATS", "REORG"]),
                              day=TODAY, symbol=rng.choice([HELD, NEW]), quantity=Decimal(rng.randint(-12, 12)))
                     for i in range(rng.randint(0, 3)))  # fmt: skip
        told = (action(kind, "HELD", TODAY, other=NEW, ratio="2"),) if rng.random() < 0.5 else ()
        seen = {**made.broker.positions(), **position("5", symbol="NEW")}
        seen.pop(HELD)
        seen |= position(shares)
        found = find_breaks(made.ledger(), seen, made.broker.open_orders())
        facts = Evidence(at=NOW, ledger=made.ledger(), positions=seen, activities=acts, actions=told)
        explained = explain(found, facts)
        assert [(b.symbol, b.kind, b.ours, b.theirs) for b in explained] == [
            (b.symbol, b.kind, b.ours, b.theirs) for b in found
        ]
        assert all(isinstance(b.cause, Cause) and b.proposal for b in explained)


# ---------------------------------------------------------------- gathering
@pytest.mark.parametrize("name", ["fills", "account_activities", "find", "by_id", "asset"])
def test_what_cannot_be_read_is_a_gap_and_not_an_absence(tmp_path: Path, name: str) -> None:
    made = account(tmp_path)
    made.broker._end(f"kobe-{made.ledger().open_trades()[0].decision_id}-sell-protect-1", "canceled")
    made.broker.trade_by_hand(NEW, 3)
    made.broker.held[HELD] = 0
    made.broker.cash += PRICE * SHARES

    def fails(*_: Any) -> Any:
        raise BrokerDown("nobody answers")

    setattr(made.broker, name, fails)
    found, _, seen = evidence.look(made.broker, made.feed, made.world.desk.ledger, made.world.clock)
    assert seen is not None and seen.gaps and all("BROKER_DOWN" in gap for gap in seen.gaps)
    assert all(any("could not be read" in fact for fact in b.evidence) for b in found if "POSITION" in b.kind)


def test_a_feed_that_fails_is_a_gap(tmp_path: Path) -> None:
    made = account(tmp_path)
    made.feed.down = True
    made.broker.split(HELD, Fraction(2), told=True)
    found, _, seen = evidence.look(made.broker, made.feed, made.world.desk.ledger, made.world.clock)
    assert seen is not None and seen.gaps == ("corporate actions (ACTIONS_UNKNOWN)",)
    assert Cause.SPLIT in [b.cause for b in found]


def test_in_step_no_evidence_is_read(tmp_path: Path) -> None:
    made = account(tmp_path)
    calls: list[str] = []
    made.feed.asked = 0
    for name in ("fills", "account_activities", "find", "by_id", "asset"):
        setattr(made.broker, name, lambda *_, name=name: calls.append(name))
    found, _, seen = evidence.look(made.broker, made.feed, made.world.desk.ledger, made.world.clock)
    assert (found, seen, calls, made.feed.asked) == ((), None, [], 0)


def test_a_lag_that_passes_is_no_break(tmp_path: Path) -> None:
    from tests.execution.reconcile_cases import lagging

    made = account(tmp_path)
    real = made.broker.positions
    lagging(made, 0)
    slow = made.broker.positions
    fresh_from = made.world.clock.now() + timedelta(seconds=1.5)
    made.broker.positions = lambda: real() if made.world.clock.now() >= fresh_from else slow()
    found, side, _ = evidence.look(made.broker, made.feed, made.world.desk.ledger, made.world.clock)
    assert [b for b in found if "POSITION" in b.kind] == [] and side.positions[NEW].quantity == SHARES


def test_evidence_begins_before_the_oldest_trade_concerned() -> None:
    from execution.evidence import _start

    assert _start(Ledger(), [HELD], NOW) == NOW - timedelta(days=11)
    assert date(2024, 3, 5) == NOW.date()
