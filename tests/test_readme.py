"""The README's two commands are the ones that are tested: CI runs the second, verbatim."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block.strip() for block in re.findall(r"```bash\n(.*?)```", text, re.S)]


def test_ci_runs_the_readmes_test_command_verbatim():
    assert _commands()[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_both_commands_are_one_line_and_install_from_the_lock():
    for command in _commands()[:2]:
        assert "\n" not in command
        assert "--require-hashes -r requirements.lock.txt" in command


def test_no_registry_address_is_in_any_dependency_file():
    for name in ("requirements.lock.txt", "pyproject.toml", ".ci/run"):
        assert not re.search(r"https?://", (ROOT / name).read_text(encoding="utf-8")), name


def test_every_relative_file_the_readme_names_exists_or_is_made_at_run_time():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made = ("state/", "logs/", "cache")
    found = re.findall(r"`((?:docs|config|scripts|benchmarks|data)/[\w./]+)`", text)
    named = {name for name in found if not name.startswith(made)}
    assert named
    assert [n for n in sorted(named) if not (ROOT / n).exists()] == []
