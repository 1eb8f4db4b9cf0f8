"""Values that cross packages: frozen, checked where they are built, free of any vendor's types.

Money that is owed, limited or sent is Decimal USD; what is estimated (bars, indicators, scores) is float.
Instants end in `_at` and are aware UTC; a session is an exchange-local trading date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Any, NewType

Symbol = NewType("Symbol", str)
"""Canonical ticker: upper case, class shares with a dot (BRK.B)."""

_SYMBOL = re.compile(r"[A-Z][A-Z0-9]{0,9}([.][A-Z0-9]{1,4})?\Z")
_EMPTY: Mapping[str, Any] = MappingProxyType({})


def canonical_symbol(text: str) -> Symbol:
    """` brk-b ` -> `BRK.B`. `NA` and `TRUE` are tickers, not words. Raises ValueError for what cannot be a ticker."""
    cleaned = text.strip().upper().replace("-", ".").replace("/", ".")
    if not _SYMBOL.match(cleaned):
        raise ValueError(f"{text!r} is not a ticker")
    return Symbol(cleaned)


def require_utc(value: datetime, name: str) -> None:
    if value.utcoffset() != timedelta(0):  # None for a naive instant, so this catches both
        raise ValueError(f"{name} must be aware UTC, was {value!r}")


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class Tif(StrEnum):
    IOC = "ioc"
    DAY = "day"
    GTC = "gtc"


class Mode(StrEnum):
    """Which broker, never which logic."""

    PAPER = "paper"
    LIVE = "live"


class TradingState(StrEnum):
    """What may be sent: everything, exits only, nothing."""

    ACTIVE = "active"
    REDUCING = "reducing"
    HALTED = "halted"


class Purpose(StrEnum):
    """Why an order exists. Only ENTRY may enlarge a position."""

    ENTRY = "entry"
    PROTECT = "protect"  # resting stop, or stop and target, at the broker
    EXIT = "exit"  # time stop or indicator exit
    CLOSE = "close"  # operator's liquidation


class OrderKind(StrEnum):
    """The order shapes Kobe sends, nothing else."""

    LIMIT = "limit"
    MARKET = "market"  # liquidation only
    STOP = "stop"
    OCO = "oco"  # take-profit limit and stop, one cancels the other


class ExitReason(StrEnum):
    """Why a trade ended; the words of the trade list."""

    STOP_GAP = "stop_gap"
    STOP = "stop"
    TARGET_GAP = "target_gap"
    TARGET = "target"
    TIME = "time"
    IBS = "ibs"
    RSI = "rsi"
    OPEN = "open"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A strategy's scored proposal at the close of `session`, before anyone was asked."""

    strategy: str
    symbol: Symbol
    session: date
    close: float  # USD per share, basis of the panel
    stop: float  # USD per share, below close
    target_r: float | None  # target distance in multiples of (fill - stop); None = no target
    time_stop_bars: int  # bars held before the position leaves at that bar's close
    strength: float  # 0..1, ranking only
    numbers: Mapping[str, float] = field(default_factory=lambda: _EMPTY)  # the values that decided

    def __post_init__(self) -> None:
        if not (0.0 <= self.strength <= 1.0):
            raise ValueError(f"{self.symbol}: strength must be within 0..1, was {self.strength}")
        if not (0.0 < self.stop < self.close):
            raise ValueError(f"{self.symbol}: stop must be within (0, close), was {self.stop} against {self.close}")

    @property
    def decision_id(self) -> str:
        """Joins signal, review, order and fill in every record; session + strategy + symbol."""
        return f"{self.session.isoformat().replace('-', '')}-{self.strategy}-{self.symbol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """Top of book and last trade of one symbol at an instant; sizes are not relied upon."""

    symbol: Symbol
    bid: Decimal | None  # None = that side is empty
    ask: Decimal | None
    last: Decimal | None
    at: datetime  # of the bid and ask

    def __post_init__(self) -> None:
        require_utc(self.at, "quote.at")


def client_order_id(decision_id: str, side: Side, purpose: Purpose, attempt: int) -> str:
    """`kobe-<decision>-<side>-<purpose>-<attempt>`: what an order is for can be read off the broker's own screen."""
    return f"kobe-{decision_id}-{side}-{purpose}-{attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderIntent:
    """What we want to trade, before the gate has been asked."""

    decision_id: str
    symbol: Symbol
    side: Side
    quantity: int  # whole shares, > 0; the direction is `side`, never the sign
    purpose: Purpose
    kind: OrderKind
    tif: Tif
    decided_at: datetime
    strategy: str
    signal_session: date
    attempt: int = 1
    limit_price: Decimal | None = None  # LIMIT: the limit; OCO: the take-profit
    stop_price: Decimal | None = None  # STOP and OCO: the trigger; ENTRY: the planned stop (not sent)
    target_r: float | None = None
    time_stop_bars: int | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.quantity <= 0 or self.attempt <= 0:
            raise ValueError(
                f"{self.symbol}: quantity and attempt must be positive, were {self.quantity}, {self.attempt}"
            )
        for name, price in (("limit_price", self.limit_price), ("stop_price", self.stop_price)):
            if price is not None and not (price.is_finite() and price > 0):
                raise ValueError(f"{self.symbol}: {name} must be positive and finite, was {price}")
        if self.kind in (OrderKind.LIMIT, OrderKind.OCO) and self.limit_price is None:
            raise ValueError(f"{self.symbol}: a {self.kind} order needs limit_price")
        if self.kind in (OrderKind.STOP, OrderKind.OCO) and self.stop_price is None:
            raise ValueError(f"{self.symbol}: a {self.kind} order needs stop_price")
        if self.purpose is not Purpose.ENTRY and self.side is not Side.SELL:
            raise ValueError(f"{self.symbol}: only an entry may buy, {self.purpose} was {self.side}")
        if self.purpose is Purpose.ENTRY and (self.side is not Side.BUY or self.kind is not OrderKind.LIMIT):
            raise ValueError(f"{self.symbol}: an entry is a limit buy, was {self.kind} {self.side}")
        require_utc(self.decided_at, "decided_at")

    @property
    def client_order_id(self) -> str:
        """Same decision, same id, so that the broker refuses a second copy. Never a fresh uuid per attempt."""
        return client_order_id(self.decision_id, self.side, self.purpose, self.attempt)

    @property
    def notional_usd(self) -> Decimal:
        """The most an entry can cost, USD; for sells the worst price we would take times the quantity."""
        price = self.limit_price if self.limit_price is not None else self.stop_price
        return Decimal(0) if price is None else price * self.quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """One limit that an intent breaks, with the numbers that were compared."""

    code: str
    observed: str
    limit: str

    def __str__(self) -> str:
        return f"{self.code}: {self.observed} against {self.limit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as the broker tells it. `state` is ours (execution.order_states), `status` the broker's word."""

    id: str
    client_order_id: str
    symbol: Symbol
    side: Side
    quantity: int
    filled_quantity: int
    filled_price: Decimal | None  # average, None when nothing filled
    kind: str
    tif: str
    status: str
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    submitted_at: datetime | None = None
    filled_at: datetime | None = None
    legs: tuple[Order, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=lambda: _EMPTY, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """One execution: shares, price, instant. `id` is the broker's activity id; the same id twice is one fill."""

    id: str
    order_id: str
    symbol: Symbol
    side: Side
    quantity: int
    price: Decimal
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Something in the account that was no fill: a split, a dividend, a name change, a transfer, a correction."""

    id: str
    kind: str  # the broker's word: SPLIT, DIV, NC, MA, SPIN, REORG, JNLC, …
    day: date
    symbol: Symbol | None = None
    quantity: Decimal | None = None  # shares that came (+) or went (-)
    net_amount: Decimal | None = None  # USD that came (+) or went (-)
    group: str = ""  # both legs of one event share it
    description: str = ""


class ActionKind(StrEnum):
    """What a company can do to a holding overnight."""

    SPLIT = "split"  # forward, reverse or a stock dividend: `ratio` new shares for one old
    RENAME = "rename"
    DELISTING = "delisting"
    SPINOFF = "spinoff"
    MERGER = "merger"
    DIVIDEND = "dividend"
    OTHER = "other"  # unit splits, reorganisations: told, never acted upon


@dataclass(frozen=True, slots=True, kw_only=True)
class CorporateAction:
    """One corporate action as an action feed tells it, in force from the open of `ex_date`."""

    kind: ActionKind
    symbol: Symbol
    ex_date: date
    ratio: Fraction | None = None  # SPLIT: new shares per old; MERGER, SPINOFF: shares of `other` per share
    price_factor: Fraction | None = None  # SPINOFF: old price per new price, when anybody knows it
    other: Symbol | None = None  # RENAME, SPLIT: the new name; SPINOFF: the child; MERGER: the acquirer
    cash_per_share: Decimal | None = None  # USD: DIVIDEND, MERGER, DELISTING
    source: str = ""  # who says so

    def __post_init__(self) -> None:
        for name, value in (("ratio", self.ratio), ("price_factor", self.price_factor)):
            if value is not None and value <= 0:
                raise ValueError(f"{self.symbol}: {name} must be positive, was {value}")
        if self.kind is ActionKind.SPLIT and self.ratio is None:
            raise ValueError(f"{self.symbol}: a split needs its ratio")
        if self.kind is ActionKind.DIVIDEND and self.cash_per_share is None:
            raise ValueError(f"{self.symbol}: a dividend needs its amount")
        if self.kind is ActionKind.RENAME and self.other is None:
            raise ValueError(f"{self.symbol}: a rename needs the new name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Signed shares held and their average cost."""

    symbol: Symbol
    quantity: Decimal  # the broker may hold fractions we never ordered
    average_price: Decimal
    market_value: Decimal | None = None
    available: Decimal | None = None
    asset_id: str = ""  # the broker's own id of the company's share; a rename keeps it


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The broker account as it says of itself. Missing money fields are None, never 0."""

    id: str
    number: str
    status: str
    blocked: tuple[str, ...]  # names of the blocking flags that are set
    cash: Decimal | None
    equity: Decimal | None
    buying_power: Decimal | None

    @property
    def may_trade(self) -> bool:
        return self.status == "ACTIVE" and not self.blocked


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    symbol: Symbol
    id: str
    tradable: bool
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerClock:
    now: datetime
    is_open: bool
    next_open: datetime
    next_close: datetime
