"""Backtest both frozen strategies on daily bars and write every trade.

--level signals (default): each symbol and strategy alone, no cash, no limits, no costs.
Signals are taken from --start to --end, both included; indicators see all earlier bars and a trade may end later.
--bars PATH is a folder of SYMBOL.csv or one long CSV, .gz or not; without it the bar store of KOBE_HOME is read.
--cap N takes the first N symbols of the universe (of the bars, by name, when only --bars is given).
Writes trade_list.csv and summary.json to --out (default: wf_outputs/ under KOBE_HOME).
Exit: 0 done · 2 usage · 10 configuration · 20 no usable bars
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from config.loader import load_settings
from config.strategy_params import load_strategy_params
from core import cli
from core.domain import Symbol
from core.env import load_dotenv
from core.errors import DataError, UsageError
from core.files import write_atomic
from core.panel import Panel
from core.paths import REPO_ROOT, home
from portfolio.backtest.engine import Trade, signal_level_trades, write_trade_list


@dataclass(frozen=True, slots=True)
class Loaded:
    panel: Panel
    source: str
    simulated: bool


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--start", type=date.fromisoformat, default=date(1900, 1, 1), metavar="DATE")
    out.add_argument("--end", type=date.fromisoformat, default=date(2200, 1, 1), metavar="DATE")
    out.add_argument("--cap", type=int, metavar="N", help="at most N symbols")
    out.add_argument("--universe", type=pathlib.Path, metavar="FILE")
    out.add_argument("--bars", type=pathlib.Path, metavar="PATH")
    out.add_argument("--level", choices=("signals", "portfolio"), default="signals")
    out.add_argument("--out", type=pathlib.Path, metavar="DIR")
    out.add_argument("--workers", type=int, default=1, metavar="N", help="1 is the only value this version takes")
    cli.add_common(out)
    return out


def checked(args: argparse.Namespace) -> argparse.Namespace:
    if args.level == "portfolio":
        raise UsageError("--level portfolio comes with a later version", advice="use --level signals")
    if args.start > args.end:
        raise UsageError(f"--start {args.start} is after --end {args.end}")
    if args.cap is not None and args.cap < 1:
        raise UsageError(f"--cap must be at least 1, was {args.cap}")
    if args.workers != 1:
        raise UsageError(f"--workers must be 1 in this version, was {args.workers}")
    return args


def universe_symbols(path: pathlib.Path | None) -> Sequence[Symbol]:
    from data.universe import load_universe

    chosen = path or REPO_ROOT / load_settings().universe.path
    return load_universe(chosen, default=False).symbols


def load_bars(args: argparse.Namespace) -> Loaded:
    """From --bars, else from the store. Raises DataError when no symbol has bars."""
    from core.bars_io import read_bars

    wanted = universe_symbols(args.universe)[: args.cap] if args.universe is not None else None
    if args.bars is None:
        return load_store(wanted if wanted is not None else universe_symbols(None)[: args.cap])
    bars = read_bars(args.bars, None if wanted is None else set(wanted))
    if wanted is None and args.cap is not None:
        bars = {symbol: bars[symbol] for symbol in sorted(bars)[: args.cap]}
    if not bars:
        raise DataError(f"no bars of the wanted symbols in {args.bars}", code="NO_BARS", advice="check --universe")
    return Loaded(Panel.from_bars(bars), str(args.bars), simulated=False)


def load_store(wanted: Sequence[Symbol]) -> Loaded:
    """The first provider, in the configured order, that has bars of a wanted symbol; sources are never mixed."""
    from data.store import BarStore

    for source in [*load_settings().data.providers, "simulated"]:
        store = BarStore(home().cache, str(source))
        symbols = sorted(set(store.symbols()) & set(wanted))
        if symbols:
            panel = store.load_panel(symbols, date(2200, 1, 1))
            return Loaded(panel, str(source), simulated=source == "simulated")
    raise DataError(
        f"the bar store {home().cache} has no bars of the {len(wanted)} wanted symbols",
        code="NO_BARS",
        advice="run python scripts/scan.py once to fetch them, or give --bars PATH",
    )


def summary_of(args: argparse.Namespace, loaded: Loaded, trades: Sequence[Trade]) -> dict[str, object]:
    """Counts only; a trade still open at the end of the data is in no statistic."""
    by_strategy = {}
    for name in sorted({trade.strategy for trade in trades}):
        mine = [trade for trade in trades if trade.strategy == name]
        closed = [trade for trade in mine if trade.exit_price is not None]
        returns = [trade.exit_price / trade.entry_price - 1.0 for trade in closed if trade.exit_price is not None]
        by_strategy[name] = {
            "trades": len(mine),
            "open": len(mine) - len(closed),
            "won": sum(value > 0 for value in returns),
            "mean_return": sum(returns) / len(returns) if returns else None,
        }
    return {
        "level": args.level,
        "start": args.start.isoformat(),
        "end": args.end.isoformat(),
        "data_source": loaded.source,
        "simulated": loaded.simulated,
        "symbols": len(loaded.panel.symbols),
        "sessions": int(loaded.panel.sessions.size),
        "trades": len(trades),
        "strategies": by_strategy,
    }


def show(summary: dict[str, object], folder: pathlib.Path) -> None:
    cli.out(
        f"data: {summary['data_source']}{' (SIMULATED)' if summary['simulated'] else ''}, "
        f"{summary['symbols']} symbols, {summary['sessions']} sessions"
    )
    strategies = summary["strategies"]
    assert isinstance(strategies, dict)
    rows = [
        [
            name,
            str(row["trades"]),
            str(row["open"]),
            str(row["won"]),
            "-" if row["mean_return"] is None else f"{row['mean_return']:+.4%}",
        ]
        for name, row in strategies.items()
    ]
    cli.out(cli.table(["strategy", "trades", "open", "won", "mean return"], rows))
    cli.out("no costs, no cash, no limits: signal level")
    cli.out(f"written: {folder / 'trade_list.csv'}")


def main(argv: Sequence[str] | None = None) -> int:
    args = checked(parser().parse_args(argv))
    load_dotenv(args.dotenv)
    loaded = load_bars(args)
    trades = signal_level_trades(loaded.panel, load_strategy_params(), args.start, args.end)
    folder = args.out or home().wf_outputs / f"dual-{args.level}-{args.start}-{args.end}"
    write_trade_list(folder / "trade_list.csv", trades)
    summary = summary_of(args, loaded, trades)
    write_atomic(folder / "summary.json", json.dumps(summary, indent=1, sort_keys=True).encode() + b"\n", durable=False)
    if args.json:
        cli.print_json({**summary, "out": str(folder)})
    else:
        show(summary, folder)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
