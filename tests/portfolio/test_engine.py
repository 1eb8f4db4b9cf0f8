"""The engine gives the trades of the slow plain loop, and each exit rule in its order."""

from __future__ import annotations

import csv
import gzip
import io
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from config.settings_schema import Costs
from config.strategy_params import load_strategy_params
from core.bars_io import BarColumns, from_day, read_bars
from core.domain import ExitReason
from core.market_calendar import market_calendar
from core.panel import Panel
from data.quality import clean_all
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import Trade, Trades, possible_trades, signal_level_trades, signal_trades
from portfolio.backtest.output import TRADE_COLUMNS, signal_booked, write_trade_list
from portfolio.strategies import indicators
from portfolio.strategies.indicators import prepare
from tests.portfolio.market import Bar, columns, oversold, panel_of, rising, swept, weekdays

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
PARAMS = load_strategy_params()
NO_COSTS = CostModel.from_settings(Costs(), 0.0)
ALWAYS = (date(1990, 1, 1), date(2100, 1, 1))
EXACT = ("symbol", "strategy", "signal_date", "entry_date", "exit_date", "exit_reason", "bars_held")
PRICES = ("entry_price", "stop", "target", "exit_price")


def expected_rows(path: Path) -> list[dict[str, str]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return list(csv.DictReader(io.StringIO(text)))


def written(panel: Panel, folder: Path) -> list[dict[str, str]]:
    prepared = prepare(panel, PARAMS.common)
    trades = signal_trades(prepared, PARAMS, *ALWAYS)
    write_trade_list(folder / "t.csv", prepared.panel, signal_booked(prepared.panel, trades, NO_COSTS))
    return expected_rows(folder / "t.csv")


def assert_same(ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> None:
    assert list(ours[0])[: len(TRADE_COLUMNS)] == list(theirs[0]) == list(TRADE_COLUMNS)
    assert [[row[k] for k in EXACT] for row in ours] == [[row[k] for k in EXACT] for row in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        for name in PRICES:
            assert (mine[name] == "") == (its[name] == "")
            if its[name]:
                assert float(mine[name]) == pytest.approx(float(its[name]), rel=1e-9)


def oracle(bars: Path, folder: Path) -> list[dict[str, str]]:
    script = SHARED / "strategy-oracle" / "oracle.py"
    if not script.exists():
        pytest.skip("the oracle is not beside this checkout")
    out = folder / "oracle.csv"
    subprocess.run([sys.executable, "-B", script, "--bars", bars, "--trades", out], check=True, capture_output=True)
    return expected_rows(out)


def as_csv(bars: Mapping[str, BarColumns], path: Path) -> Path:
    lines = ["symbol,date,open,high,low,close,volume"]
    for symbol, own in bars.items():
        for k, day in enumerate(own.dates.tolist()):
            prices = ",".join(repr(float(getattr(own, f)[k])) for f in ("open", "high", "low", "close", "volume"))
            lines.append(f"{symbol},{from_day(day)},{prices}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("bars", "trades"),
    [("bars_small.csv.gz", "trades_bars_small.csv"), ("bars_daily.csv.gz", "trades_bars_daily.csv.gz")],
)
def test_trades_on_real_bars_equal_the_oracle(bars: str, trades: str, tmp_path: Path) -> None:
    if not (SHARED / "market" / bars).exists():
        pytest.skip("the shared market data is not here")
    panel = Panel.from_bars(read_bars(SHARED / "market" / bars))
    assert_same(written(panel, tmp_path), expected_rows(SHARED / "strategy-oracle" / trades))


def test_trades_on_dirty_bars_equal_the_oracle_after_quarantine(tmp_path: Path) -> None:
    source = SHARED / "market" / "bars_dirty.csv.gz"
    if not source.exists():
        pytest.skip("the shared market data is not here")
    bars = read_bars(source)
    last = from_day(max(int(own.dates[-1]) for own in bars.values()))
    kept, _ = clean_all(bars, market_calendar(), last)
    assert sum(map(len, bars.values())) - sum(map(len, kept.values())) > 3000
    ours = written(Panel.from_bars(kept), tmp_path)
    assert len(ours) > 50
    assert_same(ours, oracle(as_csv(kept, tmp_path / "kept.csv"), tmp_path))


def test_trades_on_hostile_bars_equal_the_oracle(tmp_path: Path) -> None:
    """Whole cents, so that ties happen; halts, late listings, early ends, flat bars, gaps through stop and target."""
    rng = np.random.default_rng(17)
    days = weekdays(700)
    bars = {}
    for s in range(25):
        count = int(rng.integers(30, 700))
        keep = np.sort(rng.choice(np.arange(int(rng.integers(0, 60)), 700), size=min(count, 600), replace=False))
        close = np.maximum(0.01, (30 * np.exp(np.cumsum(rng.normal(0.001, 0.02, keep.size)))).round(2))
        opened = np.maximum(0.01, (close * np.exp(rng.normal(0, 0.015, keep.size))).round(2))
        high = (np.maximum(opened, close) + rng.choice([0.0, 0.01, 0.3], keep.size)).round(2)
        low = np.maximum(0.01, (np.minimum(opened, close) - rng.choice([0.0, 0.02, 0.5], keep.size)).round(2))
        rows = list(zip(opened.tolist(), high.tolist(), low.tolist(), close.tolist(), strict=True))
        for flat in rng.choice(keep.size, keep.size // 20, replace=False):
            rows[flat] = (rows[flat][3],) * 4
        bars[f"S{s:02d}"] = columns(rows, [days[i] for i in keep])
    ours = written(Panel.from_bars(bars), tmp_path)
    assert len({row["exit_reason"] for row in ours}) >= 7
    assert_same(ours, oracle(as_csv(bars, tmp_path / "hostile.csv"), tmp_path))


# ------------------------------------------------------------------ ways of working that must not matter
def same_columns(one: Trades, other: Trades) -> bool:
    names = [f.name for f in fields(one)[2:]]
    return all(np.array_equal(getattr(one, n), getattr(other, n), equal_nan=n in FLOATS) for n in names)


FLOATS = ("entry_price", "stop", "target", "exit_price")


@pytest.fixture(scope="module")
def small() -> Panel:
    if not (SHARED / "market" / "bars_small.csv.gz").exists():
        pytest.skip("the shared market data is not here")
    return Panel.from_bars(read_bars(SHARED / "market" / "bars_small.csv.gz"))


def test_threads_change_no_bit(small: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = signal_trades(prepare(small, PARAMS.common), PARAMS, *ALWAYS)
    monkeypatch.setattr(indicators, "_BLOCK_VALUES", 1000)  # many small pieces
    with ThreadPoolExecutor(2) as pool:
        prepared = prepare(small, PARAMS.common, spread=pool.map)
        assert same_columns(signal_trades(prepared, PARAMS, *ALWAYS, spread=pool.map), alone)


def test_a_part_of_a_longer_span_has_the_trades_of_that_part(small: Panel) -> None:
    prepared = prepare(small, PARAMS.common)
    possible = possible_trades(prepared, PARAMS, *ALWAYS)
    for start, end in ((date(2022, 1, 3), date(2022, 6, 30)), (date(2023, 3, 1), date(2023, 3, 31))):
        assert same_columns(possible.taken(start, end), signal_trades(prepared, PARAMS, start, end))


def test_objects_and_columns_tell_the_same(small: Panel) -> None:
    table = signal_trades(prepare(small, PARAMS.common), PARAMS, *ALWAYS)
    objects = table.as_objects()
    assert objects == signal_level_trades(small, PARAMS, *ALWAYS)
    assert [t.exit_price is None for t in objects] == (~table.closed).tolist()
    assert len(table.rows(table.closed)) == int(table.closed.sum())


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
