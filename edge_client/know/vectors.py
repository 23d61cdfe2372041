"""Embeddings as the store keeps them: beside the text they came from, valid for one encoder."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from shared_models.errors import StoreDamagedError

Vector: TypeAlias = npt.NDArray[np.float32]
"""[D], a unit vector of the encoder."""

Embed: TypeAlias = Callable[[str], Vector]


def pack_vector(vector: Vector, encoder_sha256: str) -> dict[str, Any]:
    """The fields that keep `vector` in a record: float32, little-endian, base64."""
    raw = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return {"vector": base64.b64encode(raw).decode(), "encoder": encoder_sha256}


def unpack_vector(record: dict[str, Any], encoder_sha256: str) -> Vector | None:
    """The kept vector; None if there is none or it came from another encoder. Raises StoreDamagedError."""
    if record.get("encoder") != encoder_sha256:
        return None
    try:
        return np.frombuffer(base64.b64decode(record["vector"], validate=True), dtype="<f4").astype(np.float32)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise StoreDamagedError("a kept embedding cannot be read") from error
