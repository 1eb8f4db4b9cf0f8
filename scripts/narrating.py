"""Asks the language model for a briefing's narrative, when it may be asked; says why there is none when not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import logs
from core.errors import KobeError
from scripts.briefing_model import Briefing, Narrative, every_word

if TYPE_CHECKING:
    from llm.briefing import Door
    from scripts import wiring


def narrative_of(context: wiring.Context, briefing: Briefing, *, ask: bool = True) -> Narrative:
    """Never raises for what the model, the network, the budget or its files do."""
    llm = context.settings.cognitive.llm_analyzer
    if not ask:
        return Narrative((), "LLM_NOT_ASKED", "--no-llm")
    if not llm.enabled or llm.mode == "off":
        return Narrative((), "LLM_OFF", "cognitive.llm_analyzer is off")
    try:
        return narrated(briefing, door_of(context))
    except (KobeError, OSError) as error:
        code = error.code if isinstance(error, KobeError) else "LLM_UNAVAILABLE"
        logs.error_event("narrative_failed", code=code, detail=str(error))
        return Narrative((), code, str(error))


def door_of(context: wiring.Context) -> Door:
    from llm.client import open_door

    door: Door = open_door(
        context.settings.cognitive.llm_analyzer, key=context.keys.anthropic, base_url=context.endpoints.anthropic,
        clock=context.clock, calendar=context.calendar, home=context.home,
    )  # fmt: skip
    return door


def narrated(briefing: Briefing, door: Door) -> Narrative:
    from llm.briefing import narrate

    facts = "\n".join(every_word(briefing))
    found = narrate(facts, phase=briefing.phase, session=briefing.session, door=door)
    if found.code != "OK":
        logs.event("narrative_dropped", code=found.code, detail=found.detail, phase=briefing.phase)
        logs.count("narratives_dropped", code=found.code)
    return Narrative(found.paragraphs, found.code, found.detail, found.model)
