"""Every effect of the order path, counted, so that a crash, a trip or another script can be put at any of them."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.files import locked
from core.ports import Halt
from execution.drill.plan import POINTS, At

Act = Callable[[], None]
_LOCK, _READ = "before lock desk", "after  broker.positions"


class Crash(BaseException):
    """The process ends here. A BaseException, so that nothing on the order path can survive it by accident."""


class Gone(OSError):
    """Raised on a helper thread of a process that has ended: nothing of it may leave any more."""


@dataclass
class Effects:
    """Counts effects and says what happens at which. Written down as the story of the day.

    `acts` happen at once, also inside a lock and on the transport's thread: crashes and trips. `scripts` are other
    processes: where this one holds a lock they wait for it, as the operating system would make them.
    """

    acts: Mapping[At, Act] = field(default_factory=dict)
    scripts: Mapping[At, Act] = field(default_factory=dict)
    count: int = 0
    hide: str = ""  # the drill's folder: the same seed tells the same story wherever it lies
    story: list[str] = field(default_factory=list)
    busy: bool = False  # another script is at work: its own effects are not counted, or it would call itself
    dead: bool = False  # crashed, and not started again yet
    _last: str = ""
    _seen: Counter[str] = field(default_factory=Counter)
    _locks: int = 0
    _waiting: list[Act] = field(default_factory=list)
    _owner: int = field(default_factory=threading.get_ident)

    def happen(self, what: str) -> None:
        """Count one effect and do what is planned there. Raises Crash, or Gone on a helper thread."""
        if self.busy:
            return
        if self.dead:
            raise self._end()
        if what == _LOCK and self._last == _READ:  # the last that is read before the gate decides about an entry
            what += " to decide an entry"
        self._last = what
        self.count += 1
        self.story.append(f"{self.count:4d} {what}")
        here = self._here(what)
        for at in sorted(here & self.acts.keys()):
            self.acts[at]()
        if self.dead:
            raise self._end()
        self._waiting += [self.scripts[at] for at in sorted(here & self.scripts.keys())]
        if not self._locks and threading.get_ident() == self._owner:
            self._let_scripts_in()

    def _here(self, what: str) -> set[At]:
        """All the names of this effect."""
        points = [point for point, start in POINTS.items() if what.startswith(start)]
        self._seen.update(points)
        return {At(point, self._seen[point]) for point in points}

    def raise_if_dead(self) -> None:
        """For the thread that waited while a helper thread met the crash."""
        if self.dead and not self.busy:
            raise self._end()

    def _end(self) -> BaseException:
        return Crash() if threading.get_ident() == self._owner else Gone("the process has ended")

    def tell(self, what: str) -> None:
        self.story.append(f"     {what.replace(self.hide, '$KOBE_HOME') if self.hide else what}")

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """While this process holds a lock."""
        self._locks += 1
        try:
            yield
        finally:
            self._locks -= 1
        if not self._locks and not self.busy:
            self._let_scripts_in()

    def _let_scripts_in(self) -> None:
        while self._waiting:
            self._waiting.pop(0)()


class Watched:
    """Any object, with its named methods told to `effects` before and after each call."""

    def __init__(self, inner: Any, effects: Effects, names: frozenset[str], label: str) -> None:
        self._inner, self._effects, self._names, self._label = inner, effects, names, label

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in self._names:
            return value
        return told(value, self._effects, f"{self._label}.{name}")


class WatchedHalt:
    """The kill switch; each look at it is an effect, so that it can appear right before any of them."""

    def __init__(self, inner: Halt, effects: Effects) -> None:
        self._inner, self._effects = inner, effects

    def is_active(self) -> bool:
        self._effects.happen("look at the kill switch")
        return self._inner.is_active()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def told(call: Callable[..., Any], effects: Effects, what: str) -> Callable[..., Any]:
    """`call`, an effect before and one after it; what it raises is written into the story."""

    def wrapped(*args: Any, **more: Any) -> Any:
        detail = _detail(args)
        effects.happen(f"before {what} {detail}".rstrip())
        try:
            result = call(*args, **more)
        except Exception as error:
            effects.tell(f"{what} raised {getattr(error, 'code', type(error).__name__)}")
            raise
        effects.happen(f"after  {what} {detail}".rstrip())
        return result

    return wrapped


def _detail(args: tuple[Any, ...]) -> str:
    """What a reader of the story wants to know: which order, which record."""
    first = args[0] if args else None
    intent = getattr(first, "intent", None)
    if intent is not None:
        return f"{intent.client_order_id} x{intent.quantity}"
    if not isinstance(first, str):
        return ""
    body = args[1] if len(args) > 1 and isinstance(args[1], Mapping) else {}
    more = [str(body[name]) for name in ("client_order_id", "code", "quantity", "status") if body.get(name) is not None]
    return " ".join([first, *(more or [str(body.get("symbol", ""))])])


def watched_lock(effects: Effects) -> Callable[..., Any]:
    """core.files.locked, told before it is taken: the place where another script may come first."""

    @contextlib.contextmanager
    def take(path: Path, *, timeout_s: float = 10.0) -> Iterator[None]:
        effects.happen(f"before lock {path.name}")
        with effects.holding(), locked(path, timeout_s=timeout_s):
            yield

    return take
