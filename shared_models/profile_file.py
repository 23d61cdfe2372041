"""Reads a profile schema from YAML, strictly: unknown fields, repeated keys and aliases are errors that name the field.

    purpose: personalisation           # for all that names none of its own
    attributes:
      NAME: {kind: …, type: …, unit: …, default: …, purpose: …, sensitivity: …, retention_days: …, source: …, choices: […]}
    events:
      NAME: {purpose: …, retention_days: …, properties: {NAME: TYPE, or the same fields as an attribute}}
    funnels:
      NAME: {steps: [EVENT, EVENT, …], within_hours: …}

Attributes need kind, type, retention_days and source. A property is behavioural, observed, and kept as long as its event, unless
it says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from shared_models.attribute_values import CURRENCY_CODE, OF_THE_EVENT, TYPES, ZERO, clean, normalised
from shared_models.errors import ConfigError, DomainError
from shared_models.profile import KINDS, SENSITIVITIES, SOURCES, Attribute, EventType, Funnel, ProfileSchema
from shared_models.purposes import find_purpose

MAX_FILE_BYTES = 256 * 1024
MAX_NAMES = 500
MAX_PROPERTIES = 100
MAX_CHOICES = 500
MAX_RETENTION_DAYS = 3660
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*\Z")
_ATTRIBUTE_FIELDS = frozenset(Attribute.__dataclass_fields__) - {"name"}
_DEFAULT_PURPOSE = "personalisation"


class _StrictLoader(yaml.SafeLoader):
    """No aliases (a few bytes of them stand for gigabytes), no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [child.value for child, _ in node.value if isinstance(child, yaml.ScalarNode)]
        if len(set(keys)) != len(node.value):
            raise yaml.YAMLError("a key stands twice in one mapping, or is not a scalar")
        return super().construct_mapping(node, deep)


def read_schema(raw: bytes) -> ProfileSchema:
    """Raises DomainError."""
    if not isinstance(raw, bytes | bytearray) or len(raw) > MAX_FILE_BYTES:
        raise DomainError(f"profile schema: expected at most {MAX_FILE_BYTES} bytes of YAML")
    try:
        document = yaml.load(bytes(raw).decode("utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise DomainError(f"profile schema: not valid YAML: {error}") from error
    body = _mapping("profile schema", document, MAX_NAMES, {"purpose", "attributes", "events", "funnels"})
    purpose = _purpose("purpose", body.get("purpose", _DEFAULT_PURPOSE))
    attributes = {
        name: _attribute(f"attributes.{name}", name, fields, {"purpose": purpose})
        for name, fields in _named("attributes", body.get("attributes", {}), MAX_NAMES)
    }
    events = {
        name: _event(f"events.{name}", name, fields, purpose)
        for name, fields in _named("events", body.get("events", {}), MAX_NAMES)
    }
    funnels = {
        name: _funnel(f"funnels.{name}", name, fields)
        for name, fields in _named("funnels", body.get("funnels", {}), MAX_PROPERTIES)
    }
    return ProfileSchema(attributes, events, funnels)


def _attribute(where: str, name: str, value: Any, inherited: Mapping[str, Any]) -> Attribute:
    fields = {**inherited, **_mapping(where, value, MAX_NAMES, _ATTRIBUTE_FIELDS)}
    kind = _one_of(f"{where}.type", fields.get("type"), TYPES)
    unit = fields.get("unit", "")
    if not isinstance(unit, str) or len(unit) > 20:
        raise DomainError(f"{where}.unit: expected a short text")
    choices = fields.get("choices", [])
    if (
        not isinstance(choices, list)
        or len(choices) > MAX_CHOICES
        or not all(isinstance(choice, str) for choice in choices)
    ):
        raise DomainError(f"{where}.choices: expected a list of at most {MAX_CHOICES} texts; quote numbers, yes and no")
    try:
        texts = tuple(clean(choice, 100) for choice in choices)
        default = fields.get("default")
        default = ZERO[kind] if default is None else normalised(kind, unit, texts, default)
    except ValueError as error:
        raise DomainError(f"{where}: default or choices: {error}") from None
    if len({text.casefold() for text in texts}) != len(texts) or "" in texts:
        raise DomainError(f"{where}.choices: one stands twice, or is empty")
    return Attribute(
        name=name,
        kind=_one_of(f"{where}.kind", fields.get("kind"), KINDS),
        type=kind,
        unit=unit,
        default=default,
        purpose=_purpose(f"{where}.purpose", fields["purpose"]),
        sensitivity=_one_of(f"{where}.sensitivity", fields.get("sensitivity", "ordinary"), SENSITIVITIES),
        retention_days=_days(f"{where}.retention_days", fields.get("retention_days")),
        source=_one_of(f"{where}.source", fields.get("source"), SOURCES),
        choices=texts,
    )


def _event(where: str, name: str, value: Any, purpose: str) -> EventType:
    fields = _mapping(where, value, MAX_NAMES, {"purpose", "retention_days", "properties"})
    purpose = _purpose(f"{where}.purpose", fields.get("purpose", purpose))
    days = _days(f"{where}.retention_days", fields.get("retention_days"))
    inherited = {"purpose": purpose, "kind": "behavioural", "source": "observed", "retention_days": days}
    properties = {
        key: _attribute(f"{where}.properties.{key}", key, {"type": body} if isinstance(body, str) else body, inherited)
        for key, body in _named(f"{where}.properties", fields.get("properties") or {}, MAX_PROPERTIES)
    }
    for key, attribute in properties.items():
        if attribute.purpose != purpose:
            raise DomainError(f"{where}.properties.{key}.purpose: one event is kept for one purpose, here {purpose!r}")
        if attribute.unit == OF_THE_EVENT and getattr(properties.get("currency"), "unit", "") != CURRENCY_CODE:
            raise DomainError(
                f"{where}.properties.{key}: an amount in the unit `currency` needs a property currency with unit {CURRENCY_CODE}"
            )
    return EventType(name, purpose, days, properties)


def _funnel(where: str, name: str, value: Any) -> Funnel:
    fields = _mapping(where, value, MAX_NAMES, {"steps", "within_hours"})
    steps, hours = fields.get("steps"), fields.get("within_hours", 24)
    if (
        not isinstance(steps, list)
        or not 2 <= len(steps) <= 10
        or not all(isinstance(s, str) and _NAME.match(s) for s in steps)
    ):
        raise DomainError(f"{where}.steps: expected 2 to 10 names of events")
    if len(set(steps)) != len(steps):
        raise DomainError(f"{where}.steps: a step stands twice")
    if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours <= 720:
        raise DomainError(f"{where}.within_hours: expected hours above 0, at most 720")
    return Funnel(name, tuple(steps), float(hours) * 3600.0)


def _mapping(where: str, value: Any, most: int, known: Collection[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(value) > most:
        raise DomainError(f"{where}: expected a mapping of at most {most} entries")
    for key in value:
        if key not in known:
            raise DomainError(
                f"{where}: {str(key)[:60]!r} is not known here; expected one of {', '.join(sorted(known))}"
            )
    return value


def _named(where: str, value: Any, most: int) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or len(value) > most:
        raise DomainError(f"{where}: expected a mapping of at most {most} names")
    for key in value:
        if not isinstance(key, str) or not _NAME.match(key) or len(key) > 64:
            raise DomainError(
                f"{where}: {str(key)[:60]!r} is not a name (lower case letters and digits, joined by single _)"
            )
    return list(value.items())


def _one_of(where: str, value: Any, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise DomainError(f"{where}: {str(value)[:60]!r}, expected one of {', '.join(known)}")
    return value


def _purpose(where: str, value: Any) -> str:
    try:
        return find_purpose(value).name
    except ConfigError as error:
        raise DomainError(f"{where}: {error}") from None


def _days(where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RETENTION_DAYS:
        raise DomainError(f"{where}: {str(value)[:60]!r}, expected whole days from 1 to {MAX_RETENTION_DAYS}")
    return value
