"""The files of a run: trade_list.csv, equity_curve.csv, summary.json. Absent values are empty.

Prices have every digit (the shortest text that reads back the same), amounts worked out from them six decimals.
The same trades give the same bytes; nothing that could vary from run to run (times, memory) is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.bars_io import Days, from_day
from core.files import write_atomic
from core.panel import Panel
from portfolio.backtest.account import Booked
from portfolio.backtest.costs import CostModel
from portfolio.backtest.engine import REASONS, Trades
from portfolio.backtest.marks import daily_returns, excursions, place_table
from portfolio.facts import dollar_volumes
from portfolio.strategies.indicators import Floats

if TYPE_CHECKING:
    from portfolio.backtest.portfolio_level import Equity

TRADE_COLUMNS = (
    "symbol", "strategy", "signal_date", "entry_date", "entry_price", "stop", "target", "exit_date", "exit_price",
    "exit_reason", "bars_held",
)  # fmt: skip
"""The first columns of every trade list; others rely on them (docs/interfaces.md)."""
MONEY_COLUMNS = ("quantity", "costs_usd", "pnl_usd", "r_multiple", "mae_r", "mfe_r")
BENCHMARK_COLUMNS = ("session", "spy", "equal_weight")
EQUITY_COLUMNS = ("session", "equity_usd", "daily_return", "positions", "exposure_usd", "cash_usd", "costs_usd")
SIGNAL_NOTIONAL_USD = 1000.0
"""The signal level knows no account: each trade is this much at its entry, in fractions of a share."""


@dataclass(frozen=True, slots=True, eq=False)
class SignalCurve:
    """(n_sessions,) each: sessions, mean return of the trades held in each, and how many those were."""

    days: Days
    returns: Floats
    held: NDArray[np.intp]


def signal_booked(panel: Panel, trades: Trades, costs: CostModel) -> Booked:
    """Signal-level trades in money. Fees follow the value and the shares exactly, without rounding to cents."""
    quantity = SIGNAL_NOTIONAL_USD / trades.entry_price
    volume = dollar_volumes(panel, trades.signal, trades.column)
    paid = costs.side(trades.entry_price, volume) * SIGNAL_NOTIONAL_USD
    sold = np.where(trades.closed, trades.exit_price * quantity, 0.0)
    of_sale = costs.side(trades.exit_price, volume) * sold
    fees = costs.sale_fees(sold, np.where(trades.closed, quantity, 0.0), trades.exit_at)
    return Booked(trades, quantity, paid + of_sale + fees, volume)


def write_trade_list(path: Path, panel: Panel, booked: Booked) -> None:
    trades = booked.trades
    mae, mfe = np.full(len(trades), np.nan), np.full(len(trades), np.nan)
    mae[trades.closed], mfe[trades.closed] = excursions(panel, place_table(trades))
    days = _Days(np.concatenate([trades.signal_at, trades.entry_at, trades.exit_at]))
    columns: list[Iterable[str]] = [
        [trades.symbols[k] for k in trades.column.tolist()],
        [trades.strategies[k] for k in trades.strategy.tolist()],
        days.texts(trades.signal_at),
        days.texts(trades.entry_at),
        *(_numbers(a) for a in (trades.entry_price, trades.stop, trades.target)),
        days.texts(trades.exit_at),
        _numbers(trades.exit_price),
        [str(REASONS[k]) for k in trades.reason.tolist()],
        map(str, trades.held.tolist()),
        *(_six_decimals(a) for a in (booked.quantity, booked.costs_usd, booked.pnl_usd, booked.r_multiple, mae, mfe)),
    ]
    _write(path, (*TRADE_COLUMNS, *MONEY_COLUMNS), columns)


def write_equity(path: Path, equity: Equity) -> None:
    change = np.full(equity.equity.size, np.nan)
    change[1:] = equity.equity[1:] / equity.equity[:-1] - 1.0
    columns: list[Iterable[str]] = [
        _Days(equity.days).texts(equity.days),
        _numbers(equity.equity),
        _numbers(change),
        map(str, equity.positions.tolist()),
        *(_numbers(a) for a in (equity.exposure, equity.cash, equity.costs)),
    ]
    _write(path, EQUITY_COLUMNS, columns)


def signal_curve(panel: Panel, booked: Booked, start: date, end: date) -> SignalCurve:
    """The signal level has no account: its curve is the mean return of the trades held each session, after costs.

    From `start` to `end`, or to the last exit when that is later.
    """
    trades = booked.trades
    cost = booked.cost_fraction[trades.closed]
    last = max(end, from_day(int(trades.exit_at.max(initial=0))))
    low, high = np.searchsorted(panel.sessions, [(start - date(1970, 1, 1)).days, (last - date(1970, 1, 1)).days + 1])
    returns, held = daily_returns(panel, place_table(trades, cost), start, last)
    return SignalCurve(panel.sessions[low:high], returns, held)


def write_signal_equity(path: Path, curve: SignalCurve) -> None:
    worth: Floats = np.cumprod(1.0 + curve.returns, dtype=np.float64)
    empty = [""] * curve.returns.size
    columns: list[Iterable[str]] = [
        _Days(curve.days).texts(curve.days),
        _numbers(worth),
        _numbers(curve.returns),
        map(str, curve.held.tolist()),
        empty,
        empty,
        empty,
    ]
    _write(path, EQUITY_COLUMNS, columns)


def write_benchmark(path: Path, days: Days, curves: Mapping[str, Floats]) -> None:
    """Wealth of holding, 1 before the first session; a curve that is not known is empty."""
    known = [_numbers(curves[name]) if name in curves else [""] * days.size for name in BENCHMARK_COLUMNS[1:]]
    _write(path, BENCHMARK_COLUMNS, [_Days(days).texts(days), *known])


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n", durable=False)


def _write(path: Path, header: Sequence[str], columns: Sequence[Iterable[str]]) -> None:
    lines = [",".join(header), *map(",".join, zip(*columns, strict=True))]
    write_atomic(path, ("\n".join(lines) + "\n").encode(), durable=False)


def _numbers(values: Floats) -> list[str]:
    """The shortest text that reads back as the same number."""
    write: Callable[[float], str] = repr
    return ["" if value != value else write(value) for value in values.tolist()]


def _six_decimals(values: Floats) -> list[str]:
    """All in one call of the formatter, which costs a sixth of one call each."""
    rounded = np.round(values, 6) + 0.0  # no negative zero
    text = ("%.6f\n" * rounded.size) % tuple(rounded.tolist())
    return text.replace("nan", "").split("\n")[:-1]


class _Days:
    """Texts of the days that occur, each made once; a negative day is none."""

    def __init__(self, days: NDArray[Any]) -> None:
        self._known = {d: "" if d < 0 else from_day(d).isoformat() for d in set(days.tolist())}

    def texts(self, days: NDArray[Any]) -> list[str]:
        return [self._known[d] for d in days.tolist()]
