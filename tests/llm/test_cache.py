"""The cache: what makes a key, how old an answer may be, and that a damaged one is none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from core.clock import SteppedClock
from core.market_calendar import NEW_YORK, MarketCalendar
from llm.cache import AnswerCache, Kept
from llm.client import Skipped
from tests.fakes.llm import Open, llm_settings, prompt

KEY = "ab" + "0" * 62


def ny(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC)


def kept(at: datetime) -> Kept:
    return Kept(text="words", model="m-20260901", usage={"input_tokens": 1, "output_tokens": 1}, latency_ms=1.0,
                stored_at=at)  # fmt: skip


def cache(folder: Path, clock: SteppedClock, calendar: MarketCalendar) -> AnswerCache:
    return AnswerCache(folder, clock, calendar, ttl_hours=24)


@pytest.mark.parametrize(
    ("stored", "asked", "hit"),
    [
        ("2026-11-23T12:00", "2026-11-24T12:00", True), ("2026-11-23T12:00", "2026-11-24T12:01", False),
        ("2026-11-20T16:30", "2026-11-23T09:00", True), ("2026-11-20T16:30", "2026-11-23T16:30", True),
        ("2026-11-20T16:30", "2026-11-23T16:31", False),
        ("2026-11-21T10:00", "2026-11-23T23:59", True),  # Saturday: all of Monday
        ("2026-11-25T16:30", "2026-11-27T09:00", True),  # Thanksgiving in between
        ("2026-11-24T12:00", "2026-11-24T11:59", False),  # from the future
        ("2020-11-24T12:00", "2026-11-24T11:59", False),
    ],
)  # fmt: skip
def test_L25_an_answer_expires_by_hours_of_days_with_a_session(
    tmp_path: Path, calendar: MarketCalendar, stored: str, asked: str, hit: bool
) -> None:
    clock = SteppedClock(ny(stored))
    made = cache(tmp_path, clock, calendar)
    made.put(KEY, kept(clock.now()), {})
    clock.set(ny(asked))
    assert (made.get(KEY) is not None) is hit
    assert made.get(KEY, any_age=True) == kept(ny(stored)), "in a replay any age is good"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"", lambda raw: raw[: len(raw) // 2], lambda raw: b"[]",
        lambda raw: raw.replace(b"words", b"WORDS"),
        lambda raw: raw.replace(KEY.encode(), b"cd" + KEY[2:].encode()), lambda raw: b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_damaged_answer_is_none(tmp_path: Path, calendar: MarketCalendar, spoil: Callable[[bytes], bytes]) -> None:
    clock = SteppedClock(ny("2026-11-24T12:00"))
    made = cache(tmp_path, clock, calendar)
    made.put(KEY, kept(clock.now()), {})
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(spoil(path.read_bytes()))
    assert made.get(KEY) is None and made.get(KEY, any_age=True) is None


def test_what_was_asked_before_costs_nothing_and_asks_nobody(open_desk: Open) -> None:
    desk = open_desk()
    first, again = desk.answered(), desk.answered()
    assert again.cached and again.cost_usd == 0 and (again.text, again.model, again.usage) == (
        first.text, first.model, first.usage)  # fmt: skip
    assert desk.model.requests == 1 and desk.budget.used_today == desk.billed[0]


@pytest.mark.parametrize(
    "change",
    [{"text": "other"}, {"system": "Other."}, {"data_sha256": "1" * 64}, {"session": date(2026, 11, 20)},
     {"max_output_tokens": 500}, {"schema": {"type": "object"}}],
)  # fmt: skip
def test_L24_another_prompt_data_or_session_is_another_question(open_desk: Open, change: dict[str, object]) -> None:
    desk = open_desk()
    desk.answered("one")
    assert not desk.answered(**{"text": "one", **change}).cached  # type: ignore[arg-type]
    assert desk.model.requests == 2


def test_L24_another_model_is_another_question(open_desk: Open) -> None:
    desk = open_desk()
    desk.answered()
    found = desk.door(llm_settings(model="claude-opus-5-5")).ask(prompt())
    assert not isinstance(found, Skipped) and not found.cached and found.model.startswith("claude-opus-5-5")


def test_a_replay_answers_from_the_cache_alone_at_no_cost(open_desk: Open) -> None:
    desk = open_desk()
    first = desk.answered()
    spent, requests = desk.budget.used_today, desk.model.requests
    desk.clock.advance(timedelta(days=90))
    door = desk.door(key=None, replay=True)
    again, other = door.ask(prompt()), door.ask(prompt("never asked"))
    assert not isinstance(again, Skipped) and again.text == first.text and again.cost_usd == 0
    assert isinstance(other, Skipped) and other.code == "LLM_REPLAY_MISS"
    assert desk.model.requests == requests and len(desk.lines("reserved")) == 1 and spent > 0


def test_a_cache_that_is_off_keeps_and_gives_nothing(open_desk: Open) -> None:
    desk = open_desk(settings=llm_settings(cache__enabled=False))
    assert not desk.answered().cached and not desk.answered().cached
    assert desk.model.requests == 2 and not (desk.home.cache / "llm").exists()


def test_a_bad_end_is_not_kept(open_desk: Open) -> None:
    desk = open_desk("llm:truncated", "llm:refusal")
    assert [desk.skipped().code, desk.skipped().code] == ["LLM_TRUNCATED", "LLM_REFUSED"]
    assert not desk.answered().cached


def test_a_cache_that_cannot_be_written_is_no_trouble(open_desk: Open) -> None:
    desk = open_desk()
    desk.home.cache.mkdir(parents=True)
    (desk.home.cache / "llm").write_text("a file")
    assert not desk.answered().cached
