"""A request for an OpenAI-compatible chat completion: what is read of it, what is accepted and not used, and what is refused.

Pure. Whatever cannot be honoured is one ParameterError that names the parameter. Messages of the roles `system` and `developer`
end here: nothing behind this module has a place for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edge_client.sidecar.turns import CONVERSATION_PATTERN, MAX_TEXT_CHARACTERS, is_conversation
from shared_models.errors import ParameterError

MAX_MESSAGES = 2000
MAX_TOOLS = 128
MAX_STOPS = 4
CONVERSATION_KEY = "conversation"
"""In `metadata`."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")

UNUSED: Mapping[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int, float),
    "min_p": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
    "repetition_penalty": (int, float),
    "seed": (int,),
    "parallel_tool_calls": (bool,),
    "service_tier": (str,),
    "reasoning_effort": (str,),
    "verbosity": (str,),
    "safety_identifier": (str,),
    "prompt_cache_key": (str,),
    "prompt_cache_retention": (str,),
    "prompt_cache_options": (dict,),
}
"""Accepted and without effect: an answer is chosen, not sampled, and nothing is kept elsewhere."""
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "there is one answer to a turn; send 1 or leave it out"),
    "logprobs": ((False,), "answers are not sampled from token probabilities; leave it out"),
    "top_logprobs": ((0,), "answers are not sampled from token probabilities; leave it out"),
    "logit_bias": (({},), "answers are not sampled from token probabilities; leave it out"),
    "modalities": ((["text"],), "answers are text only"),
    "audio": ((), "answers are text only"),
    "response_format": (({"type": "text"},), "answers are text only, not JSON; use `tools` for structure"),
    "functions": (([],), "was replaced by `tools`"),
    "function_call": (("none", "auto"), "was replaced by `tool_choice`"),
    "prediction": ((), "there is nothing to predict; leave it out"),
    "web_search_options": ((), "nothing is fetched from anywhere"),
    "moderation": ((), "nothing is sent anywhere to be judged"),
}
"""Refused unless null or one of these values, and why."""
_READ = (
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice",
    "metadata", "user", "store",
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    """One message of the user or the assistant."""

    role: Literal["user", "assistant"]
    text: str
    calls: tuple[str, ...] = ()
    """Names of the tools that the assistant called."""


@dataclass(frozen=True)
class Tool:
    """A function that the client can carry out."""

    name: str
    fields: frozenset[str] | None = None
    """Arguments that it takes; None if it does not say."""


@dataclass(frozen=True)
class CompletionRequest:
    """One request, read."""

    model: str
    said: tuple[Said, ...]
    """Messages of user and assistant in order; the last of the user is the turn."""
    told: bool = False
    """True if the results of the assistant's tool calls are the last thing: then no new turn is taken."""
    stream: bool = False
    include_usage: bool = False
    most_tokens: int | None = None
    stops: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    """Those that may be called: already narrowed by `tool_choice`."""
    conversation: str | None = None
    user: str = ""
    learns: bool = True
    """False after `"store": false`: nothing is learned from this turn."""

    @property
    def turn(self) -> int:
        """Where in `said` the turn stands."""
        return max(index for index, said in enumerate(self.said) if said.role == "user")

    @property
    def text(self) -> str:
        return self.said[self.turn].text

    @property
    def history(self) -> tuple[Said, ...]:
        """What was said before the turn."""
        return self.said[: self.turn]

    @staticmethod
    def read(body: Mapping[str, Any], conversation: str | None = None) -> CompletionRequest:
        """From the JSON body; `conversation` is that of the header, if there is one. Raises ParameterError."""
        given = {name: value for name, value in body.items() if value is not None}
        for name in given:
            _check_known(name, given[name])
        said, told = _messages(given.get("messages"))
        stream = _typed(given, "stream", bool, False)
        limits = [_limit(given, name) for name in ("max_tokens", "max_completion_tokens") if name in given]
        metadata = _metadata(given.get("metadata", {}))
        named = metadata.get(CONVERSATION_KEY, conversation)
        if named is not None and not is_conversation(named):
            raise ParameterError(f"metadata.{CONVERSATION_KEY}", f"expected {CONVERSATION_PATTERN}")
        return CompletionRequest(
            model=_typed(given, "model", str),
            said=said,
            told=told,
            stream=stream,
            include_usage=_include_usage(given.get("stream_options"), stream),
            most_tokens=min(limits, default=None),
            stops=_stops(given.get("stop")),
            tools=_tools(given.get("tools", []), given.get("tool_choice", "auto")),
            conversation=named,
            user=_short(given, "user"),
            learns=_typed(given, "store", bool, True),
        )


def _check_known(name: str, value: Any) -> None:
    if name in UNUSED:
        wanted = UNUSED[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ParameterError(name, f"expected {wanted[-1].__name__}, got {type(value).__name__}")
    elif name in REFUSED:
        allowed, why = REFUSED[name]
        # True == 1 and False == 0 in Python, not in JSON.
        if not any(value == each and type(value) is type(each) for each in allowed):
            raise ParameterError(name, why, "unsupported_parameter")
    elif name not in _READ:
        raise ParameterError(name[:64], "there is no such parameter here; leave it out", "unknown_parameter")


def _typed(given: Mapping[str, Any], name: str, kind: type, otherwise: Any = None) -> Any:
    value = given.get(name, otherwise)
    if value is None:
        raise ParameterError(name, "is missing", "missing_required_parameter")
    if not isinstance(value, kind):
        raise ParameterError(name, f"expected {kind.__name__}, got {type(value).__name__}", "invalid_type")
    return value


def _short(given: Mapping[str, Any], name: str) -> str:
    value = str(_typed(given, name, str, ""))
    if len(value) > 256:
        raise ParameterError(name, f"has {len(value)} characters, at most 256 are accepted")
    return value


def _limit(given: Mapping[str, Any], name: str) -> int:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParameterError(name, "expected a whole number from 1")
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise ParameterError("stop", f"expected a text, or a list of up to {MAX_STOPS}, none of them empty")
    return tuple(stops)


def _include_usage(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not stream:
        raise ParameterError("stream_options", "only together with `stream: true`")
    if not isinstance(value, dict) or not all(value[name] is None or isinstance(value[name], bool) for name in value):
        raise ParameterError("stream_options", "expected an object of true and false")
    if unknown := set(value) - {"include_usage", "include_obfuscation"}:
        raise ParameterError(f"stream_options.{min(unknown)[:64]}", "there is no such option here", "unknown_parameter")
    return bool(value.get("include_usage"))


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 16:
        raise ParameterError("metadata", "expected an object of at most 16 texts")
    for name, text in value.items():
        if not isinstance(text, str) or len(text) > 512 or len(name) > 64:
            raise ParameterError("metadata", "expected keys of at most 64 and texts of at most 512 characters")
    return value


# -- messages ---------------------------------------------------------------------------------------------------------


def _messages(value: Any) -> tuple[tuple[Said, ...], bool]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise ParameterError("messages", f"expected a list of 1 to {MAX_MESSAGES} messages")
    said: list[Said] = []
    waiting: dict[str, None] = {}
    """Tool calls without a result yet."""
    told = False
    for number, message in enumerate(value):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise ParameterError(where, f"expected an object, got {type(message).__name__}")
        role = message.get("role")
        if role in ("system", "developer"):
            _text(message.get("content"), where)
            continue
        if role == "tool":
            _answer_call(message, waiting, where)
            told = True
            continue
        if waiting:
            raise ParameterError(where, "the tool calls of the message before have no results yet")
        told = False
        if role == "user":
            said.append(Said("user", _text(message.get("content"), where)))
        elif role == "assistant":
            calls = _calls(message, where)
            waiting = dict.fromkeys(identity for identity, _ in calls)
            content = message.get("content")
            if content is None and message.get("refusal") is None and not calls:
                raise ParameterError(f"{where}.content", "is missing")
            text = "" if content is None else _text(content, where)
            said.append(Said("assistant", text, tuple(name for _, name in calls)))
        else:
            raise ParameterError(
                f"{where}.role", "expected user, assistant, tool, system or developer", "unsupported_value"
            )
    if waiting:
        raise ParameterError("messages", "the last tool calls have no results yet")
    if not any(entry.role == "user" for entry in said):
        raise ParameterError("messages", "there is no message of the user's to answer")
    if said[-1].role == "assistant" and not told:
        raise ParameterError("messages", "the last message is the assistant's; there is nothing to answer")
    last = max(number for number, message in enumerate(value) if message.get("role") == "user")
    if len(turn := next(entry.text for entry in reversed(said) if entry.role == "user")) > MAX_TEXT_CHARACTERS:
        raise ParameterError(
            f"messages[{last}].content", f"has {len(turn)} characters, at most {MAX_TEXT_CHARACTERS} are read"
        )
    return tuple(said), told


def _text(content: Any, where: str) -> str:
    """A text, or a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise ParameterError(f"{where}.content", "expected a text or a list of text parts")
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        name = {"text": "text", "refusal": "refusal"}.get(kind) if isinstance(kind, str) else None
        if name is None:
            shown = kind if isinstance(kind, str) else type(part).__name__
            raise ParameterError(
                f"{where}.content[{number}]",
                f"parts of type {shown[:40]!r} are not read, only text",
                "unsupported_value",
            )
        if not isinstance(part.get(name), str):
            raise ParameterError(f"{where}.content[{number}].{name}", "expected a text")
        texts.append(part[name])
    return "\n".join(texts)


def _calls(message: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """Ids and names of an assistant message's tool calls."""
    if message.get("function_call") is not None or message.get("audio") is not None:
        raise ParameterError(where, "function_call and audio are not read; use tool_calls", "unsupported_value")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or len(calls) > MAX_TOOLS:
        raise ParameterError(f"{where}.tool_calls", f"expected a list of at most {MAX_TOOLS} calls")
    found = []
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        identity = call.get("id") if isinstance(call, dict) else None
        if not isinstance(name, str) or not _NAME.match(name) or not isinstance(identity, str):
            raise ParameterError(f"{where}.tool_calls[{number}]", "expected an id and a function with a name")
        found.append((identity, name))
    return found


def _answer_call(message: Mapping[str, Any], waiting: dict[str, None], where: str) -> None:
    _text(message.get("content"), where)
    identity = message.get("tool_call_id")
    if not isinstance(identity, str) or identity not in waiting:
        raise ParameterError(f"{where}.tool_call_id", "answers no call of the assistant's message before it")
    del waiting[identity]


# -- tools ------------------------------------------------------------------------------------------------------------


def _tools(tools: Any, choice: Any) -> tuple[Tool, ...]:
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise ParameterError("tools", f"expected a list of at most {MAX_TOOLS} functions")
    known = {tool.name: tool for tool in (_tool(entry, f"tools[{number}]") for number, entry in enumerate(tools))}
    if len(known) < len(tools):
        raise ParameterError("tools", "a name stands twice")
    if choice == "none":
        return ()
    if choice == "required" and not known:
        raise ParameterError("tool_choice", "there are no tools to choose from")
    if choice in ("auto", "required"):
        return tuple(known.values())
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not _NAME.match(name):
        raise ParameterError(
            "tool_choice", 'expected "none", "auto", "required" or one function by its name', "unsupported_value"
        )
    if known and name not in known:
        raise ParameterError("tool_choice", f"{name} is not among the tools")
    return (known.get(name, Tool(name)),)


def _tool(entry: Any, where: str) -> Tool:
    if not isinstance(entry, dict) or entry.get("type") != "function":
        raise ParameterError(where, "expected a tool of type function", "unsupported_value")
    function = entry.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not _NAME.match(name):
        raise ParameterError(f"{where}.function.name", "expected up to 64 of a-z A-Z 0-9 _ -")
    assert isinstance(function, dict)
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise ParameterError(f"{where}.function.parameters", "expected a JSON schema")
    properties = (parameters or {}).get("properties")
    return Tool(name, frozenset(properties) if isinstance(properties, dict) else None)
