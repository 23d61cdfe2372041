"""What a round may ask of a device: one call. The agent and simulations call it, the owner of the store implements it.

Nothing here computes or sends anything; the gate (privacy.gate) is behind every implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from shared_models.canonical import Envelope
from shared_models.local_tuning import LocalTuning
from shared_models.wire import LocalTraining, Sealed, SealedStage

FeaturesArray: TypeAlias = npt.NDArray[np.float32]
"""[examples, features]: cached embeddings."""

TargetsArray: TypeAlias = npt.NDArray[np.int64]
"""[examples]: classes 0..C−1."""

WeightsArray: TypeAlias = npt.NDArray[np.float32]
"""[classes, features]: the model of the round."""

UpdateArray: TypeAlias = npt.NDArray[Any]
"""[classes · features], a float type: the raw update, which only the gate may see."""

Trainer: TypeAlias = Callable[[LocalTraining, FeaturesArray, TargetsArray, WeightsArray], UpdateArray]
"""Trains once. May run in another process; raises ContributionError or AgentError."""

Tuner: TypeAlias = Callable[
    [LocalTuning, FeaturesArray, TargetsArray, WeightsArray, FeaturesArray, TargetsArray], UpdateArray
]
"""Tunes the device's own head on the user's examples beside public ones; gives the change of the weights. Raises as a Trainer."""


class DevicePort(Protocol):
    """One device, as a round sees it."""

    def answer_stage(self, task: str, round_id: int, stage: str, body: bytes) -> SealedStage:
        """Answer a stage of a secure sum other than `contribute`; the body of `advertise` is the signed plan.

        Raises RefusedError, SecureSumError, and other TacitErrors; none of their texts may leave the device.
        """

    def contribute(
        self, plan: Envelope, labels: Sequence[str], weights: WeightsArray, trainer: Trainer, request: bytes = b""
    ) -> Sealed:
        """Answer the signed `plan` for a model with classes `labels` and `weights` [classes, features].

        `request` is the message of the secure sum's stage `contribute`. `trainer` is called at most once, for a plan that the
        gate has accepted and paid for. Raises RefusedError, and other TacitErrors; none of their texts may leave the device.
        """
