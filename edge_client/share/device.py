"""The gate of a whole device: its store is the gate's memory, its consents are asked, its examples are the source.

This is the only place where `EdgeClient` and `privacy.gate` meet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_client.share.contributing import GatePort
from edge_client.share.port import Trainer
from edge_client.share.sources import Sources
from privacy.gate import Gate, NoiseSampler, SealedContribution, SealedMessage
from privacy.mechanisms import sample_discrete_gaussian
from shared_models.canonical import Envelope
from shared_models.errors import PolicyError, TacitError
from shared_models.intent_head import HeadSession, features

if TYPE_CHECKING:
    from edge_client.client import EdgeClient

GATE_TABLE = "gate"
LOOK_EVERY_S = 3600.0
LOOK_BEFORE_ROUND_S = 60.0
"""A round that comes later than this after the last look at the bundle waits for another: a halt must not take an hour."""


class ClientExamples:
    """The user's examples as centred unit features; empty unless both purposes are granted."""

    def __init__(self, client: EdgeClient) -> None:
        self._client = client

    @property
    def _head(self) -> HeadSession:
        return self._client.model.head

    @property
    def encoder_hash(self) -> str:
        return self._head.encoder_sha256

    def examples(self) -> tuple[npt.NDArray[np.float32], Sequence[str]]:
        embeddings, intents = self._client.training_examples()
        return features(embeddings, self._head.center), intents


def client_sources(client: EdgeClient) -> Sources:
    """All that this device can contribute from. What the user did not allow to be kept is empty in it."""
    from edge_client.know.outcomes import Outcomes

    taste = client._talk.taste()
    groups = Outcomes(client.store, client.consent, client.profile, client.schema.slices, client.config.clock)
    return Sources(ClientExamples(client), taste, taste, taste, drift=client.improvement.watch, groups=groups)


class ClientPort:
    """Implements `DevicePort` for an `EdgeClient`; takes over a newer policy from the active bundle before each answer."""

    def __init__(self, client: EdgeClient, *, noise: NoiseSampler = sample_discrete_gaussian) -> None:
        """`noise`: only simulations give another than the exact sampler.

        Raises PolicyError if the bundle's policy is not the pinned officer's.
        """
        self._client = client
        self.gate = open_gate(client, noise)
        self._port = GatePort(self.gate, client_sources(client))

    def answer_stage(self, task: str, round_id: int, stage: str, body: bytes) -> SealedMessage:
        with self._lock():
            adopt_published_policy(self._client, self.gate)
            return self._port.answer_stage(task, round_id, stage, body)

    def contribute(
        self,
        plan: Envelope,
        labels: Sequence[str],
        weights: npt.NDArray[np.float32],
        trainer: Trainer,
        request: bytes = b"",
    ) -> SealedContribution:
        with self._lock():
            adopt_published_policy(self._client, self.gate)
            return self._port.contribute(plan, labels, weights, trainer, request)

    def _lock(self) -> AbstractContextManager[Any]:
        return self._client.store.lock


class WatchedPort:
    """A `DevicePort` that looks for a newer bundle, and so for a newer policy, before it answers. `look()` may be called by any
    thread; a source that cannot be reached changes nothing, for a policy expires by itself.
    """

    def __init__(self, client: EdgeClient, source: str, tell: Callable[[str], None]) -> None:
        """`tell` gets one line whenever what it would say has changed. Raises PolicyError."""
        self._client = client
        self._port = client.device_port()
        self._source = source
        self._tell = tell
        self._lock = threading.Lock()
        self._looked_s: float | None = None
        self._told = ""

    def answer_stage(self, task: str, round_id: int, stage: str, body: bytes) -> SealedMessage:
        self.look(older_than_s=LOOK_BEFORE_ROUND_S)
        return self._port.answer_stage(task, round_id, stage, body)

    def contribute(
        self,
        plan: Envelope,
        labels: Sequence[str],
        weights: npt.NDArray[np.float32],
        trainer: Trainer,
        request: bytes = b"",
    ) -> SealedContribution:
        self.look(older_than_s=LOOK_BEFORE_ROUND_S)
        return self._port.contribute(plan, labels, weights, trainer, request)

    def look(self, older_than_s: float = 0.0) -> None:
        """Refresh the bundle if the last look is older than that, and take over its policy."""
        with self._lock:
            if self._looked_s is not None and time.monotonic() - self._looked_s < older_than_s:
                return
            self._looked_s = time.monotonic()
            try:
                staleness: str = self._client.refresh(self._source)
                problem = ""
            except TacitError as error:
                staleness, problem = "not refreshed", f": {' '.join(str(error).split())}"
            self._say(staleness, problem)

    def _say(self, staleness: str, problem: str) -> None:
        with self._client.store.lock:
            adopt_published_policy(self._client, self._port.gate)
            policy = self._port.gate.policy
            version = self._client.status()["bundle"].get("version", "none")
        if policy is None:
            rule = "no policy yet, so nothing can leave this device"
        else:
            halted = f", HALTED: {policy.reason or 'no reason given'}" if policy.halted else ""
            rule = f"policy {policy.sequence} in force{halted}"
        line = f"bundle: release {version} {staleness}; {rule}{problem}"
        if line != self._told:
            self._told = line
            self._tell(line)


def open_gate(client: EdgeClient, noise: NoiseSampler = sample_discrete_gaussian) -> Gate:
    """The device's gate, with the policy of the active bundle taken over if it is newer. Raises PolicyError."""
    gate = Gate(
        officer_key=client.trust.officer_key,
        consent=client.consent,
        memory=client.store.table(GATE_TABLE),
        clock=client.config.clock,
        noise=noise,
    )
    adopt_published_policy(client, gate)
    return gate


def purposes_in_policy(client: EdgeClient) -> frozenset[str]:
    """Names of the purposes that the policy in force allows; none without a policy that can be used."""
    try:
        policy = open_gate(client).policy
    except TacitError:
        return frozenset()
    return frozenset() if policy is None else frozenset(policy.purposes)


def adopt_published_policy(client: EdgeClient, gate: Gate) -> None:
    """Take a newer policy from the active bundle into force; an older or equal one changes nothing."""
    published = client.published_policy
    if published is None:
        return
    envelope = Envelope.from_bytes(published)
    if gate.policy is not None and envelope.hash == gate.policy.hash:
        return
    try:
        gate.adopt_policy(envelope)
    except PolicyError:
        # With a policy in force, an older one in a bundle is no news; without one, it has to be usable.
        if gate.policy is None:
            raise
