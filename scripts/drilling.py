"""What the drills run: the same start-up, views and commands as the scripts, on a home and a venue of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from config.loader import load_settings
from config.settings_schema import Settings
from config.strategy_params import StrategyParams, load_strategy_params
from core.domain import Mode
from core.env import Endpoints, Keys
from core.errors import StateCorrupt
from core.market_calendar import MarketCalendar, market_calendar
from execution.drill.ports import Opened, Place
from scripts import checks, trading, wiring

if TYPE_CHECKING:
    from execution.desk import Desk
    from execution.entry import Sizer
    from execution.ledger import Ledger
    from execution.reconcile import Break

_KEYS = Keys(alpaca_id="drill", alpaca_secret="drill")


@dataclass(frozen=True)
class DrillPorts:
    """execution.drill.ports.Ports, composed from scripts.trading and scripts.wiring."""

    settings: Settings = field(default_factory=load_settings)
    calendar: MarketCalendar = field(default_factory=market_calendar)
    params: StrategyParams = field(default_factory=load_strategy_params)

    def context(self, place: Place) -> wiring.Context:
        return wiring.Context(
            home=place.home, settings=place.settings, params=self.params, clock=place.clock, calendar=self.calendar,
            mode=Mode.PAPER, keys=_KEYS, run_id="drill",
            endpoints=Endpoints(alpaca=place.url, alpaca_data=place.url, polygon="", anthropic="", at_alpaca=False),
        )  # fmt: skip

    def warm(self) -> None:
        """Import what a desk with its broker imports at the first use."""
        from core.clock import SystemClock
        from execution.admission import NothingSent
        from risk.kill_switch import KillSwitch

        with tempfile.TemporaryDirectory(prefix="kobe-drill-") as folder:
            place = Place(Path(folder), "http://127.0.0.1:1", SystemClock(), self.settings)
            switch = KillSwitch(place.home.kill_switch)
            wiring.open_broker(self.context(place), halt=switch, admission=NothingSent())

    def open_runner(self, place: Place) -> Opened:
        context = self.context(place)
        desk, halts = trading.open_runners_desk(context)

        def check() -> None:
            trading.require(trading.startup_checks(context, desk, halts))
            checks.allow_start(context, desk, halts)

        return Opened(desk, check, halts.look)

    def open_script(self, place: Place, name: str) -> Desk:
        context = self.context(place)
        if name in ("close_all", "cancel_all"):
            desk, damage = trading.open_emergency_desk(context)
            if damage is not None:
                raise damage
            return desk
        return trading.open_desk(context)

    def sizer(self, place: Place) -> Sizer:
        from portfolio.sizing import shares

        cap, risk = place.settings.risk.policy_gate.per_order_max_usd, place.settings.sizing.risk_per_trade_usd

        def size(price: Decimal, stop: Decimal, room: Decimal, scale: Decimal) -> tuple[int, str | None]:
            return shares(price, stop, cap, max(room, Decimal(0)), risk, scale)

        return size

    def views(self, place: Place) -> Callable[[Ledger, date], None]:
        return trading.view_writer(self.context(place))

    def reconcile(self, place: Place, desk: Desk) -> Sequence[Break]:
        from execution.evidence import look
        from execution.reconcile import record_breaks

        found, _, _ = look(desk.broker, None, desk.ledger, desk.clock)
        record_breaks(desk.journal, found, desk.ledger())
        return found

    def force_sync(self, place: Place, desk: Desk) -> None:
        from execution.sync import force_sync

        context = self.context(place)
        force_sync(desk, None, reason="drill")
        trading.view_writer(context)(desk.ledger(), context.clock.now().date())

    def unlock(self, desk: Desk, symbol: str) -> None:
        desk.journal.append("symbol_unlocked", {"symbol": symbol, "code": "OPERATOR", "reason": "drill"})

    def damaged(self, place: Place) -> Sequence[str]:
        from execution.reconcile import view_breaks
        from portfolio.state_manager import StateManager

        context = self.context(place)
        manager = StateManager(context.home, context.clock)
        try:
            for name in ("positions", "weekly_budget"):
                manager.read(name)
            ledger = trading.open_desk(context).ledger()
        except StateCorrupt as error:
            return [f"{error.code}: {error}"]
        return [f"{b.symbol}: journal {b.ours}, {b.theirs}" for b in view_breaks(ledger, manager.get_positions())]
