"""The decisions of a recorded day as names and texts: as they were recorded, and worked out again over given inputs.

Names begin with the scan's time: `09:35 verdict PEP`, `09:35 take ID` (is the pick entered at all), `09:35 order ID`,
`09:35 due ID` (must it leave), `09:35 leave ID`, `protect ID 1`. What comes twice in a day, because a scan was made
again, gets `~2`. The same functions decide here that decide the live day.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from core.domain import Breach, Mode, OrderIntent, Purpose, Quote, Signal, Symbol, Tif
from data.universe import Universe
from execution.desk import with_ledger
from execution.entry import (
    ENTERED,
    WHOLE_REFUSED,
    Declined,
    Priced,
    entry_intent,
    not_eligible,
    priced_entry,
    whole_refused,
)
from execution.ladder import LadderHistory, Rung
from execution.ledger import intent_from, new_york_day
from execution.protection import exit_price, protection_for
from execution.recorded import book_from, quote_from
from execution.scheduler import DueRun
from portfolio.scan import ScanResult, run_scan
from risk.gate import Limits, Refused, decide
from scripts import trading, wiring
from scripts.recording import picks_value, reviewer_of, scorer_of, verdicts_value

if TYPE_CHECKING:
    from config.settings_schema import Settings
    from core.journal import Record
    from execution.ledger import Ledger
    from scripts.recomputing import Happened, Inputs, Row

InputsOf = Callable[["Row"], "Inputs"]
NO = "no"
_OPEN_END = 2**62


@dataclass(slots=True)
class Decisions:
    """Names and texts in the order of the day."""

    texts: dict[str, str] = field(default_factory=dict)
    _seen: Counter[str] = field(default_factory=Counter)

    def put(self, name: str, text: str) -> None:
        self._seen[name] += 1
        self.texts[name if self._seen[name] == 1 else f"{name}~{self._seen[name]}"] = text


def symbol_of(name: str) -> str | None:
    """`09:35 order 20220831-ibs_rsi-PEP` -> PEP."""
    word = name.split("~")[0].split(" ")[-1]
    return word.rsplit("-", 1)[-1] or None


# ---------------------------------------------------------------- as recorded
def recorded_decisions(rows: Sequence[Row], happened: Happened, blob: Callable[[str], Any]) -> dict[str, str]:
    """What the rows and the journal say was decided. Raises DataError for a blob that is not there."""
    out = Decisions()
    for k, row in enumerate(rows):
        until = _until(rows, k, happened)
        if row["kind"] == "scan":
            for verdict in verdict_texts(blob(row["verdicts"]), row["picks"]):
                out.put(f"{row['label']} verdict {verdict[0]}", verdict[1])
            for pick in row["picks"]:
                out.put(f"{row['label']} take {pick['decision_id']}", _taken(rows, k, pick["decision_id"], happened))
        elif row["kind"] == "quote":
            out.put(f"{_label(row)} order {row['decision_id']}", _sent(row, until, happened, Purpose.ENTRY))
        elif row["kind"] == "leave":
            out.put(f"{_label(row)} leave {row['decision_id']}", _sent(row, until, happened, Purpose.EXIT))
        elif row["kind"] == "exits":
            due = dict(row["due"])
            for trade in happened.ledger(row["seq"]).open_trades():
                if trade.time_stop_bars is not None:
                    out.put(f"{row['label']} due {trade.decision_id}", due.get(trade.decision_id, "stays"))
    return out.texts


def recorded_protections(records: Sequence[Record]) -> dict[str, str]:
    out = Decisions()
    for record in records:
        intent = intent_from(record.body)
        out.put(f"protect-{intent.attempt} {intent.decision_id}", intent_text(intent))
    return out.texts


def verdict_texts(verdicts: Sequence[Mapping[str, Any]], picks: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(symbol, text). A refusal is its code, rule and strategy; a pick everything that an order is made of."""
    texts: dict[str, list[str]] = {}
    for pick in picks:
        words = [pick["strategy"], f"score {pick['score']!r}", f"close {pick['close']!r}", f"stop {pick['stop']!r}"]
        words += [f"scale {pick['scale']}", f"target_r {pick['target_r']!r}", f"bars {pick['time_stop_bars']}"]
        texts.setdefault(str(pick["symbol"]), []).append(" ".join(words))
    out = []
    for verdict in verdicts:
        symbol = str(verdict["symbol"])
        if symbol in texts:
            out.append((symbol, "PICKED " + " and ".join(texts[symbol])))
        else:
            rule = "" if verdict["rule"] == verdict["code"] else f" {verdict['rule']}"
            out.append((symbol, f"{verdict['code']}{rule} {verdict['strategy'] or ''}".rstrip()))
    return out


def intent_text(intent: OrderIntent) -> str:
    """Everything that goes to the wire and to protection; not the instant."""
    prices = "".join(
        f" {name} {value}" for name, value in (("limit", intent.limit_price), ("stop", intent.stop_price)) if value
    )
    more = f" target_r {intent.target_r!r} bars {intent.time_stop_bars}" if intent.purpose is Purpose.ENTRY else ""
    return f"{intent.client_order_id}: {intent.side} {intent.quantity} {intent.kind} {intent.tif}{prices}{more}"


def _label(row: Row) -> str:
    return str(row["run"]).split("T", 1)[-1]


def _until(rows: Sequence[Row], k: int, happened: Happened) -> int:
    """The first record that belongs to the next row of the same kind and decision, or to the end of this scan."""
    row = rows[k]
    same = (r["seq"] for r in rows[k + 1 :] if r["kind"] == row["kind"] and _of(r) == _of(row))
    return min(next(same, _OPEN_END), happened.end_of(str(row["run"]), int(row["seq"]))) + 1


def _of(row: Row) -> Any:
    return row.get("decision_id")


def _taken(rows: Sequence[Row], k: int, decision_id: str, happened: Happened) -> str:
    """`yes`: it came as far as a quote. A code: journalled as refused before that. `no`: nothing was done."""
    scan = rows[k]
    for row in rows[k + 1 :]:
        if row["kind"] == "scan":
            break
        if row["kind"] == "quote" and row["decision_id"] == decision_id:
            return "yes"
    until = happened.end_of(str(scan["run"]), int(scan["seq"])) + 1
    refused = [r for r in happened.of(decision_id, int(scan["seq"]), until) if r.kind == "pick_refused"]
    return str(refused[0].body["code"]) if refused else NO


def _sent(row: Row, until: int, happened: Happened, purpose: Purpose) -> str:
    for record in happened.of(row["decision_id"], int(row["seq"]), until):
        if record.kind == "order_intended" and record.body["purpose"] == purpose:
            return intent_text(intent_from(record.body))
        if record.kind == "order_refused" and f"-{purpose}-" in str(record.body["client_order_id"]):
            return f"refused {','.join(record.body['codes'])}"
        if record.kind == "pick_refused":
            return f"declined {record.body['code']}"
        if record.kind == "order_filled" and purpose is Purpose.EXIT:
            return "out already"
    return "nothing sent"


# ---------------------------------------------------------------- again
class Again:
    """Works decisions out over inputs. `context` lends its calendar, clock and home; nothing of it is a decision."""

    def __init__(self, context: wiring.Context, happened: Happened) -> None:
        self._context, self._happened = context, happened
        self.intents: dict[str, OrderIntent] = {}  # of the newest working out, by client order id

    def decisions(self, rows: Sequence[Row], inputs_of: InputsOf) -> dict[str, str]:
        """Raises DataError when the inputs of a row are not there."""
        out = Decisions()
        scan: Row | None = None
        result: ScanResult | None = None
        for k, row in enumerate(rows):
            if row["kind"] == "gate":  # it belongs to the quote before it
                continue
            inputs = inputs_of(scan if row["kind"] == "quote" and scan is not None else row)
            if row["kind"] == "scan":
                scan, result = row, self.scan(row, inputs)
                picks = picks_value(result)
                for symbol, text in verdict_texts(verdicts_value(result), picks):
                    out.put(f"{row['label']} verdict {symbol}", text)
                for pick in result.picks:
                    text = self._take(rows, k, pick.signal, inputs.settings)
                    out.put(f"{row['label']} take {pick.signal.decision_id}", text)
            elif row["kind"] == "quote":
                out.put(f"{_label(row)} order {row['decision_id']}", self._order(rows, k, result, inputs))
            elif row["kind"] == "leave":
                out.put(f"{_label(row)} leave {row['decision_id']}", self._leave(rows, k, inputs.settings))
            elif row["kind"] == "exits":
                self._due(row, inputs, out)
        return out.texts

    def scan(self, row: Row, inputs: Inputs) -> ScanResult:
        return run_scan(
            panel=inputs.panel, session=date.fromisoformat(row["session"]), as_of=_instant(row["as_of"]),
            symbols=inputs.symbols, sectors=inputs.sectors, vix=inputs.vix, earnings=inputs,
            scorer=scorer_of(row), reviewer=reviewer_of(row),
            settings=inputs.settings, params=inputs.params, mode=Mode(row["mode"]), top3=False,
            data_source=row["source"], simulated=row["simulated"], snapshot_sha256=row["snapshot_sha256"],
            quarantined=inputs.quarantined, held={Symbol(s): Decimal(usd) for s, usd in row["held"].items()},
            taken=row["taken"], calendar=self._context.calendar,
        )  # fmt: skip

    # ------------------------------------------------------------ entries
    def _take(self, rows: Sequence[Row], k: int, signal: Signal, settings: Settings) -> str:
        row, calendar = rows[k], self._context.calendar
        if settings.execution.entry_scans == "first" and not row["first"]:
            return NO
        if calendar.next_session(signal.session) != date.fromisoformat(str(row["run"])[:10]):
            return NO
        ledger = self._happened.ledger(self._asked_at(rows, k))
        no = not_eligible(signal, ledger, settings.execution.max_attempts, calendar.closes_at(signal.session))
        return "yes" if no is None else NO if no.code == ENTERED else no.code

    def _asked_at(self, rows: Sequence[Row], k: int) -> int:
        """Picks are looked through once, after the exits of the scan and before the first quote."""
        for row in rows[k + 1 :]:
            if row["kind"] == "scan":
                break
            if row["kind"] == "quote":
                return int(row["seq"])
        return int(rows[k]["seq"])

    def _order(self, rows: Sequence[Row], k: int, result: ScanResult | None, inputs: Inputs) -> str:
        row, settings = rows[k], inputs.settings
        pick = None if result is None else _pick(result, row["decision_id"])
        if pick is None:
            return "not picked"
        ledger, now = self._happened.ledger(row["seq"]), _instant(row["at"])
        limits = Limits.from_settings(settings)
        room = limits.daily_budget_usd - ledger.spent_usd(new_york_day(now)) - Decimal(row.get("kept_usd", "0"))
        quote, sizer = quote_from(row["quote"]), trading.sizer_of(settings, most_shares=self._most_shares(row))
        run, ticks = settings.execution, limits.ticks
        found = priced_entry(pick.signal, pick.scale, quote, room, run, ticks, now.date(), sizer)
        if isinstance(found, Declined):
            return f"declined {found.code}"
        whole = None
        if pick.full is not None:
            whole = priced_entry(pick.signal, pick.full, quote, room, run, ticks, now.date(), sizer)
        return self._gated(rows, k, pick.signal, (found, whole), inputs, limits)

    def _most_shares(self, row: Row) -> int | None:
        """What the rung allowed of one entry. Where that was not kept yet, the ladder's steps in the journal say it."""
        if "most_shares" in row:
            return None if row["most_shares"] is None else int(row["most_shares"])
        ladder = LadderHistory()
        for record in self._happened.records:
            if record.seq <= int(row["seq"]):
                ladder.add(record.seq, record.kind, record.body)
        return 1 if ladder.rung is Rung.ONE_SHARE else None

    def _gated(
        self, rows: Sequence[Row], k: int, signal: Signal, sized: tuple[Priced, Priced | Declined | None],
        inputs: Inputs, limits: Limits,
    ) -> str:  # fmt: skip
        priced, whole = sized
        gate = next((r for r in rows[k + 1 : k + 2] if r["kind"] == "gate" and _of(r) == _of(rows[k])), None)
        if gate is None:
            return f"{priced.quantity} at {priced.limit}; what the gate saw was not kept"
        ledger, at = self._happened.ledger(gate["seq"]), _instant(gate["decided_at"])
        intent = entry_intent(signal, priced, ledger, at, _tif(inputs.settings))
        returns = trading.returns_of(inputs.panel, signal.session)
        book = book_from(gate["book"], vix=inputs.vix, returns=returns, sectors=inputs.sectors)
        if whole_refused(intent, whole, with_ledger(book, ledger, intent, at), limits):
            return f"declined {WHOLE_REFUSED}"
        decision = decide(intent, with_ledger(book, self._before_sent(gate, ledger), intent, at), limits)
        return f"refused {','.join(decision.codes)}" if isinstance(decision, Refused) else self._text(intent)

    def _before_sent(self, gate: Row, ledger: Ledger) -> Ledger:
        """Under the desk's lock the ledger is read once more: another command may have written meanwhile."""
        for record in self._happened.of(gate["decision_id"], int(gate["seq"]), _OPEN_END):
            if record.kind in ("order_intended", "order_refused"):
                return self._happened.ledger(record.seq - 1)
        return ledger

    # ------------------------------------------------------------ exits
    def _due(self, row: Row, inputs: Inputs, out: Decisions) -> None:
        ledger = self._happened.ledger(row["seq"])
        context = dataclasses.replace(self._context, settings=inputs.settings, params=inputs.params)
        planner = trading.ScanPlanner(context, Universe(inputs.symbols, inputs.sectors, "", ()))
        session = date.fromisoformat(str(row["run"])[:10])
        run = DueRun(session, row["label"], _instant(row["at"]), first=row["first"], last=row["last"])
        data = None
        if row["snapshot_sha256"] is not None:
            data = wiring.MarketData(
                inputs.panel, date.fromisoformat(row["session"]), row["source"], False, row["snapshot_sha256"], None, {}
            )
        due = dict(planner.due(ledger, run, data, assume_traded=row["assume_traded"]))
        for trade in ledger.open_trades():
            if trade.time_stop_bars is not None:
                out.put(f"{row['label']} due {trade.decision_id}", str(due.get(trade.decision_id, "stays")))

    def _leave(self, rows: Sequence[Row], k: int, settings: Settings) -> str:
        row, run = rows[k], settings.execution
        price = self._exit_price(row, quote_from(row["quote"]), settings)
        if isinstance(price, Breach):
            return "nothing sent"
        until = _until(rows, k, self._happened)
        for record in self._happened.of(row["decision_id"], int(row["seq"]), until):
            if record.kind == "order_intended" and record.body["purpose"] == Purpose.EXIT:
                trade = self._happened.ledger(record.seq - 1).trades[row["decision_id"]]
                was = intent_from(record.body)
                again = dataclasses.replace(
                    was, quantity=trade.quantity, limit_price=price, tif=Tif.IOC if run.time_in_force == "ioc" else
                    Tif.DAY, reason=row["reason"], symbol=trade.symbol,
                )  # fmt: skip
                return self._text(again)
            if record.kind == "order_filled":
                return "out already"
        return f"sell at {price}"

    def _exit_price(self, row: Row, quote: Quote | None, settings: Settings) -> Decimal | Breach:
        now, run = _instant(row["at"]), settings.execution
        ticks = Limits.from_settings(settings).ticks
        return exit_price(
            quote, now, ticks, now.date(), offset_bps=run.exit_offset_bps, max_clamp_bps=run.exit_clamp_bps,
            max_age_s=float(run.quote_max_age_s),
        )  # fmt: skip

    # ------------------------------------------------------------ protection
    def protections(self, records: Sequence[Record], settings: Settings) -> dict[str, str]:
        out = Decisions()
        ticks = Limits.from_settings(settings).ticks
        for record in records:
            was = intent_from(record.body)
            ledger = self._happened.ledger(record.seq - 1)
            trade = ledger.trades.get(was.decision_id)
            again = None
            if trade is not None:
                on = new_york_day(was.decided_at)
                again = protection_for(trade, ledger, ticks=ticks, on=on, now=was.decided_at, most=was.quantity)
            text = "none" if again is None else self._text(again)
            out.put(f"protect-{was.attempt} {was.decision_id}", text)
        return out.texts

    def _text(self, intent: OrderIntent) -> str:
        self.intents[intent.client_order_id] = intent
        return intent_text(intent)


def _pick(result: ScanResult, decision_id: str) -> Any:
    return next((pick for pick in result.picks if pick.signal.decision_id == decision_id), None)


def _tif(settings: Settings) -> Tif:
    return Tif.IOC if settings.execution.time_in_force == "ioc" else Tif.DAY


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
