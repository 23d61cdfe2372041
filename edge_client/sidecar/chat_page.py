"""The chat page: the user talks to the assistant in a browser, behind the privacy centre's session.

The page is a shell; its script (centre/chat.js) calls the native API's own routes (talking.py), which stand below the session's
path as well. There a cookie lets in, not a token, so that whatever changes something needs the session's CSRF token in a header.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from edge_client.sidecar.centre import CSP, FOLDER, Centre
from edge_client.sidecar.deliveries import delivery_routes
from edge_client.sidecar.sessions import COOKIE, Session, Sessions
from edge_client.sidecar.talking import Reaction, talking_routes
from edge_client.sidecar.turns import CONVERSATION, MAX_TEXT_CHARACTERS, Turns
from edge_client.understand.dialogue import travel_needs
from shared_models.errors import BundleError, ModelError, TacitError

if TYPE_CHECKING:
    from edge_client.client import EdgeClient

CSRF_HEADER = "Tacit-Csrf"
MOST_OPENERS = 6
CHAT_CSP = f"{CSP}; script-src 'self'; connect-src 'self'; trusted-types 'none'"


class ChatPage:
    """Page and calls of one device. What was said is kept in the session, in memory, as long as that lasts."""

    def __init__(self, client: EdgeClient, sessions: Sessions, centre: Centre, turns: Turns) -> None:
        self._client, self._sessions, self._centre, self._turns = client, sessions, centre, turns

    def routes(self) -> APIRouter:
        """/chat, and /centre/{place}/chat with its calls; none of it is in the OpenAPI document, for it is for people."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/chat", self.open, methods=["GET"])
        router.add_api_route("/centre/chat.css", self.style, methods=["GET"])
        router.add_api_route("/centre/chat.js", self.script, methods=["GET"])
        router.add_api_route("/centre/{place}/chat", self.page, methods=["GET"])
        calls = APIRouter(dependencies=[Depends(self._admit)])
        calls.add_api_route("/turns", self.turns, methods=["GET"])
        calls.add_api_route("/turns", self.begin_anew, methods=["DELETE"])
        calls.add_api_route("/unasked", self.unasked, methods=["POST"])
        calls.include_router(delivery_routes(self._client, decide=self._admit, capture=self._admit))
        calls.include_router(
            talking_routes(
                self._client,
                self._turns,
                decide=self._admit,
                capture=self._admit,
                caller=_caller,
                took=_took,
                reacted=_reacted,
            )
        )
        router.include_router(calls, prefix="/centre/{place}/v1")
        return router

    async def open(self, request: Request) -> Response:
        """Use a one-time link, and go on to the page."""
        return self._centre.opened(request, "chat", "Opening", "Go on to your assistant")

    async def style(self) -> Response:
        return Response(await run_in_threadpool((FOLDER / "chat.css").read_bytes), media_type="text/css")

    async def script(self) -> Response:
        return Response(await run_in_threadpool((FOLDER / "chat.js").read_bytes), media_type="text/javascript")

    async def page(self, request: Request, place: str) -> Response:
        try:
            session = self._sessions.find(place, request.cookies.get(COOKIE))
            openers = await run_in_threadpool(self._openers)
        except TacitError as error:
            return self._centre.refused(error)
        shown = self._centre.shown(
            "chat.html", session, title="Your assistant", openers=openers, most=MAX_TEXT_CHARACTERS
        )
        shown.headers["Content-Security-Policy"] = CHAT_CSP
        return shown

    async def turns(self, request: Request) -> dict[str, Any]:
        """What was said in this session, for a page that is loaded again."""
        session: Session = request.state.session
        return {"turns": list(session.turns), "reactions": dict(session.reactions)}

    async def begin_anew(self, request: Request) -> dict[str, Any]:
        session: Session = request.state.session
        session.forget_words()
        await run_in_threadpool(self._turns.restart, f"{_caller(request)}/{CONVERSATION}")
        return {"turns": []}

    async def unasked(self, request: Request) -> dict[str, Any]:
        """What the assistant says by itself now, on channel `chat`: the page asks while the user looks at it."""
        said = await run_in_threadpool(partial(self._client.delivery.tick, shows=("chat",), context={"in_use": True}))
        messages = [one.document() for one in said if one.channel == "chat"]
        for message in messages:
            request.state.session.keep(request.state.generation, turn={"unasked": message})
        return {"messages": messages}

    async def _admit(self, request: Request) -> None:
        session = self._sessions.find(request.path_params["place"], request.cookies.get(COOKIE))
        if request.method != "GET":
            self._sessions.check_form(session, request.headers.get(CSRF_HEADER))
        request.state.session = session
        # Before the turn: a withdrawal while it is under way must not be followed by its words.
        request.state.generation = session.generation

    def _openers(self) -> list[str]:
        try:
            labels = self._client.intents()
            # What leads to suggestions first.
            first = [name for name in travel_needs().suggests if name in labels]
            return [labels[name] for name in dict.fromkeys((*first, *labels))][:MOST_OPENERS]
        except (ModelError, BundleError):
            # Said when the user writes: the page itself needs no model.
            return []


def _caller(request: Request) -> str:
    # The place opens pages, and names of conversations stand in the log: nothing to read it from.
    return f"page-{hashlib.sha256(request.path_params['place'].encode()).hexdigest()[:24]}"


def _took(request: Request, text: str, reply: dict[str, Any]) -> None:
    request.state.session.keep(request.state.generation, turn={"text": text, "reply": reply})


def _reacted(request: Request, given: Reaction) -> None:
    request.state.session.keep(request.state.generation, reaction=(given.decision_id, given.reaction))
