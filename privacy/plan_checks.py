"""Whether a plan stays within the officer's policy: every number that protects a device is judged, or computed again, here."""

from __future__ import annotations

import math

from privacy.policy import ContributionLimits, Policy
from privacy.secure_sum.sizing import graph_size
from shared_models.errors import HaltedError, PolicyError
from shared_models.wire import MODE_DISTRIBUTED, RoundPlan, noise_variance_for


def check_plan(plan: RoundPlan, policy: Policy, now_s: float) -> None:
    """Raise PolicyError (PolicyExpiredError, HaltedError) unless `policy` allows `plan` at `now_s`."""
    policy.check_valid_at(now_s)
    if policy.halted:
        raise HaltedError(f"the privacy officer has halted contributions: {policy.reason or 'no reason given'}")
    require(plan.task == policy.fleet, f"task {plan.task!r}, this device belongs to {policy.fleet!r}")
    require(plan.policy_hash == policy.hash, "the plan was made under another policy than the one in force here")
    require(plan.policy_sequence == policy.sequence, "the plan names another policy number")
    require(plan.mode in policy.modes, f"mode {plan.mode!r} is not allowed")
    if plan.mode == MODE_DISTRIBUTED:
        _check_graph(plan, policy)
    require(plan.issued_s <= now_s + 300, "the plan was issued in the future")
    require(now_s <= plan.deadline_s, "the plan's deadline has passed")
    limits = policy.purposes.get(plan.purpose)
    require(limits is not None, f"purpose {plan.purpose!r} is not allowed")
    assert limits is not None
    allowed = limits.contributions.get(plan.contribution)
    require(allowed is not None, f"contribution {plan.contribution!r} is not allowed for {plan.purpose!r}")
    assert allowed is not None
    _check_limits(plan, allowed)


def _check_limits(plan: RoundPlan, allowed: ContributionLimits) -> None:
    require(
        plan.contribution_version == allowed.version, f"version {plan.contribution_version} of {plan.contribution!r}"
    )
    require(plan.dimension <= allowed.max_dimension, f"dimension {plan.dimension} is above {allowed.max_dimension}")
    require(plan.clip_norm <= allowed.clip_norm, f"clip norm {plan.clip_norm} is above {allowed.clip_norm}")
    require(
        plan.noise_variance >= noise_variance_for(allowed.noise_multiplier),
        f"noise multiplier {plan.noise_multiplier:.6g} is below {allowed.noise_multiplier:.6g}",
    )
    require(plan.min_survivors >= allowed.min_survivors, f"n_min {plan.min_survivors} is below {allowed.min_survivors}")
    require(
        plan.health_dimension == allowed.health_dimension,
        f"{plan.health_dimension} coordinates that stay zero, the policy says {allowed.health_dimension}",
    )
    require(plan.local == allowed.local, "the constants of local training are not those of the policy")


def _check_graph(plan: RoundPlan, policy: Policy) -> None:
    """What protects a device in a secure sum is computed here again, from the cohort and the officer's γ."""
    least = math.ceil(policy.colluding_share * plan.cohort)
    require(plan.colluders >= least, f"{plan.colluders} colluders of {plan.cohort}, the policy assumes {least}")
    size = graph_size(plan.cohort, plan.colluders, plan.min_survivors)
    require(
        (plan.degree, plan.threshold) == (size.degree, size.threshold),
        f"degree {plan.degree} and threshold {plan.threshold}, computed here: {size.degree} and {size.threshold}",
    )


def require(condition: bool, what_is_wrong: str) -> None:
    if not condition:
        raise PolicyError(f"the plan exceeds the policy: {what_is_wrong}")
