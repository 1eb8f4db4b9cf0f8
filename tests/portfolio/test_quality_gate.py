"""The score is the weighted sum of its parts; what is absent earns nothing."""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pytest

from config.settings_schema import Settings
from core.domain import Signal, Symbol
from core.ports import Opinion
from portfolio.quality_gate import MEDIAN_BARS, Facts, median_dollar_volumes, score

WEIGHTS = Settings().quality_gate.weights


def a_signal(strength: float = 1.0, close: float = 110.0) -> Signal:
    return Signal(strategy="ibs_rsi", symbol=Symbol("A"), session=date(2024, 3, 4), close=close, stop=100.0,
                  target_r=None, time_stop_bars=7, strength=strength)  # fmt: skip


BEST = Facts(sma=100.0, median_dollar_volume=1e8)


def test_everything_at_its_best_is_100_and_without_a_model_80() -> None:
    assert score(a_signal(close=110.1), BEST, Opinion(1.0, "OK"), WEIGHTS).score == 100.0
    absent = score(a_signal(close=110.1), BEST, None, WEIGHTS)
    assert absent.score == 80.0 and absent.parts["model"] == 0.0
    assert "MODEL_ABSENT" in absent.reasons


@pytest.mark.parametrize(
    ("opinion", "code"),
    [
        (None, "MODEL_ABSENT"),
        (Opinion(None, "MODEL_EXPIRED"), "MODEL_EXPIRED"),
        (Opinion(None, "OK"), "MODEL_ABSENT"),
        (Opinion(math.nan, "OK"), "MODEL_INVALID"),
        (Opinion(1.2, "OK"), "MODEL_INVALID"),
    ],
)
def test_a_model_that_says_nothing_earns_nothing_and_is_named(opinion: Opinion | None, code: str) -> None:
    scored = score(a_signal(), BEST, opinion, WEIGHTS)
    assert scored.parts["model"] == 0.0 and scored.reasons[-1] == code


@pytest.mark.parametrize(
    ("facts", "close", "trend", "liquidity"),
    [
        (Facts(100.0, 1e7), 105.0, 7.5, 10.0),
        (Facts(100.0, 1e6), 101.0, 1.5, 0.0),
        (Facts(100.0, 1.0), 101.0, 1.5, 0.0),
        (Facts(100.0, 1e12), 300.0, 15.0, 20.0),
        (Facts(math.nan, math.nan), 105.0, 0.0, 0.0),
        (Facts(0.0, 0.0), 105.0, 0.0, 0.0),
    ],
)
def test_components_are_clipped_and_unknown_is_zero(facts: Facts, close: float, trend: float, liquidity: float) -> None:
    parts = score(a_signal(close=close), facts, None, WEIGHTS).parts
    assert (parts["trend"], parts["liquidity"]) == (pytest.approx(trend), pytest.approx(liquidity))


def test_median_dollar_volume_is_unknown_with_an_unknown_bar_among_them() -> None:
    close, volume = np.arange(1.0, 26.0)[-MEDIAN_BARS:], np.full(MEDIAN_BARS, 10.0)
    holed = np.where(np.arange(MEDIAN_BARS) == 15, np.nan, volume)
    found = median_dollar_volumes(np.array([close, close]), np.array([volume, holed]))
    assert found[0] == pytest.approx(155.0)
    assert math.isnan(found[1])
