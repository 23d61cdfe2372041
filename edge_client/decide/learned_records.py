"""What is kept of suggestions and their outcomes: typed values and their records in the store. What cannot be read is None."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_client.decide.preference import Signal
from shared_models.bandit_prior import FloatArray
from shared_models.errors import SignalError


@dataclass(frozen=True, eq=False)
class Open:
    """One suggestion that waits for what comes of it."""

    item: str
    candidates: FloatArray
    """[m, d]: features of all among which it was chosen."""
    chosen: int
    """Row of `candidates`."""
    propensity: float
    at_s: float
    group: str
    """Shared by the suggestions of one list."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One suggestion and its reward, or one answer to a question; what contributions are computed from."""

    features: FloatArray
    """[d]"""
    reward: float
    propensity: float
    """1 for an answer: nothing was chosen."""
    candidates: FloatArray
    """[m, d]; [0, d] for an answer."""
    chosen: int
    at_s: float
    noise: float
    """Of the reward, as a multiple of the prior's noise variance."""
    item: str
    """Empty for an answer."""


def _packed(array: FloatArray) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _unpacked(text: Any, count: int) -> FloatArray:
    rows = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError("features that are not finite")
    return rows.reshape(-1, count)


def open_record(one: Open) -> dict[str, Any]:
    return {
        "item": one.item,
        "d": one.candidates.shape[1],
        "candidates": _packed(one.candidates),
        "chosen": one.chosen,
        "propensity": one.propensity,
        "at_s": one.at_s,
        "group": one.group,
    }


def read_open(record: Mapping[str, Any]) -> Open | None:
    try:
        rows = _unpacked(record["candidates"], int(record["d"]))
        chosen = int(record["chosen"])
        rows[chosen]
        propensity, at_s = float(record["propensity"]), float(record["at_s"])
        return Open(str(record["item"]), rows, chosen, propensity, at_s, str(record["group"]))
    except (KeyError, IndexError, TypeError, ValueError, binascii.Error):
        return None


def outcome_record(one: Outcome) -> dict[str, Any]:
    return {
        "d": len(one.features),
        "features": _packed(one.features),
        "reward": one.reward,
        "propensity": one.propensity,
        "candidates": _packed(one.candidates),
        "chosen": one.chosen,
        "at_s": one.at_s,
        "noise": one.noise,
        "item": one.item,
    }


def read_outcome(record: Mapping[str, Any]) -> Outcome | None:
    try:
        count = int(record["d"])
        return Outcome(
            _unpacked(record["features"], count)[0],
            float(record["reward"]),
            float(record["propensity"]),
            _unpacked(record["candidates"], count),
            int(record["chosen"]),
            float(record["at_s"]),
            float(record["noise"]),
            str(record["item"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, binascii.Error):
        return None


def feature_list(record: Mapping[str, Any]) -> list[float]:
    found = read_outcome(record)
    return [] if found is None else [round(float(value), 6) for value in found.features]


def read_signal(record: Mapping[str, Any]) -> Signal | None:
    try:
        return Signal(**record)
    except (SignalError, TypeError):
        return None
