"""Rates by group from a noisy sum: what leaves a device is bounded, intervals hold what they claim, small groups are hidden."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.releases.fairness_slices import WIDEST, ReleasedFairness, fairness_document, fairness_from
from edge_client.share.contributions import fairness_slices
from edge_client.share.contributions.fairness_slices import compute
from privacy.accounting import epsilon_from_rho
from privacy.clipping import clip_l2, discretise
from privacy.mechanisms import NoisySum
from shared_models.errors import ConfigError, ContributionError, WireError
from shared_models.fairness import GROUPS, OUTCOMES, FairnessLayout, SliceSource
from shared_models.profile import default_schema
from shared_models.purposes import PURPOSES
from shared_models.wire import SCALE

SLICES = default_schema().slices
LAYOUT = FairnessLayout(SLICES)
EPSILON_ONE = 4.05
"""Noise multiplier of one release at ε = 1, δ = 1e-5."""
MEMBERS = {
    "language": {"english": 0.6, "german": 0.25, "spanish": 0.1, "other": 0.05},
    "device": {"phone": 0.6, "tablet": 0.1, "desktop": 0.28, "other": 0.02},
    "region": {"americas": 0.3, "europe_africa": 0.6, "asia_pacific": 0.1},
    "tenure": {"new": 0.3, "long_time": 0.7},
}
RIGHT = {"english": 0.85, "german": 0.7, "spanish": 0.85, "other": 0.5}
"""True mean share of right turns by language."""


def population(users: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """The exact sum of that many users' vectors, on the grid: what `compute` gives for each, at once."""
    members = {name: random.choice(list(parts), users, p=list(parts.values())) for name, parts in MEMBERS.items()}
    mean = np.array([RIGHT[language] for language in members["language"]])
    turns = random.integers(1, 25, users)
    right = random.binomial(turns, random.beta(6 * mean, 6 * (1 - mean))) / turns
    corrected = (1.0 - right) * random.random(users)
    shown = random.integers(0, 10, users)
    accepted = np.where(shown > 0, random.binomial(shown, 0.3) / np.maximum(shown, 1), 0.0)
    passed = np.where(shown > 0, 1.0 - accepted, 0.0)
    shares = np.stack([right, corrected, 1.0 - right - corrected, accepted, passed])
    total = []
    for name, bucket, outcome in LAYOUT.slots:
        mine = shares[OUTCOMES.index(outcome)] * (members[name] == bucket) * LAYOUT.factor
        total.append(int(np.rint(mine * SCALE).sum()))
    return np.array(total, np.int64)


def released(
    total: np.ndarray[Any, Any], users: int, multiplier: float, random: np.random.Generator
) -> ReleasedFairness:
    variance = max(1, int((multiplier * SCALE) ** 2))
    noise = np.rint(random.standard_normal(len(total)) * math.sqrt(variance)).astype(np.int64)
    return fairness_from(NoisySum(total + noise, users, variance, 1.0), LAYOUT)


def test_the_noise_of_these_tests_is_that_of_epsilon_one() -> None:
    assert epsilon_from_rho(1.0 / (2.0 * EPSILON_ONE**2), 1e-5) == pytest.approx(1.0, abs=0.01)


def test_at_two_thousand_users_and_epsilon_one_intervals_are_narrow_enough_to_use_and_cover_the_truth() -> None:
    """The widths that docs/ethics.md states."""
    random = np.random.default_rng(1)
    covered: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    shown: dict[str, int] = {}
    for _ in range(60):
        for rate in released(population(2000, random), 2000, EPSILON_ONE, random).rates:
            if rate.slice != "language" or rate.outcome != "right":
                continue
            shown[rate.bucket] = shown.get(rate.bucket, 0) + (not rate.suppressed)
            if not rate.suppressed:
                covered.setdefault(rate.bucket, []).append(rate.low <= RIGHT[rate.bucket] <= rate.high)
                widths.setdefault(rate.bucket, []).append(rate.high - rate.low)
    for bucket in ("english", "german", "spanish"):
        assert np.mean(covered[bucket]) >= 0.92, bucket
    half = {bucket: float(np.mean(widths[bucket])) / 2.0 for bucket in ("english", "german", "spanish")}
    assert half["english"] < 0.04  # 1,200 users
    assert half["german"] < 0.07  # 500
    assert half["spanish"] < 0.15  # 200
    assert shown["english"] == shown["german"] == 60
    assert shown["other"] <= 3  # 100 users: hidden


def test_whether_a_group_is_shown_depends_on_its_size_and_not_on_its_rate() -> None:
    random = np.random.default_rng(2)
    for _ in range(12):
        release = released(population(1500, random), 1500, EPSILON_ONE, random)
        for name, source in SLICES.items():
            for bucket in source.buckets:
                for group in GROUPS:
                    hidden = {
                        rate.suppressed
                        for rate in release.rates
                        if (rate.slice, rate.bucket) == (name, bucket) and rate.outcome in group
                    }
                    assert len(hidden) == 1


def test_a_real_gap_is_found_and_none_is_found_where_there_is_none() -> None:
    random = np.random.default_rng(3)
    found, invented, rounds = 0, 0, 40
    for _ in range(rounds):
        release = released(population(4000, random), 4000, EPSILON_ONE, random)
        for gap in release.gaps:
            if gap.slice == "language" and gap.outcome == "right":
                assert gap.low <= gap.value <= gap.high
                found += gap.sure and RIGHT[gap.higher] > RIGHT[gap.lower]
            elif gap.slice != "language":
                invented += gap.sure
        assert ("does not treat all groups alike" in release.words) == any(gap.sure for gap in release.gaps)
    assert found >= 0.8 * rounds
    assert invented <= 2


def test_a_group_too_small_for_the_noise_has_no_rate_and_no_size() -> None:
    release = fairness_from(NoisySum(np.zeros(LAYOUT.dimension, np.int64), 30, (4 * SCALE) ** 2, 1.0), LAYOUT)
    assert all(rate.suppressed and (rate.low, rate.high, rate.users) == (0.0, 1.0, None) for rate in release.rates)
    assert release.gaps == ()
    # However the noise falls, no rate leaves 0 to 1 and every interval holds its value.
    random = np.random.default_rng(4)
    for _ in range(50):
        values = np.rint(random.standard_normal(LAYOUT.dimension) * 40 * SCALE).astype(np.int64)
        for rate in fairness_from(NoisySum(values, 500, SCALE**2, 1.0), LAYOUT).rates:
            assert 0.0 <= rate.low <= rate.high <= 1.0
            assert rate.value is None or rate.low <= rate.value <= rate.high


def test_the_artefact_is_read_back_and_anything_else_is_refused() -> None:
    random = np.random.default_rng(5)
    release = released(population(2000, random), 2000, EPSILON_ONE, random)
    document = fairness_document(release.to_bytes())
    assert document["users"] == 2000
    assert document["layout"] == LAYOUT.hash
    assert len(document["rates"]) == LAYOUT.dimension
    for raw in (
        b"",
        b"{}",
        b"[]",
        release.to_bytes()[:-5],
        release.to_bytes().replace(b'"format":1', b'"format":2'),
        b'{"format":1}',
    ):
        with pytest.raises(WireError):
            fairness_document(raw)


@pytest.mark.parametrize(
    "make",
    [
        lambda: fairness_from(NoisySum(np.zeros(LAYOUT.dimension + 1, np.int64), 10, 1, 1.0), LAYOUT),
        lambda: fairness_from(NoisySum(np.zeros(LAYOUT.dimension, np.int64), 10, 1, 0.5), LAYOUT),
    ],
)
def test_a_sum_of_something_else_is_refused(make: Any) -> None:
    with pytest.raises(ContributionError):
        make()


@pytest.mark.parametrize("widest", [0.0, -1.0, 1.5, math.nan, True, "1"])
def test_a_width_that_is_none_is_refused(widest: Any) -> None:
    with pytest.raises(ConfigError):
        fairness_from(NoisySum(np.zeros(LAYOUT.dimension, np.int64), 10, 1, 1.0), LAYOUT, widest=widest)
    assert 0.0 < WIDEST < 1.0


# -- the device's half ------------------------------------------------------------------------------------------------------

COUNT = st.integers(0, 10**6)
COUNTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.fixed_dictionaries(
            {}, optional={bucket: st.lists(COUNT, min_size=5, max_size=5) for bucket in source.buckets}
        )
        for name, source in SLICES.items()
    },
)


@given(COUNTS)
@settings(max_examples=60, deadline=None)
def test_no_user_weighs_more_than_the_clip_norm_whatever_was_counted(
    counts: Mapping[str, Mapping[str, list[int]]],
) -> None:
    vector = compute(LAYOUT, counts, SLICES)
    assert vector.shape == (LAYOUT.dimension,)
    assert float(np.linalg.norm(vector)) <= fairness_slices.CLIP_NORM + 1e-9
    assert (vector >= 0.0).all()
    # Clipping changes nothing: what is released is not biased by it.
    assert np.allclose(clip_l2(vector, 1.0).values, vector)
    discretise(clip_l2(vector, 1.0))


def test_a_user_is_in_the_slots_of_their_groups_and_in_no_other() -> None:
    vector = compute(LAYOUT, {"language": {"german": [6, 2, 2, 1, 3]}, "tenure": {"new": [6, 2, 2, 1, 3]}}, SLICES)
    said = {slot: value / LAYOUT.factor for slot, value in zip(LAYOUT.slots, vector.tolist(), strict=True) if value}
    assert {slot[:2] for slot in said} == {("language", "german"), ("tenure", "new")}
    assert said["language", "german", "right"] == pytest.approx(0.6)
    assert said["tenure", "new", "accepted"] == pytest.approx(0.25)


def test_who_has_nothing_to_say_sends_zeros() -> None:
    assert not compute(LAYOUT, {}, SLICES).any()
    assert not compute(LAYOUT, {"language": {"german": [0] * 5}}, SLICES).any()


def test_a_round_cannot_ask_about_a_group_that_the_app_has_not_declared() -> None:
    counts = {"language": {"english": [9, 0, 0, 1, 0]}}
    other = FairnessLayout({"language": SliceSource("language", ("english", "rest"), (("en-GB",), ()))})
    assert not compute(other, counts, SLICES).any()
    assert not compute(FairnessLayout({"language": SLICES["language"]}), counts, {}).any()
    with pytest.raises(WireError):
        FairnessLayout.from_document({"slices": {"religion": SLICES["language"].document()}})


@pytest.mark.parametrize(
    "row",
    [
        [1, 2],
        [1, 2, 3, 4, -1],
        [1, 2, 3, 4, math.nan],
        [1, 2, 3, 4, math.inf],
        "12345",
        [True, 0, 0, 0, 0],
        [1, 2, 3, 4, "5"],
    ],
)
def test_counts_that_are_none_are_refused(row: Any) -> None:
    with pytest.raises(ContributionError):
        compute(LAYOUT, {"language": {"english": row}}, SLICES)


def test_a_layout_goes_over_the_wire_and_back() -> None:
    assert FairnessLayout.from_document(LAYOUT.document()).hash == LAYOUT.hash
    assert fairness_slices.PURPOSE in PURPOSES
    for document in (
        None,
        {},
        {"slices": []},
        {"slices": {}},
        {"slices": {"a": 5}},
        {"slices": {"a": {**SLICES["language"].document(), "x": 1}}},
    ):
        with pytest.raises(WireError):
            FairnessLayout.from_document(document)


def test_buckets_are_found_by_language_number_and_rest() -> None:
    language, tenure = SLICES["language"], SLICES["tenure"]
    assert [language.bucket(value) for value in ("de", "de-CH", "DE", "fr", "", None, 5)] == ["german"] * 3 + [
        "other",
        "",
        "",
        "",
    ]
    assert [tenure.bucket(value) for value in (0, 29, 30, 1e9, math.nan, True, "5", None)] == [
        "new",
        "new",
        "long_time",
        "long_time",
        "",
        "",
        "",
        "",
    ]
