"""The guard against dark patterns: what presses is found in three languages, what ships does not, and facts may be named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_client.answer.claims import unsupported
from edge_client.answer.facts import Facts, facts_of
from edge_client.answer.localise import replies
from edge_client.answer.respond import Responder
from edge_client.decide.decision import Decision
from edge_client.decide.travel_reasons import _TEXTS
from edge_client.understand.state import DialogueState
from shared_models.domain import TRAVEL, Domain, load_domain
from shared_models.domain_lint import lint_domain
from shared_models.errors import DomainError
from shared_models.intents import Recognition
from shared_models.languages import LANGUAGES, load_language
from shared_models.languages.domain_words import load_domain_words
from shared_models.pressure import (
    FACTS,
    SUPPORTED_BY,
    check_texts,
    pressures,
    texts_of_rules,
    texts_of_wording,
    unsupported_pressure,
)
from shared_models.rules.ruleset import Rule, RuleSet

TODAY = date(2026, 11, 24)
CASES = yaml.safe_load((Path(__file__).parent.parent / "data" / "ethics.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in CASES["pressing"].items() for text in texts]
)
def test_what_presses_is_found(kind: str, text: str) -> None:
    assert kind in {found.kind for found in pressures(text)}, text
    with pytest.raises(DomainError, match="presses"):
        check_texts([("reply", text)])


@pytest.mark.parametrize("text", CASES["harmless"])
def test_what_does_not_press_is_left_alone(text: str) -> None:
    assert pressures(text) == ()


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def shipped() -> Iterator[tuple[str, str]]:
    domain = load_domain(TRAVEL)
    yield from texts_of_rules(domain.rules)
    for language in LANGUAGES:
        words = load_domain_words(domain, TRAVEL, language)
        yield from texts_of_wording(words.templates, words.labels, language)
        yield from ((f"replies.{language}", text) for text in strings(dict(replies(language))))
    yield from (("a reason", text) for text in strings(_TEXTS))


def test_nothing_that_ships_presses() -> None:
    texts = list(shipped())
    assert len(texts) > 600
    assert list(unsupported_pressure(texts)) == []


def test_nothing_that_a_user_says_in_the_scripted_conversations_presses() -> None:
    """What people type is the widest sample of harmless sentences at hand."""
    folder = Path(__file__).parent.parent / "data" / "conversations"
    said = [
        text
        for language in LANGUAGES
        for script in yaml.safe_load((folder / f"{language}.yaml").read_text())
        for text in script["say"]
    ]
    assert len(said) > 150
    assert list(unsupported_pressure(("said", text) for text in said)) == []


def test_a_fact_that_is_named_in_the_same_sentence_supports_it() -> None:
    check_texts(
        [
            ("offer", "Only {left} rooms left."),
            ("bis", "Letzte Chance: bis {until}."),
            ("precio", "Antes {former_price} €, ahora 100 €."),
        ]
    )
    for text in (
        "Only {count} rooms left.",
        "Only 2 rooms left. There are {left}.",
        "Hurry: {left} left!",
        "No, I hate saving {former_price}.",
    ):
        with pytest.raises(DomainError):
            check_texts([("offer", text)])
    assert set(SUPPORTED_BY) == {
        kind for language in LANGUAGES for _, kind in load_language(language).entries("pressure")
    }
    assert len(FACTS) == 4


def unlicensed(text: str, facts: Facts, language: str = "en") -> set[str]:
    return {claim.kind for claim in unsupported(text, facts, language, TODAY)}


def test_a_finished_text_may_say_what_the_data_hold_and_nothing_else() -> None:
    facts = facts_of(DialogueState(), values={"left": 2})
    assert unlicensed("Only 2 rooms left.", facts) == set()
    assert unlicensed("Only two rooms left.", facts) == set()
    assert "urgency" in unlicensed("Only 3 rooms left.", facts)
    assert unlicensed("Nur noch 2 Zimmer frei.", facts, "de") == set()
    assert "urgency" in unlicensed("Hurry, only 2 rooms left.", facts)
    assert "urgency" in unlicensed("Only 2 rooms left.", facts_of(DialogueState(), values={"beds": 2}))
    until = facts_of(DialogueState(), values={"until": date(2026, 12, 3)})
    assert unlicensed("Last chance: until 3 December 2026.", until) == set()
    assert "urgency" in unlicensed("Last chance: until 4 December 2026.", until)
    assert "urgency" in unlicensed("You will regret it, 2 left", facts)
    assert "urgency" in unlicensed("h\u200burry up", Facts())


def test_a_name_may_hold_anything() -> None:
    facts = replace(Facts(), names=("Last Chance Saloon",))
    assert unlicensed("Last Chance Saloon", facts) == set()
    assert unlicensed("Last chance for Last Chance Saloon", facts) == {"urgency"}


def test_the_lint_of_a_domain_names_the_text_that_presses(tiny_domain_dir: Path) -> None:
    domain = load_domain(tiny_domain_dir)
    name = domain.labels[0]
    pressing = replace(
        domain,
        templates={**domain.templates, name: ("Hurry, this is your last chance.",)},
        rules=RuleSet((Rule("r1", "reply", (name,), "others are looking at this", reply="No thanks, I hate saving."),)),
    )
    found = [line for line in lint_domain(pressing) if "presses" in line]
    assert len([line for line in found if name in line]) == 2
    assert any("rule r1: reason" in line for line in found)
    assert any("rule r1: reply" in line for line in found)
    assert not [line for line in lint_domain(domain) if "presses" in line]


def test_words_in_another_language_are_linted_too(tiny_domain_dir: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "domain"
    shutil.copytree(tiny_domain_dir, folder)
    domain: Domain = load_domain(folder)
    labels = {name: "etwas" for name in domain.labels}
    words = {"labels": labels, "templates": {domain.labels[0]: ["Nur noch zwei Zimmer frei!"]}}
    (folder / "words.de.yaml").write_text(yaml.safe_dump(words, allow_unicode=True), encoding="utf-8")
    assert any("words.de.yaml" in line and "presses" in line for line in lint_domain(load_domain(folder)))


def test_hostile_texts_are_read_in_bounded_time() -> None:
    started = time.perf_counter()
    for text in (
        "{left} only " * 500,
        "1 " * 3000,
        "a" * 20_000,
        "only 2 " * 1500,
        "H U R R Y " * 1000,
        "\u200b" * 10_000,
        "€ 5 " * 2000,
    ):
        pressures(text)
    assert time.perf_counter() - started < 5.0


def test_a_template_that_needs_a_fact_is_not_said_where_there_is_none() -> None:
    templates = {
        "out_of_scope": ("Only {left} rooms left.", "That is beyond me."),
        "unsure": ("Last chance until {until}.",),
    }
    responder = Responder(templates, {})
    found = Recognition("x", "out_of_scope", 0.1, (), True, 0, False)
    decision = Decision("decline", "out_of_scope", 0.1, found, reply="Only {left} left.")
    assert {responder.respond(decision, "fresh").text for _ in range(4)} == {"That is beyond me."}
