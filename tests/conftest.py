"""Fixtures that the tests of several packages share; what they are made of lies in tests/support."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Small matrices gain nothing from BLAS threads and lose tenfold on a busy machine; numpy reads this when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent / "support"))

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 6 << 30

# Thousands of tests sync files to the disk, and wait for that most of their time. What they kill are processes and not machines,
# so a disk in memory shows the same; where there is none, or a small one, tests use the ordinary one.
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ENOUGH_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

if TYPE_CHECKING:
    from published_fleet import PublishedFleet
    from real_bundle import RealBundle

    from aggregator.deployment import FleetServer
    from edge_client.bundles import BundleStore
    from shared_models.domain import Domain
    from shared_models.encoder import EncoderFiles
    from shared_models.text_encoder import TextEncoder


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A check that is skipped is no check: with CI set, skips fail the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def _first_release(tmp_path_factory: pytest.TempPathFactory) -> PublishedFleet:
    from published_fleet import PublishedFleet

    published = PublishedFleet(tmp_path_factory.mktemp("fleet"))
    published.publish(0)
    return published


@pytest.fixture
def fleet(_first_release: PublishedFleet, tmp_path: Path) -> PublishedFleet:
    """A real publisher on disk, with release 0 out."""
    return _first_release.copied_to(tmp_path)


@pytest.fixture(scope="session")
def real_bundle(tmp_path_factory: pytest.TempPathFactory) -> RealBundle:
    """The travel domain, published with the real encoder. Shared: publish further releases into a copy only."""
    from real_bundle import RealBundle

    return RealBundle(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="session")
def travel(real_bundle: RealBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BundleStore]:
    """The same with everything that the assistant's conversations need, arrived on a device. Shared by many clients."""
    from travel_bundle import travel_bundles

    from edge_client.loaded_models import load_encoder, load_head

    store = travel_bundles(real_bundle, tmp_path_factory.mktemp("travel"))
    bundle = store.current()
    assert bundle is not None
    # Clients of one process share what is loaded: kept alive, it is loaded once.
    loaded = load_encoder(bundle), load_head(bundle)
    yield store
    del loaded


@pytest.fixture(scope="session")
def served_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A real SuperLink behind its pass-through, on loopback; it is started again when a test kills it."""
    from fleet_devices import served

    with served(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="session")
def encoder_files() -> EncoderFiles:
    """The real encoder, from the user's cache or built into it."""
    from shared_models.encoder import build_encoder

    return build_encoder()


@pytest.fixture(scope="session")
def text_encoder(encoder_files: EncoderFiles) -> TextEncoder:
    from shared_models.text_encoder import TextEncoder

    return TextEncoder(encoder_files.model, encoder_files.tokenizer, expected_sha256=encoder_files.model_sha256)


@pytest.fixture(scope="session")
def travel_domain() -> Domain:
    from shared_models.domain import TRAVEL, load_domain

    return load_domain(TRAVEL)


@pytest.fixture(scope="session")
def tiny_domain_dir() -> Path:
    """A second, small domain (a library's assistant). Read only: copy it before changing it."""
    return Path(__file__).parent / "data" / "tiny_domain"
