"""A table whose old rows lie still: a snapshot costs what still changes, not what ever was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Layered(Mapping[K, V]):
    """A frozen view: `live` over `base`, in the order of first writing. Both are never changed once handed in."""

    __slots__ = ("base", "live")

    def __init__(self, base: Mapping[K, V], live: Mapping[K, V]) -> None:
        self.base, self.live = base, live

    def __getitem__(self, key: K) -> V:
        return self.live[key] if key in self.live else self.base[key]

    def __contains__(self, key: object) -> bool:
        return key in self.live or key in self.base

    def __iter__(self) -> Iterator[K]:
        yield from self.base
        yield from (key for key in self.live if key not in self.base)

    def __len__(self) -> int:
        return len(self.base) + sum(1 for key in self.live if key not in self.base)


class Table(Generic[K, V]):
    """The writing side. `rest` moves rows into the base; a row written again afterwards is live again."""

    def __init__(self) -> None:
        self._base: dict[K, V] = {}
        self.live: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        return self.live[key] if key in self.live else self._base.get(key)

    def __getitem__(self, key: K) -> V:
        return self.live[key] if key in self.live else self._base[key]

    def put(self, key: K, value: V) -> V | None:
        """The row that lay still and is live again now; None when it was live already, or new."""
        woken = self._base.get(key) if key not in self.live else None
        self.live[key] = value
        return woken

    def rest(self, still: Callable[[V], bool]) -> list[V]:
        """Move every live row that is `still` into the base; those rows. Costs the whole table: call it seldom."""
        moved = {key: value for key, value in self.live.items() if still(value)}
        if moved:
            self._base = {**self._base, **moved}  # a new one: snapshots hold the old
            self.live = {key: value for key, value in self.live.items() if key not in moved}
        return list(moved.values())

    def snapshot(self) -> Layered[K, V]:
        return Layered(self._base, dict(self.live))
