"""A briefing before, in and after a session, in Markdown; the same as a page with plots below logs/briefings/.

  generate_briefing.py --phase pregame            what may happen today
  generate_briefing.py --phase halftime           what happened so far
  generate_briefing.py --phase postgame           the day's decisions, fills, shortfall, results, and what comes next
  generate_briefing.py --phase postgame --date 2026-11-25    of a day that is over, as far as it was kept
Every number is worked out here. A language model may put them in words, at the end; without it nothing is missing.
What is not known says so, with its code. Asks no broker and no vendor of prices.
Exit: 0 told · 2 usage, or a day without that briefing · 10 configuration · 11 replay.json damaged
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli
from core.errors import Exit


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--phase", required=True, choices=("pregame", "halftime", "postgame"))
    p.add_argument("--date", type=cli.day, metavar="DATE", help="the session; default: the one it is about")
    p.add_argument("--mode", choices=("paper", "live"), help="which account; default: the account of this home")
    p.add_argument("--no-llm", action="store_true", help="ask no language model")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from execution.observe.screen import banner
    from scripts import observing, wiring

    context = wiring.open_context(args, mode=observing.mode_of(args.mode))
    watched = observing.open_observer(context).watched
    if not args.json:
        cli.out(banner(watched.mode, watched.broker, simulated=watched.simulated))  # before a long journal is read
    from scripts import briefing, briefing_text
    from scripts.briefing_day import Phase, asked, ground
    from scripts.briefing_model import as_json
    from scripts.narrating import narrative_of

    wanted = asked(Phase(args.phase), args.date, context.clock.now(), context.calendar)
    made = briefing.compose(ground(context, wanted), watched)
    if not args.json:
        cli.out(f"\n{briefing_text.header(made)}\n{briefing_text.body(made)}")
    narrative = narrative_of(context, made, ask=not args.no_llm)
    files = briefing.write(context.home.logs, made, narrative)
    briefing.told(made, narrative)
    if args.json:
        cli.print_json(as_json(made, narrative, files))
    else:
        cli.out(briefing_text.told(narrative))
        cli.out(f"also in {files['html']}" if "html" in files else f"not written: {files['code']}")
    return Exit.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
