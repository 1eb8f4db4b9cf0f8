"""What broker, operator or kill switch made of a decision is the cause that parity names; replay_day and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.canonical import canonical_json
from core.clock import SteppedClock, SystemClock
from core.errors import DataError, UsageError
from core.journal import Journal
from core.journal_record import Record
from scripts import paritying, replay_day, why
from scripts.recomputing import Happened
from tests.fakes.recorded_day import DAY, World, copied, record, use

ENTRY = "kobe-20240304-ibs_rsi-IBS1-buy-entry-1"
Change = Callable[[list[Record]], list[Record]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setattr("config.pin.code_sha256", lambda: "then")
        yield record(tmp_path_factory.mktemp("recorded"), patch)


@pytest.fixture
def world(recorded: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    mine = copied(recorded, tmp_path / "world")
    use(mine, monkeypatch)
    monkeypatch.setattr("config.pin.code_sha256", lambda: "then")
    return mine


def happened_instead(world: World, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """The same day, but its journal tells another story of the orders; record numbers stay."""
    records = change(list(Journal(world.home / "state" / "hash_chain.jsonl", SystemClock()).records()))

    def read(context: Any, days: Sequence[Any]) -> Happened:
        return Happened(records, {int(row["seq"]) for day in days for row in day.rows})

    monkeypatch.setattr(paritying, "read_journal", read)


def of_ibs1(entry: Callable[[Record], Record | None]) -> Change:
    """`entry` changes the records of IBS1's entry; what came of its fill never happened."""

    def change(records: list[Record]) -> list[Record]:
        out = []
        for one in records:
            about = one.body.get("client_order_id"), one.body.get("decision_id")
            if about[0] == ENTRY:
                changed = entry(one)
            else:
                changed = None if about[1] == "20240304-ibs_rsi-IBS1" else one
            out.append(changed if changed is not None else replace(one, kind="nothing"))
        return out

    return change


def with_body(one: Record, kind: str, **more: Any) -> Record:
    return replace(one, kind=kind, body={**one.body, **more})


def rejected(one: Record) -> Record | None:
    if one.kind == "order_acknowledged":
        return with_body(one, "order_rejected", code="ASSET_NOT_TRADABLE")
    return one if one.kind == "order_intended" else None


def unfilled(one: Record) -> Record | None:
    if one.kind == "order_closed":
        return with_body(one, "order_closed", status="canceled", filled_quantity=0, filled_price=None)
    return None if one.kind == "order_filled" else one


def partly(one: Record) -> Record | None:
    if one.kind in ("order_filled", "order_closed"):
        name = "quantity" if one.kind == "order_filled" else "filled_quantity"
        return with_body(one, one.kind, **{name: 1})
    return one


def dearer(one: Record) -> Record | None:
    if one.kind in ("order_filled", "order_closed"):
        name = "price" if one.kind == "order_filled" else "filled_price"
        return with_body(one, one.kind, **{name: str(Decimal(str(one.body[name])) + Decimal("0.05"))})
    return one


def switched_off(one: Record) -> Record | None:
    if one.kind == "order_intended":
        return with_body(one, "order_refused", codes=["KILL_SWITCH"], breaches=["KILL_SWITCH"])
    return None


@pytest.mark.parametrize(
    ("story", "cause"),
    [(rejected, "ORDER_REJECTED"), (unfilled, "ORDER_UNFILLED"), (partly, "ORDER_PARTIAL"), (dearer, "QUOTE"),
     (switched_off, "KILL_SWITCH")],
)  # fmt: skip
def test_against_the_backtest_the_order_is_the_cause(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    story: Callable[[Record], Record | None], cause: str,
) -> None:  # fmt: skip
    happened_instead(world, monkeypatch, of_ibs1(story))
    code, facts = world.parity(capsys, "--against", "backtest")
    assert code == 1
    assert [(d["decision"], d["cause"]) for d in facts["differing"]] == [("entry 20240304-ibs_rsi-IBS1", cause)]


def test_an_order_that_the_switch_stopped_is_told_so(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    happened_instead(world, monkeypatch, of_ibs1(switched_off))
    _, facts = world.parity(capsys, "--against", "then")
    told = {d["decision"]: d["cause"] for d in facts["differing"]}
    assert told["09:35 order 20240304-ibs_rsi-IBS1"] == "KILL_SWITCH"


@pytest.mark.parametrize(
    ("story", "cause"), [(rejected, "ORDER_REJECTED"), (unfilled, "ORDER_UNFILLED"), (partly, "ORDER_PARTIAL")]
)
def test_what_became_of_an_order_is_listed_and_is_no_other_decision(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    story: Callable[[Record], Record | None], cause: str,
) -> None:  # fmt: skip
    happened_instead(world, monkeypatch, of_ibs1(story))
    _, facts = world.parity(capsys, "--against", "then")
    assert [(row["decision"], row["cause"]) for row in facts["execution"]] == [(ENTRY, cause)]
    assert facts["shortfall"]["unknown"] == 1 and facts["shortfall"]["n"] == 2  # the close of that day was not kept


def test_a_fill_above_the_ask_is_impact_to_the_last_digit(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.parity(capsys, "--against", "then")[1]["shortfall"]
    happened_instead(world, monkeypatch, of_ibs1(dearer))
    after = world.parity(capsys, "--against", "then")[1]["shortfall"]
    more = Decimal(after["impact_usd"]) - Decimal(before["impact_usd"])
    assert more > 0 and more % Decimal("0.05") == 0
    parts = ("delay_usd", "spread_usd", "impact_usd", "fees_usd", "missed_usd")
    assert sum(Decimal(after[part]) for part in parts) == Decimal(after["total_usd"])
    assert after["n"] == 3


def test_what_people_did_by_hand_is_listed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(DAY.year, DAY.month, DAY.day, 21, 30, tzinfo=UTC)
    journal = Journal(world.home / "state" / "hash_chain.jsonl", SteppedClock(at))
    journal.append("close_all_done", {"flat": True})
    _, facts = world.parity(capsys, "--against", "then")
    assert [(row["decision"], row["cause"]) for row in facts["execution"]] == [("close_all_done", "MANUAL")]


# ---------------------------------------------------------------- replay_day
def test_a_day_replayed_gives_the_same_bytes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay_day.main([str(DAY), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["same"] and facts["scans"] == [f"{DAY}T09:35", f"{DAY}T15:55"] and facts["decisions"] >= 25
    assert replay_day.main([str(DAY)]) == 0
    assert "the same bytes" in capsys.readouterr().out


def sent_rows(world: World) -> list[dict[str, Any]]:
    return [row for row in world.rows() if row["kind"] == "sent"]


def test_every_order_body_that_left_is_kept_and_made_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(world.home / "state" / "hash_chain.jsonl", SystemClock())
    acknowledged = [r.body["client_order_id"] for r in journal.kinds("order_acknowledged")]
    on_the_day = {row["client_order_id"] for row in sent_rows(world)}
    assert on_the_day and on_the_day == set(acknowledged)
    assert replay_day.main([str(DAY), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bodies"] == len(sent_rows(world))


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda body: body | {"qty": str(int(body["qty"]) + 1)}, True), (lambda body: body | {"extra": "1"}, True),
        (lambda body: body | {"limit_price": body["limit_price"] + "0"}, True),
        (lambda body: body | {"client_order_id": "kobe-other"}, False),
    ],
)  # fmt: skip
def test_a_body_that_left_otherwise_than_decided_is_told(
    world: World, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, str]], dict[str, str]], again: bool
) -> None:
    rows = world.rows()
    row = next(r for r in rows if r["kind"] == "sent" and "limit_price" in json.loads(r["body"]))
    body = change(json.loads(row["body"]))
    row["body"], row["client_order_id"] = canonical_json(body), body["client_order_id"]
    world.write_rows(rows)
    assert replay_day.main([str(DAY), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    (found,) = facts["bytes"]
    assert found["what"] == f"body {body['client_order_id']}" and found["then"] == row["body"]
    assert (found["again"] != "nothing sent") is again
    assert world.parity(capsys)[0] == 0, "a body is no decision"


def test_a_day_of_before_bodies_were_kept_is_the_same_day(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.write_rows([row for row in world.rows() if row["kind"] != "sent"])
    assert replay_day.main([str(DAY), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bodies"] == 0


@pytest.mark.parametrize("kept", [True, False])
def test_on_the_rung_of_one_share_one_share_is_what_is_made_again(
    world: World, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    """The day bought more than one share. A row that says one share, or a journal whose ladder does, makes one."""
    assert any(int(json.loads(row["body"])["qty"]) > 1 for row in sent_rows(world))
    rows = world.rows()
    for row in rows:
        if row["kind"] == "quote":
            assert row.pop("most_shares") is None, "no rung on paper"
            if kept:
                row["most_shares"] = 1
    world.write_rows(rows)
    if not kept:
        on_one_share(world)
    assert replay_day.main([str(DAY), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    made = [json.loads(b["again"]) for b in facts["bytes"] if b["what"].startswith("body") and "-buy-" in b["what"]]
    assert made and {body["qty"] for body in made} == {"1"}


@pytest.mark.parametrize(("short", "again"), [(True, "declined LLM_WHOLE_REFUSED"), (False, f"{ENTRY}: buy 1 ")])
def test_what_the_gate_refuses_whole_is_not_made_again_in_part(
    world: World, capsys: pytest.CaptureFixture[str], short: bool, again: str
) -> None:
    """The day as if a language model had left half of IBS1, with cash for the half only, or for the whole."""
    decision, rows = ENTRY.removeprefix("kobe-").removesuffix("-buy-entry-1"), world.rows()
    body = next(json.loads(r["body"]) for r in sent_rows(world) if r["client_order_id"] == ENTRY)
    assert int(body["qty"]) > 1
    for row in rows:
        if row["kind"] == "scan":
            row["reviews"] = {**row["reviews"], decision: ["1", ["LLM_SHRINK"], None, "0.5"]}
        if row["kind"] == "gate" and row["client_order_id"] == ENTRY and short:
            row["book"]["cash"] = str(int(body["qty"]) * Decimal(body["limit_price"]) - Decimal("0.01"))
    world.write_rows(rows)
    facts = world.parity(capsys)[1]
    (found,) = [d for d in facts["differing"] if d["decision"].endswith(f"order {decision}")]
    assert f"again {again}" in found["detail"]


def on_one_share(world: World) -> None:
    """The same journal, its first record a step of the ladder; chained anew."""
    path = world.home / "state" / "hash_chain.jsonl"
    before = [(r.kind, r.body, r.at) for r in Journal(path, SystemClock()).records()]
    for file in path.parent.glob("hash_chain.*"):
        file.unlink()
    clock = SteppedClock(before[0][2])
    journal, (first, *rest) = Journal(path, clock), before
    assert first[0] not in ("order_intended", "order_filled"), "a record that no decision rests on"
    journal.append(
        "ladder_step", {"from": "shadow", "to": "one_share", "reason": "x", "criteria": [], "evidence": None}
    )
    for kind, body, at in rest:
        clock.set(max(at, clock.now()))
        journal.append(kind, body)


def test_a_number_beside_a_refusal_is_compared_too(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Parity looks at decisions, replay_day at every byte."""
    from scripts.recording import keep_blob, read_blob

    rows = world.rows()
    verdicts = read_blob(world.inputs, rows[0]["verdicts"])
    calm = next(v for v in verdicts if v["symbol"] == "CALM")
    calm["numbers"]["observed"] += 1e-9
    rows[0]["verdicts"] = keep_blob(world.inputs, verdicts)
    world.write_rows(rows)
    assert world.parity(capsys)[0] == 0
    assert replay_day.main([str(DAY), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in facts["bytes"]] == [f"verdict CALM {calm['strategy']}"]


def test_a_day_without_a_record_cannot_be_replayed(world: World) -> None:
    with pytest.raises(DataError, match="nothing was recorded"):
        replay_day.main(["2024-03-06"])


# ---------------------------------------------------------------- why
def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = why.main([*words, "--json"])
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, facts


def test_why_a_symbol_was_bought_shows_the_whole_funnel(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = told(capsys, "ibs1", str(DAY))
    steps = [step["step"] for step in facts["steps"]]
    assert code == 0 and facts["symbol"] == "IBS1"
    assert steps[:4] == ["verdict", "pick", "quote", "gate"] and {
        "order_intended",
        "order_filled",
        "trade_opened",
    } <= set(steps)
    verdict = facts["steps"][0]
    assert verdict["code"] == "PICKED" and verdict["numbers"]["min_score"] == 30 and verdict["numbers"]["vix"] == 15.0


@pytest.mark.parametrize(("symbol", "code"), [("CALM", "NO_SETUP"), ("IBS3", "NO_BAR")])
def test_why_a_refused_symbol_names_its_rule(
    world: World, capsys: pytest.CaptureFixture[str], symbol: str, code: str
) -> None:
    ended, facts = told(capsys, symbol)  # the newest day
    assert ended == 0 and facts["day"] == DAY.isoformat()
    assert {step["code"] for step in facts["steps"]} == {code} and all(step["numbers"] for step in facts["steps"])
    assert why.main([symbol]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_why_a_symbol_that_nobody_asked_for_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = told(capsys, "ZZZ")
    assert code == 1 and not facts["considered"]
    with pytest.raises(UsageError):
        why.main(["no ticker"])
    with pytest.raises(DataError, match="nothing was recorded"):
        why.main(["IBS1", "2024-03-06"])
