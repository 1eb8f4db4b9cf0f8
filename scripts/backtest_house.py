"""The rules of the live day, handed to the portfolio backtest: prices, ticks, the gate, scan times, earnings."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from core.paths import REPO_ROOT
from portfolio.backtest.costs import CostModel
from scripts import wiring
from scripts.backtest_data import Loaded

if TYPE_CHECKING:
    from core.domain import Breach, OrderIntent, Quote
    from core.ports import EntryFacts
    from portfolio.backtest.portfolio_level import World
    from risk.gate import Limits


class LiveHouse:
    """core.ports.HouseRules from the live day's own functions."""

    def __init__(self, context: wiring.Context) -> None:
        from risk.gate import Limits

        self._run = context.settings.execution
        self._limits: Limits = Limits.from_settings(context.settings)

    def entry_limit(self, quote: Quote, on: date) -> Decimal | Breach:
        from execution.clamp import entry_limit

        return entry_limit(quote, self._run.entry_offset_bps, self._run.max_clamp_bps, self._limits.ticks, on)

    def exit_limit(self, quote: Quote, on: date) -> Decimal | Breach:
        from execution.clamp import exit_limit

        return exit_limit(quote, self._run.exit_offset_bps, self._run.exit_clamp_bps, self._limits.ticks, on)

    def stop_price(self, stop: Decimal, on: date) -> Decimal:
        from core.money import to_stop_price

        return to_stop_price(stop, on, self._limits.ticks)

    def target_price(self, fill: Decimal, stop: Decimal, target_r: float | None, on: date) -> Decimal | None:
        from core.money import protective_target

        return protective_target(fill, stop, target_r, on, self._limits.ticks)

    def refusal(self, intent: OrderIntent, facts: EntryFacts) -> Sequence[str]:
        from core.domain import TradingState
        from risk.gate import Book, Refused, decide

        shared = {f.name: getattr(facts, f.name) for f in dataclasses.fields(facts)}
        held = sum(1 for shares in facts.positions.values() if shares)
        book = Book(
            **shared, session_open=True, open_position_slots=held, tradable=True, trading_state=TradingState.ACTIVE
        )
        decision = decide(intent, book, self._limits)
        return decision.codes if isinstance(decision, Refused) else ()


def _scans_of(context: wiring.Context) -> Callable[[date], tuple[datetime, datetime] | None]:
    from execution.scheduler import due_runs

    runner = context.settings.runner

    def scans(session: date) -> tuple[datetime, datetime] | None:
        runs = due_runs(session, runner.scan_times, context.calendar, half_day_rule=runner.half_day_rule)
        return (runs[0].at, runs[-1].at) if runs else None

    return scans


def world_of(context: wiring.Context, loaded: Loaded, args: argparse.Namespace) -> World:
    from data.universe import load_universe
    from portfolio.backtest.portfolio_level import World

    named = args.universe or REPO_ROOT / context.settings.universe.path
    earnings = wiring.earnings_calendar(context)
    settings = context.settings
    return World(
        settings=settings, params=context.params, calendar=context.calendar,
        house=LiveHouse(context), sectors=load_universe(named, default=False).sectors,
        vix=loaded.vix, earnings_on=earnings.at, scans_of=_scans_of(context),
        costs=CostModel.from_settings(settings.costs, args.costs_bps), cash_usd=settings.venue.starting_cash_usd,
        mode=context.mode,
    )  # fmt: skip
