"""The named scenarios: each ends as told, fits a terminal, and tells the operator commands that exist."""

from __future__ import annotations

import importlib
import json
import shlex
from dataclasses import replace

import pytest

from core.errors import UsageError
from execution.drill.narrate import columns
from execution.drill.scenarios import SCENARIOS, play
from execution.venue.host import VenueHost
from scripts import drill as script
from scripts.drilling import DrillPorts

WANTED = {
    "kill-switch-mid-submit", "timeout-after-accept", "crash-between-journal-and-wire", "late-fill", "split-overnight",
    "stale-restore", "broker-down-all-day", "two-runners", "partial-fill", "position-listing-empty", "runaway",
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_ends_as_told_and_fits_eighty_columns(name: str, host: VenueHost, ports: DrillPorts) -> None:
    played = play(name, host, ports)
    assert played.as_told, "\n".join(played.lines)
    assert columns(played.lines) and played.lines[0] == f"SIMULATED  {name}"
    assert played.lines[-1] == "SIMULATED  it ended as told"
    parts = [line for line in played.lines if line.startswith(("WHAT ", "HOW "))]
    assert parts == ["WHAT HAPPENS", "WHAT KOBE DOES", "WHAT YOU DO", "HOW IT ENDED"]


def test_the_scenarios_that_were_asked_for_are_there() -> None:
    assert set(SCENARIOS) >= WANTED and len(SCENARIOS) >= 10


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_command_that_it_names_exists_and_takes_these_options(name: str) -> None:
    for line in SCENARIOS[name].operator:
        command = line.split("   ")[0]
        if command.startswith("python scripts/"):
            _, path, *options = shlex.split(command)
            stem = path.removeprefix("scripts/").removesuffix(".py")
            importlib.import_module(f"scripts.{stem}").parser().parse_args(options)


def test_one_that_does_not_end_as_told_says_so_and_exits_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = SCENARIOS["late-fill"]
    calm = replace(late, plan=replace(late.plan, faults=()))
    monkeypatch.setattr("execution.drill.scenarios.SCENARIOS", {"late-fill": calm})
    assert script.main(["--scenario", "late-fill"]) == 1
    told = capsys.readouterr().out
    assert "NO   the late fill was booked" in told and told.endswith("SIMULATED  IT DID NOT END AS TOLD\n")


def test_the_command_lists_tells_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--scenario", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in SCENARIOS) and columns(listed.splitlines()) and "~" not in listed
    assert script.main(["--scenario", "two-runners", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["as_told"] is True
    with pytest.raises(UsageError, match="none of that name"):
        script.main(["--scenario", "nonsense"])
