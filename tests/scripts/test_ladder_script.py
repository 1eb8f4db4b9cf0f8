"""ladder.py: one rung up with evidence, down with a reason, every step a record; nothing without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core import cli
from core.clock import SteppedClock
from core.errors import Exit
from core.journal import Journal
from scripts import ladder
from tests.execution.test_ladder import ENTRY, bound, scans
from tests.fakes.trading import NOW


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder with one session a rung."""
    config = tmp_path / "small.yaml"
    rungs = ("replay_sessions", "paper_sessions", "paper_fills", "shadow_sessions", "one_share_sessions")
    config.write_text("ladder:\n" + "".join(f"  {name}: 1\n" for name in rungs), encoding="utf-8")
    monkeypatch.setenv("KOBE_CONFIG", str(config))


def run(*words: str) -> int:
    return int(cli.run(lambda: ladder.main([*words])))


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def home_with(folder: Path, *records: tuple[str, dict[str, Any]], replayed: bool = False) -> Path:
    (folder / "state").mkdir(parents=True)
    journal = Journal(folder / "state" / "hash_chain.jsonl", SteppedClock(NOW))
    for kind, body in records:
        journal.append(kind, body)
    if replayed:
        (folder / "state" / "replay.json").write_text("{}")
    return folder


def an_entry() -> tuple[tuple[str, dict[str, Any]], ...]:
    from execution.ledger import intent_body
    from tests.fakes.trading import entry

    intent = entry("AAA")
    assert intent.client_order_id == ENTRY
    ids = {"client_order_id": ENTRY, "decision_id": intent.decision_id, "symbol": "AAA"}
    return (
        ("order_intended", intent_body(intent)),
        ("order_acknowledged", {**ids, "order_id": "o1", "status": "new"}),
        ("order_filled", {**ids, "quantity": 1, "price": "50.00", "at": NOW.isoformat(), "late": False}),
        ("order_closed", {**ids, "status": "filled", "broker_status": "filled", "filled_quantity": 1,
                          "filled_price": "50.00"}),
    )  # fmt: skip


def test_the_ladder_is_climbed_rung_by_rung_with_evidence_and_every_step_is_a_record(
    tmp_path: Path, own_home: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    replay = home_with(tmp_path / "replay", bound("paper"), *scans(1), *an_entry(), replayed=True)
    paper = home_with(tmp_path / "paper", bound("paper"), *scans(1), *an_entry())
    assert run("status", "--json") == Exit.OK and told(capsys)["rung"] == "replay"
    assert not (own_home / "state").exists(), "looking writes nothing"
    assert run("advance", "--evidence", str(replay), "--json") == Exit.OK
    assert told(capsys)["rung"] == "paper"
    assert run("advance", "--evidence", str(replay)) == Exit.NO, "a replay proves nothing about a paper account"
    capsys.readouterr()
    assert run("advance", "--evidence", str(paper), "--json") == Exit.OK
    assert told(capsys)["rung"] == "shadow"
    assert run("advance", "--json") == Exit.NO, "this home has shown nothing yet"
    assert {c["name"] for c in told(capsys)["criteria"] if not c["met"]} >= {"sessions in the shadow"}

    steps = [r.body for r in Journal(own_home / "state" / "hash_chain.jsonl", SteppedClock(NOW)).kinds("ladder_step")]
    assert [(s["from"], s["to"]) for s in steps] == [("replay", "paper"), ("paper", "shadow")]
    assert all(c["met"] for s in steps for c in s["criteria"]) and steps[1]["evidence"]["head"].startswith("6:")


def test_down_it_goes_with_a_reason_only(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home_with(own_home, ("ladder_step", {"from": "x", "to": "full", "reason": "test"}))
    assert run("back") == Exit.USAGE and "--reason" in capsys.readouterr().err
    assert run("back", "--reason", "odd fills", "--json") == Exit.OK and told(capsys)["rung"] == "one_share"
    assert run("back", "--reason", "again", "--to", "replay", "--json") == Exit.OK and told(capsys)["rung"] == "replay"
    assert run("back", "--reason", "lower") == Exit.USAGE
    assert run("back", "--reason", "x", "--to", "moon") == Exit.USAGE


def test_below_one_share_it_does_not_go_while_something_is_held_or_ordered(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    intended, *rest = an_entry()
    home_with(own_home, ("ladder_step", {"from": "x", "to": "full", "reason": "test"}), intended, *rest)
    assert run("back", "--reason", "odd", "--to", "shadow") == Exit.CONFIG
    assert "LADDER_HOLDING: AAA" in capsys.readouterr().err
    assert run("back", "--reason", "odd", "--to", "one_share", "--json") == Exit.OK


def test_an_order_that_is_out_holds_it_too(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home_with(own_home, ("ladder_step", {"from": "x", "to": "one_share", "reason": "test"}), an_entry()[0])
    assert run("back", "--reason", "odd") == Exit.CONFIG
    assert "LADDER_HOLDING: AAA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rung", "words"),
    [
        ("replay", ["advance"]), ("replay", ["advance", "--to", "full"]),
        ("shadow", ["advance", "--evidence", "elsewhere"]),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(own_home: Path, rung: str, words: list[str]) -> None:
    home_with(own_home, ("ladder_step", {"from": "x", "to": rung, "reason": "test"}))
    assert run(*words) == Exit.USAGE


def test_evidence_that_does_not_verify_is_refused(tmp_path: Path, small: None) -> None:
    replay = home_with(tmp_path / "replay", *scans(1), *an_entry(), replayed=True)
    path = replay / "state" / "hash_chain.jsonl"
    path.write_bytes(path.read_bytes().replace(b"2024-03-01T09:35", b"2024-03-09T09:35", 1))
    assert run("advance", "--evidence", str(replay)) == Exit.STATE_CORRUPT


def test_at_the_top_there_is_nothing_to_climb(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home_with(own_home, ("ladder_step", {"from": "x", "to": "full", "reason": "test"}))
    assert run("status") == Exit.OK and "top" in capsys.readouterr().out
    assert run("advance") == Exit.NO
