"""Accuracy on held-out wording, and what other ways of learning would have reached on the same fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator import replica
from aggregator.modelling import PublicPhrases
from aggregator.population import Population
from aggregator.releases.intent_head import ServerOptimizer
from privacy.policy import ContributionLimits
from shared_models.domain import Utterance
from shared_models.intent_head import fit_seed_head

Features = Mapping[str, npt.NDArray[np.float32]]
"""text → centred unit features [D]"""


@dataclass(frozen=True)
class HeldOut:
    """Utterances to measure on."""

    features: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, utterances: Sequence[Utterance], labels: Sequence[str], features: Features) -> HeldOut:
        index = {label: number for number, label in enumerate(labels)}
        rows = np.stack([features[utterance.text] for utterance in utterances])
        return cls(rows, np.array([index[utterance.intent] for utterance in utterances], np.int64))

    def accuracy(self, weights: npt.NDArray[np.float32]) -> float:
        """Share 0..1 that a head with `weights` [C, D] gets right."""
        return float(self.right(weights).mean())

    def right(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """[n]: which utterances a head with `weights` [C, D] gets right."""
        right: npt.NDArray[np.bool_] = np.argmax(self.features @ weights.T, axis=1) == self.targets
        return right


@dataclass(frozen=True)
class Comparison:
    """Accuracies 0..1 of four ways to learn from the same users."""

    seed_phrases: float
    federated: float
    federated_not_private: float
    central_not_private: float


def compare(
    phrases: PublicPhrases,
    population: Population,
    features: Features,
    limits: ContributionLimits,
    rounds: int,
    optimizer: ServerOptimizer,
) -> Comparison:
    """All four, by the replica (the same arithmetic, without devices)."""
    assert limits.local is not None
    labels = phrases.domain.labels
    index = {label: number for number, label in enumerate(labels)}
    clients = [
        replica.ReplicaClient(
            np.stack([features[utterance.text] for utterance in said]),
            np.array([index[utterance.intent] for utterance in said], np.int64),
        )
        for said in population.users
    ]
    seeds = phrases.seed_weights()
    held_out = HeldOut.of(population.held_out, labels, features)

    def trained(noise_multiplier: float) -> float:
        settings = replica.ReplicaSettings(rounds, limits.clip_norm, noise_multiplier, limits.local, optimizer)
        return held_out.accuracy(replica.train(labels, seeds, clients, settings).released_weights())

    together = np.concatenate([phrases.seeds, *(client.features for client in clients)])
    targets = np.concatenate([phrases.targets, *(client.targets for client in clients)])
    return Comparison(
        held_out.accuracy(seeds),
        trained(limits.noise_multiplier),
        trained(0.0),
        held_out.accuracy(fit_seed_head(together, targets, len(labels), steps=60)),
    )
