"""A server that lies to real gates in the stages of a secure sum: what they refuse, with nothing spent or shown."""

from __future__ import annotations

import numpy as np
import pytest
from privacy_world import (
    NOW_S,
    signed_plan,
)
from secure_fleet import AUTHORITY, LEAST, MEMBERS, Fleet, untouched

from privacy.gate import MAX_SESSIONS
from privacy.secure_sum import messages as wire
from privacy.secure_sum.masking import KeyPair
from privacy.secure_sum.messages import AGREE, CONTRIBUTE, DRAW, SHARE, UNMASK
from privacy.secure_sum.roster import agreed_statement, check_advert, make_advert
from shared_models.errors import (
    PolicyError,
    ReplayError,
    SecureSumError,
)


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
    """Not even one that its identity has signed for this round: the roster's alone counts."""
    plan = fleet.first.plan()
    server = fleet.until(SHARE, plan)
    request = wire.ShareRequest.from_bytes(server.share_request(0))
    holder = fleet.members[server._holders[0][0]]
    certificate = holder.gate.certificate
    assert certificate is not None
    other = make_advert(holder.gate._identity(), certificate, plan, KeyPair(), KeyPair()).to_bytes()[32:]
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
