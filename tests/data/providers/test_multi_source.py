from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import DataError, StateCorrupt
from core.paths import home
from data.providers.base import FailureKind, NotSupported, ProviderBase, ProviderFailure
from data.providers.multi_source import MultiSource, ProviderStats, get_provider_stats

REPO = Path(__file__).resolve().parents[3]


def path() -> Path:
    return home().state / "provider_stats.json"


def provider(name, clock, simulated=False):
    return ProviderBase(name, clock, simulated=simulated, calendar=None)


def failing(source, kind=FailureKind.UNAVAILABLE):
    raise ProviderFailure(source.name, kind, "down")


def test_the_next_vendor_is_tried_in_order_and_reasons_are_kept(clock):
    multi = MultiSource([provider(n, clock) for n in ("a", "b", "c")], ProviderStats(path(), clock), clock)
    asked = []

    def work(source):
        asked.append(source.name)
        return multi.ask(source, lambda: failing(source) if source.name == "a" else 7)

    source, result, reasons = multi.attempt(work)
    assert (source.name, result, asked) == ("b", 7, ["a", "b"])
    assert reasons == ("a: unavailable: down",)
    stats = get_provider_stats()
    assert stats["a"]["success_rate"] == 0.0 and stats["a"]["kinds"] == {"unavailable": 1}
    assert stats["b"]["success_rate"] == 1.0
    assert "c" not in stats


def test_when_all_fail_each_reason_is_named(clock):
    multi = MultiSource([provider("a", clock), provider("b", clock)], ProviderStats(path(), clock), clock)

    def work(source):
        if source.name == "b":
            raise NotSupported("b has no such thing")
        failing(source, FailureKind.RATE_LIMITED)

    with pytest.raises(DataError, match=r"a: rate_limited: down; b: NOT_SUPPORTED") as caught:
        multi.attempt(work)
    assert caught.value.code == "ALL_PROVIDERS_FAILED"
    with pytest.raises(DataError, match="no data provider is configured"):
        MultiSource([], ProviderStats(path(), clock), clock).attempt(work)


def test_three_failures_in_a_row_rest_a_vendor_for_five_minutes(clock):
    source = provider("a", clock)
    multi = MultiSource([source], ProviderStats(path(), clock), clock)
    calls = []

    def work(one):
        calls.append(one)
        failing(one)

    for _ in range(4):
        with pytest.raises(DataError):
            multi.attempt(work)
    assert len(calls) == 3
    clock.sleep(299)
    with pytest.raises(DataError, match="skipped"):
        multi.attempt(work)
    clock.sleep(1)
    with pytest.raises(DataError, match="down"):
        multi.attempt(work)
    assert len(calls) == 4


def test_simulated_and_real_vendors_never_stand_together(clock):
    with pytest.raises(ValueError, match="simulated"):
        MultiSource([provider("a", clock), provider("s", clock, True)], ProviderStats(path(), clock), clock)


def test_an_unknown_symbol_is_an_answer(clock):
    stats = ProviderStats(path(), clock)
    stats.record("a", ProviderFailure("a", FailureKind.UNKNOWN_SYMBOL, "x"))
    stats.flush()
    assert get_provider_stats()["a"]["success"] == 1


def test_no_stats_yet_and_damaged_stats(clock):
    assert get_provider_stats() == {}
    path().parent.mkdir(parents=True)
    path().write_text('{"schema_version": 1, "prov')
    with pytest.raises(StateCorrupt):
        get_provider_stats()
    stats = ProviderStats(path(), clock)
    stats.record("a", None)
    stats.flush()
    assert get_provider_stats()["a"]["success"] == 1
    assert path().with_suffix(".damaged").exists()


def test_counts_are_shared_by_processes_and_survive_them(clock):
    program = (
        "from core.clock import SystemClock\n"
        "from core.paths import home\n"
        "from data.providers.multi_source import ProviderStats\n"
        "for _ in range(20):\n"
        "    stats = ProviderStats(home().state / 'provider_stats.json', SystemClock())\n"
        "    stats.record('a', None)\n"
        "    stats.flush()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], cwd=REPO) for _ in range(2)]
    assert [one.wait(60) for one in running] == [0, 0]
    stats = ProviderStats(path(), clock)
    stats.record("a", None)
    stats.flush()
    assert json.loads(path().read_text())["providers"]["a"]["success"] == 41
