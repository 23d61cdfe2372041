"""The first rule set: typed YAML for authors, canonical JSON for devices.

Four kinds, applied in this order: `deny` and `allow` are hard (a denied intent is never acted on; if any `allow` stands, all
others are denied), `boost` adds to an intent's confidence before the choice, `reply` replaces the template.

A `deny` may instead be about suggested items: by `items` (ids), `countries`, `features` (name: least), any of which denies. Such
an item is never suggested, whatever was learned. rules/items.py resolves them against a catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shared_models.errors import DomainError

KINDS = ("deny", "allow", "boost", "reply")
MAX_RULES = 2000
MAX_TEXT_CHARS = 2000
MAX_BOOST = 1.0
MAX_ITEMS = 2000
"""Items, countries and features that one rule may name."""
_ABOUT_ITEMS = ("items", "countries", "features")
_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,79}")
_COUNTRY = re.compile(r"[A-Z]{2}")


@dataclass(frozen=True)
class Rule:
    """One rule. `reason` is shown to the user whenever the rule takes part in an answer."""

    id: str
    kind: str
    intents: tuple[str, ...]
    reason: str
    boost: float = 0.0
    """Added to the intent's probability before the choice, −1..1; only for `boost`."""
    reply: str = ""
    """What is said instead; needed for `reply`, optional for `deny` of intents."""
    items: tuple[str, ...] = ()
    """Ids of items that are denied."""
    countries: tuple[str, ...] = ()
    """Items of these countries are denied; ISO 3166-1, two letters."""
    features: tuple[tuple[str, float], ...] = ()
    """(feature of the catalogue, least value 0..1): items that have at least so much of one of them are denied."""

    @property
    def about_items(self) -> bool:
        return bool(self.items or self.countries or self.features)

    def document(self) -> dict[str, Any]:
        body: dict[str, Any] = {"id": self.id, "kind": self.kind, "reason": self.reason}
        if self.intents or not self.about_items:
            body["intents"] = list(self.intents)
        if self.items:
            body["items"] = list(self.items)
        if self.countries:
            body["countries"] = list(self.countries)
        if self.features:
            body["features"] = dict(self.features)
        if self.kind == "boost":
            body["boost"] = self.boost
        if self.reply:
            body["reply"] = self.reply
        return body


@dataclass(frozen=True)
class RuleSet:
    """All rules of a bundle, in the author's order."""

    rules: tuple[Rule, ...] = ()

    def document(self) -> dict[str, Any]:
        return {"format": 1, "rules": [rule.document() for rule in self.rules]}

    @classmethod
    def from_document(cls, document: Any, known: Collection[str] | None = None, where: str = "rules") -> RuleSet:
        """Check and build. `known` are the intents that rules may name; None accepts any. Raises DomainError."""
        if not isinstance(document, Mapping) or not isinstance(document.get("rules"), list):
            raise DomainError(f"{where}: expected a mapping with a list `rules`")
        if len(document["rules"]) > MAX_RULES:
            raise DomainError(f"{where}: {len(document['rules'])} rules, at most {MAX_RULES} are accepted")
        rules = tuple(_rule(f"{where}: rule {number}", item, known) for number, item in enumerate(document["rules"], 1))
        names = [rule.id for rule in rules]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DomainError(f"{where}: two rules have the id {twice!r}")
        return cls(rules)

    @classmethod
    def from_yaml(cls, path: Path, known: Collection[str] | None = None) -> RuleSet:
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise DomainError(f"{path}: cannot be read: {error}") from error
        return cls.from_document(document, known, str(path))


def _rule(where: str, item: Any, known: Collection[str] | None) -> Rule:
    if not isinstance(item, Mapping):
        raise DomainError(f"{where}: expected a mapping, got {type(item).__name__}")
    if unknown := set(item) - {"id", "kind", "intents", "reason", "boost", "reply", *_ABOUT_ITEMS}:
        raise DomainError(f"{where}: unknown field {str(min(map(str, unknown)))[:80]!r}")
    kind = item.get("kind")
    if kind not in KINDS:
        raise DomainError(f"{where}: kind is {str(kind)[:80]!r}, expected one of {', '.join(KINDS)}")
    if any(field in item for field in _ABOUT_ITEMS):
        return _item_rule(where, item)
    intents = item.get("intents")
    if not isinstance(intents, list) or not intents or not all(isinstance(name, str) for name in intents):
        raise DomainError(f"{where}: intents: expected a list of names")
    if known is not None and (strange := set(intents) - set(known) - {"out_of_scope"}):
        raise DomainError(f"{where}: {str(min(strange))[:80]!r} is not an intent of this domain")
    boost = item.get("boost", 0.0)
    if isinstance(boost, bool) or not isinstance(boost, int | float) or not -MAX_BOOST <= boost <= MAX_BOOST:
        raise DomainError(f"{where}: boost is {str(boost)[:80]!r}, expected a number from -1 to 1")
    if (kind == "boost") != bool(boost):
        raise DomainError(f"{where}: a boost that is not 0 belongs to kind `boost`, and only there")
    reply = item.get("reply", "")
    if not isinstance(reply, str) or len(reply) > MAX_TEXT_CHARS or (kind == "reply" and not reply.strip()):
        raise DomainError(f"{where}: reply: expected a text of 1 to {MAX_TEXT_CHARS} characters")
    return Rule(
        id=_short(where, "id", item.get("id")),
        kind=kind,
        intents=tuple(intents),
        reason=_short(where, "reason", item.get("reason")),
        boost=float(boost),
        reply=reply,
    )


def _item_rule(where: str, item: Mapping[Any, Any]) -> Rule:
    if item["kind"] != "deny" or (extra := set(item) & {"intents", "boost", "reply"}):
        what = f"kind `{item['kind']}`" if item["kind"] != "deny" else min(extra)
        raise DomainError(
            f"{where}: {what}: a rule about items denies them, and says nothing of intents, boost or reply"
        )
    features = item.get("features", {})
    if not isinstance(features, Mapping) or ("features" in item and not 0 < len(features) <= MAX_ITEMS):
        raise DomainError(
            f"{where}: features: expected a mapping of 1 to {MAX_ITEMS} features, each with its least value"
        )
    if features:
        _names(where, "features", list(features), _ID)
    for name, least in features.items():
        if isinstance(least, bool) or not isinstance(least, int | float) or not 0.0 <= least <= 1.0:
            raise DomainError(f"{where}: features: {name}: {str(least)[:80]!r} is no number from 0 to 1")
    return Rule(
        id=_short(where, "id", item.get("id")),
        kind="deny",
        intents=(),
        reason=_short(where, "reason", item.get("reason")),
        items=_names(where, "items", item["items"], _ID) if "items" in item else (),
        countries=_names(where, "countries", item["countries"], _COUNTRY) if "countries" in item else (),
        features=tuple((name, float(least)) for name, least in features.items()),
    )


def _names(where: str, field: str, value: Any, form: re.Pattern[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ITEMS:
        raise DomainError(f"{where}: {field}: expected a list of 1 to {MAX_ITEMS} names")
    for name in value:
        if not isinstance(name, str) or not form.fullmatch(name):
            raise DomainError(f"{where}: {field}: {str(name)[:80]!r} cannot be one (a YAML `NO` needs quotes)")
    return tuple(value)


def _short(where: str, field: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT_CHARS:
        raise DomainError(f"{where}: {field}: expected a text of 1 to {MAX_TEXT_CHARS} characters")
    return value
