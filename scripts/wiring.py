"""The composition root: the only place where packages meet. Scripts call it; nothing else imports it.

Which servers are used, in one rule: a key present means the real endpoint (or the one its *_BASE_URL names); no Alpaca
keys means the embedded venue is the broker; no market data key at all means the embedded venue is the vendor too.
Simulated bars never meet a real broker.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.loader import load_settings
from config.settings_schema import Settings
from config.strategy_params import StrategyParams, load_strategy_params
from core import logs
from core.clock import Clock, OffsetClock, SteppedClock, SystemClock
from core.domain import Mode, Symbol
from core.env import Endpoints, Keys, endpoints, keys, load_dotenv
from core.errors import ConfigError, DataError, UsageError
from core.market_calendar import MarketCalendar, market_calendar, parse_as_of
from core.paths import REPO_ROOT, Home, home

if TYPE_CHECKING:
    from core.bars_io import BarColumns
    from core.journal import Journal
    from core.market.base import Market
    from core.panel import Panel
    from data.store import BarStore
    from data.universe import Universe
    from execution.alpaca_broker import AlpacaBroker
    from execution.venue.server import EmbeddedVenue

VENUE_KEY_ID, VENUE_SECRET = "embedded", "embedded"
SIMULATED_LINE = "SIMULATED: embedded venue, no real money, no real orders"


@dataclass
class Context:
    """Everything a script was started with. Nothing here decides; it only says what is used."""

    home: Home
    settings: Settings
    params: StrategyParams
    clock: Clock
    calendar: MarketCalendar
    mode: Mode
    keys: Keys
    endpoints: Endpoints
    run_id: str
    market_spec: str = "simulated"  # or the path of real bars the embedded venue plays
    fills: str | None = None
    venue: EmbeddedVenue | None = None
    market: Market | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def real_broker(self) -> bool:
        return bool(self.keys.alpaca_id and self.keys.alpaca_secret)

    @property
    def real_data(self) -> bool:
        return bool(self.keys.polygon) or self.real_broker

    @property
    def source_name(self) -> str:
        """The cache folder of the embedded venue's bars: a name per market, so that two never mix."""
        if self.market_spec == "simulated":
            return "simulated"
        return "market-" + hashlib.sha256(str(Path(self.market_spec).resolve()).encode()).hexdigest()[:10]

    @property
    def entries_on_unknown_earnings(self) -> str:
        chosen = self.settings.filters.earnings.on_unknown
        return chosen or ("refuse" if self.mode is Mode.LIVE else "warn")


def add_market_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dotenv", type=Path, help="another .env file")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")


def open_context(
    args: argparse.Namespace, *, mode: Mode = Mode.PAPER, as_of: str | None = None, clock: Clock | None = None
) -> Context:
    """Load .env, settings, parameters, calendar and clock, and start the logs."""
    load_dotenv(getattr(args, "dotenv", None))
    settings = load_settings()
    place = home()
    calendar = market_calendar()
    chosen: Clock = clock or SystemClock()
    if as_of is not None:
        if mode is Mode.LIVE:
            raise UsageError("--as-of is for paper and scans; live trading runs at the time it is", code="AS_OF_LIVE")
        chosen = OffsetClock(parse_as_of(as_of, calendar))
    run_id = f"{SystemClock().now():%Y%m%dT%H%M%S}-{os.getpid()}"
    context = Context(
        home=place, settings=settings, params=load_strategy_params(), clock=chosen, calendar=calendar, mode=mode,
        keys=keys(), endpoints=endpoints(mode), run_id=run_id,
    )  # fmt: skip
    logs.configure(place, chosen, run_id=run_id, mode=mode.value)
    if os.environ.get("KOBE_CONFIG"):
        if mode is Mode.LIVE:
            raise ConfigError("KOBE_CONFIG is set; live mode takes config/base.yaml only", code="CONFIG_NOT_PINNED")
        context.notes.append(f"settings from {os.environ['KOBE_CONFIG']} (no pin in paper mode)")
    return context


# ---------------------------------------------------------------- universe and bars
def load_universe_for(context: Context, path: Path | None, cap: int | None) -> Universe:
    """The named universe, or the default one with its floor and change guard. `cap` keeps the first rows."""
    from data.universe import load_universe

    chosen = path or REPO_ROOT / context.settings.universe.path
    default = chosen.resolve() == (REPO_ROOT / context.settings.universe.path).resolve()
    from portfolio.state_manager import StateManager

    manager = StateManager(context.home)
    last: Sequence[str] | None = None
    if default:
        last = manager.get_last_universe() or None
    universe = load_universe(
        chosen, default=default, min_rows=context.settings.universe.min_rows,
        max_change_fraction=context.settings.universe.max_change_pct, last=last,
    )  # fmt: skip
    if default and list(universe.symbols) != list(last or ()):
        manager.set_last_universe(list(universe.symbols))
    for warning in universe.warnings:
        logs.event("universe_warning", detail=warning)
    if cap is not None and cap > len(universe.symbols) and default:
        context.notes.append(f"--cap {cap} is above the {len(universe.symbols)} rows of {chosen.name}: all are used")
    return universe.capped(cap) if cap is not None else universe


def universe_of_bars(context: Context, bars: Mapping[str, BarColumns], cap: int | None) -> Universe:
    """With --bars and no --universe the file is the universe; sectors come from the default list where it has them."""
    from data.universe import Universe, load_universe

    known = load_universe(
        REPO_ROOT / context.settings.universe.path, default=False, min_rows=0, max_change_fraction=1.0, last=None
    ).sectors
    symbols = tuple(Symbol(s) for s in sorted(bars))
    digest = hashlib.sha256("\n".join(symbols).encode()).hexdigest()
    universe = Universe(symbols=symbols, sectors={s: known.get(s) for s in symbols}, sha256=digest, warnings=())
    return universe.capped(cap) if cap is not None else universe


@dataclass
class MarketData:
    """What a scan decides on, and where it came from."""

    panel: Panel
    session: date
    source: str
    simulated: bool
    snapshot_sha256: str
    vix: float | None
    quarantined: Mapping[str, str]


def data_from_bars(context: Context, path: Path, universe: Universe | None, cap: int | None) -> tuple[MarketData, Universe]:
    """--bars PATH: the operator's own files instead of the store; refused when the session asked for is not there."""
    from core.bars_io import read_bars
    from core.panel import Panel, snapshot_sha256
    from data.quality import clean_all

    wanted = set(universe.symbols) if universe is not None else None
    bars = read_bars(path, wanted)
    chosen = universe or universe_of_bars(context, bars, cap)
    session = context.calendar.last_completed(context.clock.now())
    kept, quarantined = clean_all({s: bars[s] for s in chosen.symbols if s in bars}, context.calendar, session)
    panel = Panel.from_bars(kept).truncated(session)
    refuse_stale(panel, session, kept, floor=0.0, what=str(path))
    vix = vix_beside(path, session)
    if vix is None and context.keys.polygon:
        vix = multi_source(context).vix_close(session)
    data = MarketData(panel, session, f"bars:{path.name}", False, snapshot_sha256(panel), vix, quarantined)
    return data, chosen


def refuse_stale(panel: Panel, session: date, symbols: Mapping[str, Any], *, floor: float, what: str) -> None:
    """Freshness is "has session S, final", never an age. Raises DataError DATA_STALE."""
    have = panel.symbols_with(session)
    if not have or have < floor * len(symbols):
        raise DataError(
            f"{what} has session {session} for {have} of {len(symbols)} symbols",
            code="DATA_STALE", advice="update the data, or name an earlier instant with --as-of",
        )  # fmt: skip


def vix_beside(path: Path, session: date) -> float | None:
    """VIX close from `vix_daily.csv` (date,open,high,low,close) in or beside the bars; unknown stays None."""
    folder = path if path.is_dir() else path.parent
    file = folder / "vix_daily.csv"
    if not file.is_file():
        return None
    from data.vix import read_vix_csv

    return read_vix_csv(file).get(session)


def store_for(context: Context, source: str) -> BarStore:
    from data.store import BarStore

    return BarStore(context.home.cache, source)


def multi_source(context: Context) -> Any:
    """The ordered providers of this run: the embedded venue alone, or the real ones in the settings' order."""
    from data.providers.multi_source import build_multi_source

    if not context.real_data:
        venue = ensure_venue(context)
        return build_multi_source(
            context.settings, context.clock, context.calendar, context.home,
            simulated=(context.source_name, venue.base_url, VENUE_KEY_ID),
        )  # fmt: skip
    return build_multi_source(
        context.settings, context.clock, context.calendar, context.home, keys=context.keys, endpoints=context.endpoints
    )


def data_from_store(context: Context, universe: Universe, progress: Any = None) -> MarketData:
    """The store, brought up to the last completed session first when it lags. Warm, no vendor is even imported."""
    session = context.calendar.last_completed(context.clock.now())
    names = [context.source_name] if not context.real_data else list(context.settings.data.providers)
    for name in names:
        found = _fresh(context, name, universe, session)
        if found is not None:
            return found
    from data.update import update

    sessions = context.calendar.sessions_between(
        context.calendar.offset(session, -context.settings.data.history_sessions + 1), session
    )
    report = update(
        lambda source: store_for(context, source), multi_source(context), universe.symbols, sessions,
        context.calendar, context.clock, progress, min_coverage=context.settings.data.min_coverage_pct,
    )  # fmt: skip
    found = _fresh(context, report.source, universe, session, refused=report.refused)
    if found is None:
        raise DataError(
            f"{report.source} gave no usable bars of {session} for this universe", code="DATA_STALE",
            advice="the cache may have been cleared meanwhile: run again",
        )  # fmt: skip
    return found


def _fresh(
    context: Context, source: str, universe: Universe, session: date, refused: Mapping[str, str] | None = None
) -> MarketData | None:
    """The store's panel when it holds the session for enough symbols and the VIX was asked for; else None."""
    from core.panel import snapshot_sha256
    from data.vix import VixStore

    store = store_for(context, source)
    if not store.exists():
        return None
    panel = store.load_panel(list(universe.symbols), session)
    if panel.symbols_with(session) < context.settings.data.min_coverage_pct * len(universe.symbols):
        return None
    vix = VixStore(context.home.cache, source)
    if refused is None and not vix.asked(session):
        return None
    simulated = source == "simulated"
    return MarketData(
        panel, session, source, simulated, snapshot_sha256(panel), vix.level(session),
        dict(store.quarantined()) | dict(refused or {}),
    )  # fmt: skip


# ---------------------------------------------------------------- the embedded venue
def build_market(context: Context, universe: Universe | None = None) -> Market:
    """`simulated`, or real bars from the path named by --market."""
    if context.market_spec == "simulated":
        from core.market.simulated import SimulatedMarket
        from data.universe import load_universe

        listed = load_universe(
            REPO_ROOT / context.settings.universe.path, default=False, min_rows=0, max_change_fraction=1.0, last=None
        )
        sectors = {s: listed.sectors.get(s) for s in listed.symbols}
        return SimulatedMarket(context.settings.venue.seed, context.calendar, sectors)
    from core.bars_io import read_bars
    from core.market.real import BarsMarket
    from data.vix import read_vix_csv

    path = Path(context.market_spec)
    if not path.exists():
        raise UsageError(f"--market {path}: no such file or folder", code="MARKET_MISSING")
    bars = read_bars(path, set(universe.symbols) if universe is not None else None)
    folder = path if path.is_dir() else path.parent
    vix = read_vix_csv(folder / "vix_daily.csv") if (folder / "vix_daily.csv").is_file() else None
    return BarsMarket(bars, vix=vix, sectors={}, calendar=context.calendar, name=path.name)


def ensure_venue(context: Context, universe: Universe | None = None) -> EmbeddedVenue:
    """Start the embedded venue in this process, once, on the account file of this home."""
    if context.venue is None:
        from execution.venue.server import EmbeddedVenue

        context.market = context.market or build_market(context, universe)
        venue = context.settings.venue
        context.venue = EmbeddedVenue(
            context.market, context.clock, context.home.state / "venue.sqlite", calendar=context.calendar,
            fills=context.fills or venue.fills, starting_cash=venue.starting_cash_usd, spread_bps=venue.spread_bps,
            market_spec=context.market_spec,
        )  # fmt: skip
        context.venue.start()
    return context.venue


def resume_replayed_account(context: Context) -> None:
    """A script run after a replay sees that account as it was left: its market, and its clock standing still."""
    if context.real_broker:
        return
    from execution.venue.server import read_meta

    meta = read_meta(context.home.state / "venue.sqlite")
    if meta and meta.get("stepped"):
        context.market_spec = str(meta["market_spec"])
        context.fills = str(meta["fills"])
        context.clock = SteppedClock(datetime.fromisoformat(str(meta["clock"])))
        context.notes.append(f"account of a replay, standing at {meta['clock']}")


@contextlib.contextmanager
def closing(context: Context) -> Iterator[Context]:
    try:
        yield context
    finally:
        if context.venue is not None:
            context.venue.stop()


# ---------------------------------------------------------------- broker, journal, switch
def open_journal(context: Context) -> Journal:
    from core.journal import Journal

    return Journal(context.home.journal, context.clock, run_id=context.run_id)


def open_broker(context: Context, *, halt: Any = None, universe: Universe | None = None) -> AlpacaBroker:
    """The one broker adapter, pointed at Alpaca or at the embedded venue."""
    from execution.alpaca_broker import AlpacaBroker
    from risk.kill_switch import KillSwitch

    execution = context.settings.execution
    if context.real_broker:
        assert context.keys.alpaca_id is not None and context.keys.alpaca_secret is not None
        key_id, secret = context.keys.alpaca_id, context.keys.alpaca_secret
        base_url, data_url = context.endpoints.alpaca, context.endpoints.alpaca_data
    else:
        if context.mode is Mode.LIVE:
            raise ConfigError("live mode needs ALPACA_API_KEY_ID and ALPACA_API_SECRET_KEY", code="KEYS_MISSING")
        base_url = data_url = ensure_venue(context, universe).base_url
        key_id, secret = VENUE_KEY_ID, VENUE_SECRET
    context.home.state.mkdir(parents=True, exist_ok=True)
    return AlpacaBroker(
        key_id=key_id, secret=secret, base_url=base_url, data_url=data_url,
        halt=halt or KillSwitch(context.home.kill_switch), connect_timeout_s=execution.connect_timeout_s,
        read_timeout_s=execution.read_timeout_s, total_timeout_s=execution.total_timeout_s, clock=context.clock,
    )  # fmt: skip


def refuse_simulated_data(context: Context, *, simulated: bool) -> None:
    """Simulated data can never reach a real broker."""
    if simulated and (context.real_broker or context.mode is Mode.LIVE):
        raise ConfigError(
            "simulated bars with a real broker's keys", code="SIMULATED_DATA_REAL_BROKER",
            advice="set POLYGON_API_KEY, or unset ALPACA_API_KEY_ID to trade on the embedded venue",
        )  # fmt: skip


def earnings_calendar(context: Context) -> Any:
    from data.earnings import EarningsFile

    path = context.settings.filters.earnings.path
    return EarningsFile(Path(path) if path else context.home.cache / "earnings.csv")


def describe(context: Context, *, data_source: str, simulated: bool) -> str:
    """The one line that every script prints: which venue and which data."""
    broker = "alpaca" if context.real_broker else "embedded venue"
    words = f"mode {context.mode.value} | broker {broker} | data {data_source}"
    if simulated or not context.real_broker:
        words = f"SIMULATED | {words}"
    return words
