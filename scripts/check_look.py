"""What the checks of preflight look at, and how each value is read. scripts/check_values.py gives the answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

from core import host
from core.domain import Mode
from core.errors import ConfigError, DataError, KobeError
from core.paths import REPO_ROOT
from scripts import check_values as values
from scripts import trading
from scripts.trading import Finding

if TYPE_CHECKING:
    from cognitive.memory_file import Remembered
    from core.domain import Account
    from core.journal import Journal
    from core.ports import Broker
    from data.universe import Universe
    from execution.desk import Desk
    from execution.ledger import Ledger
    from scripts.remembering import Remembering
    from scripts.wiring import Context, MarketData


@dataclass
class Look:
    """What the checks look at: read when first asked for, and once. What could not be read fails each that needs it."""

    context: Context
    allow_dirty: bool = False
    desk: Desk | None = None
    fetch: bool = False  # bring the store up to date first, as the first scan would
    _broker_error: KobeError | None = field(default=None, init=False)

    @property
    def live(self) -> bool:
        return self.context.mode is Mode.LIVE

    # ------------------------------------------------------------ journal and broker
    @cached_property
    def _desk(self) -> Desk:
        return self.desk or trading.open_reading_desk(self.context)

    @cached_property
    def journal(self) -> Journal:
        from scripts import wiring

        return wiring.open_journal(self.context)

    @property
    def ledger(self) -> Ledger:
        return self._desk.ledger()

    @property
    def broker(self) -> Broker:
        """One that has answered: a broker that is down is waited for once, not at every check."""
        _ = self.account
        return self._desk.broker

    @property
    def account(self) -> Account:
        if self._broker_error is not None:
            raise self._broker_error
        try:
            return self._account
        except KobeError as error:
            self._broker_error = error
            raise

    @cached_property
    def _account(self) -> Account:
        return self._desk.broker.account()

    # ------------------------------------------------------------ what is remembered
    @cached_property
    def remembering(self) -> Remembering:
        """Of the journal alone: no broker is asked."""
        from execution.fold import fold_of
        from scripts.remembering import Remembering

        return Remembering(self.context, self.journal, lambda: fold_of(self.journal.records()))

    @cached_property
    def remembered(self) -> Remembered:
        """What the whole journal tells a memory."""
        return self.remembering.from_the_start()[0]

    # ------------------------------------------------------------ universe and bars
    @cached_property
    def universe(self) -> Universe:
        from data.universe import load_universe

        chosen = self.context.settings.universe
        return load_universe(REPO_ROOT / chosen.path, default=True, min_rows=chosen.min_rows)

    @cached_property
    def session(self) -> date:
        """The last completed one."""
        return self.context.calendar.last_completed(self.context.clock.now())

    @cached_property
    def data(self) -> MarketData | None:
        """Bars of the last completed session, fetched first when asked to; None when they are not at hand."""
        from scripts import wiring

        if self.fetch:
            return wiring.data_from_store(self.context, self.universe)
        return wiring.stored(self.context, self.universe, self.session)


# ---------------------------------------------------------------- readers
def settings(look: Look) -> Finding:
    from config.loader import leaves, settings_path
    from config.settings_schema import Settings

    return values.settings_read(settings_path().name, leaves(look.context.settings), leaves(Settings()))


def frozen_params(look: Look) -> Finding:
    from config.strategy_params import FROZEN_PARAMS_PATH, load_strategy_params

    load_strategy_params()
    return Finding("frozen_params", f"{FROZEN_PARAMS_PATH.name} holds what was agreed")


def state_folder(look: Look) -> Finding:
    trouble = host.unwritable(look.context.home.state)
    if trouble is None:
        return Finding("state_folder", "written, flushed to the disk, renamed and removed a file")
    error = ConfigError(trouble, code="HOME_UNWRITABLE", advice="free the disk or set KOBE_HOME to another folder")
    return Finding("state_folder", trouble, error)


def disk_space(look: Look) -> Finding:
    import shutil

    try:
        free_mb: float | None = shutil.disk_usage(look.context.home.state).free / 1e6
    except OSError:
        free_mb = None
    return values.disk_space(free_mb, look.context.settings.preflight.disk_free_min_mb)


def lock(look: Look) -> Finding:
    from core.errors import StateLocked
    from core.files import locked

    probe = look.context.home.state / "preflight-probe"
    try:
        with locked(probe, timeout_s=1.0):
            try:
                with locked(probe, timeout_s=0.0):
                    second: bool | None = True
            except StateLocked:
                second = False
    except (OSError, StateLocked):
        second = None
    return values.lock_excludes(second)


def starts(look: Look) -> Finding:
    from datetime import timedelta

    from execution.runner import runner_holds
    from execution.starts import crashes, read_starts

    state = look.context.home.state
    run, found = look.context.settings.runner, read_starts(state / "starts.json")
    if found.rows and found.rows[-1].end is None and runner_holds(state):  # it is under way, and no crash
        found = replace(found, rows=found.rows[:-1])
    lately = crashes(found, look.context.clock.now(), timedelta(seconds=run.crash_window_s))
    return values.last_starts(found.stopped_at, lately, run.crashes_max)


def journal_anchor(look: Look) -> Finding:
    from execution.noted import NOTE_FILE, behind, read_note

    noted = read_note(look.context.home.logs / NOTE_FILE)
    found = behind(noted, look.journal.records())
    return values.journal_anchor(None if noted is None else noted.seq, found)


def documents(look: Look) -> Finding:
    from portfolio.state_manager import DOCUMENTS, StateManager

    manager, damaged = StateManager(look.context.home, look.context.clock), {}
    for name in DOCUMENTS:
        try:
            manager.read(name)
        except KobeError as error:
            damaged[name] = str(error)
    return values.documents(damaged)


def in_step(look: Look) -> Finding:
    from execution.reconcile import find_breaks

    broker = look.broker
    return values.in_step(find_breaks(look.ledger, broker.positions(), broker.open_orders(), account=look.account))


def orphans(look: Look) -> Finding:
    from execution.ledger import new_york_day
    from execution.orphans import orphaned

    today = new_york_day(look.context.clock.now())
    return values.no_orphans(orphaned(look.ledger, look.broker.open_orders(), today))


def written_aside(look: Look) -> Finding:
    from core.journal import Journal

    aside = trading.aside_path(look.context)
    count = sum(1 for _ in Journal(aside, look.context.clock).records()) if aside.exists() else 0
    return values.written_aside(count)


def runs_missed(look: Look) -> Finding:
    missed: list[str] = []
    for record in look.journal.kinds("run_missed", "preflight_passed"):
        if record.kind == "preflight_passed":
            missed.clear()
        elif record.body["code"] != "SKIPPED_HALF_DAY":
            missed.append(str(record.body["run"]))
    return values.runs_missed(missed)


def keys(look: Look) -> Finding:
    return values.keys_present(look.context.real_broker, look.context.real_data, live=look.live)


def keys_of_mode(look: Look) -> Finding:
    trading.refuse_other_kind(look.context, look.account.number)
    where = "the embedded venue" if not look.context.real_broker else look.context.endpoints.alpaca
    return Finding("keys_of_mode", f"{look.context.mode} keys at {where}")


def pinned_account(look: Look) -> Finding:
    bound = look.ledger.account
    return values.pinned_account(look.account, None if bound is None else dict(bound), look.context.mode.value)


def clock(look: Look) -> Finding:
    limit_s = float(look.context.settings.execution.clock_skew_max_s)
    theirs = look.broker.clock().now
    return values.clock_skew(theirs, look.context.clock.now(), limit_s)


def ioc(look: Look) -> Finding:
    kinds = ("order_intended", "order_acknowledged", "order_rejected")
    return values.ioc_permitted(look.context.settings.execution.time_in_force, look.journal.kinds(*kinds))


def cash(look: Look) -> Finding:
    return values.cash_for_one_order(look.account.cash, look.context.settings.risk.policy_gate.per_order_max_usd)


def _coming(look: Look) -> date:
    """The session under way, or the next one."""
    now, calendar = look.context.clock.now(), look.context.calendar
    today = calendar.session_at(now)
    return today if today is not None and now < calendar.closes_at(today) else calendar.next_session(
        calendar.last_completed(now)
    )  # fmt: skip


def market_hours(look: Look) -> Finding:
    day, calendar = _coming(look), look.context.calendar
    return values.market_hours(look.broker.clock(), calendar.opens_at(day), calendar.closes_at(day))


def schedule(look: Look) -> Finding:
    from execution.scheduler import dropped_runs, due_runs

    day, run, calendar = _coming(look), look.context.settings.runner, look.context.calendar
    due = due_runs(day, run.scan_times, calendar, half_day_rule=run.half_day_rule)
    dropped = dropped_runs(day, run.scan_times, calendar, half_day_rule=run.half_day_rule)
    return values.schedule(day, due, dropped, half_day=calendar.is_half_day(day))


# ---------------------------------------------------------------- servers and data
ASKED_WITHIN_S = 10.0
"""A vendor that does not answer one small question in this time is told as silent."""


def vendors(look: Look) -> Finding:
    """One small question to each vendor in use: the last session of the universe's first name."""
    from data.providers.base import FailureKind, NotSupported, ProviderFailure
    from scripts import wiring

    if not look.context.real_data:
        return Finding("vendors", f"{look.context.source_name}: the embedded venue of this process")
    data = look.context.settings.data.model_copy(
        update={"request_timeout_s": ASKED_WITHIN_S / 2, "request_deadline_s": ASKED_WITHIN_S}
    )
    brief = replace(look.context, settings=look.context.settings.model_copy(update={"data": data}), multi=None)
    symbol, asked = look.universe.symbols[0], dict[str, str | None]()
    for provider in wiring.multi_source(brief).providers:
        try:
            provider.daily_bars(symbol, look.session, look.session)
            asked[provider.name] = None
        except NotSupported:
            continue
        except ProviderFailure as failure:
            asked[provider.name] = None if failure.kind is FailureKind.UNKNOWN_SYMBOL else str(failure)
        except KobeError as error:
            asked[provider.name] = str(error)
    advice = "check the network, the keys and the vendor's status page"
    return values.answers("vendors", asked, "VENDORS_SILENT", advice)


def quotes(look: Look) -> Finding:
    from execution.alpaca_broker import AlpacaBroker

    broker = look.broker
    assert isinstance(broker, AlpacaBroker)
    broker.quotes([look.universe.symbols[0]])
    return Finding("quotes", "the broker's market data answered")


def anthropic(look: Look) -> Finding:
    chosen = look.context.settings.cognitive.llm_analyzer
    enabled = chosen.enabled and chosen.mode != "off"
    return values.language_model(look.context.keys.anthropic is not None, enabled)


def universe_age(look: Look) -> Finding:
    """From what stands beside it, which says when it was made; else the file's own time."""
    import json
    from datetime import datetime

    file = REPO_ROOT / look.context.settings.universe.path
    try:
        told = json.loads(file.with_suffix(".provenance.json").read_bytes())["made_at"]
        made_s = datetime.fromisoformat(str(told)).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        made_s = file.stat().st_mtime
    age_s = look.context.clock.now().timestamp() - made_s
    return values.universe_age(max(age_s, 0.0) / 86_400, look.context.settings.preflight.universe_max_age_days)


def universe_change(look: Look) -> Finding:
    from portfolio.state_manager import StateManager

    last = StateManager(look.context.home).read("universe_last")["symbols"]
    return values.universe_change(look.universe.symbols, last, look.context.settings.universe.max_change_pct)


def _data(look: Look) -> MarketData | None:
    """None for a vendor's failure, which the check of the bars tells."""
    try:
        return look.data
    except DataError:
        return None


def one_share(look: Look) -> Finding:
    data, settings = _data(look), look.context.settings
    closes = None if data is None else {str(s): c for s, c in trading.closes_of(data.panel).items() if c == c}
    most = settings.preflight.unreachable_max_pct
    return values.one_share(closes, look.universe.symbols, settings.risk.policy_gate.per_order_max_usd, most)


def bars(look: Look) -> Finding:
    from scripts import wiring

    data = look.data
    if data is not None:
        wiring.refuse_simulated_data(look.context, simulated=data.simulated)
    have = None if data is None else data.panel.symbols_with(look.session)
    floor = look.context.settings.data.min_coverage_pct
    return values.bars_fresh(have, len(look.universe.symbols), look.session, floor, fetched=look.fetch)


def vix(look: Look) -> Finding:
    data, bounds = _data(look), look.context.settings.risk.vix
    level = None if data is None else data.vix
    return values.vix_tier(level, bounds.halve_from, bounds.stop_above, fetched=look.fetch)


def earnings(look: Look) -> Finding:
    from scripts import wiring

    chosen = look.context.settings.filters.earnings
    doubt = wiring.earnings_calendar(look.context).doubt_of(look.universe.symbols)
    refuses = chosen.on_unknown == "refuse" or (chosen.on_unknown is None and look.live)
    return values.earnings_known(doubt, chosen.enabled, refuses)


def vendor_record(look: Look) -> Finding:
    from data.providers.multi_source import get_provider_stats

    return values.vendor_record({name: row["success_rate"] for name, row in get_provider_stats().items()})


# ---------------------------------------------------------------- the mind
def ensemble(look: Look) -> Finding:
    from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
    from scripts.modelling import today

    context, chosen = look.context, look.context.settings
    session = today(context.clock)
    found = EnsemblePredictor(context.home, session=session, simulated=False if context.real_data else None)
    days = None if found.expires is None else (found.expires - session).days
    return values.ensemble(
        found.code, found.detail, enabled=chosen.ml.enabled, earned=min(found.earned, chosen.ml.weight_most_pct),
        points=chosen.quality_gate.weights.model, least=chosen.quality_gate.min_score, days_left=days, live=look.live,
    )  # fmt: skip


def breakers(look: Look) -> Finding:
    from cognitive.circuit_breakers import Breakers, current_session, readable_view

    context, chosen = look.context, look.context.settings.cognitive.circuit_breakers
    if not chosen.enabled:
        return values.breakers((), enabled=False)
    readable_view(context.home.state)
    board = Breakers(look.journal, context.home.state, context.calendar, chosen).look()
    return values.breakers(board.standing(current_session(context.calendar, context.clock.now())), enabled=True)


def llm_budget(look: Look) -> Finding:
    from core.market_calendar import NEW_YORK
    from llm.prices import PriceTable
    from llm.token_budget import TokenBudget

    context, chosen = look.context, look.context.settings.cognitive.llm_analyzer
    today = context.clock.now().astimezone(NEW_YORK).date()
    prices = PriceTable(chosen.prices)
    return values.llm_budget(
        TokenBudget(context.home, chosen, context.clock).get_status(),
        enabled=chosen.enabled and chosen.mode != "off", model=chosen.model,
        priced=prices.price(chosen.model, today) is not None,
        prices_old=prices.provenance if prices.is_old(today) else "",
    )  # fmt: skip


def alerts(look: Look) -> Finding:
    """Knight's warnings were mails that nobody took for alerts: one unread keeps live from starting (O14)."""
    from execution.observe import alert_memory
    from scripts import arming_live

    arming_live.refuse_unacknowledged(look.context.home.state / alert_memory.FILE)
    return Finding("alerts", "no critical alert stands that nobody has acknowledged")


def ladder(look: Look) -> Finding:
    from scripts import arming_live

    rung = arming_live.history(look.context.home.journal, look.context.clock).ladder.rung
    return values.ladder_rung(rung, rung.trades_live)
