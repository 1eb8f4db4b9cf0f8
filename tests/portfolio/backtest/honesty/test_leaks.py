"""Planted leaks are caught by the check that is made for them; their clean twins raise no alarm anywhere."""

from __future__ import annotations

import pytest

from portfolio.backtest.honesty import ahead
from portfolio.backtest.honesty.checks import NAMES, Effort, examine
from portfolio.backtest.honesty.findings import Check, Verdict
from portfolio.backtest.honesty.operators import OperatorStrategy
from tests.portfolio.backtest.honesty import world
from tests.portfolio.backtest.honesty.leaks import PAIRS, Pair, names

LITTLE = Effort(cuts=ahead.Effort(cuts=8, changes=2, truncations=5, bars=5), skips=(20, 40), neighbours=12, symbols=24)


def asked(pair: Pair, kind: str) -> list[Check]:
    return examine(OperatorStrategy(getattr(pair, kind), pair.name), world.market(), world.known(), LITTLE)


def test_there_are_at_least_thirty_pairs_of_every_kind() -> None:
    assert len(set(names(PAIRS))) >= 30
    assert {check for pair in PAIRS for check in pair.checks} == set(NAMES) - {"runs"}


@pytest.mark.parametrize("pair", PAIRS, ids=names(PAIRS))
def test_the_leak_is_caught_by_its_check_and_something_is_blamed(pair: Pair) -> None:
    told = asked(pair, "leak")
    assert [check.name for check in told] == list(NAMES)
    caught = [check for check in told if check.verdict is Verdict.FAIL and check.name in pair.checks]
    assert caught, [(check.name, check.code, check.detail) for check in told]
    assert all(check.blame and check.code != "OK" and check.n > 0 for check in caught)


@pytest.mark.parametrize("pair", PAIRS, ids=names(PAIRS))
def test_the_clean_twin_raises_no_alarm(pair: Pair) -> None:
    told = asked(pair, "twin")
    assert [(check.name, check.code, check.detail) for check in told if check.verdict is Verdict.FAIL] == []
    passing = {check.name for check in told if check.verdict is Verdict.PASS}
    assert passing >= {"runs", "lookahead_truncation", "lookahead_future", "same_bar_fill", "stale_fill", "costs"}
