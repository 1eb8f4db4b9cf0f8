"""A replay is the ordinary runner on a stepped clock: it trades, protects, exits, and ends in step with the venue."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cognitive.memory_file import read_memory
from core.clock import SystemClock
from core.journal import Journal, verify
from execution.fold import fold_of
from execution.ledger import Ledger
from execution.venue.account import read_meta
from scripts import cancel_all, close_all_positions, reconcile_alpaca, runner, scan

ROOT = Path(__file__).resolve().parents[2]
MARKET = ROOT.parent / "shared" / "market" / "bars_small.csv.gz"
ORACLE = ROOT.parent / "shared" / "strategy-oracle" / "trades_bars_small.csv"
needs_bars = pytest.mark.skipif(not MARKET.is_file(), reason="the real bars are not beside this checkout")

NO_LIMITS = """
selection:
  mode: top_n
  top_n: {n: 1000, max_correlation: 1.0, max_sector_pct: 1.0, max_single_name_pct: 1.0}
risk:
  policy_gate: {per_order_max_usd: 1000000000, daily_budget_usd: 1000000000000}
  position_limit: 10000
  runaway: {orders_per_minute: 100000, orders_per_day: 1000000}
  one_position_per_symbol: false
  advanced: {var_limit_pct: 1.0}
quality_gate: {min_score: 0, max_signals_per_day: 1000}
filters: {earnings: {enabled: false}}
sizing: {risk_per_trade_usd: 1000000}
execution:
  entry_scans: first
  ticks: [{effective: 2000-01-01, min_price: 0, tick: 0.000000000001}]
venue: {starting_cash_usd: 100000000000000, fills: at_open}
cognitive:
  circuit_breakers: {enabled: false}
  review: {least: 1000, shrink: 1.0}
  reflection: {enabled: false}
"""


@pytest.fixture
def names(tmp_path: Path) -> str:
    """The first 40 names of the default list, and the week's three picks: fewer bars to fetch than 800 names."""
    rows = (ROOT / "data" / "universe" / "optionable_liquid_800.csv").read_text(encoding="utf-8").splitlines()
    few = [r for i, r in enumerate(rows) if i <= 40 or r.split(",")[0] in ("GNRC", "CAKE", "W")]
    path = tmp_path / "few.csv"
    path.write_text("\n".join(few) + "\n", encoding="utf-8")
    return str(path)


def replay(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, Any]:
    monkeypatch.setenv("KOBE_HOME", str(home))
    code = runner.main(["--mode", "paper", "--json", *more])
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 0, facts
    return facts


def ledger_of(home: Path) -> Ledger:
    return fold_of(Journal(home / "state" / "hash_chain.jsonl", SystemClock()).records())


def assert_reviewed_before_ordered(home: Path) -> None:
    """What was said of a signal is in the journal before its order; and no breaker trips on nothing."""
    reviewed: set[str] = set()
    for record in Journal(home / "state" / "hash_chain.jsonl", SystemClock()).records():
        assert record.kind != "breaker_tripped", record.body
        if record.kind == "signals_reviewed":
            reviewed |= {row["decision_id"] for row in record.body["signals"]}
        elif record.kind == "order_intended":
            assert record.body["decision_id"] in reviewed
    assert reviewed


def assert_remembered(home: Path, ledger: Ledger) -> None:
    """Every trade is an episode with its review, the closed ones with an outcome: the runner followed the journal."""
    kept = read_memory(home / "state" / "episodic_memory.json")
    assert kept is not None
    entered = {e.decision_id: e for e in kept.episodes.values() if e.entered_at is not None}
    assert set(entered) == set(ledger.trades)
    assert all(e.score is not None and e.numbers and e.regime != "unknown" for e in entered.values())
    closed = {d for d, trade in ledger.trades.items() if not trade.is_open}
    assert {d for d, e in entered.items() if e.outcome is not None} == closed and closed


def test_the_paper_week_of_the_readme_trades_protects_exits_and_reconciles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    week = ("--replay", "2026-10-19:2026-10-23", "--universe", names)
    facts = replay(tmp_path / "a", monkeypatch, capsys, *week)
    assert facts["simulated"] is True
    assert (facts["sessions"], facts["scans"], facts["scans_failed"], facts["breaks"]) == (5, 15, 0, [])
    assert facts["entries_filled"] >= 1 and facts["trades_closed"] >= 1
    assert_reviewed_before_ordered(tmp_path / "a")
    ledger = ledger_of(tmp_path / "a")
    for trade in ledger.open_trades():
        assert sum(o.intent.quantity for o in ledger.protective(trade.decision_id)) == trade.quantity
    view = json.loads((tmp_path / "a" / "state" / "positions.json").read_text())["positions"]
    assert {s: int(p["quantity"]) for s, p in view.items()} == dict(ledger.positions)
    assert reconcile_alpaca.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"in_step": True, "breaks": []}
    assert_remembered(tmp_path / "a", ledger)

    again = replay(tmp_path / "b", monkeypatch, capsys, *week)
    assert again == facts
    one, two = ((tmp_path / n / "state" / "hash_chain.jsonl").read_bytes() for n in "ab")
    assert one == two

    (tmp_path / "b" / "state" / "trials.jsonl").write_bytes(b"")  # the ledger of backtests stays where it is
    third = replay(tmp_path / "b", monkeypatch, capsys, *week)  # in a home that holds a replay: moved aside, not lost
    assert third == facts
    assert (tmp_path / "b" / "state" / "archive" / "replay-1" / "hash_chain.jsonl").read_bytes() == two
    assert (tmp_path / "b" / "state" / "trials.jsonl").exists()


def test_a_replay_does_not_touch_a_home_that_no_replay_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.errors import ConfigError

    monkeypatch.setenv("KOBE_HOME", str(tmp_path))
    journal = Journal(tmp_path / "state" / "hash_chain.jsonl", SystemClock())
    journal.append("order_refused", {"why": "a real account"})
    before = journal.path.read_bytes()
    with pytest.raises(ConfigError, match="no replay wrote"):
        runner.main(["--mode", "paper", "--replay", "2026-10-19:2026-10-23"])
    assert journal.path.read_bytes() == before


@needs_bars
def test_with_fills_at_the_open_and_no_limits_the_trades_are_the_oracles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One real quarter. Prices to 1e-9; a gap exit is told apart by its price, so only its first word is compared."""
    config = tmp_path / "no_limits.yaml"
    config.write_text(NO_LIMITS, encoding="utf-8")
    monkeypatch.setenv("KOBE_CONFIG", str(config))
    home = tmp_path / "home"
    facts = replay(home, monkeypatch, capsys, "--market", str(MARKET), "--replay", "2023-07-03:2023-09-29")
    ledger = ledger_of(home)
    with ORACLE.open(newline="") as file:
        wanted = {
            (r["symbol"], r["strategy"], date.fromisoformat(r["signal_date"])): r
            for r in csv.DictReader(file)
            if "2023-06-30" <= r["signal_date"] <= "2023-09-28"
        }
    trades = {(t.symbol, t.strategy, t.signal_session): t for t in ledger.trades.values()}
    assert set(trades) == set(wanted) and len(wanted) > 20
    for key, row in wanted.items():
        trade = trades[key]
        assert trade.session.isoformat() == row["entry_date"]
        assert float(trade.entry_price) == pytest.approx(float(row["entry_price"]), rel=1e-9)
        assert float(trade.stop or 0) == pytest.approx(float(row["stop"]), rel=1e-9)
        assert trade.exits[-1].at.date().isoformat() == row["exit_date"]
        assert float(trade.exits[-1].price or 0) == pytest.approx(float(row["exit_price"]), rel=1e-9)
        assert str(ledger.exit_reason(trade)) == row["exit_reason"].removesuffix("_gap")
    assert facts["breaks"] == [] and facts["open_positions"] == 0


@needs_bars
def test_with_the_default_limits_no_day_breaks_one_and_every_trade_is_protected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = replay(tmp_path, monkeypatch, capsys, "--market", str(MARKET), "--replay", "2023-08-14:2023-09-29")
    ledger = ledger_of(tmp_path)
    days = {t.session for t in ledger.trades.values()}
    assert facts["trades"] >= 1
    assert all(ledger.filled_usd(day) <= 1000 for day in days)
    assert all(o.intent.notional_usd <= 75 for o in ledger.orders.values() if o.intent.side == "buy")
    protected = {o.intent.decision_id for o in ledger.orders.values() if o.intent.purpose == "protect"}
    assert protected == set(ledger.trades)
    assert verify(tmp_path / "state" / "hash_chain.jsonl").ok


def test_after_a_replay_the_emergency_scripts_work_with_the_kill_switch_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    """The account stands after the close: orders are cancelled at once, the market sells wait for the next open."""
    replay(tmp_path, monkeypatch, capsys, "--replay", "2026-10-21:2026-10-22", "--universe", names)
    assert ledger_of(tmp_path).open_trades()
    (tmp_path / "state" / "KILL_SWITCH").mkdir()
    assert cancel_all.main(["--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cancelled"]) >= 1
    assert close_all_positions.main(["--json", "--confirm"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["flat"] is False and told["left"]
    sent = [o for o in ledger_of(tmp_path).orders.values() if o.intent.purpose == "close"]
    assert sent and {str(o.intent.side) for o in sent} == {"sell"}
    assert verify(tmp_path / "state" / "hash_chain.jsonl").ok


def test_after_a_replay_a_scan_leaves_its_account_standing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    """A look at another day must not play the weeks between on the account: its stops would fill, and break it."""
    replay(tmp_path, monkeypatch, capsys, "--replay", "2026-10-21:2026-10-22", "--universe", names)
    before = read_meta(tmp_path / "state" / "venue.sqlite")
    assert scan.main(["--as-of", "2026-11-20", "--universe", names]) == 0
    assert read_meta(tmp_path / "state" / "venue.sqlite") == before
    capsys.readouterr()
    assert reconcile_alpaca.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["in_step"]


def test_a_damaged_journal_does_not_keep_the_operator_from_cancelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    """Everything is done first; the damage is told last, and the damaged file is left as it is."""
    from core.errors import StateCorrupt

    replay(tmp_path, monkeypatch, capsys, "--replay", "2026-10-21:2026-10-22", "--universe", names)
    journal = tmp_path / "state" / "hash_chain.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"quantity":2', b'"quantity":3', 1))
    damaged = journal.read_bytes()
    with pytest.raises(StateCorrupt):
        cancel_all.main(["--json"])
    told = json.loads(capsys.readouterr().out)
    assert len(told["cancelled"]) >= 1 and told["remaining"] == []
    with pytest.raises(StateCorrupt):
        close_all_positions.main(["--json", "--confirm"])
    assert journal.read_bytes() == damaged
    aside = fold_of(Journal(tmp_path / "state" / "emergency_chain.jsonl", SystemClock()).records())
    assert {str(o.intent.side) for o in aside.orders.values()} == {"sell"}
