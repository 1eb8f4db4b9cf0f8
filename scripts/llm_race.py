"""Many processes, one language-model budget: never over it on any New York day, and what was not used comes back.

Real processes ask the simulated Messages server through the real door. Meanwhile midnights pass on both changes of the
clocks, prices rise, replies are cut, dripped or never come, processes are killed at the worst moments and started
again, the audit gets torn lines, and the budget file is deleted. The server's own bill is the judge.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.settings_schema import LlmAnalyzer, LlmPrice
from core.clock import SystemClock
from core.market_calendar import NEW_YORK, market_calendar
from core.paths import Home
from execution.drill.children import Children, Task
from execution.drill.shared_clock import SharedClock
from execution.venue.faults import Fault, FaultPlan
from llm import audit
from llm.client import Answer, LlmDoor, Prompt, Purpose
from llm.spend import Amount, Refusal, Reservation
from llm.token_budget import FILE, Settlement, TokenBudget

if TYPE_CHECKING:
    from execution.venue.anthropic_model import SimulatedModel
    from execution.venue.host import VenueHost

CHILD = Path(__file__).with_name("llm_race_child.py")
KILLED = 77  # how a process ends that is killed on purpose
MODEL = "claude-haiku-4-5"
ROUTE = "POST /v1/messages"
_RISE, _RISE_FACTOR = date(2027, 3, 14), 3
_MIDNIGHTS = tuple(
    datetime(*day, tzinfo=NEW_YORK).astimezone(UTC)
    for day in ((2026, 11, 1), (2026, 11, 2), (2027, 3, 14), (2027, 3, 15))
)
_THINKING, _OUTPUT_MOST, _TYPICAL_TOKENS = 600, 700, 640
_SHARE = 0.45  # of the calls of a day that its budget is enough for
_FAULTS = (
    "reset", "reset_before", "truncate", "drip", "timeout_after", "html", "llm:no_usage", "llm:error:api_error",
    "llm:error:overloaded_error", "llm:error:timeout_error", "llm:error:rate_limit_error:1", "llm:refusal",
)  # fmt: skip
_PAUSE_S = 0.01
LIFE_S = 1800  # a process that takes longer hangs


@dataclass(frozen=True, slots=True)
class Race:
    """What is run. `around_s`: real seconds before and after each midnight; longer than a call can be on the wire."""

    processes: int
    calls: int
    seed: int = 1
    around_s: float = 8.0
    deadline_s: float = 3.0
    midnights: tuple[int, ...] = (0, 1, 2, 3)
    faults: float = 0.10  # of the requests
    kills: float = 0.02  # of the calls

    @property
    def length_s(self) -> float:
        return 2 * self.around_s * len(self.midnights)

    def instant(self, elapsed_s: float) -> datetime:
        """Time jumps from shortly after one midnight to shortly before the next; in between it is real."""
        elapsed_s = min(elapsed_s, self.length_s - 0.001)
        number, behind_s = divmod(elapsed_s, 2 * self.around_s)
        return _MIDNIGHTS[self.midnights[int(number)]] + timedelta(seconds=behind_s - self.around_s)

    def days(self) -> list[date]:
        found = {
            (_MIDNIGHTS[n] + timedelta(seconds=by)).astimezone(NEW_YORK).date()
            for n in self.midnights
            for by in (-1, 1)
        }
        return sorted(found)


@dataclass(frozen=True, slots=True)
class DayOf:
    """One New York day: what the server billed, what the ledger holds, and the limits."""

    day: date
    billed: Amount
    booked: Amount


@dataclass(frozen=True, slots=True)
class Raced:
    """What came of it."""

    days: tuple[DayOf, ...]
    limits: Amount
    requests: int
    codes: Mapping[str, int]
    kills: Mapping[str, int]
    kept_usd: Decimal  # of calls whose outcome nobody knows
    open_usd: Decimal  # of processes that were killed
    returned_usd: Decimal
    not_returned_usd: Decimal
    resets: int
    violations: tuple[str, ...] = field(default=())


def settings_of(base: LlmAnalyzer, race: Race) -> LlmAnalyzer:
    """Tokens bind before the prices rise, dollars afterwards."""
    each_day = race.processes * race.calls / len(race.days())
    tokens = max(10_000, round(_SHARE * each_day * _TYPICAL_TOKENS))
    usd = (Decimal(tokens) * Decimal("0.0000048") * Decimal("1.5")).quantize(Decimal("0.01"))
    tracking = base.cost_tracking.model_copy(update={"max_daily_usd": usd, "alert_threshold_usd": usd / 2})
    before = LlmPrice(
        model=MODEL, effective=date(2025, 10, 15), input_usd=Decimal(1), output_usd=Decimal(5),
        write_5m_usd=Decimal("1.25"), write_1h_usd=Decimal(2), read_usd=Decimal("0.1"),
    )  # fmt: skip
    prices = {name: getattr(before, name) * _RISE_FACTOR for name in LlmPrice.model_fields if name.endswith("_usd")}
    rows = (before, before.model_copy(update={"effective": _RISE, **prices}))
    return base.model_copy(update={
        "model": MODEL, "deadline_s": race.deadline_s, "max_output_tokens": _OUTPUT_MOST, "max_daily_tokens": tokens,
        "rest_after": 100, "rest_s": 1.0, "mode": "full", "enabled": True, "cost_tracking": tracking,
        "cache": base.cache.model_copy(update={"enabled": False}),
        "prices": base.prices.model_copy(update={"rows": rows}),
    })  # fmt: skip


def plan_of(race: Race) -> FaultPlan:
    rng = random.Random(race.seed)
    numbers = [n for n in range(1, 2 * race.processes * race.calls) if rng.random() < race.faults]
    return FaultPlan([Fault(ROUTE, n, rng.choice(_FAULTS)) for n in numbers])


# ---------------------------------------------------------------- the child
class MortalBudget(TokenBudget):
    """Ends its process where that hurts most. `fate`: the point of the call under way, empty when it may live."""

    fate = ""

    def reserve(self, worst: Amount, *, model: str, purpose: str, request_sha256: str) -> Reservation | Refusal:
        made = super().reserve(worst, model=model, purpose=purpose, request_sha256=request_sha256)
        if self.fate == "reserved" and isinstance(made, Reservation):
            os._exit(KILLED)
        return made

    def settle(self, made: Reservation, settled: Settlement) -> None:
        if self.fate == "answered":
            os._exit(KILLED)
        super().settle(made, settled)

    def _write(self, day: Any, end: audit.Mark) -> None:
        if self.fate == "torn":
            with self.audit_file.open("ab") as file:
                file.write(b'{"amount":')
        if self.fate in ("booked", "torn"):
            os._exit(KILLED)  # the audit tells it, the budget file does not, and the lock is held
        super()._write(day, end)


def child(task: Task) -> None:
    """One process: its calls, each when it is due. What became of each is a line of its report."""
    race, base = Race(**{**task["race"], "midnights": tuple(task["race"]["midnights"])}), LlmAnalyzer()
    clock, real = SharedClock(Path(task["clock"])), SystemClock()
    settings, home = settings_of(base, race), Home(Path(task["root"]))
    budget = MortalBudget(home, settings, clock)
    door = LlmDoor(
        settings, key="sk-race", base_url=task["url"], clock=clock, calendar=market_calendar(Path(task["calendar"])),
        home=home, budget=budget,
    )  # fmt: skip
    for number in range(task["first"], race.calls):
        due = race.instant(race.length_s * number / race.calls)
        while clock.now() < due:
            real.sleep(_PAUSE_S)
        rng = random.Random(f"{race.seed}/{task['number']}/{number}")
        budget.fate = rng.choice(("reserved", "answered", "booked", "torn")) if rng.random() < race.kills else ""
        _report(task, f"{number} {budget.fate or '-'} begun")
        found = door.ask(_prompt(task["number"], number))
        _report(task, f"{number} {budget.fate or '-'} {'OK' if isinstance(found, Answer) else found.code}")


def _prompt(process: int, number: int) -> Prompt:
    return Prompt(
        purpose=Purpose.ADVICE, system="You review.", user=f"Call {number} of process {process}.",
        session=date(2026, 10, 30), data_sha256="0" * 64,
    )  # fmt: skip


def _report(task: Task, line: str) -> None:
    with Path(task["report"]).open("a", encoding="ascii") as file:
        file.write(line + "\n")


# ---------------------------------------------------------------- the parent
def run_race(host: VenueHost, race: Race, *, folder: Path | None = None) -> Raced:
    calendar = market_calendar()
    with tempfile.TemporaryDirectory(prefix="kobe-llm-race-", dir=folder) as name:
        root = Path(name)
        clock = SharedClock(root / "clock", race.instant(0))
        plan = plan_of(race)
        store = host.open(_market(), clock, Path(":memory:"), calendar=calendar, faults=plan)
        host.model.thinking_tokens = _THINKING
        host.model.dearer = {_RISE: Decimal(_RISE_FACTOR)}
        try:
            with Children(CHILD) as children, _time_passes(race, clock, root) as start:
                tasks = [_task(race, root, host.base_url, number) for number in range(race.processes)]
                ends = _raced(children, tasks, start)
            return judge(race, root, host.model, ends, [*host.failures])
        finally:
            store.close()
            clock.close()


def _market() -> Any:
    """The venue needs one; nobody trades in it."""
    from core.market.real import BarsMarket

    return BarsMarket({})


def _task(race: Race, root: Path, url: str, number: int) -> dict[str, Any]:
    fields = {name: getattr(race, name) for name in Race.__dataclass_fields__}
    return {
        "race": fields, "root": str(root), "url": url, "clock": str(root / "clock"), "number": number, "first": 0,
        "calendar": str(root / "calendar"), "report": str(root / f"report-{number}"),
    }  # fmt: skip


def _raced(children: Children, tasks: Sequence[dict[str, Any]], start: threading.Event) -> list[int]:
    """Start all, and each one again behind the call that killed it."""
    market_calendar(Path(tasks[0]["calendar"]))  # worked out once, not by every process
    running = [(children.start(task), task) for task in tasks]
    start.set()
    ends, real = [], SystemClock()
    while running:
        number, task = running.pop(0)
        end = children.poll(number)
        if end is None:
            running.append((number, task))
            real.sleep(_PAUSE_S)
        elif end == KILLED:
            task["first"] = int(Path(task["report"]).read_text("ascii").splitlines()[-1].split()[0]) + 1
            running.append((children.start(task), task))
        else:
            ends.append(end)
    return ends


@contextmanager
def _time_passes(race: Race, clock: SharedClock, root: Path) -> Iterator[threading.Event]:
    """Moves the shared clock once `start` is set, and deletes the budget file a second before each midnight."""
    start, over, real = threading.Event(), threading.Event(), SystemClock()

    def tick() -> None:
        start.wait()
        began, deleted = real.monotonic(), -1
        while not over.is_set():
            elapsed_s = real.monotonic() - began
            clock.set(race.instant(elapsed_s))
            part = int((elapsed_s + race.around_s / 8) // race.around_s)
            if part % 2 == 1 and part > deleted:
                deleted = part
                with suppress(OSError):  # on Windows one that somebody reads just now cannot go
                    (root / "state" / FILE).unlink()
            real.sleep(_PAUSE_S)

    thread = threading.Thread(target=tick, name="race-clock", daemon=True)
    thread.start()
    try:
        yield start
    finally:
        over.set()
        start.set()
        thread.join()


# ---------------------------------------------------------------- the judge
def judge(race: Race, root: Path, model: SimulatedModel, ends: Sequence[int], failures: list[str]) -> Raced:
    settings = settings_of(LlmAnalyzer(), race)
    limits = Amount(settings.max_daily_tokens, settings.cost_tracking.max_daily_usd)
    lines = list(audit.read_calls(root / "state" / audit.FILE))
    reserved = {line["id"]: line for line in lines if line["kind"] == "reserved"}
    settled = {line["id"]: line for line in lines if line["kind"] == "settled"}
    booked: dict[str, Amount] = defaultdict(Amount)
    for key, line in reserved.items():
        booked[line["day"]] += _amount(settled.get(key, line))
    days = tuple(
        DayOf(day, Amount(bill.tokens, bill.usd), booked[day.isoformat()]) for day, bill in sorted(model.bills.items())
    )
    known = [line for line in settled.values() if not line["kept"]]
    reports = [path.read_text("ascii").split("\n") for path in sorted(root.glob("report-*"))]
    told = [line.split() for report in reports for line in report if line]
    codes = Counter(code for _, _, code in told if code != "begun")
    begun = {
        (n, number, fate) for n, r in enumerate(reports) for number, fate, _ in (line.split() for line in r if line)
    }
    raced = Raced(
        days=days, limits=limits, requests=model.requests, codes=dict(sorted(codes.items())),
        kills=dict(sorted(Counter(fate for _, _, fate in begun if fate != "-").items())),
        kept_usd=_usd(line for line in settled.values() if line["kept"]),
        open_usd=_usd(line for key, line in reserved.items() if key not in settled),
        returned_usd=sum((Decimal(li["reserved_usd"]) - Decimal(li["usd"]) for li in known), Decimal(0)),
        not_returned_usd=_not_returned(root, settings, lines), resets=sum(li["kind"] == "day_began" for li in lines),
    )  # fmt: skip
    found = [*_violations(raced, race, lines), *(f"a process ended with {end}" for end in ends if end), *failures]
    if len(begun) != race.processes * race.calls:
        found.append(f"{len(begun)} calls begun, {race.processes * race.calls} wanted")
    failed = root / "child-failed.txt"
    found += [failed.read_text("utf-8")] if failed.exists() else []
    return Raced(**{**{name: getattr(raced, name) for name in Raced.__dataclass_fields__}, "violations": tuple(found)})


def _violations(raced: Raced, race: Race, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in raced.days:
        if one.billed.tokens > raced.limits.tokens or one.billed.usd > raced.limits.usd:
            yield f"{one.day}: {one.billed} billed, the limits are {raced.limits}"
    billed = sum((one.billed for one in raced.days), Amount())
    booked = sum((_amount(line) for line in _last_words(lines)), Amount())
    if billed.tokens > booked.tokens or billed.usd > booked.usd:
        yield f"{billed} billed, only {booked} booked"
    if raced.not_returned_usd:
        yield f"{raced.not_returned_usd} USD of known calls did not come back"
    begun = [str(line["day"]) for line in lines if line["kind"] == "day_began"]
    if begun != [day.isoformat() for day in race.days()]:
        yield f"days begun: {begun}"


def _last_words(lines: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Of each call its settlement, else its reservation."""
    calls: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        if line["kind"] in ("reserved", "settled"):
            calls[str(line["id"])] = line
    yield from calls.values()


def _not_returned(root: Path, settings: LlmAnalyzer, lines: Sequence[Mapping[str, Any]]) -> Decimal:
    """What the budget counts on its last day beyond real cost, unknown outcomes and calls without an end."""
    last = max(str(line["day"]) for line in lines if line["kind"] == "day_began")
    since = max(i for i, line in enumerate(lines) if line["kind"] == "day_began")
    carried = set(lines[since]["carried"])
    due = [li for li in _last_words(lines) if li["day"] == last or li["id"] in carried]
    clock = SharedClock(root / "clock")
    try:
        used = TokenBudget(Home(root), settings, clock).cost_usd_today
    finally:
        clock.close()
    return used - _usd(due)


def _usd(lines: Any) -> Decimal:
    return sum((Decimal(line["usd"]) for line in lines), Decimal(0))


def _amount(line: Mapping[str, Any]) -> Amount:
    return Amount(int(line["tokens"]), Decimal(line["usd"]))


def as_lines(raced: Raced) -> list[str]:
    """For people."""
    rows = [f"limits of a day: {raced.limits.tokens} tokens, {raced.limits.usd} USD"]
    for one in raced.days:
        rows.append(
            f"{one.day}  billed {one.billed.tokens} tokens {one.billed.usd:.4f} USD"
            f"  booked {one.booked.tokens} tokens {one.booked.usd:.4f} USD"
        )
    rows.append(f"requests {raced.requests}  days begun {raced.resets}  killed {json.dumps(raced.kills)}")
    rows.append(f"ends {json.dumps(raced.codes)}")
    rows.append(
        f"USD given back {raced.returned_usd:.4f}, not given back {raced.not_returned_usd}; kept because nobody knows "
        f"{raced.kept_usd:.4f}, of killed processes {raced.open_usd:.4f}"
    )
    return rows
