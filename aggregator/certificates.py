"""The fleet's own certificate authority, the server's certificate, and keys for stock SuperNodes. All made with `cryptography`.

Devices trust this one authority and no other. `ca.key` is needed again only to renew the server's certificate: it may be moved
off the machine.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared_models.errors import ConfigError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 825
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""Always part of the server's certificate: the SuperLink is reached by them."""


@dataclass(frozen=True)
class FleetCertificates:
    """Files of one fleet."""

    authority: Path
    """CA certificate, PEM: what devices are given."""
    certificate: Path
    """Server certificate, PEM."""
    key: Path
    """Server's private key, PEM, mode 0600."""

    @classmethod
    def of(cls, directory: Path) -> FleetCertificates:
        """The files of a fleet that has them. Raises ConfigError."""
        found = cls(directory / "ca.pem", directory / "server.pem", directory / "server.key")
        for path in (found.authority, found.certificate, found.key):
            if not path.is_file():
                raise ConfigError(f"{path}: missing; `tacit-fleet init` makes a fleet's certificates")
        return found


def create_fleet_ca(directory: Path, hostnames: Sequence[str] = ()) -> FleetCertificates:
    """Write ca.pem, ca.key, server.pem and server.key for `hostnames` (names or IP addresses) and loopback.

    Raises ConfigError rather than overwrite one of them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    authority_key, authority = _authority(now)
    server_key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(name) for name in dict.fromkeys([*LOOPBACK_NAMES, *hostnames])]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name("Tacit fleet server"))
        .issuer_name(authority.subject)
        .public_key(server_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=SERVER_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(server_key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    _write_new(directory / "ca.key", _private_pem(authority_key), 0o600)
    _write_new(directory / "ca.pem", authority.public_bytes(pem), 0o644)
    _write_new(directory / "server.key", _private_pem(server_key), 0o600)
    _write_new(directory / "server.pem", certificate.public_bytes(pem), 0o644)
    return FleetCertificates.of(directory)


def create_node_key(path: Path) -> bytes:
    """Write a P-384 key for a stock SuperNode to `path` (OpenSSH format, mode 0600); returns its public key, PEM.

    Raises ConfigError rather than overwrite. Embedded agents make their own keys, which never leave the device.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    _write_new(path, private, 0o600)
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def check_node_public_key(pem: bytes) -> bytes:
    """The canonical PEM of a P-384 public key. Raises ConfigError."""
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise ConfigError("a node's public key is a PEM file; `tacit-device enrol` writes one") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError("a node's public key is an elliptic-curve key over P-384; `tacit-device enrol` writes one")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _authority(now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("Tacit fleet authority")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signature=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return key, certificate


def _key_usage(*, signature: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        key_cert_sign=not signature,
        crl_sign=not signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise ConfigError(f"{name[:200]!r} is not a host name or an IP address") from error


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; keys and certificates are never overwritten") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
