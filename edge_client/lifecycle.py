"""The states of a client, for an app that shows one light: not ready, ready, stale, error."""

from __future__ import annotations

from enum import StrEnum

from shared_models.bundle import Staleness
from shared_models.errors import TacitError


class Lifecycle(StrEnum):
    """What the client can do now. The user's rights need none of it: they work in every state but a closed one."""

    NOT_READY = "NOT_READY"
    """Closed, or no bundle has arrived yet."""
    READY = "READY"
    """It answers, from a bundle that its publisher vouches for."""
    STALE = "STALE"
    """It answers, from a bundle past its date: refresh when there is a connection."""
    ERROR = "ERROR"
    """The bundle cannot be used, or part of the store was damaged: `tacit-device doctor` says what to do."""


def lifecycle(*, closed: bool, problem: TacitError | None, quarantined: bool, staleness: Staleness | None) -> Lifecycle:
    """The state. `staleness`: of the active bundle, None without one; `problem`: why its bundle cannot be used."""
    if closed:
        return Lifecycle.NOT_READY
    if problem is not None or quarantined:
        return Lifecycle.ERROR
    if staleness is None:
        return Lifecycle.NOT_READY
    return Lifecycle.READY if staleness == "fresh" else Lifecycle.STALE
