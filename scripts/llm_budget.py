"""What the language model may still spend today, and a person's reset of it.

  llm_budget.py status                    both limits of the New York day, and the one that binds
  llm_budget.py reset --reason TEXT       count today's spend as nothing; --tokens N, --usd X: as so much
  llm_budget.py save                      write state/llm_token_usage.json again from the audit
The day begins by itself at New York midnight. A reset is kept in the journal and in state/llm_calls.jsonl; calls that
may be on the wire stay reserved. It is also the way out when both files are damaged.
Exit: 0 · 1 status: nothing is left, or it cannot be known · 2 usage · 11 the journal cannot be written · 12 locked
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.clock import Clock, SystemClock
from core.env import load_dotenv
from core.errors import Exit, UsageError
from core.paths import home


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("action", choices=("status", "reset", "save"))
    p.add_argument("--reason", default="", help="with reset: why; kept in the journal")
    p.add_argument("--tokens", type=int, help="with reset: tokens that count as used (default 0)")
    p.add_argument("--usd", type=_usd, help="with reset: USD that count as spent (default 0)")
    cli.add_common(p)
    return p


def _usd(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount")
    return value


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    from config.loader import load_settings
    from llm.token_budget import TokenBudget

    args = parser().parse_args(argv)
    if args.action == "reset" and not args.reason.strip():
        raise UsageError("reset wants a reason", advice='--reason "the vendor\'s page says 0.40 USD"')
    if args.action != "reset" and (args.reason or args.tokens is not None or args.usd is not None):
        raise UsageError("--reason, --tokens and --usd belong to reset")
    if args.tokens is not None and args.tokens < 0:
        raise UsageError(f"--tokens must be from 0, was {args.tokens}")
    load_dotenv(args.dotenv)
    clock = clock or SystemClock()
    logs.configure(home(), clock, run_id="llm_budget", mode="")
    budget = TokenBudget(home(), load_settings().cognitive.llm_analyzer, clock)
    if args.action == "reset":
        budget.reset(args.reason.strip(), tokens=args.tokens or 0, usd=args.usd or Decimal(0))
    elif args.action == "save":
        budget._save_state()
    status = budget.get_status()
    if args.json:
        cli.print_json(status)
    else:
        cli.out("\n".join(_lines(status)))
    return Exit.OK if args.action != "status" or status["remaining_percent"] > 0 else Exit.NO


def _lines(status: dict[str, Any]) -> list[str]:
    if status["used_today"] is None:
        return [
            f"{status['code']}: today's spend cannot be known and counts as all of it",
            "look at the vendor's page, then: python scripts/llm_budget.py reset --reason TEXT --tokens N --usd X",
        ]
    usd = "no limit" if status["max_daily_usd"] is None else f"of {status['max_daily_usd']:.2f}"
    rows = [
        (
            "tokens",
            f"{status['used_today']}",
            f"of {status['max_daily_tokens']}",
            f"{status['reserved_tokens']} reserved",
        ),
        ("USD", f"{status['cost_usd_today']:.4f}", usd, f"{status['reserved_usd']:.4f} reserved"),
    ]
    lines = [f"New York day {status['day']}: {status['code']}", cli.table(("", "used", "limit", "of it"), rows)]
    lines.append(f"{status['remaining_percent']:.1f} % left; {status['binding']} bind; {status['calls_today']} calls")
    if status["resets_today"]:
        lines.append(f"reset by a person {status['resets_today']} times today")
    return lines + [f"warned today: {code}" for code in status["warned"]]


if __name__ == "__main__":
    sys.exit(cli.run(main))
