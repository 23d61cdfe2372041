"""The user's return: what is being trained is aborted at once, once, and by whoever notices first."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from scheduled_device import AWAY, await_, clock

from edge_client.know.store import Store
from edge_client.share.probes import GivenProbes, Network, Power
from edge_client.share.schedule_rules import ScheduleRules
from edge_client.share.scheduler import SCHEDULE_TABLE, Reason, Scheduler

PURPOSE = "intent-model"


class NoMemory:
    def get(self, key: str) -> dict[str, Any] | None:
        return None

    def put(self, key: str, value: Any) -> None:
        """Forgets."""


def at_home() -> GivenProbes:
    """Nobody there, at the socket, on a flat rate: everything is allowed."""
    return GivenProbes(AWAY, Power.MAINS, Network.UNMETERED)


def scheduler(probes: Any, memory: Any = None, **rules: Any) -> Scheduler:
    return Scheduler(ScheduleRules(**rules), probes, clock, NoMemory() if memory is None else memory)


def test_a_watch_calls_abort_once_when_the_user_is_back() -> None:
    probes, calls = at_home(), []
    with scheduler(probes).watch(lambda: calls.append(threading.current_thread().name)) as watch:
        time.sleep(0.05)
        assert not calls
        probes.user_away_s = 0.5
        await_(lambda: calls)
        time.sleep(0.3)
    assert calls == ["schedule-watch"]
    assert watch.reasons == (Reason.IN_USE,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one, probes: setattr(probes, "fed_by", Power.BATTERY), Reason.BATTERY),
        (lambda one, probes: one.pause(), Reason.PAUSED),
        (lambda one, probes: one.user_is_active(), Reason.IN_USE),
    ],
)
def test_a_watch_ends_for_what_forbids_training(change: Any, reason: Reason) -> None:
    probes, calls = at_home(), []
    one = scheduler(probes)
    with one.watch(lambda: calls.append(1)) as watch:
        change(one, probes)
        await_(lambda: calls)
    assert watch.reasons == (reason,)


def test_the_apps_own_word_aborts_before_it_returns_even_if_a_probe_hangs() -> None:
    class Hanging(GivenProbes):
        def power(self) -> Power:
            hung.set()
            release.wait(10.0)
            return Power.MAINS

    hung, release, calls = threading.Event(), threading.Event(), []
    one = scheduler(Hanging(AWAY))
    with one.watch(lambda: calls.append(1)):
        assert hung.wait(5.0)
        one.user_is_active()
        assert calls == [1]
        one.pause()
        release.set()
    assert calls == [1]


def test_a_watch_does_not_mind_the_user_where_the_rules_do_not_nor_the_networks_cost_nor_separation() -> None:
    probes, calls = at_home(), []
    one = scheduler(probes, idle_s=None, min_separation_s=600.0)
    one.started(PURPOSE)
    with one.watch(lambda: calls.append(1)) as watch:
        probes.user_away_s, probes.connected_by = 0.0, Network.METERED
        one.user_is_active()
        time.sleep(0.4)
    assert not calls
    assert watch.reasons == ()


def test_nothing_is_aborted_after_the_block_has_ended() -> None:
    calls: list[int] = []
    for _ in range(50):
        probes = at_home()
        one = scheduler(probes)
        with one.watch(lambda: calls.append(1)):
            pass
        probes.user_away_s = 0.0
        one.user_is_active()
        one.pause()
        assert not calls
    await_(lambda: not [x for x in threading.enumerate() if x.name == "schedule-watch"])


def test_a_watch_works_while_another_thread_holds_the_store(tmp_path: Path) -> None:
    """The gate holds it for as long as something trains: the abort must not wait for what it is to end."""
    store = Store(tmp_path / "home", key=bytes(32))
    probes, calls = at_home(), []
    one = scheduler(probes, store.table(SCHEDULE_TABLE))
    paused = threading.Thread(target=one.pause)
    with store.lock, one.watch(lambda: calls.append(1)):
        paused.start()
        await_(lambda: calls)
    paused.join(5.0)
    assert store.table(SCHEDULE_TABLE).get("pause") == {"paused": True, "until_s": None}
    store.close()
