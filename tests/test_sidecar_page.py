"""docs/sidecar.md names every route with its scope, every option, and the limits that the code has."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sidecar_calls import InProcess

from edge_client.bundles import BundleStore
from edge_client.client import EdgeClient
from edge_client.config import EdgeConfig
from edge_client.know.store import Store
from edge_client.know.triggers import Trigger
from edge_client.sidecar import bodies, cli, mixpanel, native, security, segment, sessions, stream, tokens
from edge_client.sidecar.app import Sidecar, openapi_document
from edge_client.sidecar.centre import PAGES

PAGE = (Path(__file__).parents[1] / "docs" / "sidecar.md").read_text(encoding="utf-8")
ROUTES = re.findall(r"^\| (GET|POST|PUT|DELETE) \| `(/[^`…]*)` \| (\w+) \|", PAGE, re.MULTILINE)


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    store, bundles = Store(tmp_path / "home", key=bytes(32)), BundleStore(tmp_path / "bundle")
    with EdgeClient(store, bundles, EdgeConfig()) as client:
        made = Sidecar(client, tokens.Apps(tmp_path))
        yield made
        made.close()


def test_the_page_names_every_route_and_no_other(sidecar: Sidecar) -> None:
    known = {(method.upper(), path) for path, ways in openapi_document(sidecar.api)["paths"].items() for method in ways}
    named = {(method, path) for method, path, _ in ROUTES}
    assert named == known | {("GET", "/openapi.json")}
    assert len(ROUTES) == len(named)


def test_every_route_wants_the_scope_that_the_page_names(sidecar: Sidecar, tmp_path: Path) -> None:
    apps = tokens.Apps(tmp_path)
    for scope in tokens.SCOPES:
        call = InProcess(sidecar, apps.register(f"all-but-{scope}", [], set(tokens.SCOPES) - {scope}))
        for method, path, wanted in ROUTES:
            if path == "/v1/stream" and wanted != scope:
                # It would be open for ever.
                continue
            body = {"token": call.token} if path.startswith("/v1") else {"$token": call.token, "properties": {}}
            answer: httpx.Response = call(method, path, **({} if method in ("GET", "DELETE") else {"json": body}))
            refused = answer.status_code == 403 and f"scope '{scope}'" in answer.text
            assert refused == (wanted == scope), f"{method} {path}: {answer.text}"


def test_the_page_names_every_option_and_page() -> None:
    parser = argparse.ArgumentParser()
    cli.arguments_serve(parser)
    options = [name for action in parser._actions for name in action.option_strings if name not in ("-h", "--help")]
    assert [name for name in options if f"`{name}" not in PAGE] == []
    assert [title for title in PAGES.values() if f"| {title} |" not in PAGE] == []


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    words = " ".join(PAGE.split())
    for said in (
        f"{bodies.MAX_BODY_BYTES // 1024} KiB a body, plain or unpacked, within {bodies.BODY_TIMEOUT_S:g} seconds",
        f"{security.MAX_HEADER_BYTES // 1024} KiB of headers",
        f"{security.REQUESTS_PER_S:g} requests a second and {security.BURST:g} at once",
        f"{security.FAILED_TOKENS_PER_S:g} wrong tokens a second",
        f"{tokens.MAX_APPS} apps, {tokens.MAX_ORIGINS} origins",
        f"Batches of up to {segment.MAX_BATCH}",
        f"up to {mixpanel.MAX_BATCH} events",
        f"an array of up to {native.MAX_EVENTS}",
        f"a comment every {stream.HEARTBEAT_S:g} seconds",
        f"among the last {stream.REMEMBERED}. At most {stream.MAX_LISTENERS} listen",
        f"after {sessions.IDLE_LIFE_S / 60:g} minutes without use, after {sessions.WHOLE_LIFE_S / 3600:g} hours",
    ):
        assert said in words
    assert (sessions.LINK_LIFE_S, cli.CERTIFICATE_WAITS_S) == (600.0, 300.0)


def test_the_trigger_of_the_page_is_one(sidecar: Sidecar, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```text\n(- name: .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "triggers.yaml").write_text(block, encoding="utf-8")
    (trigger,) = cli.read_triggers(tmp_path / "triggers.yaml")
    assert isinstance(trigger, Trigger)
    sidecar.client.capture.on(trigger, print)
