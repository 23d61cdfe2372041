"""What a device refuses of a study's round, and that it does so before anything is spent or read: real gates, no server."""

from __future__ import annotations

import nacl.signing
import numpy as np
import pytest
from small_fleet import AGGREGATOR
from study_fleet import HEALTH, ITEMS, StudyFleet

from aggregator.planning import Asked, Planner
from edge_client.share.contributing import GatePort
from shared_models.canonical import seal_envelope
from shared_models.errors import PolicyError, RefusedError, ReplayError, WireError
from shared_models.layouts import NO_ENCODER, ItemLayout, items_hash, layout_model
from shared_models.wire import ADVERTISE, PLAN_KIND, RoundPlan, model_hash

NOTHING = np.zeros(0, np.float32)


def item_plan(
    fleet: StudyFleet, layout: ItemLayout, **changes: object
) -> tuple[RoundPlan, tuple[str, ...], np.ndarray]:
    labels, weights = layout_model("item_gram", 1, layout.document())
    state_free = Planner(None, fleet.policy, fleet.clock)  # type: ignore[arg-type]
    asked = Asked(
        "preference-model", "item_gram", 1, layout.pairs_dimension, model_hash(labels, weights), NO_ENCODER, 1.0
    )
    plan = state_free.plan(asked, state_free.limits(asked), 1, 6, 120, 0.0)
    return RoundPlan(**{**plan.__dict__, **changes}), labels, weights


def offered(fleet: StudyFleet, plan: RoundPlan, key: nacl.signing.SigningKey = AGGREGATOR) -> object:
    signed = seal_envelope(PLAN_KIND, plan.to_bytes(), key)
    return fleet.port(0).answer_stage(plan.task, plan.round_id, ADVERTISE, signed.to_bytes())


OURS = ItemLayout(items_hash(ITEMS), len(ITEMS))


def test_a_hostile_dimension_is_refused_before_keys_are_offered() -> None:
    fleet = StudyFleet(1)
    plan, _, _ = item_plan(fleet, OURS, dimension=OURS.pairs_dimension + HEALTH + 1)
    with pytest.raises(WireError, match="more than item_gram can have here"):
        offered(fleet, plan)
    assert fleet.port(0)._gate._memory.entries("advert/") == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"purpose": "intent-model"}, PolicyError),
        ({"contribution": "everything"}, PolicyError),
        ({"contribution_version": 2}, WireError),
        ({"encoder_hash": "a" * 64}, WireError),
        ({"contribution": "bandit_moments", "purpose": "preference-model"}, PolicyError),
        ({"contribution": "intent_head"}, PolicyError),
    ],
)
def test_a_plan_that_names_something_else_is_refused(changes: dict[str, object], error: type[Exception]) -> None:
    fleet = StudyFleet(1)
    plan, _, _ = item_plan(fleet, OURS, **changes)
    with pytest.raises(error):
        offered(fleet, plan)


def test_a_plan_of_somebody_else_is_refused() -> None:
    fleet = StudyFleet(1)
    plan, _, _ = item_plan(fleet, OURS)
    with pytest.raises(WireError):
        offered(fleet, plan, nacl.signing.SigningKey.generate())


@pytest.mark.parametrize(
    "layout",
    [
        ItemLayout(items_hash(ITEMS[::-1]), len(ITEMS)),
        ItemLayout(items_hash([*ITEMS[:-1], "illness"]), len(ITEMS)),
        ItemLayout(items_hash(ITEMS), len(ITEMS) - 1),
    ],
)
def test_a_layout_over_items_that_the_bundles_catalogue_does_not_have_is_refused(layout: ItemLayout) -> None:
    fleet = StudyFleet(1)
    plan, labels, weights = item_plan(fleet, layout)
    refused_before_anything_is_spent(fleet, plan, labels, weights)


def refused_before_anything_is_spent(
    fleet: StudyFleet, plan: RoundPlan, labels: tuple[str, ...], weights: np.ndarray, words: str = ""
) -> None:
    port: GatePort = fleet.port(0)  # type: ignore[assignment]
    with pytest.raises((WireError, RefusedError), match=words):
        port.contribute(seal_envelope(PLAN_KIND, plan.to_bytes(), AGGREGATOR), labels, weights, lambda *_: NOTHING)
    assert port._gate.spendings() == []
    assert fleet.held[0].asked == []


def test_a_layout_that_is_not_the_one_of_the_plan_is_refused() -> None:
    fleet = StudyFleet(1)
    plan, _, weights = item_plan(fleet, OURS)
    half = ItemLayout(items_hash(ITEMS), len(ITEMS), tuple(range(len(ITEMS))), (2.0,) * len(ITEMS))
    labels, _ = layout_model("item_gram", 1, half.document())
    refused_before_anything_is_spent(fleet, plan, labels, weights, "another model")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"contribution":"item_gram","layout":{},"version":1}',
        '{"contribution":"item_gram","layout":[],"version":1}',
        '{"contribution":"item_gram", "layout":{},"version":1}',
        '{"contribution":"item_gram","layout":{"catalogue":"'
        + "0" * 64
        + '","head":[99],"items":12,"weights":[]},"version":1}',
        '{"contribution":"item_gram","layout":{"catalogue":3,"head":null,"items":1e999,"weights":[]},"version":1}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_a_layout_that_is_none_is_one_typed_error(text: str) -> None:
    fleet = StudyFleet(1)
    plan, _, weights = item_plan(fleet, OURS)
    refused_before_anything_is_spent(fleet, plan, (text,), weights)


def test_a_round_is_answered_once_and_never_again() -> None:
    fleet = StudyFleet(1)
    plan, _, _ = item_plan(fleet, OURS)
    offered(fleet, plan)
    fleet._ports.clear()
    gate = fleet.port(0)._gate  # type: ignore[attr-defined]
    gate._memory.put(f"advert/{plan.task}/{plan.round_id}", {"purpose": plan.purpose, "time_s": fleet.clock()})
    with pytest.raises(ReplayError):
        offered(fleet, plan)
