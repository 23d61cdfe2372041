"""Reads a profile schema from YAML, strictly: unknown fields, repeated keys and aliases are errors that name the field.

    purpose: personalisation           # for all that names none of its own
    attributes:
      NAME: {kind: …, type: …, unit: …, default: …, purpose: …, sensitivity: …, retention_days: …, source: …, choices: […]}
    events:
      NAME: {purpose: …, retention_days: …, properties: {NAME: TYPE, or the same fields as an attribute}}
    funnels:
      NAME: {steps: [EVENT, EVENT, …], within_hours: …}
    never_inferred:                    # besides sensitive.yaml, in its form
      CATEGORY: {title: …, basis: …, stems: …, words: …, alone: …}
    slices:                            # groups whose outcomes are compared (fairness.py), over attributes of ordinary sensitivity
      NAME: {attribute: …, buckets: {BUCKET: [TEXT, …], …}}        the bucket with an empty list takes all other texts
      NAME: {attribute: …, buckets: [BUCKET, …], edges: [NUMBER, …]}

Attributes need kind, type, retention_days and source. A property is behavioural, observed, and kept as long as its event, unless
it says otherwise. What is never inferred (sensitive.py) may be declared by the user: then it is `special` and names its purpose.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from shared_models.attribute_values import CURRENCY_CODE, OF_THE_EVENT, TYPES, ZERO, clean, normalised
from shared_models.errors import ConfigError, DomainError, SensitiveError
from shared_models.fairness import MAX_SLICES, SliceSource
from shared_models.profile import KINDS, SENSITIVITIES, SOURCES, Attribute, EventType, Funnel, ProfileSchema
from shared_models.purposes import find_purpose
from shared_models.sensitive import read_categories, sensitive_list

MAX_FILE_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NAMES = 500
MAX_PROPERTIES = 100
MAX_CHOICES = 500
MAX_RETENTION_DAYS = 3660
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*\Z")
_SECTIONS = {"purpose", "attributes", "events", "funnels", "never_inferred", "slices"}
_ATTRIBUTE_FIELDS = frozenset(Attribute.__dataclass_fields__) - {"name"}
_DEFAULT_PURPOSE = "personalisation"


# The parser in C, where there is one, is ten times as fast, and as safe once the events were looked through.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_Loader):  # type: ignore[misc]
    """No key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [child.value for child, _ in node.value if isinstance(child, yaml.ScalarNode)]
        if len(set(keys)) != len(node.value):
            raise yaml.YAMLError("a key stands twice in one mapping, or is not a scalar")
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def _refuse_tricks(text: str) -> None:
    """No aliases (a few bytes of them stand for gigabytes) and no depth that a reader would recurse into. Raises YAMLError."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH}")


def read_schema(raw: bytes) -> ProfileSchema:
    """Raises DomainError."""
    if not isinstance(raw, bytes | bytearray) or len(raw) > MAX_FILE_BYTES:
        raise DomainError(f"profile schema: expected at most {MAX_FILE_BYTES} bytes of YAML")
    try:
        text = bytes(raw).decode("utf-8")
        _refuse_tricks(text)
        document = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise DomainError(f"profile schema: not valid YAML: {error}") from error
    body = _mapping("profile schema", document, MAX_NAMES, _SECTIONS)
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
    added = read_categories(body.get("never_inferred", {}), "never_inferred")
    slices = {
        name: _slice(f"slices.{name}", fields) for name, fields in _named("slices", body.get("slices", {}), MAX_SLICES)
    }
    return ProfileSchema(attributes, events, funnels, added, slices)


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
    inherited_purpose = fields.get("sensitivity") == "special" and "purpose" not in value
    if inherited_purpose and (found := sensitive_list().category(name)):
        title = sensitive_list().categories[found].title
        raise SensitiveError(
            f"{where}.purpose: {title} needs a purpose of its own, named here, for an explicit consent"
        )
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


def _slice(where: str, value: Any) -> SliceSource:
    fields = _mapping(where, value, 3, {"attribute", "buckets", "edges"})
    buckets, edges = fields.get("buckets"), fields.get("edges", [])
    try:
        if isinstance(buckets, dict) and all(isinstance(texts, list) for texts in buckets.values()) and not edges:
            return SliceSource(str(fields.get("attribute")), tuple(buckets), tuple(map(tuple, buckets.values())))
        if isinstance(buckets, list) and isinstance(edges, list):
            return SliceSource(str(fields.get("attribute")), tuple(buckets), (), tuple(edges))
        raise ConfigError("expected buckets with their texts, or a list of buckets with edges")
    except (ConfigError, TypeError) as error:
        raise DomainError(f"{where}: {error}") from None


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
