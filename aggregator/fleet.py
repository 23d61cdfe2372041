"""A fleet's folder: what the central team keeps of one federated task.

DIR/fleet.json          name, format
DIR/domain/             a copy of the domain that the fleet was made with
DIR/keys/aggregator.*   signs plans and the ledger
DIR/officer.pub         whom this fleet's devices trust for policies (the secret key is never here)
DIR/policy.signed.json  the policy in force, and DIR/policy.role.json, the officer's metadata for the bundle
DIR/state.sqlite        ledger and checkpoints
DIR/bundle/             what is served; DIR/bundle-keys/ its publishing keys
DIR/enrolled/           public keys of enrolled devices
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nacl.signing

from aggregator.certificates import create_fleet_ca
from aggregator.checkpoint import FleetState
from aggregator.modelling import PublicPhrases
from aggregator.publish import BundleContents, create_repository, published_manifest, published_optional
from aggregator.registry import Registry
from aggregator.rounds import RoundRunner
from privacy.cli import write_atomically
from privacy.keys import load_public_key, load_signing_key, new_key_pair
from privacy.policy import Policy, parse_policy
from shared_models.bundle import BANDIT_PRIOR_TARGET, ITEM_SPACE_TARGET, ITEMS_TARGET, PLACES_TARGET
from shared_models.canonical import Envelope
from shared_models.domain import Domain, load_domain
from shared_models.domain_targets import domain_targets, has_catalogue
from shared_models.encoder import EncoderFiles, build_encoder
from shared_models.errors import CheckpointError, ConfigError, HaltedError, PolicyError, TacitError, WireError
from shared_models.intent_head import to_onnx
from shared_models.text_encoder import TextEncoder

FORMAT = 1
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Fleet:
    """One fleet's folder, opened."""

    directory: Path
    name: str

    # -- making and opening ---------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        name: str,
        domain: Path,
        officer_public_key: bytes,
        hostnames: tuple[str, ...] = (),
        progress: Progress | None = None,
    ) -> Fleet:
        """Make keys, certificates, the bootstrap model and its first signed bundle. Raises ConfigError, DomainError."""
        if directory.exists() and any(directory.iterdir()):
            raise ConfigError(f"{directory}: exists and is not empty")
        loaded = load_domain(domain)
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copytree(domain, directory / "domain")
        new_key_pair(directory / "keys", "aggregator")
        write_atomically(directory / "officer.pub", f"{officer_public_key.hex()}\n".encode())
        create_fleet_ca(directory, hostnames)
        fleet = cls(directory, name)
        build_bundle(
            directory / "bundle",
            loaded,
            officer_public_key=officer_public_key,
            aggregator_public_key=fleet.aggregator_public_key,
            fleet=name,
            progress=progress,
        )
        # Last, so that a folder with this file is a whole one.
        write_atomically(directory / "fleet.json", json.dumps({"format": FORMAT, "fleet": name}).encode())
        return fleet

    @classmethod
    def open(cls, directory: Path) -> Fleet:
        """Raises ConfigError if `directory` is not a fleet's folder."""
        try:
            document = json.loads((directory / "fleet.json").read_text(encoding="utf-8"))
            if document["format"] != FORMAT or not isinstance(document["fleet"], str):
                raise ValueError("unknown format")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{directory}: not a fleet's folder; `tacit-fleet init {directory}` makes one") from error
        return cls(directory, document["fleet"])

    # -- its parts ------------------------------------------------------------------------------------------------

    @property
    def bundle(self) -> Path:
        return self.directory / "bundle"

    @property
    def aggregator_public_key(self) -> bytes:
        return load_public_key(self.directory / "keys" / "aggregator.pub")

    @property
    def officer_public_key(self) -> bytes:
        return load_public_key(self.directory / "officer.pub")

    def signing_key(self) -> nacl.signing.SigningKey:
        return load_signing_key(self.directory / "keys" / "aggregator.key")

    def domain(self) -> Domain:
        return load_domain(self.directory / "domain")

    def policy_envelope(self) -> Envelope:
        """Raises PolicyError if there is none yet."""
        try:
            return Envelope.from_bytes((self.directory / "policy.signed.json").read_bytes())
        except FileNotFoundError as error:
            raise PolicyError(
                "this fleet has no signed policy yet: the officer signs one (`tacit-privacy policy init`, `policy sign`), "
                f"then `tacit-fleet policy {self.directory} policy.signed.json`"
            ) from error
        except (OSError, WireError) as error:
            raise PolicyError(f"{self.directory / 'policy.signed.json'}: cannot be read: {error}") from error

    def policy(self) -> Policy:
        return parse_policy(self.policy_envelope(), self.officer_public_key)

    def state(self, *, read_only: bool = False) -> FleetState:
        return FleetState(self.directory / "state.sqlite", None if read_only else self.signing_key())

    def phrases(self) -> PublicPhrases:
        return PublicPhrases.of(self.domain(), load_encoder(build_encoder()))

    # -- what the team does ---------------------------------------------------------------------------------------

    def adopt_policy(self, envelope_bytes: bytes, role: bytes) -> Policy:
        """Take a newer policy of the officer's into force: folder, bundle and ledger.

        Raises PolicyError, and BundleError if `role` is not the officer's for this policy; the one before stays in force.
        """
        try:
            envelope = Envelope.from_bytes(envelope_bytes)
        except WireError as error:
            raise PolicyError(f"not a signed policy: {error}") from error
        policy = parse_policy(envelope, self.officer_public_key)
        if policy.fleet != self.name:
            raise PolicyError(f"this policy is for fleet {policy.fleet!r}, this fleet is {self.name!r}")
        if policy.aggregator_key != self.aggregator_public_key:
            raise PolicyError("this policy names another aggregator's key than this fleet's")
        files = self.directory / "policy.role.json", self.directory / "policy.signed.json"
        before = [path.read_bytes() if path.exists() else None for path in files]
        if before[1] is not None:
            current = self.policy()
            if policy.sequence < current.sequence:
                raise PolicyError(
                    f"policy {policy.sequence} is older than policy {current.sequence}, which is in force"
                )
            if policy.sequence == current.sequence and policy.hash != current.hash:
                raise PolicyError(f"another policy {policy.sequence} is in force: a change needs a higher number")
        write_atomically(files[0], role)
        write_atomically(files[1], envelope_bytes)
        try:
            self.publish(self.published_version())
        except TacitError:
            # What devices cannot have is not in force here either.
            for path, content in zip(files, before, strict=True):
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    write_atomically(path, content)
            raise
        self.record_policy()
        return policy

    def check_may_run(self, now_s: float) -> None:
        """Raises PolicyError without a policy in force at `now_s` (Unix seconds), HaltedError if the officer has halted."""
        policy = self.policy()
        policy.check_valid_at(now_s)
        if policy.halted:
            raise HaltedError(f"the privacy officer has halted contributions: {policy.reason or 'no reason given'}")

    def record_policy(self) -> None:
        """Write the policy in force into the ledger, as its genesis or as a change; once per policy."""
        envelope, policy = self.policy_envelope(), self.policy()
        state = self.state()
        try:
            entries = state.entries()
            recorded = [item for item in entries if item.kind in ("genesis", "policy")]
            if not recorded:
                body = {"fleet": self.name, "officer_key": self.officer_public_key.hex(), "policy": envelope.document()}
                state.append("genesis", body)
            elif Envelope.from_document(recorded[-1].body["policy"]).hash != policy.hash:
                state.append("policy", {"policy": envelope.document()})
        finally:
            state.close()

    def runner(self, state: FleetState) -> RoundRunner:
        """Ready to run rounds: the model is begun from the public phrases if there is none yet.

        Raises PolicyError if there is no policy, or one that the ledger does not know (a killed adoption).
        """
        manifest = published_manifest(self.bundle)
        if manifest is None:
            raise CheckpointError(f"{self.bundle}: nothing is published yet")
        recorded = [entry for entry in state.entries() if entry.kind in ("genesis", "policy")]
        if not recorded or Envelope.from_document(recorded[-1].body["policy"]).hash != self.policy().hash:
            raise PolicyError("the policy in force is not in the ledger: adopt it again (`tacit-fleet policy`)")
        runner = RoundRunner(state, self.policy(), self.signing_key(), manifest.encoder_sha256)
        if state.checkpoint() is None:
            phrases = self.phrases()
            runner.begin(phrases.domain.labels, phrases.seed_weights(), 0)
        return runner

    def published_version(self) -> int:
        manifest = published_manifest(self.bundle)
        return manifest.version if manifest else 0

    def publish(self, version: int | None = None) -> int:
        """Publish the released model (tail average) and artefacts, with the domain's rules, words and catalogue.

        Returns the version. Without `version`: the next one, recorded in the ledger, or the published one if only artefacts are
        new. With the published one the model stays as it is. Raises CheckpointError if there is nothing new.
        """
        state = self.state()
        try:
            checkpoint = state.checkpoint()
            published = self.published_version()
            artifacts = _artifacts(state)
            if version is None and not _has_new_model(state):
                known = published_optional(self.bundle)
                if not artifacts and (checkpoint is None or not checkpoint.rounds_done):
                    raise CheckpointError("no round has been released yet, so there is no new model to publish")
                if all(known.get(name) == hashlib.sha256(raw).hexdigest() for name, raw in artifacts.items()):
                    raise CheckpointError(f"nothing new: no round was released since release {published} was published")
                version = published
            if version is None:
                assert checkpoint is not None
                weights, version = checkpoint.released_weights(), published + 1
                raw = to_onnx(self.phrases().head(weights, version))
            else:
                manifest = published_manifest(self.bundle)
                assert manifest is not None
                name = f"{manifest.head_sha256}.{manifest.head_target.rpartition('/')[2]}"
                raw = (self.bundle / "targets" / manifest.head_target.rpartition("/")[0] / name).read_bytes()
            contents = _contents(self.domain(), build_encoder(), raw, version, artifacts)
            role = self.directory / "policy.role.json"
            if role.exists():
                policy = {"policy": self.policy_envelope().to_bytes(), "policy_role": role.read_bytes()}
                contents = BundleContents(**{**contents.__dict__, **policy})
            if version > published:
                Registry(self.bundle).publish(contents)
                manifest = published_manifest(self.bundle)
                assert manifest is not None
                state.append("publish", {"version": version, "head_sha256": manifest.head_sha256})
            else:
                Registry(self.bundle).publish(contents)
            return version
        finally:
            state.close()


def load_encoder(files: EncoderFiles) -> TextEncoder:
    return TextEncoder(files.model, files.tokenizer, expected_sha256=files.model_sha256)


def build_bundle(
    directory: Path,
    domain: Domain,
    *,
    officer_public_key: bytes,
    aggregator_public_key: bytes,
    fleet: str,
    progress: Progress | None = None,
) -> None:
    """A signed bootstrap bundle: encoder, the head that seed phrases give, rules, wording; no policy, so nothing can leave.

    Raises ConfigError if `directory` holds anything.
    """
    files = build_encoder(progress=progress)
    phrases = PublicPhrases.of(domain, load_encoder(files))
    head = to_onnx(phrases.head(phrases.seed_weights(), 0))
    create_repository(
        directory,
        officer_public_key=officer_public_key,
        aggregator_public_key=aggregator_public_key,
        fleet=fleet,
    )
    places = {}
    if has_catalogue(domain):
        if progress is not None:
            progress("names of places", 1.0)
        from shared_models.languages.places_source import build_place_list

        places = {PLACES_TARGET: build_place_list().to_bytes()}
    Registry(directory).publish(_contents(domain, files, head, 0, places))


def _has_new_model(state: FleetState) -> bool:
    """True if a round has changed the model since it was published."""
    checkpoint = state.checkpoint()
    if checkpoint is None or not checkpoint.rounds_done:
        return False
    kinds = [
        entry.kind
        for entry in state.entries()
        if entry.kind == "publish" or (entry.kind == "release" and "checkpoint_sha256" in entry.body)
    ]
    return kinds[-1:] != ["publish"]


def _artifacts(state: FleetState) -> dict[str, bytes]:
    """What rounds other than the model's have made for devices."""
    made = {name: state.artifact(name) for name in (ITEMS_TARGET, ITEM_SPACE_TARGET, BANDIT_PRIOR_TARGET)}
    return {name: raw for name, raw in made.items() if raw is not None}


def _contents(
    domain: Domain, files: EncoderFiles, head: bytes, version: int, made: Mapping[str, bytes | None]
) -> BundleContents:
    """`made`: optional targets that do not come from the domain."""
    return BundleContents(
        encoder_model=files.model,
        tokenizer=files.tokenizer,
        head=head,
        labels=domain.labels,
        rules=domain.rules,
        templates=domain.templates,
        intent_labels={spec.name: spec.label for spec in domain.intents},
        domain=domain.name,
        version=version,
        optional={**domain_targets(domain), **made},
    )
