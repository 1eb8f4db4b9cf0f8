"""A drilled day in sentences: what happened to the process, and what it wrote into its journal, in order."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from core.market_calendar import NEW_YORK
from execution.drill.outcome import Outcome

WIDTH = 80
_INDENT = " " * 10
_YESTERDAY = 4  # records that every drill begins with


def timeline(found: Outcome) -> Iterator[str]:
    """One line, or a few wrapped ones, per event; times are New York's."""
    told = list(found.timeline)
    for record in found.records[_YESTERDAY:]:
        while told and told[0].after < record["seq"]:
            event = told.pop(0)
            yield from _line(event.at, event.what, "!!")
        said = _said(record["kind"], record["body"])
        if said is not None:
            yield from _line(datetime.fromisoformat(record["at"]), said, "  ")
    for event in told:
        yield from _line(event.at, event.what, "!!")


def _line(at: datetime, text: str, mark: str) -> Iterator[str]:
    if text.startswith("it is "):
        yield f"{at.astimezone(NEW_YORK):%a %H:%M}"
        return
    first = f"{at.astimezone(NEW_YORK):%H:%M:%S}{mark}"
    yield from textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=_INDENT)


def paragraph(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH)


def order_name(client_order_id: str) -> str:
    """kobe-20240301-turtle_soup-CCC-sell-protect-1 -> CCC protect 1."""
    *_, symbol, side, purpose, attempt = client_order_id.split("-")
    return f"{symbol} {side if purpose == 'entry' else purpose} {attempt}"


Body = Mapping[str, Any]


def _said(kind: str, body: Body) -> str | None:
    say = _SAY.get(kind)
    return None if say is None else say(body)


def _intended(body: Body) -> str:
    price = body.get("limit_price") or body.get("stop_price")
    stop = f", stop {body['stop_price']}" if body["kind"] == "oco" else ""
    return (
        f"writes down {_name(body)}: {body['side']} {body['quantity']} {body['symbol']}, {body['kind']}"
        f"{'' if price is None else f' {price}'}{stop}; only then is it sent"
    )


def _name(body: Body) -> str:
    return order_name(body["client_order_id"])


def _filled(body: Body) -> str:
    late = ", later than told" if body.get("late") else ""
    return f"{_name(body)}: {body['quantity']} filled at {body['price']}{late}"


def _unknown(body: Body) -> str:
    return (
        f"{_name(body)} is UNKNOWN ({body['code']}): its symbol is locked, its money stays reserved, and it is looked "
        "up by its id; nothing is sent again"
    )


def _not_sent(body: Body) -> str:
    if body["code"] == "NOT_ACCEPTED":
        return (
            f"{_name(body)} is proved absent: not found by id, not listed, no fill, position unchanged; the same id "
            "may be used again"
        )
    return f"{_name(body)}: nothing was sent ({body['code']})"


def _break(body: Body) -> str:
    return f"difference in {body['symbol']}: {body['kind']}, ours {body['ours']}, theirs {body['theirs']}; " \
           f"cause {body['cause']}"  # fmt: skip


def _codes(body: Body) -> str:
    return ", ".join(map(str, body.get("codes") or [body.get("code", "")]))


_SAY: Mapping[str, Callable[[Body], str | None]] = {
    "order_intended": _intended,
    "order_acknowledged": lambda b: f"{_name(b)}: the broker has it, {b['status']}",
    "order_filled": _filled,
    "order_closed": lambda b: f"{_name(b)} is over: {b['status']}, {b['filled_quantity']} filled",
    "order_unknown": _unknown,
    "order_rejected": lambda b: f"{_name(b)}: the broker says no ({b['code']})",
    "order_not_sent": _not_sent,
    "order_refused": lambda b: f"refuses {_name(b)}: {_codes(b)}",
    "order_anomaly": lambda b: f"{_name(b)}: odd, and noted: {b['code']}",
    "trade_opened": lambda b: f"trade open: {b['quantity']} {b['symbol']} at {b['price']}",
    "trade_closed": lambda b: f"trade closed: {b['quantity']} {b['symbol']} at {b['exit_price']}, {b['reason']}",
    "trade_rebased": lambda b: f"re-based ({b['cause']}): {b['symbol']} {b['quantity']} shares, stop {b['stop']}",
    "protection_eased": lambda b: f"protection of {b['symbol']} is eased for the night before its ex-date",
    "cancel_requested": lambda b: f"asks for the cancel of {_name(b)} ({b['code']})",
    "cancel_all_done": lambda b: f"cancel_all: {len(b['cancelled'])} cancelled, {len(b['remaining'])} still open",
    "close_all_done": lambda b: "close_all: flat" if not b["left"] else f"close_all: left {b['left']}",
    "break_found": _break,
    "symbol_locked": lambda b: f"{b['symbol']} is locked: {b['code']}",
    "symbol_unlocked": lambda b: f"{b['symbol']} is unlocked: {b['code']}",
    "positions_synced": lambda b: f"force-sync: ours is now what the broker says ({len(b['adjustments'])} changes)",
    "trading_halted": lambda b: "trading is halted",
    "trading_resumed": lambda b: "trading is resumed",
    "preflight_passed": lambda b: "every check of a resume has passed",
    "scan_run": lambda b: f"the {b['run'].partition('T')[2]} scan ends: {b['code']}",
    "run_missed": lambda b: f"the {b['run'].partition('T')[2]} scan is missed, and on record: {b['code']}",
    "run_failed": lambda b: f"{b['run'].partition('T')[2]} fails: {b['code']}; it is tried again",
}


def columns(lines: Sequence[str]) -> bool:
    """Whether every line fits a terminal of 80 columns."""
    return all(len(line) <= WIDTH for line in lines)
