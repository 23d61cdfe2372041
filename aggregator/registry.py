"""The publisher's memory: which versions were released, and the way back to an older one.

`history.jsonl` lies with the publishing keys, one canonical JSON object a line, appended and synced after each release. If the
process dies between a release and its line, the next opening adds the line from the published manifest. Heads and encoders are
not copied: the repository never removes a target.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from aggregator.durable_files import file_sha256, sync_folder
from aggregator.publish import DEFAULT_LIFETIMES, BundleContents, default_keys_dir, publish, read_manifest
from aggregator.publishing_keys import only_publisher
from aggregator.repository import Lifetimes, Repository
from shared_models.bundle import (
    PHRASES_TARGET,
    RULES_ROLE,
    RULES_TARGET,
    TARGETS_FOLDER,
    TARGETS_ROLE,
    TEMPLATES_TARGET,
    Manifest,
    Wording,
    language_of_words,
)
from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import BundleTamperedError, CheckpointError, ConfigError, WireError
from shared_models.phrases import PublicPhrases
from shared_models.rules.ruleset import RuleSet

HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True)
class Release:
    """One line of the history."""

    manifest: Manifest
    restores: int | None = None
    """The older version whose head this release brought back; None for an ordinary release."""

    @property
    def version(self) -> int:
        return self.manifest.version

    def to_line(self) -> bytes:
        return canonical_bytes({"manifest": self.manifest.document(), "restores": self.restores}) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Release:
        document = parse_document(line)
        if set(document) != {"manifest", "restores"} or not isinstance(document["restores"], int | None):
            raise WireError("expected the fields manifest and restores")
        return cls(Manifest.from_bytes(canonical_bytes(document["manifest"])), document["restores"])


class Registry:
    """The releases of one bundle folder. Publish through it, so that they can be listed and rolled back."""

    def __init__(
        self, directory: Path, *, keys_dir: Path | None = None, lifetimes: Lifetimes = DEFAULT_LIFETIMES
    ) -> None:
        self.directory = directory
        self._keys_dir = keys_dir or default_keys_dir(directory)
        self._lifetimes = lifetimes
        self._file = self._keys_dir / HISTORY_FILE
        if not self._keys_dir.is_dir():
            raise ConfigError(f"{self._keys_dir}: no such folder of publishing keys; `keys_dir` says where they are")

    def history(self) -> tuple[Release, ...]:
        """All releases, oldest first. Raises CheckpointError if the file is damaged anywhere but at a torn end."""
        with only_publisher(self._keys_dir):
            return tuple(self._read())

    def publish(self, contents: BundleContents, now: float | None = None, *, restores: int | None = None) -> int:
        """Publish and remember; returns the version. Raises what `publish` raises."""
        with only_publisher(self._keys_dir):
            self._read()
            version = publish(self.directory, contents, now, keys_dir=self._keys_dir, lifetimes=self._lifetimes)
            manifest = read_manifest(self._repository())
            assert manifest is not None
            self._append(Release(manifest, restores))
            return version

    def rollback(self, version: int, now: float | None = None) -> int:
        """Publish the head of an older `version` (with its own encoder) under a new, higher number, which is returned.

        Devices never go back, so neither do numbers. Rules, wording, optional targets and policy stay as they are now, except
        what speaks of intents that the older head does not know. Raises ConfigError if there was no such release.
        """
        with only_publisher(self._keys_dir):
            releases = self._read()
            older = next((one.manifest for one in reversed(releases) if one.version == version), None)
            if older is None:
                known = ", ".join(str(one.version) for one in releases[-20:]) or "none yet"
                raise ConfigError(f"version {version} was never released here; releases: {known}")
            return self.publish(self._contents(older, releases[-1].version + 1), now, restores=version)

    def _contents(self, older: Manifest, version: int) -> BundleContents:
        repository = self._repository()
        rules, texts = (repository.read_target(RULES_ROLE, name) for name in (RULES_TARGET, TEMPLATES_TARGET))
        wording = Wording() if texts is None else Wording.from_bytes(texts)
        rule_set = RuleSet() if rules is None else RuleSet.from_document(parse_document(rules))
        known = {*older.labels, "out_of_scope", "unsure"}
        return BundleContents(
            encoder_model=self._target(older.encoder_target, older.encoder_sha256),
            tokenizer=self._target(older.tokenizer_target, older.tokenizer_sha256),
            head=self._target(older.head_target, older.head_sha256).read_bytes(),
            labels=older.labels,
            rules=RuleSet(tuple(rule for rule in rule_set.rules if set(rule.intents) <= known)),
            templates={name: said for name, said in wording.templates.items() if name in known},
            intent_labels={name: label for name, label in wording.intent_labels.items() if name in older.labels},
            domain=older.domain,
            version=version,
            optional=_fitting(repository, older.labels),
        )

    def _target(self, name: str, digest: str) -> Path:
        folder, _, file = name.partition("/")
        path = self.directory / TARGETS_FOLDER / folder / f"{digest}.{file}"
        if not path.is_file() or file_sha256(path) != digest:
            raise BundleTamperedError(
                f"{path}: released once, now missing or changed; restore it from a copy of the bundle"
            )
        return path

    def _repository(self) -> Repository:
        return Repository.read(self.directory, time.time(), self._lifetimes)

    def _read(self) -> list[Release]:
        raw = self._file.read_bytes() if self._file.exists() else b""
        whole, _, torn = raw.rpartition(b"\n")
        if torn:
            # The last append was cut short; what it would have said is in the published manifest.
            with self._file.open("r+b") as file:
                file.truncate(len(raw) - len(torn))
        releases = []
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
            try:
                releases.append(Release.from_line(line))
            except WireError as error:
                raise CheckpointError(f"{self._file}: line {number} is damaged: {error}") from error
        published = read_manifest(self._repository())
        if published is not None and published not in [one.manifest for one in releases[-1:]]:
            release = Release(published)
            self._append(release)
            releases.append(release)
        return releases

    def _append(self, release: Release) -> None:
        is_new = not self._file.exists()
        with self._file.open("ab") as file:
            file.write(release.to_line())
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(self._keys_dir)


def _fitting(repository: Repository, labels: tuple[str, ...]) -> dict[str, bytes]:
    """Published words and phrases without what speaks of other intents than `labels`."""
    known, made = {*labels, "out_of_scope", "unsure"}, {}
    for name in repository.targets_of(RULES_ROLE):
        if language_of_words(name) is not None and (raw := repository.read_target(RULES_ROLE, name)) is not None:
            said = Wording.from_bytes(raw)
            made[name] = Wording(
                {intent: texts for intent, texts in said.templates.items() if intent in known},
                {intent: label for intent, label in said.intent_labels.items() if intent in known},
            ).to_bytes()
    if (raw := repository.read_target(TARGETS_ROLE, PHRASES_TARGET)) is not None:
        phrases = PublicPhrases.from_bytes(raw)
        kept = {intent: texts for intent, texts in phrases.intents.items() if intent in known}
        made[PHRASES_TARGET] = PublicPhrases(kept, phrases.out_of_scope).to_bytes()
    return made
