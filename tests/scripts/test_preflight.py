"""Each check from both sides, and what preflight makes of them together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from config.settings_schema import Settings
from core import cli
from core.clock import SystemClock
from core.domain import Symbol
from core.errors import BrokerDown, Exit, KobeError, TradingHalted
from core.paths import Home
from execution.breaks import Break, BreakKind, Cause
from execution.ledger import LedgerOrder
from execution.runner import only_runner
from scripts import check_look, check_values, checks, preflight, preflighting
from scripts.trading import Finding
from tests.fakes.emergencies import Place, place
from tests.fakes.fake_broker import FakeBroker
from tests.fakes.trading import NOW, entry, world

GOOD = Finding("a", "fine")
WARNED = Finding("b", "well", warning="W")
UNKNOWN = Finding("d", "not there", warning="ABSENT", unknown=True)
BAD = Finding("c", "bad", KobeError("bad", code="C", advice="mend it"))
SWITCH = Finding(checks.SWITCH, "exists", TradingHalted("exists"))


# ---------------------------------------------------------------- the checks, over values
@pytest.mark.parametrize(("skew_s", "ok"), [(0.0, True), (10.0, True), (-10.0, True), (10.001, False), (-11.0, False)])
def test_the_clock_at_its_limit_and_beyond(skew_s: float, ok: bool) -> None:
    finding = check_values.clock_skew(NOW + timedelta(seconds=skew_s), NOW, 10.0)
    assert (finding.problem is None) is ok
    assert ok or (finding.problem is not None and finding.problem.code == "CLOCK_DISAGREES")


def test_the_account_of_this_journal_and_no_other(tmp_path: Path) -> None:
    account = FakeBroker(world(tmp_path).clock).account()
    mine = {"id": account.id, "number": account.number, "mode": "paper"}
    assert check_values.pinned_account(account, None, "paper").problem is None
    assert check_values.pinned_account(account, mine, "paper").problem is None
    for other in ({**mine, "id": "b", "number": "PA999999"}, {**mine, "mode": "live"}):
        found = check_values.pinned_account(account, other, "paper")
        assert found.problem is not None and found.problem.code == "ACCOUNT_MISMATCH"
        assert "PA123456" not in found.found and "3456" in found.found, "the number is told by its end only"


def test_orders_that_may_be_live(tmp_path: Path) -> None:
    assert check_values.nothing_unsettled([]).problem is None
    found = check_values.nothing_unsettled([LedgerOrder(intent=entry(), intended_at=NOW, day=NOW.date())])
    assert found.problem is not None and entry().client_order_id in found.found


def a_break(kind: BreakKind) -> Break:
    return Break(symbol=Symbol("AAA"), kind=kind, cause=Cause.UNEXPLAINED, ours="1", theirs="2", proposal="do this")


def test_a_break_that_locks_is_a_problem_and_one_that_trading_mends_is_a_warning() -> None:
    assert check_values.in_step([]) == Finding("in_step", "journal and broker agree")
    mended = check_values.in_step([a_break(BreakKind.MISSING_PROTECTION)])
    assert mended.problem is None and mended.warning == "BREAKS_TOLD"
    both = check_values.in_step([a_break(BreakKind.MISSING_PROTECTION), a_break(BreakKind.POSITION_QUANTITY)])
    assert both.problem is not None and both.problem.advice == "do this" and "1 breaks" in both.found


def test_a_state_folder_that_cannot_be_written(own_home: Path) -> None:
    context: Any = type("Context", (), {"home": Home(own_home)})
    assert check_look.state_folder(checks.Look(context)).problem is None
    (own_home / "taken").write_text("")
    context.home = Home(own_home / "taken")
    found = check_look.state_folder(checks.Look(context))
    assert found.problem is not None and found.problem.code == "HOME_UNWRITABLE"


def test_a_runner_under_way_is_no_crash_and_one_that_was_killed_is(own_home: Path) -> None:
    context: Any = type("Context", (), {"home": Home(own_home), "clock": SystemClock(), "settings": Settings()})
    state = context.home.state
    state.mkdir(parents=True, exist_ok=True)
    row = {"at": context.clock.now().isoformat(), "end": None}
    (state / "starts.json").write_text(json.dumps({"schema_version": 1, "starts": [row], "stopped_at": None}))
    with only_runner(state, context.clock):
        assert check_look.starts(checks.Look(context)).warning == ""
    assert check_look.starts(checks.Look(context)).warning == "CRASHED_LATELY"


# ---------------------------------------------------------------- all of them
def test_a_check_that_raises_has_failed_and_the_others_go_on() -> None:
    def refuses(look: checks.Look) -> Finding:
        raise BrokerDown("no route", advice="wait")

    def breaks(look: checks.Look) -> Finding:
        raise ZeroDivisionError("a bug")

    look: Any = None
    listed = [("x", refuses), ("y", breaks), ("a", lambda _: GOOD), ("b", lambda _: WARNED)]
    found = checks.run(look, [checks.Check(name, checks.Group.STATE, "?", check) for name, check in listed])
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
        "account", "keys_of_mode", "pinned_account", "clock", "in_step"
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
    assert checks.answer(found, expect_halt=True).code is all_
    assert checks.answer(found, expect_halt=False).code is cognitive


def test_a_line_names_state_finding_and_remedy() -> None:
    assert preflighting.line(GOOD, expected=False) == "  ok       a: fine"
    assert preflighting.line(WARNED, expected=False) == "  warn     b: well"
    assert preflighting.line(UNKNOWN, expected=False) == "  UNKNOWN  d: not there"
    assert preflighting.line(BAD, expected=False) == "  FAIL     c: bad - mend it"
    assert preflighting.line(SWITCH, expected=True) == "  EXPECTED kill_switch: exists"
    found = [GOOD, BAD, SWITCH]
    report = preflighting.report(found, checks.answer(found, expect_halt=True))
    assert report["passed"] is False and report["halted"] is True and report["exit"] == 1
    assert report["checks"][1] == {
        "name": "c", "state": "FAIL", "found": "bad", "code": "C", "remedy": "mend it", "group": None, "forbids": None,
    }  # fmt: skip
    assert report["checks"][2]["state"] == "FAIL" and report["checks"][2]["forbids"] == "everything"
    report = preflighting.report([GOOD, SWITCH], checks.answer([GOOD, SWITCH], expect_halt=True))
    assert report["checks"][1]["state"] == "EXPECTED" and report["exit"] == 43


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
    assert body["by"] == "preflight --all" and {check.name for check in checks.OF_A_RESUME} <= set(body["checks"])
    assert body["may_open"] is True
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
    for argv in ([], ["--all", "--cognitive"], ["--cognitive", "--data"], ["--wrong"]):
        assert cli.run(lambda argv=argv: preflight.main(argv)) == Exit.USAGE  # type: ignore[misc]


# ---------------------------------------------------------------- what each flag asks
def groups(report: dict[str, Any]) -> set[str]:
    return {row["group"] for row in report["checks"] if row["group"] is not None}


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--config"], {"config"}), (["--apis"], {"apis", "account"}),
        (["--config", "--apis"], {"config", "apis", "account"}),
        (["--all"], {g.value for g in checks.Group} - {"live"}),
        (["--cognitive"], {g.value for g in checks.Group} - {"live", "data"}),
    ],
)  # fmt: skip
def test_a_flag_selects_its_checks(
    here: Place, capsys: pytest.CaptureFixture[str], flags: list[str], wanted: set[str]
) -> None:
    assert preflight.main([*flags, "--json"]) == Exit.OK
    report = json.loads(capsys.readouterr().out)
    assert groups(report) == wanted
    recorded = "preflight_passed" in here.kinds() if (here.home / "state" / "hash_chain.jsonl").exists() else False
    assert recorded is (flags[0] in ("--all", "--cognitive")), "a part is no pass"


def test_there_are_more_than_25_checks_each_with_a_question_and_no_two_of_one_name() -> None:
    assert len(checks.CHECKS) >= 50 and len(checks.BY_NAME) == len(checks.CHECKS)
    assert all(check.asks for check in checks.CHECKS)


def test_every_check_tells_under_its_own_name(here: Place) -> None:
    found = checks.run(checks.Look(here.context()), checks.CHECKS)
    assert [f.name for f in found] == [check.name for check in checks.CHECKS]


def test_the_page_holds_the_list_as_it_is() -> None:
    from tests.scripts import preflight_page

    page = preflight_page.PAGE.read_text(encoding="utf-8")
    assert page == preflight_page.rendered(page), "python tests/scripts/preflight_page.py --write"


# ---------------------------------------------------------------- may open, may carry on
ENTRIES = Finding("bars", "stale", KobeError("stale", code="DATA_STALE", advice="fetch"))


@pytest.mark.parametrize(
    ("found", "may_open", "may_carry_on"),
    [
        ([GOOD], True, True), ([UNKNOWN, WARNED], True, True), ([ENTRIES], False, True), ([ENTRIES, BAD], False, False),
        ([SWITCH], False, False),
    ],
)  # fmt: skip
def test_the_two_answers(found: list[Finding], may_open: bool, may_carry_on: bool) -> None:
    answer = checks.answer(found, expect_halt=False)
    assert (answer.may_open, answer.may_carry_on) == (may_open, may_carry_on)


def test_what_forbids_entries_only_keeps_no_halted_runner_from_its_exits(
    here: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vendors are silent: the runner may go on with what it holds. It is told in words, and the code is 1."""
    monkeypatch.setattr(
        check_values, "answers", lambda name, *_: Finding(name, "all silent", BrokerDown("silent", advice="wait"))
    )
    assert preflight.main(["--cognitive"]) == Exit.NO
    said = capsys.readouterr().out
    assert "may open: NO; may carry on: yes (exits and protection), entries wait" in said
    assert said.splitlines()[-1] == "NOT passed: vendors"
    assert [body["may_open"] for body in here.bodies("preflight_passed")] == [False]


def test_data_fetches_what_is_missing_and_says_when_nothing_came(
    here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """The venue of these tests has two of the 800 names."""
    assert preflight.main(["--data", "--json"]) == Exit.NO
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    assert rows["bars"]["state"] == "FAIL" and rows["bars"]["forbids"] == "entries"
    assert rows["vix"]["state"] == "FAIL" and rows["one_share"]["state"] == "UNKNOWN"


@pytest.mark.parametrize(
    ("made_at", "old"), [("2024-01-20T16:00:00Z", False), ("2024-01-20T14:00:00Z", True), (None, False)]
)
def test_the_age_of_a_universe_is_what_its_provenance_says(
    here: Place, tmp_path: Path, made_at: str | None, old: bool
) -> None:
    """45 days before the session of these tests, and 46; without provenance the file's own time counts."""
    file = tmp_path / "names.csv"
    file.write_text("symbol\nAAA\n")
    if made_at is not None:
        file.with_suffix(".provenance.json").write_text(json.dumps({"made_at": made_at}))
    context = here.context()
    chosen = context.settings.universe.model_copy(update={"path": str(file)})
    context.settings = context.settings.model_copy(update={"universe": chosen})
    assert (check_look.universe_age(checks.Look(context)).warning == "UNIVERSE_OLD") is old


@pytest.mark.parametrize(("required", "names"), [(True, 6), (False, 0)])
def test_the_runner_asks_of_the_mind_at_its_start_as_the_settings_say_and_a_breaker_stops_no_exit(
    here: Place, required: bool, names: int
) -> None:
    from cognitive.breaker_rules import Trip
    from cognitive.circuit_breakers import Breakers, current_session

    context = here.context()
    chosen = context.settings.cognitive.preflight.model_copy(update={"required": required})
    cognitive = context.settings.cognitive.model_copy(update={"preflight": chosen})
    context.settings = context.settings.model_copy(update={"cognitive": cognitive})
    journal = checks.Look(context).journal
    breakers = Breakers(journal, context.home.state, context.calendar, cognitive.circuit_breakers)
    trip = Trip(name="loss_streak", scope="all", what="", reason="5 losses in a row")
    breakers.trip([trip], current_session(context.calendar, context.clock.now()))
    found = checks.of_the_mind(context)
    assert len(found) == names and all(f.problem is None for f in found)
    assert {f.warning for f in found if f.name == "breakers"} == ({"BREAKER_LOSS_STREAK"} if required else set())
    (asked,) = [f for f in checks.run(checks.Look(context), checks.of_groups(checks.Group.COGNITIVE)) if f.problem]
    assert asked.problem is not None and asked.problem.code == "BREAKER_LOSS_STREAK", "a person's preflight fails on it"
