"""The assistant on the user's device. `from edge_client import EdgeClient` is the front door; it loads when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_client.answer.feedback import FeedbackResult
    from edge_client.answer.respond import Reply
    from edge_client.async_client import AsyncEdgeClient
    from edge_client.client import EdgeClient
    from edge_client.config import EdgeConfig
    from shared_models import errors
    from shared_models.intents import Alternative, Recognition

_HOMES = {
    "Alternative": "shared_models.intents",
    "AsyncEdgeClient": "edge_client.async_client",
    "EdgeClient": "edge_client.client",
    "EdgeConfig": "edge_client.config",
    "FeedbackResult": "edge_client.answer.feedback",
    "Recognition": "shared_models.intents",
    "Reply": "edge_client.answer.respond",
}

__all__ = [
    "Alternative",
    "AsyncEdgeClient",
    "EdgeClient",
    "EdgeConfig",
    "FeedbackResult",
    "Recognition",
    "Reply",
    "errors",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("shared_models.errors")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edge_client' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
