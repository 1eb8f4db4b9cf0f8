"""The tear sheet: one file that needs nothing else, the verdict first, nothing invented, nothing unescaped."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from core.errors import DataError
from portfolio.backtest import output
from portfolio.backtest.evidence import benchmark_curves, evidence
from portfolio.backtest.report import SECTIONS, write
from portfolio.backtest.report_charts import FRAMES, Line, _thinned, _ticks, line_chart
from portfolio.backtest.report_folder import newest_parity, read_folder
from portfolio.backtest.report_html import CSP, Html, esc, tag
from tests.portfolio.backtest.test_evidence import FEW, a_run, a_trial

HONEST = {
    "verdict": "fail",
    "checks": [
        {"name": "same_bar_fill", "verdict": "fail", "n": 41, "blame": "AAA 2021-02-03", "detail": "", "code": "BAR"},
        {"name": "warm_up", "verdict": "pass", "n": 41, "blame": None, "detail": "", "code": "OK"},
        {"name": "survivorship", "verdict": "unknown", "n": 0, "blame": None, "detail": "", "code": "NO_LISTING"},
    ],
}  # fmt: skip
PARITY = {
    "start": "2021-01-04", "end": "2021-03-31", "decisions": 40, "equal": 39,
    "differing": [{"day": "2021-02-01", "decision": "entry", "symbol": "AAA", "cause": "REVISED_BAR", "detail": ""}],
    "shortfall": {"delay_usd": 1.5, "spread_usd": 2.0, "impact_usd": 0.0, "fees_usd": 0.1, "missed_usd": None, "n": 12},
}  # fmt: skip
SPANS = {"train_first": "2019-01-02", "train_last": "2020-12-31", "test_first": "2021-01-11", "test_last": "2021-06-30"}
FOLDS = {
    "folds": [
        {**SPANS, "fold": 1, "set": 1, "code": "", "score": 1.25, "train_trades": 88, "purged": 3, "closed": 12,
         "won": 7, "mean_r": 0.25, "pnl_usd": 30.5},
        {**SPANS, "fold": 2, "set": 2, "code": "TOO_FEW_TRADES", "score": None, "train_trades": 0, "purged": 0,
         "closed": 0, "won": 0, "mean_r": None, "pnl_usd": 0.0},
    ],
    "sets": [
        {"set": 1, "parameters": {"ibs_rsi.ibs_below": 0.08}, "searched": True, "frozen": False, "folds": 1},
        {"set": 2, "parameters": {}, "searched": False, "frozen": True, "folds": 1},
    ],
}  # fmt: skip
WALK = {
    "folds": 2, "train_days": 504, "embargo_days": 5, "test_days": 120, "sets": 12, "fell_back": 1,
    "frozen_instead": {"mean_r": -0.05, "closed": 40},
    "combinatorial": {"splits": 45, "losing": 22, "fallback": 0, "expectancy_r": [0.0125, None], "trades": [31, 0]},
}  # fmt: skip


def a_summary(blocks: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    counts = {"trades": 50, "open": 1, "closed": 49, "won": 30, "mean_return": 0.1, "mean_r": 0.2, "pnl_usd": 90.0}
    said = {
        "level": "signals", "start": "2000-01-01", "end": "2099-12-31", "data_source": "b.csv", "simulated": False,
        "symbols": 30, "sessions": 700, "costs": {"charged": True, "slippage_bps": 5.0}, "quarantined": {"A": 2},
        "strategies": {"all": {**counts, "costs_usd": 60.0}}, "notes": ["a note"],
        "capacity": {"account_usd": 1e6, "account_usd_for_95_pct": 2e6, "participation": 0.01, "order_share": 0.1,
                     "orders": 50, "unknown": 0},
    }  # fmt: skip
    return {**said, **blocks, **changed}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run as the script writes it."""
    folder = tmp_path_factory.mktemp("outputs") / "run"
    run, against = a_run()
    trial = a_trial(run)
    blocks = evidence(run, against, [trial], trial.key, resampling=FEW)
    curve = output.SignalCurve(run.days, run.returns, np.zeros(run.days.size, dtype=np.intp))
    output.write_trade_list(folder / "trade_list.csv", run.panel, run.booked)
    output.write_signal_equity(folder / "equity_curve.csv", curve)
    output.write_benchmark(folder / "benchmark_curve.csv", run.days, benchmark_curves(run, None))
    output.write_json(folder / "summary.json", a_summary(blocks))
    output.write_json(folder / "manifest.json", {"hashes": {"code": "ab12"}, "command": {"cap": None}})
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "outputs" / "run"))


def changed(folder: Path, **what: Any) -> str:
    """The report of the folder with these keys of its summary changed; None takes a key out."""
    path = folder / "summary.json"
    said = {**json.loads(path.read_text()), **what}
    path.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))
    return write(folder).read_text(encoding="utf-8")


def tree(html: str) -> ElementTree.Element:
    """Raises ParseError unless every element is closed and every attribute quoted."""
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>"))


def words(html: str) -> str:
    return " ".join("".join(tree(html).itertext()).replace("\u00a0", " ").split())


# ---------------------------------------------------------------- one file that needs nothing else
def test_it_is_one_well_formed_small_file_that_names_no_other(folder: Path) -> None:
    path = write(folder)
    html = path.read_text(encoding="utf-8")
    root = tree(html)
    assert path == folder / "report.html" and path.stat().st_size < 2_000_000
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<iframe|<img|<object|javascript:", html)
    references = [v for e in root.iter() for k, v in e.attrib.items() if k in ("href", "src", "srcset", "action")]
    assert all(value.startswith("#") or value == "data:," for value in references)
    meta = {e.get("http-equiv"): e.get("content") for e in root.iter("meta")}
    assert meta["Content-Security-Policy"] == CSP
    assert CSP.startswith("default-src 'none'") and "script-src" not in CSP and "http" not in CSP
    css = root.findtext("head/style") or ""
    assert "prefers-color-scheme:dark" in css and "@media print" in css and root.get("lang") == "en"


def test_every_link_of_the_page_leads_to_a_section_and_the_verdict_is_the_first(folder: Path) -> None:
    root = tree(write(folder).read_text(encoding="utf-8"))
    ids = [e.get("id") for e in root.iter("section")]
    assert ids == [name for name, _, _ in SECTIONS] and ids[0] == "verdict"
    assert {e.get("href") for e in root.iter("a")} == {f"#{name}" for name in ids}


def test_the_same_folder_gives_the_same_bytes(folder: Path) -> None:
    first = write(folder).read_bytes()
    assert write(folder).read_bytes() == first


def test_text_from_outside_is_escaped_wherever_it_appears(folder: Path) -> None:
    evil = "<script>alert(1)</script>\"'&\x00\x1b"
    bad = {
        "verdict": "fail",
        "checks": [{"name": evil, "verdict": evil, "n": 1, "blame": evil, "detail": evil, "code": evil}],
    }
    parity = {**PARITY, "differing": [dict.fromkeys(("day", "decision", "symbol", "cause", "detail"), evil)]}
    (folder / "folds.json").write_text(json.dumps([{evil: evil}]))
    (folder / "manifest.json").write_text(json.dumps({evil: {evil: [evil]}}))
    trades = folder / "trade_list.csv"
    trades.write_text(trades.read_text().replace("ibs_rsi", "<b>x</b>"))
    html = changed(folder, data_source=evil, notes=[evil], honesty=bad, parity=parity, quarantined={evil: evil})
    assert "<script" not in html and "\x00" not in html and "\x1b" not in html
    assert words(html).count("<script>alert(1)</script>") > 10


# ---------------------------------------------------------------- nothing is invented
def test_a_simulated_run_says_so_in_the_title_in_every_section_and_every_chart(folder: Path) -> None:
    html = changed(folder, simulated=True)
    root = tree(html)
    assert (root.findtext("head/title") or "").startswith("SIMULATED")
    assert all("SIMULATED" in "".join(section.itertext()) for section in root.iter("section"))
    assert all("SIMULATED" in "".join(svg.itertext()) for svg in root.iter("svg"))
    real = changed(folder, simulated=False)
    assert "SIMULATED" not in real


def test_data_of_unknown_origin_is_not_called_real(folder: Path) -> None:
    assert "SIMULATED" in changed(folder, simulated=None)


@pytest.mark.parametrize(
    ("block", "code"),
    [("statistics", "EVIDENCE_ABSENT"), ("controls", "EVIDENCE_ABSENT"), ("trials", "EVIDENCE_ABSENT"),
     ("promotion", "EVIDENCE_ABSENT"), ("benchmark", "BENCHMARK_ABSENT"), ("costs", "COSTS_ABSENT"),
     ("capacity", "CAPACITY_ABSENT"), ("honesty", "HONESTY_ABSENT"), ("parity", "PARITY_ABSENT")],
)  # fmt: skip
def test_a_block_that_is_not_there_is_said_with_its_code(folder: Path, block: str, code: str) -> None:
    assert code in words(changed(folder, **{block: None}))


@pytest.mark.parametrize(
    ("file", "code"),
    [("trade_list.csv", "TRADES_ABSENT"), ("equity_curve.csv", "EQUITY_ABSENT"), ("manifest.json", "MANIFEST_ABSENT"),
     ("benchmark_curve.csv", "Nothing to draw it against"), ("summary.json", "EVIDENCE_ABSENT")],
)  # fmt: skip
def test_a_file_that_is_not_there_is_said(folder: Path, file: str, code: str) -> None:
    (folder / file).unlink()
    assert code in words(write(folder).read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", ["summary.json", "equity_curve.csv", "folds.json"])
def test_a_damaged_file_is_named_and_nothing_is_written(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"{\xff" if file.endswith("json") else b"session,equity_usd\n2021-01-04,much\n")
    with pytest.raises(DataError, match=file) as caught:
        write(folder)
    assert caught.value.code == "REPORT_UNREADABLE" and not (folder / "report.html").exists()


def test_a_run_without_a_single_trade_has_a_report(folder: Path) -> None:
    for name in ("trade_list.csv", "equity_curve.csv", "benchmark_curve.csv"):
        head = (folder / name).read_text().splitlines()[0]
        (folder / name).write_text(head + "\n")
    said = words(write(folder).read_text(encoding="utf-8"))
    assert "EQUITY_ABSENT" in said and "NO_TRADES" in said


# ---------------------------------------------------------------- what it says
def test_the_verdict_and_the_main_figures_are_those_of_the_summary_with_n_and_interval(folder: Path) -> None:
    said = words(write(folder).read_text(encoding="utf-8"))
    summary = json.loads((folder / "summary.json").read_text())
    for line in summary["promotion"]["words"]:
        assert line in said
    rate = summary["statistics"]["after_costs"]["all"]["win_rate"]
    assert f"{rate['value']:.1%}{rate['low']:.1%} to {rate['high']:.1%}, N = {rate['n']:,} trades" in said
    assert said.index("NOT PROMOTED") < said.index("Gain since")


def test_every_printed_figure_has_an_n_beside_it(folder: Path) -> None:
    (folder / "folds.json").write_text(json.dumps(FOLDS))
    root = tree(changed(folder, honesty=HONEST, parity=PARITY, walk_forward=WALK))
    parents = {child: parent for parent in root.iter() for child in parent}
    values = [
        bold for bold in root.iter("b") if re.search(r"\d", bold.text or "") and "grid" not in _table(parents, bold)
    ]
    assert len(values) > 80
    for bold in values:
        beside = "".join(parents[bold].itertext()).replace("\u00a0", " ")
        assert "N = " in beside or "looked at" in beside, beside


def _table(parents: Mapping[ElementTree.Element, ElementTree.Element], cell: ElementTree.Element) -> str:
    """The class of the table a cell is in: the monthly one tells its N in a column of its own."""
    above: ElementTree.Element | None = cell
    while above is not None and above.tag != "table":
        above = parents.get(above)
    return "" if above is None else above.get("class") or ""


def test_the_months_multiply_to_the_year_and_the_years_to_the_curve(folder: Path) -> None:
    root = tree(write(folder).read_text(encoding="utf-8"))
    [grid] = [table for table in root.iter("table") if table.get("class") == "grid"][:1]
    total = 1.0
    for row in list(grid.iter("tr"))[1:]:
        cells = ["".join(cell.itertext()) for cell in row]
        months = [float(text) / 100 for text in cells[1:13] if text]
        year = float(cells[13]) / 100
        assert np.prod([1 + month for month in months]) - 1 == pytest.approx(year, abs=0.007)
        total *= 1 + year
    wealth = read_folder(folder).wealth()
    assert total == pytest.approx(wealth[-1], rel=0.01)


def test_a_failed_honesty_check_stands_above_the_verdict_and_is_told_with_its_blame(folder: Path) -> None:
    said = words(changed(folder, honesty=HONEST))
    assert said.index("NOT TO BE BELIEVED") < said.index("NOT PROMOTED")
    assert "AAA 2021-02-03" in said and "NO_LISTING" in said and "HONESTY_ABSENT" not in said


def test_no_green_box_for_a_promoted_run_on_simulated_data_or_with_a_failed_check(folder: Path) -> None:
    gate = json.loads((folder / "summary.json").read_text())["promotion"] | {"promoted": True, "words": ["PROMOTED: x"]}
    assert "verdict good" in changed(folder, promotion=gate)
    assert "verdict good" not in changed(folder, promotion=gate, honesty=HONEST)
    assert "verdict good" not in changed(folder, promotion=gate, honesty=None, simulated=True)


def test_equal_parts_stand_in_for_spy_and_that_is_said(folder: Path) -> None:
    said = words(write(folder).read_text(encoding="utf-8"))
    assert "SPY's bars are not at hand (SPY_BARS_ABSENT)" in said and "every symbol in equal parts" in said


def test_a_benchmark_of_other_sessions_is_not_drawn(folder: Path) -> None:
    path = folder / "benchmark_curve.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:1] + rows[2:] + rows[1:2]) + "\n")
    assert "Nothing to draw it against" in words(write(folder).read_text(encoding="utf-8"))


def test_a_run_without_costs_is_called_too_good(folder: Path) -> None:
    assert "NO COSTS were charged" in words(changed(folder, costs={"charged": False, "slippage_bps": 0}))


def test_the_folds_and_sets_of_a_walk_forward_are_told_with_their_n(folder: Path) -> None:
    (folder / "folds.json").write_text(json.dumps(FOLDS))
    said = words(changed(folder, walk_forward=WALK))
    assert "Kobe walk-forward" in said and "NOT_A_WALK_FORWARD" not in said
    assert "+0.250 R N = 12 trades" in said and "- N = 0 trades" in said and "TOO_FEW_TRADES" in said
    assert "N = 88 trades, 3 purged" in said and "ibs_rsi.ibs_below 0.08" in said and "2 frozen" in said
    assert "-0.050 R N = 40 trades" in said and "in 22 of them" in said and "+0.013 R N = 31 trades" in said


@pytest.mark.parametrize(
    ("document", "said"),
    [([{"fold": 3, "sharpe": {"value": 1.5, "n": 7, "of": "sessions"}}], "1.50N = 7 sessions"),
     ({"folds": [{"x": [1, 2]}], "sets": [{"a_b": True}]}, "a byes"), ({"folds": []}, "FOLDS_UNREADABLE"),
     (7, "FOLDS_UNREADABLE"), ({"folds": FOLDS["folds"]}, "COMBINATORIAL_ABSENT")],
)  # fmt: skip
def test_folds_of_another_shape_are_told_as_they_are(folder: Path, document: object, said: str) -> None:
    (folder / "folds.json").write_text(json.dumps(document))
    assert said in words(changed(folder, walk_forward=None))


def test_parity_is_told_when_it_is_there(folder: Path) -> None:
    said = words(changed(folder, parity=PARITY))
    assert "39 of 40 recorded decisions" in said and "REVISED_BAR" in said and "N = 12 orders" in said
    assert "SHORTFALL_ABSENT" in words(changed(folder, parity={**PARITY, "shortfall": None}))


def test_the_newest_parity_beside_the_run_that_overlaps_is_taken(tmp_path: Path) -> None:
    spans = {"a": ("2020-01-01", "2020-06-30"), "b": ("2021-01-01", "2021-03-31"), "c": ("2021-02-01", "2021-06-30")}
    for name, (start, end) in spans.items():
        path = tmp_path / f"parity-{name}" / "parity.json"
        path.parent.mkdir()
        path.write_text(json.dumps({**PARITY, "start": start, "end": end}))
    found = newest_parity(tmp_path, "2021-01-01", "2021-12-31")
    assert found is not None and found["end"] == "2021-06-30"
    earlier = newest_parity(tmp_path, "2020-06-30", "2020-12-31")
    assert earlier is not None and earlier["end"] == "2020-06-30"
    assert newest_parity(tmp_path, "2020-07-01", "2020-12-31") is None and newest_parity(tmp_path, "", "") is None


# ---------------------------------------------------------------- charts and pieces
def test_thinning_keeps_ends_lows_and_highs() -> None:
    values = np.sin(np.arange(5000) / 50.0)
    values[1234], values[4321] = 9.0, -9.0
    kept = dict(_thinned(values, 100))
    assert len(kept) <= 400 and {0, 1234, 4321, 4999} <= set(kept)
    assert _thinned(values[:50], 100) == list(enumerate(values[:50].tolist()))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (-0.47, 0.63), (0.0, 1.5e-4), (99_000.0, 101_000.0), (-3.0, -1.0)]
)
def test_ticks_are_even_round_and_hold_the_values(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    steps = np.diff(ticks)
    assert 2 <= len(ticks) <= 8 and np.allclose(steps, steps[0])
    assert ticks[0] <= low + 0.03 * steps[0] and ticks[-1] >= high - 0.03 * steps[0]


@pytest.mark.parametrize("n", [1, 2, 700])
def test_a_curve_of_any_length_stays_inside_its_frame(n: int) -> None:
    rng = np.random.default_rng(n)
    days = [f"{2000 + k // 250}-01-{k % 28 + 1:02d}" for k in range(n)]
    svg = line_chart("t", days, [Line("x", "ours", rng.normal(size=n))], percent=True, simulated=False)
    for frame, path in zip(FRAMES, re.findall(r' d="([^"]+)"', svg), strict=True):
        points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", path)[1:]]
        assert all(0 <= x <= frame.width and 0 <= y <= frame.height for x, y in points)


def test_markup_is_escaped_once_and_only_what_is_not_ours() -> None:
    assert esc(tag("b", "a<b")) == "<b>a&lt;b</b>"
    assert tag("td", Html("<i>x</i>"), title='"') == '<td title="&quot;"><i>x</i></td>'
