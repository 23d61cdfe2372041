"""A back end with orders and customers, for the tests of the connector to one: what it answers, and the connector itself."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

from connector_world import NOW_S, Asked, Said, Server

from edge_client.know.connectors import EventMapping, FieldMapping
from edge_client.know.connectors.backend import BackendConnector, Resource

TOKEN = "tok-secret-5551"
CUSTOMER = FieldMapping(attributes={"tier": "loyalty_tier", "address.city": "home_city", "orders": "orders"}, at="at")
ORDERS = FieldMapping(
    event=EventMapping(
        event="order_completed", id="id", properties={"sum": "total", "money": "currency", "kind": "category"}
    ),
    at="at",
)
Serve = Callable[[Callable[[Asked], Said]], Server]
"""Starts a server that answers so; it is stopped when the test is over."""


def stamp(age_s: float) -> str:
    return datetime.datetime.fromtimestamp(NOW_S - age_s, datetime.UTC).isoformat()


def order(number: int, age_s: float = 3600.0) -> dict[str, Any]:
    return {
        "id": number,
        "at": stamp(age_s),
        "sum": 10 + number,
        "money": "EUR",
        "kind": "hotel",
        "note": "anniversary",
    }


def said(value: Any, **headers: str) -> Said:
    named = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    return Said(body=value if isinstance(value, bytes) else json.dumps(value).encode(), headers=named)


def orders_from(server: Server, token: Any = TOKEN, **options: Any) -> BackendConnector:
    known = {name: options.pop(name) for name in ("timeout_s", "max_pages", "ca_file") if name in options}
    return BackendConnector(
        "shop",
        server.url,
        token,
        [Resource(path="me/orders", mapping=ORDERS, **options)],
        **{"timeout_s": 5.0, **known},
    )
