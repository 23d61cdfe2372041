"""Drift on a device: a change is found, no change raises few alarms, memory stays bounded, and what is kept goes with consent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.decide.bandit import Exploration
from edge_client.decide.drift import BUCKETS, CALM_AFTER_S, MOST_LEVELS, DriftDetector, Unrest
from edge_client.improve.drift_watch import KEEP_EVERY, PERIOD_S, DriftWatch
from edge_client.know.consent import Consent
from edge_client.know.store import Store
from edge_client.share.contributions import drift_count
from shared_models.drift import FALSE_ALARMS, KINDS, MOST_WATCHED
from shared_models.errors import DecisionError

KEY = bytes(range(32))
NOW_S = 1_800_000_000.0


def alarms(detector: DriftDetector, values: np.ndarray) -> list[int]:
    return [number for number, value in enumerate(values) if detector.observe(float(value))]


def test_a_change_for_the_worse_is_found_soon_and_raises_one_alarm() -> None:
    random = np.random.default_rng(0)
    delays = []
    for _ in range(10):
        detector = DriftDetector()
        alarms(detector, random.random(200) < 0.1)
        found = alarms(detector, random.random(200) < 0.6)
        assert found
        delays.append(found[0])
        assert len(found) <= 2
    assert np.median(delays) <= 25


def test_what_gets_better_is_no_alarm() -> None:
    random = np.random.default_rng(1)
    detector = DriftDetector()
    assert not alarms(detector, np.concatenate([random.random(200) < 0.5, random.random(200) < 0.1]))


@pytest.mark.deep
@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_without_a_change_no_more_alarms_than_stated(rate: float) -> None:
    random = np.random.default_rng(2)
    streams = 100
    raised = sum(bool(alarms(DriftDetector(), random.random(MOST_WATCHED) < rate)) for _ in range(streams))
    # Two standard deviations of what so few streams can show.
    assert raised / streams <= FALSE_ALARMS + 2 * np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / streams)


def test_without_a_change_there_are_few_alarms() -> None:
    random = np.random.default_rng(3)
    raised = sum(bool(alarms(DriftDetector(), random.beta(0.6, 2.4, 300))) for _ in range(12))
    assert raised <= 1


def test_memory_is_bounded_however_long_the_stream() -> None:
    detector = DriftDetector()
    for number in range(2000):
        detector.observe(float(number % 2))
    assert sum(map(len, detector.document()["levels"])) <= BUCKETS * MOST_LEVELS + 1
    assert len(detector) == 2000
    assert detector.mean == pytest.approx(0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), max_size=200), st.lists(st.floats(0.0, 1.0), max_size=60))
def test_what_was_kept_goes_on_as_if_nothing_had_happened(first: list[float], second: list[float]) -> None:
    one, other = DriftDetector(), DriftDetector()
    for value in first:
        one.observe(value)
    other.restore(json.loads(json.dumps(one.document())))
    assert [one.observe(value) for value in second] == [other.observe(value) for value in second]
    assert len(one) == len(other)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "1", None, [0.5]])
def test_a_number_that_is_none_changes_nothing(value: object) -> None:
    detector = DriftDetector()
    detector.observe(0.5)
    with pytest.raises(DecisionError):
        detector.observe(value)  # type: ignore[arg-type]
    assert len(detector) == 1


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"format": 2, "levels": [[]]},
        {"format": 1, "levels": []},
        {"format": 1, "levels": [[[5.0, 5.0, 0.0]]]},
        {"format": 1, "levels": [[[float("nan"), 0.0, 0.0]]]},
        {"format": 1, "levels": [[[0.5]]]},
        {"format": 1, "levels": [[[0.5, 0.25, 0.0]] * 50]},
    ],
)
def test_a_state_that_no_detector_wrote_is_refused_and_changes_nothing(document: dict[str, object]) -> None:
    detector = DriftDetector()
    detector.observe(1.0)
    with pytest.raises(DecisionError):
        detector.restore(document)
    assert len(detector) == 1


def test_after_a_change_of_taste_more_is_tried_and_more_forgotten_until_it_calms() -> None:
    usual = Exploration("thompson", spread=0.15, floor=0.02)
    fresh, old, never = (Unrest.since(at_s, NOW_S) for at_s in (NOW_S, NOW_S - CALM_AFTER_S, None))
    assert fresh.exploration(usual).spread == pytest.approx(0.3)
    assert fresh.exploration(usual).sensitive_most == usual.sensitive_most
    assert fresh.half_life_s(800.0) == pytest.approx(100.0)
    assert old.exploration(usual) == never.exploration(usual) == usual
    assert old.half_life_s(800.0) == never.half_life_s(800.0) == 800.0
    assert Unrest.since(NOW_S + 1e9, NOW_S).level == 1.0


class Clock:
    now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(folder: Path, clock: Clock) -> tuple[Store, Consent, DriftWatch]:
    store = Store(folder, key=KEY)
    consent = Consent(store, clock)
    return store, consent, DriftWatch(store, consent, clock)


def worsen(watch: DriftWatch, kind: str, clock: Clock) -> bool:
    """Sessions of one observation each, an hour apart; the last third of them bad."""
    raised = False
    for number in range(180):
        clock.now_s += 3600.0
        raised |= watch.observe(kind, number % 10 == 0 if number < 120 else number % 3 > 0)
    return raised


def test_nothing_is_watched_without_consent(tmp_path: Path, clock: Clock) -> None:
    store, _, watch = opened(tmp_path, clock)
    with store:
        assert not worsen(watch, "scope", clock)
        assert watch.drifted() == (frozenset(), 0)
        assert watch.document()["detectors"] == {}


def test_an_alarm_is_kept_at_once_counted_for_the_period_and_asks_for_a_tuning(tmp_path: Path, clock: Clock) -> None:
    store, consent, watch = opened(tmp_path, clock)
    with store:
        consent.grant("personalisation")
        assert worsen(watch, "scope", clock)
        assert watch.asks_for_tuning(NOW_S)
        assert not watch.asks_for_tuning(clock.now_s)
        assert watch.unrest.level == 0.0, "what is not understood says nothing about taste"
    store, consent, watch = opened(tmp_path, clock)
    with store:
        kinds, watched = watch.drifted()
        assert kinds == {"scope"}
        assert watched >= 180 - KEEP_EVERY
        assert drift_count.compute(kinds, watched)[KINDS.index("scope")] > 0.0
        clock.now_s += PERIOD_S
        assert watch.drifted() == (frozenset(), 0)


def test_a_changed_taste_makes_the_policy_restless(tmp_path: Path, clock: Clock) -> None:
    store, consent, watch = opened(tmp_path, clock)
    with store:
        consent.grant("personalisation")
        worsen(watch, "preference", clock)
        assert 0.6 < watch.unrest.level <= 1.0
        assert not watch.asks_for_tuning(0.0)
        clock.now_s += CALM_AFTER_S
        assert watch.unrest.level == 0.0


def test_what_was_watched_goes_with_the_consent(tmp_path: Path, clock: Clock) -> None:
    store, consent, watch = opened(tmp_path, clock)
    with store:
        consent.grant("personalisation")
        worsen(watch, "scope", clock)
        consent.withdraw("personalisation")
        assert watch.document() == {"changed_s": {}, "watched_by_week": {}, "detectors": {}}
        consent.grant("personalisation")
        assert watch.drifted() == (frozenset(), 0)


def test_beyond_the_stated_number_nothing_is_watched_until_the_period_has_passed(tmp_path: Path, clock: Clock) -> None:
    store, consent, watch = opened(tmp_path, clock)
    with store:
        consent.grant("personalisation")
        for _ in range(MOST_WATCHED + 50):
            watch.observe("scope", False)
        assert watch.drifted()[1] == MOST_WATCHED


def test_a_bad_session_of_many_turns_is_one_observation(tmp_path: Path, clock: Clock) -> None:
    store, consent, watch = opened(tmp_path, clock)
    with store:
        consent.grant("personalisation")
        for session in range(40):
            clock.now_s += 7200.0
            for _ in range(10):
                assert not watch.observe("scope", session % 10 == 9), (
                    "no detector may take a session for ten observations"
                )
        assert watch.drifted() == (frozenset(), 400)


def test_a_state_of_another_version_is_no_error(tmp_path: Path, clock: Clock) -> None:
    store, consent, watch = opened(tmp_path, clock)
    with store:
        consent.grant("personalisation")
        store.table("drift", purpose="personalisation").put(
            "state", {"detectors": {"scope": {"format": 9}}, "weeks": 3}
        )
        assert watch.drifted() == (frozenset(), 0)
        assert not watch.observe("scope", True)
    with pytest.raises(DecisionError):
        watch.observe("mood", 0.5)
