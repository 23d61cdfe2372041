"""`tacit-device doctor`: looks at everything that can be wrong with a device, changes nothing, says what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_client.bundle_words import no_model_text
from edge_client.bundles import ActiveBundle, BundleStore
from edge_client.chat import spoken_time
from edge_client.know.store import Store
from edge_client.know.store.keys import KEY_NAME, KeySource, keyring_available
from edge_client.know.store.quarantine import QUARANTINE_NAME
from edge_client.know.store.storage import COUNTER_NAME, STORE_NAME
from edge_client.platform import free_bytes, open_to_others, system_description
from shared_models.errors import TacitError

LEAST_FREE_BYTES = 100 * 1024 * 1024
EARLIEST_CLOCK_S = 1_735_689_600.0
"""2025-01-01: this version did not exist before."""


UNSAFE = (
    "; what this device has spent, or what was withdrawn, may be among it, so it contributes no more. Only erasing "
    "(`tacit-device forget`) begins anew"
)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    good: bool
    text: str


def examine(
    home: Path, find_key: Callable[[], bytes | str | KeySource | None], clock: Callable[[], float]
) -> Iterator[Finding]:
    """Findings in the order in which they matter. `find_key` may raise; that is a finding too."""
    yield Finding("system", True, system_description())
    yield from _clock(clock)
    yield from _disk(home)
    if not (home / KEY_NAME).exists() and not (home / STORE_NAME).exists():
        where = (
            "the system's keyring" if keyring_available() else "a passphrase or a key file (this system has no keyring)"
        )
        yield Finding("key", True, f"none needed yet; a new store would use {where}")
        yield Finding("store", True, f"none yet in {home}")
    else:
        yield from _permissions(home)
        yield from _store(home, find_key, clock)
    yield from _bundle(home, clock)


def _clock(clock: Callable[[], float]) -> Iterator[Finding]:
    now_s = clock()
    good = now_s >= EARLIEST_CLOCK_S
    yield Finding(
        "clock", good, spoken_time(now_s) + ("" if good else ": this clock is wrong, so no signature can be dated")
    )


def _disk(home: Path) -> Iterator[Finding]:
    nearest = next(folder for folder in (home, *home.absolute().parents) if folder.is_dir())
    free = free_bytes(nearest)
    writable = os.access(nearest, os.W_OK)
    text = f"{free // (1 << 20)} MiB free"
    yield Finding("disk", free >= LEAST_FREE_BYTES, text + ("" if free >= LEAST_FREE_BYTES else ": make room"))
    if not writable:
        yield Finding("disk", False, f"{nearest} cannot be written by this user")


def _permissions(home: Path) -> Iterator[Finding]:
    paths = [
        home,
        *(home / name for name in (KEY_NAME, STORE_NAME, COUNTER_NAME, QUARANTINE_NAME) if (home / name).exists()),
    ]
    lax = [path for path in paths if open_to_others(path)]
    for path in lax:
        yield Finding("permissions", False, f"{path} is open to other users: chmod go= it")
    if not lax:
        yield Finding("permissions", True, "only this user can read the store")


def _store(
    home: Path, find_key: Callable[[], bytes | str | KeySource | None], clock: Callable[[], float]
) -> Iterator[Finding]:
    try:
        key = find_key()
    except TacitError as error:
        yield Finding("key", False, str(error))
        return
    try:
        with Store(home, key=key) as store:
            found = store.describe()
            latest_s = max((entry["at_s"] for entry in store.table("consent-receipts").entries()), default=0.0)
    except TacitError as error:
        yield Finding("store", False, f"{type(error).__name__}: {error}")
        return
    yield Finding("key", True, f"from {found['key']}")
    yield Finding("store", True, f"{found['size_bytes']} bytes, schema {found['schema']}, {found['commits']} commits")
    if repaired := found["repaired"]:
        yield Finding(
            "store", True, "put right at this opening: " + ", ".join(f"{n} {what}" for what, n in repaired.items())
        )
    if lost := found["quarantine"]:
        tables = ", ".join(lost["tables"]) or "it is not known of what"
        text = f"damage took {lost['commits']} commits ({tables}); their bytes are in {QUARANTINE_NAME}"
        yield Finding("store", not lost["unsafe"], text + (UNSAFE if lost["unsafe"] else ""))
    if latest_s > clock() + 300:
        yield Finding("clock", False, f"it runs backwards: the store was changed on {spoken_time(latest_s)}")


def _bundle(home: Path, clock: Callable[[], float]) -> Iterator[Finding]:
    from edge_client.client import BUNDLE_FOLDER

    folder = home / BUNDLE_FOLDER
    try:
        active = BundleStore(folder, clock).current() if folder.is_dir() else None
        if active is None:
            yield Finding("bundle", False, no_model_text())
            return
        yield from _age(active, clock())
        yield from _model(active)
    except TacitError as error:
        yield Finding("bundle", False, f"{type(error).__name__}: {error}")


def _age(active: ActiveBundle, now_s: float) -> Iterator[Finding]:
    staleness = active.staleness_at(now_s)
    manifest = active.manifest
    text = f"{manifest.domain} model {manifest.version} of fleet {active.trust.fleet!r}, {staleness}"
    if staleness == "stale":
        text += ": not heard from lately; connect once (works meanwhile)"
    if staleness == "expired":
        text += f": past its date since {spoken_time(active.valid_until_s)}; connect once"
    yield Finding("bundle", staleness != "expired", text)


def _model(active: ActiveBundle) -> Iterator[Finding]:
    from edge_client.loaded_models import load_encoder, load_head
    from edge_client.understand.intent import IntentModel

    recognition = IntentModel(load_encoder(active), load_head(active)).recognize("hello")
    yield Finding("model", True, f"loads and answers (hello -> {recognition.intent})")
