"""Nothing with a key in it gets through, whatever its spelling; everything else comes back unchanged."""

from __future__ import annotations

import base64
import json
import logging
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.secrets import MASK, SecretsMaskingFilter, mask_secrets, mask_values

CANARY = "PKc4n/Ry+0123456789=Zz"


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ALPACA_API_SECRET_KEY", CANARY)
    return CANARY


@pytest.mark.parametrize(
    "text",
    ["POLYGON_API_KEY={}", "POLYGON_API_KEY = '{}'", "https://x/v2?apiKey={}&limit=1", '{{"api_key": "{}", "n": 1}}',
     "APCA-API-SECRET-KEY: {}", "{{'APCA-API-KEY-ID': '{}'}}", "Authorization: Bearer {}", "authorization=Basic {}",
     '{{\\"secret_key\\": \\"{}\\"}}', "x-api-key: {}", "password={}", "Bearer {}"],
)  # fmt: skip
def test_shapes_are_masked_without_knowing_the_value(text: str) -> None:
    masked = mask_secrets(text.format("abc123def456ghi789"))
    assert "abc123" not in masked and MASK in masked


def test_the_name_stays_so_that_the_operator_can_see_which() -> None:
    assert mask_secrets("POLYGON_API_KEY=abc123") == "POLYGON_API_KEY=***"
    assert json.loads(mask_secrets('{"api_key": "a b", "n": 1}')) == {"api_key": MASK, "n": 1}
    assert mask_secrets("sk-ant-api03-abcdefgh is it") == "*** is it"


@pytest.mark.parametrize("lead", ["", "a", "ab", "abc", "key:"])
def test_the_known_value_is_masked_in_every_spelling(canary: str, lead: str) -> None:
    raw = (lead + canary + "tail").encode()
    for text in (
        f"x {lead}{canary} y", base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(),
        quote(raw, safe=""), raw.hex(), raw.hex().upper(),
        f"{canary[:9]}\n{canary[9:]}", f"{canary[:9]}\\n{canary[9:]}",
        f"{canary[:4]}\r\n    {canary[4:]}",
    ):  # fmt: skip
        masked = mask_secrets(text)
        assert MASK in masked
        for form in (
            canary,
            base64.b64encode(canary.encode()).decode()[:20],
            quote(canary, safe=""),
            canary.encode().hex(),
        ):
            assert form.lower() not in masked.replace("\n", "").lower()


@pytest.mark.parametrize(
    "text", ["", "a plain line", "order_refused AAPL 10.10", "key figures: 3", '{"symbol": "KEYS"}']
)
def test_other_text_comes_back_unchanged(canary: str, text: str) -> None:
    assert mask_secrets(text) == text


def test_short_values_do_not_mask_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "k")
    assert mask_secrets("kite") == "kite"


@given(around=st.tuples(st.text(max_size=30), st.text(max_size=30)))
def test_whatever_stands_around_it(around: tuple[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPACA_API_SECRET_KEY", CANARY)
        assert CANARY not in mask_secrets(around[0] + CANARY + around[1])


def test_values_inside_structures(canary: str) -> None:
    row = {"api_key": "short", "list": [canary, 1, None], "deep": {"x": f"a{canary}"}, "Authorization": "t", "n": 1.5}
    assert mask_values(row) == {
        "api_key": MASK, "list": [MASK, 1, None], "deep": {"x": f"a{MASK}"}, "Authorization": MASK, "n": 1.5
    }  # fmt: skip


def test_the_filter_masks_message_arguments_and_traceback(canary: str) -> None:
    try:
        raise ValueError(canary)
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "key %s", (canary,), info)
    assert SecretsMaskingFilter().filter(record) is True
    assert canary not in logging.Formatter().format(record) and "ValueError" in logging.Formatter().format(record)
    wrong = logging.LogRecord("x", logging.ERROR, __file__, 1, "key %s %s", (canary,), None)
    assert SecretsMaskingFilter().filter(wrong) and canary not in wrong.getMessage()
