"""Rounds for which a device offers keys are counted, durably: a server cannot have the graph drawn anew until it suits."""

from __future__ import annotations

import pytest
from privacy_world import PURPOSE, signed_plan
from secure_fleet import MEMBERS, Fleet, untouched

from privacy import gate
from privacy.budgets import ADVERTS_PER_PARTICIPATION, Advertised, check_adverts
from privacy.guarantees import PROTOCOL_FAILURE, protocol_failure
from shared_models.errors import BudgetExceededError, ReplayError


def test_keys_that_were_lost_in_a_crash_are_not_offered_anew(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    first = member.gate.advertise(signed_plan(plan))
    assert member.gate.advertise(signed_plan(plan)) == first
    member.gate = member.new_gate()
    untouched(member, lambda: member.gate.advertise(signed_plan(plan)), ReplayError, "were offered before")
    assert member.gate.spendings() == [], "and no budget is spent"
    assert fleet.run(member.plan(round_id=2)).survivors == MEMBERS


def test_the_offer_is_counted_before_any_key_is_made(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that dies in between has counted."""
    member, plan = fleet.first, fleet.first.plan()

    class Died(BaseException): ...

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as dying:
        dying.setattr(gate, "DeviceSession", die)
        with pytest.raises(Died):
            member.gate.advertise(signed_plan(plan))
    member.gate = member.new_gate()
    untouched(member, lambda: member.gate.advertise(signed_plan(plan)), ReplayError, "were offered before")


def test_rounds_that_come_to_nothing_are_counted(fleet: Fleet) -> None:
    member = fleet.first
    limit = ADVERTS_PER_PARTICIPATION * member.policy.purposes[PURPOSE].participations
    for round_id in range(1, limit + 1):
        member.gate.advertise(signed_plan(member.plan(round_id)))
        if round_id % 7 == 0:
            member.gate = member.new_gate()
    one_more = signed_plan(member.plan(limit + 1))
    untouched(
        member, lambda: member.gate.advertise(one_more), BudgetExceededError, f"for {limit} rounds of this period"
    )
    offered = [Advertised(PURPOSE, member.now_s)] * limit
    check_adverts(member.policy, Advertised(PURPOSE, member.now_s + member.policy.period_s), offered)
    with pytest.raises(BudgetExceededError):
        check_adverts(member.policy, Advertised(PURPOSE, member.now_s + member.policy.period_s - 1), offered)


def test_setting_the_clock_forward_and_back_frees_no_offer(fleet: Fleet) -> None:
    member = fleet.first
    limit = ADVERTS_PER_PARTICIPATION * member.policy.purposes[PURPOSE].participations
    for round_id in range(1, limit + 1):
        member.gate.advertise(signed_plan(member.plan(round_id)))
    member.now_s -= 30 * 86_400
    plan = signed_plan(member.plan(limit + 1, issued_s=int(member.now_s), deadline_s=int(member.now_s) + 60 * 86_400))
    untouched(member, lambda: member.gate.advertise(plan), BudgetExceededError)


def test_the_reports_delta_carries_every_round_that_may_have_been_tried() -> None:
    assert protocol_failure(3) == 3 * ADVERTS_PER_PARTICIPATION * PROTOCOL_FAILURE
