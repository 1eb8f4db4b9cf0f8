"""Is the language model worth its cost? Every decision beside its shadow twin, made without it. docs/briefings.md.

Only sessions count in which its advice was asked for (mode full), whose recorded inputs are still there, and that lie
after the model's training cut-off (cognitive.llm_analyzer.cutoffs). What does not count is told by its code.
Value: what we hold more of, or lost less of, with the model than without, after costs; less what its calls cost.
The model is said to earn its keep when the 95 % interval of the net value lies above zero; briefings are told apart.
Exit: 0 told · 1 nothing to tell: no session counts · 2 usage · 11 journal or audit damaged
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit, UsageError

if TYPE_CHECKING:
    from portfolio.backtest.shadow import Span, Worth
    from scripts import wiring
    from scripts.valuing import Costs, Gathered


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--start", type=cli.day, default=date(1900, 1, 1), metavar="DATE", help="first session")
    p.add_argument("--end", type=cli.day, default=date(2200, 1, 1), metavar="DATE", help="last session")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.start > args.end:
        raise UsageError(f"--start {args.start} is after --end {args.end}")
    from scripts import observing, wiring

    context = wiring.open_context(args, mode=observing.mode_of(None))
    wiring.resume_replayed_account(context)
    facts = run(context, args.start, args.end)
    if args.json:
        cli.print_json(facts)
    else:
        cli.out(render(facts))
    return Exit.OK if facts["total"]["sessions"] else Exit.NO


def run(context: wiring.Context, start: date, end: date) -> dict[str, Any]:
    """Raises StateCorrupt when journal or audit are damaged."""
    from llm import audit
    from portfolio.backtest.shadow import worth
    from scripts import valuing, wiring

    records = wiring.open_journal(context).records() if context.home.journal.exists() else ()
    ledger, reviewed = valuing.folded(records)
    within = [r for r in reviewed if start.isoformat() <= str(r.body["run"])[:10] <= end.isoformat()]
    gathered = valuing.gather(context, within)
    cost = valuing.costs(audit.read_calls(context.home.state / audit.FILE), valuing.requests_of(reviewed))
    twins = valuing.twins(context, gathered, ledger)
    found = worth(twins, [day.day for day in gathered.days], cost.advice, {})
    return as_plain(found, gathered, cost, start, end)


# ---------------------------------------------------------------- telling
def as_plain(found: Worth, gathered: Gathered, cost: Costs, start: date, end: date) -> dict[str, Any]:
    """Money as text, in cents; months add up to the total."""
    briefings = sum((usd for day, usd in cost.briefings.items() if start <= day <= end), Decimal(0))
    return {
        "models": dict(sorted(Counter(day.model for day in gathered.days).items())),
        "months": {month: _span(span) for month, span in found.months.items()},
        "total": _span(found.total), "claim": found.total.claim,
        "changed": found.changed, "mean_bps": found.mean_bps, "sd_bps": found.sd_bps, "needed": found.needed,
        "left_out": {"decisions": dict(found.left_out), "sessions": dict(sorted(gathered.left_out.items()))},
        "briefings_usd": str(briefings),
    }  # fmt: skip


def _span(span: Span) -> dict[str, Any]:
    row = {name: str(value) if isinstance(value, Decimal) else value for name, value in asdict(span).items()}
    return {**row, "net_usd": str(span.net_usd), "claim": span.claim}


_CLAIMS = {
    "earns": "it earns its keep: the whole interval lies above zero",
    "loses": "it costs more than it brings: the whole interval lies below zero",
    "not shown": "not shown: the interval holds zero",
    "too few": "too few sessions to say how sure that is",
}  # fmt: skip


def render(facts: dict[str, Any]) -> str:
    spans = {**facts["months"], "total": facts["total"]}
    rows = [
        [
            name, s["sessions"], s["decisions"], s["vetoed"], s["shrunk"], s["replaced"], s["value_usd"],
            f"{s['value_r']:+.2f}", s["cost_usd"], s["net_usd"], _interval(s["interval_usd"]),
        ]
        for name, s in spans.items()
    ]  # fmt: skip
    head = ["", "sessions", "decisions", "vetoed", "shrunk", "instead", "value USD", "R", "cost USD", "net USD", "95 %"]
    lines = [cli.table(head, rows, width=120), ""]
    if facts["total"]["sessions"]:
        lines.append(_CLAIMS[facts["claim"]])
    else:
        lines.append("no session counts")
    if facts["needed"] is not None:
        each = f"{facts['mean_bps']:+.1f} bps each (spread {facts['sd_bps']:.0f})"
        lines.append(
            f"{facts['changed']} decisions were changed, {each}; 10 bps each would be seen from {facts['needed']} on, "
            "with 90 % power"
        )
    for what, told in facts["left_out"].items():
        lines += [f"not counted: {n} {what}, {code}" for code, n in told.items()]
    lines.append(f"briefings cost {facts['briefings_usd']} USD besides, and decide nothing")
    return "\n".join(lines)


def _interval(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    return " to ".join("?" if value is None else f"{value:+,.2f}" for value in (found["low"], found["high"]))


if __name__ == "__main__":
    sys.exit(cli.run(main))
