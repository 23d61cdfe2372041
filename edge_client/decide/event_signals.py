"""What captured events say about taste: which event of an app names an item, and what it is worth as a signal.

Pure. Events of the profile's schema and of the travel domain's; what names no item of the catalogue says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_client.decide.preference import Signal
from edge_client.know.events import Event
from shared_models.errors import SignalError

KINDS: Mapping[str, str] = {
    "destination_viewed": "look",
    "product_viewed": "look",
    "offer_viewed": "click",
    "product_clicked": "click",
    "hotel_searched": "click",
    "flight_searched": "click",
    "booking_started": "save",
    "product_added": "save",
    "product_added_to_wishlist": "save",
    "product_removed": "dismiss",
    "booking_completed": "chosen",
    "booking_cancelled": "dismiss",
    "suggestion_accepted": "chosen",
    "suggestion_dismissed": "dismiss",
    "suggestion_skipped": "skip",
}
"""Name of a track event -> kind of signal."""
_NAMES_ITEM = ("item", "destination", "product_id", "subject")
_DWELL = ("dwell_s", "dwell", "seconds")
_VERDICTS: Mapping[str, str] = {"accepted": "like", "rejected": "dislike", "ignored": "skip"}
MAX_RATING = 5.0
VERDICTS_OF: Mapping[str, str] = {"chosen": "chosen", "like": "up", "dislike": "down", "dismiss": "dismissed"}
"""Kind of signal -> what it means for a suggestion that waits for its reward."""


def signal_of(event: Event, item_named: Callable[[str], str | None]) -> Signal | None:
    """The signal of one event, if it is one. `item_named`: a name or an id as the app wrote it -> the item's id or None."""
    properties = event.properties
    item = next((found for name in _NAMES_ITEM if (found := _item(properties.get(name), item_named))), None)
    if item is None:
        return None
    try:
        if event.name == "feedback":
            rating = properties.get("rating")
            if isinstance(rating, int | float) and not isinstance(rating, bool) and 0.0 <= rating <= MAX_RATING:
                # Stars: 1 is the worst, 3 says nothing, 5 is the best.
                return Signal(item, "rating", event.at_s, value=min(max((float(rating) - 3.0) / 2.0, -1.0), 1.0))
            kind = _VERDICTS.get(str(properties.get("verdict")))
            return None if kind is None else Signal(item, kind, event.at_s)
        kind = KINDS.get(event.name)
        if kind is None:
            return None
        return Signal(item, kind, event.at_s, dwell_s=_dwell(properties) if kind == "look" else None)
    except SignalError:
        return None


def names_of_events() -> tuple[str, ...]:
    """Every event that may be a signal."""
    return (*KINDS, "feedback")


def _item(value: Any, item_named: Callable[[str], str | None]) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("name")
    return item_named(value) if isinstance(value, str) and 0 < len(value) <= 100 else None


def _dwell(properties: Mapping[str, Any]) -> float | None:
    for name in _DWELL:
        value = properties.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return float(value)
    return None
