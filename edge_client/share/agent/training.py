"""The owner's end of the training process: one process for one training, which can be killed at any moment.

Apart from the agent's child, for two reasons: killing a training must not kill the process that has to carry the answer, and the
process that talks to the network never sees features, targets or an update. Imports neither Flower nor torch.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_client.share.agent.channel import AgentChannel
from edge_client.share.agent.pipe import Frame
from edge_client.share.agent.process import AgentLimits, RemoteTrainer
from edge_client.share.port import FeaturesArray, TargetsArray, UpdateArray, WeightsArray
from shared_models.errors import AgentError, WireError
from shared_models.local_tuning import LocalTuning
from shared_models.wire import LocalTraining


class TrainingProcess:
    """A `Trainer` (see `port`) that can be aborted. Each training has a process of its own: between rounds it costs nothing.

    One training at a time.
    """

    def __init__(
        self,
        *,
        limits: AgentLimits | None = None,
        log_path: Path | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """`log_path` collects what the process prints; by default that is dropped. `command` is for tests."""
        self._limits = limits or AgentLimits()
        self._log_path = log_path
        self._command = list(command or [sys.executable, "-m", "edge_client.share.agent.trainer"])
        self._guard = threading.Lock()
        self._channel: AgentChannel | None = None
        self._aborted = False

    @property
    def pid(self) -> int | None:
        """Of the process that trains now."""
        channel = self._channel
        return channel.pid if channel else None

    def begin(self) -> None:
        """Forget an earlier abort: one that comes after this counts for the next training, also if it comes before its start."""
        with self._guard:
            self._aborted = False

    def abort(self) -> None:
        """Kill what trains, from any thread; when this returns, its process is gone. The training raises AgentError."""
        with self._guard:
            self._aborted = True
            if self._channel is not None:
                self._channel.kill()

    def __call__(
        self, local: LocalTraining, features: FeaturesArray, targets: TargetsArray, weights: WeightsArray
    ) -> UpdateArray:
        """Raises AgentError if it was aborted or its process failed, ContributionError for an update of another size."""
        return self._run(lambda train: train(local, features, targets, weights))

    def tune(
        self,
        tuning: LocalTuning,
        features: FeaturesArray,
        targets: TargetsArray,
        weights: WeightsArray,
        replay_features: FeaturesArray,
        replay_targets: TargetsArray,
    ) -> UpdateArray:
        """A `Tuner`, in a process of its own as a training is. Raises as a call."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "features": np.asarray(features, np.float32),
            "targets": np.asarray(targets, np.int64),
            "weights": np.asarray(weights, np.float32),
            "replay_features": np.asarray(replay_features, np.float32),
            "replay_targets": np.asarray(replay_targets, np.int64),
        }
        return self._run(lambda train: train.ask(Frame("tune", asdict(tuning), arrays), weights.size))

    def _run(self, ask: Callable[[RemoteTrainer], UpdateArray]) -> UpdateArray:
        with tempfile.TemporaryDirectory(prefix="tacit-training-", ignore_cleanup_errors=True) as home:
            try:
                with self._guard:
                    if self._aborted:
                        raise AgentError("the training was aborted before it began")
                    self._channel = channel = AgentChannel(self._command, home, self._log_path)
                channel.expect_preamble(self._limits.start_s)
                return ask(RemoteTrainer(channel, self._limits.train_s, lambda frame: None))
            except OSError as error:
                raise AgentError(f"the training process cannot be started: {type(error).__name__}") from error
            except WireError as error:
                # To the gate a WireError would mean that the plan is wrong, and the round would be refused.
                raise AgentError("the training process did not keep to its protocol") from error
            finally:
                with self._guard:
                    ended, self._channel = self._channel, None
                if ended is not None:
                    ended.kill()
