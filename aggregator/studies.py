"""What a fleet learns besides its intent head: one study for each, of one round or two, whose sums become artefacts.

A study says which round is next, given the sums that were released already, and makes its artefacts of them. All of that is
deterministic post-processing of stored releases: whoever is killed does it again and gets the same. Nothing here touches a grid,
a file or a clock; `aggregator.rounds` runs the rounds and keeps what comes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aggregator.releases import bandit_prior, drift_count, fairness_slices, item_space, policy_value
from privacy.mechanisms import NoisySum
from shared_models.bandit_prior import MomentLayout
from shared_models.canonical import canonical_bytes
from shared_models.drift import DIMENSION as DRIFT_DIMENSION
from shared_models.drift import layout_document as drift_layout
from shared_models.fairness import FairnessLayout
from shared_models.layouts import ItemLayout, JudgedPolicy, items_hash
from shared_models.policy_value import DIMENSION as VALUE_DIMENSION
from shared_models.preference import MAX_HEAD, to_onnx


@dataclass(frozen=True)
class Step:
    """One round that a study needs."""

    contribution: str
    version: int
    layout: Mapping[str, Any]
    """Public, canonical: devices check it against what they know (shared_models.layouts)."""
    dimension: int
    """Numbers of the vector, without those that stay zero on every device."""
    noise_factor: float = 1.0
    """Variance of this round's noise over the least that the policy allows: a round that costs less has more."""


@dataclass(frozen=True, eq=False)
class ReleasedSum:
    """One released round of a study."""

    round_id: int
    contribution: str
    layout: Mapping[str, Any]
    total: NoisySum
    """Without the coordinates that stay zero."""


@dataclass(frozen=True)
class Made:
    """Artefacts, and the rounds that they were made of."""

    rounds: tuple[int, ...]
    artifacts: Mapping[str, bytes]


class Study(Protocol):
    """See `Step`, `Made`. `done` are the released rounds of its contributions that no artefact was made of yet, oldest first."""

    @property
    def name(self) -> str:
        """What operators type: the name of its last contribution."""

    @property
    def purpose(self) -> str: ...

    @property
    def contributions(self) -> tuple[str, ...]: ...

    def next_step(self, done: Sequence[ReleasedSum]) -> Step | None:
        """The round that comes next; None when all are there."""

    def make(self, done: Sequence[ReleasedSum]) -> Made:
        """Called when `next_step` says None."""


@dataclass(frozen=True, eq=False)
class ItemSpaceStudy:
    """`item_gram` over a catalogue → items.json, items.onnx. Of a large catalogue `item_counts` first, to choose its head."""

    items: tuple[str, ...]
    """Ids of the catalogue, in order."""
    features: npt.NDArray[np.float64] | None = None
    """[items, f], public: what items outside the head are like."""
    most: int = MAX_HEAD
    """Items that are paired."""
    name = item_space.NAME
    purpose = item_space.PURPOSE
    contributions = (item_space.COUNTS, item_space.NAME)

    @property
    def _whole(self) -> ItemLayout:
        return ItemLayout(items_hash(self.items), len(self.items))

    def _counts(self, done: Sequence[ReleasedSum]) -> ReleasedSum | None:
        wanted = self._whole.document()
        return _newest(done, item_space.COUNTS, lambda layout: _same(layout, wanted))

    def _gram(self, done: Sequence[ReleasedSum], counts: ReleasedSum | None) -> ReleasedSum | None:
        """Its head is the one that was sent, and not computed anew: another machine may round its weights otherwise."""
        least = -1 if counts is None else counts.round_id

        def fits(layout: Mapping[str, Any]) -> bool:
            whole = _same(layout, self._whole.document())
            return layout["catalogue"] == self._whole.catalogue and (whole if counts is None else not whole)

        return _newest([x for x in done if x.round_id > least], item_space.NAME, fits)

    def _step(self, contribution: str, layout: ItemLayout, dimension: int) -> Step:
        return Step(contribution, item_space.VERSION, layout.document(), dimension)

    def next_step(self, done: Sequence[ReleasedSum]) -> Step | None:
        counts = None
        head = self._whole
        if len(self.items) > self.most:
            counts = self._counts(done)
            if counts is None:
                return self._step(item_space.COUNTS, self._whole, len(self.items))
            head = self._chosen(counts)
        if self._gram(done, counts) is None:
            return self._step(item_space.NAME, head, head.pairs_dimension)
        return None

    def _chosen(self, counts: ReleasedSum) -> ItemLayout:
        chosen = item_space.choose_head(self.items, counts.total, most=self.most)
        place = {item: number for number, item in enumerate(self.items)}
        head = tuple(place[item] for item in chosen.items)
        return ItemLayout(self._whole.catalogue, len(self.items), head, tuple(chosen.weights.reshape(-1).tolist()))

    def make(self, done: Sequence[ReleasedSum]) -> Made:
        counts = self._counts(done) if len(self.items) > self.most else None
        gram = self._gram(done, counts)
        assert gram is not None
        head = ItemLayout.from_document(gram.layout)
        chosen = head.chosen(self.items)
        taken = set(chosen)
        others = [item for item in self.items if item not in taken]
        place = {item: number for number, item in enumerate(self.items)}
        order = [place[item] for item in (*chosen, *others)]
        read = item_space.read_gram(gram.total, item_space.HeadChoice(chosen, head.weight_column()))
        features = None if self.features is None else self.features[order]
        space = item_space.solve(read, features=features, others=others, version=gram.round_id)
        used = (gram.round_id,) if counts is None else (counts.round_id, gram.round_id)
        return Made(used, {"items.json": item_space.items_document(space), "items.onnx": to_onnx(space)})


@dataclass(frozen=True, eq=False)
class BanditPriorStudy:
    """`bandit_moments` in two rounds, the first for a tenth of ρ → bandit-prior.json."""

    layout: MomentLayout
    """Of the first round (`first_moments`)."""
    intercept: int | None
    """Index of the feature that carries a user's level; None for indicators."""
    intercept_value: float = 1.0
    """What that feature is in every decision."""
    name = bandit_prior.NAME
    purpose = bandit_prior.PURPOSE
    contributions = (bandit_prior.NAME,)

    def _done(self, done: Sequence[ReleasedSum]) -> tuple[ReleasedSum | None, ReleasedSum | None]:
        """The first round, and the second. Of rounds over other features or rewards nothing is taken."""
        wanted = self.layout.document()
        first = _newest(done, self.name, lambda layout: _same(layout, wanted))
        if first is None:
            return None, None
        after = [x for x in done if x.round_id > first.round_id]
        return first, _newest(after, self.name, lambda layout: _same({**layout, **self._own(wanted)}, layout))

    @staticmethod
    def _own(document: Mapping[str, Any]) -> dict[str, Any]:
        """What both rounds have in common."""
        return {name: document[name] for name in ("features", "indicators", "reward_low", "reward_high")}

    def _rough(self, first: ReleasedSum) -> bandit_prior.MeanEstimate:
        return bandit_prior.estimate_mean(bandit_prior.mean_moments(first.total, self.layout), self.layout)

    def next_step(self, done: Sequence[ReleasedSum]) -> Step | None:
        first, second = self._done(done)
        if first is None:
            share = bandit_prior.FIRST_SHARE
            return self._step(self.layout, (1.0 - share) / share)
        if second is None:
            return self._step(bandit_prior.centred(self.layout, self._rough(first)), 1.0)
        return None

    def _step(self, layout: MomentLayout, noise_factor: float) -> Step:
        return Step(self.name, bandit_prior.VERSION, layout.document(), layout.dimension, noise_factor)

    def make(self, done: Sequence[ReleasedSum]) -> Made:
        first, second = self._done(done)
        assert first is not None
        assert second is not None
        # The layout that devices were sent, and not one computed anew: another machine may round otherwise.
        layout = MomentLayout.from_document(second.layout)
        moments = bandit_prior.mean_moments(second.total, layout)
        estimate = bandit_prior.estimate_mean(moments, layout, self._rough(first))
        prior = bandit_prior.prior_from(
            moments, layout, estimate, intercept=self.intercept, intercept_value=self.intercept_value
        )
        return Made((first.round_id, second.round_id), {"bandit-prior.json": prior.to_bytes()})


def first_moments(
    features: tuple[str, ...], *, reward_low: float, reward_high: float, indicators: bool = False
) -> MomentLayout:
    """The layout of a first release, which tells the mean alone."""
    return MomentLayout.plain(
        features,
        indicators=indicators,
        reward_low=reward_low,
        reward_high=reward_high,
        weights=bandit_prior.FIRST_WEIGHTS,
    )


class _OneRound:
    """A study of one round, whose layout is known beforehand."""

    name: str
    contributions: tuple[str, ...]
    version: int
    dimension: int

    @property
    def layout(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def artifacts(self, total: NoisySum) -> dict[str, bytes]:
        raise NotImplementedError

    def _found(self, done: Sequence[ReleasedSum]) -> ReleasedSum | None:
        return _newest(done, self.name, lambda layout: _same(layout, self.layout))

    def next_step(self, done: Sequence[ReleasedSum]) -> Step | None:
        if self._found(done) is not None:
            return None
        return Step(self.name, self.version, self.layout, self.dimension)

    def make(self, done: Sequence[ReleasedSum]) -> Made:
        found = self._found(done)
        assert found is not None
        return Made((found.round_id,), self.artifacts(found.total))


@dataclass(frozen=True)
class PolicyValueStudy(_OneRound):
    """`policy_value_sums` of one policy that is not in force → policy-value.json."""

    judged: JudgedPolicy
    name = policy_value.NAME
    purpose = policy_value.PURPOSE
    contributions = (policy_value.NAME,)
    version = policy_value.VERSION
    dimension = VALUE_DIMENSION

    @property
    def layout(self) -> Mapping[str, Any]:
        return self.judged.document()

    def artifacts(self, total: NoisySum) -> dict[str, bytes]:
        value = policy_value.policy_value_from(total, self.judged.values)
        return {policy_value.ARTIFACT: value.to_bytes(self.judged.target)}


@dataclass(frozen=True)
class DriftStudy(_OneRound):
    """`drift_count` → drift.json."""

    name = drift_count.NAME
    purpose = drift_count.PURPOSE
    contributions = (drift_count.NAME,)
    version = drift_count.VERSION
    dimension = DRIFT_DIMENSION

    @property
    def layout(self) -> Mapping[str, Any]:
        return drift_layout()

    def artifacts(self, total: NoisySum) -> dict[str, bytes]:
        return {drift_count.ARTIFACT: drift_count.drift_from(total).to_bytes()}


@dataclass(frozen=True)
class FairnessStudy(_OneRound):
    """`fairness_slices` → fairness.json."""

    groups: FairnessLayout
    name = fairness_slices.NAME
    purpose = fairness_slices.PURPOSE
    contributions = (fairness_slices.NAME,)
    version = fairness_slices.VERSION

    @property
    def dimension(self) -> int:  # type: ignore[override]
        return self.groups.dimension

    @property
    def layout(self) -> Mapping[str, Any]:
        return self.groups.document()

    def artifacts(self, total: NoisySum) -> dict[str, bytes]:
        return {fairness_slices.ARTIFACT: fairness_slices.fairness_from(total, self.groups).to_bytes()}


def _newest(
    done: Sequence[ReleasedSum], contribution: str, fits: Callable[[Mapping[str, Any]], bool]
) -> ReleasedSum | None:
    return next((x for x in reversed(done) if x.contribution == contribution and fits(x.layout)), None)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    # What was read from the ledger may hold 1 where 1.0 was written: the canonical bytes are the same.
    return canonical_bytes(dict(one)) == canonical_bytes(dict(other))
