"""The world's failures, with the exit code a script ends on and what the operator does next.

KobeError
├── UsageError            2   the command line asks for something that cannot be
├── ConfigError          10   settings, .env, universe or frozen parameters
├── StateCorrupt         11   a state document or the journal is damaged
├── StateLocked          12   a lock was held longer than its time-out
├── DataError            20   no usable market data
├── BrokerError
│   ├── BrokerDown       30   unreachable, or answered something that is no answer
│   │   └── RateLimited  30   fewer requests, please; says how long to wait
│   ├── BrokerRejected   31   a definite no
│   └── OutcomeUnknown   32   an order may be live: reconcile, never resend
├── TradingHalted        40   kill switch
├── RiskRefused          41   refused by a limit
└── NotConfirmed         42   --confirm missing

Our own mistakes are ValueError or AssertionError: they are bugs, exit 70, and leave a traceback in logs/errors.jsonl.
Expected refusals are values (core.domain.Breach, Refused …), not exceptions.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """Every exit code a script may end with; anything else is a failure."""

    OK = 0
    NO = 1
    USAGE = 2
    ALREADY_RUNNING = 3
    CONFIG = 10
    STATE_CORRUPT = 11
    STATE_LOCKED = 12
    DATA = 20
    BROKER_DOWN = 30
    BROKER_REJECTED = 31
    OUTCOME_UNKNOWN = 32
    HALTED = 40
    RISK_REFUSED = 41
    NOT_CONFIRMED = 42
    WOULD_PASS = 43
    BUG = 70
    INTERRUPTED = 130


class KobeError(Exception):
    """What failed, which value, and the stable reason code; `advice` says what to do next."""

    exit_code: ClassVar[Exit] = Exit.BUG
    default_code: ClassVar[str] = "KOBE_ERROR"
    default_advice: ClassVar[str] = "see logs/errors.jsonl"

    def __init__(self, message: str, *, code: str | None = None, advice: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.advice = advice or self.default_advice


class UsageError(KobeError):
    exit_code = Exit.USAGE
    default_code = "USAGE"
    default_advice = "run the command with --help"


class AlreadyRunning(KobeError):
    exit_code = Exit.ALREADY_RUNNING
    default_code = "ALREADY_RUNNING"
    default_advice = "stop the other process first"


class ConfigError(KobeError):
    exit_code = Exit.CONFIG
    default_code = "CONFIG_INVALID"
    default_advice = "correct the file and run again"


class StateCorrupt(KobeError):
    exit_code = Exit.STATE_CORRUPT
    default_code = "STATE_CORRUPT"
    default_advice = "python scripts/verify_hash_chain.py, then python scripts/reconcile_alpaca.py --force-sync"


class StateLocked(KobeError):
    exit_code = Exit.STATE_LOCKED
    default_code = "STATE_LOCKED"
    default_advice = "wait for the other script to end, then run again"


class DataError(KobeError):
    exit_code = Exit.DATA
    default_code = "DATA_UNAVAILABLE"
    default_advice = (
        'python -c "from data.providers.multi_source import get_provider_stats; print(get_provider_stats())"'
    )


class BrokerError(KobeError):
    default_code = "BROKER_ERROR"


class BrokerDown(BrokerError):
    exit_code = Exit.BROKER_DOWN
    default_code = "BROKER_DOWN"
    default_advice = "check the network and the broker's status page; nothing was sent"


class RateLimited(BrokerDown):
    """429, and the look-up does not know the order. `retry_after_s`: the broker's own word, bounded."""

    default_code = "RATE_LIMITED"
    default_advice = "nothing was sent; the broker asks for fewer requests"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BrokerRejected(BrokerError):
    """A definite no: the broker answered, and its answer proves that nothing is live."""

    exit_code = Exit.BROKER_REJECTED
    default_code = "BROKER_REJECTED"
    default_advice = "read the broker's message; the order is not live"


class OutcomeUnknown(BrokerError):
    """The request may have reached the broker. Never resend; look it up by its client order id."""

    exit_code = Exit.OUTCOME_UNKNOWN
    default_code = "OUTCOME_UNKNOWN"
    default_advice = "python scripts/reconcile_alpaca.py; do not resend"


class TradingHalted(KobeError):
    exit_code = Exit.HALTED
    default_code = "KILL_SWITCH"
    default_advice = "see docs/emergency.md, Resume: python scripts/preflight.py --all first"


class RiskRefused(KobeError):
    exit_code = Exit.RISK_REFUSED
    default_code = "RISK_REFUSED"
    default_advice = "see the breaches above"


class NotConfirmed(KobeError):
    exit_code = Exit.NOT_CONFIRMED
    default_code = "NOT_CONFIRMED"
    default_advice = "repeat the command with --confirm"
