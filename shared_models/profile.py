"""What an app may know about a user: attributes, events and what an event may carry. What is not named here is not kept.

The schema that ships is profile.yaml beside this file; an app extends it by one file of the same form (`extended`). How a value
is read stands in attribute_values.py, how the file is read in profile_file.py, what no schema may infer in sensitive.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from shared_models.attribute_values import CURRENCY_CODE, OF_THE_EVENT, amount_and_currency, normalised
from shared_models.errors import CaptureError, DomainError, SensitiveError
from shared_models.fairness import SliceSource
from shared_models.purposes import PURPOSES
from shared_models.sensitive import Category, SensitiveList, check_features, read_categories, sensitive_list

KINDS = ("behavioural", "contextual", "demographic")
SENSITIVITIES = ("ordinary", "personal", "special")
"""From least to most. `special` are the categories of GDPR article 9: only ever what the user declares, never inferred."""
SOURCES = ("declared", "observed", "inferred", "context", "connector")


@dataclass(frozen=True)
class Attribute:
    """One thing that may be known about a user, or one property of an event."""

    name: str
    kind: str
    """`behavioural`, `contextual` or `demographic`."""
    type: str
    """One of attribute_values.TYPES."""
    unit: str
    """Unit in which a number is kept (km, degC, EUR …), or form of a text (BCP 47, ISO 4217, ISO 3166-1); "" for none."""
    default: Any
    """What rules see while nothing is known."""
    purpose: str
    """The consent that it needs."""
    sensitivity: str
    """`ordinary`, `personal` or `special`."""
    retention_days: int
    source: str
    """Where it comes from: `declared`, `observed`, `inferred`, `context` or `connector`."""
    choices: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**self.__dict__, "choices": list(self.choices)}


@dataclass(frozen=True)
class Kept:
    """What is left of the properties of one event."""

    values: Mapping[str, Any]
    """Named and normalised."""
    dropped: tuple[str, ...]
    """Names that the schema does not know."""
    missing: tuple[str, ...]
    """Names that the schema knows and the event does not carry."""


@dataclass(frozen=True)
class EventType:
    """One kind of event, and what it may carry."""

    name: str
    purpose: str
    """The consent that it needs."""
    retention_days: int
    properties: Mapping[str, Attribute]

    def keep(self, properties: Mapping[str, Any]) -> Kept:
        """Data minimisation and normalisation of one event's properties. Raises CaptureError with one message per field.

        Names may be written otherwise than in the schema (`productId`); one that is written as there wins. None is no value.
        An amount in the unit `currency` needs the event's `currency`, beside it or inside ({"amount": 5, "currency": "EUR"}).
        """
        named: dict[str, Any] = {}
        dropped = []
        for spelling, value in properties.items():
            name = spelling if spelling in self.properties else canonical_name(spelling)
            if name not in self.properties:
                dropped.append(str(spelling))
            elif spelling == name or name not in named:
                named[name] = value
        given = {name: value for name, value in named.items() if value is not None}
        problems: dict[str, str] = {}
        for name, value in list(given.items()):
            if self.properties[name].unit == OF_THE_EVENT:
                given[name], code = amount_and_currency(value)
                if code is not None and given.setdefault("currency", code) != code:
                    problems[name] = "another currency than that of the event"
        values: dict[str, Any] = {}
        for name, value in given.items():
            try:
                values[name] = _normalised(self.properties[name], value)
            except ValueError as error:
                problems[name] = str(error)
        for name in values:
            if self.properties[name].unit == OF_THE_EVENT and "currency" not in given:
                problems[name] = (
                    f"an amount of money needs its currency in the property `currency` ({CURRENCY_CODE}, such as EUR)"
                )
        if problems:
            raise CaptureError(problems)
        return Kept(
            values,
            tuple(dropped),
            tuple(name for name in self.properties if name not in values),
        )

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        properties = {name: attribute.document() for name, attribute in self.properties.items()}
        return {**self.__dict__, "properties": properties}


@dataclass(frozen=True)
class Funnel:
    """Steps that are expected one after the other."""

    name: str
    steps: tuple[str, ...]
    """Names of events."""
    within_s: float
    """An attempt that takes longer begins anew."""


@dataclass(frozen=True)
class ProfileSchema:
    """All that may be known. Immutable.

    Raises SensitiveError for an attribute, event or property that speaks of what is never inferred, unless the user declares it
    (`source: declared`, `sensitivity: special`), and for a special one of another source.
    """

    attributes: Mapping[str, Attribute]
    events: Mapping[str, EventType]
    funnels: Mapping[str, Funnel] = field(default_factory=dict)
    never_inferred: tuple[Category, ...] = ()
    """What an app adds to the list that ships (sensitive.yaml)."""
    slices: Mapping[str, SliceSource] = field(default_factory=dict)
    """Groups of users between which the assistant's outcomes are compared."""

    def __post_init__(self) -> None:
        for name, attribute in self.attributes.items():
            self._check_sensitive(f"attributes.{name}", attribute)
        for name, event in self.events.items():
            if found := self.sensitive.category(name):
                raise SensitiveError(f"events.{name}: {self.sensitive.categories[found].title} is never observed")
            for key, attribute in event.properties.items():
                self._check_sensitive(f"events.{name}.properties.{key}", attribute)
        for name, source in self.slices.items():
            check_features([name, *source.buckets], where=f"slices.{name}", known=self.sensitive)
            told = self.attributes.get(source.attribute)
            if not source.of_use and (told is None or told.sensitivity != "ordinary"):
                raise DomainError(
                    f"slices.{name}.attribute: {source.attribute!r} is not an attribute of ordinary sensitivity of this schema"
                )

    def _check_sensitive(self, where: str, attribute: Attribute) -> None:
        declared = attribute.source == "declared"
        texts = (attribute.name,) if declared else (attribute.name, *attribute.choices)
        found = next(filter(None, map(self.sensitive.category, texts)), "")
        title = self.sensitive.categories[found].title if found else "what is special"
        if declared and found and attribute.sensitivity != "special":
            raise SensitiveError(f"{where}.sensitivity: {title} is kept only as `special`, with a purpose of its own")
        if not declared and (found or attribute.sensitivity == "special"):
            raise SensitiveError(
                f"{where}.source: {title} is never {attribute.source}; the user may declare it (source: declared, "
                "sensitivity: special, with a purpose)"
            )

    @cached_property
    def sensitive(self) -> SensitiveList:
        """What is never inferred: the list that ships and what this schema adds."""
        return sensitive_list().with_more(self.never_inferred) if self.never_inferred else sensitive_list()

    @cached_property
    def special(self) -> frozenset[str]:
        """Names of the attributes that are never a feature."""
        return frozenset(name for name, attribute in self.attributes.items() if attribute.sensitivity == "special")

    def may_infer(self, attribute: Attribute, value: Any) -> bool:
        """False for an attribute or a value, or one of a list of values, that speaks of what is never inferred."""
        texts = value if isinstance(value, list) else [value]
        said = (attribute.name, *(text for text in texts if isinstance(text, str)))
        return attribute.sensitivity != "special" and self.sensitive.found_in(said) is None

    def check_features(self, names: Iterable[str], where: str = "features") -> None:
        """Refuse names of features for what is never inferred and for this schema's special attributes. Raises SensitiveError."""
        check_features(names, where=where, special=self.special, known=self.sensitive)

    def attribute(self, name: str) -> Attribute | None:
        """The attribute called exactly `name` (`canonical_name` turns other spellings into it); None if the schema has none."""
        return self.attributes.get(name) if isinstance(name, str) else None

    def event(self, name: str) -> EventType | None:
        """The event called `name`, however it is written (`Product Viewed`); None if the schema has none."""
        return self.events.get(canonical_name(name))

    def check(self, name: str, value: Any) -> Any:
        """`value` in the form in which attribute `name` is kept. Raises CaptureError."""
        attribute = self.attribute(name)
        if attribute is None:
            raise CaptureError({str(name)[:60]: "the schema does not name this attribute, so it is not kept"})
        try:
            return _normalised(attribute, value)
        except ValueError as error:
            raise CaptureError({attribute.name: str(error)}) from None

    def extended(self, other: ProfileSchema) -> ProfileSchema:
        """This schema with what `other` adds. Raises DomainError.

        What both name must agree in type, unit, kind, purpose and source. `other` may shorten how long it is kept and raise its
        sensitivity, never the opposite, and sets default and choices.
        """
        attributes = _merged("attributes", self.attributes, other.attributes)
        events = dict(self.events)
        for name, event in other.events.items():
            before = events.get(name)
            if before is None:
                events[name] = event
                continue
            if before.purpose != event.purpose:
                raise DomainError(f"events.{name}.purpose: is {before.purpose!r} in the schema that is extended")
            properties = _merged(f"events.{name}.properties", before.properties, event.properties)
            days = min(before.retention_days, event.retention_days)
            events[name] = EventType(name, event.purpose, days, properties)
        return ProfileSchema(
            attributes,
            events,
            {**self.funnels, **other.funnels},
            tuple(SensitiveList(self.never_inferred).with_more(other.never_inferred).categories.values()),
            {**self.slices, **other.slices},
        )

    @classmethod
    def from_yaml(cls, raw: bytes) -> ProfileSchema:
        """Read a schema; form in profile.yaml. Raises DomainError that names the field."""
        from shared_models.profile_file import read_schema

        return read_schema(raw)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ProfileSchema:
        """The schema of which `document` is the `document()`. Raises DomainError for anything else."""
        try:
            attributes = _from_documents(document["attributes"])
            events = {
                name: EventType(**{**event, "properties": _from_documents(event["properties"])})
                for name, event in document["events"].items()
            }
            funnels = {
                name: Funnel(name, tuple(funnel["steps"]), float(funnel["within_s"]))
                for name, funnel in document["funnels"].items()
            }
            # Documents of earlier versions have neither.
            added = read_categories(document.get("never_inferred", {}), "never_inferred")
            slices = {name: SliceSource.from_document(item) for name, item in document.get("slices", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DomainError(f"not the document of a profile schema: {type(error).__name__}") from None
        return cls(attributes, events, funnels, added, slices)

    def document(self) -> dict[str, Any]:
        """The whole schema as plain JSON."""
        return {
            "attributes": {name: attribute.document() for name, attribute in self.attributes.items()},
            "events": {name: event.document() for name, event in self.events.items()},
            "funnels": {
                name: {"steps": list(funnel.steps), "within_s": funnel.within_s}
                for name, funnel in self.funnels.items()
            },
            "never_inferred": {one.name: one.document() for one in self.never_inferred},
            "slices": {name: source.document() for name, source in self.slices.items()},
            "purposes": sorted(PURPOSES),
        }


PROFILE_FILE = Path(__file__).parent / "profile.yaml"
"""The schema that ships."""


@cache
def default_schema() -> ProfileSchema:
    """The schema that ships: made for no domain in particular."""
    return ProfileSchema.from_yaml(PROFILE_FILE.read_bytes())


def canonical_name(name: Any) -> str:
    """How a name is written in a schema: `Product Viewed`, `productViewed`, `product-viewed` -> `product_viewed`.

    "" for what cannot be a name.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 100:
        return ""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _from_documents(documents: Mapping[str, Any]) -> dict[str, Attribute]:
    return {
        name: Attribute(**{**document, "choices": tuple(document["choices"])}) for name, document in documents.items()
    }


def _normalised(attribute: Attribute, value: Any) -> Any:
    return normalised(attribute.type, attribute.unit, attribute.choices, value)


def _merged(where: str, ours: Mapping[str, Attribute], theirs: Mapping[str, Attribute]) -> dict[str, Attribute]:
    merged = dict(ours)
    for name, attribute in theirs.items():
        before = ours.get(name)
        if before is not None:
            for fixed in ("type", "unit", "kind", "purpose", "source"):
                if getattr(before, fixed) != getattr(attribute, fixed):
                    raise DomainError(
                        f"{where}.{name}.{fixed}: is {getattr(before, fixed)!r} in the schema that is extended; "
                        "give what you mean another name"
                    )
            if attribute.retention_days > before.retention_days:
                raise DomainError(
                    f"{where}.{name}.retention_days: at most {before.retention_days}, as in the schema that is extended"
                )
            if SENSITIVITIES.index(attribute.sensitivity) < SENSITIVITIES.index(before.sensitivity):
                raise DomainError(
                    f"{where}.{name}.sensitivity: at least {before.sensitivity!r}, as in the schema that is extended"
                )
        merged[name] = attribute
    return merged
