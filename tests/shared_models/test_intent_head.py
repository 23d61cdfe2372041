"""The head as arithmetic: features, fitting, calibration, and the file that devices run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_models.canonical import canonical_bytes
from shared_models.errors import ContributionError, ModelDamagedError
from shared_models.intent_head import (
    FEATURE_SCALE,
    HeadSession,
    IntentHead,
    calibrate,
    calibrate_logits,
    center_from,
    cross_validated_logits,
    energies,
    features,
    fit_seed_head,
    logits,
    loss_gradient,
    out_of_scope_probability,
    probabilities,
    to_onnx,
)

DIMENSION = 384
CLASSES = 6


def phrases(per_class: int, seed: int = 0, spread: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around one direction per class, and their classes: a stand-in for a domain whose truth is known."""
    directions = np.random.default_rng(99).normal(size=(CLASSES, DIMENSION)) / math.sqrt(DIMENSION)
    noise = np.random.default_rng(seed).normal(size=(CLASSES * per_class, DIMENSION)) / math.sqrt(DIMENSION)
    targets = np.repeat(np.arange(CLASSES), per_class)
    rows = directions[targets] + spread * noise + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), targets


@pytest.fixture(scope="module")
def head() -> IntentHead:
    embeddings, targets = phrases(15)
    center = center_from(embeddings)
    weights = fit_seed_head(features(embeddings, center), targets, CLASSES)
    labels = tuple(f"intent_{number}" for number in range(CLASSES))
    return IntentHead(labels, weights, center, "ab" * 32, "made_up", 1.5, -4.0, 2.0, 7)


def test_features_are_unit_vectors_around_the_centre() -> None:
    embeddings, _ = phrases(3)
    center = center_from(embeddings)
    rows = features(embeddings, center)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert not features(center[None], center).any()
    assert np.array_equal(features(embeddings[0], center), rows[0])


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    embeddings, targets = phrases(4)
    rows = features(embeddings, center_from(embeddings))
    weights = np.random.default_rng(1).normal(size=(CLASSES, DIMENSION)).astype(np.float32)

    def loss(at: np.ndarray) -> float:
        scores = FEATURE_SCALE * rows.astype(np.float64) @ at.T
        return float(-(scores[np.arange(len(targets)), targets] + energies(scores)).mean())

    step = np.random.default_rng(2).normal(size=weights.shape)
    slope = (loss(weights + 1e-4 * step) - loss(weights - 1e-4 * step)) / 2e-4
    assert float((loss_gradient(weights, rows, targets) * step).sum()) == pytest.approx(slope, rel=1e-3)


def test_fitting_is_deterministic_and_ends_where_the_penalised_gradient_vanishes() -> None:
    embeddings, targets = phrases(12)
    rows = features(embeddings, center_from(embeddings))
    weights = fit_seed_head(rows, targets, CLASSES, l2=1e-2)
    assert np.array_equal(weights, fit_seed_head(rows, targets, CLASSES, l2=1e-2))
    assert np.abs(loss_gradient(weights, rows, targets) + 1e-2 * weights).max() < 1e-4
    fresh, truth = phrases(20, seed=5)
    assert (logits(weights, features(fresh, center_from(embeddings))).argmax(axis=1) == truth).mean() > 0.9


def test_cross_validation_never_scores_a_phrase_by_a_head_that_saw_it() -> None:
    embeddings, targets = phrases(5, spread=15.0)
    rows = features(embeddings, center_from(embeddings))
    held_out = cross_validated_logits(rows, targets, CLASSES)
    assert held_out.shape == (len(rows), CLASSES)
    seen = logits(fit_seed_head(rows, targets, CLASSES), rows)
    assert (seen.argmax(axis=1) == targets).mean() > (held_out.argmax(axis=1) == targets).mean() + 0.2
    change = np.random.default_rng(3).normal(size=(CLASSES, DIMENSION)).astype(np.float32)
    moved = cross_validated_logits(rows, targets, CLASSES, change=change)
    assert moved == pytest.approx(held_out + logits(change, rows), abs=1e-3)


def test_calibration_finds_the_temperature_of_overconfident_logits(head: IntentHead) -> None:
    random = np.random.default_rng(4)
    honest = random.normal(size=(4000, CLASSES)) * 2
    targets = np.array([random.choice(CLASSES, p=row) for row in probabilities(honest, 1.0)])
    found = calibrate_logits(head, (3 * honest).astype(np.float32), targets, np.empty((0, CLASSES), np.float32))
    assert found.temperature == pytest.approx(3.0, rel=0.1)


def test_calibration_separates_what_is_out_of_scope(head: IntentHead) -> None:
    inside, targets = phrases(20, seed=6)
    outside = np.random.default_rng(7).normal(size=(40, DIMENSION)).astype(np.float32)
    rows_in, rows_out = features(inside, head.center), features(outside, head.center)
    found = calibrate(head, rows_in, targets, rows_out)
    assert (energies(found.logits(rows_in)) > found.oos_energy).mean() < 0.1
    assert (energies(found.logits(rows_out)) > found.oos_energy).mean() > 0.9
    assert out_of_scope_probability(found.oos_energy, found.oos_energy, found.oos_slope) == 0.5
    assert out_of_scope_probability(found.oos_energy + 50, found.oos_energy, found.oos_slope) > 0.99


def test_calibration_works_without_out_of_scope_phrases(head: IntentHead) -> None:
    inside, targets = phrases(20, seed=6)
    rows = features(inside, head.center)
    found = calibrate(head, rows, targets, np.empty((0, DIMENSION), np.float32))
    assert (energies(found.logits(rows)) > found.oos_energy).mean() == pytest.approx(0.05, abs=0.02)
    assert found.oos_slope > 0


@given(st.floats(-1e300, 1e300), st.floats(0, 1e6))
def test_the_out_of_scope_probability_is_always_one(energy: float, slope: float) -> None:
    assert 0.0 <= out_of_scope_probability(energy, -3.0, slope) <= 1.0


def test_a_head_with_impossible_weights_is_refused(head: IntentHead) -> None:
    for weights in (head.weights[:, :-1], head.weights[:-1], np.full_like(head.weights, np.nan)):
        with pytest.raises(ContributionError, match="expected finite numbers of shape"):
            head.with_weights(weights, 8)


def test_the_hash_of_a_head_depends_on_labels_and_weights_only(head: IntentHead) -> None:
    assert replace(head, temperature=9.0, version=8).model_hash == head.model_hash
    assert head.with_weights(head.weights * 2, 7).model_hash != head.model_hash
    assert replace(head, labels=head.labels[::-1]).model_hash != head.model_hash


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_says_all_that_the_head_knows_and_is_the_same_each_time(head: IntentHead) -> None:
    raw = to_onnx(head)
    assert raw == to_onnx(head)
    session = HeadSession(raw, expected_sha256=HeadSession(raw).sha256)
    for name in ("labels", "temperature", "oos_energy", "oos_slope", "version", "encoder_sha256", "domain"):
        assert getattr(session, name) == getattr(head, name)
    assert np.array_equal(session.center, head.center)
    assert session.row_norm == pytest.approx(np.linalg.norm(head.weights, axis=1).mean(), rel=1e-6)
    assert len(raw) < 12_000


def test_eight_bits_change_little_and_rows_do_not_depend_on_each_other(head: IntentHead) -> None:
    embeddings, _ = phrases(10, seed=8)
    session = HeadSession(to_onnx(head))
    exact = head.logits(features(embeddings, head.center))
    found = session.logits(embeddings)
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    assert (found.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.98
    assert np.array_equal(session.logits(embeddings[3:4])[0], found[3])
    assert session.logits(np.empty((0, DIMENSION), np.float32)).shape == (0, CLASSES)
    assert np.isfinite(session.logits(head.center[None])).all()


def test_changed_bytes_are_refused(head: IntentHead) -> None:
    raw = to_onnx(head)
    sha256 = HeadSession(raw).sha256
    for junk in (b"", b"junk", raw[:-200], raw[: len(raw) // 2], raw + b"\0"):
        with pytest.raises(ModelDamagedError):
            HeadSession(junk, expected_sha256=sha256)
    for junk in (b"", b"junk", raw[: len(raw) // 2]):
        with pytest.raises(ModelDamagedError):
            HeadSession(junk)


@pytest.mark.parametrize("place", range(0, 4000, 131))
def test_no_flipped_byte_is_more_than_an_error(head: IntentHead, place: int) -> None:
    raw = bytearray(to_onnx(head))
    raw[-place - 1] ^= 0x55
    try:
        session = HeadSession(bytes(raw))
    except ModelDamagedError:
        return
    assert session.logits(head.center[None]).shape == (1, CLASSES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("labels", ["only_one"]),
        ("labels", ["twice"] * CLASSES),
        ("labels", [1, 2, 3, 4, 5, 6]),
        ("labels", "abcdef"),
        ("labels", [f"intent_{number}" for number in range(CLASSES + 1)]),
        ("temperature", 0),
        ("temperature", "warm"),
        ("temperature", True),
        ("oos_energy", 1e300),
        ("oos_slope", -1.0),
        ("row_norm", None),
        ("version", -1),
        ("version", 1.5),
        ("encoder_sha256", "short"),
        ("domain", 3),
    ],
)
def test_senseless_metadata_are_refused(head: IntentHead, field: str, value: object) -> None:
    with pytest.raises(ModelDamagedError, match="the head"):
        HeadSession(with_metadata(to_onnx(head), {field: value}))


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"temperature": NaN}', '{"a": 1, "a": 2}', "[" * 10_000])
def test_metadata_that_are_no_object_are_refused(head: IntentHead, text: str) -> None:
    with pytest.raises(ModelDamagedError):
        HeadSession(with_metadata(to_onnx(head), text))


def test_numbers_that_are_not_finite_are_refused(head: IntentHead) -> None:
    model = onnx.load_from_string(to_onnx(head))
    for constant in model.graph.initializer:
        if constant.name == "center_value":
            center = head.center.copy()
            center[5] = np.nan
            constant.raw_data = center.tobytes()
    with pytest.raises(ModelDamagedError, match="not finite"):
        HeadSession(model.SerializeToString())


def test_another_model_is_not_taken_for_a_head(encoder_files: object) -> None:
    with pytest.raises(ModelDamagedError, match="not a published head"):
        HeadSession(encoder_files.model.read_bytes())  # type: ignore[attr-defined]


def with_metadata(raw: bytes, change: dict[str, object] | str) -> bytes:
    import json

    model = onnx.load_from_string(raw)
    (entry,) = model.metadata_props
    entry.value = change if isinstance(change, str) else canonical_bytes({**json.loads(entry.value), **change}).decode()
    return model.SerializeToString()
