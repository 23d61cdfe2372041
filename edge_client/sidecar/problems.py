"""Errors as HTTP says them: problem documents (RFC 9457), one for every TacitError. Bad input is never a 5xx.

On the OpenAI-compatible paths the same document has one member more, `error`, which is all that OpenAI's clients read; and what
would be 422 is 400 there, as they expect.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from shared_models.errors import (
    AgentError,
    BundleError,
    CaptureBusyError,
    CaptureError,
    ConsentError,
    FleetError,
    InputError,
    ModelError,
    ParameterError,
    RefusedError,
    SidecarError,
    StoreError,
    StoreWriteError,
    TacitError,
    WireError,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:tacit:problem:"
MAX_DETAIL_CHARACTERS = 500
MAX_FIELDS = 50

_STATUS: tuple[tuple[type[TacitError], int], ...] = (
    (CaptureBusyError, 429),
    (StoreWriteError, 507),
    (StoreError, 503),
    (ConsentError, 403),
    (RefusedError, 409),
    (WireError, 400),
    (InputError, 422),
    (ModelError, 503),
    (BundleError, 503),
    (AgentError, 503),
    (FleetError, 503),
)
"""The first that fits; an error that none fits is the service's own fault."""

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": f"{TYPE_PREFIX}… , or about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what was wrong, what was expected, what to do"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
        "error": {
            "type": "object",
            "description": "on the OpenAI-compatible paths, in the form that OpenAI's clients read",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        },
    },
}

OPENAI_PATHS = ("/v1/chat/completions", "/v1/models")
_OPENAI_TYPES = {403: "permission_error", 429: "rate_limit_error"}
_OPENAI_CODES = {
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    413: "request_too_large",
    429: "rate_limit_exceeded",
}
_WORTH_A_RETRY = (408, 429)

_log = logging.getLogger(__name__)


def speaks_openai(path: str) -> bool:
    """Whether the callers of this path expect OpenAI's errors."""
    return path == OPENAI_PATHS[0] or path == OPENAI_PATHS[1] or path.startswith(f"{OPENAI_PATHS[1]}/")


def status_of(error: TacitError) -> int:
    """The HTTP status that says it best."""
    if isinstance(error, SidecarError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem_of(error: TacitError, status: int | None = None, *, path: str = "") -> JSONResponse:
    """A TacitError as an answer to a call of `path`."""
    headers = {}
    if isinstance(error, SidecarError) and error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif isinstance(error, CaptureBusyError):
        headers["Retry-After"] = "1"
    if isinstance(error, SidecarError) and error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="tacit", Basic realm="tacit"'
    fields = error.fields if isinstance(error, CaptureError) else {}
    return problem(
        status or status_of(error),
        _kind(error),
        str(error),
        fields=fields,
        headers=headers,
        path=path,
        param=error.param if isinstance(error, ParameterError) else next(iter(fields), ""),
        code=error.code if isinstance(error, ParameterError) else "",
    )


def problem(
    status: int,
    kind: str,
    detail: str,
    *,
    fields: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    path: str = "",
    param: str = "",
    code: str = "",
) -> JSONResponse:
    """`kind`: the error's name, or empty. `code` and `message` repeat it for Segment's clients, which print those two.

    `param` and `code` are for OpenAI's clients, and go out on their paths only.
    """
    sent = dict(headers or {})
    openai = speaks_openai(path)
    if openai and status == 422:
        status = 400
    title = HTTPStatus(status).phrase
    shown = _plain(detail) or title
    document: dict[str, Any] = {
        "type": f"{TYPE_PREFIX}{kind}" if kind else "about:blank",
        "title": title,
        "status": status,
        "detail": shown,
        "code": kind or title.lower().replace(" ", "-"),
        "message": shown,
    }
    if fields:
        document["errors"] = [
            {"field": _plain(name)[:100], "detail": _plain(text)} for name, text in list(fields.items())[:MAX_FIELDS]
        ]
    if openai:
        document["error"] = {
            "message": shown,
            "type": "server_error" if status >= 500 else _OPENAI_TYPES.get(status, "invalid_request_error"),
            "param": param or None,
            "code": code or _OPENAI_CODES.get(status) or kind or None,
        }
        if status not in _WORTH_A_RETRY:
            # Their clients would try a 409 or a 503 twice more, which never helps here.
            sent["x-should-retry"] = "false"
    return JSONResponse(document, status_code=status, headers=sent, media_type=MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Every way in which a request can fail ends in a problem document."""

    @app.exception_handler(TacitError)
    async def expected(request: Request, error: TacitError) -> Response:
        if status_of(error) >= 500:
            # The class only: an error's text may hold the user's words.
            _log.warning("a request failed: %s", type(error).__name__)
        return problem_of(error, path=request.url.path)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        fields = {
            ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0]): str(item["msg"])
            for item in error.errors()
        }
        return problem(
            422,
            "input",
            "the request does not have the form that /openapi.json describes",
            fields=fields,
            path=request.url.path,
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, "", str(error.detail), headers=error.headers, path=request.url.path)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        detail = "the sidecar failed; nothing that was acknowledged before is lost"
        return problem(500, "", detail, path=request.url.path)


def _kind(error: TacitError) -> str:
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def _plain(text: str) -> str:
    clean = " ".join(text.encode("utf-8", "replace").decode().split())
    return clean if len(clean) <= MAX_DETAIL_CHARACTERS else clean[: MAX_DETAIL_CHARACTERS - 1] + "…"
