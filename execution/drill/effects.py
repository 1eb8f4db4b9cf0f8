"""Every effect of the order path, counted, so that a crash, a trip or a second script can be put at any of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.files import locked


class Crash(BaseException):
    """The process ends here. A BaseException, so that nothing on the order path can survive it by accident."""


@dataclass
class Effects:
    """Counts effects; `acts` says what happens at which. Written down as the story of the day."""

    acts: Mapping[int, Callable[[], None]] = field(default_factory=dict)  # effect number, from 1 -> what happens there
    count: int = 0
    story: list[str] = field(default_factory=list)
    busy: bool = False  # a second script is at work: its own effects are not counted, or it would call itself

    def happen(self, what: str) -> None:
        if self.busy:
            return
        self.count += 1
        self.story.append(f"{self.count:4d} {what}")
        act = self.acts.get(self.count)
        if act is not None:
            act()

    def tell(self, what: str) -> None:
        self.story.append(f"     {what}")


class Watched:
    """Any object, with its named methods told to `effects` before and after each call."""

    def __init__(self, inner: Any, effects: Effects, names: frozenset[str], label: str) -> None:
        self._inner, self._effects, self._names, self._label = inner, effects, names, label

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in self._names:
            return value
        return _told(value, self._effects, f"{self._label}.{name}")


def _told(call: Callable[..., Any], effects: Effects, what: str) -> Callable[..., Any]:
    def wrapped(*args: Any, **more: Any) -> Any:
        detail = _detail(args)
        effects.happen(f"before {what} {detail}")
        try:
            result = call(*args, **more)
        except Exception as error:
            effects.tell(f"{what} raised {getattr(error, 'code', type(error).__name__)}")
            raise
        effects.happen(f"after  {what} {detail}")
        return result

    return wrapped


def _detail(args: tuple[Any, ...]) -> str:
    if not args:
        return ""
    first = args[0]
    intent = getattr(first, "intent", None)
    if intent is not None:
        return f"{intent.client_order_id} x{intent.quantity}"
    if isinstance(first, str):
        body = args[1] if len(args) > 1 and isinstance(args[1], Mapping) else {}
        return f"{first} {body.get('client_order_id', body.get('symbol', ''))}".rstrip()
    return ""


def watched_lock(effects: Effects) -> Callable[..., Any]:
    """core.files.locked, told before it is taken: the place where a second script may come first."""

    @contextlib.contextmanager
    def take(path: Path, *, timeout_s: float = 10.0) -> Iterator[None]:
        effects.happen(f"before lock {path.name}")
        with locked(path, timeout_s=timeout_s):
            yield

    return take
