"""Breaks and orphans as people read them: one block each, wrapped at 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 80
_INDENT = "    "


def render_breaks(breaks: Sequence[Mapping[str, Any]], *, width: int = WIDTH) -> str:
    """The difference, then what explains it, then the cure. Takes the rows of `--json`."""
    return "\n".join(_block(row, width) for row in breaks)


def _block(row: Mapping[str, Any], width: int) -> str:
    head = f"{row['symbol']}  {row['kind']}  {row['cause']}  ours {row['ours']}, broker {row['theirs']}"
    lines = [*wrapped(head, "", width), *(line for fact in row["evidence"] for line in wrapped(fact, "", width, 4))]
    return "\n".join([*lines, *wrapped(row["proposal"], "cure: ", width, 4)])


def wrapped(text: str, first: str, width: int, indent: int = 0) -> list[str]:
    """Lines of at most `width` columns; what follows the first stands under its text."""
    lead = " " * indent + first
    return textwrap.wrap(
        text.replace("\n", " "), width, initial_indent=lead, subsequent_indent=" " * len(lead) or _INDENT,
        break_on_hyphens=False,
    ) or [lead]  # fmt: skip
