"""Which open trades must leave now, apart from the stop and target that rest at the broker. Pure.

Bars held count the sessions the symbol itself traded; the entry session is bar 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from core.domain import ExitReason, Symbol
from portfolio.strategies import ibs_rsi


class HeldTrade(Protocol):
    """What exits look at in an open trade."""

    @property
    def symbol(self) -> Symbol: ...
    @property
    def strategy(self) -> str: ...
    @property
    def entry_session(self) -> date: ...
    @property
    def time_stop_bars(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DueExit:
    trade: HeldTrade
    reason: ExitReason
    bars_held: int


def bars_held(own_sessions: Sequence[date], entry_session: date, current: date | None = None) -> int:
    """Sessions since the entry on which the symbol traded, the entry being the first.

    own_sessions  completed sessions with a bar of the symbol
    current       the session under way, if the symbol trades in it; counted once
    """
    held = {session for session in own_sessions if session >= entry_session}
    if current is not None and current >= entry_session:
        held.add(current)
    return len(held)


def time_stop_due(trade: HeldTrade, bars_held: int, is_last_scan: bool) -> bool:
    """At the last scan of the session that is the trade's last bar; at any scan when that one was missed."""
    if bars_held > trade.time_stop_bars:
        return True
    return is_last_scan and bars_held == trade.time_stop_bars


def indicator_exit_due(trade: HeldTrade, flags: Mapping[Symbol, ExitReason], flags_session: date) -> ExitReason | None:
    """The indicator that told the trade to leave at a close it was held over, or None.

    flags come from strategies.exit_flags_at for the last completed session, so the first scan after that close acts
    on them; a later scan of the day asks again only because the position is still there.
    """
    if trade.strategy != ibs_rsi.NAME or trade.entry_session > flags_session:
        return None
    return flags.get(trade.symbol)


def due_exits(
    trades: Sequence[HeldTrade],
    *,
    held: Mapping[Symbol, Sequence[date]],
    current: date | None,
    flags: Mapping[Symbol, ExitReason],
    flags_session: date,
    is_last_scan: bool,
) -> list[DueExit]:
    """Every trade that must leave at this scan, once, by symbol and strategy.

    held: the completed sessions each symbol traded, at least from its entry on, ascending. An indicator exit was due at
    the open, before a time stop of today can be, so it names the reason when both hold. A flag is that of the symbol's
    last bar: one from before the entry says nothing.
    """
    due = []
    for trade in sorted(trades, key=lambda t: (t.symbol, t.strategy, t.entry_session)):
        own = held.get(trade.symbol, ())
        count = bars_held(own, trade.entry_session, current)
        held_over = bool(own) and own[-1] >= trade.entry_session
        reason = indicator_exit_due(trade, flags, flags_session) if held_over else None
        if reason is None and time_stop_due(trade, count, is_last_scan):
            reason = ExitReason.TIME
        if reason is not None:
            due.append(DueExit(trade, reason, count))
    return due
