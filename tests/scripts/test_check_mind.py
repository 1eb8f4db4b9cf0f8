"""Preflight's words on memory, self model and reflection, and scripts/memory.py on the same home."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cognitive.calibration import Calibration, calibrate
from cognitive.learnings import LearningBook
from cognitive.memory_file import Remembered
from scripts import check_mind, checks, memory
from scripts.check_look import Look
from tests.cognitive.test_learnings import proposed, told
from tests.fakes.lives import Life
from tests.fakes.minds import an_episode

BOUNDS = (0.05, 0.95)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def lived(root: Path, trades: int = 6) -> Life:
    life = Life(root)
    for number in range(trades):
        life.review(f"S{number}", confidence=0.6)
        life.wait(seconds=1)
        life.enter(life.decision(f"S{number}"))
        life.leave(life.decision(f"S{number}"), "53" if number % 2 else "47")
        life.wait(minutes=1)
    life.remembering().follow(life.clock.now().date(), closing=True)
    return life


def looking(life: Life) -> Look:
    return Look(life.context)


# ---------------------------------------------------------------- the runbook's words
def test_memory_is_ok_in_the_runbooks_words(tmp_path: Path) -> None:
    found = check_mind.episodic_memory(looking(lived(tmp_path)))
    assert (found.found, found.problem, found.warning) == (
        "6 < 2000 episodes, 6 with an outcome, no corruption", None, "",
    )  # fmt: skip


def test_L27_a_damaged_memory_is_a_warning_and_never_a_stop(tmp_path: Path) -> None:
    life = lived(tmp_path)
    life.file.write_bytes(life.file.read_bytes()[:-30])
    found = check_mind.episodic_memory(looking(life))
    assert (found.problem, found.warning) == (None, "MEMORY_DAMAGED") and "6 < 2000" in found.found
    life.file.unlink()
    assert check_mind.episodic_memory(looking(life)).warning == ""


def test_a_memory_that_is_not_what_the_journal_tells_is_found(tmp_path: Path) -> None:
    from dataclasses import replace

    from cognitive.memory_file import read_memory, write_memory

    life = lived(tmp_path)
    kept = read_memory(life.file)
    assert kept is not None
    name = life.decision("S1")
    write_memory(life.file, replace(kept, episodes={**kept.episodes, name: replace(kept.episodes[name], score=99.0)}))
    assert check_mind.episodic_memory(looking(life)).warning == "MEMORY_DIFFERS"


def test_at_its_bound_it_says_that_the_oldest_are_forgotten() -> None:
    full = Remembered(most=1, forgotten=True, episodes={"d": an_episode(1)})
    found = check_mind.memory_whole(full, "", differs=False)
    assert found.found == "1 = 1 episodes, 0 with an outcome, no corruption; the oldest are forgotten"


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (Calibration(n=0, code="NO_FORECASTS"), "UNKNOWN:NO_FORECASTS", "no confidence has come"),
        (calibrate([(0.6, k % 5 < 3) for k in range(20)], bins=10), "", "within bounds [0.05, 0.95]"),
        (calibrate([(0.96, True)] * 20, bins=10), "FAIL:CALIBRATION_OUT_OF_BOUNDS", "out of bounds"),
        (calibrate([(0.04, False)] * 20, bins=10), "FAIL:CALIBRATION_OUT_OF_BOUNDS", "out of bounds"),
        (calibrate([(0.7, k % 5 < 1) for k in range(60)], bins=10), "CALIBRATION_OFF", "standard errors off"),
    ],
)
def test_L29_calibration_is_within_bounds_or_says_how_far_it_is_off(found: Calibration, code: str, words: str) -> None:
    finding = check_mind.calibrated(found, BOUNDS, 4.0)
    told_code = f"FAIL:{finding.problem.code}" if finding.problem else finding.warning
    assert (f"UNKNOWN:{told_code}" if finding.unknown else told_code) == code
    assert words in finding.found


def test_L29_a_calibration_out_of_bounds_fails_a_persons_preflight_and_lets_the_runner_look_after_what_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = check_mind.calibrated(calibrate([(0.99, True)] * 20, bins=10), BOUNDS, 4.0)
    mine = checks.Check("self_model", checks.Group.COGNITIVE, "", lambda look: stuck)
    monkeypatch.setattr(checks, "CHECKS", (mine,))
    (found,) = checks.of_the_mind(Life(tmp_path).context)
    assert (found.problem, found.warning) == (None, "CALIBRATION_OUT_OF_BOUNDS")
    assert checks.run(looking(Life(tmp_path)), [mine])[0].problem is not None


BOOK = LearningBook(tried=40, looks=2).after("learning_proposed", proposed()).after(
    *told("learning_adopted", shrink="0.7")
)  # fmt: skip


@pytest.mark.parametrize(
    ("overfitting", "outcomes", "enabled", "code", "words"),
    [
        ([], 50, True, "", "1 adopted, 0 candidate, 0 retired; 40 hypotheses tried on 50 outcomes; learnings not"),
        (["L001"], 50, True, "LEARNING_OVERFITTED", "do not hold any more: L001"),
        ([], 50, False, "REFLECTION_OFF", "off in the settings"), ([], 0, True, "NO_OUTCOMES", "no outcome"),
    ],
)  # fmt: skip
def test_reflection_is_ok_in_the_runbooks_words(
    overfitting: list[str], outcomes: int, enabled: bool, code: str, words: str
) -> None:
    found = check_mind.learned(BOOK, overfitting, outcomes, enabled=enabled)
    assert found.problem is None and found.warning == code and words in found.found
    assert found.unknown is (code == "NO_OUTCOMES")


def test_all_three_are_asked_of_a_home_and_of_an_empty_one(tmp_path: Path) -> None:
    names = ("episodic_memory", "self_model", "reflection")
    asked = [checks.BY_NAME[name] for name in names]
    full = checks.run(looking(lived(tmp_path / "full")), asked)
    assert [f.problem for f in full] == [None] * 3 and "said 0.60, won 0.50" in full[1].found
    empty = checks.run(looking(Life(tmp_path / "empty")), asked)
    assert [f.warning for f in empty] == ["", "NO_FORECASTS", "NO_OUTCOMES"]


# ---------------------------------------------------------------- the command
@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    life = lived(tmp_path)
    life.journal.append("learning_proposed", proposed())
    life.journal.append(*told("learning_adopted", shrink="0.7"))
    return life


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = memory.main([*words])
    return code, capsys.readouterr().out


def test_memory_tells_what_it_holds_and_writes_nothing(home: Life, capsys: pytest.CaptureFixture[str]) -> None:
    before = home.file.read_bytes()
    code, text = asked(capsys, "status", "--json")
    facts = json.loads(text)
    assert (code, facts["episodes"], facts["outcomes"], facts["standing"]) == (0, 6, 6, {"CLOSED": 6})
    assert facts["beliefs"][0]["strategy"] == "ibs_rsi" and facts["beliefs"][0]["wins"] == 3
    assert json.loads(asked(capsys, "calibration", "--json")[1])["confidence"]["n"] == 6
    (row,) = json.loads(asked(capsys, "learnings", "--json")[1])["learnings"]
    assert (row["status"], row["shrink"]) == ("adopted", "0.7")
    for action in ("status", "calibration", "learnings"):
        code, text = asked(capsys, action)
        assert code == 0 and len(text.splitlines()) > 1
    assert home.file.read_bytes() == before


def test_similar_is_told_as_known_when_the_decision_was_made(home: Life, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = asked(capsys, "similar", home.decision("S5"), "--json")
    facts = json.loads(text)
    assert (code, facts["n"]) == (0, 5)
    assert home.decision("S5") not in {e["decision_id"] for e in facts["episodes"]}
    assert "5 most like it" in asked(capsys, "similar", home.decision("S5"))[1]
    code, text = asked(capsys, "similar", home.decision("S0"))
    assert code == 1 and "NOTHING_SIMILAR" in text


@pytest.mark.parametrize("words", [("similar",), ("status", "x"), ("similar", "20240305-ibs_rsi-NONE")])
def test_a_question_that_cannot_be_is_refused(home: Life, words: tuple[str, ...]) -> None:
    from core.errors import UsageError

    with pytest.raises(UsageError):
        memory.main([*words])


def test_an_empty_home_is_told_as_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "new"))
    assert asked(capsys, "status") == (0, "0 of at most 2000 episodes\nno outcome yet\n")
    assert "none has come" in asked(capsys, "calibration")[1]
    assert "nothing is under test" in asked(capsys, "learnings")[1]
