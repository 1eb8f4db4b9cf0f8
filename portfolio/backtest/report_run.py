"""The parts of the tear sheet that say what the run did: curve, months, trades, costs, data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from portfolio.backtest.bootstrap import Floats
from portfolio.backtest.report_charts import Bars, Line, heat, histogram, line_chart
from portfolio.backtest.report_folder import Folder, Table, finite
from portfolio.backtest.report_html import (
    Html,
    absent,
    esc,
    figure,
    figures_table,
    joined,
    paragraph,
    small,
    table,
    tag,
)
from portfolio.backtest.words import LABELS

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_OF_TRADES: Final = ("win_rate", "profit_factor", "expectancy_r", "mean_return", "mean_profit_usd")
_NAMED: Final = {"spy": "SPY (price only)", "equal_weight": "every symbol in equal parts"}
AGAIN: Final = "Run the backtest without --no-report."


def title(folder: Folder) -> str:
    level = folder.summary.get("level")
    what = {"signals": "backtest, signal level", "portfolio": "backtest, portfolio level"}.get(str(level), "run")
    first, last = _span(folder)
    return f"Kobe {'walk-forward' if folder.folds is not None else what}, {first} to {last}"


def _span(folder: Folder) -> tuple[str, str]:
    """The sessions of the curve; else what was asked for."""
    if folder.equity is not None and folder.equity.rows:
        days = folder.equity.texts("session")
        return days[0], days[-1]
    return str(folder.summary.get("start", "?")), str(folder.summary.get("end", "?"))


def subtitle(folder: Folder) -> str:
    said = folder.summary
    source = said.get("data_source", "unknown")
    count = f"{said.get('symbols', '?')} symbols, {said.get('sessions', '?')} sessions of data"
    how = {
        "signals": "Every symbol and strategy alone, without cash or limits; each trade weighs the same.",
        "portfolio": "One account, session by session, with the live day's own rules.",
    }.get(str(said.get("level")), "")
    return f"Data: {source}; {count}. {how}"


def footer(folder: Folder) -> str:
    mark = "SIMULATED data. " if folder.simulated else ""
    return (
        f"{mark}Made from the files of this run; summary.json holds the same figures. Past results are not a promise."
    )


# ---------------------------------------------------------------- curve
def curves(folder: Folder) -> Html:
    wealth = folder.wealth()
    if folder.equity is None or not wealth.size or not np.isfinite(wealth).all():
        return absent("equity curve", "EQUITY_ABSENT")
    days, simulated = folder.equity.texts("session"), folder.simulated
    shown = folder.block("benchmark").get("shown")
    theirs = _benchmark(folder, str(shown), days) if shown else None
    lines = [Line("this run", "ours", wealth)]
    if theirs is not None:
        lines.append(Line(_NAMED.get(str(shown), str(shown)), "theirs", theirs))
    parts = [_against(folder, shown, theirs is not None)]
    growth = [Line(line.label, line.kind, line.values - 1.0) for line in lines]
    parts.append(line_chart(f"Gain since {days[0]}", days, growth, percent=True, simulated=simulated))
    if theirs is not None and np.ptp(wealth) < 0.1 * np.ptp(theirs):
        alone = "This run alone, on its own scale"
        parts.append(line_chart(alone, days, growth[:1], percent=True, simulated=simulated))
    below = [Line(line.label, line.kind, _drawdown(line.values)) for line in lines]
    parts.append(line_chart("Drawdown below the highest gain so far", days, below, percent=True, simulated=simulated))
    return joined(parts)


def _benchmark(folder: Folder, shown: str, days: Sequence[str]) -> Floats | None:
    """The shown benchmark, when it is told for the very sessions of the curve."""
    if folder.benchmark is None or folder.benchmark.texts("session") != list(days):
        return None
    values = folder.benchmark.numbers(shown)
    return values if np.isfinite(values).all() else None


def _against(folder: Folder, shown: object, there: bool) -> Html:
    spy = folder.block("benchmark").get("spy")
    code = spy.get("code") if isinstance(spy, Mapping) else None
    notes: list[object] = [f"{folder.wealth().size:,} sessions, after costs."]
    if there and shown == "spy":
        notes.append(" Against SPY, price only: it would have paid dividends on top.")
    elif there:
        notes += [" SPY's bars are not at hand (", tag("code", code or "SPY_BARS_ABSENT"), "): drawn against "]
        notes.append("every symbol held in equal parts instead.")
    else:
        notes += [" Nothing to draw it against (", tag("code", code or "BENCHMARK_ABSENT"), ")."]
    if folder.summary.get("level") == "signals":
        notes.append(" This level has no account: the curve compounds the mean return of the trades held each session.")
    exposure = finite(folder.block("account").get("mean_exposure"))
    if exposure is not None:
        notes.append(f" On average {exposure:.2%} of the account was in the market: most of it is cash.")
    return paragraph(*notes, class_="note")


def _drawdown(wealth: Floats) -> Floats:
    peak = np.maximum(np.maximum.accumulate(wealth), 1.0)
    return np.asarray(wealth / peak - 1.0, dtype=np.float64)


# ---------------------------------------------------------------- months
def months(folder: Folder) -> Html:
    wealth = folder.wealth()
    if folder.equity is None or not wealth.size:
        return absent("monthly table", "EQUITY_ABSENT")
    days = folder.equity.texts("session")
    ours, theirs = _by_month(days, wealth), {}
    shown = folder.block("benchmark").get("shown")
    held = _benchmark(folder, str(shown), days) if shown else None
    if held is not None:
        theirs = _by_year(days, held)
    years = _by_year(days, wealth)
    most = max((abs(v) for v in ours.values()), default=0.0)
    digits = 1 if most >= 0.02 else 2 if most >= 0.002 else 4
    beside = {"spy": "SPY", "equal_weight": "equal parts"}.get(str(shown), "")
    head = ["Year", *_MONTHS, "Year, %", *([f"{beside}, %"] if theirs else []), "N"]
    rows = []
    for year in sorted(years):
        cells: list[object] = [tag("th", year, scope="row")]
        for month in range(1, 13):
            value = ours.get(f"{year}-{month:02d}")
            cells.append(tag("td", "") if value is None else heat(value, f"{value * 100:.{digits}f}", most))
        cells.append(tag("td", tag("b", f"{years[year] * 100:.{digits}f}")))
        cells += [tag("td", f"{theirs[year] * 100:.1f}")] if theirs else []
        cells.append(tag("td", sum(day[:4] == year for day in days)))
        rows.append(tag("tr", *cells))
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    made = tag("table", top, tag("tbody", *rows), class_="grid")
    said = "Gain in per cent, after costs; N counts the sessions of the year. A month is seen once: it has no interval."
    return joined([tag("div", made, class_="scroll", tabindex="0"), paragraph(said, class_="note")])


def _by_month(days: Sequence[str], wealth: Floats) -> dict[str, float]:
    return _by_key([day[:7] for day in days], wealth)


def _by_year(days: Sequence[str], wealth: Floats) -> dict[str, float]:
    return _by_key([day[:4] for day in days], wealth)


def _by_key(keys: Sequence[str], wealth: Floats) -> dict[str, float]:
    """Gain over each run of equal keys, from the wealth before its first session."""
    last = {key: float(value) for key, value in zip(keys, wealth.tolist(), strict=True)}
    before, found = 1.0, {}
    for key, value in last.items():
        found[key] = value / before - 1.0 if before > 0 else 0.0
        before = value
    return found


# ---------------------------------------------------------------- figures
def figures(folder: Folder) -> Html:
    found = folder.block("statistics")
    if not found:
        return absent("figures with intervals", "EVIDENCE_ABSENT", AGAIN)
    after, before = found["after_costs"]["all"], found["before_costs"]["all"]
    names = [name for name in LABELS if name in after]
    rows = [[LABELS[name], figure(name, after[name]), figure(name, before.get(name))] for name in names]
    level = found["intervals"]["level"]
    curve = [[LABELS[name], figure(name, found["curve"][name])] for name in LABELS if name in found["curve"]]
    said = (
        f"Intervals: where the middle {level:.0%} of {found['intervals']['draws']:,} draws of whole blocks of sessions "
        f"lay. {found['closed']:,} trades are closed; {found['open']:,} still open are in no figure."
    )
    return joined([
        paragraph(said, class_="note"),
        tag("h3", "Trades"),
        table(["Figure", "After costs", "Before costs"], rows),
        tag("h3", "The daily curve, after costs"),
        table(["Figure", "Value"], curve),
    ])  # fmt: skip


def by_strategy(folder: Folder) -> Html:
    return _breakdown(folder, "strategies", "Strategy")


def by_exit(folder: Folder) -> Html:
    made = _breakdown(folder, "exits", "Exit")
    said = "An exit is known only afterwards: these rows explain, they cannot be traded."
    return joined([paragraph(said, class_="note"), made])


def _breakdown(folder: Folder, kind: str, head: str) -> Html:
    found = folder.block("statistics")
    if not found:
        return absent("breakdown with intervals", "EVIDENCE_ABSENT", AGAIN)
    rows = found["after_costs"][kind]
    if not rows:
        return absent("breakdown", "NO_TRADES")
    some = next(iter(rows.values()))
    names = [name for name in (*_OF_TRADES, "average_holding_bars") if name in some]
    return figures_table(head, [(name, row) for name, row in rows.items()], names)


# ---------------------------------------------------------------- excursions
def excursions(folder: Folder) -> Html:
    trades = _closed(folder.trades)
    if trades is None:
        return absent("trade list", "TRADES_ABSENT")
    profit, mae, mfe = (trades.numbers(name) for name in ("pnl_usd", "mae_r", "mfe_r"))
    known = np.isfinite(profit) & np.isfinite(mae) & np.isfinite(mfe)
    if not known.any():
        return absent("excursions", "NO_TRADES")
    won, lost = known & (profit > 0), known & (profit <= 0)
    parts = [
        paragraph(
            "The worst (MAE) and the best (MFE) a trade stood at while it was held, in R, its own planned risk.",
            class_="note",
        )
    ]
    charts = [
        histogram(name, "in R", [Bars("wins", "ours", values[won]), Bars("losses", "theirs", values[lost])], *reach,
                  simulated=folder.simulated)
        for name, values, reach in (("MAE", mae, (-1.5, 0.0)), ("MFE", mfe, (0.0, 3.0)))
    ]  # fmt: skip
    found = folder.block("statistics").get("after_costs", {}).get("all", {})
    names = [name for name in ("mae_r", "mfe_r", "mae_r_of_wins", "mfe_r_of_losses") if name in found]
    if names:
        parts.append(table(["Figure", "Value"], [[LABELS[name], figure(name, found[name])] for name in names]))
    return joined([*parts, tag("div", *charts, class_="pair")])


def _closed(trades: Table | None) -> Table | None:
    return None if trades is None else Table([row for row in trades.rows if row.get("exit_date")])


# ---------------------------------------------------------------- costs
def costs(folder: Folder) -> Html:
    charged, strategies = folder.block("costs"), folder.block("strategies")
    if not charged:
        return absent("costs", "COSTS_ABSENT")
    if charged.get("charged"):
        slippage = charged.get("slippage_bps")
        said = f"Charged: {slippage:g} bps slippage a side, half a guessed spread, and the fees on sales."
    else:
        said = "NO COSTS were charged (--costs-bps 0): every figure here is too good."
    rows = []
    for name, row in strategies.items():
        n, paid, left = int(row["closed"]), float(row["costs_usd"]), float(row["pnl_usd"])
        gross = left + paid
        share = f"{paid / gross:.0%} of the gross profit" if gross > 0 and n else "no gross profit to pay it from"
        each = f"{paid / row['trades']:.2f} USD a trade" if row["trades"] else "-"
        count = small(f"N = {row['trades']:,} trades, no interval")
        rows.append([name, joined([tag("b", f"{paid:,.2f} USD"), count]), each, share, f"{left:,.2f} USD"])
    parts = [paragraph(said)]
    parts.append(table(["Strategy", "Costs", "Each", "Share", "Left after costs"], rows))
    return joined([*parts, _capacity(folder.block("capacity"))])


def _capacity(found: Mapping[str, Any]) -> Html:
    if not found:
        return absent("capacity", "CAPACITY_ABSENT")
    account, most = finite(found.get("account_usd")), finite(found.get("account_usd_for_95_pct"))
    if account is None or most is None:
        return absent("capacity", "VOLUME_UNKNOWN")
    return paragraph(
        f"Capacity: up to an account of {account:,.0f} USD every order, {found['order_share']:.0%} of the account, "
        f"stays within {found['participation']:.0%} of its symbol's daily dollar volume; up to {most:,.0f} USD without "
        f"the thinnest 5 % of the orders (N = {found['orders']:,} orders; the volume of {found['unknown']:,} is "
        "not known)."
    )


# ---------------------------------------------------------------- data
def data(folder: Folder) -> Html:
    said, manifest = folder.summary, folder.manifest
    parts: list[Html] = []
    notes = said.get("notes") or []
    if notes:
        parts.append(tag("ul", *(tag("li", note) for note in notes)))
    removed = folder.block("quarantined")
    if removed:
        told = ", ".join(f"{code}: {count}" for code, count in sorted(removed.items()))
        parts.append(paragraph(f"Bars taken out before the run: {told}."))
    refused = folder.block("refused")
    if refused:
        counted = [[tag("code", code), f"{count:,}"] for code, count in sorted(refused.items())]
        parts += [tag("h3", "Signals that became no trade"), table(["Reason", "How often"], counted, cards=False)]
    if manifest is None:
        parts.append(absent("manifest", "MANIFEST_ABSENT"))
    else:
        rows = [[name, tag("code", value)] for name, value in _flat(manifest) if value not in (None, "")]
        parts += [tag("h3", "Manifest"), table(["What", "Value"], rows)]
    return joined(parts)


def _flat(document: Mapping[str, Any], above: str = "") -> list[tuple[str, Html]]:
    found: list[tuple[str, Html]] = []
    for name, value in document.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            found += _flat(value, f"{path}.")
        elif isinstance(value, list):
            found.append((path, esc(", ".join(map(str, value)))))
        elif value is not None:
            found.append((path, esc(value)))
    return found
