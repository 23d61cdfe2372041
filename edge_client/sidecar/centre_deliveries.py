"""The privacy centre's page about what the assistant says by itself: its values, and stop, restore, quiet hours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_client.sidecar.centre_view import STATE_WORDS, spoken_time
from shared_models.errors import CaptureError, ConfigError
from shared_models.purposes import PERSONALISATION

if TYPE_CHECKING:
    from edge_client.client import EdgeClient

MOST_SAID = 50
TOPIC_WORDS = {
    "still_thinking": "Whether you still think about a trip",
    "weather_before_trip": "The weather before a trip",
    "how_was_it": "How a trip was",
}
CHANNEL_WORDS = {"chat": "In the chat", "card": "As a card in an app", "notification": "As a notification"}
SCOPE_WORDS = {
    "all": "Everything",
    **TOPIC_WORDS,
    **{f"channel/{channel}": words for channel, words in CHANNEL_WORDS.items()},
}
"""What can be stopped -> in plain words."""
OUTCOME_WORDS = {
    "": "no answer yet",
    "opened": "you opened it",
    "acted": "you did something with it",
    "dismissed": "you waved it away",
    "ignored": "you did not answer",
    "disabled": "you switched it off",
    "lost": "it may never have been shown",
}


def unasked_page(client: EdgeClient) -> dict[str, Any]:
    """All that is kept about it, in plain words."""
    document, state = client.delivery.document(), client.consent.state(PERSONALISATION.name)
    stopped = document["stopped"]
    levels = document["history"].get("levels") or {}
    return {
        "purpose": PERSONALISATION.title,
        "state": {
            "granted": "It may come back to something by itself.",
            "objected": "You object to profiling: it says only what you asked for.",
        }.get(state, f"It says nothing by itself. {PERSONALISATION.title}: {STATE_WORDS.get(state, state)}."),
        "on": state == "granted" and "all" not in stopped,
        "pending": [
            {
                "about": TOPIC_WORDS.get(plan["topic"], plan["topic"]),
                "place": plan["place"].replace("_", " "),
                "days": " to ".join(plan["facts"][day] for day in ("first", "last") if day in plan["facts"]),
                "due": spoken_time(plan["due_s"]),
                "expires": spoken_time(plan["expires_s"]),
                "asked_for": plan["asked_for"],
            }
            for plan in document["pending"]
        ],
        "said": [
            {
                **{name: said[name] for name in ("title", "text", "why", "language")},
                "when": spoken_time(said["at_s"]),
                "channel": CHANNEL_WORDS.get(said["channel"], said["channel"]),
                "outcome": OUTCOME_WORDS.get(said["outcome"], said["outcome"]),
            }
            for said in sorted(document["delivered"], key=lambda said: -said["at_s"])[:MOST_SAID]
        ],
        "scopes": [
            {"name": name, "words": words, "stopped": name in stopped, "silent": name in stopped or "all" in stopped}
            for name, words in SCOPE_WORDS.items()
        ],
        "quiet": ", ".join(document["quiet_hours"]),
        "quiet_by_user": document["quiet_hours_by_user"],
        "hours_known": len(document["learned_hours"].get("hours") or {}),
        "waits_longer": [words for name, words in TOPIC_WORDS.items() if levels.get(f"topic/{name}", 0.0) > 0.0],
        "counts": {name: number for name, number in client.delivery.quality().items() if number},
    }


def change_stop(client: EdgeClient, form: Mapping[str, str]) -> None:
    """Stop or restore one of SCOPE_WORDS. Raises InputError, StoreWriteError."""
    if form.get("to") == "on":
        client.delivery.restore(form.get("what", ""))
    else:
        client.delivery.stop(form.get("what", ""))


def change_quiet(client: EdgeClient, form: Mapping[str, str]) -> None:
    """Keep the quiet hours that were typed, or those of `how`: `none`, `night`. Raises CaptureError, StoreWriteError."""
    how, typed = form.get("how", ""), re.findall(r"[^\s,;]+", form.get("hours", ""))
    try:
        if how == "night":
            client.delivery.set_quiet_hours(None)
        elif how == "none":
            client.delivery.set_quiet_hours([])
        elif typed:
            client.delivery.set_quiet_hours(typed)
        else:
            raise ConfigError("which hours? Such as 22:00-07:00, or several with commas between them")
    except ConfigError as error:
        raise CaptureError({"hours": str(error)}) from error
