"""Which round may be run, with whom and under which plan: arithmetic over the policy, the ledger and who is online.

The policy's limits are checked by every device; here they are obeyed, and what all devices would refuse is not begun.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.serverapp import Grid

from aggregator.checkpoint import FleetState
from privacy.policy import ContributionLimits, Policy
from privacy.secure_sum.sizing import COMPLETE_BELOW, graph_size
from shared_models.errors import ConfigError, HaltedError, PolicyError, RoundError
from shared_models.wire import MODE_DISTRIBUTED, SCALE, RoundPlan, noise_variance_for

_SLACK = 1e-9
"""Sums of equal floats may exceed their exact total by rounding (privacy.budgets)."""


@dataclass(frozen=True)
class Asked:
    """What a round asks of devices, whatever it is for."""

    purpose: str
    contribution: str
    version: int | None
    """None: whatever the policy allows."""
    dimension: int
    """Numbers of the vector, without those that stay zero."""
    model_hash: str
    encoder_hash: str
    clip_norm: float | None = None
    """None: the policy's."""
    noise_factor: float = 1.0
    """Variance of the noise over the least that the policy allows."""
    layout: Mapping[str, Any] | None = None
    """Public; goes into the ledger with the reservation."""


class Planner:
    """Plans the rounds of one fleet under one policy."""

    def __init__(self, state: FleetState, policy: Policy, clock: Callable[[], float]) -> None:
        self._state = state
        self._policy = policy
        self._clock = clock

    def limits(self, asked: Asked) -> ContributionLimits:
        """What the policy allows. Raises PolicyError (PolicyExpiredError, HaltedError) if that is nothing."""
        self._policy.check_valid_at(self._clock())
        if self._policy.halted:
            raise HaltedError(f"the privacy officer has halted contributions: {self._policy.reason}")
        purpose = self._policy.purposes.get(asked.purpose)
        limits = purpose.contributions.get(asked.contribution) if purpose else None
        if limits is None:
            raise PolicyError(f"policy {self._policy.sequence} does not allow {asked.contribution!r}")
        if asked.version is not None and limits.version != asked.version:
            raise PolicyError(
                f"policy {self._policy.sequence} allows version {limits.version} of {asked.contribution!r}, not {asked.version}"
            )
        if asked.clip_norm is not None and limits.clip_norm < asked.clip_norm:
            raise PolicyError(
                f"policy {self._policy.sequence} clips {asked.contribution!r} to {limits.clip_norm}, its vectors have length "
                f"{asked.clip_norm}"
            )
        if asked.dimension + limits.health_dimension > limits.max_dimension:
            raise PolicyError(
                f"{asked.contribution} has {asked.dimension} numbers and {limits.health_dimension} that stay zero; policy "
                f"{self._policy.sequence} allows {limits.max_dimension}"
            )
        return limits

    def variance(self, asked: Asked, limits: ContributionLimits) -> int:
        """Of the noise of the released sum, on the integer grid."""
        return math.ceil(noise_variance_for(limits.noise_multiplier) * asked.noise_factor)

    def check_forecast(self, asked: Asked, limits: ContributionLimits) -> None:
        """Raise RoundError if a device that was invited to every round of the period can afford no further one.

        Where a part of the devices is drawn at random, only they know what they have left: they refuse by themselves.
        """
        purpose = self._policy.purposes[asked.purpose]
        since_s = self._clock() - self._policy.period_s
        spent = [entry for entry in self._state.entries() if entry.kind == "reserve" and entry.time_s > since_s]
        mine = [entry for entry in spent if entry.body["plan"]["purpose"] == asked.purpose]
        reason = ""
        if len(mine) >= purpose.participations:
            reason = (
                f"{len(mine)} rounds of this period are spent, a device may take part in {purpose.participations}: whoever "
                "was in all of them will refuse; a random part can be invited with --cohort"
            )
        rho = SCALE * SCALE / (2.0 * self.variance(asked, limits))
        for name, entries, most in (
            (asked.purpose, mine, purpose.rho),
            ("all purposes", spent, self._policy.rho_total),
        ):
            used = math.fsum(entry.body["rho"] for entry in entries)
            if not reason and used + rho > most * (1.0 + _SLACK):
                reason = (
                    f"{name}: rho {used:.4g} of this period's {most:.4g} is spent, this round costs {rho:.4g}: whoever was in "
                    "all of them will refuse; a random part can be invited with --cohort"
                )
        if reason:
            self._state.note("last_abort", {"time_s": int(self._clock()), "reason": reason})
            raise RoundError(reason)

    def choose_cohort(self, grid: Grid, cohort: int | None, least: int, wait_s: float) -> list[int]:
        """Nodes to invite: all that are online, or `cohort` of them at random. Raises ConfigError, RoundError."""
        if cohort is not None and cohort < least:
            raise ConfigError(f"a cohort of {cohort} is too small: the policy releases nothing below {least}")
        waited_until_s = time.monotonic() + wait_s
        while True:
            online = sorted(grid.get_node_ids())
            wanted = min(cohort or len(online), len(online))
            if wanted >= least:
                break
            if time.monotonic() >= waited_until_s:
                who = "1 device is" if len(online) == 1 else f"{len(online)} devices are"
                reason = f"{who} online, the policy releases nothing below {least}"
                self._state.note("last_abort", {"time_s": int(self._clock()), "reason": reason})
                raise RoundError(reason)
            time.sleep(1.0)
        return online if wanted == len(online) else secrets.SystemRandom().sample(online, wanted)

    def plan(
        self, asked: Asked, limits: ContributionLimits, round_id: int, cohort: int, deadline_s: int, drop_out: float
    ) -> RoundPlan:
        """The plan of a round with `cohort` devices; a secure sum is sized to lose `drop_out` of them."""
        now_s = int(self._clock())
        mode, least, colluders, size = self._policy.modes[0], limits.min_survivors, 0, None
        if mode == MODE_DISTRIBUTED:
            if cohort >= COMPLETE_BELOW:
                # A random graph that may lose more needs more share-holders; a complete one is as it is.
                least = max(least, cohort - int(drop_out * cohort))
            colluders = math.ceil(self._policy.colluding_share * cohort)
            size = graph_size(cohort, colluders, least)
        return RoundPlan(
            task=self._policy.fleet,
            round_id=round_id,
            purpose=asked.purpose,
            contribution=asked.contribution,
            contribution_version=limits.version,
            dimension=asked.dimension + limits.health_dimension,
            clip_norm=limits.clip_norm if asked.clip_norm is None else asked.clip_norm,
            noise_variance=self.variance(asked, limits),
            cohort=cohort,
            min_survivors=least,
            colluders=colluders,
            degree=size.degree if size else 0,
            threshold=size.threshold if size else 0,
            health_dimension=limits.health_dimension,
            mode=mode,
            issued_s=now_s,
            deadline_s=now_s + deadline_s,
            model_hash=asked.model_hash,
            encoder_hash=asked.encoder_hash,
            policy_hash=self._policy.hash,
            policy_sequence=self._policy.sequence,
            local=limits.local,
        )
