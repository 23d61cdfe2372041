"""Shamir's sharing over GF(2^8): any `threshold` shares give the secret back, one less says exactly nothing."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secure_sum import shamir
from privacy.secure_sum.shamir import MAX_SHARES, combine, lagrange_at_zero, split
from shared_models.errors import SecureSumError


def product(one: int, other: int) -> int:
    """Multiplication in the field of AES, by hand."""
    total = 0
    for bit in range(8):
        total ^= (one << bit) if other >> bit & 1 else 0
    for bit in range(14, 7, -1):
        total ^= (0x11B << (bit - 8)) if total >> bit & 1 else 0
    return total


def evaluated(secret: int, coefficients: list[int], point: int) -> int:
    """secret + c1·x + c2·x² + … in the field."""
    total, power = secret, 1
    for coefficient in coefficients:
        power = product(power, point)
        total ^= product(coefficient, power)
    return total


@given(data=st.data(), secret=st.binary(min_size=1, max_size=64), shares=st.integers(1, MAX_SHARES))
@settings(max_examples=80, deadline=None)
def test_any_threshold_shares_give_the_secret_back(data: st.DataObject, secret: bytes, shares: int) -> None:
    threshold = data.draw(st.integers(1, shares))
    rows = split(secret, threshold, shares)
    assert (rows.shape, rows.dtype) == ((shares, len(secret)), np.uint8)
    chosen = data.draw(st.permutations(range(shares)))
    for count in {threshold, min(shares, threshold + 1), shares}:
        assert combine(chosen[:count], rows[chosen[:count]]) == secret


def test_every_choice_of_three_in_six_works() -> None:
    secret = bytes(range(32))
    rows = split(secret, 3, 6)
    for chosen in itertools.permutations(range(6), 3):
        assert combine(chosen, rows[list(chosen)]) == secret


def test_the_shares_are_the_polynomials_values_in_the_field_of_aes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = os.urandom(3 * 5)
    monkeypatch.setattr(shamir.os, "urandom", lambda size: drawn[:size])
    secret = b"\x00\x01\x53\xca\xff"
    rows = split(secret, 4, MAX_SHARES)
    coefficients = np.frombuffer(drawn, np.uint8).reshape(3, 5)
    for position in (0, 1, 2, 100, 253, 254):
        # Horner's rule takes the highest coefficient first.
        wanted = [
            evaluated(secret[byte], [int(item) for item in coefficients[::-1, byte]], position + 1) for byte in range(5)
        ]
        assert rows[position].tolist() == wanted


def test_multiplication_is_that_of_the_field() -> None:
    assert product(0x53, 0xCA) == 1
    table = [[product(one, other) for other in range(256)] for one in range(256)]
    np.testing.assert_array_equal(shamir._PRODUCT, table)


def test_lagrange_weights_sum_to_one() -> None:
    """A constant polynomial must come out as its constant."""
    for positions in ((0,), (0, 1), (4, 200, 254), tuple(range(MAX_SHARES))):
        assert int(np.bitwise_xor.reduce(lagrange_at_zero(positions))) == 1


@pytest.mark.parametrize("secret", [0, 1, 0xA5, 0xFF])
def test_one_share_of_two_takes_every_value_exactly_once(monkeypatch: pytest.MonkeyPatch, secret: int) -> None:
    """Over all polynomials a share is every byte equally often, whatever the secret: nothing can be learned from it."""
    monkeypatch.setattr(shamir.os, "urandom", lambda size: bytes(range(size)))
    rows = split(bytes([secret]) * 256, 2, MAX_SHARES)
    for row in rows:
        assert sorted(row.tolist()) == list(range(256))


@pytest.mark.parametrize("secret", [0x00, 0x7E])
def test_threshold_less_one_shares_are_jointly_uniform(secret: int) -> None:
    """χ² over the 65,536 pairs of two shares' bytes, of three needed; 6σ. Real randomness, a million secrets."""
    rows = split(bytes([secret]) * (1 << 20), 3, 9)
    for one, other in ((0, 1), (3, 8)):
        pairs = rows[one].astype(np.int64) << 8 | rows[other]
        counts = np.bincount(pairs, minlength=1 << 16)
        expected = (1 << 20) / (1 << 16)
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert abs(statistic - 65_535) < 6 * (2 * 65_535) ** 0.5
        single = np.bincount(rows[one], minlength=256)
        assert abs(float(((single - 4096) ** 2 / 4096).sum()) - 255) < 6 * (2 * 255) ** 0.5


def test_one_share_too_few_or_a_wrong_one_gives_another_secret() -> None:
    secret = os.urandom(32)
    rows = split(secret, 5, 8)
    assert combine(range(4), rows[:4]) != secret
    bent = rows.copy()
    bent[2, 7] ^= 1
    wrong = combine(range(5), bent[:5])
    assert [index for index in range(32) if wrong[index] != secret[index]] == [7]
    assert combine((0, 1, 2, 3, 5), rows[:5]) != secret


def test_two_splits_of_one_secret_share_nothing() -> None:
    assert not (split(bytes(64), 2, 3) == split(bytes(64), 2, 3)).all(axis=1).any()


@pytest.mark.parametrize(
    ("secret", "threshold", "shares"),
    [(b"x", 0, 3), (b"x", 4, 3), (b"x", -1, 3), (b"x", 1, 0), (b"x", 2, 256), (b"", 2, 3)],
)
def test_what_cannot_be_split_is_refused(secret: bytes, threshold: int, shares: int) -> None:
    with pytest.raises(SecureSumError, match="cannot split"):
        split(secret, threshold, shares)


@pytest.mark.parametrize("positions", [(0, 0), (0, 255), (-1, 0), (0,), (0, 1, 2), ()])
def test_doubled_or_impossible_positions_are_refused(positions: tuple[int, ...]) -> None:
    rows = split(b"secret", 2, 3)[: 0 if positions == () else 2]
    with pytest.raises(SecureSumError, match="position"):
        combine(positions, rows)
