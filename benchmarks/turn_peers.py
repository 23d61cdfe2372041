"""The peers of benchmarks/turn.py: the plain way without a sentence encoder, and onnxruntime's default options. No `run` here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.turn import percentile, resident_mib, timed
from benchmarks.turn_texts import spoken


class Plain:
    """The plain way: no encoder, no slots, no encryption."""

    def __init__(self, root: Path) -> None:
        import sqlite3

        import joblib

        # As scikit-learn's own documentation keeps models.
        self.vectors, self.head, self.templates, self.places = joblib.load(root / "plain.joblib")
        self.log = sqlite3.connect(root / "plain.db", isolation_level=None)
        self.log.execute("PRAGMA journal_mode=WAL")
        self.log.execute("PRAGMA synchronous=FULL")
        self.log.execute("CREATE TABLE IF NOT EXISTS turns (at REAL, intent TEXT, reply TEXT)")
        self.said = 0

    def respond(self, text: str) -> tuple[str, str]:
        shares = self.head.predict_proba(self.vectors.transform([text]))[0]
        intent = str(self.head.classes_[shares.argmax()])
        self.said += 1
        variants = self.templates.get(intent, ("",))
        reply = variants[self.said % len(variants)]
        if intent == "suggest_destination":
            reply += " " + ", ".join(self.places[:3])
        self.log.execute("INSERT INTO turns VALUES (?, ?, ?)", (time.time(), intent, reply))
        return intent, reply


def _fit_plain(root: Path) -> None:
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    from shared_models.domain import TRAVEL, load_domain
    from shared_models.travel.catalogue import load_catalogue

    domain = load_domain(TRAVEL)
    texts = [text for spec in domain.intents for text in spec.seeds]
    names = [spec.name for spec in domain.intents for _ in spec.seeds]
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts)
    head = LogisticRegression(C=10.0, max_iter=1000).fit(vectors.transform(texts), names)
    places = [place.name() for place in load_catalogue().destinations]
    templates = {name: tuple(said) for name, said in domain.templates.items()}
    joblib.dump((vectors, head, templates, places), root / "plain.joblib")


def plain_start(root: Path, count: int, born_s: float) -> dict[str, Any]:
    Plain(root).respond("Where could I go in May?")
    return {"first_s": time.time() - born_s}


def plain_turns(root: Path, count: int, born_s: float) -> dict[str, Any]:
    _fit_plain(root)
    command = [sys.executable, "-m", "benchmarks.turn", "--process", "plain_turns_only", str(root), str(count), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def plain_turns_only(root: Path, count: int) -> dict[str, Any]:
    plain = Plain(root)
    texts = spoken(count)
    for _, text, _ in spoken(16, "train"):
        plain.respond(text)
    cpu, wall, words, right, asked = [], [], [], 0, 0
    for _, text, intent in texts:
        (found, _), cpu_ms, wall_ms = timed(lambda: plain.respond(text))  # noqa: B023
        cpu.append(cpu_ms)
        wall.append(wall_ms)
        if intent:
            words.append(cpu_ms)
            asked += 1
            right += found == intent
    return {
        "cpu_p50": percentile(cpu, 0.5),
        "cpu_p99": percentile(cpu, 0.99),
        "wall_p50": percentile(wall, 0.5),
        "words_p50": percentile(words, 0.5),
        "right": 100.0 * right / max(asked, 1),
        "rss": resident_mib(),
    }


def stock_encoding(root: Path, count: int, born_s: float) -> dict[str, Any]:
    import numpy as np
    import onnxruntime

    from shared_models.encoder import build_encoder
    from shared_models.text_encoder import TextEncoder

    files = build_encoder()
    ours = TextEncoder(files.model, files.tokenizer)
    theirs = onnxruntime.InferenceSession(str(files.model), providers=["CPUExecutionProvider"])

    def stock(text: str) -> Any:
        ids = np.array([ours._tokenizer.encode(text).ids], np.int64)
        return theirs.run(["embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})

    texts = [text for _, text, intent in spoken(count) if intent]
    measured: dict[str, list[float]] = defaultdict(list)
    for text in texts[:10]:
        ours.encode_one(text)
        stock(text)
    for text in texts:
        for name, call in (("ours", ours.encode_one), ("theirs", stock)):
            _, cpu_ms, wall_ms = timed(lambda: call(text))  # noqa: B023
            measured[f"{name}_p50"].append(cpu_ms)
            measured[f"{name}_wall"].append(wall_ms)
    return {name: percentile(values, 0.5) for name, values in measured.items()}
