"""A device without a model, served by its sidecar: in this process for most tests, on a real port where a real client calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sidecar_calls import ORIGIN, InProcess, Visitor

from edge_client import EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.client import EdgeClient
from edge_client.know.store import Store
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.serving import loopback_socket, served
from edge_client.sidecar.tokens import Apps

ALL_SCOPES = ("capture", "decide", "rights")
KEY = bytes(range(32))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[EdgeClient]:
    """A device whose bundle has not arrived yet: events, consents and rights work all the same."""
    home = tmp_path / "home"
    with EdgeClient(Store(home, key=KEY), BundleStore(home / "bundle"), EdgeConfig()) as client:
        yield client


@pytest.fixture
def consenting(device: EdgeClient) -> EdgeClient:
    device.consent.grant("personalisation")
    return device


@pytest.fixture
def apps(device: EdgeClient) -> Apps:
    return Apps(device.store.folder)


@pytest.fixture
def token(apps: Apps) -> str:
    return apps.register("shop", [ORIGIN], ALL_SCOPES)


@pytest.fixture
def sidecar(device: EdgeClient, apps: Apps) -> Iterator[Sidecar]:
    made = Sidecar(device, apps)
    yield made
    made.close()


@pytest.fixture
def call(sidecar: Sidecar, token: str) -> InProcess:
    return InProcess(sidecar, token)


@pytest.fixture
def visitor(call: InProcess) -> Visitor:
    return Visitor(call)


@pytest.fixture
def address(sidecar: Sidecar) -> Iterator[str]:
    """Where it is really served."""
    with served(sidecar, loopback_socket("127.0.0.1", 0)) as where:
        yield where
