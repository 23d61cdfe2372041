"""Recognition on a device: real encoder, a head from public phrases, the user's own intents, and a second domain."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from real_bundle import RealBundle

from edge_client.understand.intent import ALTERNATIVES, IntentModel
from shared_models.domain import Domain, load_domain
from shared_models.encoder import EncoderFiles
from shared_models.errors import InputError, ModelDamagedError, TextError
from shared_models.intent_head import (
    HeadSession,
    IntentHead,
    calibrate_logits,
    center_from,
    cross_validated_logits,
    features,
    fit_seed_head,
    to_onnx,
)
from shared_models.intents import OUT_OF_SCOPE
from shared_models.text_encoder import TextEncoder

ROOT = Path(__file__).parents[2]


def seed_head(domain: Domain, encoder: TextEncoder) -> IntentHead:
    targets = np.array([number for number, spec in enumerate(domain.intents) for _ in spec.seeds])
    embeddings = encoder.encode([text for spec in domain.intents for text in spec.seeds], threads=2)
    center = center_from(embeddings)
    rows = features(embeddings, center)
    weights = fit_seed_head(rows, targets, len(domain.labels))
    head = IntentHead(domain.labels, weights, center, encoder.sha256, domain.name)
    strange = features(encoder.encode(domain.out_of_scope_calibration), center)
    return calibrate_logits(
        head, cross_validated_logits(rows, targets, len(domain.labels)), targets, head.logits(strange)
    )


@pytest.fixture(scope="module")
def library(tiny_domain_dir: Path) -> Domain:
    return load_domain(tiny_domain_dir)


@pytest.fixture(scope="module")
def library_head(library: Domain, text_encoder: TextEncoder) -> IntentHead:
    return seed_head(library, text_encoder)


@pytest.fixture(scope="module")
def model(library_head: IntentHead, text_encoder: TextEncoder) -> IntentModel:
    return IntentModel(text_encoder, HeadSession(to_onnx(library_head)))


def test_plain_wishes_are_understood(model: IntentModel) -> None:
    for text, intent in {
        "please renew the book that I have": "renew_loan",
        "at what hour does the library open": "opening_hours",
        "I want to become a member of the library": "join_library",
        "how much is my late fee": "pay_fine",
    }.items():
        found = model.recognize(text)
        assert (found.intent, found.out_of_scope, found.personal) == (intent, False, False)
        assert found.text == text
        assert 0.5 < found.confidence <= 1.0
        assert len(found.alternatives) == ALTERNATIVES
        confidences = [found.confidence, *(other.confidence for other in found.alternatives)]
        assert confidences == sorted(confidences, reverse=True)
        assert sum(confidences) <= 1.0 + 1e-9
        assert intent not in [other.intent for other in found.alternatives]


def test_a_second_domain_is_learned_from_ten_phrases_per_intent(model: IntentModel, library: Domain) -> None:
    said = [utterance for spec in library.intents for utterance in (*spec.train, *spec.test)]
    found = [model.recognize(utterance.text) for utterance in said]
    nearest = [answer.alternatives[0].intent if answer.out_of_scope else answer.intent for answer in found]
    right = np.mean([intent == utterance.intent for intent, utterance in zip(nearest, said, strict=True)])
    assert right > 0.6, "colloquial and terse wording, from formal phrases alone"
    outside = [model.recognize(text).out_of_scope for text in library.out_of_scope_test]
    assert np.mean(outside) >= 0.7


def test_the_travel_domain_is_understood_from_its_public_phrases(
    real_bundle: RealBundle, text_encoder: TextEncoder, travel_domain: Domain
) -> None:
    travel = IntentModel(text_encoder, HeadSession(to_onnx(real_bundle.head)))
    assert travel.labels == travel_domain.labels
    assert travel.recognize("book a flight to Madrid on Friday").intent == "book_flight"
    assert travel.recognize("will it rain in Bergen tomorrow").intent == "check_weather"
    assert travel.recognize("explain quantum chromodynamics to a five year old").out_of_scope


@pytest.mark.parametrize("text", ["", "   ", "\x00\x07", "\n"])
def test_an_empty_text_is_out_of_scope_and_no_error(model: IntentModel, text: str) -> None:
    found = model.recognize(text)
    assert (found.intent, found.confidence, found.alternatives, found.text) == (OUT_OF_SCOPE, 1.0, (), "")


@pytest.mark.parametrize("text", ["\x01\xff\ud8ab\udcff", "🛸" * 500, "مرحبا بكم في المكتبة", "a" * 100_000, "\ud83d"])
def test_odd_text_gets_an_answer(model: IntentModel, text: str) -> None:
    found = model.recognize(text)
    assert 0.0 < found.confidence <= 1.0
    assert found.intent in (*model.labels, OUT_OF_SCOPE)


def test_what_is_not_text_or_far_too_long_is_a_typed_error(model: IntentModel) -> None:
    for bad in (None, b"renew", 5, "x" * (1 << 20)):
        with pytest.raises(TextError):
            model.recognize(bad)  # type: ignore[arg-type]


def test_out_of_scope_is_an_answer_with_the_nearest_intents(model: IntentModel) -> None:
    found = model.recognize("how many goals were scored in the final")
    assert found.out_of_scope
    assert found.intent == OUT_OF_SCOPE
    assert found.confidence > 0.5
    assert len(found.alternatives) == ALTERNATIVES
    assert found.confidence + sum(other.confidence for other in found.alternatives) <= 1.0 + 1e-9


def test_many_threads_get_the_same_answers(model: IntentModel, library: Domain) -> None:
    texts = [text for spec in library.intents for text in spec.seeds]
    expected = [model.recognize(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(model.recognize, texts)) == expected


def test_a_head_for_another_encoder_is_refused(library_head: IntentHead, text_encoder: TextEncoder) -> None:
    other = HeadSession(to_onnx(replace(library_head, encoder_sha256="0" * 64)))
    with pytest.raises(ModelDamagedError, match="made for the encoder 0000000000000000"):
        IntentModel(text_encoder, other)


# -- the user's own intents --------------------------------------------------------------------------------------------

POEMS = ["Read me a poem", "I would love to hear some verse", "Recite a sonnet for me"]


def test_an_own_intent_is_found_and_the_others_stay(model: IntentModel, library: Domain) -> None:
    own = model.with_personal({"hear_poem": np.stack([model.embed(text) for text in POEMS])})
    assert own.labels == (*model.labels, "hear_poem")
    found = own.recognize("could you recite a poem")
    assert (found.intent, found.personal, found.out_of_scope) == ("hear_poem", True, False)
    seeds = [(text, spec.name) for spec in library.intents for text in spec.seeds]
    before = np.mean([model.recognize(text).intent == intent for text, intent in seeds])
    after = np.mean([own.recognize(text).intent == intent for text, intent in seeds])
    assert after >= before - 0.02
    assert model.labels == library.labels, "the first model is as it was"


def test_one_phrase_is_enough_to_find_it_again(model: IntentModel) -> None:
    own = model.with_personal({"water_plants": model.embed("water the plants in the hall")[None]})
    assert own.recognize("water the plants in the hall").intent == "water_plants"


def test_own_intents_that_cannot_be_are_refused(model: IntentModel) -> None:
    vector = model.embed("read me a poem")
    for personal in (
        {"pay_fine": vector[None]},
        {OUT_OF_SCOPE: vector[None]},
        {"hear_poem": vector},
        {"hear_poem": np.empty((0, 384), np.float32)},
        {"hear_poem": vector[None, :100]},
        {"hear_poem": np.full((1, 384), np.nan)},
    ):
        with pytest.raises(InputError, match=r"own intent|one of the assistant"):
            model.with_personal(personal)


def test_recognising_loads_nothing_heavy(library_head: IntentHead, encoder_files: EncoderFiles, tmp_path: Path) -> None:
    (tmp_path / "head.onnx").write_bytes(to_onnx(library_head))
    code = """
import sys, pathlib
from edge_client.understand.intent import IntentModel
from shared_models.intent_head import HeadSession
from shared_models.text_encoder import TextEncoder
model, tokenizer, head = map(pathlib.Path, sys.argv[1:])
print(IntentModel(TextEncoder(model, tokenizer), HeadSession(head.read_bytes())).recognize("renew my loan").intent)
heavy = {"torch", "onnx", "transformers", "scipy", "sklearn", "flwr", "opacus", "grpc"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code, encoder_files.model, encoder_files.tokenizer, tmp_path / "head.onnx"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("renew_loan", "")
