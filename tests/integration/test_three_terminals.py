"""A real round as the README types it, each program in a terminal of its own; and what is killed in the middle of one.

Terminal 1 `tacit-fleet serve`, terminals 2 and 3 `tacit-device agent`, and a fourth for `tacit-fleet run`, `status`, `publish`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from deployed import Deployed, agents_ready, server_app_pids

pytestmark = pytest.mark.timeout(900)

DEVICES = ("anna", "bert")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """A fleet with a policy in force and two enrolled devices that have something to teach; nothing runs."""
    deployed = Deployed(tmp_path_factory.mktemp("deployed"))
    deployed.set_up()
    deployed.enrol(DEVICES)
    return deployed


@pytest.fixture
def deployed(prepared: Deployed, tmp_path: Path) -> Deployed:
    shutil.copytree(prepared.folder, tmp_path / "copy")
    return Deployed(tmp_path / "copy", prepared.port, brisk=True)


def rounds_of(deployed: Deployed) -> dict[int, list[str]]:
    """Round id -> how the verified ledger says it went. A round id is reserved once only."""
    rounds: dict[int, list[str]] = {}
    for entry in deployed.ledger():
        if entry["kind"] in ("reserve", "release", "abort"):
            rounds.setdefault(entry["body"]["round_id"], []).append(entry["kind"])  # type: ignore[index]
    assert sorted(rounds) == list(range(1, len(rounds) + 1))
    assert all(kinds[0] == "reserve" and kinds.count("reserve") == 1 for kinds in rounds.values())
    return rounds


def test_two_devices_and_a_fleet_do_a_round_and_the_devices_get_its_release(deployed: Deployed) -> None:
    deployed.brisk = False
    assert "not being served" in deployed.run("tacit-fleet", "run", "fleet", expect=2)
    with deployed.serve() as serve:
        serve.await_text(r"^serving fleet fleet on https://127\.0\.0\.1:")
        with agents_ready(deployed, DEVICES, "--rounds", 1) as agents:
            said = deployed.run("tacit-fleet", "run", "fleet", "--cohort", 2)
            assert "round 1: 2 devices invited" in said
            assert "round 1: released over 2 devices" in said
            for agent in agents:
                assert agent.await_end(60.0) == 0
                assert "policy 1 in force" in agent.text()
        assert "release 1 published" in deployed.run("tacit-fleet", "publish", "fleet")
        assert "nothing new" in deployed.run("tacit-fleet", "publish", "fleet", expect=2)
        status = deployed.status()
        assert (status["published"], status["rounds"]) == (1, {"done": 1, "planned": 1})
        assert status["devices"]["enrolled"] == 2  # type: ignore[index]
        url = f"https://127.0.0.1:{deployed.port}/bundle"
        deployed.environment["SSL_CERT_FILE"] = "fleet/ca.pem"
        assert "model 1, fresh" in deployed.device("anna", "chat", "--bundle", url, typed="May I keep this book?\n")
    shared = json.loads(deployed.device("anna", "shared", "--json"))
    released = [entry["body"] for entry in deployed.ledger() if entry["kind"] == "release"]
    (receipt,) = shared["receipts"]
    assert receipt["body"]["plan_hash"] == released[0]["plan_hash"]  # type: ignore[index]
    assert 0 < shared["epsilon_spent"] < shared["epsilon_limit"]


@pytest.mark.deep
def test_a_round_ends_with_the_survivors_when_an_agent_is_killed(deployed: Deployed) -> None:
    deployed.enrol(["cleo"])
    assert "Nothing has left this device" in deployed.device("cleo", "shared")
    with deployed.serve() as serve:
        serve.await_text("^serving")
        with (
            agents_ready(deployed, (*DEVICES, "cleo")) as agents,
            deployed.terminal("run", "tacit-fleet", "run", "fleet") as run,
        ):
            agents[2].await_text("^busy$")
            agents[2].kill()
            assert run.await_end(180.0) == 0, run.text()
            assert "round 1: 3 devices invited" in run.text()
            assert "round 1: released over 2 devices" in run.text()
        (released,) = [entry["body"] for entry in deployed.ledger() if entry["kind"] == "release"]
        assert released["survivors"] == 2  # type: ignore[index]
        # The killed device's store opens again; what it had reserved by then stays spent.
        assert "Spent epsilon" in deployed.device("cleo", "shared")


@pytest.mark.deep
def test_too_few_devices_abort_a_round_and_status_says_why(deployed: Deployed) -> None:
    with deployed.serve() as serve:
        serve.await_text("^serving")
        with agents_ready(deployed, DEVICES[:1]):
            said = deployed.run("tacit-fleet", "run", "fleet", "--wait-s", 1, expect=1)
            assert "1 device is online, the policy releases nothing below 2" in said
            assert "1 device is online" in deployed.run("tacit-fleet", "status", "fleet")
        assert rounds_of(deployed) == {}, "nothing was reserved, nothing is spent"


@pytest.mark.deep
def test_resume_finishes_what_was_planned_whatever_was_killed(deployed: Deployed) -> None:
    serving = deployed.serve("serve-1")
    serve = serving.__enter__()
    try:
        serve.await_text("^serving")
        with agents_ready(deployed, DEVICES) as agents:
            # 1. the ServerApp
            with deployed.terminal("run-1", "tacit-fleet", "run", "fleet", "--rounds", 2) as run:
                run.await_text("^round 1: 2 devices invited")
                for pid in server_app_pids(deployed):
                    os.kill(pid, signal.SIGKILL)
                assert run.await_end(150.0) == 1
                assert "tacit-fleet resume" in run.text()
            # 2. the command that looks on: the run goes on without it. A device that is frozen keeps its round open.
            agents[1].process.send_signal(signal.SIGSTOP)
            with deployed.terminal("run-2", "tacit-fleet", "resume", "fleet") as run:
                run.await_text("^round 2: 2 devices invited")
                assert "round 1: aborted: the aggregator was stopped during this round" in run.text()
                said = deployed.run("tacit-fleet", "run", "fleet", expect=2)
                assert "running already" in said, "there is one writer only"
                run.kill()
            assert deployed.status()["running"] == 1
            # 3. everything that serves
            serve.kill()
            agents[1].process.send_signal(signal.SIGCONT)
            assert "not answer" in deployed.run("tacit-fleet", "resume", "fleet", expect=2)
            with deployed.serve("serve-2") as again:
                again.await_text("^serving")
                assert "done: 2 rounds" in deployed.run("tacit-fleet", "resume", "fleet", timeout_s=240.0)
                assert "nothing was interrupted" in deployed.run("tacit-fleet", "resume", "fleet", expect=2)
                assert "no rounds are running" in deployed.run("tacit-fleet", "stop", "fleet")
    finally:
        serving.__exit__(None, None, None)
    aborted, released = ["reserve", "abort"], ["reserve", "release"]
    assert rounds_of(deployed) == {1: aborted, 2: aborted, 3: released, 4: released}


@pytest.mark.deep
def test_stop_ends_the_rounds_and_resume_goes_on(deployed: Deployed) -> None:
    with deployed.serve() as serve:
        serve.await_text("^serving")
        with agents_ready(deployed, DEVICES):
            with deployed.terminal("run", "tacit-fleet", "run", "fleet", "--rounds", 2) as run:
                run.await_text("^round 1: 2 devices invited")
                assert "stopped" in deployed.run("tacit-fleet", "stop", "fleet")
                assert run.await_end() == 1
            assert "done: 2 rounds" in deployed.run("tacit-fleet", "resume", "fleet")
    assert sorted(kinds[-1] for kinds in rounds_of(deployed).values()).count("release") == 2


@pytest.mark.deep
def test_a_halt_stops_devices_at_the_next_round_and_the_fleet_at_once(deployed: Deployed) -> None:
    before = (deployed.fleet / "policy.signed.json").read_bytes(), (deployed.fleet / "policy.role.json").read_bytes()
    with deployed.serve() as serve:
        serve.await_text("^serving")
        with agents_ready(deployed, DEVICES) as agents:
            looked_s = time.monotonic()
            deployed.run(
                *("tacit-privacy", "policy", "halt", "policy.signed.json", "--key", "officer.key"),
                *("--reason", "an incident is looked into"),
            )
            assert "HALTED" in deployed.run("tacit-fleet", "policy", "fleet", "policy.halt.json")
            said = deployed.run("tacit-fleet", "run", "fleet", expect=2)
            assert "the privacy officer has halted contributions: an incident is looked into" in said
            assert "HALTED" in deployed.run("tacit-fleet", "status", "fleet")
            # A central team that does not obey: it puts the old policy back into its folder and runs.
            (deployed.fleet / "policy.signed.json").write_bytes(before[0])
            (deployed.fleet / "policy.role.json").write_bytes(before[1])
            time.sleep(max(0.0, 11.0 - (time.monotonic() - looked_s)))
            said = deployed.run("tacit-fleet", "run", "fleet", "--deadline-s", 60, expect=1)
            assert "0 " in said
            for agent in agents:
                agent.await_text("policy 2 in force, HALTED: an incident is looked into")
    deployed.run("tacit-fleet", "ledger", "fleet", "--out", "ledger.jsonl")
    said = deployed.run("tacit-privacy", "ledger", "verify", "ledger.jsonl", "--officer", "officer.pub", expect=1)
    assert "policy 1 is not newer than the one before" in said, "and the ledger tells of it"
    assert json.loads(deployed.device("anna", "shared", "--json"))["receipts"] == []
