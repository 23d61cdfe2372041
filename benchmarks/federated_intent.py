"""A fleet learns CLINC150's 150 intents: accuracy of the released head by population, epsilon and public phrases.

Every simulated client takes part in all T rounds (k = T), so nothing is amplified: epsilon is the zCDP headline for k
participations at delta = N^-1.1. Updates pass the gate's own clipping and rounding (aggregator.replica). Populations above the
number of distinct clients are `projected`: each client stands for N/clients users, the noise is that of N. The sum's noise is
drawn once, as rounded normals from a seed: at these widths (over 2^14) no figure here can tell it from the exact sampler, and
figures can be had again. What is not drawn anew for each seed: the validation set of CLINC150, on which accuracy is measured.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.fleet import load_encoder
from aggregator.releases.intent_head import ServerOptimizer
from aggregator.replica import NoiseSampler, ReplicaClient, ReplicaSettings, train
from benchmarks.harness import Options, Row, main, read_jsonl
from privacy.accounting import default_delta, noise_multiplier_for
from shared_models.domain import TRAVEL, load_domain
from shared_models.encoder import build_encoder
from shared_models.intent_head import center_from, features, fit_seed_head
from shared_models.wire import LocalTraining

ROUNDS = 12
CLIP_NORM = 0.3
LOCAL = LocalTraining(max_grad_norm=8.0, expected_batch=16, sample_rate=1.0, noise_multiplier=0.0)
SEEDS_PER_INTENT = 10
CENTRAL = "not private, central"
FEDERATED = "not private, federated"
GOAL = "goal"


@dataclass(frozen=True)
class Embedded:
    """CLINC150 as unit vectors of the int8 encoder."""

    labels: tuple[str, ...]
    train: np.ndarray
    train_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray
    public: np.ndarray
    """The shipped domain's phrases: where a fleet without phrases of its own takes its centre from."""


@dataclass(frozen=True)
class Fleet:
    """What a fleet starts from, and its clients."""

    clients: tuple[ReplicaClient, ...]
    start: np.ndarray
    center: np.ndarray


def run(options: Options) -> list[Row]:
    data = embedded(options)
    if data is None:
        return []
    distinct = options.pick(200, 1000, 1000)
    seeds = options.pick(1, 1, 3)
    populations = (20_000,) if options.quick else (1000, 5000, 20_000)
    epsilons = (1.0,) if options.quick else (1.0, 2.0, 4.0, 8.0)
    options.say("not private, central: a head fitted to all of the training set")
    center = center_from(data.train)
    central = _accuracy(
        data,
        fit_seed_head(features(data.train, center), data.train_classes, len(data.labels), l2=1e-6, steps=150),
        center,
    )
    rows = []
    for phrases in (True,) if options.quick else (True, False):
        fleets = [dealt(data, distinct, phrases, seed) for seed in range(seeds)]
        name = f"{SEEDS_PER_INTENT} phrases/intent" if phrases else "no phrases"
        options.say(f"not private, federated, {name}")
        federated = _mean([_trained(data, fleet, distinct, 0.0, phrases, seed) for seed, fleet in enumerate(fleets)])
        if phrases:
            alone = _mean([_accuracy(data, fleet.start, fleet.center) for fleet in fleets])
            rows.append(Row(f"{name} alone, nobody takes part", "accuracy", "%", alone, CENTRAL, central, seeds))
        rows.append(Row(f"{name}, T={ROUNDS}, no noise, no clip", "accuracy", "%", federated, CENTRAL, central, seeds))
        for population in populations:
            for epsilon in epsilons:
                kind = "" if population == distinct else f" projected from {distinct:,}"
                case = f"N={population:,}{kind}, eps={epsilon:g}, {name}, T=k={ROUNDS}"
                options.say(case)
                multiplier = noise_multiplier_for(epsilon, default_delta(population), ROUNDS)
                is_goal = population == 20_000 and epsilon == 1.0 and phrases
                # Which phrases are public moves the figure by half a point: the one with a goal is a mean of three.
                dealings = [
                    *fleets,
                    *(
                        dealt(data, distinct, phrases, seed)
                        for seed in range(seeds, 3)
                        if is_goal and not options.quick
                    ),
                ]
                found = _mean(
                    [
                        _trained(data, fleet, population, multiplier, phrases, seed)
                        for seed, fleet in enumerate(dealings)
                    ]
                )
                rows.append(Row(case, "accuracy", "%", found, CENTRAL, central, len(dealings)))
                rows.append(Row(case, "accuracy", "%", found, FEDERATED, federated, len(dealings)))
                if is_goal:
                    rows.append(Row(case, "accuracy", "%", found, GOAL, 94.4, len(dealings)))
    return rows


def embedded(options: Options) -> Embedded | None:
    """Encode once; later runs with the same encoder and texts read the vectors from the temporary folder."""
    paths = [options.path(f"intents/clinc150_{part}.jsonl.gz", "CLINC150") for part in ("train", "val")]
    if paths[0] is None or paths[1] is None:
        return None
    learned, held_out = read_jsonl(paths[0]), read_jsonl(paths[1])
    if options.quick:
        # 200 clients of 15 and the public phrases; a fifth of the validation set.
        learned, held_out = learned[::3], held_out[::5]
    domain = load_domain(TRAVEL)
    texts = [row["text"] for row in (*learned, *held_out)] + [text for spec in domain.intents for text in spec.seeds]
    labels = tuple(sorted({row["intent"] for row in learned}))
    number = {label: place for place, label in enumerate(labels)}
    classes = np.array([number[row["intent"]] for row in (*learned, *held_out)])
    vectors = encoded(options, texts)
    first, second = len(learned), len(learned) + len(held_out)
    return Embedded(
        labels, vectors[:first], classes[:first], vectors[first:second], classes[first:second], vectors[second:]
    )


def encoded(options: Options, texts: Sequence[str]) -> np.ndarray:
    """Vectors [n, 384] of the int8 encoder, kept in the temporary folder under the hash of encoder and texts."""
    encoder = load_encoder(build_encoder())
    digest = hashlib.sha256("\n".join([encoder.sha256, *texts]).encode()).hexdigest()[:32]
    cached = Path(tempfile.gettempdir()) / "tacit-bench" / f"vectors-{digest}.npy"
    if cached.is_file():
        return np.load(cached, allow_pickle=False)
    options.say(f"{len(texts):,} texts through the int8 encoder")
    vectors = encoder.encode(texts, threads=2)
    cached.parent.mkdir(exist_ok=True)
    partial = cached.with_suffix(".partial.npy")
    np.save(partial, vectors)
    partial.replace(cached)
    return vectors


def dealt(data: Embedded, distinct: int, phrases: bool, seed: int) -> Fleet:
    """Deal the training set, less the public phrases, to `distinct` clients: 15 utterances each where there are enough."""
    order = np.random.default_rng(seed).permutation(len(data.train_classes))
    classes = len(data.labels)
    if phrases:
        public = np.concatenate(
            [order[data.train_classes[order] == label][:SEEDS_PER_INTENT] for label in range(classes)]
        )
        order = order[~np.isin(order, public)]
        center = center_from(data.train[public])
        start = fit_seed_head(features(data.train[public], center), data.train_classes[public], classes)
    else:
        center, start = center_from(data.public), np.zeros((classes, data.train.shape[1]), np.float32)
    own = features(data.train, center)
    parts = np.array_split(order[: distinct * 15], distinct)
    return Fleet(tuple(ReplicaClient(own[part], data.train_classes[part]) for part in parts), start, center)


def learning_rate(population: int, noise_multiplier: float, phrases: bool) -> float:
    """One rule for all cells, from public quantities only: the less noise per user, the longer the steps, up to a limit.

    The limit and the two slopes were chosen on this task; a model that starts from zero needs longer steps.
    """
    if noise_multiplier == 0.0:
        return 30.0 / CLIP_NORM
    return min(30.0, population / noise_multiplier / (35.0 if phrases else 17.0)) / CLIP_NORM


def repeatable_noise(seed: int) -> NoiseSampler:
    """Rounded normals from a seed: for measuring only, never for a release."""
    random = np.random.default_rng([seed, 11])
    return lambda variance, size: np.rint(random.normal(scale=np.sqrt(variance), size=size)).astype(np.int64)


def _trained(data: Embedded, fleet: Fleet, population: int, noise_multiplier: float, phrases: bool, seed: int) -> float:
    rate = learning_rate(population, noise_multiplier, phrases)
    settings = ReplicaSettings(
        ROUNDS,
        CLIP_NORM,
        noise_multiplier,
        LOCAL,
        ServerOptimizer(learning_rate=rate, momentum=0.0, tail_rounds=ROUNDS // 3),
        represented=population // len(fleet.clients),
    )
    released = train(data.labels, fleet.start, fleet.clients, settings, sampler=repeatable_noise(seed))
    return _accuracy(data, released.released_weights(), fleet.center)


def _accuracy(data: Embedded, weights: np.ndarray, center: np.ndarray) -> float:
    chosen = (features(data.test, center) @ weights.T).argmax(axis=1)
    return 100.0 * float((chosen == data.test_classes).mean())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main("federated_intent", run)
