"""A pull from an app's own back end: what is asked for, what is kept and what is not, and where the next one goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from connector_world import NOW_S, TWO_PURPOSES, Asked, Device, Said, Server
from shop import CUSTOMER, ORDERS, TOKEN, Serve, order, orders_from, said, stamp

from edge_client.know.connectors import EventMapping, FieldMapping
from edge_client.know.connectors.backend import BackendConnector, Resource
from shared_models.errors import (
    ConnectorDataError,
    ConnectorUnavailableError,
    ConsentError,
)
from shared_models.profile import ProfileSchema, default_schema


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "store")
    with made.store:
        yield made


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as running:
        yield lambda answer: running.enter_context(Server(answer).running())


def test_a_pull_keeps_what_is_mapped_and_counts_the_rest(device: Device, serve: Serve) -> None:
    def answer(asked: Asked) -> Said:
        if asked.path == "/api/me":
            return said(
                {
                    "tier": "gold",
                    "orders": 7,
                    "address": {"city": "Bern", "street": "Gasse 5"},
                    "iban": "CH93",
                    "at": stamp(60),
                }
            )
        return said([order(1), order(2)])

    server = serve(answer)
    connector = BackendConnector(
        "crm",
        server.url,
        TOKEN,
        [Resource(path="me", mapping=CUSTOMER), Resource(path="me/orders", mapping=ORDERS)],
    )
    reading = connector.pull(device.intake)
    assert device.values() == {"loyalty_tier": "gold", "home_city": "Bern", "orders": 7}
    found = device.profile.get("home_city")
    assert found is not None
    assert (found.source, found.provenance, found.at_s) == ("connector", "connector:crm", NOW_S - 60)
    events = device.capture.events(name="order_completed")
    assert [event.properties["total"] for event in events] == [11.0, 12.0]
    assert events[0].at_s == NOW_S - 3600
    assert (reading.pages, reading.records, reading.attributes, reading.events) == (2, 3, 3, 2)
    assert dict(reading.dropped) == {"iban": 1, "address.street": 1, "note": 2}
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {TOKEN}"}
    for secret in ("anniversary", "CH93", "Gasse", TOKEN):
        assert secret not in device.kept()
    assert device.intake.document()["crm"]["events"] == 2


def test_without_consent_nothing_is_even_asked_for(tmp_path: Path, serve: Serve) -> None:
    server = serve(lambda asked: said([order(1)]))
    device = Device(tmp_path / "none", consent=False)
    with device.store:
        with pytest.raises(ConsentError):
            orders_from(server).pull(device.intake)
        device.consent.grant("personalisation")
        device.consent.withdraw("personalisation")
        with pytest.raises(ConsentError):
            orders_from(server).pull(device.intake)
        assert server.asked == []
        assert "order" not in device.kept()


def test_an_objection_a_browsers_signal_and_a_restriction_stop_it_and_lifting_them_lets_it_go_on(
    device: Device, serve: Serve
) -> None:
    server = serve(lambda asked: said([order(1)]))
    connector = orders_from(server)
    stops = [
        (device.consent.object_to_profiling, device.consent.withdraw_objection),
        (lambda: device.consent.signal_gpc(True), lambda: device.consent.signal_gpc(False)),
        (lambda: device.consent.restrict("personalisation"), lambda: device.consent.lift("personalisation")),
    ]
    for stop, _ in stops:
        stop()
        with pytest.raises(ConsentError):
            connector.pull(device.intake)
    assert server.asked == []
    for _, lift in stops:
        with pytest.raises(ConsentError):
            connector.pull(device.intake)
        lift()
    assert connector.pull(device.intake).events == 1


def test_consent_withdrawn_while_the_server_answers_keeps_nothing(device: Device, serve: Serve) -> None:
    server = serve(lambda asked: Said(body=json.dumps([order(1)]).encode(), before=withdraw))

    def withdraw() -> None:
        device.consent.withdraw("personalisation")

    with pytest.raises(ConsentError):
        orders_from(server).pull(device.intake)
    assert device.capture.events() == []
    assert len(device.store.table("connectors")) == 0


def test_an_attribute_of_a_purpose_that_is_not_allowed_is_left_out(tmp_path: Path, serve: Serve) -> None:
    device = Device(tmp_path / "two", default_schema().extended(ProfileSchema.from_yaml(TWO_PURPOSES)))
    server = serve(lambda asked: said({"tone": "formal", "tier": "gold"}))
    mapping = FieldMapping(attributes={"tone": "tone", "tier": "loyalty_tier"})
    connector = BackendConnector("crm", server.url, TOKEN, [Resource(path="me", mapping=mapping)])
    with device.store:
        reading = connector.pull(device.intake)
        assert device.values() == {"loyalty_tier": "gold"}
        assert dict(reading.not_kept) == {"no_consent": 1}
        device.consent.grant("personal-learning")
        connector.pull(device.intake)
        assert device.values() == {"loyalty_tier": "gold", "tone": "formal"}
        only = BackendConnector(
            "voice", server.url, TOKEN, [Resource(path="me", mapping=FieldMapping(attributes={"tone": "tone"}))]
        )
        device.consent.withdraw("personal-learning")
        asked = len(server.asked)
        with pytest.raises(ConsentError):
            only.pull(device.intake)
        assert len(server.asked) == asked


def test_reading_the_same_twice_keeps_it_once(device: Device, serve: Serve) -> None:
    server = serve(lambda asked: said([order(1), order(2)]))
    orders_from(server).pull(device.intake)
    document = device.profile.document()
    again = orders_from(server).pull(device.intake)
    assert (again.events, dict(again.not_kept)) == (0, {"duplicate": 2})
    assert len(device.capture.events()) == 2
    assert device.profile.document() == document


@pytest.mark.parametrize("how", ["cursor", "link", "ndjson"])
def test_pages_are_followed_to_their_end(device: Device, serve: Serve, how: str) -> None:
    def answer(asked: Asked) -> Said:
        page = int(asked.query.get("cursor", "0"))
        records = [order(2 * page), order(2 * page + 1)]
        link = f'</api/me/orders?cursor={page + 1}>; rel="next"' if page < 2 else ""
        if how == "cursor":
            return said({"data": {"items": records}, "next": page + 1 if page < 2 else None})
        if how == "link":
            return said(records, Link=link)
        lines = "\n".join(json.dumps(record) for record in records) + "\n"
        return Said(body=lines.encode(), headers={"Content-Type": "application/x-ndjson", "Link": link})

    server = serve(answer)
    options = {"records": "data.items", "cursor": "next"} if how == "cursor" else {}
    reading = orders_from(server, **options).pull(device.intake)
    assert (reading.pages, reading.events, reading.more) == (3, 6, False)


def test_only_what_is_new_is_asked_for(device: Device, serve: Serve) -> None:
    known = [order(1, 7200), order(2, 3600)]
    server = serve(lambda asked: said([o for o in known if o["at"] >= asked.query.get("since", "")]))
    connector = orders_from(server, since_parameter="since")
    connector.pull(device.intake)
    assert "since" not in server.asked[-1].query
    known.append(order(3, 60))
    reading = connector.pull(device.intake)
    assert server.asked[-1].query["since"] == stamp(3600).replace("+00:00", "Z")
    assert reading.events == 1
    device.consent.withdraw("personalisation")
    device.store.destroy_purpose("personalisation")
    device.consent.grant("personalisation")
    assert connector.pull(device.intake).events == 3
    assert "since" not in server.asked[-1].query


def test_a_record_from_the_future_does_not_hide_what_comes_before_it(device: Device, serve: Serve) -> None:
    server = serve(lambda asked: said([{**order(1), "at": "2090-01-01T00:00:00Z"}, order(2, 500)]))
    connector = orders_from(server, since_parameter="since")
    reading = connector.pull(device.intake)
    assert dict(reading.invalid) == {"at": 1}
    connector.pull(device.intake)
    assert server.asked[-1].query["since"] == stamp(500).replace("+00:00", "Z")


def test_a_value_from_the_future_counts_as_now_and_moves_no_place(device: Device, serve: Serve) -> None:
    records = [{"tier": "gold", "at": "2090-01-01T00:00:00Z"}, {"tier": "basic", "at": stamp(500)}]
    server = serve(lambda asked: said(records))
    connector = BackendConnector(
        "crm", server.url, TOKEN, [Resource(path="me", mapping=CUSTOMER, since_parameter="since")]
    )
    connector.pull(device.intake)
    found = device.profile.get("loyalty_tier")
    assert found is not None
    assert (found.value, found.at_s) == ("gold", NOW_S)
    connector.pull(device.intake)
    assert server.asked[-1].query["since"] == stamp(500).replace("+00:00", "Z")


def test_nothing_is_sent_twice_when_nothing_has_changed(device: Device, serve: Serve) -> None:
    tag = '"v1"'

    def answer(asked: Asked) -> Said:
        if asked.headers.get("if-none-match") == tag:
            return Said(status=304, body=b"")
        return said([order(1)], ETag=tag)

    server = serve(answer)
    connector = orders_from(server)
    assert not connector.pull(device.intake).unchanged
    device.clock.now_s += 60
    again = connector.pull(device.intake)
    assert (again.unchanged, again.records, again.events) == (True, 0, 0)
    assert device.intake.document()["shop"]["unchanged"] is True
    assert device.intake.document()["shop"]["at_s"] == NOW_S + 60
    wider = FieldMapping(
        event=EventMapping(event="order_completed", id="id", properties={"sum": "total", "money": "currency"})
    )
    connector = BackendConnector("shop", server.url, TOKEN, [Resource(path="me/orders", mapping=wider)])
    assert not connector.pull(device.intake).unchanged


def test_the_tag_of_one_page_of_several_is_not_taken_for_all(device: Device, serve: Serve) -> None:
    def answer(asked: Asked) -> Said:
        page = int(asked.query.get("cursor", "0"))
        return said({"items": [order(page)], "next": page + 1 if page < 2 else None}, ETag='"same"')

    server = serve(answer)
    connector = orders_from(server, records="items", cursor="next")
    connector.pull(device.intake)
    connector.pull(device.intake)
    assert len(server.asked) == 6
    assert not any("if-none-match" in asked.headers for asked in server.asked)


def test_a_pull_that_broke_goes_on_where_it_was(device: Device, serve: Serve) -> None:
    broken = True

    def answer(asked: Asked) -> Said:
        page = int(asked.query.get("cursor", "0"))
        if page == 2 and broken:
            return Said(status=500)
        return said({"items": [order(page)], "next": page + 1 if page < 3 else ""})

    server = serve(answer)
    connector = orders_from(server, records="items", cursor="next", since_parameter="since")
    with pytest.raises(ConnectorUnavailableError):
        connector.pull(device.intake)
    assert len(device.capture.events()) == 2
    broken = False
    assert connector.pull(device.intake).events == 2
    assert [asked.query.get("cursor") for asked in server.asked] == [None, "1", "2", "2", "3"]
    assert not any("since" in asked.query for asked in server.asked)
    connector.pull(device.intake)
    assert "since" in server.asked[-4].query


def test_a_place_that_the_server_has_forgotten_is_begun_anew(device: Device, serve: Serve) -> None:
    answers = iter(
        [
            said({"items": [order(1)], "next": "far"}),
            Said(status=503),
            Said(status=410),
            said({"items": [order(1), order(2)], "next": None}, ETag='"whole"'),
            Said(status=304, body=b""),
        ]
    )
    server = serve(lambda asked: next(answers))
    connector = orders_from(server, records="items", cursor="next")
    with pytest.raises(ConnectorUnavailableError):
        connector.pull(device.intake)
    assert connector.pull(device.intake).events == 1
    assert connector.pull(device.intake).unchanged
    assert [asked.query.get("cursor") for asked in server.asked] == [None, "far", "far", None, None]


def test_one_pull_reads_a_bounded_number_of_pages(device: Device, serve: Serve) -> None:
    server = serve(lambda asked: said({"items": [], "next": int(asked.query.get("cursor", "0")) + 1}))
    connector = orders_from(server, records="items", cursor="next", max_pages=3)
    assert connector.pull(device.intake).more
    assert len(server.asked) == 3
    connector.pull(device.intake)
    assert server.asked[3].query["cursor"] == "3"


def test_pages_in_a_circle_end(device: Device, serve: Serve) -> None:
    server = serve(lambda asked: said({"items": [], "next": "same"}))
    with pytest.raises(ConnectorDataError, match="circle"):
        orders_from(server, records="items", cursor="next").pull(device.intake)
    assert len(server.asked) == 2
    server.answer = lambda asked: said({"items": [order(1)], "next": None})
    assert orders_from(server, records="items", cursor="next").pull(device.intake).events == 1
