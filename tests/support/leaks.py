"""Search bytes for a phrase and its words in the encodings in which they could travel."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Iterator
from urllib.parse import quote


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


def leaks(content: bytes, phrase: str) -> list[str]:
    """Names of the forms in which the lower-case `phrase`, or one of its words, stands in `content`."""
    lowered = content.lower()
    found = []
    for text in dict.fromkeys([phrase, *phrase.split()]):
        for name, form in encodings(text):
            if form in (content if name.startswith("base64") else lowered):
                found.append(f"{text!r} in {name}")
    return found
