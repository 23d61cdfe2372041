"""Real gates through all six stages of a secure sum: what each may give away, when, at what price, and what it refuses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nacl.signing
import numpy as np
import pytest
from privacy_world import (
    AGGREGATOR,
    DIMENSION,
    ENCODER_HASH,
    MODEL_HASH,
    NOW_S,
    OFFICER_PUBLIC,
    PURPOSE,
    STRANGER,
    World,
    make_plan,
    policy_document,
    signed_plan,
    signed_policy,
)

from privacy.clipping import IntArray
from privacy.enrolment import issue_certificate
from privacy.gate import MAX_SESSIONS, Gate, SealedContribution, SealedMessage
from privacy.ledger import Entry, verify_chain
from privacy.mechanisms import NoisySum, sample_discrete_gaussian
from privacy.secure_sum import messages as wire
from privacy.secure_sum.masking import KeyPair
from privacy.secure_sum.messages import ADVERTISE, AGREE, CONTRIBUTE, DRAW, SHARE, STAGES, UNMASK
from privacy.secure_sum.roster import agreed_statement, check_advert, make_advert
from privacy.secure_sum.server import ServerSession
from privacy.secure_sum.sizing import graph_size
from shared_models.canonical import canonical_bytes, seal_envelope
from shared_models.errors import (
    BudgetExceededError,
    CertificateError,
    ConsentError,
    ContributionError,
    HaltedError,
    PolicyError,
    PolicyExpiredError,
    ReplayError,
    SecureSumError,
    SignatureError,
    WireError,
)
from shared_models.wire import MODE_DISTRIBUTED, MODE_TRUSTED, PLAN_KIND, SCALE, RoundPlan

AUTHORITY = nacl.signing.SigningKey(bytes([5]) * 32)
MEMBERS, LEAST, GAMMA, HEALTH = 6, 4, 0.1, 3
LEARNED = DIMENSION - HEALTH


def no_noise(variance: int, size: int) -> IntArray:
    return np.zeros(size, np.int64)


class Member(World):
    """A device of a fleet in mode `distributed`, with an integer vector that the grid holds exactly."""

    def __init__(self, number: int, document: dict[str, Any]) -> None:
        self.noise: Callable[[int, int], IntArray] = no_noise
        super().__init__(document)
        self.vector = np.random.default_rng(number).integers(-1000, 1000, LEARNED)
        self.certify()

    def new_gate(self) -> Gate:
        return Gate(
            officer_key=OFFICER_PUBLIC,
            consent=self,
            memory=self.memory,
            clock=lambda: self.now_s,
            noise=lambda variance, size: self.noise(variance, size),
        )

    def certify(self, fleet: str = "test", days: float = 90, authority: nacl.signing.SigningKey = AUTHORITY) -> None:
        until_s = int(NOW_S + days * 86_400)
        self.gate.install_certificate(
            issue_certificate(authority, fleet, self.gate.identity_key(), NOW_S - 1000, until_s)
        )

    def plan(self, round_id: int = 1, **changes: Any) -> RoundPlan:
        """For the whole fleet; figures of the graph that are not given follow from the others."""
        cohort, least = changes.get("cohort", MEMBERS), changes.get("min_survivors", LEAST)
        colluders = changes.get("colluders", math.ceil(GAMMA * cohort))
        size = graph_size(cohort, colluders, least)
        figures = {"cohort": cohort, "colluders": colluders, "degree": size.degree, "threshold": size.threshold}
        rest = {"mode": MODE_DISTRIBUTED, "health_dimension": HEALTH}
        times = {"issued_s": int(self.now_s), "deadline_s": int(self.now_s) + 600}
        return make_plan(self.policy, round_id, **{**figures, **rest, **times, **changes})

    def update(self, plan: RoundPlan) -> np.ndarray:
        self.updates += 1
        return self.vector / SCALE

    def contribute(self, plan: RoundPlan, request: bytes, update: Any = None, **hashes: str) -> SealedContribution:
        hashes = {"model_hash": MODEL_HASH, "encoder_hash": ENCODER_HASH, **hashes}
        return self.gate.seal(signed_plan(plan), update or self.update, request=request, **hashes)

    def answer(self, plan: RoundPlan, stage: str, body: bytes) -> SealedMessage:
        return self.gate.answer_stage(plan.task, plan.round_id, stage, body)


class Fleet:
    """Six devices and the server's real session; a test stops it before any stage."""

    def __init__(self, **draft: Any) -> None:
        wish = {
            "enrolment_key": bytes(AUTHORITY.verify_key),
            "colluding_share": GAMMA,
            "min_survivors": LEAST,
            "health_dimension": HEALTH,
            **draft,
        }
        self.members = [Member(number, policy_document(**wish)) for number in range(MEMBERS)]
        self.first = self.members[0]

    def exact(self, members: list[int] | None = None) -> np.ndarray:
        """Sum of the vectors [dimension], with zeros where every device is silent."""
        chosen = range(MEMBERS) if members is None else members
        return np.concatenate([sum(self.members[item].vector for item in chosen), np.zeros(HEALTH, np.int64)])

    def until(self, stage: str, plan: RoundPlan, drops: dict[str, set[int]] | None = None) -> ServerSession:
        """The server's session in `stage`, which nobody has answered yet. `drops`: stage → who is gone from there on."""
        server = ServerSession(plan, bytes(AUTHORITY.verify_key), lambda: self.first.now_s)
        gone: set[int] = set()
        for name in STAGES[: STAGES.index(stage)]:
            gone |= (drops or {}).get(name, set())
            self.lead(server, plan, name, [item for item in range(MEMBERS) if item not in gone])
        return server

    def lead(self, server: ServerSession, plan: RoundPlan, stage: str, members: list[int]) -> None:
        for place in members:
            member = self.members[place]
            if stage == ADVERTISE:
                assert server.add_advert(member.gate.advertise(signed_plan(plan)).body) == place
            elif stage == DRAW:
                server.add_draw(place, member.answer(plan, DRAW, server.draw_request(place)).body)
            elif stage == SHARE:
                server.add_shares(place, member.answer(plan, SHARE, server.share_request(place)).body)
            elif stage == CONTRIBUTE:
                sealed = member.contribute(plan, server.contribute_request(place))
                server.add_contribution(place, sealed.values, sealed.proof)
            elif stage == AGREE:
                server.add_signature(place, member.answer(plan, AGREE, server.agree_request()).body)
            else:
                server.add_unmasking(place, member.answer(plan, UNMASK, server.unmask_request(place)).body)
        closing = {
            ADVERTISE: server.close_roster,
            DRAW: server.open_sharing,
            SHARE: server.open_contributing,
            CONTRIBUTE: server.open_agreement,
            AGREE: server.open_unmasking,
        }
        closing.get(stage, lambda: None)()

    def finish(self, server: ServerSession, plan: RoundPlan, drops: dict[str, set[int]] | None = None) -> NoisySum:
        gone: set[int] = set()
        for stage in STAGES[STAGES.index(server._stage) :]:
            gone |= (drops or {}).get(stage, set())
            self.lead(server, plan, stage, [item for item in range(MEMBERS) if item not in gone])
        return server.release()

    def run(self, plan: RoundPlan, drops: dict[str, set[int]] | None = None) -> NoisySum:
        return self.finish(self.until(ADVERTISE, plan), plan, drops)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def untouched(member: Member, step: Callable[[], object], kind: type[Exception], match: str | None = None) -> None:
    """`kind` is raised, nothing is computed, nothing is spent or kept."""
    before, updates = copy.deepcopy(member.memory.items), member.updates
    with pytest.raises(kind, match=match):
        step()
    assert member.memory.items == before
    assert member.updates == updates


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


def test_a_crash_before_contributing_costs_nothing_and_the_device_may_offer_fresh_keys(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    first = member.gate.advertise(signed_plan(plan))
    assert member.gate.advertise(signed_plan(plan)) == first
    member.gate = member.new_gate()
    fresh = member.gate.advertise(signed_plan(plan))
    one, other = wire.Advert.from_bytes(first.body), wire.Advert.from_bytes(fresh.body)
    assert one.identity == other.identity
    assert not {one.mask_key, one.channel_key} & {other.mask_key, other.channel_key}
    assert fleet.run(plan).survivors == MEMBERS


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


def test_shares_are_revealed_once(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    server = fleet.until(UNMASK, plan)
    request = server.unmask_request(0)
    member.answer(plan, UNMASK, request)
    for again in (request, server.unmask_request(1), b""):
        untouched(member, lambda again=again: member.answer(plan, UNMASK, again), SecureSumError, "over")
    member.gate = member.new_gate()
    untouched(member, lambda: member.answer(plan, UNMASK, request), ReplayError)


def test_messages_of_another_round_are_refused(fleet: Fleet) -> None:
    one, other = fleet.first.plan(1), fleet.first.plan(2)
    first, second = fleet.until(UNMASK, one), fleet.until(UNMASK, other)
    untouched(
        fleet.first, lambda: fleet.first.answer(other, UNMASK, first.unmask_request(0)), SecureSumError, "is wrong"
    )
    untouched(fleet.first, lambda: fleet.first.answer(other, UNMASK, second.unmask_request(0)), SecureSumError, "over")
    # The round that was not touched goes on.
    np.testing.assert_array_equal(fleet.finish(first, one).values, fleet.exact())
    third, fourth = fleet.first.plan(3), fleet.first.plan(4)
    theirs = fleet.until(SHARE, third).share_request(1)
    fleet.until(SHARE, fourth)
    untouched(fleet.members[1], lambda: fleet.members[1].answer(fourth, SHARE, theirs), SecureSumError, "committed")


def test_a_contribution_is_sealed_for_the_advertised_plan_only(fleet: Fleet) -> None:
    member, plan = fleet.first, fleet.first.plan()
    server = fleet.until(CONTRIBUTE, plan)
    request = server.contribute_request(0)
    other = member.plan(noise_variance=plan.noise_variance + 1)
    untouched(member, lambda: member.contribute(other, request), PolicyError, "advertised for")


def test_a_survivor_who_never_shared_is_not_signed_for(fleet: Fleet) -> None:
    plan = fleet.first.plan()
    fleet.until(AGREE, plan, {SHARE: {5}})
    invented = wire.bitmap_message(np.ones(MEMBERS, np.bool_))
    untouched(fleet.first, lambda: fleet.first.answer(plan, AGREE, invented), SecureSumError, "those who shared")


def test_signatures_of_devices_outside_the_survivors_do_not_count(fleet: Fleet) -> None:
    """The server's own device, dropped from the sum, signs the view all the same."""
    plan = fleet.first.plan()
    server = fleet.until(UNMASK, plan, {CONTRIBUTE: {5}})
    request = wire.UnmaskRequest.from_bytes(server.unmask_request(0))
    dropped = int(np.flatnonzero(request.signers)[0])
    signers = request.signers.copy()
    signers[[dropped, 5]] = False, True
    statement = agreed_statement(server._context, server._shared, server._survivors)
    theirs = fleet.members[5].gate._identity().sign(statement).signature
    lie = wire.UnmaskRequest(signers, (*request.signatures[1:], theirs), request.contributed).to_bytes()
    untouched(fleet.first, lambda: fleet.first.answer(plan, UNMASK, lie), SecureSumError, "not that of a survivor")


@pytest.mark.parametrize("told", [[0, 1, 2], [1, 2, 3, 4, 5]], ids=["too few", "without itself"])
def test_a_view_of_who_shared_that_is_too_small_or_lacks_the_device_gets_no_vector(
    fleet: Fleet, told: list[int]
) -> None:
    plan = fleet.first.plan()
    request = wire.ContributeRequest.from_bytes(fleet.until(CONTRIBUTE, plan).contribute_request(0))
    shared = np.zeros(MEMBERS, np.bool_)
    shared[told] = True
    lie = wire.ContributeRequest(shared, tuple(item for item in request.drawers if shared[item.index])).to_bytes()
    untouched(
        fleet.first, lambda: fleet.first.contribute(plan, lie), SecureSumError, "fewer devices|leaves this device"
    )


def test_share_holders_are_the_devices_own_random_choice(fleet: Fleet) -> None:
    """In order too: a share's place is not to be foreseen. Six devices draw all five others; 2^-41 that all agree."""
    plan = fleet.first.plan()
    server = fleet.until(SHARE, plan)
    assert all(set(drawn) == set(range(MEMBERS)) - {place} for place, drawn in server._holders.items())
    assert any(list(drawn) != sorted(drawn) for drawn in server._holders.values())


def test_the_server_counts_each_contribution_once(fleet: Fleet) -> None:
    plan = fleet.first.plan()
    server = fleet.until(CONTRIBUTE, plan)
    sealed = fleet.first.contribute(plan, server.contribute_request(0))
    server.add_contribution(0, sealed.values, sealed.proof)
    with pytest.raises(SecureSumError, match="second one"):
        server.add_contribution(0, sealed.values, sealed.proof)
    fleet.lead(server, plan, CONTRIBUTE, list(range(1, MEMBERS)))
    np.testing.assert_array_equal(fleet.finish(server, plan).values, fleet.exact())


def test_one_key_for_masks_and_channel_is_not_taken(fleet: Fleet) -> None:
    """The mask key of a device that drops out is reconstructed: shares that were sealed with it would lie open."""
    plan, member = fleet.first.plan(), fleet.members[1]
    certificate, pair = member.gate.certificate, KeyPair()
    assert certificate is not None
    advert = make_advert(member.gate._identity(), certificate, plan, pair, pair)
    with pytest.raises(SecureSumError, match="one key for masks and channel"):
        check_advert(advert, plan, bytes(AUTHORITY.verify_key), NOW_S)


def test_keys_that_are_not_the_rosters_are_not_masked_with(fleet: Fleet) -> None:
    """The server puts its own keys in the place of a device that drew this one: it would know their common mask."""
    plan = fleet.first.plan()
    request = wire.ContributeRequest.from_bytes(fleet.until(CONTRIBUTE, plan).contribute_request(0))
    own = wire.Advert.from_bytes(fleet.members[1].gate.advertise(signed_plan(fleet.first.plan(9))).body)
    victim = request.drawers[0]
    drawer = wire.Drawer(victim.index, own.mask_key, own.channel_key, own.proof_digest, victim.sealed)
    lie = wire.ContributeRequest(request.shared, (drawer, *request.drawers[1:])).to_bytes()
    untouched(fleet.first, lambda: fleet.first.contribute(plan, lie), SecureSumError, "other keys")


def test_an_advert_that_is_not_the_one_in_the_roster_is_not_shared_with(fleet: Fleet) -> None:
    """Not even a valid one: from before a holder's restart, say, whose keys the server may have come to know."""
    plan = fleet.first.plan()
    server = fleet.until(SHARE, plan)
    request = wire.ShareRequest.from_bytes(server.share_request(0))
    holder = fleet.members[server._holders[0][0]]
    other = holder.new_gate().advertise(signed_plan(plan)).body[32:]
    lie = wire.ShareRequest(request.leaves, (other, *request.holders[1:])).to_bytes()
    untouched(fleet.first, lambda: fleet.first.answer(plan, SHARE, lie), SecureSumError, "not the one in the roster")


def test_a_roster_other_than_the_committed_one_is_not_shared_with(fleet: Fleet) -> None:
    """All is right but the order of two others: only the root tells."""
    plan = fleet.first.plan()
    server = fleet.until(SHARE, plan)
    holders, adverts = server._holders[0], list(server._adverts)
    adverts[4], adverts[5] = adverts[5], adverts[4]
    lie = wire.ShareRequest(
        tuple(advert.leaf for advert in adverts), tuple(adverts[holder].to_bytes()[32:] for holder in holders)
    )
    untouched(fleet.first, lambda: fleet.first.answer(plan, SHARE, lie.to_bytes()), SecureSumError, "committed")


def test_an_inflated_n_min_makes_the_shares_smaller_and_binds_the_server_to_it(fleet: Fleet) -> None:
    plan = fleet.first.plan(min_survivors=MEMBERS)
    assert plan.share_variance < fleet.first.plan().share_variance
    server = fleet.until(CONTRIBUTE, plan)
    for place in range(MEMBERS - 1):
        sealed = fleet.members[place].contribute(plan, server.contribute_request(place))
        server.add_contribution(place, sealed.values, sealed.proof)
    five = np.ones(MEMBERS, np.bool_)
    five[5] = False
    for member in fleet.members[:5]:
        with pytest.raises(SecureSumError, match="nothing below 6"):
            member.answer(plan, AGREE, wire.bitmap_message(five))


@pytest.mark.parametrize("roster", [LEAST - 1, MEMBERS + 1])
def test_a_roster_of_another_size_than_planned_gets_no_share_holders(fleet: Fleet, roster: int) -> None:
    """γ of the cohort bounds the colluders: in a larger roster there may be more."""
    plan = fleet.first.plan()
    fleet.first.gate.advertise(signed_plan(plan))
    request = wire.DrawRequest(bytes(32), roster, 0).to_bytes()
    untouched(fleet.first, lambda: fleet.first.answer(plan, DRAW, request), SecureSumError, "were planned")


def test_a_device_is_in_few_rounds_at_once(fleet: Fleet) -> None:
    plans = [fleet.first.plan(round_id) for round_id in range(1, MAX_SESSIONS + 2)]
    for plan in plans:
        fleet.first.gate.advertise(signed_plan(plan))
    with pytest.raises(ReplayError, match="no keys"):
        fleet.first.answer(plans[0], DRAW, b"")


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


# -- identity ----------------------------------------------------------------------------------------------------------


def newcomer(fleet: Fleet) -> Member:
    member = Member(99, fleet.first.document)
    del member.memory.items["certificate"]
    return member


def test_without_a_certificate_no_keys_are_offered(fleet: Fleet) -> None:
    member = newcomer(fleet)
    assert member.gate.certificate is None
    untouched(
        member, lambda: member.gate.advertise(signed_plan(member.plan())), PolicyError, "no enrolment certificate"
    )


BAD_CERTIFICATES: dict[str, dict[str, Any]] = {
    "expired": {"days": -0.001},
    "another fleet's": {"fleet": "other"},
    "another authority's": {"authority": STRANGER},
}


@pytest.mark.parametrize("case", BAD_CERTIFICATES)
def test_a_certificate_that_does_not_hold_is_neither_kept_nor_used(fleet: Fleet, case: str) -> None:
    member = newcomer(fleet)
    untouched(member, lambda: member.certify(**BAD_CERTIFICATES[case]), CertificateError)
    # Kept from before the device had its first policy: it is judged again when it is used.
    wish = {"fleet": "test", "days": 90, "authority": AUTHORITY, **BAD_CERTIFICATES[case]}
    until_s = int(NOW_S + wish["days"] * 86_400)
    kept = issue_certificate(wish["authority"], wish["fleet"], member.gate.identity_key(), NOW_S - 1000, until_s)
    member.memory.put("certificate", kept.document())
    untouched(member, lambda: member.gate.advertise(signed_plan(member.plan())), CertificateError)


def test_a_certificate_that_runs_out_ends_taking_part(fleet: Fleet) -> None:
    member = newcomer(fleet)
    member.certify(days=1)
    member.gate.advertise(signed_plan(member.plan()))
    member.now_s += 86_400
    untouched(member, lambda: member.gate.advertise(signed_plan(member.plan(2))), CertificateError, "not in force")


def test_a_certificate_of_another_device_is_not_installed(fleet: Fleet) -> None:
    certificate = fleet.members[1].gate.certificate
    assert certificate is not None
    untouched(fleet.first, lambda: fleet.first.gate.install_certificate(certificate), PolicyError, "another device")


def test_the_identity_outlives_a_restart(fleet: Fleet) -> None:
    key = fleet.first.gate.identity_key()
    assert fleet.first.new_gate().identity_key() == key
    assert fleet.members[1].gate.identity_key() != key
