"""Forty ways in which a vendor's answer can be wrong, done to real bars with a seed.

A kind is a function of a Case; it gives back what the vendor would have delivered, or None where it would change
nothing (swapping open and close of a bar on which both are equal). `whole` kinds happen to every symbol of the vendor.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from core.bars_io import FIELDS, BarColumns

Kind = Callable[["Case"], BarColumns | None]


@dataclass
class Case:
    """Clean bars of one symbol up to and with the session that is looked at; the newest bar is that session's."""

    bars: BarColumns
    other: BarColumns  # of another symbol, up to the same session
    seed: int
    splits: dict[int, float] = field(default_factory=dict)  # ex-day -> ratio, as the vendor tells them

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def put(self, at: int = -1, **values: float) -> BarColumns:
        """The bars with other values in row `at`."""
        columns = {name: getattr(self.bars, name).copy() for name in FIELDS}
        for name, value in values.items():
            columns[name][at] = value
        return BarColumns(self.bars.dates.copy(), **columns)

    def scaled(self, factor: float, rows: slice, *, volume: bool = False) -> BarColumns:
        columns = {name: getattr(self.bars, name).copy() for name in FIELDS}
        for name in FIELDS[:4]:
            columns[name][rows] *= factor
        if volume:
            columns["volume"][rows] /= factor
        return BarColumns(self.bars.dates.copy(), **columns)

    def days(self, days: np.ndarray) -> BarColumns:
        return BarColumns(days.astype(np.int32), *(getattr(self.bars, name).copy() for name in FIELDS))

    def last(self, name: str) -> float:
        return float(getattr(self.bars, name)[-1])


NEWEST, ALL, BEFORE = slice(-1, None), slice(None), slice(None, -1)


def _field(value: Callable[[Case, float], float], *names: str) -> Kind:
    """One of these fields of the newest bar, chosen by the seed."""

    def made(case: Case) -> BarColumns:
        name = case.rng.choice(names)
        return case.put(**{name: value(case, case.last(name))})

    return made


def _scale(*factors: float) -> Kind:
    return lambda case: case.scaled(case.rng.choice(factors), NEWEST)


def _with_row(case: Case, day: int, row: BarColumns) -> BarColumns:
    dates = np.append(case.bars.dates, np.int32(day))
    order = np.argsort(dates, kind="stable")
    values = (np.append(getattr(case.bars, n), getattr(row, n)[-1])[order] for n in FIELDS)
    return BarColumns(dates[order], *values)


def _duplicate(case: Case, factor: float) -> BarColumns:
    return _with_row(case, int(case.bars.dates[-1]), case.scaled(factor, NEWEST))


def _swapped(case: Case) -> BarColumns | None:
    if abs(case.last("open") / case.last("close") - 1) < 0.02:
        return None  # a harmless one: within what two vendors may differ
    return case.put(open=case.last("close"), close=case.last("open"))


def _transposed(case: Case) -> BarColumns | None:
    """Two neighbouring digits of the close exchanged, high and low going along."""
    digits = list(f"{case.last('close'):.2f}")
    at = case.rng.randrange(len(digits) - 1)
    if "." in digits[at : at + 2] or digits[at] == digits[at + 1]:
        return None
    digits[at], digits[at + 1] = digits[at + 1], digits[at]
    wrong = float("".join(digits))
    if abs(wrong / case.last("close") - 1) < 0.02 or wrong <= 0:
        return None
    return case.put(close=wrong, high=max(wrong, case.last("high")), low=min(wrong, case.last("low")))


def _old_bar(case: Case, back: int) -> BarColumns | None:
    values = {name: float(getattr(case.bars, name)[-1 - back]) for name in FIELDS}
    if all(values[name] == case.last(name) for name in FIELDS):
        return None
    return case.put(**values)


def _split(case: Case, ratio: float, *, told: bool, moved: bool) -> BarColumns:
    """The newest session is an ex-date. told: the vendor names the split. moved: its prices know of it."""
    if told:
        case.splits[int(case.bars.dates[-1])] = ratio
    return case.scaled(1 / ratio, NEWEST, volume=True) if moved else case.put()


def _bad_tick(case: Case) -> BarColumns:
    at, factor = case.rng.randrange(-30, -2), case.rng.choice((0.1, 0.25, 4.0, 10.0))
    return case.put(at, **{name: float(getattr(case.bars, name)[at]) * factor for name in FIELDS[:4]})


def _other_symbol(case: Case) -> BarColumns | None:
    values = {name: float(getattr(case.other, name)[-1]) for name in FIELDS}
    if abs(values["close"] / case.last("close") - 1) < 0.02:
        return None
    return case.put(**values)


def _shifted(case: Case) -> BarColumns:
    """Stamped at midnight UTC and read in a zone west of it: every bar a day too early."""
    return case.days(case.bars.dates - 1)


def _without(case: Case, at: int) -> BarColumns:
    return case.bars.rows(np.arange(len(case.bars)) != len(case.bars) + at)


KINDS: dict[str, Kind] = {
    # cannot be true: data.quality.clean
    "price_nan": _field(lambda case, value: float("nan"), *FIELDS[:4]),
    "price_infinite": _field(lambda case, value: float("inf"), *FIELDS[:4]),
    "price_negative": _field(lambda case, value: -value, *FIELDS[:4]),
    "price_zero": _field(lambda case, value: 0.0, *FIELDS[:4]),
    "volume_nan": _field(lambda case, value: float("nan"), "volume"),
    "volume_negative": _field(lambda case, value: -max(value, 1.0), "volume"),
    "high_below_low": lambda case: case.put(high=case.last("low") * 0.99, low=case.last("high") * 1.01),
    "close_above_high": lambda case: case.put(close=case.last("high") * 1.02),
    "close_below_low": lambda case: case.put(close=case.last("low") * 0.98),
    "open_outside": lambda case: case.put(open=case.last("high") * 1.05),
    "duplicate_same": lambda case: _duplicate(case, 1.0),
    "duplicate_other_values": lambda case: _duplicate(case, 1.03),
    "bar_on_a_saturday": lambda case: _with_row(_short(case), _saturday(case), case.bars),
    "bar_of_tomorrow": lambda case: _with_row(_short(case), int(case.bars.dates[-1]) + 1, case.bars),
    "dates_a_day_early": _shifted,
    # not there: NO_BAR
    "session_missing": lambda case: _without(case, -1),
    "answer_empty": lambda case: case.bars.rows(np.zeros(len(case.bars), dtype=bool)),
    "answer_ends_a_week_early": lambda case: case.bars.rows(np.arange(len(case.bars)) < len(case.bars) - 5),
    "hole_last_week": lambda case: _without(case, case.rng.randrange(-6, -1)),
    # could be true, and is not like its past: data.quality.detect
    "price_times_10": _scale(10.0, 100.0),
    "price_through_10": _scale(0.1, 0.01),
    "decimal_point_lost": _scale(1000.0),
    "other_currency": _scale(0.63, 1.9, 1.55),
    "split_not_told": lambda case: _split(case, case.rng.choice((2.0, 3.0, 4.0, 10.0)), told=False, moved=True),
    "reverse_split_not_told": lambda case: _split(case, case.rng.choice((0.1, 0.05, 0.2)), told=False, moved=True),
    "split_told_not_moved": lambda case: _split(case, case.rng.choice((2.0, 4.0, 10.0)), told=True, moved=False),
    "split_applied_twice": lambda case: case.scaled(1 / case.rng.choice((4.0, 9.0)), NEWEST),
    "adjusted_history_raw_today": lambda case: case.scaled(1 / case.rng.choice((2.0, 5.0)), BEFORE),
    "high_is_a_stub": lambda case: case.put(high=199_999.99),
    "low_is_a_stub": lambda case: case.put(low=0.0001),
    "bad_tick_in_history": _bad_tick,
    "yesterday_again": lambda case: _old_bar(case, 1),
    "a_bar_of_last_week_again": lambda case: _old_bar(case, case.rng.randrange(3, 8)),
    "volume_overflowed": _field(lambda case, value: value * 2**16 + 2**31, "volume"),
    "one_price_only": lambda case: case.put(**dict.fromkeys(FIELDS[:3], case.last("close"))),
    "volume_lost": _field(lambda case, value: 0.0, "volume"),
    # only a second vendor can tell
    "bar_of_another_symbol": _other_symbol,
    "close_3_percent_off": lambda case: case.scaled(case.rng.choice((0.97, 1.03)), NEWEST),
    "open_and_close_swapped": _swapped,
    "digits_exchanged": _transposed,
}


def _short(case: Case) -> Case:
    """Without the newest bar, which is then put in under another date."""
    return Case(_without(case, -1), case.other, case.seed)


def _saturday(case: Case) -> int:
    day = int(case.bars.dates[-1])
    return day - ((day + 3) % 7 + 2) % 7  # 1970-01-01 was a Thursday; the Saturday on or before
