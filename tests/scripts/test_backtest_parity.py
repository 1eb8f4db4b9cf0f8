"""The portfolio backtest and a replay through the venue, with fills at the open, make the same trades."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from core.clock import SystemClock
from core.journal import Journal
from execution.fold import fold_of
from scripts import backtest_dual_strategy, parity, runner

MARKET = Path(__file__).resolve().parents[3] / "shared" / "market" / "bars_small.csv.gz"
pytestmark = pytest.mark.skipif(not MARKET.is_file(), reason="the real bars are not beside this checkout")

SEVERAL_A_DAY = """
selection:
  mode: top_n
  top_n: {n: 5}
risk:
  policy_gate: {per_order_max_usd: 3000, daily_budget_usd: 7000}
  position_limit: 4
  advanced: {var_limit_pct: 0.01}
quality_gate: {min_score: 40, max_signals_per_day: 5}
sizing: {risk_per_trade_usd: 150}
venue: {starting_cash_usd: 30000}
"""


def said(main: Any, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code = main([*words, "--json"])
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 0, facts
    return facts


def test_a_replay_with_fills_at_the_open_makes_the_trades_of_the_portfolio_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four real weeks under limits that bind: quantities, prices to the last digit, days, reasons, equity."""
    (tmp_path / "several.yaml").write_text(SEVERAL_A_DAY, encoding="utf-8")
    monkeypatch.setenv("KOBE_CONFIG", str(tmp_path / "several.yaml"))
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home"))
    lived = said(
        runner.main, capsys, "--mode", "paper", "--market", str(MARKET), "--fills", "at_open",
        "--replay", "2022-08-29:2022-09-23",
    )  # fmt: skip
    tested = said(
        backtest_dual_strategy.main, capsys, "--level", "portfolio", "--bars", str(MARKET), "--start", "2022-08-26",
        "--end", "2022-09-22", "--costs-bps", "0", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    journal = Journal(tmp_path / "home" / "state" / "hash_chain.jsonl", SystemClock())
    ledger = fold_of(journal.records())
    live = {
        (
            str(t.symbol), t.strategy, t.signal_session.isoformat(), t.session.isoformat(), float(t.entry_price),
            t.entry_quantity, t.exits[-1].at.date().isoformat(), float(t.exits[-1].price or 0),
            str(ledger.exit_reason(t)),
        )
        for t in ledger.trades.values()
    }  # fmt: skip
    with (tmp_path / "out" / "trade_list.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    backtest = {
        (
            r["symbol"], r["strategy"], r["signal_date"], r["entry_date"], float(r["entry_price"]),
            int(float(r["quantity"])), r["exit_date"], float(r["exit_price"]), r["exit_reason"].removesuffix("_gap"),
        )
        for r in rows
    }  # fmt: skip
    assert backtest == live and len(live) >= 7
    assert {r["exit_reason"] for r in rows} >= {"ibs", "stop", "stop_gap", "time"}
    assert tested["account"]["end_usd"] == pytest.approx(float(lived["equity_usd"]), abs=1e-6)
    assert sum(tested["refused"].values()) > 0 and "NOT_TRADE_OF_DAY" not in tested["refused"]
    span = ("--start", "2022-08-29", "--end", "2022-09-23")
    for against, least in (("backtest", 20), ("today", 3000)):
        facts = said(parity.main, capsys, *span, "--against", against)
        assert facts["differing"] == [] and facts["equal"] == facts["decisions"] >= least
    assert facts["inputs"] == [] and facts["shortfall"]["n"] >= 14
