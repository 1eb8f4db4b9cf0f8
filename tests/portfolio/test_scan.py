"""A scan: one verdict per considered symbol, the picks, and what each rule refuses."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest

from config.settings_schema import Settings
from core.bars_io import BarColumns
from core.domain import Mode, Symbol
from core.panel import Panel
from portfolio.scan import ScanResult, vix_scale
from portfolio.strategies import signals_at
from tests.fakes.small_scan import (
    AS_OF,
    DAYS,
    NEXT,
    PANEL,
    PARAMS,
    SESSION,
    SYMBOLS,
    Announcements,
    Critic,
    Model,
    Silent,
    bars,
    scan,
)
from tests.portfolio.market import columns, rising


def codes(result: ScanResult) -> dict[str, str]:
    return {verdict.symbol: verdict.code for verdict in result.verdicts}


def test_every_considered_symbol_has_exactly_one_verdict() -> None:
    result = scan()
    assert codes(result) == {
        "BAD": "BAR_RANGE", "CALM": "NO_SETUP", "CHEAP": "NO_SETUP", "IBS1": "PICKED", "IBS2": "PICKED",
        "LATE": "NO_BAR", "NONE": "NO_BAR", "SOUP": "PICKED", "YOUNG": "HISTORY_SHORT",
    }  # fmt: skip
    assert result.considered == len(SYMBOLS) == len(result.picks) + sum(result.refused.values())
    assert result.refused == {"BAR_RANGE": 1, "HISTORY_SHORT": 1, "NO_BAR": 2, "NO_SETUP": 2}
    numbers = {v.symbol: v.numbers for v in result.verdicts}
    assert numbers[Symbol("YOUNG")] == {"bars": 199, "needed": 200}
    assert numbers[Symbol("LATE")]["last_bar"] == DAYS[-2].isoformat()


def test_no_setup_names_the_nearest_rule_with_its_numbers() -> None:
    verdicts = {v.symbol: v for v in scan().verdicts}
    cheap = verdicts[Symbol("CHEAP")]
    assert (cheap.strategy, cheap.rule, cheap.numbers["limit"]) == ("ibs_rsi", "PRICE_BELOW_MIN", 15.0)
    assert cheap.numbers["observed"] < 15.0
    assert verdicts[Symbol("CALM")].rule in {"IBS_ABOVE", "RSI_ABOVE", "LOW_NOT_SWEPT", "LOW_NOT_RECLAIMED"}


def test_the_picks_are_the_signals_of_the_session() -> None:
    result = scan()
    assert {pick.signal.symbol: pick.signal for pick in result.picks} == {
        s.symbol: s for s in signals_at(PANEL, SESSION, PARAMS) if s.symbol in {"IBS1", "IBS2", "SOUP"}
    }
    assert [pick.score for pick in result.picks] == sorted((pick.score for pick in result.picks), reverse=True)
    soup = next(pick for pick in result.picks if pick.signal.symbol == "SOUP")
    assert soup.target == soup.signal.close + 0.5 * (soup.signal.close - soup.signal.stop)
    assert all(pick.target is None for pick in result.picks if pick.signal.strategy == "ibs_rsi")
    assert all("MODEL_ABSENT" in pick.reasons for pick in result.picks)


def test_json_has_exactly_the_promised_keys() -> None:
    document = scan().to_json()
    assert list(document) == ["as_of", "session", "data_source", "simulated", "snapshot_sha256", "considered", "picks",
                              "refused"]  # fmt: skip
    assert list(document["picks"][0]) == ["symbol", "strategy", "score", "signal_session", "close", "stop", "target",
                                          "reasons"]  # fmt: skip
    assert document["as_of"] == f"{AS_OF:%Y-%m-%dT%H:%M:%SZ}" and document["session"] == SESSION.isoformat()
    text = json.dumps(document, allow_nan=False)
    assert text == json.dumps(scan().to_json(), allow_nan=False)
    json.dumps([verdict.to_json() for verdict in scan().verdicts], allow_nan=False)


def test_bars_after_the_session_are_not_looked_at() -> None:
    earlier = DAYS[-2]
    cut, whole = scan(panel=PANEL.truncated(earlier), session=earlier), scan(session=earlier)
    assert cut == whole


@pytest.mark.parametrize(
    ("vix", "scale", "code"),
    [(14.0, "1", None), (24.99, "1", None), (25.0, "0.5", None), (35.0, "0.5", None), (35.01, "0", "VIX_STOP"),
     (None, "0", "VIX_UNKNOWN"), (0.0, "0", "VIX_UNKNOWN"), (-1.0, "0", "VIX_UNKNOWN"),
     (math.nan, "0", "VIX_UNKNOWN"), (math.inf, "0", "VIX_UNKNOWN")],
)  # fmt: skip
def test_the_vix_table(vix: float | None, scale: str, code: str | None) -> None:
    found, objection = vix_scale(vix, Settings())
    assert found == Decimal(scale) and (objection[0] if objection else None) == code
    result = scan(vix=vix)
    if code is None:
        assert {pick.scale for pick in result.picks} == {Decimal(scale)}
    else:
        assert result.picks == () and result.refused[code] == 3


def test_earnings_near_refuse_and_unknown_depends_on_the_mode() -> None:
    near = Announcements({"IBS1": [NEXT], "IBS2": [NEXT + timedelta(days=30)], "SOUP": []})
    found = codes(scan(earnings=near))
    assert (found["IBS1"], found["IBS2"], found["SOUP"]) == ("EARNINGS_NEAR", "PICKED", "PICKED")
    unknown = Announcements({})
    paper = scan(earnings=unknown)
    assert len(paper.picks) == 3 and all("EARNINGS_UNKNOWN_WARNED" in pick.reasons for pick in paper.picks)
    live = scan(earnings=unknown, mode=Mode.LIVE)
    assert live.picks == () and live.refused["EARNINGS_UNKNOWN_REFUSED"] == 3
    strict = scan(earnings=unknown, filters={"earnings": {"on_unknown": "refuse"}})
    assert strict.picks == ()
    off = scan(earnings=near, filters={"earnings": {"enabled": False}})
    assert len(off.picks) == 3


def test_a_score_at_the_minimum_passes_and_below_is_refused() -> None:
    score = scan(symbols=[Symbol("IBS1")]).picks[0].score
    assert len(scan(symbols=[Symbol("IBS1")], quality_gate={"min_score": score}).picks) == 1
    below = scan(symbols=[Symbol("IBS1")], quality_gate={"min_score": score + 0.001})
    assert codes(below) == {"IBS1": "SCORE_BELOW_MIN"}
    assert below.verdicts[0].numbers["score"] == score


def test_a_model_adds_its_points() -> None:
    without, with_model = scan(), scan(scorer=Model(0.75))
    for one, other in zip(without.picks, with_model.picks, strict=True):
        assert other.score == pytest.approx(one.score + 15.0)
        assert "MODEL_ABSENT" not in other.reasons
    assert all("MODEL_EXPIRED" in pick.reasons for pick in scan(scorer=Model(None, "MODEL_EXPIRED")).picks)


@pytest.mark.parametrize("scale", ["0", "1.5", "-0.5", "NaN"])
def test_a_reviewer_vetoes_and_cannot_enlarge(scale: str) -> None:
    result = scan(reviewer=Critic(scale))
    assert result.picks == () and result.refused["REVIEW_VETO"] == 3


def test_a_signal_that_the_reviewer_says_nothing_of_is_vetoed() -> None:
    result = scan(reviewer=Silent())
    assert result.picks == () and result.refused["REVIEW_ABSENT"] == 3
    assert [item.review for item in result.reviewed] == [None, None, None]


def test_a_model_that_leaves_a_signal_out_is_absent_for_it() -> None:
    assert all("MODEL_ABSENT" in pick.reasons for pick in scan(scorer=Silent()).picks)


def test_what_model_and_reviewer_said_is_kept() -> None:
    result = scan(scorer=Model(0.75), reviewer=Critic("0.5"))
    assert {opinion.probability for opinion in result.opinions.values()} == {0.75}
    assert len(result.reviewed) == 3
    assert {item.review.scale for item in result.reviewed if item.review} == {Decimal("0.5")}
    assert set(result.opinions) == {item.scored.signal.decision_id for item in result.reviewed}


def test_a_reviewer_shrinks_on_top_of_the_vix() -> None:
    result = scan(reviewer=Critic("0.5"), vix=30.0)
    assert {pick.scale for pick in result.picks} == {Decimal("0.25")}
    assert all("CRITIC" in pick.reasons and "VIX_SCALE_0.5" in pick.reasons for pick in result.picks)


def test_totd_picks_the_best_and_the_rest_is_told_so() -> None:
    result, three = scan(top3=False), scan()
    assert result.picks == three.picks[:1]
    assert Counter(codes(result).values())["NOT_TRADE_OF_DAY"] == 2


def test_default_settings_let_top3_pick_three() -> None:
    result = scan(quality_gate={}, scorer=Model(1.0), panel=_strong_panel())
    assert len(result.picks) == 3


def _strong_panel() -> Panel:
    return Panel.from_bars({s: BarColumns(b.dates, b.open, b.high, b.low, b.close, b.volume * 100)
                            for s, b in bars().items()})  # fmt: skip


def test_an_empty_universe_and_an_empty_panel_are_answered() -> None:
    assert scan(symbols=[]).considered == 0
    lonely = Panel.from_bars({"X": columns(rising(5), DAYS[:5])})
    result = scan(panel=lonely)
    assert result.picks == () and result.refused == {"BAR_RANGE": 1, "NO_BAR": len(SYMBOLS) - 1}


def test_a_bar_with_a_missing_price_counts_as_no_bar() -> None:
    damaged = bars()
    close = damaged["IBS1"].close.copy()
    close[-1] = np.nan
    b = damaged["IBS1"]
    damaged["IBS1"] = BarColumns(b.dates, b.open, b.high, b.low, close, b.volume)
    assert codes(scan(panel=Panel.from_bars(damaged)))["IBS1"] == "NO_BAR"
