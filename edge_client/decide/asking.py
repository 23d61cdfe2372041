"""What may be asked about the user's taste in places, when it pays, and how a short answer is read.

One question for each feature of the catalogue: "how would you like a place with much of it?", on the scale of rewards. Whether
one is asked is elicitation.py's business; its words are question_words.py's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from edge_client.decide.bandit import Bandit
from edge_client.decide.elicitation import AskingLimits, Elicitor, Knowledge, Question
from edge_client.decide.question_words import SpokenQuestion, answer_named, speak
from edge_client.decide.travel_reasons import feature_words
from shared_models.bandit_prior import FloatArray
from shared_models.travel.action_features import feature_names, with_feature
from shared_models.travel.catalogue import Catalogue

TRAVEL_LIMITS = AskingLimits(cost=0.1, per_session=1, per_day=3)
"""An interruption costs a tenth of an accepted trip; one question a conversation."""
ANSWER_VARIANCE = 0.05
"""Of an answer, in squared rewards."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One question on the table."""

    topic: str
    """A feature of the catalogue."""
    features: FloatArray
    """[d]: the imagined place that it is about."""
    spoken: SpokenQuestion


def worth_asking(
    catalogue: Catalogue,
    bandit: Bandit,
    candidates: FloatArray,
    elicitor: Elicitor,
    now_s: float,
    *,
    done: Collection[str] = (),
    language: str = "en",
    variant: int = 0,
) -> Asked | None:
    """The question that pays now, if one does. `candidates` [m, d]: what the next decisions are about; `done`: topics not to ask.

    Nothing is counted: tell the elicitor (`asked`) when it was shown.
    """
    if elicitor.must_not(now_s) is not None:
        return None
    names = feature_names(catalogue.feature_names)
    usual = candidates.mean(axis=0)
    imagined = np.stack([with_feature(usual, names, feature) for feature in catalogue.feature_names])
    knowledge = Knowledge(
        bandit.mean,
        bandit.covariance,
        np.full(len(imagined), ANSWER_VARIANCE),
        imagined,
        candidates,
        np.ones(len(candidates)),
    )
    known = [row for row, feature in enumerate(catalogue.feature_names) if feature in done]
    found = elicitor.next_question(knowledge, now_s, done=known)
    if not isinstance(found, Question):
        return None
    topic = catalogue.feature_names[found.index]
    return Asked(topic, imagined[found.index], speak(found, feature_words(topic, language), language, variant))


def read_answer(text: str, asked: Asked) -> str | None:
    """What a text answers (one of question_words.ANSWERS); None if it is no answer but something new."""
    return answer_named(text, asked.spoken)
