"""The watchdog on a stepped clock: when it trips and when it must not, what it cancels, and in which order."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.clock import SteppedClock
from core.domain import OrderIntent, Purpose, Tif
from core.errors import BrokerDown, StateLocked
from core.journal import Journal
from execution.heartbeat import BEAT_FILE, GAVE_UP, Heartbeat, read_beat
from execution.ledger import intent_body
from execution.protection import repair
from execution.watchdog import GUARD_S, HOMELESS_S, PAUSE_MOST_S, POLL_S, VISIBLE_AFTER, Follower, Verdict, Watchdog
from tests.fakes.trading import AAA, TODAY, World, book, entry, sell, world

LIMIT_S = 8.0


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@dataclass
class Watched:
    """A runner's home, its broker, and the watchdog beside it. `acts` is what happened, in order."""

    world: World
    beat: Heartbeat
    dog: Watchdog
    acts: list[str]
    gone: list[bool] = field(default_factory=lambda: [False])

    @property
    def clock(self) -> SteppedClock:
        return self.world.clock

    def look(self, seconds: float, *, beating: bool = False, step_s: float = POLL_S) -> Verdict:
        """Poll for so long; the last verdict."""
        verdict = self.dog.step()
        for _ in range(round(seconds / step_s)):
            self.clock.sleep(step_s)
            if beating:
                self.beat.pulse()
            verdict = self.dog.step()
        return verdict

    def out(self, intent: OrderIntent | None = None) -> OrderIntent:
        """A working order, as the desk left it."""
        intent = intent or entry(tif=Tif.DAY)
        self.world.broker.plan[intent.client_order_id] = 0
        self.world.desk.send(intent, book())
        return intent

    def open_ids(self) -> list[str]:
        return [order.client_order_id for order in self.world.broker.open_orders()]

    def kinds(self) -> list[str]:
        return self.world.kinds()


def watched(root: Path, *, token: str | None = None, trip: Callable[[str], None] | None = None) -> Watched:
    w = world(root)
    state = root / "state"
    state.mkdir(exist_ok=True)
    acts: list[str] = []

    def halt(why: str) -> None:
        acts.append("trip")
        w.halt.active = True

    real = w.broker.cancel

    def cancel(order_id: str) -> None:
        acts.append("cancel")
        real(order_id)

    w.broker.cancel = cancel
    gone = [False]
    beat = Heartbeat(state / BEAT_FILE, w.clock)
    beat("running a scan")
    dog = Watchdog(
        beats=state / BEAT_FILE, ledger=Follower(Journal(w.journal.path, w.clock)), open_broker=lambda: w.broker,
        journal=Journal(w.journal.path, w.clock), aside=Journal(state / "emergency_chain.jsonl", w.clock),
        clock=w.clock, stalled_after_s=LIMIT_S, trip=trip or halt, token=token, gone=lambda: gone[0],
    )  # fmt: skip
    return Watched(w, beat, dog, acts, gone)


# ---------------------------------------------------------------- when
def test_a_runner_that_beats_is_left_alone_for_ever(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    assert w.look(600, beating=True) is Verdict.WATCHING and w.acts == []


@pytest.mark.parametrize(("seconds", "tripped"), [(LIMIT_S - POLL_S, False), (LIMIT_S, True)])
def test_p20_it_trips_at_the_limit_and_not_a_look_before(tmp_path: Path, seconds: float, tripped: bool) -> None:
    w = watched(tmp_path)
    intent = w.out()
    w.look(seconds)
    assert (w.acts[:2] == ["trip", "cancel"]) is tripped
    assert (intent.client_order_id in w.open_ids()) is not tripped


def test_p20_first_the_switch_then_the_cancel_then_the_record(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    kinds_at: list[list[str]] = []
    real = w.world.broker.cancel

    def cancel(order_id: str) -> None:
        kinds_at.append(w.kinds())
        assert w.world.halt.active, "cancelled before the switch was there"
        real(order_id)

    w.world.broker.cancel = cancel
    w.look(LIMIT_S + 1)
    assert "watchdog_tripped" not in kinds_at[0]
    told = [k for k in w.kinds() if k.startswith(("watchdog", "cancel"))]
    assert told == ["watchdog_tripped", "cancel_requested", "watchdog_cancelled"]


def test_it_does_not_trip_with_nothing_out_however_long_a_fetch_takes(tmp_path: Path) -> None:
    w = watched(tmp_path)
    assert w.look(900) is Verdict.WATCHING and w.acts == []


def test_it_does_not_trip_for_resting_protection_nor_cancel_it(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.world.desk.execute(entry(), book())
    repair(w.world.desk, book(), on=TODAY)
    assert len(w.open_ids()) == 1 and w.look(900) is Verdict.WATCHING and w.acts == []
    extra = w.out(sell(purpose=Purpose.EXIT))  # refused: the shares are claimed by the stop
    assert extra.client_order_id not in w.open_ids()
    w.world.broker.held[AAA] += 1
    w.world.journal.append("order_intended", intent_body(entry("BBB", tif=Tif.DAY)))
    w.beat.pulse()
    w.look(LIMIT_S + VISIBLE_AFTER.total_seconds() + PAUSE_MOST_S)
    assert w.acts == ["trip"] and len(w.open_ids()) == 1, "the stop still rests"


def test_an_intent_without_a_reply_counts_as_out(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.world.journal.append("order_intended", intent_body(entry()))
    w.look(LIMIT_S)
    assert w.acts == ["trip"]


def test_a_clean_stop_ends_it_without_a_trip(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    w.look(LIMIT_S - 1)
    w.beat(w.beat.last_word)
    w.gone[0] = True
    assert w.look(0) is Verdict.CLEAN and w.acts == []


def test_a_runner_that_gave_up_with_orders_out_is_no_clean_stop(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    w.beat(GAVE_UP)
    w.gone[0] = True
    assert w.look(LIMIT_S + 1) is Verdict.ALONE and w.acts == ["trip", "cancel"]


@pytest.mark.parametrize("sleep", [timedelta(hours=3), timedelta(days=40)])
def test_a_laptop_that_slept_is_no_stall(tmp_path: Path, sleep: timedelta) -> None:
    """Both processes slept; each look adds at most two polls, so the runner has its time to beat after waking."""
    w = watched(tmp_path)
    w.out()
    for _ in range(4):
        w.look(5, beating=True)
        w.clock.advance(sleep)
        assert w.dog.step() is Verdict.WATCHING
        w.look(2)
    assert w.acts == []


def test_a_clock_that_is_set_back_or_forward_is_no_stall(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    for hours in (-5, 7, -30):
        w.clock._now += timedelta(hours=hours)  # the wall clock alone
        assert w.look(3, beating=True) is Verdict.WATCHING
    assert w.acts == []


def test_a_runner_killed_and_restarted_in_time_is_no_stall(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    w.look(1, beating=True)
    w.gone[0] = True
    w.look(LIMIT_S - 2)
    again = Heartbeat(tmp_path / "state" / BEAT_FILE, w.clock)  # its counter begins at 1 again
    again("starting")
    w.beat = again
    assert w.look(60, beating=True) is Verdict.WATCHING and w.acts == []
    again.watched_by("other")
    assert w.look(0) is Verdict.WATCHING, "watching by hand: no other watchdog replaces it"


def test_a_runner_killed_with_orders_out_and_not_restarted_is_a_stall(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    w.look(1, beating=True)
    w.gone[0] = True
    assert w.look(LIMIT_S + 1) is Verdict.ALONE and w.open_ids() == []
    assert [r.body["code"] for r in w.world.journal.kinds("watchdog_tripped")] == ["RUNNER_GONE"]


def test_a_runner_killed_with_nothing_out_ends_it_without_a_trip(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.look(2, beating=True)
    w.gone[0] = True
    assert w.look(1) is Verdict.ALONE and w.acts == []


def test_a_newer_watchdog_of_a_newer_runner_takes_over(tmp_path: Path) -> None:
    w = watched(tmp_path, token="mine")
    w.beat.watched_by("mine")
    assert w.look(3, beating=True) is Verdict.WATCHING
    again = Heartbeat(tmp_path / "state" / BEAT_FILE, w.clock)
    again("starting")
    assert w.look(1) is Verdict.WATCHING, "until the new one has its own"
    again.watched_by("theirs")
    assert w.look(0) is Verdict.SUCCEEDED


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"pid": "x"}'])
def test_a_beat_that_cannot_be_read_is_no_progress(tmp_path: Path, damage: bytes) -> None:
    w = watched(tmp_path)
    w.out()
    w.look(1)
    (tmp_path / "state" / BEAT_FILE).write_bytes(damage)
    assert read_beat(tmp_path / "state" / BEAT_FILE) is None
    w.look(LIMIT_S)
    assert w.acts == ["trip", "cancel"]


def test_an_overloaded_machine_that_starves_the_watchdog_counts_little(tmp_path: Path) -> None:
    """A look that comes after 5 s instead of 0.5 s says little: the runner may have had no processor either."""
    w = watched(tmp_path)
    w.out()
    w.look(35, step_s=5.0)
    assert w.acts == []
    w.look(5, step_s=5.0)
    assert w.acts[:1] == ["trip"]


# ---------------------------------------------------------------- what
def test_entries_and_exits_are_cancelled_and_nothing_else(tmp_path: Path) -> None:
    w = watched(tmp_path)
    broker: Any = w.world.broker
    broker.held[AAA] = 9
    entering = entry("BBB", tif=Tif.DAY)
    leaving = {p: replace(sell(purpose=p), tif=Tif.DAY) for p in (Purpose.EXIT, Purpose.CLOSE, Purpose.PROTECT)}
    by_hand = replace(leaving[Purpose.EXIT], decision_id="by-hand")
    for intent in (entering, *leaving.values(), by_hand):
        broker.plan[intent.client_order_id] = 0
        broker.submit(SimpleNamespace(intent=intent))
    for intent in (entering, leaving[Purpose.EXIT]):
        w.world.journal.append("order_intended", intent_body(intent))
    order = broker.orders.pop(by_hand.client_order_id)
    broker.orders["by-hand-sell-exit-1"] = replace(order, client_order_id="by-hand-sell-exit-1")
    w.look(LIMIT_S + 2)
    close, protect = leaving[Purpose.CLOSE].client_order_id, leaving[Purpose.PROTECT].client_order_id
    assert set(w.open_ids()) == {close, protect, "by-hand-sell-exit-1"}


def test_a_filled_order_that_is_refused_its_cancel_is_no_trouble(tmp_path: Path) -> None:
    w = watched(tmp_path)
    intent = w.out()
    real = w.world.broker.cancel

    def too_late(order_id: str) -> None:
        w.world.broker.fill(intent.client_order_id, 1)
        real(order_id)

    w.world.broker.cancel = too_late
    w.look(LIMIT_S + 3)
    assert w.open_ids() == [] and "watchdog_cancelled" in w.kinds()


def test_an_order_that_becomes_visible_later_is_cancelled_then(tmp_path: Path) -> None:
    """B15: accepted, and invisible to look-up and listing for a while."""
    w = watched(tmp_path)
    intent = w.out()
    broker: Any = w.world.broker
    listing, find = broker.open_orders, broker.find
    broker.open_orders, broker.find = (lambda: ()), (lambda cid: None)
    w.look(LIMIT_S + 5)
    assert w.acts == ["trip"] and w.dog.step() is Verdict.STALLED
    broker.open_orders, broker.find = listing, find
    w.look(PAUSE_MOST_S)
    assert w.acts == ["trip", "cancel"] and intent.client_order_id not in w.open_ids()


def test_an_order_that_only_the_look_up_knows_is_cancelled_and_asked_again_until_it_is_over(tmp_path: Path) -> None:
    """The listing lags behind, and the first cancel is refused."""
    w = watched(tmp_path)
    intent = w.out()
    broker: Any = w.world.broker
    refused = [2]
    broker.open_orders = lambda: ()

    def cancel(order_id: str) -> None:
        if refused[0]:
            refused[0] -= 1
            raise BrokerDown("busy")
        broker._end(intent.client_order_id, "canceled")

    broker.cancel = cancel
    w.look(LIMIT_S + 5)
    assert broker.orders[intent.client_order_id].status == "canceled" and "watchdog_cancelled" in w.kinds()


def test_an_order_the_broker_never_had_is_waited_for_no_longer_than_its_visibility(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.world.journal.append("order_intended", intent_body(entry()))
    w.look(LIMIT_S + VISIBLE_AFTER.total_seconds() - 10)
    assert "watchdog_cancelled" not in w.kinds()
    w.look(PAUSE_MOST_S + 10)
    assert "watchdog_cancelled" in w.kinds()


def test_what_comes_after_everything_was_gone_is_cancelled_too(tmp_path: Path) -> None:
    """The process that stood still wakes up with a request in hand."""
    w = watched(tmp_path)
    w.out()
    w.look(LIMIT_S + 2)
    assert w.open_ids() == []
    late = entry("BBB", tif=Tif.DAY)
    w.world.broker.plan[late.client_order_id] = 0
    w.world.broker.submit(SimpleNamespace(intent=late))
    w.look(GUARD_S)
    assert w.open_ids() == []


def test_a_runner_that_wakes_up_is_watched_again_and_stays_halted(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    w.look(LIMIT_S + 2)
    assert w.look(3, beating=True) is Verdict.WATCHING and not w.dog.tripped and w.dog.ever_tripped
    assert "watchdog_stood_down" in w.kinds() and w.world.halt.active
    w.world.desk.settle()
    assert w.look(600) is Verdict.WATCHING, "settled: nothing is out any more"
    assert w.acts.count("trip") == 1


# ---------------------------------------------------------------- when things fail
def test_an_unreachable_broker_is_asked_again_with_growing_pauses_until_it_answers(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    broker: Any = w.world.broker
    real, asked = broker.open_orders, list[float]()

    def down() -> Any:
        asked.append(w.clock.monotonic())
        raise BrokerDown("no route")

    broker.open_orders = down
    w.look(LIMIT_S + 300)
    pauses = [b - a for a, b in itertools.pairwise(asked)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0] and max(pauses) <= PAUSE_MOST_S + POLL_S and w.acts == ["trip"]
    broker.open_orders = real
    w.look(PAUSE_MOST_S + POLL_S)
    assert w.acts == ["trip", "cancel"] and w.open_ids() == []


def test_a_broker_that_cannot_even_be_opened_is_tried_again(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    tries = list[int]()

    def open_broker() -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise BrokerDown("the venue does not start")
        return w.world.broker

    w.dog._open_broker = open_broker
    w.look(LIMIT_S + 5)
    assert w.open_ids() == [] and len(tries) == 3


def test_a_switch_that_cannot_be_written_keeps_no_order_alive(tmp_path: Path) -> None:
    def refuse(why: str) -> None:
        raise PermissionError(30, "Read-only file system")

    w = watched(tmp_path, trip=refuse)
    w.out()
    w.look(LIMIT_S + 1)
    assert w.acts == ["cancel"] and w.open_ids() == []


def test_a_journal_locked_by_the_process_that_stands_still_is_left_for_the_other_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = watched(tmp_path)
    w.out()

    def locked(*_: Any, **__: Any) -> Any:
        raise StateLocked("held")

    monkeypatch.setattr(w.dog._journal, "append", locked)
    w.look(LIMIT_S + 1)
    assert w.open_ids() == [] and "watchdog_tripped" not in w.kinds()
    aside = Journal(tmp_path / "state" / "emergency_chain.jsonl", w.clock)
    assert [r.kind for r in aside.records()] == ["watchdog_tripped", "cancel_requested", "watchdog_cancelled"]


def test_a_journal_that_cannot_be_read_counts_as_something_out_and_ours_are_found_by_their_ids(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    w.look(1)
    w.world.journal.path.write_bytes(b"damaged\n")
    w.look(LIMIT_S + 1)
    assert w.acts == ["trip", "cancel"] and w.open_ids() == []


def test_the_record_says_who_stood_still_for_how_long(tmp_path: Path) -> None:
    w = watched(tmp_path)
    w.out()
    w.look(LIMIT_S)
    body = next(w.world.journal.kinds("watchdog_tripped")).body
    assert body["code"] == "RUNNER_STALLED" and body["standing_s"] == LIMIT_S and f"pid {os.getpid()}" in body["runner"]
    assert "running a scan" in body["why"]


# ---------------------------------------------------------------- the home is deleted
def homeless(root: Path, *, elsewhere: bool = True) -> tuple[Watched, list[bool]]:
    made, there = watched(root), [True]
    made.dog._home_is_there, made.dog._elsewhere = (lambda: there[0]), elsewhere
    return made, there


@pytest.mark.parametrize("out", [True, False])
def test_a_home_that_is_deleted_ends_it_and_what_is_out_is_cancelled(tmp_path: Path, out: bool) -> None:
    made, there = homeless(tmp_path)
    if out:
        made.out()
    assert made.look(1.0, beating=True) is Verdict.WATCHING
    there[0] = False
    assert made.look(LIMIT_S - POLL_S) is Verdict.WATCHING, "a disk may come back"
    assert made.open_ids() != [] if out else made.open_ids() == []
    assert made.look(2.0) is Verdict.HOMELESS
    assert made.open_ids() == [] and made.acts == (["cancel"] if out else []), "no switch: there is no folder for it"


def test_a_home_that_comes_back_is_watched_on(tmp_path: Path) -> None:
    made, there = homeless(tmp_path)
    made.look(1.0, beating=True)
    there[0] = False
    made.look(LIMIT_S - POLL_S)
    there[0] = True
    assert made.look(1.0, beating=True) is Verdict.WATCHING
    there[0] = False
    assert made.look(LIMIT_S - POLL_S) is Verdict.WATCHING, "counted from the new beginning"


def test_a_home_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    made, there = homeless(tmp_path)
    there[0] = False
    assert made.look(10 * LIMIT_S) is Verdict.WATCHING


@pytest.mark.parametrize(("seconds", "ended"), [(HOMELESS_S - 2, False), (HOMELESS_S + 2, True)])
def test_with_the_home_gone_a_silent_broker_is_asked_for_a_bounded_time(
    tmp_path: Path, seconds: float, ended: bool
) -> None:
    made, there = homeless(tmp_path)
    made.out()
    made.look(1.0, beating=True)
    there[0] = False

    def down() -> Any:
        raise BrokerDown("no answer")

    made.world.broker.open_orders = down
    verdict = made.look(LIMIT_S + seconds)
    assert (verdict is Verdict.HOMELESS) is ended


def test_an_account_that_lay_in_the_home_is_not_made_anew(tmp_path: Path) -> None:
    made, there = homeless(tmp_path, elsewhere=False)
    made.out()
    made.look(1.0, beating=True)
    there[0] = False
    assert made.look(LIMIT_S + 1) is Verdict.HOMELESS and made.acts == []
