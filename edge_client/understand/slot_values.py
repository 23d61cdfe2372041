"""What was understood of a trip, as plain JSON: for apps, and as the arguments of tool calls. Values only, no wording."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edge_client.understand.amounts import Budget, Party
from edge_client.understand.days import DateRange
from edge_client.understand.places import Place
from edge_client.understand.slots import Slot
from edge_client.understand.state import DialogueState
from shared_models.languages import LANGUAGES


def slot_values(slots: Iterable[Slot], language: str = "en") -> dict[str, Any]:
    """Of one text: `place`, `origin`, `dates` (`start`, `end`: the last day), `duration_days`, `budget`, `party`, `interests`,
    `not_places`, `not_interests`; only what was said is there. Of several wanted values of one kind the first counts.
    """
    found: dict[str, Any] = {}
    language = language if language in LANGUAGES else "en"
    for slot in slots:
        value = slot.value
        if isinstance(value, Place):
            if slot.negated:
                found.setdefault("not_places", []).append(value.name(language))
            elif slot.name in ("place", "origin"):
                found.setdefault(slot.name, value.name(language))
        elif slot.name == "interest":
            found.setdefault("not_interests" if slot.negated else "interests", []).append(str(value))
        elif slot.negated:
            continue
        elif isinstance(value, DateRange):
            found.setdefault("dates", {"start": value.start.isoformat(), "end": value.end.isoformat()})
        elif isinstance(value, Budget):
            amount = {"low": value.low, "high": value.high, "currency": value.currency, "per": value.per}
            found.setdefault("budget", {name: part for name, part in amount.items() if part not in (None, "")})
        elif isinstance(value, Party):
            found.setdefault("party", {"adults": value.adults, "children": value.children})
        elif slot.name == "duration" and isinstance(value, int):
            found.setdefault("duration_days", value)
    return found


def wanted_values(state: DialogueState, language: str = "en") -> dict[str, Any]:
    """The same of a conversation: what is wanted after all its turns."""
    found = slot_values(state.slots.values(), language)
    language = language if language in LANGUAGES else "en"
    named = {
        "interests": list(state.interests),
        "not_interests": list(state.refused_interests),
        "not_places": [place.name(language) for place in state.refused_places],
    }
    return {**found, **{name: values for name, values in named.items() if values}}
