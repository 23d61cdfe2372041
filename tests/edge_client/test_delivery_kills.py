"""Deliveries under SIGKILL: whatever is killed when, nothing is said twice, nothing planned is lost, and the caps hold."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from deliveries import HOUR_S, MONDAY_EVENING_S, Device, follow_up
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_model import Child

from edge_client.decide.delivery_caps import DAY_S, WEEK_S, Cap, Caps
from edge_client.decide.follow_ups import MOST_PENDING
from edge_client.delivery_hooks import Delivered
from edge_client.platform import FAULT_VARIABLE

ALWAYS = {"zone": "UTC", "in_use": True}
FREE = Caps(Cap(24, 100), Cap(24, 100), Cap(24, 100), {})
POINTS = [
    "store.append.before_write",
    "store.append.half_write",
    "store.append.after_write",
    "store.append.after_sync",
    "store.after_counter",
    "delivery.marked",
    "delivery.carried",
]


def writing(path: Path) -> Callable[[Delivered], None]:
    """A hook of an app that shows a message: on disk, so that it outlives the process."""

    def show(message: Delivered) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(descriptor, f"{message.follow_up} {message.at_s} {message.topic}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    return show


def shown(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=() if p.startswith("delivery") else pytest.mark.deep) for p in POINTS]
)
def test_a_kill_at_a_named_point_shows_a_message_once_at_most(tmp_path: Path, point: str) -> None:
    home, log = tmp_path / "home", tmp_path / "shown"
    device = Device(home)
    device.room.set_caps(FREE)
    device.room.plan([follow_up(0)])
    device.store.close()

    def work(_: Callable[[int], None]) -> None:
        later = Device(home, granted=False)
        later.room.register("chat", writing(log))
        os.environ[FAULT_VARIABLE] = point
        later.tick(context=ALWAYS)

    child = Child(work)
    list(child.told())
    assert child.killed()
    before = shown(log)
    assert before == ([follow_up(0).id] if point == "delivery.carried" else [])
    device = Device(home, granted=False)
    device.room.register("chat", writing(log))
    again = device.tick(context=ALWAYS)
    # Kept as delivered means gone; not kept means that it is said now.
    (kept,) = device.room.document()["delivered"]
    assert kept["follow_up"] == follow_up(0).id
    assert len(again) + (kept["carried"] == "marked") == 1
    assert shown(log) == before + [message.follow_up for message in again]
    assert device.room.plan([follow_up(0)]) == ()
    assert device.tick(context=ALWAYS) == ()
    device.store.close()


@pytest.mark.deep
def test_kills_at_random_moments_neither_repeat_nor_lose(tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "shown"
    Device(home).store.close()
    seed = random.Random(7)
    planned: set[str] = set()
    kills = 0
    for generation in range(20):
        numbers = range(generation * 6, generation * 6 + 6)

        def work(tell: Callable[[int], None], numbers: range = numbers, generation: int = generation) -> None:
            device = Device(home, MONDAY_EVENING_S + generation * 8 * DAY_S, granted=False)
            device.room.set_caps(FREE)
            device.room.register("chat", writing(log))
            for number in numbers:
                if len(device.room.pending()) == MOST_PENDING:
                    # One more would push out the last.
                    device.tick(context=ALWAYS)
                device.room.plan([follow_up(number, due_s=MONDAY_EVENING_S, expires_s=9e10)], asked_for=True)
                tell(number)
            while True:
                device.now_s += 60.0
                for message in device.tick(context=ALWAYS):
                    device.room.outcome(message.id, "opened")
                device.room.used()

        child = Child(work)
        ends_s = time.monotonic() + seed.uniform(0.0, 0.35)
        told = child.told()
        done: list[int] = []
        for number in told:
            done.append(number)
            if number == numbers[-1]:
                break
        while time.monotonic() < ends_s:
            time.sleep(0.005)
        child.kill()
        list(told)
        kills += child.killed()
        planned |= {follow_up(number).id for number in done}
        device = Device(home, MONDAY_EVENING_S + generation * 8 * DAY_S + DAY_S, granted=False)
        document = device.room.document()
        known = {one["id"] for one in document["pending"]} | {
            key.removeprefix("said/") for key in device.room._memory.table.keys("said/")
        }
        device.store.close()
        assert planned <= known, "a plan that was kept is neither pending nor said"
        assert set(shown(log)) <= known
    counts = Counter(shown(log))
    assert kills == 20
    assert len(counts) > 60
    assert max(counts.values()) == 1


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.0, 60.0) | st.floats(-200.0, 200.0)),
        st.tuples(st.just("plan"), st.sampled_from(("still_thinking", "weather_before_trip", "how_was_it"))),
        st.tuples(st.just("tick"), st.sampled_from(("", "delivery.marked", "delivery.carried"))),
        st.tuples(st.just("outcome"), st.sampled_from(("opened", "dismissed", "ignored"))),
        st.tuples(st.just("reopen"), st.just("")),
    ),
    min_size=10,
    max_size=60,
)
TIGHT = Caps(Cap(3, 6, 900.0), Cap(3, 6, 900.0), Cap(2, 4, 3600.0), {})


class Killed(BaseException):
    """The process ends here."""


def lived(folder: Path, operations: list[tuple[str, object]]) -> None:
    """Do it all on one device; a kill leaves what is on disk, and nothing else."""
    homes = iter(folder / f"home{number}" for number in range(1000))
    device, said = Device(next(homes)), []
    passed_s, planned, point = 0.0, 0, ""

    def show(message: Delivered) -> None:
        said.append((message, passed_s))

    def fault(name: str) -> None:
        if name == point:
            raise Killed

    def opened() -> None:
        device.room.set_caps(TIGHT)
        device.room.register("chat", show)

    opened()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_client.delivering.fault_point", fault)
        for what, how in operations:
            if what == "wait":
                moved_s = max(float(how) * HOUR_S, -device.now_s)  # type: ignore[arg-type]
                device.now_s += moved_s
                passed_s += max(0.0, moved_s)
            elif what == "plan":
                planned += 1
                device.room.plan(
                    [follow_up(planned, str(how), device.now_s - 1.0, expires_s=device.now_s + 30 * DAY_S)],
                    asked_for=True,
                )
            elif what == "outcome" and said:
                device.room.outcome(said[-1][0].id, str(how))
            elif what == "reopen":
                device.reopen()
                opened()
            elif what == "tick":
                point = str(how)
                try:
                    device.tick(context=ALWAYS)
                except Killed:
                    image = next(homes)
                    shutil.copytree(device.home, image, ignore=shutil.ignore_patterns("*.lock"))
                    device.store.close()
                    device = Device(image, device.now_s, granted=False)
                    opened()
                point = ""
    device.store.close()
    ids = [message.follow_up for message, _ in said]
    assert len(ids) == len(set(ids))
    for topic in ("", *{message.topic for message, _ in said}):
        cap = TIGHT.topic if topic else TIGHT.all
        of_it = [(message.at_s, at_s) for message, at_s in said if topic in ("", message.topic)]
        for place in (0, 1):
            times = sorted(one[place] for one in of_it)
            for width_s, most in ((DAY_S, cap.per_day), (WEEK_S, cap.per_week)):
                assert all(sum(0.0 <= other - one < width_s for other in times) <= most for one in times)


QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(operations=OPERATIONS)
@settings(QUIET, max_examples=5)
def test_caps_hold_over_kills_and_clock_jumps(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, object]]
) -> None:
    lived(tmp_path_factory.mktemp("device"), operations)


@pytest.mark.deep
@given(operations=OPERATIONS)
@settings(QUIET, max_examples=60)
def test_caps_hold_over_many_kills_and_clock_jumps(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, object]]
) -> None:
    lived(tmp_path_factory.mktemp("device"), operations)
