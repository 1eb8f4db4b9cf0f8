"""The simulated account: cash, what is held, and the trades that come of it. No rules; it books what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

import numpy as np

from core.bars_io import to_day
from core.domain import ExitReason, Symbol
from core.panel import Panel
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import REASONS, Trades
from portfolio.strategies.indicators import Floats

_CENT_OF_A_CENT = Decimal("0.0001")


@dataclass(slots=True, eq=False, kw_only=True)
class Holding:
    """One open trade; portfolio.exits.HeldTrade, and where it lies in the panel."""

    symbol: Symbol
    strategy: str
    decision_id: str
    entry_session: date
    time_stop_bars: int
    column: int
    signal_session: date
    signal_row: int
    first_row: int
    quantity: int
    entry_price: Decimal
    stop: Decimal  # planned; `resting_stop` is what rests at the broker
    resting_stop: Decimal
    target: Decimal | None
    dollar_volume: float  # at the signal, USD a session
    entry_cost_usd: Decimal
    own: list[date] = field(default_factory=list)  # completed sessions it traded since the entry


@dataclass(frozen=True, slots=True, eq=False)
class Booked:
    """Trades with what they were in money, (n_trades,) each; NaN in `pnl_usd` while open.

    quantity shares · costs_usd of both sides so far · pnl_usd after costs · r_multiple of (entry - stop) x quantity
    """

    trades: Trades
    quantity: Floats
    costs_usd: Floats
    dollar_volume: Floats

    @property
    def pnl_usd(self) -> Floats:
        return (self.trades.exit_price - self.trades.entry_price) * self.quantity - self.costs_usd

    @property
    def r_multiple(self) -> Floats:
        return self.pnl_usd / ((self.trades.entry_price - self.trades.stop) * self.quantity)

    @property
    def cost_fraction(self) -> Floats:
        """Of the entry value."""
        return self.costs_usd / (self.trades.entry_price * self.quantity)


@dataclass(slots=True)
class _Ended:
    holding: Holding
    session: date | None  # None: still open
    row: int
    price: Decimal | None
    reason: ExitReason
    held: int
    costs_usd: Decimal


class SimulatedAccount:
    def __init__(self, cash: Decimal, costs: CostModel) -> None:
        self.cash, self._costs = cash, costs
        self.holdings: list[Holding] = []
        self.costs_usd = Decimal(0)
        self._ended: list[_Ended] = []
        self.left_today: list[tuple[Symbol, str, date]] = []  # symbol, strategy, entry session

    def positions(self) -> dict[Symbol, int]:
        shares: dict[Symbol, int] = {}
        for holding in self.holdings:
            shares[holding.symbol] = shares.get(holding.symbol, 0) + holding.quantity
        return shares

    def buy(self, holding: Holding) -> None:
        cost = self._side(holding.entry_price, holding.quantity, holding.dollar_volume)
        holding.entry_cost_usd = cost
        self.cash -= holding.entry_price * holding.quantity + cost
        self.costs_usd += cost
        self.holdings.append(holding)

    def sell(self, holding: Holding, session: date, row: int, price: Decimal, reason: ExitReason, held: int) -> None:
        """All of it, at `price`; `held` bars."""
        cost = self._side(price, holding.quantity, holding.dollar_volume) + self._fees(price, holding, session)
        self.cash += price * holding.quantity - cost
        self.costs_usd += cost
        self.holdings.remove(holding)
        self.left_today.append((holding.symbol, holding.strategy, holding.entry_session))
        self._ended.append(_Ended(holding, session, row, price, reason, held, holding.entry_cost_usd + cost))

    def _side(self, price: Decimal, quantity: int, dollar_volume: float) -> Decimal:
        fraction = self._costs.side(np.array([float(price)]), np.array([dollar_volume]))[0]
        return _exact(float(fraction) * float(price) * quantity)

    def _fees(self, price: Decimal, holding: Holding, session: date) -> Decimal:
        value, shares = np.array([float(price * holding.quantity)]), np.array([float(holding.quantity)])
        return _exact(float(self._costs.sale_fees(value, shares, np.array([to_day(session)]))[0]))

    def booked(self, panel: Panel, strategies: Sequence[str]) -> Booked:
        """Every trade, those still open too, by entry session, symbol and strategy."""
        still = [
            _Ended(h, None, int(panel.length[h.column]), None, ExitReason.OPEN, len(h.own), h.entry_cost_usd)
            for h in self.holdings
        ]
        rows = sorted(
            [*self._ended, *still], key=lambda e: (e.holding.entry_session, e.holding.symbol, e.holding.strategy)
        )
        held = [e.holding for e in rows]
        names = list(strategies)
        trades = Trades(
            symbols=panel.symbols,
            strategies=tuple(names),
            column=np.array([h.column for h in held], dtype=np.intp),
            strategy=np.array([names.index(h.strategy) for h in held], dtype=np.intp),
            signal=np.array([h.signal_row for h in held], dtype=np.intp),
            first=np.array([h.first_row for h in held], dtype=np.intp),
            leave=np.array([e.row for e in rows], dtype=np.intp),
            signal_at=np.array([to_day(h.signal_session) for h in held], dtype=np.int32),
            entry_at=np.array([to_day(h.entry_session) for h in held], dtype=np.int32),
            exit_at=np.array([-1 if e.session is None else to_day(e.session) for e in rows], dtype=np.int32),
            entry_price=np.array([float(h.entry_price) for h in held], dtype=np.float64),
            stop=np.array([float(h.stop) for h in held], dtype=np.float64),
            target=np.array([np.nan if h.target is None else float(h.target) for h in held], dtype=np.float64),
            exit_price=np.array([np.nan if e.price is None else float(e.price) for e in rows], dtype=np.float64),
            reason=np.array([REASONS.index(e.reason) for e in rows], dtype=np.intp),
            held=np.array([e.held for e in rows], dtype=np.intp),
        )
        return Booked(
            trades,
            quantity=np.array([h.quantity for h in held], dtype=np.float64),
            costs_usd=np.array([float(e.costs_usd) for e in rows], dtype=np.float64),
            dollar_volume=np.array([h.dollar_volume for h in held], dtype=np.float64),
        )


def _exact(usd: float) -> Decimal:
    return Decimal(repr(usd)).quantize(_CENT_OF_A_CENT)
