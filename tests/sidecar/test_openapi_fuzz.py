"""schemathesis over the whole OpenAPI document, against a sidecar on a real port: no 5xx, and only what the document promises."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance

from edge_client import EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.client import EdgeClient
from edge_client.know.store import Store
from edge_client.sidecar.app import Sidecar, openapi_document
from edge_client.sidecar.serving import loopback_socket, served
from edge_client.sidecar.tokens import Apps

EXCLUDED = ("/v1/stream",)
"""A stream has no end; test_stream.py is about it."""


@pytest.fixture(scope="module")
def running(
    real_bundle: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Address, token and OpenAPI document of a sidecar with the real model, whose user has allowed everything."""
    home: Path = tmp_path_factory.mktemp("fuzzed")
    bundles = BundleStore(home / "bundle")
    bundles.refresh(real_bundle.folder)
    with EdgeClient(Store(home, key=bytes(32)), bundles, EdgeConfig(bundles=bundles)) as client:
        for purpose in ("personalisation", "personal-learning", "intent-model"):
            client.consent.grant(purpose)
        apps = Apps(home)
        token = apps.register("fuzzer", scopes=["capture", "decide", "rights"])
        sidecar = Sidecar(client, apps, requests_per_s=1e6, burst=1e6)
        with served(sidecar, loopback_socket("127.0.0.1", 0)) as address:
            yield address, token, openapi_document(sidecar.api)


def operations(document: dict[str, object], address: str) -> list[schemathesis.APIOperation]:
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.update(base_url=address)
    return [found.ok() for found in loaded.exclude(path=list(EXCLUDED)).get_all_operations()]


@pytest.mark.deep
def test_no_call_is_answered_by_a_server_error(running: tuple[str, str, dict[str, object]]) -> None:
    address, token, document = running
    statuses: Counter[int] = Counter()
    for operation in operations(document, address):
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            def fuzz(case: schemathesis.Case) -> None:
                answer = case.call_and_validate(
                    headers={"Authorization": f"Bearer {token}"}, checks=[not_a_server_error, content_type_conformance]
                )
                statuses[answer.status_code] += 1

            # Nothing in an operation without parameters can be made wrong.
            with contextlib.suppress(Unsatisfiable):
                fuzz()
    # It got behind the parser: most kinds of call were understood, and most kinds of wrong ones refused.
    assert statuses[200] > 200, statuses
    assert statuses[422] + statuses[400] > 200, statuses
    assert not any(status >= 500 for status in statuses), statuses


def test_the_document_that_is_served_is_the_one_that_is_fuzzed(running: tuple[str, str, dict[str, object]]) -> None:
    address, token, document = running
    assert len(operations(document, address)) > 25
    assert httpx.get(f"{address}/openapi.json", headers={"Authorization": f"Bearer {token}"}).json() == document
