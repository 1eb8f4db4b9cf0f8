"""A briefing as a value: sections of named facts and tables. Markdown, page and JSON are three spellings of it. Pure.

Every fact has words for people and a plain value for programs. What is not known has no value: its words say
`unknown (CODE)`, and the code stands under the same name in the JSON. Nothing here is worked out by a language model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from core.canonical import plain
from core.secrets import mask_secrets
from execution.observe.facts import EquityPoint
from execution.observe.words import printable


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a section. `code` is why it is not known; then `value` is None."""

    key: str
    name: str
    words: str
    value: Any = None
    code: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """`mark` is good, bad or warn, or nothing."""

    words: str
    value: Any = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns are (key, heading). An empty one says `nothing`."""

    key: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]
    nothing: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure of a bar chart; `words` stand beside it."""

    label: str
    value: float
    words: str
    more_is_good: bool = True


@dataclass(frozen=True, slots=True)
class Chart:
    """`bars` around zero, or the equity curve; the page draws it, Markdown has the numbers in the facts."""

    title: str
    bars: tuple[Bar, ...] = ()
    equity: tuple[EquityPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    key: str
    title: str
    facts: tuple[Fact, ...] = ()
    tables: tuple[Table, ...] = ()
    chart: Chart | None = None


@dataclass(frozen=True, slots=True)
class Narrative:
    """What a language model says of the facts, checked; or the code of why it says nothing."""

    paragraphs: tuple[str, ...]
    code: str
    detail: str = ""
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Briefing:
    phase: str
    session: date
    at: datetime
    mode: str
    broker: str
    simulated: bool
    state: str  # ARMED, NOT READY, HALTED; NOT KEPT for a day that is over
    sections: tuple[Section, ...]

    def unknown(self) -> dict[str, str]:
        """Dotted name -> reason code, of everything that is not known."""
        return {f"{s.key}.{f.key}": f.code for s in self.sections for f in s.facts if f.code}


# ---------------------------------------------------------------- making facts
def known(key: str, name: str, value: Any, words: str | None = None) -> Fact:
    return Fact(key, name, one_line(str(value) if words is None else words), value)


def missing(key: str, name: str, code: str) -> Fact:
    return Fact(key, name, f"unknown ({code})", None, code)


def either(key: str, name: str, value: Any, words: str, code: str) -> Fact:
    """The value with its words, or why there is none."""
    return missing(key, name, code) if value is None else known(key, name, value, words)


def cell(value: Any, words: str | None = None, mark: str = "") -> Cell:
    """None is an empty cell."""
    shown = "" if value is None else str(value)
    return Cell(one_line(shown if words is None else words), value, mark)


def money_cell(value: Decimal | float | None) -> Cell:
    return cell(value, "" if value is None else f"{value:,.2f}")


def one_line(text: str) -> str:
    """Without line ends, and without what moves a cursor or turns the writing round; keys are masked."""
    return mask_secrets(printable(" ".join(text.split())))


# ---------------------------------------------------------------- as JSON
def as_json(briefing: Briefing, narrative: Narrative, files: Mapping[str, str]) -> dict[str, Any]:
    """One object; a section holds its facts under their keys and its tables as lists of rows."""
    rows: Mapping[str, Any] = {
        "phase": briefing.phase, "session": briefing.session, "at": briefing.at, "mode": briefing.mode,
        "broker": briefing.broker, "simulated": briefing.simulated, "state": briefing.state,
        "sections": {section.key: _section(section) for section in briefing.sections},
        "unknown": briefing.unknown(),
        "narrative": {
            "paragraphs": list(narrative.paragraphs), "code": narrative.code, "detail": narrative.detail,
            "model": narrative.model,
        },
        "files": dict(files),
    }  # fmt: skip
    made: dict[str, Any] = plain(rows)
    return made


def _section(section: Section) -> dict[str, Any]:
    facts = {fact.key: fact.value for fact in section.facts}
    return facts | {table.key: [_row(table.columns, row) for row in table.rows] for table in section.tables}


def _row(columns: Sequence[tuple[str, str]], row: Sequence[Cell]) -> dict[str, Any]:
    return {key: found.value for (key, _), found in zip(columns, row, strict=True)}


def every_word(briefing: Briefing) -> Iterator[str]:
    """Everything that the briefing says to people: what a narrative may repeat."""
    yield f"{briefing.phase} {briefing.session} {briefing.mode} {briefing.broker} {briefing.state}"
    for section in briefing.sections:
        yield section.title
        for fact in section.facts:
            yield f"{fact.name}: {fact.words}"
        for table in section.tables:
            for row in table.rows:
                yield " ".join(found.words for found in row)
