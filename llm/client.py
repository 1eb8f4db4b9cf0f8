"""The only door to the language model: cache, budget, one POST with a deadline of its own, settlement, raw kept.

Nothing here raises for what the model, the network or the budget does: it ends as `Skipped` with a stable code, and
the caller goes on exactly as with the language model off. Nothing is ever sent twice. The order of the steps is the
safety argument: what may not be sent is refused first, what is known costs nothing, what is sent is reserved before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from core import logs
from core.canonical import canonical_json
from core.clock import Clock, SystemClock
from core.env import proxy_for
from core.errors import ConfigError, StateCorrupt
from core.market_calendar import MarketCalendar
from core.paths import Home
from core.secrets import holds_secret, mask_secrets
from llm.cache import AnswerCache, Kept, key_of
from llm.prices import PriceTable, Usage
from llm.raw import Raw, keep
from llm.replies import Failure, Message, read_error, read_message
from llm.spend import Amount, Refusal, Reservation
from llm.token_budget import LONGEST_REST_S, Settlement, TokenBudget
from llm.wire import Abandoned, Call, ReplyTooLong, bounded_client

if TYPE_CHECKING:
    from config.settings_schema import LlmAnalyzer

_FRAME_TOKENS = 1024  # roles, block marks and what structured output adds to a prompt
_BYTES_A_TOKEN = 4  # at least so many in a long English prefix: for prompt caching only, never for the budget
_REPEATS_TO_PAY = 2  # a write costs 1.25 x and a read 0.1 x: 1.25 + 0.1 (n - 1) < n from the second call on


class Purpose(StrEnum):
    """Who asks: the mode decides who may. `briefings_only` lets words through and no advice."""

    ADVICE = "advice"
    BRIEFING = "briefing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked. `system` is ours and the same every time; `user` holds the data, what is from outside fenced."""

    purpose: Purpose
    system: str
    user: str
    session: date  # the session the data is of
    data_sha256: str  # of the data the answer is about
    schema: Mapping[str, Any] | None = None  # JSON schema of the answer; None: free text
    max_output_tokens: int | None = None  # fewer than the settings'; None: the settings'
    repeats: int = 1  # calls within five minutes that share `system`: from 2 on prompt caching pays
    waited_s: float = 0.0  # for earlier parts of the same question: one deadline is for all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer (`end_turn`). Its text is the model's word: data, never an instruction."""

    text: str
    model: str  # the dated id of the reply
    usage: Usage | None  # None: the reply told none, and the whole reservation counts as spent
    cost_usd: Decimal  # of this call; 0 from the cache
    latency_ms: float
    cached: bool
    request_sha256: str
    model_changed: bool = False  # another dated id than the last reply for the same name: comparisons begin anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """No answer, and why. `cost_usd`: what counts as spent all the same, because it may have been billed."""

    code: str  # LLM_…
    detail: str = ""
    cost_usd: Decimal = Decimal(0)
    latency_ms: float = 0.0
    request_sha256: str = ""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What came back from one POST, and after how long."""

    reply: Message | Failure
    raw: bytes
    latency_ms: float


class LlmDoor:
    """Built by `open_door`. One call at a time per thread; threads and processes may share one home."""

    def __init__(
        self, settings: LlmAnalyzer, *, key: str | None, base_url: str, clock: Clock, calendar: MarketCalendar,
        home: Home, budget: TokenBudget, replay: bool = False,
    ) -> None:  # fmt: skip
        self._settings, self._key, self._base_url, self._clock = settings, key, base_url, clock
        self._home, self._budget, self._replay = home, budget, replay
        self._prices = PriceTable(settings.prices)
        folder = home.cache / "llm"
        self._cache = AnswerCache(folder, clock, calendar, ttl_hours=settings.cache.ttl_hours)
        self._client: Any = None

    def ask(self, prompt: Prompt) -> Answer | Skipped:
        """Never raises for anything the model, the network, the cache or the budget does."""
        found = self._ask(prompt)
        if isinstance(found, Skipped):
            logs.event(
                "llm_skipped", code=found.code, detail=found.detail, purpose=prompt.purpose, cost_usd=found.cost_usd
            )
            logs.count("llm_skipped", code=found.code)
        else:
            logs.event(
                "llm_answered", code="OK", purpose=prompt.purpose, model=found.model, cached=found.cached,
                cost_usd=found.cost_usd, latency_ms=found.latency_ms,
            )  # fmt: skip
            logs.count("llm_answered", cached=found.cached)
        return found

    def _ask(self, prompt: Prompt) -> Answer | Skipped:
        refused = self._off(prompt) or self._secret(prompt)
        if refused is not None:
            return refused
        request = self._request(prompt)
        digest = key_of({**request, "data_sha256": prompt.data_sha256, "session": prompt.session})
        known = self._known(digest)
        if known is not None:
            return known
        if self._replay:
            return Skipped(code="LLM_REPLAY_MISS", detail="not among the kept answers", request_sha256=digest)
        if prompt.waited_s >= self._settings.deadline_s:
            return Skipped(code="LLM_TIMEOUT", detail="deadline_s went by with earlier parts", request_sha256=digest)
        if not self._key:
            return Skipped(code="LLM_KEY_ABSENT", detail="ANTHROPIC_API_KEY is not set", request_sha256=digest)
        worst = self._worst(request)
        if worst is None:
            detail = f"{self._settings.model} has no price in cognitive.llm_analyzer.prices"
            return Skipped(code="LLM_PRICE_UNKNOWN", detail=detail, request_sha256=digest)
        made = self._budget.reserve(
            worst, model=self._settings.model, purpose=prompt.purpose, request_sha256=digest
        )  # fmt: skip
        if isinstance(made, Refusal):
            return Skipped(code=made.code, detail=made.detail, request_sha256=digest)
        return self._settled(prompt, request, digest, made, self._send(request, prompt))

    # ------------------------------------------------------------ before
    def _off(self, prompt: Prompt) -> Skipped | None:
        mode = self._settings.mode if self._settings.enabled else "off"
        if mode == "off":
            return Skipped(code="LLM_OFF", detail="cognitive.llm_analyzer is off")
        if mode == "briefings_only" and prompt.purpose is not Purpose.BRIEFING:
            return Skipped(code="LLM_BRIEFINGS_ONLY", detail="cognitive.llm_analyzer.mode is briefings_only")
        return None

    def _secret(self, prompt: Prompt) -> Skipped | None:
        """A key in any spelling that is masked elsewhere: then not one byte of the prompt leaves."""
        for text in (prompt.system, prompt.user, canonical_json(dict(prompt.schema or {}))):
            if holds_secret(text.encode("utf-8", "surrogatepass")) or mask_secrets(text) != text:
                logs.error_event("llm_prompt_blocked", code="LLM_SECRET_IN_PROMPT", purpose=prompt.purpose)
                return Skipped(code="LLM_SECRET_IN_PROMPT", detail="the prompt holds what looks like a key")
        return None

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        """The body's content, without what only concerns the vendor's caching."""
        most = self._settings.max_output_tokens
        return {
            "model": self._settings.model, "max_tokens": min(most, prompt.max_output_tokens or most),
            "system": prompt.system, "user": prompt.user,
            "schema": None if prompt.schema is None else dict(prompt.schema),
        }  # fmt: skip

    def _known(self, digest: str) -> Answer | None:
        if not self._replay and not self._settings.cache.enabled:
            return None
        kept = self._cache.get(digest, any_age=self._replay)
        if kept is None:
            return None
        usage = None if kept.usage is None else Usage(**kept.usage)
        return Answer(
            text=kept.text, model=kept.model, usage=usage, cost_usd=Decimal(0), latency_ms=kept.latency_ms,
            cached=True, request_sha256=digest,
        )  # fmt: skip

    def _worst(self, request: Mapping[str, Any]) -> Amount | None:
        """A token is at least a byte; nothing smaller is a bound, least of all for text from outside."""
        text = "".join((request["system"], request["user"], canonical_json(request["schema"])))
        input_most = len(text.encode("utf-8", "surrogatepass")) + _FRAME_TOKENS
        output_most = int(request["max_tokens"])
        usd = self._prices.worst_usd(self._settings.model, self._budget.new_york_day(), input_most, output_most)
        return None if usd is None else Amount(input_most + output_most, usd)

    # ------------------------------------------------------------ the call
    def _send(self, request: Mapping[str, Any], prompt: Prompt) -> _Sent:
        began = self._clock.monotonic()
        left_s = self._settings.deadline_s - prompt.waited_s
        raw, reply = self._post(_body(request, marked=self._marked(prompt)), left_s)
        return _Sent(reply, raw, 1000 * (self._clock.monotonic() - began))

    def _marked(self, prompt: Prompt) -> bool:
        """Whether the prefix is marked for prompt caching: long enough to be kept, and used again soon."""
        tokens = len(prompt.system.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN
        return prompt.repeats >= _REPEATS_TO_PAY and tokens >= self._settings.caching_from_tokens

    def _post(self, body: Mapping[str, Any], deadline_s: float) -> tuple[bytes, Message | Failure]:
        import anthropic
        import httpx2

        vendors = (anthropic.AnthropicError, httpx2.HTTPError, httpx2.InvalidURL, Abandoned, ReplyTooLong)
        expected = (*vendors, OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError)
        try:
            client = self._opened()
        except ConfigError as error:
            return b"", Failure(code="LLM_UNREACHABLE", detail=str(error), free=True)
        call = Call(lambda: _plain_reply(client, body), expected)
        try:
            raw = call.run(deadline_s)
            return raw, read_message(raw)
        except anthropic.APIStatusError as error:
            raw = _content(error.response)
            return raw, read_error(error.status_code, error.response.headers, raw, self._clock.now())
        except expected as error:
            return b"", _lost(error, sent=call.attempt.sent)

    def _opened(self) -> Any:
        """Raises ConfigError for a proxy that cannot be used. The key is given, so no profile on disk is looked for."""
        if self._client is None:
            import anthropic

            seconds = self._settings.deadline_s
            http = bounded_client(proxy=proxy_for(self._base_url), timeout_s=seconds)
            self._client = anthropic.Anthropic(
                api_key=self._key, base_url=self._base_url, max_retries=0, timeout=seconds, http_client=http
            )
        return self._client

    # ------------------------------------------------------------ after
    def _settled(
        self, prompt: Prompt, request: Mapping[str, Any], digest: str, made: Reservation, sent: _Sent
    ) -> Answer | Skipped:
        """Book first, then look at what the words are worth."""
        reply = sent.reply
        message = reply if isinstance(reply, Message) else None
        changed = message is not None and self._model_changed(made.model, message.model)
        settlement = self._settlement(made, sent)
        self._budget.settle(made, settlement)
        keep(self._home.logs, self._clock, Raw(digest, prompt.purpose, made.model, settlement.code, request, sent.raw))
        cost = settlement.amount.usd
        if message is None or message.code != "OK":
            detail = reply.detail
            if reply.code == "LLM_TOOL_UNASKED":
                logs.error_event("llm_injection_suspected", code="LLM_INJECTION", detail=detail, request_sha256=digest)
                logs.count("llm_injection_suspected")
            return Skipped(
                code=reply.code, detail=detail, cost_usd=cost, latency_ms=sent.latency_ms, request_sha256=digest
            )
        if self._settings.cache.enabled:
            kept = Kept(
                text=message.text, model=message.model, usage=None if message.usage is None else asdict(message.usage),
                latency_ms=sent.latency_ms, stored_at=self._clock.now(),
            )  # fmt: skip
            self._cache.put(digest, kept, {"purpose": prompt.purpose, "session": prompt.session, "asked": made.model})
        return Answer(
            text=message.text, model=message.model, usage=message.usage, cost_usd=cost, latency_ms=sent.latency_ms,
            cached=False, request_sha256=digest, model_changed=changed,
        )  # fmt: skip

    def _settlement(self, made: Reservation, sent: _Sent) -> Settlement:
        reply = sent.reply
        if isinstance(reply, Failure):
            amount = Amount() if reply.free else made.amount
            return Settlement(
                code=reply.code, amount=amount, kept=not reply.free, failed=reply.may_pass,
                rest_s=self._rest_s(reply), latency_ms=sent.latency_ms,
            )  # fmt: skip
        cost = None if reply.usage is None else self._cost(made, reply.model, reply.usage)
        amount = made.amount if cost is None or reply.usage is None else Amount(reply.usage.tokens, cost)
        return Settlement(
            code=reply.code, amount=amount, kept=cost is None, answered=True, latency_ms=sent.latency_ms,
            usage=reply.usage, reply_model=reply.model,
        )  # fmt: skip

    def _rest_s(self, reply: Failure) -> float | None:
        if reply.spend_limit:
            return LONGEST_REST_S
        return self._settings.rest_s if reply.code == "LLM_RATE_LIMITED" and reply.rest_s is None else reply.rest_s

    def _cost(self, made: Reservation, reply_model: str, usage: Usage) -> Decimal | None:
        """The dearest of what it can have cost: asked or answering model, day of the reservation or of the reply.

        None when the answering model has no price: then the whole reservation counts.
        """
        days = {made.day, self._budget.new_york_day()}
        prices = [self._prices.price(name, day) for name in (made.model, reply_model) for day in days]
        known = [price.cost_usd(usage) for price in prices if price is not None]
        if self._prices.model_of(reply_model) is None or len(known) < len(prices):
            logs.error_event("llm_model_unpriced", code="LLM_MODEL_UNPRICED", asked=made.model, answered=reply_model)
            logs.count("llm_model_unpriced")
            return max([*known, made.amount.usd])
        return max(known)

    def _model_changed(self, asked: str, answered: str) -> bool:
        """Told once: the settlement notes the new id for the next look."""
        try:
            before = self._budget.last_model(asked)
        except StateCorrupt:
            return False
        if before is None or before == answered:
            return False
        logs.error_event("llm_model_changed", code="LLM_MODEL_CHANGED", asked=asked, before=before, now=answered)
        logs.count("llm_model_changed")
        return True


def _body(request: Mapping[str, Any], *, marked: bool) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": request["system"]}
    if marked:
        block["cache_control"] = {"type": "ephemeral"}
    body: dict[str, Any] = {
        "model": request["model"], "max_tokens": request["max_tokens"], "system": [block],
        "messages": [{"role": "user", "content": request["user"]}],
    }  # fmt: skip
    if request["schema"] is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": request["schema"]}}
    return body


def _plain_reply(client: Any, body: Mapping[str, Any]) -> bytes:
    """The reply's bytes: the SDK's own reading is lenient and loses what it does not like, the usage with it."""
    return _content(client.messages.with_raw_response.create(**body).http_response)


def _content(response: Any) -> bytes:
    content: bytes = response.content
    return content


def _lost(error: BaseException, *, sent: bool) -> Failure:
    """No text of the exception beyond its kind: it may carry the request, and the request carries the key."""
    kinds = {type(one).__name__ for one in (error, error.__cause__, error.__context__) if one is not None}
    detail = ", ".join(sorted(kinds))
    if isinstance(error, TimeoutError) or any("Timeout" in kind for kind in kinds):
        code = "LLM_TIMEOUT"
    elif not sent:
        code = "LLM_UNREACHABLE"
    else:
        code = "LLM_MALFORMED" if "ReplyTooLong" in kinds else "LLM_CONNECTION_LOST"
    return Failure(code=code, detail=detail, free=not sent)


def open_door(
    settings: LlmAnalyzer, *, key: str | None, base_url: str, clock: Clock, calendar: MarketCalendar, home: Home,
    budget: TokenBudget | None = None, replay: bool = False,
) -> LlmDoor:  # fmt: skip
    """`settings`: cognitive.llm_analyzer; `key` and `base_url`: core.env.keys().anthropic, endpoints(mode).anthropic.

    clock : of what is asked about; an answer's age is counted on it. Money is spent today, whatever day is played: the
    budget's clock is the machine's, unless a budget is handed in.
    replay : answers come from the cache only, of any age, at no cost; a miss is Skipped LLM_REPLAY_MISS.
    """
    return LlmDoor(
        settings, key=key, base_url=base_url, clock=clock, calendar=calendar, home=home, replay=replay,
        budget=budget or TokenBudget(home, settings, SystemClock()),
    )  # fmt: skip


def warm() -> None:
    """Import what the first call would import."""
    import anthropic.resources.messages  # noqa: F401 - imported for its time only
    import httpx2  # noqa: F401 - the same
