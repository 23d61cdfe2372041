"""What this device keeps, as contributions read it: tastes and suggestions with what came of them.

Without consent to personalisation the rooms say nothing, and so do these: zeros go out then (edge_client.share.answers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_client.decide.policy_value import Log
from edge_client.decide.preference import Signal
from edge_client.share.sources import FloatArray
from shared_models.layouts import LINEAR, PRIOR, JudgedPolicy
from shared_models.travel.action_features import REWARD_HIGH, REWARD_LOW, declared_prior, feature_names

if TYPE_CHECKING:
    from edge_client.decide.learned_records import Outcome
    from shared_models.bandit_prior import BanditPrior
    from shared_models.travel.catalogue import Catalogue

LIKED = ("chosen", "like", "save")
DISLIKED = ("dislike", "dismiss")


def liked_items(signals: Iterable[Signal]) -> list[str]:
    """Items that the user likes by the latest clear word on each; what was only looked at says nothing."""
    says: dict[str, tuple[float, bool]] = {}
    for signal in signals:
        if signal.kind == "rating":
            if signal.value is None or signal.value == 0.0:
                continue
            liked = signal.value > 0.0
        elif signal.kind in LIKED or signal.kind in DISLIKED:
            liked = signal.kind in LIKED
        else:
            continue
        if signal.item not in says or signal.time_s >= says[signal.item][0]:
            says[signal.item] = signal.time_s, liked
    return [item for item, (_, liked) in says.items() if liked]


def judged_log(outcomes: Sequence[Outcome], judged: JudgedPolicy, prior: BanditPrior) -> Log:
    """The decisions among candidates that still have the prior's features, and what `judged` would have done in each.

    The reward model is the prior's mean, within the range of rewards: it need not be right for the estimate to be unbiased.
    """
    count = len(prior.features)
    rows = [one for one in outcomes if one.item and one.candidates.shape[1:] == (count,) and len(one.candidates)]
    propensity, target, reward, chosen, expected = (np.zeros(len(rows)) for _ in range(5))
    theta = np.asarray(judged.theta, dtype=np.float64) if judged.target == LINEAR else prior.mean
    for place, one in enumerate(rows):
        guess = np.clip(one.candidates @ prior.mean, prior.reward_low, prior.reward_high)
        if judged.target in (LINEAR, PRIOR):
            wanted = np.zeros(len(one.candidates))
            wanted[int(np.argmax(one.candidates @ theta))] = 1.0
        else:
            wanted = np.full(len(one.candidates), 1.0 / len(one.candidates))
        propensity[place], reward[place] = one.propensity, one.reward
        target[place], chosen[place], expected[place] = wanted[one.chosen], guess[one.chosen], wanted @ guess
    return Log(propensity, target, reward, chosen, expected)


class KeptTaste:
    """An `ItemSource` and a `DecisionSource` and a `PolicyLogSource`: of the travel domain, whose items are its destinations."""

    def __init__(
        self,
        catalogue: Callable[[], Catalogue | None],
        prior: Callable[[], BanditPrior | None],
        signals: Callable[[], Iterable[Signal]],
        outcomes: Callable[[], Sequence[Outcome]],
    ) -> None:
        """The first two are of the active bundle, the last two of the user and empty without consent."""
        self._catalogue, self._prior, self._signals, self._outcomes = catalogue, prior, signals, outcomes

    def catalogue_items(self) -> Sequence[str]:
        catalogue = self._catalogue()
        return () if catalogue is None else tuple(catalogue.rows)

    def liked_items(self) -> Sequence[str]:
        return liked_items(self._signals())

    def feature_names(self) -> Sequence[str]:
        catalogue = self._catalogue()
        return () if catalogue is None else feature_names(catalogue.feature_names)

    def reward_range(self) -> tuple[float, float]:
        return REWARD_LOW, REWARD_HIGH

    def decided(self) -> tuple[FloatArray, FloatArray]:
        count = len(self.feature_names())
        # Outcomes of an older catalogue have other features; answers to questions are no decisions.
        rows = [one for one in self._outcomes() if one.item and one.features.shape == (count,)]
        features = np.array([one.features for one in rows], dtype=np.float64).reshape(len(rows), count)
        return features, np.array([one.reward for one in rows], dtype=np.float64)

    def policy_log(self, judged: JudgedPolicy) -> Log:
        catalogue, prior = self._catalogue(), self._prior()
        names = self.feature_names()
        if catalogue is not None and (prior is None or prior.features != names):
            # As in choosing: a published prior over other features is passed over for the declared one.
            prior = declared_prior(catalogue.feature_names)
        if prior is None:
            nothing = np.zeros(0)
            return Log(nothing, nothing, nothing, nothing, nothing)
        return judged_log(self._outcomes(), judged, prior)
