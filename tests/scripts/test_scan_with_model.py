"""A champion in a home, and `scan.py` asked: its points are in the scores, and no trouble of its files ends a scan."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from core.clock import SteppedClock
from core.paths import Home
from data.vix import VixStore
from ml_advanced import model_store as store
from ml_advanced.ensemble.blend import Ensemble, Voice
from ml_advanced.ensemble.calibrators import Platt
from ml_advanced.ensemble.familiarity import fit_familiarity
from ml_advanced.features import fingerprint
from ml_advanced.training import Recipe, fit_member
from scripts import ml_data, teaching, wiring
from tests.fakes.models import saved
from tests.scripts.test_scan import NAMES, OPEN_GATE, SESSION, scan

OFF = f"{OPEN_GATE}ml: {{enabled: false}}\n"
EARNED, POINTS = 0.5, 20.0


@dataclass(frozen=True)
class Place:
    folder: Path
    off: dict[str, dict[str, Any]]  # the picks without a model, by symbol

    def picks(self, config: str = "open.yaml") -> dict[str, dict[str, Any]]:
        return picks_of(self.folder, config)


def picks_of(folder: Path, config: str) -> dict[str, dict[str, Any]]:
    done = scan(folder, "--json", "--deterministic", "--top3", "--as-of", SESSION, KOBE_CONFIG=str(folder / config))
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return {pick["symbol"]: pick for pick in json.loads(done.stdout)["picks"]}


def champion(folder: Path) -> None:
    """A logistic member that has learned from the signals of this very market, before the session."""
    patch = pytest.MonkeyPatch()
    patch.setenv("KOBE_HOME", str(folder))
    clock = SteppedClock(datetime(2026, 10, 22, 22, tzinfo=UTC))
    with wiring.closing(wiring.open_context(argparse.Namespace(json=True), clock=clock)) as context:
        span = {"start": date(2025, 1, 2), "end": date(2026, 9, 30)}
        made = ml_data.made(context, argparse.Namespace(bars=None, universe=None, cap=NAMES, **span))
        vix = VixStore(context.home.cache, context.source_name)
        for day in context.calendar.sessions_between(date(2026, 10, 1), date(2026, 10, 21)):
            vix.put(day, made.loaded.vix[day], context.source_name)  # a new home learns them one a day
        data, _ = teaching.usable(context, made.dataset)
        voice = Voice("logistic", fit_member("logistic", Recipe(), 1, data.x, data.y), Platt(1.0, 0.0), 1.0)
        ensemble = Ensemble(data.names, (voice,), fit_familiarity(data.x))
        learned = {"learned_until": date(2026, 10, 2), "expires": date(2027, 3, 1), "data": {"simulated": True}}
        saved(Home(folder), ensemble=ensemble, features_meaning=fingerprint(), earned=EARNED, at=clock.now(), **learned)
    patch.undo()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("home with a champion")
    (folder / "open.yaml").write_text(OPEN_GATE, encoding="utf-8")
    (folder / "off.yaml").write_text(OFF, encoding="utf-8")
    off = picks_of(folder, "off.yaml")
    champion(folder)
    return Place(folder, off)


def model_points(pick: dict[str, Any]) -> float:
    (told,) = [r for r in pick["reasons"] if r.startswith("MODEL_") and r[6:7].isdigit()]
    return float(told[6:])


def test_the_points_of_a_champion_are_in_the_scores_of_a_scan_and_one_that_cannot_be_believed_has_none(
    place: Place,
) -> None:
    """One test: making the home takes as long as all of it, and every worker that had a part would make its own."""
    with_model = place.picks()
    assert {model_points(pick) for pick in place.off.values()} == {0.0}
    assert len(with_model) == 3
    for symbol, pick in with_model.items():
        points = model_points(pick)
        assert 0 < points < EARNED * POINTS, "its probability, of the part that it earned"
        if symbol in place.off:
            assert pick["score"] - place.off[symbol]["score"] == pytest.approx(points, abs=0.06)
    assert with_model.keys() & place.off.keys() and len({model_points(pick) for pick in with_model.values()}) > 1
    assert place.picks() == with_model, "the same bytes of the same model"
    for harm, code in ((_corrupt, "MODEL_HASH_DIFFERS"), (_unseal, "MODEL_SEAL_BROKEN")):
        _earns_nothing_and_the_scan_goes_on(place, harm, code)


def _corrupt(folder: Path) -> None:
    path = next((folder / "models").glob("m-*")) / store.ARRAYS
    path.write_bytes(bytes(path.stat().st_size))


def _unseal(folder: Path) -> None:
    model = next((folder / "models").glob("m-*"))
    (model / store.MANIFEST).write_text("{}", encoding="utf-8")


def _earns_nothing_and_the_scan_goes_on(place: Place, harm: Callable[[Path], None], code: str) -> None:
    model = next((place.folder / "models").glob("m-*"))
    kept = {path: path.read_bytes() for path in model.iterdir()}
    try:
        harm(place.folder)
        found = place.picks()
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert found.keys() == place.off.keys()
    for symbol, pick in found.items():
        assert code in pick["reasons"] and pick["score"] == place.off[symbol]["score"]
