"""The arithmetic of federated training without devices or messages, for repeated seeds and for benchmarks.

Clipping and discretisation are the gate's in fewer passes, the noise is the release's own sampler unless a caller gives another,
and the gradient is the closed form of what Opacus computes for a linear head. Tests hold that the integers are the gate's and
that one round here equals one round through `ClientApp`, gate and runner. What it cannot show (consent, budgets, losses on the
way) is not claimed from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.checkpoint import Checkpoint
from aggregator.releases.intent_head import ServerOptimizer
from privacy.clipping import SQUARED_SENSITIVITY
from privacy.mechanisms import NoisySum, sample_discrete_gaussian
from shared_models.intent_head import FEATURE_SCALE
from shared_models.wire import SCALE, LocalTraining, noise_variance_for

_FINE = 1 << 24
NoiseSampler = Callable[[int, int], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class ReplicaClient:
    """What one device would train on."""

    features: npt.NDArray[np.float32]
    """[n, D], centred unit vectors."""
    targets: npt.NDArray[np.int64]
    """[n]"""


@dataclass(frozen=True)
class ReplicaSettings:
    rounds: int
    clip_norm: float
    noise_multiplier: float
    """0 leaves the noise out, and clipping with it: the non-private reference."""
    local: LocalTraining
    optimizer: ServerOptimizer
    represented: int = 1
    """Each client stands for this many of a larger population: sums are multiplied, noise is not ("projected")."""


def client_update(client: ReplicaClient, weights: np.ndarray, local: LocalTraining) -> npt.NDArray[np.float64]:
    """Update [C·D]: −Σ clip(g_i) / expected_batch, by the closed form g_i = FEATURE_SCALE (p_i − y_i) ⊗ x_i."""
    logits = FEATURE_SCALE * (client.features @ weights.T)
    logits -= logits.max(axis=1, keepdims=True)
    residual = np.exp(logits)
    residual /= residual.sum(axis=1, keepdims=True)
    residual[np.arange(len(client.targets)), client.targets] -= 1.0
    norms = FEATURE_SCALE * np.linalg.norm(residual, axis=1) * np.linalg.norm(client.features, axis=1)
    factors = FEATURE_SCALE * np.minimum(1.0, local.max_grad_norm / np.maximum(norms, 1e-12))
    update = -((residual * factors[:, None]).T @ client.features) / local.expected_batch
    return update.reshape(-1).astype(np.float64)


def gate_integers(update: npt.NDArray[np.float64], clip_norm: float) -> npt.NDArray[np.float64]:
    """What `privacy.clipping` makes of an update [d]: clipped, scaled, rounded; whole numbers in float64 [d].

    For finite updates of ordinary size only; every sum of squares below is exact in float64 (under 2^53).
    """
    norm = float(np.sqrt(np.dot(update, update)))
    scaled = update * (min(1.0, clip_norm / max(norm, 1e-300)) * (SCALE / clip_norm))
    grid = np.rint(scaled)
    shrink = 1.0
    while (squared := float(np.dot(grid, grid))) > SQUARED_SENSITIVITY:
        shrink *= min(SCALE / np.sqrt(squared), 1.0 - 1e-12)
        grid = np.trunc(np.rint(scaled) * shrink)
    return grid


def train(
    labels: Sequence[str],
    weights: np.ndarray,
    clients: Sequence[ReplicaClient],
    settings: ReplicaSettings,
    *,
    sampler: NoiseSampler = sample_discrete_gaussian,
    on_round: Callable[[Checkpoint], None] | None = None,
) -> Checkpoint:
    """All clients take part in all rounds, as in a plan with full participation."""
    zeros = np.zeros(weights.shape)
    checkpoint = Checkpoint(tuple(labels), weights.astype(np.float32), zeros, zeros, 0, 1, 0, settings.rounds)
    for _ in range(settings.rounds):
        checkpoint = settings.optimizer.step(checkpoint, _release(checkpoint, clients, settings, sampler))
        if on_round:
            on_round(checkpoint)
    return checkpoint


def _release(
    checkpoint: Checkpoint, clients: Sequence[ReplicaClient], settings: ReplicaSettings, sampler: NoiseSampler
) -> NoisySum:
    summed = np.zeros(checkpoint.weights.size)
    private = settings.noise_multiplier > 0.0
    for client in clients:
        update = client_update(client, checkpoint.weights, settings.local)
        # Without noise: the grid without the clip, fine enough that rounding does not matter.
        summed += (
            gate_integers(update, settings.clip_norm) if private else np.rint(update * (_FINE / settings.clip_norm))
        )
    total = summed.astype(np.int64) * settings.represented
    survivors = len(clients) * settings.represented
    if not private:
        return NoisySum(total, survivors, 0, settings.clip_norm * SCALE / _FINE)
    variance = noise_variance_for(settings.noise_multiplier)
    return NoisySum(total + sampler(variance, len(total)), survivors, variance, settings.clip_norm)
