"""Every limit from both sides. `codes` of an approved intent is the empty list."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from core.domain import Order, OrderIntent, Purpose, Side, Symbol, TradingState
from risk import gate
from risk.gate import Approved, Book, Limits, Refused, decide
from risk.runaway import Ceilings
from tests.fakes.trading import AAA, NOW, book, entry, limits, quote, sell

BBB = Symbol("BBB")


def codes(intent: OrderIntent, seen: Book | None = None, **changes: Any) -> list[str]:
    answer = decide(intent, seen or book(), limits(**changes))
    return [] if isinstance(answer, Approved) else list(answer.codes)


def open_order(symbol: str = "AAA", side: Side = Side.SELL, quantity: int = 1) -> Order:
    return Order(
        id="1",
        client_order_id="other",
        symbol=Symbol(symbol),
        side=side,
        quantity=quantity,
        filled_quantity=0,
        filled_price=None,
        kind="stop",
        tif="gtc",
        status="new",
    )


def test_an_ordinary_entry_passes() -> None:
    assert codes(entry()) == []


def test_approved_cannot_be_built_outside_the_gate() -> None:
    with pytest.raises(AssertionError):
        Approved(entry())
    good = decide(entry(), book(), limits())
    assert isinstance(good, Approved) and not good.despite_halt


def test_per_order_max_from_both_sides() -> None:
    wide = book(quote=quote(ask="75.00", bid="74.99", last="75.00"))
    assert codes(entry(price="75.00"), wide) == []
    assert codes(entry(price="75.01"), wide) == ["PER_ORDER_MAX"]


@pytest.mark.parametrize(("spent", "pending", "refused"), [("900", "49.90", False), ("900", "49.91", True)])
def test_daily_budget_counts_filled_and_pending(spent: str, pending: str, refused: bool) -> None:
    seen = book(spent_today_usd=Decimal(spent), pending_notional_usd=Decimal(pending))
    assert codes(entry(), seen) == (["DAILY_BUDGET"] if refused else [])


def test_position_limit_from_both_sides() -> None:
    assert codes(entry(), book(open_position_slots=9)) == []
    assert codes(entry(), book(open_position_slots=10)) == ["POSITION_LIMIT"]


def test_one_position_per_symbol_counts_held_pending_and_open_buys() -> None:
    held = book(positions={AAA: 1}, marks={AAA: Decimal(50)})
    assert codes(entry(), held) == ["POSITION_EXISTS"]
    assert codes(entry(), held, one_position_per_symbol=False) == []
    assert codes(entry(), book(pending={AAA: Decimal(50)})) == ["POSITION_EXISTS"]
    assert codes(entry(), book(open_orders=[open_order(side=Side.BUY)])) == ["POSITION_EXISTS"]


@pytest.mark.parametrize("equity", [None, Decimal(0), Decimal(-1), Decimal("NaN")])
def test_without_equity_nothing_is_bought(equity: Decimal | None) -> None:
    found = codes(entry(), book(equity=equity)) if equity is None or equity.is_finite() else ["EQUITY_UNKNOWN"]
    assert "EQUITY_UNKNOWN" in found


def test_var_from_both_sides() -> None:
    fall = {AAA: np.full(60, -0.02)}  # 50.10 x 2 % = 1.002 USD
    loose = {"max_single_name_fraction": 9.0, "max_sector_fraction": 9.0}
    assert codes(entry(), book(returns=fall, equity=Decimal("50.11")), **loose) == []
    assert codes(entry(), book(returns=fall, equity=Decimal("50.09")), **loose) == ["VAR_LIMIT"]


def test_var_refuses_when_a_held_symbol_has_no_price() -> None:
    found = codes(entry(), book(positions={BBB: 3}))
    assert found == ["VAR_UNKNOWN", "SECTOR_UNKNOWN", "SINGLE_NAME_UNKNOWN"]


def test_correlation_only_with_top_n_and_unknown_is_one() -> None:
    wave = np.resize([0.01, -0.01, 0.002], 60)
    other = np.resize([0.01, 0.01, -0.002, -0.01], 60)
    seen = book(
        positions={BBB: 1}, marks={BBB: Decimal(50)}, returns={AAA: wave, BBB: other}, sectors={AAA: "x", BBB: "y"}
    )
    value = float(np.corrcoef(wave, other)[0, 1])
    assert codes(entry(), seen, max_correlation=value + 1e-6) == []
    assert codes(entry(), seen, max_correlation=value - 1e-6) == ["CORRELATION"]
    assert codes(entry(), replace(seen, returns={AAA: wave}), max_correlation=0.7) == ["CORRELATION"]
    assert codes(entry(), seen, max_correlation=None) == []


def test_sector_and_single_name_from_both_sides() -> None:
    assert (
        codes(entry(price="50.00"), book(equity=Decimal("125")), var_limit_fraction=1.0, max_single_name_fraction=1.0)
        == []
    )
    assert codes(
        entry(price="50.00"), book(equity=Decimal("124.99")), var_limit_fraction=1.0, max_single_name_fraction=1.0
    ) == ["SECTOR_LIMIT"]
    assert codes(entry(price="50.00"), book(equity=Decimal("200")), var_limit_fraction=1.0) == []
    assert codes(entry(price="50.00"), book(equity=Decimal("199.99")), var_limit_fraction=1.0) == ["SINGLE_NAME_LIMIT"]


@pytest.mark.parametrize(
    ("level", "price", "expected"),
    [
        (24.99, "50.10", []),
        (25.0, "50.10", ["VIX_HALVED"]),
        (25.0, "37.50", []),
        (25.0, "37.51", ["VIX_HALVED"]),
        (35.0, "37.50", []),
        (35.01, "37.50", ["VIX_STOP"]),
        (None, "37.50", ["VIX_UNKNOWN"]),
        (0.0, "37.50", ["VIX_UNKNOWN"]),
        (float("nan"), "37.50", ["VIX_UNKNOWN"]),
    ],
)
def test_vix_tiers_and_d38_unknown(level: float | None, price: str, expected: list[str]) -> None:
    seen = book(vix=level, quote=quote(bid=price, ask=price, last=price))
    assert codes(entry(price=price, stop="30.00"), seen) == expected


@pytest.mark.parametrize("state", [TradingState.REDUCING, TradingState.HALTED])
def test_entries_need_the_active_state(state: TradingState) -> None:
    assert codes(entry(), book(trading_state=state)) == ["TRADING_STATE"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"at": NOW - timedelta(seconds=60)}, []),
        ({"at": NOW - timedelta(seconds=61)}, ["QUOTE_STALE"]),
        ({"at": NOW + timedelta(seconds=10)}, []),
        ({"at": NOW + timedelta(seconds=11)}, ["QUOTE_FROM_FUTURE"]),
        ({"bid": "50.00"}, []),
        ({"bid": "50.01"}, ["QUOTE_CROSSED"]),
        ({"bid": None}, ["QUOTE_ONE_SIDED"]),
        ({"ask": None}, ["QUOTE_ONE_SIDED"]),
        ({"ask": "200000"}, ["SPREAD_WIDE"]),
        ({"bid": "49.51"}, []),
        ({"bid": "49.50"}, ["SPREAD_WIDE"]),
        ({"last": None}, ["QUOTE_ONE_SIDED", "LIMIT_COLLAR"]),
    ],
)
def test_d10_d11_d12_quotes(changes: dict[str, Any], expected: list[str]) -> None:
    assert codes(entry(), book(quote=quote(**changes))) == expected


def test_no_quote_and_another_symbols_quote_are_refused() -> None:
    assert "QUOTE_ABSENT" in codes(entry(), book(quote=None))
    assert "QUOTE_ABSENT" in codes(entry(), book(quote=quote("BBB")))


def test_limit_collar_from_both_sides() -> None:
    assert codes(entry(price="50.25")) == []
    assert codes(entry(price="50.26")) == ["LIMIT_COLLAR"]


def test_an_entry_carries_a_stop_below_its_limit() -> None:
    assert codes(entry(stop=None)) == ["STOP_MISSING"]
    assert codes(entry(stop="50.10")) == ["STOP_MISSING"]
    assert codes(entry(stop="50.09")) == []


@pytest.mark.parametrize("tradable", [False, None])
def test_b27_an_asset_must_be_known_tradable(tradable: bool | None) -> None:
    assert codes(entry(), book(tradable=tradable)) == ["NOT_TRADABLE"]


def test_b33_session_and_close_margin() -> None:
    assert codes(entry(), book(session_open=False)) == ["SESSION_CLOSED"]
    assert codes(entry(), book(closes_at=None)) == ["SESSION_CLOSED"]
    assert codes(entry(), book(closes_at=NOW + timedelta(seconds=60))) == []
    assert codes(entry(), book(closes_at=NOW + timedelta(seconds=59))) == ["TOO_CLOSE_TO_CLOSE"]


def test_b25_opposite_side_open() -> None:
    assert codes(entry(), book(open_orders=[open_order()])) == ["OPPOSITE_SIDE_OPEN"]
    held = book(positions={AAA: 5}, open_orders=[open_order(side=Side.BUY)])
    assert codes(sell(), held) == ["OPPOSITE_SIDE_OPEN"]


def test_b52_a_sell_never_exceeds_what_is_held_and_free() -> None:
    assert codes(sell(quantity=5), book(positions={AAA: 5})) == []
    assert codes(sell(quantity=6), book(positions={AAA: 5})) == ["OVERSELL"]
    assert codes(sell(quantity=3), book(positions={AAA: 5}, open_orders=[open_order(quantity=3)])) == ["OVERSELL"]
    assert codes(sell(quantity=2), book(positions={AAA: 5}, open_orders=[open_order(quantity=3)])) == []


def test_a_reduction_is_exempt_from_entry_limits_and_nothing_else() -> None:
    poor = book(
        positions={AAA: 5},
        vix=None,
        equity=None,
        quote=None,
        tradable=None,
        open_position_slots=99,
        spent_today_usd=Decimal(5000),
        trading_state=TradingState.REDUCING,
    )
    assert codes(sell(quantity=5), poor) == []
    assert codes(sell(quantity=5), replace(poor, trading_state=TradingState.HALTED)) == ["TRADING_STATE"]
    assert codes(sell(quantity=5), replace(poor, session_open=False)) == ["SESSION_CLOSED"]


def test_locks_stop_entries_and_only_unknown_orders_stop_exits() -> None:
    assert codes(entry(), book(locked={AAA: "BREAK"})) == ["SYMBOL_LOCKED"]
    assert codes(sell(), book(positions={AAA: 5}, locked={AAA: "BREAK"})) == []
    assert codes(sell(), book(positions={AAA: 5}, locked={AAA: "UNKNOWN_ORDER"})) == ["SYMBOL_LOCKED"]


def test_o01_liquidation_needs_the_operator_and_then_passes_a_halt() -> None:
    seen = book(positions={AAA: 5}, trading_state=TradingState.HALTED, locked={AAA: "UNKNOWN_ORDER"})
    close = sell(quantity=5, purpose=Purpose.CLOSE)
    assert codes(close, seen) == ["CLOSE_NOT_CONFIRMED"]
    answer = decide(close, replace(seen, operator_close=True), limits())
    assert isinstance(answer, Approved) and answer.despite_halt
    assert codes(sell(quantity=6, purpose=Purpose.CLOSE), replace(seen, operator_close=True)) == ["OVERSELL"]
    assert not isinstance(decide(entry(), replace(seen, operator_close=True), limits()), Approved)


def test_o01_only_a_liquidating_sell_passes_a_halt_not_what_else_the_operator_may_have_under_way() -> None:
    seen = book(positions={AAA: 5}, operator_close=True)
    for intent in (sell(quantity=5, purpose=Purpose.EXIT), sell(quantity=5, purpose=Purpose.PROTECT)):
        answer = decide(intent, seen, limits())
        assert isinstance(answer, Approved) and not answer.despite_halt
    answer = decide(entry(), book(operator_close=True), limits())
    assert isinstance(answer, Approved) and not answer.despite_halt


def test_duplicate_ids_off_tick_prices_and_runaway() -> None:
    assert codes(entry(), book(known_client_ids=frozenset({entry().client_order_id}))) == ["DUPLICATE_ID"]
    assert codes(entry(price="50.101")) == ["OFF_TICK"]
    busy = book(sent_at=[NOW - timedelta(seconds=s) for s in (1, 2, 60, 61)])
    assert codes(entry(), busy, ceilings=Ceilings(per_minute=3, per_day=9)) == []
    assert codes(entry(), busy, ceilings=Ceilings(per_minute=2, per_day=9)) == ["RUNAWAY_MINUTE"]
    assert codes(entry(), busy, ceilings=Ceilings(per_minute=9, per_day=4)) == ["RUNAWAY_DAY"]


def test_a_ceiling_that_stops_entries_leaves_room_for_protection_and_never_stops_the_operator() -> None:
    held = book(positions={AAA: 5}, sent_at=[NOW - timedelta(seconds=1)] * 7, operator_close=True)
    few, fewer = Ceilings(per_minute=2, per_day=99), Ceilings(per_minute=1, per_day=99)
    assert codes(entry(), replace(held, positions={}), ceilings=few) == ["RUNAWAY_MINUTE"]
    assert codes(sell(quantity=5), held, ceilings=few) == []
    assert codes(sell(quantity=5), held, ceilings=fewer) == ["RUNAWAY_MINUTE"]
    assert codes(sell(quantity=5, purpose=Purpose.CLOSE), held, ceilings=fewer) == []


def test_all_breaches_are_told_at_once() -> None:
    found = codes(entry(price="80.00"), Book(now=NOW))
    assert {"PER_ORDER_MAX", "EQUITY_UNKNOWN", "VIX_UNKNOWN", "QUOTE_ABSENT", "TRADING_STATE", "SESSION_CLOSED"} <= set(
        found
    )


def test_an_empty_book_approves_nothing() -> None:
    """Absent is no: the defaults of a Book are its most careful values."""
    assert isinstance(decide(entry(), Book(now=NOW), limits()), Refused)
    assert isinstance(decide(sell(), Book(now=NOW), limits()), Refused)


def test_every_check_is_asked() -> None:
    asked = {check.__name__ for check in gate.CHECKS}
    assert asked == {
        "per_order_max",
        "daily_budget",
        "position_limit",
        "one_position_per_symbol",
        "equity_known",
        "cash",
        "var",
        "max_correlation",
        "max_sector",
        "max_single_name",
        "vix",
        "entry_state",
        "quote",
        "limit_collar",
        "planned_stop",
        "asset_tradable",
        "entry_session",
        "exit_state",
        "exit_session",
        "oversell",
        "opposite_side_open",
        "symbol_locked",
        "duplicate_id",
        "on_tick",
        "runaway",
    }


@pytest.mark.parametrize("seed", range(100))
def test_approval_is_exactly_being_within_every_limit(seed: int) -> None:
    rng = random.Random(seed)
    cents = rng.choice([7499, 7500, 7501, 5000])
    price = Decimal(cents) / 100
    spent = Decimal(1000) - price + Decimal(rng.choice([-1, 0, 1])) / 100
    slots, level = rng.choice([8, 9, 10]), rng.choice([24.9, 25.0, 35.0, 35.1])
    seen = book(
        quote=quote(bid=str(price), ask=str(price), last=str(price)),
        spent_today_usd=spent,
        open_position_slots=slots,
        vix=level,
    )
    by_hand = (
        price <= 75 and spent + price <= 1000 and slots <= 9 and level <= 35 and not (level >= 25 and price > 37.5)
    )
    rules: Limits = limits()
    assert isinstance(decide(entry(price=str(price), stop="30.00"), seen, rules), Approved) is by_hand
