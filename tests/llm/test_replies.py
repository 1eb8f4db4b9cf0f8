"""What a server says of waiting: seconds, a date, or nothing that can be used; never an exception."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from data.providers.base import retry_after_s
from llm.replies import read_error

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def rest_s(header: str) -> float | None:
    return read_error(429, {"retry-after": header}, b"{}", NOW).rest_s


def test_seconds_and_dates_are_understood() -> None:
    assert (rest_s("7"), rest_s("Tue, 24 Nov 2026 00:01:00 GMT")) == (7.0, 60.0)


@pytest.mark.parametrize(
    "header",
    ["", "soon", "nan", "inf", "-1", "Mon, 01 Jan 99999999999 00:00:00 GMT",
     "Mon, 01 Jan 99999999999999999999 00:00:00",
     "Tue, 24 Nov 2026 99999999999999999999:00:00 GMT", "Tue, 24 Nov 2026 00:00:00 +999999999999999"],
)  # fmt: skip
def test_a_date_beyond_all_bounds_says_nothing_and_ends_no_scan(header: str) -> None:
    assert rest_s(header) is None
    assert retry_after_s(header, NOW) in (None, 0.0)
