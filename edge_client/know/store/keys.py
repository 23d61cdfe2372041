"""Where the store's key comes from, and the key file that wraps it.

    master   32 bytes, from the caller, from a passphrase (Argon2id, RFC 9106) or from the keyring of the operating system
    wrap     derived from master: encrypts the data key (XChaCha20-Poly1305)
    check    derived from master: tells a wrong key from a damaged file
    data     32 random bytes: encrypts the store

The wrapped data key lies in a file of its own that commits never rewrite: overwriting that one file makes every copy of the
store, old blocks of the disk included, unreadable. Nothing here writes a file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nacl.bindings
import nacl.exceptions

from shared_models.canonical import canonical_bytes, canonical_hash, parse_document
from shared_models.errors import (
    ConfigError,
    KeyUnavailableError,
    StoreDamagedError,
    StoreSchemaError,
    WireError,
    WrongKeyError,
)

KEY_NAME = "store.key"
KEY_BYTES = 32
KEY_FORMAT = 1
KEYRING_SERVICE = "tacit"
OPSLIMIT = 2
MEMLIMIT_BYTES = 64 * 1024 * 1024
"""libsodium's "interactive" cost: 64 MiB, two passes, 0.1 s."""
MAX_OPSLIMIT = 10
MAX_MEMLIMIT_BYTES = 1 << 30
MAX_KEY_FILE_BYTES = 16 * 1024


class KeySource(Protocol):
    """One way to come by the master key."""

    kind: str
    """Name in the key file."""

    def create(self, store_id: str) -> tuple[dict[str, Any], bytes]:
        """For a new store: what the key file has to remember, and the master key [32 bytes]."""

    def recall(self, remembered: Mapping[str, Any]) -> bytes:
        """For an existing store: the master key. Raises KeyUnavailableError or StoreDamagedError."""


class RawKey:
    """A key that the app keeps itself, for instance in the secure hardware of the device."""

    kind = "raw"

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            raise ConfigError(f"a raw key has {KEY_BYTES} bytes; for words use a passphrase (str)")
        self._key = key

    def create(self, store_id: str) -> tuple[dict[str, Any], bytes]:
        return {}, self._key

    def recall(self, remembered: Mapping[str, Any]) -> bytes:
        return self._key


class Passphrase:
    """Words that the user types. Argon2id, 64 MiB."""

    kind = "passphrase"

    def __init__(self, passphrase: str) -> None:
        if not isinstance(passphrase, str) or not passphrase.strip():
            raise ConfigError("the passphrase is empty")
        self._passphrase = unicodedata.normalize("NFC", passphrase).encode("utf-8", "replace")

    def create(self, store_id: str) -> tuple[dict[str, Any], bytes]:
        salt = secrets.token_bytes(nacl.bindings.crypto_pwhash_SALTBYTES)
        remembered = {"salt": salt.hex(), "opslimit": OPSLIMIT, "memlimit_bytes": MEMLIMIT_BYTES}
        return remembered, self.recall(remembered)

    def recall(self, remembered: Mapping[str, Any]) -> bytes:
        try:
            salt = bytes.fromhex(remembered["salt"])
            opslimit, memlimit_bytes = remembered["opslimit"], remembered["memlimit_bytes"]
            # A forged cost must not take all the memory of the device.
            if not 1 <= opslimit <= MAX_OPSLIMIT or not 8192 <= memlimit_bytes <= MAX_MEMLIMIT_BYTES:
                raise ValueError("cost out of range")
            master: bytes = nacl.bindings.crypto_pwhash_alg(
                KEY_BYTES,
                self._passphrase,
                salt,
                opslimit,
                memlimit_bytes,
                nacl.bindings.crypto_pwhash_ALG_ARGON2ID13,
            )
        except (KeyError, TypeError, ValueError, nacl.exceptions.CryptoError) as error:
            raise StoreDamagedError(f"the key file's Argon2id parameters cannot be used: {error}") from error
        return master


class SystemKeyring:
    """The keyring of the operating system (Keychain, Credential Locker, Secret Service, KWallet)."""

    kind = "keyring"

    def create(self, store_id: str) -> tuple[dict[str, Any], bytes]:
        import keyring
        import keyring.errors

        _require_backend()
        master = secrets.token_bytes(KEY_BYTES)
        try:
            keyring.set_password(KEYRING_SERVICE, store_id, master.hex())
            if keyring.get_password(KEYRING_SERVICE, store_id) != master.hex():
                raise KeyUnavailableError("the system's keyring does not keep what it is given; use a passphrase")
        except keyring.errors.KeyringError as error:
            raise KeyUnavailableError(f"the system's keyring refused: {error}; use a passphrase") from error
        return {"account": store_id}, master

    def recall(self, remembered: Mapping[str, Any]) -> bytes:
        import keyring
        import keyring.errors

        _require_backend()
        try:
            entry = keyring.get_password(KEYRING_SERVICE, str(remembered.get("account", "")))
        except keyring.errors.KeyringError as error:
            raise KeyUnavailableError(f"the system's keyring refused: {error}") from error
        try:
            master = bytes.fromhex(entry or "")
        except ValueError:
            master = b""
        if len(master) != KEY_BYTES:
            raise KeyUnavailableError("the system's keyring has no key for this store (another user or machine?)")
        return master


def stored_kind(folder: Path) -> str | None:
    """`raw`, `passphrase` or `keyring`: what the store in `folder` was made with; None if there is none. Raises StoreError."""
    try:
        return KeyFile.from_bytes((folder / KEY_NAME).read_bytes()).kind
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreDamagedError(f"{folder}: the key file cannot be read: {error.strerror or error}") from error


def keyring_available() -> bool:
    """True if the operating system offers a keyring to this process."""
    try:
        _require_backend()
    except KeyUnavailableError:
        return False
    return True


def forget_keyring_entry(account: str) -> bool:
    """Remove a store's entry; True if there was one. Raises KeyUnavailableError if the keyring refuses."""
    import keyring
    import keyring.errors

    try:
        _require_backend()
        if keyring.get_password(KEYRING_SERVICE, account) is None:
            return False
        keyring.delete_password(KEYRING_SERVICE, account)
    except keyring.errors.KeyringError as error:
        raise KeyUnavailableError(f"the system's keyring did not remove its entry: {error}") from error
    return True


def _require_backend() -> None:
    import keyring

    # Backends below 1 are the one that always fails and those that keep secrets in the clear.
    if keyring.get_keyring().priority < 1:
        raise KeyUnavailableError("this system offers no keyring; give a passphrase or a key file")


def key_source(key: bytes | str | KeySource | None) -> KeySource:
    """The source behind what a caller gives: 32 raw bytes, a passphrase, None for the system's keyring. Raises ConfigError."""
    if key is None:
        return SystemKeyring()
    if isinstance(key, bytes | bytearray):
        return RawKey(bytes(key))
    if isinstance(key, str):
        return Passphrase(key)
    if not callable(getattr(key, "recall", None)):
        raise ConfigError(
            f"key is a {type(key).__name__}; expected 32 bytes, a passphrase or None (the system's keyring)"
        )
    return key


@dataclass(frozen=True)
class KeyFile:
    """The parsed key file."""

    store_id: str
    """32 hexadecimal digits; part of everything that is authenticated."""
    kind: str
    remembered: Mapping[str, Any]
    check: bytes
    wrapped: bytes

    def to_bytes(self) -> bytes:
        body = {
            "format": KEY_FORMAT,
            "store_id": self.store_id,
            "source": self.kind,
            "remembered": dict(self.remembered),
            "check": self.check.hex(),
            "wrapped": base64.b64encode(self.wrapped).decode(),
        }
        # The digest finds damage, so that damage is not mistaken for a wrong key. It is no protection and needs to be none.
        return canonical_bytes({**body, "sha256": canonical_hash(body)})

    @classmethod
    def from_bytes(cls, raw: bytes) -> KeyFile:
        """Parse. Raises StoreDamagedError, or StoreSchemaError for a newer format."""
        try:
            body = parse_document(raw, limit_bytes=MAX_KEY_FILE_BYTES)
            digest = body.pop("sha256")
            if digest != canonical_hash(body) or canonical_bytes({**body, "sha256": digest}) != raw:
                raise ValueError("its digest does not match")
            if isinstance(body["format"], int) and body["format"] > KEY_FORMAT:
                raise StoreSchemaError(
                    f"the key file has format {body['format']}, this version reads {KEY_FORMAT}: update the app"
                )
            return cls(
                store_id=str(body["store_id"]),
                kind=str(body["source"]),
                remembered=dict(body["remembered"]),
                check=bytes.fromhex(body["check"]),
                wrapped=base64.b64decode(body["wrapped"], validate=True),
            )
        except (WireError, KeyError, TypeError, ValueError, binascii.Error) as error:
            raise StoreDamagedError(f"the key file of the store is damaged: {error}") from error

    @classmethod
    def create(cls, source: KeySource) -> tuple[KeyFile, bytes]:
        """A new store's key file and its data key [32 bytes]."""
        store_id = secrets.token_hex(16)
        remembered, master = source.create(store_id)
        data_key = secrets.token_bytes(KEY_BYTES)
        nonce = secrets.token_bytes(nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES)
        sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            data_key, _wrap_context(store_id, source.kind), nonce, derive(master, "wrap", store_id)
        )
        check = derive(master, "check", store_id)[:16]
        return cls(store_id, source.kind, remembered, check, nonce + sealed), data_key

    def unlock(self, source: KeySource) -> bytes:
        """The data key [32 bytes]. Raises WrongKeyError, KeyUnavailableError, StoreDamagedError."""
        if source.kind != self.kind:
            raise WrongKeyError(f"this store was made with {_spoken(self.kind)}, not with {_spoken(source.kind)}")
        master = source.recall(self.remembered)
        if not secrets.compare_digest(derive(master, "check", self.store_id)[:16], self.check):
            raise WrongKeyError(
                f"this {_spoken(self.kind).split(' ', 1)[1]} does not open the store; nothing was changed"
            )
        size_bytes = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
        try:
            data_key: bytes = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                self.wrapped[size_bytes:],
                _wrap_context(self.store_id, self.kind),
                self.wrapped[:size_bytes],
                derive(master, "wrap", self.store_id),
            )
        except (nacl.exceptions.CryptoError, ValueError) as error:
            raise StoreDamagedError("the wrapped key in the key file was changed") from error
        return data_key


def derive(key: bytes, use: str, store_id: str) -> bytes:
    """A key [32 bytes] for one use, from `key` [32 bytes]: keyed BLAKE2b (RFC 7693)."""
    return hashlib.blake2b(
        f"{use}:{store_id}".encode(), key=key, digest_size=KEY_BYTES, person=b"tacit-store-1"
    ).digest()


def _wrap_context(store_id: str, kind: str) -> bytes:
    return canonical_bytes(["tacit-key", KEY_FORMAT, store_id, kind])


def _spoken(kind: str) -> str:
    return {"raw": "a raw key", "passphrase": "a passphrase", "keyring": "the system's keyring"}.get(
        kind, f"a {kind!r}"
    )
