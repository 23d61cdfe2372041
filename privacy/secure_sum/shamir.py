"""Shamir's secret sharing over GF(2^8), byte by byte, for many points and many secrets at once (Shamir 1979).

The field is that of AES (x^8 + x^4 + x^3 + x + 1). Share i is the polynomial at the point i + 1; point 0 is the secret, so there
are at most 255 shares. Randomness comes from the operating system. Table look-ups of secret bytes: not hardened against an
attacker who shares the processor's caches.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shared_models.errors import SecureSumError

Bytes = npt.NDArray[np.uint8]
MAX_SHARES = 255


def _tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    power, exponents, logarithms = 1, np.zeros(1024, np.uint8), np.zeros(256, np.int64)
    for exponent in range(255):
        exponents[exponent] = exponents[exponent + 255] = power
        logarithms[power] = exponent
        power ^= (power << 1) ^ (0x11B if power & 0x80 else 0)
    # Whatever is multiplied by zero ends among the zeros beyond 510.
    logarithms[0] = 511
    return exponents, logarithms


_EXP, _LOG = _tables()


def _product_table() -> Bytes:
    table: Bytes = _EXP[_LOG[:, None] + _LOG[None, :]]
    return table


_PRODUCT = _product_table()


def split(secret: bytes, threshold: int, shares: int) -> Bytes:
    """Split `secret` into `shares` rows, uint8 [shares, len(secret)]; any `threshold` rows give it back, fewer say nothing.

    Raises SecureSumError if the numbers cannot be.
    """
    if not 1 <= threshold <= shares <= MAX_SHARES or not secret:
        raise SecureSumError(f"cannot split {len(secret)} bytes into {shares} shares with threshold {threshold}")
    coefficients = np.frombuffer(os.urandom((threshold - 1) * len(secret)), np.uint8).reshape(
        threshold - 1, len(secret)
    )
    points = np.arange(1, shares + 1, dtype=np.uint8)
    # Horner's rule for all points and all bytes together.
    value = np.zeros((shares, len(secret)), np.uint8)
    for coefficient in coefficients:
        value = _PRODUCT[value ^ coefficient, points[:, None]]
    value ^= np.frombuffer(secret, np.uint8)
    return value


def combine(positions: Sequence[int], shares: Bytes) -> bytes:
    """The secret from rows `shares` uint8 [threshold, length] of the shares at `positions` (0-based, as `split` numbered them).

    With wrong shares the result is wrong: nothing here can tell. Raises SecureSumError for doubled or impossible positions.
    """
    if len(set(positions)) != len(positions) or len(positions) != len(shares) or not positions:
        raise SecureSumError("shares to combine need distinct positions, one for each")
    if min(positions) < 0 or max(positions) >= MAX_SHARES:
        raise SecureSumError(f"a share's position is outside 0 to {MAX_SHARES - 1}")
    weights = lagrange_at_zero(tuple(positions))
    value: Bytes = np.bitwise_xor.reduce(_PRODUCT[shares, weights[:, None]], axis=0)
    return value.tobytes()


def lagrange_at_zero(positions: tuple[int, ...]) -> Bytes:
    """Lagrange coefficients at 0 for the points position + 1, uint8 [n]."""
    points = np.array(positions, np.int64) + 1
    logs = _LOG[points]
    differences = points[:, None] ^ points[None, :]
    np.fill_diagonal(differences, 1)
    exponent = int(logs.sum()) - logs - _LOG[differences].sum(axis=1)
    weights: Bytes = _EXP[exponent % 255]
    return weights
