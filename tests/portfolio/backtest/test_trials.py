"""The ledger counts everything once, in a chain of its own, and says how alike the trials were."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from core.clock import SteppedClock
from core.errors import StateCorrupt
from core.journal import Journal, verify
from core.paths import Home
from portfolio.backtest.bootstrap import Floats
from portfolio.backtest.trials import (
    KIND,
    Trial,
    TrialLedger,
    mean_correlation,
    monthly,
    outcome_of,
    summarise,
    trials_path,
)

CLOCK = SteppedClock(datetime(2024, 3, 8, 22, tzinfo=UTC))
DAYS = np.arange(16_000, 16_000 + 700, dtype=np.int32)


def ledger(home: Path) -> TrialLedger:
    return TrialLedger.of(Home(home), CLOCK, run_id="r1")


def a_trial(number: int = 0, returns: Floats | None = None, **changes: object) -> Trial:
    if returns is None:
        returns = np.random.default_rng(number).normal(0.0005, 0.01, DAYS.size)
    trial = Trial(
        family="dual", strategy="ibs_rsi", params_sha256=f"p{number}", data_sha256="d", code_sha256="c",
        start=date(2014, 1, 2), end=date(2015, 11, 30), level="signals", **outcome_of(DAYS, returns),
    )  # fmt: skip
    return replace(trial, **changes)  # type: ignore[arg-type]


def test_trials_are_read_back_as_they_were_written(own_home: Path) -> None:
    trials = [a_trial(k) for k in range(3)]
    assert ledger(own_home).add(*trials) == 3
    assert ledger(own_home).recorded() == trials


def test_they_lie_in_a_sound_chain_of_their_own(own_home: Path) -> None:
    book = ledger(own_home)
    for k in range(3):
        book.add(a_trial(k))
    path = trials_path(Home(own_home))
    assert path == own_home / "state" / "trials.jsonl"
    assert verify(path).ok and not Home(own_home).journal.exists()
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [row["kind"] for row in rows] == [KIND] * 3 and all(row["run_id"] == "r1" for row in rows)


def test_a_trial_counts_once_whoever_runs_it_how_often(own_home: Path) -> None:
    assert ledger(own_home).add(a_trial(1), a_trial(2), a_trial(1)) == 2
    assert ledger(own_home).add(a_trial(1)) == 0
    journal = Journal(trials_path(Home(own_home)), CLOCK)
    row = {**json.loads(journal.path.read_bytes().splitlines()[0])["body"]}
    journal.append(KIND, row)  # two runs that raced: both wrote
    assert ledger(own_home).trials().n == 2 and len(ledger(own_home).recorded()) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": "turtle_soup"}, {"params_sha256": "x"}, {"data_sha256": "x"}, {"code_sha256": "x"},
        {"start": date(2014, 1, 3)}, {"end": date(2015, 11, 27)}, {"level": "portfolio"}, {"family": "other"},
    ],
)  # fmt: skip
def test_whatever_went_in_makes_another_trial(own_home: Path, change: dict[str, object]) -> None:
    assert ledger(own_home).add(a_trial(1), a_trial(1, **change)) == 2


def test_what_came_out_does_not(own_home: Path) -> None:
    assert ledger(own_home).add(a_trial(1), a_trial(1, sharpe=9.9)) == 1


def test_a_grid_is_few_records(own_home: Path) -> None:
    ledger(own_home).add(*(a_trial(k) for k in range(250)))
    assert len(trials_path(Home(own_home)).read_bytes().splitlines()) == 2
    assert ledger(own_home).trials().n == 250


def test_families_do_not_deflate_each_other(own_home: Path) -> None:
    book = ledger(own_home)
    book.add(*(a_trial(k) for k in range(5)), *(a_trial(k, family="soup") for k in range(2)))
    assert (book.trials("dual").n, book.trials("soup").n, book.trials("none").n, book.trials().n) == (5, 2, 0, 7)


def test_an_empty_ledger_is_not_made_by_reading(own_home: Path) -> None:
    assert ledger(own_home).trials().n == 0
    assert ledger(own_home).add() == 0
    assert not trials_path(Home(own_home)).exists()


def test_records_that_cannot_be_read_stop_the_search(own_home: Path) -> None:
    Journal(trials_path(Home(own_home)), CLOCK).append(KIND, {"schema_version": 9, "grid": []})
    with pytest.raises(StateCorrupt) as caught:
        ledger(own_home).trials()
    assert caught.value.code == "TRIAL_UNREADABLE"


def test_a_removed_trial_breaks_the_chain(own_home: Path) -> None:
    book = ledger(own_home)
    for k in range(3):
        book.add(a_trial(k))
    path = trials_path(Home(own_home))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    assert not verify(path).ok
    with pytest.raises(StateCorrupt):
        ledger(own_home).trials()


# ---------------------------------------------------------------- what they amount to
def test_the_summary_counts_the_undefined_and_leaves_the_winner_out_of_the_spread() -> None:
    trials = [a_trial(k, sharpe=value) for k, value in enumerate([0.01, 0.03, -0.02, 0.20])]
    trials.append(a_trial(9, returns=np.zeros(DAYS.size)))
    assert trials[-1].sharpe is None
    found = summarise(trials, trials[3].key)
    assert (found.n, found.undefined) == (5, 1)
    assert found.variance == pytest.approx(np.var([0.01, 0.03, -0.02], ddof=1))
    assert summarise(trials).variance == pytest.approx(np.var([0.01, 0.03, -0.02, 0.20], ddof=1))
    assert summarise(trials[:2], trials[0].key).variance is None
    assert summarise([]).n == 0


def test_correlation_is_the_mean_over_all_pairs() -> None:
    rng = np.random.default_rng(4)
    common = rng.normal(0, 0.03, 24)
    rows = [common * share + rng.normal(0, 0.03, 24) for share in (0.0, 0.5, 1.0, 2.0)]
    months = [{f"2020-{i:02d}": float(v) for i, v in enumerate(row)} for row in rows]
    by_numpy = np.corrcoef(rows)[np.triu_indices(4, 1)].mean()
    assert mean_correlation(months) == pytest.approx(by_numpy, rel=1e-9)


def test_trials_that_cannot_be_compared_count_as_unlike() -> None:
    base = {f"2020-{i:02d}": math.sin(i) for i in range(1, 13)}
    other = {f"2021-{i:02d}": math.sin(i) for i in range(1, 13)}
    short = dict(list(base.items())[:11])
    assert mean_correlation([base]) is None and mean_correlation([]) is None
    assert mean_correlation([base, base]) == pytest.approx(1.0)
    assert mean_correlation([base, other]) == 0.0
    assert mean_correlation([short, short]) == 0.0
    assert mean_correlation([base, dict.fromkeys(base, 0.0)]) == 0.0
    assert mean_correlation([base, {m: -v for m, v in base.items()}]) == 0.0  # never under 0
    assert mean_correlation([base, base, other]) == pytest.approx(1 / 3)


def test_months_compound_their_days() -> None:
    days = np.array([0, 1, 30, 31, 59], dtype=np.int32)  # 1970: 1, 2, 31 January, 1 February, 1 March
    found = monthly(days, np.array([0.1, 0.1, -0.5, 0.2, 0.0]))
    assert found == {"1970-01": pytest.approx(1.1 * 1.1 * 0.5 - 1, abs=1e-8), "1970-02": 0.2, "1970-03": 0.0}
    assert monthly(np.empty(0, np.int32), np.empty(0)) == {}
