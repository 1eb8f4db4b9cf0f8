"""State documents: an older version is migrated once with the old kept, a newer one refused and left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from core import files
from core.documents import Document, Schema, read, write
from core.errors import StateCorrupt


def _renamed(before: Document) -> Document:
    return {"amount": before["sum"]}


def _check(document: Document) -> None:
    if not isinstance(document.get("amount"), int):
        raise ValueError("amount must be a number")


THIRD = Schema(3, lambda: {"schema_version": 3, "amount": 0}, _check, {1: lambda d: {"sum": d["s"]}, 2: _renamed})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "thing.json"


def test_absent_reads_as_empty_and_damaged_never_does(path: Path) -> None:
    assert read(path, THIRD) == {"schema_version": 3, "amount": 0}
    for content in (b"", b"{", b"[]", b"\0\0\0", b"{}", b'{"schema_version": "3"}', b'{"schema_version": true}',
                    b'{"schema_version": 0}', b'{"schema_version": 3}', b'{"schema_version": 1}', b"\xff"):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(StateCorrupt) as caught:
            read(path, THIRD)
        assert caught.value.code == "STATE_CORRUPT" and "thing.json" in str(caught.value)
        assert path.read_bytes() == content


def test_an_older_one_is_read_through_every_upgrade_and_kept_when_first_rewritten(path: Path) -> None:
    old = b'{"schema_version": 1, "s": 7}'
    path.write_bytes(old)
    assert read(path, THIRD) == {"schema_version": 3, "amount": 7}
    assert path.read_bytes() == old, "reading changes nothing"
    write(path, read(path, THIRD), THIRD)
    assert json.loads(path.read_bytes()) == {"schema_version": 3, "amount": 7}
    assert (path.parent / "thing.v1.json").read_bytes() == old
    write(path, {"amount": 9}, THIRD)
    assert (path.parent / "thing.v1.json").read_bytes() == old, "kept once"
    assert sorted(p.name for p in path.parent.iterdir()) == ["thing.json", "thing.v1.json"]


def test_P52_a_newer_one_is_refused_in_one_line_and_nothing_is_written(path: Path) -> None:
    path.write_bytes(b'{"schema_version": 4, "amount": 1}')
    for act in (lambda: read(path, THIRD), lambda: write(path, read(path, THIRD), THIRD)):
        with pytest.raises(StateCorrupt) as caught:
            act()
        assert caught.value.code == "STATE_NEWER" and str(caught.value).count("\n") == 0
    assert [p.name for p in path.parent.iterdir()] == ["thing.json"]


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4])
def test_P53_a_migration_killed_anywhere_is_made_again_from_the_old_document(
    path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """The n-th of: write the copy, rename it, write the new one, rename it."""
    old = b'{"schema_version": 2, "sum": 5}'
    path.write_bytes(old)
    effects = {"n": 0}

    class Killed(BaseException):
        pass

    def once(act: object) -> object:
        def wrapped(*args: object, **more: object) -> object:
            effects["n"] += 1
            if effects["n"] == dies_at:
                raise Killed
            return act(*args, **more)  # type: ignore[operator]

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(files, "_replace", once(files._replace))
        patch.setattr(os, "fdopen", once(os.fdopen))
        with pytest.raises(Killed):
            write(path, read(path, THIRD), THIRD)
    assert read(path, THIRD)["amount"] == 5
    write(path, read(path, THIRD), THIRD)
    assert json.loads(path.read_bytes())["schema_version"] == 3
    assert (path.parent / "thing.v2.json").read_bytes() == old


def test_what_would_be_a_wrong_document_is_not_written(path: Path) -> None:
    with pytest.raises(ValueError, match="amount"):
        write(path, {"amount": "x"}, THIRD)
    assert not path.exists()
