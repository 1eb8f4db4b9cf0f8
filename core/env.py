"""Keys and addresses from the environment; `.env` files fill in what the environment does not say."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from core.domain import Mode
from core.errors import ConfigError
from core.paths import REPO_ROOT, home

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_CURLY = "\u201c\u201d\u2018\u2019"

PAPER_URL = "https://paper-api.alpaca.markets"
LIVE_URL = "https://api.alpaca.markets"
DATA_URL = "https://data.alpaca.markets"
POLYGON_URL = "https://api.polygon.io"
ANTHROPIC_URL = "https://api.anthropic.com"
_NAMES = ("ALPACA_BASE_URL", "ALPACA_DATA_URL", "POLYGON_BASE_URL", "ANTHROPIC_BASE_URL")


# ---------------------------------------------------------------- .env
def load_dotenv(path: Path | None = None) -> None:
    """Put the variables of `path` into the environment; without one, of <repo>/.env and then KOBE_HOME/.env, if there.

    What the environment said before always wins; of the two files the one in KOBE_HOME wins.
    Raises ConfigError for a named file that is absent and for a line that cannot be read: its number and key, never
    its value.
    """
    said = frozenset(os.environ)
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"--dotenv {path}: no such file", code="DOTENV_MISSING")
        _apply(path, said)
        return
    if (REPO_ROOT / ".env").is_file():
        _apply(REPO_ROOT / ".env", said)
    place = home().root
    if place != REPO_ROOT and (place / ".env").is_file():
        _apply(place / ".env", said)


def _apply(path: Path, said: frozenset[str]) -> None:
    try:
        text = _decoded(path.read_bytes(), path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", code="DOTENV_UNREADABLE") from error
    for name, value in parse_dotenv(text, str(path)).items():
        if name not in said:
            os.environ[name] = value


def _decoded(raw: bytes, path: Path) -> str:
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # editors on Windows write both
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        # `from None`: the exception's text would quote bytes of the file
        raise _bad(str(path), raw[: error.start].count(b"\n") + 1, None, f"is not {encoding} text") from None


def parse_dotenv(text: str, where: str) -> dict[str, str]:
    """KEY=VALUE lines; `export`, quotes, # comments, BOM, CRLF and stray spaces are understood. The last one wins."""
    found: dict[str, str] = {}
    for number, raw in enumerate(text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, sign, rest = line.partition("=")
        name = re.sub(r"\Aexport\s+", "", name).strip()
        if not sign or not _KEY.match(name):  # what stands there may itself be a secret: not quoted
            raise _bad(where, number, None, "is not KEY=VALUE")
        found[name] = _value(rest.strip(), name, where, number)
    return found


def _value(text: str, name: str, where: str, number: int) -> str:
    if "\0" in text:
        raise _bad(where, number, name, "holds a NUL character")
    if text[:1] and text[0] in _CURLY:
        raise _bad(where, number, name, "begins with a curly quote; use a straight one")
    if text[:1] not in ("'", '"'):
        return re.split(r"(?:\A|\s)#", text, maxsplit=1)[0].strip()
    mark, made, at = text[0], [], 1
    while at < len(text) and text[at] != mark:
        if text[at] == "\\" and mark == '"' and at + 1 < len(text):
            made.append(_ESCAPES.get(text[at + 1], text[at : at + 2]))
            at += 1
        else:
            made.append(text[at])
        at += 1
    after = text[at + 1 :].strip()
    if at >= len(text):
        raise _bad(where, number, name, "has no closing quote")
    if after and not after.startswith("#"):
        raise _bad(where, number, name, "goes on after its closing quote")
    return "".join(made)


def _bad(where: str, number: int, name: str | None, why: str) -> ConfigError:
    subject = f"line {number}" if name is None else f"line {number}, {name},"
    return ConfigError(f"{where}: {subject} {why}", code="DOTENV_INVALID")


# ---------------------------------------------------------------- keys
@dataclass(frozen=True, slots=True)
class Keys:
    """None = not given. Never printed: repr leaves them out."""

    polygon: str | None = field(default=None, repr=False)
    alpaca_id: str | None = field(default=None, repr=False)
    alpaca_secret: str | None = field(default=None, repr=False)
    anthropic: str | None = field(default=None, repr=False)


def keys() -> Keys:
    """Raises ConfigError naming the variable when a key holds what cannot be sent in a header."""
    return Keys(
        polygon=_key("POLYGON_API_KEY"),
        alpaca_id=_key("ALPACA_API_KEY_ID"),
        alpaca_secret=_key("ALPACA_API_SECRET_KEY"),
        anthropic=_key("ANTHROPIC_API_KEY"),
    )


def _key(name: str) -> str | None:
    value = os.environ.get(name, "").strip()
    if any(not "!" <= c <= "~" for c in value):
        raise ConfigError(f"{name} holds a space or a character no key has", code="KEY_MALFORMED")
    return value or None


# ---------------------------------------------------------------- addresses
@dataclass(frozen=True, slots=True)
class Endpoints:
    """Base URLs without a trailing slash or version."""

    alpaca: str
    alpaca_data: str
    polygon: str
    anthropic: str
    at_alpaca: bool = True  # the broker is Alpaca's own host, not one that ALPACA_BASE_URL put in its place
    all_named: bool = False  # all four come from the environment: then no other server is asked for anything


def endpoints(mode: Mode) -> Endpoints:
    """From ALPACA_BASE_URL, ALPACA_DATA_URL, POLYGON_BASE_URL, ANTHROPIC_BASE_URL, else the real hosts.

    Raises ConfigError for a malformed address, for plain http to a public host (the keys would travel in the clear),
    and when ALPACA_BASE_URL names the other mode's broker.
    """
    alpaca = _address("ALPACA_BASE_URL", LIVE_URL if mode is Mode.LIVE else PAPER_URL)
    other = PAPER_URL if mode is Mode.LIVE else LIVE_URL
    if urlsplit(alpaca).hostname == urlsplit(other).hostname:
        raise ConfigError(
            f"ALPACA_BASE_URL is {urlsplit(alpaca).hostname}, which is not the {mode} broker",
            code="ENDPOINT_MODE_MISMATCH",
            advice="unset ALPACA_BASE_URL or choose the other mode",
        )
    return Endpoints(
        alpaca=alpaca,
        at_alpaca=(urlsplit(alpaca).hostname or "").endswith(".alpaca.markets"),
        alpaca_data=_address("ALPACA_DATA_URL", DATA_URL),
        polygon=_address("POLYGON_BASE_URL", POLYGON_URL),
        anthropic=_address("ANTHROPIC_BASE_URL", ANTHROPIC_URL).removesuffix("/v1"),
        all_named=all(os.environ.get(name, "").strip() for name in _NAMES),
    )


def _address(name: str, default: str) -> str:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    cleaned = text.rstrip("/").removesuffix("/v2").rstrip("/")
    try:
        parts = urlsplit(cleaned)
        host, _ = parts.hostname, parts.port  # .port raises for what is no port
    except ValueError:
        raise _refused(name, "is no address") from None
    if parts.scheme not in ("http", "https") or not host or any(not "!" <= c <= "~" for c in cleaned):
        raise _refused(name, "is not http(s)://host[:port]")
    if parts.query or parts.fragment or "@" in parts.netloc or "?" in cleaned or "#" in cleaned:
        raise _refused(name, "must hold no query, fragment or credentials")
    if parts.scheme == "http" and not _near(host):
        raise _refused(name, f"sends keys to {host} unencrypted; use https")
    return cleaned


def _refused(name: str, why: str) -> ConfigError:
    return ConfigError(f"{name} {why}", code="ENDPOINT_MALFORMED", advice=f"correct or unset {name}")


def _near(host: str) -> bool:
    """Loopback, a private network, or a bare machine name."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))
    return found.is_loopback or found.is_private


# ---------------------------------------------------------------- proxies
def proxy_for(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY name for `url`, unless NO_PROXY excepts its host.

    This machine itself is never reached through a proxy. Raises ConfigError for a proxy that cannot be used; its text
    names the variable and no value, because a proxy's address may hold a password.
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_this_machine(host) or proxy_bypass(host):
        return None
    known = getproxies()
    scheme = parts.scheme if known.get(parts.scheme) else "all"
    named = known.get(scheme)
    if not named:
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        usable, _ = bool(proxy.hostname), proxy.port
    except ValueError:
        usable = False
    if not usable or proxy.scheme not in ("http", "https"):
        kind = f"a {proxy.scheme} proxy" if usable else "no proxy address"
        raise ConfigError(
            f"{scheme.upper()}_PROXY names {kind}; http and https proxies are understood", code="PROXY_UNSUPPORTED",
            advice=f"set {scheme.upper()}_PROXY to http://host:port, or except {host} with NO_PROXY",
        )  # fmt: skip
    return proxy.geturl()


def is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
