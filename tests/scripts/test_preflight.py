"""Each check from both sides, and what preflight makes of them together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.domain import Symbol
from core.errors import BrokerDown, Exit, KobeError, TradingHalted
from execution.breaks import Break, BreakKind, Cause
from execution.ledger import LedgerOrder
from scripts import checks, preflight
from scripts.trading import Finding
from tests.fakes.emergencies import Place, place
from tests.fakes.fake_broker import FakeBroker
from tests.fakes.trading import NOW, entry, world

GOOD = Finding("a", "fine")
WARNED = Finding("b", "well", warning="W")
BAD = Finding("c", "bad", KobeError("bad", code="C", advice="mend it"))
SWITCH = Finding(checks.SWITCH, "exists", TradingHalted("exists"))


# ---------------------------------------------------------------- the checks, over values
@pytest.mark.parametrize(("skew_s", "ok"), [(0.0, True), (10.0, True), (-10.0, True), (10.001, False), (-11.0, False)])
def test_the_clock_at_its_limit_and_beyond(skew_s: float, ok: bool) -> None:
    finding = checks.clock_skew(NOW + timedelta(seconds=skew_s), NOW, 10.0)
    assert (finding.problem is None) is ok
    assert ok or (finding.problem is not None and finding.problem.code == "CLOCK_DISAGREES")


def test_the_account_of_this_journal_and_no_other(tmp_path: Path) -> None:
    account = FakeBroker(world(tmp_path).clock).account()
    mine = {"id": account.id, "number": account.number, "mode": "paper"}
    assert checks.pinned_account(account, None, "paper").problem is None
    assert checks.pinned_account(account, mine, "paper").problem is None
    for other in ({**mine, "id": "b", "number": "PA999999"}, {**mine, "mode": "live"}):
        found = checks.pinned_account(account, other, "paper")
        assert found.problem is not None and found.problem.code == "ACCOUNT_MISMATCH"
        assert "PA123456" not in found.found and "3456" in found.found, "the number is told by its end only"


def test_orders_that_may_be_live(tmp_path: Path) -> None:
    assert checks.nothing_unsettled([]).problem is None
    found = checks.nothing_unsettled([LedgerOrder(intent=entry(), intended_at=NOW, day=NOW.date())])
    assert found.problem is not None and entry().client_order_id in found.found


def a_break(kind: BreakKind) -> Break:
    return Break(symbol=Symbol("AAA"), kind=kind, cause=Cause.UNEXPLAINED, ours="1", theirs="2", proposal="do this")


def test_a_break_that_locks_is_a_problem_and_one_that_trading_mends_is_a_warning() -> None:
    assert checks.in_step([]) == Finding("in_step", "journal and broker agree")
    mended = checks.in_step([a_break(BreakKind.MISSING_PROTECTION)])
    assert mended.problem is None and mended.warning == "BREAKS_TOLD"
    both = checks.in_step([a_break(BreakKind.MISSING_PROTECTION), a_break(BreakKind.POSITION_QUANTITY)])
    assert both.problem is not None and both.problem.advice == "do this" and "1 breaks" in both.found


def test_a_state_folder_that_cannot_be_written(own_home: Path) -> None:
    from core.paths import Home

    context: Any = type("Context", (), {"home": Home(own_home)})
    assert checks.state_folder(checks.Look(context)).problem is None
    (own_home / "taken").write_text("")
    context.home = Home(own_home / "taken")
    found = checks.state_folder(checks.Look(context))
    assert found.problem is not None and found.problem.code == "HOME_UNWRITABLE"


# ---------------------------------------------------------------- all of them
def test_a_check_that_raises_has_failed_and_the_others_go_on() -> None:
    def refuses(look: checks.Look) -> Finding:
        raise BrokerDown("no route", advice="wait")

    def breaks(look: checks.Look) -> Finding:
        raise ZeroDivisionError("a bug")

    look: Any = None
    found = checks.run(look, [("x", refuses), ("y", breaks), ("z", lambda _: [GOOD, WARNED])])
    assert [(f.name, None if f.problem is None else f.problem.code) for f in found] == [
        ("x", "BROKER_DOWN"), ("y", "BUG"), ("a", None), ("b", None)
    ]  # fmt: skip


def test_a_broker_that_is_down_is_asked_once_and_fails_what_needs_it(here: Place, monkeypatch: Any) -> None:
    from execution.alpaca_broker import AlpacaBroker

    asked = []

    def down(self: AlpacaBroker) -> Any:
        asked.append(1)
        raise BrokerDown("no route")

    monkeypatch.setattr(AlpacaBroker, "account", down)
    found = {f.name: f.problem for f in checks.run(checks.Look(here.context()), checks.OF_A_RESUME)}
    assert len(asked) == 1
    assert {name for name, problem in found.items() if problem is not None} == {
        "account", "pinned_account", "clock", "in_step"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "all_", "cognitive"),
    [
        ([GOOD, WARNED], Exit.OK, Exit.OK),
        ([GOOD, SWITCH], Exit.WOULD_PASS, Exit.NO),
        ([SWITCH, WARNED], Exit.WOULD_PASS, Exit.NO),
        ([SWITCH, BAD], Exit.NO, Exit.NO),
        ([BAD], Exit.NO, Exit.NO),
    ],
)
def test_the_exit_code(found: list[Finding], all_: Exit, cognitive: Exit) -> None:
    assert preflight.verdict(found, expect_halt=True) is all_
    assert preflight.verdict(found, expect_halt=False) is cognitive


def test_a_line_names_state_finding_and_remedy() -> None:
    assert preflight.line(GOOD, expected=False) == "  ok       a: fine"
    assert preflight.line(WARNED, expected=False) == "  warn     b: well"
    assert preflight.line(BAD, expected=False) == "  FAIL     c: bad - mend it"
    assert preflight.line(SWITCH, expected=True) == "  EXPECTED kill_switch: exists"
    report = preflight.report([GOOD, BAD, SWITCH], Exit.NO)
    assert report["passed"] is False and report["halted"] is True and report["exit"] == 1
    assert report["checks"][1] == {"name": "c", "state": "FAIL", "found": "bad", "code": "C", "remedy": "mend it"}


@pytest.fixture
def here(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with place(own_home, tmp_path, monkeypatch) as made:
        yield made


def test_a_pass_is_recorded_with_its_checks_and_nothing_else_is_changed(
    here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    here.buy("AAA")
    before = here.kinds()
    assert preflight.main(["--all"]) == Exit.OK
    assert here.kinds() == [*before, "preflight_passed"]
    body = here.bodies("preflight_passed")[0]
    assert body["by"] == "preflight --all" and {name for name, _ in checks.OF_A_RESUME} <= set(body["checks"])
    assert capsys.readouterr().out.splitlines()[-1] == "passed"


def test_a_failure_is_not_recorded_and_every_check_is_printed(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    here.buy("AAA")
    here.outside("BBB")
    before = here.kinds()
    assert preflight.main(["--cognitive", "--json"]) == Exit.NO
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["checks"] if row["state"] == "FAIL"] == ["in_step"]
    assert here.kinds() == before and len(report["checks"]) > len(checks.OF_A_RESUME)


def test_a_damaged_journal_is_a_failed_check_and_no_crash(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    here.buy("AAA")
    path = here.home / "state" / "hash_chain.jsonl"
    path.write_bytes(path.read_bytes().replace(b"order_intended", b"order_intendex", 1))
    assert preflight.main(["--all", "--json"]) == Exit.NO
    failed = {row["name"] for row in json.loads(capsys.readouterr().out)["checks"] if row["state"] == "FAIL"}
    assert "journal" in failed


def test_usage() -> None:
    for argv in ([], ["--all", "--cognitive"], ["--apis"]):
        with pytest.raises(SystemExit) as caught:
            preflight.main(argv)
        assert caught.value.code == Exit.USAGE
