"""Mechanisms: the exact discrete Gaussian, and the sum that a trusted aggregator may release only with noise in it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.clipping import IntArray, RingArray, from_ring, to_ring
from shared_models.errors import ContributionError, RoundError, TooFewSurvivorsError
from shared_models.wire import MODE_TRUSTED, SCALE, RoundPlan


def sample_discrete_gaussian(variance: int, size: int) -> IntArray:
    """`size` independent draws of the discrete Gaussian N_Z(0, variance), int64 [size].

    OpenDP's exact sampler (Canonne, Kamath, Steinke 2020, Algorithm 3) with the operating system's randomness.
    """
    import opendp.prelude as dp  # the device's core does without it

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    measurement = dp.m.make_gaussian(*space, scale=math.sqrt(variance))
    return np.asarray(measurement([0] * size), dtype=np.int64)


@dataclass(frozen=True)
class NoisySum:
    """A released sum over `survivors` contributions. Anything may be computed from it: post-processing is free."""

    values: IntArray
    """[d], on the integer grid."""
    survivors: int
    noise_variance: int
    """Variance of the noise that is in it, in squared units of the grid."""
    clip_norm: float

    def mean(self) -> npt.NDArray[np.float64]:
        """Noisy mean contribution [d] in the units of the contribution."""
        return self.values.astype(np.float64) * (self.clip_norm / SCALE / self.survivors)

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.values.astype("<i8").tobytes()).hexdigest()


class TrustedSum:
    """The running sum of mode `trusted-aggregator`: goes out once, with one exact draw of the plan's noise, or not at all.

    Constant memory. The exact sum has no accessor: `release` is the only way from it to the rest of the aggregator.
    """

    def __init__(self, plan: RoundPlan) -> None:
        if plan.mode != MODE_TRUSTED:
            raise RoundError(f"a round of mode {plan.mode!r} cannot be summed by a trusted aggregator")
        self._plan = plan
        self._sum = np.zeros(plan.dimension, dtype=np.uint32)
        self._survivors = 0
        self._released = False

    @property
    def survivors(self) -> int:
        return self._survivors

    def add(self, values: RingArray) -> None:
        """Add one device's vector. Raises ContributionError for another type or shape, or a norm that no honest gate seals."""
        if self._released:
            raise RoundError("this round was already released")
        if not isinstance(values, np.ndarray) or values.dtype != np.uint32 or values.shape != self._sum.shape:
            raise ContributionError(f"expected uint32 [{self._plan.dimension}] from a device")
        # One cheating device must not outweigh the others: the bound that gates keep is checked here as well.
        # In float64 no square can wrap, and a norm this close to the bound is exact (below 2^53).
        signed = from_ring(values).astype(np.float64)
        if float(np.square(signed).sum()) > SCALE * SCALE:
            raise ContributionError("a contribution is longer than the clip norm")
        np.add(self._sum, values, out=self._sum)
        self._survivors += 1

    def release(self) -> NoisySum:
        """Add the plan's noise and hand the sum out. Raises TooFewSurvivorsError below the plan's least cohort."""
        if self._released:
            raise RoundError("this round was already released")
        if self._survivors < self._plan.min_survivors:
            raise TooFewSurvivorsError(
                f"{self._survivors} devices contributed, the plan releases nothing below {self._plan.min_survivors}"
            )
        self._released = True
        noise = to_ring(sample_discrete_gaussian(self._plan.noise_variance, self._plan.dimension))
        values = from_ring(self._sum + noise)
        self._sum = np.zeros(0, dtype=np.uint32)
        return NoisySum(values, self._survivors, self._plan.noise_variance, self._plan.clip_norm)
