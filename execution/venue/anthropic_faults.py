"""What can be wrong in a reply of the Messages API: the kinds "llm:NAME" and "llm:error:TYPE[:WAIT]" of a fault plan.

The first change what a good reply says; it was billed. The second take no effect and are not billed; WAIT is the
Retry-After in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

ERRORS: Mapping[str, tuple[int, str]] = {
    "invalid_request_error": (400, "messages: field is wrong"),
    "usage_limits": (400, "You have reached your specified API usage limits."),
    "authentication_error": (401, "invalid x-api-key"),
    "billing_error": (402, "your credit balance is too low"),
    "permission_error": (403, "not allowed"),
    "not_found_error": (404, "model: no such model"),
    "request_too_large": (413, "request exceeds the maximum size"),
    "rate_limit_error": (429, "slow down"),
    "spend_limit": (429, "spend limit reached"),
    "api_error": (500, "internal server error"),
    "timeout_error": (504, "the request took too long"),
    "overloaded_error": (529, "Overloaded"),
}
_TYPES = {"usage_limits": "invalid_request_error", "spend_limit": "rate_limit_error"}
Reply = dict[str, Any]


def _text(text: str) -> Callable[[Reply], Reply]:
    return lambda reply: {**reply, "content": [{"type": "text", "text": text, "citations": None}]}


def _stopped(reason: str, *, cut: bool = False) -> Callable[[Reply], Reply]:
    def change(reply: Reply) -> Reply:
        text = str(reply["content"][0].get("text", ""))
        said = [{"type": "text", "text": text[: len(text) // 2], "citations": None}] if cut else reply["content"]
        return {**reply, "stop_reason": reason, "content": said}

    return change


def _half_json(reply: Reply) -> Reply:
    text = str(reply["content"][0].get("text", ""))
    return _text(text[: max(1, len(text) // 2)])(reply)


def _thinking(reply: Reply) -> Reply:
    return {**reply, "content": [{"type": "thinking", "thinking": "…", "signature": "x"}]}


def _thinking_first(reply: Reply) -> Reply:
    first = [{"type": "thinking", "thinking": "…", "signature": "x"}, {"type": "redacted_thinking", "data": "x"}]
    return {**reply, "content": [*first, *reply["content"]]}


def _tool(reply: Reply) -> Reply:
    call = {"type": "tool_use", "id": "toolu_1", "name": "place_order", "input": {"symbol": "AAA", "qty": 1000}}
    return {**reply, "content": [call], "stop_reason": "tool_use"}


def _no_usage(reply: Reply) -> Reply:
    return {key: value for key, value in reply.items() if key != "usage"}


def _bare_usage(reply: Reply) -> Reply:
    """As one recorded reply had it: neither cache count."""
    usage = reply["usage"]
    return {**reply, "usage": {name: usage[name] for name in ("input_tokens", "output_tokens")}}


def _odd_usage(reply: Reply) -> Reply:
    return {**reply, "usage": {**reply["usage"], "output_tokens": "many"}}


CHANGES: Mapping[str, Callable[[Reply], Reply]] = {
    "garbage": _text("I'd be happy to help! The stock looks great."),
    "half_json": _half_json,
    "truncated": _stopped("max_tokens", cut=True),
    "window": _stopped("model_context_window_exceeded", cut=True),
    "paused": _stopped("pause_turn"),
    "unheard_of": _stopped("some_new_reason"),
    "refusal": _stopped("refusal"),
    "thinking": _thinking,
    "thinking_first": _thinking_first,
    "tool": _tool,
    "no_usage": _no_usage,
    "bare_usage": _bare_usage,
    "odd_usage": _odd_usage,
    "upgraded": lambda reply: {**reply, "model": f"{str(reply['model'])[:-9]}-20261101"},
    "other_model": lambda reply: {**reply, "model": "claude-mythos-5"},
    "error_in_200": lambda reply: {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    "empty_object": lambda reply: {},
    "content_text": lambda reply: {**reply, "content": "words"},
}


def knows(detail: str) -> bool:
    name, _, rest = detail.partition(":")
    kind, _, wait = rest.partition(":")
    return detail in CHANGES or (name == "error" and kind in ERRORS and (not wait or wait.isdigit()))


def takes_effect(detail: str) -> bool:
    return not detail.startswith("error:")


def spoiled(detail: str, status: int, body: bytes) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and further headers of what goes out instead; an error stays what it is."""
    name, _, rest = detail.partition(":")
    if name == "error":
        kind, _, wait = rest.partition(":")
        code, words = ERRORS[kind]
        error: dict[str, Any] = {"type": _TYPES.get(kind, kind), "message": words}
        if kind == "spend_limit":
            error["details"] = {"error_code": "enforced_spend_limit_reached"}
        reply = {"type": "error", "error": error, "request_id": "req_simulated"}
        headers = {"request-id": "req_simulated", **({"retry-after": wait} if wait else {})}
        if code in (429, 529):
            headers["x-should-retry"] = "true"  # as recorded; a client of ours must not care
        return code, json.dumps(reply).encode(), headers
    if status != 200:
        return status, body, {}
    return status, json.dumps(CHANGES[name](json.loads(body))).encode(), {}
