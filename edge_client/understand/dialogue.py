"""From one text to the next state of a conversation: refine, correct, negate, choose, cheaper, switch topic, undo, or be asked.

Pure: (state, text, reading) -> turn. The wording is in answer/, what is offered comes from decide/. Intents come from the
recogniser; for languages that its encoder does not cover, from the words in shared_models/languages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import lru_cache
from types import MappingProxyType

from edge_client.understand.slots import SlotReader
from edge_client.understand.state import MOST_UNDONE, Correction, DialogueNeeds, DialogueState, Turn
from edge_client.understand.turns import TurnReader
from shared_models.domain import TRAVEL, read_yaml
from shared_models.errors import DomainError, InputError
from shared_models.intents import Recognition


@lru_cache(maxsize=1)
def travel_needs() -> DialogueNeeds:
    """What shared_models/travel/dialogue.yaml says. Raises DomainError."""
    path = TRAVEL / "dialogue.yaml"
    body = read_yaml(path)
    if not isinstance(body, dict) or not isinstance(body.get("needs"), dict):
        raise DomainError(f"{path}: needs: expected a mapping from intents to slots")
    return DialogueNeeds(
        MappingProxyType({str(intent): tuple(names) for intent, names in body["needs"].items()}),
        tuple(map(str, body.get("remarks", ()))),
        tuple(map(str, body.get("suggests", ()))),
    )


class Dialogue:
    """Reads turns. `on_correction` gets every correction of an intent; whether it may be kept is the caller's business."""

    def __init__(
        self,
        reader: SlotReader | None = None,
        needs: DialogueNeeds | None = None,
        *,
        on_correction: Callable[[Correction], None] | None = None,
    ) -> None:
        self._reader = reader or SlotReader()
        self._needs = needs or travel_needs()
        self._on_correction = on_correction

    def step(
        self,
        state: DialogueState,
        text: str,
        today: date,
        *,
        recognition: Recognition | None = None,
        language: str = "en",
    ) -> Turn:
        """The turn that `text` makes. `language` is the user's own, for a first text that does not show its own.

        Raises TextError for what is no text or too long, InputError for what is no state.
        """
        if not isinstance(state, DialogueState):
            raise InputError(f"expected a DialogueState, got {type(state).__name__}")
        read = self._reader.read(text, today, language=state.language or language)
        turn = TurnReader(state, read, self._needs, today, recognition, self._reader.gazetteer).turn()
        after = turn.state
        if turn.act not in ("undo", "why", "remark", "unclear"):
            after = replace(after, before=_shortened(state))
        if turn.act not in ("why", "remark"):
            after = replace(after, last_text=text[:500])
        turn = replace(turn, state=replace(after, asked=turn.question, language=read.language))
        if turn.correction is not None and self._on_correction is not None:
            self._on_correction(turn.correction)
        return turn


def _shortened(state: DialogueState) -> DialogueState:
    """The state with a history of limited length."""
    chain: list[DialogueState] = []
    here: DialogueState | None = state
    while here is not None and len(chain) < MOST_UNDONE:
        chain.append(here)
        here = here.before
    shortened: DialogueState | None = None
    for link in reversed(chain):
        shortened = replace(link, before=shortened)
    return shortened or state
