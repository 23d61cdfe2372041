"""The scheduler: what it allows on which readings, what it remembers, and what hangs on being online."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.know.store import Store
from edge_client.share.probes import GivenProbes, Network, Power
from edge_client.share.schedule_rules import QuietHours, ScheduleRules
from edge_client.share.scheduler import SCHEDULE_TABLE, Outcome, Reason, Scheduler, Verdict, keep_rules, kept_rules
from shared_models.errors import ConfigError, StoreClosedError

NOW_S = 1_800_000_000.0
PURPOSE = "intent-model"
AWAY = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "home", key=bytes(32)) as opened:
        yield opened


class NoMemory:
    """For tests of rules alone."""

    def get(self, key: str) -> dict[str, Any] | None:
        return None

    def put(self, key: str, value: Any) -> None:
        json.dumps(value, allow_nan=False)


def at_home() -> GivenProbes:
    """Nobody there, at the socket, on a flat rate: everything is allowed."""
    return GivenProbes(AWAY, Power.MAINS, Network.UNMETERED)


def scheduler(
    probes: Any = None, clock: Callable[[], float] | None = None, memory: Any = None, **rules: Any
) -> Scheduler:
    kept = NoMemory() if memory is None else memory
    return Scheduler(ScheduleRules(**rules), probes or at_home(), clock or Clock(), kept)


def await_(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


# -- rules on readings -----------------------------------------------------------------------------------------------


def test_idle_charging_and_unmetered_it_may_run() -> None:
    assert scheduler().may_run(PURPOSE) == Verdict(True)
    assert scheduler().may_connect() == Verdict(True)


@pytest.mark.parametrize(
    ("probes", "loosened", "reason"),
    [
        (GivenProbes(10.0, Power.MAINS, Network.UNMETERED), {"idle_s": None}, Reason.IN_USE),
        (GivenProbes(AWAY, Power.BATTERY, Network.UNMETERED), {"on_battery": True}, Reason.BATTERY),
        (GivenProbes(AWAY, Power.MAINS, Network.METERED), {"on_metered": True}, Reason.METERED),
    ],
)
def test_each_condition_forbids_by_itself_until_the_user_allows_it(
    probes: GivenProbes, loosened: dict[str, Any], reason: Reason
) -> None:
    verdict = scheduler(probes).may_run(PURPOSE)
    assert (verdict.allowed, verdict.reasons, verdict.next_s) == (False, (reason,), None)
    assert scheduler(probes, **loosened).may_run(PURPOSE).allowed


@pytest.mark.parametrize(
    ("probes", "rule", "reason"),
    [
        (GivenProbes(None, Power.MAINS, Network.UNMETERED), "unknown_idle", Reason.IN_USE_UNKNOWN),
        (GivenProbes(AWAY, Power.UNKNOWN, Network.UNMETERED), "unknown_power", Reason.POWER_UNKNOWN),
        (GivenProbes(AWAY, Power.MAINS, Network.UNKNOWN), "unknown_network", Reason.NETWORK_UNKNOWN),
    ],
)
def test_unknown_is_read_as_the_rules_say_and_trains_by_default(probes: GivenProbes, rule: str, reason: Reason) -> None:
    assert scheduler(probes).may_run(PURPOSE).allowed
    assert scheduler(probes, **{rule: False}).may_run(PURPOSE).reasons == (reason,)
    others = {"unknown_idle": False, "unknown_power": False, "unknown_network": False, rule: True}
    assert scheduler(probes, **others).may_run(PURPOSE).allowed


@settings(max_examples=300, deadline=None)
@given(
    idle_s=st.none() | st.floats(0, 1e6),
    power=st.sampled_from(Power),
    network=st.sampled_from(Network),
    rule_s=st.none() | st.floats(0, 86400),
    flags=st.tuples(*[st.booleans()] * 5),
)
def test_it_is_allowed_exactly_if_there_is_no_reason_against_it(
    idle_s: float | None, power: Power, network: Network, rule_s: float | None, flags: tuple[bool, ...]
) -> None:
    battery, metered, *unknown = flags
    probes = GivenProbes(idle_s, power, network)
    names = ("unknown_idle", "unknown_power", "unknown_network")
    verdict = scheduler(
        probes, idle_s=rule_s, on_battery=battery, on_metered=metered, **dict(zip(names, unknown, strict=True))
    ).may_run(PURPOSE)
    idle_fine = rule_s is None or (unknown[0] if idle_s is None else idle_s >= rule_s)
    power_fine = battery or power is Power.MAINS or (power is Power.UNKNOWN and unknown[1])
    network_fine = metered or network is Network.UNMETERED or (network is Network.UNKNOWN and unknown[2])
    assert verdict.allowed is (idle_fine and power_fine and network_fine)
    assert verdict.allowed is (not verdict.reasons)


class Broken:
    """An app's probes that fail, or answer what is no answer."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def _say(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    idle_s = power = network = _say


@pytest.mark.parametrize(
    "answer", [OSError("no"), ZeroDivisionError(), math.nan, math.inf, -1.0, "mains?", True, [], None, 10**400]
)
def test_a_probe_that_fails_or_talks_nonsense_is_unknown(answer: Any) -> None:
    assert scheduler(Broken(answer)).may_run(PURPOSE).allowed
    strict = scheduler(Broken(answer), unknown_idle=False, unknown_power=False, unknown_network=False)
    assert strict.may_run(PURPOSE).reasons == (
        Reason.IN_USE_UNKNOWN,
        Reason.POWER_UNKNOWN,
        Reason.NETWORK_UNKNOWN,
    )
    assert strict.may_connect().reasons == (Reason.NETWORK_UNKNOWN,)
    json.dumps(strict.document(), allow_nan=False)


def test_a_purpose_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no purpose"):
        scheduler().may_run("world-domination")
    with pytest.raises(ConfigError, match="no purpose"):
        scheduler().started("world-domination")


@pytest.mark.parametrize("broken", [math.nan, math.inf, -5.0, "now", None, True])
def test_a_clock_that_is_none_is_one_clear_error(broken: Any) -> None:
    with pytest.raises(ConfigError, match="clock"):
        scheduler(clock=lambda: broken).may_run(PURPOSE)


# -- quiet hours, separation, pause ----------------------------------------------------------------------------------


def test_quiet_hours_forbid_and_say_when_they_end(clock: Clock) -> None:
    # NOW_S is 08:00 in UTC.
    one = scheduler(clock=clock, quiet_hours=(QuietHours.parse("07:30-09:15"),), zone="UTC")
    assert one.may_run(PURPOSE) == Verdict(False, (Reason.QUIET,), NOW_S + 75 * 60)
    clock.now_s += 75 * 60
    assert one.may_run(PURPOSE).allowed


def test_trainings_of_one_purpose_are_separated_and_others_are_not(clock: Clock) -> None:
    one = scheduler(clock=clock, min_separation_s=600.0)
    one.started(PURPOSE)
    assert one.may_run(PURPOSE) == Verdict(False, (Reason.TOO_SOON,), NOW_S + 600.0)
    assert one.may_run("personal-learning").allowed
    clock.now_s += 600.0
    assert one.may_run(PURPOSE).allowed


def test_a_clock_that_is_set_back_makes_nobody_wait_for_years(clock: Clock) -> None:
    one = scheduler(GivenProbes(None, Power.MAINS, Network.UNMETERED), clock, min_separation_s=600.0)
    one.started(PURPOSE)
    one.user_is_active()
    clock.now_s -= 365 * 86400.0
    assert one.may_run(PURPOSE) == Verdict(False, (Reason.IN_USE, Reason.TOO_SOON), clock.now_s + 600.0)
    clock.now_s += 600.0
    assert one.may_run(PURPOSE).allowed


def test_the_next_time_is_the_first_that_pause_separation_and_quiet_hours_all_allow(clock: Clock) -> None:
    one = scheduler(clock=clock, min_separation_s=3600.0, quiet_hours=(QuietHours.parse("09:30-11:00"),), zone="UTC")
    one.started(PURPOSE)
    one.pause(NOW_S + 2 * 3600.0)  # 10:00, which is quiet
    verdict = one.may_run(PURPOSE)
    assert verdict.reasons == (Reason.PAUSED, Reason.TOO_SOON)
    assert verdict.next_s == NOW_S + 3 * 3600.0
    clock.now_s = verdict.next_s
    assert one.may_run(PURPOSE).allowed


def test_a_pause_lasts_until_its_time_or_until_resumed(clock: Clock) -> None:
    one = scheduler(clock=clock)
    one.pause(NOW_S + 60.0)
    assert one.may_run(PURPOSE) == Verdict(False, (Reason.PAUSED,), NOW_S + 60.0)
    assert one.may_connect() == Verdict(False, (Reason.PAUSED,), NOW_S + 60.0)
    clock.now_s += 60.0
    assert one.may_run(PURPOSE).allowed
    one.pause()
    clock.now_s += 1e8
    assert one.may_run(PURPOSE) == Verdict(False, (Reason.PAUSED,), None)
    one.resume()
    assert one.may_run(PURPOSE).allowed
    one.resume()


@pytest.mark.parametrize("until", [math.nan, math.inf, -1, NOW_S, NOW_S - 1, 1e300, "tomorrow", True, [NOW_S + 5]])
def test_a_pause_until_no_time_to_come_is_an_error_and_changes_nothing(until: Any) -> None:
    one = scheduler()
    with pytest.raises(ConfigError, match="until_s"):
        one.pause(until)
    assert one.may_run(PURPOSE).allowed


def test_pause_separation_and_last_outcome_survive_a_restart(tmp_path: Path, clock: Clock) -> None:
    with Store(tmp_path / "home", key=bytes(32)) as store:
        one = scheduler(clock=clock, memory=store.table(SCHEDULE_TABLE), min_separation_s=600.0)
        one.started(PURPOSE)
        one.ended(PURPOSE, Outcome.TRAINED, duration_s=4.5)
        one.pause(NOW_S + 60.0)
        before = one.document()
    with Store(tmp_path / "home", key=bytes(32)) as store:
        again = scheduler(clock=clock, memory=store.table(SCHEDULE_TABLE), min_separation_s=600.0)
        assert again.document() == before
        assert again.may_run(PURPOSE).reasons == (Reason.PAUSED, Reason.TOO_SOON)
        assert again.longest_training_s == 4.5
        again.resume()
    with Store(tmp_path / "home", key=bytes(32)) as store:
        third = scheduler(clock=clock, memory=store.table(SCHEDULE_TABLE), min_separation_s=600.0)
        assert third.may_run(PURPOSE).reasons == (Reason.TOO_SOON,)


def test_a_pause_that_cannot_be_kept_holds_all_the_same(store: Store) -> None:
    one = scheduler(memory=store.table(SCHEDULE_TABLE))
    store.close()
    with pytest.raises(StoreClosedError):
        one.pause()
    assert not one.may_run(PURPOSE).allowed
    with pytest.raises(StoreClosedError):
        one.resume()
    assert not one.may_run(PURPOSE).allowed


@pytest.mark.parametrize(
    ("key", "value", "reasons"),
    [
        ("pause", {"paused": True, "until_s": "soon"}, (Reason.PAUSED,)),
        ("pause", {"until_s": None}, (Reason.PAUSED,)),
        ("pause", {"paused": False, "until_s": -1}, (Reason.PAUSED,)),
        ("started", {"at_s": {PURPOSE: "yesterday", "x": None}}, ()),
        ("started", {"at_s": 7}, ()),
        ("durations", {"seconds": ["x", -1, 1e9, None]}, ()),
        ("durations", {"seconds": None}, ()),
    ],
)
def test_a_memory_that_another_version_wrote_is_read_on_the_careful_side(
    store: Store, key: str, value: dict[str, Any], reasons: tuple[str, ...]
) -> None:
    store.table(SCHEDULE_TABLE).put(key, value)
    one = scheduler(memory=store.table(SCHEDULE_TABLE), min_separation_s=600.0)
    assert one.may_run(PURPOSE).reasons == reasons
    assert one.longest_training_s is None


# -- being online ----------------------------------------------------------------------------------------------------


def test_being_online_hangs_on_the_pause_and_the_networks_cost_alone() -> None:
    """Whoever stays away must say nothing about the user: the other probes are not even asked."""

    class OnlyNetwork(GivenProbes):
        def idle_s(self) -> float | None:
            raise AssertionError("asked whether the user is there")

        def power(self) -> Power:
            raise AssertionError("asked for the power")

    verdicts = set()
    for idle, battery, quiet in product((None, 0.0, 86400.0), (True, False), ((), (QuietHours.parse("07:00-09:00"),))):
        one = scheduler(OnlyNetwork(), idle_s=idle, on_battery=battery, quiet_hours=quiet, zone="UTC")
        one.user_is_active()
        one.started(PURPOSE)
        verdicts.add(one.may_connect())
    assert verdicts == {Verdict(True)}
    assert scheduler(GivenProbes(AWAY, Power.MAINS, Network.METERED)).may_connect().reasons == (Reason.METERED,)
    assert scheduler(GivenProbes(AWAY, Power.MAINS, Network.METERED), on_metered=True).may_connect().allowed


def test_what_the_app_says_of_the_user_counts_beside_the_systems_word(clock: Clock) -> None:
    for probed_s in (None, AWAY):
        clock.now_s = NOW_S
        one = scheduler(GivenProbes(probed_s, Power.MAINS, Network.UNMETERED), clock, idle_s=300.0)
        one.user_is_active()
        clock.now_s += 299.0
        assert one.may_run(PURPOSE).reasons == (Reason.IN_USE,)
        clock.now_s += 1.0
        assert one.may_run(PURPOSE).allowed


def test_the_privacy_centre_gets_plain_json_with_everything_in_it(clock: Clock) -> None:
    one = scheduler(GivenProbes(12.0, Power.BATTERY), clock, quiet_hours=(QuietHours.parse("07:00-09:00"),), zone="UTC")
    one.pause(NOW_S + 60.0)
    one.ended(PURPOSE, Outcome.ABORTED, (Reason.IN_USE,))
    document = json.loads(json.dumps(one.document(), allow_nan=False))
    assert document["may_train"] is False
    assert document["may_connect"] is False
    assert document["reasons"] == ["paused by you", "quiet hours", "the device is in use", "on battery"]
    assert document["next_s"] == NOW_S + 3600.0
    assert document["paused"] == {"until_s": NOW_S + 60.0}
    assert document["readings"] == {"idle_s": 12.0, "power": "battery", "network": "unknown"}
    assert document["rules"]["quiet_hours"] == ["07:00-09:00"]
    assert document["last"] == {
        "purpose": PURPOSE,
        "at_s": NOW_S,
        "outcome": "aborted",
        "reasons": ["the device is in use"],
    }


def test_the_rules_that_an_agent_worked_by_are_shown_while_it_is_not_there(store: Store) -> None:
    memory = store.table(SCHEDULE_TABLE)
    assert kept_rules(memory) == ScheduleRules()
    rules = ScheduleRules(idle_s=None, quiet_hours=(QuietHours.parse("22:00-07:00"),), zone="Europe/Berlin")
    keep_rules(memory, rules)
    assert kept_rules(memory) == rules
    memory.put("rules", {"moon": "full"})
    assert kept_rules(memory) == ScheduleRules()
