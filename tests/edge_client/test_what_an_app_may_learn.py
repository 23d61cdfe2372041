"""What an app at the sidecar may not learn of the user, and what it may not do against the user's word."""

from __future__ import annotations

from sidecar_calls import InProcess
from travel_clients import Open

from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.tokens import Apps

WHERE = "Where should I go in December?"


def test_who_may_only_capture_learns_no_suggestion(opened: Open) -> None:
    client = opened("personalisation")
    client.respond(WHERE, conversation="diary/main")
    apps = Apps(client.store.folder)
    token = apps.register("pixel", [], ("capture",))
    sidecar = Sidecar(client, apps)
    try:
        call = InProcess(sidecar, token)
        answers = [
            call("POST", "/v1/react", json={"decision_id": f"{commit:012d}{number:06d}", "reaction": "down"})
            for commit in range(1, 20)
            for number in range(5)
        ]
        seen = [answer.json()["item"] for answer in answers if answer.status_code == 200 and answer.json().get("item")]
        assert not seen, seen
    finally:
        sidecar.close()


def test_an_error_names_no_intent_of_the_users_own_to_who_may_only_capture(opened: Open) -> None:
    client = opened("personal-learning")
    client.define_intent("oncology_visit", ["book my chemo", "when is my chemo"])
    client.rights.object_to_profiling()
    apps = Apps(client.store.folder)
    sidecar = Sidecar(client, apps)
    try:
        call = InProcess(sidecar, apps.register("pixel", [], ("capture",)))
        answer = call("POST", "/v1/feedback", json={"text": "hello there", "intent": "a medical visit"})
        assert "oncology" not in answer.text, answer.text
    finally:
        sidecar.close()


def test_gpc_is_heeded_by_the_chat_as_it_is_by_events(opened: Open) -> None:
    client = opened("personalisation")
    apps = Apps(client.store.folder)
    sidecar = Sidecar(client, apps)
    try:
        call = InProcess(sidecar, apps.register("front", [], ("capture", "decide")))
        body = {"model": "tacit", "messages": [{"role": "user", "content": WHERE}]}
        assert call("POST", "/v1/chat", json={"text": WHERE}, headers={"Sec-GPC": "1"}).status_code == 200
        assert call("POST", "/v1/chat/completions", json=body, headers={"Sec-GPC": "1"}).status_code == 200
        assert client.consent.objects_to_profiling
        assert len(client.decisions) == 0
    finally:
        sidecar.close()
