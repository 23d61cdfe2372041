"""Deliveries when the app's code fails, what comes of them, and what should not lie in the store. With a real store."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deliveries import HOUR_S, MONDAY_EVENING_S, Device, follow_up

from edge_client.decide.delivery_caps import Cap, Caps
from edge_client.decide.follow_ups import DAY_S, MOST_PENDING
from edge_client.delivery_hooks import Delivered
from edge_client.delivery_memory import SETTINGS
from edge_client.delivery_ticks import DeliveryTicks
from edge_client.know.store import Store
from shared_models.errors import ConfigError, DecisionError, InputError, StoreWriteError

MONDAY_HOUR = 20
FREE = Caps(Cap(24, 100), Cap(24, 100), Cap(24, 100), {})


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "home")
    yield made
    made.store.close()


# -- the app's code ----------------------------------------------------------------------------------------------------


def test_a_hook_that_raises_loses_nothing_and_is_not_called_again(device: Device) -> None:
    calls = []

    def failing(message: Delivered) -> None:
        calls.append(message.id)
        raise SystemExit("the app's own trouble")

    device.room.register("notification", failing)
    device.room.plan([follow_up()])
    (said,) = device.tick()
    assert said.carried == "failed"
    assert calls == [said.id]
    device.reopen()
    device.with_hook().wait(48)
    assert device.tick() == ()
    assert device.shown == []
    (kept,) = device.room.document()["delivered"]
    # Nobody knows whether the user saw it: nothing is learned from the silence.
    assert [kept["carried"], kept["outcome"]] == ["failed", "lost"]
    assert device.room.document()["learned_hours"] == {}


def test_a_hook_that_hangs_holds_nobody_up(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_client.delivery_hooks.HOOK_TIMEOUT_S", 0.1)
    released = threading.Event()
    device.room.register("notification", lambda _: released.wait(30))
    device.room.set_caps(FREE)
    device.room.plan([follow_up(0), follow_up(1)])
    began_s = time.monotonic()
    (said,) = device.tick()
    assert said.carried == "hung"
    assert time.monotonic() - began_s < 5.0
    # The second waits for the channel; the store is usable meanwhile.
    assert device.tick() == ()
    assert device.room.outcome(said.id, "opened")
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("tacit-delivery")]) == 1
    released.set()
    _until(lambda: bool(device.tick()))


def test_a_hook_may_use_the_device(device: Device) -> None:
    device.room.register("notification", lambda message: device.room.outcome(message.id, "opened"))
    device.room.plan([follow_up()])
    (said,) = device.tick()
    assert said.carried == "shown"
    assert device.room.document()["delivered"][0]["outcome"] == "opened"


def test_listeners_hear_of_every_delivery(device: Device) -> None:
    heard: list[str] = []

    def failing(_: Delivered) -> None:
        raise ValueError

    device.room.on_delivered(failing)
    end = device.room.on_delivered(lambda message: heard.append(message.id))
    device.with_hook().room.set_caps(FREE)
    device.room.plan([follow_up(0)])
    (said,) = device.tick()
    assert heard == [said.id]
    end()
    device.room.plan([follow_up(1)])
    assert len(device.tick()) == 1
    assert heard == [said.id]


def test_a_tick_within_a_transaction_is_refused(device: Device) -> None:
    device.with_hook().room.plan([follow_up()])
    with pytest.raises(StoreWriteError, match="transaction"), device.store.transaction():
        device.tick()
    assert device.shown == []
    assert len(device.tick()) == 1


def test_ticks_of_many_threads_say_everything_once(device: Device) -> None:
    device.with_hook().room.set_caps(FREE)
    device.room.plan([follow_up(n) for n in range(8)])
    threads = [threading.Thread(target=device.tick) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _until(lambda: not device.tick() and not device.room.pending())
    said = [message.follow_up for message in device.shown]
    assert sorted(said) == sorted({follow_up(n).id for n in range(8)})


# -- what comes of it --------------------------------------------------------------------------------------------------


def test_outcomes_are_counted_once_and_may_only_say_more(device: Device) -> None:
    device.with_hook().room.plan([follow_up()])
    (said,) = device.tick()
    assert device.room.outcome(said.id, "opened")
    assert not device.room.outcome(said.id, "opened")
    assert not device.room.outcome(said.id, "dismissed")
    assert device.room.outcome(said.id, "acted")
    counts = device.room.quality()
    assert [counts[name] for name in ("planned", "shown", "opened", "acted")] == [1, 1, 0, 1]
    assert device.room.document()["counters"]["still_thinking/notification"] == {"shown": 1, "opened": 0, "acted": 1}
    assert not device.room.outcome("unknown", "opened")
    with pytest.raises(InputError, match="outcome is"):
        device.room.outcome(said.id, "loved")


def test_silence_counts_as_ignored_and_a_late_answer_still_counts(device: Device) -> None:
    device.with_hook().room.plan([follow_up()])
    (said,) = device.tick()
    device.wait(25).tick()
    assert device.room.quality()["ignored"] == 1
    learned = device.room.document()["learned_hours"]
    assert learned["hours"][str(MONDAY_HOUR)][1] > 0.3
    assert device.room.outcome(said.id, "opened")
    assert device.room.quality() | {"ignored": 0, "opened": 1} == device.room.quality()


def test_what_is_ignored_comes_back_less_and_less_often(device: Device) -> None:
    device.with_hook("card").room.set_caps(Caps(Cap(24, 100), Cap(24, 100), Cap(24, 100, HOUR_S), {}))
    gaps, last_s = [], device.now_s
    for number in range(3):
        device.room.plan([follow_up(number, due_s=device.now_s, expires_s=device.now_s + 30 * DAY_S)], asked_for=False)
        while not (said := device.tick()):
            device.wait(1)
            assert device.now_s - last_s < 10 * DAY_S
        gaps.append(device.now_s - last_s)
        last_s = device.now_s
        device.room.outcome(said[0].id, "dismissed")
    assert gaps[0] == 0.0
    assert gaps[1] >= 4 * HOUR_S
    assert gaps[2] >= 16 * HOUR_S


def test_all_of_it_can_be_seen_and_taken_along(device: Device) -> None:
    device.with_hook().room.plan([follow_up(0), follow_up(1)])
    (said,) = device.tick()
    device.room.outcome(said.id, "opened")
    document = json.loads(json.dumps(device.room.document()))
    assert [one["id"] for one in document["pending"]] == [follow_up(1).id]
    assert document["delivered"][0]["text"] == said.text
    assert document["delivered"][0]["outcome"] == "opened"
    assert document["quiet_hours"] == ["22:00-08:00"]
    assert not document["quiet_hours_by_user"]


# -- what should not be there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rubbish",
    [
        {},
        {"follow_up": None, "asked_for": False},
        {"follow_up": {"id": "x"}, "asked_for": False},
        {"follow_up": {**follow_up().document(), "due_s": "soon"}, "asked_for": False},
        {"follow_up": {**follow_up().document(), "due_s": 10**400}, "asked_for": False},
        {"follow_up": {**follow_up().document(), "topic": ["a"]}, "asked_for": False},
        {"follow_up": {**follow_up().document(), "facts": {"first": 5}}, "asked_for": False},
        {"follow_up": {**follow_up().document(), "id": "a" * 5000}, "asked_for": False},
        {"follow_up": {**follow_up().document(), "id": "another"}, "asked_for": False},
        {"follow_up": follow_up().document(), "asked_for": "yes"},
    ],
)
def test_a_plan_that_cannot_be_read_is_dropped_and_the_others_are_said(
    device: Device, rubbish: dict[str, object]
) -> None:
    device.with_hook().room.plan([follow_up(1)])
    device.room._memory.table.put(f"plan/{follow_up().id}", rubbish)
    (said,) = device.tick()
    assert said.follow_up == follow_up(1).id
    assert device.room.quality()["unreadable"] == 1
    assert device.room.pending() == ()


def test_facts_that_name_no_days_are_no_facts(device: Device) -> None:
    for number, facts in enumerate(({}, {"first": "x", "last": "y"}, {"first": "2026-12-08", "last": "2026-12-03"})):
        device.with_hook().room.plan([follow_up(number, facts=facts)])
    assert device.tick() == ()
    assert device.room.pending() == ()


def test_a_flood_of_plans_is_bounded(device: Device) -> None:
    device.with_hook().room.plan([follow_up(n) for n in range(500)])
    assert len(device.room.pending()) == MOST_PENDING
    with device.store.transaction():
        for number in range(3000):
            device.room._memory.table.put(f"plan/{number}", {"follow_up": {"id": "x" * 100}})
    began_s = time.perf_counter()
    device.tick()
    assert time.perf_counter() - began_s < 2.0
    assert len(device.room._memory.table.keys("plan/")) <= MOST_PENDING
    with pytest.raises(DecisionError):
        device.room.plan(["a plan"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "damage", [{}, {"given": [[1, 2]], "levels": {}}, {"elapsed_s": "x", "seen_s": 0, "given": [], "levels": {}}]
)
def test_a_history_that_cannot_be_read_counts_as_full(device: Device, damage: dict[str, object]) -> None:
    device.with_hook().room.plan([follow_up(expires_s=MONDAY_EVENING_S + 20 * DAY_S)], asked_for=True)
    device.room._memory.table.put("history", damage)
    assert device.tick() == ()
    device.wait(6 * 24)
    assert device.tick() == ()
    device.wait(25)
    assert len(device.tick()) == 1


def test_settings_that_cannot_be_read_are_the_strictest(device: Device) -> None:
    device.with_hook().room.plan([follow_up()], asked_for=True)
    device.store.table(SETTINGS).put("quiet", {"hours": [17]})
    assert device.tick() == ()
    device.room.set_quiet_hours(None)
    assert len(device.tick()) == 1


def test_what_was_learned_and_cannot_be_read_is_the_populations(device: Device) -> None:
    device.room._memory.table.put("hours", {"hours": {"9999": [1, 1, 1]}, "weeks": 0, "counts": {}, "seen_s": None})
    device.with_hook().room.plan([follow_up()])
    assert len(device.tick()) == 1


@pytest.mark.parametrize(
    "call",
    [
        {"shows": "chat"},
        {"shows": ("telepathy",)},
        {"context": {"in_use": "yes"}},
        {"context": {"zone": "Nowhere/At_All"}},
        {"context": {"zone": "../../etc/passwd"}},
        {"context": [1]},
    ],
)
def test_a_tick_with_nonsense_is_refused(device: Device, call: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        device.room.tick(**call)  # type: ignore[arg-type]


def test_a_store_that_cannot_write_says_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.with_hook().room.plan([follow_up()])

    def full(*_: object) -> None:
        raise StoreWriteError("the disk is full")

    monkeypatch.setattr(Store, "transaction", full)
    with pytest.raises(StoreWriteError):
        device.tick()
    assert device.shown == []


def test_ticks_by_themselves_go_on_after_failures_and_end_with_the_store(device: Device) -> None:
    situations = iter([{"in_use": "nonsense"}, RuntimeError("the app's own trouble")])

    def context() -> dict[str, object]:
        found = next(situations, {"zone": "UTC"})
        if isinstance(found, Exception):
            raise found
        return found

    device.with_hook().room.plan([follow_up()])
    with DeliveryTicks(device.room, every_s=0.01, context=context) as ticks:
        _until(lambda: bool(device.shown))
        device.store.close()
        _until(lambda: ticks._thread is not None and not ticks._thread.is_alive())
    with pytest.raises(ConfigError):
        DeliveryTicks(device.room, every_s=0.0)


def _until(true: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 10.0
    while not true():
        assert time.monotonic() < ends_s
        time.sleep(0.01)
