"""The device's port for rounds: joins the gate with the contributions that are compiled in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_client.share.answers import Asked, answer_for
from edge_client.share.contributions.intent_head import ExampleSource
from edge_client.share.port import Trainer
from edge_client.share.sources import Sources
from privacy.gate import Gate, SealedContribution, SealedMessage
from privacy.secure_sum.messages import ADVERTISE
from shared_models.canonical import Envelope
from shared_models.errors import WireError
from shared_models.wire import RoundPlan, model_hash

MAX_CLASSES = 10_000


class GatePort:
    """Implements `DevicePort` for one device: what a round asks goes through the gate, and only that."""

    def __init__(self, gate: Gate, sources: ExampleSource | Sources) -> None:
        """`sources`: all that can be contributed from; examples alone serve the shared head only."""
        self._gate = gate
        self._sources = sources if isinstance(sources, Sources) else Sources(sources)

    def answer_stage(self, task: str, round_id: int, stage: str, body: bytes) -> SealedMessage:
        """Raises RefusedError, SecureSumError or WireError; no text of theirs may leave the device."""
        if stage == ADVERTISE:
            signed = Envelope.from_bytes(body)
            # What can never be answered is turned away before keys are offered: a device that leaves later is missed.
            asked = RoundPlan.from_bytes(signed.payload)
            answer_for(asked.contribution).check(asked, self._sources)
            return self._gate.advertise(signed)
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
        answer = answer_for(asked.contribution)
        update = answer.prepare(Asked(asked, labels, weights, trainer), self._sources)
        return self._gate.seal(
            plan,
            update,
            model_hash=model_hash(labels, weights),
            encoder_hash=answer.encoder_hash(self._sources),
            request=request,
        )


def _check_model(labels: Sequence[str], weights: npt.NDArray[np.float32]) -> None:
    if not isinstance(weights, np.ndarray) or weights.dtype != np.float32 or weights.ndim != 2:
        raise WireError("a model is a float32 array [classes, features]")
    if not 0 < len(labels) <= MAX_CLASSES or len(labels) != len(weights) or len(set(labels)) != len(labels):
        raise WireError(f"{len(labels)} labels came with a model of {len(weights)} classes")
    if not np.isfinite(weights).all():
        raise WireError("the model holds NaN or infinite values")
