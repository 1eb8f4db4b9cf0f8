"""What a function of the operator's own may return, read into an Answer; anything else is refused in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from core.bars_io import BarColumns
from core.errors import UsageError
from portfolio.backtest.honesty.asked import Answer, Deal, Features, Labels
from portfolio.backtest.honesty.market import Market

_NEEDED = ("entry_date", "entry_price", "exit_date", "exit_price")
_TRADES = (*_NEEDED, "symbol", "signal_date", "side", "quantity", "costs_usd", "costs_bps", "pnl_usd", "tag")
_DATES, _TEXTS = ("entry_date", "exit_date", "signal_date"), ("symbol", "side", "tag")
_SIDES = ("long", "short", "buy", "sell")
_KEYS = ("trades", "entries", "exits", "features", "labels", "independent", "costs_bps", "quantity")
_BPS = 1e4
_EPOCH = date(1970, 1, 1).toordinal()


def read_answer(name: str, said: Any, symbol: str | None, market: Market) -> Answer:
    """`symbol`: the one it was asked about, None: all. Raises UsageError STRATEGY_RESULT."""
    if said is None:
        return Answer(())
    if not isinstance(said, Mapping):
        said = {"trades": said}
    foreign = [str(key) for key in said if key not in _KEYS]
    if foreign or not said.keys() & {"trades", "entries", "features"}:
        raise _refused(name, f"a dict with {', '.join(foreign) or 'no trades, entries or features'}")
    rate = None if said.get("costs_bps") is None else float(said["costs_bps"])
    if "entries" in said:
        deals = _of_signals(name, said, symbol, market, rate)
    else:
        deals = _deals(name, said.get("trades"), symbol, rate)
    return Answer(
        deals,
        _features(name, said.get("features"), symbol),
        _labels(name, said.get("labels"), symbol),
        None if said.get("independent") is None else float(said["independent"]),
    )


def joined(answers: Sequence[Answer]) -> Answer:
    """Of several symbols, asked one by one."""
    features: dict[str, Features] = {}
    for answer in answers:
        features.update(answer.features)
    labels = [a.labels for a in answers if a.labels is not None]
    counts = [a.independent for a in answers if a.independent is not None]
    return Answer(
        tuple(d for a in answers for d in a.deals),
        features,
        _all_labels(labels) if labels else None,
        float(sum(counts)) if counts else None,
    )


def _all_labels(labels: Sequence[Labels]) -> Labels:
    return Labels(
        tuple(s for own in labels for s in own.symbol),
        np.concatenate([own.start for own in labels]),
        np.concatenate([own.end for own in labels]),
        tuple(p for own in labels for p in own.part),
        np.concatenate([own.weight for own in labels]),
        pooled=False,
    )


def _refused(name: str, what: str) -> UsageError:
    return UsageError(
        f"{name} returned {what}; it must return trades: a DataFrame or list of dicts with {', '.join(_NEEDED)}",
        code="STRATEGY_RESULT", advice="see docs/honesty.md, What a strategy returns",
    )  # fmt: skip


# ---------------------------------------------------------------- trades
def _deals(name: str, table: Any, symbol: str | None, rate: float | None) -> tuple[Deal, ...]:
    columns = _columns(name, table, _NEEDED if symbol else (*_NEEDED, "symbol"), "trades")
    foreign = [c for c in columns if c not in _TRADES]
    if foreign:
        raise _refused(name, f"trades with the unknown column {foreign[0]}")
    read: dict[str, list[Any]] = {}
    for column, values in columns.items():
        if column in _DATES:
            read[column] = [_day(name, column, value) for value in values]
        elif column in _TEXTS:
            read[column] = [str(value) for value in values]
        else:
            read[column] = [_number(name, column, value) for value in values]
    if any(day is None for day in read.get("entry_date", ())) or None in read.get("entry_price", ()):
        raise _refused(name, "a trade without an entry date or price")
    wrong = [side for side in read.get("side", ()) if side.lower() not in _SIDES]
    if wrong:
        raise _refused(name, f"a trade with the side {wrong[0]!r} (long or short)")
    names = list(read)
    rows = zip(*read.values(), strict=True)
    return tuple(_deal(dict(zip(names, row, strict=True)), symbol, rate) for row in rows)


def _deal(row: Mapping[str, Any], symbol: str | None, rate: float | None) -> Deal:
    price, quantity, cost = row["entry_price"], row.get("quantity"), row.get("costs_usd")
    bps = row.get("costs_bps", rate)
    if cost is None and bps is not None:
        cost = bps / _BPS * price * abs(quantity if quantity is not None else 1.0)
    ended = row["exit_date"] is not None and row["exit_price"] is not None
    return Deal(
        symbol=row.get("symbol") or str(symbol),
        entry=row["entry_date"],
        entry_price=price,
        signal=row.get("signal_date"),
        exit=row["exit_date"] if ended else None,
        exit_price=row["exit_price"] if ended else None,
        long=row.get("side", "long").lower() in ("long", "buy"),
        quantity=quantity,
        cost_usd=cost,
        pnl_usd=row.get("pnl_usd"),
        tag=row.get("tag", ""),
    )


def _columns(name: str, table: Any, needed: Sequence[str], what: str) -> dict[str, list[Any]]:
    """A DataFrame or a list of dicts as columns; nothing when it is empty. What a row does not tell is None."""
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        columns = {str(c): table[c].tolist() for c in table.columns} if len(table) else {}
    elif isinstance(table, (list, tuple)) and all(isinstance(row, Mapping) for row in table):
        keys = list(dict.fromkeys(str(key) for row in table for key in row))
        columns = {key: [row.get(key) for row in table] for key in keys}
    elif table is None:
        columns = {}
    else:
        raise _refused(name, f"{what} of the kind {type(table).__name__}")
    lacking = [c for c in needed if columns and c not in columns]
    if lacking:
        raise _refused(name, f"{what} without the column {lacking[0]}")
    return columns


def _day(name: str, column: str, value: Any) -> int | None:
    """A date, datetime, Timestamp, datetime64 or ISO text as days since 1970-01-01; None, NaN and NaT are none."""
    if value is None or value != value:
        return None
    try:
        if isinstance(value, np.datetime64):
            value = value.astype("datetime64[D]").item()
        elif isinstance(value, str):
            value = date.fromisoformat(value[:10])
        return int(value.toordinal()) - _EPOCH
    except (ValueError, AttributeError) as error:
        raise _refused(name, f"a {column} that is no date: {value!r}") from error


def _number(name: str, column: str, value: Any) -> float | None:
    if value is None or value != value:
        return None
    try:
        number = float(value)
    except (ValueError, TypeError) as error:
        raise _refused(name, f"a {column} that is no number: {value!r}") from error
    return number if np.isfinite(number) else None


# ---------------------------------------------------------------- entries and exits
def _of_signals(
    name: str, said: Mapping[str, Any], symbol: str | None, market: Market, rate: float | None
) -> tuple[Deal, ...]:
    """True at the close of a bar: bought, or sold, at the open of the symbol's next bar. One position at a time."""
    if symbol is None:
        raise _refused(name, "entries for a whole market (only a strategy of bars may)")
    own = market.bars[symbol]
    entries, exits = (_flags(name, said.get(key), own) for key in ("entries", "exits"))
    size = said.get("quantity")
    deals, held = [], None
    for row in range(len(own) - 1):
        if held is None and entries[row]:
            held = row
        elif held is not None and exits[row] and row > held:
            deals.append(_signal_deal(symbol, own, held, row, size, rate))
            held = None
    if held is not None:
        deals.append(_signal_deal(symbol, own, held, None, size, rate))
    return tuple(deals)


def _signal_deal(symbol: str, own: BarColumns, enter: int, leave: int | None, size: Any, rate: float | None) -> Deal:
    price, quantity = float(own.open[enter + 1]), None if size is None else float(size)
    return Deal(
        symbol=symbol,
        signal=int(own.dates[enter]),
        entry=int(own.dates[enter + 1]),
        entry_price=price,
        exit=None if leave is None else int(own.dates[leave + 1]),
        exit_price=None if leave is None else float(own.open[leave + 1]),
        quantity=quantity,
        cost_usd=None if rate is None else rate / _BPS * price * (1.0 if quantity is None else abs(quantity)),
    )


def _flags(name: str, values: Any, own: BarColumns) -> list[bool]:
    if values is None or not hasattr(values, "__len__") or len(values) != len(own):
        raise _refused(name, f"entries or exits that are not one True or False for each of the {len(own)} bars")
    return [value == value and bool(value) for value in np.asarray(values).tolist()]


# ---------------------------------------------------------------- features, labels
def _features(name: str, told: Any, symbol: str | None) -> dict[str, Features]:
    import pandas as pd

    if told is None:
        return {}
    by_symbol = told if isinstance(told, Mapping) else {symbol: told}
    out: dict[str, Features] = {}
    for key, frame in by_symbol.items():
        own = frame.to_frame() if isinstance(frame, pd.Series) else frame
        if key is None or not isinstance(own, pd.DataFrame):
            raise _refused(name, "features that are no DataFrame by date (of a market: symbol -> DataFrame)")
        days = np.array([_day(name, "feature date", stamp) for stamp in own.index.tolist()], dtype=np.int32)
        try:
            columns = {str(c): own[c].to_numpy(dtype=np.float64, na_value=np.nan) for c in own.columns}
        except (ValueError, TypeError) as error:
            raise _refused(name, f"a feature that is no number ({error})") from error
        out[str(key)] = Features(days, columns)
    return out


def _labels(name: str, told: Any, symbol: str | None) -> Labels | None:
    if told is None:
        return None
    columns = _columns(name, told, ("start", "end") if symbol else ("start", "end", "symbol"), "labels")
    if not columns:
        return None
    start, end = ([_day(name, c, value) for value in columns[c]] for c in ("start", "end"))
    if any(a is None or b is None or b < a for a, b in zip(start, end, strict=True)):
        raise _refused(name, "a label that ends before it starts")
    n = len(start)
    weight = [_number(name, "weight", value) for value in columns.get("weight", [None] * n)]
    return Labels(
        tuple(str(value) for value in columns.get("symbol", [symbol] * n)),
        np.array(start, dtype=np.int32),
        np.array(end, dtype=np.int32),
        tuple(str(value).lower() for value in columns.get("part", [""] * n)),
        np.array([np.nan if value is None else value for value in weight]),
        pooled=symbol is None,
    )
