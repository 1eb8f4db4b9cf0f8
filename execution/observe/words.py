"""Numbers and instants as people read them; shared by page and status screen."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from core.market_calendar import NEW_YORK
from execution.observe.facts import Facts


def money(usd: Decimal | float, *, signed: bool = False) -> str:
    """1,234.50 USD."""
    return f"{usd:{'+' if signed else ''},.2f} USD"


def percent(rate: float, digits: int = 0) -> str:
    return f"{rate * 100:.{digits}f} %"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def ago(seconds: float) -> str:
    """How long, in the two largest units that say something."""
    left = max(0, int(seconds))
    days, left = divmod(left, 86_400)
    hours, left = divmod(left, 3600)
    minutes, left = divmod(left, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{n} {unit}" for n, unit in parts[:2] if n) or "0 s"


def clock(at: datetime) -> str:
    return f"{at.astimezone(NEW_YORK):%H:%M}"


def at_new_york(at: datetime, now: datetime) -> str:
    """The wall time, with the day when it is another one."""
    there, here = at.astimezone(NEW_YORK), now.astimezone(NEW_YORK)
    return f"{there:%H:%M}" if there.date() == here.date() else f"{there:%a %m-%d %H:%M}"


def size(count: int) -> str:
    gigabytes = count / 1e9
    return f"{gigabytes:,.0f} GB" if gigabytes >= 10 else f"{gigabytes:,.1f} GB" if gigabytes >= 1 else _mb(count)


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def unknown(facts: Facts, name: str) -> str:
    """`unknown (CODE)`: of the field itself, or of the group it is missing with."""
    code = facts.unknown.get(name) or facts.unknown.get(name.split(".")[0])
    return f"unknown ({code})" if code else "unknown"


def printable(text: str) -> str:
    """Without what moves a cursor, rings a bell or turns the writing round: a reject text is somebody else's."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
