"""The gate: measures as in the textbook, noise is refused, an edge is found, a champion must be beaten."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_advanced.dataset import Dataset
from ml_advanced.ensemble.members import Floats
from ml_advanced.gate import PLAN, Champion, Plan, Sampler, Verdict, auc, judge
from ml_advanced.training import OutOfFold, Recipe, Trained, train
from tests.fakes.models import market_data, with_labels_of_others

SMALL = Recipe(members=("logistic",), folds=4, controls=1)
QUICK = replace(PLAN, draws=800)


def record_of(data: Dataset, p: Floats) -> OutOfFold:
    base = np.full(len(data), float(data.y.mean()))
    return OutOfFold(p[None], np.ones(len(data), dtype=np.int64), p, base)


@cache
def taught(seed: int, edge: float) -> tuple[Dataset, Trained]:
    data = market_data(seed, edge=edge)
    return data, train(data, SMALL)


def verdict(data: Dataset, trained: Trained, plan: Plan = QUICK, **more: object) -> Verdict:
    controls = list(zip(trained.controls, trained.control_labels, strict=True))
    return judge(data, trained.out_of_fold, controls, plan=plan, **more)  # type: ignore[arg-type]


# ---------------------------------------------------------------- measures
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 60))
def test_the_area_is_scikit_learns_and_what_rows_add_to_it_sums_to_nothing(seed: int, rows: int) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    p, y = rng.integers(0, 8, rows) / 8.0, (np.arange(rows) % 3 == 0).astype(np.float64)
    area, adds = auc(p, y)
    assert area == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert adds.sum() == pytest.approx(0.0, abs=1e-9)


def test_the_interval_of_an_area_is_delongs_where_every_session_has_one_signal() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random(4000) < 0.5).astype(np.float64)
    p = rng.normal(size=4000) + 0.4 * y
    area, adds = auc(p, y)
    sampler = Sampler.of(np.arange(4000), replace(PLAN, block_sessions=1))
    drawn = area + sampler.means(adds)
    wins, losses = y > 0.5, y < 0.5
    placed_up, placed_down = adds[wins] * wins.mean() + area, adds[losses] * losses.mean() + area
    delong = np.sqrt(placed_up.var(ddof=1) / wins.sum() + placed_down.var(ddof=1) / losses.sum())
    assert drawn.std() == pytest.approx(delong, rel=0.06)


def test_blocks_of_sessions_keep_what_neighbours_share() -> None:
    """Days that move together make the mean less certain than single rows would say."""
    rng = np.random.default_rng(4)
    day = np.repeat(np.arange(600), 5)
    value = np.repeat(np.repeat(rng.normal(size=60), 10), 5) + 0.1 * rng.normal(size=3000)
    wide = Sampler.of(day, PLAN).means(value).std()
    narrow = Sampler.of(np.arange(3000), replace(PLAN, block_sessions=1)).means(value).std()
    assert wide > 5 * narrow
    assert wide == pytest.approx(value.reshape(60, 50).mean(axis=1).std() / np.sqrt(60), rel=0.35)


def test_a_part_of_the_rows_has_its_own_mean() -> None:
    day = np.repeat(np.arange(100), 4)
    value = np.tile([1.0, 1.0, 3.0, 3.0], 100)
    drawn = Sampler.of(day, QUICK).means(value, np.tile([True, True, False, False], 100))
    assert drawn.tolist() == pytest.approx([1.0] * QUICK.draws)


# ---------------------------------------------------------------- verdicts
def test_an_edge_is_found_and_earns_its_part() -> None:
    found = verdict(*taught(2, 0.9))
    assert found.passed and found.code == "OK" and QUICK.earned_least <= found.earned <= 1.0
    assert 0.56 < found.measures["auc"].value < 0.68
    assert all(m.low <= m.value <= m.high for m in found.measures.values())


def test_noise_is_refused_and_earns_nothing() -> None:
    found = verdict(*taught(2, 0.0))
    assert (found.passed, found.code, found.earned) == (False, "MODEL_NO_BETTER", 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_challengers_of_shuffled_labels_are_refused(seed: int) -> None:
    data = with_labels_of_others(market_data(seed, rows=1500, edge=0.9), seed)
    assert not verdict(data, train(data, SMALL)).passed


def test_of_eight_planted_edges_nearly_all_are_found() -> None:
    passed = [verdict(*taught(seed, 1.0)).passed for seed in range(8)]
    assert sum(passed) >= 7


def test_a_model_that_orders_well_and_lies_about_how_likely_is_refused() -> None:
    data, trained = taught(2, 0.9)
    record = trained.out_of_fold
    bold = np.where(record.judged > np.nanmedian(record.judged), 0.97, 0.03)
    bold[~np.isfinite(record.judged)] = np.nan
    found = verdict(data, replace(trained, out_of_fold=replace(record, judged=bold)))
    assert not found.passed
    missed = {c.name for c in found.criteria if not c.met}
    assert {"log_loss", "brier"} <= missed and "auc" not in missed


def test_a_model_whose_good_opinions_do_not_pay_is_refused() -> None:
    data, trained = taught(2, 0.9)
    poor = replace(data, r=np.where(data.y > 0.5, 0.01, -0.01) * 0 + np.sin(np.arange(len(data))) * 1e-9)
    found = verdict(poor, trained)
    assert [c.name for c in found.criteria if not c.met] == ["r_spread"]


def test_one_trade_with_an_enormous_loss_does_not_decide() -> None:
    data, trained = taught(2, 0.9)
    r = data.r.copy()
    rows = trained.out_of_fold.rows
    r[rows[np.argmax(trained.out_of_fold.judged[rows])]] = -929.0
    assert verdict(replace(data, r=r), trained).passed


def test_a_model_that_says_the_same_of_everything_is_refused() -> None:
    data, trained = taught(2, 0.9)
    flat = np.where(np.isfinite(trained.out_of_fold.judged), 0.6, np.nan)
    found = verdict(data, replace(trained, out_of_fold=replace(trained.out_of_fold, judged=flat)))
    assert not found.passed and not next(c for c in found.criteria if c.name == "varies").met


@pytest.mark.parametrize(("rows", "enough"), [(250, True), (249, False)])
def test_too_few_rows_are_refused_whatever_they_say(rows: int, enough: bool) -> None:
    data = market_data(1, rows=400, edge=0.9)
    p = np.where(np.arange(400) < rows, 0.2 + 0.6 * data.y, np.nan)
    found = judge(data, record_of(data, p), [], plan=QUICK)
    assert (found.code == "MODEL_TOO_FEW_ROWS") is not enough
    assert found.passed is enough


def test_luck_of_random_labels_that_is_as_large_is_no_gain() -> None:
    data, trained = taught(2, 0.9)
    same = [(trained.out_of_fold, data.y)]
    found = judge(data, trained.out_of_fold, same, plan=QUICK)
    assert [c.name for c in found.criteria if not c.met] == ["controls"]


def test_each_further_try_makes_the_level_stricter() -> None:
    assert PLAN.level(1) == 0.05 and PLAN.level(4) == 0.0125 and PLAN.level(1000) == PLAN.error_least
    data, trained = taught(2, 0.9)
    bounds = [verdict(data, trained, tries=tries).measures["log_loss"].bound for tries in (1, 5, 20)]
    assert bounds[0] > bounds[1] > bounds[2]


# ---------------------------------------------------------------- against the champion
def champion(p: Floats, *, soon: bool = False) -> Champion:
    return Champion("m-20230101-before", p, soon)


def test_a_champion_that_says_the_same_is_not_replaced_unless_it_is_about_to_expire() -> None:
    data, trained = taught(2, 0.9)
    same = trained.out_of_fold.judged
    found = verdict(data, trained, champion=champion(same))
    assert (found.passed, found.code) == (False, "MODEL_NO_BETTER_THAN_CHAMPION")
    assert verdict(data, trained, champion=champion(same, soon=True)).passed


def test_a_worse_champion_is_replaced_and_a_better_one_is_not() -> None:
    data, trained = taught(2, 0.9)
    base = np.full(len(data), float(data.y.mean()))
    assert verdict(data, trained, champion=champion(base)).passed
    better = np.clip(trained.out_of_fold.judged + 0.2 * (data.y - 0.5), 0.01, 0.99)
    assert not verdict(data, trained, champion=champion(better, soon=True)).passed


def test_a_champion_that_has_seen_too_much_of_the_data_cannot_be_compared() -> None:
    data, trained = taught(2, 0.9)
    p = np.full(len(data), np.nan)
    p[trained.out_of_fold.rows[:249]] = 0.5
    found = verdict(data, trained, champion=champion(p))
    criterion = next(c for c in found.criteria if c.name == "champion")
    assert not found.passed and criterion.observed is None


def test_the_plan_is_known_by_its_hash() -> None:
    assert PLAN.sha256 == Plan().sha256 != replace(PLAN, error=0.06).sha256
    assert verdict(*taught(2, 0.9)).plan_sha256 == QUICK.sha256
