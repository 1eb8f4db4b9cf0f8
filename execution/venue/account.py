"""The venue's account: cash, orders, positions and activities in one SQLite file that several processes may open.

Amounts are decimal text, instants ISO 8601 UTC text. Every request is one BEGIN IMMEDIATE transaction, so two
scripts with a server each still see one broker. Not synced to disk at commit: it must survive a killed process,
not a power cut; the journal is what must survive that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid5

from core.errors import StateCorrupt, StateLocked

ACCOUNT_ID = UUID("6b6f6265-0000-5000-8000-76656e756500")
OPEN_STATES = ("pending_new", "accepted", "new", "partially_filled", "held", "pending_cancel")
_BUSY_S = 10.0  # how long to wait for another process's transaction

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, client_order_id TEXT NOT NULL UNIQUE,
  parent_id TEXT, symbol TEXT NOT NULL, side TEXT NOT NULL, type TEXT NOT NULL, tif TEXT NOT NULL,
  order_class TEXT NOT NULL, qty TEXT NOT NULL, filled_qty TEXT NOT NULL, filled_avg_price TEXT,
  limit_price TEXT, stop_price TEXT, status TEXT NOT NULL, created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
  filled_at TEXT, canceled_at TEXT, expired_at TEXT, failed_at TEXT, expires_at TEXT NOT NULL,
  triggered INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS orders_open ON orders (status, symbol);
CREATE TABLE IF NOT EXISTS positions (symbol TEXT PRIMARY KEY, qty TEXT NOT NULL, average TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS activities (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, at TEXT NOT NULL,
  order_id TEXT, symbol TEXT NOT NULL, side TEXT NOT NULL, price TEXT NOT NULL, qty TEXT NOT NULL,
  cum_qty TEXT NOT NULL, leaves_qty TEXT NOT NULL, order_status TEXT NOT NULL, net_amount TEXT NOT NULL,
  group_id TEXT NOT NULL DEFAULT '', description TEXT NOT NULL DEFAULT '');
"""
_ADDED = ("group_id", "description")  # columns of `activities` that account files made earlier lack


@dataclass(frozen=True, slots=True, kw_only=True)
class VenueOrder:
    """One row of the order table; `parent_id` is set on the stop leg of an OCO."""

    seq: int = 0
    id: str
    client_order_id: str
    parent_id: str | None
    symbol: str
    side: str
    type: str  # market, limit, stop, stop_limit
    tif: str
    order_class: str  # "" or "oco"
    qty: Decimal
    filled_qty: Decimal = Decimal(0)
    filled_avg_price: Decimal | None = None
    limit_price: Decimal | None
    stop_price: Decimal | None
    status: str
    created_at: datetime
    updated_at: datetime
    filled_at: datetime | None = None
    canceled_at: datetime | None = None
    expired_at: datetime | None = None
    failed_at: datetime | None = None
    expires_at: datetime
    triggered: bool = False

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_STATES

    @property
    def left(self) -> Decimal:
        return self.qty - self.filled_qty


@dataclass(frozen=True, slots=True)
class Holding:
    """Shares held (never negative here) at their average cost, USD per share."""

    symbol: str
    qty: Decimal
    average: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """A fill, or the effect of a corporate action; the activities of one event share `group_id`."""

    id: str
    kind: str
    at: datetime
    order_id: str | None
    symbol: str
    side: str
    price: Decimal
    qty: Decimal
    cum_qty: Decimal
    leaves_qty: Decimal
    order_status: str
    net_amount: Decimal = Decimal(0)
    group_id: str = ""
    description: str = ""


_DECIMALS = {
    "qty", "filled_qty", "filled_avg_price", "limit_price", "stop_price", "average", "price", "cum_qty", "leaves_qty",
    "net_amount",
}  # fmt: skip
_INSTANTS = {"created_at", "updated_at", "filled_at", "canceled_at", "expired_at", "failed_at", "expires_at", "at"}
_ORDER_COLUMNS = tuple(field.name for field in fields(VenueOrder))
_ACTIVITY_COLUMNS = tuple(field.name for field in fields(Activity))


def _store(value: object) -> object:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat()
    return int(value) if isinstance(value, bool) else value


def _load(name: str, value: object) -> object:
    if value is None:
        return None
    if name in _DECIMALS:
        return Decimal(str(value))
    if name in _INSTANTS:
        return datetime.fromisoformat(str(value))
    return bool(value) if name == "triggered" else value


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's troubles with the file itself, in our words; the file stays as it is."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise _damaged(path, error) from error
        raise StateLocked(f"{path.name} has been locked by another process for {_BUSY_S:g} s") from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StateCorrupt:
    return StateCorrupt(
        f"{path.name}, the embedded venue's account, cannot be used: {error}",
        code="VENUE_ACCOUNT_DAMAGED",
        advice="restore it from a backup, or set KOBE_HOME to another folder; no real broker is concerned",
    )


def order_id(client_order_id: str, leg: str = "") -> str:
    """The same client order id always gets the same order id."""
    return str(uuid5(ACCOUNT_ID, f"{client_order_id}\x1f{leg}"))


class AccountStore:
    """Rows in and out; no rules. Use every other method inside `transaction()`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _told(path):
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(_TABLES)
            self._add_columns()
        self._meta: dict[str, str] = {}

    def _add_columns(self) -> None:
        have = {str(row[1]) for row in self._db.execute("PRAGMA table_info(activities)")}
        for name in _ADDED:
            if name not in have:
                self._db.execute(f"ALTER TABLE activities ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._meta = dict(self._db.execute("SELECT key, value FROM meta"))
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # meta: cash, last_equity, clock, created_at, market
    def get(self, key: str, default: str = "") -> str:
        return self._meta.get(key, default)

    def put(self, key: str, value: str) -> None:
        if self._meta.get(key) != value:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
            self._meta[key] = value

    @property
    def cash(self) -> Decimal:
        return Decimal(self.get("cash"))

    @cash.setter
    def cash(self, value: Decimal) -> None:
        self.put("cash", format(value, "f"))

    # orders
    def add_order(self, order: VenueOrder) -> None:
        """Raises sqlite3.IntegrityError for a client order id that was ever used."""
        names = _ORDER_COLUMNS[1:]
        values = [_store(getattr(order, name)) for name in names]
        marks = ",".join("?" * len(names))
        self._db.execute(f"INSERT INTO orders ({','.join(names)}) VALUES ({marks})", values)

    def change(self, order: VenueOrder, **changes: object) -> VenueOrder:
        sets = ",".join(f"{name} = ?" for name in changes)
        self._db.execute(f"UPDATE orders SET {sets} WHERE id = ?", [*map(_store, changes.values()), order.id])
        return replace(order, **changes)  # type: ignore[arg-type]

    def orders(
        self, where: str = "1", arguments: Sequence[object] = (), tail: str = "ORDER BY seq"
    ) -> list[VenueOrder]:
        """`where` and `tail` are SQL of ours, never a client's text."""
        rows = self._db.execute(f"SELECT {','.join(_ORDER_COLUMNS)} FROM orders WHERE {where} {tail}", arguments)
        return [_order(row) for row in rows]

    def order(self, order_id: str) -> VenueOrder | None:
        return next(iter(self.orders("id = ?", (order_id,))), None)

    def by_client_id(self, client_order_id: str) -> VenueOrder | None:
        return next(iter(self.orders("client_order_id = ?", (client_order_id,))), None)

    def open_orders(self, symbol: str | None = None) -> list[VenueOrder]:
        marks = ",".join("?" * len(OPEN_STATES))
        if symbol is None:
            return self.orders(f"status IN ({marks})", OPEN_STATES)
        return self.orders(f"status IN ({marks}) AND symbol = ?", (*OPEN_STATES, symbol))

    def legs(self, parent: VenueOrder) -> list[VenueOrder]:
        return self.orders("parent_id = ?", (parent.id,)) if parent.order_class else []

    # positions
    def holdings(self) -> list[Holding]:
        rows = self._db.execute("SELECT symbol, qty, average FROM positions ORDER BY symbol")
        return [Holding(str(symbol), Decimal(qty), Decimal(average)) for symbol, qty, average in rows]

    def holding(self, symbol: str) -> Holding | None:
        row = self._db.execute("SELECT symbol, qty, average FROM positions WHERE symbol = ?", (symbol,)).fetchone()
        return None if row is None else Holding(str(row[0]), Decimal(row[1]), Decimal(row[2]))

    def hold(self, holding: Holding) -> None:
        """Store, or forget when flat."""
        if holding.qty == 0:
            self._db.execute("DELETE FROM positions WHERE symbol = ?", (holding.symbol,))
            return
        values = (holding.symbol, format(holding.qty, "f"), format(holding.average, "f"))
        self._db.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", values)

    # activities
    def add_activity(self, activity: Activity) -> None:
        values = [_store(getattr(activity, name)) for name in _ACTIVITY_COLUMNS]
        marks = ",".join("?" * len(values))
        self._db.execute(f"INSERT INTO activities ({','.join(_ACTIVITY_COLUMNS)}) VALUES ({marks})", values)

    def activities(self) -> list[Activity]:
        """All, oldest first."""
        rows = self._db.execute(f"SELECT {','.join(_ACTIVITY_COLUMNS)} FROM activities ORDER BY at, seq")
        return [
            Activity(**{n: _load(n, v) for n, v in zip(_ACTIVITY_COLUMNS, row, strict=True)})  # type: ignore[arg-type]
            for row in rows
        ]


def _order(row: Sequence[object]) -> VenueOrder:
    return VenueOrder(**{n: _load(n, v) for n, v in zip(_ORDER_COLUMNS, row, strict=True)})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class VenueMeta:
    """What an account file says of itself: which market it trades, and how far its clock has come."""

    market: str
    fills: str
    clock: datetime | None


def read_meta(path: Path) -> VenueMeta | None:
    """None when there is no account file yet, or one without our tables. Raises StateCorrupt for a damaged one."""
    if not path.is_file():
        return None
    with _told(path):
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        try:
            rows = dict(database.execute("SELECT key, value FROM meta"))
        except sqlite3.OperationalError:  # a file without our tables
            return None
        finally:
            database.close()
    clock = rows.get("clock")
    return VenueMeta(rows.get("market", ""), rows.get("fills", ""), datetime.fromisoformat(clock) if clock else None)


GTC_LIFE = timedelta(days=90)
