"""The studies of one fleet: each from what the fleet's own domain, and the artefacts it has already made, say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.releases import bandit_prior, drift_count, fairness_slices, item_space, policy_value
from aggregator.studies import (
    BanditPriorStudy,
    DriftStudy,
    FairnessStudy,
    ItemSpaceStudy,
    PolicyValueStudy,
    Study,
    first_moments,
)
from shared_models.bandit_prior import BanditPrior
from shared_models.bundle import BANDIT_PRIOR_TARGET
from shared_models.domain_targets import CATALOGUE_FILE, PROFILE_FILE, has_catalogue
from shared_models.errors import ConfigError
from shared_models.fairness import FairnessLayout
from shared_models.layouts import JUDGED, LINEAR, PRIOR, JudgedPolicy
from shared_models.optional_targets import read_profile
from shared_models.policy_value import ValueLayout
from shared_models.profile import ProfileSchema, default_schema
from shared_models.travel.action_features import INTERCEPT_VALUE, REWARD_HIGH, REWARD_LOW, feature_names
from shared_models.travel.catalogue import Catalogue, load_catalogue

if TYPE_CHECKING:
    from aggregator.checkpoint import FleetState
    from aggregator.fleet import Fleet

STUDIES = (item_space.NAME, bandit_prior.NAME, policy_value.NAME, drift_count.NAME, fairness_slices.NAME)
"""What `tacit-fleet run --contribute` takes, besides the shared head."""
CANDIDATE = "candidate"
"""To judge the prior that the fleet has made: what choosing by it would earn, before it is published."""
JUDGES = (*(name for name in JUDGED if name != LINEAR), CANDIDATE)


def study_of(fleet: Fleet, state: FleetState, name: str, judge: str = PRIOR) -> Study:
    """The study called `name`. `judge`, one of JUDGES: for `policy_value_sums`. Raises ConfigError, DomainError."""
    if name == item_space.NAME:
        catalogue = catalogue_of(fleet)
        return ItemSpaceStudy(tuple(catalogue.rows), catalogue.features)
    if name == bandit_prior.NAME:
        names = _features(fleet)
        moments = first_moments(names, reward_low=REWARD_LOW, reward_high=REWARD_HIGH)
        return BanditPriorStudy(moments, names.index("one"), INTERCEPT_VALUE)
    if name == policy_value.NAME:
        return PolicyValueStudy(_judged(state, judge))
    if name == drift_count.NAME:
        return DriftStudy()
    if name == fairness_slices.NAME:
        slices = _schema(fleet).slices
        if not slices:
            raise ConfigError("the profile's schema declares no slices: there is nothing to compare")
        return FairnessStudy(FairnessLayout(slices))
    raise ConfigError(f"there is no contribution {name[:60]!r}; expected intent_head, {', '.join(STUDIES)}")


def catalogue_of(fleet: Fleet) -> Catalogue:
    """What the fleet's devices suggest from. Raises ConfigError if that is nothing."""
    domain = fleet.domain()
    if domain.folder is None or not has_catalogue(domain):
        raise ConfigError(
            f"the domain {domain.name!r} has no {CATALOGUE_FILE}: its devices suggest nothing to learn from"
        )
    return load_catalogue(domain.folder / CATALOGUE_FILE)


def _schema(fleet: Fleet) -> ProfileSchema:
    """What devices may know about their users: the schema that ships, extended by the domain's."""
    path = fleet.directory / "domain" / PROFILE_FILE
    return read_profile(path.read_bytes()) if path.exists() else default_schema()


def _features(fleet: Fleet) -> tuple[str, ...]:
    return feature_names(catalogue_of(fleet).feature_names)


def _judged(state: FleetState, judge: str) -> JudgedPolicy:
    values = ValueLayout(REWARD_LOW, REWARD_HIGH)
    if judge != CANDIDATE:
        if judge not in JUDGES:
            raise ConfigError(f"the policy to judge is {judge[:40]!r}, expected one of {', '.join(JUDGES)}")
        return JudgedPolicy(judge, values)
    raw = state.artifact(BANDIT_PRIOR_TARGET)
    if raw is None:
        raise ConfigError(f"there is no candidate to judge yet: `--contribute {bandit_prior.NAME}` makes one")
    prior = BanditPrior.from_bytes(raw)
    return JudgedPolicy(LINEAR, values, prior.features, tuple(prior.mean.tolist()))
