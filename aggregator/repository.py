"""The signed repository on disk: what is published now, and how its next version replaces it (TUF 1.0, python-tuf).

    DIR/trust.json                       the anchor that goes into the app
    DIR/metadata/timestamp.json          the only file that is ever replaced: by rename, last
    DIR/metadata/<n>.<role>.json         root, snapshot, targets, models, rules, privacy-policy, context
    DIR/targets/<folder>/<sha256>.<name> never changed, never removed

A publication that is killed at any moment leaves the former one whole: nothing refers to a new file before timestamp.json does.
What goes into a release is publish.py's business; this file knows roles, keys, versions, expiry dates and the order of writing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from aggregator.durable_files import UNFINISHED, file_sha256, write_durably
from aggregator.publishing_keys import Keyring
from shared_models.bundle import (
    CONTEXT_ROLE,
    DELEGATED_PATHS,
    METADATA_FOLDER,
    MODELS_ROLE,
    POLICY_ROLE,
    POLICY_TARGET,
    RULES_ROLE,
    RULES_THRESHOLD,
    TARGETS_FOLDER,
    TARGETS_ROLE,
)
from shared_models.errors import (
    BundleRollbackError,
    BundleTamperedError,
    BundleUnavailableError,
    ConfigError,
)

DAY_S = 86_400


@dataclass(frozen=True)
class Lifetimes:
    """How long the publisher vouches for what it signs, in seconds."""

    timestamp_s: float = 1 * DAY_S
    """After this without a refresh devices report `stale`."""
    snapshot_s: float = 7 * DAY_S
    targets_s: float = 90 * DAY_S
    """Also of `models` and `rules`; after this devices report `expired`."""
    root_s: float = 365 * DAY_S
    context_s: float = 3 * DAY_S
    """Of role `context` alone: after this devices call the feed old, and nothing else."""

    def of(self, role: str) -> float:
        named = {
            "timestamp": self.timestamp_s,
            "snapshot": self.snapshot_s,
            "root": self.root_s,
            CONTEXT_ROLE: self.context_s,
        }
        return named.get(role, self.targets_s)


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

    officer = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(officer_key))
    delegations = Delegations({}, {})
    for role in DELEGATED_PATHS:
        keys = [officer] if role == POLICY_ROLE else [signer.public_key for signer in keyring.signers(role)]
        _delegate(delegations, role, keys)
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


def _delegate(delegations: Delegations, role: str, keys: Sequence[Key]) -> None:
    threshold = RULES_THRESHOLD if role == RULES_ROLE else 1
    paths = list(DELEGATED_PATHS[role])
    delegations.roles[role] = DelegatedRole(role, [key.keyid for key in keys], threshold, terminating=True, paths=paths)
    for key in keys:
        delegations.keys[key.keyid] = key


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
        self._delegations: Delegations | None = None

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

    def delegates(self, role: str) -> bool:
        """True if the published targets role names `role`."""
        delegations = self._roles[TARGETS_ROLE].signed.delegations
        return delegations is not None and role in (delegations.roles or {})

    def delegate(self) -> None:
        """Delegate what this version knows and the published targets role does not yet: role `context`, optional targets.

        It is signed with the next `sign` of role `targets`. Raises ConfigError without the new role's key.
        """
        targets = self._roles[TARGETS_ROLE].signed
        if targets.delegations is None or targets.delegations.roles is None or self._keyring is None:
            raise BundleTamperedError(f"{self.directory}: its targets role delegates nothing")
        changed = Delegations.from_dict(targets.delegations.to_dict())
        roles = changed.roles or {}
        for role, paths in DELEGATED_PATHS.items():
            if role not in roles:
                _delegate(changed, role, [signer.public_key for signer in self._keyring.signers(role)])
            else:
                roles[role].paths = list(paths)
        self._delegations = changed

    def sign(self, role: str, targets: Mapping[str, TargetFile]) -> None:
        """Let `role` sign `targets` from now on. Nothing is done if it does so already and has half of its lifetime left."""
        current = self._roles[role].signed if role in self._roles else Targets(version=1, targets={})
        delegations = self._delegations if role == TARGETS_ROLE and self._delegations else current.delegations
        unchanged = dict(targets) == current.targets and delegations == current.delegations and role in self._roles
        if unchanged and self._timestamp is not None and not self._is_ageing(role):
            return
        self._pending[role] = self._sign(
            role,
            Targets(
                version=self._next_version(role),
                expires=_expiry(self.now, self._lifetimes.of(role)),
                targets=dict(targets),
                delegations=delegations,
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
        for stray in self.directory.rglob(f"{UNFINISHED}*"):
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
        delegator: Root | Targets = self.root
        if role in DELEGATED_PATHS:
            delegator = Targets(delegations=self._delegations or self._roles[TARGETS_ROLE].signed.delegations)
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


def _listed(version: int, raw: bytes) -> MetaFile:
    return MetaFile(version, len(raw), {"sha256": hashlib.sha256(raw).hexdigest()})


def _expiry(now: float, lifetime_s: float) -> datetime:
    return (datetime.fromtimestamp(now, UTC) + timedelta(seconds=lifetime_s)).replace(microsecond=0)
