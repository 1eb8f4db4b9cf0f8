"""Features: by hand on small panels, the same bits alone and among others, cut off, with less history, rescaled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from core.bars_io import BarColumns, from_day
from core.panel import Panel
from ml_advanced import features
from ml_advanced.features import FEATURES, LOOKBACK_BARS, features_at, fingerprint
from ml_advanced.market import FEWEST_SYMBOLS, Floats, MarketView, market_view, rows_of
from tests.portfolio.backtest.drawn import drawn_bars

SESSIONS = 320


def drawn(symbols: int = 34) -> tuple[Panel, BarColumns, dict[date, float]]:
    bars = drawn_bars(symbols + 1, SESSIONS)
    spy = bars.pop("S00")
    rng = np.random.default_rng(2)
    vix = {
        from_day(int(day)): float(level) for day, level in zip(spy.dates, rng.uniform(11, 40, SESSIONS), strict=True)
    }
    return Panel.from_bars(bars), spy, vix


PANEL, SPY, VIX = drawn()
MARKET = market_view(PANEL, spy=SPY, vix=VIX)


def at(row: int, column: int, strategy: str = "ibs_rsi", panel: Panel = PANEL, market: MarketView = MARKET) -> Floats:
    found: Floats = features_at(panel, np.array([row]), np.array([column]), [strategy], market)[0]
    return found


def every(panel: Panel, market: MarketView, from_row: int = 0) -> tuple[np.ndarray, np.ndarray, Floats]:
    rows, columns = np.nonzero(panel.session_index >= 0)
    rows, columns = rows[rows >= from_row], columns[rows >= from_row]
    strategies = ["ibs_rsi" if k % 2 else "turtle_soup" for k in range(rows.size)]
    return rows, columns, features_at(panel, rows, columns, strategies, market)


def same(found: Floats, expected: Floats) -> bool:
    return np.array_equal(found, expected, equal_nan=True)


# ---------------------------------------------------------------- by hand
def by_hand(row: int, column: int) -> dict[str, float]:
    """In plain Python, from the definitions in the table."""
    bar = {f: getattr(PANEL, f)[: row + 1, column].tolist() for f in ("open", "high", "low", "close", "volume")}
    close, high, low, volume = bar["close"], bar["high"], bar["low"], bar["volume"]
    session = int(PANEL.session_index[row, column])
    day = from_day(int(PANEL.sessions[session]))
    spy: dict[int, float] = dict(zip(SPY.dates.tolist(), SPY.close.tolist(), strict=True))
    closes = [spy[int(d)] for d in PANEL.sessions[: session + 1]]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def deviation(values: list[float]) -> float:
        return math.sqrt(sum((v - mean(values)) * (v - mean(values)) for v in values) / (len(values) - 1))

    def returns(prices: list[float]) -> list[float]:
        return [b / a - 1.0 for a, b in pairwise(prices)]

    def rank(bars: int) -> float:
        others = []
        for j in range(len(PANEL.symbols)):
            own = np.flatnonzero(PANEL.session_index[:, j] == session)
            if own.size and own[0] >= bars:
                others.append((PANEL.close[own[0], j] / PANEL.close[own[0] - bars, j] - 1.0, j))
        mine = next(value for value, j in others if j == column)
        below = sum((value < mine) + 0.5 * (value == mine) for value, j in others if j != column)
        return float(below) / (len(others) - 1)

    ranges = [max(high[k], close[k - 1]) - min(low[k], close[k - 1]) for k in range(row - 13, row + 1)]
    atr, lowest = mean(ranges), min(low[-21:-1])
    changes = [b - a for a, b in zip(close[-5:-1], close[-4:], strict=True)]
    gains, losses = sum(c for c in changes if c > 0), -sum(c for c in changes if c < 0)
    down = next((k for k in range(10) if not close[-1 - k] < close[-2 - k]), 10)
    then = int(PANEL.sessions[PANEL.session_index[row - 20, column]])
    middle = [float(m) for m in MARKET.middle[session - 19 : session + 1]]
    return {
        "volatility_20": deviation(returns(close[-21:])),
        "volatility_ratio": deviation(returns(close[-11:])) / deviation(returns(close[-61:])),
        "atr_14": atr / close[-1],
        "sma_200_distance": close[-1] / mean(close[-200:]) - 1,
        "sma_50_distance": close[-1] / mean(close[-50:]) - 1,
        "sma_50_slope": mean(close[-50:]) / mean(close[-70:-20]) - 1,
        "return_120": close[-1] / close[-121] - 1,
        "high_60_distance": close[-1] / max(high[-60:]) - 1,
        "ibs": (close[-1] - low[-1]) / (high[-1] - low[-1]),
        "change_1_atr": (close[-1] - close[-2]) / atr,
        "change_3_atr": (close[-1] - close[-4]) / atr,
        "gain_share_4": gains / (gains + losses),
        "z_score_20": (close[-1] - mean(close[-20:])) / deviation(close[-20:]),
        "down_days": down,
        "sweep_20_atr": (lowest - low[-1]) / atr,
        "sweep_20_age": next(k for k in range(1, 21) if low[-1 - k] == lowest),
        "reclaim_20_atr": (close[-1] - lowest) / atr,
        "gap_atr": (bar["open"][-1] - close[-2]) / atr,
        "range_atr": (high[-1] - low[-1]) / atr,
        "volume_ratio": math.log(volume[-1] / mean(volume[-21:-1])),
        "volume_trend": math.log(mean(volume[-5:]) / mean(volume[-60:])),
        "dollar_volume": math.log10(mean([c * v for c, v in zip(close[-20:], volume[-20:], strict=True)])),
        "rank_20": rank(20),
        "rank_120": rank(120),
        "against_spy_20": close[-1] / close[-21] - closes[-1] / spy[then],
        "spy_return_20": closes[-1] / closes[-21] - 1,
        "spy_volatility_20": deviation(returns(closes[-21:])),
        "vix": VIX[day],
        "vix_change_5": VIX[day] / VIX[from_day(int(PANEL.sessions[session - 5]))] - 1,
        "breadth_50": float(MARKET.breadth[session]),
        "market_return_5": sum(middle[-5:]),
        "market_volatility_20": deviation(middle),
        "weekday": day.weekday(),
        "month_day": day.day,
        "month": day.month,
        "turtle_soup": 1.0,
    }


@pytest.mark.parametrize(("row", "column"), [(199, 0), (250, 7), (319, 12), (210, 32), (290, 33)])
def test_every_feature_is_what_its_definition_says(row: int, column: int) -> None:
    row = min(row, int(PANEL.length[column]) - 1)
    expected = by_hand(row, column)
    assert tuple(expected) == FEATURES
    found = at(row, column, "turtle_soup")
    assert dict(zip(FEATURES, found.tolist(), strict=True)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_breadth_and_the_middle_are_counted_over_what_traded() -> None:
    session = 280
    moved, up = [], []
    for j in range(len(PANEL.symbols)):
        own = np.flatnonzero(PANEL.session_index[:, j] == session)
        if own.size:
            row = int(own[0])
            if PANEL.session_index[row - 1, j] == session - 1:
                moved.append(PANEL.close[row, j] / PANEL.close[row - 1, j] - 1.0)
            if row >= 50:
                up.append(PANEL.close[row, j] > PANEL.close[row - 50, j])
    assert MARKET.middle[session] == pytest.approx(np.median(moved), rel=1e-12)
    assert MARKET.breadth[session] == np.mean(up)


def test_rows_are_found_in_all_columns_at_once() -> None:
    wanted = np.array([0, 5, 100, 101, 250, SESSIONS - 1])
    found = rows_of(PANEL, wanted)
    for place, session in zip(found, wanted.tolist(), strict=True):
        for j, row in enumerate(place.tolist()):
            own = np.flatnonzero(PANEL.session_index[:, j] == session).tolist()
            assert own == ([row] if row >= 0 else [])


# ---------------------------------------------------------------- what must not matter
def test_a_row_has_the_same_bits_alone_and_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns, x = every(PANEL, MARKET)
    for k in range(0, rows.size, 397):
        assert same(at(int(rows[k]), int(columns[k]), "ibs_rsi" if k % 2 else "turtle_soup"), x[k])
    monkeypatch.setattr(features, "_AT_ONCE", 7)
    part = slice(3000, 3100)
    strategies = ["ibs_rsi" if k % 2 else "turtle_soup" for k in range(3000, 3100)]
    assert same(features_at(PANEL, rows[part], columns[part], strategies, MARKET), x[part])


def test_L09_what_comes_after_the_signal_changes_no_bit() -> None:
    for session in (205, 260, 318):
        day = from_day(int(PANEL.sessions[session]))
        cut = PANEL.truncated(day)
        spy = SPY.rows(SPY.dates <= int(PANEL.sessions[session]))
        view = market_view(cut, spy=spy, vix={d: v for d, v in VIX.items() if d <= day})
        rows = rows_of(PANEL, np.array([session]))[0]
        columns = np.flatnonzero(rows >= 0)
        for market in (view, market_view(cut, spy=spy, vix=VIX, last=22)):
            found = features_at(cut, rows[columns], columns, ["ibs_rsi"] * columns.size, market)
            assert same(found, features_at(PANEL, rows[columns], columns, ["ibs_rsi"] * columns.size, MARKET))


def test_history_before_the_look_back_changes_no_bit() -> None:
    """A store keeps two years, training has seven: the same signal must look the same."""
    last = from_day(int(PANEL.sessions[-1]))
    young = {}
    for j, symbol in enumerate(PANEL.symbols):
        n = int(PANEL.length[j])
        days = PANEL.sessions[PANEL.session_index[:n, j]]
        whole = BarColumns(days, *(getattr(PANEL, f)[:n, j].copy() for f in ("open", "high", "low", "close", "volume")))
        young[symbol] = whole.rows(np.arange(max(0, n - LOOKBACK_BARS), n))
    panel = Panel.from_bars(young).truncated(last)
    market = market_view(panel, spy=SPY, vix=VIX)
    old, new = (p.length.astype(np.intp) - 1 for p in (PANEL, panel))
    columns = np.arange(len(PANEL.symbols))
    strategies = ["turtle_soup"] * columns.size
    found = features_at(panel, new, columns, strategies, market)
    assert same(found, features_at(PANEL, old, columns, strategies, MARKET)) and np.isfinite(found).all()


def test_no_feature_depends_on_the_basis_of_the_prices() -> None:
    """A 4-for-1 split after the signal changes every price before it, and none of what the model is told."""
    factor = np.where(np.arange(len(PANEL.symbols)) % 2, 4.0, 1.0)[None, :]
    blocks = {f: getattr(PANEL, f) / factor for f in ("open", "high", "low", "close")}
    split = replace(PANEL, **blocks, volume=PANEL.volume * factor)
    rows, columns, x = every(PANEL, MARKET, from_row=199)
    strategies = ["ibs_rsi" if k % 2 else "turtle_soup" for k in range(rows.size)]
    assert same(features_at(split, rows, columns, strategies, market_view(split, spy=SPY, vix=VIX)), x)


# ---------------------------------------------------------------- unknown is unknown
def test_what_is_not_known_is_nan_and_only_that() -> None:
    rows, columns, x = every(PANEL, MARKET, from_row=199)
    late = rows_of(PANEL, np.arange(SESSIONS))[:, 0] >= 0
    assert np.isfinite(x).all() and late.all()
    without_spy = features_at(PANEL, rows[:9], columns[:9], ["ibs_rsi"] * 9, market_view(PANEL, spy=None, vix=VIX))
    without_vix = features_at(PANEL, rows[:9], columns[:9], ["ibs_rsi"] * 9, market_view(PANEL, spy=SPY, vix={}))
    assert unknown(without_spy) == {"against_spy_20", "spy_return_20", "spy_volatility_20"}
    assert unknown(without_vix) == {"vix", "vix_change_5"}
    assert unknown(at(250, 3, "another")[None, :]) == {"turtle_soup"}
    few = PANEL.select(PANEL.symbols[: FEWEST_SYMBOLS - 1])
    alone = at(250, 3, panel=few, market=market_view(few, spy=SPY, vix=VIX))
    of_many = {"rank_20", "rank_120", "breadth_50", "market_return_5", "market_volatility_20"}
    assert unknown(alone[None, :]) == of_many


def test_L09_a_session_that_the_market_lacks_is_unknown_not_the_next_one() -> None:
    keep = np.arange(SESSIONS) != 250
    parts = (getattr(MARKET, name)[keep] for name in ("sessions", "spy", "vix", "breadth", "middle"))
    row = int(np.flatnonzero(PANEL.session_index[:, 0] == 250)[0])
    found = unknown(at(row, 0, market=MarketView(*parts))[None, :])
    of_market = {feature.name for feature in features.TABLE if feature.group == "market"}
    assert found == of_market | {"against_spy_20"}


def test_a_young_symbol_has_no_long_windows() -> None:
    assert {"sma_200_distance"} == unknown(at(198, 0)[None, :])
    assert {"sma_200_distance", "return_120", "rank_120"} == unknown(at(100, 0)[None, :])
    early = unknown(at(0, 0)[None, :])
    assert early == set(FEATURES) - {"ibs", "vix", "weekday", "month_day", "month", "turtle_soup"}


def test_a_bar_without_volume_or_range_has_no_ratio_of_it() -> None:
    volume, high, low = PANEL.volume.copy(), PANEL.high.copy(), PANEL.low.copy()
    volume[250, 3] = 0.0
    high[250, 3] = low[250, 3] = PANEL.close[250, 3]
    panel = replace(PANEL, volume=volume, high=high, low=low)
    assert unknown(at(250, 3, panel=panel)[None, :]) == {"volume_ratio", "ibs"}
    volume[249, 3] = np.nan
    found = unknown(at(250, 3, panel=panel)[None, :])
    assert found == {"volume_ratio", "volume_trend", "dollar_volume", "ibs"}


def test_nothing_is_asked_of_nothing() -> None:
    none = np.empty(0, dtype=np.intp)
    assert features_at(PANEL, none, none, [], MARKET).shape == (0, len(FEATURES))
    empty = Panel.from_bars({})
    assert market_view(empty, spy=None, vix={}).sessions.size == 0


def unknown(x: Floats) -> set[str]:
    return {FEATURES[k] for k in np.flatnonzero(np.isnan(x).any(axis=0))}


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "ml.md").read_text(encoding="utf-8")
    rows = [f"| `{feature.name}` | {feature.group} | {feature.meaning} |" for feature in features.TABLE]
    assert "\n".join(rows) in page


# ---------------------------------------------------------------- L07: what the numbers mean
def test_L07_the_fingerprint_is_that_of_these_definitions() -> None:
    assert fingerprint() == fingerprint()


def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "FEATURES", ("volatility", *FEATURES[1:]))
    monkeypatch.setattr(features, "_put", put_by(lambda name: "volatility" if name == FEATURES[0] else name))


def reordered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "FEATURES", (FEATURES[1], FEATURES[0], *FEATURES[2:]))


def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "FEATURES", FEATURES[:-1])
    monkeypatch.setattr(features, "_put", put_by(lambda name: name))


def rescaled(monkeypatch: pytest.MonkeyPatch) -> None:
    real = features._of_symbol
    monkeypatch.setattr(features, "_of_symbol", lambda bars: {**real(bars), "atr_14": 100.0 * real(bars)["atr_14"]})


def redefined(monkeypatch: pytest.MonkeyPatch) -> None:
    real = features._deviation
    monkeypatch.setattr(features, "_deviation", lambda block: real(block) * math.sqrt(1.0 - 1.0 / len(block)))


def put_by(name_of: Callable[[str], str]) -> Callable[[Floats, dict[str, Floats]], None]:
    def put(out: Floats, found: dict[str, Floats]) -> None:
        for name, values in found.items():
            if name_of(name) in features.FEATURES:
                out[:, features.FEATURES.index(name_of(name))] = values

    return put


@pytest.mark.parametrize("change", [renamed, reordered, missing, rescaled, redefined])
def test_L07_another_name_order_scale_or_definition_has_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    before = fingerprint()
    change(monkeypatch)
    assert fingerprint() != before
