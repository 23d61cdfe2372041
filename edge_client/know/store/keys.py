"""The key file: the store's keys, wrapped. Where the master key comes from lies in key_sources.py.

    master   32 bytes, from a KeySource
    wrap     derived from master: encrypts the data key (XChaCha20-Poly1305)
    check    derived from master: tells a wrong key from a damaged file
    data     32 random bytes: from it are derived the keys of the store's own records, of prefixes, tables and counter, and
             the one that wraps the purposes' keys
    purpose  32 random bytes for each purpose: encrypts the records of its tables

All wrapped keys lie in this one file and nowhere else: a purpose's key that is no longer in it, or the whole file once
overwritten, makes every copy of what it sealed unreadable, old blocks of the disk included. A copy of the key file itself is
another matter: whoever keeps one, and the master key, keeps what it wrapped. Nothing here writes a file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nacl.bindings
import nacl.exceptions

from edge_client.know.store.key_sources import (
    KEY_BYTES,
    KeySource,
    Passphrase,
    RawKey,
    SystemKeyring,
    forget_keyring_entry,
    key_source,
    keyring_available,
)
from shared_models.canonical import canonical_bytes, canonical_hash, parse_document
from shared_models.errors import (
    InputError,
    StoreDamagedError,
    StoreSchemaError,
    StoreWriteError,
    WireError,
    WrongKeyError,
)

__all__ = [
    "KEY_NAME",
    "KeyFile",
    "KeySet",
    "KeySource",
    "Keys",
    "Passphrase",
    "RawKey",
    "SystemKeyring",
    "derive",
    "forget_keyring_entry",
    "key_source",
    "keyring_available",
    "stored_kind",
]

KEY_NAME = "store.key"
KEY_FORMAT = 2
MAX_KEY_FILE_BYTES = 64 * 1024
MAX_PURPOSES = 100
MAX_PURPOSE_CHARACTERS = 100
_NONCE_BYTES = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES


def stored_kind(folder: Path) -> str | None:
    """`raw`, `passphrase` or `keyring`: what the store in `folder` was made with; None if there is none. Raises StoreError."""
    try:
        return KeyFile.from_bytes((folder / KEY_NAME).read_bytes()).kind
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreDamagedError(f"{folder}: the key file cannot be read: {error.strerror or error}") from error


def derive(key: bytes, use: str, store_id: str) -> bytes:
    """A key [32 bytes] for one use, from `key` [32 bytes]: keyed BLAKE2b (RFC 7693)."""
    return hashlib.blake2b(
        f"{use}:{store_id}".encode(), key=key, digest_size=KEY_BYTES, person=b"tacit-store-1"
    ).digest()


@dataclass(frozen=True)
class KeySet:
    """One generation of keys, unwrapped."""

    epoch: int
    data: bytes = field(repr=False)
    purposes: Mapping[str, tuple[int, bytes]] = field(default_factory=dict, repr=False)
    """Name → (number, key). Numbers grow and are never used again: one below `next_number` that is missing was destroyed."""
    next_number: int = 1

    @classmethod
    def fresh(cls, epoch: int, like: KeySet | None = None) -> KeySet:
        """New random keys, for the same purposes under the same numbers as `like`."""
        purposes = {} if like is None else like.purposes
        return cls(
            epoch,
            secrets.token_bytes(KEY_BYTES),
            {name: (number, secrets.token_bytes(KEY_BYTES)) for name, (number, _) in purposes.items()},
            1 if like is None else like.next_number,
        )

    def with_purpose(self, name: str) -> KeySet:
        """The same and a key for purpose `name`. Raises StoreWriteError when there are too many."""
        if len(self.purposes) >= MAX_PURPOSES:
            raise StoreWriteError(f"the store has {MAX_PURPOSES} purposes already")
        added = {**self.purposes, name: (self.next_number, secrets.token_bytes(KEY_BYTES))}
        return replace(self, purposes=added, next_number=self.next_number + 1)

    def without_purpose(self, name: str) -> KeySet:
        return replace(self, purposes={known: pair for known, pair in self.purposes.items() if known != name})

    def number(self, purpose: str | None) -> int | None:
        """The number of a purpose's key; 0 for no purpose; None if there is no such key."""
        return 0 if purpose is None else self.purposes.get(purpose, (None,))[0]

    def name(self, number: int) -> str | None:
        return next((name for name, (known, _) in self.purposes.items() if known == number), None)

    def key(self, number: int) -> bytes | None:
        return next((key for known, key in self.purposes.values() if known == number), None)

    def is_destroyed(self, number: int) -> bool:
        return 0 < number < self.next_number and self.key(number) is None


def check_purpose(purpose: object) -> str:
    """`purpose` as the name of one. Raises InputError."""
    if not isinstance(purpose, str) or not 0 < len(purpose) <= MAX_PURPOSE_CHARACTERS or not purpose.isprintable():
        raise InputError(f"a purpose is 1 to {MAX_PURPOSE_CHARACTERS} printable characters, not {purpose!r:.60}")
    return purpose


@dataclass(frozen=True)
class Keys:
    """The open key file: everything that is needed to use the store's keys and to write the file again."""

    store_id: str
    kind: str
    remembered: Mapping[str, Any]
    check: bytes
    wrap_key: bytes = field(repr=False)
    sets: tuple[KeySet, ...]
    """One; two while a rotation is under way, the older first."""

    def wrapped(self) -> KeyFile:
        """The key file that says this, wrapped afresh."""
        sets = []
        for keys in self.sets:
            inner = derive(keys.data, "purposes", self.store_id)
            sets.append(
                WrappedSet(
                    keys.epoch,
                    _wrap(self.wrap_key, keys.data, _context(KEY_FORMAT, self.store_id, self.kind, keys.epoch)),
                    {
                        name: (number, _wrap(inner, key, _purpose_context(self.store_id, keys.epoch, name, number)))
                        for name, (number, key) in keys.purposes.items()
                    },
                    keys.next_number,
                )
            )
        return KeyFile(self.store_id, self.kind, self.remembered, self.check, tuple(sets))


@dataclass(frozen=True)
class WrappedSet:
    """One generation of keys as it lies in the key file."""

    epoch: int
    data: bytes
    purposes: Mapping[str, tuple[int, bytes]]
    next_number: int


@dataclass(frozen=True)
class KeyFile:
    """The parsed key file."""

    store_id: str
    """32 hexadecimal digits; part of everything that is authenticated."""
    kind: str
    remembered: Mapping[str, Any]
    check: bytes
    sets: tuple[WrappedSet, ...]
    format: int = KEY_FORMAT

    def to_bytes(self) -> bytes:
        sets = [
            {
                "epoch": keys.epoch,
                "data": base64.b64encode(keys.data).decode(),
                "purposes": {
                    name: {"number": number, "key": base64.b64encode(key).decode()}
                    for name, (number, key) in keys.purposes.items()
                },
                "next_number": keys.next_number,
            }
            for keys in self.sets
        ]
        body = {
            "format": KEY_FORMAT,
            "store_id": self.store_id,
            "source": self.kind,
            "remembered": dict(self.remembered),
            "check": self.check.hex(),
            "sets": sets,
        }
        # The digest finds damage, so that damage is not mistaken for a wrong key. It is no protection and needs to be none.
        return canonical_bytes({**body, "sha256": canonical_hash(body)})

    @classmethod
    def from_bytes(cls, raw: bytes) -> KeyFile:
        """Parse, this format or the former. Raises StoreDamagedError, or StoreSchemaError for a newer format."""
        try:
            body = parse_document(raw, limit_bytes=MAX_KEY_FILE_BYTES)
            digest = body.pop("sha256")
            if digest != canonical_hash(body) or canonical_bytes({**body, "sha256": digest}) != raw:
                raise ValueError("its digest does not match")
            if isinstance(body["format"], int) and body["format"] > KEY_FORMAT:
                raise StoreSchemaError(
                    f"the key file has format {body['format']}, this version reads {KEY_FORMAT}: update the app"
                )
            if body["format"] == 1:
                sets: tuple[WrappedSet, ...] = (WrappedSet(1, _decode(body["wrapped"]), {}, 1),)
            else:
                sets = tuple(_wrapped_set(item) for item in body["sets"])
            if not 1 <= len(sets) <= 2:
                raise ValueError("it has no keys")
            return cls(
                store_id=str(body["store_id"]),
                kind=str(body["source"]),
                remembered=dict(body["remembered"]),
                check=bytes.fromhex(body["check"]),
                sets=sets,
                format=int(body["format"]),
            )
        except (WireError, KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise StoreDamagedError(f"the key file of the store is damaged: {error}") from error

    @classmethod
    def create(cls, source: KeySource) -> Keys:
        """The keys of a new store."""
        store_id = secrets.token_hex(16)
        remembered, master = source.create(store_id)
        check = derive(master, "check", store_id)[:16]
        return Keys(
            store_id, source.kind, remembered, check, derive(master, "wrap", store_id), (KeySet.fresh(epoch=1),)
        )

    def unlock(self, source: KeySource) -> Keys:
        """The keys. Raises WrongKeyError, KeyUnavailableError, StoreDamagedError."""
        if source.kind != self.kind:
            raise WrongKeyError(f"this store was made with {_spoken(self.kind)}, not with {_spoken(source.kind)}")
        master = source.recall(self.remembered)
        if not secrets.compare_digest(derive(master, "check", self.store_id)[:16], self.check):
            raise WrongKeyError(
                f"this {_spoken(self.kind).split(' ', 1)[1]} does not open the store; nothing was changed"
            )
        wrap_key = derive(master, "wrap", self.store_id)
        sets = []
        for wrapped in self.sets:
            data = _unwrap(wrap_key, wrapped.data, _context(self.format, self.store_id, self.kind, wrapped.epoch))
            inner = derive(data, "purposes", self.store_id)
            purposes = {
                name: (number, _unwrap(inner, key, _purpose_context(self.store_id, wrapped.epoch, name, number)))
                for name, (number, key) in wrapped.purposes.items()
            }
            sets.append(KeySet(wrapped.epoch, data, purposes, wrapped.next_number))
        return Keys(self.store_id, self.kind, self.remembered, self.check, wrap_key, tuple(sets))


def _wrapped_set(item: Mapping[str, Any]) -> WrappedSet:
    purposes = {
        str(name): (_number(entry["number"]), _decode(entry["key"])) for name, entry in item["purposes"].items()
    }
    return WrappedSet(_number(item["epoch"]), _decode(item["data"]), purposes, _number(item["next_number"]))


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise ValueError("a number is out of range")
    return value


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _wrap(key: bytes, secret: bytes, context: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(secret, context, nonce, key)


def _unwrap(key: bytes, wrapped: bytes, context: bytes) -> bytes:
    try:
        secret: bytes = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            wrapped[_NONCE_BYTES:], context, wrapped[:_NONCE_BYTES], key
        )
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise StoreDamagedError("a wrapped key in the key file was changed") from error
    return secret


def _context(format_: int, store_id: str, kind: str, epoch: int) -> bytes:
    return canonical_bytes(["tacit-key", format_, store_id, kind, *([epoch] if format_ > 1 else [])])


def _purpose_context(store_id: str, epoch: int, name: str, number: int) -> bytes:
    return canonical_bytes(["tacit-purpose", KEY_FORMAT, store_id, epoch, name, number])


def _spoken(kind: str) -> str:
    return {"raw": "a raw key", "passphrase": "a passphrase", "keyring": "the system's keyring"}.get(
        kind, f"a {kind!r}"
    )
