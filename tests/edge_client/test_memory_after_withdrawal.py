"""What is held in memory follows what is kept: nothing outlives a withdrawal, an erasure, an expiry or a write that failed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from travel_bundle import NOW_S
from travel_clients import KEY, NEVER, Open, TickingClock

from edge_client import EdgeClient, EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.improve.improvement import NIGHTS_TABLE, ReadyToTune
from edge_client.improve.nightly import NightReport, Step
from edge_client.know.store import Store
from edge_client.know.triggers import Firing
from shared_models.domain import TRAVEL
from shared_models.errors import DecisionError, StoreWriteError
from shared_models.local_tuning import LocalTuning
from shared_models.optional_targets import read_profile

WHERE = "Where should I go in December?"
BOOKED = {"type": "track", "event": "booking_completed", "properties": {"destination": "Lisbon"}}


def test_events_that_were_erased_are_no_taste_any_more(opened: Open) -> None:
    client = opened("personalisation", "preference-model")
    client.respond(WHERE)
    client.capture.receive(BOOKED)
    taste = client._talk.taste()
    assert list(taste.liked_items()) == ["lisbon"]
    client.capture.clear()
    assert client.capture.events() == []
    assert list(taste.liked_items()) == [], "an erased booking would still be contributed"


def test_events_that_expired_are_no_taste_any_more(opened: Open) -> None:
    clock = TickingClock()
    client = opened("personalisation", "preference-model", clock=clock)
    client.respond(WHERE)
    client.capture.receive(BOOKED)
    taste = client._talk.taste()
    assert list(taste.liked_items()) == ["lisbon"]
    clock.now_s += 5 * 365 * 86_400
    client.capture.expire(clock.now_s)
    assert client.capture.events() == []
    assert list(taste.liked_items()) == []


def test_words_do_not_stay_in_the_encoder_when_consent_is_withdrawn(opened: Open) -> None:
    client = opened("personalisation", "personal-learning")
    client.respond("I want a hotel in Oviedo with my secret lover", learn=True)
    client.consent.withdraw("personalisation")
    client.consent.withdraw("personal-learning")
    held = list(client._held._encoder._remembered or ())
    assert not [text for text in held if "secret lover" in text]


def test_names_of_own_intents_are_not_shown_while_the_user_objects(opened: Open) -> None:
    client = opened("personal-learning")
    client.define_intent("oncology_visit", ["book my chemo", "when is my chemo"])
    assert "oncology_visit" in client.intents()
    client.rights.object_to_profiling()
    assert "oncology_visit" not in client.intents()


def test_a_reaction_that_the_disk_did_not_take_can_be_given_again(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened("personalisation")
    card = client.respond(WHERE).suggestions[0]
    storage = client.store._storage
    commit = type(storage).commit

    def full(self: Any) -> None:
        raise StoreWriteError("disk full")

    monkeypatch.setattr(type(storage), "commit", full)
    with pytest.raises(StoreWriteError):
        client.react(card.decision_id, "up")
    monkeypatch.setattr(type(storage), "commit", commit)
    learned = client._talk.learned
    on_disk = len(learned._table("suggestion-outcomes"))
    assert len(learned.outcomes()) == on_disk, "memory has an outcome that the disk has not"
    again = client.react(card.decision_id, "up")
    assert len(learned._table("suggestion-outcomes")) == 1, again


def test_a_night_report_holds_nothing_of_lessons_that_were_withdrawn(opened: Open) -> None:
    client = opened("personal-learning")
    step = Step("intent head", "done", "your own held-out words: 3 of 5 right before, 5 now", {"held_out": 5})
    client.improvement.night_over(NightReport(NOW_S, (step,)))
    client.consent.withdraw("personal-learning")
    assert "held-out words" not in json.dumps(client.improvement.last_night or {})


def test_a_tuning_that_began_before_a_withdrawal_is_not_used_after_a_new_consent(opened: Open) -> None:
    client = opened("personal-learning")
    client.feedback("my secret trip to the clinic", intent="book_hotel")
    improvement, bundle = client.improvement, client._active()
    head, encoder = client.model.head, client._held.encoder(bundle)
    found = client._examples.vectors(encoder.encode_one, bundle.manifest.encoder_sha256)
    ready = ReadyToTune(bundle, head, encoder, list(found), None, improvement.head.reset_s, None)  # type: ignore[arg-type]
    client.consent.withdraw("personal-learning")
    client.consent.grant("personal-learning")
    assert len(client._examples) == 0
    change = np.full((len(head.labels), encoder.dimension), 0.01, np.float32)
    taken = improvement.take(ready, change, {"held_out": 1}, LocalTuning())
    assert not taken, "what was learned of erased words is in force"


def test_a_turn_that_fails_leaves_memory_as_the_disk_is(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened("personalisation")
    client.respond(WHERE)
    learned = client._talk.learned

    def broken(*_: Any, **__: Any) -> Any:
        raise DecisionError("no")

    monkeypatch.setattr(client._talk._suggestions, "choose", broken)
    with pytest.raises(DecisionError):
        client.respond("no, because it is too cold")
    assert len(learned.outcomes()) == len(learned._table("suggestion-outcomes"))


def test_events_of_another_purpose_are_no_taste_once_that_purpose_is_withdrawn(
    travel: BundleStore, tmp_path: Path
) -> None:
    text = (TRAVEL / "profile.yaml").read_text()
    text = text.replace("  booking_completed:\n    ", "  booking_completed:\n    purpose: personal-learning\n    ")
    assert "purpose: personal-learning" in text
    schema = read_profile(text.encode())
    config = EdgeConfig(bundles=travel, clock=TickingClock(), random_seed=7, asking=NEVER)
    with EdgeClient.open(tmp_path / "other", key=KEY, config=config, schema=schema) as client:
        for purpose in ("personalisation", "personal-learning"):
            client.consent.grant(purpose)
        client.respond(WHERE)
        client.capture.receive(BOOKED)
        taste = client._talk.taste()
        assert list(taste.liked_items()) == ["lisbon"]
        client.consent.withdraw("personal-learning")
        assert client.capture.events(name="booking_completed") == []
        assert list(taste.liked_items()) == [], "a booking whose consent was withdrawn would still be contributed"


def test_a_reaction_given_again_after_a_full_disk_counts(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened("personalisation")
    card = client.respond(WHERE).suggestions[0]
    storage = type(client.store._storage)
    with monkeypatch.context() as broken:

        def full(self: Any) -> None:
            raise StoreWriteError("disk full")

        broken.setattr(storage, "commit", full)
        with pytest.raises(StoreWriteError):
            client.react(card.decision_id, "up")
    reaction = client.react(card.decision_id, "up")
    assert len(client._talk.learned._table("suggestion-outcomes")) == 1, reaction


def test_an_event_of_a_restricted_purpose_is_no_taste(travel: BundleStore, tmp_path: Path) -> None:
    text = (TRAVEL / "profile.yaml").read_text()
    text = text.replace("  booking_completed:\n    ", "  booking_completed:\n    purpose: personal-learning\n    ")
    config = EdgeConfig(bundles=travel, clock=TickingClock(), random_seed=7, asking=NEVER)
    home = tmp_path / "restricted"
    with EdgeClient.open(home, key=KEY, config=config, schema=read_profile(text.encode())) as client:
        for purpose in ("personalisation", "personal-learning"):
            client.consent.grant(purpose)
        client.capture.receive(BOOKED)
        client.consent.restrict("personal-learning")
        client.respond(WHERE)
        assert list(client._talk.taste().liked_items()) == [], "restricted data would be contributed"


def test_an_event_counts_until_its_retention_is_over_though_nobody_erased_it(opened: Open) -> None:
    clock = TickingClock()
    client = opened("personalisation", clock=clock)
    client.respond(WHERE)
    client.capture.receive(BOOKED)
    taste = client._talk.taste()
    assert list(taste.liked_items()) == ["lisbon"]
    clock.now_s += 5 * 365 * 86_400
    assert list(taste.liked_items()) == []
    assert client.store.describe()["records"]["events"] > 0, "expiry is by the clock, not by a sweep"


def test_a_restriction_hides_a_taste_and_its_end_brings_it_back_but_a_new_consent_does_not(opened: Open) -> None:
    client = opened("personalisation")
    client.respond(WHERE)
    client.capture.receive(BOOKED)
    taste = client._talk.taste()
    assert list(taste.liked_items()) == ["lisbon"]
    client.consent.restrict("personalisation")
    assert list(taste.liked_items()) == []
    client.consent.lift("personalisation")
    assert list(taste.liked_items()) == ["lisbon"]
    client.consent.withdraw("personalisation")
    client.consent.grant("personalisation")
    assert list(taste.liked_items()) == []


def test_an_event_that_is_told_late_counts_once_and_not_after_its_erasure(opened: Open) -> None:
    client = opened("personalisation")
    client.respond(WHERE)
    client.capture.receive(BOOKED)
    (booking,) = client.capture.events(name="booking_completed")
    talk, told = client._talk, Firing("taste", booking, {})
    suggestions = talk._suggestions
    with client.store.lock:
        catalogue = client._held.catalogue(client._active())
        assert catalogue is not None
        assert len(suggestions.signals(catalogue)) == 1
        talk.hear(told)
        assert len(suggestions.signals(catalogue)) == 1
        client.capture.clear()
        assert suggestions.signals(catalogue) == []
        talk.hear(told)
        assert suggestions.signals(catalogue) == []


@pytest.mark.parametrize("demand", ["object", "gpc", "withdraw", "erase"])
def test_the_encoder_keeps_no_text_when_the_user_objects_withdraws_or_erases(opened: Open, demand: str) -> None:
    client = opened("personalisation")
    client.recognize("I want a hotel in Oviedo with my secret lover")
    encoder = client._held._encoder
    assert encoder is not None
    assert encoder._remembered
    {
        "object": client.rights.object_to_profiling,
        "gpc": lambda: client.consent.signal_gpc(True),
        "withdraw": lambda: client.consent.withdraw("personalisation"),
        "erase": client.rights.erase,
    }[demand]()
    assert not encoder._remembered


def test_what_was_watched_in_a_turn_that_was_not_kept_is_not_watched(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = opened("personalisation")
    card = client.respond(WHERE).suggestions[0]
    watch = client.improvement.watch
    with client.store.lock:
        watch.keep()
        before = watch.drifted()
        with monkeypatch.context() as broken:

            def full(self: Any) -> None:
                raise StoreWriteError("disk full")

            broken.setattr(type(client.store._storage), "commit", full)
            with pytest.raises(StoreWriteError):
                client.react(card.decision_id, "up")
        assert watch.drifted() == before


def test_a_withdrawal_ends_a_tuning_at_once_and_one_that_came_before_its_start_too(opened: Open) -> None:
    client = opened("personal-learning")
    improvement, bundle, ended = client.improvement, client._active(), []
    since_s = client.consent.given_since("personal-learning")
    head, encoder = client.model.head, client._held.encoder(bundle)
    ready = ReadyToTune(bundle, head, encoder, [], None, improvement.head.reset_s, None, since_s)  # type: ignore[arg-type]
    with improvement.tuning(ready, lambda: ended.append("while it ran")):
        assert improvement.still_wanted(ready)
        client.consent.withdraw("personal-learning")
        assert ended == ["while it ran"]
    client.consent.grant("personal-learning")
    with improvement.tuning(ready, lambda: ended.append("at its start")):
        assert ended[1:] == ["at its start"]
    client.consent.withdraw("personal-learning")
    assert len(ended) == 2, "what is over is not ended again"


def test_hooks_run_after_the_outermost_transaction_was_undone_and_only_then(tmp_path: Path) -> None:
    with Store(tmp_path / "store", key=KEY) as store:
        table, seen = store.table("things"), []
        store.when_rolled_back(lambda: seen.append((len(table), store.in_transaction)))
        with store.transaction():
            table.put("kept", {})
        assert seen == []

        def fails_inside() -> None:
            with store.transaction():
                table.put("undone", {})
                with contextlib.suppress(DecisionError), store.transaction():
                    raise DecisionError("inner")
                assert seen == []

        with pytest.raises(StoreWriteError):
            fails_inside()
        assert seen == [(1, False)]


def test_a_night_says_in_full_how_it_went_while_it_may_and_keeps_nothing_of_who_has_not_consented(opened: Open) -> None:
    client = opened("personalisation")
    steps = (
        Step("tastes", "done", "3 signals were too old", {"signals": 3}),
        Step("intent head", "done", "3 of 5 right", {"held_out": 5}),
        Step("store", "done", "compacted"),
    )
    client.improvement.night_over(NightReport(NOW_S, steps))
    last = client.improvement.last_night
    assert last is not None
    assert [step["words"] for step in last["steps"]] == ["3 signals were too old", "", "compacted"]
    assert "too old" not in json.dumps(client.store.table(NIGHTS_TABLE).get("last"))
    client.consent.withdraw("personalisation")
    last = client.improvement.last_night
    assert last is not None
    assert [step["counts"] for step in last["steps"]] == [{}, {}, {}]
