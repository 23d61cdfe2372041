"""Drift as the fleet counts it: the streams that a device watches, and the layout of the counter that leaves it.

A device watches how badly things go (edge_client.decide.drift) and, once a period, adds one vector of zeros and ones to a noisy
sum (edge_client.share.contributions.drift_count); what the sum means stands in aggregator.releases.drift_count. Public constants,
the same everywhere: nothing here depends on what a device holds.
"""

from __future__ import annotations

import math
from typing import Final

KINDS: Final = ("confidence", "scope", "correction", "preference")
"""What is watched, each as numbers from 0 (good) to 1 (bad): 1 − confidence of a turn; whether it was out of scope; whether the
user corrected it; how far a reward was from what was expected of it, as a share of the range."""

RETRAIN: Final = {
    "confidence": "intent_head",
    "scope": "intent_head",
    "correction": "intent_head",
    "preference": "item_gram",
}
"""Which training a drift of that kind asks for."""

ANSWERED_WEIGHT: Final = 0.5
"""Of the slot "this device watched" against those of the kinds. Drift is rare: a rate r has r times the noise of this slot, so
that a rougher one pays for finer others."""

DIMENSION: Final = len(KINDS) + 1
"""One slot for each kind, in their order, then "watched"."""

CLIP_NORM: Final = 1.0
FACTOR: Final = 1.0 / math.sqrt(len(KINDS) + ANSWERED_WEIGHT**2)
"""Of every number, so that the vector of a device where everything drifted has L2 norm 1."""

LEAST_WATCHED: Final = 20
"""A device with fewer observations of all kinds in the period has not watched: it says zeros, as one that did not consent."""

FALSE_ALARMS: Final = 0.05
"""Share of devices, at most, on which a kind drifts in a period though nothing has changed: up to MOST_WATCHED independent
observations of it, measured in tests and in benchmarks/drift.py. It is taken off before a rate counts as an alarm."""

MOST_WATCHED: Final = 1000
"""Observations of one kind in a period that may raise an alarm; what comes beyond is not watched until the next period, for the
false alarms would add up."""


def layout_document() -> dict[str, object]:
    """What a round of `drift_count` names as its layout: a device that counts otherwise does not answer it."""
    return {"kinds": list(KINDS), "answered_weight": ANSWERED_WEIGHT, "least_watched": LEAST_WATCHED}
