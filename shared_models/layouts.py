"""Public layouts of contributions that train no model: what their numbers stand for, the same for all devices of a round.

A layout travels where a model would: its canonical document is the one label, beside a model of one zero. So it is bound by the
plan's `model_hash`, and whatever carries a round (Flower, the agent's pipe) carries it. Here: the document, its checks, and the
layout of items. Layouts of moments and of policy values stand with what they describe (bandit_prior, policy_value).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_models.canonical import canonical_bytes, canonical_hash, parse_document
from shared_models.errors import ConfigError, WireError
from shared_models.policy_value import ValueLayout
from shared_models.preference import MAX_HEAD, MAX_ITEMS, gram_dimension

MAX_LAYOUT_BYTES = 512 * 1024
NO_ENCODER = "0" * 64
"""`encoder_hash` of a plan whose contribution needs no encoder: a device with another encoder than its fleet's can answer it."""


def layout_model(
    contribution: str, version: int, document: Mapping[str, Any]
) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """(labels, weights [1, 1]) that carry `document` in a round. Raises ConfigError if it is too large, WireError if not JSON."""
    raw = canonical_bytes({"contribution": contribution, "version": version, "layout": dict(document)})
    if len(raw) > MAX_LAYOUT_BYTES:
        raise ConfigError(f"the layout of {contribution} has {len(raw)} bytes, at most {MAX_LAYOUT_BYTES} are sent")
    return (raw.decode(),), np.zeros((1, 1), np.float32)


def read_layout(
    contribution: str, version: int, labels: Sequence[str], weights: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """The document that came with a round. Raises WireError if it is not the canonical one of this contribution and version."""
    if len(labels) != 1 or weights.shape != (1, 1) or weights.any():
        raise WireError(f"{contribution} comes with a layout, a model came")
    try:
        raw = labels[0].encode()
    except UnicodeEncodeError as error:
        raise WireError("a layout is not text") from error
    document = parse_document(raw, limit_bytes=MAX_LAYOUT_BYTES)
    if set(document) != {"contribution", "version", "layout"} or canonical_bytes(document) != raw:
        raise WireError("a layout is not canonical, or has other fields than contribution, version and layout")
    if (document["contribution"], document["version"]) != (contribution, version):
        raise WireError(f"the layout is for another contribution than version {version} of {contribution}")
    layout = document["layout"]
    if not isinstance(layout, dict):
        raise WireError("a layout is an object")
    return layout


def items_hash(items: Sequence[str]) -> str:
    """Name of a catalogue: SHA-256 over its item ids, in order."""
    return canonical_hash({"items": list(items)})


@dataclass(frozen=True)
class ItemLayout:
    """Which items of a catalogue a vector is about, and their public weights. The ids themselves are the device's own."""

    catalogue: str
    """`items_hash` of the whole catalogue."""
    items: int
    """How many items it has."""
    head: tuple[int, ...] | None = None
    """Places in the catalogue, each once; None: all of it, in order."""
    weights: tuple[float, ...] = field(default=())
    """One above 0 for each item of the head; empty: 1 each."""

    def __post_init__(self) -> None:
        if type(self.items) is not int or not 1 <= self.items <= MAX_ITEMS:
            raise ConfigError(f"a catalogue has 1 to {MAX_ITEMS} items, not {str(self.items)[:40]}")
        if (
            not isinstance(self.catalogue, str)
            or len(self.catalogue) != 64
            or set(self.catalogue) - set("0123456789abcdef")
        ):
            raise ConfigError("a catalogue is named by 64 hexadecimal digits")
        if self.head is not None and not (
            0 < len(self.head) <= MAX_HEAD
            and all(type(place) is int and 0 <= place < self.items for place in self.head)
            and len(set(self.head)) == len(self.head)
        ):
            raise ConfigError(f"a head has 1 to {MAX_HEAD} places of the catalogue, each once")
        if self.weights and not (
            len(self.weights) == self.size
            and all(isinstance(weight, int | float) and not isinstance(weight, bool) for weight in self.weights)
            and all(1e-6 <= weight <= 1e6 for weight in self.weights)
        ):
            raise ConfigError("a layout of items has one weight above 0 for each, or none")

    @property
    def size(self) -> int:
        """Items of the head."""
        return self.items if self.head is None else len(self.head)

    @property
    def pairs_dimension(self) -> int:
        """Numbers of a Gram matrix's upper triangle over the head."""
        return gram_dimension(self.size)

    def chosen(self, catalogue: Sequence[str]) -> tuple[str, ...]:
        """Ids of the head, from the catalogue that the layout names. Raises WireError for another one."""
        if len(catalogue) != self.items or items_hash(catalogue) != self.catalogue:
            raise WireError("the layout is of another catalogue than the one at hand")
        return tuple(catalogue) if self.head is None else tuple(catalogue[place] for place in self.head)

    def weight_column(self) -> npt.NDArray[np.float32]:
        """[size, 1]"""
        return np.array(self.weights or [1.0] * self.size, np.float32)[:, None]

    def document(self) -> dict[str, Any]:
        return {
            "catalogue": self.catalogue,
            "items": self.items,
            "head": None if self.head is None else list(self.head),
            "weights": list(self.weights),
        }

    @classmethod
    def from_document(cls, document: Any) -> ItemLayout:
        """Parse what came with a plan. Raises WireError."""
        try:
            head, weights = document["head"], document["weights"]
            if set(document) != {"catalogue", "items", "head", "weights"} or not isinstance(weights, list):
                raise TypeError("it has other fields than catalogue, items, head and weights")
            if head is not None and not isinstance(head, list):
                raise TypeError("its head is no list")
            return cls(document["catalogue"], document["items"], None if head is None else tuple(head), tuple(weights))
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise WireError(f"not a layout of items: {str(error)[:200]}") from error


UNIFORM, PRIOR, LINEAR = "uniform", "prior", "linear"
JUDGED = (UNIFORM, PRIOR, LINEAR)
"""Policies that can be judged: any of what was possible, alike; the best by the published prior's mean; the best by `theta`."""


@dataclass(frozen=True)
class JudgedPolicy:
    """Which policy a round of `policy_value_sums` is about, and the layout of its sums."""

    target: str
    """One of JUDGED."""
    values: ValueLayout
    features: tuple[str, ...] = ()
    """For LINEAR: names of the features that `theta` weighs."""
    theta: tuple[float, ...] = ()
    """For LINEAR: public reward weights; the action with the largest sum is chosen."""

    def __post_init__(self) -> None:
        if self.target not in JUDGED:
            raise ConfigError(f"the policy to judge is {str(self.target)[:40]!r}, expected one of {', '.join(JUDGED)}")
        if (self.target == LINEAR) != bool(self.theta) or len(self.features) != len(self.theta):
            raise ConfigError(f"weights and the names of their features belong to {LINEAR!r}, one each")
        if not all(isinstance(name, str) and 0 < len(name) <= 100 for name in self.features):
            raise ConfigError("features have short names")
        if not all(
            isinstance(weight, int | float) and not isinstance(weight, bool) and abs(weight) <= 1e6
            for weight in self.theta
        ):
            raise ConfigError("weights are finite numbers up to a million")

    def document(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "values": self.values.document(),
            "features": list(self.features),
            "theta": list(self.theta),
        }

    @classmethod
    def from_document(cls, document: Any) -> JudgedPolicy:
        """Parse what came with a plan. Raises WireError."""
        try:
            if set(document) != {"target", "values", "features", "theta"}:
                raise TypeError("it has other fields than target, values, features and theta")
            values = ValueLayout.from_document(document["values"])
            return cls(document["target"], values, tuple(document["features"]), tuple(document["theta"]))
        except (ConfigError, TypeError) as error:
            raise WireError(f"not a layout of policy values: {str(error)[:200]}") from error
