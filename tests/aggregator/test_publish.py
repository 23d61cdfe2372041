"""What the publisher signs, refuses to sign, renews and remembers."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nacl.signing
import pytest
from published_fleet import PublishedFleet
from tuf.api.metadata import Metadata, Targets

from aggregator.publish import (
    Lifetimes,
    create_repository,
    default_keys_dir,
    publish,
    published_manifest,
    refresh_timestamp,
    renew_root,
)
from aggregator.publishing_keys import KEY_NAMES
from shared_models.errors import (
    BundleError,
    BundleRollbackError,
    BundleTamperedError,
    BundleUnavailableError,
    ConfigError,
    DomainError,
    ModelMissingError,
    TacitError,
    TrustError,
    WireError,
)
from shared_models.rules.ruleset import Rule, RuleSet

DAY_S = 86_400


def newest(fleet: PublishedFleet, role: str) -> dict[str, Any]:
    if role == "timestamp":
        return dict(json.loads((fleet.folder / "metadata" / "timestamp.json").read_bytes())["signed"])
    paths = (fleet.folder / "metadata").glob(f"*.{role}.json")
    path = max(paths, key=lambda path: int(path.name.partition(".")[0]))
    return dict(json.loads(path.read_bytes())["signed"])


def days_left(fleet: PublishedFleet, role: str) -> float:
    return (datetime.fromisoformat(newest(fleet, role)["expires"]).timestamp() - fleet.now_s) / DAY_S


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_is_three_names_and_no_secret(fleet: PublishedFleet) -> None:
    assert sorted(path.name for path in fleet.folder.iterdir()) == ["metadata", "targets", "trust.json"]
    secrets = [(fleet.keys_dir / f"{name}.key").read_text().split(":")[1].strip() for name in KEY_NAMES]
    served = b"".join(everything(fleet.folder).values())
    assert not any(secret.encode() in served or bytes.fromhex(secret) in served for secret in secrets)
    assert str(fleet.root).encode() not in served, "no path of this machine"


def test_keys_can_be_read_by_their_owner_only(fleet: PublishedFleet) -> None:
    for name in KEY_NAMES:
        assert stat.S_IMODE((fleet.keys_dir / f"{name}.key").stat().st_mode) == 0o600
    assert not (fleet.keys_dir / "privacy-policy.key").exists()


def test_default_lifetimes(fleet: PublishedFleet) -> None:
    days = {"timestamp": 1, "snapshot": 7, "targets": 90, "models": 90, "rules": 90, "root": 365}
    assert {role: round(days_left(fleet, role), 3) for role in days} == days


def test_a_round_signs_a_head_and_a_manifest_and_leaves_the_rest(fleet: PublishedFleet) -> None:
    before = everything(fleet.folder)
    assert fleet.publish(1) == 1
    after = everything(fleet.folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert sorted(name.split("/")[0] + "/" + name.split(".", 1)[-1] for name in changed if "targets/" in name) == [
        "targets/1.onnx",
        "targets/manifest.json",
    ]
    assert {name for name in changed if name.startswith("metadata/")} == {
        "metadata/3.targets.json",
        "metadata/3.snapshot.json",
        "metadata/timestamp.json",
    }
    assert set(before) <= set(after), "nothing that was published is removed"


def test_a_new_rule_is_signed_by_two_keys(fleet: PublishedFleet) -> None:
    fleet.publish(0, rules=RuleSet((Rule("new", "deny", ("greeting",), "why"),)))
    path = max((fleet.folder / "metadata").glob("*.rules.json"))
    metadata = Metadata[Targets].from_file(str(path))
    assert len(metadata.signatures) == 2


def test_an_older_version_or_the_same_with_another_head_is_refused(fleet: PublishedFleet) -> None:
    fleet.publish(5)
    for version, head in ((4, b"head 4"), (5, b"other")):
        with pytest.raises(BundleRollbackError):
            fleet.publish(version, head=head)
    assert fleet.publish(5) == 5
    manifest = published_manifest(fleet.folder)
    assert manifest is not None
    assert manifest.version == 5


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"encoder_model": Path("/nowhere/e.onnx")}, ModelMissingError),
        ({"tokenizer": Path("/nowhere/t.json")}, ModelMissingError),
        ({"head": b""}, ConfigError),
        ({"head": b"x" * (33 * 1024 * 1024)}, ConfigError),
        ({"labels": ("greeting",)}, TacitError),
        ({"labels": ("greeting", "greeting", "thanks")}, WireError),
        ({"labels": ("greeting", "thanks", "Not A Name")}, WireError),
        ({"labels": ["greeting", "thanks"]}, WireError),
        ({"domain": ""}, WireError),
        ({"domain": 7}, WireError),
        ({"version": -1}, WireError),
        ({"version": True}, WireError),
        ({"version": 1 << 60}, WireError),
        ({"templates": {"unknown_intent": ("x",)}}, DomainError),
        ({"templates": {"greeting": ()}}, WireError),
        ({"templates": {"greeting": ("x" * 5000,)}}, WireError),
        ({"intent_labels": {"unknown_intent": "x"}}, DomainError),
        ({"intent_labels": {"greeting": " "}}, WireError),
        ({"rules": RuleSet((Rule("r", "deny", ("unknown_intent",), "why"),))}, DomainError),
        ({"rules": RuleSet((Rule("r", "explode", ("thanks",), "why"),))}, DomainError),
        ({"policy": b"{}"}, ConfigError),
        ({"policy_role": b"{}"}, ConfigError),
        ({"policy": b"{}", "policy_role": b"{}"}, WireError),
    ],
)
def test_contents_that_no_device_would_accept_are_refused_before_anything_is_written(
    fleet: PublishedFleet, changes: dict[str, Any], error: type[TacitError]
) -> None:
    before = everything(fleet.folder)
    with pytest.raises(error):
        publish(fleet.folder, fleet.contents(**{"version": 1, **changes}), fleet.now_s, keys_dir=fleet.keys_dir)
    assert everything(fleet.folder) == before


def test_a_tokenizer_that_is_no_json_and_an_empty_encoder_are_refused(fleet: PublishedFleet) -> None:
    fleet.tokenizer.write_bytes(b"\xff\x00")
    with pytest.raises(ConfigError, match="tokenizer"):
        fleet.publish(1)
    fleet.tokenizer.write_text("{}")
    fleet.encoder.write_bytes(b"")
    with pytest.raises(ConfigError, match="encoder"):
        fleet.publish(1)


def test_a_policy_that_the_officer_did_not_sign_is_refused(fleet: PublishedFleet) -> None:
    before = everything(fleet.folder)
    stranger = nacl.signing.SigningKey.generate()
    good, bad = fleet.policy("sequence: 1", 1), fleet.policy("sequence: 1", 1, stranger)
    for mix in (bad, {**good, "policy": bad["policy"]}, {**good, "policy_role": bad["policy_role"]}):
        with pytest.raises(BundleTamperedError, match="officer"):
            fleet.publish(1, **mix)
    with pytest.raises(BundleTamperedError, match="another policy"):
        fleet.publish(1, policy=good["policy"], policy_role=fleet.policy("sequence: 2", 2)["policy_role"])
    assert everything(fleet.folder) == before


def test_an_older_policy_role_is_refused_and_the_same_is_harmless(fleet: PublishedFleet) -> None:
    second = fleet.policy("sequence: 2", 2)
    fleet.publish(1, **second)
    assert fleet.publish(2, **second) == 2
    with pytest.raises(BundleRollbackError, match="not newer"):
        fleet.publish(3, **fleet.policy("sequence: 1", 1))


def test_a_refresh_renews_the_timestamp_and_nothing_else(fleet: PublishedFleet) -> None:
    before = everything(fleet.folder)
    fleet.now_s += DAY_S
    fleet.refresh_timestamp()
    after = everything(fleet.folder)
    assert [name for name in after if after[name] != before.get(name)] == ["metadata/timestamp.json"]
    assert days_left(fleet, "timestamp") == pytest.approx(1)


def test_a_refresh_renews_what_is_more_than_half_over(fleet: PublishedFleet) -> None:
    fleet.now_s += 4 * DAY_S
    fleet.refresh_timestamp()
    assert days_left(fleet, "snapshot") == pytest.approx(7)
    assert days_left(fleet, "targets") == pytest.approx(86)
    fleet.now_s += 45 * DAY_S
    fleet.refresh_timestamp()
    assert [round(days_left(fleet, role)) for role in ("targets", "models", "rules")] == [90, 90, 90]


def test_a_refresh_works_on_a_machine_that_holds_the_online_keys_only(fleet: PublishedFleet) -> None:
    for name in ("root", "targets", "models", "rules-1", "rules-2"):
        (fleet.keys_dir / f"{name}.key").unlink()
    fleet.now_s += 80 * DAY_S
    fleet.refresh_timestamp()
    assert days_left(fleet, "timestamp") == pytest.approx(1)
    assert days_left(fleet, "targets") == pytest.approx(10)
    with pytest.raises(ConfigError, match="targets"):
        fleet.publish(1)


def test_a_release_needs_no_root_key(fleet: PublishedFleet) -> None:
    (fleet.keys_dir / "root.key").unlink()
    assert fleet.publish(1) == 1
    with pytest.raises(ConfigError, match="root"):
        renew_root(fleet.folder, keys_dir=fleet.keys_dir, now=fleet.now_s)


def test_own_lifetimes(fleet: PublishedFleet) -> None:
    refresh_timestamp(fleet.folder, keys_dir=fleet.keys_dir, now=fleet.now_s, lifetimes=Lifetimes(timestamp_s=600))
    assert days_left(fleet, "timestamp") * DAY_S == pytest.approx(600)


def test_keys_of_another_repository_are_refused_before_anything_is_written(
    fleet: PublishedFleet, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = PublishedFleet(tmp_path / "other")
    before = everything(fleet.folder)
    with pytest.raises(ConfigError, match="not this repository's"):
        publish(fleet.folder, fleet.contents(1), fleet.now_s, keys_dir=other.keys_dir)
    after = everything(fleet.folder)
    assert {name for name in after if name.startswith("metadata/")} == {
        name for name in before if name.startswith("metadata/")
    }
    assert fleet.publish(1) == 1


def test_no_keys_no_folder_and_a_damaged_repository_are_named(fleet: PublishedFleet) -> None:
    with pytest.raises(ConfigError, match="keys"):
        publish(fleet.folder, fleet.contents(1))
    with pytest.raises(BundleUnavailableError, match="tacit-fleet"):
        publish(fleet.root / "nowhere", fleet.contents(1), keys_dir=fleet.keys_dir)
    for path in (*(fleet.folder / "metadata").glob("2.*.json"), fleet.folder / "metadata" / "timestamp.json"):
        sound = path.read_bytes()
        path.write_bytes(b"\x00")
        with pytest.raises(BundleError):
            fleet.publish(1)
        path.write_bytes(sound)
    assert fleet.publish(1) == 1


def test_a_repository_is_never_made_over_something(fleet: PublishedFleet) -> None:
    keys = {"officer_public_key": b"\1" * 32, "aggregator_public_key": b"\2" * 32, "fleet": "f"}
    before = everything(fleet.folder)
    with pytest.raises(ConfigError, match="not empty"):
        create_repository(fleet.folder, **keys, keys_dir=fleet.root / "k")
    assert everything(fleet.folder) == before
    with pytest.raises(ConfigError, match="served"):
        create_repository(fleet.root / "new", **keys, keys_dir=fleet.root / "new" / "keys")
    assert not (fleet.root / "new").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"officer_public_key": b"short"},
        {"officer_public_key": b"\2" * 32},
        {"aggregator_public_key": b""},
        {"fleet": ""},
        {"fleet": "x" * 500},
        {"bundle_url": "ftp://x"},
    ],
)
def test_an_anchor_that_nobody_could_trust_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"officer_public_key": b"\1" * 32, "aggregator_public_key": b"\2" * 32, "fleet": "f"}
    with pytest.raises(TrustError):
        create_repository(tmp_path / "bundle", **{**arguments, **changes})
    assert not (tmp_path / "bundle").exists()


def test_keys_lie_beside_the_bundle_unless_told_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    create_repository(folder, officer_public_key=b"\1" * 32, aggregator_public_key=b"\2" * 32, fleet="f")
    assert default_keys_dir(folder) == tmp_path / "bundle-keys"
    assert stat.S_IMODE((tmp_path / "bundle-keys").stat().st_mode) == 0o700
    refresh_timestamp(folder)
    assert published_manifest(folder) is None
    assert sorted(os.listdir(tmp_path)) == ["bundle", "bundle-keys"]


def test_the_policy_role_needs_a_time_zone_and_an_envelope_of_the_officers() -> None:
    from privacy.policy_role import sign_policy_role
    from shared_models.canonical import seal_envelope
    from shared_models.errors import PolicyError

    officer, stranger = nacl.signing.SigningKey.generate(), nacl.signing.SigningKey.generate()
    expires = datetime.now(UTC) + timedelta(days=14)
    envelope = seal_envelope("kind", b"text", officer).to_bytes()
    assert Metadata[Targets].from_bytes(sign_policy_role(officer, envelope, 3, expires)).signed.version == 3
    for signer, raw, version, moment in (
        (stranger, envelope, 1, expires),
        (officer, b"", 1, expires),
        (officer, b"\xff", 1, expires),
        (officer, b"x" * 2_000_000, 1, expires),
        (officer, envelope, 0, expires),
        (officer, envelope, True, expires),
        (officer, envelope, 1, expires.replace(tzinfo=None)),
    ):
        with pytest.raises(PolicyError):
            sign_policy_role(signer, raw, version, moment)
