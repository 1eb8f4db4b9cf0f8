"""What a person does in a hurry, by habit, or from another machine's notes: caught, in one line that says what next."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import pin
from config.loader import BASE_PATH
from config.lock import check_lock
from config.strategy_params import FROZEN_PARAMS_PATH
from core import cli
from core.clock import SteppedClock
from core.errors import ConfigError, Exit
from core.journal import Journal
from core.paths import Home
from risk.kill_switch import KillSwitch
from scripts import config_pin, reconcile_alpaca, runner, scan
from tests.fakes.bar_files import small_market
from tests.fakes.scans import due, scene
from tests.fakes.trading import NOW

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOBE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# ---------------------------------------------------------------- a scan by hand
@pytest.mark.parametrize(
    ("as_of", "marked"),
    [
        ("2024-03-05T14:29:59Z", True), ("2024-03-05T14:30:00Z", False), ("2024-03-05T20:59:59Z", False),
        ("2024-03-05T12:00:00Z", True), ("2024-03-05T03:00:00Z", True),
    ],
)  # fmt: skip
def test_O05_a_scan_outside_the_session_is_marked_as_something_to_read(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], as_of: str, marked: bool
) -> None:
    market = small_market(tmp_path / "market")
    assert cli.run(lambda: scan.main(["--bars", str(market), "--as-of", as_of])) == Exit.OK
    assert ("OUT_OF_SESSION" in capsys.readouterr().out) is marked
    (event,) = (line for line in (home / "logs" / "events.jsonl").read_text().splitlines() if "scan_completed" in line)
    assert json.loads(event)["out_of_session"] is marked


def test_O05_a_scan_by_hand_cannot_reach_the_order_path(tmp_path: Path, home: Path) -> None:
    """Not even the code is there: nothing of the desk, the broker or the transport is imported."""
    market = small_market(tmp_path / "market")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from scripts import scan;"
        f"scan.main(['--bars', {str(market)!r}, '--as-of', '2024-03-04', '--json']);"
        "sys.stderr.write(' '.join(sorted(m for m in sys.modules if m.startswith(('execution', 'risk', 'alpaca')))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert len(json.loads(done.stdout)["picks"]) == 1
    assert done.stderr == "" and not (home / "state" / "hash_chain.jsonl").exists()


def test_O05_a_run_by_hand_outside_the_session_sends_nothing(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--mode", "paper", "--once", "--as-of", "2024-03-05T12:00:00Z", "--json"]
    cli.run(lambda: runner.main([*words, "--market", str(small_market(tmp_path / "market"))]))
    intents = json.loads(capsys.readouterr().out)["intents"]
    assert [(i["verdict"], "SESSION_CLOSED" in i["codes"]) for i in intents] == [("refused", True)]
    assert not list(Journal(Home(home).journal, SteppedClock(NOW)).kinds("order_intended"))


# ---------------------------------------------------------------- live by habit
@pytest.mark.parametrize("more", [[], ["--once"], ["--allow-dirty"]])
def test_O06_live_is_refused_before_anything_is_opened(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """Also with keys of a live account in the environment."""
    monkeypatch.setenv("ALPACA_API_KEY_ID", "AKLIVEKEY12345")
    monkeypatch.setenv("ALPACA_API_SECRET_KEY", "live-secret-12345")
    assert cli.run(lambda: runner.main(["--mode", "live", *more])) == Exit.CONFIG
    said = capsys.readouterr().err
    assert said.startswith("kobe: LIVE_NOT_ARMED: ") and said.count("\n") == 1
    assert not (home / "state").exists(), "no lock, no journal, no request"


def test_O06_the_mode_is_never_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(lambda: runner.main(["--once"])) == Exit.USAGE
    assert "--mode" in capsys.readouterr().err


# ---------------------------------------------------------------- a slip of the finger
@pytest.fixture
def edited(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """base.yaml of a repository of its own, pinned, with one key set to another value."""
    root = tmp_path / "repo"
    for folder in ("config", "data/universe"):
        (root / folder).mkdir(parents=True)
    (root / "data" / "universe" / "optionable_liquid_800.csv").write_text("symbol\nAAPL\n")
    config = root / "config" / "base.yaml"
    shutil.copy(BASE_PATH, config)
    monkeypatch.setenv("KOBE_CONFIG", str(config))
    real = pin.compute_pin
    own: dict[str, Any] = {"root": root, "params": FROZEN_PARAMS_PATH}
    monkeypatch.setattr(pin, "compute_pin", lambda *, config=None: real(config=config, **own))
    check = pin.check_pin
    monkeypatch.setattr(config_pin, "check_pin", lambda place: check(place, compute=pin.compute_pin))
    pin.write_pin(Home(home))

    def edit(before: str, after: str) -> Path:
        text = config.read_text(encoding="utf-8")
        assert text.count(before) == 1, before
        config.write_text(text.replace(before, after), encoding="utf-8")
        return config

    return edit


DAILY = "    daily_budget_usd: 1000 "


@pytest.mark.parametrize(
    ("before", "after", "slip"),
    [
        (DAILY, "    daily_budget_usd: 100000 ", True), (DAILY, "    daily_budget_usd: 5001 ", True),
        (DAILY, "    daily_budget_usd: 5000 ", False), (DAILY, "    daily_budget_usd: 200 ", False),
        (DAILY, "    daily_budget_usd: 199 ", True), ("  position_limit: 10 ", "  position_limit: 100 ", True),
        ("    var_limit_pct: 0.02 ", "    var_limit_pct: 0.2 ", True),
        ("  close_margin_s: 60 ", "  close_margin_s: 0 ", True), ("  min_score: 55 ", "  min_score: 70 ", False),
    ],
)  # fmt: skip
def test_O07_a_number_that_changed_more_than_fivefold_wants_an_acknowledgement(
    edited: Callable[..., Path], home: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, slip: bool
) -> None:
    edited(before, after)
    key = before.split(":")[0].strip()
    assert cli.run(lambda: config_pin.main(["verify"])) == Exit.NO
    assert ("pin wants --ack" in capsys.readouterr().out) is slip
    pinned_before = (home / "state" / "config_pin.json").read_bytes()
    code = cli.run(lambda: config_pin.main(["pin"]))
    said = capsys.readouterr().err
    if slip:
        assert code == Exit.CONFIG and said.startswith("kobe: PIN_NEEDS_ACK: ") and key in said and "--ack" in said
        assert (home / "state" / "config_pin.json").read_bytes() == pinned_before
        assert cli.run(lambda: config_pin.main(["pin", "--ack"])) == Exit.OK
    else:
        assert code == Exit.OK
    assert cli.run(lambda: config_pin.main(["verify"])) == Exit.OK


def test_O07_what_was_acknowledged_is_in_the_journal(edited: Callable[..., Path], home: Path) -> None:
    journal = Journal(Home(home).journal, SteppedClock(NOW))
    journal.append("account_bound", {})
    edited(DAILY, "    daily_budget_usd: 100000 ")
    assert cli.run(lambda: config_pin.main(["pin", "--ack"])) == Exit.OK
    (record,) = journal.kinds("config_pinned")
    assert record.body["acknowledged"] == ["risk.policy_gate.daily_budget_usd: pinned 1000, now 100000"]


def test_O07_a_damaged_pin_forgets_no_slip(edited: Callable[..., Path], home: Path) -> None:
    (home / "state" / "config_pin.json").write_bytes(b"{")
    with pytest.raises(ConfigError, match="changes are not known"):
        pin.write_pin(Home(home))
    assert pin.write_pin(Home(home), ack=True)


# ---------------------------------------------------------------- a file edited by hand
def test_O09_a_position_edited_by_hand_is_a_break_with_its_difference_and_no_order_follows_it(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    market = small_market(tmp_path / "market")
    words = ["--mode", "paper", "--replay", "2024-03-05:2024-03-05", "--market", str(market)]
    assert cli.run(lambda: runner.main(words)) == Exit.OK
    view = home / "state" / "positions.json"
    document = json.loads(view.read_text())
    (symbol,) = document["positions"]
    document["positions"][symbol]["quantity"] = "500"
    document["positions"]["ZZZ"] = {"quantity": "3", "average_price": "1", "trades": []}
    view.write_text(json.dumps(document))
    capsys.readouterr()
    assert cli.run(lambda: reconcile_alpaca.main(["--json"])) == Exit.NO
    found = {b["symbol"]: b for b in json.loads(capsys.readouterr().out)["breaks"]}
    assert {b["kind"] for b in found.values()} == {"VIEW_DIFFERS"} and set(found) == {symbol, "ZZZ"}
    assert (found[symbol]["ours"], found[symbol]["theirs"]) == ("1", "positions.json says 500")
    journal = Journal(Home(home).journal, SteppedClock(NOW))
    intended = len(list(journal.kinds("order_intended")))
    assert cli.run(lambda: reconcile_alpaca.main(["--force-sync", "--reason", "typed into it by mistake"])) == Exit.OK
    assert json.loads(view.read_text())["positions"].keys() == {symbol}
    assert len(list(journal.kinds("order_intended"))) == intended, "the edit moved no share"
    assert cli.run(lambda: reconcile_alpaca.main([])) == Exit.OK


def test_O09_the_desk_never_reads_the_view(tmp_path: Path) -> None:
    made = scene(tmp_path, "PICKA")
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    for name in ("positions.json", "weekly_budget.json"):
        (state / name).write_text(
            '{"schema_version": 1, "positions": {"PICKA": {"quantity": "9"}}, "spent_usd": "1e9"}'
        )
    report = made.session.run(due())
    assert [i["verdict"] for i in report.intents] == ["approved", "approved"]


# ---------------------------------------------------------------- from another machine's notes
@pytest.mark.parametrize("line", [r"echo 1 > state\KILL_SWITCH", "echo 1 > 'state\\KILL_SWITCH'"])
@pytest.mark.skipif(os.name == "nt", reason="there the line is at home")
def test_O10_the_windows_line_for_the_kill_switch_halts_a_unix_machine_too(home: Path, line: str) -> None:
    (home / "state").mkdir(parents=True)
    switch = KillSwitch(Home(home).kill_switch)
    assert not switch.is_active()
    subprocess.run(["/bin/sh", "-c", line], cwd=home, check=True, timeout=10)
    assert not Home(home).kill_switch.exists() and switch.is_active()
    (stray,) = (path for path in home.iterdir() if path.is_file())
    assert str(stray) in str(switch.found()), "it says which file to remove"
    stray.unlink()
    assert not switch.is_active()


@pytest.mark.parametrize(
    "words",
    [
        ["--scan-times", "'09:35,10:30,15:55'"], ["--scan-times", "“09:35”"], ["--universe", "'data/u.csv'"],
        ["--universe", r"data\universe\absent.csv"], ["--cap", "“50”"], ["—once"],
        ["--as-of", "‘2024-03-04’", "--once"],
    ],
)  # fmt: skip
def test_O10_quotes_and_dashes_pasted_from_elsewhere_are_refused_in_one_line_and_nothing_is_opened(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    argv = ["--mode", "paper", *words, *([] if "--once" in words else ["--once"])]
    code = cli.run(lambda: runner.main(argv))
    said = capsys.readouterr().err
    assert code in (Exit.USAGE, Exit.CONFIG) and "Traceback" not in said
    assert len([line for line in said.splitlines() if "error:" in line or line.startswith("kobe: ")]) == 1
    assert not (home / "state" / "hash_chain.jsonl").exists()


def test_O10_every_command_is_python_and_a_file_on_every_system() -> None:
    """No command needs a shell, a shebang or an executable bit."""
    commands = [path for path in (ROOT / "scripts").glob("*.py") if '"__main__"' in path.read_text("utf-8")]
    assert len(commands) > 8
    for path in commands:
        text = path.read_text("utf-8")
        assert "shell=True" not in text and "os.system" not in text, path.name
        assert "sys.path.insert(0" in text, f"{path.name} must run from any folder"


# ---------------------------------------------------------------- a lock that is none
def test_O12_a_freeze_of_the_environment_in_use_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.11"\n')
    frozen = tmp_path / "requirements.lock.txt"
    frozen.write_text("numpy==2.4.6\nrequests==2.32.0\n")
    have = {"numpy": "2.4.6", "requests": "2.32.0"}
    check = check_lock(frozen, project=tmp_path / "pyproject.toml", found=have)
    assert [code for code, _ in check.problems] == ["LOCK_UNHASHED"] and "numpy" in str(check)
    frozen.write_text("numpy==2.4.6 \\\n    --hash=sha256:aa\nrequests==2.32.0 --hash=sha256:bb\n")
    assert check_lock(frozen, project=tmp_path / "pyproject.toml", found=have).ok


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"numpy>=2\n", b"\xff\xfe\x00"])
def test_O12_a_lock_that_locks_nothing_or_cannot_be_read_is_said_so(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nrequires-python = ">=3.11"\n')
    lock = tmp_path / "requirements.lock.txt"
    if content is not None:
        lock.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        check_lock(lock, project=tmp_path / "pyproject.toml", found={})
    assert caught.value.code == "LOCK_UNREADABLE"


def test_O12_the_lock_that_is_shipped_has_a_hash_for_everything() -> None:
    assert "LOCK_UNHASHED" not in {code for code, _ in check_lock(found={}).problems}
