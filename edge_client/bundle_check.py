"""What makes a bundle trustworthy: TUF's client workflow (python-tuf), and what this project asks beyond it.

Beyond TUF: each target may come only from its own role, although the roles above could list it too; rules need two different
keys; the policy is the officer's alone, by the key that the device pinned and whoever delegates; the manifest binds encoder,
tokenizer, head and policy to each other; an optional target must be what its name says, or the whole bundle is refused. Role
`context` may be older than its publisher vouches for: its age is told apart and spoils nothing else. This is the only file of the
device that loads tuf, and only while it refreshes. Nothing here decides what is active: it fills a staging folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_client.bundle_source import Source
from shared_models.bundle import (
    CONTEXT_ROLE,
    FEED_TARGET,
    MANIFEST_TARGET,
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
    Manifest,
    TrustAnchor,
    is_optional_target,
    is_target_name,
    max_target_bytes,
    owner_of_target,
)
from shared_models.canonical import Envelope
from shared_models.errors import (
    BundleExpiredError,
    BundleRollbackError,
    BundleTamperedError,
    BundleUnavailableError,
    SignatureError,
    WireError,
)
from shared_models.optional_targets import check_targets

MAX_TIMESTAMP_BYTES = 16 * 1024
MAX_ROOT_BYTES = 64 * 1024
_LIMITS = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=8,
    root_max_length=MAX_ROOT_BYTES,
    timestamp_max_length=MAX_TIMESTAMP_BYTES,
    snapshot_max_length=64 * 1024,
    targets_max_length=256 * 1024,
)
_BEFORE_ALL_EXPIRY = datetime.min.replace(tzinfo=UTC)

ReuseFile = Callable[[str, int], Path | None]
"""(sha256, size in bytes) -> a file that is here already and sound, or None."""


@dataclass(frozen=True)
class CheckedBundle:
    """A bundle of which every byte was verified."""

    manifest: Manifest
    files: Mapping[str, Path]
    """Target -> where its bytes lie: newly fetched, or reused."""
    root_version: int
    fresh_until_s: float
    """Unix time in seconds until which the publisher vouches that this is the newest."""
    valid_until_s: float
    """Until which it vouches for the contents."""
    context_until_s: float | None
    """Until which it vouches for what role `context` signed; None if that signs nothing."""


def check_bundle(
    source: Source, anchor: TrustAnchor, metadata: Path, downloads: Path, reuse: ReuseFile, now_s: float
) -> CheckedBundle:
    """Fetch and verify the newest bundle of `source` at Unix time `now_s`.

    `metadata` holds what was trusted before (or nothing) and is brought up to date; `downloads` receives new files, named by
    hash. A folder that the app vouches for may be out of date: it is verified in all but its age.
    Raises BundleUnavailableError, BundleExpiredError, BundleRollbackError, BundleTamperedError; OSError if the disk fails.
    """
    with _typed_errors():
        updater = Updater(
            str(metadata),
            f"{METADATA_FOLDER}/",
            str(downloads),
            f"{TARGETS_FOLDER}/",
            fetcher=_Fetcher(source),
            config=_LIMITS,
            bootstrap=anchor.root_bytes,
        )
        _judge_age_at(updater, _BEFORE_ALL_EXPIRY if source.vouched else datetime.fromtimestamp(now_s, UTC))
        updater.refresh()
        fetch = _TargetReader(updater, metadata, anchor, downloads, reuse)
        manifest_path = fetch(MANIFEST_TARGET)
        if manifest_path is None:
            raise BundleUnavailableError("nothing has been published there yet")
        manifest = Manifest.from_bytes(manifest_path.read_bytes())
        files = {MANIFEST_TARGET: manifest_path}
        for name, digest in (
            (manifest.head_target, manifest.head_sha256),
            (RULES_TARGET, None),
            (TEMPLATES_TARGET, None),
            (manifest.tokenizer_target, manifest.tokenizer_sha256),
            (manifest.encoder_target, manifest.encoder_sha256),
        ):
            path = fetch(name, digest)
            if path is None:
                raise BundleTamperedError(f"the bundle lacks {name}, which its manifest needs")
            files[name] = path
        for role in (TARGETS_ROLE, MODELS_ROLE, RULES_ROLE):
            files |= fetch.optional(role)
        # From here on age is no matter: what follows is judged by dates of its own.
        _judge_age_at(updater, _BEFORE_ALL_EXPIRY)
        context = _fetch_context(fetch, metadata)
        files |= context
        check_targets(files)
        policy = _fetch_policy(fetch, metadata, anchor, manifest)
        if policy is not None:
            files[POLICY_TARGET] = policy
        ages = {
            role: signed.expires.timestamp()
            for role, signed in (
                ("root", Metadata[Root].from_file(str(metadata / "root.json")).signed),
                ("timestamp", Metadata[Timestamp].from_file(str(metadata / "timestamp.json")).signed),
                ("snapshot", Metadata[Snapshot].from_file(str(metadata / "snapshot.json")).signed),
                *((role, fetch.role(role)) for role in (TARGETS_ROLE, MODELS_ROLE, RULES_ROLE)),
            )
        }
        return CheckedBundle(
            manifest=manifest,
            files=files,
            root_version=Metadata[Root].from_file(str(metadata / "root.json")).signed.version,
            fresh_until_s=min(ages["timestamp"], ages["snapshot"]),
            valid_until_s=min(ages[role] for role in ("root", TARGETS_ROLE, MODELS_ROLE, RULES_ROLE)),
            context_until_s=fetch.role(CONTEXT_ROLE).expires.timestamp() if context else None,
        )


class _TargetReader:
    """Fetches targets, each from its own role and from no other."""

    def __init__(
        self, updater: Updater, metadata: Path, anchor: TrustAnchor, downloads: Path, reuse: ReuseFile
    ) -> None:
        self._updater = updater
        self._metadata = metadata
        self._downloads = downloads
        self._reuse = reuse
        _check_delegations(self.role(TARGETS_ROLE), anchor)

    def role(self, name: str) -> Targets:
        """The verified metadata of a role that was loaded."""
        targets = Metadata[Targets].from_file(str(self._metadata / f"{name}.json")).signed
        for target in targets.targets:
            if not is_target_name(target):
                raise BundleTamperedError(f"role {name} signs {target[:120]!r}, which is not a name of a target")
            if owner_of_target(target) not in (None, name):
                raise BundleTamperedError(f"role {name} signs {target}, which only {owner_of_target(target)} may")
        return targets

    def __call__(self, name: str, digest: str | None = None) -> Path | None:
        """The file of target `name`; None if no role signs one. `digest` is the hash that the manifest names."""
        owner = owner_of_target(name)
        info: TargetFile | None = self._updater.get_targetinfo(name)
        if info is None or owner is None:
            return None
        if self.role(owner).targets.get(name) != info:
            raise BundleTamperedError(f"{name} does not come from role {owner}")
        sha256 = info.hashes.get("sha256")
        if sha256 is None or not is_target_name(sha256) or (digest is not None and sha256 != digest):
            raise BundleTamperedError(f"{name} is not the file that the manifest names")
        if info.length > max_target_bytes(name):
            raise BundleTamperedError(f"{name} has {info.length} bytes, at most {max_target_bytes(name)} are accepted")
        return self._reuse(sha256, info.length) or Path(
            self._updater.download_target(info, str(self._downloads / sha256))
        )

    def optional(self, role: str) -> dict[str, Path]:
        """The files of all optional targets that `role`, which was loaded, signs."""
        found = {}
        for name in self.role(role).targets:
            if is_optional_target(name):
                path = self(name)
                if path is None:
                    raise BundleTamperedError(f"role {role} signs {name}, which nobody delegates to it")
                found[name] = path
        return found


def _check_delegations(targets: Targets, anchor: TrustAnchor) -> None:
    delegations = targets.delegations
    if delegations is None or delegations.roles is None:
        raise BundleTamperedError("the bundle delegates nothing: roles models, rules and privacy-policy are needed")
    needed = [(MODELS_ROLE, "encoder/x"), (RULES_ROLE, RULES_TARGET), (POLICY_ROLE, POLICY_TARGET)]
    # Bundles of older versions have no such role.
    allowed = [(CONTEXT_ROLE, FEED_TARGET)] if CONTEXT_ROLE in delegations.roles else []
    for name, target in (*needed, *allowed):
        role = delegations.roles.get(name)
        first = next(iter(delegations.get_roles_for_target(target)), ("", False))[0]
        if role is None or first != name:
            raise BundleTamperedError(f"the bundle delegates {target} to {first or 'nobody'}, expected role {name}")
        keys = [delegations.keys[keyid] for keyid in role.keyids]
        public = {key.keyval.get("public") for key in keys}
        if name == RULES_ROLE and (role.threshold < RULES_THRESHOLD or len(public) < len(keys)):
            raise BundleTamperedError(f"role rules must need {RULES_THRESHOLD} different keys, this one needs fewer")
        if name == POLICY_ROLE and (
            public != {anchor.officer_key.hex()} or any((key.keytype, key.scheme) != ("ed25519",) * 2 for key in keys)
        ):
            raise BundleTamperedError("role privacy-policy is delegated to a key that is not the officer's pinned one")


def _fetch_context(fetch: _TargetReader, metadata: Path) -> dict[str, Path]:
    # An aggregator that cannot reach its sources must not keep models and rules from the devices, nor the catalogue: the feed
    # says itself how old it is, and no former one can come back, for the snapshot counts the role's versions.
    if not _has_signed(metadata, CONTEXT_ROLE):
        return {}
    # Looking for a target loads its role.
    fetch(FEED_TARGET)
    if not (metadata / f"{CONTEXT_ROLE}.json").is_file():
        raise BundleTamperedError("the bundle holds a role context that nobody delegates to")
    return fetch.optional(CONTEXT_ROLE)


def _has_signed(metadata: Path, role: str) -> bool:
    return f"{role}.json" in Metadata[Snapshot].from_file(str(metadata / "snapshot.json")).signed.meta


def _fetch_policy(fetch: _TargetReader, metadata: Path, anchor: TrustAnchor, manifest: Manifest) -> Path | None:
    # Whether a policy is still in force is the gate's question, by the policy's own date: an officer who is late must not
    # keep models and rules from the devices.
    path = fetch(POLICY_TARGET) if _has_signed(metadata, POLICY_ROLE) else None
    digest = None
    if path is not None:
        envelope = Envelope.from_bytes(path.read_bytes(), limit_bytes=max_target_bytes(POLICY_TARGET))
        envelope.open(envelope.kind, anchor.officer_key)
        digest = envelope.hash
    if digest != manifest.policy_hash:
        raise BundleTamperedError("the policy in the bundle is not the one that its manifest names")
    return path


def _judge_age_at(updater: Updater, moment: datetime) -> None:
    # python-tuf 7 takes the time from the system and offers no other way in; test_bundles_clock.py holds it to this.
    updater._trusted_set.reference_time = moment


class _Fetcher(FetcherInterface):
    """Gives TUF the bytes of a Source; "URLs" are names in it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield from self._source.chunks(url)
        except FileNotFoundError as error:
            raise DownloadHTTPError(f"{url} is not there", 404) from error


@contextlib.contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except DownloadLengthMismatchError as error:
        raise BundleTamperedError(f"more bytes came than were signed: {error}") from error
    except DownloadError as error:
        raise BundleUnavailableError(f"the bundle cannot be fetched: {error}") from error
    except ExpiredMetadataError as error:
        raise BundleExpiredError(
            f"the source offers only what its publisher no longer vouches for: {error}; the publisher must refresh it, or this "
            "device's clock is wrong"
        ) from error
    except BadVersionNumberError as error:
        raise BundleRollbackError(f"older than what this device has accepted: {error}") from error
    except RepositoryError as error:
        raise BundleTamperedError(f"the bundle was not accepted: {error}") from error
    except (SignatureError, WireError) as error:
        raise BundleTamperedError(f"the bundle's contents were not accepted: {error}") from error
