"""The embedded venue as a thing to start and stop: uvicorn in a daemon thread, on the loopback interface only."""

from __future__ import annotations

import os
import socket
import threading
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.clock import Clock
from core.errors import ConfigError
from core.market.base import Fills, Market
from core.market_calendar import MarketCalendar
from execution.venue.account import VenueMeta as VenueMeta
from execution.venue.account import read_meta as read_meta

if TYPE_CHECKING:
    from execution.venue.anthropic_model import SimulatedModel
    from execution.venue.faults import FaultPlan

_HOST = "127.0.0.1"
_STOP_S = 5.0


class EmbeddedVenue:
    """A venue over one market and one account file.

    `calendar` must be the exchange calendar the market's sessions come from. `spread_bps` is the whole spread and
    counts in the `path` fill model only. `port` 0 takes a free one.
    """

    def __init__(
        self,
        market: Market,
        clock: Clock,
        db_path: Path,
        *,
        calendar: MarketCalendar | None = None,
        fills: str = "path",
        starting_cash: Decimal = Decimal(100_000),
        spread_bps: float = 4.0,
        port: int = 0,
        faults: FaultPlan | None = None,
    ) -> None:
        self._market, self._clock, self._db_path = market, clock, db_path
        self._calendar, self._fills, self._cash = calendar, Fills(fills), starting_cash
        self._spread_bps, self._port, self._faults = spread_bps, port, faults
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._store: Any = None
        self._app: Any = None
        self.base_url = ""

    @property
    def failures(self) -> list[str]:
        """Tracebacks of requests that ended in a 500 through a mistake of the venue's own."""
        return list(self._app.state.failures) if self._app is not None else []

    @property
    def model(self) -> SimulatedModel:
        """The language model, with what it would bill. Once started."""
        found: SimulatedModel = self._app.state.model
        return found

    def start(self) -> str:
        """Open the account, listen, and return the base URL. Raises ConfigError when the port is taken."""
        import uvicorn

        from core.market_calendar import market_calendar
        from execution.venue.account import AccountStore
        from execution.venue.app import create_app
        from execution.venue.faults import with_faults
        from execution.venue.matching import Engine

        listener = listening(self._port)
        store = AccountStore(self._db_path)
        calendar = self._calendar or market_calendar()
        engine = Engine(self._market, calendar, self._clock, store, self._fills, self._spread_bps)
        with store.transaction():
            engine.begin(self._cash, self._market.spec)
        self._store, self._app = store, create_app(engine, store)
        config = uvicorn.Config(
            with_faults(self._app, self._faults, engine), log_config=None, log_level="critical", access_log=False,
            lifespan="off", timeout_graceful_shutdown=1, timeout_keep_alive=3600, server_header=False,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="kobe-venue", daemon=True
        )
        self._thread.start()
        self.base_url = f"http://{_HOST}:{listener.getsockname()[1]}"
        return self.base_url

    def stop(self) -> None:
        """End the server and close the account file; safe to call twice."""
        if self._thread is not None and self._server is not None:
            self._server.should_exit = True
            self._thread.join(_STOP_S)
            if not self._thread.is_alive() and self._store is not None:
                self._store.close()
        self._thread = self._server = self._store = None


def listening(port: int) -> socket.socket:
    """A socket on the loopback interface that clients may connect to from now on; `port` 0 takes a free one."""
    # The protocol is named because asyncio sets TCP_NODELAY only then; without it each answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name != "nt":  # on Windows it would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"port {port} cannot be used: {error.strerror}", code="PORT_IN_USE") from error
    listener.listen(128)  # from here on clients may connect; they wait for the thread to pick them up
    return listener
