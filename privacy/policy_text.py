"""Policies as people write and read them: a first draft from a wish in ε, and plain sentences of what a policy allows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import yaml

from privacy.accounting import default_delta, epsilon_from_rho, noise_multiplier_for
from privacy.policy import MAX_VALID_DAYS, POLICY_FORMAT, Policy, read_yaml
from shared_models.errors import ConfigError, PolicyError
from shared_models.preference import MAX_ITEMS, gram_dimension
from shared_models.wire import MODE_DISTRIBUTED, MODE_TRUSTED

# Constants of local training that were measured best for heads over sentence embeddings (benchmarks/federated_intent.py).
CLIP_NORM = 1.0
LOCAL_MAX_GRAD_NORM = 8.0
LOCAL_EXPECTED_BATCH = 16

HEAD_PURPOSE = "intent-model"
DEFAULT_SHARES: Mapping[str, float] = {
    HEAD_PURPOSE: 0.5,
    "preference-model": 0.3,
    "suggestion-model": 0.12,
    "quality-check": 0.08,
}
"""Parts of ρ if an officer names purposes and no parts. Small counts need little; the models get what is left."""
PAIRED_ITEMS = 512
MOST_FEATURES = 256
COUNTS_SHARE = 0.03
"""Of the ρ of preferences, for choosing the items of a large catalogue (docs/preference.md)."""
FIRST_MOMENTS_SHARE = 0.1
"""Of the ρ of `bandit_moments`, for the first of its two releases (aggregator.releases.bandit_prior)."""


@dataclass(frozen=True)
class _Row:
    """One contribution of a purpose in a draft: `rounds` releases for `share` of the purpose's ρ."""

    name: str
    share: float
    rounds: int
    max_dimension: int
    first_share: float = 0.0
    """Above 0: two releases, the first with so much of the share and with more noise; the other sets the least noise."""


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
    shares: Mapping[str, float] | None = None
    """Purpose → its part of ρ, at most 1 together; None: all of it to the shared head's purpose."""
    catalogue_items: int = PAIRED_ITEMS
    """Items that can be liked; of more than PAIRED_ITEMS some are chosen first, which is paid for."""


def draft_policy(draft: PolicyDraft, now: datetime | None = None) -> str:
    """The YAML of a policy that spends at most ε over the period and over all its purposes. Raises ConfigError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}", draft.fleet):
        raise ConfigError(f"{draft.fleet!r} is not a name for a fleet (letters, digits, space, . _ -)")
    if not 1 <= draft.valid_days <= MAX_VALID_DAYS:
        raise ConfigError(f"a policy is valid for 1 to {MAX_VALID_DAYS} days, not {draft.valid_days}")
    if not 1 <= draft.catalogue_items <= MAX_ITEMS:
        raise ConfigError(f"a catalogue has 1 to {MAX_ITEMS} items, not {draft.catalogue_items}")
    delta = default_delta(draft.population) if draft.delta is None else draft.delta
    mode, enrolment, health = MODE_TRUSTED, "", 0
    if draft.enrolment_key is not None:
        mode, health = MODE_DISTRIBUTED, draft.health_dimension
        enrolment = f"enrolment_key: {draft.enrolment_key.hex()}   # certifies devices; operators must not hold it\n"
    if draft.shares is None:
        # Rounded up in the last printed digit, so that the promise in ε is kept by what is printed.
        multiplier = _rounded_up(noise_multiplier_for(draft.epsilon, delta, draft.participations))
        rho = draft.participations / (2.0 * multiplier**2)
        purposes = _head_purpose(draft, rho, multiplier, health)
    else:
        rho = 1.0 / (2.0 * _rounded_up(noise_multiplier_for(draft.epsilon, delta, 1)) ** 2)
        purposes = "".join(
            _purpose_text(draft, name, share, share * rho, health)
            for name, share in _checked_shares(draft.shares).items()
        )
    issued = (now or datetime.now(UTC)).replace(microsecond=0)
    expires = issued + timedelta(days=draft.valid_days)
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
{purposes}"""


def default_shares(names: Sequence[str]) -> dict[str, float]:
    """DEFAULT_SHARES of these purposes, scaled up to 1 together. Raises ConfigError for a purpose that has none."""
    if unknown := [name for name in names if name not in DEFAULT_SHARES]:
        raise ConfigError(f"there is no purpose {unknown[0][:60]!r} to draft; expected {', '.join(DEFAULT_SHARES)}")
    whole = math.fsum(DEFAULT_SHARES[name] for name in dict.fromkeys(names))
    return {name: DEFAULT_SHARES[name] / whole for name in DEFAULT_SHARES if name in names}


def _checked_shares(shares: Mapping[str, float]) -> Mapping[str, float]:
    for name, share in shares.items():
        if name not in DEFAULT_SHARES:
            raise ConfigError(f"there is no purpose {name[:60]!r} to draft; expected {', '.join(DEFAULT_SHARES)}")
        if not 0.0 < share <= 1.0:
            raise ConfigError(f"the part of {name} is {share}, expected a number above 0 and up to 1")
    if not shares or math.fsum(shares.values()) > 1.0 + 1e-9:
        raise ConfigError(f"parts of the budget: {math.fsum(shares.values()):g} together, expected at most 1")
    return shares


def _rounded_up(multiplier: float) -> float:
    return math.ceil(multiplier * 1e6) / 1e6


def _head_purpose(draft: PolicyDraft, rho: float, multiplier: float, health: int, note: str = "") -> str:
    return f"""\
  {HEAD_PURPOSE}:
    rho: {rho!r}{note}
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


def _rows(draft: PolicyDraft, purpose: str) -> tuple[_Row, ...]:
    """What is contributed for a purpose, besides the shared head."""
    if purpose == "preference-model":
        paired = min(draft.catalogue_items, PAIRED_ITEMS)
        pairs = gram_dimension(paired)
        if draft.catalogue_items <= PAIRED_ITEMS:
            return (_Row("item_gram", 1.0, 1, pairs),)
        return (
            _Row("item_counts", COUNTS_SHARE, 1, draft.catalogue_items),
            _Row("item_gram", 1.0 - COUNTS_SHARE, 1, pairs),
        )
    if purpose == "suggestion-model":
        moments = 2 * gram_dimension(MOST_FEATURES) + MOST_FEATURES + 6
        return (_Row("bandit_moments", 1.0, 2, moments, FIRST_MOMENTS_SHARE),)
    return (
        _Row("policy_value_sums", 0.4, 2, 64),
        _Row("drift_count", 0.3, 3, 64),
        _Row("fairness_slices", 0.3, 1, 1024),
    )


def _purpose_text(draft: PolicyDraft, name: str, share: float, rho: float, health: int) -> str:
    note = f"   # {share:.1%} of rho_total"
    if name == HEAD_PURPOSE:
        multiplier = _rounded_up(math.sqrt(draft.participations / (2.0 * rho)))
        return _head_purpose(draft, draft.participations / (2.0 * multiplier**2), multiplier, health, note)
    spent, contributions = 0.0, ""
    rows = _rows(draft, name)
    for row in rows:
        part = row.share * rho * ((1.0 - row.first_share) if row.first_share else 1.0 / row.rounds)
        multiplier = _rounded_up(math.sqrt(1.0 / (2.0 * part)))
        one = 1.0 / (2.0 * multiplier**2)
        spent += one / (1.0 - row.first_share) if row.first_share else one * row.rounds
        told = f"{row.rounds} release{'s' if row.rounds > 1 else ''}, {row.share:.0%} of the purpose's rho"
        if row.first_share:
            told += f", the first for {row.first_share:.0%} of it with more noise than this"
        contributions += f"""\
      {row.name}:          # {told}
        version: 1
        max_dimension: {row.max_dimension + health}
        clip_norm: 1.0
        noise_multiplier: {multiplier!r}
        min_survivors: {draft.min_survivors}
        health_dimension: {health}
        local: null
"""
    return f"""\
  {name}:
    rho: {spent!r}{note}
    participations: {sum(row.rounds for row in rows)}
    separation_s: {draft.separation_s}
    contributions:
{contributions}"""


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
    lines += _explain_split(policy)
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
            if affordable < limits.participations:
                lines.append("  With more noise a release costs less, and more are affordable.")
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


def _explain_split(policy: Policy) -> list[str]:
    """How ρ is divided; nothing where there is one purpose."""
    if len(policy.purposes) < 2:
        return []
    parts = ", ".join(f"{name} {limits.rho / policy.rho_total:.1%}" for name, limits in policy.purposes.items())
    whole = math.fsum(limits.rho for limits in policy.purposes.values())
    if whole <= policy.rho_total * (1.0 + 1e-9):
        rest = "none can spend what is another's"
    else:
        rest = (
            f"together {whole / policy.rho_total:.0%}: the total holds all the same, and whoever comes late is refused"
        )
    return [
        f"Of that rho: {parts}; {rest}. Rho adds up over purposes; epsilons, being curved, add up to more than their total.",
        "Each purpose has a consent of its own: a user who allows one contributes to no other.",
    ]


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
