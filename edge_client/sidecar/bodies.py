"""Bodies of requests: read within limits, decompressed within limits, parsed strictly. What cannot be used is a 4xx, always."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from shared_models.canonical import parse_document
from shared_models.errors import CaptureError, LimitError, SidecarError, WireError

MAX_BODY_BYTES = 512 * 1024
"""As large as the largest batch of Segment's clients, plain or unpacked."""
BODY_TIMEOUT_S = 15.0
MAX_FORM_FIELDS = 64
_JSON_TYPES = ("application/json", "text/plain", "")
"""Some clients send JSON as text/plain, to spare a preflight; that is safe here because a token is needed all the same."""
_INTEGER_LIMIT = 2**63

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request) -> bytes:
    """The body, unpacked. Raises LimitError (413, 408) and SidecarError (415)."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await request.body()
    except TimeoutError as error:
        raise LimitError("the body did not arrive in time", 408) from error
    except ClientDisconnect as error:
        # Nobody hears this; but it is no failure of ours, and no log should say so.
        raise SidecarError("the caller hung up before its body was complete", 400) from error
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return raw
    if encoding == "gzip":
        return _unpacked(raw)
    raise SidecarError(f"content-encoding {encoding[:30]!r} is not understood; send gzip or plain", 415)


async def read_json(request: Request) -> Any:
    """The body as JSON. Raises WireError, LimitError, SidecarError."""
    kind = media_type(request)
    if kind not in _JSON_TYPES:
        raise SidecarError(f"content-type {kind[:60]!r} is not understood; send application/json", 415)
    return parse_json(await read_body(request))


async def read_form(request: Request) -> dict[str, str]:
    """The body as a form. Raises WireError, LimitError, SidecarError."""
    if (kind := media_type(request)) != "application/x-www-form-urlencoded":
        raise SidecarError(f"content-type {kind[:60]!r} is not understood; send a form", 415)
    return parse_form(await read_body(request))


def json_body(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency: the body as `model`. Raises CaptureError with one message for each field."""

    async def read(request: Request) -> Model:
        value = await read_json(request)
        if not isinstance(value, dict):
            raise WireError(f"expected a JSON object, got {type(value).__name__}")
        try:
            return model.model_validate(value)
        except ValidationError as error:
            fields = {
                ".".join(str(part) for part in item["loc"]) or "body": str(item["msg"])
                for item in error.errors(include_url=False, include_input=False, include_context=False)
            }
            raise CaptureError(fields) from error

    return read


def json_request(schema: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says about such a body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_json(raw: bytes) -> Any:
    """Any JSON value: no duplicate keys, no NaN or infinity, no lone surrogates, no integer beyond 64 bits, no endless nesting.

    Raises WireError.
    """
    # The strict parser takes objects; what would break out of this one shows as another key.
    document = parse_document(b'{"body":' + raw + b"\n}", limit_bytes=MAX_BODY_BYTES + 16)
    if list(document) != ["body"]:
        raise WireError("not a JSON document: more than one value")
    value = document["body"]
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise WireError(
            "not a JSON document: a number or a character in it cannot be represented, or it is too deep"
        ) from error
    if _beyond(value):
        raise WireError("not a JSON document: a whole number in it has more than 64 bits")
    return value


def parse_form(raw: bytes) -> dict[str, str]:
    """application/x-www-form-urlencoded; a name that stands twice is an error. Raises WireError."""
    try:
        pairs = urllib.parse.parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except ValueError as error:
        raise WireError("not a form: expected percent-encoded UTF-8 and at most 64 fields") from error
    form = dict(pairs)
    if len(form) != len(pairs):
        raise WireError("not a form: a name stands twice")
    return form


def _unpacked(raw: bytes) -> bytes:
    # A few bytes may unpack to gigabytes: stop at the limit.
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(raw, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise WireError("the body is not gzip, though its content-encoding says so") from error
    if len(plain) > MAX_BODY_BYTES:
        raise LimitError(f"the body unpacks to more than {MAX_BODY_BYTES} bytes", 413)
    if not unpacker.eof or unpacker.unused_data:
        raise WireError("the body is not one whole gzip stream")
    return plain


def _beyond(value: Any) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, int) and not -_INTEGER_LIMIT <= item < _INTEGER_LIMIT:
            return True
    return False
