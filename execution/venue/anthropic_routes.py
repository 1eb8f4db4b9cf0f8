"""Anthropic Messages, as far as a client needs it: it has no opinion and says so, so nothing can pass for analysis."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from execution.venue.anthropic_model import PRICES, resolved, tokens_of, undated
from execution.venue.app import Call, Refusal, Reply, Routes

_LARGEST_BYTES = 32 * 1024 * 1024


def check(headers: Mapping[str, str], query: Mapping[str, str]) -> None:
    bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not bearer and not headers.get("x-api-key"):
        raise _error(401, "authentication_error", "x-api-key header is required")


def register(routes: Routes) -> None:
    routes.add("POST", "/v1/messages", post_message)
    routes.add("POST", "/v1/messages/count_tokens", post_count)
    routes.add("GET", "/v1/models", get_models)


def _error(status: int, kind: str, message: str) -> Refusal:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_simulated"}
    return Refusal(status, body, {"request-id": "req_simulated"})


def _body(call: Call, *, needs_max_tokens: bool) -> dict[str, Any]:
    if len(call.body) > _LARGEST_BYTES:
        raise _error(413, "request_too_large", "Request exceeds the maximum size")
    try:
        body = call.json()
    except ValueError:
        raise _error(400, "invalid_request_error", "The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise _error(400, "invalid_request_error", "The request body is not a JSON object")
    for name in ("model", "messages", *(("max_tokens",) if needs_max_tokens else ())):
        if not body.get(name):
            raise _error(400, "invalid_request_error", f"{name}: Field required")
    if call.headers.get("anthropic-version", "") >= "2026-10-21":
        for name in ("temperature", "top_p", "top_k"):
            if name in body:
                raise _error(400, "invalid_request_error", f"{name}: Extra inputs are not permitted")
    if undated(str(body["model"])) not in PRICES:
        raise _error(404, "not_found_error", f"model: {body['model']}")
    if body.get("stream"):
        raise _error(400, "invalid_request_error", "stream: not offered by the simulated venue")
    return body


def post_message(call: Call) -> Reply:
    model = call.venue.model
    model.requests += 1
    body = _body(call, needs_max_tokens=True)
    text, stop, counted = model.answer(body, call.now, call.today)
    digest = hashlib.sha256(call.body).hexdigest()[:24]
    content = [{"type": "text", "text": text, "citations": None}] if text else []
    return Reply(
        {
            "id": f"msg_simulated{digest}", "type": "message", "role": "assistant", "model": resolved(body["model"]),
            "content": content, "stop_reason": stop, "stop_sequence": None, "stop_details": None, "container": None,
            "usage": counted.as_usage(),
        },
        headers={"request-id": f"req_simulated{digest}"},
    )  # fmt: skip


def post_count(call: Call) -> Reply:
    return Reply({"input_tokens": tokens_of(_body(call, needs_max_tokens=False))})


def get_models(call: Call) -> Reply:
    rows = [{"type": "model", "id": m, "display_name": m, "created_at": "2026-01-01T00:00:00Z"} for m in PRICES]
    return Reply({"data": rows, "has_more": False, "first_id": rows[0]["id"], "last_id": rows[-1]["id"]})
