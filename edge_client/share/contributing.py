"""The device's port for rounds: joins the gate with the contributions that are compiled in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_client.share.contributions import intent_head
from edge_client.share.contributions.intent_head import ExampleSource
from edge_client.share.port import Trainer
from privacy.gate import Gate, SealedContribution, SealedMessage
from privacy.secure_sum.messages import ADVERTISE
from shared_models.canonical import Envelope
from shared_models.errors import PolicyError, WireError
from shared_models.wire import RoundPlan, model_hash

CONTRIBUTIONS = {intent_head.NAME: intent_head.compute}
MAX_CLASSES = 10_000


class GatePort:
    """Implements `DevicePort` for one device: what a round asks goes through the gate, and only that."""

    def __init__(self, gate: Gate, source: ExampleSource) -> None:
        self._gate = gate
        self._source = source

    def answer_stage(self, task: str, round_id: int, stage: str, body: bytes) -> SealedMessage:
        """Raises RefusedError, SecureSumError or WireError; no text of theirs may leave the device."""
        if stage == ADVERTISE:
            return self._gate.advertise(Envelope.from_bytes(body))
        return self._gate.answer_stage(task, round_id, stage, body)

    def contribute(
        self,
        plan: Envelope,
        labels: Sequence[str],
        weights: npt.NDArray[np.float32],
        trainer: Trainer,
        request: bytes = b"",
    ) -> SealedContribution:
        """Raises RefusedError or WireError; neither text may leave the device."""
        _check_model(labels, weights)
        # What can never be answered is turned away before the gate reserves anything for it; whether the plan is
        # authentic is the gate's question.
        asked = RoundPlan.from_bytes(plan.payload)
        if asked.dimension != weights.size + asked.health_dimension:
            raise WireError(f"the plan is for dimension {asked.dimension}, its model has {weights.size}")
        compute = CONTRIBUTIONS.get(asked.contribution)
        if compute is None:
            raise PolicyError(f"this version of the app cannot contribute {asked.contribution!r}")

        def update(accepted: RoundPlan) -> npt.NDArray[np.float64]:
            return compute(accepted, self._source, labels, weights, trainer)

        return self._gate.seal(
            plan,
            update,
            model_hash=model_hash(labels, weights),
            encoder_hash=self._source.encoder_hash,
            request=request,
        )


def _check_model(labels: Sequence[str], weights: npt.NDArray[np.float32]) -> None:
    if not isinstance(weights, np.ndarray) or weights.dtype != np.float32 or weights.ndim != 2:
        raise WireError("a model is a float32 array [classes, features]")
    if not 0 < len(labels) <= MAX_CLASSES or len(labels) != len(weights) or len(set(labels)) != len(labels):
        raise WireError(f"{len(labels)} labels came with a model of {len(weights)} classes")
    if not np.isfinite(weights).all():
        raise WireError("the model holds NaN or infinite values")
