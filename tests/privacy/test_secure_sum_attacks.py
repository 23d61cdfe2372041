"""What a cheating server or device may try in a secure sum, and what an honest device does then: refuse, and reveal nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Callable

import nacl.signing
import numpy as np
import pytest
from secure_round import NOW_S, SecureRound, authority, device, plan_for

from privacy.enrolment import issue_certificate
from privacy.secure_sum import messages as wire
from privacy.secure_sum.device import DeviceSession, sample_size, signatures_needed
from privacy.secure_sum.masking import KeyPair, Masker, pair_key, pairwise_mask_key, round_context, seal, unseal
from privacy.secure_sum.messages import Advert
from privacy.secure_sum.roster import agreed_statement, roster_root, shared_statement, signature_holds
from privacy.secure_sum.server import ServerSession
from shared_models.errors import SecureSumError, TooFewSurvivorsError

N, LEAST, COLLUDERS = 12, 8, 2
LOW_ORDER_POINTS = [
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


class CheatedRound:
    """Twelve devices, the last two the server's own, and a server that tests let lie from any stage on."""

    def __init__(self, **changes: object) -> None:
        self.plan = plan_for(N, LEAST, colluders=COLLUDERS, **changes)
        self.devices = [device(self.plan) for _ in range(N)]
        self.server = ServerSession(self.plan, bytes(authority().verify_key), lambda: NOW_S)
        for item in self.devices:
            self.server.add_advert(item.advert())
        self.server.close_roster()

    def to_draw(self) -> CheatedRound:
        for index, item in enumerate(self.devices):
            self.server.add_draw(index, item.draw(self.server.draw_request(index)))
        self.server.open_sharing()
        return self

    def to_share(self) -> CheatedRound:
        self.to_draw()
        for index, item in enumerate(self.devices):
            self.server.add_shares(index, item.share(self.server.share_request(index)))
        self.server.open_contributing()
        return self

    def to_contribute(self, without: int = 0) -> CheatedRound:
        self.to_share()
        for index, item in list(enumerate(self.devices))[without:]:
            item.open_contribute(self.server.contribute_request(index))
            self.server.add_contribution(index, *item.masked(np.zeros(self.plan.dimension, np.uint32)))
        self.server.open_agreement()
        return self

    def to_agree(self, without: int = 0) -> CheatedRound:
        self.to_contribute(without)
        for index in self.server.contributors():
            self.server.add_signature(index, self.devices[index].agree(self.server.agree_request()))
        self.server.open_unmasking()
        return self


def refuses(item: DeviceSession, step: Callable[[], object], words: str | None) -> None:
    """The step is refused, and the device then answers nothing more in this round."""
    with pytest.raises(SecureSumError, match=words):
        step()
    assert item.over
    for more in (item.draw, item.share, item.agree, item.unmask):
        with pytest.raises(SecureSumError, match="over"):
            more(b"")
    with pytest.raises(SecureSumError, match="wiped"):
        _ = item._secrets.mask.secret


# -- the roster --------------------------------------------------------------------------------------------------------


def rostered(adverts: list[Advert], item: DeviceSession, place: int) -> bytes:
    """Lead `item` through `draw` with a roster of the server's choice; returns the share request."""
    leaves = tuple(advert.leaf for advert in adverts)
    drawn = wire.indices_from_bytes(item.draw(wire.DrawRequest(roster_root(leaves), len(leaves), place).to_bytes()))
    return wire.ShareRequest(leaves, tuple(adverts[holder].to_bytes()[32:] for holder in drawn)).to_bytes()


def adverts_of(round_: CheatedRound) -> list[Advert]:
    return [Advert.from_bytes(item.advert()) for item in round_.devices]


def test_swapped_keys_of_other_devices_are_found() -> None:
    round_ = CheatedRound()
    honest, adverts = round_.devices[0], adverts_of(round_)
    swapped = [adverts[0]] + [
        dataclasses.replace(advert, mask_key=KeyPair().public, channel_key=KeyPair().public) for advert in adverts[1:]
    ]
    refuses(honest, lambda: honest.share(rostered(swapped, honest, 0)), "not signed by its identity")


def test_adverts_of_another_round_are_found() -> None:
    round_, earlier = CheatedRound(), CheatedRound(round_id=7)
    honest = round_.devices[0]
    replayed = [adverts_of(round_)[0], *adverts_of(earlier)[1:]]
    refuses(honest, lambda: honest.share(rostered(replayed, honest, 0)), "not signed by its identity for this round")


def test_uncertified_and_expired_devices_are_found() -> None:
    round_ = CheatedRound()
    for validity in (
        (NOW_S - 10, NOW_S + 10, nacl.signing.SigningKey.generate()),
        (NOW_S - 10, NOW_S - 5, authority()),
    ):
        item = device(round_.plan)
        fakes = []
        for _ in range(N - 1):
            identity = nacl.signing.SigningKey.generate()
            not_before_s, not_after_s, signer = validity
            certificate = issue_certificate(
                signer, round_.plan.task, bytes(identity.verify_key), not_before_s, not_after_s
            )
            fake = DeviceSession(round_.plan, identity, certificate, bytes(authority().verify_key), lambda: NOW_S)
            fakes.append(Advert.from_bytes(fake.advert()))
        refuses(
            item,
            lambda item=item, fakes=fakes: item.share(rostered([Advert.from_bytes(item.advert()), *fakes], item, 0)),
            "not certified",
        )
        with pytest.raises(SecureSumError, match="not certified"):
            ServerSession(round_.plan, bytes(authority().verify_key), lambda: NOW_S).add_advert(fakes[0].to_bytes())


def test_one_identity_in_many_places_is_found() -> None:
    round_ = CheatedRound()
    honest, adverts = round_.devices[0], adverts_of(round_)
    refuses(honest, lambda: honest.share(rostered([*adverts[:-1], adverts[1]], honest, 0)), "twice")


def test_a_roster_changed_after_the_draw_is_found() -> None:
    round_ = CheatedRound()
    honest, adverts = round_.devices[0], adverts_of(round_)
    rostered(adverts, honest, 0)
    other = [adverts[0], *reversed(adverts[1:])]
    drawn = range(round_.plan.degree)
    changed = wire.ShareRequest(tuple(a.leaf for a in other), tuple(other[i].to_bytes()[32:] for i in drawn))
    refuses(honest, lambda: honest.share(changed.to_bytes()), "committed")


def test_a_device_left_out_of_its_own_place_refuses() -> None:
    round_ = CheatedRound()
    honest, adverts = round_.devices[0], adverts_of(round_)
    refuses(honest, lambda: honest.share(rostered(adverts, honest, 1)), "own advert")


@pytest.mark.parametrize("size", [LEAST - 1, N + 1, 1 << 31])
def test_a_roster_of_another_size_than_planned_is_refused(size: int) -> None:
    item = CheatedRound().devices[0]
    refuses(item, lambda: item.draw(wire.DrawRequest(bytes(32), size, 0).to_bytes()), "were planned")


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_low_order_points_are_refused(point: bytes) -> None:
    plan = plan_for(N, LEAST, colluders=COLLUDERS)
    identity = nacl.signing.SigningKey.generate()
    certificate = issue_certificate(authority(), plan.task, bytes(identity.verify_key), NOW_S - 1, NOW_S + 1000)
    bad = DeviceSession(plan, identity, certificate, bytes(authority().verify_key), lambda: NOW_S)
    from privacy.secure_sum.roster import make_advert

    class Fixed(KeyPair):
        def __init__(self, public: bytes) -> None:
            super().__init__()
            self.public = public

    for keys in ((Fixed(point), KeyPair()), (KeyPair(), Fixed(point))):
        advert = make_advert(identity, certificate, plan, *keys)
        with pytest.raises(SecureSumError, match="low order"):
            ServerSession(plan, bytes(authority().verify_key), lambda: NOW_S).add_advert(advert.to_bytes())
    item = device(plan)
    others = []
    for _ in range(N - 1):
        own = nacl.signing.SigningKey.generate()
        paper = issue_certificate(authority(), plan.task, bytes(own.verify_key), NOW_S - 1, NOW_S + 1000)
        others.append(make_advert(own, paper, plan, KeyPair(), Fixed(point)))
    refuses(item, lambda: item.share(rostered([Advert.from_bytes(item.advert()), *others], item, 0)), "low order")
    assert not bad.over


# -- two views ---------------------------------------------------------------------------------------------------------


def halves(round_: CheatedRound) -> tuple[np.ndarray, np.ndarray]:
    """Two views of eight survivors each."""
    one, other = np.zeros(N, bool), np.zeros(N, bool)
    one[:8], other[4:] = True, True
    return one, other


def test_two_views_of_the_survivors_never_both_have_enough_signatures() -> None:
    """The server shows one half of the cohort one view, the other half the other, and its own two devices sign both."""
    round_ = CheatedRound().to_contribute()
    one, other = halves(round_)
    signed: dict[int, dict[int, bytes]] = {0: {}, 1: {}}
    for index, item in enumerate(round_.devices[:10]):
        view = 0 if index < 6 else 1
        signed[view][index] = item.agree(wire.bitmap_message((one, other)[view]))
    shared = np.ones(N, bool)
    for view, survivors in enumerate((one, other)):
        for index in (10, 11):
            statement = agreed_statement(round_.devices[index]._context, shared, survivors)
            signed[view][index] = round_.devices[index]._identity.sign(statement).signature
    needed = signatures_needed(N, COLLUDERS)
    assert all(len(signatures) <= needed for signatures in signed.values())
    for view, survivors in enumerate((one, other)):
        present = {index: raw for index, raw in signed[view].items() if survivors[index]}
        signers = np.zeros(N, bool)
        signers[list(present)] = True
        request = wire.UnmaskRequest(signers, tuple(present[index] for index in sorted(present)), ())
        victim = round_.devices[view * 9]
        refuses(victim, lambda victim=victim, request=request: victim.unmask(request.to_bytes()), "signatures agree")


def test_a_device_signs_one_view_only() -> None:
    round_ = CheatedRound().to_contribute()
    one, other = halves(round_)
    item = round_.devices[5]
    first = item.agree(wire.bitmap_message(one))
    assert item.agree(wire.bitmap_message(one)) == first
    refuses(item, lambda: item.agree(wire.bitmap_message(other)), "comes next")


def test_forged_signatures_are_found_in_the_sample() -> None:
    round_ = CheatedRound().to_agree()
    request = wire.UnmaskRequest.from_bytes(round_.server.unmask_request(0))
    needed, claimed = signatures_needed(N, COLLUDERS), len(request.signatures)
    forged = tuple(bytes(64) if i < claimed - needed + 1 else raw for i, raw in enumerate(request.signatures))
    item = round_.devices[0]
    refuses(item, lambda: item.unmask(dataclasses.replace(request, signatures=forged).to_bytes()), "is wrong")


@pytest.mark.parametrize(("claimed", "needed"), [(551, 551), (600, 551), (661, 551), (900, 551), (8, 8), (9000, 5501)])
def test_the_sample_of_signatures_misses_with_a_probability_below_2_to_the_minus_57(claimed: int, needed: int) -> None:
    import math

    drawn, wrong = sample_size(claimed, needed), claimed - needed + 1
    missed = math.comb(claimed - wrong, drawn) / math.comb(claimed, drawn) if drawn <= claimed - wrong else 0
    assert missed <= 2**-57
    assert drawn <= claimed
    # No larger than it has to be.
    assert drawn == 1 or math.comb(claimed - wrong, drawn - 1) / math.comb(claimed, drawn - 1) > 2**-57


def test_fewer_survivors_than_n_min_are_never_signed_for() -> None:
    round_ = CheatedRound().to_contribute()
    few = np.zeros(N, bool)
    few[: LEAST - 1] = True
    item = round_.devices[0]
    refuses(item, lambda: item.agree(wire.bitmap_message(few)), "nothing below")
    late = CheatedRound().to_share()
    with pytest.raises(TooFewSurvivorsError):
        late.server.open_agreement()


def test_a_device_that_is_not_a_survivor_signs_and_reveals_nothing() -> None:
    round_ = CheatedRound().to_contribute()
    without = np.ones(N, bool)
    without[3] = False
    item = round_.devices[3]
    refuses(item, lambda: item.agree(wire.bitmap_message(without)), "not among the survivors")


def test_two_views_of_who_shared_are_found() -> None:
    """A victim is told that most share-holders are gone, so that its masks are with few; the others are told the truth.

    If they gave its self mask's shares, the few could be dropped and its vector laid open.
    """
    round_ = CheatedRound().to_share()
    server, plan = round_.server, round_.plan
    lie = np.ones(N, bool)
    lie[1:5] = False
    told = wire.ContributeRequest.from_bytes(server.contribute_request(0))
    request = wire.ContributeRequest(lie, tuple(item for item in told.drawers if lie[item.index]))
    victim = round_.devices[0]
    victim.open_contribute(request.to_bytes())
    values, proof = victim.masked(np.zeros(plan.dimension, np.uint32))
    with pytest.raises(SecureSumError, match="view of who shared"):
        server.add_contribution(0, values, proof)
    # A server that cheats would take it all the same.
    server._survivors[0], server._contributed[0] = True, wire.Contributed.from_bytes(proof)
    for index, item in list(enumerate(round_.devices))[1:]:
        item.open_contribute(server.contribute_request(index))
        server.add_contribution(index, *item.masked(np.zeros(plan.dimension, np.uint32)))
    server.open_agreement()
    for index in range(1, N):
        server.add_signature(index, round_.devices[index].agree(server.agree_request()))
    server.open_unmasking()
    for index in range(1, N):
        item = round_.devices[index]
        refuses(item, lambda item=item, index=index: item.unmask(server.unmask_request(index)), "another view")


# -- shares ------------------------------------------------------------------------------------------------------------


def revealed(round_: CheatedRound, index: int) -> dict[int, bytes | None]:
    raw = round_.devices[index].unmask(round_.server.unmask_request(index))
    return dict(zip(round_.server._drawers[index], wire.shares_from_bytes(raw), strict=True))


def test_of_each_device_one_kind_of_share_is_revealed_once() -> None:
    round_ = CheatedRound().to_agree(without=3)
    drawers = {item.index: item for item in round_.devices[5]._secrets.drawers}
    request = round_.server.unmask_request(5)
    for index, share in revealed(round_, 5).items():
        assert share == (drawers[index].mask_share if index < 3 else drawers[index].self_share)
        assert share is not None
    for again in (request, round_.server.unmask_request(6), b""):
        with pytest.raises(SecureSumError, match="over"):
            round_.devices[5].unmask(again)


def test_another_survivor_bitmap_after_signing_is_not_asked_for_in_unmask() -> None:
    """The unmask request names no survivors and no kind of share: what is revealed follows from what was signed alone."""
    fields = {field.name for field in dataclasses.fields(wire.UnmaskRequest)}
    assert fields == {"signers", "signatures", "contributed"}


def test_a_reconstructed_mask_key_opens_no_share() -> None:
    round_ = CheatedRound().to_share()
    server, victim = round_.server, round_.devices[0]
    mask_pair = KeyPair(victim._secrets.mask.secret)
    context = victim._context
    for holder, (sender, _, sealed) in [(h, m) for h, mail in server._mail.items() for m in mail if m[0] == 0]:
        advert = server._adverts[holder]
        for public in (advert.channel_key, advert.mask_key):
            key = pair_key(mask_pair.agree(public), context, b"channel", sender, holder)
            with pytest.raises(SecureSumError, match="does not open"):
                unseal(key, sealed, context)


def test_shares_of_another_round_or_pair_do_not_open() -> None:
    one, other = KeyPair(), KeyPair()
    context = round_context("fleet", 1, "ab" * 32, bytes(32))
    key = pair_key(one.agree(other.public), context, b"channel", 1, 2)
    sealed = seal(key, bytes(64), context)
    assert unseal(key, sealed, context) == bytes(64)
    elsewhere = [
        round_context("other", 1, "ab" * 32, bytes(32)),
        round_context("fleet", 2, "ab" * 32, bytes(32)),
        round_context("fleet", 1, "cd" * 32, bytes(32)),
        round_context("fleet", 1, "ab" * 32, bytes(31) + b"\1"),
    ]
    keys = [pair_key(one.agree(other.public), item, b"channel", 1, 2) for item in elsewhere]
    keys.append(pair_key(one.agree(other.public), context, b"channel", 2, 1))
    keys.append(pair_key(one.agree(other.public), context, b"mask", 1, 2))
    assert len({key, *keys}) == len(keys) + 1
    for wrong in keys:
        with pytest.raises(SecureSumError, match="does not open"):
            unseal(wrong, sealed, context)


def test_wrong_shares_of_a_few_devices_are_survived_and_of_many_release_nothing() -> None:
    for liars, works in ((1, True), (6, False)):
        round_ = CheatedRound().to_agree()
        for index, item in enumerate(round_.devices):
            raw = item.unmask(round_.server.unmask_request(index))
            if index < liars:
                raw = raw[: -32 * 5] + bytes(32 * 5)
            round_.server.add_unmasking(index, raw)
        if works:
            assert not round_.server.release().values.any()
        else:
            with pytest.raises(SecureSumError, match="nothing is released"):
                round_.server.release()


# -- order and repetition ----------------------------------------------------------------------------------------------


def test_a_vector_is_masked_once() -> None:
    round_ = CheatedRound().to_share()
    item = round_.devices[0]
    item.open_contribute(round_.server.contribute_request(0))
    item.masked(np.zeros(round_.plan.dimension, np.uint32))
    refuses(item, lambda: item.masked(np.ones(round_.plan.dimension, np.uint32)), "comes next")


def test_stages_out_of_order_and_changed_repeats_end_the_session() -> None:
    plan = plan_for(N, LEAST, colluders=COLLUDERS)
    for step in ("share", "agree", "unmask", "open_contribute"):
        item = device(plan)
        refuses(item, lambda item=item, step=step: getattr(item, step)(b"x"), "comes next")
    round_ = CheatedRound()
    item = round_.devices[0]
    first = item.draw(round_.server.draw_request(0))
    assert item.draw(round_.server.draw_request(0)) == first
    refuses(item, lambda: item.draw(wire.DrawRequest(bytes(32), N, 0).to_bytes()), "comes next")


@pytest.mark.parametrize("stage", ["draw", "share", "contribute", "agree", "unmask"])
def test_garbage_is_refused_with_one_error(stage: str) -> None:
    for garbage in (b"", b"\0", bytes(7), b"\xff" * 100, bytes(100_000)):
        round_ = CheatedRound()
        lead = {"draw": None, "share": None, "contribute": "to_share", "agree": "to_contribute", "unmask": "to_agree"}
        if stage == "share":
            round_.devices[0].draw(round_.server.draw_request(0))
        elif lead[stage]:
            getattr(round_, str(lead[stage]))()
        item = round_.devices[0]
        step = {"contribute": "open_contribute"}.get(stage, stage)
        refuses(item, lambda item=item, step=step, garbage=garbage: getattr(item, step)(garbage), None)


def test_the_server_takes_garbage_from_devices_as_one_error() -> None:
    round_ = CheatedRound()
    fresh = ServerSession(round_.plan, bytes(authority().verify_key), lambda: NOW_S)
    for garbage in (b"", bytes(240), b"\xff" * 500):
        with pytest.raises(SecureSumError):
            fresh.add_advert(garbage)
    advert = round_.devices[0].advert()
    fresh.add_advert(advert)
    with pytest.raises(SecureSumError, match="already"):
        fresh.add_advert(advert)
    for holders in ((0, 1, 2), (1,) * 11, tuple(range(11)), tuple(range(100, 111))):
        with pytest.raises(SecureSumError):
            round_.server.add_draw(0, wire.indices_to_bytes(holders))


# -- masks -------------------------------------------------------------------------------------------------------------


def test_keys_that_agree_in_their_low_bits_give_unrelated_masks() -> None:
    """Flower's masks came from 32 bits of the key: here all 256 matter."""
    base = hashlib.sha256(b"key").digest()
    seen = set()
    for position in range(32):
        key = bytes(byte ^ (1 if index == position else 0) for index, byte in enumerate(base))
        total = np.zeros(1000, np.uint32)
        Masker(1000).add(total, key)
        seen.add(total.tobytes())
    assert len(seen) == 32


def test_one_masked_vector_is_uniform() -> None:
    """χ² over the bytes of a masked zero vector: 4 × 65,536 bytes in 256 cells; 6σ."""
    plan = plan_for(4, 3, dimension=65_536)
    seen: list[np.ndarray] = []
    round_ = SecureRound(plan, np.zeros((4, plan.dimension), np.int64))
    original = round_.server.add_contribution
    round_.server.add_contribution = lambda place, values, proof: (  # type: ignore[method-assign]
        seen.append(values.copy()),
        original(place, values, proof),
    )
    assert not round_.run().values.any()
    for values in seen:
        counts = np.bincount(np.frombuffer(values.astype("<u4").tobytes(), np.uint8), minlength=256)
        expected = 4 * plan.dimension / 256
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert abs(statistic - 255) < 6 * (2 * 255) ** 0.5


def test_a_pair_derives_one_mask_key_from_both_ends_and_no_other_pair_does() -> None:
    one, other = KeyPair(), KeyPair()
    context = round_context("fleet", 1, "ab" * 32, bytes(32))
    forward = pairwise_mask_key(one.agree(other.public), context, 3, 9)
    assert forward == pairwise_mask_key(other.agree(one.public), context, 9, 3)
    assert forward != pairwise_mask_key(one.agree(other.public), context, 3, 8)


def test_signed_statements_of_the_stages_cannot_stand_for_each_other() -> None:
    context, bits = bytes(32), np.ones(N, bool)
    statements = {shared_statement(context, bits, bytes(32)), agreed_statement(context, bits, bits)}
    assert len({item.split(b"\0")[0] for item in statements}) == 2
    key = nacl.signing.SigningKey.generate()
    one, two = sorted(statements)
    assert not signature_holds(bytes(key.verify_key), two, key.sign(one).signature)


def test_a_bitmap_has_one_encoding() -> None:
    raw = struct.pack(">I", 5) + b"\xf8"
    assert wire.bitmap_from_message(raw).sum() == 5
    for bad in (
        struct.pack(">I", 5) + b"\xfc",
        raw + b"\0",
        raw[:-1],
        struct.pack(">I", 0),
        struct.pack(">I", 1 << 31),
    ):
        with pytest.raises(SecureSumError):
            wire.bitmap_from_message(bad)
