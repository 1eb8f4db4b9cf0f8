"""What each rung asks, from both sides of every number, read out of a journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.settings_schema import Settings
from core.clock import SteppedClock
from core.journal import Journal
from execution.ladder import Evidence, LadderHistory, Rung, criteria, unmet
from tests.fakes.trading import NOW

NEEDS = Settings().ladder.model_copy(
    update={"replay_sessions": 3, "paper_sessions": 3, "paper_fills": 2, "shadow_sessions": 2, "shadow_intents": 2,
            "one_share_sessions": 2, "one_share_fills": 1, "missed_max_pct": 0.25}
)  # fmt: skip


def scans(sessions: int, *, breaks: int = 0) -> list[tuple[str, dict[str, Any]]]:
    return [("scan_run", {"run": f"2024-03-{day + 1:02d}T09:35", "code": "OK", "breaks": breaks})
            for day in range(sessions)]  # fmt: skip


def filled(*ids: str) -> list[tuple[str, dict[str, Any]]]:
    return [("order_filled", {"client_order_id": cid, "quantity": 1}) for cid in ids]


def bound(mode: str) -> tuple[str, dict[str, Any]]:
    return "account_bound", {"id": "a", "number": "n", "mode": mode}


def read(path: Path, *records: tuple[str, dict[str, Any]], after: int = 0, unsettled: int = 0) -> Evidence:
    journal = Journal(path / "chain.jsonl", SteppedClock(NOW))
    for kind, body in records:
        journal.append(kind, body)
    return Evidence.of(journal.records(), after=after, unsettled=unsettled)


def lacking(to: Rung, found: Evidence) -> list[str]:
    return [c.name for c in unmet(criteria(to, found, NEEDS))]


ENTRY = "kobe-20240304-ibs_rsi-AAA-buy-entry-1"
ENTRY_2 = "kobe-20240305-ibs_rsi-AAA-buy-entry-1"
EXIT = "kobe-20240304-ibs_rsi-AAA-sell-exit-1"


def test_paper_wants_a_replay_that_traded(tmp_path: Path) -> None:
    assert lacking(Rung.PAPER, read(tmp_path, *scans(3), *filled(ENTRY, EXIT))) == []
    assert lacking(Rung.PAPER, read(tmp_path / "a", *scans(2), *filled(ENTRY))) == ["sessions replayed"]
    assert lacking(Rung.PAPER, read(tmp_path / "b", *scans(3), *filled(EXIT))) == ["entries filled"]


def test_shadow_wants_sessions_and_fills_on_the_paper_account(tmp_path: Path) -> None:
    good = [bound("paper"), *scans(3), *filled(ENTRY, ENTRY_2)]
    assert lacking(Rung.SHADOW, read(tmp_path, *good)) == []
    assert lacking(Rung.SHADOW, read(tmp_path / "a", bound("live"), *good[1:])) == ["the account's mode"]
    assert lacking(Rung.SHADOW, read(tmp_path / "b", *good[1:])) == ["the account's mode"]
    twice = [bound("paper"), *scans(3), *filled(ENTRY, ENTRY)]
    assert lacking(Rung.SHADOW, read(tmp_path / "c", *twice)) == ["entries filled"], "one order filled in two parts"


def missed(count: int, code: str = "OVERSLEPT") -> list[tuple[str, dict[str, Any]]]:
    return [("run_missed", {"run": f"2024-04-{n + 1:02d}T09:35", "code": code}) for n in range(count)]


def test_missed_scans_count_up_to_their_share_and_half_days_that_are_skipped_do_not(tmp_path: Path) -> None:
    good = [bound("paper"), *scans(3), *filled(ENTRY, ENTRY_2)]
    assert lacking(Rung.SHADOW, read(tmp_path, *good, *missed(1))) == []  # 1 of 4 is the limit itself
    assert lacking(Rung.SHADOW, read(tmp_path / "a", *good, *missed(2))) == ["scans missed"]
    assert lacking(Rung.SHADOW, read(tmp_path / "b", *good, *missed(9, "SKIPPED_HALF_DAY"))) == []
    long_gone = ("runs_missed", {"first": "x", "last": "y", "sessions": 1, "runs": 3, "code": "NOT_RUNNING"})
    assert lacking(Rung.SHADOW, read(tmp_path / "c", *good, long_gone)) == ["scans missed"]


def kept_back(count: int) -> list[tuple[str, dict[str, Any]]]:
    return [("order_not_sent", {"client_order_id": f"c{n}", "code": "SHADOW_LIVE"}) for n in range(count)]


def test_one_share_wants_live_sessions_in_which_orders_were_decided_and_none_left(tmp_path: Path) -> None:
    good = [bound("live"), *scans(2), *kept_back(2)]
    assert lacking(Rung.ONE_SHARE, read(tmp_path, *good)) == []
    assert lacking(Rung.ONE_SHARE, read(tmp_path / "a", *good[:-1])) == ["orders decided and kept back"]
    left = ("order_acknowledged", {"client_order_id": "c", "order_id": "o", "status": "new"})
    assert lacking(Rung.ONE_SHARE, read(tmp_path / "b", *good, left)) == ["orders that left"]


def test_full_wants_fills_with_one_share_and_no_watchdog(tmp_path: Path) -> None:
    good = [bound("live"), *scans(2), *filled(ENTRY)]
    assert lacking(Rung.FULL, read(tmp_path, *good)) == []
    tripped = ("watchdog_tripped", {"code": "RUNNER_STALLED"})
    assert lacking(Rung.FULL, read(tmp_path / "a", *good, tripped)) == ["watchdog trips"]


def test_only_what_follows_the_step_is_evidence_for_the_next(tmp_path: Path) -> None:
    before = [bound("live"), *scans(2), *kept_back(2)]
    found = read(tmp_path, *before, after=len(before))
    assert found.account_mode == "live" and found.sessions == set()
    assert "sessions in the shadow" in lacking(Rung.ONE_SHARE, found)


@pytest.mark.parametrize(("unsettled", "breaks", "bugs"), [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_nothing_open_no_break_and_no_bug_at_any_rung(tmp_path: Path, unsettled: int, breaks: int, bugs: int) -> None:
    bug = [("run_failed", {"run": "2024-03-01T09:35", "code": "BUG", "detail": "x"})] * bugs
    found = read(tmp_path, bound("live"), *scans(2, breaks=breaks), *filled(ENTRY), *bug, unsettled=unsettled)
    assert len(lacking(Rung.FULL, found)) == 1
    assert "breaks at the last scan" in lacking(Rung.FULL, Evidence(account_mode="live")), "unknown meets nothing"


def test_everybody_begins_at_replay_and_the_top_has_no_next() -> None:
    assert LadderHistory().rung is Rung.REPLAY and Rung.FULL.next is None
    assert [rung.next for rung in Rung][:-1] == list(Rung)[1:]
    assert [rung.trades_live for rung in Rung] == [False, False, True, True, True]
    with pytest.raises(ValueError, match="begins"):
        criteria(Rung.REPLAY, Evidence(), NEEDS)
