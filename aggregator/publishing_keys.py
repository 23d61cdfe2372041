"""The publisher's secret keys, and the one lock under which anything is published."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock
import nacl.signing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from privacy.keys import load_signing_key
from shared_models.bundle import RULES_ROLE
from shared_models.errors import BundleError

KEY_NAMES = ("root", "targets", "snapshot", "timestamp", "models", "rules-1", "rules-2", "context")
LOCK_TIMEOUT_S = 30.0


class Keyring:
    """The publisher's secret keys: NAME.key files of privacy/keys.py in one folder. The officer's is not among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def signers(self, role: str) -> list[CryptoSigner]:
        """All keys of `role`. Raises ConfigError if one is missing."""
        return [_signer(load_signing_key(path)) for path in self._paths(role)]

    def holds(self, role: str) -> bool:
        """True if every key of `role` is here."""
        return all(path.exists() for path in self._paths(role))

    def _paths(self, role: str) -> list[Path]:
        names = ("rules-1", "rules-2") if role == RULES_ROLE else (role,)
        return [self.folder / f"{name}.key" for name in names]


def _signer(key: nacl.signing.SigningKey) -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes(key)))


@contextlib.contextmanager
def only_publisher(keys_dir: Path) -> Iterator[None]:
    """Hold the one lock under which anything is published. Raises BundleError if another process holds it for long."""
    # One instance for each path: a thread that holds it (the registry) may enter again (publish).
    lock = filelock.FileLock(keys_dir / "publish.lock", timeout=LOCK_TIMEOUT_S, is_singleton=True)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise BundleError(f"another process has been publishing with {keys_dir} for {LOCK_TIMEOUT_S:g} s") from error
    try:
        yield
    finally:
        lock.release()
