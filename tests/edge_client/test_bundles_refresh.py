"""A device fetches, verifies, swaps and keeps what is published."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from published_fleet import PublishedFleet, serving

from aggregator.publish import renew_root
from edge_client import bundles
from edge_client.bundles import BundleStore
from shared_models.bundle import TrustAnchor
from shared_models.errors import (
    BundleRollbackError,
    BundleTamperedError,
    BundleUnavailableError,
    ConfigError,
    ModelDamagedError,
    StoreWriteError,
    TrustError,
)


def test_nothing_is_active_before_the_first_refresh(fleet: PublishedFleet) -> None:
    store = fleet.device()
    assert store.current() is None
    assert store.staleness is None


def test_a_folder_that_the_app_ships_brings_its_own_anchor_and_everything_else(fleet: PublishedFleet) -> None:
    store = fleet.device()
    assert store.refresh(fleet.folder) == "fresh"
    active = store.current()
    assert active is not None
    assert active.encoder_model.read_bytes() == fleet.encoder.read_bytes()
    assert active.tokenizer.read_bytes() == fleet.tokenizer.read_bytes()
    assert active.head == b"head 0"
    assert active.manifest.labels == ("greeting", "thanks")
    assert active.manifest.version == 0
    assert active.rules == fleet.contents(0).rules
    assert active.templates == {"greeting": ("Hello.", "Good day."), "unsure": ("Pardon?",)}
    assert active.intent_labels == {"greeting": "say hello"}
    assert active.policy is None
    assert active.trust.officer_key == bytes(fleet.officer.verify_key)
    assert active.trust.aggregator_key == bytes(fleet.aggregator.verify_key)


def test_a_new_release_replaces_the_old_one_and_leaves_no_debris(fleet: PublishedFleet) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    before = {path.name for path in (fleet.root / "device" / "objects").iterdir()}
    fleet.publish(1)
    assert store.refresh(fleet.folder) == "fresh"
    active = store.current()
    assert active is not None
    assert (active.manifest.version, active.head) == (1, b"head 1")
    after = {path.name for path in (fleet.root / "device" / "objects").iterdir()}
    assert len(after - before) == len(before - after) == 2, "only the head and the manifest are new"
    assert len(list((fleet.root / "device" / "generations").iterdir())) == 1
    assert not (fleet.root / "device" / "staging").exists()


def test_an_unchanged_source_changes_nothing(fleet: PublishedFleet) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    pointer = (fleet.root / "device" / "current").read_bytes()
    assert store.refresh(fleet.folder) == "fresh"
    assert (fleet.root / "device" / "current").read_bytes() == pointer


def test_the_policy_arrives_as_the_officer_signed_it(fleet: PublishedFleet) -> None:
    signed = fleet.policy("sequence: 1", 1)
    fleet.publish(1, **signed)
    store = fleet.device()
    store.refresh(fleet.folder)
    fleet.publish(2)
    store.refresh(fleet.folder)
    active = store.current()
    assert active is not None
    assert active.policy == signed["policy"], "a release without a policy keeps the published one"
    newer = fleet.policy("sequence: 2", 2)
    fleet.publish(3, **newer)
    store.refresh(fleet.folder)
    active = store.current()
    assert active is not None
    assert active.policy == newer["policy"]


def test_a_lapsed_policy_does_not_keep_a_release_away(fleet: PublishedFleet) -> None:
    fleet.publish(1, **fleet.policy("sequence: 1", 1))
    fleet.now_s += 30 * 86_400
    fleet.publish(2)
    with serving(fleet.folder) as url:
        store = fleet.device()
        assert store.refresh(url, fleet.trust) == "fresh"
    active = store.current()
    assert active is not None
    assert active.manifest.version == 2


def test_a_renewed_root_is_followed(fleet: PublishedFleet) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    fleet.now_s += 300 * 86_400
    renew_root(fleet.folder, keys_dir=fleet.keys_dir, now=fleet.now_s)
    fleet.now_s += 200 * 86_400
    fleet.publish(1)
    with serving(fleet.folder) as url:
        assert store.refresh(url) == "fresh"


def test_a_url_needs_a_trust_file_the_first_time_only(fleet: PublishedFleet) -> None:
    with serving(fleet.folder) as url:
        store = fleet.device()
        with pytest.raises(TrustError, match="trust"):
            store.refresh(url)
        assert store.current() is None
        assert store.refresh(url, trust=fleet.trust) == "fresh"
        assert store.refresh(url.rstrip("/")) == "fresh"
        fleet.publish(1)
        assert fleet.device().refresh(url + "/") == "fresh"


def test_another_anchor_than_the_pinned_one_is_refused(fleet: PublishedFleet, tmp_path: Path) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    (tmp_path / "other").mkdir()
    other = PublishedFleet(tmp_path / "other")
    other.publish(9)
    for attempt in (lambda: store.refresh(other.folder), lambda: store.refresh(fleet.folder, trust=other.trust)):
        with pytest.raises(TrustError, match="pinned"):
            attempt()
    active = store.current()
    assert active is not None
    assert active.manifest.version == 0


def test_a_lost_or_damaged_anchor_is_replaced_only_by_the_same(fleet: PublishedFleet, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = PublishedFleet(tmp_path / "other")
    fleet.device().refresh(fleet.folder)
    for damage in (b"", b"{", other.trust.read_bytes(), None):
        anchor = fleet.root / "device" / "anchor.json"
        if damage is None:
            anchor.unlink()
        else:
            anchor.write_bytes(damage)
        with pytest.raises(TrustError):
            fleet.device().current()
        with pytest.raises(TrustError):
            fleet.device().refresh(fleet.folder, trust=other.trust)
        assert fleet.device().refresh(fleet.folder, trust=fleet.trust) == "fresh"
        assert fleet.device().current() is not None


def test_a_trust_file_that_is_none_is_refused(fleet: PublishedFleet) -> None:
    path = fleet.root / "bad.json"
    good = TrustAnchor.from_bytes(fleet.trust.read_bytes()).document()
    assert good["fleet"] == "test fleet"
    for raw in (b"", b"\xff\x00", b"[]", b"{}", b'{"format": 1}', b"x" * 1_000_000):
        path.write_bytes(raw)
        with pytest.raises(TrustError):
            fleet.device().refresh(fleet.folder, trust=path)
    with pytest.raises(TrustError):
        fleet.device().refresh(fleet.folder, trust=fleet.root / "nowhere.json")


@pytest.mark.parametrize(
    "address", ["", " ", "ftp://host/x", "http://", "https://user:pw@host/b", "http://host/b?id=7", "a\0b"]
)
def test_a_bad_address_is_named(fleet: PublishedFleet, address: str) -> None:
    with pytest.raises(ConfigError):
        fleet.device().refresh(address)


def test_a_source_that_is_gone_leaves_the_active_bundle(fleet: PublishedFleet) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    with pytest.raises(BundleUnavailableError):
        store.refresh(fleet.root / "nowhere")
    (fleet.root / "empty").mkdir()
    with pytest.raises(BundleUnavailableError):
        store.refresh(fleet.root / "empty")
    assert store.staleness == "fresh"


def test_a_repository_without_a_release_says_so(fleet: PublishedFleet, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(BundleUnavailableError, match="nothing has been published"):
        fleet.device().refresh(PublishedFleet(tmp_path / "new").folder)


@pytest.mark.parametrize("target", ["encoder", "tokenizer", "head"])
def test_a_damaged_model_is_found_on_opening_and_repaired_by_a_refresh(fleet: PublishedFleet, target: str) -> None:
    fleet.device().refresh(fleet.folder)
    digest = getattr(fleet.device().current().manifest, f"{target}_sha256")  # type: ignore[union-attr]
    path = fleet.root / "device" / "objects" / digest
    sound = path.read_bytes()
    for raw in (sound[:-1], b"X" + sound[1:], b"", None):
        path.unlink()
        if raw is None:
            path.symlink_to(fleet.root / "elsewhere")
            (fleet.root / "elsewhere").write_bytes(sound)
        else:
            path.write_bytes(raw)
        with pytest.raises(ModelDamagedError, match="refresh"):
            fleet.device().current()
        assert fleet.device().refresh(fleet.folder) == "fresh"
        assert path.read_bytes() == sound
        assert not path.is_symlink()


def test_damage_is_repaired_also_for_a_device_that_had_it_open(fleet: PublishedFleet) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    active = store.current()
    assert active is not None
    active.encoder_model.write_bytes(b"rubbish")
    store.refresh(fleet.folder)
    assert active.encoder_model.read_bytes() == fleet.encoder.read_bytes()


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x00" * 100, b'{"generation":"../../x","sha256":"00"}'])
def test_a_damaged_pointer_or_index_is_found_and_repaired_without_forgetting_versions(
    fleet: PublishedFleet, damage: bytes
) -> None:
    old = fleet.copy("old")
    fleet.publish(1)
    fleet.device().refresh(fleet.folder)
    folder = fleet.root / "device"
    for path in (folder / "current", next((folder / "generations").glob("*/bundle.json"))):
        sound = path.read_bytes()
        path.write_bytes(damage)
        with pytest.raises(BundleTamperedError, match="refresh"):
            fleet.device().current()
        with pytest.raises(BundleRollbackError):
            fleet.device().refresh(old)
        path.write_bytes(sound)
    (folder / "current").write_bytes(damage)
    assert fleet.device().refresh(fleet.folder) == "fresh"
    assert fleet.device().current() is not None


def test_refreshes_at_the_same_time_are_serialised(fleet: PublishedFleet) -> None:
    fleet.publish(1)
    results: list[object] = []

    def refresh() -> None:
        try:
            results.append(fleet.device().refresh(fleet.folder))
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            results.append(error)

    threads = [threading.Thread(target=refresh) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["fresh"] * 8
    assert len(list((fleet.root / "device" / "generations").iterdir())) == 1


def test_reading_while_another_process_replaces_never_fails(fleet: PublishedFleet) -> None:
    writer = fleet.device()
    writer.refresh(fleet.folder)
    stop = threading.Event()
    seen: list[object] = []

    def read() -> None:
        while not stop.is_set():
            try:
                active = BundleStore(fleet.root / "device", fleet.clock).current()
                seen.append(active.manifest.version if active else None)
            except Exception as error:  # noqa: BLE001 - shown by the assertion below
                seen.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(1, 6):
        fleet.publish(version)
        writer.refresh(fleet.folder)
    stop.set()
    reader.join()
    assert set(seen) <= set(range(6))


def test_opening_what_is_active_loads_neither_tuf_nor_a_network_library(fleet: PublishedFleet) -> None:
    fleet.device().refresh(fleet.folder)
    code = (
        "import sys; from pathlib import Path; from edge_client.bundles import BundleStore;"
        f"active = BundleStore(Path({str(fleet.root / 'device')!r})).current(); assert active.manifest.version == 0;"
        "print(sorted({'tuf','securesystemslib','urllib3','requests','httpx','cryptography','filelock','http','ssl'}"
        " & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"


def test_a_folder_that_cannot_be_one_is_named(fleet: PublishedFleet) -> None:
    (fleet.root / "file").write_text("in the way")
    store = fleet.device("file")
    assert store.current() is None
    with pytest.raises(StoreWriteError):
        store.refresh(fleet.folder)
    (fleet.root / "odd" / "current").mkdir(parents=True)
    with pytest.raises(BundleTamperedError):
        fleet.device("odd").current()


def test_one_store_is_read_and_refreshed_by_many_threads(fleet: PublishedFleet) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    stop = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                assert store.current() is not None
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for version in (1, 2, 3):
        fleet.publish(version)
        store.refresh(fleet.folder)
        store.refresh(fleet.folder)
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []


def test_a_file_taken_away_while_it_is_read_is_found_in_the_newer_bundle(
    fleet: PublishedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process may do between the check of a file and its reading."""
    fleet.publish(1)
    writer = fleet.device()
    writer.refresh(fleet.folder)
    read_documents, done = bundles._read_documents, []

    def overtaken(files: dict[str, Path]) -> object:
        if not done:
            done.append(True)
            fleet.publish(2)
            writer.refresh(fleet.folder)
        return read_documents(files)

    monkeypatch.setattr(bundles, "_read_documents", overtaken)
    reader = BundleStore(fleet.root / "device", fleet.clock)
    active = reader.current()
    assert active is not None
    assert active.manifest.version == 2
