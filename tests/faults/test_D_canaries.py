"""The morning's look at the data: suspicion, second vendor, quarantine and release, on two vendors over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from config.settings_schema import Settings
from core import cli, logs
from core.bars_io import BarColumns, from_day, to_day
from core.clock import SteppedClock
from core.domain import Symbol
from core.env import Keys
from core.errors import DataError, Exit, StateCorrupt, StateLocked
from core.journal import Journal
from core.market_calendar import NEW_YORK, MarketCalendar, market_calendar
from data.providers.alpaca_eod import AlpacaProvider
from data.providers.multi_source import MultiSource, ProviderStats
from data.providers.polygon_eod import PolygonProvider
from data.quality import clean, session_days
from data.quality.detect import suspicions
from data.quality.quarantine import FILE, Quarantine
from data.quality.quorum import Comparison, compare, judged, sample
from data.store import BarStore
from data.universe import Universe
from data.update import update
from execution.scheduler import DueRun
from scripts import canaries, quarantine, wiring
from scripts.trading import ScanPlanner
from tests.fakes.corruptions import KINDS, Case
from tests.fakes.grounds import a_context
from tests.fakes.vendors import FakeVendors, price
from tests.portfolio.market import weekdays

FRIDAY = date(2026, 3, 13)
NAMES = tuple(Symbol(f"S{i}") for i in range(30))


class Morning:
    """Two vendors that tell the same unless a test says otherwise, 25 sessions in the store, a context with keys."""

    def __init__(self, root: Path, calendar: MarketCalendar) -> None:
        self.root = root
        self.clock = SteppedClock(datetime(2026, 3, 16, 8, 0, tzinfo=NEW_YORK))
        self.calendar = calendar
        self.sessions = self.calendar.sessions_between(date(2026, 2, 2), FRIDAY)[-25:]
        self.ours = FakeVendors(list(self.sessions), [str(n) for n in NAMES])
        self.theirs = FakeVendors(list(self.sessions), [str(n) for n in NAMES])
        bounds: dict[str, Any] = {"calendar": self.calendar, "deadline_s": 20.0}
        self.polygon = PolygonProvider("key", self.ours.url, self.clock, **bounds)
        self.alpaca = AlpacaProvider("id", "secret", self.theirs.url, self.clock, **bounds)
        self.context = self.started(self.polygon, self.alpaca)

    def started(self, *vendors: Any, settings: Settings | None = None) -> wiring.Context:
        context = a_context(self.root, calendar=self.calendar)
        context.clock, context.keys = self.clock, Keys("key", "id", "secret", None)
        context.settings = settings or context.settings
        stats = ProviderStats(context.home.state / "provider_stats.json", self.clock)
        context.multi = MultiSource(vendors, stats, self.clock)
        return context

    def fetch(self) -> None:
        multi = MultiSource([self.polygon], ProviderStats(self.root / "stats.json", self.clock), self.clock)
        store = lambda source: BarStore(self.root / "cache", source)  # noqa: E731
        update(store, multi, NAMES, self.sessions, self.calendar, self.clock, cache=self.root / "cache")

    def data(self, context: wiring.Context | None = None) -> wiring.MarketData:
        context = context or self.context
        context.stores.clear()
        universe = Universe(NAMES, dict.fromkeys(NAMES, "X"), "0", ())
        found = wiring._fresh(context, "polygon", universe, FRIDAY)
        assert found is not None
        return canaries.believed(context, found)

    @property
    def place(self) -> Quarantine:
        return Quarantine(self.context.home.state)

    def events(self, name: str, file: str = "events") -> list[dict[str, Any]]:
        path = self.root / "logs" / f"{file}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["event"] == name]


def changed(symbol: str, factor: float, on: date = FRIDAY) -> Callable[[str, date], float]:
    return lambda s, day: price(s, day) * (factor if (s, day) == (symbol, on) else 1.0)


@pytest.fixture(scope="module")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> MarketCalendar:
    return market_calendar(tmp_path_factory.mktemp("calendar"))


@pytest.fixture
def morning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calendar: MarketCalendar) -> Iterator[Morning]:
    monkeypatch.setattr(logs, "_target", logs._target)
    monkeypatch.setattr("core.market_calendar.market_calendar", lambda: calendar)
    made = Morning(tmp_path, calendar)
    logs.configure(made.context.home, made.clock, run_id="r", mode="paper")
    yield made
    made.ours.stop()
    made.theirs.stop()


# ---------------------------------------------------------------- both vendors
def test_a_clean_morning_asks_once_and_refuses_nobody(morning: Morning) -> None:
    morning.fetch()
    assert morning.data().quarantined == {}
    (asked,) = [path for path in morning.theirs.seen if path.startswith("/v2/stocks/bars")]
    assert asked.count("%2C") + asked.count(",") >= 29, "the whole universe in one request"
    assert morning.data().quarantined == {}
    assert len([p for p in morning.theirs.seen if p.startswith("/v2/stocks/bars")]) == 1, "once per session"
    (told,) = morning.events("quorum_looked")
    assert (told["code"], told["compared"], told["differ"], told["second"]) == ("OK", 30, 0, "alpaca")


def test_D26_a_name_outside_the_sample_is_seen_by_the_second_vendor_when_it_tells_of_all(morning: Morning) -> None:
    """3 % off: no suspicion of its own. With a second vendor that tells of everybody it is seen whoever it is."""
    outside = sorted({str(n) for n in NAMES} - set(sample([str(n) for n in NAMES], FRIDAY, 20)))[0]
    morning.ours.price = changed(outside, 1.03)
    morning.fetch()
    few = Settings.model_validate({"data": {"quorum_requests": 0}})
    assert morning.data(morning.started(morning.polygon, morning.alpaca, settings=few)).quarantined == {}
    (told,) = morning.events("quorum_looked")
    assert told["compared"] == 20, "the sample only"
    morning.place.path.unlink()
    assert morning.data(morning.started(morning.polygon, morning.alpaca)).quarantined == {
        Symbol(outside): "VENDORS_DISAGREE"
    }


@pytest.mark.parametrize(("most", "asked"), [(1, 20), (2, 30)])
def test_the_whole_universe_is_asked_about_in_as_many_requests_as_the_setting_allows(
    morning: Morning, most: int, asked: int
) -> None:
    """Polygon as the second vendor: a grouped answer for each of two sessions, however many names."""
    theirs = PolygonProvider("key", morning.theirs.url, morning.clock, calendar=morning.calendar, name="other")
    morning.theirs.price = changed("S3", 1.03)
    morning.fetch()
    settings = Settings.model_validate({"data": {"quorum_requests": most}})
    found = morning.data(morning.started(morning.polygon, theirs, settings=settings)).quarantined
    (told,) = morning.events("quorum_looked")
    assert (told["second"], told["compared"]) == ("other", asked)
    assert sum("/grouped/" in path for path in morning.theirs.seen) == (0 if most == 1 else 2)
    known = sample([str(n) for n in NAMES], FRIDAY, 20) if most == 1 else [str(n) for n in NAMES]
    assert found == ({Symbol("S3"): "VENDORS_DISAGREE"} if "S3" in known else {})


def test_a_grouped_answer_confirms_a_real_move_and_without_the_session_before_none(morning: Morning) -> None:
    morning.ours.price = morning.theirs.price = changed("S3", 0.5)
    theirs = PolygonProvider("key", morning.theirs.url, morning.clock, calendar=morning.calendar, name="other")
    morning.fetch()
    before = str(morning.calendar.previous_session(FRIDAY))
    morning.theirs.always = lambda path, query: (403, {}) if before in path else None
    assert morning.data(morning.started(morning.polygon, theirs)).quarantined == {Symbol("S3"): "JUMP_UNEXPLAINED"}
    morning.theirs.always = lambda path, query: None
    morning.place.path.unlink()
    assert morning.data(morning.started(morning.polygon, theirs)).quarantined == {}


def test_D27_two_names_with_one_bar_are_both_refused_until_somebody_confirms(morning: Morning) -> None:
    """S4 is given the bar of S3, less than ten percent away from its own: no jump, and no second vendor."""
    own = lambda s, day: price(s, day) * (1.1 if s == "S3" else 1.0)  # noqa: E731
    morning.ours.price = lambda s, day: own("S3" if (s, day) == ("S4", FRIDAY) else s, day)
    morning.fetch()
    found = morning.data(morning.started(morning.polygon)).quarantined
    assert found == {Symbol("S3"): "BAR_SHARED", Symbol("S4"): "BAR_SHARED"}
    morning.place.path.unlink()
    morning.theirs.price = own
    found = morning.data(morning.started(morning.polygon, morning.alpaca)).quarantined
    assert found == {Symbol("S4"): "VENDORS_DISAGREE"}, "the other vendor tells which of the two is wrong"


@pytest.mark.parametrize(("opened", "differs"), [(104.4, False), (104.6, True), (91.8, False), (91.6, True)])
def test_an_open_of_one_exchange_has_to_lie_near_the_other_bar(opened: float, differs: bool) -> None:
    """Three times the tolerance beyond high 100 and low 96; of all exchanges together an open is one price."""
    ours, theirs = (98.0, 100.0, 96.0, 99.0, 1.0), (opened, 100.0, 96.0, 99.0, 1.0)
    assert compare({"A": ours}, {"A": theirs}, tolerance=0.015).differ
    for one, other in ((ours, theirs), (theirs, ours)):
        assert bool(compare({"A": one}, {"A": other}, tolerance=0.015, one_exchange=True).differ) is differs
    close = (98.0, 100.0, 96.0, 97.0, 1.0)
    assert compare({"A": ours}, {"A": close}, tolerance=0.015, one_exchange=True).differ, "a close is one price"


def test_D26_a_price_that_jumps_and_that_the_other_vendor_does_not_know_is_quarantined(morning: Morning) -> None:
    morning.ours.price = changed("S7", 10.0)
    morning.fetch()
    Journal(morning.context.home.journal, morning.clock).append("x", {})
    assert morning.data().quarantined == {Symbol("S7"): "VENDORS_DISAGREE"}
    (record,) = Journal(morning.context.home.journal, morning.clock).kinds("symbols_quarantined")
    assert list(record.body["symbols"]) == ["S7"] and record.body["morning"]["second"] == "alpaca"
    (told,) = morning.events("symbol_quarantined", "errors")
    assert told["symbol"] == "S7" and told["session"] == "2026-03-13" and told["code"]
    held = morning.place.held()["S7"]
    assert held.source == "polygon" and held.detail


def test_D30_a_real_move_that_both_vendors_tell_is_believed(morning: Morning) -> None:
    both = lambda s, day: price(s, day) * ({"S3": 0.5, "S4": 10.0}.get(s, 1.0) if day == FRIDAY else 1.0)  # noqa: E731
    morning.ours.price = morning.theirs.price = both
    morning.fetch()
    assert morning.data().quarantined == {} and morning.place.held() == {}
    assert morning.place.morning()["cleared"] == ["S3", "S4"]  # type: ignore[index]


def test_D26_a_split_that_only_the_other_vendor_knows_is_no_real_move(morning: Morning) -> None:
    morning.ours.price = morning.theirs.price = changed("S3", 0.25)
    morning.theirs.splits = [{"symbol": "S3", "new_rate": 4, "old_rate": 1, "ex_date": str(FRIDAY)}]
    morning.fetch()
    assert morning.data().quarantined == {Symbol("S3"): "JUMP_UNEXPLAINED"}


def test_D27_three_percent_apart_one_against_one_is_refused_and_the_tolerance_is_not(morning: Morning) -> None:
    session_sample = sample([str(n) for n in NAMES], FRIDAY, 20)
    wrong, near = session_sample[0], session_sample[1]
    morning.theirs.price = lambda s, day: price(s, day) * {wrong: 1.03, near: 1.01}.get(s, 1.0)
    morning.fetch()
    assert morning.data().quarantined == {Symbol(wrong): "VENDORS_DISAGREE"}


def test_D26_a_vendor_that_differs_everywhere_is_not_believed_until_a_person_says_so(
    morning: Morning, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    morning.theirs.price = lambda s, day: price(s, day) * 0.9
    morning.fetch()
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            morning.data()
        assert caught.value.code == "VENDOR_BASIS" and "30 of 30" in str(caught.value)
    assert morning.place.held() == {}, "it is the vendor's mistake, not that of twenty symbols"
    monkeypatch.setenv("KOBE_HOME", str(morning.root))
    assert cli.run(lambda: quarantine.main(["list"])) == Exit.NO
    assert cli.run(lambda: quarantine.main(["release", "polygon", "--reason", "looked"])) == Exit.OK
    assert morning.data().quarantined == {}


def test_the_share_of_differing_answers_decides_about_the_vendor() -> None:
    def differ(n: int) -> Comparison:
        return Comparison(dict.fromkeys(map(str, range(n)), "x"), frozenset("abcdefghijklmnop"[: 20 - n]), frozenset())

    assert differ(5).code(0.25) == "VENDORS_DISAGREE", "the limit itself"
    assert differ(6).code(0.25) == "VENDOR_BASIS"
    assert differ(0).code(0.25) == "OK"
    assert Comparison({"a": "x"}, frozenset(), frozenset()).code(0.25) == "VENDORS_DISAGREE", "one answer is no sample"
    assert Comparison({}, frozenset(), frozenset("a")).code(0.25) == "QUORUM_UNKNOWN"


@pytest.mark.parametrize(
    ("theirs", "differs"), [(101.5, False), (101.6, True), (98.5, False), (98.4, True), (0.0, True)]
)
def test_the_tolerance_is_met_at_the_limit(theirs: float, differs: bool) -> None:
    row, other = (100.0, 100.0, 100.0, 100.0 * theirs / 100, 1.0), (100.0, 100.0, 100.0, 100.0, 1.0)
    if not theirs:
        row, other = other, (0.0, 0.0, 0.0, 0.0, 0.0)
    assert bool(compare({"A": row}, {"A": other}, tolerance=0.015 + 1e-12).differ) is differs


# ---------------------------------------------------------------- one vendor, or a silent one
@pytest.mark.parametrize("way", ["one vendor", "it fails", "it knows nothing", "turned off"])
def test_without_a_second_word_it_is_said_and_a_suspicion_stands(morning: Morning, way: str) -> None:
    morning.ours.price = changed("S7", 0.1)
    morning.fetch()
    vendors = [morning.polygon] if way == "one vendor" else [morning.polygon, morning.alpaca]
    settings = Settings.model_validate({"data": {"quorum_sample": 0}}) if way == "turned off" else None
    if way == "it fails":
        morning.theirs.always = lambda path, query: (500, {})
    if way == "it knows nothing":
        morning.theirs.symbols = []
    context = morning.started(*vendors, settings=settings)
    assert morning.data(context).quarantined == {Symbol("S7"): "JUMP_UNEXPLAINED"}
    (told,) = morning.events("quorum_looked")
    expected = "QUORUM_UNKNOWN" if way.startswith("it ") else "QUORUM_ONE_VENDOR"
    assert (told["code"], told["compared"]) == (expected, 0)


def test_D29_a_second_vendor_that_hangs_keeps_the_entries_waiting_no_longer_than_the_setting(morning: Morning) -> None:
    """500 again and again: the fetch of a day would try for its own deadline, the morning's question for 2 s."""
    morning.fetch()
    morning.theirs.always = lambda path, query: (500, {})
    settings = Settings.model_validate({"data": {"quorum_deadline_s": 2}})
    context = morning.started(morning.polygon, morning.alpaca, settings=settings)
    before = morning.clock.monotonic()
    assert morning.data(context).quarantined == {}
    assert morning.clock.monotonic() - before <= 2.0
    assert morning.alpaca._retrier.hurry_s is None
    (told,) = morning.events("quorum_looked")
    assert told["code"] == "QUORUM_UNKNOWN"


def test_the_embedded_venue_alone_is_said_and_quarantines_nothing(morning: Morning) -> None:
    morning.ours.price = changed("S7", 0.1)
    morning.fetch()
    context = morning.started(morning.polygon)
    found = wiring._fresh(context, "polygon", Universe(NAMES, dict.fromkeys(NAMES), "0", ()), FRIDAY)
    context.keys = Keys(None, None, None, None)
    assert found is not None and canaries.believed(context, found) is found
    (told,) = morning.events("quorum_looked")
    assert (told["code"], told["simulated"]) == ("QUORUM_ONE_VENDOR", True)
    assert not (morning.root / "state" / FILE).exists()


def test_a_scan_of_the_past_looks_at_nothing_and_a_new_session_is_looked_at_again(morning: Morning) -> None:
    morning.fetch()
    morning.data()
    before = morning.place.morning()
    assert before is not None
    for session, due in ((date(2026, 3, 12), False), (FRIDAY, False), (date(2026, 3, 16), True)):
        data = wiring.MarketData(None, session, "polygon", False, "", None, {})  # type: ignore[arg-type]
        assert canaries._is_due(before, data) is due
    other = wiring.MarketData(None, FRIDAY, "alpaca", False, "", None, {})  # type: ignore[arg-type]
    assert canaries._is_due(before, other) is True


def test_a_damaged_quarantine_lets_nothing_be_entered(morning: Morning) -> None:
    morning.fetch()
    morning.data()
    (morning.root / "state" / FILE).write_text("{")
    with pytest.raises(DataError) as caught:
        morning.data()
    assert caught.value.code == "QUARANTINE_DAMAGED"


GOOD: dict[str, Any] = {
    "session": str(FRIDAY), "source": "polygon", "second": None, "code": "OK", "compared": 0, "differ": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "sound"),
    [({"morning": GOOD}, True), ({"morning": None}, True), ({"morning": {}}, False), ({"morning": []}, False),
     *[({"morning": {k: v for k, v in GOOD.items() if k != absent}}, False) for absent in GOOD],
     *[({"morning": {**GOOD, name: None}}, False) for name in ("session", "source", "code")],
     ({"morning": {**GOOD, "session": "zzz"}}, False), ({"morning": {**GOOD, "session": "20260313"}}, False),
     ({"released": [{"symbol": "A"}]}, True), ({"released": [{}]}, False), ({"released": ["A"]}, False)],
)  # fmt: skip
def test_D26_a_quarantine_that_lacks_what_is_read_of_it_is_damaged_and_no_bug(
    morning: Morning, content: dict[str, Any], sound: bool
) -> None:
    document = {"schema_version": 1, "symbols": {}, "released": [], "morning": None, **content}
    morning.place.path.parent.mkdir(parents=True, exist_ok=True)
    morning.place.path.write_text(json.dumps(document))
    morning.fetch()
    if sound:
        assert morning.data().quarantined == {}
        return
    with pytest.raises(DataError) as caught:
        morning.data()
    assert caught.value.code == "QUARANTINE_DAMAGED"


@pytest.mark.parametrize("broken", ["_look", "_is_due", "_without_the_refused"])
def test_D26_P21_a_bug_in_the_look_lets_nothing_be_entered_and_ends_nothing(
    morning: Morning, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def bug(*_: Any) -> Any:
        raise KeyError("session")

    morning.fetch()
    run = DueRun(date(2026, 3, 16), "09:35", morning.clock.now(), first=True, last=False)
    held: Any = SimpleNamespace(open_trades=tuple, trades={}, positions={}, last_seq=0)
    universe = Universe(NAMES, dict.fromkeys(NAMES, "X"), "0", ())
    planned = lambda: ScanPlanner(morning.context, universe).plan(run, held)  # noqa: E731
    monkeypatch.setattr(wiring, "data_from_store", lambda *_: wiring.stored(morning.context, universe, FRIDAY))
    monkeypatch.setattr(wiring, "_bound_host", lambda context, name: wiring._hosts(context)[name])
    with monkeypatch.context() as patch:
        patch.setattr(canaries, broken, bug)
        plan = planned()
    assert (plan.problem, plan.entries) == ("CANARY_FAILED", ())
    told = morning.events("canary_failed", "errors")
    assert [row["code"] for row in told] == ["CANARY_FAILED"] and "KeyError" in told[0]["traceback"]
    assert planned().problem is None, "the next scan looks again"


@pytest.mark.parametrize("error", [StateLocked("the journal is locked"), StateCorrupt("the journal is damaged")])
def test_D26_trouble_with_the_journal_is_not_called_a_damaged_quarantine(
    morning: Morning, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise error

    morning.ours.price = changed("S7", 0.1)
    morning.fetch()
    Journal(morning.context.home.journal, morning.clock).append("x", {})
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", refuses)
        with pytest.raises(type(error)) as caught:
            morning.data()
    assert caught.value is error
    assert [row["symbol"] for row in morning.events("symbol_quarantined", "errors")] == ["S7"], "told all the same"
    assert set(morning.data().quarantined) == {Symbol("S7")}, "and it is in"


# ---------------------------------------------------------------- release
def test_release_wants_a_name_and_a_reason_and_is_journalled(
    morning: Morning, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOBE_HOME", str(morning.root))
    morning.ours.price = changed("S7", 0.1)
    morning.fetch()
    morning.data()
    Journal(morning.context.home.journal, morning.clock).append("x", {})
    run = lambda *words: cli.run(lambda: quarantine.main(list(words)))  # noqa: E731
    assert run("list") == Exit.NO and "S7" in capsys.readouterr().out
    for words in (("release",), ("release", "S7"), ("release", "S7", "--reason", " "), ("list", "S7"),
                  ("release", "S 7!", "--reason", "x")):  # fmt: skip
        assert run(*words) == Exit.USAGE
    assert run("release", "S8", "--reason", "x") == Exit.NO
    assert run("release", "s7", "--reason", "a spin-off, looked at it", "--json") == Exit.OK
    (record,) = Journal(morning.context.home.journal, morning.clock).kinds("quarantine_released")
    assert record.body["symbol"] == "S7" and record.body["reason"] == "a spin-off, looked at it"
    capsys.readouterr()
    assert run("list", "--json") == Exit.OK and json.loads(capsys.readouterr().out)["symbols"] == {}
    assert morning.data().quarantined == {}
    morning.clock.advance(timedelta(hours=3))
    place = morning.place
    place.put({}, {**(place.morning() or {}), "session": "2026-03-12"})  # a restart that looks at the session again
    assert morning.data().quarantined == {}, "a person has looked at this session's bar"


# ---------------------------------------------------------------- corruption, a slice; the whole is a benchmark
def walk(seed: int, sessions: list[date]) -> BarColumns:
    """A plausible series, 2 % a day."""
    rng = np.random.default_rng(seed)
    close = 40.0 * np.exp(np.cumsum(rng.normal(0, 0.02, len(sessions))))
    opened = close * np.exp(rng.normal(0, 0.03, len(sessions)))
    high = np.maximum(opened, close) * (1 + rng.uniform(0.001, 0.02, len(sessions)))
    low = np.minimum(opened, close) * (1 - rng.uniform(0.001, 0.02, len(sessions)))
    values = (np.round(x, 2) for x in (opened, high, low, close))
    days = np.array([to_day(d) for d in sessions], dtype=np.int32)
    return BarColumns(days, *values, rng.uniform(1e5, 9e5, len(sessions)).round())


def found_in(case: Case, got: BarColumns, session: date, calendar: Any) -> str:
    from data.quality import NO_BAR, recent_gaps

    if not len(got):
        return NO_BAR
    kept, flags = clean(got, session_days(calendar, int(got.dates[0]), session), session)
    if not len(kept) or from_day(kept.dates[-1]) != session or recent_gaps(kept, calendar, session):
        return flags[-1].code if flags else NO_BAR
    doubts = suspicions(kept, ratios={from_day(d): r for d, r in case.splits.items()})
    one = lambda bars, k: {"A": tuple(float(getattr(bars, f)[k]) for f in ("open", "high", "low", "close", "volume"))}  # noqa: E731
    scale = case.splits.get(int(case.bars.dates[-1]), 1.0)
    newest = compare(one(kept, -1), one(case.bars, -1), tolerance=0.015)  # type: ignore[arg-type]
    before = {"A": (kept.close[-2] / scale,) * 5}, {"A": (case.bars.close[-2],) * 5}
    earlier = compare(*before, tolerance=0.015, ohlc=False)  # type: ignore[arg-type]
    told, _ = judged({"A": doubts[0].code} if doubts else {}, newest, earlier)
    return told.get("A", "")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_D13_to_D20_D26_every_kind_of_corruption_is_caught(kind: str, calendar: MarketCalendar) -> None:
    sessions = calendar.sessions_between(date(2023, 1, 3), date(2023, 12, 29))
    done = 0
    for seed in range(12):
        end = 150 + 7 * seed
        case = Case(walk(seed, sessions[:end]), walk(900 + seed, sessions[:end]), seed)
        got = KINDS[kind](case)
        if got is not None:
            done += 1
            assert found_in(case, got, sessions[end - 1], calendar) != "", (kind, seed)
    assert done >= 3 and len(KINDS) == 40


def test_clean_symbol_days_are_left_alone(calendar: MarketCalendar) -> None:
    sessions = calendar.sessions_between(date(2023, 1, 3), date(2023, 12, 29))
    for seed in range(40):
        end = 100 + 3 * seed
        case = Case(walk(seed, sessions[:end]), walk(seed + 1, sessions[:end]), seed)
        assert found_in(case, case.bars, sessions[end - 1], calendar) == "", seed
        assert suspicions(case.bars) == []


def test_splits_and_dividends_explain_a_jump_or_it_is_flagged() -> None:
    days = weekdays(40)
    bars = walk(3, days)
    halved = Case(bars, bars, 0).scaled(0.5, slice(-1, None))
    assert [s.code for s in suspicions(halved)] == ["JUMP_UNEXPLAINED"]
    assert suspicions(halved, ratios={days[-1]: 2.0}) == []
    assert [s.code for s in suspicions(bars, ratios={days[-1]: 2.0})] == ["SPLIT_NOT_SEEN"]
    cash = float(bars.close[-2] - halved.close[-1])
    assert suspicions(halved, dividends={days[-1]: cash}) == []
    assert [s.code for s in suspicions(halved, dividends={days[-1]: cash / 4})] == ["JUMP_UNEXPLAINED"]
    assert suspicions(halved, market=-0.4) == [], "everything fell that day"
    assert suspicions(bars.rows(np.arange(6))) == [], "no past to be compared with"
