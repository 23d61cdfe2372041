"""The signed repository on disk: what is published now, and how its next version replaces it (TUF 1.0, python-tuf).

    DIR/trust.json                       the anchor that goes into the app
    DIR/metadata/timestamp.json          the only file that is ever replaced: by rename, last
    DIR/metadata/<n>.<role>.json         root, snapshot, targets, models, rules, privacy-policy
    DIR/targets/<folder>/<sha256>.<name> never changed, never removed

A publication that is killed at any moment leaves the former one whole: nothing refers to a new file before timestamp.json does.
What goes into a release is publish.py's business; this file knows roles, keys, versions, expiry dates and the order of writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import filelock
import nacl.signing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from privacy.keys import load_signing_key
from shared_models.bundle import (
    METADATA_FOLDER,
    MODELS_ROLE,
    POLICY_ROLE,
    POLICY_TARGET,
    RULES_ROLE,
    RULES_TARGET,
    RULES_THRESHOLD,
    TARGETS_FOLDER,
    TARGETS_ROLE,
    TEMPLATES_TARGET,
)
from shared_models.errors import (
    BundleError,
    BundleRollbackError,
    BundleTamperedError,
    BundleUnavailableError,
    ConfigError,
)

DAY_S = 86_400
KEY_NAMES = ("root", "targets", "snapshot", "timestamp", "models", "rules-1", "rules-2")
LOCK_TIMEOUT_S = 30.0
_UNFINISHED = ".unfinished-"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Lifetimes:
    """How long the publisher vouches for what it signs, in seconds."""

    timestamp_s: float = 1 * DAY_S
    """After this without a refresh devices report `stale`."""
    snapshot_s: float = 7 * DAY_S
    targets_s: float = 90 * DAY_S
    """Also of `models` and `rules`; after this devices report `expired`."""
    root_s: float = 365 * DAY_S

    def of(self, role: str) -> float:
        named = {"timestamp": self.timestamp_s, "snapshot": self.snapshot_s, "root": self.root_s}
        return named.get(role, self.targets_s)


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


def write_first_version(
    directory: Path, keyring: Keyring, officer_key: bytes, now: float, lifetimes: Lifetimes
) -> Metadata[Root]:
    """Write version 1 of everything, with no targets yet, into a new folder; returns the root that devices will trust."""
    for folder in (METADATA_FOLDER, TARGETS_FOLDER):
        (directory / folder).mkdir(parents=True)
    root = Root(version=1, expires=_expiry(now, lifetimes.root_s), consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        for signer in keyring.signers(role):
            root.add_key(signer.public_key, role)
    metadata = Metadata(root)
    for signer in keyring.signers("root"):
        metadata.sign(signer, append=True)
    write_durably(directory / METADATA_FOLDER / "1.root.json", metadata.to_bytes())

    def public(role: str) -> list[SSlibKey]:
        return [signer.public_key for signer in keyring.signers(role)]

    delegations = Delegations({}, {})
    for role, threshold, paths, keys in (
        (MODELS_ROLE, 1, ["encoder/*", "tokenizer/*"], public(MODELS_ROLE)),
        (RULES_ROLE, RULES_THRESHOLD, [RULES_TARGET, TEMPLATES_TARGET], public(RULES_ROLE)),
        (POLICY_ROLE, 1, [POLICY_TARGET], [SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(officer_key))]),
    ):
        delegations.roles[role] = DelegatedRole(role, [], threshold, terminating=True, paths=paths)
        for key in keys:
            delegations.roles[role].keyids.append(key.keyid)
            delegations.keys[key.keyid] = key
    roles = {TARGETS_ROLE: Targets(delegations=delegations), MODELS_ROLE: Targets(), RULES_ROLE: Targets()}
    repository = Repository(
        directory,
        root,
        {role: Metadata(targets) for role, targets in roles.items()},
        Snapshot(),
        None,
        now,
        lifetimes,
        keyring,
    )
    for role in roles:
        repository.sign(role, {})
    repository.commit()
    return metadata


class Repository:
    """What is published now, and the next version of it in the making: `add_target`, `sign`, `carry`, then `commit`."""

    def __init__(
        self,
        directory: Path,
        root: Root,
        roles: dict[str, Metadata[Targets]],
        snapshot: Snapshot,
        timestamp: Timestamp | None,
        now: float,
        lifetimes: Lifetimes,
        keyring: Keyring | None,
    ) -> None:
        self.directory = directory
        self.root = root
        self.now = now
        self._roles = roles
        self._snapshot = snapshot
        self._timestamp = timestamp
        self._lifetimes = lifetimes
        self._keyring = keyring
        self._pending: dict[str, bytes] = {}

    @classmethod
    def read(cls, directory: Path, now: float, lifetimes: Lifetimes, keyring: Keyring | None = None) -> Repository:
        """Read what timestamp.json stands for; `keyring` is needed to sign.

        Raises BundleUnavailableError if nothing is here, BundleTamperedError if it is damaged.
        """
        folder = directory / METADATA_FOLDER
        if not (folder / "timestamp.json").exists():
            raise BundleUnavailableError(f"{directory}: no published bundle here; `tacit-fleet build` makes one")
        try:
            root = Metadata[Root].from_file(str(folder / f"{max(versions_on_disk(folder, 'root'))}.root.json")).signed
            timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json")).signed
            number = timestamp.snapshot_meta.version
            snapshot = Metadata[Snapshot].from_file(str(folder / f"{number}.snapshot.json")).signed
            roles = {
                name.removesuffix(".json"): Metadata[Targets].from_file(str(folder / f"{meta.version}.{name}"))
                for name, meta in snapshot.meta.items()
            }
        except (OSError, ValueError, RepositoryError, DeserializationError) as error:
            raise BundleTamperedError(f"{directory}: the published metadata cannot be read: {error}") from error
        return cls(directory, root, roles, snapshot, timestamp, now, lifetimes, keyring)

    def targets_of(self, role: str) -> Mapping[str, TargetFile]:
        """The targets that `role` signs now; none if the role has signed nothing yet."""
        return dict(self._roles[role].signed.targets) if role in self._roles else {}

    def path_of(self, target: TargetFile) -> Path:
        """Where the bytes of a target lie: its name carries its hash."""
        return self.directory / TARGETS_FOLDER / str(target.get_prefixed_paths()[0])

    def read_target(self, role: str, name: str) -> bytes | None:
        """The published bytes of a target, checked; None if there is no such target. Raises BundleTamperedError."""
        target = self.targets_of(role).get(name)
        if target is None:
            return None
        try:
            raw = self.path_of(target).read_bytes()
            target.verify_length_and_hashes(raw)
        except (OSError, RepositoryError) as error:
            raise BundleTamperedError(f"{self.directory}: published target {name} is damaged: {error}") from error
        return raw

    def add_target(self, name: str, source: bytes | Path) -> TargetFile:
        """Store the bytes of a target; nothing refers to them before `commit`."""
        if isinstance(source, bytes):
            target = TargetFile.from_data(name, source, ["sha256"])
        else:
            target = TargetFile.from_file(name, str(source), ["sha256"])
        path = self.path_of(target)
        if not path.exists() or file_sha256(path) != target.hashes["sha256"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, source)
        return target

    def sign(self, role: str, targets: Mapping[str, TargetFile]) -> None:
        """Let `role` sign `targets` from now on. Nothing is done if it does so already and has half of its lifetime left."""
        current = self._roles[role].signed
        if dict(targets) == current.targets and self._timestamp is not None and not self._is_ageing(role):
            return
        self._pending[role] = self._sign(
            role,
            Targets(
                version=self._next_version(role),
                expires=_expiry(self.now, self._lifetimes.targets_s),
                targets=dict(targets),
                delegations=current.delegations,
            ),
        )

    def prolong(self) -> None:
        """Sign anew each role of which less than half of its lifetime is left, if its keys are at hand."""
        for role, metadata in self._roles.items():
            if (
                role != POLICY_ROLE
                and self._is_ageing(role)
                and self._keyring is not None
                and self._keyring.holds(role)
            ):
                self.sign(role, metadata.signed.targets)

    def carry(self, role_metadata: bytes, target: TargetFile) -> None:
        """Take in role `privacy-policy` as the officer signed it over `target`.

        Raises BundleTamperedError if the officer did not sign it, BundleRollbackError if it is not newer than the published.
        """
        current = self._roles.get(POLICY_ROLE)
        if current is not None and current.to_bytes() == role_metadata:
            return
        try:
            metadata = Metadata[Targets].from_bytes(role_metadata)
            targets = self._roles[TARGETS_ROLE].signed
            targets.verify_delegate(POLICY_ROLE, metadata.signed_bytes, metadata.signatures)
        except (RepositoryError, DeserializationError, ValueError) as error:
            raise BundleTamperedError(f"the policy role is not signed by this fleet's officer: {error}") from error
        if metadata.signed.targets != {POLICY_TARGET: target}:
            raise BundleTamperedError("the policy role was signed over another policy than the one given")
        if current is not None and metadata.signed.version <= current.signed.version:
            raise BundleRollbackError(
                f"policy role {metadata.signed.version} is not newer than the published {current.signed.version}"
            )
        self._pending[POLICY_ROLE] = role_metadata

    def commit(self) -> None:
        """Write what is pending, then snapshot, then timestamp.json: with that rename, and not before, it is published."""
        folder = self.directory / METADATA_FOLDER
        for stray in self.directory.rglob(f"{_UNFINISHED}*"):
            stray.unlink()
        meta = {} if self._timestamp is None else dict(self._snapshot.meta)
        for role, raw in self._pending.items():
            meta[f"{role}.json"] = _listed(Metadata[Targets].from_bytes(raw).signed.version, raw)
        snapshot_bytes = b""
        if self._pending or self._is_ageing("snapshot"):
            version = self._next_version("snapshot")
            snapshot = Snapshot(version=version, expires=_expiry(self.now, self._lifetimes.snapshot_s), meta=meta)
            snapshot_bytes = self._sign("snapshot", snapshot)
            snapshot_meta = _listed(version, snapshot_bytes)
        else:
            assert self._timestamp is not None
            snapshot_meta = self._timestamp.snapshot_meta
        timestamp = Timestamp(
            version=1 if self._timestamp is None else self._timestamp.version + 1,
            expires=_expiry(self.now, self._lifetimes.timestamp_s),
            snapshot_meta=snapshot_meta,
        )
        timestamp_bytes = self._sign("timestamp", timestamp)
        # Everything is signed and checked; from here on only the disk can fail.
        for role, raw in self._pending.items():
            write_durably(folder / f"{meta[f'{role}.json'].version}.{role}.json", raw)
        if snapshot_bytes:
            write_durably(folder / f"{snapshot_meta.version}.snapshot.json", snapshot_bytes)
        write_durably(folder / "timestamp.json", timestamp_bytes)
        self._pending = {}

    def next_root(self) -> Path:
        """Write the next root: the same keys, a new expiry date. Needs the root key."""
        root = Root.from_dict(self.root.to_dict())
        root.version += 1
        root.expires = _expiry(self.now, self._lifetimes.root_s)
        path = self.directory / METADATA_FOLDER / f"{root.version}.root.json"
        write_durably(path, self._sign("root", root))
        return path

    def _sign(self, role: str, signed: Root | Timestamp | Snapshot | Targets) -> bytes:
        if self._keyring is None:
            raise ConfigError("this repository was opened for reading: there are no keys to sign with")
        metadata = Metadata(signed)
        for signer in self._keyring.signers(role):
            metadata.sign(signer, append=True)
        delegator = self._roles[TARGETS_ROLE].signed if role in (MODELS_ROLE, RULES_ROLE) else self.root
        try:
            delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise ConfigError(
                f"the {role} keys in {self._keyring.folder} are not this repository's: {error}"
            ) from error
        return bytes(metadata.to_bytes())

    def _next_version(self, role: str) -> int:
        # Past every file that is there, also those of a killed run: a cache may have seen them.
        return max(versions_on_disk(self.directory / METADATA_FOLDER, role), default=0) + 1

    def _is_ageing(self, role: str) -> bool:
        signed = self._snapshot if role == "snapshot" else self._roles[role].signed
        return bool(self._timestamp is None or signed.expires.timestamp() - self.now < self._lifetimes.of(role) / 2)


def versions_on_disk(folder: Path, role: str) -> list[int]:
    """Version numbers of all `<n>.<role>.json` in `folder`, published or left by a killed run."""
    heads = (path.name.removesuffix(f".{role}.json") for path in folder.glob(f"*.{role}.json"))
    return [int(head) for head in heads if head.isdecimal()]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_durably(path: Path, source: bytes | Path) -> None:
    """Write `source` (bytes, or a file to copy) so that `path` is either as before or complete, also after a power cut."""
    unfinished = path.with_name(f"{_UNFINISHED}{path.name}")
    with unfinished.open("wb") as file:
        if isinstance(source, bytes):
            file.write(source)
        else:
            with source.open("rb") as original:
                while chunk := original.read(_CHUNK_BYTES):
                    file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listed(version: int, raw: bytes) -> MetaFile:
    return MetaFile(version, len(raw), {"sha256": hashlib.sha256(raw).hexdigest()})


def _expiry(now: float, lifetime_s: float) -> datetime:
    return (datetime.fromtimestamp(now, UTC) + timedelta(seconds=lifetime_s)).replace(microsecond=0)
