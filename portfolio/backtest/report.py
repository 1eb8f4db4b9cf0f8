"""The tear sheet of a run: one HTML file that needs nothing else, made from the files of its folder.

Verdict first. No script, no outside asset; every figure with its N and interval, what is absent is said with its code.
The same folder gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from core.files import write_atomic
from portfolio.backtest import report_evidence as evidence
from portfolio.backtest import report_run as run
from portfolio.backtest.report_folder import Folder, read_folder
from portfolio.backtest.report_folds import folds
from portfolio.backtest.report_html import Html, joined, page, tag

SECTIONS: Final[Sequence[tuple[str, str, Callable[[Folder], Html]]]] = (
    ("verdict", "Verdict", evidence.verdict),
    ("curve", "Equity and drawdown", run.curves),
    ("months", "Months", run.months),
    ("figures", "Figures", run.figures),
    ("strategies", "By strategy", run.by_strategy),
    ("exits", "By exit", run.by_exit),
    ("excursions", "Excursions (MAE and MFE)", run.excursions),
    ("costs", "Costs and capacity", run.costs),
    ("controls", "Controls", evidence.controls),
    ("trials", "Trials, luck and power", evidence.trials),
    ("folds", "Walk-forward folds", folds),
    ("honesty", "Honesty", evidence.honesty),
    ("parity", "Parity with the live day", evidence.parity),
    ("data", "Data and how to repeat it", run.data),
)


def write(folder: Path) -> Path:
    """Write report.html into the folder of a run. Raises DataError REPORT_UNREADABLE for a damaged file in it."""
    path = folder / "report.html"
    write_atomic(path, render(read_folder(folder)).encode("utf-8"), durable=False)
    return path


def render(folder: Folder) -> str:
    title = run.title(folder)
    mark = "SIMULATED: " if folder.simulated else ""
    links = tag("nav", *(tag("a", head, href=f"#{name}") for name, head, _ in SECTIONS), aria_label="sections")
    parts = [_section(folder, name, head, make) for name, head, make in SECTIONS]
    foot = tag("footer", tag("p", run.footer(folder), class_="soft"))
    top = tag("header", tag("h1", title, *_badge(folder)), tag("p", run.subtitle(folder), class_="soft"))
    first, rest = parts[0], parts[1:]
    return page(mark + title, [top, tag("main", first, links, *rest), foot])


def _section(folder: Folder, name: str, head: str, make: Callable[[Folder], Html]) -> Html:
    return tag("section", tag("h2", head, *_badge(folder)), make(folder), id=name)


def _badge(folder: Folder) -> tuple[Html, ...]:
    return (joined([" ", tag("span", "SIMULATED", class_="simulated")]),) if folder.simulated else ()
