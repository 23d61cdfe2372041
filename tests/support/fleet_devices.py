"""A served fleet and devices with honest ports, for tests of the transport: real processes, real TLS, a real SuperLink."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nacl.signing
import numpy as np
import numpy.typing as npt

from aggregator.certificates import create_fleet_ca
from aggregator.deployment import FleetServer
from edge_client.share.agent.fleet import FleetConfig, new_node_key
from edge_client.share.agent.process import AgentLimits, AgentProcess
from edge_client.share.port import Trainer
from privacy.clipping import clip_l2, discretise, to_ring
from shared_models.canonical import Envelope
from shared_models.errors import PolicyError
from shared_models.wire import RoundPlan

SUPPORT = Path(__file__).parent
LIGHT_AGENT = [sys.executable, str(SUPPORT / "light_agent.py")]
ROUND_KEY = bytes(nacl.signing.SigningKey(bytes(range(32))).verify_key)
"""Signs the plans of small_round."""


@dataclass(frozen=True)
class SealedValues:
    """What a gate would seal."""

    task: str
    round_id: int
    plan_hash: str
    nonce: str
    values: npt.NDArray[np.uint32]
    proof: bytes = b""


class HonestPort:
    """Verifies the plan, trains on a few features, clips and discretises: what a gate does but the consent and the books."""

    def __init__(self, seed: int, *, before: Callable[[], None] | None = None, refuse: bool = False) -> None:
        """`before` runs when a round has arrived, before it is answered."""
        random = np.random.default_rng(seed)
        self.features = random.normal(size=(5, 16)).astype(np.float32)
        self.targets = random.integers(0, 3, 5)
        self.before = before
        self.refuse = refuse
        self.sealed: dict[int, npt.NDArray[np.uint32]] = {}

    def contribute(
        self,
        plan: Envelope,
        labels: Sequence[str],
        weights: npt.NDArray[np.float32],
        trainer: Trainer,
        request: bytes = b"",
    ) -> SealedValues:
        accepted = RoundPlan.from_envelope(plan, ROUND_KEY)
        if self.before:
            self.before()
        if self.refuse:
            raise PolicyError("canary-reason: the plan exceeds the policy")
        assert accepted.local is not None
        update = trainer(accepted.local, self.features, self.targets, weights)
        values = to_ring(discretise(clip_l2(update, accepted.clip_norm)).values)
        self.sealed[accepted.round_id] = values
        return SealedValues(accepted.task, accepted.round_id, accepted.hash, "ab" * 16, values)


@contextmanager
def served(directory: Path) -> Iterator[FleetServer]:
    """A fleet on a free port; its ServerApps find the modules of tests/support."""
    create_fleet_ca(directory, ["fleet.example"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(SUPPORT)
    try:
        with FleetServer(directory, port=0) as server:
            yield server
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def fleet_config(server: FleetServer, **options: Any) -> FleetConfig:
    """The way of a freshly enrolled device to `server`."""
    private, public = new_node_key()
    with server.link.control() as control:
        control.register_node(public)
    quick = {"heartbeat_interval_s": 10.0, "poll_interval_s": 0.2, "contribution_grid_s": 1.0}
    options = {**quick, "log_level": "DEBUG", **options}
    return FleetConfig(server.address, server.link.authority_pem, private, **options)


def agent(
    config: FleetConfig, port: Any, folder: Path, name: str, *, command: Sequence[str] | None = None
) -> AgentProcess:
    limits = AgentLimits(first_pause_s=0.2)
    return AgentProcess(
        config,
        port,
        limits=limits,
        log_path=folder / f"{name}.log",
        command=LIGHT_AGENT if command is None else command,
    )
