"""Frames between the owner of a device's store and its agent: canonical JSON beside named raw arrays. Never a pickle.

    4 bytes   length of the header, big-endian
    header    canonical JSON: {"kind", "body", "arrays": [[name, dtype, shape]], "blobs": [[name, size_bytes]]}
    payload   the arrays, then the blobs, in the order of the header; arrays little-endian, row-major

What frames mean is in `process` (owner) and `child` (agent). Either end may be broken or hostile: every size is checked
against a limit before it is read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import WireError

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_PAYLOAD_BYTES = 256 * 1024 * 1024
MAX_PARTS = 64
MAX_DIMENSIONS = 8
DTYPES: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "uint32": np.dtype("<u4"),
    "uint8": np.dtype("u1"),
}
PREAMBLE = b"\n--tacit-agent-pipe-1--\n"
"""Written by the child before its first frame; whatever was printed before it is not part of the protocol."""

MAX_BEFORE_PREAMBLE_BYTES = 64 * 1024
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class Frame:
    """One message over the pipe."""

    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    """JSON values only."""
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Of the types in DTYPES."""
    blobs: dict[str, bytes] = field(default_factory=dict)

    def array(self, name: str, dtype: str, dimensions: int) -> npt.NDArray[Any]:
        """The array `name` if it has this type and number of dimensions, else WireError."""
        array = self.arrays.get(name)
        if array is None or array.dtype != DTYPES[dtype] or array.ndim != dimensions:
            found = "nothing" if array is None else f"{array.dtype} with {array.ndim} dimensions"
            raise WireError(f"frame {self.kind!r}: array {name!r} is {found}, expected {dtype} with {dimensions}")
        return array


def write_frame(stream: BinaryIO, frame: Frame) -> None:
    """Write one frame and flush. Raises WireError before the first byte if it cannot be sent; OSError if the pipe is closed."""
    arrays = {name: _wire_array(frame.kind, name, array) for name, array in frame.arrays.items()}
    header = canonical_bytes(
        {
            "kind": frame.kind,
            "body": frame.body,
            "arrays": [[name, _dtype_name(frame.kind, array), list(array.shape)] for name, array in arrays.items()],
            "blobs": [[name, len(blob)] for name, blob in frame.blobs.items()],
        }
    )
    if len(header) > MAX_HEADER_BYTES or len(arrays) + len(frame.blobs) > MAX_PARTS:
        raise WireError(f"frame {frame.kind!r} has too large a header or more than {MAX_PARTS} parts")
    size_bytes = sum(array.nbytes for array in arrays.values()) + sum(map(len, frame.blobs.values()))
    if size_bytes > MAX_PAYLOAD_BYTES:
        raise WireError(f"frame {frame.kind!r} has {size_bytes} bytes, at most {MAX_PAYLOAD_BYTES} are sent")
    stream.write(_LENGTH.pack(len(header)) + header)
    for array in arrays.values():
        stream.write(array.tobytes())
    for blob in frame.blobs.values():
        stream.write(blob)
    stream.flush()


def read_frame(stream: BinaryIO) -> Frame | None:
    """Read one frame; None if the other end has closed the pipe between frames. Raises WireError for anything else."""
    prefix = stream.read(_LENGTH.size)
    if not prefix:
        return None
    if len(prefix) < _LENGTH.size:
        raise WireError("the pipe was closed in the middle of a frame")
    (header_bytes,) = _LENGTH.unpack(prefix)
    if not 0 < header_bytes <= MAX_HEADER_BYTES:
        raise WireError(f"a frame's header has {header_bytes} bytes, expected 1 to {MAX_HEADER_BYTES}")
    raw = bytes(_exactly(stream, header_bytes))
    header = parse_document(raw, limit_bytes=MAX_HEADER_BYTES)
    if set(header) != {"kind", "body", "arrays", "blobs"} or canonical_bytes(header) != raw:
        raise WireError("a frame's header is not canonical, or has other fields than kind, body, arrays and blobs")
    kind, body = header["kind"], header["body"]
    if not isinstance(kind, str) or not isinstance(body, dict):
        raise WireError("a frame's kind is a name and its body an object")
    shapes = [_array_entry(kind, entry) for entry in _entries(kind, header["arrays"])]
    sizes = [_blob_entry(kind, entry) for entry in _entries(kind, header["blobs"])]
    total_bytes = sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in shapes) + sum(size for _, size in sizes)
    if total_bytes > MAX_PAYLOAD_BYTES:
        raise WireError(f"frame {kind!r} announces {total_bytes} bytes, at most {MAX_PAYLOAD_BYTES} are accepted")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, dtype, shape in shapes:
        content = _exactly(stream, math.prod(shape) * dtype.itemsize)
        arrays[name] = np.frombuffer(content, dtype).reshape(shape)
    blobs = {name: bytes(_exactly(stream, size)) for name, size in sizes}
    if len(arrays) != len(shapes) or len(blobs) != len(sizes):
        raise WireError(f"frame {kind!r}: a name stands twice")
    return Frame(kind, body, arrays, blobs)


def skip_preamble(stream: BinaryIO) -> None:
    """Read up to and including PREAMBLE. Raises WireError if it does not come within MAX_BEFORE_PREAMBLE_BYTES."""
    seen = b""
    for _ in range(MAX_BEFORE_PREAMBLE_BYTES):
        byte = stream.read(1)
        if not byte:
            raise WireError("the agent ended before it had said its first word")
        seen = (seen + byte)[-len(PREAMBLE) :]
        if seen == PREAMBLE:
            return
    raise WireError(f"the agent wrote more than {MAX_BEFORE_PREAMBLE_BYTES} bytes that are not its protocol")


def _wire_array(kind: str, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.ndim > MAX_DIMENSIONS:
        raise WireError(f"frame {kind!r}: {name!r} is not an array of at most {MAX_DIMENSIONS} dimensions")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _dtype_name(kind: str, array: npt.NDArray[Any]) -> str:
    for name, dtype in DTYPES.items():
        if array.dtype == dtype:
            return name
    raise WireError(f"frame {kind!r}: arrays of {array.dtype} are not sent, only {', '.join(DTYPES)}")


def _entries(kind: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_PARTS:
        raise WireError(f"frame {kind[:40]!r}: expected a list of at most {MAX_PARTS} parts")
    return value


def _array_entry(kind: str, entry: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    match entry:
        case [str(name), str(dtype), list(shape)] if (
            dtype in DTYPES and len(shape) <= MAX_DIMENSIONS and all(_is_count(size) for size in shape)
        ):
            return name, DTYPES[dtype], tuple(shape)
    raise WireError(f"frame {kind[:40]!r}: an array is announced by [name, dtype, shape], got {str(entry)[:80]!r}")


def _blob_entry(kind: str, entry: Any) -> tuple[str, int]:
    match entry:
        case [str(name), size] if _is_count(size):
            return name, size
    raise WireError(f"frame {kind[:40]!r}: a blob is announced by [name, size], got {str(entry)[:80]!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_PAYLOAD_BYTES


def _exactly(stream: BinaryIO, size_bytes: int) -> bytearray:
    """Writable, so that arrays over it are; it grows with what arrives, whatever was announced."""
    content = bytearray()
    while len(content) < size_bytes:
        part = stream.read(min(size_bytes - len(content), 1 << 20))
        if not part:
            raise WireError("the pipe was closed in the middle of a frame")
        content += part
    return content
