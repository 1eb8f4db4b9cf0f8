"""Bars, lists and tables that are wrong, missing, or spelt in another way: out with a reason, or refused by place."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.settings_schema import Settings
from core import cli, logs
from core.bars_io import BarColumns, read_bars, to_day
from core.domain import Mode, Symbol, canonical_symbol
from core.errors import ConfigError, DataError, Exit
from core.market_calendar import NEW_YORK, MarketCalendar, market_calendar, parse_as_of
from core.panel import Panel
from data.earnings import EarningsFile, read_earnings
from data.providers.base import dotted, session_of, session_of_millis, stooq_symbol, vendor_map, yahoo_symbol
from data.quality import check_recent_data, clean, clean_all
from data.store import BarStore
from data.universe import load_universe
from data.vix import VixStore, plausible, read_vix_csv
from portfolio.scan import vix_scale
from risk.exposure import UNKNOWN_RETURN, correlation, scenario_returns, sector_usd
from scripts import scan as scan_script
from scripts import scanning, wiring
from tests.fakes.bar_files import LAST, small_market
from tests.fakes.grounds import a_context
from tests.fakes.scans import a_plan, decision, due, hold, scene
from tests.fakes.small_scan import DAYS, SESSION, bars, scan
from tests.fakes.trading import AAA, CALM, NOW, book, entry, limits, quote
from tests.portfolio.market import columns, oversold, rising

ROOT = Path(__file__).resolve().parents[2]
UNIVERSE = load_universe(ROOT / "data" / "universe" / "optionable_liquid_800.csv", default=False)
NEXT = date(2024, 3, 5)


@pytest.fixture(scope="module")
def calendar() -> MarketCalendar:
    return market_calendar()


def codes(intent: Any, seen: Any, **changes: Any) -> list[str]:
    from risk.gate import Refused, decide

    answer = decide(intent, seen, limits(**changes))
    return list(answer.codes) if isinstance(answer, Refused) else []


def verdicts(result: Any) -> dict[str, str]:
    return {v.symbol: v.code for v in result.verdicts}


# ---------------------------------------------------------------- symbols
def test_D08_every_spelling_of_a_class_share_is_one_symbol_and_each_vendor_gets_its_own() -> None:
    assert {canonical_symbol(text) for text in ("BRK.B", "BRK-B", "brk/b", " Brk.b ")} == {"BRK.B"}
    symbol = Symbol("BRK.B")
    assert (dotted(symbol), yahoo_symbol(symbol), stooq_symbol(symbol)) == ("BRK.B", "BRK-B", "brk-b.us")


@pytest.mark.parametrize("to_vendor", [dotted, yahoo_symbol, stooq_symbol])
def test_D08_the_whole_universe_goes_to_every_vendor_and_comes_back(to_vendor: Callable[[Symbol], str]) -> None:
    table = vendor_map(UNIVERSE.symbols, to_vendor)
    assert len(table) == len(UNIVERSE.symbols) == 800
    assert {table[to_vendor(s)] for s in UNIVERSE.symbols} == set(UNIVERSE.symbols)
    assert all(canonical_symbol(yahoo_symbol(s)) == s for s in UNIVERSE.symbols)
    with pytest.raises(ValueError, match="same vendor ticker"):
        vendor_map([Symbol("BRK.B"), Symbol("BRKB")], lambda s: s.replace(".", ""))


@cache
def long_days() -> list[date]:
    return market_calendar().sessions_between(date(2021, 1, 4), LAST)


def ticker_used_again(old: int, silent: int, new: int) -> dict[str, str]:
    """The verdict of a ticker with `old` bars, a silence of so many sessions, and `new` bars that end in a setup."""
    days_all = long_days()
    series = oversold(rising(old + new, seed=1))
    days = [*days_all[-new - silent - old : len(days_all) - new - silent], *days_all[-new:]]
    panel = Panel.from_bars({"MARKET": columns(rising(len(days_all)), days_all), "AGAIN": columns(series, days)})
    return verdicts(scan(panel=panel, session=LAST, symbols=[Symbol("AGAIN")], quarantined={}))


@pytest.mark.parametrize(("silent", "code"), [(0, "PICKED"), (60, "PICKED"), (61, "HISTORY_GAP"), (250, "HISTORY_GAP")])
def test_D09_bars_from_before_a_long_silence_may_be_another_companys_and_decide_nothing(silent: int, code: str) -> None:
    """A ticker used again: the old company's bars and the new one's lie in one file."""
    assert ticker_used_again(100, silent, 150) == {"AGAIN": code}


def test_D09_a_silence_that_has_left_the_window_of_the_average_is_forgotten() -> None:
    assert ticker_used_again(100, 250, 199) == {"AGAIN": "HISTORY_GAP"}
    assert ticker_used_again(100, 250, 200) == {"AGAIN": "PICKED"}


# ---------------------------------------------------------------- quotes
@pytest.mark.parametrize(
    ("age_s", "expected"),
    [(0, []), (60, []), (61, ["QUOTE_STALE"]), (-10, []), (-11, ["QUOTE_FROM_FUTURE"])],
)
def test_D10_an_entry_wants_a_fresh_quote(age_s: int, expected: list[str]) -> None:
    assert codes(entry(), book(quote=quote(at=NOW - timedelta(seconds=age_s)))) == expected


def test_D10_an_exit_on_a_stale_quote_waits_and_the_stop_stays(tmp_path: Path) -> None:
    made = scene(tmp_path)
    hold(made, "DUE")
    made.planner.exits_ = [(decision("DUE"), _time())]
    fresh = made.broker.quotes
    made.broker.quotes = lambda symbols: {  # type: ignore[method-assign]
        s: replace(q, at=NOW - timedelta(hours=1)) for s, q in fresh(symbols).items()
    }
    stops = made.ledger().protective(decision("DUE"))
    made.session.run(due())
    assert made.ledger().protective(decision("DUE")) == stops and made.ledger().positions[Symbol("DUE")] == 1
    made.broker.quotes = fresh  # type: ignore[method-assign]
    made.world.clock.advance(timedelta(minutes=1))
    made.session.run(due("10:30", first=False))
    assert Symbol("DUE") not in made.ledger().positions


def _time() -> Any:
    from core.domain import ExitReason

    return ExitReason.TIME


@pytest.mark.parametrize(
    ("bid", "ask", "expected"),
    [("50.00", "50.00", []), ("50.01", "50.00", ["QUOTE_CROSSED"]), ("49.99", "50.00", [])],
)
def test_D11_a_crossed_quote_is_refused_and_a_locked_one_keeps_its_collar(
    bid: str, ask: str, expected: list[str]
) -> None:
    assert codes(entry(price="50.10"), book(quote=quote(bid=bid, ask=ask))) == expected
    assert "LIMIT_COLLAR" in codes(entry(price="50.26"), book(quote=quote(bid=bid, ask=ask)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"bid": "0"}, "QUOTE_ONE_SIDED"), ({"ask": "0"}, "QUOTE_ONE_SIDED"), ({"bid": None}, "QUOTE_ONE_SIDED"),
        ({"ask": None}, "QUOTE_ONE_SIDED"), ({"ask": "200000"}, "SPREAD_WIDE"), ({"bid": "0.01"}, "SPREAD_WIDE"),
        ({"last": "0"}, "QUOTE_ONE_SIDED"),
    ],
)  # fmt: skip
def test_D12_a_side_that_is_empty_zero_or_a_stub_is_refused_and_nothing_divides_by_it(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    assert code in codes(entry(), book(quote=quote(**changes)))
    made = scene(tmp_path, "PICKA")
    whole = made.broker.quotes
    from decimal import Decimal

    spoiled = {k: None if v is None else Decimal(v) for k, v in changes.items()}
    made.broker.quotes = lambda symbols: {s: replace(q, **spoiled) for s, q in whole(symbols).items()}  # type: ignore[method-assign]
    report = made.session.run(due())
    assert made.broker.submits == [] and report.intents[0]["verdict"] == "refused"


# ---------------------------------------------------------------- bars
def one_bad(values: dict[str, float], k: int = -1) -> dict[str, BarColumns]:
    made = bars()
    own = made["IBS1"]
    copies = {f: getattr(own, f).copy() for f in values}
    for f, value in values.items():
        copies[f][k] = value
    made["IBS1"] = replace(own, **copies)
    return made


def scanned(made: dict[str, BarColumns], calendar: MarketCalendar, **changes: Any) -> Any:
    """Through the quality of the store, as `--bars` goes. The hand-made days are weekdays: a calendar of them."""

    class Weekdays:
        first, last = DAYS[0], DAYS[-1]

        def sessions_between(self, start: date, end: date) -> list[date]:
            return [day for day in DAYS if start <= day <= end]

    kept, out = clean_all(made, Weekdays(), SESSION)
    quarantined = {Symbol(s): code for s, code in out.items()}
    return scan(panel=Panel.from_bars(kept), quarantined=quarantined, symbols=[Symbol(s) for s in made], **changes)


NOT_FINITE = [(f, v) for f in ("open", "high", "low", "close", "volume") for v in (math.nan, math.inf, -math.inf)]


@pytest.mark.parametrize(("field", "value"), NOT_FINITE)
def test_D13_a_bar_that_is_no_number_puts_its_symbol_out_for_the_day(
    calendar: MarketCalendar, field: str, value: float
) -> None:
    result = scanned(one_bad({field: value}), calendar)
    assert verdicts(result)["IBS1"] == "BAR_NOT_FINITE"
    assert {p.signal.symbol for p in result.picks} == {"IBS2", "SOUP"}


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [("low", -1.0, "BAR_NON_POSITIVE"), ("close", 0.0, "BAR_NON_POSITIVE"), ("open", -3.0, "BAR_NON_POSITIVE"),
     ("volume", -1.0, "BAR_NEGATIVE_VOLUME")],
)  # fmt: skip
def test_D13_a_price_or_volume_below_zero_too(calendar: MarketCalendar, field: str, value: float, code: str) -> None:
    assert verdicts(scanned(one_bad({field: value}), calendar))["IBS1"] == code


def test_D13_an_old_bad_bar_is_left_out_and_the_symbol_goes_on(calendar: MarketCalendar) -> None:
    assert verdicts(scanned(one_bad({"close": math.nan}, k=100), calendar))["IBS1"] == "PICKED"


@pytest.mark.parametrize("values", [{"high": 1.0}, {"low": 1e6}, {"close": 1e6}, {"close": 0.5}, {"open": 1e6}])
def test_D14_a_bar_that_contradicts_itself_is_out(calendar: MarketCalendar, values: dict[str, float]) -> None:
    assert verdicts(scanned(one_bad(values), calendar))["IBS1"] == "BAR_RANGE"


def test_D14_open_and_close_exchanged_stays_within_the_range_and_is_no_contradiction(
    calendar: MarketCalendar,
) -> None:
    own = bars()["IBS1"]
    swapped = one_bad({"open": float(own.close[-1]), "close": float(own.open[-1])})
    assert verdicts(scanned(swapped, calendar))["IBS1"] not in {"BAR_RANGE", "PICKED"}, "another bar, another verdict"


def test_D15_a_missing_session_is_not_filled_and_the_symbol_has_no_signal(calendar: MarketCalendar) -> None:
    made = bars()
    made["IBS1"] = made["IBS1"].rows(np.arange(len(made["IBS1"])) != len(made["IBS1"]) - 1)
    result = scanned(made, calendar)
    (verdict,) = [v for v in result.verdicts if v.symbol == "IBS1"]
    assert verdict.code == "NO_BAR" and verdict.numbers["last_bar"] == DAYS[-2].isoformat()
    panel = Panel.from_bars(made)
    column = panel.symbols.index("IBS1")
    assert panel.length[column] == 259 and np.isnan(panel.close[259, column]), "nothing was carried forward"


def test_D17_two_bars_of_one_session_are_both_out(calendar: MarketCalendar) -> None:
    made = bars()
    own = made["IBS1"]
    twice = np.append(np.arange(len(own)), len(own) - 1)
    double = own.rows(twice)
    close = double.close.copy()
    close[-1] += 0.25
    made["IBS1"] = replace(double, close=close, high=np.maximum(double.high, close))
    result = scanned(made, calendar)
    assert verdicts(result)["IBS1"] == "BAR_DUPLICATE"
    kept, flags = clean(made["IBS1"], own.dates, SESSION)
    assert len(kept) == len(own) - 1 and [f.code for f in flags] == ["BAR_DUPLICATE"] * 2


@pytest.mark.parametrize("closed", [date(2024, 2, 19), date(2024, 2, 24), date(2024, 2, 25)])
def test_D18_a_bar_of_a_closed_day_is_dropped(calendar: MarketCalendar, closed: date, tmp_path: Path) -> None:
    market = small_market(tmp_path / "m")
    file = market / "CALM.csv"
    file.write_text(file.read_text() + f"{closed},1,900,1,800,5\n")
    data, _ = wiring.data_from_bars(a_context(tmp_path, at=at("09:35")), market, None, None)
    column = data.panel.symbols.index("CALM")
    assert to_day(closed) not in data.panel.sessions[data.panel.session_index[: data.panel.length[column], column]]
    assert float(np.nanmax(data.panel.close[:, column])) < 800 and data.quarantined == {}


def at(wall: str, day: date = NEXT) -> datetime:
    hour, minute = map(int, wall.split(":"))
    return datetime.combine(day, time(hour, minute), NEW_YORK).astimezone(UTC)


@pytest.mark.parametrize("wall", ["09:35", "12:00", "15:55", "15:59"])
def test_D19_todays_unfinished_bar_never_enters_a_scan_also_not_at_15_55(tmp_path: Path, wall: str) -> None:
    """The file holds today's bar so far, as a vendor may deliver it; the scan is the one without it, to the byte."""
    market, clean_market = small_market(tmp_path / "m"), small_market(tmp_path / "n")
    for file in market.glob("*.csv"):
        if file.stem != "vix_daily":
            rows = file.read_text().splitlines()
            file.write_text("\n".join([*rows[:-1], f"{NEXT},1,9000,1,9000,1", ""]))
            (clean_market / file.name).write_text("\n".join([*rows[:-1], ""]))
    seen = []
    for folder in (market, clean_market):
        context = a_context(tmp_path / "home", at=at(wall))
        data, universe = wiring.data_from_bars(context, folder, None, None)
        assert data.session == LAST
        seen.append((data.snapshot_sha256, scanning.run(context, data, universe).to_json()["picks"]))
    assert seen[0] == seen[1] and seen[0][1]


def test_D19_after_the_close_the_bar_of_the_day_is_final(tmp_path: Path) -> None:
    data, _ = wiring.data_from_bars(a_context(tmp_path, at=at("16:00")), small_market(tmp_path / "m"), None, None)
    assert data.session == NEXT


@pytest.mark.parametrize("day", [date(2024, 3, 8), date(2024, 3, 11), date(2024, 11, 1), date(2024, 11, 4)])
def test_D20_every_stamp_a_vendor_uses_is_the_session_it_means(day: date) -> None:
    """Midnight and close in New York, midnight in Chicago, midnight UTC; over both switches of daylight saving."""
    from zoneinfo import ZoneInfo

    for zone, hour in (("America/New_York", 0), ("America/New_York", 16), ("America/Chicago", 0), ("UTC", 0)):
        stamp = datetime.combine(day, time(hour), ZoneInfo(zone))
        assert session_of(stamp) == day == session_of_millis(stamp.timestamp() * 1000), (zone, hour)


def test_D24_the_leap_day_is_a_session_and_a_year_before_it_is_one_too(calendar: MarketCalendar) -> None:
    leap = date(2024, 2, 29)
    assert calendar.is_session(leap) and calendar.offset(leap, -252) == date(2023, 2, 28)
    assert calendar.offset(date(2023, 2, 28), 252) == leap
    assert parse_as_of("2024-02-29", calendar) == at("09:35", date(2024, 3, 1))
    assert len(calendar.sessions_between(date(2023, 3, 1), leap)) == 252
    with pytest.raises(Exception, match="2023-02-29"):
        parse_as_of("2023-02-29", calendar)


def test_D24_a_scan_of_the_leap_day_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    market = small_market(tmp_path / "m", last=date(2024, 2, 29))
    words = ["--bars", str(market), "--as-of", "2024-02-29", "--json"]
    assert cli.run(lambda: scan_script.main(words)) == Exit.OK
    answer = json.loads(capsys.readouterr().out)
    assert (answer["session"], answer["as_of"], len(answer["picks"])) == ("2024-02-29", "2024-03-01T14:35:00Z", 1)


@pytest.mark.parametrize("factor", [0.88, 0.5, 10.0])
def test_D30_a_real_crash_and_a_real_tenfold_stay_in_the_series(calendar: MarketCalendar, factor: float) -> None:
    made = bars()
    own = made["CALM"]
    last = {f: getattr(own, f).copy() for f in ("open", "high", "low", "close")}
    for values in last.values():
        values[-1] *= factor
    made["CALM"] = replace(own, **last)
    assert verdicts(scanned(made, calendar))["CALM"] == "NO_SETUP"
    kept, flags = clean(made["CALM"], own.dates, SESSION)
    assert kept is made["CALM"] and flags == []


def test_D30_such_a_move_is_told_when_no_split_explains_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = market_calendar().sessions_between(date(2024, 1, 2), LAST)
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    monkeypatch.setattr("core.clock.SystemClock.now", lambda clock: at("09:35"))
    store = BarStore(tmp_path / "cache", "polygon")
    series = rising(len(days))
    series[-1] = tuple(10 * v for v in series[-1])  # type: ignore[assignment]
    store.append("UP", columns(series, days))
    found = check_recent_data("UP")
    assert (found["status"], found["counts"]) == ("flagged", {"JUMP_UNEXPLAINED": 1})
    from core.bars_io import Split

    store.write_actions([Split("UP", days[-1], 0.1)], [])
    assert check_recent_data("UP")["status"] == "ok"


# ---------------------------------------------------------------- lists and tables
def universe(tmp_path: Path, content: str | bytes, **guards: Any) -> Any:
    file = tmp_path / "universe.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_universe(file, **{"default": True, "min_rows": 3, "max_change_fraction": 0.10, **guards})


@pytest.mark.parametrize(
    ("content", "code"),
    [("", "UNIVERSE_EMPTY"), ("symbol\n", "UNIVERSE_EMPTY"), ("symbol\nAAA\nBBB\n", "UNIVERSE_TOO_SMALL")],
)
def test_D31_an_empty_or_stump_universe_is_refused(tmp_path: Path, content: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        universe(tmp_path, content)
    assert caught.value.code == code and caught.value.exit_code == Exit.CONFIG


def test_D31_a_missing_universe_and_one_that_changed_too_much_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(lambda: scan_script.main(["--universe", str(tmp_path / "absent.csv")])) == Exit.CONFIG
    assert capsys.readouterr().err.startswith("kobe: UNIVERSE_MISSING: ")
    names = [f"A{chr(65 + n)}" for n in range(20)]
    content = "\n".join(["symbol", *names])
    assert len(universe(tmp_path, content, last=[*names[:-1], "X"]).symbols) == 20, "one gone and one new: a tenth"
    with pytest.raises(ConfigError) as caught:
        universe(tmp_path, content, last=[*names[:-1], "X", "Y"])
    assert caught.value.code == "UNIVERSE_CHANGED"


def test_D32_doubles_small_letters_and_spaces_are_put_right_and_told(tmp_path: Path) -> None:
    found = universe(tmp_path, "symbol,sector\naaa,Energy\n BBB ,\nAAA,Other\nbrk-b,\nCCC,\n")
    assert found.symbols == ("AAA", "BBB", "BRK.B", "CCC") and found.sectors["AAA"] == "Energy"
    assert len(found.warnings) == 4


ROWS = (("2024-03-01", "1", "2", "0.5", "1.5", "100"), ("2024-03-04", "2", "3", "1.5", "2.5", "200"))
HEADER = ("date", "open", "high", "low", "close", "volume")


def table(sep: str = ",", end: str = "\n", start: str = "", quotes: bool = False, tail: str = "") -> bytes:
    rows = [HEADER, *ROWS]
    cells = (sep.join(f'"{c}"' if quotes else c for c in row) + tail for row in rows)
    return (start + end.join([*cells, ""])).encode()


DIALECTS = (
    table(), table(end="\r\n"), table(start="\ufeff"), table(quotes=True),
    table(start="\ufeff", end="\r\n", quotes=True),
)  # fmt: skip


@pytest.mark.parametrize("content", DIALECTS, ids=range(len(DIALECTS)))
def test_D33_a_table_in_any_dialect_that_can_be_meant_is_read_alike(tmp_path: Path, content: bytes) -> None:
    for name, raw in (("AAA.csv", content), ("AAA.csv.gz", gzip.compress(content))):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(raw)
        found = read_bars(folder)["AAA"]
        assert found.close.tolist() == [1.5, 2.5] and found.dates.tolist() == [to_day(date(2024, 3, n)) for n in (1, 4)]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (table(sep=";"), 1), (table(tail=",").replace(b"volume,", b"volume", 1), 2),
        (table().replace(b"2.5,200", b"2.5"), 3), (table().replace(b"1.5,100", b'1.5,"100'), 2),
        (table().replace(b"2024-03-04", b"04.03.2024"), 3), (table().replace(b"2.5,", b"2;5,"), 3),
    ],
)  # fmt: skip
def test_D33_a_table_that_cannot_be_understood_is_refused_with_its_line(
    tmp_path: Path, content: bytes, line: int
) -> None:
    (tmp_path / "AAA.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_bars(tmp_path)
    assert caught.value.code == "BARS_MALFORMED" and f"line {line}" in str(caught.value)


def test_D33_the_other_tables_read_every_dialect_too(tmp_path: Path) -> None:
    text = '\ufeffsymbol;sector\r\n"AAA";"Energy"\r\nBBB;\r\nCCC;\r\n'
    assert universe(tmp_path, text).symbols == ("AAA", "BBB", "CCC")
    (tmp_path / "earnings.csv").write_bytes('\ufeffdate,symbol\r\n2024-04-30,"aaa"\r\n'.encode())
    assert read_earnings(tmp_path / "earnings.csv") == {"AAA": (date(2024, 4, 30),)}
    (tmp_path / "vix.csv").write_bytes('\ufeffdate,close\r\n2024-03-04,"15.5"\r\n'.encode())
    assert read_vix_csv(tmp_path / "vix.csv") == {LAST: 15.5}


def test_D34_a_byte_that_is_no_utf8_is_refused_with_its_place_and_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="offset 12") as caught:
        universe(tmp_path, b"symbol\nAAA\nB\xe9\n")
    assert caught.value.code == "UNIVERSE_ENCODING"
    (tmp_path / "AAA.csv").write_bytes(table().replace(b"2024-03-04", b"2024-03-0\xe9"))
    with pytest.raises(DataError, match=r"line 3.*byte") as bad:
        read_bars(tmp_path)
    assert bad.value.code == "BARS_MALFORMED"
    (tmp_path / "earnings.csv").write_bytes(b"symbol,date\nAA\xe9,2024-04-30\n")
    with pytest.raises(DataError, match="byte 14"):
        read_earnings(tmp_path / "earnings.csv")


WORDS = ("TRUE", "NA", "NAN", "NULL", "ON", "INF", "NO")


def test_D35_tickers_that_look_like_words_stay_tickers(tmp_path: Path) -> None:
    assert universe(tmp_path, "\n".join(["symbol", *WORDS])).symbols == WORDS
    rows = [",".join((HEADER[0], "symbol", *HEADER[1:]))]
    rows += [f"{day},{word},{','.join(rest)}" for word in WORDS for day, *rest in ROWS]
    file = tmp_path / "long.csv"
    file.write_text("\n".join([*rows, ""]))
    found = read_bars(file)
    assert set(found) == set(WORDS) and all(len(b) == 2 for b in found.values())
    (tmp_path / "earnings.csv").write_text("symbol,date\n" + "".join(f"{w},2024-04-30\n" for w in WORDS))
    assert set(read_earnings(tmp_path / "earnings.csv")) == set(WORDS)
    store = BarStore(tmp_path / "cache", "x")
    for word in WORDS:
        store.append(word, found[word])
    assert set(store.symbols()) == set(WORDS)
    assert set(store.load_panel(list(WORDS), LAST).symbols) == set(WORDS)


# ---------------------------------------------------------------- the cache
@pytest.fixture(scope="module")
def three_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = BarStore(tmp_path_factory.mktemp("template"), "polygon")
    for n, name in enumerate("ABC"):
        made.append(name, columns(rising(60, seed=n), long_days()[-60:]))
    return made.folder.parent


@pytest.fixture
def store(tmp_path: Path, three_files: Path) -> BarStore:
    shutil.copytree(three_files, tmp_path / "cache")
    return BarStore(tmp_path / "cache", "polygon")


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"date,open", b"garbage\n1,2,3\n", None])
def test_D36_a_damaged_cache_file_is_set_aside_and_fetched_again_and_never_read_as_no_bars(
    store: BarStore, content: bytes | None
) -> None:
    file = store.folder / "B.csv"
    raw = file.read_bytes() if content is None else content
    file.write_bytes(raw[: len(raw) // 2].rsplit(b"\n", 1)[0] + b"\n2024-0" if content is None else raw)
    panel = store.load_panel("ABC", LAST)
    if content is None:  # a torn append: the sound lines count, the half one does not
        assert store.damaged == () and 0 < panel.length[1] < panel.length[0]
        assert store.last_session("B") is not None and store.last_session("B") < LAST, "so the update asks for the rest"
        return
    assert store.damaged == ("B",) and panel.symbols == ("A", "C")
    assert not file.exists() and file.with_suffix(".damaged").read_bytes() == content
    assert store.last_session("B") is None, "so the update asks for all of it"


def test_D36_a_symbol_without_its_file_is_no_bar_in_the_scan(store: BarStore) -> None:
    (store.folder / "B.csv").write_bytes(b"")
    result = scan(panel=store.load_panel("ABC", LAST), session=LAST, symbols=[Symbol(s) for s in "ABC"], quarantined={})
    assert verdicts(result)["B"] == "NO_BAR"


@pytest.mark.parametrize("gone", ["everything", "the bars", "the panel", "one file"])
@pytest.mark.parametrize("step", ["_listing", "_open", "_read_all", "read_actions"])
def test_D37_a_cache_cleared_at_any_step_gives_the_whole_panel_or_a_refusal(
    store: BarStore, monkeypatch: pytest.MonkeyPatch, gone: str, step: str
) -> None:
    whole = store.load_panel("ABC", LAST)
    expected = (whole.symbols, whole.length.tolist(), float(np.nansum(whole.close)))
    reader = BarStore(store.folder.parent, "polygon")
    if step == "_read_all":
        shutil.rmtree(store.folder.parent / "panel")
    real = getattr(reader, step)

    def clearing(*args: Any) -> Any:
        if gone == "the bars":
            for file in store.folder.glob("*.csv"):
                file.unlink()
        elif gone == "one file":
            (store.folder / "B.csv").unlink(missing_ok=True)
        else:
            shutil.rmtree(store.folder.parent / ("panel" if gone == "the panel" else "."), ignore_errors=True)
        return real(*args)

    monkeypatch.setattr(reader, step, clearing)
    try:
        panel = reader.load_panel("ABC", LAST)
    except DataError as error:
        assert error.code == "CACHE_CLEARED"
        return
    found = (panel.symbols, panel.length.tolist(), float(np.nansum(panel.close)))
    empty = step == "_listing" and gone != "the panel"
    assert found == expected or (empty and len(panel.symbols) < 3), "half of it was read as all of it"


def test_D37_a_mapped_panel_stays_readable_when_its_files_are_removed(store: BarStore) -> None:
    store.load_panel("ABC", LAST)
    panel = BarStore(store.folder.parent, "polygon").load_panel("ABC", LAST)
    before = float(np.nansum(panel.close))
    shutil.rmtree(store.folder.parent, ignore_errors=True)
    assert float(np.nansum(panel.close)) == before


# ---------------------------------------------------------------- what is not known
@pytest.mark.parametrize("level", [None, 0.0, -1.0, math.nan, math.inf, 1e9])
def test_D38_a_vix_that_is_missing_or_absurd_opens_nothing(tmp_path: Path, level: float | None) -> None:
    assert plausible(level) is None
    scale, objection = vix_scale(plausible(level), Settings())
    assert scale == 0 and objection is not None and objection[0] == "VIX_UNKNOWN"
    result = scan(vix=plausible(level))
    assert result.picks == () and result.refused["VIX_UNKNOWN"] == 3
    assert "VIX_UNKNOWN" in codes(entry(), book(vix=plausible(level)))
    if level is not None:
        with pytest.raises(ValueError, match="VIX"):
            VixStore(tmp_path, "polygon").put(LAST, level, "polygon")
    made = scene(tmp_path / "world", "PICKA")
    made.planner.plan_ = a_plan("PICKA", vix=None)
    made.session.run(due())
    assert made.broker.submits == []


def test_D38_a_vix_file_with_a_hole_or_a_zero_is_unknown_that_day(tmp_path: Path) -> None:
    file = tmp_path / "vix_daily.csv"
    file.write_text("date,close\n2024-03-01,15\n2024-03-04,0\n2024-03-05,\n")
    assert read_vix_csv(file) == {date(2024, 3, 1): 15.0}


def test_D39_an_earnings_calendar_that_knows_nothing_is_implausible_and_not_a_quiet_quarter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = a_context(tmp_path, at=at("09:35"))
    file = context.home.cache / "earnings.csv"
    file.parent.mkdir(parents=True)

    def told(content: str | None) -> int:
        if content is not None:
            file.write_text(content)
        before = logs.counters().get(("earnings_unknown", ()), 0)
        data, named = wiring.data_from_bars(context, small_market(tmp_path / "m"), None, None)
        scanning.run(context, data, named)
        return logs.counters().get(("earnings_unknown", ()), 0) - before

    assert told(None) == 1 and told("") == 1 and told("symbol,date\n") == 1
    assert told("symbol,date\nOTHER,2024-04-30\n") == 1, "none of the five names"
    assert told("symbol,date\nCALM,2024-04-30\n") == 0, "one of five is above a tenth"
    source = EarningsFile(file, today=NEXT)
    assert source.dates(Symbol("IBS1")) is None, "unknown, which is not the same as none due"


@pytest.mark.parametrize(("mode", "picked"), [(Mode.LIVE, False), (Mode.PAPER, True)])
def test_D39_without_any_dates_live_refuses_every_entry_and_paper_marks_it(mode: Mode, picked: bool) -> None:
    class Nothing:
        def dates(self, symbol: Symbol) -> None:
            return None

    result = scan(earnings=Nothing(), mode=mode)
    assert bool(result.picks) is picked
    if picked:
        assert all("EARNINGS_UNKNOWN_WARNED" in p.reasons for p in result.picks)
    else:
        assert result.refused["EARNINGS_UNKNOWN_REFUSED"] == 3


def test_D40_shares_that_changed_without_a_known_reason_lock_the_symbol_and_nothing_is_sold(tmp_path: Path) -> None:
    """An ADR ratio changed: ten times the shares at a tenth, and neither the broker nor the feed says why."""
    made = scene(tmp_path, "PICKA")
    hold(made, "DUE")
    made.planner.exits_ = [(decision("DUE"), _time())]
    made.broker.held[Symbol("DUE")] *= 10
    sells = [cid for cid in made.broker.submits if "-sell-exit-" in cid]
    report = made.session.run(due())
    (found,) = [b for b in report.breaks if b["symbol"] == "DUE"]
    assert (found["ours"], found["theirs"]) == ("1", "10") and Symbol("DUE") in made.ledger().locked
    assert [cid for cid in made.broker.submits if "-sell-exit-" in cid] == sells
    assert made.ledger().positions[Symbol("PICKA")] == 1, "and only that symbol is locked"


def test_D41_an_unknown_sector_counts_in_every_sector_and_unknown_returns_as_the_worst() -> None:
    others = {Symbol("X"): 30_000.0, Symbol("Y"): 5_000.0}
    sectors: dict[Symbol, str | None] = {Symbol("X"): "Tech", Symbol("Y"): "Energy", AAA: None}
    assert sector_usd({**others, AAA: 50.0}, sectors, AAA) == 30_050.0, "judged by the largest"
    assert sector_usd({**others, AAA: 50.0}, {**sectors, AAA: "Energy", Symbol("X"): None}, AAA) == 35_050.0
    returns = {Symbol("X"): CALM}
    assert correlation(returns, AAA, Symbol("X")) == 1.0
    assert set(scenario_returns(returns, AAA)) == {UNKNOWN_RETURN}


def test_D41_the_gate_refuses_what_the_worst_case_would_break() -> None:
    from decimal import Decimal

    held = {Symbol("X"): 1}
    marks = {Symbol("X"): Decimal(39_990)}
    seen = book(positions=held, marks=marks, sectors={Symbol("X"): "Energy", AAA: "Tech"},
                returns={AAA: CALM, Symbol("X"): CALM})  # fmt: skip
    wide = {"max_single_name_fraction": 0.9}
    assert codes(entry(), seen, **wide) == []
    assert "SECTOR_LIMIT" in codes(entry(), replace(seen, sectors={Symbol("X"): "Energy"}), **wide)
    assert "VAR_LIMIT" in codes(entry(), replace(seen, returns={AAA: CALM}), **wide)
    assert "CORRELATION" in codes(entry(), replace(seen, returns={AAA: CALM}), max_correlation=0.99, **wide)
