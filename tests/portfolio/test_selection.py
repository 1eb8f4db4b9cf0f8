"""How many picks, in which order, and which limit refuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from config.settings_schema import Settings
from core.domain import Signal, Symbol
from portfolio.quality_gate import Scored
from portfolio.selection import Candidate, Selection, correlation_at, rules_from, select
from tests.portfolio.market import columns, panel_of, rising, weekdays

DAY = date(2024, 3, 4)
SECTORS = {Symbol(s): f"sector {s}" for s in "ABCDEFGHIJ"}


def candidate(symbol: str, score: float, *, strategy: str = "ibs_rsi", scale: str = "1") -> Candidate:
    signal = Signal(strategy=strategy, symbol=Symbol(symbol), session=DAY, close=50.0, stop=48.0, target_r=None,
                    time_stop_bars=7, strength=0.5)  # fmt: skip
    return Candidate(Scored(signal, score, {}, ()), Decimal(scale))


def settings(**changed: Any) -> Settings:
    return Settings.model_validate(changed)


def run(
    candidates: list[Candidate],
    *,
    top3: bool = False,
    sectors: Mapping[Symbol, str | None] = SECTORS,
    correlation: float = 0.0,
    held: Mapping[Symbol, Decimal] | None = None,
    taken: tuple[str, ...] = (),
    **changed: Any,
) -> Selection:
    rules = rules_from(settings(**changed), top3=top3)
    return select(candidates, rules, sectors=sectors, correlate=lambda a, b: correlation, held=held or {}, taken=taken)


def names(selection: Selection) -> list[str]:
    return [pick.scored.signal.symbol for pick in selection.picks]


def codes(selection: Selection) -> dict[str, str]:
    return {refusal.candidate.scored.signal.symbol: refusal.code for refusal in selection.refused}


FIVE = [candidate(s, score) for s, score in zip("ABCDE", (60.0, 90.0, 70.0, 80.0, 80.0), strict=True)]
TOP_N = {"mode": "top_n", "top_n": {"enabled": True, "n": 2}}


def test_totd_is_the_best_one() -> None:
    found = run(FIVE)
    assert names(found) == ["B"]
    assert set(codes(found).values()) == {"NOT_TRADE_OF_DAY"}


def test_top_n_takes_n_best_first_ties_by_name() -> None:
    found = run(FIVE, selection={"mode": "top_n", "top_n": {"enabled": True, "n": 3}})
    assert names(found) == ["B", "D", "E"]
    assert codes(found) == {"C": "TOP_N_FULL", "A": "TOP_N_FULL"}


def test_top3_comes_before_the_mode_and_the_cap_comes_last() -> None:
    assert names(run(FIVE, top3=True)) == ["B", "D", "E"]
    assert names(run(FIVE, top3=True, selection=TOP_N)) == ["B", "D", "E"]
    capped = run(FIVE, top3=True, quality_gate={"max_signals_per_day": 2})
    assert names(capped) == ["B", "D"] and set(codes(capped).values()) == {"MAX_SIGNALS"}
    assert names(run(FIVE, quality_gate={"max_signals_per_day": 0})) == []


def test_one_symbol_is_picked_once() -> None:
    both = [candidate("A", 80.0), candidate("A", 70.0, strategy="turtle_soup")]
    found = run(both, top3=True)
    assert names(found) == ["A"] and codes(found) == {"A": "SYMBOL_ALREADY_PICKED"}
    assert codes(run([candidate("A", 80.0)], held={Symbol("A"): Decimal(50)})) == {"A": "ALREADY_HELD"}


def test_correlation_at_the_limit_passes_and_above_is_refused() -> None:
    assert len(run(FIVE, top3=True, correlation=0.70).picks) == 3
    found = run(FIVE, top3=True, correlation=0.7001)
    assert names(found) == ["B"] and set(codes(found).values()) == {"CORRELATION"}
    assert len(run(FIVE, top3=True, correlation=float("nan")).picks) == 1
    assert codes(run([FIVE[0]], correlation=0.9, held={Symbol("J"): Decimal(50)})) == {"A": "CORRELATION"}


def test_the_sector_share_counts_picks_and_positions() -> None:
    same = dict.fromkeys(SECTORS, "Energy")
    held = {Symbol("I"): Decimal(75), Symbol("J"): Decimal(75)}  # 0.20 of 750; two more make 0.40
    found = run(FIVE, top3=True, sectors=same, held=held)
    assert names(found) == ["B", "D"]
    assert codes(found) == dict.fromkeys("ACE", "SECTOR_SHARE")
    penny = {Symbol("I"): Decimal(75), Symbol("J"): Decimal("75.01")}
    assert names(run(FIVE, top3=True, sectors=same, held=penny)) == ["B"]


def test_an_unknown_sector_shares_with_everything() -> None:
    held = {Symbol("H"): Decimal(75), Symbol("I"): Decimal(75), Symbol("J"): Decimal(76)}
    assert names(run([FIVE[0]], held=held)) == ["A"]
    unknown = {**SECTORS, Symbol("A"): None}
    assert codes(run([FIVE[0]], sectors=unknown, held=held)) == {"A": "SECTOR_SHARE"}
    assert codes(run([FIVE[0]], sectors={Symbol("A"): "Energy"}, held=held)) == {"A": "SECTOR_SHARE"}


def test_the_single_name_share_is_of_the_capital_not_of_the_picks() -> None:
    limits = {"policy_gate": {"per_order_max_usd": 75}, "position_limit": 4}
    assert len(run(FIVE, top3=True, risk=limits, selection={"top_n": {"max_sector_pct": 1.0}}).picks) == 3  # 0.25 each
    found = run(FIVE, top3=True, risk={**limits, "position_limit": 3}, selection={"top_n": {"max_sector_pct": 1.0}})
    assert found.picks == () and set(codes(found).values()) == {"SINGLE_NAME_SHARE"}
    halved = [candidate("A", 80.0, scale="0.5")]
    assert len(run(halved, risk={**limits, "position_limit": 3}).picks) == 1


def test_what_was_taken_this_morning_keeps_its_place_all_day() -> None:
    taken = tuple(c.scored.signal.decision_id for c in FIVE if c.scored.signal.symbol == "B")
    held = {Symbol("B"): Decimal(70)}
    assert names(run(FIVE, held=held, taken=taken, correlation=0.5)) == ["B"]
    assert names(run(FIVE, held=held, taken=taken, top3=True)) == names(run(FIVE, top3=True))
    gone = [c for c in FIVE if c.scored.signal.symbol != "B"]
    assert names(run(gone, held=held, taken=taken)) == []


# ------------------------------------------------------------------ correlation of the panel
DAYS = weekdays(120)


def test_correlation_is_of_60_aligned_returns() -> None:
    panel = panel_of({"A": rising(120, seed=1), "B": rising(120, seed=2), "C": rising(120, seed=1)}, DAYS)
    correlate = correlation_at(panel, DAYS[-1])
    closes = panel.close[-61:, :2]
    expected = np.corrcoef((closes[1:] / closes[:-1] - 1).T)[0, 1]
    assert correlate(Symbol("A"), Symbol("B")) == pytest.approx(expected, abs=1e-12)
    assert correlate(Symbol("A"), Symbol("C")) == pytest.approx(1.0)


def test_too_little_history_counts_as_one_and_just_enough_does_not() -> None:
    panel = panel_of({"A": rising(120, seed=1), "S60": rising(60, seed=2), "S61": rising(61, seed=3),
                      "FLAT": [(9.0, 9.0, 9.0, 9.0)] * 120}, DAYS)  # fmt: skip
    correlate = correlation_at(panel, DAYS[-1])
    assert correlate(Symbol("A"), Symbol("S60")) == 1.0
    assert correlate(Symbol("A"), Symbol("S61")) < 0.9
    assert correlate(Symbol("A"), Symbol("FLAT")) == 1.0
    assert correlate(Symbol("A"), Symbol("MISSING")) == 1.0


def test_returns_are_aligned_by_date_and_never_see_the_future() -> None:
    from core.panel import Panel

    whole = rising(120, seed=1)
    gaps = [i for i in range(120) if i not in (80, 95)]
    other = columns([whole[i] for i in gaps], [DAYS[i] for i in gaps])
    panel = Panel.from_bars({"A": columns(whole, DAYS), "B": other})
    assert correlation_at(panel, DAYS[-1])(Symbol("A"), Symbol("B")) == pytest.approx(1.0)
    early, late = correlation_at(panel.truncated(DAYS[90]), DAYS[90]), correlation_at(panel, DAYS[90])
    assert early(Symbol("A"), Symbol("B")) == late(Symbol("A"), Symbol("B"))
