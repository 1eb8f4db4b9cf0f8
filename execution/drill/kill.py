"""The real process killed at every point: between two writes, inside one, around fsync, rename and send.

A child plays a day of the order path against a venue in this process and ends itself with SIGKILL at its n-th effect
on the state folder or the wire. Another child then makes the ordinary start; what the venue has, the journal must know.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from core import logs
from core.clock import SystemClock
from core.journal import Journal
from core.paths import Home
from execution.drill.children import Children, Task
from execution.drill.commands import COMMANDS
from execution.drill.life import SCANS, Life, Seed, begin
from execution.drill.outcome import Outcome, Post, VenueTruth, chain_trouble, lines_of
from execution.drill.plan import DayPlan, bars_for
from execution.drill.ports import Place, Ports
from execution.drill.shared_clock import SharedClock
from execution.drill.world import FIRST_SESSION, HISTORY, limited, market_of
from execution.fold import Fold
from execution.session import after_close
from risk.gate import Limits

if TYPE_CHECKING:
    from execution.venue.host import VenueHost

SEED = 10  # a day with entries of several shares, stops that rest, and time stops at its end
STORIES: Mapping[str, Sequence[str]] = {
    "trade": ("start", "buy", "cancel_all", "look_after", "reconcile", "sell", "close"),
    "liquidate": ("start", "buy", "close_all", "force_sync", "look_after", "close"),
    "manual": ("start", "buy", "by_hand", "reconcile", "force_sync", "look_after"),
}
"""What a life does, in order; each name is also the phase that its effects are counted under."""
BY_HAND = "by-hand-1"  # an order that was given in the broker's own app
RESTART_S = 20.0
_SIGNAL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows the second is TerminateProcess
_KILLED = -_SIGNAL if os.name == "posix" else int(_SIGNAL)
_TIMES = {"buy": SCANS[0], "look_after": "12:00", "sell": SCANS[2]}


# ---------------------------------------------------------------- inside the child
@dataclass
class KillPoints:
    """Counts effects on the state folder and the wire; at number `kill_at` the process is gone."""

    state: Path
    kill_at: int | None = None
    phase: str = ""
    labels: list[str] = field(default_factory=list)
    _paths: dict[int, str] = field(default_factory=dict)  # open handle -> file name

    def point(self, what: str) -> bool:
        """Count one point. True where the process is to end, for points that end inside something."""
        self.labels.append(f"{self.phase} {what}")
        return len(self.labels) == self.kill_at

    def at(self, what: str) -> None:
        if self.point(what):
            die()

    def install(self) -> None:
        self._real = {name: getattr(os, name) for name in ("open", "close", "write", "fsync", "replace", "ftruncate")}
        for name in self._real:
            setattr(os, name, getattr(self, f"_{name}"))
        send = socket.socket.sendall

        def sendall(sock: socket.socket, data: Any, *more: Any) -> None:
            changes = bytes(data[:6]).startswith((b"POST", b"DELETE"))
            if changes:
                self.at("before send")
            send(sock, data, *more)
            if changes:
                self.at("after send")

        setattr(socket.socket, "sendall", sendall)  # noqa: B010 - mypy would not let a method be assigned

    def _open(self, path: Any, *args: Any, **more: Any) -> int:
        handle: int = self._real["open"](path, *args, **more)
        where = Path(os.fsdecode(path)) if not isinstance(path, int) else Path()
        if self.state in (where, *where.parents) and where.suffix != ".lock":
            self._paths[handle] = where.name
        return handle

    def _close(self, handle: int) -> None:
        self._paths.pop(handle, None)
        self._real["close"](handle)

    def _write(self, handle: int, data: Any) -> int:
        name = self._paths.get(handle)
        if name is not None:
            self.at(f"before write {name}")
            if self.point(f"inside write {name}"):
                self._real["write"](handle, bytes(data)[: len(data) // 2])
                die()
        written: int = self._real["write"](handle, data)
        return written

    def _fsync(self, handle: int) -> None:
        name = self._paths.get(handle)
        if name is not None:
            self.at(f"before fsync {name}")
        self._real["fsync"](handle)
        if name is not None:
            self.at(f"after fsync {name}")

    def _replace(self, source: Any, target: Any, **more: Any) -> None:
        self.at(f"before rename {Path(target).name}")
        self._real["replace"](source, target, **more)
        self.at(f"after rename {Path(target).name}")

    def _ftruncate(self, handle: int, length: int) -> None:
        self.at(f"before truncate {self._paths.get(handle, '')}")
        self._real["ftruncate"](handle, length)


def die() -> None:
    """No finally, no flush, no atexit."""
    os.kill(os.getpid(), _SIGNAL)
    os._exit(1)  # never reached; says so to the reader


def live(task: Task, ports: Ports) -> None:
    """Play one story of a day, counting points; without `kill_at` the labels are written to `report`."""
    place, seed, days = _place(task, ports)
    points = KillPoints(place.home.state, task.get("kill_at"))
    place.home.state.mkdir(parents=True, exist_ok=True)
    points.install()
    life: Life | None = None
    for phase in STORIES[task["story"]]:
        points.phase = phase
        life = act(phase, life, place, ports, seed, days)
    Path(task["report"]).write_text(json.dumps(points.labels), encoding="utf-8")


def act(phase: str, life: Life | None, place: Place, ports: Ports, seed: Seed, days: Days) -> Life:
    """One phase of a story; what it returns is the runner that lives on."""
    if life is None:
        return begin(place, ports, ports.open_runner(place), seed)
    if phase == "by_hand":
        _buy_by_hand(place)
    elif phase in COMMANDS:
        COMMANDS[phase](_Bare(place, ports, seed, days.day), ports.open_script(place, phase))  # type: ignore[arg-type]
    elif phase == "close":
        days.clock.set(after_close(ports.calendar, days.day))
        life.step()
    else:
        days.clock.set(ports.calendar.instant_at(days.day, _TIMES[phase]))
        life.step()
    return life


def _buy_by_hand(place: Place) -> None:
    """Somebody buys in the broker's app what the program knows nothing of."""
    order = {"symbol": "FFF", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day",
             "client_order_id": BY_HAND}  # fmt: skip
    keys = {"APCA-API-KEY-ID": "hand", "APCA-API-SECRET-KEY": "hand", "Content-Type": "application/json"}
    wire = HTTPConnection(urlsplit(place.url).netloc, timeout=10)
    wire.request("POST", "/v2/orders", json.dumps(order), keys)
    if wire.getresponse().status != 200:
        raise AssertionError("the venue did not take the order by hand")
    wire.close()


@dataclass
class _Bare:
    """As much of a world as the commands of these stories need."""

    place: Place
    ports: Ports
    seed: Seed
    day: Any

    @property
    def clock(self) -> Any:
        return self.place.clock


@dataclass(frozen=True, slots=True)
class Days:
    clock: SharedClock
    day: Any


def restart(task: Task, ports: Ports) -> None:
    """A fresh process: the ordinary start, one turn of the runner, and what reconcile then says."""
    place, seed, _ = _place(task, ports)
    said = restart_in(place, ports, seed, sync=task["story"] == "manual")
    Path(task["report"]).write_text(json.dumps(said), encoding="utf-8")


def restart_in(place: Place, ports: Ports, seed: Seed, *, sync: bool = False) -> dict[str, list[Any]]:
    """`sync`: shares that are not ours stay a break until the operator takes them over."""
    place.home.state.mkdir(parents=True, exist_ok=True)
    place.clock.sleep(RESTART_S)
    life = begin(place, ports, ports.open_runner(place), seed)
    life.step()
    if sync:
        ports.force_sync(place, ports.open_script(place, "force_sync"))
    breaks = [found.to_json() for found in ports.reconcile(place, life.desk)]
    return {"breaks": breaks, "damaged": list(ports.damaged(place))}


def _place(task: Task, ports: Ports) -> tuple[Place, Seed, Days]:
    clock = SharedClock(Path(task["clock"]))
    place = Place(Path(task["root"]), task["url"], clock, limited(ports.settings, DayPlan(seed=task["seed"])))
    logs.configure(Home(place.root), clock, run_id="drill", mode="paper")
    _, day = sessions_of(ports)
    return place, seed_of(task["seed"], ports), Days(clock, day)


def seed_of(number: int, ports: Ports) -> Seed:
    sessions, _ = sessions_of(ports)
    rows = bars_for(number, len(sessions))
    closes = {session: {symbol: bars[i][3] for symbol, bars in rows.items()} for i, session in enumerate(sessions)}
    return Seed(number, closes)


def sessions_of(ports: Ports) -> tuple[list[Any], Any]:
    first = ports.calendar.offset(FIRST_SESSION, -HISTORY)
    sessions = ports.calendar.sessions_between(first, ports.calendar.offset(FIRST_SESSION, 2))
    return sessions, sessions[HISTORY]


# ---------------------------------------------------------------- the parent
@dataclass(frozen=True, slots=True)
class Killed:
    """One point, and what was wrong after the restart (nothing)."""

    story: str
    point: str
    violations: tuple[str, ...]


class Hunt:
    """Kills a process at chosen points, each in a home and a venue of its own."""

    def __init__(self, host: VenueHost, ports: Ports, children: Children, folder: Path | None = None) -> None:
        self._host, self._ports, self._children, self._folder = host, ports, children, folder

    def points(self, count: int) -> list[tuple[str, int, str]]:
        """(story, effect number, label) of about `count` points, spread over all phases. Raises when a life fails."""
        found: list[tuple[str, int, str]] = []
        for story in STORIES:
            with self._home() as (task, _, _):
                self._good_end({**task, "do": "live", "story": story})
                labels = json.loads(Path(task["report"]).read_text(encoding="utf-8"))
            found += [(story, number, label) for number, label in enumerate(labels, start=1)]
        return _spread(found, count)

    def kill(self, story: str, number: int, label: str) -> Killed:
        """One life, killed there, and the start after it."""
        with self._home() as (task, store, posts):
            status = self._children.run({**task, "do": "live", "story": story, "kill_at": number})
            if status != _KILLED:
                return Killed(story, label, (f"NOT_KILLED: {self._why(task, status)}",))
            self._good_end({**task, "do": "restart", "story": story})
            return Killed(story, label, tuple(self._violations(task, store, posts)))

    def _good_end(self, task: Task) -> None:
        status = self._children.run(task)
        if status != 0:
            raise AssertionError(f"a child ended with {self._why(task, status)}")

    @staticmethod
    def _why(task: Task, status: int) -> str:
        told = Path(task["root"]) / "child-failed.txt"
        return f"{status}: {told.read_text(encoding='utf-8')}" if told.exists() else str(status)

    @contextlib.contextmanager
    def _home(self) -> Iterator[tuple[dict[str, Any], Any, list[Post]]]:
        with tempfile.TemporaryDirectory(prefix="kobe-kill-", dir=self._folder) as name:
            root = Path(name)
            sessions, day = sessions_of(self._ports)
            clock = SharedClock(root / "clock", self._ports.calendar.opens_at(day) - timedelta(minutes=30))
            plan = DayPlan(seed=SEED)
            market = market_of(bars_for(SEED, len(sessions)), sessions, plan, sessions[-1])
            store = self._host.open(market, clock, Path(":memory:"), calendar=self._ports.calendar)
            posts: list[Post] = []
            self._host.on_order = lambda cid: posts.append(_post(Home(root), cid))
            task = {"root": name, "url": self._host.base_url, "clock": str(root / "clock"), "seed": SEED,
                    "report": str(root / "report.json")}  # fmt: skip
            try:
                yield task, store, posts
            finally:
                store.close()
                clock.close()

    def _violations(self, task: Task, store: Any, posts: Sequence[Post]) -> list[str]:
        said = json.loads(Path(task["report"]).read_text(encoding="utf-8"))
        found = examined(Home(Path(task["root"])), self._ports, VenueTruth.of(store), posts, said)
        return found + [f"VENUE: {trace}" for trace in self._host.failures]


def examined(
    home: Home, ports: Ports, truth: VenueTruth, posts: Sequence[Post], said: Mapping[str, Sequence[Any]]
) -> list[str]:
    """The invariants over a home and its venue after a restart; `said` is what the restarted process reported."""
    from execution.drill.invariants import violations

    plan, fold = DayPlan(seed=SEED), Fold()
    for record in Journal(home.journal, SystemClock()).records():
        fold.add(record)
    orders = [order for order in truth.orders if order.client_order_id != BY_HAND]
    ledger = fold.ledger()
    outcome = Outcome(
        plan=plan, limits=Limits.from_settings(limited(ports.settings, plan)), ledger=ledger,
        venue=replace(truth, orders=orders), chain=chain_trouble(home.journal), records=lines_of(home.journal),
        posts=[post for post in posts if post.client_order_id != BY_HAND], breaks=(), late=frozenset(), runs=(),
        bare=(), damaged=said["damaged"], errors=lines_of(home.logs / "errors.jsonl"), locks=ledger.locked,
    )  # fmt: skip
    breaks = (f"{b['kind']} {b['symbol']} ours {b['ours']} theirs {b['theirs']}" for b in said["breaks"])
    return violations(outcome) + [f"IN_STEP: {told}" for told in breaks]


def _post(home: Home, client_order_id: str) -> Post:
    text = home.journal.read_bytes() if home.journal.exists() else b""
    return Post(client_order_id, f'"client_order_id":"{client_order_id}"'.encode() in text, home.kill_switch.exists())


def _spread(points: Sequence[tuple[str, int, str]], count: int) -> list[tuple[str, int, str]]:
    """About `count` of them, the same share of every phase, and of every phase the rarest kinds first."""
    phases: dict[tuple[str, str], list[tuple[str, int, str]]] = {}
    for point in points:
        phases.setdefault((point[0], point[2].split(" ", 1)[0]), []).append(point)
    kinds = Counter(label for _, _, label in points)
    chosen: list[tuple[str, int, str]] = []
    for number, found in enumerate(phases.values()):
        left, of = count - len(chosen), len(phases) - number
        share = min(len(found), -(-left // of))
        rare = sorted(found, key=lambda point: (kinds[point[2]], point[1]))
        step = len(rare) / share if share else 1.0
        chosen += [rare[int(i * step)] for i in range(share)]
    return sorted(chosen, key=lambda point: (point[0], point[1]))


def work(ports: Ports) -> Callable[[Task], None]:
    """What a child does, by the task's `do`."""
    from execution.drill.race import race

    kinds = {"live": live, "restart": restart, "race": race}
    return lambda task: kinds[task["do"]](task, ports)
