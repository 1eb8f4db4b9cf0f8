"""Labels are the engine's own trades; training and a scan tell a model the same; nothing comes from later."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.bars_io import from_day, to_day
from core.domain import Symbol
from core.errors import DataError
from core.panel import Panel
from ml_advanced import features
from ml_advanced.features import FEATURES
from ml_advanced.labels import labelled
from portfolio.strategies import all_signals, signals_at
from scripts import look_ahead, looking_ahead, ml_data, ml_scan, wiring
from scripts.backtest_dual_strategy import main as backtest
from tests.ml_advanced.wired import LAST, asked, written

BARS = Path(__file__).resolve().parents[3] / "shared" / "market" / "bars_small.csv.gz"


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("market"))


@pytest.fixture
def context(bars: Path) -> Iterator[wiring.Context]:
    opened = wiring.open_context(argparse.Namespace(json=True))
    with wiring.closing(opened):
        yield opened


@pytest.fixture
def made(context: wiring.Context, bars: Path) -> ml_data.Made:
    return ml_data.made(context, asked(bars))


def session_of(made: ml_data.Made, i: int) -> date:
    return from_day(int(made.dataset.starts[i].astype(np.int64)))


# ---------------------------------------------------------------- labels
def test_a_label_is_what_the_backtests_own_trade_came_to(made: ml_data.Made, bars: Path, tmp_path: Path) -> None:
    """The backtest leaves out a signal while its symbol is held; every trade that it has must be here, as it came."""
    out = tmp_path / "out"
    assert backtest(["--bars", str(bars), "--quarantine", "on", "--no-report", "--out", str(out), "--json"]) == 0
    rows = list(csv.DictReader((out / "trade_list.csv").read_text(encoding="utf-8").splitlines()))
    data = made.dataset
    known = {decision: i for i, decision in enumerate(data.decision_ids)}
    closed = [row for row in rows if row["exit_reason"] != "open"]
    assert len(closed) > 10
    for row in closed:
        i = known[f"{row['signal_date'].replace('-', '')}-{row['strategy']}-{row['symbol']}"]
        assert (data.symbols[i], data.strategies[i]) == (row["symbol"], row["strategy"])
        assert str(data.starts[i]) == row["signal_date"] and str(data.ends[i]) == row["exit_date"]
        assert data.y[i] == float(float(row["pnl_usd"]) > 0) and data.r[i] == pytest.approx(
            float(row["r_multiple"]), abs=2e-6
        )
    assert set(np.unique(data.y).tolist()) == {0.0, 1.0}


def test_a_signal_without_an_end_has_no_label(made: ml_data.Made) -> None:
    data, counts = made.dataset, made.counts
    assert counts["signals"] == len(data) + counts["not_filled"] + counts["open"]
    assert (data.ends > data.starts).all() and data.names == FEATURES


def test_the_last_trades_of_the_data_are_open(context: wiring.Context, made: ml_data.Made) -> None:
    """Cut off right after a signal's entry, that signal has no label; the whole history has one."""
    i = len(made.dataset) // 2
    entered = from_day(int(made.panel.sessions[np.searchsorted(made.panel.sessions, to_day(session_of(made, i))) + 1]))
    from portfolio.strategies.indicators import prepare

    held = np.flatnonzero(made.dataset.ends > np.datetime64(entered))
    held = held[made.dataset.starts[held] < np.datetime64(entered)]
    cut = prepare(made.panel.truncated(entered), context.params.common)
    outcomes, counts = ml_data.outcomes_of(context, cut, date(1900, 1, 1), date(2200, 1, 1))
    found = labelled(cut.panel, outcomes, made.market)
    assert counts["open"] >= held.size > 0
    assert not set(found.decision_ids) & {made.dataset.decision_ids[k] for k in held.tolist()}


def test_decisions_are_named_as_signals_name_them(context: wiring.Context, made: ml_data.Made) -> None:
    known = {s.decision_id for s in all_signals(made.panel, context.params, date(1900, 1, 1), date(2200, 1, 1))}
    assert set(made.dataset.decision_ids) <= known


def test_the_same_data_has_the_same_hash(context: wiring.Context, bars: Path, made: ml_data.Made) -> None:
    assert ml_data.made(context, asked(bars)).dataset.sha256 == made.dataset.sha256
    later = argparse.Namespace(**{**vars(asked(bars)), "start": session_of(made, 5)})
    assert ml_data.made(context, later).dataset.sha256 != made.dataset.sha256


def test_a_span_without_a_label_is_refused(context: wiring.Context, bars: Path) -> None:
    early = argparse.Namespace(**{**vars(asked(bars)), "end": date(2022, 1, 5)})
    with pytest.raises(DataError) as refused:
        ml_data.made(context, early)
    assert refused.value.code == "NO_LABELS"


def test_training_learns_from_no_bar_that_a_scan_would_not_believe(context: wiring.Context, tmp_path: Path) -> None:
    path = written(tmp_path / "dirty")
    lines = path.read_text(encoding="utf-8").splitlines()
    bad = next(k for k in range(200, len(lines)) if lines[k].startswith("S05,"))
    cells = lines[bad].split(",")
    lines[bad] = ",".join([*cells[:4], str(float(cells[3]) * 2.0), *cells[5:]])  # a low above the high
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = ml_data.made(context, asked(path))
    assert sum(made.loaded.removed.values()) == 1
    column = made.panel.symbols.index("S05")
    assert to_day(date.fromisoformat(cells[1])) not in made.panel.sessions[made.panel.session_index[:, column]].tolist()


# ---------------------------------------------------------------- training and scan
def market_data(made: ml_data.Made, panel: Panel, session: date) -> wiring.MarketData:
    return wiring.MarketData(
        panel=panel, session=session, source="bars:bars.csv", simulated=False, snapshot_sha256="",
        vix=made.loaded.vix.get(session), quarantined={},
    )  # fmt: skip


def test_training_and_a_live_scan_tell_the_model_the_same(
    context: wiring.Context, made: ml_data.Made, bars: Path
) -> None:
    """The scan has bars up to its session only, and finds its own signals: each equals its row of the training."""
    data = made.dataset
    row_of = {decision: i for i, decision in enumerate(data.decision_ids)}
    told = 0
    for i in range(0, len(data), max(1, len(data) // 12)):
        session = session_of(made, i)
        panel = made.loaded.panel.truncated(session)
        source = ml_scan.scan_features(context, market_data(made, panel, session), bars)
        signals = [s for s in signals_at(panel, session, context.params) if s.decision_id in row_of]
        x = source(signals)
        assert source.names == data.names and data.decision_ids[i] in {s.decision_id for s in signals}
        for signal, row in zip(signals, x, strict=True):
            assert np.array_equal(row, data.x[row_of[signal.decision_id]], equal_nan=True)
            told += 1
    assert told >= 12 and np.isfinite(data.x).all()


def test_a_signal_whose_bar_is_not_there_is_unknown_throughout(
    context: wiring.Context, made: ml_data.Made, bars: Path
) -> None:
    session = session_of(made, len(made.dataset) - 1)
    panel = made.loaded.panel.truncated(session)
    source = ml_scan.scan_features(context, market_data(made, panel, session), bars)
    found = signals_at(panel, session, context.params)
    known, elsewhere = found[0], replace(found[0], symbol=Symbol("NONE"))
    weekend = replace(found[0], session=date(2024, 3, 3))
    x = source([elsewhere, known, weekend])
    assert np.isnan(x[[0, 2]]).all() and np.isfinite(x[1]).all()
    assert source([]).shape == (0, len(FEATURES))
    asked_for = ml_scan.scan_features(context, market_data(made, panel, session), bars, ("vix", "no_such", "ibs"))
    chosen = asked_for([known])[0]
    assert (
        np.isnan(chosen[1]) and chosen[[0, 2]].tolist() == x[1][[FEATURES.index("vix"), FEATURES.index("ibs")]].tolist()
    )


def test_the_vix_of_the_session_is_the_one_the_scan_decides_with(
    context: wiring.Context, made: ml_data.Made, bars: Path
) -> None:
    """What a file says of the session counts only when the scan believed it."""
    data = market_data(made, made.loaded.panel, LAST)
    assert LAST in made.loaded.vix
    for level in (None, 33.3):
        view = ml_scan.scan_features(context, replace(data, vix=level), bars).market
        assert view.vix[-1] == pytest.approx(np.nan if level is None else level, nan_ok=True)
        assert np.isfinite(view.vix[-2])


def test_without_spy_its_features_are_unknown_in_training_and_scan(context: wiring.Context, tmp_path: Path) -> None:
    path = written(tmp_path / "bare", spy=False)
    made = ml_data.made(context, asked(path))
    blind = {name for name, column in zip(made.dataset.names, made.dataset.x.T, strict=True) if np.isnan(column).all()}
    assert blind == set(ml_scan.NEEDS_SPY) and made.spy.bars is None
    source = ml_scan.scan_features(context, market_data(made, made.loaded.panel, LAST))
    assert np.isnan(source.market.spy).all()
    assert set(FEATURES) - set(ml_scan.features_known_live(context)) == set(ml_scan.NEEDS_SPY)


def test_the_regime_of_a_scan_is_the_rules_until_there_is_a_model(
    context: wiring.Context, made: ml_data.Made, bars: Path
) -> None:
    panel = made.loaded.panel
    data = replace(market_data(made, panel, LAST), vix=27.0)
    assert ml_scan.scan_regime(context, data, None, bars).label == "stressed"
    assert ml_scan.scan_regime(context, data, None, bars).source == "rule"
    assert ml_scan.scan_regime(context, replace(data, vix=None), None, bars).code == "VIX_UNKNOWN"


# ---------------------------------------------------------------- look-ahead
def seen_and_signals(context: wiring.Context, made: ml_data.Made) -> tuple[looking_ahead.Seen, looking_ahead.Signals]:
    from portfolio.strategies.indicators import prepare

    setups = ml_data.usable_setups(
        prepare(made.panel, context.params.common), context.params, date(1900, 1, 1), date(2200, 1, 1)
    )
    return looking_ahead.Seen(made.panel, made.spy.bars, made.loaded.vix), looking_ahead.Signals.of(setups)


def test_L09_nothing_a_model_is_told_comes_from_after_the_signal(context: wiring.Context, made: ml_data.Made) -> None:
    seen, signals = seen_and_signals(context, made)
    found = looking_ahead.compared(seen, signals, every=3, predict=lambda x: np.nan_to_num(x).sum(axis=1))
    assert found.changed == () and found.sessions > 10 and found.predictions == found.signals >= found.sessions


def peek_at_prices(real: Any) -> Any:
    """The mean of the symbol's whole history, as a careless normalisation would take it."""

    def of_symbol(bars: Any) -> dict[str, np.ndarray]:
        whole = np.nanmean(bars._panel.close, axis=0)[bars._columns]
        return {**real(bars), "sma_200_distance": bars.close[-1] / whole - 1.0}

    return of_symbol


def peek_at_the_market(real: Any) -> Any:
    def of_market(market: Any, days: Any) -> dict[str, np.ndarray]:
        known = np.isfinite(market.vix)
        return {**real(market, days), "vix_change_5": np.full(days.shape, market.vix[known][-1])}

    return of_market


@pytest.mark.parametrize(
    ("where", "peek", "name"),
    [("_of_symbol", peek_at_prices, "sma_200_distance"), ("_of_market", peek_at_the_market, "vix_change_5")],
)
def test_L09_a_feature_that_peeks_fails_the_proof(
    context: wiring.Context, made: ml_data.Made, monkeypatch: pytest.MonkeyPatch, where: str, peek: Any, name: str
) -> None:
    seen, signals = seen_and_signals(context, made)
    monkeypatch.setattr(features, where, peek(getattr(features, where)))
    found = looking_ahead.compared(seen, signals, every=8)
    assert {line.rsplit(": ", 1)[1] for line in found.changed} == {name}
    assert any("cut off" in line for line in found.changed) and any("noise after" in line for line in found.changed)


def test_the_command_proves_it_and_names_what_changed(
    bars: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look_ahead.main(["--bars", str(bars), "--sessions", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == []
    monkeypatch.setattr(features, "_of_symbol", peek_at_prices(features._of_symbol))
    assert look_ahead.main(["--bars", str(bars), "--sessions", "20"]) == 1
    assert "cut off: sma_200_distance" in capsys.readouterr().out


@pytest.mark.skipif(not BARS.is_file(), reason="../shared/market is not there")
def test_L09_the_proof_on_real_bars(capsys: pytest.CaptureFixture[str]) -> None:
    """A part of what docs/ml.md says was proved of all 10,000 signals of the large file."""
    assert look_ahead.main(["--bars", str(BARS), "--sessions", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changed"] == [] and found["sessions"] > 10
