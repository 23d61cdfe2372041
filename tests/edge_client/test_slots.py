"""What texts say: dates, numbers, places, money and people in English, German and Spanish, with their places in the text."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_places import slot_reader

from edge_client.understand.amounts import Budget, Party
from edge_client.understand.dates import DateReader
from edge_client.understand.days import easter
from edge_client.understand.numbers import digits, number_at
from edge_client.understand.places import Gazetteer, Place, edits
from edge_client.understand.slots import SlotReader, Understood
from shared_models.errors import InputError, TextError
from shared_models.languages import LANGUAGES, language_of, load_language
from shared_models.languages.places_source import build_place_list
from shared_models.languages.tokens import tokenize

TODAY = date(2026, 11, 24)
"""A Tuesday."""


def read(text: str, language: str = "en") -> Understood:
    return slot_reader().read(text, TODAY, language=language)


def places(text: str, language: str = "en") -> list[str]:
    return [slot.value.names[0] for slot in read(text, language).slots if isinstance(slot.value, Place)]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "from 3 to 10 May", "2027-05-03/2027-05-10"),
        ("en", "May 3-10", "2027-05-03/2027-05-10"),
        ("en", "the 3rd of May", "2027-05-03/2027-05-03"),
        ("en", "May 3rd, 2027", "2027-05-03/2027-05-03"),
        ("en", "next Friday", "2026-12-04/2026-12-04"),
        ("en", "Friday", "2026-11-27/2026-11-27"),
        ("en", "in two weeks", "2026-12-08/2026-12-08"),
        ("en", "next weekend", "2026-12-05/2026-12-06"),
        ("en", "between June and August", "2027-06-01/2027-08-31"),
        ("en", "from 20 December to 5 January", "2026-12-20/2027-01-05"),
        ("en", "early june", "2027-06-01/2027-06-10"),
        ("en", "easter", "2027-03-26/2027-03-29"),
        ("en", "the first of May", "2027-05-01/2027-05-01"),
        ("es", "el primero de mayo", "2027-05-01/2027-05-01"),
        ("en", "2027-05-03", "2027-05-03/2027-05-03"),
        ("en", "in November", "2026-11-24/2026-11-30"),
        ("en", "on 29 February", "2028-02-29/2028-02-29"),
        ("de", "vom 3. bis 10. Mai", "2027-05-03/2027-05-10"),
        ("de", "am 3.5.", "2027-05-03/2027-05-03"),
        ("de", "Ende August", "2027-08-21/2027-08-31"),
        ("de", "übermorgen", "2026-11-26/2026-11-26"),
        ("de", "nächste Woche", "2026-11-30/2026-12-06"),
        ("es", "del 3 al 10 de mayo", "2027-05-03/2027-05-10"),
        ("es", "el viernes que viene", "2026-12-04/2026-12-04"),
        ("es", "a finales de agosto", "2027-08-21/2027-08-31"),
        ("es", "pasado mañana", "2026-11-26/2026-11-26"),
    ],
)
def test_dates_are_read_as_the_next_ones(language: str, text: str, expected: str) -> None:
    found = DateReader(tokenize(text), load_language(language), TODAY).find()
    assert [f"{match.dates.start}/{match.dates.end}" for match in found] == [expected]


@pytest.mark.parametrize(
    ("language", "text"),
    [("en", "you may go"), ("en", "march on"), ("de", "guten Morgen"), ("es", "por la mañana"), ("en", "on 31 February"),
     ("en", "2027-13-45"), ("en", "for two weeks"), ("en", "1.1.0001")],
)  # fmt: skip
def test_what_is_no_date_is_not_read_as_one(language: str, text: str) -> None:
    assert DateReader(tokenize(text), load_language(language), TODAY).find() == []


@given(day=st.dates(date(2026, 11, 24), date(2027, 11, 1)), language=st.sampled_from(LANGUAGES))
def test_every_written_day_is_read_back(day: date, language: str) -> None:
    words = load_language(language)
    month = words.names("months")[day.month - 1]
    text = {"en": f"on {day.day} {month}", "de": f"am {day.day}. {month}", "es": f"el {day.day} de {month}"}[language]
    found = DateReader(tokenize(text), words, TODAY).find()
    assert [(match.dates.start, match.dates.end) for match in found] == [(day, day)]


def test_the_clock_is_the_callers() -> None:
    later = TODAY + timedelta(days=400)
    assert slot_reader().read("tomorrow", later).slots[0].value.start == later + timedelta(days=1)  # type: ignore[union-attr]


def test_easter_falls_where_the_church_has_it() -> None:
    assert [easter(year) for year in (2024, 2025, 2026, 2027, 2038)] == [
        date(2024, 3, 31), date(2025, 4, 20), date(2026, 4, 5), date(2027, 3, 28), date(2038, 4, 25)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "two hundred and fifty", 250), ("en", "twenty-five", 25), ("en", "1,200.50", 1200.5), ("en", "2k", 2000),
        ("en", "three thousand four hundred and one", 3401), ("en", "a couple of", 2), ("en", "1.500", 1500),
        ("de", "zweihundertfünfzig", 250), ("de", "fünfundzwanzig", 25), ("de", "1.200,50", 1200.5), ("de", "elf", 11),
        ("de", "dreitausendvierhunderteins", 3401), ("de", "siebenundsiebzig", 77),
        ("es", "doscientos cincuenta", 250), ("es", "veinticinco", 25), ("es", "treinta y cinco", 35), ("es", "1.200,50", 1200.5),
        ("es", "tres mil cuatrocientos uno", 3401), ("es", "mil", 1000),
    ],
)  # fmt: skip
def test_numbers_are_read_in_digits_and_words(language: str, text: str, expected: float) -> None:
    tokens = tokenize(text)
    number = number_at(tokens, 0, load_language(language))
    assert number is not None
    assert (number.value, number.tokens) == (expected, len(tokens))


def test_two_number_words_are_two_numbers() -> None:
    number = number_at(tokenize("two three"), 0, load_language("en"))
    assert number is not None
    assert number.value == 2


@given(value=st.integers(0, 999_999_999), language=st.sampled_from(LANGUAGES))
def test_grouped_digits_are_read_back(value: int, language: str) -> None:
    written = f"{value:,}" if language == "en" else f"{value:,}".replace(",", ".")
    assert digits(written, load_language(language)) == value


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("fly from Berlin to Rome", "en", ["Berlin", "Rome"]),
        ("a nice hotel in Nice", "en", ["Nice"]),
        ("reading a book in Bath", "en", ["Bath"]),
        ("trip to the canary islands", "en", ["Canary Islands"]),
        ("to thailnd", "en", ["Thailand"]),
        ("I want to go to Barcelna", "en", ["Barcelona"]),
        ("new yrok please", "en", ["New York City"]),
        ("I want to relax in general", "en", []),
        ("an Indian or Italian restaurant on the islands", "en", []),
        ("to the wrong heart", "en", []),
        ("munchen", "de", ["Munich"]),
        ("gutes Essen in Berlin", "de", ["Berlin"]),
        ("nach Essen", "de", ["Essen"]),
        ("Rio de Janiero", "es", ["Rio de Janeiro"]),
        ("quiero ir a Nueva York", "es", ["New York City"]),
        ("de Madrid a Londres", "es", ["Madrid", "London"]),
    ],
)
def test_places_are_found_in_three_languages_and_with_slips(text: str, language: str, expected: list[str]) -> None:
    assert places(text, language) == expected


def test_a_name_of_several_places_keeps_them_all() -> None:
    slot = read("a hotel in Valencia").first("place")
    assert slot is not None
    assert {place.country for place in slot.choices} >= {"ES", "VE"}
    assert slot.confidence < 1


def test_from_is_where_it_starts() -> None:
    found = {slot.name: slot.text for slot in read("vuelo de Madrid a Roma", "es").slots}
    assert found == {"origin": "Madrid", "place": "Roma"}
    assert [slot.name for slot in read("playas de España", "es").slots] == ["interest", "place"]


def test_a_domains_own_places_go_first() -> None:
    mine = Place("own", "destination", "XX", 0, 0, 0, ("Narnia", "Narnia", "Narnia"))
    rival = Place("valencia", "destination", "ES", 39.5, -0.4, 0, ("Valencia", "Valencia", "Valencia"))
    reader = SlotReader(Gazetteer([mine, rival, *build_place_list().places]))
    slot = reader.read("to Narnia", TODAY).first("place")
    assert slot is not None
    assert slot.value == mine
    other = reader.read("to Valencia", TODAY).first("place")
    assert other is not None
    assert (other.value, other.choices) == (rival, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("under $150 a night", Budget(None, 150.0, "USD", "night")),
        ("between 500 and 800 euros", Budget(500.0, 800.0, "EUR")),
        ("Budget: 1,200.50 EUR per person", Budget(None, 1200.5, "EUR", "person")),
        ("about 500 pounds", Budget(500.0, 500.0, "GBP", around=True)),
        ("at least 100 euros", Budget(100.0, None, "EUR")),
        ("no more than 500 dollars", Budget(None, 500.0, "USD")),
        ("höchstens 1.000 Euro", Budget(None, 1000.0, "EUR")),
        ("menos de mil euros por noche", Budget(None, 1000.0, "EUR", "night")),
    ],
)
def test_money_is_read_with_its_bound_and_unit(text: str, expected: Budget) -> None:
    slot = read(text).first("budget")
    assert slot is not None
    assert slot.value == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("for 2 adults and 3 kids", Party(2, 3)),
        ("with my wife and two kids", Party(2, 2)),
        ("we are four", Party(4)),
        ("just me", Party(1)),
        ("zu viert", Party(4)),
        ("mit meiner Frau und zwei Kindern", Party(2, 2)),
        ("somos tres y un bebé", Party(3, 1)),
        ("para dos personas", Party(2)),
    ],
)
def test_people_are_counted(text: str, expected: Party) -> None:
    slot = read(text).first("party")
    assert slot is not None
    assert slot.value == expected


@pytest.mark.parametrize(
    "text",
    [
        "for two weeks",
        "for 500 euros",
        "for two o'clock",
        "it's 89",
        "on 3 May",
        "a 5 star hotel",
        "0 people",
        "101 people",
    ],
)
def test_what_counts_no_people_is_no_party(text: str) -> None:
    assert read(text).first("party") is None


@pytest.mark.parametrize(
    ("text", "refused"),
    [("not Paris, somewhere quiet", ["Paris"]), ("nicht Paris, sondern Rom", ["Paris"]), ("no París, mejor Roma", ["París"]),
     ("no, París", []), ("a beach but no nightlife", ["nightlife"]), ("ohne Strand", ["Strand"]),
     ("sin discotecas", ["discotecas"])],
)  # fmt: skip
def test_what_is_not_wanted_is_marked(text: str, refused: list[str]) -> None:
    assert [slot.text for slot in read(text, language_of(text)).slots if slot.negated] == refused


@given(st.text(max_size=200))
def test_spans_point_into_the_text(text: str) -> None:
    for slot in read(text).slots:
        assert text[slot.start : slot.end] == slot.text


@given(st.text("abcd", max_size=6), st.text("abcd", max_size=6))
def test_slips_are_counted_alike_both_ways(one: str, other: str) -> None:
    assert edits(one, other, 9) == edits(other, one, 9)
    assert (edits(one, other, 9) == 0) == (one == other)


def test_languages_are_told_by_their_words() -> None:
    assert language_of("Ich suche ein Hotel") == "de"
    assert language_of("busco un hotel para dos") == "es"
    assert language_of("I am looking for a hotel", "de") == "en"
    assert language_of("Berlin", "es") == "es"


def test_bad_input_is_a_typed_error() -> None:
    with pytest.raises(TextError):
        slot_reader().read(5, TODAY)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        load_language("xx")
