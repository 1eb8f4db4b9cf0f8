"""One request on a worker: what the caller has given up never leaves, and what is told is what happened."""

from __future__ import annotations

import threading

import pytest

from llm.wire import Abandoned, Call, bounded_client
from tests.fakes.llm import Open

BODY = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": "x"}]}


def test_what_has_not_begun_to_leave_by_the_deadline_never_leaves(open_desk: Open) -> None:
    desk, go = open_desk(), threading.Event()
    client = bounded_client(proxy=None, timeout_s=5)

    def act() -> int:
        go.wait(5)
        return int(client.post(f"{desk.url}/v1/messages", json=BODY, headers={"x-api-key": "k"}).status_code)

    late = Call(act, (Abandoned,))
    with pytest.raises(TimeoutError):
        late.run(0.05)
    go.set()
    assert late._done.wait(5) and isinstance(late._error, Abandoned)
    assert desk.model.requests == 0 and not late.attempt.sent
    assert Call(act, ()).run(5) == 200 and desk.model.requests == 1
    client.close()


def test_a_redirect_is_not_followed(open_desk: Open) -> None:
    desk = open_desk("redirect")
    client = bounded_client(proxy=None, timeout_s=5)
    reply = client.post(f"{desk.url}/v1/messages", json=BODY, headers={"x-api-key": "k"})
    assert (reply.status_code, desk.model.requests) == (307, 0)
    client.close()


def test_what_was_not_expected_is_a_mistake_and_is_raised() -> None:
    def act() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        Call(act, (KeyError,)).run(5)


def test_an_interrupt_lets_nothing_leave_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(lambda: None, ())

    def interrupted(timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(call._done, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call.run(5)
    with pytest.raises(Abandoned):
        call.attempt.leaving()
