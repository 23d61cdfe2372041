"""Clipping and the integer grid: the bound is exact, whatever a training step hands over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.clipping import (
    SQUARED_SENSITIVITY,
    ClippedVector,
    clip_l2,
    discretise,
    finite_vector,
    from_ring,
    to_ring,
)
from shared_models.errors import ContributionError
from shared_models.wire import SCALE

any_floats = st.floats(allow_nan=False, allow_infinity=False, width=64)
vectors = hnp.arrays(np.float64, st.integers(1, 40), elements=any_floats)
clip_norms = st.one_of(st.floats(1e-300, 1e6), st.sampled_from([5e-324, 1e-320, 2.2e-308, 0.3, 1.0, 1e6]))


def squared_norm(grid: np.ndarray) -> int:
    """In Python's integers: nothing can wrap."""
    return sum(int(value) ** 2 for value in grid)


@settings(max_examples=150, deadline=None)
@given(vectors, clip_norms)
def test_the_squared_norm_on_the_grid_never_exceeds_the_sensitivity(vector: np.ndarray, clip_norm: float) -> None:
    grid = discretise(clip_l2(finite_vector(vector, vector.size), clip_norm)).values
    assert grid.dtype == np.int64
    assert squared_norm(grid) <= SQUARED_SENSITIVITY == SCALE**2


@pytest.mark.parametrize("dimension", [1, 2, 3, 17, 1000, 58_000])
@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-160, 1e-3, 1.0, 1e30, 1e160, 1e300])
def test_the_bound_holds_at_every_magnitude(dimension: int, size: float) -> None:
    random = np.random.default_rng(dimension)
    for vector in (random.normal(size=dimension), np.ones(dimension), random.choice([-1.0, 1.0], dimension)):
        grid = discretise(clip_l2(np.asarray(vector * size), 0.3)).values
        assert squared_norm(grid) <= SQUARED_SENSITIVITY


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e3, 1e3)), st.floats(1e-3, 1e3))
def test_a_short_vector_passes_and_a_long_one_keeps_its_direction(vector: np.ndarray, clip_norm: float) -> None:
    clipped = clip_l2(vector, clip_norm).values
    norm = float(np.linalg.norm(vector))
    if norm <= clip_norm * (1 - 1e-12):
        assert np.array_equal(clipped, vector)
    else:
        assert np.linalg.norm(clipped) == pytest.approx(min(clip_norm, norm), rel=1e-9)
        np.testing.assert_allclose(clipped * norm, vector * np.linalg.norm(clipped), rtol=1e-6, atol=1e-9 * norm)


def test_a_zero_vector_stays_zero_and_an_empty_one_is_possible() -> None:
    assert not discretise(clip_l2(np.zeros(5), 1.0)).values.any()
    assert not discretise(clip_l2(np.zeros(5), 5e-324)).values.any()
    assert clip_l2(np.zeros(0), 1.0).values.size == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7, 9])
def test_one_value_that_is_not_finite_is_an_error(value: float, place: int) -> None:
    vector = np.ones(10)
    vector[place] = value
    with pytest.raises(ContributionError, match="NaN or infinite"):
        finite_vector(vector, 10)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "1.0",
        [1.0, 2.0],
        3.0,
        np.float64(1.0),
        np.ones((2, 1)),
        np.ones((1, 2)),
        np.ones(3),
        np.ones(0),
        np.array(1.0),
        np.array(["a", "b"]),
        np.array([True, False]),
        np.array([1 + 0j, 2]),
        np.array([object(), 1.0]),
        np.array([b"a", b"b"]),
        np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]"),
    ],
)
def test_another_type_or_shape_is_an_error(value: object) -> None:
    with pytest.raises(ContributionError):
        finite_vector(value, 2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "int8", "uint64", ">f8"])
def test_every_real_number_type_becomes_float64_without_touching_the_original(dtype: str) -> None:
    original = np.array([1, 2, 3], dtype=dtype)
    vector = finite_vector(original, 3)
    vector[0] = 9.0
    assert vector.dtype == np.float64
    assert original[0] == 1


def test_a_masked_array_cannot_hide_nan_behind_its_mask() -> None:
    hidden = np.ma.masked_array([1.0, np.nan], mask=[False, True])
    with pytest.raises(ContributionError):
        finite_vector(hidden, 2)


def test_a_long_double_beyond_float64_is_infinite_and_so_an_error() -> None:
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        with pytest.raises(ContributionError):
            finite_vector(np.array([np.longdouble("1e4000"), 1], dtype=np.longdouble), 2)


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(-0.1, 0.1)))
def test_rounding_is_to_the_nearest_integer(values: np.ndarray) -> None:
    values = values / max(1.0, 10 * float(np.linalg.norm(values)))
    grid = discretise(ClippedVector(values, 1.0)).values
    assert np.abs(grid - values * SCALE).max() <= 0.5 + 1e-9


def test_rounding_has_no_bias_towards_zero() -> None:
    values = np.random.default_rng(1).uniform(0.0, 2 * 10.0 / SCALE, 100_000)
    grid = discretise(clip_l2(values, 10.0)).values
    scaled = values * (SCALE / 10.0)
    assert abs(float(np.mean(grid - scaled))) < 5 * 0.29 / np.sqrt(values.size)


def test_rounding_that_lengthens_is_taken_back() -> None:
    """Every entry is 50.6 units long and rounds up, so that the rounded norm is above the bound."""
    dimension = int((SCALE / 50.6) ** 2)
    clipped = clip_l2(np.ones(dimension), 1.0)
    assert squared_norm(np.rint(clipped.values * SCALE)) > SQUARED_SENSITIVITY
    assert squared_norm(discretise(clipped).values) <= SQUARED_SENSITIVITY


def test_a_vector_that_was_never_clipped_cannot_break_the_bound_either() -> None:
    for values in (np.full(3, 1e30), np.array([2.0**40, -(2.0**40)]), np.full(1000, 1.0)):
        assert squared_norm(discretise(ClippedVector(values, 1.0)).values) <= SQUARED_SENSITIVITY


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(np.int64, st.integers(0, 50), elements=st.integers(-(2**31), 2**31 - 1)))
def test_the_ring_gives_every_integer_of_32_bits_back(values: np.ndarray) -> None:
    ring = to_ring(values)
    assert ring.dtype == np.uint32
    assert np.array_equal(from_ring(ring), values)


@given(st.lists(st.integers(-(2**27), 2**27 - 1), min_size=1, max_size=15))
def test_sums_in_the_ring_are_sums_of_integers(values: list[int]) -> None:
    total = np.zeros(1, np.uint32)
    for value in values:
        total = total + to_ring(np.array([value]))
    assert int(from_ring(total)[0]) == sum(values)
