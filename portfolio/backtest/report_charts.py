"""The charts of the tear sheet as inline SVG, drawn twice: for a wide page and for a phone. Same input, same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from portfolio.backtest.bootstrap import Floats
from portfolio.backtest.report_html import Html, esc, joined, tag

_TICKS = 4
_SLACK = 0.02  # of a step that a curve may go over the outermost tick: no empty band for a hair
_BUCKETS = {"wide": 420, "narrow": 160}


@dataclass(frozen=True, slots=True)
class Frame:
    """A drawing surface in SVG units; text is 12 units high, so a narrow one is drawn at about its real size."""

    kind: str
    width: float
    height: float
    left: float = 52.0
    right: float = 10.0
    top: float = 20.0
    bottom: float = 24.0

    def x(self, share: float) -> float:
        return self.left + share * (self.width - self.left - self.right)

    def y(self, share: float) -> float:
        return self.top + (1.0 - share) * (self.height - self.top - self.bottom)


FRAMES = (Frame("wide", 900.0, 280.0), Frame("narrow", 360.0, 230.0))


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """values : one a session; NaN where not known. kind : "ours" or "theirs", the latter dashed."""

    label: str
    kind: str
    values: Floats


def line_chart(title: str, days: Sequence[str], lines: Sequence[Line], *, percent: bool, simulated: bool) -> Html:
    """Curves over the same sessions (ISO days), with a key and a title that a screen reader tells."""
    drawn = [_line_svg(frame, title, days, lines, percent, simulated) for frame in FRAMES]
    marks = joined(joined([tag("i", class_="theirs" if line.kind == "theirs" else None), line.label]) for line in lines)
    return tag("figure", tag("figcaption", title), tag("div", marks, class_="key soft"), *drawn)


def _line_svg(
    frame: Frame, title: str, days: Sequence[str], lines: Sequence[Line], percent: bool, simulated: bool
) -> Html:
    known = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    ticks = _ticks(float(known.min()), float(known.max()))
    low, high = ticks[0], ticks[-1]
    parts = [_grid(frame, ticks, low, high, percent), _years(frame, days)]
    for line in lines:
        points = _thinned(line.values, _BUCKETS[frame.kind])
        n = max(line.values.size - 1, 1)
        path = "".join(
            f"{'M' if k == 0 else 'L'}{frame.x(at / n):.1f} {frame.y((value - low) / (high - low)):.1f}"
            for k, (at, value) in enumerate(points)
        )
        parts.append(tag("path", tag("title", line.label), d=path, class_=line.kind))
    return _svg(frame, title, parts, simulated)


def _svg(frame: Frame, title: str, parts: Sequence[Html], simulated: bool) -> Html:
    if simulated:
        mark = _text(frame.x(0.5), frame.top - 6.0, "SIMULATED", "middle", "mark")
        parts = [*parts, mark]
    box = f"0 0 {frame.width:g} {frame.height:g}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=title, class_=frame.kind)


def _text(x: float, y: float, words: str, anchor: str, class_: str | None = None) -> Html:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def _grid(frame: Frame, ticks: Sequence[float], low: float, high: float, percent: bool) -> Html:
    step = ticks[1] - ticks[0]
    digits = max(0, -math.floor(math.log10(step * (100 if percent else 1)) + 1e-9))
    parts = []
    for value in ticks:
        y = frame.y((value - low) / (high - low))
        words = f"{value * 100:.{digits}f} %" if percent else f"{value:,.{digits}f}"
        ends = {"x1": f"{frame.left:g}", "x2": f"{frame.width - frame.right:g}", "y1": f"{y:.1f}", "y2": f"{y:.1f}"}
        parts += [tag("line", class_="axis", **ends), _text(frame.left - 6, y + 4, words, "end")]
    return joined(parts)


def _years(frame: Frame, days: Sequence[str]) -> Html:
    """Each first session of a year; months when all lie in fewer than two years."""
    size = 4 if len({day[:4] for day in days}) > 2 else 7
    firsts = [k for k in range(1, len(days)) if days[k][:size] != days[k - 1][:size]]
    room = max(1, math.ceil(len(firsts) * (52 if size == 7 else 40) / (frame.width - frame.left)))
    n = max(len(days) - 1, 1)
    return joined(
        _text(min(frame.x(k / n), frame.width - 24), frame.height - 6, days[k][:size], "middle") for k in firsts[::room]
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round values that hold low and high between them."""
    reach = (high - low) or max(abs(high), 1.0) * 0.1
    raw = reach / _TICKS
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(s for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * scale >= raw * (1 - 1e-9)) * scale
    first = math.floor(low / step + _SLACK)
    count = max(1, math.ceil(high / step - first - _SLACK))
    return [(first + k) * step for k in range(count + 1)]


def _thinned(values: Floats, buckets: int) -> list[tuple[int, float]]:
    """The first, last, lowest and highest of every bucket: a spike is never thinned away."""
    known = np.flatnonzero(np.isfinite(values))
    if known.size <= 4 * buckets:
        return [(int(k), float(values[k])) for k in known]
    keep: set[int] = set()
    for part in np.array_split(known, buckets):
        here = values[part]
        keep |= {int(part[0]), int(part[-1]), int(part[np.argmin(here)]), int(part[np.argmax(here)])}
    return [(k, float(values[k])) for k in sorted(keep)]


# ---------------------------------------------------------------- histograms
@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    label: str
    kind: str
    values: Floats


def histogram(title: str, unit: str, groups: Sequence[Bars], low: float, high: float, *, simulated: bool) -> Html:
    """Shares of each group in equal bins of low..high; what lies beyond is counted in the outermost bin, and said."""
    edges = np.linspace(low, high, 25)
    shares = []
    for group in groups:
        counts = np.histogram(np.clip(group.values, low, high), edges)[0]
        shares.append(counts / max(group.values.size, 1))
    beyond = sum(int(((g.values < low) | (g.values > high)).sum()) for g in groups)
    top = max(float(share.max(initial=0.0)) for share in shares) or 1.0
    drawn = [_bars_svg(frame, title, edges, groups, shares, top, simulated) for frame in _HALVES]
    keys = joined(
        joined([tag("i", class_="theirs" if g.kind == "theirs" else None), f"{g.label}, N = {g.values.size:,}"])
        for g in groups
    )
    said = f"Share of the trades of each kind, {unit}; {beyond:,} beyond the ends are in the outermost bars."
    return tag("figure", tag("figcaption", title), tag("div", keys, class_="key soft"), *drawn, tag("small", said))


_HALVES = (Frame("wide", 440.0, 230.0), Frame("narrow", 360.0, 210.0))


def _bars_svg(
    frame: Frame, title: str, edges: Floats, groups: Sequence[Bars], shares: Sequence[Floats], top: float,
    simulated: bool,
) -> Html:  # fmt: skip
    ticks = _ticks(0.0, top)
    parts = [_grid(frame, ticks, 0.0, ticks[-1], percent=True)]
    span = float(edges[-1] - edges[0])
    for group, share in zip(groups, shares, strict=True):
        for k, value in enumerate(share.tolist()):
            if value <= 0:
                continue
            x = frame.x(float(edges[k] - edges[0]) / span)
            wide = frame.x(float(edges[k + 1] - edges[0]) / span) - x
            y = frame.y(value / ticks[-1])
            spelled = {"x": x + 0.5, "y": y, "width": wide - 1.0, "height": frame.y(0.0) - y}
            words = tag("title", f"{group.label}: {edges[k]:.2f} to {edges[k + 1]:.2f}: {value:.1%}")
            parts.append(tag("rect", words, class_=group.kind, **{n: f"{v:.1f}" for n, v in spelled.items()}))
    for at in _ticks(float(edges[0]), float(edges[-1])):
        share_of = (at - float(edges[0])) / span
        if -1e-9 <= share_of <= 1.0 + 1e-9:
            x = min(frame.x(share_of), frame.width - 14)
            parts.append(_text(x, frame.height - 6, f"{at:g}", "middle"))
    return _svg(frame, title, parts, simulated)


def heat(value: float, text: str, most: float) -> Html:
    """A cell of the monthly table: tinted by its size; the sign is in the text."""
    depth = min(1.0, abs(value) / most) * 0.45 if most > 0 else 0.0
    kind = "up" if value > 0 else "down" if value < 0 else ""
    return Html(f'<td class="{kind}" style="--a:{depth:.2f}">{esc(text)}</td>')
