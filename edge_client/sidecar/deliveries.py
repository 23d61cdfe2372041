"""What the assistant says by itself, to the apps: shown on the stream while somebody listens, and what the user did with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Path

from edge_client.decide.receptive_hours import Outcome
from edge_client.delivery_ticks import EVERY_S, DeliveryTicks
from edge_client.sidecar.bodies import json_body, json_request
from edge_client.sidecar.stream import DELIVERY, Hub
from edge_client.sidecar.talking import Body
from shared_models.errors import SidecarError

if TYPE_CHECKING:
    from edge_client.client import EdgeClient
    from edge_client.delivering import Delivering
    from edge_client.delivery_hooks import Delivered

CHANNELS = ("card",)
"""What an app on the stream can show. A notification is the system's, and no app has said that it can make one."""
ID_PATTERN = r"^[0-9a-f]{16}$"


class StreamedDeliveries:
    """Deliveries of one room as events of a stream, and the ticks that make them; a context manager.

    Begun, its hooks replace those that the app registered for the same channels. Nothing is said while nobody listens.
    """

    def __init__(
        self,
        room: Delivering,
        hub: Hub,
        *,
        every_s: float = EVERY_S,
        context: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        """`every_s` and `context`: as `DeliveryTicks` takes them. Raises ConfigError."""
        self._room, self._hub = room, hub
        self._ticks = DeliveryTicks(room, every_s=every_s, context=context)
        self._ended = threading.Event()

    def __enter__(self) -> StreamedDeliveries:
        for channel in CHANNELS:
            self._room.register(channel, self._publish, ready=self._is_heard)
        self._ticks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._ticks.stop()
        for channel in CHANNELS:
            self._room.unregister(channel)

    def _is_heard(self) -> bool:
        # Streams of a server that ends are still counted for a moment, and read nothing more.
        return not self._ended.is_set() and self._hub.is_heard

    def _publish(self, message: Delivered) -> None:
        self._hub.publish(DELIVERY, message.document())


class Answer(Body):
    """What the user did with a message."""

    outcome: Outcome


def delivery_routes(client: EdgeClient, *, decide: Callable[..., Any], capture: Callable[..., Any]) -> APIRouter:
    """`decide` and `capture`: dependencies that let the caller in, or raise."""
    router = APIRouter(prefix="/deliveries", tags=["deliveries"])

    @router.get("", dependencies=[Depends(decide)])
    def deliveries() -> dict[str, Any]:
        """What the assistant may come back to by itself, by due time, and counts of what came of what it said."""
        room = client.delivery
        return {"pending": [one.document() for one in room.pending()], "quality": room.quality()}

    @router.post(
        "/{delivery_id}/outcome",
        dependencies=[Depends(capture)],
        openapi_extra=json_request(Answer.model_json_schema()),
    )
    def outcome(
        delivery_id: Annotated[str, Path(pattern=ID_PATTERN)], answer: Annotated[Answer, Depends(json_body(Answer))]
    ) -> dict[str, Any]:
        """What the user did with a message of the stream, by its `id`. `recorded` is false if that was known already.

        `disabled` stops its channel until the user restores it.
        """
        recorded = client.delivery.outcome(delivery_id, answer.outcome)
        if not recorded and all(said["id"] != delivery_id for said in client.delivery.document()["delivered"]):
            raise SidecarError("no such delivery is known (any more)", 404)
        return {"id": delivery_id, "outcome": answer.outcome, "recorded": recorded}

    return router
