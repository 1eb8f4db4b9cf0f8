"""The config pin: one SHA-256 per thing that decides what is traded, so that a change is noticed and named.

Items: `config` (config/base.yaml, or KOBE_CONFIG), `frozen_params`, `universe` (the file that the settings name),
`code` (every source file) and `model` (the manifest of the model that scores, or will after its shadow period). Text is
hashed with its line ends as LF, so that a Windows checkout has the same pin. The pin also keeps the values of the
settings: a difference is told key by key, with the old and the new value. A number that became more than LARGE_FACTOR
times larger or smaller is taken for a slip until it is acknowledged.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from config.loader import leaves, load_settings, settings_path
from config.strategy_params import FROZEN_PARAMS_PATH, load_strategy_params
from core import paths
from core.documents import refuse_newer
from core.errors import ConfigError, StateCorrupt
from core.files import write_atomic
from core.paths import REPO_ROOT, Home

SCHEMA_VERSION: Final = 2  # 1 had no model
ABSENT: Final = "absent"
ITEMS: Final = ("config", "frozen_params", "universe", "code", "model")
NO_MODEL: Final = "0" * 64
LARGE_FACTOR: Final = 5
CODE_FOLDERS: Final = (
    "cognitive", "config", "core", "data", "execution", "llm", "ml_advanced", "portfolio", "risk", "scripts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PinCheck:
    """`differing`: items of ITEMS. `details`: one line each of what differs, for people."""

    pinned: bool
    differing: tuple[str, ...]
    details: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.pinned and not self.differing


def pin_path(home: Home) -> Path:
    return home.state / "config_pin.json"


def compute_pin(*, config: Path | None = None, root: Path = REPO_ROOT, params: Path | None = None) -> dict[str, str]:
    """SHA-256 per item; a missing universe is `absent`. Raises ConfigError when settings or parameters are invalid."""
    chosen = settings_path(config)
    universe = root / load_settings(chosen).universe.path
    frozen = params or FROZEN_PARAMS_PATH
    load_strategy_params(frozen)
    return {
        "config": _sha256(chosen) or ABSENT,
        "frozen_params": _sha256(frozen) or ABSENT,
        "universe": _sha256(universe) or ABSENT,
        "code": code_sha256(root),
        "model": model_sha256(paths.home()),
    }


def model_sha256(home: Home) -> str:
    """As models/champion.json tells it, which follows the chain of models; a damaged view is told as another model."""
    try:
        content = (home.models / "champion.json").read_bytes()
    except FileNotFoundError:
        return NO_MODEL
    except OSError as error:
        raise ConfigError(f"cannot read models/champion.json: {error.strerror}", code="PIN_UNREADABLE") from error
    try:
        view = json.loads(content)
        found = str(view["shadow_sha256"] or view["champion_sha256"] or NO_MODEL)
    except (ValueError, KeyError, TypeError, RecursionError):
        found = ""
    return found if _is_sha256(found) else hashlib.sha256(content).hexdigest()


def code_sha256(root: Path = REPO_ROOT) -> str:
    """Over the sorted (path, hash) of every .py file of the source folders; tests and docs decide nothing."""
    total = hashlib.sha256()
    for file in _code_files(root):
        total.update(f"{file.relative_to(root).as_posix()} {_sha256(file)}\n".encode())
    return total.hexdigest()


def _code_files(root: Path) -> Iterator[Path]:
    found = (file for folder in CODE_FOLDERS for file in (root / folder).rglob("*.py"))
    return iter(sorted(found, key=lambda file: file.relative_to(root).as_posix()))


def write_pin(home: Home, *, config: Path | None = None, ack: bool = False) -> dict[str, str]:
    """Accept what is there now. Atomic: a crash leaves the old pin or the new one.

    Raises ConfigError for an absent universe, and without `ack` for a change that looks like a slip, or for another
    model together with other settings: when both change at once, nobody can tell afterwards which of them did it.
    """
    hashes = compute_pin(config=config)
    large = large_changes(home, config=config)
    if large and not ack:
        raise ConfigError(
            f"large changes against the pin: {'; '.join(large)}", code="PIN_NEEDS_ACK",
            advice="correct the file, or accept them: python scripts/config_pin.py pin --ack",
        )  # fmt: skip
    if not ack and (others := _beside_the_model(home, hashes, config)):
        raise ConfigError(
            f"the model and {' and '.join(others)} changed since the pin: one change at a time", code="PIN_NEEDS_ACK",
            advice="take one back, pin, then the other; or accept both: python scripts/config_pin.py pin --ack",
        )  # fmt: skip
    if ABSENT in hashes.values():
        missing = ", ".join(name for name in ITEMS if hashes[name] == ABSENT)
        raise ConfigError(f"nothing to pin: {missing} is absent", code="PIN_ITEM_ABSENT")
    document = {
        "schema_version": SCHEMA_VERSION,
        "items": hashes,
        "settings": _settings_text(config),
    }
    write_atomic(pin_path(home), (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
    return hashes


def read_pin(home: Home) -> Mapping[str, Any] | None:
    """The pin, None when there is none. Raises StateCorrupt when damaged."""
    path = pin_path(home)
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(f"cannot be read: {error}") from error
    refuse_newer(path.name, document, SCHEMA_VERSION)
    if not isinstance(document, dict) or document.get("schema_version") not in (1, SCHEMA_VERSION):
        raise _damaged("is of another version")
    items, settings = document.get("items"), document.get("settings")
    if document["schema_version"] == 1 and isinstance(items, dict):
        document["items"] = items = {**items, "model": NO_MODEL}
    if not isinstance(items, dict) or set(items) != set(ITEMS) or not all(_is_sha256(v) for v in items.values()):
        raise _damaged("does not hold one SHA-256 for each item")
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise _damaged("does not hold the settings")
    return document


def verify_pin(home: Home, *, config: Path | None = None) -> list[str]:
    """Names of the items that differ from the pin; all of them when nothing is pinned; empty means in step."""
    return list(check_pin(home, config=config).differing)


def check_pin(
    home: Home, *, config: Path | None = None, compute: Callable[..., dict[str, str]] = compute_pin
) -> PinCheck:
    """Like verify_pin, with the changed settings named. Raises ConfigError and StateCorrupt."""
    pinned = read_pin(home)
    current = compute(config=config)
    if pinned is None:
        return PinCheck(False, ITEMS, ("nothing is pinned: python scripts/config_pin.py pin",))
    differing = tuple(name for name in ITEMS if pinned["items"][name] != current[name])
    details = [f"{name}: pinned {pinned['items'][name][:12]}, now {current[name][:12]}" for name in differing]
    if "config" in differing:
        before, after = pinned["settings"], _settings_text(config)
        changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
        details += [f"{key}: pinned {before.get(key, ABSENT)}, now {after.get(key, ABSENT)}" for key in changed]
        if not changed:
            details.append("no value changed: only comments or layout")
        if large := large_changes(home, config=config):
            keys = ", ".join(line.split(":", 1)[0] for line in large)
            details.append(f"more than {LARGE_FACTOR}-fold, so pin wants --ack: {keys}")
    return PinCheck(True, differing, tuple(details))


def _beside_the_model(home: Home, hashes: Mapping[str, str], config: Path | None) -> list[str]:
    """What else decides and changed, when the model did. A damaged pin is told by `large_changes`."""
    try:
        pinned = read_pin(home)
    except StateCorrupt:
        return []
    if pinned is None or pinned["items"]["model"] == hashes["model"]:
        return []
    changed = ["the settings"] if pinned["settings"] != _settings_text(config) else []
    frozen = pinned["items"]["frozen_params"] != hashes["frozen_params"]
    return [*changed, "the frozen parameters"] if frozen else changed


def large_changes(home: Home, *, config: Path | None = None) -> tuple[str, ...]:
    """Numbers that differ from the pinned ones by more than LARGE_FACTOR, or by their sign or being 0; one line each.

    Nothing pinned: nothing to compare with. A damaged pin cannot be compared with, and that wants a look too.
    """
    try:
        pinned = read_pin(home)
    except StateCorrupt as error:
        return (f"{error}, so the changes are not known",)
    if pinned is None:
        return ()
    before, after = pinned["settings"], _settings_text(config)
    pairs = ((key, _number(before.get(key)), _number(after[key])) for key in sorted(after))
    return tuple(
        f"{key}: pinned {was}, now {now}" for key, was, now in pairs if was is not None and _is_large(was, now)
    )


def _number(text: str | None) -> Decimal | None:
    try:
        found = Decimal(text) if text is not None else None
    except InvalidOperation:
        return None
    return found if found is not None and found.is_finite() else None


def _is_large(was: Decimal, now: Decimal | None) -> bool:
    if now is None or was == now:
        return False
    if was * now <= 0:
        return True
    return not 1 / Decimal(LARGE_FACTOR) <= now / was <= LARGE_FACTOR


def _settings_text(config: Path | None) -> dict[str, str]:
    return {key: str(value) for key, value in leaves(load_settings(config)).items()}


def _sha256(file: Path) -> str | None:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}", code="PIN_UNREADABLE") from error
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set(string.hexdigits.lower())


def _damaged(why: str) -> StateCorrupt:
    return StateCorrupt(
        f"state/config_pin.json {why}", advice="check what is installed, then python scripts/config_pin.py pin"
    )
