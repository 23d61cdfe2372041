"""The native API: talking, deliveries, events, features, decisions, and the user's rights for apps with that scope."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from edge_client.client import EdgeClient
from edge_client.sidecar.bodies import json_body, json_request, read_json
from edge_client.sidecar.deliveries import delivery_routes
from edge_client.sidecar.intake import Intake
from edge_client.sidecar.problems import MEDIA_TYPE, PROBLEM_SCHEMA
from edge_client.sidecar.security import Gatekeeper, opts_out
from edge_client.sidecar.stream import DECISION, Hub
from edge_client.sidecar.talking import Body, talking_routes
from edge_client.sidecar.tokens import CAPTURE, DECIDE, RIGHTS
from edge_client.sidecar.turns import Turns
from shared_models.errors import CaptureError, WireError

MAX_EVENTS = 500
PROBLEM = {"description": "A problem document (RFC 9457)", "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {"4XX": PROBLEM, "5XX": PROBLEM}
EVENT_TYPES = ("identify", "track", "page", "screen", "group", "alias", "chat", "feedback", "context")


class Correction(Body):
    """The user's own word about one attribute."""

    value: Any


class Switch(Body):
    """A consent, as the user has just decided."""

    granted: bool
    notice_version: int | None = Field(default=None, ge=1, le=1_000_000)


class Objection(Body):
    """An objection to profiling, or its end."""

    objects: bool


class Chosen(Body):
    """A decision that the app made for the user, to be shown with its reasons."""

    kind: str = Field(min_length=1, max_length=100)
    chosen: str = Field(min_length=1, max_length=300)
    reasons: list[str] = Field(min_length=1, max_length=20)
    context: dict[str, Any] = Field(default_factory=dict)


_EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"type": "string", "enum": list(EVENT_TYPES)},
        "messageId": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "sentAt": {"type": "string", "format": "date-time"},
        "userId": {"type": "string"},
        "anonymousId": {"type": "string"},
        "event": {"type": "string"},
        "name": {"type": "string"},
        "properties": {"type": "object"},
        "traits": {"type": "object"},
        "context": {"type": "object"},
    },
}
_EVENTS_SCHEMA = {"type": "array", "minItems": 1, "maxItems": MAX_EVENTS, "items": {"type": "object"}}


def native_routes(client: EdgeClient, intake: Intake, gate: Gatekeeper, hub: Hub, turns: Turns) -> APIRouter:
    """Everything under /v1 that is not Segment's."""
    router = APIRouter(prefix="/v1", responses=PROBLEMS)
    capture = [Depends(gate.admitted(CAPTURE))]
    decide = [Depends(gate.admitted(DECIDE))]
    rights = [Depends(gate.admitted(RIGHTS))]

    router.include_router(
        talking_routes(
            client,
            turns,
            decide=gate.admitted(DECIDE),
            capture=gate.admitted(CAPTURE),
            caller=lambda request: str(request.state.app.name),
            decides=lambda request: DECIDE in request.state.app.scopes,
        )
    )

    router.include_router(delivery_routes(client, decide=gate.admitted(DECIDE), capture=gate.admitted(CAPTURE)))

    # -- events and what follows from them ------------------------------------------------------------------------

    @router.post("/events", dependencies=capture, tags=["events"], openapi_extra=json_request(_EVENT_SCHEMA))
    async def event(request: Request) -> dict[str, Any]:
        """One event, in the fields of the Segment specification. Kept if the user has consented and the schema names it."""
        document = await read_json(request)
        if not isinstance(document, dict):
            raise WireError(f"expected a JSON object, got {type(document).__name__}")
        found = await run_in_threadpool(intake.receive, document, opted_out=opts_out(request.headers))
        return dict(found.__dict__)

    @router.post("/events/batch", dependencies=capture, tags=["events"], openapi_extra=json_request(_EVENTS_SCHEMA))
    async def events(request: Request) -> dict[str, Any]:
        """Up to 500 events at once; each is judged by itself."""
        documents = await read_json(request)
        if not isinstance(documents, list) or not 0 < len(documents) <= MAX_EVENTS:
            raise WireError(f"expected an array of 1 to {MAX_EVENTS} events")
        if not all(isinstance(document, dict) for document in documents):
            raise WireError("expected an array of JSON objects")
        gate.charge(request, len(documents))
        found = await run_in_threadpool(intake.receive_batch, documents, opted_out=opts_out(request.headers))
        return {
            "results": [
                {"error": result.fields} if isinstance(result, CaptureError) else dict(result.__dict__)
                for result in found
            ]
        }

    @router.get("/features", dependencies=decide, tags=["events"])
    def features() -> dict[str, Any]:
        """The sliding and session windows as they stand now."""
        return client.capture.windows()

    @router.get("/quality", dependencies=decide, tags=["events"])
    def quality() -> dict[str, Any]:
        """Counters about the events on this device: kept, dropped, late, duplicates, latency."""
        return client.capture.quality()

    # -- decisions ------------------------------------------------------------------------------------------------

    @router.get("/decisions", dependencies=decide, tags=["decisions"])
    def decisions(request: Request, n: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
        """The latest decisions for the app that asks and their reasons, newest first. Those of other apps are theirs."""
        own = client.decisions.recent(n, within=f"{request.state.app.name}/")
        return {
            "decisions": [{name: value for name, value in entry.items() if name != "conversation"} for entry in own]
        }

    @router.post(
        "/decisions", dependencies=decide, tags=["decisions"], openapi_extra=json_request(Chosen.model_json_schema())
    )
    def decided(request: Request, choice: Annotated[Chosen, Depends(json_body(Chosen))]) -> dict[str, Any]:
        """Note a decision of the app's own, so that the user can see it and why. `id` is null without consent."""
        since, app = hub.generation, request.state.app.name
        kept = client.decisions.record(
            choice.kind, choice.chosen, choice.reasons, context=choice.context, conversation=f"{app}/"
        )
        if kept is not None:
            told = {"id": kept, "action": choice.kind, "chosen": choice.chosen, "reasons": choice.reasons}
            hub.publish(DECISION, told, since=since, to=app)
        return {"id": kept}

    @router.get(
        "/stream",
        dependencies=decide,
        tags=["decisions"],
        response_class=StreamingResponse,
        responses={200: {"description": "Server-sent events", "content": {"text/event-stream": {}}}},
    )
    async def stream(request: Request) -> StreamingResponse:
        """The app's own decisions, triggers and deliveries as server-sent events. `Last-Event-ID` asks for what was missed."""
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else None
        return StreamingResponse(hub.listen(after, app=request.state.app.name), media_type="text/event-stream")

    # -- the user's rights ----------------------------------------------------------------------------------------

    @router.get("/profile", dependencies=rights, tags=["rights"])
    def profile() -> dict[str, Any]:
        """What is known about the user, and from where."""
        return client.profile.document()

    @router.put(
        "/profile/{name}",
        dependencies=rights,
        tags=["rights"],
        openapi_extra=json_request(Correction.model_json_schema()),
    )
    def correct(
        name: Annotated[str, Path(max_length=100)], correction: Annotated[Correction, Depends(json_body(Correction))]
    ) -> dict[str, Any]:
        """The user's word about an attribute wins over every source."""
        client.rights.correct(name, correction.value)
        return {"corrected": name}

    @router.delete("/profile/{name}", dependencies=rights, tags=["rights"])
    def remove(name: Annotated[str, Path(max_length=100)]) -> dict[str, Any]:
        """Erase all that is known about one attribute."""
        return {"removed": client.profile.remove(name)}

    @router.get("/consents", dependencies=decide, tags=["rights"])
    def consents() -> dict[str, Any]:
        """The switches, and whether the user objects to profiling."""
        return {"consents": client.consent.document(), "objects_to_profiling": client.consent.objects_to_profiling}

    @router.put(
        "/consents/{purpose}",
        dependencies=rights,
        tags=["rights"],
        openapi_extra=json_request(Switch.model_json_schema()),
    )
    def switch(
        purpose: Annotated[str, Path(max_length=60)], choice: Annotated[Switch, Depends(json_body(Switch))]
    ) -> dict[str, Any]:
        """Grant or withdraw one purpose: only after the user has just decided so."""
        if choice.granted:
            client.consent.grant(purpose, notice_version=choice.notice_version)
        else:
            client.consent.withdraw(purpose)
        return {"purpose": purpose, "granted": client.consent.is_granted(purpose)}

    @router.put(
        "/objection",
        dependencies=rights,
        tags=["rights"],
        openapi_extra=json_request(Objection.model_json_schema()),
    )
    def objection(choice: Annotated[Objection, Depends(json_body(Objection))]) -> dict[str, Any]:
        """Whether the user objects to profiling."""
        if choice.objects:
            client.rights.object_to_profiling()
        else:
            client.rights.withdraw_objection()
        return {"objects_to_profiling": client.consent.objects_to_profiling}

    @router.get("/export", dependencies=rights, tags=["rights"])
    def export() -> dict[str, Any]:
        """All that is kept about the user, machine-readable."""
        return client.export()

    return router
