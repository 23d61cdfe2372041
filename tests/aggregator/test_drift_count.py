"""How many users have drifted, from a noisy sum: intervals that cover, alarms that are not chance, zeros from the silent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.releases.drift_count import ReleasedDrift, drift_document, drift_from
from edge_client.share.contributions import drift_count
from privacy.clipping import clip_l2, discretise
from privacy.mechanisms import NoisySum
from shared_models.drift import CLIP_NORM, DIMENSION, FALSE_ALARMS, KINDS, LEAST_WATCHED
from shared_models.errors import ConfigError, ContributionError, WireError
from shared_models.wire import SCALE


def release(users: int, rates: dict[str, float], watching: float, multiplier: float, seed: int) -> NoisySum:
    random = np.random.default_rng(seed)
    total = np.zeros(DIMENSION, np.int64)
    for _ in range(users):
        watched = 100 if random.random() < watching else 0
        drifted = [kind for kind in KINDS if random.random() < rates.get(kind, 0.0)]
        total += discretise(clip_l2(drift_count.compute(drifted, watched), CLIP_NORM)).values
    variance = max(1, int((multiplier * SCALE) ** 2))
    noise = np.rint(random.standard_normal(DIMENSION) * math.sqrt(variance)).astype(np.int64)
    return NoisySum(total + noise, users, variance, CLIP_NORM)


@given(st.sets(st.sampled_from(KINDS)), st.integers(0, 10_000))
def test_no_device_weighs_more_than_the_clip_norm(drifted: set[str], watched: int) -> None:
    vector = drift_count.compute(drifted, watched)
    assert vector.shape == (DIMENSION,)
    assert np.linalg.norm(vector) <= CLIP_NORM + 1e-12


def test_a_device_that_has_watched_too_little_says_the_same_as_one_that_says_nothing() -> None:
    assert not drift_count.compute(KINDS, LEAST_WATCHED - 1).any()
    assert drift_count.compute((), LEAST_WATCHED)[-1] > 0.0


@pytest.mark.parametrize(("drifted", "watched"), [(["mood"], 50), ("scope", 50), ([], -1), ([], True), ([], 2.5)])
def test_a_count_that_makes_no_sense_is_refused(drifted: object, watched: object) -> None:
    with pytest.raises(ContributionError):
        drift_count.compute(drifted, watched)  # type: ignore[arg-type]


def test_the_interval_of_a_rate_covers_the_truth_with_noise_and_without() -> None:
    for multiplier in (0.0, 4.0):
        covered = 0
        for seed in range(20):
            rate = drift_from(release(300, {"scope": 0.2}, 0.7, multiplier, seed)).rates["scope"]
            covered += rate.low <= 0.2 <= rate.high
        assert covered >= 17


def test_the_standard_error_is_the_spread_of_the_rates_from_release_to_release() -> None:
    read = [drift_from(release(300, {"scope": 0.2}, 0.7, 4.0, seed)).rates["scope"] for seed in range(30)]
    assert np.mean([rate.error for rate in read]) == pytest.approx(np.std([rate.value for rate in read]), rel=0.4)


def test_the_fleet_is_alarmed_where_many_have_drifted_and_says_what_to_train() -> None:
    drift = drift_from(release(600, {"preference": 0.4, "scope": FALSE_ALARMS}, 0.8, 4.0, 1))
    assert drift.alarms == ("preference",)
    assert drift.retrain == ("item_gram",)
    assert "item_gram" in drift.words


def test_false_alarms_of_the_devices_do_not_alarm_the_fleet() -> None:
    rates = dict.fromkeys(KINDS, FALSE_ALARMS)
    assert not any(drift_from(release(400, rates, 0.8, multiplier, 2)).alarms for multiplier in (0.0, 2.0, 8.0))


def test_where_the_noise_leaves_nothing_nothing_is_claimed() -> None:
    drift = drift_from(NoisySum(np.full(DIMENSION, 30 * SCALE), 20, (50 * SCALE) ** 2, CLIP_NORM))
    assert drift.alarms == ()
    assert all((rate.low, rate.high) == (0.0, 1.0) for rate in drift.rates.values())


def test_the_artefact_reads_back_and_holds_no_infinity() -> None:
    for read in (drift_from(release(100, {}, 0.9, 1.0, 3)), drift_from(NoisySum(np.zeros(DIMENSION), 9, 1, 1.0))):
        document = drift_document(read.to_bytes())
        assert set(document["rates"]) == set(KINDS)
        assert document["users"] == read.users
    with pytest.raises(WireError):
        drift_document(b'{"format":2}')


def test_a_sum_of_something_else_is_refused() -> None:
    with pytest.raises(ContributionError):
        drift_from(NoisySum(np.zeros(DIMENSION + 1, np.int64), 10, 1, CLIP_NORM))
    with pytest.raises(ConfigError):
        drift_from(NoisySum(np.zeros(DIMENSION, np.int64), 10, 1, CLIP_NORM), worth=2.0)
    assert isinstance(drift_from(NoisySum(np.zeros(DIMENSION, np.int64), 10, 1, CLIP_NORM)), ReleasedDrift)
