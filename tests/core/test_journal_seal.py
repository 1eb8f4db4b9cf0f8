"""Sealed months: one chain in several files, whatever crashes, and whoever reads or appends meanwhile."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core import logs
from core.clock import SteppedClock, SystemClock
from core.errors import StateCorrupt, StateLocked
from core.files import locked
from core.journal import START, Journal, head_path, sealed_segments, segments_folder, verify
from core.journal_record import SEALED, Record
from core.journal_seal import copy_months, plan_sealing, untold
from tests.fakes.journals import ACTIVE, Chain, fill, head_of, journal_at, spelled
from tests.fakes.power_cut import Disk, restore


def ours(records: list[Record]) -> list[Record]:
    return [r for r in records if r.kind == "order_intended"]


def names(journal: Journal) -> list[str]:
    return sorted(p.name for p in segments_folder(journal.path).glob("*.jsonl"))


# ---------------------------------------------------------------- what is sealed
def test_completed_months_leave_the_active_file_and_the_chain_runs_on(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=3, each=4)
    before = list(journal.records())
    moved = journal.seal()
    assert names(journal) == [s.file for s in moved] == ["hash_chain.2024-01.jsonl", "hash_chain.2024-02.jsonl"]
    after = list(journal.records())
    assert after[:12] == before and [r.kind for r in after[12:]] == [SEALED, SEALED]
    assert [r.seq for r in after] == list(range(1, 15))
    assert all(b.prev == a.hash for a, b in pairwise(after))
    assert journal.append("x", {}).seq == 15
    found = verify(journal.path)
    assert (found.ok, found.records, found.segments) == (True, 15, 2)
    assert [r.seq for r in journal.kinds("x", SEALED)] == [13, 14, 15]


def test_the_record_of_a_sealing_describes_the_file(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=3)
    before = list(journal.records())
    journal.seal()
    (told,) = journal.kinds(SEALED)
    content = (segments_folder(journal.path) / "hash_chain.2024-01.jsonl").read_bytes()
    assert told.body == {
        "file": "hash_chain.2024-01.jsonl", "first_seq": 1, "last_seq": 3, "prev": "0" * 64, "hash": before[2].hash,
        "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    (segment,) = sealed_segments(journal.path)
    assert segment.body() == told.body


def test_there_is_nothing_to_seal_within_a_month_and_sealing_twice_changes_nothing(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    assert journal.seal() == () == sealed_segments(journal.path)
    fill(journal, clock, months=1, each=3)
    assert journal.seal() == () and not segments_folder(journal.path).exists()
    fill(journal, clock, months=2, each=3)
    assert len(journal.seal()) == 1
    before = Chain.load(journal.path)
    assert journal.seal() == () and Chain.load(journal.path) == before


@pytest.mark.parametrize(
    ("last", "sealed"),
    [("2024-02-01T04:59:59", 0), ("2024-02-01T05:00:00", 1)],
    ids=["still January in New York", "February in New York"],
)
def test_a_month_ends_at_midnight_in_new_york(tmp_path: Path, last: str, sealed: int) -> None:
    journal, clock = journal_at(tmp_path)
    journal.append("order_intended", {})
    clock.set(datetime.fromisoformat(last).replace(tzinfo=UTC))
    journal.append("order_intended", {})
    assert len(journal.seal()) == sealed


def test_a_clock_that_steps_back_opens_no_second_file_for_a_month(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=2)
    clock.advance(timedelta(days=-40))
    journal.append("order_intended", {"late": "January"})
    clock.advance(timedelta(days=40))
    journal.append("order_intended", {"again": "February"})
    journal.seal()
    assert names(journal) == ["hash_chain.2024-01.jsonl"]
    journal.append("order_intended", {"late": "January, after sealing"})
    fill(journal, clock, months=3, each=1)
    journal.seal()
    assert names(journal) == ["hash_chain.2024-01.jsonl", "hash_chain.2024-02.jsonl"]
    assert verify(journal.path).ok and len(ours(list(journal.records()))) == 10


def test_sealing_month_after_month_keeps_the_active_file_short(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    for months in range(1, 15):
        fill(journal, clock, months, each=1)
        journal.seal()
    assert len(journal.path.read_bytes().splitlines()) < 4 and len(names(journal)) == 13
    found = verify(journal.path)
    assert found.ok and found.segments == 13 == len(sealed_segments(journal.path))
    assert len(ours(list(journal.records()))) == sum(range(1, 15))


def test_a_damaged_journal_is_not_moved_around(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=3, each=3)
    journal.path.write_bytes(journal.path.read_bytes().replace(b'"i":1', b'"i":7', 1))
    before = Chain.load(journal.path)
    with pytest.raises(StateCorrupt, match="record 1"):
        journal.seal()
    assert Chain.load(journal.path) == before and names(journal) == []


def test_a_file_of_that_name_with_other_bytes_is_neither_used_nor_overwritten(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=3)
    segments_folder(journal.path).mkdir()
    there = segments_folder(journal.path) / "hash_chain.2024-01.jsonl"
    other, other_clock = journal_at(tmp_path / "other", run_id="r2")
    fill(other, other_clock, months=1, each=3)
    there.write_bytes(other.path.read_bytes())
    before = journal.path.read_bytes()
    with pytest.raises(StateCorrupt, match="differ"):
        journal.seal()
    assert (journal.path.read_bytes(), there.read_bytes()) == (before, other.path.read_bytes())
    assert not verify(journal.path).ok
    with pytest.raises(StateCorrupt, match="differ"):
        list(journal.records())


def test_a_copy_that_changed_after_the_plan_was_made_stops_the_last_step(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=3)
    plan = plan_sealing(journal.path)
    assert copy_months(journal.path, plan)
    copy = segments_folder(journal.path) / "hash_chain.2024-01.jsonl"
    copy.write_bytes(copy.read_bytes().replace(b"10.10", b"10.11"))
    before = journal.path.read_bytes()
    with pytest.raises(StateCorrupt, match="differ"):
        untold(journal.path, plan)
    copy.unlink()  # a copy that went away: nothing may be taken out either
    assert untold(journal.path, plan) is None
    assert journal.path.read_bytes() == before


def test_a_record_that_tells_of_another_january_stops_the_sealing(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=3)
    (segment,) = plan_sealing(journal.path).segments
    journal.append(SEALED, {**segment.body(), "sha256": "ab" * 32})
    before = journal.path.read_bytes()
    with pytest.raises(StateCorrupt, match="does not describe"):
        journal.seal()
    assert journal.path.read_bytes() == before


def test_housekeeping_that_cannot_be_done_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=3)
    told: list[str] = []
    monkeypatch.setattr(logs, "error_event", lambda name, **more: told.append(name))
    (tmp_path / "state" / "journal").write_bytes(b"a file in the folder's place")
    journal.seal_or_postpone()
    assert told == ["journal_sealing_postponed"] and verify(journal.path).ok
    (tmp_path / "state" / "journal").unlink()
    journal.seal_or_postpone()
    assert verify(journal.path).segments == 1


# ---------------------------------------------------------------- crashes
def test_a_kill_or_a_power_cut_at_any_moment_of_a_sealing_loses_nothing(tmp_path: Path) -> None:
    """Reopened, the journal reads as before; then the sealing is finished, or done again by the next one."""
    journal, clock = journal_at(tmp_path / "disk")
    fill(journal, clock, months=3, each=3)
    before = list(journal.records())
    disk = Disk(journal.path.parent)
    with disk.watching():
        journal.seal()
    tried = 0
    for what, picture in disk.pictures():
        tried += 1
        reopened, _ = journal_at(tmp_path / f"after{tried}", start=clock.now())
        restore(picture, reopened.path.parent)
        found = verify(reopened.path)
        assert found.ok or found.torn, what
        assert ours(list(reopened.records())) == before, what
        reopened.repair()
        assert ours(list(reopened.records())) == before, what
        assert list(reopened.path.parent.rglob(".hash_chain.jsonl.*.tmp")) == [], what
        reopened.append("order_intended", {"after": "the crash"})
        reopened.seal()
        assert names(reopened) == ["hash_chain.2024-01.jsonl", "hash_chain.2024-02.jsonl"], what
        assert list(reopened.path.parent.rglob("*.tmp")) == [], what
        found = verify(reopened.path)
        assert found.ok and found.segments == 2 and len(sealed_segments(reopened.path)) == 2, what
        assert len(ours(list(reopened.records()))) == len(before) + 1, what
        assert [r.body["file"] for r in reopened.kinds(SEALED)] == names(reopened), what
        shutil.rmtree(reopened.path.parent.parent)
    assert {when.split()[-1] for when, _ in disk.moments} >= {
        "mkdir",
        "write",
        "fsync",
        "replace",
        "end",
    } and tried > 15


def test_a_start_up_takes_up_a_sealing_that_was_interrupted(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=3)
    whole = journal.path.read_bytes()
    journal.seal()
    sealed = Chain.load(journal.path)
    journal.path.write_bytes(whole + b"".join(sealed.files[-1][1][3:]))  # as before the last step
    assert verify(journal.path).ok and sealed_segments(journal.path) == ()
    Journal(journal.path, clock).repair()
    assert Chain.load(journal.path) == sealed and len(sealed_segments(journal.path)) == 1


def test_a_sealing_interrupted_for_a_month_is_taken_up_with_the_next(tmp_path: Path) -> None:
    """The record that tells of January then lies in February's own file."""
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=3)
    whole = journal.path.read_bytes()
    journal.seal()
    journal.path.write_bytes(whole + b"".join(Chain.load(journal.path).files[-1][1][3:]))
    fill(journal, clock, months=3, each=3)
    journal.seal()
    assert [r.body["file"] for r in journal.kinds(SEALED)] == names(journal)
    assert verify(journal.path).segments == 2 == len(sealed_segments(journal.path))


# ---------------------------------------------------------------- damage to whole files
def _sealed(tmp_path: Path) -> Journal:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=4, each=3)
    journal.seal()
    return journal


def _segment(journal: Journal, month: int) -> Path:
    return segments_folder(journal.path) / f"hash_chain.2024-{month:02d}.jsonl"


def _missing(journal: Journal) -> None:
    _segment(journal, 2).unlink()


def _all_missing(journal: Journal) -> None:
    shutil.rmtree(segments_folder(journal.path))


def _swapped(journal: Journal) -> None:
    one, two = _segment(journal, 2), _segment(journal, 3)
    one.rename(one.with_suffix(".x"))
    two.rename(one)
    one.with_suffix(".x").rename(two)


def _of_another_journal(journal: Journal) -> None:
    other, clock = journal_at(journal.path.parent.parent / "other", run_id="r2")
    fill(other, clock, months=4, each=3)
    other.seal()
    shutil.copy(_segment(other, 2), _segment(journal, 2))


def _copied_under_another_name(journal: Journal) -> None:
    shutil.copy(_segment(journal, 1), segments_folder(journal.path) / "hash_chain.2024-04.jsonl")


def _emptied(journal: Journal) -> None:
    _segment(journal, 2).write_bytes(b"")


def _line_end_gone(journal: Journal) -> None:
    _segment(journal, 2).write_bytes(_segment(journal, 2).read_bytes()[:-1])


def _active_gone(journal: Journal) -> None:
    journal.path.unlink()


def _active_and_head_gone(journal: Journal) -> None:
    journal.path.unlink()
    head_path(journal.path).unlink()


@pytest.mark.parametrize(
    ("damage", "first_bad"),
    [
        (_missing, 4), (_all_missing, 1), (_swapped, 4), (_of_another_journal, 4), (_copied_under_another_name, 10),
        (_emptied, 4), (_line_end_gone, 6), (_active_gone, 10), (_active_and_head_gone, 10),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)  # fmt: skip
def test_a_segment_that_is_not_as_sealed_is_named_and_nothing_reads_past_it(
    tmp_path: Path, damage: Callable[[Journal], None], first_bad: int
) -> None:
    journal = _sealed(tmp_path)
    damage(journal)
    found = verify(journal.path)
    assert (found.ok, found.first_bad) == (False, first_bad) and not found.torn
    fresh = Journal(journal.path, SteppedClock(datetime(2024, 6, 1, tzinfo=UTC)))
    with pytest.raises(StateCorrupt):
        list(fresh.records())
    with pytest.raises(StateCorrupt):
        fresh.read_after(START)
    with pytest.raises(StateCorrupt):
        sealed_segments(journal.path)
    if damage in (_active_gone, _active_and_head_gone):
        with pytest.raises(StateCorrupt):
            fresh.append("x", {})


def test_a_renamed_segment_and_a_record_of_sealing_that_lies_are_named(tmp_path: Path) -> None:
    journal = _sealed(tmp_path)
    _segment(journal, 1).rename(segments_folder(journal.path) / "hash_chain.2023-12.jsonl")
    told = next(journal.kinds(SEALED))
    assert verify(journal.path).first_bad == told.seq
    with pytest.raises(StateCorrupt):
        sealed_segments(journal.path)


def test_an_active_file_that_ends_with_a_sealed_month_has_lost_its_end(tmp_path: Path) -> None:
    """Months are sealed only behind a later record. Active file and head rolled back to the end of January, or less."""
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=3)
    journal.seal()
    january = _segment(journal, 1).read_bytes().splitlines(keepends=True)
    for kept in (3, 2):
        journal.path.write_bytes(b"".join(january[:kept]))
        head_path(journal.path).write_bytes(head_of(january[:kept], tmp_path))
        found = verify(journal.path)
        assert (found.ok, found.first_bad) == (False, kept + 1)
        with pytest.raises(StateCorrupt):
            list(journal.records())


def test_a_segment_that_no_record_tells_of_shows_that_the_end_is_missing(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=3)
    journal.seal()
    kept = Chain.load(journal.path).files[-1][1][:3]  # without the record of the sealing
    journal.path.write_bytes(b"".join(kept))
    head_path(journal.path).write_bytes(head_of(list(kept), tmp_path))
    found = verify(journal.path)
    assert (found.ok, found.first_bad) == (False, 7) and "hash_chain.2024-01.jsonl" in found.why
    with pytest.raises(StateCorrupt):
        sealed_segments(journal.path)


def test_other_files_in_the_folder_are_none_of_ours(tmp_path: Path) -> None:
    journal = _sealed(tmp_path)
    for name in ("hash_chain.2024-13.jsonl", "hash_chain.jsonl", "notes.txt", "emergency_chain.2024-01.jsonl"):
        (segments_folder(journal.path) / name).write_bytes(b"?")
    assert verify(journal.path).ok and len(sealed_segments(journal.path)) == 3


# ---------------------------------------------------------------- readers and other processes
def test_a_reader_goes_on_where_it_was_when_another_process_seals(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=3, each=3)
    everything = list(journal.records())
    marks = [START]
    for _ in range(2):  # one reader at the end, one from the beginning, one in the middle of a month to be sealed
        _, mark = journal.read_after(marks[-1])
        marks.append(mark)
    _, middle = _read_partly(journal, tmp_path, 5)
    journal.seal()
    journal.append("x", {})
    tail = list(journal.records())[9:]
    assert [r.kind for r in tail] == [SEALED, SEALED, "x"]
    assert journal.read_after(marks[-1])[0] == tail
    assert journal.read_after(START)[0] == everything + tail
    assert journal.read_after(middle)[0] == everything[5:] + tail
    _, end = journal.read_after(marks[-1])
    assert journal.read_after(end) == ([], end)
    made = journal.append("y", {})
    assert journal.read_after(end)[0] == [made]


def _read_partly(journal: Journal, tmp_path: Path, n: int) -> tuple[list[Record], Any]:
    """A mark as a reader has it that looked when there were `n` records."""
    early, _ = journal_at(tmp_path / "early")
    early.path.parent.mkdir(parents=True)
    early.path.write_bytes(b"".join(journal.path.read_bytes().splitlines(keepends=True)[:n]))
    return early.read_after(START)


def test_reading_what_is_new_does_not_read_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=3, each=30)
    _, mark = journal.read_after(START)
    journal.seal()
    _, mark = journal.read_after(mark)
    made = journal.append("x", {})
    monkeypatch.setattr("core.journal_parts.segment_files", lambda path: pytest.fail("looked for segments"))
    _segment(journal, 1).write_bytes(b"nobody looks here now")
    assert journal.read_after(mark)[0] == [made]


def test_after_a_sealing_only_the_active_file_is_read_again(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=3, each=3)
    _, mark = journal.read_after(START)
    journal.seal()
    first, *rest = _segment(journal, 1).read_bytes().splitlines(keepends=True)
    _segment(journal, 1).write_bytes(first + b"damage, verify's business\n" * len(rest))
    assert [r.kind for r in journal.read_after(mark)[0]] == [SEALED, SEALED]


@pytest.mark.parametrize("how", ["older copy", "another chain", "shorter", "gone", "rewritten"])
def test_a_reader_refuses_a_journal_that_does_not_continue(tmp_path: Path, how: str) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=1, each=4)
    _, early = _read_partly(journal, tmp_path, 3)
    early_copy = journal.path.read_bytes()
    fill(journal, clock, months=1, each=4)
    _, mark = journal.read_after(START)
    content = journal.path.read_bytes()
    other, other_clock = journal_at(tmp_path / "other", run_id="r2")
    fill(other, other_clock, months=1, each=20)
    if how == "gone":
        journal.path.unlink()
    else:
        journal.path.write_bytes({
            "older copy": early_copy, "another chain": other.path.read_bytes(), "shorter": content[:-9],
            "rewritten": content.replace(b'"i":3', b'"i":4'),
        }[how])  # fmt: skip
    with pytest.raises(StateCorrupt):
        journal.read_after(mark)
    with pytest.raises(StateCorrupt):  # also when asked again
        journal.read_after(mark)
    if how == "another chain":
        with pytest.raises(StateCorrupt):
            journal.read_after(early)


def test_a_reader_does_not_take_what_does_not_follow(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=1, each=2)
    _, mark = journal.read_after(START)
    row = json.loads(journal.path.read_bytes().splitlines()[0])
    for wrong in ({**row, "seq": 3}, {**row, "seq": 4, "prev": mark.hash}, row):
        content = journal.path.read_bytes()
        with journal.path.open("ab") as out:
            out.write(spelled(wrong))
        with pytest.raises(StateCorrupt):
            journal.read_after(mark)
        journal.path.write_bytes(content)


def test_one_process_seals_at_a_time_and_appends_wait_for_the_last_step_only(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=2)
    with (
        locked(segments_folder(journal.path) / "sealing"),
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(StateLocked),
    ):
        patch.setattr("core.journal.locked", lambda path: locked(path, timeout_s=0.05))
        journal.append("order_intended", {})
        journal.seal()
    assert len(journal.seal()) == 1


def _append_many(folder: str, months: Any, now: Any) -> None:
    journal, clock = journal_at(Path(folder))
    for month in range(1, 7):
        clock.set(datetime(2024, month, 10, tzinfo=UTC))
        months.wait(60)
        now.value = month
        for i in range(4):
            journal.append("order_intended", {"i": i})


def _seal_often(folder: str, stop: Any, now: Any) -> None:
    journal, clock = journal_at(Path(folder), run_id="sealer")
    while not stop.is_set():
        clock.set(datetime(2024, now.value, 10, tzinfo=UTC))
        journal.seal()
        SystemClock().sleep(0.01)


def _follow(folder: str, stop: Any, result: Any) -> None:
    journal, _ = journal_at(Path(folder))
    seen, mark, last = 0, START, False
    while True:
        new, mark = journal.read_after(mark)
        seen += len(new)
        if last:
            break
        last = stop.is_set()
        SystemClock().sleep(0.002)
    result.put((seen, mark.seq, mark.hash))


def test_processes_append_seal_and_follow_at_the_same_time(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    stop, result = spawn.Event(), spawn.Queue()
    folder, months, now = str(tmp_path), spawn.Barrier(2), spawn.Value("i", 1)
    writers = [spawn.Process(target=_append_many, args=(folder, months, now)) for _ in range(2)]
    others = [spawn.Process(target=_seal_often, args=(folder, stop, now)) for _ in range(2)]
    others.append(spawn.Process(target=_follow, args=(folder, stop, result)))
    for process in (*others, *writers):
        process.start()
    for process in writers:
        process.join(60)
    stop.set()
    seen, seq, head = result.get(timeout=60)
    for process in others:
        process.join(60)
    assert [process.exitcode for process in (*writers, *others)] == [0] * 5
    journal = Journal(tmp_path / "state" / ACTIVE, SteppedClock(datetime(2024, 7, 10, tzinfo=UTC)))
    journal.append("order_intended", {"i": "July"})
    journal.seal()
    found, records = verify(journal.path), list(journal.records())
    assert found.ok and found.segments == 6 == len(sealed_segments(journal.path))
    assert len(ours(records)) == 49 and sum(r.kind == SEALED for r in records) == 6
    assert seen == seq and records[seq - 1].hash == head
