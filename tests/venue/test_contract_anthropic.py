"""The Messages routes: the real client meets every reply and every error, and both are shaped as published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests

from core.clock import SteppedClock
from core.market.real import BarsMarket
from core.market_calendar import MarketCalendar
from execution.venue import anthropic_faults
from execution.venue.anthropic_model import PRICES, SimulatedModel
from execution.venue.faults import Fault, FaultPlan
from execution.venue.host import VenueHost
from execution.venue.server import EmbeddedVenue

from .conftest import DAYS, at, columns

ROUTE = "POST /v1/messages"
SPEC = Path(__file__).resolve().parents[2] / ".." / "shared" / "api" / "specs" / "anthropic-messages.json"
BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "What of AAA?"}],
}  # fmt: skip


@contextmanager
def venue(kind: str, folder: Path, calendar: MarketCalendar, *faults: str) -> Iterator[tuple[str, SimulatedModel]]:
    market = BarsMarket({"AAA": columns([(20.0, 20.0, 20.0, 20.0)] * len(DAYS))})
    clock, plan = SteppedClock(at(DAYS[1], "10:00")), FaultPlan([Fault(ROUTE, n, f) for n, f in enumerate(faults, 1)])
    if kind == "embedded":
        made = EmbeddedVenue(market, clock, folder / "v.sqlite", calendar=calendar, faults=plan)
        try:
            yield made.start(), made.model
            assert made.failures == []
        finally:
            made.stop()
        return
    host = VenueHost()
    url = host.start()
    store = host.open(market, clock, folder / "v.sqlite", calendar=calendar, faults=plan)
    try:
        yield url, host.model
        assert host.failures == []
    finally:
        store.close()
        host.stop()


def client_at(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import anthropic

    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(folder))
    return anthropic.Anthropic(api_key="key", base_url=url, max_retries=0, timeout=10)


EXCEPTIONS = {
    "invalid_request_error": "BadRequestError", "usage_limits": "BadRequestError",
    "authentication_error": "AuthenticationError", "billing_error": "PaymentRequiredError",
    "permission_error": "PermissionDeniedError", "not_found_error": "NotFoundError",
    "request_too_large": "ContentTooLargeError", "rate_limit_error": "RateLimitError",
    "spend_limit": "EnforcedSpendLimitReachedError", "api_error": "InternalServerError",
    "timeout_error": "GatewayTimeoutError", "overloaded_error": "OverloadedError",
}  # fmt: skip


def test_the_real_client_names_every_error_as_for_the_real_api(
    tmp_path: Path, calendar: MarketCalendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    import anthropic

    assert set(EXCEPTIONS) == set(anthropic_faults.ERRORS)
    faults = [f"llm:error:{kind}" for kind in EXCEPTIONS]
    with venue("host", tmp_path, calendar, *faults) as (url, model), client_at(url, tmp_path, monkeypatch) as client:
        for name in EXCEPTIONS.values():
            with pytest.raises(anthropic.APIStatusError) as caught:
                client.messages.create(**BODY)
            assert type(caught.value).__name__ == name and caught.value.request_id == "req_simulated"
        assert model.requests == 0, "errors take no effect, and are not billed"


@pytest.mark.parametrize("kind", ["embedded", "host"])
def test_both_fronts_play_the_same_replies_and_bill_the_same(
    tmp_path: Path, calendar: MarketCalendar, kind: str
) -> None:
    faults = [f"llm:{name}" for name in anthropic_faults.CHANGES] + ["llm:error:rate_limit_error:7", "reset"]
    with venue(kind, tmp_path, calendar, *faults) as (url, model):
        replies = []
        for _ in faults[:-1]:
            replies.append(requests.post(f"{url}/v1/messages", json=BODY, headers={"x-api-key": "k"}, timeout=10))
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{url}/v1/messages", json=BODY, headers={"x-api-key": "k"}, timeout=10)
        found = {fault: (reply.status_code, reply.json()) for fault, reply in zip(faults[:-1], replies, strict=True)}
    assert replies[-1].headers["retry-after"] == "7" and replies[-1].status_code == 429
    assert {status for fault, (status, _) in found.items() if "error:" not in fault} == {200}
    assert found["llm:refusal"][1]["stop_reason"] == "refusal" and "usage" not in found["llm:no_usage"][1]
    assert [block["type"] for block in found["llm:thinking"][1]["content"]] == ["thinking"]
    assert model.requests == len(faults) - 1, "what took effect is billed, whatever became of the reply"
    (bill,) = model.bills.values()
    assert bill.calls == model.requests and bill.usd == bill.calls * Decimal("0.000046")  # 16 tokens in, 6 out


def test_the_bill_by_hand(tmp_path: Path, calendar: MarketCalendar) -> None:
    model = SimulatedModel(say=lambda body: "x" * 30, dearer={DAYS[1]: Decimal(2)})
    now = at(DAYS[0], "10:00")
    _, _, counted = model.answer(BODY, now, DAYS[0])
    before = counted.fresh * Decimal("0.000001") + 10 * Decimal("0.000005")
    model.answer(BODY, now, DAYS[1])
    assert (model.bills[DAYS[0]].usd, model.bills[DAYS[1]].usd) == (before, 2 * before)
    text, stop, counted = model.answer({**BODY, "max_tokens": 5}, now, DAYS[0])
    assert (len(text), stop, counted.output) == (15, "max_tokens", 5)


def test_bodies_satisfy_the_published_document(tmp_path: Path, calendar: MarketCalendar) -> None:
    import jsonschema

    if not SPEC.is_file():
        pytest.skip("the published API documents are not beside this checkout")
    document = json.loads(SPEC.read_text("utf-8"))
    published = ["invalid_request_error", "authentication_error", "billing_error", "permission_error",
                 "not_found_error", "rate_limit_error", "api_error", "timeout_error", "overloaded_error"]  # fmt: skip
    good = ["llm:thinking_first", "llm:truncated", "llm:refusal", "llm:tool"]
    with venue("host", tmp_path, calendar, *good, *(f"llm:error:{name}" for name in published)) as (url, _):
        for number in range(len(good) + len(published) + 1):
            reply = requests.post(f"{url}/v1/messages", json=BODY, headers={"authorization": "Bearer k"}, timeout=10)
            kind = "Message" if reply.status_code == 200 else "ErrorResponse"
            assert (kind == "Message") is (number < len(good) or number == len(good) + len(published))
            body = reply.json()
            if number == 3:  # `caller` of a tool call is required by the document and left out by real replies
                body["content"][0]["caller"] = {"type": "direct"}
            schema = {**document["components"]["schemas"][kind], "components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(body)


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"model": "claude-unheard-of"}, 404, "not_found_error"), ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"temperature": 0}, 400, "invalid_request_error"), ({"stream": True}, 400, "invalid_request_error"),
    ],
)  # fmt: skip
def test_what_the_api_refuses_is_refused(
    tmp_path: Path, calendar: MarketCalendar, change: dict[str, Any], status: int, kind: str
) -> None:
    headers = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
    with venue("host", tmp_path, calendar) as (url, model):
        reply = requests.post(f"{url}/v1/messages", json={**BODY, **change}, headers=headers, timeout=10)
        assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind)
        assert not model.bills
        no_key = requests.post(f"{url}/v1/messages", json=BODY, timeout=10)
        assert no_key.status_code == 401
        models = requests.get(f"{url}/v1/models", headers=headers, timeout=10).json()["data"]
        assert {row["id"] for row in models} == set(PRICES)
