"""What the gate hands out and what it writes down: clipped integers, zeros where there is nothing, a chain of receipts."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from privacy_world import DIMENSION, ENCODER_HASH, World, contribution_of, policy_document, signed_plan

from edge_client.share.contributing import GatePort
from privacy.clipping import from_ring
from privacy.gate import SealedContribution, contribution_commitment
from privacy.ledger import Entry, verify_chain
from privacy.mechanisms import TrustedSum
from shared_models.errors import ContributionError, LedgerError, PolicyError, WireError
from shared_models.wire import SCALE, RoundPlan, model_hash

SHARED = World(policy_document(participations=100_000))
_next_round = iter(range(10**9))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, DIMENSION, elements=st.floats()))
def test_whatever_the_update_is_the_contribution_keeps_the_bound(update: np.ndarray) -> None:
    world = SHARED
    plan = world.plan(next(_next_round), noise_variance=1 << 52)
    sealed = world.seal(plan, lambda _: update)
    assert sealed.values.dtype == np.uint32
    assert sealed.values.shape == (DIMENSION,)
    assert sum(int(value) ** 2 for value in from_ring(sealed.values)) <= SCALE**2
    if not np.isfinite(update).all():
        assert not sealed.values.any()
    # And the aggregator's own check takes it.
    TrustedSum(plan).add(sealed.values)


def test_the_contribution_is_the_clipped_vector_on_the_grid(world: World) -> None:
    sealed = world.seal(world.plan())
    vector = np.linspace(-1.0, 1.0, DIMENSION)
    expected = vector / np.linalg.norm(vector) * SCALE
    assert np.abs(from_ring(sealed.values) - expected).max() <= 1.0


class ChildDiedError(Exception):
    """The text of this must not matter."""


def failing(error: Exception) -> object:
    def update(plan: RoundPlan) -> np.ndarray:
        raise error

    return update


NOTHING = {
    "nan": (lambda plan: np.full(plan.dimension, np.nan), "NaN"),
    "inf": (lambda plan: np.full(plan.dimension, np.inf), "NaN or infinite"),
    "one nan": (lambda plan: np.r_[np.ones(plan.dimension - 1), np.nan], "NaN"),
    "short": (lambda plan: np.ones(plan.dimension - 1), "shape"),
    "matrix": (lambda plan: np.ones((1, plan.dimension)), "shape"),
    "none": (lambda plan: None, "NoneType"),
    "list": (lambda plan: [1.0] * plan.dimension, "list"),
    "text": (lambda plan: np.array(["secret"] * plan.dimension), "array of"),
    "its own error": (failing(ContributionError("it went wrong")), "it went wrong"),
    "reshape": (failing(ValueError("cannot reshape array of the user's secret")), "ValueError"),
    "child": (failing(ChildDiedError("secret")), "ChildDiedError"),
    "memory": (failing(MemoryError()), "MemoryError"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_an_update_that_cannot_be_used_is_answered_with_zeros_and_noted(world: World, case: str) -> None:
    """Staying away would tell a hostile aggregator for whom its model made the training fail."""
    update, note = NOTHING[case]
    sealed = world.seal(world.plan(), update)
    assert not sealed.values.any()
    (receipt,) = world.gate.receipts()
    assert note in receipt["body"]["note"]
    assert "secret" not in receipt["body"]["note"]
    assert world.gate.budget("intent-model").participations == 1


@pytest.mark.parametrize("error", [WireError("does not fit"), PolicyError("not compiled in")])
def test_what_is_wrong_with_the_plan_is_still_an_error_and_spent(world: World, error: Exception) -> None:
    with pytest.raises(type(error)):
        world.seal(world.plan(), failing(error))
    assert world.gate.budget("intent-model").participations == 1
    assert world.gate.receipts() == []


class ShortExamples:
    """A device's examples, two features wide; or none."""

    encoder_hash = ENCODER_HASH

    def __init__(self, intents: list[str]) -> None:
        self._intents = intents

    def examples(self) -> tuple[np.ndarray, list[str]]:
        return np.ones((len(self._intents), 2), np.float32), self._intents


@pytest.mark.parametrize("intents", [[], ["fly"], ["fly", "stay"], ["unknown"]])
def test_a_model_that_fits_nobody_does_not_tell_who_has_examples(intents: list[str]) -> None:
    """The aggregator chooses labels and width: an error of those who have an example of `fly` would be an oracle."""
    world = World()
    labels, weights = ("fly",), np.zeros((1, DIMENSION), np.float32)
    plan = world.plan(model_hash=model_hash(labels, weights))

    def never(*arrays: object) -> np.ndarray:
        raise ContributionError("features do not fit")

    port = GatePort(world.gate, ShortExamples(intents))
    assert not port.contribute(signed_plan(plan), labels, weights, never).values.any()


def test_zeros_look_like_any_other_contribution(world: World) -> None:
    real = world.seal(world.plan(1))
    empty = world.seal(world.plan(2), lambda plan: np.zeros(plan.dimension))
    for name in ("task", "plan_hash", "nonce", "values"):
        assert type(getattr(real, name)) is type(getattr(empty, name))
    assert real.values.nbytes == empty.values.nbytes
    assert len(real.nonce) == len(empty.nonce) == 32


def test_a_sealed_contribution_has_these_fields_and_no_other(world: World) -> None:
    sealed = world.seal(world.plan())
    assert [item.name for item in fields(SealedContribution)] == [
        "task",
        "round_id",
        "plan_hash",
        "values",
        "nonce",
        "proof",
    ]
    with pytest.raises(AttributeError):
        sealed.nonce = "x"  # type: ignore[misc]


def test_the_commitment_is_what_the_aggregator_computes(world: World) -> None:
    plan = world.plan()
    sealed = world.seal(plan)
    (receipt,) = world.gate.receipts()
    by_hand = hashlib.sha256(
        f"{plan.hash}:{sealed.nonce}:".encode() + sealed.values.astype("<u4").tobytes()
    ).hexdigest()
    assert receipt["body"]["commitment"] == sealed.commitment == by_hand
    assert contribution_commitment(plan.hash, sealed.nonce, sealed.values) == by_hand
    assert contribution_commitment(plan.hash, sealed.nonce, sealed.values.astype(">u4")) == by_hand
    other = sealed.values.copy()
    other[0] ^= 1
    assert contribution_commitment(plan.hash, sealed.nonce, other) != by_hand


def test_nonces_are_fresh(world: World) -> None:
    first, second = world.seal(world.plan(1)), world.seal(world.plan(2))
    assert first.nonce != second.nonce


def test_receipts_are_a_hash_chain(world: World) -> None:
    for round_id in range(5):
        world.now_s += 1
        world.seal(world.plan(round_id))
    entries = [Entry.from_document(item) for item in world.new_gate().receipts()]
    assert [entry.index for entry in entries] == [0, 1, 2, 3, 4]
    verify_chain(entries)
    for position in range(4):
        # The last entry's body is bound by nothing but its own commitment: the head.
        bent = [*entries]
        bent[position] = replace(bent[position], body={**bent[position].body, "rho": 0.0})
        with pytest.raises(LedgerError):
            verify_chain(bent)
        with pytest.raises(LedgerError):
            verify_chain(entries[:position] + entries[position + 1 :])


def test_a_receipt_says_what_left_and_what_it_cost() -> None:
    document = policy_document(local_noise_multiplier=1.5)
    world = World(document)
    plan = world.plan()
    sealed = world.seal(plan)
    (receipt,) = world.gate.receipts()
    assert receipt["kind"] == "contribution"
    assert receipt["body"] == {
        "task": "test",
        "round_id": 1,
        "purpose": "intent-model",
        "contribution": "intent_head",
        "plan_hash": plan.hash,
        "rho": plan.rho,
        "time_s": world.now_s,
        "commitment": sealed.commitment,
        "mode": "trusted-aggregator",
        "note": "",
        "local_noise_multiplier": 1.5,
    }


def test_without_local_training_the_receipt_says_so() -> None:
    document = policy_document()
    contribution_of(document)["local"] = None
    world = World(document)
    world.seal(world.plan())
    assert world.gate.receipts()[0]["body"]["local_noise_multiplier"] == 0.0


def test_ten_rounds_keep_their_order_beyond_one_digit() -> None:
    world = World(policy_document(participations=30))
    for round_id in range(1, 13):
        world.seal(world.plan(round_id))
    entries = [Entry.from_document(item) for item in world.new_gate().receipts()]
    verify_chain(entries)
    assert [entry.body["round_id"] for entry in entries] == list(range(1, 13))
