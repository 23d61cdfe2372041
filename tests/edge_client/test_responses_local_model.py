"""The optional language model: real HTTP on this machine, hostile answers, and the template whenever something is wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from real_places import gazetteer, slot_reader

from edge_client.answer.facts import Reason, Suggestion
from edge_client.answer.local_model import LocalModelConfig, LocalSpeaker, build_prompt, check_output, is_loopback
from edge_client.answer.wording import Spoken, Wording
from edge_client.understand.dialogue import Dialogue
from edge_client.understand.state import DialogueState
from shared_models.errors import ConfigError, LocalModelError

TODAY = date(2026, 11, 24)
SHOWN = (
    Suggestion("a", "Casa Azul", 120, per="night", reasons=(Reason("liked", {"name": "Secret Cove"}),)),
    Suggestion("b", "Hotel Bella", 90, per="night"),
)
GOOD = "You could stay at Casa Azul for €120 a night or at Hotel Bella for €90 a night in May."


class Endpoint:
    """A chat endpoint on loopback that says what it is told to."""

    def __init__(self) -> None:
        self.answer: bytes = b""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests: list[dict[str, Any]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.requests.append({"path": self.path, "body": json.loads(body), "headers": dict(self.headers)})
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(endpoint.answer)

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def says(self, text: object) -> None:
        self.answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def spoken() -> Spoken:
    turn = Dialogue(slot_reader()).step(DialogueState(), "a hotel in Rome in May", TODAY)
    return Wording(gazetteer=gazetteer()).say(turn, TODAY, SHOWN)


def reworded(endpoint: Endpoint, spoken: Spoken, **more: Any) -> tuple[Spoken, str]:
    speaker = LocalSpeaker(LocalModelConfig(url=endpoint.url, model="small"), gazetteer=gazetteer())
    result = speaker.reword(spoken, TODAY, suggestions=SHOWN, **more)
    return result, speaker.last_refusal


def test_words_that_pass_every_check_are_spoken(endpoint: Endpoint, spoken: Spoken) -> None:
    endpoint.says(GOOD)
    result, refusal = reworded(endpoint, spoken)
    assert (result.text, result.source, refusal) == (GOOD, "local_model", "")
    assert endpoint.requests[0]["path"] == "/v1/chat/completions"
    assert "Authorization" not in endpoint.requests[0]["headers"]


@pytest.mark.parametrize(
    "text",
    [
        "", "x" * 5000, "Casa Azul costs €50 and Hotel Bella €90.", "Casa Azul for €120.", GOOD + " Hurry, only 2 rooms left!",
        GOOD + " Free cancellation guaranteed.", GOOD + " See www.evil.example.",
        "Du kannst im Casa Azul oder Hotel Bella wohnen, wir haben das für dich.",
        "**Casa Azul** and Hotel Bella", GOOD + "\u202e", GOOD + "\x00", GOOD + " Ask Gregor Samsa.", GOOD + " Or go to Paris.",
        "<b>Casa Azul</b> Hotel Bella", '{"text": "Casa Azul Hotel Bella"}', GOOD + " Casa Azul is the cheapest.",
        "Casa Azul for €90 a night, Hotel Bella for €120 a night.", GOOD + " Your profile says you like 7 things.",
    ],
)  # fmt: skip
def test_words_that_fail_a_check_give_way_to_the_template(endpoint: Endpoint, spoken: Spoken, text: str) -> None:
    endpoint.says(text)
    result, refusal = reworded(endpoint, spoken)
    assert result is spoken
    assert refusal


@pytest.mark.parametrize(
    ("status", "answer"),
    [(500, b"{}"), (302, b""), (200, b""), (200, b"not json"), (200, b"[]"), (200, b"{}"), (200, b'{"choices": []}'),
     (200, b'{"choices": [{"message": {"content": 5}}]}'), (200, b'{"choices": [{"message": null}]}'), (200, b"\xff\xfe"),
     (200, b"[" * 100_000), (200, b"x" * 400_000)],
)  # fmt: skip
def test_a_broken_endpoint_gives_way_to_the_template(
    endpoint: Endpoint, spoken: Spoken, status: int, answer: bytes
) -> None:
    endpoint.status, endpoint.answer, endpoint.headers = status, answer, {"Location": "http://192.0.2.1/"}
    result, refusal = reworded(endpoint, spoken)
    assert result is spoken
    assert refusal
    assert len(endpoint.requests) == 1, "a redirect was followed"


def test_nobody_there_gives_way_to_the_template(spoken: Spoken) -> None:
    speaker = LocalSpeaker(
        LocalModelConfig(url="http://127.0.0.1:9/v1", model="small", timeout_s=1), gazetteer=gazetteer()
    )
    assert speaker.reword(spoken, TODAY) is spoken
    assert "cannot be reached" in speaker.last_refusal


def test_too_slow_gives_way_to_the_template(endpoint: Endpoint, spoken: Spoken) -> None:
    endpoint.says(GOOD)
    ticks = iter([0.0, 100.0])
    config = LocalModelConfig(url=endpoint.url, model="small", timeout_s=8)
    assert LocalSpeaker(config, gazetteer=gazetteer(), clock=lambda: next(ticks)).reword(spoken, TODAY) is spoken


def test_the_prompt_holds_what_was_allowed_and_nothing_else(endpoint: Endpoint, spoken: Spoken) -> None:
    endpoint.says(GOOD)
    reworded(endpoint, spoken, words="my private words")
    reworded(endpoint, spoken, words="my private words", allowed=("words",))
    first, second = (json.dumps(request["body"], ensure_ascii=False) for request in endpoint.requests)
    assert "my private words" not in first
    assert "my private words" in second
    assert "Secret Cove" not in first + second
    assert set(endpoint.requests[0]["body"]) == {"model", "messages", "max_tokens", "temperature", "stream"}


def test_a_share_that_does_not_exist_is_an_error(spoken: Spoken) -> None:
    with pytest.raises(ConfigError):
        build_prompt(spoken, allowed=("everything",))


@pytest.mark.parametrize(
    "url",
    [
        "http://192.168.1.5:8080/v1", "https://api.example.com/v1", "http://localhost.example.com/v1", "http://127.0.0.1@evil.example/v1",
        "http://127.0.0.1.nip.example/v1", "http://0.0.0.0:8080", "http://[::]:80", "http://2130706433/", "ftp://127.0.0.1/", "file:///etc",
        "", "127.0.0.1:8080", "http://", "http://127.0.0.1:99999/", "http://127.0.0.1/v1?key=1",
        "http://user:pw@127.0.0.1/", None, 5,
        "http://127.0.0.1/\nHost: evil",
    ],
)  # fmt: skip
def test_an_address_that_is_not_this_machine_is_refused(url: Any) -> None:
    with pytest.raises(ConfigError):
        LocalModelConfig(url=url, model="small")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/v1", "http://localhost:11434/v1", "http://[::1]:8080/v1", "http://127.3.2.1"]
)
def test_this_machine_is_accepted(url: str) -> None:
    config = LocalModelConfig(url=url, model="small")
    assert config.stays_here
    assert "on this device" in config.description()


def test_another_machine_needs_to_be_meant_and_encrypted_and_is_shown() -> None:
    with pytest.raises(ConfigError):
        LocalModelConfig(url="http://models.example.com/v1", model="m", allow_remote=True)
    config = LocalModelConfig(url="https://models.example.com/v1", model="m", allow_remote=True, api_key="secret")
    assert not config.stays_here
    assert "ANOTHER MACHINE" in config.description()
    assert "secret" not in repr(config)
    assert not is_loopback("models.example.com")


@pytest.mark.parametrize(
    "more",
    [
        {"model": ""},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"most_tokens": 0},
        {"allow_remote": 1},
        {"api_key": "ü"},
    ],
)
def test_bad_options_are_typed_errors(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LocalModelConfig(**{"url": "http://127.0.0.1", "model": "m", **more})


def test_a_question_stays_a_question() -> None:
    turn = Dialogue(slot_reader()).step(DialogueState(), "a hotel in Rome", TODAY)
    asked = Wording(gazetteer=gazetteer()).say(turn, TODAY)
    with pytest.raises(LocalModelError, match="question"):
        check_output("A hotel in Rome it is.", asked, TODAY, gazetteer=gazetteer())
    check_output("A hotel in Rome, and when would you like to go?", asked, TODAY, gazetteer=gazetteer())
