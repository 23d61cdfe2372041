"""Rules about suggested items, resolved against a catalogue: which items are denied, and by which rule."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from shared_models.rules.ruleset import Rule, RuleSet

if TYPE_CHECKING:
    from shared_models.travel.catalogue import Catalogue, Destination


def denied_items(rules: RuleSet, catalogue: Catalogue) -> Mapping[str, Rule]:
    """Item id -> the first rule that denies it, in the catalogue's order.

    What a rule names and the catalogue lacks denies nothing: on a device either may be newer than the other.
    """
    denying = [rule for rule in rules.rules if rule.about_items]
    found = {
        place.id: next((rule for rule in denying if _denies(rule, place)), None)
        for place in (catalogue.destinations if denying else ())
    }
    return {id: rule for id, rule in found.items() if rule is not None}


def unknown_in_rules(rules: RuleSet, catalogue: Catalogue | None) -> Iterator[str]:
    """What rules about items name and the catalogue lacks, one line each with the nearest name; for the domain check."""
    for rule in rules.rules:
        if catalogue is None:
            if rule.about_items:
                yield f"rules.yaml: rule {rule.id!r} is about items, and this domain has no catalogue"
            continue
        countries = {place.country for place in catalogue.destinations}
        yield from _strange(rule, "item", rule.items, catalogue.rows)
        yield from _strange(rule, "country", rule.countries, countries)
        yield from _strange(rule, "feature", [name for name, _ in rule.features], catalogue.feature_names)


def _denies(rule: Rule, place: Destination) -> bool:
    return (
        place.id in rule.items
        or place.country in rule.countries
        or any(place.features.get(name, -1.0) >= least for name, least in rule.features)
    )


def _strange(rule: Rule, what: str, names: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    there = sorted(known)
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            yield f"rules.yaml: rule {rule.id!r}: {name!r} is no {what} of the catalogue{hint}"
