"""Events on their way from a request into the device's capture: the same for the native, the Segment and the Mixpanel API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared_models.errors import CaptureError

if TYPE_CHECKING:
    from edge_client.client import EdgeClient
    from edge_client.know.events import Captured

CHUNK = 500
"""Events that capture takes by one durable write."""


class Intake:
    """One door for events. Blocking: call it in a worker thread."""

    def __init__(self, client: EdgeClient) -> None:
        self._client = client

    def receive(self, event: Mapping[str, Any], *, opted_out: bool) -> Captured:
        """Raises CaptureError, CaptureBusyError, StoreWriteError."""
        self._heed(opted_out)
        return self._client.capture.receive(event)

    def receive_batch(self, events: Sequence[Mapping[str, Any]], *, opted_out: bool) -> list[Captured | CaptureError]:
        """One result for each event. Raises CaptureBusyError, StoreWriteError."""
        self._heed(opted_out)
        found: list[Captured | CaptureError] = []
        for start in range(0, len(events), CHUNK):
            found += self._client.capture.receive_batch(events[start : start + CHUNK])
        return found

    def _heed(self, opted_out: bool) -> None:
        # Before the event, so that this one is not kept either. It stands until the user says otherwise in the privacy centre.
        if opted_out:
            self._client.consent.signal_gpc(True)
