"""What is known of a symbol at a bar, for many bars at once: each against the plain definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.panel import Panel
from portfolio.day import Returns, held_usd
from portfolio.facts import GAP_SESSIONS_MAX, dollar_volumes, longest_gaps
from tests.portfolio.market import columns, rising, weekdays

DAYS = weekdays(900)


@pytest.fixture(scope="module")
def panel() -> Panel:
    """CLOCK trades always, THIN on every other day, GONE has a silence of exactly the limit, LONG of one more."""
    bars = {"CLOCK": columns(rising(900), DAYS), "THIN": columns(rising(450), DAYS[::2])}
    for name, silent in (("GONE", GAP_SESSIONS_MAX), ("LONG", GAP_SESSIONS_MAX + 1)):
        days = [*DAYS[: 600 - silent], *DAYS[600:]]
        bars[name] = columns(rising(len(days)), days)
    return Panel.from_bars(bars)


def test_a_silence_is_judged_like_the_longest_run_of_missing_sessions(panel: Panel) -> None:
    rows = np.array([int(panel.length[j]) - 1 - back for j in range(4) for back in (0, 40, 130)])
    cols = np.repeat(np.arange(4), 3)
    found = longest_gaps(panel, rows, cols, 200) > GAP_SESSIONS_MAX
    for row, column, judged in zip(rows.tolist(), cols.tolist(), found.tolist(), strict=True):
        index = panel.session_index[row - 199 : row + 1, column]
        assert judged is bool(np.diff(index).max() - 1 > GAP_SESSIONS_MAX)
    assert found.any()
    assert not found[cols == panel.symbols.index("THIN")].any()  # many short silences are no long one


def test_dollar_volume_is_the_median_of_20_known_bars(panel: Panel) -> None:
    volume = panel.volume.copy()
    volume[100, 0] = np.nan
    holed = Panel(**{f: getattr(panel, f) for f in Panel.__slots__} | {"volume": volume})
    rows, cols = np.array([18, 19, 100, 119, 120]), np.zeros(5, dtype=np.intp)
    found = dollar_volumes(holed, rows, cols)
    assert [math.isnan(v) for v in found] == [True, False, True, True, False]
    assert found[1] == np.median(panel.close[:20, 0] * panel.volume[:20, 0])


def test_returns_are_there_only_for_who_traded_all_of_the_last_61_sessions(panel: Panel) -> None:
    rows = panel.length.astype(np.intp) - 1
    returns = Returns(panel, rows, len(DAYS) - 1)
    assert sorted(returns) == ["CLOCK", "GONE", "LONG"] and len(returns) == 3
    assert "THIN" not in returns and "NOBODY" not in returns
    close = panel.close[-61:, panel.symbols.index("CLOCK")]
    assert (returns["CLOCK"] == close[1:] / close[:-1] - 1.0).all()  # type: ignore[index]
    with pytest.raises(KeyError):
        returns["THIN"]  # type: ignore[index]
    assert list(Returns(panel, np.full(4, 59), 59)) == []  # 60 bars have 59 returns


def test_what_is_held_counts_at_the_close_else_at_cost_else_at_a_whole_order() -> None:
    from decimal import Decimal

    from core.domain import Symbol

    a, b, c = (Symbol(s) for s in "ABC")
    found = held_usd({a: 3, b: -2, c: 1}, {a: 10.5}, {b: Decimal(20)}, Decimal(75))
    assert found == {a: Decimal("31.5"), b: Decimal(40), c: Decimal(75)}
