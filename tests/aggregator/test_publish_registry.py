"""The history of releases, and the way back to an older head."""

from __future__ import annotations

import pytest
from published_fleet import PublishedFleet

from aggregator.registry import HISTORY_FILE, Registry
from shared_models.errors import BundleTamperedError, CheckpointError, ConfigError
from shared_models.rules.ruleset import Rule, RuleSet


@pytest.fixture
def registry(fleet: PublishedFleet) -> Registry:
    return Registry(fleet.folder, keys_dir=fleet.keys_dir)


def versions(registry: Registry) -> list[tuple[int, int | None]]:
    return [(release.version, release.restores) for release in registry.history()]


def test_releases_are_remembered_in_order(fleet: PublishedFleet, registry: Registry) -> None:
    for version in (1, 2, 5):
        assert registry.publish(fleet.contents(version), fleet.now_s) == version
    assert versions(registry) == [(0, None), (1, None), (2, None), (5, None)]
    assert versions(Registry(fleet.folder, keys_dir=fleet.keys_dir)) == versions(registry)


def test_a_rollback_is_a_new_release_of_an_old_head_that_devices_accept(
    fleet: PublishedFleet, registry: Registry
) -> None:
    device = fleet.device()
    fleet.encoder.write_bytes(b"the first encoder")
    registry.publish(fleet.contents(1), fleet.now_s)
    device.refresh(fleet.folder)
    fleet.encoder.write_bytes(b"the second encoder")
    registry.publish(fleet.contents(2, **fleet.policy("sequence: 1", 1)), fleet.now_s)
    device.refresh(fleet.folder)
    assert registry.rollback(1, fleet.now_s) == 3
    device.refresh(fleet.folder)
    active = device.current()
    assert active is not None
    assert (active.manifest.version, active.head) == (3, b"head 1")
    assert active.encoder_model.read_bytes() == b"the first encoder"
    assert active.policy is not None, "the officer's policy is not rolled back with a model"
    assert active.rules == fleet.contents(1).rules
    assert versions(registry)[-1] == (3, 1)
    assert registry.rollback(3, fleet.now_s) == 4


def test_a_rollback_keeps_only_wording_and_rules_that_the_old_head_can_mean(
    fleet: PublishedFleet, registry: Registry
) -> None:
    registry.publish(fleet.contents(1), fleet.now_s)
    new = fleet.contents(
        2,
        labels=("extra", "greeting", "thanks"),
        templates={"extra": ("Extra.",), "greeting": ("Hello.",)},
        intent_labels={"extra": "have more"},
        rules=RuleSet(
            (Rule("a", "deny", ("extra", "thanks"), "why"), Rule("b", "deny", ("thanks", "out_of_scope"), "why"))
        ),
    )
    registry.publish(new, fleet.now_s)
    registry.rollback(1, fleet.now_s)
    device = fleet.device()
    device.refresh(fleet.folder)
    active = device.current()
    assert active is not None
    assert active.manifest.labels == ("greeting", "thanks")
    assert active.templates == {"greeting": ("Hello.",)}
    assert active.intent_labels == {}
    assert [rule.id for rule in active.rules.rules] == ["b"]


def test_a_version_that_never_was_is_named(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="7 was never released here; releases: 0"):
        registry.rollback(7)


def test_a_release_whose_line_was_lost_is_added_from_what_is_published(
    fleet: PublishedFleet, registry: Registry
) -> None:
    registry.publish(fleet.contents(1), fleet.now_s)
    path = fleet.keys_dir / HISTORY_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    for left in (lines[0], lines[0] + lines[1][:50], b"", lines[0][:-1]):
        path.write_bytes(left)
        assert versions(registry)[-1] == (1, None)
    assert registry.publish(fleet.contents(2), fleet.now_s) == 2


def test_damage_in_the_middle_is_not_passed_over(fleet: PublishedFleet, registry: Registry) -> None:
    registry.publish(fleet.contents(1), fleet.now_s)
    path = fleet.keys_dir / HISTORY_FILE
    first, second = path.read_bytes().splitlines(keepends=True)
    for bad in (b"{}\n" + second, first[:40] + b"\n" + second, b"\xff\n" + second):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="line 1"):
            registry.history()


def test_a_head_that_was_deleted_or_changed_on_disk_is_not_released_again(
    fleet: PublishedFleet, registry: Registry
) -> None:
    registry.publish(fleet.contents(1), fleet.now_s)
    (head,) = (path for path in (fleet.folder / "targets" / "head").iterdir() if path.name.endswith(".0.onnx"))
    head.write_bytes(b"something else")
    with pytest.raises(BundleTamperedError):
        registry.rollback(0, fleet.now_s)
    head.unlink()
    with pytest.raises(BundleTamperedError, match="restore"):
        registry.rollback(0, fleet.now_s)
    assert versions(registry)[-1] == (1, None)


def test_a_registry_without_keys_says_so(fleet: PublishedFleet) -> None:
    with pytest.raises(ConfigError, match="keys"):
        Registry(fleet.folder)
