"""Which fault is proved by which test: reads the names of the tests in tests/faults and writes docs/faults.md.

    python tests/faults/coverage.py --write docs/faults.md      write the table
    python tests/faults/coverage.py                             print it

A test proves the ids in its name: `test_B15_…`, `test_B02_B49_…`. A parametrised test also proves the ids that its
cases are named after: `parametrize("fault", ["B22", "B23"])`. A test that asserts nothing, or that is always
skipped, proves nothing.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.catalogue import NOT_HERE, SECTIONS, TITLES  # noqa: E402 - runs as a script too

_IN_NAME = re.compile(r"test((?:_[BDPOL][0-9]{2})+)(?:_|\Z)")
_ID = re.compile(r"[BDPOL][0-9]{2}")
_CASE = re.compile(r"([BDPOL][0-9]{2})(?:[^A-Za-z0-9].*)?\Z")
_TELLS = ("raises", "fail", "warns")  # pytest's own
_CHECKERS = ("assert_", "check_", "prove_")  # helpers that assert for several tests


@dataclass(frozen=True, order=True)
class Proof:
    """One test and the ids it is named after."""

    file: str  # from tests/
    test: str
    ids: tuple[str, ...]
    asserts: bool

    def __str__(self) -> str:
        return f"{self.file}::{self.test}"


def proofs(folder: Path = HERE) -> list[Proof]:
    """Every test of the folder that names an id, by file and place."""
    found: list[Proof] = []
    for path in sorted(folder.rglob("test_*.py")):
        found += proofs_in(path.read_text(encoding="utf-8"), path.relative_to(folder.parent).as_posix())
    return found


def proofs_in(text: str, file: str) -> list[Proof]:
    tree = ast.parse(text)
    helpers = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and _asserts(node, frozenset())}
    helpers = {name for name in helpers if not name.startswith("test")}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not _always_skipped(node):
            ids = tuple(dict.fromkeys([*_ids_of_name(node.name), *_ids_of_cases(node)]))
            if ids:
                found.append(Proof(file, node.name, ids, _asserts(node, frozenset(helpers))))
    return found


def _ids_of_name(name: str) -> list[str]:
    match = _IN_NAME.match(name)
    return _ID.findall(match[1]) if match else []


def _ids_of_cases(node: ast.FunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and _last(decorator.func) == "parametrize":
            for inner in ast.walk(decorator):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and (m := _CASE.match(inner.value)):
                    yield m[1]


def _always_skipped(node: ast.FunctionDef) -> bool:
    marks = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return any(_last(mark) in ("skip", "xfail") for mark in marks)


def _asserts(node: ast.FunctionDef, helpers: frozenset[str]) -> bool:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assert) and not isinstance(inner.test, ast.Constant):
            return True
        if isinstance(inner, ast.Call):
            name = _last(inner.func)
            if name in _TELLS or name.startswith(_CHECKERS) or name in helpers:
                return True
    return False


def _last(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


# ---------------------------------------------------------------- the page
def by_id(found: list[Proof]) -> dict[str, list[Proof]]:
    table: dict[str, list[Proof]] = {fault: [] for fault in TITLES}
    for proof in found:
        for fault in proof.ids:
            if fault in table and proof.asserts:
                table[fault].append(proof)
    return table


def render(found: list[Proof]) -> str:
    """docs/faults.md. Deterministic: the same tests give the same bytes."""
    table = by_id(found)
    lines = [
        "# Faults and the tests that prove we survive them",
        "",
        "Generated from the names of the tests: `python tests/faults/coverage.py --write docs/faults.md`. Do not edit.",
        "",
        "| part | faults | tested | not testable yet |",
        "|---|---|---|---|",
        *_summary(table),
    ]
    for letter, name in SECTIONS.items():
        lines += ["", f"## {letter} {name}", "", "| id | fault | state |", "|---|---|---|"]
        lines += [f"| {fault} | {TITLES[fault]} | {_state(fault, table[fault])} |" for fault in _of(letter)]
    return "\n".join(lines) + "\n"


def _of(letter: str) -> list[str]:
    return [fault for fault in TITLES if fault.startswith(letter)]


def _summary(table: dict[str, list[Proof]]) -> list[str]:
    rows = []
    for letter, name in SECTIONS.items():
        own = _of(letter)
        rows.append((f"{letter} {name}", len(own), sum(bool(table[f]) for f in own), sum(f in NOT_HERE for f in own)))
    rows.append(("all", *(sum(int(row[k]) for row in rows) for k in (1, 2, 3))))
    return [f"| {name} | {faults} | {tested} | {later} |" for name, faults, tested, later in rows]


def _state(fault: str, tests: list[Proof]) -> str:
    if not tests:
        return f"not here: {NOT_HERE.get(fault, 'MISSING')}"
    more = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
    return f"`{tests[0]}`{more}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the file to write; without it the page is printed")
    args = parser.parse_args(argv)
    page = render(proofs())
    if args.write is None:
        sys.stdout.write(page)
    else:
        args.write.write_text(page, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
