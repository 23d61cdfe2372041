"""The gate of a whole device: its store is the gate's memory, its consents are asked, its examples are the source.

This is the only place where `EdgeClient` and `privacy.gate` meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_client.share.contributing import GatePort
from edge_client.share.port import Trainer
from privacy.gate import Gate, SealedContribution
from shared_models.canonical import Envelope
from shared_models.errors import PolicyError
from shared_models.intent_head import HeadSession, features

if TYPE_CHECKING:
    from edge_client.client import EdgeClient

GATE_TABLE = "gate"


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


class ClientPort:
    """Implements `DevicePort` for an `EdgeClient`; takes over a newer policy from the active bundle before each answer."""

    def __init__(self, client: EdgeClient) -> None:
        """Raises PolicyError if the bundle's policy is not the pinned officer's."""
        self._client = client
        self.gate = open_gate(client)
        self._port = GatePort(self.gate, ClientExamples(client))

    def contribute(
        self, plan: Envelope, labels: Sequence[str], weights: npt.NDArray[np.float32], trainer: Trainer
    ) -> SealedContribution:
        with self._lock():
            adopt_published_policy(self._client, self.gate)
            return self._port.contribute(plan, labels, weights, trainer)

    def _lock(self) -> AbstractContextManager[Any]:
        return self._client.store.lock


def open_gate(client: EdgeClient) -> Gate:
    """The device's gate, with the policy of the active bundle taken over if it is newer. Raises PolicyError."""
    gate = Gate(
        officer_key=client.trust.officer_key,
        consent=client.consent,
        memory=client.store.table(GATE_TABLE),
        clock=client.config.clock,
    )
    adopt_published_policy(client, gate)
    return gate


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
