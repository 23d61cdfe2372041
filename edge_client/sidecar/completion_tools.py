"""Intents as tools of the OpenAI-compatible chat. The arguments of a call are understand/slot_values.py."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edge_client.sidecar.completion_request import Tool

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLACE = {"type": "string", "description": "its name"}
_INTERESTS = {"type": "array", "items": {"type": "string"}}
ARGUMENTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "place": {**_PLACE, "description": "where to"},
        "origin": {**_PLACE, "description": "where from"},
        "dates": {
            "type": "object",
            "required": ["start", "end"],
            "properties": {
                "start": {"type": "string", "format": "date"},
                "end": {"type": "string", "format": "date", "description": "the last day"},
            },
        },
        "duration_days": {"type": "integer", "minimum": 1},
        "budget": {
            "type": "object",
            "properties": {
                "low": {"type": "number"},
                "high": {"type": "number"},
                "currency": {"type": "string", "description": "ISO 4217"},
                "per": {"type": "string", "enum": ["night", "person", "day", "total"]},
            },
        },
        "party": {
            "type": "object",
            "required": ["adults", "children"],
            "properties": {"adults": {"type": "integer"}, "children": {"type": "integer"}},
        },
        "interests": {**_INTERESTS, "description": "what for"},
        "not_places": {"type": "array", "items": _PLACE, "description": "where the user does not want to go"},
        "not_interests": {**_INTERESTS, "description": "what the user does not want"},
    },
    "additionalProperties": False,
}
"""JSON schema of the arguments. Only what the user has said is there, so nothing is required."""


def intent_tools(intents: Mapping[str, str]) -> list[dict[str, Any]]:
    """`intents` (name -> plain words) as OpenAI's tools. The user's own are among them if their names may be a function's."""
    return [
        {"type": "function", "function": {"name": name, "description": label, "parameters": ARGUMENTS}}
        for name, label in intents.items()
        if _NAME.fullmatch(name)
    ]


def call_of(tool: Tool, arguments: Mapping[str, Any], identity: str) -> dict[str, Any]:
    """One call, with those arguments only that the tool takes."""
    taken = {name: value for name, value in arguments.items() if tool.fields is None or name in tool.fields}
    return {
        "id": identity,
        "type": "function",
        "function": {"name": tool.name, "arguments": json.dumps(taken, ensure_ascii=False)},
    }
