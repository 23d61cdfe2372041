"""The generator of travellers: reproducible, within its declared limits, and disturbed as declared."""

from __future__ import annotations

import numpy as np
import pytest

from shared_models.errors import ConfigError
from shared_models.travel.catalogue import load_catalogue
from shared_models.travel.simulator import Disturbance, Habits, Traveller, World

CATALOGUE = load_catalogue()
WORLD = World.drawn(CATALOGUE, 0)


def test_the_same_seed_is_the_same_traveller() -> None:
    one, other, third = Traveller(WORLD, 1), Traveller(WORLD, 1), Traveller(WORLD, 2)
    assert one.declared == other.declared
    assert np.array_equal(one.probabilities(), other.probabilities())
    assert not np.array_equal(one.probabilities(), third.probabilities())
    assert [one.answer(5) for _ in range(20)] == [other.answer(5) for _ in range(20)]


def test_nothing_beyond_a_hard_limit_is_accepted() -> None:
    for seed in range(20):
        traveller = Traveller(WORLD, seed)
        truth, allowed = traveller.probabilities(), traveller.allowed()
        assert ((truth > 0.0) == allowed).all()
        barred = [
            row for row, place in enumerate(CATALOGUE.destinations) if place.country in traveller.declared.avoided
        ]
        assert not allowed[barred].any()


def test_most_places_are_refused_and_some_are_loved() -> None:
    truths = [Traveller(WORLD, seed).probabilities() for seed in range(40)]
    assert 0.05 < np.mean([truth.mean() for truth in truths]) < 0.2
    assert np.mean([truth.max() for truth in truths]) > 0.8


def test_seasons_change_what_is_liked() -> None:
    traveller, best = Traveller(WORLD, 3), set()
    for _ in range(41):
        best.add(int(traveller.probabilities().argmax()))
        traveller.next_session()
    assert len(best) >= 3
    assert traveller.situation().session == 41


def test_a_place_is_enough_for_a_while() -> None:
    traveller = Traveller(WORLD, 4)
    row = int(traveller.probabilities().argmax())
    before = traveller.probabilities()[row]
    while not traveller.answer(row):
        pass
    assert traveller.trips == 1
    tired = traveller.probabilities()[row]
    assert tired < before - 0.05
    for _ in range(41):  # a year later, in the same month
        traveller.next_session()
    assert traveller.probabilities()[row] > tired + 0.03


def test_noise_turns_its_part_of_the_answers_round() -> None:
    barred = [Traveller(WORLD, seed, Disturbance(noise=0.2)) for seed in range(30)]
    answers = [
        traveller.answer(int(np.flatnonzero(~traveller.allowed())[0])) for traveller in barred for _ in range(50)
    ]
    assert np.mean(answers) == pytest.approx(0.2, abs=0.04)
    assert sum(traveller.trips for traveller in barred) == 0


def test_a_hostile_user_says_the_opposite_for_as_long_as_declared() -> None:
    traveller = Traveller(WORLD, 5, Disturbance(hostile_sessions=1))
    row = int(np.flatnonzero(~traveller.allowed())[0])
    assert traveller.answer(row)
    assert traveller.reason(row) == ""
    traveller.next_session()
    row = int(np.flatnonzero(~traveller.allowed())[0])
    assert not traveller.answer(row)


@pytest.mark.parametrize("drift", ["jump", "walk"])
def test_tastes_drift_as_declared(drift: str) -> None:
    moved = []
    for seed in range(10):
        still = Traveller(WORLD, seed, sessions=40)
        drifting = Traveller(WORLD, seed, Disturbance(drift=drift), sessions=40)  # type: ignore[arg-type]
        assert np.array_equal(still.probabilities(), drifting.probabilities())
        for _ in range(40):
            still.next_session()
            drifting.next_session()
        moved.append(np.abs(still.probabilities() - drifting.probabilities()).mean())
    assert np.mean(moved) > 0.03


def test_reasons_are_only_those_that_weigh() -> None:
    traveller = Traveller(WORLD, 6, sessions=10)
    dear = int(CATALOGUE.prices[:, 1].argmax())
    said = {traveller.reason(dear) for _ in range(60)}
    assert "" in said
    assert said <= {"", "expensive", "hot", "cold", "far"}
    assert len(said) == 2


def test_habits_are_finite_numbers() -> None:
    with pytest.raises(ConfigError):
        Habits(price=float("nan"))
