"""Named misfortunes, told step by step: a drill for the person who will meet them, and a test that they end as told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from execution.drill.invariants import violations
from execution.drill.narrate import paragraph, timeline
from execution.drill.outcome import Outcome
from execution.drill.plan import BUY, CANCEL, CLOCK, LOOK_UP, POSITIONS, POST, At, DayPlan
from execution.drill.ports import Ports
from execution.drill.world import World
from execution.venue.faults import Fault

if TYPE_CHECKING:
    from execution.venue.host import VenueHost

Holds = Callable[[Outcome], bool]
_RECONCILE = "python scripts/reconcile_alpaca.py"
_PREFLIGHT = "python scripts/preflight.py"
_RESUME = (
    f"{_PREFLIGHT} --all          every check; 43 while halted",
    "rm state/KILL_SWITCH                          Windows: del state\\KILL_SWITCH",
    f"{_PREFLIGHT} --cognitive    the same, recorded: now it resumes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One misfortune. `ends`: what must then be true, in words and as a check."""

    title: str
    plan: DayPlan
    happens: str
    kobe: str
    operator: tuple[str, ...]
    ends: tuple[tuple[str, Holds], ...]
    not_asked: frozenset[str] = frozenset()  # invariants that this misfortune breaks by its nature


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario's telling, and whether it ended as told."""

    lines: tuple[str, ...]
    as_told: bool


def play(name: str, host: VenueHost, ports: Ports) -> Played:
    """Raises KeyError for a name that is none."""
    scenario = SCENARIOS[name]
    outcome = World(scenario.plan, host, ports).run()
    checks = [(words, holds(outcome)) for words, holds in (*scenario.ends, *_ALWAYS)]
    broken = [v for v in violations(outcome) if v.split(":")[0] not in scenario.not_asked]
    lines = [*_telling(name, scenario, outcome)]
    lines += [f"  {'yes' if held else 'NO '}  {words}" for words, held in checks]
    lines += [f"  NO   {violation}"[:80] for violation in broken]
    as_told = all(held for _, held in checks) and not broken
    lines += ["", "SIMULATED  it ended as told" if as_told else "SIMULATED  IT DID NOT END AS TOLD"]
    return Played(tuple(lines), as_told)


def _telling(name: str, scenario: Scenario, outcome: Outcome) -> Iterator[str]:
    yield f"SIMULATED  {name}"
    yield scenario.title
    yield from ("", "WHAT HAPPENS")
    yield from paragraph(scenario.happens)
    yield from ("", "WHAT KOBE DOES")
    yield from paragraph(scenario.kobe)
    yield from ("", "STEP BY STEP   !! is what happens to it, the rest is its own journal")
    yield from timeline(outcome)
    yield from ("", "WHAT YOU DO")
    yield from (f"  {line}" for line in scenario.operator)
    yield from ("", "HOW IT ENDED")


# ---------------------------------------------------------------- what can be asked of an outcome
def _kinds(outcome: Outcome, kind: str, code: str | None = None) -> int:
    return sum(1 for r in outcome.records if r["kind"] == kind and code in (None, r["body"].get("code")))


def _wrote(kind: str, code: str | None = None) -> Holds:
    return lambda outcome: _kinds(outcome, kind, code) > 0


def _never(kind: str, code: str | None = None) -> Holds:
    return lambda outcome: _kinds(outcome, kind, code) == 0


def _told(word: str) -> Holds:
    return lambda outcome: any(word in event.what for event in outcome.timeline)


def _sent_once(outcome: Outcome) -> bool:
    posts = [post.client_order_id for post in outcome.posts]
    return len(posts) == len(set(posts))


def _cause(cause: str) -> Holds:
    return lambda outcome: any(r["kind"] == "break_found" and r["body"].get("cause") == cause for r in outcome.records)


def _late(outcome: Outcome) -> bool:
    return any(r["kind"] == "order_filled" and r["body"].get("late") for r in outcome.records)


def _partial(outcome: Outcome) -> bool:
    """Protection is for what filled, not for what was ordered."""
    entry = next(o for o in outcome.ledger.orders.values() if 0 < o.filled_quantity < o.intent.quantity)
    stops = [o for o in outcome.ledger.orders.values()
             if o.intent.decision_id == entry.intent.decision_id and o.intent.purpose == "protect"]  # fmt: skip
    return bool(stops) and all(o.intent.quantity == entry.filled_quantity for o in stops)


def _three_missed(outcome: Outcome) -> bool:
    return _kinds(outcome, "run_missed", "FAILED_UNTIL_TOO_LATE") >= 3


def _one_alert(outcome: Outcome) -> bool:
    return sum(1 for row in outcome.errors if row["event"] == "broker_unreachable") == 1


_ALWAYS: tuple[tuple[str, Holds], ...] = (
    ("the next morning journal and broker agree", lambda outcome: not outcome.breaks),
    ("no order was sent twice", _sent_once),
)
_FOREVER = 1_000_000

SCENARIOS: Mapping[str, Scenario] = MappingProxyType({
    "kill-switch-mid-submit": Scenario(
        title="the switch appears with an order in hand",
        plan=DayPlan(seed=3, trip_at=(At("intended", 1),)),
        happens="""You create state/KILL_SWITCH while the 09:35 scan is sending its first order. The order is decided
            and written down; nothing of it has left.""",
        kobe="""The switch is asked once more with the connection made and the bytes in hand. The order is not sent, and
            it is recorded so. Nothing automatic is sent until you resume; cancel_all and close_all still work.""",
        operator=(f"{_RECONCILE}      is anything different?",
                  "only if you want to be out:", "python scripts/close_all_positions.py --confirm", *_RESUME),
        ends=(("the order was written down and not sent", _wrote("order_not_sent", "KILL_SWITCH")),
              ("the halt is on record, and so is the resume", _wrote("trading_resumed"))),
    ),
    "timeout-after-accept": Scenario(
        title="the broker takes an order, never answers",
        plan=DayPlan(seed=3, faults=(Fault(BUY, 1, "timeout_after"),)),
        happens="""The first buy of the day reaches the broker and fills. Its answer never comes: after 15 seconds the
            request is given up.""",
        kobe="""No answer proves nothing. The order is UNKNOWN: its symbol is locked, its money and its slot stay
            reserved. It is looked up by its client order id, found, adopted, and protected.""",
        operator=("nothing. To see it:", f"{_RECONCILE}          in step", "tail logs/errors.jsonl      order_unknown"),
        ends=(("it was UNKNOWN first", _wrote("order_unknown", "TOTAL_TIMEOUT")),
              ("and then protected like any other", _wrote("trade_opened"))),
    ),
    "crash-between-journal-and-wire": Scenario(
        title="it dies with an order written, not sent",
        plan=DayPlan(seed=3, crash_at=(At("submit", 1),)),
        happens="The machine goes down between two lines: the intent is on the disk, not one byte has left.",
        kobe="""Start-up is recovery. The intent has no end, so the broker is asked: not found by id, not in the
            complete listing, no fill, position unchanged, and the visibility lag has passed. Only all of it together
            closes the intent as not sent; the scan is made again, and may use the same id.""",
        operator=("start the runner again, or let your supervisor do it:", "python scripts/runner.py --mode paper"),
        ends=(("the intent was proved absent", _wrote("order_not_sent", "NOT_ACCEPTED")),
              ("the scan was made after all", _wrote("trade_opened"))),
    ),
    "crash-after-the-wire": Scenario(
        title="it dies with an order at the broker",
        plan=DayPlan(seed=3, crash_at=(At("submitted", 1),)),
        happens="The order is sent and fills. The process is killed before it has read the answer.",
        kobe="""At the next start the intent without an end is looked up, found and adopted. The position is protected
            before any new entry is thought of.""",
        operator=("start the runner again, or let your supervisor do it:", "python scripts/runner.py --mode paper"),
        ends=(("nothing was given up", _never("order_not_sent")), ("the trade is ours", _wrote("trade_opened"))),
    ),
    "late-fill": Scenario(
        title="told canceled, it fills 8 seconds later",
        plan=DayPlan(seed=3, faults=(Fault(BUY, 1, "late:8"),)),
        happens="""An IOC order comes back canceled with nothing filled. Eight seconds later the exchange reports a fill
            of it; the broker goes on calling it canceled.""",
        kobe="""Orders that ended short are looked at again, in their own copy and in the account's activities. The fill
            wins: position, budget and protection follow, and it is marked as late.""",
        operator=("nothing; look at the symbol once:", f"{_RECONCILE} --full"),
        ends=(("the late fill was booked", _late), ("and noted as an anomaly", _wrote("order_anomaly", "LATE_FILL"))),
    ),
    "partial-fill": Scenario(
        title="only one share of an order trades",
        plan=DayPlan(seed=3, faults=(Fault(BUY, 1, "partial:1"),)),
        happens="An IOC order for several shares fills one and is canceled for the rest.",
        kobe="""One share is booked, the reservation of the rest is given back, and the stop is for the one share that
            is held. The signal counts as filled: no second order chases the rest.""",
        operator=("nothing. The report shows ordered against filled.",),
        ends=(("the stop is for what filled", _partial),),
    ),
    "cancel-lost": Scenario(
        title="the stop fills while it is being cancelled",
        plan=DayPlan(seed=3, faults=(Fault(CANCEL, 1, "cancel_lost"),)),
        happens="""A time stop is due. The broker acknowledges the cancel of the resting stop, but its fill was
            quicker.""",
        kobe="""A cancel is read, not believed: the order is looked up until it is over, its fill is booked, and the
            sell that was planned is not sent. The position never crosses zero.""",
        operator=("nothing.",),
        ends=(("the stop's own fill closed the trade", _wrote("trade_closed")),),
    ),
    "split-overnight": Scenario(
        title="a held stock splits 2:1 overnight",
        plan=DayPlan(seed=7, split=("CCC", 2, 1)),
        happens="The position doubles, the price halves, and the broker cancels the resting orders of the symbol.",
        kobe="""On the evening before, protection is eased to what is right on either side of the split. In the morning
            quantity, cost and stop are re-based once the broker's own numbers and the action feed agree. Would they
            not agree, the symbol would be locked.""",
        operator=("nothing while both agree. If the symbol stays locked:", f"{_RECONCILE}",
                  f"{_RECONCILE} --force-sync --reason 'split confirmed'"),
        ends=(("the trade was re-based", _wrote("trade_rebased")),),
    ),
    "stale-restore": Scenario(
        title="an old copy of state/ is put back",
        plan=DayPlan(seed=8, operator=(("open", "backup"), ("09:35", "backup"), ("09:35", "restore"),
                                       ("10:30", "reconcile"), ("10:30", "restore_newest"), ("10:30", "reconcile"))),
        happens="""After the 09:35 scan somebody puts the copy of 09:00 over the state folder. The journal knows nothing
            of the morning's orders any more; the broker knows all of them. At 10:40 you put the newest copy back.""",
        kobe="""The start on the old journal finds positions and orders that it never sent. Each is a break with cause
            STALE_RESTORE; the symbols are locked, nothing is bought or sold in them, and the stops that rest at the
            broker stay. With the newest journal everything is known again.""",
        operator=("first choice: put the newest copy of state/ back, then", f"{_RECONCILE}",
                  "only without one, take over what the broker says:",
                  f"{_RECONCILE} --force-sync --reason restored",
                  "and give what is held a stop again:", f"{_RECONCILE} --adopt SYMBOL --stop PRICE"),
        ends=(("the stops at the broker were left alone", _never("cancel_requested", "ORPHAN")),
              ("reconcile named breaks on the old journal", _told("operator, reconcile: 4 breaks, STALE_RESTORE")),
              ("and none on the newest", _told("operator, reconcile: 0 breaks"))),
    ),
    "broker-down-all-day": Scenario(
        title="the broker answers 503 from open to close",
        plan=DayPlan(seed=3, faults=(Fault("GET /v2/*", 12, "status:503", _FOREVER),)),
        happens="The broker is down before the first scan and stays down all day.",
        kobe="""Each scan is tried again with growing pauses until it is too late for it, then recorded as missed. One
            alert goes out, not a hundred. The next morning everything is as it was.""",
        operator=("see the broker's status page. What rests there is protected by", "the resting stops; nothing to do.",
                  "afterwards:", f"{_RECONCILE}"),
        ends=(("three scans were missed, and told", _three_missed), ("one alert, not one per try", _one_alert)),
    ),
    "two-runners": Scenario(
        title="a second runner is started on the same home",
        plan=DayPlan(seed=3, operator=(("09:35", "second_runner"),)),
        happens="Somebody starts runner.py a second time, in another terminal or from cron.",
        kobe="""The operating system's lock is held by the first. The second ends within a second, with exit 3, and says
            who holds it.""",
        operator=("nothing; or end the first one, then start the second:", "python scripts/runner.py --mode paper"),
        ends=(("the second one was refused", _told("operator, second_runner: exit 3")),),
    ),
    "position-listing-empty": Scenario(
        title="the broker lists no positions, with a 200",
        plan=DayPlan(seed=3, faults=(Fault(POSITIONS, 15, "no_rows", 8),)),
        happens="During an incident the broker answers the question for positions with an empty list.",
        kobe="""Flat is not believed while the account's equity says that something is held. The scan ends with
            IMPLAUSIBLE_FLAT, nothing is sold, bought or synced, and it is tried again.""",
        operator=("wait. Do not force a sync while the account says otherwise:", f"{_RECONCILE}   exit 30 until then"),
        ends=(("it was not believed", _wrote("run_failed", "IMPLAUSIBLE_FLAT")),
              ("nothing was synced", _never("positions_synced"))),
    ),
    "runaway": Scenario(
        title="a loop sends the same order again and again",
        plan=DayPlan(seed=3, second_at=((At("submitted", 1), "runaway"),)),
        happens="Code goes wrong: an order that was sent is handed to the transport five more times.",
        kobe="""Before the first byte a last door compares every order with the journal, trusting neither the desk nor
            the gate. It was sent already: refused, RUNAWAY_TWICE, and the kill switch is written.""",
        operator=("something in the program is wrong: do not resume before you know it.", f"{_RECONCILE}",
                  "python scripts/cancel_all.py", *_RESUME),
        ends=(("all copies were refused", _told("copies, refused: RUNAWAY_TWICE")),
              ("trading halted", _wrote("trading_halted"))),
        not_asked=frozenset({"BUG"}),  # the last door stepping in is the point of it
    ),
    "keys-revoked": Scenario(
        title="the broker refuses the keys at mid-day",
        plan=DayPlan(seed=3, faults=(Fault("GET /v2/*", 60, "status:401", 60), Fault(POST, 3, "status:401", 3))),
        happens="From some moment on every request is answered 401: the keys have expired or were revoked.",
        kobe="""Sending stops at once and no retry storm begins. Scans fail as UNAUTHORIZED, are told, and recorded as
            missed. As soon as a read is answered again, trading goes on.""",
        operator=("make new keys at the broker, put them into .env, and restart:", f"{_PREFLIGHT} --all"),
        ends=(("it was told", _wrote("run_failed", "UNAUTHORIZED")),),
    ),
    "wrong-answer": Scenario(
        title="the broker answers about another order",
        plan=DayPlan(seed=3, faults=(Fault(BUY, 1, "identity:qty"),)),
        happens="The answer to our buy names another quantity than we asked for.",
        kobe="""What is said of another order cannot be relied upon. The symbol is locked, the kill switch is written,
            and nothing more is sent.""",
        operator=("compare with the broker's own app, then", f"{_RECONCILE} --full", *_RESUME,
                  f"{_RECONCILE} --unlock SYMBOL --reason 'compared'"),
        ends=(("the symbol was locked", _wrote("symbol_locked", "UNKNOWN_IDENTITY_MISMATCH")),
              ("trading halted", _wrote("trading_halted"))),
    ),
    "clock-wrong": Scenario(
        title="this machine's clock is five minutes off",
        plan=DayPlan(seed=3, faults=(Fault(CLOCK, 2, "skew:-300", 6),)),
        happens="The broker's clock and ours disagree by 300 seconds.",
        kobe="""An order decided at another time is another order: above 10 seconds the scan is refused,
            CLOCK_DISAGREES, and tried again.""",
        operator=("correct the clock (NTP), then it goes on by itself:", f"{_PREFLIGHT} --all"),
        ends=(("the scan was refused", _wrote("run_failed", "CLOCK_DISAGREES")),),
    ),
    "lookups-fail": Scenario(
        title="an order's answer is lost, look-ups fail",
        plan=DayPlan(seed=3, faults=(Fault(BUY, 1, "reset"), Fault(LOOK_UP, 1, "status:503", 60))),
        happens="The connection is cut in the answer to a buy, and the look-ups that follow get 503.",
        kobe="""The order stays UNKNOWN for as long as nobody can say: no second order of the symbol, its money stays
            reserved. The next look settles it.""",
        operator=("nothing. To see what is open:", f"{_PREFLIGHT} --all     unsettled: …"),
        ends=(("it was UNKNOWN", _wrote("order_unknown")), ("and was settled", _wrote("trade_opened"))),
    ),
})  # fmt: skip
"""By the name that `scripts/drill.py --scenario` takes."""
