"""Sections of what is known of ourselves: breakers, the self model's beliefs, what was learned, the LLM's spend."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core.canonical import canonical_json
from execution.observe.words import money
from scripts.briefing_day import Ground
from scripts.briefing_model import Cell, Fact, Section, Table, cell, either, known, missing

if TYPE_CHECKING:
    from cognitive.circuit_breakers import Lock
    from cognitive.self_model import Belief
    from core.journal import Record

_LOCKS = (("breaker", "breaker"), ("scope", "for"), ("until", "until"), ("reason", "why"))
_LEARNINGS = ("learning_adopted", "learning_retired")


def breakers(g: Ground) -> Section:
    """Locks on entries that stand in the session; exits always pass."""
    if not g.context.settings.cognitive.circuit_breakers.enabled:
        return Section("breakers", "Circuit breakers", (missing("tripped", "Tripped", "BREAKERS_OFF"),))
    if g.board is None:
        return Section("breakers", "Circuit breakers", (missing("tripped", "Tripped", g.journal_code),))
    locks = g.board.standing(g.asked.session)
    rows = tuple(_lock(lock) for lock in locks)
    facts = [known("tripped", "Tripped", len(locks), f"{len(locks)}; exits always pass")]
    told = [str(r.body.get("lock", "")) for r in g.kind("breaker_cleared")]
    if told:
        facts.append(known("cleared", "Cleared on the day", told, ", ".join(told)))
    return Section("breakers", "Circuit breakers", tuple(facts), (Table("locks", _LOCKS, rows, "None stands."),))


def _lock(lock: Lock) -> tuple[Cell, ...]:
    whom = "every entry" if lock.scope == "all" else f"{lock.scope} {lock.what}"
    return (
        cell(lock.name, mark="bad"), cell(whom), cell(lock.until, lock.end), cell(lock.reason),
    )  # fmt: skip


def learned(g: Ground) -> Section:
    """What reflection adopted and retired on the day, as it was journalled."""
    if g.seen is None:
        return Section("learned", "Learned", (missing("changes", "Changes", g.journal_code),))
    records = g.kind(*_LEARNINGS)
    rows = tuple(_learning(record) for record in records)
    columns = (("what", ""), ("id", "learning"), ("condition", "when"), ("effect_r", "effect, R"), ("n", "trades"),
               ("code", "why"))  # fmt: skip
    facts = (known("changes", "Changes", len(records)),)
    return Section("learned", "Learned", facts, (Table("rows", columns, rows, "Nothing was adopted or retired."),))


def _learning(record: Record) -> tuple[Cell, ...]:
    body = record.body
    condition = body.get("condition", body.get("words", ""))
    words = condition if isinstance(condition, str) else canonical_json(condition)
    adopted = record.kind == "learning_adopted"
    return (
        cell("adopted" if adopted else "retired", mark="good" if adopted else "warn"), cell(str(body.get("id", ""))),
        cell(condition, words), _number(body.get("effect_r")), _number(body.get("n")), cell(str(body.get("code", ""))),
    )  # fmt: skip


def _number(value: Any) -> Cell:
    return cell(value, "" if value is None else f"{value:+.3f}" if isinstance(value, float) else str(value))


def spend(g: Ground) -> Section:
    """What the language model cost on the New York day, and what it may."""
    llm = g.context.settings.cognitive.llm_analyzer
    mode = llm.mode if llm.enabled else "off"
    facts: list[Fact] = [known("mode", "Mode", mode)]
    if g.facts is None:
        facts += [
            missing("cost_usd_today", "Spent", g.code_of("llm")),
            missing("calls_today", "Calls", g.code_of("llm")),
        ]
        return Section("llm", "Language model", tuple(facts))
    told, limit = g.facts.llm, g.facts.llm.cost_budget_usd
    cost: Decimal | None = told.cost_usd_today
    words = "" if cost is None else f"{money(cost)} of {money(limit)}"
    calls = told.calls_today
    facts += [
        either("cost_usd_today", "Spent today", cost, words, g.code_of("llm.cost_usd_today")),
        either("calls_today", "Calls today", calls, f"{calls}", g.code_of("llm.calls_today")),
    ]
    return Section("llm", "Language model", tuple(facts))


# ---------------------------------------------------------------- the self model
_BELIEFS = (
    ("strategy", "strategy"), ("regime", "regime"), ("n", "trades"), ("wins", "won"), ("win_rate", "win rate"),
    ("interval", "95 % of it"), ("expectancy_r", "expectancy, R"), ("expectancy_interval", "its interval"),
)  # fmt: skip


def beliefs(g: Ground) -> Section:
    """What the self model believes of each strategy in each regime it has traded in, as of the briefing's instant."""
    title = "What we believe of ourselves"
    if g.seen is None:
        return Section("beliefs", title, (missing("outcomes", "Outcomes", g.journal_code),))
    from scripts import wiring
    from scripts.remembering import Remembering

    ledger = g.seen.ledger
    mind = Remembering(g.context, wiring.open_journal(g.context), lambda: ledger).mind(g.asked.at)
    if mind.code != "OK":
        return Section("beliefs", title, (missing("outcomes", "Outcomes", mind.code),))
    model = mind.self_model
    rows = tuple(_belief(strategy, regime, model.belief(strategy, regime)) for strategy, regime in model.cells())
    said = model.calibration()
    facts = (
        known("episodes", "Decisions remembered", len(mind.memory.before(g.asked.at))),
        known("outcomes", "Outcomes", model.n),
        either("brier", "Brier score of our confidence", said.brier, _three(said.brier), said.code),
        either("ece", "Calibration error", said.ece, _three(said.ece), said.code),
        known("learnings", "Learnings in force", [one.id for one in mind.learnings],
              ", ".join(one.id for one in mind.learnings) or "none"),
    )  # fmt: skip
    return Section("beliefs", title, facts, (Table("rows", _BELIEFS, rows, "No trade has closed yet."),))


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _belief(strategy: str, regime: str, found: Belief) -> tuple[Cell, ...]:
    low, high = found.expectancy_low, found.expectancy_high
    reach = "" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
    return (
        cell(strategy), cell(regime), cell(found.n), cell(found.wins), cell(found.mean, f"{found.mean * 100:.0f} %"),
        cell([found.low, found.high], f"{found.low * 100:.0f} to {found.high * 100:.0f} %"),
        cell(found.expectancy_r, "" if found.expectancy_r is None else f"{found.expectancy_r:+.2f}"),
        cell([low, high], reach),
    )  # fmt: skip
