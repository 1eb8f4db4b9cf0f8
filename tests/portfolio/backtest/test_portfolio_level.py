"""The portfolio level, session by session, on hand-made bars: each step of the day, its order and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from config.settings_schema import Settings
from config.strategy_params import load_strategy_params
from core.bars_io import BarColumns
from core.domain import Breach, ExitReason, OrderIntent, Quote, Symbol
from core.market_calendar import Facts, MarketCalendar
from core.money import TickRow, protective_target, to_stop_price
from core.panel import Panel
from core.ports import EntryFacts
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import REASONS, signal_trades
from portfolio.backtest.portfolio_level import PortfolioRun, World, simulate
from portfolio.strategies.indicators import prepare
from tests.portfolio.market import Bar, columns, oversold, rising, swept, weekdays

PARAMS = load_strategy_params()
DAYS = weekdays(260)
SIGNAL = DAYS[229]
D = Decimal
TICKS = (TickRow(effective=date(2005, 1, 1), min_price=D(0), tick=D("0.01")),)
UP = oversold(rising(230, seed=1))  # an ibs_rsi setup on its last bar, SIGNAL
SOUP = swept(rising(230, step=0.05, seed=2))
LAST, SOUP_LAST = UP[-1][3], SOUP[-1][3]
CALM: list[Bar] = [(500.0, 500.1, 499.9, 500.0)] * 260


def quiet(price: float) -> Bar:
    return (price, price + 0.1, price - 1.0, price - 0.6)


@dataclass
class House:
    """Prices like the live day's, on cents; refuses what it is told to and remembers what it was asked."""

    refuses: Sequence[str] = ()
    exit_breach: str = ""
    asked: list[tuple[OrderIntent, EntryFacts]] = field(default_factory=list)

    def entry_limit(self, quote: Quote, on: date) -> Decimal | Breach:
        assert quote.ask is not None
        return (quote.ask * D("1.001")).quantize(D("0.01"))

    def exit_limit(self, quote: Quote, on: date) -> Decimal | Breach:
        assert quote.bid is not None
        return Breach(code=self.exit_breach, observed="", limit="") if self.exit_breach else quote.bid

    def stop_price(self, stop: Decimal, on: date) -> Decimal:
        return to_stop_price(stop, on, TICKS)

    def target_price(self, fill: Decimal, stop: Decimal, target_r: float | None, on: date) -> Decimal | None:
        return protective_target(fill, stop, target_r, on, TICKS)

    def refusal(self, intent: OrderIntent, facts: EntryFacts) -> Sequence[str]:
        self.asked.append((intent, facts))
        return self.refuses


class NoEarnings:
    def dates(self, symbol: Symbol) -> Sequence[date] | None:
        return ()


def scans(session: date) -> tuple[datetime, datetime]:
    day = datetime.combine(session, time(0), UTC)
    return day.replace(hour=14, minute=35), day.replace(hour=20, minute=55)


def settings(**changes: Any) -> Settings:
    plain: dict[str, Any] = {
        "selection": {"mode": "top_n", "top_n": {"n": 5, "max_correlation": 1.0, "max_sector_pct": 1.0,
                                                 "max_single_name_pct": 1.0}},
        "risk": {"policy_gate": {"per_order_max_usd": 1000, "daily_budget_usd": 5000}},
        "quality_gate": {"min_score": 0, "max_signals_per_day": 5}, "sizing": {"risk_per_trade_usd": 1000},
    }  # fmt: skip
    return Settings.model_validate(plain | changes)


def bars_of(series: Mapping[str, Sequence[Bar]], volume: float = 2e6) -> dict[str, BarColumns]:
    return {s: columns(bars, DAYS[: len(bars)], volume) for s, bars in series.items()}


def world(house: House | None = None, *, costs_bps: float = 0.0, vix: float | None = 15.0, **changes: Any) -> World:
    chosen = settings(**changes)
    return World(
        settings=chosen, params=PARAMS, calendar=MarketCalendar(Facts(tuple(DAYS), {}, {}, 2022)),
        house=house or House(), sectors={}, vix={} if vix is None else dict.fromkeys(DAYS, vix),
        earnings_on=lambda day: NoEarnings(), scans_of=scans, costs=CostModel.from_settings(chosen.costs, costs_bps),
        cash_usd=D(100_000),
    )  # fmt: skip


def run(
    bars: Mapping[str, BarColumns], told: World | None = None, *, start: date = SIGNAL, end: date = SIGNAL
) -> PortfolioRun:
    panel = Panel.from_bars({"CLOCK": columns(CALM, DAYS), **bars})
    return simulate(prepare(panel, PARAMS.common), start, end, told or world())


def rows(found: PortfolioRun) -> list[tuple[str, ExitReason, float, int]]:
    t = found.booked.trades
    price = np.nan_to_num(t.exit_price, nan=-1.0)
    return [
        (t.symbols[int(t.column[i])], REASONS[int(t.reason[i])], float(price[i]), int(t.held[i])) for i in range(len(t))
    ]


# ------------------------------------------------------------------ exits, each at its step of the day
def test_without_limits_the_trades_are_the_signal_levels() -> None:
    """On whole cents of the stop; a name nobody limits, one after the other."""
    after = [quiet(LAST + 0.01 * k) for k in range(20)]
    bars = bars_of({"A": [*UP, *after], "S": [*SOUP, *[quiet(SOUP_LAST)] * 20]})
    panel = Panel.from_bars({"CLOCK": columns(CALM, DAYS), **bars})
    prepared = prepare(panel, PARAMS.common)
    signals = signal_trades(prepared, PARAMS, SIGNAL, DAYS[-1])
    found = simulate(prepared, SIGNAL, DAYS[-1], world(House()))
    mine = found.booked.trades
    assert len(mine) == len(signals) > 0
    for name in ("column", "signal", "first", "leave", "signal_at", "entry_at", "exit_at", "reason", "held"):
        assert (getattr(mine, name) == getattr(signals, name)).all(), name
    assert np.allclose(mine.entry_price, signals.entry_price, rtol=0, atol=0)
    assert np.allclose(mine.exit_price, signals.exit_price, rtol=0, atol=0.01, equal_nan=True)


def stop_of_entry(bars: Sequence[Bar]) -> float:
    found = run(bars_of({"A": bars}))
    return float(to_stop_price(D(repr(float(found.booked.trades.stop[0]))), SIGNAL, TICKS))


def test_a_resting_stop_lies_on_a_cent_above_the_planned_one_and_fills_there() -> None:
    stop = stop_of_entry([*UP, quiet(LAST)])
    through = (LAST - 1.0, LAST - 1.0, stop - 0.5, stop - 0.3)
    found = run(bars_of({"A": [*UP, quiet(LAST), through]}))
    assert rows(found) == [("A", ExitReason.STOP, stop, 2)]
    assert float(found.booked.trades.stop[0]) < stop == round(stop, 2)


def test_an_open_below_the_stop_leaves_at_the_open_and_before_an_indicator_exit() -> None:
    stop = stop_of_entry([*UP, quiet(LAST)])
    strong = (LAST, LAST + 0.5, LAST - 0.1, LAST + 0.5)  # tells to leave at the next open
    found = run(bars_of({"A": [*UP, strong, (stop - 1.0, stop, stop - 2.0, stop - 1.0)]}))
    assert rows(found) == [("A", ExitReason.STOP_GAP, stop - 1.0, 2)]
    [left] = rows(run(bars_of({"A": [*UP, strong, quiet(LAST + 0.7)]})))
    assert left == ("A", ExitReason.IBS, LAST + 0.7, 1)


def test_a_target_fills_at_its_price_by_a_gap_at_the_open_and_never_on_a_day_that_touches_the_stop() -> None:
    [target] = run(bars_of({"S": [*SOUP, quiet(SOUP_LAST)]})).booked.trades.target.tolist()
    inside = run(bars_of({"S": [*SOUP, (SOUP_LAST, target, SOUP_LAST - 0.1, SOUP_LAST)]}))
    assert rows(inside) == [("S", ExitReason.TARGET, target, 1)]
    gap = (target + 0.4,) * 4
    assert rows(run(bars_of({"S": [*SOUP, quiet(SOUP_LAST), gap]}))) == [("S", ExitReason.TARGET_GAP, target + 0.4, 2)]
    both = (target + 0.4, target + 0.5, 1.0, target)
    [(_, reason, price, _)] = rows(run(bars_of({"S": [*SOUP, quiet(SOUP_LAST), both]})))
    assert reason is ExitReason.STOP and price < SOUP_LAST


def test_time_stops_leave_at_the_close_of_their_bar_and_a_halt_is_no_bar() -> None:
    still = (SOUP_LAST, SOUP_LAST + 0.05, SOUP_LAST - 0.05, SOUP_LAST)
    found = run(bars_of({"S": [*SOUP, *[still] * 3]}))
    assert rows(found) == [("S", ExitReason.TIME, SOUP_LAST, 3)]
    halted = columns([*SOUP, *[still] * 3], [*DAYS[:231], *DAYS[233:235]])  # two sessions without a bar
    [(_, reason, _, held)] = rows(found := run({"S": halted}))
    assert (reason, held) == (ExitReason.TIME, 3)
    assert found.booked.trades.exit_at.tolist() == [(DAYS[234] - date(1970, 1, 1)).days]


def test_an_indicator_exit_waits_for_the_next_open_the_symbol_has() -> None:
    strong = (LAST, LAST + 0.5, LAST - 0.1, LAST + 0.5)
    halted = columns([*UP, strong, quiet(LAST + 0.7)], [*DAYS[:231], DAYS[234]])
    found = run({"A": halted})
    assert rows(found) == [("A", ExitReason.IBS, LAST + 0.7, 1)]
    assert found.booked.trades.exit_at.tolist() == [(DAYS[234] - date(1970, 1, 1)).days]


def test_a_trade_without_another_bar_stays_open_and_keeps_its_worth() -> None:
    found = run(bars_of({"A": [*UP, quiet(LAST)]}))
    assert rows(found) == [("A", ExitReason.OPEN, -1.0, 1)]
    quantity = found.booked.quantity[0]
    assert found.equity.exposure[-1] == pytest.approx(quantity * (LAST - 0.6))
    assert found.equity.equity[-1] == pytest.approx(100_000 - 0.6 * quantity)


def test_an_exit_price_that_the_clamp_refuses_keeps_the_position_and_is_counted() -> None:
    strong = (LAST, LAST + 0.5, LAST - 0.1, LAST + 0.5)
    found = run(bars_of({"A": [*UP, strong, quiet(LAST), quiet(LAST)]}), world(House(exit_breach="CLAMP_ABOVE_BID")))
    assert rows(found)[0][1] is ExitReason.OPEN
    assert found.refused["CLAMP_ABOVE_BID"] >= 1


# ------------------------------------------------------------------ entries
def test_a_pick_without_a_bar_the_next_session_or_opening_at_its_stop_is_not_bought() -> None:
    absent = columns([*UP, quiet(LAST)], [*DAYS[:230], DAYS[231]])
    assert run({"A": absent}).refused == {"QUOTE_STALE": 1}
    found = run(bars_of({"A": [*UP, (LAST - 20.0,) * 4]}))
    assert (len(found.booked.trades), found.refused) == (0, {"OPEN_BELOW_STOP": 1})


def test_an_open_exactly_at_the_stop_is_not_bought() -> None:
    stop = float(run(bars_of({"A": [*UP, quiet(LAST)]})).booked.trades.stop[0])
    assert run(bars_of({"A": [*UP, (stop, stop + 1, stop - 1, stop)]})).refused == {"OPEN_BELOW_STOP": 1}
    above = float(np.nextafter(stop, 1e9))
    assert len(run(bars_of({"A": [*UP, (above, above + 1, above, above)]})).booked.trades) == 1


def test_a_signal_is_acted_on_at_the_very_next_session_of_the_exchange_or_never() -> None:
    """A session that the calendar has and the data has not."""
    holed = {s: columns([*bars[:230], *bars[231:]], [*DAYS[:230], *DAYS[231 : len(bars)]])
             for s, bars in {"A": [*UP, quiet(LAST), quiet(LAST)], "CLOCK": CALM}.items()}  # fmt: skip
    panel = Panel.from_bars(holed)
    found = simulate(prepare(panel, PARAMS.common), SIGNAL, DAYS[-1], world())
    assert len(found.booked.trades) == 0


def test_the_run_ends_when_the_last_signal_has_been_asked_and_nothing_is_held() -> None:
    assert run(bars_of({"A": UP[:-1]})).sessions == 2
    strong = (LAST, LAST + 0.5, LAST - 0.1, LAST + 0.5)
    assert run(bars_of({"A": [*UP, strong, *[quiet(LAST)] * 9]})).sessions == 3


def test_size_is_whole_shares_within_order_budget_and_risk() -> None:
    bars = bars_of({"A": [*UP, quiet(LAST)]})
    limit = float((D(repr(LAST)) * D("1.001")).quantize(D("0.01")))
    assert run(bars).booked.quantity.tolist() == [1000 // limit]
    small = {"risk": {"policy_gate": {"per_order_max_usd": 75, "daily_budget_usd": 75}}}
    assert run(bars, world(**small)).refused == {"CAP_BELOW_ONE_SHARE": 1}
    risk = run(bars, world(sizing={"risk_per_trade_usd": 10}))
    stop = float(risk.booked.trades.stop[0])
    assert risk.booked.quantity.tolist() == [10 // (limit - stop)]


def test_the_daily_budget_is_spent_once_and_the_next_day_anew() -> None:
    tight = {"risk": {"policy_gate": {"per_order_max_usd": 1000, "daily_budget_usd": 1500}}}
    twins = {s: [*oversold(rising(230, seed=k)), quiet(oversold(rising(230, seed=k))[-1][3])]
             for k, s in enumerate(("A", "B"), start=1)}  # fmt: skip
    found = run(bars_of(twins), world(**tight))
    spent = found.booked.trades.entry_price * found.booked.quantity
    assert len(spent) == 2 and 800 < spent.max() <= 1000 and spent.sum() <= 1500


def test_a_new_day_has_a_new_budget() -> None:
    """B's setup comes a session after A's."""
    tight = {"risk": {"policy_gate": {"per_order_max_usd": 1000, "daily_budget_usd": 1000}}}
    later = oversold(rising(231, seed=2))
    bars = bars_of({"A": [*UP, quiet(LAST), quiet(LAST)], "B": [*later, quiet(later[-1][3])]})
    found = run(bars, world(**tight), end=DAYS[230])
    assert sorted(row[0] for row in rows(found)) == ["A", "B"]


def test_the_gate_is_told_what_the_account_holds_and_its_no_is_final() -> None:
    house = House(refuses=("POSITION_LIMIT", "VAR_LIMIT"))
    found = run(bars_of({"A": [*UP, quiet(LAST)]}), world(house))
    assert (len(found.booked.trades), found.refused) == (0, {"POSITION_LIMIT": 1})
    [(intent, facts)] = house.asked
    assert intent.symbol == "A" and intent.decided_at == facts.now == scans(DAYS[230])[0]
    assert (facts.session, facts.equity, facts.cash, dict(facts.positions)) == (SIGNAL, D(100_000), D(100_000), {})
    assert facts.quote.ask == D(repr(LAST)) and facts.vix == 15.0
    assert facts.returns[Symbol("A")].shape == (60,) and Symbol("NOBODY") not in facts.returns


def test_the_second_entry_of_a_scan_sees_the_first() -> None:
    house = House()
    twins = {s: [*oversold(rising(230, seed=k)), quiet(oversold(rising(230, seed=k))[-1][3] + 0.2)]
             for k, s in enumerate(("A", "B"), start=1)}  # fmt: skip
    run(bars_of(twins), world(house))
    first, second = (facts for _, facts in house.asked)
    assert not first.positions and len(second.positions) == 1
    (symbol,) = second.positions
    last_close = oversold(rising(230, seed={"A": 1, "B": 2}[symbol]))[-1][3]
    assert second.marks[symbol] == D(repr(last_close))  # of the signal's session, like the live day's
    assert second.spent_today_usd > 0 and len(second.sent_at) == 2
    assert second.equity == first.equity  # as the broker told it when the scan began


@pytest.mark.parametrize(("vix", "code"), [(None, "VIX_UNKNOWN"), (35.1, "VIX_STOP")])
def test_an_unknown_or_high_vix_opens_nothing(vix: float | None, code: str) -> None:
    assert run(bars_of({"A": [*UP, quiet(LAST)]}), world(vix=vix)).refused == {code: 1}


def test_a_vix_of_25_halves_the_order() -> None:
    bars = bars_of({"A": [*UP, quiet(LAST)]})
    full, half = run(bars).booked.quantity[0], run(bars, world(vix=25.0)).booked.quantity[0]
    assert full // 2 <= half <= full / 2


def test_a_symbol_that_is_held_is_not_bought_again_and_a_signal_while_held_is_ignored() -> None:
    falling = [(LAST - 0.3 * i, LAST - 0.3 * i, LAST - 0.3 * (i + 1), LAST - 0.3 * (i + 1)) for i in range(5)]
    bars = bars_of({"A": [*UP, *falling]})
    found = run(bars, end=DAYS[-1])
    assert found.refused["ALREADY_HELD"] >= 1
    several = settings().risk.model_copy(update={"one_position_per_symbol": False}).model_dump(mode="json")
    again = run(bars, world(risk=several), end=DAYS[-1])
    assert again.refused.get("HELD_AT_SIGNAL", 0) >= 1
    assert len(again.booked.trades) == len(found.booked.trades)


def test_too_few_bars_of_a_session_mean_no_entries_and_names_not_yet_listed_are_no_gap() -> None:
    gone = {f"G{k}": columns([*CALM[:229], *CALM[230:]], [*DAYS[:229], *DAYS[230:]]) for k in range(3)}
    assert len(run({"A": columns([*UP, quiet(LAST)], DAYS[:231]), **gone}).booked.trades) == 0
    later = {f"L{k}": columns(CALM[231:], DAYS[231:]) for k in range(3)}
    assert len(run({"A": columns([*UP, quiet(LAST)], DAYS[:231]), **later}).booked.trades) == 1


def test_a_day_that_is_no_session_is_not_traded() -> None:
    told = world()
    shut = replace(told, calendar=MarketCalendar(Facts(tuple(d for d in DAYS if d != DAYS[230]), {}, {}, 2022)))
    assert len(run(bars_of({"A": [*UP, quiet(LAST), quiet(LAST)]}), shut).booked.trades) == 0


# ------------------------------------------------------------------ money
def test_costs_leave_the_account_and_never_the_prices() -> None:
    strong = (LAST, LAST + 0.5, LAST - 0.1, LAST + 0.5)
    bars = bars_of({"A": [*UP, strong, quiet(LAST + 0.7)]})
    free, paid = run(bars), run(bars, world(costs_bps=10.0))
    assert rows(free) == rows(paid)
    cost = float(paid.booked.costs_usd[0])
    assert cost > 0 and free.booked.costs_usd[0] == 0
    assert paid.booked.pnl_usd[0] == pytest.approx(free.booked.pnl_usd[0] - cost)
    assert paid.equity.equity[-1] == pytest.approx(free.equity.equity[-1] - cost)
    risk = (LAST - float(paid.booked.trades.stop[0])) * paid.booked.quantity[0]
    assert paid.booked.r_multiple[0] == pytest.approx(paid.booked.pnl_usd[0] / risk)


def test_cash_and_holdings_are_the_equity_of_every_session() -> None:
    found = run(bars_of({"A": [*UP, *[quiet(LAST)] * 12]}), world(costs_bps=5.0), end=DAYS[-1])
    equity = found.equity
    assert np.allclose(equity.equity, equity.cash + equity.exposure)
    closed = found.booked.trades.closed
    assert equity.equity[-1] == pytest.approx(100_000 + found.booked.pnl_usd[closed].sum())
    assert equity.costs[-1] == pytest.approx(found.booked.costs_usd.sum())
    assert (np.diff(equity.costs) >= 0).all() and equity.positions.max() == 1
