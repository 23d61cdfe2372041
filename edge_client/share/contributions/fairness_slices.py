"""The device's half of `fairness_slices`: how the assistant did for this user, in the slots of the groups that the user is in.

One user's shares, not counts: whoever talks much weighs no more than others. For each slice, the shares of right, corrected and
declined turns sum to 1 over its buckets, and so do those of accepted and passed suggestions; the whole is scaled to L2 norm ≤ 1
(shared_models.fairness). Slots of groups that the user is not in are zeros, as are all of who has nothing to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from shared_models.errors import ContributionError
from shared_models.fairness import CLIP_NORM, GROUPS, OUTCOMES, FairnessLayout, SliceSource

__all__ = ["CLIP_NORM", "NAME", "PURPOSE", "VERSION", "compute"]

NAME = "fairness_slices"
PURPOSE = "quality-check"
VERSION = 1
Counts = Mapping[str, Mapping[str, Sequence[float]]]
"""Slice -> bucket -> how often each of OUTCOMES was counted."""


def compute(layout: FairnessLayout, counts: Counts, known: Mapping[str, SliceSource]) -> npt.NDArray[np.float64]:
    """The vector [layout.dimension] for the gate, L2 norm ≤ CLIP_NORM.

    `known`: the slices of the device's own schema. One that is another there, or is not there, gets zeros: no round can ask about
    a group that the app has not declared. Raises ContributionError for counts that are none.
    """
    blocks = []
    for name, source in layout.slices.items():
        block = np.zeros((len(source.buckets), len(OUTCOMES)))
        if known.get(name) == source:
            for row, bucket in enumerate(source.buckets):
                block[row] = _checked(name, bucket, counts.get(name, {}).get(bucket, (0,) * len(OUTCOMES)))
        start = 0
        for group in GROUPS:
            part = block[:, start : start + len(group)]
            total = part.sum()
            if total > 0.0:
                part /= total
            start += len(group)
        blocks.append(block.ravel())
    return np.concatenate(blocks) * layout.factor


def _checked(name: str, bucket: str, counted: Sequence[float]) -> Sequence[float]:
    if (
        isinstance(counted, str | bytes)
        or len(counted) != len(OUTCOMES)
        or any(isinstance(number, bool) or not isinstance(number, int | float) for number in counted)
        or not all(math.isfinite(number) and 0 <= number <= 1e12 for number in counted)
    ):
        raise ContributionError(f"slice {name[:40]!r}, {bucket[:40]!r}: expected {len(OUTCOMES)} counts, not negative")
    return counted
