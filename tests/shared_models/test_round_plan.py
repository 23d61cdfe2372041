"""The signed plan: exact fields, strict types, one hash."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import nacl.signing
import numpy as np
import pytest

from shared_models.canonical import canonical_bytes, seal_envelope
from shared_models.errors import SignatureError, WireError
from shared_models.wire import (
    MODE_TRUSTED,
    PLAN_KIND,
    SCALE,
    LocalTraining,
    RoundPlan,
    model_hash,
    noise_variance_for,
)

PLAN = RoundPlan(
    task="vectors",
    round_id=7,
    purpose="intent-model",
    contribution="intent_head",
    contribution_version=1,
    dimension=14592,
    clip_norm=1.0,
    noise_variance=noise_variance_for(2.8),
    cohort=2000,
    min_survivors=1000,
    mode=MODE_TRUSTED,
    issued_s=1_800_000_000,
    deadline_s=1_800_000_600,
    model_hash="a" * 64,
    encoder_hash="b" * 64,
    policy_hash="c" * 64,
    policy_sequence=1,
    local=LocalTraining(8.0, 16, 1.0, 0.0),
)
VECTORS = json.loads((Path(__file__).parent.parent / "data" / "wire_vectors.json").read_text(encoding="utf-8"))


def test_a_plan_reads_back_equal() -> None:
    assert RoundPlan.from_bytes(PLAN.to_bytes()) == PLAN
    without_training = replace(PLAN, local=None)
    assert RoundPlan.from_bytes(without_training.to_bytes()) == without_training


def test_plan_and_model_hash_are_those_of_the_vectors() -> None:
    assert PLAN.to_bytes().decode() == VECTORS["plan"]["bytes"]
    assert PLAN.hash == VECTORS["plan"]["hash"]
    weights = np.array(VECTORS["model"]["weights"], np.float32)
    assert model_hash(VECTORS["model"]["labels"], weights) == VECTORS["model"]["hash"]


def test_the_cost_is_that_of_the_discrete_gaussian() -> None:
    assert PLAN.rho == pytest.approx(1 / (2 * 2.8**2), rel=1e-6)
    assert PLAN.noise_multiplier >= 2.8
    assert replace(PLAN, noise_variance=SCALE * SCALE).rho == 0.5


WRONG = {
    "task": ["", 5, None, "x" * 101],
    "round_id": [-1, 1.5, "1", True, 2**60],
    "purpose": [None],
    "contribution": [[]],
    "contribution_version": [0],
    "dimension": [0, 2**30],
    "clip_norm": [0, -1.0, "1", float("inf"), True],
    "noise_variance": [0, -5, 2.5, 2**60],
    "cohort": [0, 10**9],
    "min_survivors": [0, 2001],
    "mode": ["local", ""],
    "issued_s": [-1],
    "deadline_s": [5],
    "model_hash": ["", "A" * 64, "a" * 63, 3],
    "encoder_hash": ["x" * 64],
    "policy_hash": [None],
    "policy_sequence": [-1],
    "local": [5, [], {"max_grad_norm": 1.0}, {**asdict(PLAN)["local"], "sample_rate": 0.0}],
}


@pytest.mark.parametrize(("field", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_field_is_one_clear_error(field: str, value: object) -> None:
    document = {**PLAN.document(), field: value}
    with pytest.raises(WireError):
        RoundPlan.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("field", sorted(PLAN.document()))
def test_a_missing_field_is_an_error(field: str) -> None:
    document = PLAN.document()
    del document[field]
    if field == "local":
        assert RoundPlan.from_bytes(canonical_bytes(document)).local is None
        return
    with pytest.raises(WireError):
        RoundPlan.from_bytes(canonical_bytes(document))


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(WireError, match="unknown field 'colour'"):
        RoundPlan.from_bytes(canonical_bytes({**PLAN.document(), "colour": "red"}))


def test_a_sum_that_would_not_fit_the_ring_is_refused() -> None:
    with pytest.raises(WireError, match="32 bits"):
        replace(PLAN, cohort=200_000)


def test_only_the_aggregators_signature_opens_a_plan() -> None:
    key, other = nacl.signing.SigningKey.generate(), nacl.signing.SigningKey.generate()
    envelope = seal_envelope(PLAN_KIND, PLAN.to_bytes(), key)
    assert RoundPlan.from_envelope(envelope, bytes(key.verify_key)) == PLAN
    with pytest.raises(SignatureError):
        RoundPlan.from_envelope(envelope, bytes(other.verify_key))
    with pytest.raises(SignatureError):
        RoundPlan.from_envelope(seal_envelope("other-kind", PLAN.to_bytes(), key), bytes(key.verify_key))


def test_the_model_hash_binds_labels_shape_and_every_weight() -> None:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    hashes = {
        model_hash(("a", "b"), weights),
        model_hash(("b", "a"), weights),
        model_hash(("a", "b"), weights.reshape(2, 3) + np.float32(1e-7)),
        model_hash(("a", "b"), np.nextafter(weights, np.float32(9))),
        model_hash(("a", "b", "c"), weights.reshape(3, 2)),
    }
    assert len(hashes) >= 4
