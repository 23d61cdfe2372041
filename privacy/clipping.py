"""From a float vector to the integer grid: finite → clipped → scaled and rounded → ring. A value carries its sensitivity with it.

The order and the constants are those of the distributed discrete Gaussian (Kairouz, Liu, Steinke 2021, §4), without rotation:
with SCALE = 2^14 per clip norm, rounding costs so little that the exact integer norm check below suffices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared_models.errors import ContributionError
from shared_models.wire import SCALE

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
RingArray = npt.NDArray[np.uint32]

SQUARED_SENSITIVITY = SCALE * SCALE


@dataclass(frozen=True)
class ClippedVector:
    """A vector [d] whose L2 norm is at most `clip_norm` (up to float rounding; `discretise` makes the bound exact)."""

    values: FloatArray
    clip_norm: float


@dataclass(frozen=True)
class GridVector:
    """An integer vector [d] whose squared L2 norm is at most SQUARED_SENSITIVITY, exactly: zero-out sensitivity is SCALE."""

    values: IntArray


def finite_vector(value: object, dimension: int) -> FloatArray:
    """Check an untrusted update and return it as float64 [dimension].

    Raises ContributionError for another type, shape or size and for NaN or ±Inf anywhere. Subnormals and 1e30 are fine.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise ContributionError(f"an update is an array of numbers, got {_describe(value)}")
    if value.shape != (dimension,):
        raise ContributionError(f"an update of shape {value.shape} came where ({dimension},) was planned")
    # A plain copy: a subclass of arrays could hide entries from the next check (a masked one does).
    with np.errstate(over="ignore"):
        vector = np.array(value, dtype=np.float64)
    if not np.isfinite(vector).all():
        raise ContributionError("an update holds NaN or infinite values")
    return vector


def clip_l2(vector: FloatArray, clip_norm: float) -> ClippedVector:
    """Scale `vector` [d] down to L2 norm `clip_norm` if it is longer; shorter and zero vectors pass unchanged."""
    largest = float(np.abs(vector).max(initial=0.0))
    if largest == 0.0:
        return ClippedVector(np.zeros_like(vector), clip_norm)
    # Dividing by the largest entry first keeps 1e300 from overflowing and 1e-300 from vanishing in the squares.
    unit = vector / largest
    norm_of_unit = float(np.sqrt(np.square(unit).sum()))
    if largest <= clip_norm / norm_of_unit:
        return ClippedVector(vector.copy(), clip_norm)
    return ClippedVector(unit * (clip_norm / norm_of_unit), clip_norm)


def discretise(clipped: ClippedVector) -> GridVector:
    """Scale the clip norm to SCALE and round to nearest; if rounding made the vector too long, shrink and truncate.

    The squared norm of the result, computed in int64, is at most SQUARED_SENSITIVITY.
    """
    # Divided first: SCALE over a subnormal clip norm is infinite. An entry beyond the bound alone would wrap int64 squares.
    scaled = np.clip(clipped.values / clipped.clip_norm, -1.0, 1.0) * SCALE
    grid = np.rint(scaled).astype(np.int64)
    shrink = 1.0
    while (squared := int(np.dot(grid, grid))) > SQUARED_SENSITIVITY:
        # Truncation never lengthens, so this ends at the first turn but for the last bit of the float factor.
        shrink *= min(SCALE / np.sqrt(float(squared)), 1.0 - 1e-12)
        grid = np.trunc(np.rint(scaled) * shrink).astype(np.int64)
    return GridVector(grid)


def to_ring(grid: IntArray) -> RingArray:
    """Integers mod 2^32, as sums are carried."""
    return (grid & 0xFFFFFFFF).astype(np.uint32)


def from_ring(ring: RingArray) -> IntArray:
    """The representative of each residue in [−2^31, 2^31)."""
    return ring.astype(np.uint32).view(np.int32).astype(np.int64)


def _describe(value: object) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
