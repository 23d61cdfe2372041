"""Federated rounds over any Flower grid: plan, collect, release, learn, commit. Streaming: one running sum, whatever the cohort.

What is written when (all in `FleetState`, each line one transaction):
    reserve   plan and its cost, before the first message is sent; from here on the round id and its budget are used
    release   the realised survivors and noise, the Merkle root of the contributions, the new model
    abort     too few answered, or an earlier run was interrupted; nothing was released, what was reserved stays spent
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import nacl.signing
import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from aggregator.checkpoint import Checkpoint, FleetState
from aggregator.releases import intent_head
from aggregator.releases.intent_head import ServerOptimizer
from privacy.gate import contribution_commitment
from privacy.mechanisms import TrustedSum
from privacy.merkle import merkle_root
from privacy.policy import Policy
from shared_models.canonical import seal_envelope
from shared_models.errors import (
    ConfigError,
    ContributionError,
    HaltedError,
    PolicyError,
    RoundError,
    TooFewSurvivorsError,
    WireError,
)
from shared_models.messages import read_contribution, round_records
from shared_models.wire import PLAN_KIND, RoundPlan, model_hash, noise_variance_for

logger = logging.getLogger(__name__)

PUSH_CHUNK = 256
POLL_PAUSE_S = 0.2


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
    optimizer: ServerOptimizer = field(default_factory=ServerOptimizer)

    def __post_init__(self) -> None:
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
        collected = _Collection(plan, cohort)
        content = round_records(envelope, checkpoint.labels, checkpoint.weights)
        give_up_s = time.monotonic() + settings.deadline_s
        for reply in exchange(grid, content, cohort, plan.round_id, give_up_s):
            collected.take(reply)
        try:
            released = collected.total.release()
        except TooFewSurvivorsError as error:
            self._abort(plan.round_id, plan.hash, str(error), collected.total.survivors)
            raise
        after = settings.optimizer.step(reserved, released)
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
            released.survivors * plan.dimension * 4,
            time.monotonic() - started_s,
            after,
        )

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
        return RoundPlan(
            task=self._policy.fleet,
            round_id=checkpoint.next_round_id,
            purpose=intent_head.PURPOSE,
            contribution=intent_head.NAME,
            contribution_version=limits.version,
            dimension=checkpoint.weights.size,
            clip_norm=limits.clip_norm,
            noise_variance=noise_variance_for(limits.noise_multiplier),
            cohort=cohort,
            min_survivors=limits.min_survivors,
            mode=self._policy.modes[0],
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

    def _abort(self, round_id: int, plan_hash: str, reason: str, survivors: int | None) -> None:
        self._state.append(
            "abort", {"round_id": round_id, "plan_hash": plan_hash, "reason": reason, "survivors": survivors}
        )
        self._state.note("last_abort", {"time_s": int(self._clock()), "reason": reason})


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


class _Collection:
    """Takes replies one by one into the running sum. A device counts once; what does not fit is rejected and counted."""

    def __init__(self, plan: RoundPlan, cohort: Sequence[int]) -> None:
        self.total = TrustedSum(plan)
        self.commitments: list[str] = []
        self.refused = 0
        self.rejected = 0
        self._plan = plan
        self._plan_hash = plan.hash
        self._awaited = set(cohort)

    def take(self, reply: Message) -> None:
        node_id = reply.metadata.src_node_id
        if node_id not in self._awaited:
            self._reject(node_id, "it was not invited or has answered before")
            return
        if reply.has_error():
            self._awaited.discard(node_id)
            self.refused += 1
            return
        try:
            contribution = read_contribution(reply)
            if (contribution.task, contribution.round_id, contribution.plan_hash) != (
                self._plan.task,
                self._plan.round_id,
                self._plan_hash,
            ):
                raise ContributionError("it answers another plan")
            self.total.add(contribution.values)
        except (WireError, ContributionError) as error:
            self._reject(node_id, str(error))
            return
        self._awaited.discard(node_id)
        self.commitments.append(contribution_commitment(self._plan_hash, contribution.nonce, contribution.values))

    def _reject(self, node_id: int, why: str) -> None:
        self.rejected += 1
        logger.warning("a reply of node %d was rejected: %s", node_id, why)


def exchange(grid: Grid, content: Any, cohort: Sequence[int], round_id: int, give_up_s: float) -> Iterator[Message]:
    """Send one `train` message to each node and yield replies as they come, until all came or time is up.

    Message content is shared, replies are handed on at once: memory does not grow with the cohort.
    """
    outstanding: dict[str, None] = {}
    for start in range(0, len(cohort), PUSH_CHUNK):
        chunk = cohort[start : start + PUSH_CHUNK]
        messages = [Message(content, node_id, "train", group_id=str(round_id)) for node_id in chunk]
        outstanding.update(dict.fromkeys(identifier for identifier in grid.push_messages(messages) if identifier))
    while outstanding and time.monotonic() < give_up_s:
        replies = list(grid.pull_messages(list(outstanding)))
        for reply in replies:
            outstanding.pop(reply.metadata.reply_to_message_id, None)
            yield reply
        if not replies:
            time.sleep(POLL_PAUSE_S)
