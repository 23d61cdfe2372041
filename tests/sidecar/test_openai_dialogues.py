"""Conversations over the OpenAI-compatible chat, with the travel domain: they go on, do not mix, and are edited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from edge_client import EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.client import EdgeClient
from edge_client.know.store import Store
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.serving import loopback_socket, served
from edge_client.sidecar.tokens import Apps

WARM = "I want to go somewhere warm in May"


@pytest.fixture(scope="module")
def running(travel: BundleStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    home: Path = tmp_path_factory.mktemp("openai-travel") / "home"
    with EdgeClient(Store(home, key=bytes(32)), travel, EdgeConfig(bundles=travel)) as client:
        client.consent.grant("personalisation")
        apps = Apps(home)
        token = apps.register("front-end")
        with served(Sidecar(client, apps), loopback_socket("127.0.0.1", 0)) as address:
            yield SimpleNamespace(client=client, address=address, token=token)


class Chat:
    """A front end: keeps the history, sends all of it each time."""

    def __init__(self, running: SimpleNamespace) -> None:
        self.caller = openai.OpenAI(base_url=f"{running.address}/v1", api_key=running.token, max_retries=0)
        self.messages: list[Any] = []

    def say(self, text: str, **more: Any) -> dict[str, Any]:
        """The `tacit` of the answer, with its text and usage."""
        self.messages.append({"role": "user", "content": text})
        answer = self.caller.chat.completions.create(model="tacit", messages=self.messages, **more)
        self.messages.append(answer.choices[0].message)
        found: dict[str, Any] = answer.model_extra["tacit"]
        return {
            **found,
            "text": answer.choices[0].message.content,
            "usage": answer.usage,
            "message": answer.choices[0].message,
        }


@pytest.fixture
def chat(running: SimpleNamespace) -> Iterator[Chat]:
    made = Chat(running)
    yield made
    made.caller.close()


def prices(found: dict[str, Any]) -> list[float]:
    return [card["price"] for card in found["suggestions"]]


def test_a_conversation_goes_on_over_stateless_requests(chat: Chat) -> None:
    first = chat.say(WARM)
    assert len(first["suggestions"]) == 3
    assert all(card["reasons"] and card["decision_id"] for card in first["suggestions"])
    cheaper = chat.say("something cheaper")
    assert cheaper["conversation"] == first["conversation"]
    assert max(prices(cheaper)) < min(prices(first))
    assert cheaper["usage"].prompt_tokens_details.cached_tokens == first["usage"].prompt_tokens
    assert cheaper["slots"]["dates"]["start"].endswith("-05-01")


def test_two_chats_that_begin_alike_do_not_mix(running: SimpleNamespace, chat: Chat) -> None:
    other = Chat(running)
    chat.say(WARM)
    other.say(WARM)
    mine = chat.say("up to 90 euros a day")
    theirs = other.say("up to 140 euros a day")
    assert mine["conversation"] != theirs["conversation"]
    assert (mine["slots"]["budget"]["high"], theirs["slots"]["budget"]["high"]) == (90, 140)
    assert chat.say("for two adults")["slots"]["budget"]["high"] == 90
    other.caller.close()


def test_an_edited_history_is_read_again_and_teaches_nothing_twice(running: SimpleNamespace, chat: Chat) -> None:
    chat.say(WARM)
    chat.say("up to 100 euros a day")
    before = chat.say("for two adults")
    decided, heard = len(running.client.decisions), len(running.client.capture.events())
    # The user goes back and edits the second message; the front end cuts what came after it.
    chat.messages = chat.messages[:2]
    edited = chat.say("up to 70 euros a day")
    assert edited["conversation"] != before["conversation"]
    assert edited["slots"]["budget"]["high"] == 70
    assert edited["slots"]["dates"]["start"].endswith("-05-01"), "the first message was read again"
    assert "party" not in edited["slots"]
    assert edited["usage"].prompt_tokens_details.cached_tokens == 0
    # One turn was noted, the edited one: itself, and what it suggested.
    assert len(running.client.capture.events()) == heard + 1
    assert len(running.client.decisions) == decided + 1 + len(edited["suggestions"])


def test_an_answer_that_is_asked_for_again_is_not_learned_from_again(running: SimpleNamespace, chat: Chat) -> None:
    chat.say(WARM)
    chat.say("up to 100 euros a day")
    decided = len(running.client.decisions)
    chat.messages = chat.messages[:2]
    again = chat.say("up to 100 euros a day")
    assert again["suggestions"]
    assert len(running.client.decisions) == decided
    chat.say("for two adults", store=False)
    assert len(running.client.decisions) == decided


def test_a_named_conversation_needs_no_history(running: SimpleNamespace) -> None:
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key=running.token) as caller:

        def say(text: str, **more: Any) -> Any:
            return caller.chat.completions.create(
                model="tacit", messages=[{"role": "user", "content": text}], **more
            ).model_extra["tacit"]

        first = say(WARM, metadata={"conversation": "holiday"})
        then = say("up to 90 euros a day", extra_headers={"Tacit-Conversation": "holiday"})
        assert first["conversation"] == then["conversation"] == "holiday"
        assert then["slots"]["dates"] == first["slots"]["dates"]
        assert "dates" not in say("up to 90 euros a day")["slots"]


def test_suggestions_are_reacted_to_and_explained_over_the_native_api(running: SimpleNamespace, chat: Chat) -> None:
    card = chat.say(WARM)["suggestions"][0]
    headers = {"Authorization": f"Bearer {running.token}"}
    with httpx.Client(base_url=running.address, headers=headers) as native:
        reasons = native.get(f"/v1/why/{card['decision_id']}").json()["reasons"]
        assert set(card["reasons"]) <= set(reasons)
        told = native.post(
            "/v1/react", json={"decision_id": card["decision_id"], "reaction": "down", "because": "too expensive"}
        ).json()
        assert (told["item"], told["kept"]) == (card["id"], True)
        assert told["excludes"]
        unknown = native.post("/v1/react", json={"decision_id": "no-such", "reaction": "up"})
        assert unknown.status_code == 422
        assert native.get("/v1/why/no-such").status_code == 422
    assert card["id"] not in [each["id"] for each in chat.say("something else")["suggestions"]]


def test_a_tool_is_called_once_all_is_said_with_what_was_said_over_the_turns(chat: Chat) -> None:
    tools: Any = [{"type": "function", "function": {"name": "book_hotel"}}]
    asked = chat.say("I want to book a hotel for two adults", tools=tools)
    assert asked["question"]
    assert asked["message"].tool_calls is None
    answer: dict[str, Any] = {"message": asked["message"]}
    for text in ("in Lisbon", "from 3 May to 8 May"):
        if answer["message"].tool_calls is None:
            answer = chat.say(text, tools=tools)
    (call,) = answer["message"].tool_calls
    arguments = json.loads(call.function.arguments)
    assert arguments["place"] == "Lisbon"
    assert arguments["party"] == {"adults": 2, "children": 0}


def test_conversations_of_the_native_api_are_apart_by_name_and_begin_anew(running: SimpleNamespace) -> None:
    headers = {"Authorization": f"Bearer {running.token}"}
    with httpx.Client(base_url=running.address, headers=headers) as native:

        def say(text: str, conversation: str) -> Any:
            answer = native.post("/v1/chat", json={"text": text, "conversation": conversation})
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert len(say(WARM, "one")["suggestions"]) == 3
        assert say("up to 90 euros a day", "one")["slots"]["dates"]
        assert "dates" not in say("up to 90 euros a day", "two")["slots"]
        assert native.delete("/v1/conversations/one").json() == {"conversation": "one"}
        assert "dates" not in say("up to 90 euros a day", "one")["slots"]
        assert native.post("/v1/chat", json={"text": "x", "conversation": "no name"}).status_code == 422
