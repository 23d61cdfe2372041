"""Whole rounds under a schedule: real gates, stores and training processes, and a server that cannot tell who trained."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scheduled_device import (
    AUTHORITY,
    AWAY,
    HEALTH,
    NOW_S,
    PURPOSE,
    Device,
    alive,
    await_,
    clock,
    contribute,
    devices_in,
    plan_of,
    signed_plan,
    trusted,
)

from edge_client.share.probes import Power
from edge_client.share.scheduler import SCHEDULE_TABLE
from privacy.secure_sum.messages import ADVERTISE, AGREE, CONTRIBUTE, DRAW, SHARE, STAGES, UNMASK
from privacy.secure_sum.server import ServerSession
from shared_models.errors import ConsentError


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    with devices_in(tmp_path) as make:
        yield make


def run_round(devices: Sequence[Device], during: Callable[[int], None] = lambda place: None) -> np.ndarray:
    """All six stages with the server's real session; the released sum, integers [dimension]."""
    plan = plan_of(devices[0])
    signed = signed_plan(plan)
    server = ServerSession(plan, bytes(AUTHORITY.verify_key), clock)

    def say(device: Device, stage: str, body: bytes) -> bytes:
        return bytes(device.port.answer_stage(plan.task, plan.round_id, stage, body).body)

    for device in devices:
        assert not device.port.in_round
        server.add_advert(say(device, ADVERTISE, signed.to_bytes()))
        assert device.port.in_round
    server.close_roster()
    for place, device in enumerate(devices):
        server.add_draw(place, say(device, DRAW, server.draw_request(place)))
    server.open_sharing()
    for place, device in enumerate(devices):
        server.add_shares(place, say(device, SHARE, server.share_request(place)))
    server.open_contributing()
    for place, device in enumerate(devices):
        during(place)
        sealed = contribute(device, signed, server.contribute_request(place))
        assert sealed.values.size == plan.dimension
        server.add_contribution(place, sealed.values, sealed.proof)
    server.open_agreement()
    for place, device in enumerate(devices):
        server.add_signature(place, say(device, AGREE, server.agree_request()))
    server.open_unmasking()
    for place, device in enumerate(devices):
        server.add_unmasking(place, say(device, UNMASK, server.unmask_request(place)))
        assert not device.port.in_round
    assert STAGES == (ADVERTISE, DRAW, SHARE, CONTRIBUTE, AGREE, UNMASK)
    return server.release().values


def test_six_invited_devices_all_answer_and_the_sum_holds_those_that_trained(
    make_device: Callable[..., Device],
) -> None:
    devices = [make_device(number, trains_s=30.0 if number == 5 else 0.0) for number in range(6)]
    devices[2].probes.user_away_s = 0.0
    devices[3].probes.fed_by = Power.BATTERY
    devices[4].scheduler.pause()

    def user_returns(place: int) -> None:
        if place != 5:
            return

        def when_it_trains() -> None:
            await_(devices[5].begun.exists)
            pids.append(devices[5].training.pid)
            devices[5].probes.user_away_s = 0.0

        threading.Thread(target=when_it_trains).start()

    pids: list[int | None] = []
    total = run_round(devices, user_returns)
    expected = devices[0].grid() + devices[1].grid()
    assert total.tolist() == [*expected.tolist(), *[0] * HEALTH]
    assert pids[0] is not None
    assert not alive(pids[0])
    assert [device.note() for device in devices] == [
        "",
        "",
        "not trained: the device is in use",
        "not trained: on battery",
        "not trained: paused by you",
        "training stopped: the device is in use",
    ]
    # Zeros cost what an update costs: the gate cannot tell, and so nobody can.
    assert len({device.gate.budget(PURPOSE).rho_spent for device in devices}) == 1
    assert [device.begun.exists() for device in devices] == [True, True, False, False, False, True]
    assert devices[5].scheduler.document()["last"]["outcome"] == "aborted"
    assert devices[0].said == ["round 1: trained"]
    assert devices[5].said == ["round 1: answered with zeros: training stopped: the device is in use"]


def test_a_pause_from_another_thread_aborts_although_the_training_holds_the_store(
    make_device: Callable[..., Device],
) -> None:
    device = make_device(trains_s=30.0)
    answers: list[Any] = []
    round_thread = threading.Thread(target=lambda: answers.append(contribute(device, trusted(device, 1))))
    round_thread.start()
    await_(device.begun.exists)
    pid = device.training.pid
    assert pid is not None
    device.scheduler.pause()
    round_thread.join(20.0)
    assert not alive(pid)
    assert not answers[0].values.any()
    assert device.note() == "training stopped: paused by you"
    assert device.store.table(SCHEDULE_TABLE).get("pause") == {"paused": True, "until_s": None}


def test_the_apps_word_that_the_user_is_back_leaves_no_process_behind(make_device: Callable[..., Device]) -> None:
    device = make_device(trains_s=30.0)
    answers: list[Any] = []
    round_thread = threading.Thread(target=lambda: answers.append(contribute(device, trusted(device, 1))))
    round_thread.start()
    await_(device.begun.exists)
    pid = device.training.pid
    assert pid is not None
    device.scheduler.user_is_active()
    assert not alive(pid), "the process is gone when the call returns"
    round_thread.join(20.0)
    assert not answers[0].values.any()


def test_after_an_abort_the_next_round_trains_again(make_device: Callable[..., Device]) -> None:
    device = make_device(trains_s=0.5)
    device.probes.user_away_s = 0.0
    assert not contribute(device, trusted(device, 1)).values.any()
    device.probes.user_away_s = AWAY
    assert contribute(device, trusted(device, 2)).values.any()
    assert device.note() == ""
    assert device.said[-1] == "round 2: trained"


def test_a_training_that_fails_is_answered_with_zeros_too(make_device: Callable[..., Device]) -> None:
    device = make_device()
    device.port._training._command = [sys.executable, "-c", "raise SystemExit(3)"]
    assert not contribute(device, trusted(device, 1)).values.any()
    assert device.note() == "the update failed with AgentError"
    assert device.scheduler.document()["last"]["outcome"] == "failed"


def test_what_the_gate_refuses_stays_refused_and_nothing_is_trained(make_device: Callable[..., Device]) -> None:
    device = make_device()
    device.consent.withdraw(PURPOSE)
    with pytest.raises(ConsentError):
        contribute(device, trusted(device, 1))
    assert not device.begun.exists()
    with pytest.raises(ConsentError):
        device.port.answer_stage("", 0, ADVERTISE, signed_plan(plan_of(device)).to_bytes())
    assert not device.port.in_round


def test_a_refusal_in_the_middle_ends_the_round_for_this_device(make_device: Callable[..., Device]) -> None:
    device = make_device()
    plan = plan_of(device)
    device.port.answer_stage("", 0, ADVERTISE, signed_plan(plan).to_bytes())
    assert device.port.in_round
    device.consent.withdraw(PURPOSE)
    with pytest.raises(ConsentError):
        device.port.answer_stage(plan.task, plan.round_id, DRAW, b"")
    assert not device.port.in_round


def test_an_offer_whose_deadline_has_passed_holds_nobody(make_device: Callable[..., Device]) -> None:
    device = make_device()
    device.port.answer_stage("", 0, ADVERTISE, signed_plan(plan_of(device)).to_bytes())
    assert device.port.in_round
    device.port._clock = lambda: NOW_S + 601.0
    assert not device.port.in_round


# -- how long an answer takes ----------------------------------------------------------------------------------------


def test_an_answer_with_zeros_is_held_as_long_as_one_with_a_training(make_device: Callable[..., Device]) -> None:
    device = make_device(trains_s=0.2, hold_s=0.6)
    took = []
    for round_id, away_s in ((1, 0.0), (2, AWAY), (3, 0.0)):
        device.probes.user_away_s = away_s
        hold_s, started_s = device.port.hold_s(), time.monotonic()
        contribute(device, trusted(device, round_id))
        took.append(time.monotonic() - started_s)
        # No answer is quicker than what was promised for it, whether it trained (2) or not (1, 3).
        assert took[-1] >= hold_s
    longest_s = device.scheduler.longest_training_s
    assert longest_s is not None
    assert device.port.hold_s() == 1.25 * longest_s
    # The store is free while an answer is held.
    assert device.store.lock.acquire(blocking=False)
    device.store.lock.release()


def test_no_answer_is_held_for_so_long_that_it_comes_too_late(make_device: Callable[..., Device]) -> None:
    device = make_device(hold_s=60.0)
    started_s = time.monotonic()
    contribute(device, trusted(device, 1, deadline_s=NOW_S + 2))
    assert time.monotonic() - started_s < 30.0


def test_closing_ends_a_hold_and_a_training(make_device: Callable[..., Device]) -> None:
    device = make_device(trains_s=30.0, hold_s=30.0)
    answers: list[Any] = []
    round_thread = threading.Thread(target=lambda: answers.append(contribute(device, trusted(device, 1))))
    round_thread.start()
    await_(device.begun.exists)
    device.port.close()
    round_thread.join(10.0)
    assert not answers[0].values.any()
    assert device.note() == "training stopped: the agent is ending"
    contribute(device, trusted(device, 2))
    assert device.note() == "not trained: the agent is ending"
