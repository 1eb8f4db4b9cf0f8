"""Raised once, told again when it is worse or unheard, over once; a restart neither repeats nor forgets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution.observe.alert_memory import (
    Memory,
    Policy,
    acknowledged,
    from_document,
    step,
    to_document,
)
from execution.observe.alerts import Condition, Look, State

AT = datetime(2024, 3, 5, 15, 0, tzinfo=UTC)
POLICY = Policy(clear_after=timedelta(seconds=60), escalate_after=timedelta(minutes=30), queue_most=10)
FIVE = timedelta(seconds=5)


def condition(state: State = State.CRITICAL, name: str = "BREAKS", **changes: Any) -> Condition:
    return Condition(**{"name": name, "state": state, "words": "x", "action": "y", "hold_s": 10.0, **changes})


class World:
    def __init__(self) -> None:
        self.memory, self.now = Memory(began_at=AT, looked_at=AT), AT
        self.told: list[str] = []

    def look(self, *conditions: Condition, blind: Sequence[str] = (), after: timedelta = FIVE) -> list[str]:
        """What this look tells."""
        self.now += after
        found = {c.name: c for c in conditions}
        waiting = len(self.memory.outbox)
        self.memory = step(self.memory, Look(at=self.now, conditions=found, blind=frozenset(blind)), POLICY)
        new = [f"{m.kind} {m.name}" for m in self.memory.outbox[waiting:]]
        self.told += new
        self.memory = Memory(**{**{f: getattr(self.memory, f) for f in self.memory.__slots__}, "outbox": ()})
        return new

    def for_s(self, seconds: float, *conditions: Condition, blind: Sequence[str] = ()) -> list[str]:
        return [t for _ in range(int(seconds // 5)) for t in self.look(*conditions, blind=blind)]


def raised(**changes: Any) -> World:
    world = World()
    assert world.for_s(60, condition(**changes)) == [f"raised {changes.get('name', 'BREAKS')}"]
    return world


@pytest.mark.parametrize(("looks", "told"), [(2, []), (3, ["raised BREAKS"])])
def test_it_is_raised_when_it_has_held(looks: int, told: list[str]) -> None:
    world = World()
    assert world.for_s(looks * 5, condition()) == told


def test_what_is_gone_again_was_nothing() -> None:
    world = World()
    for _ in range(20):
        world.look(condition())
        world.look()
    assert world.told == [] and world.memory.entries == {}


def test_a_hundred_thousand_looks_tell_it_once_and_then_rarely() -> None:
    world = raised(state=State.WARNING)
    assert world.for_s(23 * 3600, condition(State.WARNING)) == []
    assert world.for_s(2 * 3600, condition(State.WARNING)) == ["reminder BREAKS"]


def test_worse_is_told_at_once_and_ends_the_acknowledgement() -> None:
    world = raised(state=State.WARNING)
    memory = acknowledged(world.memory, "BREAKS", "on it", world.now)
    assert memory is not None
    world.memory = memory
    assert world.look(condition(State.CRITICAL)) == ["worse BREAKS"]
    assert world.memory.entries["BREAKS"].acknowledged_at is None


def test_a_value_that_swings_round_the_critical_limit_is_worse_once() -> None:
    world = raised(state=State.WARNING)
    for _ in range(50):
        world.look(condition(State.CRITICAL))
        world.look(condition(State.WARNING))
    assert world.told == ["raised BREAKS", "worse BREAKS"]


def test_an_unheard_critical_alert_is_told_again_ever_more_rarely() -> None:
    world = raised()
    assert world.for_s(29 * 60, condition()) == []
    assert world.for_s(60, condition()) == ["reminder BREAKS"]
    assert world.for_s(59 * 60, condition()) == []
    assert world.for_s(2 * 60, condition()) == ["reminder BREAKS"]
    day = world.for_s(24 * 3600, condition())
    assert 3 <= len(day) <= 5


def test_an_acknowledged_one_is_not() -> None:
    world = raised()
    memory = acknowledged(world.memory, "BREAKS", "on it", world.now)
    assert memory is not None and memory.unacknowledged() == []
    world.memory = memory
    assert world.for_s(6 * 3600, condition()) == []
    assert world.for_s(120) == ["recovered BREAKS"]


def test_only_what_stands_can_be_acknowledged() -> None:
    world = World()
    world.look(condition())
    assert acknowledged(world.memory, "BREAKS", "x", world.now) is None
    assert acknowledged(world.memory, "OTHER", "x", world.now) is None


def test_it_is_over_once_and_only_after_a_while() -> None:
    world = raised()
    assert world.for_s(60) == []
    assert world.for_s(5) == ["recovered BREAKS"]
    assert world.for_s(3600) == []
    world.for_s(25 * 3600)
    assert world.memory.entries == {}


def test_unknown_ends_nothing() -> None:
    world = raised()
    assert world.for_s(3600, blind=["book"]) == []
    entry = world.memory.entries["BREAKS"]
    assert entry.standing and entry.unknown
    assert world.for_s(70) == ["recovered BREAKS"]


def test_unknown_restarts_the_wait_for_the_end() -> None:
    world = raised()
    world.for_s(55)
    world.look(blind=["book"])
    assert world.for_s(60) == []


def test_what_comes_and_goes_rings_ever_more_rarely() -> None:
    world = World()
    for _ in range(200):
        world.for_s(30, condition())
        world.for_s(90)
    assert 2 <= len(world.told) <= 20, world.told
    every_two_minutes = 400
    assert len(world.told) < every_two_minutes / 10


def test_a_growing_count_is_told_again_and_a_shrinking_one_not() -> None:
    def missed(count: float) -> Condition:
        return condition(State.WARNING, name="RUNS_MISSED", level=count)

    world = World()
    world.for_s(60, missed(1))
    assert world.look(missed(1)) == [] and world.look(missed(3)) == ["worse RUNS_MISSED"]
    assert world.look(missed(2)) == [] and world.look(missed(3)) == ["worse RUNS_MISSED"]


def test_a_clock_set_back_loses_nothing() -> None:
    world = World()
    world.look(condition())
    world.look(condition(), after=-timedelta(hours=3))
    assert world.for_s(20, condition()) == ["raised BREAKS"]
    world.look(after=-timedelta(hours=3))
    assert world.for_s(70) == ["recovered BREAKS"]


def test_the_queue_is_bounded_and_keeps_what_matters() -> None:
    memory = Memory(began_at=AT, looked_at=AT)
    many = {f"W{n}": condition(State.WARNING, name=f"W{n}", hold_s=0) for n in range(30)}
    critical = {f"C{n}": condition(name=f"C{n}", hold_s=0) for n in range(5)}
    memory = step(memory, Look(at=AT, conditions=critical, blind=frozenset()), POLICY)
    memory = step(memory, Look(at=AT + FIVE, conditions={**critical, **many}, blind=frozenset()), POLICY)
    assert len(memory.outbox) == POLICY.queue_most and memory.dropped == 25
    assert {m.name for m in memory.outbox if m.severity == "critical"} == set(critical)


STATES = st.sampled_from([State.OK, State.UNKNOWN, State.WARNING, State.CRITICAL])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(STATES, st.integers(1, 400)), max_size=40), st.booleans())
def test_messages_alternate_and_a_restart_changes_nothing(looks: list[tuple[State, int]], restarts: bool) -> None:
    world, other = World(), World()
    for state, seconds in looks:
        found = [] if state is State.OK else [condition(state)]
        after = timedelta(seconds=seconds)
        world.look(*found, after=after)
        if restarts:
            other.memory = from_document(to_document(other.memory))
        other.look(*found, after=after)
    assert world.told == other.told
    ends = [t for t in world.told if t.split()[0] in ("raised", "recovered")]
    assert all(one != two for one, two in pairwise(ends)), "raised and over take turns"
    assert from_document(to_document(world.memory)) == world.memory


@pytest.mark.parametrize(
    "wreck", [{}, {"entries": 3}, {"entries": [{"name": 1}]}, {"outbox": [{"x": 1}]}, {"began_at": "yesterday"}]
)
def test_a_document_of_another_kind_is_refused(wreck: dict[str, Any]) -> None:
    whole = to_document(raised().memory)
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_document({**whole, **wreck} if wreck else {})
