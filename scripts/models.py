"""The trained models: which one scores, which is in its shadow period, which passed the gate; and moving between them.

  models.py list
  models.py promote [MODEL] [--reason TEXT]    end the shadow period now, or bring back one that passed the gate
  models.py rollback [--to MODEL] --reason TEXT    drop the shadow, else go back to the champion before; without one,
                                                   no model scores. A running runner follows at its next scan
Every move is in state/models.jsonl, and in the journal of this home if it has one.
Exit: 0 done; list: a model scores or is in shadow · 1 list: none does, or it cannot be used · 2 usage · 10 it did not
pass the gate · 11 its files or the chain cannot be believed
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from core import cli, logs
from core.clock import Clock, SystemClock
from core.env import load_dotenv
from core.errors import Exit, UsageError
from core.paths import home


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("action", choices=("list", "promote", "rollback"))
    p.add_argument("model", nargs="?", metavar="MODEL", help="with promote: which")
    p.add_argument("--to", metavar="MODEL", help="with rollback: which earlier champion")
    p.add_argument("--reason", default="", help="why; kept in the chain")
    cli.add_common(p)
    return p


def main(argv: Sequence[str] | None = None, *, clock: Clock | None = None) -> int:
    args = parser().parse_args(argv)
    if (args.model is not None and args.action != "promote") or (args.to is not None and args.action != "rollback"):
        raise UsageError("list names no model, promote MODEL, rollback --to MODEL")
    if args.action == "rollback" and not args.reason.strip():
        raise UsageError("rollback wants a reason", advice='--reason "its opinions were far too high this week"')
    load_dotenv(args.dotenv)
    clock = clock or SystemClock()
    logs.configure(home(), clock, run_id="models", mode="")
    from scripts import modelling

    if args.action == "list":
        return _list(clock, as_json=args.json)
    if args.action == "promote":
        found = modelling.promote(home(), clock, args.model, args.reason)
    else:
        found = modelling.roll_back(home(), clock, args.to, args.reason)
    if args.json:
        cli.print_json({"champion": found.champion, "shadow": found.shadow, "earlier": list(found.earlier)})
    else:
        cli.out(f"champion: {found.champion or 'none: signals earn no points of a model'}")
        cli.out("config_pin.py verify names the change; config_pin.py pin accepts it")
    return Exit.OK


def _list(clock: Clock, *, as_json: bool) -> int:
    from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
    from scripts import modelling
    from scripts.model_rows import rows_of

    modelling.step_forward(home(), clock)
    predictor = EnsemblePredictor(home(), session=modelling.today(clock))
    rows = rows_of(home(), predictor.standing)
    found: dict[str, Any] = {
        "code": predictor.code, "detail": predictor.detail, "loaded": list(predictor.loaded),
        "champion": predictor.standing.champion, "shadow": predictor.standing.shadow,
        "shadow_until": predictor.standing.shadow_until, "models": rows,
    }  # fmt: skip
    if as_json:
        cli.print_json(found)
    else:
        head = ("model", "is", "learned until", "expires", "gate", "file")
        shown = [(r["model"], r["is"], r["learned_until"], r["expires"], r["gate"], r["code"]) for r in rows]
        cli.out(cli.table(head, shown, width=110) if shown else "no model was trained in this home")
        cli.out(f"{predictor.code}: {predictor.detail}")
    return Exit.OK if predictor.code in ("OK", "MODEL_SHADOW") else Exit.NO


if __name__ == "__main__":
    sys.exit(cli.run(main))
