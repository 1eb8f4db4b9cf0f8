"""Where the units of a walk-forward are worked out: here, or in the processes of a Dask cluster, through joblib.

Here: where the system forks (Linux), processes that inherit all that was prepared, so that they cost nothing to start;
elsewhere threads, because a process of its own would spend longer starting than a dozen sets take. Threads share the
panel, but also Python's lock between numpy's steps. A cluster's workers map the panel from the file that we write;
workers on machines that do not see the file are sent it once. Every worker must run our code on our numpy, else the
same inputs could give other bytes: checked before the first unit.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from config.strategy_params import CommonParams, StrategyParams
from core import logs
from core.errors import ConfigError
from core.panel import Panel
from core.panel_file import PanelFolder
from core.paths import REPO_ROOT
from portfolio.backtest.costs import CostModel
from portfolio.backtest.walk_forward import Plan, Unit, evaluate
from portfolio.strategies.indicators import Prepared, prepare

CONNECT_S = 10.0
_PLUGIN = "kobe-code"


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Parameter sets still to be evaluated, by position, and what every one of them needs."""

    sets: Sequence[tuple[int, StrategyParams]]
    prepared: dict[CommonParams, Prepared]
    plan: Plan
    costs: CostModel


def local(work: Work, workers: int) -> Iterator[tuple[int, Unit]]:
    """(position, unit) as they are finished."""
    if workers == 1 or len(work.sets) == 1:
        for number, params in work.sets:
            yield number, evaluate(work.prepared[params.common], params, work.plan, work.costs)
        return
    global _inherited
    _inherited = work
    try:
        yield from (_forked if multiprocessing.get_start_method() == "fork" else _threaded)(len(work.sets), workers)
    finally:
        _inherited = None


def _forked(count: int, workers: int) -> Iterator[tuple[int, Unit]]:
    """Not through joblib: its processes are new Pythons, or it hands their results over only at the very end."""
    from concurrent.futures import ProcessPoolExecutor, as_completed

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        for done in as_completed([pool.submit(_at, place) for place in range(count)]):
            yield done.result()


def _end_with_parent() -> None:
    """A worker whose run was killed would wait for its next set for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True, name="parent").start()


def _threaded(count: int, workers: int) -> Iterator[tuple[int, Unit]]:
    from joblib import Parallel, delayed

    pool = Parallel(n_jobs=workers, backend="threading", return_as="generator_unordered", batch_size=1)
    yield from pool(delayed(_at)(place) for place in range(count))


_inherited: Work | None = None
"""What is being worked out: a forked process finds it here as it was, a thread shares it."""


def _at(place: int) -> tuple[int, Unit]:
    assert _inherited is not None
    number, params = _inherited.sets[place]
    return number, evaluate(_inherited.prepared[params.common], params, _inherited.plan, _inherited.costs)


# ---------------------------------------------------------------- Dask
@dataclass(frozen=True, slots=True)
class PanelFile:
    """A panel that every process on this machine can map."""

    folder: str
    key: str


@lru_cache(maxsize=1)
def _mapped(file: PanelFile) -> Panel:
    found = PanelFolder(Path(file.folder)).open(file.key)
    if found is None:
        raise FileNotFoundError(f"{file.folder}: no panel {file.key}")
    return found[0]


@lru_cache(maxsize=4)
def _prepared(panel: Panel, common: CommonParams) -> Prepared:
    """Once a worker; panels are told apart by being the same object."""
    return prepare(panel, common)


@lru_cache(maxsize=1)
def _sent(file: PanelFile, held: bytes) -> Panel:
    panel: Panel = pickle.loads(held)
    return panel


def _unit_on_worker(
    number: int, file: PanelFile, params: StrategyParams, plan: Plan, costs: CostModel, held: bytes | None
) -> tuple[int, Unit]:
    panel = _mapped(file) if held is None else _sent(file, held)
    return number, evaluate(_prepared(panel, params.common), params, plan, costs)


def _caller() -> Callable[[bytes, bytes | None], tuple[int, Unit]]:
    """What a task is. It travels by value and its arguments as bytes: a scheduler reads its tasks, and has no need of
    our code."""

    def call(task: bytes, held: bytes | None) -> tuple[int, Unit]:
        import pickle

        function, arguments = pickle.loads(task)
        done: tuple[int, Unit] = function(*arguments, held)
        return done

    return call


def _facts(file: PanelFile) -> tuple[str, str, bool]:
    """Of the worker that is asked: its code, its numpy, whether it sees the panel's file."""
    from config.pin import code_sha256

    return code_sha256(), np.__version__, PanelFolder(Path(file.folder)).open(file.key) is not None


def on_dask(work: Work, panel: Panel, file: PanelFile, address: str | None, workers: int) -> Iterator[tuple[int, Unit]]:
    """(position, unit) as they are finished, on the cluster at `address`; None: a cluster of our own.

    Raises ConfigError: DASK_ABSENT, DASK_UNREACHABLE, DASK_NO_WORKERS, DASK_WORKER_DIFFERS, DASK_FAILED.
    """
    try:
        from distributed import KilledWorker
        from joblib import Parallel, delayed, parallel_config
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed", code="DASK_ABSENT", advice='pip install "dask[distributed]"'
        ) from None
    place = PanelFolder(Path(file.folder))
    if place.open(file.key) is None:
        place.save(file.key, panel, {})
    with _client(address, workers) as client:
        held = None if _checked(client, file) else pickle.dumps(panel, protocol=5)
        tasks = [
            pickle.dumps((_unit_on_worker, (number, file, params, work.plan, work.costs)))
            for number, params in work.sets
        ]
        sent: dict[str, Any] = {} if held is None else {"scatter": [held]}
        try:
            with parallel_config(backend="dask", **sent):
                pool = Parallel(n_jobs=-1, return_as="generator_unordered", batch_size=1)
                yield from pool(delayed(_caller())(task, held) for task in tasks)
        except (KilledWorker, OSError) as error:
            raise ConfigError(
                f"the cluster lost its workers: {error}", code="DASK_FAILED", advice="run again: finished sets are kept"
            ) from error


@contextlib.contextmanager
def _client(address: str | None, workers: int) -> Iterator[Any]:
    """A client of the cluster, with at least one worker behind it; closed at the end, our own cluster too."""
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as ends:
        if address is None:
            own = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
                silence_logs=50,
            )  # fmt: skip
            address = ends.enter_context(own).scheduler_address
        try:
            client = ends.enter_context(Client(address, timeout=CONNECT_S))  # type: ignore[no-untyped-call]
        except (OSError, ValueError, TimeoutError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {address}: {error}", code="DASK_UNREACHABLE", advice="check --scheduler"
            ) from error
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError:
            raise ConfigError(
                f"the Dask scheduler at {address} has no workers", code="DASK_NO_WORKERS",
                advice=f"start some: dask worker {address}",
            ) from None  # fmt: skip
        yield client


def _checked(client: Any, file: PanelFile) -> bool:
    """Whether every worker sees the panel's file. Raises ConfigError when one would not compute what we do."""
    client.register_plugin(_code_finder(str(REPO_ROOT)), name=_PLUGIN)
    from config.pin import code_sha256

    ours = (code_sha256(), np.__version__)
    told: dict[str, Any] = client.run(_facts, file, on_error="return")
    for worker, facts in sorted(told.items()):
        if isinstance(facts, BaseException) or facts[:2] != ours:
            what = f"{facts!r}" if isinstance(facts, BaseException) else "its code or numpy is another"
            raise ConfigError(
                f"the Dask worker {worker} cannot work for us: {what}", code="DASK_WORKER_DIFFERS",
                advice="start it in the same environment, with this checkout on PYTHONPATH",
            )  # fmt: skip
    mapped = all(facts[2] for facts in told.values())
    if not mapped:
        logs.event("walk_panel_sent", workers=len(told))
        logs.count("walk_panel_sent")
    return mapped


def _code_finder(root: str) -> Any:
    """A plugin that makes our checkout importable on present and later workers. Defined in here, so that it travels by
    value: a worker cannot yet import us."""
    from distributed import WorkerPlugin

    class CodeFinder(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            if root not in sys.path:
                sys.path.insert(0, root)

    return CodeFinder()
