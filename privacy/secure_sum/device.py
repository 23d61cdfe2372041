"""A device's side of one secure sum. It trusts nobody: what a message may make it reveal is decided here.

One session per round, five stages after the advert, each once and in order. The same request again gets the same bytes again;
anything else that does not fit ends the session: the secrets are wiped, and to the others the device has dropped out. The whole
state is in memory, so a crash ends the session too.

Why a device can be sure that the server learns the sum over at least n_min devices or nothing (`sizing` has the probabilities):
- its share-holders are its own random choice, made after the server had committed to the roster;
- it reveals shares once, after more than (roster + colluders) / 2 signatures agree on one view of who shared and who
  survived; two such views would need an honest device that signed twice;
- of a device it then gives the self mask's share if it survived in that view, the mask key's share if not, never both; and the
  self mask's only if that device itself had signed the same view of who shared, so that its masks are the ones that count.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import nacl.signing
import numpy as np

from privacy.enrolment import Certificate
from privacy.secure_sum import messages as wire
from privacy.secure_sum.masking import (
    KeyPair,
    Masker,
    RingArray,
    pair_key,
    pairwise_mask_key,
    round_context,
    seal,
    self_mask_key,
    unseal,
)
from privacy.secure_sum.messages import Advert, Bitmap
from privacy.secure_sum.roster import (
    agreed_statement,
    check_advert,
    check_distinct,
    make_advert,
    roster_root,
    shared_statement,
    signature_holds,
)
from privacy.secure_sum.shamir import split
from privacy.secure_sum.sizing import GraphSize, graph_size
from shared_models.errors import SecureSumError, TacitError
from shared_models.wire import RoundPlan

SAMPLE_FAILURE_BITS = 57
"""A device that checks a private random sample of the signatures accepts too few of them with probability ≤ 2^-57.

That is 2^-40 for any of 100,000 devices.
"""


@dataclass
class _Peer:
    """Another device of the roster, as far as this one deals with it."""

    index: int
    mask_key: bytes
    channel_key: bytes


@dataclass
class _Drawer:
    """A device that drew this one: of its two shares one may be revealed."""

    index: int
    self_share: bytes | None
    mask_share: bytes | None


@dataclass
class _Secrets:
    """Everything that `wipe` forgets."""

    mask: KeyPair
    channel: KeyPair
    seed: bytes
    drawers: list[_Drawer] = field(default_factory=list)

    def wipe(self) -> None:
        self.mask.wipe()
        self.channel.wipe()
        self.seed = b""
        self.drawers = []


class DeviceSession:
    """One device in one round. Every method raises SecureSumError if it will not go on; the session is over then."""

    def __init__(
        self,
        plan: RoundPlan,
        identity: nacl.signing.SigningKey,
        certificate: Certificate,
        enrolment_key: bytes,
        clock: Callable[[], float],
    ) -> None:
        self.plan = plan
        self._identity = identity
        self._enrolment_key = enrolment_key
        self._clock = clock
        self._secrets = _Secrets(KeyPair(), KeyPair(), os.urandom(32))
        self._own = make_advert(identity, certificate, plan, self._secrets.mask, self._secrets.channel)
        self._answers: dict[str, tuple[bytes, bytes]] = {}
        """Stage → digest of the request, and the answer, which a repeat gets again."""
        self._leaves: tuple[bytes, ...] = ()
        self._peers: dict[int, _Peer] = {}
        """The drawn share-holders, in their order."""
        self._partners: dict[int, _Peer] = {}
        """With whom masks are shared."""
        self._next = wire.DRAW
        self._over: str | None = None

    @property
    def over(self) -> bool:
        return self._over is not None

    def abandon(self, why: str = "the round was left") -> None:
        """Wipe the secrets; nothing more is answered."""
        self._over = self._over or why
        self._secrets.wipe()
        self._answers = {}
        self._leaves = ()
        self._peers = self._partners = {}

    def advert(self) -> bytes:
        """The same each time, while the session lasts."""
        if self._over is not None:
            raise SecureSumError(f"this session is over: {self._over}")
        return self._own.to_bytes()

    def draw(self, raw: bytes) -> bytes:
        """Choose the share-holders from the roster that the server has now committed to."""
        return self._stage(wire.DRAW, wire.SHARE, raw, self._draw)

    def share(self, raw: bytes) -> bytes:
        """Check the roster and the holders; seal one pair of shares for each."""
        return self._stage(wire.SHARE, wire.CONTRIBUTE, raw, self._share)

    def open_contribute(self, raw: bytes) -> None:
        """Read and judge a contribute request; after it `masked` may be called, once."""
        self._stage(wire.CONTRIBUTE, "masked", raw, self._open_contribute)

    def masked(self, values: RingArray) -> tuple[RingArray, bytes]:
        """The masked vector, uint32 [dimension], of `values` (clipped integers with their noise), and its proof.

        Takes `values` over: they are overwritten. Once only: two vectors under one mask would cancel it.
        """
        self._require("masked")
        try:
            total = np.ascontiguousarray(values, np.uint32)
            if total.shape != (self.plan.dimension,):
                raise SecureSumError(f"a vector of shape {total.shape} came where {self.plan.dimension} was planned")
            masker = Masker(total.size)
            for peer in self._partners.values():
                agreed = self._secrets.mask.agree(peer.mask_key)
                key = pairwise_mask_key(agreed, self._context, self._index, peer.index)
                masker.add_pairwise(total, key, self._index, peer.index)
            masker.add(total, self_mask_key(self._secrets.seed, self._context, self._index))
            masker.wipe()
        except SecureSumError as error:
            self.abandon(str(error))
            raise
        commitment = hashlib.sha256(self._secrets.seed).digest()
        signature = self._identity.sign(shared_statement(self._context, self._shared, commitment)).signature
        self._next = wire.AGREE
        return total, wire.Contributed(commitment, signature).to_bytes()

    def agree(self, raw: bytes) -> bytes:
        """Sign one view of the survivors, if this device is among them."""
        return self._stage(wire.AGREE, wire.UNMASK, raw, self._agree)

    def unmask(self, raw: bytes) -> bytes:
        """Reveal one share of each device that drew this one, if enough of the roster agrees; then forget everything."""
        answer = self._stage(wire.UNMASK, "nothing", raw, self._unmask)
        self.abandon("its shares were given")
        return answer

    # -- the stages -----------------------------------------------------------------------------------------------

    def _draw(self, raw: bytes) -> bytes:
        request = wire.DrawRequest.from_bytes(raw)
        if not self.plan.min_survivors <= request.roster <= self.plan.cohort:
            raise SecureSumError(
                f"a roster of {request.roster} where {self.plan.min_survivors} to {self.plan.cohort} were planned"
            )
        if request.index >= request.roster:
            raise SecureSumError("this device's place is outside the roster")
        self._root, self._roster, self._index = request.root, request.roster, request.index
        self._size: GraphSize = graph_size(self._roster, self.plan.colluders, self.plan.min_survivors)
        self._context = round_context(self.plan.task, self.plan.round_id, self.plan.hash, self._root)
        others = [position for position in range(self._roster) if position != self._index]
        self._holders = tuple(secrets.SystemRandom().sample(others, self._size.degree))
        return wire.indices_to_bytes(self._holders)

    def _share(self, raw: bytes) -> bytes:
        request = wire.ShareRequest.from_bytes(raw)
        if len(request.leaves) != self._roster or roster_root(request.leaves) != self._root:
            raise SecureSumError("the roster is not the one that the server had committed to")
        if request.leaves[self._index] != self._own.leaf:
            raise SecureSumError("this device's own advert is not in its place in the roster")
        check_distinct(request.leaves)
        if len(request.holders) != len(self._holders):
            raise SecureSumError("not every drawn share-holder came with its advert")
        self._leaves = request.leaves
        for position, index in enumerate(self._holders):
            self._meet(index, request.advert(position, index))
        seeds = split(self._secrets.seed, self._size.threshold, len(self._holders))
        keys = split(self._secrets.mask.secret, self._size.threshold, len(self._holders))
        sealed = [
            seal(
                self._channel(peer, self._index, peer.index),
                seeds[position].tobytes() + keys[position].tobytes(),
                self._context,
            )
            for position, peer in enumerate(self._peers.values())
        ]
        return wire.sealed_shares_to_bytes(sealed)

    def _meet(self, index: int, advert: Advert) -> None:
        if advert.leaf != self._leaves[index]:
            raise SecureSumError("a share-holder's advert is not the one in the roster")
        check_advert(advert, self.plan, self._enrolment_key, self._clock())
        self._peers[index] = _Peer(index, advert.mask_key, advert.channel_key)

    def _open_contribute(self, raw: bytes) -> bytes:
        request = wire.ContributeRequest.from_bytes(raw)
        if len(request.shared) != self._roster or not request.shared[self._index]:
            raise SecureSumError("the bitmap of those who shared leaves this device out")
        if int(request.shared.sum()) < self.plan.min_survivors:
            raise SecureSumError("fewer devices shared than may be released")
        self._shared: Bitmap = request.shared
        if len({item.index for item in request.drawers}) != len(request.drawers):
            raise SecureSumError("a device drew this one twice")
        partners = dict(self._peers)
        for item in request.drawers:
            if not (item.index < self._roster and item.index != self._index and self._shared[item.index]):
                raise SecureSumError("a device that drew this one is not among those who shared")
            identity = self._leaves[item.index][:32]
            if wire.leaf_of(identity, item.mask_key, item.channel_key, item.proof_digest) != self._leaves[item.index]:
                raise SecureSumError("a device that drew this one has other keys than in the roster")
            peer = partners.setdefault(item.index, _Peer(item.index, item.mask_key, item.channel_key))
            self._secrets.drawers.append(self._open_shares(peer, item.sealed))
        self._partners = {index: peer for index, peer in partners.items() if self._shared[index]}
        return b""

    def _open_shares(self, peer: _Peer, sealed: bytes) -> _Drawer:
        try:
            pair = unseal(self._channel(peer, peer.index, self._index), sealed, self._context)
        except SecureSumError:
            # That device's own doing, or the server's: its share is missing here, which its threshold allows for.
            return _Drawer(peer.index, None, None)
        return _Drawer(peer.index, pair[: wire.SHARE_BYTES], pair[wire.SHARE_BYTES :])

    def _agree(self, raw: bytes) -> bytes:
        survivors = wire.bitmap_from_message(raw)
        if len(survivors) != self._roster or (survivors & ~self._shared).any():
            raise SecureSumError("the survivors are not among those who shared")
        if not survivors[self._index]:
            raise SecureSumError("this device is not among the survivors")
        if int(survivors.sum()) < self.plan.min_survivors:
            raise SecureSumError(
                f"{int(survivors.sum())} survivors, the plan releases nothing below {self.plan.min_survivors}"
            )
        self._survivors: Bitmap = survivors
        return self._identity.sign(agreed_statement(self._context, self._shared, survivors)).signature

    def _unmask(self, raw: bytes) -> bytes:
        request = wire.UnmaskRequest.from_bytes(raw)
        self._check_agreement(request)
        self._check_proofs(request)
        return wire.shares_to_bytes(
            [
                drawer.self_share if self._survivors[drawer.index] else drawer.mask_share
                for drawer in self._secrets.drawers
            ]
        )

    def _check_agreement(self, request: wire.UnmaskRequest) -> None:
        needed = signatures_needed(self._roster, self.plan.colluders)
        if len(request.signers) != self._roster or (request.signers & ~self._survivors).any():
            raise SecureSumError("a signature is not that of a survivor")
        claimed = np.flatnonzero(request.signers)
        if len(claimed) < needed:
            raise SecureSumError(f"{len(claimed)} signatures agree on the survivors, {needed} are needed")
        statement = agreed_statement(self._context, self._shared, self._survivors)
        sample = secrets.SystemRandom().sample(range(len(claimed)), sample_size(len(claimed), needed))
        for position in sample:
            identity = self._leaves[claimed[position]][:32]
            if not signature_holds(identity, statement, request.signatures[position]):
                raise SecureSumError("a signature over the survivors is wrong")

    def _check_proofs(self, request: wire.UnmaskRequest) -> None:
        surviving = [drawer for drawer in self._secrets.drawers if self._survivors[drawer.index]]
        if len(surviving) != len(request.contributed):
            raise SecureSumError("not every surviving device that drew this one came with its proof")
        for drawer, proof in zip(surviving, request.contributed, strict=True):
            statement = shared_statement(self._context, self._shared, proof.seed_commitment)
            if not signature_holds(self._leaves[drawer.index][:32], statement, proof.signature):
                raise SecureSumError("a survivor chose its masks from another view of who shared")

    # -- small things ---------------------------------------------------------------------------------------------

    def _channel(self, peer: _Peer, sender: int, receiver: int) -> bytes:
        return pair_key(self._secrets.channel.agree(peer.channel_key), self._context, b"channel", sender, receiver)

    def _stage(self, stage: str, following: str, raw: bytes, answer: Callable[[bytes], bytes]) -> bytes:
        known = self._answers.get(stage)
        digest = hashlib.sha256(raw).digest()
        if known is not None and known[0] == digest:
            return known[1]
        self._require(stage)
        try:
            result = answer(raw)
        except TacitError as error:
            self.abandon(str(error))
            raise
        self._answers[stage] = (digest, result)
        self._next = following
        return result

    def _require(self, stage: str) -> None:
        if self._over is not None:
            raise SecureSumError(f"this session is over: {self._over}")
        if stage != self._next:
            expected = self._next
            self.abandon(f"{stage} was asked for where {expected} comes next")
            raise SecureSumError(f"{stage} was asked for where {expected} comes next")


def signatures_needed(roster: int, colluders: int) -> int:
    """The least number greater than (roster + colluders) / 2: two views cannot both have it, if honest devices sign once."""
    return (roster + colluders) // 2 + 1


def sample_size(claimed: int, needed: int) -> int:
    """How many of `claimed` signatures to check, at random and in private.

    If fewer than `needed` are valid, claimed − needed + 1 or more are not; the chance that a sample without replacement meets
    none of them is at most 2^-SAMPLE_FAILURE_BITS. All are checked where no smaller sample will do.
    """
    wrong = claimed - needed + 1
    missed = 0.0
    for drawn in range(1, claimed - wrong + 1):
        missed += math.log2((claimed - wrong - drawn + 1) / (claimed - drawn + 1))
        if missed <= -SAMPLE_FAILURE_BITS:
            return drawn
    # From here on a sample cannot miss, if it is one larger than the number of valid ones may be.
    return claimed - wrong + 1
