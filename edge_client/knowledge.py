"""What is known about the user: profile, events, decisions, and the user's rights over them. Joined here; the rooms do the work.

Capture reads the kept events when it is made, so it is made when it is first asked for: opening a client stays cheap.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge_client.answer.respond import Reply
from edge_client.know.consent import Consent
from edge_client.know.decisions import DecisionLog
from edge_client.know.profile import Profile
from edge_client.know.store import Store
from shared_models.errors import CaptureBusyError, CaptureError, DomainError, InputError, StoreWriteError
from shared_models.profile import ProfileSchema, default_schema
from shared_models.purposes import PERSONALISATION

if TYPE_CHECKING:
    from edge_client.know.capture import Capture
    from edge_client.know.connectors import Intake
    from edge_client.know.rights import Rights

SCHEMA_TABLE = "schema"
SCHEMA_KEY = "app"

_log = logging.getLogger(__name__)


class Knowledge:
    """The rooms behind `client.capture`, `.intake`, `.profile`, `.decisions` and `.rights`. Thread-safe."""

    def __init__(
        self,
        store: Store,
        schema: ProfileSchema | None,
        consent: Consent,
        clock: Callable[[], float],
        more: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`more` gives what other rooms keep, for the export. `schema` None is the one that this home was opened with last,

        or the one that ships. Raises DomainError.
        """
        self._store = store
        self._clock = clock
        self._consent = consent
        self._more = more
        self.schema = self._remembered() if schema is None else schema
        if schema is not None:
            self._remember_schema(schema)
        self.profile = Profile(store, self.schema, clock)
        self.decisions = DecisionLog(store, consent, clock)
        self._capture: Capture | None = None
        self._rights: Rights | None = None
        self._intake: Intake | None = None

    def _remembered(self) -> ProfileSchema:
        # Whoever opens this home beside the app (tacit-device, the sidecar) must know what the app's schema names: what a
        # schema does not name is erased.
        document = self._store.table(SCHEMA_TABLE).get(SCHEMA_KEY)
        if document is None:
            return default_schema()
        try:
            return ProfileSchema.from_document(document)
        except DomainError as error:
            # Not the one that ships: it would erase what the app's own schema names.
            raise DomainError(
                "this version cannot read the schema that was kept here; name it again (schema=…, --schema FILE)"
            ) from error

    def _remember_schema(self, schema: ProfileSchema) -> None:
        document = json.loads(json.dumps(schema.document()))
        try:
            with self._store.transaction():
                table = self._store.table(SCHEMA_TABLE)
                if table.get(SCHEMA_KEY) != document:
                    table.put(SCHEMA_KEY, document)
        except StoreWriteError as error:
            _log.warning("the schema could not be kept for other programs: %s", type(error).__name__)

    @property
    def capture(self) -> Capture:
        with self._store.lock:
            if self._capture is None:
                from edge_client.know.capture import Capture

                self._capture = Capture(self._store, self.schema, self._consent, self.profile, self._clock)
            return self._capture

    @property
    def rights(self) -> Rights:
        with self._store.lock:
            if self._rights is None:
                from edge_client.know.rights import Rights

                self._rights = Rights(
                    self._store, self._consent, self.profile, self.capture, self.decisions, self._clock, self._more
                )
            return self._rights

    @property
    def intake(self) -> Intake:
        with self._store.lock:
            if self._intake is None:
                from edge_client.know.connectors import Intake

                self._intake = Intake(self._store, self.schema, self._consent, self.profile, self.capture, self._clock)
            return self._intake

    def remember(self, reply: Reply) -> None:
        """Note one turn: as a decision with its reasons, and as a `chat` event without the words. Only with consent.

        The user is waiting for an answer: what cannot be noted is logged, never raised.
        """
        if not self._consent.is_granted(PERSONALISATION.name):
            return
        found = reply.recognition
        try:
            self.decisions.record(
                reply.action,
                reply.intent,
                reply.reasons,
                context={
                    "confidence": round(reply.confidence, 4),
                    "rules": list(reply.rule_ids),
                    "model": found.model_version,
                    "own_intent": found.personal,
                },
            )
            properties = {"intent": reply.intent, "out_of_scope": reply.out_of_scope, "words": len(found.text.split())}
            self.capture.receive({"type": "chat", "properties": properties})
        except (StoreWriteError, CaptureBusyError, CaptureError, InputError) as error:
            _log.warning("a turn could not be noted: %s", type(error).__name__)
