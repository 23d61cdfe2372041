"""One turn of a conversation, whichever API it comes through: taken by the device's client, and told to the stream."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edge_client.sidecar.stream import DECISION, Hub

if TYPE_CHECKING:
    from edge_client.answer.respond import Reply
    from edge_client.client import EdgeClient

MAX_TEXT_CHARACTERS = 4000
CONVERSATION = "main"
"""Of callers that name none."""
CONVERSATION_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$"
_CONVERSATION = re.compile(CONVERSATION_PATTERN[1:-1])
_TOLD = ("action", "intent", "confidence", "reasons", "rule_ids", "decision_id")


def is_conversation(name: str) -> bool:
    """Whether callers may name a conversation so."""
    return _CONVERSATION.fullmatch(name) is not None


class Turns:
    """Blocking: call it in a worker thread. Conversations are named by the client's names here, not by those of callers."""

    def __init__(self, client: EdgeClient, hub: Hub) -> None:
        self._client, self._hub = client, hub

    def take(self, text: str, conversation: str, *, learns: bool = True) -> Reply:
        """The user says `text`. Raises TextError, ModelError, BundleError."""
        if not learns:
            return self.reread(text, conversation, shown=True)
        since = self._hub.generation
        reply = self._client.respond(text, conversation=conversation)
        document = reply.document()
        told = {name: document[name] for name in _TOLD}
        told["suggestions"] = [card.id for card in reply.suggestions]
        self._hub.publish(DECISION, told, since=since, to=conversation.partition("/")[0])
        return reply

    def reread(self, text: str, conversation: str, *, shown: bool = False) -> Reply:
        """The same without learning from it, and without telling anybody: it was said, and counted, before. A local model may
        reword the answer if it is `shown` to the user."""
        return self._client.respond(text, conversation=conversation, learn=False, shown=shown)

    def restart(self, conversation: str, earlier: Iterable[str] = ()) -> None:
        """Begin anew, as if the user had just said `earlier`. What is too long to have been a turn is passed over."""
        self._client.new_conversation(conversation)
        for text in earlier:
            if len(text) <= MAX_TEXT_CHARACTERS:
                self.reread(text, conversation)
