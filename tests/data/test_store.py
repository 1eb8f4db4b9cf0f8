"""The bar store: append-only files, a panel that is whole or refused, and every kind of damage told."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from core.bars_io import FIELDS, BarColumns, Dividend, Split, from_day, read_bars, to_day
from core.errors import DataError
from core.market_calendar import MarketCalendar
from core.panel import Panel, snapshot_sha256
from data.store import BarStore, file_name, newest_source, symbol_of

MARKET = Path(__file__).resolve().parents[2] / ".." / "shared" / "market"
LAST = date(2024, 3, 8)
FAR = date(2024, 12, 31)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _one_home(_home: None, shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The market calendar is derived once; the stores under test are elsewhere."""
    monkeypatch.setenv("KOBE_HOME", str(shared_home))


@pytest.fixture
def sessions(calendar: MarketCalendar) -> list[date]:
    return calendar.sessions_between(calendar.offset(LAST, -29), LAST)  # 30 of them


@pytest.fixture
def store(tmp_path: Path) -> BarStore:
    return BarStore(tmp_path / "cache", "polygon")


def bars(days: list[date], base: float = 100.0) -> BarColumns:
    dates = np.array([to_day(d) for d in days], dtype=np.int32)
    close = base + (dates - to_day(LAST)) * 0.1 + 1 / 3
    return BarColumns(dates, close - 0.5, close + 1, close - 1, close, np.full(len(days), 1e6))


def row(b: BarColumns, k: int) -> tuple[float, float, float, float, float]:
    o, h, lo, c, v = (float(getattr(b, f)[k]) for f in FIELDS)
    return o, h, lo, c, v


def same(a: BarColumns, b: BarColumns) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("dates", *FIELDS))


def text(store: BarStore, symbol: str = "A") -> bytes:
    return (store.folder / file_name(symbol)).read_bytes()


def fill(store: BarStore, sessions: list[date], names: str = "ABC") -> dict[str, BarColumns]:
    held = {s: bars(sessions, 100.0 + 10 * k) for k, s in enumerate(names)}
    for symbol, own in held.items():
        store.append(symbol, own)
    return held


# ---------------------------------------------------------------- files
def test_what_is_appended_is_read_back_bit_for_bit(store: BarStore, sessions: list[date]) -> None:
    own = bars(sessions)
    store.append("A", own)
    assert same(store.bars("A"), own)
    assert store.symbols() == ("A",) and store.last_session("A") == LAST
    lines = text(store).decode().splitlines()
    assert lines[0] == "date,open,high,low,close,volume"
    assert lines[-1] == f"{LAST},{99.5 + 1 / 3!r},{101 + 1 / 3!r},{99 + 1 / 3!r},{100 + 1 / 3!r},1000000"


def test_nothing_stored_is_no_bars_and_no_session(store: BarStore) -> None:
    assert not store.exists() and store.symbols() == () and store.last_session("A") is None
    assert len(store.bars("A")) == 0 and store.damaged == ()
    assert store.load_panel(["A"], LAST).symbols == ()


@pytest.mark.parametrize("symbol", ["CON", "PRN", "AUX", "NUL", "COM1", "CON.A", "BRK.B", "NA", "TRUE"])
def test_every_symbol_has_a_file_name_windows_accepts(store: BarStore, sessions: list[date], symbol: str) -> None:
    assert symbol_of(file_name(symbol)) == symbol
    assert file_name(symbol).split(".")[0] not in {"CON", "PRN", "AUX", "NUL", "COM1"}
    store.append(symbol, bars(sessions))
    assert store.symbols() == (symbol,)
    assert store.load_panel([symbol], LAST).symbols == (symbol,)
    assert list(read_bars(store.folder)) == [symbol]


def test_appending_newer_bars_leaves_the_old_bytes_as_they_were(store: BarStore, sessions: list[date]) -> None:
    own = bars(sessions)
    store.append("A", own.rows(np.arange(20)))
    before = text(store)
    assert store.append("A", own.rows(np.arange(20, 30))) == []
    assert text(store).startswith(before) and same(store.bars("A"), own)


def test_the_same_bars_again_change_nothing(store: BarStore, sessions: list[date]) -> None:
    own = bars(sessions)
    store.append("A", own)
    before = text(store)
    assert store.append("A", own) == [] and store.append_session(LAST, {"A": row(own, -1)}) == []
    assert text(store) == before


def test_a_revised_bar_is_told_and_the_first_word_is_kept(store: BarStore, sessions: list[date]) -> None:
    own = bars(sessions)
    store.append("A", own)
    before = text(store)
    revised = (*row(own, 5)[:4], 7.0)
    (found,) = store.append_session(sessions[5], {"A": revised})
    assert (found.symbol, found.session, found.ours, found.theirs) == ("A", sessions[5], row(own, 5), revised)
    assert text(store) == before


def test_one_session_for_many_symbols(store: BarStore, sessions: list[date]) -> None:
    held = fill(store, sessions[:-1])
    rows = {s: row(bars([LAST], 100.0 + 10 * k), 0) for k, s in enumerate("ABCD")}
    assert store.append_session(LAST, rows) == []
    assert all(store.last_session(s) == LAST for s in "ABCD")
    assert len(store.bars("A")) == len(held["A"]) + 1 and len(store.bars("D")) == 1
    assert store.last_sessions(["A", "Z"]) == {"A": LAST}


@pytest.mark.parametrize("torn", [b"2024-03-", b"2024-03-08,1", b"2024-03-08,1,1,1,1,1"])
def test_a_torn_last_line_is_not_read_and_is_repaired_by_the_next_append(
    store: BarStore, sessions: list[date], torn: bytes
) -> None:
    own = bars(sessions)
    store.append("A", own.rows(np.arange(29)))
    with (store.folder / "A.csv").open("ab") as file:
        file.write(torn)
    assert store.last_session("A") == sessions[-2]
    assert len(store.bars("A")) == 29 and store.damaged == ()
    assert store.load_panel(["A"], LAST).length.tolist() == [29]
    store.append_session(LAST, {"A": row(own, -1)})
    assert same(store.bars("A"), own) and torn + b"2024" not in text(store)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "zero length": lambda b: b"",
    "half a header": lambda b: b[:9],
    "no header": lambda b: b.partition(b"\n")[2],
    "zero bytes": lambda b: b"\0" * len(b),
    "zero bytes at the end": lambda b: b[:-50] + b"\0" * 49 + b"\n",
    "half a line in the middle": lambda b: b[:200] + b"\n" + b[300:],
    "a word for a number": lambda b: b.replace(b",1000000\n", b",many\n", 1),
    "a cell too many": lambda b: b.replace(b",1000000\n", b",1000000,1\n", 1),
    "a quote": lambda b: b.replace(b",1000000\n", b',"1000000\n', 1),
    "not ASCII": lambda b: b.replace(b",1000000\n", b",1\xff\n", 1),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("by", ["bars", "load_panel"])
def test_a_damaged_file_is_set_aside_and_reported_never_read_as_no_bars(
    store: BarStore, sessions: list[date], kind: str, by: str
) -> None:
    held = fill(store, sessions)
    path = store.folder / "B.csv"
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    if by == "bars":
        store.bars("B")
    else:
        panel = store.load_panel(["A", "B", "C"], LAST)
        assert panel.symbols == ("A", "C")
    assert store.damaged == ("B",)
    assert not path.exists() and path.with_suffix(".damaged").exists()
    assert store.last_session("B") is None  # so that the next update fetches its whole history
    store.append("B", held["B"])
    again = store.load_panel(["A", "B", "C"], LAST)
    assert again.symbols == ("A", "B", "C") and store.damaged == ()
    assert snapshot_sha256(again) == snapshot_sha256(Panel.from_bars(held))


def test_a_damaged_history_is_not_begun_anew_in_the_middle(store: BarStore, sessions: list[date]) -> None:
    """Its end was readable, so an update sends the last session only; alone in a new file it would look complete."""
    own = bars(sessions)
    store.append("A", own)
    path = store.folder / "A.csv"
    path.write_bytes(DAMAGE["half a line in the middle"](path.read_bytes()))
    assert store.last_session("A") == LAST
    store.append_session(LAST, {"A": row(own, -1)})
    assert store.damaged == ("A",) and store.last_session("A") is None


# ---------------------------------------------------------------- panel
def test_the_panel_is_that_of_the_stored_bars_cold_and_warm(store: BarStore, sessions: list[date]) -> None:
    held = fill(store, sessions)
    expected = snapshot_sha256(Panel.from_bars(held))
    cold = store.load_panel("ABC", FAR)
    warm = BarStore(store.folder.parent, "polygon").load_panel("CBA", FAR)
    assert snapshot_sha256(cold) == snapshot_sha256(warm) == expected
    assert BarStore(store.folder.parent, "alpaca").load_panel("ABC", FAR).symbols == ()


def test_a_warm_panel_needs_no_pandas_and_no_csv_is_opened(
    store: BarStore, sessions: list[date], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, sessions)
    cold = snapshot_sha256(store.load_panel("ABC", LAST))
    monkeypatch.setitem(sys.modules, "pandas", None)  # an import would fail
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda p: pytest.fail(f"{p}") if p.suffix == ".csv" else real(p))
    assert snapshot_sha256(store.load_panel("ABC", LAST)) == cold


def test_only_what_was_asked_and_only_what_was_known(store: BarStore, sessions: list[date]) -> None:
    held = fill(store, sessions)
    panel = store.load_panel(["C", "ZZZ", "A", "A"], sessions[10])
    assert panel.symbols == ("A", "C") and panel.length.tolist() == [11, 11]
    cut = {s: held[s].rows(np.arange(11)) for s in "AC"}
    assert snapshot_sha256(panel) == snapshot_sha256(Panel.from_bars(cut))


def test_a_change_of_any_file_makes_a_new_panel_and_the_old_one_goes(store: BarStore, sessions: list[date]) -> None:
    fill(store, sessions[:-1])
    assert store.load_panel("ABC", FAR).symbols_with(LAST) == 0
    store.append_session(LAST, {"B": row(bars([LAST]), 0)})
    assert store.load_panel("ABC", FAR).symbols_with(LAST) == 1
    (store.folder / "C.csv").unlink()
    assert store.load_panel("ABC", FAR).symbols == ("A", "B")
    assert len(list((store.folder.parent / "panel" / "polygon").iterdir())) == 1


def test_an_edit_that_keeps_the_size_is_seen(store: BarStore, sessions: list[date]) -> None:
    fill(store, sessions)
    before = snapshot_sha256(store.load_panel("ABC", FAR))
    path = store.folder / "A.csv"
    old = path.stat()
    path.write_bytes(path.read_bytes().replace(b",1000000\n", b",1000001\n", 1))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    assert snapshot_sha256(store.load_panel("ABC", FAR)) != before


@pytest.mark.parametrize("name", ["close.npy", "meta.json", "sessions.npy", "session_index.npy"])
@pytest.mark.parametrize("content", [None, b"", b"\0" * 64])
def test_a_damaged_panel_is_made_again(store: BarStore, sessions: list[date], name: str, content: bytes | None) -> None:
    fill(store, sessions)
    good = snapshot_sha256(store.load_panel("ABC", FAR))
    (generation,) = (store.folder.parent / "panel" / "polygon").iterdir()
    if content is None:
        (generation / name).unlink()
    else:
        (generation / name).write_bytes(content)
    assert snapshot_sha256(store.load_panel("ABC", FAR)) == good


def test_a_panel_that_cannot_be_saved_is_still_given(
    store: BarStore, sessions: list[date], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = fill(store, sessions)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert snapshot_sha256(store.load_panel("ABC", LAST)) == snapshot_sha256(Panel.from_bars(held))
    assert list((store.folder.parent / "panel" / "polygon").iterdir()) == []


def test_a_bad_bar_is_not_in_the_panel_and_its_reason_is_told_cold_and_warm(
    store: BarStore, sessions: list[date]
) -> None:
    own = bars(sessions)
    own.high[-1] = own.low[3] = 1.0
    own.low[3] = 500.0
    store.append("A", own)
    store.append("B", bars(sessions))
    for _ in range(2):
        panel = store.load_panel("AB", FAR)
        assert panel.length.tolist() == [28, 30]
        assert store.quarantined(LAST) == {"A": "BAR_RANGE"} == store.quarantined(sessions[3])
        assert store.quarantined(sessions[4]) == {}
    assert len(store.bars("A")) == 30  # the file keeps what the vendor said


@pytest.mark.parametrize("wrong", [b"0024-03-07", b"2924-03-07"])
def test_one_impossible_date_costs_that_bar_only(store: BarStore, sessions: list[date], wrong: bytes) -> None:
    fill(store, sessions)
    path = store.folder / "A.csv"
    path.write_bytes(path.read_bytes().replace(b"2024-03-07", wrong))
    panel = store.load_panel("ABC", LAST)
    assert panel.length.tolist() == [29, 30, 30]


# ---------------------------------------------------------------- cleared at any moment
def test_clearing_the_cache_between_calls_is_an_empty_store(store: BarStore, sessions: list[date]) -> None:
    fill(store, sessions)
    store.load_panel("ABC", FAR)
    shutil.rmtree(store.folder.parent)
    assert store.load_panel("ABC", FAR).symbols == () and not store.exists()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("step", ["_listing", "_open", "read_actions", "_build", "_read_all", "_save"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("gone", ["everything", "the source", "the panel", "one file"])
def test_a_read_finishes_whole_or_says_that_it_was_cleared(
    store: BarStore,
    sessions: list[date],
    monkeypatch: pytest.MonkeyPatch,
    warm: bool,
    step: str,
    after: bool,
    gone: str,
) -> None:
    held = fill(store, sessions)
    store.write_actions([Split("B", sessions[9], 2.0)], [])
    expected = snapshot_sha256(BarStore(store.folder.parent, "polygon").load_panel("ABC", LAST))
    if not warm:
        shutil.rmtree(store.folder.parent / "panel")
    real = getattr(store, step)

    def clear() -> None:
        if gone == "one file":
            (store.folder / "B.csv").unlink(missing_ok=True)
        else:
            place = {"everything": store.folder.parent, "the source": store.folder, "the panel": store._panels}
            shutil.rmtree(place[gone], ignore_errors=True)

    def cleared(*args: object, **named: object) -> object:
        monkeypatch.setattr(store, step, real)
        if not after:
            clear()
        answer = real(*args, **named)
        if after:
            clear()
        return answer

    monkeypatch.setattr(store, step, cleared)
    try:
        panel = store.load_panel("ABC", LAST)
    except DataError as error:
        assert error.code == "CACHE_CLEARED"
    else:
        complete = snapshot_sha256(panel) == expected
        before_the_first_look = step == "_listing" and not after
        assert complete or before_the_first_look
        if not complete:  # cleared before we looked: the panel of what is there, and nobody is missed silently
            assert set(panel.symbols) == ({"A", "C"} if gone == "one file" else set())
    assert set(held) == {"A", "B", "C"}


def test_a_cleared_file_is_not_begun_anew_by_a_continuation(store: BarStore, sessions: list[date]) -> None:
    own = bars(sessions)
    store.append("A", own.rows(np.arange(29)))
    real = store.last_session

    def vanishing(symbol: str) -> date | None:
        answer = real(symbol)
        (store.folder / "A.csv").unlink()
        return answer

    store.last_session = vanishing  # type: ignore[method-assign]
    store.append("A", own.rows(np.array([29])))
    assert not (store.folder / "A.csv").exists()


# ---------------------------------------------------------------- splits, dividends
def test_actions_are_kept_sorted_and_once(store: BarStore) -> None:
    a, b = Split("B", date(2024, 3, 1), 2.0), Split("A", date(2024, 3, 4), 0.1)
    pay = Dividend("A", date(2024, 2, 1), 0.24)
    assert store.read_actions() == ([], [])
    store.write_actions([a, b], [pay])
    store.write_actions([a], [pay])
    assert store.read_actions() == ([b, a], [pay])


def test_a_corrected_ratio_replaces_the_old_one(store: BarStore) -> None:
    store.write_actions([Split("A", date(2024, 3, 1), 1.4)], [])
    store.write_actions([Split("A", date(2024, 3, 1), 1.398)], [])
    assert store.read_actions()[0] == [Split("A", date(2024, 3, 1), 1.398)]


def test_the_panel_is_adjusted_and_the_files_stay_raw(store: BarStore, sessions: list[date]) -> None:
    held = fill(store, sessions)
    raw = text(store, "B")
    store.write_actions([Split("B", sessions[10], 4.0)], [])
    panel = store.load_panel("ABC", LAST)
    assert panel.close[:, 1].tolist() == [*(held["B"].close[:10] / 4.0), *held["B"].close[10:]]
    assert panel.volume[:11, 1].tolist() == [4e6] * 10 + [1e6]
    assert panel.close[:, 0].tolist() == held["A"].close.tolist()
    assert text(store, "B") == raw
    unaware = store.load_panel("ABC", sessions[9])
    assert unaware.close[:, 1].tolist() == held["B"].close[:10].tolist()  # not announced by looking ahead


def test_a_split_of_the_session_about_to_trade_counts_when_that_is_the_basis(
    store: BarStore, sessions: list[date]
) -> None:
    held = fill(store, sessions[:-1])
    store.write_actions([Split("A", LAST, 2.0)], [])
    eve = sessions[-2]
    assert store.load_panel("A", eve).close[:, 0].tolist() == held["A"].close.tolist()
    assert store.load_panel("A", eve, basis=LAST).close[:, 0].tolist() == (held["A"].close / 2).tolist()


@pytest.mark.parametrize(
    "content", [b"", b"symbol,ex_date,ratio\nA,2024-03-01,2", b"symbol,ex_date,ratio\nA,x,2\n", b"\0\0"]
)
def test_damaged_splits_are_refused_loudly(store: BarStore, sessions: list[date], content: bytes) -> None:
    fill(store, sessions)
    store.write_actions([Split("A", sessions[9], 2.0)], [])
    (store.facts / "splits.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        store.load_panel("ABC", LAST)
    assert caught.value.code == "ACTIONS_MALFORMED" and str(store.folder) in caught.value.advice


def test_splits_that_vanished_alone_are_refused(store: BarStore, sessions: list[date]) -> None:
    fill(store, sessions)
    store.write_actions([Split("A", sessions[9], 2.0)], [])
    (store.facts / "splits.csv").unlink()
    with pytest.raises(DataError) as caught:
        store.load_panel("ABC", LAST)
    assert caught.value.code == "ACTIONS_MISSING"


# ---------------------------------------------------------------- real data
def test_real_raw_bars_with_their_splits_give_smooth_series(tmp_path: Path) -> None:
    path = MARKET / "bars_raw_alphavantage.csv.gz"
    if not path.is_file():
        pytest.skip("market data not present")
    names = ("AAPL", "NVDA", "TSLA")
    store = BarStore(tmp_path, "real")
    for symbol, own in read_bars(path, names).items():
        store.append(symbol, own)
    splits = [
        Split("AAPL", date(2014, 6, 9), 7.0),
        Split("AAPL", date(2020, 8, 31), 4.0),
        Split("TSLA", date(2020, 8, 31), 5.0),
    ]
    raw = store.load_panel(names, date(2021, 4, 21))
    assert np.nanmin(raw.close[1:, 0] / raw.close[:-1, 0]) < 0.2
    store.write_actions(splits, [])
    panel = store.load_panel(names, date(2021, 4, 21))
    moves = panel.close[1:] / panel.close[:-1]
    assert np.nanmin(moves) > 0.7 and np.nanmax(moves) < 1.4
    first = int(panel.session_index[0, 0])
    assert from_day(panel.sessions[first]) == date(2014, 1, 2)
    assert panel.close[0, 0] == pytest.approx(553.13 / 28, rel=1e-12)


def test_the_newest_source_of_a_symbol(tmp_path: Path, sessions: list[date]) -> None:
    assert newest_source(tmp_path, "A") is None
    for age, source in enumerate(("polygon", "yfinance")):
        BarStore(tmp_path, source).append("A", bars(sessions))
        os.utime(tmp_path / source / "A.csv", ns=(0, 10**9 * (5 - age)))
    assert newest_source(tmp_path, "A") == "polygon"
