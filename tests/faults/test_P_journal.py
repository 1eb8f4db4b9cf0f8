"""P01–P04, P08–P13 and P56 as far as the journal goes: disk, crash, tampering, cleaning, two writers."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core import logs
from core.clock import SteppedClock
from core.domain import Symbol
from core.errors import StateCorrupt
from core.journal import (
    START,
    Anchor,
    Journal,
    JournalTail,
    head_path,
    sealed_segments,
    segments_folder,
    torn_path,
    verify,
)
from core.journal_head import SLOT, read_head, write_head
from core.journal_record import Head
from core.journal_reserve import RESERVE_BYTES
from execution.fold import fold_of
from execution.ledger import new_york_day
from tests.fakes.journals import Chain, fill, head_of, journal_at
from tests.fakes.power_cut import Disk, restore
from tests.fakes.trading import CALM, NOW, World, book, entry, quote, world

ROOT = Path(__file__).resolve().parents[2]
_Usage = namedtuple("_Usage", "total used free")


# ---------------------------------------------------------------- a full disk
@dataclass
class SmallDisk:
    """Only so many bytes may still be written; removing the reserve gives its bytes back."""

    room: int

    def write(self, handle: int, data: Any) -> int:
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return _write(handle, data)

    def unlink(self, path: Any, **more: Any) -> None:
        size = os.stat(path).st_size
        _unlink(path, **more)
        if str(path).endswith(".reserve"):
            self.room += size


_write, _unlink = os.write, os.unlink


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    disk = SmallDisk(room=1 << 40)
    monkeypatch.setattr(os, "write", disk.write)
    monkeypatch.setattr(os, "unlink", disk.unlink)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(0, 0, disk.room))
    return disk


def reserve_of(w: World) -> Path:
    return w.journal.path.with_suffix(".reserve")


def test_P01_disk_full_before_the_intent_sends_nothing_and_keeps_the_reserve(tmp_path: Path, small: SmallDisk) -> None:
    w = world(tmp_path)
    w.journal.append("account_bound", {"id": "1", "number": "2", "mode": "paper"})
    assert reserve_of(w).stat().st_size == RESERVE_BYTES
    before = w.journal.path.read_bytes()
    small.room = 100
    with pytest.raises(StateCorrupt, match="No space left") as caught:
        w.desk.send(entry(), book())
    assert caught.value.code == "JOURNAL_UNWRITABLE"
    assert w.broker.submits == [] and w.journal.path.read_bytes() == before
    assert reserve_of(w).exists() and verify(w.journal.path).ok


def test_P02_disk_full_after_the_order_is_written_into_the_reserve(
    tmp_path: Path, small: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(logs, "error_event", lambda name, **more: told.append(f"{name} {more.get('code')}"))
    w = world(tmp_path)
    w.journal.append("account_bound", {"id": "1", "number": "2", "mode": "paper"})
    submit = w.broker.submit

    def fills_up(order: Any) -> Any:
        small.room = 50
        return submit(order)

    w.broker.submit = fills_up
    _, order = w.desk.execute(entry(), book())
    assert order is not None and order.end == "closed" and order.filled_quantity == 1
    assert w.kinds()[1:] == ["order_intended", "order_acknowledged", "order_filled", "order_closed", "trade_opened"]
    assert told.count("disk_reserve_released DISK_FULL") == 1 and not reserve_of(w).exists()
    assert verify(w.journal.path).ok
    small.room = 100  # and the next intent is refused again, reserve or not
    with pytest.raises(StateCorrupt):
        w.desk.send(entry("BBB"), book("BBB"))
    assert len(w.broker.submits) == 1
    small.room = 3 * RESERVE_BYTES  # some room, but the reserve would take most of it
    w.journal.append("x", {})
    assert not reserve_of(w).exists()
    small.room = 5 * RESERVE_BYTES
    w.journal.append("x", {})
    assert reserve_of(w).stat().st_size == RESERVE_BYTES


def test_P02_with_the_reserve_used_up_the_next_start_learns_it_from_the_broker(
    tmp_path: Path, small: SmallDisk
) -> None:
    w = world(tmp_path)
    w.journal.append("account_bound", {"id": "1", "number": "2", "mode": "paper"})
    submit = w.broker.submit

    def fills_up(order: Any) -> Any:
        reserve_of(w).unlink()
        small.room = 0
        return submit(order)

    w.broker.submit = fills_up
    with pytest.raises(StateCorrupt):
        w.desk.execute(entry(), book())
    assert w.desk.ledger().reserved_usd() == Decimal("50.10")  # the intent holds its budget until there is proof
    small.room, w.broker.submit = 1 << 40, submit
    w.restart().settle()
    (order,) = w.desk.ledger().orders.values()
    assert order.end == "closed" and order.filled_quantity == 1 and len(w.broker.submits) == 1


def test_P02_a_short_write_counts_as_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = journal_at(tmp_path)
    journal.append("x", {})
    left = [1]

    def short(handle: int, data: Any) -> int:
        left[0] -= 1
        return _write(handle, data[:10] if left[0] == 0 else data)

    monkeypatch.setattr(os, "write", short)
    assert journal.append("order_acknowledged", {}, may_use_reserve=True).seq == 2
    assert verify(journal.path).ok and not torn_path(journal.path).exists()


# ---------------------------------------------------------------- crashes and power cuts
def test_P03_what_a_kill_before_the_rename_left_is_cleared_and_the_old_head_holds(tmp_path: Path) -> None:
    journal, _ = journal_at(tmp_path)
    journal.append("x", {})
    state = journal.path.parent
    left = [state / f".{name}.abc123.tmp" for name in (journal.path.name, "hash_chain.head", "hash_chain.reserve")]
    foreign = state / ".positions.json.abc123.tmp"
    for path in (*left, foreign):
        path.write_bytes(b"half")
    assert verify(journal.path).ok
    journal.repair()
    assert [path.exists() for path in left] == [False] * 3 and foreign.exists()  # another document's is not ours
    assert journal.append("x", {}).seq == 2 and verify(journal.path).ok


@pytest.mark.parametrize("first", [True, False], ids=["first record", "later record"])
def test_P04_P09_a_power_cut_at_any_moment_of_an_append_keeps_what_was_acknowledged(
    tmp_path: Path, first: bool
) -> None:
    journal, clock = journal_at(tmp_path / "disk")
    journal.path.parent.mkdir(parents=True)
    if not first:
        fill(journal, clock, months=1, each=3)
    acknowledged = list(journal.records())
    disk = Disk(journal.path.parent)
    with disk.watching():
        made = journal.append("order_intended", {"last": True})
    tried = 0
    for what, picture in disk.pictures():
        tried += 1
        reopened, _ = journal_at(tmp_path / f"after{tried}", start=clock.now())
        restore(picture, reopened.path.parent)
        reopened.repair()
        found = [r for r in reopened.records() if r.kind == "order_intended"]
        assert found in (acknowledged, [*acknowledged, made]), what
        reopened.append("x", {})
        assert verify(reopened.path).ok, what
    assert tried >= 5


def test_P04_an_append_flushes_what_a_killed_process_left_unflushed(tmp_path: Path) -> None:
    """Killed before its folder was flushed, then another process appends, then the power goes."""
    first, clock = journal_at(tmp_path / "first")
    first.path.parent.mkdir(parents=True)
    disk = Disk(first.path.parent)
    with disk.watching():
        first.append("x", {"n": 1})
    tried = 0
    for n, (_, ways) in enumerate(disk.moments):
        journal, _ = journal_at(tmp_path / f"second{n}", start=clock.now())
        journal.path.parent.mkdir(parents=True)
        restore(ways["killed"], journal.path.parent)
        second = Disk(journal.path.parent)
        with second.watching(flushed=False):
            made = journal.append("x", {"n": 2})
        after, _ = journal_at(tmp_path / f"third{n}", start=clock.now())
        restore(second.moments[-1][1]["cut"], after.path.parent)
        after.repair()
        assert list(after.records())[-1] == made
        tried += len(ways["killed"]) > 1
    assert tried > 0


def test_P04_both_heads_around_a_lost_rename_are_accepted_and_no_older_one(tmp_path: Path) -> None:
    journal, _ = journal_at(tmp_path)
    heads = []
    for _ in range(4):
        journal.append("x", {})
        heads.append(head_path(journal.path).read_bytes())
    forged = json.dumps({"seq": 3, "hash": "ab" * 32}).encode()  # the right number of another chain
    for head, good in ((heads[3], True), (heads[2], True), (heads[1], False), (forged, False)):
        head_path(journal.path).write_bytes(head)
        assert verify(journal.path).ok is good
        if good:
            Journal(journal.path, SteppedClock(NOW)).repair()
            assert read_head(journal.path) == read_head_of(heads[3], tmp_path)
        else:
            with pytest.raises(StateCorrupt) as caught:
                Journal(journal.path, SteppedClock(NOW)).repair()
            assert caught.value.code == "JOURNAL_HEAD_DIFFERS"


def read_head_of(content: bytes, folder: Path) -> Any:
    (folder / "copy.head").write_bytes(content)
    return read_head(folder / "copy.jsonl")


@pytest.mark.parametrize("how", ["empty", "NUL", "garbage", "cut", "both slots wrong", "hash of another length"])
def test_P08_a_damaged_head_is_refused_never_taken_as_none(tmp_path: Path, how: str) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=1, each=4)
    whole = head_path(journal.path).read_bytes()
    head_path(journal.path).write_bytes({
        "empty": b"", "NUL": b"\0" * len(whole), "garbage": random.Random(1).randbytes(len(whole)), "cut": whole[:60],
        "both slots wrong": whole.replace(b'"hash":"', b'"hash":"0'),
        "hash of another length": b'{"hash":"ab","seq":4}',
    }[how])  # fmt: skip
    before = Chain.load(journal.path)
    found = verify(journal.path)
    assert not found.ok and "head" in found.why and found.records == 4
    with pytest.raises(StateCorrupt) as caught:
        Journal(journal.path, clock).append("x", {})
    assert caught.value.code == "JOURNAL_HEAD_DAMAGED" and Chain.load(journal.path) == before


def test_P08_half_a_head_write_leaves_the_record_before(tmp_path: Path) -> None:
    """The two slots: whatever byte the power went at, the other one still counts."""
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=1, each=3)
    old = head_path(journal.path).read_bytes()
    journal.append("x", {})
    new = head_path(journal.path).read_bytes()
    for k in range(0, 2 * SLOT, 4):
        head_path(journal.path).write_bytes(new[:k] + old[k:])
        assert verify(journal.path).ok, k


@pytest.mark.parametrize("seq", [2, 9, 99, 199, 1999])
def test_P08_half_a_slot_is_never_taken_for_another_record(tmp_path: Path, seq: int) -> None:
    """From 199 to 201 in one slot: half of it would read 299."""
    path = tmp_path / "hash_chain.jsonl"
    for n in (seq, seq + 1):
        write_head(path, Head(n, f"{n:064x}"))
    old = head_path(path).read_bytes()
    write_head(path, Head(seq + 2, f"{seq + 2:064x}"))
    new = head_path(path).read_bytes()
    for k in range(2 * SLOT + 1):
        head_path(path).write_bytes(new[:k] + old[k:])
        assert read_head(path) in [Head(n, f"{n:064x}") for n in (seq + 1, seq + 2)], k


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\n", b"{}\n"])
def test_P08_a_journal_that_lost_its_content_is_not_an_empty_one(tmp_path: Path, content: bytes) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=1, each=3)
    journal.path.write_bytes(content)
    assert verify(journal.path).first_bad == 1
    with pytest.raises(StateCorrupt):
        Journal(journal.path, clock).append("x", {})
    assert journal.path.read_bytes() == content


def test_P09_a_torn_last_line_is_set_aside_with_a_record_and_the_chain_goes_on(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    n = len(w.kinds())
    with w.journal.path.open("ab") as out:
        out.write(b'{"at":"2024-03-05T15:')
    assert verify(w.journal.path).torn
    w.restart()
    w.journal.repair()
    assert w.kinds()[n:] == ["journal_torn_line"] and torn_path(w.journal.path).read_bytes().startswith(b'{"at"')
    assert verify(w.journal.path).ok and w.desk.ledger().last_seq == n + 1


# ---------------------------------------------------------------- tampering
@pytest.mark.parametrize("sealing", [False, True], ids=["one file", "sealed months"])
@pytest.mark.parametrize("how", ["edited", "deleted", "re-ordered", "inserted"])
def test_P10_a_changed_journal_names_the_first_bad_record(tmp_path: Path, how: str, sealing: bool) -> None:
    """Two hundred places each, and the subtler ways, in tests/core/test_journal_damage.py."""
    journal, clock = journal_at(tmp_path / "good")
    fill(journal, clock, months=3, each=4)
    if sealing:
        journal.seal()
    good = Chain.load(journal.path)
    for p in range(1, 12):
        lines = good.lines
        if how == "edited":
            lines[p - 1] = lines[p - 1].replace(b"10.10", b"10.11")
        elif how == "deleted":
            del lines[p - 1]
        elif how == "re-ordered":
            lines[p - 1], lines[p] = lines[p], lines[p - 1]
        else:
            lines.insert(p - 1, lines[p])
        bad = good.with_lines(lines, shift_at=p).write(tmp_path / "bad")
        assert verify(bad).first_bad == p


@pytest.mark.parametrize("how", ["edited", "segment gone"])
def test_P10_P12_nothing_starts_on_a_journal_that_does_not_verify(tmp_path: Path, own_home: Path, how: str) -> None:
    journal, clock = journal_at(own_home)
    fill(journal, clock, months=3, each=3)
    journal.seal()
    sealed = segments_folder(journal.path) / "hash_chain.2024-01.jsonl"
    if how == "edited":
        sealed.write_bytes(sealed.read_bytes().replace(b"10.10", b"99.10", 1))
    else:
        sealed.unlink()
    before = {p: p.read_bytes() for p in (own_home / "state").rglob("*.jsonl")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reconcile_alpaca.py")], capture_output=True, text=True, check=False,
        env={**os.environ}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 11 and "hash_chain" in done.stderr
    assert {p: p.read_bytes() for p in (own_home / "state").rglob("*.jsonl")} == before


def test_P11_a_shortened_journal_shows_against_its_head_and_is_not_continued(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry(), book())
    whole = w.journal.path.read_bytes().splitlines(keepends=True)
    for kept in range(len(whole)):
        w.journal.path.write_bytes(b"".join(whole[:kept]))
        assert verify(w.journal.path).first_bad == kept + 1
        with pytest.raises(StateCorrupt) as caught:
            Journal(w.journal.path, w.clock).append("x", {})
        assert caught.value.code == "JOURNAL_TRUNCATED"
        with pytest.raises(StateCorrupt):  # the process that had read more
            w.desk.ledger()


def test_P11_a_folder_rolled_back_as_a_whole_shows_against_a_head_noted_outside(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.desk.execute(entry("AAA"), book("AAA"))
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    noted_then = verify(w.journal.path)
    w.desk.execute(entry("BBB"), book("BBB"))
    noted_now = verify(w.journal.path)
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "backup", tmp_path / "state")
    assert verify(w.journal.path, anchors=[Anchor(noted_then.head)]).ok
    found = verify(w.journal.path, anchors=[Anchor(noted_then.head), Anchor(noted_now.head)])
    assert (found.ok, found.first_bad, found.proven) == (False, noted_then.records + 1, noted_then.records)
    with pytest.raises(StateCorrupt):  # and the running process needs nothing from outside
        w.desk.send(entry("CCC"), book("CCC"))


# ---------------------------------------------------------------- cleaning
def test_P12_only_sealed_months_may_be_archived_and_a_missing_one_never_goes_unseen(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=3, each=3)
    assert sealed_segments(journal.path) == ()  # nothing may be taken before it is sealed
    journal.seal()
    for segment in sealed_segments(journal.path):
        path = segments_folder(journal.path) / segment.file
        content = path.read_bytes()
        path.unlink()
        found = verify(journal.path)
        assert (found.ok, found.first_bad) == (False, segment.first_seq)
        assert f"{segment.first_seq} to {segment.last_seq} are missing" in found.why
        with pytest.raises(StateCorrupt):
            fold_of(journal.records())
        path.write_bytes(content)  # brought back from the archive
        assert verify(journal.path).ok


# ---------------------------------------------------------------- two writers
def _write_and_follow(folder: str, name: str, n: int, result: Any) -> None:
    journal = Journal(Path(folder) / "state" / "hash_chain.jsonl", SteppedClock(NOW), run_id=name)
    tail, seen = JournalTail(journal), 0
    for i in range(n):
        journal.append("x", {"i": i})
        seen += len(tail.new())
    result.put((name, seen))


def test_P13_two_writers_share_one_chain_through_the_lock(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    result = spawn.Queue()
    writers = [
        spawn.Process(target=_write_and_follow, args=(str(tmp_path), f"w{k}", 40, result)) for k in range(3)
    ]  # fmt: skip
    for writer in writers:
        writer.start()
    seen = dict(result.get(timeout=60) for _ in writers)
    for writer in writers:
        writer.join(60)
    journal, _ = journal_at(tmp_path)
    records = list(journal.records())
    assert verify(journal.path).ok and len(records) == 120
    for name, count in seen.items():
        mine = [r for r in records if r.run_id == name]
        assert [r.body["i"] for r in mine] == list(range(40))
        assert count >= mine[-1].seq  # each read at least up to its own last record


@pytest.mark.parametrize("then", ["append", "send", "follow"])
def test_P13_two_machines_that_wrote_apart_are_found_out_by_both(tmp_path: Path, then: str) -> None:
    """A synced folder: each continued its own copy, then one copy replaced the other."""
    ours, theirs = world(tmp_path / "ours"), tmp_path / "theirs"
    ours.desk.execute(entry("AAA"), book("AAA"))
    shutil.copytree(tmp_path / "ours", theirs)
    other = world(theirs)
    other.desk.execute(entry("BBB"), book("BBB"))
    ours.desk.execute(entry("CCC"), book("CCC"))
    noted = verify(ours.journal.path)
    for name in (ours.journal.path.name, head_path(ours.journal.path).name):
        shutil.copy(theirs / "state" / name, ours.journal.path.parent / name)
    assert verify(ours.journal.path).ok  # a whole chain, only not ours
    found = verify(ours.journal.path, anchors=[Anchor(noted.head, noted.records)])
    assert not found.ok and found.first_bad == noted.records
    acts: dict[str, Callable[[], object]] = {
        "append": lambda: ours.journal.append("x", {}), "follow": ours.desk.ledger,
        "send": lambda: ours.desk.send(entry("DDD"), book("DDD")),
    }  # fmt: skip
    posts = len(ours.broker.submits)
    with pytest.raises(StateCorrupt):
        acts[then]()
    assert len(ours.broker.submits) == posts


def test_P13_a_fork_inside_the_file_is_called_one(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=1, each=3)
    before = journal.path.read_bytes()
    journal.append("x", {"writer": 1})
    mine = journal.path.read_bytes()
    journal.path.write_bytes(before)
    head_path(journal.path).write_bytes(head_of(before.splitlines(keepends=True), tmp_path))
    Journal(journal.path, clock).append("x", {"writer": 2})
    theirs = journal.path.read_bytes()
    journal.path.write_bytes(mine + theirs[len(before) :])
    found = verify(journal.path)
    assert found.first_bad == 5 and "two writers" in found.why


# ---------------------------------------------------------------- budgets
def test_P56_the_budget_survives_restarts_clocks_and_sealing(tmp_path: Path) -> None:
    w = world(tmp_path)
    then = NOW - timedelta(days=40)
    w.clock.set(then)
    old = book("OLD", now=then, quote=quote("OLD", at=then), closes_at=then + timedelta(hours=6))
    w.desk.execute(entry("OLD", at=then), old)
    w.clock.set(NOW)
    both = {Symbol("AAA"), Symbol("OLD")}
    known = {"returns": dict.fromkeys(both, CALM), "sectors": {s: str(s) for s in both}}
    w.desk.execute(entry("AAA"), book("AAA", marks=dict.fromkeys(both, Decimal(50)), **known))
    spent = w.desk.ledger().spent_usd(new_york_day(NOW))
    assert spent == Decimal("50.00")
    w.clock.set(datetime(2024, 3, 5, 13, 0, tzinfo=UTC))  # back, but still that day
    assert len(w.journal.seal()) == 1
    for desk in (w.desk, w.restart()):
        assert desk.ledger().spent_usd(new_york_day(NOW)) == spent
        assert [str(t.symbol) for t in desk.ledger().trades.values()] == ["OLD", "AAA"]
    assert w.journal.read_after(START)[0] == list(w.journal.records())
    assert json.loads(w.journal.path.read_bytes().splitlines()[0])["seq"] > 1
