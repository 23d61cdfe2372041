"""What stays in memory after a withdrawal, an objection, a restriction, an erasure, whoever said it: nothing of the user's."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from sidecar_calls import BASE, InProcess, Visitor

from edge_client.client import EdgeClient
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.chat_page import CSRF_HEADER
from edge_client.sidecar.completion_dialogues import Dialogues
from edge_client.sidecar.completion_request import CompletionRequest, Said
from edge_client.sidecar.stream import DECISION, Hub


class Talker(Visitor):
    def __init__(self, call: InProcess) -> None:
        super().__init__(call)
        self.csrf = re.search(r'data-csrf="([^"]+)"', self.see("chat"))[1]  # type: ignore[index]

    def ask(self, method: str, path: str, **given: Any) -> Any:
        sent = {"Origin": BASE, CSRF_HEADER: self.csrf}
        return self._call(method, f"{self.root}/v1{path}", token=None, cookies=self.cookies, headers=sent, **given)


def session_of(sidecar: Sidecar) -> Any:
    (session,) = sidecar.sessions._sessions.values()
    return session


def test_gpc_forgets_what_an_objection_forgets(call: InProcess, sidecar: Sidecar, consenting: EdgeClient) -> None:
    sidecar.hub.publish(DECISION, {"reasons": ["you like Lisbon"]})
    call("POST", "/v1/events", json={"type": "track", "event": "app_opened"}, headers={"Sec-GPC": "1"})
    assert consenting.consent.objects_to_profiling
    assert not sidecar.hub._recent, "decisions about the user can be had again after Sec-GPC: 1"


@pytest.mark.parametrize(
    "say",
    [
        lambda client: client.consent.withdraw("personalisation"),
        lambda client: client.consent.decline("personalisation"),
        lambda client: client.consent.restrict("personalisation"),
        lambda client: client.consent.object_to_profiling(),
        lambda client: client.rights.object_to_profiling(),
        lambda client: client.consent.signal_gpc(True),
        lambda client: client.rights.erase(),
        lambda client: client.forget(),
    ],
    ids=["withdraw", "decline", "restrict", "object", "rights", "gpc", "erase", "forget"],
)
def test_what_the_app_itself_is_told_empties_stream_and_chat(
    call: InProcess, sidecar: Sidecar, consenting: EdgeClient, say: Callable[[EdgeClient], object]
) -> None:
    Talker(call)
    session_of(sidecar).turns.append({"text": "my secret", "reply": {}})
    session_of(sidecar).reactions["id"] = "up"
    sidecar.hub.publish(DECISION, {"reasons": ["you like Lisbon"]})
    say(consenting)
    assert not sidecar.hub._recent
    assert not session_of(sidecar).turns
    assert not session_of(sidecar).reactions


def test_a_sidecar_that_ended_is_told_no_more(sidecar: Sidecar, consenting: EdgeClient) -> None:
    sidecar.close()
    before = sidecar.hub.generation
    consenting.consent.withdraw("personalisation")
    assert sidecar.hub.generation == before


def test_a_listener_that_fails_stops_neither_the_withdrawal_nor_the_others(
    sidecar: Sidecar, device: EdgeClient, consenting: EdgeClient
) -> None:
    def broken() -> None:
        raise RuntimeError("no")

    take_away = device.consent.when_narrowed(broken)
    told: list[bool] = []
    device.consent.when_narrowed(lambda: told.append(device.consent.is_granted("personalisation")))
    device.consent.withdraw("personalisation")
    assert told == [False], "told before it held, or not at all"
    take_away()
    take_away()


def test_a_turn_under_way_while_consent_is_withdrawn_is_not_kept(
    call: InProcess, sidecar: Sidecar, consenting: EdgeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker(call)
    document = {name: "x" for name in ("action", "intent", "confidence", "reasons", "rule_ids", "decision_id")}
    reply = SimpleNamespace(document=lambda: dict(document, text="you liked Lisbon"), choices=(), suggestions=())
    begun, go_on = threading.Event(), threading.Event()

    def slow(text: str, *, conversation: str, learn: bool = True) -> Any:
        begun.set()
        go_on.wait(10)
        return reply

    monkeypatch.setattr(consenting, "respond", slow)
    turn = threading.Thread(target=lambda: talker.ask("POST", "/chat", json={"text": "my secret"}))
    turn.start()
    assert begun.wait(10)
    assert call("PUT", "/v1/consents/personalisation", json={"granted": False}).status_code == 200
    go_on.set()
    turn.join(10)
    assert not session_of(sidecar).turns, "the words came back after the withdrawal"
    assert not sidecar.hub._recent, "the decision came back after the withdrawal"


def test_beginning_anew_while_a_turn_is_under_way_does_not_bring_its_words_back(
    call: InProcess, sidecar: Sidecar
) -> None:
    Talker(call)
    session = session_of(sidecar)
    before = session.generation
    session.forget_words()
    session.keep(before, turn={"text": "old"}, reaction=("id", "up"))
    assert not session.turns
    assert not session.reactions
    session.keep(session.generation, turn={"text": "new"})
    assert list(session.turns) == [{"text": "new"}]


def test_what_began_before_the_hub_forgot_is_not_published_after() -> None:
    hub = Hub()
    before = hub.generation
    hub.forget()
    hub.publish(DECISION, {"reasons": ["you like Lisbon"]}, since=before)
    assert not hub._recent
    hub.publish(DECISION, {"reasons": []}, since=hub.generation)
    assert len(hub._recent) == 1


@pytest.mark.parametrize("named", [{}, {"metadata": {"conversation": "trip"}}])
def test_a_completion_under_way_while_dialogues_are_cleared_leaves_none(named: dict[str, Any]) -> None:
    forgotten: list[str] = []
    dialogues = Dialogues(forgotten.append)
    messages = [{"role": "user", "content": "my secret"}]
    request = CompletionRequest.read({"model": "tacit", "messages": messages, **named})
    begun = dialogues.begin("app", request)
    dialogues.clear()
    dialogues.end(begun.dialogue, request, Said("assistant", "you liked Lisbon"), SimpleNamespace())  # type: ignore[arg-type]
    assert len(dialogues) == 0
    assert not dialogues._waiting
    assert not dialogues._seen
    assert begun.dialogue.reply is None
    # What the turn has put into the device's own conversation since goes as well.
    assert forgotten == [begun.dialogue.name] * 2
