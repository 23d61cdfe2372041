"""SIGKILL before every change of the disk during a publication: what is served is the old release or the new one."""

from __future__ import annotations

import subprocess
import threading

import nacl.signing
import pytest
from published_fleet import PublishedFleet, killed_at_each_step

from aggregator.publish import create_repository, refresh_timestamp
from shared_models.errors import BundleRollbackError


def served_version(fleet: PublishedFleet) -> int:
    """What a device that sees the bundle for the first time gets: it checks every signature and every byte."""
    subprocess.run(["rm", "-rf", str(fleet.root / "device")], check=True)
    store = fleet.device()
    store.refresh(fleet.folder)
    active = store.current()
    assert active is not None
    assert active.head == b"head %d" % active.manifest.version
    assert active.templates["greeting"] == (f"Hello {active.manifest.version}.",)
    return active.manifest.version


def publish(fleet: PublishedFleet, version: int) -> None:
    policy = fleet.policy(f"sequence: {version}", version)
    fleet.publish(version, templates={"greeting": (f"Hello {version}.",)}, **policy)


def test_killed_at_any_step_of_a_publication(fleet: PublishedFleet) -> None:
    publish(fleet, 1)
    seen = []
    for _ in killed_at_each_step(lambda: publish(fleet, 2)):
        seen.append(served_version(fleet))
    assert served_version(fleet) == 2
    assert len(seen) > 15
    assert seen == sorted(seen), "once the new release is out, a repeated publication does not take it back"
    publish(fleet, 3)
    assert served_version(fleet) == 3
    assert not list(fleet.folder.rglob(".*")), "debris of killed runs is removed"


@pytest.mark.deep
def test_killed_at_any_step_of_a_timestamp_refresh(fleet: PublishedFleet) -> None:
    publish(fleet, 1)
    fleet.now_s += 50 * 86_400
    for _ in killed_at_each_step(fleet.refresh_timestamp):
        assert served_version(fleet) == 1
    assert served_version(fleet) == 1


@pytest.mark.deep
def test_killed_at_any_step_of_making_a_repository(fleet: PublishedFleet) -> None:
    officer, aggregator = (bytes(nacl.signing.SigningKey.generate().verify_key) for _ in range(2))
    folder = fleet.root / "new"

    def create() -> None:
        create_repository(folder, officer_public_key=officer, aggregator_public_key=aggregator, fleet="f")

    for _ in killed_at_each_step(create):
        if folder.exists():
            # It is there in whole, or not at all.
            refresh_timestamp(folder)
            subprocess.run(["rm", "-rf", str(folder)], check=True)
    refresh_timestamp(folder)


def test_publishers_at_the_same_time_are_serialised(fleet: PublishedFleet) -> None:
    errors: list[Exception] = []

    def run(version: int) -> None:
        try:
            fleet.publish(version, templates={"greeting": (f"Hello {version}.",)})
        except BundleRollbackError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(version,)) for version in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served_version(fleet) == 4
    assert len(errors) <= 3
