"""The bytes of the store's file and of its counter, as pure functions: no file is opened here.

    store    magic · length · header · checksum · nonce · XChaCha20-Poly1305(JSON)
             associated data: all before the nonce; the header names format, schema, store and counter
    counter  two slots of 64 bytes, written in turn: value and a keyed BLAKE2b over value and store

The checksum tells damage from a newer version; the cipher's tag is what protects.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from dataclasses import dataclass
from typing import Any

import nacl.bindings
import nacl.exceptions

from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import StoreDamagedError, StoreSchemaError, StoreWriteError, WireError

MAGIC = b"TACITSTR"
FORMAT = 1
MAX_HEADER_BYTES = 4096
MAX_STORE_BYTES = 256 * 1024 * 1024
SLOT_BYTES = 64
_CHECKSUM_BYTES = 16
_NONCE_BYTES = 24
_LENGTH = struct.Struct("<I")
_COUNTER = struct.Struct("<Q")


@dataclass(frozen=True)
class Header:
    """What stands in the clear before the sealed contents, and is authenticated with them."""

    schema: int
    store_id: str
    counter: int
    """Grows by one with each commit."""


def encode_tables(tables: dict[str, Any]) -> bytes:
    """The contents as JSON. Raises StoreWriteError for what JSON cannot say."""
    try:
        return json.dumps(tables, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreWriteError(f"the store keeps JSON values only: {error}") from error


def decode_tables(plain: bytes) -> dict[str, Any]:
    """The contents back. Raises StoreDamagedError."""
    try:
        tables = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise StoreDamagedError(f"the store's contents are not JSON: {error}") from error
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise StoreDamagedError("the store's contents are not tables")
    return tables


def seal(header: Header, plain: bytes, data_key: bytes) -> bytes:
    """The bytes of the store's file. `data_key` has 32 bytes."""
    document = {"format": FORMAT, "schema": header.schema, "store_id": header.store_id, "counter": header.counter}
    raw = canonical_bytes(document)
    head = MAGIC + _LENGTH.pack(len(raw)) + raw
    head += hashlib.blake2b(head, digest_size=_CHECKSUM_BYTES).digest()
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return head + nonce + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, head, nonce, data_key)


def unseal(raw: bytes, store_id: str, data_key: bytes) -> tuple[Header, bytes]:
    """Header and plain contents. Raises StoreDamagedError, or StoreSchemaError for a newer format."""
    start = len(MAGIC) + _LENGTH.size
    if len(raw) < start or not raw.startswith(MAGIC):
        raise StoreDamagedError("the store's file does not begin as one: it was changed or cut")
    (length,) = _LENGTH.unpack_from(raw, len(MAGIC))
    end = start + length + _CHECKSUM_BYTES
    if length > MAX_HEADER_BYTES or len(raw) < end + _NONCE_BYTES:
        raise StoreDamagedError("the store's file was changed or cut")
    head, nonce, sealed = raw[:end], raw[end : end + _NONCE_BYTES], raw[end + _NONCE_BYTES :]
    checksum = hashlib.blake2b(head[:-_CHECKSUM_BYTES], digest_size=_CHECKSUM_BYTES).digest()
    if checksum != head[-_CHECKSUM_BYTES:]:
        raise StoreDamagedError("the header of the store's file was changed")
    header = _parse_header(raw[start : start + length])
    if header.store_id != store_id:
        raise StoreDamagedError("the store's file belongs to another store than its key file")
    try:
        plain: bytes = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, head, nonce, data_key)
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise StoreDamagedError("the contents of the store's file were changed or cut") from error
    return header, plain


def _parse_header(raw: bytes) -> Header:
    try:
        document = parse_document(raw, limit_bytes=MAX_HEADER_BYTES)
        if document["format"] != FORMAT:
            raise StoreSchemaError(
                f"the store's file has format {document['format']}, this version reads format {FORMAT}: update the app"
            )
        header = Header(document["schema"], document["store_id"], document["counter"])
        for number in (header.schema, header.counter):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 1 << 50:
                raise ValueError("a number is out of range")
    except (WireError, KeyError, ValueError) as error:
        raise StoreDamagedError(f"the header of the store's file cannot be read: {error}") from error
    return header


def counter_slot(counter: int, store_id: str, counter_key: bytes) -> tuple[int, bytes]:
    """Offset and bytes of the slot for `counter`: a torn write can only hurt the older of the two."""
    value = _COUNTER.pack(counter)
    tag = hashlib.blake2b(value + store_id.encode(), key=counter_key, digest_size=32, person=b"tacit-counter").digest()
    return SLOT_BYTES * (counter % 2), (value + tag).ljust(SLOT_BYTES, b"\0")


def read_counter(raw: bytes, store_id: str, counter_key: bytes) -> int | None:
    """The highest value that one of the two slots vouches for; None if neither does."""
    values = []
    for offset in (0, SLOT_BYTES):
        slot = raw[offset : offset + SLOT_BYTES]
        if len(slot) == SLOT_BYTES:
            (value,) = _COUNTER.unpack_from(slot)
            if (offset, slot) == counter_slot(value, store_id, counter_key):
                values.append(value)
    return max(values, default=None)
