"""Read config/base.yaml into Settings, or refuse with one line: key path, value, line number.

YAML is read as people write it, not as YAML 1.1 guesses: only `true`/`false` are switches, so `mode: off` and `09:35`
stay text, and `010` and `1_000` are refused rather than guessed. Refused as well: a key that stands twice, a tab in the
indentation, anchors, tags, an empty file. A byte order mark and CRLF line ends are accepted.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from config.settings_schema import Conflict, Settings
from core.errors import ConfigError
from core.paths import REPO_ROOT

BASE_PATH = REPO_ROOT / "config" / "base.yaml"
MAX_BYTES = 1_000_000  # a settings file is a few kilobytes; anything else is another file
MAX_ERRORS = 5

Loc = tuple[str | int, ...]
Lines = Mapping[Loc, int]

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")
)
_WORDS: Mapping[str, Any] = MappingProxyType(
    {"true": True, "false": False, "null": None, "~": None, "": None, ".nan": math.nan}
    | {"nan": math.nan, "inf": math.inf, ".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf}
)


@dataclass(frozen=True, slots=True)
class SettingsOrigin:
    """Where each value came from: `line_of` of a dotted path is the line in `path`, None for a built-in default."""

    path: Path
    lines: Mapping[str, int]

    def line_of(self, dotted: str) -> int | None:
        return self.lines.get(dotted)


def settings_path(path: Path | None = None) -> Path:
    """The file that is in force: the argument, else KOBE_CONFIG, else config/base.yaml."""
    named = os.environ.get("KOBE_CONFIG", "").strip()
    return path or (Path(named).expanduser() if named else BASE_PATH)


def load_settings(path: Path | None = None) -> Settings:
    """Load and check the settings file. Raises ConfigError, naming key path, value and line."""
    return _load(settings_path(path))[0]


def settings_origin(path: Path | None = None) -> SettingsOrigin:
    """The lines of the file in force. Raises ConfigError like load_settings."""
    chosen = settings_path(path)
    lines = _load(chosen)[1]
    return SettingsOrigin(chosen, MappingProxyType({dotted(loc): line for loc, line in lines.items()}))


def leaves(settings: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Every dotted path with its value, in file order: for show-config and for comparing two configurations."""
    found: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {f"{prefix}{name}": value}
    return found


def dotted(loc: Loc) -> str:
    """("execution", "ticks", 0, "tick") -> "execution.ticks[0].tick"."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _load(path: Path) -> tuple[Settings, Lines]:
    document, lines = parse(_read(path), path.name)
    _refuse_unknown(document, lines, path.name)
    try:
        return Settings.model_validate(document), lines
    except ValidationError as error:
        raise ConfigError(_words(error, document, lines, path.name), code=_code(error)) from None


# ---------------------------------------------------------------- text
def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the settings file {path}: {error.strerror or error}", code="CONFIG_MISSING",
            advice="set KOBE_CONFIG to an existing file, or unset it to use config/base.yaml",
        ) from error  # fmt: skip
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path.name}: {len(raw)} bytes is no settings file", code="CONFIG_UNREADABLE")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _refused(path.name, line, "is not UTF-8 text; save the file as UTF-8", code="CONFIG_UNREADABLE") from None
    for number, row in enumerate(text.splitlines(), start=1):
        blank = row[: len(row) - len(row.lstrip())]
        if "\t" in blank:
            raise _refused(path.name, number, "a tab in the indentation; use spaces", code="CONFIG_UNREADABLE")
    return text


def _refused(file: str, line: int | None, message: str, *, code: str = "CONFIG_INVALID") -> ConfigError:
    return ConfigError(f"{file} line {line}: {message}" if line else f"{file}: {message}", code=code)


# ---------------------------------------------------------------- YAML
def parse(text: str, file: str) -> tuple[dict[str, Any], Lines]:
    """Plain values and the line of every key and list item. Raises ConfigError naming the line."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise _refused(file, line, f"not YAML: {error.problem or error.context}", code="CONFIG_UNREADABLE") from None
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise _refused(file, None, f"not YAML: {first}", code="CONFIG_UNREADABLE") from None
    except RecursionError:
        raise _refused(file, None, "nested too deep", code="CONFIG_UNREADABLE") from None
    if root is None:
        raise _refused(file, None, "the file is empty; restore it, or start from config/base.yaml")
    lines: dict[Loc, int] = {}
    document = _value(root, (), lines, set(), file)
    if not isinstance(document, dict):
        raise _refused(file, root.start_mark.line + 1, "must be `key: value` lines")
    return document, MappingProxyType(lines)


def _value(node: yaml.Node, loc: Loc, lines: dict[Loc, int], seen: set[int], file: str) -> Any:
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise _refused(file, line, f"{dotted(loc)}: anchors and aliases are not used here; write the value out")
    seen.add(id(node))
    if node.tag not in _PLAIN_TAGS:
        raise _refused(file, line, f"{dotted(loc)}: tag {node.tag!r} is not used here")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, loc, lines, seen, file)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[(*loc, index)] = item.start_mark.line + 1
            items.append(_value(item, (*loc, index), lines, seen, file))
        return items
    return _scalar(str(node.value), plain=not getattr(node, "style", None), loc=loc, line=line, file=file)


def _mapping(node: yaml.MappingNode, loc: Loc, lines: dict[Loc, int], seen: set[int], file: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise _refused(file, line, "a key must be one word")
        key = str(key_node.value)
        here = (*loc, key)
        if key in found:
            said = f"{dotted(here)} stands twice, first on line {lines[here]}"
            raise _refused(file, line, said, code="CONFIG_DUPLICATE")
        lines[here] = line
        found[key] = _value(value_node, here, lines, seen, file)
    return found


def _scalar(text: str, *, plain: bool, loc: Loc, line: int, file: str) -> Any:
    """Quoted is text. Plain is a switch, null, a number, a date, else text."""
    if not plain:
        return text
    if text.lower() in _WORDS and text in (text.lower(), text.capitalize(), text.upper(), "NaN", ".NaN", "Inf"):
        return _WORDS[text.lower()]
    if _INT.match(text):
        return int(text) if len(text) <= 30 else math.inf
    if _FLOAT.match(text):
        return float(text)
    if _DATE.match(text):
        try:
            return date.fromisoformat(text)
        except ValueError as error:
            raise _refused(file, line, f"{dotted(loc)} {text} is no date: {error}") from None
    return text


# ---------------------------------------------------------------- words for what is wrong
def _refuse_unknown(document: Mapping[str, Any], lines: Lines, file: str) -> None:
    """Before anything else, because a misspelt limit is the error that matters: all of them in one message."""
    found = list(_unknown(document, Settings, ()))
    if not found:
        return
    parts = []
    for loc, known in found[:MAX_ERRORS]:
        near = _nearest(loc, known)
        parts.append(f"line {lines.get(loc)}: unknown key {dotted(loc)}" + (f", did you mean {near}?" if near else ""))
    raise ConfigError(f"{file} " + "; ".join(parts), code="CONFIG_UNKNOWN_KEY")


def _unknown(value: Any, model: type[BaseModel], loc: Loc) -> list[tuple[Loc, list[str]]]:
    if not isinstance(value, dict):
        return []
    found: list[tuple[Loc, list[str]]] = []
    for key, inner in value.items():
        here = (*loc, key)
        if key not in model.model_fields:
            found.append((here, list(model.model_fields)))
            continue
        kind = model.model_fields[key].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += _unknown(inner, kind, here)
    return found


def _nearest(loc: Loc, known: list[str]) -> str | None:
    """The closest sibling; else the place elsewhere in the tree where a key of this name belongs."""
    from config.settings_schema import leaf_types

    name = str(loc[-1])
    siblings = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if siblings:
        return dotted((*loc[:-1], siblings[0]))
    paths = list(leaf_types())
    same = [path for path in paths if path.rsplit(".", 1)[-1] == name]
    if same:
        return same[0]
    close = difflib.get_close_matches(dotted(loc), paths, n=1, cutoff=0.6)
    return close[0] if close else None


def _code(error: ValidationError) -> str:
    conflict = any(isinstance(item.get("ctx", {}).get("error"), Conflict) for item in error.errors())
    return "CONFIG_CONFLICT" if conflict else "CONFIG_INVALID"


def _words(error: ValidationError, document: Mapping[str, Any], lines: Lines, file: str) -> str:
    """`base.yaml line 12: risk.position_limit must be greater than or equal to 1, was 0`; several joined by `; `."""
    parts = []
    for item in error.errors()[:MAX_ERRORS]:
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, Conflict):
            where = [(key, lines.get(tuple(key.split(".")))) for key in cause.keys]
            told = ", ".join(f"{key.rsplit('.', 1)[-1]}: " + (f"line {n}" if n else "default") for key, n in where)
            parts.append(f"{cause} ({told})")
            continue
        loc = _in_document(item["loc"], document)
        line = next((lines[loc[:size]] for size in range(len(loc), 0, -1) if loc[:size] in lines), None)
        said = str(cause) if cause is not None else _reworded(item["msg"])
        parts.append((f"line {line}: " if line else "") + f"{dotted(loc)} {said}{_was(item)}")
    more = error.error_count() - MAX_ERRORS
    return f"{file} " + "; ".join(parts) + (f"; and {more} more" if more > 0 else "")


def _in_document(loc: Loc, document: Mapping[str, Any]) -> Loc:
    """Without the names that pydantic adds for unions: only parts that can be followed in the document."""
    kept: list[str | int] = []
    at: Any = document
    for part in loc:
        if isinstance(at, dict):
            kept.append(part)
            at = at.get(part)
        elif isinstance(at, list) and isinstance(part, int):
            kept.append(part)
            at = at[part] if part < len(at) else None
    return tuple(kept)


def _reworded(message: str) -> str:
    words = message.replace("Input should be", "must be").replace("Field required", "is missing")
    words = re.sub(r"a valid dictionary or instance of \w+", "a mapping of keys", words)
    return words.replace("a valid boolean", "true or false").replace("a valid tuple", "a list")


def _was(item: Any) -> str:
    if item["type"] == "missing":
        return ""
    value = item["input"]
    if value is None:
        return ", was empty (null)"
    shown = str(value).lower().removesuffix("inity") if isinstance(value, Decimal) else repr(value)
    is_fraction = str(item["loc"][-1]).endswith("_pct") and isinstance(value, int | float)
    hint = " (a fraction: 0.40 is 40 %)" if is_fraction else ""
    return f", was {shown if len(shown) <= 80 else shown[:77] + '...'}{hint}"
