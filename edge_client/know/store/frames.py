"""The bytes of the store's file, as pure functions: no file is opened here.

    file   magic · length · header · checksum, then boxes to the end
    header canonical JSON: format, schema, store, epoch (which generation of keys)
    box    prefix (66 bytes) · nonce · XChaCha20-Poly1305(body)
    prefix mark · kind · number of the purpose's key · counter · part, of · tag of the table · length · keyed BLAKE2b
    body   the table's name, then a line for a key and a line for its value, both JSON; an empty value deletes the key; an
           empty key clears the table first

A snapshot is `of` boxes of one counter; after it each commit is `of` boxes (one for each table) of the next counter. Associated
data of a box: schema, store, and its prefix (so table, counter and place). The tag is a keyed hash of the table's name, which is
itself in the sealed body: whoever reads the disk sees how much was written, and which boxes are of one table, but not of which.
The header's checksum tells damage from a newer version; the boxes' tags are what protects.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

import nacl.bindings
import nacl.exceptions

from edge_client.know.store.keys import derive
from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import StoreDamagedError, StoreSchemaError, StoreWriteError, WireError

MAGIC = b"TACITSTR"
FORMAT = 2
MAX_HEADER_BYTES = 4096
CHUNK_BYTES = 256 * 1024
"""About so much of one table goes into one box of a snapshot: few boxes to open, little lost when one is damaged."""

MARK = b"\xf5TacitB\xa6"
SNAPSHOT, COMMIT = 1, 2
CHECKSUM_BYTES = 16
NONCE_BYTES = 24
LENGTH = struct.Struct("<I")
_FIELDS = struct.Struct("<8sHIQII16sI")
_MAC_BYTES = 16
PREFIX_BYTES = _FIELDS.size + _MAC_BYTES

Op = tuple[str | None, bytes | None]
"""(key, JSON of the value): put; (key, None): delete; (None, None): clear the table."""


@dataclass(frozen=True)
class Header:
    """What stands in the clear at the beginning of the file."""

    schema: int
    store_id: str
    epoch: int
    """Which generation of keys sealed the boxes; grows by one with each rotation."""

    def to_bytes(self) -> bytes:
        raw = canonical_bytes({"format": FORMAT, "schema": self.schema, "store_id": self.store_id, "epoch": self.epoch})
        head = MAGIC + LENGTH.pack(len(raw)) + raw
        return head + hashlib.blake2b(head, digest_size=CHECKSUM_BYTES).digest()


def split_head(raw: bytes) -> tuple[dict[str, Any], int]:
    """The header's document, of whatever format, and where it ends. Raises StoreDamagedError."""
    start = len(MAGIC) + LENGTH.size
    if len(raw) < start or not raw.startswith(MAGIC):
        raise StoreDamagedError("the store's file does not begin as one: it was changed or cut")
    (length,) = LENGTH.unpack_from(raw, len(MAGIC))
    end = start + length + CHECKSUM_BYTES
    if length > MAX_HEADER_BYTES or len(raw) < end:
        raise StoreDamagedError("the store's file was changed or cut")
    checksum = hashlib.blake2b(raw[: end - CHECKSUM_BYTES], digest_size=CHECKSUM_BYTES).digest()
    if checksum != raw[end - CHECKSUM_BYTES : end]:
        raise StoreDamagedError("the header of the store's file was changed")
    try:
        return parse_document(raw[start : start + length], limit_bytes=MAX_HEADER_BYTES), end
    except WireError as error:
        raise StoreDamagedError(f"the header of the store's file cannot be read: {error}") from error


def read_header(document: dict[str, Any]) -> Header:
    """The header of a file of this format. Raises StoreDamagedError, or StoreSchemaError for a newer format."""
    try:
        if isinstance(document["format"], int) and document["format"] > FORMAT:
            raise StoreSchemaError(
                f"the store's file has format {document['format']}, this version reads format {FORMAT}: update the app"
            )
        header = Header(document["schema"], document["store_id"], document["epoch"])
        for number in (header.schema, header.epoch):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 1 << 31:
                raise ValueError("a number is out of range")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamagedError(f"the header of the store's file cannot be read: {error}") from error
    return header


class Prefix(NamedTuple):
    """What stands in the clear before a box."""

    kind: int
    """SNAPSHOT or COMMIT."""
    purpose: int
    """Number of the purpose's key; 0: the store's own."""
    counter: int
    part: int
    of: int
    tag: bytes
    length: int
    """Bytes after the prefix."""

    @property
    def place(self) -> tuple[int, int, int]:
        return self.kind, self.counter, self.part


class Body(NamedTuple):
    """What a box holds, in the clear."""

    table: str
    purpose: int
    plain: bytes


class Sealer:
    """Seals and opens the boxes of one store under one generation of keys.

    `keys(number)`: a purpose's key, or None. It is asked once for each: whoever changes keys makes a new sealer.
    """

    def __init__(self, header: Header, data_key: bytes, keys: Callable[[int], bytes | None]) -> None:
        self.header = header
        self._keys = keys
        self._own_key = derive(data_key, "records", header.store_id)
        self._prefix_key = derive(data_key, "prefix", header.store_id)
        self._tag_key = derive(data_key, "table", header.store_id)
        self._bound = struct.pack("<16sII", b"tacit-record", FORMAT, header.schema) + header.store_id.encode()
        self.tag = functools.lru_cache(maxsize=256)(self._tag)
        self.key = functools.lru_cache(maxsize=256)(self._key)

    def _key(self, purpose: int) -> bytes | None:
        return self._keys(purpose) if purpose else self._own_key

    def seal(self, kind: int, counter: int, bodies: Sequence[Body]) -> Iterable[bytes]:
        """The boxes of one commit or of one snapshot, one by one."""
        for index, body in enumerate(bodies):
            key = self.key(body.purpose)
            if key is None:
                raise StoreWriteError(f"table {body.table!r} is of a purpose whose key is gone")
            length = NONCE_BYTES + len(body.plain) + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES
            fields = _FIELDS.pack(MARK, kind, body.purpose, counter, index, len(bodies), self.tag(body.table), length)
            prefix = fields + self._mac(fields)
            nonce = secrets.token_bytes(NONCE_BYTES)
            sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
                body.plain, self._bound + prefix, nonce, key
            )
            yield prefix + nonce + sealed

    def open(self, raw: bytes, start: int, prefix: Prefix) -> bytes | None:
        """The plain body of the box at `start`; None if it was changed or its key is gone."""
        key = self.key(prefix.purpose)
        begin, end = start + PREFIX_BYTES, start + PREFIX_BYTES + prefix.length
        if key is None or end > len(raw) or prefix.length < NONCE_BYTES:
            return None
        try:
            plain: bytes = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                raw[begin + NONCE_BYTES : end], self._bound + raw[start:begin], raw[begin : begin + NONCE_BYTES], key
            )
        except (nacl.exceptions.CryptoError, ValueError):
            return None
        return plain

    def authentic(self, raw: bytes, start: int) -> bool:
        """True if the prefix at `start` was written by this store: then what it says of a damaged box can be believed."""
        end = start + _FIELDS.size
        return secrets.compare_digest(self._mac(raw[start:end]), raw[end : end + _MAC_BYTES])

    def _mac(self, fields: bytes) -> bytes:
        return hashlib.blake2b(fields, key=self._prefix_key, digest_size=_MAC_BYTES).digest()

    def _tag(self, table: str) -> bytes:
        return hashlib.blake2b(table.encode("utf-8", "surrogatepass"), key=self._tag_key, digest_size=16).digest()


@dataclass
class Scan:
    """What was found in a file."""

    boxes: dict[tuple[int, int, int], tuple[Prefix, bytes]] = field(default_factory=dict)
    """Place → what verifies."""
    destroyed: dict[tuple[int, int, int], Prefix] = field(default_factory=dict)
    """Boxes whose purpose's key was destroyed: they can and shall not be read."""
    damaged: dict[tuple[int, int, int], Prefix] = field(default_factory=dict)
    """Boxes that do not verify, but whose prefix does."""
    odd: list[tuple[int, int]] = field(default_factory=list)
    """From where to where there are bytes that belong to no sound box, or to one that is there already."""
    spans: dict[tuple[int, int, int], tuple[int, int]] = field(default_factory=dict)
    """Place → from where to where in the file, of boxes that verify or were destroyed."""
    out_of_order: bool = False

    def prefixes(self) -> Iterable[Prefix]:
        yield from (prefix for prefix, _ in self.boxes.values())
        yield from self.destroyed.values()
        yield from self.damaged.values()


def scan(raw: bytes, start: int, sealer: Sealer, is_destroyed: Callable[[int], bool]) -> Scan:
    """All boxes from `start` on. After damage it goes on at the next mark, so one bad box hides no other."""
    found, position, size, latest = Scan(), start, len(raw), (0, 0, 0)
    # Zeros at the end are room that was reserved (but a last box may itself end in some).
    said = len(raw.rstrip(b"\0"))
    while position < said:
        prefix = _prefix_at(raw, position)
        if prefix is not None and (place := prefix.place) not in found.spans:
            end = position + PREFIX_BYTES + prefix.length
            plain = sealer.open(raw, position, prefix)
            believed = plain is not None or sealer.authentic(raw, position)
            if plain is not None:
                found.boxes[place] = prefix, plain
                found.damaged.pop(place, None)
            elif believed and end <= size and is_destroyed(prefix.purpose):
                found.destroyed[place] = prefix
            elif believed:
                found.damaged[place] = prefix
            if place in found.boxes or place in found.destroyed:
                found.spans[place] = position, end
                found.out_of_order |= place < latest
                latest, position = place, end
                continue
        following = raw.find(MARK, position + 1)
        following = said if following < 0 else following
        if found.odd and found.odd[-1][1] == position:
            found.odd[-1] = found.odd[-1][0], following
        else:
            found.odd.append((position, following))
        position = following
    return found


def _prefix_at(raw: bytes, position: int) -> Prefix | None:
    if len(raw) - position < PREFIX_BYTES:
        return None
    mark, kind, purpose, counter, index, of, tag, length = _FIELDS.unpack_from(raw, position)
    if mark != MARK or kind not in (SNAPSHOT, COMMIT):
        return None
    return Prefix(kind, purpose, counter, index, of, tag, length)


# -- bodies ------------------------------------------------------------------------------------------------------------


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def encode_value(value: Any) -> bytes:
    """One line of JSON. Raises StoreWriteError for what JSON cannot say."""
    try:
        return _ENCODER.encode(value).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreWriteError(f"the store keeps JSON values only: {error}") from error


def encode_ops(table: str, ops: Iterable[Op]) -> bytes:
    """The body of a commit's box."""
    lines = [encode_basestring_ascii(table).encode()]
    for key, value in ops:
        lines += b"" if key is None else encode_basestring_ascii(key).encode(), value or b""
    return b"\n".join(lines)


def encode_chunks(table: str, rows: dict[str, bytes]) -> Iterable[bytes]:
    """The bodies of a table in a snapshot, each of about CHUNK_BYTES; one even if it is empty."""
    name = encode_basestring_ascii(table).encode()
    lines, size = [name], 0
    for key, value in rows.items():
        if size > CHUNK_BYTES:
            yield b"\n".join(lines)
            lines, size = [name], 0
        lines += encode_basestring_ascii(key).encode(), value
        size += len(key) + len(value)
    yield b"\n".join(lines)


def decode_body(plain: bytes) -> tuple[str, list[str | None], list[bytes | None]]:
    """The table's name, and keys and values of what is to be done to it, in order. `plain` has been authenticated."""
    name, *lines = plain.split(b"\n")
    keys, values = lines[::2], lines[1::2]
    try:
        if len(keys) != len(values):
            raise ValueError("keys and values do not pair")
        joined = b"\n".join(keys)
        if b"\\" in joined or b"" in keys:
            texts = [None if not key else str(json.loads(key)) for key in keys]
        else:
            # Nothing is escaped in most keys: then a whole chunk is decoded at once.
            texts = [text[1:-1] for text in joined.decode("ascii").split("\n")] if keys else []
        table = json.loads(name)
        if not isinstance(table, str):
            raise ValueError("the name of the table is none")
    except ValueError as error:
        raise StoreDamagedError(f"a box of the store does not hold records: {error}") from error
    return table, texts, [value or None for value in values]
