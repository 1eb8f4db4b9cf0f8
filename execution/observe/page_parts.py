"""Small pieces of HTML. `e` escapes; what says "HTML already" is put in as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from execution.observe.facts import Facts
from execution.observe.words import at_new_york, printable, unknown

ROWS_MOST = 40  # of a table


def e(value: object) -> str:
    return escape(printable(str(value)), quote=True)


def known(facts: Facts, name: str, value: object | None) -> str:
    """The value, escaped, or that it is not known and why."""
    return e(value) if value is not None else f'<span class="unknown">{e(unknown(facts, name))}</span>'


def card(title: str, body: str, size_class: str = "") -> str:
    return f'<section class="card {size_class}"><h2>{e(title)}</h2>{body}</section>'


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Both sides are HTML already."""
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


Column = tuple[str, str]
"""Head and class of a column."""


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], nothing: str) -> str:
    """Cells are HTML already."""
    if not rows:
        return f'<p class="soft">{e(nothing)}</p>'
    head = "".join(f'<th class="{css}">{e(name)}</th>' for name, css in columns)
    body = "".join(f"<tr>{_cells(columns, row)}</tr>" for row in rows[:ROWS_MOST])
    more = f'<p class="soft">and {len(rows) - ROWS_MOST} more</p>' if len(rows) > ROWS_MOST else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'


def _cells(columns: Sequence[Column], row: Sequence[str]) -> str:
    return "".join(f'<td class="{css}">{cell}</td>' for (_, css), cell in zip(columns, row, strict=True))


def when(at: datetime, now: datetime) -> str:
    return f'<span class="keep">{e(at_new_york(at, now))}</span>'


def gone(facts: Facts, title: str, name: str, size_class: str = "") -> str:
    """A group that is not known as a whole."""
    return card(title, f"<p>{known(facts, name, None)}</p>", size_class)
