"""Log files begin anew and old ones go; what proves a decision stays, and the journal is never looked at."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core import log_rotation, logs
from core.clock import SystemClock
from core.log_cleaning import plan
from core.log_rotation import DAY_FILE, Rotation
from core.market_calendar import NEW_YORK
from core.paths import Home

NOW = datetime(2026, 11, 26, 15, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def put(path: Path, age: timedelta, content: str = "x\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    at = (NOW - age).timestamp()
    os.utime(path, (at, at))
    return path


def line(age: timedelta) -> str:
    return json.dumps({"at": f"{NOW - age:%Y-%m-%dT%H:%M:%S.000000Z}", "event": "x"}, separators=(",", ":")) + "\n"


def going(folder: Path, days: int = 30, evidence: int = 400) -> dict[str, bool]:
    found = plan(folder, NOW, older_than=days * DAY, evidence=evidence * DAY)
    return {old.path.relative_to(folder).as_posix(): old.again for old in found}


# ---------------------------------------------------------------- what may go
def test_rotated_files_go_by_their_last_line_and_the_limit_itself_stays(tmp_path: Path) -> None:
    second = timedelta(seconds=1)
    put(tmp_path / "events.jsonl.2026-10-27", 30 * DAY)
    put(tmp_path / "events.jsonl.2026-10-26", 30 * DAY + second)
    put(tmp_path / "errors.jsonl.2026-10-26-2", 31 * DAY)
    put(tmp_path / "trades.jsonl.1", 31 * DAY)
    assert going(tmp_path) == dict.fromkeys(
        ["errors.jsonl.2026-10-26-2", "events.jsonl.2026-10-26", "trades.jsonl.1"], False
    )


def test_a_current_file_with_old_lines_begins_anew_and_is_not_lost(tmp_path: Path) -> None:
    put(tmp_path / "events.jsonl", timedelta(0), line(31 * DAY) + line(timedelta(0)))
    put(tmp_path / "errors.jsonl", timedelta(0), line(29 * DAY))
    put(tmp_path / "cognitive_decisions.jsonl", 40 * DAY, line(40 * DAY))
    put(tmp_path / "strange.jsonl", 90 * DAY, "no line of ours\n")
    assert going(tmp_path) == {"events.jsonl": True, "cognitive_decisions.jsonl": True}


def test_what_is_not_known_or_not_a_log_stays(tmp_path: Path) -> None:
    for name in ("journal_noted.json", "daily_picks.csv", "notes.txt", "events.jsonl.bak", "verdicts/readme",
                 "verdicts/2020-13-01.jsonl", "inputs/bars/polygon/x.bars", "other/2020-01-02.jsonl"):  # fmt: skip
        put(tmp_path / name, 2000 * DAY)
    assert going(tmp_path) == {}
    assert going(tmp_path / "absent") == {}


def test_words_of_the_language_model_go_with_the_logs(tmp_path: Path) -> None:
    put(tmp_path / "llm" / "2026-10-01.jsonl", 50 * DAY)
    put(tmp_path / "llm" / "2026-10-02.jsonl", 29 * DAY)
    put(tmp_path / "llm" / "notes.jsonl", 50 * DAY)
    assert going(tmp_path) == {"llm/2026-10-01.jsonl": False}


def test_briefings_go_by_the_later_of_their_day_and_their_last_change(tmp_path: Path) -> None:
    for name in ("2026-10-01-pregame.md", "2026-10-01-postgame.html", "2026-10-01-other.md", "notes.md"):
        put(tmp_path / "briefings" / name, 50 * DAY)
    put(tmp_path / "briefings" / "2026-10-02-halftime.md", 29 * DAY)
    put(tmp_path / "verdicts" / "2025-10-02-pregame.md", 410 * DAY)  # not there: not ours
    assert set(going(tmp_path)) == {"briefings/2026-10-01-pregame.md", "briefings/2026-10-01-postgame.html"}
    assert going(tmp_path, days=60) == {}


def test_P12_evidence_of_decisions_is_kept_as_long_as_the_setting_says(tmp_path: Path) -> None:
    """The later of the day in the name and the last change: a replay writes the verdicts of old days today."""
    for folder in ("verdicts", "inputs"):
        put(tmp_path / folder / "2026-10-01.jsonl", 56 * DAY)
        put(tmp_path / folder / "2025-10-20.jsonl", 402 * DAY)
        put(tmp_path / folder / "2024-03-05.jsonl", timedelta(0))
    assert going(tmp_path) == {"inputs/2025-10-20.jsonl": False, "verdicts/2025-10-20.jsonl": False}
    assert going(tmp_path, days=500) == {}, "older-than beyond the evidence keeps both"


def test_P12_bars_of_a_month_go_together_and_only_when_the_month_is_over_long_enough(tmp_path: Path) -> None:
    first = put(tmp_path / "inputs/bars/polygon/2025-09-02-0123456789abcdef.bars", 450 * DAY)
    last = put(tmp_path / "inputs/bars/polygon/2025-09-30-0123456789abcdef.bars", 422 * DAY)
    put(tmp_path / "inputs/bars/polygon/2025-10-31-0123456789abcdef.bars", 391 * DAY)
    assert list(going(tmp_path)) == [p.relative_to(tmp_path).as_posix() for p in (first, last)]
    os.utime(last)  # written again just now: the whole month stays
    assert going(tmp_path) == {}


def test_P12_a_long_value_stays_while_any_kept_day_names_it(tmp_path: Path) -> None:
    named, orphan, young = "a" * 64, "b" * 64, "c" * 64
    for name, age in ((named, 500), (orphan, 500), (young, 100)):
        put(tmp_path / "inputs/blobs" / f"{name[:32]}.json.gz", age * DAY)
    put(tmp_path / "inputs/2026-11-20.jsonl", 6 * DAY, json.dumps({"settings": named}) + "\n")
    put(tmp_path / "inputs/2025-01-20.jsonl", 600 * DAY, json.dumps({"settings": orphan}) + "\n")
    assert list(going(tmp_path)) == ["inputs/2025-01-20.jsonl", f"inputs/blobs/{orphan[:32]}.json.gz"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_are_not_looked_at(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", 90 * DAY)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events.jsonl.2020-01-01").symlink_to(outside)
    assert going(tmp_path / "logs") == {}


# ---------------------------------------------------------------- beginning anew
def configured(root: Path, monkeypatch: pytest.MonkeyPatch, rotation: Rotation) -> Path:
    monkeypatch.setattr(logs, "_target", logs._target)
    monkeypatch.setattr(logs, "_rotation", logs._rotation)
    home = Home(root)
    home.logs.mkdir(exist_ok=True)
    logs.configure(home, SystemClock(), run_id="r", mode="paper", rotation=rotation)
    return home.logs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return configured(tmp_path, monkeypatch, Rotation(most_bytes=2000))


def days_ago(path: Path, days: int, content: str = "{}\n") -> Path:
    path.write_text(content, encoding="utf-8")
    at = SystemClock().now().timestamp() - 86_400 * days
    os.utime(path, (at, at))
    return path


def named(days: int) -> str:
    at = SystemClock().now() - timedelta(days=days)
    return f"{at.astimezone(NEW_YORK):%Y-%m-%d}"


def test_a_file_above_the_size_begins_anew_and_one_at_the_size_does_not(folder: Path) -> None:
    (folder / "events.jsonl").write_bytes(b"x" * 2000)
    assert logs.rotate() == []
    (folder / "events.jsonl").write_bytes(b"x" * 2001)
    (moved,) = logs.rotate()
    assert moved.name == f"events.jsonl.{named(0)}" and not (folder / "events.jsonl").exists()
    (folder / "events.jsonl").write_bytes(b"y" * 2001)
    (again,) = logs.rotate()
    assert again.name == f"{moved.name}-2" and moved.read_bytes() == b"x" * 2001


def test_yesterdays_file_begins_anew_and_an_empty_one_does_not(folder: Path) -> None:
    days_ago(folder / "events.jsonl", 1)
    days_ago(folder / "errors.jsonl", 1, "")
    assert [p.name for p in logs.rotate()] == [f"events.jsonl.{named(1)}"]
    logs.event("x")
    assert logs.rotate() == [], "today's stays"


def test_a_line_of_just_after_midnight_does_not_keep_yesterdays_file(folder: Path) -> None:
    """A runner writes every minute: the last change is always today, the day that the file began with is not."""
    (folder / DAY_FILE).write_text(named(1))
    logs.event("a line of yesterday, and one of today")
    assert [p.name for p in logs.rotate()] == [f"events.jsonl.{named(1)}"]
    assert (folder / DAY_FILE).read_text().strip() == named(0)
    (folder / DAY_FILE).write_text(named(9))
    days_ago(folder / "errors.jsonl", 9)
    logs.event("x")
    assert sorted(p.name for p in logs.rotate()) == [f"errors.jsonl.{named(9)}", f"events.jsonl.{named(1)}-2"]


def test_a_damaged_note_of_the_day_falls_back_to_the_last_change(folder: Path) -> None:
    (folder / DAY_FILE).write_text("never")
    days_ago(folder / "events.jsonl", 3)
    assert [p.name for p in logs.rotate()] == [f"events.jsonl.{named(3)}"]


def test_daily_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = configured(tmp_path, monkeypatch, Rotation(daily=False))
    days_ago(folder / "events.jsonl", 5)
    assert logs.rotate() == [] and (folder / "events.jsonl").exists()


def test_no_line_is_lost_while_writers_write_and_the_file_begins_anew(folder: Path) -> None:
    """Four writers, a thousand lines, a rename whenever there is something to rename."""
    stop = threading.Event()

    def write(writer: int) -> None:
        for n in range(250):
            logs.event("line", writer=writer, n=n)

    def rename() -> None:
        while not stop.is_set():
            log_rotation.rotate(folder, ("events.jsonl",), Rotation(most_bytes=500))

    writers = [threading.Thread(target=write, args=(w,)) for w in range(4)]
    renamer = threading.Thread(target=rename)
    for thread in (renamer, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    renamer.join()
    files = list(folder.glob("events.jsonl*"))
    rows = [json.loads(text) for file in files for text in file.read_text().splitlines()]
    assert len(files) > 2
    assert {(row["writer"], row["n"]) for row in rows} == {(w, n) for w in range(4) for n in range(250)}
    assert len(rows) == 1000


def test_P30_a_file_that_is_held_is_tried_again_and_then_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tries = put(folder / "events.jsonl", timedelta(0)), {"n": 0}
    real = Path.rename

    def held(self: Path, target: Path) -> Path:
        tries["n"] += 1
        if tries["n"] < 3:
            raise PermissionError(13, "in use")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", held)
    assert log_rotation.begin_anew(path) is not None and tries["n"] == 3
    tries["n"] = -100
    put(folder / "events.jsonl", timedelta(0))
    assert log_rotation.begin_anew(path) is None and path.exists()


def test_a_reader_that_follows_a_file_finds_the_rest_of_the_renamed_one(folder: Path) -> None:
    """The sidecar's tail looks for names that begin with the file's own."""
    from execution.observe.line_tail import JsonTail

    tail = JsonTail(folder / "events.jsonl")
    logs.event("first")
    assert [row["event"] for row in tail.new()] == ["first"]
    logs.event("second")
    (folder / DAY_FILE).write_text(named(1))
    assert len(logs.rotate()) == 1
    logs.event("third")
    assert [row["event"] for row in tail.new()] == ["second", "third"]
