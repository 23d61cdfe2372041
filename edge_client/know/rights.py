"""What a user may demand of this device: see and take along, correct, restrict, object, erase. Each demand leaves an audit entry.

The rooms do the work; this is where the demands arrive, so that none is forgotten and the trail is whole. No right needs a
consent: what is kept can be seen and erased whether or not it may be used.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge_client.know.audit import ACCESS, ERASURE, RECTIFICATION, AuditTrail, audit_entry
from edge_client.know.consent import Consent
from edge_client.know.consent_record import iso_time
from edge_client.know.decisions import DecisionLog
from edge_client.know.erasure_certificate import ErasureCertificate
from edge_client.know.store import Store
from shared_models.errors import ConfigError, ConsentError, StoreWriteError

if TYPE_CHECKING:
    from edge_client.know.capture import Capture
    from edge_client.know.profile import Profile

EXPORT_FORMAT = "tacit-export/1"
MAX_DEPTH = 64
_log = logging.getLogger(__name__)

_OBJECT: dict[str, Any] = {"type": "object"}
_OBJECTS: dict[str, Any] = {"type": "array", "items": _OBJECT}
EXPORT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": EXPORT_FORMAT,
    "type": "object",
    "properties": {
        "format": {"const": EXPORT_FORMAT},
        "exported_at_s": {"type": "number"},
        "exported_at": {"type": "string"},
        "store_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "profile": _OBJECT,
        "inferred": _OBJECT,
        "segments": _OBJECT,
        "events": _OBJECTS,
        "decisions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "at_s": {"type": "number"},
                    "kind": {"type": "string"},
                    "chosen": {"type": "string"},
                    "reasons": {"type": "array", "items": {"type": "string"}},
                    "context": _OBJECT,
                },
                "required": ["id", "at_s", "kind", "chosen", "reasons", "context"],
            },
        },
        "consents": {"type": "object", "additionalProperties": _OBJECT},
        "objects_to_profiling": {"type": "boolean"},
        "consent_receipts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"receipt_metadata": _OBJECT, "consent_record": _OBJECT},
                "required": ["receipt_metadata", "consent_record"],
            },
        },
        "notices": {"type": "object", "additionalProperties": {"type": "string"}},
        "capture_quality": _OBJECT,
        "audit": _OBJECTS,
    },
}
"""JSON Schema of an export. What `more` adds stands beside these under names of its own."""
EXPORT_SCHEMA["required"] = list(EXPORT_SCHEMA["properties"])


class Rights:
    """The rights of one store's user. Thread-safe."""

    def __init__(
        self,
        store: Store,
        consent: Consent,
        profile: Profile,
        capture: Capture,
        decisions: DecisionLog,
        clock: Callable[[], float],
        more: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`more` gives what other rooms keep (examples, own intents, privacy receipts, rho spent), as JSON by name."""
        self._store = store
        self._consent = consent
        self._profile = profile
        self._capture = capture
        self._decisions = decisions
        self._clock = clock
        self._more = more
        self._trail = AuditTrail(store, clock)
        self._last_trail: list[dict[str, Any]] | None = None
        """The trail after `erase`, when the store has none any more."""

    def export(self) -> dict[str, Any]:
        """Everything that is kept about the user, as plain JSON in the layout EXPORT_SCHEMA (GDPR, articles 15 and 20).

        Works without any consent and on a device that cannot write (then only the audit entry is missing).
        Raises ConfigError if `more` names something that is in the layout already, StoreClosedError.
        """
        with self._store.lock:
            now_s = float(self._clock())
            self._note_access()
            inferred = {name: value for name, value in self._profile.values().items() if value.source == "inferred"}
            known = {
                "format": EXPORT_FORMAT,
                "exported_at_s": now_s,
                "exported_at": iso_time(now_s),
                "store_id": self._store.describe()["store_id"],
                "profile": self._profile.document(),
                "inferred": inferred,
                "segments": self._capture.windows(),
                "events": self._capture.events(),
                "decisions": self._decisions.recent(len(self._decisions)),
                "consents": self._consent.document(),
                "objects_to_profiling": self._consent.objects_to_profiling,
                "consent_receipts": [receipt.structure() for receipt in self._consent.receipts()],
                "notices": self._consent.notices(),
                "capture_quality": self._capture.quality(),
                "audit": self._trail.entries(),
            }
            more = dict(self._more())
        taken = sorted(set(more) & set(known))
        if taken:
            raise ConfigError(f"the export has these already, give them other names: {', '.join(taken)}")
        exported: dict[str, Any] = _plain({**known, **more})
        return exported

    def correct(self, name: str, value: Any) -> None:
        """The user's word about an attribute of the profile wins from now on (GDPR, article 16), durable on return.

        Allowed while the purpose is restricted or objected to. Raises CaptureError for a name or value that is not the
        schema's, ConsentError if the user has not consented that such a thing is kept, StoreWriteError.
        """
        with self._store.transaction():
            self._profile.correct(name, value)
            purpose = self._profile.document()["attributes"][name]["purpose"]
            if self._consent.given_since(purpose) is None:
                # Raised inside the transaction: so nothing of it is kept.
                raise ConsentError(f"nothing is kept for {purpose!r}, which the user has not allowed; grant it first")
            # Which attribute it was may itself say something about a person, so the trail does not have it.
            self._trail.note(RECTIFICATION, purpose=purpose)

    def restrict(self, purpose: str) -> None:
        """Keep what was kept for `purpose` and stop using it, until `lift`. Raises ConfigError, StoreWriteError."""
        self._consent.restrict(purpose)

    def lift(self, purpose: str) -> None:
        """End a restriction. Raises ConfigError, StoreWriteError."""
        self._consent.lift(purpose)

    def object_to_profiling(self) -> None:
        """No profiling from now on; the assistant goes on without it. Raises StoreWriteError."""
        self._consent.object_to_profiling()

    def withdraw_objection(self) -> None:
        """What was consented to and not withdrawn counts again, unless `Sec-GPC` stands. Raises StoreWriteError."""
        self._consent.withdraw_objection()

    def erase(self) -> ErasureCertificate:
        """Destroy keys, then files, and close the store (GDPR, article 17). Keep the certificate: nothing else remains.

        What it holds is counts, times and the audit trail. Raises StoreClosedError, and StoreWriteError if a file withstands:
        then the keys are gone already, and erasing the folder again can finish.
        """
        with self._store.lock:
            stored = self._store.describe()
            records = {str(name): int(count) for name, count in stored["records"].items()}
            now_s = float(self._clock())
            entry = audit_entry(now_s, ERASURE, counts={"tables": len(records), "records": sum(records.values())})
            trail = [*self._trail.entries(), entry]
            folder = self._store.folder
            withstood = self._store.erase()
            self._last_trail = trail
            self._consent.tell_narrowed()
            return ErasureCertificate.issue(
                store_id=stored["store_id"],
                erased_at_s=now_s,
                records=records,
                commits=int(stored["commits"]),
                withstood=withstood,
                files_left=sum(1 for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0,
                audit=trail,
            )

    def audit(self) -> list[dict[str, Any]]:
        """The trail of exercised rights, oldest first: `at_s`, `right`, `purpose`, `counts`; no personal data."""
        with self._store.lock:
            if self._last_trail is not None:
                return [dict(entry) for entry in self._last_trail]
            return self._trail.entries()

    def _note_access(self) -> None:
        try:
            self._trail.note(ACCESS)
        except StoreWriteError as error:
            # A full disk is no reason to keep anybody from what is known about them.
            _log.warning("an access could not be noted: %s", type(error).__name__)


def _plain(value: Any, depth: int = 0) -> Any:
    """`value` as JSON: dataclasses and mappings as objects, what JSON cannot say as null or `?`. Raises ConfigError."""
    # The most frequent kinds first: a device with many events exports many small values.
    if isinstance(value, str):
        return _whole(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > MAX_DEPTH:
        raise ConfigError(f"an export is at most {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {_whole(str(name)): _plain(entry, depth + 1) for name, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        entries = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [_plain(entry, depth + 1) for entry in entries]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name), depth + 1)
            for field in dataclasses.fields(value)
            if not field.name.startswith("_")
        }
    raise ConfigError(f"an export holds a {type(value).__name__}; expected what JSON can say")


def _whole(text: str) -> str:
    """`text` with half a character (a lone surrogate) replaced: what cannot be encoded could not be written to a file."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
