"""The equity curve as inline SVG, its numbers as text beside it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from execution.observe.facts import EquityPoint

WIDTH, HEIGHT, MARGIN = 720.0, 170.0, 6.0


def equity_svg(points: Sequence[EquityPoint]) -> str:
    """One point a session, by their order: closed days leave no gap. Needs at least one point."""
    values = [float(p.equity_usd) for p in points]
    first, last, least, most = points[0].session, points[-1].session, min(values), max(values)
    words = f"Equity, {first} to {last}: {values[0]:,.2f} to {values[-1]:,.2f} USD"
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in scaled(values))
    return (
        f'<div class="ends"><span>highest {most:,.2f}</span><span>now {values[-1]:,.2f} USD</span></div>'
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img" aria-label="{words}">'
        f'<polygon class="area" points="0,{HEIGHT:g} {line} {WIDTH:g},{HEIGHT:g}"/>'
        f'<polyline class="line" points="{line}"/></svg>'
        f'<div class="ends"><span>{first}</span><span>lowest {least:,.2f}</span><span>{last}</span></div>'
    )


def scaled(values: Sequence[float]) -> list[tuple[float, float]]:
    """Points across the whole width; what never changed is a line in the middle."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 1.0, high + 1.0
    down, step = HEIGHT - 2 * MARGIN, WIDTH / max(1, len(values) - 1)
    found = [(k * step, MARGIN + down * (high - v) / (high - low)) for k, v in enumerate(values)]
    return found if len(found) > 1 else [found[0], (WIDTH, found[0][1])]
