"""What the operator does in a hurry: liquidate while halted, forget a flag, remove the switch too early, be two."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.clock import SystemClock
from core.domain import Mode
from core.errors import AlreadyRunning, Exit, NotConfirmed, StateLocked, TradingHalted
from core.journal import Journal
from execution.desk import Halted
from execution.ledger import intent_body
from execution.operator_lock import operator_action
from scripts import cancel_all, checks, close_all_positions, preflight, reconcile_alpaca, trading
from tests.fakes.emergencies import Place, place
from tests.fakes.trading import NOW, book, entry

ROOT = Path(__file__).resolve().parents[2]
CLOCK = SystemClock()


@pytest.fixture
def here(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with place(own_home, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("execution.emergency._WAIT_S", 0.05)


# ---------------------------------------------------------------- O01
def test_O01_close_all_sells_everything_while_halted_through_its_own_audited_door(here: Place) -> None:
    here.buy("AAA", 2)
    here.rest("BBB")
    here.switch.touch()
    assert close_all_positions.main(["--confirm", "--json"]) == Exit.OK
    assert here.held() == {} and here.open_ids() == []
    opened, ended = here.bodies("operator_close_opened"), here.bodies("operator_close_ended")
    assert len(opened) == len(ended) == 1 and opened[0]["run"] == ended[0]["run"]
    assert {"user", "host", "pid", "since", "what"} <= set(opened[0]) and opened[0]["pid"] == os.getpid()
    kinds = here.kinds()
    inside = kinds[kinds.index("operator_close_opened") : kinds.index("operator_close_ended")]
    assert "order_intended" in inside and "cancel_requested" in inside


def test_O01_nothing_else_is_sent_while_halted_before_during_and_after(here: Place) -> None:
    here.buy("AAA")
    here.switch.touch()

    def tries(desk: Any) -> Any:
        return desk.send(entry("BBB", at=desk.clock.now()), book("BBB", marks={}, now=desk.clock.now()))

    blocked = [tries(here.desk())]
    desk, damage = trading.open_emergency_desk(here.context())
    assert damage is None
    blocked.append(tries(desk))
    assert close_all_positions.main(["--confirm"]) == Exit.OK
    blocked.append(tries(here.desk()))
    assert not any(type(outcome).__name__ == "Acknowledged" for outcome in blocked)
    assert isinstance(blocked[-1], Halted) and here.held() == {} and here.open_ids() == []


def test_O01_cancel_all_works_while_halted(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    here.buy("AAA")
    here.rest("BBB")
    here.switch.mkdir()
    assert cancel_all.main([]) == Exit.OK
    assert here.open_ids() == [] and here.held() == {"AAA": 1}
    assert "cancelled 2, still open 0" in capsys.readouterr().out


def test_O01_a_switch_in_another_form_keeps_no_liquidation_from_the_operator(here: Place) -> None:
    here.buy("AAA")
    here.switch.symlink_to("nowhere")
    assert close_all_positions.main(["--confirm"]) == Exit.OK and here.held() == {}


def test_O01_a_journal_locked_by_a_process_that_stands_still_keeps_nobody_from_liquidating(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.buy("AAA")
    here.switch.touch()
    real = Journal.repair

    def held(self: Journal) -> None:
        if self.path.name == "hash_chain.jsonl":
            raise StateLocked("hash_chain.jsonl has been locked by another process for 10 s")
        real(self)

    monkeypatch.setattr(Journal, "repair", held)
    with pytest.raises(StateLocked):  # told at the end, when everything is done
        close_all_positions.main(["--confirm"])
    assert here.held() == {}
    aside = (here.home / "state" / "emergency_chain.jsonl").read_text().splitlines()
    kinds = {json.loads(line)["kind"] for line in aside}
    assert {"operator_close_opened", "order_intended", "operator_close_ended"} <= kinds


# ---------------------------------------------------------------- O02
def test_O02_without_confirm_a_table_is_shown_and_nothing_is_sent(
    here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    here.buy("AAA", 2)
    with pytest.raises(NotConfirmed) as caught:
        close_all_positions.main([])
    assert caught.value.exit_code == Exit.NOT_CONFIRMED and re.search(r"AAA\s+2", capsys.readouterr().out)
    assert here.held() == {"AAA": 2} and "operator_close_opened" not in here.kinds()


def test_O02_the_runbooks_line_works_in_a_script_without_a_terminal_on_paper(here: Place) -> None:
    here.buy("AAA")
    command = [sys.executable, "scripts/close_all_positions.py", "--confirm"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "flat" in done.stdout, done.stderr
    assert here.held() == {}


class Terminal(io.StringIO):
    def __init__(self, typed: str, *, tty: bool) -> None:
        super().__init__(typed)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


NUMBER = "123456789"


@pytest.mark.parametrize(
    ("mode", "tail", "typed", "tty", "sells"),
    [
        (Mode.PAPER, None, "", False, True),
        (Mode.PAPER, "6789", "", False, True),
        (Mode.PAPER, "0000", "", False, False),
        (Mode.LIVE, None, "", False, False),
        (Mode.LIVE, None, "6789\n", False, False),  # something is piped in: nobody was asked
        (Mode.LIVE, None, "6789\n", True, True),
        (Mode.LIVE, None, "6788\n", True, False),
        (Mode.LIVE, None, "", True, False),  # end of file
        (Mode.LIVE, "6789", "", False, True),
        (Mode.LIVE, "", "", False, False),
        (Mode.LIVE, NUMBER, "", False, False),
    ],
)
def test_O02_a_live_account_is_sold_only_by_who_names_its_tail(
    mode: Mode, tail: str | None, typed: str, tty: bool, sells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed, tty=tty))
    try:
        close_all_positions.require_account(mode, NUMBER, tail)
        assert sells
    except NotConfirmed as error:
        assert not sells and error.exit_code == Exit.NOT_CONFIRMED and error.code == "ACCOUNT_NOT_CONFIRMED"


# ---------------------------------------------------------------- O04
def states(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    return {row["name"]: row["state"] for row in report["checks"]} | {"exit": report["exit"]}


def test_O04_while_halted_all_says_expected_with_its_own_code_and_cognitive_fails(
    here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    here.buy("AAA")
    here.switch.touch()
    assert preflight.main(["--all", "--json"]) == Exit.WOULD_PASS == 43
    assert states(capsys)["kill_switch"] == "EXPECTED"
    assert preflight.main(["--cognitive", "--json"]) == Exit.NO
    assert states(capsys)["kill_switch"] == "FAIL"
    assert "preflight_passed" not in here.kinds()
    here.switch.unlink()
    assert preflight.main(["--cognitive", "--json"]) == Exit.OK
    assert states(capsys)["recorded"] == "ok" and here.kinds()[-1] == "preflight_passed"


def test_O04_while_halted_another_failing_check_is_a_failure_and_no_expectation(
    here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    here.buy("AAA")
    here.outside("BBB")
    here.switch.touch()
    assert preflight.main(["--all", "--json"]) == Exit.NO
    found = states(capsys)
    assert found["in_step"] == "FAIL" and found["kill_switch"] == "FAIL"


def test_O04_a_switch_removed_before_the_reconcile_lets_no_runner_start(here: Place) -> None:
    here.buy("AAA")
    context = here.context()
    _, halts = trading.open_runners_desk(context)
    here.switch.touch()
    halts.look()  # a living runner has seen it; then the machine goes down
    here.outside("BBB")
    here.switch.unlink()  # the operator removes it first, and starts the runner
    context = here.context()
    with pytest.raises(TradingHalted) as caught:
        checks.allow_start(context, *trading.open_runners_desk(context))
    assert caught.value.code == "RESUME_REFUSED" and "in_step" in str(caught.value)
    assert preflight.main(["--cognitive"]) == Exit.NO
    reconcile_alpaca.main(["--force-sync", "--reason", "test"])
    found = checks.allow_start(context, *trading.open_runners_desk(context))
    assert [f.problem for f in found] == [None] * len(checks.OF_A_RESUME) + [None]
    assert here.kinds()[-2:] == ["preflight_passed", "trading_resumed"]
    assert checks.allow_start(context, *trading.open_runners_desk(context)) == [], "and it is asked once"


def test_O04_a_runner_refused_because_of_the_switch_makes_the_next_start_check(here: Place) -> None:
    here.desk()
    here.switch.touch()
    context = here.context()
    desk, halts = trading.open_runners_desk(context)
    findings = trading.startup_checks(context, desk, halts)
    assert [f.name for f in findings if f.problem is not None] == ["kill_switch"]
    assert here.kinds()[-1] == "trading_halted"
    here.switch.unlink()
    assert len(checks.allow_start(context, *trading.open_runners_desk(context))) == len(checks.OF_A_RESUME) + 1


def test_O04_a_pass_after_the_halt_is_enough_for_the_next_start(here: Place) -> None:
    here.desk()
    here.switch.touch()
    context = here.context()
    _, halts = trading.open_runners_desk(context)
    halts.look()
    here.switch.unlink()
    assert preflight.main(["--all"]) == Exit.OK
    assert checks.allow_start(context, *trading.open_runners_desk(context)) == []
    assert here.kinds()[-1] == "trading_resumed"


def test_O04_orders_of_unknown_fate_are_settled_before_a_start_decides(here: Place) -> None:
    """Halted with an intent that never reached the broker: the start proves it absent instead of refusing for ever."""
    here.desk()
    here.journal().append("order_intended", intent_body(replace(entry("AAA"), decided_at=NOW)))
    here.journal().append("trading_halted", {"code": "KILL_SWITCH", "why": "test"})
    context = here.context()
    desk, halts = trading.open_runners_desk(context)
    desk.lag_s = 0.0
    assert preflight.main(["--cognitive"]) == Exit.NO, "for preflight, which only looks, it is open"
    found = checks.allow_start(context, desk, halts)
    assert found[-1].problem is None and not desk.ledger().unsettled()


# ---------------------------------------------------------------- O08
HOLD = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from core.clock import SystemClock
    from execution.operator_lock import operator_action
    with operator_action(Path(sys.argv[2]), SystemClock(), "close_all"):
        print("held", flush=True)
        sys.stdin.read()
"""


def test_O08_of_two_operators_the_second_is_told_who_where_since_when_and_what(here: Place) -> None:
    here.buy("AAA")
    lock = trading.operator_lock(here.context())
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(ROOT), str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        for act in (lambda: cancel_all.main([]), lambda: close_all_positions.main(["--confirm"])):
            with pytest.raises(AlreadyRunning) as caught:
                act()
            said = str(caught.value)
            assert caught.value.exit_code == 3 and caught.value.code == "ACTION_RUNNING"
            assert f"pid {other.pid}" in said and "close_all by" in said and re.search(r"since 20\d\d-", said)
        assert here.held() == {"AAA": 1} and len(here.open_ids()) == 1, "the second did nothing"
        other.kill()
    assert close_all_positions.main(["--confirm"]) == Exit.OK, "a killed one holds nothing"


def test_O08_a_holder_that_left_no_word_is_said_to_be_unknown(tmp_path: Path) -> None:
    lock = tmp_path / "operator"
    with operator_action(lock, CLOCK, "cancel_all"):
        for damage in (b"", b"{", b"[]", b'{"what": "x"}'):
            lock.with_name("operator.json").write_bytes(damage)
            with (
                pytest.raises(AlreadyRunning, match="another action is under way"),
                operator_action(lock, CLOCK, "close_all"),
            ):
                raise AssertionError("two at once")
    with operator_action(lock, CLOCK, "close_all") as me:
        assert me.pid == os.getpid()
    assert not lock.with_name("operator.json").exists()


def test_O08_a_full_disk_keeps_nobody_from_acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("execution.operator_lock.write_atomic", refuse)
    with operator_action(tmp_path / "operator", CLOCK, "cancel_all") as me:
        assert me.what == "cancel_all"
