"""One briefing: its sections by phase, its narrative, its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from core import logs
from core.files import write_atomic
from scripts import briefing_cognition as mind
from scripts import briefing_events as events
from scripts import briefing_page, briefing_text
from scripts import briefing_standing as stand
from scripts.briefing_day import Ground, Phase
from scripts.briefing_model import Briefing, Narrative, Section

if TYPE_CHECKING:
    from execution.observe.observer import Watched

FOLDER = "briefings"
_BEFORE: tuple[Callable[[Ground], Section], ...] = (
    stand.standing, stand.plan, stand.limits, stand.held, events.signals, events.earnings, stand.book_money,
    stand.market, mind.breakers, mind.beliefs, mind.spend, stand.alerts,
)  # fmt: skip
_HALF: tuple[Callable[[Ground], Section], ...] = (
    stand.standing, stand.runs, events.on_the_way, stand.limits, events.decisions, events.orders, events.closed,
    stand.held, stand.book_money, stand.market, mind.breakers, mind.spend, stand.alerts,
)  # fmt: skip
_AFTER: tuple[Callable[[Ground], Section], ...] = (
    stand.standing, stand.runs, events.decisions, events.orders, events.shortfall, events.closed, stand.book_money,
    stand.limits, stand.held, mind.breakers, mind.beliefs, mind.learned, mind.spend, events.tomorrow, stand.alerts,
)  # fmt: skip
SECTIONS: Mapping[Phase, tuple[Callable[[Ground], Section], ...]] = {
    Phase.PREGAME: _BEFORE, Phase.HALFTIME: _HALF, Phase.POSTGAME: _AFTER,
}  # fmt: skip


def compose(g: Ground, watched: Watched) -> Briefing:
    """Every number of the briefing. The language model is not asked here."""
    return Briefing(
        phase=str(g.asked.phase), session=g.asked.session, at=g.asked.at, mode=watched.mode, broker=watched.broker,
        simulated=watched.simulated if g.facts is None else g.facts.simulated,
        state="OVER" if g.ready is None else g.ready.state,
        sections=tuple(section(g) for section in SECTIONS[g.asked.phase]),
    )  # fmt: skip


def files_of(folder: Path, phase: str, session: date) -> tuple[Path, Path]:
    name = f"{session.isoformat()}-{phase}"
    return folder / FOLDER / f"{name}.md", folder / FOLDER / f"{name}.html"


def write(folder: Path, briefing: Briefing, narrative: Narrative) -> Mapping[str, str]:
    """Both files, or the code of why there is none: a full disk takes no briefing away from the terminal."""
    text, page = files_of(folder, briefing.phase, briefing.session)
    try:
        text.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(text, briefing_text.whole(briefing, narrative).encode("utf-8", "replace"), durable=False)
        write_atomic(page, briefing_page.render(briefing, narrative), durable=False)
    except OSError as error:
        logs.error_event("briefing_not_written", code="LOGS_UNWRITABLE", detail=str(error))
        logs.count("briefings_not_written")
        return {"code": "LOGS_UNWRITABLE"}
    return {"markdown": str(text), "html": str(page)}


def told(briefing: Briefing, narrative: Narrative) -> None:
    """One event a briefing: what was told, what was not known, why there is no narrative."""
    logs.event(
        "briefing_written", code=narrative.code, phase=briefing.phase, session=briefing.session.isoformat(),
        unknown=sorted(set(briefing.unknown().values())), paragraphs=len(narrative.paragraphs),
    )  # fmt: skip
    logs.count("briefings_written", phase=briefing.phase)
