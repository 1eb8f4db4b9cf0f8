"""Every fault has a test or a reason; the page is what the tests say; and the reader of names cannot be fooled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults import coverage
from tests.faults.catalogue import LATER_SECTIONS, NOT_HERE, SECTIONS, TITLES

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "faults.md"


@pytest.fixture(scope="module")
def table() -> dict[str, list[coverage.Proof]]:
    return coverage.by_id(coverage.proofs())


def test_every_fault_has_a_test_or_a_reason(table: dict[str, list[coverage.Proof]]) -> None:
    assert [fault for fault, tests in table.items() if not tests and fault not in NOT_HERE] == []


def test_no_reason_outlives_its_excuse(table: dict[str, list[coverage.Proof]]) -> None:
    assert [fault for fault in NOT_HERE if table[fault]] == []
    assert [why for why in NOT_HERE.values() if not re.match(r"issue [4-7]: \S.{10,}", why)] == []


def test_every_test_with_an_id_asserts_something_and_names_a_fault_that_exists() -> None:
    found = coverage.proofs()
    assert [str(proof) for proof in found if not proof.asserts] == []
    assert [str(proof) for proof in found if not set(proof.ids) <= set(TITLES)] == []


def test_the_page_in_docs_is_what_the_tests_say() -> None:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert page == coverage.render(coverage.proofs()), "python tests/faults/coverage.py --write docs/faults.md"


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared catalogue is not beside this checkout")
def test_the_ids_are_those_of_the_shared_catalogue() -> None:
    ids = re.findall(r"^\| ([A-Z][0-9]{2}) \|", SHARED.read_text(encoding="utf-8"), re.M)
    assert set(TITLES) == {fault for fault in ids if fault[0] in SECTIONS}
    assert {fault[0] for fault in ids} == set(SECTIONS) | LATER_SECTIONS


# ---------------------------------------------------------------- the reader of names, broken on purpose
@pytest.mark.parametrize(
    ("text", "ids", "asserts"),
    [
        ("def test_B15_lag():\n    assert f()", ("B15",), True),
        ("def test_B02_P49_both():\n    assert f()", ("B02", "P49"), True),
        ("def test_B15():\n    with pytest.raises(X): f()", ("B15",), True),
        ("def test_B15_alias():\n    f()", ("B15",), False),
        ("def test_B15_true():\n    assert True", ("B15",), False),
        ("def same(a):\n    assert a\ndef test_B15_helper():\n    same(f())", ("B15",), True),
        ("class TestX:\n    def test_D24_leap(self):\n        assert f()", ("D24",), True),
        ("@pytest.mark.parametrize('f', ['B22', 'B23-x', 'B2', 'xB24'])\ndef test_states(f):\n    assert f",
         ("B22", "B23"), True),
    ],
)  # fmt: skip
def test_an_id_in_a_name_is_read(text: str, ids: tuple[str, ...], asserts: bool) -> None:
    assert [(p.ids, p.asserts) for p in coverage.proofs_in(text, "t.py")] == [(ids, asserts)]


@pytest.mark.parametrize(
    "text",
    [
        "def test_b15_small():\n    assert f()",
        "def test_about_B15():\n    assert f()",
        "def test_B155_long():\n    assert f()",
        "def helper_B15():\n    assert f()",
        "@pytest.mark.skip(reason='x')\ndef test_B15_skipped():\n    assert f()",
        "@pytest.mark.xfail\ndef test_B15_expected():\n    assert f()",
    ],
)
def test_what_proves_nothing_is_not_read(text: str) -> None:
    assert coverage.proofs_in(text, "t.py") == []


def test_a_missing_fault_is_shown_as_missing() -> None:
    assert "| B01 | no reply although the order was taken | not here: MISSING |" in coverage.render([])
