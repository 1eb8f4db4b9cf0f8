"""Models on the disk: plain numbers, a signed manifest, a chain that says which one is champion. Loading runs no code.

    models/<id>/arrays.f64      every array, one after the other, little-endian float64 and nothing else
    models/<id>/manifest.json   features in order, members, arrays (name, shape, offset), data, metrics, gate,
                                libraries, expiry, and size and SHA-256 of every other file
    models/<id>/card.json, card.html
    models/<id>/seal.json       HMAC of the manifest with this home's key
    models/champion.json        which model scores: a view for people and for the config pin
    state/models.jsonl          the chain (core.journal): gate_registered, model_trained, model_shadowed,
                                model_promoted, model_rolled_back

What scores is what the chain says, so a deleted or changed champion.json changes nothing. A model is loaded when its
manifest carries this home's seal, the chain holds a `model_trained` with the manifest's hash, every file has the size
and hash that the manifest tells, nothing else lies in its folder, no part of the path is a link, and the numbers make a
sound ensemble (ml_advanced/ensemble). Anything else is one MODEL_* reason, and the model is not there.

A model is written into a folder of another name and renamed when it is whole; then comes the record, then the view. A
kill anywhere leaves the champion, or after the record the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np

from core.canonical import canonical_json
from core.clock import Clock
from core.documents import Schema, write
from core.errors import StateCorrupt
from core.files import fsync_folder, locked, write_atomic
from core.journal import Journal, Record, verify
from core.paths import Home
from ml_advanced.ensemble.blend import Ensemble, of_plain
from ml_advanced.ensemble.members import Arrays, BadArrays, Floats

FORMAT: Final = 1
MANIFEST, SEAL, ARRAYS, CARD, PAGE = "manifest.json", "seal.json", "arrays.f64", "card.json", "card.html"
CHAIN_FILE, KEY_FILE, VIEW_FILE = "models.jsonl", "model_key", "champion.json"
REGISTERED, TRAINED, SHADOWED = "gate_registered", "model_trained", "model_shadowed"
PROMOTED, ROLLED_BACK = "model_promoted", "model_rolled_back"
VIEW: Final = Schema(1)
_FILES: Final = frozenset({MANIFEST, SEAL, ARRAYS, CARD, PAGE})
_MOST_BYTES: Final = {MANIFEST: 1 << 20, SEAL: 4096, ARRAYS: 64 << 20, CARD: 8 << 20, PAGE: 8 << 20}
_MOST_ARRAYS = 500
_ID = re.compile(r"[a-z0-9][a-z0-9-]{6,62}[a-z0-9]")


class ModelRefused(StateCorrupt):
    """This model is not used. `code` says why; a scan goes on without it."""

    default_code = "MODEL_UNREADABLE"
    default_advice = "python scripts/models.py list; python scripts/train_ensemble.py makes another"


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A model as it was proved and loaded."""

    model_id: str
    manifest: Mapping[str, Any]
    manifest_sha256: str
    ensemble: Ensemble
    arrays: Arrays


@dataclass(frozen=True, slots=True)
class Standing:
    """What the chain says. `shadow`: promoted by the gate, and heard from `shadow_until` on (a session)."""

    champion: str | None = None
    champion_sha256: str | None = None
    shadow: str | None = None
    shadow_sha256: str | None = None
    shadow_from: date | None = None
    shadow_until: date | None = None
    earlier: tuple[str, ...] = ()  # former champions, the latest last
    trained: Mapping[str, str] | None = None  # id -> manifest hash, of every model of the chain
    passed: frozenset[str] = frozenset()  # those whose gate let them through
    tries: int = 0  # challengers judged since the last that passed


# ---------------------------------------------------------------- the chain
def chain_path(home: Home) -> Path:
    return home.state / CHAIN_FILE


def chain(home: Home, clock: Clock, *, run_id: str = "") -> Journal:
    return Journal(chain_path(home), clock, run_id=run_id)


def standing(home: Home) -> Standing:
    """Folded from the chain, which is proved whole. Raises ModelRefused MODEL_CHAIN_DAMAGED."""
    path = chain_path(home)
    if not path.exists():
        return Standing(trained={})
    try:
        proof = verify(path)
        if not proof.ok:
            raise StateCorrupt(f"{path.name}: record {proof.first_bad}: {proof.why}")
        from core.journal_parts import Reader

        return folded(list(Reader(path)))
    except (StateCorrupt, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(
            f"the chain of models is damaged: {error}", code="MODEL_CHAIN_DAMAGED",
            advice="python scripts/verify_hash_chain.py shows where; move state/models.* aside to begin anew",
        ) from error  # fmt: skip


def folded(records: Sequence[Record]) -> Standing:
    trained: dict[str, str] = {}
    passed: set[str] = set()
    champion: str | None = None
    shadow: tuple[str, date, date] | None = None
    earlier: list[str] = []
    tries = 0
    for record in records:
        body = record.body
        if record.kind == TRAINED:
            trained[str(body["model"])] = str(body["manifest_sha256"])
            if body["gate"]["passed"]:
                passed.add(str(body["model"]))
                tries = 0
            else:
                tries += 1
        elif record.kind == SHADOWED:
            shadow = str(body["model"]), date.fromisoformat(body["from"]), date.fromisoformat(body["until"])
        elif record.kind in (PROMOTED, ROLLED_BACK):
            now = body["model"] if body["model"] is None else str(body["model"])
            if record.kind == PROMOTED and champion is not None:
                earlier = [*(m for m in earlier if m != champion), champion]
            if record.kind == ROLLED_BACK:
                earlier = [m for m in earlier if m != now]
            champion, shadow = now, None
    return Standing(
        champion, trained.get(champion or ""), shadow[0] if shadow else None,
        trained.get(shadow[0]) if shadow else None, shadow[1] if shadow else None, shadow[2] if shadow else None,
        tuple(earlier), trained, frozenset(passed), tries,
    )  # fmt: skip


def scoring_id(found: Standing, session: date) -> str | None:
    """Whose opinion counts at `session`: a shadow steps forward on its day by itself."""
    if found.shadow is not None and found.shadow_until is not None and session >= found.shadow_until:
        return found.shadow
    return found.champion


def write_view(home: Home, found: Standing) -> None:
    """models/champion.json, atomically: what the chain says, for people and for the config pin."""
    path = home.models / VIEW_FILE
    with contextlib.suppress(OSError, ValueError):  # an unreadable view is replaced: it decides nothing
        if path.is_symlink():
            path.unlink()
    write(path, _rows(found), VIEW)


def follow(home: Home, found: Standing) -> None:
    """The view again, where it tells something else than the chain: a kill came between the record and the view."""
    told = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        told = json.loads((home.models / VIEW_FILE).read_bytes())
    if found.trained and (not isinstance(told, dict) or any(told.get(k) != v for k, v in _rows(found).items())):
        write_view(home, found)


def _rows(found: Standing) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads(canonical_json({
        "champion": found.champion, "champion_sha256": found.champion_sha256, "shadow": found.shadow,
        "shadow_sha256": found.shadow_sha256, "shadow_from": found.shadow_from, "shadow_until": found.shadow_until,
        "earlier": list(found.earlier),
    }))  # fmt: skip
    return rows


# ---------------------------------------------------------------- sealing
def home_key(home: Home, *, create: bool = False) -> bytes:
    """32 bytes of this home alone, readable by its owner. Raises ModelRefused MODEL_KEY_ABSENT."""
    path = home.state / KEY_FILE
    try:
        text = path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except FileNotFoundError:
        if not create:
            raise ModelRefused("this home has no model key", code="MODEL_KEY_ABSENT") from None
        with locked(path):
            if not path.exists():
                write_atomic(path, secrets.token_hex(32).encode() + b"\n")  # mkstemp: mode 0600
        return home_key(home)
    except (OSError, ValueError) as error:
        raise ModelRefused(f"state/{KEY_FILE} cannot be read: {error}", code="MODEL_KEY_ABSENT") from error
    if len(key) != 32:
        raise ModelRefused(f"state/{KEY_FILE} is no key", code="MODEL_KEY_ABSENT")
    return key


def _mac(key: bytes, manifest: bytes) -> str:
    return hmac.new(key, b"kobe model manifest\n" + manifest, hashlib.sha256).hexdigest()


# ---------------------------------------------------------------- saving
def packed(arrays: Arrays) -> tuple[list[dict[str, Any]], bytes]:
    """(index, bytes). Little-endian float64, in the order of the names."""
    index, parts, offset = [], [], 0
    for name in sorted(arrays):
        content = np.ascontiguousarray(arrays[name], dtype="<f8")
        index.append({"name": name, "shape": list(content.shape), "offset": offset})
        parts.append(content.tobytes())
        offset += content.nbytes
    return index, b"".join(parts)


def save(home: Home, model_id: str, manifest: Mapping[str, Any], arrays: Arrays, documents: Mapping[str, bytes]) -> str:
    """Write models/<id>/ whole or not at all; the hash of its manifest. One that is there already is replaced."""
    if not _ID.fullmatch(model_id):
        raise ValueError(f"no model id: {model_id!r}")
    index, content = packed(arrays)
    files = {ARRAYS: content, **documents}
    told = {name: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in sorted(files.items())}
    whole = {**manifest, "format": FORMAT, "id": model_id, "arrays": index, "files": told}
    text = json.dumps(json.loads(canonical_json(whole)), indent=1, sort_keys=True).encode() + b"\n"
    seal = {"format": FORMAT, "manifest_sha256": hashlib.sha256(text).hexdigest()}
    key = home_key(home, create=True)
    files |= {MANIFEST: text, SEAL: json.dumps(seal | {"hmac_sha256": _mac(key, text)}, indent=1).encode() + b"\n"}
    home.models.mkdir(parents=True, exist_ok=True)
    with locked(home.models / "store"):
        _clear_unfinished(home.models)
        aside = home.models / f".new-{model_id}"
        aside.mkdir()
        for name, part in files.items():
            write_atomic(aside / name, part)
        _put_in_place(aside, home.models / model_id)
    return seal["manifest_sha256"]  # type: ignore[return-value]


def _clear_unfinished(folder: Path) -> None:
    """What a kill left: a new folder that was not whole, an old one that had been moved aside."""
    for path in folder.iterdir():
        if path.name.startswith(".old-") and not (home := folder / path.name[5:]).exists():
            path.rename(home)
        elif path.name.startswith((".new-", ".old-")) and not path.is_symlink():
            shutil.rmtree(path)


def _put_in_place(aside: Path, target: Path) -> None:
    old = target.with_name(f".old-{target.name}")
    if target.exists():
        target.rename(old)
    aside.rename(target)
    fsync_folder(target.parent)
    if old.exists():
        shutil.rmtree(old)


# ---------------------------------------------------------------- loading
def load(home: Home, model_id: str, *, known: Mapping[str, str] | None) -> Stored:
    """Proved in this order: path, seal, chain, files, numbers. Raises ModelRefused.

    known : id -> manifest hash, from the chain.
    """
    folder = _folder(home, model_id)
    text = _bytes(folder / MANIFEST)
    digest = hashlib.sha256(text).hexdigest()
    _check_seal(home, _document(_bytes(folder / SEAL), SEAL), text, digest)
    if (known or {}).get(model_id) != digest:
        raise ModelRefused(f"{model_id}: its manifest is not the one of the chain", code="MODEL_NOT_IN_CHAIN")
    manifest = _document(text, MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ModelRefused(f"{model_id}: format {manifest.get('format')}, known is {FORMAT}", code="MODEL_FORMAT")
    if manifest.get("id") != model_id:
        raise ModelRefused(f"{model_id}: the manifest is of {manifest.get('id')}", code="MODEL_SWAPPED")
    content = _checked_files(folder, manifest)
    try:
        arrays = unpacked(manifest.get("arrays"), content)
        ensemble = of_plain(manifest, arrays)
    except BadArrays as error:
        raise ModelRefused(f"{model_id}: {error}", code="MODEL_NUMBERS_UNSOUND") from error
    return Stored(model_id, manifest, digest, ensemble, arrays)


def read_card(home: Home, model_id: str) -> dict[str, Any]:
    """The card of a model that `load` has let through. Raises ModelRefused."""
    return _document(_bytes(_folder(home, model_id) / CARD), CARD)


def _folder(home: Home, model_id: str) -> Path:
    if not _ID.fullmatch(model_id):
        raise ModelRefused(f"no model id: {model_id[:80]!r}", code="MODEL_ID_INVALID")
    folder = home.models / model_id
    try:
        modes = [os.lstat(part).st_mode for part in (home.models, folder)]
        names = {path.name for path in folder.iterdir()} if stat.S_ISDIR(modes[1]) else set()
    except OSError as error:
        raise ModelRefused(f"{model_id}: {error.strerror}", code="MODEL_GONE") from error
    if not all(stat.S_ISDIR(mode) for mode in modes):
        raise ModelRefused(f"{model_id} is no folder of models/", code="MODEL_IS_A_LINK")
    if names != _FILES:
        odd = ", ".join(sorted(names ^ _FILES))[:120]
        raise ModelRefused(f"{model_id}: files that should not be there, or are not: {odd}", code="MODEL_FILES")
    return folder


def _bytes(path: Path) -> bytes:
    """The content of a regular file no larger than its kind may be. Raises ModelRefused."""
    most = _MOST_BYTES[path.name]
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ModelRefused(f"{path.name} is a link or no file", code="MODEL_IS_A_LINK")
        if found.st_size > most:
            raise ModelRefused(f"{path.name} is larger than {most} bytes", code="MODEL_TOO_LARGE")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ModelRefused(f"{path.name} cannot be read: {error.strerror}", code="MODEL_UNREADABLE") from error
    if len(content) > most:
        raise ModelRefused(f"{path.name} is larger than {most} bytes", code="MODEL_TOO_LARGE")
    return content


def _document(content: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{name} is no JSON: {type(error).__name__}", code="MODEL_MANIFEST_DAMAGED") from error
    if not isinstance(found, dict):
        raise ModelRefused(f"{name} is no object", code="MODEL_MANIFEST_DAMAGED")
    return found


def _check_seal(home: Home, seal: Mapping[str, Any], manifest: bytes, digest: str) -> None:
    said, mac = seal.get("manifest_sha256"), seal.get("hmac_sha256")
    ours = _mac(home_key(home), manifest)
    if not (isinstance(mac, str) and mac.isascii() and hmac.compare_digest(mac, ours) and said == digest):
        raise ModelRefused("the manifest does not carry this home's seal", code="MODEL_SEAL_BROKEN")


def _checked_files(folder: Path, manifest: Mapping[str, Any]) -> bytes:
    """The arrays, after size and hash of every file were compared."""
    told, content = manifest.get("files"), b""
    if not isinstance(told, dict) or set(told) != _FILES - {MANIFEST, SEAL}:
        raise ModelRefused("the manifest does not tell its files", code="MODEL_MANIFEST_DAMAGED")
    for name in sorted(told):
        found = _bytes(folder / name)
        if told[name] != {"bytes": len(found), "sha256": hashlib.sha256(found).hexdigest()}:
            raise ModelRefused(f"{folder.name}: {name} is not the file of the manifest", code="MODEL_HASH_DIFFERS")
        content = found if name == ARRAYS else content
    return content


def unpacked(index: object, content: bytes) -> dict[str, Floats]:
    """Arrays that lie one behind the other and fill the file. Raises BadArrays."""
    if not isinstance(index, list) or not 0 < len(index) <= _MOST_ARRAYS or len(content) % 8:
        raise BadArrays("no index of arrays, or no whole numbers of float64")
    values = np.frombuffer(content, dtype="<f8").astype(np.float64)
    found: dict[str, Floats] = {}
    at = 0
    for row in index:
        name, shape, offset = (row.get(k) for k in ("name", "shape", "offset")) if isinstance(row, dict) else [None] * 3
        sizes = isinstance(shape, list) and 1 <= len(shape) <= 2 and all(type(n) is int and n >= 0 for n in shape)
        if not isinstance(name, str) or name in found or not sizes or offset != 8 * at:
            raise BadArrays(f"array {name!r}: its place is not behind the one before")
        assert isinstance(shape, list)
        size = 1
        for length in shape:
            size *= length
        if at + size > values.size:
            raise BadArrays(f"array {name}: it reaches behind the end of the file")
        found[name] = values[at : at + size].reshape(shape)
        at += size
    if at != values.size:
        raise BadArrays("the file is longer than its arrays")
    return found
