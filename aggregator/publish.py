"""Publishing: what a release consists of, checked and signed into the folder that devices read (see repository.py).

Secret keys lie in a folder of their own, one NAME.key (format: privacy/keys.py, mode 0600) each: root, targets, snapshot,
timestamp, models, rules-1, rules-2, context. `root.key` is needed only by `create_repository` and `renew_root`: keep it elsewhere
in between. `publish_context` needs `context`, `snapshot` and `timestamp` alone. The officer's key is never there: role
`privacy-policy` comes signed. What is worth publishing is decided in gates.py; which versions there were is registry.py's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tuf.api.metadata import TargetFile

from aggregator.durable_files import file_sha256, sync_folder, write_durably
from aggregator.publishing_keys import KEY_NAMES, Keyring, only_publisher
from aggregator.repository import Lifetimes, Repository, write_first_version
from privacy.keys import new_key_pair
from shared_models.bundle import (
    CONTEXT_ROLE,
    ITEM_SPACE_TARGET,
    ITEMS_TARGET,
    MANIFEST_TARGET,
    MODELS_ROLE,
    POLICY_ROLE,
    POLICY_TARGET,
    RULES_ROLE,
    RULES_TARGET,
    TARGETS_ROLE,
    TEMPLATES_TARGET,
    TRUST_FILE,
    Manifest,
    TrustAnchor,
    Wording,
    is_optional_target,
    language_of_words,
    max_target_bytes,
    owner_of_target,
)
from shared_models.canonical import Envelope, canonical_bytes, parse_document
from shared_models.domain import UNSURE
from shared_models.errors import (
    BundleRollbackError,
    BundleTamperedError,
    ConfigError,
    DomainError,
    ModelMissingError,
    SignatureError,
    WireError,
)
from shared_models.intents import OUT_OF_SCOPE
from shared_models.languages import LANGUAGES
from shared_models.optional_targets import check_targets
from shared_models.pressure import check_texts, texts_of_rules, texts_of_wording
from shared_models.rules.ruleset import RuleSet

DEFAULT_LIFETIMES = Lifetimes()


@dataclass(frozen=True, kw_only=True)
class BundleContents:
    """All that one release consists of."""

    encoder_model: Path
    """ONNX file of the encoder."""
    tokenizer: Path
    """tokenizer.json of the encoder."""
    head: bytes
    """ONNX model of the head."""
    labels: tuple[str, ...]
    """Intents in the order of the head's classes."""
    rules: RuleSet = field(default_factory=RuleSet)
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    intent_labels: Mapping[str, str] = field(default_factory=dict)
    policy: bytes | None = None
    """The officer's signed envelope; None keeps what is published."""
    policy_role: bytes | None = None
    """The role metadata that the officer signed over `policy` (privacy/policy_role.py)."""
    domain: str
    version: int
    """Number of the head: not below the published one, and equal only if the head is the same."""
    optional: Mapping[str, bytes | Path | None] = field(default_factory=dict)
    """Optional targets by their names (shared_models/bundle.py): what they hold, or None to withdraw one. What is not named here

    stays as it is published.
    """


def create_repository(
    directory: Path,
    *,
    officer_public_key: bytes,
    aggregator_public_key: bytes,
    fleet: str,
    keys_dir: Path | None = None,
    bundle_url: str | None = None,
    lifetimes: Lifetimes = DEFAULT_LIFETIMES,
    now: float | None = None,
) -> None:
    """Make the publisher's keys (those that are missing) and a signed repository with `trust.json` and no release yet.

    Public keys are Ed25519, 32 bytes; `now` is Unix time in seconds. Raises ConfigError if `directory` holds anything already.
    """
    directory, keys_dir = directory.absolute(), (keys_dir or default_keys_dir(directory)).absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory}: exists and is not empty; a bundle is only ever made in a new folder")
    if directory.resolve() in (keys_dir.resolve(), *keys_dir.resolve().parents):
        raise ConfigError(f"{keys_dir}: secret keys must not lie inside the folder that is served")
    moment = time.time() if now is None else now
    # The anchor refuses what nobody could trust: before anything is written.
    anchor = TrustAnchor(fleet, {"signed": {}, "signatures": []}, officer_public_key, aggregator_public_key, bundle_url)
    keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with only_publisher(keys_dir):
        for name in KEY_NAMES:
            if not (keys_dir / f"{name}.key").exists():
                new_key_pair(keys_dir, name)
        building = directory.with_name(f".{directory.name}.building")
        if building.exists():
            shutil.rmtree(building)
        root = write_first_version(building, Keyring(keys_dir), officer_public_key, moment, lifetimes)
        write_durably(building / TRUST_FILE, replace(anchor, root=root.to_dict()).to_bytes())
        if directory.exists():
            directory.rmdir()
        building.rename(directory)
        sync_folder(directory.parent)


def publish(
    directory: Path,
    contents: BundleContents,
    now: float | None = None,
    *,
    keys_dir: Path | None = None,
    lifetimes: Lifetimes = DEFAULT_LIFETIMES,
) -> int:
    """Sign and publish `contents` as the newest release; returns its version.

    A device fetches again only what changed: a round's release is a new head and a new manifest. Everything is checked before
    the first byte is written. Raises BundleRollbackError if the version is not newer; ConfigError, ModelMissingError,
    DomainError, WireError or BundleTamperedError for contents that no device would accept.
    """
    with open_repository(directory, keys_dir=keys_dir, now=now, lifetimes=lifetimes) as repository:
        wording, rules = _checked_texts(contents)
        _check_optional(repository, contents.optional, contents.labels)
        policy_target = _checked_policy(directory, contents)
        manifest = _checked_manifest(repository, contents)
        if policy_target is not None and contents.policy_role is not None:
            repository.carry(contents.policy_role, policy_target)
        _delegate_all(repository, keys_dir or default_keys_dir(directory))
        # All is checked; new files may be written now, nothing refers to them before the commit.
        release: dict[str, dict[str, bytes | Path]] = {
            TARGETS_ROLE: {MANIFEST_TARGET: manifest.to_bytes(), manifest.head_target: contents.head},
            MODELS_ROLE: {
                manifest.encoder_target: contents.encoder_model,
                manifest.tokenizer_target: contents.tokenizer,
            },
            RULES_ROLE: {RULES_TARGET: rules, TEMPLATES_TARGET: wording},
        }
        for role, files in release.items():
            targets = {name: repository.add_target(name, source) for name, source in files.items()}
            repository.sign(role, targets | _optional_of(repository, role, contents.optional))
        context = _optional_of(repository, CONTEXT_ROLE, contents.optional)
        if context != repository.targets_of(CONTEXT_ROLE):
            repository.sign(CONTEXT_ROLE, context)
        if contents.policy is not None:
            repository.add_target(POLICY_TARGET, contents.policy)
        repository.commit()
    return contents.version


def publish_context(
    directory: Path,
    targets: Mapping[str, bytes | Path | None],
    *,
    keys_dir: Path | None = None,
    now: float | None = None,
    lifetimes: Lifetimes = DEFAULT_LIFETIMES,
) -> None:
    """Sign and publish what role `context` signs (`context.json`, `catalogue.json`); what is not named stays, None withdraws.

    The release itself is not touched: the keys `context`, `snapshot` and `timestamp` are enough, unless the folder is of an older
    version that does not know the role; then `targets` too. Raises ConfigError, WireError, BundleError.
    """
    with open_repository(directory, keys_dir=keys_dir, now=now, lifetimes=lifetimes) as repository:
        if stray := [name for name in targets if owner_of_target(name) != CONTEXT_ROLE]:
            raise ConfigError(f"{stray[0][:80]!r} is not signed by role context")
        _check_optional(repository, targets, ())
        if not repository.delegates(CONTEXT_ROLE):
            _delegate_all(repository, keys_dir or default_keys_dir(directory))
            repository.sign(TARGETS_ROLE, repository.targets_of(TARGETS_ROLE))
        repository.sign(CONTEXT_ROLE, _optional_of(repository, CONTEXT_ROLE, targets))
        repository.commit()


def refresh_timestamp(
    directory: Path,
    *,
    keys_dir: Path | None = None,
    now: float | None = None,
    lifetimes: Lifetimes = DEFAULT_LIFETIMES,
) -> None:
    """Vouch for the published release anew, unchanged: run it a few times within each timestamp's lifetime.

    Also signs anew every other role of which less than half of its lifetime is left and whose keys are at hand.
    """
    with open_repository(directory, keys_dir=keys_dir, now=now, lifetimes=lifetimes) as repository:
        repository.prolong()
        repository.commit()


def renew_root(
    directory: Path,
    *,
    keys_dir: Path | None = None,
    now: float | None = None,
    lifetimes: Lifetimes = DEFAULT_LIFETIMES,
) -> Path:
    """Sign the next root with a new expiry date (yearly, with root.key brought from where it is kept)."""
    with open_repository(directory, keys_dir=keys_dir, now=now, lifetimes=lifetimes) as repository:
        return repository.next_root()


def default_keys_dir(directory: Path) -> Path:
    """Where the secret keys lie unless told otherwise: beside the served folder, never in it."""
    return directory.absolute().with_name(f"{directory.absolute().name}-keys")


def published_manifest(directory: Path) -> Manifest | None:
    """The manifest of the published release; None before the first. Raises BundleError."""
    return read_manifest(Repository.read(directory, time.time(), DEFAULT_LIFETIMES))


def published_optional(directory: Path) -> dict[str, str]:
    """The optional targets that are published: name -> SHA-256 of what they hold, in hexadecimal. Raises BundleError."""
    found = _published_targets(directory)
    return {name: target.hashes["sha256"] for name, target in found.items() if is_optional_target(name)}


def published_sizes(directory: Path) -> dict[str, int]:
    """All targets that are published, the largest first: name -> bytes that a device fetches for it, once. Raises BundleError."""
    sizes = {name: target.length for name, target in _published_targets(directory).items()}
    return dict(sorted(sizes.items(), key=lambda entry: -entry[1]))


def _published_targets(directory: Path) -> dict[str, TargetFile]:
    repository = Repository.read(directory, time.time(), DEFAULT_LIFETIMES)
    roles = (TARGETS_ROLE, MODELS_ROLE, RULES_ROLE, POLICY_ROLE, CONTEXT_ROLE)
    return {name: target for role in roles for name, target in repository.targets_of(role).items()}


def read_published(directory: Path, role: str, name: str) -> bytes | None:
    """The published bytes of a target of `role`; None if there is none. Raises BundleError."""
    return Repository.read(directory, time.time(), DEFAULT_LIFETIMES).read_target(role, name)


def read_manifest(repository: Repository) -> Manifest | None:
    """The manifest that a repository publishes; None before its first release. Raises BundleTamperedError."""
    raw = repository.read_target(TARGETS_ROLE, MANIFEST_TARGET)
    try:
        return None if raw is None else Manifest.from_bytes(raw)
    except WireError as error:
        raise BundleTamperedError(f"{repository.directory}: {error}") from error


@contextlib.contextmanager
def open_repository(
    directory: Path, *, keys_dir: Path | None = None, now: float | None = None, lifetimes: Lifetimes = DEFAULT_LIFETIMES
) -> Iterator[Repository]:
    """Lock the publisher and read what is published. Raises ConfigError, BundleError."""
    keys_dir = keys_dir or default_keys_dir(directory)
    if not keys_dir.is_dir():
        raise ConfigError(f"{keys_dir}: no such folder of publishing keys; `keys_dir` says where they are")
    with only_publisher(keys_dir):
        yield Repository.read(directory, time.time() if now is None else now, lifetimes, Keyring(keys_dir))


def _delegate_all(repository: Repository, keys_dir: Path) -> None:
    """Folders of older versions know no role `context`: it gets its key and its delegation with their next release."""
    if not repository.delegates(CONTEXT_ROLE) and not (keys_dir / f"{CONTEXT_ROLE}.key").exists():
        new_key_pair(keys_dir, CONTEXT_ROLE)
    repository.delegate()


def _check_optional(
    repository: Repository, optional: Mapping[str, bytes | Path | None], labels: tuple[str, ...]
) -> None:
    given: dict[str, bytes | Path] = {}
    for name, source in optional.items():
        if not is_optional_target(name):
            raise ConfigError(f"{str(name)[:80]!r} is not the name of an optional target")
        language = language_of_words(name)
        if language is not None and language not in LANGUAGES:
            raise ConfigError(f"{name}: expected a language out of {', '.join(LANGUAGES)}")
        if source is None:
            continue
        if not isinstance(source, bytes) and not source.is_file():
            raise ConfigError(f"{source}: no such file, to be published as {name}")
        given[name] = source
        if language is not None:
            said = Wording.from_bytes(source if isinstance(source, bytes) else source.read_bytes())
            if stray := (set(said.templates) - {OUT_OF_SCOPE, UNSURE} | set(said.intent_labels)) - set(labels):
                raise DomainError(f"{name}: {min(stray)!r} is not an intent of this release")
            check_texts(texts_of_wording(said.templates, said.intent_labels, name))
    # The two speak of the same items, also when only one of them is new.
    published = repository.targets_of(TARGETS_ROLE)
    for one, other in ((ITEMS_TARGET, ITEM_SPACE_TARGET), (ITEM_SPACE_TARGET, ITEMS_TARGET)):
        if one in given and other not in optional and other in published:
            given[other] = repository.path_of(published[other])
    check_targets(given)


def _optional_of(
    repository: Repository, role: str, optional: Mapping[str, bytes | Path | None]
) -> dict[str, TargetFile]:
    """The optional targets of `role` as they shall be: those published, with what `optional` changes."""
    kept = {name: target for name, target in repository.targets_of(role).items() if is_optional_target(name)}
    for name, source in optional.items():
        if owner_of_target(name) == role:
            kept.pop(name, None)
            if source is not None:
                kept[name] = repository.add_target(name, source)
    return kept


def _checked_texts(contents: BundleContents) -> tuple[bytes, bytes]:
    """(templates.json, rules.json) as devices will read them."""
    known = set(contents.labels)
    if stray := set(contents.templates) - known - {OUT_OF_SCOPE, UNSURE}:
        raise DomainError(f"templates: {min(stray)!r} is not an intent of this release")
    if stray := set(contents.intent_labels) - known:
        raise DomainError(f"intent_labels: {min(stray)!r} is not an intent of this release")
    check_texts(texts_of_wording(contents.templates, contents.intent_labels, "templates"))
    check_texts(texts_of_rules(contents.rules))
    wording = Wording(dict(contents.templates), dict(contents.intent_labels)).to_bytes()
    rules = canonical_bytes(contents.rules.document())
    Wording.from_bytes(wording)
    RuleSet.from_document(parse_document(rules, limit_bytes=max_target_bytes(RULES_TARGET)), known)
    return wording, rules


def _checked_manifest(repository: Repository, contents: BundleContents) -> Manifest:
    for name, path in (("encoder", contents.encoder_model), ("tokenizer", contents.tokenizer)):
        if not path.is_file():
            raise ModelMissingError(f"{path}: there is no {name} here; `tacit-fleet build` makes one")
        if not 0 < path.stat().st_size <= max_target_bytes(f"{name}/"):
            raise ConfigError(f"{path}: {path.stat().st_size} bytes, expected 1 to {max_target_bytes(f'{name}/')}")
    try:
        json.loads(contents.tokenizer.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{contents.tokenizer}: not a tokenizer.json: {error}") from error
    if not 0 < len(contents.head) <= max_target_bytes("head/"):
        raise ConfigError(f"head: {len(contents.head)} bytes, expected 1 to {max_target_bytes('head/')}")
    policy = contents.policy if contents.policy is not None else repository.read_target(POLICY_ROLE, POLICY_TARGET)
    manifest = Manifest(
        version=contents.version,
        domain=contents.domain,
        labels=contents.labels,
        encoder_sha256=file_sha256(contents.encoder_model),
        tokenizer_sha256=file_sha256(contents.tokenizer),
        head_sha256=hashlib.sha256(contents.head).hexdigest(),
        policy_hash=None if policy is None else Envelope.from_bytes(policy).hash,
        published_s=int(repository.now),
    )
    before = read_manifest(repository)
    if before is not None and manifest.version < before.version:
        raise BundleRollbackError(
            f"version {manifest.version} is older than the published {before.version}; `rollback` publishes an older head "
            "under a new number"
        )
    if before is not None and manifest.version == before.version and manifest.head_sha256 != before.head_sha256:
        raise BundleRollbackError(
            f"version {manifest.version} is published already with another head; give it a new number"
        )
    return manifest


def _checked_policy(directory: Path, contents: BundleContents) -> TargetFile | None:
    if (contents.policy is None) != (contents.policy_role is None):
        raise ConfigError("policy and policy_role come together: `tacit-privacy policy sign` writes both")
    if contents.policy is None:
        return None
    officer_key = TrustAnchor.from_bytes((directory / TRUST_FILE).read_bytes()).officer_key
    try:
        envelope = Envelope.from_bytes(contents.policy, limit_bytes=max_target_bytes(POLICY_TARGET))
        envelope.open(envelope.kind, officer_key)
    except SignatureError as error:
        raise BundleTamperedError(f"the policy is not signed by this fleet's officer: {error}") from error
    return TargetFile.from_data(POLICY_TARGET, contents.policy, ["sha256"])
