"""A folder of bars on real sessions, for scripts that read `--bars` or play `--market`."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path

from core.market_calendar import market_calendar
from tests.portfolio.market import Bar, oversold, rising, swept

LAST = date(2024, 3, 4)


def small_market(folder: Path, *, last: date = LAST, vix: float | None = 15.0) -> Path:
    """IBS1, IBS2 and SOUP have a setup at the close of `last`; CALM and STILL have none. Prices fit into one order.

    The session after `last` is there too, flat at the last close, so that a venue that plays these bars has quotes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in _texts(last, vix).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@cache
def _texts(last: date, vix: float | None) -> dict[str, str]:
    calendar = market_calendar()
    days = calendar.sessions_between(date(last.year - 1, last.month, 1), last)[-252:]
    made = {
        "IBS1": oversold(rising(len(days), start=20.0, step=0.1, seed=1), fall=2.0),
        "IBS2": oversold(rising(len(days), start=22.0, step=0.1, seed=11), fall=2.5),
        "SOUP": swept(rising(len(days), start=30.0, step=0.05, seed=2)),
        "CALM": rising(len(days), start=25.0, step=0.1, seed=3),
        "STILL": rising(len(days), start=27.0, step=0.1, seed=4),
    }
    after = [*days, calendar.next_session(last)]
    texts = {f"{symbol}.csv": _csv(after, [*bars, _flat(bars[-1][3])]) for symbol, bars in made.items()}
    if vix is not None:
        rows = [f"{day},{vix},{vix},{vix},{vix}" for day in after]
        texts["vix_daily.csv"] = "\n".join(["date,open,high,low,close", *rows, ""])
    return texts


def _flat(close: float) -> Bar:
    return (close, close + 0.1, close - 0.1, close)


def _csv(days: list[date], bars: list[Bar]) -> str:
    rows = [f"{day},{o:.4f},{h:.4f},{lo:.4f},{c:.4f},2000000" for day, (o, h, lo, c) in zip(days, bars, strict=True)]
    return "\n".join(["date,open,high,low,close,volume", *rows, ""])
