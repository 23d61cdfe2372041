"""The gate's checks, one by one and in their order: a refused plan computes nothing, spends nothing and leaves nothing."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import nacl.signing
import pytest
from privacy_world import (
    AGGREGATOR,
    DAY_S,
    NOW_S,
    OFFICER,
    PURPOSE,
    STRANGER,
    DictMemory,
    World,
    contribution_of,
    policy_document,
    signed_plan,
    signed_policy,
)

from privacy.gate import Gate
from privacy.policy import POLICY_KIND
from shared_models.canonical import Envelope, canonical_bytes, seal_envelope
from shared_models.errors import (
    BudgetExceededError,
    ConfigError,
    ConsentError,
    HaltedError,
    PolicyError,
    PolicyExpiredError,
    RefusedError,
    ReplayError,
    SignatureError,
    WireError,
)
from shared_models.wire import PLAN_KIND, LocalTraining


def refuses(world: World, plan: Any, kind: type[Exception], match: str | None = None) -> None:
    """`kind` is raised, and the device is as before."""
    before = copy.deepcopy(world.memory.items)
    updates = world.updates
    with pytest.raises(kind, match=match):
        world.seal(plan)
    assert world.memory.items == before
    assert world.updates == updates


def test_a_good_plan_is_answered(world: World) -> None:
    sealed = world.seal(world.plan())
    assert (sealed.task, sealed.round_id) == ("test", 1)
    assert world.updates == 1
    assert len(world.gate.receipts()) == len(world.gate.spendings()) == 1


def test_without_a_policy_nothing_leaves(world: World) -> None:
    plan = world.plan()
    world.memory = DictMemory()
    world.gate = world.new_gate()
    assert world.gate.policy is None
    refuses(world, plan, PolicyError, "no privacy policy yet")
    with pytest.raises(PolicyError):
        world.gate.budget(PURPOSE)


@pytest.mark.parametrize("key", [STRANGER, OFFICER], ids=["stranger", "officer"])
def test_a_plan_counts_only_with_the_aggregators_signature(world: World, key: nacl.signing.SigningKey) -> None:
    refuses(world, signed_plan(world.plan(), key), SignatureError)


def test_a_plan_that_was_touched_on_the_way_is_refused(world: World) -> None:
    envelope = signed_plan(world.plan())
    cheaper = world.plan(noise_variance=1 << 50).to_bytes()
    for bad in (
        replace(envelope, payload=cheaper),
        replace(envelope, payload=envelope.payload + b" "),
        replace(envelope, signature=bytes(64)),
        replace(envelope, kind=POLICY_KIND),
        seal_envelope(POLICY_KIND, envelope.payload, AGGREGATOR),
    ):
        refuses(world, bad, WireError)


@pytest.mark.parametrize("field", ["round_id", "noise_variance", "purpose", "local", "deadline_s", "format"])
@pytest.mark.parametrize("value", ["x", None, -1, 1.5, True, [], {}])
def test_a_signed_plan_with_a_malformed_field_is_refused(world: World, field: str, value: Any) -> None:
    if (field, value) in (("local", None), ("purpose", "x"), ("format", True)):
        return  # no error, refused by the policy, and one by Python's count
    document = {**world.plan().document(), field: value}
    refuses(world, seal_envelope(PLAN_KIND, canonical_bytes(document), AGGREGATOR), WireError)


def test_a_plan_with_a_field_too_many_or_too_few_is_refused(world: World) -> None:
    document = world.plan().document()
    for bad in ({**document, "code": "print()"}, {k: v for k, v in document.items() if k != "cohort"}, []):
        refuses(world, seal_envelope(PLAN_KIND, canonical_bytes(bad), AGGREGATOR), WireError)


@pytest.mark.parametrize("which", ["model_hash", "encoder_hash"])
def test_a_plan_for_another_model_or_encoder_is_refused(world: World, which: str) -> None:
    refuses(world, world.plan(**{which: "f" * 64}), WireError, "another model or encoder")


def test_without_consent_nothing_is_computed(world: World) -> None:
    world.consents.clear()
    refuses(world, world.plan(), ConsentError)


def test_consent_to_another_purpose_does_not_help(world: World) -> None:
    world.consents = {"personal-learning": 0.0}
    refuses(world, world.plan(), ConsentError)


def test_a_purpose_that_the_app_does_not_know_is_refused_as_not_consented(world: World) -> None:
    def unknown(purpose: str) -> float | None:
        raise ConfigError("there is no such purpose")

    world.granted_since = unknown  # type: ignore[method-assign]
    refuses(world, world.plan(), ConsentError)


BEYOND = {
    "task": "other",
    "purpose": "something-else",
    "contribution": "everything",
    "contribution_version": 2,
    "dimension": 13,
    "clip_norm": 1.0001,
    "min_survivors": 2,
    "mode": "distributed",
    "issued_s": NOW_S + 301,
    "deadline_s": NOW_S - 1,
    "policy_hash": "0" * 64,
    "policy_sequence": 2,
    "local": None,
}


@pytest.mark.parametrize("field", BEYOND)
def test_a_plan_beyond_the_policy_in_one_field_is_refused(field: str) -> None:
    document = policy_document()
    contribution_of(document)["max_dimension"] = 12
    world = World(document)
    world.consents["something-else"] = 0.0
    changes = {field: BEYOND[field]}
    if field == "mode":
        changes |= {"degree": 1, "threshold": 1}
    if field == "deadline_s":
        changes["issued_s"] = NOW_S - 10
    if field == "issued_s":
        changes["deadline_s"] = NOW_S + 900
    refuses(world, world.plan(**changes), PolicyError)
    world.seal(world.plan())


def test_a_plan_with_less_noise_than_the_policy_by_one_unit_is_refused(world: World) -> None:
    least = world.plan().noise_variance
    refuses(world, world.plan(noise_variance=least - 1), PolicyError, "noise multiplier")
    world.seal(world.plan(noise_variance=least + 1))


@pytest.mark.parametrize("field", ["max_grad_norm", "expected_batch", "sample_rate", "noise_multiplier"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_local_constants_are_exactly_those_of_the_policy(field: str, factor: float) -> None:
    document = policy_document()
    contribution_of(document)["local"] |= {"sample_rate": 0.4, "noise_multiplier": 1.0}
    world = World(document)
    local = world.plan().local
    assert isinstance(local, LocalTraining)
    value = type(getattr(local, field))(getattr(local, field) * factor)
    refuses(world, world.plan(local=replace(local, **{field: value})), PolicyError, "local training")


def test_a_plan_at_the_limits_is_answered(world: World) -> None:
    world.seal(world.plan(issued_s=NOW_S + 300, deadline_s=NOW_S + 900))
    world.now_s += 1
    world.seal(world.plan(2, deadline_s=int(world.now_s)))


def test_after_the_deadline_nothing_is_answered(world: World) -> None:
    plan = world.plan()
    world.now_s += 601
    refuses(world, plan, PolicyError, "deadline")


def test_an_expired_policy_means_no_contributions(world: World) -> None:
    world.now_s += 14 * DAY_S
    refuses(world, world.plan(), PolicyExpiredError)
    world.now_s = NOW_S - 301.0
    refuses(world, world.plan(), PolicyExpiredError)


def test_a_halt_stops_everything_and_a_later_policy_lifts_it(world: World) -> None:
    world.adopt(halted=True, reason="incident 7")
    refuses(world, world.plan(), HaltedError, "incident 7")
    world.adopt(halted=False)
    world.seal(world.plan())


def test_a_halt_that_another_gate_of_the_device_has_adopted_counts_here_too(world: World) -> None:
    """The app's privacy page and the agent each hold a gate over one store."""
    other = world.new_gate()
    halt = {**world.document, "sequence": 2, "halted": True}
    policy = other.adopt_policy(signed_policy(halt))
    refuses(world, world.plan(), HaltedError)
    refuses(world, world.plan(policy_hash=policy.hash, policy_sequence=2), HaltedError)


def test_a_plan_of_the_former_policy_is_refused_after_a_change(world: World) -> None:
    plan = world.plan()
    world.adopt(reason="stricter")
    refuses(world, plan, PolicyError)


def test_the_order_is_signature_consent_policy_replay_budget(world: World) -> None:
    """Each plan below breaks this check and all later ones; the first one in the order speaks."""
    world.seal(world.plan(1))
    for _ in range(4):
        world.seal(world.plan(10 + world.updates))
    spent = world.plan(1)
    refuses(world, spent, ReplayError)
    refuses(world, world.plan(2), BudgetExceededError)
    refuses(world, world.plan(1, min_survivors=1), PolicyError)
    world.consents.clear()
    refuses(world, world.plan(1, min_survivors=1), ConsentError)
    refuses(world, signed_plan(world.plan(1, min_survivors=1), STRANGER), SignatureError)


def test_every_reason_is_a_refusal_or_a_wire_error(world: World) -> None:
    """So that whoever answers the aggregator can make all of them look alike."""
    for kind in (ConsentError, PolicyError, PolicyExpiredError, HaltedError, ReplayError, BudgetExceededError):
        assert issubclass(kind, RefusedError)
    assert issubclass(SignatureError, WireError)


# -- adopting policies --------------------------------------------------------------------------------------------


def test_policies_only_move_forward(world: World) -> None:
    first = signed_policy(world.document)
    second = world.adopt(reason="2")
    for old in (first, signed_policy({**world.document, "reason": "another 2"})):
        with pytest.raises(PolicyError, match="not newer"):
            world.gate.adopt_policy(old)
        assert world.gate.policy == second
    assert world.gate.adopt_policy(signed_policy(world.document)) == second


def test_a_policy_of_another_officer_or_fleet_is_refused(world: World) -> None:
    current = world.gate.policy
    for envelope in (
        signed_policy({**world.document, "sequence": 9}, STRANGER),
        signed_policy({**world.document, "sequence": 9, "fleet": "other"}),
        Envelope(POLICY_KIND, b"", "", b""),
    ):
        with pytest.raises(PolicyError):
            world.gate.adopt_policy(envelope)
        assert world.gate.policy == current


def test_a_gate_over_a_memory_with_another_officers_policy_does_not_open(world: World) -> None:
    with pytest.raises(PolicyError):
        Gate(officer_key=bytes(STRANGER.verify_key), consent=world, memory=world.memory, clock=lambda: world.now_s)


def test_a_policy_survives_a_restart(world: World) -> None:
    world.adopt(halted=True)
    world.gate = world.new_gate()
    refuses(world, world.plan(), HaltedError)


def test_a_looser_policy_needs_fresh_consent(world: World) -> None:
    world.seal(world.plan(1))
    world.now_s += 1000
    world.adopt(rho_total=world.document["rho_total"] * 2)
    refuses(world, world.plan(2), ConsentError, "ask again")
    world.gate = world.new_gate()
    refuses(world, world.plan(2), ConsentError, "ask again")
    # A stricter one on top does not make the old consent fresh.
    world.adopt(rho_total=world.document["rho_total"] / 4)
    refuses(world, world.plan(2), ConsentError)
    world.consents[PURPOSE] = world.now_s + 1
    world.seal(world.plan(2))
    assert len(world.gate.spendings()) == 2


def test_a_stricter_policy_needs_none(world: World) -> None:
    world.adopt(rho_total=world.document["rho_total"] / 1.5)
    world.seal(world.plan())


def test_a_clock_set_back_does_not_make_an_old_consent_fresh(world: World) -> None:
    world.now_s -= 250
    world.adopt(rho_total=world.document["rho_total"] * 2)
    assert world.consents[PURPOSE] > world.now_s
    refuses(world, world.plan(), ConsentError)


def test_consent_given_for_the_first_time_under_the_looser_policy_counts(world: World) -> None:
    world.consents.clear()
    world.adopt(rho_total=world.document["rho_total"] * 2)
    world.consents[PURPOSE] = world.now_s
    world.seal(world.plan())
