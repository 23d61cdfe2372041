"""The chat page without a browser: who may open it, what its calls need, what it keeps and when that is forgotten."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sidecar_calls import BASE, InProcess, Visitor

from edge_client.client import EdgeClient
from edge_client.sidecar import chat_page
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.chat_page import CSRF_HEADER
from edge_client.sidecar.sessions import MOST_TURNS, Session


class Talker(Visitor):
    """A visitor whose page calls."""

    def __init__(self, call: InProcess) -> None:
        super().__init__(call)
        self.csrf = re.search(r'data-csrf="([^"]+)"', self.see("chat"))[1]  # type: ignore[index]

    def ask(self, method: str, path: str, *, headers: dict[str, str] | None = None, **given: Any) -> Any:
        sent = {"Origin": BASE, CSRF_HEADER: self.csrf} if headers is None else headers
        return self._call(method, f"{self.root}/v1{path}", token=None, cookies=self.cookies, headers=sent, **given)


@pytest.fixture
def talker(call: InProcess) -> Talker:
    return Talker(call)


def session_of(sidecar: Sidecar) -> Session:
    (session,) = sidecar.sessions._sessions.values()
    return session


def test_a_link_opens_the_chat_once_and_the_centre_with_it(call: InProcess, sidecar: Sidecar) -> None:
    link = sidecar.chat_path()
    assert link.startswith("/chat?code=")
    opened = call("GET", link, token=None)
    assert opened.status_code == 200
    assert re.search(r'url=/centre/[\w-]{20,}/chat"', opened.text)
    assert "SameSite=strict" in opened.headers["set-cookie"]
    assert call("GET", link, token=None).status_code == 403
    assert call("GET", "/chat", token=None).status_code == 403
    assert call("POST", "/v1/centre").json()["chat"].startswith("/chat?code=")


def test_the_page_loads_its_own_files_only_and_runs_no_inline_script(call: InProcess, talker: Talker) -> None:
    shown = call("GET", f"{talker.root}/chat", token=None, cookies=talker.cookies)
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "trusted-types 'none'" in policy
    assert "unsafe" not in policy
    text = shown.text
    assert re.findall(r'(?:src|href|action)="(?!/centre/|#)[^"]*"', text) == []
    assert re.findall(r"<script(?! src=)", text) == []
    assert "style=" not in text
    assert not re.search(r"\son\w+=", text)
    assert f'href="{talker.root}/known"' in text
    assert f'href="{talker.root}/chat"' in talker.see("known")
    for path in ("/centre/chat.js", "/centre/chat.css"):
        asset = call("GET", path, token=None)
        assert asset.status_code == 200
        assert "http" not in asset.text.replace("http://www.w3.org/2000/svg", "")
    script = call("GET", "/centre/chat.js", token=None).text
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "localStorage",
        "sessionStorage",
    ):
        assert sink not in script
    assert call("GET", f"{talker.root}/chat", token=None).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": BASE},
        {"Origin": BASE, CSRF_HEADER: "x"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
        {"Origin": BASE, "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_call_of_another_page_is_refused(talker: Talker, headers: dict[str, str]) -> None:
    if "Sec-Fetch-Site" in headers or headers.get("Origin") != BASE:
        headers = {**headers, CSRF_HEADER: talker.csrf}
    for method, path in (("POST", "/chat"), ("POST", "/react"), ("POST", "/feedback"), ("DELETE", "/turns")):
        answer = talker.ask(method, path, headers=headers, json={"text": "hello"})
        assert answer.status_code == 403, path
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_calls_need_the_sessions_cookie_and_no_token_of_an_app_will_do(call: InProcess, talker: Talker) -> None:
    headers = {"Origin": BASE, CSRF_HEADER: talker.csrf}
    assert call("GET", f"{talker.root}/v1/turns", token=None).status_code == 403
    assert call("POST", f"{talker.root}/v1/chat", headers=headers, json={"text": "hi"}).status_code == 403
    assert call("GET", "/centre/elsewhere/v1/turns", token=None, cookies=talker.cookies).status_code == 403
    assert talker.ask("GET", "/turns").json() == {"turns": [], "reactions": {}}


def test_the_page_opens_without_a_model_and_says_what_is_missing_when_asked(talker: Talker) -> None:
    refused = talker.ask("POST", "/chat", json={"text": "hello"})
    assert refused.status_code == 503
    assert "tacit-fleet build" in refused.json()["detail"]
    assert talker.ask("POST", "/chat", json={"text": "x" * 4001}).status_code == 422
    assert talker.ask("POST", "/react", json={"decision_id": "1", "reaction": "sideways"}).status_code == 422


def test_what_was_said_is_bounded_and_ends_with_withdrawal_new_conversation_and_session(
    talker: Talker, sidecar: Sidecar, consenting: EdgeClient
) -> None:
    session = session_of(sidecar)
    for number in range(MOST_TURNS + 5):
        session.turns.append({"text": f"text {number}", "reply": {}})
    session.reactions["7"] = "up"
    assert len(talker.ask("GET", "/turns").json()["turns"]) == MOST_TURNS
    assert "text 7" not in repr(session)
    talker.send("do/consent", purpose="personalisation", to="off")
    assert talker.ask("GET", "/turns").json() == {"turns": [], "reactions": {}}
    session.turns.append({"text": "canary", "reply": {}})
    assert talker.ask("DELETE", "/turns").json() == {"turns": []}
    assert not session.turns
    talker.send("close")
    assert talker.ask("GET", "/turns").status_code == 403


def test_the_openers_are_the_assistants_own_words(talker: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"a": "<b>book</b> a hotel", **{f"intent_{number}": f"label {number}" for number in range(9)}}
    monkeypatch.setattr(EdgeClient, "intents", lambda self: words)
    text = talker.see("chat")
    assert "&lt;b&gt;book&lt;/b&gt; a hotel" in text
    assert text.count('class="chip opener"') == chat_page.MOST_OPENERS
