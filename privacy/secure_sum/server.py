"""The server's side of one secure sum: passes messages on, keeps one running sum, takes the masks out once, at the end.

It is trusted for nothing but getting a result: what it must not do, devices refuse. Memory: one vector, and for each pair of
device and share-holder some hundred bytes. Every method that takes a device's message raises SecureSumError for one that is
not acceptable; the device then counts as dropped.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import numpy as np

from privacy.clipping import from_ring
from privacy.mechanisms import NoisySum
from privacy.secure_sum import messages as wire
from privacy.secure_sum.device import signatures_needed
from privacy.secure_sum.masking import (
    KeyPair,
    Masker,
    RingArray,
    check_public_key,
    pairwise_mask_key,
    round_context,
    self_mask_key,
)
from privacy.secure_sum.messages import Advert, Bitmap
from privacy.secure_sum.roster import (
    agreed_statement,
    check_advert,
    roster_root,
    shared_statement,
    signature_holds,
)
from privacy.secure_sum.shamir import combine
from privacy.secure_sum.sizing import GraphSize, graph_size
from shared_models.errors import PolicyError, SecureSumError, TooFewSurvivorsError
from shared_models.wire import RoundPlan

RECONSTRUCTIONS = 100
"""How many sets of shares are tried for one secret, where some are wrong."""


class ServerSession:
    """One round. Devices are known by their place in the roster, which `close_roster` gives them."""

    def __init__(self, plan: RoundPlan, enrolment_key: bytes, clock: Callable[[], float]) -> None:
        self.plan = plan
        self._enrolment_key = enrolment_key
        self._clock = clock
        self._adverts: list[Advert] = []
        self._identities: set[bytes] = set()
        self._stage = wire.ADVERTISE
        self._total: RingArray = np.zeros(plan.dimension, np.uint32)

    # -- advertise, draw ------------------------------------------------------------------------------------------

    def add_advert(self, raw: bytes) -> int:
        """Returns the device's place in the roster."""
        self._require(wire.ADVERTISE)
        advert = Advert.from_bytes(raw)
        check_advert(advert, self.plan, self._enrolment_key, self._clock())
        check_public_key(advert.mask_key)
        check_public_key(advert.channel_key)
        if advert.identity in self._identities:
            raise SecureSumError("this identity is in the roster already")
        self._identities.add(advert.identity)
        self._adverts.append(advert)
        return len(self._adverts) - 1

    def close_roster(self) -> None:
        """Commit to the roster. Raises TooFewSurvivorsError if it is too small for a release."""
        self._require(wire.ADVERTISE)
        roster = len(self._adverts)
        self._enough(roster, "advertised")
        try:
            self.size: GraphSize = graph_size(roster, self.plan.colluders, self.plan.min_survivors)
        except PolicyError as error:
            raise SecureSumError(str(error)) from error
        self._leaves = tuple(advert.leaf for advert in self._adverts)
        self.root = roster_root(self._leaves)
        self._context = round_context(self.plan.task, self.plan.round_id, self.plan.hash, self.root)
        self._holders: dict[int, tuple[int, ...]] = {}
        self._stage = wire.DRAW

    @property
    def roster(self) -> int:
        return len(self._adverts)

    def draw_request(self, index: int) -> bytes:
        return wire.DrawRequest(self.root, self.roster, index).to_bytes()

    def add_draw(self, index: int, raw: bytes) -> None:
        self._require(wire.DRAW)
        holders = wire.indices_from_bytes(raw)
        if len(set(holders)) != len(holders) or len(holders) != self.size.degree or index in self._holders:
            raise SecureSumError(f"expected {self.size.degree} different share-holders, once")
        if any(holder >= self.roster or holder == index for holder in holders):
            raise SecureSumError("a share-holder is not another device of the roster")
        self._holders[index] = holders

    # -- share ----------------------------------------------------------------------------------------------------

    def open_sharing(self) -> None:
        self._require(wire.DRAW)
        self._enough(len(self._holders), "drew their share-holders")
        self._shared: Bitmap = np.zeros(self.roster, np.bool_)
        self._mail: dict[int, list[tuple[int, int, bytes]]] = {index: [] for index in range(self.roster)}
        """Share-holder → (sender, the holder's place among those whom the sender drew, sealed shares)."""
        self._stage = wire.SHARE

    def drawn(self) -> list[int]:
        return list(self._holders)

    def share_request(self, index: int) -> bytes:
        holders = tuple(self._adverts[holder].to_bytes()[-wire.HOLDER_BYTES :] for holder in self._holders[index])
        return wire.ShareRequest(self._leaves, holders).to_bytes()

    def add_shares(self, index: int, raw: bytes) -> None:
        self._require(wire.SHARE)
        sealed = wire.sealed_shares_from_bytes(raw)
        if len(sealed) != len(self._holders[index]) or self._shared[index]:
            raise SecureSumError("expected one pair of shares for each holder, once")
        for place, (holder, item) in enumerate(zip(self._holders[index], sealed, strict=True)):
            self._mail[holder].append((index, place, item))
        self._shared[index] = True

    # -- contribute -----------------------------------------------------------------------------------------------

    def open_contributing(self) -> None:
        self._require(wire.SHARE)
        self._enough(int(self._shared.sum()), "shared their keys")
        self._survivors: Bitmap = np.zeros(self.roster, np.bool_)
        self._contributed: dict[int, wire.Contributed] = {}
        self._drawers = {index: [sender for sender, _, _ in mail] for index, mail in self._mail.items()}
        self._places = {index: [place for _, place, _ in mail] for index, mail in self._mail.items()}
        self._heads = [
            wire.Drawer(index, advert.mask_key, advert.channel_key, advert.proof_digest, b"").head
            for index, advert in enumerate(self._adverts)
        ]
        self._stage = wire.CONTRIBUTE

    def sharers(self) -> list[int]:
        return [int(index) for index in np.flatnonzero(self._shared)]

    def contribute_request(self, index: int) -> bytes:
        mail = self._mail[index]
        return wire.contribute_request(self._shared, [(self._heads[sender], sealed) for sender, _, sealed in mail])

    def add_contribution(self, index: int, values: RingArray, proof: bytes) -> None:
        """Add a masked vector to the running sum. From here on the device counts as a survivor."""
        self._require(wire.CONTRIBUTE)
        if not self._shared[index] or self._survivors[index]:
            raise SecureSumError("a contribution of a device that did not share, or a second one")
        if not isinstance(values, np.ndarray) or values.dtype != np.uint32 or values.shape != self._total.shape:
            raise SecureSumError(f"expected uint32 [{self.plan.dimension}] from a device")
        contributed = wire.Contributed.from_bytes(proof)
        statement = shared_statement(self._context, self._shared, contributed.seed_commitment)
        if not signature_holds(self._adverts[index].identity, statement, contributed.signature):
            raise SecureSumError("a contribution is not signed by its device for this view of who shared")
        np.add(self._total, values, out=self._total)
        self._contributed[index] = contributed
        self._survivors[index] = True

    # -- agree ----------------------------------------------------------------------------------------------------

    def open_agreement(self) -> None:
        self._require(wire.CONTRIBUTE)
        self._enough(self.survivors, "contributed")
        self._mail.clear()
        self._signatures: dict[int, bytes] = {}
        self._stage = wire.AGREE

    @property
    def survivors(self) -> int:
        return int(self._survivors.sum())

    def contributors(self) -> list[int]:
        return [int(index) for index in np.flatnonzero(self._survivors)]

    def agree_request(self) -> bytes:
        """The same for all."""
        return wire.bitmap_message(self._survivors)

    def add_signature(self, index: int, signature: bytes) -> None:
        self._require(wire.AGREE)
        statement = agreed_statement(self._context, self._shared, self._survivors)
        if not self._survivors[index] or not signature_holds(self._adverts[index].identity, statement, signature):
            raise SecureSumError("a signature over the survivors is wrong")
        self._signatures[index] = signature

    # -- unmask ---------------------------------------------------------------------------------------------------

    def open_unmasking(self) -> None:
        """Raises SecureSumError if too few agreed: devices would refuse."""
        self._require(wire.AGREE)
        needed = signatures_needed(self.roster, self.plan.colluders)
        if len(self._signatures) < needed:
            raise SecureSumError(f"{len(self._signatures)} devices agreed on the survivors, {needed} are needed")
        # A fifth more than needed lets devices check a sample only; still more would cost more bytes than it saves time.
        passed_on = sorted(self._signatures)[: needed + needed // 5]
        self._signers: Bitmap = np.zeros(self.roster, np.bool_)
        self._signers[passed_on] = True
        self._ordered = tuple(self._signatures[index] for index in passed_on)
        self._revealed: dict[int, dict[int, bytes]] = {index: {} for index in self.sharers()}
        self._stage = wire.UNMASK

    def unmask_request(self, index: int) -> bytes:
        proofs = tuple(self._contributed[drawer] for drawer in self._drawers[index] if self._survivors[drawer])
        return wire.UnmaskRequest(self._signers, self._ordered, proofs).to_bytes()

    def add_unmasking(self, index: int, raw: bytes) -> None:
        self._require(wire.UNMASK)
        shares = wire.shares_from_bytes(raw)
        drawers = self._drawers[index]
        if len(shares) != len(drawers) or not self._survivors[index]:
            raise SecureSumError("expected one share for each device that drew this one, from a survivor")
        for drawer, place, share in zip(drawers, self._places[index], shares, strict=True):
            if share is not None:
                self._revealed[drawer].setdefault(place, share)

    def release(self) -> NoisySum:
        """Take all masks out and hand the sum out, with the noise that its devices have put into it.

        Raises SecureSumError if too few shares came, or wrong ones: then nothing can be released.
        """
        self._require(wire.UNMASK)
        self._stage = "released"
        self._masker = Masker(self._total.size)
        for index in self.sharers():
            if self._survivors[index]:
                self._remove_self_mask(index)
            else:
                self._remove_pairwise_masks(index)
        honest = self.survivors - self.plan.colluders
        return NoisySum(from_ring(self._total), self.survivors, honest * self.plan.share_variance, self.plan.clip_norm)

    def _remove_self_mask(self, index: int) -> None:
        commitment = self._contributed[index].seed_commitment
        seed = self._reconstruct(index, lambda secret: hashlib.sha256(secret).digest() == commitment)
        self._masker.subtract(self._total, self_mask_key(seed, self._context, index))

    def _remove_pairwise_masks(self, index: int) -> None:
        """A device that shared its keys and then dropped out: its partners' masks with it are still in the sum."""
        partners = [item for item in {*self._holders[index], *self._drawers[index]} if self._survivors[item]]
        if not partners:
            return
        public = self._adverts[index].mask_key
        pair = KeyPair(self._reconstruct(index, lambda secret: KeyPair(secret).public == public))
        for partner in partners:
            key = pairwise_mask_key(pair.agree(self._adverts[partner].mask_key), self._context, index, partner)
            # What the survivor did, undone: as if the dropped device had contributed its half.
            self._masker.add_pairwise(self._total, key, index, partner)

    def _reconstruct(self, index: int, fits: Callable[[bytes], bool]) -> bytes:
        """The secret of a device, from `threshold` of the shares that came; a few wrong shares among more are survived."""
        shares, threshold = self._revealed[index], self.size.threshold
        positions = sorted(shares)
        chosen = positions[:threshold]
        for _ in range(RECONSTRUCTIONS if len(positions) >= threshold else 0):
            rows = np.frombuffer(b"".join(shares[position] for position in chosen), np.uint8)
            secret = combine(chosen, rows.reshape(threshold, -1))
            if fits(secret):
                return secret
            chosen = random.sample(positions, threshold)
        raise SecureSumError(
            f"{len(positions)} shares of one device's secret came, {threshold} right ones are needed: nothing is released"
        )

    # -- small things ---------------------------------------------------------------------------------------------

    def _enough(self, count: int, what: str) -> None:
        if count < self.plan.min_survivors:
            raise TooFewSurvivorsError(
                f"{count} devices {what}, the plan releases nothing below {self.plan.min_survivors}"
            )

    def _require(self, stage: str) -> None:
        if self._stage != stage:
            raise SecureSumError(f"this belongs to the stage {stage}, the round is in {self._stage}")
