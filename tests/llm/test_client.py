"""Every way a call can end, against the venue, through the real SDK; the ledger beside the venue's own bill."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from core import logs
from core.clock import SystemClock
from core.market_calendar import NEW_YORK
from llm.client import Answer, Purpose, Skipped, open_door
from tests.fakes.llm import KEY, Open, llm_settings, prompt

NO_OPINION = '{"opinion":"none"}'


def test_an_answer_costs_what_the_venue_bills(open_desk: Open) -> None:
    desk = open_desk()
    answer = desk.answered()
    assert (answer.text, answer.cached) == (NO_OPINION, False)
    assert answer.model == "claude-haiku-4-5-20260901"
    assert answer.usage is not None and answer.usage.tokens == desk.billed[0]
    assert (desk.budget.used_today, desk.budget.cost_usd_today) == desk.billed
    assert answer.cost_usd == desk.billed[1] > 0
    assert desk.budget.get_status()["reserved_tokens"] == 0


BILLED = "billed as told"
KEPT = "the reservation counts"
FREE = "nothing counts"


@pytest.mark.parametrize(
    ("fault", "code", "counts"),
    [
        ("llm:truncated", "LLM_TRUNCATED", BILLED), ("llm:window", "LLM_TRUNCATED", BILLED),
        ("llm:refusal", "LLM_REFUSED", BILLED), ("llm:thinking", "LLM_EMPTY", BILLED),
        ("llm:paused", "LLM_PAUSED", BILLED), ("llm:unheard_of", "LLM_STOPPED", BILLED),
        ("llm:tool", "LLM_TOOL_UNASKED", BILLED),
        ("llm:empty_object", "LLM_MALFORMED", KEPT), ("llm:content_text", "LLM_MALFORMED", KEPT),
        ("html", "LLM_MALFORMED", KEPT), ("empty", "LLM_MALFORMED", KEPT),
        ("truncate", "LLM_CONNECTION_LOST", KEPT), ("reset", "LLM_CONNECTION_LOST", KEPT),
        ("reset_before", "LLM_CONNECTION_LOST", KEPT),
        ("status:500", "LLM_SERVER_ERROR", KEPT), ("status_after:502", "LLM_SERVER_ERROR", KEPT),
        ("status:429", "LLM_RATE_LIMITED", FREE), ("status:418", "LLM_REJECTED", FREE),
        ("redirect", "LLM_REDIRECTED", FREE),
        ("llm:error:invalid_request_error", "LLM_BAD_REQUEST", FREE),
        ("llm:error:usage_limits", "LLM_SPEND_LIMIT", FREE),
        ("llm:error:authentication_error", "LLM_KEY_REFUSED", FREE), ("llm:error:billing_error", "LLM_BILLING", FREE),
        ("llm:error:permission_error", "LLM_FORBIDDEN", FREE), ("llm:error:not_found_error", "LLM_MODEL_UNKNOWN", FREE),
        ("llm:error:request_too_large", "LLM_TOO_LARGE", FREE),
        ("llm:error:rate_limit_error", "LLM_RATE_LIMITED", FREE),
        ("llm:error:rate_limit_error:1", "LLM_RATE_LIMITED", FREE),
        ("llm:error:rate_limit_error:3600", "LLM_RATE_LIMITED", FREE),
        ("llm:error:spend_limit", "LLM_SPEND_LIMIT", FREE),
        ("llm:error:api_error", "LLM_SERVER_ERROR", FREE), ("llm:error:timeout_error", "LLM_SERVER_TIMEOUT", KEPT),
        ("llm:error:overloaded_error", "LLM_OVERLOADED", FREE), ("llm:error_in_200", "LLM_OVERLOADED", KEPT),
    ],
)  # fmt: skip
def test_every_bad_end_is_skipped_with_its_reason_and_one_request(
    open_desk: Open, fault: str, code: str, counts: str
) -> None:
    desk = open_desk(fault)
    skipped = desk.skipped()
    assert skipped.code == code
    used, usd = desk.budget.used_today, desk.budget.cost_usd_today
    assert used >= desk.billed[0] and skipped.cost_usd == usd
    assert {BILLED: (used, usd) == desk.billed, KEPT: used > 1000, FREE: used == usd == 0}[counts]
    assert len(desk.plan.played) == 1, "it was sent twice"
    assert desk.budget.get_status()["reserved_tokens"] == 0


@pytest.mark.parametrize("fault", ["timeout_before", "timeout_after", "drip"])
def test_silence_and_drips_end_at_the_deadline(open_desk: Open, fault: str) -> None:
    desk = open_desk(fault, settings=llm_settings(deadline_s=0.4))
    skipped = desk.skipped()
    assert skipped.code == "LLM_TIMEOUT"
    assert desk.budget.used_today > 1000 >= desk.billed[0]


def test_what_was_waited_for_earlier_parts_is_taken_off_the_deadline(open_desk: Open) -> None:
    desk = open_desk("timeout_before", settings=llm_settings(deadline_s=300.0))
    assert desk.skipped(waited_s=300.0).code == "LLM_TIMEOUT"
    assert desk.plan.played == [] and desk.lines() == [], "nothing is reserved for what cannot be sent"
    assert desk.skipped(waited_s=299.6).code == "LLM_TIMEOUT"


def test_nobody_listening_costs_nothing(open_desk: Open) -> None:
    desk = open_desk()
    found = desk.door(base_url="http://127.0.0.1:9").ask(prompt())
    assert isinstance(found, Skipped) and found.code == "LLM_UNREACHABLE"
    assert desk.budget.used_today == 0


def test_a_proxy_that_cannot_be_used_is_a_reason(open_desk: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:secret-word@127.0.0.1:1")
    desk = open_desk()
    found = desk.door(base_url="https://api.anthropic.invalid").ask(prompt())
    assert isinstance(found, Skipped) and found.code == "LLM_UNREACHABLE" and "secret-word" not in found.detail
    assert desk.budget.used_today == 0


@pytest.mark.parametrize("fault", ["llm:no_usage", "llm:odd_usage"])
def test_an_answer_without_usage_is_used_and_counts_as_its_worst_case(open_desk: Open, fault: str) -> None:
    desk = open_desk(fault)
    answer = desk.answered()
    assert answer.text == NO_OPINION and answer.usage is None
    assert desk.budget.used_today > 1000 and answer.cost_usd == desk.budget.cost_usd_today


@pytest.mark.parametrize("fault", ["llm:bare_usage", "llm:thinking_first"])
def test_what_real_replies_leave_out_or_put_first_is_no_trouble(open_desk: Open, fault: str) -> None:
    desk = open_desk(fault)
    assert desk.answered().text == NO_OPINION
    assert (desk.budget.used_today, desk.budget.cost_usd_today) == desk.billed


def test_thinking_that_eats_the_output_ends_truncated_and_is_paid(open_desk: Open) -> None:
    desk = open_desk()
    desk.model.thinking_tokens = 5000
    assert desk.skipped().code == "LLM_TRUNCATED"
    assert (desk.budget.used_today, desk.budget.cost_usd_today) == desk.billed


def test_a_reply_without_end_is_cut(open_desk: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.wire.REPLY_MOST_BYTES", 100)
    desk = open_desk()
    assert desk.skipped().code == "LLM_MALFORMED"
    assert desk.budget.used_today >= desk.billed[0]


@pytest.mark.parametrize(
    ("changes", "purpose", "code"),
    [
        ({"enabled": False}, Purpose.BRIEFING, "LLM_OFF"), ({"mode": "off"}, Purpose.BRIEFING, "LLM_OFF"),
        ({"mode": "briefings_only"}, Purpose.ADVICE, "LLM_BRIEFINGS_ONLY"),
        ({"mode": "briefings_only"}, Purpose.BRIEFING, ""),
        ({"mode": "full"}, Purpose.ADVICE, ""), ({"mode": "full"}, Purpose.BRIEFING, ""),
    ],
)  # fmt: skip
def test_the_mode_says_who_may_ask(open_desk: Open, changes: dict[str, object], purpose: Purpose, code: str) -> None:
    desk = open_desk(settings=llm_settings(**changes))
    found = desk.ask(purpose=purpose)
    assert (found.code if isinstance(found, Skipped) else "") == code
    assert desk.model.requests == (0 if code else 1)


def test_without_a_key_nothing_is_sent_and_nothing_reserved(open_desk: Open) -> None:
    desk = open_desk()
    found = desk.door(key=None).ask(prompt())
    assert isinstance(found, Skipped) and found.code == "LLM_KEY_ABSENT"
    assert desk.model.requests == 0 and desk.lines() == []


def test_after_failures_in_a_row_nothing_is_asked_for_a_while(open_desk: Open) -> None:
    desk = open_desk(*["llm:error:overloaded_error"] * 3)
    assert [desk.skipped(str(n)).code for n in range(4)] == ["LLM_OVERLOADED"] * 3 + ["LLM_RESTING"]
    desk.clock.sleep(desk.settings.rest_s - 1)
    assert desk.skipped().code == "LLM_RESTING"
    desk.clock.sleep(1)
    assert isinstance(desk.ask(), Answer)
    assert isinstance(desk.ask("again"), Answer), "an answer ends the row"


@pytest.mark.parametrize(
    ("fault", "rest_s"),
    [
        ("llm:error:rate_limit_error:1", 1), ("llm:error:rate_limit_error", 300),
        ("llm:error:rate_limit_error:86400", 3600), ("llm:error:spend_limit", 3600),
    ],
)  # fmt: skip
def test_a_429_is_obeyed_for_an_hour_at_most(open_desk: Open, fault: str, rest_s: float) -> None:
    desk = open_desk(fault)
    desk.skipped()
    desk.clock.sleep(rest_s - 0.5)
    assert desk.skipped().code == "LLM_RESTING"
    desk.clock.sleep(0.5)
    assert isinstance(desk.ask(), Answer)


def test_a_long_prefix_that_repeats_is_marked_and_read_back_cheaper(open_desk: Open) -> None:
    desk = open_desk(settings=llm_settings(max_daily_tokens=10**6))
    system = "Review with care. " * 1000
    costs = [desk.answered(text, system=system, repeats=2).cost_usd for text in ("one", "two")]
    assert costs[1] < costs[0] / 5
    assert (desk.budget.used_today, desk.budget.cost_usd_today) == desk.billed
    desk.answered("three", system=system)  # not marked: it does not repeat
    usage = [row["usage"] for row in desk.lines("settled")]
    assert [row["write_5m_tokens"] > 0 for row in usage] == [True, False, False]
    assert [row["read_tokens"] > 0 for row in usage] == [False, True, False]


def test_raw_words_are_kept_masked(open_desk: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = open_desk(say=lambda body: f"Here is a key: {KEY}")
    desk.answered()
    kept = (desk.home.logs / "llm" / "2026-11-24.jsonl").read_text("utf-8")
    row = json.loads(kept)
    assert row["user"] == "What of AAA?" and row["code"] == "OK" and "Here is a key" in row["reply"]
    assert KEY not in kept


def test_the_sdk_is_told_the_schema_and_never_the_temperature(open_desk: Open) -> None:
    seen: list[dict[str, object]] = []
    desk = open_desk(say=lambda body: seen.append(dict(body)) or "{}")  # type: ignore[func-returns-value]
    desk.answered(schema={"type": "object", "properties": {}, "required": [], "additionalProperties": False})
    (body,) = seen
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": {
        "type": "object", "properties": {}, "required": [], "additionalProperties": False}}}  # fmt: skip
    assert not {"temperature", "top_p", "top_k", "stream", "tools"} & set(body)


def test_what_is_skipped_and_answered_is_counted(open_desk: Open) -> None:
    before = logs.counters()
    desk = open_desk("llm:refusal")
    desk.skipped()
    desk.answered("another")
    after = logs.counters()
    key = ("llm_skipped", (("code", "LLM_REFUSED"),))
    assert after[key] == before.get(key, 0) + 1
    assert any(name == "llm_answered" for name, _ in after)


def test_a_dollar_limit_that_is_tighter_binds(open_desk: Open) -> None:
    settings = llm_settings(
        cost_tracking__max_daily_usd=Decimal("0.0001"), cost_tracking__alert_threshold_usd=Decimal(0)
    )
    assert open_desk(settings=settings).skipped().code == "LLM_BUDGET_USD"


def test_money_is_spent_today_whatever_day_is_played(open_desk: Open) -> None:
    desk = open_desk()
    door = open_door(
        desk.settings, key=KEY, base_url=desk.url, clock=desk.clock, calendar=desk.calendar, home=desk.home
    )  # fmt: skip
    before = SystemClock().now().astimezone(NEW_YORK).date()
    assert isinstance(door.ask(prompt()), Answer)
    (line,) = desk.lines("reserved")
    assert line["day"] in {str(before), str(SystemClock().now().astimezone(NEW_YORK).date())}


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "\udcff", "x" * 200_000, ""])
def test_no_text_whatever_makes_the_door_raise(open_desk: Open, text: str) -> None:
    desk = open_desk()
    found = desk.ask(text)
    assert isinstance(found, Answer) or found.code in {"LLM_UNREACHABLE", "LLM_BUDGET_TOKENS", "LLM_BAD_REQUEST"}
    assert desk.budget.used_today <= 100_000 and desk.budget.get_status()["reserved_tokens"] == 0
