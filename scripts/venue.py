"""Run the embedded venue alone: a simulated broker and data vendor on this machine. Ctrl-C ends it."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core import cli


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="venue.py", description=__doc__)
    made.add_argument("--port", type=int, default=8765, help="TCP port on 127.0.0.1, 0 takes a free one (default 8765)")
    made.add_argument("--market", default="simulated", help="simulated, or a folder or file of daily bars")
    made.add_argument("--fills", choices=("path", "at_open"), default=None, help="default: venue.fills of the settings")
    made.add_argument("--db", type=Path, default=None, help="account file (default state/venue.sqlite)")
    return made


def main() -> int:
    arguments = parser().parse_args()
    from config.loader import load_settings
    from core.clock import SystemClock
    from core.market.base import Market
    from core.market.real import open_bars_market
    from core.market.simulated import SimulatedMarket
    from core.market_calendar import market_calendar
    from core.paths import REPO_ROOT, home
    from execution.venue.server import EmbeddedVenue

    settings = load_settings()
    calendar = market_calendar()
    if arguments.market == "simulated":
        from data.universe import load_universe

        universe = load_universe(REPO_ROOT / settings.universe.path, default=False)
        market: Market = SimulatedMarket(
            settings.venue.seed,
            calendar,
            {str(s): sector for s, sector in universe.sectors.items()},
            cache=home().cache / "market",
        )
    else:
        market = open_bars_market(Path(arguments.market))
    venue = EmbeddedVenue(
        market,
        SystemClock(),
        arguments.db or home().state / "venue.sqlite",
        calendar=calendar,
        fills=arguments.fills or settings.venue.fills,
        starting_cash=Decimal(settings.venue.starting_cash_usd),
        spread_bps=settings.venue.spread_bps,
        port=arguments.port,
    )
    url = venue.start()
    cli.out(f"SIMULATED venue on {url} — {market.name}; no real broker, no real money. Ctrl-C ends it.")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(0.5):  # a wait without time-out cannot be interrupted on Windows
            pass
    except KeyboardInterrupt:
        pass
    finally:
        venue.stop()
    cli.out("venue ended")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
