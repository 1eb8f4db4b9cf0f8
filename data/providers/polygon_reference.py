"""Polygon's reference data for building a universe: who is listed, and who has options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from core.domain import Symbol, canonical_symbol
from data.providers.base import dotted
from data.providers.polygon_eod import PolygonProvider

TYPES = ("CS", "ADRC")
"""Common stocks and depositary receipts; no funds, preferred shares, units, warrants or notes."""
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    symbol: Symbol
    name: str
    type: str


class PolygonReference(PolygonProvider):
    """The same door, with the same limits, deadline and checks. Raises ProviderFailure."""

    def listed(self, on: date) -> list[Listed]:
        """Active stocks and receipts as of that day, sorted; a ticker that is none of ours (`BACpA`) is left out."""
        found: dict[Symbol, Listed] = {}
        for kind in TYPES:
            for item in self._pages(
                lambda client, kind=kind: client.list_tickers(
                    market="stocks", type=kind, active=True, date=str(on), limit=_PAGE, sort="ticker", order="asc",
                    raw=True,
                )
            ):  # fmt: skip
                one = self._listed(item, kind)
                if one is not None:
                    found[one.symbol] = one
        return [found[symbol] for symbol in sorted(found)]

    def _listed(self, item: Mapping[str, Any], kind: str) -> Listed | None:
        ticker = item.get("ticker")
        if not isinstance(ticker, str):
            raise self._malformed("a ticker without its name")
        try:
            symbol = canonical_symbol(ticker)
        except ValueError:
            return None
        fits = symbol == ticker and item.get("locale", "us") == "us" and item.get("type", kind) == kind
        return Listed(symbol, str(item.get("name") or ""), kind) if fits else None

    def has_options(self, symbol: Symbol, on: date) -> bool:
        """Whether a contract on it had not expired that day. One request; a plan without options is not_entitled."""
        body = self._json(
            lambda client: client.list_options_contracts(
                underlying_ticker=dotted(symbol), as_of=str(on), expired=False, limit=1, raw=True
            )
        )
        return any(item.get("underlying_ticker") == dotted(symbol) for item in self._results(body))
