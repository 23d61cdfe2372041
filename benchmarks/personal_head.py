"""What a night gains: a user whose words differ from the public phrases, before and after the head was tuned on the device.

The travel domain's own registers (colloquial, terse, with typos, indirect, emotional, not a native speaker) are such users: each
teaches some sentences of a dozen intents, in one register, and is tried on other sentences of that register. What is forgotten is
read on public phrases that neither the published head nor the replay has seen (a third of the seed phrases), and on phrases that
mean nothing. A sentence counts as right if its intent is found and it is not turned away. The head is tuned by the product's own
code (improve/head_tuning.py, Opacus), with its own decision whether the outcome is used. The peer is the published head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import Options, Row, main
from edge_client.improve.head_tuning import Lessons, head_weights, held_out_of, tune
from edge_client.improve.personal_head import stated_epsilon
from privacy.dpsgd import HeadTuner
from shared_models.domain import TRAVEL, load_domain
from shared_models.encoder import build_encoder
from shared_models.intent_head import (
    HeadSession,
    IntentHead,
    calibrate_logits,
    center_from,
    cross_validated_logits,
    energies,
    features,
    fit_seed_head,
    logits,
    to_onnx,
)
from shared_models.local_tuning import LocalTuning
from shared_models.text_encoder import TextEncoder

REGISTERS = ("colloquial", "terse", "typos", "indirect", "emotional", "non_native")
INTENTS = 12
PUBLISHED = "published head"


@dataclass(frozen=True, eq=False)
class World:
    head: HeadSession
    weights: Any
    """[classes, D], as the published head works with them."""
    said: Any
    """[n] features of sentences in registers, with classes, registers and texts beside."""
    classes: Any
    registers: Any
    texts: list[str]
    public: Any
    public_classes: Any
    public_test: Any
    public_test_classes: Any
    outside: Any
    outside_test: Any


def run(options: Options) -> list[Row]:
    options.say("encoding the travel domain")
    world = _world(options)
    rows = []
    users = options.pick(6, 18, 60)
    for taught in (20, 60) if options.quick else (20, 40, 80):
        for noise in (0.0, 1.0, 3.0) if taught != 20 else (0.0,):
            options.say(f"{users} users who taught {taught} sentences, noise {noise}")
            tuning = LocalTuning(noise_multiplier=noise)
            found = np.array([_user(world, number, taught, tuning) for number in range(users)])
            mean = found.mean(axis=0)
            half = 1.96 * (found[:, 1] - found[:, 0]).std(ddof=1) / np.sqrt(users)
            epsilon = stated_epsilon(tuning)
            case = f"{taught} sentences" + ("" if epsilon is None else f", noise {noise:g} (epsilon {epsilon:.0f})")
            own = f"own words right (gain ± {half:.1f})"
            rows += [
                Row(case, own, "%", mean[1], PUBLISHED, mean[0], users),
                Row(case, "public test phrases right", "%", mean[3], PUBLISHED, mean[2], users),
                Row(case, "phrases that mean nothing turned away", "%", mean[5], PUBLISHED, mean[4], users),
                Row(case, "nights whose outcome is used", "%", 100 * mean[6], seeds=users),
            ]
    return rows


def _user(world: World, number: int, taught: int, tuning: LocalTuning) -> list[float]:
    """Before and after: own, public, outside; then whether the outcome was used."""
    random = np.random.default_rng(number)
    mine = random.choice(len(world.head.labels), INTENTS, replace=False)
    pool = np.flatnonzero((world.registers == REGISTERS[number % len(REGISTERS)]) & np.isin(world.classes, mine))
    random.shuffle(pool)
    learned, tried = pool[:taught], pool[taught:]
    half = np.arange(len(world.public)) % 2 == 1
    lessons = Lessons(
        own=world.said[learned],
        own_classes=world.classes[learned],
        own_held_out=held_out_of([world.texts[place] for place in learned]),
        public=world.public,
        public_classes=world.public_classes,
        public_held_out=half,
        outside=world.outside,
        outside_held_out=np.arange(len(world.outside)) % 2 == 1,
    )
    if not lessons.enough:
        change = None
    else:
        change, _ = tune(world.head, lessons, HeadTuner(), tuning)
    out = []
    for rows, classes in (
        (world.said[tried], world.classes[tried]),
        (world.public_test, world.public_test_classes),
        (world.outside_test, None),
    ):
        out += [_right(world, rows, classes, None), _right(world, rows, classes, change)]
    return [*out, float(change is not None)]


def _right(world: World, rows: Any, classes: Any, change: Any) -> float:
    weights = world.weights if change is None else world.weights + change
    values = logits(weights, rows)
    turned_away = energies(values) > world.head.oos_energy
    if classes is None:
        return 100.0 * float(turned_away.mean())
    return 100.0 * float(((values.argmax(axis=1) == classes) & ~turned_away).mean())


def _world(options: Options) -> World:
    domain, files = load_domain(TRAVEL), build_encoder()
    encoder = TextEncoder(files.model, files.tokenizer)
    seeds = [(text, number) for number, spec in enumerate(domain.intents) for text in spec.seeds]
    said = [
        (one.text, number, one.register)
        for number, spec in enumerate(domain.intents)
        for one in (*(spec.train[:: 3 if options.quick else 1]), *spec.test)
    ]
    vectors = encoder.encode([text for text, _ in seeds], threads=2)
    classes = np.array([number for _, number in seeds])
    # Every third phrase of each intent is the test: the head that is published here never saw it.
    held_out = np.arange(len(seeds)) % 3 == 0
    center = center_from(vectors[~held_out])
    public, tried = features(vectors[~held_out], center), features(vectors[held_out], center)
    weights = fit_seed_head(public, classes[~held_out], len(domain.labels))
    outside = features(encoder.encode(list(domain.out_of_scope_calibration)), center)
    head = IntentHead(domain.labels, weights, center, files.model_sha256, domain.name)
    inside = cross_validated_logits(public, classes[~held_out], len(domain.labels))
    head = calibrate_logits(head, inside, classes[~held_out], head.logits(outside))
    published = HeadSession(to_onnx(head))
    return World(
        head=published,
        weights=head_weights(published),
        said=features(encoder.encode([text for text, _, _ in said], threads=2), center),
        classes=np.array([number for _, number, _ in said]),
        registers=np.array([register for _, _, register in said]),
        texts=[text for text, _, _ in said],
        public=public,
        public_classes=classes[~held_out],
        public_test=tried,
        public_test_classes=classes[held_out],
        outside=outside,
        outside_test=features(encoder.encode(list(domain.out_of_scope_test)), center),
    )


if __name__ == "__main__":
    main("personal_head", run)
