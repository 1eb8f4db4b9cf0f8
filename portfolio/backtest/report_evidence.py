"""The parts of the tear sheet that say how far the run may be believed: verdict, controls, trials, honesty, parity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from portfolio.backtest.report_folder import Folder, finite
from portfolio.backtest.report_html import (
    Html,
    absent,
    answer,
    figure,
    figures_table,
    joined,
    paragraph,
    small,
    table,
    tag,
    tile,
)
from portfolio.backtest.report_run import AGAIN
from portfolio.backtest.words import LABELS, counted_as, verdict_words

_NAMES: Final = {
    "random_entries": "random entries, same exits",
    "random_walks": "same rules on shuffled bars",
    "buy_and_hold": "every symbol held, equal parts",
    "SPY": "SPY held, price only",
}
_BESIDE: Final = ("win_rate", "profit_factor", "mean_return", "sharpe", "max_drawdown", "cagr")


# ---------------------------------------------------------------- verdict
def verdict(folder: Folder) -> Html:
    said = verdict_words({**folder.summary, "simulated": folder.simulated})
    promotion = folder.block("promotion")
    honest = folder.block("honesty").get("verdict") != "fail"
    good = bool(promotion.get("promoted")) and honest and not folder.simulated
    words = [paragraph(line, class_="head" if line.split(":")[0].isupper() else None) for line in said]
    box = tag("div", *words, class_="verdict good" if good else "verdict")
    return joined([box, _tiles(folder), _questions(promotion)])


def _tiles(folder: Folder) -> Html:
    found = folder.block("statistics")
    if not found:
        return absent("figures", "EVIDENCE_ABSENT", AGAIN)
    after, before = found["after_costs"]["all"], found["before_costs"]["all"]
    curve, sharpe = found["curve"], found["sharpe"]
    return tag(
        "div",
        tile("win_rate", "win rate after costs", after["win_rate"]),
        tile("profit_factor", "profit factor after costs", after["profit_factor"]),
        tile("profit_factor", "profit factor before costs", before["profit_factor"]),
        tile("expectancy_r", "expectancy after costs, R", after["expectancy_r"]),
        tile("sharpe", "Sharpe ratio", curve["sharpe"]),
        tile("dsr", "deflated Sharpe ratio", sharpe["dsr"]),
        tile("max_drawdown", "worst drawdown", curve["max_drawdown"]),
        tile("cagr", "growth, a year", curve["cagr"]),
        class_="tiles",
    )


def _questions(promotion: Mapping[str, Any]) -> Html:
    if not promotion:
        return absent("promotion", "EVIDENCE_ABSENT", AGAIN)
    rows = []
    for asked in promotion["verdicts"]:
        count = small(counted_as(asked["n"], asked["of"]))
        seen = joined([tag("b", _three(asked["observed"])), count])
        rows.append([
            _readable(asked["question"]), seen, _three(asked["limit"]), answer(bool(asked["holds"])),
            tag("code", asked["code"] or "OK"),
        ])  # fmt: skip
    return table(["Question", "Seen", "Limit", "Answer", "Code"], rows, caption="Every question must be a yes.")


def _readable(question: object) -> str:
    words = str(question)
    for name, plain in _NAMES.items():
        words = words.replace(f"better than {name}", f"better than {plain}")
    return words.replace("mean_return", "mean return")


def _three(value: object) -> str:
    number = finite(value)
    return "-" if number is None else f"{number:,.0f}" if number == int(number) else f"{number:.3g}"


# ---------------------------------------------------------------- controls
def controls(folder: Folder) -> Html:
    found = folder.block("controls")
    if not found:
        return absent("controls", "EVIDENCE_ABSENT", AGAIN)
    rows: list[tuple[object, Mapping[str, Any]]] = [("this run", found["ours"])]
    rows += [(_NAMES.get(c["name"], c["name"]), c["figures"]) for c in found["side_by_side"]]
    names = [name for name in _BESIDE if any(name in figures for _, figures in rows)]
    beaten = [
        [
            _NAMES.get(c["name"], c["name"]),
            LABELS.get(c["comparison"]["figure"], c["comparison"]["figure"]),
            figure(c["comparison"]["figure"], c["comparison"]["ours"]),
            figure(c["comparison"]["figure"], c["figures"].get(c["comparison"]["figure"])),
            figure("p", c["comparison"]["p"]),
            answer(bool(c["comparison"]["beaten"])),
        ]
        for c in found["side_by_side"]
    ]
    notes = [f"{_NAMES.get(c['name'], c['name'])}: {note}" for c in found["side_by_side"] for note in c["notes"]]
    missing = [absent(_NAMES.get(c["name"], c["name"]), c["code"]) for c in found["absent"]]
    head = ["Control", "Compared by", "This run", "Control's", "p", "Beaten"]
    said = (
        "What the same effort earns without the idea. An interval of a drawn control is where the middle 90 % of its "
        "rounds lay; all controls pay the same costs. p is the share of rounds that did as well."
    )
    return joined([
        paragraph(said, class_="note"), table(head, beaten), *missing,
        tag("h3", "Side by side"), figures_table("What", rows, names),
        tag("ul", *(tag("li", note) for note in notes), class_="note") if notes else "",
    ])  # fmt: skip


# ---------------------------------------------------------------- trials
def trials(folder: Folder) -> Html:
    found, sharpe = folder.block("trials"), folder.block("statistics").get("sharpe")
    if not found or sharpe is None:
        return absent("trials", "EVIDENCE_ABSENT", AGAIN)
    said = (
        f"{counted_as(found['n'], 'trials')} of {', '.join(found['families']) or 'no family'} in the trial ledger, "
        f"{found['undefined']:,} of them without a Sharpe ratio. The more was tried, the better the best looks by "
        "luck; what was tried elsewhere is not counted here."
    )
    rows = [
        ["surely above 0 (PSR)", figure("psr", sharpe["psr"])],
        ["surely above luck (deflated, DSR)", figure("dsr", sharpe["dsr"])],
        ["Sharpe ratio that luck alone would show", figure("sharpe", sharpe["benchmark"])],
        ["sessions needed to be 95 % sure", figure("sessions", sharpe["minimum_track_record_sessions"])],
        ["independent trials these amount to", figure("", found["effective"])],
        ["mean correlation of the trials", figure("", found["mean_correlation"])],
        ["probability of overfitting (PBO)", figure("win_rate", folder.block("statistics")["overfitting"]["pbo"])],
    ]
    told = [
        [
            joined([tag("code", row["key"]), tag("b", " this run") if row["this_run"] else ""]),
            row["strategy"], row["level"], f"{row['start']} to {row['end']}", figure("sharpe", row["sharpe"]),
        ]
        for row in found["told"]
    ]  # fmt: skip
    best = f"The best {len(told)} by Sharpe ratio"
    return joined([
        paragraph(said), table(["Figure", "Value"], rows), _power(folder.block("promotion")),
        tag("h3", best), table(["Trial", "Strategy", "Level", "Span", "Sharpe ratio"], told),
    ])  # fmt: skip


def _power(promotion: Mapping[str, Any]) -> Html:
    rows = [[f"{row['true_sharpe']:.1f}", figure("win_rate", row)] for row in promotion.get("power", [])]
    said = "How often a strategy of this true Sharpe ratio would be told from luck, with so many sessions and trials"
    return (
        joined([tag("h3", "Power"), table(["True Sharpe ratio", "Seen"], rows, caption=f"{said}.")]) if rows else Html()
    )


# ---------------------------------------------------------------- honesty
def honesty(folder: Folder) -> Html:
    found = folder.block("honesty")
    if not found:
        return absent("honesty checks", "HONESTY_ABSENT", AGAIN)
    rows = [
        [
            str(check.get("name", "?")).replace("_", " "), answer(check.get("verdict", "unknown")),
            joined([tag("b", _three(check.get("n"))), small("looked at")]), check.get("blame") or "-",
            check.get("detail") or "-", tag("code", check.get("code") or "-"),
        ]
        for check in found.get("checks") or []
    ]  # fmt: skip
    said = paragraph("All checks together: ", answer(found.get("verdict", "unknown")), ".")
    return joined([said, table(["Check", "Verdict", "N", "To blame", "Detail", "Code"], rows)])


# ---------------------------------------------------------------- parity
def parity(folder: Folder) -> Html:
    found = folder.parity
    if found is None:
        advice = "python scripts/parity.py --start --end compares recorded days with the backtest."
        return absent("parity", "PARITY_ABSENT", advice)
    n, equal = int(found.get("decisions") or 0), int(found.get("equal") or 0)
    share = f"{equal / n:.1%}" if n else "-"
    said = (
        f"{found.get('start', '?')} to {found.get('end', '?')}: {equal:,} of {n:,} recorded decisions were made again "
        f"just so ({share}, N = {n:,} decisions)."
    )
    names = ("day", "decision", "symbol", "cause", "detail")
    differing = [[row.get(name) or "-" for name in names] for row in found.get("differing") or []]
    parts = [paragraph(said)]
    if differing:
        parts.append(table([name.capitalize() for name in names], differing, caption="Decisions that differ"))
    return joined([*parts, _shortfall(found.get("shortfall"))])


def _shortfall(found: object) -> Html:
    if not isinstance(found, Mapping) or finite(found.get("n")) is None:
        return absent("implementation shortfall", "SHORTFALL_ABSENT")
    rows = [
        [name, "-" if (usd := finite(found.get(f"{name}_usd"))) is None else f"{usd:+,.2f} USD"]
        for name in ("delay", "spread", "impact", "fees", "missed")
    ]
    said = f"Implementation shortfall, N = {int(found['n']):,} orders; positive is a cost"
    return table(["Part", "USD"], rows, caption=said, cards=False)
