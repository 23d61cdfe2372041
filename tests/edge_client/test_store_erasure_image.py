"""What is left in the disk's blocks: a whole ext4 image is searched, raw and decrypted with every key that is still there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_model import KEY, PURPOSE, everything_readable

from edge_client.know.store import Store
from edge_client.know.store.keys import KeyFile
from shared_models.canonical import parse_document
from shared_models.errors import StoreDamagedError


def run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path | None]]:
    """A mounted file system and the file that holds its blocks; without the right to mount, a folder and None."""
    folder, image = tmp_path / "disk", tmp_path / "image"
    folder.mkdir()
    image.write_bytes(bytes(16 << 20))
    mounted = (
        os.geteuid() == 0
        and run("mkfs.ext4", "-q", "-F", str(image))
        and run("mount", "-o", "loop", str(image), str(folder))
    )
    yield folder, image if mounted else None
    if mounted:
        # Lazily: a test that failed may have left the store open.
        assert run("umount", "-l", str(folder))


def blocks(folder: Path, image: Path | None, home: Path) -> list[Path]:
    """Where to look: the image after all caches are written, or the files."""
    os.sync()
    if image is None:
        return list(home.iterdir()) if home.exists() else []
    assert run("sync", "-f", str(folder))
    return [image]


@pytest.mark.deep
def test_nothing_deleted_destroyed_or_erased_is_found_in_the_blocks_of_the_disk(
    disk: tuple[Path, Path | None],
) -> None:
    folder, image = disk
    home = folder / "home"
    store = Store(home, key=KEY)
    notes, events = store.table("notes"), store.table("events", PURPOSE)
    for turn in range(6):
        for number in range(20):
            notes.put(f"stays{number}", {"text": f"stays-{turn}-{number}-" + "s" * 200})
            notes.put(f"goes{number}", {"text": f"deleted-canary-{turn}-{number}-" + "d" * 200})
            events.append({"text": f"destroyed-canary-{turn}-{number}-" + "e" * 300})
        if turn == 2:
            store.rotate_keys()
        store.compact()
    readable = everything_readable(home, blocks(folder, image, home))
    assert b"deleted-canary-5-19" in readable
    assert b"destroyed-canary-0-0" in readable

    for number in range(20):
        notes.delete(f"goes{number}")
    store.destroy_purpose(PURPOSE)
    store.compact()
    readable = everything_readable(home, blocks(folder, image, home))
    assert b"deleted-canary" not in readable
    assert b"destroyed-canary" not in readable
    assert b"stays-5-19-" in readable

    wrapped = [str(keys["data"]).encode() for keys in parse_document((home / "store.key").read_bytes())["sets"]]
    if image is not None:
        assert all(secret in image.read_bytes() for secret in wrapped)
    assert store.erase() == []
    left = b"".join(path.read_bytes() for path in blocks(folder, image, home))
    assert not any(secret in left for secret in wrapped)
    assert b"canary" not in left
    assert b"stays-" not in left


def test_backups_of_the_file_say_nothing_once_the_store_is_erased(tmp_path: Path) -> None:
    home, backups = tmp_path / "home", []
    store = Store(home, key=KEY)
    for number in range(3):
        store.table("events", PURPOSE).append({"text": f"canary-{number}"})
        store.table("notes").put("x", {"text": f"canary-{number}"})
        backups.append((home / "store.tacit").read_bytes())
        store.compact()
    os.link(home / "store.key", tmp_path / "blocks-of-the-key")
    os.link(home / "store.tacit", tmp_path / "blocks-of-the-store")
    wrapped = (home / "store.key").read_bytes()
    store.erase()
    left = [*backups, *(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())]
    assert not any(b"canary" in raw or wrapped[:60] in raw for raw in left)
    with pytest.raises(StoreDamagedError):
        KeyFile.from_bytes((tmp_path / "blocks-of-the-key").read_bytes())
    # The master key is still there, and the backups: without the wrapped data key they stay shut.
    Store(home, key=KEY).close()
    (home / "store.tacit").write_bytes(backups[-1])
    with pytest.raises(StoreDamagedError, match="another store"):
        Store(home, key=KEY)
