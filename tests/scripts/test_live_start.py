"""Live from the first preflight to the first share, against a broker on loopback: armed, on a rung, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from config.loader import load_settings
from config.pin import compute_pin
from core import cli
from core.clock import SteppedClock
from core.domain import Symbol
from core.errors import Exit
from core.journal import Journal
from core.market_calendar import market_calendar
from execution.admission import JournalWatch
from execution.alerting import write_memory
from execution.arming import Armed
from execution.entry import EntryLocks
from execution.ladder import Rung
from execution.observe import alert_memory
from execution.observe.alerts import Severity
from risk.runaway import Bounds
from scripts import arming_live, ladder, preflight_live, runner
from scripts.arming_live import EntryWatch
from tests.fakes.grounds import a_context
from tests.fakes.live_homes import HEADERS, LiveHome, live_home
from tests.fakes.runners import ny


@pytest.fixture
def here(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveHome]:
    with live_home(own_home, tmp_path, monkeypatch) as made:
        yield made


def preflight(mode: str = "live") -> Exit | int:
    return cli.run(lambda: preflight_live.main(["--mode", mode, "--json"]))


def once(*more: str) -> Exit | int:
    return cli.run(lambda: runner.main(["--mode", "live", "--once", "--json", *more]))


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def refused(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The code of the one line that the runner ends with; nothing was sent."""
    capsys.readouterr()
    assert once(*more) == Exit.CONFIG
    line = capsys.readouterr().err
    assert line.startswith("kobe: ") and line.count("\n") == 1
    return line.split(":")[1].strip()


def test_the_whole_way_from_nothing_to_the_first_share(here: LiveHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys) == "LIVE_NOT_ARMED" and not here.home.journal.exists()

    # On the lowest rung the preflight fails, for that reason alone.
    assert preflight() == Exit.NO
    report = said(capsys)
    assert [row["name"] for row in report["checks"] if row["state"] == "FAIL"] == ["ladder"], report
    assert refused(capsys) == "LIVE_NOT_ARMED"

    # Shadow: everything is decided and written down, nothing leaves.
    here.climb("shadow")
    assert preflight() == Exit.OK
    assert said(capsys)["may_open"] is True
    arms = here.bodies("preflight_passed")[-1]
    assert arms["by"] == "preflight_live" and set(arms["items"]) == {
        "code",
        "config",
        "frozen_params",
        "model",
        "universe",
    }
    assert once() == Exit.OK
    intents = said(capsys)["intents"]
    assert [(i["verdict"], i["codes"]) for i in intents] == [("approved", ["SHADOW_LIVE"])]
    assert [body["quantity"] for body in here.bodies("order_intended")] == [3]
    assert "order_acknowledged" not in here.kinds()
    assert [body["code"] for body in here.bodies("order_not_sent")] == ["SHADOW_LIVE"]
    assert here.posted() == []

    # One share: the ladder is climbed by what this home has shown.
    assert cli.run(lambda: ladder.main(["advance", "--json"])) == Exit.OK
    assert said(capsys)["rung"] == "one_share"
    assert once() == Exit.OK
    bought = [order for order in here.posted() if order["side"] == "buy"]
    assert [(order["qty"], order["filled_qty"]) for order in bought] == [("1", "1")]
    assert {order["qty"] for order in here.posted()} == {"1"}, "its stop too"

    # And back: not while something is held, which nobody would look after.
    assert cli.run(lambda: ladder.main(["back", "--reason", "enough for today"])) == Exit.CONFIG
    assert "LADDER_HOLDING" in capsys.readouterr().err


def test_at_the_full_rung_the_same_pick_buys_what_the_budget_buys(
    here: LiveHome, capsys: pytest.CaptureFixture[str]
) -> None:
    here.climb("full")
    assert preflight() == Exit.OK
    assert once() == Exit.OK
    assert max(int(order["qty"]) for order in here.posted()) > 1


def test_without_the_door_the_shadow_would_have_sent(here: LiveHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is a good one: only the door keeps it."""
    from scripts import trading

    monkeypatch.setattr(trading, "_runners_door", lambda context, watch: trading._door(context, watch))
    here.climb("shadow")
    assert preflight() == Exit.OK
    once()
    assert here.posted() != []


def test_a_pass_holds_for_this_config_only(here: LiveHome, capsys: pytest.CaptureFixture[str]) -> None:
    here.climb("shadow")
    assert preflight() == Exit.OK
    here.edit("position_limit: 10 ", "position_limit: 9 ")
    assert refused(capsys) == "ARMING_CONFIG_CHANGED"
    here.pin()
    assert refused(capsys) == "ARMING_CONFIG_CHANGED", "a new pin is no new preflight"
    assert preflight() == Exit.OK
    assert once() == Exit.OK


def test_a_pass_holds_for_this_build_only(
    here: LiveHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here.climb("shadow")
    assert preflight() == Exit.OK
    monkeypatch.setattr("config.pin.code_sha256", lambda root=None: "0" * 64)
    assert refused(capsys) == "ARMING_BUILD_CHANGED"


def test_a_pass_holds_for_this_account_only(
    here: LiveHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from execution.alpaca_broker import AlpacaBroker

    here.climb("shadow")
    assert preflight() == Exit.OK
    real = AlpacaBroker.account
    monkeypatch.setattr(AlpacaBroker, "account", lambda self: replace(real(self), id="another", number="99999999"))
    assert refused(capsys) == "ARMING_ACCOUNT_CHANGED"
    assert "account_bound" not in here.kinds(), "refused before the journal was given to that account"


def test_a_halt_after_the_pass_wants_another(here: LiveHome, capsys: pytest.CaptureFixture[str]) -> None:
    here.climb("shadow")
    assert preflight() == Exit.OK
    here.journal().append("trading_halted", {"code": "KILL_SWITCH", "why": "test"})
    assert refused(capsys) == "ARMING_HALTED"


def test_armed_live_takes_no_option_of_paper(here: LiveHome, capsys: pytest.CaptureFixture[str]) -> None:
    here.climb("full")
    assert preflight() == Exit.OK
    paper = (["--as-of", "2024-03-04"], ["--allow-dirty"], ["--bars", "x"], ["--replay", "2024-03-04:2024-03-05"])
    for more in paper:
        capsys.readouterr()
        assert once(*more) == Exit.USAGE
        assert "kobe: PAPER_ONLY: " in capsys.readouterr().err and here.posted() == []


def test_another_universe_than_the_pinned_one_is_refused(
    here: LiveHome, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    here.climb("full")
    assert preflight() == Exit.OK
    other = tmp_path / "other.csv"
    other.write_text("symbol\nIBS1\n", encoding="utf-8")
    assert refused(capsys, "--universe", str(other)) == "UNIVERSE_NOT_PINNED"


def test_on_paper_the_live_preflight_arms_nothing(here: LiveHome, capsys: pytest.CaptureFixture[str]) -> None:
    here.climb("full")
    assert preflight("paper") == Exit.OK
    names = {row["name"] for row in said(capsys)["checks"]}
    assert "ladder" not in names and {"bars", "kill_switch", "in_step", "ioc"} <= names
    assert refused(capsys) == "LIVE_NOT_ARMED"


@pytest.mark.parametrize(
    ("was", "now", "check"),
    [
        ("watchdog:                         #", None, "watchdog"),
        ("  preflight:\n    required: true", "  preflight:\n    required: false", "preflight_required"),
        ("on_unknown: warn", "on_unknown: refuse", "earnings"),
    ],
)  # fmt: skip
def test_what_live_wants_of_the_settings(
    here: LiveHome, capsys: pytest.CaptureFixture[str], was: str, now: str | None, check: str
) -> None:
    here.climb("full")
    if now is None:
        here.edit("  enabled: true                   # it halts", "  enabled: false                  # it halts")
    else:
        here.edit(was, now)
    here.pin()
    assert preflight() == Exit.NO
    assert [row["name"] for row in said(capsys)["checks"] if row["state"] == "FAIL"] == [check]
    assert refused(capsys) == "LIVE_NOT_ARMED"


def test_the_runner_that_lives_on_says_on_which_rung_and_sends_nothing_from_the_shadow(
    here: LiveHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripts import watching
    from scripts.alarm import Alarm

    class AfterThreeTicks(threading.Event):
        ticks = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.ticks += 1
            if self.ticks == 3:
                self.set()
            return self.is_set()

    here.climb("shadow")
    assert preflight() == Exit.OK
    monkeypatch.setattr(watching, "stop_on_signals", AfterThreeTicks)
    for child in (watching.Guard, Alarm):  # each would be a process of its own
        monkeypatch.setattr(child, "look", lambda self: None)
    capsys.readouterr()
    assert cli.run(lambda: runner.main(["--mode", "live", "--no-sidecar", "--no-alerts"])) == Exit.OK
    said = capsys.readouterr().out
    assert "REAL MONEY: rung shadow: orders are decided and written down, none is sent" in said
    assert said.startswith("mode live | broker alpaca") and "runner ended" in said
    assert [body["code"] for body in here.bodies("order_not_sent")] == ["SHADOW_LIVE"] and here.posted() == []
    assert here.bodies("scan_run")[0]["run"] == "2024-03-05T09:35"


# ---------------------------------------------------------------- something is held
def passed(here: LiveHome) -> None:
    """The record of a live preflight that passed now; what it looks at is tested elsewhere."""
    account = requests.get(f"{here.url}/v2/account", headers=HEADERS, timeout=10).json()
    facts = {"items": compute_pin(), "account_id": account["id"]}
    here.journal().append("preflight_passed", {"by": "preflight_live", "mode": "live", "checks": [], **facts})


def an_unread_alert(here: LiveHome) -> Path:
    now = here.clock.now()
    entry = alert_memory.Entry(name="JOURNAL_DAMAGED", severity=Severity.CRITICAL, since=now, raised_at=now)
    file = here.home.state / alert_memory.FILE
    write_memory(file, alert_memory.Memory(began_at=now, looked_at=now, entries={entry.name: entry}))
    return file


def a_share_without_its_stop(here: LiveHome) -> int:
    """One share is held, and its stop is gone at the broker. How many buys there were."""
    here.climb("one_share")
    passed(here)
    assert once() == Exit.OK
    (stop,) = [order for order in here.posted() if order["side"] == "sell"]
    assert requests.delete(f"{here.url}/v2/orders/{stop['id']}", headers=HEADERS, timeout=10).status_code == 204
    return len([order for order in here.posted() if order["side"] == "buy"])


def working_stops(here: LiveHome) -> int:
    ended = ("canceled", "filled", "expired", "rejected", "replaced")
    return len([o for o in here.posted() if o["side"] == "sell" and o["status"] not in ended])


@pytest.mark.parametrize("why", ["ALERT_UNACKNOWLEDGED", "ALERTS_UNREADABLE", "ARMING_STALE"])
def test_O14_what_is_held_is_looked_after_without_entries_until_another_pass(
    here: LiveHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    bought = a_share_without_its_stop(here)
    assert working_stops(here) == 0
    if why == "ARMING_STALE":
        monkeypatch.setattr(arming_live, "_max_age", lambda settings: timedelta(seconds=-1))
    elif why == "ALERT_UNACKNOWLEDGED":
        an_unread_alert(here)
    else:
        an_unread_alert(here).write_text("{", encoding="utf-8")
    capsys.readouterr()
    assert cli.run(lambda: runner.main(["--mode", "live", "--once"])) == Exit.OK
    assert f"2024-03-05T09:35  {why}  " in capsys.readouterr().out, "the scan says why nothing was entered"
    assert working_stops(here) == 1, "the stop is back"
    assert [b["code"] for b in here.bodies("entries_withheld")] == [why], "told once, in the journal"
    assert here.bodies("scan_run")[-1]["code"] == why
    assert len([order for order in here.posted() if order["side"] == "buy"]) == bought


def test_O14_with_nothing_held_a_start_is_refused_as_ever(here: LiveHome, capsys: pytest.CaptureFixture[str]) -> None:
    here.climb("one_share")
    passed(here)
    an_unread_alert(here)
    assert refused(capsys) == "ALERT_UNACKNOWLEDGED" and here.bodies("entries_withheld") == []


def test_O06_a_runner_that_lives_on_wants_a_pass_for_each_session(here: LiveHome, tmp_path: Path) -> None:
    """Tuesday's pass does not buy on Wednesday: told once, until a preflight passes."""
    clock = SteppedClock(ny("08:30"))
    journal = Journal(tmp_path / "chain.jsonl", clock)
    facts = {"by": "preflight_live", "mode": "live", "checks": [], "items": {"code": "c"}, "account_id": "a"}
    journal.append("preflight_passed", facts)
    settings, context = load_settings(), a_context(here.home.root, calendar=market_calendar())
    context.clock = clock
    watch = EntryWatch(
        context, JournalWatch(journal, Bounds.from_settings(settings)), journal, Armed(1, Rung.FULL, "a", {"code": "c"})
    )
    told = lambda: [(r.kind, r.body["code"]) for r in journal.records() if r.kind.startswith("entries")]  # noqa: E731
    locked = EntryLocks(symbols={Symbol("A"): "BREAKER"})
    for wall in ("09:35", "15:55"):
        clock.set(ny(wall))
        assert watch.locks(locked) is locked and told() == []
    clock.set(ny("09:35", date(2024, 3, 6)))
    for _ in range(2):
        found = watch.locks(locked)
        assert found.everything == "ARMING_STALE" and found.symbols == locked.symbols
    assert watch.code() == "ARMING_STALE" and told() == [("entries_withheld", "ARMING_STALE")]
    journal.append("preflight_passed", facts)
    assert watch.locks(locked) is locked
    assert told()[1:] == [("entries_allowed", "OK")]
    (tmp_path / "chain.jsonl").write_text("{}\n", encoding="utf-8")
    assert watch.locks(EntryLocks()).everything not in (None, ""), "a journal that cannot be read is no permission"
