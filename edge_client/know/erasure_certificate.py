"""What is left after an erasure: a signed statement of what was erased and when, without a word about anybody.

It is signed (Ed25519, in a DSSE envelope) by a key that is made for this one certificate and thrown away; the public half is
inside. So it shows that the statement was not altered since, and links to no other one. It does not show who made it: that
somebody erased is known by whoever stood beside it. The caller keeps it, outside the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import nacl.signing

from edge_client.know.consent_record import iso_time
from shared_models.canonical import Envelope, canonical_bytes, key_id, parse_document, seal_envelope
from shared_models.errors import SignatureError, WireError

KIND = "application/vnd.tacit.erasure-certificate+json"
FORMAT = "tacit-erasure-certificate/1"
MAX_CERTIFICATE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ErasureCertificate:
    """One erasure. `to_bytes()` is what to keep; `verify(bytes)` reads it again."""

    store_id: str
    """Random name of the store that was erased, 32 hexadecimal digits."""
    erased_at_s: float
    """Unix time in seconds."""
    records: Mapping[str, int]
    """Table → how many records were in it."""
    commits: int
    """Commits in the life of the store."""
    withstood: tuple[str, ...]
    """What could not be erased, in words (a keyring that refuses); normally empty."""
    files_left: int
    """Files in the store's folder afterwards; they are not the store's."""
    audit: tuple[Mapping[str, Any], ...]
    """The whole trail of exercised rights, this erasure at the end."""
    public_key: bytes
    """Ed25519, 32 bytes."""
    envelope: Envelope

    @classmethod
    def issue(
        cls,
        *,
        store_id: str,
        erased_at_s: float,
        records: Mapping[str, int],
        commits: int,
        withstood: Iterable[str],
        files_left: int,
        audit: Iterable[Mapping[str, Any]],
    ) -> ErasureCertificate:
        """Sign one with a fresh key, of which only the public half remains."""
        key = nacl.signing.SigningKey.generate()
        payload = {
            "format": FORMAT,
            "store_id": store_id,
            "erased_at_s": erased_at_s,
            "erased_at": iso_time(erased_at_s),
            "records": dict(records),
            "commits": commits,
            "withstood": list(withstood),
            "files_left": files_left,
            "audit": [dict(entry) for entry in audit],
            "public_key": bytes(key.verify_key).hex(),
        }
        return cls._parse(seal_envelope(KIND, canonical_bytes(payload), key))

    @classmethod
    def verify(cls, raw: bytes) -> ErasureCertificate:
        """Read a certificate and check its signature. Raises WireError if it is none, SignatureError if it was altered."""
        if not isinstance(raw, bytes):
            raise WireError(f"a certificate is bytes, got {type(raw).__name__}")
        certificate = cls._parse(Envelope.from_bytes(raw, limit_bytes=MAX_CERTIFICATE_BYTES))
        # The signature does not cover the envelope's own spelling: one certificate has one form only.
        if certificate.to_bytes() != raw:
            raise SignatureError("the certificate is not written as it was issued")
        return certificate

    def to_bytes(self) -> bytes:
        """The signed envelope, canonical JSON."""
        return self.envelope.to_bytes()

    def document(self) -> dict[str, Any]:
        """What is stated, as plain JSON."""
        return parse_document(self.envelope.payload, limit_bytes=MAX_CERTIFICATE_BYTES)

    @classmethod
    def _parse(cls, envelope: Envelope) -> ErasureCertificate:
        # The key stands in what it signs: read it first, believe the rest only after the signature.
        body = parse_document(envelope.payload, limit_bytes=MAX_CERTIFICATE_BYTES)
        try:
            public_key = bytes.fromhex(body["public_key"])
            if len(public_key) != 32:
                raise ValueError("the public key does not have 32 bytes")
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"not an erasure certificate: {error!r}") from error
        envelope.open(KIND, public_key)
        if envelope.signer != key_id(public_key):
            raise SignatureError("the certificate names another key than the one inside")
        try:
            if body["format"] != FORMAT:
                raise WireError(f"a certificate of format {str(body['format'])[:60]!r}; this version reads {FORMAT!r}")
            return cls(
                store_id=_text(body["store_id"]),
                erased_at_s=float(body["erased_at_s"]),
                records={_text(name): _count(count) for name, count in body["records"].items()},
                commits=_count(body["commits"]),
                withstood=tuple(_text(words) for words in body["withstood"]),
                files_left=_count(body["files_left"]),
                audit=tuple(dict(entry) for entry in body["audit"]),
                public_key=public_key,
                envelope=envelope,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WireError(f"not an erasure certificate: {error!r}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {type(value).__name__}")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{str(value)[:40]!r} is not a count")
    return value
