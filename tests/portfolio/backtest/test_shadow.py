"""The shadow twin: its sums are exact, a planted value is found, and none is claimed where there is none.

M18 in full: KOBE_POWER=400 pytest tests/portfolio/backtest/test_shadow.py (last figures in docs/briefings.md).
"""

from __future__ import annotations

import os
import random
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from portfolio.backtest.bootstrap import Interval, Resampling
from portfolio.backtest.shadow import SESSIONS_LEAST, Span, Twin, needed, worth

DAY = date(2026, 7, 1)
WORLDS = int(os.environ.get("KOBE_POWER", "25"))
LEAST_POWER = 0.90 if WORLDS >= 400 else 0.80  # of few worlds the share itself is uncertain
SPREAD_BPS = 40.0


def twin(day: date = DAY, on: int = 0, off: int = 10, result: str = "-1.00", **changes: object) -> Twin:
    facts: dict[str, object] = {
        "decision_id": f"{day:%Y%m%d}-ibs_rsi-AAA", "day": day, "part_on": Decimal(on) / 10,
        "part_off": Decimal(off) / 10, "shares_on": on, "shares_off": off, "entry_usd": Decimal(50),
        "result_usd": Decimal(result), "r": float(result) / 2,
    }  # fmt: skip
    return Twin(**{**facts, **changes})  # type: ignore[arg-type]


# ---------------------------------------------------------------- one decision
def test_a_loss_that_was_not_made_is_worth_what_it_would_have_cost() -> None:
    vetoed = twin(on=0, off=10, result="-1.00")
    assert (vetoed.value_usd, vetoed.value_r, vetoed.value_bps) == (Decimal("10.00"), 0.5, 200.0)
    assert twin(on=0, off=10, result="1.00").value_usd == Decimal("-10.00")
    assert twin(on=5, off=10, result="-1.00").value_usd == Decimal("5.00")
    assert twin(on=10, off=0, result="-1.00").value_usd == Decimal("-10.00")


@pytest.mark.parametrize(("on", "off"), [(10, 10), (0, 0)])
def test_what_was_not_changed_is_worth_nothing(on: int, off: int) -> None:
    same = twin(on=on, off=off)
    assert (same.value_usd, same.value_r, same.value_bps, same.changed) == (0, 0.0, None, False)


def test_a_part_without_a_whole_share_counts_as_none() -> None:
    shrunk_away = twin(on=0, off=1, part_on=Decimal("0.4"), part_off=Decimal(1), result="-2.00")
    assert (shrunk_away.value_usd, shrunk_away.value_r) == (Decimal("2.00"), 1.0)


# ---------------------------------------------------------------- sums
cents = st.decimals(min_value=-50, max_value=50, places=6, allow_nan=False)
rows = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 20), st.integers(0, 20), cents), max_size=40)


@hypothesis_settings(max_examples=40, deadline=None)
@given(rows=rows, paid=st.dictionaries(st.integers(0, 200), cents.map(abs), max_size=20))
def test_decisions_add_up_to_months_and_months_to_the_total(
    rows: list[tuple[int, int, int, Decimal]], paid: dict[int, Decimal]
) -> None:
    twins = [twin(DAY + timedelta(days=d), on, off, str(r)) for d, on, off, r in rows]
    days = sorted({t.day for t in twins} | {DAY + timedelta(days=d) for d in paid})
    cost = {DAY + timedelta(days=d): usd for d, usd in paid.items()}
    found = worth(twins, days, cost, {}, Resampling(draws=20))
    months, total = found.months.values(), found.total
    assert total.value_usd == sum(t.value_usd for t in twins) == sum(m.value_usd for m in months)
    assert total.cost_usd == sum(m.cost_usd for m in months)
    assert total.net_usd == sum(m.net_usd for m in months) == total.value_usd - total.cost_usd
    assert total.value_usd == total.usd_on - total.usd_off
    assert total.sessions == sum(m.sessions for m in months) == len(days)
    assert abs(total.cost_usd - sum(cost.values())) <= Decimal("0.005") * len(found.months)
    assert all(span.value_usd == span.value_usd.quantize(Decimal("0.01")) for span in (*months, total))


def test_what_is_not_known_is_in_no_sum_and_told() -> None:
    open_one = twin(DAY, result="-1.00", code="STILL_OPEN")
    found = worth([twin(), open_one, twin(DAY + timedelta(days=1))], [DAY], {}, {"BEFORE_CUTOFF": 3})
    assert found.total.decisions == 1 and found.total.value_usd == Decimal("10.00")
    assert found.left_out == {"BEFORE_CUTOFF": 3, "STILL_OPEN": 1}


def test_sessions_without_a_change_count_as_zeros_and_few_give_no_interval() -> None:
    days = [DAY + timedelta(days=k) for k in range(SESSIONS_LEAST)]
    assert worth([twin()], days[:-1], {}, {}).total.claim == "too few"
    assert worth([twin()], days, {}, {}).total.claim == "not shown"


def test_the_claim_is_about_the_whole_interval() -> None:
    def claim(low: float | None, high: float | None) -> str:
        span = worth([], [DAY], {}, {}).total
        values = {name: getattr(span, name) for name in span.__slots__}
        return Span(**{**values, "interval_usd": Interval(low, high, 0.95, "bootstrap", 1, 1.0, 1)}).claim

    assert claim(0.01, 5.0) == "earns" and claim(0.0, 5.0) == "not shown"
    assert claim(-5.0, -0.01) == "loses" and claim(-5.0, 0.0) == "not shown"
    assert claim(None, None) == "not shown"


def test_what_the_calls_cost_can_eat_the_value() -> None:
    days = [DAY + timedelta(days=k) for k in range(30)]
    twins = [twin(day, result="-0.10") for day in days]
    assert worth(twins, days, {}, {}).total.claim == "earns"
    assert worth(twins, days, dict.fromkeys(days, Decimal("1.50")), {}).total.claim == "loses"


# ---------------------------------------------------------------- power, and what is not claimed
def claims(effect_bps: float, n: int, worlds: int, seed: int) -> list[str]:
    """`n` vetoes, one or two a session, each worth `effect_bps` on average, with fat tails."""
    found = []
    for world in range(worlds):
        rng, days = np.random.default_rng(seed + world), random.Random(seed + world)
        bps = effect_bps + SPREAD_BPS * rng.standard_t(5, size=n) / np.sqrt(5 / 3)
        when, day = [], DAY
        for _ in range(n):
            when.append(day)
            day += timedelta(days=days.choice((0, 1, 1)))
        twins = [
            twin(d, 0, 100, repr(float(-value * 50 / 10_000))) for d, value in zip(when, bps.tolist(), strict=True)
        ]
        found.append(worth(twins, sorted(set(when)), {}, {}, Resampling(draws=400, level=0.95)).total.claim)
    return found


def test_M18_ten_bps_a_veto_are_found_with_the_stated_power_at_the_stated_n() -> None:
    found = claims(10.0, needed(SPREAD_BPS), WORLDS, seed=1)
    assert found.count("earns") >= LEAST_POWER * WORLDS
    assert found.count("loses") == 0


@pytest.mark.parametrize("n", [36, needed(SPREAD_BPS)], ids=["few", "the stated n"])
def test_M18_no_value_is_claimed_where_none_is_planted(n: int) -> None:
    found = claims(0.0, n, WORLDS, seed=100_000)
    assert found.count("earns") <= 0.05 * WORLDS


def test_the_stated_n_grows_with_the_square_of_the_spread() -> None:
    assert needed(40.0) == 202 and 3.99 < needed(400.0) / needed(200.0) < 4.01
    assert needed(40.0, effect_bps=5.0) > 3.9 * needed(40.0) and needed(0.0) == 2
