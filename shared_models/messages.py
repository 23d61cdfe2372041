"""A round as Flower records: what goes out (plan, labels, model) and what comes back (one sealed contribution); and the other
stages of a secure sum, whose bodies are bytes that only privacy.secure_sum reads.

Imports Flower: only the agent's process and the aggregator load this module.
"""

from __future__ import annotations

import json
import tokenize
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from shared_models.canonical import Envelope
from shared_models.errors import WireError
from shared_models.wire import CONTRIBUTE, STAGES, Sealed, SealedStage

MAX_LABELS_BYTES = 1 << 20
MAX_STAGE_BYTES = 16 << 20
QUERY_STAGES = tuple(stage for stage in STAGES if stage != CONTRIBUTE)
"""The stages of a secure sum whose messages are `query.<stage>`; `contribute` is the `train` message."""

_UNPARSABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
)
"""What the readers of numpy and zip raise for bytes that a hostile device made up."""


@dataclass(frozen=True)
class Contribution:
    """A reply as the aggregator reads it: shapes and meaning are not checked yet."""

    task: str
    round_id: int
    plan_hash: str
    nonce: str
    values: npt.NDArray[np.uint32]
    proof: bytes


@dataclass(frozen=True)
class Stage:
    """A message of a stage of a secure sum other than `contribute`, either way."""

    task: str
    round_id: int
    body: bytes


def stage_records(stage: SealedStage) -> RecordDict:
    """The content of a `query.<stage>` message, and of its answer: what the gate sealed, and nothing else."""
    return RecordDict({"stage": ConfigRecord({"task": stage.task, "round_id": stage.round_id, "body": stage.body})})


def read_stage(message: Message) -> Stage:
    """Parse either way. Raises WireError."""
    try:
        content: Any = message.content
        if set(content) != {"stage"} or set(content["stage"]) != {"task", "round_id", "body"}:
            raise WireError("a stage carries its round and its body, nothing else")
        task, round_id, body = (content["stage"][name] for name in ("task", "round_id", "body"))
    except _UNPARSABLE as error:
        raise WireError(f"not a stage's message: {type(error).__name__}") from error
    if not isinstance(task, str) or type(round_id) is not int or not isinstance(body, bytes):
        raise WireError("a field of a stage has the wrong type")
    if len(body) > MAX_STAGE_BYTES:
        raise WireError(f"a stage's body has {len(body)} bytes, at most {MAX_STAGE_BYTES} are accepted")
    return Stage(task, round_id, body)


class RoundRecords:
    """The content of the `train` messages of one round: plan, labels and model are shared, `request` is each device's own."""

    def __init__(self, plan: Envelope, labels: Sequence[str], weights: npt.NDArray[np.float32]) -> None:
        self._plan: dict[str, Any] = {"envelope": plan.to_bytes(), "labels": json.dumps(list(labels))}
        self._model = ArrayRecord({"weights": Array(weights)})

    def content(self, request: bytes = b"") -> RecordDict:
        return RecordDict({"plan": ConfigRecord({**self._plan, "request": request}), "model": self._model})


def read_round(message: Message) -> tuple[Envelope, tuple[str, ...], npt.NDArray[np.float32], bytes]:
    """Signed plan (not yet verified), labels, weights and request of a `train` message. Raises WireError."""
    try:
        content: Any = message.content
        config = content["plan"]
        envelope, text, request = config["envelope"], config["labels"], config["request"]
        if not isinstance(envelope, bytes) or not isinstance(text, str) or len(text) > MAX_LABELS_BYTES:
            raise WireError("a round carries its plan as bytes and its labels as text")
        if not isinstance(request, bytes) or len(request) > MAX_STAGE_BYTES:
            raise WireError("a round's request is bytes of a limited number")
        labels = json.loads(text)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise WireError("labels are a list of names")
        weights = content["model"]["weights"].numpy()
    except _UNPARSABLE as error:
        raise WireError(f"not a round's message: {type(error).__name__}") from error
    return Envelope.from_bytes(envelope), tuple(labels), weights, request


def contribution_records(sealed: Sealed) -> RecordDict:
    """The content of a reply: what the gate sealed, field by field, and nothing else."""
    seal: dict[str, Any] = {
        "task": sealed.task,
        "round_id": sealed.round_id,
        "plan_hash": sealed.plan_hash,
        "nonce": sealed.nonce,
        "proof": sealed.proof,
    }
    return RecordDict(
        {
            "contribution": ArrayRecord({"values": Array(sealed.values)}),
            "seal": ConfigRecord(seal),
        }
    )


def read_contribution(message: Message) -> Contribution:
    """Parse a device's reply. Raises WireError for all that is not one, whatever its bytes; extra records are an error too."""
    try:
        content: Any = message.content
        if set(content) != {"contribution", "seal"} or set(content["contribution"]) != {"values"}:
            raise WireError("a contribution carries its values and its seal, nothing else")
        seal, values = content["seal"], content["contribution"]["values"].numpy()
        task, round_id, plan_hash, nonce, proof = (
            seal[name] for name in ("task", "round_id", "plan_hash", "nonce", "proof")
        )
    except _UNPARSABLE as error:
        raise WireError(f"not a contribution: {type(error).__name__}") from error
    texts = (task, plan_hash, nonce)
    if not all(isinstance(text, str) and len(text) <= 128 for text in texts) or not isinstance(round_id, int):
        raise WireError("a field of the seal has the wrong type")
    if not isinstance(proof, bytes):
        raise WireError("a field of the seal has the wrong type")
    return Contribution(task, round_id, plan_hash, nonce, values, proof)
