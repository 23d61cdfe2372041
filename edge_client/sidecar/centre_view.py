"""What the pages of the privacy centre say, as plain values for the templates. Reads the rooms; changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edge_client.account import language_model_document, shared_document
from shared_models.purposes import PURPOSES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_client.client import EdgeClient

MOST_DECISIONS = 50
MOST_RECEIPTS = 200

SOURCES = {
    "declared": "you said so",
    "correction": "you corrected it",
    "observed": "seen in what you did in the app",
    "inferred": "worked out from what you did",
    "context": "read from this device",
    "connector": "from a service that you use",
}
KIND_WORDS = {"behavioural": "Behaviour", "contextual": "Situation", "demographic": "About you"}
STATE_WORDS = {
    "granted": "On",
    "off": "Off",
    "unasked": "Off",
    "stale": "Off: its wording has changed, please decide again",
    "restricted": "Paused: nothing is erased, nothing is used",
    "objected": "Not used: you object to profiling",
}


def known_page(client: EdgeClient) -> dict[str, Any]:
    """What is known, and from where."""
    document = client.profile.document()["attributes"]
    attributes = [
        {
            "name": name,
            "label": name.replace("_", " "),
            "shown": spoken_value(entry["value"]),
            "typed": typed_value(entry["value"]),
            "unit": "" if str(entry.get("unit", "")) == "1" else str(entry.get("unit", "")),
            "kind": KIND_WORDS.get(str(entry.get("kind")), str(entry.get("kind"))),
            "source": SOURCES.get(str(entry.get("source")), str(entry.get("source", "not known any more"))),
            "provenance": str(entry.get("provenance", "")),
            "when": spoken_time(entry.get("at_s")),
            "certainty": f"{float(entry.get('confidence', 1.0)):.0%}",
            "corrected": bool(entry.get("corrected")),
            "keeps_days": entry.get("retention_days"),
            "overruled": [
                {
                    "shown": spoken_value(former["value"]),
                    "source": SOURCES.get(str(former["source"]), str(former["source"])),
                    "when": spoken_time(former["at_s"]),
                }
                for former in entry.get("overruled", ())
            ],
        }
        for name, entry in document.items()
    ]
    inspected = client.inspect()
    return {
        "attributes": attributes,
        "addable": [name for name in client.schema.attributes if name not in document],
        "events": event_counts(client),
        "examples": inspected["examples"],
        "own_intents": inspected["own_intents"],
        "nights": nights(client),
    }


def nights(client: EdgeClient) -> dict[str, Any]:
    """When the last night was, and what the nights have learned of the user's words (`head`; None if nothing is in use)."""
    kept = client.improvement.document()
    head, last = kept["personal_head"]["in_force"], kept["last_night"]
    measured = None if head is None else head["measured"]
    return {
        "last": "" if last is None else spoken_time(last["at_s"]),
        "head": None
        if measured is None
        else {
            "when": spoken_time(head["at_s"]),
            "learned": measured["learned"],
            "held_out": measured["held_out"],
            "before": measured["before"]["own"],
            "after": measured["after"]["own"],
        },
    }


def event_counts(client: EdgeClient) -> list[dict[str, Any]]:
    """Kept events: how many of each name, and when the last one was."""
    counts: dict[str, dict[str, Any]] = {}
    for event in client.capture.events():
        entry = counts.setdefault(str(event.name), {"name": str(event.name), "number": 0, "last_s": 0.0})
        entry["number"] += 1
        entry["last_s"] = max(entry["last_s"], float(event.at_s))
    return [
        {**entry, "when": spoken_time(entry["last_s"])}
        for entry in sorted(counts.values(), key=lambda entry: -int(entry["number"]))
    ]


_TOLD = {
    "words": "what you write",
    "reasons": "with your consent to suggestions, reasons that tell something about you",
}


def language_model(client: EdgeClient) -> dict[str, Any] | None:
    """The language model that rewords answers, in words; None if there is none."""
    document = language_model_document(client)
    if document is None:
        return None
    description = str(document["description"])
    told = "; ".join(_TOLD[share] for share in document["may_see"]) or "no more"
    return {**document, "description": description[0].upper() + description[1:], "told": told}


def consents_page(client: EdgeClient) -> dict[str, Any]:
    """The switches, in the order in which a user is asked."""
    document = client.consent.document()
    model = language_model(client)
    elsewhere = model is not None and not model["stays_here"]
    switches = [
        {
            "name": name,
            "title": purpose.title,
            "description": purpose.description,
            "on": document[name]["state"] == "granted",
            "given": client.consent.given_since(name) is not None,
            "state": document[name]["state"],
            "words": STATE_WORDS.get(document[name]["state"], document[name]["state"]),
            "since": spoken_time(document[name]["since_s"]),
            "restricted": document[name]["state"] == "restricted",
        }
        for name, purpose in PURPOSES.items()
        if not purpose.needs_remote_model or elsewhere or client.consent.was_asked(name)
    ]
    receipts = [
        {
            "number": receipt.number,
            "when": spoken_time(receipt.at_s),
            "action": receipt.action,
            "title": PURPOSES[receipt.purpose].title if receipt.purpose in PURPOSES else receipt.purpose,
            "notice": f"version {receipt.notice_version}",
        }
        for receipt in reversed(client.consent.receipts())
    ]
    return {
        "switches": switches,
        "objects": client.consent.objects_to_profiling,
        "changes": receipts[:MOST_RECEIPTS],
        "language_model": model,
    }


def left_page(client: EdgeClient, is_accounted: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    """What left, what it cost, and whether it was proven to be accounted."""
    shared = shared_document(client)
    receipts = [
        {
            "round": receipt["body"]["round_id"],
            "when": spoken_time(receipt.get("time_s", receipt["body"].get("time_s"))),
            "what": str(receipt["body"]["contribution"]).replace("_", " "),
            "title": PURPOSES[receipt["body"]["purpose"]].title
            if receipt["body"]["purpose"] in PURPOSES
            else receipt["body"]["purpose"],
            "rho": f"{receipt['body']['rho']:.4g}",
            "note": receipt["body"].get("note", ""),
            "accounted": is_accounted(receipt),
        }
        for receipt in reversed(shared["receipts"])
    ]
    return {
        "receipts": receipts[:MOST_RECEIPTS],
        "rho_total": f"{sum(float(receipt['body']['rho']) for receipt in shared['receipts']):.4g}",
        "budget": None
        if shared["epsilon_spent"] is None
        else {
            name: f"{shared[name]:.3g}"
            for name in ("epsilon_spent", "epsilon_limit", "rho_spent", "rho_limit", "delta")
        },
        "problem": shared["problem"],
        "language_model": language_model(client),
    }


def decisions_page(client: EdgeClient) -> dict[str, Any]:
    """Recent decisions and why."""
    return {
        "decisions": [
            {
                "when": spoken_time(entry["at_s"]),
                "kind": entry["kind"],
                "chosen": str(entry["chosen"]).replace("_", " "),
                "reasons": entry["reasons"],
                "context": [f"{name}: {spoken_value(value)}" for name, value in entry["context"].items()],
            }
            for entry in client.decisions.recent(MOST_DECISIONS)
        ]
    }


def spoken_value(value: Any) -> str:
    """A value in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(spoken_value(item) for item in value) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {spoken_value(item)}" for name, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def typed_value(value: Any) -> str:
    """The same as a user would type it into a field."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def read_typed(text: str) -> Any:
    """What a user typed into a field: JSON where it is JSON, a list where it has the form of one, else the text itself."""
    clean = text.strip()
    if clean.casefold() in ("yes", "no"):
        return clean.casefold() == "yes"
    try:
        return json.loads(clean)
    except (ValueError, RecursionError):
        return clean


def spoken_time(unix_s: Any) -> str:
    """Date and time in UTC; empty for none."""
    if not isinstance(unix_s, int | float) or not unix_s:
        return ""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return "an unknown time"
