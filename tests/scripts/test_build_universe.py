"""build_universe_polygon.py against a vendor over HTTP, and without a key against the embedded venue."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from core import cli, logs
from core.clock import SystemClock
from core.errors import Exit
from core.market_calendar import MarketCalendar, market_calendar
from core.paths import home
from data.universe import load_universe
from scripts import build_universe_polygon as script
from scripts import wiring
from tests.fakes.vendors import FakeVendors

NAMES = [f"S{i:02}" for i in range(60)]
WITHOUT = {"S03", "S07"}
KEY = "canary-key-000"


@pytest.fixture(scope="module")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> MarketCalendar:
    return market_calendar(tmp_path_factory.mktemp("calendar"))


class Vendor(FakeVendors):
    """Also lists tickers, a thousand rows a page, and options."""

    def __init__(self, sessions: list[date]) -> None:
        super().__init__(sessions, [*NAMES, "ZVZZT", "BACpA", "XYZ.WS.A"])
        self.listed = [{"ticker": s, "type": "CS", "locale": "us", "name": s} for s in self.symbols]
        self.not_entitled = False
        self.price = lambda symbol, day: 50.0
        self.always = self._more

    def bar(self, symbol: str, day: date) -> dict[str, Any]:
        return {**super().bar(symbol, day), "v": 1e6 * (1 + NAMES.index(symbol) if symbol in NAMES else 99)}

    def _more(self, path: str, query: dict[str, str]) -> Any:
        if path == "/v3/reference/tickers":
            rows = self.listed if query.get("type") == "CS" or "cursor" in query else []
            at = int(query.get("cursor", 0))
            body: dict[str, Any] = {"status": "OK", "results": rows[at : at + 25]}
            if at + 25 < len(rows):
                body["next_url"] = f"https://evil.example{path}?cursor={at + 25}"
            return 200, body
        if path == "/v3/reference/options/contracts":
            if self.not_entitled:
                return 403, {"status": "NOT_AUTHORIZED", "message": "You are not entitled to this data."}
            name = query["underlying_ticker"]
            rows = [] if name in WITHOUT else [{"underlying_ticker": name, "ticker": f"O:{name}"}]
            return 200, {"status": "OK", "results": rows}
        return None


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch, calendar: MarketCalendar) -> Iterator[Vendor]:
    last = calendar.last_completed(SystemClock().now())
    made = Vendor(calendar.sessions_between(calendar.offset(last, -30), last))
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.setenv("POLYGON_BASE_URL", made.url)
    monkeypatch.setattr(wiring, "market_calendar", lambda: calendar)
    monkeypatch.setattr(logs, "_target", logs._target)
    yield made
    made.stop()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def act(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(lambda: script.main([*words, "--sessions", "5", "--size", "40"]))
        said = capsys.readouterr()
        return code, said.out, said.err

    return act


Run = Callable[..., tuple[int, str, str]]


def test_the_list_is_the_most_liquid_names_with_options_and_says_where_it_came_from(
    vendor: Vendor, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "u.csv"
    code, said, _ = run("--out", str(out), "--json")
    assert code == Exit.OK
    expected = [s for s in reversed(NAMES) if s not in WITHOUT][:40]
    assert list(load_universe(out, default=False).symbols) == expected, "test names and foreign spellings are not in"
    told = json.loads(said)
    assert told["written"] is True and told["names"] == 40 and told["funnel"]["listed"] == 60
    origin = json.loads((tmp_path / "u.provenance.json").read_bytes())
    assert origin["host"] == "127.0.0.1" and origin["simulated"] is False and origin["filters"]["size"] == 40
    assert origin["funnel"]["options"] == 40 and origin["requests"] >= 5 + 3 + 40
    from data.universe.build import sha256

    assert origin["sha256"] == sha256(out.read_bytes())
    assert KEY not in (tmp_path / "u.provenance.json").read_text() + said
    assert not [path for path in vendor.seen if "evil" in path or KEY in path]


def test_a_small_or_much_changed_answer_is_not_written_over_the_list(vendor: Vendor, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "u.csv"
    assert run("--out", str(out))[0] == Exit.OK
    before = out.read_bytes(), (tmp_path / "u.provenance.json").read_bytes()
    vendor.listed = vendor.listed[:30]
    code, said, error = run("--out", str(out))
    assert code == Exit.CONFIG and error.startswith("kobe: UNIVERSE_IMPLAUSIBLE") and "listed 30" in said
    vendor.listed = []
    code, _, error = run("--out", str(out), "--accept-change")
    assert code == Exit.DATA and error.startswith("kobe: UNIVERSE_NO_DATA")
    assert (out.read_bytes(), (tmp_path / "u.provenance.json").read_bytes()) == before


def test_more_change_than_the_settings_allow_wants_a_word(vendor: Vendor, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "u.csv"
    out.write_text("symbol\n" + "\n".join(f"OLD{n}" for n in range(40)) + "\n")
    code, said, error = run("--out", str(out))
    assert code == Exit.CONFIG and error.startswith("kobe: UNIVERSE_CHANGED")
    assert "40 names added, 40 removed" in said and "OLD0" in out.read_text()
    code, said, _ = run("--out", str(out), "--accept-change", "--dry-run")
    assert code == Exit.OK and "nothing was written" in said and "OLD0" in out.read_text()
    assert run("--out", str(out), "--accept-change")[0] == Exit.OK and "OLD0" not in out.read_text()
    events = [json.loads(line) for line in (home().logs / "errors.jsonl").read_text().splitlines()]
    assert [e["code"] for e in events if e["event"] == "universe_not_built"] == ["UNIVERSE_CHANGED"]


def test_a_plan_without_options_says_so_and_takes_a_file(vendor: Vendor, run: Run, tmp_path: Path) -> None:
    vendor.not_entitled = True
    code, _, error = run("--out", str(tmp_path / "u.csv"))
    assert code == Exit.DATA and error.startswith("kobe: OPTIONS_NOT_ENTITLED") and "--options-file" in error
    (tmp_path / "options.csv").write_text("symbol\n" + "\n".join(NAMES[:45]) + "\n")
    code, _, _ = run("--out", str(tmp_path / "u.csv"), "--options-file", str(tmp_path / "options.csv"))
    assert code == Exit.OK
    assert set(load_universe(tmp_path / "u.csv", default=False).symbols) <= set(NAMES[:45])


def test_sectors_come_from_the_list_before_and_from_a_file(vendor: Vendor, run: Run, tmp_path: Path) -> None:
    out, extra = tmp_path / "u.csv", tmp_path / "sectors.csv"
    out.write_text("symbol,sector\n" + "".join(f"{s},Energy\n" for s in NAMES[20:]))
    extra.write_text("symbol,sector\nS59,Utilities\n")
    assert run("--out", str(out), "--sectors", str(extra), "--accept-change")[0] == Exit.OK
    sectors = load_universe(out, default=False).sectors
    assert sectors[next(iter(sectors))] == "Utilities" and set(sectors.values()) == {"Utilities", "Energy"}


def test_without_a_key_the_names_are_simulated_and_never_replace_the_real_list(
    run: Run, monkeypatch: pytest.MonkeyPatch, calendar: MarketCalendar, tmp_path: Path
) -> None:
    monkeypatch.setattr(wiring, "market_calendar", lambda: calendar)
    monkeypatch.setattr(logs, "_target", logs._target)
    real = script.REPO_ROOT / "data" / "universe" / "optionable_liquid_800.csv"
    before = real.read_bytes()
    code, _, error = run("--out", str(real))
    assert code == Exit.CONFIG and error.startswith("kobe: SIMULATED_UNIVERSE")
    code, said, _ = run()
    assert code == Exit.OK and said.startswith("SIMULATED")
    made = home().cache / "universe" / "simulated.csv"
    assert len(load_universe(made, default=False).symbols) == 40
    assert json.loads(made.with_suffix(".provenance.json").read_bytes())["simulated"] is True
    assert real.read_bytes() == before


@pytest.mark.parametrize("words", [("--size", "0"), ("--sessions", "0"), ("--sessions", "251"), ("--min-price", "-1")])
def test_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(lambda: script.main(list(words))) == Exit.USAGE
