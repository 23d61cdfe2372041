"""Scripted conversations in three languages (tests/data/conversations): each must reach its goal, and no answer may claim more
than the catalogue and the conversation hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest
import yaml
from conversation_scripts import FOLDER, SCRIPTS, reached
from real_places import gazetteer, slot_reader

from edge_client.answer.claims import unsupported
from edge_client.answer.facts import Reason, Suggestion
from edge_client.answer.wording import Spoken, Wording
from edge_client.understand.dialogue import Dialogue
from edge_client.understand.state import Correction, DialogueState, Turn
from shared_models.languages import LANGUAGES

TODAY = date(2026, 11, 24)
CATALOGUE = yaml.safe_load((FOLDER / "catalogue.yaml").read_text(encoding="utf-8"))
PROPOSES = ("topic", "refine", "correct", "negate", "cheaper", "more", "answer", "undo")


def offered(state: DialogueState) -> list[Suggestion]:
    """At most three entries of the catalogue that meet what is wanted, in its order."""
    refused = {place.id for place in state.refused_places}
    found = []
    for entry in CATALOGUE:
        place = gazetteer().named(entry["place"])[0]
        limits = [state.price_below and state.price_below - 0.01, state.budget and state.budget.high]
        if (
            place.id in refused
            or entry["id"] in state.refused_offers
            or any(tag in state.refused_interests for tag in entry["tags"])
        ):
            continue
        if (state.place and state.place.id != place.id) or any(limit and entry["price"] > limit for limit in limits):
            continue
        if state.interests and not set(state.interests) & set(entry["tags"]):
            continue
        reasons = tuple(Reason("interest", {"interest": tag}) for tag in state.interests if tag in entry["tags"])
        found.append(Suggestion(entry["id"], entry["name"], entry["price"], per="night", reasons=reasons, place=place))
    # The cheapest last, as in a list by price; "cheaper" must then find something below the cheapest that was shown.
    return found[:3] if state.price_below is None else found[-3:]


class Conversation:
    """A whole conversation, with what a device would do between the turns."""

    def __init__(self, language: str) -> None:
        self.corrections: list[Correction] = []
        self._dialogue = Dialogue(slot_reader(), on_correction=self.corrections.append)
        self._wording = Wording(gazetteer=gazetteer())
        self._language = language
        self.state = DialogueState()
        self._shown: Sequence[Suggestion] = ()
        self._number = 0

    def say(self, text: str) -> tuple[Turn, Spoken]:
        turn = self._dialogue.step(self.state, text, TODAY, language=self._language)
        suggestions: Sequence[Suggestion] | None = None
        if (
            turn.question is None
            and turn.act in PROPOSES
            and turn.state.intent in ("book_hotel", "suggest_destination")
        ):
            suggestions = offered(turn.state)
        spoken = self._wording.say(turn, TODAY, self._shown if turn.act == "why" else suggestions, number=self._number)
        self.state = turn.state.offering(*(one.offer for one in suggestions)) if suggestions is not None else turn.state
        self._shown = self._shown if suggestions is None else suggestions
        self._number += 1
        return turn, spoken


@pytest.mark.parametrize(("language", "script"), SCRIPTS, ids=[f"{code}: {script['name']}" for code, script in SCRIPTS])
def test_a_scripted_conversation_reaches_its_goal(language: str, script: dict[str, Any]) -> None:
    conversation = Conversation(language)
    acts = []
    for text in script["say"]:
        turn, spoken = conversation.say(text)
        acts.append(turn.act)
        assert spoken.text, f"nothing was said to {text!r}"
        assert turn.language == language
        assert "{" not in spoken.text
        assert unsupported(spoken.text, spoken.facts, language, TODAY, gazetteer=gazetteer()) == ()
    assert acts == script["acts"]
    state = reached(conversation.state)
    for name, wanted in script["goal"].items():
        got = state[name]
        expected = sorted(wanted) if name in ("interests", "refused_interests", "open") else wanted
        assert got == expected, f"{name}: {got!r}, expected {wanted!r}"
    assert [correction.meant for correction in conversation.corrections] == script.get("corrections", [])


def test_there_are_sixty_conversations_in_three_languages() -> None:
    assert len(SCRIPTS) >= 60
    assert all(sum(code == language for code, _ in SCRIPTS) >= 20 for language in LANGUAGES)
