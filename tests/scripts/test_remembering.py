"""The memory against the journal: complete over process ends, the same however it came about, in nobody's way."""

from __future__ import annotations

import json
import os
import random
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cognitive.episodes import Episode, Standing
from cognitive.memory_file import Remembered, content_of, read_memory
from cognitive.reflection import Change
from core import logs
from core.domain import Purpose, Side
from core.errors import StateCorrupt
from core.journal import Journal
from execution.ledger import intent_body
from scripts import remembering
from scripts.remembering import MOMENT, week_ended
from tests.fakes.lives import NUMBERS, Life
from tests.fakes.minds import a_day, an_episode


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut takes is proved elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def episode(life: Life, decision_id: str) -> Episode:
    return life.remembering().up_to_date().episodes[decision_id]


def follow(life: Life, *, closing: bool = False) -> None:
    life.remembering().follow(life.clock.now().date(), closing=closing)


def counted(metric: str) -> int:
    return sum(n for key, n in logs.counters().items() if key[0] == metric)


# ---------------------------------------------------------------- from signal to outcome
def test_an_episode_opened_by_a_scan_is_completed_by_the_exit_of_another_process_next_week(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.review("AAA", confidence=0.62, regime="watch", probability=0.57, scale="0.5")
    decided, name = life.clock.now(), life.decision("AAA")
    follow(life)
    life.wait(seconds=2)
    life.enter(name, "50")
    follow(life, closing=True)
    held = episode(life, name)
    assert (held.standing, held.outcome, held.entered_at) == (Standing.HELD, None, life.clock.now())
    life.wait(days=6)  # from Tuesday to Monday: five sessions
    life.leave(name, "51.5", reason="ibs")
    follow(life)
    closed = episode(life, name)
    assert (closed.decided_at, closed.regime, closed.score) == (decided, "watch", 60.0)
    assert (closed.confidence, closed.probability, closed.scale) == (0.62, 0.57, Decimal("0.5"))
    assert closed.numbers == NUMBERS
    assert closed.outcome is not None and closed.outcome.r == pytest.approx((51.5 - 50) / (50 - 47.5))
    assert (closed.outcome.usd, closed.outcome.exit_reason, closed.outcome.bars_held) == (Decimal(3), "ibs", 5)
    assert read_memory(life.file) == life.remembering().up_to_date()


def test_a_decision_that_nothing_filled_says_so_once_its_day_is_over(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.review("AAA", scale="0")
    name = life.decision("AAA")
    assert episode(life, name).standing is Standing.WAITING
    life.wait(days=1)
    life.journal.append("scan_run", {"run": "x"})
    assert (episode(life, name).standing, episode(life, name).outcome) == (Standing.NOT_ENTERED, None)


def test_a_partial_fill_counts_by_what_filled_and_several_exits_by_their_shares(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.review("AAA")
    name = life.decision("AAA")
    life.enter(name, "50", quantity=3)
    life.leave(name, "47.5", quantity=1, told=False)
    assert episode(life, name).standing is Standing.HELD
    life.leave(name, "55", quantity=2, attempt=2)
    outcome = episode(life, name).outcome
    assert outcome is not None and outcome.usd == Decimal("7.5")
    assert outcome.r == pytest.approx((-2.5 + 2 * 5) / 3 / 2.5)


def test_the_review_before_the_entry_stands_and_a_look_at_what_is_held_changes_nothing(tmp_path: Path) -> None:
    life = Life(tmp_path)
    name = life.decision("AAA")
    for confidence in (0.5, 0.6):
        life.review("AAA", confidence=confidence)
        life.wait(hours=1)
    life.enter(name)
    life.wait(hours=1)
    life.review("AAA", confidence=0.9)
    assert episode(life, name).confidence == 0.6
    other = life.decision("BBB")
    life.review("BBB", confidence=0.3)
    life.wait(minutes=5)
    life.review("BBB", confidence=0.4)
    assert episode(life, other).confidence == 0.4, "without an entry the newest stands"


def test_a_trade_that_no_review_told_of_is_an_episode_and_a_position_that_a_person_adopted_is_none(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path)
    name = life.decision("OLD")
    life.enter(name)
    life.journal.append("position_adopted", {
        "decision_id": "20240305-adopted-XYZ", "symbol": "XYZ", "quantity": 1, "entry_price": "10", "stop": "9",
    })  # fmt: skip
    life.journal.append("trade_opened", {"decision_id": "20240305-adopted-XYZ", "symbol": "XYZ"})
    found = life.remembering().up_to_date().episodes
    assert set(found) == {name}
    assert (found[name].score, found[name].confidence, found[name].regime) == (None, None, "unknown")


def test_shares_that_went_at_a_price_that_nobody_knows_are_no_outcome(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.review("AAA")
    name = life.decision("AAA")
    life.enter(name)
    life.journal.append("positions_synced", {"positions": {}})
    life.tell_closed(name)
    assert (episode(life, name).standing, episode(life, name).outcome) == (Standing.OUTCOME_UNKNOWN, None)


def test_a_split_while_it_is_held_leaves_r_as_it_is(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.review("AAA")
    name = life.decision("AAA")
    life.enter(name, "50")
    life.journal.append("trade_rebased", {
        "decision_id": name, "symbol": "AAA", "quantity": 4, "entry_price": "25", "stop": "23.75",
        "basis": "2024-03-06",
    })  # fmt: skip
    life.wait(days=1)
    life.leave(name, "26.25", quantity=4)
    outcome = episode(life, name).outcome
    assert outcome is not None and outcome.r == pytest.approx(1.0) and outcome.usd == Decimal(5)


# ---------------------------------------------------------------- a view of the journal
def busy(life: Life, days: int, seed: int, *, each: Any = lambda: None) -> None:
    """Reviews three times a day, some entries, some exits, now and then a broken row; `each` after every step."""
    rng, held, bought = random.Random(seed), dict[str, int](), set[str]()
    for day in range(days):
        symbols = [f"S{rng.randrange(6)}" for _ in range(rng.randrange(1, 4))]
        strategy = rng.choice(["ibs_rsi", "turtle_soup"])
        for _ in range(3):
            life.review(*sorted(set(symbols)), strategy=strategy, confidence=round(rng.random(), 3))
            name = life.decision(symbols[0], strategy)
            if rng.random() < 0.5 and name not in bought:
                life.enter(name, told=rng.random() < 0.9)
                held[name] = day
                bought.add(name)
            each()
            life.wait(hours=2)
        for name in [n for n, since in held.items() if day - since >= rng.randrange(1, 9)]:
            life.leave(name, str(round(50 + rng.gauss(0.3, 3), 2)))
            del held[name]
            each()
        life.wait(hours=18)


@pytest.mark.parametrize("seed", range(2))
def test_L27_read_on_step_by_step_or_from_the_start_it_is_the_same_memory(tmp_path: Path, seed: int) -> None:
    life = Life(tmp_path)
    life.set("memory", max_episodes=40)
    step = random.Random(seed)
    living = [life.remembering()]

    def each() -> None:
        if step.random() < 0.2:
            living[0] = life.remembering()  # a new process
        if step.random() < 0.7:
            living[0].follow(life.clock.now().date(), closing=step.random() < 0.3)

    busy(life, 25, seed, each=each)
    living[0].follow(life.clock.now().date(), closing=True)
    kept = read_memory(life.file)
    told, _ = life.remembering().from_the_start()
    assert kept is not None and kept.forgotten and len(kept.episodes) == 40
    assert content_of(kept) == content_of(told)
    life.file.unlink()
    assert life.remembering().up_to_date() == kept, "removing the file changes nothing"


def damaged(content: bytes) -> list[bytes]:
    whole = json.loads(content)
    other = {**whole, "episodes": whole["episodes"][1:]}
    return [
        b"", b"{", content[: len(content) // 2], b"[]\n", b"{}", b"\xff\xfe1\n",
        content.replace(b'"score":60', b'"score":61', 1), content.replace(b"{", b"{ ", 1), content + b"\n",
        json.dumps(other).encode(), json.dumps({**whole, "seq": 3}).encode(),
    ]  # fmt: skip


def test_L27_a_damaged_memory_is_made_again_and_told_and_blocks_nothing(tmp_path: Path) -> None:
    life = Life(tmp_path)
    busy(life, 5, 1)
    follow(life, closing=True)
    sound, before = life.file.read_bytes(), counted("memory_rebuilt")
    for number, content in enumerate(damaged(sound), start=1):
        life.file.write_bytes(content)
        follow(life, closing=True)
        assert life.file.read_bytes() == sound, content[:40]
        assert counted("memory_rebuilt") == before + number


def test_L27_a_memory_of_another_journal_or_of_a_longer_one_is_made_again(tmp_path: Path) -> None:
    life, other = Life(tmp_path / "a"), Life(tmp_path / "b")
    busy(life, 6, 1)
    busy(other, 5, 2)
    for one in (life, other):
        follow(one, closing=True)
    right = other.file.read_bytes()
    other.file.write_bytes(life.file.read_bytes())
    follow(other, closing=True)
    assert other.file.read_bytes() == right


def test_another_bound_is_another_memory(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.set("memory", max_episodes=3)
    busy(life, 6, 3)
    follow(life, closing=True)
    kept = read_memory(life.file)
    assert kept is not None and len(kept.episodes) == 3
    life.set("memory", max_episodes=1000)
    assert len(life.remembering().up_to_date().episodes) > 3


def test_a_memory_of_a_later_program_is_left_alone_and_not_read(tmp_path: Path) -> None:
    life = Life(tmp_path)
    busy(life, 2, 1)
    life.file.write_bytes(b'{"schema_version": 99}')
    follow(life, closing=True)
    assert life.file.read_bytes() == b'{"schema_version": 99}'
    assert life.remembering().up_to_date().episodes


def test_a_late_fill_of_the_first_order_brings_back_the_review_that_it_followed(tmp_path: Path) -> None:
    life = Life(tmp_path)
    living, name = life.remembering(), life.decision("AAA")
    life.review("AAA", confidence=0.5)
    intent = life.intent(name, Side.BUY, Purpose.ENTRY, "50")
    life.journal.append("order_intended", intent_body(intent))
    life.wait(hours=1)
    life.review("AAA", confidence=0.8)
    living.follow(a_day("2024-03-05"))
    told = {"client_order_id": intent.client_order_id}
    life.journal.append("order_filled", {**told, "quantity": 2, "price": "50", "at": life.clock.now().isoformat()})
    life.journal.append("trade_opened", {"decision_id": name, "symbol": "AAA"})
    living.follow(a_day("2024-03-05"))
    assert living.up_to_date().episodes[name].confidence == 0.5
    assert living.up_to_date() == life.remembering().from_the_start()[0]


def test_a_late_fill_of_what_was_forgotten_brings_its_review_back(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.set("memory", max_episodes=3)
    living, name = life.remembering(), life.decision("OLD")
    life.review("OLD", confidence=0.5)
    intent = life.intent(name, Side.BUY, Purpose.ENTRY, "50")
    life.journal.append("order_intended", intent_body(intent))
    life.wait(minutes=1)
    life.review("BUY")
    life.enter(life.decision("BUY"))
    life.wait(minutes=1)
    life.review("ONE", "TWO")
    living.follow(a_day("2024-03-05"))
    assert name not in living.up_to_date().episodes
    told = {"client_order_id": intent.client_order_id}
    life.journal.append("order_filled", {**told, "quantity": 2, "price": "50", "at": life.clock.now().isoformat()})
    life.journal.append("trade_opened", {"decision_id": name, "symbol": "OLD"})
    assert living.up_to_date().episodes[name].confidence == 0.5
    assert living.up_to_date() == life.remembering().from_the_start()[0]


def test_a_row_that_cannot_be_read_costs_that_row_only(tmp_path: Path) -> None:
    life = Life(tmp_path)
    rows = [life.row("AAA"), {"decision_id": "x"}, {**life.row("BBB"), "score": None}, life.row("CCC")]
    life.review("DDD")
    body = {"run": "r", "session": "2024-03-04", "regime": {"label": "calm"}, "signals": rows}
    life.journal.append("signals_reviewed", body)
    life.journal.append("signals_reviewed", {**body, "session": "never"})
    before = counted("reviews_not_read")
    found = life.remembering().up_to_date().episodes
    assert sorted(e.symbol for e in found.values()) == ["AAA", "CCC", "DDD"]
    assert counted("reviews_not_read") == before + 3


# ---------------------------------------------------------------- in nobody's way
def test_a_memory_that_breaks_is_told_and_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tmp_path)
    life.review("AAA")
    living = life.remembering()

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(remembering, "told_by", broken)
    before = counted("memory_failed")
    living.follow(a_day("2024-03-05"), closing=True)
    mind = living.mind(life.clock.now())
    assert (mind.code, len(mind.memory), mind.learnings, mind.self_model.n) == ("MEMORY_UNREADABLE", 0, (), 0)
    assert counted("memory_failed") == before + 2
    monkeypatch.undo()
    assert living.mind(life.clock.now() + MOMENT).code == "OK"


@pytest.mark.parametrize(
    ("kind", "code"),
    [("learning_adopted", "MEMORY_UNREADABLE"), ("learning_proposed", "MEMORY_UNREADABLE"), ("learning_retired", "OK")],
)
def test_a_learning_that_cannot_be_read_is_no_permission(tmp_path: Path, kind: str, code: str) -> None:
    life = Life(tmp_path)
    life.review("AAA")
    life.journal.append(kind, {"id": "L001", "of": "a later program"})
    assert life.remembering().mind(life.clock.now() + MOMENT).code == code


def test_a_journal_that_cannot_be_read_stops_no_trade_here(tmp_path: Path) -> None:
    life = Life(tmp_path)
    busy(life, 2, 1)
    life.journal.path.write_bytes(life.journal.path.read_bytes().replace(b'"seq":3', b'"seq":4', 1))
    life.remembering().follow(a_day("2024-03-07"), closing=True)
    assert life.remembering().mind(life.clock.now()).code == "MEMORY_UNREADABLE"
    with pytest.raises(StateCorrupt):
        life.remembering().up_to_date()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tmp_path)
    life.review("AAA")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remembering, "write_memory", full)
    before = counted("memory_not_written")
    follow(life, closing=True)
    assert counted("memory_not_written") == before + 1


def test_an_empty_home_is_an_empty_memory_and_leaves_no_file(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.remembering().follow(a_day("2024-03-05"), closing=True)
    assert life.remembering().mind(life.clock.now()).code == "MEMORY_EMPTY" and not life.file.exists()


def test_what_is_new_is_read_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the order path: no second reading of the journal, and no ledger where no trade moved."""
    life = Life(tmp_path)
    busy(life, 5, 1)
    living = life.remembering()
    living.follow(life.clock.now().date())
    life.asked, read = 0, list[int]()
    whole = Journal.read_after

    def counting(journal: Journal, mark: Any) -> Any:
        records, after = whole(journal, mark)
        read.append(len(records))
        return records, after

    monkeypatch.setattr(Journal, "read_after", counting)
    living.follow(life.clock.now().date())
    life.journal.append("scan_run", {"run": "x"})
    living.follow(life.clock.now().date())
    assert (read, life.asked) == ([0, 1], 0)
    life.review("NEW")
    living.follow(life.clock.now().date())
    assert (read[2:], life.asked) == ([1], 1)


def test_L28_a_mind_knows_no_decision_and_no_outcome_of_its_instant_or_later(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.review("AAA")
    first = life.decision("AAA")
    life.enter(first)
    life.wait(days=2)
    life.leave(first, "60")
    told = life.clock.now()
    living = life.remembering()
    assert living.mind(told).self_model.n == 0
    assert living.mind(told + MOMENT).self_model.n == 1
    assert [e.outcome for e in living.mind(told).memory.before(told)] == [None]


def test_L28_an_exit_that_the_broker_made_while_nobody_looked_is_known_when_it_was_told(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.review("AAA")
    name = life.decision("AAA")
    life.enter(name)
    life.wait(hours=1)
    sold = life.clock.now()
    life.leave(name, "47", told=False)
    life.wait(days=2)
    life.tell_closed(name)
    outcome = episode(life, name).outcome
    assert outcome is not None and (outcome.closed_at, outcome.known_at) == (sold, life.clock.now())
    assert life.remembering().mind(life.clock.now()).self_model.n == 0


# ---------------------------------------------------------------- reflection beside the runner
@pytest.mark.parametrize(
    ("session", "book", "week"),
    [
        ("2024-03-08", "", "2024-W10"), ("2024-03-08", "2024-W10", None), ("2024-03-07", "2024-W09", None),
        ("2024-03-07", "2024-W08", "2024-W09"), ("2024-03-28", "2024-W12", "2024-W13"),  # Good Friday is no session
        ("2024-12-31", "2024-W52", None), ("2025-01-03", "2024-W52", "2025-W01"),
    ],
)  # fmt: skip
def test_a_week_ends_with_its_last_session_and_is_caught_up_when_that_was_missed(
    tmp_path: Path, session: str, book: str, week: str | None
) -> None:
    from cognitive.learnings import LearningBook

    assert week_ended(Life(tmp_path).context.calendar, a_day(session), LearningBook(week=book)) == week


def test_reflection_is_asked_after_a_closed_trade_and_at_the_weeks_end_and_writes_into_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cognitive import reflection

    life = Life(tmp_path)
    life.set("reflection", least=5)
    living, asked = life.remembering(), list[tuple[str | None, int]]()

    def reflect(known: Any, book: Any, at: Any, settings: Any, *, week: str | None) -> tuple[Change, ...]:
        asked.append((week, sum(e.outcome is not None for e in known)))
        return () if week is None else (Change("reflected", {"week": week, "outcomes": 1, "tried": 7}),)

    monkeypatch.setattr(reflection, "reflect", reflect)
    for number in range(11):
        life.review(f"S{number}")
        name = life.decision(f"S{number}")
        life.enter(name)
        living.follow(life.clock.now().date())
        life.leave(name, "51")
        living.follow(life.clock.now().date())
    assert asked == [(None, 10), (None, 11)], "twice reflection.least are needed to compare anything"
    living.follow(a_day("2024-03-05"), closing=True)
    assert asked[2:] == [("2024-W09", 11)], "the week before, whose end nobody saw"
    life.clock.set(life.clock.now() + timedelta(days=3))
    living.follow(a_day("2024-03-08"), closing=True)
    living.follow(a_day("2024-03-08"), closing=True)
    assert asked[3:] == [("2024-W10", 11)]
    assert [r.body["week"] for r in life.journal.kinds("reflected")] == ["2024-W09", "2024-W10"]
    assert (living.up_to_date().book.looks, living.up_to_date().book.tried) == (2, 14)
    assert read_memory(life.file) == living.up_to_date()


def test_a_learning_is_proposed_adopted_and_retired_in_the_journal_and_survives_the_process(tmp_path: Path) -> None:
    """Two trades a session: one that meets the condition, one that does not. Both change sides in the last month."""
    life = Life(tmp_path)
    life.set("reflection", least=8, confirm_least=8)
    days = life.context.calendar.sessions_between(a_day("2024-03-05"), a_day("2024-05-15"))
    heard: list[tuple[datetime, list[str]]] = []
    for number, day in enumerate(days):
        life.clock.set(life.context.calendar.opens_at(day) + timedelta(minutes=5))
        living = life.remembering()  # every day another process
        for symbol, rsi, lost in (("LOW", 1.0, number < 36), ("HIGH", 4.0, number >= 36)):
            heard.append((life.clock.now(), [one.id for one in living.mind(life.clock.now()).learnings]))
            life.review(symbol, numbers={**NUMBERS, "rsi": rsi + 0.001 * (number % 7)})
            life.enter(life.decision(symbol))
            life.wait(hours=1)
            life.leave(life.decision(symbol), str((47.5 if lost else 52.5) + 0.1 * (number % 5)))
            living.follow(day)
        living.follow(day, closing=True)
    told = [(r.kind, r.body["id"]) for r in life.journal.kinds(*(f"learning_{w}" for w in ("adopted", "retired")))]
    (first,) = [r for r in life.journal.kinds("learning_proposed") if r.body["id"] == "L001"]
    assert "rsi <=" in first.body["says"]
    assert told[:2] == [("learning_adopted", "L001"), ("learning_retired", "L001")]
    adopted, retired = (next(life.journal.kinds(kind)) for kind in ("learning_adopted", "learning_retired"))
    assert first.seq < adopted.seq < retired.seq and retired.body["code"] == "NO_LONGER_HOLDS"
    assert all(ids == (["L001"] if adopted.at < at <= retired.at else []) for at, ids in heard if at <= retired.at)
    assert any(ids for _, ids in heard)
    assert read_memory(life.file) == life.remembering().from_the_start()[0]


def test_reflection_that_is_off_learns_nothing_and_keeps_what_was_adopted(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.set("reflection", least=5, enabled=False)
    for number in range(12):
        life.review(f"S{number}")
        life.enter(life.decision(f"S{number}"))
        life.leave(life.decision(f"S{number}"), "51")
    follow(life, closing=True)
    assert not list(life.journal.kinds("reflected"))


def test_the_same_memory_is_the_same_bytes_in_any_order() -> None:
    one, two = an_episode(1, r=0.5), an_episode(2, r=-1.0)
    forth = Remembered(most=5, episodes={one.decision_id: one, two.decision_id: two})
    back = Remembered(most=5, episodes={two.decision_id: two, one.decision_id: one})
    assert content_of(forth) == content_of(back)
