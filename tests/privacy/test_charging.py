"""The dearest rounds that one device can have answered, against every subset tried in turn."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.charging import Charge, dearest
from shared_models.errors import ConfigError


def by_brute_force(charges: list[Charge], most: int, separation_s: int) -> float:
    """The largest Σρ of any subset that a device can answer: each as early as it can, in any order at all."""

    def answerable(chosen: tuple[Charge, ...]) -> bool:
        last_s: float = float("-inf")
        for item in chosen:
            last_s = max(item.earliest_s, last_s + separation_s)
            if last_s > item.latest_s:
                return False
        return True

    return max(
        sum(item.rho for item in chosen)
        for count in range(min(most, len(charges)) + 1)
        for chosen in itertools.combinations(charges, count)
        if any(map(answerable, itertools.permutations(chosen)))
    )


COSTS = st.integers(1, 9).map(float)
AT_ONCE = st.lists(st.builds(lambda rho, at_s: Charge(rho, at_s, at_s), COSTS, st.integers(0, 30)), max_size=6)
WINDOWS = st.lists(
    st.builds(lambda rho, at_s, wait_s: Charge(rho, at_s, at_s + wait_s), COSTS, st.integers(0, 30), st.integers(0, 9)),
    max_size=6,
)


@settings(deadline=None, max_examples=150)
@given(AT_ONCE, st.integers(0, 6), st.integers(0, 20))
def test_it_is_exact_for_rounds_that_are_answered_at_once(charges: list[Charge], most: int, separation_s: int) -> None:
    chosen = dearest(charges, most, separation_s)
    assert len(set(chosen)) == len(chosen) <= most
    assert sum(charges[index].rho for index in chosen) == by_brute_force(charges, most, separation_s)


@settings(deadline=None, max_examples=150)
@given(WINDOWS, st.integers(0, 5), st.integers(0, 20))
def test_it_never_charges_too_little_when_devices_may_answer_late(
    charges: list[Charge], most: int, separation_s: int
) -> None:
    charged = sum(charges[index].rho for index in dearest(charges, most, separation_s))
    assert charged >= by_brute_force(charges, most, separation_s)
    assert charged <= sum(sorted((item.rho for item in charges), reverse=True)[:most])


def test_a_late_answer_and_a_prompt_one_can_be_too_far_apart_for_reserve_times_to_tell() -> None:
    """Reserved 500 s apart with a separation of 600 s, and yet both can be answered: at 0 s and at 600 s."""
    assert dearest([Charge(1.0, 0, 600), Charge(1.0, 500, 1100)], 2, 600) == [0, 1]
    assert len(dearest([Charge(1.0, 0, 50), Charge(1.0, 500, 550)], 2, 600)) == 1


def test_a_round_that_may_be_answered_before_and_after_another_is_charged_with_it() -> None:
    """The window of one lies around that of the other: at 5 s and at 13 s."""
    assert sorted(dearest([Charge(1.0, 5, 14), Charge(1.0, 7, 13)], 2, 8)) == [0, 1]


def test_thousands_of_rounds_are_charged_in_moments() -> None:
    charges = [Charge(1.0 + index % 7, 100 * index, 100 * index + 60) for index in range(1000)]
    assert len(dearest(charges, 8, 1000)) == 8


@pytest.mark.parametrize("bad", [([], -1, 0), ([], 1, -1), ([Charge(1.0, 2, 1)], 1, 1)])
def test_figures_that_cannot_be_are_refused(bad: tuple[list[Charge], int, int]) -> None:
    with pytest.raises(ConfigError):
        dearest(*bad)
