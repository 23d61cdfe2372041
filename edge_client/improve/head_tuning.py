"""Tuning the intent head to one user's own words, and deciding whether what came of it is used. Pure: values in, values out.

A third of the user's examples and half of the public phrases are never learned from. A tuned head is used only if it is right on
no fewer of either, turns away no fewer phrases that mean nothing, and finds the user's own held-out words likelier than before;
what does not pass whole is tried at shorter lengths, which forget less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_client.share.port import Tuner
from shared_models.errors import ContributionError
from shared_models.intent_head import (
    FEATURE_SCALE,
    HeadSession,
    energies,
    features,
    out_of_scope_probability,
    probabilities,
)
from shared_models.local_tuning import LocalTuning

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

LEAST_LEARNED, LEAST_HELD_OUT = 8, 4
"""Fewer examples than these are not tuned on: they could not be measured. `Examples.find` remembers them word for word anyway."""
MOST_LEARNED = 2048
HELD_OUT_SHARE = 1.0 / 3.0
SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15)
"""Lengths at which a change is tried, the longest first."""


@dataclass(frozen=True)
class Score:
    """How a head does on what it did not learn from."""

    own: int
    """Of the user's held-out examples: rightly understood, and not taken for nothing."""
    public: int
    """Of the held-out public phrases, the same."""
    outside: int
    """Of the held-out public phrases that mean nothing: turned away."""
    own_loss: float
    """Mean −log probability of what the user meant, held-out examples."""


@dataclass(frozen=True)
class Measured:
    """Before and after, on the same phrases."""

    before: Score
    after: Score
    held_out: int
    public: int
    outside: int
    learned: int
    """Of the user's examples, how many were learned from."""
    share: float
    """Of the change that was found now, how much is used; 0 if none of it."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Lessons:
    """Centred unit features [n, D] with classes [n]; features alone for what means nothing."""

    own: Array
    own_classes: Labels
    own_held_out: npt.NDArray[np.bool_]
    public: Array
    public_classes: Labels
    public_held_out: npt.NDArray[np.bool_]
    outside: Array
    outside_held_out: npt.NDArray[np.bool_]

    @property
    def enough(self) -> bool:
        return (
            int((~self.own_held_out).sum()) >= LEAST_LEARNED
            and int(self.own_held_out.sum()) >= LEAST_HELD_OUT
            and bool(self.public_held_out.any())
        )


def held_out_of(texts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """[n] which texts are never learned from: decided by the text alone, so that it is the same every night."""
    digests = (hashlib.sha256(text.casefold().encode("utf-8", "replace")).digest() for text in texts)
    return np.array([digest[0] < HELD_OUT_SHARE * 256 for digest in digests], bool)


def head_weights(head: HeadSession) -> Array:
    """[classes, D]: the weights that a published head works with, read off its answers to the axes of its feature space."""
    dimension = head.center.size
    axes = np.eye(dimension, dtype=np.float32) * np.float32(1e3) + head.center
    return np.ascontiguousarray(head.logits(axes).T / np.float32(FEATURE_SCALE), np.float32)


def tune(
    head: HeadSession, lessons: Lessons, tuner: Tuner, tuning: LocalTuning, *, in_force: Array | None = None
) -> tuple[Array | None, Measured]:
    """The change [classes, D] of the head's weights that is to be used, or None; and what was measured.

    `in_force`: an earlier change of the same head, which stays if it passes today and does better than the new one.

    Raises what the tuner raises (AgentError if it was aborted), ContributionError if there are too few examples or it returns
    what is no change of such a head.
    """
    if not lessons.enough:
        raise ContributionError("too few examples to tune on and to measure")
    weights = head_weights(head)
    learned = np.flatnonzero(~lessons.own_held_out)[-MOST_LEARNED:]
    replay, nothing = ~lessons.public_held_out, lessons.outside[~lessons.outside_held_out]
    raw = tuner(
        tuning,
        lessons.own[learned],
        lessons.own_classes[learned],
        weights,
        np.concatenate([lessons.public[replay], nothing]),
        np.concatenate([lessons.public_classes[replay], np.full(len(nothing), -1, np.int64)]),
    )
    change = np.asarray(raw, np.float32)
    if change.size != weights.size or not np.isfinite(change).all():
        raise ContributionError(f"a change of {change.size} numbers for a head of {weights.size}, all of them finite")
    change = change.reshape(weights.shape)
    judged = _Judge(head, lessons, weights)
    before = judged.score(None)
    after, used, chosen = before, 0.0, None
    for share in SHARES:
        shorter = np.float32(share) * change
        if _better(score := judged.score(shorter), before):
            after, used, chosen = score, share, shorter
            break
    if in_force is not None:
        score = judged.score(in_force)
        if _better(score, before) and (chosen is None or score.own_loss < after.own_loss):
            after, used, chosen = score, 0.0, in_force
    measured = Measured(
        before,
        after,
        int(lessons.own_held_out.sum()),
        int(lessons.public_held_out.sum()),
        int(lessons.outside_held_out.sum()),
        len(learned),
        used,
    )
    return chosen, measured


def _better(after: Score, before: Score) -> bool:
    no_worse = after.own >= before.own and after.public >= before.public and after.outside >= before.outside
    return no_worse and after.own_loss < before.own_loss


class _Judge:
    """Scores changes of one head on what was held out."""

    def __init__(self, head: HeadSession, lessons: Lessons, weights: Array) -> None:
        self._head, self._weights = head, weights
        self._own, self._own_classes = lessons.own[lessons.own_held_out], lessons.own_classes[lessons.own_held_out]
        self._public = lessons.public[lessons.public_held_out]
        self._public_classes = lessons.public_classes[lessons.public_held_out]
        self._outside = lessons.outside[lessons.outside_held_out]

    def score(self, change: Array | None) -> Score:
        weights = self._weights if change is None else self._weights + change
        own, public, outside = (self._logits(weights, x) for x in (self._own, self._public, self._outside))
        meant = probabilities(own, self._head.temperature)[np.arange(len(own)), self._own_classes]
        loss = float(-np.log(np.maximum(meant, 1e-12)).mean())
        return Score(
            own=int(((own.argmax(axis=1) == self._own_classes) & ~self._turned_away(own)).sum()),
            public=int(((public.argmax(axis=1) == self._public_classes) & ~self._turned_away(public)).sum()),
            outside=int(self._turned_away(outside).sum()) if len(outside) else 0,
            own_loss=loss,
        )

    def _logits(self, weights: Array, rows: Array) -> Array:
        return np.asarray(np.float32(FEATURE_SCALE) * (rows @ weights.T), np.float32)

    def _turned_away(self, logits: Array) -> npt.NDArray[np.bool_]:
        head = self._head
        return np.array(
            [
                out_of_scope_probability(float(energy), head.oos_energy, head.oos_slope) > 0.5
                for energy in energies(logits)
            ],
            bool,
        )


def features_of(vectors: Sequence[Array], head: HeadSession) -> Array:
    """Embeddings as the head's features [n, D]."""
    if not len(vectors):
        return np.empty((0, head.center.size), np.float32)
    return features(np.stack(vectors), head.center)
