"""The user's side of a client: own intents, consents, rights, logs; many clients and threads at once; the async twin."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import resource
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from real_bundle import RealBundle

from edge_client import AsyncEdgeClient, EdgeClient, EdgeConfig, Recognition
from edge_client.async_client import AsyncConsent
from edge_client.bundles import BundleStore
from edge_client.know.consent import Consent
from edge_client.know.store import Store
from shared_models.errors import (
    BundleTamperedError,
    BundleUnavailableError,
    ConfigError,
    InputError,
    ModelDamagedError,
    StoreClosedError,
    StoreWriteError,
    UnknownIntentError,
)

KEY = bytes(range(32))
BOTH = ("personal-learning", "intent-model")


def reopened(client: EdgeClient) -> EdgeClient:
    client.close()
    return EdgeClient.open(client.store.folder, key=KEY, config=client.config)


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


@pytest.mark.parametrize("how", ["objection", "signal", "restriction"])
def test_a_user_who_objects_is_answered_without_what_was_learned_and_it_is_there_again_afterwards(
    client: EdgeClient, how: str
) -> None:
    stops: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "objection": (client.consent.object_to_profiling, client.consent.withdraw_objection),
        "signal": (lambda: client.consent.signal_gpc(True), lambda: client.consent.signal_gpc(False)),
        "restriction": (
            lambda: client.consent.restrict("personal-learning"),
            lambda: client.consent.lift("personal-learning"),
        ),
    }
    stop, go = stops[how]
    unlearned = client.recognize("Book a flight to Lisbon").intent
    for purpose in BOTH:
        client.consent.grant(purpose)
    client.feedback("Book a flight to Lisbon", intent="rent_car")
    client.define_intent("water_plants", ["water my plants"])
    assert client.recognize("Book a flight to Lisbon").intent == "rent_car"
    assert client.recognize("water my plants").personal
    stop()
    assert client.recognize("Book a flight to Lisbon").intent == unlearned == "book_flight"
    assert not client.recognize("water my plants").personal
    assert client.respond("Book a flight to Lisbon").intent == "book_flight"
    assert not client.feedback("zip zap", intent="greeting").kept
    assert client.training_examples()[1] == []
    go()
    assert client.recognize("Book a flight to Lisbon").intent == "rent_car"
    assert client.recognize("water my plants").personal
    assert client.training_examples()[1] == ["rent_car"]


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
        assert len({id(client.model._encoder._session) for client in clients}) == 1
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
    properties = {"store", "config", "consent"}  # plain attributes of the original
    for twin, original in ((AsyncEdgeClient, EdgeClient), (AsyncConsent, Consent)):
        mine = {name: args for name, args in public_names(twin).items() if name not in properties}
        theirs = {name: args for name, args in public_names(original).items() if name not in properties}
        assert mine == theirs


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


# -- logs --------------------------------------------------------------------------------------------------------------


def test_no_log_line_says_what_the_user_said(client: EdgeClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client.consent.grant("personal-learning")
        client.respond("canary phrase")
        client.feedback("canary phrase", intent="book_hotel")
        client.define_intent("mine", ["canary words"])
        client.respond("canary words")
        with pytest.raises(UnknownIntentError):
            client.feedback("canary phrase", intent="nonsense words")
        client.forget()
    assert "canary" not in caplog.text


def test_a_slow_server_does_not_stop_the_conversation(client: EdgeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        refreshing = pool.submit(client.refresh, address)
        connection, _ = silent.accept()
        assert client.respond("hello").intent == "greeting"
        assert not refreshing.done()
        connection.close()
        with pytest.raises(BundleUnavailableError):
            refreshing.result(60)
    assert client.respond("hello").intent == "greeting"


def test_a_damaged_bundle_keeps_nobody_from_what_is_known(real_bundle: RealBundle, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EdgeClient.open(home, key=KEY, bundle=real_bundle.folder) as client:
        client.consent.grant("personal-learning")
        client.feedback("zip zap", intent="book_hotel")
    for path in (home / "bundle" / "objects").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises((BundleTamperedError, ModelDamagedError)):
        EdgeClient.open(home, key=KEY)
    with EdgeClient(Store(home, key=KEY), BundleStore(home / "bundle"), EdgeConfig()) as client:
        assert "problem" in client.inspect()["bundle"]
        assert client.inspect()["examples"][0]["text"] == "zip zap"
        client.consent.withdraw("personal-learning")
        with pytest.raises((BundleTamperedError, ModelDamagedError)):
            client.respond("hello")
        assert client.refresh(real_bundle.folder) == "fresh"
        assert client.respond("hello").intent == "greeting"


def test_a_full_disk_stops_no_answer(bundles: BundleStore, tmp_path: Path) -> None:
    config = EdgeConfig(bundles=bundles, ask_below=1.0, ask_margin=1.0)
    with EdgeClient.open(tmp_path, key=KEY, config=config) as client:
        client.consent.grant("personal-learning")
        question = client.respond("flight")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(StoreWriteError):
                client.feedback("zip zap", intent="book_hotel")
            assert client.respond("1").intent == question.choices[0]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert client.inspect()["examples"] == []
        assert client.feedback("zip zap", intent="book_hotel").kept
