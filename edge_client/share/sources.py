"""What contributions read on a device: one small Protocol for each kind of data, and all of them together.

Each tells two things apart. What is public and the same on every device (the catalogue, the names of features) is checked before
the gate reserves anything. What is the user's is read only for a plan that the gate has accepted and paid for, and is empty
without the user's consent to keep such data: empty data goes out as zeros, through the gate, like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge_client.decide.policy_value import Log
from edge_client.share.contributions.intent_head import ExampleSource
from shared_models.fairness import SliceSource
from shared_models.layouts import JudgedPolicy

FloatArray = npt.NDArray[np.float64]


class ItemSource(Protocol):
    """What can be liked, and what the user liked."""

    def catalogue_items(self) -> Sequence[str]:
        """Ids in the order of the active bundle's catalogue; empty if it has none. Public."""

    def liked_items(self) -> Sequence[str]:
        """The user's; each id once is enough."""


class DecisionSource(Protocol):
    """What was suggested and how it was received."""

    def feature_names(self) -> Sequence[str]:
        """Of the features that decisions are logged with; empty if this app decides nothing. Public."""

    def reward_range(self) -> tuple[float, float]:
        """Public."""

    def decided(self) -> tuple[FloatArray, FloatArray]:
        """The user's: features [n, d] of what was chosen and rewards [n], oldest first."""


class PolicyLogSource(Protocol):
    """Decisions with what other policies would have done."""

    def feature_names(self) -> Sequence[str]:
        """As of `DecisionSource`. Public."""

    def reward_range(self) -> tuple[float, float]:
        """Public."""

    def policy_log(self, judged: JudgedPolicy) -> Log:
        """The user's decisions, and what the judged policy would have done."""


class DriftSource(Protocol):
    """What has drifted in the period."""

    def drifted(self) -> tuple[Collection[str], int]:
        """The user's: kinds that raised an alarm, and how many observations of all kinds there were."""


class GroupSource(Protocol):
    """How the assistant did for the groups that the user is in."""

    @property
    def slices(self) -> Mapping[str, SliceSource]:
        """Groups that the schema declares. Public."""

    def counts(self) -> Mapping[str, Mapping[str, Sequence[float]]]:
        """The user's: slice → bucket → how often each outcome was counted."""


@dataclass(frozen=True)
class Sources:
    """All that a device can contribute from. None: this app has nothing of the kind, so that such rounds are refused."""

    examples: ExampleSource
    items: ItemSource | None = None
    decisions: DecisionSource | None = None
    policies: PolicyLogSource | None = None
    drift: DriftSource | None = None
    groups: GroupSource | None = None
