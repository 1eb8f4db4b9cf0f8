"""The verdict of a run in plain words, for the terminal and the tear sheet alike, from the blocks of summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

PROMOTED: Final = "PROMOTED: every question was answered, and answered with yes."
OUTRANKED: Final = "NOT PROMOTED: the gate's questions were answered with yes, but what is said above outranks them."
NOT_PROMOTED: Final = "NOT PROMOTED: not to be traded on this evidence."
_DONE_AS_WELL: Final = {
    "random_entries": "entries on random dates with the same exits",
    "random_walks": "the same rules on shuffled bars, where there is nothing to find,",
    "buy_and_hold": "simply holding every symbol in equal parts",
}


def promotion_words(promotion: Mapping[str, Any]) -> list[str]:
    """The verdict first, then one sentence for every question whose answer is no."""
    if promotion["promoted"]:
        return [PROMOTED]
    return [NOT_PROMOTED, *(_sentence(verdict) for verdict in promotion["verdicts"] if not verdict["holds"])]


def verdict_words(summary: Mapping[str, Any]) -> list[str]:
    """What the reader has to know first: simulated data and a failed honesty check outrank the gate."""
    lines = []
    if summary.get("simulated"):
        lines.append("SIMULATED: the market was made by a program; nothing here says anything about a real one.")
    honesty = summary.get("honesty")
    caught = honesty is not None and honesty.get("verdict") == "fail"
    if honesty is not None and caught:
        bad = ", ".join(str(check.get("name")) for check in honesty["checks"] if check.get("verdict") == "fail")
        lines.append(f"NOT TO BE BELIEVED: an honesty check failed ({bad}).")
    promotion = summary.get("promotion")
    if promotion is None:
        return [*lines, "NOT JUDGED: this run has no evidence (EVIDENCE_ABSENT); run it without --no-report."]
    if promotion["promoted"] and lines:
        return [*lines, OUTRANKED]
    return [*lines, *promotion["words"]]


def _sentence(verdict: Mapping[str, Any]) -> str:
    """`Why not (CODE, N = 12 trials).`"""
    return f"{_why(verdict)} ({verdict['code']}, {counted_as(verdict['n'], verdict['of'])})."


def _why(verdict: Mapping[str, Any]) -> str:
    question, seen, limit = str(verdict["question"]), verdict["observed"], verdict["limit"]
    for name, words in _DONE_AS_WELL.items():
        if question.startswith(f"better than {name}"):
            return _control(name, words, question, seen, limit)
    if question.startswith("deflated"):
        if seen is None:
            return "Whether the Sharpe ratio is more than luck cannot be told"
        return f"The deflated Sharpe ratio is {seen:.2f} and {limit:.2f} is asked: luck could have done this"
    if question.startswith("trials"):
        return "More was tried than the trial ledger holds"
    if seen is None:
        return "Overfitting was not measured: a single run has no variants to choose from, the walk-forward has"
    return f"The best of the training half falls behind in {seen:.0%} of the splits, {limit:.0%} is allowed"


def _control(name: str, words: str, question: str, seen: float | None, limit: float | None) -> str:
    if seen is None:
        return f"Whether it is better than {words} cannot be told"
    if question.endswith(", p)"):
        return f"Luck does as well too often: {words} reached it with p = {seen:.3f}, at most {limit:.2f} is allowed"
    theirs = "-" if limit is None else f"{limit:.2f}"
    return f"No better than {words}: a Sharpe ratio of {seen:.2f} against {theirs}"


# ---------------------------------------------------------------- figures for people
LABELS: Final[Mapping[str, str]] = {
    "win_rate": "win rate",
    "profit_factor": "profit factor",
    "expectancy_r": "expectancy, R",
    "mean_return": "mean return of a trade",
    "mean_profit_usd": "mean profit of a trade, USD",
    "average_holding_bars": "bars held",
    "mae_r": "MAE, R",
    "mfe_r": "MFE, R",
    "mae_r_of_wins": "MAE of the wins, R",
    "mfe_r_of_losses": "MFE of the losses, R",
    "sharpe": "Sharpe ratio",
    "sortino": "Sortino ratio",
    "volatility": "volatility, a year",
    "max_drawdown": "worst drawdown",
    "cagr": "growth, a year",
    "exposure": "exposure",
    "turnover_per_year": "turnover, a year",
}
_SHARES: Final = frozenset({"win_rate", "mean_return", "volatility", "max_drawdown", "cagr", "exposure"})
_SIGNED: Final = frozenset({"expectancy_r", "mean_return", "mean_profit_usd", "cagr"})


def figure_text(name: str, figure: Mapping[str, Any]) -> str:
    """`1.17 (1.09 to 1.26, N = 9,778 trades)`: never without its N."""
    value, beside = figure_parts(name, figure)
    return f"{value} ({beside})"


def figure_parts(name: str, figure: Mapping[str, Any]) -> tuple[str, str]:
    """The value, and what must stand beside it: interval or reason, and N."""
    counted = counted_as(figure["n"], figure["of"])
    form = form_of(name, figure)
    if figure["value"] is None:
        return "-", f"{figure['reason']}, {counted}"
    if figure.get("interval") is None:
        return format(figure["value"], form), f"{figure['reason']}, {counted}" if figure["reason"] else counted
    low, high = ("…" if bound is None else format(bound, form) for bound in (figure["low"], figure["high"]))
    return format(figure["value"], form), f"{low} to {high}, {counted}"


def counted_as(n: int, of: str) -> str:
    """`N = 9,778 trades`, `N = 1 trial`."""
    return f"N = {n:,} {of[:-1] if n == 1 and of.endswith('s') else of}"


def form_of(name: str, figure: Mapping[str, Any]) -> str:
    """How this figure is written: shares as per cent, with enough digits for the smaller of the value and bounds."""
    sign = "+" if name in _SIGNED else ""
    if name == "win_rate":
        return ".1%"
    if name not in _SHARES:
        if name == "sessions":
            return ",.0f"
        return sign + (".3f" if name in ("expectancy_r", "psr", "dsr", "p") else ".1f" if "bars" in name else ".2f")
    largest = max(abs(v) for v in (figure["value"], figure.get("low"), figure.get("high"), 0.0) if v is not None)
    digits = 1 if largest >= 0.1 else 2 if largest >= 0.01 else 3
    return f"{sign}.{digits}%"


def main_lines(statistics: Mapping[str, Any]) -> list[str]:
    """The main figures for a terminal of 80 columns, each with its interval and its N."""
    after, before = statistics["after_costs"]["all"], statistics["before_costs"]["all"]
    level = statistics["intervals"]["level"]
    rows = [(name, after[name]) for name in ("win_rate", "profit_factor", "expectancy_r")]
    rows += [(name, statistics["curve"][name]) for name in ("sharpe", "max_drawdown")]
    lines = [f"after costs, with where {level:.0%} of the draws lay:"]
    lines += [f"  {LABELS[name]:<21}{figure_text(name, figure)}" for name, figure in rows]
    lines += [
        f"  {label:<21}{figure_text(name, statistics['sharpe'][name])}"
        for label, name in (("more than 0 (PSR)", "psr"), ("more than luck (DSR)", "dsr"))
    ]
    lines.append("before costs:")
    lines += [f"  {LABELS[name]:<21}{figure_text(name, before[name])}" for name in ("win_rate", "profit_factor")]
    return lines
