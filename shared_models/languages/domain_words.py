"""A domain's intents in another language than its own: `words.<code>.yaml` in the domain's folder, with labels and templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from shared_models.domain import UNSURE, Domain, read_yaml
from shared_models.errors import DomainError
from shared_models.intents import OUT_OF_SCOPE
from shared_models.languages import load_language


@dataclass(frozen=True)
class DomainWords:
    """What a Responder needs to speak of a domain."""

    language: str
    labels: Mapping[str, str]
    templates: Mapping[str, tuple[str, ...]]


def load_domain_words(domain: Domain, folder: Path | str, language: str) -> DomainWords:
    """The words of `domain` in `language`: its own, or those of words.<language>.yaml.

    Raises DomainError for a file that is missing, damaged or names other intents, InputError for an unknown language.
    """
    load_language(language)
    if language == domain.language:
        return DomainWords(language, {spec.name: spec.label for spec in domain.intents}, domain.templates)
    path = Path(folder) / f"words.{language}.yaml"
    body = read_yaml(path)
    if not isinstance(body, dict) or set(body) - {"labels", "templates"}:
        raise DomainError(f"{path}: expected labels and templates")
    labels, templates = _mapping(path, "labels", body), _mapping(path, "templates", body)
    known = set(domain.labels)
    if missing := sorted(known - set(labels)):
        raise DomainError(f"{path}: labels: {missing[0]} is missing")
    if stray := sorted(map(str, (set(labels) - known) | (set(templates) - known - {OUT_OF_SCOPE, UNSURE}))):
        raise DomainError(f"{path}: {stray[0]} is not an intent of this domain")
    for name, texts in templates.items():
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text.strip() for text in texts)
        ):
            raise DomainError(f"{path}: templates: {name}: expected a list of sentences")
    if bad := next((name for name, label in labels.items() if not isinstance(label, str) or not label.strip()), None):
        raise DomainError(f"{path}: labels: {bad}: expected words")
    return DomainWords(
        language, MappingProxyType(labels), MappingProxyType({name: tuple(texts) for name, texts in templates.items()})
    )


def _mapping(path: Path, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    found = body.get(name, {})
    if not isinstance(found, dict):
        raise DomainError(f"{path}: {name}: expected a mapping")
    return found
