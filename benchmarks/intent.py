"""Understanding on a device: accuracy, out-of-scope, the user's own intents, latency, cold start and memory.

Ours is always the int8 encoder and the int8 head as a device runs them, text in. Beside it, in the same run: the same linear
head on vectors of the packaged model in float32 torch, TF-IDF with logistic regression of scikit-learn, and stock int8 for speed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import Corpus, banking77, clinc150, hwu64, snips
from benchmarks.harness import Options, Row, main, read_jsonl
from benchmarks.stock_int8 import STOCK, stock_encoder
from edge_client.understand.intent import IntentModel
from shared_models.domain import TRAVEL, load_domain
from shared_models.encoder import EncoderFiles, build_encoder, source_folder
from shared_models.intent_head import (
    HeadSession,
    IntentHead,
    calibrate_logits,
    center_from,
    energies,
    features,
    fit_seed_head,
    logits,
    probabilities,
    to_onnx,
)
from shared_models.text_encoder import MAX_TOKENS, TextEncoder

TORCH = "torch fp32, same head"
TFIDF = "TF-IDF + logistic regression"
GOAL = "goal"
L2 = 1e-6
"""Next to no penalty: here a head is fitted to a hundred phrases a class, not to ten."""
STEPS = 100


def run(options: Options) -> list[Row]:
    options.say("building the encoder")
    files = build_encoder()
    encoder = TextEncoder(files.model, files.tokenizer, expected_sha256=files.model_sha256)
    raw_head, texts = travel_head(encoder)
    rows = [*speed(options, encoder, files, raw_head, texts), *start(options, files, raw_head)]
    torch_encoder = TorchEncoder()
    for read in (clinc150, hwu64, banking77, snips):
        corpus = read(options)
        if corpus is None or (options.quick and corpus.name not in ("CLINC150", "SNIPS")):
            continue
        measured = Measured(corpus, encoder, torch_encoder, options)
        rows += measured.accuracy()
        if corpus.name == "CLINC150":
            rows += out_of_scope(measured, options)
            rows += own_intents(measured, options)
    return rows


# -- accuracy ----------------------------------------------------------------------------------------------------------


class TorchEncoder:
    """The packaged model in float32: the reference for accuracy and for speed. Padding is masked, so rows are independent."""

    def __init__(self) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._torch = torch
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(source_folder(), local_files_only=True)
        self._model = transformers.AutoModel.from_pretrained(source_folder(), local_files_only=True).eval()

    def encode(self, texts: Sequence[str], batch: int = 64) -> np.ndarray:
        torch = self._torch
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        out = np.empty((len(texts), 384), np.float32)
        with torch.inference_mode():
            for start_at in range(0, len(order), batch):
                places = order[start_at : start_at + batch]
                given = self._tokenizer(
                    [texts[place] for place in places],
                    padding=True,
                    truncation=True,
                    max_length=MAX_TOKENS,
                    return_tensors="pt",
                )
                mask = given["attention_mask"][..., None]
                states = self._model(**given).last_hidden_state
                vectors = torch.nn.functional.normalize((states * mask).sum(dim=1), dim=-1)
                out[places] = vectors.numpy()
        return out


class Measured:
    """One corpus, encoded and fitted once in each way."""

    def __init__(self, corpus: Corpus, encoder: TextEncoder, reference: TorchEncoder, options: Options) -> None:
        self.corpus = corpus
        self.goals = corpus.name == "CLINC150" and not options.quick
        """Goals are set for all of CLINC150; the quick run learns from a fifth of it."""
        self.encoder = encoder
        self.reference = reference
        options.say(f"{corpus.name}: {len(corpus.train) + len(corpus.test)} texts through the int8 encoder")
        threads = os.cpu_count() or 1
        self.train, self.test = (encoder.encode(texts, threads=threads) for texts in (corpus.train, corpus.test))
        self.head = self._fit(self.train, options)
        options.say(f"{corpus.name}: the same texts through float32 torch")
        self._exact_train, self._exact_test = (reference.encode(texts) for texts in (corpus.train, corpus.test))
        self.exact_head = self._fit(self._exact_train, options)

    def _fit(self, embeddings: np.ndarray, options: Options) -> IntentHead:
        options.say(f"{self.corpus.name}: fitting a head on {len(embeddings)} vectors")
        center = center_from(embeddings)
        known = features(embeddings, center)
        weights = fit_seed_head(known, self.corpus.train_classes, len(self.corpus.labels), l2=L2, steps=STEPS)
        return IntentHead(self.corpus.labels, weights, center, self.encoder.sha256, self.corpus.name.lower())

    @cached_property
    def device_logits(self) -> np.ndarray:
        return HeadSession(to_onnx(self.head)).logits(self.test)

    @cached_property
    def exact_logits(self) -> np.ndarray:
        return self.exact_head.logits(features(self._exact_test, self.exact_head.center))

    @cached_property
    def tfidf(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=20.0, max_iter=100, tol=1e-3))
        return model.fit(self.corpus.train, self.corpus.train_classes)

    def accuracy(self) -> list[Row]:
        truth = self.corpus.test_classes
        ours = _percent(self.device_logits.argmax(axis=1) == truth)
        exact = _percent(self.exact_logits.argmax(axis=1) == truth)
        counted = _percent(self.tfidf.predict(self.corpus.test) == truth)
        rows = [
            Row(self.corpus.name, "accuracy", "%", ours, TORCH, exact),
            Row(self.corpus.name, "accuracy lost to 8 bits", "points", exact - ours, GOAL, 0.3),
            Row(self.corpus.name, "accuracy", "%", ours, TFIDF, counted),
        ]
        return [*rows, Row("CLINC150", "accuracy", "%", ours, GOAL, 95.0)] if self.goals else rows


def out_of_scope(measured: Measured, options: Options) -> list[Row]:
    """AUROC of the energy; then accuracy behind a threshold that half of the held-out texts and oos_train have set."""
    known = options.path("intents/clinc150_oos_train.jsonl.gz", "CLINC150 out of scope")
    held_out = options.path("intents/clinc150_oos_val.jsonl.gz", "CLINC150 out of scope")
    if known is None or held_out is None:
        return []
    session = HeadSession(to_onnx(measured.head))
    texts = [row["text"] for row in read_jsonl(held_out)]
    outside = session.logits(measured.encoder.encode(texts))
    exact = measured.exact_head
    exact_outside = exact.logits(features(measured.reference.encode(texts), exact.center))
    counted_inside, counted_outside = (
        -measured.tfidf.predict_proba(part).max(axis=1) for part in (measured.corpus.test, texts)
    )
    inside, truth = measured.device_logits, measured.corpus.test_classes
    ours = _auroc(energies(inside), energies(outside))
    rows = [
        Row(
            "CLINC150",
            "out-of-scope AUROC",
            "",
            ours,
            TORCH,
            _auroc(energies(measured.exact_logits), energies(exact_outside)),
        ),
        Row("CLINC150", "out-of-scope AUROC", "", ours, TFIDF, _auroc(counted_inside, counted_outside)),
    ]
    if measured.goals:
        rows.append(Row("CLINC150", "out-of-scope AUROC", "", ours, GOAL, 0.97))
    known_outside = session.logits(measured.encoder.encode([row["text"] for row in read_jsonl(known)]))
    head = calibrate_logits(measured.head, inside[::2], truth[::2], known_outside)
    inside, truth = inside[1::2], truth[1::2]
    taken, right = energies(inside) <= head.oos_energy, inside.argmax(axis=1) == truth
    chances = probabilities(inside, head.temperature).max(axis=1)
    case = "CLINC150, calibrated"
    return [
        *rows,
        Row(case, "in scope: right and not turned away", "%", _percent(taken & right)),
        Row(case, "out of scope: turned away", "%", _percent(energies(outside) > head.oos_energy)),
        Row(case, "expected calibration error", "points", 100 * _calibration_error(chances, right)),
    ]


def own_intents(measured: Measured, options: Options) -> list[Row]:
    """One intent at a time, unknown to the published head, taught to the device with a few phrases of the user's own.

    The head has no out-of-scope threshold here: whether that of a domain lets a text pass is measured above.
    """
    corpus = measured.corpus
    random = np.random.default_rng(0)
    new = random.permutation(len(corpus.labels))[:10]
    options.say(f"own intents: fitting a head that does not know {len(new)} of the {len(corpus.labels)}")
    old = np.setdiff1d(np.arange(len(corpus.labels)), new)
    was_old = np.isin(corpus.train_classes, old)
    center = center_from(measured.train[was_old])
    classes = np.searchsorted(old, corpus.train_classes[was_old])
    weights = fit_seed_head(features(measured.train[was_old], center), classes, len(old), l2=L2, steps=STEPS)
    labels = tuple(corpus.labels[place] for place in old)
    session = HeadSession(
        to_onnx(IntentHead(labels, weights, center, measured.encoder.sha256, "clinc150", oos_energy=1e6))
    )
    published = IntentModel(measured.encoder, session)
    is_old = np.isin(corpus.test_classes, old)
    expected = np.array(corpus.labels, object)[corpus.test_classes]
    base = _agreement(published, measured.test[is_old], expected[is_old])
    draws = options.pick(1, 3, 5)
    rows = []
    for count, goal in ((1, 70.0), (3, 93.0), (5, 96.0), (10, 97.0)):
        found, kept = [], []
        for number in new:
            label, examples = corpus.labels[number], np.flatnonzero(corpus.train_classes == number)
            for _ in range(draws):
                phrases = measured.train[random.permutation(examples)[:count]]
                taught = published.with_personal({label: phrases})
                found.append(_agreement(taught, measured.test[expected == label], expected[expected == label]))
            kept.append(_agreement(taught, measured.test[is_old], expected[is_old]))
        case = f"own intent, {count} phrase{'s' if count > 1 else ''}"
        rows.append(
            Row(case, "recall", "%", 100 * float(np.mean(found)), "measured before", goal, seeds=draws * len(new))
        )
        rows.append(Row(case, "published intents", "%", 100 * float(np.mean(kept)), "without it", 100 * base, len(new)))
    return rows


def _agreement(model: IntentModel, embeddings: np.ndarray, expected: np.ndarray) -> float:
    answers = [model.recognize_embedding("", row).intent for row in embeddings]
    return float(np.mean([answer == label for answer, label in zip(answers, expected, strict=True)]))


def _percent(hits: np.ndarray) -> float:
    return 100.0 * float(np.mean(hits))


def _auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Chance that a text from outside scores higher than one from inside; ties count half."""
    above = outside[:, None] - inside[None, :]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def _calibration_error(chances: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Mean distance between confidence and share of right answers over equally filled bins (Guo et al. 2017, §2)."""
    order = np.array_split(np.argsort(chances), bins)
    return float(sum(len(part) * abs(chances[part].mean() - right[part].mean()) for part in order) / len(chances))


# -- speed, start, memory ----------------------------------------------------------------------------------------------


def travel_head(encoder: TextEncoder) -> tuple[bytes, list[str]]:
    """A published head for the shipped domain, and sentences that its users say."""
    domain = load_domain(TRAVEL)
    seeds = [text for spec in domain.intents for text in spec.seeds]
    classes = np.array([number for number, spec in enumerate(domain.intents) for _ in spec.seeds])
    embeddings = encoder.encode(seeds, threads=os.cpu_count() or 1)
    center = center_from(embeddings)
    weights = fit_seed_head(features(embeddings, center), classes, len(domain.labels))
    head = IntentHead(domain.labels, weights, center, encoder.sha256, domain.name)
    return to_onnx(head), [utterance.text for spec in domain.intents for utterance in spec.test]


def speed(options: Options, encoder: TextEncoder, files: EncoderFiles, raw_head: bytes, texts: list[str]) -> list[Row]:
    """Text in, recognition out, one at a time on one thread; the peers do the same, by torch and by the stock 8 bits."""
    import torch

    session = HeadSession(raw_head)
    model = IntentModel(encoder, session)
    reference = TorchEncoder()
    stock, stock_bytes = stock_encoder(files)
    weights, threads = np.zeros((len(session.labels), 384), np.float32), torch.get_num_threads()

    def with_torch(text: str) -> None:
        logits(weights, features(reference.encode([text]), session.center)).argmax()

    options.say("latency of one utterance")
    texts = texts[: options.pick(60, 300, 10_000)]
    torch.set_num_threads(1)
    try:
        ours, theirs, stocks = _latencies_ms(
            (model.recognize, with_torch, lambda text: session.logits(stock.encode([text])).argmax()), texts
        )
    finally:
        torch.set_num_threads(threads)
    case = "recognise one utterance"
    packaged = (source_folder() / "model.safetensors").stat().st_size
    return [
        Row(case, "p50", "ms CPU", float(np.percentile(ours, 50)), TORCH, float(np.percentile(theirs, 50))),
        Row(case, "p50", "ms CPU", float(np.percentile(ours, 50)), STOCK, float(np.percentile(stocks, 50))),
        Row(case, "p50", "ms CPU", float(np.percentile(ours, 50)), GOAL, 4.5),
        Row(case, "p99", "ms CPU", float(np.percentile(ours, 99)), TORCH, float(np.percentile(theirs, 99))),
        Row("encoder", "size", "MB", files.model.stat().st_size / 1e6, TORCH, packaged / 1e6),
        Row("encoder", "size", "MB", files.model.stat().st_size / 1e6, STOCK, stock_bytes / 1e6),
    ]


def _latencies_ms(calls: Sequence[Callable[[str], Any]], texts: Sequence[str]) -> list[list[float]]:
    """CPU time of each call, taken in turns so that all meet the same machine."""
    taken: list[list[float]] = [[] for _ in calls]
    for round_number, text in enumerate([*texts[:20], *texts]):
        for call, times in zip(calls, taken, strict=True):
            begun = time.process_time_ns()
            call(text)
            if round_number >= 20:
                times.append((time.process_time_ns() - begun) / 1e6)
    return taken


_OURS = """
import time; begun = time.perf_counter()
import sys, pathlib
from edge_client.understand.intent import IntentModel
from shared_models.intent_head import HeadSession
from shared_models.text_encoder import TextEncoder
model, tokenizer, head = map(pathlib.Path, sys.argv[1:])
recognize = IntentModel(TextEncoder(model, tokenizer), HeadSession(head.read_bytes())).recognize
"""
_TORCH = """
import time; begun = time.perf_counter()
import sys, torch, transformers
torch.set_num_threads(1)
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
model = transformers.AutoModel.from_pretrained(sys.argv[1], local_files_only=True).eval()
def recognize(text):
    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(dim=1)
"""
_THEN = """
recognize("book a flight to Lisbon")
first = time.perf_counter() - begun
for _ in range(30):
    recognize("is there anything going on in the old town tonight")
try:
    rss = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
except OSError:
    rss = None
import json; print(json.dumps([first, rss]))
"""


def start(options: Options, files: EncoderFiles, raw_head: bytes) -> list[Row]:
    """Processes that do nothing but recognise: seconds to the first answer, memory after thirty; and bare imports."""
    options.say("cold start and memory")
    repeats = options.pick(1, 3, 9)
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder) / "head.onnx"
        head.write_bytes(raw_head)
        ours = [_child(_OURS + _THEN, files.model, files.tokenizer, head) for _ in range(repeats)]
    theirs = [_child(_TORCH + _THEN, source_folder()) for _ in range(repeats)]
    timed = "import time; begun = time.perf_counter()\n{}\nprint(time.perf_counter() - begun)"
    imports = {
        line: statistics.median(float(_child(timed.format(line))) for _ in range(repeats))
        for line in ("import edge_client", "from edge_client import EdgeClient")
    }
    first, first_torch = (statistics.median(row[0] for row in rows) for rows in (ours, theirs))
    rows = [Row("a process that only recognises", "first answer", "s", first, "torch fp32", first_torch, repeats)]
    if ours[0][1] is None:
        options.leave_out("resident memory: this system has no /proc")
    else:
        memory, memory_torch = (statistics.median(row[1] for row in rows) for rows in (ours, theirs))
        case = "a process that only recognises"
        rows.append(Row(case, "resident memory", "MiB", memory, "torch fp32", memory_torch, repeats))
        rows.append(Row(case, "resident memory", "MiB", memory, GOAL, 120.0, repeats))
    return rows + [Row(line, "time", "s", taken, GOAL, 0.5, repeats) for line, taken in imports.items()]


def _child(code: str, *arguments: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main("intent", run)
