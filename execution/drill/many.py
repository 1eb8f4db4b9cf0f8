"""Many seeds on several processes. A seed's result depends on nothing but the seed, so the split changes nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context

from execution.drill.plan import plan_for
from execution.drill.ports import Ports
from execution.drill.run import Drill, Result, hosted

MakePorts = Callable[[], Ports]
_CHUNK = 5  # seeds handed to a worker at a time
_KEPT = frozenset({
    "PATH", "HOME", "USERPROFILE", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "LANG", "LC_ALL", "TZ", "KOBE_HOME",
    "NO_PROXY", "VIRTUAL_ENV",
})  # fmt: skip


@dataclass
class _Worker:
    """What one process keeps between two seeds."""

    drill: Drill
    families: frozenset[str]
    tell: bool


_worker: _Worker | None = None
_open = ExitStack()


def run_seeds(
    make_ports: MakePorts, seeds: Sequence[int], families: frozenset[str], *, workers: int, tell: bool = False
) -> Iterator[Result]:
    """Results in the order of the seeds. Stories are kept for violations, and for every seed when `tell`."""
    if workers <= 1:
        with hosted() as host:
            drill = Drill(host, make_ports())
            for seed in seeds:
                yield _kept(drill.run(plan_for(seed, families)), tell=tell)
        return
    context = get_context("spawn")  # the same on every system, and no thread of ours is copied
    pool = ProcessPoolExecutor(workers, context, _begin, (make_ports, families, tell))
    try:
        yield from pool.map(_one, seeds, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the days under way, not for all of them


def _begin(make_ports: MakePorts, families: frozenset[str], tell: bool) -> None:
    """A worker's start: Ctrl-C is the parent's, and no key or address of the operator's is in reach."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in set(os.environ) - _KEPT:
        del os.environ[name]
    host = _open.enter_context(hosted())
    _worker = _Worker(Drill(host, make_ports()), families, tell)


def _one(seed: int) -> Result:
    assert _worker is not None  # _begin ran
    return _kept(_worker.drill.run(plan_for(seed, _worker.families)), tell=_worker.tell)


def _kept(result: Result, *, tell: bool) -> Result:
    return result if tell or not result.clean else replace(result, story=())
