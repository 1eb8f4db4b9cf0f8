"""What a reply of the Messages API means: pure, from status, headers and body to an answer or a code.

| reply                                                     | code                                 | counts as spent |
|-----------------------------------------------------------|--------------------------------------|-----------------|
| 200, `end_turn`, with text                                | OK                                   | its usage       |
| 200, any other stop reason, no text, an unasked tool call | LLM_TRUNCATED, LLM_REFUSED, …        | its usage       |
| 200 that is no message: HTML, half JSON, unknown shape    | LLM_MALFORMED                        | the reservation |
| an error in the API's own words, but 408 and 504          | by its type                          | nothing         |
| another 3xx or 4xx, but 408                               | by its status                        | nothing         |
| 408, 504, another 5xx                                     | LLM_SERVER_TIMEOUT, LLM_SERVER_ERROR | the reservation |
| no reply in time, cut, half                               | LLM_TIMEOUT, LLM_CONNECTION_LOST     | the reservation |
| not one byte of the request left                          | LLM_UNREACHABLE, LLM_TIMEOUT         | nothing         |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llm.prices import Usage, usage_from

_BY_TYPE = {
    "invalid_request_error": "LLM_BAD_REQUEST", "authentication_error": "LLM_KEY_REFUSED",
    "billing_error": "LLM_BILLING", "permission_error": "LLM_FORBIDDEN", "not_found_error": "LLM_MODEL_UNKNOWN",
    "request_too_large": "LLM_TOO_LARGE", "rate_limit_error": "LLM_RATE_LIMITED", "api_error": "LLM_SERVER_ERROR",
    "timeout_error": "LLM_SERVER_TIMEOUT", "overloaded_error": "LLM_OVERLOADED",
}  # fmt: skip
_BY_STATUS = {
    400: "LLM_BAD_REQUEST", 401: "LLM_KEY_REFUSED", 402: "LLM_BILLING", 403: "LLM_FORBIDDEN", 404: "LLM_MODEL_UNKNOWN",
    408: "LLM_SERVER_TIMEOUT", 409: "LLM_CONFLICT", 413: "LLM_TOO_LARGE", 422: "LLM_BAD_REQUEST",
    429: "LLM_RATE_LIMITED", 504: "LLM_SERVER_TIMEOUT", 529: "LLM_OVERLOADED",
}  # fmt: skip
_BY_STOP = {
    "max_tokens": "LLM_TRUNCATED", "model_context_window_exceeded": "LLM_TRUNCATED", "refusal": "LLM_REFUSED",
    "pause_turn": "LLM_PAUSED", "tool_use": "LLM_TOOL_UNASKED",
}  # fmt: skip
_MAY_PASS = frozenset({
    "LLM_RATE_LIMITED", "LLM_SERVER_ERROR", "LLM_SERVER_TIMEOUT", "LLM_OVERLOADED", "LLM_CONFLICT", "LLM_TIMEOUT",
    "LLM_CONNECTION_LOST", "LLM_UNREACHABLE", "LLM_MALFORMED",
})  # fmt: skip
_OVERLOADED = 529
_SPENT_WORDS = "usage limits"
_LONGEST_DETAIL = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call without an answer. `free`: proved not to be billed."""

    code: str
    detail: str = ""
    free: bool = False
    rest_s: float | None = None  # the server's own word, or ours where waiting is the only cure
    spend_limit: bool = False  # of the vendor's account: no wait of minutes helps

    @property
    def may_pass(self) -> bool:
        return self.code in _MAY_PASS and not self.spend_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A whole reply. `code` is OK only for a complete answer with text."""

    code: str
    text: str
    model: str
    usage: Usage | None
    detail: str = ""


def read_message(body: bytes) -> Message | Failure:
    """A reply with status 200."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return _malformed("a 200 that is no JSON")
    if not isinstance(found, dict):
        return _malformed("a 200 that is no object")
    if found.get("type") == "error":
        return replace(read_error(500, {}, body, None), free=False)  # it had begun to answer
    blocks, model = found.get("content"), found.get("model")
    if found.get("type") != "message" or not isinstance(blocks, list) or not isinstance(model, str) or not model:
        return _malformed("a 200 that is no message")
    texts = [b.get("text") for b in blocks if isinstance(b, dict) and b.get("type") == "text"]
    text = "".join(t for t in texts if isinstance(t, str))
    stop = found.get("stop_reason")
    code = "OK" if stop == "end_turn" else _BY_STOP.get(stop, "LLM_STOPPED") if isinstance(stop, str) else "LLM_STOPPED"
    if code == "OK" and any(isinstance(b, dict) and b.get("type") == "tool_use" for b in blocks):
        code = "LLM_TOOL_UNASKED"
    if code == "OK" and not text.strip():
        code = "LLM_EMPTY"
    detail = "" if code == "OK" else f"stop_reason {str(stop)[:40]}"
    return Message(code=code, text=text, model=model[:200], usage=usage_from(found.get("usage")), detail=detail)


def _malformed(why: str) -> Failure:
    return Failure(code="LLM_MALFORMED", detail=why)


def read_error(status: int, headers: Mapping[str, str], body: bytes, now: datetime | None) -> Failure:
    """A reply with another status. `now` reads a Retry-After that is a date; None leaves such a one out."""
    error = _envelope(body)
    kind, message = str(error.get("type", "")), str(error.get("message", ""))[:_LONGEST_DETAIL]
    fallback = "LLM_REDIRECTED" if 300 <= status < 400 else "LLM_SERVER_ERROR" if status >= 500 else "LLM_REJECTED"
    code = _BY_TYPE.get(kind) or _BY_STATUS.get(status) or fallback
    details = error.get("details")
    spent = isinstance(details, dict) and details.get("error_code") == "enforced_spend_limit_reached"
    if spent or (code == "LLM_BAD_REQUEST" and _SPENT_WORDS in message):
        return Failure(code="LLM_SPEND_LIMIT", detail=message, free=True, spend_limit=True)
    unknown = status in (408, 504) or (status >= 500 and status != _OVERLOADED and not error)
    return Failure(
        code=code, detail=f"{status} {kind}: {message}" if kind else f"status {status}", free=not unknown,
        rest_s=_retry_after_s(headers, now),
    )  # fmt: skip


def _envelope(body: bytes) -> Mapping[str, Any]:
    """The error object of the API's own shape; empty for anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = found.get("error") if isinstance(found, dict) and found.get("type") == "error" else None
    return error if isinstance(error, dict) else {}


def _retry_after_s(headers: Mapping[str, str], now: datetime | None) -> float | None:
    """Seconds or a date; what is neither, negative or no number counts as not told."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
            seconds = (at - now).total_seconds() if now is not None and at.tzinfo is not None else -1.0
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return seconds if 0 < seconds < float("inf") else None
