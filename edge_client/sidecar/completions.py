"""The OpenAI-compatible API: chat completions (whole or as a stream) and models. For front ends that know no other.

The last message of the user is the turn; see completion_request.py for what is read, and completion_dialogues.py for which
conversation it belongs to. Errors are problem documents with OpenAI's `error` in them (problems.py).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from edge_client.sidecar.bodies import json_request, read_json
from edge_client.sidecar.completion_answer import Answer, extension_of, shortened, usage_of
from edge_client.sidecar.completion_dialogues import Dialogues
from edge_client.sidecar.completion_request import CompletionRequest
from edge_client.sidecar.completion_schema import REQUEST
from edge_client.sidecar.completion_tools import call_of, intent_tools
from edge_client.sidecar.native import PROBLEMS
from edge_client.sidecar.security import Gatekeeper
from edge_client.sidecar.tokens import DECIDE
from edge_client.sidecar.turns import Turns
from edge_client.understand.slot_values import slot_values
from edge_client.understand.slots import SlotReader
from shared_models.errors import ParameterError, StoreClosedError, WireError

if TYPE_CHECKING:
    from edge_client.answer.respond import Reply
    from edge_client.client import EdgeClient

MODEL = "tacit"
CONVERSATION_HEADER = "Tacit-Conversation"
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream: true` as server-sent events",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}


class Completions:
    """Takes turns for OpenAI's clients. Blocking: call it in a worker thread."""

    def __init__(self, client: EdgeClient, turns: Turns) -> None:
        self._client, self._turns = client, turns
        self._reader = SlotReader()
        self.dialogues = Dialogues(self._forget)

    def answer(self, app: str, request: CompletionRequest) -> Answer:
        """One turn, or the words that belong to a tool's result. Raises ParameterError, TextError, ModelError, BundleError."""
        if request.model != MODEL:
            raise unknown_model(request.model, "model")
        begun = self.dialogues.begin(app, request)
        dialogue = begun.dialogue
        with dialogue.lock:
            try:
                if begun.restarts:
                    self._turns.restart(dialogue.name, begun.reread)
                last = dialogue.reply
                if not request.told:
                    reply = self._turns.take(request.text, dialogue.name, learns=begun.learns)
                elif begun.restarts or last is None:
                    reply = self._turns.reread(request.text, dialogue.name, shown=True)
                else:
                    reply = last
                answer = self._worded(request, reply, dialogue.public, len(begun.reread))
            except BaseException:
                self.dialogues.failed(dialogue)
                raise
            self.dialogues.end(dialogue, request, answer.said, reply)
        return answer

    def models(self) -> list[dict[str, Any]]:
        """One model, if there is one."""
        bundle = self._client.status()["bundle"]
        return [self._model(bundle)] if bundle is not None and "version" in bundle else []

    def model(self, name: str) -> dict[str, Any]:
        """The model, and what it understands as tools. Raises ParameterError, ModelError, BundleError."""
        if name != MODEL:
            raise unknown_model(name, "model")
        intents = self._client.intents()
        bundle = self._client.status()["bundle"]
        about = {"domain": bundle["domain"], "version": bundle["version"], "tools": intent_tools(intents)}
        return {**self._model(bundle), "tacit": about}

    def _model(self, bundle: dict[str, Any]) -> dict[str, Any]:
        return {"id": MODEL, "object": "model", "created": int(bundle["published_s"]), "owned_by": "this-device"}

    def _worded(self, request: CompletionRequest, reply: Reply, conversation: str, reread: int) -> Answer:
        call = None if request.told else self._call(request, reply)
        text, finish = shortened(reply.text, request.stops, request.most_tokens)
        written = text if call is None else f"{call['function']['name']} {call['function']['arguments']}"
        return Answer(
            identity=f"chatcmpl-{secrets.token_hex(12)}",
            created_s=int(self._client.config.clock()),
            model=MODEL,
            fingerprint=f"{MODEL}-{reply.recognition.model_version}",
            text=text,
            call=call,
            finish=finish if call is None else "tool_calls",
            usage=usage_of(request, reread, written),
            extension=extension_of(reply, self._client.intents(), conversation),
        )

    def _call(self, request: CompletionRequest, reply: Reply) -> dict[str, Any] | None:
        tool = next((tool for tool in request.tools if tool.name == reply.intent), None)
        asks = bool(reply.question) and not reply.suggestions
        if tool is None or reply.action != "answer" or asks:
            # A call is never made up: what is not understood yet is said in words, whatever `tool_choice` demands.
            return None
        if reply.slots:
            return call_of(tool, reply.slots, f"call_{secrets.token_hex(12)}")
        today = datetime.fromtimestamp(self._client.config.clock(), UTC).date()
        read = self._reader.read(request.text, today, language=reply.language)
        return call_of(tool, slot_values(read.slots, read.language), f"call_{secrets.token_hex(12)}")

    def _forget(self, name: str) -> None:
        with contextlib.suppress(StoreClosedError):
            self._client.new_conversation(name)


def completion_routes(completions: Completions, gate: Gatekeeper) -> APIRouter:
    """/v1/chat/completions and /v1/models."""
    router = APIRouter(prefix="/v1", tags=["openai"], responses=PROBLEMS)
    decide = [Depends(gate.admitted(DECIDE))]

    @router.post(
        "/chat/completions",
        dependencies=decide,
        response_class=Response,
        responses=_ANSWERS,
        openapi_extra=json_request(REQUEST),
    )
    async def complete(request: Request) -> Response:
        """One turn for OpenAI's clients: the last message of the user is answered."""
        body = await read_json(request)
        if not isinstance(body, dict):
            raise WireError(f"expected a JSON object, got {type(body).__name__}")
        asked = CompletionRequest.read(body, request.headers.get(CONVERSATION_HEADER))
        if await request.is_disconnected():
            # Nobody waits: a turn that nobody sees must not be learned from.
            return Response(status_code=499)
        answer = await run_in_threadpool(completions.answer, request.state.app.name, asked)
        if asked.stream:
            return StreamingResponse(_flowing(answer, asked.include_usage), media_type="text/event-stream")
        return JSONResponse(answer.completion())

    @router.get("/models", dependencies=decide)
    def models() -> dict[str, Any]:
        """What OpenAI's clients may name as `model`."""
        return {"object": "list", "data": completions.models()}

    @router.get("/models/{model}", dependencies=decide)
    def model(model: Annotated[str, Path(max_length=100)]) -> dict[str, Any]:
        """The model; `tacit.tools` lists all intents as tools that a client may send along."""
        return completions.model(model)

    return router


def unknown_model(name: str, param: str) -> ParameterError:
    return ParameterError(param, f"there is no model {name[:60]!r} here, only {MODEL!r}", "model_not_found", 404)


async def _flowing(answer: Answer, include_usage: bool) -> AsyncIterator[str]:
    for event in answer.events(include_usage):
        yield event
