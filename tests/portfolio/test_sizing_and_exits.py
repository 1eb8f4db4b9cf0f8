"""Whole shares at both sides of each limit; what must leave at which scan."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import pytest

from core.domain import ExitReason, Symbol
from portfolio.exits import bars_held, due_exits, indicator_exit_due, time_stop_due
from portfolio.sizing import shares

D = Decimal
BIG = D(10**9)


@pytest.mark.parametrize(
    ("price", "stop", "cap", "room", "risk", "scale", "expected"),
    [
        ("75.00", "70", "75", "1000", "10", "1", (1, None)),
        ("75.01", "70", "75", "1000", "10", "1", (0, "CAP_BELOW_ONE_SHARE")),
        ("37.50", "36", "75", "1000", "10", "1", (2, None)),
        ("37.51", "36", "75", "1000", "10", "1", (1, None)),
        ("20", "15", "75", "1000", "10", "1", (2, None)),  # the risk budget binds: 2 × 5
        ("20", "14.99", "75", "1000", "10", "1", (1, None)),
        ("20", "10", "75", "1000", "10", "1", (1, None)),
        ("20", "9.99", "75", "1000", "10", "1", (0, "RISK_BELOW_ONE_SHARE")),
        ("20", "18", "75", "20", "10", "1", (1, None)),
        ("20", "18", "75", "19.99", "10", "1", (0, "ROOM_BELOW_ONE_SHARE")),
        ("20", "18", "75", "-5", "10", "1", (0, "ROOM_BELOW_ONE_SHARE")),
        ("37.50", "36", "75", "1000", "10", "0.5", (1, None)),
        ("37.51", "36", "75", "1000", "10", "0.5", (0, "CAP_BELOW_ONE_SHARE")),
        ("20", "18", "75", "1000", "10", "0", (0, "SCALE_ZERO")),
        ("20", "20", "75", "1000", "10", "1", (0, "STOP_NOT_BELOW_PRICE")),
        ("20", "20.01", "75", "1000", "10", "1", (0, "STOP_NOT_BELOW_PRICE")),
    ],
)
def test_sizes_at_the_limits(
    price: str, stop: str, cap: str, room: str, risk: str, scale: str, expected: tuple[int, str | None]
) -> None:
    assert shares(D(price), D(stop), D(cap), D(room), D(risk), D(scale)) == expected


@pytest.mark.parametrize("seed", range(100))
def test_the_size_is_the_largest_within_every_limit(seed: int) -> None:
    rng = random.Random(seed)
    price = D(rng.randint(100, 30000)) / 100
    stop = price - D(rng.randint(1, 1000)) / 100
    cap, room, risk = (D(rng.randint(1, 50000)) / 100 for _ in range(3))
    scale = rng.choice([D(1), D("0.5"), D("0.25"), D(1) / 3])

    def fits(count: int) -> bool:
        return count * price <= min(cap * scale, room) and count * (price - stop) <= risk * scale

    count, code = shares(price, stop, cap, room, risk, scale)
    assert fits(count) and not fits(count + 1)
    assert (code is None) == (count > 0)


@pytest.mark.parametrize("bad", [{"price": D("NaN")}, {"price": D(0)}, {"scale": D("1.01")}, {"scale": D(-1)},
                                 {"room": D("Infinity")}])  # fmt: skip
def test_nonsense_is_a_bug_not_a_size(bad: dict[str, Decimal]) -> None:
    values = {"price": D(20), "stop": D(18), "per_order_max": D(75), "room": D(75), "risk_usd": D(10), "scale": D(1)}
    with pytest.raises(ValueError, match="cannot size"):
        shares(**{**values, **bad})


# ------------------------------------------------------------------ exits
A = Symbol("A")


@dataclass(frozen=True)
class Held:
    symbol: Symbol = A
    strategy: str = "ibs_rsi"
    entry_session: date = date(2024, 3, 4)
    time_stop_bars: int = 7


WEEK = [date(2024, 3, day) for day in (1, 4, 5, 6, 7, 8)]


def test_the_entry_session_is_bar_one_and_only_own_sessions_count() -> None:
    assert bars_held(WEEK, date(2024, 3, 4)) == 5
    assert bars_held(WEEK, date(2024, 3, 4), date(2024, 3, 11)) == 6
    assert bars_held(WEEK, date(2024, 3, 4), date(2024, 3, 8)) == 5  # the bar of today is there already
    assert bars_held([WEEK[1], WEEK[4]], date(2024, 3, 4), date(2024, 3, 8)) == 3
    assert bars_held([], date(2024, 3, 4), date(2024, 3, 4)) == 1


@pytest.mark.parametrize(("held", "last", "due"), [(6, True, False), (7, False, False), (7, True, True),
                                                    (8, False, True), (8, True, True)])  # fmt: skip
def test_the_time_stop_is_due_at_the_last_scan_of_its_bar_and_overdue_at_any(held: int, last: bool, due: bool) -> None:
    assert time_stop_due(Held(), held, last) is due


def test_an_indicator_exit_needs_a_close_the_trade_was_held_over() -> None:
    flags = {Symbol("A"): ExitReason.RSI}
    assert indicator_exit_due(Held(), flags, date(2024, 3, 4)) is ExitReason.RSI
    assert indicator_exit_due(Held(), flags, date(2024, 3, 1)) is None
    assert indicator_exit_due(Held(strategy="turtle_soup"), flags, date(2024, 3, 4)) is None
    assert indicator_exit_due(Held(symbol=Symbol("B")), flags, date(2024, 3, 4)) is None


def test_due_exits_names_each_trade_once() -> None:
    trades = [Held(symbol=Symbol("B"), strategy="turtle_soup", time_stop_bars=3), Held(), Held(symbol=Symbol("C"))]
    due = due_exits(
        trades,
        held={Symbol(s): WEEK[:3] for s in "ABC"},
        current=WEEK[3],
        flags={Symbol("A"): ExitReason.IBS},
        flags_session=WEEK[2],
        is_last_scan=True,
    )
    assert [(d.trade.symbol, d.reason, d.bars_held) for d in due] == [
        ("A", ExitReason.IBS, 3),
        ("B", ExitReason.TIME, 3),
    ]
