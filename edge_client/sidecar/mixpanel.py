"""Mixpanel's ingestion API: /track and /engage, with the app's token where Mixpanel's clients put theirs.

An event becomes a `track`, `$set` and `$set_once` become an `identify`. `ip=…` is ignored: nobody's address is looked at. What
this device cannot do without misleading (adding to a number, deleting a person) is refused with an error, not swallowed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool

from edge_client.sidecar.bodies import media_type, parse_form, parse_json, read_body
from edge_client.sidecar.intake import Intake
from edge_client.sidecar.problems import problem_of, status_of
from edge_client.sidecar.security import Gatekeeper, bearer_or_basic, opts_out
from edge_client.sidecar.tokens import CAPTURE
from shared_models.errors import CaptureError, TacitError, WireError

MAX_BATCH = 2000
_OPERATIONS = ("$set", "$set_once", "$add", "$append", "$union", "$remove", "$unset", "$delete")
_KNOWN_PROPERTIES = {
    "$os": "os",
    "$browser": "browser",
    "$city": "city",
    "$region": "region",
    "mp_country_code": "country",
    "$email": "email",
    "$name": "name",
    "$first_name": "firstName",
    "$last_name": "lastName",
    "$phone": "phone",
}
"""Mixpanel's reserved names in Segment's words, which schemas use."""
_ENVELOPE = ("token", "time", "distinct_id", "$insert_id", "$device_id", "$user_id", "mp_lib", "$lib_version")
_MILLISECONDS_FROM = 1e11

_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "array", "maxItems": MAX_BATCH, "items": {"type": "object"}}},
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "description": "JSON, or JSON in base64"}},
                }
            },
        },
    }
}


def mixpanel_routes(intake: Intake, gate: Gatekeeper) -> APIRouter:
    """POST /track and /engage."""
    router = APIRouter(tags=["Mixpanel-compatible"])

    def add(
        path: str, token_of: Callable[[Mapping[str, Any]], object], translate: Callable[[Any], dict[str, Any]]
    ) -> None:
        async def receive(request: Request) -> Response:
            verbose = request.query_params.get("verbose") == "1"
            try:
                form, items = read_items(media_type(request), await read_body(request))
                verbose = verbose or form.get("verbose") == "1"
                tokens = {token_of(item) for item in items if isinstance(token_of(item), str)}
                given = bearer_or_basic(request) or (str(tokens.pop()) if len(tokens) == 1 else None)
                gate.admit(request, CAPTURE, given)
                gate.charge(request, len(items))
                events = [translate(item) for item in items]
                results = await run_in_threadpool(intake.receive_batch, events, opted_out=opts_out(request.headers))
                refused = [result for result in results if isinstance(result, CaptureError)]
                if refused:
                    raise refused[0]
            except TacitError as error:
                return _refusal(error, verbose)
            return JSONResponse({"status": 1, "error": None}) if verbose else PlainTextResponse("1")

        router.add_api_route(
            path,
            receive,
            methods=["POST"],
            operation_id=f"mixpanel_{path[1:]}",
            summary=f"Mixpanel's {path}",
            openapi_extra=_REQUEST,
            response_model=None,
        )

    add("/track", lambda item: _properties(item).get("token"), track_event)
    add("/engage", lambda item: item.get("$token"), identify_event)
    return router


def read_items(kind: str, raw: bytes) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The form's other fields, and the events of a body: JSON, or a form whose `data` is JSON or JSON in base64.

    Raises WireError.
    """
    form: dict[str, str] = {}
    if kind == "application/x-www-form-urlencoded":
        form = parse_form(raw)
        data = form.pop("data", "").strip()
        raw = data.encode() if data[:1] in ("{", "[") else _base64(data)
    value = parse_json(raw)
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_BATCH:
        raise WireError(f"{len(items)} events, at most {MAX_BATCH} are accepted at once")
    if not items or not all(isinstance(item, dict) for item in items):
        raise WireError("expected one JSON object, or an array of them")
    return form, items


def track_event(item: Mapping[str, Any]) -> dict[str, Any]:
    """A Mixpanel event as a `track`. Raises CaptureError."""
    properties = _properties(item)
    event: dict[str, Any] = {
        "type": "track",
        "event": item.get("event"),
        "properties": {
            _KNOWN_PROPERTIES.get(name, name): value for name, value in properties.items() if name not in _ENVELOPE
        },
    }
    if properties.get("time") is not None:
        event["timestamp"] = _seconds(properties["time"])
    if properties.get("$insert_id") is not None:
        event["messageId"] = properties["$insert_id"]
    _name_user(event, properties.get("distinct_id"))
    return event


def identify_event(item: Mapping[str, Any]) -> dict[str, Any]:
    """A profile update of Mixpanel as an `identify`. Raises CaptureError for operations that have no equal here."""
    traits: dict[str, Any] = {}
    operations = [name for name in _OPERATIONS if name in item]
    other = [name for name in operations if name not in ("$set", "$set_once")]
    if other or not operations:
        raise CaptureError(
            {name: "not supported here; use $set or $set_once" for name in other} or {"$set": "is missing"}
        )
    for operation in reversed(operations):
        values = item[operation]
        if not isinstance(values, Mapping):
            raise CaptureError({operation: "expected an object"})
        traits |= {_KNOWN_PROPERTIES.get(name, name): value for name, value in values.items()}
    event: dict[str, Any] = {"type": "identify", "traits": traits}
    if item.get("$time") is not None:
        event["timestamp"] = _seconds(item["$time"])
    _name_user(event, item.get("$distinct_id"))
    return event


def _name_user(event: dict[str, Any], distinct_id: Any) -> None:
    if distinct_id is None or distinct_id == "":
        event["anonymousId"] = "device"
    elif isinstance(distinct_id, str) and distinct_id.startswith("$device:"):
        event["anonymousId"] = distinct_id.removeprefix("$device:")
    else:
        event["userId"] = distinct_id


def _properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = item.get("properties", {})
    return properties if isinstance(properties, Mapping) else {}


def _seconds(value: Any) -> Any:
    """Seconds or milliseconds since 1970 as ISO 8601. What is no number stays as it is: capture judges it."""
    from datetime import UTC, datetime

    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    try:
        return datetime.fromtimestamp(value / 1000 if abs(value) >= _MILLISECONDS_FROM else value, UTC).isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise CaptureError({"time": "expected seconds or milliseconds since 1970"}) from error


def _base64(data: str) -> bytes:
    try:
        return base64.b64decode(data.replace("-", "+").replace("_", "/") + "=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("`data` is neither JSON nor base64") from error


def _refusal(error: TacitError, verbose: bool) -> Response:
    answer = problem_of(error, 400 if status_of(error) == 422 else None)
    if not verbose:
        return answer
    # Mixpanel's clients read `status` and `error` of the body, whatever HTTP says.
    return JSONResponse(
        {"status": 0, "error": str(error)[:300]}, status_code=answer.status_code, headers=_kept_headers(answer)
    )


def _kept_headers(answer: Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name in ("retry-after", "www-authenticate")}
