"""Policies as people write and read them: a first draft from a wish in ε, and plain sentences of what a policy allows."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import yaml

from privacy.accounting import default_delta, epsilon_from_rho, noise_multiplier_for
from privacy.policy import MAX_VALID_DAYS, POLICY_FORMAT, Policy, read_yaml
from shared_models.errors import ConfigError, PolicyError
from shared_models.wire import MODE_DISTRIBUTED, MODE_TRUSTED

# Constants of local training that were measured best for heads over sentence embeddings (benchmarks/federated_intent.py).
CLIP_NORM = 1.0
LOCAL_MAX_GRAD_NORM = 8.0
LOCAL_EXPECTED_BATCH = 16


@dataclass(frozen=True)
class PolicyDraft:
    """What an officer decides first; the rest of the draft follows from it."""

    fleet: str
    aggregator_key: bytes
    epsilon: float
    participations: int
    population: int
    min_survivors: int
    delta: float | None = None
    separation_s: int = 0
    period_days: int = 90
    colluding_share: float = 0.1
    valid_days: int = MAX_VALID_DAYS
    sequence: int = 1
    max_dimension: int = 1 << 20
    local_noise_multiplier: float = 0.0
    enrolment_key: bytes | None = None
    """With it the mode is `distributed`, without it `trusted-aggregator`."""
    health_dimension: int = 4096


def draft_policy(draft: PolicyDraft, now: datetime | None = None) -> str:
    """The YAML of a policy that spends at most ε over the period, in equal rounds. Raises ConfigError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}", draft.fleet):
        raise ConfigError(f"{draft.fleet!r} is not a name for a fleet (letters, digits, space, . _ -)")
    if not 1 <= draft.valid_days <= MAX_VALID_DAYS:
        raise ConfigError(f"a policy is valid for 1 to {MAX_VALID_DAYS} days, not {draft.valid_days}")
    delta = default_delta(draft.population) if draft.delta is None else draft.delta
    # Rounded up in the last printed digit, so that the promise in ε is kept by what is printed.
    multiplier = math.ceil(noise_multiplier_for(draft.epsilon, delta, draft.participations) * 1e6) / 1e6
    rho = draft.participations / (2.0 * multiplier**2)
    issued = (now or datetime.now(UTC)).replace(microsecond=0)
    expires = issued + timedelta(days=draft.valid_days)
    mode, enrolment, health = MODE_TRUSTED, "", 0
    if draft.enrolment_key is not None:
        mode, health = MODE_DISTRIBUTED, draft.health_dimension
        enrolment = f"enrolment_key: {draft.enrolment_key.hex()}   # certifies devices; operators must not hold it\n"
    return f"""\
# Privacy policy of the fleet {draft.fleet}. Devices refuse every round that exceeds it, whoever asks.
# Sign it with the privacy officer's key: tacit-privacy policy sign. Explain it: tacit-privacy policy explain.
format: {POLICY_FORMAT}
fleet: {draft.fleet}
sequence: {draft.sequence}            # a newer policy has a higher number; devices never go back
issued: {issued.isoformat()}
expires: {expires.isoformat()}   # at most {MAX_VALID_DAYS} days later; an expired policy means no contributions
halted: false          # true stops all contributions
reason: ""
aggregator_key: {draft.aggregator_key.hex()}
{enrolment}population: {draft.population}
delta: {delta!r}       # N^-1.1 unless set otherwise
colluding_share: {draft.colluding_share}   # an assumption about the cohort, not something that is enforced
period_days: {draft.period_days}        # budgets are for any window of this length
rho_total: {rho!r}     # all purposes together; epsilon {draft.epsilon:g} at this delta
modes: [{mode}]
purposes:
  intent-model:
    rho: {rho!r}
    participations: {draft.participations}   # of one device, in any such window
    separation_s: {draft.separation_s}      # least time between two contributions of one device
    contributions:
      intent_head:
        version: 1
        max_dimension: {draft.max_dimension}
        clip_norm: {CLIP_NORM}
        noise_multiplier: {multiplier!r}   # least noise of a release, in units of one device's largest influence
        min_survivors: {draft.min_survivors}      # fewer answers: nothing is released
        health_dimension: {health}   # coordinates that stay zero, to test the released noise
        local:
          max_grad_norm: {LOCAL_MAX_GRAD_NORM}
          expected_batch: {LOCAL_EXPECTED_BATCH}
          sample_rate: 1.0
          noise_multiplier: {draft.local_noise_multiplier!r}   # second line, example-level; 0.0 is no local noise
"""


def explain_policy(policy: Policy) -> list[str]:
    """What the policy allows, in sentences."""
    expires = datetime.fromtimestamp(policy.expires_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        f"Policy {policy.sequence} of fleet {policy.fleet}, in force until {expires}.",
        f"Over any {policy.period_days} days one device may spend rho {policy.rho_total:.4g} in all: "
        f"epsilon {policy.epsilon_total:.3f} at delta {policy.delta:.3g} (zCDP, no amplification).",
        f"It assumes that at most {policy.colluding_share:.0%} of a cohort collude; devices cannot check that, and if more do, "
        "less is left: the report says how much.",
    ]
    if policy.halted:
        lines.append(f"HALTED: devices contribute nothing. Reason: {policy.reason or 'none given'}")
    for name, limits in policy.purposes.items():
        epsilon = epsilon_from_rho(limits.rho, policy.delta)
        lines.append(
            f"Purpose {name}: at most {limits.participations} contributions, at least {limits.separation_s} s apart, "
            f"rho {limits.rho:.4g} (epsilon {epsilon:.3f})."
        )
        for contribution, allowed in limits.contributions.items():
            one = 1.0 / (2.0 * allowed.noise_multiplier**2)
            affordable = min(limits.participations, int(limits.rho / one + 1e-9))
            lines.append(
                f"  {contribution}: every release carries noise of at least {allowed.noise_multiplier:.3f} times one device's "
                f"largest influence, and at least {allowed.min_survivors} devices; one costs rho {one:.4g}, "
                f"{affordable} are affordable."
            )
            if allowed.local is None:
                lines.append("  Nothing is trained on devices for it.")
            elif allowed.local.noise_multiplier == 0.0:
                lines.append(
                    "  No local noise: training on devices clips each example and adds none; there is no second line."
                )
            else:
                lines.append(
                    f"  Second line: local noise {allowed.local.noise_multiplier} per example (generator not cryptographic)."
                )
    if MODE_DISTRIBUTED in policy.modes:
        lines.append(
            "Mode distributed: the aggregator learns only sums over at least the named number of devices, with the noise in "
            "them; each device adds its share of the noise itself."
        )
    if MODE_TRUSTED in policy.modes:
        lines.append(
            "Mode trusted-aggregator: the aggregator sees each device's clipped vector; epsilon holds for the releases, "
            "not against the aggregator."
        )
    return lines


def halt_text(text: str, reason: str, now: datetime | None = None) -> str:
    """The policy with the next number, in force from now, and all contributions stopped. Raises PolicyError.

    Written anew from its values, so that stopping works whatever the form of the text; its comments are lost.
    """
    issued = (now or datetime.now(UTC)).replace(microsecond=0)
    document = read_yaml(text.encode())
    if not isinstance(document, dict) or not isinstance(document.get("sequence"), int):
        raise PolicyError("policy: no field `sequence` to count up")
    document |= {
        "sequence": document["sequence"] + 1,
        "issued": issued.isoformat(),
        "expires": (issued + timedelta(days=MAX_VALID_DAYS)).isoformat(),
        "halted": True,
        "reason": " ".join(reason.split())[:500],
    }
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
