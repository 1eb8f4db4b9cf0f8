"""The journal: append, what a crash may leave, and every class of damage found."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import SteppedClock
from core.domain import Side
from core.errors import StateCorrupt
from core.journal import GENESIS, Anchor, Journal, Record, head_path, record_hash, torn_path, verify
from core.journal_head import SLOT, read_head
from core.journal_record import Head, sound

START = datetime(2024, 3, 5, 14, 35, tzinfo=UTC)


def a_journal(folder: Path, n: int = 0, run_id: str = "r1") -> Journal:
    journal = Journal(folder / "state" / "hash_chain.jsonl", SteppedClock(START), run_id=run_id)
    for i in range(n):
        journal.append("order_intended", {"i": i, "price": Decimal("10.10")})
    return journal


def lines(journal: Journal) -> list[bytes]:
    return journal.path.read_bytes().splitlines(keepends=True)


def put(journal: Journal, content: list[bytes]) -> None:
    journal.path.write_bytes(b"".join(content))


# ---------------------------------------------------------------- append
def test_a_line_is_canonical_json_chained_by_sha256(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 2)
    first, second = (json.loads(line) for line in lines(journal))
    assert (first["seq"], second["seq"]) == (1, 2)
    assert first["prev"] == GENESIS and second["prev"] == first["hash"]
    bare = {k: v for k, v in second.items() if k != "hash"}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    assert (
        second["hash"]
        == hashlib.sha256((second["prev"] + text).encode()).hexdigest()
        == record_hash(second["prev"], bare)
    )
    assert lines(journal)[0] == json.dumps(first, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    assert read_head(journal.path) == Head(2, second["hash"])


def test_body_values_become_plain_json(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Leg:
        side: Side
        on: date

    body = MappingProxyType({
        "money": Decimal("10.10"), "at": START, "leg": Leg(Side.BUY, date(2024, 3, 5)), "set": {"b", "a"},
        "none": None, "line": "a\nb\u2028c", "float": 0.1, "pair": (1, True),
    })  # fmt: skip
    made = a_journal(tmp_path).append("x", body)
    assert made.body == {
        "money": "10.10", "at": "2024-03-05T14:35:00.000000Z", "leg": {"side": "buy", "on": "2024-03-05"},
        "set": ["a", "b"], "none": None, "line": "a\nb\u2028c", "float": 0.1, "pair": [1, True],
    }  # fmt: skip
    (read,) = a_journal(tmp_path).records()
    assert read == made and isinstance(read, Record) and read.at == START


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": object()}, {"x": datetime(2024, 1, 1)}])
def test_what_json_cannot_hold_is_a_bug_and_leaves_no_line(tmp_path: Path, body: dict[str, object]) -> None:
    journal = a_journal(tmp_path, 1)
    with pytest.raises((TypeError, ValueError)):
        journal.append("x", body)
    assert len(lines(journal)) == 1 and verify(journal.path).ok


def test_equal_runs_give_equal_bytes_and_the_run_id_is_inside_the_record(tmp_path: Path) -> None:
    one, two, other = a_journal(tmp_path / "1", 3), a_journal(tmp_path / "2", 3), a_journal(tmp_path / "3", 3, "r2")
    assert one.path.read_bytes() == two.path.read_bytes() != other.path.read_bytes()
    assert [r.run_id for r in other.records()] == ["r2"] * 3 and verify(other.path).ok


def test_kinds_filters_and_an_absent_journal_has_no_records(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    assert list(journal.records()) == []
    for kind in ("a", "b", "c", "a"):
        journal.append(kind, {})
    assert [r.seq for r in journal.kinds("a", "c")] == [1, 3, 4]


def test_append_reads_the_tail_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = a_journal(tmp_path, 3)
    content = lines(journal)
    put(journal, [b"x" * len(content[0]), *content[1:]])  # damage far from the tail: verify's business, not append's
    assert journal.append("x", {"long": "y" * 50_000}).seq == 4
    assert journal.append("x", {}).seq == 5
    assert verify(journal.path).first_bad == 1


def _append_many(path: str, n: int) -> None:
    journal = Journal(Path(path), SteppedClock(START), run_id=str(os.getpid()))
    for i in range(n):
        journal.append("x", {"i": i})


def test_processes_share_one_chain(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_append_many, args=(str(journal.path), 15)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    found = verify(journal.path)
    assert found.ok and found.records == 45


def test_an_unwritable_journal_is_a_stop_in_words(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    journal.path.mkdir(parents=True)  # a folder in its place
    with pytest.raises(StateCorrupt) as caught:
        journal.append("x", {})
    assert caught.value.code == "JOURNAL_UNWRITABLE"


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = a_journal(tmp_path, 2)
    before = journal.path.read_bytes()
    real = os.write
    monkeypatch.setattr("core.journal.os.write", lambda handle, data: real(handle, data[:10]))
    with pytest.raises(StateCorrupt, match="full"):
        journal.append("x", {})
    assert journal.path.read_bytes() == before
    monkeypatch.undo()
    assert journal.append("x", {}).seq == 3 and verify(journal.path).ok


# ---------------------------------------------------------------- crashes
def test_a_crash_between_line_and_head_is_legal_and_repaired(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 2)
    behind = head_path(journal.path).read_bytes()
    journal.append("x", {})
    head_path(journal.path).write_bytes(behind)
    assert verify(journal.path).ok
    assert journal.append("x", {}).seq == 4
    assert read_head(journal.path) == Head(4, verify(journal.path).head) and verify(journal.path).ok


def test_a_head_as_earlier_versions_wrote_it_is_read_and_brought_up_to_date(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 2)
    head_path(journal.path).write_text(json.dumps({"hash": verify(journal.path).head, "seq": 2}) + "\n")
    assert verify(journal.path).ok
    assert a_journal(tmp_path).append("x", {}).seq == 3 and verify(journal.path).ok
    assert head_path(journal.path).stat().st_size == 2 * SLOT and read_head(journal.path) == Head(
        3, verify(journal.path).head
    )


def test_a_crash_before_the_very_first_head_is_legal(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 1)
    head_path(journal.path).unlink()
    assert verify(journal.path).ok
    assert journal.append("x", {}).seq == 2


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("torn", [b'{"at":"2024', b"\x00" * 9000, b'{"a":1}'])
def test_a_torn_last_line_is_set_aside_and_told(tmp_path: Path, n: int, torn: bytes) -> None:
    journal = a_journal(tmp_path, n)
    journal.path.parent.mkdir(exist_ok=True)
    with journal.path.open("ab") as out:
        out.write(torn)
    found = verify(journal.path)
    assert not found.ok and found.first_bad == n + 1 and "torn" in found.why
    assert len(list(journal.records())) == n
    assert journal.append("x", {}).seq == n + 2
    assert [r.kind for r in journal.records()][n:] == ["journal_torn_line", "x"]
    assert torn_path(journal.path).read_bytes() == torn + b"\n"
    assert verify(journal.path).ok


@pytest.mark.parametrize("size", [1, 5000, 50_000])
def test_a_torn_line_behind_long_ones_is_found_too(tmp_path: Path, size: int) -> None:
    journal = a_journal(tmp_path)
    for _ in range(2):
        journal.append("x", {"long": "y" * size})
    with journal.path.open("ab") as out:
        out.write(b"\x00" * size + b"\n")
    assert verify(journal.path).torn
    with pytest.raises(StateCorrupt, match="line 3") as caught:  # it looks whole: only repair may say that it is torn
        list(journal.records())
    assert len(str(caught.value)) < 250
    assert a_journal(tmp_path).append("x", {}).seq == 4 and verify(journal.path).ok


def test_a_whole_line_that_is_no_record_is_torn_only_where_the_head_ends(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 3)
    behind = head_path(journal.path).read_bytes()
    journal.append("x", {})
    for head in (head_path(journal.path).read_bytes(), behind):
        content = [*lines(journal)[:4], b"no record\n"]
        put(journal, content)
        head_path(journal.path).write_bytes(head)
        if head == behind:  # the head would be two behind: no crash leaves that
            assert not verify(journal.path).torn
            with pytest.raises(StateCorrupt) as caught:
                a_journal(tmp_path).append("x", {})
            assert caught.value.code == "JOURNAL_DAMAGED" and lines(journal) == content
        else:
            assert verify(journal.path).torn


def test_a_torn_line_behind_a_lagging_head_needs_both_repairs(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 2)
    behind = head_path(journal.path).read_bytes()
    journal.append("x", {})
    head_path(journal.path).write_bytes(behind)
    with journal.path.open("ab") as out:
        out.write(b"{")
    journal.repair()
    assert [r.kind for r in journal.records()][-1] == "journal_torn_line" and verify(journal.path).ok
    before = journal.path.read_bytes()
    journal.repair()
    assert journal.path.read_bytes() == before


# ---------------------------------------------------------------- damage
def _drop_last(j: Journal) -> int | None:
    put(j, lines(j)[:-1])
    return 6


def _delete_file(j: Journal) -> int | None:
    j.path.unlink()
    return 1


def _cut_mid_line(j: Journal) -> int | None:
    put(j, [*lines(j)[:-1], lines(j)[-1][:40]])
    return 6


def _lose_line_end(j: Journal) -> int | None:
    put(j, [*lines(j)[:-1], lines(j)[-1][:-1]])
    return 6


def _edit(j: Journal) -> int | None:
    content = lines(j)
    put(j, [*content[:2], content[2].replace(b'"10.10"', b'"99.99"'), *content[3:]])
    return 3


def _edit_and_rehash_one(j: Journal) -> int | None:
    content = lines(j)
    row = json.loads(content[2])
    row["body"]["i"] = 77
    row["hash"] = record_hash(row["prev"], {k: v for k, v in row.items() if k != "hash"})
    put(j, [*content[:2], _line(row), *content[3:]])
    return 4


def _rehash_whole_tail(j: Journal) -> int | None:
    rows = [json.loads(line) for line in lines(j)]
    rows[2]["body"]["i"] = 77
    for before, row in pairwise(rows):
        row["prev"] = before["hash"]
        row["hash"] = record_hash(row["prev"], {k: v for k, v in row.items() if k != "hash"})
    put(j, [_line(row) for row in rows])
    return 6


def _delete_middle(j: Journal) -> int | None:
    content = lines(j)
    put(j, content[:2] + content[3:])
    return 3


def _delete_first(j: Journal) -> int | None:
    put(j, lines(j)[1:])
    return 1


def _swap(j: Journal) -> int | None:
    a, b, c, *rest = lines(j)
    put(j, [a, c, b, *rest])
    return 2


def _insert_copy(j: Journal) -> int | None:
    content = lines(j)
    put(j, [*content[:3], content[2], *content[3:]])
    return 4


def _insert_blank(j: Journal) -> int | None:
    content = lines(j)
    put(j, [*content[:3], b"\n", *content[3:]])
    return 4


def _respell(j: Journal) -> int | None:
    content = lines(j)
    put(j, [*content[:3], json.dumps(json.loads(content[3])).encode() + b"\n", *content[4:]])
    return 4


def _crlf(j: Journal) -> int | None:
    put(j, [line.replace(b"\n", b"\r\n") for line in lines(j)])
    return 1


def _head_gone(j: Journal) -> int | None:
    head_path(j.path).unlink()
    return None


def _head_garbled(j: Journal) -> int | None:
    head_path(j.path).write_bytes(b"")
    return None


def _head_far_behind(j: Journal) -> int | None:
    row = json.loads(lines(j)[1])
    head_path(j.path).write_text(json.dumps({"seq": 2, "hash": row["hash"]}))
    return 3


def _forged_append(j: Journal) -> int | None:
    """Two records chained on by somebody who did not move the head."""
    head = head_path(j.path).read_bytes()
    j.append("x", {})
    j.append("x", {})
    head_path(j.path).write_bytes(head)
    return 7


def _line(row: dict[str, object]) -> bytes:
    return json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"


DAMAGE: list[Callable[[Journal], int | None]] = [
    _drop_last, _delete_file, _cut_mid_line, _lose_line_end, _edit, _edit_and_rehash_one, _rehash_whole_tail,
    _delete_middle, _delete_first, _swap, _insert_copy, _insert_blank, _respell, _crlf, _head_gone, _head_garbled,
    _head_far_behind, _forged_append,
]  # fmt: skip
SEEN_BY_APPEND = {
    _drop_last, _delete_file, _cut_mid_line, _lose_line_end, _rehash_whole_tail, _crlf, _head_gone, _head_garbled,
    _head_far_behind, _forged_append,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__.strip("_"))
def test_damage_is_found_and_the_first_bad_record_named(
    tmp_path: Path, damage: Callable[[Journal], int | None]
) -> None:
    journal = a_journal(tmp_path, 6)
    first_bad = damage(journal)
    found = verify(journal.path)
    assert not found.ok and found.why
    assert found.first_bad == first_bad
    content = journal.path.read_bytes() if journal.path.exists() else None
    if damage in SEEN_BY_APPEND:
        with pytest.raises(StateCorrupt):
            journal.append("x", {})
        assert (journal.path.read_bytes() if journal.path.exists() else None) == content


@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_no_changed_byte_goes_unseen(at: float, flip: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("flip")
    journal = a_journal(folder, 3)
    raw = bytearray(journal.path.read_bytes())
    raw[int(at * len(raw))] ^= flip
    journal.path.write_bytes(bytes(raw))
    assert not verify(journal.path).ok
    shutil.rmtree(folder)


def test_a_line_that_is_no_record_is_named_by_records(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 3)
    content = lines(journal)
    for bad in (b"nonsense\n", b"[]\n", b'{"seq":2}\n', content[1].replace(b'"seq":2', b'"seq":"2"')):
        put(journal, [content[0], bad, content[2]])
        with pytest.raises(StateCorrupt, match="line 2"):
            list(journal.records())


@pytest.mark.parametrize(
    ("canonical", "respelled"),
    [
        (b'"i":1', b'"i": 1'),  # white space
        (b'"i":1', b'"i":2,"i":1'),  # a key twice: some readers take the first
        (b'{"f":0.5,"i":1', b'{"i":1,"f":0.5'),  # the order of keys
        (b'"f":0.5', b'"f":0.50'),
        (b'"f":0.5', b'"f":5e-1'),
        (b'"i":1', b'"i":-0'),
        (b'"t":"\\u00e9/"', b'"t":"\\u00E9/"'),
        (b'"t":"\\u00e9/"', '"t":"é/"'.encode()),
        (b'"t":"\\u00e9/"', b'"t":"\\u00e9\\/"'),
        (b'"f":0.5', b'"f":NaN'),
        (b'"f":0.5', b'"f":1e999'),
        (b'{"at":', b'\xef\xbb\xbf{"at":'),
        (b'"body":{', b'"body":{"hash":1,'),  # sorts behind f
    ],
)
def test_another_spelling_is_refused_even_when_its_own_bytes_were_hashed(
    tmp_path: Path, canonical: bytes, respelled: bytes
) -> None:
    """The proof hashes the bytes as they stand; that they are the one spelling there is has to be asked besides."""
    journal = a_journal(tmp_path)
    journal.append("x", {"f": 0.5, "i": 1, "t": "é/"})
    (line,) = lines(journal)
    assert sound(line)[0] is not None and canonical in line
    made = line.replace(canonical, respelled, 1)
    cut = made.rfind(b',"hash":"')
    bare = made[:cut] + made[cut + 74 : -1]
    forged = made[: cut + 9] + hashlib.sha256(GENESIS.encode() + bare).hexdigest().encode() + made[cut + 73 :]
    assert len(forged) == len(made) and sound(forged)[0] is None


# ---------------------------------------------------------------- verify
def test_absent_journal_and_head_are_sound_and_nothing_is_made(tmp_path: Path) -> None:
    found = verify(tmp_path / "state" / "hash_chain.jsonl")
    assert (found.ok, found.records, found.head, found.first_bad) == (True, 0, GENESIS, None)
    assert list(tmp_path.iterdir()) == []


def test_an_anchor_proves_that_nothing_was_rolled_back(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 4)
    early = list(journal.records())[1].hash
    noted = verify(journal.path).head
    backup = journal.path.parent.with_name("backup")
    assert verify(journal.path, anchors=[Anchor(early)]).ok and verify(journal.path, anchors=[Anchor(noted, 4)]).ok
    assert verify(journal.path, anchors=[Anchor(GENESIS)]).ok
    shutil.copytree(journal.path.parent, backup)
    later = journal.append("x", {}).hash
    rolled_back = backup / journal.path.name
    assert verify(rolled_back, anchors=[Anchor(noted)]).ok
    for anchor in (Anchor(later), Anchor(later, 5)):
        found = verify(rolled_back, anchors=[anchor, Anchor(early)])
        assert (found.ok, found.first_bad, found.proven) == (False, 5, 2)
    assert not verify(tmp_path / "nowhere" / "hash_chain.jsonl", anchors=[Anchor(noted)]).ok


def test_at_never_moves_what_is_already_written(tmp_path: Path) -> None:
    clock = SteppedClock(START)
    journal = Journal(tmp_path / "state" / "hash_chain.jsonl", clock)
    first = journal.append("x", {})
    clock.advance(timedelta(hours=-2))  # wall time may step back; the chain orders, not the clock
    assert journal.append("x", {}).at < first.at and verify(journal.path).ok


def test_a_gap_in_the_numbers_is_damage_even_when_every_hash_and_the_head_agree(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 3)
    row = json.loads(lines(journal)[2])
    row["seq"] = 4
    row["hash"] = record_hash(row["prev"], {k: v for k, v in row.items() if k != "hash"})
    put(journal, [*lines(journal)[:2], _line(row)])
    head_path(journal.path).write_text(json.dumps({"seq": 4, "hash": row["hash"]}))
    assert verify(journal.path).first_bad == 3


def test_a_head_with_the_right_hash_and_the_wrong_number_is_damage(tmp_path: Path) -> None:
    journal = a_journal(tmp_path, 3)
    head_path(journal.path).write_text(json.dumps({"seq": 1, "hash": json.loads(lines(journal)[1])["hash"]}))
    assert not verify(journal.path).ok
    with pytest.raises(StateCorrupt):
        journal.append("x", {})
