"""The same scripts against servers that are not our venue: only keys and the four addresses are set.

The servers (tests/fakes/other_servers.py) know nothing of this project; real bars and the session the operator asks for
decide what must happen. A proxy that nobody answers at stands in the environment, so that a script that reaches for any
other host fails here.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.other_servers import KEY_ID, NEW_YORK, SECRET, OtherServers

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
BARS, VIX = SHARED / "market" / "bars_small.csv.gz", SHARED / "market" / "vix_daily.csv"
ORACLE = SHARED / "strategy-oracle" / "trades_bars_small.csv"
pytestmark = pytest.mark.skipif(
    not (BARS.is_file() and VIX.is_file() and ORACLE.is_file()), reason="../shared/market is not there"
)

# Signals of 2023-04-12: CSCO and INTC (both below 75 USD) and NFLX (331 USD), all ibs_rsi. CSCO leaves by its indicator
# at the open of 04-14, INTC by its time stop on 04-21. NEM gives a turtle_soup signal on 2023-04-27: stop and target.
SIGNALS = "2023-04-12"
SCAN_KEYS = {
    "as_of", "session", "data_source", "simulated", "snapshot_sha256", "considered", "picks", "refused",
}  # fmt: skip
PICK_KEYS = {"symbol", "strategy", "score", "signal_session", "close", "stop", "target", "reasons"}
INTENT_KEYS = {"client_order_id", "symbol", "side", "quantity", "limit_price", "verdict", "codes"}
ORDER_KEYS = {"client_order_id", "status", "filled_quantity", "filled_price"}

CONFIG = """
selection:
  mode: top_n
  top_n: {enabled: true, n: 50, max_correlation: 1, max_sector_pct: 1.0, max_single_name_pct: 1.0}
quality_gate: {min_score: 0, max_signals_per_day: 50}
filters: {earnings: {enabled: false}}
data: {history_sessions: 300}
"""


# ---------------------------------------------------------------- the world
@pytest.fixture(scope="module")
def bars() -> dict[str, dict[date, tuple[float, float, float, float, float]]]:
    found: dict[str, dict[date, tuple[float, float, float, float, float]]] = {}
    with gzip.open(BARS, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            values = [float(row[name]) for name in ("open", "high", "low", "close", "volume")]
            found.setdefault(row["symbol"], {})[date.fromisoformat(row["date"])] = tuple(values)  # type: ignore[assignment]
    return found


@pytest.fixture(scope="module")
def vix() -> dict[date, float]:
    with VIX.open(encoding="utf-8", newline="") as lines:
        return {date.fromisoformat(row["date"]): float(row["close"]) for row in csv.DictReader(lines) if row["close"]}


@dataclass
class World:
    """The servers, one KOBE_HOME, and the operator who types commands."""

    servers: OtherServers
    home: Path
    universe: Path
    config: Path

    def run(self, script: str, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        dead = "http://127.0.0.1:9"
        inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "SYSTEMROOT", "LANG", "TMPDIR", "HOME")}
        variables = {
            **inherited, "KOBE_HOME": str(self.home), "KOBE_CONFIG": str(self.config),
            "NO_PROXY": "127.0.0.1,localhost", "HTTP_PROXY": dead, "HTTPS_PROXY": dead,
            **self.servers.environment(), **(env or {}),
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *words],
            env=variables, cwd=self.home, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def json(self, script: str, *words: str, exit_code: int = 0, env: dict[str, str] | None = None) -> dict[str, Any]:
        done = self.run(script, *words, "--json", env=env)
        assert done.returncode == exit_code, (done.returncode, done.stdout, done.stderr)
        lines = done.stdout.splitlines()
        assert len(lines) == 1, done.stdout
        found: dict[str, Any] = json.loads(lines[0])
        return found

    def refused(self, exit_code: int, script: str, *words: str, env: dict[str, str] | None = None) -> str:
        """Ends on that code, with one line on stderr, no traceback, and nothing on stdout."""
        done = self.run(script, *words, env=env)
        assert done.returncode == exit_code, (done.returncode, done.stdout, done.stderr)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("kobe: "), done.stderr
        assert done.stdout == ""
        return done.stderr

    def scan(self, as_of: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        self.servers.set_clock(instant(as_of))
        return self.json("scan", "--universe", str(self.universe), "--as-of", as_of, env=env)

    def runner_words(self, as_of: str) -> tuple[str, ...]:
        self.servers.set_clock(instant(as_of))
        return ("--mode", "paper", "--once", "--universe", str(self.universe), "--as-of", as_of)

    def trade(self, as_of: str, exit_code: int = 0, env: dict[str, str] | None = None) -> dict[str, Any]:
        report = self.json("runner", *self.runner_words(as_of), exit_code=exit_code, env=env)
        assert set(report) == {"scan", "intents", "orders", "breaks"}
        assert all(set(row) == INTENT_KEYS for row in report["intents"])
        assert all(set(row) == ORDER_KEYS for row in report["orders"])
        return report

    def chain_is_whole(self, *, empty: bool = False) -> None:
        found = self.json("verify_hash_chain")
        assert set(found) >= {"ok", "records", "head", "first_bad"}
        assert found["ok"] is True
        assert empty or found["records"] > 0

    def journal(self) -> bytes:
        path = self.home / "state" / "hash_chain.jsonl"
        return path.read_bytes() if path.exists() else b""


def instant(as_of: str) -> datetime:
    """What docs/interfaces.md says a session date means; no holiday lies in the weeks these tests play."""
    if len(as_of) > 10:
        return datetime.fromisoformat(as_of)
    day = date.fromisoformat(as_of)
    following = day + timedelta(days={4: 3, 5: 2}.get(day.weekday(), 1))
    return datetime(following.year, following.month, following.day, 9, 35, tzinfo=NEW_YORK)


@pytest.fixture(scope="module")
def servers(bars: Any, vix: Any) -> Iterator[OtherServers]:
    with OtherServers(bars, vix, instant(SIGNALS)) as found:
        yield found


@pytest.fixture(scope="module")
def filled(bars: Any, servers: OtherServers, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, Any]]:
    """A home whose first scan fetched everything from the vendor, and what that scan said."""
    place = tmp_path_factory.mktemp("other")
    config, universe = place / "settings.yaml", place / "sixty.csv"
    config.write_text(CONFIG, encoding="utf-8")
    names = sorted(bars)[:60]
    assert len(names) == 60
    rows = "".join(f"{s},Sector {i % 9}\n" for i, s in enumerate(names))
    universe.write_text("symbol,sector\n" + rows, encoding="utf-8")
    (place / "home").mkdir()
    world = World(servers, place / "home", universe, config)
    return world, world.scan(SIGNALS)


@pytest.fixture
def world(filled: tuple[World, dict[str, Any]], bars: Any, vix: Any, tmp_path: Path) -> Iterator[World]:
    """Fresh servers and a fresh home; only the price cache of the first scan is carried over."""
    shutil.copytree(filled[0].home / "cache", tmp_path / "home" / "cache")
    with OtherServers(bars, vix, instant(SIGNALS)) as fresh:
        yield World(fresh, tmp_path / "home", filled[0].universe, filled[0].config)


def expected_signals(bars: Any, session: str) -> dict[tuple[str, str], Any]:
    """What the strategies give on the very bars the servers play, with no store, vendor or scan in between."""
    import numpy as np

    from config.strategy_params import load_strategy_params
    from core.bars_io import BarColumns, to_day
    from core.panel import Panel
    from portfolio.strategies import signals_at

    day = date.fromisoformat(session)
    columns = {}
    for symbol, series in bars.items():
        kept = sorted(d for d in series if d <= day)
        if kept:
            values = np.array([series[d] for d in kept]).T.copy()
            dates = np.array([to_day(d) for d in kept], dtype=np.int32)
            columns[symbol] = BarColumns(dates, *(np.ascontiguousarray(v) for v in values))
    return {(s.symbol, s.strategy): s for s in signals_at(Panel.from_bars(columns), day, load_strategy_params())}


def oracle_rows(session: str) -> dict[tuple[str, str], dict[str, str]]:
    with ORACLE.open(encoding="utf-8", newline="") as lines:
        return {(r["symbol"], r["strategy"]): r for r in csv.DictReader(lines) if r["signal_date"] == session}


# ---------------------------------------------------------------- 0 the servers themselves
def _call(servers: OtherServers, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        servers.url("alpaca") + path, method=method, data=None if body is None else json.dumps(body).encode(),
        headers={"APCA-API-KEY-ID": KEY_ID, "APCA-API-SECRET-KEY": SECRET},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.status, json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_servers_are_as_awkward_as_the_documents_say(bars: Any, vix: Any) -> None:
    order = {"symbol": "KO", "qty": "2", "side": "buy", "type": "limit", "time_in_force": "gtc", "limit_price": "9.5"}
    with OtherServers(bars, vix, instant(SIGNALS)) as servers:
        status, reply = _call(servers, "POST", "/v2/orders", {**order, "client_order_id": "a"})
        assert (status, reply["status"], reply["qty"], reply["filled_avg_price"]) == (200, "pending_new", "2", None)
        assert _call(servers, "GET", "/v2/orders:by_client_order_id?client_order_id=a")[0] == 404
        assert _call(servers, "GET", "/v2/orders") == (200, [])
        time.sleep(0.35)
        assert _call(servers, "GET", "/v2/orders:by_client_order_id?client_order_id=a")[1]["status"] == "new"
        _call(servers, "POST", "/v2/orders", {**order, "client_order_id": "b"})
        assert _call(servers, "POST", "/v2/orders", {**order, "client_order_id": "a"})[1]["code"] == 40010001
        status, rows = _call(servers, "DELETE", "/v2/orders")
        assert (status, sorted(row["status"] for row in rows)) == (207, [200, 500])
        assert not {"pattern_day_trader", "daytrade_count"} & set(_call(servers, "GET", "/v2/account")[1])
        assert "easy_to_borrow" not in _call(servers, "GET", "/v2/assets/KO")[1]
        stamp = _call(servers, "GET", "/v2/clock")[1]["timestamp"]
        assert stamp.startswith("2023-04-13T09:35:0") and stamp.endswith("-04:00") and len(stamp) == 35


# ---------------------------------------------------------------- 1 scan, 6 update
def test_the_scan_picks_what_the_strategies_give(filled: tuple[World, dict[str, Any]], bars: Any) -> None:
    report = filled[1]
    assert set(report) == SCAN_KEYS
    assert all(set(pick) == PICK_KEYS for pick in report["picks"])
    assert (report["session"], report["data_source"], report["simulated"]) == (SIGNALS, "polygon", False)
    assert report["considered"] == 60
    assert datetime.fromisoformat(report["as_of"]).astimezone(NEW_YORK).strftime("%F %H:%M") == "2023-04-13 09:35"
    wanted = expected_signals(bars, SIGNALS)
    assert {(p["symbol"], p["strategy"]) for p in report["picks"]} == set(wanted)
    assert set(oracle_rows(SIGNALS)) <= set(wanted)
    for pick in report["picks"]:
        signal = wanted[pick["symbol"], pick["strategy"]]
        assert pick["signal_session"] == SIGNALS
        assert (pick["close"], pick["stop"]) == pytest.approx((signal.close, signal.stop), rel=1e-9)
    for key, row in oracle_rows(SIGNALS).items():
        found = next(p for p in report["picks"] if (p["symbol"], p["strategy"]) == key)
        assert found["stop"] == pytest.approx(float(row["stop"]), rel=1e-9)


def test_only_the_four_servers_were_asked_and_only_what_they_have(filled: tuple[World, dict[str, Any]]) -> None:
    seen = filled[0].servers.seen
    assert {request.service for request in seen} == {"polygon"}
    assert {request.status for request in seen} == {200}
    assert any("cursor" in request.query for request in seen), "the servers page; somebody must have followed"


def test_one_missing_session_is_at_most_five_requests(world: World, bars: Any) -> None:
    report = world.scan("2023-04-13")
    assert report["session"] == "2023-04-13"
    assert world.servers.count("polygon") <= 5
    assert len(world.servers.seen) == world.servers.count("polygon")
    again = world.scan("2023-04-13")
    assert again["snapshot_sha256"] == report["snapshot_sha256"]
    assert world.servers.count("polygon") <= 5, "warm: nothing more is asked"


def test_retry_after_is_honoured(world: World) -> None:
    world.servers.busy["polygon"] = 1
    assert world.scan("2023-04-13")["session"] == "2023-04-13"
    first, second = world.servers.seen[:2]
    assert (first.status, second.status) == (429, 200)
    assert second.path == first.path
    assert 1.0 <= second.at - first.at < 6.0, "without the header a 429 waits 15 s here, other trouble 0.5 s"


def test_with_polygon_refusing_the_key_alpaca_is_the_vendor_and_nobody_else(world: World) -> None:
    shutil.rmtree(world.home / "cache" / "polygon")
    report = world.scan("2023-04-12", env={"POLYGON_API_KEY": "wrong"})
    assert (report["data_source"], report["simulated"]) == ("alpaca", False)
    assert report["picks"] == [], "no vendor here knows the VIX: an unknown VIX opens nothing"
    assert world.servers.count("data", "GET", "/v2/stocks/bars") >= 2, "more bars than fit on one page"


# ---------------------------------------------------------------- 2 trading
def test_entries_protection_and_exits_by_rule(world: World) -> None:
    servers = world.servers
    report = world.trade(SIGNALS)
    bought = {r["symbol"]: r for r in report["intents"] if r["side"] == "buy" and r["verdict"] != "refused"}
    assert set(bought) == {"CSCO", "INTC"}
    assert [r["codes"] for r in report["intents"] if r["symbol"] == "NFLX"] == [["CAP_BELOW_ONE_SHARE"]]
    filled = {o["client_order_id"]: o for o in report["orders"]}
    for row in bought.values():
        order = filled[row["client_order_id"]]
        assert (order["status"], order["filled_quantity"]) == ("filled", row["quantity"])
        assert float(order["filled_price"]) <= float(row["limit_price"])
    assert report["breaks"] == []
    assert servers.shares == {symbol: row["quantity"] for symbol, row in bought.items()}
    assert servers.posts() == 4, "two entries, two stops"
    resting = {o["symbol"]: o for o in servers.open_orders()}
    assert {(s, o["type"], o["time_in_force"], int(o["qty"])) for s, o in resting.items()} == {
        (s, "stop", "gtc", row["quantity"]) for s, row in bought.items()
    }
    rows = oracle_rows(SIGNALS)
    for symbol, order in resting.items():
        assert float(order["stop_price"]) == pytest.approx(float(rows[symbol, "ibs_rsi"]["stop"]), abs=0.011)

    again = world.trade("2023-04-13T10:30:00-04:00")
    assert servers.posts() == 4, "the same signals were acted on already"
    assert (again["breaks"], again["orders"]) == ([], [])

    world.trade("2023-04-13")  # morning of 04-14: CSCO closed above 0.80 IBS
    assert rows["CSCO", "ibs_rsi"]["exit_date"] == "2023-04-14"
    assert set(servers.shares) == {"INTC"}
    assert servers.posts() == 5
    assert servers.count("alpaca", "DELETE") == 1, "its stop was taken back first"
    assert [o["symbol"] for o in servers.open_orders()] == ["INTC"]

    last = world.trade("2023-04-21T15:55:00-04:00")
    assert (rows["INTC", "ibs_rsi"]["exit_date"], rows["INTC", "ibs_rsi"]["exit_reason"]) == ("2023-04-21", "time")
    assert "INTC" not in servers.shares
    assert last["breaks"] == []
    assert "INTC" not in {o["symbol"] for o in servers.open_orders()}
    assert world.json("reconcile_alpaca") == {"in_step": True, "breaks": []}
    world.chain_is_whole()


@pytest.mark.parametrize("by_stop", [False, True])
def test_an_oco_rests_with_its_leg_held_and_its_fill_is_booked(world: World, by_stop: bool) -> None:
    servers = world.servers
    report = world.trade("2023-04-27")
    assert (report["breaks"], servers.posts()) == ([], 2)
    (resting,) = servers.open_orders()
    row = oracle_rows("2023-04-27")["NEM", "turtle_soup"]
    assert (resting["symbol"], resting["order_class"], resting["status"]) == ("NEM", "oco", "new")
    (leg,) = resting["legs"]
    assert (leg["type"], leg["status"], leg["qty"]) == ("stop", "held", resting["qty"])
    assert float(leg["stop_price"]) == pytest.approx(float(row["stop"]), abs=0.011)
    (pick,) = [p for p in report["scan"]["picks"] if p["symbol"] == "NEM"]
    assert pick["target"] is not None

    servers.fill_resting("NEM", leg=by_stop)
    assert servers.shares == {}
    after = world.trade("2023-04-28T10:30:00-04:00")
    assert (after["breaks"], servers.posts()) == ([], 2)
    assert world.json("reconcile_alpaca", "--full") == {"in_step": True, "breaks": []}
    world.chain_is_whole()


def test_a_partial_ioc_is_a_position_of_what_filled(world: World) -> None:
    world.servers.fill_at_most = 1
    report = world.trade(SIGNALS)
    assert world.servers.shares == {"CSCO": 1, "INTC": 1}
    intc = next(o for o in report["orders"] if "INTC" in o["client_order_id"] and "-buy-" in o["client_order_id"])
    assert intc["filled_quantity"] == 1
    assert report["breaks"] == []
    assert sorted((o["symbol"], o["qty"]) for o in world.servers.open_orders()) == [("CSCO", "1"), ("INTC", "1")]


# ---------------------------------------------------------------- 3 reconcile, emergency
def test_a_trade_by_hand_is_a_break_and_the_emergency_commands_work_while_halted(world: World) -> None:
    servers = world.servers
    world.trade(SIGNALS)
    servers.trade_by_hand("KO", "buy", 3)
    found = world.json("reconcile_alpaca", exit_code=1)
    assert found["in_step"] is False
    (gap,) = found["breaks"]
    assert set(gap) == {"symbol", "kind", "cause", "ours", "theirs", "proposal", "evidence"}
    assert (gap["cause"], len(gap["evidence"])) == ("MANUAL_TRADE", 1), gap
    assert (gap["symbol"], gap["kind"], gap["ours"], gap["theirs"]) == ("KO", "UNKNOWN_POSITION", "0", "3")

    switch = world.home / "state" / "KILL_SWITCH"
    switch.write_text("1\n", encoding="utf-8")
    posts = servers.posts()
    world.refused(40, "runner", *world.runner_words("2023-04-13"))
    assert (servers.posts(), servers.count("alpaca", "DELETE")) == (posts, 0)

    servers.rest_by_hand("KO", "sell", 1, "99.00")
    world.json("cancel_all")
    assert servers.open_orders() == []
    assert servers.posts() == posts
    world.refused(42, "close_all_positions", "--json")
    assert servers.posts() == posts
    done = world.json("close_all_positions", "--confirm")
    assert (done["flat"], done["left"]) == (True, {})
    assert (servers.shares, servers.open_orders()) == ({}, [])
    assert servers.posts() == posts + 3, "one sell for each position"
    switch.unlink()
    (gap,) = world.json("reconcile_alpaca", exit_code=1)["breaks"]
    assert (gap["symbol"], gap["ours"], gap["theirs"]) == ("KO", "-3", "0"), "sold by us, never bought by us"
    assert world.run("reconcile_alpaca", "--force-sync").returncode == 0
    world.chain_is_whole()


# ---------------------------------------------------------------- 4 what must be refused
def test_a_broker_clock_that_disagrees_ends_on_30_with_one_line(world: World) -> None:
    words = world.runner_words(SIGNALS)
    world.servers.set_clock(instant("2023-04-13"))
    line = world.refused(30, "runner", *words)
    assert "CLOCK_DISAGREES" in line
    assert world.servers.posts() == 0
    world.chain_is_whole(empty=True)


@pytest.mark.parametrize("script", ["runner", "reconcile_alpaca", "cancel_all", "close_all_positions"])
def test_a_wrong_broker_key_ends_on_31_and_nothing_is_lost(world: World, script: str) -> None:
    words = world.runner_words(SIGNALS) if script == "runner" else ("--json",)
    line = world.refused(31, script, *words, env={"ALPACA_API_SECRET_KEY": "not-the-secret"})
    assert "UNAUTHORIZED" in line
    assert "not-the-secret" not in line
    assert KEY_ID not in line
    assert world.servers.posts() == 0


def test_servers_that_are_down(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound, never listening
        before = world.journal()
        world.refused(30, "reconcile_alpaca", env={"ALPACA_BASE_URL": nobody})
        world.refused(30, "runner", *world.runner_words(SIGNALS), env={"ALPACA_BASE_URL": nobody})
        assert world.journal() == before
        shutil.rmtree(world.home / "cache" / "polygon")
        soon = world.home / "soon.yaml"
        soon.write_text(
            CONFIG.replace("data: {", "data: {request_timeout_s: 2, request_deadline_s: 3, "), encoding="utf-8"
        )
        words = ("--universe", str(world.universe), "--as-of", SIGNALS)
        env = {"POLYGON_BASE_URL": nobody, "ALPACA_DATA_URL": nobody, "KOBE_CONFIG": str(soon)}
        line = world.refused(20, "scan", *words, env=env)
        assert "ALL_PROVIDERS_FAILED" in line
        assert "yfinance" not in line, "with addresses of their own set, no other vendor is asked"


def test_no_vendor_means_no_entries_but_what_is_held_is_looked_after(world: World) -> None:
    world.trade(SIGNALS)
    posts = world.servers.posts()
    world.servers.no_bars = True
    env = {"POLYGON_API_KEY": "wrong"}
    report = world.trade("2023-04-21T15:55:00-04:00", env=env, exit_code=20)
    assert (report["scan"], report["breaks"]) == (None, [])
    assert world.servers.shares == {}, "time stops need no prices: both positions are past theirs"
    assert world.servers.posts() == posts + 2
    world.chain_is_whole()


def test_no_quotes_means_no_orders_and_protection_is_still_mended(world: World) -> None:
    servers = world.servers
    world.trade(SIGNALS)
    with servers.lock:
        lost = next(o for o in servers.orders if o.body["symbol"] == "INTC" and o.body["type"] == "stop")
        lost.body["status"] = "canceled"  # by a person, at the broker's own screen
    servers.no_quotes = True
    posts = servers.posts()
    report = world.trade("2023-04-13", exit_code=20)  # CSCO's exit is due and cannot be priced
    assert report["breaks"] == []
    assert servers.posts() == posts + 1
    assert sorted(o["symbol"] for o in servers.open_orders()) == ["CSCO", "INTC"]
    assert set(servers.shares) == {"CSCO", "INTC"}
    world.chain_is_whole()
