"""The guard against a filter bubble: proportions are kept, the price is bounded, and no group is shown again and again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.decide.diversity import DiversityLimits, Exposure, calibrated, divergence, shares
from shared_models.errors import DecisionError

RANDOM = np.random.default_rng(0)


def two_kinds(count: int = 20) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Items of kind 0 score a little above those of kind 1."""
    kinds = np.arange(count) % 2
    return 1.0 - 0.1 * kinds - 0.001 * np.arange(count), np.eye(2)[kinds]


def test_a_list_has_the_proportions_that_the_user_cares_about() -> None:
    scores, kinds = two_kinds()
    limits = DiversityLimits(strength=1.0, everything=0.0, most_loss=1.0)
    chosen = calibrated(scores, kinds, np.array([0.7, 0.3]), 10, limits)
    assert shares(kinds[list(chosen)]).tolist() == pytest.approx([0.7, 0.3], abs=0.05)


def test_without_strength_the_best_come_first() -> None:
    scores, kinds = two_kinds()
    chosen = calibrated(scores, kinds, np.array([0.0, 1.0]), 5, DiversityLimits(strength=0.0))
    assert list(chosen) == np.argsort(-scores)[:5].tolist()


def test_there_is_a_way_out_of_the_bubble() -> None:
    """A user who only ever saw one kind still gets some of the other."""
    scores, kinds = two_kinds()
    chosen = calibrated(
        scores, kinds, np.array([1.0, 0.0]), 10, DiversityLimits(strength=0.9, everything=0.4, most_loss=1.0)
    )
    assert 1 <= sum(kinds[list(chosen), 1]) <= 4


def test_re_ranking_brings_a_list_nearer_to_its_target() -> None:
    target = np.array([0.5, 0.3, 0.2])
    better = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        kinds = random.dirichlet(np.full(3, 0.3), 100)
        scores = random.normal(size=100) + kinds[:, 0]
        plain = np.argsort(-scores)[:10]
        chosen = list(calibrated(scores, kinds, target, 10, DiversityLimits(everything=0.0)))
        better += divergence(target, shares(kinds[chosen])) <= divergence(target, shares(kinds[plain])) + 1e-9
    assert better >= 28


@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.integers(1, 12),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 10_000),
)
@settings(max_examples=80, deadline=None)
def test_no_place_of_the_list_costs_more_than_the_declared_loss(
    count: int, kinds: int, size: int, strength: float, everything: float, loss: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scores, categories = random.normal(size=count), random.random((count, kinds))
    allowed = random.random(count) < 0.7
    limits = DiversityLimits(strength=strength, everything=everything, most_loss=loss)
    chosen = calibrated(
        scores, categories, random.random(kinds), size, limits, permitted=allowed, tired=random.random(count) < 0.3
    )
    assert len(chosen) == len(set(chosen)) == min(size, int(allowed.sum()))
    left = set(np.flatnonzero(allowed).tolist())
    spread = np.ptp(scores[allowed]) if allowed.any() else 0.0
    for row in chosen:
        assert allowed[row]
        assert scores[row] >= max(scores[other] for other in left) - loss * spread - 1e-9
        left.discard(row)


def test_groups_that_had_their_share_wait_while_there_is_something_as_good() -> None:
    scores, kinds = two_kinds()
    tired = kinds[:, 0] > 0
    limits = DiversityLimits(strength=0.0, most_loss=0.99)
    assert all(kinds[row, 1] for row in calibrated(scores, kinds, np.ones(2), 5, limits, tired=tired))
    # Nothing else is good enough: then they come all the same.
    poor = np.where(tired, scores, scores - 5.0)
    assert all(
        kinds[row, 0] for row in calibrated(poor, kinds, np.ones(2), 5, DiversityLimits(strength=0.0), tired=tired)
    )


def test_nothing_permitted_is_an_empty_list() -> None:
    assert calibrated(np.ones(3), np.ones((3, 2)), np.ones(2), 2, permitted=np.zeros(3, dtype=bool)) == ()


def test_items_without_a_category_and_a_user_without_tastes_are_taken_evenly() -> None:
    assert shares(np.zeros((4, 2))).tolist() == [0.5, 0.5]
    assert shares(np.zeros((0, 2))).tolist() == [0.5, 0.5]
    assert len(calibrated(np.arange(4.0), np.zeros((4, 2)), np.zeros(2), 2)) == 2


def test_exposure_counts_the_last_window_only() -> None:
    exposure = Exposure(DiversityLimits(window=10))
    assert (exposure.share("ES"), exposure.effective_groups) == (0.0, 0.0)
    exposure.record(["ES"] * 10)
    assert exposure.share("ES") == 1.0
    assert exposure.effective_groups == pytest.approx(1.0)
    exposure.record(["IT"] * 5)
    assert (exposure.share("ES"), exposure.share("IT")) == (0.5, 0.5)
    assert exposure.effective_groups == pytest.approx(2.0)
    exposure.record(["FR"] * 10)
    assert exposure.share("ES") == 0.0
    assert len(exposure) == 10


def test_a_group_is_tired_above_its_share_and_not_before_enough_was_shown() -> None:
    exposure = Exposure(DiversityLimits(window=30, most_exposure=0.4))
    exposure.record(["ES"] * 9)
    assert not exposure.tired(["ES", "IT"]).any()
    exposure.record(["IT"] * 3)
    assert exposure.tired(["ES", "IT", "FR"]).tolist() == [True, False, False]


def test_what_was_shown_is_kept_and_read_back() -> None:
    exposure = Exposure()
    exposure.record(["ES", "IT", "ES"])
    again = Exposure.from_document(exposure.document())
    assert (again.share("ES"), len(again)) == (exposure.share("ES"), 3)


@pytest.mark.parametrize(
    "document", [None, {}, {"format": 2, "shown": []}, {"format": 1, "shown": [[]]}, {"format": 1, "shown": "x"}]
)
def test_a_damaged_record_is_one_typed_error(document: Any) -> None:
    with pytest.raises(DecisionError):
        Exposure.from_document(document)


@pytest.mark.parametrize(
    "make",
    [
        lambda: calibrated(np.array([np.nan, 1.0]), np.ones((2, 2)), np.ones(2), 1),
        lambda: calibrated(np.array([np.inf, 1.0]), np.ones((2, 2)), np.ones(2), 1),
        lambda: calibrated(np.ones(2), -np.ones((2, 2)), np.ones(2), 1),
        lambda: calibrated(np.ones(2), np.ones((2, 2)), np.ones(3), 1),
        lambda: calibrated(np.ones(3), np.ones((2, 2)), np.ones(2), 1),
        lambda: calibrated(np.ones(0), np.ones((0, 2)), np.ones(2), 1),
        lambda: calibrated(np.ones(2), np.ones((2, 0)), np.ones(0), 1),
        lambda: calibrated(["a", "b"], np.ones((2, 2)), np.ones(2), 1),  # type: ignore[arg-type]
        lambda: calibrated(np.ones(2), np.ones((2, 2)), np.ones(2), 0),
        lambda: calibrated(np.ones(2), np.ones((2, 2)), np.ones(2), 1.5),  # type: ignore[arg-type]
        lambda: calibrated(np.ones(2), np.ones((2, 2)), np.ones(2), 1, permitted=np.ones(2)),  # type: ignore[arg-type]
        lambda: calibrated(np.ones(2), np.ones((2, 2)), np.ones(2), 1, tired=np.ones(3, dtype=bool)),
        lambda: DiversityLimits(strength=float("nan")),
        lambda: DiversityLimits(most_loss=2.0),
        lambda: DiversityLimits(window=0),
    ],
)
def test_bad_input_is_one_typed_error(make: Any) -> None:
    with pytest.raises(DecisionError):
        make()
