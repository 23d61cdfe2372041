"""Training on the device through Opacus: per-example gradients, clipped one by one, over a public batch size and rate.

Only the agent's process and simulations import this: it needs torch and Opacus. The noise that protects users is added once,
to the sum over devices; `noise_multiplier` > 0 here is the policy's second line, example-level, from a generator that is
not cryptographic (Opacus' secure mode does not build for current torch), with a ledger line of its own.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from shared_models.errors import ContributionError
from shared_models.intent_head import FEATURE_SCALE, energies, logits, loss_gradient, probabilities
from shared_models.local_tuning import LocalTuning
from shared_models.wire import LocalTraining

# A frozen model has inputs without gradients: nothing is wrong with that here.
warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)

NOISE_GENERATOR = "torch (not cryptographic)"


class HeadTrainer:
    """Computes one update vector: the negative mean of clipped per-example gradients of the softmax cross-entropy.

    Reusable: the Opacus-wrapped module of a shape is built once, weights are loaded for each call. Not thread-safe.
    """

    def __init__(self) -> None:
        self._wrapped: dict[tuple[int, int, LocalTraining], tuple[nn.Linear, Any, Any]] = {}

    def __call__(
        self,
        local: LocalTraining,
        features: npt.NDArray[np.float32],
        targets: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float64]:
        """Update [C·D] for features [n, D], targets [n] in 0..C−1 and weights [C, D]; zeros where there are no examples.

        Update = −(Σ_i clip(g_i) + σ·max_grad_norm·N(0, I)) / expected_batch, over the examples that Poisson sampling at
        `sample_rate` took. `expected_batch` is public: what a device holds does not change the scale of the noise.
        Raises ContributionError for arrays that do not fit together.
        """
        kinds = tuple(array.dtype.name for array in (features, targets, weights))
        if kinds != ("float32", "int64", "float32"):
            raise ContributionError(f"features, targets and weights are {kinds}, expected float32, int64, float32")
        if weights.ndim != 2 or 0 in weights.shape:
            raise ContributionError(f"weights {weights.shape} are not a model [classes, features]")
        classes, dimension = weights.shape
        if features.ndim != 2 or features.shape[1] != dimension or targets.shape != (len(features),):
            raise ContributionError(
                f"features {features.shape} and targets {targets.shape} do not fit weights {weights.shape}"
            )
        if len(targets) and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
            raise ContributionError(f"targets must lie in 0..{classes - 1}")
        linear, module, optimizer = self._module(classes, dimension, local)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weights))
        taken = _poisson_sample(len(targets), local.sample_rate)
        if not len(taken):
            # Opacus cannot differentiate an empty batch; its sum of clipped gradients is zero, and noise is added as ever.
            noise = np.zeros(classes * dimension)
            if local.noise_multiplier:
                scale = local.noise_multiplier * local.max_grad_norm / local.expected_batch
                noise = torch.normal(0.0, scale, (classes * dimension,)).numpy().astype(np.float64)
            return noise
        optimizer.zero_grad()
        scores = FEATURE_SCALE * module(torch.from_numpy(np.ascontiguousarray(features[taken])))
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(np.ascontiguousarray(targets[taken])))
        loss.backward()
        optimizer.expected_batch_size = local.expected_batch
        optimizer.pre_step()
        update = linear.weight.grad
        assert update is not None
        result: npt.NDArray[np.float64] = -update.detach().numpy().reshape(-1).astype(np.float64)
        return result

    def _module(self, classes: int, dimension: int, local: LocalTraining) -> tuple[nn.Linear, Any, Any]:
        key = (classes, dimension, local)
        if key not in self._wrapped:
            torch.set_num_threads(1)
            linear = nn.Linear(dimension, classes, bias=False)
            # The loader only tells Opacus a rate and a size, which are replaced by the public ones at each step.
            loader = DataLoader(TensorDataset(torch.zeros(1, dimension)), batch_size=1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module, optimizer, _ = PrivacyEngine().make_private(
                    module=linear,
                    optimizer=torch.optim.SGD(linear.parameters(), lr=1.0),
                    data_loader=loader,
                    noise_multiplier=local.noise_multiplier,
                    max_grad_norm=local.max_grad_norm,
                    poisson_sampling=False,
                )
            self._wrapped[key] = (linear, module, optimizer)
        return self._wrapped[key]


class HeadTuner:
    """Tunes a device's own copy of a head: several steps of `HeadTrainer`, each beside one on public phrases."""

    def __init__(self) -> None:
        self._trainer = HeadTrainer()

    def __call__(
        self,
        tuning: LocalTuning,
        features: npt.NDArray[np.float32],
        targets: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
        replay_features: npt.NDArray[np.float32],
        replay_targets: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.float64]:
        """The change [C·D] of weights [C, D] by the user's examples [n, D] and public ones [m, D]; target −1 means nothing.

        Public phrases are clipped by nothing and get no noise: they are nobody's. Raises ContributionError for arrays that do
        not fit together.
        """
        if replay_features.shape != (len(replay_targets), weights.shape[-1]) or (
            len(replay_targets) and not -1 <= int(replay_targets.min()) <= int(replay_targets.max()) < len(weights)
        ):
            raise ContributionError(
                f"public features {replay_features.shape} and targets {replay_targets.shape} do not fit {weights.shape}"
            )
        tuned = weights.astype(np.float32)
        meant = replay_targets >= 0
        inside, classes, outside = replay_features[meant], replay_targets[meant], replay_features[~meant]
        energy_before = energies(logits(weights, outside)) if len(outside) else np.empty(0)
        own = len(targets) / max(len(targets) + tuning.half_weight, 1e-9)
        local = tuning.local(len(targets))
        for _ in range(tuning.steps):
            step = own * self._trainer(local, features, targets, tuned).reshape(weights.shape)
            if len(inside):
                step = step - tuning.replay * loss_gradient(tuned, inside, classes)
            if len(outside):
                step = step - tuning.outside * _energy_gradient(tuned, outside, energy_before)
            tuned = (tuned + tuning.learning_rate * step).astype(np.float32)
        return np.asarray((tuned - weights).astype(np.float64).reshape(-1))


def _energy_gradient(
    weights: npt.NDArray[np.float32], features: npt.NDArray[np.float32], before: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Gradient [C, D] of the mean of ½·(fall of the energy below `before` [m])²: a rise costs nothing (outlier exposure)."""
    values = logits(weights, features)
    fallen = np.maximum(before - energies(values), 0.0)
    pull = probabilities(values, 1.0) * fallen[:, None]
    return np.asarray(FEATURE_SCALE / len(features) * (pull.T @ features), np.float32)


def _poisson_sample(count: int, rate: float) -> npt.NDArray[np.int64]:
    if rate >= 1.0:
        return np.arange(count)
    return np.flatnonzero(torch.rand(count).numpy() < rate)
