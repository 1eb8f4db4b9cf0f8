"""Facts of one session that the live day and the portfolio backtest both work out here. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

from core.domain import Symbol
from core.panel import Panel
from portfolio.strategies.indicators import Floats, Ints

RETURN_WINDOW = 60


def aligned_returns(panel: Panel, row: int, column: int, session: int) -> Floats | None:
    """(60,) close-to-close returns up to `row`, when the symbol traded all of the last 61 sessions; else None.

    session: index into panel.sessions of the last one.
    """
    first = row - RETURN_WINDOW
    if first < 0:
        return None
    index = panel.session_index[:, column]
    if index[row] != session or index[first] != session - RETURN_WINDOW:
        return None
    close = panel.close[first : row + 1, column]
    return close[1:] / close[:-1] - 1.0


class Returns(Mapping[Symbol, Floats]):
    """`aligned_returns` per symbol, worked out when asked; symbols without are absent.

    rows: each symbol's last bar on or before the session.
    """

    def __init__(self, panel: Panel, rows: Ints, session: int, columns: Mapping[str, int] | None = None) -> None:
        self._panel, self._rows, self._session = panel, rows, session
        self._columns = {symbol: j for j, symbol in enumerate(panel.symbols)} if columns is None else columns
        self._found: dict[Symbol, Floats | None] = {}

    def _of(self, symbol: Symbol) -> Floats | None:
        if symbol not in self._found:
            column = self._columns.get(symbol)
            self._found[symbol] = (
                None if column is None else aligned_returns(self._panel, int(self._rows[column]), column, self._session)
            )
        return self._found[symbol]

    def __getitem__(self, symbol: Symbol) -> Floats:
        found = self._of(symbol)
        if found is None:
            raise KeyError(symbol)
        return found

    def __iter__(self) -> Iterator[Symbol]:
        return (Symbol(symbol) for symbol in self._panel.symbols if self._of(Symbol(symbol)) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def held_usd(
    positions: Mapping[Symbol, int], closes: Mapping[Symbol, float], cost: Mapping[Symbol, Decimal], worst: Decimal
) -> dict[Symbol, Decimal]:
    """What is held, for the limits of selection: at the last close, else at cost; without either at `worst` a share."""

    def price(symbol: Symbol) -> Decimal:
        return Decimal(repr(float(closes[symbol]))) if symbol in closes else cost.get(symbol, worst)

    return {symbol: abs(quantity) * price(symbol) for symbol, quantity in positions.items()}
