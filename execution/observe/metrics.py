"""Facts as numbers: the JSON of /metrics and the Prometheus text of /metrics/prometheus. Pure.

JSON: the four groups of the runbook with exactly its keys, null where a number is not known, and further groups beside
them. Prometheus: what is not known is absent, and `kobe_unknown{field,code}` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from execution.observe.facts import Facts, RunState
from execution.observe.readiness import Readiness

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = Mapping[str, str]
Sample = tuple[Labels, float | None]


# ---------------------------------------------------------------- JSON
def as_json(facts: Facts, ready: Readiness) -> dict[str, Any]:
    """Plain JSON values; USD as numbers, as the runbook shows them."""
    measured, data = facts.execution, facts.data
    providers = None if data is None or data.providers is None else {p.name: p.success_rate for p in data.providers}
    return {
        "llm": {
            "cost_usd_today": usd(facts.llm.cost_usd_today), "cost_budget_usd": usd(facts.llm.cost_budget_usd),
            "calls_today": facts.llm.calls_today, "avg_latency_ms": facts.llm.avg_latency_ms,
        },
        "execution": {
            "ioc_fill_rate_avg": None if measured is None else rounded(measured.ioc_fill_rate_avg),
            "slippage_bps_avg": None if measured is None else rounded(measured.slippage_bps_avg),
            "clamp_usage_count": None if measured is None else measured.clamp_usage_count,
        },
        "data": {
            "provider_success_rates": providers,
            "fallback_count_today": None if data is None else data.fallbacks_today,
        },
        "cognitive": {
            "decisions_today": facts.cognitive.decisions_today, "approval_rate": facts.cognitive.approval_rate,
            "avg_confidence": facts.cognitive.avg_confidence,
        },
        **_more(facts, ready),
    }  # fmt: skip


def _more(facts: Facts, ready: Readiness) -> dict[str, Any]:
    """What the runbook does not ask for."""
    book, schedule, journal = facts.book, facts.schedule, facts.journal
    return {
        "system": {
            "at": facts.at.isoformat(), "mode": facts.mode, "simulated": facts.simulated, "standing": facts.standing,
            "broker": facts.broker.kind, "state": ready.state, "stops": [r.code for r in ready.stops],
            "warnings": [r.code for r in ready.warnings], "errors_24h": facts.errors_24h,
            "beat_age_s": None if facts.runner is None else rounded(facts.runner.beat_age_s),
            "disk_free_bytes": facts.disk_free_bytes,
        },
        "book": None if book is None else {
            "positions": {p.symbol: p.quantity for p in book.positions}, "open_orders": len(book.open_orders),
            "unsettled": book.unsettled, "unprotected": list(book.unprotected),
            "breaks": None if book.reconcile is None else book.reconcile.breaks,
            "spent_today_usd": usd(book.budget.spent_today_usd), "daily_budget_usd": usd(book.budget.daily_budget_usd),
            "orders_today": book.budget.orders_today, "equity_usd": None if book.equity is None else usd(
                book.equity.latest_usd), "drawdown": None if book.equity is None else rounded(book.equity.drawdown, 6),
            "realised_usd": usd(book.trades.realised_usd), "trades_closed": book.trades.closed,
            "loss_streak": book.trades.loss_streak,
        },
        "schedule": None if schedule is None else {
            "next": schedule.next_id, "next_at": schedule.next_at.isoformat(), "last": schedule.last_id,
            "last_code": schedule.last_code, "missed_7d": schedule.missed_7d, "failed_24h": schedule.failed_24h,
            "today": {run.id: str(run.state) for run in schedule.today},
        },
        "breakers": None if facts.cognitive.breakers is None else {b.lock_id: b.code for b in facts.cognitive.breakers},
        "llm_tokens": {"used_today": facts.llm.tokens_today, "budget": facts.llm.tokens_budget},
        "journal": None if journal is None else {"records": journal.records, "head": journal.head},
        "unknown": dict(sorted(facts.unknown.items())),
    }  # fmt: skip


def usd(value: Decimal | None) -> float | None:
    return None if value is None or not value.is_finite() else round(float(value), 4)


def rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


# ---------------------------------------------------------------- Prometheus
@dataclass(frozen=True, slots=True)
class Gauge:
    """One metric: what it is called, what it says, and its samples out of Facts."""

    name: str
    help: str
    read: Callable[[Facts, Readiness], Iterable[Sample]]


def _one(value: float | Decimal | None) -> list[Sample]:
    return [({}, None if value is None else float(value))]


def _book(read: Callable[[Any], float | Decimal | None]) -> Callable[[Facts, Readiness], Iterable[Sample]]:
    return lambda facts, ready: [] if facts.book is None else _one(read(facts.book))


def _measured(read: Callable[[Any], float | None]) -> Callable[[Facts, Readiness], Iterable[Sample]]:
    return lambda facts, ready: [] if facts.execution is None else _one(read(facts.execution))


def _schedule(read: Callable[[Any], float | None]) -> Callable[[Facts, Readiness], Iterable[Sample]]:
    return lambda facts, ready: [] if facts.schedule is None else _one(read(facts.schedule))


def _providers(facts: Facts, ready: Readiness) -> Iterator[Sample]:
    for provider in (facts.data.providers or ()) if facts.data is not None else ():
        yield {"provider": provider.name}, provider.success_rate


def _runs(facts: Facts, ready: Readiness) -> Iterator[Sample]:
    if facts.schedule is not None:
        for state in RunState:
            yield {"state": str(state)}, sum(run.state is state for run in facts.schedule.today)


def _ms(value: float | None) -> float | None:
    return None if value is None else value / 1000


GAUGES: tuple[Gauge, ...] = (
    Gauge("kobe_info", "Always 1; labels say what this system is.", lambda f, r: [
        ({"mode": f.mode, "broker": f.broker.kind, "simulated": str(f.simulated).lower()}, 1)]),
    Gauge("kobe_ready", "1 when entries may be made now, else 0.", lambda f, r: _one(r.ready)),
    Gauge("kobe_stop", "Always 1; one per reason why no entry is made now.", lambda f, r: [
        ({"code": code}, 1) for code in dict.fromkeys(s.code for s in r.stops)]),
    Gauge("kobe_warning", "Always 1; one per thing that a person should look at.", lambda f, r: [
        ({"code": code}, 1) for code in dict.fromkeys(w.code for w in r.warnings)]),
    Gauge("kobe_unknown", "Always 1; one per fact that is not known.", lambda f, r: [
        ({"field": name, "code": code}, 1) for name, code in sorted(f.unknown.items())]),
    Gauge("kobe_kill_switch", "1 when the kill switch is there or cannot be looked for.",
          lambda f, r: _one(f.switch.present)),
    Gauge("kobe_facts_timestamp_seconds", "When these facts were read.", lambda f, r: _one(f.at.timestamp())),
    Gauge("kobe_runner_beat_age_seconds", "Since the runner's main thread last moved.",
          lambda f, r: [] if f.runner is None else _one(f.runner.beat_age_s)),
    Gauge("kobe_runner_ended", "1 when the runner has left a last word.",
          lambda f, r: [] if f.runner is None else _one(f.runner.ended)),
    Gauge("kobe_runs_today", "Due runs of today's session by what became of them.", _runs),
    Gauge("kobe_next_run_timestamp_seconds", "When the next run is due.", _schedule(lambda s: s.next_at.timestamp())),
    Gauge("kobe_last_run_timestamp_seconds", "When the newest run on record ended.",
          _schedule(lambda s: None if s.last_at is None else s.last_at.timestamp())),
    Gauge("kobe_runs_missed_7d", "Runs missed in the last seven days.", _schedule(lambda s: s.missed_7d)),
    Gauge("kobe_runs_failed_24h", "Failed tries in the last 24 hours.", _schedule(lambda s: s.failed_24h)),
    Gauge("kobe_journal_records", "Records in the journal.",
          lambda f, r: [] if f.journal is None else _one(f.journal.records)),
    Gauge("kobe_positions", "Symbols held, by the journal.", _book(lambda b: len(b.positions))),
    Gauge("kobe_positions_unprotected", "Symbols with an open trade and no resting stop of ours.",
          _book(lambda b: len(b.unprotected))),
    Gauge("kobe_open_orders", "Orders without an end.", _book(lambda b: len(b.open_orders))),
    Gauge("kobe_orders_unsettled", "Orders that may or may not be live.", _book(lambda b: b.unsettled)),
    Gauge("kobe_symbols_locked", "Symbols that may not be traded.", _book(lambda b: len(b.locked))),
    Gauge("kobe_breaks", "Differences from the broker at the last reconcile.",
          _book(lambda b: None if b.reconcile is None else b.reconcile.breaks)),
    Gauge("kobe_reconcile_age_seconds", "Since the last comparison with the broker.",
          _book(lambda b: None if b.reconcile is None else b.reconcile.age_s)),
    Gauge("kobe_budget_usd", "risk.policy_gate.daily_budget_usd.", _book(lambda b: b.budget.daily_budget_usd)),
    Gauge("kobe_budget_spent_usd", "Entries filled today and reserved.", _book(lambda b: b.budget.spent_today_usd)),
    Gauge("kobe_orders_today", "Orders intended today.", _book(lambda b: b.budget.orders_today)),
    Gauge("kobe_equity_usd", "The account's equity after the last run.",
          _book(lambda b: None if b.equity is None else b.equity.latest_usd)),
    Gauge("kobe_drawdown_ratio", "Below the highest equity of the journal.",
          _book(lambda b: None if b.equity is None else b.equity.drawdown)),
    Gauge("kobe_realised_usd", "Realised by all closed trades, before regulatory fees.",
          _book(lambda b: b.trades.realised_usd)),
    Gauge("kobe_trades_closed", "Trades that are over.", _book(lambda b: b.trades.closed)),
    Gauge("kobe_loss_streak", "Losses in a row, up to now.", _book(lambda b: b.trades.loss_streak)),
    Gauge("kobe_ioc_fill_rate_ratio", "Filled of ordered, mean over 30 days.",
          _measured(lambda e: e.ioc_fill_rate_avg)),
    Gauge("kobe_ioc_orders", "Orders behind the fill rate.", _measured(lambda e: e.ioc_orders)),
    Gauge("kobe_slippage_bps", "Fill against the mid at the decision, mean over 30 days; positive is worse.",
          _measured(lambda e: e.slippage_bps_avg)),
    Gauge("kobe_slippage_fills", "Fills behind the slippage.", _measured(lambda e: e.slippage_fills)),
    Gauge("kobe_clamp_uses_today", "Entries today whose limit the clamp lowered.",
          _measured(lambda e: e.clamp_usage_count)),
    Gauge("kobe_orders_refused_today", "Orders and picks refused today.", _measured(lambda e: e.orders_refused_today)),
    Gauge("kobe_orders_rejected_today", "Orders the broker rejected today.",
          _measured(lambda e: e.orders_rejected_today)),
    Gauge("kobe_order_latency_seconds", "From intent to the broker's answer, mean over 30 days.",
          _measured(lambda e: _ms(e.latency_ms_avg))),
    Gauge("kobe_order_latency_most_seconds", "The longest of them.", _measured(lambda e: _ms(e.latency_ms_max))),
    Gauge("kobe_provider_success_ratio", "Answers of asked, last seven days.", _providers),
    Gauge("kobe_fallbacks_today", "Updates that a vendor before could not make.",
          lambda f, r: [] if f.data is None else _one(f.data.fallbacks_today)),
    Gauge("kobe_data_sessions_behind", "Sessions from the newest bars used to the newest that has closed.",
          lambda f, r: [] if f.data is None else _one(f.data.sessions_behind)),
    Gauge("kobe_scan_considered", "Symbols of the newest scan.",
          lambda f, r: [] if f.scan is None else _one(f.scan.considered)),
    Gauge("kobe_scan_picks", "Picks of the newest scan.",
          lambda f, r: [] if f.scan is None else _one(len(f.scan.picks))),
    Gauge("kobe_errors_24h", "Lines of errors.jsonl in the last 24 hours.", lambda f, r: _one(f.errors_24h)),
    Gauge("kobe_disk_free_bytes", "Free below the state folder.", lambda f, r: _one(f.disk_free_bytes)),
    Gauge("kobe_llm_cost_usd_today", "LLM spend of the New York day.", lambda f, r: _one(f.llm.cost_usd_today)),
    Gauge("kobe_llm_budget_usd", "cost_tracking.max_daily_usd.", lambda f, r: _one(f.llm.cost_budget_usd)),
    Gauge("kobe_llm_tokens_today", "LLM tokens of the New York day.", lambda f, r: _one(f.llm.tokens_today)),
    Gauge("kobe_llm_token_budget", "cognitive.llm_analyzer.max_daily_tokens.", lambda f, r: _one(f.llm.tokens_budget)),
    Gauge("kobe_llm_calls_today", "LLM calls of the New York day.", lambda f, r: _one(f.llm.calls_today)),
    Gauge("kobe_llm_latency_seconds", "Mean latency of LLM calls.", lambda f, r: _one(_ms(f.llm.avg_latency_ms))),
    Gauge("kobe_cognitive_decisions_today", "Reviews of the New York day.",
          lambda f, r: _one(f.cognitive.decisions_today)),
    Gauge("kobe_cognitive_approval_ratio", "Approved of reviewed.", lambda f, r: _one(f.cognitive.approval_rate)),
    Gauge("kobe_breakers_tripped", "Circuit breakers that refuse entries now.",
          lambda f, r: _one(None if f.cognitive.breakers is None else len(f.cognitive.breakers))),
    Gauge("kobe_cognitive_confidence_ratio", "Mean confidence of reviews.",
          lambda f, r: _one(f.cognitive.avg_confidence)),
)  # fmt: skip


class _Collector:
    def __init__(self, facts: Facts, ready: Readiness) -> None:
        self._facts, self._ready = facts, ready

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        for gauge in GAUGES:
            known = [(labels, value) for labels, value in gauge.read(self._facts, self._ready) if value is not None]
            if not known:
                continue
            names = list(known[0][0])
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=names)
            for labels, value in known:
                family.add_metric([labels[name] for name in names], value)
            yield family


def registry(facts: Facts, ready: Readiness) -> CollectorRegistry:
    """A fresh one per look: nothing of the process itself, and nothing that is left from before."""
    from prometheus_client import CollectorRegistry

    made = CollectorRegistry(auto_describe=False)
    made.register(_Collector(facts, ready))
    return made


def as_prometheus(facts: Facts, ready: Readiness) -> bytes:
    from prometheus_client import generate_latest

    return generate_latest(registry(facts, ready))
