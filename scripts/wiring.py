"""The composition root: the only place where packages meet. Scripts call it; nothing else imports it.

Which servers are used, in one rule: a key present means the real endpoint (or the one its *_BASE_URL names); no Alpaca
keys means the embedded venue is the broker; no market data key at all means the embedded venue is the vendor too.
Simulated bars never meet a real broker.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from config.loader import load_settings
from config.settings_schema import Settings
from config.strategy_params import StrategyParams, load_strategy_params
from core import logs
from core.clock import Clock, OffsetClock, SteppedClock, SystemClock
from core.documents import refuse_newer
from core.domain import Mode, Symbol
from core.env import Endpoints, Keys, endpoints, keys, load_dotenv, proxy_for
from core.errors import ConfigError, DataError, StateCorrupt, UsageError
from core.files import write_atomic
from core.log_rotation import Rotation
from core.market_calendar import MarketCalendar, market_calendar, parse_as_of
from core.paths import REPO_ROOT, Home, home

if TYPE_CHECKING:
    from core.bars_io import BarColumns
    from core.journal import Journal
    from core.market.base import Market
    from core.panel import Panel
    from core.ports import ActionFeed, Admission, Halt
    from data.earnings import EarningsFile
    from data.providers.base import DailyProvider
    from data.providers.multi_source import MultiSource
    from data.store import BarStore
    from data.universe import Universe
    from execution.alpaca_broker import AlpacaBroker
    from execution.arming import Armed
    from execution.venue.server import EmbeddedVenue
    from scripts.arming_live import EntryWatch

VENUE_KEY_ID, VENUE_SECRET = "embedded", "embedded"
ACTION_BOUNDS: Mapping[str, Any] = {"timeout_s": 5.0, "deadline_s": 10.0}
"""Exits wait for the action feed, once a session: not for long."""


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
    looks_only: bool = False  # asks for market data and for no account: that of a replay is then left standing
    market: Market | None = None
    notes: list[str] = field(default_factory=list)
    stores: dict[str, BarStore] = field(default_factory=dict)
    multi: MultiSource | None = None
    tick: Callable[..., None] | None = None  # tells progress of long fetches
    armed: Armed | None = None  # live mode: the permit to start, see execution/arming.py
    entry_watch: EntryWatch | None = None  # live mode: whether anything may be entered now
    note_sent: Callable[[Mapping[str, Any]], None] = lambda order: None  # told of each order body as it leaves
    alive: Callable[[], None] = lambda: None  # called wherever the main thread waits: the runner's progress beat

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


def open_context(
    args: argparse.Namespace,
    *,
    mode: Mode = Mode.PAPER,
    as_of: str | None = None,
    clock: Clock | None = None,
    run_id: str | None = None,
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
    run_id = run_id or f"{SystemClock().now():%Y%m%dT%H%M%S}-{os.getpid()}"
    context = Context(
        home=place,
        settings=settings,
        params=load_strategy_params(),
        clock=chosen,
        calendar=calendar,
        mode=mode,
        keys=keys(),
        endpoints=endpoints(mode),
        run_id=run_id,
    )
    rotation = Rotation(settings.logs.rotate_mb * 1_000_000, settings.logs.rotate_daily)
    logs.configure(place, chosen, run_id=run_id, mode=mode.value, rotation=rotation)
    refuse_half_keys(context.keys)
    refuse_unusable_proxies(context)
    if os.environ.get("KOBE_CONFIG"):
        if mode is Mode.LIVE:
            raise ConfigError("KOBE_CONFIG is set; live mode takes config/base.yaml only", code="CONFIG_NOT_PINNED")
        context.notes.append(f"settings from {os.environ['KOBE_CONFIG']} (no pin in paper mode)")
    return context


def real_clock() -> Clock:
    return SystemClock()


def chosen_mode(named: str | None) -> Mode:
    """The mode on the command line, else that of the account this home's journal belongs to, else paper."""
    if named is not None:
        return Mode(named)
    from core.journal import Journal

    journal = Journal(home().journal, SystemClock())
    bound = next(journal.kinds("account_bound"), None) if home().journal.exists() else None
    return Mode(str(bound.body["mode"])) if bound is not None else Mode.PAPER


def refuse_half_keys(found: Keys) -> None:
    """One of Alpaca's two keys alone is a slip; trading on the embedded venue instead would hide it."""
    if bool(found.alpaca_id) != bool(found.alpaca_secret):
        absent = "ALPACA_API_SECRET_KEY" if found.alpaca_id else "ALPACA_API_KEY_ID"
        raise ConfigError(
            f"{absent} is not set, its partner is",
            code="KEYS_INCOMPLETE",
            advice="set both, or neither to trade on the embedded venue",
        )


def refuse_unusable_proxies(context: Context) -> None:
    """Raises ConfigError naming the variable: a proxy we cannot use would show as a broker that is down (P49)."""
    used = [context.endpoints.alpaca, context.endpoints.alpaca_data] if context.real_broker else []
    used += [context.endpoints.polygon] if context.keys.polygon else []
    for url in used:
        proxy_for(url)


# ---------------------------------------------------------------- universe and bars
def load_universe_for(context: Context, path: Path | None, cap: int | None) -> Universe:
    """The named universe, or the default one with its floor and change guard. `cap` keeps the first rows."""
    from data.universe import load_universe

    chosen = path or REPO_ROOT / context.settings.universe.path
    default = chosen.resolve() == (REPO_ROOT / context.settings.universe.path).resolve()
    from portfolio.state_manager import StateManager

    manager = StateManager(context.home)
    last: Sequence[str] | None = manager.read("universe_last")["symbols"] if default else None
    universe = load_universe(
        chosen,
        default=default,
        min_rows=context.settings.universe.min_rows,
        max_change_fraction=context.settings.universe.max_change_pct,
        last=last,
    )
    if default and list(universe.symbols) != list(last or ()):
        now = {"symbols": list(universe.symbols), "sha256": universe.sha256}
        manager.update("universe_last", lambda before: {**before, **now})
    for warning in universe.warnings:
        logs.event("universe_warning", detail=warning)
    if cap is not None and cap > len(universe.symbols) and default:
        context.notes.append(f"--cap {cap} is above the {len(universe.symbols)} rows of {chosen.name}: all are used")
    return universe.capped(cap) if cap is not None else universe


def universe_of_bars(context: Context, bars: Mapping[str, BarColumns], cap: int | None) -> Universe:
    """With --bars and no --universe the file is the universe; sectors come from the default list where it has them."""
    from data.universe import Universe, load_universe

    known = load_universe(REPO_ROOT / context.settings.universe.path, default=False).sectors
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
    quarantined: Mapping[Symbol, str]


def data_from_bars(
    context: Context, path: Path, universe: Universe | None, cap: int | None
) -> tuple[MarketData, Universe]:
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
        vix = vendor_vix(context, session)
    out = {Symbol(s): code for s, code in quarantined.items()}
    simulated = is_simulated_cache(path)
    data = MarketData(panel, session, f"bars:{path.name}", simulated, snapshot_sha256(panel), vix, out)
    return data, chosen


def refuse_stale(panel: Panel, session: date, symbols: Mapping[str, Any], *, floor: float, what: str) -> None:
    """Freshness is "has session S, final", never an age. Raises DataError DATA_STALE."""
    have = panel.symbols_with(session)
    if not have or have < floor * len(symbols):
        raise DataError(
            f"{what} has session {session} for {have} of {len(symbols)} symbols",
            code="DATA_STALE",
            advice="update the data, or name an earlier instant with --as-of",
        )


def vendor_vix(context: Context, session: date) -> float | None:
    """The first vendor that knows the VIX close of this session."""
    multi = multi_source(context)
    for provider in multi.providers:
        with contextlib.suppress(DataError):
            level = multi.ask(provider, lambda p=provider: p.vix_close(session))  # type: ignore[misc]
            if level is not None:
                return float(level)
    return None


def vix_beside(path: Path, session: date) -> float | None:
    """VIX close from `vix_daily.csv` (date,open,high,low,close) in or beside the bars; unknown stays None."""
    file = (path if path.is_dir() else path.parent) / "vix_daily.csv"
    if not file.is_file():
        return None
    from data.vix import read_vix_csv

    return read_vix_csv(file).get(session)


def store_for(context: Context, source: str) -> BarStore:
    from data.store import BarStore

    if source not in context.stores:
        context.stores[source] = BarStore(context.home.cache, source)
    return context.stores[source]


def multi_source(context: Context) -> MultiSource:
    """The ordered providers of this run: the embedded venue alone, or the real ones in the settings' order."""
    from data.providers.multi_source import MultiSource, ProviderStats

    if context.multi is None:
        stats = ProviderStats(context.home.state / "provider_stats.json", context.clock)
        context.multi = MultiSource(_providers(context), stats, context.clock)
    return context.multi


def _providers(context: Context) -> list[DailyProvider]:
    data, calendar, clock = context.settings.data, context.calendar, context.clock
    bounds: Any = {"timeout_s": data.request_timeout_s, "deadline_s": data.request_deadline_s, "calendar": calendar}
    if not context.real_data:
        from data.providers.simulated import SimulatedProvider

        return [SimulatedProvider(ensure_venue(context).base_url, clock, name=context.source_name, **bounds)]
    found: list[DailyProvider] = []
    for name in data.providers:
        if name == "polygon" and context.keys.polygon:
            from data.providers.polygon_eod import PolygonProvider

            rpm = data.polygon_requests_per_minute
            found.append(PolygonProvider(context.keys.polygon, context.endpoints.polygon, clock, rpm=rpm, **bounds))
        elif name == "alpaca" and context.keys.alpaca_id and context.keys.alpaca_secret:
            from data.providers.alpaca_eod import AlpacaProvider

            ids = (context.keys.alpaca_id, context.keys.alpaca_secret)
            found.append(AlpacaProvider(*ids, context.endpoints.alpaca_data, clock, **bounds))
        elif name == "yfinance" and not context.endpoints.all_named:  # it has no address of its own to be named
            from data.providers.yfinance_eod import YFinanceProvider

            found.append(
                YFinanceProvider(
                    clock,
                    timeout_s=data.request_timeout_s,
                    calendar=calendar,
                    cache_dir=context.home.cache / "yfinance-zones",
                )
            )
        else:  # no key, or stooq: it wants a key of its own, and its adjusted prices cannot extend a raw store
            logs.event("provider_skipped", provider=name, code="PROVIDER_NOT_CONFIGURED")
            logs.count("providers_skipped", provider=name)
    return found


def data_from_store(context: Context, universe: Universe) -> MarketData:
    """The store, brought up to the last completed session first when it lags. Warm, no vendor is even imported."""
    session = context.calendar.last_completed(context.clock.now())
    found = stored(context, universe, session)
    if found is not None and found.vix is not None:
        return _believed(context, found)
    from data.update import update

    for name, host in _hosts(context).items():
        bind_cache(context, name, host)
    first = context.calendar.offset(session, 1 - context.settings.data.history_sessions)
    report = update(
        lambda source: store_for(context, source),
        multi_source(context),
        universe.symbols,
        context.calendar.sessions_between(first, session),
        context.calendar,
        context.clock,
        cache=context.home.cache,
        progress=context.tick,
        min_coverage=context.settings.data.min_coverage_pct,
        workers=context.settings.data.backfill_workers,
    )
    for failure in report.failed_before:
        logs.event("provider_fallback", code="PROVIDER_FALLBACK", detail=failure)
        logs.count("provider_fallbacks")
    found = _fresh(context, report.source, universe, session, refused=report.refused)
    if found is None:
        raise DataError(
            f"{report.source} gave no usable bars of {session} for this universe",
            code="DATA_STALE",
            advice="the cache may have been cleared meanwhile: run again",
        )
    return _believed(context, found)


def _believed(context: Context, data: MarketData) -> MarketData:
    from scripts import canaries

    return canaries.known(context, data)


def stored(context: Context, universe: Universe, session: date) -> MarketData | None:
    """What the store holds of that session from the servers in use, without asking anyone."""
    for name, host in _hosts(context).items():
        if _bound_host(context, name) == host and (found := _fresh(context, name, universe, session)) is not None:
            return found
    return None


SOURCE_FILE = "_source.json"


def _hosts(context: Context) -> dict[str, str]:
    """Cache folder -> the host its bars come from, in the order of preference."""
    if not context.real_data:
        return {context.source_name: "embedded"}
    known = {"polygon": context.endpoints.polygon, "alpaca": context.endpoints.alpaca_data}
    return {n: urlsplit(known[n]).hostname or "" if n in known else n for n in context.settings.data.providers}


def _bound_host(context: Context, name: str) -> str | None:
    try:
        found: dict[str, str] = json.loads((context.home.cache / name / SOURCE_FILE).read_text(encoding="utf-8"))
        return found["host"]
    except (OSError, ValueError, KeyError):
        return None


def bind_cache(context: Context, name: str, host: str) -> None:
    """Bars of one server must never be taken for another's: a drill's fake vendor, say. The cache is fetched again."""
    folder, bound = context.home.cache / name, _bound_host(context, name)
    if bound == host:
        return
    if bound is not None or any(folder.glob("*.csv")):
        logs.event("cache_dropped", code="CACHE_OF_ANOTHER_SERVER", source=name, was=bound, now=host)
        shutil.rmtree(folder, ignore_errors=True)
        context.stores.pop(name, None)
    simulated = not context.real_data
    write_atomic(folder / SOURCE_FILE, json.dumps({"host": host, "simulated": simulated}).encode(), durable=False)


def is_simulated_cache(path: Path) -> bool:
    """Whether these bars were fetched from the embedded venue: the mark goes with the folder."""
    try:
        found: dict[str, object] = json.loads((path / SOURCE_FILE).read_text(encoding="utf-8"))
        return bool(found.get("simulated"))
    except (OSError, ValueError):
        return False


def _fresh(
    context: Context, source: str, universe: Universe, session: date, refused: Mapping[Symbol, str] | None = None
) -> MarketData | None:
    """The store's panel when it holds the session for enough symbols; else None."""
    from core.panel import snapshot_sha256
    from data.vix import VixStore

    store = store_for(context, source)
    if not store.exists():
        return None
    panel = store.load_panel(universe.symbols, session, basis=context.calendar.next_session(session))
    if panel.symbols_with(session) < context.settings.data.min_coverage_pct * len(universe.symbols):
        return None
    out = {Symbol(s): code for s, code in store.quarantined(session).items()} | dict(refused or {})
    simulated = source == context.source_name and not context.real_data
    vix = VixStore(context.home.cache, source).level(session)
    return MarketData(panel, session, source, simulated, snapshot_sha256(panel), vix, out)


# ---------------------------------------------------------------- the embedded venue
def build_market(context: Context, universe: Universe | None = None) -> Market:
    """`simulated`, or real bars from the path named by --market."""
    if context.market_spec == "simulated":
        from core.market.simulated import SimulatedMarket
        from data.universe import load_universe

        listed = load_universe(REPO_ROOT / context.settings.universe.path, default=False)
        return SimulatedMarket(
            context.settings.venue.seed,
            context.calendar,
            {str(s): sector for s, sector in listed.sectors.items()},
            cache=context.home.cache / "market",
        )
    from core.market.real import open_bars_market

    path = Path(context.market_spec)
    if not path.exists():
        raise UsageError(f"--market {path}: no such file or folder", code="MARKET_MISSING")
    return open_bars_market(path)


def _account_file(context: Context) -> Path:
    """Each request plays the account up to its instant, so who only looks leaves the one of a replay alone."""
    if context.looks_only and replay_file(context).is_file():
        (context.home.cache / "market").mkdir(parents=True, exist_ok=True)
        return context.home.cache / "market" / "looks.sqlite"
    return context.home.state / "venue.sqlite"


def ensure_venue(context: Context) -> EmbeddedVenue:
    """Start the embedded venue in this process, once, on the account file of this home."""
    if context.venue is None:
        from execution.venue.server import EmbeddedVenue

        context.market = context.market or build_market(context)
        venue = context.settings.venue
        context.home.state.mkdir(parents=True, exist_ok=True)
        context.venue = EmbeddedVenue(
            context.market,
            context.clock,
            _account_file(context),
            calendar=context.calendar,
            fills=context.fills or venue.fills,
            starting_cash=venue.starting_cash_usd,
            spread_bps=venue.spread_bps,
        )
        context.venue.start()
    return context.venue


REPLAY_SCHEMA = 1


def replay_file(context: Context) -> Path:
    """Marks a home whose account was made by a replay: {schema_version, market, fills}."""
    return context.home.state / "replay.json"


def resume_replayed_account(context: Context) -> None:
    """A script run after a replay sees that account as it was left: its market, and its clock standing still."""
    file = replay_file(context)
    if context.real_broker or not file.is_file():
        return
    from core.market.base import Fills
    from execution.venue.account import read_meta

    meta = read_meta(context.home.state / "venue.sqlite")
    if meta is not None and meta.clock is not None:
        try:
            marked = json.loads(file.read_text(encoding="utf-8"))
            refuse_newer(file.name, marked, REPLAY_SCHEMA)
            context.market_spec, context.fills = str(marked["market"]), Fills(marked["fills"]).value
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateCorrupt(
                f"{file.name} is damaged: {error}",
                code="REPLAY_FILE_DAMAGED",
                advice='write {"fills":"path","market":"simulated"} into it, as that replay had them, or replay again',
            ) from error
        context.clock = SteppedClock(meta.clock)
        context.notes.append(f"the account of a replay, standing at {meta.clock:%Y-%m-%d %H:%M}Z")


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


def open_broker(context: Context, *, halt: Halt, admission: Admission) -> AlpacaBroker:
    """The one broker adapter, pointed at Alpaca or at the embedded venue."""
    from execution.alpaca_broker import AlpacaBroker

    execution = context.settings.execution
    if context.real_broker:
        assert context.keys.alpaca_id is not None and context.keys.alpaca_secret is not None
        key_id, secret = context.keys.alpaca_id, context.keys.alpaca_secret
        base_url, data_url = context.endpoints.alpaca, context.endpoints.alpaca_data
    else:
        if context.mode is Mode.LIVE:
            raise ConfigError("live mode needs ALPACA_API_KEY_ID and ALPACA_API_SECRET_KEY", code="KEYS_MISSING")
        base_url = data_url = ensure_venue(context).base_url
        key_id, secret = VENUE_KEY_ID, VENUE_SECRET
    context.home.state.mkdir(parents=True, exist_ok=True)
    return AlpacaBroker(
        key_id=key_id,
        secret=secret,
        base_url=base_url,
        data_url=data_url,
        halt=halt,
        admission=admission,
        waiting=context.alive,
        connect_timeout_s=execution.connect_timeout_s,
        read_timeout_s=execution.read_timeout_s,
        total_timeout_s=execution.total_timeout_s,
        clock=context.clock,
    )


def action_feed(context: Context) -> ActionFeed:
    """Corporate actions of what is held: the broker's own lists first, then other vendors that are in use."""
    from data.corporate_actions import AlpacaActions, StoredActions, VendorSplits, Voices
    from data.providers.alpaca_eod import AlpacaProvider

    keys, clock = context.keys, context.clock
    if not context.real_broker:
        url = ensure_venue(context).base_url
        venue = AlpacaProvider(VENUE_KEY_ID, VENUE_SECRET, url, clock, name="venue", simulated=True, **ACTION_BOUNDS)
        return Voices(AlpacaActions(venue, clock))
    assert keys.alpaca_id is not None and keys.alpaca_secret is not None
    alpaca = AlpacaProvider(keys.alpaca_id, keys.alpaca_secret, context.endpoints.alpaca_data, clock, **ACTION_BOUNDS)
    others: list[ActionFeed] = [
        StoredActions(store_for(context, name), f"{name} store")
        for name, host in _hosts(context).items()
        if name != "alpaca" and _bound_host(context, name) == host
    ]
    if keys.polygon:
        from data.providers.polygon_eod import PolygonProvider

        rpm = context.settings.data.polygon_requests_per_minute
        polygon = PolygonProvider(keys.polygon, context.endpoints.polygon, clock, rpm=rpm, **ACTION_BOUNDS)
        others.append(VendorSplits(polygon, clock))
    return Voices(AlpacaActions(alpaca, clock), others)


def refuse_simulated_data(context: Context, *, simulated: bool) -> None:
    """Simulated data can never reach a real broker."""
    if simulated and (context.real_broker or context.mode is Mode.LIVE):
        raise ConfigError(
            "simulated bars with a real broker's keys",
            code="SIMULATED_DATA_REAL_BROKER",
            advice="set POLYGON_API_KEY, or unset ALPACA_API_KEY_ID to trade on the embedded venue",
        )


def earnings_calendar(context: Context) -> EarningsFile:
    """filters.earnings.path from the repository root, else cache/earnings.csv."""
    from data.earnings import EarningsFile

    path = context.settings.filters.earnings.path
    file = REPO_ROOT / path if path else context.home.cache / "earnings.csv"
    return EarningsFile(file, today=context.clock.now().date())


def describe(context: Context, *, data_source: str, simulated: bool) -> str:
    """The one line that every script prints: which venue and which data."""
    broker = "alpaca" if context.real_broker else "embedded venue"
    words = f"mode {context.mode.value} | broker {broker} | data {data_source}"
    if simulated or not context.real_broker:
        words = f"SIMULATED | {words}"
    return words
