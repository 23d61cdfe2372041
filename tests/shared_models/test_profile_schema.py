"""The attribute schema: what it names is read into one form, the rest is not kept, and a bad file says which field."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared_models.attribute_values import TYPES, normalised
from shared_models.domain import TRAVEL
from shared_models.errors import CaptureError, DomainError
from shared_models.profile import ProfileSchema, canonical_name, default_schema
from shared_models.purposes import PERSONALISATION

SCHEMA = default_schema()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def schema_of(text: str) -> ProfileSchema:
    return ProfileSchema.from_yaml(text.encode())


def event_of(properties: str) -> ProfileSchema:
    return schema_of(f"events: {{sold: {{retention_days: 10, properties: {properties}}}}}")


# -- the schema that ships ------------------------------------------------------------------------------------------------


def test_the_schema_that_ships_names_a_known_purpose_and_a_bounded_retention_for_all() -> None:
    attributes = [
        *SCHEMA.attributes.values(),
        *(a for event in SCHEMA.events.values() for a in event.properties.values()),
    ]
    assert attributes
    for attribute in attributes:
        assert attribute.purpose == PERSONALISATION.name
        assert 1 <= attribute.retention_days <= 730
        assert attribute.sensitivity != "special" or attribute.source == "declared", attribute.name
    for kind in ("identify", "page", "screen", "group", "alias", "chat", "feedback", "context"):
        assert SCHEMA.event(kind) is not None
    for funnel in SCHEMA.funnels.values():
        assert set(funnel.steps) <= set(SCHEMA.events)


def test_every_default_reads_back_as_itself_or_means_nothing_known() -> None:
    for attribute in SCHEMA.attributes.values():
        if attribute.default not in ("", []):
            assert SCHEMA.check(attribute.name, attribute.default) == attribute.default


def test_the_schema_is_plain_json() -> None:
    document = json.loads(json.dumps(SCHEMA.document(), allow_nan=False))
    assert document["attributes"]["locale"]["unit"] == "BCP 47"
    assert document["events"]["product_viewed"]["properties"]["price"]["unit"] == "currency"
    assert document["funnels"]["purchase"]["steps"][-1] == "order_completed"


# -- one value ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "unit", "value", "expected"),
    [
        ("number", "km", 5, 5.0),
        ("number", "km", "5 mi", 8.04672),
        ("number", "km", {"value": 5, "unit": "miles"}, 8.04672),
        ("number", "km", "5000 m", 5.0),
        ("number", "degC", "50 °F", 10.0),
        ("number", "degC", {"value": 300, "unit": "K"}, 26.85),
        ("number", "kg", "10 lb", 4.5359237),
        ("number", "km/h", "60 mph", 96.56064),
        ("number", "min", "1.5 h", 90.0),
        ("number", "%", {"value": 0.5, "unit": "1"}, 50.0),
        ("number", "EUR", {"amount": 5, "currency": "EUR"}, 5.0),
        ("number", "EUR", "5 eur", 5.0),
        ("number", "", " -1.5e3 ", -1500.0),
        ("number", "", -0.0, 0.0),
        ("integer", "", 3.0, 3),
        ("integer", "", "12", 12),
        ("text", "BCP 47", "de_ch.UTF-8", "de-CH"),
        ("text", "BCP 47", "zh-hant-tw-x-private", "zh-Hant-TW"),
        ("text", "BCP 47", "ES-419", "es-419"),
        ("text", "ISO 4217", "chf", "CHF"),
        ("text", "ISO 3166-1", "ch", "CH"),
        ("text", "", "  e\u0301\x00a\t", "é a"),
        ("category", "", " Sea ", "Sea"),
        ("boolean", "", "False", False),
        ("time", "s", "2026-11-24T14:00:00+01:00", 1795525200.0),
        ("time", "s", "2026-11-24T13:00:00", 1795525200.0),
        ("time", "s", 1795525200123, 1795525200.123),
        ("time", "s", datetime(2026, 11, 24, 14, tzinfo=timezone(timedelta(hours=1))), 1795525200.0),
        ("place", "", {"latitude": 47.37689, "longitude": -0.0004}, "47.4,0.0"),
        ("place", "", "47.37689, 8.54169", "47.4,8.5"),
        ("place", "", {"city": "Zürich", "country": "CH", "street": "Bahnhofstrasse 1"}, "Zürich, CH"),
        ("list", "", ["Sea", "sea ", "Sea"], ["Sea", "sea"]),
    ],
)
def test_a_value_is_read_into_the_one_form_in_which_it_is_kept(kind: str, unit: str, value: Any, expected: Any) -> None:
    read = normalised(kind, unit, (), value)
    assert read == (pytest.approx(expected) if isinstance(expected, float) else expected)
    assert type(read) is type(expected)


@pytest.mark.parametrize(
    ("kind", "unit", "value", "words"),
    [
        ("number", "km", "5 kg", "expected km"),
        ("number", "", "5 km", "without a unit"),
        ("number", "EUR", "5 USD", "kept in EUR"),
        ("number", "", True, "got bool"),
        ("number", "", math.nan, "finite"),
        ("number", "", math.inf, "finite"),
        ("number", "", 10**400, "finite"),
        ("number", "", "1" * 5000, "expected a number"),
        ("number", "", {"value": 1, "units": "km"}, "value and unit"),
        ("number", "", {"value": {"value": 1}}, "got dict"),
        ("integer", "", 1.5, "whole number"),
        ("text", "", 5, "got int"),
        ("text", "", "x" * 1001, "at most 1000"),
        ("text", "", "\ud83d", "surrogate"),
        ("text", "BCP 47", "english", "BCP 47"),
        ("text", "ISO 4217", "$", "ISO 4217"),
        ("text", "ISO 3166-1", "Switzerland", "ISO 3166-1"),
        ("category", "", " \n", "not empty"),
        ("category", "", "x" * 101, "at most 100"),
        ("boolean", "", 1, "true or false"),
        ("time", "s", "yesterday", "ISO 8601"),
        ("time", "s", "1969-12-31T23:59:59Z", "1970 to 2100"),
        ("time", "s", math.nan, "1970 to 2100"),
        ("time", "s", -(10**400), "1970 to 2100"),
        ("time", "s", "0001-01-01T00:00:00+14:00", "1970 to 2100"),
        ("place", "", "Bahnhofstrasse 1", "without numbers"),
        ("place", "", {"latitude": 91, "longitude": 0}, "latitude"),
        ("place", "", {"latitude": "47", "longitude": 8}, "latitude"),
        ("place", "", {}, "latitude"),
        ("list", "", "sea", "expected a list"),
        ("list", "", ["x"] * 101, "at most 100"),
        ("list", "", [["sea"]], "got list"),
        ("list", "", [f"{n:02d}" * 40 for n in range(60)], "characters in all"),
    ],
)
def test_a_value_that_cannot_be_read_is_told_in_words_that_do_not_repeat_it(
    kind: str, unit: str, value: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        normalised(kind, unit, (), value)
    assert len(str(caught.value)) < 200


def test_choices_are_matched_without_regard_to_case_and_told() -> None:
    assert SCHEMA.check("device_type", "PHONE") == "phone"
    with pytest.raises(CaptureError, match="expected one of phone, tablet") as caught:
        SCHEMA.check("device_type", "toaster")
    assert list(caught.value.fields) == ["device_type"]


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(TYPES),
    unit=st.sampled_from(["", "km", "degC", "EUR", "currency", "BCP 47", "ISO 4217", "ISO 3166-1"]),
    choices=st.sampled_from([(), ("Sea", "Mountains")]),
    value=JSON | st.datetimes(timezones=st.none() | st.timezones()) | st.binary(max_size=4),
)
@example(kind="place", unit="", choices=(), value="0,-0.04")
@example(kind="number", unit="degC", choices=(), value="1e15 degF")
def test_any_value_is_read_or_refused_and_reading_it_twice_changes_nothing(
    kind: str, unit: str, choices: tuple[str, ...], value: Any
) -> None:
    try:
        read = normalised(kind, unit, choices, value)
    except ValueError:
        return
    json.dumps(read, allow_nan=False)
    assert normalised(kind, unit, choices, read) == read


# -- one event ------------------------------------------------------------------------------------------------------------


def test_what_an_event_type_does_not_name_is_dropped_and_what_it_misses_is_told() -> None:
    kept = SCHEMA.events["product_viewed"].keep({"productId": "p1", "category": None, "user_email": "a@b.c"})
    assert kept.values == {"product_id": "p1"}
    assert kept.dropped == ("user_email",)
    assert set(kept.missing) == {"category", "price", "currency", "position"}


def test_the_spelling_of_the_schema_wins_over_another_one() -> None:
    event = SCHEMA.events["product_viewed"]
    assert event.keep({"product_id": "right", "productId": "other"}).values == {"product_id": "right"}
    assert event.keep({"productId": "other", "product_id": "right"}).values == {"product_id": "right"}


@pytest.mark.parametrize(
    "given",
    [
        {"price": 5, "currency": "chf"},
        {"price": {"amount": 5, "currency": "CHF"}},
        {"price": "5 CHF"},
        {"price": "5 CHF", "currency": "CHF"},
    ],
)
def test_an_amount_carries_its_currency(given: dict[str, Any]) -> None:
    assert SCHEMA.events["product_viewed"].keep(given).values == {"price": 5.0, "currency": "CHF"}


def test_an_amount_without_a_currency_or_with_two_is_refused() -> None:
    event = SCHEMA.events["product_viewed"]
    with pytest.raises(CaptureError, match="needs its currency") as caught:
        event.keep({"price": 5})
    assert list(caught.value.fields) == ["price"]
    with pytest.raises(CaptureError, match="another currency"):
        event.keep({"price": "5 CHF", "currency": "EUR"})


def test_each_wrong_field_has_one_message() -> None:
    with pytest.raises(CaptureError) as caught:
        SCHEMA.events["product_viewed"].keep({"price": "dear", "currency": "money", "position": 1.5, "category": "ok"})
    assert set(caught.value.fields) == {"price", "currency", "position"}


def test_an_attribute_that_is_not_named_cannot_be_checked() -> None:
    with pytest.raises(CaptureError, match="does not name"):
        SCHEMA.check("shoe_size", 42)
    with pytest.raises(CaptureError):
        SCHEMA.check(["locale"], 42)  # type: ignore[arg-type]
    assert SCHEMA.attribute("shoe_size") is None


@pytest.mark.parametrize(
    "spelling", ["Product Viewed", "product_viewed", "productViewed", "Product-Viewed", " PRODUCT viewed"]
)
def test_names_are_found_however_they_are_written(spelling: str) -> None:
    assert SCHEMA.event(spelling) is SCHEMA.events["product_viewed"]


@given(st.text(max_size=120))
def test_a_canonical_name_is_its_own_canonical_name(name: str) -> None:
    assert canonical_name(canonical_name(name)) == canonical_name(name)


# -- the file -------------------------------------------------------------------------------------------------------------

ATTRIBUTE = "attributes: {a: {kind: behavioural, type: number, retention_days: 10, source: observed, EXTRA}}"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("- a", "profile schema"),
        ("a: [", "not valid YAML"),
        ("attributes: {a: {}, a: {}}", "twice"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: " + "[" * 100_000, "deeper than"),
        ("attribute: {}", "'attribute' is not known"),
        ("purpose: world-domination", "no purpose"),
        ("attributes: {Shoe Size: {}}", "is not a name"),
        ("attributes: {a: number}", "attributes.a"),
        (ATTRIBUTE.replace("number", "colour").replace(", EXTRA", ""), "attributes.a.type"),
        (ATTRIBUTE.replace("behavioural", "odd").replace(", EXTRA", ""), "attributes.a.kind"),
        (ATTRIBUTE.replace("observed", "guessed").replace(", EXTRA", ""), "attributes.a.source"),
        (ATTRIBUTE.replace("10", "0").replace(", EXTRA", ""), "attributes.a.retention_days"),
        (ATTRIBUTE.replace("10", "true").replace(", EXTRA", ""), "attributes.a.retention_days"),
        (ATTRIBUTE.replace("EXTRA", "sensitivity: secret"), "attributes.a.sensitivity"),
        (ATTRIBUTE.replace("EXTRA", "default: many"), "attributes.a"),
        (ATTRIBUTE.replace("EXTRA", "choices: [yes, no]"), "quote numbers, yes and no"),
        (ATTRIBUTE.replace("EXTRA", "choices: [a, A]"), "stands twice"),
        (ATTRIBUTE.replace("EXTRA", "unit: 5"), "attributes.a.unit"),
        (ATTRIBUTE.replace("EXTRA", "retention: 5"), "'retention' is not known"),
        ("events: {sold: {properties: {}}}", "events.sold.retention_days"),
        ("events: {sold: {retention_days: 1, properties: {a: {type: text, purpose: intent-model}}}}", "one purpose"),
        (
            "events: {sold: {retention_days: 1, properties: {price: {type: number, unit: currency}}}}",
            "needs a property currency",
        ),
        ("funnels: {f: {steps: [a]}}", "funnels.f.steps"),
        ("funnels: {f: {steps: [a, a]}}", "twice"),
        ("funnels: {f: {steps: [a, b], within_hours: 0}}", "within_hours"),
        ("? [1, 2]\n: 3", "not a scalar"),
        ("\x00", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_bad_schema_file_says_which_field_is_wrong(text: str, field: str) -> None:
    with pytest.raises(DomainError, match=field):
        schema_of(text)


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"x" * 300_000, b"[" * 100_000, "not bytes"])
def test_what_is_no_schema_file_at_all_is_refused(raw: Any) -> None:
    with pytest.raises(DomainError):
        ProfileSchema.from_yaml(raw)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200) | JSON.map(lambda value: json.dumps(value)))
def test_any_text_is_a_schema_or_a_domain_error(text: str) -> None:
    with contextlib.suppress(DomainError):
        assert isinstance(ProfileSchema.from_yaml(text.encode("utf-8", "surrogatepass")), ProfileSchema)


# -- an app's own ---------------------------------------------------------------------------------------------------------

APP = """
attributes:
  seat: {kind: behavioural, type: category, choices: [aisle, window], retention_days: 100, source: declared}
  locale: {kind: contextual, type: text, unit: BCP 47, default: de-CH, retention_days: 5, source: context}
events:
  flight_searched: {retention_days: 60, properties: {destination: place, departure: time}}
  page: {retention_days: 30, properties: {section: category}}
funnels:
  booking: {steps: [flight_searched, order_completed]}
"""


def test_an_app_extends_the_schema_by_one_file() -> None:
    schema = SCHEMA.extended(schema_of(APP))
    assert schema.check("seat", "Window") == "window"
    assert schema.attributes["locale"].retention_days == 5
    assert schema.events["page"].retention_days == 30
    assert set(schema.events["page"].properties) == {"name", "category", "section"}
    assert schema.events["flight_searched"].keep({"destination": "Rome"}).values == {"destination": "Rome"}
    assert set(schema.funnels) == {*SCHEMA.funnels, "booking"}
    assert SCHEMA.event("flight_searched") is None, "the schema that ships was changed"


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ("kind: contextual, type: text, unit: BCP 47, retention_days: 91, source: context", "retention_days"),
        ("kind: contextual, type: text, retention_days: 5, source: context", "unit"),
        ("kind: contextual, type: category, unit: BCP 47, retention_days: 5, source: context", "type"),
        ("kind: contextual, type: text, unit: BCP 47, retention_days: 5, source: declared", "source"),
        (
            "kind: contextual, type: text, unit: BCP 47, retention_days: 5, source: context, purpose: intent-model",
            "purpose",
        ),
    ],
)
def test_an_extension_cannot_loosen_or_reinterpret_what_is_there(fields: str, what: str) -> None:
    with pytest.raises(DomainError, match=f"attributes.locale.{what}"):
        SCHEMA.extended(schema_of(f"attributes: {{locale: {{{fields}}}}}"))


def test_an_extension_cannot_lower_a_sensitivity_nor_move_an_event_to_another_purpose() -> None:
    with pytest.raises(DomainError, match=r"attributes\.diet\.sensitivity"):
        SCHEMA.extended(
            schema_of("attributes: {diet: {kind: demographic, type: list, retention_days: 9, source: declared}}")
        )
    with pytest.raises(DomainError, match=r"events\.page\.purpose"):
        SCHEMA.extended(schema_of("events: {page: {retention_days: 9, purpose: intent-model}}"))


def test_the_travel_domain_extends_the_schema() -> None:
    schema = SCHEMA.extended(ProfileSchema.from_yaml((TRAVEL / "profile.yaml").read_bytes()))
    kept = schema.events["flight_searched"].keep(
        {"destination": "Rome, Italy", "departure": "2027-03-01", "name": "Ann"}
    )
    assert kept.values == {"destination": "Rome, Italy", "departure": 1803859200.0}
    assert kept.dropped == ("name",)
    assert set(schema.funnels["booking"].steps) <= set(schema.events)
    assert schema.check("likes", ["Hiking", "hiking"]) == ["hiking"]


def test_a_time_without_a_zone_is_utc() -> None:
    assert event_of("{at: time}").events["sold"].keep({"at": "2026-11-24"}).values == {
        "at": datetime(2026, 11, 24, tzinfo=UTC).timestamp()
    }
