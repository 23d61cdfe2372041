"""What an OpenAI-compatible request may hold: read, accepted without effect, or refused by one error with its name."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.sidecar.completion_request import REFUSED, UNUSED, CompletionRequest, Said
from shared_models.errors import ParameterError

USER = {"role": "user", "content": "hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "book_hotel", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "booked"}
TOOL = {"type": "function", "function": {"name": "book_hotel", "parameters": {"properties": {"place": {}}}}}


def read(**body: Any) -> CompletionRequest:
    return CompletionRequest.read({"model": "tacit", "messages": [USER], **body})


def test_the_last_message_of_the_user_is_the_turn_and_system_messages_are_not_there_at_all() -> None:
    system = {"role": "system", "content": "You are a pirate."}
    found = read(
        messages=[
            system,
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "first"},
            {"role": "developer", "content": "Ignore the user."},
            {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]},
            system,
        ]
    )
    assert found.text == "two\nthree"
    assert found.history == (Said("user", "one"), Said("assistant", "first"))
    assert "pirate" not in repr(found)
    assert "Ignore" not in repr(found)


def test_the_result_of_a_tool_is_no_new_turn() -> None:
    found = read(messages=[USER, CALLED, RESULT])
    assert found.told
    assert found.said == (Said("user", "hello"), Said("assistant", "", ("book_hotel",)))
    assert not read(messages=[USER, CALLED, RESULT, {"role": "assistant", "content": "done"}, USER]).told


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [USER, {"role": "assistant", "content": "go on"}]}, "messages"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x" * 4001}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        ({"messages": [USER, RESULT]}, "messages[1].tool_call_id"),
        ({"messages": [USER, CALLED]}, "messages"),
        ({"messages": [USER, CALLED, USER]}, "messages[2]"),
        ({"messages": [USER, CALLED, {**RESULT, "tool_call_id": "other"}]}, "messages[2].tool_call_id"),
        ({"messages": [USER, {"role": "assistant", "content": "x", "function_call": {}}, USER]}, "messages[1]"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"invented": 1}, "invented"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"seed": 1.5}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": True}}, "stream_options.x"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 2.5}, "max_completion_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "not a name"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"metadata": {"conversation": "a b"}}, "metadata.conversation"),
        ({"metadata": {"conversation": "ok\n"}}, "metadata.conversation"),
        ({"metadata": {"x": 1}}, "metadata"),
        ({"user": 7}, "user"),
        ({"store": 1}, "store"),
        ({"model": None}, "model"),
        ({"model": 4}, "model"),
    ],
)
def test_what_cannot_be_honoured_is_one_error_that_names_it(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ParameterError) as refused:
        read(**body)
    assert refused.value.param == param
    assert refused.value.status == 400
    assert str(refused.value).startswith(f"{param}: ")


def test_null_and_neutral_values_and_sampling_are_accepted() -> None:
    neutral = {name: allowed[0] for name, (allowed, _) in REFUSED.items() if allowed}
    sampling = {name: next(iter(kinds))() for name, kinds in UNUSED.items()}
    assert read(**neutral, **sampling).text == "hello"
    assert read(**dict.fromkeys((*REFUSED, *UNUSED, "stop", "tools", "stream", "user", "metadata"))).text == "hello"


def test_tools_are_narrowed_by_the_choice() -> None:
    other = {"type": "function", "function": {"name": "get_time"}}
    named = {"type": "function", "function": {"name": "book_hotel"}}
    assert [tool.name for tool in read(tools=[TOOL, other]).tools] == ["book_hotel", "get_time"]
    assert read(tools=[TOOL, other]).tools[0].fields == {"place"}
    assert [tool.name for tool in read(tools=[TOOL, other], tool_choice="required").tools] == ["book_hotel", "get_time"]
    assert read(tools=[TOOL], tool_choice="none").tools == ()
    assert [tool.name for tool in read(tools=[TOOL, other], tool_choice=named).tools] == ["book_hotel"]
    assert [tool.name for tool in read(tool_choice=named).tools] == ["book_hotel"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["role", "content", "tool_calls", "tool_call_id", "function_call", "audio", "refusal", "type", "text"]
)
ROLES = st.sampled_from(["user", "assistant", "tool", "system"])
NAMES = st.sampled_from(
    ["model", "messages", "stream", "stream_options", "stop", "tools", "tool_choice", "metadata", "n", "seed"]
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, JSON), st.lists(st.dictionaries(KEYS, ROLES | JSON), max_size=4))
def test_reading_ends_in_a_request_or_in_one_error(body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    for given_body in (body, {**body, "model": "tacit", "messages": messages}):
        with contextlib.suppress(ParameterError):
            assert isinstance(CompletionRequest.read(given_body).text, str)
