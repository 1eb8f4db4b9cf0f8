"""The engine gives the trades of the slow plain loop, and each exit rule in its order."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from config.strategy_params import load_strategy_params
from core.bars_io import read_bars
from core.domain import ExitReason
from core.panel import Panel
from portfolio.backtest.engine import TRADE_COLUMNS, Trade, signal_level_trades, write_trade_list
from tests.portfolio.market import Bar, columns, oversold, panel_of, rising, swept, weekdays

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
PARAMS = load_strategy_params()
ALWAYS = (date(1990, 1, 1), date(2100, 1, 1))
EXACT = ("symbol", "strategy", "signal_date", "entry_date", "exit_date", "exit_reason", "bars_held")
PRICES = ("entry_price", "stop", "target", "exit_price")


def expected_rows(path: Path) -> list[dict[str, str]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize(
    ("bars", "trades"),
    [("bars_small.csv.gz", "trades_bars_small.csv"), ("bars_daily.csv.gz", "trades_bars_daily.csv.gz")],
)
def test_trades_on_real_bars_equal_the_oracle(bars: str, trades: str, tmp_path: Path) -> None:
    if not (SHARED / "market" / bars).exists():
        pytest.skip("the shared market data is not here")
    panel = Panel.from_bars(read_bars(SHARED / "market" / bars))
    write_trade_list(tmp_path / "t.csv", signal_level_trades(panel, PARAMS, *ALWAYS))
    ours, theirs = expected_rows(tmp_path / "t.csv"), expected_rows(SHARED / "strategy-oracle" / trades)
    assert list(ours[0]) == list(theirs[0]) == list(TRADE_COLUMNS)
    assert [[row[k] for k in EXACT] for row in ours] == [[row[k] for k in EXACT] for row in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        for name in PRICES:
            assert (mine[name] == "") == (its[name] == "")
            if its[name]:
                assert float(mine[name]) == pytest.approx(float(its[name]), rel=1e-9)


# ------------------------------------------------------------------ one trade, one rule
def ibs_trades(*after: Bar) -> list[Trade]:
    setup = oversold(rising(230, seed=1))
    return trades_of([*setup, *after])


def soup_trades(*after: Bar) -> list[Trade]:
    return trades_of([*swept(rising(230, step=0.05, seed=2)), *after])


def trades_of(series: list[Bar]) -> list[Trade]:
    days = weekdays(len(series))
    panel = panel_of({"A": series, "CLOCK": [(5.0, 5.0, 5.0, 5.0)] * len(series)}, days)
    return signal_level_trades(panel, PARAMS, days[229], days[229])


LAST = oversold(rising(230, seed=1))[-1][3]  # close of the ibs signal
SOUP = swept(rising(230, step=0.05, seed=2))[-1]


def quiet(price: float) -> Bar:
    """Touches nothing, triggers nothing: falls a little inside the bar."""
    return (price, price + 0.1, price - 1.0, price - 0.6)


def test_without_a_bar_after_the_signal_there_is_no_trade() -> None:
    assert ibs_trades() == []


def test_an_open_at_or_below_the_stop_is_no_trade() -> None:
    [trade] = ibs_trades(quiet(LAST))
    at_stop, above = trade.stop, trade.stop + 1e-6
    assert ibs_trades((at_stop, at_stop + 1, at_stop - 1, at_stop)) == []
    assert len(ibs_trades((above, above + 1, above - 1, above))) == 1


def test_the_entry_bar_may_hit_the_stop_and_is_bar_one() -> None:
    [open_trade] = ibs_trades(quiet(LAST))
    [trade] = ibs_trades((LAST, LAST + 0.1, open_trade.stop, LAST - 0.5))
    assert (trade.exit_reason, trade.exit_price, trade.bars_held) == (ExitReason.STOP, open_trade.stop, 1)


def test_a_gap_through_the_stop_leaves_at_the_open() -> None:
    [first] = ibs_trades(quiet(LAST))
    [trade] = ibs_trades(quiet(LAST), (first.stop - 1, first.stop, first.stop - 2, first.stop - 1))
    assert (trade.exit_reason, trade.exit_price, trade.bars_held) == (ExitReason.STOP_GAP, first.stop - 1, 2)


def test_a_bar_that_touches_stop_and_target_is_a_loss() -> None:
    [first] = soup_trades(quiet(SOUP[3]))
    assert first.target is not None and first.target == first.entry_price + 0.5 * (first.entry_price - first.stop)
    [trade] = soup_trades((SOUP[3], first.target + 1, first.stop - 1, SOUP[3]))
    assert trade.exit_reason is ExitReason.STOP


def test_the_target_is_reached_inside_a_bar_or_by_a_gap() -> None:
    [first] = soup_trades(quiet(SOUP[3]))
    assert first.target is not None
    [inside] = soup_trades((SOUP[3], first.target, SOUP[3] - 0.1, SOUP[3]))
    assert (inside.exit_reason, inside.exit_price, inside.bars_held) == (ExitReason.TARGET, first.target, 1)
    gap = first.target + 0.4
    [leaps] = soup_trades(quiet(SOUP[3]), (gap, gap, gap, gap))
    assert (leaps.exit_reason, leaps.exit_price, leaps.bars_held) == (ExitReason.TARGET_GAP, gap, 2)


def test_turtle_soup_leaves_at_the_close_of_its_third_bar() -> None:
    bars = [(SOUP[3], SOUP[3] + 0.05, SOUP[3] - 0.05, SOUP[3])] * 3
    [two] = soup_trades(*bars[:2])
    assert (two.exit_reason, two.exit_date, two.bars_held) == (ExitReason.OPEN, None, 2)
    [three] = soup_trades(*bars)
    assert (three.exit_reason, three.exit_price, three.bars_held) == (ExitReason.TIME, SOUP[3], 3)


def test_an_indicator_exit_leaves_at_the_next_open_and_stays_open_without_one() -> None:
    strong = (LAST, LAST + 0.5, LAST - 0.1, LAST + 0.5)
    [still] = ibs_trades(strong)
    assert (still.exit_reason, still.exit_price, still.bars_held) == (ExitReason.OPEN, None, 1)
    [gone] = ibs_trades(strong, quiet(LAST + 0.7))
    assert (gone.exit_reason, gone.exit_price, gone.bars_held) == (ExitReason.IBS, LAST + 0.7, 1)
    assert gone.exit_date == weekdays(232)[231]


def test_a_symbol_that_skips_the_next_session_is_not_entered() -> None:
    series = [*oversold(rising(230, seed=1)), quiet(LAST)]
    days = weekdays(232)
    skipping = columns(series, [*days[:230], days[231]])
    clock = columns([(5.0, 5.0, 5.0, 5.0)] * 232, days)
    panel = Panel.from_bars({"A": skipping, "CLOCK": clock})
    assert signal_level_trades(panel, PARAMS, *ALWAYS) == []


def test_only_signals_within_the_span_are_taken_both_ends_included() -> None:
    series = [*oversold(rising(230, seed=1)), quiet(LAST)]
    days = weekdays(231)
    panel = panel_of({"A": series}, days)
    assert len(signal_level_trades(panel, PARAMS, days[229], days[229])) == 1
    assert signal_level_trades(panel, PARAMS, days[230], days[230]) == []
    assert signal_level_trades(panel, PARAMS, days[0], days[228]) == []


def test_a_signal_while_a_position_is_open_is_ignored() -> None:
    falling = [(LAST - 0.3 * i, LAST - 0.3 * i, LAST - 0.3 * (i + 1), LAST - 0.3 * (i + 1)) for i in range(4)]
    series = [*oversold(rising(230, seed=1)), *falling]
    panel = panel_of({"A": series}, weekdays(len(series)))
    trades = [t for t in signal_level_trades(panel, PARAMS, *ALWAYS) if t.strategy == "ibs_rsi"]
    for one, other in pairwise(trades):
        assert one.exit_date is not None and other.signal_date >= one.exit_date
