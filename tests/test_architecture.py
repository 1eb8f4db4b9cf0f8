"""The arrows of docs/architecture.md and the bans that go with them, read from the source with `ast`.

Each rule is a function over one file's text, so that the end of this file can break each rule on purpose.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("cognitive", "config", "core", "data", "execution", "llm", "ml_advanced", "portfolio", "risk", "scripts")
OURS = frozenset((*SOURCE, "tests", "benchmarks"))
TOP_FOLDERS = frozenset((*SOURCE, "state", "logs", "tests", "docs", "benchmarks", ".ci"))

_BELOW = frozenset({"config", "core"})
MAY_IMPORT = {
    "core": frozenset(),
    "config": frozenset({"core"}),
    "data": _BELOW,
    "ml_advanced": _BELOW,
    "portfolio": _BELOW,
    "llm": _BELOW,
    "cognitive": _BELOW | {"llm"},
    "risk": _BELOW,
    "execution": _BELOW | {"risk"},
    "scripts": frozenset(SOURCE) - {"scripts"},
}
# The runbook fixes `core.earnings_filter.run_earnings_canary()`; it wires itself, inside the call only.
LAZY_EXCEPTIONS = {"core/earnings_filter.py": frozenset({"config", "data"})}

DOORS = {
    "alpaca": ("execution/alpaca_broker.py", "execution/transport.py", "data/providers/"),
    "polygon": ("data/providers/",),
    "yfinance": ("data/providers/",),
    "anthropic": ("llm/client.py",),
    "sklearn": ("ml_advanced/",),
    "apprise": ("execution/notifier.py",),
    "fastapi": ("execution/venue/", "execution/sidecar.py"),
    "uvicorn": ("execution/venue/", "execution/sidecar.py"),
    "starlette": ("execution/venue/", "execution/sidecar.py"),
}
CLOCK_DOOR = "core/clock.py"
CATCH_ALL_DOORS = (
    "scripts/checks.py", "core/cli.py", "execution/runner.py", "portfolio/strategies/boundary.py",
    "scripts/canaries.py",  # a look at the data that breaks lets nothing be entered, and the exits go on
    "scripts/trading.py",  # a mind that breaks lets nothing be entered, and the exits of that scan go on
    "scripts/breaking.py",  # a breaker that breaks lets nothing be entered, and the exits go on
    "scripts/remembering.py",  # a memory that breaks says nothing; orders and exits go on without it
    "scripts/recording.py",  # telemetry: whatever it raises, the orders have left and the scan counts
    "execution/notifier.py",  # a plug-in of somebody else's must not end the process that tells of trouble
    "execution/drill/run.py",  # a drilled day that ends in a mistake of ours is a finding, told with its seed
)  # fmt: skip

_CLOCK_READS = {
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "Timestamp": {"now", "utcnow", "today"},
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"},
}
_CATCH_ALL = frozenset({"Exception", "BaseException"})


@dataclass(frozen=True)
class Import:
    module: str  # dotted, as written
    line: int
    lazy: bool  # inside a function

    @property
    def top(self) -> str:
        return self.module.split(".", 1)[0]


def imports(tree: ast.AST, *, lazy: bool = False) -> Iterator[Import]:
    """Every import, those under TYPE_CHECKING and `import_module("...")` included."""
    for node in ast.iter_child_nodes(tree):
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                yield Import("relative" if node.level else f"{base}.{alias.name}", node.lineno, lazy)
        elif isinstance(node, ast.Call) and _last(node.func) in ("import_module", "__import__") and node.args:
            named = node.args[0]
            if isinstance(named, ast.Constant) and isinstance(named.value, str):
                yield Import(named.value, node.lineno, lazy)
        yield from imports(node, lazy=inside)


def _last(node: ast.AST) -> str:
    """`a.b.c` -> c; `c` -> c; else empty."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


# ---------------------------------------------------------------- the rules
def wrong_arrows(file: str, tree: ast.AST, commands: frozenset[str] = frozenset()) -> list[str]:
    """`commands`: stems of scripts/ files that are commands; scripts share helpers, never import a command."""
    package = file.split("/", 1)[0]
    wrong = []
    for found in imports(tree):
        if found.top == "relative":
            wrong.append(f"{file}:{found.line} uses a relative import")
        if found.top not in OURS or found.top == package != "scripts":
            continue
        if package == found.top == "scripts":
            bad = any(part in commands for part in found.module.split(".")[1:2])
        else:
            excepted = found.lazy and found.top in LAZY_EXCEPTIONS.get(file, frozenset())
            bad = found.top not in MAY_IMPORT[package] and not excepted
        if bad:
            wrong.append(f"{file}:{found.line} imports {found.module}")
    return wrong


def vendors_past_their_door(file: str, tree: ast.AST) -> list[str]:
    return [
        f"{file}:{found.line} imports {found.module}"
        for found in imports(tree)
        if found.top in DOORS and not any(file == door or _below(file, door) for door in DOORS[found.top])
    ]


def _below(file: str, door: str) -> bool:
    return door.endswith("/") and file.startswith(door)


def clock_reads(file: str, tree: ast.AST) -> list[str]:
    """Calls and mentions of the system clock, under any import alias; durations and sleeps too: they have a port."""
    if file == CLOCK_DOOR:
        return []
    names = {name: name for name in _CLOCK_READS}
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = alias.name
                if isinstance(node, ast.ImportFrom) and node.module == "time" and alias.name in _CLOCK_READS["time"]:
                    wrong.append(f"{file}:{node.lineno} from time import {alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = names.get(_last(node.value), _last(node.value))
            if node.attr in _CLOCK_READS.get(owner, ()) and not _is_port(node.value):
                wrong.append(f"{file}:{node.lineno} {owner}.{node.attr}")
        elif isinstance(node, ast.Call) and _last(node.func) in ("datetime64", "Timestamp", "to_datetime"):
            said = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            wrong += [f"{file}:{node.lineno} {_last(node.func)}({word!r})" for word in said if word in ("now", "today")]
    return wrong


def _is_port(owner: ast.AST) -> bool:
    """`self.time.sleep`, `clock.time` …: an attribute of an object that was handed in, not the module."""
    return isinstance(owner, ast.Attribute) and _last(owner.value) in ("self", "clock", "context")


def catches_everything(file: str, tree: ast.AST) -> list[str]:
    """Catch-all handlers that do not end in a bare `raise` (undo and pass on is allowed), and suppress(Exception)."""
    if file in CATCH_ALL_DOORS:
        return []
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            catch_all = any(kind is None or _last(kind) in _CATCH_ALL for kind in kinds)
            last = node.body[-1]
            passes_on = isinstance(last, ast.Raise) and last.exc is None
            if catch_all and not passes_on:
                wrong.append(f"{file}:{node.lineno} catches everything")
        elif isinstance(node, ast.Call) and _last(node.func) == "suppress":
            names = {_last(arg) for arg in node.args}
            wrong += [f"{file}:{node.lineno} suppresses {name}" for name in sorted(names & _CATCH_ALL)]
    return wrong


# Written in two halves so that this file does not find itself.
_MACHINE = re.compile(r"(?<![\w.$}~-])/(?:wor" + r"k|roo" + r"t|hom" + r"e)/\w")
_REGISTRY = re.compile(
    r"--(?:extra-)?index" + r"-url|files\.python" + r"hosted\.org|\bpypi\." + r"(?:org|python\.org)"
    r"|registry\.npm" + r"js"
    r"|artif" + r"actory\.|jfr" + r"og\.|/simple" + r"/",
    re.IGNORECASE,
)  # fmt: skip


def machine_words(file: str, text: str) -> list[str]:
    return [
        f"{file}:{number} {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), start=1)
        if _MACHINE.search(line) or _REGISTRY.search(line)
    ]


# ---------------------------------------------------------------- the files
def tracked() -> list[str]:
    """Files that are or may be committed; without git, everything outside hidden and generated folders."""
    try:
        listing = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        generated = {"cache", "models", "wf_outputs"}
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        return [
            path.as_posix()
            for path in found
            if path.parts[0] not in generated
            and (len(path.parts) == 1 or not path.parts[0].startswith(".") or path.parts[0] == ".ci")
            and "__pycache__" not in path.parts
        ]
    names = (name for name in done.stdout.decode().split("\0") if name)
    return sorted({name for name in names if (ROOT / name).is_file()})


def sources() -> list[tuple[str, ast.AST]]:
    files = [path for folder in SOURCE for path in sorted((ROOT / folder).rglob("*.py"))]
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in files]


def commands() -> frozenset[str]:
    return frozenset(path.stem for path in (ROOT / "scripts").glob("*.py") if '"__main__"' in path.read_text("utf-8"))


@pytest.fixture(scope="module")
def trees() -> list[tuple[str, ast.AST]]:
    return sources()


def test_there_is_source_to_read(trees: list[tuple[str, ast.AST]]) -> None:
    assert {"core/clock.py", "config/loader.py", "risk/gate.py"} <= {file for file, _ in trees}


def test_imports_follow_the_arrows(trees: list[tuple[str, ast.AST]]) -> None:
    known = commands()
    assert [bad for file, tree in trees for bad in wrong_arrows(file, tree, known)] == []


def test_each_vendor_has_one_door(trees: list[tuple[str, ast.AST]]) -> None:
    assert [bad for file, tree in trees for bad in vendors_past_their_door(file, tree)] == []


def test_only_the_clock_reads_the_system_time(trees: list[tuple[str, ast.AST]]) -> None:
    assert [bad for file, tree in trees for bad in clock_reads(file, tree)] == []


def test_nothing_swallows_every_exception(trees: list[tuple[str, ast.AST]]) -> None:
    assert [bad for file, tree in trees for bad in catches_everything(file, tree)] == []


def test_every_listed_exception_is_still_needed(trees: list[tuple[str, ast.AST]]) -> None:
    """An exception that nobody uses is a hole: the file must exist and use what it was granted."""
    found = dict(trees)
    for file, granted in LAZY_EXCEPTIONS.items():
        if file not in found:
            pytest.skip(f"{file} is not written yet")
        assert granted & {item.top for item in imports(found[file])}, f"{file} no longer needs its exception"


def test_no_machine_and_no_registry_is_named() -> None:
    suffixes = {".py", ".toml", ".yaml", ".yml", ".json", ".md", ".txt", ".sh", ".cfg", ".ini", ""}
    texts = (name for name in tracked() if Path(name).suffix in suffixes)
    found = [bad for name in texts for bad in machine_words(name, (ROOT / name).read_text("utf-8", errors="replace"))]
    assert found == []


def test_the_top_level_folders_are_the_fixed_ones() -> None:
    assert {name.split("/", 1)[0] for name in tracked() if "/" in name} <= TOP_FOLDERS


def test_every_source_folder_is_a_package_with_a_docstring() -> None:
    folders = {path.parent for folder in SOURCE for path in (ROOT / folder).rglob("*.py")}
    missing = []
    for folder in sorted(folders - {ROOT / "scripts"}):
        marker = folder / "__init__.py"
        if not marker.is_file() or not ast.get_docstring(ast.parse(marker.read_text("utf-8"))):
            missing.append(folder.relative_to(ROOT).as_posix())
    assert missing == []


# ---------------------------------------------------------------- each rule, broken on purpose
@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("core/x.py", "import config.loader", True),
        ("core/x.py", "from core.errors import KobeError", False),
        ("core/x.py", "from . import errors", True),
        ("config/x.py", "from core import files", False),
        ("config/x.py", "def f():\n    from data import store", True),
        ("data/x.py", "from portfolio import scan", True),
        ("portfolio/x.py", "import importlib\nimportlib.import_module('execution.desk')", True),
        ("risk/x.py", "from execution import desk", True),
        ("execution/x.py", "from risk.gate import decide", False),
        ("cognitive/x.py", "import llm.client", False),
        ("llm/x.py", "import cognitive", True),
        ("risk/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from portfolio import scan", True),
        ("execution/x.py", "import scripts.wiring", True),
        ("data/x.py", "from tests.fakes import clock", True),
        ("scripts/x.py", "from scripts import wiring", False),
        ("scripts/x.py", "from scripts.scan import main", True),
        ("scripts/x.py", "from scripts import scan", True),
        ("core/earnings_filter.py", "def f():\n    from data import earnings\n    import config.loader", False),
        ("core/earnings_filter.py", "from data import earnings", True),
        ("core/earnings_filter.py", "def f():\n    from portfolio import scan", True),
    ],
)
def test_an_arrow_in_the_wrong_direction_is_found(file: str, code: str, wrong: bool) -> None:
    assert bool(wrong_arrows(file, ast.parse(code), frozenset({"scan"}))) is wrong


@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("execution/desk.py", "from alpaca.trading.client import TradingClient", True),
        ("execution/alpaca_broker.py", "def f():\n    import alpaca.trading", False),
        ("data/providers/alpaca_eod.py", "import alpaca", False),
        ("data/update.py", "from polygon import RESTClient", True),
        ("data/providers/polygon_eod.py", "from polygon import RESTClient", False),
        ("llm/analyzer.py", "import anthropic", True),
        ("scripts/venue.py", "import uvicorn", True),
        ("execution/venue/app.py", "from fastapi import FastAPI", False),
        ("portfolio/quality_gate.py", "from sklearn import svm", True),
    ],
)
def test_a_vendor_past_its_door_is_found(file: str, code: str, wrong: bool) -> None:
    assert bool(vendors_past_their_door(file, ast.parse(code))) is wrong


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("from datetime import datetime, UTC\ndatetime.now(UTC)", True),
        ("import datetime as dt\ndt.datetime.utcnow()", True),
        ("from datetime import date as day\nday.today()", True),
        ("import time\ntime.time()", True),
        ("import time as t\nstart = t.perf_counter", True),
        ("from time import monotonic", True),
        ("import pandas as pd\npd.Timestamp.now()", True),
        ("import pandas as pd\npd.Timestamp('now')", True),
        ("import numpy as np\nnp.datetime64('today')", True),
        ("def f(clock):\n    return clock.now(), clock.monotonic(), clock.sleep(1)", False),
        ("from datetime import datetime\ndatetime.fromisoformat('2024-01-02')", False),
        ("import time\ntime.strptime('1', '%d')", False),
    ],
)
def test_a_clock_read_is_found(code: str, wrong: bool) -> None:
    assert bool(clock_reads("data/x.py", ast.parse(code))) is wrong
    assert clock_reads(CLOCK_DOOR, ast.parse(code)) == []


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("try:\n    f()\nexcept Exception:\n    pass", True),
        ("try:\n    f()\nexcept:\n    pass", True),
        ("try:\n    f()\nexcept (ValueError, BaseException) as e:\n    log(e)", True),
        ("import contextlib\nwith contextlib.suppress(Exception):\n    f()", True),
        ("try:\n    f()\nexcept BaseException:\n    undo()\n    raise", False),
        ("try:\n    f()\nexcept (OSError, ValueError):\n    pass", False),
    ],
)
def test_a_catch_all_is_found(code: str, wrong: bool) -> None:
    assert bool(catches_everything("data/x.py", ast.parse(code))) is wrong
    assert catches_everything("core/cli.py", ast.parse(code)) == []


@pytest.mark.parametrize("first", ["wor", "hom", "roo"])
def test_a_machine_path_is_found(first: str) -> None:
    last = {"wor": "k", "hom": "e", "roo": "t"}[first]
    assert machine_words("x.md", f"see /{first}{last}/main")
    assert not machine_words("x.md", f"{first}{last}/main, https://example.com/{first}{last}/x, {first}{last}()")


def test_a_registry_host_is_found() -> None:
    assert machine_words("x.txt", "--index" + "-url https://example.com/" + "simple" + "/")
    assert machine_words("x.txt", "https://py" + "pi.org/project/kobe")
    assert not machine_words("x.txt", "alpaca-py==0.44.0 # a simple/plain pin")
