"""What the stages of a secure sum carry, byte by byte. Fixed layouts, big-endian numbers, no option, one way to write each.

    stage        to the device                                         from the device
    advertise    (the signed plan)                                     Advert
    draw         DrawRequest: root of the roster                       the share-holders it drew
    share        ShareRequest: roster, the holders' adverts            one sealed pair of shares for each holder
    contribute   ContributeRequest: who shared, who drew this device   Contributed, and beside it the masked vector
    agree        the survivors' bitmap                                 a signature over it
    unmask       UnmaskRequest: the signatures of the others           one share for each device that drew this one

Parsing checks lengths and ranges only; what the values mean is judged in device and server. Raises SecureSumError.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.secure_sum.masking import KEY_BYTES, SEAL_OVERHEAD_BYTES
from shared_models.errors import SecureSumError
from shared_models.wire import ADVERTISE, AGREE, CONTRIBUTE, DRAW, SHARE, STAGES, UNMASK

__all__ = ["ADVERTISE", "AGREE", "CONTRIBUTE", "DRAW", "SHARE", "STAGES", "UNMASK"]

MAX_ROSTER = 100_000
SIGNATURE_BYTES = 64
DIGEST_BYTES = 32
PROOF_BYTES = 16
KEYS_BYTES = 20
"""Digests of 128 and 160 bits: nobody else can put other values in a device's place (second preimages). Two adverts with one
digest, which their own maker might find, are worth nothing to it: it may as well use one key wrongly."""
LEAF_BYTES = KEY_BYTES + KEYS_BYTES
ADVERT_BYTES = 240
HOLDER_BYTES = ADVERT_BYTES - 32
"""An advert without its identity, which the roster gives."""
SHARE_BYTES = 32
SEALED_SHARES_BYTES = 2 * SHARE_BYTES + SEAL_OVERHEAD_BYTES

Bitmap = npt.NDArray[np.bool_]
"""[roster]"""


@dataclass(frozen=True)
class Advert:
    """A device's part of the roster: who it is, by whose word, and its two fresh keys, signed."""

    identity: bytes
    """Ed25519."""
    not_before_s: int
    not_after_s: int
    certificate: bytes
    """The enrolment authority's signature."""
    mask_key: bytes
    channel_key: bytes
    """X25519."""
    signature: bytes
    """By `identity`, over the round and both keys."""

    def to_bytes(self) -> bytes:
        times = struct.pack(">QQ", self.not_before_s, self.not_after_s)
        return self.identity + times + self.certificate + self.mask_key + self.channel_key + self.signature

    @classmethod
    def from_bytes(cls, raw: bytes) -> Advert:
        reader = Reader("an advert", raw)
        identity = reader.take(KEY_BYTES)
        not_before_s, not_after_s = reader.u64(), reader.u64()
        advert = cls(
            identity,
            not_before_s,
            not_after_s,
            reader.take(SIGNATURE_BYTES),
            reader.take(KEY_BYTES),
            reader.take(KEY_BYTES),
            reader.take(SIGNATURE_BYTES),
        )
        reader.done()
        return advert

    @functools.cached_property
    def proof_digest(self) -> bytes:
        """Of everything but the three keys; 16 bytes."""
        times = struct.pack(">QQ", self.not_before_s, self.not_after_s)
        return hashlib.sha256(times + self.certificate + self.signature).digest()[:PROOF_BYTES]

    @property
    def leaf(self) -> bytes:
        return leaf_of(self.identity, self.mask_key, self.channel_key, self.proof_digest)


def leaf_of(identity: bytes, mask_key: bytes, channel_key: bytes, proof_digest: bytes) -> bytes:
    """What stands for a device in the roster: its identity, and a digest of the rest. 52 bytes."""
    return identity + hashlib.sha256(mask_key + channel_key + proof_digest).digest()[:KEYS_BYTES]


@dataclass(frozen=True)
class DrawRequest:
    """The server's commitment to the roster, before anybody draws."""

    root: bytes
    roster: int
    index: int
    """Where the receiver stands in it."""

    def to_bytes(self) -> bytes:
        return self.root + struct.pack(">II", self.roster, self.index)

    @classmethod
    def from_bytes(cls, raw: bytes) -> DrawRequest:
        reader = Reader("a draw request", raw)
        request = cls(reader.take(DIGEST_BYTES), reader.u32(), reader.u32())
        reader.done()
        return request


def indices_to_bytes(indices: Sequence[int]) -> bytes:
    return struct.pack(f">H{len(indices)}I", len(indices), *indices)


def indices_from_bytes(raw: bytes) -> tuple[int, ...]:
    reader = Reader("drawn share-holders", raw)
    indices = tuple(reader.u32() for _ in range(reader.u16()))
    reader.done()
    return indices


@dataclass(frozen=True)
class ShareRequest:
    """All leaves of the roster, and the drawn holders' adverts, in the order in which they were drawn.

    An advert comes without its identity: that stands in its leaf.
    """

    leaves: tuple[bytes, ...]
    holders: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        head = struct.pack(">IH", len(self.leaves), len(self.holders))
        return b"".join([head, *self.leaves, *self.holders])

    def advert(self, position: int, index: int) -> Advert:
        """The advert of the holder that was drawn in `position` and stands at `index` of the roster."""
        return Advert.from_bytes(self.leaves[index][:KEY_BYTES] + self.holders[position])

    @classmethod
    def from_bytes(cls, raw: bytes) -> ShareRequest:
        reader = Reader("a share request", raw)
        roster, holders = reader.u32(), reader.u16()
        leaves = _leaves(reader.take(roster * LEAF_BYTES))
        adverts = tuple(reader.many(holders, HOLDER_BYTES))
        reader.done()
        return cls(leaves, adverts)


@functools.lru_cache(maxsize=4)
def _leaves(raw: bytes) -> tuple[bytes, ...]:
    """Remembered, so that the devices of a simulation share one copy."""
    return tuple(raw[start : start + LEAF_BYTES] for start in range(0, len(raw), LEAF_BYTES))


def sealed_shares_to_bytes(sealed: Sequence[bytes]) -> bytes:
    return struct.pack(">H", len(sealed)) + b"".join(sealed)


def sealed_shares_from_bytes(raw: bytes) -> tuple[bytes, ...]:
    reader = Reader("sealed shares", raw)
    sealed = tuple(reader.many(reader.u16(), SEALED_SHARES_BYTES))
    reader.done()
    return sealed


@dataclass(frozen=True)
class Drawer:
    """A device that drew the receiver as its share-holder: its keys, bound to the roster, and the shares it sends."""

    index: int
    mask_key: bytes
    channel_key: bytes
    proof_digest: bytes
    sealed: bytes

    @property
    def head(self) -> bytes:
        """What says who the drawer is: the same for all whom it drew."""
        return struct.pack(">I", self.index) + self.mask_key + self.channel_key + self.proof_digest


@dataclass(frozen=True)
class ContributeRequest:
    """Who completed the stage `share`, and of those the ones that drew the receiver."""

    shared: Bitmap
    drawers: tuple[Drawer, ...]

    def to_bytes(self) -> bytes:
        return contribute_request(self.shared, [(item.head, item.sealed) for item in self.drawers])

    @classmethod
    def from_bytes(cls, raw: bytes) -> ContributeRequest:
        reader = Reader("a contribute request", raw)
        shared = reader.bitmap(reader.u32())
        drawers = tuple(
            Drawer(
                reader.u32(),
                reader.take(KEY_BYTES),
                reader.take(KEY_BYTES),
                reader.take(PROOF_BYTES),
                reader.take(SEALED_SHARES_BYTES),
            )
            for _ in range(reader.count())
        )
        reader.done()
        return cls(shared, drawers)


def contribute_request(shared: Bitmap, drawers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The request as bytes, from each drawer's head and the shares it sealed."""
    parts = [bitmap_message(shared), struct.pack(">I", len(drawers))]
    for head, sealed in drawers:
        parts += (head, sealed)
    return b"".join(parts)


@dataclass(frozen=True)
class Contributed:
    """What accompanies a masked vector: a commitment to the self mask's seed, and the word on who had shared."""

    seed_commitment: bytes
    signature: bytes
    """By the identity, over the round, the bitmap of those who shared, and the commitment."""

    def to_bytes(self) -> bytes:
        return self.seed_commitment + self.signature

    @classmethod
    def from_bytes(cls, raw: bytes) -> Contributed:
        reader = Reader("a contribution's proof", raw)
        contributed = cls(reader.take(DIGEST_BYTES), reader.take(SIGNATURE_BYTES))
        reader.done()
        return contributed


@dataclass(frozen=True)
class UnmaskRequest:
    """The signatures that agree on the survivors, and the proofs of the surviving drawers in the receiver's order."""

    signers: Bitmap
    signatures: tuple[bytes, ...]
    contributed: tuple[Contributed, ...]

    def to_bytes(self) -> bytes:
        parts = [struct.pack(">I", len(self.signers)), bitmap_to_bytes(self.signers), *self.signatures]
        parts.append(struct.pack(">I", len(self.contributed)))
        return b"".join(parts + [item.to_bytes() for item in self.contributed])

    @classmethod
    def from_bytes(cls, raw: bytes) -> UnmaskRequest:
        reader = Reader("an unmask request", raw)
        signers = reader.bitmap(reader.u32())
        signatures = tuple(reader.many(int(signers.sum()), SIGNATURE_BYTES))
        size = DIGEST_BYTES + SIGNATURE_BYTES
        contributed = tuple(Contributed.from_bytes(item) for item in reader.many(reader.count(), size))
        reader.done()
        return cls(signers, signatures, contributed)


def shares_to_bytes(shares: Sequence[bytes | None]) -> bytes:
    """One share for each drawer, in the order of the contribute request; None where its sealed shares did not open."""
    held = np.array([share is not None for share in shares], bool)
    return struct.pack(">I", len(shares)) + bitmap_to_bytes(held) + b"".join(share for share in shares if share)


def shares_from_bytes(raw: bytes) -> tuple[bytes | None, ...]:
    reader = Reader("shares", raw)
    held = reader.bitmap(reader.u32())
    shares = iter(reader.many(int(held.sum()), SHARE_BYTES))
    result = tuple(next(shares) if present else None for present in held)
    reader.done()
    return result


def bitmap_to_bytes(bitmap: Bitmap) -> bytes:
    """Bit i of byte i // 8, most significant first, zero-filled."""
    return np.packbits(bitmap).tobytes()


def bitmap_message(bitmap: Bitmap) -> bytes:
    return struct.pack(">I", len(bitmap)) + bitmap_to_bytes(bitmap)


def bitmap_from_message(raw: bytes) -> Bitmap:
    reader = Reader("a bitmap", raw)
    bitmap = reader.bitmap(reader.u32())
    reader.done()
    return bitmap


class Reader:
    """Takes a message apart; every length is checked against what is there before anything is made of it."""

    def __init__(self, what: str, raw: object) -> None:
        if not isinstance(raw, bytes):
            raise SecureSumError(f"{what} is not bytes")
        self._what, self._raw, self._at = what, raw, 0

    def take(self, size: int) -> bytes:
        part = self._raw[self._at : self._at + size]
        if len(part) != size:
            raise SecureSumError(f"{self._what} is cut short")
        self._at += size
        return part

    def many(self, count: int, size: int) -> list[bytes]:
        body = self.take(count * size)
        return [body[start : start + size] for start in range(0, count * size, size)]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def count(self) -> int:
        count = self.u32()
        if count > MAX_ROSTER:
            raise SecureSumError(f"{self._what} announces {count} entries")
        return count

    def bitmap(self, size: int) -> Bitmap:
        if not 0 < size <= MAX_ROSTER:
            raise SecureSumError(f"{self._what} is for a roster of {size}")
        raw = np.frombuffer(self.take((size + 7) // 8), np.uint8)
        bits = np.unpackbits(raw)
        if bits[size:].any():
            raise SecureSumError(f"{self._what} has bits beyond the roster")
        return bits[:size].astype(np.bool_)

    def done(self) -> None:
        if self._at != len(self._raw):
            raise SecureSumError(f"{self._what} is {len(self._raw) - self._at} bytes too long")
