"""A small ServerApp for tests of the transport: one round with real plans and records, a plain sum, its outcome as JSON.

Runs in the ServerApp process that a SuperLink starts; the run's config says how many nodes to wait for and where to write.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import nacl.signing
import numpy as np
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from shared_models.canonical import seal_envelope
from shared_models.messages import RoundRecords, read_contribution
from shared_models.wire import PLAN_KIND, LocalTraining, RoundPlan, model_hash

LABELS = ("fly", "stay", "eat")
FEATURES = 16
CLIP_NORM = 0.5
SEED = bytes(range(32))

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    state = Path(str(config["state-dir"]))
    give_up_s = time.monotonic() + 60.0
    while len(nodes := list(grid.get_node_ids())) < int(str(config["nodes"])) and time.monotonic() < give_up_s:
        time.sleep(0.2)
    round_id, now_s = int(str(config["round"])), int(time.time())
    weights = np.zeros((len(LABELS), FEATURES), np.float32)
    plan = RoundPlan(
        task="test",
        round_id=round_id,
        purpose="improve",
        contribution="intent-head",
        contribution_version=1,
        dimension=weights.size,
        clip_norm=CLIP_NORM,
        noise_variance=1 << 20,
        cohort=len(nodes),
        min_survivors=1,
        mode="trusted-aggregator",
        issued_s=now_s,
        deadline_s=now_s + 300,
        model_hash=model_hash(LABELS, weights),
        encoder_hash="0" * 64,
        policy_hash="0" * 64,
        policy_sequence=1,
        local=LocalTraining(max_grad_norm=0.5, expected_batch=4, sample_rate=1.0, noise_multiplier=0.0),
    )
    envelope = seal_envelope(PLAN_KIND, plan.to_bytes(), nacl.signing.SigningKey(SEED))
    content = RoundRecords(envelope, LABELS, weights).content()
    (state / f"started-{round_id}").write_text(str(len(nodes)))
    started_s = time.monotonic()
    waiting = list(grid.push_messages([Message(content, node, "train", ttl=300.0) for node in nodes]))
    total, survivors, errors = np.zeros(weights.size, np.uint32), 0, []
    while waiting and time.monotonic() - started_s < 100.0:
        for reply in grid.pull_messages(waiting):
            waiting.remove(reply.metadata.reply_to_message_id)
            if reply.has_error():
                errors.append([reply.error.code, reply.error.reason])
                continue
            contribution = read_contribution(reply)
            assert contribution.plan_hash == plan.hash
            total += contribution.values
            survivors += 1
        time.sleep(0.1)
    outcome = {
        "invited": len(nodes),
        "survivors": survivors,
        "errors": errors,
        "seconds": time.monotonic() - started_s,
        "sum": total.tolist(),
    }
    (state / f"outcome-{round_id}.json").write_text(json.dumps(outcome))
