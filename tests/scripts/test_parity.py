"""Parity: a clean day has no difference, and each thing that changes afterwards is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

import config.strategy_params
from core.errors import DataError
from portfolio import quality_gate
from portfolio.backtest.parity import Cause
from scripts import parity
from scripts.recomputing import settings_from
from scripts.recording import settings_value
from tests.fakes.bar_files import LAST
from tests.fakes.recorded_day import DAY, World, copied, record, use

FORGOTTEN = "20240304-ibs_rsi-IBS1"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setattr("config.pin.code_sha256", lambda: "then")
        yield record(tmp_path_factory.mktemp("recorded"), patch)


@pytest.fixture
def world(recorded: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    mine = copied(recorded, tmp_path / "world")
    use(mine, monkeypatch)
    monkeypatch.setattr("config.pin.code_sha256", lambda: "then")  # else a file saved meanwhile would be a cause
    return mine


def test_a_clean_day_has_no_difference(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = world.parity(capsys)
    assert (code, facts["differing"], facts["inputs"]) == (0, [], [])
    assert facts["decisions"] == facts["equal"] == facts["reproduced"] >= 25
    written = json.loads((world.home / "wf_outputs" / f"parity-{DAY}-{DAY}" / "parity.json").read_text())
    assert written == facts


def test_the_table_fits_into_eighty_columns(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.revise("IBS1", 0, "close")
    assert parity.main(["--start", str(DAY), "--end", str(DAY)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 80  # the last one is a path
    assert any("BAR_REVISED" in line and "IBS1" in line for line in lines)


# ---------------------------------------------------------------- what is injected
@dataclass(frozen=True)
class Case:
    """`differs`: a decision must hang on it. `symbol`: whose; None: of all."""

    name: str
    inject: Callable[[World], object]
    cause: Cause
    symbol: str | None
    key: str
    differs: bool = False


def revision(symbol: str, back: int, column: str, *, by: float = 1.01, differs: bool = False) -> Case:
    return Case(
        f"revised-{symbol}-{back}-{column}", lambda w: w.revise(symbol, back, column, by), Cause.BAR_REVISED, symbol,
        column, differs,
    )  # fmt: skip


def drift(key: str, value: Any, *, differs: bool = False, named: str = "") -> Case:
    return Case(f"config-{key}", lambda w: w.configure({key: value}), Cause.CONFIG_CHANGED, None, named or key, differs)


def dropped(symbol: str, back: int) -> Case:
    return Case(f"gone-{symbol}-{back}", lambda w: w.drop(symbol, back), Cause.BAR_GONE, symbol, "bar of", back == 0)


def rewrite(old: str, new: str) -> Callable[[World], object]:
    def inject(world: World) -> None:
        text = world.universe.read_text(encoding="utf-8")
        assert old in text
        world.universe.write_text(text.replace(old, new), encoding="utf-8")

    return inject


def announce(*rows: str) -> Callable[[World], object]:
    def inject(world: World) -> None:
        (world.home / "cache" / "earnings.csv").write_text("\n".join(["symbol,date", *rows, ""]), encoding="utf-8")

    return inject


CASES = [
    revision("IBS1", 0, "open", by=0.999),
    revision("IBS1", 0, "high", differs=True),
    revision("IBS1", 0, "low", by=0.999, differs=True),
    revision("IBS1", 0, "close", differs=True),
    revision("IBS1", 0, "volume"),
    revision("IBS1", 1, "close", differs=True),  # the RSI
    revision("IBS1", 5, "high", by=1.1, differs=True),  # the ATR, so the stop
    revision("IBS1", 150, "close", by=1.01, differs=True),  # the average, so the score
    revision("IBS1", 230, "close"),  # before the average's window
    revision("IBS2", 0, "low", by=0.98, differs=True),
    Case("revised-so-that-it-cannot-be", lambda w: w.revise("IBS2", 0, "low", 1.02), Cause.QUARANTINE, "IBS2",
         str(LAST), differs=True),
    revision("IBS2", 3, "close", differs=True),
    revision("SOUP", 0, "low", by=0.99, differs=True),
    revision("SOUP", 12, "low", by=0.90, differs=True),  # the lowest low of the window
    revision("CALM", 0, "close", by=1.001),
    revision("STILL", 40, "volume", by=2.0),
    revision("GAP", 2, "high"),
    Case("late-last", lambda w: w.deliver("IBS3"), Cause.BAR_LATE, "IBS3", f"bar of {LAST}", differs=True),
    Case("late-middle", lambda w: w.deliver("GAP", date(2024, 2, 16)), Cause.BAR_LATE, "GAP", "bar of 2024-02-16"),
    dropped("IBS1", 0),
    dropped("SOUP", 0),
    dropped("STILL", 0),
    dropped("CALM", 30),
    Case("no-bars", lambda w: w.forget("IBS2"), Cause.SYMBOL_MISSING, "IBS2", "bars", differs=True),
    Case("split", lambda w: w.split("IBS1", 2.0, LAST - timedelta(days=30)), Cause.CORPORATE_ACTION, "IBS1", "prices",
         differs=True),
    Case("split-of-tomorrow", lambda w: w.split("SOUP", 2.0, DAY), Cause.CORPORATE_ACTION, "SOUP", "prices",
         differs=True),
    Case("vix-half", lambda w: w.settle_vix(28.0), Cause.VIX_REVISED, None, "VIX", differs=True),
    Case("vix-stop", lambda w: w.settle_vix(40.0), Cause.VIX_REVISED, None, "VIX", differs=True),
    Case("vix-a-little", lambda w: w.settle_vix(15.1), Cause.VIX_REVISED, None, "VIX"),
    drift("quality_gate.min_score", 60, differs=True),
    drift("selection.top_n.n", 2, differs=True),
    drift("risk.policy_gate.per_order_max_usd", 40, differs=True),
    drift("risk.position_limit", 2, differs=True),
    drift("risk.vix.halve_from", 14, differs=True),
    drift("execution.entry_offset_bps", 20, differs=True),
    drift("execution.time_in_force", "day_cancel", differs=True),
    drift("sizing.risk_per_trade_usd", 1, differs=True),
    drift("filters.earnings.on_unknown", "refuse", differs=True),
    drift("execution.max_attempts", 1),
    Case("universe-less", rewrite("SOUP,Sector", "XSOUP,Sector"), Cause.UNIVERSE_CHANGED, "SOUP", "universe",
         differs=True),
    Case("universe-sector", rewrite("IBS1,Sector 2", "IBS1,Other"), Cause.UNIVERSE_CHANGED, "IBS1", "universe"),
    Case("earnings", announce("IBS1,2024-03-05", "IBS1,2023-12-05"), Cause.EARNINGS_CHANGED, "IBS1", "announcements",
         differs=True),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_changed_is_found_and_named(case: Case, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    case.inject(world)
    code, facts = world.parity(capsys)
    told = [
        c for c in facts["inputs"] if (c["cause"], c["symbol"]) == (case.cause, case.symbol) and case.key in c["key"]
    ]
    assert told and told[0]["then"] != told[0]["now"], facts["inputs"]
    strangers = [c for c in facts["inputs"] if case.cause != c["cause"]]
    assert strangers == []
    assert {d["cause"] for d in facts["differing"]} <= {str(case.cause)}, facts["differing"]
    assert code == (1 if facts["differing"] else 0)
    if case.differs:
        assert facts["differing"], "a decision hangs on it"
        assert case.symbol is None or case.symbol in {d["symbol"] for d in facts["differing"]}
    assert facts["reproduced"] == facts["decisions"]  # from what was kept, the day is still the same


def test_there_are_forty_of_them() -> None:
    assert len(CASES) >= 40 and len({case.name for case in CASES}) == len(CASES)
    assert sum(case.differs for case in CASES) >= 25


@pytest.mark.parametrize(("part", "key", "value"), [("ibs_rsi", "rsi_below", 1.0), ("turtle_soup", "target_r", 0.7)])
def test_a_changed_frozen_parameter_is_named(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, part: str, key: str, value: float
) -> None:
    document = json.loads(config.strategy_params.FROZEN_PARAMS_PATH.read_text(encoding="utf-8"))
    document[part][key] = value
    (world.root / "params.json").write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(config.strategy_params, "FROZEN_PARAMS_PATH", world.root / "params.json")
    code, facts = world.parity(capsys)
    assert code == 1 and {d["cause"] for d in facts["differing"]} == {"PARAMS_CHANGED"}
    assert [c["key"] for c in facts["inputs"]] == [f"{part}.{key}"]


def test_a_pick_that_lost_its_place_is_blamed_on_the_bar_of_the_one_that_took_it(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slots were free; a late bar makes IBS3 the best, so that another symbol's decision differs."""
    rows = world.rows()
    kept = settings_of(world, rows[0]["settings"])
    narrow = kept | {"selection": kept["selection"] | {"top_n": kept["selection"]["top_n"] | {"n": 3}}}
    from scripts.recording import keep_blob

    name = keep_blob(world.inputs, narrow)
    world.write_rows([row | {"settings": name} for row in rows])
    world.configure({"selection.top_n.n": 3})
    assert world.parity(capsys)[0] == 0
    world.deliver("IBS3")
    _, facts = world.parity(capsys)
    lost = [d for d in facts["differing"] if "verdict SOUP" in d["decision"]]
    assert lost and {d["cause"] for d in facts["differing"]} == {"BAR_LATE"}
    assert all(d["symbol"] == "IBS3" for d in lost)


def test_each_decision_is_blamed_on_what_moves_it_not_on_what_else_changed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.configure({"quality_gate.min_score": 60})  # SOUP is below it
    world.settle_vix(28.0)  # half the size
    _, facts = world.parity(capsys)
    causes = {d["symbol"]: d["cause"] for d in facts["differing"] if d["decision"].startswith("09:35 verdict")}
    assert causes == {"IBS1": "VIX_REVISED", "IBS2": "VIX_REVISED", "SOUP": "CONFIG_CHANGED"}


def test_a_session_without_any_record_is_unknown(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    _, facts = world.parity(capsys, "--end", "2024-03-06")
    assert [(d["day"], d["decision"], d["cause"]) for d in facts["differing"]] == [("2024-03-06", "day", "UNKNOWN")]


def test_a_kept_value_that_was_exchanged_is_not_used(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    import gzip

    kept = settings_of(world, world.rows()[0]["settings"])
    name = world.rows()[0]["settings"]
    kept["quality_gate"]["min_score"] = 31
    text = json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
    (world.inputs / "blobs" / f"{name[:32]}.json.gz").write_bytes(gzip.compress(text))
    _, facts = world.parity(capsys)
    assert [d["cause"] for d in facts["differing"]] == ["UNKNOWN"]
    assert "INPUTS_DAMAGED" in facts["differing"][0]["detail"]


def settings_of(world: World, name: str) -> dict[str, Any]:
    from scripts.recording import read_blob

    found: dict[str, Any] = read_blob(world.inputs, name)
    return found


# ---------------------------------------------------------------- code, and what cannot be worked out again
def another_score(monkeypatch: pytest.MonkeyPatch) -> None:
    real = quality_gate.score
    monkeypatch.setattr("portfolio.choice.score", lambda *a: replace(real(*a), score=real(*a).score + 1.0))


def test_changed_code_is_blamed_only_when_the_code_did_change(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    another_score(monkeypatch)
    code, facts = world.parity(capsys)
    assert code == 1 and {d["cause"] for d in facts["differing"]} == {"UNKNOWN"}
    assert facts["reproduced"] < facts["decisions"]
    monkeypatch.setattr("config.pin.code_sha256", lambda: "other")
    _, facts = world.parity(capsys)
    assert {d["cause"] for d in facts["differing"]} == {"CODE_CHANGED"}


def unlink(pattern: str) -> Callable[[World], None]:
    def remove(world: World) -> None:
        found = list(world.inputs.glob(pattern))
        assert found
        for path in found:
            path.unlink()

    return remove


def cut(world: World) -> None:
    path = next(world.inputs.glob("bars/*/*.bars"))
    path.write_bytes(path.read_bytes()[:-40])


def garble(world: World) -> None:
    file = world.inputs / f"{DAY}.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + '{"kind":"quo\n', encoding="utf-8")


def no_cache(world: World) -> None:
    import shutil

    shutil.rmtree(world.cache)


@pytest.mark.parametrize(
    "damage",
    [unlink("*.jsonl"), unlink("bars/*/*.bars"), unlink("blobs/*"), cut, garble, no_cache],
    ids=["no-rows", "no-bars", "no-blobs", "cut-bars", "damaged-line", "no-bars-of-today"],
)
def test_what_is_not_there_is_unknown_and_never_equal(
    world: World, capsys: pytest.CaptureFixture[str], damage: Callable[[World], None]
) -> None:
    damage(world)
    code, facts = world.parity(capsys)
    assert code == 1 and facts["equal"] < facts["decisions"]
    assert {d["cause"] for d in facts["differing"]} == {"UNKNOWN"}


def test_bars_of_today_are_not_missed_when_only_then_is_asked(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    no_cache(world)
    assert world.parity(capsys, "--against", "then")[0] == 0


def test_a_row_that_was_edited_is_not_reproduced(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    rows = world.rows()
    rows[0]["picks"][0]["stop"] -= 0.5
    world.write_rows(rows)
    _, facts = world.parity(capsys)
    assert [(d["decision"], d["cause"]) for d in facts["differing"]] == [("09:35 verdict IBS1", "UNKNOWN")]


def test_an_edited_bar_is_not_believed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    import zlib

    path = next(world.inputs.glob("bars/*/*.bars"))
    head, _, body = path.read_bytes().partition(b"\n")
    raw = bytearray(zlib.decompress(body))
    raw[-3] ^= 1
    path.write_bytes(head + b"\n" + zlib.compress(bytes(raw)))
    _, facts = world.parity(capsys)
    assert "SEEN_DAMAGED" in facts["differing"][0]["detail"]


@pytest.mark.parametrize(
    ("kind", "body", "cause"),
    [
        ("scan_run", {"run": f"{DAY}T11:00", "code": "KILL_SWITCH"}, "KILL_SWITCH"),
        ("run_missed", {"run": f"{DAY}T11:00", "code": "MISSED_DOWN"}, "SCAN_MISSED"),
        ("scan_run", {"run": f"{DAY}T11:00", "code": "BROKER_DOWN"}, "BROKER"),
        ("scan_run", {"run": f"{DAY}T11:00", "code": "DATA_STALE"}, "BAR_LATE"),
        ("scan_run", {"run": f"{DAY}T11:00", "code": "OK"}, "UNKNOWN"),
    ],
)
def test_a_scan_without_inputs_is_told_with_what_the_journal_says(
    world: World, capsys: pytest.CaptureFixture[str], kind: str, body: Mapping[str, Any], cause: str
) -> None:
    world.journal(kind, body)
    _, facts = world.parity(capsys)
    assert [(d["decision"], d["cause"]) for d in facts["differing"]] == [("11:00 scan", cause)]


def test_a_closed_market_is_no_missing_decision(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.journal("scan_run", {"run": f"{DAY}T11:00", "code": "MARKET_CLOSED"})
    assert world.parity(capsys)[0] == 0


@pytest.mark.parametrize("words", [["--start", "2024-03-06", "--end", "2024-03-05"], ["--bars", "x"]])
def test_words_that_cannot_be_are_usage(world: World, words: list[str]) -> None:
    from core.errors import UsageError

    with pytest.raises(UsageError):
        parity.main([*(["--start", str(DAY), "--end", str(DAY)] if "--start" not in words else []), *words])


def test_without_a_journal_there_is_nothing_to_compare(own_home: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        parity.main(["--start", str(DAY), "--end", str(DAY)])


def test_settings_come_back_as_they_were(world: World) -> None:
    from config.loader import load_settings

    settings = load_settings()
    assert settings_from(json.loads(json.dumps(settings_value(settings)))) == settings


# ---------------------------------------------------------------- against the portfolio backtest
def test_a_replayed_day_is_the_day_of_the_portfolio_backtest(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = world.parity(capsys, "--against", "backtest")
    assert (code, facts["differing"]) == (0, []) and facts["decisions"] >= 6


def test_a_bar_that_differs_from_the_backtests_is_the_cause(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    bars = world.root / "bars"
    bars.mkdir()
    for file in world.market.glob("*.csv"):
        (bars / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    lines = (bars / "IBS1.csv").read_text(encoding="utf-8").splitlines()
    day, opened, high, low, _, volume = lines[-2].split(",")
    lines[-2] = ",".join([day, opened, high, low, high, volume])  # it closes at its high: no setup
    (bars / "IBS1.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    code, facts = world.parity(capsys, "--against", "backtest", "--bars", str(bars))
    own = [d for d in facts["differing"] if d["symbol"] == "IBS1"]
    assert code == 1 and own and {d["cause"] for d in own} == {"BAR_REVISED"}
