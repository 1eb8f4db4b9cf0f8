"""train_ensemble.py and models.py: what is written, what is told, and that only the gate makes a champion."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from config.pin import pin_path, write_pin
from core import cli
from core.clock import OffsetClock, SteppedClock
from core.domain import Mode
from core.errors import DataError
from core.journal import Journal, verify
from core.paths import Home
from core.ports import Opinion
from core.secrets import mask_secrets
from ml_advanced import model_store as store
from ml_advanced.dataset import Dataset, dataset_of
from ml_advanced.ensemble.blend import Ensemble, Voice
from ml_advanced.ensemble.calibrators import Platt
from ml_advanced.ensemble.ensemble_predictor import EnsemblePredictor
from ml_advanced.ensemble.familiarity import fit_familiarity
from ml_advanced.features import FEATURES, fingerprint
from ml_advanced.market import MarketView
from ml_advanced.training import Recipe, fit_member
from portfolio.backtest.trials import TrialLedger
from portfolio.strategies import signals_at
from scripts import ml_data, ml_scan, modelling, models, teaching, train_ensemble, wiring
from tests.fakes.models import market_data, note, saved
from tests.ml_advanced.wired import asked, written

AT = datetime(2021, 11, 17, 15, 0, tzinfo=UTC)  # soon after the last session of `market_data`
NAMED = [name for name in FEATURES if "spy" not in name][:12]

SMALL = Recipe(members=("logistic", "boosting"), folds=3, boosts=10, controls=1)


def as_features(data: Dataset) -> Dataset:
    return dataset_of(
        names=NAMED, x=data.x, y=data.y, r=data.r, starts=data.starts, ends=data.ends, decision_ids=data.decision_ids,
        symbols=data.symbols, strategies=data.strategies, sessions=data.sessions,
    )  # fmt: skip


class Desk:
    """Training in this home on data that are given, at a time that is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self.home, self.clock = Home(home), SteppedClock(AT)
        self.data = as_features(market_data(2, edge=1.0))
        empty = np.empty(0)
        market = MarketView(np.empty(0, dtype=np.int32), empty, empty, empty, empty)
        self.loaded = loaded = SimpleNamespace(source="given", simulated=False, sha256="0" * 64)

        def made(context: wiring.Context, args: argparse.Namespace, tick: Any = None) -> Any:
            return SimpleNamespace(dataset=self.data, loaded=loaded, market=market, counts={"signals": 3000})

        real = wiring.open_context
        monkeypatch.setattr(ml_data, "made", made)
        monkeypatch.setattr(wiring, "open_context", lambda args: real(args, clock=self.clock))
        monkeypatch.setattr(teaching, "_regime", lambda found: None)
        monkeypatch.setattr(teaching, "recipe_of", lambda context, args: SMALL)

    def train(self, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
        assert train_ensemble.main(["--quick", "--workers", "1", "--json", *more]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    def models(self, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
        assert cli.run(lambda: models.main([*words, "--json"], clock=self.clock)) == code
        told = capsys.readouterr()
        return json.loads(told.out) if told.out.startswith("{") else {"error": told.err}

    def kinds(self) -> list[str]:
        return [record.kind for record in store.chain(self.home, self.clock).records()]

    def predictor(self) -> EnsemblePredictor:
        return EnsemblePredictor(self.home, session=modelling.today(self.clock))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, own_home: Path) -> Desk:
    return Desk(monkeypatch, own_home)


# ---------------------------------------------------------------- training
def test_an_edge_goes_through_its_shadow_period_and_then_scores(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    found = desk.train(capsys)
    assert found["gate"]["passed"], found["finding"]
    assert desk.kinds() == [store.REGISTERED, store.TRAINED, store.SHADOWED]
    assert desk.predictor().code == "MODEL_SHADOW"
    assert desk.models(capsys, "list")["shadow"] == found["model"]
    until = date.fromisoformat(found["shadow_until"])
    assert 27 <= (until - AT.date()).days <= 32, "twenty sessions"
    desk.clock.set(AT + timedelta(days=(until - AT.date()).days - 1))
    assert desk.models(capsys, "list")["code"] == "MODEL_SHADOW"
    desk.clock.set(AT + timedelta(days=(until - AT.date()).days))
    assert desk.predictor().code == "OK", "by the chain, before anybody has recorded it"
    told = desk.models(capsys, "list")
    assert (told["code"], told["champion"], told["shadow"]) == ("OK", found["model"], None)
    assert set(told["loaded"]) == set(found["members"])
    assert desk.kinds()[-1] == store.PROMOTED
    proof = verify(store.chain_path(desk.home))
    assert proof.ok
    said = desk.predictor().predict(desk.data.x[-300:], NAMED)
    assert said.code == "OK" and said.codes.count("OK") > 250


def test_what_was_trained_is_on_record_before_it_was_judged_and_on_a_card(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    found = desk.train(capsys)
    (trial,) = TrialLedger.of(desk.home, desk.clock).recorded(teaching.FAMILY)
    assert trial.data_sha256 == desk.data.sha256 and trial.observations > 100
    folder = Path(found["folder"])
    card = json.loads((folder / store.CARD).read_bytes())
    assert card["data"]["sha256"] == desk.data.sha256 and card["features"] == NAMED
    assert {"auc", "log_loss", "brier", "r_spread"} <= set(card["gate"]["measures"])
    assert len(card["calibration"]["bins"]) == 10 and card["controls"][0]["auc"] is not None
    assert set(card["importance"]) == set(NAMED) and card["libraries"]["scikit-learn"]
    html = (folder / store.PAGE).read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and "<svg" in html and "<script" not in html
    assert "http://" not in html and "https://" not in html
    assert mask_secrets(html) == html


def test_no_better_than_the_base_rate_is_told_and_changes_nothing(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.data = as_features(market_data(3))
    found = desk.train(capsys)
    assert found["finding"].startswith("no better than the base rate: not promoted")
    assert (found["shadow_until"], desk.predictor().code) == (None, "MODEL_ABSENT")
    assert desk.kinds() == [store.REGISTERED, store.TRAINED]
    assert desk.models(capsys, "list", code=1)["models"][0]["is"] == "refused"
    error = desk.models(capsys, "promote", found["model"], code=10)["error"]
    assert "MODEL_DID_NOT_PASS" in error and desk.predictor().code == "MODEL_ABSENT"
    desk.data = as_features(market_data(4))
    assert desk.train(capsys)["gate"]["tries"] == 2
    assert desk.kinds().count(store.REGISTERED) == 1, "the plan stands since before the first look"


def test_the_same_data_make_the_same_model_and_change_nothing(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    first = desk.train(capsys)
    before = desk.kinds()
    again = desk.train(capsys)
    assert (again["model"], again["known"], again["finding"]) == (first["model"], True, first["finding"])
    assert desk.kinds() == before
    assert len(TrialLedger.of(desk.home, desk.clock).recorded(teaching.FAMILY)) == 1


def test_a_champion_is_not_followed_by_one_that_is_no_better(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    first = desk.train(capsys)
    desk.models(capsys, "promote")
    assert desk.predictor().model_id == first["model"]
    fewer = np.arange(len(desk.data)) >= 40
    desk.data = desk.data.rows(fewer)
    second = desk.train(capsys)
    assert second["model"] != first["model"]
    assert (second["gate"]["passed"], second["gate"]["code"]) == (False, "MODEL_NO_BETTER_THAN_CHAMPION")
    assert desk.predictor().model_id == first["model"]


def test_a_champion_of_simulated_bars_is_none_for_real_ones_and_is_followed(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.loaded.simulated = True
    first = desk.train(capsys)
    desk.models(capsys, "promote")
    desk.loaded.simulated = False
    desk.data = desk.data.rows(np.arange(len(desk.data)) >= 40)
    second = desk.train(capsys)
    assert second["gate"]["passed"] and second["model"] != first["model"]
    desk.models(capsys, "promote")
    desk.loaded.simulated = True
    desk.data = desk.data.rows(np.arange(len(desk.data)) >= 40)
    third = desk.train(capsys)["gate"]
    (against,) = [c for c in third["criteria"] if c["name"] == "champion"]
    assert (third["code"], against["observed"]) == ("MODEL_NO_BETTER_THAN_CHAMPION", None), "other rows than its own"
    assert desk.predictor().model_id == second["model"]


def test_a_shadow_that_cannot_be_believed_does_not_hide_the_champion_behind_it(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.train(capsys)
    desk.models(capsys, "promote")
    shadow = saved(desk.home, "m-20211112-shadow", kind=store.SHADOWED, at=AT)
    (desk.home.models / shadow / store.ARRAYS).write_bytes(b"")
    desk.data = desk.data.rows(np.arange(len(desk.data)) >= 40)
    assert desk.train(capsys)["gate"]["code"] == "MODEL_NO_BETTER_THAN_CHAMPION"


def test_killed_after_its_record_a_model_that_passed_can_still_be_let_in(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = modelling.record

    def killed(home: Home, clock: Any, kind: str, *args: Any, **more: Any) -> None:
        if kind == store.SHADOWED:
            raise KeyboardInterrupt
        real(home, clock, kind, *args, **more)

    monkeypatch.setattr(modelling, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        desk.train(capsys)
    monkeypatch.setattr(modelling, "record", real)
    capsys.readouterr()
    assert train_ensemble.main(["--quick", "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "nothing was changed" in told and "models.py promote" in told
    model = told.split("\n")[1].split(":")[0]
    assert desk.models(capsys, "promote", model)["champion"] == model


def test_a_challenger_that_passes_tells_what_live_will_want(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_ensemble.main(["--quick", "--workers", "1"]) == 0
    assert "live does not start until you accept it: python scripts/config_pin.py pin" in capsys.readouterr().out


# ---------------------------------------------------------------- moves
def test_killed_between_record_and_view_the_pin_follows_at_the_next_scan(own_home: Path) -> None:
    from config.pin import check_pin, write_pin

    home, clock = Home(own_home), SteppedClock(datetime(2024, 3, 11, 15, tzinfo=UTC))
    saved(home)
    write_pin(home)
    digest = store.standing(home).champion_sha256
    note(home, store.ROLLED_BACK, {"model": None, "manifest_sha256": digest, "reason": "killed here"})
    assert check_pin(home).ok, "the view still tells the one before"
    modelling.step_forward(home, clock)
    assert check_pin(home).differing == ("model",)
    before = (home.models / store.VIEW_FILE).stat().st_mtime_ns
    modelling.step_forward(home, clock)
    assert (home.models / store.VIEW_FILE).stat().st_mtime_ns == before, "in step: not written again"


def test_rollback_takes_the_champion_before_at_once_and_is_on_record(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.clock.set(datetime(2024, 3, 11, 15, tzinfo=UTC))
    saved(desk.home)
    saved(desk.home, "m-20240308-second", earned=0.7)
    desk.home.journal.parent.mkdir(parents=True, exist_ok=True)
    Journal(desk.home.journal, desk.clock).append("x", {})
    running = desk.predictor()
    assert running.model_id == "m-20240308-second"
    began = OffsetClock(AT).monotonic()
    told = desk.models(capsys, "rollback", "--reason", "too sure of itself")
    assert OffsetClock(AT).monotonic() - began < 5
    assert told["champion"] == "m-20240308-first"
    assert desk.predictor().model_id == "m-20240308-first", "the next scan asks this one, nothing was restarted"
    (record,) = Journal(desk.home.journal, desk.clock).kinds(store.ROLLED_BACK)
    assert record.body["reason"] == "too sure of itself" and record.body["dropped"] == "m-20240308-second"
    assert json.loads((desk.home.models / store.VIEW_FILE).read_bytes())["champion"] == "m-20240308-first"
    assert desk.models(capsys, "rollback", "--reason", "this one too")["champion"] is None
    assert desk.predictor().code == "MODEL_ABSENT"
    assert "MODEL_NOTHING_TO_ROLL_BACK" in desk.models(capsys, "rollback", "--reason", "more", code=2)["error"]


def test_rollback_drops_a_shadow_first_and_passes_over_what_cannot_be_believed(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.clock.set(datetime(2024, 3, 11, 15, tzinfo=UTC))
    for name in ("first", "second", "third"):
        saved(desk.home, f"m-20240308-{name}")
    saved(desk.home, "m-20240308-fourth", kind=store.SHADOWED)
    assert desk.models(capsys, "rollback", "--reason", "no")["champion"] == "m-20240308-third"
    assert desk.models(capsys, "list")["shadow"] is None
    (desk.home.models / "m-20240308-second" / store.ARRAYS).write_bytes(b"")
    assert desk.models(capsys, "rollback", "--reason", "no")["champion"] == "m-20240308-first"
    rows = {row["model"]: row["code"] for row in desk.models(capsys, "list")["models"]}
    assert rows["m-20240308-second"] == "MODEL_HASH_DIFFERS" and rows["m-20240308-first"] == "OK"


def test_rollback_goes_to_a_named_former_champion_and_to_no_other(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.clock.set(datetime(2024, 3, 11, 15, tzinfo=UTC))
    for name in ("first", "second", "third"):
        saved(desk.home, f"m-20240308-{name}")
    saved(desk.home, "m-20240308-refused", kind=None, passed=False)
    target = "m-20240308-first"
    assert "MODEL_UNKNOWN" in desk.models(
        capsys, "rollback", "--to", "m-20240308-refused", "--reason", "x", code=2
    )["error"]  # fmt: skip
    assert desk.models(capsys, "rollback", "--to", target, "--reason", "x")["champion"] == target


def test_promote_ends_a_shadow_period_early(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.clock.set(datetime(2024, 3, 11, 15, tzinfo=UTC))
    assert "MODEL_NOT_NAMED" in desk.models(capsys, "promote", code=2)["error"]
    saved(desk.home, kind=store.SHADOWED)
    assert desk.predictor().code == "MODEL_SHADOW"
    assert desk.models(capsys, "promote", "--reason", "watched it")["champion"] == "m-20240308-first"
    assert desk.predictor().code == "OK"
    assert "MODEL_UNKNOWN" in desk.models(capsys, "promote", "m-20240308-nobody", code=2)["error"]


def test_a_model_that_cannot_be_believed_is_not_promoted(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(desk.home, kind=None)
    (desk.home.models / model / store.ARRAYS).write_bytes(b"")
    assert "MODEL_HASH_DIFFERS" in desk.models(capsys, "promote", model, code=11)["error"]


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["rollback"], ["list", "x"], ["list", "--to", "x"], ["promote", "--to", "x"]):
        assert cli.run(lambda words=words: models.main(words)) == 2  # type: ignore[misc]
    for words in (["--workers", "0"], ["--cap", "0"], ["--start", "2024-01-02", "--end", "2024-01-01"]):
        assert cli.run(lambda words=words: train_ensemble.main(words)) == 2  # type: ignore[misc]
    capsys.readouterr()
    assert models.main(["list"]) == 1
    assert "no model was trained in this home" in capsys.readouterr().out


# ---------------------------------------------------------------- the whole way, and the pin
def test_too_little_data_is_told_plainly_from_bars_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "market", symbols=33, sessions=300)
    assert cli.run(lambda: train_ensemble.main(["--bars", str(path), "--quick", "--workers", "1"])) == 20
    told = capsys.readouterr()
    assert told.out.startswith("training the ensemble")
    assert "MODEL_TOO_LITTLE_DATA" in told.err and "wanted are 300 trades" in told.err


def test_a_damaged_chain_is_told_before_an_hours_work(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(Home(own_home))
    path = store.chain_path(Home(own_home))
    path.write_bytes(path.read_bytes().replace(b"first", b"worst"))
    assert cli.run(lambda: train_ensemble.main(["--quick", "--workers", "1"])) == 11
    assert "MODEL_CHAIN_DAMAGED" in capsys.readouterr().err


def test_the_pin_names_a_model_that_came_since(own_home: Path) -> None:
    from config.pin import check_pin, model_sha256, write_pin

    home = Home(own_home)
    assert model_sha256(home) == "0" * 64
    write_pin(home)
    assert check_pin(home).ok
    saved(home)
    assert check_pin(home).differing == ("model",)
    write_pin(home)
    saved(home, "m-20240308-second", kind=store.SHADOWED)
    assert check_pin(home).differing == ("model",), "told on the day it passed the gate"
    write_pin(home)
    note(home, store.PROMOTED, {"model": "m-20240308-second"})
    store.write_view(home, store.standing(home))
    assert check_pin(home).ok, "and not again on the day it is heard"
    (home.models / store.VIEW_FILE).write_text("{")
    assert check_pin(home).differing == ("model",)


# ---------------------------------------------------------------- a scan
def test_features_that_cannot_be_had_are_no_end_of_a_scan(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*args: Any) -> Any:
        raise DataError("SPY.csv is damaged")

    monkeypatch.setattr(ml_scan, "scan_features", damaged)
    with wiring.closing(wiring.open_context(argparse.Namespace(json=True))) as context:
        context.clock = SteppedClock(datetime(2024, 3, 11, 15, tzinfo=UTC))
        saved(context.home)
        nothing: Any = SimpleNamespace(simulated=False)
        scorer = modelling.scorer_for(context, nothing)
        assert scorer is not None
        asked_for: Any = [SimpleNamespace(decision_id="d")]
        assert scorer.opinions(asked_for)["d"].code == "MODEL_FEATURES_FAILED"


def test_a_scan_hears_the_champion_and_overhears_its_shadow(tmp_path: Path, own_home: Path) -> None:
    """Each signal of a real session, through the very features of the scan: what was learned is what is said."""
    bars = written(tmp_path / "market")
    with wiring.closing(wiring.open_context(argparse.Namespace(json=True))) as context:
        made = ml_data.made(context, asked(bars))
        data = made.dataset
        member = fit_member("logistic", SMALL, 1, data.x, data.y)
        voice = Voice("logistic", member, Platt(1.0, 0.0), 1.0)
        ensemble = Ensemble(data.names, (voice,), fit_familiarity(data.x))
        facts: dict[str, Any] = {
            "learned_until": date(2000, 1, 3),
            "expires": date(2100, 1, 1),
            "features_meaning": fingerprint(),
        }
        saved(context.home, ensemble=ensemble, **facts)
        saved(context.home, "m-20240308-shadow", ensemble=ensemble, kind=store.SHADOWED, **facts)
        session = date.fromisoformat(str(data.starts[len(data) // 2]))
        context.clock = SteppedClock(datetime(2024, 3, 12, 15, tzinfo=UTC))
        panel = made.loaded.panel.truncated(session)
        seen = wiring.MarketData(panel, session, "bars:x", False, "", made.loaded.vix.get(session), {})
        scorer = modelling.scorer_for(context, seen, bars)
        signals = [s for s in signals_at(panel, session, context.params) if s.decision_id in data.decision_ids]
        assert isinstance(scorer, modelling.Overheard) and signals
        heard = scorer.opinions(signals)
        expected = dict(zip(data.decision_ids, ensemble.raw(data.x).tolist(), strict=True))
        assert {d: o.probability for d, o in heard.items() if o.code == "OK"}
        for decision, opinion in heard.items():
            assert opinion.probability is None or opinion.probability == expected[decision]
            assert (opinion.model, opinion.weight) == ("m-20240308-first", 0.5)
        assert {o.model for o in scorer.shadowed.values()} == {"m-20240308-shadow"}
        log = (context.home.logs / "events.jsonl").read_text(encoding="utf-8")
        assert '"event":"model_shadow_said"' in log and signals[0].decision_id in log


def test_a_live_scan_asks_no_model_but_the_pinned_one(own_home: Path) -> None:
    """A model that moved while a live runner was running earns nothing until a person has pinned it."""
    nothing: Any = SimpleNamespace(simulated=True)
    signals: Any = [SimpleNamespace(decision_id="d")]
    with wiring.closing(wiring.open_context(argparse.Namespace(json=True))) as context:
        saved(context.home)
        assert not isinstance(modelling.scorer_for(context, nothing), modelling.Unpinned), "paper has no pin"
        context.mode = Mode.LIVE
        for pin in (None, b"{damaged"):
            if pin is not None:
                pin_path(context.home).write_bytes(pin)
            scorer = modelling.scorer_for(context, nothing)
            assert scorer is not None and scorer.opinions(signals)["d"] == Opinion(None, "MODEL_UNPINNED")
        pin_path(context.home).unlink()
        write_pin(context.home)
        assert not isinstance(modelling.scorer_for(context, nothing), modelling.Unpinned)
        saved(context.home, "m-20240308-other")
        assert isinstance(modelling.scorer_for(context, nothing), modelling.Unpinned)


def test_a_home_that_never_trained_asks_nobody_and_one_that_is_told_not_to_neither(own_home: Path) -> None:
    with wiring.closing(wiring.open_context(argparse.Namespace(json=True))) as context:
        nothing: Any = SimpleNamespace(simulated=True)
        assert modelling.scorer_for(context, nothing) is None
        saved(context.home, kind=None, passed=False)
        assert modelling.scorer_for(context, nothing) is not None, "it says why there is no opinion"
        ml = context.settings.ml.model_copy(update={"enabled": False})
        context.settings = context.settings.model_copy(update={"ml": ml})
        assert modelling.scorer_for(context, nothing) is None


def test_what_was_trained_stays_when_a_replay_begins_anew(own_home: Path) -> None:
    from scripts import running

    with wiring.closing(wiring.open_context(argparse.Namespace(json=True))) as context:
        saved(context.home)
        Journal(context.home.journal, context.clock).append("x", {})
        wiring.replay_file(context).write_text("{}")
        running.fresh_home(context)
        assert not context.home.journal.exists(), "the replay's own state is moved aside"
        assert EnsemblePredictor(context.home, session=date(2024, 3, 11)).code == "OK"
