"""The device's half of `intent_head`: one clipped-gradient update of the shared head from the user's own examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_client.share.port import Trainer
from shared_models.errors import WireError
from shared_models.wire import RoundPlan

NAME = "intent_head"
VERSION = 1
PURPOSE = "intent-model"
MAX_EXAMPLES = 2048
"""The newest ones are used; bounds time and memory on a device."""


class ExampleSource(Protocol):
    """Where the user's examples come from: features are centred unit vectors, float32 [n, D], intents their names."""

    @property
    def encoder_hash(self) -> str: ...

    def examples(self) -> tuple[npt.NDArray[np.float32], Sequence[str]]: ...


def compute(
    plan: RoundPlan,
    source: ExampleSource,
    labels: Sequence[str],
    weights: npt.NDArray[np.float32],
    trainer: Trainer,
) -> npt.NDArray[Any]:
    """The raw update [C·D] for the gate; zeros if there is nothing to learn from. Intents the model lacks are left out."""
    if plan.contribution_version != VERSION or plan.local is None:
        raise WireError(f"this device computes version {VERSION} of {NAME}, with local constants")
    features, intents = source.examples()
    index = {label: position for position, label in enumerate(labels)}
    known = [row for row, intent in enumerate(intents) if intent in index][-MAX_EXAMPLES:]
    if not known and plan.local.noise_multiplier == 0.0:
        return np.zeros(weights.size)
    targets = np.array([index[intents[row]] for row in known], dtype=np.int64)
    return trainer(plan.local, features[known].reshape(len(known), weights.shape[1]), targets, weights)
