"""Triggers: hooks fire after the event is durable, outside the store's lock, and a failing one loses nothing."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from captured import START_S, CapturingDevice, page, track

from edge_client.know.triggers import Condition, Firing, Trigger
from shared_models.errors import ConfigError


@pytest.fixture
def device(tmp_path: Path) -> CapturingDevice:
    return CapturingDevice(tmp_path / "home")


def collected(device: CapturingDevice, trigger: Trigger | str) -> list[Firing]:
    fired: list[Firing] = []
    device.capture.on(trigger, fired.append)
    return fired


def test_a_name_stands_for_each_event_of_that_name_and_a_star_for_all(device: CapturingDevice) -> None:
    named, every = collected(device, "Product Viewed"), collected(device, "*")
    device.capture.receive(track("Product Viewed", message_id="m"))
    device.capture.receive(track("Product Viewed", message_id="m"))
    device.capture.receive(page("Home"))
    device.capture.receive(track("Unheard Of"))
    assert [firing.event.name for firing in named] == ["product_viewed"]
    assert [firing.event.name for firing in every] == ["product_viewed", "page"]
    assert json.loads(json.dumps(every[1].document()))["event"]["properties"] == {"name": "Home"}


@pytest.mark.parametrize(
    ("conditions", "fires"),
    [
        ([["event.properties.price", ">=", 100]], True),
        ([["event.properties.price", "<", 100]], False),
        ([["event.properties.currency", "in", ["EUR", "CHF"]]], True),
        ([["event.properties.category", "==", "sea"]], False),
        ([["event.properties.category", "!=", "sea"]], False),
        ([["event.properties.price", ">", "100"]], False),
        ([["event.properties.price", "==", True]], False),
        ([["event.name", "==", "product_viewed"], ["event.type", "!=", "page"]], True),
        ([["count.product_viewed.1h", ">=", 3]], True),
        ([["count.product_viewed.1h", ">", 3]], False),
        ([["since_last.product_viewed", "<=", 60]], True),
        ([["since_last.page", ">", 60]], True),
        ([["since_last.chat", ">", 0]], False),
        ([["session.events", "==", 4], ["session.active", "==", True]], True),
        ([["dwell.Home", ">=", 60]], True),
        ([["dwell.Elsewhere", "==", 0.0]], True),
        ([["funnel.purchase.step", "==", 1]], True),
        ([["funnel.purchase.completed", ">", 0]], False),
    ],
)
def test_a_trigger_fires_if_all_its_conditions_hold(
    device: CapturingDevice, conditions: list[list[Any]], fires: bool
) -> None:
    device.capture.receive(page("Home", START_S - 100))
    for ago_s in (80, 60):
        device.capture.receive(track("Product Viewed", START_S - ago_s))
    fired = collected(device, Trigger.from_document({"name": "t", "conditions": conditions}))
    device.capture.receive(track("Product Viewed", START_S, price="120 EUR"))
    assert bool(fired) is fires
    assert not fires or set(fired[0].values) == {condition[0] for condition in conditions}


def test_a_trigger_rests_between_two_firings(device: CapturingDevice) -> None:
    fired = collected(device, Trigger("t", events=("page",), cooldown_s=60))
    for _ in range(3):
        device.capture.receive(page("Home"))
        device.now_s += 25
    device.capture.receive(page("Home"))
    assert len(fired) == 2


def test_a_hook_that_fails_loses_neither_the_event_nor_the_other_hooks(
    device: CapturingDevice, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(firing: Firing) -> None:
        raise RuntimeError(f"canary {firing.event.properties}")

    device.capture.on("page", fail)
    fired = collected(device, "page")
    assert device.capture.receive(page("canary")).kept
    assert len(device.capture.events()) == len(fired) == 1
    assert device.capture.quality()["hook_failures"] == 1
    assert "canary" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_a_hook_can_be_taken_away(device: CapturingDevice) -> None:
    fired: list[Firing] = []
    off = device.capture.on("page", fired.append)
    device.capture.receive(page("Home"))
    off()
    off()
    device.capture.receive(page("Home"))
    assert len(fired) == 1


def test_a_hook_sees_its_event_stored_and_other_threads_can_use_the_store(device: CapturingDevice) -> None:
    seen: list[int] = []

    def look(firing: Firing) -> None:
        other = threading.Thread(target=lambda: seen.append(len(device.capture.events())))
        other.start()
        other.join(timeout=20)

    device.capture.on("page", look)
    device.capture.receive_batch([page("A"), page("B")])
    assert seen == [2, 2]


def test_a_hook_may_capture_and_cannot_go_round_for_ever(device: CapturingDevice) -> None:
    device.capture.on("page", lambda firing: device.capture.receive(page("again")))
    device.capture.receive(page("Home"))
    assert 2 <= len(device.capture.events()) <= 10
    assert device.capture.quality()["hook_failures"] == 1


def test_hooks_wait_for_a_caller_who_holds_the_store(device: CapturingDevice) -> None:
    done = threading.Event()
    fired: list[Firing] = []

    def hook(firing: Firing) -> None:
        fired.append(firing)
        done.set()

    device.capture.on("page", hook)
    with device.store.transaction():
        device.capture.receive(page("Home"))
        assert not fired
    assert done.wait(20)
    assert len(fired) == 1


def test_an_import_inside_a_transaction_fires_for_what_has_just_happened_and_from_one_thread(
    device: CapturingDevice,
) -> None:
    done = threading.Event()
    fired: list[Firing] = []
    threads: set[str] = set()

    def hook(firing: Firing) -> None:
        fired.append(firing)
        threads.add(str(threading.get_ident()))
        if firing.event.properties["name"] == "last":
            done.set()

    device.capture.on("page", hook)
    with device.store.transaction():
        for number in range(1, 50):
            device.capture.receive(page("old", START_S - 3600 * number))
        device.capture.receive(page("new", START_S - 10))
        device.capture.receive(page("last", START_S))
    assert done.wait(20)
    assert [firing.event.properties["name"] for firing in fired] == ["new", "last"]
    assert len(threads) == 1


def test_hooks_of_an_event_that_the_caller_undoes_do_not_fire(device: CapturingDevice) -> None:
    fired = collected(device, "page")

    def undone() -> None:
        with device.store.transaction():
            device.capture.receive(page("Home"))
            raise RuntimeError("undone")

    with pytest.raises(RuntimeError):
        undone()
    for thread in threading.enumerate():
        if thread.name == "tacit-triggers":
            thread.join(20)
    assert fired == []


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"name": "x" * 101},
        {"name": "t", "conditions": "x"},
        {"name": "t", "conditions": [["event.name", "=="]]},
        {"name": "t", "conditions": [["event.colour", "==", "red"]]},
        {"name": "t", "conditions": [["count.page.2h", ">", 1]]},
        {"name": "t", "conditions": [["count.unheard.1h", ">", 1]]},
        {"name": "t", "conditions": [["funnel.unheard.step", ">", 1]]},
        {"name": "t", "conditions": [["session.colour", ">", 1]]},
        {"name": "t", "conditions": [["event.name", "matches", "(a+)+$"]]},
        {"name": "t", "conditions": [["event.name", "==", None]]},
        {"name": "t", "conditions": [["event.name", "==", ["a"]]]},
        {"name": "t", "conditions": [["event.name", "in", "a"]]},
        {"name": "t", "conditions": [["event.name", "==", float("nan")]]},
        {"name": "t", "conditions": [[5, "==", 5]]},
        {"name": "t", "conditions": [["event.name", ["=="], 5]]},
        {"name": "t", "conditions": [["event.name", "==", "a"]] * 17},
        {"name": "t", "events": ["unheard"]},
        {"name": "t", "events": [5]},
        {"name": "t", "events": "page"},
        {"name": "t", "cooldown_s": -1},
        {"name": "t", "colour": "red"},
    ],
)
def test_a_trigger_that_cannot_be_is_refused(device: CapturingDevice, document: Any) -> None:
    with pytest.raises(ConfigError):
        device.capture.on(Trigger.from_document(document), print)


def test_hooks_are_bounded_and_are_functions(device: CapturingDevice) -> None:
    with pytest.raises(ConfigError):
        device.capture.on("page", 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        device.capture.on(Condition("event.name", "==", "page"), print)  # type: ignore[arg-type]
    for _ in range(200):
        device.capture.on("page", print)
    with pytest.raises(ConfigError, match="at most 200"):
        device.capture.on("page", print)
