"""A published bundle of the travel domain with the real encoder and a head from its public seed phrases, made once a session."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import nacl.signing
import numpy as np

from aggregator.publish import BundleContents, create_repository, publish
from shared_models.domain import TRAVEL, Domain, load_domain
from shared_models.encoder import build_encoder
from shared_models.intent_head import (
    IntentHead,
    calibrate_logits,
    center_from,
    cross_validated_logits,
    features,
    fit_seed_head,
    to_onnx,
)
from shared_models.rules.ruleset import RuleSet
from shared_models.text_encoder import TextEncoder


class RealBundle:
    """Where it lies, and the parts to publish further releases of it."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "bundle"
        self.officer = nacl.signing.SigningKey.generate()
        self.aggregator = nacl.signing.SigningKey.generate()
        self.domain: Domain = load_domain(TRAVEL)
        self._files = build_encoder()
        self.head = seed_head(self.domain, TextEncoder(self._files.model, self._files.tokenizer))
        create_repository(
            self.folder,
            officer_public_key=bytes(self.officer.verify_key),
            aggregator_public_key=bytes(self.aggregator.verify_key),
            fleet="test",
        )
        self.publish(0)

    def publish(
        self,
        version: int,
        rules: RuleSet | None = None,
        folder: Path | None = None,
        optional: Mapping[str, bytes | Path | None] | None = None,
    ) -> None:
        contents = BundleContents(
            encoder_model=self._files.model,
            tokenizer=self._files.tokenizer,
            head=to_onnx(self.head.with_weights(self.head.weights, version)),
            labels=self.domain.labels,
            rules=self.domain.rules if rules is None else rules,
            templates=self.domain.templates,
            intent_labels={spec.name: spec.label for spec in self.domain.intents},
            domain=self.domain.name,
            version=version,
            optional=optional or {},
        )
        publish(folder or self.folder, contents, time.time(), keys_dir=self.folder.with_name("bundle-keys"))


def seed_head(domain: Domain, encoder: TextEncoder) -> IntentHead:
    """The head that public phrases alone give, calibrated."""
    texts = [text for spec in domain.intents for text in spec.seeds]
    targets = np.array([number for number, spec in enumerate(domain.intents) for _ in spec.seeds], np.int64)
    embeddings = encoder.encode(texts, threads=2)
    center = center_from(embeddings)
    known = features(embeddings, center)
    strange = features(encoder.encode(domain.out_of_scope_calibration, threads=2), center)
    weights = fit_seed_head(known, targets, len(domain.labels))
    head = IntentHead(domain.labels, weights, center, encoder.sha256, domain.name)
    held_out = cross_validated_logits(known, targets, len(domain.labels))
    return calibrate_logits(head, held_out, targets, head.logits(strange))
