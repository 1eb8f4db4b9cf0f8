"""The shape of config/base.yaml: typed, bounded, frozen; unknown keys are refused.

An attribute path equals the YAML path (`settings.risk.policy_gate.per_order_max_usd`). Every key has a default, so a
file may hold only what differs. Units are the last word of a name: `_usd`, `_bps` (1/10,000), `_s` seconds, `_pct` a
FRACTION (0.40 is 40 %, as in the runbook). Money is Decimal; what is estimated is float.

Numbers must be numbers and switches must be true or false: a quoted "75" and the word `yes` are refused. The loader
(config.loader) turns the first-hand errors into one line with key path, value and line number.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator, model_validator


class Conflict(ValueError):
    """Two or more keys that cannot both hold; `keys` are full dotted paths, so that the loader can name their lines."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


def _to_decimal(value: object) -> object:
    """Exact: 0.0001 as written becomes Decimal("0.0001"). Anything but a number is left for pydantic to refuse."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    if isinstance(value, Decimal):
        return value
    raise ValueError("must be a number")


def _to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Decimal) -> int | float:
    """For `model_dump(mode="json")`: a number, as in the YAML file."""
    return int(value) if value == value.to_integral_value() else float(value)


Money = Annotated[Decimal, BeforeValidator(_to_decimal), PlainSerializer(_plain, when_used="json")]
Fraction = Annotated[float, Field(gt=0, le=1, description="a fraction: 0.40 is 40 %")]


class Section(BaseModel):
    """`defer_build`: only the root's validator is compiled, which halves the start-up of every script."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


def _section() -> Any:
    """An absent section is an empty one: its own defaults, checked like written ones."""
    return Field(default_factory=dict, validate_default=True)


# ---------------------------------------------------------------- selection
class TopN(Section):
    """Limits of top-n selection. The two concentration limits hold in every mode; the gate asks them again."""

    enabled: bool = Field(default=False, description="confirms mode top_n; refused together with mode totd")
    n: int = Field(default=3, ge=1, le=1000, description="picks per day")
    max_correlation: float = Field(default=0.70, ge=0, le=1, description="highest 60-session correlation of two names")
    max_sector_pct: Fraction = Field(default=0.40, description="largest share of one sector, a fraction")
    max_single_name_pct: Fraction = Field(default=0.25, description="largest share of one symbol, a fraction")


class Selection(Section):
    """How many of the signals that passed become picks. `--top3` on the command line comes before `mode`."""

    mode: Literal["totd", "top_n"] = Field(default="totd", description="totd: the one best; top_n: up to top_n.n")
    top_n: TopN = _section()

    @model_validator(mode="after")
    def _one_mode(self) -> Self:
        if self.mode == "totd" and self.top_n.enabled:
            raise Conflict(
                "selection.mode totd picks one, selection.top_n.enabled true picks several: "
                "set selection.mode: top_n, or selection.top_n.enabled: false",
                "selection.mode", "selection.top_n.enabled",
            )  # fmt: skip
        return self


# ---------------------------------------------------------------- risk
class PolicyGate(Section):
    """Dollar limits of entries. Sales are exempt: they reduce."""

    per_order_max_usd: Money = Field(default=Decimal(75), gt=0, description="one entry may cost at most this")
    daily_budget_usd: Money = Field(default=Decimal(1000), gt=0, description="all entries of one New York day together")

    @model_validator(mode="after")
    def _one_order_fits_in_one_day(self) -> Self:
        if self.per_order_max_usd > self.daily_budget_usd:
            raise Conflict(
                f"risk.policy_gate.per_order_max_usd {self.per_order_max_usd} is more than "
                f"risk.policy_gate.daily_budget_usd {self.daily_budget_usd}",
                "risk.policy_gate.per_order_max_usd", "risk.policy_gate.daily_budget_usd",
            )  # fmt: skip
        return self


class AdvancedRisk(Section):
    var_limit_pct: Fraction = Field(default=0.02, description="one-day 95 % historical value at risk, share of equity")


class Vix(Section):
    """Market-wide volatility; an unknown VIX counts as above `stop_above`."""

    halve_from: float = Field(default=25.0, gt=0, le=200, description="entries at half size from this VIX close on")
    stop_above: float = Field(default=35.0, gt=0, le=200, description="no entries above this VIX close")

    @model_validator(mode="after")
    def _halve_before_stop(self) -> Self:
        if self.halve_from >= self.stop_above:
            raise Conflict(
                f"risk.vix.halve_from {self.halve_from:g} must be below risk.vix.stop_above {self.stop_above:g}",
                "risk.vix.halve_from", "risk.vix.stop_above",
            )  # fmt: skip
        return self


class Runaway(Section):
    """Orders of any kind, intended by any process; the last net under a loop that has gone wrong."""

    orders_per_minute: int = Field(default=30, ge=1, le=100_000, description="in any 60 seconds")
    orders_per_day: int = Field(default=300, ge=1, le=1_000_000, description="in any 24 hours")
    notional_per_minute_usd: Money | None = Field(
        default=None, gt=0, description="entries sent in any 60 seconds; null: twice the daily budget"
    )
    notional_per_day_usd: Money | None = Field(
        default=None, gt=0, description="entries filled or possible in one New York day; null: the daily budget"
    )


class Risk(Section):
    policy_gate: PolicyGate = _section()
    position_limit: int = Field(default=10, ge=1, le=10_000, description="positions open at the same time")
    one_position_per_symbol: bool = Field(
        default=True, description="refuse an entry in a symbol that is held or on order"
    )
    cash_only: bool = Field(default=True, description="entries are paid from cash; false lets the broker lend")
    advanced: AdvancedRisk = _section()
    vix: Vix = _section()
    runaway: Runaway = _section()

    @model_validator(mode="after")
    def _one_order_fits_under_the_ceilings(self) -> Self:
        for name in ("notional_per_minute_usd", "notional_per_day_usd"):
            ceiling: Decimal | None = getattr(self.runaway, name)
            if ceiling is not None and ceiling < self.policy_gate.per_order_max_usd:
                raise Conflict(
                    f"risk.runaway.{name} {ceiling} is less than "
                    f"risk.policy_gate.per_order_max_usd {self.policy_gate.per_order_max_usd}: nothing could be bought",
                    f"risk.runaway.{name}", "risk.policy_gate.per_order_max_usd",
                )  # fmt: skip
        return self


# ---------------------------------------------------------------- quality gate and filters
class Weights(Section):
    """Points of each part of the score; together 100. A missing model earns none of its points."""

    strength: float = Field(default=45.0, ge=0, le=100, description="the strategy's own strength")
    trend: float = Field(default=15.0, ge=0, le=100, description="distance above the 200-bar average")
    liquidity: float = Field(default=20.0, ge=0, le=100, description="dollar volume")
    model: float = Field(default=20.0, ge=0, le=100, description="the model's probability; absent earns 0")

    @model_validator(mode="after")
    def _sum_to_100(self) -> Self:
        total = self.strength + self.trend + self.liquidity + self.model
        if abs(total - 100.0) > 1e-9:
            raise Conflict(
                f"quality_gate.weights strength, trend, liquidity and model must sum to 100, were {total:g}",
                *(f"quality_gate.weights.{name}" for name in ("strength", "trend", "liquidity", "model")),
            )
        return self


class QualityGate(Section):
    min_score: float = Field(
        default=55.0, ge=0, le=100, description="signals below are refused; 70 once models are trained"
    )
    max_signals_per_day: int = Field(
        default=3, ge=0, le=1000, description="applied last, can only reduce; 0 opens nothing"
    )
    weights: Weights = _section()


class Earnings(Section):
    enabled: bool = Field(default=True, description="refuse entries around an earnings announcement")
    on_unknown: Literal["refuse", "warn"] | None = Field(
        default=None, description="when no dates are known; null: refuse in live mode, warn in paper mode"
    )
    days_before: int = Field(default=1, ge=0, le=30, description="sessions before an announcement without entries")
    days_after: int = Field(default=1, ge=0, le=30, description="sessions after an announcement without entries")
    path: str | None = Field(default=None, min_length=1, description="CSV symbol,date; null: cache/earnings.csv")


class Filters(Section):
    earnings: Earnings = _section()


class Sizing(Section):
    risk_per_trade_usd: Money = Field(default=Decimal(10), gt=0, description="loss at the stop that one trade may risk")


# ---------------------------------------------------------------- execution
class Tick(Section):
    """From `effective` on, a price of at least `min_price` moves in steps of `tick` (Rule 612)."""

    effective: date = Field(description="first session")
    min_price: Money = Field(ge=0, description="USD")
    tick: Money = Field(gt=0, description="USD")


DEFAULT_TICKS = (
    Tick(effective=date(2005, 1, 1), min_price=Decimal("1.00"), tick=Decimal("0.01")),
    Tick(effective=date(2005, 1, 1), min_price=Decimal("0"), tick=Decimal("0.0001")),
)


class Execution(Section):
    time_in_force: Literal["ioc", "day_cancel"] = Field(
        default="ioc", description="day_cancel: limit DAY, cancelled by the desk, for accounts without IOC"
    )
    cancel_after_s: float = Field(default=2.0, gt=0, le=60, description="day_cancel only: seconds until the cancel")
    entry_offset_bps: float = Field(default=10.0, ge=0, le=500, description="entry limit above the ask")
    exit_offset_bps: float = Field(default=30.0, ge=0, le=1000, description="exit limit below the bid")
    exit_clamp_bps: float = Field(default=300.0, ge=0, le=2000, description="lowest exit limit below the last trade")
    max_clamp_bps: float = Field(
        default=50.0, gt=0, le=1000, description="farthest an entry limit may be from the last trade"
    )
    max_spread_bps: float = Field(default=100.0, gt=0, le=2000, description="no entry into a wider bid-ask spread")
    quote_max_age_s: float = Field(default=60.0, gt=0, le=900, description="an older quote is no quote")
    entry_scans: Literal["all", "first"] = Field(
        default="all", description="scans that may enter; exits run at every scan"
    )
    max_attempts: int = Field(default=3, ge=1, le=10, description="entries tried per signal while nothing fills")
    connect_timeout_s: float = Field(default=3.0, gt=0, le=60)
    read_timeout_s: float = Field(default=10.0, gt=0, le=120)
    total_timeout_s: float = Field(default=15.0, gt=0, le=180, description="deadline of a whole request")
    rate_limit_wait_s: float = Field(
        default=10.0, ge=0, le=120, description="longest wait that a 429 may ask of an order before it is left"
    )
    special_dividend_pct: Fraction = Field(
        default=0.05, description="a dividend of this part of the price and more lowers the stop by its cash"
    )
    clock_skew_max_s: float = Field(default=10.0, gt=0, le=300, description="our clock against the broker's")
    reconcile_poll_s: float = Field(default=10.0, gt=0, le=300, description="how long an unknown order is looked up")
    ticks: Annotated[tuple[Tick, ...], BeforeValidator(_to_tuple)] = Field(
        default=DEFAULT_TICKS, min_length=1, description="legal price steps, a dated table"
    )

    @model_validator(mode="after")
    def _deadline_covers_its_parts(self) -> Self:
        for name in ("connect_timeout_s", "read_timeout_s"):
            part: float = getattr(self, name)
            if part > self.total_timeout_s:
                raise Conflict(
                    f"execution.{name} {part:g} is more than execution.total_timeout_s {self.total_timeout_s:g}",
                    f"execution.{name}", "execution.total_timeout_s",
                )  # fmt: skip
        return self

    @field_validator("ticks")
    @classmethod
    def _every_price_has_a_tick(cls, ticks: tuple[Tick, ...]) -> tuple[Tick, ...]:
        if not any(row.min_price == 0 for row in ticks):
            raise ValueError("needs a row with min_price 0, so that every price has a tick")
        if len({(row.effective, row.min_price) for row in ticks}) != len(ticks):
            raise ValueError("has two rows for the same effective date and min_price")
        return ticks


# ---------------------------------------------------------------- data, universe
ProviderName = Literal["polygon", "alpaca", "yfinance", "stooq"]


class Data(Section):
    providers: Annotated[tuple[ProviderName, ...], BeforeValidator(_to_tuple)] = Field(
        default=("polygon", "alpaca", "yfinance", "stooq"), min_length=1, description="tried in this order"
    )
    history_sessions: int = Field(
        default=504, ge=260, le=10_000, description="sessions kept; SMA(200) needs room to settle"
    )
    polygon_requests_per_minute: int | None = Field(
        default=None, ge=1, le=100_000, description="free plan: 5; null: no limit"
    )
    request_timeout_s: float = Field(default=20.0, gt=0, le=300, description="one vendor request")
    request_deadline_s: float = Field(
        default=120.0, gt=0, le=3600, description="one vendor request with all its retries"
    )
    min_coverage_pct: Fraction = Field(
        default=0.90, description="share of the universe that must have the session's bar"
    )
    backfill_workers: int = Field(default=1, ge=1, le=16, description="parallel per-symbol downloads")
    quorum_sample: int = Field(
        default=20, ge=0, le=1000, description="symbols whose newest bar a second vendor is asked about each session"
    )
    quorum_requests: int = Field(
        default=10, ge=0, le=1000,
        description="a second vendor that can tell of the whole universe in so many requests is asked about all of it",
    )  # fmt: skip
    quorum_deadline_s: float = Field(
        default=10.0, gt=0, le=120, description="how long the entries wait for the second vendor's word"
    )
    quorum_tolerance_pct: Fraction = Field(
        default=0.015, description="two vendors' prices may differ by this much, a fraction"
    )
    quorum_vendor_pct: Fraction = Field(
        default=0.25, description="share of differing answers above which the vendor as a whole is not believed"
    )

    @model_validator(mode="after")
    def _deadline_covers_one_request(self) -> Self:
        if self.request_timeout_s > self.request_deadline_s:
            raise Conflict(
                f"data.request_timeout_s {self.request_timeout_s:g} is more than "
                f"data.request_deadline_s {self.request_deadline_s:g}",
                "data.request_timeout_s", "data.request_deadline_s",
            )  # fmt: skip
        return self

    @field_validator("providers")
    @classmethod
    def _each_once(cls, providers: tuple[ProviderName, ...]) -> tuple[ProviderName, ...]:
        if len(set(providers)) != len(providers):
            raise ValueError("names a provider twice")
        return providers


class UniverseSettings(Section):
    path: str = Field(
        default="data/universe/optionable_liquid_800.csv", min_length=1, description="from the repository root"
    )
    min_rows: int = Field(default=400, ge=1, le=20_000, description="a shorter default universe is a damaged one")
    max_change_pct: Fraction = Field(
        default=0.10, description="largest change against the last universe used, a fraction"
    )


# ---------------------------------------------------------------- runner, venue
_WALL_TIME = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]\Z")


class Runner(Section):
    scan_times: Annotated[tuple[str, ...], BeforeValidator(_to_tuple)] = Field(
        default=("09:35", "10:30", "15:55"),
        min_length=1,
        max_length=20,
        description="New York wall time, HH:MM, ascending",
    )
    half_day_rule: Literal["close_minus_5", "skip"] = Field(
        default="close_minus_5",
        description="on a half day, a scan due after the close: 5 minutes before it, or not at all",
    )
    heartbeat_s: float = Field(default=30.0, ge=1, le=600, description="how often the runner says that it lives")
    look_after_s: float = Field(default=60.0, ge=5, le=600, description="between looks at what is held")
    before_open_s: float = Field(
        default=900.0, ge=0, le=7200, description="how long before the open the looks at what is held begin"
    )
    catch_up_s: float = Field(
        default=600.0, ge=5, le=3600, description="how long after its time a scan is still made; then it is missed"
    )
    close_margin_s: float = Field(
        default=60.0, ge=0, le=3600, description="nothing is sent in the last seconds of a session"
    )
    crashes_max: int = Field(
        default=5, ge=1, le=100, description="crashes within crash_window_s after which the runner stays down"
    )
    crash_window_s: float = Field(default=3600.0, ge=60, le=86_400, description="see crashes_max")

    @field_validator("scan_times")
    @classmethod
    def _within_a_session(cls, times: tuple[str, ...]) -> tuple[str, ...]:
        for text in times:
            if not _WALL_TIME.match(text):
                raise ValueError(f"{text!r} is not a time HH:MM")
            if not "09:30" <= text < "16:00":
                raise ValueError(f"{text} is outside the session, 09:30 to 16:00 New York")
        if list(times) != sorted(set(times)):
            raise ValueError(f"must ascend, each time once, were {', '.join(times)}")
        return times


class Arming(Section):
    """What `runner --mode live` asks of the last live preflight."""

    max_age_h: float = Field(default=18.0, gt=0, le=168, description="an older pass of preflight_live is none")


class Ladder(Section):
    """What must be shown before the next rung: replay, paper, shadow (nothing is sent), one_share, full."""

    replay_sessions: int = Field(default=60, ge=1, le=10_000, description="sessions replayed, before paper")
    paper_sessions: int = Field(default=20, ge=1, le=10_000, description="sessions on the paper account, before shadow")
    paper_fills: int = Field(default=5, ge=1, le=10_000, description="entries filled on paper, before shadow")
    shadow_sessions: int = Field(default=5, ge=1, le=1000, description="live sessions without a POST, before one_share")
    shadow_intents: int = Field(default=1, ge=1, le=1000, description="orders decided and kept back in them")
    one_share_sessions: int = Field(default=10, ge=1, le=1000, description="live sessions with one share, before full")
    one_share_fills: int = Field(default=3, ge=1, le=1000, description="entries filled in them")
    missed_max_pct: Fraction = Field(default=0.05, description="share of due scans that may have been missed")


class Preflight(Section):
    """Limits of scripts/preflight.py that belong to nothing else."""

    disk_free_min_mb: int = Field(default=500, ge=1, le=10_000_000, description="free on the disk of the state folder")
    universe_max_age_days: int = Field(default=45, ge=1, le=3650, description="an older universe file is told")
    unreachable_max_pct: Fraction = Field(
        default=0.75, description="share of names dearer than one order may be, above which it is told"
    )


class Watchdog(Section):
    """A second process that halts, and cancels what is out, when the runner makes no progress."""

    enabled: bool = Field(default=True, description="the runner starts it")
    stalled_after_s: float = Field(
        default=8.0, ge=2, le=600, description="no progress for this long, with entries or exits out"
    )


_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")


class Sidecar(Section):
    """The page, the metrics and the health routes: a process of its own that reads and never writes."""

    enabled: bool = Field(default=True, description="the runner starts it; --no-sidecar leaves it out once")
    host: str = Field(
        default="127.0.0.1", min_length=1, description="another address than loopback wants KOBE_SIDECAR_TOKEN"
    )
    port: int = Field(default=8080, ge=1, le=65_535)
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_to_tuple)] = Field(
        default=(), max_length=20, description="further names that a browser may call it by"
    )
    metrics_per_minute_live: int | None = Field(
        default=60, ge=1, le=100_000, description="requests of one client to the metrics routes; null: no limit"
    )
    metrics_per_minute_paper: int | None = Field(default=None, ge=1, le=100_000, description="the same in paper mode")
    connections_max: int = Field(default=64, ge=4, le=1000, description="more, and the oldest idle one is closed")
    stalled_after_s: float = Field(
        default=4.0, ge=1, le=600, description="without a beat for this long the runner counts as standing still"
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _names_only(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _HOST_NAME.match(name):
                raise ValueError(f"{name!r} is no host name; no port, no scheme, no wildcard")
        return names


# ---------------------------------------------------------------- alerts
class _Falling(Section):
    """Less is worse; a value on the limit still passes."""

    @model_validator(mode="after")
    def _warning_comes_first(self) -> Self:
        warning, critical = self.__dict__["warning"], self.__dict__["critical"]
        if critical >= warning:
            raise ValueError(f"critical {critical:g} must be below warning {warning:g}")
        return self


class _Rising(Section):
    """More is worse; a value on the limit still passes."""

    @model_validator(mode="after")
    def _warning_comes_first(self) -> Self:
        warning, critical = self.__dict__["warning"], self.__dict__["critical"]
        if critical <= warning:
            raise ValueError(f"critical {critical:g} must be above warning {warning:g}")
        return self


class FillRateAlert(_Falling):
    warning: Fraction = Field(default=0.80, description="filled of ordered, below")
    critical: Fraction = Field(default=0.60, description="filled of ordered, below")
    least: int = Field(default=5, ge=1, le=10_000, description="orders; from fewer nothing is concluded")


class ProviderAlert(_Falling):
    warning: Fraction = Field(default=0.95, description="answers of asked in seven days, below")
    critical: Fraction = Field(default=0.80, description="answers of asked in seven days, below")
    least: int = Field(default=5, ge=1, le=100_000, description="requests; from fewer nothing is concluded")


class SlippageAlert(_Rising):
    warning: float = Field(default=5.0, gt=0, le=1000, description="bps worse than the mid, above")
    critical: float = Field(default=10.0, gt=0, le=1000, description="bps worse than the mid, above")
    least: int = Field(default=5, ge=1, le=10_000, description="fills; from fewer nothing is concluded")


class ApprovalAlert(_Falling):
    warning: Fraction = Field(default=0.60, description="approved of reviewed, below")
    critical: Fraction = Field(default=0.40, description="approved of reviewed, below")
    least: int = Field(default=5, ge=1, le=10_000, description="reviews of the day; from fewer nothing is concluded")


class DiskAlert(_Falling):
    warning: int = Field(default=500, ge=1, le=10_000_000, description="MB free for state, below")
    critical: int = Field(default=100, ge=0, le=10_000_000, description="MB free for state, below")


class Alerts(Section):
    """When a person is told, and how often. Addresses are secrets: KOBE_ALERT_URLS and so on, see docs/alerts.md."""

    enabled: bool = Field(default=True, description="the runner starts scripts/alerting.py; --no-alerts leaves it out")
    evaluate_s: float = Field(default=5.0, ge=1, le=20, description="between looks at everything")
    clear_after_s: float = Field(
        default=60.0, ge=0, le=3600, description="so long without its cause, and an alert is over"
    )
    escalate_after_s: float = Field(
        default=1800.0, ge=60, le=86_400, description="a critical alert that nobody acknowledged is told again"
    )
    deadline_s: float = Field(default=10.0, ge=1, le=20, description="for one channel to take a message")
    queue_most: int = Field(default=100, ge=10, le=10_000, description="messages kept while no channel takes one")
    deadman_every_s: float = Field(default=60.0, ge=10, le=3600, description="between pings while the runner moves")
    llm_cost_critical_usd: Money = Field(
        default=Decimal("45.0"),
        ge=0,
        description="LLM spend of a day, above; warning: cost_tracking.alert_threshold_usd",
    )
    ioc_fill_rate: FillRateAlert = _section()
    provider_success: ProviderAlert = _section()
    slippage_bps: SlippageAlert = _section()
    cognitive_approval: ApprovalAlert = _section()
    disk_free_mb: DiskAlert = _section()
    budget_used_pct: Fraction = Field(default=0.90, description="share of the daily budget used, above: warning")
    errors_24h: int = Field(
        default=200, ge=1, le=1_000_000, description="lines of errors.jsonl in a day, above: warning"
    )
    run_longest_s: float = Field(
        default=900.0, ge=30, le=7200, description="a run is expected to end so long after it was due"
    )
    settle_s: float = Field(
        default=900.0, ge=60, le=14_400, description="close-out and reconcile are expected so long after the close"
    )
    preflight_by: str | None = Field(
        default="09:30", description="New York time by which a preflight has passed on each session; null: not expected"
    )
    backup_every_days: int | None = Field(
        default=35, ge=1, le=3650, description="a backup is expected so often; null: not expected"
    )

    @field_validator("preflight_by")
    @classmethod
    def _a_wall_time(cls, text: str | None) -> str | None:
        if text is not None and not _WALL_TIME.match(text):
            raise ValueError(f"{text!r} is not a time HH:MM")
        return text


class Venue(Section):
    """The embedded venue, used when no broker keys are set."""

    starting_cash_usd: Money = Field(default=Decimal(100_000), gt=0, description="of a new account")
    fills: Literal["path", "at_open"] = Field(
        default="path", description="at_open: at the session's open, for comparisons"
    )
    seed: int = Field(default=7, ge=0, description="of the simulated market")
    spread_bps: float = Field(default=4.0, ge=0, le=1000, description="bid-ask spread of its quotes")


# ---------------------------------------------------------------- costs of a backtest
class SecFee(Section):
    """SEC fee of Exchange Act section 31, on the value sold."""

    effective: date = Field(description="first session")
    usd_per_million: float = Field(ge=0, le=1000, description="USD per USD 1,000,000 sold")


class Taf(Section):
    """FINRA trading activity fee, on the shares sold."""

    effective: date = Field(description="first session")
    usd_per_share: float = Field(ge=0, le=1)
    most_usd: float = Field(ge=0, le=1000, description="at most this much a trade")


def _sec(effective: str, usd_per_million: float) -> SecFee:
    return SecFee(effective=date.fromisoformat(effective), usd_per_million=usd_per_million)


def _taf(effective: str, usd_per_share: float, most_usd: float) -> Taf:
    return Taf(effective=date.fromisoformat(effective), usd_per_share=usd_per_share, most_usd=most_usd)


DEFAULT_SEC_FEES = (
    _sec("2014-03-18", 22.10), _sec("2015-02-14", 18.40), _sec("2016-02-16", 21.80), _sec("2017-07-04", 23.10),
    _sec("2018-05-22", 13.00), _sec("2019-04-16", 20.70), _sec("2020-02-18", 22.10), _sec("2021-02-25", 5.10),
    _sec("2022-05-14", 22.90), _sec("2023-02-27", 8.00), _sec("2024-05-22", 27.80), _sec("2025-05-14", 0.00),
    _sec("2026-04-04", 20.60),
)  # fmt: skip
DEFAULT_TAF = (
    _taf("2012-07-01", 0.000119, 5.95), _taf("2022-01-01", 0.000130, 6.49), _taf("2023-01-01", 0.000145, 7.27),
    _taf("2024-01-01", 0.000166, 8.30), _taf("2026-01-01", 0.000195, 9.79),
)  # fmt: skip


class Costs(Section):
    """What a backtest charges. `--costs-bps N` replaces slippage_bps; `--costs-bps 0` charges nothing at all."""

    slippage_bps: float = Field(default=5.0, ge=0, le=1000, description="against us, on each side")
    spread_bps_at_1m: float = Field(
        default=50.0, ge=0, le=2000, description="spread of a name that trades USD 1M a day; falls with its root"
    )
    spread_bps_most: float = Field(default=200.0, ge=0, le=5000, description="and of one whose volume is not known")
    participation_pct: Fraction = Field(default=0.01, description="of a day's dollar volume that one order may be")
    sec_fees: Annotated[tuple[SecFee, ...], BeforeValidator(_to_tuple)] = Field(
        default=DEFAULT_SEC_FEES, min_length=1, description="a dated table"
    )
    taf: Annotated[tuple[Taf, ...], BeforeValidator(_to_tuple)] = Field(
        default=DEFAULT_TAF, min_length=1, description="a dated table"
    )
    fees_review_by: date = Field(default=date(2026, 12, 31), description="both tables were looked at until this day")

    @field_validator("sec_fees", "taf")
    @classmethod
    def _ascending(cls, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        days = [row.effective for row in rows]
        if days != sorted(set(days)):
            raise ValueError("must ascend by effective, each date once")
        return rows


class WalkForward(Section):
    """What scripts/run_wf_polygon.py does when the command line does not say. Days are sessions."""

    train_days: int = Field(default=504, ge=20, le=5040, description="sessions in which parameters are chosen")
    test_days: int = Field(default=63, ge=1, le=2520, description="sessions in which the choice is judged")
    embargo_days: int = Field(default=5, ge=0, le=250, description="sessions between the two that do neither")
    min_trades: int = Field(default=100, ge=2, le=1_000_000, description="in training, else the frozen set stands in")
    objective: Literal["t_value", "expectancy_r", "profit_factor"] = Field(
        default="t_value", description="the score of a set's training trades, see portfolio/backtest/walk_forward.py"
    )
    grid: str = Field(default="config/walk_forward_grid.yaml", min_length=1, description="what is tried without --grid")


class Ml(Section):
    """The ensemble: scripts/train_ensemble.py, scripts/models.py. Its points are quality_gate.weights.model."""

    enabled: bool = Field(default=True, description="ask the champion; false: no model is asked, and earns nothing")
    folds: int = Field(default=5, ge=2, le=20, description="test spans of the walk-forward that judges a challenger")
    embargo_sessions: int = Field(default=10, ge=0, le=250, description="between what teaches and what is judged")
    expires_days: int = Field(default=180, ge=7, le=1000, description="calendar days after its last label")
    renew_days: int = Field(
        default=45, ge=0, le=365, description="so long before the champion expires an equal may follow it"
    )
    shadow_sessions: int = Field(default=20, ge=0, le=250, description="a promoted model is only written down so long")
    weight_most_pct: Fraction = Field(default=1.0, description="most that a model may earn of its points, a fraction")


# ---------------------------------------------------------------- cognitive, logs
class CostTracking(Section):
    enabled: bool = Field(default=True, description="false: only the token limit holds; spend is still recorded")
    max_daily_usd: Money = Field(
        default=Decimal("50.0"), ge=0, description="hard limit on language-model spend per day"
    )
    alert_threshold_usd: Money = Field(default=Decimal("25.0"), ge=0, description="warn from here on")

    @model_validator(mode="after")
    def _alert_before_limit(self) -> Self:
        if self.alert_threshold_usd > self.max_daily_usd:
            path = "cognitive.llm_analyzer.cost_tracking"
            raise Conflict(
                f"{path}.alert_threshold_usd {self.alert_threshold_usd} is more than "
                f"{path}.max_daily_usd {self.max_daily_usd}: it could never fire",
                f"{path}.alert_threshold_usd", f"{path}.max_daily_usd",
            )  # fmt: skip
        return self


class LlmCache(Section):
    enabled: bool = Field(default=True, description="answers are kept in cache/llm and asked for once")
    ttl_hours: float = Field(
        default=24.0,
        gt=0,
        le=24 * 365,
        description="an answer expires after so long; days without a session do not count",
    )


class LlmPrice(Section):
    """USD per million tokens of one model. `above_tokens`: for requests whose whole input is larger than this."""

    model: str = Field(min_length=1, max_length=100)
    effective: date = Field(description="first New York day")
    aliases: Annotated[tuple[str, ...], BeforeValidator(_to_tuple)] = ()
    above_tokens: int = Field(default=0, ge=0, description="0: the first band")
    input_usd: Money = Field(gt=0, le=10_000)
    output_usd: Money = Field(gt=0, le=10_000)
    write_5m_usd: Money = Field(gt=0, le=10_000)
    write_1h_usd: Money = Field(gt=0, le=10_000)
    read_usd: Money = Field(ge=0, le=10_000)


def _price(model: str, effective: str, usd: str, above_tokens: int = 0) -> LlmPrice:
    """`usd`: input, output, 5-minute write, 1-hour write, read."""
    names = ("input_usd", "output_usd", "write_5m_usd", "write_1h_usd", "read_usd")
    values: dict[str, Any] = {name: Decimal(text) for name, text in zip(names, usd.split(), strict=True)}
    return LlmPrice(model=model, effective=date.fromisoformat(effective), above_tokens=above_tokens, **values)


DEFAULT_LLM_PRICES = (
    _price("claude-fable-5-1", "2026-08-05", "10 50 12.5 20 0.25"),
    _price("claude-opus-5-5", "2026-08-05", "4 20 5 8 0.20"),
    _price("claude-opus-5", "2026-08-05", "5 25 6.25 10 0.50"),
    _price("claude-opus-4-8", "2026-08-05", "5 25 6.25 10 0.50"),
    _price("claude-opus-4-7", "2026-08-05", "5 25 6.25 10 0.50"),
    _price("claude-opus-4-6", "2026-08-05", "5 25 6.25 10 0.50"),
    _price("claude-opus-4-5", "2025-11-24", "5 25 6.25 10 0.50"),
    _price("claude-sonnet-5-5", "2026-08-05", "2 10 2.5 4 0.20"),
    _price("claude-sonnet-5-5", "2026-10-07", "2 10 2.5 4 0.10"),
    _price("claude-sonnet-5", "2026-08-05", "2 10 2.5 4 0.20"),
    _price("claude-sonnet-5", "2026-09-01", "3 15 3.75 6 0.30"),
    _price("claude-sonnet-4-6", "2026-08-05", "3 15 3.75 6 0.30"),
    _price("claude-sonnet-4-5", "2025-09-29", "3 15 3.75 6 0.30"),
    _price("claude-haiku-5-5", "2026-08-05", "0.10 0.50 0.125 0.20 0.01"),
    _price("claude-haiku-5-5", "2026-08-05", "0.50 2.50 0.625 1.00 0.05", above_tokens=100_000),
    _price("claude-haiku-4-5", "2025-10-15", "1 5 1.25 2 0.10"),
)


class LlmPrices(Section):
    """What the models cost. A model that is not in the table is not called."""

    as_of: date = Field(default=date(2026, 11, 22), description="when the table was last looked at")
    source: str = Field(
        default="claudit 1.9.2, PromptFuel, synaps 0.10.2, simonw/llm-prices; not checked against the live page",
        min_length=1,
    )
    warn_after_days: int = Field(default=45, ge=1, le=3650, description="an older table is told")
    rows: Annotated[tuple[LlmPrice, ...], BeforeValidator(_to_tuple)] = Field(
        default=DEFAULT_LLM_PRICES, description="a dated table"
    )

    @field_validator("rows")
    @classmethod
    def _one_meaning(cls, rows: tuple[LlmPrice, ...]) -> tuple[LlmPrice, ...]:
        keys = [(row.model, row.effective, row.above_tokens) for row in rows]
        if len(keys) != len(set(keys)):
            raise ValueError("holds a model twice for the same day and band")
        meant: dict[str, str] = {row.model: row.model for row in rows}
        for row in rows:
            for alias in row.aliases:
                if meant.setdefault(alias, row.model) != row.model:
                    raise ValueError(f"{alias!r} names both {meant[alias]} and {row.model}")
        first_bands = {(row.model, row.effective) for row in rows if row.above_tokens == 0}
        if any((row.model, row.effective) not in first_bands for row in rows):
            raise ValueError("holds a band without its first one (above_tokens: 0) of the same day")
        return rows


class LlmCutoff(Section):
    """Until when a model may have read what happened: no session up to that day tells of its worth."""

    model: str = Field(min_length=1, max_length=100)
    trained_until: date = Field(description="end of its training data")


DEFAULT_LLM_CUTOFFS = (
    LlmCutoff(model="claude-fable-5-1", trained_until=date(2026, 6, 30)),
    LlmCutoff(model="claude-opus-5-5", trained_until=date(2026, 6, 30)),
    LlmCutoff(model="claude-opus-5", trained_until=date(2026, 5, 31)),
    LlmCutoff(model="claude-sonnet-5-5", trained_until=date(2026, 6, 30)),
    LlmCutoff(model="claude-sonnet-5", trained_until=date(2026, 1, 31)),
)
"""Knowledge cut-offs of the vendor's model pages, stored copies, end of the month; not checked on the live pages."""


class LlmAnalyzer(Section):
    enabled: bool = Field(default=True, description="master switch of language-model calls")
    mode: Literal["off", "briefings_only", "full"] = Field(
        default="briefings_only", description="full: advice may shrink or veto; briefings_only: words only"
    )
    model: str = Field(default="claude-sonnet-5-5", min_length=1, max_length=100, description="needs a price below")
    deadline_s: float = Field(default=30.0, ge=1, le=300, description="for one question, all of its calls")
    max_output_tokens: int = Field(
        default=4096, ge=64, le=32_000, description="of one answer, thinking included; all reserved before"
    )
    max_daily_tokens: int = Field(
        default=100_000, ge=0, le=1_000_000_000, description="hard limit of a New York day, input and output"
    )
    warn_pct: Fraction = Field(default=0.80, description="warn when this share of the tighter of both limits is used")
    rest_after: int = Field(default=3, ge=1, le=100, description="failed calls in a row; then none for rest_s")
    rest_s: float = Field(default=300.0, ge=1, le=86_400, description="pause after rest_after failures or a 429")
    caching_from_tokens: int = Field(
        default=4096, ge=1024, le=1_000_000, description="a prefix this long that repeats is marked for prompt caching"
    )
    cost_tracking: CostTracking = _section()
    cache: LlmCache = _section()
    prices: LlmPrices = _section()
    cutoffs: Annotated[tuple[LlmCutoff, ...], BeforeValidator(_to_tuple)] = Field(
        default=DEFAULT_LLM_CUTOFFS,
        description="training cut-off of each model; without one llm_value.py counts nothing",
    )

    @field_validator("cutoffs")
    @classmethod
    def _each_once(cls, rows: tuple[LlmCutoff, ...]) -> tuple[LlmCutoff, ...]:
        if len({row.model for row in rows}) != len(rows):
            raise ValueError("holds a model twice")
        return rows


class CognitivePreflight(Section):
    required: bool = Field(default=True, description="no trading before a passed preflight")


class BreakerSessions(Section):
    """How long a tripped breaker stays so, in sessions after the one it tripped in; null: until a person resumes it."""

    calibration_drift: int | None = Field(default=None, ge=0, le=250, description="null: until a person resumes it")
    loss_concentration: int | None = Field(default=10, ge=0, le=250, description="sessions; null: until a person")
    confidence_collapse: int | None = Field(default=None, ge=0, le=250, description="null: until a person resumes it")
    regime_stuck: int | None = Field(default=None, ge=0, le=250, description="null: until a person resumes it")
    loss_streak: int | None = Field(default=None, ge=0, le=250, description="null: until a person resumes it")
    daily_drawdown: int | None = Field(default=1, ge=0, le=250, description="sessions; 0: the rest of its own")
    weekly_drawdown: int | None = Field(default=5, ge=0, le=250, description="sessions; null: until a person")
    execution_quality: int | None = Field(default=5, ge=0, le=250, description="sessions; null: until a person")


class CircuitBreakers(Section):
    enabled: bool = True
    calibration_bounds: Annotated[tuple[float, float], BeforeValidator(_to_tuple)] = Field(
        default=(0.05, 0.95), description="[low, high] of the mean confidence; outside, the self model is at an extreme"
    )
    max_loss_streak: int = Field(default=5, ge=1, le=100, description="halt entries after this many losses in a row")
    window: int = Field(default=20, ge=5, le=250, description="trades, confidences or orders that a breaker looks back")
    calibration_z: float = Field(
        default=4.0, ge=2, le=10, description="wins against confidences, in standard errors, above: calibration_drift"
    )
    loss_share_most: float = Field(
        default=0.75, gt=0, lt=1, description="losing share of the last `window` trades, above: loss_concentration"
    )
    symbol_losses_most: int = Field(
        default=4, ge=2, le=100, description="losses of one symbol among them that carry that share of all losses"
    )
    confidence_sd_least: float = Field(
        default=0.001, ge=0, le=0.1, description="of the last `window` probabilities of a model, below: collapse"
    )
    not_finite_most: int = Field(default=3, ge=1, le=100, description="predictions in a row that are no number")
    regime_lag_sessions: int = Field(
        default=3, ge=1, le=60, description="sessions that the regime may be older than the scan's; above: regime_stuck"
    )
    regime_same_sessions: int = Field(
        default=5, ge=2, le=60, description="sessions in a row without a new word of the regime model: regime_stuck"
    )
    daily_drawdown_pct: Fraction = Field(
        default=0.06, description="of the capital at work (position_limit x per_order_max_usd), loss of a session"
    )
    weekly_drawdown_pct: Fraction = Field(default=0.10, description="of the same, loss of an ISO week")
    fill_rate_least: Fraction = Field(default=0.25, description="mean of the last `window` entries, below")
    slippage_most_bps: float = Field(default=40.0, gt=0, le=1000, description="mean of the last `window` fills, above")
    sessions: BreakerSessions = _section()

    @field_validator("calibration_bounds")
    @classmethod
    def _low_then_high(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bounds[0] < bounds[1] <= 1:
            raise ValueError("must be [low, high] with 0 <= low < high <= 1")
        return bounds


class ReviewRules(Section):
    """How evidence shrinks a size. Nothing here can enlarge one."""

    least: int = Field(default=20, ge=5, le=1000, description="outcomes; from fewer nothing is concluded")
    shrink: Fraction = Field(default=0.5, description="part of the size that is left when evidence speaks against it")


class MemorySettings(Section):
    max_episodes: int = Field(
        default=2000, ge=100, le=1_000_000, description="decisions remembered; what was bought comes before the rest"
    )
    similar_most: int = Field(default=25, ge=2, le=1000, description="past decisions that one is compared with")


class SelfModelSettings(Section):
    prior_trades: float = Field(
        default=20.0, ge=0, le=10_000, description="trades of elsewhere that a win rate leans on at most"
    )
    interval: float = Field(default=0.95, ge=0.5, le=0.999, description="probability that an interval holds")
    bins: int = Field(default=10, ge=2, le=100, description="of the reliability curve")


class ReflectionSettings(Section):
    """Learnings. `alpha` bounds the chance of ever adopting one from pure noise, see cognitive/reflection.py."""

    enabled: bool = Field(default=True, description="false: nothing new is learned; what was adopted stays")
    least: int = Field(default=20, ge=5, le=10_000, description="decisions inside, and outside, of a condition to ask")
    discovery_fdr: Fraction = Field(default=0.02, description="false discovery rate of a search: candidates only")
    harm_least_r: float = Field(default=0.3, ge=0, le=10, description="R by which a candidate has to have done worse")
    candidates_most: int = Field(default=3, ge=1, le=100, description="under test at the same time")
    confirm_least: int = Field(
        default=30, ge=5, le=10_000, description="later decisions that met it, and that did not, which test a candidate"
    )
    confirm_within_days: int = Field(default=730, ge=30, le=36_500, description="a candidate untested then is retired")
    alpha: Fraction = Field(default=0.05, description="chance of ever adopting anything from noise")
    shrink_least: Fraction = Field(default=0.5, description="the smallest factor that a learning may put on a size")


class Cognitive(Section):
    llm_analyzer: LlmAnalyzer = _section()
    preflight: CognitivePreflight = _section()
    circuit_breakers: CircuitBreakers = _section()
    review: ReviewRules = _section()
    memory: MemorySettings = _section()
    self_model: SelfModelSettings = _section()
    reflection: ReflectionSettings = _section()


class Logs(Section):
    mask_secrets: Literal[True] = Field(default=True, description="keys never reach a log; cannot be turned off")
    rotate_mb: int = Field(default=64, ge=1, le=10_000, description="a log file above this size begins anew")
    rotate_daily: bool = Field(default=True, description="a log file begins anew with each New York day")
    keep_days: int = Field(default=30, ge=1, le=3650, description="cleanup.py --logs without --older-than")
    keep_evidence_days: int = Field(
        default=400, ge=30, le=36_500, description="verdicts and inputs of decisions are kept at least this long"
    )


class Settings(Section):
    """Everything an operator can set. Loaded once in `main`; a function is handed the section it needs."""

    selection: Selection = _section()
    risk: Risk = _section()
    quality_gate: QualityGate = _section()
    filters: Filters = _section()
    sizing: Sizing = _section()
    execution: Execution = _section()
    data: Data = _section()
    universe: UniverseSettings = _section()
    runner: Runner = _section()
    arming: Arming = _section()
    ladder: Ladder = _section()
    preflight: Preflight = _section()
    watchdog: Watchdog = _section()
    sidecar: Sidecar = _section()
    alerts: Alerts = _section()
    venue: Venue = _section()
    costs: Costs = _section()
    walk_forward: WalkForward = _section()
    ml: Ml = _section()
    cognitive: Cognitive = _section()
    logs: Logs = _section()


def leaf_types(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, Any]:
    """Every dotted leaf path of the schema, in file order, with its pydantic FieldInfo."""
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= leaf_types(kind, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = info
    return found
