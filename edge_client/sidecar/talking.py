"""Talking to the assistant: turns, what they mean, reactions to suggestions, why, and a fresh start.

The same routes twice: under /v1 for apps with a token, and below the session of the chat page (chat_page.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from edge_client.sidecar.bodies import json_body, json_request
from edge_client.sidecar.turns import CONVERSATION, CONVERSATION_PATTERN, MAX_TEXT_CHARACTERS, Turns

if TYPE_CHECKING:
    from edge_client.client import EdgeClient

MAX_DECISION_ID = 200
_DECIDED = ("item", "excludes")
"""What a reaction tells of the suggestion."""


class Body(BaseModel):
    """Nothing that is not named, and nothing of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Words(Body):
    """What the user wrote."""

    text: str = Field(max_length=MAX_TEXT_CHARACTERS)


class Utterance(Words):
    """What the user said in one of the app's conversations."""

    conversation: str = Field(default=CONVERSATION, pattern=CONVERSATION_PATTERN)


class Meant(Body):
    """What the user meant by it: an intent's name or its plain words."""

    text: str = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    intent: str = Field(min_length=1, max_length=200)


class Reaction(Body):
    """What the user did about a decision: the `decision_id` of a suggestion or of a reply."""

    decision_id: str = Field(min_length=1, max_length=MAX_DECISION_ID)
    reaction: Literal["up", "down", "chosen", "dismissed"]
    because: str = Field(
        default="", max_length=MAX_TEXT_CHARACTERS, description="the user's own words, if there were any"
    )


def talking_routes(
    client: EdgeClient,
    turns: Turns,
    *,
    decide: Callable[..., Any],
    capture: Callable[..., Any],
    caller: Callable[[Request], str],
    took: Callable[[Request, str, dict[str, Any]], None] = lambda request, text, reply: None,
    reacted: Callable[[Request, Reaction], None] = lambda request, reaction: None,
    decides: Callable[[Request], bool] = lambda request: True,
) -> APIRouter:
    """`decide` and `capture`: dependencies that let the caller in, or raise. `caller` names it: its conversations are its own.

    `took` is told each turn, `reacted` each reaction. `decides`: whether a caller that `capture` let in may see what was decided.
    """
    router = APIRouter(tags=["assistant"])
    asking, telling = [Depends(decide)], [Depends(capture)]

    @router.post("/chat", dependencies=asking, openapi_extra=json_request(Utterance.model_json_schema()))
    async def chat(request: Request, said: Annotated[Utterance, Depends(json_body(Utterance))]) -> dict[str, Any]:
        """One turn of the conversation: the answer, what was understood, suggestions, and why."""
        reply = await run_in_threadpool(_turn, said.text, f"{caller(request)}/{said.conversation}")
        took(request, said.text, reply)
        return reply

    def _turn(text: str, conversation: str) -> dict[str, Any]:
        reply = turns.take(text, conversation)
        labels = client.intents() if reply.choices else {}
        return {**reply.document(), "choice_labels": [labels.get(intent, intent) for intent in reply.choices]}

    @router.delete("/conversations/{name}", dependencies=asking)
    async def forget(request: Request, name: Annotated[str, Path(pattern=CONVERSATION_PATTERN)]) -> dict[str, Any]:
        """Begin this conversation anew."""
        await run_in_threadpool(turns.restart, f"{caller(request)}/{name}")
        return {"conversation": name}

    @router.post("/react", dependencies=telling, openapi_extra=json_request(Reaction.model_json_schema()))
    def react(request: Request, given: Annotated[Reaction, Depends(json_body(Reaction))]) -> dict[str, Any]:
        """The user likes a suggestion or not, takes it, or waves it away; `because` is understood like a refusal in a turn."""
        within = f"{caller(request)}/"
        result = client.react(given.decision_id, given.reaction, given.because, within=within).document()
        reacted(request, given)
        return result if decides(request) else {name: result[name] for name in result if name not in _DECIDED}

    @router.get("/why/{decision_id}", dependencies=asking)
    def why(request: Request, decision_id: Annotated[str, Path(max_length=MAX_DECISION_ID)]) -> dict[str, Any]:
        """What a decision in one of the caller's conversations was made on, in plain words."""
        reasons = client.why(decision_id, within=f"{caller(request)}/")
        return {"decision_id": decision_id, "reasons": list(reasons)}

    @router.post("/recognize", dependencies=asking, openapi_extra=json_request(Words.model_json_schema()))
    def recognize(words: Annotated[Words, Depends(json_body(Words))]) -> dict[str, Any]:
        """What a text means, without answering."""
        return dict(client.recognize(words.text).__dict__)

    @router.post("/feedback", dependencies=telling, openapi_extra=json_request(Meant.model_json_schema()))
    def feedback(request: Request, meant: Annotated[Meant, Depends(json_body(Meant))]) -> dict[str, Any]:
        """The user says: I meant this. Kept with consent only. Without the scope `decide` only published intents are known."""
        return client.feedback(meant.text, intent=meant.intent, own=decides(request)).document()

    @router.get("/intents", dependencies=asking)
    def intents() -> dict[str, str]:
        """All that the assistant understands: name -> plain words."""
        return client.intents()

    return router
