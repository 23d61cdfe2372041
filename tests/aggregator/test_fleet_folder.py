"""A fleet's folder on a second, tiny domain: made, opened, put under a policy, trained and published; wrong parts are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import nacl.signing
import numpy as np
import pytest
from optional_parts import all_parts

from aggregator.fleet import Fleet
from aggregator.publish import published_manifest, published_optional
from aggregator.rounds import RoundSettings
from aggregator.simulate import FixedExamples, light_port, newcomer
from edge_client.share.agent.client_app import make_client_app
from privacy.cli import sign_for_fleet
from privacy.keys import new_key_pair
from privacy.policy_text import PolicyDraft, draft_policy
from privacy.reports import verify_ledger
from shared_models.bundle import ITEM_SPACE_TARGET, ITEMS_TARGET
from shared_models.domain import load_domain
from shared_models.errors import BundleError, CheckpointError, ConfigError, DomainError, PolicyError, TacitError
from shared_models.intent_head import features
from shared_models.text_encoder import TextEncoder

OFFICER = nacl.signing.SigningKey(bytes(range(32)))
STRANGER = nacl.signing.SigningKey(bytes(range(1, 33)))
DEVICES = 4


def policy(of: Fleet, key: nacl.signing.SigningKey = OFFICER, **change: object) -> tuple[bytes, bytes]:
    wish = PolicyDraft(of.name, of.aggregator_public_key, 4.0, 8, 100, 3)
    envelope, role = sign_for_fleet(draft_policy(replace(wish, **change)), key)
    return envelope.to_bytes(), role


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory, tiny_domain_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("made") / "fleet"
    Fleet.create(folder, name="library", domain=tiny_domain_dir, officer_public_key=bytes(OFFICER.verify_key))
    return folder


@pytest.fixture
def folder(_made: Path, tmp_path: Path) -> Fleet:
    """A fleet without a policy."""
    shutil.copytree(_made, tmp_path / "fleet")
    return Fleet.open(tmp_path / "fleet")


@pytest.fixture(scope="module")
def _governed(_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("governed") / "fleet"
    shutil.copytree(_made, folder)
    fleet = Fleet.open(folder)
    fleet.adopt_policy(*policy(fleet))
    return folder


@pytest.fixture
def governed(_governed: Path, tmp_path: Path) -> Fleet:
    """A fleet under its first policy."""
    shutil.copytree(_governed, tmp_path / "fleet")
    return Fleet.open(tmp_path / "fleet")


def run_rounds(fleet: Fleet, encoder: TextEncoder, rounds: int) -> None:
    domain = load_domain(fleet.directory / "domain")
    said = [utterance for spec in domain.intents for utterance in spec.train][:40]
    center = fleet.phrases().center
    rows = features(encoder.encode([utterance.text for utterance in said]), center)
    ports = [
        light_port(
            FixedExamples(encoder.sha256, rows[index::DEVICES], [u.intent for u in said[index::DEVICES]]),
            fleet.policy_envelope(),
            fleet.officer_public_key,
            time.time,
        )
        for index in range(DEVICES)
    ]
    from aggregator.grid import InProcessGrid

    app = make_client_app(lambda context: ports[int(context.node_config["partition-id"])])
    state = fleet.state()
    try:
        fleet.runner(state).run(InProcessGrid(app, DEVICES), RoundSettings(rounds=rounds))
    finally:
        state.close()


def test_a_new_fleet_is_opened_again(folder: Fleet) -> None:
    assert folder.name == "library"
    assert folder.officer_public_key == bytes(OFFICER.verify_key)
    assert bytes(folder.signing_key().verify_key) == folder.aggregator_public_key
    assert folder.domain().name == load_domain(folder.directory / "domain").name
    assert folder.published_version() == 0
    manifest = published_manifest(folder.bundle)
    assert manifest is not None
    key = folder.directory / "keys" / "aggregator.key"
    assert key.stat().st_mode & 0o077 == 0
    with pytest.raises(PolicyError, match="no signed policy yet"):
        folder.policy()


def test_a_folder_that_is_in_use_is_not_overwritten(folder: Fleet, tiny_domain_dir: Path) -> None:
    before = sorted(path.relative_to(folder.directory) for path in folder.directory.rglob("*"))
    with pytest.raises(ConfigError, match="exists and is not empty"):
        Fleet.create(folder.directory, name="x", domain=tiny_domain_dir, officer_public_key=bytes(OFFICER.verify_key))
    assert sorted(path.relative_to(folder.directory) for path in folder.directory.rglob("*")) == before


def test_a_damaged_domain_makes_no_fleet(tiny_domain_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_domain_dir, tmp_path / "domain")
    (tmp_path / "domain" / "domain.yaml").write_text("domain: [")
    with pytest.raises(DomainError):
        Fleet.create(tmp_path / "f", name="x", domain=tmp_path / "domain", officer_public_key=bytes(32))
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "null", '{"format": 2, "fleet": "x"}', '{"format": 1, "fleet": 7}']
)
def test_what_is_not_a_fleet_is_not_opened(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "fleet.json").write_text(text)
    with pytest.raises(ConfigError, match="not a fleet's folder"):
        Fleet.open(tmp_path)


def test_an_adopted_policy_is_in_folder_ledger_and_bundle(governed: Fleet, tmp_path: Path) -> None:
    adopted = governed.policy()
    state = governed.state(read_only=True)
    (entry,) = state.entries()
    assert entry.kind == "genesis"
    assert entry.body["policy"] == governed.policy_envelope().document()
    state.close()
    with newcomer(tmp_path / "device", governed.bundle) as client:
        assert client.published_policy == governed.policy_envelope().to_bytes()
        gate_policy = client.device_port().gate.policy
        assert gate_policy is not None
        assert gate_policy.hash == adopted.hash
    # Again the same: no second entry.
    governed.adopt_policy(governed.policy_envelope().to_bytes(), (governed.directory / "policy.role.json").read_bytes())
    state = governed.state(read_only=True)
    assert len(state.entries()) == 1
    state.close()


def in_force(fleet: Fleet) -> tuple[object, ...]:
    state = fleet.state(read_only=True)
    try:
        signed, role = fleet.directory / "policy.signed.json", fleet.directory / "policy.role.json"
        return (
            signed.read_bytes() if signed.exists() else None,
            role.read_bytes() if role.exists() else None,
            state.lines(),
        )
    finally:
        state.close()


def refused(fleet: Fleet, signed: bytes, role: bytes, kind: type[TacitError], match: str = "policy") -> None:
    before = in_force(fleet)
    with pytest.raises(kind, match=match):
        fleet.adopt_policy(signed, role)
    assert in_force(fleet) == before


def test_policies_that_do_not_fit_are_refused_and_change_nothing(folder: Fleet) -> None:
    good, role = policy(folder)
    refused(folder, *policy(folder, STRANGER), PolicyError, "not by key")
    refused(folder, *policy(folder, fleet="another"), PolicyError, "is for fleet 'another'")
    refused(folder, *policy(folder, aggregator_key=bytes(STRANGER.verify_key)), PolicyError, "another aggregator's key")
    refused(folder, b"", role, PolicyError, "not a signed policy")
    refused(folder, b"\xff\x00", role, PolicyError, "not a signed policy")
    document = json.loads(good)
    document["payload"] = document["payload"][:-8] + "AAAAAAAA"
    refused(folder, json.dumps(document).encode(), role, PolicyError)
    refused(folder, good, policy(folder, STRANGER)[1], BundleError)
    refused(folder, good, policy(folder, sequence=2)[1], TacitError)
    folder.adopt_policy(good, role)
    assert folder.policy().sequence == 1


def test_an_older_or_another_policy_of_the_same_number_is_refused(governed: Fleet) -> None:
    refused(governed, *policy(governed, min_survivors=4), PolicyError, "a change needs a higher number")
    newer = policy(governed, sequence=3)
    governed.adopt_policy(*newer)
    refused(governed, *policy(governed, sequence=2), PolicyError, "policy 2 is older than policy 3")
    state = governed.state(read_only=True)
    assert [entry.kind for entry in state.entries()] == ["genesis", "policy"]
    state.close()


def test_no_round_runs_without_a_policy_that_the_ledger_knows(governed: Fleet) -> None:
    state = governed.state()
    signed, _ = policy(governed, sequence=2)
    # As a kill between folder and ledger would leave it.
    (governed.directory / "policy.signed.json").write_bytes(signed)
    with pytest.raises(PolicyError, match="not in the ledger"):
        governed.runner(state)
    state.close()


def test_nothing_is_published_before_a_round_was_released(governed: Fleet) -> None:
    with pytest.raises(CheckpointError, match="no round has been released"):
        governed.publish()
    assert governed.published_version() == 0


def test_artefacts_of_other_rounds_are_published_beside_the_model_that_stays(governed: Fleet) -> None:
    made = {name: raw for name, raw in all_parts(0).items() if name in (ITEMS_TARGET, ITEM_SPACE_TARGET) and raw}
    state = governed.state()
    state.append("artifact", {"study": "items", "rounds": []}, artifacts={**made, "drift.json": b"{}"})
    state.close()
    before = published_manifest(governed.bundle)
    assert before is not None
    assert governed.publish() == 0
    after = published_manifest(governed.bundle)
    assert after is not None
    assert after.head_sha256 == before.head_sha256
    hashes = {name: hashlib.sha256(raw).hexdigest() for name, raw in made.items()}
    assert {name: digest for name, digest in published_optional(governed.bundle).items() if name in hashes} == hashes
    assert "drift.json" not in published_optional(governed.bundle)
    with pytest.raises(CheckpointError, match="nothing new"):
        governed.publish()


def test_a_device_gets_the_head_that_was_learned(governed: Fleet, text_encoder: TextEncoder, tmp_path: Path) -> None:
    with newcomer(tmp_path / "device", governed.bundle) as client:
        before = client.status()
        run_rounds(governed, text_encoder, 2)
        assert governed.publish() == 1
        client.refresh()
        after = client.status()
        assert before != after
        assert client.recognize("when do you open on sunday").intent in governed.domain().labels
        head = client.model
    state = governed.state(read_only=True)
    checkpoint = state.checkpoint()
    assert checkpoint is not None
    assert np.abs(checkpoint.released_weights() - governed.phrases().seed_weights()).max() > 0
    manifest = published_manifest(governed.bundle)
    assert manifest is not None
    assert manifest.version == governed.published_version() == 1
    assert state.entries()[-1].kind == "publish"
    assert state.entries()[-1].body["head_sha256"] == manifest.head_sha256
    verify_ledger(state.lines(), bytes(OFFICER.verify_key))
    state.close()
    assert tuple(head.labels) == governed.domain().labels


def test_another_aggregators_key_does_not_open_the_state(governed: Fleet, tmp_path: Path) -> None:
    secret, public = new_key_pair(tmp_path / "others", "aggregator")
    shutil.copy(secret, governed.directory / "keys" / "aggregator.key")
    shutil.copy(public, governed.directory / "keys" / "aggregator.pub")
    with pytest.raises(CheckpointError, match="ledger is damaged"):
        governed.state()
