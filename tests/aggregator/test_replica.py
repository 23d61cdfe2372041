"""The replica's arithmetic is that of the gate, of Opacus and of a release; rounds through messages equal it (test_rounds)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.releases.intent_head import ServerOptimizer
from aggregator.replica import ReplicaClient, ReplicaSettings, client_update, gate_integers, train
from privacy.clipping import clip_l2, discretise
from privacy.dpsgd import HeadTrainer
from shared_models.wire import SCALE, LocalTraining, noise_variance_for

LOCAL = LocalTraining(max_grad_norm=2.0, expected_batch=16, sample_rate=1.0, noise_multiplier=0.0)
LABELS = tuple("abcdef")


def client(seed: int, count: int = 7, classes: int = 6, dimension: int = 20) -> ReplicaClient:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return ReplicaClient(rows.astype(np.float32), random.integers(0, classes, count))


def model(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 20)).astype(np.float32)


@pytest.mark.parametrize("max_grad_norm", [0.05, 2.0, 1000.0])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_the_closed_form_is_what_opacus_computes(max_grad_norm: float, count: int) -> None:
    local = LocalTraining(max_grad_norm, 16, 1.0, 0.0)
    trainer = HeadTrainer()
    for seed in range(5):
        who, weights = client(seed, count), model(seed)
        theirs = trainer(local, who.features, who.targets, weights)
        np.testing.assert_allclose(client_update(who, weights, local), theirs, atol=1e-4 * np.abs(theirs).max())


def test_a_client_without_examples_gives_zeros() -> None:
    nobody = ReplicaClient(np.zeros((0, 20), np.float32), np.zeros(0, np.int64))
    assert not client_update(nobody, model(0), LOCAL).any()
    assert not gate_integers(np.zeros(120), 0.3).any()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dimension=st.integers(1, 3000),
    length=st.floats(1e-4, 1e3),
    clip_norm=st.floats(0.01, 10.0),
)
def test_the_integers_are_those_of_the_gate(seed: int, dimension: int, length: float, clip_norm: float) -> None:
    update = np.random.default_rng(seed).normal(size=dimension)
    update *= length / np.linalg.norm(update)
    expected = discretise(clip_l2(update, clip_norm)).values
    found = gate_integers(update, clip_norm)
    # The last bit of a float factor may tip a rounding: at most one step, and hardly ever.
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() <= 1e-3 + 1 / dimension
    assert float(np.dot(found, found)) <= SCALE * SCALE


def test_the_integers_of_many_clients_are_exactly_those_of_the_gate() -> None:
    weights = np.random.default_rng(0).normal(size=(150, 384)).astype(np.float32) * np.float32(0.1)
    for seed in range(20):
        update = client_update(client(seed, 15, 150, 384), weights, LOCAL)
        np.testing.assert_array_equal(gate_integers(update, 0.3), discretise(clip_l2(update, 0.3)).values)


def test_without_noise_it_is_gradient_descent() -> None:
    clients = [client(seed) for seed in range(10)]
    start = model(3)
    optimizer = ServerOptimizer(learning_rate=0.7, momentum=0.0, tail_rounds=1)
    after = train(LABELS, start, clients, ReplicaSettings(1, 1.0, 0.0, LOCAL, optimizer))
    mean = np.mean([client_update(who, start, LOCAL) for who in clients], axis=0).reshape(start.shape)
    np.testing.assert_allclose(after.weights, start + 0.7 * mean, atol=1e-5)


def test_noise_is_that_of_the_multiplier_and_is_drawn_once_a_round() -> None:
    asked: list[tuple[int, int]] = []

    def sampler(variance: int, size: int) -> np.ndarray:
        asked.append((variance, size))
        return np.zeros(size, np.int64)

    train(LABELS, model(0), [client(0)], ReplicaSettings(3, 0.5, 2.5, LOCAL, ServerOptimizer()), sampler=sampler)
    assert asked == [(noise_variance_for(2.5), 120)] * 3


def test_clients_that_stand_for_more_count_more_often_and_noise_does_not() -> None:
    clients = [client(seed) for seed in range(4)]
    optimizer = ServerOptimizer(learning_rate=1.0, momentum=0.9, tail_rounds=1)

    def noise(variance: int, size: int) -> np.ndarray:
        return np.full(size, 1000, np.int64)

    shown = ReplicaSettings(2, 0.5, 1.0, LOCAL, optimizer, represented=5)
    really = ReplicaSettings(2, 0.5, 1.0, LOCAL, optimizer)
    projected = train(LABELS, model(1), clients, shown, sampler=noise)
    repeated = train(LABELS, model(1), clients * 5, really, sampler=noise)
    np.testing.assert_array_equal(projected.weights, repeated.weights)


def test_the_real_sampler_is_the_default() -> None:
    settings_ = ReplicaSettings(1, 0.5, 1.0, LOCAL, ServerOptimizer(learning_rate=1.0, momentum=0.0, tail_rounds=1))
    first, second = (train(LABELS, model(1), [client(0)], settings_).weights for _ in range(2))
    difference = (first - second).astype(np.float64).std() / np.sqrt(2)
    assert difference == pytest.approx(0.5, rel=0.35), "sigma is one clip norm here"
