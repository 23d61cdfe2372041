"""What is said: variants by seed, tone and language, only what the data hold; and what a claim without data looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest
import yaml
from real_places import gazetteer, slot_reader

from edge_client.answer.claims import unsupported
from edge_client.answer.facts import Facts, Reason, Suggestion, facts_of
from edge_client.answer.localise import locale, replies
from edge_client.answer.respond import CHOSEN_NOW, Responder, chosen_reading
from edge_client.answer.wording import TONES, Wording
from edge_client.decide.decision import Decision
from edge_client.understand.amounts import Budget, Party
from edge_client.understand.days import DateRange
from edge_client.understand.dialogue import Dialogue
from edge_client.understand.state import DialogueState, Turn
from shared_models.errors import DomainError, InputError
from shared_models.intents import Alternative, Recognition
from shared_models.languages import LANGUAGES, load_language

TODAY = date(2026, 11, 24)
SHOWN = (
    Suggestion("a", "Casa Azul", 120, per="night", reasons=(Reason("interest", {"interest": "beach"}),)),
    Suggestion("b", "Hotel Bella", 90.5, per="night", reasons=(Reason("cheapest", {"name": "Hotel Bella"}),)),
)


def turn_of(*texts: str) -> Turn:
    dialogue, state = Dialogue(slot_reader()), DialogueState()
    for text in texts:
        turn = dialogue.step(state, text, TODAY)
        state = turn.state
    return turn


def claims(
    text: str, language: str = "en", *, facts: Facts | None = None, strict: bool = False
) -> list[tuple[str, str]]:
    known = facts or facts_of(
        turn_of("a hotel in Rome from 3 to 10 May for two under 500 euros").state,
        SHOWN,
        today=TODAY,
        gazetteer=gazetteer(),
    )
    return [
        (claim.kind, claim.text)
        for claim in unsupported(text, known, language, TODAY, strict=strict, gazetteer=gazetteer())
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Casa Azul costs €120 a night, Hotel Bella €90.50.",
        "Hotel Bella is the cheapest.",
        "For 2 adults in Rome, Italy, in May.",
        "From 3 May 2027 to 10 May 2027, two of you, up to 500 euros.",
        "One of these suits you.",
        "For €90.50 you can have Hotel Bella.",
    ],
)
def test_what_the_data_hold_may_be_said(text: str) -> None:
    assert claims(text) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Casa Azul costs €99.", "price"),
        ("Casa Azul costs €90.50 a night.", "price"),
        ("Hotel Bella is €120.", "price"),
        ("Hotel Bella costs €90.50 in total.", "price"),
        ("Hotel Bella costs $90.50.", "price"),
        ("Hotel Bella costs ¥90.", "price"),
        ("It has 5 stars.", "number"),
        ("It is 300 metres from the sea.", "number"),
        ("Rated by two thousand guests.", "number"),
        ("You can also go to Paris.", "place"),
        ("Come in June.", "date"),
        ("Free from 4 May 2027 to 12 May 2027.", "date"),
        ("Casa Azul is the cheapest.", "superlative"),
        ("The best hotel in Rome.", "superlative"),
        ("Hotel Bella is the most popular.", "superlative"),
        ("Hurry, selling fast!", "urgency"),
        ("Last chance for Casa Azul.", "urgency"),
        ("Satisfaction guaranteed.", "promise"),
        ("With free cancellation.", "promise"),
        ("It has been booked for you.", "promise"),
        ("See www.example.com for more.", "address"),
        ("Write to someone@example.org.", "address"),
        ("<b>Casa Azul</b>", "address"),
    ],
)
def test_what_the_data_do_not_hold_is_found(text: str, kind: str) -> None:
    assert kind in [found for found, _ in claims(text)]


@pytest.mark.parametrize(
    ("text", "language", "kind"),
    [
        ("Casa Azul kostet 99 €.", "de", "price"), ("Nur noch wenige Zimmer, schnell zugreifen!", "de", "urgency"),
        ("Garantiert kostenlos stornierbar.", "de", "promise"), ("Casa Azul ist am günstigsten.", "de", "superlative"),
        ("Im Juni ist es schön.", "de", "date"), ("Auch Wien ist schön.", "de", "place"),
        ("Seit zwanzig Jahren.", "de", "number"),
        ("Casa Azul cuesta 99 €.", "es", "price"), ("Última oportunidad, se agota.", "es", "urgency"),
        ("Cancelación gratuita.", "es", "promise"), ("Casa Azul es el más barato.", "es", "superlative"),
        ("En junio hace sol.", "es", "date"), ("También Viena es bonita.", "es", "place"),
        ("Desde hace veinte años.", "es", "number"),
    ],
)  # fmt: skip
def test_claims_are_found_in_german_and_spanish(text: str, language: str, kind: str) -> None:
    assert kind in [found for found, _ in claims(text, language)]


def test_an_unknown_name_is_refused_only_when_nobody_reviewed_the_text() -> None:
    text = "You could stay with Gregorovius, too."
    assert claims(text) == []
    assert claims(text, strict=True) == [("name", "Gregorovius")]


def test_the_cheapest_of_one_or_of_unlike_prices_is_no_superlative() -> None:
    alone = facts_of(DialogueState(), SHOWN[1:])
    unlike = facts_of(DialogueState(), (SHOWN[0], replace(SHOWN[1], per="total")))
    assert alone.superlatives == {}
    assert unlike.superlatives == {}


def test_the_same_seed_says_the_same_and_others_vary() -> None:
    turn = turn_of("a hotel in Rome from 3 to 10 May")
    said = [Wording(seed=seed, gazetteer=gazetteer()).say(turn, TODAY, SHOWN).text for seed in range(12)]
    assert said == [Wording(seed=seed, gazetteer=gazetteer()).say(turn, TODAY, SHOWN).text for seed in range(12)]
    assert len(set(said)) > 2


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("tone", TONES)
def test_the_users_choice_of_language_and_tone_holds(language: str, tone: str) -> None:
    turn = turn_of("a hotel in Rome from 3 to 10 May")
    spoken = Wording(language, tone, gazetteer=gazetteer()).say(turn, TODAY, SHOWN)  # type: ignore[arg-type]
    assert spoken.language == language
    assert "Casa Azul" in spoken.text
    assert unsupported(spoken.text, spoken.facts, language, TODAY, gazetteer=gazetteer()) == ()


def test_formal_and_casual_differ() -> None:
    turn = turn_of("Ich suche ein Hotel in Rom")
    casual, formal = (Wording("de", tone, gazetteer=gazetteer()).say(turn, TODAY).text for tone in TONES)
    assert "Sie" in formal or "Ihnen" in formal
    assert "Sie" not in casual


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_sentence_with_the_same_names(language: str) -> None:
    def names(entry: object) -> set[str]:
        text = yaml.safe_dump(entry, allow_unicode=True)
        return {piece.partition("}")[0] for piece in text.split("{")[1:] if "}" in piece}

    mine, english = replies(language), replies("en")
    assert set(mine) == set(english)
    for name, entry in english.items():
        if name != "interests":
            assert names(mine[name]) == names(entry), name
        for variants in entry.values() if isinstance(entry, dict) and "casual" in entry else ():
            assert variants


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_template_presses_or_promises(language: str) -> None:
    for entry in replies(language).values():
        for text in _texts(entry):
            kinds = {claim.kind for claim in unsupported(text, Facts(), language, TODAY, gazetteer=gazetteer())}
            assert kinds.isdisjoint({"urgency", "promise", "address"}), text


def _texts(entry: object) -> Sequence[str]:
    if isinstance(entry, dict):
        return [text for value in entry.values() for text in _texts(value)]
    return entry if isinstance(entry, list) else [str(entry)]


def test_money_days_and_people_are_written_as_the_language_does() -> None:
    english, german, spanish = (locale(code) for code in LANGUAGES)
    assert [words.money(1234.5, "EUR", "night") for words in (english, german, spanish)] == [
        "€1,234.50 a night", "1.234,50 € pro Nacht", "1.234,50 € por noche"
    ]  # fmt: skip
    stay = DateRange(date(2027, 5, 3), date(2027, 5, 10))
    assert german.days(stay) == "3. Mai 2027 bis 10. Mai 2027"
    assert spanish.days(DateRange(date(2027, 5, 1), date(2027, 5, 31))) == "mayo de 2027"
    assert english.party(Party(2, 1)) == "2 adults and 1 child"
    assert german.budget(Budget(None, 500.0, "CHF")) == "bis 500 CHF"
    assert english.joined(["a", "b", "c"]) == "a, b and c"


def test_nothing_cheaper_is_said_as_it_is() -> None:
    turn = turn_of("a hotel in Rome from 3 to 10 May")
    state = turn.state.offering(*(one.offer for one in SHOWN))
    cheaper = Dialogue(slot_reader()).step(state, "something cheaper", TODAY)
    text = Wording(gazetteer=gazetteer()).say(cheaper, TODAY, ()).text
    assert "€90.50" in text
    assert "Hotel Bella" not in text
    # What is not below the limit is not announced as cheaper.
    assert "90.50" in Wording(gazetteer=gazetteer()).say(cheaper, TODAY, SHOWN).text
    assert "heaper" not in Wording(gazetteer=gazetteer()).say(cheaper, TODAY, SHOWN).text


@pytest.mark.parametrize(
    "bad",
    [lambda: Wording("xx"), lambda: Wording("en", "rude"), lambda: Suggestion("a", ""), lambda: Suggestion("a", "x" * 200),  # type: ignore[arg-type]
     lambda: Suggestion("a", "A", float("nan")), lambda: Suggestion("a", "A", -1), lambda: Suggestion("a", "A", 1, per="week"),
     lambda: Wording().say(turn_of("hotel in Rome tomorrow"), TODAY, [Suggestion("a", "A", reasons=(Reason("season", {}),))])],
)  # fmt: skip
def test_what_cannot_be_said_is_a_typed_error(bad: object) -> None:
    with pytest.raises(InputError):
        bad()  # type: ignore[operator]


def test_an_unknown_reason_is_a_typed_error() -> None:
    with pytest.raises(DomainError):
        locale("en").reason(Reason("because_i_say_so"))


def test_a_name_with_braces_is_not_a_template() -> None:
    odd = Suggestion("x", "{price} {0.__class__}", 10)
    assert (
        "{price} {0.__class__} (€10)"
        in Wording(gazetteer=gazetteer()).say(turn_of("hotel in Rome tomorrow"), TODAY, [odd]).text
    )


@pytest.mark.parametrize(("language", "word"), [("en", "understood"), ("de", "verstanden"), ("es", "entendido")])
def test_the_built_in_sentences_exist_in_each_language(language: str, word: str) -> None:
    recognition = Recognition("x", "cancel", 0.8, (Alternative("refund", 0.1),), False, 1)
    reply = Responder({}, {"cancel": "cancel a trip"}, language).respond(
        Decision("answer", "cancel", 0.8, recognition), "stale"
    )
    assert word in reply.reasons[0]
    told = Responder({}, {}, language).respond(Decision("answer", "cancel", 1.0, recognition), "fresh", told=CHOSEN_NOW)
    assert "cancel" in told.reasons[0]


@pytest.mark.parametrize(
    "answer", ["the second one", "2", "das zweite", "la segunda", "book a hotel", "book_hotel", "Second."]
)
def test_a_reading_is_chosen_in_any_language(answer: str) -> None:
    words = Responder({}, {"book_hotel": "book a hotel"}, "de")
    assert chosen_reading(answer, ("book_flight", "book_hotel"), words) == "book_hotel"


@pytest.mark.parametrize("answer", ["second thoughts about Rome", "", "the first week of May", "3"])
def test_something_new_is_no_choice(answer: str) -> None:
    assert chosen_reading(answer, ("book_flight", "book_hotel"), Responder({}, {})) is None


def test_languages_have_the_same_lists() -> None:
    assert len({frozenset(load_language(code)._body) for code in LANGUAGES}) == 1
