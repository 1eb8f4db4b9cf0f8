"""The walk-forward in the tear sheet: each fold, what was chosen in it, and what other cuts of the data would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from portfolio.backtest.report_folder import Folder, finite
from portfolio.backtest.report_html import Html, absent, figure, joined, paragraph, small, table, tag
from portfolio.backtest.words import counted_as

_KNOWN = frozenset({"fold", "train_first", "train_last", "test_first", "test_last", "set", "closed", "mean_r"})


def folds(folder: Folder) -> Html:
    found = folder.folds
    if found is None:
        return absent("walk-forward folds", "NOT_A_WALK_FORWARD", "python scripts/run_wf_polygon.py makes them.")
    rows = found.get("folds") if isinstance(found, Mapping) else found
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        return absent("walk-forward folds", "FOLDS_UNREADABLE")
    parts = [_facts(folder.block("walk_forward"))]
    parts.append(_fold_table(rows) if all(set(row) >= _KNOWN for row in rows) else _any_table(rows))
    sets = found.get("sets") if isinstance(found, Mapping) else None
    if isinstance(sets, list) and sets and all(isinstance(row, Mapping) for row in sets):
        parts += [tag("h3", "Parameter sets"), _set_table(sets)]
    return joined([*parts, _combinatorial(folder.block("walk_forward").get("combinatorial"))])


def _facts(block: Mapping[str, Any]) -> Html:
    if not block:
        return absent("plan of the walk-forward", "WALK_FORWARD_ABSENT")
    said = (
        f"{block.get('folds', '?')} folds: parameters are chosen on {block.get('train_days', '?')} sessions, "
        f"{block.get('embargo_days', '?')} are left out, the next {block.get('test_days', '?')} are the test. Every "
        f"figure of this report is of the test sessions only. {block.get('sets', '?')} parameter sets were searched; "
        f"in {block.get('fell_back', '?')} folds none could be chosen and the frozen one stood in."
    )
    frozen = block.get("frozen_instead")
    parts = [paragraph(said)]
    if isinstance(frozen, Mapping) and finite(frozen.get("closed")) is not None:
        parts.append(paragraph("The frozen parameters over the same test sessions: ", _mean_r(frozen), "."))
    return joined(parts)


def _mean_r(row: Mapping[str, Any]) -> Html:
    """Mean R after costs with its N; a fold alone is too short for an interval."""
    value = finite(row.get("mean_r"))
    words = "-" if value is None else f"{value:+.3f} R"
    return joined([tag("b", words), " ", small(f"{counted_as(int(row['closed']), 'trades')}, no interval")])


def _fold_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    head = [
        "Fold",
        "Trained on",
        "Tested on",
        "Set",
        "Score in training",
        "Mean trade of the test",
        "Won",
        "After costs",
    ]
    return table(head, [_fold(row) for row in rows])


def _fold(row: Mapping[str, Any]) -> list[object]:
    trained = f"{counted_as(int(row.get('train_trades') or 0), 'trades')}, {row.get('purged', '?')} purged"
    score, left = finite(row.get("score")), finite(row.get("pnl_usd"))
    return [
        row["fold"],
        joined([tag("span", f"{row['train_first']} to {row['train_last']}"), small(trained)]),
        f"{row['test_first']} to {row['test_last']}",
        joined([tag("span", row["set"]), small(str(row.get("code") or "chosen"))]),
        "-" if score is None else f"{score:.3g}",
        _mean_r(row),
        f"{row.get('won', '?')} of {row['closed']}",
        "-" if left is None else f"{left:+,.2f} USD",
    ]


def _set_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """By their number, as the folds name them; the frozen one is said."""
    if not all(set(row) >= {"set", "parameters", "folds"} for row in rows):
        return _any_table(rows)
    cells = [
        [
            joined([_cell(row["set"], "set"), tag("small", " frozen") if row.get("frozen") else ""]),
            _cell(row["parameters"], "parameters"), _cell(row["folds"], "folds"),
        ]
        for row in rows
    ]  # fmt: skip
    return table(["Set", "Parameters", "Folds that chose it"], cells)


def _any_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """Columns as they were written."""
    head = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name), name) for name in head] for row in rows]
    return table([name.replace("_", " ") for name in head], cells)


def _cell(value: object, name: str) -> object:
    if isinstance(value, Mapping) and {"value", "n", "of"} <= set(value):
        return figure(name, {"reason": "", "low": None, "high": None, "interval": None, **value})
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item, key)}" for key, item in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(_cell(item, name)) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    number = finite(value)
    if number is None:
        return "-" if value is None else str(value)
    return f"{number:,.0f}" if isinstance(value, int) else f"{number:.4g}"


def _combinatorial(found: object) -> Html:
    if not isinstance(found, Mapping) or not isinstance(found.get("expectancy_r"), list):
        return absent("combinatorial folds", "COMBINATORIAL_ABSENT")
    rows = [
        [f"Path {k}", _mean_r({"mean_r": value, "closed": n})]
        for k, (value, n) in enumerate(zip(found["expectancy_r"], found.get("trades") or [], strict=False), start=1)
    ]
    said = (
        f"The same choice made on {found.get('splits', '?')} other cuts of the data: in {found.get('losing', '?')} of "
        f"them the chosen set lost in the test, in {found.get('fallback', '?')} the frozen one stood in."
    )
    head = tag("h3", "Other parts of the data as the test")
    return joined([head, paragraph(said), table(["Path", "Mean trade after costs"], rows)])
