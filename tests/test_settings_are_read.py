"""A key that nothing reads is a switch wired to nothing: every leaf of Settings is read somewhere in the source.

A read is an attribute access `<section>.<leaf>`, where `<section>` is written out (`settings.risk.position_limit`), a
local name assigned from it (`run = settings.execution`), or a name annotated with its class (`limits: PolicyGate`).
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pydantic import BaseModel

from config.settings_schema import Settings, leaf_types

ROOT = Path(__file__).resolve().parents[1]
READERS = ("cognitive", "core", "data", "execution", "llm", "ml_advanced", "portfolio", "risk", "scripts")

NOT_READ_YET = {
    "logs.mask_secrets": "can only be true: the schema refuses anything else, and core.logs always masks",
}


def section_classes(model: type[BaseModel] = Settings, path: str = "") -> dict[str, str]:
    """Class name -> dotted section path; the root is ''."""
    found = {model.__name__: path}
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= section_classes(info.annotation, f"{path}.{name}" if path else name)
    return found


class Reads(ast.NodeVisitor):
    """Collects the dotted settings paths that one file reads."""

    def __init__(self, tree: ast.AST) -> None:
        self.paths: set[str] = set()
        self._classes = section_classes()
        self._sections = set(self._classes.values())
        self._leaves = set(leaf_types())
        self._aliases: dict[str, set[str]] = {"settings": {""}}
        for _ in range(2):  # an alias of an alias
            self._collect(tree)
        self.visit(tree)

    def _collect(self, tree: ast.AST) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.arg) and node.annotation is not None:
                self._annotated(node.arg, node.annotation)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self._annotated(node.target.id, node.annotation)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._assigned(target, node.value)

    def _annotated(self, name: str, annotation: ast.expr) -> None:
        words = annotation.value if isinstance(annotation, ast.Constant) else getattr(annotation, "id", "")
        if words in self._classes:
            self._aliases.setdefault(name, set()).add(self._classes[str(words)])

    def _assigned(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=False):
                self._assigned(one, other)
        elif isinstance(target, ast.Name | ast.Attribute):
            name = target.id if isinstance(target, ast.Name) else target.attr
            meant = self._meaning(value) & self._sections
            if meant:
                self._aliases.setdefault(name, set()).update(meant)

    def _meaning(self, node: ast.AST) -> set[str]:
        """The settings paths that an expression may stand for."""
        if isinstance(node, ast.Name):
            return set(self._aliases.get(node.id, ()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_settings":
            return {""}
        if isinstance(node, ast.Attribute):
            inner = {f"{base}.{node.attr}" if base else node.attr for base in self._meaning(node.value)}
            known = {path for path in inner if path in self._sections or path in self._leaves}
            return known | self._aliases.get(node.attr, set())  # self._settings, context.settings
        return set()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.paths |= self._meaning(node) & self._leaves
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """`getattr(weights, name)` and `weights.model_dump()` read the whole section."""
        whole: set[str] = set()
        if getattr(node.func, "id", "") == "getattr" and node.args:
            whole = self._meaning(node.args[0])
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "model_dump":
            whole = self._meaning(node.func.value)
        for section in whole - {""}:
            self.paths |= {leaf for leaf in self._leaves if leaf.startswith(f"{section}.")}
        self.generic_visit(node)


def reads_of(code: str) -> set[str]:
    return Reads(ast.parse(code)).paths


def all_reads() -> set[str]:
    files = [path for folder in READERS for path in (ROOT / folder).rglob("*.py")]
    return set().union(*(reads_of(path.read_text(encoding="utf-8")) for path in files))


def test_every_setting_is_read() -> None:
    unread = sorted(set(leaf_types()) - all_reads() - set(NOT_READ_YET))
    assert not unread, f"nothing reads {', '.join(unread)}"


def test_the_list_of_settings_not_read_yet_is_true() -> None:
    assert set(NOT_READ_YET) <= set(leaf_types()), "a name that is no setting"
    assert sorted(set(NOT_READ_YET) & all_reads()) == [], "read by now: take it off the list"


@pytest.mark.parametrize(
    ("code", "path"),
    [
        ("settings.risk.position_limit", "risk.position_limit"),
        ("run = settings.execution\nrun.max_attempts", "execution.max_attempts"),
        ("a, b = s, settings.selection\nb.top_n.n", "selection.top_n.n"),
        ("def f(limits: PolicyGate): return limits.daily_budget_usd", "risk.policy_gate.daily_budget_usd"),
        ("self.settings.filters.earnings.path", "filters.earnings.path"),
        ("load_settings().venue.seed", "venue.seed"),
        ("def f(w: Weights): return [getattr(w, n) for n in N]", "quality_gate.weights.model"),
    ],
)
def test_a_read_is_recognised(code: str, path: str) -> None:
    assert path in reads_of(code)


@pytest.mark.parametrize("code", ["other.path", "x.risk.position_limit", "settings.risk", "request.enabled"])
def test_a_word_of_the_same_name_is_no_read(code: str) -> None:
    assert reads_of(code) == set()


def test_every_state_document_is_read() -> None:
    """A document of the state manager that only the state manager knows is state nobody uses."""
    manager = ROOT / "portfolio" / "state_manager.py"
    if not manager.is_file():
        pytest.skip("portfolio/state_manager.py is not written yet")
    from portfolio import state_manager

    documents = getattr(state_manager, "DOCUMENTS", None)
    if documents is None:
        pytest.skip("portfolio.state_manager has no DOCUMENTS mapping")
    accessors = document_accessors(manager.read_text(encoding="utf-8"), set(documents))
    used: set[str] = set()
    for path in (path for folder in READERS for path in (ROOT / folder).rglob("*.py") if path != manager):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                used |= {name for name, methods in accessors.items() if node.attr in methods}
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("read", "update") and node.args:
                first = node.args[0]
                used |= {first.value} if isinstance(first, ast.Constant) and isinstance(first.value, str) else set()
    unread = sorted(set(documents) - used)
    assert not unread, f"nothing reads {', '.join(unread)}"


def document_accessors(code: str, documents: set[str]) -> dict[str, set[str]]:
    """Document -> the `get_…` methods that read it."""
    found: dict[str, set[str]] = {name: set() for name in documents}
    for method in ast.walk(ast.parse(code)):
        if isinstance(method, ast.FunctionDef) and method.name.startswith("get_"):
            for node in ast.walk(method):
                if isinstance(node, ast.Constant) and node.value in documents:
                    found[str(node.value)].add(method.name)
    return found
