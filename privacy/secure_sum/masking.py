"""Keys and masks of one round: X25519 agreement, separated key derivation, the mask generator, authenticated channels.

    mask key      X25519, fresh; pairwise masks come from it; its secret is Shamir-shared, so that a dropped device's masks
                  can be taken out again
    channel key   X25519, fresh; encrypts shares between two devices; its secret never leaves, so that a reconstructed
                  mask key opens no share

Every derived key is HKDF-SHA256 (RFC 5869) over the agreed secret with the round's context (task, round, plan hash, roster)
as salt and purpose and ordered pair as info. Masks are AES-256 in counter mode (NIST SP 800-38A) from a zero counter: a key is
used for one mask only. Measured beside ChaCha20 in benchmarks/secure_sum.py.
"""

from __future__ import annotations

import hashlib
import struct

import nacl.bindings
import nacl.exceptions
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared_models.errors import SecureSumError

RingArray = npt.NDArray[np.uint32]
KEY_BYTES = 32
_BLOCK_BYTES = 16
_NONCE = bytes(nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES)
_FROM_ZERO = modes.CTR(bytes(16))
SEAL_OVERHEAD_BYTES = 16


class KeyPair:
    """A fresh X25519 pair. `wipe` forgets the secret; after it every use is a SecureSumError."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._key: X25519PrivateKey | None = (
            X25519PrivateKey.generate() if secret is None else X25519PrivateKey.from_private_bytes(secret)
        )
        self.public: bytes = self._key.public_key().public_bytes_raw()

    @property
    def secret(self) -> bytes:
        return self._held().private_bytes_raw()

    def agree(self, public: bytes) -> bytes:
        """The shared secret (RFC 7748 §6.1). Raises SecureSumError for a low-order or malformed point."""
        try:
            return self._held().exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise SecureSumError("a public key is of low order or malformed") from error

    def wipe(self) -> None:
        self._key = None

    def _held(self) -> X25519PrivateKey:
        if self._key is None:
            raise SecureSumError("the secrets of this round were wiped")
        return self._key


def check_public_key(public: bytes) -> None:
    """Raise SecureSumError for a point of low order (RFC 7748 §6.1: the all-zero output) or of the wrong size."""
    KeyPair(_PROBE_SECRET).agree(public)


_PROBE_SECRET = hashlib.sha256(b"tacit low-order probe").digest()


def round_context(task: str, round_id: int, plan_hash: str, roster_root: bytes) -> bytes:
    """32 bytes that stand for this round with this roster in every derived key and signature."""
    name = task.encode()
    return hashlib.sha256(
        b"tacit-secure-sum-v1\0"
        + struct.pack(">IQ", len(name), round_id)
        + name
        + bytes.fromhex(plan_hash)
        + roster_root
    ).digest()


def pair_key(agreed: bytes, context: bytes, purpose: bytes, low: int, high: int) -> bytes:
    """Key of the ordered pair of roster indices `low`, `high` for one purpose."""
    info = purpose + struct.pack(">II", low, high)
    return HKDF(SHA256(), KEY_BYTES, context, info).derive(agreed)


def pairwise_mask_key(agreed: bytes, context: bytes, one: int, other: int) -> bytes:
    """The same at both ends."""
    return pair_key(agreed, context, b"mask", min(one, other), max(one, other))


def self_mask_key(seed: bytes, context: bytes, index: int) -> bytes:
    return pair_key(seed, context, b"self", index, index)


class Masker:
    """Adds and takes out masks of one dimension, in place. Keeps its working memory (2 vectors): not for several threads at once.

    A mask is uint32 [dimension], uniform to whoever does not hold its key (32 bytes).
    """

    def __init__(self, dimension: int) -> None:
        self._zeros = bytes(4 * dimension)
        self._stream = np.zeros(4 * dimension + _BLOCK_BYTES, np.uint8)
        self._mask: RingArray = self._stream[: 4 * dimension].view("<u4")

    def add(self, total: RingArray, key: bytes) -> None:
        np.add(total, self._generate(key), out=total)

    def subtract(self, total: RingArray, key: bytes) -> None:
        np.subtract(total, self._generate(key), out=total)

    def add_pairwise(self, total: RingArray, key: bytes, own: int, other: int) -> None:
        """Add the pair's mask if `own` is the lower index, else subtract it: in a sum of both it vanishes."""
        (self.add if own < other else self.subtract)(total, key)

    def wipe(self) -> None:
        self._stream[:] = 0

    def _generate(self, key: bytes) -> RingArray:
        encryptor = Cipher(algorithms.AES256(key), _FROM_ZERO).encryptor()
        encryptor.update_into(self._zeros, self._stream.data)
        return self._mask


def seal(key: bytes, plain: bytes, associated: bytes) -> bytes:
    """XChaCha20-Poly1305. `key` must seal nothing else: the nonce is zero, so a second message would break both.

    A channel's key comes from two keys that are fresh in each round, and from the ordered pair; a device seals once in a round.
    """
    return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, associated, _NONCE, key)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Raises SecureSumError if it was not sealed with this key and this associated data."""
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, associated, _NONCE, key)
    except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
        raise SecureSumError("an encrypted share does not open") from error
