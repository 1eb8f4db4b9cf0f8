"""What is taken away after the picks are chosen makes no room for another signal, and can only take away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal

import pytest

from core.domain import Signal
from core.ports import Review
from portfolio.scan import ScanResult
from scripts.recording import RecordedReviewer, reviews_value
from tests.fakes.small_scan import scan

ONE = {"top3": False}
ALL = Decimal(1)


class Late:
    """Approves everything in full, and takes away of these afterwards."""

    def __init__(self, final: dict[str, str], scale: str = "1") -> None:
        self.final, self.scale = final, Decimal(scale)

    def reviews(self, scored: Sequence[tuple[Signal, float]]) -> dict[str, Review]:
        return {s.decision_id: Review(self.scale, ("LATE",), None, self._final(s)) for s, _ in scored}

    def _final(self, signal: Signal) -> Decimal | None:
        said = self.final.get(signal.symbol)
        return None if said is None else Decimal(said)


def bought(result: ScanResult) -> dict[str, Decimal]:
    return {str(pick.signal.symbol): pick.scale for pick in result.picks}


def test_the_place_of_a_pick_that_is_taken_away_stays_empty() -> None:
    (best,) = bought(scan(**ONE))
    result = scan(reviewer=Late({best: "0"}), **ONE)
    assert bought(result) == {}
    codes = {str(v.symbol): v.code for v in result.verdicts}
    assert codes[best] == "REVIEW_VETO" and "PICKED" not in codes.values()
    assert result.considered == sum(result.refused.values())


def test_one_that_is_refused_before_the_choice_does_make_room() -> None:
    (best,) = bought(scan(**ONE))

    class Early(Late):
        def reviews(self, scored: Sequence[tuple[Signal, float]]) -> dict[str, Review]:
            return {s.decision_id: Review(Decimal(0) if s.symbol == best else ALL) for s, _ in scored}

    assert len(bought(scan(reviewer=Early({}), **ONE))) == 1
    assert best not in bought(scan(reviewer=Early({}), **ONE))


@pytest.mark.parametrize(
    ("scale", "final", "part"),
    [("1", None, "1"), ("1", "1", "1"), ("1", "0.25", "0.25"), ("0.5", "0.5", "0.5"), ("0.5", "0.1", "0.1"),
     ("0.5", None, "0.5")],
)  # fmt: skip
def test_what_is_left_is_what_was_said(scale: str, final: str | None, part: str) -> None:
    taken = {} if final is None else dict.fromkeys(("IBS1", "IBS2", "SOUP"), final)
    assert set(bought(scan(reviewer=Late(taken, scale))).values()) == {Decimal(part)}
    halved = scan(reviewer=Late(taken, scale), vix=30.0)
    assert set(bought(halved).values()) == {Decimal(part) / 2}


@pytest.mark.parametrize("final", ["0", "-1", "1.5", "0.6", "NaN", "Infinity"])
def test_what_is_no_part_of_the_scale_leaves_nothing(final: str) -> None:
    result = scan(reviewer=Late(dict.fromkeys(("IBS1", "IBS2", "SOUP"), final), "0.5"))
    assert bought(result) == {} and result.refused["REVIEW_VETO"] == 3


def test_it_is_recorded_and_fed_back_as_it_was() -> None:
    first = scan(reviewer=Late({"IBS1": "0", "IBS2": "0.25"}))
    again = scan(reviewer=RecordedReviewer(json.loads(json.dumps(reviews_value(first)))))
    assert bought(first) == bought(again) == {"IBS2": Decimal("0.25"), "SOUP": ALL}
    assert [v.to_json() for v in first.verdicts] == [v.to_json() for v in again.verdicts]
