"""The training process: killed at any moment, alone with the data, and quiet about what went wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scheduled_device import (
    TRAINER,
    WEIGHTS,
    alive,
    await_,
    training_process,
)

from edge_client.share.agent.process import AgentLimits
from edge_client.share.agent.training import TrainingProcess
from shared_models.errors import AgentError, ContributionError
from shared_models.wire import LocalTraining

ROOT = Path(__file__).parents[2]
OWNER = """
import sys, threading, time
import numpy as np
from edge_client.share.agent.training import TrainingProcess
from shared_models.wire import LocalTraining
process = TrainingProcess(command=sys.argv[1:])
local = LocalTraining(max_grad_norm=1.0, expected_batch=4, sample_rate=1.0, noise_multiplier=0.0)
given = (local, np.eye(3, 4, dtype=np.float32), np.array([0, 1, 2]), np.zeros((3, 4), np.float32))
threading.Thread(target=process, args=given, daemon=True).start()
while process.pid is None: time.sleep(0.01)
print(process.pid, flush=True)
time.sleep(60)
"""
LOCAL = LocalTraining(max_grad_norm=1.0, expected_batch=4, sample_rate=1.0, noise_multiplier=0.0)


def train(process: TrainingProcess) -> Any:
    process.begin()
    return process(LOCAL, np.eye(3, 4, dtype=np.float32), np.array([0, 1, 2]), WEIGHTS)


def test_a_training_process_lives_for_one_training(tmp_path: Path) -> None:
    process = training_process(tmp_path / "begun")
    assert train(process).tolist() == np.eye(3, 4).reshape(-1).tolist()
    assert process.pid is None
    assert train(process).sum() == 3.0


def test_the_real_trainer_trains_with_opacus() -> None:
    process = TrainingProcess()
    process.begin()
    update = process(LOCAL, np.eye(3, 4, dtype=np.float32), np.array([0, 1, 2]), WEIGHTS)
    assert update.shape == (12,)
    assert np.isfinite(update).all()
    assert update.any()


def test_an_abort_before_the_start_counts(tmp_path: Path) -> None:
    process = training_process(tmp_path / "begun")
    process.begin()
    process.abort()
    with pytest.raises(AgentError, match="aborted"):
        process(LOCAL, np.eye(3, 4, dtype=np.float32), np.array([0, 1, 2]), WEIGHTS)
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("raise SystemExit(3)", AgentError),
        ("import time; time.sleep(60)", AgentError),
        ("print('garbage')", AgentError),
        (TRAINER.replace("return update.reshape(-1)", "return update[:1].reshape(-1)"), ContributionError),
        (TRAINER.replace("return update.reshape(-1)", "raise ValueError('canary')"), AgentError),
    ],
)
def test_a_training_process_that_breaks_is_one_error_without_its_text(
    tmp_path: Path, program: str, error: type[Exception]
) -> None:
    limits = AgentLimits(start_s=1.0 if "sleep(60)" in program else 20.0, train_s=3.0)
    command = [sys.executable, "-c", program, str(tmp_path / "begun"), "0"]
    with pytest.raises(error) as raised:
        train(TrainingProcess(command=command, limits=limits))
    assert "canary" not in str(raised.value)


def test_a_program_that_cannot_be_started_is_an_error_of_the_agent() -> None:
    with pytest.raises(AgentError, match="cannot be started"):
        train(TrainingProcess(command=["/no/such/program"]))


def test_the_training_process_sees_nothing_of_the_owners_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_SECRET", "canary")
    program = TRAINER.replace(
        "time.sleep(float(sys.argv[2]))", "import os; open(sys.argv[1], 'w').write(repr(os.environ))"
    )
    train(TrainingProcess(command=[sys.executable, "-c", program, str(tmp_path / "begun"), "0"]))
    assert "canary" not in (tmp_path / "begun").read_text().replace(str(tmp_path), "")


def test_the_training_process_does_not_outlive_a_killed_owner(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OWNER, sys.executable, "-c", TRAINER, str(tmp_path / "begun"), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        await_((tmp_path / "begun").exists)
        os.kill(owner.pid, signal.SIGKILL)
        await_(lambda: not alive(child))
