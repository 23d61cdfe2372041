"""A round as Flower records: what goes out (plan, labels, model) and what comes back (one sealed contribution).

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
from shared_models.wire import Sealed

MAX_LABELS_BYTES = 1 << 20
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


def round_records(plan: Envelope, labels: Sequence[str], weights: npt.NDArray[np.float32]) -> RecordDict:
    """The content of a `train` message; may be shared by all messages of a round."""
    return RecordDict(
        {
            "plan": ConfigRecord({"envelope": plan.to_bytes(), "labels": json.dumps(list(labels))}),
            "model": ArrayRecord({"weights": Array(weights)}),
        }
    )


def read_round(message: Message) -> tuple[Envelope, tuple[str, ...], npt.NDArray[np.float32]]:
    """Signed plan (not yet verified), labels and weights of a `train` message. Raises WireError."""
    try:
        content: Any = message.content
        config = content["plan"]
        envelope, text = config["envelope"], config["labels"]
        if not isinstance(envelope, bytes) or not isinstance(text, str) or len(text) > MAX_LABELS_BYTES:
            raise WireError("a round carries its plan as bytes and its labels as text")
        labels = json.loads(text)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise WireError("labels are a list of names")
        weights = content["model"]["weights"].numpy()
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise WireError(f"not a round's message: {error!r}") from error
    return Envelope.from_bytes(envelope), tuple(labels), weights


def contribution_records(sealed: Sealed) -> RecordDict:
    """The content of a reply: what the gate sealed, field by field, and nothing else."""
    seal: dict[str, Any] = {
        "task": sealed.task,
        "round_id": sealed.round_id,
        "plan_hash": sealed.plan_hash,
        "nonce": sealed.nonce,
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
        task, round_id, plan_hash, nonce = (seal[name] for name in ("task", "round_id", "plan_hash", "nonce"))
    except _UNPARSABLE as error:
        # The type alone: the text of such an error may quote what a hostile device wrote.
        raise WireError(f"not a contribution: {type(error).__name__}") from error
    texts = (task, plan_hash, nonce)
    if not all(isinstance(text, str) and len(text) <= 128 for text in texts) or not isinstance(round_id, int):
        raise WireError("a field of the seal has the wrong type")
    return Contribution(task, round_id, plan_hash, nonce, values)
