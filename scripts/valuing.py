"""The shadow twin's facts: what was reviewed with and without the language model, what came of it, what the calls cost.

Which signals would have been picked without the model is worked out over the recorded inputs of the scan, with the
reviews of then as they were without it: in `totd` a veto lets the next signal in, and that is counted too. What became
of a decision says our own ledger where it was traded, else the backtest's engine over the bars of the scan's source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.bars_io import from_day, to_day
from core.domain import Purpose, Side, Symbol
from core.errors import DataError, KobeError
from execution.fold import Fold
from execution.observe.journal_look import profit_usd
from portfolio.backtest.costs import CostModel
from portfolio.backtest.shadow import Twin
from scripts import trading, wiring
from scripts.recomputing import Happened, Kept, read_day
from scripts.recording import inputs_folder

if TYPE_CHECKING:
    from core.journal import Record
    from core.panel import Panel
    from execution.ledger import Ledger, Trade

Row = Mapping[str, Any]
_ZERO = Decimal(0)
_MICRO = Decimal("0.000001")
LATEST = date(2200, 1, 1)


@dataclass(frozen=True, slots=True)
class Day:
    """The first reviewed scan of one session that the model was asked in."""

    day: date
    model: str  # as the table of cut-offs names it
    record: Record
    with_llm: Mapping[str, Decimal]  # picked: decision id -> part of the full size, VIX included
    without_llm: Mapping[str, Decimal]
    row: Row  # of logs/inputs


@dataclass
class Gathered:
    """`left_out`: reason code -> sessions."""

    days: list[Day] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


# ---------------------------------------------------------------- which sessions count
def gather(context: wiring.Context, records: Iterable[Record]) -> Gathered:
    """Sessions whose inputs are kept and that lie after the model's training cut-off; the others by their code."""
    out, seen, unasked = Gathered(), set[str](), set[str]()
    kept = Kept(inputs_folder(context.home.logs))
    for record in records:
        if record.kind != "signals_reviewed":
            continue
        day = str(record.body["run"])[:10]
        if day in seen:  # a later scan of the session looks at the same signals again
            continue
        found = _day(context, record, kept)
        if found == "LLM_NOT_ASKED":  # it may be asked at a later scan of that session
            unasked.add(day)
            continue
        seen.add(day)
        if isinstance(found, str):
            out.left_out[found] += 1
        else:
            out.days.append(found)
    if unasked - seen:
        out.left_out["LLM_NOT_ASKED"] = len(unasked - seen)
    return out


def _day(context: wiring.Context, record: Record, kept: Kept) -> Day | str:
    """The session, or why it is in no sum."""
    model = _model_of(record)
    if model is None:
        return "LLM_NOT_ASKED"
    day = date.fromisoformat(str(record.body["run"])[:10])
    name, cutoff = cutoff_of(context, model)
    if cutoff is None:
        return "CUTOFF_UNKNOWN"
    if day <= cutoff:
        return "BEFORE_CUTOFF"
    rows = read_day(context.home.logs, day).rows
    row = next((r for r in rows if r["kind"] == "scan" and r["run"] == record.body["run"]), None)
    if row is None:
        return "INPUTS_NOT_KEPT"
    try:
        without = _picked_without(context, record, row, kept)
    except (KobeError, KeyError, TypeError, ValueError) as error:
        return error.code if isinstance(error, KobeError) else "INPUTS_DAMAGED"
    chosen = {str(pick["decision_id"]): Decimal(str(pick["scale"])) for pick in row["picks"]}
    return Day(day, name, record, chosen, without, row)


def _model_of(record: Record) -> str | None:
    """Of the advice that the reviews were made with; None when there was none."""
    for row in record.body["signals"]:
        said = row.get("llm") or {}
        if said.get("code") == "OK" and said.get("model"):
            return str(said["model"])
    return None


def cutoff_of(context: wiring.Context, model: str) -> tuple[str, date | None]:
    """The model's name in the table of prices, and the end of its training data; None: not known."""
    from llm.prices import PriceTable

    settings = context.settings.cognitive.llm_analyzer
    name = PriceTable(settings.prices).model_of(model) or model
    return name, next((row.trained_until for row in settings.cutoffs if row.model == name), None)


def _picked_without(context: wiring.Context, record: Record, row: Row, kept: Kept) -> dict[str, Decimal]:
    """The picks of that scan, had the reviews been those without the model."""
    from scripts.redeciding import Again

    reviews = {
        str(one["decision_id"]): [str(one["without_llm"]["scale"]), list(one["without_llm"]["codes"]), None, None]
        for one in record.body["signals"]
    }
    result = Again(context, Happened((), ())).scan({**row, "reviews": reviews}, kept.inputs(row))
    return {pick.signal.decision_id: pick.scale for pick in result.picks}


# ---------------------------------------------------------------- what became of them
def twins(context: wiring.Context, gathered: Gathered, ledger: Ledger) -> list[Twin]:
    """One per decision that either of the two took."""
    engine = Engine(context, gathered.days)
    found = []
    for day in gathered.days:
        for decision_id in sorted({*day.with_llm, *day.without_llm}):
            parts = (day.with_llm.get(decision_id, _ZERO), day.without_llm.get(decision_id, _ZERO))
            found.append(_twin(context, day, decision_id, parts, ledger, engine))
    return found


def _twin(
    context: wiring.Context, day: Day, decision_id: str, parts: tuple[Decimal, Decimal], ledger: Ledger, engine: Engine
) -> Twin:
    on, off = parts
    trade = ledger.trades.get(decision_id)
    shared: Any = {"decision_id": decision_id, "day": day.day, "part_on": on, "part_off": off}
    if trade is not None:
        return _traded(context, shared, trade, ledger)
    sent = any(ledger.attempts(decision_id, Side.BUY, Purpose.ENTRY))
    if sent or on == off:  # its limit did not fill, or nothing was to be seen by either: both got nothing
        return Twin(**shared, shares_on=0, shares_off=0, code="OK")
    found = engine.result(day, decision_id)
    if isinstance(found, str):
        code = "OK" if found == "NEVER_ENTERED" else found
        return Twin(**shared, shares_on=0, shares_off=0, code=code)
    shares, _ = trading.sizer_of(context.settings)(found.entry_usd, found.stop_usd, _room(context), off)
    return Twin(
        **shared, shares_on=0, shares_off=shares, entry_usd=found.entry_usd, result_usd=found.result_usd, r=found.r,
        source="engine",
    )  # fmt: skip


def _traded(context: wiring.Context, shared: Mapping[str, Any], trade: Trade, ledger: Ledger) -> Twin:
    """Both along our own fills; the twin in the shares that its part of the size would have bought."""
    usd, shares = profit_usd(trade), trade.entry_quantity
    on, off = shared["part_on"], shared["part_off"]
    code = "STILL_OPEN" if trade.is_open else "OUTCOME_UNKNOWN" if usd is None else "OK"
    twin_shares = shares if on == off else 0
    if off > on:
        orders = list(ledger.attempts(trade.decision_id, Side.BUY, Purpose.ENTRY))
        limit = next((o.intent.limit_price for o in reversed(orders) if o.intent.limit_price), trade.entry_price)
        stop = trade.stop if trade.stop is not None else _ZERO
        sized, _ = trading.sizer_of(context.settings)(limit, stop, _room(context), off)
        twin_shares = max(shares, sized)
    if usd is None or trade.is_open:
        return Twin(**shared, shares_on=shares, shares_off=twin_shares, code=code)
    each = usd / shares - _fees_usd(context, trade) / shares
    risk = None if trade.stop is None else trade.entry_price - trade.stop
    return Twin(
        **shared, shares_on=shares, shares_off=twin_shares, entry_usd=trade.entry_price, result_usd=each,
        r=float(each / risk) if risk is not None and risk > 0 else None, source="ledger",
    )  # fmt: skip


def _fees_usd(context: wiring.Context, trade: Trade) -> Decimal:
    """Of its sales, by the tables of the settings."""
    model = CostModel.from_settings(context.settings.costs)
    total = _ZERO
    for fill in trade.exits:
        if fill.price is not None:
            value, count = np.array([float(fill.price * fill.quantity)]), np.array([float(fill.quantity)])
            fee = model.sale_fees(value, count, np.array([to_day(fill.at.date())]))[0]
            total += Decimal(repr(float(fee))).quantize(_MICRO)
    return total


def _room(context: wiring.Context) -> Decimal:
    return context.settings.risk.policy_gate.daily_budget_usd


# ---------------------------------------------------------------- the engine's word
@dataclass(frozen=True, slots=True)
class Followed:
    """One signal followed to its end, per share, after the costs of the settings."""

    entry_usd: Decimal
    stop_usd: Decimal
    result_usd: Decimal
    r: float | None


class Engine:
    """Signals followed over the bars of the source that their scan used; each source is read once."""

    def __init__(self, context: wiring.Context, days: Sequence[Day]) -> None:
        self._context = context
        self._wanted: dict[tuple[str, str], set[Symbol]] = {}
        for day in days:
            names = {_symbol_of(d) for d in (*day.with_llm, *day.without_llm)}
            self._wanted.setdefault(_source(day.row), set()).update(names)
        self._ends: dict[tuple[str, str], Mapping[str, Followed | str] | str] = {}

    def result(self, day: Day, decision_id: str) -> Followed | str:
        """The result, or why there is none: NEVER_ENTERED, STILL_OPEN, SIGNAL_GONE (other bars today), NO_BARS."""
        source = _source(day.row)
        if source not in self._ends:
            self._ends[source] = self._followed(source)
        ends = self._ends[source]
        return ends if isinstance(ends, str) else ends.get(decision_id, "SIGNAL_GONE")

    def _followed(self, source: tuple[str, str]) -> Mapping[str, Followed | str] | str:
        from portfolio.backtest.engine import followed
        from portfolio.strategies import setups_between
        from portfolio.strategies.indicators import prepare

        try:
            panel = self._panel(source)
        except (KobeError, OSError) as error:
            return error.code if isinstance(error, KobeError) else "BARS_UNREADABLE"
        if not panel.symbols:
            return "NO_BARS"
        params = self._context.params
        prepared = prepare(panel, params.common)
        setups = setups_between(prepared, params, date(1900, 1, 1), LATEST, numbers=False)
        costs = CostModel.from_settings(self._context.settings.costs)
        ends: dict[str, Followed | str] = {}
        for setup in setups:
            for row, column in zip(setup.points.rows.tolist(), setup.points.columns.tolist(), strict=True):
                index = int(panel.session_index[row, column])
                name = _decision(from_day(int(panel.sessions[index])), setup.strategy, panel.symbols[column])
                ends[name] = "STILL_OPEN" if index == panel.sessions.size - 1 else "NEVER_ENTERED"
        return ends | dict(_ends(followed(prepared, params, setups).every(), panel, costs))

    def _panel(self, source: tuple[str, str]) -> Panel:
        name, path = source
        wanted = sorted(self._wanted[source])
        if path:
            from core.bars_io import read_bars
            from core.panel import Panel
            from data.quality import clean_all

            bars = read_bars(Path(path), set(wanted))
            last = self._context.calendar.last_completed(self._context.clock.now())
            return Panel.from_bars(clean_all(bars, self._context.calendar, last)[0])
        store = wiring.store_for(self._context, name)
        if not store.exists():
            raise DataError(f"{name}: its bars are not in the cache any more", code="NO_BARS")
        return store.load_panel(wanted, LATEST)


def _ends(trades: Any, panel: Panel, costs: CostModel) -> Iterator[tuple[str, Followed | str]]:
    from portfolio.facts import dollar_volumes

    volume = dollar_volumes(panel, trades.signal, trades.column)
    for k in range(len(trades)):
        one = trades.trade(k)
        name = _decision(one.signal_date, one.strategy, one.symbol)
        if one.exit_price is None or one.exit_date is None:
            yield name, "STILL_OPEN"
            continue
        entry, exit_ = np.array([one.entry_price]), np.array([one.exit_price])
        side = costs.side(np.array([one.entry_price, one.exit_price]), np.array([volume[k], volume[k]]))
        fees = costs.sale_fees(exit_, np.ones(1), np.array([to_day(one.exit_date)]))[0]
        result = float(exit_[0] - entry[0] - side[0] * entry[0] - side[1] * exit_[0] - fees)
        yield name, Followed(
            Decimal(repr(one.entry_price)), Decimal(repr(one.stop)), Decimal(repr(result)).quantize(_MICRO),
            result / (one.entry_price - one.stop) if one.entry_price > one.stop else None,
        )  # fmt: skip


def _decision(session: date, strategy: str, symbol: str) -> str:
    """As core.domain.Signal.decision_id."""
    return f"{session:%Y%m%d}-{strategy}-{symbol}"


def _source(row: Row) -> tuple[str, str]:
    return str(row["source"]), str(row.get("bars_path") or "")


def _symbol_of(decision_id: str) -> Symbol:
    return Symbol(decision_id.split("-", 2)[2])


# ---------------------------------------------------------------- what the calls cost
@dataclass(frozen=True, slots=True)
class Costs:
    """USD by New York day. A call whose end nobody knows counts as it was reserved."""

    advice: Mapping[date, Decimal]
    briefings: Mapping[date, Decimal]


def requests_of(records: Iterable[Record]) -> dict[str, date]:
    """Hash of the request -> the session whose review it was first made for: a replay is paid on another day."""
    found: dict[str, date] = {}
    for record in records:
        for row in record.body["signals"]:
            request = (row.get("llm") or {}).get("request_sha256")
            if request:
                found.setdefault(str(request), date.fromisoformat(str(record.body["run"])[:10]))
    return found


def costs(lines: Iterable[Mapping[str, Any]], requests: Mapping[str, date]) -> Costs:
    """From the lines of the budget's audit. Raises KeyError or ValueError for a line that is none."""
    purposes: dict[str, str] = {}
    days: dict[str, date] = {}
    spent: dict[str, tuple[date, Decimal]] = {}
    for line in lines:
        if line["kind"] not in ("reserved", "settled"):
            continue
        name = str(line["id"])
        if line["kind"] == "reserved":
            purposes[name] = str(line.get("purpose", ""))
            days[name] = requests.get(str(line.get("request_sha256")), date.fromisoformat(str(line["day"])))
        day = days.get(name) or date.fromisoformat(str(line["day"]))
        spent[name] = (day, Decimal(str(line["usd"])))
    found: dict[bool, dict[date, Decimal]] = {True: {}, False: {}}
    for name, (day, usd) in spent.items():
        sums = found[purposes.get(name) == "briefing"]
        sums[day] = sums.get(day, _ZERO) + usd
    return Costs(advice=found[False], briefings=found[True])


def folded(records: Iterable[Record]) -> tuple[Ledger, list[Record]]:
    """The ledger, and the records of reviews."""
    fold, reviewed = Fold(), []
    for record in records:
        fold.add(record)
        if record.kind == "signals_reviewed":
            reviewed.append(record)
    return fold.ledger(), reviewed
