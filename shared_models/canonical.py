"""The one canonical encoding (RFC 8785, JCS) and the signed envelope (DSSE) around it.

Everything that is hashed, signed or sent is a JSON value in this encoding, so that a client in another language can follow.
Large arrays travel beside it as raw little-endian bytes, bound by their SHA-256. Nothing is ever unpickled.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nacl.exceptions
import nacl.signing
import rfc8785

from shared_models.errors import SignatureError, WireError

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024


def canonical_bytes(value: Any) -> bytes:
    """Encode JSON-like `value` (dict, list, tuple, str, int within ±2^53, finite float, bool, None) by RFC 8785.

    A float without a fraction reads back as the int of the same encoding.

    Raises WireError for anything else, NaN and infinities among them.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeEncodeError) as error:
        raise WireError(f"not a canonical JSON value: {error}") from error


def canonical_hash(value: Any) -> str:
    """SHA-256 of the canonical encoding, in hexadecimal."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()


def parse_document(raw: bytes, *, limit_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
    """Parse a JSON object from an untrusted source. Raises WireError; duplicate keys and NaN are errors."""
    if len(raw) > limit_bytes:
        raise WireError(f"document has {len(raw)} bytes, at most {limit_bytes} are accepted")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_pairs, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not a JSON document: {error}") from error
    if not isinstance(value, dict):
        raise WireError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def key_id(public_key: bytes) -> str:
    """Name of an Ed25519 public key (32 bytes): the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


@dataclass(frozen=True)
class Envelope:
    """A signed document: DSSE v1 (github.com/secure-systems-lab/dsse), one Ed25519 signature.

    `kind` is part of what is signed, so that a signature over a policy can never pass for one over a plan.
    """

    kind: str
    payload: bytes
    signer: str
    signature: bytes

    def document(self) -> dict[str, Any]:
        return {
            "payloadType": self.kind,
            "payload": base64.b64encode(self.payload).decode(),
            "signatures": [{"keyid": self.signer, "sig": base64.b64encode(self.signature).decode()}],
        }

    def to_bytes(self) -> bytes:
        return canonical_bytes(self.document())

    @property
    def hash(self) -> str:
        """SHA-256 of what was signed (kind and payload), in hexadecimal: the same whoever signed it."""
        return hashlib.sha256(_pre_authentication_encoding(self.kind, self.payload)).hexdigest()

    @classmethod
    def from_bytes(cls, raw: bytes, *, limit_bytes: int = MAX_DOCUMENT_BYTES) -> Envelope:
        return cls.from_document(parse_document(raw, limit_bytes=limit_bytes))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Envelope:
        try:
            (signature,) = document["signatures"]
            return cls(
                kind=_text(document["payloadType"]),
                payload=base64.b64decode(_text(document["payload"]), validate=True),
                signer=_text(signature["keyid"]),
                signature=base64.b64decode(_text(signature["sig"]), validate=True),
            )
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise WireError(f"not a signed envelope with one signature: {error!r}") from error

    def open(self, kind: str, public_key: bytes) -> bytes:
        """Return the payload if it is of `kind` and was signed by `public_key` (Ed25519, 32 bytes); else SignatureError."""
        if self.kind != kind:
            raise SignatureError(f"expected a signed {kind}, got {self.kind}")
        try:
            nacl.signing.VerifyKey(public_key).verify(
                _pre_authentication_encoding(self.kind, self.payload), self.signature
            )
        except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError, nacl.exceptions.TypeError) as error:
            raise SignatureError(
                f"the signature over this {kind} is not by key {key_id(public_key)} (it says {self.signer[:40]!r})"
            ) from error
        return self.payload


def seal_envelope(kind: str, payload: bytes, signing_key: nacl.signing.SigningKey) -> Envelope:
    """Sign `payload` as a document of `kind`."""
    signature = signing_key.sign(_pre_authentication_encoding(kind, payload)).signature
    return Envelope(kind, payload, key_id(bytes(signing_key.verify_key)), signature)


def _pre_authentication_encoding(kind: str, payload: bytes) -> bytes:
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {type(value).__name__}")
    return value
