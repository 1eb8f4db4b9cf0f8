"""The briefing as one HTML file that asks for nothing and runs nothing. Pure; every text is escaped.

Style, cards and the equity curve are those of the sidecar's page: light and dark, from a phone's width up.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from core.market_calendar import NEW_YORK
from core.secrets import mask_secrets
from execution.observe.chart import equity_svg
from execution.observe.page_assets import STYLE
from execution.observe.page_parts import card, e, pairs, table
from scripts.briefing_model import Bar, Briefing, Cell, Chart, Fact, Narrative, Section, Table

_CSS = (
    STYLE
    + """
.bars{display:grid;grid-template-columns:max-content minmax(60px,1fr) max-content;gap:4px 12px;align-items:center;
margin:6px 0 0;font-variant-numeric:tabular-nums}
.bars svg{height:14px;border:0;margin:0}
.bars .zero{stroke:var(--soft);stroke-width:1;vector-effect:non-scaling-stroke}
.bars .good{fill:var(--good);background:none}.bars .bad{fill:var(--bad);background:none}
.scroll{margin-top:10px}
.said p{max-width:68ch}
.scroll td{white-space:nowrap}.stack .scroll td{white-space:normal}
@media(max-width:759px){.stack thead{display:none}
.stack tr{display:block;border-top:1px solid var(--line);padding:6px 0}
.stack td{display:block;border:0;padding:1px 0;text-align:left}}
td{overflow-wrap:break-word}
.bars span:last-child,.bars span:nth-child(3n){text-align:right}
@media(min-width:760px){main{grid-auto-flow:dense}}
"""
)
_HALVES = frozenset({"limits", "market", "plan", "tomorrow", "to_come", "shortfall", "llm"})
_WIDE, _MIDDLE = 200.0, 100.0
_LONG = 24  # letters of a cell: on a phone such a table becomes a list


def render(briefing: Briefing, narrative: Narrative) -> bytes:
    title = f"{briefing.phase.capitalize()} {briefing.session} · Kobe"
    cards = "".join([_header(briefing), *(_section(section) for section in briefing.sections), _said(narrative)])
    digest = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{e(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{e(policy)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_CSS}</style></head><body><main>{cards}</main></body></html>"
    )
    return mask_secrets(text).encode("utf-8", "replace")


def _header(briefing: Briefing) -> str:
    css = {"ARMED": "good", "HALTED": "bad", "OVER": "plain"}.get(briefing.state, "warn")
    marks = [f'<span class="badge {css}">{e(briefing.state)}</span>']
    if briefing.simulated:
        marks.append('<span class="badge warn">SIMULATED</span>')
    marks.append(
        f'<span class="badge {"live" if briefing.mode == "live" else "plain"}">{e(briefing.mode.upper())}</span>'
    )
    there = briefing.at.astimezone(NEW_YORK)
    return (
        f'<header class="card"><h1>{e(briefing.phase.capitalize())}, {e(f"{briefing.session:%a %Y-%m-%d}")}</h1>'
        f'{"".join(marks)}<span class="spacer"></span>'
        f'<span class="soft keep">as of {there:%a %Y-%m-%d %H:%M} New York</span>'
        f'<span class="soft about">broker: {e(briefing.broker)}</span></header>'
    )


def _section(section: Section) -> str:
    facts = pairs((e(fact.name), _value(fact)) for fact in section.facts) if section.facts else ""
    tables = "".join(_table(one) for one in section.tables)
    body = facts + ("" if section.chart is None else _chart(section.chart)) + tables
    return card(section.title, body, "six" if section.key in _HALVES else "")


def _value(fact: Fact) -> str:
    return f'<span class="unknown">{e(fact.words)}</span>' if fact.code else e(fact.words)


def _table(one: Table) -> str:
    columns = [(name, _class_of(one, at)) for at, (_, name) in enumerate(one.columns)]
    made = table(columns, [[_cell(found) for found in row] for row in one.rows], one.nothing)
    return f'<div class="stack">{made}</div>' if any(len(c.words) > _LONG for row in one.rows for c in row) else made


def _class_of(one: Table, at: int) -> str:
    """Columns of numbers stand to the right."""
    told = [row[at].words for row in one.rows if row[at].words]
    return "num" if told and all(_is_number(words) for words in told) else ""


def _is_number(words: str) -> bool:
    return words.replace(",", "").lstrip("+-").replace(".", "", 1).isdigit()


def _cell(found: Cell) -> str:
    return f'<span class="tag {found.mark}">{e(found.words)}</span>' if found.mark else e(found.words)


def _said(narrative: Narrative) -> str:
    if not narrative.paragraphs:
        detail = f": {narrative.detail}" if narrative.detail else ""
        words = f"No narrative ({narrative.code}){detail}. Nothing above depends on it."
        return card("In words", f'<p class="soft">{e(words)}</p>')
    told = "".join(f"<p>{e(paragraph)}</p>" for paragraph in narrative.paragraphs)
    by = f"Written by {narrative.model or 'a language model'} from the facts above; it adds none."
    return card("In words", f'<div class="said">{told}</div><p class="soft">{e(by)}</p>')


# ---------------------------------------------------------------- charts
def _chart(chart: Chart) -> str:
    drawn = equity_svg(chart.equity) if chart.equity else _bars(chart.title, chart.bars)
    return f'<p class="soft">{e(chart.title)}</p>{drawn}'


def _bars(title: str, bars: Sequence[Bar]) -> str:
    """One row a figure, around a zero line; the numbers stand beside them."""
    most = max((abs(bar.value) for bar in bars), default=0.0) or 1.0
    rows = "".join(f"<span>{e(bar.label)}</span>{_bar(bar, most)}<span>{e(bar.words)}</span>" for bar in bars)
    return f'<div class="bars" role="img" aria-label="{e(title)}">{rows}</div>'


def _bar(bar: Bar, most: float) -> str:
    wide = _MIDDLE * min(1.0, abs(bar.value) / most)
    left = _MIDDLE if bar.value >= 0 else _MIDDLE - wide
    css = "good" if (bar.value >= 0) is bar.more_is_good else "bad"
    return (
        f'<svg viewBox="0 0 {_WIDE:g} 14" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{css}" x="{left:.1f}" y="2" width="{wide:.1f}" height="10"/>'
        f'<line class="zero" x1="{_MIDDLE:g}" x2="{_MIDDLE:g}" y1="0" y2="14"/></svg>'
    )
