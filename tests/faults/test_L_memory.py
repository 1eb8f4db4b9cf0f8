"""Memory and reflection: bounded, made again from the journal, in nobody's way, and blind to the future."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cognitive.episodic_memory import EpisodicMemory
from cognitive.learnings import LearningBook
from cognitive.memory_file import read_memory
from cognitive.reflection import reflect
from config.settings_schema import ReflectionSettings
from execution.scheduler import DueRun
from execution.session import RunReport, TradingSession
from scripts import trading
from tests.fakes.lives import Life
from tests.fakes.minds import START, Planted, a_day, decisions


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def traded(life: Life, days: int) -> None:
    for number in range(days):
        life.review(f"A{number}", f"B{number}")
        life.enter(life.decision(f"A{number}"))
        life.leave(life.decision(f"A{number}"), "51")
        life.wait(days=1)


def a_session(life: Life, monkeypatch: pytest.MonkeyPatch, done: list[str]) -> trading._RecordedSession:
    """The runner's session with everything but its memory taken away; what trades only notes that it did."""

    class Nothing:
        def flush(self) -> None: ...

        def look(self, session: object) -> None: ...

    def ran(self: TradingSession, run: DueRun) -> RunReport:
        done.append("exits and entries")
        return RunReport(run)

    def looked(self: TradingSession, session: object) -> RunReport:
        done.append("protection")
        return RunReport(DueRun(a_day("2024-03-05"), "look", life.clock.now(), first=False, last=False))

    monkeypatch.setattr(TradingSession, "run", ran)
    monkeypatch.setattr(TradingSession, "look_after", looked)
    monkeypatch.setattr(TradingSession, "close_out", looked)
    session = object.__new__(trading._RecordedSession)
    session.recorder, session.watch = Nothing(), Nothing()  # type: ignore[assignment]
    session.memory = life.remembering()
    return session


@pytest.mark.parametrize("content", [b"", b'{"schema_version": 1, "episodes": [', b"\x00" * 4096, b"[[[[" * 5000])
def test_L27_a_damaged_memory_is_made_again_and_blocks_no_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    life, done = Life(tmp_path), list[str]()
    traded(life, 3)
    life.remembering().follow(life.clock.now().date(), closing=True)
    sound = life.file.read_bytes()
    life.file.write_bytes(content)
    session, day = a_session(life, monkeypatch, done), life.clock.now().date()
    session.run(DueRun(day, "09:35", life.clock.now(), first=True, last=False))
    session.look_after(day)
    session.close_out(day)
    assert done == ["exits and entries", "protection", "protection"]
    assert life.file.read_bytes() == sound


def test_L27_a_memory_that_can_be_neither_read_nor_written_blocks_no_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, done = Life(tmp_path), list[str]()
    traded(life, 2)
    life.file.mkdir(parents=True)  # in the place of the file
    session, day = a_session(life, monkeypatch, done), life.clock.now().date()
    session.close_out(day)
    session.run(DueRun(day, "09:35", life.clock.now(), first=True, last=False))
    assert done == ["protection", "exits and entries"]
    assert session.memory.mind(life.clock.now()).code == "OK", "the journal is enough"


def test_L27_it_does_not_grow_without_bound(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.set("memory", max_episodes=12)
    living, sizes = life.remembering(), list[int]()
    for _ in range(3):
        traded(life, 15)
        living.follow(life.clock.now().date(), closing=True)
        sizes.append(life.file.stat().st_size)
    kept = read_memory(life.file)
    assert kept is not None and len(kept.episodes) == 12 and kept.forgotten
    assert max(sizes) < 1.02 * min(sizes)


@pytest.mark.parametrize("week", [12, 20, 30])
def test_L28_reflection_says_the_same_whatever_the_future_brings(week: int) -> None:
    """Every outcome that was not known yet turned into its opposite: not one word of what is learned differs."""
    settings, at = ReflectionSettings(least=15), START + timedelta(weeks=week)
    world = decisions(2, 200, Planted(effect_r=-1.5))
    other = [
        replace(e, outcome=replace(known, r=-known.r)) if (known := e.outcome) and known.known_at >= at else e
        for e in world
    ]
    assert sum(a != b for a, b in zip(world, other, strict=True)) > 50
    told = [reflect(EpisodicMemory(w).before(at), LearningBook(), at, settings, week="w") for w in (world, other)]
    assert told[0] == told[1] and told[0][0].body["tried"] > 20
