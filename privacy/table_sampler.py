"""The discrete Gaussian by inversion of its distribution function: for simulated devices, where the exact sampler is too slow.

Real devices draw with OpenDP (`mechanisms.sample_discrete_gaussian`); a test shows that both draw from the same distribution.
The table holds the distribution function to 128 bits, cut where less than 2^-110 of the mass is left, so a draw differs from
the exact distribution by less than 2^-100 in total variation. Uniform bits are AES-256 in counter mode under a key from the
operating system. Not constant in time.
"""

from __future__ import annotations

import decimal
import functools
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from shared_models.errors import ConfigError

MAX_VARIANCE = 1 << 40
TAIL_SIGMAS = 12.5
"""Beyond it lies less than exp(−12.5²/2) = 2^-112 of the mass."""
_WORD = 1 << 64

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class _Table:
    """P[X ≤ least + i] = (high[i]·2^64 + low[i]) / 2^128, rounded down; the last one is 1."""

    least: int
    high: Words
    low: Words


class TableSampler:
    """Draws of N_Z(0, variance). Raises ConfigError for a variance that is not a whole number from 1 to MAX_VARIANCE."""

    def __init__(self, variance: int, words: Callable[[int], Words] | None = None) -> None:
        """`words(n)` gives n uniform 64-bit words; by default a stream of this sampler's own."""
        if isinstance(variance, bool) or not isinstance(variance, int) or not 1 <= variance <= MAX_VARIANCE:
            raise ConfigError(f"variance is {str(variance)[:40]}, expected a whole number from 1 to {MAX_VARIANCE}")
        self._table = _table(variance)
        self._words = words or _Stream().words

    def sample(self, size: int) -> npt.NDArray[np.int64]:
        """int64 [size], independent. Raises ConfigError for a size that is not a whole number from 0."""
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0:
            raise ConfigError(f"cannot draw {str(size)[:40]} numbers, expected a whole number from 0")
        size = int(size)
        uniform = self._words(size)
        table = self._table
        position = np.searchsorted(table.high, uniform, side="left")
        # The first 64 bits decide, but for one draw in 2^64 / (table's length).
        for tied in np.flatnonzero(table.high[position] == uniform):
            position[tied] = self._decide(int(position[tied]), int(uniform[tied]))
        return position + table.least

    def _decide(self, position: int, word: int) -> int:
        """The first entry that is greater than the 128-bit number whose upper half is `word`."""
        table = self._table
        number = word * _WORD + int(self._words(1)[0])
        last = len(table.high) - 1
        while position < last and number >= int(table.high[position]) * _WORD + int(table.low[position]):
            position += 1
        return position


def sample_from_table(variance: int, size: int) -> npt.NDArray[np.int64]:
    """As `mechanisms.sample_discrete_gaussian`, from a sampler that is kept for each variance."""
    return _sampler(variance).sample(size)


@functools.lru_cache(maxsize=8)
def _sampler(variance: int) -> TableSampler:
    return TableSampler(variance)


class _Stream(threading.local):
    """AES-256 in counter mode; keyed anew in a forked process, which must not repeat its parent's noise.

    Every thread has a cipher and a key of its own: a cipher that two threads use at once raises, and a lock could be
    held for ever in a forked process.
    """

    def __init__(self) -> None:
        self._pid = -1
        self._cipher: CipherContext | None = None

    def words(self, count: int) -> Words:
        if self._cipher is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._cipher = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
        return np.frombuffer(self._cipher.update(bytes(8 * count)), np.uint64)


@functools.lru_cache(maxsize=8)
def _table(variance: int) -> _Table:
    radius = math.ceil(TAIL_SIGMAS * math.sqrt(variance)) + 1
    with decimal.localcontext(decimal.Context(prec=80, Emin=-999999, Emax=999999)):
        # weight(x+1) = weight(x) · ratio(x), ratio(x+1) = ratio(x) · exp(−1/variance); the weight at 0 is 1.
        step = (decimal.Decimal(-1) / variance).exp()
        ratio = (decimal.Decimal(-1) / (2 * variance)).exp()
        weights = [decimal.Decimal(1)]
        for _ in range(radius):
            weights.append(weights[-1] * ratio)
            ratio *= step
        total = 2 * sum(weights) - 1
        scale = decimal.Decimal(1 << 128) / total
        numbers, running = [], decimal.Decimal(0)
        for weight in [*reversed(weights[1:]), *weights]:
            running += weight
            numbers.append(min(int(running * scale), (1 << 128) - 1))
    numbers[-1] = (1 << 128) - 1
    high = np.array([number >> 64 for number in numbers], np.uint64)
    low = np.array([number & (_WORD - 1) for number in numbers], np.uint64)
    return _Table(-radius, high, low)
