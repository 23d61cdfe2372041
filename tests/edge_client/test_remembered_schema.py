"""What an app's schema names is known to every program that opens the home after it: nothing of it is dropped or erased."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_fleet import PublishedFleet

from edge_client.bundles import BundleStore
from edge_client.cli import main
from edge_client.client import EdgeClient
from edge_client.config import EdgeConfig
from edge_client.know.store import Store
from edge_client.knowledge import SCHEMA_KEY, SCHEMA_TABLE
from shared_models.bundle import PROFILE_TARGET
from shared_models.errors import DomainError
from shared_models.profile import ProfileSchema, default_schema

APP = b"""
attributes:
  shoe_size: {kind: demographic, type: number, retention_days: 30, source: declared, choices: []}
events:
  sofa_tried: {retention_days: 30, properties: {style: {type: category, choices: [oak, steel]}}}
funnels:
  sofa: {steps: [sofa_tried, order_completed], within_hours: 2}
"""


def opened(home: Path, schema: ProfileSchema | None = None, key: bytes | str = bytes(32)) -> EdgeClient:
    return EdgeClient(Store(home, key=key), BundleStore(home / "bundle"), EdgeConfig(), schema)


def app_schema() -> ProfileSchema:
    return default_schema().extended(ProfileSchema.from_yaml(APP))


def test_a_schema_survives_as_a_document() -> None:
    assert ProfileSchema.from_document(json.loads(json.dumps(app_schema().document()))) == app_schema()


@pytest.mark.parametrize("document", [None, {}, {"attributes": {"a": {"name": "a"}}, "events": {}, "funnels": {}}])
def test_another_document_is_refused(document: object) -> None:
    with pytest.raises(DomainError):
        ProfileSchema.from_document(document)  # type: ignore[arg-type]


def test_a_program_without_the_schema_keeps_what_the_app_knows(tmp_path: Path) -> None:
    with opened(tmp_path, app_schema()) as client:
        client.consent.grant("personalisation")
        client.capture.receive({"type": "track", "event": "Sofa Tried", "properties": {"style": "oak"}})
        client.capture.receive({"type": "identify", "traits": {"shoe_size": 43}})
    with opened(tmp_path) as client:
        assert client.schema == app_schema()
        assert client.capture.windows()["counts"]["sofa_tried"]["1h"] == 1
        client.profile.expire(client.config.clock())
        assert client.profile.get("shoe_size").value == 43  # type: ignore[union-attr]
        assert client.capture.receive({"type": "track", "event": "sofa_tried"}).kept


def test_the_schema_that_was_named_last_counts(tmp_path: Path) -> None:
    with opened(tmp_path, app_schema()):
        pass
    with opened(tmp_path, default_schema()):
        pass
    with opened(tmp_path) as client:
        assert client.schema == default_schema()


def test_the_same_schema_again_writes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, app_schema()) as client:
        commits = client.store.describe()["commits"]
    with opened(tmp_path, app_schema()) as client:
        assert client.store.describe()["commits"] == commits
        assert client.store.table(SCHEMA_TABLE).keys() == [SCHEMA_KEY]


def test_the_command_takes_a_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TACIT_PASSPHRASE", "four words make one")
    (tmp_path / "profile.yaml").write_bytes(APP)
    home = str(tmp_path / "home")
    assert main(["inspect", "--home", home, "--schema", str(tmp_path / "profile.yaml")]) == 0
    with opened(tmp_path / "home", key="four words make one") as client:
        assert client.schema == app_schema()
    (tmp_path / "profile.yaml").write_bytes(b"attributes: {a: {type: spell}}")
    assert main(["inspect", "--home", home, "--schema", str(tmp_path / "profile.yaml")]) == 2
    assert "attributes.a.type" in capsys.readouterr().err
    assert main(["inspect", "--home", home, "--schema", str(tmp_path / "none.yaml")]) == 2


def test_a_kept_schema_that_cannot_be_read_is_told_and_can_be_named_again(tmp_path: Path) -> None:
    with Store(tmp_path, key=bytes(32)) as store:
        store.table(SCHEMA_TABLE).put(
            SCHEMA_KEY, {"attributes": {}, "events": {"a": {"of_a_later_version": 1}}, "funnels": {}}
        )
        with pytest.raises(DomainError, match="name it again"):
            EdgeClient(store, BundleStore(tmp_path / "bundle"), EdgeConfig())
    with opened(tmp_path, app_schema()) as client:
        assert client.schema == app_schema()


def test_a_home_that_cannot_be_opened_for_its_schema_is_let_go(tmp_path: Path, bundles: BundleStore) -> None:
    with Store(tmp_path / "home", key=bytes(32)) as store:
        store.table(SCHEMA_TABLE).put(SCHEMA_KEY, {"attributes": 1})
    with pytest.raises(DomainError) as caught:
        EdgeClient.open(tmp_path / "home", key=bytes(32), config=EdgeConfig(bundles=bundles))
    Store(tmp_path / "home", key=bytes(32)).close()
    assert caught.value is not None


def opened_with(home: Path, fleet: PublishedFleet, schema: ProfileSchema | None = None) -> EdgeClient:
    bundles = fleet.device()
    if fleet.folder.exists():
        bundles.refresh(fleet.folder)
    return EdgeClient(Store(home, key=bytes(32)), bundles, EdgeConfig(), schema)


def test_the_schema_of_the_bundles_domain_counts_where_the_app_names_none(
    tmp_path: Path, fleet: PublishedFleet
) -> None:
    fleet.publish(1, optional={PROFILE_TARGET: APP})
    with opened_with(tmp_path / "home", fleet) as client:
        assert client.schema == app_schema()
        client.consent.grant("personalisation")
        client.capture.receive({"type": "identify", "traits": {"shoe_size": 43}})
    with opened_with(tmp_path / "home", fleet, default_schema()) as client:
        assert client.schema == default_schema()
    with opened_with(tmp_path / "home", fleet) as client:
        assert client.schema == default_schema(), "what the app names goes before what the bundle brings"


def test_a_bundle_that_is_damaged_or_brings_no_schema_any_more_erases_nothing(
    tmp_path: Path, fleet: PublishedFleet
) -> None:
    fleet.publish(1, optional={PROFILE_TARGET: APP})
    with opened_with(tmp_path / "home", fleet) as client:
        client.consent.grant("personalisation")
        client.capture.receive({"type": "identify", "traits": {"shoe_size": 43}})
        commits = client.store.describe()["commits"]
    with opened_with(tmp_path / "home", fleet) as client:
        assert client.store.describe()["commits"] == commits, "the same schema again writes nothing"
    fleet.publish(2, optional={PROFILE_TARGET: None})
    with opened_with(tmp_path / "home", fleet) as client:
        assert client.schema == app_schema()
    for path in (fleet.root / "device" / "objects").iterdir():
        path.write_bytes(b"damaged")
    fleet.folder.rename(fleet.root / "unreachable")
    with opened_with(tmp_path / "home", fleet) as client:
        assert client.schema == app_schema()
        assert client.profile.get("shoe_size").value == 43  # type: ignore[union-attr]
