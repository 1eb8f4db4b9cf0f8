"""A function of the operator's own as a strategy that can be asked: what it is handed and what it may return.

The first parameter's name says what it wants: `bars`, one symbol's DataFrame, called once per symbol; `market`, a dict
of symbol -> DataFrame, called once. docs/honesty.md is the operator's side of this.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.bars_io import FIELDS, BarColumns
from core.errors import UsageError
from portfolio.backtest.honesty.answers import read_answer
from portfolio.backtest.honesty.asked import Answer, Raised, Values
from portfolio.backtest.honesty.market import Market, Table
from portfolio.strategies.boundary import Failed, guarded

if TYPE_CHECKING:
    import pandas as pd

_FIRST = ("bars", "market")
_ADVICE = "see docs/honesty.md, What a strategy is"


class OperatorStrategy:
    """core of `scripts/honesty.py`. Raises UsageError for a function of another shape or an answer of another kind."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        if not callable(function):
            raise UsageError(f"{name} is no function", code="STRATEGY_SHAPE", advice=_ADVICE)
        self.name = name
        self._function = function
        taken = list(_signature(function, name).parameters.values())
        first = taken[0].name if taken else ""
        if first not in _FIRST:
            raise UsageError(
                f"{name}: the first parameter must be named bars or market, was {first!r}",
                code="STRATEGY_SHAPE", advice=_ADVICE,
            )  # fmt: skip
        self._alone = first == "bars"
        self._parameters = {p.name: p.default for p in taken[1:] if _is_number(p.default)}
        self._names = tuple(p.name for p in taken[1:] if p.default is p.empty and p.name != "symbol" and _plain(p))
        self._wants_symbol = any(p.name == "symbol" for p in taken[1:])

    @property
    def parameters(self) -> Values:
        return self._parameters

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def each_alone(self) -> bool:
        return self._alone

    def ask(self, market: Market, parameters: Values | None = None) -> Answer | Raised:
        """Never raises for what the function does; raises UsageError when its answer cannot be read."""
        missing = [name for name in self._names if name not in market.tables]
        if missing:
            raise UsageError(
                f"{self.name} wants {missing[0]!r}, which was not given",
                code="TABLE_ABSENT", advice=f"give it: {_option(missing[0])}",
            )  # fmt: skip
        answers = []
        for handed, symbol in self._handed(market):
            extra: dict[str, Any] = {name: table_frame(market.tables[name]) for name in self._names}
            if self._wants_symbol:
                extra["symbol"] = symbol
            said = self._called(handed, extra | dict(parameters or {}))
            if isinstance(said, Raised):
                return said
            answers.append(read_answer(self.name, said, symbol, market))
        return _joined(answers)

    def _handed(self, market: Market) -> Iterator[tuple[Any, str | None]]:
        if self._alone:
            for symbol, own in market.bars.items():
                yield bars_frame(own, market.factors.get(symbol)), symbol
        else:
            yield {s: bars_frame(own, market.factors.get(s)) for s, own in market.bars.items()}, None

    def _called(self, handed: Any, extra: Mapping[str, Any]) -> Any:
        """What it returns, or how it raised. What it prints goes to stderr: stdout is ours."""

        def act() -> Any:
            try:
                return self._function(handed, **extra)
            except SystemExit as error:
                return Raised(f"it ends the program: SystemExit({error.code!r})")

        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = guarded(self.name, act)
        return Raised(_where(said)) if isinstance(said, Failed) else said


def _where(failed: Failed) -> str:
    """What was raised and the last line of the operator's code that it came through."""
    places = [line.strip() for line in failed.trace.splitlines() if line.strip().startswith("File ")]
    own = [place for place in places[2:] if "site-packages" not in place]  # the first two are ours
    return f"{failed.detail} at {(own or places)[-1]}" if places else failed.detail


def _signature(function: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: its parameters cannot be read", code="STRATEGY_SHAPE", advice=_ADVICE) from error


def _plain(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _option(name: str) -> str:
    return {"earnings": "--earnings FILE", "membership": "--membership FILE"}.get(name, f"--table {name}=FILE")


def _joined(answers: Sequence[Answer]) -> Answer:
    if len(answers) == 1:
        return answers[0]
    from portfolio.backtest.honesty.answers import joined

    return joined(answers)


# ---------------------------------------------------------------- what it is handed
def bars_frame(own: BarColumns, factor: NDArray[np.float64] | None) -> pd.DataFrame:
    """A copy that the function may change: open … volume by date, and raw_close where the splits are known."""
    import pandas as pd

    columns = {f: np.array(getattr(own, f), dtype=np.float64) for f in FIELDS}
    if factor is not None:
        columns["raw_close"] = own.close * factor
    return pd.DataFrame(columns, index=pd.DatetimeIndex(timestamps(own.dates), name="date"))


def table_frame(table: Table) -> pd.DataFrame:
    """Dates as timestamps, an open end as NaT."""
    import pandas as pd

    columns = {}
    for name, values in table.columns.items():
        columns[name] = timestamps(values) if values.dtype == np.int32 else values.copy()
    return pd.DataFrame(columns)


def timestamps(days: NDArray[Any]) -> NDArray[np.datetime64]:
    out: NDArray[np.datetime64] = np.asarray(days, dtype=np.int64).astype("datetime64[D]").astype("datetime64[us]")
    out[np.asarray(days) < 0] = np.datetime64("NaT")
    return out
