"""One event: from what an app sends, in the form of the Segment spec, to what is kept of it. Pure; nothing here is stored.

Kept are the name of the event, when it happened, and the properties that the schema names. Not kept: ids of the user and the
device (a store belongs to one user), pages' addresses and titles, IP address, user agent, texts. The zone of a time is kept in
whole hours only.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from shared_models.attribute_values import moment
from shared_models.canonical import parse_document
from shared_models.errors import CaptureError, WireError
from shared_models.profile import EventType, Kept, ProfileSchema, canonical_name

TYPES = ("identify", "track", "page", "screen", "group", "alias", "chat", "feedback", "context")

MAX_RAW_BYTES = 512 * 1024
MAX_DEPTH = 20
MAX_VALUES = 2000
"""Values in one event, at all depths."""
MAX_CHARS = 64 * 1024
"""Characters of all texts and names of one event together."""
MAX_NAME_CHARS = 200
"""Of one name in an event, and of an id."""

MOST_AHEAD_S = 86_400.0
"""An event further in the future than this is refused; up to it, it happened now."""
SENT_BEFORE_S = 300.0
"""A device may have set its clock between making an event and sending it: by this much it may be sent before it happened."""
OLDEST_S = 366 * 86_400.0
"""Older events are not kept, nor those that have outlived their retention when they arrive."""

KEPT = "kept"
NO_CONSENT = "no_consent"
NOT_IN_SCHEMA = "not_in_schema"
DUPLICATE = "duplicate"
TOO_OLD = "too_old"

_IDS = ("userId", "anonymousId", "previousId", "groupId")
_REQUIRED = {"track": "event", "group": "groupId", "alias": "previousId"}


@dataclass(frozen=True)
class Captured:
    """What became of one event."""

    kept: bool
    reason: str
    """`kept`, `no_consent`, `not_in_schema`, `duplicate` or `too_old`."""
    message_id: str
    dropped: tuple[str, ...] = ()
    """Names of fields that the schema does not know."""


@dataclass(frozen=True)
class Event:
    """One kept event."""

    key: str
    """Of its record."""
    type: str
    """One of TYPES."""
    name: str
    """As in the schema: `product_viewed`; for other types than track the type itself."""
    at_s: float
    """When it happened: Unix seconds by this device's clock."""
    received_s: float
    offset_h: int | None
    """Local time minus UTC, in whole hours; None if unknown."""
    properties: Mapping[str, Any]

    @classmethod
    def from_record(cls, key: str, record: Mapping[str, Any]) -> Event:
        return cls(
            key,
            record["type"],
            record["name"],
            record["at_s"],
            record["received_s"],
            record["offset_h"],
            record["properties"],
        )

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**self.__dict__, "properties": dict(self.properties)}


@dataclass(frozen=True)
class Draft:
    """One event as it was read: valid, normalised, not yet kept."""

    kind: EventType
    type: str
    message_id: str
    """As the app gave it, or a random one."""
    at_s: float
    received_s: float
    offset_h: int | None
    kept: Kept
    attributes: Mapping[str, Any]
    """What it says about the user: attribute -> value. It goes to the profile and is not stored twice."""
    surroundings: Mapping[str, Any]
    """What its `context` says: contextual attribute -> value."""
    skewed: bool
    """True if its time was ahead of this device's clock, and is now the time of its arrival."""

    @property
    def id(self) -> str:
        """What duplicates are found by: a hash, because an id may say something about a person."""
        return hashlib.sha256(self.message_id.encode("utf-8", "surrogatepass")).hexdigest()[:24]

    @property
    def expires_s(self) -> float:
        return expiry(self.kind, self.at_s, self.kept.values)

    def record(self) -> dict[str, Any]:
        """What is stored."""
        return {
            "id": self.id,
            "type": self.type,
            "name": self.kind.name,
            "at_s": self.at_s,
            "received_s": self.received_s,
            "offset_h": self.offset_h,
            "properties": dict(self.kept.values),
        }


def expiry(kind: EventType, at_s: float, properties: Mapping[str, Any]) -> float:
    """When an event is to be erased: by the shortest retention among the event's own and those of what it carries."""
    days = kind.retention_days
    for name in properties:
        attribute = kind.properties.get(name)
        if attribute is not None and attribute.retention_days < days:
            days = attribute.retention_days
    return at_s + days * 86_400.0


def parse_event(raw: bytes) -> dict[str, Any]:
    """A JSON object from an untrusted source. Raises CaptureError: too large, not JSON, a key twice, NaN, too deep."""
    try:
        document = parse_document(raw, limit_bytes=MAX_RAW_BYTES)
    except WireError as error:
        # What the parser says may quote the event.
        cause = error.__cause__
        why = (
            "nested too deeply"
            if isinstance(cause, RecursionError)
            else "not a JSON object without repeated keys and NaN"
        )
        if len(raw) > MAX_RAW_BYTES:
            why = f"{len(raw)} bytes, at most {MAX_RAW_BYTES} are accepted"
        raise CaptureError({"event": why}) from None
    check_size(document)
    return document


def check_size(document: Any) -> None:
    """Raises CaptureError for what is no mapping, or larger, deeper or more than one event may be. Does not recurse."""
    if not isinstance(document, Mapping):
        raise CaptureError({"event": f"expected an object, got {type(document).__name__}"})
    values, chars = 0, 0
    waiting: list[tuple[Any, int]] = [(document, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise CaptureError({"event": f"nested more than {MAX_DEPTH} deep"})
        if isinstance(value, Mapping):
            for name in value:
                if not isinstance(name, str) or len(name) > MAX_NAME_CHARS:
                    raise CaptureError({"event": f"a name in it is not a text of at most {MAX_NAME_CHARS} characters"})
                chars += len(name)
            children = list(value.values())
        elif isinstance(value, list | tuple):
            children = list(value)
        else:
            chars += len(value) if isinstance(value, str | bytes | bytearray) else 0
            children = []
        values += len(children)
        if values > MAX_VALUES or chars > MAX_CHARS:
            raise CaptureError({"event": f"more than {MAX_VALUES} values or {MAX_CHARS} characters"})
        waiting += [(child, depth + 1) for child in children]


def event_type_of(document: Mapping[str, Any], schema: ProfileSchema) -> tuple[str, EventType | None]:
    """Type of an event, and what the schema says about it; None if it does not name it. Raises CaptureError."""
    kind = document.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise CaptureError({"type": f"expected one of {', '.join(TYPES)}"})
    if kind != "track":
        return kind, schema.events.get(kind)
    name = document.get("event")
    if not isinstance(name, str) or not canonical_name(name):
        raise CaptureError({"event": "a track event needs its name, a text of at most 100 characters"})
    found = schema.event(name)
    # An app cannot smuggle `track: identify` past the rules for identify.
    return kind, None if found is None or found.name in TYPES else found


def read_event(
    document: Mapping[str, Any], kind: str, event_type: EventType, schema: ProfileSchema, received_s: float
) -> Draft:
    """Validate and normalise one event that arrived at `received_s` (Unix seconds). Raises CaptureError with all its fields."""
    problems: dict[str, str] = {}
    message_id = document.get("messageId")
    if message_id is None:
        message_id = secrets.token_hex(12)
    elif not isinstance(message_id, str) or not 0 < len(message_id) <= MAX_NAME_CHARS:
        problems["messageId"] = f"expected a text of 1 to {MAX_NAME_CHARS} characters"
    required = _REQUIRED.get(kind)
    if required is not None and document.get(required) in (None, ""):
        problems[required] = f"missing; {kind} needs it"
    for name in _IDS:
        given = document.get(name)
        if given is not None and not (isinstance(given, str | int) and not isinstance(given, bool)):
            problems[name] = "expected a text or a whole number"
    parts = {name: _part(document, name, problems) for name in ("properties", "traits", "context")}
    at_s, offset_h, skewed = _when(document, received_s, problems)
    carried = dict(parts["traits"] if kind == "group" else parts["properties"])
    if kind in ("page", "screen"):
        carried |= {name: document[name] for name in ("name", "category") if document.get(name) is not None}
    attributes: dict[str, Any] = {}
    dropped: list[str] = []
    kept = Kept({}, (), ())
    if kind in ("identify", "context"):
        where = "traits" if kind == "identify" else "properties"
        _read_attributes(parts[where], where, kind, schema, attributes, dropped, problems)
    else:
        try:
            kept = event_type.keep(carried)
        except CaptureError as error:
            where = "traits" if kind == "group" else "properties"
            problems |= {f"{where}.{name}": problem for name, problem in error.fields.items()}
    if problems:
        raise CaptureError(problems)
    surroundings = read_surroundings(parts["context"], schema, received_s, dropped)
    if "utc_offset_h" in surroundings:
        offset_h = int(surroundings["utc_offset_h"])
    kept = Kept(kept.values, (*kept.dropped, *dropped), kept.missing)
    return Draft(event_type, kind, str(message_id), at_s, received_s, offset_h, kept, attributes, surroundings, skewed)


def read_surroundings(
    context: Mapping[str, Any], schema: ProfileSchema, now_s: float, dropped: list[str]
) -> dict[str, Any]:
    """Contextual attributes in an event's `context` (Segment spec, common fields). What cannot be read is left out, not refused:

    a library fills it in and the app cannot mend it. Names of what is left out are added to `dropped`.
    """
    read: dict[str, Any] = {}
    for field, given in context.items():
        name, value = _surrounding(field, given, now_s)
        attribute = schema.attribute(name)
        try:
            if attribute is None or attribute.source != "context" or value is None:
                raise CaptureError({field: "not known here"})
            read[name] = schema.check(name, value)
        except CaptureError:
            dropped.append(f"context.{field}")
    return read


def _surrounding(field: str, given: Any, now_s: float) -> tuple[str, Any]:
    """Attribute and value of one field of an event's context; "" for what is not read."""
    if field == "locale":
        return "locale", given
    if field == "timezone":
        return "utc_offset_h", _offset_of_zone(given, now_s)
    if field == "device" and isinstance(given, Mapping):
        return "device_type", _DEVICES.get(_word(given.get("type")))
    if field == "os" and isinstance(given, Mapping):
        return "os", _SYSTEMS.get(_word(given.get("name")))
    if field == "location":
        return "place", given
    return "", None


def _word(value: Any) -> str:
    return value[:40].casefold() if isinstance(value, str) else ""


_DEVICES = {
    **dict.fromkeys(("ios", "android", "mobile", "phone", "iphone", "smartphone"), "phone"),
    **dict.fromkeys(("tablet", "ipad"), "tablet"),
    **dict.fromkeys(("desktop", "laptop", "computer"), "desktop"),
    **dict.fromkeys(("tv", "smarttv", "tvos"), "tv"),
    **dict.fromkeys(("watch", "wearable"), "watch"),
}
_SYSTEMS = {
    **dict.fromkeys(("ios", "iphone os", "ipados"), "ios"),
    "android": "android",
    **dict.fromkeys(("mac os x", "macos", "mac os", "darwin"), "macos"),
    "windows": "windows",
    **dict.fromkeys(("linux", "gnu/linux", "ubuntu", "debian"), "linux"),
}


def _part(document: Mapping[str, Any], name: str, problems: dict[str, str]) -> Mapping[str, Any]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        problems[name] = f"expected an object, got {type(value).__name__}"
        return {}
    return value


def _read_attributes(
    given: Mapping[str, Any],
    where: str,
    kind: str,
    schema: ProfileSchema,
    attributes: dict[str, Any],
    dropped: list[str],
    problems: dict[str, str],
) -> None:
    for spelling, value in given.items():
        name = spelling if spelling in schema.attributes else canonical_name(spelling)
        attribute = schema.attribute(name)
        # A context event tells about the surroundings; identify tells about the user, and may tell those as well.
        if attribute is None or (kind == "context" and attribute.source != "context"):
            dropped.append(spelling)
        elif value is not None and (spelling == name or name not in attributes):
            try:
                attributes[name] = schema.check(name, value)
            except CaptureError as error:
                problems |= {f"{where}.{field}": problem for field, problem in error.fields.items()}


def _when(document: Mapping[str, Any], received_s: float, problems: dict[str, str]) -> tuple[float, int | None, bool]:
    """When it happened by this device's clock (Segment spec, "timestamps in Segment": receivedAt - (sentAt - timestamp)),

    the zone in whole hours, and whether the time was ahead of the clock.
    """
    read: dict[str, tuple[float, int | None]] = {}
    for name in ("timestamp", "sentAt"):
        value = document.get(name)
        if value is not None:
            try:
                read[name] = moment(value)
            except ValueError as error:
                problems[name] = str(error)
    if "timestamp" not in read:
        return round(received_s, 3), None, False
    made_s, offset_h = read["timestamp"]
    at_s = made_s
    if "sentAt" in read:
        delay_s = read["sentAt"][0] - made_s
        if delay_s < -SENT_BEFORE_S:
            problems["timestamp"] = "lies after sentAt"
        at_s = received_s - delay_s
    elif at_s > received_s + MOST_AHEAD_S:
        problems["timestamp"] = "more than a day ahead of this device's clock"
    # Zero is what libraries send that know no zone.
    return round(min(at_s, received_s), 3), offset_h or None, at_s > received_s


def _offset_of_zone(name: Any, now_s: float) -> int | None:
    if not isinstance(name, str) or not 0 < len(name) <= 60:
        return None
    try:
        shift = datetime.fromtimestamp(now_s, UTC).astimezone(ZoneInfo(name)).utcoffset()
    except (ValueError, OSError, KeyError, OverflowError):
        return None
    return None if shift is None else round(shift.total_seconds() / 3600)
