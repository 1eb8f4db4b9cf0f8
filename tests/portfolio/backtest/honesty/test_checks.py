"""Each check at its limits, and what cannot be asked: unknown, never a pass."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from core.bars_io import BarColumns
from portfolio.backtest.honesty import fills, overlap, survivors
from portfolio.backtest.honesty.asked import Answer, Deal, Labels
from portfolio.backtest.honesty.checks import NAMES, Known, examine
from portfolio.backtest.honesty.findings import Check, Verdict, failed, overall, passed, unknown
from portfolio.backtest.honesty.market import Market
from portfolio.backtest.honesty.operators import OperatorStrategy
from tests.portfolio.backtest.honesty import world
from tests.portfolio.backtest.honesty.leaks import Frame, Rows, drop, hold, traded

DAY = world.days()
SATURDAY = int(next(day for day in DAY[100:] if (day + 3) % 7 == 4)) + 1
OWN = world.market().bars["AAA"]


def asked(function: Any, known: Known | None = None, market: Market | None = None) -> dict[str, Check]:
    checks = examine(OperatorStrategy(function, "mine"), market or world.market(), known or world.known())
    assert [check.name for check in checks] == list(NAMES)
    return {check.name: check for check in checks}


def honest(bars: Frame) -> Rows:
    bars = traded(bars)
    return hold(bars, drop(bars) < -0.01)


def a_deal(row: int = 100, **changes: Any) -> Deal:
    made = Deal(
        "AAA", int(DAY[row]), float(OWN.open[row]), signal=int(DAY[row - 1]), exit=int(DAY[row + 3]),
        exit_price=float(OWN.open[row + 3]), quantity=10.0, cost_usd=1.0,
    )  # fmt: skip
    return replace(made, **changes)


def test_the_worst_verdict_counts_and_nothing_looked_at_is_unknown() -> None:
    good, bad, dark = passed("a", 1, "x"), failed("b", 1, "x", code="C", blame="y"), unknown("c", "x", code="D")
    assert [overall(of) for of in ([good], [good, dark], [good, dark, bad], [])] == [
        "pass",
        "unknown",
        "fail",
        "unknown",
    ]
    assert passed("a", 0, "x").verdict is Verdict.UNKNOWN


def test_a_strategy_that_raises_is_a_finding_and_nothing_passes() -> None:
    def boom(bars: Frame) -> Rows:
        return [{"x": bars["no_such_column"]}]

    found = asked(boom)
    assert found["runs"].code == "STRATEGY_RAISED" and "no_such_column" in str(found["runs"].blame)
    assert {check.verdict for name, check in found.items() if name != "runs"} == {Verdict.UNKNOWN}


def test_one_that_ends_the_program_is_a_finding_too() -> None:
    def leave(bars: Frame) -> Rows:
        raise SystemExit(3)

    assert "SystemExit(3)" in asked(leave)["runs"].detail


def test_one_that_does_not_repeat_itself_cannot_be_asked() -> None:
    count = itertools.count()

    def moody(bars: Frame) -> Rows:
        return honest(bars)[next(count) % 3 :]

    found = asked(moody)
    assert found["runs"].code == "NOT_REPEATABLE"
    assert found["lookahead_future"].verdict is found["warm_up"].verdict is Verdict.UNKNOWN


def test_one_that_reads_bars_of_its_own_cannot_be_asked() -> None:
    """The worst leak of all: whatever it is handed, it trades what it has read elsewhere."""
    kept = {s: pd.DataFrame({"open": own.open, "close": own.close}, pd.DatetimeIndex(own.dates.astype("datetime64[D]")))
            for s, own in world.market().bars.items()}  # fmt: skip

    def elsewhere(bars: Frame, symbol: str) -> Rows:
        own = kept[symbol]
        return hold(own, own["close"].shift(-1) > own["close"])

    found = asked(elsewhere)
    assert found["runs"].code == "BARS_NOT_USED" and found["runs"].verdict is Verdict.UNKNOWN
    assert found["lookahead_truncation"].verdict is found["lookahead_future"].verdict is Verdict.UNKNOWN


def test_without_trades_nothing_passes() -> None:
    found = asked(lambda bars: None)
    assert Verdict.PASS not in {check.verdict for name, check in found.items() if name != "survivorship"}


def test_the_column_that_is_listened_to_is_named() -> None:
    def volume(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, bars["volume"].shift(-2) > 1.4 * bars["volume"])

    assert "later volume" in asked(volume)["lookahead_future"].detail


def test_the_feature_column_from_the_future_is_blamed_with_its_day() -> None:
    def told(bars: Frame) -> dict[str, Any]:
        features = pd.DataFrame({"fine": bars["close"], "turn": bars["close"].shift(-2)})
        return {"trades": honest(bars), "features": features}

    found = asked(told)["lookahead_future"]
    assert found.verdict is Verdict.FAIL and "column turn of " in str(found.blame) and "fine" not in found.detail


# ---------------------------------------------------------------- fills
def test_fills_need_a_bar_a_volume_and_a_price_of_that_bar() -> None:
    def code(*deals: Deal) -> str:
        return fills.stale_fill(world.market(), Answer(deals)).code

    halted = int(world.market().bars["CCC"].dates[np.flatnonzero(world.market().bars["CCC"].volume == 0)[0]])
    assert code(a_deal()) == "OK"
    assert code(a_deal(entry=SATURDAY)) == "NO_BAR"  # a Saturday
    assert code(a_deal(symbol="ZZZ")) == "NO_BAR"
    assert code(a_deal(symbol="CCC", entry=halted, exit=None)) == "NO_VOLUME"
    assert code(a_deal(entry_price=float(OWN.high[100]) * 1.05)) == "OUTSIDE_BAR"
    assert code(a_deal(entry_price=float(OWN.low[100]) * 0.99)) == "OUTSIDE_BAR"
    assert code(a_deal(exit_price=float(OWN.high[103]) * 1.01)) == "OUTSIDE_BAR"
    assert code(a_deal(entry_price=float(OWN.high[100]) * 1.01)) == "OK"  # slippage against us


def test_a_bar_without_a_known_volume_is_unknown() -> None:
    dark = BarColumns(OWN.dates, OWN.open, OWN.high, OWN.low, OWN.close, np.full(len(OWN), np.nan))
    assert fills.stale_fill(Market({"AAA": dark}), Answer((a_deal(),))).code == "VOLUME_UNKNOWN"
    assert fills.capacity(Market({"AAA": dark}), Answer((a_deal(),)), 0.01).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cost_usd": None}, "NO_COSTS"),
        ({"cost_usd": 0.0}, "NO_COSTS"),
        ({"cost_usd": 0.00009}, "COSTS_TOO_LOW"),
        ({"cost_usd": 0.0101}, "OK"),
        ({"pnl_usd": 20.0 - 0.1, "cost_usd": 0.1}, "OK"),
        ({"pnl_usd": 20.0, "cost_usd": 0.1}, "COSTS_NOT_TAKEN"),
    ],
)
def test_costs_on_both_sides_of_each_limit(changes: dict[str, Any], code: str) -> None:
    deal = Deal("AAA", 1, 10.0, exit=2, exit_price=12.0, quantity=10.0, cost_usd=1.0)
    assert fills.costs(Answer((replace(deal, **changes),))).code == code


def test_capacity_on_both_sides_of_the_limit() -> None:
    usual = float(np.median(OWN.close[80:100] * OWN.volume[80:100]))
    shares = 0.01 * usual / float(OWN.open[100])
    answers = (Answer((a_deal(quantity=shares * by),)) for by in (0.999, 1.001))
    at, over = (fills.capacity(world.market(), answer, 0.01) for answer in answers)
    assert (at.code, over.code) == ("OK", "TOO_LARGE")
    assert fills.capacity(world.market(), Answer((a_deal(quantity=None),)), 0.01).code == "QUANTITY_UNKNOWN"
    both = Answer((a_deal(), a_deal(120, quantity=None)))
    assert fills.capacity(world.market(), both, 0.01).verdict is Verdict.UNKNOWN


# ---------------------------------------------------------------- survivors
def test_names_that_went_away_have_to_be_there() -> None:
    market, deals = world.market(), (a_deal(),)
    assert survivors.listed(market, deals, None).code == "MEMBERSHIP_ABSENT"
    assert survivors.listed(market, deals, world.listings()).code == "OK"
    lacking = survivors.listed(market, deals, world.listings(missing=True))
    assert lacking.code == "SURVIVORS_ONLY" and lacking.blame == "GONE0, GONE1, GONE2, GONE3"
    foreign = [survivors.Listing("QQQ", int(DAY[0]), None)]
    assert survivors.listed(market, deals, foreign).verdict is Verdict.UNKNOWN


def test_a_name_traded_before_it_was_listed_is_named() -> None:
    rows = [row if row.symbol != "AAA" else replace(row, start=int(DAY[300])) for row in world.listings()]
    early, late = (survivors.listed(world.market(), (a_deal(row),), rows).code for row in (100, 350))
    assert (early, late) == ("NOT_LISTED_THEN", "OK")


@pytest.mark.parametrize(("k", "n", "p"), [(0, 5, 0.3), (3, 10, 0.5), (10, 10, 0.9), (0, 4000, 0.01), (7, 900, 0.02)])
def test_the_binomial_is_scipys(k: int, n: int, p: float) -> None:
    assert survivors.binomial_at_most(k, n, p) == pytest.approx(float(binom.cdf(k, n, p)), rel=1e-9)


# ---------------------------------------------------------------- basis, parameters, labels
def test_a_price_level_is_told_without_splits_and_judged_with_them() -> None:
    def dear(bars: Frame) -> Rows:
        bars = traded(bars)
        return hold(bars, (drop(bars) < -0.01) & (bars["close"] >= 30.0))

    assert asked(dear, world.known(splits=None))["adjusted_prices"].code == "DEPENDS_ON_PRICE_LEVEL"
    assert asked(dear)["adjusted_prices"].code == "NOT_THE_PRICE_OF_THE_DAY"
    assert asked(dear, world.known(splits=[]))["adjusted_prices"].code == "OK"  # nothing was ever adjusted
    assert asked(honest, world.known(splits=None))["adjusted_prices"].code == "OK"


def test_labels_by_hand() -> None:
    """Two labels of four days that share two: each is unique by (1 + 1 + 1/2 + 1/2) / 4."""
    labels = Labels(("A", "A"), np.array([0, 2], np.int32), np.array([3, 5], np.int32), ("", ""), np.full(2, np.nan))
    assert overlap.uniqueness(labels).tolist() == [0.75, 0.75]
    assert overlap.label_overlap(Answer((), labels=labels)).code == "COUNTED_TWICE"
    assert overlap.label_overlap(Answer((), labels=replace(labels, weight=np.full(2, 0.75)))).code == "OK"
    apart = replace(labels, start=np.array([0, 4], np.int32), end=np.array([3, 7], np.int32))
    assert overlap.label_overlap(Answer((), labels=apart)).code == "OK"
    assert overlap.label_overlap(Answer(())).code == "LABELS_ABSENT"


def test_a_training_label_may_end_the_day_before_the_test_begins() -> None:
    labels = Labels(("A", "A"), np.array([0, 4], np.int32), np.array([3, 7], np.int32), ("train", "test"), np.ones(2))
    touching = replace(labels, end=np.array([4, 7], np.int32))
    assert [overlap.label_overlap(Answer((), labels=own)).code for own in (labels, touching)] == [
        "OK",
        "TRAIN_MEETS_TEST",
    ]
    other = replace(touching, symbol=("A", "B"))
    assert overlap.label_overlap(Answer((), labels=other)).code == "TRAIN_MEETS_TEST"
    assert overlap.label_overlap(Answer((), labels=replace(other, pooled=False))).code != "TRAIN_MEETS_TEST"


def test_claimed_independence_is_compared_with_the_trades() -> None:
    same_days = tuple(a_deal(row, exit=int(DAY[row + 10])) for row in range(100, 110))
    assert overlap.label_overlap(Answer(same_days, independent=10.0)).code == "COUNTED_TWICE"
    assert overlap.label_overlap(Answer(same_days, independent=2.0)).code == "OK"


# ---------------------------------------------------------------- habits of honest strategies that must not alarm
def stopped(bars: Frame, *, mult: float = 2.0) -> Rows:
    """A stop that rests at the broker, a target, a time stop at the close."""
    bars = traded(bars)
    o, h, low, c = (bars[f].to_numpy() for f in ("open", "high", "low", "close"))
    span = (bars["high"] - bars["low"]).rolling(14).mean().to_numpy()
    rows, free = [], 0
    for t in np.flatnonzero(((drop(bars) < -0.01).to_numpy() & np.isfinite(span))[:-1]):
        stop = c[t] - mult * span[t]
        if t < free or o[t + 1] <= stop:
            continue
        target, end = o[t + 1] + 1.5 * (o[t + 1] - stop), (None, None)
        for x in range(t + 1, min(t + 8, len(bars))):
            exits = [(x > t + 1 and o[x] <= stop, o[x]), (low[x] <= stop, stop), (x > t + 1 and o[x] >= target, o[x]),
                     (h[x] >= target, target), (x == t + 7, c[x])]  # fmt: skip
            end = next(((x, price) for holds, price in exits if holds), (None, None))
            if end[0] is not None:
                break
        free = end[0] if end[0] is not None else len(bars)
        rows.append({
            "signal_date": bars.index[t], "entry_date": bars.index[t + 1], "entry_price": o[t + 1],
            "exit_date": None if end[0] is None else bars.index[end[0]], "exit_price": end[1], "quantity": 5,
            "costs_bps": 9,
        })  # fmt: skip
    return rows


def closes_at_the_end(bars: Frame) -> Rows:
    bars = traded(bars)
    rows = hold(bars, drop(bars) < -0.01, 10)
    for row in rows:
        if row["exit_date"] is None:
            row["exit_date"], row["exit_price"] = bars.index[-1], bars["close"].iloc[-1]
    return rows


def tells_no_open_trade(bars: Frame) -> Rows:
    bars = traded(bars)
    return [row for row in hold(bars, drop(bars) < -0.01, 10) if row["exit_date"] is not None]


def follows_the_trend(bars: Frame) -> dict[str, Any]:
    average = bars["close"].rolling(50).mean()
    return {"entries": bars["close"] > average, "exits": bars["close"] < average, "costs_bps": 9, "quantity": 3}


def every_fifth_bar(bars: Frame) -> Rows:
    bars = traded(bars)
    return hold(bars, np.arange(len(bars)) % 5 == 4, 3)


def sells_short(bars: Frame) -> Rows:
    bars = traded(bars)
    return hold(bars, drop(bars) > 0.012, side="short")


def two_at_a_time(market: Mapping[str, Frame]) -> Rows:
    """A book with two places, sized from what was earned so far."""
    wanted = sorted(
        (row for s, bars in market.items() for row in hold(traded(bars), drop(traded(bars)) < -0.01, symbol=s)),
        key=lambda row: (row["entry_date"], row["symbol"]),
    )
    held: Rows = []
    for row in wanted:
        busy = [r for r in held if r["exit_date"] is None or r["exit_date"] > row["entry_date"]]
        done = [r for r in held if r["exit_date"] is not None and r["exit_date"] <= row["entry_date"]]
        if len(busy) < 2:
            earned = sum((r["exit_price"] - r["entry_price"]) * r["quantity"] for r in done)
            size = np.floor((5000.0 + earned) / row["entry_price"])
            held.append({**row, "quantity": size, "costs_usd": 0.0008 * size * row["entry_price"]})
    return held


@pytest.mark.parametrize(
    "function",
    [stopped, closes_at_the_end, tells_no_open_trade, follows_the_trend, every_fifth_bar, sells_short, two_at_a_time],
)
def test_honest_habits_raise_no_alarm(function: Any) -> None:
    never_halted = world.market().only({"AAA", "BBB", "DDD"})
    found = asked(function, market=never_halted, known=Known(splits=world.splits()))
    assert [(c.name, c.code, c.detail) for c in found.values() if c.verdict is Verdict.FAIL] == []
    assert found["lookahead_future"].verdict is found["same_bar_fill"].verdict is Verdict.PASS
