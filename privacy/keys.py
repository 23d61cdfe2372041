"""Ed25519 key pairs as files: NAME.key (secret, mode 0600) and NAME.pub (hexadecimal, may be handed out).

The officer's secret key belongs on a machine of the officer's; nothing here sends or copies one.
"""

from __future__ import annotations

import os
from pathlib import Path

import nacl.signing

from shared_models.canonical import key_id
from shared_models.errors import ConfigError

_HEADER = "tacit-ed25519-secret-key:"


def new_key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a fresh pair into `folder`; returns (secret, public). Raises ConfigError rather than overwrite a key."""
    secret, public = folder / f"{name}.key", folder / f"{name}.pub"
    if not name or not name.isprintable() or "/" in name or "\\" in name or name.startswith("."):
        raise ConfigError(f"{name!r} is not a name for a key")
    key = nacl.signing.SigningKey.generate()
    try:
        if secret.exists() or public.exists():
            raise ConfigError(f"{secret}: exists already; keys are never overwritten")
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(secret, f"{_HEADER}{bytes(key).hex()}\n", 0o600)
        _write_new(public, f"{bytes(key.verify_key).hex()}\n", 0o644)
    except OSError as error:
        raise ConfigError(f"{secret}: cannot be written: {error}") from error
    return secret, public


def load_signing_key(path: Path) -> nacl.signing.SigningKey:
    """Read NAME.key. Raises ConfigError."""
    text = _read(path)
    if not text.startswith(_HEADER):
        raise ConfigError(f"{path}: not a secret key file of Tacit; `tacit-privacy keys new` makes one")
    return nacl.signing.SigningKey(_decode(path, text.removeprefix(_HEADER)))


def load_public_key(path: Path) -> bytes:
    """Read NAME.pub: 32 bytes. Raises ConfigError."""
    return _decode(path, _read(path))


def fingerprint(public_key: bytes) -> str:
    """What people compare: the key's id in groups of four."""
    name = key_id(public_key)
    return " ".join(name[start : start + 4] for start in range(0, len(name), 4))


def _write_new(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a key: {error}") from error


def _decode(path: Path, text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise ConfigError(f"{path}: expected 64 hexadecimal digits of an Ed25519 key")
    return raw
