"""Training on the device: Opacus computes exactly the clipped gradients of the formula, over public constants only."""

from __future__ import annotations

import math

import numpy as np
import pytest

from privacy.dpsgd import HeadTrainer
from shared_models.errors import ContributionError
from shared_models.intent_head import FEATURE_SCALE
from shared_models.wire import LocalTraining

CLASSES, FEATURES = 4, 10


def local(**changes: float) -> LocalTraining:
    whole = {"max_grad_norm": 3.0, "expected_batch": 16, "sample_rate": 1.0, "noise_multiplier": 0.0}
    return LocalTraining(**{**whole, **changes})  # type: ignore[arg-type]


def examples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, FEATURES))
    features /= np.linalg.norm(features, axis=1, keepdims=True) if count else 1.0
    targets = random.integers(0, CLASSES, count)
    weights = random.normal(size=(CLASSES, FEATURES)) * 0.1
    return features.astype(np.float32), targets.astype(np.int64), weights.astype(np.float32)


def closed_form(setting: LocalTraining, features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """−Σ clip(∇ cross-entropy(scale·W x, y)) / expected_batch, one example at a time, in float64."""
    total = np.zeros(weights.shape)
    for x, y in zip(features.astype(np.float64), targets, strict=True):
        logits = FEATURE_SCALE * weights.astype(np.float64) @ x
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        chances[y] -= 1.0
        gradient = FEATURE_SCALE * np.outer(chances, x)
        total += gradient * min(1.0, setting.max_grad_norm / np.linalg.norm(gradient))
    return (-total / setting.expected_batch).reshape(-1)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize("max_grad_norm", [0.01, 3.0, 1000.0])
def test_the_update_is_the_mean_of_clipped_gradients(count: int, max_grad_norm: float) -> None:
    arrays = examples(count)
    setting = local(max_grad_norm=max_grad_norm)
    update = HeadTrainer()(setting, *arrays)
    assert update.dtype == np.float64
    assert update.shape == (CLASSES * FEATURES,)
    np.testing.assert_allclose(update, closed_form(setting, *arrays), rtol=1e-3, atol=1e-6 * max_grad_norm)


def test_one_example_moves_the_update_by_its_clip_norm_at_most() -> None:
    features, targets, weights = examples(30)
    trainer, setting = HeadTrainer(), local(max_grad_norm=0.5)
    all_of_them = trainer(setting, features, targets, weights)
    for left_out in range(0, 30, 7):
        rest = np.delete(np.arange(30), left_out)
        without = trainer(setting, features[rest], targets[rest], weights)
        assert np.linalg.norm(all_of_them - without) <= 0.5 / 16 * (1 + 1e-4)


def test_repeated_calls_are_equal_and_nothing_is_carried_over() -> None:
    trainer = HeadTrainer()
    arrays, others = examples(7), examples(20, seed=5)
    first = trainer(local(), *arrays)
    trainer(local(), *others)
    trainer(local(max_grad_norm=0.1), *arrays)
    trainer(local(), *examples(0))
    assert np.array_equal(trainer(local(), *arrays), first)
    assert np.array_equal(HeadTrainer()(local(), *arrays), first)


def test_other_model_sizes_are_trained_by_the_same_trainer() -> None:
    trainer = HeadTrainer()
    features, targets, weights = examples(6)
    wide = np.tile(weights, (2, 1))
    assert trainer(local(), features, targets, weights).size == CLASSES * FEATURES
    assert trainer(local(), features, targets, wide).size == 2 * CLASSES * FEATURES


def test_the_order_of_examples_does_not_matter() -> None:
    features, targets, weights = examples(12)
    update = HeadTrainer()(local(), features, targets, weights)
    turned = HeadTrainer()(local(), features[::-1], targets[::-1], weights)
    np.testing.assert_allclose(turned, update, atol=1e-6)


def noise_std(count: int, setting: LocalTraining, calls: int = 60) -> float:
    trainer, arrays = HeadTrainer(), examples(count)
    quiet = HeadTrainer()(local(max_grad_norm=setting.max_grad_norm), *arrays)
    noise = np.concatenate([trainer(setting, *arrays) - quiet for _ in range(calls)])
    return float(noise.std())


@pytest.mark.parametrize("count", [0, 1, 4, 5, 40])
def test_the_noise_says_nothing_about_how_much_a_device_holds(count: int) -> None:
    """Opacus' own expected batch, int(n / len(loader)), would double the noise from 4 to 5 examples (FACTS.md)."""
    setting = local(noise_multiplier=1.5, max_grad_norm=2.0)
    expected = 1.5 * 2.0 / 16
    # 2,400 draws: the standard error of a standard deviation is 1.4%.
    assert noise_std(count, setting) == pytest.approx(expected, rel=0.08)


def test_noise_differs_from_call_to_call_and_between_trainers() -> None:
    setting = local(noise_multiplier=1.0)
    arrays, trainer = examples(3), HeadTrainer()
    draws = [trainer(setting, *arrays), trainer(setting, *arrays), HeadTrainer()(setting, *arrays)]
    assert not np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_without_examples_the_update_is_zeros() -> None:
    update = HeadTrainer()(local(), *examples(0))
    assert update.shape == (CLASSES * FEATURES,)
    assert not update.any()


def test_a_sample_rate_takes_each_example_with_that_chance() -> None:
    """Each example has a class of its own, so that the update shows which ones were taken."""
    count, rate, calls = 30, 0.3, 80
    features = np.zeros((count, count), np.float32)
    np.fill_diagonal(features, 1.0)
    targets = np.arange(count, dtype=np.int64)
    weights = np.zeros((count, count), np.float32)
    trainer, setting = HeadTrainer(), local(sample_rate=rate)
    taken = np.array(
        [np.diag(trainer(setting, features, targets, weights).reshape(count, count)) > 0 for _ in range(calls)]
    )
    chance = taken.mean()
    assert abs(chance - rate) < 5 * math.sqrt(rate * (1 - rate) / taken.size)
    assert len({row.tobytes() for row in taken}) > calls // 2
    one = trainer(local(), features, targets, weights).reshape(count, count)[0, 0]
    # The divisor is public: it does not follow the number that was taken.
    some = np.diag(trainer(setting, features, targets, weights).reshape(count, count))
    np.testing.assert_allclose(some[some > 0], one, rtol=1e-4)


def test_a_rate_so_small_that_nothing_is_taken_gives_zeros() -> None:
    for _ in range(5):
        assert not HeadTrainer()(local(sample_rate=1e-9), *examples(3)).any()


def hostile() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    features, targets, weights = examples(3)
    return {
        "features of another width": (features[:, :-1], targets, weights),
        "a single row": (features[0], targets, weights),
        "three dimensions": (features[None], targets, weights),
        "fewer targets": (features, targets[:-1], weights),
        "targets in a matrix": (features, targets[:, None], weights),
        "a target too high": (features, targets + CLASSES, weights),
        "a target below zero": (features, targets - CLASSES, weights),
        "targets in floats": (features, targets.astype(np.float32), weights),
        "targets in int32": (features, targets.astype(np.int32), weights),
        "features in float64": (features.astype(np.float64), targets, weights),
        "features in integers": (features.astype(np.int64), targets, weights),
        "weights in float64": (features, targets, weights.astype(np.float64)),
        "weights in one row": (features, targets, weights.reshape(-1)),
        "weights of no class": (features[:0], targets[:0], weights[:0]),
        "weights of no feature": (features[:, :0], targets, weights[:, :0]),
    }


@pytest.mark.parametrize("case", hostile())
def test_arrays_that_do_not_fit_together_are_a_typed_error(case: str) -> None:
    with pytest.raises(ContributionError):
        HeadTrainer()(local(), *hostile()[case])


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_values_that_are_not_finite_come_out_for_the_gate_to_see(value: float) -> None:
    """The trainer does not hide them: the gate answers such an update with zeros."""
    features, targets, weights = examples(3)
    features[1, 2] = value
    update = HeadTrainer()(local(), features, targets, weights)
    assert update.shape == (CLASSES * FEATURES,)
    assert not np.isfinite(update).all() or np.linalg.norm(update) <= 3 * 3.0 / 16 * (1 + 1e-4)
