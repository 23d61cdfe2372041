"""The former format of the store's file, read once and brought forward: one sealed JSON document, replaced by each commit.

magic · length · header · checksum · nonce · XChaCha20-Poly1305(JSON)
associated data: all before the nonce; the header names format, schema, store and counter
"""

from __future__ import annotations

import json
from typing import Any

import nacl.bindings
import nacl.exceptions

from edge_client.know.store.frames import NONCE_BYTES
from shared_models.errors import StoreDamagedError

WHOLE_FORMAT = 1


def unseal_whole(
    raw: bytes, head: dict[str, Any], end: int, store_id: str, data_key: bytes
) -> tuple[int, int, dict[str, Any]]:
    """Schema, counter and tables of a file whose header `head` ends at `end`. Raises StoreDamagedError."""
    schema, counter = (_number(head.get(name)) for name in ("schema", "counter"))
    if head.get("store_id") != store_id:
        raise StoreDamagedError("the store's file belongs to another store than its key file")
    nonce, sealed = raw[end : end + NONCE_BYTES], raw[end + NONCE_BYTES :]
    try:
        plain = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, raw[:end], nonce, data_key)
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise StoreDamagedError("the contents of the store's file were changed or cut") from error
    try:
        tables = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise StoreDamagedError(f"the store's contents are not JSON: {error}") from error
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise StoreDamagedError("the store's contents are not tables")
    return schema, counter, tables


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 50:
        raise StoreDamagedError("the header of the store's file cannot be read: a number is out of range")
    return value
