"""From a domain's public phrases to a head: the bootstrap model, and the recalibration after each federated change.

Nothing here has seen a user: seed phrases and out-of-scope phrases are public.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared_models.domain import Domain
from shared_models.intent_head import (
    IntentHead,
    calibrate_logits,
    center_from,
    cross_validated_logits,
    features,
    fit_seed_head,
)
from shared_models.text_encoder import TextEncoder


@dataclass(frozen=True)
class PublicPhrases:
    """A domain's public phrases as centred unit features."""

    domain: Domain
    encoder_sha256: str
    center: npt.NDArray[np.float32]
    seeds: npt.NDArray[np.float32]
    """[n, D]"""
    targets: npt.NDArray[np.int64]
    """[n]"""
    outside: npt.NDArray[np.float32]
    """[m, D], out of scope."""

    @classmethod
    def of(cls, domain: Domain, encoder: TextEncoder) -> PublicPhrases:
        texts = [text for spec in domain.intents for text in spec.seeds]
        targets = [number for number, spec in enumerate(domain.intents) for _ in spec.seeds]
        embeddings = encoder.encode(texts)
        center = center_from(embeddings)
        outside = encoder.encode(list(domain.out_of_scope_calibration))
        return cls(
            domain,
            encoder.sha256,
            center,
            features(embeddings, center),
            np.array(targets, np.int64),
            features(outside.reshape(-1, encoder.dimension), center),
        )

    def seed_weights(self) -> npt.NDArray[np.float32]:
        """[C, D]: what the public phrases alone teach."""
        return fit_seed_head(self.seeds, self.targets, len(self.domain.labels))

    def head(self, weights: npt.NDArray[np.float32], version: int) -> IntentHead:
        """A calibrated head with these weights; calibration never sees a phrase that the fold's public part was fitted on."""
        classes = len(self.domain.labels)
        head = IntentHead(
            self.domain.labels, weights, self.center, self.encoder_sha256, self.domain.name, version=version
        )
        change = weights - self.seed_weights()
        held_out = cross_validated_logits(self.seeds, self.targets, classes, change=change)
        return calibrate_logits(head, held_out, self.targets, head.logits(self.outside))
