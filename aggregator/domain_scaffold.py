"""A small domain to start from: `tacit-fleet domain new DIR`. It passes its own lint and builds as it is."""

from __future__ import annotations

from pathlib import Path

import yaml

from shared_models.errors import DomainError

_INTENTS = {
    "find_item": (
        "The user looks for something in the app.",
        "find something",
        [
            "Find running shoes",
            "Search for a blue jacket",
            "Show me desk lamps",
            "I am looking for a birthday present",
            "Do you have garden chairs",
            "Where can I see your backpacks",
            "List all kitchen knives",
            "I need new headphones",
            "Look up the red umbrella",
            "What tents are in the catalogue",
        ],
        ["I will look that up. Any colour, size or price that I should keep to?"],
    ),
    "track_order": (
        "The user asks where an order is.",
        "track an order",
        [
            "Where is my order",
            "Track my parcel",
            "When will the delivery arrive",
            "Has my package been shipped",
            "Show the status of my last purchase",
            "Is the courier on the way",
            "My order should be here by now",
            "Check the shipping progress",
            "How long does it take until it gets here",
            "Tell me the tracking number",
        ],
        ["I will check the delivery. Which order do you mean?"],
    ),
    "return_item": (
        "The user wants to give something back.",
        "return an item",
        [
            "I want to return this",
            "How do I send an item back",
            "The shirt does not fit me",
            "Start a return for my order",
            "Can I exchange it for a larger size",
            "It arrived broken",
            "I would like my money back",
            "Print a return label",
            "Until which day may I give it back",
            "This is not what I ordered",
        ],
        ["I can prepare a return. Which item is it, and what is wrong with it?"],
    ),
}

_DOCUMENTS = {
    "domain.yaml": {
        "domain": "shop",
        "title": "Shop assistant",
        "language": "en",
        "labels": {name: label for name, (_, label, _, _) in _INTENTS.items()},
        "places": [],
    },
    "templates.yaml": {
        **{name: replies for name, (_, _, _, replies) in _INTENTS.items()},
        "out_of_scope": ["That is not something I can do here. I can find items, track orders and prepare returns."],
        "unsure": ["Did you mean {first} or {second}?"],
    },
    "rules.yaml": {
        "rules": [
            {
                "id": "returns-by-hand",
                "kind": "reply",
                "intents": ["return_item"],
                "reason": "returns are handled by people until the new year",
                "reply": "A colleague prepares your return by hand. Which item is it?",
            }
        ]
    },
    "out_of_scope.yaml": {
        "calibration": [
            "Who won the match yesterday",
            "Write a poem about the sea",
            "Turn off the bedroom light",
            "What is the square root of two",
            "How do I grow tomatoes",
        ],
        "test": ["Play some jazz", "Who painted this ceiling"],
    },
}


def write_scaffold(folder: Path) -> None:
    """Write the domain into `folder`, which must be new or empty. Raises DomainError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DomainError(f"{folder}: exists and is not empty")
    try:
        (folder / "intents").mkdir(parents=True)
        for name, (description, _, seeds, _) in _INTENTS.items():
            _write(folder / "intents" / f"{name}.yaml", {"intent": name, "description": description, "seeds": seeds})
        for name, document in _DOCUMENTS.items():
            _write(folder / name, document)
    except OSError as error:
        raise DomainError(f"{folder}: cannot be written: {error}") from error


def _write(path: Path, document: object) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
