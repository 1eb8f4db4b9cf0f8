"""The data set: ordered, checked, hashed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml_advanced.dataset import Dataset, dataset_of

DAY = np.datetime64("2024-01-02")


def parts() -> dict[str, Any]:
    return {
        "names": ("a", "b"),
        "x": np.array([[1.0, np.nan], [2.0, 5.0], [3.0, 6.0]]),
        "y": np.array([0.0, 1.0, 1.0]),
        "r": np.array([-1.0, 0.5, 2.0]),
        "starts": DAY + np.array([3, 0, 0]),
        "ends": DAY + np.array([5, 0, 4]),
        "decision_ids": ["d3", "d2", "d1"],
        "symbols": ["C", "B", "A"],
        "strategies": ["ibs_rsi", "turtle_soup", "ibs_rsi"],
        "sessions": DAY + np.arange(10),
    }


def made(**changes: Any) -> Dataset:
    return dataset_of(**{**parts(), **changes})


def test_rows_stand_by_session_and_decision_whatever_their_order() -> None:
    found = made()
    assert found.decision_ids == ("d1", "d2", "d3") and found.symbols == ("A", "B", "C")
    assert found.x[:, 0].tolist() == [3.0, 2.0, 1.0] and found.r.tolist() == [2.0, 0.5, -1.0]
    turned = {name: value[::-1] if name not in ("names", "sessions") else value for name, value in parts().items()}
    assert dataset_of(**turned).sha256 == found.sha256


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("b", "a")}, {"y": np.array([1.0, 1.0, 1.0])}, {"r": np.array([-1.0, 0.5, 2.5])},
        {"x": np.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])}, {"ends": DAY + np.array([5, 0, 5])},
        {"symbols": ["C", "B", "Z"]}, {"sessions": DAY + np.arange(11)},
    ],
)  # fmt: skip
def test_another_content_has_another_hash(change: dict[str, Any]) -> None:
    assert made(**change).sha256 != made().sha256


def test_the_kind_of_nan_and_the_memory_layout_are_no_content() -> None:
    x = np.asfortranarray(parts()["x"])
    x[0, 1] = -np.nan
    assert made(x=x).sha256 == made().sha256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y": np.array([0.0, 0.5, 1.0])}, "label of 0 or 1"),
        ({"y": np.array([0.0, np.nan, 1.0])}, "label of 0 or 1"),
        ({"r": np.array([-1.0, np.nan, 1.0])}, "finite R"),
        ({"ends": DAY + np.array([2, 0, 4])}, "end before it starts"),
        ({"ends": DAY + np.array([10, 0, 4])}, "session of the bars"),
        ({"decision_ids": ["d1", "d2", "d1"]}, "stands twice"),
        ({"names": ("a", "a")}, "stands twice"),
        ({"symbols": ["A"]}, "one length"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(**change)


def test_a_part_is_a_data_set_of_its_own() -> None:
    whole = made()
    part = whole.rows(np.array([True, False, True]))
    assert part.decision_ids == ("d1", "d3") and part.sha256 == whole.rows(np.array([0, 2])).sha256 != whole.sha256
    turned = whole.columns(["b", "a"])
    assert turned.names == ("b", "a") and turned.x[1].tolist() == [5.0, 2.0]
    with pytest.raises(KeyError):
        whole.columns(["c"])
