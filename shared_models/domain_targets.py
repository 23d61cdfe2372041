"""What a domain's own files put into a bundle beside its model: public phrases, words in other languages, profile, catalogue.

All of them are optional: an app that has none brings none. The names of places are no domain's own (languages/places_source.py).
"""

from __future__ import annotations

from shared_models.bundle import (
    CATALOGUE_TARGET,
    MAX_TARGET_BYTES,
    MAX_TEXT_CHARS,
    PHRASES_TARGET,
    PROFILE_TARGET,
    Wording,
    words_target,
)
from shared_models.domain import Domain
from shared_models.errors import DomainError, WireError
from shared_models.languages import LANGUAGES
from shared_models.languages.domain_words import load_domain_words
from shared_models.optional_targets import read_profile
from shared_models.phrases import PublicPhrases
from shared_models.travel.catalogue import load_catalogue

CATALOGUE_FILE = "catalogue.yaml"
PROFILE_FILE = "profile.yaml"
DEFAULT_LANGUAGE = "en"
"""Of a bundle's own wording: another one is published as words of that language as well."""


def domain_targets(domain: Domain) -> dict[str, bytes | None]:
    """Optional target -> what the domain's files say; None for what they do not have. Raises DomainError that names the file."""
    made: dict[str, bytes | None] = {words_target(language): _words(domain, language) for language in LANGUAGES}
    made[PHRASES_TARGET] = PublicPhrases.of_domain(domain).to_bytes()
    made[PROFILE_TARGET] = _profile(domain)
    made[CATALOGUE_TARGET] = _catalogue(domain)
    return made


def has_catalogue(domain: Domain) -> bool:
    """True if the domain suggests places: then its bundle has names of places, too."""
    return domain.folder is not None and (domain.folder / CATALOGUE_FILE).exists()


def _words(domain: Domain, language: str) -> bytes | None:
    own = language == domain.language
    if domain.folder is None or (own and language == DEFAULT_LANGUAGE):
        return None
    path = domain.folder / f"words.{language}.yaml"
    if not own and not path.exists():
        return None
    said = load_domain_words(domain, domain.folder, language)
    try:
        return Wording(dict(said.templates), dict(said.labels)).to_bytes()
    except WireError as error:
        raise DomainError(f"{path}: {error} (a text has 1 to {MAX_TEXT_CHARS} characters)") from error


def _profile(domain: Domain) -> bytes | None:
    path = None if domain.folder is None else domain.folder / PROFILE_FILE
    if path is None or not path.exists():
        return None
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_TARGET_BYTES[PROFILE_TARGET]:
            raise DomainError(f"larger than {MAX_TARGET_BYTES[PROFILE_TARGET]} bytes")
        read_profile(raw)
    except (OSError, DomainError) as error:
        raise DomainError(f"{path}: {error}") from error
    return raw


def _catalogue(domain: Domain) -> bytes | None:
    if domain.folder is None or not has_catalogue(domain):
        return None
    return load_catalogue(domain.folder / CATALOGUE_FILE).to_bytes()
