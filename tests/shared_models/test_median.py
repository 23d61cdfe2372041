"""The median is numpy's."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from shared_models.median import median


@pytest.mark.parametrize("count", [1, 2, 3, 10, 999, 1000])
def test_it_is_that_of_numpy(count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count)
    assert median(values) == float(np.median(values))
    assert median(values.astype(np.float32)) == pytest.approx(float(np.median(values)), abs=1e-6)


def test_one_that_is_no_number_makes_it_none() -> None:
    assert math.isnan(median([1.0, math.nan, 2.0]))


def test_it_loads_no_masked_arrays() -> None:
    said = (
        "import sys; from shared_models.median import median; median([1.0, 2.0]); sys.exit('numpy.ma' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", said], check=True, timeout=60)
