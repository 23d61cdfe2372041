"""How bundles lie on a device's disk, and how one replaces another so that a kill at any moment leaves one of them whole.

    FOLDER/anchor.json             the pinned trust anchor
    FOLDER/current                 which generation is active: the one file whose rename activates
    FOLDER/generations/<n>-<hash>/ bundle.json (what it consists of) and the verified TUF metadata
    FOLDER/objects/<sha256>        files of targets, by content, so that a round fetches only its head
    FOLDER/clock.json              the latest time this device has seen
    FOLDER/staging/                a refresh in progress; debris after a crash

The folder itself is trusted, as the app is: hashes find damage, not a forger with write access. Nothing here judges contents.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_client.platform import sync_folder, write_atomically
from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import BundleTamperedError, BundleUnavailableError, StoreWriteError, TrustError, WireError

LOCK_TIMEOUT_S = 120.0
ADVICE = "refresh from the bundle's source to fetch it anew"
_CLOCK_STEP_S = 3600.0
_GENERATION = re.compile(r"[0-9]{8,}-[0-9a-f]{16}\Z")


@dataclass(frozen=True)
class Generation:
    """One verified bundle on disk."""

    metadata: Path
    """Folder of its TUF metadata, as they were trusted."""
    anchor_hash: str
    root_version: int
    fresh_until_s: float
    valid_until_s: float
    context_until_s: float | None
    knows_optional: bool
    """False if it was stored by a version that fetched no optional targets."""
    objects: Mapping[str, tuple[str, int]]
    """Target -> (SHA-256, size in bytes)."""


class BundleFolder:
    """The folder. Reading needs no lock; everything that writes, except the clock, runs inside `alone()`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.staging = path / "staging"
        self._objects = path / "objects"
        self._generations = path / "generations"

    def pointer(self) -> bytes | None:
        """What `current` says; None if nothing was ever active."""
        try:
            return (self.path / "current").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise BundleTamperedError(f"{self.path}: the active bundle cannot be read: {error}") from error

    def read_generation(self, pointer: bytes) -> Generation:
        """The generation that a pointer names. Raises BundleTamperedError if it is missing or damaged."""
        try:
            document = parse_document(pointer, limit_bytes=1024)
            name = str(document["generation"])
            if not _GENERATION.match(name):
                raise WireError(f"{name[:40]!r} is not the name of a generation")
            folder = self._generations / name
            raw = (folder / "bundle.json").read_bytes()
            if hashlib.sha256(raw).hexdigest() != document["sha256"]:
                raise WireError("bundle.json does not match its hash")
            index = parse_document(raw)
            return Generation(
                metadata=folder / "metadata",
                anchor_hash=index["anchor"],
                root_version=index["root_version"],
                fresh_until_s=index["fresh_until_s"],
                valid_until_s=index["valid_until_s"],
                context_until_s=index.get("context_until_s"),
                knows_optional="context_until_s" in index,
                objects={name: (entry["sha256"], entry["size_bytes"]) for name, entry in index["objects"].items()},
            )
        except (OSError, KeyError, WireError) as error:
            raise BundleTamperedError(f"{self.path}: the active bundle was damaged ({error}); {ADVICE}") from error

    def last_metadata(self) -> Path | None:
        """Metadata of the newest generation, also if the pointer to it was lost: what may never be rolled back."""
        newest = max(self._generations.glob("*-*"), key=_sequence, default=None)
        return None if newest is None or not (newest / "metadata").is_dir() else newest / "metadata"

    def sound_object(self, digest: str, size_bytes: int) -> Path | None:
        """A stored file, if it is there, a plain file, and still what its name says."""
        path = self._objects / digest
        try:
            found = path.lstat()
            sound = stat.S_ISREG(found.st_mode) and found.st_size == size_bytes and file_sha256(path) == digest
        except OSError:
            return None
        return path if sound else None

    def activate(
        self,
        files: Mapping[str, Path],
        metadata: Path,
        *,
        anchor: bytes,
        anchor_hash: str,
        root_version: int,
        fresh_until_s: float,
        valid_until_s: float,
        context_until_s: float | None,
    ) -> None:
        """Make verified `files` (target -> file in staging, or stored already) and `metadata` (in staging) the active bundle."""
        self._objects.mkdir(exist_ok=True)
        self._generations.mkdir(exist_ok=True)
        listed = {}
        for name, path in files.items():
            digest = file_sha256(path)
            listed[name] = {"sha256": digest, "size_bytes": path.stat().st_size}
            if path.parent != self._objects:
                _sync_file(path)
                os.replace(path, self._objects / digest)
        sync_folder(self._objects)
        index = canonical_bytes(
            {
                "format": 1,
                "anchor": anchor_hash,
                "root_version": root_version,
                "fresh_until_s": fresh_until_s,
                "valid_until_s": valid_until_s,
                "context_until_s": context_until_s,
                "objects": listed,
            }
        )
        building = self.staging / "generation"
        building.mkdir()
        os.replace(metadata, building / "metadata")
        (building / "bundle.json").write_bytes(index)
        for path in (*building.rglob("*"), building):
            sync_folder(path) if path.is_dir() else _sync_file(path)
        digest = hashlib.sha256(index).hexdigest()
        sequence = max(map(_sequence, self._generations.glob("*-*")), default=0) + 1
        name = f"{sequence:08d}-{digest[:16]}"
        os.replace(building, self._generations / name)
        sync_folder(self._generations)
        self.pin(anchor)
        self.replace("current", canonical_bytes({"generation": name, "sha256": digest}))

    def anchor(self) -> bytes | None:
        """The pinned trust anchor; None before the first."""
        try:
            return (self.path / "anchor.json").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TrustError(f"{self.path}: the pinned trust anchor cannot be read: {error}") from error

    def pin(self, anchor: bytes) -> None:
        """Keep `anchor`; who may replace which is the caller's judgement."""
        if self.anchor() != anchor:
            self.replace("anchor.json", anchor)

    def clean(self) -> None:
        """Remove what no active bundle needs: debris of crashes, former generations, files that nothing names."""
        if self.staging.exists():
            shutil.rmtree(self.staging)
        for path in self.path.glob("*.tmp"):
            path.unlink(missing_ok=True)
        pointer = self.pointer()
        if pointer is None:
            return
        try:
            active = self.read_generation(pointer)
        except BundleTamperedError:
            # Nobody can tell what is still needed; the next activation sets it right.
            return
        for path in self._generations.iterdir():
            if path != active.metadata.parent:
                shutil.rmtree(path)
        named = {digest for digest, _ in active.objects.values()}
        for path in self._objects.iterdir():
            if path.name not in named:
                path.unlink()

    @contextlib.contextmanager
    def alone(self, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the folder's lock, against threads and processes. Failures of the disk within become StoreWriteError."""
        import filelock

        lock = filelock.FileLock(self.path / "lock", timeout=timeout_s)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout as error:
            raise BundleUnavailableError(f"another process is refreshing {self.path}; try again later") from error
        except OSError as error:
            raise StoreWriteError(f"{self.path}: cannot be written: {error}") from error
        try:
            yield
        except OSError as error:
            raise StoreWriteError(f"{self.path}: cannot store a bundle ({error}); the former stays active") from error
        finally:
            lock.release()

    def replace(self, name: str, raw: bytes) -> None:
        """Replace a small file of the folder so that it is either as before or complete. Raises OSError."""
        write_atomically(self.path / name, raw, "bundle")


class LatestTime:
    """A clock that never runs backwards, also over restarts: setting the device's clock back makes nothing young again."""

    def __init__(self, folder: BundleFolder, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._latest_s = self._persisted_s = self._read()

    def now_s(self, *, persist: bool = False) -> float:
        """Unix time in seconds: the latest ever seen. Raises OSError only with `persist`."""
        self._latest_s = max(self._latest_s, self._clock())
        if persist or self._latest_s > self._persisted_s + _CLOCK_STEP_S:
            try:
                self._folder.replace("clock.json", canonical_bytes({"latest_s": int(self._latest_s)}))
                self._persisted_s = self._latest_s
            except OSError:
                if persist:
                    raise
                # A folder that cannot be written must not stop an answer; this process still remembers.
        return self._latest_s

    def _read(self) -> float:
        try:
            return float(parse_document((self._folder.path / "clock.json").read_bytes(), limit_bytes=1024)["latest_s"])
        except (OSError, WireError, KeyError, TypeError, ValueError):
            # Missing or damaged: the clock itself is all there is.
            return 0.0


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sequence(generation: Path) -> int:
    head = generation.name.partition("-")[0]
    return int(head) if head.isdecimal() else 0


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
