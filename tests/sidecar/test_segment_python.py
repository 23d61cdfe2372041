"""The official `segment-analytics-python`, with nothing changed but its host."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest
from segment.analytics.client import Client
from segment.analytics.request import APIError

from edge_client.client import EdgeClient


@pytest.mark.parametrize("gzip", [False, True])
def test_all_six_calls_of_the_official_client_arrive(
    address: str, consenting: EdgeClient, token: str, gzip: bool
) -> None:
    failures: list[object] = []
    analytics = Client(token, host=address, gzip=gzip, on_error=lambda error, items: failures.append(error))
    analytics.identify("user-1", {"plan": "gold", "home_city": "Lisbon", "ssn": "078-05-1120"})
    analytics.track("user-1", "Product Viewed", {"product_id": "p-7", "price": 12.5, "currency": "EUR", "secret": "x"})
    analytics.page("user-1", "Docs", "Start", {"url": "https://shop.example/?email=a@b.c"})
    analytics.screen("user-1", "Docs", "Start")
    analytics.group("user-1", "company-1", {"plan": "team"})
    analytics.alias("anonymous-1", "user-1")
    analytics.flush()
    analytics.join()
    assert failures == []
    assert [event.type for event in consenting.capture.events()] == [
        "identify",
        "track",
        "page",
        "screen",
        "group",
        "alias",
    ]
    viewed = consenting.capture.events(name="product_viewed")[0]
    assert "secret" not in viewed.properties
    assert viewed.properties["price"] == 12.5
    assert consenting.profile.get("plan").value == "gold"  # type: ignore[union-attr]
    kept = repr(consenting.export())
    for planted in ("078-05-1120", "a@b.c", "user-1", "company-1"):
        assert planted not in kept


def test_a_message_that_comes_again_is_kept_once(address: str, consenting: EdgeClient, token: str) -> None:
    analytics = Client(token, host=address, sync_mode=True)
    for _ in range(3):
        analytics.page("user-1", name="Start", message_id="message-1", timestamp=datetime.now(UTC))
    assert len(consenting.capture.events()) == 1


def test_without_consent_the_client_is_content_and_nothing_is_kept(
    address: str, device: EdgeClient, token: str
) -> None:
    analytics = Client(token, host=address, sync_mode=True)
    analytics.track("user-1", "Product Viewed", {"product_id": "p-7"})
    assert device.capture.events() == []
    assert device.capture.quality()["stored"] == 0


def test_a_wrong_key_is_told_and_not_tried_again(address: str, consenting: EdgeClient) -> None:
    analytics = Client("tacit_wrong", host=address, sync_mode=True)
    with pytest.raises(APIError, match="no token of an app") as caught:
        analytics.page("user-1", name="Start")
    assert caught.value.status == 401


def test_one_bad_message_of_a_batch_costs_only_itself(
    address: str, consenting: EdgeClient, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "segment")
    failures: list[object] = []
    analytics = Client(token, host=address, on_error=lambda error, items: failures.append(error))
    analytics.page("user-1", name="Start")
    analytics.track("user-1", "Product Viewed", {"product_id": "p-7", "price": "a lot"})
    analytics.page("user-1", name="End")
    analytics.flush()
    analytics.join()
    assert failures == []
    assert [event.properties["name"] for event in consenting.capture.events()] == ["Start", "End"]


def test_what_the_schema_does_not_name_is_dropped_and_counted(address: str, consenting: EdgeClient, token: str) -> None:
    analytics = Client(token, host=address, sync_mode=True)
    analytics.track("user-1", "Something Unheard Of", {"x": 1})
    assert consenting.capture.events() == []
    assert consenting.capture.quality()["not_in_schema"] == 1
