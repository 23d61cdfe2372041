"""The device's half of `item_counts` and `item_gram`: what a user liked, as one clipped vector over a public list of items.

`item_gram` is the upper triangle of the outer product of the user's items with themselves: the diagonal says which items, the
rest which pairs. A sum of them is an item-item Gram matrix, from which everybody's preference model is solved
(aggregator.releases.item_space; the release is that of Analyze-Gauss, Dwork et al. 2014, with other weights). `item_counts` is
the diagonal alone, for choosing the items of a large catalogue.

Weights are what makes the noise bearable. The vector of every user with two items or more has length 1, so that nobody's part is
wasted; and the diagonal, whose sums are large, gets GRAM_DIAGONAL of the weight of a pair, so that pairs get most of the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_client.share.port import Trainer
from shared_models.errors import WireError
from shared_models.preference import GRAM_DIAGONAL, gram_dimension
from shared_models.wire import RoundPlan

NAME = "item_gram"
COUNTS = "item_counts"
VERSION = 1
PURPOSE = "preference-model"
CLIP_NORM = 1.0


class ItemSource(Protocol):
    """What the user liked; each item once is enough."""

    def liked_items(self) -> Sequence[str]: ...


def compute(
    plan: RoundPlan,
    source: ItemSource,
    labels: Sequence[str],
    weights: npt.NDArray[np.float32],
    trainer: Trainer | None = None,
) -> npt.NDArray[Any]:
    """The raw contribution for the gate: [n] of `item_counts`, [n(n+1)/2] of `item_gram`; zeros if nothing of `labels` was liked.

    `labels` are the round's items, `weights` [n, 1] their public weights, above 0. Raises WireError if the plan is for another.
    """
    if plan.contribution_version != VERSION or plan.contribution not in (NAME, COUNTS):
        raise WireError(f"this device computes version {VERSION} of {NAME} and {COUNTS}")
    item_weights = np.asarray(weights, np.float64).reshape(-1)
    if len(item_weights) != len(labels) or not (np.isfinite(item_weights).all() and (item_weights > 0).all()):
        raise WireError(f"{plan.contribution} takes one weight above 0 for each of {len(labels)} items")
    length = gram_dimension(len(labels)) if plan.contribution == NAME else len(labels)
    if plan.dimension - plan.health_dimension != length:
        raise WireError(f"{plan.contribution} over {len(labels)} items has {length} numbers, the plan another count")
    number = {item: place for place, item in enumerate(labels)}
    liked = np.array(sorted({number[item] for item in source.liked_items() if item in number}), np.int64)
    return gram_vector(liked, item_weights) if plan.contribution == NAME else count_vector(liked, len(labels))


def count_vector(liked: npt.NDArray[np.int64], items: int) -> npt.NDArray[np.float64]:
    """[items], of length 1: equal numbers at the places `liked`."""
    vector = np.zeros(items)
    vector[liked] = CLIP_NORM / np.sqrt(max(len(liked), 1))
    return vector


def gram_vector(liked: npt.NDArray[np.int64], item_weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[n(n+1)/2], the upper triangle by rows, of length at most 1; `liked` [d] are places in increasing order."""
    vector = np.zeros(gram_dimension(len(item_weights)))
    places, values = gram_entries(liked, item_weights)
    vector[places] = values
    return vector


def gram_entries(
    liked: npt.NDArray[np.int64], item_weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Where `gram_vector` is not 0, and its values there: [d(d+1)/2] each."""
    n, own = len(item_weights), item_weights[liked]
    row, column = np.triu_indices(len(liked))
    values = own[row] * own[column]
    values[row == column] = GRAM_DIAGONAL * own
    # A user of one item has no pair; its weight stays that of a diagonal, so that the chance of a pair is not counted down.
    length = float(np.sqrt(np.square(values).sum()))
    scale = CLIP_NORM / (length if len(liked) > 1 else max(length, 1.0))
    # Where row r of an upper triangle begins: r·n − r(r−1)/2, less r for what is left of the diagonal.
    first = liked[row]
    return first * n - first * (first - 1) // 2 + liked[column] - first, values * scale
