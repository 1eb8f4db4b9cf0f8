"""Metrics: known numbers are there, unknown ones are absent and said to be, and promtool finds nothing to say."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.clock import SteppedClock
from execution.observe import metrics
from execution.observe.chart import HEIGHT, MARGIN, WIDTH, equity_svg, scaled
from execution.observe.facts import EquityPoint
from execution.observe.words import ago, printable, size
from tests.fakes.observed import TUESDAY, Observed, at_ten, hostile, ny

Worlds = dict[str, Callable[[Path], Observed]]
WORLDS: Worlds = {"sound": at_ten, "hostile": hostile, "empty": lambda p: Observed(p, SteppedClock(ny("09:00")))}


def text_of(made: Observed) -> str:
    return metrics.as_prometheus(made.look(), made.ready()).decode()


def samples(made: Observed) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(text_of(made)):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_promtool_finds_nothing(tmp_path: Path, name: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text_of(WORLDS[name](tmp_path)), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_known_is_a_number_and_what_is_not_is_absent_and_named(tmp_path: Path) -> None:
    found = samples(at_ten(tmp_path))
    assert found["kobe_ready"] == [({}, 1.0)] and found["kobe_positions"] == [({}, 1.0)]
    assert found["kobe_budget_spent_usd"] == [({}, 50.05)] and found["kobe_equity_usd"] == [({}, 100000.0)]
    assert found["kobe_info"] == [({"mode": "paper", "broker": "embedded venue", "simulated": "true"}, 1.0)]
    assert "kobe_llm_cost_usd_today" not in found and "kobe_cognitive_approval_ratio" not in found
    assert ({"field": "llm.cost_usd_today", "code": "LLM_ABSENT"}, 1.0) in found["kobe_unknown"]
    states = {labels["state"]: n for labels, n in found["kobe_runs_today"]}
    assert states["done"] == 1 and states["waiting"] == 3 and states["overdue"] == 0


def test_stops_and_warnings_are_labels(tmp_path: Path) -> None:
    made = at_ten(tmp_path)
    made.home.kill_switch.touch()
    made.clock.advance(timedelta(seconds=5))
    found = samples(made)
    assert found["kobe_ready"] == [({}, 0.0)] and found["kobe_kill_switch"] == [({}, 1.0)]
    assert [labels["code"] for labels, _ in found["kobe_stop"]] == ["KILL_SWITCH", "RUNNER_STALLED"]


def test_a_new_home_has_no_numbers_that_it_does_not_know(tmp_path: Path) -> None:
    found = samples(WORLDS["empty"](tmp_path))
    for name in ("kobe_positions", "kobe_equity_usd", "kobe_journal_records", "kobe_breaks", "kobe_orders_today"):
        assert name not in found
    assert found["kobe_ready"] == [({}, 0.0)]


def test_names_and_helps_are_sound() -> None:
    names = [gauge.name for gauge in metrics.GAUGES]
    assert len(names) == len(set(names)) and all(n.startswith("kobe_") and n == n.lower() for n in names)
    assert all(gauge.help.endswith(".") for gauge in metrics.GAUGES)


def test_money_that_is_no_number_is_not_known() -> None:
    assert metrics.usd(Decimal("NaN")) is None and metrics.usd(Decimal("Infinity")) is None
    assert metrics.usd(Decimal("1.23456")) == 1.2346 and metrics.usd(None) is None


# ---------------------------------------------------------------- words and chart
@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (86_400, "1 d"), (90_000, "1 d 1 h"),
     (-5, "0 s")],
)  # fmt: skip
def test_how_long_ago(seconds: float, words: str) -> None:
    assert ago(seconds) == words


def test_sizes_and_signs() -> None:
    assert (size(64_000_000), size(1_500_000_000), size(72_000_000_000)) == ("64 MB", "1.5 GB", "72 GB")
    assert printable("a\x1b[2J\u202eb\n") == "a?[2J?b?" and printable("plain") == "plain"


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [1.0, 2.0, 0.5], [1e9, -1e9, 0.0]])
def test_the_curve_stays_inside_its_frame(values: list[float]) -> None:
    points = scaled(values)
    assert points[0][0] == 0.0 and points[-1][0] == pytest.approx(WIDTH)
    assert all(MARGIN - 1e-6 <= y <= HEIGHT - MARGIN + 1e-6 for _, y in points)
    svg = equity_svg([EquityPoint(session=TUESDAY, equity_usd=Decimal(str(v))) for v in values])
    assert svg.count("<polyline") == 1 and "nan" not in svg
