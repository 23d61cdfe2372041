"""A device in a process of its own that pulls from a back end until there is nothing more, to be killed at any moment.

python pulling_device.py FOLDER URL
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from edge_client.know.capture import Capture
from edge_client.know.connectors import EventMapping, FieldMapping, Intake
from edge_client.know.connectors.backend import BackendConnector, Resource
from edge_client.know.consent import Consent
from edge_client.know.profile import Profile
from edge_client.know.store import Store
from shared_models.profile import default_schema

MAPPING = FieldMapping(
    attributes={"count": "orders"},
    event=EventMapping(event="order_completed", id="id", properties={"sum": "total", "money": "currency"}),
    at="at",
)


def pull(folder: Path, url: str) -> None:
    schema = default_schema()
    with Store(folder, key=bytes(32)) as store:
        consent = Consent(store, time.time)
        if not consent.is_granted("personalisation"):
            consent.grant("personalisation")
        profile = Profile(store, schema, time.time)
        capture = Capture(store, schema, consent, profile, time.time)
        intake = Intake(store, schema, consent, profile, capture, time.time)
        resource = Resource(path="orders", mapping=MAPPING, records="items", cursor="next", since_parameter="since")
        BackendConnector("shop", url, "token", [resource]).pull(intake)


if __name__ == "__main__":
    pull(Path(sys.argv[1]), sys.argv[2])
