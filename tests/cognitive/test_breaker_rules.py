"""Every breaker trips on its planted cause, at both sides of its limit, and on nothing else in a clean year."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from cognitive import breaker_rules as rules
from cognitive.breaker_rules import (
    CODES,
    NAMES,
    NEVER,
    NOT_FINITE,
    Closed,
    Evidence,
    Executed,
    Point,
    RegimeSeen,
    Said,
    Trip,
    judge,
)
from config.settings_schema import Settings
from tests.cognitive.years import Year, planted

S = Settings().cognitive.circuit_breakers
TODAY = date(2024, 3, 7)  # a Thursday


def never(lock: str) -> int:
    return NEVER


def cleared_at(seq: int) -> Callable[[str], int]:
    return lambda lock: seq


def evidence(**changes: Any) -> Evidence:
    return Evidence(**{"session": TODAY, "capital_usd": Decimal(750), **changes})


def trades(*usd: str, symbol: str = "", strategy: str = "ibs_rsi", confidence: float | None = None) -> list[Closed]:
    return [
        Closed(seq=k, decision_id=f"d{k}", symbol=symbol or f"S{k}", strategy=strategy, usd=Decimal(u),
               confidence=confidence)
        for k, u in enumerate(usd)
    ]  # fmt: skip


def said(values: Sequence[float | None], code: str = "OK", **changes: Any) -> list[Said]:
    rows = {"model": "m1", "code": code, "confidence": None, **changes}
    return [Said(seq=k, decision_id=f"d{k}", probability=p, **rows) for k, p in enumerate(values)]


def only(found: Sequence[Trip]) -> Trip:
    (trip,) = found
    return trip


# ---------------------------------------------------------------- losses
@pytest.mark.parametrize(
    ("usd", "trips"),
    [
        (["-1"] * 5, True), (["-1"] * 4, False), (["-1"] * 4 + ["0"], False), (["1", *["-0.01"] * 5], True),
        (["-1", "-1", "1", "-1", "-1", "-1"], False), (["-1"] * 9, True), ([], False),
    ],
)  # fmt: skip
def test_loss_streak_counts_losses_back_to_the_last_trade_that_did_not_lose(usd: list[str], trips: bool) -> None:
    found = judge(evidence(closed=trades(*usd)), S, never)
    assert [t.name for t in found] == (["loss_streak"] if trips else [])


def test_a_loss_streak_that_a_person_resumed_needs_five_new_losses() -> None:
    """Record 4 is the fifth loss; what came up to it was seen."""
    old = trades(*["-1"] * 5)
    assert not judge(evidence(closed=old), S, cleared_at(4))
    assert not judge(evidence(closed=trades(*["-1"] * 9)), S, cleared_at(4))
    assert only(judge(evidence(closed=trades(*["-1"] * 10)), S, cleared_at(4))).numbers["losses"] == 5


def alternating(lost: int, of: int) -> list[str]:
    """`lost` losses of `of`, spread so that never five come in a row."""
    won = of - lost
    usd: list[str] = []
    for k in range(of):
        usd.append("0.5" if (k + 1) * won // of > k * won // of else "-1")
    return usd


@pytest.mark.parametrize(("lost", "trips"), [(15, False), (16, True)])
def test_loss_concentration_is_more_than_three_quarters_of_the_last_twenty(lost: int, trips: bool) -> None:
    usd = alternating(lost, 20)
    assert sum(u == "-1" for u in usd) == lost and "-1-1-1-1-1" not in "".join(usd)
    found = judge(evidence(closed=trades(*usd)), S, never)
    assert [t.name for t in found] == (["loss_concentration"] if trips else [])
    assert not judge(evidence(closed=trades(*usd)[:19]), S, never), "from fewer nothing is concluded"


def test_one_strategy_that_loses_is_locked_alone() -> None:
    bad = trades(*alternating(16, 20), strategy="turtle_soup")
    good = [replace(t, seq=t.seq + 100, decision_id=f"g{t.seq}") for t in trades(*["1"] * 20)]
    mixed = [t for pair in zip(bad, good, strict=True) for t in pair]
    trip = only(judge(evidence(closed=mixed), S, never))
    assert (trip.scope, trip.what, trip.lock_id) == (
        "strategy", "turtle_soup", "loss_concentration:strategy:turtle_soup"
    )  # fmt: skip
    assert "16 of the last 20" in trip.reason


@pytest.mark.parametrize(("times", "usd", "trips"), [(4, "-2", True), (3, "-2", False), (4, "-0.2", False)])
def test_one_symbol_that_carries_the_losses_is_locked_alone(times: int, usd: str, trips: bool) -> None:
    closed = trades(*["1", "1", usd] * times, *["-0.3"] * 3, "1")
    named = [replace(t, symbol="BAD") if t.usd == Decimal(usd) else t for t in closed]
    found = [t for t in judge(evidence(closed=named), S, never) if t.name == "loss_concentration"]
    assert [(t.scope, t.what) for t in found] == ([("symbol", "BAD")] if trips else [])


# ---------------------------------------------------------------- what was said
@pytest.mark.parametrize(
    ("confidence", "trips"), [(0.95, False), (0.9501, True), (0.05, False), (0.0499, True), (0.5, False)]
)
def test_L29_calibration_at_an_extreme_is_the_mean_confidence_outside_its_bounds(
    confidence: float, trips: bool
) -> None:
    found = judge(evidence(said=said([None] * 20, confidence=confidence)), S, never)
    assert [t.name for t in found] == (["calibration_drift"] if trips else [])
    assert not judge(evidence(said=said([None] * 19, confidence=0.99)), S, never)
    assert S.sessions.calibration_drift is None, "a person resumes it"


def test_calibration_drift_is_wins_far_from_what_was_said_and_not_bad_luck() -> None:
    """70 % were said and 30 % of 40 won: 5.5 standard errors. Of 20 it is 3.9: not enough."""
    far = trades(*["1", "-1", "-1", "1", "-1", "-1", "1", "-1", "-1", "-1"] * 4, confidence=0.7)
    trip = only(judge(evidence(closed=far), S, never))
    assert trip.name == "calibration_drift" and trip.numbers["z"] == pytest.approx(-16 / 8.4**0.5)
    assert not judge(evidence(closed=far[:20]), S, never)
    as_said = trades(*["1", "1", "-1", "1", "1", "-1", "1", "1", "-1", "1"] * 4, confidence=0.7)
    assert not judge(evidence(closed=as_said), S, never)
    assert not judge(evidence(closed=far), S, cleared_at(39))


def test_certainty_that_comes_true_is_no_drift_and_that_fails_is() -> None:
    wide = S.model_copy(update={"calibration_bounds": (0.0, 1.0)})
    assert not list(rules.calibration_drift(evidence(closed=trades(*["1"] * 20, confidence=1.0)), wide, never))
    one_lost = trades(*["1"] * 19, "-1", confidence=1.0)
    assert only(list(rules.calibration_drift(evidence(closed=one_lost), wide, never))).numbers["wins"] == 19


@pytest.mark.parametrize(("spread", "trips"), [(0.0, True), (0.00099, True), (0.0011, False)])
def test_L06_constant_predictions_trip_confidence_collapse_with_the_variance_shown(spread: float, trips: bool) -> None:
    values = [0.6 + (spread if k % 2 else -spread) for k in range(20)]
    found = judge(evidence(said=said(values)), S, never)
    assert [t.name for t in found] == (["confidence_collapse"] if trips else [])
    if trips:
        assert "variance of" in found[0].reason and found[0].numbers["variance"] == pytest.approx(spread**2)
    assert not judge(evidence(said=said(values[:19])), S, never)
    assert not judge(evidence(said=said(values)), S, cleared_at(19))


def test_the_values_of_two_models_are_not_mixed() -> None:
    other = [replace(s, model="m2", probability=0.5 + 0.01 * (s.seq % 7)) for s in said([0.6] * 20)]
    assert not judge(evidence(said=[*said([0.6] * 19), *other]), S, never)


@pytest.mark.parametrize(("broken", "trips"), [(2, False), (3, True)])
def test_L05_predictions_that_are_no_number_trip_after_three(broken: int, trips: bool) -> None:
    rows = [*said([0.6, 0.7]), *(replace(s, seq=s.seq + 9) for s in said([None] * broken, code=NOT_FINITE))]
    found = judge(evidence(said=rows), S, never)
    assert [t.name for t in found] == (["confidence_collapse"] if trips else [])
    healthy = [*rows, Said(seq=99, decision_id="x", model="m1", probability=0.6, code="OK", confidence=None)]
    assert not judge(evidence(said=healthy), S, never)


def regimes(*rows: tuple[int, float | None], source: str = "regime-1", lag: int = 0) -> list[RegimeSeen]:
    days = [TODAY + timedelta(days=k) for k in range(len(rows))]
    return [
        RegimeSeen(seq=seq, session=day, of=day - timedelta(days=lag), lag=lag, label="calm", probability=p,
                   source=source)
        for day, (seq, p) in zip(days, rows, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "trips"),
    [
        (regimes((1, 0.8), lag=4), True), (regimes((1, 0.8), lag=3), False),
        (regimes(*((k, 0.8) for k in range(5))), True), (regimes(*((k, 0.8) for k in range(4))), False),
        (regimes(*((k, 0.8 + 0.001 * k) for k in range(9))), False),
        (regimes(*((k, 1.0) for k in range(9))), False), (regimes(*((k, None) for k in range(5))), True),
        (regimes(*((k, None) for k in range(30)), source="rule"), False), ([], False),
    ],
)  # fmt: skip
def test_regime_stuck_is_an_old_regime_or_a_model_that_says_the_very_same(seen: list[RegimeSeen], trips: bool) -> None:
    found = judge(evidence(regimes=seen), S, never)
    assert [t.name for t in found] == (["regime_stuck"] if trips else [])


def test_a_stuck_regime_that_was_resumed_is_watched_for_some_sessions_before_it_trips_again() -> None:
    late = regimes(*((10 + k, 0.8) for k in range(4)), lag=5)
    assert only(judge(evidence(regimes=late[:1]), S, never)).name == "regime_stuck"
    assert not judge(evidence(regimes=late[:3]), S, cleared_at(5))
    assert only(judge(evidence(regimes=late), S, cleared_at(5))).numbers["lag"] == 5


# ---------------------------------------------------------------- money
def points(*rows: tuple[str, str]) -> list[Point]:
    """(day of March 2024, profit so far)."""
    origin = Point(seq=NEVER, session=date.min, usd=Decimal(0))
    return [origin, *(Point(seq=k, session=date(2024, 3, int(d)), usd=Decimal(u)) for k, (d, u) in enumerate(rows))]


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([("6", "10"), ("7", "-35.00")], []),  # 45 of 750 is 6 %: the limit itself passes
        ([("6", "10"), ("7", "-35.01")], ["daily_drawdown"]),
        ([("7", "-45.01")], ["daily_drawdown"]),  # the first session of a home
        ([("6", "10"), ("7", "-40"), ("7", "5")], []),  # it came back within the session
        ([("1", "100"), ("4", "80"), ("5", "60"), ("6", "40"), ("7", "25")], []),  # 75 of 750 in the week: 10 %
        ([("1", "100"), ("4", "80"), ("5", "60"), ("6", "40"), ("7", "24.99")], ["weekly_drawdown"]),
        ([("6", "50"), ("7", "-100")], ["daily_drawdown", "weekly_drawdown"]),
    ],
)
def test_drawdown_is_profit_against_the_session_and_the_week_before(
    rows: list[tuple[str, str]], names: list[str]
) -> None:
    assert [t.name for t in judge(evidence(points=points(*rows)), S, never)] == names


def test_a_drawdown_that_was_resumed_is_measured_from_there() -> None:
    fallen = points(("6", "50"), ("7", "0"), ("7", "-40"))
    assert [t.name for t in judge(evidence(points=fallen), S, never)] == ["daily_drawdown"]
    assert not judge(evidence(points=fallen), S, cleared_at(1)), "40 since then"
    worse = points(("6", "50"), ("7", "0"), ("7", "-46"))
    assert [t.name for t in judge(evidence(points=worse), S, cleared_at(1))] == ["daily_drawdown"]


def test_a_smaller_account_is_what_can_be_at_work() -> None:
    small = evidence(points=points(("6", "0"), ("7", "-20")), capital_usd=Decimal(300))
    assert only(judge(small, S, never)).name == "daily_drawdown"


def entries(filled: float, slip: float | None, count: int = 20) -> list[Executed]:
    return [Executed(seq=k, filled=filled, slippage_bps=slip) for k in range(count)]


@pytest.mark.parametrize(
    ("rows", "trips"),
    [
        (entries(0.25, None), False), (entries(0.24, None), True), (entries(1.0, 40.0), False),
        (entries(1.0, 40.1), True), (entries(0.0, None, 19), False), (entries(1.0, 99.0, 19), False),
    ],
)  # fmt: skip
def test_execution_quality_is_fills_and_slippage_of_the_last_twenty(rows: list[Executed], trips: bool) -> None:
    found = judge(evidence(executed=rows), S, never)
    assert [t.name for t in found] == (["execution_quality"] if trips else [])
    assert not judge(evidence(executed=rows), S, cleared_at(19))


# ---------------------------------------------------------------- years
def tripped_in(year: Year) -> dict[str, date]:
    """Breaker -> the session in which it first tripped."""
    found: dict[str, date] = {}
    for seen in year.sessions():
        for trip in judge(seen, S, never):
            found.setdefault(trip.name, seen.session)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_nothing_trips_in_a_clean_year(seed: int) -> None:
    year = Year(seed)
    assert tripped_in(year) == {}
    assert len(year.closed) > 140 and len(year.executed) > 140 and len(year.points) > 240, "it was looked at"


@pytest.mark.parametrize("cause", NAMES)
def test_a_planted_cause_trips_its_breaker_and_no_other(cause: str) -> None:
    found = tripped_in(planted(cause, seed=1))
    assert set(found) == {cause}
    assert found[cause] >= date(2024, 6, 14), "not before it was planted"


def test_every_breaker_has_a_rule_a_code_and_a_length() -> None:
    assert set(rules.RULES) == set(NAMES) and set(CODES) == {*NAMES, "manual"}
    assert all(code == f"BREAKER_{name.upper()}" for name, code in CODES.items())
    assert set(type(S.sessions).model_fields) == set(NAMES)
