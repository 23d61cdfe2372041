"""All that differs between operating systems: paths, permissions, locks, durable writes, wiping. Nothing here knows what is kept.

Written for Linux, macOS and Windows. On Windows a folder cannot be synced and `chmod` cannot keep other users out: there the
profile's own access list protects the files, and a rename is as durable as the file system makes it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shared_models.errors import StoreLockedError, StoreWriteError

WINDOWS = os.name == "nt"
FAULT_VARIABLE = "TACIT_FAULT"
_TEMPORARY_SUFFIX = ".tmp"
_FORMER_SUFFIX = ".former"


def fault_point(name: str) -> None:
    """A place where tests kill this very process: SIGKILL if the environment names it, otherwise nothing at all."""
    if os.environ.get(FAULT_VARIABLE) == name:
        if WINDOWS:
            os._exit(137)
        os.kill(os.getpid(), signal.SIGKILL)


def default_home() -> Path:
    """Where this user's assistant lives unless told otherwise."""
    import platformdirs

    return Path(platformdirs.user_data_dir("tacit"))


def private_folder(folder: Path) -> Path:
    """Make `folder` (and what is above it) and keep other users out of it. Raises StoreWriteError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not WINDOWS and stat.S_IMODE(folder.stat().st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise StoreWriteError(f"{folder}: cannot be made a private folder: {_reason(error)}") from error
    return folder


def open_to_others(path: Path) -> bool:
    """True if other users of this machine may read or change `path`; always False where permissions say nothing."""
    return not WINDOWS and bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def write_atomically(
    path: Path, content: bytes | Iterable[bytes], fault_prefix: str = "file", *, wipe_former: bool = False
) -> None:
    """Replace `path` (mode 0600) so that after a kill or a power cut it is either as before or complete.

    Written beside it (parts one after the other), synced, renamed, folder synced. `wipe_former` then overwrites what the
    former file held, so that its blocks say nothing; `wipe_formers` finishes that after a kill. Raises OSError; then the former
    file stands, unless only one of the last steps failed. Fault points: PREFIX.before_temp, .half_temp, .after_temp,
    .after_rename, .after_sync, and with `wipe_former` .after_wipe.
    """
    fault_point(f"{fault_prefix}.before_temp")
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
    half = len(content) // 2 if isinstance(content, bytes) else 0
    parts = (content[:half], content[half:]) if isinstance(content, bytes) else content
    former = path.with_name(path.name + _FORMER_SUFFIX)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            for number, part in enumerate(parts):
                _write_all(descriptor, part)
                if number == 0:
                    fault_point(f"{fault_prefix}.half_temp")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fault_point(f"{fault_prefix}.after_temp")
        if wipe_former:
            wipe_formers(path)
            # Where a file system knows no second names, the former blocks stay until they are used again.
            with contextlib.suppress(OSError, NotImplementedError):
                os.link(path, former)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fault_point(f"{fault_prefix}.after_rename")
    sync_folder(path.parent)
    fault_point(f"{fault_prefix}.after_sync")
    if wipe_former:
        wipe_file(former)
        fault_point(f"{fault_prefix}.after_wipe")


def wipe_formers(path: Path) -> None:
    """Wipe what a killed `write_atomically(…, wipe_former=True)` left of the former `path`. Raises OSError.

    If it was killed before the rename, `path` itself has that second name: then only the name goes.
    """
    former = path.with_name(path.name + _FORMER_SUFFIX)
    with contextlib.suppress(FileNotFoundError):
        if path.exists() and os.path.samefile(former, path):
            former.unlink()
        else:
            wipe_file(former)


def write_at(descriptor: int, offset_bytes: int, content: bytes) -> None:
    """Write all of `content` at a place of an open file. Raises OSError."""
    os.lseek(descriptor, offset_bytes, os.SEEK_SET)
    _write_all(descriptor, content)


def open_in_place(path: Path) -> int:
    """A descriptor for writing into an existing file. Raises OSError."""
    return os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0))


def sync_data(descriptor: int) -> None:
    """Make what was written durable, its length with it. Raises OSError."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable. Raises OSError."""
    if WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def wipe_file(path: Path) -> None:
    """Overwrite a file in place, sync, remove it. Raises OSError; a missing file is fine.

    Flash storage may keep former blocks: what matters must be encrypted under a key that is wiped too.
    """
    try:
        size_bytes = path.lstat().st_size
        if path.is_symlink():
            path.unlink()
            return
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return
    try:
        left_bytes = size_bytes
        while left_bytes > 0:
            left_bytes -= os.write(descriptor, secrets.token_bytes(min(left_bytes, 1 << 20)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()


def remove_temporaries(path: Path) -> None:
    """Wipe what killed writers of `path` left beside it. Only for the holder of the lock. Raises OSError."""
    for leftover in path.parent.glob(f"{path.name}.*{_TEMPORARY_SUFFIX}"):
        wipe_file(leftover)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it; a missing one is fine. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def free_bytes(folder: Path) -> int:
    """Free space for this user on the disk of `folder`."""
    return shutil.disk_usage(folder).free


def hold_lock(path: Path) -> Any:
    """Take the lock file `path` for this object alone, or raise StoreLockedError at once. `.release()` gives it back.

    The kernel frees it when the process dies, however it dies.
    """
    import filelock

    # Not thread-local: an asyncio program opens in one worker thread and closes in another.
    lock = filelock.FileLock(path, timeout=0, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise StoreLockedError(
            f"{path.parent}: open elsewhere, in this or another process; close that one first"
        ) from error
    except OSError as error:
        raise StoreWriteError(f"{path}: cannot be locked: {_reason(error)}") from error
    return lock


def remove_lock(lock: Any, path: Path) -> None:
    """Release a lock whose folder was erased, and remove its (empty) file."""
    with contextlib.suppress(OSError):
        # Removed while held, so that nobody can take it in between; Windows does not let go of an open file.
        if not WINDOWS:
            path.unlink(missing_ok=True)
    lock.release()
    if WINDOWS:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def system_description() -> str:
    """Operating system and Python version, for `doctor`."""
    return f"{sys.platform}, Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
