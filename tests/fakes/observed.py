"""A home as a runner leaves it, written record by record, and an observer of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from config.settings_schema import Settings
from core.clock import SteppedClock
from core.domain import OrderKind, Purpose, Side, Tif
from core.journal import Journal
from core.paths import Home
from execution.heartbeat import Heartbeat
from execution.ledger import intent_body
from execution.observe.facts import Facts
from execution.observe.observer import Observer, Watched
from execution.observe.readiness import Readiness, readiness
from execution.sidecar import Rules, Source
from tests.fakes.runners import TUESDAY, ny
from tests.fakes.scans import calendar_2024
from tests.fakes.trading import entry, sell

STALLED_AFTER_S = 4.0
TIMES = ("09:35", "10:30", "15:55")
SETTINGS = Settings()
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@dataclass
class Observed:
    """`clock` is the world's and the observer's."""

    root: Path
    clock: SteppedClock
    mode: str = "paper"
    simulated: bool = True
    settings: Settings = SETTINGS
    home: Home = field(init=False)
    journal: Journal = field(init=False)
    beat: Heartbeat = field(init=False)

    def __post_init__(self) -> None:
        self.home = Home(self.root)
        self.home.state.mkdir(parents=True, exist_ok=True)
        self.home.logs.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(self.home.journal, self.clock)
        self.beat = Heartbeat(self.home.state / "runner.json", self.clock)

    # ------------------------------------------------------------ what the runner writes
    def alive(self, doing: str = "waiting for 2024-03-05T10:30 New York") -> None:
        self.beat(doing)
        self.beat.watched_by("token")

    def bind(self, mode: str = "paper") -> None:
        self.journal.append("account_bound", {"id": "account-1", "number": "PA3SECRETX", "mode": mode})

    def done(self, run: str, code: str = "OK", *, breaks: int = 0, equity: str | None = "100000") -> None:
        self.journal.append("scan_run", {
            "run": run, "code": code, "intents": 0, "breaks": breaks, "snapshot_sha256": None, "data_source": "x",
            "equity_usd": equity,
        })  # fmt: skip

    def buy(self, symbol: str = "AAA", *, filled: int = 1, quantity: int = 1, price: str = "50.05") -> str:
        """An entry, its answer, its end; the decision id."""
        intent = entry(symbol, quantity=quantity, at=self.clock.now())
        told = {"client_order_id": intent.client_order_id, "decision_id": intent.decision_id, "symbol": symbol}
        self.journal.append("order_intended", intent_body(intent))
        self.clock.advance(timedelta(milliseconds=40))
        self.journal.append("order_acknowledged", {**told, "order_id": "o1", "status": "new"})
        if filled:
            at = self.clock.now().isoformat()
            self.journal.append("order_filled", {**told, "quantity": filled, "price": price, "at": at, "late": False})
        status = {"status": "filled" if filled == quantity else "canceled", "broker_status": "x"}
        filled_price = price if filled else None
        self.journal.append("order_closed", {
            **told, **status, "filled_quantity": filled, "filled_price": filled_price})  # fmt: skip
        return intent.decision_id

    def protect(self, symbol: str = "AAA", quantity: int = 1) -> None:
        intent = replace(
            entry(symbol, quantity=quantity, at=self.clock.now()), side=Side.SELL, purpose=Purpose.PROTECT,
            kind=OrderKind.STOP, tif=Tif.GTC, limit_price=None, stop_price=Decimal("45.00"),
        )  # fmt: skip
        told = {"client_order_id": intent.client_order_id, "decision_id": intent.decision_id, "symbol": symbol}
        self.journal.append("order_intended", intent_body(intent))
        self.journal.append("order_acknowledged", {**told, "order_id": "o2", "status": "new"})

    def sell(self, symbol: str = "AAA", *, quantity: int = 1, price: str = "51.00") -> None:
        intent = sell(symbol, quantity=quantity)
        told = {"client_order_id": intent.client_order_id, "decision_id": intent.decision_id, "symbol": symbol}
        self.journal.append("order_intended", intent_body(intent))
        self.journal.append("order_acknowledged", {**told, "order_id": "o3", "status": "new"})
        at = self.clock.now().isoformat()
        self.journal.append("order_filled", {**told, "quantity": quantity, "price": price, "at": at, "late": False})
        self.journal.append("order_closed", {
            **told, "status": "filled", "broker_status": "filled", "filled_quantity": quantity, "filled_price": price,
        })  # fmt: skip
        self.journal.append("trade_closed", {
            "decision_id": intent.decision_id, "symbol": symbol, "quantity": quantity, "entry_price": "50.05",
            "exit_price": price, "reason": "time",
        })  # fmt: skip

    def log(self, file: str, event: str, **facts: Any) -> None:
        row = {"at": self.clock.now().isoformat(), "event": event, **facts}
        self.append(self.home.logs / file, json.dumps(row) + "\n")

    def scanned(self, *picks: Mapping[str, Any], run: str = "2024-03-05T09:35", **changes: Any) -> None:
        row = {
            "kind": "scan", "run": run, "at": self.clock.now().isoformat(), "session": "2024-03-04", "source": "real",
            "simulated": False, "snapshot_sha256": "ab" * 32, "vix": 15.5, "off": [], "refused": {"NO_SETUP": 199},
            "picks": list(picks), **changes,
        }  # fmt: skip
        self.append(self.home.logs / "inputs" / f"{run[:10]}.jsonl", json.dumps(row) + "\n")

    def quoted(self, decision_id: str, *, seq: int, bid: str = "49.99", ask: str = "50.01", last: str = "50.00",
               kind: str = "quote") -> None:  # fmt: skip
        quote = {"symbol": "AAA", "at": self.clock.now().isoformat(), "bid": bid, "ask": ask, "last": last}
        row = {"kind": kind, "run": "r", "at": self.clock.now().isoformat(), "decision_id": decision_id, "seq": seq,
               "quote": quote}  # fmt: skip
        self.append(self.home.logs / "inputs" / f"{TUESDAY.isoformat()}.jsonl", json.dumps(row) + "\n")

    def alert(self, name: str, severity: str = "warning", **changes: Any) -> dict[str, Any]:
        """An entry of state/alerts.json, as execution.observe.alert_memory writes it."""
        from execution.observe.alert_memory import Entry, Memory, to_document
        from execution.observe.alerts import Severity

        now = self.clock.now()
        entry = Entry(name=name, severity=Severity(severity), since=now, raised_at=now, words=f"words of {name}",
                      action=f"cure of {name}", **changes)  # fmt: skip
        return dict(to_document(Memory(began_at=now, looked_at=now, entries={name: entry}))["entries"][0])

    def alerts(self, *entries: dict[str, Any]) -> None:
        document = {"schema_version": 1, "entries": list(entries)}
        (self.home.state / "alerts.json").write_text(json.dumps(document))

    def append(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)

    # ------------------------------------------------------------ what is seen
    def observer(self, **changes: Any) -> Observer:
        values: dict[str, Any] = {
            "home": self.home, "settings": self.settings, "clock": self.clock, "calendar": calendar_2024(),
            "mode": self.mode, "broker": "embedded venue", "simulated": self.simulated, "scan_times": TIMES,
        }  # fmt: skip
        return Observer(Watched(**{**values, **changes}))

    def look(self) -> Facts:
        return self.observer().look()

    def ready(self) -> Readiness:
        return readiness(self.look(), stalled_after_s=STALLED_AFTER_S)

    def stops(self) -> list[str]:
        return [reason.code for reason in self.ready().stops]

    def warnings(self) -> list[str]:
        return [reason.code for reason in self.ready().warnings]

    def source(self) -> Source:
        observer = self.observer()
        return Source(observer.look, self.clock, STALLED_AFTER_S, observer.alerts)


def a_pick(decision_id: str, symbol: str = "AAA", **changes: Any) -> dict[str, Any]:
    return {
        "decision_id": decision_id, "symbol": symbol, "strategy": "ibs_rsi", "score": 61.25, "close": 50.0,
        "stop": 45.0, "target": None, "reasons": ["STRENGTH_40.0", "MODEL_ABSENT"], **changes,
    }  # fmt: skip


def at_ten(root: Path, **changes: Any) -> Observed:
    """Tuesday 10:00 New York: the first scan is done, the runner waits for the second, one position is protected."""
    made = Observed(root, SteppedClock(ny("09:35")), **changes)
    made.bind(made.mode)
    decision_id = made.buy("AAA")
    made.protect("AAA")
    made.scanned(a_pick(decision_id))
    made.done("2024-03-05T09:35")
    made.log("events.jsonl", "scan_run", code="OK")
    made.clock.set(ny("10:00"))
    made.alive()
    return made


def rules(**changes: Any) -> Rules:
    values: dict[str, Any] = {
        "host": "127.0.0.1", "port": 8080, "allowed_hosts": (), "token": None, "metrics_per_minute": 60,
        "connections_max": 64, "stalled_after_s": STALLED_AFTER_S,
    }  # fmt: skip
    return Rules(**{**values, **changes})


def hostile(root: Path) -> Observed:
    """Symbols, reject texts, reasons and errors as an attacker would write them."""
    made = at_ten(root)
    made.journal.append("symbol_locked", {"symbol": EVIL, "code": EVIL})
    made.journal.append(
        "break_found",
        {"symbol": EVIL, "kind": "POSITION_QUANTITY", "cause": EVIL, "ours": EVIL, "theirs": EVIL, "proposal": EVIL},
    )
    made.journal.append("run_failed", {"run": "2024-03-05T10:30", "code": EVIL, "detail": EVIL})
    made.journal.append("scan_run", {"run": "2024-03-05T09:35", "code": EVIL, "breaks": 1, "equity_usd": "100000"})
    made.scanned(
        a_pick(EVIL, symbol=EVIL, strategy=EVIL, reasons=[EVIL]), source=EVIL, refused={EVIL: 3}, off=[EVIL],
        snapshot_sha256=EVIL,
    )  # fmt: skip
    made.log("errors.jsonl", EVIL, code=EVIL, detail=f"LLM said: {EVIL}\r\nSet-Cookie: a=b \u202e\x1b[2J")
    stats = {"success": 1, "failure": 1, "kinds": {}, "days": {}, "last_error": EVIL}
    document = {"schema_version": 1, "providers": {EVIL: stats, 'a"\n}evil 1': stats}}
    (made.home.state / "provider_stats.json").write_text(json.dumps(document))
    made.alerts({**made.alert("x"), "name": EVIL, "words": EVIL, "action": EVIL, "severity": EVIL})
    made.beat(f"running {EVIL}")
    return made
