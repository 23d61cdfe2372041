"""What is never inferred: however a name is written, no schema, layout, catalogue, item space or profile takes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_models.bandit_prior import BanditPrior, BlockWeights, MomentLayout
from shared_models.errors import ConfigError, DomainError, ModelDamagedError, SensitiveError, TacitError, WireError
from shared_models.fairness import FairnessLayout, SliceSource
from shared_models.lookalikes import latin, without_digits
from shared_models.optional_targets import check_targets
from shared_models.preference import ItemSpace
from shared_models.profile import Attribute, EventType, ProfileSchema, default_schema
from shared_models.sensitive import check_features, read_categories, sensitive_list
from shared_models.travel.action_features import feature_names
from shared_models.travel.catalogue import Catalogue, load_catalogue

CASES = yaml.safe_load((Path(__file__).parent.parent / "data" / "ethics.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("category", "name"), [(one, name) for one, names in CASES["refused"].items() for name in names.split()]
)
def test_a_sensitive_name_is_known_however_it_is_written(category: str, name: str) -> None:
    assert sensitive_list().category(name), name
    with pytest.raises(SensitiveError, match="never a feature"):
        check_features(["price", name])


@pytest.mark.parametrize(
    "text",
    [
        "trade union",
        "place of worship",
        "user is pregnant",
        "r e l i g i o n",
        "S E X",
        "likely gay",
        "s.e.x",
        "P-R-E-G-N-A-N-T",
    ],
)
def test_spacing_a_word_out_does_not_hide_it(text: str) -> None:
    assert sensitive_list().category(text)


@pytest.mark.parametrize("name", CASES["permitted"].split())
def test_harmless_names_may_be_used(name: str) -> None:
    assert not sensitive_list().category(name)


def test_nothing_that_ships_is_refused() -> None:
    catalogue, schema = load_catalogue(), default_schema()
    names = [*catalogue.feature_names, *feature_names(catalogue.feature_names)]
    names += [text for place in catalogue.destinations for text in (place.id, *place.names.values())]
    names += [*schema.events, *schema.slices, *(name for name in schema.attributes if name not in schema.special)]
    schema.check_features(names)
    with pytest.raises(SensitiveError):
        schema.check_features(["user.accessibility_needs"])


@given(st.sampled_from(["pregnancy", "religion", "gewerkschaft", "biometric", "bankrupt"]), st.data())
@settings(max_examples=60, deadline=None)
def test_no_mixture_of_tricks_hides_a_word(word: str, data: st.DataObject) -> None:
    twins = {
        "a": "aаAá@",
        "e": "eеE3é",
        "i": "iіIí1",
        "o": "oоO0ó",
        "c": "cсC",
        "p": "pрP",
        "s": "sѕS",
        "r": "rR",
        "n": "nN",
        "g": "gG",
    }
    letters = [data.draw(st.sampled_from(twins.get(letter, letter))) for letter in word]
    # The last letter stays: a digit at the end numbers a name.
    letters[-1] = word[-1]
    between = data.draw(st.sampled_from(["", "\u200b", "_", "-"]))
    name = (
        data.draw(st.sampled_from(["", "user_", "is-", "P"]))
        + between.join(letters)
        + data.draw(st.sampled_from(["", "_score", "2"]))
    )
    assert sensitive_list().category(name), name


@given(st.lists(st.text(max_size=40), max_size=60))
@settings(max_examples=60, deadline=None)
def test_many_names_at_once_are_read_as_one_by_one(names: list[str]) -> None:
    listed = sensitive_list()
    names = names * 3
    one_by_one = next(((name, found) for name in names if (found := listed.category(name))), None)
    assert listed.found_in(names) == one_by_one
    for place in (0, len(names) // 2, len(names)):
        found = listed.found_in([*names[:place], "g_a_y", *names[place:]])
        assert found == (one_by_one if one_by_one and one_by_one[0] in names[:place] else ("g_a_y", "sex_life"))


def test_hostile_names_are_read_in_no_time() -> None:
    started = time.perf_counter()
    for name in (
        "1" * 1000,
        "a1" * 500,
        "a " * 500,
        "_" * 1000,
        "ﷺ" * 1000,
        "Aa" * 500,
        "a\u0301" * 500,
        "x" * 1_000_000,
    ):
        sensitive_list().category(name)
    assert time.perf_counter() - started < 2.0
    for value in (None, 5, b"gay", ["gay"]):
        assert sensitive_list().category(value) == ""  # type: ignore[arg-type]


def test_look_alikes_become_what_they_look_like() -> None:
    assert latin("rеlіgіоn ʀᴇʟ Straße Ελλα").startswith("religion REL".replace("REL", "rel") + " Strasse")
    assert latin("plain") == "plain"
    assert without_digits("pr3gnant") == ("pregnant",)
    assert without_digits("item 17") == ()


# -- where it is enforced ---------------------------------------------------------------------------------------------------

SPACE: dict[str, Any] = {
    "prior": np.zeros(2, np.float32),
    "linear": np.zeros((2, 0), np.float32),
    "odds": np.zeros((2, 0), np.float32),
    "factors": np.ones((2, 2), np.float32),
    "transfer": np.zeros((2, 0), np.float32),
}


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (
            lambda name: MomentLayout.plain(
                ("price", name), indicators=False, reward_low=0.0, reward_high=1.0, weights=BlockWeights()
            ),
            ConfigError,
        ),
        (lambda name: BanditPrior.wide(("price", name), reward_low=0.0, reward_high=1.0), ConfigError),
        (lambda name: ItemSpace(("castle", name), **SPACE), ConfigError),
        (lambda name: FairnessLayout({name: SliceSource("language", ("a", "b"), (("en",), ()))}), ConfigError),
        (lambda name: FairnessLayout({"group": SliceSource(name, ("a", "b"), (("en",), ()))}), ConfigError),
        (lambda name: FairnessLayout({"group": SliceSource("language", ("a", name), (("en",), ()))}), ConfigError),
        (
            lambda name: check_targets({"items.json": b'{"format":1,"items":["castle","%s"]}' % name.encode()}),
            WireError,
        ),
    ],
)
def test_no_layout_and_no_model_takes_a_sensitive_name(make: Callable[[str], Any], error: type[Exception]) -> None:
    make("weekend")
    for name in ("pregnancy", "place_of_worship"):
        with pytest.raises(error):
            make(name)


def test_a_published_prior_and_catalogue_are_refused_by_publisher_and_device_alike() -> None:
    raw = (
        BanditPrior.wide(("price", "xxxxxxxx"), reward_low=0.0, reward_high=1.0)
        .to_bytes()
        .replace(b"xxxxxxxx", b"religion")
    )
    with pytest.raises(ModelDamagedError, match="religion"):
        BanditPrior.from_bytes(raw)
    with pytest.raises(WireError, match="religion"):
        check_targets({"bandit-prior.json": raw})
    document = load_catalogue().document()
    document["features"] = ["church" if name == "culture" else name for name in document["features"]]
    for place in document["destinations"]:
        place["features"]["church"] = place["features"].pop("culture")
    with pytest.raises(SensitiveError, match="church"):
        Catalogue.from_document(document)


def test_an_int8_item_space_that_names_one_is_refused_when_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    from shared_models import preference

    with monkeypatch.context() as unguarded:
        unguarded.setattr(preference, "check_features", lambda *_, **__: None)
        raw = preference.to_onnx(ItemSpace(("castle", "clinic_visits"), **SPACE))
    with pytest.raises(ModelDamagedError, match="clinic_visits"):
        preference.ItemSpaceSession(raw)


def schema_of(text: str) -> ProfileSchema:
    return default_schema().extended(ProfileSchema.from_yaml(text.encode()))


@pytest.mark.parametrize("source", ["inferred", "observed", "context", "connector"])
@pytest.mark.parametrize(
    "name", ["pregnancy_week", "religion", "likely_gay", "enfermedad", "gewerkschaft", "credit_score"]
)
def test_a_sensitive_attribute_cannot_be_declared_in_a_schema_unless_the_user_declares_it(
    source: str, name: str
) -> None:
    line = (
        "attributes: {%s: {kind: demographic, type: text, retention_days: 9, sensitivity: special, purpose: personalisation, "
        "source: %s}}"
    )
    with pytest.raises(SensitiveError, match=rf"attributes\.{name}\.source"):
        schema_of(line % (name, source))
    declared = schema_of(line % (name, "declared"))
    assert name in declared.special
    with pytest.raises(SensitiveError):
        declared.check_features([f"{name}=yes"])
    with pytest.raises(SensitiveError, match="sensitivity"):
        schema_of((line % (name, "declared")).replace("special", "personal"))
    with pytest.raises(SensitiveError, match="purpose"):
        schema_of((line % (name, "declared")).replace("purpose: personalisation, ", ""))


@pytest.mark.parametrize(
    "text",
    [
        "attributes: {segment: {kind: behavioural, type: list, choices: [new, pregnant], retention_days: 9, source: inferred}}",
        "attributes: {shade: {kind: behavioural, type: text, sensitivity: special, retention_days: 9, source: observed}}",
        "events: {clinic_visited: {retention_days: 9}}",
        "events: {thing_viewed: {retention_days: 9, properties: {religion: category}}}",
        "events: {thing_viewed: {retention_days: 9, properties: {kind: {type: category, choices: [mosque, museum]}}}}",
        "never_inferred: {shoe: {words: [shoe size]}}\n"
        "attributes: {shoe_size: {kind: behavioural, type: integer, retention_days: 9, source: inferred}}",
        "slices: {faith: {attribute: language, buckets: {a: [en], b: []}}}",
        "slices: {group: {attribute: language, buckets: {christian: [en], b: []}}}",
        "never_inferred: {shoe: {stems: [abc]}}",
        "never_inferred: {shoe: 5}",
        "never_inferred: {shoe: {words: ['<>']}}",
    ],
)
def test_a_schema_that_infers_what_is_sensitive_is_refused(text: str) -> None:
    with pytest.raises(SensitiveError):
        schema_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "slices: {group: {attribute: diet, buckets: {a: [en], b: []}}}",
        "slices: {group: {attribute: home_city, buckets: {a: [en], b: []}}}",
        "slices: {group: {attribute: unknown, buckets: {a: [en], b: []}}}",
        "slices: {group: {attribute: language, buckets: {a: [en]}}}",
        "slices: {group: {attribute: language, buckets: {a: [en], b: [EN]}}}",
        "slices: {group: {attribute: language, buckets: {a: [], b: []}}}",
        "slices: {group: {attribute: orders, buckets: [a, b], edges: [1, 2]}}",
        "slices: {group: {attribute: orders, buckets: [a, b], edges: [.nan]}}",
        "slices: {group: {attribute: orders, buckets: 5}}",
        "slices: {group: {attribute: [], buckets: {a: [en], b: []}}}",
    ],
)
def test_a_slice_over_what_is_not_ordinary_or_not_well_formed_is_refused(text: str) -> None:
    with pytest.raises(DomainError):
        schema_of(text)


def test_an_apps_own_words_are_added_and_none_is_taken_away() -> None:
    schema = schema_of("never_inferred: {health: {words: [sneeze]}, star_sign: {title: star signs, stems: [zodiac]}}")
    assert schema.sensitive.category("daily_sneezes") == "health"
    assert schema.sensitive.category("userZodiacSign") == "star_sign"
    assert schema.sensitive.category("pregnant")
    assert not sensitive_list().category("zodiac")
    again = ProfileSchema.from_document(schema.document())
    assert again == schema
    assert schema.extended(schema).never_inferred == schema.never_inferred


def test_a_schema_made_in_code_or_read_back_is_checked_too() -> None:
    attribute = Attribute("religion", "demographic", "text", "", "", "personalisation", "ordinary", 9, "inferred")
    with pytest.raises(SensitiveError):
        ProfileSchema({"religion": attribute}, {})
    document = ProfileSchema({}, {}).document()
    document["attributes"]["religion"] = attribute.document()
    with pytest.raises(DomainError):
        ProfileSchema.from_document(document)
    with pytest.raises(SensitiveError):
        ProfileSchema({}, {"hospital_visit": EventType("hospital_visit", "personalisation", 9, {})})
    del document["attributes"], document["never_inferred"], document["slices"]
    assert ProfileSchema.from_document({**document, "attributes": {}}) == ProfileSchema({}, {})


@pytest.mark.parametrize(
    "document", [5, {"a": {"other": 1}}, {"A": {}}, {"a": {"title": ""}}, {"a": {"words": [1]}}, {"a": {"basis": 1}}]
)
def test_a_damaged_list_is_one_typed_error(document: Any) -> None:
    with pytest.raises(TacitError):
        read_categories(document, "never_inferred")
