"""A `Trainer` for tests that are not about training: the plain sum of the features by target, without torch."""

from __future__ import annotations

import numpy as np

from edge_client.share.port import FeaturesArray, TargetsArray, UpdateArray, WeightsArray
from shared_models.wire import LocalTraining


def plain_sum(
    local: LocalTraining, features: FeaturesArray, targets: TargetsArray, weights: WeightsArray
) -> UpdateArray:
    update = np.zeros(weights.shape, np.float32)
    np.add.at(update, targets, features)
    return (update / local.expected_batch).reshape(-1)
