"""Which conversation a request belongs to: histories that go on, part, are edited, named, forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from edge_client.sidecar import completion_dialogues
from edge_client.sidecar.completion_dialogues import Begun, Dialogues
from edge_client.sidecar.completion_request import CompletionRequest, Said


class Chats:
    """Clients that resend what was said; answers are numbered unless given."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.dialogues = Dialogues(self.forgotten.append)

    def ask(self, *texts: str, app: str = "app", answer: str | None = None, **more: Any) -> Begun:
        """Texts of user and assistant in turns, the last of the user; returns where it landed."""
        messages = [
            {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)
        ]
        request = CompletionRequest.read({"model": "tacit", "messages": messages, **more})
        begun = self.dialogues.begin(app, request)
        said = Said("assistant", f"answer to {texts[-1]}" if answer is None else answer)
        self.dialogues.end(begun.dialogue, request, said, None)  # type: ignore[arg-type]
        return begun


@pytest.fixture
def chats() -> Chats:
    return Chats()


def test_who_sends_the_history_back_goes_on(chats: Chats) -> None:
    first = chats.ask("one")
    second = chats.ask("one", "answer to one", "two")
    third = chats.ask("one", " answer  to one\n", "two", "answer to two", "three")
    assert first.restarts
    assert first.dialogue is second.dialogue is third.dialogue
    assert (second.restarts, second.reread, second.learns) == (False, (), True)


def test_two_chats_with_the_same_words_part_as_soon_as_they_differ(chats: Chats) -> None:
    chats.ask("hi", answer="hello")
    chats.ask("hi", answer="hello")
    paris = chats.ask("hi", "hello", "paris")
    rome = chats.ask("hi", "hello", "rome")
    assert paris.dialogue is not rome.dialogue
    assert rome.dialogue.name != paris.dialogue.name
    again = chats.ask("hi", "hello", "paris", "answer to paris", "cheaper")
    assert again.dialogue is paris.dialogue


def test_an_edited_history_is_read_again_and_not_learned_from(chats: Chats) -> None:
    first = chats.ask("one")
    chats.ask("one", "answer to one", "two")
    edited = chats.ask("one", "answer to one", "another two")
    assert edited.dialogue is not first.dialogue
    assert (edited.restarts, edited.reread, edited.learns) == (True, ("one",), True)
    again = chats.ask("one", "answer to one", "two")
    assert (again.restarts, again.reread) == (True, ("one",))
    assert not again.learns, "the same turn after the same answers was taken before"


def test_a_long_history_is_read_again_from_its_end(chats: Chats) -> None:
    texts = [f"text {number}" for number in range(101)]
    begun = chats.ask(*texts)
    assert begun.reread == tuple(texts[:-1:2])[-completion_dialogues.MOST_REREAD :]


def test_apps_and_users_do_not_share_a_conversation(chats: Chats) -> None:
    chats.ask("one", app="a", user="u")
    assert chats.ask("one", "answer to one", "two", app="b", user="u").restarts
    assert chats.ask("one", "answer to one", "two", app="a", user="v").restarts
    assert not chats.ask("one", "answer to one", "two", app="a", user="u").restarts
    named = [chats.ask("one", app=app, metadata={"conversation": "trip"}) for app in ("a", "b")]
    assert named[0].dialogue.name != named[1].dialogue.name


def test_a_named_conversation_goes_on_with_or_without_history(chats: Chats) -> None:
    trip = {"conversation": "trip"}
    first = chats.ask("one", metadata=trip)
    second = chats.ask("two", metadata=trip)
    assert second.dialogue is first.dialogue
    assert not second.restarts
    third = chats.ask("two", "answer to two", "three", metadata=trip)
    assert not third.restarts
    edited = chats.ask("edited", "answer to two", "three", metadata=trip)
    assert (edited.restarts, edited.reread, edited.dialogue) == (True, ("edited",), first.dialogue)


def test_an_unnamed_one_can_be_named_afterwards(chats: Chats) -> None:
    first = chats.ask("one")
    assert chats.ask("two", metadata={"conversation": first.dialogue.public}).dialogue is first.dialogue


def test_a_turn_that_failed_leaves_the_conversation_where_it_stood(chats: Chats) -> None:
    first = chats.ask("one")
    messages = [{"role": role, "content": text} for role, text in (("user", "one"), ("assistant", "answer to one"))]
    request = CompletionRequest.read({"model": "tacit", "messages": [*messages, {"role": "user", "content": "two"}]})
    chats.dialogues.failed(chats.dialogues.begin("app", request).dialogue)
    assert chats.ask("one", "answer to one", "two").dialogue is first.dialogue


def test_memory_is_bounded_and_the_oldest_are_given_up(chats: Chats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion_dialogues, "MOST_DIALOGUES", 3)
    monkeypatch.setattr(completion_dialogues, "MOST_SEEN", 4)
    begun = [chats.ask(f"chat {number}") for number in range(10)]
    assert len(chats.dialogues) == 3
    assert chats.forgotten == [each.dialogue.name for each in begun[:7]]
    assert len(chats.dialogues._waiting) == 3
    assert len(chats.dialogues._seen["app"]) == 4
    chats.dialogues.clear()
    assert len(chats.forgotten) == 10
    assert chats.ask("chat 9", "answer to chat 9", "two").restarts
