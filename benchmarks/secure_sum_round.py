"""One secure sum with all its devices and its server in one process, and what each spends: measured for secure_sum.py."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import nacl.signing
import numpy as np

from privacy import enrolment
from privacy.secure_sum import messages, roster, sizing
from privacy.secure_sum.device import DeviceSession
from privacy.secure_sum.server import ServerSession
from privacy.secure_sum.sizing import graph_size
from shared_models.wire import MODE_DISTRIBUTED, SCALE, RoundPlan

NOW_S = 1_800_000_000
TASK = "fleet"
HASH = "ab" * 32
CLIENT_STAGES = ("advertise", "draw", "share", "contribute", "agree", "unmask")
MEASURED = 10
"""Devices whose CPU is measured; they are among the survivors."""
Figures = dict[str, float]


COLLUDING = 0.1
"""The drafted policy's γ."""
SURVIVING = 0.7


def plan_for(cohort: int, dimension: int, colluding: float = COLLUDING) -> RoundPlan:
    survivors, colluders = math.ceil(SURVIVING * cohort), math.ceil(colluding * cohort)
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
    """Knows what checking the others' signatures, over the survivors and over who had shared, has cost."""

    agreement_s = 0.0

    def _check_agreement(self, request: messages.UnmaskRequest) -> None:
        begun = time.process_time()
        super()._check_agreement(request)
        self.agreement_s += time.process_time() - begun

    def _check_proofs(self, request: messages.UnmaskRequest) -> None:
        begun = time.process_time()
        super()._check_proofs(request)
        self.agreement_s += time.process_time() - begun


class Cohort:
    """A server and its devices in this process, with what each of them spends and sends."""

    def __init__(self, cohort: int, dimension: int, colluding: float = COLLUDING) -> None:
        self.plan = plan_for(cohort, dimension, colluding)
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


def measure_round(cohort: int, dimension: int, drop: float, colluding: float = COLLUDING) -> Figures:
    """A whole round, of which the last ones drop out after sharing. Raises AssertionError if the sum is not bit-exact."""
    graph_size.cache_clear()
    sizing._ln_choose.cache_clear()
    begun = time.process_time()
    plan_for(cohort, dimension, colluding)
    sized_ms = 1000 * (time.process_time() - begun)
    members = Cohort(cohort, dimension, colluding)
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
