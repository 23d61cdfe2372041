"""The secure sum gives exactly the sum of the survivors' integers, whatever drops out, or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_round import SecureRound, plan_for

from privacy.secure_sum.device import signatures_needed
from privacy.secure_sum.messages import STAGES
from shared_models.errors import SecureSumError, TooFewSurvivorsError


def vectors(count: int, dimension: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(1 << 14), 1 << 14, (count, dimension))


def expected(rows: np.ndarray, gone: set[int]) -> np.ndarray:
    return sum(row for number, row in enumerate(rows) if number not in gone)


@given(data=st.data(), count=st.integers(3, 40), dimension=st.integers(1, 70), seed=st.integers(0, 1 << 30))
@settings(max_examples=25, deadline=None)
def test_the_sum_is_exact_for_any_drop_outs(data: st.DataObject, count: int, dimension: int, seed: int) -> None:
    least = max(2, int(0.6 * count))
    colluders = data.draw(st.integers(0, max(0, min(least - 2, count // 10))))
    rows = vectors(count, dimension, seed)
    may_go = data.draw(st.permutations(range(count)))[: count - least]
    stages = [data.draw(st.sampled_from(STAGES)) for _ in may_go]
    drops = {stage: [item for item, at in zip(may_go, stages, strict=True) if at == stage] for stage in STAGES}
    # Whoever contributed is in the sum, whatever it does afterwards.
    gone = {item for item, at in zip(may_go, stages, strict=True) if at not in ("agree", "unmask")}
    round_ = SecureRound(plan_for(count, least, colluders=colluders, dimension=dimension), rows, drops)
    roster = count - len(drops["advertise"])
    signers = count - sum(len(drops[stage]) for stage in STAGES[:5])
    if signers < signatures_needed(roster, colluders):
        with pytest.raises(SecureSumError, match="agreed"):
            round_.run()
        return
    released = round_.run()
    assert not round_.refusals
    assert released.survivors == count - len(gone)
    np.testing.assert_array_equal(released.values, expected(rows, gone))


@pytest.mark.parametrize("count", [30, 100])
def test_a_random_graph_survives_drop_outs_at_every_stage(count: int) -> None:
    rows = vectors(count, 33, 1)
    drops = {"draw": [0], "share": [1, 2], "contribute": range(3, 3 + count // 10), "agree": [20], "unmask": [21, 22]}
    plan = plan_for(count, int(0.65 * count), colluders=count // 20, dimension=33)
    assert plan.degree < count - 1
    released = SecureRound(plan, rows, drops).run()
    np.testing.assert_array_equal(released.values, expected(rows, set(range(3 + count // 10))))


@pytest.mark.deep
def test_three_hundred_devices() -> None:
    rows = vectors(300, 1000, 2)
    drops = {"share": range(10), "contribute": range(10, 80), "unmask": range(80, 90)}
    released = SecureRound(plan_for(300, 200, colluders=30, dimension=1000), rows, drops).run()
    np.testing.assert_array_equal(released.values, expected(rows, set(range(80))))


def test_values_wrap_modulo_two_to_the_32() -> None:
    rows = np.full((4, 1), (1 << 31) - 1)
    released = SecureRound(plan_for(4, 3, dimension=1), rows).run()
    assert int(released.values[0]) == ((4 * ((1 << 31) - 1) + (1 << 31)) % (1 << 32)) - (1 << 31)


def test_below_n_min_nothing_is_unmasked() -> None:
    for stage in STAGES[:4]:
        round_ = SecureRound(plan_for(10, 7, colluders=1), vectors(10, 8, 3), {stage: range(4)})
        with pytest.raises(TooFewSurvivorsError, match="below 7"):
            round_.run()


def test_too_few_signatures_or_shares_release_nothing() -> None:
    rows = vectors(10, 8, 4)
    with pytest.raises(SecureSumError, match="agreed"):
        SecureRound(plan_for(10, 7, colluders=1), rows, {"agree": range(5)}).run()
    with pytest.raises(SecureSumError, match="shares"):
        SecureRound(plan_for(10, 7, colluders=1), rows, {"unmask": range(5)}).run()
