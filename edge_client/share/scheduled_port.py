"""A device's port under a schedule: an invitation is always answered, and trained for only when the schedule allows.

Where it does not, or the user comes back in the middle, zeros go through the gate in the update's place: clipped, noised, masked,
paid for and noted like any other contribution. Nothing here makes an answer; that is the gate's (privacy.gate).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from edge_client.share.agent.training import TrainingProcess
from edge_client.share.port import DevicePort, FeaturesArray, TargetsArray, Trainer, UpdateArray, WeightsArray
from edge_client.share.scheduler import Outcome, Scheduler
from shared_models.canonical import Envelope
from shared_models.errors import NotTrainedError, TacitError, WireError
from shared_models.wire import ADVERTISE, UNMASK, LocalTraining, RoundPlan, Sealed, SealedStage

FIRST_HOLD_S = 5.0
"""A device that never trained yet holds its answers as long as a training takes that has to load torch first (4 s measured)."""

HOLD_MARGIN = 1.25
MOST_HOLD_S = 60.0
MOST_OPEN_ROUNDS = 16


class ScheduledPort:
    """A `DevicePort` around another. All calls from one thread, one at a time; `in_round` and `close` from any.

    Every contribution is held until a training would have been done: otherwise its haste would tell that nothing was trained,
    and so that somebody sat at the device.
    """

    def __init__(
        self,
        port: DevicePort,
        scheduler: Scheduler,
        training: TrainingProcess,
        *,
        clock: Callable[[], float],
        tell: Callable[[str], None] | None = None,
        first_hold_s: float = FIRST_HOLD_S,
    ) -> None:
        """`tell` gets one line for each round that was contributed to; nothing of it may leave the device."""
        self._port = port
        self._scheduler = scheduler
        self._training = training
        self._clock = clock
        self._tell = tell
        self._first_hold_s = first_hold_s
        self._closed = threading.Event()
        self._guard = threading.Lock()
        self._open: dict[tuple[str, int], float] = {}
        """Secure sums that keys were offered for and that are not over → their deadline."""

    @property
    def in_round(self) -> bool:
        """True while a secure sum waits for this device: going offline now would break a promise."""
        now_s = self._clock()
        with self._guard:
            self._open = {key: deadline_s for key, deadline_s in self._open.items() if deadline_s > now_s}
            return bool(self._open)

    def answer_stage(self, task: str, round_id: int, stage: str, body: bytes) -> SealedStage:
        try:
            sealed = self._port.answer_stage(task, round_id, stage, body)
        except Exception:
            self._leave(task, round_id)
            raise
        if stage == ADVERTISE:
            plan = RoundPlan.from_bytes(Envelope.from_bytes(body).payload)
            with self._guard:
                self._open[(plan.task, plan.round_id)] = plan.deadline_s
                while len(self._open) > MOST_OPEN_ROUNDS:
                    del self._open[next(iter(self._open))]
        elif stage == UNMASK:
            self._leave(task, round_id)
        return sealed

    def contribute(
        self, plan: Envelope, labels: Sequence[str], weights: WeightsArray, trainer: Trainer, request: bytes = b""
    ) -> Sealed:
        """As the port within; `trainer` is not used, for it could not be killed without the process that carries the answer."""
        asked_s, asked_at_s, hold_s = time.monotonic(), self._clock(), self.hold_s()
        said = "there was nothing to train"

        def train(
            local: LocalTraining, features: FeaturesArray, targets: TargetsArray, model: WeightsArray
        ) -> UpdateArray:
            nonlocal said
            # Called for a plan that the gate has accepted.
            purpose = RoundPlan.from_bytes(plan.payload).purpose
            try:
                update = self._train(purpose, local, features, targets, model)
            except TacitError as error:
                said = f"answered with zeros: {error}"
                raise
            said = "trained"
            return update

        try:
            sealed = self._port.contribute(plan, labels, weights, train, request)
        except Exception:
            self._leave_plan(plan)
            raise
        if self._tell:
            self._tell(f"round {sealed.round_id}: {said}")
        # Whoever is late has stayed away: three quarters of the time are left to the network and the stages that follow.
        most_s = (RoundPlan.from_bytes(plan.payload).deadline_s - asked_at_s) / 4
        # What zeros would have waited at least, also where this training has just taught that less is enough.
        self._closed.wait(max(0.0, asked_s + min(max(hold_s, self.hold_s()), most_s) - time.monotonic()))
        return sealed

    def hold_s(self) -> float:
        """How long after its request a contribution leaves at the earliest: the same, whether or not something was trained."""
        longest_s = self._scheduler.longest_training_s
        return min(MOST_HOLD_S, self._first_hold_s if longest_s is None else HOLD_MARGIN * longest_s)

    def close(self) -> None:
        """End a training and a hold that are under way; what was sealed still goes out."""
        self._closed.set()
        self._training.abort()

    def _train(
        self,
        purpose: str,
        local: LocalTraining,
        features: FeaturesArray,
        targets: TargetsArray,
        weights: WeightsArray,
    ) -> UpdateArray:
        verdict = self._scheduler.may_run(purpose)
        if not verdict.allowed:
            self._scheduler.ended(purpose, Outcome.NOT_ALLOWED, verdict.reasons)
            raise NotTrainedError(f"not trained: {', '.join(verdict.reasons)}")
        self._scheduler.started(purpose)
        started_s = time.monotonic()
        self._training.begin()
        if self._closed.is_set():
            raise NotTrainedError("not trained: the agent is ending")
        failure: TacitError | None = None
        with self._scheduler.watch(self._training.abort) as watch:
            try:
                update = self._training(local, features, targets, weights)
            except TacitError as error:
                failure = error
        if failure is None:
            self._scheduler.ended(purpose, Outcome.TRAINED, duration_s=time.monotonic() - started_s)
            return update
        reasons = watch.reasons or (("the agent is ending",) if self._closed.is_set() else ())
        if reasons:
            self._scheduler.ended(purpose, Outcome.ABORTED, reasons)
            raise NotTrainedError(f"training stopped: {', '.join(reasons)}") from failure
        self._scheduler.ended(purpose, Outcome.FAILED, (type(failure).__name__,))
        raise failure

    def _leave(self, task: str, round_id: int) -> None:
        with self._guard:
            self._open.pop((task, round_id), None)

    def _leave_plan(self, envelope: Envelope) -> None:
        try:
            plan = RoundPlan.from_bytes(envelope.payload)
        except WireError:
            return
        self._leave(plan.task, plan.round_id)
