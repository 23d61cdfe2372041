"""Which conversation a chat completion belongs to. OpenAI's clients keep no state here: each request brings the whole history.

A conversation that was named (`metadata.conversation`, or the header) is that one. Otherwise it is found by a hash of the history
that the client must send next: whoever sends exactly that goes on where it stands; anything else (an edited or cut history, a
second chat that began with the same words, a restart) starts a fresh one, for which the earlier words of the user are read again.
Hashes and the last reply are kept here, in memory, of a bounded number of conversations.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_client.giving_way import gives_way
from edge_client.sidecar.completion_request import CompletionRequest, Said

if TYPE_CHECKING:
    from edge_client.answer.respond import Reply

MOST_DIALOGUES = 24
"""Of all apps; the one that has most of them gives one up."""
MOST_REREAD = 20
"""Earlier turns that are read again; what was said before those is forgotten."""
MOST_SEEN = 1024
"""Of one app."""


@dataclass
class Dialogue:
    """One conversation of one app."""

    app: str
    public: str
    """What a client may send as `metadata.conversation` to go on with it."""
    named: bool
    user: str
    next_history: str = ""
    """Hash of the history that the client sends next."""
    reply: Reply | None = None
    """The last one, for a client that comes back with the result of a tool."""
    generation: int = 0
    """That of `Dialogues` when it began."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Of the client's conversation."""
        return f"{self.app}/chat/{self.public}"


@dataclass(frozen=True)
class Begun:
    """What to do for one request, in this order."""

    dialogue: Dialogue
    restarts: bool
    """True if the conversation has to start anew."""
    reread: tuple[str, ...]
    """Earlier texts of the user to be read again, without learning from them."""
    learns: bool
    """Whether the turn itself is new."""


class Dialogues:
    """Those of one sidecar. Thread-safe; `forget` is called with the name of each that is given up."""

    def __init__(self, forget: Callable[[str], None]) -> None:
        self._forget = forget
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Dialogue] = OrderedDict()
        self._waiting: dict[tuple[str, str, str], Dialogue] = {}
        """(app, user, hash of the next history) -> one that was not named."""
        self._seen: dict[str, OrderedDict[str, None]] = {}
        """By app: hashes of turns that were taken, each with all that was before it."""
        self._generation = 0
        """Another one after each `clear`."""

    def begin(self, app: str, request: CompletionRequest) -> Begun:
        """The conversation of `request`. Whoever takes the turn calls `end` afterwards."""
        # With a tool's result the turn was taken already: all that was said is history.
        history = history_hash(request.said if request.told else request.history)
        turn = history_hash(request.said[: request.turn + 1])
        with self._lock:
            dialogue = self._find(app, request, history)
            restarts = dialogue is None or not self._goes_on(dialogue, request, history)
            if dialogue is None:
                public = request.conversation or f"c-{secrets.token_urlsafe(9).replace('_', '-')}"
                dialogue = Dialogue(app, public, request.conversation is not None, request.user)
                dialogue.generation = self._generation
            given_up = self._keep(dialogue)
            # A first message may well be said twice; the same one after the same answers is the same turn, tried again.
            again = request.turn > 0 and f"{request.user}\n{turn}" in self._seen.get(app, ())
        for name in given_up:
            self._forget(name)
        earlier = tuple(said.text for said in request.history if said.role == "user")
        return Begun(dialogue, restarts, earlier[-MOST_REREAD:] if restarts else (), request.learns and not again)

    def end(self, dialogue: Dialogue, request: CompletionRequest, answer: Said, reply: Reply) -> None:
        """The turn was taken, and `answer` is what the client will send back as history. Cleared meanwhile, nothing is kept."""
        with self._lock:
            if dialogue.generation == self._generation:
                given_up = self._ended(dialogue, request, answer, reply)
            else:
                # Under its name another one may have begun since.
                given_up = [] if (dialogue.app, dialogue.public) in self._known else [dialogue.name]
        for name in given_up:
            self._forget(name)

    def _ended(self, dialogue: Dialogue, request: CompletionRequest, answer: Said, reply: Reply) -> list[str]:
        self._leave(dialogue)
        dialogue.reply = reply
        dialogue.next_history = history_hash((*request.said, answer))
        given_up = self._keep(dialogue)
        if not dialogue.named:
            self._waiting[dialogue.app, dialogue.user, dialogue.next_history] = dialogue
        turn = history_hash(request.said[: request.turn + 1])
        seen = self._seen.setdefault(dialogue.app, OrderedDict())
        seen[f"{dialogue.user}\n{turn}"] = None
        while len(seen) > MOST_SEEN:
            seen.popitem(last=False)
        return given_up

    def failed(self, dialogue: Dialogue) -> None:
        """The turn could not be taken: who sends the same history again finds the conversation where it stood."""
        with self._lock:
            if not dialogue.named and dialogue.next_history and (dialogue.app, dialogue.public) in self._known:
                self._waiting[dialogue.app, dialogue.user, dialogue.next_history] = dialogue

    def clear(self) -> None:
        """Give up all of them."""
        with self._lock:
            self._generation += 1
            given_up = list(self._known.values())
            for dialogue in given_up:
                dialogue.reply = None
            self._known.clear()
            self._waiting.clear()
            self._seen.clear()
        for dialogue in given_up:
            self._forget(dialogue.name)

    def __len__(self) -> int:
        with self._lock:
            return len(self._known)

    def _find(self, app: str, request: CompletionRequest, history: str) -> Dialogue | None:
        if request.conversation is not None:
            return self._known.get((app, request.conversation))
        # Taken away from there: of two chats with the same history only one can be the one that stands there.
        return self._waiting.pop((app, request.user, history), None)

    @staticmethod
    def _goes_on(dialogue: Dialogue, request: CompletionRequest, history: str) -> bool:
        if dialogue.next_history == history:
            return True
        # Who names the conversation may leave the history out.
        return request.conversation is not None and request.turn == 0 and not request.told

    def _keep(self, dialogue: Dialogue) -> list[str]:
        """Returns the names of those that had to go. They are forgotten outside the lock: the store has one of its own."""
        key = (dialogue.app, dialogue.public)
        self._known[key] = dialogue
        self._known.move_to_end(key)
        given_up = []
        while len(self._known) > MOST_DIALOGUES:
            keys = list(self._known)
            oldest = self._known.pop(keys[gives_way([app for app, _ in keys])])
            self._leave(oldest)
            given_up.append(oldest.name)
        return given_up

    def _leave(self, dialogue: Dialogue) -> None:
        place = (dialogue.app, dialogue.user, dialogue.next_history)
        if self._waiting.get(place) is dialogue:
            del self._waiting[place]


def history_hash(said: Iterable[Said]) -> str:
    """Of what user and assistant have said; white space does not count, for clients trim it."""
    digest = hashlib.sha256()
    for each in said:
        for part in (each.role, " ".join(each.text.split()), *each.calls):
            raw = part.encode("utf-8", "replace")
            digest.update(len(raw).to_bytes(4, "big") + raw)
        digest.update(b"\xff\xff\xff\xff")
    return digest.hexdigest()
