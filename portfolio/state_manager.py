"""The state documents: versioned JSON under a file lock, replaced atomically.

positions.json      {schema_version, as_of, positions: {SYMBOL: {quantity, average_price, trades}}};
                    written by the runner and by reconcile --force-sync, a view that can be rebuilt
weekly_budget.json  {schema_version, week: "2026-W48", spent_usd}; derived from the journal by the runner
universe_last.json  {schema_version, symbols, sha256}; the last default universe, for the change guard

An absent document reads as empty. A damaged one raises StateCorrupt: it is never a fresh start. One written by a newer
version is refused too. One of an older version is read through named upgrades and kept as `<name>.v<version>.json` when
it is first rewritten. Money and quantities are text, so that nothing is lost in a float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from core.clock import Clock, SystemClock
from core.documents import Document, Schema, read, write
from core.domain import Position
from core.errors import StateCorrupt
from core.files import locked
from core.paths import Home, home


def _is_decimal(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return Decimal(value).is_finite()
    except InvalidOperation:
        return False


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _check_positions(document: Document) -> None:
    _require(document.get("as_of") is None or isinstance(document["as_of"], str), "as_of must be text")
    positions = document.get("positions")
    _require(isinstance(positions, dict), "positions must be an object")
    for symbol, position in (positions or {}).items():
        _require(isinstance(position, dict), f"{symbol} must be an object")
        for name in ("quantity", "average_price"):
            _require(_is_decimal(position.get(name)), f"{symbol}: {name} must be a decimal in quotes")
        _require(isinstance(position.get("trades"), list), f"{symbol}: trades must be a list")


def _check_budget(document: Document) -> None:
    week = document.get("week")
    _require(week is None or isinstance(week, str), "week must be text")
    _require(_is_decimal(document.get("spent_usd")), "spent_usd must be a decimal in quotes")
    _require(Decimal(document["spent_usd"]) >= 0, "spent_usd must not be negative")


def _check_universe(document: Document) -> None:
    symbols = document.get("symbols")
    _require(isinstance(symbols, list) and all(isinstance(s, str) for s in symbols), "symbols must be a list of text")
    _require(document.get("sha256") is None or isinstance(document["sha256"], str), "sha256 must be text")


# No view of the journal: nothing can make it again.
UNIVERSE_ADVICE = "look at the universe file, then delete state/universe_last.json: the next scan writes it anew"
DOCUMENTS: Mapping[str, Schema] = {
    "positions": Schema(1, lambda: {"schema_version": 1, "as_of": None, "positions": {}}, _check_positions, {}),
    "weekly_budget": Schema(1, lambda: {"schema_version": 1, "week": None, "spent_usd": "0"}, _check_budget, {}),
    "universe_last": Schema(1, lambda: {"schema_version": 1, "symbols": [], "sha256": None}, _check_universe, {}),
}


class StateManager:
    """Reads and writes the documents below one home. Safe between threads and processes."""

    def __init__(self, where: Home, clock: Clock | None = None, *, lock_timeout_s: float = 10.0) -> None:
        self._home = where
        self._clock = clock or SystemClock()
        self._lock_timeout_s = lock_timeout_s

    def path(self, name: str) -> Path:
        if name not in DOCUMENTS:
            raise ValueError(f"no state document {name!r}; there are {', '.join(sorted(DOCUMENTS))}")
        return self._home.state / f"{name}.json"

    def read(self, name: str) -> Document:
        """The whole document; needs no lock, since a reader sees the old file or the new one."""
        try:
            return read(self.path(name), DOCUMENTS[name])
        except StateCorrupt as error:
            if name != "universe_last" or error.code != StateCorrupt.default_code:
                raise
            raise StateCorrupt(str(error), advice=UNIVERSE_ADVICE) from error

    def update(self, name: str, change: Callable[[Document], Document]) -> Document:
        """Apply a pure change under the lock. A crash anywhere leaves the old document or the new one.

        Raises StateCorrupt when the document on disk is damaged (it is left as it is), StateLocked when another
        process holds it too long, ValueError when `change` returns something that is no such document.
        """
        path, schema = self.path(name), DOCUMENTS[name]
        with locked(path, timeout_s=self._lock_timeout_s):
            return write(path, change(self.read(name)), schema)

    def get_positions(self) -> dict[str, Document]:
        """{SYMBOL: {quantity, average_price, trades}}; a view, the broker is the truth."""
        positions: dict[str, Document] = self.read("positions")["positions"]
        return positions

    def set_positions(self, positions: Mapping[str, Position | Mapping[str, Any]]) -> None:
        """Replace all positions. Trades already recorded for a symbol are kept when a bare Position is given."""
        as_of = f"{self._clock.now().astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

        def change(before: Document) -> Document:
            old = before["positions"]
            now = {str(s): _position(p, old.get(str(s), {})) for s, p in sorted(positions.items())}
            return {"as_of": as_of, "positions": now}

        self.update("positions", change)

    def get_weekly_budget(self) -> Document:
        """{week: ISO week or None, spent_usd}: what entries cost so far that week; derived, no limit of its own."""
        document = self.read("weekly_budget")
        return {"week": document["week"], "spent_usd": document["spent_usd"]}


def _position(value: Position | Mapping[str, Any], before: Mapping[str, Any]) -> Document:
    if isinstance(value, Position):
        trades = list(before.get("trades", []))
        return {"quantity": str(value.quantity), "average_price": str(value.average_price), "trades": trades}
    amounts = {name: _text(value[name]) for name in ("quantity", "average_price")}
    return {**value, **amounts, "trades": list(value.get("trades", []))}


def _text(value: object) -> str:
    """Decimal text of a number however it was given; a float by its shortest digits."""
    return value if isinstance(value, str) else str(value)


def get_state_manager() -> StateManager:
    """The documents of KOBE_HOME, read at each call."""
    return StateManager(home())
