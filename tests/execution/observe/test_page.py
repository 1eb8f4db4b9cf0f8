"""The page: everything is in the HTML itself, marked for what it is, and bounded."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from core.clock import SteppedClock
from execution.observe.page import ERRORS_MOST, render
from execution.observe.page_assets import SCRIPT, STYLE
from execution.observe.page_parts import ROWS_MOST
from tests.fakes.observed import Observed, a_pick, at_ten, hostile, ny

VOID = {"meta", "link", "br", "line", "img"}


def page_of(made: Observed) -> str:
    return render(made.look(), made.ready()).decode()


class Balanced(HTMLParser):
    """Raises when a tag is not closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()


@pytest.mark.parametrize("world", [at_ten, hostile, lambda p: Observed(p, SteppedClock(ny("09:00")))])
def test_every_tag_is_closed_in_its_order(tmp_path: Path, world: object) -> None:
    parser = Balanced()
    parser.feed(page_of(world(tmp_path)))  # type: ignore[operator]
    assert parser.open == []


def test_the_facts_need_no_script(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    bare = re.sub(r"<script>.*?</script>", "", page_of(made), flags=re.S)
    for fact in ("ARMED", "AAA", "50.05", "100,000.00 USD", "in step", "bought 1 of 1", "paper", "embedded venue"):
        assert fact in bare, fact
    assert '<noscript><meta http-equiv="refresh"' in bare


@pytest.mark.parametrize(("simulated", "bars", "marked"), [(True, False, True), (False, True, True),
                                                           (False, False, False)])  # fmt: skip
def test_what_is_simulated_is_marked(tmp_path: Path, simulated: bool, bars: bool, marked: bool) -> None:
    made = at_ten(tmp_path, simulated=simulated)
    made.scanned(simulated=bars)
    page = page_of(made)
    assert (">SIMULATED<" in page) is marked and ("(simulated)" in page) is marked


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_the_mode_is_said(tmp_path: Path, mode: str) -> None:
    made = at_ten(tmp_path, mode=mode)
    assert f">{mode.upper()}<" in page_of(made)


@pytest.mark.parametrize(
    ("world", "state"),
    [(lambda m: None, "ARMED"), (lambda m: m.home.kill_switch.touch(), "HALTED"), (lambda m: m.beat("stopped"),
                                                                                  "NOT READY")],
)  # fmt: skip
def test_the_state_is_in_title_and_head(tmp_path: Path, world: object, state: str) -> None:
    made = at_ten(tmp_path)
    world(made)  # type: ignore[operator]
    page = page_of(made)
    assert f"<title>{state} " in page and f">{state}</span>" in page


def test_long_tables_and_lists_are_bounded(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    for n in range(ROWS_MOST + 15):
        made.buy(f"SYM{n}")
    for n in range(ERRORS_MOST + 5):
        made.log("errors.jsonl", "thing_failed", code=f"CODE_{n}", detail="y" * 5000)
    made.scanned(*(a_pick(f"d{n}", symbol=f"PICK{n}") for n in range(500)))
    page = page_of(made)
    assert "and 16 more" in page and "and 5 more in logs/errors.jsonl" in page and "and 460 more" in page
    assert len(page) < 100_000


def test_unknown_is_said_with_its_code_and_a_break_is_marked(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    told = {"symbol": "AAA", "kind": "POSITION_QUANTITY", "cause": "MANUAL_TRADE", "ours": "1", "theirs": "3"}
    made.journal.append("break_found", {**told, "proposal": "cure it", "evidence": []})
    page = page_of(made)
    assert '<span class="tag bad">3</span>' in page and "cure it" in page
    assert "unknown (LLM_ABSENT)" in page and "unknown (NO_REVIEWS)" in page


def test_alerts_that_stand_are_shown_worst_first_and_others_are_not(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    page = lambda: render(made.look(), made.ready(), made.observer().alerts()).decode()  # noqa: E731
    assert "unknown (ALERTS_ABSENT)" in page()
    made.alerts()
    assert "None stands." in page()
    over = {**made.alert("gone"), "raised_at": None}
    made.alerts(made.alert("mild"), over, made.alert("grave", "critical", acknowledged_at=made.clock.now()))
    text = page()
    assert text.index("words of grave") < text.index("words of mild") and "words of gone" not in text
    assert "acknowledged" in text and "cure of mild" in text
    (made.home.state / "alerts.json").write_text('{"entries": [{}]}')
    assert "unknown (ALERTS_DAMAGED)" in page()


def test_light_and_dark_phone_and_desktop() -> None:
    assert "prefers-color-scheme:dark" in STYLE and "color-scheme:light dark" in STYLE
    assert "max-width:759px" in STYLE and "min-width:760px" in STYLE
    names = set(re.findall(r"var\((--[\w-]+)\)", STYLE))
    light, dark = (set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root\{(.*?)\}", STYLE, re.S))
    assert names <= light == dark, "every colour has both"


def test_the_script_asks_its_own_page_only() -> None:
    assert re.findall(r"fetch\(([^,]+),", SCRIPT) == ["location.pathname"]
    assert not re.search(r"eval|innerHTML|document\.write|localStorage|https?:", SCRIPT)
