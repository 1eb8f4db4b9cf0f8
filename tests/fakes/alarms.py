"""An alerting process on a stepped clock: what it tells, through channels that take, refuse, hang or raise as told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from execution.alerting import Alerting
from execution.notifier import NotDelivered, Note, Notifier
from execution.observe.alert_memory import FILE, Memory
from execution.observe.alerts import Beside, Look, evaluate
from execution.observe.readiness import readiness
from tests.fakes.observed import STALLED_AFTER_S, Observed

EVALUATE = timedelta(seconds=5)


@dataclass
class FakeChannel:
    name: str = "first"
    act: Callable[[], None] = lambda: None
    taken: list[Note] = field(default_factory=list)

    def send(self, note: Note) -> None:
        self.act()
        self.taken.append(note)

    @property
    def titles(self) -> list[str]:
        return [note.title for note in self.taken]

    @property
    def text(self) -> str:
        return "\n".join(f"{n.title}\n{n.body}" for n in self.taken)


def refuses() -> None:
    raise NotDelivered("401 unauthorised")


@dataclass
class Alarmed:
    """A world that is observed, and somebody who tells."""

    made: Observed
    channels: list[FakeChannel] = field(default_factory=lambda: [FakeChannel()])
    changes: dict[str, Any] = field(default_factory=dict)
    alerting: Alerting = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Also: the process was restarted."""
        values: dict[str, Any] = {
            "look": self.made.observer().look, "settings": self.made.settings, "clock": self.made.clock,
            "file": self.made.home.state / FILE, "mode": "paper",
            "notifier": Notifier(self.channels, deadline_s=self.made.settings.alerts.deadline_s),
        }  # fmt: skip
        self.alerting = Alerting(**{**values, **self.changes})

    def step(self) -> Memory:
        return self.alerting.step()

    def run(self, seconds: float, each: Callable[[], object] = lambda: None) -> Memory:
        """One look every 5 s, the runner beating in between unless `each` says otherwise."""
        memory = self.step()
        for _ in range(int(seconds // EVALUATE.total_seconds())):
            self.made.clock.advance(EVALUATE)
            each()
            memory = self.step()
        return memory

    def names(self) -> list[str]:
        return [e.name for e in self.step().standing()]


def look_at(made: Observed, began_at: datetime | None = None, **beside: Any) -> Look:
    """One evaluation, without memory."""
    facts = made.look()
    ready = readiness(facts, stalled_after_s=STALLED_AFTER_S)
    return evaluate(facts, ready, made.settings, Beside(began_at=began_at or facts.at, **beside))
