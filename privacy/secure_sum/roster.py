"""The roster of a round: certified devices with their fresh keys, committed to before anybody draws a share-holder.

What is signed and by whom, the Merkle root over all leaves (RFC 6962), and the checks that a device makes of others.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import nacl.exceptions
import nacl.signing

from privacy.enrolment import Certificate
from privacy.merkle import merkle_root
from privacy.secure_sum.masking import KeyPair, round_context
from privacy.secure_sum.messages import Advert, Bitmap, bitmap_message
from shared_models.errors import RefusedError, SecureSumError, SignatureError
from shared_models.wire import RoundPlan

_ADVERT = b"tacit-secure-sum-advert-v1\0"
_SHARED = b"tacit-secure-sum-shared-v1\0"
_AGREED = b"tacit-secure-sum-agreed-v1\0"


def make_advert(
    identity: nacl.signing.SigningKey, certificate: Certificate, plan: RoundPlan, mask: KeyPair, channel: KeyPair
) -> Advert:
    """This device's entry for the roster of `plan`."""
    signed = _advert_statement(plan, mask.public, channel.public)
    return Advert(
        bytes(identity.verify_key),
        certificate.not_before_s,
        certificate.not_after_s,
        certificate.signature,
        mask.public,
        channel.public,
        identity.sign(signed).signature,
    )


def check_advert(advert: Advert, plan: RoundPlan, enrolment_key: bytes, now_s: float) -> None:
    """Raise SecureSumError unless a certified device made this advert, for this very plan."""
    try:
        certificate = Certificate.from_parts(
            plan.task, advert.identity, advert.not_before_s, advert.not_after_s, advert.certificate
        )
        certificate.check(enrolment_key, plan.task, now_s)
    except (RefusedError, SignatureError) as error:
        raise SecureSumError(f"a device of the roster is not certified: {error}") from error
    statement = _advert_statement(plan, advert.mask_key, advert.channel_key)
    if not signature_holds(advert.identity, statement, advert.signature):
        raise SecureSumError("an advert is not signed by its identity for this round")
    if advert.mask_key == advert.channel_key:
        raise SecureSumError("an advert uses one key for masks and channel")


def roster_root(leaves: Sequence[bytes]) -> bytes:
    return _root(tuple(leaves))


def check_distinct(leaves: Sequence[bytes]) -> None:
    """Raise SecureSumError if one identity stands in the roster twice: it would count, and sign, for two."""
    if not _distinct(tuple(leaves)):
        raise SecureSumError("an identity stands in the roster twice")


def shared_statement(context: bytes, shared: Bitmap, seed_commitment: bytes) -> bytes:
    """What a contributor signs: who had shared when it chose its masks, and the commitment to its self mask's seed."""
    return _SHARED + context + hashlib.sha256(bitmap_message(shared)).digest() + seed_commitment


def agreed_statement(context: bytes, shared: Bitmap, survivors: Bitmap) -> bytes:
    """What a contributor signs in the stage `agree`: one view of who shared and who survived, over one roster."""
    views = hashlib.sha256(bitmap_message(shared)).digest() + hashlib.sha256(bitmap_message(survivors)).digest()
    return _AGREED + context + views


@functools.lru_cache(maxsize=1 << 14)
def signature_holds(public: bytes, statement: bytes, signature: bytes) -> bool:
    """Ed25519. Pure, so remembered: in a simulation many devices of one process check the same signature."""
    try:
        nacl.signing.VerifyKey(public).verify(statement, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError, nacl.exceptions.TypeError):
        return False
    return True


@functools.lru_cache(maxsize=8)
def _distinct(leaves: tuple[bytes, ...]) -> bool:
    return len({leaf[:32] for leaf in leaves}) == len(leaves)


@functools.lru_cache(maxsize=8)
def _root(leaves: tuple[bytes, ...]) -> bytes:
    return merkle_root(leaves)


def _advert_statement(plan: RoundPlan, mask_key: bytes, channel_key: bytes) -> bytes:
    return _ADVERT + round_context(plan.task, plan.round_id, plan.hash, b"") + mask_key + channel_key
