"""The declared mapping from the fields of somebody else's records to the schema's attributes and events.

One `FieldMapping` for each kind of record. What it does not name is dropped, and counted by the name of the field; what it names
is checked by the schema, with one clear error for each field. Nothing here reads files or networks, and nothing is kept here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_client.know.events import TYPES
from edge_client.know.profile import TRUST
from shared_models.attribute_values import unix_seconds
from shared_models.errors import CaptureError, ConfigError
from shared_models.profile import Attribute, EventType, ProfileSchema

MAX_PATH_PARTS = 8
MAX_FIELDS = 500
"""Fields of one record that are looked at; a record with more is refused whole."""
MAX_FIELD_NAME = 120
MAX_IDENTITY = 200

_TRUE = ("true", "yes", "y", "1")
_FALSE = ("false", "no", "n", "0")
_GROUPED = {
    ".": re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})*(\.[0-9]+)?(?![0-9,])"),
    ",": re.compile(r"[+-]?([0-9]{1,3}(\.[0-9]{3})*|[0-9]+)(,[0-9]+)?(?![0-9.])"),
}
"""Decimal sign → a number written with it, perhaps grouped by thousands, perhaps with a unit behind."""


@dataclass(frozen=True, kw_only=True)
class EventMapping:
    """A record that says that something happened: an order, a visit."""

    event: str
    """Name of the event in the schema."""
    id: str
    """Field with what identifies the record at its source: the same record read twice is one event."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Field of the record → property of the event in the schema."""


@dataclass(frozen=True, kw_only=True)
class FieldMapping:
    """What of one kind of record is kept, and as what. A field is a name, or a path with dots into nested objects."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    """Field of the record → attribute in the schema."""
    event: EventMapping | None = None
    at: str = ""
    """Field with the time at which the record was true or happened; without it, the time of reading counts."""
    source: str = "connector"
    """Who says so, for the profile's conflict rules: `connector`, `declared`, `observed`, `inferred` or `context`."""
    decimal: str = "."
    """Decimal sign of numbers in text (CSV)."""

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        event = None if self.event is None else {**self.event.__dict__, "properties": dict(self.event.properties)}
        return {**self.__dict__, "attributes": dict(self.attributes), "event": event}

    def check(self, schema: ProfileSchema) -> None:
        """Raises ConfigError if the mapping names what the schema does not have, or names nothing at all."""
        if self.source not in TRUST or self.source == "correction":
            raise ConfigError(f"mapping: {self.source!r} is not a source of attributes")
        if self.decimal not in (".", ","):
            raise ConfigError(f"mapping: the decimal sign is {self.decimal!r}, expected '.' or ','")
        if not self.attributes and self.event is None:
            raise ConfigError("mapping: it names no attribute and no event, so nothing would be kept")
        for names in (self.attributes, {} if self.event is None else self.event.properties):
            if len(set(names.values())) != len(names):
                raise ConfigError("mapping: two fields go to one name of the schema, so one stands twice")
        for name in self.attributes.values():
            if name not in schema.attributes:
                raise ConfigError(f"mapping: the schema names no attribute {name!r}")
        if self.event is not None:
            # Those of the assistant's own types are not an app's to make.
            if self.event.event not in schema.events or self.event.event in TYPES:
                raise ConfigError(f"mapping: the schema names no event {self.event.event!r}")
            for name in self.event.properties.values():
                if name not in schema.events[self.event.event].properties:
                    raise ConfigError(f"mapping: the event {self.event.event!r} has no property {name!r}")
        for path in self._paths():
            if not isinstance(path, str) or not path.strip() or path.count(".") >= MAX_PATH_PARTS:
                raise ConfigError(f"mapping: {str(path)[:60]!r} is not the name of a field")

    def purposes(self, schema: ProfileSchema) -> frozenset[str]:
        """The purposes that the schema gives to what this mapping names."""
        named = {schema.attributes[name].purpose for name in self.attributes.values()}
        return frozenset(named | ({schema.events[self.event.event].purpose} if self.event is not None else set()))

    def read(self, record: Any, schema: ProfileSchema) -> Mapped:
        """Take out of one record what the mapping names. Empty fields (missing, null, "") are left out.

        Raises CaptureError with one message for each field that cannot be used; then nothing of the record is.
        """
        if not isinstance(record, Mapping):
            raise CaptureError({"record": f"expected an object, got {type(record).__name__}"})
        named = set(self._paths())
        dropped = tuple(path[:MAX_FIELD_NAME] for path in _leaves(record, named))
        errors: dict[str, str] = {}
        at_s = self._time(record, errors)
        attributes: dict[str, Any] = {}
        cleared = []
        for path, name in self.attributes.items():
            cell = _find(record, path)
            if cell is None:
                cleared.append(name)
            elif not _empty(cell):
                try:
                    attributes[name] = schema.check(name, self._typed(cell, schema.attributes[name]))
                except CaptureError as error:
                    errors[path] = "; ".join(error.fields.values())
        identity: str = ""
        properties: Mapping[str, Any] = {}
        if self.event is not None:
            identity = self._identity(record, errors)
            properties = self._properties(record, schema.events[self.event.event], self.event.properties, errors)
        if errors:
            raise CaptureError(errors)
        return Mapped(attributes, tuple(cleared), identity, properties, at_s, dropped)

    def _properties(
        self, record: Mapping[str, Any], event: EventType, mapped: Mapping[str, str], errors: dict[str, str]
    ) -> Mapping[str, Any]:
        paths: dict[str, str] = {}
        given: dict[str, Any] = {}
        for path, name in mapped.items():
            cell = _find(record, path)
            if not _empty(cell):
                paths[name] = path
                try:
                    given[name] = self._typed(cell, event.properties[name])
                except CaptureError as error:
                    errors[path] = "; ".join(error.fields.values())
        try:
            return event.keep(given).values
        except CaptureError as error:
            errors.update((paths.get(name, name), message) for name, message in error.fields.items())
            return {}

    def _typed(self, cell: Any, attribute: Attribute) -> Any:
        """A cell of text in a form that the schema reads; any other cell as it is. Raises CaptureError."""
        if not isinstance(cell, str):
            return cell
        text = cell.strip()
        if attribute.type in ("number", "integer"):
            plain = text.replace("\u00a0", " ")
            if _GROUPED[self.decimal].match(plain):
                group = "," if self.decimal == "." else "."
                return plain.replace(group, "").replace(self.decimal, ".")
            if self.decimal == ",":
                raise CaptureError({attribute.name: "expected a number with the decimal sign ','"})
        elif attribute.type == "boolean":
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}.get(text.casefold(), text)
        elif attribute.type == "list":
            return [part.strip() for part in text.split(";") if part.strip()]
        return text

    def _identity(self, record: Mapping[str, Any], errors: dict[str, str]) -> str:
        assert self.event is not None
        found = _find(record, self.event.id)
        if (
            isinstance(found, bool)
            or not isinstance(found, str | int)
            or not 0 < len(str(found).strip()) <= MAX_IDENTITY
        ):
            errors[self.event.id] = f"expected a text of at most {MAX_IDENTITY} characters that identifies the record"
            return ""
        return str(found).strip()

    def _time(self, record: Mapping[str, Any], errors: dict[str, str]) -> float | None:
        found = _find(record, self.at) if self.at else None
        if _empty(found):
            return None
        try:
            return unix_seconds(found)
        except ValueError as error:
            errors[self.at] = str(error)
            return None

    def _paths(self) -> Iterator[str]:
        yield from self.attributes
        if self.event is not None:
            yield self.event.id
            yield from self.event.properties
        if self.at:
            yield self.at


@dataclass(frozen=True)
class Mapped:
    """What one record says, in the schema's words."""

    attributes: Mapping[str, Any]
    cleared: tuple[str, ...]
    """Attributes of which the record says that there is no value: the field is there, and null."""
    identity: str
    """Of the event's record; empty if the mapping names no event."""
    properties: Mapping[str, Any]
    at_s: float | None
    """Unix time in seconds; None if the record does not say."""
    dropped: tuple[str, ...]
    """Fields of the record that the mapping does not name."""


def _find(record: Mapping[str, Any], path: str) -> Any:
    """The field of that very name, else the one at the end of the path; "" if there is none, None if it is null."""
    if path in record:
        return record[path]
    here: Any = record
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return ""
        here = here[part]
    return here


def _leaves(record: Mapping[str, Any], named: set[str]) -> list[str]:
    """Paths of the record's fields that `named` does not hold; objects are opened only where `named` leads into them."""
    left: list[str] = []
    waiting: list[tuple[str, Mapping[str, Any]]] = [("", record)]
    seen = 0
    while waiting:
        prefix, here = waiting.pop()
        for key, value in here.items():
            seen += 1
            if seen > MAX_FIELDS:
                raise CaptureError({"record": f"more than {MAX_FIELDS} fields"})
            path = f"{prefix}{key}"
            if path in named:
                continue
            if isinstance(value, Mapping) and any(name.startswith(f"{path}.") for name in named):
                waiting.append((f"{path}.", value))
            else:
                left.append(path)
    return left


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
