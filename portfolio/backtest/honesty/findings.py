"""What a check says: pass, fail with the line to blame, or unknown because it could not be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """n: trades, rows or names looked at · blame: trade, bar or column · code: stable, OK when nothing was found."""

    name: str
    verdict: Verdict
    n: int
    blame: str | None
    detail: str
    code: str


def passed(name: str, n: int, detail: str) -> Check:
    """Nothing looked at is nothing known: with n = 0 the answer is unknown."""
    if n < 1:
        return unknown(name, "nothing to look at", code="NOTHING_TO_LOOK_AT")
    return Check(name, Verdict.PASS, n, None, detail, "OK")


def failed(name: str, n: int, detail: str, *, code: str, blame: str) -> Check:
    return Check(name, Verdict.FAIL, n, blame, detail, code)


def unknown(name: str, detail: str, *, code: str, n: int = 0) -> Check:
    return Check(name, Verdict.UNKNOWN, n, None, detail, code)


def overall(checks: Sequence[Check]) -> Verdict:
    """The worst of them; no check at all is unknown."""
    said = {check.verdict for check in checks}
    if Verdict.FAIL in said:
        return Verdict.FAIL
    return Verdict.UNKNOWN if Verdict.UNKNOWN in said or not said else Verdict.PASS


def document(checks: Sequence[Check]) -> dict[str, Any]:
    """As it stands in summary.json under `honesty`."""
    return {
        "verdict": str(overall(checks)),
        "checks": [asdict(check) | {"verdict": str(check.verdict)} for check in checks],
    }
