"""Erasing all that a device keeps: first the key, so that from then on nothing can be read, then the files.

It needs no key: whoever has lost a passphrase can still erase. Whoever rewrites the key file overwrites its former blocks, so
there is one copy of the wrapped keys, and it is overwritten in place; flash storage may keep a former block, which then still
needs the passphrase or the keyring entry, and that is removed too.
"""

from __future__ import annotations

from pathlib import Path

from edge_client.know.store.keys import KEY_NAME, KeyFile, SystemKeyring, forget_keyring_entry
from edge_client.know.store.quarantine import QUARANTINE_NAME
from edge_client.know.store.storage import COUNTER_NAME, LOCK_NAME, STORE_NAME
from edge_client.platform import (
    fault_point,
    hold_lock,
    remove_lock,
    remove_temporaries,
    remove_tree,
    sync_folder,
    wipe_file,
    wipe_formers,
)
from shared_models.errors import KeyUnavailableError, StoreError, StoreWriteError

HOME_FOLDERS = ("bundle", "agent", "sidecar")
"""Folders inside a home that belong to this device and go with it."""


def erase_home(home: Path) -> list[str]:
    """Erase what a device keeps in `home`; returns what withstood, in words (a keyring that refuses).

    Raises StoreLockedError if a process has the store open, StoreWriteError if a file withstands.
    """
    if not home.is_dir():
        return []
    lock = hold_lock(home / LOCK_NAME)
    try:
        return erase_files(home)
    finally:
        remove_lock(lock, home / LOCK_NAME)


def erase_files(home: Path) -> list[str]:
    """The same for who holds the lock. A kill in between leaves what only the next erasure can touch."""
    problems: list[str] = []
    try:
        account = _keyring_account(home / KEY_NAME)
        # A killed rewriting may have left a second copy of the wrapped keys; those first, while the key file still says whose.
        remove_temporaries(home / KEY_NAME)
        wipe_formers(home / KEY_NAME)
        wipe_file(home / KEY_NAME)
        sync_folder(home)
        fault_point("forget.after_key")
        if account is not None:
            try:
                forget_keyring_entry(account)
            except KeyUnavailableError as error:
                problems.append(str(error))
        for name in (STORE_NAME, COUNTER_NAME, QUARANTINE_NAME):
            wipe_file(home / name)
        fault_point("forget.after_store")
        for name in (STORE_NAME, COUNTER_NAME, QUARANTINE_NAME):
            remove_temporaries(home / name)
            wipe_formers(home / name)
        for name in HOME_FOLDERS:
            remove_tree(home / name)
        sync_folder(home)
    except OSError as error:
        raise StoreWriteError(f"{home}: not everything could be erased: {error.strerror or error}") from error
    return problems


def _keyring_account(key_path: Path) -> str | None:
    try:
        key_file = KeyFile.from_bytes(key_path.read_bytes())
    except (FileNotFoundError, StoreError):
        return None
    return str(key_file.remembered.get("account")) if key_file.kind == SystemKeyring.kind else None
