"""Locks: the journal is the truth, the file a view; dated, or a person's; what cannot be read refuses entries."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from cognitive.breaker_rules import CODES, NAMES, Trip
from cognitive.circuit_breakers import (
    FILE,
    UNREADABLE,
    Board,
    Breakers,
    BreakerStatus,
    get_breaker_status,
    read_view,
)
from config.settings_schema import Settings
from core.clock import SteppedClock
from core.errors import StateCorrupt
from core.journal import Journal, Record
from tests.fakes.scans import calendar_2024

NOW = datetime(2024, 3, 5, 15, 0, tzinfo=UTC)
TODAY = date(2024, 3, 5)
STREAK = Trip(name="loss_streak", scope="all", what="", reason="5 losses in a row", numbers={"losses": 5})
SYMBOL = Trip(name="loss_concentration", scope="symbol", what="KO", reason="KO lost 4 times")


class Desk:
    """A home with breakers, and as many processes on it as a test wants."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        self.clock = SteppedClock(NOW)
        self.breakers = self.process()

    def process(self) -> Breakers:
        journal = Journal(self.state / "hash_chain.jsonl", self.clock, run_id="test")
        return Breakers(journal, self.state, calendar_2024(), Settings().cognitive.circuit_breakers)

    def kinds(self) -> list[str]:
        return [r.kind for r in Journal(self.state / "hash_chain.jsonl", self.clock).records()]

    def names(self, session: date = TODAY) -> list[str]:
        return [lock.lock_id for lock in self.process().board().standing(session)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_trip_is_a_dated_lock_in_journal_and_file_with_reason_numbers_scope_and_end(desk: Desk) -> None:
    (lock,) = desk.breakers.trip([STREAK], TODAY)
    assert (lock.code, lock.session, lock.until, lock.by) == ("BREAKER_LOSS_STREAK", TODAY, None, "rule")
    assert lock.numbers == {"losses": 5} and lock.at == NOW
    view = json.loads((desk.state / FILE).read_bytes())
    assert view["schema_version"] == 1
    (row,) = view["locks"]
    assert (row["id"], row["scope"], row["reason"], row["until"]) == ("loss_streak", "all", "5 losses in a row", None)
    assert desk.kinds() == ["breaker_tripped"]


def test_a_standing_breaker_trips_once_whoever_sees_it_first(desk: Desk) -> None:
    other = desk.process()
    other.board()
    assert len(desk.breakers.trip([STREAK], TODAY)) == 1
    assert other.trip([STREAK], TODAY) == [] and desk.breakers.trip([STREAK], TODAY) == []
    assert desk.kinds() == ["breaker_tripped"]


@pytest.mark.parametrize("name", NAMES)
def test_how_long_it_holds_is_what_the_settings_say(desk: Desk, name: str) -> None:
    (lock,) = desk.breakers.trip([replace(STREAK, name=name)], TODAY)
    after = getattr(Settings().cognitive.circuit_breakers.sessions, name)
    if after is None:
        assert lock.until is None and lock.stands(date(2030, 1, 2))
        return
    assert lock.until == calendar_2024().offset(TODAY, after)
    assert lock.until is not None and lock.stands(lock.until)
    assert not lock.stands(calendar_2024().next_session(lock.until))


def test_what_has_ended_is_cleared_in_the_journal_so_that_its_evidence_begins_anew(desk: Desk) -> None:
    desk.breakers.trip([replace(STREAK, name="daily_drawdown")], TODAY)
    desk.breakers.end_expired(date(2024, 3, 6))
    assert desk.names(date(2024, 3, 6)) == ["daily_drawdown"]
    desk.breakers.end_expired(date(2024, 3, 7))
    board = desk.process().board()
    assert board.locks == {} and board.since("daily_drawdown") == 2 == board.seq
    assert desk.kinds() == ["breaker_tripped", "breaker_cleared"]


def test_one_that_has_ended_does_not_keep_it_from_tripping_again(desk: Desk) -> None:
    drawdown = replace(STREAK, name="daily_drawdown")
    desk.breakers.trip([drawdown], TODAY)
    (again,) = desk.breakers.trip([drawdown], date(2024, 3, 7))
    assert again.session == date(2024, 3, 7)
    assert desk.kinds() == ["breaker_tripped", "breaker_cleared", "breaker_tripped"]


def test_a_person_resumes_a_breaker_or_one_lock_of_it(desk: Desk) -> None:
    second = replace(SYMBOL, what="PEP")
    desk.breakers.trip([SYMBOL, second, STREAK], TODAY)
    assert desk.names() == ["loss_streak", "loss_concentration:symbol:KO", "loss_concentration:symbol:PEP"]
    assert [x.what for x in desk.process().clear("loss_concentration:symbol:KO", reason="x", by="person")] == ["KO"]
    assert desk.names() == ["loss_streak", "loss_concentration:symbol:PEP"]
    assert [x.what for x in desk.process().clear("loss_concentration", reason="x", by="person")] == ["PEP"]
    assert desk.process().clear("loss_concentration", reason="x", by="person") == []
    assert desk.names() == ["loss_streak"]
    assert read_view(desk.state) is not None and len(json.loads((desk.state / FILE).read_bytes())["locks"]) == 1


def test_P55_a_breaker_outlives_the_process_and_the_removal_of_its_file(desk: Desk) -> None:
    desk.breakers.trip([STREAK], TODAY)
    (desk.state / FILE).unlink()
    assert desk.names() == ["loss_streak"]
    view = read_view(desk.state)
    assert view is not None and [row["id"] for row in view["locks"]] == ["loss_streak"], "written anew"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"schema_version": 1}', b'{"schema_version": 1, "seq": 0, "locks": []}', b"\xff\xfe",
     b'{"schema_version": 1, "seq": 1, "locks": [{"id": "x"}]}'],
)  # fmt: skip
def test_a_damaged_or_edited_view_is_written_anew_from_the_journal(desk: Desk, content: bytes) -> None:
    desk.breakers.trip([STREAK], TODAY)
    right = (desk.state / FILE).read_bytes()
    (desk.state / FILE).write_bytes(content)
    assert desk.names() == ["loss_streak"]
    assert (desk.state / FILE).read_bytes() == right


def test_a_damaged_view_without_any_lock_is_mended_too(desk: Desk) -> None:
    (desk.state / FILE).write_bytes(b"{")
    assert desk.names() == []
    view = read_view(desk.state)
    assert view is not None and view["locks"] == []


def test_a_view_of_a_newer_version_refuses_and_is_left_alone(desk: Desk) -> None:
    newer = b'{"schema_version": 2, "seq": 0, "locks": []}'
    (desk.state / FILE).write_bytes(newer)
    with pytest.raises(StateCorrupt) as refused:
        desk.breakers.board()
    assert refused.value.code == "STATE_NEWER" and (desk.state / FILE).read_bytes() == newer


def test_a_record_that_cannot_be_read_refuses_and_half_a_fold_is_never_believed(desk: Desk) -> None:
    desk.breakers.trip([STREAK], TODAY)
    journal = Journal(desk.state / "hash_chain.jsonl", desk.clock)
    journal.append("breaker_tripped", {"breaker": "loss_streak", "scope": "everything"})
    for _ in range(2):
        with pytest.raises(StateCorrupt):
            desk.breakers.board()


def test_whatever_a_listener_raises_no_lock_is_lost(desk: Desk) -> None:
    class Stumbles:
        """Raises at the first record that it hears, once."""

        stumbled = False

        def begin(self) -> None: ...

        def add(self, record: Record) -> None:
            if not self.stumbled:
                self.stumbled = True
                raise ZeroDivisionError("a bug")

    journal = Journal(desk.state / "hash_chain.jsonl", desk.clock)
    journal.append("started", {})
    desk.breakers.trip([STREAK], TODAY)
    late = Breakers(journal, desk.state, calendar_2024(), Settings().cognitive.circuit_breakers, Stumbles())
    with pytest.raises(ZeroDivisionError):
        late.look()
    assert [lock.name for lock in late.look().standing(TODAY)] == ["loss_streak"]


def test_repeats_in_the_journal_change_nothing() -> None:
    board, body = Board(), {
        "breaker": "loss_streak", "scope": "all", "what": "", "code": CODES["loss_streak"], "reason": "r",
        "numbers": {}, "session": "2024-03-05", "until": None, "by": "rule",
    }  # fmt: skip
    board.add("breaker_cleared", {"lock": "loss_streak"}, 1, NOW)
    assert board.cleared == {}
    board.add("breaker_tripped", body, 2, NOW)
    board.add("breaker_tripped", {**body, "reason": "again"}, 3, NOW + timedelta(hours=1))
    assert board.locks["loss_streak"].reason == "r" and board.locks["loss_streak"].seq == 2
    board.add("scan_run", {}, 4, NOW)
    assert board.seq == 3


def test_numbers_that_json_has_no_word_for_do_not_keep_a_breaker_from_tripping(desk: Desk) -> None:
    desk.breakers.trip([replace(STREAK, numbers={"z": float("-inf")})], TODAY)
    assert desk.process().board().locks["loss_streak"].numbers == {"z": "-inf"}


# ---------------------------------------------------------------- the operator's one-liner
@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    (tmp_path / "state").mkdir()
    return tmp_path


def test_the_one_liner_says_something_useful_on_a_fresh_home(at_home: Path) -> None:
    found = get_breaker_status()
    assert (found["state"], found["entries"], found["code"]) == ("ok", "allowed", "OK")
    text = str(found)
    assert "no journal yet" in text and all(name in text for name in NAMES)


def test_the_one_liner_names_which_breaker_why_and_until_when(at_home: Path) -> None:
    made = Desk(at_home)
    made.breakers.trip([STREAK], TODAY)
    found = get_breaker_status()
    assert (found["state"], found["entries"]) == ("tripped", "refused")
    assert found["breakers"]["loss_streak"]["locks"][0]["reason"] == "5 losses in a row"
    text = str(found)
    assert "TRIPPED  loss_streak: 5 losses in a row" in text and "a person resumes it" in text
    assert "breakers.py resume" in text and len(text.splitlines()) > len(NAMES)


def test_a_lock_of_one_symbol_refuses_in_part(at_home: Path) -> None:
    forever = replace(SYMBOL, name="regime_stuck")
    Desk(at_home).breakers.trip([forever], TODAY)
    assert get_breaker_status()["entries"] == "refused in part"


def test_the_one_liner_tells_the_time_of_a_replay_by_the_replay(at_home: Path) -> None:
    """Its clock stands where it ended: a lock of that week stands, years later."""
    made = Desk(at_home)
    made.breakers.trip([replace(STREAK, name="weekly_drawdown")], TODAY)
    assert get_breaker_status()["state"] == "ok", "by today's date it is long over"
    (at_home / "state" / "replay.json").write_text("{}")
    assert get_breaker_status()["state"] == "tripped"


@pytest.mark.parametrize("damage", ["journal", "newer"])
def test_the_one_liner_says_when_the_state_cannot_be_read_and_that_entries_are_refused(
    at_home: Path, damage: str
) -> None:
    if damage == "journal":
        (at_home / "state" / "hash_chain.jsonl").write_text("garbage\n" * 3)
    else:
        (at_home / "state" / FILE).write_text('{"schema_version": 99}')
    found = get_breaker_status()
    assert (found["state"], found["entries"]) == ("unknown", "refused") and isinstance(found, BreakerStatus)
    assert "cannot be read" in str(found)


def test_off_in_the_settings_is_said(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = at_home / "off.yaml"
    file.write_text("cognitive:\n  circuit_breakers:\n    enabled: false\n")
    monkeypatch.setenv("KOBE_CONFIG", str(file))
    Desk(at_home).breakers.trip([STREAK], TODAY)
    found = get_breaker_status()
    assert (found["state"], found["entries"], found["code"]) == ("off", "allowed", "BREAKERS_OFF")
    assert UNREADABLE not in str(found)
