"""The languages: their files, the words of a domain in them, and the list of places that is made from public sources."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from real_places import gazetteer

from edge_client.answer.claims import unsupported
from edge_client.answer.facts import Facts
from shared_models.domain import TRAVEL, load_domain
from shared_models.errors import DomainError, InputError
from shared_models.languages import LANGUAGES, load_language
from shared_models.languages.domain_words import load_domain_words
from shared_models.languages.tokens import fold, tokenize


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_intent_of_travel_has_words_in_every_language(language: str) -> None:
    domain = load_domain(TRAVEL)
    words = load_domain_words(domain, TRAVEL, language)
    assert set(words.labels) == set(domain.labels)
    assert {"out_of_scope", "unsure"} <= set(words.templates)


@pytest.mark.parametrize("language", ["de", "es"])
def test_no_sentence_of_travel_presses_or_promises(language: str) -> None:
    words = load_domain_words(load_domain(TRAVEL), TRAVEL, language)
    for text in (text for texts in words.templates.values() for text in texts):
        assert unsupported(text, Facts(), language, date(2026, 11, 24), gazetteer=gazetteer()) == (), text


@pytest.mark.parametrize(
    "text",
    [
        "labels: []",
        "labels: {}",
        "other: {}",
        "labels: {find_book: x, nothing: y}",
        "labels: [",
        "templates: {find_book: []}",
    ],
)
def test_a_damaged_file_of_words_is_a_typed_error(text: str, tmp_path: Path, tiny_domain_dir: Path) -> None:
    (tmp_path / "words.de.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DomainError):
        load_domain_words(load_domain(tiny_domain_dir), tmp_path, "de")


def test_a_language_that_is_not_known_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_domain_words(load_domain(TRAVEL), TRAVEL, "xx")
    with pytest.raises(DomainError):
        load_domain_words(load_domain(TRAVEL), tmp_path, "de")
    with pytest.raises(DomainError):
        load_language("en").phrases("nothing of that name")


def test_words_are_folded_and_keep_their_places() -> None:
    assert fold("Übermorgen") == fold("ubermorgen")
    assert [(token.folded, token.start, token.end) for token in tokenize("am 3.5. in\tSão")] == [
        ("am", 0, 2),
        ("3.5", 3, 6),
        (".", 6, 7),
        ("in", 8, 10),
        ("sao", 11, 14),
    ]
