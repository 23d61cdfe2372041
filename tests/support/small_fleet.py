"""A small learning fleet for tests of rounds and of their state: real gates, policy and messages; 5 classes, 16 features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nacl.signing
import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message

from aggregator.checkpoint import FleetState
from aggregator.grid import InProcessGrid
from aggregator.replica import ReplicaClient, client_update
from aggregator.rounds import RoundRunner
from aggregator.simulate import FixedExamples, light_port
from edge_client.share.agent.client_app import make_client_app
from edge_client.share.port import DevicePort
from privacy.enrolment import Certificate, issue_certificate
from privacy.policy import Policy, parse_policy, sign_policy
from privacy.policy_text import PolicyDraft, draft_policy
from shared_models.canonical import Envelope
from shared_models.wire import LocalTraining

LABELS = ("book", "cancel", "change", "pay", "ask")
FEATURES = 16
ENCODER = "ab" * 32
OFFICER = nacl.signing.SigningKey(bytes(range(32)))
AGGREGATOR = nacl.signing.SigningKey(bytes(range(1, 33)))
AUTHORITY = nacl.signing.SigningKey(bytes(range(2, 34)))
NOW_S = 1_760_000_000.0
Handler = Callable[[Message, Context], Message]


def signed_policy(change: Mapping[str, str] | None = None, **draft: Any) -> Envelope:
    """Policy of the fleet `small`; `change` replaces pieces of its text."""
    fields: dict[str, Any] = dict(epsilon=4.0, participations=500, population=1000, min_survivors=3)
    wish = PolicyDraft("small", bytes(AGGREGATOR.verify_key), **{**fields, **draft})
    text = draft_policy(wish, datetime.fromtimestamp(NOW_S, UTC))
    for old, new in (change or {}).items():
        assert old in text
        text = text.replace(old, new)
    return sign_policy(text, OFFICER)


def examples(seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Unit features [n, 16] around one direction for each class, and their classes [n]."""
    random = np.random.default_rng([seed, 5])
    directions = np.random.default_rng(0).normal(size=(len(LABELS), FEATURES))
    targets = random.integers(0, len(LABELS), size=3 + seed % 5)
    rows = directions[targets] + 0.5 * random.normal(size=(len(targets), FEATURES))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), targets


def closed_form(
    local: LocalTraining,
    features: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    """A trainer without torch: the replica's closed form."""
    return client_update(ReplicaClient(features, targets), weights, local)


@dataclass
class SmallFleet:
    """Light devices 0..n-1 on one policy, and the aggregator's side of them."""

    devices: int = 6
    policy_envelope: Envelope = field(default_factory=signed_policy)
    now_s: float = NOW_S
    handled: list[int] = field(default_factory=list)
    """Partition ids of the devices that a message has reached, in order."""

    def __post_init__(self) -> None:
        self._ports: dict[int, DevicePort] = {}
        self.behaviours: dict[int, Callable[[Message, Context, Handler], Message]] = {}
        """How devices that are not honest answer: (message, context, honest app) -> reply."""

    def clock(self) -> float:
        return self.now_s

    @property
    def policy(self) -> Policy:
        return parse_policy(self.policy_envelope, bytes(OFFICER.verify_key))

    def port(self, index: int) -> DevicePort:
        if index not in self._ports:
            features, targets = examples(index)
            source = FixedExamples(ENCODER, features, [LABELS[target] for target in targets])
            officer = bytes(OFFICER.verify_key)
            self._ports[index] = light_port(source, self.policy_envelope, officer, self.clock, self._certify())
        return self._ports[index]

    def _certify(self) -> Callable[[bytes], Certificate] | None:
        if self.policy.enrolment_key is None:
            return None
        return lambda identity: issue_certificate(
            AUTHORITY, "small", identity, int(self.now_s) - 10, int(self.now_s) + 86_400
        )

    def grid(self, trainer: Any = closed_form, **options: Any) -> InProcessGrid:
        honest = make_client_app(lambda context: self.port(int(context.node_config["partition-id"])), trainer)

        def app(message: Message, context: Context) -> Message:
            index = int(context.node_config["partition-id"])
            self.handled.append(index)
            behave = self.behaviours.get(index)
            return behave(message, context, honest) if behave else honest(message, context)

        return InProcessGrid(app, self.devices, **options)

    def state(self, location: Path | str) -> FleetState:
        state = FleetState(location, AGGREGATOR, clock=self.clock)
        if state.last_entry is None:
            body = {
                "fleet": "small",
                "officer_key": bytes(OFFICER.verify_key).hex(),
                "policy": self.policy_envelope.document(),
            }
            state.append("genesis", body)
        return state

    def runner(self, state: FleetState) -> RoundRunner:
        """A runner whose first checkpoint, a model of zeros, is there."""
        runner = RoundRunner(state, self.policy, AGGREGATOR, ENCODER, clock=self.clock)
        if state.checkpoint() is None:
            runner.begin(LABELS, np.zeros((len(LABELS), FEATURES), np.float32), 0)
        return runner
