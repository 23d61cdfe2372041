"""The device's own budget: reserved before anything is computed, counted after any crash, freed by nothing but time."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_world import DAY_S, NOW_S, OFFICER_PUBLIC, PURPOSE, World, policy_document, signed_policy

from privacy.budgets import Spending, budget_state, check_budget
from privacy.policy import parse_policy
from shared_models.errors import BudgetExceededError, ReplayError, StoreWriteError
from shared_models.wire import RoundPlan

POLICY = parse_policy(signed_policy(policy_document()), OFFICER_PUBLIC)


class CrashError(BaseException):
    """What no code catches: as if the process had ended here."""


def test_the_reservation_is_written_before_the_update_is_computed(world: World) -> None:
    seen = []

    def update(plan: RoundPlan) -> np.ndarray:
        seen.append([item for item in world.memory.committed if item != "policy"])
        return np.zeros(plan.dimension)

    world.seal(world.plan(), update)
    assert seen == [["spent/test/1", "clock"]]
    assert world.memory.committed[-1] == "receipt/test/1"


def test_a_crash_inside_the_update_leaves_the_budget_spent(world: World) -> None:
    def crash(plan: RoundPlan) -> np.ndarray:
        raise CrashError

    with pytest.raises(CrashError):
        world.seal(world.plan(), crash)
    world.gate = world.new_gate()
    assert world.gate.budget(PURPOSE).participations == 1
    assert world.gate.budget(PURPOSE).rho_spent == pytest.approx(world.plan().rho)
    assert world.gate.receipts() == []
    with pytest.raises(ReplayError):
        world.seal(world.plan())


def test_a_reservation_that_cannot_be_written_stops_the_round(world: World) -> None:
    def full(key: str, value: object) -> None:
        raise StoreWriteError("disk full")

    world.memory.put = full  # type: ignore[method-assign]
    with pytest.raises(StoreWriteError):
        world.seal(world.plan())
    assert world.updates == 0


def test_a_receipt_that_cannot_be_written_keeps_the_contribution_here(world: World) -> None:
    real = world.memory.put

    def full(key: str, value: dict) -> None:
        if key.startswith("receipt/"):
            raise StoreWriteError("disk full")
        real(key, value)

    world.memory.put = full  # type: ignore[method-assign]
    with pytest.raises(StoreWriteError):
        world.seal(world.plan())
    assert world.gate.budget(PURPOSE).participations == 1


def test_a_round_is_answered_once_whatever_else_changes_in_its_plan(world: World) -> None:
    world.seal(world.plan(7))
    for plan in (world.plan(7), world.plan(7, noise_variance=1 << 45), world.plan(7, cohort=20)):
        with pytest.raises(ReplayError):
            world.seal(plan)
    assert world.updates == 1


def test_participations_run_out(world: World) -> None:
    for round_id in range(5):
        world.seal(world.plan(round_id, noise_variance=1 << 50))
    with pytest.raises(BudgetExceededError, match="5 of 5 participations"):
        world.seal(world.plan(5, noise_variance=1 << 50))


def test_rho_runs_out_before_participations_when_rounds_are_dear() -> None:
    document = policy_document(participations=5)
    document["purposes"][PURPOSE]["rho"] /= 2.0
    world = World(document)
    for round_id in (0, 1):
        world.seal(world.plan(round_id))
    with pytest.raises(BudgetExceededError, match="would exceed the limit"):
        world.seal(world.plan(2))
    # A round with more noise still fits.
    world.seal(world.plan(2, noise_variance=world.plan().noise_variance * 4))


def test_the_total_over_all_purposes_binds_too() -> None:
    document = policy_document()
    document["rho_total"] *= 0.5
    world = World(document)
    world.seal(world.plan(0))
    world.seal(world.plan(1))
    with pytest.raises(BudgetExceededError, match="all purposes"):
        world.seal(world.plan(2))


def test_another_purposes_spending_counts_towards_the_total() -> None:
    document = policy_document()
    document["purposes"]["other"] = copy.deepcopy(document["purposes"][PURPOSE])
    world = World(document)
    world.consents["other"] = 0.0
    for round_id in range(3):
        world.seal(world.plan(round_id, purpose="other"))
    for round_id in range(3, 5):
        world.seal(world.plan(round_id))
    assert world.gate.budget(PURPOSE).participations == 2
    with pytest.raises(BudgetExceededError, match="all purposes"):
        world.seal(world.plan(6))


def test_rounds_keep_their_distance() -> None:
    world = World(policy_document(separation_s=3600))
    world.seal(world.plan(0))
    assert world.gate.budget(PURPOSE).next_allowed_s == NOW_S + 3600
    world.now_s += 3599
    with pytest.raises(BudgetExceededError, match="in 1 s"):
        world.seal(world.plan(1))
    world.now_s += 1
    world.seal(world.plan(1))


def test_the_window_slides(world: World) -> None:
    """One participation a day; the policy is renewed as it would be, the period is 90 days."""
    for day in range(5):
        world.now_s = NOW_S + day * DAY_S
        world.seal(world.plan(day))
    for day in (6, 20, 60, 89, 90):
        world.now_s = float(NOW_S + day * DAY_S)
        renew(world)
        if day < 90:
            with pytest.raises(BudgetExceededError):
                world.seal(world.plan(100 + day))
    world.seal(world.plan(200))
    with pytest.raises(BudgetExceededError):
        world.seal(world.plan(201))
    world.now_s += DAY_S
    world.seal(world.plan(201))


def renew(world: World) -> None:
    from datetime import UTC, datetime

    issued = datetime.fromtimestamp(world.now_s, UTC)
    expires = datetime.fromtimestamp(world.now_s + 14 * DAY_S, UTC)
    world.adopt(issued=issued.isoformat(), expires=expires.isoformat())


@pytest.mark.parametrize("back_s", [1, 3600, 13 * DAY_S, 400 * DAY_S])
def test_a_clock_set_back_frees_nothing(world: World, back_s: int) -> None:
    for round_id in range(5):
        world.seal(world.plan(round_id))
    plan = world.plan(5)
    world.now_s -= back_s
    for gate in (world.gate, world.new_gate()):
        world.gate = gate
        assert gate.budget(PURPOSE).participations == 5
        with pytest.raises(BudgetExceededError):
            world.seal(plan)


def test_a_clock_set_back_does_not_shorten_the_separation() -> None:
    world = World(policy_document(separation_s=1000))
    world.seal(world.plan(0))
    plan = world.plan(1)
    world.now_s -= 5000
    with pytest.raises(BudgetExceededError, match="in 1000 s"):
        world.seal(plan)


def test_a_looser_policy_resets_no_counter(world: World) -> None:
    for round_id in range(5):
        world.seal(world.plan(round_id))
    document = policy_document(participations=6, epsilon=6.0)
    world.document = document
    world.adopt(sequence=2)
    world.consents[PURPOSE] = world.now_s + 1
    assert world.gate.budget(PURPOSE).participations == 5
    world.seal(world.plan(5))
    with pytest.raises(BudgetExceededError):
        world.seal(world.plan(6))
    assert len(world.gate.spendings()) == 6


def test_consent_withdrawn_and_given_again_resets_no_counter(world: World) -> None:
    for round_id in range(5):
        world.seal(world.plan(round_id))
    world.consents.clear()
    world.consents[PURPOSE] = world.now_s
    with pytest.raises(BudgetExceededError):
        world.seal(world.plan(9))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40 * DAY_S), st.integers(0, 6)), max_size=25))
def test_no_window_ever_holds_more_than_the_policy_allows(steps: list[tuple[int, int]]) -> None:
    """Whatever the rounds cost and whenever they come: an adaptive adversary gains nothing."""
    policy = POLICY
    limits = policy.purposes[PURPOSE]
    least = limits.rho / limits.participations
    spendings: list[Spending] = []
    now_s = float(NOW_S)
    for number, (pause_s, doubling) in enumerate(steps):
        now_s += pause_s
        rho = least * 2.0**doubling / 4.0
        try:
            check_budget(budget_state(policy, PURPOSE, spendings, now_s), rho, now_s)
        except BudgetExceededError:
            continue
        spendings.append(Spending("t", number, PURPOSE, "c", "0" * 64, rho, now_s))
    for start in [spending.time_s for spending in spendings]:
        window = [item for item in spendings if start <= item.time_s < start + policy.period_s]
        assert len(window) <= limits.participations
        assert math.fsum(item.rho for item in window) <= limits.rho * (1 + 1e-8)


def test_a_spending_is_kept_field_by_field() -> None:
    spending = Spending("task", 3, PURPOSE, "c", "a" * 64, 0.25, 12.5)
    assert Spending.from_document(spending.document()) == spending
