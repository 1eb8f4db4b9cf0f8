"""Every limit from both sides. `codes` of an approved intent is the empty list."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from config.settings_schema import Settings
from core.domain import Order, OrderIntent, OrderKind, Purpose, Side, Symbol, Tif, TradingState
from core.money import TickRow
from risk import gate
from risk.gate import Approved, Book, Limits, Refused, decide
from risk.runaway import Ceilings
from tests.fakes.trading import AAA, NOW, TICKS, TODAY, book, entry, limits, quote, sell

BBB = Symbol("BBB")


def codes(intent: OrderIntent, seen: Book | None = None, **changes: Any) -> list[str]:
    answer = decide(intent, seen or book(), limits(**changes))
    return [] if isinstance(answer, Approved) else list(answer.codes)


def open_order(
    symbol: str = "AAA", side: Side = Side.SELL, quantity: int = 1, filled: int = 0, cid: str = "other"
) -> Order:
    return Order(
        id="1",
        client_order_id=cid,
        symbol=Symbol(symbol),
        side=side,
        quantity=quantity,
        filled_quantity=filled,
        filled_price=None,
        kind="stop",
        tif="gtc",
        status="new",
    )


def protect(
    kind: OrderKind = OrderKind.STOP, *, quantity: int = 1, stop: str = "45.00", target: str | None = None
) -> OrderIntent:
    price = None if target is None else Decimal(target)
    return replace(
        sell(quantity=quantity, purpose=Purpose.PROTECT),
        kind=kind, tif=Tif.GTC, stop_price=Decimal(stop), limit_price=price,
    )  # fmt: skip


def breach(intent: OrderIntent, seen: Book, code: str, **changes: Any) -> tuple[str, str]:
    """What was observed, and the limit, of one breach of this refusal."""
    answer = decide(intent, seen, limits(**changes))
    assert isinstance(answer, Refused)
    (found,) = [b for b in answer.breaches if b.code == code]
    return found.observed, found.limit


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


def test_what_nobody_has_told_is_no_dollar_and_no_slot() -> None:
    assert codes(entry(), book(spent_today_usd=Decimal("949.90"))) == []
    assert codes(entry(), book(pending_notional_usd=Decimal("949.90"))) == []
    assert codes(entry(), position_limit=1) == []


def test_position_limit_from_both_sides() -> None:
    assert codes(entry(), book(open_position_slots=9)) == []
    assert codes(entry(), book(open_position_slots=10)) == ["POSITION_LIMIT"]


def test_what_is_held_or_pending_already_takes_no_further_slot() -> None:
    full = book(open_position_slots=10)
    held = replace(full, positions={AAA: 1}, marks={AAA: Decimal(50)})
    assert codes(entry(), held, one_position_per_symbol=False) == []
    assert codes(entry(), replace(full, pending={AAA: Decimal(50)}), one_position_per_symbol=False) == []
    other = replace(full, positions={BBB: 1}, marks={BBB: Decimal(50)}, pending={BBB: Decimal(50)})
    assert codes(entry(), other) == ["POSITION_LIMIT"]


def test_one_position_per_symbol_counts_held_pending_and_open_buys() -> None:
    held = book(positions={AAA: 1}, marks={AAA: Decimal(50)})
    assert codes(entry(), held) == ["POSITION_EXISTS"]
    assert codes(entry(), held, one_position_per_symbol=False) == []
    assert codes(entry(), book(pending={AAA: Decimal(50)})) == ["POSITION_EXISTS"]
    assert codes(entry(), book(open_orders=[open_order(side=Side.BUY)])) == ["POSITION_EXISTS"]
    assert codes(entry(), book(open_orders=[open_order("BBB", side=Side.BUY)], positions={AAA: 0})) == []
    assert codes(entry(), book(open_orders=[open_order(side=Side.SELL)])) == ["OPPOSITE_SIDE_OPEN"]


@pytest.mark.parametrize("equity", [None, Decimal(0), Decimal(-1), Decimal("NaN"), Decimal("Infinity")])
def test_without_equity_nothing_is_bought(equity: Decimal | None) -> None:
    assert codes(entry(), book(equity=equity)) == [
        "EQUITY_UNKNOWN", "VAR_UNKNOWN", "SECTOR_UNKNOWN", "SINGLE_NAME_UNKNOWN",
    ]  # fmt: skip


def test_an_equity_below_one_dollar_is_an_equity() -> None:
    assert "EQUITY_UNKNOWN" not in codes(entry(), book(equity=Decimal("0.50")))


@pytest.mark.parametrize(
    ("cash", "expected"),
    [("100.20", []), ("100.19", ["CASH_SHORT"]), ("NaN", ["CASH_UNKNOWN"]), (None, ["CASH_UNKNOWN"])],
)
def test_cash_pays_for_what_is_pending_and_this_order(cash: str | None, expected: list[str]) -> None:
    seen = book(cash=None if cash is None else Decimal(cash), pending_notional_usd=Decimal("50.10"))
    assert codes(entry(), seen) == expected
    assert codes(entry(), seen, cash_only=False) == []


def test_var_from_both_sides() -> None:
    fall = {AAA: np.full(60, -0.02)}  # 50.10 x 2 % = 1.002 USD
    loose = {"max_single_name_fraction": 9.0, "max_sector_fraction": 9.0}
    assert codes(entry(), book(returns=fall, equity=Decimal("50.11")), **loose) == []
    assert codes(entry(), book(returns=fall, equity=Decimal("50.09")), **loose) == ["VAR_LIMIT"]


def test_var_at_the_limit_itself_passes() -> None:
    half = book(returns={AAA: np.full(60, -0.5)}, equity=Decimal("100"))  # 50.00 x 50 % of 100: exactly a quarter
    loose = {"max_single_name_fraction": 9.0, "max_sector_fraction": 9.0}
    assert codes(entry(price="50.00"), half, var_limit_fraction=0.25, **loose) == []


@pytest.mark.parametrize("mark", [None, Decimal(0), Decimal(-1), Decimal("NaN"), Decimal("Infinity")])
def test_var_refuses_when_a_held_symbol_has_no_price(mark: Decimal | None) -> None:
    marks = {} if mark is None else {BBB: mark}
    unknown = ["VAR_UNKNOWN", "SECTOR_UNKNOWN", "SINGLE_NAME_UNKNOWN"]
    assert codes(entry(), book(positions={BBB: 3}, marks=marks)) == unknown
    assert codes(entry(), book(positions={BBB: 0}, marks=marks)) == [], "sold: it needs no price any more"


@pytest.mark.parametrize("shares", [3, -3])
def test_exposure_is_what_is_held_at_its_mark_and_pending_and_this_order(shares: int) -> None:
    """3 x 0.40 held, 20 pending, 50.10 of this order: 71.30 in one name, 76.30 in its sector with 5 of another."""
    seen = book(
        positions={AAA: shares, BBB: 2}, marks={AAA: Decimal("0.40"), BBB: Decimal("2.50")}, pending={AAA: Decimal(20)},
        sectors={AAA: "Tech", BBB: "Tech"}, returns={AAA: np.zeros(60), BBB: np.zeros(60)},
    )  # fmt: skip
    several = {"one_position_per_symbol": False, "max_sector_fraction": 9.0, "max_single_name_fraction": 9.0}
    one, whole = {**several, "max_single_name_fraction": 0.25}, {**several, "max_sector_fraction": 0.25}
    for equity, rules, expected in (
        ("285.20", one, []), ("285.19", one, ["SINGLE_NAME_LIMIT"]),
        ("305.20", whole, []), ("305.19", whole, ["SECTOR_LIMIT"]),
    ):  # fmt: skip
        assert codes(entry(), replace(seen, equity=Decimal(equity)), **rules) == expected


def test_correlation_only_with_top_n_and_unknown_is_one() -> None:
    wave = np.resize([0.01, -0.01, 0.002], 60)
    other = np.resize([0.01, 0.01, -0.002, -0.01], 60)
    seen = book(
        positions={BBB: 1}, marks={BBB: Decimal(50)}, returns={AAA: wave, BBB: other}, sectors={AAA: "x", BBB: "y"}
    )
    value = float(np.corrcoef(wave, other)[0, 1])
    assert codes(entry(), seen, max_correlation=value + 1e-6) == []
    assert codes(entry(), seen, max_correlation=value - 1e-6) == ["CORRELATION"]
    unknown = replace(seen, returns={AAA: wave})
    assert codes(entry(), unknown, max_correlation=0.7) == ["CORRELATION"]
    assert breach(entry(), unknown, "CORRELATION", max_correlation=0.7) == ("1.0000 with BBB", "0.7")
    assert codes(entry(), unknown, max_correlation=1.0) == [], "the limit itself passes"
    assert codes(entry(), seen, max_correlation=None) == []


def test_correlation_is_asked_of_what_is_held_or_pending_and_of_nothing_else() -> None:
    """Without returns every pair counts as 1."""
    rules: dict[str, Any] = {"max_correlation": 0.0, "one_position_per_symbol": False}
    held = book(positions={AAA: 1, BBB: 0}, marks={AAA: Decimal(50)}, pending={AAA: Decimal(50)})
    assert codes(entry(), **rules) == [], "the first position correlates with nothing"
    assert codes(entry(), held, **rules) == [], "neither itself nor what was sold"
    assert codes(entry(), replace(held, pending={BBB: Decimal(50)}), **rules) == ["CORRELATION"]
    assert codes(entry(), replace(held, positions={BBB: 1}, marks={BBB: Decimal(50)}), **rules) == ["CORRELATION"]
    wave = np.resize([0.01, -0.01, 0.002], 60)
    two = book(pending={BBB: Decimal(5), Symbol("CCC"): Decimal(5)}, returns={AAA: wave, BBB: -wave})
    assert breach(entry(), two, "CORRELATION", **rules) == ("1.0000 with CCC", "0.0"), "the worst of them"


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
        (0.5, "50.10", []),
        (24.99, "50.10", []),
        (25.0, "50.10", ["VIX_HALVED"]),
        (25.0, "37.50", []),
        (25.0, "37.51", ["VIX_HALVED"]),
        (35.0, "37.50", []),
        (35.01, "37.50", ["VIX_STOP"]),
        (None, "37.50", ["VIX_UNKNOWN"]),
        (0.0, "37.50", ["VIX_UNKNOWN"]),
        (float("nan"), "37.50", ["VIX_UNKNOWN"]),
        (float("inf"), "37.50", ["VIX_UNKNOWN"]),
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
        ({"bid": "0"}, ["QUOTE_ONE_SIDED"]),
        ({"ask": "0"}, ["QUOTE_ONE_SIDED"]),
        ({"bid": "NaN"}, ["QUOTE_ONE_SIDED"]),
        ({"ask": "Infinity"}, ["QUOTE_ONE_SIDED"]),
        ({"last": "0"}, ["QUOTE_ONE_SIDED", "LIMIT_COLLAR"]),
        ({"last": "NaN"}, ["QUOTE_ONE_SIDED", "LIMIT_COLLAR"]),
        ({"ask": "200000"}, ["SPREAD_WIDE"]),
        ({"bid": "49.75", "ask": "50.25"}, []),  # 100 bps exactly
        ({"bid": "49.75", "ask": "50.25002"}, ["SPREAD_WIDE"]),
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


def test_a_share_of_less_than_a_dollar_is_quoted_and_priced_like_any_other() -> None:
    seen = book(quote=quote(bid="0.5000", ask="0.5001", last="0.5000"))
    assert codes(entry(price="0.5001", stop="0.4000"), seen) == []


def test_limit_collar_from_both_sides() -> None:
    assert codes(entry(price="50.25")) == []
    assert codes(entry(price="50.26")) == ["LIMIT_COLLAR"]


def test_a_price_that_is_not_there_is_within_no_collar_and_above_no_stop() -> None:
    market = replace(sell(purpose=Purpose.CLOSE), stop_price=Decimal("45.00"))
    for check, code in ((gate.limit_collar, "LIMIT_COLLAR"), (gate.planned_stop, "STOP_MISSING")):
        found = check(market, book(), limits())
        assert found is not None and found.code == code


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
    assert codes(entry(), book(open_orders=[open_order("BBB")])) == []
    assert codes(sell(), book(positions={AAA: 5}, open_orders=[open_order("BBB", side=Side.BUY)])) == []
    two = book(open_orders=[open_order(cid="one"), open_order(cid="two")])
    assert breach(entry(), two, "OPPOSITE_SIDE_OPEN") == ("one, two", "none")


@pytest.mark.parametrize(
    ("cid", "ours"),
    [
        (protect().client_order_id, True),
        (sell().client_order_id, False),
        ("app-20240304-AAA-sell-protect-1", False),
        ("somebody", False),
    ],
)
def test_b25_our_own_protection_faces_no_further_entry_where_several_are_allowed(cid: str, ours: bool) -> None:
    seen = book(positions={AAA: 1}, marks={AAA: Decimal(50)}, open_orders=[open_order(cid=cid)])
    assert codes(entry(), seen, one_position_per_symbol=False) == ([] if ours else ["OPPOSITE_SIDE_OPEN"])
    assert codes(entry(), seen) == ["POSITION_EXISTS", "OPPOSITE_SIDE_OPEN"]


def test_b52_a_sell_never_exceeds_what_is_held_and_free() -> None:
    assert codes(sell(quantity=5), book(positions={AAA: 5})) == []
    assert codes(sell(quantity=6), book(positions={AAA: 5})) == ["OVERSELL"]
    assert codes(sell(quantity=3), book(positions={AAA: 5}, open_orders=[open_order(quantity=3)])) == ["OVERSELL"]
    assert codes(sell(quantity=2), book(positions={AAA: 5}, open_orders=[open_order(quantity=3)])) == []
    assert codes(sell(quantity=1), book()) == ["OVERSELL"], "nothing is held"
    assert codes(sell(quantity=1), book(positions={BBB: 5})) == ["OVERSELL"], "another symbol is held"


def test_b52_only_what_open_sells_of_the_symbol_can_still_take_is_claimed() -> None:
    def seen(*orders: Order) -> Book:
        return book(positions={AAA: 5}, open_orders=orders)

    assert codes(sell(quantity=5), seen(open_order("BBB", quantity=3))) == []
    assert codes(sell(quantity=5), seen(open_order(side=Side.BUY, quantity=3))) == ["OPPOSITE_SIDE_OPEN"]
    assert codes(sell(quantity=4), seen(open_order(quantity=3, filled=2))) == []
    assert codes(sell(quantity=5), seen(open_order(quantity=3, filled=2))) == ["OVERSELL"]
    done = open_order(quantity=3, filled=3)  # listed still, and over
    assert codes(sell(quantity=5), seen(done)) == []
    assert codes(sell(quantity=5), seen(replace(done, filled_quantity=4))) == [], "more than it wanted frees nothing"
    assert codes(sell(quantity=6), seen(replace(done, filled_quantity=4))) == ["OVERSELL"]
    assert breach(sell(quantity=5), seen(open_order(quantity=3)), "OVERSELL") == ("5", "2")
    assert breach(sell(quantity=5), seen(open_order(quantity=9)), "OVERSELL") == ("5", "0")


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


def test_outside_the_session_protection_and_liquidation_may_queue_and_an_exit_may_not() -> None:
    shut = book(positions={AAA: 5}, session_open=False, closes_at=None, operator_close=True)
    assert codes(sell(quantity=5), shut) == ["SESSION_CLOSED"]
    assert codes(protect(quantity=5), shut) == []
    assert codes(sell(quantity=5, purpose=Purpose.CLOSE), shut) == []


def test_protection_needs_more_than_a_halted_state() -> None:
    held = book(positions={AAA: 5})
    assert codes(protect(quantity=5), replace(held, trading_state=TradingState.REDUCING)) == []
    assert codes(protect(quantity=5), replace(held, trading_state=TradingState.HALTED)) == ["TRADING_STATE"]


def forged(intent: OrderIntent, **changes: Any) -> OrderIntent:
    """An intent that OrderIntent itself would have refused to be."""
    made = replace(intent)
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    return made


def test_only_a_sell_that_is_no_entry_is_spared_the_entry_limits() -> None:
    """OrderIntent refuses both; the gate does not rely on it."""
    late = book(positions={AAA: 5}, vix=None)
    for odd in (forged(entry(), purpose=Purpose.EXIT), forged(entry(), side=Side.SELL)):
        assert codes(odd, replace(late, positions={})) == ["VIX_UNKNOWN"]
    assert codes(sell(), late) == []


def test_locks_stop_entries_and_only_unknown_orders_stop_exits() -> None:
    assert codes(entry(), book(locked={AAA: "BREAK"})) == ["SYMBOL_LOCKED"]
    assert codes(sell(), book(positions={AAA: 5}, locked={AAA: "BREAK"})) == []
    assert codes(sell(), book(positions={AAA: 5}, locked={AAA: "UNKNOWN_ORDER"})) == ["SYMBOL_LOCKED"]
    assert codes(entry(), book(locked={BBB: "BREAK"})) == []
    assert breach(entry(), book(locked={AAA: "BREAK"}), "SYMBOL_LOCKED") == ("BREAK", "unlocked")


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


def test_what_is_sent_lies_on_the_grid_and_a_planned_stop_is_not_sent() -> None:
    held = book(positions={AAA: 5})
    assert codes(protect(stop="45.00"), held) == []
    assert codes(protect(stop="45.001"), held) == ["OFF_TICK"]
    assert codes(protect(OrderKind.OCO, stop="45.00", target="55.00"), held) == []
    assert codes(protect(OrderKind.OCO, stop="45.001", target="55.00"), held) == ["OFF_TICK"]
    assert codes(protect(OrderKind.OCO, stop="45.00", target="55.001"), held) == ["OFF_TICK"]
    assert breach(protect(stop="45.001"), held, "OFF_TICK") == ("45.001", "0.01")
    assert codes(entry(stop="45.001")) == []


@pytest.mark.parametrize(("session", "expected"), [(TODAY, []), (TODAY + timedelta(days=1), ["OFF_TICK"]), (None, [])])
def test_the_grid_is_that_of_the_session_and_without_one_of_today(session: date | None, expected: list[str]) -> None:
    coarse = TickRow(effective=TODAY + timedelta(days=1), min_price=Decimal(0), tick=Decimal("0.25"))
    assert codes(entry(), book(session=session), ticks=(*TICKS, coarse)) == expected


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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("session_open", ["SESSION_CLOSED"]),
        ("closes_at", ["SESSION_CLOSED"]),
        ("quote", ["QUOTE_ABSENT", "LIMIT_COLLAR"]),
        ("tradable", ["NOT_TRADABLE"]),
        ("vix", ["VIX_UNKNOWN"]),
        ("trading_state", ["TRADING_STATE"]),
        ("cash", ["CASH_UNKNOWN"]),
        ("equity", ["EQUITY_UNKNOWN", "VAR_UNKNOWN", "SECTOR_UNKNOWN", "SINGLE_NAME_UNKNOWN"]),
    ],
)
def test_each_fact_that_nobody_told_refuses_by_itself(name: str, expected: list[str]) -> None:
    assert codes(entry(), book(**{name: getattr(Book(now=NOW), name)})) == expected
    assert codes(sell(purpose=Purpose.CLOSE), book(positions={AAA: 1})) == ["CLOSE_NOT_CONFIRMED"]


@pytest.mark.parametrize(
    ("mode", "enabled", "top_n", "limit"),
    [
        ("totd", False, None, None), ("top_n", False, None, 0.6), ("top_n", True, None, 0.6),
        ("top_n", True, False, None), ("totd", False, True, 0.6),
    ],
)  # fmt: skip
def test_the_correlation_limit_holds_with_top_n_however_it_was_chosen(
    mode: str, enabled: bool, top_n: bool | None, limit: float | None
) -> None:
    chosen = {"selection": {"mode": mode, "top_n": {"enabled": enabled, "max_correlation": 0.6}}}
    assert Limits.from_settings(Settings.model_validate(chosen), top_n=top_n).max_correlation == limit


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
