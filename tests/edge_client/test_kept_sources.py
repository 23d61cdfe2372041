"""What contributions read on a device: the latest clear word on an item, decisions of today, and nothing without consent."""

from __future__ import annotations

import numpy as np
import pytest

from edge_client.decide.learned_records import Outcome
from edge_client.decide.preference import Signal
from edge_client.share.contributions import bandit_moments, policy_value_sums
from edge_client.share.kept_sources import KeptTaste, judged_log, liked_items
from shared_models.bandit_prior import BanditPrior, BlockWeights, MomentLayout
from shared_models.errors import ConfigError, WireError
from shared_models.layouts import JudgedPolicy
from shared_models.policy_value import ValueLayout
from shared_models.travel.catalogue import load_catalogue

VALUES = ValueLayout(0.0, 1.0)
PRIOR = BanditPrior(("one", "sun"), np.array([0.2, 0.5]), np.eye(2), 0.1, 0.0, 1.0)
ROWS = np.array([[0.3, 0.9], [0.3, 0.1], [0.3, 0.5]])


def outcome(chosen: int = 0, reward: float = 1.0, item: str = "rome", rows: np.ndarray = ROWS) -> Outcome:
    return Outcome(rows[chosen], reward, 0.5, rows, chosen, 0.0, 1.0, item)


def test_the_latest_clear_word_on_an_item_counts() -> None:
    signals = [
        Signal("rome", "like", 1.0),
        Signal("rome", "dislike", 2.0),
        Signal("oslo", "dismiss", 1.0),
        Signal("oslo", "chosen", 2.0),
        Signal("bern", "rating", 1.0, value=0.4),
        Signal("riga", "rating", 1.0, value=-0.4),
        Signal("sofia", "rating", 1.0, value=0.0),
        Signal("paris", "look", 1.0, dwell_s=400.0),
        Signal("kyoto", "click", 1.0),
        Signal("nice", "save", 9.0),
        Signal("nice", "dislike", 3.0),
    ]
    assert liked_items(signals) == ["oslo", "bern", "nice"]
    assert liked_items([]) == []


def test_a_log_says_what_the_judged_policy_would_have_done() -> None:
    outcomes = [outcome(0), outcome(1, 0.0), outcome(0, item=""), outcome(rows=np.ones((2, 3)))]
    log = judged_log(outcomes, JudgedPolicy("prior", VALUES), PRIOR)
    # An answer to a question and a decision over other features are none of these.
    assert log.target.tolist() == [1.0, 0.0]
    assert log.reward.tolist() == [1.0, 0.0]
    assert log.model_target == pytest.approx([0.51, 0.51])
    assert log.model_chosen == pytest.approx([0.51, 0.11])
    assert judged_log(outcomes, JudgedPolicy("uniform", VALUES), PRIOR).target == pytest.approx([1 / 3, 1 / 3])
    darkest = JudgedPolicy("linear", VALUES, PRIOR.features, (0.0, -1.0))
    assert judged_log(outcomes, darkest, PRIOR).target.tolist() == [0.0, 1.0]
    vector = policy_value_sums.compute(VALUES, log)
    assert 0.0 < np.linalg.norm(vector) <= 1.0


@pytest.mark.parametrize(
    ("target", "features", "theta"),
    [
        ("mood", (), ()),
        ("linear", (), ()),
        ("prior", ("one",), (1.0,)),
        ("linear", ("one",), (1.0, 2.0)),
        ("linear", ("a",), (1e9,)),
    ],
)
def test_a_policy_that_cannot_be_judged_is_refused(
    target: str, features: tuple[str, ...], theta: tuple[float, ...]
) -> None:
    with pytest.raises(ConfigError):
        JudgedPolicy(target, VALUES, features, theta)
    document = {"target": target, "values": VALUES.document(), "features": list(features), "theta": list(theta)}
    with pytest.raises(WireError):
        JudgedPolicy.from_document(document)


def test_who_kept_nothing_contributes_zeros_of_the_right_size() -> None:
    catalogue = load_catalogue()
    taste = KeptTaste(lambda: catalogue, lambda: None, tuple, tuple)
    names = tuple(taste.feature_names())
    features, rewards = taste.decided()
    assert features.shape == (0, len(names))
    layout = MomentLayout.plain(names, indicators=False, reward_low=0.0, reward_high=1.0, weights=BlockWeights())
    assert not bandit_moments.compute(layout, features, rewards).any()
    assert not policy_value_sums.compute(VALUES, taste.policy_log(JudgedPolicy("prior", VALUES))).any()
    assert list(taste.catalogue_items()) == list(catalogue.rows)
    assert taste.liked_items() == []


def test_a_bundle_without_a_catalogue_has_nothing_to_check_a_layout_with() -> None:
    taste = KeptTaste(lambda: None, lambda: None, tuple, lambda: [outcome()])
    assert (taste.catalogue_items(), taste.feature_names()) == ((), ())
    assert len(taste.policy_log(JudgedPolicy("prior", VALUES))) == 0
    assert taste.decided()[0].shape == (0, 0)
