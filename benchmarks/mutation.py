"""Break the risk checks and the desk on purpose, one small change at a time, and see whether a test notices.

  python benchmarks/mutation.py                       every target (some 30 minutes on two cores)
  python benchmarks/mutation.py risk/gate.py          one file
  python benchmarks/mutation.py --sample 100 --seed 3 a seeded sample of all
A mutant is one change of one node of the syntax tree: a comparison moved by its boundary or turned round, `and` for
`or`, a condition made always true or false, a number moved by one, a statement left out, a result made None. Each runs
in a process of its own against the tests named in TARGETS; it is killed when one of them fails or hangs.
EQUIVALENT lists the survivors that change nothing anybody can see, each with its reason; a line of it that is no
survivor any more fails the run, so that the list cannot rot.
Exit: 0 at least --least of the mutants are killed and no survivor is unexplained · 1 not · 2 usage
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

_RISK = ("tests/risk", "tests/execution/test_desk.py", "tests/faults/test_B_wire.py", "tests/faults/test_B_life.py")
_DESK = (
    "tests/execution/test_desk.py", "tests/faults/test_B_wire.py", "tests/faults/test_B_life.py",
    "tests/execution/test_session.py", "tests/execution/test_emergency.py", "tests/execution/test_protection.py",
    "tests/execution/test_recovery.py",
)  # fmt: skip
_HALT = (
    "tests/risk", "tests/execution/test_admission.py", "tests/execution/test_transport.py",
    "tests/faults/test_O_emergency.py", "tests/execution/test_desk.py", "tests/execution/test_session.py",
)  # fmt: skip
TARGETS: dict[str, tuple[str, ...]] = {
    "risk/gate.py": _RISK,
    "risk/exposure.py": _RISK,
    "risk/kill_switch.py": _HALT,
    "risk/runaway.py": _HALT,
    "execution/desk.py": _DESK,
    "execution/recovery.py": _DESK,
    "execution/order_states.py": ("tests/execution/test_order_states.py", *_DESK),
}
EQUIVALENT_FILE = ROOT / "benchmarks" / "mutation_equivalent.json"
TIMEOUT_S = 240.0


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: where it is, what it says, and the whole changed source."""

    file: str
    line: int
    what: str
    source: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.what}"


# ---------------------------------------------------------------- making mutants
_COMPARE = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitOr: ast.BitAnd}
_SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """Every way to change this one node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in _COMPARE.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [other()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for index in range(len(node.values)):
            rest = node.values[:index] + node.values[index + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_type(node):
        yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
        if node.value:
            yield ast.Constant(node.value - 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper():
        yield ast.Constant(f"{node.value}_X")  # a reason code
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SWAPPED:
        yield ast.Call(ast.Name(_SWAPPED[node.func.id], ast.Load()), node.args, node.keywords)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        for value in (True, False):
            if not (isinstance(node, ast.While) and value):
                changed = copy.copy(node)
                changed.test = ast.Constant(value)
                yield changed
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield ast.Return(ast.Constant(None))
    elif _is_call_alone(node) or isinstance(node, ast.Raise | ast.Continue | ast.Break | ast.AugAssign):
        yield ast.Pass()


def _is_call_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_type(node: ast.BinOp) -> bool:
    """`A | B` between names is a type, not arithmetic."""
    values = ast.Set | ast.Dict | ast.Call | ast.Attribute
    return isinstance(node.op, ast.BitOr) and not isinstance(node.left, values)


_SKIPPED_CALLS = {"field", "NewType", "TypeVar"}


def _places(tree: ast.Module) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """(parent, field, index, node) of everything that runs: no docstrings, annotations, defaults of fields, logs."""
    stack: list[ast.AST] = [tree]
    while stack:
        parent = stack.pop()
        for name, value in ast.iter_fields(parent):
            if name in ("annotation", "returns", "decorator_list", "type_comment", "bases"):
                continue
            children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for index, child in children:
                if not isinstance(child, ast.AST) or _left_out(child):
                    continue
                yield parent, name, index, child
                stack.append(child)


def _left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Assert):
        return True
    if isinstance(node, ast.Expr):
        call = node.value
        if isinstance(call, ast.Constant):
            return True
        return isinstance(call, ast.Call) and ast.unparse(call.func).startswith("logs.")  # told to people, not a check
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SKIPPED_CALLS


def mutants_of(file: str) -> list[Mutant]:
    source = (ROOT / file).read_text(encoding="utf-8")
    tree = ast.parse(source)
    found: dict[str, Mutant] = {}
    for parent, name, index, node in list(_places(tree)):
        for variant in _variants(node):
            made = _replaced(tree, parent, name, index, variant)
            text = ast.unparse(ast.fix_missing_locations(made))
            line = getattr(node, "lineno", 0)
            what = f"{_scope(tree, line)}: {_short(node)} -> {_short(variant)}"
            number = 1
            while (key := what if number == 1 else f"{what} #{number}") in found:
                number += 1
            found[key] = Mutant(file, line, key, text)
    return list(found.values())


def _replaced(tree: ast.Module, parent: ast.AST, name: str, index: int | None, new: ast.AST) -> ast.Module:
    before = getattr(parent, name)
    if index is None:
        setattr(parent, name, new)
    else:
        setattr(parent, name, [*before[:index], new, *before[index + 1 :]])
    made = copy.deepcopy(tree)
    setattr(parent, name, before)
    return made


def _scope(tree: ast.Module, line: int) -> str:
    """The innermost function or class around a line: names last longer than line numbers."""
    best = "module"
    size = 10**9
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.lineno <= line <= (node.end_lineno or 0):
            length = (node.end_lineno or 0) - node.lineno
            if length < size:
                best, size = node.name, length
    return best


def _short(node: ast.AST) -> str:
    if isinstance(node, ast.If | ast.While):
        return f"if {ast.unparse(node.test)}"
    text = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return text if len(text) <= 90 else text[:87] + "..."


# ---------------------------------------------------------------- running them
_CHILD = """
import importlib.abc, importlib.util, pathlib, sys
name, path, mutated = sys.argv[1:4]
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, where, target=None):
        return importlib.util.spec_from_file_location(fullname, path, loader=self) if fullname == name else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(compile(pathlib.Path(mutated).read_text(encoding="utf-8"), path, "exec"), module.__dict__)
sys.meta_path.insert(0, Finder())
import pytest
sys.exit(pytest.main(["-x", "-q", "-n", "0", "--no-header", "--timeout", "60", *sys.argv[4:]]))
"""


def killed(mutant: Mutant, tests: Sequence[str]) -> bool:
    """Whether a test failed, an import failed, or nothing ended in time; FileNotFoundError when no test was found."""
    module = mutant.file.removesuffix(".py").replace("/", ".")
    with tempfile.TemporaryDirectory(prefix="kobe-mutant-") as folder:
        changed = Path(folder) / "mutated.py"
        changed.write_text(mutant.source, encoding="utf-8")
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_STORAGE_DIRECTORY": folder}
        command = [sys.executable, "-c", _CHILD, module, str(ROOT / mutant.file), str(changed), *tests]
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return True
    if done.returncode not in (0, 1, 2):  # 1 a test failed, 2 an import failed; more is pytest itself, no verdict
        raise FileNotFoundError(f"pytest exit {done.returncode}: {done.stdout.decode(errors='replace')[-300:]}")
    return done.returncode != 0


def unchanged(file: str) -> Mutant:
    """The file as it is: its tests must pass on it, or a verdict about a mutant says nothing."""
    return Mutant(file, 0, "unchanged", ast.unparse(ast.parse((ROOT / file).read_text(encoding="utf-8"))))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="*", help=f"of {', '.join(TARGETS)}; default all")
    p.add_argument("--sample", type=int, help="this many, chosen by --seed")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    p.add_argument("--least", type=float, default=0.95, help="share of the mutants that must be killed")
    p.add_argument("--show-all", action="store_true", help="name the killed as well")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    unknown = set(args.files) - set(TARGETS)
    if unknown:
        parser().error(f"no target: {', '.join(sorted(unknown))}")
    chosen = [m for file in args.files or TARGETS for m in mutants_of(file)]
    if args.sample is not None and args.sample < len(chosen):
        chosen = random.Random(args.seed).sample(chosen, args.sample)
    explained: dict[str, str] = json.loads(EQUIVALENT_FILE.read_text("utf-8")) if EQUIVALENT_FILE.exists() else {}
    failing = [file for file in dict.fromkeys(m.file for m in chosen) if killed(unchanged(file), TARGETS[file])]
    if failing:
        print(f"the tests fail without any change: {', '.join(failing)}; mend them first")
        return 1
    survivors, began = [], time.perf_counter()
    with ThreadPoolExecutor(args.workers) as pool:
        verdicts = pool.map(lambda m: killed(m, TARGETS[m.file]), chosen)
        for number, (mutant, dead) in enumerate(zip(chosen, verdicts, strict=True), start=1):
            if not dead:
                survivors.append(mutant)
                print(f"SURVIVED {mutant.file}:{mutant.line} {mutant.what}", flush=True)
            elif args.show_all:
                print(f"killed   {mutant.file}:{mutant.line} {mutant.what}", flush=True)
            if number % 50 == 0:
                print(f"{number}/{len(chosen)}  {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return _verdict(chosen, survivors, explained, whole=args.sample is None, least=args.least)


def _verdict(
    chosen: Sequence[Mutant], survivors: Sequence[Mutant], explained: dict[str, str], *, whole: bool, least: float
) -> int:
    unexplained = [m for m in survivors if m.name not in explained]
    alive = {m.name for m in survivors}
    asked = {m.file for m in chosen}
    stale = [n for n in explained if whole and n.split(":")[0] in asked and n not in alive]
    share = 1 - len(unexplained) / max(1, len(chosen))
    raw = 1 - len(survivors) / max(1, len(chosen))
    print(f"mutants {len(chosen)}  killed {len(chosen) - len(survivors)} ({raw:.1%})  survivors explained "
          f"{len(survivors) - len(unexplained)}  unexplained {len(unexplained)}  score {share:.1%}")  # fmt: skip
    for name in stale:
        print(f"STALE explanation, it is killed now or gone: {name}")
    return 0 if raw >= least and not stale else 1


if __name__ == "__main__":
    sys.exit(main())
