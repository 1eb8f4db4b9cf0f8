"""Which sessions count, what became of a decision with and without the model, and what the calls cost."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.clock import SystemClock
from core.journal import Journal
from scripts import llm_value, runner, valuing
from tests.fakes.attacks import asked_in, user_text
from tests.fakes.bar_files import small_market
from tests.fakes.llm import KEY, calendar_of, llm_desk, llm_host
from tests.fakes.recorded_day import DAY, SETTINGS

MODEL = "claude-haiku-4-5"
PRICE = {
    "model": MODEL, "effective": "2023-01-01", "input_usd": 1, "output_usd": 5, "write_5m_usd": 1.25,
    "write_1h_usd": 2, "read_usd": 0.1,
}  # fmt: skip
_QUOTED_DATE = re.compile(r'"(\d{4}-\d{2}-\d{2})"')
ADVICE = {"IBS1": ("veto", 0), "IBS2": ("shrink", 0.5)}  # SOUP is approved


def advised(body: Mapping[str, Any]) -> str:
    rows = []
    for decision_id, symbol in asked_in(user_text(body)):
        verdict, scale = ADVICE.get(symbol, ("approve", 1))
        rows.append({"decision_id": decision_id, "symbol": symbol, "verdict": verdict, "scale": scale,
                     "confidence": None, "reasons": []})  # fmt: skip
    return json.dumps({"advice": rows})


class Day:
    """One day was traded with the model's advice: IBS1 vetoed, IBS2 halved, SOUP left as it was."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / "home"
        self.market = small_market(root / "market")
        (root / "universe.csv").write_text("symbol,sector\nIBS1,A\nIBS2,B\nSOUP,C\nCALM,A\n", encoding="utf-8")

    def configure(self, cutoffs: list[dict[str, str]]) -> None:
        llm = {"mode": "full", "model": MODEL, "prices": {"rows": [PRICE]}, "cutoffs": cutoffs}
        made = {**SETTINGS, "cognitive": {"llm_analyzer": llm}}
        text = _QUOTED_DATE.sub(r"\1", json.dumps(made))  # YAML's own dates
        (self.root / "settings.yaml").write_text(text, encoding="utf-8")

    def use(self, monkeypatch: pytest.MonkeyPatch, url: str = "") -> None:
        monkeypatch.setenv("KOBE_HOME", str(self.home))
        monkeypatch.setenv("KOBE_CONFIG", str(self.root / "settings.yaml"))
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    made = Day(tmp_path_factory.mktemp("day"))
    made.configure([{"model": MODEL, "trained_until": "2024-03-04"}])
    with ExitStack() as stack:
        host = stack.enter_context(llm_host())
        desk = stack.enter_context(llm_desk(host, made.root / "desk", calendar_of(made.root / "calendar")))
        desk.model.say = advised
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        made.use(monkeypatch, desk.url)
        assert runner.main([
            "--mode", "paper", "--market", str(made.market), "--universe", str(made.root / "universe.csv"), "--fills",
            "at_open", "--replay", f"{DAY}:{DAY}", "--no-sidecar", "--no-alerts", "--json",
        ]) == 0  # fmt: skip
        yield made


def facts_of(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = llm_value.main(["--json", *more])
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, facts


def twins_of(day: Day, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from scripts import wiring

    day.use(monkeypatch)
    context = wiring.open_context(argparse.Namespace(dotenv=None))
    wiring.resume_replayed_account(context)
    ledger, reviewed = valuing.folded(Journal(day.home / "state" / "hash_chain.jsonl", SystemClock()).records())
    gathered = valuing.gather(context, reviewed)
    return {t.decision_id.rsplit("-", 1)[1]: t for t in valuing.twins(context, gathered, ledger)}


def test_what_each_decision_got_with_and_without_the_model(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    found = twins_of(day, monkeypatch)
    assert set(found) == {"IBS1", "IBS2", "SOUP"}
    vetoed, shrunk, same = found["IBS1"], found["IBS2"], found["SOUP"]
    assert (vetoed.part_on, vetoed.part_off, vetoed.shares_on) == (0, 1, 0)
    assert (shrunk.part_on, shrunk.part_off) == (Decimal("0.5"), 1) and 0 < shrunk.shares_on < shrunk.shares_off
    assert same.part_on == same.part_off == 1 and same.shares_on == same.shares_off > 0
    assert {t.code for t in found.values()} == {"STILL_OPEN"}  # the market ends with the entry's bar


def test_what_became_of_a_veto_says_the_engine_once_the_bars_are_there(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = next(path for path in (day.home / "cache").iterdir() if path.name.startswith("market-"))
    file = cache / "IBS1.csv"
    before = file.read_bytes()
    from core.market_calendar import market_calendar

    calendar = market_calendar()
    last = before.decode().splitlines()[-1].split(",")
    price = float(last[4])
    days = calendar.sessions_between(calendar.next_session(date.fromisoformat(last[0])), date(2024, 3, 28))
    rows = [f"{d},{price * 0.5:.2f},{price * 0.51:.2f},{price * 0.49:.2f},{price * 0.5:.2f},2000000" for d in days]
    try:
        first = f"{days[0]},{price:.2f},{price * 1.01:.2f},{price * 0.999:.2f},{price:.2f},2000000"
        file.write_bytes(before + "\n".join([first, *rows[1:], ""]).encode())
        vetoed = twins_of(day, monkeypatch)["IBS1"]
    finally:
        file.write_bytes(before)
    assert (vetoed.code, vetoed.source) == ("OK", "engine")
    assert vetoed.shares_off > 0 and vetoed.result_usd is not None and vetoed.result_usd < 0
    assert vetoed.value_usd == (-vetoed.shares_off * vetoed.result_usd).quantize(Decimal("0.01")) > 0
    assert vetoed.r is not None and vetoed.value_r == -vetoed.r > 0


@pytest.mark.parametrize(
    ("cutoffs", "code"),
    [
        ([], "CUTOFF_UNKNOWN"), ([{"model": "another", "trained_until": "2020-01-01"}], "CUTOFF_UNKNOWN"),
        ([{"model": MODEL, "trained_until": DAY.isoformat()}], "BEFORE_CUTOFF"),
    ],
)  # fmt: skip
def test_only_sessions_after_the_cut_off_count_and_the_others_are_told(
    day: Day, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cutoffs: list[dict[str, str]],
    code: str,
) -> None:  # fmt: skip
    day.use(monkeypatch)
    day.configure([{"model": MODEL, "trained_until": "2024-03-04"}])
    exit_code, facts = facts_of(capsys)
    assert (exit_code, facts["total"]["sessions"], facts["left_out"]["sessions"]) == (0, 1, {})
    assert facts["left_out"]["decisions"] == {"STILL_OPEN": 3}
    assert Decimal(facts["total"]["net_usd"]) == -Decimal(facts["total"]["cost_usd"]) <= 0
    try:
        day.configure(cutoffs)
        exit_code, facts = facts_of(capsys)
    finally:
        day.configure([{"model": MODEL, "trained_until": "2024-03-04"}])
    assert (exit_code, facts["total"]["sessions"], facts["left_out"]["sessions"]) == (1, 0, {code: 1})


def test_a_span_leaves_the_other_sessions_out(
    day: Day, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    day.use(monkeypatch)
    assert facts_of(capsys, "--start", DAY.isoformat(), "--end", DAY.isoformat())[1]["total"]["sessions"] == 1
    assert facts_of(capsys, "--start", "2024-03-06")[1]["total"]["sessions"] == 0
    assert facts_of(capsys, "--end", "2024-03-04")[1]["total"]["sessions"] == 0


def test_without_the_recorded_inputs_a_session_is_not_guessed(
    day: Day, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    day.use(monkeypatch)
    file = day.home / "logs" / "inputs" / f"{DAY}.jsonl"
    aside = file.rename(file.with_suffix(".away"))
    try:
        assert facts_of(capsys)[1]["left_out"]["sessions"] == {"INPUTS_NOT_KEPT": 1}
    finally:
        aside.rename(file)


def test_the_screen_says_it_in_words(
    day: Day, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    day.use(monkeypatch)
    assert llm_value.main([]) == 0
    out = capsys.readouterr().out
    assert "too few sessions to say how sure that is" in out and "not counted: 3 decisions, STILL_OPEN" in out


def reviewed(day: str, label: str, llm: dict[str, Any] | None) -> Any:
    body = {"run": f"{day}T{label}", "signals": [{"decision_id": "x", "llm": llm}]}
    return SimpleNamespace(kind="signals_reviewed", body=body)


def test_sessions_without_advice_are_told_as_such(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import wiring

    day.use(monkeypatch)
    context = wiring.open_context(argparse.Namespace(dotenv=None))
    late, said = {"code": "LLM_TIMEOUT", "model": ""}, {"code": "OK", "model": f"{MODEL}-20260901"}
    found = valuing.gather(context, [
        reviewed("2026-07-01", "09:35", None), reviewed("2026-07-01", "10:30", late),
        reviewed("2026-07-02", "09:35", late), reviewed("2026-07-02", "10:30", said),
        reviewed("2026-07-02", "15:55", said),
    ])  # fmt: skip
    assert found.left_out == {"LLM_NOT_ASKED": 1, "INPUTS_NOT_KEPT": 1} and found.days == []


# ---------------------------------------------------------------- what the calls cost
def line(kind: str, number: str, usd: str, day: str = "2026-07-01", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "id": number, "day": day, "usd": usd, "tokens": 1, **more}


def test_costs_are_what_was_settled_and_what_nobody_settled_counts_as_reserved() -> None:
    found = valuing.costs([
        line("reserved", "a", "0.50", purpose="advice"), line("settled", "a", "0.02"),
        line("reserved", "b", "0.50", purpose="advice"),
        line("reserved", "c", "0.50", purpose="briefing"), line("settled", "c", "0.03"),
        line("reserved", "d", "0.50", "2026-07-02", purpose="advice"), line("settled", "d", "0", "2026-07-02"),
        {"kind": "day_began", "day": "2026-07-03"},
    ], {})  # fmt: skip
    assert found.advice == {date(2026, 7, 1): Decimal("0.52"), date(2026, 7, 2): Decimal(0)}
    assert found.briefings == {date(2026, 7, 1): Decimal("0.03")}


def test_what_was_paid_on_another_day_counts_for_the_session_it_was_asked_for() -> None:
    record: Any = SimpleNamespace(
        body={"run": "2026-03-05T09:35", "signals": [{"llm": {"request_sha256": "ab"}}, {"llm": None}]}
    )
    again: Any = SimpleNamespace(body={"run": "2026-03-06T09:35", "signals": [{"llm": {"request_sha256": "ab"}}]})
    lines = [line("reserved", "a", "0.50", purpose="advice", request_sha256="ab"), line("settled", "a", "0.02")]
    found = valuing.costs(lines, valuing.requests_of([record, again]))
    assert found.advice == {date(2026, 3, 5): Decimal("0.02")}
