"""Segment's HTTP tracking API: an app that is instrumented for Segment changes its client's host, nothing else.

The documents are Segment's own; capture reads them as they are. What the schema does not name is dropped there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from edge_client.sidecar.bodies import json_request, read_json
from edge_client.sidecar.intake import Intake
from edge_client.sidecar.problems import problem_of, status_of
from edge_client.sidecar.security import Gatekeeper, opts_out
from edge_client.sidecar.tokens import CAPTURE
from shared_models.errors import CaptureError, TacitError, WireError

CALLS = ("identify", "track", "page", "screen", "group", "alias")
MAX_BATCH = 500
_BATCH_CONTEXT = ("context", "sentAt", "integrations")
"""What a batch may say once for all its messages."""

_MESSAGE = {
    "type": "object",
    "description": "A message as Segment's HTTP tracking API has it; unknown fields are dropped and counted.",
    "properties": {
        "messageId": {"type": "string", "maxLength": 100},
        "userId": {"type": ["string", "null"]},
        "anonymousId": {"type": ["string", "null"]},
        "timestamp": {"type": ["string", "null"]},
        "sentAt": {"type": ["string", "null"]},
        "event": {"type": "string"},
        "name": {"type": ["string", "null"]},
        "groupId": {"type": "string"},
        "previousId": {"type": "string"},
        "traits": {"type": "object"},
        "properties": {"type": "object"},
        "context": {"type": "object"},
        "integrations": {"type": "object"},
    },
}
_BATCH = {
    "type": "object",
    "required": ["batch"],
    "properties": {
        "batch": {"type": "array", "maxItems": MAX_BATCH, "items": {"type": "object"}},
        "sentAt": {"type": "string"},
        "context": {"type": "object"},
        "writeKey": {"type": "string"},
    },
}


def segment_routes(intake: Intake, gate: Gatekeeper) -> APIRouter:
    """POST /v1/identify, track, page, screen, group, alias and batch."""
    router = APIRouter(prefix="/v1", tags=["Segment-compatible"], dependencies=[Depends(gate.admitted(CAPTURE))])

    def add(call: str) -> None:
        async def receive(request: Request) -> Response:
            try:
                message = await read_json(request)
                if not isinstance(message, dict):
                    raise WireError(f"expected a JSON object, got {type(message).__name__}")
                await run_in_threadpool(intake.receive, cleaned(message, call), opted_out=opts_out(request.headers))
            except TacitError as error:
                return _refusal(error)
            return JSONResponse({"success": True})

        router.add_api_route(
            f"/{call}",
            receive,
            methods=["POST"],
            operation_id=f"segment_{call}",
            summary=f"Segment's {call} call",
            openapi_extra=json_request(_MESSAGE),
            response_model=None,
        )

    for call in CALLS:
        add(call)

    @router.post(
        "/batch", openapi_extra=json_request(_BATCH), response_model=None, summary="Up to 500 of these at once"
    )
    async def batch(request: Request) -> Response:
        try:
            document = await read_json(request)
            messages = batch_messages(document)
            gate.charge(request, len(messages))
            results = await run_in_threadpool(intake.receive_batch, messages, opted_out=opts_out(request.headers))
        except TacitError as error:
            return _refusal(error)
        refused = [
            {"index": index, "errors": result.fields}
            for index, result in enumerate(results)
            if isinstance(result, CaptureError)
        ]
        # One bad message must not cost the others: the clients drop a whole batch at the first 4xx.
        return JSONResponse({"success": not refused, "accepted": len(results) - len(refused), "rejected": refused[:50]})

    return router


def cleaned(message: Mapping[str, Any], call: str) -> dict[str, Any]:
    """One message with its type, without what is empty: Segment's clients write null for what they do not know."""
    return {
        **{name: value for name, value in message.items() if value is not None and name != "writeKey"},
        "type": call,
    }


def batch_messages(document: Any) -> list[dict[str, Any]]:
    """The messages of a batch, each with what the batch says for all. Raises WireError."""
    if not isinstance(document, dict) or not isinstance(document.get("batch"), list):
        raise WireError('expected {"batch": [...]}')
    entries = document["batch"]
    if len(entries) > MAX_BATCH:
        raise WireError(f"a batch has {len(entries)} messages, at most {MAX_BATCH} are accepted")
    shared = {name: document[name] for name in _BATCH_CONTEXT if document.get(name) is not None}
    messages = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise WireError(f"batch[{index}]: expected a JSON object, got {type(entry).__name__}")
        kind = entry.get("type")
        messages.append({**shared, **cleaned(entry, kind if isinstance(kind, str) else "")})
    return messages


def _refusal(error: TacitError) -> Response:
    # Segment says 400 to whatever it cannot read.
    status = status_of(error)
    return problem_of(error, 400 if status == 422 else status)
