"""The bandit's prior as a file: what goes in comes out, and nothing else is accepted."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from shared_models.bandit_prior import MAX_FEATURES, MAX_PRIOR_BYTES, BanditPrior
from shared_models.errors import ConfigError, ModelDamagedError


def prior() -> BanditPrior:
    root = np.random.default_rng(0).standard_normal((4, 4)) / 2.0 + np.eye(4)
    return BanditPrior(tuple("abcd"), np.arange(4.0), root @ root.T, 0.25, -1.0, 1.0)


def test_a_prior_travels_bit_for_bit() -> None:
    again = BanditPrior.from_bytes(prior().to_bytes())
    assert again.features == prior().features
    assert (again.mean == prior().mean).all()
    assert (again.covariance == prior().covariance).all()
    assert (again.noise_variance, again.reward_low, again.reward_high) == (0.25, -1.0, 1.0)
    assert again.root @ again.root.T == pytest.approx(again.covariance)
    assert again.to_bytes() == prior().to_bytes()


def test_hostile_bytes_are_one_typed_error() -> None:
    document = json.loads(prior().to_bytes())
    negative = prior().covariance.copy()
    negative[0, 0] = -1.0
    with pytest.raises(ModelDamagedError, match="positive definite"):
        BanditPrior(tuple("abcd"), np.zeros(4), negative, 0.25, -1.0, 1.0)
    for changes in (
        {"format": 2},
        {"kind": "other"},
        {"features": "abcd"},
        {"features": ["a", "a", "b", "c"]},
        {"features": [1, 2, 3, 4]},
        {"features": ["x"] * (MAX_FEATURES + 1)},
        {"features": [f"f{number}" for number in range(MAX_FEATURES)]},
        {"mean": document["covariance"]},
        {"mean": [0.0, 0.0, 0.0, 0.0]},
        {"mean": "%%%"},
        {"covariance": document["mean"]},
        {"noise_variance": 0.0},
        {"noise_variance": "much"},
        {"noise_variance": True},
        {"reward_low": 2.0},
    ):
        with pytest.raises(ModelDamagedError):
            BanditPrior.from_bytes(json.dumps({**document, **changes}).encode())
    for name in document:
        with pytest.raises(ModelDamagedError):
            BanditPrior.from_bytes(json.dumps({key: document[key] for key in document if key != name}).encode())
    raw = prior().to_bytes()
    for spoiled in (b"", b"[]", b"\xff" * 40, raw[:-1], b"{" * 10_000, b" " * (MAX_PRIOR_BYTES + 1)):
        with pytest.raises(ModelDamagedError):
            BanditPrior.from_bytes(spoiled)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    for mean, covariance in (
        (np.array([0.0, value]), np.eye(2)),
        (np.zeros(2), np.array([[1.0, value], [value, 1.0]])),
    ):
        with pytest.raises(ModelDamagedError):
            BanditPrior(("a", "b"), mean, covariance, 1.0, 0.0, 1.0)
    with pytest.raises(ModelDamagedError):
        BanditPrior(("a", "b"), np.zeros(2), np.eye(2), value, 0.0, 1.0)


def test_a_wide_prior_is_what_a_device_starts_from() -> None:
    wide = BanditPrior.wide(("a", "b"), reward_low=0.0, reward_high=4.0)
    assert wide.covariance == pytest.approx(4.0 * np.eye(2))
    assert wide.noise_variance == pytest.approx(1.0)
    with pytest.raises(ConfigError):
        BanditPrior.wide((), reward_low=0.0, reward_high=1.0)
    with pytest.raises(ConfigError):
        BanditPrior.wide(("a",), reward_low=1.0, reward_high=1.0)
