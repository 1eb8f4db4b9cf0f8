"""Every class of damage at 200 random places, with and without sealed months: found, and the first bad record named.

What is named is the table at the top of core/journal_verify.py. Damage at record p shows at p by itself, or, where
somebody recomputed hashes and head, against anchors noted outside: behind `proven`, not behind `first_bad`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import StateCorrupt
from core.journal import Anchor, Journal, verify
from core.journal_record import SEALED
from tests.fakes.journals import Chain, fill, head_of, journal_at, rehashed, spelled

PLACES = 200
Damage = Callable[[random.Random, Chain, Path], tuple[Chain, int]]
"""Damages a chain at a random place; the new chain and the record that must be named."""


def a_chain(folder: Path, *, sealing: bool) -> Chain:
    journal, clock = journal_at(folder)
    fill(journal, clock, months=4, each=10)
    if sealing:
        journal.seal()
        fill(journal, clock, months=5, each=2)
        journal.seal()
    found = Chain.load(journal.path)
    assert len(found.files) == (5 if sealing else 1)
    return found


@pytest.fixture(scope="module", params=[False, True], ids=["one file", "sealed months"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return a_chain(tmp_path_factory.mktemp("base"), sealing=request.param)


def edit(rng: random.Random, chain: Chain, folder: Path) -> tuple[Chain, int]:
    lines = chain.lines
    p = rng.randint(1, len(lines))
    row = json.loads(lines[p - 1])
    change = rng.choice(("body", "at", "kind", "run_id", "seq", "hash", "prev", "white", "twice", "byte"))
    if change == "body":
        row["body"]["price"] = "99.99"
    elif change == "seq":
        row["seq"] += rng.choice((-1, 1, 1000))
    elif change in ("at", "kind", "run_id"):
        row[change] = f"{row[change]}0"
    elif change in ("hash", "prev"):
        row[change] = rng.randbytes(32).hex()
    made = spelled(row)
    if change == "white":
        made = made.replace(b":", b": ", 1)
    elif change == "twice":  # the same key again: a reader takes the last, so both must be refused
        made = made.replace(b'{"at":', b'{"at":"2024-01-01T00:00:00.000000Z","at":', 1)
    elif change == "byte":
        at = rng.randrange(len(made) - 1)
        made = made[:at] + bytes([made[at] ^ (1 << rng.randrange(7))]) + made[at + 1 :]
    assert made != lines[p - 1]
    lines[p - 1] = made
    return chain.with_lines(lines), p


def insert(rng: random.Random, chain: Chain, folder: Path) -> tuple[Chain, int]:
    lines = chain.lines
    p = rng.randint(1, len(lines))
    copy = rng.choice(lines)
    foreign = spelled({**json.loads(copy), "run_id": "somebody"})
    new = rng.choice((copy, foreign, b"\n", b"{}\n"))
    if new == lines[p - 1]:  # a copy of itself before itself is a copy behind itself
        p += 1
    lines.insert(p - 1, new)
    return chain.with_lines(lines, shift_at=min(p, len(chain.lines))), p


def delete(rng: random.Random, chain: Chain, folder: Path) -> tuple[Chain, int]:
    lines = chain.lines
    p = rng.randint(1, len(lines))
    until = min(len(lines), p + rng.choice((0, 0, 0, 1, 5)))
    kept = lines[: p - 1] + lines[until:]
    files, seen = [], 0
    for name, held in chain.files:
        mine = [line for n, line in enumerate(held, start=seen + 1) if not p <= n <= until]
        files.append((name, tuple(mine)))
        seen += len(held)
    made = Chain(tuple(files), chain.head)
    assert made.lines == kept
    return made, p


def swap(rng: random.Random, chain: Chain, folder: Path) -> tuple[Chain, int]:
    lines = chain.lines
    p, q = sorted(rng.sample(range(1, len(lines) + 1), 2))
    lines[p - 1], lines[q - 1] = lines[q - 1], lines[p - 1]
    return chain.with_lines(lines), p


def truncate(rng: random.Random, chain: Chain, folder: Path) -> tuple[Chain, int]:
    """The end is cut off, at a record or inside one, whole files with it."""
    p, seen, files = rng.randint(1, len(chain.lines)), 0, []
    for name, held in chain.files:
        kept = held[: max(0, p - 1 - seen)]
        if len(kept) < len(held) and seen < p and rng.random() < 0.5:
            kept += (held[p - 1 - seen][: rng.randrange(len(held[p - 1 - seen]) - 1)],)
        seen += len(held)
        if kept:
            files.append((name, kept))
    if files[-1:] and files[-1][0] == chain.files[-1][0]:
        return Chain(tuple(files), chain.head), p
    return Chain((*files, (chain.files[-1][0], ())), chain.head), p


def splice(rng: random.Random, chain: Chain, folder: Path) -> tuple[Chain, int]:
    """From record p on, the records of another journal."""
    theirs = rehashed([line.replace(b'"r1"', b'"r2"') for line in chain.lines], 1)
    p = rng.randint(2, len(theirs))
    return chain.with_lines(chain.lines[: p - 1] + theirs[p - 1 :]), p


def fork(rng: random.Random, chain: Chain, folder: Path) -> tuple[Chain, int]:
    """Two writers that did not see each other: behind record p - 1 come two that both follow it."""
    lines = chain.lines
    p = rng.randint(1, len(lines) - 1)
    mine = {**json.loads(lines[p - 1]), "run_id": "the other"}
    lines.insert(p - 1, rehashed([*lines[: p - 1], spelled(mine)], p)[-1])
    return chain.with_lines(lines, shift_at=p), p + 1


@pytest.mark.parametrize("damage", [edit, insert, delete, swap, truncate, splice, fork], ids=lambda f: f.__name__)
def test_damage_shows_by_itself_at_the_record_where_it_is(chain: Chain, tmp_path: Path, damage: Damage) -> None:
    rng = random.Random(damage.__name__)
    places = set()
    for _ in range(PLACES):
        damaged, p = damage(rng, chain, tmp_path)
        path = damaged.write(tmp_path / "state")
        found = verify(path)
        assert (found.ok, found.first_bad) == (False, p), (p, found.why)
        assert not found.torn and found.why
        assert found.head == ("0" * 64 if p == 1 else json.loads(damaged.lines[p - 2])["hash"])
        places.add(p)
    assert len(places) > len(chain.lines) / 2


# ---------------------------------------------------------------- what only an anchor shows
def anchors_at(chain: Chain, *seqs: int, numbered: bool = True) -> list[Anchor]:
    return [Anchor(chain.row(seq)["hash"], seq if numbered else None) for seq in seqs]


def forged(rng: random.Random, chain: Chain, p: int, *, fork: bool) -> list[bytes]:
    """Everything from p on rewritten and made to fit: one field changed, or another continuation altogether."""
    lines = chain.lines
    if fork:
        row = json.loads(lines[p - 1])
        row["body"] = {"another": "story"} if row["kind"] != SEALED else row["body"]
        lines = lines[:p]
        lines[-1] = spelled({**row, "run_id": "the other"})
        later = [spelled({**row, "seq": p + n, "kind": "order_closed"}) for n in range(1, rng.randint(1, 9))]
        return rehashed([*lines, *later], p)
    row = json.loads(lines[p - 1])
    lines[p - 1] = spelled({**row, "body": {**row["body"], "price": "9.99"}})
    return rehashed(lines, p)


@pytest.mark.parametrize("numbered", [True, False], ids=["SEQ:HASH", "HASH"])
@pytest.mark.parametrize("kind", ["rehash", "fork"])
def test_a_rewritten_tail_shows_against_anchors(chain: Chain, tmp_path: Path, kind: str, numbered: bool) -> None:
    rng, n = random.Random(kind), len(chain.lines)
    sealed = n - len(chain.files[-1][1])
    for _ in range(PLACES):
        p = rng.randint(sealed + 1 if kind == "fork" else 1, n)
        noted = sorted({*rng.sample(range(1, n + 1), rng.randint(0, 6)), n})
        lines = forged(rng, chain, p, fork=kind == "fork")
        made = Chain(chain.with_lines(lines, shift_at=n).files, head_of(lines, tmp_path))
        found = verify(made.write(tmp_path / "state"), anchors=anchors_at(chain, *noted, numbered=numbered))
        assert not found.ok
        assert found.proven == max([0, *(seq for seq in noted if seq < p)])
        assert found.first_bad is not None and found.proven < p <= found.first_bad
        if numbered:  # the lowest anchor behind the damage, or the end if the fork is shorter than that
            assert found.first_bad == min(*[seq for seq in noted if seq >= p], len(lines) + 1, n + 1)


def test_one_anchor_per_record_names_the_record_itself(chain: Chain, tmp_path: Path) -> None:
    rng, every = random.Random(1), anchors_at(chain, *range(1, len(chain.lines) + 1))
    for _ in range(PLACES):
        p = rng.randint(1, len(chain.lines))
        lines = forged(rng, chain, p, fork=False)
        made = Chain(chain.with_lines(lines).files, head_of(lines, tmp_path))
        found = verify(made.write(tmp_path / "state"), anchors=every)
        assert (found.ok, found.proven, found.first_bad) == (False, p - 1, p)


def test_a_rewritten_sealed_month_shows_by_the_record_that_sealed_it(tmp_path: Path) -> None:
    """The record of a sealing is an anchor inside the chain, for a forger who forgets it."""
    chain = a_chain(tmp_path / "base", sealing=True)
    sealed = [len(lines) for name, lines in chain.files[:-1]]
    ends = [sum(sealed[: i + 1]) for i in range(len(sealed))]
    rng = random.Random(2)
    for _ in range(PLACES):
        p = rng.randint(1, ends[-1])
        lines = forged(rng, chain, p, fork=False)
        made = Chain(chain.with_lines(lines).files, head_of(lines, tmp_path))
        found = verify(made.write(tmp_path / "state"))
        named = p if chain.row(p)["kind"] == SEALED else min(end for end in ends if end >= p)
        assert (found.ok, found.first_bad) == (False, named)


@pytest.mark.parametrize("numbered", [True, False], ids=["SEQ:HASH", "HASH"])
@pytest.mark.parametrize("sealing", [False, True], ids=["one file", "sealed months"])
def test_an_older_copy_of_the_whole_folder_shows_against_an_anchor(
    tmp_path: Path, sealing: bool, numbered: bool
) -> None:
    journal, clock = journal_at(tmp_path / "now")
    copies = []
    for month in range(40):
        fill(journal, clock, months=month // 10 + 1, each=1)
        if sealing and month % 10 == 9:
            journal.seal()
        copies.append(Chain.load(journal.path))
    newest = copies[-1]
    rng = random.Random(3)
    for _ in range(PLACES):
        old = rng.choice(copies[:-1])
        path = old.write(tmp_path / "old" / "state")
        assert verify(path, anchors=anchors_at(newest, len(old.lines), numbered=numbered)).ok
        noted = sorted({rng.randint(1, len(old.lines)), len(newest.lines)})
        found = verify(path, anchors=anchors_at(newest, *noted, numbered=numbered))
        assert (found.ok, found.first_bad, found.proven) == (False, len(old.lines) + 1, noted[0])


def test_a_rolled_back_folder_is_refused_by_a_process_that_saw_more(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=1, each=5)
    old = Chain.load(journal.path)
    journal.append("order_intended", {})
    old.write(journal.path.parent)
    with pytest.raises(StateCorrupt) as caught:
        journal.append("order_intended", {})
    assert caught.value.code == "JOURNAL_ROLLED_BACK"
    assert Journal(journal.path, clock).append("order_intended", {}).seq == 6  # a new process has no way to know
    with pytest.raises(StateCorrupt):  # the same number, another record
        journal.append("order_intended", {})


def test_an_older_active_file_beside_newer_segments_shows_without_an_anchor(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=2, each=4)
    old, head = journal.path.read_bytes(), Chain.load(journal.path).head
    fill(journal, clock, months=3, each=4)
    journal.seal()
    newest = Chain.load(journal.path)
    made = Chain((*newest.files[:-1], (journal.path.name, tuple(old.splitlines(keepends=True)))), head)
    path = made.write(tmp_path / "old")
    found = verify(path)
    assert (found.ok, found.first_bad) == (False, 9)
    with pytest.raises(StateCorrupt):
        list(Journal(path, clock).records())


def test_two_anchors_for_one_record_that_differ_are_never_both_met(tmp_path: Path) -> None:
    journal, clock = journal_at(tmp_path)
    fill(journal, clock, months=1, each=3)
    good = Anchor(verify(journal.path).head, 3)
    assert verify(journal.path, anchors=[good]).proven == 3
    for pair in ([good, Anchor("ab" * 32, 3)], [Anchor("ab" * 32, 3), good]):
        assert verify(journal.path, anchors=pair).first_bad == 3


# ---------------------------------------------------------------- torn is not tampered
def _base(tmp_path: Path, sealing: bool) -> tuple[Chain, bytes]:
    """A chain, and the line that would have come next."""
    journal, clock = journal_at(tmp_path / "base")
    fill(journal, clock, months=2, each=2)
    if sealing:
        journal.seal()
    before = Chain.load(journal.path)
    journal.append("order_intended", {"symbol": "AAPL", "text": "€ \n \x00 " * 20})
    return before, Chain.load(journal.path).lines[-1]


@pytest.mark.parametrize("sealing", [False, True], ids=["one file", "sealed months"])
def test_a_torn_line_and_a_cut_one_are_told_apart_at_every_byte(tmp_path: Path, sealing: bool) -> None:
    """The same bytes on the disk: torn when the head ends before them, tampered when it ends with them."""
    before, line = _base(tmp_path, sealing)
    whole, n = before.with_lines([*before.lines, line], shift_at=len(before.lines)), len(before.lines)
    head = head_of(whole.lines, tmp_path)
    rng, tried = random.Random(4), 0
    ends = [line[:k] for k in range(1, len(line))]
    ends += [b"\0" * k for k in range(1, 40)] + [b"\0" * k + line[k:] for k in range(1, 40)]
    for end in rng.sample(ends, 250):
        cut = before.with_lines([*before.lines, end], shift_at=n)
        path = cut.write(tmp_path / "state")
        found = verify(path)
        assert (found.ok, found.torn, found.first_bad) == (False, True, n + 1), end
        path = Chain(cut.files, head).write(tmp_path / "state")
        found = verify(path)
        assert (found.ok, found.torn, found.first_bad) == (False, False, n + 1), end
        tried += 2
    assert tried == 500


@pytest.mark.parametrize("sealing", [False, True], ids=["one file", "sealed months"])
def test_a_torn_line_is_set_aside_and_a_cut_one_refused_and_left(tmp_path: Path, sealing: bool) -> None:
    before, line = _base(tmp_path, sealing)
    n, rng = len(before.lines), random.Random(5)
    head = head_of([*before.lines, line], tmp_path)
    for k in rng.sample(range(1, len(line)), 40):
        cut = before.with_lines([*before.lines, line[:k]], shift_at=n)
        path = Chain(cut.files, head).write(tmp_path / f"cut{k}")
        journal, _ = journal_at(tmp_path / "unused")
        journal.path = path
        with pytest.raises(StateCorrupt):
            journal.append("x", {})
        assert Chain.load(path) == Chain(cut.files, head)
        journal, _ = journal_at(tmp_path / f"torn{k}")
        cut.write(journal.path.parent)
        assert journal.append("x", {}).seq == n + 2
        assert [r.kind for r in journal.records()][n:] == ["journal_torn_line", "x"] and verify(journal.path).ok
        assert journal.path.with_suffix(".torn").read_bytes() == line[:k] + b"\n"
