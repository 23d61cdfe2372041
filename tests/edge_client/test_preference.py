"""A taste folded in on the device: what each signal says, what noise may not do, and that few signals change little."""

from __future__ import annotations

import dataclasses
import functools
import random as pure_random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.decide.preference import (
    CLEAR,
    STRENGTHS,
    Signal,
    Taste,
    fold_in,
    gather,
    learn_strengths,
    ridge,
    suggest,
)
from shared_models.errors import InputError, SignalError
from shared_models.preference import ItemSpace, ItemSpaceSession, to_onnx

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
GROUP = 5
BEACH, CITY, SNOW = (tuple(f"{name} {number}" for number in range(GROUP)) for name in ("beach", "city", "snow"))
ITEMS = (*BEACH, *CITY, *SNOW)


@functools.cache
def space(head: bool = True) -> ItemSpaceSession:
    """Three groups of five items; who likes one of a group likes the others. Earlier items of a group are more popular."""
    same = np.kron(np.eye(3), np.ones((GROUP, GROUP))) - np.eye(15)
    factors = np.kron(np.eye(3), np.full((GROUP, 1), 1.5)).astype(np.float32)
    prior = np.log(np.tile(1.0 / np.arange(2, GROUP + 2), 3) / 4.35).astype(np.float32)
    prior += np.float32(0.01) * np.repeat(np.array([2, 1, 0], np.float32), GROUP)
    shape = (15, 15 if head else 0)
    linear = (0.2 * same).astype(np.float32)[:, : shape[1]]
    odds = (1.5 * same - 0.8 * (1 - same - np.eye(15))).astype(np.float32)[:, : shape[1]]
    transfer = np.zeros((15 - shape[1], shape[1]), np.float32)
    return ItemSpaceSession(to_onnx(ItemSpace(ITEMS, prior, linear, odds, factors, transfer)))


def did(item: str, kind: str, days_ago: float = 0.0, **more: float) -> Signal:
    return Signal(item, kind, NOW_S - days_ago * DAY_S, **more)


def taste(*signals: Signal, head: bool = True) -> Taste:
    return fold_in(space(head), signals, NOW_S)


def best(*signals: Signal, k: int = 3, head: bool = True, **more: object) -> list[str]:
    return [item.item for item in suggest(space(head), taste(*signals, head=head), k, **more)]


def weight_of(*signals: Signal, item: str = "snow 0") -> float:
    """How surely the user likes it."""
    return float(taste(*signals).history[ITEMS.index(item)])


# -- what a signal does ------------------------------------------------------------------------------------------------


def test_a_new_user_gets_what_the_population_likes() -> None:
    assert best() == ["beach 0", "city 0", "snow 0"]
    nobody = taste()
    assert nobody.amount == 0
    assert not nobody.history.any()
    assert not nobody.user.any()
    assert np.array_equal(nobody.covariance, np.eye(3))


@pytest.mark.parametrize("head", [True, False])
def test_a_like_brings_its_like(head: bool) -> None:
    found = best(did("snow 1", "like"), k=2, head=head, excluded=["snow 1"])
    assert set(found) <= set(SNOW)


@pytest.mark.parametrize("head", [True, False])
def test_a_dislike_takes_its_like_away_and_never_comes_back(head: bool) -> None:
    found = best(did("beach 1", "dislike"), k=15, head=head)
    assert "beach 1" not in found
    before = best(k=15, head=head)
    assert found.index("beach 0") > before.index("beach 0")


def test_what_the_user_has_had_is_not_suggested_unless_asked_for() -> None:
    signals = [did("snow 0", "chosen")]
    assert "snow 0" not in best(*signals, k=15)
    assert "snow 0" in [item.item for item in suggest(space(), taste(*signals), 15, again=True)]


@functools.cache
def space_with_a_tail() -> ItemSpaceSession:
    """The snow group lies outside the head; each of its items stands for "beach 0"."""
    head = 10
    same = np.kron(np.eye(3), np.ones((GROUP, GROUP)))[:, :head] * (1 - np.eye(15)[:, :head])
    transfer = np.zeros((5, head), np.float32)
    transfer[:, 0] = 1.0
    small = (0.2 * same).astype(np.float32)
    prior = np.full(15, -2.7, np.float32)
    return ItemSpaceSession(to_onnx(ItemSpace(ITEMS, prior, small, 5 * small, np.zeros((15, 0), np.float32), transfer)))


def test_an_item_outside_the_head_counts_as_what_it_is_like_and_is_not_suggested_again() -> None:
    found = fold_in(space_with_a_tail(), [did("snow 2", "chosen")], NOW_S)
    assert found.history[0] == pytest.approx(1.0)
    suggested = [item.item for item in suggest(space_with_a_tail(), found, 15)]
    assert "snow 2" not in suggested
    # What it stands for was not had by the user.
    assert "beach 0" in suggested
    assert set(suggested[:4]) == set(BEACH[1:])


def test_what_is_excluded_is_left_out_and_unknown_names_are_passed_over() -> None:
    found = best(k=15, excluded=["beach 0", "no such item"])
    assert "beach 0" not in found
    assert len(found) == 14
    assert best(did("no such item", "like")) == best()


def test_stronger_words_weigh_more() -> None:
    strengths = [
        weight_of(did("snow 0", kind, **more))
        for kind, more in (("look", {"dwell_s": 30.0}), ("click", {}), ("save", {}), ("like", {}))
    ]
    assert strengths == sorted(strengths)
    assert strengths[0] > 0
    assert strengths[-1] == pytest.approx(1.0)


def test_a_rating_is_its_own_value() -> None:
    assert weight_of(did("snow 0", "rating", value=0.4)) == pytest.approx(0.4)
    assert weight_of(did("snow 0", "rating", value=-0.4)) == 0
    assert taste(did("snow 0", "rating", value=-0.4)).user[2] < 0


def test_old_signals_fade_and_clear_ones_last_longer() -> None:
    fresh, old, older = (weight_of(did("snow 0", "click", days)) for days in (0, 45, 90))
    assert old == pytest.approx(fresh / 2)
    assert older == pytest.approx(fresh / 4)
    assert weight_of(did("snow 0", "like", 90)) > 0.8


def test_a_later_clear_word_replaces_the_earlier() -> None:
    changed = [did("snow 0", "like", 30), did("snow 0", "dislike", 1)]
    assert weight_of(*changed) == 0
    assert taste(*changed).against == (ITEMS.index("snow 0"),)
    assert weight_of(*reversed([did("snow 0", "like", 1), did("snow 0", "dislike", 30)])) > 0.9


# -- what noise may not do ---------------------------------------------------------------------------------------------


def test_an_accidental_look_says_nearly_nothing() -> None:
    assert weight_of(did("snow 0", "look", dwell_s=0.5)) == 0
    assert weight_of(did("snow 0", "look", dwell_s=0.5)) < 0.1 * weight_of(did("snow 0", "look", dwell_s=25.0))


def test_a_look_that_was_left_open_is_a_usual_one() -> None:
    assert weight_of(did("snow 0", "look", dwell_s=8 * 3600.0)) == weight_of(did("snow 0", "look", dwell_s=20.0))


def test_who_reads_slowly_does_not_like_everything() -> None:
    slow = [did(item, "look", dwell_s=200.0) for item in ITEMS if item != "snow 0"]
    assert weight_of(*slow, did("snow 0", "look", dwell_s=20.0)) < weight_of(did("snow 0", "look", dwell_s=20.0))


def test_a_burst_of_clicks_is_one_click() -> None:
    burst = [Signal("snow 0", "click", NOW_S + 0.1 * number) for number in range(30)]
    assert weight_of(*burst) == pytest.approx(weight_of(did("snow 0", "click")))


def test_a_thousand_clicks_never_weigh_more_than_one_clear_word() -> None:
    clicks = [did("snow 0", "click", number / 100) for number in range(1000)]
    assert weight_of(*clicks) <= 0.5 * weight_of(did("snow 0", "like"))
    assert set(best(*clicks, did("city 0", "like"), k=2, excluded=["snow 0"])) <= set(CITY)


def test_a_few_wrong_clicks_do_not_turn_a_taste() -> None:
    likes = [did(item, "like", 5) for item in CITY[:2]]
    wrong = [did(item, "click") for item in (*BEACH[3:], *SNOW[3:])]
    assert set(best(*likes, *wrong, k=3)) == set(CITY[2:])


def test_one_rating_that_fits_nothing_else_pulls_with_bounded_force() -> None:
    vectors = np.ones((11, 1), np.float32)
    values, weights = np.array([1.0] * 10 + [-1.0]), np.ones(11)
    plain = float((values * weights).sum() / (1 + weights.sum()))
    mean, _ = ridge(vectors, values, weights)
    assert float(mean[0]) > plain + 0.05
    assert float(ridge(vectors[:10], values[:10], weights[:10])[0][0]) - float(mean[0]) < 0.12


def test_few_signals_leave_the_populations_ranking_nearly_as_it_is() -> None:
    assert set(best(did("snow 4", "look", dwell_s=3.0))) == set(best())
    small, large = (ridge(np.ones((1, 2), np.float32), np.ones(1), np.array([weight]))[0] for weight in (0.05, 1.0))
    assert float(np.linalg.norm(small)) < 0.2 * float(np.linalg.norm(large))


def test_what_is_not_known_yet_shrinks_with_evidence() -> None:
    before, after = taste(head=False), taste(did("snow 0", "like"), head=False)
    assert after.covariance[2, 2] < before.covariance[2, 2]
    assert after.covariance[0, 0] == pytest.approx(before.covariance[0, 0])
    assert after.amount == pytest.approx(1.0)


# -- learning what signals mean ------------------------------------------------------------------------------------------


def test_clicks_that_are_followed_by_dislikes_come_to_mean_less() -> None:
    signals = [signal for item in ITEMS for signal in (did(item, "click", 2), did(item, "dislike", 1))]
    learned = learn_strengths(signals)
    assert learned["click"].value < STRENGTHS["click"].value - 0.3
    assert learned["look"] == STRENGTHS["look"]
    assert all(learned[kind] == STRENGTHS[kind] for kind in CLEAR)
    click = [did("snow 0", "click")]
    assert gather(click, NOW_S, learned)["snow 0"][0] < gather(click, NOW_S, STRENGTHS)["snow 0"][0]


def test_one_observation_changes_a_strength_little_however_often_it_was_clicked() -> None:
    signals = [*(did("snow 0", "click", number) for number in range(200)), did("snow 0", "dislike")]
    assert abs(learn_strengths(signals)["click"].value - STRENGTHS["click"].value) < 0.1


# -- whatever comes -------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from((*ITEMS, "unknown")),
            st.sampled_from(sorted(STRENGTHS)),
            st.floats(0, 1e11),
            st.floats(-1, 1),
            st.one_of(st.none(), st.floats(0, 1e9)),
        ),
        max_size=40,
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_signals_in_any_order_give_one_finite_taste(rows: list[tuple], head: bool) -> None:
    signals = [
        Signal(
            item,
            kind,
            time_s,
            value if kind == "rating" else None,
            dwell_s if kind == "look" else None,
        )
        for item, kind, time_s, value, dwell_s in {(row[0], row[1], row[2]): row for row in rows}.values()
    ]
    found = fold_in(space(head), signals, NOW_S)
    assert np.isfinite(found.user).all()
    assert np.isfinite(found.covariance).all()
    assert ((found.history >= 0) & (found.history <= 1)).all()
    assert np.linalg.eigvalsh(found.covariance).min() > 0
    suggested = suggest(space(head), found, 15)
    assert len({item.item for item in suggested}) == len(suggested)
    # Only ties in time may be resolved by order.
    if len({signal.time_s for signal in signals}) == len(signals):
        shuffled = pure_random.Random(0).sample(signals, len(signals))
        again = fold_in(space(head), shuffled, NOW_S)
        assert np.allclose(again.history, found.history, atol=1e-6)
        assert np.allclose(again.user, found.user, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"item": ""},
        {"item": "x" * 101},
        {"item": 3},
        {"kind": "stare"},
        {"kind": ["like"]},
        {"time_s": float("nan")},
        {"time_s": -1.0},
        {"time_s": 1e300},
        {"time_s": "now"},
        {"time_s": True},
        {"value": 0.5},
        {"kind": "rating"},
        {"kind": "rating", "value": 1.1},
        {"kind": "rating", "value": float("nan")},
        {"dwell_s": 3.0},
        {"kind": "look", "dwell_s": -1.0},
        {"kind": "look", "dwell_s": float("inf")},
    ],
)
def test_a_signal_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(SignalError):
        Signal(**{"item": "snow 0", "kind": "like", "time_s": NOW_S, **fields})
    assert issubclass(SignalError, InputError)


def test_a_clock_that_makes_no_sense_is_refused_and_one_that_is_behind_makes_nothing_stronger() -> None:
    with pytest.raises(SignalError):
        fold_in(space(), [], float("nan"))
    ahead = fold_in(space(), [Signal("snow 0", "like", NOW_S + 1e6)], NOW_S)
    assert ahead.history.max() == pytest.approx(1.0)


def test_a_signal_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        did("snow 0", "like").kind = "dislike"  # type: ignore[misc]
