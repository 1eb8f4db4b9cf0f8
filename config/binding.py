"""Which of several limits on the same thing binds first, with the arithmetic. Pure; for show_config.py --limits.

Limits that depend on the account (sector, single name, VaR, cash) are told as dollars when the equity is given, and as
the equity below which they bind when it is not: a missing number is no limit of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from config.settings_schema import Settings

_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit on a quantity. `value` None: it cannot be told without the account."""

    key: str
    value: Decimal | None
    how: str


@dataclass(frozen=True, slots=True)
class Group:
    """Limits on the same quantity, the smallest binds."""

    what: str
    unit: str
    bounds: tuple[Bound, ...]

    @property
    def binding(self) -> Bound | None:
        known = [b for b in self.bounds if b.value is not None]
        return min(known, key=lambda b: b.value or Decimal(0)) if known else None


def groups(settings: Settings, equity: Decimal | None = None) -> tuple[Group, ...]:
    """equity : USD; None when it is not known."""
    return (
        _one_order(settings, equity), _new_entries(settings), _one_day(settings), _held(settings, equity),
        _one_minute(settings), _orders(settings), _loss(settings), _language_model(settings),
    )  # fmt: skip


def _money(value: Decimal) -> Decimal:
    return value.quantize(_CENT, ROUND_HALF_UP)


def _share(equity: Decimal | None, fraction: float) -> Decimal | None:
    return None if equity is None else _money(equity * Decimal(str(fraction)))


def _below(order_usd: Decimal, fraction: float) -> str:
    """The equity from which on one full order breaks this share."""
    least = _money(order_usd / Decimal(str(fraction)))
    return f"{fraction:g} of equity; one order of {order_usd} reaches it below {least}"


def _one_order(settings: Settings, equity: Decimal | None) -> Group:
    cap, risk = settings.risk.policy_gate.per_order_max_usd, settings.sizing.risk_per_trade_usd
    single, cash = settings.selection.top_n.max_single_name_pct, settings.risk.cash_only
    distance = risk / cap * 100
    bounds = [
        Bound("risk.policy_gate.per_order_max_usd", cap, "one entry"),
        Bound("risk.policy_gate.daily_budget_usd", settings.risk.policy_gate.daily_budget_usd, "the first of a day"),
        Bound(
            "sizing.risk_per_trade_usd", None,
            f"{risk} / distance of the stop: less than {cap} when the stop is farther than {distance:.1f} % away",
        ),
        Bound("selection.top_n.max_single_name_pct", _share(equity, single), _below(cap, single)),
        Bound(
            "selection.top_n.max_sector_pct", _share(equity, settings.selection.top_n.max_sector_pct),
            _below(cap, settings.selection.top_n.max_sector_pct),
        ),
    ]  # fmt: skip
    if cash:
        bounds.append(Bound("risk.cash_only", None, "the account's cash"))
    return Group("one entry", "USD", tuple(bounds))


def _picks(settings: Settings) -> tuple[int, str, str]:
    """Entries of one session: how many, which key says so, and how."""
    gate = settings.quality_gate.max_signals_per_day
    chosen = 1 if settings.selection.mode == "totd" else settings.selection.top_n.n
    key = "selection.mode" if settings.selection.mode == "totd" else "selection.top_n.n"
    if gate < chosen:
        return gate, "quality_gate.max_signals_per_day", f"{gate} signals"
    return chosen, key, "totd picks one" if settings.selection.mode == "totd" else f"top_n picks {chosen}"


def _new_entries(settings: Settings) -> Group:
    chosen = 1 if settings.selection.mode == "totd" else settings.selection.top_n.n
    cap = settings.risk.policy_gate.per_order_max_usd
    budget = settings.risk.policy_gate.daily_budget_usd
    return Group("new positions of one session", "positions", (
        Bound("selection.mode" if settings.selection.mode == "totd" else "selection.top_n.n", Decimal(chosen),
              f"mode {settings.selection.mode}; --top3 makes it {settings.selection.top_n.n}"),
        Bound("quality_gate.max_signals_per_day", Decimal(settings.quality_gate.max_signals_per_day), "applied last"),
        Bound("risk.position_limit", Decimal(settings.risk.position_limit), "with nothing held"),
        Bound("risk.policy_gate.daily_budget_usd", Decimal(int(budget // cap)), f"{budget} / {cap} full orders"),
    ))  # fmt: skip


def _one_day(settings: Settings) -> Group:
    gate, run = settings.risk.policy_gate, settings.risk.runaway
    picks, key, words = _picks(settings)
    cap, most = gate.per_order_max_usd, run.notional_per_day_usd
    return Group("bought in one day", "USD", (
        Bound(key, picks * cap, f"{words}, {picks} x {cap}"),
        Bound("risk.position_limit", settings.risk.position_limit * cap,
              f"{settings.risk.position_limit} x {cap}; more only when positions close and reopen"),
        Bound("risk.policy_gate.daily_budget_usd", gate.daily_budget_usd, "all entries of one New York day"),
        Bound("risk.runaway.notional_per_day_usd", most or gate.daily_budget_usd,
              "the last door, counted apart" + ("" if most else "; null is the daily budget")),
    ))  # fmt: skip


def _held(settings: Settings, equity: Decimal | None) -> Group:
    cap, limit = settings.risk.policy_gate.per_order_max_usd, settings.risk.position_limit
    var = settings.risk.advanced.var_limit_pct
    return Group("held at the same time", "USD", (
        Bound("risk.position_limit", limit * cap, f"{limit} x {cap}, at cost"),
        Bound("risk.advanced.var_limit_pct", None, f"one-day loss, 95 %, at most {var:g} of equity"
              + ("" if equity is None else f" = {_share(equity, var)}")),
        Bound("risk.cash_only", equity if settings.risk.cash_only else None, "the account's own money"),
    ))  # fmt: skip


def _one_minute(settings: Settings) -> Group:
    gate, run = settings.risk.policy_gate, settings.risk.runaway
    most = run.notional_per_minute_usd
    orders = run.orders_per_minute * gate.per_order_max_usd
    return Group("sent as entries within a minute", "USD", (
        Bound("risk.runaway.notional_per_minute_usd", most or 2 * gate.daily_budget_usd,
              "" if most else f"null is twice the daily budget, 2 x {gate.daily_budget_usd}"),
        Bound("risk.runaway.orders_per_minute", orders, f"{run.orders_per_minute} x {gate.per_order_max_usd}"),
        Bound("risk.policy_gate.daily_budget_usd", gate.daily_budget_usd, "when all of it fills"),
    ))  # fmt: skip


def _orders(settings: Settings) -> Group:
    run, tries = settings.risk.runaway, settings.execution.max_attempts
    picks, key, _ = _picks(settings)
    scans = 1 if settings.execution.entry_scans == "first" else len(settings.runner.scan_times)
    attempts = min(scans, tries)
    return Group("entry orders of one day", "orders", (
        Bound("risk.runaway.orders_per_day", Decimal(run.orders_per_day), "of any kind; exits have more room"),
        Bound(key, Decimal(picks * attempts),
              f"{picks} picks x {attempts} tries ({scans} scans, execution.max_attempts {tries})"),
    ))  # fmt: skip


def _loss(settings: Settings) -> Group:
    risk, cap = settings.sizing.risk_per_trade_usd, settings.risk.policy_gate.per_order_max_usd
    limit = settings.risk.position_limit
    return Group("lost when every stop is hit at its price", "USD", (
        Bound("sizing.risk_per_trade_usd", limit * risk, f"{limit} positions x {risk}; a gap can cost more"),
        Bound("risk.policy_gate.per_order_max_usd", limit * cap, f"{limit} x {cap}: everything"),
    ))  # fmt: skip


def _language_model(settings: Settings) -> Group:
    tracking = settings.cognitive.llm_analyzer.cost_tracking
    off = not settings.cognitive.llm_analyzer.enabled or settings.cognitive.llm_analyzer.mode == "off"
    bounds = [
        Bound(
            "cognitive.llm_analyzer.cost_tracking.max_daily_usd",
            tracking.max_daily_usd if tracking.enabled else None,
            "hard limit of a day" if tracking.enabled else "cost_tracking.enabled is false",
        ),
        _tokens(settings),
        Bound(
            "cognitive.llm_analyzer.cost_tracking.alert_threshold_usd",
            None,
            f"warns at {tracking.alert_threshold_usd}",
        ),
    ]
    if off:
        bounds.append(Bound("cognitive.llm_analyzer.mode", Decimal(0), "turned off"))
    return Group("spent on the language model in a day", "USD", tuple(bounds))


def _tokens(settings: Settings) -> Bound:
    """The token limit in USD: if every token were the dearest that the model has."""
    chosen = settings.cognitive.llm_analyzer
    key, rows = "cognitive.llm_analyzer.max_daily_tokens", [r for r in chosen.prices.rows if r.model == chosen.model]
    if not rows:
        return Bound(key, Decimal(0), f"{chosen.model} has no price: it is not called")
    newest = max(row.effective for row in rows)
    dearest = max(row.output_usd for row in rows if row.effective == newest)
    usd = dearest * chosen.max_daily_tokens / 1_000_000
    return Bound(key, usd, f"{chosen.max_daily_tokens} tokens, all of them output at {dearest} USD per million")


def numbers(found: Sequence[Group]) -> list[dict[str, object]]:
    """For --json: values as text, so that no cent is lost."""
    return [
        {
            "what": group.what, "unit": group.unit, "binds": group.binding.key if group.binding else None,
            "limits": [{"key": b.key, "value": None if b.value is None else str(b.value), "how": b.how}
                       for b in group.bounds],
        }
        for group in found
    ]  # fmt: skip
