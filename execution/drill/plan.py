"""What a seed means: the day's market, signals, limits, faults, crashes and other scripts. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from core.domain import Signal, Symbol
from execution.venue.faults import Fault

SYMBOLS = tuple(Symbol(s) for s in ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF"))
POST, CANCEL = "POST /v2/orders", "DELETE /v2/orders/*"
BUY, SELL = f"{POST} buy", f"{POST} sell"
LOOK_UP, LISTING = "GET /v2/orders:by_client_order_id", "GET /v2/orders"
POSITIONS, FILLS, CLOCK = "GET /v2/positions", "GET /v2/account/activities/FILL", "GET /v2/clock"
READS = (LOOK_UP, LISTING, POSITIONS, "GET /v2/account", CLOCK, "GET /v2/stocks/quotes/latest", FILLS, CANCEL)
BROKEN = ("reset", "truncate", "html", "empty", "timeout_after", "timeout_before", "drip", "reset_before", "redirect")
REFUSED = (
    "status:500", "status:502", "status:503", "status:504", "status:403", "status:422", "status:429", "status:429:2",
    "status:429:86400", "status:429:-5", "status:429:Wed, 21 Oct 2015 07:28:00 GMT",
)  # fmt: skip
DONE_YET_REFUSED = (
    "status_after:500", "status_after:502", "status_after:504", "status_after:422", "status_after:403",
    "status_after:429", "duplicate_id",
)  # fmt: skip
LOST = ("timeout_after", "reset", "truncate", "html", "status_after:502", "status_after:504")
WORDS = (
    "accepted", "pending_new", "accepted_for_bidding", "held", "pending_review", "pending_replace", "stopped",
    "suspended", "calculated", "done_for_day", "a_word_of_tomorrow",
)  # fmt: skip
POINTS = {
    "effect": "",
    "lock": "before lock desk",
    "decision": "before lock desk to decide an entry",
    "look": "look at the kill switch",
    "intent": "before journal.append order_intended",
    "intended": "after  journal.append order_intended",
    "submit": "before broker.submit",
    "submitted": "after  broker.submit",
    "filled": "before journal.append order_filled",
    "cancel": "before broker.cancel",
    "cancelled": "after  broker.cancel",
    "views": "before views",
}
"""Where something can happen: a name, and how the effects begin that are counted under it."""
OTHER_SCRIPTS = ("enter", "enter", "cancel_all", "close_all", "reconcile", "force_sync", "watchdog")
PHASES = ("open", "09:35", "10:30", "12:00", "15:55", "close")
"""What happens to the day in order; the operator's own commands come after one of them."""

FAMILIES = {
    "post": "an order's answer is lost, broken, refused, or refused although the order was taken",
    "read": "reads and cancels fail in the same ways",
    "lag": "a new order cannot be seen for some seconds",
    "fills": "partial, late, cancelled-and-filled, lost cancels, rejected later; activities twice or backwards",
    "words": "status words of every kind, a filled quantity that goes back",
    "identity": "the answer is about another symbol, quantity or side",
    "lists": "empty position lists, repeated pages",
    "outage": "the broker is away, refuses the keys, or its clock is off, for a while",
    "crash": "the process dies at one or two effects and is started again",
    "trip": "the kill switch appears at an effect",
    "second": "another script works on the same home at an effect: entries, cancel_all, close_all, reconcile …",
    "operator": "the operator runs a command between two scans",
    "split": "a held stock splits overnight",
}


class At(NamedTuple):
    """The `nth` effect, from 1, of those that a point names; over the whole day."""

    point: str
    nth: int

    def __str__(self) -> str:
        return f"{self.point} {self.nth}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DayPlan:
    """One seeded day and the morning after it."""

    seed: int
    faults: tuple[Fault, ...] = ()
    crash_at: tuple[At, ...] = ()  # each crash is followed by a restart
    trip_at: tuple[At, ...] = ()  # where the kill switch appears
    second_at: tuple[tuple[At, str], ...] = ()  # where, and what another script does there
    operator: tuple[tuple[str, str], ...] = ()  # phase of the day, and the command run after it
    split: tuple[str, int, int] | None = None  # symbol, new shares, old shares: before the next morning
    daily_budget_usd: Decimal = Decimal(1000)
    position_limit: int = 10
    time_in_force: str = "ioc"

    def parts(self) -> Iterator[DayPlan]:
        """The same plan with one misfortune left out, each in turn: for finding the shortest story."""
        for name in ("faults", "crash_at", "trip_at", "second_at", "operator"):
            whole = getattr(self, name)
            for i in range(len(whole)):
                yield replace(self, **{name: whole[:i] + whole[i + 1 :]})
        if self.split is not None:
            yield replace(self, split=None)

    @property
    def misfortunes(self) -> int:
        return sum(len(v) for f in fields(self) if isinstance(v := getattr(self, f.name), tuple) and f.name != "split")

    def describe(self) -> list[str]:
        lines = [
            f"seed {self.seed}  daily budget {self.daily_budget_usd}  position limit {self.position_limit}  "
            f"orders {self.time_in_force}"
        ]
        lines += [f"fault: request {_counted(f)} of {f.route}: {f.kind}" for f in self.faults]
        lines += [f"crash at {at}" for at in self.crash_at]
        lines += [f"kill switch at {at}" for at in self.trip_at]
        lines += [f"another script at {at}: {what}" for at, what in self.second_at]
        lines += [f"the operator after {phase}: {what}" for phase, what in self.operator]
        return lines + ([f"overnight: {self.split[0]} splits {self.split[1]}:{self.split[2]}"] if self.split else [])


def _counted(fault: Fault) -> str:
    return str(fault.nth) if fault.times == 1 else f"{fault.nth} to {fault.nth + fault.times - 1}"


def plan_for(seed: int, families: frozenset[str] = frozenset(FAMILIES)) -> DayPlan:
    """Seeded; `families` leaves kinds of misfortune out and changes nothing of the others.

    Every day has one coincidence that is hard on an order path, and random misfortunes around it.
    """
    rng = random.Random(seed)
    faults = {name: draw(rng) for name, draw in _FAULTS.items()}
    crashes = [_somewhere(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
    trips = [_somewhere(rng)] if rng.random() < 0.1 else []
    second = [(_somewhere(rng), rng.choice(OTHER_SCRIPTS)) for _ in range(rng.choice((0, 0, 1, 3)))]
    commands = ("cancel_all", "close_all", "reconcile", "force_sync")
    operator = [(rng.choice(PHASES[1:]), rng.choice(commands)) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    split = (rng.choice(SYMBOLS), *rng.choice(((2, 1), (3, 1), (3, 2), (1, 2), (1, 10))))
    splits = rng.random() < 0.15
    budget, limit = rng.choice((Decimal(75), Decimal(150), Decimal(1000))), rng.choice((1, 2, 10))
    tif = rng.choice(("ioc", "ioc", "day_cancel"))
    together = rng.choice(_TOGETHER)(rng)
    faults[together.family] += together.faults
    return DayPlan(
        seed=seed,
        faults=tuple(fault for name, found in faults.items() if name in families for fault in found),
        crash_at=(*crashes, *together.crash_at) if "crash" in families else (),
        trip_at=(*trips, *together.trip_at) if "trip" in families else (),
        second_at=(*second, *together.second_at) if "second" in families else (),
        operator=tuple(operator) if "operator" in families else (),
        split=split if splits and "split" in families else None,
        daily_budget_usd=budget,
        position_limit=limit,
        time_in_force=tif,
    )


# ---------------------------------------------------------------- coincidences
@dataclass(frozen=True, slots=True, kw_only=True)
class _Together:
    """What is hard to bear because it comes together, early in the day."""

    family: str = "post"  # of the faults
    faults: tuple[Fault, ...] = ()
    crash_at: tuple[At, ...] = ()
    trip_at: tuple[At, ...] = ()
    second_at: tuple[tuple[At, str], ...] = ()


def _race(rng: random.Random) -> _Together:
    """Two scripts decide about the same budget and the same slots at the same moment."""
    return _Together(second_at=((At("decision", rng.randint(1, 2)), "enter"),))


def _trip_at_the_wire(rng: random.Random) -> _Together:
    """The kill switch appears between the decision and the first byte."""
    return _Together(trip_at=(At(rng.choice(("intended", "submit", "submit")), rng.randint(1, 3)),))


def _crash_in_an_order(rng: random.Random) -> _Together:
    """The process dies while an order is between two states."""
    points = ("intent", "intended", "submit", "submitted", "submitted", "filled", "cancel", "cancelled")
    return _Together(crash_at=(At(rng.choice(points), rng.randint(1, 4)),))


def _taken_and_unseen(rng: random.Random) -> _Together:
    """An order is taken, cannot be seen for some seconds, and whoever sent it is gone or has no answer."""
    number, lag = rng.randint(1, 2), f"lag:{rng.randint(4, 8)}"
    if rng.random() < 0.5:
        fault = Fault(BUY, number, lag)
        return _Together(family="lag", faults=(fault,), crash_at=(At("submitted", 2 * number - 1),))
    return _Together(family="lag", faults=(Fault(BUY, number, f"{lag}+{rng.choice(LOST)}"),))


def _nobody_can_say(rng: random.Random) -> _Together:
    """The answer to an order is lost, and so are the answers to all questions about it."""
    return _Together(faults=(Fault(BUY, 1, rng.choice(LOST)), Fault(LOOK_UP, 1, "status:503", 60)))


def _refused_yet_done(rng: random.Random) -> _Together:
    """An order is refused, and executed."""
    return _Together(faults=(Fault(rng.choice((BUY, BUY, SELL)), rng.randint(1, 2), rng.choice(DONE_YET_REFUSED)),))


def _part_or_late(rng: random.Random) -> _Together:
    """An entry fills in part, later than told, or both."""
    kind = rng.choice(("partial:1",) * 3 + ("late_rest:8",) * 2 + ("late:8", "late:45", "late_filled:45"))
    return _Together(family="fills", faults=(Fault(BUY, rng.choice((1, 1, 2)), kind),))


def _cancel_goes_wrong(rng: random.Random) -> _Together:
    """The stop that is cancelled before an exit fills instead, or takes its time."""
    kind = rng.choice(("cancel_lost", "cancel_lost", "cancel_slow:3", "cancel_slow:30"))
    return _Together(family="fills", faults=(Fault(CANCEL, rng.randint(1, 2), kind),))


_TOGETHER = (
    _race, _race, _trip_at_the_wire, _crash_in_an_order, _crash_in_an_order, _taken_and_unseen, _nobody_can_say,
    _refused_yet_done, _part_or_late, _part_or_late, _part_or_late, _cancel_goes_wrong,
)  # fmt: skip


# ---------------------------------------------------------------- at random
def _somewhere(rng: random.Random) -> At:
    """Half of the time anywhere, half of the time where an order is decided, written or sent."""
    if rng.random() < 0.5:
        return At("effect", rng.randint(2, 300))
    return At(rng.choice(tuple(POINTS)[1:]), rng.choice((1, 1, 2, 2, 3, 4, 5, 6, 8, 12)))


def _post(rng: random.Random) -> list[Fault]:
    kinds = BROKEN + REFUSED + DONE_YET_REFUSED + BROKEN + DONE_YET_REFUSED  # the ambiguous ones more often
    return [Fault(POST, rng.randint(1, 8), rng.choice(kinds)) for _ in range(rng.choice((0, 0, 1, 1, 2)))]


def _read(rng: random.Random) -> list[Fault]:
    kinds = BROKEN + REFUSED
    times = (1, 1, 1, 3)
    return [
        Fault(rng.choice(READS), rng.randint(1, 25), rng.choice(kinds), rng.choice(times))
        for _ in range(rng.choice((0, 0, 1, 2)))
    ]


def _lag(rng: random.Random) -> list[Fault]:
    found = []
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        kind = f"lag:{rng.randint(1, 8)}"
        found.append(Fault(POST, rng.randint(1, 8), rng.choice((kind, f"{kind}+{rng.choice(LOST)}"))))
    return found


def _fills(rng: random.Random) -> list[Fault]:
    found = []
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        kind = rng.choice(("partial:1", "late:8", "late_filled:8", "late:45", "late_rest:8", "reject_late"))
        found.append(Fault(rng.choice((BUY, SELL, POST)), rng.randint(1, 4), kind))
    if rng.random() < 0.2:
        kind = rng.choice(("twice", "backwards", "full_page"))
        found.append(Fault(FILLS, rng.randint(1, 3), kind, rng.choice((1, 9))))
    return found


def _words(rng: random.Random) -> list[Fault]:
    found = []
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        kind = rng.choice((*(f"word:{word}" for word in WORDS), "unfilled"))
        found.append(Fault(rng.choice((LOOK_UP, LOOK_UP, POST)), rng.randint(1, 15), kind, rng.choice((1, 1, 4))))
    return found


def _identity(rng: random.Random) -> list[Fault]:
    if rng.random() >= 0.06:
        return []
    return [Fault(rng.choice((POST, LOOK_UP)), rng.randint(1, 6), f"identity:{rng.choice(('symbol', 'qty', 'side'))}")]


def _lists(rng: random.Random) -> list[Fault]:
    if rng.random() >= 0.15:
        return []
    return [Fault(POSITIONS, rng.randint(2, 25), "no_rows", rng.choice((1, 2, 6)))]


def _outage(rng: random.Random) -> list[Fault]:
    if rng.random() >= 0.12:
        return []
    route, kind, times = rng.choice((("*", "status:503", 40), ("*", "status:401", 40), (CLOCK, "skew:-300", 6),
                                     (CLOCK, "skew:5", 9), ("*", "timeout_before", 6)))  # fmt: skip
    return [Fault("GET /v2/*" if route == "*" else route, rng.randint(2, 90) if route == "*" else 2, kind, times)]


_FAULTS = {
    "post": _post, "read": _read, "lag": _lag, "fills": _fills, "words": _words, "identity": _identity,
    "lists": _lists, "outage": _outage,
}  # fmt: skip


def bars_for(seed: int, days: int) -> dict[Symbol, list[tuple[float, float, float, float]]]:
    """(open, high, low, close) per symbol and day, whole cents, 10 to 36 USD on the first day."""
    rng = random.Random(f"bars {seed}")
    out = {}
    for symbol in SYMBOLS:
        price, rows = rng.uniform(10, 36), []
        for _ in range(days):
            opened = price * (1 + rng.gauss(0, 0.01))
            close = opened * (1 + rng.gauss(0, 0.02))
            high = max(opened, close) * (1 + abs(rng.gauss(0, 0.008)))
            low = min(opened, close) * (1 - abs(rng.gauss(0, 0.008)))
            rows.append((round(opened, 2), round(high + 0.01, 2), round(low - 0.01, 2), round(close, 2)))
            price = close
        out[symbol] = rows
    return out


def signals_for(seed: int, session: date, closes: dict[Symbol, float]) -> list[Signal]:
    """Two to four signals of one session, as a scan would pick them; stops 1 % to 6 % below the close."""
    rng = random.Random(f"signals {seed} {session}")
    found = []
    for symbol in rng.sample(SYMBOLS, rng.randint(2, 4)):
        close = closes[symbol]
        turtle = rng.random() < 0.5
        found.append(
            Signal(
                strategy="turtle_soup" if turtle else "ibs_rsi",
                symbol=symbol,
                session=session,
                close=close,
                stop=close * (1 - rng.uniform(0.01, 0.06)),
                target_r=0.5 if turtle else None,
                time_stop_bars=rng.randint(1, 3),
                strength=0.5,
            )
        )
    return found
