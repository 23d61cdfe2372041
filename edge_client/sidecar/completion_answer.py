"""A reply as OpenAI's clients read it: a completion, or its chunks, with usage; and what they know no field for, under `tacit`.

Pure. Tokens are words, numbers and signs (shared_models/languages/tokens.py): the assistant is not billed, and has no other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edge_client.answer.respond import Reply
from edge_client.sidecar.completion_request import CompletionRequest, Said
from shared_models.languages.tokens import tokenize

DONE = "data: [DONE]\n\n"
WORDS_PER_CHUNK = 4


@dataclass(frozen=True)
class Answer:
    """One turn's answer, as it goes out."""

    identity: str
    created_s: int
    model: str
    fingerprint: str
    text: str
    call: Mapping[str, Any] | None
    """The tool call in place of the text, if there is one."""
    finish: Literal["stop", "length", "tool_calls"]
    usage: Mapping[str, Any]
    extension: Mapping[str, Any]

    @property
    def said(self) -> Said:
        """As the client will send it back."""
        if self.call is not None:
            return Said("assistant", "", (str(self.call["function"]["name"]),))
        return Said("assistant", self.text)

    def completion(self) -> dict[str, Any]:
        """The whole answer at once."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        if self.call is not None:
            message |= {"content": None, "tool_calls": [dict(self.call)]}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": dict(self.usage),
            "tacit": dict(self.extension),
        }

    def events(self, include_usage: bool) -> Iterator[str]:
        """The same in server-sent events. `tacit` comes with the chunk that tells why it ends."""
        start: dict[str, Any] = {"role": "assistant", "content": None if self.call else "", "refusal": None}
        yield self._event(start, None, include_usage)
        if self.call is not None:
            yield self._event({"tool_calls": [{"index": 0, **self.call}]}, None, include_usage)
        else:
            for piece in pieces(self.text):
                yield self._event({"content": piece}, None, include_usage)
        yield self._event({}, self.finish, include_usage, tacit=dict(self.extension))
        if include_usage:
            yield _data({**self._head("chat.completion.chunk"), "choices": [], "usage": dict(self.usage)})
        yield DONE

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _event(self, delta: Mapping[str, Any], finish: str | None, include_usage: bool, **more: Any) -> str:
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if include_usage else {}
        return _data({**self._head("chat.completion.chunk"), "choices": [choice], **usage, **more})


def extension_of(reply: Reply, labels: Mapping[str, str], conversation: str) -> dict[str, Any]:
    """What OpenAI's answer has no field for."""
    return {
        "conversation": conversation,
        "action": reply.action,
        "intent": reply.intent,
        "confidence": reply.confidence,
        "reasons": list(reply.reasons),
        "rule_ids": list(reply.rule_ids),
        "choices": [{"intent": name, "label": labels.get(name, name)} for name in reply.choices],
        "question": reply.question,
        "slots": dict(reply.slots),
        "language": reply.language,
        "decision_id": reply.decision_id,
        "suggestions": [asdict(card) for card in reply.suggestions],
    }


def shortened(text: str, stops: tuple[str, ...], most_tokens: int | None) -> tuple[str, Literal["stop", "length"]]:
    """The text up to the first stop word (which is left out), and of that at most so many tokens; and why it ends there."""
    ends = [found for stop in stops if (found := text.find(stop)) >= 0]
    text = text[: min(ends, default=len(text))]
    if most_tokens is not None and len(tokens := tokenize(text)) > most_tokens:
        return text[: tokens[most_tokens - 1].end], "length"
    return text, "stop"


def usage_of(request: CompletionRequest, reread: int, answer: str) -> dict[str, Any]:
    """Tokens of what the user has said, of that what was not read again, and of the answer.

    Messages of other roles are not read and not counted. `reread`: how many earlier messages of the user were read again.
    """
    texts = [_count(said.text) for said in request.said if said.role == "user"]
    now = reread + (not request.told)
    known, read = sum(texts[: len(texts) - now]), sum(texts)
    written = _count(answer)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": known},
    }


def pieces(text: str) -> Iterator[str]:
    """The text in a few words at a time; joined they are the text."""
    start = 0
    for token in tokenize(text)[WORDS_PER_CHUNK::WORDS_PER_CHUNK]:
        yield text[start : token.start]
        start = token.start
    if text[start:]:
        yield text[start:]


def _count(text: str) -> int:
    return len(tokenize(text))


def _data(document: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(document, allow_nan=False)}\n\n"
