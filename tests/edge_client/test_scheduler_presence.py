"""Being online: left between rounds only, for a pause or the network's cost, and never for what the user does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scheduled_device import (
    LABELS,
    Device,
    alive,
    await_,
    devices_in,
    never,
    plan_of,
    signed_plan,
    signed_policy,
    trusted,
)

from edge_client.share.agent.fleet import FleetConfig, FleetState, new_node_key
from edge_client.share.agent.process import AgentLimits, AgentProcess
from edge_client.share.presence import Presence
from edge_client.share.probes import Network, Power
from privacy.secure_sum.messages import ADVERTISE, DRAW
from shared_models.errors import HaltedError

CARRIER = """
import os, sys, time
import numpy as np
from edge_client.share.agent.child import claim_standard_streams
from edge_client.share.agent.pipe import PREAMBLE, Frame, read_frame, write_frame
source, sink = claim_standard_streams()
sink.write(PREAMBLE); sink.flush()
read_frame(source)
def say(kind, body=None, arrays=None, blobs=None): write_frame(sink, Frame(kind, body or {}, arrays or {}, blobs or {}))
say("state", {"state": "ready", "error": None})
"""


def carrier(script: str, port: Any, **values: object) -> AgentProcess:
    certificate = b"-----BEGIN CERTIFICATE-----\nnot read by these children\n-----END CERTIFICATE-----\n"
    given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    return AgentProcess(
        FleetConfig("localhost:1", certificate, new_node_key()[0]),
        port,
        limits=AgentLimits(start_s=20.0, stop_s=1.0, first_pause_s=0.05, restarts=1),
        command=[sys.executable, "-c", given + CARRIER + script],
    )


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    with devices_in(tmp_path) as make:
        yield make


def test_the_process_that_carries_the_answer_survives_the_abort_and_never_sees_the_data(
    make_device: Callable[..., Device], tmp_path: Path
) -> None:
    device = make_device(trains_s=30.0)
    script = (
        "say('round', {'plan': PLAN, 'labels': LABELS}, {'weights': np.zeros((3, 4), np.float32)}, {'request': b''})\n"
        "frame = read_frame(source)\n"
        "assert frame.kind == 'sealed' and not frame.array('values', 'uint32', 1).any(), frame\n"
        "say('reply', {'delivered': True})\nread_frame(source)\n"
    )
    agent = carrier(script, device.port, PLAN=trusted(device, 1).document(), LABELS=list(LABELS))
    with agent:
        await_(device.begun.exists)
        before, trainer = agent.pid, device.training.pid
        assert before != trainer
        device.probes.user_away_s = 0.0
        await_(lambda: agent.settled == 1)
        assert (agent.answered, agent.delivered, agent.pid) == (1, 1, before)
    assert trainer is not None
    assert not alive(trainer)


def test_a_pause_takes_the_device_offline_between_rounds_only(make_device: Callable[..., Device]) -> None:
    device = make_device()
    plan = plan_of(device)
    looks: list[int] = []
    said: list[str] = []
    agent = carrier("read_frame(source)\n", device.port)
    presence = Presence(agent, device.port, device.scheduler, lambda: looks.append(1), said.append, look_every_s=0.0)
    try:
        presence.look()
        agent.wait_for(FleetState.READY, timeout_s=20)
        device.port.answer_stage("", 0, ADVERTISE, signed_plan(plan).to_bytes())
        device.scheduler.pause()
        for _ in range(3):
            presence.look()
        assert agent.state is FleetState.READY, "keys were offered: the round is waited for"
        assert said == ["offline between rounds: paused by you"]
        # A halt ends the round for this device.
        device.gate.adopt_policy(signed_policy({**device.document, "sequence": 2, "halted": True}))
        with pytest.raises(HaltedError):
            device.port.answer_stage(plan.task, plan.round_id, DRAW, b"")
        presence.look()
        assert agent.state is FleetState.STOPPED
        assert agent.pid is None
        device.scheduler.resume()
        presence.look()
        agent.wait_for(FleetState.READY, timeout_s=20)
        assert looks == [1, 1], "a newer policy is looked for before each start"
    finally:
        agent.stop()


def test_a_device_that_starts_paused_or_metered_does_not_even_look_for_a_policy(
    make_device: Callable[..., Device],
) -> None:
    device = make_device()
    device.probes.connected_by = Network.METERED
    agent = carrier("read_frame(source)\n", device.port)
    presence = Presence(agent, device.port, device.scheduler, never, [].append, look_every_s=0.0)
    presence.look()
    device.scheduler.pause()
    device.probes.connected_by = Network.UNMETERED
    presence.look()
    assert agent.pid is None


def test_the_users_presence_and_power_do_not_take_the_device_offline(make_device: Callable[..., Device]) -> None:
    device = make_device()
    agent = carrier("read_frame(source)\n", device.port)
    presence = Presence(agent, device.port, device.scheduler, lambda: None, [].append, look_every_s=0.0)
    try:
        presence.look()
        agent.wait_for(FleetState.READY, timeout_s=20)
        before = agent.pid
        device.probes.user_away_s, device.probes.fed_by = 0.0, Power.BATTERY
        device.scheduler.user_is_active()
        for _ in range(3):
            presence.look()
        assert agent.pid == before
    finally:
        agent.stop()
