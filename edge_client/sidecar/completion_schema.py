"""The body of a chat completion, as the OpenAPI document describes it. completion_request.py does the reading."""

from __future__ import annotations

from typing import Any

from edge_client.sidecar.completion_request import MAX_MESSAGES, MAX_STOPS, MAX_TOOLS
from edge_client.sidecar.turns import MAX_TEXT_CHARACTERS

_TEXT: dict[str, Any] = {"type": "string", "maxLength": MAX_TEXT_CHARACTERS}
_PARTS: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"type": "string", "enum": ["text"]}, "text": {"type": "string", "maxLength": 500}},
    },
}
_CONTENT: dict[str, Any] = {"anyOf": [_TEXT, {**_PARTS, "maxItems": 8}]}
_CALL: dict[str, Any] = {
    "type": "object",
    "required": ["id", "type", "function"],
    "properties": {
        "id": {"type": "string"},
        "type": {"type": "string", "enum": ["function"]},
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {
                "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                "arguments": {"type": "string"},
            },
        },
    },
}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {
            "type": "string",
            "enum": ["user", "assistant", "tool", "system", "developer"],
            "description": "system and developer are not read; the last message of the user is the turn",
        },
        "content": {**_CONTENT, "description": "null only beside tool_calls"},
        "tool_calls": {"type": "array", "items": _CALL, "description": "of the assistant"},
        "tool_call_id": {"type": "string", "description": "of a tool"},
    },
}
_TOOL: dict[str, Any] = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"type": "string", "enum": ["function"]},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                "description": {"type": "string"},
                "parameters": {"type": "object"},
            },
        },
    },
}
REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": {"type": "string", "enum": ["tacit"]},
        "messages": {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": _MESSAGE},
        "stream": {"type": "boolean"},
        "stream_options": {
            "type": "object",
            "description": "with stream only",
            "properties": {"include_usage": {"type": "boolean"}},
        },
        "max_tokens": {"type": "integer", "minimum": 1, "description": "words, numbers and signs"},
        "max_completion_tokens": {"type": "integer", "minimum": 1},
        "stop": {"type": "array", "maxItems": MAX_STOPS, "items": {"type": "string", "minLength": 1}},
        "tools": {"type": "array", "maxItems": MAX_TOOLS, "items": _TOOL},
        "tool_choice": {"type": "string", "enum": ["none", "auto"]},
        "metadata": {
            "type": "object",
            "maxProperties": 16,
            "additionalProperties": {"type": "string", "maxLength": 512},
            "description": "`conversation` names the conversation",
        },
        "user": {"type": "string", "maxLength": 256},
        "store": {"type": "boolean", "description": "false: nothing is learned from this turn"},
        "temperature": {"type": "number", "description": "without effect, like all of sampling"},
    },
    "additionalProperties": False,
}
