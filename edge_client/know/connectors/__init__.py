"""Sources besides the app's own events: its back end, files, the calendar. All end in one profile (`Intake`).

mapping.py   which fields of somebody else's records are kept, and as what
intake.py    consent, then profile and events, in one transaction
reading.py   JSON, newline-delimited JSON, CSV
channel.py   an authenticated channel to one host
backend.py   pulls from an app's own back end
imports.py   files
calendar.py  iCalendar (extra `connectors`)
"""

from __future__ import annotations

from typing import Protocol

from edge_client.know.connectors.intake import Intake, Reading
from edge_client.know.connectors.mapping import EventMapping, FieldMapping

__all__ = ["Connector", "EventMapping", "FieldMapping", "Intake", "Reading"]


class Connector(Protocol):
    """A source. It asks `intake.begin` before it fetches anything, and keeps only through `intake.take`."""

    name: str

    def pull(self, intake: Intake) -> Reading:
        """Read what is new and keep it. Raises ConsentError before anything is fetched, ConnectorError, StoreWriteError."""
        ...
