"""Asking: which question is worth the interruption, if any; in plain words, with an answer to "why do you ask?".

What is known is a Gaussian over values (of items, or of reward weights): mean m, covariance P. A question is a direction q that
is answered with some noise. The best one shrinks what is left unknown about the targets most (A-optimal design; Chaloner,
Verdinelli 1995, section 2.2). Whether it is asked is another matter: only if the expected gain of the decisions to come (value of
information, by quadrature over the answer) exceeds what an interruption costs, and never beyond the caps. No text is ever urgent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shared_models.errors import DecisionError

FloatArray = npt.NDArray[np.float64]

DAY_S = 86_400.0
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class AskingLimits:
    """How much asking a user has to bear at most, and what one question has to bring."""

    cost: float = 0.5
    """What an interruption costs, in rewards: the gain of all decisions of the horizon must exceed it."""
    horizon: int = 5
    """How many decisions an answer is expected to serve."""
    per_session: int = 2
    per_day: int = 4
    gap_s: float = 60.0
    """Least time between two questions."""
    dearer_when_skipped: float = 2.0
    """Each skipped question multiplies the cost by this; each answer halves the rise again."""

    def __post_init__(self) -> None:
        for name, least in (("cost", 0.0), ("gap_s", 0.0), ("dearer_when_skipped", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
                raise DecisionError(
                    f"limits of asking: {name} is {str(value)[:40]!r}, expected a number from {least:g}"
                )
        for name in ("horizon", "per_session", "per_day"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000:
                raise DecisionError(f"limits of asking: {name} is {str(value)[:40]!r}, expected a count")


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What is believed about one user's values, and which of them count."""

    mean: FloatArray
    """[d]"""
    covariance: FloatArray
    """[d, d]"""
    noise_variance: FloatArray
    """[q], of the answer to each question."""
    questions: FloatArray
    """[q, d], the direction that each question asks about: a unit vector for "how do you like this one?"."""
    targets: FloatArray
    """[t, d], features of what will be decided about."""
    weights: FloatArray
    """[t], how much each target counts, at least 0."""

    def __post_init__(self) -> None:
        count = len(self.mean) if isinstance(self.mean, np.ndarray) and self.mean.ndim == 1 else -1
        asked = len(self.questions) if isinstance(self.questions, np.ndarray) else -1
        aims = len(self.targets) if isinstance(self.targets, np.ndarray) else -1
        shapes = {
            "mean": (count,),
            "covariance": (count, count),
            "noise_variance": (asked,),
            "questions": (asked, count),
            "targets": (aims, count),
            "weights": (aims,),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.shape != shape:
                raise DecisionError(f"{name}: expected an array of numbers {list(shape)}")
            if not np.isfinite(value).all():
                raise DecisionError(f"{name}: holds NaN or infinite values")
        if (self.noise_variance <= 0.0).any() or (self.weights < 0.0).any() or (np.diag(self.covariance) < 0.0).any():
            raise DecisionError("variances must be above 0 and weights at least 0")

    @classmethod
    def of_items(
        cls,
        mean: FloatArray,
        covariance: FloatArray,
        noise_variance: float,
        *,
        askable: Sequence[int] | None = None,
        weights: FloatArray | None = None,
    ) -> Knowledge:
        """One question and one target for each item (`askable`: the items that may be asked about)."""
        eye = np.eye(len(mean))
        asked = list(range(len(mean))) if askable is None else list(askable)
        chosen = np.ones(len(mean)) if weights is None else weights
        return cls(mean, covariance, np.full(len(asked), noise_variance), eye[asked], eye, chosen)

    def answered(self, question: int, value: float) -> Knowledge:
        """The belief after `question` was answered with `value`. Raises DecisionError."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise DecisionError(f"answer is {str(value)[:40]!r}, expected a number")
        if not 0 <= question < len(self.questions):
            raise DecisionError(f"there is no question {str(question)[:40]}")
        direction = self.questions[question]
        column = self.covariance @ direction
        total = float(direction @ column) + float(self.noise_variance[question])
        mean = self.mean + column * ((value - float(direction @ self.mean)) / total)
        covariance = self.covariance - np.outer(column, column / total)
        # Rounding can push a variance that is all but 0 below it.
        low = np.minimum(np.diag(covariance), 0.0)
        return Knowledge(
            mean, covariance - np.diag(low), self.noise_variance, self.questions, self.targets, self.weights
        )


def variance_removed(knowledge: Knowledge) -> FloatArray:
    """[q]: by how much each question is expected to lower Σ_t weight_t · variance of target t. Not negative."""
    across = knowledge.questions @ knowledge.covariance
    total = np.einsum("qd,qd->q", across, knowledge.questions) + knowledge.noise_variance
    return np.asarray((np.square(across @ knowledge.targets.T) @ knowledge.weights) / total)


def value_of_information(knowledge: Knowledge, question: int) -> float:
    """Expected gain of the next decision: E[max_t of the means after the answer] − max_t of the means now; ≥ 0.

    The means after an answer are m + s·z, z standard normal (knowledge gradient; Frazier, Powell, Dayanik 2009); the expectation
    is a 21-node Gauss-Hermite sum.
    """
    direction = knowledge.questions[question]
    column = knowledge.covariance @ direction
    deviation = math.sqrt(float(direction @ column) + float(knowledge.noise_variance[question]))
    counted = knowledge.weights > 0.0
    if not counted.any():
        return 0.0
    now = (knowledge.targets @ knowledge.mean)[counted]
    moves = (knowledge.targets @ column)[counted] / deviation
    best = (now[None] + _NODES[:, None] * moves[None]).max(axis=1)
    return max(0.0, float(_WEIGHTS @ best) - float(now.max()))


@dataclass(frozen=True)
class Question:
    """A question that is worth asking."""

    index: int
    """Row of Knowledge.questions."""
    gain: float
    """Expected gain in rewards over the horizon, before the cost."""
    cost: float
    removed: float
    """Share of the targets' variance that the answer is expected to remove, 0..1."""


Silence = Literal["limit", "gap", "not worth it", "nothing to ask"]


class Elicitor:
    """Decides whether to ask now, and what. Keeps only times and counts. Not thread-safe."""

    def __init__(self, limits: AskingLimits | None = None) -> None:
        self._limits = limits or AskingLimits()
        self._asked_s: list[float] = []
        self._in_session = 0
        self._skipped = 0.0

    @property
    def cost(self) -> float:
        """What an interruption costs now: more for a user who skips questions."""
        return float(self._limits.cost * self._limits.dearer_when_skipped**self._skipped)

    def begin_session(self) -> None:
        self._in_session = 0

    def next_question(self, knowledge: Knowledge, now_s: float, *, done: Sequence[int] = ()) -> Question | Silence:
        """The A-optimal question if asking pays; else why not. `done`: questions that were asked before.

        Asking is not counted until `asked` says that it happened.
        """
        if (silence := self.must_not(now_s)) is not None:
            return silence
        limits = self._limits
        removed = variance_removed(knowledge)
        left_out = set(done)
        open_questions = [index for index in range(len(removed)) if index not in left_out and removed[index] > 0.0]
        if not open_questions:
            return "nothing to ask"
        best = max(open_questions, key=lambda index: (removed[index], -index))
        gain = value_of_information(knowledge, best) * limits.horizon
        if gain <= self.cost:
            # The most informative question may be about things that will not be chosen: is there one that pays?
            gains = {index: value_of_information(knowledge, index) for index in _leading(removed, open_questions)}
            best = max(gains, key=lambda index: (gains[index], -index))
            gain = gains[best] * limits.horizon
            if gain <= self.cost:
                return "not worth it"
        spread = np.einsum("td,de,te->t", knowledge.targets, knowledge.covariance, knowledge.targets)
        whole = float(spread @ knowledge.weights)
        return Question(best, gain, self.cost, min(1.0, float(removed[best]) / whole) if whole > 0.0 else 0.0)

    def must_not(self, now_s: float) -> Silence | None:
        """Why nothing may be asked now, whatever it would be worth; None if something may. Raises DecisionError."""
        if not math.isfinite(now_s):
            raise DecisionError("time is a finite number of seconds")
        limits = self._limits
        # A clock that was set back must not open the caps, nor close them for years: what lies in the future counts as now.
        self._asked_s = [min(at, now_s) for at in self._asked_s]
        recent = [at for at in self._asked_s if at > now_s - DAY_S]
        if self._in_session >= limits.per_session or len(recent) >= limits.per_day:
            return "limit"
        return "gap" if recent and now_s - recent[-1] < limits.gap_s else None

    def asked(self, now_s: float) -> None:
        """A question was shown."""
        self._asked_s = [*[at for at in self._asked_s if at > now_s - DAY_S], now_s][-1000:]
        self._in_session += 1

    def outcome(self, *, skipped: bool) -> None:
        """The user skipped the question, or answered it."""
        self._skipped = min(self._skipped + 1.0, 20.0) if skipped else max(self._skipped - 1.0, 0.0)

    def document(self) -> dict[str, Any]:
        """For the store: times and counts, no answers."""
        return {"asked_s": list(self._asked_s), "skipped": self._skipped}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take up what `document()` gave. Raises DecisionError for anything else; then nothing has changed."""
        try:
            times = [float(at) for at in document["asked_s"]][-1000:]
            skipped = float(document["skipped"])
        except (KeyError, TypeError, ValueError) as error:
            raise DecisionError(f"not the state of an elicitor: {str(error)[:100]}") from error
        if not all(map(math.isfinite, times)) or not 0.0 <= skipped <= 20.0:
            raise DecisionError("not the state of an elicitor: times and counts are finite numbers")
        self._asked_s, self._skipped = times, skipped


def _leading(removed: FloatArray, open_questions: Sequence[int], count: int = 20) -> list[int]:
    return sorted(open_questions, key=lambda index: -removed[index])[:count]
