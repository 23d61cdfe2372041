"""Whatever a source, a network or an operator with some of the keys offers, a device keeps the bundle that it verified."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nacl.signing
import pytest
from published_fleet import PublishedFleet, serving
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import DelegatedRole, Key, Metadata, TargetFile, Targets

from edge_client.bundles import BundleStore
from shared_models.bundle import Manifest
from shared_models.canonical import Envelope
from shared_models.errors import (
    BundleError,
    BundleExpiredError,
    BundleRollbackError,
    BundleTamperedError,
    BundleUnavailableError,
)


@pytest.fixture(scope="module")
def settled(_first_release: PublishedFleet, tmp_path_factory: pytest.TempPathFactory) -> PublishedFleet:
    """A fleet that published release 1 with a policy, and a device that runs it."""
    published = _first_release.copied_to(tmp_path_factory.mktemp("settled"))
    published.publish(1, **published.policy("sequence: 1", 1))
    published.device().refresh(published.folder)
    return published


@pytest.fixture
def fleet(settled: PublishedFleet, tmp_path: Path) -> PublishedFleet:
    return settled.copied_to(tmp_path)


@pytest.fixture
def device(fleet: PublishedFleet) -> BundleStore:
    return fleet.device()


def refused(fleet: PublishedFleet, device: BundleStore, error: type[BundleError], match: str | None = None) -> None:
    """The device with a history refuses, and stays as it was; so does one that sees the bundle for the first time."""
    with pytest.raises(error, match=match):
        device.refresh(fleet.folder)
    still_release_1(fleet)


def refused_by_all(
    fleet: PublishedFleet, device: BundleStore, error: type[BundleError], match: str | None = None
) -> None:
    refused(fleet, device, error, match)
    newcomer = fleet.device("newcomer")
    with pytest.raises(error, match=match):
        newcomer.refresh(fleet.folder)
    assert newcomer.current() is None


def still_release_1(fleet: PublishedFleet) -> None:
    active = fleet.device().current()
    assert active is not None
    assert (active.manifest.version, active.head) == (1, b"head 1")
    assert active.encoder_model.read_bytes() == fleet.encoder.read_bytes()


def test_rollback_to_an_older_repository(fleet: PublishedFleet, device: BundleStore) -> None:
    old = fleet.copy("old")
    fleet.publish(2)
    device.refresh(fleet.folder)
    with pytest.raises(BundleRollbackError):
        device.refresh(old)
    active = fleet.device().current()
    assert active is not None
    assert active.manifest.version == 2


def test_rollback_of_the_manifest_by_the_release_key(fleet: PublishedFleet, device: BundleStore) -> None:
    # The operator signs an old release with newer TUF versions: TUF cannot see it, the device does.
    active = device.current()
    assert active is not None
    lower = Manifest(**{**active.manifest.__dict__, "version": 0, "head_sha256": hashlib.sha256(b"head 0").hexdigest()})

    def change(targets: Targets) -> None:
        for name, raw in (("manifest.json", lower.to_bytes()), ("head/0.onnx", b"head 0")):
            targets.targets[name] = fleet.put_target(name, raw)

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused(fleet, device, BundleRollbackError, "release 0")


def test_rollback_of_one_role_behind_a_newer_snapshot(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        targets.version = 1

    fleet.rewrite("rules", change, [fleet.signer("rules-1"), fleet.signer("rules-2")])
    refused(fleet, device, BundleRollbackError)


def test_freeze_a_server_that_repeats_an_old_timestamp_is_refused_once_it_has_expired(
    fleet: PublishedFleet, device: BundleStore
) -> None:
    with serving(fleet.folder) as url:
        assert device.refresh(url) == "fresh"
        fleet.now_s += 2 * 86_400
        with pytest.raises(BundleExpiredError):
            device.refresh(url)
        with pytest.raises(BundleUnavailableError):
            fleet.device("newcomer").refresh(url, fleet.trust)
        assert device.staleness == "stale"
        fleet.refresh_timestamp()
        assert device.refresh(url) == "fresh"


def test_mix_and_match_of_two_releases(fleet: PublishedFleet, device: BundleStore) -> None:
    old = fleet.copy("old")
    fleet.publish(2)
    timestamp = json.loads((fleet.folder / "metadata" / "timestamp.json").read_bytes())
    number = timestamp["signed"]["meta"]["snapshot.json"]["version"]
    previous = max((old / "metadata").glob("*.snapshot.json"), key=lambda path: int(path.name.split(".")[0]))
    (fleet.folder / "metadata" / f"{number}.snapshot.json").write_bytes(previous.read_bytes())
    refused_by_all(fleet, device, BundleTamperedError)


def test_a_manifest_that_names_another_head_or_encoder_than_the_one_published(
    fleet: PublishedFleet, device: BundleStore
) -> None:
    active = device.current()
    assert active is not None

    def change(targets: Targets) -> None:
        wrong = Manifest(**{**active.manifest.__dict__, "version": 2, "head_sha256": "0" * 64})
        targets.targets["manifest.json"] = fleet.put_target("manifest.json", wrong.to_bytes())
        targets.targets["head/2.onnx"] = fleet.put_target("head/2.onnx", b"another head")

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, "manifest")

    def change_encoder(targets: Targets) -> None:
        wrong = Manifest(**{**active.manifest.__dict__, "version": 2, "encoder_sha256": "0" * 64})
        targets.targets["manifest.json"] = fleet.put_target("manifest.json", wrong.to_bytes())
        targets.targets["head/2.onnx"] = fleet.put_target("head/2.onnx", b"head 1")

    fleet.rewrite("targets", change_encoder, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, "lacks")


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b"\xff", b"{" * 9000, b'{"format":1, "version":2}'])
def test_a_signed_manifest_that_is_none(fleet: PublishedFleet, device: BundleStore, raw: bytes) -> None:
    def change(targets: Targets) -> None:
        targets.targets["manifest.json"] = fleet.put_target("manifest.json", raw)

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError)


@pytest.mark.parametrize("name", ["rules.json", "templates.json"])
@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b"\xff", b"[" * 9000, b'{"rules":[{"id":1}]}'])
def test_signed_rules_or_templates_that_are_none(
    fleet: PublishedFleet, device: BundleStore, name: str, raw: bytes
) -> None:
    def change(targets: Targets) -> None:
        targets.targets[name] = fleet.put_target(name, raw)

    fleet.rewrite("rules", change, [fleet.signer("rules-1"), fleet.signer("rules-2")])
    refused_by_all(fleet, device, BundleTamperedError)


@pytest.mark.parametrize("kind", ["head", "encoder", "manifest", "rules", "templates", "policy"])
@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: b"Y" + raw[1:]])
def test_target_bytes_that_differ_from_what_was_signed(
    fleet: PublishedFleet, device: BundleStore, kind: str, change: Callable[[bytes], bytes]
) -> None:
    fleet.encoder.write_bytes(b"encoder two" * 5000)
    before = {path for path in (fleet.folder / "targets").rglob("*")}
    fleet.publish(
        2, templates={"greeting": ("New.",)}, rules=fleet.contents(2).rules.__class__(), **fleet.policy("b: 1", 2)
    )
    (path,) = (
        path
        for path in set((fleet.folder / "targets").rglob("*")) - before
        if kind in str(path.relative_to(fleet.folder))
    )
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BundleTamperedError):
        device.refresh(fleet.folder)
    active = fleet.device().current()
    assert active is not None
    assert active.head == b"head 1"


def test_every_metadata_file_whose_signature_or_content_was_touched(fleet: PublishedFleet, device: BundleStore) -> None:
    fleet.publish(2, templates={"greeting": ("New.",)}, **fleet.policy("sequence: 2", 2))
    sound = fleet.copy("sound")
    newest = ["timestamp.json"]
    for role in ("snapshot", "targets", "rules", "privacy-policy"):
        newest.append(
            max(
                (path.name for path in (sound / "metadata").glob(f"*.{role}.json")),
                key=lambda name: int(name.split(".")[0]),
            )
        )
    for name in newest:
        path = fleet.folder / "metadata" / name
        raw = path.read_bytes()
        document = json.loads(raw)
        unsigned = {**document, "signatures": []}
        forged = json.loads(raw)
        forged["signed"]["expires"] = "2099-01-01T00:00:00Z"
        for bad in (
            b"",
            b"null",
            b"\x00\xff",
            raw[: len(raw) // 2],
            json.dumps(unsigned).encode(),
            json.dumps(forged).encode(),
        ):
            path.write_bytes(bad)
            refused(fleet, device, BundleTamperedError)
        path.write_bytes(raw)
    assert device.refresh(fleet.folder) == "fresh"


def test_rules_signed_by_one_key_only(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        targets.targets["rules.json"] = fleet.put_target("rules.json", b'{"format":1,"rules":[]}')

    fleet.rewrite("rules", change, [fleet.signer("rules-1")])
    refused_by_all(fleet, device, BundleTamperedError)
    fleet.rewrite("rules", change, [fleet.signer("rules-1"), fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError)


def test_rules_delegated_with_a_threshold_of_one(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.delegations.roles["rules"].threshold = 1

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, "two|2 different")


def test_rules_delegated_to_one_key_under_two_names(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        delegations = targets.delegations
        assert delegations is not None
        assert delegations.roles is not None
        role = delegations.roles["rules"]
        one = delegations.keys[role.keyids[0]]
        twin = SSlibKey("f" * 64, one.keytype, one.scheme, dict(one.keyval))
        delegations.keys[twin.keyid] = twin
        role.keyids = [one.keyid, twin.keyid]

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, "different keys")


def test_the_rule_keys_cannot_sign_a_model(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        targets.targets["head/2.onnx"] = fleet.put_target("head/2.onnx", b"the rule keys' head")

    fleet.rewrite("rules", change, [fleet.signer("rules-1"), fleet.signer("rules-2")])
    refused_by_all(fleet, device, BundleTamperedError, "only targets may")


@pytest.mark.parametrize("name", ["rules.json", "templates.json", "privacy-policy.json", "encoder/0.onnx"])
def test_the_release_key_cannot_sign_what_belongs_to_others(
    fleet: PublishedFleet, device: BundleStore, name: str
) -> None:
    def change(targets: Targets) -> None:
        targets.targets[name] = fleet.put_target(name, b'{"format":1,"rules":[]}')

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, "only .* may")


def test_a_policy_role_signed_by_an_operators_key(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        targets.targets["privacy-policy.json"] = fleet.put_target("privacy-policy.json", b"{}")

    fleet.rewrite("privacy-policy", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError)


def test_a_policy_role_delegated_to_an_operators_key(fleet: PublishedFleet, device: BundleStore) -> None:
    operator = nacl.signing.SigningKey.generate()
    forged = fleet.policy("sequence: 9", 9, operator)

    def delegate(targets: Targets) -> None:
        delegations = targets.delegations
        assert delegations is not None
        assert delegations.roles is not None
        key = ed25519_key(operator)
        delegations.keys[key.keyid] = key
        delegations.roles["privacy-policy"].keyids = [key.keyid]

    def carry(targets: Targets) -> None:
        role = Metadata[Targets].from_bytes(forged["policy_role"]).signed
        targets.version = role.version
        targets.targets = role.targets

    fleet.put_target("privacy-policy.json", forged["policy"])
    fleet.rewrite("targets", delegate, [fleet.signer("targets")])
    fleet.rewrite("privacy-policy", carry, [signer_of(operator)])
    refused_by_all(fleet, device, BundleTamperedError, "officer")


def test_the_officers_key_beside_an_operators_is_not_the_officers_alone(
    fleet: PublishedFleet, device: BundleStore
) -> None:
    operator = ed25519_key(nacl.signing.SigningKey.generate())

    def delegate(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.delegations.keys[operator.keyid] = operator
        targets.delegations.roles["privacy-policy"].keyids.append(operator.keyid)

    fleet.rewrite("targets", delegate, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, "officer")


@pytest.mark.parametrize("name", ["privacy-policy.json", "templates.json", "rules.json"])
def test_another_role_put_before_the_one_that_owns_a_target(
    fleet: PublishedFleet, device: BundleStore, name: str
) -> None:
    operator = nacl.signing.SigningKey.generate()
    key = ed25519_key(operator)

    def delegate(targets: Targets) -> None:
        delegations = targets.delegations
        assert delegations is not None
        assert delegations.roles is not None
        delegations.keys[key.keyid] = key
        first = DelegatedRole("shadow", [key.keyid], 1, terminating=True, paths=[name])
        delegations.roles = {"shadow": first, **delegations.roles}

    def claim(targets: Targets) -> None:
        forged = b'{"format":1,"intent_labels":{},"rules":[],"templates":{}}'
        targets.targets[name] = fleet.put_target(name, forged)

    fleet.rewrite("shadow", claim, [signer_of(operator)])
    fleet.rewrite("targets", delegate, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, r"shadow|does not come from role")


def test_a_policy_that_the_officer_did_not_seal_inside_a_role_that_the_officer_signed(
    fleet: PublishedFleet, device: BundleStore
) -> None:
    # Only a mistake of the officer's could make this: role and envelope are checked apart.
    other = fleet.policy("sequence: 2", 2, nacl.signing.SigningKey.generate())["policy"]

    def change(targets: Targets) -> None:
        targets.targets["privacy-policy.json"] = fleet.put_target("privacy-policy.json", other)

    def name_it(targets: Targets) -> None:
        active = device.current()
        assert active is not None
        manifest = replace(active.manifest, policy_hash=Envelope.from_bytes(other).hash)
        targets.targets["manifest.json"] = fleet.put_target("manifest.json", manifest.to_bytes())

    fleet.rewrite("privacy-policy", change, [signer_of(fleet.officer)])
    refused_by_all(fleet, device, BundleTamperedError, "signature")
    fleet.rewrite("targets", name_it, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, "signature")


def test_a_policy_left_out_of_the_bundle(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        targets.targets = {}

    fleet.rewrite("privacy-policy", change, [signer_of(fleet.officer)])
    refused_by_all(fleet, device, BundleTamperedError, "policy")


def test_a_bundle_without_delegations(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        targets.delegations = None

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError)


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/evil", "head/../../evil", "a//b", ".hidden", "head/\\evil", "x" * 300]
)
def test_target_names_that_lead_elsewhere(fleet: PublishedFleet, device: BundleStore, name: str) -> None:
    def change(targets: Targets) -> None:
        targets.targets[name] = TargetFile.from_data(name, b"evil", ["sha256"])

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, "not a name")
    assert not list(fleet.root.rglob("*evil*"))


def test_a_target_that_is_larger_than_any_device_accepts(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        targets.targets["manifest.json"].length = 1 << 40

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError, "bytes")


def test_metadata_that_is_larger_than_any_device_accepts(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        targets.unrecognized_fields["padding"] = "x" * 300_000

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    refused_by_all(fleet, device, BundleTamperedError)


def test_symbolic_links_in_a_source(fleet: PublishedFleet, device: BundleStore) -> None:
    fleet.publish(2)
    for path in (fleet.folder / "metadata" / "timestamp.json", fleet.folder / "targets" / "head"):
        moved = fleet.root / f"moved-{path.name}"
        shutil.move(path, moved)
        path.symlink_to(moved)
        refused_by_all(fleet, device, BundleTamperedError, "symbolic link")
        path.unlink()
        shutil.move(moved, path)
    assert device.refresh(fleet.folder) == "fresh"


def test_a_fleet_with_the_same_name_and_other_keys(fleet: PublishedFleet, device: BundleStore, tmp_path: Path) -> None:
    (tmp_path / "imitation").mkdir()
    imitation = PublishedFleet(tmp_path / "imitation")
    imitation.publish(5)
    with serving(imitation.folder) as url:
        with pytest.raises(BundleTamperedError):
            device.refresh(url)
        with pytest.raises(BundleTamperedError):
            fleet.device("newcomer").refresh(url, trust=fleet.trust)
    still_release_1(fleet)


def test_a_root_that_its_predecessor_did_not_sign(fleet: PublishedFleet, device: BundleStore, tmp_path: Path) -> None:
    (tmp_path / "imitation").mkdir()
    imitation = PublishedFleet(tmp_path / "imitation")
    root = Metadata.from_file(str(imitation.folder / "metadata" / "1.root.json"))
    root.signed.version = 2
    root.sign(imitation.signer("root"))
    root.to_file(str(fleet.folder / "metadata" / "2.root.json"))
    refused_by_all(fleet, device, BundleTamperedError)


def test_an_expired_targets_role_is_refused_from_a_server(fleet: PublishedFleet, device: BundleStore) -> None:
    def change(targets: Targets) -> None:
        targets.expires = datetime.fromtimestamp(fleet.now_s - 60, UTC)

    fleet.rewrite("targets", change, [fleet.signer("targets")])
    with serving(fleet.folder) as url, pytest.raises(BundleExpiredError):
        device.refresh(url)
    still_release_1(fleet)


def signer_of(key: nacl.signing.SigningKey) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes(key)))


def ed25519_key(key: nacl.signing.SigningKey) -> Key:
    return signer_of(key).public_key
