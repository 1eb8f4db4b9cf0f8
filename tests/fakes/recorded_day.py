"""One replayed day with everything that a day records, and hands that change what is known of it afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from core.clock import SystemClock
from core.journal import Journal
from data.vix import VixStore
from scripts import parity, runner
from tests.fakes.bar_files import LAST, small_market

DAY = date(2024, 3, 5)  # the session after LAST: it trades the signals of LAST
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "selection": {"mode": "top_n", "top_n": {"n": 5, "max_correlation": 1.0, "max_sector_pct": 1.0}},
    "data": {"min_coverage_pct": 0.5},
    "risk": {
        "policy_gate": {"per_order_max_usd": 200},
        "advanced": {"var_limit_pct": 0.0003},  # what is known of the returns passes, what is not would not
    },
    "quality_gate": {"min_score": 30, "max_signals_per_day": 5},
    "runner": {"scan_times": ["09:35", "15:55"]},
}
FROM = {"IBS3": "IBS1", "GAP": "CALM"}  # copies of these, without some bars


@dataclass(frozen=True)
class World:
    """A home that holds the recorded day, its own to be changed."""

    root: Path
    market: Path  # as the day was played; nobody writes there

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def cache(self) -> Path:
        return next(path for path in (self.home / "cache").iterdir() if path.name.startswith("market-"))

    @property
    def universe(self) -> Path:
        return self.root / "universe.csv"

    @property
    def inputs(self) -> Path:
        return self.home / "logs" / "inputs"

    def rows(self) -> list[dict[str, Any]]:
        lines = (self.inputs / f"{DAY}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        (self.inputs / f"{DAY}.jsonl").write_text(text, encoding="utf-8")

    # ------------------------------------------------------------ what may happen to a day afterwards
    def revise(self, symbol: str, back: int, column: str, by: float = 1.01) -> tuple[str, str]:
        """The vendor's bar `back` sessions before LAST says something else; its session and column."""
        file = self.cache / f"{symbol}.csv"
        lines = file.read_text(encoding="ascii").splitlines()
        number = next(k for k, line in enumerate(lines) if line.startswith(LAST.isoformat())) - back
        cells = lines[number].split(",")
        place = lines[0].split(",").index(column)
        cells[place] = repr(round(float(cells[place]) * by, 6))
        lines[number] = ",".join(cells)
        file.write_text("\n".join([*lines, ""]), encoding="ascii")
        return cells[0], column

    def drop(self, symbol: str, back: int = 0) -> None:
        file = self.cache / f"{symbol}.csv"
        lines = file.read_text(encoding="ascii").splitlines()
        number = next(k for k, line in enumerate(lines) if line.startswith(LAST.isoformat())) - back
        file.write_text("\n".join([*lines[:number], *lines[number + 1 :], ""]), encoding="ascii")

    def forget(self, symbol: str) -> None:
        (self.cache / f"{symbol}.csv").unlink()

    def deliver(self, symbol: str, day: date | None = None) -> None:
        """The bar that was not there then comes: the one that its original has."""
        file, day = self.cache / f"{symbol}.csv", day or LAST
        original = (self.market / f"{FROM[symbol]}.csv").read_text(encoding="utf-8").splitlines()
        bar = next(line for line in original if line.startswith(day.isoformat()))
        lines = file.read_text(encoding="ascii").splitlines()
        file.write_text("\n".join([lines[0], *sorted([*lines[1:], bar]), ""]), encoding="ascii")

    def settle_vix(self, level: float) -> None:
        VixStore(self.home / "cache", self.cache.name).put(LAST, level, "test")

    def split(self, symbol: str, ratio: float, ex_date: date) -> None:
        facts = self.cache / "facts"
        facts.mkdir(exist_ok=True)
        (facts / "splits.csv").write_text(f"symbol,ex_date,ratio\n{symbol},{ex_date},{ratio}\n", encoding="ascii")
        (facts / "dividends.csv").write_text("symbol,ex_date,amount\n", encoding="ascii")

    def journal(self, kind: str, body: Mapping[str, Any]) -> None:
        Journal(self.home / "state" / "hash_chain.jsonl", SystemClock()).append(kind, body)

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Settings as dotted names."""
        settings = json.loads(json.dumps(SETTINGS))
        for key, value in changes.items():
            place = settings
            *path, last = key.split(".")
            for part in path:
                place = place.setdefault(part, {})
            place[last] = value
        (self.root / "settings.yaml").write_text(json.dumps(settings), encoding="utf-8")

    # ------------------------------------------------------------ looking
    def parity(self, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
        words = ["--start", str(DAY), "--end", str(DAY), "--universe", str(self.universe), "--json"]
        code = parity.main([*words, *more])
        facts: dict[str, Any] = json.loads(capsys.readouterr().out)
        return code, facts


def use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOBE_HOME", str(world.home))
    monkeypatch.setenv("KOBE_CONFIG", str(world.root / "settings.yaml"))


def record(root: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Live the day once: IBS1, IBS2 and SOUP are bought; IBS3 lacks its last bar and GAP one in the middle."""
    market = small_market(root / "market")
    world = World(root, market)
    lacking: dict[str, Callable[[list[str]], int]] = {"IBS3": lambda lines: -2, "GAP": lambda lines: -12}
    for symbol, which in lacking.items():
        lines = (market / f"{FROM[symbol]}.csv").read_text(encoding="utf-8").splitlines()
        del lines[which(lines)]
        (market / f"{symbol}.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    names = sorted(path.stem for path in market.glob("*.csv") if path.stem != "vix_daily")
    rows = [f"{name},Sector {k % 3}" for k, name in enumerate(names)]
    world.universe.write_text("\n".join(["symbol,sector", *rows, ""]), encoding="utf-8")
    world.configure({})
    use(world, monkeypatch)
    code = runner.main([
        "--mode", "paper", "--market", str(market), "--universe", str(world.universe), "--fills", "at_open",
        "--replay", f"{DAY}:{DAY}", "--json",
    ])  # fmt: skip
    assert code == 0
    return world


def copied(world: World, root: Path) -> World:
    """A world of one's own, but for the market, whose path is in the recorded day."""
    root.mkdir(parents=True, exist_ok=True)
    shutil.copytree(world.home, root / "home")
    for name in ("universe.csv", "settings.yaml"):
        shutil.copy(world.root / name, root / name)
    return World(root, world.market)
