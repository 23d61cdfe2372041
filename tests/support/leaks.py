"""Search bytes for a phrase and its words, or for a vector, in the encodings in which they could travel."""

from __future__ import annotations

import base64
import codecs
import re
import zlib
from collections.abc import Iterator
from urllib.parse import quote

import numpy as np


def encodings(text: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each form. All but base64 are in lower case: search lowered bytes for them."""
    plain = text.encode()
    yield "utf-8", plain
    yield "utf-16le", text.encode("utf-16le")
    yield "utf-16be", text.encode("utf-16be")
    yield "hex", plain.hex().encode()
    yield "url", quote(text, safe="").lower().encode()
    yield "form", text.replace(" ", "+").encode()
    yield "every byte in per cent", "".join(f"%{byte:02x}" for byte in plain).encode()
    yield "json escapes", "".join(f"\\u{ord(letter):04x}" for letter in text).encode()
    yield "reversed", text[::-1].encode()
    yield "rot13", codecs.encode(text, "rot13").encode()
    for coding in ("utf-8", "utf-16le", "utf-16be"):
        yield from base64_forms(text.encode(coding), coding)


def base64_forms(content: bytes, coding: str) -> Iterator[tuple[str, bytes]]:
    """What stays the same of `content` within a longer text, for each of the three alignments, in both alphabets."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + content)
        # The first letters hold bits of what stands before; the last ones of what stands after.
        first = (0, 2, 3)[before]
        last = (before + len(content)) * 8 // 6
        yield f"base64 of {coding} at {before}", whole[first:last]
        yield f"base64url of {coding} at {before}", whole[first:last].translate(bytes.maketrans(b"+/", b"-_"))


def inflated(content: bytes) -> bytes:
    """All that is packed by zlib or gzip anywhere in `content`, one after the other."""
    found = []
    for start in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", content):
        unpacker = zlib.decompressobj(wbits=47)
        try:
            found.append(unpacker.decompress(content[start.start() :], 1 << 24))
        except zlib.error:
            continue
    return b"\n".join(found)


VECTOR_TYPES = ("<i4", ">i4", "<u4", ">u4", "<i8", ">i8", "<f4", ">f4", "<f8", ">f8", "<i2", ">i2", "<f2")
RUN = 6
"""Neighbouring coordinates that make a find."""


class Haystack:
    """`piece in Haystack(content)` as in `content` itself, for thousands of pieces: most are ruled out by their first bytes."""

    WINDOW = 8

    def __init__(self, content: bytes) -> None:
        self._content = content
        found = [np.frombuffer(content, "<u8", (len(content) - at) // 8, at) for at in range(min(8, len(content)))]
        self._windows = np.unique(np.concatenate(found)) if found else np.zeros(0, "<u8")

    def __contains__(self, piece: bytes) -> bool:
        assert len(piece) >= self.WINDOW
        first = np.frombuffer(piece, "<u8", 1)
        at = int(np.searchsorted(self._windows, first)[0])
        return at < len(self._windows) and self._windows[at] == first[0] and piece in self._content


def vector_leaks(content: bytes, vector: np.ndarray) -> list[str]:
    """Types as which some `RUN` neighbouring coordinates of `vector` stand in `content`, raw, in base64 or packed."""
    where = {"raw": Haystack(content), "zlib": Haystack(inflated(content))}
    starts = [
        start
        for start in range(0, len(vector) - RUN + 1, RUN)
        if len(np.unique(vector[start : start + RUN])) == RUN and np.abs(vector[start : start + RUN]).min() > 0
    ]
    assert len(starts) >= 20, "a vector in which a find would mean something"
    found = []
    for kind in VECTOR_TYPES:
        if np.dtype(kind).kind in "iu" and np.dtype(vector.dtype).kind == "f":
            continue
        with np.errstate(over="ignore"):
            typed = vector.astype(np.int64).astype(kind) if np.dtype(kind).kind in "iu" else vector.astype(kind)
        for start in starts:
            piece = typed[start : start + RUN].tobytes()
            found += [f"{kind} in {name}" for name, held in where.items() if piece in held]
            if any(form in where["raw"] for _, form in base64_forms(piece, kind)):
                found.append(f"{kind} in base64")
    return sorted(set(found))


def leaks(content: bytes, phrase: str) -> list[str]:
    """Names of the forms in which the lower-case `phrase`, or one of its words, stands in `content`, packed or not."""
    found = plain_leaks(content, phrase)
    return found + [f"{name}, packed" for name in plain_leaks(inflated(content), phrase)]


def plain_leaks(content: bytes, phrase: str) -> list[str]:
    lowered = content.lower()
    found = []
    for text in dict.fromkeys([phrase, *phrase.split()]):
        for name, form in encodings(text):
            if form in (content if name.startswith("base64") else lowered):
                found.append(f"{text!r} in {name}")
    return found
