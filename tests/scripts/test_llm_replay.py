"""A recorded span again, with the kept answers: the same decisions to the byte, no call, no cost; and its worth.

The suite plays three sessions of a dozen names. A quarter of 160 names: KOBE_QUARTER=1 python -m pytest --timeout=0
tests/scripts/test_llm_replay.py (docs/briefings.md has the last figures).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.clock import SystemClock
from core.journal import Journal
from llm import audit
from scripts import llm_value, runner
from scripts.remembering import Remembering
from tests.fakes.attacks import asked_in, user_text
from tests.fakes.llm import KEY, LlmDesk, calendar_of, llm_desk, llm_host

ROOT = Path(__file__).resolve().parents[2]
WHOLE = "KOBE_QUARTER" in os.environ
SPAN = "2026-08-10:2026-11-06" if WHOLE else "2026-10-20:2026-10-22"
NAMES = 160 if WHOLE else 10
SETTINGS = """
selection: {mode: top_n, top_n: {n: 3}}
quality_gate: {min_score: 40}
cognitive: {llm_analyzer: {mode: full}}
"""


def advised(body: Mapping[str, Any]) -> str:
    """The same advice for the same question: by name, a third each is vetoed, halved and approved."""
    said = (("veto", 0), ("shrink", 0.5), ("approve", 1))
    rows = []
    for decision_id, symbol in asked_in(user_text(body)):
        verdict, scale = said[sum(symbol.encode()) % 3]
        rows.append({"decision_id": decision_id, "symbol": symbol, "verdict": verdict, "scale": scale,
                     "confidence": None, "reasons": [f"{symbol} is so named"]})  # fmt: skip
    return json.dumps({"advice": rows})


@dataclass(frozen=True)
class Played:
    """What was played once, with the model asked."""

    root: Path
    desk: LlmDesk

    def home(self, name: str) -> Path:
        return self.root / name

    def play(self, name: str, monkeypatch: pytest.MonkeyPatch, *, key: str = KEY) -> None:
        """Without a key a replay asks nobody: kept answers of any age, or none."""
        use(self, name, monkeypatch)
        monkeypatch.setenv("ANTHROPIC_API_KEY", key)
        words = ["--mode", "paper", "--replay", SPAN, "--no-sidecar", "--no-alerts", "--json"]
        assert runner.main([*words, "--universe", str(self.root / "few.csv")]) == 0

    def records(self, name: str) -> list[tuple[str, str]]:
        """Every record but for hashes, and but for whether an answer was kept."""
        journal = Journal(self.home(name) / "state" / "hash_chain.jsonl", SystemClock())
        return [(r.kind, json.dumps(without_cached(r.body), sort_keys=True)) for r in journal.records()]

    def spent(self, name: str) -> Decimal:
        lines = audit.read_calls(self.home(name) / "state" / audit.FILE)
        return sum((Decimal(str(line["usd"])) for line in lines if line["kind"] == "settled"), Decimal(0))


def without_cached(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_cached(item) for key, item in value.items() if key != "cached"}
    return [without_cached(item) for item in value] if isinstance(value, list) else value


def use(played: Played, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOBE_HOME", str(played.home(name)))
    monkeypatch.setenv("KOBE_CONFIG", str(played.root / "settings.yaml"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", played.desk.url)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    root = tmp_path_factory.mktemp("quarter")
    rows = (ROOT / "data" / "universe" / "optionable_liquid_800.csv").read_text(encoding="utf-8").splitlines()
    few = [row for k, row in enumerate(rows) if k <= NAMES or row.split(",")[0] in ("GNRC", "CAKE", "W")]
    (root / "few.csv").write_text("\n".join(few) + "\n", encoding="utf-8")
    (root / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    with ExitStack() as stack:
        host = stack.enter_context(llm_host())
        desk = stack.enter_context(llm_desk(host, root / "desk", calendar_of(root / "calendar")))
        desk.model.say = advised
        made = Played(root, desk)
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        made.play("first", monkeypatch)
        yield made


def test_the_model_was_asked_and_heard(played: Played) -> None:
    reviewed = [json.loads(body) for kind, body in played.records("first") if kind == "signals_reviewed"]
    rows = [row for body in reviewed for row in body["signals"]]
    assert played.desk.model.requests > 0 and played.spent("first") > 0
    assert {row["llm"]["code"] for row in rows} == {"OK"}
    assert {row["llm"]["verdict"] for row in rows} >= {"veto", "shrink"}


def test_M18_with_the_kept_answers_it_is_the_same_to_the_byte_and_costs_nothing(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a memory that is taken away before each scan, and made again from the journal, changes nothing."""
    shutil.copytree(played.home("first") / "cache" / "llm", played.home("again") / "cache" / "llm")
    before, real, removed = played.desk.model.requests, Remembering.mind, []

    def forgetful(self: Remembering, *args: Any) -> Any:
        self._memory = None
        if self._path.exists():
            removed.append(self._path)
            self._path.unlink()
        return real(self, *args)

    monkeypatch.setattr(Remembering, "mind", forgetful)
    played.play("again", monkeypatch, key="")
    assert played.records("again") == played.records("first")
    assert played.desk.model.requests == before and played.spent("again") == 0
    assert removed, "there was no memory to remove"


def test_its_worth_adds_up_to_the_cent(
    played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(played, "first", monkeypatch)
    capsys.readouterr()
    assert llm_value.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    total, months = facts["total"], facts["months"].values()
    assert facts["models"] == {"claude-sonnet-5-5": total["sessions"]} and total["sessions"] > 0
    for name in ("value_usd", "cost_usd", "net_usd", "usd_on", "usd_off"):
        assert sum(Decimal(m[name]) for m in months) == Decimal(total[name])
        assert Decimal(total[name]).as_tuple().exponent == -2
    assert Decimal(total["value_usd"]) == Decimal(total["usd_on"]) - Decimal(total["usd_off"])
    assert Decimal(total["net_usd"]) == Decimal(total["value_usd"]) - Decimal(total["cost_usd"])
    assert abs(Decimal(total["cost_usd"]) - played.spent("first")) <= Decimal("0.005") * len(facts["months"])
    assert total["replaced"] == 0, "the model's veto let another signal in"
