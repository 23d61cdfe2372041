"""Promises of the privacy centre that only a whole client with its real model can keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_client import EdgeClient, EdgeConfig
from edge_client.bundles import BundleStore
from shared_models.purposes import PURPOSES

SAID = (
    "Book a flight to Lisbon",
    "please water my plants",
    "what is the weather like",
    "zorgle the frumious bandersnatch",
)


def answers(client: EdgeClient) -> list[tuple[str, str, str]]:
    """What decides an answer and what is said: of a first conversation, for variants take turns."""
    return [(reply.intent, reply.action, reply.text) for reply in map(client.respond, SAID)]


def personal(client: EdgeClient) -> EdgeClient:
    """A client that has learned something which changes its answers."""
    for name in PURPOSES:
        client.consent.grant(name)
    client.feedback(SAID[0], intent="book_hotel")
    client.define_intent("water_plants", ["water my plants", "give the plants some water"])
    return client


@pytest.mark.parametrize(
    "object_",
    [
        lambda client: client.rights.object_to_profiling(),
        lambda client: client.consent.signal_gpc(True),
    ],
    ids=["an objection", "Sec-GPC"],
)
def test_whoever_objects_is_answered_as_anybody_would_be_and_leaves_no_trace(
    bundles: BundleStore, tmp_path: Path, object_: Callable[[EdgeClient], None]
) -> None:
    config = EdgeConfig(bundles=bundles)
    with EdgeClient.open(tmp_path / "anybody", key=bytes(32), config=config) as anybody:
        expected = answers(anybody)
    with EdgeClient.open(tmp_path / "home", key=bytes(32), config=config) as client:
        personal(client)
        assert client.recognize(SAID[0]).intent == "book_hotel"
        object_(client)
        before = len(client.capture.events()), len(client.decisions.recent())
        assert answers(client) == expected
        assert client.training_examples()[1] == []
        assert (len(client.capture.events()), len(client.decisions.recent())) == before
        assert client.capture.receive({"type": "track", "event": "Product Viewed", "properties": {}}).kept is False


def test_an_end_of_the_objection_brings_back_what_was_learned(bundles: BundleStore, tmp_path: Path) -> None:
    with EdgeClient.open(tmp_path / "home", key=bytes(32), config=EdgeConfig(bundles=bundles)) as client:
        personal(client)
        client.rights.object_to_profiling()
        assert client.recognize(SAID[0]).intent != "book_hotel"
        client.rights.withdraw_objection()
        assert client.recognize(SAID[0]).intent == "book_hotel"
        assert client.recognize(SAID[1]).intent == "water_plants"
