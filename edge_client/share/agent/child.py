"""The agent's side of the pipe: run the fleet node with the compiled-in ClientApp, ask the owner for each contribution, train.

Its stdin and stdout are the pipe and nothing else; when the owner goes, so does this process. It holds the node's key and, in a
round, features, targets and the update; never text, never a key of the store.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from edge_client.share.agent.fleet import FleetConfig, FleetState
from edge_client.share.agent.pipe import PREAMBLE, Frame, read_frame, write_frame
from edge_client.share.port import DevicePort, Trainer, Tuner, WeightsArray
from shared_models.canonical import Envelope
from shared_models.errors import AgentError, RefusedError, TacitError, WireError
from shared_models.local_tuning import LocalTuning
from shared_models.wire import LocalTraining

if TYPE_CHECKING:
    from edge_client.share.agent.exchange import Handler

logger = logging.getLogger(__name__)

OWNER_LIMIT_S = 300.0
"""How long the owner may take for one step of a round."""

STOP_GRACE_S = 1.5
LEAVE_WITHIN_S = 4.0


@dataclass(frozen=True)
class CarriedContribution:
    """A sealed contribution on its way through this process: the fields of `privacy.gate.SealedContribution`."""

    task: str
    round_id: int
    plan_hash: str
    nonce: str
    values: npt.NDArray[np.uint32]
    proof: bytes


@dataclass(frozen=True)
class CarriedStage:
    """The same for the other stages of a secure sum: the fields of `privacy.gate.SealedMessage`."""

    task: str
    round_id: int
    body: bytes


class PipePort:
    """A `DevicePort` whose device is the process at the other end of the pipe."""

    def __init__(self, source: BinaryIO, sink: BinaryIO, on_close: Callable[[], None]) -> None:
        """`on_close` is called once, from the reading thread, when the owner says stop or is gone."""
        self._source = source
        self._sink = sink
        self._on_close = on_close
        self._write = threading.Lock()
        self._frames: queue.Queue[Frame] = queue.Queue(maxsize=4)

    def start(self) -> None:
        threading.Thread(target=self._read, name="owner-pipe", daemon=True).start()

    def send(self, frame: Frame) -> None:
        """Raises AgentError if the owner is gone."""
        try:
            with self._write:
                write_frame(self._sink, frame)
        except OSError as error:
            raise AgentError("the owner of this agent is gone") from error

    def answer_stage(self, task: str, round_id: int, stage: str, body: bytes) -> CarriedStage:
        """Raises RefusedError (without a reason), AgentError or WireError."""
        self.send(Frame("stage", {"task": task, "round_id": round_id, "stage": stage}, blobs={"body": body}))
        frame = self._receive()
        if frame.kind == "refused":
            raise RefusedError("the device does not go on with this round")
        if frame.kind != "answer" or set(frame.blobs) != {"body"}:
            raise WireError(f"the owner sent {frame.kind!r} where the answer to a stage was expected")
        return CarriedStage(task, round_id, frame.blobs["body"])

    def contribute(
        self, plan: Envelope, labels: Sequence[str], weights: WeightsArray, trainer: Trainer, request: bytes = b""
    ) -> CarriedContribution:
        """Raises RefusedError (without a reason), AgentError or WireError."""
        asked = {"plan": plan.document(), "labels": list(labels)}
        self.send(Frame("round", asked, {"weights": weights}, {"request": request}))
        frame = self._receive()
        if frame.kind == "train":
            self.send(train_as_asked(frame, trainer))
            frame = self._receive()
        if frame.kind == "refused":
            raise RefusedError("the device does not contribute to this round")
        if frame.kind != "sealed":
            raise WireError(f"the owner sent {frame.kind!r} where a sealed contribution was expected")
        task, round_id, plan_hash, nonce = (frame.body.get(x) for x in ("task", "round_id", "plan_hash", "nonce"))
        if not (isinstance(task, str) and isinstance(plan_hash, str) and isinstance(nonce, str)):
            raise WireError("a sealed contribution carries the names of its round")
        if not isinstance(round_id, int):
            raise WireError("a sealed contribution carries the number of its round")
        if set(frame.blobs) != {"proof"}:
            raise WireError("a sealed contribution carries its proof")
        values = frame.array("values", "uint32", 1)
        return CarriedContribution(task, round_id, plan_hash, nonce, values, frame.blobs["proof"])

    def _receive(self) -> Frame:
        try:
            return self._frames.get(timeout=OWNER_LIMIT_S)
        except queue.Empty:
            raise AgentError("the owner of this agent does not answer") from None

    def _read(self) -> None:
        try:
            while (frame := read_frame(self._source)) is not None and frame.kind != "stop":
                self._frames.put(frame)
        except (WireError, OSError) as error:
            logger.warning("the pipe to the owner broke: %s", type(error).__name__)
        self._on_close()


def train_as_asked(frame: Frame, trainer: Trainer) -> Frame:
    """The answer to a frame `train`: `update`, or `failed` with the kind of error and no text."""
    try:
        local = LocalTraining(**frame.body)
        update = trainer(
            local,
            frame.array("features", "float32", 2),
            frame.array("targets", "int64", 1),
            frame.array("weights", "float32", 2),
        )
        # torch computes in float32: nothing is lost.
        return Frame("update", arrays={"update": np.asarray(update, np.float32).reshape(-1)})
    except Exception as error:  # noqa: BLE001 - the owner waits for an answer, whatever went wrong
        logger.warning("training failed with %s", type(error).__name__)
        return Frame("failed", {"kind": type(error).__name__})


def tune_as_asked(frame: Frame, tuner: Tuner) -> Frame:
    """The answer to a frame `tune`, as that to `train`."""
    try:
        change = tuner(
            LocalTuning(**frame.body),
            frame.array("features", "float32", 2),
            frame.array("targets", "int64", 1),
            frame.array("weights", "float32", 2),
            frame.array("replay_features", "float32", 2),
            frame.array("replay_targets", "int64", 1),
        )
        return Frame("update", arrays={"update": np.asarray(change, np.float32).reshape(-1)})
    except Exception as error:  # noqa: BLE001 - the owner waits for an answer, whatever went wrong
        logger.warning("tuning failed with %s", type(error).__name__)
        return Frame("failed", {"kind": type(error).__name__})


def claim_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for the protocol: what any library prints from here on goes to stderr, what it reads is empty."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return source, sink


def run(handler_for: Callable[[DevicePort], Handler] | None = None) -> int:
    """Be an agent until the owner says stop or is gone. Returns the exit status.

    `handler_for` makes the handler from the port; by default the ClientApp of `client_app`.
    """
    source, sink = claim_standard_streams()
    sink.write(PREAMBLE)
    sink.flush()
    try:
        config = _read_config(source)
    except (TacitError, OSError) as error:
        print(f"agent: {type(error).__name__}", file=sys.stderr)
        return 2
    _set_up_logging(config.log_level)
    over = threading.Event()
    port = PipePort(source, sink, over.set)
    port.start()

    def report(state: FleetState, error: TacitError | None) -> None:
        try:
            port.send(Frame("state", {"state": str(state), "error": str(error) if error else None}))
        except AgentError:
            over.set()
        if state is FleetState.REFUSED:
            over.set()

    def replied(delivered: bool) -> None:
        try:
            port.send(Frame("reply", {"delivered": delivered}))
        except AgentError:
            over.set()

    # Heavy imports only now: the owner already knows that this process lives, and its end ends the imports too.
    threading.Thread(target=_leave_when, args=(over,), name="owner-watch", daemon=True).start()
    from edge_client.share.agent.node import FleetNode

    try:
        node = FleetNode(config, (handler_for or _client_app)(port), report, replied)
    except TacitError as error:
        report(FleetState.REFUSED, error)
        return 2
    node.start()
    over.wait()
    node.stop(STOP_GRACE_S)
    return 0


def _leave_when(over: threading.Event) -> None:
    """An import or a handler deep in torch must not outlive the owner."""
    over.wait()
    time.sleep(LEAVE_WITHIN_S)
    os._exit(0)


def _client_app(port: DevicePort) -> Handler:
    from edge_client.share.agent.client_app import make_client_app

    return make_client_app(lambda context: port)


def _read_config(source: BinaryIO) -> FleetConfig:
    frame = read_frame(source)
    if frame is None or frame.kind != "fleet" or set(frame.blobs) != {"ca_pem", "node_key_pem"}:
        raise WireError("the first frame of an owner carries the way to its fleet")
    try:
        return FleetConfig(**frame.body, ca_pem=frame.blobs["ca_pem"], node_key_pem=frame.blobs["node_key_pem"])
    except TypeError as error:
        raise WireError("the first frame of an owner carries the way to its fleet") from error


def _set_up_logging(level: str) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    # At debug level these would print headers, and so this node's signatures.
    for name in ("httpx", "httpcore", "hpack", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
