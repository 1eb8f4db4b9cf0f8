"""Do not enter just before or after an earnings announcement. The rule is pure; the canary looks at the real source."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from core import logs
from core.errors import KobeError

if TYPE_CHECKING:
    from core.market_calendar import MarketCalendar

CLEAR = "EARNINGS_CLEAR"
NEAR = "EARNINGS_NEAR"
UNKNOWN_REFUSED = "EARNINGS_UNKNOWN_REFUSED"
UNKNOWN_WARNED = "EARNINGS_UNKNOWN_WARNED"

_CANARIES = ("AAPL", "MSFT", "JPM", "XOM", "WMT")  # announce every quarter, so a live source has recent dates
_STALE_AFTER_DAYS = 120


def earnings_verdict(
    dates: Sequence[date] | None,
    session: date,
    *,
    days_before: int,
    days_after: int,
    on_unknown: str,
    calendar: MarketCalendar | None = None,
) -> tuple[bool, str]:
    """May a position be entered in `session`? (allowed, code).

    dates : announcement dates; None = nothing is known. Empty = known to have none.
    Refused when an announcement lies at most `days_before` ahead of `session` or `days_after` behind it, both included;
    counted in sessions with a `calendar` (an announcement on a closed day inside the window counts), else in calendar
    days. `session` may be a closed day: then the first session counted ahead is the next one.
    on_unknown : "refuse" or "warn". Raises ValueError for anything else, and for negative days.
    """
    if on_unknown not in ("refuse", "warn"):
        raise ValueError(f'on_unknown must be "refuse" or "warn", was {on_unknown!r}')
    if days_before < 0 or days_after < 0:
        raise ValueError(f"days must not be negative, were {days_before} and {days_after}")
    if dates is None:
        return (False, UNKNOWN_REFUSED) if on_unknown == "refuse" else (True, UNKNOWN_WARNED)
    if calendar is None:
        first, last = session - timedelta(days=days_after), session + timedelta(days=days_before)
    else:
        first, last = calendar.offset(session, -days_after), calendar.offset(session, days_before)
    near = any(first <= announced <= last for announced in dates)
    return (False, NEAR) if near else (True, CLEAR)


def run_earnings_canary() -> dict[str, Any]:
    """Is the configured earnings file alive: does it know companies that announce every quarter? Never raises.
    A failure of a file that is there is also a line in logs/errors.jsonl.

    {"status": "ok" | "failed", "code", "reason", "path", "newest", "symbols", "doubt"}; `symbols` = how many canaries
    it knows, `doubt` = why it knows too few of the default universe to be whole, None when it does not.
    """
    answer: dict[str, Any] = {"status": "failed", "code": "", "reason": "", "path": None, "newest": None, "symbols": 0,
                              "doubt": None}  # fmt: skip
    try:
        code, reason, more = _look()
    except KobeError as error:
        code, reason, more = error.code, str(error), {}
    except (ImportError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        code, reason, more = "EARNINGS_CANARY_ERROR", repr(error), {}
    if code not in ("OK", "EARNINGS_SOURCE_ABSENT"):
        logs.error_event("earnings_canary_failed", code=code, detail=reason)
    return {**answer, **more, "status": "ok" if code == "OK" else "failed", "code": code, "reason": reason}


def _look() -> tuple[str, str, dict[str, Any]]:
    from config.loader import load_settings
    from core.clock import SystemClock
    from core.domain import Symbol
    from core.paths import REPO_ROOT, home
    from data.earnings import EarningsFile  # the one listed exception to the import arrows

    settings = load_settings()
    named = settings.filters.earnings.path
    path = REPO_ROOT / named if named is not None else home().cache / "earnings.csv"
    if not path.is_file():
        return "EARNINGS_SOURCE_ABSENT", f"there is no {path}: every symbol counts as unknown", {"path": str(path)}
    source = EarningsFile(path)
    known = [found for symbol in _CANARIES if (found := source.dates(Symbol(symbol)))]
    newest = max((max(found) for found in known), default=None)
    more = {"path": str(path), "newest": newest.isoformat() if newest else None, "symbols": len(known)}
    if newest is None:
        return "EARNINGS_SOURCE_EMPTY", f"none of {', '.join(_CANARIES)} is known", more
    age = (SystemClock().now().date() - newest).days
    if age > _STALE_AFTER_DAYS:
        return "EARNINGS_SOURCE_STALE", f"the newest date is {age} days old, at most {_STALE_AFTER_DAYS} expected", more
    more["doubt"] = _doubt(source, settings.universe.path)
    return "OK", f"{len(known)} of {len(_CANARIES)} known, newest {newest}", more


def _doubt(source: Any, universe: str) -> str | None:
    """Why the file cannot be right for the default universe: it knows hardly any of the names. None when it can be."""
    from core.paths import REPO_ROOT
    from data.universe import load_universe

    try:
        names = load_universe(REPO_ROOT / universe, default=False).symbols
    except KobeError:
        return None  # the universe has checks of its own
    return str(source.doubt_of(names)) or None
