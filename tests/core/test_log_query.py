"""Asking the logs: every filter from both sides, rotated files, damaged lines."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.log_query import Question, query

AT = datetime(2026, 11, 2, 15, 0, tzinfo=UTC)


def row(hours: float = 0, event: str = "order_refused", **fields: Any) -> dict[str, Any]:
    return {"at": (AT + timedelta(hours=hours)).isoformat().replace("+00:00", "Z"), "event": event, **fields}


def write(path: Path, *rows: Any) -> None:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("question", "found"),
    [
        (Question(), [1, 2, 3]),
        (Question(since=AT + timedelta(hours=1)), [2, 3]),
        (Question(until=AT + timedelta(hours=1)), [1]),
        (Question(event="scan_run"), [3]),
        (Question(code="VIX_UNKNOWN"), [1]),
        (Question(code="VIX"), []),
        (Question(symbol="MSFT"), [2]),
        (Question(run_id="b"), [3]),
        (Question(text="TIMED out"), [2]),
        (Question(code="VIX_UNKNOWN", symbol="MSFT"), []),
    ],
    ids=str,
)
def test_each_filter_takes_what_it_names_and_nothing_else(tmp_path: Path, question: Question, found: list[int]) -> None:
    write(
        tmp_path / "events.jsonl", row(0, n=1, code="VIX_UNKNOWN", symbol="AAPL", run_id="a"),
        row(1, n=2, symbol="MSFT", detail="it timed out", run_id="a"), row(2, "scan_run", n=3, run_id="b"),
    )  # fmt: skip
    assert [r["n"] for r in query(tmp_path, question).rows] == found


def test_rotated_files_and_all_logs_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", row(48, n=4))
    write(tmp_path / "events.jsonl.2026-11-01", row(-24, n=1))
    write(tmp_path / "events.jsonl.2026-11-02-2", row(1, n=3))
    write(tmp_path / "errors.jsonl", row(0, n=2))
    rows = query(tmp_path, Question()).rows
    assert [(r["n"], r["log"]) for r in rows] == [(1, "events"), (2, "errors"), (3, "events"), (4, "events")]
    newest = query(tmp_path, Question(), most=1)
    assert [r["n"] for r in newest.rows] == [4] and newest.left_off == 3
    assert query(tmp_path, Question(), most=4).left_off == 0


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", row(n=1), "{half", "[]", '{"at":"soon"}', '{"at":"2026-11-02T15:00:00"}', row(n=2))
    found = query(tmp_path, Question())
    assert [r["n"] for r in found.rows] == [1, 2] and found.unreadable == 4 and found.looked_at == 6


def test_no_folder_has_no_lines(tmp_path: Path) -> None:
    assert query(tmp_path / "none", Question()).rows == []
