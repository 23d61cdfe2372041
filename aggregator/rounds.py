"""Federated rounds over any Flower grid: plan, collect, release, learn, commit. Streaming: one running sum, whatever the cohort.

What is written when (all in `FleetState`, each line one transaction):
    reserve   plan and its cost, before the first message is sent; from here on the round id and its budget are used
    release   the realised survivors and noise, the Merkle root of the contributions, the new model
    abort     too few answered, or an earlier run was interrupted; nothing was released, what was reserved stays spent
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import nacl.signing
import numpy as np
from flwr.serverapp import Grid

from aggregator.checkpoint import Checkpoint, FleetState
from aggregator.collection import Collected, SecureCollection, collect_trusted
from aggregator.releases import intent_head
from aggregator.releases.intent_head import ServerOptimizer
from privacy.mechanisms import NoisySum
from privacy.merkle import merkle_root
from privacy.noise_health import noise_health
from privacy.policy import Policy
from privacy.secure_sum.sizing import COMPLETE_BELOW, graph_size
from shared_models.canonical import Envelope, seal_envelope
from shared_models.errors import (
    ConfigError,
    HaltedError,
    PolicyError,
    RoundError,
    SecureSumError,
    TooFewSurvivorsError,
)
from shared_models.messages import RoundRecords
from shared_models.wire import MODE_DISTRIBUTED, MODE_TRUSTED, PLAN_KIND, RoundPlan, model_hash, noise_variance_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundSettings:
    """What the central team chooses within the policy."""

    rounds: int
    cohort: int | None = None
    """Devices invited per round, drawn at random; None invites all that are online."""
    deadline_s: int = 600
    """How long a round waits for answers."""
    wait_for_devices_s: int = 0
    """How long the first round waits until enough devices are online."""
    drop_out: float = 0.3
    """Share of the cohort that a secure sum is built to lose; more share-holders are needed for more."""
    optimizer: ServerOptimizer = field(default_factory=ServerOptimizer)

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop_out < 1.0:
            raise ConfigError(f"drop_out is {self.drop_out}, expected a share below 1")
        if self.rounds < 0 or (self.cohort is not None and self.cohort < 1) or self.deadline_s < 1:
            raise ConfigError(f"cannot run rounds with {self}")


@dataclass(frozen=True)
class RoundOutcome:
    """What one round did, for progress displays."""

    round_id: int
    invited: int
    survivors: int
    refused: int
    rejected: int
    bytes_up: int
    seconds: float
    checkpoint: Checkpoint


class RoundRunner:
    """Runs the rounds of one task. The policy's limits are checked by every device; here they are simply obeyed."""

    def __init__(
        self,
        state: FleetState,
        policy: Policy,
        key: nacl.signing.SigningKey,
        encoder_hash: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._policy = policy
        self._key = key
        self._encoder_hash = encoder_hash
        self._clock = clock

    def begin(self, labels: Sequence[str], weights: np.ndarray, rounds: int) -> Checkpoint:
        """Write the first checkpoint, from the model that public seed phrases gave."""
        zeros = np.zeros(weights.shape)
        first = Checkpoint(tuple(labels), weights.astype(np.float32), zeros, zeros, 0, 1, 0, rounds)
        self._state.append("begin", {"model_hash": model_hash(labels, first.weights)}, checkpoint=first)
        return first

    def run(
        self, grid: Grid, settings: RoundSettings, on_round: Callable[[RoundOutcome], None] | None = None
    ) -> Checkpoint:
        """Run until the planned number of rounds is done; continues after a crash from the last commit.

        Raises PolicyError before a round that the policy does not allow, RoundError if too few devices are online and
        TooFewSurvivorsError if too few answered; the state then says why (`status`).
        """
        checkpoint = self._state.checkpoint()
        if checkpoint is None:
            raise RoundError("this state holds no model yet; `tacit-fleet init` writes one")
        self._settle_interrupted()
        checkpoint = _planned(checkpoint, settings.rounds)
        while checkpoint.rounds_done < settings.rounds:
            outcome = self._round(grid, checkpoint, settings)
            checkpoint = outcome.checkpoint
            if on_round:
                on_round(outcome)
        return checkpoint

    # -- one round ------------------------------------------------------------------------------------------------

    def _round(self, grid: Grid, checkpoint: Checkpoint, settings: RoundSettings) -> RoundOutcome:
        started_s = time.monotonic()
        limits = self._limits()
        if settings.cohort is None:
            self._check_forecast()
        cohort = self._cohort(grid, settings, limits.min_survivors)
        plan = self._plan(checkpoint, settings, len(cohort))
        envelope = seal_envelope(PLAN_KIND, plan.to_bytes(), self._key)
        reserved = replace(checkpoint, next_round_id=plan.round_id + 1)
        self._state.append(
            "reserve",
            {"round_id": plan.round_id, "plan": plan.document(), "plan_hash": plan.hash, "rho": plan.rho},
            checkpoint=reserved,
        )
        collected = Collected()
        try:
            released = self._collect(grid, plan, envelope, checkpoint, cohort, settings, collected)
        except (TooFewSurvivorsError, SecureSumError) as error:
            self._abort(plan.round_id, plan.hash, str(error), collected.survivors, collected.stage)
            raise
        learned, health = split_health(released, plan)
        after = settings.optimizer.step(reserved, learned)
        commitments = sorted(collected.commitments)
        self._state.append(
            "release",
            {
                "round_id": plan.round_id,
                "plan_hash": plan.hash,
                "survivors": released.survivors,
                "noise_variance": released.noise_variance,
                "sum_sha256": released.hash,
                "contributions_root": merkle_root([bytes.fromhex(item) for item in commitments]).hex(),
                "model_hash": model_hash(after.labels, after.weights),
                **({"roster": collected.roster, "share_variance": plan.share_variance} if collected.roster else {}),
                **({"health": health} if health else {}),
            },
            checkpoint=after,
            leaves=(plan.round_id, commitments),
        )
        return RoundOutcome(
            plan.round_id,
            len(cohort),
            released.survivors,
            collected.refused,
            collected.rejected,
            collected.bytes_up,
            time.monotonic() - started_s,
            after,
        )

    def _collect(
        self,
        grid: Grid,
        plan: RoundPlan,
        envelope: Envelope,
        checkpoint: Checkpoint,
        cohort: Sequence[int],
        settings: RoundSettings,
        collected: Collected,
    ) -> NoisySum:
        records = RoundRecords(envelope, checkpoint.labels, checkpoint.weights)
        if plan.mode == MODE_TRUSTED:
            return collect_trusted(grid, plan, records, cohort, settings.deadline_s, collected)
        enrolment_key = self._policy.enrolment_key
        if enrolment_key is None:
            raise PolicyError("the policy names no enrolment authority, so no secure sum can be run")
        return SecureCollection(
            grid, plan, envelope.to_bytes(), records, enrolment_key, self._clock, settings.deadline_s, collected
        ).run(cohort)

    def _limits(self) -> Any:
        self._policy.check_valid_at(self._clock())
        if self._policy.halted:
            raise HaltedError(f"the privacy officer has halted contributions: {self._policy.reason}")
        purpose = self._policy.purposes.get(intent_head.PURPOSE)
        limits = purpose.contributions.get(intent_head.NAME) if purpose else None
        if limits is None:
            raise PolicyError(f"policy {self._policy.sequence} does not allow {intent_head.NAME!r}")
        return limits

    def _check_forecast(self) -> None:
        """Raise RoundError if a device that was invited to every round of the period can afford no further one.

        Where a part of the devices is drawn at random, only they know what they have left: they refuse by themselves.
        """
        purpose = self._policy.purposes[intent_head.PURPOSE]
        since_s = self._clock() - self._policy.period_s
        spent = [entry for entry in self._state.entries() if entry.kind == "reserve" and entry.time_s > since_s]
        if len(spent) >= purpose.participations:
            reason = (
                f"{len(spent)} rounds of this period are spent, a device may take part in {purpose.participations}: whoever "
                "was in all of them will refuse; a random part can be invited with --cohort"
            )
            self._state.note("last_abort", {"time_s": int(self._clock()), "reason": reason})
            raise RoundError(reason)

    def _cohort(self, grid: Grid, settings: RoundSettings, least: int) -> list[int]:
        if settings.cohort is not None and settings.cohort < least:
            raise ConfigError(f"a cohort of {settings.cohort} is too small: the policy releases nothing below {least}")
        waited_until_s = time.monotonic() + settings.wait_for_devices_s
        while True:
            online = sorted(grid.get_node_ids())
            wanted = min(settings.cohort or len(online), len(online))
            if wanted >= least:
                break
            if time.monotonic() >= waited_until_s:
                who = "1 device is" if len(online) == 1 else f"{len(online)} devices are"
                reason = f"{who} online, the policy releases nothing below {least}"
                self._state.note("last_abort", {"time_s": int(self._clock()), "reason": reason})
                raise RoundError(reason)
            time.sleep(1.0)
        return online if wanted == len(online) else secrets.SystemRandom().sample(online, wanted)

    def _plan(self, checkpoint: Checkpoint, settings: RoundSettings, cohort: int) -> RoundPlan:
        limits = self._limits()
        now_s = int(self._clock())
        mode, least, colluders, size = self._policy.modes[0], limits.min_survivors, 0, None
        if mode == MODE_DISTRIBUTED:
            if cohort >= COMPLETE_BELOW:
                # A random graph that may lose more needs more share-holders; a complete one is as it is.
                least = max(least, cohort - int(settings.drop_out * cohort))
            colluders = math.ceil(self._policy.colluding_share * cohort)
            size = graph_size(cohort, colluders, least)
        return RoundPlan(
            task=self._policy.fleet,
            round_id=checkpoint.next_round_id,
            purpose=intent_head.PURPOSE,
            contribution=intent_head.NAME,
            contribution_version=limits.version,
            dimension=checkpoint.weights.size + limits.health_dimension,
            clip_norm=limits.clip_norm,
            noise_variance=noise_variance_for(limits.noise_multiplier),
            cohort=cohort,
            min_survivors=least,
            colluders=colluders,
            degree=size.degree if size else 0,
            threshold=size.threshold if size else 0,
            health_dimension=limits.health_dimension,
            mode=mode,
            issued_s=now_s,
            deadline_s=now_s + settings.deadline_s,
            model_hash=model_hash(checkpoint.labels, checkpoint.weights),
            encoder_hash=self._encoder_hash,
            policy_hash=self._policy.hash,
            policy_sequence=self._policy.sequence,
            local=limits.local,
        )

    def _settle_interrupted(self) -> None:
        """A reserved round without an end belongs to a run that was killed: say so; its budget stays spent."""
        open_rounds: dict[int, str] = {}
        for entry in self._state.entries():
            if entry.kind == "reserve":
                open_rounds[entry.body["round_id"]] = entry.body["plan_hash"]
            elif entry.kind in ("release", "abort"):
                open_rounds.pop(entry.body["round_id"], None)
        for round_id, plan_hash in open_rounds.items():
            self._abort(round_id, plan_hash, "the aggregator was stopped during this round", None)

    def _abort(self, round_id: int, plan_hash: str, reason: str, survivors: int | None, stage: str = "") -> None:
        body = {"round_id": round_id, "plan_hash": plan_hash, "reason": reason, "survivors": survivors}
        if stage:
            body["stage"] = stage
            reason = f"stage {stage}: {reason}"
        self._state.append("abort", body)
        self._state.note("last_abort", {"time_s": int(self._clock()), "reason": reason})


def split_health(released: NoisySum, plan: RoundPlan) -> tuple[NoisySum, dict[str, float] | None]:
    """The part that is learned from, and what the coordinates that are zero on every device say about the noise."""
    learned = plan.dimension - plan.health_dimension
    if not plan.health_dimension:
        return released, None
    survivors_variance = released.survivors * plan.share_variance
    expected = released.noise_variance if plan.mode == MODE_TRUSTED else survivors_variance
    health = noise_health(released.values[learned:], expected)
    return replace(released, values=released.values[:learned]), {"z": health.z, "ratio": health.ratio_std}


def _planned(checkpoint: Checkpoint, rounds: int) -> Checkpoint:
    """The checkpoint with `rounds` in all as its goal; a new series starts from the model that the last one released."""
    if (
        checkpoint.rounds_done
        and checkpoint.rounds_done >= checkpoint.rounds_planned
        and rounds > checkpoint.rounds_done
    ):
        zeros = np.zeros(checkpoint.weights.shape)
        fresh = checkpoint.released_weights()
        checkpoint = replace(checkpoint, weights=fresh, velocity=zeros, tail_sum=zeros, tail_count=0)
    return replace(checkpoint, rounds_planned=rounds)
