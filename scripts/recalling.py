"""What scripts/memory.py tells: facts as JSON, and the same in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cognitive import episodes as episode_rows
from cognitive import learnings as learning_rows
from cognitive.episodic_memory import EpisodicMemory
from cognitive.memory_file import Remembered
from cognitive.self_model import Said, SelfModel
from core import cli
from core.errors import UsageError
from scripts.remembering import MOMENT, Remembering

if TYPE_CHECKING:
    from scripts.wiring import Context

SAID: tuple[Said, ...] = ("confidence", "probability")


@dataclass(frozen=True, slots=True)
class Recalled:
    """The memory of a home as of its journal's last record; nothing is written."""

    context: Context
    remembered: Remembered
    memory: EpisodicMemory
    model: SelfModel

    @classmethod
    def of(cls, context: Context) -> Recalled:
        """Raises StateCorrupt when the journal cannot be read."""
        from core.journal import Journal
        from execution.fold import fold_of

        journal = Journal(context.home.journal, context.clock)
        found = Remembering(context, journal, lambda: fold_of(journal.records())).up_to_date()
        memory = EpisodicMemory(found.episodes.values())
        known = memory.before(context.clock.now() + MOMENT)
        return cls(context, found, memory, SelfModel.from_episodes(known, context.settings.cognitive.self_model))

    def status(self) -> dict[str, Any]:
        seen = self.memory.episodes
        return {
            "episodes": len(seen), "max_episodes": self.remembered.most, "forgotten": self.remembered.forgotten,
            "first": seen[0].decided_at if seen else None, "last": seen[-1].decided_at if seen else None,
            "standing": dict(sorted(Counter(str(e.standing) for e in seen).items())), "outcomes": self.model.n,
            "beliefs": [
                {"strategy": strategy, "regime": regime, **asdict(self.model.belief(strategy, regime))}
                for strategy, regime in self.model.cells()
            ],
        }  # fmt: skip

    def calibration(self) -> dict[str, Any]:
        return {name: asdict(self.model.calibration(name)) for name in SAID}

    def learnings(self) -> dict[str, Any]:
        book = self.remembered.book
        rows = [learning_rows.to_json(one) for one in book.learnings.values()]
        return {"learnings": rows, "looks": book.looks, "tried": book.tried, "week": book.week or None}

    def similar(self, decision_id: str) -> dict[str, Any]:
        """Raises UsageError for a decision that is not remembered."""
        asked = self.remembered.episodes.get(decision_id)
        if asked is None:
            raise UsageError(f"{decision_id} is not remembered", advice="scripts/why.py SYMBOL names its decisions")
        most = self.context.settings.cognitive.memory.similar_most
        found = self.memory.similar(asked.numbers, asked.strategy, before=asked.decided_at, k=most)
        return {
            "decision_id": decision_id, "known_before": asked.decided_at, "n": found.n, "win_rate": found.win_rate,
            "mean_r": found.mean_r, "interval": found.interval, "features": found.features, "code": found.code,
            "episodes": [episode_rows.to_json(e) for e in found.episodes],
        }  # fmt: skip


# ---------------------------------------------------------------- in words
def render_status(facts: dict[str, Any]) -> str:
    standing = ", ".join(f"{n} {name}" for name, n in facts["standing"].items())
    lines = [f"{facts['episodes']} of at most {facts['max_episodes']} episodes{': ' if standing else ''}{standing}"]
    rows = [
        (b["strategy"], b["regime"], b["n"], b["wins"], _percent(b["mean"]),
         f"{_percent(b['low'])} to {_percent(b['high'])}", _r(b["expectancy_r"]),
         f"{_r(b['expectancy_low'])} to {_r(b['expectancy_high'])}")
        for b in facts["beliefs"]
    ]  # fmt: skip
    head = ("strategy", "regime", "n", "won", "win rate", "95 %", "R", "95 %")
    return "\n".join([*lines, cli.table(head, rows, width=100)] if rows else [*lines, "no outcome yet"])


def render_calibration(facts: dict[str, Any]) -> str:
    lines = []
    for name, found in facts.items():
        if not found["n"]:
            lines.append(f"{name}: none has come to an outcome")
            continue
        lines.append(
            f"{name}: {found['n']} outcomes, said {found['forecast']:.3f}, won {found['observed']:.3f}, Brier "
            f"{found['brier']:.4f} against {found['brier_of_base_rate']:.4f} of the base rate, ECE {found['ece']:.4f}"
        )
        rows = [(b["n"], f"{b['forecast']:.3f}", f"{b['observed']:.3f}", f"{b['low']:.2f} to {b['high']:.2f}")
                for b in found["bins"]]  # fmt: skip
        lines.append(cli.table(("n", "said", "won", "95 %"), rows))
    return "\n".join(lines)


def render_learnings(facts: dict[str, Any]) -> str:
    last = f", the last at the end of {facts['week']}" if facts["week"] else ""
    lines = [f"{facts['tried']} hypotheses tried in {facts['looks']} looks{last}"]
    for row in facts["learnings"]:
        seen = row["held"] or row["found"]
        where = "on later decisions" if row["held"] else "where it was found"
        lines.append(f"{row['id']} {row['status']}{' ' + row['code'] if row['code'] else ''}: {row['says']}")
        lines.append(
            f"     {seen['effect_r']:+.2f} R ({seen['low']:+.2f} to {seen['high']:+.2f}), n {seen['n']} against "
            f"{seen['rest']}, adjusted p {seen['p_adjusted']:.4f} {where}; leaves {row['shrink']} of a size"
        )
    return "\n".join(lines if facts["learnings"] else [*lines, "nothing is under test or learned"])


def render_similar(facts: dict[str, Any]) -> str:
    if not facts["n"]:
        return f"{facts['decision_id']}: nothing like it was known ({facts['code']})"
    low, high = facts["interval"] or (None, None)
    head = (
        f"{facts['n']} most like it by {', '.join(facts['features'])}: won {_percent(facts['win_rate'])}, "
        f"{_r(facts['mean_r'])} R ({_r(low)} to {_r(high)})"
    )
    rows = [(e["decision_id"], e["regime"], f"{e['outcome']['r']:+.2f}", e["outcome"]["exit_reason"])
            for e in facts["episodes"]]  # fmt: skip
    return f"{head}\n{cli.table(('decision', 'regime', 'R', 'left by'), rows)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _r(value: float | None) -> str:
    return "?" if value is None else f"{value:+.2f}"
