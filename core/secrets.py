"""Nothing that leaves this process in words may hold a key: logs, errors, terminal, HTML.

Two nets: the shape (KEY=VALUE, headers, URL parameters) and the value itself wherever it turns up, also base64, hex,
URL-encoded, or broken across lines.
"""

from __future__ import annotations

import base64
import logging
import os
import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
SECRET_VARIABLES = (
    "POLYGON_API_KEY",
    "ALPACA_API_KEY_ID",
    "ALPACA_API_SECRET_KEY",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "APCA_API_KEY_ID",
    "APCA_API_SECRET_KEY",
    "STOOQ_API_KEY",
    "KOBE_SIDECAR_TOKEN",
    "KOBE_ALERT_URLS",
    "KOBE_ALERT_FALLBACK_URLS",
    "KOBE_DEADMAN_URL",
)
_ADDRESSES = frozenset({"KOBE_ALERT_URLS", "KOBE_ALERT_FALLBACK_URLS", "KOBE_DEADMAN_URL"})
"""Addresses with keys inside: each address is masked, and so is each part of one that may be a key."""
_LONG_PART = 12  # of an address; a shorter one is a word
_SHORTEST = 6  # a shorter value would mask ordinary words

_NAME = r"[A-Za-z0-9_.-]*(?:api[_-]?key(?:[_-]?id)?|secret(?:[_-]?key)?|(?:access|auth|bearer)[_-]?token|passw(?:or)?d)"
_QUOTED = r"""\\?"[^"]*"|\\?'[^']*'"""
_BARE = r"""[^\s"'&,;{}\])\\]+"""
_PAIR = re.compile(
    rf"""(?P<name>\b{_NAME}\\?["']?\s*(?:=|:|%3D)\s*)(?P<value>{_QUOTED}|{_BARE})""",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"""(?P<name>\bauthorization\\?["']?\s*[:=]\s*\\?["']?)(?P<value>(?:(?:bearer|basic|token)\s+)?[^\s"',;}\\]+)""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<name>\b(?:bearer|basic)\s+)(?P<value>[A-Za-z0-9+/_=.~-]{12,})", re.IGNORECASE)
_VENDOR = re.compile(r"\bsk-ant-[A-Za-z0-9_-]{8,}")


def _masked_pair(match: re.Match[str]) -> str:
    """Keep the quotes, also escaped ones, so that JSON stays JSON."""
    value = match["value"]
    marks = 2 if value[0] == "\\" else 1 if value[0] in "\"'" else 0
    return f"{match['name']}{value[:marks]}{MASK}{value[len(value) - marks :]}"


def _base64_forms(raw: bytes) -> set[str]:
    """The characters that stay the same wherever the value sits inside a longer base64 text (3 alignments)."""
    forms = set()
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * shift + raw).decode()
            first = -(-shift * 8 // 6)  # the first character that holds no bit of the padding in front
            forms.add(text[first : (shift + len(raw)) * 8 // 6])
    return forms


def _spellings(value: str) -> set[str]:
    raw = value.encode("utf-8", "surrogateescape")
    escaped = {quote(value, safe="", errors="replace"), quote_plus(value, errors="replace")}
    return {value, raw.hex(), raw.hex().upper()} | escaped | _base64_forms(raw)


@lru_cache(maxsize=8)
def _nets(values: tuple[str, ...]) -> tuple[tuple[str, ...], re.Pattern[str] | None]:
    """Spellings to replace, longest first, and the same with line breaks allowed between characters."""
    forms = sorted({f for v in values for f in _spellings(v) if len(f) >= _SHORTEST}, key=lambda f: (-len(f), f))
    if not forms:
        return (), None
    gap = r"(?:(?:\r|\n|\\r|\\n)+[ \t]*)?"
    return tuple(forms), re.compile("|".join(gap.join(re.escape(c) for c in form) for form in forms))


def _known_values() -> tuple[str, ...]:
    found = {name: os.environ.get(name, "").strip() for name in SECRET_VARIABLES}
    values = {*found.values(), *(part for name in _ADDRESSES for part in _keys_of(found[name]))}
    return tuple(sorted({value for value in values if len(value) >= _SHORTEST}))


@lru_cache(maxsize=8)
def _keys_of(addresses: str) -> tuple[str, ...]:
    """Of one or several addresses: each of them, its user and password, and every long part that is no host name."""
    found: set[str] = set()
    for address in re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)|\s+", addresses):
        _, mark, rest = address.partition("://")
        if not mark:
            continue
        found.add(address)
        login = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
        found |= {form for part in login.split(":") for form in (part, unquote(part))}
        for part in re.split(r"[/?&=#@]", rest):
            if len(part) >= _LONG_PART and not re.fullmatch(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::[0-9]+)?", part):
                found |= {part, *(p for p in part.split(":") if len(p) >= _LONG_PART)}
    return tuple(sorted(found))


def mask_secrets(text: str) -> str:
    """`POLYGON_API_KEY=abc123` -> `POLYGON_API_KEY=***`. Text without a secret comes back unchanged."""
    forms, wrapped = _nets(_known_values())
    for form in forms:
        if form in text:
            text = text.replace(form, MASK)
    if wrapped is not None and ("\n" in text or "\r" in text or "\\n" in text):
        text = wrapped.sub(MASK, text)
    text = _AUTHORIZATION.sub(rf"\g<name>{MASK}", text)
    text = _PAIR.sub(_masked_pair, text)
    text = _BEARER.sub(rf"\g<name>{MASK}", text)
    return _VENDOR.sub(MASK, text)


def holds_secret(content: bytes) -> bool:
    """Whether a known key stands in these bytes, in any of the spellings that are masked."""
    forms, _ = _nets(_known_values())
    return any(form.encode("utf-8", "surrogateescape") in content for form in forms)


_SECRET_NAME = re.compile(rf"(?:{_NAME}|authorization)\Z", re.IGNORECASE)


def mask_values(value: Any) -> Any:
    """`value` with every text in it masked, and everything under a name that says secret; plain JSON values only."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {
            mask_secrets(str(key)): MASK if item and _SECRET_NAME.match(str(key)) else mask_values(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_values(item) for item in value]
    return value


class SecretsMaskingFilter(logging.Filter):
    """Masks a record's message, arguments and traceback in place; lets every record through."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # wrong number of arguments: the text alone must still be masked
            message = f"{record.msg} {record.args!r}"
        record.msg, record.args = mask_secrets(message), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = mask_secrets(record.exc_text)
        if record.stack_info:
            record.stack_info = mask_secrets(record.stack_info)
        return True
