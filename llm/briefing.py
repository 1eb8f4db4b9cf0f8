"""A briefing's narrative: the language model puts given facts into words, and adds none. Words only, for people.

What comes back is a closed schema of short paragraphs, and every paragraph is checked against the facts: a number, a
date, a time of day, a link or a name in capitals that the facts do not hold drops the whole narrative, with a code. So
the worst that a model (or somebody who writes to it through a broker's message) can do is to say true figures badly.
Nothing is decided on a narrative; without it the briefing is complete.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Final, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm.client import Answer, Prompt, Purpose, Skipped
from llm.fence import RULE, fenced
from llm.schema import strict_json

FACTS_MOST: Final = 24_000  # letters
PARAGRAPHS_MOST: Final = 4
LETTERS_MOST: Final = 700  # of a paragraph
TOKENS_MOST: Final = 2048  # thinking included
_SCHEMA: Final = {
    "type": "object",
    "properties": {"paragraphs": {"type": "array", "items": {"type": "string"}}},
    "required": ["paragraphs"],
    "additionalProperties": False,
}
_SYSTEM: Final = f"""You put the figures of a trading system's briefing into words for its one operator.
Write JSON: {{"paragraphs": [...]}}, one to {PARAGRAPHS_MOST} paragraphs of prose, at most {LETTERS_MOST} letters each.
Say first what stands in the way of trading, then what matters in money, then what is not known and why.
Use only what the facts say. Repeat figures, dates and times exactly as they are written there; work nothing out.
Name no symbol that is not there. No advice on what to buy or sell, no forecast, no links, no Markdown.
{RULE}"""


class Door(Protocol):
    """What is asked of llm.client.LlmDoor."""

    def ask(self, prompt: Prompt) -> Answer | Skipped: ...


@dataclass(frozen=True, slots=True)
class Narrated:
    """Checked paragraphs; none unless `code` is OK."""

    paragraphs: tuple[str, ...]
    code: str  # OK, NARRATIVE_… or LLM_…
    detail: str = ""
    model: str | None = None
    cost_usd: Decimal = Decimal(0)


_Paragraph = Annotated[str, Field(min_length=1, max_length=LETTERS_MOST)]


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    paragraphs: Annotated[list[_Paragraph], Field(min_length=1, max_length=PARAGRAPHS_MOST)]


def narrate(facts: str, *, phase: str, session: date, door: Door) -> Narrated:
    """`facts`: everything that the briefing says, one line each. Never raises for what model or network do."""
    digest = hashlib.sha256(facts.encode("utf-8", "replace")).hexdigest()
    prompt = Prompt(
        purpose=Purpose.BRIEFING, system=_SYSTEM, user=_asked(facts, phase),
        session=session, data_sha256=digest, schema=_SCHEMA, max_output_tokens=TOKENS_MOST,
    )  # fmt: skip
    answer = door.ask(prompt)
    if isinstance(answer, Skipped):
        return Narrated((), answer.code, answer.detail, cost_usd=answer.cost_usd)
    found = checked(answer.text, facts)
    if isinstance(found, Objection):
        return Narrated((), found.code, found.detail, answer.model, answer.cost_usd)
    return Narrated(found, "OK", "", answer.model, answer.cost_usd)


def _asked(facts: str, phase: str) -> str:
    """Every line of the facts in a fence of its own: broker texts and symbol names stand in them. The end is cut."""
    lines, room = [], FACTS_MOST
    for line in facts.splitlines():
        lines.append(fenced("fact", line, 600))
        room -= len(lines[-1])
        if room < 0:
            break
    return "\n".join([f"The facts of the {phase} briefing:", *lines])


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a narrative is not shown."""

    code: str
    detail: str


def checked(text: str, facts: str) -> tuple[str, ...] | Objection:
    """The paragraphs of a reply, when every one of them says nothing that the facts do not hold."""
    try:
        paragraphs = tuple(" ".join(p.split()) for p in _Words.model_validate(strict_json(text)).paragraphs)
    except ValidationError as error:
        return Objection("NARRATIVE_SCHEMA", f"{error.error_count()} objections to its form")
    except (ValueError, RecursionError) as error:
        return Objection("NARRATIVE_SCHEMA", str(error)[:120] or "nested without end")
    given = given_in(facts)
    for paragraph in paragraphs:
        objection = _objection(paragraph, given)
        if objection is not None:
            return objection
    return paragraphs


# ---------------------------------------------------------------- what may be said
_NUMBER = re.compile(
    r"\d{4}-\d{2}-\d{2}(?!\d)|\d{1,2}:\d{2}(?::\d{2})?(?!\d)|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d*\.\d+|\d+"
)
_GLUED = re.compile(r"[.,:'_\u2019]\d")  # a figure goes on in a way that we do not read
_SIGN = re.compile(r"(?<![A-Za-z0-9.])[-+\u2212]\Z")
_BEHIND = re.compile(r"[A-Za-z]+")
_UNITS = frozenset({"R", "d", "h", "s", "min", "bps", "am", "pm", "st", "nd", "rd", "th"})
_NAME = re.compile(r"(?<![A-Za-z0-9_])[A-Z](?:[A-Z0-9_]*|(?=[.-][A-Z]))(?:[.-][A-Z]{1,2})?(?![A-Za-z0-9_])")
_USUAL = frozenset({
    "A", "I", "R", "VIX", "USD", "US", "NY", "ET", "AM", "PM", "LLM", "OK", "JSON", "IOC", "GTC", "UTC", "IBS", "RSI",
})  # fmt: skip
_LINK = re.compile(r"://|\bwww\.|@|\b[a-z0-9-]+\.(?:com|net|org|io|ai|xyz|ru|cn|info|biz|app|dev)\b", re.IGNORECASE)
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_TENS = ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SPELLED: Final = {
    **{word: Decimal(value) for value, word in enumerate(_ONES)},
    **{word: Decimal(30 + 10 * value) for value, word in enumerate(_TENS)},
}
_LOOSE = frozenset({
    "hundred", "hundreds", "thousand", "thousands", "million", "millions", "billion", "billions", "trillion", "dozen",
    "dozens", "half", "third", "quarter", "quarters", "double", "doubled", "triple", "tripled", "quadruple", "twice",
    "thrice", "fold",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """What the facts hold: figures, dates and times as written, names in capitals, words."""

    numbers: frozenset[Decimal]  # by their size
    signed: frozenset[Decimal]  # those as they stand, with their sign
    instants: frozenset[str]
    names: frozenset[str]
    words: frozenset[str]


def given_in(facts: str) -> Given:
    found = [(match[0], _sign(facts, match.start())) for match in _NUMBER.finditer(facts)]
    return Given(
        numbers=frozenset(_value(word) for word, _ in found if not _is_instant(word)),
        signed=frozenset(_value(word).copy_negate() if sign == "-" else _value(word)
                         for word, sign in found if not _is_instant(word)),
        instants=frozenset(word for word, _ in found if _is_instant(word)),
        names=frozenset(match[0] for match in _NAME.finditer(facts)),
        words=frozenset(re.findall(r"[a-z]+", facts.lower())),
    )  # fmt: skip


def _objection(paragraph: str, given: Given) -> Objection | None:
    if not paragraph.isprintable():
        return Objection("NARRATIVE_UNPRINTABLE", "a sign that cannot be printed")
    if _LINK.search(paragraph):
        return Objection("NARRATIVE_LINK", "a link or an address")
    return _number_objection(paragraph, given) or _word_objection(paragraph, given) or _name_objection(paragraph, given)


def _number_objection(paragraph: str, given: Given) -> Objection | None:
    """A sign in words ("lost 5") is not read: only one in figures is compared."""
    strange = next((c for c in paragraph if not c.isascii() and unicodedata.numeric(c, None) is not None), None)
    if strange is not None:
        return Objection("NARRATIVE_NUMBER", f"the figure {strange} is spelled in another script")
    for match in _NUMBER.finditer(paragraph):
        word, behind = match[0], _BEHIND.match(paragraph, match.end())
        unit = "" if behind is None else behind[0]
        if (unit and unit not in _UNITS and not (unit == "T" and _is_instant(word))) or _GLUED.match(
            paragraph, match.end()
        ):
            return Objection("NARRATIVE_NUMBER", f"{word}{unit} is not among the facts")
        if not _held(word, _sign(paragraph, match.start()), given):
            return Objection("NARRATIVE_NUMBER", f"{word} is not among the facts")
    return None


def _held(word: str, sign: str, given: Given) -> bool:
    if _is_instant(word):
        return word in given.instants
    value = _value(word)
    return value in given.numbers if not sign else (value.copy_negate() if sign == "-" else value) in given.signed


def _sign(text: str, at: int) -> str:
    """The sign right before a figure; a dash between two figures, or within a word, is none."""
    found = _SIGN.search(text, 0, at)
    return "" if found is None else "+" if found[0] == "+" else "-"


def _word_objection(paragraph: str, given: Given) -> Objection | None:
    """Figures in words. `one` alone is an article as often as a figure."""
    for word in re.findall(r"[a-z]+", paragraph.lower()):
        value = _SPELLED.get(word)
        allowed = word in given.words or word == "one" or (value is not None and value in given.numbers)
        if (value is not None or word in _LOOSE) and not allowed:
            return Objection("NARRATIVE_NUMBER", f"{word} is not among the facts")
    return None


def _name_objection(paragraph: str, given: Given) -> Objection | None:
    strange = next((c for c in paragraph if c.isalpha() and not c.isascii()), None)
    if strange is not None:  # a letter that only looks like one of ours hides a name
        return Objection("NARRATIVE_NAME", f"the letter {strange} is of another script")
    for match in _NAME.finditer(paragraph):
        if match[0] not in given.names and match[0] not in _USUAL:
            return Objection("NARRATIVE_NAME", f"{match[0]} is not among the facts")
    return None


def _is_instant(word: str) -> bool:
    return ":" in word or word.count("-") == 2


def _value(word: str) -> Decimal:
    return Decimal(word.replace(",", ""))
