"""Only a whole, sealed, recorded model of this home is loaded; whatever else lies there is refused and runs nothing."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.paths import Home
from ml_advanced import model_store as store
from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
from ml_advanced.model_store import ModelRefused
from tests.fakes import models
from tests.fakes.models import NOW, saved

SESSION = date(2024, 3, 11)


@pytest.fixture
def place(tmp_path: Path) -> Home:
    return Home(tmp_path)


def loaded(place: Home) -> EnsemblePredictor:
    return EnsemblePredictor(place, session=SESSION)


def test_what_was_saved_says_the_same_after_loading(place: Home) -> None:
    saved(place)
    found = loaded(place)
    x = models.rows(seed=5)
    assert (found.code, found.loaded, found.model_id) == ("OK", ("logistic", "forest"), "m-20240308-first")
    assert found.stored is not None
    assert (found.stored.ensemble.raw(x) == models.small_ensemble().raw(x)).all()


# ---------------------------------------------------------------- 200 artefacts
class Bomb:
    """Were anything unpickled, this would leave a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def resealed(place: Home, model_id: str, change: Callable[[dict[str, Any]], Any], content: bytes | None = None) -> None:
    """As somebody would who holds this home's key and may write its chain: only the numbers can give him away."""
    folder = place.models / model_id
    manifest = json.loads((folder / store.MANIFEST).read_bytes())
    if content is not None:
        (folder / store.ARRAYS).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][store.ARRAYS] = {"bytes": len(content), "sha256": digest}
    manifest = change(manifest) or manifest
    text = json.dumps(manifest).encode()
    seal_with(place, folder, text, store.home_key(place))
    body = {"model": model_id, "manifest_sha256": hashlib.sha256(text).hexdigest(), "gate": {"passed": True}}
    models.note(place, store.TRAINED, body)


def seal_with(place: Home, folder: Path, text: bytes, key: bytes) -> None:
    (folder / store.MANIFEST).write_bytes(text)
    seal = {"format": 1, "manifest_sha256": hashlib.sha256(text).hexdigest(), "hmac_sha256": store._mac(key, text)}
    (folder / store.SEAL).write_text(json.dumps(seal))


Spoil = Callable[[Home, Path, random.Random], None]


def _bytes_of(mark: Path, rng: random.Random) -> bytes:
    """What somebody might put where numbers are expected."""
    return [pickle.dumps(Bomb(mark)), b"\x80\x04." + rng.randbytes(64), b"PK\x03\x04" + rng.randbytes(99)][
        rng.randrange(3)
    ]


def truncated(place: Home, folder: Path, rng: random.Random) -> None:
    file = folder / rng.choice([store.ARRAYS, store.MANIFEST, store.SEAL, store.CARD, store.PAGE])
    file.write_bytes(file.read_bytes()[: rng.randrange(len(file.read_bytes()))])


def one_bit(place: Home, folder: Path, rng: random.Random) -> None:
    file = folder / rng.choice([store.ARRAYS, store.MANIFEST, store.CARD, store.PAGE])
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(content))


def a_pickle(place: Home, folder: Path, rng: random.Random) -> None:
    name = rng.choice(
        [store.ARRAYS, store.MANIFEST, store.SEAL, "model.pkl", "arrays.npz", "__init__.py", "extra.joblib"]
    )
    (folder / name).write_bytes(_bytes_of(place.root / "ran", rng))


def a_sealed_pickle(place: Home, folder: Path, rng: random.Random) -> None:
    resealed(place, folder.name, lambda m: m, _bytes_of(place.root / "ran", rng))


def an_npz_with_objects(place: Home, folder: Path, rng: random.Random) -> None:
    np.savez(folder / "x.npz", a=np.array([Bomb(place.root / "ran")], dtype=object))
    content = (folder / "x.npz").read_bytes()
    (folder / "x.npz").unlink()
    resealed(place, folder.name, lambda m: m, content)


def a_zip_bomb(place: Home, folder: Path, rng: random.Random) -> None:
    with zipfile.ZipFile(folder / store.ARRAYS, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.npy", bytes(20_000_000))
    resealed(place, folder.name, lambda m: m, (folder / store.ARRAYS).read_bytes())


def a_link(place: Home, folder: Path, rng: random.Random) -> None:
    elsewhere = place.root / "elsewhere"
    if rng.random() < 0.5:
        shutil.move(folder, elsewhere)
        folder.symlink_to(elsewhere, target_is_directory=True)
    else:
        name = rng.choice([store.ARRAYS, store.MANIFEST, store.SEAL])
        shutil.move(folder / name, elsewhere)
        (folder / name).symlink_to(rng.choice([elsewhere, Path(os.devnull), place.root / "nothing"]))


def a_folder_for_a_file(place: Home, folder: Path, rng: random.Random) -> None:
    name = rng.choice([store.ARRAYS, store.MANIFEST, store.SEAL, store.CARD])
    (folder / name).unlink()
    if rng.random() < 0.5:
        (folder / name).mkdir()


def of_another_model(place: Home, folder: Path, rng: random.Random) -> None:
    other = place.models / saved(place, "m-20240308-other", kind=None, earned=0.7)
    names = rng.choice(
        [[store.ARRAYS], [store.MANIFEST], [store.SEAL], [store.MANIFEST, store.SEAL], sorted(store._FILES)]
    )
    if names == [store.ARRAYS]:
        (other / store.ARRAYS).write_bytes(bytes(8) + (other / store.ARRAYS).read_bytes()[8:])
    for name in names:
        shutil.copy(other / name, folder / name)


def of_another_home(place: Home, folder: Path, rng: random.Random) -> None:
    """Re-signed by another key; or with our key, and not in our chain."""
    text = (folder / store.MANIFEST).read_bytes().replace(b'"earned": 0.5', b'"earned": 1.0')
    seal_with(place, folder, text, rng.choice([rng.randbytes(32), bytes(32), store.home_key(place)]))


def a_seal_that_is_none(place: Home, folder: Path, rng: random.Random) -> None:
    value = rng.choice(["null", "[]", "{}", '{"hmac_sha256": 1}', '{"hmac_sha256": "é"}', "nan", "[" * 3000, ""])
    (folder / store.SEAL).write_text(value, encoding="utf-8")


def huge(place: Home, folder: Path, rng: random.Random) -> None:
    name = rng.choice([store.ARRAYS, store.MANIFEST, store.SEAL, store.CARD])
    with (folder / name).open("r+b") as file:
        file.truncate(store._MOST_BYTES[name] + 1)


def a_size_that_lies(place: Home, folder: Path, rng: random.Random) -> None:
    row = rng.randrange(8)

    def change(manifest: dict[str, Any]) -> None:
        one = manifest["arrays"][row]
        lie: dict[str, Any] = rng.choice([
            {"shape": [2**62]}, {"shape": [2**40, 2**40]}, {"shape": [-1]}, {"shape": [1.0]}, {"shape": []},
            {"shape": "3"}, {"shape": [1, 1, 1]}, {"offset": 8}, {"offset": -8}, {"offset": None}, {"name": None},
            {"name": "../../state/model_key"}, {"shape": [True]}, {"shape": None}, {"offset": 2**70},
        ])  # fmt: skip
        one.update(lie if lie != {"offset": 8} or one["offset"] != 8 else {"offset": 16})

    resealed(place, folder.name, change)


def numbers_that_cannot_be(place: Home, folder: Path, rng: random.Random) -> None:
    """NaN, infinity and nonsense in arrays that decide: weights, cycles, thresholds, edges."""
    manifest = json.loads((folder / store.MANIFEST).read_bytes())
    content = bytearray((folder / store.ARRAYS).read_bytes())
    deciding = [row for row in manifest["arrays"] if not row["name"].startswith("oof/")]
    row = rng.choice(deciding)
    size = int(np.prod(row["shape"]))
    at = row["offset"] + 8 * rng.randrange(size)
    content[at : at + 8] = np.array([rng.choice([np.nan, np.inf, -np.inf])]).astype("<f8").tobytes()
    resealed(place, folder.name, lambda m: m, bytes(content))


def a_cycle(place: Home, folder: Path, rng: random.Random) -> None:
    manifest = json.loads((folder / store.MANIFEST).read_bytes())
    content = bytearray((folder / store.ARRAYS).read_bytes())
    row = next(row for row in manifest["arrays"] if row["name"] == "voice-1/child")
    at = row["offset"] + 8 * rng.choice([0, 1, 6, 7])
    content[at : at + 8] = np.array([rng.choice([0.0, 3.0, -1.0, 99.0, 0.5])]).astype("<f8").tobytes()
    resealed(place, folder.name, lambda m: m, bytes(content))


def a_manifest_that_is_none(place: Home, folder: Path, rng: random.Random) -> None:
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda m: {**m, "format": 2}, lambda m: {**m, "format": "1"}, lambda m: {**m, "id": "m-20240308-other"},
        lambda m: {**m, "voices": []}, lambda m: {**m, "voices": None}, lambda m: {**m, "features": []},
        lambda m: {**m, "features": ["depth", "depth", "volume"]}, lambda m: {**m, "features": ["depth", "trend"]},
        lambda m: {**m, "arrays": []}, lambda m: {**m, "arrays": m["arrays"][:-1]}, lambda m: {**m, "files": {}},
        lambda m: {**m, "arrays": [*m["arrays"], m["arrays"][-1]]}, lambda m: {**m, "arrays": {"a": 1}},
        lambda m: {**m, "voices": [{**m["voices"][0], "weight": 1.0}, m["voices"][1]]},
        lambda m: {**m, "voices": [{**m["voices"][0], "weight": float("nan")}, m["voices"][1]]},
        lambda m: {**m, "voices": [{**m["voices"][0], "weight": "0.6"}, m["voices"][1]]},
        lambda m: {**m, "voices": [{**m["voices"][0], "kind": "os.system"}, m["voices"][1]]},
        lambda m: {**m, "voices": [{**m["voices"][0], "kind": "trees"}, m["voices"][1]]},
        lambda m: {**m, "voices": 9 * m["voices"]}, lambda m: {**m, "expires": None},
        lambda m: {**m, "expires": "../.."}, lambda m: {**m, "learned_until": 3}, lambda m: [m],
        lambda m: {**m, "files": {**m["files"], "../../x": {"bytes": 1, "sha256": "0"}}},
        lambda m: {k: v for k, v in m.items() if k != "expires"},
    ]  # fmt: skip
    resealed(place, folder.name, rng.choice(changes))


def another_name(place: Home, folder: Path, rng: random.Random) -> None:
    """A chain that names a path: nobody writes it but somebody who means harm."""
    name = rng.choice(
        ["../m-20240308-first", "/etc", "..", "", "m-20240308-first/../../x", "M", "a" * 99, "m\x00", "con"]
    )
    body = {"model": name, "manifest_sha256": "0" * 64, "gate": {"passed": True}}
    models.note(place, store.TRAINED, body)
    models.note(place, store.PROMOTED, {"model": name})


def the_chain(place: Home, folder: Path, rng: random.Random) -> None:
    path = store.chain_path(place)
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content) - 1)
    content[at] ^= 1 << rng.randrange(5)
    path.write_bytes(bytes(content))


def the_key(place: Home, folder: Path, rng: random.Random) -> None:
    key = place.state / store.KEY_FILE
    rng.choice([key.unlink, lambda: key.write_bytes(b"\xff" * 64), lambda: key.write_text("ab" * 31)])()


KINDS: tuple[Spoil, ...] = (
    truncated, one_bit, a_pickle, a_sealed_pickle, an_npz_with_objects, a_zip_bomb, a_link, a_folder_for_a_file,
    of_another_model, of_another_home, a_seal_that_is_none, huge, a_size_that_lies, numbers_that_cannot_be, a_cycle,
    a_manifest_that_is_none, another_name, the_chain, the_key,
)  # fmt: skip


def artefacts() -> Iterator[tuple[int, Spoil]]:
    for seed in range(209):
        yield seed, KINDS[seed % len(KINDS)]


def test_L01_L02_of_two_hundred_broken_or_malicious_artefacts_none_is_loaded_and_no_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr("pickle.loads", lambda *a, **k: ran.append("pickle.loads"))
    monkeypatch.setattr("pickle.load", lambda *a, **k: ran.append("pickle.load"))
    monkeypatch.setattr("numpy.load", lambda *a, **k: ran.append("numpy.load"))
    sound = Home(tmp_path / "sound")
    saved(sound)
    x = models.rows(20)
    for seed, spoil in artefacts():
        place = Home(tmp_path / f"{seed:03d}")
        shutil.copytree(sound.root, place.root)
        spoil(place, place.models / "m-20240308-first", random.Random(seed))
        found = loaded(place)
        told = f"{seed} {spoil.__name__}: {found}"
        assert found.code.startswith("MODEL_") and found.code != "MODEL_ABSENT", told
        said = found.predict(x, models.NAMES)
        assert np.isnan(said.probabilities).all() and set(said.codes) == {found.code}, told
        assert not (place.root / "ran").exists(), told
        shutil.rmtree(place.root)
    assert ran == []
    assert loaded(sound).code == "OK", "the one they were made from is sound"


def test_L02_what_is_refused_is_counted_with_its_reason(place: Home) -> None:
    from core import logs

    model = saved(place)
    (place.models / model / "model.pkl").write_bytes(pickle.dumps(Bomb(place.root / "ran")))
    key = ("models_refused", (("code", "MODEL_FILES"),))
    before = logs.counters().get(key, 0)
    assert loaded(place).code == "MODEL_FILES"
    assert logs.counters()[key] == before + 1


# ---------------------------------------------------------------- the chain decides
def test_the_view_decides_nothing(place: Home) -> None:
    saved(place)
    saved(place, "m-20240308-other", kind=None)
    view = place.models / store.VIEW_FILE
    for content in (b"", b"not json", view.read_bytes().replace(b"first", b"other")):
        view.write_bytes(content)
        assert loaded(place).model_id == "m-20240308-first"
    view.unlink()
    assert loaded(place).model_id == "m-20240308-first"
    store.write_view(place, store.standing(place))
    assert json.loads(view.read_bytes())["champion"] == "m-20240308-first"


def test_a_shadow_is_heard_from_its_day_on_and_not_the_day_before(place: Home) -> None:
    saved(place)
    saved(place, "m-20240308-other", kind=store.SHADOWED)
    until = store.standing(place).shadow_until
    assert until is not None
    assert store.scoring_id(store.standing(place), until) == "m-20240308-other"
    assert store.scoring_id(store.standing(place), date.fromordinal(until.toordinal() - 1)) == "m-20240308-first"


def test_tries_are_counted_until_one_passes(place: Home) -> None:
    for number, passed in enumerate((False, False, True, False)):
        saved(place, f"m-20240308-{number}00", passed=passed, kind=None)
        assert store.standing(place).tries == (1, 2, 0, 1)[number]
    assert store.standing(place).passed == {"m-20240308-200"}


# ---------------------------------------------------------------- killed while saving
class Killed(BaseException):
    """Nothing after it happens."""


@pytest.mark.parametrize("late", [False, True])
def test_L10_a_kill_at_any_step_of_saving_leaves_the_champion_or_after_its_record_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """`late`: the effect happens and the process dies right after it. Every step in turn, until nothing is left."""
    import core.files

    real = {"replace": os.replace, "rename": Path.rename, "replace_path": Path.replace, "rmtree": shutil.rmtree}
    for step in range(1, 200):
        place = Home(tmp_path / f"{late}-{step}")
        saved(place)
        left = [step]

        def counted(act: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] == 0 and not late:
                    raise Killed
                made = act(*args, **kwargs)
                if left[0] == 0:
                    raise Killed
                return made

            return run

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", counted(real["rename"]))
            patch.setattr(Path, "replace", counted(real["replace_path"]))
            patch.setattr(shutil, "rmtree", counted(real["rmtree"]))
            patch.setattr(Path, "mkdir", counted(Path.mkdir))
            patch.setattr(core.files, "fsync_folder", counted(core.files.fsync_folder))
            patch.setattr(store.Journal, "append", counted(store.Journal.append))
            try:
                saved(place, "m-20240308-second", earned=0.6)
                done = True
            except Killed:
                done = False
        found = loaded(place)
        recorded = store.standing(place).champion
        assert found.code == "OK" and found.model_id == recorded, f"step {step}: {found}"
        if done:
            assert recorded == "m-20240308-second" and step > 10
            return
        saved(place, "m-20240308-third")  # the next training clears what was left and goes on
        assert not [p.name for p in place.models.iterdir() if p.name.startswith((".new", ".old"))]
    raise AssertionError("it never ran to its end")


def test_L10_a_model_of_the_same_name_is_replaced_whole_or_stays(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(place)
    before = (place.models / model / store.MANIFEST).read_bytes()
    real, calls = Path.rename, [0]

    def rename(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == 2:  # the old folder is aside, the new one not yet in its place
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            manifest, arrays = models.manifest_of(models.small_ensemble(), earned=0.9)
            store.save(place, model, manifest, arrays, {store.CARD: b"{}", store.PAGE: b""})
    store._clear_unfinished(place.models)
    assert (place.models / model / store.MANIFEST).read_bytes() == before
    assert loaded(place).code == "OK"


def test_a_key_is_of_its_owner_alone_and_made_once(place: Home) -> None:
    with pytest.raises(ModelRefused, match="no model key"):
        store.home_key(place)
    key = store.home_key(place, create=True)
    assert store.home_key(place, create=True) == key and len(key) == 32
    if os.name != "nt":
        assert (place.state / store.KEY_FILE).stat().st_mode & 0o077 == 0


def test_an_id_that_is_none_is_never_written(place: Home) -> None:
    for name in ("../x-20240308", "UPPER-CASE", "a", "m 20240308"):
        with pytest.raises(ValueError, match="no model id"):
            store.save(place, name, {}, {}, {})


def test_records_keep_the_clock_they_were_given(place: Home) -> None:
    saved(place)
    records = list(store.chain(place, models.clock()).kinds(store.TRAINED))
    assert [record.at for record in records] == [NOW]
