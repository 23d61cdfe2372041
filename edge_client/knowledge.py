"""What is known about the user: profile, events, decisions, what is to be said, and the user's rights. The rooms do the work.

Capture reads the kept events when it is made, so it is made when it is first asked for: opening a client stays cheap.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edge_client.answer.respond import Reply
from edge_client.know.consent import Consent
from edge_client.know.decisions import MAX_REASONS, MAX_WORDS, DecisionLog
from edge_client.know.outcomes import Outcomes
from edge_client.know.profile import Profile
from edge_client.know.store import Store
from shared_models.errors import CaptureBusyError, CaptureError, DomainError, InputError, StoreWriteError
from shared_models.profile import ProfileSchema, default_schema
from shared_models.purposes import PERSONALISATION

if TYPE_CHECKING:
    from edge_client.delivering import Delivering
    from edge_client.know.capture import Capture
    from edge_client.know.connectors import Intake
    from edge_client.know.rights import Rights
    from edge_client.know.triggers import Firing
    from shared_models.context_feed import BroadcastFeed
    from shared_models.travel.catalogue import Catalogue

SCHEMA_TABLE = "schema"
SCHEMA_KEY = "app"
"""The schema that the app named last."""
DOMAIN_KEY = "domain"
"""The schema that came with a bundle last."""

_log = logging.getLogger(__name__)


class Knowledge:
    """The rooms behind `client.capture`, `.intake`, `.profile`, `.decisions`, `.delivery` and `.rights`. Thread-safe."""

    def __init__(
        self,
        store: Store,
        schema: ProfileSchema | None,
        consent: Consent,
        clock: Callable[[], float],
        more: Callable[[], Mapping[str, Any]],
        heard: Callable[[Firing], object] | None = None,
        published: ProfileSchema | None = None,
    ) -> None:
        """`more` gives what other rooms keep, for the export; `heard` is told of events that may be signals.

        `schema` None is the one that this home was opened with last, else `published` (that of the active bundle), else the one
        that a bundle had last, else the one that ships. Raises DomainError.
        """
        self._store = store
        self._clock = clock
        self._consent = consent
        self._more = more
        self._heard = heard
        self.schema = self._remembered(published) if schema is None else schema
        for kept, key in ((schema, SCHEMA_KEY), (published, DOMAIN_KEY)):
            if kept is not None:
                self._remember_schema(kept, key)
        self.profile = Profile(store, self.schema, clock)
        self.decisions = DecisionLog(store, consent, clock)
        self.outcomes = Outcomes(store, consent, self.profile, self.schema.slices, clock)
        self._capture: Capture | None = None
        self._rights: Rights | None = None
        self._intake: Intake | None = None
        self._delivery: Delivering | None = None
        self.places: Callable[[], tuple[Catalogue | None, BroadcastFeed | None]] = _shipped_places
        """What there is to speak of; the owner has the bundle's. Called without the store's lock."""
        # Made only now if it has to: what the caps remember is erased, and must not be open to more at once.
        consent.when_withdrawn(PERSONALISATION.name, lambda: self.delivery.rest())

    def _remembered(self, published: ProfileSchema | None) -> ProfileSchema:
        # Whoever opens this home beside the app (tacit-device, the sidecar) must know what the app's schema names: what a
        # schema does not name is erased. The same holds while the bundle, and its domain's schema, cannot be read.
        table = self._store.table(SCHEMA_TABLE)
        document = table.get(SCHEMA_KEY)
        if document is None and published is not None:
            return published
        document = document or table.get(DOMAIN_KEY)
        if document is None:
            return default_schema()
        try:
            return ProfileSchema.from_document(document)
        except DomainError as error:
            # Not the one that ships: it would erase what the app's own schema names.
            raise DomainError(
                "this version cannot read the schema that was kept here; name it again (schema=…, --schema FILE)"
            ) from error

    def _remember_schema(self, schema: ProfileSchema, key: str) -> None:
        document = json.loads(json.dumps(schema.document()))
        try:
            with self._store.transaction():
                table = self._store.table(SCHEMA_TABLE)
                if table.get(key) != document:
                    table.put(key, document)
        except StoreWriteError as error:
            _log.warning("the schema could not be kept for other programs: %s", type(error).__name__)

    @property
    def capture(self) -> Capture:
        with self._store.lock:
            if self._capture is None:
                from edge_client.know.capture import Capture

                self._capture = Capture(self._store, self.schema, self._consent, self.profile, self._clock)
                if self._heard is not None:
                    from edge_client.decide.event_signals import names_of_events
                    from edge_client.know.triggers import Trigger

                    names = tuple(name for name in names_of_events() if name in self.schema.events)
                    self._capture.on(Trigger("taste", events=names), self._heard)
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

    @property
    def delivery(self) -> Delivering:
        with self._store.lock:
            if self._delivery is None:
                from edge_client.decide.follow_up_facts import facts_from
                from edge_client.delivering import Delivering

                self._delivery = Delivering(self._store, self._consent, self.profile, self._clock)
                self._delivery.facts_from(facts_from(lambda: self.places()))
            return self._delivery

    def remember(self, reply: Reply, conversation: str = "") -> Reply:
        """Note one turn as a decision with its reasons and count how it came out, with consent only: the reply then has its id.

        Raises StoreWriteError.
        """
        found = reply.recognition
        context = {
            "confidence": round(reply.confidence, 4),
            "rules": list(reply.rule_ids),
            "model": found.model_version,
            "own_intent": found.personal,
        }
        try:
            reasons = [reason[:MAX_WORDS] for reason in reply.reasons[:MAX_REASONS]]
            key = self.decisions.record(reply.action, reply.intent, reasons, context=context, conversation=conversation)
        except InputError as error:
            _log.warning("a turn could not be noted: %s", type(error).__name__)
            return reply
        self.outcomes.record("declined" if reply.out_of_scope else "right", language=reply.language)
        return replace(reply, decision_id=key or "")

    def tell(self, reply: Reply) -> None:
        """Note one turn as a `chat` event without the words, with consent only.

        The user is waiting for an answer: what cannot be noted is logged, never raised.
        """
        if not self._consent.is_granted(PERSONALISATION.name):
            return
        self.delivery.used()
        words = len(reply.recognition.text.split())
        properties = {"intent": reply.intent, "out_of_scope": reply.out_of_scope, "words": words}
        try:
            self.capture.receive({"type": "chat", "properties": properties})
        except (StoreWriteError, CaptureBusyError, CaptureError, InputError) as error:
            _log.warning("a turn could not be noted: %s", type(error).__name__)


@lru_cache(maxsize=1)
def _shipped_places() -> tuple[Catalogue | None, BroadcastFeed | None]:
    """The catalogue that ships, and no feed."""
    from shared_models.travel.catalogue import load_catalogue

    return load_catalogue(), None
