"""Every command in docs/runbook.md runs as it stands there, in the order of the page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.test_runbook import COVERED as IN_TEST_RUNBOOK

ROOT = Path(__file__).resolve().parents[1]
RUNBOOK = ROOT / "docs" / "runbook.md"
WITH_A_BACKUP = "python scripts/restore.py BACKUP"


def commands() -> list[str]:
    """In their order, because one leaves what the next needs."""
    blocks = re.findall(r"```bash\n(.*?)```", RUNBOOK.read_text(encoding="utf-8"), re.S)
    found = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    return list(dict.fromkeys(found))


def run(line: str, home: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)
    words[0] = sys.executable
    keys = dict.fromkeys(("POLYGON_API_KEY", "ALPACA_API_KEY_ID", "ALPACA_API_SECRET_KEY", "ANTHROPIC_API_KEY"), "")
    env = {**os.environ, **keys, "KOBE_HOME": str(home), "KOBE_CONFIG": "", "NO_PROXY": "127.0.0.1,localhost"}
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)


EXPECTED = {
    "python scripts/status.py": {0, 1, 2},  # no runner lives in this home: it says so
    "python scripts/alerts.py list": {0, 1, 2},  # whatever stands in this home
    "python scripts/show_log.py": {0, 1},  # found, or nothing was
    "python scripts/quarantine.py release": {1},  # nobody is in quarantine
}


def test_every_command_of_the_runbook_runs(tmp_path: Path) -> None:
    """One home, in the order of the page. Commands of tests/test_runbook.py are run there."""
    home = tmp_path / "an operator's home"
    home.mkdir()
    ran = 0
    for line in commands():
        if line in IN_TEST_RUNBOOK:
            continue
        named = line
        if line.startswith(WITH_A_BACKUP):
            newest = sorted((home / "backups").iterdir())[-1]
            named = line.replace("BACKUP", shlex.quote(str(newest)))
        done = run(named.replace("SYMBOL", "AAPL"), home)
        wanted = next((codes for start, codes in EXPECTED.items() if line.startswith(start)), {0})
        assert done.returncode in wanted, (line, done.returncode, done.stdout[-1500:], done.stderr[-1500:])
        assert "Traceback" not in done.stderr, line
        ran += 1
    assert ran >= 15


def test_the_page_names_no_script_that_does_not_exist() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    named = set(re.findall(r"scripts/(\w+\.py)", text))
    assert named and {name for name in named if not (ROOT / "scripts" / name).is_file()} == set()


def test_every_page_that_is_linked_exists() -> None:
    linked = set(re.findall(r"\]\((\w+\.md)\)", RUNBOOK.read_text(encoding="utf-8")))
    assert {name for name in linked if not (ROOT / "docs" / name).is_file()} == set()


def test_every_code_on_the_page_is_a_code_of_the_program() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", RUNBOOK.read_text(encoding="utf-8")))
    known = set(re.findall(r"\| `([A-Z0-9_]+)` \|", reference)) | {"POLYGON_API_KEY", "KILL_SWITCH", "KOBE_HOME"}
    assert told - known == set()
