"""A sleep that says now and then that the process is alive, and sleeps no longer for it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from core.clock import BeatingClock, SteppedClock

NOW = datetime(2024, 3, 5, 15, 0, tzinfo=UTC)


@pytest.mark.parametrize(("seconds", "beats"), [(0.0, 1), (0.2, 2), (1.0, 6), (60.0, 301)])
def test_it_beats_before_and_every_fifth_of_a_second(seconds: float, beats: int) -> None:
    base, said = SteppedClock(NOW), list[float]()
    clock = BeatingClock(base, lambda: said.append(base.monotonic()))
    clock.sleep(seconds)
    assert base.monotonic() == pytest.approx(seconds) and len(said) == pytest.approx(beats, abs=1)
    assert all(later - before <= 0.2 + 1e-9 for before, later in itertools.pairwise(said))


def test_time_is_the_other_clocks() -> None:
    base = SteppedClock(NOW)
    clock = BeatingClock(base, lambda: None)
    base.advance(timedelta(hours=1))
    assert (clock.now(), clock.monotonic()) == (base.now(), base.monotonic())
    clock.sleep(-5.0)
    assert clock.monotonic() == base.monotonic() == 3600.0
