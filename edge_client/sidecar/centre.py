"""The privacy centre: what is known, what may be done with it, what left, what was decided, and what the user may demand.

Pages are made here, load nothing from anywhere else, and work without scripts. Every change is a form with a session's token
(sessions.py) and ends in a redirect, so that a reload repeats nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from edge_client.sidecar.bodies import read_form
from edge_client.sidecar.centre_deliveries import change_quiet, change_stop, unasked_page
from edge_client.sidecar.centre_view import (
    consents_page,
    decisions_page,
    known_page,
    left_page,
    read_typed,
    spoken_time,
)
from edge_client.sidecar.problems import status_of
from edge_client.sidecar.sessions import COOKIE, Session, Sessions
from edge_client.sidecar.stream import Hub
from shared_models.errors import AccessError, CaptureError, SidecarError, TacitError

if TYPE_CHECKING:
    from edge_client.client import EdgeClient
    from edge_client.share.scheduler import Scheduler

FOLDER = Path(__file__).parent / "centre"
PAGES = {
    "known": "What is known",
    "consents": "What is allowed",
    "left": "What left",
    "decisions": "What was decided",
    "unasked": "What it says by itself",
    "rights": "Your rights",
}
CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
PAUSE_HOURS = {"1": 3600.0, "8": 8 * 3600.0, "24": 86400.0}


def never_proven(receipt: Mapping[str, Any]) -> bool:
    """No inclusion proof has been checked for any receipt: this version of the fleet publishes none to devices."""
    return False


class Centre:
    """The pages and forms of one device."""

    def __init__(
        self,
        client: EdgeClient,
        sessions: Sessions,
        hub: Hub,
        *,
        scheduler: Scheduler | None = None,
        is_accounted: Callable[[Mapping[str, Any]], bool] = never_proven,
        after_erasure: Callable[[], None] = lambda: None,
    ) -> None:
        """`is_accounted`: True only for a receipt whose proof of inclusion in the ledger was checked on this device."""
        self._client, self._sessions, self._hub = client, sessions, hub
        self._scheduler, self._is_accounted, self._after_erasure = scheduler, is_accounted, after_erasure
        self._certificate: bytes | None = None
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
        )
        self._changes: dict[str, Callable[[Mapping[str, str]], str]] = {
            "consent": self._consent,
            "restrict": self._restrict,
            "objection": self._objection,
            "gpc": self._gpc,
            "correct": self._correct,
            "uncorrect": self._uncorrect,
            "remove": self._remove,
            "forget-decisions": self._forget_decisions,
            "forget-nights": self._forget_nights,
            "pause": self._pause,
            "stop": self._stop,
            "quiet": self._quiet,
        }

    def routes(self) -> APIRouter:
        """GET and POST under /centre/; none of it is in the OpenAPI document, for it is for people."""
        router = APIRouter(prefix="/centre", include_in_schema=False)
        router.add_api_route("/open", self.open, methods=["GET"])
        router.add_api_route("/style.css", self.style, methods=["GET"])
        router.add_api_route("/icon.svg", self.icon, methods=["GET"])
        router.add_api_route("/{place}/export", self.export, methods=["POST"])
        router.add_api_route("/{place}/erase", self.erase, methods=["POST"])
        router.add_api_route("/{place}/certificate", self.certificate, methods=["POST"])
        router.add_api_route("/{place}/close", self.close, methods=["POST"])
        router.add_api_route("/{place}/do/{change}", self.change, methods=["POST"])
        router.add_api_route("/{place}/{page}", self.page, methods=["GET"])
        return router

    # -- pages ----------------------------------------------------------------------------------------------------

    async def open(self, request: Request) -> Response:
        """Use a one-time link, and go on to the first page."""
        return self.opened(request, "known", "Opening", "Go on to your privacy centre")

    def opened(self, request: Request, page: str, title: str, words: str) -> Response:
        """Use the one-time link of `request` up: sets the session's cookie, and goes on to `page`."""
        try:
            session, cookie = self._sessions.open(request.query_params.get("code", ""))
        except AccessError as error:
            return self.refused(error)
        # A page that refreshes and no redirect: after a link from elsewhere a redirect would not carry a strict cookie.
        target = f"/centre/{session.place}/{page}"
        response = self.shown("open.html", None, title=title, target=target, words=words)
        response.set_cookie(COOKIE, cookie, path=f"/centre/{session.place}/", httponly=True, samesite="strict")
        return response

    async def style(self) -> Response:
        return Response(await run_in_threadpool((FOLDER / "style.css").read_bytes), media_type="text/css")

    async def icon(self) -> Response:
        return Response(await run_in_threadpool((FOLDER / "icon.svg").read_bytes), media_type="image/svg+xml")

    async def page(self, request: Request, place: str, page: str) -> Response:
        """One of PAGES."""
        try:
            session = self._session(request, place)
            if page not in PAGES:
                raise SidecarError("there is no such page", 404)
            values = await run_in_threadpool(self._values, page)
        except TacitError as error:
            return self.refused(error)
        done = request.query_params.get("done", "")
        return self.shown(f"{page}.html", session, title=PAGES[page], current=page, done=DONE.get(done, ""), **values)

    async def change(self, request: Request, place: str, change: str) -> Response:
        """A form that changes something."""
        try:
            session, form = await self._form(request, place)
            act = self._changes.get(change)
            if act is None:
                raise SidecarError("there is no such form", 404)
            page = await run_in_threadpool(act, form)
        except TacitError as error:
            return self.refused(error, place)
        return RedirectResponse(f"/centre/{session.place}/{page}?done={change}", status_code=303, headers=HEADERS)

    async def export(self, request: Request, place: str) -> Response:
        """Everything, as a file."""
        try:
            await self._form(request, place)
            document = await run_in_threadpool(self._client.export)
        except TacitError as error:
            return self.refused(error, place)
        return _download(json.dumps(document, indent=2, ensure_ascii=False).encode(), "tacit-export.json")

    async def erase(self, request: Request, place: str) -> Response:
        """The end of everything: keys, files, session."""
        try:
            session, form = await self._form(request, place)
            if form.get("sure") != "yes":
                raise CaptureError({"sure": "tick the box first, if you mean it; nothing was erased"})
            certificate = await run_in_threadpool(self._client.rights.erase)
        except TacitError as error:
            return self.refused(error, place)
        self._hub.forget()
        self._certificate = certificate.to_bytes()
        # The session stays for the certificate alone: there is nothing else left to see.
        response = self.shown(
            "erased.html",
            session,
            title="Erased",
            records=sum(certificate.records.values()),
            withstood=certificate.withstood,
        )
        self._after_erasure()
        return response

    async def certificate(self, request: Request, place: str) -> Response:
        """The certificate of the erasure, as a file."""
        try:
            await self._form(request, place)
            if self._certificate is None:
                raise SidecarError("nothing was erased here", 404)
        except TacitError as error:
            return self.refused(error, place)
        return _download(self._certificate, "tacit-erasure-certificate.json")

    async def close(self, request: Request, place: str) -> Response:
        """Leave: the link and the cookie are worthless afterwards."""
        try:
            session, _ = await self._form(request, place)
        except TacitError as error:
            return self.refused(error, place)
        self._sessions.close(session)
        response = self.shown("closed.html", None, title="Closed")
        response.delete_cookie(COOKIE, path=f"/centre/{place}/", httponly=True, samesite="strict")
        return response

    # -- changes: each returns the page to go back to -------------------------------------------------------------

    def _consent(self, form: Mapping[str, str]) -> str:
        if form.get("to") == "on":
            self._client.consent.grant(form.get("purpose", ""))
        else:
            self._client.consent.withdraw(form.get("purpose", ""))
            self._hub.forget()
        return "consents"

    def _restrict(self, form: Mapping[str, str]) -> str:
        if form.get("to") == "on":
            self._client.rights.restrict(form.get("purpose", ""))
        else:
            self._client.rights.lift(form.get("purpose", ""))
        return "consents"

    def _objection(self, form: Mapping[str, str]) -> str:
        if form.get("to") == "on":
            self._client.rights.object_to_profiling()
            self._hub.forget()
        else:
            self._client.rights.withdraw_objection()
            self._client.consent.signal_gpc(False)
        return "consents"

    def _gpc(self, form: Mapping[str, str]) -> str:
        self._client.consent.signal_gpc(form.get("to") == "on")
        return "consents"

    def _correct(self, form: Mapping[str, str]) -> str:
        name, text = form.get("name", ""), form.get("value", "")
        try:
            self._client.rights.correct(name, read_typed(text))
        except CaptureError:
            # "12345" may be a text that looks like a number.
            self._client.rights.correct(name, text.strip())
        return "known"

    def _uncorrect(self, form: Mapping[str, str]) -> str:
        self._client.profile.withdraw_correction(form.get("name", ""))
        return "known"

    def _remove(self, form: Mapping[str, str]) -> str:
        self._client.profile.remove(form.get("name", ""))
        return "known"

    def _forget_decisions(self, form: Mapping[str, str]) -> str:
        self._client.decisions.clear()
        self._hub.forget()
        return "decisions"

    def _forget_nights(self, form: Mapping[str, str]) -> str:
        self._client.improvement.reset()
        return "known"

    def _pause(self, form: Mapping[str, str]) -> str:
        if self._scheduler is None:
            raise SidecarError("nothing is trained on this device", 404)
        how = form.get("hours", "")
        if how == "resume":
            self._scheduler.resume()
        elif how in PAUSE_HOURS:
            self._scheduler.pause(self._client.config.clock() + PAUSE_HOURS[how])
        else:
            self._scheduler.pause()
        return "left"

    def _stop(self, form: Mapping[str, str]) -> str:
        change_stop(self._client, form)
        return "unasked"

    def _quiet(self, form: Mapping[str, str]) -> str:
        change_quiet(self._client, form)
        return "unasked"

    # -- inside ---------------------------------------------------------------------------------------------------

    def _values(self, page: str) -> dict[str, Any]:
        readers: dict[str, Callable[[EdgeClient], dict[str, Any]]] = {
            "known": known_page,
            "consents": consents_page,
            "left": partial(left_page, is_accounted=self._is_accounted),
            "decisions": decisions_page,
            "unasked": unasked_page,
            "rights": lambda client: {"audit": client.rights.audit()},
        }
        values = readers[page](self._client)
        if page == "left":
            values["schedule"] = None if self._scheduler is None else self._scheduler.document()
        return values

    def _session(self, request: Request, place: str) -> Session:
        return self._sessions.find(place, request.cookies.get(COOKIE))

    async def _form(self, request: Request, place: str) -> tuple[Session, dict[str, str]]:
        session = self._session(request, place)
        form = await read_form(request)
        self._sessions.check_form(session, form.pop("csrf", None))
        return session, form

    def shown(
        self, template: str, session: Session | None, *, title: str, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """A template of centre/, with the session's links and CSRF token."""
        text = self._templates.get_template(template).render(
            title=title,
            pages=PAGES,
            root=f"/centre/{session.place}" if session else "",
            csrf=session.csrf if session else "",
            spoken_time=spoken_time,
            **{"current": "", "done": "", **values},
        )
        return HTMLResponse(text, status_code=status, headers=HEADERS)

    def refused(self, error: TacitError, place: str = "") -> Response:
        """The page that says what did not work."""
        fields = error.fields if isinstance(error, CaptureError) else {}
        return self.shown(
            "refused.html",
            None,
            title="That did not work",
            status=status_of(error),
            detail=str(error),
            fields=fields,
            back=f"/centre/{place}/known" if place and not isinstance(error, AccessError) else "",
        )


HEADERS = {"Content-Security-Policy": CSP, "X-Frame-Options": "DENY", "Cross-Origin-Opener-Policy": "same-origin"}
DONE = {
    "consent": "Changed. It holds from now on.",
    "restrict": "Changed. It holds from now on.",
    "objection": "Changed. It holds from now on.",
    "gpc": "Changed. It holds from now on.",
    "correct": "Corrected. Your word wins from now on.",
    "uncorrect": "Your correction is taken back.",
    "remove": "Erased.",
    "forget-decisions": "The list is erased.",
    "forget-nights": "Forgotten. The published model is in use again.",
    "pause": "Changed. It holds from now on.",
    "stop": "Changed. It holds from now on.",
    "quiet": "Changed. It holds from now on.",
}


def _download(content: bytes, name: str) -> Response:
    return Response(
        content,
        media_type="application/json",
        headers={**HEADERS, "Content-Disposition": f'attachment; filename="{name}"'},
    )
