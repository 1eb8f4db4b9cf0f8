"""O11: a month of logs is asked by code, symbol and word, over the rotated files, and shows no key."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scripts import show_log

KEY = "PKTESTLEAKED0123456789"


@pytest.fixture
def a_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    logs, now = tmp_path / "logs", datetime.now(UTC)
    logs.mkdir()
    for days in (0, 3, 29, 31):
        at = now - timedelta(days=days, minutes=1)
        lines = [
            {"at": at.isoformat(), "event": "order_refused", "code": "QUOTE_ABSENT", "symbol": "AAPL", "days": days},
            {"at": at.isoformat(), "event": "library_warned", "message": f"header {KEY} was sent", "days": days},
        ]
        name = "events.jsonl" if not days else f"events.jsonl.{at:%Y-%m-%d}"
        (logs / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tmp_path


def test_O11_thirty_days_are_one_question_and_no_key_is_shown(
    a_month: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALPACA_API_KEY_ID", KEY)  # known only now: the lines were written before it was
    assert show_log.main(["--days", "30", "--code", "QUOTE_ABSENT", "--symbol", "aapl", "--json"]) == 0
    assert [r["days"] for r in json.loads(capsys.readouterr().out)["rows"]] == [29, 3, 0]
    assert show_log.main(["--days", "30", "--text", "was sent"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("library_warned") == 3 and KEY not in shown and "***" in shown
    assert show_log.main(["--code", "NEVER_SAID"]) == 1
    assert "0 lines found" in capsys.readouterr().out
