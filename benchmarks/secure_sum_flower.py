"""One client and the server of Flower's SecAgg+, by Flower's own functions on the complete graph: the peer of secure_sum.py."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def measure_flower(cohort: int, dimension: int) -> dict[str, float]:
    """One client's four stages by Flower's own functions, and the server's work for one client, on the complete graph.

    The other clients' keys are real; the shares that they send are the measured client's own, sealed anew for it.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        # Its package has a function of the module's name.
        mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
        from flwr.common import ConfigRecord, ndarrays_to_parameters
        from flwr.common.secure_aggregation.crypto.shamir import combine_shares
        from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt
        from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_subtraction
        from flwr.common.secure_aggregation.secaggplus_constants import Key
        from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat

    threshold, modulus = math.ceil(0.7 * cohort), 1 << 32
    setup = ConfigRecord(
        {
            Key.SAMPLE_NUMBER: cohort,
            Key.SHARE_NUMBER: cohort,
            Key.THRESHOLD: threshold,
            Key.CLIPPING_RANGE: 8.0,
            Key.TARGET_RANGE: 1 << 22,
            Key.MOD_RANGE: modulus,
            Key.MAX_WEIGHT: 1000.0,
        }
    )
    states = [mod.SecAggPlusState(nid=number + 1) for number in range(cohort)]
    for state in states[1:]:
        mod._setup(state, setup)
    own = states[0]
    parameters = ndarrays_to_parameters([np.random.default_rng(0).normal(size=dimension).astype(np.float32)])
    cpu_s = 0.0
    up = down = 0

    def timed(call: Callable[[], Any]) -> Any:
        nonlocal cpu_s
        begun = time.process_time()
        result = call()
        cpu_s += time.process_time() - begun
        return result

    up += size_of(timed(lambda: mod._setup(own, setup)))
    keys = ConfigRecord({str(state.nid): [state.pk1, state.pk2] for state in states})
    down += size_of(keys)
    up += size_of(timed(lambda: mod._share_keys(own, keys)))
    seed_share, key_share = own.rd_seed_share_dict[own.nid], own.sk1_share_dict[own.nid]
    mail = [
        encrypt(own.ss2_dict[state.nid], share_keys_plaintext_concat(state.nid, own.nid, seed_share, key_share))
        for state in states[1:]
    ]
    request = ConfigRecord({Key.CIPHERTEXT_LIST: mail, Key.SOURCE_LIST: [state.nid for state in states[1:]]})
    down += size_of(request)
    up += size_of(timed(lambda: mod._collect_masked_vectors(own, request, 10, parameters)))
    living = ConfigRecord({Key.ACTIVE_NODE_ID_LIST: [state.nid for state in states], Key.DEAD_NODE_ID_LIST: []})
    up += size_of(timed(lambda: mod._unmask(own, living)))
    client_ms = 1000 * cpu_s

    shares = mod.create_shares(own.rd_seed, threshold, cohort)
    shape = [(), (dimension,)]
    total = [np.zeros(item, np.int64) for item in shape]
    cpu_s = 0.0
    secret = timed(lambda: combine_shares(shares))
    if secret != own.rd_seed:
        raise AssertionError("Flower's shares do not combine")
    timed(lambda: parameters_subtraction(total, pseudo_rand_gen(secret, modulus, shape)))
    return {"client": client_ms, "server": cpu_s, "up": up / 1000, "down": down / 1000}


def size_of(record: Any) -> int:
    """Bytes of the values of one of Flower's records; numbers as 8."""

    def of(value: Any) -> int:
        if isinstance(value, list):
            return sum(of(item) for item in value)
        return len(value) if isinstance(value, bytes) else 8

    return sum(of(value) for value in record.values())
