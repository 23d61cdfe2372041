"""A whole turn: text in, decision and response out, with the store on, 100 rules and 1,000 items; and where the time goes.

One thread, in a process of its own on a home that has been used. Half of the texts ask for something that is answered by words
(the domain's test utterances), half are conversations about where to go, with suggestions as cards; none is said twice, unless
that is what is measured (turn_texts.py). What is loaded at first use (models, catalogue, forecasts, places, taste) stands in rows
of its own: every path is taken before the turns that p50 and p99 are of. The processes find compiled bytecode, as an installed
app does. Time is that of the processor, all threads of the process together, because a machine that does other things beside
delays a clock and not the processor; the wall clock's median stands beside it.

Peers, in this run and on the same texts: (1) the plain way without a sentence encoder: TF-IDF and logistic regression of
scikit-learn on the same public phrases, the domain's templates, the most popular of the items, SQLite (WAL, synchronous=FULL)
as the log. It knows no slots, no reasons, no dialogue and keeps nothing encrypted; its accuracy is printed with its time.
(2) our encoder under onnxruntime's default options, as many threads as it likes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Options, Row, main
from benchmarks.turn_texts import every_path, spoken

RULES, ITEMS = 100, 1000
KEY = bytes(range(32))
GOAL = "goal"
PLAIN = "TF-IDF + logistic regression + SQLite"
STOCK = "onnxruntime, default threads"


def run(options: Options) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="tacit-turn-") as folder:
        root = Path(folder)
        options.say("publishing a bundle with 100 rules and 1,000 items, and using a home")
        made = publish_world(root)
        _child("prepare", root, 0)
        count = options.pick(60, 300, 600)
        options.say(f"{count} turns")
        turns = _child("turns", root, count)
        options.say("the same, by stage")
        stages = _child("stages", root, count)
        options.say("cold starts")
        starts = [_child("start", root, 1) for _ in range(options.pick(1, 5, 10))]
        options.say("peers")
        plain = _child("plain", root, count)
        plain_start = min(_child("plain_start", root, 1)["first_s"] for _ in range(options.pick(1, 3, 5)))
        stock = _child("stock", root, count)
    case, first_s = f"{RULES} rules, {made} items", min(one["first_s"] for one in starts)
    rows = [
        Row(case, "turn, CPU p50", "ms", turns["cpu_p50"], GOAL, 8.0),
        Row(case, "turn, CPU p50", "ms", turns["cpu_p50"], PLAIN, plain["cpu_p50"]),
        Row(case, "turn, CPU p99, after a warm-up of every path", "ms", turns["cpu_p99"], PLAIN, plain["cpu_p99"]),
        Row(case, "first use: the first turn of a process, CPU", "ms", turns["first"], "turn p50", turns["cpu_p50"]),
        Row(case, "first use: its first cards, CPU", "ms", turns["first_cards"], "with cards p50", turns["cards_p50"]),
        Row(case, "turn, wall p50", "ms", turns["wall_p50"], PLAIN, plain["wall_p50"]),
        Row(case, "turn with cards, CPU p50", "ms", turns["cards_p50"], GOAL, 8.0),
        Row(case, "turn without cards, CPU p50", "ms", turns["words_p50"], PLAIN, plain["words_p50"]),
        Row(case, "the same text again, CPU p50", "ms", turns["again_p50"], "said first", turns["words_p50"]),
        Row(case, "intent right", "%", turns["right"], PLAIN, plain["right"]),
        Row(case, "resident memory", "MiB", turns["rss"], GOAL, 160.0),
        Row(case, "resident memory", "MiB", turns["rss"], PLAIN, plain["rss"]),
        Row(case, "cold start to first answer, wall", "s", first_s, GOAL, 1.0, len(starts)),
        Row(case, "cold start to first answer, CPU", "s", min(one["cpu_s"] for one in starts), GOAL, 1.0, len(starts)),
        Row(case, "cold start to first answer, wall", "s", first_s, PLAIN, plain_start, len(starts)),
        Row(case, "encoding one text, CPU p50", "ms", stock["ours_p50"], STOCK, stock["theirs_p50"]),
        Row(case, "encoding one text, wall p50", "ms", stock["ours_wall"], STOCK, stock["theirs_wall"]),
    ]
    whole = stages["whole"]
    for stage, mean in stages["stages"].items():
        rows.append(Row(case, f"of a turn: {stage}, mean CPU", "ms", mean, "whole turn", whole))
    return rows


# -- the world ---------------------------------------------------------------------------------------------------------


def publish_world(root: Path) -> int:
    """A bundle of the travel domain with 100 rules and 1,000 items; returns how many items."""
    from dataclasses import replace
    from datetime import UTC, datetime, timedelta

    import nacl.signing
    import numpy as np

    from aggregator.modelling import PublicPhrases
    from aggregator.publish import BundleContents, create_repository, publish
    from shared_models.bundle import (
        BANDIT_PRIOR_TARGET,
        CATALOGUE_TARGET,
        FEED_TARGET,
        ITEM_SPACE_TARGET,
        PLACES_TARGET,
    )
    from shared_models.context_feed import BroadcastFeed, Day, Place
    from shared_models.domain import TRAVEL, load_domain
    from shared_models.domain_targets import domain_targets
    from shared_models.encoder import build_encoder
    from shared_models.intent_head import to_onnx
    from shared_models.languages.places_source import build_place_list
    from shared_models.preference import ItemSpace
    from shared_models.preference import to_onnx as space_to_onnx
    from shared_models.rules.ruleset import Rule, RuleSet
    from shared_models.text_encoder import TextEncoder
    from shared_models.travel.action_features import declared_prior
    from shared_models.travel.catalogue import Catalogue, load_catalogue

    domain, files, random = load_domain(TRAVEL), build_encoder(), np.random.default_rng(0)
    phrases = PublicPhrases.of(domain, TextEncoder(files.model, files.tokenizer))
    real = load_catalogue()
    places = list(real.destinations)
    number = 1
    while len(places) < ITEMS:
        number += 1
        for place in real.destinations[: ITEMS - len(places)]:
            # Their like, under names of their own: as many as an app with a large catalogue has.
            names = {language: f"{name} {'IVX'[number % 3]}{number}" for language, name in place.names.items()}
            places.append(replace(place, id=f"{place.id}_{number}", names=names))
    catalogue = Catalogue(real.feature_names, tuple(places))
    today = datetime.now(UTC).date()
    days = tuple(Day(today + timedelta(day), "clear", 24.0, 15.0, 0.0) for day in range(10))
    now_s = int(time.time())
    feed = BroadcastFeed(
        now_s,
        now_s + 36 * 3600,
        tuple(Place(p.id, p.name(), p.country, p.latitude, p.longitude, days) for p in places),
    )
    ids, head = tuple(catalogue.rows), 200
    space = ItemSpace(
        ids,
        np.log(np.full(len(ids), 1.0 / len(ids))).astype(np.float32),
        (0.05 * random.standard_normal((len(ids), head))).astype(np.float32),
        (0.05 * random.standard_normal((len(ids), head))).astype(np.float32),
        (0.3 * random.standard_normal((len(ids), 32))).astype(np.float32),
        (random.random((len(ids) - head, head)) / head).astype(np.float32),
    )
    labels = domain.labels
    rules = list(domain.rules.rules)
    while len(rules) < RULES:
        at = len(rules)
        rules.append(Rule(f"rule-{at}", "boost", (labels[at % len(labels)],), f"reason {at}", boost=0.001))
    officer, aggregator = nacl.signing.SigningKey.generate(), nacl.signing.SigningKey.generate()
    keys = {"officer_public_key": bytes(officer.verify_key), "aggregator_public_key": bytes(aggregator.verify_key)}
    create_repository(root / "bundle", fleet="benchmark", **keys)
    contents = BundleContents(
        encoder_model=files.model,
        tokenizer=files.tokenizer,
        head=to_onnx(phrases.head(phrases.seed_weights(), 0)),
        labels=labels,
        rules=RuleSet(tuple(rules)),
        templates=domain.templates,
        intent_labels={spec.name: spec.label for spec in domain.intents},
        domain=domain.name,
        version=0,
        optional={
            **domain_targets(domain),
            CATALOGUE_TARGET: catalogue.to_bytes(),
            FEED_TARGET: feed.to_bytes(),
            ITEM_SPACE_TARGET: space_to_onnx(space),
            BANDIT_PRIOR_TARGET: declared_prior(catalogue.feature_names).to_bytes(),
            PLACES_TARGET: build_place_list().to_bytes(),
        },
    )
    publish(root / "bundle", contents, time.time())
    return len(places)


# -- the processes -----------------------------------------------------------------------------------------------------


def _child(what: str, root: Path, count: int) -> dict[str, Any]:
    threads = (
        {} if what == "stock" else dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(root / "bytecode")
    born_s = time.time()
    command = [sys.executable, "-m", "benchmarks.turn", "--process", what, str(root), str(count), repr(born_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**environment, **threads})
    if done.returncode:
        raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def process(what: str, root: Path, count: int, born_s: float) -> dict[str, Any]:
    """What one of the processes measures."""
    from benchmarks import turn_peers

    return {
        "prepare": prepare,
        "turns": turns,
        "stages": by_stage,
        "start": start,
        "plain": turn_peers.plain_turns,
        "plain_start": turn_peers.plain_start,
        "stock": turn_peers.stock_encoding,
    }[what](root, count, born_s)


@contextmanager
def opened(root: Path, *, bundle: bool = False) -> Iterator[Any]:
    from edge_client import EdgeClient

    with EdgeClient.open(root / "home", key=KEY, bundle=root / "bundle" if bundle else None) as client:
        yield client


def prepare(root: Path, count: int, born_s: float) -> dict[str, Any]:
    with opened(root, bundle=True) as client:
        for purpose in ("personal-learning", "personalisation"):
            client.consent.grant(purpose)
        for conversation, text, _ in spoken(40, "train"):
            reply = client.respond(text, conversation=conversation)
            if reply.suggestions:
                client.react(reply.suggestions[0].decision_id, "up")
        for _, text, intent in spoken(60, "train"):
            if intent:
                client.feedback(text, intent=intent)
        client.nightly(lambda: True)
    return {}


def start(root: Path, count: int, born_s: float) -> dict[str, Any]:
    with opened(root) as client:
        client.respond("Where could I go in May?")
        return {"first_s": time.time() - born_s, "cpu_s": time.process_time()}


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the call gives, milliseconds of the processor and of the clock."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    value = call()
    return value, 1000 * (time.process_time() - cpu_s), 1000 * (time.perf_counter() - wall_s)


def warmed_up(client: Any) -> tuple[float, float]:
    """Take every path; milliseconds of the processor of the first turn of the process, and of the first one with cards."""
    first, first_cards = float("nan"), float("nan")
    for number, (conversation, text) in enumerate(every_path()):
        reply, cpu_ms, _ = timed(partial(client.respond, text, conversation=conversation))
        first = first if number else cpu_ms
        if reply.suggestions and first_cards != first_cards:
            first_cards = cpu_ms
    return first, first_cards


def turns(root: Path, count: int, born_s: float) -> dict[str, Any]:
    with opened(root) as client:
        first, first_cards = warmed_up(client)
        cpu, wall, cards, words, again, right, asked = [], [], [], [], [], 0, 0
        for conversation, text, intent in spoken(count):
            reply, cpu_ms, wall_ms = timed(lambda: client.respond(text, conversation=conversation))  # noqa: B023
            cpu.append(cpu_ms)
            wall.append(wall_ms)
            (cards if reply.suggestions else words).append(cpu_ms)
            if intent:
                asked += 1
                right += reply.recognition.intent == intent
                again.append(timed(lambda: client.respond(text, conversation=conversation))[1])  # noqa: B023
        return {
            "first": first,
            "first_cards": first_cards,
            "cpu_p50": percentile(cpu, 0.5),
            "cpu_p99": percentile(cpu, 0.99),
            "wall_p50": percentile(wall, 0.5),
            "cards_p50": percentile(cards, 0.5),
            "words_p50": percentile(words, 0.5),
            "again_p50": percentile(again, 0.5),
            "right": 100.0 * right / max(asked, 1),
            "rss": resident_mib(),
        }


class Stages:
    """Processor time of named functions, each without what others of them take inside it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._stack: list[float] = []

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        inner = getattr(owner, name)

        def measured(*arguments: Any, **named: Any) -> Any:
            self._stack.append(0.0)
            begun_s = time.process_time()
            try:
                return inner(*arguments, **named)
            finally:
                took_s = time.process_time() - begun_s
                inside_s = self._stack.pop()
                self.spent[stage] += took_s - inside_s
                if self._stack:
                    self._stack[-1] += took_s

        setattr(owner, name, measured)


def by_stage(root: Path, count: int, born_s: float) -> dict[str, Any]:
    from edge_client import dialogue_turns
    from edge_client.answer import speaking
    from edge_client.answer.respond import Responder
    from edge_client.decide.suggesting import Suggester
    from edge_client.know.store.sealed_journal import SealedJournal
    from edge_client.suggestions import Suggestions
    from edge_client.understand.dialogue import Dialogue
    from edge_client.understand.intent import IntentModel
    from edge_client.understand.slots import SlotReader
    from shared_models.text_encoder import TextEncoder

    stages = Stages()
    for owner, name, stage in (
        (TextEncoder, "encode_one", "encode"),
        (IntentModel, "recognize", "recognise"),
        (SlotReader, "read", "slots"),
        (Dialogue, "step", "dialogue"),
        (dialogue_turns, "decide", "rules"),
        (Suggestions, "choose", "taste"),
        (Suggester, "choose", "decision"),
        (Responder, "respond", "wording"),
        (SealedJournal, "commit", "store"),
        *((speaking.Speaking, name, "wording") for name in vars(speaking.Speaking) if not name.startswith("_")),
    ):
        if not isinstance(vars(owner)[name], staticmethod | property):
            stages.wrap(owner, name, stage)
    with opened(root) as client:
        warmed_up(client)
        stages.spent.clear()
        whole = 0.0
        for conversation, text, _ in spoken(count):
            whole += timed(lambda: client.respond(text, conversation=conversation))[1]  # noqa: B023
    means = {stage: 1000 * spent_s / count for stage, spent_s in stages.spent.items()}
    means["the rest"] = whole / count - sum(means.values())
    return {"whole": whole / count, "stages": dict(sorted(means.items(), key=lambda one: -one[1]))}


# -- figures ------------------------------------------------------------------------------------------------------------


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def resident_mib() -> float:
    if sys.platform == "linux":
        return next(
            int(line.split()[1]) / 1024 for line in Path("/proc/self/status").open() if line.startswith("VmHWM")
        )
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        named, folder_name, wanted, since = sys.argv[2:6]
        if named == "plain_turns_only":
            from benchmarks.turn_peers import plain_turns_only

            print(json.dumps(plain_turns_only(Path(folder_name), int(wanted))))
        else:
            print(json.dumps(process(named, Path(folder_name), int(wanted), float(since))))
    else:
        main("turn", run)
