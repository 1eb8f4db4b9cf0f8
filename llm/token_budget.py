"""The hard daily budget of the language model, across processes: reserved before a call, settled after it.

    from llm.token_budget import get_token_budget
    get_token_budget().get_status()                  what is used, both limits, which one binds
    get_token_budget().get_remaining_percent()       of the tighter limit
    b.used_today = 0; b.cost_usd_today = 0; b._save_state()      a person's reset: kept in journal and audit

| what went wrong                                | what counts as spent                                     |
|------------------------------------------------|----------------------------------------------------------|
| killed between call and settlement             | the whole reservation, until the New York day is over    |
| nobody knows whether the call was billed       | the whole reservation                                    |
| state/llm_token_usage.json deleted or damaged  | what the audit says; it is written again                 |
| the audit deleted, or an older one put back    | what the budget file says; the audit begins anew with it |
| both damaged, or a newer program's             | everything: nothing is asked until a person resets       |
| the clock set back                             | the later day goes on; no day begins twice               |

The day is New York's. It begins once, with the first look of a writer after midnight there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core import documents, logs
from core.canonical import canonical_json, iso_utc
from core.clock import Clock, SystemClock
from core.errors import KobeError, StateCorrupt, StateLocked, UsageError
from core.files import locked, write_atomic
from core.journal import Journal
from core.market_calendar import NEW_YORK
from core.paths import Home, home
from llm import audit, spend
from llm.prices import PriceTable, Usage
from llm.spend import Amount, Day, Limits, Refusal, Reservation

if TYPE_CHECKING:
    from config.settings_schema import LlmAnalyzer

FILE = "llm_token_usage.json"
SCHEMA_VERSION = 1
LONGEST_REST_S = 3600.0  # that a server's word can bring about
_LOCK_S = 10.0
_GRACE_S = 5.0  # beyond its deadline a call may still be on the wire for a moment
_DAMAGE = (KeyError, ValueError, TypeError, AttributeError, ArithmeticError)

T = TypeVar("T")


def _check(document: dict[str, Any]) -> None:
    try:
        spend.from_document(document)
    except ArithmeticError as error:
        raise ValueError("a number is none") from error
    place = document["audit"]
    if type(place["bytes"]) is not int or place["bytes"] < 0 or not isinstance(place["chain"], str):
        raise ValueError("the place in the audit is none")


SCHEMA = documents.Schema(SCHEMA_VERSION, check=_check)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What became of a call. `amount`: what counts as spent from now on."""

    code: str  # "OK" or LLM_…
    amount: Amount
    kept: bool = False  # nobody knows: the reservation itself counts
    answered: bool = False  # a complete reply, whose latency counts
    failed: bool = False  # of a kind that may pass: several in a row bring a rest
    rest_s: float | None = None  # the server's own word
    latency_ms: float = 0.0
    usage: Usage | None = None
    reply_model: str | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies on the disk. `lost`: the audit does not hold what the budget file was written beside."""

    day: Day | None
    tail: audit.Tail
    lost: bool = False


class TokenBudget:
    """Each call reads what other processes wrote. Its lock is held for milliseconds, never during a call."""

    def __init__(self, place: Home, settings: LlmAnalyzer, clock: Clock) -> None:
        self._home, self._settings, self._clock = place, settings, clock
        self.file, self.audit_file = place.state / FILE, place.state / audit.FILE
        tracking = settings.cost_tracking
        self.limits = Limits(settings.max_daily_tokens, tracking.max_daily_usd if tracking.enabled else None)
        self._wanted: dict[str, Any] = {}  # what a person has set and not yet saved

    # ------------------------------------------------------------ a call
    def reserve(self, worst: Amount, *, model: str, purpose: str, request_sha256: str) -> Reservation | Refusal:
        """Take the worst case of one call, or say why not. Afterwards it counts, whatever becomes of this process."""

        def change(day: Day, now: datetime) -> tuple[list[dict[str, Any]], Reservation | Refusal]:
            refused = self._resting(day, now) or spend.refusal(day.used, worst, self.limits)
            if refused is not None:
                return [], refused
            until = now + timedelta(seconds=self._settings.deadline_s + _GRACE_S)
            made = Reservation(uuid.uuid4().hex[:16], day.day, until, worst, model)
            line = {
                "kind": "reserved", "at": iso_utc(now), "id": made.id, "day": made.day, "until": iso_utc(until),
                "tokens": worst.tokens, "usd": worst.usd, "model": model, "purpose": purpose,
                "request_sha256": request_sha256,
            }  # fmt: skip
            return [line], made

        try:
            return self._change(change)
        except StateLocked as error:
            return Refusal("LLM_BUDGET_LOCKED", str(error))
        except StateCorrupt as error:
            return Refusal(error.code, str(error))
        except OSError as error:
            return Refusal("LLM_BUDGET_UNWRITABLE", str(error.strerror or error))

    def settle(self, made: Reservation, settled: Settlement) -> None:
        """Book what the call cost in place of its reservation. Never raises: what cannot be booked stays reserved."""

        def change(day: Day, now: datetime) -> tuple[list[dict[str, Any]], Day]:
            line = self._settlement(made, settled, day, now)
            after = spend.applied(day, line)
            return [line, *self._warnings(after, now)], after

        try:
            day = self._change(change)
        except (KobeError, OSError) as error:
            logs.error_event("llm_settlement_lost", code="LLM_SETTLEMENT_LOST", detail=str(error), reserved=made.amount)
            logs.count("llm_settlement_lost")
            return
        if settled.amount.tokens > made.amount.tokens or settled.amount.usd > made.amount.usd:
            logs.error_event(
                "llm_reservation_exceeded", code="LLM_RESERVATION_EXCEEDED", reserved=made.amount, cost=settled.amount
            )
            logs.count("llm_reservation_exceeded")
        logs.event("llm_call_settled", code=settled.code, model=made.model, used_today=day.used, kept=settled.kept)

    def _settlement(self, made: Reservation, settled: Settlement, day: Day, now: datetime) -> dict[str, Any]:
        failures = day.failures + 1 if settled.failed else 0 if settled.answered else day.failures
        rest_s = settled.rest_s
        if rest_s is None and settled.failed and failures >= self._settings.rest_after:
            rest_s = self._settings.rest_s
        until = None if rest_s is None else now + timedelta(seconds=min(rest_s, self._longest_rest_s))
        return {
            "kind": "settled", "at": iso_utc(now), "id": made.id, "day": made.day, "code": settled.code,
            "tokens": settled.amount.tokens, "usd": settled.amount.usd, "reserved_tokens": made.amount.tokens,
            "reserved_usd": made.amount.usd, "kept": settled.kept, "answered": settled.answered,
            "latency_ms": round(settled.latency_ms, 3), "usage": settled.usage, "model": made.model,
            "reply_model": settled.reply_model, "failures": failures,
            "rest": None if until is None else {"until": iso_utc(until), "code": settled.code},
        }  # fmt: skip

    @property
    def _longest_rest_s(self) -> float:
        return max(LONGEST_REST_S, self._settings.rest_s)

    def _resting(self, day: Day, now: datetime) -> Refusal | None:
        """A rest further away than any can be was written by a clock that has been set back since: it is over."""
        if day.rest is None or not 0 < (day.rest.until - now).total_seconds() <= self._longest_rest_s:
            return None
        return Refusal("LLM_RESTING", f"{day.rest.code}: nothing is asked until {iso_utc(day.rest.until)}")

    def _warnings(self, day: Day, now: datetime) -> list[dict[str, Any]]:
        """Once a day each: the dollar alert of the runbook, and a share of the tighter limit."""
        tracking, found = self._settings.cost_tracking, []
        if tracking.enabled and day.used.usd >= tracking.alert_threshold_usd:
            found.append("LLM_COST_HIGH")
        if max(spend.used_fractions(day.used, self.limits).values()) >= self._settings.warn_pct:
            found.append("LLM_BUDGET_LOW")
        new = [code for code in found if code not in day.told]
        for code in new:
            logs.error_event("llm_budget_warned", code=code, used=day.used, limits=self.limits)
            logs.count("llm_budget_warned", code=code)
        return [{"kind": "warned", "at": iso_utc(now), "code": code} for code in new]

    def new_york_day(self) -> date:
        """By the clock that money is counted on; the day that is being spent from may be a later one."""
        return self._new_york(self._clock.now())

    def last_model(self, name: str) -> str | None:
        """The id that answered last when `name` was asked; None when nobody has. Raises StateCorrupt."""
        day = self._read().day
        return None if day is None else day.models.get(name)

    # ------------------------------------------------------------ what a person asks
    @property
    def used_today(self) -> int:
        """Tokens of the New York day, reservations included; the whole limit when it cannot be known."""
        day = self._today()
        return int(self._wanted.get("tokens", self.limits.tokens if isinstance(day, Refusal) else day.used.tokens))

    @used_today.setter
    def used_today(self, tokens: int) -> None:
        if type(tokens) is not int or tokens < 0:
            raise UsageError(f"used_today must be a whole number from 0, was {tokens!r}")
        self._wanted["tokens"] = tokens

    @property
    def cost_usd_today(self) -> Decimal:
        """USD of the New York day, reservations included; the whole limit when it cannot be known."""
        day = self._today()
        spent = self._settings.cost_tracking.max_daily_usd if isinstance(day, Refusal) else day.used.usd
        return Decimal(self._wanted.get("usd", spent))

    @cost_usd_today.setter
    def cost_usd_today(self, usd: Decimal | float | str) -> None:
        try:
            wanted = Decimal(str(usd))
        except InvalidOperation:
            wanted = Decimal("NaN")
        if not wanted.is_finite() or wanted < 0:
            raise UsageError(f"cost_usd_today must be a number from 0, was {usd!r}")
        self._wanted["usd"] = wanted

    def get_remaining_percent(self) -> float:
        """0..100, of whichever limit is nearer; 0 when it cannot be known."""
        return float(self.get_status()["remaining_percent"])

    def get_status(self) -> dict[str, Any]:
        """Both limits side by side and the one that binds. Writes nothing; `code` is OK, or why nothing is asked."""
        day = self._today()
        status: dict[str, Any] = {"code": day.code if isinstance(day, Refusal) else "OK"}
        shown = Day(self._new_york(self._clock.now())) if isinstance(day, Refusal) else day
        known = not isinstance(day, Refusal)
        shares = spend.used_fractions(shown.used, self.limits) if known else {"tokens": 1.0}
        left = max(0.0, 1.0 - max(shares.values()))
        if known and left == 0:
            status["code"] = "LLM_BUDGET_GONE"
        elif known and (resting := self._resting(shown, self._clock.now())) is not None:
            status["code"] = resting.code
        usd = self.limits.usd
        return status | {
            "day": shown.day.isoformat(),
            "used_today": shown.used.tokens if known else None, "max_daily_tokens": self.limits.tokens,
            "remaining_tokens": max(0, self.limits.tokens - shown.used.tokens) if known else 0,
            "cost_usd_today": float(shown.used.usd) if known else None,
            "max_daily_usd": None if usd is None else float(usd),
            "remaining_usd": None if usd is None else float(max(Decimal(0), usd - shown.used.usd)) if known else 0.0,
            "reserved_tokens": shown.reserved.tokens, "reserved_usd": float(shown.reserved.usd),
            "binding": self._binding(shown, shares), "remaining_percent": round(100 * left, 4),
            "calls_today": shown.calls, "answered_today": shown.answered,
            "avg_latency_ms": round(shown.latency_ms / shown.answered, 1) if shown.answered else None,
            "resets_today": shown.resets, "warned": sorted(shown.told),
        }  # fmt: skip

    def _binding(self, day: Day, shares: Mapping[str, float]) -> str:
        """The limit that is nearer; with nothing spent, the one that the dearest tokens of the model reach first."""
        if len(set(shares.values())) > 1 or self.limits.usd is None:
            return max(shares, key=lambda name: shares[name])
        worst = PriceTable(self._settings.prices).worst_usd(self._settings.model, day.day, 0, self.limits.tokens)
        return "usd" if worst is not None and worst > self.limits.usd else "tokens"

    def _save_state(self) -> None:
        """The last step of the runbook's reset. Without one: writes the budget file again from what is known."""
        if self._wanted:
            self.reset("runbook one-liner", tokens=self._wanted.get("tokens"), usd=self._wanted.get("usd"))
        else:
            self._change(lambda day, now: ([], None), write=True)

    def reset(self, reason: str, *, tokens: int | None = 0, usd: Decimal | None = Decimal(0)) -> dict[str, Any]:
        """A person's word on today's spend; None leaves that number. Told in the journal first, then in the audit.

        Calls that may be on the wire stay reserved. Also the way out of damaged files, which are set aside. Raises
        StateCorrupt when the journal cannot be written: then nothing is reset.
        """
        with locked(self.file, timeout_s=_LOCK_S):
            now = self._clock.now()
            found = self._readable()
            before = Day(self._new_york(now)) if found is None or found.day is None else found.day
            still_open = sorted(k for k, r in before.open.items() if r.until > now)
            body = {
                "reason": reason, "day": self._new_york(now), "before": before.used,
                "tokens": before.settled.tokens if tokens is None else tokens,
                "usd": before.settled.usd if usd is None else usd, "still_open": still_open,
            }  # fmt: skip
            Journal(self._home.journal, self._clock, run_id="llm_budget").append("llm_budget_reset", body)
            if found is None:
                self._keep_copy(self.file)
            if found is None or found.lost:
                self._set_aside(self.audit_file)
            tail = audit.Tail((), audit.START, 0) if found is None else found.tail
            lines: list[Mapping[str, Any]] = [{"kind": "reset", "at": iso_utc(now), **body}]
            if tail.end == audit.START:
                lines.insert(0, {"kind": "adopted", "at": iso_utc(now), "state": spend.to_document(before)})
            day = spend.applied(before, _as_read(lines[-1]))
            self._write(day, audit.append(self.audit_file, tail.end, lines, torn_bytes=tail.torn_bytes))
        self._wanted.clear()
        logs.error_event("llm_budget_reset", code="LLM_BUDGET_RESET", reason=reason, before=before.used, after=day.used)
        logs.count("llm_budget_reset")
        return self.get_status()

    def _readable(self) -> _Found | None:
        """What lies on the disk; None when it is damaged. A newer program's file is nobody's to reset."""
        try:
            return self._read()
        except StateCorrupt as error:
            if error.code == "STATE_NEWER":
                raise
            return None

    # ------------------------------------------------------------ the files
    def _today(self) -> Day | Refusal:
        """As a reader sees it, without the lock: a day that has not begun on the disk has nothing spent."""
        try:
            found, now = self._read(), self._clock.now()
            day = found.day
            if day is None or self._new_york(now) > day.day:
                day = spend.applied(day, _as_read(spend.begin(day, self._new_york(now), now)))
            return day
        except StateCorrupt as error:
            return Refusal(error.code, str(error))

    def _change(self, change: Callable[[Day, datetime], tuple[list[dict[str, Any]], T]], *, write: bool = False) -> T:
        """Read, let a new day begin, change, append, write, all under the lock.

        Raises StateCorrupt, StateLocked, OSError.
        """
        with locked(self.file, timeout_s=_LOCK_S):
            now = self._clock.now()
            found = self._read()
            lines: list[dict[str, Any]] = []
            day = found.day
            if found.lost and day is not None:
                self._set_aside(self.audit_file)
                lines.append({"kind": "adopted", "at": iso_utc(now), "state": spend.to_document(day)})
            if day is None or self._new_york(now) > day.day:
                begun = {"at": iso_utc(now), **spend.begin(day, self._new_york(now), now)}
                lines.append(begun)
                day = spend.applied(day, _as_read(begun))
            more, result = change(day, now)
            for line in more:
                day = spend.applied(day, _as_read(line))
            lines += more
            end = found.tail.end
            if lines:
                end = audit.append(self.audit_file, end, list(lines), torn_bytes=found.tail.torn_bytes)
            if lines or write:
                self._write(day, end)
            return result

    def _read(self) -> _Found:
        """The budget file and what the audit tells behind it; without a sound file the whole audit.

        Raises StateCorrupt.
        """
        try:
            document = documents.read(self.file, SCHEMA)
            spoilt = None
        except StateCorrupt as error:
            if error.code == "STATE_NEWER":
                raise
            document, spoilt = {}, error
        if not document:
            tail = audit.read_after(self.audit_file, audit.START)
            if tail.end == audit.START and (spoilt is not None or self._set_aside_before()):
                raise StateCorrupt(
                    f"{spoilt or f'{FILE} is not there'}; and there is no audit to rebuild it from",
                    code="LLM_BUDGET_DAMAGED", advice="python scripts/llm_budget.py reset --reason TEXT",
                ) from spoilt  # fmt: skip
            return _Found(_folded(None, tail.lines), tail)
        day = spend.from_document(document)
        try:
            place = document["audit"]
            tail = audit.read_after(self.audit_file, audit.Mark(place["bytes"], place["chain"]))
        except StateCorrupt as error:
            if error.code != "LLM_AUDIT_LOST":
                raise
            return _Found(day, audit.Tail((), audit.START, 0), lost=True)
        return _Found(_folded(day, tail.lines), tail)

    def _write(self, day: Day, end: audit.Mark) -> None:
        """Not fsynced: the audit is, and this is a view of it."""
        document = {
            "schema_version": SCHEMA_VERSION, **spend.to_document(day),
            "audit": {"bytes": end.bytes, "chain": end.chain},
        }  # fmt: skip
        write_atomic(self.file, canonical_json(document).encode() + b"\n", durable=False)

    def _set_aside(self, path: Path) -> None:
        """Keep a file that is not believed under another name; nothing is deleted."""
        target = self._free_name(path)
        try:
            path.rename(target)
        except FileNotFoundError:
            return
        logs.error_event("llm_file_set_aside", code="LLM_FILE_SET_ASIDE", file=path.name, kept_as=target.name)
        logs.count("llm_file_set_aside")

    def _set_aside_before(self) -> bool:
        """A reset that was killed between two steps: what it set aside says that something was spent."""
        return any(self.file.parent.glob(f"{audit.FILE}.aside-*"))

    def _keep_copy(self, path: Path) -> None:
        """A damaged file stays where it is until it is replaced: gone, it would read as nothing spent."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        write_atomic(self._free_name(path), content)

    def _free_name(self, path: Path) -> Path:
        number = 1
        while (target := path.with_name(f"{path.name}.aside-{number}")).exists():
            number += 1
        return target

    def _new_york(self, at: datetime) -> date:
        return at.astimezone(NEW_YORK).date()


def _as_read(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """A line as the next reader will see it: what is applied now and what is folded later are the same."""
    found: Mapping[str, Any] = json.loads(canonical_json(line))
    return found


def _folded(day: Day | None, lines: tuple[Mapping[str, Any], ...]) -> Day | None:
    for number, line in enumerate(lines, 1):
        try:
            day = spend.applied(day, line)
        except _DAMAGE as error:
            raise audit.damaged(audit.FILE, f"line {number} of what is new", str(error)) from error
    return day


def get_token_budget() -> TokenBudget:
    """With the settings, the home and the clock of this machine."""
    from config.loader import load_settings

    return TokenBudget(home(), load_settings().cognitive.llm_analyzer, SystemClock())
