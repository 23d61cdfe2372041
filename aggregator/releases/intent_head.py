"""What a noisy sum of head updates means: one step of server momentum, and tail averaging of the models.

Uniform weights; the mean is over realised survivors. All of this is post-processing of the release.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aggregator.checkpoint import Checkpoint
from privacy.mechanisms import NoisySum
from shared_models.errors import ConfigError

NAME = "intent_head"
VERSION = 1
PURPOSE = "intent-model"


@dataclass(frozen=True)
class ServerOptimizer:
    """FedAvgM (Hsu, Qi, Brown 2019) over one clipped gradient per device, with Polyak averaging of the last models.

    The defaults were measured for few rounds from seed phrases (docs/decisions.md): with 8 rounds momentum does not pay.
    """

    learning_rate: float = 12.0
    momentum: float = 0.0
    tail_rounds: int = 3
    """The released model is the mean of the models after the last `tail_rounds` rounds."""

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and 0 <= self.momentum < 1 and self.tail_rounds >= 1):
            raise ConfigError(f"cannot optimise with {self}")

    def step(self, checkpoint: Checkpoint, release: NoisySum) -> Checkpoint:
        """The checkpoint after this release; `rounds_planned` decides when the tail begins."""
        mean = release.mean().reshape(checkpoint.weights.shape)
        velocity = self.momentum * checkpoint.velocity + mean
        weights = (checkpoint.weights + self.learning_rate * velocity).astype(np.float32)
        done = checkpoint.rounds_done + 1
        in_tail = done > checkpoint.rounds_planned - self.tail_rounds
        tail_sum = (checkpoint.tail_sum if checkpoint.tail_count else 0.0) + weights.astype(np.float64)
        return replace(
            checkpoint,
            weights=weights,
            velocity=velocity,
            tail_sum=tail_sum if in_tail else np.zeros_like(velocity),
            tail_count=checkpoint.tail_count + 1 if in_tail else 0,
            rounds_done=done,
        )
