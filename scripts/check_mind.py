"""Preflight's checks of memory, self model and reflection, which weigh on entries only, and only to shrink them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cognitive.calibration import Calibration
from cognitive.episodic_memory import EpisodicMemory
from cognitive.learnings import LearningBook, Status
from cognitive.memory_file import FILE, Remembered, read_memory
from cognitive.reflection import closed_of, overfitted
from cognitive.self_model import SelfModel
from core.errors import StateCorrupt
from scripts.check_values import absent, failed, few
from scripts.remembering import MOMENT
from scripts.trading import Finding

if TYPE_CHECKING:
    from cognitive.episodes import Episode
    from scripts.check_look import Look


# ---------------------------------------------------------------- readers
def episodic_memory(look: Look) -> Finding:
    """The file against the journal, read from its first record on."""
    told = look.remembered
    try:
        kept, damage = read_memory(look.context.home.state / FILE), ""
        differs = kept is not None and look.remembering.up_to_date() != told
    except StateCorrupt as error:
        damage, differs = str(error), False
    return memory_whole(told, damage, differs=differs)


def self_model(look: Look) -> Finding:
    """Of every confidence that came to an outcome; the breaker `calibration_drift` looks at the newest of them."""
    settings = look.context.settings.cognitive
    found = SelfModel.from_episodes(_episodes(look), settings.self_model).calibration()
    breakers = settings.circuit_breakers
    return calibrated(found, breakers.calibration_bounds, breakers.calibration_z)


def reflection(look: Look) -> Finding:
    settings, now = look.context.settings.cognitive.reflection, look.context.clock.now()
    closed, book = closed_of(_episodes(look)), look.remembered.book
    return learned(book, overfitted(closed, book, now, settings), len(closed), enabled=settings.enabled)


def _episodes(look: Look) -> Sequence[Episode]:
    return EpisodicMemory(look.remembered.episodes.values()).before(look.context.clock.now() + MOMENT)


# ---------------------------------------------------------------- answers
def memory_whole(told: Remembered, damage: str, *, differs: bool) -> Finding:
    """`told`: what the journal tells. A file that is damaged or differs is made again by the runner's next look."""
    outcomes = sum(1 for episode in told.episodes.values() if episode.outcome is not None)
    size = f"{len(told.episodes)} {'=' if told.forgotten else '<'} {told.most} episodes, {outcomes} with an outcome"
    if damage:
        return Finding("episodic_memory", f"{damage}; made again from the journal: {size}", warning="MEMORY_DAMAGED")
    if differs:
        words = f"{FILE} is not what the journal tells, remove it; the journal: {size}"
        return Finding("episodic_memory", words, warning="MEMORY_DIFFERS")
    rest = "; the oldest are forgotten" if told.forgotten else ""
    return Finding("episodic_memory", f"{size}, no corruption{rest}")


def calibrated(found: Calibration, bounds: tuple[float, float], z_most: float) -> Finding:
    if found.n == 0 or found.forecast is None or found.observed is None:
        return absent("self_model", "no confidence has come to an outcome yet", "NO_FORECASTS")
    words = (
        f"calibration of {found.n}: said {found.forecast:.2f}, won {found.observed:.2f}, "
        f"Brier {found.brier:.3f} against {found.brier_of_base_rate:.3f}, ECE {found.ece:.3f}"
    )
    limits = f"[{bounds[0]:g}, {bounds[1]:g}]"
    if not found.within(bounds):
        advice = "scripts/memory.py calibration shows it; entries wait for scripts/breakers.py resume"
        return failed("self_model", f"{words}: out of bounds {limits}", "CALIBRATION_OUT_OF_BOUNDS", advice)
    if found.z is not None and abs(found.z) > z_most:
        return Finding("self_model", f"{words}: {found.z:+.1f} standard errors off", warning="CALIBRATION_OFF")
    return Finding("self_model", f"{words}: within bounds {limits}")


def learned(book: LearningBook, overfitting: Sequence[str], outcomes: int, *, enabled: bool) -> Finding:
    counts = [(len(book.of(status)), str(status)) for status in (Status.ADOPTED, Status.CANDIDATE, Status.RETIRED)]
    words = ", ".join(f"{n} {name}" for n, name in counts) + f"; {book.tried} hypotheses tried on {outcomes} outcomes"
    if overfitting:
        words = f"{words}; do not hold any more: {few(overfitting)}"
        return Finding("reflection", words, warning="LEARNING_OVERFITTED")
    if not enabled:
        return Finding("reflection", f"off in the settings; {words}", warning="REFLECTION_OFF")
    if not outcomes:
        return absent("reflection", "no outcome to learn from yet", "NO_OUTCOMES")
    return Finding("reflection", f"{words}; learnings not overfitting")
