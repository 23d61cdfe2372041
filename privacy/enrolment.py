"""Enrolment: an authority that the operators do not hold certifies each device's identity, one per user and period.

Whoever can certify devices at will can fill a cohort with its own: this key belongs to the officer's side, or to the app's
account system, never to those who run the rounds. The register beside the key is what keeps a user who erases a device and
enrols anew from starting with a fresh budget; it names users by a salted hash only.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import math
import os
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nacl.exceptions
import nacl.signing

from privacy.keys import load_signing_key, new_key_pair
from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import CertificateError, ConfigError, WireError

_STATEMENT = b"tacit-enrolment-certificate-v1\0"
CLOCK_SLACK_S = 300
MAX_DAYS = 3660
REST_DAYS = 90
"""The period of a drafted policy."""
FORMAT = 1


@dataclass(frozen=True)
class Certificate:
    """The authority's word that an identity key belongs to an enrolled user of a fleet, for a time (Unix seconds)."""

    fleet: str
    identity_key: bytes
    """Ed25519, 32 bytes."""
    not_before_s: int
    not_after_s: int
    signature: bytes
    """64 bytes."""

    @classmethod
    def from_parts(
        cls, fleet: str, identity_key: bytes, not_before_s: int, not_after_s: int, signature: bytes
    ) -> Certificate:
        return cls(fleet, identity_key, not_before_s, not_after_s, signature)

    def check(self, enrolment_key: bytes, fleet: str, now_s: float) -> None:
        """Raise CertificateError unless the authority signed this, for `fleet`, and it is in force at `now_s`."""
        if self.fleet != fleet:
            raise CertificateError(f"the certificate is for fleet {self.fleet[:60]!r}, not {fleet[:60]!r}")
        if not _is_signed(self, enrolment_key):
            raise CertificateError("the certificate is not signed by the enrolment authority that the policy names")
        if not self.not_before_s - CLOCK_SLACK_S <= now_s < self.not_after_s:
            raise CertificateError("the certificate is not in force now; ask the enrolment authority for a new one")

    def document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "fleet": self.fleet,
            "identity": self.identity_key.hex(),
            "not_before_s": self.not_before_s,
            "not_after_s": self.not_after_s,
            "signature": self.signature.hex(),
        }

    def to_bytes(self) -> bytes:
        return canonical_bytes(self.document())

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Certificate:
        """Raises CertificateError for anything that is not a certificate's document."""
        try:
            if document["format"] != FORMAT or len(document) != 6:
                raise ValueError("format")
            fleet, not_before_s, not_after_s = (document[name] for name in ("fleet", "not_before_s", "not_after_s"))
            identity, signature = bytes.fromhex(document["identity"]), bytes.fromhex(document["signature"])
            if not (isinstance(fleet, str) and type(not_before_s) is int and type(not_after_s) is int):
                raise ValueError("types")
            if len(identity) != 32 or len(signature) != 64 or not 0 <= not_before_s < not_after_s < 1 << 40:
                raise ValueError("ranges")
        except (KeyError, TypeError, ValueError) as error:
            raise CertificateError("not an enrolment certificate, or one of another format") from error
        return cls(fleet, identity, not_before_s, not_after_s, signature)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Certificate:
        try:
            return cls.from_document(parse_document(raw, limit_bytes=64 * 1024))
        except WireError as error:
            raise CertificateError(f"not an enrolment certificate: {error}") from error


def issue_certificate(
    authority: nacl.signing.SigningKey, fleet: str, identity_key: bytes, not_before_s: int, not_after_s: int
) -> Certificate:
    """Certify an identity. Who may be certified, and how often, is `EnrolmentRegister`'s to keep."""
    unsigned = Certificate(fleet, identity_key, not_before_s, not_after_s, bytes(64))
    signature = authority.sign(_statement(unsigned)).signature
    return Certificate(fleet, identity_key, not_before_s, not_after_s, signature)


class EnrolmentRegister:
    """The authority's folder: its key pair, a salt, and register.jsonl, to which each certificate is appended, durably.

    One writer at a time. Raises ConfigError if the folder or a line of the register cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = load_signing_key(folder / "enrolment.key")
        try:
            self._salt = bytes.fromhex((folder / "register.salt").read_text(encoding="ascii").strip())
            if len(self._salt) != 32:
                raise ValueError("length")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder / 'register.salt'}: cannot be used: {error}") from error

    @classmethod
    def create(cls, folder: Path) -> EnrolmentRegister:
        """Make a fresh authority. Raises ConfigError rather than overwrite one."""
        new_key_pair(folder, "enrolment")
        descriptor = os.open(folder / "register.salt", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return cls(folder)

    @property
    def public_key(self) -> bytes:
        return bytes(self._key.verify_key)

    def certify(
        self, fleet: str, user: str, identity_key: bytes, now_s: float, days: int, rest_days: int = REST_DAYS
    ) -> Certificate:
        """The certificate of `user` (any reference that is unique to a person) for the device with `identity_key`.

        The same device gets its certificate again, and a new one when that is over. Another device of the same user gets none
        before `rest_days` have passed since then, which must be no less than the policy's period: a device that was erased has
        spent what it spent, and no window of a period may hold the budgets of two. Raises CertificateError.
        """
        if (
            not user
            or not fleet
            or len(identity_key) != 32
            or not (1 <= days <= MAX_DAYS and 0 <= rest_days <= MAX_DAYS)
        ):
            raise CertificateError(f"a certificate needs a fleet, a user, an identity key and 1 to {MAX_DAYS} days")
        name = hmac.new(self._salt, user.encode(), hashlib.sha256).hexdigest()
        for known, certificate in self.entries():
            same_device = certificate.identity_key == identity_key
            if certificate.fleet != fleet:
                continue
            if known == name and same_device and now_s < certificate.not_after_s:
                return certificate
            free_s = certificate.not_after_s + rest_days * 86_400
            if known == name and not same_device and now_s < free_s:
                raise CertificateError(
                    "this user has a certificate for another device, in force or over for less than a period: one per user "
                    f"and period; the next device can be certified in {math.ceil((free_s - now_s) / 86_400)} days"
                )
            if same_device and known != name:
                raise CertificateError("this identity is certified for another user")
        certificate = issue_certificate(self._key, fleet, identity_key, int(now_s), int(now_s) + days * 86_400)
        line = canonical_bytes({"user": name, "certificate": certificate.document()}) + b"\n"
        path = self._folder / "register.jsonl"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # What a crash left of a line that was never handed out is overwritten.
            whole = path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(descriptor, whole)
            os.pwrite(descriptor, line, whole)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return certificate

    def entries(self) -> list[tuple[str, Certificate]]:
        """(salted hash of the user, certificate), oldest first. A last line that a crash cut off was never handed out."""
        path = self._folder / "register.jsonl"
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")
        result = []
        for number, line in enumerate(lines[:-1], 1):
            try:
                document = json.loads(line)
                certificate = Certificate.from_document(document["certificate"])
                if not _is_signed(certificate, self.public_key):
                    raise ValueError("signature")
                result.append((str(document["user"]), certificate))
            except (ValueError, KeyError, TypeError, CertificateError) as error:
                raise ConfigError(f"{path}: line {number} is damaged; restore it from a copy") from error
        return result


@functools.lru_cache(maxsize=1 << 14)
def _is_signed(certificate: Certificate, enrolment_key: bytes) -> bool:
    """Pure, so remembered: in a simulation many devices of one process check the same certificate."""
    try:
        nacl.signing.VerifyKey(enrolment_key).verify(_statement(certificate), certificate.signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError, nacl.exceptions.TypeError):
        return False
    return True


def _statement(certificate: Certificate) -> bytes:
    fleet = hashlib.sha256(certificate.fleet.encode()).digest()
    times = struct.pack(">QQ", certificate.not_before_s, certificate.not_after_s)
    return _STATEMENT + fleet + certificate.identity_key + times
