"""A captured round over real sockets, and every log line at debug level: nothing of what a user said is in them."""

from __future__ import annotations

import base64
import ssl
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import deployed as deployment
import numpy as np
import pytest
from deployed import Deployed, agents_ready
from hypothesis import given
from hypothesis import strategies as st
from leaks import encodings, leaks, vector_leaks

pytestmark = pytest.mark.timeout(900)

CANARY = "quokkas zanzibar marmalade trombones"
ON_PURPOSE = "velvet xylophone grasshopper"
LOUD = Path(deployment.__file__).with_name("loud.py")


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All commands log at DEBUG, whatever they say to their users."""

    def command_of(program: str, *arguments: object) -> list[str]:
        return [sys.executable, str(LOUD), deployment.MODULES[program], *map(str, arguments)]

    monkeypatch.setattr(deployment, "command_of", command_of)
    return


def send_on_purpose(deployed: Deployed, content: bytes) -> None:
    """Post `content` to the fleet's address, as a device would; it is refused, and recorded."""
    trust = ssl.create_default_context(cafile=str(deployed.fleet / "ca.pem"))
    request = urllib.request.Request(
        f"https://127.0.0.1:{deployed.port}/v1/fleet/pull-messages", content, method="POST"
    )
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, context=trust, timeout=20.0).close()


@pytest.mark.deep
def test_no_byte_and_no_log_line_of_a_round_holds_what_a_user_said(tmp_path: Path, loud: None) -> None:
    record = tmp_path / "record.bin"
    vectors = tmp_path / "vectors"
    vectors.mkdir()
    deployed = Deployed(tmp_path, environment={"TACIT_TEST_RECORD": str(record), "TACIT_TEST_VECTORS": str(vectors)})
    deployed.set_up()
    said = [(CANARY, "pay_fine"), (f"please bring {CANARY} tomorrow", "find_book")]
    deployed.enrol(("anna", "bert"), lambda _: said)
    with deployed.serve() as serve:
        serve.await_text("^serving")
        with agents_ready(deployed, ("anna", "bert")):
            with deployed.terminal("run", "tacit-fleet", "run", "fleet") as run:
                assert run.await_end(200.0) == 0, run.text()
            assert "round 1: released over 2 devices" in run.text()
        for _, form in encodings(ON_PURPOSE):
            send_on_purpose(deployed, form)
    captured = record.read_bytes()
    assert captured.count(b"/v1/fleet/push-object") >= 2, "contributions are in the record"
    assert len(captured) > 2 * 8 * 384 * 4, "both of them whole"
    logs = [*tmp_path.glob("*.log"), *tmp_path.glob("*.out"), *deployed.fleet.rglob("superlink.log")]
    assert {path.name for path in logs} >= {
        *("anna.log", "bert.log", "agent-anna.out", "agent-bert.out", "serve.out", "run.out", "superlink.log")
    }
    for path in logs:
        assert b"DEBUG" in path.read_bytes(), f"{path.name} speaks at debug level"
    # The record, the logs, and everything else that the central side keeps.
    for path in [record, *logs, *(item for item in deployed.fleet.rglob("*") if item.is_file())]:
        assert leaks(path.read_bytes(), CANARY) == [], path
    assert_no_vector(captured, vectors)
    found = leaks(captured, ON_PURPOSE)
    for name, _ in encodings(ON_PURPOSE):
        assert f"{ON_PURPOSE!r} in {name}" in found, "the search finds what was sent on purpose"


def assert_no_vector(captured: bytes, vectors: Path) -> None:
    """Of each device the masked vector was sent, and neither the clipped one nor its integers before the noise."""
    for device in {path.stem.partition("-")[2] for path in vectors.glob("sealed-*.npy")}:
        clipped, grid, sealed = (np.load(vectors / f"{what}-{device}.npy") for what in ("clipped", "grid", "sealed"))
        assert np.count_nonzero(grid) > 100, "the device had learned something"
        assert "<u4 in raw" in vector_leaks(captured, sealed), "the search finds what was sent"
        assert vector_leaks(captured, clipped) == []
        assert vector_leaks(captured, grid) == []
    assert len(list(vectors.glob("sealed-*.npy"))) == 2


@pytest.mark.parametrize("kind", ["<i4", ">u4", "<i8", "<f4", ">f8"])
@pytest.mark.parametrize("form", ["raw", "base64", "zlib"])
def test_the_search_finds_a_vector_in_every_type_and_form(kind: str, form: str) -> None:
    vector = np.random.default_rng(1).integers(-16_000, 16_000, 500)
    typed = vector.astype(kind).tobytes()
    packed = {"raw": typed, "base64": base64.b64encode(b"x" + typed), "zlib": zlib.compress(typed)}[form]
    found = vector_leaks(b"before" + packed + b"after", vector)
    assert any(item.endswith(form) for item in found), found
    assert vector_leaks(np.random.default_rng(2).bytes(10_000), vector) == []


@given(before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_the_search_finds_a_phrase_in_every_form_within_other_bytes(before: bytes, after: bytes) -> None:
    for name, form in encodings(ON_PURPOSE):
        assert f"{ON_PURPOSE!r} in {name}" in leaks(before + form + after, ON_PURPOSE)


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("after", ["", "x", "xy"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-16le", "utf-16be"])
def test_the_search_finds_base64_at_every_alignment(before: str, after: str, coding: str) -> None:
    content = base64.b64encode(before.encode() + ON_PURPOSE.encode(coding) + after.encode())
    assert any(found.startswith(f"{ON_PURPOSE!r} in base64 of {coding}") for found in leaks(content, ON_PURPOSE))


def test_the_search_finds_what_is_packed() -> None:
    packed = zlib.compress(b"so " * 50 + ON_PURPOSE.encode())
    assert f"{ON_PURPOSE!r} in utf-8, packed" in leaks(b"abc" + packed + b"def", ON_PURPOSE)


def test_the_search_finds_single_words_and_other_cases() -> None:
    assert leaks(b"... XYLOPHONE ...", ON_PURPOSE) == [
        "'xylophone' in utf-8",
        "'xylophone' in url",
        "'xylophone' in form",
    ]
    assert leaks(b"a book about birds", ON_PURPOSE) == []
