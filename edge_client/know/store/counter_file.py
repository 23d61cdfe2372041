"""The bytes of the counter's file, as pure functions: two slots of 64 bytes, written in turn.

A slot holds a value and a keyed BLAKE2b over value and store. A torn write can only hurt the older of the two.
"""

from __future__ import annotations

import hashlib
import struct

COUNTER_NAME = "store.counter"
SLOT_BYTES = 64
_COUNTER = struct.Struct("<Q")


def counter_slot(counter: int, store_id: str, counter_key: bytes) -> tuple[int, bytes]:
    """Offset and bytes of the slot for `counter`."""
    value = _COUNTER.pack(counter)
    tag = hashlib.blake2b(value + store_id.encode(), key=counter_key, digest_size=32, person=b"tacit-counter").digest()
    return SLOT_BYTES * (counter % 2), (value + tag).ljust(SLOT_BYTES, b"\0")


def counter_bytes(counter: int, store_id: str, counter_key: bytes) -> bytes:
    """A whole new file that says `counter`."""
    offset, slot = counter_slot(counter, store_id, counter_key)
    return slot.rjust(offset + SLOT_BYTES, b"\0").ljust(2 * SLOT_BYTES, b"\0")


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
