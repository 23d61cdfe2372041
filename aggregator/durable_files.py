"""Files that are either as before or complete, whenever the process or the power dies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

UNFINISHED = ".unfinished-"
"""How the name of a file begins that is being written; what a killed process left of them may be removed."""
_CHUNK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_durably(path: Path, source: bytes | Path) -> None:
    """Write `source` (bytes, or a file to copy) so that `path` is either as before or complete, also after a power cut."""
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    with unfinished.open("wb") as file:
        if isinstance(source, bytes):
            file.write(source)
        else:
            with source.open("rb") as original:
                while chunk := original.read(_CHUNK_BYTES):
                    file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
