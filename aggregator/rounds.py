"""Federated rounds over any Flower grid: plan, collect, release, learn, commit. Streaming: one running sum, whatever the cohort.

What is written when (all in `FleetState`, each line one transaction):
    reserve   plan and its cost, before the first message is sent; from here on the round id and its budget are used
    release   the realised survivors and noise, the Merkle root of the contributions; the new model, or the sum itself
    artifact  what was made of released sums that are no step of the model (aggregator.studies)
    abort     too few answered, or an earlier run was interrupted; nothing was released, what was reserved stays spent
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import nacl.signing
import numpy as np
from flwr.serverapp import Grid

from aggregator.checkpoint import Checkpoint, FleetState
from aggregator.collection import Collected, SecureCollection, collect_trusted
from aggregator.planning import Asked, Planner
from aggregator.releases import intent_head
from aggregator.releases.intent_head import ServerOptimizer
from aggregator.studies import ReleasedSum, Step, Study
from privacy.mechanisms import NoisySum
from privacy.merkle import merkle_root
from privacy.noise_health import noise_health
from privacy.policy import Policy
from shared_models.canonical import Envelope, canonical_bytes, seal_envelope
from shared_models.errors import ConfigError, PolicyError, RoundError, SecureSumError, TooFewSurvivorsError
from shared_models.layouts import NO_ENCODER, layout_model
from shared_models.messages import RoundRecords
from shared_models.wire import MODE_TRUSTED, PLAN_KIND, RoundPlan, model_hash

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
        self._planner = Planner(state, policy, clock)

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
        checkpoint = _planned(self._started(), settings.rounds)
        while checkpoint.rounds_done < settings.rounds:
            outcome = self._head_round(grid, checkpoint, settings)
            checkpoint = outcome.checkpoint
            if on_round:
                on_round(outcome)
        return checkpoint

    def run_study(
        self, grid: Grid, settings: RoundSettings, study: Study, on_round: Callable[[RoundOutcome], None] | None = None
    ) -> Mapping[str, bytes]:
        """Run the rounds that `study` still needs, and keep and return the artefacts that come of them.

        After a crash it continues from the last commit: a sum that was released is never asked for again, an artefact that was
        not kept is made of the stored sum. Raises as `run` does; `settings.rounds` is not used.
        """
        checkpoint = self._started()
        while (step := study.next_step(done := released_sums(self._state, study.contributions))) is not None:
            outcome = self._study_round(grid, checkpoint, settings, study, step)
            checkpoint = outcome.checkpoint
            if on_round:
                on_round(outcome)
        made = study.make(done)
        self._state.append("artifact", {"study": study.name, "rounds": list(made.rounds)}, artifacts=made.artifacts)
        return made.artifacts

    def _started(self) -> Checkpoint:
        checkpoint = self._state.checkpoint()
        if checkpoint is None:
            raise RoundError("this state holds no model yet; `tacit-fleet init` writes one")
        self._settle_interrupted()
        return checkpoint

    # -- one round ------------------------------------------------------------------------------------------------

    def _head_round(self, grid: Grid, checkpoint: Checkpoint, settings: RoundSettings) -> RoundOutcome:
        asked = Asked(
            intent_head.PURPOSE,
            intent_head.NAME,
            None,
            checkpoint.weights.size,
            model_hash(checkpoint.labels, checkpoint.weights),
            self._encoder_hash,
        )

        def learn(reserved: Checkpoint, learned: NoisySum) -> tuple[Checkpoint, dict[str, Any]]:
            after = settings.optimizer.step(reserved, learned)
            return after, {"model_hash": model_hash(after.labels, after.weights)}

        return self._round(grid, checkpoint, settings, asked, (checkpoint.labels, checkpoint.weights), learn)

    def _study_round(
        self, grid: Grid, checkpoint: Checkpoint, settings: RoundSettings, study: Study, step: Step
    ) -> RoundOutcome:
        labels, weights = layout_model(step.contribution, step.version, step.layout)
        asked = Asked(
            study.purpose,
            step.contribution,
            step.version,
            step.dimension,
            model_hash(labels, weights),
            NO_ENCODER,
            clip_norm=1.0,
            noise_factor=step.noise_factor,
            layout=step.layout,
        )
        return self._round(grid, checkpoint, settings, asked, (labels, weights), None)

    def _round(
        self,
        grid: Grid,
        checkpoint: Checkpoint,
        settings: RoundSettings,
        asked: Asked,
        model: tuple[Sequence[str], np.ndarray],
        learn: Callable[[Checkpoint, NoisySum], tuple[Checkpoint, dict[str, Any]]] | None,
    ) -> RoundOutcome:
        """`learn`: what the model becomes by the sum; None: the sum itself is stored."""
        started_s = time.monotonic()
        limits = self._planner.limits(asked)
        if settings.cohort is None:
            self._planner.check_forecast(asked, limits)
        cohort = self._planner.choose_cohort(grid, settings.cohort, limits.min_survivors, settings.wait_for_devices_s)
        # After the wait: a policy may have expired in it.
        limits = self._planner.limits(asked)
        plan = self._planner.plan(
            asked, limits, checkpoint.next_round_id, len(cohort), settings.deadline_s, settings.drop_out
        )
        envelope = seal_envelope(PLAN_KIND, plan.to_bytes(), self._key)
        reserved = replace(checkpoint, next_round_id=plan.round_id + 1)
        self._state.append(
            "reserve",
            {
                "round_id": plan.round_id,
                "plan": plan.document(),
                "plan_hash": plan.hash,
                "rho": plan.rho,
                **({"layout": dict(asked.layout)} if asked.layout is not None else {}),
            },
            checkpoint=reserved,
        )
        collected = Collected()
        try:
            records = RoundRecords(envelope, *model)
            released = self._collect(grid, plan, envelope, records, cohort, settings, collected)
        except (TooFewSurvivorsError, SecureSumError) as error:
            self._abort(plan.round_id, plan.hash, str(error), collected.survivors, collected.stage)
            raise
        learned, health = split_health(released, plan)
        after, facts = learn(reserved, learned) if learn else (reserved, {})
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
                **facts,
                **({"roster": collected.roster, "share_variance": plan.share_variance} if collected.roster else {}),
                **({"health": health} if health else {}),
            },
            checkpoint=after if learn else None,
            leaves=(plan.round_id, commitments),
            released=None if learn else (plan.round_id, released.values),
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
        records: RoundRecords,
        cohort: Sequence[int],
        settings: RoundSettings,
        collected: Collected,
    ) -> NoisySum:
        if plan.mode == MODE_TRUSTED:
            return collect_trusted(grid, plan, records, cohort, settings.deadline_s, collected)
        enrolment_key = self._policy.enrolment_key
        if enrolment_key is None:
            raise PolicyError("the policy names no enrolment authority, so no secure sum can be run")
        return SecureCollection(
            grid, plan, envelope.to_bytes(), records, enrolment_key, self._clock, settings.deadline_s, collected
        ).run(cohort)

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


def released_sums(state: FleetState, contributions: Sequence[str]) -> list[ReleasedSum]:
    """Released rounds of these contributions that no artefact was made of yet, oldest first. Raises CheckpointError."""
    plans: dict[int, tuple[RoundPlan, dict[str, Any]]] = {}
    found: dict[int, tuple[int, int]] = {}
    for entry in state.entries():
        body = entry.body
        if entry.kind == "reserve" and body["plan"]["contribution"] in contributions:
            plans[body["round_id"]] = RoundPlan.from_bytes(canonical_bytes(body["plan"])), body["layout"]
        elif entry.kind == "release" and body["round_id"] in plans:
            found[body["round_id"]] = body["survivors"], body["noise_variance"]
        elif entry.kind == "artifact":
            for round_id in body["rounds"]:
                found.pop(round_id, None)
    sums = []
    for round_id, (survivors, variance) in found.items():
        plan, layout = plans[round_id]
        whole = NoisySum(state.released_grid(round_id), survivors, variance, plan.clip_norm)
        total = replace(whole, values=whole.values[: plan.dimension - plan.health_dimension])
        sums.append(ReleasedSum(round_id, plan.contribution, layout, total))
    return sums


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
