"""The real corpora that the intent benchmarks use, each split into what is learned from and what is held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import Options, read_jsonl


@dataclass
class Corpus:
    """Texts with classes, split into what is learned from and what is held out."""

    name: str
    train: list[str]
    train_classes: np.ndarray
    test: list[str]
    test_classes: np.ndarray
    labels: tuple[str, ...]


def clinc150(options: Options) -> Corpus | None:
    train = options.path("intents/clinc150_train.jsonl.gz", "CLINC150")
    test = options.path("intents/clinc150_val.jsonl.gz", "CLINC150")
    if train is None or test is None:
        return None
    learned, held_out = read_jsonl(train), read_jsonl(test)
    if options.quick:
        learned, held_out = _some_of_each(learned, 20), held_out[::5]
    return _corpus("CLINC150", learned, held_out)


def hwu64(options: Options) -> Corpus | None:
    """A fifth of the users is held out, with all they said."""
    path = options.path("intents/hwu64.jsonl.gz", "HWU64")
    if path is None:
        return None
    found = read_jsonl(path)
    users = sorted({row["user"] for row in found})
    held_out = set(np.random.default_rng(0).permutation(users)[: len(users) // 5].tolist())
    train = [row for row in found if row["user"] not in held_out]
    return _corpus("HWU64", train, [row for row in found if row["user"] in held_out])


def banking77(options: Options) -> Corpus | None:
    path = options.path("intents/banking77_train.jsonl.gz", "BANKING77")
    return None if path is None else _with_hold_out("BANKING77", read_jsonl(path), options.pick(3000, 6000, 10_003))


def snips(options: Options) -> Corpus | None:
    path = options.path("intents/snips_train.jsonl.gz", "SNIPS")
    return None if path is None else _with_hold_out("SNIPS", read_jsonl(path), options.pick(1000, 4000, 13_784))


def _with_hold_out(name: str, found: list[dict[str, Any]], most: int) -> Corpus:
    order = np.random.default_rng(0).permutation(len(found))[:most]
    fifth = len(order) // 5
    return _corpus(name, [found[place] for place in order[fifth:]], [found[place] for place in order[:fifth]])


def _some_of_each(found: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    seen: dict[str, int] = {}
    kept = []
    for row in found:
        seen[row["intent"]] = seen.get(row["intent"], 0) + 1
        if seen[row["intent"]] <= count:
            kept.append(row)
    return kept


def _corpus(name: str, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> Corpus:
    labels = tuple(sorted({row["intent"] for row in train}))
    number = {label: place for place, label in enumerate(labels)}
    # What nobody said in training cannot be known; a class of a held-out user may be such a one.
    test = [row for row in test if row["intent"] in number]
    train_classes, test_classes = ([number[row["intent"]] for row in part] for part in (train, test))
    texts = ([row["text"] for row in part] for part in (train, test))
    return Corpus(name, next(texts), np.array(train_classes), next(texts), np.array(test_classes), labels)
