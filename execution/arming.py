"""May `runner --mode live` start? Only on a fresh pass of the live preflight for this very build, settings and account,
and from the rung of the ladder that this home has reached. Pure: the folded journal in, a permit or a refusal out.

What is not known is no permission: no pass, a pass of other code, a halt since, a clock that went back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from core import logs
from core.errors import BrokerRejected, ConfigError, KobeError, RiskRefused
from execution.ladder import SHADOW_CODE, LadderHistory, Rung

if TYPE_CHECKING:
    from core.journal_record import Record
    from core.ports import Admission

PREFLIGHT = "python scripts/preflight_live.py --mode live"
LADDER = "python scripts/ladder.py status"
PASSED_BY = "preflight_live"
AHEAD = timedelta(minutes=5)
"""A pass so far in the future was made by another clock."""
_HALTS = frozenset({"trading_halted", "watchdog_tripped", "operator_close_opened"})


@dataclass(frozen=True, slots=True)
class Pass:
    """One `preflight_passed` of the live preflight: what it was made of, and when."""

    seq: int
    at: datetime
    items: Mapping[str, str]  # as config.pin.compute_pin: config, frozen_params, universe, code, model
    account_id: str


class ArmingHistory:
    """The newest live pass, what came after it, and the rung. Fed record by record, in order."""

    def __init__(self) -> None:
        self.newest: Pass | None = None
        self.halted_since = ""  # kind of the first halt after that pass
        self.ladder = LadderHistory()
        self._before: Pass | None = None

    def add(self, record: Record) -> None:
        """Raises KeyError, ValueError or TypeError for a record that cannot be read."""
        self.ladder.add(record.seq, record.kind, record.body)
        if record.kind == "preflight_passed" and record.body.get("by") == PASSED_BY and record.body["mode"] == "live":
            found = Pass(record.seq, record.at, dict(record.body["items"]), str(record.body["account_id"]))
            self._before, self.newest, self.halted_since = self.newest, found, ""
        elif record.kind == "preflight_voided" and self.newest and record.body.get("pass") == self.newest.seq:
            self.newest = self._before
            self.halted_since = self.halted_since or record.kind
        elif record.kind in _HALTS:
            self.halted_since = self.halted_since or record.kind


@dataclass(frozen=True, slots=True)
class Armed:
    """Permission to start: from which pass, on which rung, for which account."""

    seq: int
    rung: Rung
    account_id: str
    items: Mapping[str, str] = field(default_factory=dict)  # of this process, as config.pin.compute_pin
    withheld: str = ""  # code: started for what is held, no entry before another pass

    def __str__(self) -> str:
        what = {
            Rung.SHADOW: "orders are decided and written down, none is sent",
            Rung.ONE_SHARE: "no buy of more than one share",
            Rung.FULL: "the limits of the settings",
        }
        told = f"rung {self.rung}: {what[self.rung]}; armed by record {self.seq}"
        return f"{told}; NO ENTRIES before another pass ({self.withheld})" if self.withheld else told


def permit(history: ArmingHistory, *, now: datetime, items: Mapping[str, str], max_age: timedelta) -> Armed:
    """Raises ConfigError (exit 10) naming the first thing that is missing; the age limit itself passes."""
    rung, newest = history.ladder.rung, history.newest
    if newest is None:
        raise _refused("LIVE_NOT_ARMED", "no live preflight has passed on this home", f"{PREFLIGHT}; {LADDER}")
    if not rung.trades_live:
        raise _refused("LADDER_TOO_LOW", f"this home stands on the rung {rung}; live begins at {Rung.SHADOW}", LADDER)
    if history.halted_since:
        raise _refused("ARMING_HALTED", f"trading was halted after the last live preflight ({history.halted_since})")
    age = now - newest.at
    if not -AHEAD <= age <= max_age:
        words = (
            f"the last live preflight passed {age.total_seconds() / 3600:.1f} h ago, at most {_hours(max_age)} count"
        )
        raise _refused("ARMING_STALE", words)
    differing = sorted(name for name in {*items, *newest.items} if items.get(name) != newest.items.get(name))
    if differing:
        code = "ARMING_BUILD_CHANGED" if "code" in differing else "ARMING_CONFIG_CHANGED"
        raise _refused(code, f"{', '.join(differing)} changed after the last live preflight")
    return Armed(newest.seq, rung, newest.account_id, dict(items))


NO_ENTRIES_ONLY = frozenset({"ARMING_STALE", "ALERT_UNACKNOWLEDGED", "ALERTS_UNREADABLE"})
"""Refusals of a start that do not leave alone what is held: then it starts without entries. All others say that this
is another build, other settings, another account or a halt: nothing is started on those."""


def started_without_entries(
    history: ArmingHistory, refusal: KobeError, *, now: datetime, items: Mapping[str, str], holds: bool
) -> Armed:
    """A permit for exits, protection and reconcile, when something is held and only the pass is old or an alert stands.

    Raises `refusal` when nothing is held or it is of another kind, or what else the pass lacks.
    """
    if not holds or refusal.code not in NO_ENTRIES_ONLY:
        raise refusal
    armed = permit(history, now=now, items=items, max_age=timedelta.max)
    return replace(armed, withheld=str(refusal.code))


def entries_withheld(
    history: ArmingHistory, armed: Armed, *, now: datetime, session_at: datetime, max_age: timedelta
) -> str:
    """Code of why a live runner may enter nothing now; empty when it may.

    session_at : when the session begins. A pass counts for a session when it is no older than `max_age` then (the limit
    itself passes), or was made since. What was withheld at the start stays so until a pass that came after the one that
    the runner started with: a live preflight passes over no alert.
    """
    newest = history.newest
    if newest is None:
        return "LIVE_NOT_ARMED"
    if armed.withheld and newest.seq <= armed.seq:
        return armed.withheld
    if newest.at - now > AHEAD or session_at - newest.at > max_age:
        return "ARMING_STALE"
    if newest.account_id != armed.account_id:
        return "ARMING_ACCOUNT_CHANGED"
    differing = {name for name in {*armed.items, *newest.items} if armed.items.get(name) != newest.items.get(name)}
    if differing:
        return "ARMING_BUILD_CHANGED" if "code" in differing else "ARMING_CONFIG_CHANGED"
    return ""


def require_account(armed: Armed, account_id: str, tail: str) -> None:
    """Raises ConfigError when the keys open another account than the one that was checked."""
    if account_id != armed.account_id:
        raise _refused("ARMING_ACCOUNT_CHANGED", f"the account ending in {tail} is not the one that preflight checked")


def _hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:g} h"


def _refused(code: str, words: str, advice: str = PREFLIGHT) -> KobeError:
    return ConfigError(words, code=code, advice=advice)


class RungDoor:
    """core.ports.Admission of a live runner: what its rung allows, before what the journal allows.

    The journal is read at every order, so that a step back holds at once; a step up counts at the next start only. A
    step back ends buying. What a process has bought it still protects and sells, and it cancels what it sent:
    otherwise a step back between a fill and its stop would leave the position bare.
    """

    def __init__(
        self, inner: Admission, started_on: Rung, now: Callable[[], Rung], withheld: Callable[[], str] = lambda: ""
    ) -> None:
        """`now` reads the journal and gives the rung it says, `withheld` the code of why no buy leaves, or "". Both
        raise StateCorrupt."""
        self._inner, self._started_on, self._now, self._withheld = inner, started_on, now, withheld

    @property
    def rung(self) -> Rung:
        return min(self._started_on, self._now(), key=lambda rung: rung.height)

    def admit(self, order: Mapping[str, Any], *, despite_halt: bool) -> None:
        rung = self.rung
        sends = rung.height >= Rung.ONE_SHARE.height or (self._has_sent and order.get("side") == "sell")
        if not sends:
            logs.count("orders_kept_back", rung=str(rung))
            raise RiskRefused(f"rung {rung}: decided, and not sent", code=SHADOW_CODE)
        if rung is Rung.ONE_SHARE and order.get("side") != "sell" and str(order.get("qty")) != "1":
            logs.error_event("order_stopped_at_the_door", code="ONE_SHARE", observed=str(order.get("qty")), limit="1")
            raise RiskRefused(f"rung {rung}: a buy of {order.get('qty')} shares, at most 1", code="ONE_SHARE")
        code = "" if order.get("side") == "sell" else self._withheld()
        if code:
            logs.error_event("order_stopped_at_the_door", code=code, observed=str(order.get("qty")), limit="0")
            raise RiskRefused("entries are withheld until a live preflight passes", code=code)
        self._inner.admit(order, despite_halt=despite_halt)

    @property
    def _has_sent(self) -> bool:
        return self._started_on.height >= Rung.ONE_SHARE.height

    def cancelling(self, path: str) -> None:
        if not self._has_sent:
            raise BrokerRejected("nothing is cancelled from this rung", code=SHADOW_CODE)
        self._inner.cancelling(path)
