"""What arrives: published bundles, fetched, verified, swapped in whole; and what of them is active now.

A refresh that fails, and a process that is killed at any moment, leave the former bundle active. Reading what is active checks
hashes and needs neither TUF nor a network. Signatures are bundle_check.py's business, transport is bundle_source.py's, the disk
bundle_folder.py's; here stand the decisions: which anchor, whether anything is new, how old is old.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_client.bundle_folder import ADVICE, BundleFolder, LatestTime
from edge_client.bundle_source import Source, open_source, read_trust, read_whole
from shared_models.bundle import (
    MANIFEST_TARGET,
    MAX_TRUST_BYTES,
    METADATA_FOLDER,
    POLICY_TARGET,
    RULES_TARGET,
    TEMPLATES_TARGET,
    Manifest,
    Staleness,
    TrustAnchor,
    Wording,
    is_optional_target,
    language_of_words,
)
from shared_models.canonical import parse_document
from shared_models.errors import (
    BundleRollbackError,
    BundleTamperedError,
    BundleUnavailableError,
    DomainError,
    ModelDamagedError,
    StoreWriteError,
    TacitError,
    TrustError,
    WireError,
)
from shared_models.rules.ruleset import RuleSet

DEFAULT_TIMEOUT_S = 10.0
_MAX_TIMESTAMP_BYTES = 16 * 1024
_MAX_ROOT_BYTES = 64 * 1024


@dataclass(frozen=True)
class ActiveBundle:
    """The bundle in use: every byte was verified when it arrived, and checked by hash when it was opened."""

    encoder_model: Path
    """ONNX file of the encoder."""
    tokenizer: Path
    """tokenizer.json."""
    head: bytes
    """ONNX model of the head."""
    rules: RuleSet
    templates: Mapping[str, tuple[str, ...]]
    intent_labels: Mapping[str, str]
    manifest: Manifest
    policy: bytes | None
    """The officer's signed envelope, if one was published. Whether it is in force is the gate's question."""
    trust: TrustAnchor
    staleness: Staleness
    fresh_until_s: float
    """Unix time in seconds until which the publisher vouches that this is the newest."""
    valid_until_s: float
    """Until which it vouches for the contents."""
    context_until_s: float | None = None
    """Until which it vouches for feed and catalogue; None if the bundle has neither. This makes nothing else old."""
    optional_files: Mapping[str, Path] = field(default_factory=dict)
    """Optional target -> its file, named by its SHA-256."""

    def optional(self, target: str) -> bytes | None:
        """The verified bytes of an optional target (shared_models/bundle.py has the names); None if this bundle lacks it.

        Raises BundleTamperedError if the file is gone or was changed since the bundle was opened; a refresh repairs that.
        """
        path = self.optional_files.get(target)
        if path is None:
            return None
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise BundleTamperedError(f"{target} of the active bundle cannot be read: {error}; {ADVICE}") from error
        if hashlib.sha256(raw).hexdigest() != path.name:
            raise BundleTamperedError(f"{target} of the active bundle was changed on disk; {ADVICE}")
        return raw

    def languages(self) -> tuple[str, ...]:
        """The languages of which the bundle has words beside its own, in order."""
        found = (language_of_words(target) for target in self.optional_files)
        return tuple(sorted(language for language in found if language is not None))

    def staleness_at(self, now_s: float) -> Staleness:
        """How far the publisher's word reaches at Unix time `now_s`."""
        if now_s >= self.valid_until_s:
            return "expired"
        return "stale" if now_s >= self.fresh_until_s else "fresh"


class BundleStore:
    """The bundles of one device, in one folder. Safe against other threads and processes that refresh at the same time."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """`clock` gives Unix time in seconds; `timeout_s` bounds each silence of a server."""
        self._folder = BundleFolder(Path(folder))
        self._time = LatestTime(self._folder, clock)
        self._timeout_s = timeout_s
        self._opened: tuple[bytes, ActiveBundle] | None = None
        if self._folder.staging.exists():
            # Debris of a crash, or another process at work. What cannot be removed now, the next refresh removes.
            with contextlib.suppress(StoreWriteError, BundleUnavailableError), self._folder.alone(timeout_s=0.0):
                self._folder.clean()

    @property
    def staleness(self) -> Staleness | None:
        """Of the active bundle at this moment; None if there is none."""
        active = self.current()
        return None if active is None else active.staleness

    def staleness_of(self, bundle: ActiveBundle) -> Staleness:
        """Of `bundle` at this moment; a clock that was set back makes nothing fresh again."""
        return bundle.staleness_at(self._time.now_s())

    def current(self) -> ActiveBundle | None:
        """The active bundle; None before the first refresh.

        Its files are checked by hash once for each bundle in the life of this object. Raises ModelDamagedError or
        BundleTamperedError if they changed on disk (a refresh repairs that), TrustError if the pinned anchor did.
        """
        for attempt in range(3):
            pointer = self._folder.pointer()
            if pointer is None:
                return None
            opened = self._opened
            try:
                if opened is None or opened[0] != pointer:
                    opened = self._opened = (pointer, self._open(pointer))
                return replace(opened[1], staleness=self.staleness_of(opened[1]))
            except TacitError:
                # Another process may have activated a newer bundle and cleaned this one away while it was read.
                if attempt == 2 or self._folder.pointer() == pointer:
                    raise
        raise AssertionError("unreachable")

    def refresh(self, source: str | Path, trust: Path | None = None) -> Staleness:
        """Fetch and verify what `source` publishes, and make it active if all of it is sound; returns its staleness.

        `source` is a folder or an http(s) URL. `trust` is the fleet's trust.json: needed the first time for a URL, while a
        folder that the app ships may bring its own. From then on the anchor is pinned. A folder may be out of date, a server
        may not. An unchanged source costs two small requests.

        Raises BundleUnavailableError (not reached; BundleExpiredError: out of date), BundleRollbackError, BundleTamperedError,
        TrustError, ConfigError (bad address), StoreWriteError (disk). Whatever is raised, the former bundle stays active.
        """
        opened = open_source(source, self._timeout_s)
        with self._folder.alone():
            self._folder.clean()
            now_s = self._time.now_s(persist=True)
            anchor = self._choose_anchor(opened, source, None if trust is None else Path(trust))
            active = self._sound_active()
            if active is not None and self._is_unchanged(opened, active, now_s):
                self._folder.pin(anchor.to_bytes())
                return active.staleness_at(now_s)
            self._update(opened, anchor, active, now_s)
            self._folder.clean()
        activated = self.current()
        assert activated is not None
        return activated.staleness

    def _update(self, source: Source, anchor: TrustAnchor, active: ActiveBundle | None, now_s: float) -> None:
        # Imported here: a device that only recognises never pays for TUF.
        from edge_client.bundle_check import check_bundle

        metadata, downloads = self._folder.staging / METADATA_FOLDER, self._folder.staging / "downloads"
        downloads.mkdir(parents=True)
        if (known := self._folder.last_metadata()) is not None:
            shutil.copytree(known, metadata)
        metadata.mkdir(exist_ok=True)
        checked = check_bundle(source, anchor, metadata, downloads, self._folder.sound_object, now_s)
        manifest = _read_documents(checked.files).manifest
        if active is not None and manifest.version < active.manifest.version:
            raise BundleRollbackError(
                f"release {manifest.version} is older than release {active.manifest.version}, which stays active"
            )
        # tuf makes this symbolic link anew at each start; links have no place in the folder.
        (metadata / "root.json").unlink()
        self._folder.activate(
            checked.files,
            metadata,
            anchor=anchor.to_bytes(),
            anchor_hash=anchor.hash,
            root_version=checked.root_version,
            fresh_until_s=checked.fresh_until_s,
            valid_until_s=checked.valid_until_s,
            context_until_s=checked.context_until_s,
        )

    def _open(self, pointer: bytes) -> ActiveBundle:
        generation = self._folder.read_generation(pointer)
        raw = self._folder.anchor()
        anchor = None if raw is None else TrustAnchor.from_bytes(raw)
        if anchor is None or anchor.hash != generation.anchor_hash:
            raise TrustError(
                f"{self._folder.path}: the pinned trust anchor is gone or was changed; pass the trust file again"
            )
        files: dict[str, Path] = {}
        for name, (digest, size_bytes) in generation.objects.items():
            path = self._folder.sound_object(digest, size_bytes)
            if path is None:
                kind = ModelDamagedError if "/" in name else BundleTamperedError
                raise kind(f"{self._folder.path}: {name} is missing or was changed on disk; {ADVICE}")
            files[name] = path
        try:
            documents = _read_documents(files)
            manifest = documents.manifest
            head = files[manifest.head_target].read_bytes()
        except OSError as error:
            # Sound a moment ago: taken away, by another process that has put a newer bundle in place or otherwise.
            raise BundleTamperedError(f"{self._folder.path}: a file of the bundle cannot be read: {error}") from error
        return ActiveBundle(
            encoder_model=files[manifest.encoder_target],
            tokenizer=files[manifest.tokenizer_target],
            head=head,
            rules=documents.rules,
            templates=documents.wording.templates,
            intent_labels=documents.wording.intent_labels,
            manifest=manifest,
            policy=documents.policy,
            trust=anchor,
            staleness="expired",
            fresh_until_s=generation.fresh_until_s,
            valid_until_s=generation.valid_until_s,
            context_until_s=generation.context_until_s,
            optional_files={name: path for name, path in files.items() if is_optional_target(name)},
        )

    def _sound_active(self) -> ActiveBundle | None:
        # Opened anew, not from memory: what was damaged since then is fetched again.
        self._opened = None
        try:
            return self.current()
        except (ModelDamagedError, BundleTamperedError, TrustError):
            # The update that follows repairs it; if it cannot, current() still has the words for it.
            return None

    def _is_unchanged(self, source: Source, active: ActiveBundle, now_s: float) -> bool:
        """True if the source says, byte for byte, what was verified before, has no newer root, and may be as old as it is."""
        pointer = self._folder.pointer()
        if pointer is None or (not source.vouched and active.staleness_at(now_s) != "fresh"):
            return False
        generation = self._folder.read_generation(pointer)
        if not generation.knows_optional:
            return False
        verified = generation.metadata / "timestamp.json"
        try:
            offered = read_whole(source, f"{METADATA_FOLDER}/timestamp.json", _MAX_TIMESTAMP_BYTES)
        except FileNotFoundError as error:
            raise BundleUnavailableError("there is no bundle at that address: no metadata/timestamp.json") from error
        if not verified.is_file() or offered != verified.read_bytes():
            return False
        try:
            read_whole(source, f"{METADATA_FOLDER}/{generation.root_version + 1}.root.json", _MAX_ROOT_BYTES)
        except FileNotFoundError:
            return True
        return False

    def _choose_anchor(self, source: Source, address: str | Path, trust: Path | None) -> TrustAnchor:
        offered = None
        if trust is not None:
            try:
                with trust.open("rb") as file:
                    offered = TrustAnchor.from_bytes(file.read(MAX_TRUST_BYTES + 1))
            except OSError as error:
                raise TrustError(f"{trust}: cannot be read as a trust file: {error}") from error
        elif source.vouched and (raw := read_trust(source)) is not None:
            offered = TrustAnchor.from_bytes(raw)
        pinned_hash = self._pinned_hash(offered)
        if pinned_hash is None and offered is None:
            raise TrustError(
                f"{address}: nothing is trusted yet; pass the fleet's trust file: trust=PATH of trust.json"
            )
        if pinned_hash is not None and offered is not None and offered.hash != pinned_hash:
            raise TrustError(
                f"{address}: the trust anchor of fleet {offered.fleet!r} is not the one that is pinned here; a device never "
                "changes its anchor: use another folder for another fleet"
            )
        return offered or TrustAnchor.from_bytes(self._folder.anchor() or b"")

    def _pinned_hash(self, offered: TrustAnchor | None) -> str | None:
        """Hash of the anchor that is pinned. What the active bundle remembers of it outranks a file that was changed."""
        try:
            raw = self._folder.anchor()
            on_file = None if raw is None else TrustAnchor.from_bytes(raw).hash
        except TrustError:
            if offered is None:
                raise
            on_file = None
        pointer = self._folder.pointer()
        try:
            remembered = None if pointer is None else self._folder.read_generation(pointer).anchor_hash
        except BundleTamperedError:
            remembered = None
        if remembered not in (None, on_file) and offered is None:
            raise TrustError(
                f"{self._folder.path}: the pinned trust anchor is gone or was changed; pass the trust file again"
            )
        return remembered or on_file


@dataclass(frozen=True)
class _Documents:
    manifest: Manifest
    rules: RuleSet
    wording: Wording
    policy: bytes | None


def _read_documents(files: Mapping[str, Path]) -> _Documents:
    """Parse the documents of a verified bundle. Raises BundleTamperedError."""
    try:
        policy = files.get(POLICY_TARGET)
        return _Documents(
            Manifest.from_bytes(files[MANIFEST_TARGET].read_bytes()),
            RuleSet.from_document(parse_document(files[RULES_TARGET].read_bytes())),
            Wording.from_bytes(files[TEMPLATES_TARGET].read_bytes()),
            None if policy is None else policy.read_bytes(),
        )
    except (KeyError, WireError, DomainError) as error:
        raise BundleTamperedError(f"the bundle's contents were not accepted: {error}") from error
