"""docs/reference.md says what the program says, and every state document has its schema version there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from core.errors import Exit
from scripts import reference_tables
from scripts.documents import TRANSIENT, known_versions

ROOT = Path(__file__).resolve().parents[1]


def test_the_tables_are_current() -> None:
    there = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert reference_tables.page() == there, "python scripts/reference_tables.py --write"


def test_every_exit_code_has_its_meaning() -> None:
    assert set(reference_tables.MEANING) == set(Exit)


def test_codes_are_found_with_what_is_said() -> None:
    found: dict[str, reference_tables.Code] = {}
    code = 'raise E(f"{x} is gone: {y}", code="A_B")\nC = "C_D"\nenv["KOBE_HOME"]\nlogs.event("told", code="E_F1")'
    reference_tables._collect(ast.parse(code), "a/b.py", found)
    assert {name: one.said for name, one in found.items()} == {"A_B": "… is gone: …", "C_D": "", "E_F1": "told"}


def test_P52_every_json_document_below_state_carries_a_known_schema_version() -> None:
    """A new document that is in no list would be restored without anybody knowing whether it is newer."""
    named: set[str] = set()
    for folder in reference_tables.SOURCE:
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            named |= set(re.findall(r"state / \"([a-z_]+\.json)\"", text))
    assert named - set(known_versions()) - TRANSIENT == set()
