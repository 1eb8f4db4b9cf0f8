"""What is seen of the language model's spend: the numbers of the budget file, and never a number that is not known."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from execution.observe.metrics import as_prometheus
from execution.observe.page import render
from llm.audit import FILE as AUDIT
from llm.spend import Amount, Reservation
from llm.token_budget import FILE, Settlement, TokenBudget
from tests.fakes.observed import SETTINGS, Observed, at_ten

CHOSEN = SETTINGS.cognitive.llm_analyzer


def spent(made: Observed) -> TokenBudget:
    """One answer of 400 tokens and a reservation of 1,000 that is still open."""
    budget = TokenBudget(made.home, CHOSEN, made.clock)
    for amount, settled in ((Amount(400, Decimal("0.25")), True), (Amount(1000, Decimal("0.50")), False)):
        taken = budget.reserve(amount, model="m", purpose="advice", request_sha256="r")
        assert isinstance(taken, Reservation)
        if settled:
            budget.settle(taken, Settlement(code="OK", amount=amount, answered=True, latency_ms=300.0))
    return budget


def test_the_facts_are_those_of_the_budget_reservations_included(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    budget = spent(made)
    facts = made.look()
    assert facts.llm.cost_usd_today == budget.cost_usd_today == Decimal("0.75")
    assert (facts.llm.tokens_today, facts.llm.tokens_budget) == (1400, CHOSEN.max_daily_tokens)
    assert (facts.llm.calls_today, facts.llm.avg_latency_ms) == (2, 300.0)
    assert not [name for name in facts.unknown if name.startswith("llm.")]
    text = as_prometheus(facts, made.ready()).decode()
    assert "kobe_llm_cost_usd_today 0.75" in text and "kobe_llm_tokens_today 1400.0" in text
    assert "kobe_llm_token_budget 100000.0" in text and "kobe_llm_latency_seconds 0.3" in text
    assert "1400 of 100000" in render(facts, made.ready()).decode()


def test_a_new_day_has_nothing_spent_before_anybody_asks(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    spent(made)
    made.clock.advance(timedelta(days=1))
    facts = made.look()
    assert facts.llm.cost_usd_today == 0 and (facts.llm.tokens_today, facts.llm.calls_today) == (0, 0)
    assert facts.unknown["llm.avg_latency_ms"] == "LLM_NO_ANSWERS"


def test_a_clock_set_back_shows_the_day_that_goes_on(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    spent(made)
    made.clock.set(made.clock.now() - timedelta(days=3))
    assert made.look().llm.cost_usd_today == Decimal("0.75")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda state: (state / FILE).unlink(), "LLM_BUDGET_LOST"),
        (lambda state: (state / FILE).write_bytes(b""), "LLM_BUDGET_DAMAGED"),
        (lambda state: (state / FILE).write_bytes(b"[" * 100_000), "LLM_BUDGET_DAMAGED"),
        (lambda state: changed(state, "cost_usd_today", "0"), "LLM_BUDGET_DAMAGED"),
        (lambda state: changed(state, "used_today", 0), "LLM_BUDGET_DAMAGED"),
        (lambda state: changed(state, "cost_usd_today", "NaN"), "LLM_BUDGET_DAMAGED"),
        (lambda state: changed(state, "calls_today", -1), "LLM_BUDGET_DAMAGED"),
        (lambda state: changed(state, "schema_version", 2), "STATE_NEWER"),
        (lambda state: (state / AUDIT).write_bytes((state / AUDIT).read_bytes() + b"{}\n"), "LLM_BUDGET_BEHIND"),
        (lambda state: (state / AUDIT).unlink(), "LLM_BUDGET_LOST"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_unknown_with_its_reason(
    tmp_path: Path, spoil: Callable[[Path], object], code: str
) -> None:
    made = at_ten(tmp_path)
    spent(made)
    spoil(made.home.state)
    facts = made.look()
    assert (facts.llm.cost_usd_today, facts.llm.tokens_today, facts.llm.calls_today) == (None, None, None)
    assert facts.unknown["llm.cost_usd_today"] == facts.unknown["llm.tokens_today"] == code


def changed(state: Path, name: str, value: object) -> None:
    document = json.loads((state / FILE).read_bytes())
    assert name in document
    (state / FILE).write_text(json.dumps({**document, name: value}))
