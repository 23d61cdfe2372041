"""What a device gives to the item space: pairs of liked items in a vector of length 1, whatever the user has done."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.share.contributions.item_gram import (
    COUNTS,
    NAME,
    PURPOSE,
    count_vector,
    gram_entries,
    gram_vector,
)
from edge_client.share.contributions.item_gram import compute as contribute
from privacy.clipping import clip_l2, discretise
from shared_models.errors import WireError
from shared_models.preference import GRAM_DIAGONAL, gram_dimension
from shared_models.wire import MODE_TRUSTED, RoundPlan

ITEMS = tuple("abcdefgh")
ONES = np.ones((8, 1), np.float32)


class Liked:
    def __init__(self, *items: str) -> None:
        self.items = items

    def liked_items(self) -> tuple[str, ...]:
        return self.items


def plan(name: str = NAME, **changes: object) -> RoundPlan:
    fields = {
        "task": "fleet",
        "round_id": 1,
        "purpose": PURPOSE,
        "contribution": name,
        "contribution_version": 1,
        "dimension": gram_dimension(8) if name == NAME else 8,
        "clip_norm": 1.0,
        "noise_variance": 1 << 28,
        "cohort": 10,
        "min_survivors": 5,
        "mode": MODE_TRUSTED,
        "issued_s": 0,
        "deadline_s": 600,
        "model_hash": "0" * 64,
        "encoder_hash": "0" * 64,
        "policy_hash": "0" * 64,
        "policy_sequence": 1,
    }
    return RoundPlan(**{**fields, **changes})


def matrix(vector: np.ndarray) -> np.ndarray:
    upper = np.zeros((8, 8))
    upper[np.triu_indices(8)] = vector
    return upper


def test_liked_items_and_their_pairs_are_in_it_and_nothing_else() -> None:
    found = matrix(contribute(plan(), Liked("c", "f", "c", "unknown"), ITEMS, ONES))
    scale = 1 / math.sqrt(1 + 2 * GRAM_DIAGONAL**2)
    assert found[2, 5] == pytest.approx(scale)
    assert found[2, 2] == found[5, 5] == pytest.approx(GRAM_DIAGONAL * scale)
    assert np.count_nonzero(found) == 3


@given(st.sets(st.integers(0, 7)), st.lists(st.floats(0.01, 100.0), min_size=8, max_size=8))
@settings(max_examples=100, deadline=None)
def test_no_vector_is_longer_than_the_clip_norm(liked: set[int], weights: list[float]) -> None:
    vector = gram_vector(np.array(sorted(liked), np.int64), np.array(weights))
    length = float(np.linalg.norm(vector))
    assert length <= 1.0 + 1e-9
    assert len(liked) < 2 or length == pytest.approx(1.0)
    places, values = gram_entries(np.array(sorted(liked), np.int64), np.array(weights))
    assert len(places) == gram_dimension(len(liked))
    # The gate clips nothing away: its integers are those of the vector, but for rounding.
    grid = discretise(clip_l2(vector, 1.0)).values
    assert np.abs(grid - vector * 16384).max(initial=0.0) <= 2.0
    assert np.array_equal(vector[places], values)


def test_a_user_of_one_item_says_less_than_the_bound() -> None:
    found = matrix(contribute(plan(), Liked("a"), ITEMS, ONES))
    assert found[0, 0] == pytest.approx(GRAM_DIAGONAL)


@pytest.mark.parametrize("name", [NAME, COUNTS])
def test_who_liked_nothing_gives_zeros(name: str) -> None:
    assert not contribute(plan(name), Liked("unknown"), ITEMS, ONES).any()


def test_counts_have_length_one() -> None:
    found = contribute(plan(COUNTS), Liked("b", "d", "h", "b"), ITEMS, ONES)
    assert np.flatnonzero(found).tolist() == [1, 3, 7]
    assert np.linalg.norm(found) == pytest.approx(1.0)
    assert np.array_equal(found, count_vector(np.array([1, 3, 7]), 8))


def test_heavier_items_get_more_of_the_length() -> None:
    weights = np.array([[3.0], [1.0], [1.0], *[[1.0]] * 5], np.float32)
    found = matrix(contribute(plan(), Liked("a", "b", "c"), ITEMS, weights))
    assert found[0, 1] == pytest.approx(3 * found[1, 2])


def test_coordinates_for_the_noise_test_are_left_to_the_gate() -> None:
    found = contribute(plan(dimension=40, health_dimension=4), Liked("a", "b"), ITEMS, ONES)
    assert found.shape == (36,)


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"contribution_version": 2}, ONES),
        ({"contribution": "intent_head"}, ONES),
        ({"dimension": 35}, ONES),
        ({}, ONES[:7]),
        ({}, np.zeros((8, 1), np.float32)),
        ({}, np.full((8, 1), np.nan, np.float32)),
        ({}, -ONES),
    ],
)
def test_a_plan_for_something_else_is_refused(changes: dict[str, object], weights: np.ndarray) -> None:
    with pytest.raises(WireError):
        contribute(plan(**changes), Liked("a"), ITEMS, weights)
