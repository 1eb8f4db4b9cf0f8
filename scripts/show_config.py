"""The settings in force, merged; where each came from; which limit binds first.

  show_config.py                      every setting with its value
  show_config.py --origin             and the line of the file, or "default"; the environment too, keys never shown
  show_config.py --limits             limits on the same thing side by side, the one that binds marked, with arithmetic
  show_config.py --limits --equity 5000
Exit: 0 · 2 usage · 10 configuration
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from config.loader import leaves, load_settings, settings_origin
from core import cli
from core.env import load_dotenv
from core.errors import Exit, UsageError
from core.paths import home
from core.secrets import MASK, SECRET_VARIABLES, mask_secrets

VARIABLES = ("KOBE_HOME", "KOBE_CONFIG", "ALPACA_BASE_URL", "ALPACA_DATA_URL", "POLYGON_BASE_URL", "ANTHROPIC_BASE_URL")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--origin", action="store_true", help="where each value came from")
    p.add_argument("--limits", action="store_true", help="which limit binds first")
    p.add_argument("--equity", metavar="USD", help="with --limits: the account's equity; some limits are shares of it")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    equity = _equity(args.equity)
    before = frozenset(os.environ)
    load_dotenv(args.dotenv)
    settings = load_settings()
    if args.json:
        cli.print_json(_document(settings, before, equity))
        return Exit.OK
    if args.limits:
        _limits(settings, equity)
        if not args.origin:
            return Exit.OK
    _values(settings, with_origin=args.origin)
    if args.origin:
        _environment(before)
    return Exit.OK


def _equity(text: str | None) -> Decimal | None:
    try:
        found = None if text is None else Decimal(text)
    except InvalidOperation as error:
        raise UsageError(f"--equity {text!r} is not an amount") from error
    if found is not None and not (found.is_finite() and found > 0):
        raise UsageError(f"--equity must be positive, was {text}")
    return found


def _shown(value: Any) -> str:
    """As it would stand in the file; never a key."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(item) for item in value)}]"
    if hasattr(value, "model_dump"):
        return "{" + ", ".join(f"{k}: {_shown(v)}" for k, v in value.model_dump().items()) + "}"
    return mask_secrets(str(value))


def _values(settings: Any, *, with_origin: bool) -> None:
    origin = settings_origin()
    for key, value in leaves(settings).items():
        line = origin.line_of(key)
        came = f"{origin.path.name} line {line}" if line is not None else "default"
        shown = _shown(value)
        cli.out(f"{key}: {shown}" + (f"    # {came}" if with_origin else ""))


def environment(before: frozenset[str]) -> list[dict[str, str | None]]:
    """Name, value (keys as ***), and whether it came from the shell or from a .env file."""
    rows: list[dict[str, str | None]] = []
    for name in (*VARIABLES, *SECRET_VARIABLES):
        value = os.environ.get(name, "").strip()
        shown = None if not value else MASK if name in SECRET_VARIABLES else mask_secrets(value)
        source = None if not value else "environment" if name in before else ".env"
        rows.append({"name": name, "value": shown, "from": source})
    return rows


def _environment(before: frozenset[str]) -> None:
    cli.out(f"home: {home().root}")
    for row in environment(before):
        # the equals sign of a key would be taken for the key itself, and masked
        cli.out(f"{row['name']}: {row['value']}    # {row['from']}" if row["value"] else f"{row['name']} is not set")


def _limits(settings: Any, equity: Decimal | None) -> None:
    from config.binding import groups

    for group in groups(settings, equity):
        cli.out(f"{group.what}, {group.unit}")
        for bound in group.bounds:
            mark = "=>" if bound is group.binding else "  "
            value = "?" if bound.value is None else str(bound.value)
            cli.out(f"  {mark} {value:>10}  {bound.key}" + (f"  ({bound.how})" if bound.how else ""))
    if equity is None:
        cli.out("? depends on the account: --equity USD")


def _document(settings: Any, before: frozenset[str], equity: Decimal | None) -> dict[str, Any]:
    from config.binding import groups, numbers

    origin = settings_origin()
    return {
        "file": str(origin.path),
        "settings": {
            key: {"value": _shown(value), "line": origin.line_of(key)} for key, value in leaves(settings).items()
        },
        "environment": environment(before),
        "limits": numbers(groups(settings, equity)),
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
