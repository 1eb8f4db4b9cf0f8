"""What a seed means: the day's market, signals, limits, faults, crash and trip. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from core.domain import Signal, Symbol
from execution.venue.faults import Fault

SYMBOLS = tuple(Symbol(s) for s in ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF"))
POST = "POST /v2/orders"
READS = (
    "GET /v2/orders:by_client_order_id",
    "GET /v2/orders",
    "GET /v2/positions",
    "GET /v2/account",
    "GET /v2/clock",
    "GET /v2/stocks/quotes/latest",
    "DELETE /v2/orders/*",
)
POST_KINDS = (
    "status_after:504", "status_after:500", "status_after:502", "status_after:422", "reset", "truncate", "html",
    "timeout_after", "status:504", "status:500", "status:503", "status:429", "status:403", "reset_before",
)  # fmt: skip
READ_KINDS = ("status:500", "status:503", "status:429", "reset", "truncate", "html")
FAULT_FAMILIES = {"post": POST_KINDS, "read": READ_KINDS, "crash": (), "trip": (), "second": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class DayPlan:
    """One seeded day and the morning after it."""

    seed: int
    faults: tuple[Fault, ...] = ()
    crash_at: tuple[int, ...] = ()  # effect numbers, in order; each crash is followed by a restart
    trip_at: int | None = None  # effect number at which the kill switch appears
    second_at: tuple[int, ...] = ()  # effect numbers at which another script sends an order of its own
    daily_budget_usd: Decimal = Decimal(1000)
    position_limit: int = 10

    def parts(self) -> list[DayPlan]:
        """The same plan with one misfortune left out, each in turn: for finding the shortest story."""
        fewer = [replace(self, faults=self.faults[:i] + self.faults[i + 1 :]) for i in range(len(self.faults))]
        fewer += [replace(self, crash_at=self.crash_at[:i] + self.crash_at[i + 1 :]) for i in range(len(self.crash_at))]
        fewer += [
            replace(self, second_at=self.second_at[:i] + self.second_at[i + 1 :]) for i in range(len(self.second_at))
        ]
        return fewer + ([replace(self, trip_at=None)] if self.trip_at is not None else [])

    def describe(self) -> list[str]:
        lines = [f"seed {self.seed}  daily budget {self.daily_budget_usd}  position limit {self.position_limit}"]
        lines += [f"fault: request {f.nth} of {f.route}: {f.kind}" for f in self.faults]
        lines += [f"crash at effect {n}" for n in self.crash_at]
        lines += [f"another script sends an order at effect {n}" for n in self.second_at]
        return lines + ([f"kill switch at effect {self.trip_at}"] if self.trip_at is not None else [])


def plan_for(seed: int, families: frozenset[str] = frozenset(FAULT_FAMILIES)) -> DayPlan:
    """Seeded; a seed keeps its meaning as long as this function is not changed. `families` leaves kinds out."""
    rng = random.Random(seed)
    faults = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        faults.append(Fault(POST, rng.randint(1, 6), rng.choice(POST_KINDS)))
    for _ in range(rng.choice((0, 0, 1, 2))):
        faults.append(Fault(rng.choice(READS), rng.randint(1, 20), rng.choice(READ_KINDS)))
    crashes = tuple(sorted(rng.sample(range(2, 160), rng.choice((0, 1, 1, 2)))))
    trip = rng.randint(2, 160) if rng.random() < 0.25 else None
    seconds = tuple(sorted(rng.sample(range(2, 120), rng.choice((0, 0, 1, 3)))))
    budget, limit = rng.choice((Decimal(75), Decimal(150), Decimal(1000))), rng.choice((1, 2, 10))
    return DayPlan(
        seed=seed,
        faults=tuple(f for f in faults if ("post" if f.route == POST else "read") in families),
        crash_at=crashes if "crash" in families else (),
        trip_at=trip if "trip" in families else None,
        second_at=seconds if "second" in families else (),
        daily_budget_usd=budget,
        position_limit=limit,
    )


def bars_for(seed: int, days: int) -> dict[Symbol, list[tuple[float, float, float, float]]]:
    """(open, high, low, close) per symbol and day, whole cents, 18 to 60 USD."""
    rng = random.Random(f"bars {seed}")
    out = {}
    for symbol in SYMBOLS:
        price, rows = rng.uniform(18, 60), []
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
