"""A small fleet whose devices like things, decide and drift: for rounds of studies, in mode `distributed`, with real gates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from small_fleet import AUTHORITY, ENCODER, OFFICER, SmallFleet, examples, signed_policy

from aggregator.simulate import FixedExamples, light_port
from aggregator.studies import (
    BanditPriorStudy,
    DriftStudy,
    FairnessStudy,
    ItemSpaceStudy,
    PolicyValueStudy,
    Study,
    first_moments,
)
from edge_client.decide.policy_value import Log
from edge_client.share.port import DevicePort
from edge_client.share.sources import Sources
from shared_models.canonical import Envelope
from shared_models.fairness import FairnessLayout, SliceSource
from shared_models.layouts import JudgedPolicy
from shared_models.policy_value import ValueLayout

ITEMS = tuple(f"place_{number}" for number in range(12))
FEATURES = ("one", "sun", "price")
INTERCEPT = 0.5
"""What the feature `one` is in every decision."""
SLICES = {"language": SliceSource("language", ("en", "other"), (("en",), ()))}
HEALTH = 60
SHARES = {"intent-model": 0.1, "preference-model": 0.3, "suggestion-model": 0.3, "quality-check": 0.3}


def study_policy(**draft: Any) -> Envelope:
    """All purposes, generous enough that five devices' sums mean something."""
    fields: dict[str, Any] = dict(
        epsilon=1100.0,
        participations=3,
        population=1000,
        min_survivors=5,
        shares=SHARES,
        enrolment_key=bytes(AUTHORITY.verify_key),
        health_dimension=HEALTH,
        catalogue_items=len(ITEMS),
    )
    return signed_policy(**{**fields, **draft})


def studies() -> dict[str, Study]:
    """One of each kind, for the devices below."""
    made: list[Study] = [
        ItemSpaceStudy(ITEMS),
        BanditPriorStudy(first_moments(FEATURES, reward_low=-1.0, reward_high=1.0), 0, INTERCEPT),
        PolicyValueStudy(JudgedPolicy("prior", ValueLayout(-1.0, 1.0))),
        DriftStudy(),
        FairnessStudy(FairnessLayout(SLICES)),
    ]
    return {study.name: study for study in made}


@dataclass
class Held:
    """What one device holds for studies: all Protocols of `edge_client.share.sources` but that of examples."""

    number: int
    items: Sequence[str] = ITEMS
    names: Sequence[str] = FEATURES
    silent: bool = False
    """Nothing is kept: as without the consent to keep such data."""
    asked: list[str] = field(default_factory=list)
    """What of the user's was read, in order."""

    def catalogue_items(self) -> Sequence[str]:
        return self.items

    def liked_items(self) -> Sequence[str]:
        self.asked.append("liked")
        random = np.random.default_rng(self.number)
        # Everybody likes the first two, and one more.
        return [] if self.silent else [*self.items[:2], self.items[int(random.integers(2, len(self.items)))]]

    def feature_names(self) -> Sequence[str]:
        return self.names

    def reward_range(self) -> tuple[float, float]:
        return -1.0, 1.0

    def decided(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        self.asked.append("decided")
        random = np.random.default_rng([self.number, 1])
        rows = np.column_stack([np.full(20, INTERCEPT), random.uniform(-0.5, 0.5, (20, len(self.names) - 1))])
        return (rows[:0], np.zeros(0)) if self.silent else (rows, np.clip(1.6 * rows[:, 1], -1.0, 1.0))

    def policy_log(self, judged: JudgedPolicy) -> Log:
        self.asked.append("log")
        count = 0 if self.silent else 20
        half = np.full(count, 0.5)
        return Log(half, 2.0 * half, 1.6 * half, 0.0 * half, 0.0 * half)

    def drifted(self) -> tuple[Collection[str], int]:
        self.asked.append("drifted")
        return (("scope",), 0 if self.silent else 50)

    @property
    def slices(self) -> Mapping[str, SliceSource]:
        return SLICES

    def counts(self) -> Mapping[str, Mapping[str, Sequence[float]]]:
        self.asked.append("counts")
        return {} if self.silent else {"language": {"en": (9.0, 1.0, 0.0, 3.0, 1.0)}}

    def sources(self) -> Sources:
        features, targets = examples(self.number)
        return Sources(
            FixedExamples(ENCODER, features, [str(target) for target in targets]), self, self, self, self, self
        )


class StudyFleet(SmallFleet):
    """Devices 0..n-1; `held[i]` says what device i holds."""

    def __init__(self, devices: int = 6, policy: Envelope | None = None) -> None:
        self.held = [Held(number) for number in range(devices)]
        super().__init__(devices, policy or study_policy())

    def port(self, index: int) -> DevicePort:
        if index not in self._ports:
            officer = bytes(OFFICER.verify_key)
            sources = self.held[index].sources()
            self._ports[index] = light_port(sources, self.policy_envelope, officer, self.clock, self._certify())
        return self._ports[index]
