"""Optional targets: what a bundle may bring beside its model, who may sign it, and what a device does with what is damaged."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optional_parts import ITEMS, all_parts, catalogue, feed, item_space, places
from published_fleet import PublishedFleet, serving
from tuf.api.metadata import Targets

from aggregator.publish import publish_context
from aggregator.registry import Registry
from edge_client.bundle_words import describe_bundle
from edge_client.bundles import ActiveBundle, BundleStore
from edge_client.held_models import HeldModels
from edge_client.know.own_intents import OwnIntents
from edge_client.know.store import Store
from shared_models.bundle import (
    BANDIT_PRIOR_TARGET,
    CATALOGUE_TARGET,
    FEED_TARGET,
    ITEM_SPACE_TARGET,
    ITEMS_TARGET,
    PHRASES_TARGET,
    PLACES_TARGET,
    PROFILE_TARGET,
    Wording,
    is_optional_target,
    max_target_bytes,
    owner_of_target,
)
from shared_models.canonical import canonical_bytes
from shared_models.errors import BundleRollbackError, BundleTamperedError, ConfigError, DomainError, WireError
from shared_models.optional_targets import check_targets
from shared_models.phrases import PublicPhrases

DAY_S = 86_400
KEYS = {"targets": ["targets"], "models": ["models"], "rules": ["rules-1", "rules-2"], "context": ["context"]}


@pytest.fixture(scope="module")
def _full(_first_release: PublishedFleet, tmp_path_factory: pytest.TempPathFactory) -> PublishedFleet:
    published = _first_release.copied_to(tmp_path_factory.mktemp("full"))
    published.publish(1, optional=all_parts(published.now_s))
    published.device().refresh(published.folder)
    return published


@pytest.fixture
def full(_full: PublishedFleet, tmp_path: Path) -> PublishedFleet:
    """A fleet whose release 1 has every optional target, and a device that runs it."""
    return _full.copied_to(tmp_path)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HeldModels]:
    with Store(tmp_path / "home", key=bytes(32)) as store:
        yield HeldModels(OwnIntents(store, lambda: 0.0))


def active(fleet: PublishedFleet, name: str = "device") -> ActiveBundle:
    bundle = fleet.device(name).current()
    assert bundle is not None
    return bundle


def signed_by(fleet: PublishedFleet, role: str, name: str, raw: bytes) -> None:
    """Role `role` signs `raw` as target `name`, with all keys that it needs."""

    def change(targets: Targets) -> None:
        targets.targets[name] = fleet.put_target(name, raw)

    fleet.rewrite(role, change, [fleet.signer(key) for key in KEYS[role]])


def refused(fleet: PublishedFleet, match: str | None = None) -> None:
    """By the device that has a bundle, which it keeps, and by one that sees the first."""
    before = active(fleet)
    for name in ("device", "newcomer"):
        with pytest.raises(BundleTamperedError, match=match):
            fleet.device(name).refresh(fleet.folder)
    assert active(fleet).manifest == before.manifest
    assert active(fleet).optional_files == before.optional_files
    assert fleet.device("newcomer").current() is None


# -- what arrives -----------------------------------------------------------------------------------------------------


def test_every_optional_target_arrives_as_it_was_published(full: PublishedFleet) -> None:
    parts = all_parts(full.now_s)
    assert all(is_optional_target(name) for name in parts)
    assert {name: active(full).optional(name) for name in parts} == parts
    assert active(full).optional("something.json") is None
    assert active(full).languages() == ("de",)
    told = describe_bundle(active(full), None, "fresh")
    assert told is not None
    assert told["optional"] == sorted(parts)
    assert told["context_until_s"] == full.now_s + 3 * DAY_S


def test_each_target_has_its_typed_value_loaded_once(full: PublishedFleet, held: HeldModels) -> None:
    bundle = active(full)
    space, prior, known, told, found = (
        held.item_space(bundle), held.bandit_prior(bundle), held.catalogue(bundle), held.feed(bundle), held.gazetteer(bundle),
    )  # fmt: skip
    assert space is not None
    assert prior is not None
    assert known is not None
    assert told is not None
    assert found is not None
    assert held.items(bundle) == space.items == ITEMS
    assert prior.features == ("warm", "near")
    assert [place.id for place in known.destinations] == ["lisbon", "oslo"]
    assert told.staleness(full.now_s) == "fresh"
    assert [place.kind for place in found.named("Lissabon")] == ["destination"]
    assert [place.kind for place in found.named("Sevilla")] == ["favourite"]
    assert found.country_name("ES", "de") == "Spanien"
    again = (
        held.item_space(bundle), held.bandit_prior(bundle), held.catalogue(bundle), held.feed(bundle), held.gazetteer(bundle),
    )  # fmt: skip
    assert all(one is other for one, other in zip(again, (space, prior, known, told, found), strict=True))


def test_words_of_another_language_and_the_bundles_own_where_there_are_none(
    full: PublishedFleet, held: HeldModels
) -> None:
    bundle = active(full)
    assert held.words(bundle, "de").label("greeting") == "grüßen"
    assert held.words(bundle, "de").language == "de"
    assert held.words(bundle).label("greeting") == held.words(bundle, "es").label("greeting") == "say hello"
    assert held.words(bundle, "de") is held.words(bundle, "de")


def test_a_bundle_without_optional_targets_is_whole(fleet: PublishedFleet, held: HeldModels) -> None:
    assert fleet.device().refresh(fleet.folder) == "fresh"
    bundle = active(fleet)
    assert bundle.optional_files == {}
    assert bundle.context_until_s is None
    assert [held.items(bundle), held.item_space(bundle), held.bandit_prior(bundle)] == [None] * 3
    assert [held.catalogue(bundle), held.feed(bundle), held.gazetteer(bundle)] == [None] * 3
    assert held.words(bundle, "de") is held.words(bundle)


def test_what_a_release_does_not_name_stays_and_none_withdraws(full: PublishedFleet) -> None:
    full.publish(2)
    full.device().refresh(full.folder)
    assert set(active(full).optional_files) == set(all_parts(full.now_s))
    full.publish(3, optional={ITEMS_TARGET: None, ITEM_SPACE_TARGET: None, FEED_TARGET: None, "words.de.json": None})
    full.device().refresh(full.folder)
    assert set(active(full).optional_files) == {
        BANDIT_PRIOR_TARGET,
        PHRASES_TARGET,
        PLACES_TARGET,
        PROFILE_TARGET,
        CATALOGUE_TARGET,
    }


def test_a_rollback_keeps_words_and_phrases_of_what_the_old_head_knows(full: PublishedFleet) -> None:
    labels = ("bye", "greeting", "thanks")
    said = Wording({"bye": ("Tschüss.",), "greeting": ("Hallo.",)}, {"bye": "gehen"}).to_bytes()
    phrases = PublicPhrases({"bye": ("Bye",), "greeting": ("Hello",)}).to_bytes()
    registry = Registry(full.folder, keys_dir=full.keys_dir)
    assert [release.version for release in registry.history()] == [1]
    optional = {"words.de.json": said, PHRASES_TARGET: phrases}
    registry.publish(full.contents(2, labels=labels, optional=optional), full.now_s)
    registry.rollback(1, full.now_s)
    full.device().refresh(full.folder)
    assert Wording.from_bytes(active(full).optional("words.de.json") or b"") == Wording({"greeting": ("Hallo.",)}, {})
    assert PublicPhrases.from_bytes(active(full).optional(PHRASES_TARGET) or b"").intents == {"greeting": ("Hello",)}
    assert active(full).optional(PLACES_TARGET) is not None


def test_only_what_changed_is_fetched(full: PublishedFleet) -> None:
    served: list[str] = []
    device = full.device()
    full.publish(2)
    real = device._folder.sound_object

    def noted(digest: str, size_bytes: int) -> Path | None:
        found = real(digest, size_bytes)
        if found is None:
            served.append(digest)
        return found

    device._folder.sound_object = noted  # type: ignore[method-assign]
    device.refresh(full.folder)
    manifest = active(full).manifest
    assert set(served) == {manifest.head_sha256, hashlib.sha256(manifest.to_bytes()).hexdigest()}


def test_a_changed_or_missing_file_is_a_typed_error_and_a_refresh_repairs_it(
    full: PublishedFleet, held: HeldModels
) -> None:
    bundle = active(full)
    path = bundle.optional_files[PLACES_TARGET]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BundleTamperedError, match=PLACES_TARGET):
        held.gazetteer(bundle)
    with pytest.raises(BundleTamperedError, match=PLACES_TARGET):
        full.device().current()
    path.unlink()
    with pytest.raises(BundleTamperedError, match=PLACES_TARGET):
        bundle.optional(PLACES_TARGET)
    full.device().refresh(full.folder)
    assert active(full).optional(PLACES_TARGET) == places().to_bytes()


# -- who may sign what ------------------------------------------------------------------------------------------------


def no_role_may(full: PublishedFleet, pairs: Iterable[tuple[str, str]]) -> None:
    device = full.device()
    for role, name in pairs:
        signed_by(full, role, name, all_parts(full.now_s).get(name) or b'{"format":1,"rules":[]}')
        with pytest.raises(BundleTamperedError, match=r"only .* may"):
            device.refresh(full.folder)
        full.rewrite(
            role, lambda targets, name=name: targets.targets.pop(name), [full.signer(key) for key in KEYS[role]]
        )
    device.refresh(full.folder)


def test_no_role_may_sign_what_another_owns(full: PublishedFleet) -> None:
    pairs = [
        ("context", "rules.json"),
        ("context", ITEM_SPACE_TARGET),
        ("rules", FEED_TARGET),
        ("targets", PLACES_TARGET),
    ]
    no_role_may(full, pairs)


@pytest.mark.deep
def test_no_role_may_sign_anything_that_another_owns(full: PublishedFleet) -> None:
    names = [*all_parts(0), "rules.json", "manifest.json", "privacy-policy.json"]
    no_role_may(full, [(role, name) for role in KEYS for name in names if owner_of_target(name) != role])


def test_the_context_key_cannot_sign_rules_even_if_the_release_key_delegates_them_to_it(full: PublishedFleet) -> None:
    def widen(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        roles = targets.delegations.roles
        roles["context"].paths = ["context.json", "catalogue.json", "rules.json"]
        targets.delegations.roles = {"context": roles.pop("context"), **roles}

    full.rewrite("targets", widen, [full.signer("targets")])
    signed_by(full, "context", "rules.json", b'{"format":1,"rules":[]}')
    refused(full)


def test_context_signed_by_another_key_than_its_own(full: PublishedFleet) -> None:
    def change(targets: Targets) -> None:
        targets.targets[FEED_TARGET] = full.put_target(FEED_TARGET, feed(int(full.now_s) + 1).to_bytes())

    for key in ("targets", "rules-1"):
        full.rewrite("context", change, [full.signer(key)])
        refused(full)


def test_words_signed_by_one_rule_key_only(full: PublishedFleet) -> None:
    def change(targets: Targets) -> None:
        targets.targets["words.es.json"] = full.put_target("words.es.json", all_parts(0)["words.de.json"] or b"")

    full.rewrite("rules", change, [full.signer("rules-1")])
    refused(full)


def test_a_context_role_that_nobody_delegates_to(full: PublishedFleet) -> None:
    def forget(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        del targets.delegations.roles["context"]

    full.rewrite("targets", forget, [full.signer("targets")])
    refused(full)


def test_an_optional_target_whose_name_is_not_delegated_to_its_owner(full: PublishedFleet) -> None:
    def narrow(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        targets.delegations.roles["models"].paths = ["encoder/*", "tokenizer/*"]

    full.rewrite("targets", narrow, [full.signer("targets")])
    refused(full, PLACES_TARGET)


# -- damaged and hostile contents, soundly signed ---------------------------------------------------------------------

HOSTILE = [b"\xff", b"{}", b"[1]", b"null", b"[" * 9000, b'{"format":1}', b'{"format":NaN}', b'{"a":1,"a":2}']


@pytest.mark.parametrize("name", list(all_parts(0)))
def test_contents_that_are_not_what_the_name_says_are_refused(name: str) -> None:
    sound = all_parts(0)[name] or b""
    check_targets({name: sound})
    for raw in (*HOSTILE, b"", sound[: len(sound) // 2], sound + b"\x00"):
        if name == PROFILE_TARGET and raw in (b"{}", b"[" * 9000):
            continue
        with pytest.raises(WireError, match=re.escape(name)):
            check_targets({name: raw})


def test_a_signed_feed_that_is_none_costs_the_device_nothing(full: PublishedFleet) -> None:
    signed_by(full, "context", FEED_TARGET, b'{"format":1}')
    refused(full, "not accepted.*context.json")


def test_a_signed_item_space_that_is_no_model_costs_the_device_nothing(full: PublishedFleet) -> None:
    signed_by(full, "targets", ITEM_SPACE_TARGET, b"\x08\x07not a model")
    refused(full, "not accepted.*items.onnx")


def test_more_bytes_than_a_target_may_have_are_refused_before_they_are_fetched(full: PublishedFleet) -> None:
    limit = max_target_bytes(PROFILE_TARGET)
    signed_by(full, "rules", PROFILE_TARGET, b"#" * (limit + 1))
    refused(full, f"at most {limit}")


def test_items_and_their_space_must_speak_of_the_same(full: PublishedFleet) -> None:
    signed_by(full, "targets", ITEMS_TARGET, canonical_bytes({"items": [*ITEMS, "atlantis"]}))
    refused(full, "atlantis")


@pytest.mark.parametrize(
    "row",
    [
        ["planet", "x", "ES", 0, 0, 1, ["A"]],
        ["city", "../x", "ES", 0, 0, 1, ["A"]],
        ["city", "x", "ESP", 0, 0, 1, ["A"]],
        ["city", "x", "ES", 91, 0, 1, ["A"]],
        ["city", "x", "ES", True, 0, 1, ["A"]],
        ["city", "x", "ES", 0, "0", 1, ["A"]],
        ["city", "x", "ES", 0, 0, -1, ["A"]],
        ["city", "x", "ES", 0, 0, 1.5, ["A"]],
        ["city", "x", "ES", 0, 0, 1, []],
        ["city", "x", "ES", 0, 0, 1, ["A", "B"]],
        ["city", "x", "ES", 0, 0, 1, ["A\u202e"]],
        ["city", "x", "ES", 0, 0, 1, ["A" * 101]],
        ["city", "x", "ES", 0, 0, 1, ["A"] * 41],
        ["city", "x", "ES", 0, 0, 1, [7]],
        ["city", "x", "ES", 0, 0, 1, "A"],
        ["city", "x", "ES", 0, 0, 1],
        ["city", ["x"], {"y": 1}, 0, 0, 1, ["A"]],
        "city",
    ],
)
def test_a_hostile_row_of_places_is_named(row: Any) -> None:
    raw = json.dumps({"format": 1, "attribution": [], "places": [["city", "1", "ES", 0, 0, 1, ["A"]], row]}).encode()
    with pytest.raises(WireError, match="row 2"):
        type(places()).from_bytes(raw)


# -- role context: renewed often, old alone ---------------------------------------------------------------------------


def renew(fleet: PublishedFleet, **targets: bytes | None) -> None:
    named = {f"{name}.json": raw for name, raw in targets.items()}
    publish_context(fleet.folder, named, keys_dir=fleet.keys_dir, now=fleet.now_s)


def test_a_feed_is_renewed_without_the_keys_of_models_rules_and_releases(full: PublishedFleet) -> None:
    for name in ("root", "targets", "models", "rules-1", "rules-2"):
        (full.keys_dir / f"{name}.key").unlink()
    full.now_s += 3600
    renew(full, context=feed(int(full.now_s)).to_bytes())
    assert full.device().refresh(full.folder) == "fresh"
    bundle = active(full)
    assert json.loads(bundle.optional(FEED_TARGET) or b"")["issued"] == int(full.now_s)
    assert bundle.optional(CATALOGUE_TARGET) == catalogue().to_bytes()
    assert bundle.manifest.version == 1
    with pytest.raises(ConfigError, match="context"):
        renew(full, items=b"{}")


def test_an_old_context_makes_nothing_else_stale_and_is_still_had(full: PublishedFleet) -> None:
    (full.keys_dir / "context.key").unlink()
    full.now_s += 4 * DAY_S
    full.refresh_timestamp()
    with serving(full.folder) as url:
        assert full.device().refresh(url) == "fresh"
        assert full.device("newcomer").refresh(url, full.trust) == "fresh"
    for name in ("device", "newcomer"):
        bundle = active(full, name)
        assert bundle.context_until_s is not None
        assert bundle.context_until_s < full.now_s < bundle.fresh_until_s
        assert bundle.optional(CATALOGUE_TARGET) is not None


def test_a_feed_that_is_withheld_is_told_by_its_own_age(full: PublishedFleet, held: HeldModels) -> None:
    told = held.feed(active(full))
    assert told is not None
    ages = [told.staleness(full.now_s + hours * 3600) for hours in (1, 40, 80)]
    assert ages == ["fresh", "stale", "expired"]


def test_a_former_feed_cannot_come_back(full: PublishedFleet) -> None:
    old = max(
        (full.folder / "metadata").glob("*.context.json"), key=lambda path: int(path.name.split(".")[0])
    ).read_bytes()
    full.now_s += 3600
    renew(full, context=feed(int(full.now_s)).to_bytes())
    full.device().refresh(full.folder)

    def change(targets: Targets) -> None:
        was = json.loads(old)["signed"]
        targets.version = was["version"]
        targets.targets = Targets.from_dict(was).targets

    full.rewrite("context", change, [full.signer("context")])
    with pytest.raises(BundleRollbackError):
        full.device().refresh(full.folder)
    assert json.loads(active(full).optional(FEED_TARGET) or b"")["issued"] == int(full.now_s)


@pytest.mark.deep
def test_a_kill_while_context_is_published_leaves_the_former_whole(full: PublishedFleet) -> None:
    if not hasattr(os, "fork"):
        return
    from published_fleet import killed_at_each_step

    full.now_s += 3600
    fresh = feed(int(full.now_s)).to_bytes()
    kills = 0
    for _ in killed_at_each_step(lambda: renew(full, context=fresh)):
        kills += 1
        device = full.device(f"device{kills}")
        device.refresh(full.folder)
        found = device.current()
        assert found is not None
        assert found.optional(FEED_TARGET) in (fresh, all_parts(full.now_s - 3600)[FEED_TARGET])
    assert kills >= 3


# -- what the publisher refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optional", "error"),
    [
        ({"surprise.json": b"{}"}, ConfigError),
        ({"rules.json": b"{}"}, ConfigError),
        ({"words.xx.json": b"{}"}, ConfigError),
        ({PLACES_TARGET: Path("/nowhere/places.json")}, ConfigError),
        ({PLACES_TARGET: b""}, WireError),
        ({PLACES_TARGET: b"{}"}, WireError),
        ({PROFILE_TARGET: b"attributes: {a: {type: spell}}"}, WireError),
        ({ITEM_SPACE_TARGET: b"not onnx"}, WireError),
        ({FEED_TARGET: b"{}"}, WireError),
        ({"words.de.json": all_parts(0)["words.de.json"]}, None),
        ({"words.de.json": b'{"format":1,"intent_labels":{"fly":"x"},"templates":{}}'}, DomainError),
        ({ITEM_SPACE_TARGET: item_space(("lisbon",))}, WireError),
    ],
)
def test_contents_that_no_device_would_accept_are_not_published(
    full: PublishedFleet, optional: dict[str, Any], error: type[Exception] | None
) -> None:
    before = (full.folder / "metadata" / "timestamp.json").read_bytes()
    if error is None:
        assert full.publish(2, optional=optional) == 2
        return
    with pytest.raises(error):
        full.publish(2, optional=optional)
    assert (full.folder / "metadata" / "timestamp.json").read_bytes() == before


# -- older and newer --------------------------------------------------------------------------------------------------


def make_older(fleet: PublishedFleet) -> None:
    """As a version published that knew no optional targets."""

    def narrow(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        roles = targets.delegations.roles
        roles.pop("context")
        roles["models"].paths, roles["rules"].paths = ["encoder/*", "tokenizer/*"], ["rules.json", "templates.json"]

    fleet.rewrite("targets", narrow, [fleet.signer("targets")])
    for kind in ("key", "pub"):
        (fleet.keys_dir / f"context.{kind}").unlink()


def test_a_folder_of_an_older_version_gets_the_new_role_with_its_next_release(fleet: PublishedFleet) -> None:
    make_older(fleet)
    assert fleet.device().refresh(fleet.folder) == "fresh"
    fleet.publish(1, optional=all_parts(fleet.now_s))
    fleet.device().refresh(fleet.folder)
    assert set(active(fleet).optional_files) == set(all_parts(fleet.now_s))


def test_a_folder_of_an_older_version_gets_the_new_role_with_its_first_feed(fleet: PublishedFleet) -> None:
    make_older(fleet)
    renew(fleet, context=feed(int(fleet.now_s)).to_bytes())
    fleet.device().refresh(fleet.folder)
    assert set(active(fleet).optional_files) == {FEED_TARGET}


def test_a_newer_publisher_may_sign_what_this_version_does_not_know(full: PublishedFleet) -> None:
    signed_by(full, "targets", "hologram.json", b"\x00")
    signed_by(full, "context", "tides.json", b"\x00")
    assert BundleStore(full.root / "device", full.clock).refresh(full.folder) == "fresh"
    assert active(full).optional("hologram.json") is None
