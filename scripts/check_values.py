"""The checks of preflight as pure functions: values in, one Finding out, with its remedy. Nothing here reads anything.

scripts/checks.py reads the values and holds the list. What is not there, or not known, is said so and never taken for
fine: a protection that is missing stops live trading, a helper that may only shrink or veto is told as UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core.errors import BrokerDown, BrokerRejected, ConfigError, DataError, KobeError, OutcomeUnknown, StateCorrupt
from core.market_calendar import NEW_YORK
from execution.starts import CrashLoop
from portfolio.state_manager import UNIVERSE_ADVICE
from scripts.trading import Finding

if TYPE_CHECKING:
    from cognitive.circuit_breakers import Lock
    from config.settings_schema import Settings
    from core.domain import Account, BrokerClock, Symbol
    from core.journal_record import Record
    from data.universe import Universe
    from execution.breaks import Break
    from execution.ledger import LedgerOrder
    from execution.noted import Behind
    from execution.orphans import Orphan
    from execution.scheduler import DueRun

RECONCILE = "python scripts/reconcile_alpaca.py"
_FEW = 3
_LEAST_WITH_MODEL = 70.0  # the runbook's min_score once models are trained
_MODEL_RUNS_OUT_DAYS = 14


def few(names: Iterable[object]) -> str:
    """The first of them, and how many more there are."""
    listed = [str(name) for name in names]
    more = len(listed) - _FEW
    return ", ".join(listed[:_FEW]) + (f" and {more} more" if more > 0 else "")


def failed(name: str, words: str, code: str, advice: str, kind: type[KobeError] = ConfigError) -> Finding:
    return Finding(name, words, kind(words, code=code, advice=advice))


def judged(name: str, words: str, code: str, advice: str, *, live: bool) -> Finding:
    """A problem in live mode, a warning on paper."""
    return failed(name, words, code, advice) if live else Finding(name, words, warning=code)


def absent(name: str, words: str, code: str) -> Finding:
    """It does not exist, or nobody could look: told, and taken for nothing."""
    return Finding(name, words, warning=code, unknown=True)


# ---------------------------------------------------------------- settings and machine
def settings_read(file: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Finding:
    changed = sorted(key for key in values if values[key] != defaults.get(key))
    told = f"; other than default: {few(changed)}" if changed else ", all at their defaults"
    return Finding("settings", f"{file}: {len(values)} values{told}")


def binding_limit(settings: Settings) -> Finding:
    """Which of the money limits stops first, so that nobody believes in one that never binds."""
    gate, slots = settings.risk.policy_gate, settings.risk.position_limit
    held = slots * gate.per_order_max_usd
    which = "the position limit" if held < gate.daily_budget_usd else "the daily budget"
    words = (
        f"{gate.per_order_max_usd} USD an order, {slots} positions ({held} USD), {gate.daily_budget_usd} USD a day: "
        f"{which} binds first"
    )
    return Finding("limits", words)


def disk_space(free_mb: float | None, least_mb: int) -> Finding:
    """The limit itself passes. Told from four times the limit down."""
    advice = "free the disk, or set KOBE_HOME to another one"
    if free_mb is None:
        return failed("disk_space", "the free space cannot be learned", "DISK_UNKNOWN", advice)
    words = f"{free_mb:.0f} MB free, at least {least_mb} MB"
    if free_mb < least_mb:
        return failed("disk_space", words, "DISK_NEARLY_FULL", advice)
    return Finding("disk_space", words, warning="DISK_FILLING" if free_mb < 4 * least_mb else "")


def lock_excludes(second_got_in: bool | None) -> Finding:
    """Tried: while one holder has a lock in the state folder, a second must not get it."""
    if second_got_in is False:
        return Finding("lock", "a second holder is kept out")
    words = "two holders had the same lock" if second_got_in else "no lock could be taken"
    return failed("lock", words, "LOCK_USELESS", "set KOBE_HOME to a folder on a local disk")


def last_starts(stopped_at: str | None, crashed: int, most: int) -> Finding:
    if stopped_at is not None:
        words = f"the runner crashed again and again and was stopped at {stopped_at}"
        return Finding("starts", words, CrashLoop(words))
    if crashed:
        return Finding("starts", f"{crashed} crashes lately, {most} stop the runner", warning="CRASHED_LATELY")
    return Finding("starts", "no crash lately")


# ---------------------------------------------------------------- what is on record
def journal_anchor(noted: int | None, behind: Behind | None) -> Finding:
    """The journal against what was noted of it outside the state folder (docs/architecture.md, An old backup)."""
    if behind is not None:
        advice = "python scripts/reconcile_alpaca.py --full; the runner accepts an older journal only in step"
        return failed("journal_anchor", str(behind), "STATE_RESTORED", advice, StateCorrupt)
    if noted is None:
        return absent("journal_anchor", "nothing was noted yet; the first scan does", "JOURNAL_NOT_NOTED")
    return Finding("journal_anchor", f"holds record {noted}, which was noted of it")


def documents(damaged: Mapping[str, str]) -> Finding:
    if not damaged:
        return Finding("documents", "every state document can be read")
    advice = [f"{RECONCILE} --force-sync rebuilds views"] if set(damaged) - {"universe_last"} else []
    if "universe_last" in damaged:
        advice.append(UNIVERSE_ADVICE)
    return failed("documents", "; ".join(damaged.values()), "STATE_CORRUPT", "; ".join(advice), StateCorrupt)


def nothing_unsettled(orders: Sequence[LedgerOrder]) -> Finding:
    if not orders:
        return Finding("unsettled", "every order has an end, or rests at the broker")
    words = f"{len(orders)} may be live: {few(o.client_order_id for o in orders)}"
    return Finding("unsettled", words, OutcomeUnknown(words, advice=f"{RECONCILE}, or start the runner: it settles"))


def in_step(breaks: Sequence[Break]) -> Finding:
    """A break that locks its symbol is a problem; what trading mends by itself is a warning."""
    locking = [b for b in breaks if b.lock_code is not None]
    told = few(f"{b.symbol} {b.kind} {b.cause}" for b in (locking or breaks))
    if locking:
        words = f"{len(locking)} breaks: {told}"
        return Finding("in_step", words, StateCorrupt(words, code="BREAKS", advice=locking[0].proposal or RECONCILE))
    if breaks:
        return Finding("in_step", f"the runner mends: {told}", warning="BREAKS_TOLD")
    return Finding("in_step", "journal and broker agree")


def no_orphans(found: Sequence[Orphan]) -> Finding:
    """Orders of yesterday that still work, legs without a trade, strangers: told before new ones are sent (B54)."""
    if not found:
        return Finding("orphans", "no open order without its trade")
    words = (
        f"{len(found)}: {few(f'{o.order.symbol} {o.cause}' for o in found)}; python scripts/check_orphaned_orders.py"
    )
    return Finding("orphans", words, warning="ORPHANED_ORDERS")


def locked_symbols(locked: Mapping[Symbol, str]) -> Finding:
    if not locked:
        return Finding("locked", "no symbol is locked")
    words = few(f"{symbol} {code}" for symbol, code in sorted(locked.items()))
    return Finding("locked", f"{words}; {RECONCILE} names the cure", warning="SYMBOLS_LOCKED")


def written_aside(records: int) -> Finding:
    if not records:
        return Finding("written_aside", "nothing")
    words = f"{records} records of emergency commands stand in state/emergency_chain.jsonl, outside the journal"
    return Finding("written_aside", words, warning="WRITTEN_ASIDE")


def runs_missed(missed: Sequence[str]) -> Finding:
    """Scans and closing jobs missed since the last passed preflight."""
    if not missed:
        return Finding("runs_missed", "none since the last passed preflight")
    return Finding(
        "runs_missed", f"{len(missed)} since the last passed preflight: {few(missed)}", warning="RUNS_MISSED"
    )


# ---------------------------------------------------------------- account and broker
def keys_present(real_broker: bool, real_data: bool, *, live: bool) -> Finding:
    if real_broker:
        return Finding("keys", "ALPACA_API_KEY_ID, ALPACA_API_SECRET_KEY" + ("" if real_data else "; no vendor key"))
    if live:
        advice = "set ALPACA_API_KEY_ID and ALPACA_API_SECRET_KEY"
        return failed("keys", "live mode needs the broker's keys", "KEYS_MISSING", advice)
    words = "no broker keys: the embedded venue, simulated" + (" data too" if not real_data else "; real market data")
    return Finding("keys", words, warning="SIMULATED_BROKER")


def pinned_account(account: Account, bound: Mapping[str, str] | None, mode: str) -> Finding:
    """The account this journal belongs to, and no other."""
    if bound is None:
        return Finding("pinned_account", f"none yet; the first run binds the one ending in {account.number[-4:]}")
    if (bound["id"], bound["mode"]) == (account.id, mode):
        return Finding("pinned_account", f"the {mode} account ending in {account.number[-4:]}")
    words = (
        f"this journal belongs to the {bound['mode']} account ending in {bound['number'][-4:]}, "
        f"these keys to the {mode} account ending in {account.number[-4:]}"
    )
    return failed(
        "pinned_account", words, "ACCOUNT_MISMATCH", "set KOBE_HOME to that account's folder, or use its keys"
    )


def clock_skew(theirs: datetime, ours: datetime, limit_s: float) -> Finding:
    """The limit itself passes."""
    skew_s = abs((theirs - ours).total_seconds())
    words = f"{skew_s:.1f} s from the broker's (limit {limit_s:g} s)"
    if skew_s <= limit_s:
        return Finding("clock", words)
    error = BrokerDown(f"the clock is {words}", code="CLOCK_DISAGREES", advice="correct this machine's clock")
    return Finding("clock", words, error)


def ioc_permitted(tif: str, records: Iterable[Record]) -> Finding:
    """Whether this account takes IOC orders: no broker says so, so the account's own orders are asked.

    The newest answer counts. Nothing sent yet: UNKNOWN, and the first order of the one-share rung will tell.
    """
    if tif != "ioc":
        return Finding("ioc", f"not needed: execution.time_in_force is {tif}")
    iocs: set[str] = set()
    answer: tuple[bool, str] | None = None
    for record in records:
        cid = record.body.get("client_order_id")
        if record.kind == "order_intended" and record.body.get("tif") == "ioc":
            iocs.add(str(cid))
        elif record.kind == "order_acknowledged" and cid in iocs:
            answer = True, str(cid)
        elif record.kind == "order_rejected" and cid in iocs and _names_tif(str(record.body.get("detail") or "")):
            answer = False, str(record.body.get("detail"))
    advice = "execution.time_in_force: day_cancel, or ask Alpaca to permit IOC"
    if answer is None:
        return absent("ioc", f"no IOC order was answered yet on this account; if refused: {advice}", "IOC_UNKNOWN")
    if not answer[0]:
        return failed("ioc", f"refused: {answer[1][:160]}", "IOC_NOT_PERMITTED", advice, BrokerRejected)
    return Finding("ioc", f"taken: {answer[1]}")


def _names_tif(detail: str) -> bool:
    words = detail.lower()
    return "time_in_force" in words or "time in force" in words or "ioc" in words.split()


def cash_for_one_order(cash: Decimal | None, per_order_usd: Decimal) -> Finding:
    if cash is None:
        return absent("cash", "the account does not say what cash it has: the gate refuses entries", "CASH_UNKNOWN")
    words = f"{cash:.2f} USD, one order is up to {per_order_usd} USD"
    return Finding("cash", words, warning="" if cash >= per_order_usd else "CASH_LOW")


def market_hours(theirs: BrokerClock, opens_at: datetime, closes_at: datetime) -> Finding:
    """The broker's clock against the calendar, of the session that is open or comes next; the broker's is obeyed."""
    differing = []
    if not theirs.is_open and theirs.next_open != opens_at:
        differing.append(f"opens {_wall(theirs.next_open)}, the calendar says {_wall(opens_at)}")
    if theirs.next_close != closes_at and (theirs.is_open or theirs.next_open == opens_at):
        differing.append(f"closes {_wall(theirs.next_close)}, the calendar says {_wall(closes_at)}")
    if differing:
        return Finding(
            "market_hours", f"the broker {'; '.join(differing)}: the broker is obeyed", warning="HOURS_DIFFER"
        )
    return Finding("market_hours", f"broker and calendar agree: {_wall(opens_at)} to {_wall(closes_at)}")


def _wall(at: datetime) -> str:
    return f"{at.astimezone(NEW_YORK):%Y-%m-%d %H:%M}"


def schedule(session: date, runs: Sequence[DueRun], dropped: Sequence[str], *, half_day: bool) -> Finding:
    """What is due in the session under way or next, half-day rules applied (D21)."""
    due = ", ".join(
        f"{run.at.astimezone(NEW_YORK):%H:%M}" + (f" (for {run.label})" if _moved(run) else "") for run in runs
    )
    words = f"{session:%a %Y-%m-%d}{', a half day' if half_day else ''}: {due or 'no scan'}"
    skipped = f"; skipped: {few(run_id[-5:] for run_id in dropped)}" if dropped else ""
    return Finding("schedule", words + skipped, warning="HALF_DAY" if half_day else "")


def _moved(run: DueRun) -> bool:
    return f"{run.at.astimezone(NEW_YORK):%H:%M}" != run.label


# ---------------------------------------------------------------- servers
def answers(name: str, asked: Mapping[str, str | None], code: str, advice: str) -> Finding:
    """`asked`: server -> why it did not answer, None when it did. One that answers is enough; the others are told."""
    if not asked:
        return failed(name, "there is nobody to ask", code, advice, DataError)
    dead = [f"{server}: {why}" for server, why in asked.items() if why is not None]
    alive = [server for server, why in asked.items() if why is None]
    if not alive:
        return failed(name, "; ".join(dead), code, advice, DataError)
    words = f"{', '.join(alive)} answered" + (f"; not {'; '.join(dead)}" if dead else "")
    return Finding(name, words, warning="VENDOR_SILENT" if dead else "")


def language_model(key: bool, enabled: bool) -> Finding:
    """Optional: without it every decision is as with the language model off."""
    if not enabled:
        return Finding("anthropic", "off in the settings")
    if not key:
        return absent(
            "anthropic", "ANTHROPIC_API_KEY is not set; decided as with the language model off", "LLM_KEY_ABSENT"
        )
    return absent("anthropic", "key present; nothing was spent on asking", "LLM_NOT_ASKED")


# ---------------------------------------------------------------- data
def universe_read(universe: Universe) -> Finding:
    words = f"{len(universe.symbols)} names"
    if universe.warnings:
        return Finding("universe", f"{words}; {few(universe.warnings)}", warning="UNIVERSE_WARNED")
    return Finding("universe", words)


def universe_age(age_days: float, most_days: int) -> Finding:
    words = f"{age_days:.0f} days old, at most {most_days} expected"
    return Finding("universe_age", words, warning="UNIVERSE_OLD" if age_days > most_days else "")


def universe_change(now: Sequence[str], last: Sequence[str], most: float) -> Finding:
    if not last:
        return Finding("universe_change", "nothing to compare with: not used yet")
    came, went = sorted(set(now) - set(last)), sorted(set(last) - set(now))
    share = (len(came) + len(went)) / len(set(last))
    words = f"{len(came)} came, {len(went)} went since last time ({share:.1%}, at most {most:.0%})"
    if share > most:
        advice = "if that is wanted, delete state/universe_last.json and run again"
        return failed("universe_change", words, "UNIVERSE_CHANGED", advice)
    return Finding("universe_change", f"{words}: {few([*came, *went])}" if came or went else "the same names")


def one_share(closes: Mapping[str, float] | None, names: Sequence[str], most_usd: Decimal, most: float) -> Finding:
    """How many names one order cannot buy a single share of (B31): the gate refuses them, CAP_BELOW_ONE_SHARE."""
    if closes is None:
        return absent("one_share", "unknown: no prices of this universe are at hand", "PRICES_UNKNOWN")
    dear = sum(1 for name in names if closes.get(name, 0.0) > float(most_usd))
    unknown = sum(1 for name in names if name not in closes)
    share = dear / len(names) if names else 1.0
    words = f"{dear} of {len(names)} names cost more than one order of {most_usd} USD ({share:.0%}); {unknown} unknown"
    return Finding("one_share", words, warning="UNIVERSE_UNREACHABLE" if share > most else "")


def bars_fresh(have: int | None, of: int, session: date, floor: float, *, fetched: bool) -> Finding:
    """The last completed session, final, for enough names; never an age. Not fetched yet is no fault: the scan does."""
    words = f"session {session}: {have or 0} of {of} names, at least {floor:.0%}"
    if have is not None and have >= floor * of:
        return Finding("bars", words)
    if fetched:
        return failed(
            "bars", words, "DATA_STALE", "python scripts/preflight.py --data once the vendors answer", DataError
        )
    return Finding("bars", f"{words}; the first scan fetches, or preflight.py --data now", warning="DATA_NOT_FETCHED")


def vix_tier(level: float | None, halve_from: float, stop_above: float, *, fetched: bool) -> Finding:
    """An unknown VIX opens nothing, so that it is never taken for a calm one."""
    if level is None:
        if not fetched:
            return absent("vix", "not at hand yet; an unknown VIX opens nothing", "VIX_NOT_FETCHED")
        return failed(
            "vix", "unknown: nothing is opened", "VIX_UNKNOWN", "python scripts/preflight.py --data", DataError
        )
    if level > stop_above:
        return Finding("vix", f"{level:.2f}, above {stop_above:g}: nothing is opened", warning="VIX_STOP")
    if level >= halve_from:
        return Finding("vix", f"{level:.2f}, from {halve_from:g}: half size", warning="VIX_HALVES")
    return Finding("vix", f"{level:.2f}: full size")


def earnings_known(doubt: str, enabled: bool, refuses: bool) -> Finding:
    if not enabled:
        return Finding("earnings", "the filter is off", warning="EARNINGS_FILTER_OFF")
    if not doubt:
        return Finding("earnings", "announcement dates are known")
    if refuses:
        advice = "give dates with filters.earnings.path, or say on_unknown: warn"
        return failed("earnings", f"{doubt}: every entry would be refused", "EARNINGS_UNKNOWN", advice, DataError)
    return Finding("earnings", f"{doubt}: entries are made with a warning", warning="EARNINGS_UNKNOWN")


def vendor_record(rates: Mapping[str, float | None], least: float = 0.80) -> Finding:
    """Of all answers so far; the runbook calls below 80 % critical."""
    known = {name: rate for name, rate in rates.items() if rate is not None}
    if not known:
        return Finding("vendor_record", "no vendor was asked yet")
    words = ", ".join(f"{name} {rate:.0%}" for name, rate in sorted(known.items()))
    return Finding("vendor_record", words, warning="VENDOR_POOR" if min(known.values()) < least else "")


# ---------------------------------------------------------------- the mind
def ensemble(
    code: str, detail: str, *, enabled: bool, earned: float, points: float, least: float, days_left: int | None,
    live: bool,
) -> Finding:  # fmt: skip
    """code, detail : EnsemblePredictor. earned : part of the model's `points`. least : quality_gate.min_score."""
    if not enabled:
        return Finding("ensemble", "off in the settings", warning="MODEL_OFF")
    if code in ("MODEL_ABSENT", "MODEL_SHADOW", "MODEL_EXPIRED", "MODEL_AHEAD", "MODEL_SIMULATED"):
        return absent("ensemble", f"{detail}; a signal earns none of the model's {points:g} points", code)
    if code != "OK":
        advice = "python scripts/models.py list; then models.py rollback, or train_ensemble.py"
        return judged("ensemble", f"{detail}; no model is asked", code, advice, live=live)
    words = f"{detail}; it earns up to {earned * points:g} of {points:g} points"
    if least < _LEAST_WITH_MODEL:
        words = f"{words}; quality_gate.min_score is {least:g}, and {_LEAST_WITH_MODEL:g} is for trained models"
        return Finding("ensemble", words, warning="MIN_SCORE_WITHOUT_MODEL")
    if days_left is not None and days_left <= _MODEL_RUNS_OUT_DAYS:
        return Finding("ensemble", f"{words}; python scripts/train_ensemble.py", warning="MODEL_RUNS_OUT")
    return Finding("ensemble", words)


def breakers(locks: Sequence[Lock], *, enabled: bool) -> Finding:
    """`locks`: those that stand in this session, scope all first."""
    if not enabled:
        return Finding("breakers", "off in the settings", warning="BREAKERS_OFF")
    if not locks:
        return Finding("breakers", "none is tripped")
    first, more = locks[0], f"; and {len(locks) - 1} more" if len(locks) > 1 else ""
    words = f"{first.lock_id}: {first.reason}, {first.end}{more}"
    if first.scope == "all":
        advice = "look at it, then python scripts/breakers.py resume NAME --reason TEXT, or wait"
        return failed("breakers", words, first.code, advice)
    return Finding("breakers", words, warning="BREAKER_SCOPED")


def llm_budget(status: Mapping[str, Any], *, enabled: bool, model: str, priced: bool, prices_old: str) -> Finding:
    """`prices_old`: where an old price table comes from, empty for a fresh one.

    status : TokenBudget.get_status(). Without budget or price all is decided as with the language model off.
    """
    if not enabled:
        return Finding("llm_budget", "the language model is off")
    if status["used_today"] is None:
        words = "today's spend cannot be known: counted as all spent; python scripts/llm_budget.py status"
        return absent("llm_budget", words, str(status["code"]))
    usd = "" if status["max_daily_usd"] is None else f" and {status['max_daily_usd']:g} USD"
    words = (
        f"{status['used_today']} tokens and {status['cost_usd_today']:.2f} USD used today of "
        f"{status['max_daily_tokens']} tokens{usd}; {status['remaining_percent']:.1f} % left, {status['binding']} bind"
    )
    if not priced:
        return Finding("llm_budget", f"{model} has no price: it is not asked; {words}", warning="LLM_PRICE_UNKNOWN")
    if status["code"] != "OK":
        return Finding("llm_budget", words, warning=str(status["code"]))
    if status["warned"]:
        return Finding("llm_budget", words, warning=str(status["warned"][0]))
    if prices_old:
        words = f"prices are old ({prices_old}): look, then set as_of; {words}"
        return Finding("llm_budget", words, warning="LLM_PRICES_OLD")
    return Finding("llm_budget", words)


# ---------------------------------------------------------------- live only
def watchdog_on(enabled: bool) -> Finding:
    if enabled:
        return Finding("watchdog", "the runner starts one")
    return failed("watchdog", "watchdog.enabled is false", "WATCHDOG_OFF", "live wants watchdog.enabled: true")


def preflight_required(required: bool) -> Finding:
    if required:
        return Finding("preflight_required", "cognitive.preflight.required is true")
    advice = "live wants cognitive.preflight.required: true"
    return failed("preflight_required", "cognitive.preflight.required is false", "PREFLIGHT_NOT_REQUIRED", advice)


def ladder_rung(rung: str, trades_live: bool) -> Finding:
    if trades_live:
        return Finding("ladder", f"rung {rung}")
    advice = "python scripts/ladder.py status"
    return failed("ladder", f"rung {rung}: live begins at shadow", "LADDER_TOO_LOW", advice)
