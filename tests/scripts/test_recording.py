"""What is kept of a day is telemetry: it comes after the record of its scan, and whatever it raises stops no trade."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.clock import SystemClock
from core.errors import KobeError
from core.journal import Journal
from data.seen import SeenBars
from scripts.recording import Recorder, opinions_value, picks_value, reviewer_of, reviews_value, scorer_of
from tests.fakes.recorded_day import DAY, record
from tests.fakes.small_scan import Critic, Model, scan


def told_in(home: Path) -> list[dict[str, Any]]:
    lines = (home / "logs" / "errors.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == "inputs_not_recorded"]


def test_P23_bars_that_cannot_be_kept_stop_no_scan_and_are_written_after_it_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("config.pin.code_sha256", lambda: "then")
    journal = Journal(tmp_path / "home" / "state" / "hash_chain.jsonl", SystemClock())
    at: list[tuple[int, str]] = []  # per file: scans on record, and the newest record

    def broken(*_: Any) -> Path:
        found = [record.kind for record in journal.records()]
        at.append((found.count("scan_run"), found[-1]))
        raise KeyError("symbols")

    monkeypatch.setattr(SeenBars, "write", broken)
    world = record(tmp_path, monkeypatch)
    kinds = [found.kind for found in journal.records()]
    runs = [found.body for found in journal.kinds("scan_run")]
    assert [body["run"] for body in runs][:2] == [f"{DAY}T09:35", f"{DAY}T15:55"] and "run_failed" not in kinds
    assert runs[0]["code"] == "OK" and runs[0]["intents"] == 6  # three entries, three stops
    assert at == [(1, "scan_run"), (2, "scan_run")], "the orders have left, and that they have is on record"
    assert [row["detail"] for row in told_in(world.home)] == ["KeyError('symbols')"] * len(at)


@pytest.mark.parametrize(
    "error", [OSError("full"), KeyError("x"), AttributeError("y"), KobeError("z"), ZeroDivisionError()]
)
def test_P21_P23_a_bug_in_the_recorder_is_told_and_goes_no_further(error: Exception) -> None:
    def broken() -> None:
        raise error

    context: Any = SimpleNamespace(home=SimpleNamespace(logs=Path("logs")))
    Recorder(context, SimpleNamespace())._guarded(broken)  # type: ignore[arg-type]


def test_an_operator_who_interrupts_is_heard() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    context: Any = SimpleNamespace(home=SimpleNamespace(logs=Path("logs")))
    with pytest.raises(KeyboardInterrupt):
        Recorder(context, SimpleNamespace())._guarded(interrupted)  # type: ignore[arg-type]


def test_what_model_and_reviewer_said_comes_back_from_the_row_to_the_byte() -> None:
    then = scan(scorer=Model(0.7316), reviewer=Critic("0.25"))
    row = json.loads(json.dumps({"opinions": opinions_value(then), "reviews": reviews_value(then)}))
    again = scan(scorer=scorer_of(row), reviewer=reviewer_of(row))
    assert picks_value(again) == picks_value(then) != picks_value(scan())
    assert (again.opinions, again.reviewed) == (then.opinions, then.reviewed)


def test_a_row_of_before_there_was_a_reviewer_asks_nobody() -> None:
    assert scorer_of({}) is None and reviewer_of({}) is None
    assert scorer_of({"opinions": None}) is None and reviewer_of({"reviews": None}) is None


def test_a_signal_that_the_recorded_reviewer_never_saw_is_decided_by_the_rules_and_says_so() -> None:
    result = scan(reviewer=reviewer_of({"reviews": {}}))
    assert [pick.signal for pick in result.picks] == [pick.signal for pick in scan().picks]
    assert all("REVIEW_NOT_RECORDED" in pick.reasons for pick in result.picks)
