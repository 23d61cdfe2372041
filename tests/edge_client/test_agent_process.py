"""The owner's side of the agent: children that lie, hang, die or outstay, and an owner that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nacl.signing
import numpy as np
import pytest

from edge_client.share.agent.fleet import FleetConfig, FleetState, new_node_key
from edge_client.share.agent.process import AgentLimits, AgentProcess
from shared_models.canonical import Envelope, seal_envelope
from shared_models.errors import AgentError, ContributionError, PolicyError, TacitError
from shared_models.wire import LocalTraining

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nnot read by these children\n-----END CERTIFICATE-----\n"
LOCAL = LocalTraining(max_grad_norm=1.0, expected_batch=4, sample_rate=1.0, noise_multiplier=0.0)
PLAN = seal_envelope("test", b"{}", nacl.signing.SigningKey(bytes(32)))
QUICK = AgentLimits(start_s=20.0, train_s=1.0, stop_s=1.0, first_pause_s=0.02, most_pause_s=0.05, restarts=2)

CHILD = """
import os, sys, time
import numpy as np
from edge_client.share.agent.child import claim_standard_streams
from edge_client.share.agent.pipe import PREAMBLE, Frame, read_frame, write_frame
source, sink = claim_standard_streams()
sink.write(PREAMBLE); sink.flush()
fleet = read_frame(source)
def say(kind, body=None, **arrays): write_frame(sink, Frame(kind, body or {}, arrays))
def ask(plan):
    frame = Frame("round", {"plan": plan, "labels": ["a", "b"]}, {"weights": np.zeros((2, 3), np.float32)}, {"request": b""})
    write_frame(sink, frame)
"""


@dataclass(frozen=True)
class Sealed:
    task: str
    round_id: int
    plan_hash: str
    nonce: str
    values: Any
    proof: bytes = b""


class TrainingPort:
    """Trains on three fixed examples and returns the update's rounded values."""

    def __init__(self, result: Callable[[np.ndarray], Any] | None = None) -> None:
        self.result = result or (lambda update: np.rint(update).astype(np.uint32))
        self.errors: list[Exception] = []
        self.updates: list[np.ndarray] = []

    def contribute(
        self, plan: Envelope, labels: Sequence[str], weights: np.ndarray, trainer: Any, request: bytes = b""
    ) -> Sealed:
        assert plan == PLAN
        assert tuple(labels) == ("a", "b")
        try:
            update = trainer(LOCAL, np.eye(3, dtype=np.float32), np.array([0, 1, 0]), weights)
        except TacitError as error:
            self.errors.append(error)
            raise
        self.updates.append(update)
        return Sealed("t", 1, "h", "n", self.result(update))


def config() -> FleetConfig:
    return FleetConfig("localhost:1", CERTIFICATE, new_node_key()[0])


def process(script: str, port: Any = None, limits: AgentLimits = QUICK, **options: Any) -> AgentProcess:
    plan = f"PLAN = {PLAN.document()!r}\n"
    return AgentProcess(
        config(), port or TrainingPort(), limits=limits, command=[sys.executable, "-c", plan + script], **options
    )


def await_(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(agent: AgentProcess) -> str:
    """The error of an agent that gave up."""
    with agent:
        agent.wait_for(FleetState.STOPPED, timeout_s=60)
        assert agent.pid is None
        assert agent.error is not None
        return agent.error


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise SystemExit(3)", "ended before"),
        ("print('garbage')", "ended before"),
        ("import os\nwhile True: os.write(1, b'x' * 4096)", "not its protocol"),
        (CHILD + "raise SystemExit(3)", "died with status 3"),
        (CHILD + "sink.write(os.urandom(4096)); sink.flush(); time.sleep(30)", "header"),
        (CHILD + "say('update'); time.sleep(30)", "'update'"),
        (CHILD + "say('sealed'); time.sleep(30)", "'sealed'"),
        (CHILD + "say('state', {'state': 'happy'}); time.sleep(30)", "state that does not exist"),
        (CHILD + "say('round'); time.sleep(30)", "signed plan"),
        (CHILD + "say('round', {'plan': {}, 'labels': [1]}); time.sleep(30)", "signed plan"),
        (CHILD + "say('round', {'plan': PLAN, 'labels': []}); time.sleep(30)", "'weights'"),
        (CHILD + "ask(PLAN); read_frame(source); os._exit(1)", "failed while it trained"),
        (CHILD + "ask(PLAN); read_frame(source); say('sealed'); time.sleep(30)", "failed while it trained"),
        (CHILD + "ask(PLAN); read_frame(source); time.sleep(30)", "failed while it trained"),
    ],
)
def test_a_child_that_breaks_the_protocol_is_ended_and_given_up(script: str, reason: str) -> None:
    error = ended(
        process(script, limits=AgentLimits(start_s=20.0, train_s=0.5, stop_s=1.0, first_pause_s=0.01, restarts=1))
    )
    assert reason in error
    assert "given up after 2 starts" in error


def test_a_silent_child_is_not_waited_for_forever() -> None:
    limits = AgentLimits(start_s=0.3, stop_s=1.0, first_pause_s=0.01, restarts=0)
    assert "not answered within 0.3 s" in ended(process("import time; time.sleep(60)", limits=limits))


def test_a_command_that_does_not_exist_is_an_error_of_the_agent() -> None:
    agent = AgentProcess(config(), TrainingPort(), limits=QUICK, command=["/no/such/program"])
    assert "cannot be started" in ended(agent)


def test_training_happens_in_the_child_and_the_seal_goes_back(tmp_path: Path) -> None:
    script = CHILD + (
        "say('state', {'state': 'ready', 'error': None})\nask(PLAN)\nframe = read_frame(source)\n"
        "assert frame.kind == 'train' and frame.body['expected_batch'] == 4, frame\n"
        "assert frame.array('features', 'float32', 2).shape == (3, 3)\n"
        "assert frame.array('targets', 'int64', 1).tolist() == [0, 1, 0]\n"
        "say('state', {'state': 'busy', 'error': None})\n"
        "say('update', update=np.arange(6, dtype=np.float32))\nframe = read_frame(source)\n"
        "assert frame.kind == 'sealed' and frame.body == {'task': 't', 'round_id': 1, 'plan_hash': 'h', 'nonce': 'n'}\n"
        "assert frame.array('values', 'uint32', 1).tolist() == [0, 1, 2, 3, 4, 5]\n"
        "say('state', {'state': 'ready', 'error': 'all is well'})\n"
        "while not os.path.exists(REPLY): time.sleep(0.02)\n"
        "say('reply', {'delivered': True})\nsay('reply', {'delivered': True})\nassert read_frame(source).kind == 'stop'\n"
    ).replace("REPLY", repr(str(tmp_path / "reply")))
    port = TrainingPort()
    with process(script, port) as agent:
        await_(lambda: agent.error == "all is well")
        assert (agent.answered, agent.delivered, agent.settled) == (1, 0, 0), "the reply is on its way"
        (tmp_path / "reply").touch()
        await_(lambda: agent.settled == 1)
        assert (agent.answered, agent.delivered, agent.settled) == (1, 1, 1), (
            "a reply without a contribution counts nothing"
        )
        assert port.updates[0].tolist() == [0, 1, 2, 3, 4, 5]
        port.updates[0][0] = 1.0
    assert agent.state is FleetState.STOPPED


@pytest.mark.parametrize(("end", "said"), [("say('reply', {'delivered': False})", "given up"), ("os._exit(3)", "died")])
def test_a_contribution_that_did_not_arrive_is_settled_and_not_delivered(end: str, said: str) -> None:
    script = CHILD + (
        "ask(PLAN)\nread_frame(source)\nsay('update', update=np.zeros(6, np.float32))\n"
        f"assert read_frame(source).kind == 'sealed'\n{end}\nread_frame(source)\n"
    )
    with process(script, TrainingPort()) as agent:
        await_(lambda: agent.settled >= 1)
        assert agent.delivered == 0, said


@pytest.mark.parametrize(
    "result",
    [
        lambda update: update,
        lambda update: np.zeros((2, 3), np.uint32),
        lambda update: "text",
        lambda update: (_ for _ in ()).throw(PolicyError("canary-reason")),
        lambda update: (_ for _ in ()).throw(ZeroDivisionError("canary-reason")),
    ],
)
def test_whatever_goes_wrong_in_the_port_the_child_hears_refused_only(result: Any) -> None:
    script = CHILD + (
        "ask(PLAN)\nread_frame(source)\nsay('update', update=np.zeros(6, np.float32))\nframe = read_frame(source)\n"
        "assert frame == Frame('refused'), frame\nsay('state', {'state': 'ready', 'error': 'refused'})\nread_frame(source)\n"
    )
    with process(script, TrainingPort(result)) as agent:
        await_(lambda: agent.error == "refused")
        assert agent.answered == 0


def test_an_update_of_the_wrong_size_or_a_failed_training_reaches_the_gate_as_an_error() -> None:
    for answer, kind in (
        ("say('update', update=np.zeros(5, np.float32))", ContributionError),
        ("say('failed', {'kind': 'ValueError'})", AgentError),
    ):
        script = f"{CHILD}\nask(PLAN)\nread_frame(source)\n{answer}\nread_frame(source)\nsay('state', {{'state': 'ready'}})\n"
        port = TrainingPort()
        with process(script + "time.sleep(30)", port) as agent:
            agent.wait_for(FleetState.READY, timeout_s=20)
        assert [type(error) for error in port.errors] == [kind]


def test_a_device_trains_once_a_round() -> None:
    class Greedy(TrainingPort):
        def contribute(
            self, plan: Envelope, labels: Sequence[str], weights: np.ndarray, trainer: Any, request: bytes = b""
        ) -> Sealed:
            super().contribute(plan, labels, weights, trainer)
            return super().contribute(plan, labels, weights, trainer)

    script = CHILD + (
        "ask(PLAN)\nread_frame(source)\nsay('update', update=np.zeros(6, np.float32))\n"
        "assert read_frame(source) == Frame('refused')\nsay('state', {'state': 'ready', 'error': 'once'})\nread_frame(source)\n"
    )
    with process(script, Greedy()) as agent:
        await_(lambda: agent.error == "once")


def test_a_child_that_will_not_end_is_killed() -> None:
    script = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + CHILD
        + ("say('state', {'state': 'ready'})\nwhile True: time.sleep(1)\n")
    )
    agent = process(script)
    agent.start()
    agent.wait_for(FleetState.READY, timeout_s=20)
    pid = agent.pid
    assert pid is not None
    started_s = time.monotonic()
    agent.stop()
    assert time.monotonic() - started_s < 5.0
    assert not alive(pid)
    assert agent.state is FleetState.STOPPED


def test_stop_is_quick_at_any_moment() -> None:
    for pause_s in (0.0, 0.01, 0.1, 0.5):
        agent = process(CHILD + "time.sleep(30)")
        agent.start()
        time.sleep(pause_s)
        agent.stop()
        assert agent.state is FleetState.STOPPED
        assert agent.pid is None


def test_it_can_be_started_again_but_not_twice() -> None:
    agent = process(CHILD + "say('state', {'state': 'ready'})\nread_frame(source)")
    for _ in range(2):
        agent.start()
        with pytest.raises(AgentError, match="running already"):
            agent.start()
        agent.wait_for(FleetState.READY, timeout_s=20)
        agent.stop()


def test_a_refused_key_is_final() -> None:
    started = threading.Event()
    changes: list[FleetState] = []
    script = CHILD + "say('state', {'state': 'refused', 'error': 'not enrolled'})"

    def note(state: FleetState, error: str | None) -> None:
        changes.append(state)
        started.set()

    with process(script, on_state=note) as agent:
        agent.wait_for(FleetState.REFUSED, timeout_s=20)
        time.sleep(0.3)
        assert agent.error == "not enrolled"
        assert changes == [FleetState.CONNECTING, FleetState.REFUSED]


def test_the_child_sees_nothing_of_the_owners_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("APP_SECRET", "canary")
    monkeypatch.setenv("HTTPS_PROXY", "http://canary:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/canary")
    monkeypatch.setenv("HOME", "/canary")
    script = CHILD + (
        "import json\nsay('state', {'state': 'ready', 'error': json.dumps([dict(os.environ), os.getcwd()])[:500]})\n"
        f"open({str(tmp_path / 'environment')!r}, 'w').write(json.dumps(dict(os.environ)))\nread_frame(source)\n"
    )
    with process(script) as agent:
        await_((tmp_path / "environment").exists)
        agent.wait_for(FleetState.READY, timeout_s=20)
    text = (tmp_path / "environment").read_text()
    assert "canary" not in text.replace(str(tmp_path), "")
    environment = json.loads(text)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["FLWR_HOME"].startswith(environment["HOME"])
    assert not Path(environment["HOME"]).exists(), "the private folder goes with the child"


def test_what_libraries_print_does_not_disturb_the_pipe(tmp_path: Path) -> None:
    script = (
        "print('before')\n"
        + CHILD
        + (
            "print('stray')\nos.write(1, b'stray bytes')\nos.system('echo stray from a program')\n"
            "assert sys.stdin.read() == ''\nsay('state', {'state': 'ready'})\nread_frame(source)\n"
        )
    )
    with process(script, log_path=tmp_path / "log") as agent:
        agent.wait_for(FleetState.READY, timeout_s=20)
    log = (tmp_path / "log").read_text()
    assert "stray bytes" in log
    assert "stray from a program" in log


OWNER = """
import sys, time
from edge_client.share.agent.process import AgentProcess
from edge_client.share.agent.fleet import FleetConfig, FleetState, new_node_key
agent = AgentProcess(FleetConfig("127.0.0.1:1", open(sys.argv[1], "rb").read(), new_node_key()[0]), None, command=sys.argv[2:])
agent.start()
while agent.pid is None or agent.error is None: time.sleep(0.02)
print(agent.pid, flush=True)
time.sleep(60)
"""


def test_the_child_does_not_outlive_a_killed_owner(tmp_path: Path) -> None:
    from aggregator.certificates import create_fleet_ca

    authority = create_fleet_ca(tmp_path).authority
    command = [sys.executable, "-c", OWNER, str(authority), sys.executable, str(SUPPORT / "light_agent.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        assert alive(child)
        os.kill(owner.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        await_(lambda: not alive(child), timeout_s=10)
        assert time.monotonic() - killed_s < 6.0


def test_the_owners_side_is_light() -> None:
    code = (
        "import sys; import edge_client.share.agent.process, edge_client.share.port\n"
        "heavy = {'torch', 'flwr', 'opacus', 'grpc', 'httpx', 'scipy', 'fastapi', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
