"""The briefing as Markdown. Pure. Whatever came from outside is escaped: it can be no link, no HTML and no emphasis."""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.market_calendar import NEW_YORK
from scripts.briefing_model import Briefing, Narrative, Section, Table, one_line

_CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+\Z")
_ACTIVE = re.compile(r"[\\`*\[\]<>|~#!]")
_LOOSE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
ROWS_MOST = 60  # of a table


def md(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    plain = one_line(text)
    if _CODE.match(plain):
        return f"`{plain}`"
    plain = plain.replace("&", "&amp;")
    plain = _ACTIVE.sub(lambda found: "&lt;" if found[0] == "<" else f"\\{found[0]}", plain)
    plain = _LOOSE_UNDERSCORE.sub(r"\\_", plain)
    plain = plain.replace("://", ":\\//").replace("@", "\\@")
    return re.sub(r"(?i)\bwww\.", lambda found: found[0][:-1] + "\\.", plain)  # no bare link either


def header(briefing: Briefing) -> str:
    there = briefing.at.astimezone(NEW_YORK)
    simulated = "**SIMULATED** · " if briefing.simulated else ""
    return (
        f"# {briefing.phase.capitalize()} briefing, {briefing.session:%a %Y-%m-%d}\n\n"
        f"{simulated}**{briefing.state}** · mode {briefing.mode} · broker {briefing.broker} · "
        f"as of {there:%Y-%m-%d %H:%M} New York\n"
    )


def body(briefing: Briefing) -> str:
    return "\n".join(part for section in briefing.sections for part in _section(section))


def _section(section: Section) -> Iterator[str]:
    yield f"## {md(section.title)}\n"
    for fact in section.facts:
        yield f"- {md(fact.name)}: {md(fact.words)}"
    if section.facts:
        yield ""
    for table in section.tables:
        yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    if not table.rows:
        yield f"{md(table.nothing)}\n"
        return
    yield "| " + " | ".join(md(head) for _, head in table.columns) + " |"
    yield "|" + "---|" * len(table.columns)
    for row in table.rows[:ROWS_MOST]:
        yield "| " + " | ".join(md(found.words) for found in row) + " |"
    if len(table.rows) > ROWS_MOST:
        yield f"\nand {len(table.rows) - ROWS_MOST} more"
    yield ""


def told(narrative: Narrative) -> str:
    """The model's words, marked as such, or why there are none."""
    head = "## In words\n\n"
    if not narrative.paragraphs:
        detail = f": {md(narrative.detail)}" if narrative.detail else ""
        return f"{head}No narrative ({md(narrative.code)}){detail}. Nothing above depends on it.\n"
    words = "\n\n".join(f"> {md(paragraph)}" for paragraph in narrative.paragraphs)
    return (
        f"{head}{words}\n\nWritten by {md(narrative.model or 'a language model')} from the facts above; it adds none.\n"
    )


def whole(briefing: Briefing, narrative: Narrative) -> str:
    return f"{header(briefing)}\n{body(briefing)}\n{told(narrative)}"
