"""What a break is: a difference between two records, its cause out of a closed list, the facts, and the cure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from core.domain import Symbol


class Cause(StrEnum):
    LATE_FILL = "LATE_FILL"
    CANCELLED_BUT_FILLED = "CANCELLED_BUT_FILLED"
    DUPLICATE_ORDER = "DUPLICATE_ORDER"
    MANUAL_TRADE = "MANUAL_TRADE"
    SPLIT = "SPLIT"
    REVERSE_SPLIT = "REVERSE_SPLIT"
    RENAME = "RENAME"
    DELISTING = "DELISTING"
    SPINOFF = "SPINOFF"
    MERGER = "MERGER"
    DIVIDEND_REINVEST = "DIVIDEND_REINVEST"
    TRANSFER = "TRANSFER"
    WRONG_ACCOUNT = "WRONG_ACCOUNT"
    STALE_RESTORE = "STALE_RESTORE"
    BROKER_LAG = "BROKER_LAG"
    FRACTIONAL_RESIDUE = "FRACTIONAL_RESIDUE"
    PAPER_RESET = "PAPER_RESET"
    TRADE_BUST = "TRADE_BUST"
    EXTERNAL_ORDER = "EXTERNAL_ORDER"
    ORPHAN_LEG = "ORPHAN_LEG"
    STILL_OPEN = "STILL_OPEN"  # an order that we took for over, or that outlived its day
    UNSETTLED_INTENT = "UNSETTLED_INTENT"
    UNPROTECTED = "UNPROTECTED"
    VIEW_EDITED = "VIEW_EDITED"
    UNEXPLAINED = "UNEXPLAINED"


class BreakKind(StrEnum):
    POSITION_QUANTITY = "POSITION_QUANTITY"  # both hold it, not the same number
    UNKNOWN_POSITION = "UNKNOWN_POSITION"  # the broker holds what we never bought
    MISSING_POSITION = "MISSING_POSITION"  # we hold what the broker does not
    ORPHAN_ORDER = "ORPHAN_ORDER"  # open at the broker, belongs to nothing of ours
    UNSETTLED_INTENT = "UNSETTLED_INTENT"  # may be live
    VIEW_DIFFERS = "VIEW_DIFFERS"  # state/positions.json is not what the journal says
    FOREIGN_FILL = "FOREIGN_FILL"  # an execution of no order of ours
    MISSING_PROTECTION = "MISSING_PROTECTION"  # an open trade without its stop


POSITION_KINDS = frozenset({BreakKind.POSITION_QUANTITY, BreakKind.UNKNOWN_POSITION, BreakKind.MISSING_POSITION})
NO_LOCK = frozenset({BreakKind.MISSING_PROTECTION, BreakKind.FOREIGN_FILL, BreakKind.VIEW_DIFFERS})
"""Breaks that trading itself repairs, or that lie in the past: they are told, and lock nothing."""

LOCK = "BREAK"
ACTION_LOCK = "UNKNOWN_CORPORATE_ACTION"
UNEXPLAINED_LOCK = "UNKNOWN_POSITION_CHANGE"
BREAK_LOCKS = frozenset({LOCK, ACTION_LOCK, UNEXPLAINED_LOCK})
"""The locks that a break sets and its end lifts. One that begins with UNKNOWN stops exits and stops too: at which
price, and how many shares, cannot be said."""
_BY_COMPANY = frozenset(
    {Cause.SPLIT, Cause.REVERSE_SPLIT, Cause.RENAME, Cause.DELISTING, Cause.MERGER, Cause.SPINOFF, Cause.TRADE_BUST}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One difference, what caused it, the facts that say so, and the command or act that cures it."""

    symbol: Symbol
    kind: BreakKind
    cause: Cause
    ours: str
    theirs: str
    proposal: str
    evidence: tuple[str, ...] = ()

    @property
    def lock_code(self) -> str | None:
        """The lock this break puts on its symbol, and on no other; None when it locks nothing."""
        if self.kind in NO_LOCK:
            return None
        if self.kind in POSITION_KINDS and self.ours != "0":
            if self.cause in _BY_COMPANY:
                return ACTION_LOCK
            if self.cause is Cause.UNEXPLAINED:
                return UNEXPLAINED_LOCK
        return LOCK

    def to_json(self) -> dict[str, Any]:
        """The seam of docs/interfaces.md."""
        return {
            "symbol": str(self.symbol), "kind": str(self.kind), "cause": str(self.cause), "ours": self.ours,
            "theirs": self.theirs, "proposal": self.proposal, "evidence": list(self.evidence),
        }  # fmt: skip


RECONCILE = "python scripts/reconcile_alpaca.py"
SYNC = f"{RECONCILE} --force-sync"
RUN = "python scripts/runner.py (settles and repairs at start)"
_ORPHANS = "python scripts/check_orphaned_orders.py --cancel"
_WAIT_FOR_FEED = f"re-based by the next scan once broker and action feed agree; else {SYNC}"

_CURES: Mapping[Cause, str] = {
    Cause.LATE_FILL: RUN,
    Cause.CANCELLED_BUT_FILLED: RUN,
    Cause.UNSETTLED_INTENT: RUN,
    Cause.UNPROTECTED: RUN,
    Cause.SPLIT: _WAIT_FOR_FEED,
    Cause.REVERSE_SPLIT: _WAIT_FOR_FEED,
    Cause.RENAME: _WAIT_FOR_FEED,
    Cause.SPINOFF: "keep or sell it in the broker's app, or adopt it; it is never sold by us",
    Cause.DELISTING: f"check the proceeds in the broker's app, then {SYNC}",
    Cause.MERGER: f"check both legs in the broker's app, then {SYNC}",
    Cause.BROKER_LAG: f"wait a minute, then {RECONCILE}",
    Cause.WRONG_ACCOUNT: "do not sync: set KOBE_HOME to this account's folder, or use the other keys",
    Cause.STALE_RESTORE: f"restore the newest backup of state/; only without one: {SYNC}",
    Cause.PAPER_RESET: f"if the paper account was reset on purpose: {SYNC}",
    Cause.TRADE_BUST: f"confirm the correction with the broker, then {SYNC}",
    Cause.DUPLICATE_ORDER: f"sell the second copy in the broker's app, then {RECONCILE}",
    Cause.ORPHAN_LEG: _ORPHANS,
    Cause.STILL_OPEN: _ORPHANS,
    Cause.FRACTIONAL_RESIDUE: "sell the fraction in the broker's app; whole shares only are traded here",
    Cause.UNEXPLAINED: f"find it in the broker's own record; {RECONCILE} --full looks again; only then {SYNC}",
}
"""Nothing here happens by itself. What is not listed is cured by a sync."""


def cure(cause: Cause, symbol: Symbol, kind: BreakKind) -> str:
    if cause is Cause.EXTERNAL_ORDER:
        return f"yours? let it be, or {_ORPHANS} --order ID"
    if kind is BreakKind.FOREIGN_FILL:
        return "nothing to do here: positions are compared separately"
    surplus = cause in (Cause.MANUAL_TRADE, Cause.DIVIDEND_REINVEST, Cause.TRANSFER)
    if surplus and kind is BreakKind.UNKNOWN_POSITION:
        return f"{RECONCILE} --adopt {symbol} --stop PRICE, or sell it in the broker's app"
    return _CURES.get(cause, SYNC)
