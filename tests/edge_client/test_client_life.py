"""A client's life on the real model: opening, understanding, answering, learning with consent, forgetting."""

from __future__ import annotations

import asyncio
import inspect
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from real_bundle import RealBundle

from edge_client import AsyncEdgeClient, EdgeClient, EdgeConfig, Recognition
from edge_client.async_client import AsyncConsent
from edge_client.bundles import BundleStore
from edge_client.know.consent import Consent
from shared_models.errors import (
    BundleTamperedError,
    BundleUnavailableError,
    ConfigError,
    ConsentError,
    InputError,
    ModelMissingError,
    StoreClosedError,
    StoreLockedError,
    TextError,
    UnknownIntentError,
    WrongKeyError,
)
from shared_models.rules.ruleset import Rule, RuleSet

KEY = bytes(range(32))
BOTH = ("personal-learning", "intent-model")


@pytest.fixture(scope="module")
def bundles(real_bundle: RealBundle, tmp_path_factory: pytest.TempPathFactory) -> BundleStore:
    store = BundleStore(tmp_path_factory.mktemp("shared-bundles"))
    store.refresh(real_bundle.folder)
    return store


@pytest.fixture
def client(bundles: BundleStore, tmp_path: Path) -> Iterator[EdgeClient]:
    with EdgeClient.open(tmp_path / "home", key=KEY, config=EdgeConfig(bundles=bundles)) as opened:
        yield opened


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


# -- own intents -------------------------------------------------------------------------------------------------------


def test_own_intents_are_learned_from_a_few_phrases_and_stay(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")
    phrases = ["water my plants while I am away", "who looks after the garden", "please sprinkle the ferns"]
    assert client.define_intent("water_plants", phrases) == 3
    with reopened(client) as again:
        found = again.recognize("can somebody water the plants for me")
        assert (found.intent, found.personal) == ("water_plants", True)
        assert again.recognize("Book a flight to Lisbon").intent == "book_flight"
        reply = again.respond("can somebody water the plants for me")
        assert "water plants" in reply.text
        assert "of your own" in reply.reasons[0]
        assert again.feedback("the cactus is thirsty", intent="water plants").kept
        assert again.recognize("the cactus is thirsty").intent == "water_plants"
        assert len(again.inspect()["own_intents"]["water_plants"]) == 4
        again.remove_intent("water_plants")
        assert again.recognize("can somebody water the plants for me").intent != "water_plants"
        with pytest.raises(UnknownIntentError):
            again.remove_intent("water_plants")


@pytest.mark.parametrize(
    ("name", "phrases"),
    [
        ("book_flight", ["x"]),
        ("out_of_scope", ["x"]),
        ("unsure", ["x"]),
        ("Upper", ["x"]),
        ("", ["x"]),
        ("a b", ["x"]),
        (7, ["x"]),
        ("mine", []),
        ("mine", "one text"),
        ("mine", ["ok", "  "]),
        ("mine", ["ok", 7]),
        ("mine", ["ok", "x" * 200_000]),
        ("mine", [f"phrase number {number}" for number in range(300)]),
    ],
)
def test_own_intents_that_cannot_be_used_are_refused_whole(client: EdgeClient, name: object, phrases: object) -> None:
    client.consent.grant("personal-learning")
    with pytest.raises(InputError):
        client.define_intent(name, phrases)  # type: ignore[arg-type]
    assert client.inspect()["own_intents"] == {}


# -- consent -----------------------------------------------------------------------------------------------------------


def test_consent_is_off_until_granted_and_every_change_has_a_receipt(bundles: BundleStore, tmp_path: Path) -> None:
    times = iter(range(100, 1000))
    config = EdgeConfig(bundles=bundles, clock=lambda: float(next(times)))
    with EdgeClient.open(tmp_path, key=KEY, config=config) as client:
        consent = client.consent
        assert [consent.is_granted(name) for name in BOTH] == [False, False]
        assert not consent.was_asked("intent-model")
        first = consent.grant("intent-model", notice_version=3)
        assert consent.granted_since("intent-model") == first.at_s
        renewed = consent.grant("intent-model")
        assert consent.granted_since("intent-model") == renewed.at_s > first.at_s
        consent.withdraw("intent-model")
        consent.decline("personal-learning")
        assert consent.granted_since("intent-model") is None
    with EdgeClient.open(tmp_path, key=KEY, config=config) as client:
        found = [(item.number, item.purpose, item.action, item.notice_version) for item in client.consent.receipts()]
        assert found == [
            (1, "intent-model", "granted", 3),
            (2, "intent-model", "granted", 1),
            (3, "intent-model", "withdrawn", 1),
            (4, "personal-learning", "declined", 1),
        ]
        assert client.consent.was_asked("personal-learning")


def test_withdrawing_erases_examples_and_own_intents(client: EdgeClient) -> None:
    for purpose in BOTH:
        client.consent.grant(purpose)
    client.feedback("zip zap", intent="book_hotel")
    client.define_intent("water_plants", ["water my plants"])
    assert client.recognize("water my plants").personal
    client.consent.withdraw("personal-learning")
    with reopened(client) as again:
        assert again.inspect()["examples"] == []
        assert again.inspect()["own_intents"] == {}
        assert not again.recognize("water my plants").personal
        again.consent.grant("personal-learning")
        assert again.training_examples()[1] == []


@pytest.mark.parametrize("wrong", ["marketing", "", None, 7])
def test_a_purpose_that_does_not_exist_is_refused(client: EdgeClient, wrong: object) -> None:
    for call in (client.consent.grant, client.consent.withdraw, client.consent.is_granted):
        with pytest.raises(ConfigError, match="no purpose"):
            call(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="notice_version"):
        client.consent.grant("intent-model", notice_version=0)
    assert client.consent.receipts() == []


# -- rights ------------------------------------------------------------------------------------------------------------


def test_inspect_shows_everything_as_json_and_status_shows_no_text(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")
    client.feedback("canary phrase", intent="book_hotel")
    client.define_intent("canary_intent", ["canary words"])
    known = json.loads(json.dumps(client.inspect()))
    assert known["examples"][0]["text"] == "canary phrase"
    assert known["own_intents"] == {"canary_intent": ["canary words"]}
    assert known["counts"] == {"examples": 1, "own_intents": 1}
    assert known["bundle"]["staleness"] == "fresh"
    assert known["consents"]["personal-learning"]["granted"] is True
    assert "canary" not in json.dumps(client.status()).replace(str(client.store.folder), "")


def test_forgetting_leaves_nothing_of_the_user(real_bundle: RealBundle, tmp_path: Path) -> None:
    home = tmp_path / "home"
    client = EdgeClient.open(home, key="a passphrase", bundle=real_bundle.folder)
    client.consent.grant("personal-learning")
    client.feedback("canary phrase", intent="book_hotel")
    assert client.forget() == ()
    assert list(home.iterdir()) == []
    for call in (
        lambda: client.recognize("hello"),
        client.inspect,
        client.intents,
        client.forget,
        client.training_examples,
    ):
        with pytest.raises(StoreClosedError):
            call()
    client.close()
    with EdgeClient.open(home, key="another", bundle=real_bundle.folder) as fresh:
        assert fresh.inspect()["examples"] == []
        assert fresh.consent.receipts() == []


def test_a_closed_client_says_so(client: EdgeClient) -> None:
    client.close()
    for call in (
        lambda: client.recognize("hello"),
        lambda: client.respond("hello"),
        lambda: client.feedback("hello", intent="greeting"),
        lambda: client.consent.grant("intent-model"),
        client.refresh,
        client.status,
    ):
        with pytest.raises(StoreClosedError):
            call()


# -- many at once ------------------------------------------------------------------------------------------------------


def test_threads_may_share_a_client(client: EdgeClient) -> None:
    client.consent.grant("personal-learning")

    def work(number: int) -> None:
        for turn in range(5):
            client.respond("Book a flight to Lisbon")
            client.feedback(f"word {number} {turn}", intent="greeting")
            client.define_intent(f"own_{number}", [f"phrase {number} {turn}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    known = client.inspect()
    assert known["counts"] == {"examples": 20, "own_intents": 4}
    assert all(len(phrases) == 5 for phrases in known["own_intents"].values())


def test_many_clients_share_one_encoder_and_need_no_threads(bundles: BundleStore, tmp_path: Path) -> None:
    before = threading.active_count()
    config = EdgeConfig(bundles=bundles)
    clients = [EdgeClient.open(tmp_path / str(number), key=KEY, config=config) for number in range(20)]
    try:
        assert all(client.recognize("hello").intent == "greeting" for client in clients)
        assert len({id(client.model._encoder) for client in clients}) == 1
        assert threading.active_count() == before
    finally:
        for client in clients:
            client.close()


# -- the async twin ----------------------------------------------------------------------------------------------------


def public_names(kind: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(value).parameters) if inspect.isfunction(value) else []
        for name, value in vars(kind).items()
        if not name.startswith("_")
    }


def test_the_async_twins_have_the_same_names_and_arguments() -> None:
    properties = {"store", "config", "consent"}
    for twin, original in ((AsyncEdgeClient, EdgeClient), (AsyncConsent, Consent)):
        mine = {name: args for name, args in public_names(twin).items() if name not in properties}
        theirs = {name: args for name, args in public_names(original).items() if name not in properties}
        assert mine == theirs
    assert properties <= set(dir(AsyncEdgeClient)) | {"consent"}


def test_the_async_twin_does_the_same(bundles: BundleStore, tmp_path: Path) -> None:
    async def life() -> None:
        config = EdgeConfig(bundles=bundles)
        async with await AsyncEdgeClient.open(tmp_path, key=KEY, config=config) as client:
            await client.consent.grant("personal-learning")
            found = await client.recognize("Book a flight to Lisbon")
            assert isinstance(found, Recognition)
            assert (await client.feedback(found, intent="book_flight")).kept
            assert (await client.respond("hello")).intent == "greeting"
            replies = await asyncio.gather(*(client.respond("hello") for _ in range(8)))
            assert all(reply.intent == "greeting" for reply in replies)
            assert (await client.inspect())["counts"]["examples"] == 1
            with pytest.raises(UnknownIntentError):
                await client.feedback("x", intent="nonsense words")
            assert await client.forget() == ()

    asyncio.run(life())
