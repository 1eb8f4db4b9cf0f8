"""A model or a self model that is broken stops entries by itself; exits pass, and a person resumes. P55: also after a
restart."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cognitive.circuit_breakers import FILE, Lock
from core.domain import ExitReason
from core.ports import Opinion
from scripts.breaking import BreakerWatch
from scripts.cognition import finite_opinion
from tests.fakes.scans import Scene, a_plan, decision, due, hold, scene
from tests.fakes.trading import TODAY
from tests.scripts.test_breaking import entered, watch_of


def reviewed(made: Scene, count: int, opinion: Callable[[int], Opinion], confidence: float | None = None) -> None:
    """So many decisions, as a runner's scans record them."""
    rows = []
    for k in range(count):
        told = finite_opinion(opinion(k))
        rows.append({
            "decision_id": f"20240201-ibs_rsi-S{k}", "symbol": f"S{k}", "strategy": "ibs_rsi", "score": 60.0,
            "parts": {}, "numbers": {}, "llm": None, "without_llm": {"scale": "1", "codes": []},
            "opinion": {"probability": told.probability, "code": told.code, "model": "m1"},
            "review": {"scale": "1", "codes": [], "confidence": confidence},
        })  # fmt: skip
    regime = {"label": "calm", "session": "2024-03-04", "since": None, "probability": None, "source": "rule"}
    body: dict[str, Any] = {"run": "2024-03-05T09:35", "session": "2024-03-04", "regime": regime, "vix": 15.0}
    made.world.desk.journal.append("signals_reviewed", {**body, "signals": rows})


def broken(root: Path, count: int, opinion: Callable[[int], Opinion], confidence: float | None = None) -> Any:
    """(scene with something held, watch, the locks after the look)"""
    made = scene(root, "PICKA")
    hold(made, "DUE")
    reviewed(made, count, opinion, confidence)
    watch = watch_of(made)
    return made, watch, watch.look(TODAY)


def entries_refused_and_exits_made(made: Scene, code: str) -> None:
    made.planner.exits_ = [(decision("DUE"), ExitReason.TIME)]
    assert made.session.run(due("10:00")).code == code
    assert entered(made) == [] and not made.ledger().trades[decision("DUE")].is_open


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 7.0])
def test_L05_predictions_that_are_no_number_open_the_breaker_after_three(tmp_path: Path, bad: float) -> None:
    _, _, two = broken(tmp_path / "two", 2, lambda k: Opinion(bad, "OK", "m1"))
    assert two == ()
    made, _, locks = broken(tmp_path / "three", 3, lambda k: Opinion(bad, "OK", "m1"))
    assert [lock.name for lock in locks] == ["confidence_collapse"]
    entries_refused_and_exits_made(made, "BREAKER_CONFIDENCE_COLLAPSE")


def test_L06_the_same_prediction_for_everything_opens_the_breaker_with_the_variance_shown(tmp_path: Path) -> None:
    _, _, moving = broken(tmp_path / "moving", 20, lambda k: Opinion(0.5 + 0.01 * (k % 9), "OK", "m1"))
    assert moving == ()
    made, _, locks = broken(tmp_path / "constant", 20, lambda k: Opinion(0.5, "OK", "m1"))
    assert [lock.name for lock in locks] == ["confidence_collapse"]
    assert "variance of 0" in locks[0].reason and locks[0].numbers["variance"] == 0.0
    entries_refused_and_exits_made(made, "BREAKER_CONFIDENCE_COLLAPSE")


@pytest.mark.parametrize(("confidence", "opens"), [(0.96, True), (0.04, True), (0.95, False), (0.05, False)])
def test_L29_a_self_model_outside_its_bounds_stops_entries_until_a_person_resumes(
    tmp_path: Path, confidence: float, opens: bool
) -> None:
    made, watch, locks = broken(tmp_path, 20, lambda k: Opinion(None, "MODEL_ABSENT"), confidence)
    assert [lock.name for lock in locks] == (["calibration_drift"] if opens else [])
    if not opens:
        return
    assert locks[0].until is None, "no time ends it"
    entries_refused_and_exits_made(made, "BREAKER_CALIBRATION_DRIFT")
    watch.breakers.clear("calibration_drift", reason="looked at the model", by="person")
    assert watch.look(TODAY) == (), "not again on the same evidence"
    made.planner.plan_ = a_plan("PICKA")
    made.session.run(due("10:30"))
    assert entered(made) == ["PICKA"]


def test_P55_a_tripped_breaker_is_not_forgotten_at_a_restart(tmp_path: Path) -> None:
    made, _, locks = broken(tmp_path, 20, lambda k: Opinion(0.5, "OK", "m1"))
    assert locks
    for spoil in ("removed", "damaged"):
        file = tmp_path / "state" / FILE
        file.unlink() if spoil == "removed" else file.write_bytes(b"\x00{")
        made.restart()
        again: BreakerWatch = watch_of(made)
        standing: tuple[Lock, ...] = again.look(TODAY)
        assert [lock.name for lock in standing] == ["confidence_collapse"], spoil
        assert again.locks().everything == "BREAKER_CONFIDENCE_COLLAPSE"
    entries_refused_and_exits_made(made, "BREAKER_CONFIDENCE_COLLAPSE")
