"""The scripted conversations of tests/data/conversations, and what a conversation has reached in the words of their goals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from edge_client.understand.state import DialogueState
from shared_models.languages import LANGUAGES

FOLDER = Path(__file__).parents[1] / "data" / "conversations"
SCRIPTS = [
    (code, script)
    for code in LANGUAGES
    for script in yaml.safe_load((FOLDER / f"{code}.yaml").read_text(encoding="utf-8"))
]


def reached(state: DialogueState) -> dict[str, Any]:
    """The state in the words of a goal."""
    dates, origin, party = state.dates, state.value("origin"), state.party
    return {
        "intent": state.intent,
        "place": state.place.names[0] if state.place else None,
        "country": state.place.country if state.place else None,
        "origin": origin.names[0] if origin else None,
        "dates": f"{dates.start}/{dates.end}" if dates else None,
        "duration": state.value("duration"),
        "budget": state.budget.high if state.budget else None,
        "adults": party.adults if party else None,
        "children": party.children if party else None,
        "interests": sorted(state.interests),
        "refused_interests": sorted(state.refused_interests),
        "refused_places": [place.names[0] for place in state.refused_places],
        "chosen": state.chosen.name if state.chosen else None,
        "open": sorted(state.open),
    }
