"""What companies do to holdings at the venue: before an ex-date's open, like a broker overnight.

Open orders of the symbol are cancelled, as their prices and quantities are no longer what was meant. Cash dividends
are not paid, as on Alpaca's paper accounts. Each event leaves its activities; those of one event share a group.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING
from uuid import uuid5

from core.domain import ActionKind, CorporateAction, Symbol
from execution.venue.account import ACCOUNT_ID, Activity, Holding

if TYPE_CHECKING:
    from core.market.base import Market
    from execution.venue.matching import Engine

_CENT = Decimal("0.01")
_ZERO = Decimal(0)
GONE = frozenset({ActionKind.RENAME, ActionKind.MERGER, ActionKind.DELISTING})


def asset_id(market: Market, symbol: str) -> str:
    """The id of the company's share: a new name keeps the id of the first one."""
    for event in market.events(date.max):
        if event.kind is ActionKind.RENAME and event.other == symbol:
            return asset_id(market, event.symbol)
    return str(uuid5(ACCOUNT_ID, f"asset/{symbol}"))


def has_gone(market: Market, symbol: str, today: date) -> bool:
    """Whether the symbol no longer stands for anything: renamed, merged away or delisted."""
    return any(event.symbol == symbol and event.kind in GONE for event in market.events(today))


def as_ratio(ratio: float) -> Fraction:
    """0.3333333333333333 -> 1/3: markets hold ratios as floats, companies do not."""
    return Fraction(ratio).limit_denominator(10_000)


def apply(engine: Engine, session: date, at: datetime) -> None:
    """Everything whose ex-date is this session, splits first."""
    for split in engine.market.splits(session):
        if split.ex_date == session:
            _split(engine, split.symbol, as_ratio(split.ratio), at)
    for event in engine.market.events(session):
        if event.ex_date == session:
            _event(engine, event, at)


def _cancel_orders(engine: Engine, symbol: str, at: datetime) -> None:
    for order in engine.store.open_orders(symbol):
        engine.end(order, "canceled", at)


def _times(quantity: Decimal, ratio: Fraction) -> tuple[Decimal, Decimal]:
    """Whole shares after a ratio, and the fraction that is paid out in cash."""
    exact = quantity * ratio.numerator / ratio.denominator
    whole = exact.to_integral_value(ROUND_FLOOR)
    return whole, exact - whole


def _open_price(engine: Engine, symbol: str, session: date, otherwise: Decimal) -> Decimal:
    found = engine.market.last_bar(symbol, session)
    return otherwise if found is None else Decimal(repr(float(found[1].open)))


def _split(engine: Engine, symbol: Symbol, ratio: Fraction, at: datetime) -> None:
    _cancel_orders(engine, symbol, at)
    held = engine.store.holding(symbol)
    if held is None:
        return
    whole, fraction = _times(held.qty, ratio)
    average = held.average * ratio.denominator / ratio.numerator
    lieu = (fraction * _open_price(engine, symbol, at.date(), average)).quantize(_CENT)
    engine.store.hold(Holding(symbol, whole, average))
    _book(engine, "SPLIT", symbol, whole - held.qty, lieu, f"split/{symbol}/{at.date()}", at, f"{ratio} for 1")


def _event(engine: Engine, event: CorporateAction, at: datetime) -> None:
    held = engine.store.holding(event.symbol)
    group = f"{event.kind}/{event.symbol}/{event.ex_date}"
    if event.kind in GONE:
        _cancel_orders(engine, event.symbol, at)
    if held is None:
        return
    if event.kind is ActionKind.RENAME:
        assert event.other is not None  # a rename names it
        _gone(engine, "NC", held, _ZERO, group, at, f"renamed to {event.other}")
        _come(engine, "NC", event.other, held.qty, held.average, group, at, f"formerly {event.symbol}")
    elif event.kind is ActionKind.DELISTING:
        cash = (held.qty * (event.cash_per_share or _ZERO)).quantize(_CENT)
        _gone(engine, "REORG", held, cash, group, at, "paid out" if cash else "worthless removal")
    elif event.kind is ActionKind.MERGER:
        cash = (held.qty * (event.cash_per_share or _ZERO)).quantize(_CENT)
        _gone(engine, "MA", held, cash, group, at, f"acquired by {event.other or 'a buyer for cash'}")
    if event.other is not None and event.ratio is not None and event.kind in (ActionKind.MERGER, ActionKind.SPINOFF):
        _shares(engine, event, held, group, at)


def _shares(engine: Engine, event: CorporateAction, held: Holding, group: str, at: datetime) -> None:
    """The stock leg: shares of the acquirer or of the child, its fraction in cash."""
    assert event.other is not None and event.ratio is not None  # the caller looked
    kind = "MA" if event.kind is ActionKind.MERGER else "SPIN"
    whole, fraction = _times(held.qty, event.ratio)
    price = _open_price(engine, event.other, event.ex_date, held.average)
    lieu = (fraction * price).quantize(_CENT)
    if lieu:
        _book(engine, kind, event.other, _ZERO, lieu, f"{group}/lieu", at, "cash in lieu of a fraction", group)
    _come(engine, kind, event.other, whole, price, group, at, f"from {event.symbol}")


def _gone(engine: Engine, kind: str, held: Holding, cash: Decimal, group: str, at: datetime, words: str) -> None:
    engine.store.hold(Holding(held.symbol, _ZERO, held.average))
    _book(engine, kind, held.symbol, -held.qty, cash, f"{group}/out", at, words, group)


def _come(
    engine: Engine, kind: str, symbol: Symbol, qty: Decimal, price: Decimal, group: str, at: datetime, words: str
) -> None:
    if qty == 0:
        return
    before = engine.store.holding(symbol) or Holding(symbol, _ZERO, _ZERO)
    total = before.qty + qty
    engine.store.hold(Holding(symbol, total, (before.average * before.qty + price * qty) / total))
    _book(engine, kind, symbol, qty, _ZERO, f"{group}/in", at, words, group)


def _book(
    engine: Engine, kind: str, symbol: str, qty: Decimal, cash: Decimal, name: str, at: datetime, words: str,
    group: str = "",
) -> None:  # fmt: skip
    engine.store.cash += cash
    held = engine.store.holding(symbol)
    engine.store.add_activity(
        Activity(
            id=f"{at:%Y%m%d%H%M%S}000::{uuid5(ACCOUNT_ID, name)}", kind=kind, at=at, order_id=None, symbol=symbol,
            side="", price=_ZERO, qty=qty, cum_qty=_ZERO if held is None else held.qty, leaves_qty=_ZERO,
            order_status="", net_amount=cash, group_id=str(uuid5(ACCOUNT_ID, group)) if group else "",
            description=words,
        )
    )  # fmt: skip
