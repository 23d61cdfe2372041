"""Simulating a fleet in one process: seconds per round and peak memory, beside Flower's own simulation on Ray.

The same ClientApp, which takes a model of 60,000 parameters and answers with a vector of as many, runs in both. Ours is the grid
and the streaming sum of real rounds; Flower's is `run_simulation` with a ServerApp that sends the same messages and keeps the
same running sum. Each cell is a process of its own; memory is the proportional set size of it and all that it started, at its
peak. Start-up is left out of the seconds per round and shown in a row of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Options, Row, main

CLASSES, FEATURES = 150, 400
CLIENTS = (100, 1000, 10_000)
RAY = "Flower on Ray"
GOAL = "goal"
LIMIT_S = 900


def run(options: Options) -> list[Row]:
    with_ray = {100} if not options.full else {100, 1000}
    if options.quick:
        with_ray = set()
        options.leave_out("Flower on Ray: not in the quick run")
    elif importlib.util.find_spec("ray") is None:
        with_ray = set()
        options.leave_out("Flower on Ray: the package ray is not installed (pip install 'tacit[bench]')")
    elif not options.full:
        options.leave_out("Flower on Ray at 1,000 clients: only in the full run")
    rows = []
    memory: dict[int, float] = {}
    for clients in CLIENTS[:2] if options.quick else CLIENTS:
        options.say(f"{clients:,} clients in one process")
        ours, memory[clients] = cell("ours", clients, rounds=3 if clients < 10_000 else 1)
        case = f"{clients:,} clients x {CLASSES * FEATURES:,} parameters"
        if clients in with_ray:
            options.say(f"{clients:,} clients on Ray")
            theirs, their_memory = cell("on_ray", clients, rounds=2)
            rows += [
                Row(case, "a round", "s", ours["round_s"], RAY, theirs["round_s"]),
                Row(case, "how many times faster", "x", theirs["round_s"] / ours["round_s"], GOAL, 10.0),
                Row(case, "start-up", "s", ours["start_s"], RAY, theirs["start_s"]),
                Row(case, "peak memory", "MiB", memory[clients], RAY, their_memory),
            ]
        else:
            rows += [Row(case, "a round", "s", ours["round_s"]), Row(case, "peak memory", "MiB", memory[clients])]
        rows.append(Row(case, "the release's exact noise, once a round", "s", ours["noise_s"]))
    most, least = max(memory), min(memory)
    rows.append(Row(f"{most:,} clients", "peak memory", "MiB", memory[most], f"{least:,} clients", memory[least]))
    return rows


def cell(kind: str, clients: int, rounds: int) -> tuple[dict[str, Any], float]:
    """Run one cell in a process of its own; returns what it printed and the peak memory in MiB."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "FLWR_HOME": folder,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OPENBLAS_NUM_THREADS": "1",
        }
        out = Path(folder) / "out.json"
        code = f"from benchmarks.simulation import {kind}; {kind}({clients}, {rounds}, {str(out)!r})"
        log = Path(folder) / "log"
        with log.open("wb") as sink:
            child = subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment, stdout=sink, stderr=sink)
            peak, give_up_s = 0, time.monotonic() + LIMIT_S
            while child.poll() is None:
                peak = max(peak, memory_kib(child.pid))
                if time.monotonic() > give_up_s:
                    child.kill()
                time.sleep(0.1)
        if child.returncode != 0 or not out.exists():
            raise RuntimeError(f"{kind} with {clients} clients failed:\n{log.read_text(errors='replace')[-3000:]}")
        return json.loads(out.read_text()), peak / 1024


def memory_kib(process_id: int) -> int:
    """Proportional set size of a process and all its descendants; 0 where there is no /proc."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(after_name[1]), []).append(int(entry.name))
    total, waiting = 0, [process_id]
    while waiting:
        current = waiting.pop()
        waiting += parents.get(current, [])
        try:
            lines = Path(f"/proc/{current}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total


# -- inside a cell -----------------------------------------------------------------------------------------------------


def client_app() -> Any:
    """Reads a round, answers with a sealed-looking vector: all of the messages' work and none of the training's."""
    from types import SimpleNamespace

    import numpy as np
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    from shared_models.messages import contribution_records, read_round

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        _, _, weights, _ = read_round(message)
        values = np.rint(weights.reshape(-1) * 16).astype(np.int64).astype(np.uint32)
        sealed = SimpleNamespace(
            task="simulation", round_id=1, plan_hash="0" * 64, nonce="0" * 32, values=values, proof=b""
        )
        return Message(contribution_records(sealed), reply_to=message)

    return app


def a_round(clients: int) -> tuple[Any, Any]:
    """A plan and the content of its messages."""
    import nacl.signing
    import numpy as np

    from shared_models.canonical import seal_envelope
    from shared_models.messages import RoundRecords
    from shared_models.wire import MODE_TRUSTED, PLAN_KIND, RoundPlan, model_hash

    weights = np.random.default_rng(0).normal(size=(CLASSES, FEATURES)).astype(np.float32)
    labels = tuple(f"intent_{number}" for number in range(CLASSES))
    plan = RoundPlan(
        task="simulation",
        round_id=1,
        purpose="intent-model",
        contribution="intent_head",
        contribution_version=1,
        dimension=weights.size,
        clip_norm=1.0,
        noise_variance=1 << 32,
        cohort=clients,
        min_survivors=1,
        mode=MODE_TRUSTED,
        issued_s=0,
        deadline_s=1 << 39,
        model_hash=model_hash(labels, weights),
        encoder_hash="0" * 64,
        policy_hash="0" * 64,
        policy_sequence=1,
    )
    envelope = seal_envelope(PLAN_KIND, plan.to_bytes(), nacl.signing.SigningKey.generate())
    return plan, RoundRecords(envelope, labels, weights).content()


def collect(grid: Any, plan: Any, content: Any) -> Any:
    """One round as aggregator.rounds runs it, up to the release."""
    from aggregator.exchange import exchange
    from privacy.mechanisms import TrustedSum
    from shared_models.messages import read_contribution

    total = TrustedSum(plan)
    for reply in exchange(
        grid, lambda _: (content, 0), sorted(grid.get_node_ids()), "train", plan.round_id, time.monotonic() + LIMIT_S
    ):
        total.add(read_contribution(reply).values)
    assert total.survivors == plan.cohort
    return total


def ours(clients: int, rounds: int, out: str) -> None:
    begun_s = time.monotonic()
    from aggregator.grid import InProcessGrid

    plan, content = a_round(clients)
    grid = InProcessGrid(client_app(), clients)
    start_s = time.monotonic() - begun_s
    times = []
    for _ in range(rounds):
        begun_s = time.monotonic()
        total = collect(grid, plan, content)
        times.append(time.monotonic() - begun_s)
    begun_s = time.monotonic()
    total.release()
    figures = {"start_s": start_s, "round_s": min(times), "noise_s": time.monotonic() - begun_s}
    Path(out).write_text(json.dumps(figures))


def on_ray(clients: int, rounds: int, out: str) -> None:
    begun_s = time.monotonic()
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    server = ServerApp()

    @server.main()
    def rounds_of(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < clients:
            time.sleep(0.1)
        start_s = time.monotonic() - begun_s
        plan, content = a_round(clients)
        times = []
        for _ in range(rounds):
            round_begun_s = time.monotonic()
            collect(grid, plan, content)
            times.append(time.monotonic() - round_begun_s)
        Path(out).write_text(json.dumps({"start_s": start_s, "round_s": min(times)}))

    run_simulation(
        server_app=server,
        client_app=client_app(),
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    main("simulation", run)
