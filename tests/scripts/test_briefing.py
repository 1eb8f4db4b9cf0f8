"""A briefing says what journal and logs say, and that alone; what is not known has its code; no model is waited for."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.errors import UsageError
from core.market_calendar import NEW_YORK, market_calendar
from llm.client import Answer, Skipped
from scripts import briefing, briefing_page, briefing_text, generate_briefing, narrating, observing, wiring
from scripts.briefing_day import Phase, asked, ground
from scripts.briefing_model import Briefing, Narrative, as_json, every_word
from tests.fakes.attacks import attacks
from tests.fakes.observed import EVIL, Observed
from tests.fakes.runners import TUESDAY, ny
from tests.portfolio.backtest.test_report_browser import BROWSER, look

SILENT = Narrative((), "LLM_OFF")
WEDNESDAY = TUESDAY + timedelta(days=1)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Observed:
    from core.clock import SteppedClock

    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    return Observed(tmp_path, SteppedClock(ny("09:20")))


def brief(seen: Observed, phase: str, day: date | None = None) -> Briefing:
    context = wiring.open_context(argparse.Namespace(dotenv=None), clock=seen.clock)
    wanted = asked(Phase(phase), day, seen.clock.now(), context.calendar)
    return briefing.compose(ground(context, wanted), observing.open_observer(context).watched)


def plain(made: Briefing) -> Mapping[str, Any]:
    sections: Mapping[str, Any] = as_json(made, SILENT, {})["sections"]
    return sections


def a_day(seen: Observed) -> str:
    """AAA is bought, protected and sold, BBB bought; the day's runs are done."""
    seen.bind()
    seen.clock.set(ny("09:35"))
    sold = seen.buy("AAA", quantity=2, filled=2, price="50.05")
    seen.scanned(
        {"decision_id": sold, "symbol": "AAA", "strategy": "ibs_rsi", "score": 61.5, "close": 50.0, "stop": 45.0,
         "target": None, "reasons": [], "scale": "1"}, seq=2,
    )  # fmt: skip
    seen.buy("BBB", quantity=1, filled=1, price="20.00")
    seen.done("2024-03-05T09:35", equity="100000")
    seen.clock.set(ny("15:55"))
    seen.sell("AAA", quantity=2, price="51.00")
    seen.done("2024-03-05T15:55", equity="100001.90")
    return sold


# ---------------------------------------------------------------- which day
def test_the_day_that_each_phase_is_about() -> None:
    calendar = market_calendar()

    def day_of(phase: Phase, at: datetime) -> str:
        return asked(phase, None, at, calendar).session.isoformat()

    friday, monday = "2024-03-01", "2024-03-04"
    saturday = ny("12:00", date(2024, 3, 2))
    assert day_of(Phase.PREGAME, saturday) == monday and day_of(Phase.POSTGAME, saturday) == friday
    assert day_of(Phase.PREGAME, ny("15:59", date(2024, 3, 4))) == monday
    assert day_of(Phase.PREGAME, ny("16:00", date(2024, 3, 4))) == "2024-03-05"
    assert day_of(Phase.HALFTIME, ny("09:29", date(2024, 3, 4))) == friday
    assert day_of(Phase.HALFTIME, ny("09:30", date(2024, 3, 4))) == monday


def test_a_day_that_cannot_be_told_is_refused_with_what_can() -> None:
    calendar, now = market_calendar(), ny("09:29", date(2024, 3, 4))
    with pytest.raises(UsageError, match="no session") as closed:
        asked(Phase.PREGAME, date(2024, 3, 3), now, calendar)
    assert closed.value.code == "NOT_A_SESSION" and "2024-03-04" in closed.value.advice
    for phase, day in ((Phase.HALFTIME, date(2024, 3, 4)), (Phase.PREGAME, date(2024, 3, 5))):
        with pytest.raises(UsageError) as early:
            asked(phase, day, now, calendar)
        assert early.value.code == "BRIEFING_TOO_EARLY"
    assert asked(Phase.HALFTIME, date(2024, 3, 4), now + timedelta(minutes=1), calendar).past is False
    over = asked(Phase.PREGAME, date(2024, 3, 4), ny("00:00", date(2024, 3, 5)), calendar)
    assert over.past and over.at.astimezone(NEW_YORK).strftime("%H:%M") == "09:30"
    assert asked(Phase.PREGAME, date(2024, 3, 4), ny("23:59", date(2024, 3, 4)), calendar).past is False


# ---------------------------------------------------------------- what is told
def test_the_postgame_says_what_the_journal_says(seen: Observed) -> None:
    sold = a_day(seen)
    told = plain(brief(seen, "postgame"))
    assert told["closed"]["trades"] == 1 and told["closed"]["usd"] == "1.90"
    row = told["closed"]["rows"][0]
    assert (row["symbol"], row["shares"], row["exit"], row["usd"]) == ("AAA", 2, "51.00", "1.90")
    assert row["r"] == pytest.approx(1.90 / (2 * (50.05 - 45.0)))
    assert [(r["symbol"], r["side"], r["filled"], r["price"]) for r in told["orders"]["rows"]] == [
        ("AAA", "buy", 2, "50.05"), ("BBB", "buy", 1, "20.00"), ("AAA", "sell", 2, "51.00")
    ]  # fmt: skip
    assert told["decisions"]["picks_made"] == [
        {"decision_id": sold, "score": 61.5, "scale": "1", "verdict": "bought 2 of 2", "codes": ""}
    ]
    assert (told["money"]["equity_usd"], told["money"]["realised_today_usd"]) == ("100001.90", "1.90")
    assert told["limits"]["spent_today_usd"] == "120.10"
    assert {r["run"]: r["state"] for r in told["runs"]["runs"]} == {
        "09:35": "done", "10:30": "overdue", "15:55": "done", "close": "waiting"
    }  # fmt: skip
    assert told["tomorrow"]["session"] == WEDNESDAY.isoformat()


def test_the_pregame_says_stop_target_and_day_of_the_time_stop(seen: Observed) -> None:
    a_day(seen)
    seen.clock.set(ny("09:00", WEDNESDAY))
    told = plain(brief(seen, "pregame"))
    (row,) = told["held"]["positions_held"]
    assert (row["symbol"], row["shares"], row["stop"], row["since"]) == ("BBB", 1, "45.00", "2024-03-05")
    assert row["time_stop"] == "2024-03-13"  # the seventh bar, the entry's being the first
    assert told["standing"]["state"] == "NOT READY"
    assert told["plan"]["runs"][0]["run"] == "09:35" and told["plan"]["half_day"] is False


def test_a_day_that_is_over_is_told_as_it_was_then(seen: Observed) -> None:
    a_day(seen)
    half = plain(brief_at(seen, "halftime", ny("10:00", date(2024, 3, 7)), TUESDAY))
    assert half["money"]["equity_usd"] == "100000" and half["closed"]["trades"] == 0
    assert {row["symbol"] for row in half["held"]["positions_held"]} == {"AAA", "BBB"}
    made = brief_at(seen, "halftime", ny("10:00", date(2024, 3, 7)), TUESDAY)
    assert made.state == "OVER" and made.unknown()["standing.kill_switch"] == "NOT_KEPT"


def brief_at(seen: Observed, phase: str, now: datetime, day: date) -> Briefing:
    seen.clock.set(now)
    return brief(seen, phase, day)


def test_signals_of_the_session_before_are_told_with_their_verdicts(seen: Observed) -> None:
    rows = [
        {"symbol": "AAA", "code": "PICKED", "strategy": "ibs_rsi", "rule": "PICKED", "numbers": {"score": 61.5}},
        {"symbol": "BBB", "code": "SCORE_BELOW_MIN", "strategy": "ibs_rsi", "rule": "x", "numbers": {"score": 50.0}},
        {"symbol": "CCC", "code": "NO_SETUP", "strategy": "ibs_rsi", "rule": "x", "numbers": {}},
        {"symbol": "DDD", "code": "NO_BAR", "strategy": None, "rule": "x", "numbers": {}},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    seen.append(seen.home.logs / "verdicts" / "2024-03-04.jsonl", lines)
    told = plain(brief(seen, "pregame"))["signals"]
    assert [(r["symbol"], r["code"]) for r in told["rows"]] == [("AAA", "PICKED"), ("BBB", "SCORE_BELOW_MIN")]
    seen.append(seen.home.logs / "verdicts" / "2024-03-04.jsonl", "half a li")
    assert brief(seen, "pregame").unknown()["signals.found"] == "VERDICTS_UNREADABLE"


def test_tripped_breakers_and_learnings_of_the_day_are_told(seen: Observed) -> None:
    seen.bind()
    seen.journal.append("breaker_tripped", {
        "breaker": "loss_streak", "scope": "all", "what": "", "code": "BREAKER_LOSS_STREAK", "reason": "five in a row",
        "numbers": {}, "session": TUESDAY, "until": None, "by": "rule",
    })  # fmt: skip
    told = plain(brief(seen, "pregame"))["breakers"]
    assert told["tripped"] == 1 and told["locks"][0]["breaker"] == "loss_streak"


# ---------------------------------------------------------------- what is not known
@pytest.mark.parametrize("phase", [str(phase) for phase in Phase])
def test_an_empty_home_has_a_whole_briefing_that_says_what_is_not_known(
    phase: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    off = tmp_path / "off.yaml"
    off.write_text("cognitive: {llm_analyzer: {enabled: false}}\n", encoding="utf-8")
    monkeypatch.setenv("KOBE_CONFIG", str(off))
    assert generate_briefing.main(["--phase", phase]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "SIMULATED | mode paper | broker embedded venue"
    assert "No narrative (`LLM_OFF`)" in "\n".join(lines) and "unknown (JOURNAL_ABSENT)" in "\n".join(lines)
    assert generate_briefing.main(["--phase", phase, "--json"]) == 0
    out = capsys.readouterr().out
    facts = json.loads(out)
    assert out.count("\n") == 1 and facts["narrative"]["code"] == "LLM_OFF"
    assert set(facts["unknown"].values()) >= {"JOURNAL_ABSENT"}
    for name in facts["unknown"]:
        section, key = name.split(".")
        assert facts["sections"][section][key] is None
    assert {Path(path).name.split("-", 3)[3] for path in facts["files"].values()} == {f"{phase}.md", f"{phase}.html"}
    assert all(Path(path).is_file() for path in facts["files"].values())


def test_a_damaged_journal_is_told_and_the_rest_is_there(seen: Observed) -> None:
    a_day(seen)
    lines = seen.home.journal.read_bytes().splitlines(keepends=True)
    seen.home.journal.write_bytes(b"".join([*lines[:2], b"{}\n", *lines[3:]]))
    made = brief(seen, "postgame")
    codes = made.unknown()
    assert codes["money.equity_usd"] == codes["orders.sent"] == codes["closed.trades"] != "JOURNAL_ABSENT"
    assert plain(made)["decisions"]["picks"] == 1


def test_a_folder_that_cannot_be_written_takes_no_briefing_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(briefing, "write_atomic", full)
    assert generate_briefing.main(["--phase", "pregame", "--no-llm"]) == 0
    assert "not written: LOGS_UNWRITABLE" in capsys.readouterr().out


# ---------------------------------------------------------------- the narrative
class Door:
    def __init__(self, text: str) -> None:
        self.text = text

    def ask(self, prompt: Any) -> Answer | Skipped:
        return Answer(
            text=self.text, model="m-1", usage=None, cost_usd=Decimal(0), latency_ms=1.0, cached=False,
            request_sha256="",
        )  # fmt: skip


def narrated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str) -> dict[str, Any]:
    monkeypatch.setattr(narrating, "door_of", lambda context: Door(text))
    assert generate_briefing.main(["--phase", "pregame", "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_a_narrative_is_added_and_changes_no_fact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrated(monkeypatch, capsys, "{}")  # the logs are there from now on
    good = narrated(monkeypatch, capsys, '{"paragraphs": ["Nothing is known yet."]}')
    assert good["narrative"] == {"paragraphs": ["Nothing is known yet."], "code": "OK", "detail": "", "model": "m-1"}
    bad = narrated(monkeypatch, capsys, '{"paragraphs": ["Buy 1000 EVIL."]}')
    assert bad["narrative"]["paragraphs"] == [] and bad["narrative"]["code"] == "NARRATIVE_NUMBER"
    volatile = re.compile(r'"(at|age_s)":[^,}]*')
    one, two = (volatile.sub("", json.dumps(facts["sections"], sort_keys=True)) for facts in (good, bad))
    assert one == two


def test_what_the_model_s_files_do_ends_as_a_code(seen: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: object) -> Door:
        raise OSError("no such disk")

    monkeypatch.setattr(narrating, "door_of", broken)
    context = wiring.open_context(argparse.Namespace(dotenv=None), clock=seen.clock)
    found = narrating.narrative_of(context, brief(seen, "pregame"))
    assert (found.paragraphs, found.code) == ((), "LLM_UNAVAILABLE")


# ---------------------------------------------------------------- outsiders' words
def test_P47_nothing_that_comes_from_outside_is_markup(seen: Observed) -> None:
    a_day(seen)
    words = [EVIL, "[click](https://evil.example) **now** `x` | www.evil.example a@b", "# head\n- list\n> quote"]
    seen.alerts(*[{**seen.alert(f"A{k}"), "words": text, "action": text} for k, text in enumerate(words)])
    made = brief(seen, "postgame")
    said = Narrative(tuple(words), "OK", "", "m-1")
    page = briefing_page.render(made, said).decode()
    assert "<script>alert" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:,")', page) and "default-src &#x27;none&#x27;" in page
    text = briefing_text.whole(made, said)
    assert "<script" not in text and not re.search(r"(?<!\\)\]\(", text)
    assert "\\[click\\]" in text and ":\\//evil.example" in text and "www\\.evil" in text and "a\\@b" in text
    assert "\n# head" not in text and "\n- list" not in text


@pytest.mark.parametrize("attack", attacks(60), ids=lambda attack: str(attack.number))
def test_P47_no_hostile_text_survives_as_markdown(attack: Any) -> None:
    told = briefing_text.md(attack.text)
    assert "\n" not in told and told.isprintable()
    assert not re.search(r"(?<!\\)[<>\[\]`*|~#]", told), told
    assert "://" not in told


def test_our_own_codes_and_names_stay_readable() -> None:
    assert briefing_text.md("VIX_UNKNOWN") == "`VIX_UNKNOWN`" and briefing_text.md("VIX") == "VIX"
    assert briefing_text.md("20240304-ibs_rsi-AAA 1,234.50 USD") == "20240304-ibs_rsi-AAA 1,234.50 USD"
    assert briefing_text.md("_em_ a_b") == "\\_em\\_ a_b"
    assert briefing_text.md("&lt;b&gt;") == "&amp;lt;b&amp;gt;"


def test_a_key_in_a_text_is_masked(seen: Observed) -> None:
    seen.alerts({**seen.alert("A"), "words": "POLYGON_API_KEY=abc123def456"})
    made = brief(seen, "pregame")
    assert not any("abc123def456" in line for line in every_word(made))
    assert b"abc123def456" not in briefing_page.render(made, SILENT)


# ---------------------------------------------------------------- the page
@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_desk_and_asks_for_nothing(seen: Observed, tmp_path: Path, width: int) -> None:
    a_day(seen)
    seen.alerts({**seen.alert("A"), "words": "w" * 300})
    folder = tmp_path / "page"
    folder.mkdir()
    page = briefing_page.render(brief(seen, "postgame"), Narrative(("Well.",), "OK", "", "m-1"))
    (folder / "report.html").write_bytes(page)
    found = look(folder, width, tmp_path / "profile")
    assert found.numbers["scroll"] <= found.numbers["client"] == width
    assert found.numbers["charts"] >= 2 and found.numbers["small"] == 0 and found.console == []
    assert set(found.asked) == {"/measure.html", "/report.html"}
