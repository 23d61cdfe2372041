"""A fleet of simulated users in one process, on the real parts: gates, policies, Opacus, Flower messages, rounds, ledger.

The only file here that imports `edge_client`. Most devices are light: the real gate over a memory that is not durable, and
features instead of text. Some are complete: an `EdgeClient` with an encrypted store, whose utterances came by `feedback()`.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context

from aggregator.grid import ClientFunction, InProcessGrid
from aggregator.population import Population
from aggregator.worker_grid import WorkerGrid
from edge_client import EdgeClient, EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.share.agent.client_app import make_client_app
from edge_client.share.contributing import GatePort
from edge_client.share.device import ClientPort
from edge_client.share.port import DevicePort, Trainer
from edge_client.share.sources import Sources
from privacy.enrolment import Certificate
from privacy.gate import Gate
from privacy.merkle import inclusion_proof, verify_inclusion
from privacy.table_sampler import sample_from_table
from shared_models.canonical import Envelope
from shared_models.purposes import INTENT_MODEL, PERSONAL_LEARNING

Clock = Callable[[], float]
Certify = Callable[[bytes], Certificate]
"""Identity key → the enrolment authority's certificate for it."""

EXACT_DEVICES = 2
"""So many complete devices draw their noise with the exact sampler, as a real device does; 30,000 draws take it a second."""


class VolatileMemory:
    """A `GateMemory` for simulated devices: what a crash would lose is lost."""

    damaged = False

    def __init__(self) -> None:
        self._items: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        return self._items.get(key)

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        self._items[key] = dict(value)

    def entries(self, prefix: str) -> list[dict[str, Any]]:
        return [value for key, value in self._items.items() if key.startswith(prefix)]

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class AlwaysConsenting:
    """The consent of a simulated user: given before the simulation began."""

    def granted_since(self, purpose: str) -> float | None:
        return 0.0

    given_since = granted_since


@dataclass(frozen=True)
class FixedExamples:
    """An `ExampleSource` of features that were computed before."""

    encoder_hash: str
    features: npt.NDArray[np.float32]
    intents: Sequence[str]

    def examples(self) -> tuple[npt.NDArray[np.float32], Sequence[str]]:
        return self.features, self.intents


def light_port(
    source: FixedExamples | Sources,
    policy: Envelope,
    officer_key: bytes,
    clock: Clock,
    certify: Certify | None = None,
) -> GatePort:
    """A light device: the real gate, with the policy taken over; its share of the noise comes from the table sampler."""
    gate = Gate(
        officer_key=officer_key,
        consent=AlwaysConsenting(),
        memory=VolatileMemory(),
        clock=clock,
        noise=sample_from_table,
    )
    gate.adopt_policy(policy)
    if certify is not None:
        gate.install_certificate(certify(gate.identity_key()))
    return GatePort(gate, source)


class SimulatedFleet:
    """Devices 0..N−1; the first `complete` are EdgeClients that live in `folder`, the others light."""

    def __init__(
        self,
        population: Population,
        features: Mapping[str, npt.NDArray[np.float32]],
        encoder_hash: str,
        policy: Envelope,
        officer_key: bytes,
        clock: Clock,
        certify: Certify | None = None,
    ) -> None:
        """`features`: text → centred unit features [D] of all that the light users say. Secure sums need `certify`."""
        self._certify = certify
        self._population = population
        self._features = features
        self._encoder_hash = encoder_hash
        self._policy = policy
        self._officer_key = officer_key
        self._clock = clock
        self._ports: dict[int, DevicePort] = {}
        self.complete: list[EdgeClient] = []

    def open_complete(
        self, folder: Path, bundle: Path, count: int, on_device: Callable[[int], None] | None = None
    ) -> None:
        """Turn the first `count` users into complete devices: encrypted store, consent, every utterance by `feedback()`."""
        # One verified copy of the bundle serves all of them, as one installed app serves all its users on a device.
        shared = EdgeConfig(bundles=BundleStore(folder / "bundle"))
        for index in range(min(count, len(self._population.users))):
            key = secrets.token_bytes(32)
            client = EdgeClient.open(
                folder / f"device-{index:04d}", key=key, bundle=None if index else bundle, config=shared
            )
            self.complete.append(client)
            with client.store.transaction():
                client.consent.grant(PERSONAL_LEARNING.name)
                client.consent.grant(INTENT_MODEL.name)
                for utterance in self._population.users[index]:
                    client.feedback(utterance.text, intent=utterance.intent)
            port = ClientPort(client) if index < EXACT_DEVICES else ClientPort(client, noise=sample_from_table)
            if self._certify is not None:
                port.gate.install_certificate(self._certify(port.gate.identity_key()))
            self._ports[index] = port
            if on_device:
                on_device(index)

    def close(self) -> None:
        for client in self.complete:
            client.close()

    def grid(
        self, trainer: Trainer | None = None, *, lost: Callable[[Any], bool] | None = None, workers: int = 0
    ) -> InProcessGrid:
        """A Flower grid of all devices; light ones may be spread over `workers` more processes."""
        app: ClientFunction = make_client_app(self._port_for, trainer)
        if not workers:
            return InProcessGrid(app, len(self._population.users), lost=lost)
        return WorkerGrid(app, len(self._population.users), workers=workers, own=len(self.complete), lost=lost)

    def receipts_proved(self, leaves: Callable[[int], list[str]], roots: Mapping[int, str]) -> int:
        """How many receipts of the complete devices have a valid inclusion proof under the ledger's roots.

        Raises AssertionError if one has none: then something left a device that the ledger does not know.
        """
        proved = 0
        for client in self.complete:
            for receipt in client.device_port().gate.receipts():
                body = receipt["body"]
                tree = [bytes.fromhex(item) for item in leaves(body["round_id"])]
                leaf, root = bytes.fromhex(body["commitment"]), bytes.fromhex(roots[body["round_id"]])
                position = tree.index(leaf) if leaf in tree else -1
                if position < 0 or not verify_inclusion(
                    leaf, position, len(tree), inclusion_proof(tree, position), root
                ):
                    raise AssertionError(f"a receipt of round {body['round_id']} is not in the ledger")
                proved += 1
        return proved

    def _port_for(self, context: Context) -> DevicePort:
        index = int(context.node_config["partition-id"])
        port = self._ports.get(index)
        if port is None:
            said = self._population.users[index]
            features = np.stack([self._features[utterance.text] for utterance in said])
            source = FixedExamples(self._encoder_hash, features, [utterance.intent for utterance in said])
            port = self._ports[index] = light_port(source, self._policy, self._officer_key, self._clock, self._certify)
        return port


@contextlib.contextmanager
def newcomer(folder: Path, bundle: Path) -> Iterator[EdgeClient]:
    """A device that has never been seen, opened on what is published."""
    with EdgeClient.open(folder, key=bytes(range(32)), bundle=bundle) as client:
        yield client


@contextlib.contextmanager
def privacy_centre(client: EdgeClient) -> Iterator[Callable[[], str]]:
    """The device's own page over HTTP on loopback while the block lasts; gives links that open it once each."""
    from edge_client.sidecar import serving
    from edge_client.sidecar.app import Sidecar
    from edge_client.sidecar.tokens import Apps

    sidecar = Sidecar(client, Apps(client.store.folder))
    with serving.served(sidecar, serving.loopback_socket("127.0.0.1", 0)) as address:
        yield lambda: address + sidecar.centre_path()
