"""The officer's own role in the published bundle: TUF metadata that only the officer can sign.

The operators carry these bytes as they are; they hold no key that could change them. Reading and judging the policy itself is
policy.py's work.
"""

from __future__ import annotations

from datetime import UTC, datetime

import nacl.signing

from shared_models.bundle import MAX_VERSION, POLICY_TARGET, max_target_bytes
from shared_models.canonical import Envelope
from shared_models.errors import PolicyError, SignatureError, WireError


def sign_policy_role(
    officer_key: nacl.signing.SigningKey, policy_envelope_bytes: bytes, version: int, expires: datetime
) -> bytes:
    """Sign the TUF metadata of role `privacy-policy` over one policy envelope.

    `version` must grow with every policy (its sequence number serves); `expires` is a time with a zone, after which devices
    ask for a newer one. Devices do not judge the policy by `expires` but by the policy's own date.
    Raises PolicyError if the envelope is not signed by `officer_key` or an argument is out of range.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata, TargetFile, Targets

    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= MAX_VERSION:
        raise PolicyError(f"policy role: version is {str(version)[:80]!r}, expected a whole number from 1")
    if expires.tzinfo is None:
        raise PolicyError("policy role: expires needs a time zone, for example UTC")
    if len(policy_envelope_bytes) > max_target_bytes(POLICY_TARGET):
        raise PolicyError(f"policy role: the envelope has {len(policy_envelope_bytes)} bytes, too many")
    try:
        envelope = Envelope.from_bytes(policy_envelope_bytes)
        envelope.open(envelope.kind, bytes(officer_key.verify_key))
    except (WireError, SignatureError) as error:
        raise PolicyError(f"policy role: not an envelope signed by this officer: {error}") from error
    signed = Targets(
        version=version,
        expires=expires.astimezone(UTC).replace(microsecond=0),
        targets={POLICY_TARGET: TargetFile.from_data(POLICY_TARGET, policy_envelope_bytes, ["sha256"])},
    )
    metadata = Metadata(signed)
    metadata.sign(CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes(officer_key))))
    return bytes(metadata.to_bytes())
