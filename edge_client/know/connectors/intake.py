"""Where what connectors have read goes in: consent, then profile and events, with the connector's place, in one transaction.

What a reading did is told in counts and names of fields (`Reading`); the values are in the profile and among the events only.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edge_client.know.connectors.mapping import MAX_FIELD_NAME, FieldMapping, Mapped
from edge_client.know.consent import Consent
from edge_client.know.events import MOST_AHEAD_S
from edge_client.know.profile import Profile
from edge_client.know.store import Records, Store
from shared_models.errors import CaptureError, ConfigError, ConsentError
from shared_models.profile import ProfileSchema
from shared_models.purposes import PERSONALISATION

if TYPE_CHECKING:
    from edge_client.know.capture import Capture

MOST_NAMES = 200
"""Names of fields that one reading counts apart; the rest is counted together."""
OTHER_NAMES = "(other)"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")


@dataclass
class Reading:
    """What one reading of one connector did. Names of fields and counts, no values."""

    connector: str
    at_s: float
    pages: int = 0
    """Answers or files with records in them."""
    records: int = 0
    """Records that could be used."""
    attributes: int = 0
    """Values that stand in the profile now."""
    overruled: int = 0
    """Values that a newer or more trusted one overrules."""
    events: int = 0
    not_kept: Counter[str] = field(default_factory=Counter)
    """Events that were not kept, by reason: `duplicate`, `late` …, and what had no consent (`no_consent`)."""
    invalid: Counter[str] = field(default_factory=Counter)
    """Fields that could not be used, by name; their records were left out whole."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Fields that the mapping does not name."""
    unchanged: bool = False
    """True if the source said that nothing is new."""
    more: bool = False
    """True if the limit of this reading was reached; the next one goes on from there."""

    def count(self, counter: Counter[str], names: Sequence[str]) -> None:
        for name in names:
            counter[name if name in counter or len(counter) < MOST_NAMES else OTHER_NAMES] += 1

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**self.__dict__, **{name: dict(getattr(self, name)) for name in ("not_kept", "invalid", "dropped")}}


def check_name(name: object) -> str:
    """The name of a connector, by which the user sees where a value is from. Raises ConfigError."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigError(f"{str(name)[:60]!r} is not a name of a connector: lower case letters, digits, - (40)")
    return name


class Intake:
    """The way into one store for all connectors. Thread-safe."""

    def __init__(
        self,
        store: Store,
        schema: ProfileSchema,
        consent: Consent,
        profile: Profile,
        capture: Capture,
        clock: Callable[[], float],
    ) -> None:
        self.schema = schema
        self._store = store
        self._consent = consent
        self._profile = profile
        self._capture = capture
        self._clock = clock

    def begin(self, connector: str, mappings: Sequence[FieldMapping]) -> Reading:
        """To be called before anything is fetched. Raises ConsentError, ConfigError for a mapping that is not the schema's."""
        for mapping in mappings:
            mapping.check(self.schema)
            self.require(mapping)
        return Reading(connector, float(self._clock()))

    def require(self, mapping: FieldMapping) -> None:
        """Raises ConsentError unless the user allows personalisation and a purpose of what the mapping names."""
        purposes = sorted(mapping.purposes(self.schema))
        if not self._consent.is_granted(PERSONALISATION.name) or not any(map(self._consent.is_granted, purposes)):
            raise ConsentError(f"the user does not allow {' or '.join(purposes)}: nothing is fetched and nothing kept")

    def place(self, connector: str) -> dict[str, Any]:
        """What `take` last kept about the connector itself: where it goes on. Empty at first, and after a withdrawal."""
        return self._table().get(connector) or {}

    def read(self, mapping: FieldMapping, record: Any, reading: Reading) -> Mapped:
        """What of one record can be kept; counts what is dropped. Raises CaptureError with one message for each field."""
        mapped = mapping.read(record, self.schema)
        if mapping.event is not None and mapped.at_s is not None and mapped.at_s > reading.at_s + MOST_AHEAD_S:
            raise CaptureError({mapping.at: "more than a day ahead of this device's clock"})
        reading.records += 1
        reading.count(reading.dropped, mapped.dropped)
        return mapped

    def read_usable(self, mapping: FieldMapping, records: Sequence[Any], reading: Reading) -> list[Mapped]:
        """The same of many; records that cannot be used are left out, and counted by the fields that are wrong."""
        usable = []
        for record in records:
            try:
                usable.append(self.read(mapping, record, reading))
            except CaptureError as error:
                reading.count(reading.invalid, [name[:MAX_FIELD_NAME] for name in error.fields])
        return usable

    def take(
        self, mapping: FieldMapping, mapped: Sequence[Mapped], reading: Reading, place: Mapping[str, Any] | None = None
    ) -> None:
        """Keep what was read, and the connector's place: all of it or nothing.

        Raises ConsentError if the consent is gone since, StoreWriteError.
        """
        with self._store.transaction():
            # The lock is held: no withdrawal can come between this and what is kept.
            self.require(mapping)
            for record in mapped:
                self._keep_attributes(mapping, record, reading)
                self._keep_event(mapping, record, reading)
            if place is not None:
                self._table().put(reading.connector, {**place, "last": reading.document()})

    def finish(self, reading: Reading) -> None:
        """Keep what the whole reading did, for `document`; nothing if the consent is gone since."""
        with self._store.transaction():
            if self._consent.is_granted(PERSONALISATION.name):
                self._table().put(reading.connector, {**self.place(reading.connector), "last": reading.document()})

    def document(self) -> dict[str, Any]:
        """For each connector what its last reading did, as plain JSON."""
        return {name: kept["last"] for name, kept in self._table().items()}

    # -- inside ---------------------------------------------------------------------------------------------------

    def _keep_attributes(self, mapping: FieldMapping, record: Mapped, reading: Reading) -> None:
        at_s = reading.at_s if record.at_s is None else record.at_s
        provenance = f"connector:{reading.connector}"
        for name in record.cleared:
            self._profile.retract(name, source=mapping.source, at_s=at_s, provenance=provenance)
        for name, value in record.attributes.items():
            if not self._consent.is_granted(self.schema.attributes[name].purpose):
                reading.not_kept["no_consent"] += 1
            elif self._profile.observe(name, value, source=mapping.source, at_s=at_s, provenance=provenance):
                reading.attributes += 1
            else:
                reading.overruled += 1

    def _keep_event(self, mapping: FieldMapping, record: Mapped, reading: Reading) -> None:
        if mapping.event is None:
            return
        at_s = reading.at_s if record.at_s is None else record.at_s
        captured = self._capture.receive(
            {
                "type": "track",
                "event": mapping.event.event,
                "messageId": _message_id(reading.connector, mapping.event.event, record.identity),
                "timestamp": datetime.fromtimestamp(at_s, UTC).isoformat(),
                "properties": dict(record.properties),
            }
        )
        if captured.kept:
            reading.events += 1
        else:
            reading.not_kept[captured.reason] += 1

    def _table(self) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        return self._store.table("connectors", purpose=PERSONALISATION.name)


def _message_id(connector: str, event: str, identity: str) -> str:
    """The same for the same record of the same source, and short whatever the source calls it."""
    digest = hashlib.sha256(f"{event}\0{identity}".encode("utf-8", "replace")).hexdigest()
    return f"{connector}:{digest[:32]}"
