"""What example-level noise on devices would cost the released model, and what it would protect: the policy's second line.

The travel domain, the default policy's constants, N = 2,000 users, 8 rounds at eps = 4 (user-level, zCDP, all take part in all
rounds). Added to each device's update before the gate: noise of `multiplier` x max_grad_norm / expected_batch per coordinate, as
Opacus adds it. The example-level epsilon is that of 8 full-batch steps by dp-accounting's PLD, delta = 1e-5; it protects one
utterance against someone who sees a device's own update, and is a weaker unit than the user-level figure: never beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from aggregator.checkpoint import Checkpoint
from aggregator.population import population_from_domain
from aggregator.releases.intent_head import ServerOptimizer
from aggregator.replica import ReplicaClient, client_update, gate_integers
from benchmarks.federated_intent import encoded, repeatable_noise
from benchmarks.harness import Options, Row, main
from privacy.accounting import default_delta, noise_multiplier_for, pld_epsilon
from privacy.mechanisms import NoisySum
from privacy.policy_text import CLIP_NORM, LOCAL_EXPECTED_BATCH, LOCAL_MAX_GRAD_NORM
from shared_models.domain import TRAVEL, load_domain
from shared_models.intent_head import center_from, features, fit_seed_head
from shared_models.wire import LocalTraining, noise_variance_for

USERS = 2000
ROUNDS = 8
EPSILON = 4.0
EXAMPLE_DELTA = 1e-5
MULTIPLIERS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
MOST_LOST = 0.5


def run(options: Options) -> list[Row]:
    users, seeds = options.pick(300, USERS, USERS), options.pick(1, 2, 5)
    multipliers = (0.0, 0.05, 1.0) if options.quick else MULTIPLIERS
    domain = load_domain(TRAVEL)
    texts = sorted(
        {text for spec in domain.intents for text in spec.seeds}
        | {utterance.text for spec in domain.intents for utterance in (*spec.train, *spec.test)}
    )
    vectors = dict(zip(texts, encoded(options, texts), strict=True))
    number = {label: place for place, label in enumerate(domain.labels)}
    phrases = [(text, place) for place, spec in enumerate(domain.intents) for text in spec.seeds]
    public = np.stack([vectors[text] for text, _ in phrases])
    center = center_from(public)
    start = fit_seed_head(features(public, center), np.array([place for _, place in phrases]), len(domain.labels))
    found: dict[float, list[float]] = {multiplier: [] for multiplier in multipliers}
    for seed in range(seeds):
        population = population_from_domain(domain, users, seed)

        def client(said: Sequence, chosen=number) -> ReplicaClient:
            rows = features(np.stack([vectors[utterance.text] for utterance in said]), center)
            return ReplicaClient(rows, np.array([chosen[utterance.intent] for utterance in said]))

        clients = [client(said) for said in population.users]
        held_out = client(population.held_out)
        for multiplier in multipliers:
            options.say(f"seed {seed}, local noise {multiplier:g}")
            weights = trained(domain.labels, start, clients, multiplier, seed)
            hits = (held_out.features @ weights.T).argmax(axis=1) == held_out.targets
            found[multiplier].append(100.0 * float(hits.mean()))
    without = float(np.mean(found[0.0]))
    rows = []
    affordable = 0.0
    for multiplier in multipliers:
        mean = float(np.mean(found[multiplier]))
        case = f"local noise {multiplier:g}, N={users:,}, T=k={ROUNDS}, eps={EPSILON:g}"
        rows.append(Row(case, "accuracy", "%", mean, "no local noise", without, seeds))
        if multiplier:
            rows.append(Row(case, "points lost", "points", without - mean, "goal", MOST_LOST, seeds))
            rows.append(Row(case, "example-level epsilon of one device's updates", "", example_epsilon(multiplier)))
            if without - mean <= MOST_LOST:
                affordable = max(affordable, multiplier)
    case = f"largest local noise that costs at most {MOST_LOST} points"
    rows.append(Row(case, "multiplier", "x max_grad_norm", affordable, seeds=seeds))
    if affordable:
        rows.append(Row(case, "example-level epsilon", "", example_epsilon(affordable)))
    return rows


def example_epsilon(multiplier: float) -> float:
    """ε of one utterance over all rounds of full-batch steps; the discretised PLD gives out above some thousands: inf."""
    return pld_epsilon([multiplier] * ROUNDS, EXAMPLE_DELTA) if multiplier >= 0.05 else zcdp_epsilon(multiplier)


def zcdp_epsilon(multiplier: float) -> float:
    """The zCDP bound, for noise so small that a grid of privacy losses would not fit into memory."""
    from privacy.accounting import epsilon_from_rho

    return epsilon_from_rho(ROUNDS / (2.0 * multiplier**2), EXAMPLE_DELTA)


def trained(
    labels: Sequence[str], start: np.ndarray, clients: Sequence[ReplicaClient], multiplier: float, seed: int
) -> np.ndarray:
    """The released weights: as `aggregator.replica.train`, with each device's own noise before the gate's clipping."""
    local = LocalTraining(LOCAL_MAX_GRAD_NORM, LOCAL_EXPECTED_BATCH, 1.0, multiplier)
    variance = noise_variance_for(noise_multiplier_for(EPSILON, default_delta(len(clients)), ROUNDS))
    random, sampler = np.random.default_rng([seed, 5]), repeatable_noise(seed)
    scale = np.float32(multiplier * local.max_grad_norm / local.expected_batch)
    zeros = np.zeros(start.shape)
    checkpoint = Checkpoint(tuple(labels), start.astype(np.float32), zeros, zeros, 0, 1, 0, ROUNDS)
    optimizer = ServerOptimizer()
    for _ in range(ROUNDS):
        total = np.zeros(start.size)
        for client in clients:
            update = client_update(client, checkpoint.weights, replace(local, noise_multiplier=0.0))
            if multiplier:
                update = update + scale * random.standard_normal(start.size, dtype=np.float32)
            total += gate_integers(update, CLIP_NORM)
        values = total.astype(np.int64) + sampler(variance, start.size)
        checkpoint = optimizer.step(checkpoint, NoisySum(values, len(clients), variance, CLIP_NORM))
    return checkpoint.released_weights()


if __name__ == "__main__":
    main("local_noise", run)
