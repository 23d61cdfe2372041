"""What is said by itself: to whom it may be said, by which channel, once, and what comes of it. With a real store throughout."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from deliveries import HOUR_S, MONDAY_EVENING_S, Device, follow_up, places, shipped

from edge_client import EdgeClient
from edge_client.async_delivery import AsyncDelivering
from edge_client.cli import main
from edge_client.decide.delivery_caps import Cap, Caps
from edge_client.decide.follow_up_facts import facts_from
from edge_client.decide.follow_ups import DAY_S
from edge_client.delivering import Delivering
from edge_client.delivery_memory import TABLE
from edge_client.delivery_wishes import DeliveryWishes
from shared_models.context_feed import BroadcastFeed, Day, Place
from shared_models.errors import ConfigError, InputError

FREE = Caps(Cap(24, 100), Cap(24, 100), Cap(24, 100), {})


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "home")
    yield made
    made.store.close()


# -- once, by a channel that exists -----------------------------------------------------------------------------------


def test_what_is_planned_is_said_once_and_never_again(device: Device) -> None:
    plan = follow_up()
    assert device.with_hook().room.plan([plan, plan]) == (plan,) or device.room.pending() == (plan,)
    (said,) = device.tick()
    assert [said.follow_up, said.channel, said.carried] == [plan.id, "notification", "shown"]
    assert [message.id for message in device.shown] == [said.id]
    name = shipped().place(plan.place).name("en")
    assert name in said.text
    assert name in said.why
    assert "3 December 2026 to 8 December 2026" in said.text
    assert device.tick() == ()
    assert device.room.pending() == ()
    assert device.room.plan([plan]) == ()
    device.reopen()
    device.with_hook().wait(30)
    assert device.tick() == ()
    assert len(device.shown) == 1


def test_without_a_hook_a_channel_is_never_chosen(device: Device) -> None:
    device.room.plan([follow_up()])
    for _ in range(4 * 24 + 1):
        assert device.tick() == ()
        device.wait(1)
    assert device.room.quality()["expired"] == 1


def test_a_caller_may_show_what_is_returned(device: Device) -> None:
    device.room.plan([follow_up()])
    (said,) = device.tick(shows=("chat",))
    assert said.channel == "chat"
    assert said.carried == "shown"


def test_a_channel_that_is_not_ready_is_not_chosen(device: Device) -> None:
    def raising() -> bool:
        raise RuntimeError

    device.room.plan([follow_up()])
    for ready in (lambda: False, raising, lambda: 1):
        device.room.register("notification", device.shown.append, ready=ready)  # type: ignore[arg-type]
        assert device.tick() == ()
    device.room.register("notification", device.shown.append, ready=lambda: True)
    assert len(device.tick()) == 1


def test_a_chat_is_for_somebody_who_is_there(device: Device) -> None:
    device.with_hook("chat").room.plan([follow_up()])
    assert device.tick() == ()
    (said,) = device.tick(context={"zone": "UTC", "in_use": True})
    assert said.channel == "chat"


def test_a_turn_of_the_conversation_counts_as_use(device: Device) -> None:
    device.with_hook("chat").room.plan([follow_up()])
    device.room.used()
    assert len(device.tick()) == 1
    assert device.room.document()["learned_hours"]["hours"] == {str(MONDAY_HOUR): [0.0, 0.0, 1.0]}


MONDAY_HOUR = 20


# -- who may be told what ----------------------------------------------------------------------------------------------


def test_nothing_is_kept_without_consent(tmp_path: Path) -> None:
    device = Device(tmp_path, granted=False).with_hook()
    assert device.room.plan([follow_up()]) == ()
    assert device.tick() == ()
    assert TABLE not in device.store.describe()["records"]


def test_a_withdrawal_erases_all_and_a_new_consent_brings_nothing_back(device: Device) -> None:
    device.with_hook().room.set_caps(Caps(topic=Cap(1, 2)))
    device.room.plan([follow_up(0), follow_up(1)])
    assert len(device.tick()) == 1
    device.consent.withdraw("personalisation")
    assert TABLE not in device.store.describe()["records"]
    document = device.room.document()
    assert document["pending"] == document["delivered"] == []
    assert document["learned_hours"] == {}
    assert device.tick() == ()
    device.consent.grant("personalisation")
    assert device.tick() == ()
    # And withdrawing is no way round the caps: nothing is said for their longest window.
    device.room.plan([follow_up(2, expires_s=MONDAY_EVENING_S + 20 * DAY_S)])
    for _ in range(7 * 4):
        assert device.tick() == ()
        device.wait(6)
    device.wait(24)
    assert len(device.tick()) == 1


def test_who_objects_to_profiling_is_told_only_what_was_asked_for(device: Device) -> None:
    device.with_hook().room.plan([follow_up(0)])
    device.room.plan([follow_up(1, "how_was_it")], asked_for=True)
    device.consent.object_to_profiling()
    assert device.room.plan([follow_up(2)]) == ()
    (said,) = device.tick()
    assert said.follow_up == follow_up(1, "how_was_it").id
    assert device.room.outcome(said.id, "opened")
    assert device.room.document()["learned_hours"] == {}
    device.wait(24)
    assert device.tick() == ()


def test_a_restriction_silences_and_its_end_restores(device: Device) -> None:
    device.with_hook().room.plan([follow_up()])
    device.consent.restrict("personalisation")
    assert device.tick() == ()
    device.consent.lift("personalisation")
    assert len(device.tick()) == 1


def test_stop_asking_holds_until_the_user_restores_it(device: Device) -> None:
    device.with_hook().room.plan([follow_up(0)])
    device.room.stop("still_thinking")
    assert device.room.pending() == ()
    assert device.room.plan([follow_up(1)]) == ()
    device.reopen()
    device.with_hook()
    # It outlives even the consent.
    device.consent.withdraw("personalisation")
    device.consent.grant("personalisation")
    assert device.room.plan([follow_up(2)]) == ()
    assert device.room.restore("still_thinking")
    assert not device.room.restore("still_thinking")
    assert len(device.room.plan([follow_up(3)])) == 1
    assert len(device.tick()) == 1
    device.room.stop()
    assert device.room.plan([follow_up(4, "how_was_it")], asked_for=True) == ()
    with pytest.raises(InputError, match="cannot be stopped"):
        device.room.stop("everything")


def test_disabled_notifications_stay_disabled(device: Device) -> None:
    device.with_hook().room.plan([follow_up(0), follow_up(1, "how_was_it")])
    (said,) = device.tick()
    assert device.room.outcome(said.id, "disabled")
    assert device.room.document()["stopped"] == ["channel/notification"]
    assert device.wait(24).tick() == ()
    device.with_hook("card")
    assert [message.channel for message in device.tick()] == ["card"]


def test_the_profile_can_say_no_to_notifications(device: Device) -> None:
    device.with_hook().room.plan([follow_up()])
    device.profile.observe("notifications", False, source="declared", at_s=device.now_s)
    assert device.tick() == ()


# -- moments -----------------------------------------------------------------------------------------------------------


def test_the_night_is_quiet_until_the_user_says_otherwise(device: Device) -> None:
    device.now_s = MONDAY_EVENING_S + 3 * HOUR_S
    device.with_hook().room.plan([follow_up()], asked_for=True)
    assert device.tick() == ()
    device.room.set_quiet_hours([])
    assert len(device.tick()) == 1


def test_quiet_hours_of_the_user_hold_for_every_channel(device: Device) -> None:
    for channel in ("chat", "card", "notification"):
        device.with_hook(channel)
    device.room.set_quiet_hours(["19:00-21:00"])
    device.room.plan([follow_up()], asked_for=True)
    assert device.tick(context={"zone": "UTC", "in_use": True}) == ()
    # In Berlin it is 21:00 already.
    assert len(device.tick(context={"zone": "Europe/Berlin", "in_use": True})) == 1
    with pytest.raises(ConfigError):
        device.room.set_quiet_hours(["25:00-07:00"])
    assert device.room.document()["quiet_hours"] == ["19:00-21:00"]


@pytest.mark.parametrize(("situation", "said"), [("driving", 0), ("do_not_disturb", 0)])
def test_driving_and_do_not_disturb_silence_notifications(device: Device, situation: str, said: int) -> None:
    device.with_hook().room.plan([follow_up()], asked_for=True)
    assert len(device.tick(context={"zone": "UTC", situation: True})) == said
    assert len(device.tick()) == 1


def test_the_zone_of_the_profile_counts_where_the_app_names_none(device: Device) -> None:
    device.now_s = MONDAY_EVENING_S + 3 * HOUR_S  # 23:00 UTC, 8:00 in Japan
    device.with_hook().room.plan([follow_up()], asked_for=True)
    device.profile.observe("utc_offset_h", 9, source="context", at_s=device.now_s)
    assert len(device.room.tick()) == 1


def test_what_is_expired_is_never_said(device: Device) -> None:
    device.room.plan([follow_up(expires_s=MONDAY_EVENING_S + HOUR_S)])
    device.wait(1)
    assert device.with_hook().tick() == ()
    assert device.room.pending() == ()
    assert device.room.quality()["expired"] == 1


def test_several_are_said_in_the_order_of_their_worth_and_within_the_caps(device: Device) -> None:
    device.with_hook().room.plan([follow_up(n) for n in range(3)])
    assert len(device.tick()) == 1
    assert device.tick() == ()


# -- what is true now --------------------------------------------------------------------------------------------------


def test_a_plan_whose_place_is_gone_is_dropped(device: Device) -> None:
    plan = follow_up()
    device.with_hook().room.plan([plan, follow_up(1, place="atlantis")])
    device.catalogue = replace(shipped(), destinations=shipped().destinations[5:])
    assert device.tick() == ()
    assert device.room.pending() == ()
    assert device.room.quality()["changed"] == 2


def test_a_trip_that_was_cancelled_is_not_spoken_of(device: Device) -> None:
    device.with_hook().room.plan([follow_up(0), follow_up(1)])
    assert device.room.drop(places()[0], "2027-01-01") == 0
    assert device.room.drop(places()[0], "2026-12-03") == 1
    assert [one.place for one in device.room.pending()] == [places()[1]]


def test_the_weather_is_said_only_from_a_forecast_that_is_valid(device: Device) -> None:
    plan = follow_up(0, "weather_before_trip")
    device.with_hook().room.plan([plan], asked_for=True)
    assert device.tick() == ()
    place = shipped().place(plan.place)
    days = tuple(Day(date(2026, 12, n), "clear", 18.6, 9.0, 0.0) for n in range(3, 9))
    known = Place(place.id, place.name(), place.country, place.latitude, place.longitude, days)
    issued = int(device.now_s)
    device.feed = BroadcastFeed(issued - 2 * 86_400, issued - 86_400, (known,))
    assert device.tick() == ()
    assert len(device.room.pending()) == 1
    device.feed = BroadcastFeed(issued - 60, issued + 86_400, (known,))
    (said,) = device.tick()
    assert "19 °C" in said.text


@pytest.mark.parametrize("language", ["de-AT", "es", "xx", ""])
def test_it_speaks_the_users_language(device: Device, language: str) -> None:
    if language:
        device.profile.observe("language", language, source="declared", at_s=device.now_s)
    device.with_hook().room.plan([follow_up()])
    (said,) = device.tick()
    assert said.language == {"de-AT": "de", "es": "es"}.get(language, "en")


def test_a_source_of_facts_that_fails_costs_nothing_but_this_time(device: Device) -> None:
    def failing(*_: object) -> None:
        raise OSError

    device.with_hook().room.plan([follow_up()])
    device.room.facts_from(failing)
    assert device.tick() == ()
    assert len(device.room.pending()) == 1
    device.room.facts_from(lambda *_: "nonsense")  # type: ignore[arg-type, return-value]
    assert device.tick() == ()
    assert len(device.room.pending()) == 1


# -- the same on a whole client ----------------------------------------------------------------------------------------


def test_the_async_twin_of_the_room_has_the_same_names_and_arguments() -> None:
    def names(*kinds: type) -> dict[str, list[str]]:
        found = {name: value for kind in reversed(kinds) for name, value in vars(kind).items() if name[0] != "_"}
        return {name: list(inspect.signature(value).parameters) for name, value in found.items()}

    assert names(AsyncDelivering) == names(Delivering, DeliveryWishes)


def test_a_client_plans_says_shows_and_exports(client: EdgeClient, capsys: pytest.CaptureFixture[str]) -> None:
    now_s = time.time()
    client.consent.grant("personalisation")
    client.respond("hello")
    assert client.delivery.document()["learned_hours"]["hours"]
    plan = follow_up(0, due_s=now_s - 60.0)
    client.delivery.plan([plan], asked_for=True)
    client.delivery.set_quiet_hours([])
    client.delivery.facts_from(facts_from(lambda: (shipped(), None)))
    (said,) = client.delivery.tick(shows=("card",))
    exported = client.export()["delivery"]
    assert exported["delivered"][0]["id"] == said.id
    assert exported["delivered"][0]["text"] == said.text
    assert asyncio.run(AsyncDelivering(lambda: client.delivery).outcome(said.id, "opened"))
    key = client.store.folder.parent / "key"
    key.write_bytes(bytes(range(32)))
    call = ["--home", str(client.store.folder), "--key-file", str(key)]
    client.delivery.plan([follow_up(1, "how_was_it", now_s)])
    client.close()
    assert main(["delivery", "show", *call]) == 0
    shown = capsys.readouterr().out
    assert said.text in shown
    assert "opened" in shown
    assert places()[1] in shown
    assert "quiet     never" in shown
    assert main(["delivery", "stop", "how_was_it", *call]) == main(["delivery", "quiet", "21:00-09:00", *call]) == 0
    capsys.readouterr()
    assert main(["delivery", "--json", *call]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stopped"] == ["how_was_it"]
    assert document["quiet_hours"] == ["21:00-09:00"]
    assert document["pending"] == []
    assert main(["delivery", "restore", *call]) == main(["delivery", "quiet", "night", *call]) == 0
    assert main(["delivery", "stop", "everything", *call]) == 2
    assert main(["delivery", "quiet", *call]) == 2


def test_a_full_history_survives_a_withdrawal_on_a_client(client: EdgeClient) -> None:
    now_s = time.time()
    client.consent.grant("personalisation")
    client.delivery.facts_from(facts_from(lambda: (shipped(), None)))
    client.delivery.set_quiet_hours([])
    client.delivery.plan([follow_up(0, due_s=now_s - 60.0)], asked_for=True)
    assert len(client.delivery.tick(shows=("card",))) == 1
    client.consent.withdraw("personalisation")
    client.consent.grant("personalisation")
    client.delivery.plan([follow_up(1, "how_was_it", now_s - 60.0)], asked_for=True)
    assert client.delivery.tick(shows=("card",)) == ()
