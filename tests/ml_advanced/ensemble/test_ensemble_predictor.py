"""A probability or a reason, before and after training; never a neutral number, never scikit-learn on the way."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from core import logs
from core.clock import SystemClock
from core.paths import REPO_ROOT, Home
from ml_advanced import model_store as store
from ml_advanced.ensemble.blend import Ensemble, Voice
from ml_advanced.ensemble.calibrators import Platt
from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
from ml_advanced.ensemble.members import Linear
from tests.fakes import models
from tests.fakes.models import EXPIRES, LEARNED_UNTIL, NAMES, saved

SESSION = date(2024, 3, 11)


@pytest.fixture
def place(tmp_path: Path) -> Home:
    return Home(tmp_path)


def asked(place: Home, session: date = SESSION, **how: bool) -> EnsemblePredictor:
    return EnsemblePredictor(
        place, session=session, simulated=how.get("simulated"), shadowed=how.get("shadowed", False)
    )


def test_L03_before_any_training_there_is_no_number() -> None:
    """The runbook's own line, in a home where nothing was trained."""
    found = EnsemblePredictor()
    said = found.predict(models.rows(3), NAMES)
    assert (found.code, found.loaded, found.model_id, found.expires) == ("MODEL_ABSENT", (), None, None)
    assert said.codes == ("MODEL_ABSENT",) * 3 and np.isnan(said.probabilities).all()


def test_L03_trained_and_not_promoted_is_absent_too_and_says_so(place: Home) -> None:
    saved(place, kind=None, passed=False)
    found = asked(place)
    assert found.code == "MODEL_ABSENT" and "1 trained, none is champion" in found.detail


def test_a_champion_says_which_members_are_loaded_and_until_when(place: Home) -> None:
    saved(place)
    found = asked(place)
    assert (found.loaded, found.expires, found.learned_until) == (("logistic", "forest"), EXPIRES, LEARNED_UNTIL)
    assert "logistic, forest" in found.detail and str(EXPIRES) in found.detail
    said = found.predict(models.rows(30), NAMES, meaning="as then")
    assert said.code == "OK" and said.spread is not None and said.spread > 0.05
    fine = [p for p, code in zip(said.probabilities.tolist(), said.codes, strict=True) if code == "OK"]
    assert len(fine) > 20 and all(0 < p < 1 for p in fine)


def test_L04_a_model_is_good_on_its_last_day_and_expired_on_the_next(place: Home) -> None:
    saved(place)
    assert asked(place, EXPIRES).code == "OK"
    late = asked(place, EXPIRES + timedelta(days=1))
    assert late.code == "MODEL_EXPIRED" and late.earned == 0
    assert late.predict(models.rows(2), NAMES).codes == ("MODEL_EXPIRED",) * 2


def test_a_model_is_not_asked_about_sessions_it_has_learned_from(place: Home) -> None:
    saved(place)
    assert asked(place, LEARNED_UNTIL).code == "MODEL_AHEAD"
    assert asked(place, LEARNED_UNTIL + timedelta(days=1)).code == "OK"


def test_a_model_of_simulated_bars_is_never_asked_about_real_ones(place: Home) -> None:
    saved(place, data={"simulated": True})
    assert asked(place, simulated=False).code == "MODEL_SIMULATED"
    assert asked(place, simulated=True).code == "OK"
    saved(place, "m-20240308-silent", data={})
    assert asked(place, simulated=False).code == "MODEL_SIMULATED", "what is not said counts as simulated"


def test_a_manifest_that_does_not_say_what_it_learned_from_is_refused(place: Home) -> None:
    saved(place, data=None)
    for simulated in (False, True, None):
        found = EnsemblePredictor(place, session=date(2024, 3, 11), simulated=simulated)
        assert (found.code, found.earned) == ("MODEL_MANIFEST_DAMAGED", 0.0)


def test_in_its_shadow_period_it_is_asked_aside_only(place: Home) -> None:
    saved(place, kind=store.SHADOWED)
    found = asked(place)
    assert found.code == "MODEL_SHADOW" and found.loaded == ()
    aside = asked(place, shadowed=True)
    assert aside.code == "OK" and aside.predict(models.rows(30), NAMES).code == "OK"
    assert asked(place, SESSION + timedelta(days=28)).code == "OK", "from its day on it scores"


# ---------------------------------------------------------------- what it is asked with
@pytest.mark.parametrize(
    "names",
    [
        ("depth", "trend"),
        ("depth", "volume", "trend"),
        ("depth", "trend", "vol"),
        ("depth", "trend", "volume", "x"),
        (),
    ],
    ids=["missing", "re-ordered", "renamed", "one more", "none"],
)
def test_L07_other_features_than_it_learned_with_are_refused(place: Home, names: tuple[str, ...]) -> None:
    saved(place)
    said = asked(place).predict(models.rows(4, k=max(1, len(names))), names)
    assert said.codes == ("MODEL_FEATURES_DIFFER",) * 4 and np.isnan(said.probabilities).all()


def test_L07_features_of_another_meaning_or_width_are_refused(place: Home) -> None:
    saved(place)
    found = asked(place)
    assert found.predict(models.rows(4), NAMES, meaning="redefined since").code == "MODEL_FEATURES_DIFFER"
    assert found.predict(models.rows(4, k=2), NAMES).code == "MODEL_FEATURES_DIFFER"
    assert found.predict(models.rows(4), NAMES, meaning="as then").code == "OK"


def test_L07_L08_features_of_another_scale_are_out_of_distribution(place: Home) -> None:
    saved(place)
    found = asked(place)
    assert set(found.predict(100 * models.rows(50), NAMES).codes) == {"MODEL_OOD"}
    assert found.predict(models.rows(50), NAMES).codes.count("OK") >= 45


def test_L08_one_row_out_of_range_is_refused_and_the_others_are_not(place: Home) -> None:
    saved(place)
    x = 0.5 * models.rows(5, seed=9) + 0.4
    x[2, 1] = 40.0
    codes = asked(place).predict(x, NAMES).codes
    assert codes[2] == "MODEL_OOD" and codes.count("OK") == 4


def test_L05_what_is_infinite_or_unknown_against_all_learning_is_refused_row_by_row_and_counted(place: Home) -> None:
    saved(place)
    x = 0.5 * models.rows(4, seed=9) + 0.4
    x[0, 0], x[1, 2], x[2] = np.inf, np.nan, np.nan
    key = ("predictions_refused", (("code", "MODEL_INPUT_INVALID"),))
    before = logs.counters().get(key, 0)
    said = asked(place).predict(x, NAMES)
    assert said.codes == ("MODEL_INPUT_INVALID", "MODEL_FEATURE_UNKNOWN", "MODEL_FEATURE_UNKNOWN", "OK")
    assert np.isnan(said.probabilities[:3]).all() and 0 < said.probabilities[3] < 1
    assert logs.counters()[key] == before + 1


def test_L05_a_prediction_that_is_no_number_is_refused() -> None:
    sound = models.small_ensemble()
    one = np.ones(3)
    broken = Linear(0 * one, 0 * one, one, one * np.nan, 0.0)  # cannot be loaded; whatever made it, it says nothing
    made = Ensemble(NAMES, (Voice("logistic", broken, Platt(1.0, 0.0), 1.0),), sound.familiarity)
    judged = made.judge(0.5 * models.rows(4, seed=9) + 0.4)
    assert set(judged.codes) == {"MODEL_NAN"} and np.isnan(judged.probabilities).all()


def test_L06_a_model_that_says_the_same_of_everything_is_refused_and_its_spread_is_told() -> None:
    sound = models.small_ensemble()
    flat = Linear(*(np.ones(3) * v for v in (0.0, 0.0, 1.0, 0.0)), 0.3)
    made = Ensemble(NAMES, (Voice("logistic", flat, Platt(1.0, 0.0), 1.0),), sound.familiarity)
    x = models.rows(12, seed=9) * 0.6 + 0.3
    many = made.judge(x)
    assert many.codes.count("MODEL_CONSTANT") >= 10 and "OK" not in many.codes and many.spread == 0.0
    assert "OK" in made.judge(x[:9]).codes, "of a few rows nothing is concluded"
    assert "OK" in made.judge(np.repeat(x[:1], 20, axis=0)).codes, "equal rows have equal numbers"


def test_no_rows_are_no_trouble(place: Home) -> None:
    saved(place)
    said = asked(place).predict(np.empty((0, 3)), NAMES)
    assert (said.code, said.codes, said.probabilities.shape) == ("OK", (), (0,))


# ---------------------------------------------------------------- cost
def test_it_loads_fast_and_without_scikit_learn(own_home: Path) -> None:
    saved(Home(own_home))
    code = (
        "import sys\nfrom ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor\n"
        "from core.clock import SystemClock\nfrom datetime import date\nclock = SystemClock(); t = clock.monotonic()\n"
        "p = EnsemblePredictor(session=date(2024, 3, 11))\nspent = clock.monotonic() - t\n"
        "import numpy as np\nsaid = p.predict(np.zeros((5, 3)) + 0.4, p.features)\n"
        "heavy = [m for m in ('sklearn', 'scipy', 'pandas', 'joblib') if m in sys.modules]\n"
        "print(p.code, said.code, heavy, spent < 0.5)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split(maxsplit=2) == ["OK", "OK", "[] True\n"], done.stdout


def test_today_is_new_yorks_day() -> None:
    from core.market_calendar import NEW_YORK

    assert EnsemblePredictor().session == SystemClock().now().astimezone(NEW_YORK).date()
