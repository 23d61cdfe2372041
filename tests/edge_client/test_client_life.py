"""A client's life on the real model: opening, understanding, answering, learning with consent, forgetting."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from real_bundle import RealBundle

from edge_client import EdgeClient, EdgeConfig
from edge_client.bundles import BundleStore
from shared_models.errors import (
    BundleTamperedError,
    BundleUnavailableError,
    ConfigError,
    ConsentError,
    ModelMissingError,
    StoreLockedError,
    TextError,
    UnknownIntentError,
    WrongKeyError,
)
from shared_models.rules.ruleset import Rule, RuleSet

KEY = bytes(range(32))
BOTH = ("personal-learning", "intent-model")


def reopened(client: EdgeClient) -> EdgeClient:
    client.close()
    return EdgeClient.open(client.store.folder, key=KEY, config=client.config)


# -- opening -----------------------------------------------------------------------------------------------------------


def test_without_a_model_the_command_that_makes_one_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(ModelMissingError, match="tacit-fleet build"):
        EdgeClient.open(tmp_path / "home", key=KEY)
    assert not (tmp_path / "home").exists()


def test_a_bundle_is_needed_once_and_then_everything_works_offline(real_bundle: RealBundle, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EdgeClient.open(home, key=KEY, bundle=real_bundle.folder) as client:
        assert client.recognize("Book a flight to Lisbon").intent == "book_flight"
    with EdgeClient.open(home, key=KEY) as client:
        assert client.recognize("Book a flight to Lisbon").intent == "book_flight"
        with pytest.raises(ConfigError, match="no address"):
            client.refresh()
    # Offline: the folder that it came from is out of reach.
    with EdgeClient.open(home, key=KEY, bundle=tmp_path / "unplugged") as client:
        assert client.respond("hello there").intent == "greeting"
        with pytest.raises(BundleUnavailableError):
            client.refresh()
        assert client.respond("hello there").intent == "greeting"
    with pytest.raises(BundleUnavailableError):
        EdgeClient.open(tmp_path / "new", key=KEY, bundle=tmp_path / "unplugged")


def test_a_refresh_brings_new_rules_and_a_bad_one_changes_nothing(real_bundle: RealBundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(real_bundle.folder, folder)
    with EdgeClient.open(tmp_path / "home", key=KEY, bundle=folder) as client:
        assert client.respond("I want to rent a car").action == "answer"
        denial = Rule("no-cars", "deny", ("rent_car",), "cars are not offered here", reply="No cars, sorry.")
        real_bundle.publish(1, RuleSet((denial,)), folder)
        assert client.refresh() == "fresh"
        reply = client.respond("I want to rent a car")
        assert (reply.action, reply.text, reply.rule_ids) == ("refuse", "No cars, sorry.", ("no-cars",))
        assert "cars are not offered here" in reply.reasons
        assert reply.recognition.model_version == 1
        for head in (folder / "targets").rglob("*.onnx"):
            head.write_bytes(head.read_bytes()[:-1] + b"x")
        for target in (folder / "metadata").glob("timestamp.json"):
            target.write_bytes(target.read_bytes().replace(b'"version":', b'"version": 1'))
        with pytest.raises((BundleTamperedError, BundleUnavailableError)):
            client.refresh()
        assert client.respond("I want to rent a car").rule_ids == ("no-cars",)


def test_a_wrong_key_and_a_second_owner_are_refused(client: EdgeClient) -> None:
    with pytest.raises(StoreLockedError):
        EdgeClient.open(client.store.folder, key=KEY, config=client.config)
    client.close()
    with pytest.raises(WrongKeyError):
        EdgeClient.open(client.store.folder, key=bytes(32), config=client.config)


def test_a_file_as_home_is_refused(tmp_path: Path, bundles: BundleStore) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="not a folder"):
        EdgeClient.open(tmp_path / "file", key=KEY, config=EdgeConfig(bundles=bundles))


@pytest.mark.parametrize(
    "wrong",
    [
        {"clock": 3},
        {"most_examples": 0},
        {"most_examples": True},
        {"ask_below": 1.5},
        {"ask_margin": float("nan")},
        {"fetch_timeout_s": 0},
    ],
)
def test_a_configuration_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EdgeConfig(**wrong)  # type: ignore[arg-type]


# -- understanding and answering ---------------------------------------------------------------------------------------


def test_the_conversation_answers_with_reasons(client: EdgeClient) -> None:
    reply = client.respond("Book a flight to Lisbon")
    assert reply.intent == "book_flight"
    assert reply.text in client._active().templates["book_flight"]
    assert reply.reasons[0].startswith("I understood “book a flight” (")
    again = client.respond("Book a flight to Lisbon")
    assert again.text != reply.text
    strange = client.respond("what is the square root of sixteen")
    assert strange.out_of_scope
    assert strange.action == "decline"
    json.dumps(reply.document())


def test_an_emergency_gets_the_number_first(client: EdgeClient) -> None:
    reply = client.respond("We had an accident and my friend is hurt, I need urgent help")
    assert reply.intent == "emergency_help"
    assert "112" in reply.text
    assert "emergency-number-first" in reply.rule_ids


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "😀🧳✈️",
        "احجز لي رحلة إلى لشبونة",
        "\x00\x01\x02",
        "a" * 100_000,
        "\u202eflight a koob",
        "\ud800",
        "🏳️‍🌈" * 500,
    ],
)
def test_any_text_gets_an_answer(client: EdgeClient, text: str) -> None:
    reply = client.respond(text)
    assert reply.text
    assert reply.reasons
    assert 0.0 <= reply.confidence <= 1.0


@pytest.mark.parametrize("text", ["x" * 1_000_000, b"bytes", None, 7, ["a"]])
def test_what_is_no_text_is_a_typed_error(client: EdgeClient, text: object) -> None:
    for call in (client.recognize, client.respond):
        with pytest.raises(TextError):
            call(text)  # type: ignore[arg-type]


def test_it_asks_when_unsure_and_understands_the_short_answer(bundles: BundleStore, tmp_path: Path) -> None:
    # Limits that always ask: the model's own doubt is not what is tested here.
    config = EdgeConfig(bundles=bundles, ask_below=1.0, ask_margin=1.0)
    with EdgeClient.open(tmp_path, key=KEY, config=config) as client:
        client.consent.grant("personal-learning")
        question = client.respond("flight")
        assert question.action == "ask"
        labels = client.intents()
        assert all(labels[intent] in question.text for intent in question.choices)
        answer = client.respond("The second one.")
        assert answer.intent == question.choices[1]
        assert answer.recognition.text == "flight"
        assert answer.reasons[0].startswith("you chose")
        assert client.inspect()["examples"][0]["intent"] == question.choices[1]
        # Anything else is a new turn, and the question is forgotten.
        client.respond("train or plane")
        assert client.respond("hello").recognition.text == "hello"


# -- learning ----------------------------------------------------------------------------------------------------------


def test_nothing_is_kept_without_consent(client: EdgeClient) -> None:
    result = client.feedback("zip zap", intent="book_hotel")
    assert (result.kept, result.intent, result.examples) == (False, "book_hotel", 0)
    assert "personal-learning" in result.reason
    assert not client.accept(client.recognize("Book a flight to Lisbon")).kept
    assert client.inspect()["examples"] == []
    with pytest.raises(ConsentError):
        client.define_intent("water_plants", ["water my plants"])


def test_feedback_is_kept_with_consent_and_remembered(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")
    found = client.recognize("zip zap to the beach")
    result = client.feedback(found, intent="book a hotel")
    assert (result.kept, result.intent, result.examples) == (True, "book_hotel", 1)
    with reopened(client) as again:
        reply = again.respond("Zip  zap to the beach")
        assert (reply.intent, reply.confidence) == ("book_hotel", 1.0)
        assert reply.reasons == ("you told me before that this means “book a hotel”",)
        again.feedback("zip zap to the beach", intent="rent_car")
        assert again.recognize("zip zap to the beach").intent == "rent_car"
        assert again.inspect()["examples_by_intent"] == {"rent_car": 1}


def test_an_accepted_answer_is_an_example_and_out_of_scope_is_none(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")
    assert client.accept(client.respond("Book a flight to Lisbon")).kept
    assert client.accept(client.recognize("book a flight to lisbon")).examples == 1
    assert client.inspect()["examples"][0]["count"] == 2
    strange = client.recognize("what is the square root of sixteen")
    assert not client.accept(strange).kept
    with pytest.raises(TextError):
        client.accept("yes")  # type: ignore[arg-type]


def test_an_unknown_intent_in_feedback_loses_nothing(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")
    client.feedback("zip zap", intent="book_hotel")
    with pytest.raises(UnknownIntentError, match="book_flight"):
        client.feedback("zip zap", intent="book_fligth")
    for empty in ("", "   ", "\x00"):
        with pytest.raises(TextError):
            client.feedback(empty, intent="book_hotel")
    assert client.inspect()["examples_by_intent"] == {"book_hotel": 1}


def test_training_examples_need_both_consents_and_are_embeddings_of_the_texts(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")
    client.feedback("zip zap", intent="book_hotel")
    client.feedback("ping pong", intent="rent_car")
    client.feedback("zip zap", intent="book_hotel")
    assert client.training_examples()[0].shape == (0, 384)
    client.consent.grant("intent-model")
    rows, intents = client.training_examples()
    assert intents == ["rent_car", "book_hotel", "book_hotel"]
    assert rows.dtype == np.float32
    assert np.array_equal(rows[1], client.model.embed("zip zap"))
    client.consent.withdraw("intent-model")
    assert client.training_examples()[1] == []
    assert len(client.inspect()["examples"]) == 2


def test_embeddings_of_another_encoder_are_made_anew(client: EdgeClient) -> None:
    for purpose in BOTH:
        client.consent.grant(purpose)
    client.feedback("zip zap", intent="book_hotel")
    client.define_intent("water_plants", ["water my plants", "sprinkle the ferns"])
    sound = client.training_examples()[0]
    for name in ("examples", "own-intents"):
        table = client.store.table(name)
        for key, record in table.items():
            for holder in [record, *record.get("phrases", [])]:
                if "vector" in holder:
                    holder.update(encoder="0" * 64, vector="AAAA")
            table.put(key, record)
    with reopened(client) as again:
        assert np.array_equal(again.training_examples()[0], sound)
        assert again.recognize("please water my plants").intent == "water_plants"
        assert again.store.table("examples").entries()[0]["encoder"] != "0" * 64


def test_the_oldest_examples_make_room(bundles: BundleStore, tmp_path: Path) -> None:
    with EdgeClient.open(tmp_path, key=KEY, config=EdgeConfig(bundles=bundles, most_examples=3)) as client:
        client.consent.grant("personal-learning")
        for text in ("one", "two", "three", "one", "four"):
            client.feedback(text, intent="greeting")
        assert [item["text"] for item in client.inspect()["examples"]] == ["three", "one", "four"]
