"""How each contribution answers a round: what it checks of the public layout, and how its vector is made.

`check` judges a plan alone, before keys are offered for it; `prepare` judges the layout, before the gate reserves anything, and
returns what computes the vector. Both raise WireError or PolicyError for reasons that are public; what the user's data are like
never makes a refusal, only zeros (privacy.gate).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edge_client.share.contributions import (
    bandit_moments,
    drift_count,
    fairness_slices,
    intent_head,
    item_gram,
    policy_value_sums,
)
from edge_client.share.port import Trainer
from edge_client.share.sources import Sources
from shared_models.bandit_prior import MomentLayout
from shared_models.drift import DIMENSION as DRIFT_DIMENSION
from shared_models.drift import layout_document as drift_layout
from shared_models.errors import ContributionError, PolicyError, RefusedError, WireError
from shared_models.fairness import OUTCOMES, FairnessLayout
from shared_models.layouts import NO_ENCODER, ItemLayout, JudgedPolicy, read_layout
from shared_models.policy_value import DIMENSION as VALUE_DIMENSION
from shared_models.preference import gram_dimension
from shared_models.purposes import INTENT_MODEL, PREFERENCE_MODEL, QUALITY_CHECK, SUGGESTION_MODEL
from shared_models.wire import RoundPlan

Vector = npt.NDArray[Any]
Update = Callable[[RoundPlan], Vector]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Asked:
    """A round as the device sees it before the gate has judged it."""

    plan: RoundPlan
    labels: Sequence[str]
    weights: npt.NDArray[np.float32]
    trainer: Trainer

    @property
    def learned(self) -> int:
        """Numbers of the vector, without those that stay zero on every device."""
        return self.plan.dimension - self.plan.health_dimension

    def layout(self) -> dict[str, Any]:
        return read_layout(self.plan.contribution, self.plan.contribution_version, self.labels, self.weights)

    def expect(self, dimension: int) -> None:
        """Raises WireError if the plan is for a vector of another size."""
        if self.learned != dimension:
            raise WireError(f"the plan is for dimension {self.plan.dimension}, its layout has {dimension} numbers")


class Answer(Protocol):
    """One contribution that is compiled in."""

    @property
    def purpose(self) -> str: ...

    def check(self, plan: RoundPlan, sources: Sources) -> None: ...

    def prepare(self, asked: Asked, sources: Sources) -> Update: ...

    def encoder_hash(self, sources: Sources) -> str: ...


class _HeadAnswer:
    purpose = INTENT_MODEL.name

    def check(self, plan: RoundPlan, sources: Sources) -> None:
        _check_purpose(plan, intent_head.NAME, self.purpose)

    def prepare(self, asked: Asked, sources: Sources) -> Update:
        self.check(asked.plan, sources)
        labels, weights, trainer = asked.labels, asked.weights, asked.trainer
        if asked.learned != weights.size:
            raise WireError(f"the plan is for dimension {asked.plan.dimension}, its model has {weights.size}")
        return lambda accepted: intent_head.compute(accepted, sources.examples, labels, weights, trainer)

    def encoder_hash(self, sources: Sources) -> str:
        return sources.examples.encoder_hash


def _check_purpose(plan: RoundPlan, name: str, purpose: str) -> None:
    if plan.purpose != purpose:
        raise PolicyError(f"{name} is of purpose {purpose!r}, the plan charges {plan.purpose!r}")


class _LayoutAnswer:
    """A contribution that trains nothing: its vector is arithmetic over what the device keeps."""

    def __init__(self, name: str, version: int, purpose: str) -> None:
        self.name, self.version, self.purpose = name, version, purpose

    def check(self, plan: RoundPlan, sources: Sources) -> None:
        _check_purpose(plan, self.name, self.purpose)
        if plan.contribution_version != self.version or plan.local is not None:
            raise WireError(f"this device computes version {self.version} of {self.name}, which trains nothing")
        if plan.encoder_hash != NO_ENCODER:
            raise WireError(f"{self.name} needs no encoder, the plan names one")
        if plan.dimension - plan.health_dimension > self.most_numbers(sources):
            raise WireError(f"dimension {plan.dimension} is more than {self.name} can have here")

    def prepare(self, asked: Asked, sources: Sources) -> Update:
        self.check(asked.plan, sources)
        vector = self.vector(asked, sources)
        return lambda _: _quietly(vector)

    def encoder_hash(self, sources: Sources) -> str:
        return NO_ENCODER

    def most_numbers(self, sources: Sources) -> int:
        raise NotImplementedError

    def vector(self, asked: Asked, sources: Sources) -> Callable[[], Vector]:
        raise NotImplementedError


class _ItemAnswer(_LayoutAnswer):
    def most_numbers(self, sources: Sources) -> int:
        count = len(_present(sources.items, "a catalogue").catalogue_items())
        if not count:
            raise PolicyError("the active bundle has no catalogue, so that no layout of items can be checked")
        return count if self.name == item_gram.COUNTS else gram_dimension(count)

    def vector(self, asked: Asked, sources: Sources) -> Callable[[], Vector]:
        source = _present(sources.items, "a catalogue")
        layout = ItemLayout.from_document(asked.layout())
        items = layout.chosen(source.catalogue_items())
        asked.expect(layout.size if self.name == item_gram.COUNTS else layout.pairs_dimension)
        return lambda: item_gram.compute(asked.plan, source, items, layout.weight_column())


class _MomentAnswer(_LayoutAnswer):
    def most_numbers(self, sources: Sources) -> int:
        count = len(_present(sources.decisions, "decisions").feature_names())
        return gram_dimension(count) * 2 + count + 6

    def vector(self, asked: Asked, sources: Sources) -> Callable[[], Vector]:
        source = _present(sources.decisions, "decisions")
        layout = MomentLayout.from_document(asked.layout())
        if tuple(source.feature_names()) != layout.features:
            raise WireError("the layout has other features than the decisions of this app")
        _same_range(source.reward_range(), (layout.reward_low, layout.reward_high))
        asked.expect(layout.dimension)
        return lambda: bandit_moments.compute(layout, *source.decided())


class _ValueAnswer(_LayoutAnswer):
    def most_numbers(self, sources: Sources) -> int:
        return VALUE_DIMENSION

    def vector(self, asked: Asked, sources: Sources) -> Callable[[], Vector]:
        source = _present(sources.policies, "decisions")
        judged = JudgedPolicy.from_document(asked.layout())
        if judged.features and tuple(source.feature_names()) != judged.features:
            raise WireError("the judged policy has other features than the decisions of this app")
        _same_range(source.reward_range(), (judged.values.reward_low, judged.values.reward_high))
        asked.expect(VALUE_DIMENSION)
        return lambda: policy_value_sums.compute(judged.values, source.policy_log(judged))


class _DriftAnswer(_LayoutAnswer):
    def most_numbers(self, sources: Sources) -> int:
        return DRIFT_DIMENSION

    def vector(self, asked: Asked, sources: Sources) -> Callable[[], Vector]:
        source = _present(sources.drift, "counts of drift")
        if asked.layout() != drift_layout():
            raise WireError("the layout counts other kinds of drift than this app watches")
        asked.expect(DRIFT_DIMENSION)
        return lambda: drift_count.compute(*source.drifted())


class _GroupAnswer(_LayoutAnswer):
    def most_numbers(self, sources: Sources) -> int:
        slices = _present(sources.groups, "counts of groups").slices
        return sum(len(source.buckets) for source in slices.values()) * len(OUTCOMES)

    def vector(self, asked: Asked, sources: Sources) -> Callable[[], Vector]:
        source = _present(sources.groups, "counts of groups")
        layout, known = FairnessLayout.from_document(asked.layout()), source.slices
        if any(known.get(name) != slices for name, slices in layout.slices.items()):
            raise WireError("the layout asks about groups that this app has not declared")
        asked.expect(layout.dimension)
        return lambda: fairness_slices.compute(layout, source.counts(), known)


ANSWERS: Mapping[str, Answer] = {
    intent_head.NAME: _HeadAnswer(),
    item_gram.COUNTS: _ItemAnswer(item_gram.COUNTS, item_gram.VERSION, PREFERENCE_MODEL.name),
    item_gram.NAME: _ItemAnswer(item_gram.NAME, item_gram.VERSION, PREFERENCE_MODEL.name),
    bandit_moments.NAME: _MomentAnswer(bandit_moments.NAME, bandit_moments.VERSION, SUGGESTION_MODEL.name),
    policy_value_sums.NAME: _ValueAnswer(policy_value_sums.NAME, policy_value_sums.VERSION, QUALITY_CHECK.name),
    fairness_slices.NAME: _GroupAnswer(fairness_slices.NAME, fairness_slices.VERSION, QUALITY_CHECK.name),
    drift_count.NAME: _DriftAnswer(drift_count.NAME, drift_count.VERSION, QUALITY_CHECK.name),
}
"""Every contribution that a plan can name: nothing else is compiled in."""


def answer_for(contribution: str) -> Answer:
    """Raises PolicyError for a contribution that is not compiled in."""
    answer = ANSWERS.get(contribution)
    if answer is None:
        raise PolicyError(f"this version of the app cannot contribute {contribution!r}")
    return answer


def _present(source: Found | None, what: str) -> Found:
    if source is None:
        raise PolicyError(f"this app keeps no {what}, so that it cannot contribute any")
    return source


def _same_range(own: tuple[float, float], asked: tuple[float, float]) -> None:
    if tuple(map(float, own)) != tuple(map(float, asked)):
        raise WireError("the layout is for another range of rewards than this app's")


def _quietly(vector: Callable[[], Vector]) -> Vector:
    """From here on the plan is accepted and paid for: whatever the user's data do, zeros go out and no refusal."""
    try:
        return vector()
    except (RefusedError, WireError) as error:
        raise ContributionError(f"the update failed with {type(error).__name__}") from error
