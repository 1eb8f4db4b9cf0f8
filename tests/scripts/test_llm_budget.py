"""The command beside the runbook's one-liners: it shows both limits, and resets with a reason that is kept."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from core.clock import SteppedClock
from core.errors import Exit, UsageError
from core.journal import Journal
from core.paths import Home
from llm.audit import FILE as AUDIT
from llm.spend import Amount, Reservation
from llm.token_budget import FILE, Settlement, TokenBudget
from scripts.llm_budget import main
from tests.fakes.llm import NOON, llm_settings


@pytest.fixture
def budget(own_home: Path) -> TokenBudget:
    made = TokenBudget(Home(own_home), llm_settings(), SteppedClock(NOON))
    taken = made.reserve(Amount(90_000, Decimal(1)), model="m", purpose="advice", request_sha256="r")
    assert isinstance(taken, Reservation)
    made.settle(taken, Settlement(code="OK", amount=Amount(85_000, Decimal("0.5")), answered=True))
    return made


def run(*words: str) -> int:
    return main(words, clock=SteppedClock(NOON))


def test_status_shows_both_limits_and_the_one_that_binds(
    budget: TokenBudget, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status") == Exit.OK
    shown = capsys.readouterr().out
    for words in (
        "2026-11-24",
        "85000",
        "of 100000",
        "0.5000",
        "of 50.00",
        "15.0 % left; tokens bind",
        "LLM_BUDGET_LOW",
    ):
        assert words in shown, words
    assert run("status", "--json") == Exit.OK
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(budget.get_status()))


def test_with_nothing_left_status_is_no(budget: TokenBudget) -> None:
    budget.reset("test", tokens=100_000)
    assert run("status") == Exit.NO


def test_a_reset_is_kept_with_its_reason(budget: TokenBudget, own_home: Path) -> None:
    assert run("reset", "--reason", "the vendor says 0.2", "--tokens", "10", "--usd", "0.2") == Exit.OK
    assert budget.used_today == 10 and budget.cost_usd_today == Decimal("0.2")
    (record,) = Journal(Home(own_home).journal, SteppedClock(NOON)).kinds("llm_budget_reset")
    assert (record.body["reason"], record.body["before"]["tokens"]) == ("the vendor says 0.2", 85_000)


def test_damaged_files_are_told_and_a_reset_is_the_way_out(
    budget: TokenBudget, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (FILE, AUDIT):
        (own_home / "state" / name).write_bytes(b"x\n")
    assert run("status") == Exit.NO
    assert "reset --reason" in capsys.readouterr().out
    assert run("reset", "--reason", "looked", "--tokens", "500") == Exit.OK
    assert run("status") == Exit.OK and budget.used_today == 500


def test_save_writes_the_file_again(budget: TokenBudget, own_home: Path) -> None:
    (own_home / "state" / FILE).unlink()
    assert run("save") == Exit.OK
    assert json.loads((own_home / "state" / FILE).read_bytes())["used_today"] == 85_000


@pytest.mark.parametrize(
    "words",
    [("reset",), ("reset", "--reason", " "), ("status", "--reason", "x"), ("save", "--tokens", "1"),
     ("reset", "--reason", "x", "--tokens", "-1")],
)  # fmt: skip
def test_usage(own_home: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        run(*words)


@pytest.mark.parametrize("usd", ["x", "nan", "inf", "-1"])
def test_usage_of_an_amount(own_home: Path, usd: str) -> None:
    with pytest.raises(SystemExit):
        run("reset", "--reason", "x", f"--usd={usd}")
