"""A whole device but for its app and its fleet: store, consent, gate, schedule, and a real training process without torch."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nacl.signing
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "privacy"))
from privacy_world import (
    ENCODER_HASH,
    NOW_S,
    OFFICER_PUBLIC,
    PURPOSE,
    make_plan,
    parsed,
    policy_document,
    signed_plan,
    signed_policy,
)

from edge_client.know.consent import Consent
from edge_client.know.store import Store
from edge_client.share.agent.training import TrainingProcess
from edge_client.share.contributing import GatePort
from edge_client.share.probes import GivenProbes, Network, Power
from edge_client.share.schedule_rules import ScheduleRules
from edge_client.share.scheduled_port import ScheduledPort
from edge_client.share.scheduler import SCHEDULE_TABLE, Scheduler
from privacy.clipping import IntArray, clip_l2, discretise
from privacy.enrolment import issue_certificate
from privacy.gate import Gate
from privacy.secure_sum.sizing import graph_size
from shared_models.canonical import Envelope
from shared_models.wire import MODE_DISTRIBUTED, MODE_TRUSTED, RoundPlan, model_hash

AUTHORITY = nacl.signing.SigningKey(bytes([5]) * 32)
LABELS, WEIGHTS = ("fly", "stay", "eat"), np.zeros((3, 4), np.float32)
HEALTH, LEAST, GAMMA = 3, 4, 0.1
AWAY = 3600.0

TRAINER = """
import sys, time
import numpy as np
from edge_client.share.agent.trainer import run
def train(local, features, targets, weights):
    open(sys.argv[1], "a").write("begun\\n")
    time.sleep(float(sys.argv[2]))
    update = np.zeros(weights.shape, np.float32)
    np.add.at(update, targets, features)
    return update.reshape(-1)
sys.exit(run(train))
"""


def clock() -> float:
    return float(NOW_S)


def no_noise(variance: int, size: int) -> IntArray:
    return np.zeros(size, np.int64)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def training_process(begun: Path, lasts_s: float = 0.0, **options: Any) -> TrainingProcess:
    return TrainingProcess(command=[sys.executable, "-c", TRAINER, str(begun), str(lasts_s)], **options)


class Device:
    """A whole device but for its app: store, consent, gate, port, schedule, training process."""

    encoder_hash = ENCODER_HASH

    def __init__(self, folder: Path, number: int, *, trains_s: float = 0.0, hold_s: float = 0.0, **draft: Any) -> None:
        self.document = policy_document(
            enrolment_key=bytes(AUTHORITY.verify_key),
            colluding_share=GAMMA,
            min_survivors=LEAST,
            health_dimension=HEALTH,
            participations=20,
            **draft,
        )
        self.document["modes"] = [MODE_DISTRIBUTED, MODE_TRUSTED]
        self.store = Store(folder / f"device-{number}", key=bytes(32))
        self.consent = Consent(self.store, clock)
        self.consent.grant(PURPOSE)
        self.gate = Gate(
            officer_key=OFFICER_PUBLIC,
            consent=self.consent,
            memory=self.store.table("gate"),
            clock=clock,
            noise=no_noise,
        )
        self.gate.adopt_policy(signed_policy(self.document))
        identity = self.gate.identity_key()
        until_s = NOW_S + 90 * 86_400
        self.gate.install_certificate(issue_certificate(AUTHORITY, "test", identity, NOW_S - 1000, until_s))
        self.rows = np.random.default_rng(number).normal(size=(3, 4)).astype(np.float32)
        self.probes = GivenProbes(AWAY, Power.MAINS, Network.UNMETERED)
        self.scheduler = Scheduler(ScheduleRules(), self.probes, clock, self.store.table(SCHEDULE_TABLE))
        self.begun = folder / f"begun-{number}"
        self.training = training_process(self.begun, trains_s)
        self.said: list[str] = []
        self.port = ScheduledPort(
            _Locked(self.store, GatePort(self.gate, self)),
            self.scheduler,
            self.training,
            clock=clock,
            tell=self.said.append,
            first_hold_s=hold_s,
        )

    def examples(self) -> tuple[np.ndarray, Sequence[str]]:
        return self.rows, LABELS

    def grid(self) -> np.ndarray:
        """What this device contributes if it trained."""
        limit = parsed(self.document).purposes[PURPOSE].contributions["intent_head"].clip_norm
        return discretise(clip_l2(self.rows.reshape(-1).astype(np.float64), limit)).values

    def note(self) -> str:
        return str(self.gate.receipts()[-1]["body"]["note"])


class _Locked:
    """As `ClientPort`: the store is held for as long as the gate works, training included."""

    def __init__(self, store: Store, port: GatePort) -> None:
        self._store, self._port = store, port

    def answer_stage(self, *given: Any) -> Any:
        with self._store.lock:
            return self._port.answer_stage(*given)

    def contribute(self, *given: Any) -> Any:
        with self._store.lock:
            return self._port.contribute(*given)


def never(*_: Any) -> Any:
    raise AssertionError("the agent's own child must not be asked to train")


def plan_of(device: Device, round_id: int = 1, cohort: int = 6, **changes: Any) -> RoundPlan:
    colluders = math.ceil(GAMMA * cohort)
    size = graph_size(cohort, colluders, LEAST)
    fields = {
        "dimension": WEIGHTS.size + HEALTH,
        "health_dimension": HEALTH,
        "model_hash": model_hash(LABELS, WEIGHTS),
        "mode": MODE_DISTRIBUTED,
        "cohort": cohort,
        "colluders": colluders,
        "degree": size.degree,
        "threshold": size.threshold,
    }
    return make_plan(parsed(device.document), round_id, **{**fields, **changes})


def contribute(device: Device, envelope: Envelope, request: bytes = b"") -> Any:
    return device.port.contribute(envelope, LABELS, WEIGHTS, never, request)


def trusted(device: Device, round_id: int, **more: Any) -> Envelope:
    changes = {"mode": MODE_TRUSTED, "colluders": 0, "degree": 0, "threshold": 0}
    return signed_plan(plan_of(device, round_id, **{**changes, **more}))


@contextmanager
def devices_in(folder: Path) -> Iterator[Callable[..., Device]]:
    """Makes devices, and closes them at the end."""
    with ExitStack() as stack:

        def make(number: int = 0, **options: Any) -> Device:
            device = Device(folder, number, **options)
            stack.callback(device.store.close)
            stack.callback(device.port.close)
            return device

        yield make
