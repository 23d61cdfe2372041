"""Plans, policies and budgets that a real gate refuses in mode `distributed`, at whatever stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from privacy_world import (
    AGGREGATOR,
    NOW_S,
    STRANGER,
    signed_plan,
    signed_policy,
)
from secure_fleet import GAMMA, HEALTH, LEAST, MEMBERS, Fleet, untouched

from privacy.secure_sum.messages import ADVERTISE, AGREE, CONTRIBUTE, DRAW, SHARE, STAGES, UNMASK
from shared_models.canonical import canonical_bytes, seal_envelope
from shared_models.errors import (
    BudgetExceededError,
    ConsentError,
    HaltedError,
    PolicyError,
    PolicyExpiredError,
    ReplayError,
    SignatureError,
    WireError,
)
from shared_models.wire import MODE_TRUSTED, PLAN_KIND

# -- plans that are refused --------------------------------------------------------------------------------------------

OTHER_PLANS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "bigger clip norm": ({"clip_norm": 1.0001}, PolicyError, "clip norm"),
    "n_min below the policy": ({"min_survivors": LEAST - 1, "threshold": LEAST - 2}, PolicyError, "n_min"),
    "nobody colludes": ({"colluders": 0}, PolicyError, "0 colluders of 6"),
    "too few collude": ({"cohort": 11, "colluders": 1, "degree": 10}, PolicyError, "1 colluders of 11"),
    "figures of a smaller cohort": ({"cohort": 11, "colluders": 2}, PolicyError, "degree 5"),
    "figures of a larger cohort": ({"colluders": 2, "threshold": 2}, PolicyError, "threshold 2"),
    "lower degree": ({"degree": 4}, PolicyError, "degree 4"),
    "lower threshold": ({"threshold": 2}, PolicyError, "threshold 2"),
    "higher threshold": ({"threshold": 4}, PolicyError, "threshold 4"),
    "a graph that cannot be": ({"colluders": 3, "threshold": 3}, PolicyError, "min_survivors must be at least 5"),
    "fewer silent coordinates": ({"health_dimension": HEALTH - 1}, PolicyError, "stay zero"),
    "other policy": ({"policy_hash": "0" * 64}, PolicyError, "another policy"),
    "older policy number": ({"policy_sequence": 0}, PolicyError, "policy number"),
    "other fleet": ({"task": "other"}, PolicyError, "belongs"),
    "other purpose": ({"purpose": "else"}, ConsentError, "consented"),
    "past its deadline": ({"issued_s": NOW_S - 100, "deadline_s": NOW_S - 1}, PolicyError, "deadline"),
    "forbidden mode": ({"mode": MODE_TRUSTED, "colluders": 0, "degree": 0, "threshold": 0}, PolicyError, "mode|stages"),
}


@pytest.mark.parametrize("case", OTHER_PLANS)
def test_a_plan_beyond_the_policy_gets_no_keys_and_no_vector(fleet: Fleet, case: str) -> None:
    changes, kind, words = OTHER_PLANS[case]
    member, plan = fleet.first, replace(fleet.first.plan(), **changes)
    untouched(member, lambda: member.gate.advertise(signed_plan(plan)), kind, words)
    untouched(member, lambda: member.contribute(plan, b""), kind, words)
    # All else is right: the plan as it should be is answered.
    assert member.gate.advertise(signed_plan(member.plan())).stage == ADVERTISE


def test_a_plan_with_less_noise_by_one_unit_gets_no_keys_and_no_vector(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan(noise_variance=fleet.first.plan().noise_variance - 1)
    untouched(member, lambda: member.gate.advertise(signed_plan(plan)), PolicyError, "noise multiplier")
    untouched(member, lambda: member.contribute(plan, b""), PolicyError, "noise multiplier")


def test_a_plan_at_the_limits_is_answered_to_the_end(fleet: Fleet) -> None:
    plan = fleet.first.plan(cohort=11, colluders=2)
    assert math.ceil(GAMMA * 11) == 2
    np.testing.assert_array_equal(fleet.run(plan).values, fleet.exact())


@pytest.mark.parametrize("figure", [{"degree": 255}, {"threshold": 0}, {"degree": 6}, {"colluders": LEAST}])
def test_figures_that_no_graph_has_are_not_even_a_plan(fleet: Fleet, figure: dict[str, int]) -> None:
    member = fleet.first
    document = {**member.plan().document(), **figure}
    envelope = seal_envelope(PLAN_KIND, canonical_bytes(document), AGGREGATOR)
    untouched(member, lambda: member.gate.advertise(envelope), WireError)


def test_a_degree_above_254_is_refused_for_a_cohort_that_would_need_it(fleet: Fleet) -> None:
    large = {"cohort": 1000, "min_survivors": 500, "colluders": 100, "threshold": 200, "degree": 255}
    document = {**fleet.first.plan().document(), **large}
    envelope = seal_envelope(PLAN_KIND, canonical_bytes(document), AGGREGATOR)
    untouched(fleet.first, lambda: fleet.first.gate.advertise(envelope), WireError, "degree")
    whole = replace(fleet.first.plan(), **{**large, "degree": 254})
    untouched(fleet.first, lambda: fleet.first.gate.advertise(signed_plan(whole)), PolicyError)


def test_only_the_pinned_aggregator_plans(fleet: Fleet) -> None:
    plan = fleet.first.plan()
    untouched(fleet.first, lambda: fleet.first.gate.advertise(signed_plan(plan, STRANGER)), SignatureError)


def test_a_plan_for_another_model_than_the_neighbours_were_told_is_refused(fleet: Fleet) -> None:
    member, told = fleet.first, fleet.first.plan()
    request = fleet.until(CONTRIBUTE, told).contribute_request(0)
    other = replace(told, model_hash="f" * 64)
    untouched(member, lambda: member.contribute(other, request), WireError, "another model")
    untouched(member, lambda: member.contribute(other, request, model_hash="f" * 64), PolicyError, "advertised for")
    untouched(member, lambda: member.contribute(told, request, model_hash="f" * 64), WireError, "another model")
    untouched(member, lambda: member.contribute(told, request, encoder_hash="f" * 64), WireError, "encoder")


def test_one_round_number_has_one_plan(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    member.gate.advertise(signed_plan(plan))
    other = member.plan(noise_variance=plan.noise_variance + 1)
    untouched(member, lambda: member.gate.advertise(signed_plan(other)), ReplayError, "another plan")
    assert fleet.run(plan).survivors == MEMBERS


def test_an_expired_or_older_policy_ends_the_round(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    old = signed_policy(member.document)
    server = fleet.until(CONTRIBUTE, plan)
    member.adopt()
    untouched(member, lambda: member.gate.adopt_policy(old), PolicyError, "not newer")
    untouched(member, lambda: member.contribute(plan, server.contribute_request(0)), PolicyError, "another policy")
    late = fleet.members[1]
    late.now_s += 14 * 86_400
    expired = late.plan(2)
    untouched(late, lambda: late.gate.advertise(signed_plan(expired)), PolicyExpiredError)
    untouched(late, lambda: late.contribute(expired, b""), PolicyExpiredError)


def test_without_budget_no_keys_are_offered() -> None:
    fleet = Fleet(participations=1)
    fleet.run(fleet.first.plan(1))
    second = fleet.first.plan(2)
    untouched(fleet.first, lambda: fleet.first.gate.advertise(signed_plan(second)), BudgetExceededError)


def test_budget_spent_between_the_stages_is_seen_before_the_update() -> None:
    fleet = Fleet(participations=1)
    one, other = fleet.first.plan(1), fleet.first.plan(2)
    first, second = fleet.until(CONTRIBUTE, one), fleet.until(CONTRIBUTE, other)
    fleet.lead(first, one, CONTRIBUTE, list(range(MEMBERS)))
    untouched(
        fleet.first, lambda: fleet.first.contribute(other, second.contribute_request(0)), BudgetExceededError, None
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ending", ["consent withdrawn", "halted", "deadline passed"])
def test_a_consent_that_is_withdrawn_meanwhile_ends_the_round(fleet: Fleet, stage: str, ending: str) -> None:
    """And so do the officer's halt and the deadline, at any stage."""
    member, plan = fleet.first, fleet.first.plan()
    server = fleet.until(stage, plan)
    steps: dict[str, Callable[[], object]] = {
        ADVERTISE: lambda: member.gate.advertise(signed_plan(plan)),
        DRAW: lambda: member.answer(plan, DRAW, server.draw_request(0)),
        SHARE: lambda: member.answer(plan, SHARE, server.share_request(0)),
        CONTRIBUTE: lambda: member.contribute(plan, server.contribute_request(0)),
        AGREE: lambda: member.answer(plan, AGREE, server.agree_request()),
        UNMASK: lambda: member.answer(plan, UNMASK, server.unmask_request(0)),
    }
    if ending == "consent withdrawn":
        member.consents.clear()
        untouched(member, steps[stage], ConsentError)
    elif ending == "halted":
        member.adopt(halted=True)
        untouched(member, steps[stage], HaltedError)
    else:
        member.now_s = plan.deadline_s + 1
        untouched(member, steps[stage], PolicyError, "deadline")
