"""The earnings window, both ends included, and a canary that never raises."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from core.clock import SteppedClock
from core.earnings_filter import earnings_verdict, run_earnings_canary
from core.market_calendar import MarketCalendar, market_calendar

D = date.fromisoformat
MONDAY = D("2024-03-11")


@pytest.fixture(scope="module")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> MarketCalendar:
    return market_calendar(tmp_path_factory.mktemp("calendar"), SteppedClock(datetime(2024, 3, 5, tzinfo=UTC)))


def verdict(announced: str, *, before: int, after: int, calendar: MarketCalendar | None = None) -> str:
    allowed, code = earnings_verdict(
        [D("2020-01-02"), D(announced)],
        MONDAY,
        days_before=before,
        days_after=after,
        on_unknown="refuse",
        calendar=calendar,
    )
    assert allowed is (code == "EARNINGS_CLEAR")
    return code


@pytest.mark.parametrize(
    ("announced", "code"),
    [("2024-03-08", "EARNINGS_CLEAR"), ("2024-03-09", "EARNINGS_NEAR"), ("2024-03-11", "EARNINGS_NEAR"),
     ("2024-03-12", "EARNINGS_NEAR"), ("2024-03-13", "EARNINGS_CLEAR")],
)  # fmt: skip
def test_in_calendar_days(announced: str, code: str) -> None:
    assert verdict(announced, before=1, after=2) == code


@pytest.mark.parametrize(
    ("announced", "code"),
    [("2024-03-07", "EARNINGS_CLEAR"), ("2024-03-08", "EARNINGS_NEAR"), ("2024-03-10", "EARNINGS_NEAR"),
     ("2024-03-12", "EARNINGS_NEAR"), ("2024-03-13", "EARNINGS_CLEAR")],
)  # fmt: skip
def test_in_sessions_a_weekend_costs_nothing(calendar: MarketCalendar, announced: str, code: str) -> None:
    assert verdict(announced, before=1, after=1, calendar=calendar) == code


def test_zero_days_means_the_session_itself(calendar: MarketCalendar) -> None:
    assert (
        verdict("2024-03-11", before=0, after=0)
        == verdict("2024-03-11", before=0, after=0, calendar=calendar)
        == "EARNINGS_NEAR"
    )
    assert (
        verdict("2024-03-12", before=0, after=0)
        == verdict("2024-03-08", before=0, after=0, calendar=calendar)
        == "EARNINGS_CLEAR"
    )


def test_unknown_is_not_none_due() -> None:
    def ask(dates: list[date] | None, on_unknown: str) -> tuple[bool, str]:
        return earnings_verdict(dates, MONDAY, days_before=1, days_after=1, on_unknown=on_unknown)

    assert ask(None, "refuse") == (False, "EARNINGS_UNKNOWN_REFUSED")
    assert ask(None, "warn") == (True, "EARNINGS_UNKNOWN_WARNED")
    assert ask([], "refuse") == (True, "EARNINGS_CLEAR")


@pytest.mark.parametrize(("word", "days"), [("ignore", 1), ("", 1), ("refuse", -1)])
def test_settings_that_make_no_sense_are_bugs(word: str, days: int) -> None:
    with pytest.raises(ValueError, match="must"):
        earnings_verdict([], MONDAY, days_before=days, days_after=1, on_unknown=word)


@pytest.mark.parametrize("config", [None, "absent.yaml"])
def test_the_canary_answers_whatever_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str | None
) -> None:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    if config is not None:
        monkeypatch.setenv("KOBE_CONFIG", str(tmp_path / config))
    answer = run_earnings_canary()
    assert answer["status"] in ("ok", "failed") and answer["code"]
    assert answer["status"] == "ok" or answer["reason"]
    if config is not None:
        assert answer["status"] == "failed"


def test_the_canary_tells_stale_empty_and_thin_files_apart_and_leaves_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core import logs
    from core.clock import SystemClock
    from core.paths import REPO_ROOT, Home
    from data.universe import load_universe

    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    monkeypatch.setattr(logs, "_target", None)
    file, today = tmp_path / "cache" / "earnings.csv", SystemClock().now().date()
    file.parent.mkdir()
    names = load_universe(REPO_ROOT / "data" / "universe" / "optionable_liquid_800.csv", default=False).symbols
    cases = (
        ("symbol,date\n", "EARNINGS_SOURCE_EMPTY"), ("symbol,date\nAAPL,2020-01-30\n", "EARNINGS_SOURCE_STALE"),
        ("symbol,date\nAAPL,never\n", "EARNINGS_MALFORMED"), (f"symbol,date\nAAPL,{today}\n", "OK"),
    )  # fmt: skip
    for text, code in cases:
        file.write_text(text)
        answer = run_earnings_canary()
        assert (answer["code"], answer["status"]) == (code, "ok" if code == "OK" else "failed")
    assert "0% of the universe" in answer["doubt"]
    file.write_text("symbol,date\nAAPL," + str(today) + "\n" + "".join(f"{s},{today}\n" for s in names[:100]))
    assert run_earnings_canary()["doubt"] is None
    told = (Home(tmp_path).logs / "errors.jsonl").read_text()
    assert told.count("earnings_canary_failed") == 3 and "EARNINGS_SOURCE_STALE" in told
