"""Where the master key of a store comes from: the caller, a passphrase (Argon2id, RFC 9106), the keyring of the system.

Nothing here writes a file.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Mapping
from typing import Any, Protocol

import nacl.bindings
import nacl.exceptions

from shared_models.errors import ConfigError, KeyUnavailableError, StoreDamagedError

KEY_BYTES = 32
KEYRING_SERVICE = "tacit"
OPSLIMIT = 2
MEMLIMIT_BYTES = 64 * 1024 * 1024
"""libsodium's "interactive" cost: 64 MiB, two passes, 0.1 s."""
MAX_OPSLIMIT = 10
MAX_MEMLIMIT_BYTES = 1 << 30


class KeySource(Protocol):
    """One way to come by the master key."""

    kind: str
    """Name in the key file."""

    def create(self, store_id: str) -> tuple[dict[str, Any], bytes]:
        """For a new store: what the key file has to remember, and the master key [32 bytes]."""

    def recall(self, remembered: Mapping[str, Any]) -> bytes:
        """For an existing store: the master key. Raises KeyUnavailableError or StoreDamagedError."""


class RawKey:
    """A key that the app keeps itself, for instance in the secure hardware of the device."""

    kind = "raw"

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            raise ConfigError(f"a raw key has {KEY_BYTES} bytes; for words use a passphrase (str)")
        self._key = key

    def create(self, store_id: str) -> tuple[dict[str, Any], bytes]:
        return {}, self._key

    def recall(self, remembered: Mapping[str, Any]) -> bytes:
        return self._key


class Passphrase:
    """Words that the user types. Argon2id, 64 MiB."""

    kind = "passphrase"

    def __init__(self, passphrase: str) -> None:
        if not isinstance(passphrase, str) or not passphrase.strip():
            raise ConfigError("the passphrase is empty")
        self._passphrase = unicodedata.normalize("NFC", passphrase).encode("utf-8", "replace")

    def create(self, store_id: str) -> tuple[dict[str, Any], bytes]:
        salt = secrets.token_bytes(nacl.bindings.crypto_pwhash_SALTBYTES)
        remembered = {"salt": salt.hex(), "opslimit": OPSLIMIT, "memlimit_bytes": MEMLIMIT_BYTES}
        return remembered, self.recall(remembered)

    def recall(self, remembered: Mapping[str, Any]) -> bytes:
        try:
            salt = bytes.fromhex(remembered["salt"])
            opslimit, memlimit_bytes = remembered["opslimit"], remembered["memlimit_bytes"]
            # A forged cost must not take all the memory of the device.
            if not 1 <= opslimit <= MAX_OPSLIMIT or not 8192 <= memlimit_bytes <= MAX_MEMLIMIT_BYTES:
                raise ValueError("cost out of range")
            master: bytes = nacl.bindings.crypto_pwhash_alg(
                KEY_BYTES,
                self._passphrase,
                salt,
                opslimit,
                memlimit_bytes,
                nacl.bindings.crypto_pwhash_ALG_ARGON2ID13,
            )
        except (KeyError, TypeError, ValueError, nacl.exceptions.CryptoError) as error:
            raise StoreDamagedError(f"the key file's Argon2id parameters cannot be used: {error}") from error
        return master


class SystemKeyring:
    """The keyring of the operating system (Keychain, Credential Locker, Secret Service, KWallet)."""

    kind = "keyring"

    def create(self, store_id: str) -> tuple[dict[str, Any], bytes]:
        import keyring
        import keyring.errors

        _require_backend()
        master = secrets.token_bytes(KEY_BYTES)
        try:
            keyring.set_password(KEYRING_SERVICE, store_id, master.hex())
            if keyring.get_password(KEYRING_SERVICE, store_id) != master.hex():
                raise KeyUnavailableError("the system's keyring does not keep what it is given; use a passphrase")
        except keyring.errors.KeyringError as error:
            raise KeyUnavailableError(f"the system's keyring refused: {error}; use a passphrase") from error
        return {"account": store_id}, master

    def recall(self, remembered: Mapping[str, Any]) -> bytes:
        import keyring
        import keyring.errors

        _require_backend()
        try:
            entry = keyring.get_password(KEYRING_SERVICE, str(remembered.get("account", "")))
        except keyring.errors.KeyringError as error:
            raise KeyUnavailableError(f"the system's keyring refused: {error}") from error
        try:
            master = bytes.fromhex(entry or "")
        except ValueError:
            master = b""
        if len(master) != KEY_BYTES:
            raise KeyUnavailableError("the system's keyring has no key for this store (another user or machine?)")
        return master


def keyring_available() -> bool:
    """True if the operating system offers a keyring to this process."""
    try:
        _require_backend()
    except KeyUnavailableError:
        return False
    return True


def forget_keyring_entry(account: str) -> bool:
    """Remove a store's entry; True if there was one. Raises KeyUnavailableError if the keyring refuses."""
    import keyring
    import keyring.errors

    try:
        _require_backend()
        if keyring.get_password(KEYRING_SERVICE, account) is None:
            return False
        keyring.delete_password(KEYRING_SERVICE, account)
    except keyring.errors.KeyringError as error:
        raise KeyUnavailableError(f"the system's keyring did not remove its entry: {error}") from error
    return True


def _require_backend() -> None:
    import keyring

    # Backends below 1 are the one that always fails and those that keep secrets in the clear.
    if keyring.get_keyring().priority < 1:
        raise KeyUnavailableError("this system offers no keyring; give a passphrase or a key file")


def key_source(key: bytes | str | KeySource | None) -> KeySource:
    """The source behind what a caller gives: 32 raw bytes, a passphrase, None for the system's keyring. Raises ConfigError."""
    if key is None:
        return SystemKeyring()
    if isinstance(key, bytes | bytearray):
        return RawKey(bytes(key))
    if isinstance(key, str):
        return Passphrase(key)
    if not callable(getattr(key, "recall", None)):
        raise ConfigError(
            f"key is a {type(key).__name__}; expected 32 bytes, a passphrase or None (the system's keyring)"
        )
    return key
