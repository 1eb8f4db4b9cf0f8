from __future__ import annotations

import numpy as np
import pytest

from core.domain import Symbol
from risk.exposure import correlation, sector_usd, value_at_risk

A, B, C = Symbol("A"), Symbol("B"), Symbol("C")


def test_var_is_the_third_worst_of_sixty_scenarios() -> None:
    returns = np.zeros(60)
    returns[[5, 20, 40, 50]] = [-0.10, -0.08, -0.05, -0.04]
    assert value_at_risk({A: 1000.0}, {A: returns}, 10_000.0) == pytest.approx(0.005)


def test_unknown_returns_count_as_a_fall_of_a_fifth() -> None:
    assert value_at_risk({A: 1000.0}, None, 10_000.0) == pytest.approx(0.02)
    assert value_at_risk({A: 1000.0}, {A: np.full(60, np.nan)}, 10_000.0) == pytest.approx(0.02)
    assert value_at_risk({A: 1000.0}, {A: np.zeros(30)}, 10_000.0) == pytest.approx(0.02)
    for nothing in ({}, {A: None}, {A: []}, {B: np.zeros(60)}):
        assert value_at_risk({A: 1000.0}, nothing, 10_000.0) == pytest.approx(0.02)


def test_only_the_newest_sixty_returns_count_and_a_hole_is_filled_alone() -> None:
    old = np.concatenate([np.full(9, -0.9), np.zeros(60)])
    assert value_at_risk({A: 1000.0}, {A: old}, 10_000.0) == 0.0
    holes = np.zeros(60)
    holes[[3, 4]] = np.nan
    assert value_at_risk({A: 1000.0}, {A: holes}, 10_000.0) == 0.0, "two falls of a fifth, and nothing else"
    holes[5] = np.inf
    assert value_at_risk({A: 1000.0}, {A: holes}, 10_000.0) == pytest.approx(0.02)


def test_opposite_returns_offset_and_var_is_never_negative() -> None:
    wave = np.resize([0.05, -0.05], 60)
    assert value_at_risk({A: 1000.0, B: 1000.0}, {A: wave, B: -wave}, 10_000.0) == pytest.approx(0.0)
    assert value_at_risk({A: 1000.0}, {A: np.full(60, 0.01)}, 10_000.0) == 0.0


def test_var_without_equity_is_a_bug() -> None:
    for equity in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="equity"):
            value_at_risk({A: 1.0}, None, equity)
    assert value_at_risk({A: 1.0}, None, 0.5) == pytest.approx(0.4)


def test_correlation_of_what_is_not_known_is_one() -> None:
    wave = np.resize([0.05, -0.05, 0.01], 60)
    assert correlation({A: wave, B: -wave}, A, B) == pytest.approx(-1.0)
    assert correlation(None, A, B) == 1.0
    assert correlation({A: wave}, A, B) == 1.0
    assert correlation({A: wave, B: np.zeros(60)}, A, B) == 1.0
    assert correlation({A: wave, B: wave[:59]}, A, B) == 1.0
    assert correlation({B: wave}, A, B) == 1.0
    assert correlation({A: np.zeros(60), B: wave}, A, B) == 1.0
    assert correlation({A: wave[:59], B: -wave[:59]}, A, B) == 1.0, "both too short"
    broken = wave.copy()
    broken[7] = np.nan
    assert correlation({A: broken, B: -wave}, A, B) == 1.0
    assert correlation({A: wave, B: -broken}, A, B) == 1.0


def test_correlation_looks_at_the_newest_sixty() -> None:
    wave = np.resize([0.05, -0.05, 0.01], 60)
    longer = np.concatenate([[9.0, -9.0], -wave])
    assert correlation({A: wave, B: longer}, A, B) == pytest.approx(-1.0)


def test_an_unknown_sector_belongs_to_every_sector() -> None:
    held = {A: 100.0, B: 50.0, C: 10.0}
    assert sector_usd(held, {A: "x", B: "y", C: "y"}, C) == 60.0
    assert sector_usd(held, {A: "x", B: None, C: "y"}, C) == 60.0
    assert sector_usd(held, {A: "x", B: "y", C: None}, C) == 110.0
    assert sector_usd(held, {}, C) == 160.0, "nothing is known: all of it"
    assert sector_usd({A: 100.0}, {A: "x", B: "y"}, B) == 0.0, "nothing in it yet"
