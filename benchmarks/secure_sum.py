"""Secure sums: what a device and the server spend on one, beside Flower's SecAgg+ and the goals of the project.

Each round runs in a process of its own, all devices and the server in it, so that its peak memory is its own. CPU is process
time. Signature checks and roots are remembered within a process, which no real device could profit from: for the measured devices
everything that is remembered is forgotten before each stage; the other devices profit, and are not measured. Bytes are those of
the protocol's own messages, before any envelope. Noise is drawn beside the rounds ("sampler"), whose sums are compared with
plain integer sums instead.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import io
import math
import multiprocessing
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import nacl.signing
import numpy as np

from benchmarks.harness import Options, Row, main
from privacy import enrolment
from privacy.secure_sum import messages, roster, sizing
from privacy.secure_sum.device import DeviceSession
from privacy.secure_sum.server import ServerSession
from privacy.secure_sum.sizing import graph_size
from shared_models.errors import PolicyError
from shared_models.wire import MODE_DISTRIBUTED, SCALE, RoundPlan

NOW_S = 1_800_000_000
TASK = "fleet"
HASH = "ab" * 32
CLIENT_STAGES = ("advertise", "draw", "share", "contribute", "agree", "unmask")
MEASURED = 10
"""Devices whose CPU is measured; they are among the survivors."""
GOAL = "goal"
FLOWER = "SecAgg+, composed"
FLOWER_50 = "SecAgg+, 1 client x 50"
GOAL_CASE = (1000, 60_000)
GOAL_SERVER_S = {0.1: 2.5, 0.3: 6.0}
Figures = dict[str, float]


def run(options: Options) -> list[Row]:
    rows = graph_rows()
    options.say("mask generators, X25519, samplers")
    rows += apart(primitives, options.pick(20, 200, 500))
    for cohort, dimension, drop in rounds(options):
        options.say(f"n = {cohort:,}, d = {dimension:,}, {drop:.0%} drop out")
        rows += round_rows(cohort, dimension, drop, apart(measure_round, cohort, dimension, drop))
    if options.full:
        options.say("n = 10,000, sampled")
        rows += sampled_rows(10_000, 60_000, apart(measure_sampled, 10_000, 60_000))
    if not options.quick:
        options.say("n = 50 beside Flower's SecAgg+")
        rows += beside_flower(apart(measure_round, 50, 60_000, 0.0), apart(measure_flower, 50, 60_000))
    return rows


def rounds(options: Options) -> list[tuple[int, int, float]]:
    """(devices, dimension, part of them that drops out after sharing)."""
    if options.quick:
        return [(100, 1_000, 0.1), (100, 12_000, 0.3)]
    chosen = [(100, 1_000, 0.1), (100, 12_000, 0.1), (100, 60_000, 0.1), (*GOAL_CASE, 0.1), (*GOAL_CASE, 0.3)]
    if options.full:
        chosen += [(1000, 1_000, 0.1), (1000, 12_000, 0.1), (100, 1_000_000, 0.1)]
    return chosen


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """The result of a call in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(function, *arguments).result()


# -- the parts by themselves ----------------------------------------------------------------------------------------


def graph_rows() -> list[Row]:
    """The graph for a tenth of colluders and three tenths of drop-outs."""
    rows = []
    for cohort in (10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10_000):
        case = f"graph, n = {cohort:,}"
        survivors, colluders = math.ceil(0.7 * cohort), math.ceil(0.1 * cohort)
        try:
            size = graph_size(cohort, colluders, survivors)
        except PolicyError as error:
            rows.append(Row(f"{case}: {error}"[:60], "degree", "devices", None))
            continue
        rows += [
            Row(case, "degree", "devices", size.degree),
            Row(case, "threshold", "shares", size.threshold),
        ]
        for metric, bits, bound in (
            ("privacy", size.privacy_log2, sizing.PRIVACY_FAILURE_BITS),
            ("separation", size.separation_log2, sizing.PRIVACY_FAILURE_BITS),
            ("correctness", size.correctness_log2, sizing.CORRECTNESS_FAILURE_BITS),
        ):
            if math.isfinite(bits):
                rows.append(Row(case, f"{metric} fails, -log2", "bits", -bits, "at least", bound))
            else:
                rows.append(Row(case, f"{metric}: no case in which it fails", "bits", None, "at least", bound))
    return rows


def primitives(repeats: int) -> list[Row]:
    from nacl.utils import randombytes_deterministic

    from privacy.mechanisms import sample_discrete_gaussian
    from privacy.secure_sum.masking import KeyPair, Masker
    from privacy.table_sampler import sample_from_table

    dimension = GOAL_CASE[1]
    total, key = np.zeros(dimension, np.uint32), os.urandom(32)
    masker, own, other = Masker(dimension), KeyPair(), KeyPair()

    def chacha() -> None:
        np.add(total, np.frombuffer(randombytes_deterministic(4 * dimension, key), np.uint32), out=total)

    aes_ms = best_ms(lambda: masker.add(total, key), repeats)
    case = f"d = {dimension:,}"
    rows = [
        Row(case, "mask, AES-256-CTR", "ms", aes_ms, "ChaCha20 (PyNaCl)", best_ms(chacha, repeats)),
        Row("X25519", "one agreement", "ms", best_ms(lambda: own.agree(other.public), repeats)),
    ]
    variance = plan_for(*GOAL_CASE).share_variance
    table_ms = best_ms(lambda: sample_from_table(variance, dimension), 5)
    exact_ms = best_ms(lambda: sample_discrete_gaussian(variance, dimension), 1)
    rows.append(Row(case, "sampler, OpenDP, exact (real devices)", "ms", exact_ms))
    rows.append(Row(case, "sampler, table (simulated devices)", "ms", table_ms))
    return rows


def best_ms(call: Callable[[], object], repeats: int) -> float:
    call()
    took = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        took.append(time.process_time() - begun)
    # The fastest: other programs only make it slower.
    return 1000 * min(took)


# -- whole rounds ---------------------------------------------------------------------------------------------------


def plan_for(cohort: int, dimension: int) -> RoundPlan:
    survivors, colluders = math.ceil(0.7 * cohort), math.ceil(0.1 * cohort)
    size = graph_size(cohort, colluders, survivors)
    return RoundPlan(
        task=TASK,
        round_id=1,
        purpose="intent-model",
        contribution="intent_head",
        contribution_version=1,
        dimension=dimension,
        clip_norm=1.0,
        noise_variance=(4 * SCALE) ** 2,
        cohort=cohort,
        min_survivors=survivors,
        colluders=colluders,
        degree=size.degree,
        threshold=size.threshold,
        health_dimension=0,
        mode=MODE_DISTRIBUTED,
        issued_s=NOW_S,
        deadline_s=NOW_S + 600,
        model_hash=HASH,
        encoder_hash=HASH,
        policy_hash=HASH,
        policy_sequence=1,
    )


def forget() -> None:
    """Empty everything that one process remembers for all its devices, but for the graph's size (a row of its own)."""
    roster.signature_holds.cache_clear()
    roster._root.cache_clear()
    roster._distinct.cache_clear()
    messages._leaves.cache_clear()
    enrolment._is_signed.cache_clear()


class TimedSession(DeviceSession):
    """Knows what checking the others' signatures over the survivors has cost."""

    agreement_s = 0.0

    def _check_agreement(self, request: messages.UnmaskRequest) -> None:
        begun = time.process_time()
        super()._check_agreement(request)
        self.agreement_s += time.process_time() - begun


class Cohort:
    """A server and its devices in this process, with what each of them spends and sends."""

    def __init__(self, cohort: int, dimension: int) -> None:
        self.plan = plan_for(cohort, dimension)
        self.cpu: dict[str, float] = defaultdict(float)
        """Stage → seconds: the sum over the measured devices, or the server's under "server" and its stage."""
        self.up: dict[int, int] = defaultdict(int)
        self.down: dict[int, int] = defaultdict(int)
        authority = nacl.signing.SigningKey.generate()
        self.server = ServerSession(self.plan, bytes(authority.verify_key), lambda: NOW_S)
        self.identities = [nacl.signing.SigningKey.generate() for _ in range(cohort)]
        self.devices: list[TimedSession] = []
        for index, identity in enumerate(self.identities):
            certificate = enrolment.issue_certificate(
                authority, TASK, bytes(identity.verify_key), NOW_S - 1000, NOW_S + 100_000
            )
            with self.device_cpu(index, "advertise"):
                device = TimedSession(self.plan, identity, certificate, bytes(authority.verify_key), lambda: NOW_S)
                advert = device.advert()
            self.devices.append(device)
            self.up[index] += len(advert)
            self.server.add_advert(advert)  # so a device's number is its place
        self.server.close_roster()

    @contextlib.contextmanager
    def device_cpu(self, index: int, stage: str) -> Iterator[None]:
        if index < MEASURED:
            forget()
        begun = time.process_time()
        yield
        if index < MEASURED:
            self.cpu[stage] += time.process_time() - begun

    @contextlib.contextmanager
    def server_cpu(self, stage: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.cpu[f"server {stage}"] += time.process_time() - begun

    def ask(
        self,
        index: int,
        stage: str,
        request: Callable[[], bytes],
        answer: Callable[[bytes], bytes],
        add: Callable[[int, bytes], None] | None,
    ) -> None:
        with self.server_cpu(stage):
            raw = request()
        self.down[index] += len(raw)
        with self.device_cpu(index, stage):
            reply = answer(raw)
        self.up[index] += len(reply)
        if add is not None:
            with self.server_cpu(stage):
                add(index, reply)

    def draw(self, index: int) -> None:
        device, server = self.devices[index], self.server
        self.ask(index, "draw", functools.partial(server.draw_request, index), device.draw, server.add_draw)

    def share(self, index: int) -> None:
        device, server = self.devices[index], self.server
        self.ask(index, "share", functools.partial(server.share_request, index), device.share, server.add_shares)

    def contribute(self, index: int, values: np.ndarray) -> None:
        device, server = self.devices[index], self.server
        with self.server_cpu("contribute"):
            raw = server.contribute_request(index)
        self.down[index] += len(raw)
        ring = values.astype(np.uint32)
        with self.device_cpu(index, "contribute"):
            device.open_contribute(raw)
            masked, proof = device.masked(ring)
        self.up[index] += masked.nbytes + len(proof)
        with self.server_cpu("contribute"):
            server.add_contribution(index, masked, proof)

    def agree(self, index: int) -> None:
        device, server = self.devices[index], self.server
        self.ask(index, "agree", server.agree_request, device.agree, server.add_signature)

    def unmask(self, index: int, *, kept: bool = True) -> None:
        device, server = self.devices[index], self.server
        add = server.add_unmasking if kept else None
        self.ask(index, "unmask", functools.partial(server.unmask_request, index), device.unmask, add)

    def figures(self) -> Figures:
        found = {f"client {stage}": 1000 * self.cpu[stage] / MEASURED for stage in CLIENT_STAGES}
        found["client"] = sum(found.values())
        checked_s = sum(device.agreement_s for device in self.devices[:MEASURED])
        found["client without"] = found["client"] - found["client agree"] - 1000 * checked_s / MEASURED
        found["up"] = max(self.up[index] for index in range(MEASURED)) / 1000
        found["down mean"] = sum(self.down[index] for index in range(MEASURED)) / MEASURED / 1000
        found["down"] = max(self.down[index] for index in range(MEASURED)) / 1000
        return found


def peak_mb() -> float:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, KiB elsewhere.
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def vector(index: int, dimension: int) -> np.ndarray:
    return np.random.default_rng(index).integers(-SCALE, SCALE, dimension, np.int64)


def measure_round(cohort: int, dimension: int, drop: float) -> Figures:
    """A whole round, of which the last ones drop out after sharing. Raises AssertionError if the sum is not bit-exact."""
    graph_size.cache_clear()
    sizing._ln_choose.cache_clear()
    begun = time.process_time()
    graph_size(cohort, math.ceil(0.1 * cohort), math.ceil(0.7 * cohort))
    sized_ms = 1000 * (time.process_time() - begun)
    members = Cohort(cohort, dimension)
    server = members.server
    everybody = range(cohort)
    answering = range(cohort - round(drop * cohort))
    for index in everybody:
        members.draw(index)
    server.open_sharing()
    for index in everybody:
        members.share(index)
    with members.server_cpu("open"):
        server.open_contributing()
    before_mb = peak_mb()
    plain = np.zeros(dimension, np.int64)
    for index in answering:
        values = vector(index, dimension)
        plain += values
        members.contribute(index, values)
    with members.server_cpu("open"):
        server.open_agreement()
    for index in answering:
        members.agree(index)
    with members.server_cpu("open"):
        server.open_unmasking()
    for index in answering:
        members.unmask(index)
    with members.server_cpu("release"):
        released = server.release()
    if released.survivors != len(answering) or not np.array_equal(released.values, plain):
        raise AssertionError(f"the sum over {len(answering)} of {cohort} devices is not bit-exact")
    after = ("open", "contribute", "agree", "unmask", "release")
    return {
        **members.figures(),
        "graph": sized_ms,
        "server": sum(members.cpu[f"server {stage}"] for stage in after),
        "release": members.cpu["server release"],
        "before": before_mb,
        "peak": peak_mb(),
    }


def measure_sampled(cohort: int, dimension: int) -> Figures:
    """The measured devices do everything. Of the others adverts, draws and signatures are real, shares are noise of their size
    and vectors zeros, so that no sum can be released."""
    members = Cohort(cohort, dimension)
    server = members.server
    for index in range(cohort):
        members.draw(index)
    server.open_sharing()
    for index in range(cohort):
        if index < MEASURED:
            members.share(index)
        else:
            sealed = [os.urandom(messages.SEALED_SHARES_BYTES) for _ in range(server.size.degree)]
            server.add_shares(index, messages.sealed_shares_to_bytes(sealed))
    server.open_contributing()
    shared, zeros = np.ones(cohort, np.bool_), np.zeros(dimension, np.uint32)
    for index, identity in enumerate(members.identities):
        if index < MEASURED:
            members.contribute(index, vector(index, dimension))
        else:
            commitment = os.urandom(messages.DIGEST_BYTES)
            statement = roster.shared_statement(server._context, shared, commitment)
            proof = messages.Contributed(commitment, identity.sign(statement).signature).to_bytes()
            server.add_contribution(index, zeros, proof)
    server.open_agreement()
    agreed = roster.agreed_statement(server._context, shared, shared)
    for index, identity in enumerate(members.identities):
        if index < MEASURED:
            members.agree(index)
        else:
            server.add_signature(index, identity.sign(agreed).signature)
    server.open_unmasking()
    for index in range(MEASURED):
        members.unmask(index, kept=False)
    return members.figures()


def client_rows(case: str, found: Figures, *, goals: bool) -> list[Row]:
    def goal(value: float) -> tuple[str, float | None]:
        return (GOAL, value) if goals else ("", None)

    rows = [
        Row(case, f"client CPU, {stage}", "ms", found[f"client {stage}"], seeds=MEASURED) for stage in CLIENT_STAGES
    ]
    rows += [
        Row(case, "client CPU, all, sampler apart", "ms", found["client"], *goal(100), MEASURED),
        Row(case, "client CPU, the same without agreement", "ms", found["client without"], *goal(50), MEASURED),
        Row(case, "up, most of any measured", "kB", found["up"], *goal(300)),
        Row(case, "down, mean of the measured", "kB", found["down mean"], *goal(150), MEASURED),
        Row(case, "down, most of any measured", "kB", found["down"], *goal(150)),
    ]
    return rows


def round_rows(cohort: int, dimension: int, drop: float, found: Figures) -> list[Row]:
    case, goals = f"{cohort:,} x {dimension:,}, {drop:.0%} drop", (cohort, dimension) == GOAL_CASE
    held_mb = 4e-6 * cohort * dimension
    goal = (GOAL, GOAL_SERVER_S[drop]) if goals else ("", None)
    return [
        *client_rows(case, found, goals=goals),
        Row(case, "graph's size, not in the above", "ms", found["graph"]),
        Row(case, "server CPU, all after sharing", "s", found["server"], *goal),
        Row(case, "server CPU, release alone", "s", found["release"]),
        Row(case, "peak memory, everybody", "MB", found["peak"]),
        Row(case, "peak's growth after sharing", "MB", found["peak"] - found["before"], "n vectors held", held_mb),
        Row(case, "sum bit-exact", "1 = yes", 1.0),
    ]


def sampled_rows(cohort: int, dimension: int, found: Figures) -> list[Row]:
    return client_rows(f"{cohort:,} x {dimension:,}, only {MEASURED} fully", found, goals=False)


# -- Flower's SecAgg+ -----------------------------------------------------------------------------------------------


def measure_flower(cohort: int, dimension: int) -> Figures:
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


def beside_flower(ours: Figures, theirs: Figures) -> list[Row]:
    case, cohort = "50 x 60,000, 0% drop", 50
    return [
        Row(case, "client CPU, all, sampler apart", "ms", ours["client"], FLOWER, theirs["client"]),
        Row(case, "server CPU, release", "s", ours["release"], FLOWER_50, cohort * theirs["server"]),
        Row(
            case,
            "50 clients (no sampler) + release",
            "s",
            cohort * ours["client"] / 1000 + ours["release"],
            FLOWER_50,
            cohort * (theirs["client"] / 1000 + theirs["server"]),
        ),
        Row(case, "up, a device", "kB", ours["up"], FLOWER, theirs["up"]),
        Row(case, "down, without model and plan", "kB", ours["down"], FLOWER, theirs["down"]),
    ]


if __name__ == "__main__":
    main("secure_sum", run)
