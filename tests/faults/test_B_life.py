"""The life of an order after it was accepted, and the account around it: fills early, late, twice, or taken back."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from core import logs
from core.clock import SteppedClock
from core.domain import ExitReason, Fill, Order, OrderIntent, OrderKind, Purpose, Side, Symbol, Tif
from core.errors import BrokerDown, ConfigError
from execution.clamp import entry_limit, exit_limit
from execution.desk import Acknowledged
from execution.order_states import BY_STATUS, OrderState, classify, is_terminal
from execution.recovery import DISAGREE, by_order
from portfolio.sizing import shares
from risk.gate import Refused
from tests.fakes.scans import decision, hold, scene
from tests.fakes.scans import due as due_run
from tests.fakes.trading import AAA, NOW, TICKS, TODAY, World, book, entry, quote, sell, world

CID = entry().client_order_id
BUDGET = Decimal(1000)


def told(name: str) -> int:
    return sum(n for (metric, _), n in logs.counters().items() if metric == name)


def filled_entry(w: World, quantity: int = 1) -> None:
    w.desk.execute(entry(quantity=quantity, price="50.10" if quantity == 1 else "20.10", stop="15.00"),
                   book(quote=quote(bid="19.99", ask="20.00", last="20.00") if quantity > 1 else quote()))  # fmt: skip


# ---------------------------------------------------------------- partial, none, late
def partly(w: World, filled: int, wanted: int = 3) -> None:
    w.broker.plan[CID], w.broker.bid, w.broker.ask = filled, Decimal("19.99"), Decimal("20.00")
    filled_entry(w, wanted)


def test_B16_a_partial_fill_books_what_filled_and_frees_the_rest(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 2)
    ledger = w.desk.ledger()
    order = ledger.orders[CID]
    assert (order.end, order.filled_quantity, order.status) == ("closed", 2, "canceled")
    assert ledger.spent_usd(TODAY) == Decimal("40.00") and ledger.trades[order.intent.decision_id].quantity == 2


def test_B17_an_ioc_without_a_fill_releases_everything_and_counts_the_attempt(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 0)
    ledger = w.desk.ledger()
    assert not ledger.positions and ledger.spent_usd(TODAY) == 0 and not ledger.trades
    assert ledger.next_attempt(entry().decision_id, Side.BUY, Purpose.ENTRY) == 2


def test_B18_a_fill_told_after_the_cancel_wins_and_is_marked_late(tmp_path: Path) -> None:
    w, before = world(tmp_path), told("order_anomaly")
    partly(w, 1)
    w.broker.fill(CID, 2)
    w.broker.orders[CID] = replace(w.broker.orders[CID], status="canceled")
    w.desk.settle()
    ledger = w.desk.ledger()
    assert ledger.positions == {AAA: 3} and ledger.spent_usd(TODAY) == Decimal("60.00")
    assert ledger.orders[CID].anomaly == "LATE_FILL" and told("order_anomaly") == before + 1
    assert [r.body["late"] for r in w.journal.kinds("order_filled")] == [False, True]
    w.desk.settle()
    assert len(list(w.journal.kinds("order_anomaly"))) == 1, "told once"


def hidden_fill(w: World, quantity: int) -> None:
    """The order's own copy stays `canceled` and short; activities and position tell the fill."""
    copy: Order = w.broker.orders[CID]
    w.broker.fill(CID, quantity)
    w.broker.orders[CID] = copy


def test_B19_cancelled_and_filled_is_booked_from_the_activities_and_locked_until_all_agree(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 1)
    hidden_fill(w, 1)
    w.desk.settle()
    ledger = w.desk.ledger()
    assert ledger.positions == {AAA: 2} == w.broker.held and ledger.locked == {AAA: DISAGREE}
    assert ledger.spent_usd(TODAY) == Decimal("40.00")
    again = w.desk.send(entry(attempt=2), book())
    assert isinstance(again, Refused) and "SYMBOL_LOCKED" in again.codes
    w.desk.settle()
    assert w.desk.ledger().locked == {AAA: DISAGREE}, "the order's copy still says one share"
    w.broker.orders[CID] = replace(w.broker.orders[CID], filled_quantity=2)
    w.desk.settle()
    assert not w.desk.ledger().locked and w.desk.ledger().positions == {AAA: 2}


def test_B19_what_is_locked_so_may_still_leave(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 1)
    hidden_fill(w, 1)
    w.desk.settle()
    outcome = w.desk.send(replace(sell(quantity=2), limit_price=Decimal("19.90")), book())
    assert isinstance(outcome, Acknowledged)


def test_B20_the_same_execution_told_twice_is_one(tmp_path: Path) -> None:
    w = world(tmp_path)
    partly(w, 1)
    hidden_fill(w, 1)
    w.broker.activities += w.broker.activities
    w.desk.settle()
    w.desk.settle()
    assert w.desk.ledger().positions == {AAA: 2}
    one = Fill(id="f", order_id="o", symbol=AAA, side=Side.BUY, quantity=1, price=Decimal(1), at=NOW)
    assert by_order([one, one, replace(one, id="g")]) == {"o": (one, replace(one, id="g"))}


def test_B21_a_count_that_goes_down_keeps_the_larger_and_is_told_once(tmp_path: Path) -> None:
    w, before = world(tmp_path), told("order_anomaly")
    w.broker.bid, w.broker.ask = Decimal("19.99"), Decimal("20.00")
    intent = replace(entry(quantity=3, price="20.10", stop="15.00"), tif=Tif.GTC)
    w.broker.plan[CID] = 2
    w.desk.send(intent, book(quote=quote(bid="19.99", ask="20.00", last="20.00")))
    w.desk.poll(CID, wait_s=0.0)
    w.broker.orders[CID] = replace(w.broker.orders[CID], filled_quantity=1)
    for _ in range(3):
        w.desk.poll(CID, wait_s=0.0)
    order = w.desk.ledger().orders[CID]
    assert (order.filled_quantity, order.anomaly) == (2, "FILL_WENT_DOWN")
    assert w.desk.ledger().positions == {AAA: 2} and told("order_anomaly") == before + 1


# ---------------------------------------------------------------- states
RARE = ("held", "suspended", "stopped", "calculated", "done_for_day", "accepted_for_bidding", "pending_replace",
        "pending_cancel", "pending_new", "accepted", "pending_review")  # fmt: skip


@pytest.mark.parametrize("status", RARE)
def test_B22_rare_states_are_open_and_keep_the_reservation(tmp_path: Path, status: str) -> None:
    w = world(tmp_path)
    w.broker.plan[CID] = 0
    w.desk.send(replace(entry(), tif=Tif.GTC), book())
    w.broker.orders[CID] = replace(w.broker.orders[CID], status=status)
    order = w.desk.poll(CID, wait_s=0.0)
    assert order.working and not order.unsettled
    assert w.desk.ledger().spent_usd(TODAY) == entry().notional_usd
    again = w.desk.send(entry("BBB", price="70.00"), book("BBB", spent_today_usd=Decimal("940.00")))
    assert isinstance(again, Refused) and "DAILY_BUDGET" in again.codes


def test_B22_a_replaced_order_is_over_and_the_new_one_is_not_ours(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.plan[CID] = 0
    w.desk.send(replace(entry(), tif=Tif.GTC), book())
    w.broker.orders[CID] = replace(w.broker.orders[CID], status="replaced")
    assert w.desk.poll(CID, wait_s=0.0).status == "replaced"


def test_B22_every_status_of_the_published_api_has_its_state() -> None:
    spec = Path(__file__).resolve().parents[3] / "shared" / "api" / "specs" / "alpaca-trading.yaml"
    if not spec.is_file():
        pytest.skip("the published API description is not beside this checkout")
    block = re.search(r"\n    OrderStatus:\n.*?      enum:\n((?:        - \w+\n)+)", spec.read_text("utf-8"), re.S)
    assert block is not None
    published = set(re.findall(r"- (\w+)", block[1]))
    assert len(published) > 10 and published <= set(BY_STATUS)


@pytest.mark.parametrize("status", ["", "FILLED", "teleported", "filled ", "null"])
def test_B23_a_word_never_seen_is_unknown_keeps_everything_and_is_told(tmp_path: Path, status: str) -> None:
    w, before = world(tmp_path), told("order_unknown")
    w.broker.plan[CID] = 0
    w.desk.send(replace(entry(), tif=Tif.GTC), book())
    w.broker.orders[CID] = replace(w.broker.orders[CID], status=status)
    order = w.desk.poll(CID, wait_s=0.0)
    assert classify(status, 1, 0) is OrderState.UNKNOWN and order.unsettled
    assert w.desk.ledger().spent_usd(TODAY) == entry().notional_usd and AAA in w.desk.ledger().locked
    assert told("order_unknown") == before + 1
    w.desk.poll(CID, wait_s=0.0)
    assert told("order_unknown") == before + 1
    w.broker.orders[CID] = replace(w.broker.orders[CID], status="canceled")
    assert not w.desk.poll(CID, wait_s=0.0).working and not w.desk.ledger().locked


def test_B22_B23_no_status_and_count_together_end_an_order_that_could_still_fill() -> None:
    for status in (*BY_STATUS, "teleported"):
        for quantity in (1, 5):
            for filled in range(quantity + 1):
                state = classify(status, quantity, filled)
                if is_terminal(state):
                    assert status in ("filled", "canceled", "expired", "replaced", "rejected")
                    assert not (state is OrderState.REJECTED and filled)
                    assert not (state is OrderState.FILLED and filled < quantity)


def test_B51_accepted_and_later_rejected_releases_and_keeps_the_reason(tmp_path: Path) -> None:
    w = world(tmp_path)
    w.broker.plan[CID] = 0
    w.desk.send(replace(entry(), tif=Tif.GTC), book())
    w.broker.orders[CID] = replace(w.broker.orders[CID], status="rejected")
    order = w.desk.poll(CID, wait_s=0.0)
    assert (order.end, order.status) == ("closed", "rejected") and w.desk.ledger().spent_usd(TODAY) == 0
    assert w.desk.ledger().next_attempt(entry().decision_id, Side.BUY, Purpose.ENTRY) == 2


# ---------------------------------------------------------------- what is refused before the wire
@pytest.mark.parametrize(("cash", "passes"), [("50.10", True), ("50.09", False), (None, False), ("NaN", False)])
def test_B26_entries_are_paid_from_cash_and_a_missing_field_is_not_zero(
    tmp_path: Path, cash: str | None, passes: bool
) -> None:
    w = world(tmp_path)
    outcome = w.desk.send(entry(), book(cash=None if cash is None else Decimal(cash)))
    assert isinstance(outcome, Acknowledged) is passes
    if isinstance(outcome, Refused):
        assert set(outcome.codes) <= {"CASH_SHORT", "CASH_UNKNOWN"}


def test_B26_an_account_without_the_retired_day_trade_fields_is_read(tmp_path: Path) -> None:
    from tests.faults.wired import wired

    row = ('{"id": "a", "account_number": "PA1", "status": "ACTIVE", "cash": "10", "equity": "10",'
           ' "trading_blocked": false, "account_blocked": false, "trade_suspended_by_user": false}')  # fmt: skip
    with wired(tmp_path) as w:
        w.server.replies["/v2/account"] = (200, row)
        account = w.broker.account()
        assert account.may_trade and account.cash == 10 and account.buying_power is None


@pytest.mark.parametrize("problem", ["gone", "no quote", "stale"])
def test_B27_B28_what_cannot_be_traded_is_not_entered_and_keeps_its_stop(tmp_path: Path, problem: str) -> None:
    made = scene(tmp_path, "PICKA")
    hold(made, "HELD")
    made.planner.exits_ = [(decision("HELD"), ExitReason.TIME)]
    real = made.broker.quotes
    if problem == "gone":
        made.broker.gone.add(Symbol("PICKA"))
    elif problem == "no quote":
        made.broker.quotes = lambda symbols: {}
    else:
        halted = made.world.clock.now() - timedelta(minutes=30)
        made.broker.quotes = lambda symbols: {s: replace(q, at=halted) for s, q in real(symbols).items()}
    report = made.session.run(due_run())
    rows = {row["symbol"]: row["codes"] for row in report.intents if row["side"] == "buy"}
    expected = {"gone": "NOT_TRADABLE", "no quote": "QUOTE_ABSENT", "stale": "QUOTE_STALE"}[problem]
    assert expected in rows["PICKA"] and Symbol("PICKA") not in made.broker.held
    if problem != "gone":
        assert made.broker.held[Symbol("HELD")] == 1, "no order into a halt"
        assert made.ledger().protective(decision("HELD")), "its stop rests on"


@pytest.mark.parametrize(("price", "tick"), [("50.00", "0.01"), ("0.5000", "0.0001")])
def test_B29_limits_are_rounded_away_from_harm_on_the_ticks_of_the_day(price: str, tick: str) -> None:
    near = Decimal(price)
    seen = quote(bid=str(near - Decimal(tick)), ask=str(near), last=str(near))
    buy = entry_limit(seen, 10.3, 50, TICKS, TODAY)
    out = exit_limit(seen, 30.7, 300, TICKS, TODAY)
    assert isinstance(buy, Decimal) and isinstance(out, Decimal)
    assert buy % Decimal(tick) == 0 and out % Decimal(tick) == 0
    assert buy <= near * (1 + Decimal("0.00103")) and out >= (near - Decimal(tick)) * (1 - Decimal("0.00307"))


@pytest.mark.parametrize("quantity", [0, -1])
def test_B30_only_whole_positive_shares_can_even_be_written_down(quantity: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        replace(entry(), quantity=quantity)


def test_B30_a_fraction_is_refused_where_orders_are_sized() -> None:
    assert shares(Decimal("30"), Decimal("29"), Decimal(75), BUDGET, Decimal(1000), Decimal(1)) == (2, None)
    assert all(isinstance(shares(Decimal(p), Decimal(1), Decimal(75), BUDGET, Decimal(1000), Decimal(1))[0], int)
               for p in ("7.01", "74.99", "33.33"))  # fmt: skip


@pytest.mark.parametrize(("price", "expected"), [("75.00", (1, None)), ("75.01", (0, "CAP_BELOW_ONE_SHARE"))])
def test_B31_a_share_above_the_cap_is_refused_by_name(price: str, expected: tuple[int, str | None]) -> None:
    assert shares(Decimal(price), Decimal("1"), Decimal(75), BUDGET, Decimal(1000), Decimal(1)) == expected


def test_B31_it_is_told_in_the_report_and_counted(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA")
    made.broker.bid, made.broker.ask, before = Decimal("76.00"), Decimal("76.01"), told("picks_refused")
    report = made.session.run(due_run())
    assert [row["codes"] for row in report.intents] == [["CAP_BELOW_ONE_SHARE"]]
    assert told("picks_refused") == before + 1 and made.broker.submits == []


def test_B32_no_order_of_an_auction_can_be_written_down() -> None:
    assert {str(tif) for tif in Tif} == {"ioc", "day", "gtc"}


@pytest.mark.parametrize(("left_s", "passes"), [(60, True), (59, False), (0.1, False)])
def test_B33_nothing_is_entered_in_the_last_seconds(tmp_path: Path, left_s: float, passes: bool) -> None:
    w = world(tmp_path)
    outcome = w.desk.send(entry(), book(closes_at=NOW + timedelta(seconds=left_s)))
    assert isinstance(outcome, Acknowledged) is passes
    if isinstance(outcome, Refused):
        assert outcome.codes == ("TOO_CLOSE_TO_CLOSE",)


@pytest.mark.parametrize("intent", [entry(), sell()])
def test_B32_B33_outside_the_session_nothing_is_sent(tmp_path: Path, intent: OrderIntent) -> None:
    w = world(tmp_path)
    filled_entry(w) if intent.side is Side.SELL else None
    outcome = w.desk.send(intent, book(session_open=False, closes_at=None))
    assert isinstance(outcome, Refused) and "SESSION_CLOSED" in outcome.codes


# ---------------------------------------------------------------- mode, account, clock, stream
@pytest.mark.parametrize(
    ("mode", "url"), [("paper", "https://api.alpaca.markets"), ("live", "https://paper-api.alpaca.markets")]
)
def test_B34_the_address_of_the_other_mode_is_refused(monkeypatch: pytest.MonkeyPatch, mode: str, url: str) -> None:
    from core.domain import Mode
    from core.env import endpoints

    monkeypatch.setenv("ALPACA_BASE_URL", url)
    with pytest.raises(ConfigError) as refused:
        endpoints(Mode(mode))
    assert refused.value.code == "ENDPOINT_MODE_MISMATCH"


@pytest.mark.parametrize(
    ("mode", "number", "passes"),
    [("paper", "PA3XY", True), ("paper", "123456", False), ("live", "PA3XY", False), ("live", "123456", True)],
)
def test_B34_the_account_number_says_whether_the_keys_are_of_this_mode(mode: str, number: str, passes: bool) -> None:
    from types import SimpleNamespace

    from core.domain import Mode
    from scripts.trading import refuse_other_kind

    context = SimpleNamespace(mode=Mode(mode), real_broker=True, endpoints=SimpleNamespace(at_alpaca=True))
    if passes:
        refuse_other_kind(context, number)  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError) as refused:
        refuse_other_kind(context, number)  # type: ignore[arg-type]
    assert refused.value.code == "ACCOUNT_MODE_MISMATCH"


@pytest.mark.parametrize("blocked", [("trading_blocked",), ("account_blocked",), ("trade_suspended_by_user",)])
def test_B36_a_blocked_account_sends_nothing_and_says_so(tmp_path: Path, blocked: tuple[str, ...]) -> None:
    made = scene(tmp_path, "PICKA")
    hold(made, "HELD")
    account = made.broker.account
    made.broker.account = lambda: replace(account(), blocked=blocked)
    submits = list(made.broker.submits)
    report = made.session.run(due_run())
    assert made.broker.submits == submits
    assert "TRADING_STATE" in {code for row in report.intents for code in row["codes"]}


def test_B45_fills_are_read_from_the_broker_and_no_stream_is_needed(tmp_path: Path) -> None:
    made = scene(tmp_path)
    hold(made, "HELD")
    stop = made.ledger().protective(decision("HELD"))[0]
    made.broker.fill(stop.client_order_id, 1, price=Decimal("44.90"))  # nobody tells us
    made.session.look_after(TODAY)
    assert not made.ledger().trades[decision("HELD")].is_open and not made.ledger().positions


@pytest.mark.parametrize(("skew_s", "warned", "refused"), [(2.0, 0, False), (2.1, 1, False), (10.1, 1, True)])
def test_B46_a_skewed_clock_is_told_and_a_wrong_one_stops(
    tmp_path: Path, skew_s: float, warned: int, refused: bool
) -> None:
    made = scene(tmp_path)
    clock, before = made.broker.clock, told("clock_skewed")
    made.broker.clock = lambda: replace(clock(), now=clock().now + timedelta(seconds=skew_s))
    if refused:
        with pytest.raises(BrokerDown) as error:
            made.session.run(due_run())
        assert error.value.code == "CLOCK_DISAGREES"
    else:
        assert made.session.run(due_run()).code == "NO_PICKS"
    assert told("clock_skewed") == before + warned


def test_B47_a_broker_down_all_day_is_one_alert_and_one_recovery(tmp_path: Path, own_home: Path) -> None:
    import json

    from core.paths import home
    from tests.fakes.runners import host, ny

    h = host(tmp_path, ny("09:00"))
    logs.configure(home(), h.clock, run_id="t", mode="paper")
    h.session.always = h.session.look_error = BrokerDown("503")
    h.session.something_out, do = True, h.session._do

    def mended_at_three(what: str) -> None:
        do(what)
        if h.clock.now() >= ny("15:00"):
            h.session.always = h.session.look_error = None

    h.session._do = mended_at_three  # type: ignore[method-assign]
    h.run_until(ny("15:30"), step_s=20)
    lines = [json.loads(line) for name in ("events", "errors")
             for line in (own_home / "logs" / f"{name}.jsonl").read_text("utf-8").splitlines()]  # fmt: skip
    names = [line["event"] for line in lines]
    assert names.count("broker_unreachable") == 1 and names.count("broker_reachable_again") == 1
    loud = (own_home / "logs" / "errors.jsonl").read_text("utf-8").splitlines()
    assert sum('"run_failed"' in line for line in loud) == 0, "the failures in between are quiet"


def test_B53_no_kind_of_order_but_these_is_ever_sent() -> None:
    assert {str(kind) for kind in OrderKind} == {"limit", "market", "stop", "oco"}


def test_B17_an_unfilled_attempt_is_not_chased_within_its_scan(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA")
    made.broker.ask = Decimal("50.00")
    cid = f"kobe-{decision('PICKA', TODAY - timedelta(days=1))}-buy-entry-1"
    made.broker.plan[cid] = 0
    made.session.run(due_run())
    assert made.broker.submits == [cid]
    assert isinstance(made.world.clock, SteppedClock)
