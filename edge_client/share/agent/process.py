"""The owner's end of the agent: start the child, show it the way to the fleet, serve what a round asks, start it again.

Imports neither Flower nor torch. The child gets cached features and integer targets, never text and never keys of the store;
the sealed contribution that the port returns is all that it can carry out.

    child → owner   state {state, error}     round {plan, labels} + weights, request     stage {…} + body
                    update {} + update       failed {kind}     reply {delivered}
    owner → child   fleet {…} + keys         train {local} + features, targets, weights  answer {} + body
                    sealed {…} + values, proof     refused {}     stop {}
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_client.share.agent.channel import AgentChannel
from edge_client.share.agent.fleet import FleetConfig, FleetState
from edge_client.share.agent.pipe import Frame
from edge_client.share.port import DevicePort, FeaturesArray, TargetsArray, UpdateArray, WeightsArray
from shared_models.canonical import Envelope
from shared_models.errors import AgentError, ContributionError, RefusedError, TacitError, WireError
from shared_models.wire import UNMASK, LocalTraining

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentLimits:
    """How long the owner waits for its child, and how often it starts it again."""

    start_s: float = 120.0
    """From start to the first word: Python, Flower and torch are loaded in it."""
    train_s: float = 120.0
    stop_s: float = 5.0
    first_pause_s: float = 1.0
    """Before the first restart; doubled each time, up to `most_pause_s`."""
    most_pause_s: float = 60.0
    restarts: int = 10
    """In a row; a child that lived for `healthy_s` starts the count again."""
    healthy_s: float = 60.0


class AgentProcess:
    """Keeps one agent child running. All calls of `port` come from one thread, one at a time.

    The state is that of the child's node; `error` says why it is not ready: FleetError's text from the child, or an AgentError
    of the process itself. After `limits.restarts` deaths in a row, or once the fleet refuses this key, it gives up.
    """

    def __init__(
        self,
        config: FleetConfig,
        port: DevicePort,
        *,
        on_state: Callable[[FleetState, str | None], None] | None = None,
        limits: AgentLimits | None = None,
        log_path: Path | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """`log_path` collects what the child prints; by default that is dropped. `command` is for tests."""
        self._config = config
        self._port = port
        self._on_state = on_state
        self._limits = limits or AgentLimits()
        self._log_path = log_path
        self._command = list(command or [sys.executable, "-m", "edge_client.share.agent"])
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._state = FleetState.STOPPED
        self._error: str | None = None
        self._thread: threading.Thread | None = None
        self._child: AgentChannel | None = None
        self._answered = 0
        self._delivered = 0
        self._settled = 0
        self._carried = False
        """The child holds a sealed contribution, and has not said yet whether it arrived."""

    def start(self) -> None:
        """Raises AgentError if it runs already."""
        if self._thread is not None and self._thread.is_alive():
            raise AgentError("this agent is running already")
        self._stopping.clear()
        self._set_state(FleetState.CONNECTING, None)
        self._thread = threading.Thread(target=self._supervise, name="agent-owner", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the child to end, wait `limits.stop_s`, then kill it."""
        self._stopping.set()
        child = self._child
        if child is not None:
            child.end(self._limits.stop_s)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._limits.stop_s + 5.0)

    def __enter__(self) -> AgentProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def state(self) -> FleetState:
        return self._state

    @property
    def error(self) -> str | None:
        return self._error

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child else None

    @property
    def answered(self) -> int:
        """Rounds whose sealed contribution was handed to the child since `start()`."""
        return self._answered

    @property
    def delivered(self) -> int:
        """How many of those the aggregator has, as the child says."""
        return self._delivered

    @property
    def settled(self) -> int:
        """How many of those were delivered, were given up, or died with the child: nothing is on its way for them."""
        return self._settled

    def wait_for(self, *states: FleetState, timeout_s: float) -> FleetState:
        """Block until the state is one of `states`. Raises AgentError after `timeout_s`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._state in states, timeout_s):
                raise AgentError(f"the agent is {self._state} after {timeout_s} s: {self._error or 'no error'}")
            return self._state

    # -- the child's life -----------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        deaths, pause_s = 0, self._limits.first_pause_s
        while not self._stopping.is_set():
            born_s = time.monotonic()
            try:
                self._live()
                error = AgentError("the agent ended by itself")
            except TacitError as failure:
                error = AgentError(str(failure)) if not isinstance(failure, AgentError) else failure
            except OSError as failure:
                error = AgentError(
                    f"the agent cannot be started or reached: {failure.strerror or type(failure).__name__}"
                )
            if self._stopping.is_set() or self._state is FleetState.REFUSED:
                break
            if time.monotonic() - born_s > self._limits.healthy_s:
                deaths, pause_s = 0, self._limits.first_pause_s
            deaths += 1
            if deaths > self._limits.restarts:
                self._set_state(FleetState.STOPPED, f"{error}; given up after {deaths} starts")
                return
            self._set_state(FleetState.CONNECTING, str(error))
            self._stopping.wait(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, self._limits.most_pause_s)
        if self._state is not FleetState.REFUSED:
            self._set_state(FleetState.STOPPED, None)

    def _live(self) -> None:
        """One child from start to end. Raises WireError, AgentError or OSError if it fails."""
        with tempfile.TemporaryDirectory(prefix="tacit-agent-", ignore_cleanup_errors=True) as home:
            self._child = child = AgentChannel(self._command, home, self._log_path)
            try:
                if self._stopping.is_set():
                    return
                child.expect_preamble(self._limits.start_s)
                child.send(_fleet_frame(self._config))
                while (frame := child.receive(None)) is not None:
                    self._serve(child, frame)
                if not self._stopping.is_set() and self._state is not FleetState.REFUSED:
                    raise AgentError(f"the agent died with status {child.wait(self._limits.stop_s)}")
            finally:
                child.kill()
                self._child = None
                self._settle(delivered=False)

    def _serve(self, child: AgentChannel, frame: Frame) -> None:
        if frame.kind == "state":
            self._take_state(frame)
        elif frame.kind == "round":
            child.send(self._answer(child, frame))
        elif frame.kind == "stage":
            child.send(self._answer_stage(frame))
        elif frame.kind == "reply":
            self._settle(delivered=frame.body.get("delivered") is True)
        else:
            raise WireError(f"the agent sent {frame.kind[:40]!r} where a round, a reply or a state was expected")

    def _settle(self, *, delivered: bool) -> None:
        # A child reports every reply, refusals and errors too; only what carried a contribution counts.
        if self._carried:
            self._carried = False
            self._delivered += delivered
            self._settled += 1

    def _take_state(self, frame: Frame) -> None:
        try:
            state = FleetState(str(frame.body.get("state")))
        except ValueError as failure:
            raise WireError("the agent reports a state that does not exist") from failure
        error = frame.body.get("error")
        if state is not FleetState.STOPPED:
            self._set_state(state, error[:500] if isinstance(error, str) else None)

    def _answer_stage(self, frame: Frame) -> Frame:
        task, round_id, stage = (frame.body.get(name) for name in ("task", "round_id", "stage"))
        if not (isinstance(task, str) and type(round_id) is int and isinstance(stage, str)):
            raise WireError("a stage carries the name of its round and its own")
        if set(frame.blobs) != {"body"}:
            raise WireError("a stage carries a body")
        try:
            sealed = self._port.answer_stage(task, round_id, stage, frame.blobs["body"])
            self._carried = stage == UNMASK
            return Frame("answer", blobs={"body": sealed.body})
        except Exception as error:  # noqa: BLE001 - whatever it was, the reason must stay here
            logger.info("a stage was refused here: %s", type(error).__name__)
            return Frame("refused")

    def _answer(self, child: AgentChannel, frame: Frame) -> Frame:
        envelope, labels = frame.body.get("plan"), frame.body.get("labels")
        if (
            not isinstance(envelope, dict)
            or not isinstance(labels, list)
            or not all(isinstance(x, str) for x in labels)
        ):
            raise WireError("a round carries a signed plan and labels")
        weights = frame.array("weights", "float32", 2)
        if set(frame.blobs) != {"request"}:
            raise WireError("a round carries a request")
        trainer = RemoteTrainer(child, self._limits.train_s, self._take_state)
        try:
            plan, request = Envelope.from_document(envelope), frame.blobs["request"]
            sealed = self._port.contribute(plan, tuple(labels), weights, trainer, request)
            if trainer.broken:
                # The gate answers a failed training with zeros; but nobody is left who could carry them.
                raise AgentError("the agent failed while it trained")
            values = np.ascontiguousarray(sealed.values)
            if values.dtype != np.uint32 or values.ndim != 1:
                raise ContributionError("the port did not return a sealed contribution")
            body = {
                "task": sealed.task,
                "round_id": sealed.round_id,
                "plan_hash": sealed.plan_hash,
                "nonce": sealed.nonce,
            }
        except Exception as error:  # whatever it was, the round must end and the reason must stay here
            if trainer.broken:
                raise AgentError("the agent failed while it trained") from error
            kind = "refused" if isinstance(error, RefusedError) else "failed"
            logger.info("a round was %s here: %s", kind, type(error).__name__)
            return Frame("refused")
        self._answered += 1
        # In a secure sum the round is answered with the last stage.
        self._carried = not sealed.proof
        return Frame("sealed", body, {"values": values}, {"proof": sealed.proof})

    def _set_state(self, state: FleetState, error: str | None) -> None:
        with self._changed:
            if (state, error) == (self._state, self._error):
                return
            self._state, self._error = state, error
            self._changed.notify_all()
        if self._on_state:
            self._on_state(state, error)


class RemoteTrainer:
    """The `Trainer` that a gate gets: trains in the child, once."""

    def __init__(self, child: AgentChannel, timeout_s: float, on_state: Callable[[Frame], None]) -> None:
        self._child = child
        self._timeout_s = timeout_s
        self._on_state = on_state
        self._used = False
        self.broken = False
        """The child failed, not the training: nothing more can be said to it."""

    def __call__(
        self, local: LocalTraining, features: FeaturesArray, targets: TargetsArray, weights: WeightsArray
    ) -> UpdateArray:
        arrays: dict[str, npt.NDArray[Any]] = {
            "features": np.asarray(features, np.float32),
            "targets": np.asarray(targets, np.int64),
            "weights": np.asarray(weights, np.float32),
        }
        return self.ask(Frame("train", asdict(local), arrays), weights.size)

    def ask(self, frame: Frame, size: int) -> UpdateArray:
        """Send what is to be trained or tuned, and wait for the `size` numbers that come of it. Raises as a call."""
        if self._used:
            raise AgentError("a round trains once")
        self._used = True
        self.broken = True
        try:
            self._child.send(frame)
            while (answer := self._child.receive(self._timeout_s)) is not None and answer.kind == "state":
                self._on_state(answer)
        except OSError as error:
            raise AgentError("the agent died while it trained") from error
        if answer is None:
            raise AgentError("the agent died while it trained")
        if answer.kind == "failed":
            self.broken = False
            raise AgentError(f"the training failed with {str(answer.body.get('kind'))[:80]!r}")
        if answer.kind != "update":
            raise WireError(f"the agent sent {answer.kind[:40]!r} where an update was expected")
        update = answer.array("update", "float32", 1)
        self.broken = False
        if update.size != size:
            raise ContributionError(f"an update of {update.size} numbers for a model of {size}")
        return update


def _fleet_frame(config: FleetConfig) -> Frame:
    body = asdict(config)
    blobs = {name: body.pop(name) for name in ("ca_pem", "node_key_pem")}
    return Frame("fleet", body, blobs=blobs)
