"""Real gates through all six stages of a secure sum: what comes out, when it is paid for, and what a crash leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from privacy_world import (
    DIMENSION,
    OFFICER_PUBLIC,
    PURPOSE,
    signed_plan,
)
from secure_fleet import HEALTH, LEARNED, LEAST, MEMBERS, Fleet, no_noise, untouched

from privacy.clipping import IntArray
from privacy.gate import Gate
from privacy.ledger import Entry, verify_chain
from privacy.mechanisms import sample_discrete_gaussian
from privacy.secure_sum import messages as wire
from privacy.secure_sum.messages import ADVERTISE, AGREE, CONTRIBUTE, DRAW, SHARE, UNMASK
from shared_models.errors import (
    ContributionError,
    ReplayError,
    SecureSumError,
    WireError,
)
from shared_models.wire import MODE_DISTRIBUTED, SCALE, RoundPlan

# -- the sum -----------------------------------------------------------------------------------------------------------


def test_the_sum_of_all_updates_comes_out_and_nothing_else(fleet: Fleet) -> None:
    released = fleet.run(fleet.first.plan())
    np.testing.assert_array_equal(released.values, fleet.exact())
    assert released.survivors == MEMBERS


def test_who_drops_out_at_any_stage_is_not_in_the_sum_unless_it_had_contributed(fleet: Fleet) -> None:
    for round_id, (stage, counted) in enumerate([(SHARE, 5), (CONTRIBUTE, 5), (AGREE, 6), (UNMASK, 6)], 1):
        released = fleet.run(fleet.first.plan(round_id), {stage: {2}})
        present = [item for item in range(MEMBERS) if item != 2 or counted == 6]
        assert released.survivors == counted
        np.testing.assert_array_equal(released.values, fleet.exact(present))


def test_each_device_adds_its_share_of_the_noise_by_the_exact_sampler(fleet: Fleet) -> None:
    plan = fleet.first.plan()
    drawn: list[IntArray] = []

    def sampler(variance: int, size: int) -> IntArray:
        assert (variance, size) == (-(-plan.noise_variance // (LEAST - 1)), DIMENSION)
        assert variance == plan.share_variance
        drawn.append(sample_discrete_gaussian(variance, size))
        return drawn[-1]

    for member in fleet.members:
        member.noise = sampler
    released = fleet.run(plan)
    assert len(drawn) == MEMBERS
    assert all(draw.any() for draw in drawn)
    # Bit by bit: what comes out beyond the sum is the devices' own noise, on the silent coordinates as well.
    np.testing.assert_array_equal(released.values, fleet.exact() + sum(drawn))
    # Stated is what the honest survivors alone have added.
    assert released.noise_variance == (MEMBERS - 1) * plan.share_variance >= plan.noise_variance


def test_by_default_a_gate_draws_from_the_exact_sampler(fleet: Fleet) -> None:
    member = fleet.first
    gate = Gate(officer_key=OFFICER_PUBLIC, consent=member, memory=member.memory, clock=lambda: member.now_s)
    assert gate._noise is sample_discrete_gaussian


def test_the_silent_coordinates_are_zero_before_the_noise(fleet: Fleet) -> None:
    for member in fleet.members:
        member.vector = np.full(LEARNED, 1 << 20)
    released = fleet.run(fleet.first.plan())
    assert not released.values[LEARNED:].any()
    assert released.values[:LEARNED].all()
    # What is longer than the clip norm was clipped, exactly.
    assert int((released.values**2).sum()) <= (MEMBERS * SCALE) ** 2


def test_what_leaves_does_not_show_the_update(fleet: Fleet) -> None:
    """Without noise: the masks alone must hide it. A masked small vector has no small entries, nor those of a second try."""
    plan = fleet.first.plan()
    server = fleet.until(CONTRIBUTE, plan)
    sealed = fleet.first.contribute(plan, server.contribute_request(0))
    plain = np.concatenate([fleet.first.vector, np.zeros(HEALTH, np.int64)]).astype(np.uint32)
    assert not (sealed.values == plain).any()
    assert len(set(sealed.values.tolist())) == DIMENSION


def failing(error: BaseException) -> Callable[[RoundPlan], np.ndarray]:
    def update(plan: RoundPlan) -> np.ndarray:
        raise error

    return update


NOTHING: dict[str, tuple[Callable[[RoundPlan], Any], str]] = {
    "failing": (failing(ValueError("secret")), "ValueError"),
    "its own error": (failing(ContributionError("no data")), "no data"),
    "nan": (lambda plan: np.full(LEARNED, np.nan), "NaN"),
    "infinite": (lambda plan: np.full(LEARNED, -np.inf), "infinite"),
    "empty": (lambda plan: np.zeros(0), "shape"),
    "zero": (lambda plan: np.zeros(LEARNED), ""),
    "also the silent coordinates": (lambda plan: np.ones(DIMENSION), "shape"),
    "none": (lambda plan: None, "NoneType"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_a_device_with_nothing_to_say_answers_like_any_other_with_zeros(fleet: Fleet, case: str) -> None:
    update, note = NOTHING[case]
    plan = fleet.first.plan()
    asked: list[int] = []

    def sampler(variance: int, size: int) -> IntArray:
        asked.append(variance)
        return np.full(size, 7)

    fleet.first.noise = sampler
    server = fleet.until(CONTRIBUTE, plan)
    sealed = fleet.first.contribute(plan, server.contribute_request(0), update)
    server.add_contribution(0, sealed.values, sealed.proof)
    fleet.lead(server, plan, CONTRIBUTE, list(range(1, MEMBERS)))
    released = fleet.finish(server, plan)
    np.testing.assert_array_equal(released.values, fleet.exact([1, 2, 3, 4, 5]) + 7)
    assert asked == [plan.share_variance]
    (receipt,) = fleet.first.gate.receipts()
    assert note in receipt["body"]["note"]
    assert "secret" not in receipt["body"]["note"]
    assert fleet.first.gate.budget(PURPOSE).participations == 1


# -- the order: budget, vector, receipt --------------------------------------------------------------------------------


def test_the_budget_is_reserved_before_the_update_and_the_receipt_is_there_when_the_vector_leaves(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    server = fleet.until(CONTRIBUTE, plan)
    assert not any(key.startswith("spent/") for key in member.memory.committed)
    seen: list[list[str]] = []

    def update(plan: RoundPlan) -> np.ndarray:
        seen.append(list(member.memory.committed))
        return member.update(plan)

    def sampler(variance: int, size: int) -> IntArray:
        seen.append(list(member.memory.committed))
        return no_noise(variance, size)

    member.noise = sampler
    sealed = member.contribute(plan, server.contribute_request(0), update)
    assert len(seen) == 2
    for committed in seen:
        assert "spent/test/1" in committed
        assert not any(key.startswith("receipt/") for key in committed)
    assert member.memory.committed[-1] == "receipt/test/1"
    (receipt,) = member.new_gate().receipts()
    assert receipt["body"]["commitment"] == sealed.commitment
    assert (receipt["body"]["mode"], receipt["body"]["rho"]) == (MODE_DISTRIBUTED, plan.rho)


def test_keys_shares_and_signatures_cost_nothing_and_only_contributing_leaves_a_receipt(fleet: Fleet) -> None:
    fleet.until(CONTRIBUTE, fleet.first.plan())
    assert all(not member.gate.spendings() and not member.gate.receipts() for member in fleet.members)
    for round_id in (2, 3):
        fleet.run(fleet.first.plan(round_id))
    for member in fleet.members:
        assert member.gate.budget(PURPOSE).participations == 2
        verify_chain([Entry.from_document(item) for item in member.gate.receipts()])


@pytest.mark.parametrize("where", ["update", "noise"])
def test_a_crash_on_the_way_leaves_the_budget_spent_and_gives_no_vector(fleet: Fleet, where: str) -> None:
    member, plan = fleet.first, fleet.first.plan()
    server = fleet.until(CONTRIBUTE, plan)
    request = server.contribute_request(0)

    def killed(variance: int, size: int) -> IntArray:
        raise KeyboardInterrupt

    if where == "noise":
        member.noise = killed
    with pytest.raises(KeyboardInterrupt):
        member.contribute(plan, request, failing(KeyboardInterrupt()) if where == "update" else None)
    assert [item.round_id for item in member.gate.spendings()] == [1]
    assert not member.gate.receipts()
    member.noise = no_noise
    untouched(member, lambda: member.contribute(plan, request), ReplayError, "once only")
    member.gate = member.new_gate()
    untouched(member, lambda: member.contribute(plan, request), ReplayError)
    untouched(member, lambda: member.gate.advertise(signed_plan(plan)), ReplayError, "once only")


def test_a_repeated_contribute_gives_no_second_vector(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    server = fleet.until(CONTRIBUTE, plan)
    request = server.contribute_request(0)
    member.contribute(plan, request)
    untouched(member, lambda: member.contribute(plan, request), ReplayError, "once only")
    # The server's other tricks: a request that differs, another server's, a new advert for the same round.
    other = wire.ContributeRequest.from_bytes(request)
    fewer = wire.ContributeRequest(other.shared, other.drawers[1:]).to_bytes()
    untouched(member, lambda: member.contribute(plan, fewer), SecureSumError)


def test_after_a_crash_the_round_is_over_for_the_device(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    server = fleet.until(CONTRIBUTE, plan)
    request = server.contribute_request(0)
    member.contribute(plan, request)
    member.gate = member.new_gate()
    untouched(member, lambda: member.contribute(plan, request), ReplayError)
    untouched(member, lambda: member.gate.advertise(signed_plan(plan)), ReplayError, "once only")
    for stage in (DRAW, SHARE, AGREE, UNMASK):
        untouched(member, lambda stage=stage: member.answer(plan, stage, b""), ReplayError)
    # Another plan under the same number is no way round it.
    again = member.plan(noise_variance=plan.noise_variance + 1)
    untouched(member, lambda: member.gate.advertise(signed_plan(again)), ReplayError, "once only")


# -- stages out of place -----------------------------------------------------------------------------------------------


def test_before_it_has_advertised_a_device_answers_no_stage(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    for stage in (DRAW, SHARE, AGREE, UNMASK):
        untouched(member, lambda stage=stage: member.answer(plan, stage, b""), ReplayError, "no keys were offered")
    untouched(member, lambda: member.contribute(plan, b""), ReplayError, "no keys were offered")


def test_a_stage_that_does_not_exist_or_has_its_own_door_is_not_answered(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    fleet.until(CONTRIBUTE, plan)
    for stage in (CONTRIBUTE, ADVERTISE, "", "masked"):
        untouched(member, lambda stage=stage: member.answer(plan, stage, b""), WireError, "no stage")
