"""Asking: the most informative question, only when it pays, never more often than allowed, in words that are true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.decide.elicitation import (
    DAY_S,
    AskingLimits,
    Elicitor,
    Knowledge,
    Question,
    value_of_information,
    variance_removed,
)
from edge_client.decide.question_words import ANSWERS, LANGUAGES, answer_value, speak
from shared_models.errors import DecisionError

NOW_S = 1_800_000_000.0


def knowledge(seed: int = 0, count: int = 6, spread: float = 1.0) -> Knowledge:
    random = np.random.default_rng(seed)
    root = spread * random.standard_normal((count, count))
    return Knowledge.of_items(random.standard_normal(count), root @ root.T, 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 5))
def test_the_variance_removed_is_what_an_answer_removes(seed: int, question: int) -> None:
    before = knowledge(seed)
    after = before.answered(question, 0.3)
    removed = np.trace(before.covariance) - np.trace(after.covariance)
    assert variance_removed(before)[question] == pytest.approx(removed, rel=1e-6, abs=1e-9)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 5))
def test_the_value_of_information_is_that_of_a_simulation(seed: int, question: int) -> None:
    belief = knowledge(seed)
    random = np.random.default_rng(seed)
    root = np.linalg.cholesky(belief.covariance + 1e-9 * np.eye(6))
    gains = []
    for _ in range(2000):
        truth = belief.mean + root @ random.standard_normal(6)
        answer = truth[question] + math.sqrt(0.5) * random.standard_normal()
        gains.append(belief.answered(question, float(answer)).mean.max() - belief.mean.max())
    error = float(np.std(gains)) / math.sqrt(len(gains))
    value = value_of_information(belief, question)
    assert value >= 0.0
    assert value == pytest.approx(float(np.mean(gains)), abs=5.0 * error + 0.02)


def test_only_targets_that_count_are_asked_for() -> None:
    independent = Knowledge.of_items(np.zeros(4), np.eye(4), 0.5, weights=np.array([0.0, 1.0, 0.0, 0.0]))
    assert variance_removed(independent).argmax() == 1
    asked = Elicitor(AskingLimits(cost=0.0)).next_question(independent, NOW_S)
    assert isinstance(asked, Question)
    assert asked.index == 1
    assert 0.0 < asked.removed <= 1.0


def test_nothing_is_asked_that_does_not_pay() -> None:
    sure, unsure = knowledge(spread=1e-3), knowledge(spread=3.0)
    elicitor = Elicitor(AskingLimits(cost=0.5))
    assert elicitor.next_question(sure, NOW_S) == "not worth it"
    assert isinstance(elicitor.next_question(unsure, NOW_S), Question)
    assert Elicitor(AskingLimits(cost=1e9)).next_question(unsure, NOW_S) == "not worth it"


def test_asking_ends_by_itself() -> None:
    belief = knowledge(spread=2.0)
    elicitor = Elicitor(AskingLimits(cost=0.3, per_session=100, per_day=100, gap_s=0.0))
    done: list[int] = []
    while isinstance(asked := elicitor.next_question(belief, NOW_S, done=done), Question):
        assert asked.gain > asked.cost
        elicitor.asked(NOW_S)
        elicitor.outcome(skipped=False)
        belief = belief.answered(asked.index, 0.0)
        done.append(asked.index)
        assert len(done) <= 6
    assert asked in ("not worth it", "nothing to ask")


def test_a_question_is_put_once() -> None:
    asked = Elicitor(AskingLimits(cost=0.0)).next_question(knowledge(), NOW_S, done=range(6))
    assert asked == "nothing to ask"


def test_caps_hold_per_session_and_per_day_and_between_questions() -> None:
    belief = knowledge(spread=3.0)
    elicitor = Elicitor(AskingLimits(cost=0.0, per_session=2, per_day=3, gap_s=60.0))
    now = NOW_S
    for _ in range(2):
        assert isinstance(elicitor.next_question(belief, now), Question)
        elicitor.asked(now)
        assert elicitor.next_question(belief, now + 59.0) in ("gap", "limit")
        now += 61.0
    assert elicitor.next_question(belief, now) == "limit"
    elicitor.begin_session()
    assert isinstance(elicitor.next_question(belief, now), Question)
    elicitor.asked(now)
    elicitor.begin_session()
    assert elicitor.next_question(belief, now + 3600.0) == "limit"
    again = Elicitor(AskingLimits(cost=0.0, per_session=2, per_day=3, gap_s=60.0))
    again.restore(elicitor.document())
    assert again.next_question(belief, now + 3600.0) == "limit"
    assert isinstance(again.next_question(belief, now + DAY_S + 1.0), Question)


def test_a_clock_that_was_wrong_neither_opens_the_caps_nor_closes_them_for_years() -> None:
    belief = knowledge(spread=3.0)
    elicitor = Elicitor(AskingLimits(cost=0.0, per_session=9, per_day=1))
    elicitor.asked(NOW_S + 10 * 365 * DAY_S)
    assert elicitor.next_question(belief, NOW_S) == "limit"
    assert isinstance(elicitor.next_question(belief, NOW_S + DAY_S + 1.0), Question)


def test_who_skips_is_asked_less() -> None:
    belief = knowledge(spread=1.0)
    elicitor = Elicitor(AskingLimits(cost=0.2, per_session=99, per_day=99, gap_s=0.0))
    first = elicitor.cost
    for _ in range(20):
        elicitor.outcome(skipped=True)
    assert elicitor.next_question(belief, NOW_S) == "not worth it"
    for _ in range(20):
        elicitor.outcome(skipped=False)
    assert elicitor.cost == first


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_one_typed_error(value: float) -> None:
    good = knowledge()
    spoiled = good.mean.copy()
    spoiled[0] = value
    with pytest.raises(DecisionError):
        Knowledge.of_items(spoiled, good.covariance, 0.5)
    with pytest.raises(DecisionError):
        Knowledge.of_items(good.mean, good.covariance, value)
    with pytest.raises(DecisionError):
        good.answered(0, value)
    with pytest.raises(DecisionError):
        Elicitor().next_question(good, value)
    with pytest.raises(DecisionError):
        AskingLimits(cost=value)


def test_shapes_that_do_not_fit_are_refused() -> None:
    good = knowledge()
    for mean, covariance in (
        (np.zeros(5), good.covariance),
        (np.zeros((6, 1)), good.covariance),
        (good.mean, np.eye(5)),
    ):
        with pytest.raises(DecisionError):
            Knowledge.of_items(mean, covariance, 0.5)
    with pytest.raises(DecisionError):
        Knowledge.of_items(good.mean, good.covariance, 0.0)
    with pytest.raises(DecisionError):
        good.answered(99, 0.0)
    for spoiled in (
        {},
        {"asked_s": [math.nan], "skipped": 0},
        {"asked_s": "x", "skipped": 0},
        {"asked_s": [], "skipped": 99},
    ):
        with pytest.raises(DecisionError):
            Elicitor().restore(spoiled)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("variant", range(4))
def test_a_question_is_spoken_in_each_language_and_says_why(language: str, variant: int) -> None:
    spoken = speak(Question(0, 2.0, 0.5, 0.234), "Lisboa {topic}", language, variant)
    assert spoken.text.count("Lisboa {topic}") == 1
    assert spoken.text.endswith("?")
    assert "23" in spoken.why
    assert "{" not in spoken.why
    assert [name for name, _ in spoken.answers] == list(ANSWERS)
    assert len({words for _, words in spoken.answers}) == len(ANSWERS)


def test_the_reason_claims_no_more_than_the_numbers() -> None:
    assert "less than 1%" in speak(Question(0, 2.0, 0.5, 0.001), "Rome").why


def test_what_cannot_be_said_is_refused() -> None:
    question = Question(0, 2.0, 0.5, 0.2)
    for topic, language in (("Rome", "xx"), ("", "en"), ("a\x00b", "en"), ("x" * 200, "en"), ("\u202eRome", "en")):
        with pytest.raises(DecisionError):
            speak(question, topic, language)


def test_answers_are_explicit_feedback_on_the_scale_of_rewards() -> None:
    values = [answer_value(answer, -10.0, 10.0) for answer in ANSWERS]
    assert values == [10.0, 5.0, 0.0, -5.0, -10.0, None]
    with pytest.raises(DecisionError):
        answer_value("whatever", -1.0, 1.0)
    with pytest.raises(DecisionError):
        answer_value("love", 1.0, -1.0)
