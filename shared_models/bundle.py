"""What a published bundle is: the names and roles of its targets, its manifest, its wording, and the anchor that devices trust.

The publisher writes these documents and the device reads them, with the same checks. Signatures are TUF's and live with the
publisher and with the device; nothing here signs, fetches or opens a file.

    target                   role             signed by
    manifest.json            targets          the release key
    head/<version>.onnx      targets          the release key
    encoder/<sha256>.onnx    models           the models key
    tokenizer/<sha256>.json  models           the models key
    rules.json               rules            two of the rule keys
    templates.json           rules            two of the rule keys
    privacy-policy.json      privacy-policy   the officer, whose key devices also pin themselves

Optional: a bundle without them is whole, and a device that does not know them leaves them alone.

    items.json, items.onnx   targets          what the population's tastes say: items and their space
    bandit-prior.json        targets          where each device's policy starts
    phrases.json             targets          the public phrases that the head was started from (phrases.py)
    places.json              models           names of places (languages/place_list.py)
    words.<language>.json    rules            labels and templates in another language, in the form of templates.json
    profile.yaml             rules            what may be known about the user: the domain's profile schema
    context.json             context          weather, holidays, events of everywhere; renewed often (context_feed.py)
    catalogue.json           context          what can be suggested

Role `context` has a key and a short lifetime of its own: its age is told beside the bundle's and never makes that stale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shared_models.canonical import canonical_bytes, canonical_hash, parse_document
from shared_models.errors import TrustError, WireError

Staleness = Literal["fresh", "stale", "expired"]
"""fresh: the publisher's word is recent; stale: not lately heard from; expired: older than the publisher vouches for."""

MANIFEST_TARGET = "manifest.json"
RULES_TARGET = "rules.json"
TEMPLATES_TARGET = "templates.json"
POLICY_TARGET = "privacy-policy.json"
ITEMS_TARGET = "items.json"
ITEM_SPACE_TARGET = "items.onnx"
BANDIT_PRIOR_TARGET = "bandit-prior.json"
PHRASES_TARGET = "phrases.json"
PLACES_TARGET = "places.json"
PROFILE_TARGET = "profile.yaml"
FEED_TARGET = "context.json"
CATALOGUE_TARGET = "catalogue.json"

TARGETS_ROLE = "targets"
MODELS_ROLE = "models"
RULES_ROLE = "rules"
POLICY_ROLE = "privacy-policy"
CONTEXT_ROLE = "context"
RULES_THRESHOLD = 2
DELEGATED_PATHS: Mapping[str, tuple[str, ...]] = {
    MODELS_ROLE: ("encoder/*", "tokenizer/*", PLACES_TARGET),
    RULES_ROLE: (RULES_TARGET, TEMPLATES_TARGET, "words.*.json", PROFILE_TARGET),
    POLICY_ROLE: (POLICY_TARGET,),
    CONTEXT_ROLE: (FEED_TARGET, CATALOGUE_TARGET),
}
"""Which targets the roles under `targets` may sign."""

TRUST_FILE = "trust.json"
METADATA_FOLDER = "metadata"
TARGETS_FOLDER = "targets"

MANIFEST_FORMAT = 1
TEMPLATES_FORMAT = 1
TRUST_FORMAT = 1
MAX_VERSION = 1 << 50
MAX_LABELS = 1000
MAX_TEXT_CHARS = 2000
MAX_TEXTS = 100
MAX_MANIFEST_BYTES = 256 * 1024
MAX_TRUST_BYTES = 256 * 1024
MAX_HEAD_BYTES = 32 * 1024 * 1024
MAX_TARGET_BYTES = {
    MANIFEST_TARGET: MAX_MANIFEST_BYTES,
    RULES_TARGET: 4 * 1024 * 1024,
    TEMPLATES_TARGET: 4 * 1024 * 1024,
    POLICY_TARGET: 1024 * 1024,
    "head/": MAX_HEAD_BYTES,
    "encoder/": 512 * 1024 * 1024,
    "tokenizer/": 32 * 1024 * 1024,
    ITEMS_TARGET: 8 * 1024 * 1024,
    ITEM_SPACE_TARGET: 128 * 1024 * 1024,
    BANDIT_PRIOR_TARGET: 8 * 1024 * 1024,
    PHRASES_TARGET: 2 * 1024 * 1024,
    PLACES_TARGET: 2 * 1024 * 1024,
    "words.": 4 * 1024 * 1024,
    PROFILE_TARGET: 256 * 1024,
    FEED_TARGET: 4 * 1024 * 1024,
    CATALOGUE_TARGET: 4 * 1024 * 1024,
}
"""The most bytes a device accepts, by target or by folder of targets."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_FLEET = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_WORDS = re.compile(r"words\.([a-z]{2})\.json\Z")
_TARGET = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}/){0,3}[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\Z")
_OWNERS = {
    MANIFEST_TARGET: TARGETS_ROLE,
    "head/": TARGETS_ROLE,
    "encoder/": MODELS_ROLE,
    "tokenizer/": MODELS_ROLE,
    RULES_TARGET: RULES_ROLE,
    TEMPLATES_TARGET: RULES_ROLE,
    POLICY_TARGET: POLICY_ROLE,
}
_OPTIONAL_OWNERS = {
    ITEMS_TARGET: TARGETS_ROLE,
    ITEM_SPACE_TARGET: TARGETS_ROLE,
    BANDIT_PRIOR_TARGET: TARGETS_ROLE,
    PHRASES_TARGET: TARGETS_ROLE,
    PLACES_TARGET: MODELS_ROLE,
    "words.": RULES_ROLE,
    PROFILE_TARGET: RULES_ROLE,
    FEED_TARGET: CONTEXT_ROLE,
    CATALOGUE_TARGET: CONTEXT_ROLE,
}


def words_target(language: str) -> str:
    """The target that holds the words of a language (ISO 639-1)."""
    return f"words.{language}.json"


def language_of_words(name: str) -> str | None:
    """The language of a `words.<language>.json`; None for any other target."""
    found = _WORDS.match(name)
    return found[1] if found else None


def is_optional_target(name: str) -> bool:
    """True for a target that a bundle may lack."""
    return _kind(name) in _OPTIONAL_OWNERS


def is_target_name(name: str) -> bool:
    """True for a plain relative name that cannot lead out of a folder: no `..`, no leading dot, no empty part."""
    return _TARGET.match(name) is not None


def owner_of_target(name: str) -> str | None:
    """The only role that may sign target `name`; None for a target that this version does not know."""
    kind = _kind(name)
    return _OWNERS.get(kind) or _OPTIONAL_OWNERS.get(kind)


def max_target_bytes(name: str) -> int:
    """The most bytes that a device accepts for a known target."""
    return MAX_TARGET_BYTES[_kind(name)]


def _kind(name: str) -> str:
    if language_of_words(name) is not None:
        return "words."
    folder, slash, _ = name.partition("/")
    return folder + slash


@dataclass(frozen=True)
class Manifest:
    """Binds the parts of one release to each other, so that no device runs a head over another encoder."""

    version: int
    """Number of the published head; grows with every release, 0 is the bootstrap model."""
    domain: str
    labels: tuple[str, ...]
    """Intents in the order of the head's classes."""
    encoder_sha256: str
    tokenizer_sha256: str
    head_sha256: str
    """Hashes of the files, 64 hexadecimal digits."""
    policy_hash: str | None
    """`Envelope.hash` of the officer's policy at the time of release; None before there is one."""
    published_s: int
    """Unix time in seconds."""

    def __post_init__(self) -> None:
        _integer("version", self.version)
        _integer("published_s", self.published_s)
        _named("domain", self.domain)
        if not isinstance(self.labels, tuple) or not 2 <= len(self.labels) <= MAX_LABELS:
            raise WireError(f"manifest: labels: expected 2 to {MAX_LABELS} intents")
        for label in self.labels:
            _named("labels", label)
        if len(set(self.labels)) != len(self.labels):
            raise WireError("manifest: labels: an intent stands twice")
        for name in ("encoder_sha256", "tokenizer_sha256", "head_sha256"):
            _digest(name, getattr(self, name))
        if self.policy_hash is not None:
            _digest("policy_hash", self.policy_hash)

    @property
    def encoder_target(self) -> str:
        return f"encoder/{self.encoder_sha256}.onnx"

    @property
    def tokenizer_target(self) -> str:
        return f"tokenizer/{self.tokenizer_sha256}.json"

    @property
    def head_target(self) -> str:
        return f"head/{self.version}.onnx"

    def document(self) -> dict[str, Any]:
        return {
            "format": MANIFEST_FORMAT,
            "version": self.version,
            "domain": self.domain,
            "labels": list(self.labels),
            "encoder_sha256": self.encoder_sha256,
            "tokenizer_sha256": self.tokenizer_sha256,
            "head_sha256": self.head_sha256,
            "policy_hash": self.policy_hash,
            "published_s": self.published_s,
        }

    def to_bytes(self) -> bytes:
        return canonical_bytes(self.document())

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """Parse the canonical encoding and nothing else. Raises WireError."""
        document = parse_document(raw, limit_bytes=MAX_MANIFEST_BYTES)
        _exact_fields("manifest", document, MANIFEST_FORMAT, {"format", *cls.__dataclass_fields__}, set())
        if not isinstance(document["labels"], list):
            raise WireError("manifest: labels: expected a list of intents")
        del document["format"]
        manifest = cls(**{**document, "labels": tuple(document["labels"])})
        if manifest.to_bytes() != raw:
            raise WireError("manifest: not in the canonical encoding (RFC 8785)")
        return manifest


@dataclass(frozen=True)
class Wording:
    """What is said to the user: the target `templates.json`, signed by the rule keys."""

    templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Intent, `out_of_scope` or `unsure` -> replies."""
    intent_labels: Mapping[str, str] = field(default_factory=dict)
    """Intent -> plain words: "book a flight"."""

    def __post_init__(self) -> None:
        for name, texts in self.templates.items():
            _named("templates", name)
            if not isinstance(texts, tuple) or not 1 <= len(texts) <= MAX_TEXTS:
                raise WireError(f"templates: {name}: expected 1 to {MAX_TEXTS} texts")
            for text in texts:
                _said(f"templates: {name}", text)
        for name, label in self.intent_labels.items():
            _named("intent_labels", name)
            _said(f"intent_labels: {name}", label)

    def to_bytes(self) -> bytes:
        return canonical_bytes(
            {
                "format": TEMPLATES_FORMAT,
                "templates": {name: list(texts) for name, texts in self.templates.items()},
                "intent_labels": dict(self.intent_labels),
            }
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Wording:
        """Parse. Raises WireError."""
        document = parse_document(raw, limit_bytes=MAX_TARGET_BYTES[TEMPLATES_TARGET])
        _exact_fields("templates", document, TEMPLATES_FORMAT, {"format", "templates", "intent_labels"}, set())
        templates, labels = document["templates"], document["intent_labels"]
        if not isinstance(templates, dict) or not isinstance(labels, dict):
            raise WireError("templates: templates and intent_labels: expected objects")
        for name, texts in templates.items():
            if not isinstance(texts, list):
                raise WireError(f"templates: {name[:80]!r}: expected a list of texts")
        return cls({name: tuple(texts) for name, texts in templates.items()}, labels)


@dataclass(frozen=True)
class TrustAnchor:
    """What a device trusts before it has heard anything: `trust.json`, shipped inside the app and pinned at first use."""

    fleet: str
    root: Mapping[str, Any]
    """The first TUF root metadata, signed; every later root must be signed by its predecessor."""
    officer_key: bytes
    """Ed25519 public key of the privacy officer, 32 bytes."""
    aggregator_key: bytes
    """Ed25519 public key that signs round plans, 32 bytes."""
    bundle_url: str | None = None
    """Where newer bundles are to be had; a hint that may change without a change of trust."""

    def __post_init__(self) -> None:
        if not isinstance(self.fleet, str) or not _FLEET.match(self.fleet):
            raise TrustError(f"trust anchor: fleet is {str(self.fleet)[:80]!r}, expected a short plain name")
        for name in ("officer_key", "aggregator_key"):
            key = getattr(self, name)
            if not isinstance(key, bytes) or len(key) != 32 or not any(key):
                raise TrustError(f"trust anchor: {name}: expected an Ed25519 public key of 32 bytes")
        if self.officer_key == self.aggregator_key:
            raise TrustError(
                "trust anchor: officer and aggregator have the same key: then nobody checks the aggregator"
            )
        if not isinstance(self.root, Mapping) or set(self.root) != {"signed", "signatures"}:
            raise TrustError("trust anchor: root: expected signed TUF root metadata")
        url = self.bundle_url
        if url is not None and (not isinstance(url, str) or not re.match(r"https?://[^\s?#@]{1,2000}\Z", url)):
            raise TrustError(f"trust anchor: bundle_url is {str(url)[:80]!r}, expected an http or https address")

    @property
    def root_bytes(self) -> bytes:
        """The first root metadata as TUF reads it."""
        return canonical_bytes(self.root)

    @property
    def hash(self) -> str:
        """SHA-256 of all that is trusted (not of the address), in hexadecimal."""
        return canonical_hash({**self.document(), "bundle_url": None})

    def document(self) -> dict[str, Any]:
        return {
            "format": TRUST_FORMAT,
            "fleet": self.fleet,
            "root": dict(self.root),
            "officer_key": self.officer_key.hex(),
            "aggregator_key": self.aggregator_key.hex(),
            "bundle_url": self.bundle_url,
        }

    def to_bytes(self) -> bytes:
        return canonical_bytes(self.document())

    @classmethod
    def from_bytes(cls, raw: bytes) -> TrustAnchor:
        """Parse. Raises TrustError."""
        try:
            document = parse_document(raw, limit_bytes=MAX_TRUST_BYTES)
            known = {"format", "fleet", "root", "officer_key", "aggregator_key"}
            _exact_fields("trust anchor", document, TRUST_FORMAT, known, {"bundle_url"})
            canonical_bytes(document)
        except WireError as error:
            raise TrustError(f"not a trust anchor: {error}") from error
        return cls(
            fleet=document["fleet"],
            root=document["root"],
            officer_key=_key("officer_key", document["officer_key"]),
            aggregator_key=_key("aggregator_key", document["aggregator_key"]),
            bundle_url=document.get("bundle_url"),
        )


def _key(name: str, value: Any) -> bytes:
    if not isinstance(value, str) or not _DIGEST.match(value):
        raise TrustError(f"trust anchor: {name}: expected 64 hexadecimal digits")
    return bytes.fromhex(value)


def _exact_fields(what: str, document: Mapping[str, Any], number: int, needed: set[str], optional: set[str]) -> None:
    if document.get("format") != number or isinstance(document.get("format"), bool):
        raise WireError(f"{what}: format is {str(document.get('format'))[:20]!r}, this version reads format {number}")
    if missing := needed - set(document):
        raise WireError(f"{what}: field {min(missing)!r} is missing")
    if unknown := set(document) - needed - optional:
        raise WireError(f"{what}: unknown field {min(unknown)[:80]!r}")


def _integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_VERSION:
        raise WireError(f"manifest: {name} is {str(value)[:80]!r}, expected a whole number from 0 to {MAX_VERSION}")


def _named(where: str, value: Any) -> None:
    if not isinstance(value, str) or not _NAME.match(value):
        raise WireError(f"{where}: {str(value)[:80]!r} is not a name (lower case letters, digits, underscores)")


def _said(where: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT_CHARS:
        raise WireError(f"{where}: expected texts of 1 to {MAX_TEXT_CHARS} characters")


def _digest(name: str, value: Any) -> None:
    if not isinstance(value, str) or not _DIGEST.match(value):
        raise WireError(f"manifest: {name} is {str(value)[:80]!r}, expected 64 hexadecimal digits")
