"""The narrative may repeat facts and nothing else; whatever else comes back is dropped with its reason."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import pytest

from llm.briefing import LETTERS_MOST, PARAGRAPHS_MOST, Objection, checked, narrate
from llm.client import Answer, Prompt, Purpose, Skipped
from tests.fakes.attacks import attacks

FACTS = """pregame 2026-11-27 paper embedded venue HALTED
Kill switch: ON: nothing is sent
Realised on the day: +1,234.50 USD in 3 trades
Loss of the week: -5.00 USD
Below its peak: 2.50 %
Next run: 2026-11-27T09:35 New York
Closes: 13:00 New York, a half day
Picks: AAPL BRK.B score 61.1"""


def said(*paragraphs: str) -> str:
    return json.dumps({"paragraphs": list(paragraphs)})


def code_of(*paragraphs: str) -> str:
    found = checked(said(*paragraphs), FACTS)
    return found.code if isinstance(found, Objection) else "OK"


@pytest.mark.parametrize(
    "words",
    [
        "Trading is HALTED: the kill switch is on.", "The day brought 1,234.50 USD in three trades, or 3.",
        "1234.5 USD", "+1,234.50 USD", "-5.00 USD", "a loss of 5 USD", "2.5 % below the peak",
        "61.1 for AAPL and BRK.B",
        "On 2026-11-27 at 09:35, a half day that ends at 13:00.", "2026-11-27T09:35", "No one knows; VIX is not told.",
        "One thing first: nothing is sent.",
    ],
)  # fmt: skip
def test_what_the_facts_say_may_be_said(words: str) -> None:
    assert checked(said(words), FACTS) == (words,)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("1,234.51 USD", "NARRATIVE_NUMBER"), ("four trades", "NARRATIVE_NUMBER"), ("5k USD", "NARRATIVE_NUMBER"),
        ("a million USD", "NARRATIVE_NUMBER"), ("it will double", "NARRATIVE_NUMBER"), ("3x", "NARRATIVE_NUMBER"),
        ("-1,234.50 USD", "NARRATIVE_NUMBER"), ("+5.00 USD", "NARRATIVE_NUMBER"), ("2026-11-28", "NARRATIVE_NUMBER"),
        ("at 09:36", "NARRATIVE_NUMBER"), ("13:00:00", "NARRATIVE_NUMBER"), ("½ a share", "NARRATIVE_NUMBER"),
        ("٣ trades", "NARRATIVE_NUMBER"), ("1.234,50", "NARRATIVE_NUMBER"), ("3.1.2", "NARRATIVE_NUMBER"),
        (".5", "NARRATIVE_NUMBER"), ("1e9", "NARRATIVE_NUMBER"), ("\u22121,234.50", "NARRATIVE_NUMBER"),
        ("buy NVDA", "NARRATIVE_NAME"), ("F is cheap", "NARRATIVE_NAME"), ("BRK.A", "NARRATIVE_NAME"),
        ("\u0410APL is up", "NARRATIVE_NAME"), ("see https://x.example", "NARRATIVE_LINK"),
        ("www.x.example", "NARRATIVE_LINK"), ("write to a@b", "NARRATIVE_LINK"), ("go to evil.com", "NARRATIVE_LINK"),
        ("a \u202e turn", "NARRATIVE_UNPRINTABLE"), ("a \x1b[2J bell", "NARRATIVE_UNPRINTABLE"),
    ],
)  # fmt: skip
def test_what_they_do_not_say_drops_all_of_it(words: str, code: str) -> None:
    assert code_of(words) == code
    assert code_of("Trading is HALTED.", words) == code


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "prose", said(), said(""), said(*["x"] * (PARAGRAPHS_MOST + 1)),
        said("x" * (LETTERS_MOST + 1)),
        '{"paragraphs": ["x"], "orders": []}', '{"paragraphs": [1]}', '{"paragraphs": "x"}',
        '{"paragraphs": ["x"], "paragraphs": ["y"]}', "[" * 50_000, f"```json\n{said('x')}\n```", said("x") + "{}",
    ],
)  # fmt: skip
def test_another_shape_is_refused(text: str) -> None:
    found = checked(text, FACTS)
    assert isinstance(found, Objection) and found.code == "NARRATIVE_SCHEMA"


def test_a_paragraph_and_a_list_at_their_limits_pass() -> None:
    assert code_of(*["x" * LETTERS_MOST] * PARAGRAPHS_MOST) == "OK"


class Door:
    def __init__(self, answer: Answer | Skipped) -> None:
        self.answer, self.asked = answer, list[Prompt]()

    def ask(self, prompt: Prompt) -> Answer | Skipped:
        self.asked.append(prompt)
        return self.answer


def answer(text: str) -> Answer:
    return Answer(
        text=text, model="m-1", usage=None, cost_usd=Decimal("0.01"), latency_ms=1.0, cached=False, request_sha256=""
    )


def test_a_skipped_call_tells_why_there_is_no_narrative() -> None:
    door = Door(Skipped(code="LLM_BUDGET_USD", detail="used up", cost_usd=Decimal("0.02")))
    found = narrate(FACTS, phase="pregame", session=date(2026, 11, 27), door=door)
    assert (found.paragraphs, found.code, found.detail, found.cost_usd) == (
        (),
        "LLM_BUDGET_USD",
        "used up",
        Decimal("0.02"),
    )


def test_a_dropped_narrative_is_paid_for_and_says_why() -> None:
    found = narrate(FACTS, phase="pregame", session=date(2026, 11, 27), door=Door(answer(said("9 trades"))))
    assert (found.paragraphs, found.code, found.cost_usd) == ((), "NARRATIVE_NUMBER", Decimal("0.01"))
    good = narrate(FACTS, phase="pregame", session=date(2026, 11, 27), door=Door(answer(said("3 trades"))))
    assert (good.paragraphs, good.code, good.model) == (("3 trades",), "OK", "m-1")


def test_L15_every_fact_is_fenced_and_no_outsider_closes_a_fence() -> None:
    door = Door(Skipped(code="X"))
    hostile = [attack.text for attack in attacks(100)]
    narrate("\n".join([*FACTS.splitlines(), *hostile]), phase="pregame", session=date(2026, 11, 27), door=door)
    prompt = door.asked[0]
    assert prompt.purpose is Purpose.BRIEFING
    head, *lines = prompt.user.splitlines()
    assert head == "The facts of the pregame briefing:"
    for line in lines:
        assert line.startswith('<outside source="fact">') and line.endswith("</outside>")
        assert line.count("<") == 2
    assert not any(text in prompt.system for text in hostile if len(text) > 8)


def test_the_same_facts_ask_the_same_question() -> None:
    door = Door(Skipped(code="X"))
    for facts in (FACTS, FACTS, FACTS + " "):
        narrate(facts, phase="pregame", session=date(2026, 11, 27), door=door)
    one, two, three = (prompt.data_sha256 for prompt in door.asked)
    assert one == two != three
