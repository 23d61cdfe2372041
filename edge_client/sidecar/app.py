"""The sidecar as one ASGI application: joins the device's client with its APIs, the stream, the pages and the guard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from edge_client.sidecar.centre import Centre, never_proven
from edge_client.sidecar.chat_page import ChatPage
from edge_client.sidecar.completions import Completions, completion_routes
from edge_client.sidecar.intake import Intake
from edge_client.sidecar.metrics import CONTENT_TYPE, Metrics
from edge_client.sidecar.mixpanel import mixpanel_routes
from edge_client.sidecar.native import PROBLEMS, native_routes
from edge_client.sidecar.problems import add_handlers
from edge_client.sidecar.security import BURST, REQUESTS_PER_S, Gatekeeper, Guard
from edge_client.sidecar.segment import segment_routes
from edge_client.sidecar.sessions import Sessions
from edge_client.sidecar.stream import TRIGGER, Hub
from edge_client.sidecar.tokens import DECIDE, RIGHTS, Apps
from edge_client.sidecar.turns import Turns

if TYPE_CHECKING:
    from edge_client.client import EdgeClient
    from edge_client.know.triggers import Trigger
    from edge_client.share.scheduler import Scheduler

API_VERSION = "1"


class Sidecar:
    """One device's sidecar. `asgi` is for any ASGI server that listens on loopback or a Unix socket, and nowhere else."""

    def __init__(
        self,
        client: EdgeClient,
        apps: Apps,
        *,
        triggers: Iterable[Trigger] = (),
        scheduler: Scheduler | None = None,
        is_accounted: Callable[[Mapping[str, Any]], bool] = never_proven,
        after_erasure: Callable[[], None] = lambda: None,
        requests_per_s: float = REQUESTS_PER_S,
        burst: float = BURST,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`triggers`: what the stream tells beside decisions. `after_erasure` is called when the user has erased everything.

        Raises ConfigError for a trigger that the schema does not know.
        """
        self.client, self.hub, self.metrics = client, Hub(), Metrics()
        self.sessions = Sessions(monotonic)
        self._taken_away = [client.capture.on(trigger, self._fired) for trigger in triggers]
        gate = Gatekeeper(
            apps,
            self.metrics,
            per_s=requests_per_s,
            burst=burst,
            # Stands until the user says otherwise in the privacy centre.
            opted_out=lambda: client.consent.signal_gpc(True),
        )
        intake, turns = Intake(client), Turns(client, self.hub)
        completions = Completions(client, turns)
        self.hub.also_forget(self.sessions.forget_words)
        self.hub.also_forget(completions.dialogues.clear)
        self._taken_away.append(client.consent.when_narrowed(self.hub.forget))
        self.api = FastAPI(
            title="Tacit sidecar",
            version=API_VERSION,
            summary="The assistant on this device, for the apps on this device.",
            # The interactive pages of FastAPI load from a CDN.
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
        )
        add_handlers(self.api)
        self.api.include_router(native_routes(client, intake, gate, self.hub, turns))
        self.api.include_router(completion_routes(completions, gate))
        self.api.include_router(segment_routes(intake, gate), responses=PROBLEMS)
        self.api.include_router(mixpanel_routes(intake, gate), responses=PROBLEMS)
        self.api.include_router(self._service_routes(gate), responses=PROBLEMS)
        centre = Centre(
            client,
            self.sessions,
            self.hub,
            scheduler=scheduler,
            is_accounted=is_accounted,
            after_erasure=after_erasure,
        )
        # Before the centre, whose pages would take its path.
        self.api.include_router(ChatPage(client, self.sessions, centre, turns).routes())
        self.api.include_router(centre.routes())
        self.asgi = Guard(self.api, apps=apps, metrics=self.metrics)

    def centre_path(self) -> str:
        """A path that opens the privacy centre once, within ten minutes."""
        return f"/centre/open?code={self.sessions.new_link()}"

    def chat_path(self) -> str:
        """A path that opens the chat page once, within ten minutes."""
        return f"/chat?code={self.sessions.new_link()}"

    def close(self) -> None:
        """End streams and sessions; the client stays open."""
        for take_away in self._taken_away:
            take_away()
        self.hub.close()
        self.sessions.close_all()

    def _fired(self, firing: Any) -> None:
        self.hub.publish(TRIGGER, firing.document())

    def _service_routes(self, gate: Gatekeeper) -> APIRouter:
        router = APIRouter(tags=["service"])

        @router.get("/healthz")
        def healthz() -> dict[str, str]:
            """Is it there, and what can it do? Needs no token and tells nothing about anybody."""
            return {"status": "ok", "state": str(self.client.state)}

        @router.get("/metrics", dependencies=[Depends(gate.admitted(DECIDE))], response_class=PlainTextResponse)
        def metrics() -> Response:
            """Counts of requests for Prometheus; nothing about the user."""
            text = self.metrics.exposition(str(self.client.state), self.hub.listeners)
            return Response(text, media_type=CONTENT_TYPE)

        @router.get("/openapi.json", dependencies=[Depends(gate.admitted(DECIDE))], include_in_schema=False)
        def openapi() -> Response:
            return JSONResponse(openapi_document(self.api))

        @router.post("/v1/centre", dependencies=[Depends(gate.admitted(RIGHTS))])
        def centre() -> dict[str, str]:
            """Paths that open the privacy centre and the chat page in the user's browser: each once, within ten minutes."""
            return {"path": self.centre_path(), "chat": self.chat_path()}

        return router


def openapi_document(api: FastAPI) -> dict[str, Any]:
    """The API as OpenAPI 3.1 has it, with the ways in which a token may be given."""
    document = api.openapi()
    document.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "the app's token"},
        "writeKey": {"type": "http", "scheme": "basic", "description": "the app's token as the user, no password"},
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path != "/healthz":
                operation["security"] = [{"bearer": []}, {"writeKey": []}]
    return document
