"""Frames over the pipe: what is written is what is read, and nothing malformed is."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from edge_client.share.agent import pipe
from edge_client.share.agent.pipe import (
    DTYPES,
    MAX_HEADER_BYTES,
    PREAMBLE,
    Frame,
    read_frame,
    skip_preamble,
    write_frame,
)
from shared_models.canonical import canonical_bytes
from shared_models.errors import WireError

names = st.text(min_size=0, max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda dtype: st_numpy.arrays(
        np.dtype(dtype), st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
    )
)


def written(frame: Frame) -> bytes:
    stream = io.BytesIO()
    write_frame(stream, frame)
    return stream.getvalue()


def raw_frame(header: Any, payload: bytes = b"") -> io.BytesIO:
    encoded = header if isinstance(header, bytes) else canonical_bytes(header)
    return io.BytesIO(struct.pack(">I", len(encoded)) + encoded + payload)


@given(
    kind=names,
    body=st.dictionaries(names, values, max_size=4),
    parts=st.dictionaries(names, arrays, max_size=4),
    blobs=st.dictionaries(names, st.binary(max_size=50), max_size=3),
)
def test_frames_come_back_as_they_were(
    kind: str, body: dict[str, Any], parts: dict[str, np.ndarray], blobs: dict[str, bytes]
) -> None:
    stream = io.BytesIO(written(Frame(kind, body, parts, blobs)) + written(Frame("next")))
    frame = read_frame(stream)
    assert frame is not None
    assert (frame.kind, frame.body, frame.blobs) == (kind, body, blobs)
    assert set(frame.arrays) == set(parts)
    for name, array in parts.items():
        assert frame.arrays[name].dtype == array.dtype
        assert frame.arrays[name].shape == array.shape
        assert frame.arrays[name].tobytes() == array.tobytes()
        assert frame.arrays[name].flags.writeable or not array.size
    assert read_frame(stream) == Frame("next")
    assert read_frame(stream) is None


@given(st.binary(max_size=300))
def test_garbage_is_one_typed_error(garbage: bytes) -> None:
    try:
        read_frame(io.BytesIO(garbage))
    except WireError:
        return
    assert garbage == b""


@given(st.integers(0, 400))
def test_a_cut_frame_is_one_typed_error(cut: int) -> None:
    whole = written(Frame("round", {"a": [1, 2]}, {"x": np.arange(20, dtype=np.float32)}, {"k": b"secret"}))
    if 0 < cut < len(whole):
        with pytest.raises(WireError):
            read_frame(io.BytesIO(whole[:cut]))


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"kind": "a"}',
        b'{"arrays":[],"blobs":[],"body":{},"kind":"a" }',
        b'{"arrays":[],"blobs":[],"body":{},"kind":"a","kind":"b"}',
        {"kind": 1, "body": {}, "arrays": [], "blobs": []},
        {"kind": "a", "body": [], "arrays": [], "blobs": []},
        {"kind": "a", "body": {}, "arrays": [], "blobs": [], "more": 1},
        {"kind": "a", "body": {}, "arrays": {}, "blobs": []},
        {"kind": "a", "body": {}, "arrays": [["x", "object", [1]]], "blobs": []},
        {"kind": "a", "body": {}, "arrays": [["x", "float64", [1]]], "blobs": []},
        {"kind": "a", "body": {}, "arrays": [["x", "float32", [-1]]], "blobs": []},
        {"kind": "a", "body": {}, "arrays": [["x", "float32", [True]]], "blobs": []},
        {"kind": "a", "body": {}, "arrays": [["x", "float32", [1] * 9]], "blobs": []},
        {"kind": "a", "body": {}, "arrays": [["x", "float32", [1 << 20, 1 << 20]]], "blobs": []},
        {"kind": "a", "body": {}, "arrays": [["x", "uint8", [1]], ["x", "uint8", [1]]], "blobs": []},
        {"kind": "a", "body": {}, "arrays": [["x", "uint8", [0]]] * 65, "blobs": []},
        {"kind": "a", "body": {}, "arrays": [], "blobs": [["x", -1]]},
        {"kind": "a", "body": {}, "arrays": [], "blobs": [["x", 1 << 40]]},
        {"kind": "a", "body": {}, "arrays": [], "blobs": [["x"]]},
    ],
)
def test_malformed_headers_are_refused(header: Any) -> None:
    with pytest.raises(WireError):
        read_frame(raw_frame(header, b"ab"))


def test_a_header_longer_than_allowed_is_not_read() -> None:
    stream = io.BytesIO(struct.pack(">I", MAX_HEADER_BYTES + 1) + b"x" * 10)
    with pytest.raises(WireError, match="header"):
        read_frame(stream)
    assert stream.tell() == 4


def test_an_announced_size_is_not_allocated_before_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    header = {"kind": "a", "body": {}, "arrays": [], "blobs": [["x", pipe.MAX_PAYLOAD_BYTES]]}
    with pytest.raises(WireError, match="middle of a frame"):
        read_frame(Stream(raw_frame(header, b"short").getvalue()))
    assert max(asked) <= 1 << 20


@pytest.mark.parametrize(
    "frame",
    [
        Frame("a", {"x": float("nan")}),
        Frame("a", {"x": object()}),
        Frame("a", arrays={"x": np.zeros(3)}),
        Frame("a", arrays={"x": np.array([object()])}),
        Frame("a", arrays={"x": np.array(["text"])}),
        Frame("a", arrays={"x": [1, 2]}),  # type: ignore[dict-item]
        Frame("a", blobs={str(index): b"" for index in range(65)}),
    ],
)
def test_what_cannot_be_sent_is_refused_before_the_first_byte(frame: Frame) -> None:
    stream = io.BytesIO()
    with pytest.raises(WireError):
        write_frame(stream, frame)
    assert stream.getvalue() == b""


def test_arrays_of_any_layout_arrive_row_major_and_little_endian() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2].T
    frame = read_frame(io.BytesIO(written(Frame("a", arrays={"x": array}))))
    assert frame is not None
    assert np.array_equal(frame.array("x", "float32", 2), array)


def test_an_array_of_another_type_or_shape_is_refused() -> None:
    frame = Frame("round", arrays={"weights": np.zeros((2, 3), np.float32)})
    for name, dtype, dimensions in (("weight", "float32", 2), ("weights", "int64", 2), ("weights", "float32", 1)):
        with pytest.raises(WireError, match="expected"):
            frame.array(name, dtype, dimensions)


def test_what_was_printed_before_the_preamble_does_not_count() -> None:
    stream = io.BytesIO(b"hello\n--tacit-agent-" + PREAMBLE + written(Frame("state")))
    skip_preamble(stream)
    assert read_frame(stream) == Frame("state")
    for garbage in (b"", b"x" * 100, b"x" * 70_000 + PREAMBLE):
        with pytest.raises(WireError):
            skip_preamble(io.BytesIO(garbage))
