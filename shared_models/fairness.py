"""Does the assistant work as well for one group as for another? Which groups are compared (slices), by which outcomes, and the
layout of the sums that a device contributes. Public constants and checks, the same everywhere.

Slices are declared in the profile schema over attributes of ordinary sensitivity, each in a few coarse buckets; a sensitive slice
cannot be declared. Counters: edge_client.know.outcomes. The vector: edge_client.share.contributions.fairness_slices. What the
noisy sum means: aggregator.releases.fairness_slices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from shared_models.canonical import canonical_hash
from shared_models.errors import ConfigError, SensitiveError, WireError
from shared_models.sensitive import check_features

TURNS: Final = ("right", "corrected", "declined")
"""How a turn came out: the user did not object; the user said what was meant; the assistant had no answer."""
SUGGESTIONS: Final = ("accepted", "passed")
OUTCOMES: Final = (*TURNS, *SUGGESTIONS)
GROUPS: Final = (TURNS, SUGGESTIONS)
"""Outcomes of which one happens at a time: a rate is one of them over all of its group."""
DAYS_OF_USE: Final = "days_of_use"
"""Not an attribute: days since the device first counted an outcome. For new against long-time users."""
MAX_SLICES = 8
MAX_BUCKETS = 8
CLIP_NORM: Final = 1.0
LEAST_BUCKETS = 2


@dataclass(frozen=True)
class SliceSource:
    """Which bucket a user belongs to: by an attribute's text, or by a number between edges. Raises ConfigError."""

    attribute: str
    buckets: tuple[str, ...]
    values: tuple[tuple[str, ...], ...] = ()
    """For texts: what belongs to each bucket; an empty one takes all that is left. "de" stands for "de-CH", too."""
    edges: tuple[float, ...] = ()
    """For numbers: where the next bucket begins, in increasing order, one fewer than buckets."""

    def __post_init__(self) -> None:
        names = (self.attribute, *self.buckets)
        if not all(isinstance(name, str) and 0 < len(name) <= 64 for name in names):
            raise ConfigError("a slice has an attribute and buckets with short names")
        if not LEAST_BUCKETS <= len(self.buckets) <= MAX_BUCKETS or len(set(self.buckets)) != len(self.buckets):
            raise ConfigError(f"a slice has {LEAST_BUCKETS} to {MAX_BUCKETS} buckets with different names")
        if bool(self.values) == bool(self.edges):
            raise ConfigError("a slice has either values for each bucket or edges between them")
        if self.edges:
            finite = all(
                isinstance(edge, int | float) and not isinstance(edge, bool) and math.isfinite(edge)
                for edge in self.edges
            )
            if not finite or len(self.edges) != len(self.buckets) - 1 or list(self.edges) != sorted(set(self.edges)):
                raise ConfigError("edges are increasing numbers, one fewer than buckets")
            return
        listed = [value for values in self.values for value in values]
        if len(self.values) != len(self.buckets) or not all(
            isinstance(value, str) and 0 < len(value) <= 100 for value in listed
        ):
            raise ConfigError("each bucket has a list of texts")
        if len({value.casefold() for value in listed}) != len(listed) or sum(not values for values in self.values) > 1:
            raise ConfigError("a text belongs to one bucket, and one bucket at most takes what is left")

    @property
    def of_use(self) -> bool:
        return self.attribute == DAYS_OF_USE

    def bucket(self, value: Any) -> str:
        """The bucket of an attribute's value; "" if it is not known or belongs to none."""
        if self.edges:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                return ""
            return self.buckets[sum(value >= edge for edge in self.edges)]
        if not isinstance(value, str) or not value:
            return ""
        said = value.casefold()
        for name, values in zip(self.buckets, self.values, strict=True):
            if any(said == one.casefold() or said.startswith(f"{one.casefold()}-") for one in values):
                return name
        return next((name for name, values in zip(self.buckets, self.values, strict=True) if not values), "")

    def document(self) -> dict[str, Any]:
        return {
            "attribute": self.attribute,
            "buckets": list(self.buckets),
            "values": [list(values) for values in self.values],
            "edges": [float(edge) for edge in self.edges],
        }

    @classmethod
    def from_document(cls, document: Any) -> SliceSource:
        """Raises ConfigError for anything that `document()` did not give."""
        try:
            if set(document) != {"attribute", "buckets", "values", "edges"}:
                raise TypeError("other fields")
            values = tuple(tuple(texts) for texts in document["values"] if isinstance(texts, list))
            if len(values) != len(document["values"]) or not isinstance(document["buckets"], list):
                raise TypeError("lists were expected")
            return cls(document["attribute"], tuple(document["buckets"]), values, tuple(document["edges"]))
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"not a slice: {str(error)[:100]}") from error


@dataclass(frozen=True)
class FairnessLayout:
    """Which slices a round asks about. One fixed slot for each bucket and outcome. Raises ConfigError."""

    slices: Mapping[str, SliceSource]

    def __post_init__(self) -> None:
        if not isinstance(self.slices, Mapping) or not 1 <= len(self.slices) <= MAX_SLICES:
            raise ConfigError(f"a round compares 1 to {MAX_SLICES} slices")
        if not all(isinstance(name, str) and 0 < len(name) <= 64 for name in self.slices):
            raise ConfigError("slices have short names")
        for name, source in self.slices.items():
            if not isinstance(source, SliceSource):
                raise ConfigError(f"slice {name!r} is no slice")
            try:
                check_features((name, source.attribute, *source.buckets), where=f"slice {name!r}")
            except SensitiveError as error:
                raise ConfigError(str(error)) from error
        # Sorted, so that a layout that went over the wire is the same one.
        object.__setattr__(self, "slices", MappingProxyType({name: self.slices[name] for name in sorted(self.slices)}))

    @cached_property
    def slots(self) -> tuple[tuple[str, str, str], ...]:
        """(slice, bucket, outcome) of each number of the vector."""
        return tuple(
            (name, bucket, outcome)
            for name, source in self.slices.items()
            for bucket in source.buckets
            for outcome in OUTCOMES
        )

    @property
    def dimension(self) -> int:
        return len(self.slots)

    @property
    def factor(self) -> float:
        """Of every number.

        A user's shares over the buckets of one slice sum to 1 for turns and to 1 for suggestions: their L2 norm is at most √2,
        and √(2 · slices) for all.
        """
        return CLIP_NORM / math.sqrt(len(GROUPS) * len(self.slices))

    def document(self) -> dict[str, Any]:
        """What travels with a round's plan."""
        return {"slices": {name: source.document() for name, source in self.slices.items()}}

    @property
    def hash(self) -> str:
        return canonical_hash(self.document())

    @classmethod
    def from_document(cls, document: Any) -> FairnessLayout:
        """Parse what came with a plan. Raises WireError."""
        try:
            if set(document) != {"slices"} or not isinstance(document["slices"], dict):
                raise TypeError("expected slices")
            return cls({name: SliceSource.from_document(source) for name, source in document["slices"].items()})
        except (ConfigError, TypeError) as error:
            raise WireError(f"not a layout of slices: {str(error)[:200]}") from error
