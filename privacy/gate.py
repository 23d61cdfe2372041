"""THE door: the only code that may make something that leaves a device.

    plan → consent → policy → budget → (update) → clip → integers → noise → mask → receipt

In mode `distributed` (the default) a round has six stages, of which `contribute` is the one above; the others carry keys, shares
and signatures of the secure sum (privacy.secure_sum), never anything of the user's. In mode `trusted-aggregator` there is one
stage, without noise and mask.

What it needs from the device (consent, durable memory, a clock) are the Protocols below. A test holds that no other module makes
a `SealedContribution` or a `SealedMessage` and that the agent sends nothing else. Order matters: the budget is reserved,
durably, before the update is computed; a crash at any later point leaves it spent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nacl.signing
import numpy as np
import numpy.typing as npt

from privacy.budgets import Advertised, BudgetState, Spending, budget_state, check_adverts, check_budget
from privacy.clipping import IntArray, RingArray, clip_l2, discretise, finite_vector, to_ring
from privacy.enrolment import Certificate
from privacy.gate_needs import ConsentSource, GateMemory
from privacy.ledger import Entry, next_entry
from privacy.mechanisms import sample_discrete_gaussian
from privacy.plan_checks import check_plan, require
from privacy.policy import Policy, is_looser, parse_policy
from privacy.secure_sum.device import DeviceSession
from privacy.secure_sum.messages import ADVERTISE, AGREE, DRAW, SHARE, UNMASK
from shared_models.canonical import Envelope
from shared_models.errors import (
    ConfigError,
    ConsentError,
    ContributionError,
    MemoryLostError,
    PolicyError,
    RefusedError,
    ReplayError,
    WireError,
)
from shared_models.wire import MODE_DISTRIBUTED, RoundPlan

Update = Callable[[RoundPlan], npt.NDArray[Any]]
"""Computes the raw update [dimension] for a plan that the gate has already accepted and paid for."""


NoiseSampler = Callable[[int, int], IntArray]
"""(variance, size) → int64 [size], discrete Gaussian."""

MAX_SESSIONS = 4
"""Rounds that a device may be in at once."""


@dataclass(frozen=True)
class SealedContribution:
    """What a device sends, whole: nothing else of the round leaves it. Made by `Gate.seal` only."""

    task: str
    round_id: int
    plan_hash: str
    values: RingArray
    """uint32 [dimension]: clipped integers with noise and masks; in mode `trusted-aggregator` the clipped integers alone."""
    nonce: str
    """Hexadecimal; opens the commitment to whoever holds the values."""
    proof: bytes = b""
    """What accompanies a masked vector in a secure sum (messages.Contributed); empty in mode `trusted-aggregator`."""

    @property
    def commitment(self) -> str:
        """SHA-256 over plan, nonce and values: the leaf that stands for this contribution in the ledger's Merkle root."""
        return contribution_commitment(self.plan_hash, self.nonce, self.values)


@dataclass(frozen=True)
class SealedMessage:
    """A device's answer in another stage of a secure sum: keys, sealed shares, a signature or shares. Made by `Gate` only."""

    task: str
    round_id: int
    stage: str
    body: bytes


def contribution_commitment(plan_hash: str, nonce: str, values: RingArray) -> str:
    """Commitment to a contribution, in hexadecimal; the aggregator computes the same from what it received."""
    head = f"{plan_hash}:{nonce}:".encode()
    return hashlib.sha256(head + values.astype("<u4").tobytes()).hexdigest()


class Gate:
    """One device's door. Not thread-safe: the owner of the store calls it under its lock.

    Raises PolicyError at once if the policy in `memory` is not `officer_key`'s.
    """

    def __init__(
        self,
        *,
        officer_key: bytes,
        consent: ConsentSource,
        memory: GateMemory,
        clock: Callable[[], float],
        noise: NoiseSampler = sample_discrete_gaussian,
    ) -> None:
        """`noise`: the exact sampler; simulations may give a faster one that a test proves equal."""
        self._officer_key = officer_key
        self._consent = consent
        self._memory = memory
        self._clock = clock
        self._noise = noise
        self._sessions: dict[tuple[str, int], DeviceSession] = {}
        _ = self.policy

    # -- what people ask ------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy | None:
        """The policy in force. Always that of the memory: another gate on it may have taken a newer one (a halt) into force."""
        stored = self._memory.get("policy")
        return None if stored is None else parse_policy(Envelope.from_document(stored["envelope"]), self._officer_key)

    def receipts(self) -> list[dict[str, Any]]:
        """This device's own ledger: one hash-linked entry for each contribution that left, oldest first."""
        return self._memory.entries("receipt/")

    def spendings(self) -> list[Spending]:
        """All reservations ever made, whether or not a contribution followed."""
        return [Spending.from_document(item) for item in self._memory.entries("spent/")]

    def budget(self, purpose: str) -> BudgetState:
        """Spent and left of `purpose` now. Raises PolicyError if no policy names it."""
        policy = self._require_policy()
        if purpose not in policy.purposes:
            raise PolicyError(f"policy {policy.sequence} does not know the purpose {purpose!r}")
        return budget_state(policy, purpose, self.spendings(), self._now_s())

    # -- policy ---------------------------------------------------------------------------------------------------

    def adopt_policy(self, envelope: Envelope) -> Policy:
        """Take a policy into force if the pinned officer signed it and it is not older than the one in force.

        A looser one makes the consents in force stale: each purpose needs a fresh one. It resets no counter.
        Raises PolicyError; the old one then stays.
        """
        policy = parse_policy(envelope, self._officer_key)
        current = self.policy
        if current is not None:
            if policy.hash == current.hash:
                return current
            if policy.sequence <= current.sequence:
                raise PolicyError(
                    f"policy {policy.sequence} is not newer than policy {current.sequence}, which is in force"
                )
            if policy.fleet != current.fleet:
                raise PolicyError(f"a policy for fleet {policy.fleet!r} came to a device of fleet {current.fleet!r}")
        stale = self._stale_consents()
        if current is not None and is_looser(current, policy):
            # By the consent itself, not by comparing times: a clock that is set back must not make an old consent fresh.
            stale |= {name: since_s for name in policy.purposes if (since_s := self._given_since(name)) is not None}
        with self._memory.transaction():
            self._memory.put("policy", {"envelope": envelope.document(), "stale_consents": stale})
        return policy

    # -- identity -------------------------------------------------------------------------------------------------

    def identity_key(self) -> bytes:
        """Public half of this device's identity (Ed25519), made and kept at the first call: what the authority certifies."""
        return bytes(self._identity().verify_key)

    def install_certificate(self, certificate: Certificate) -> None:
        """Keep the enrolment authority's word on this device. Raises RefusedError if it is for another device or fleet."""
        if certificate.identity_key != self.identity_key():
            raise PolicyError("this certificate was issued to another device")
        policy = self.policy
        if policy is not None and policy.enrolment_key is not None:
            certificate.check(policy.enrolment_key, policy.fleet, self._now_s())
        with self._memory.transaction():
            self._memory.put("certificate", certificate.document())

    @property
    def certificate(self) -> Certificate | None:
        stored = self._memory.get("certificate")
        return None if stored is None else Certificate.from_document(stored)

    # -- the stages of a secure sum -------------------------------------------------------------------------------

    def advertise(self, signed_plan: Envelope) -> SealedMessage:
        """Judge the plan of a round in mode `distributed` and offer fresh keys for it. No ρ is spent yet, but the round counts.

        The same plan again gets the same keys, while they are in memory. Raises RefusedError or WireError.
        """
        plan = self._authenticate(signed_plan)
        now_s = self._now_s()
        self._check(plan, now_s)
        require(plan.mode == MODE_DISTRIBUTED, "only a secure sum has stages")
        key = (plan.task, plan.round_id)
        session = self._sessions.get(key)
        if session is None or session.plan.hash != plan.hash:
            if session is not None:
                raise ReplayError(f"round {plan.round_id} of {plan.task!r} came with another plan before")
            self._check_affordable(plan, now_s)
            certificate, enrolment_key = self._certified(now_s), self._enrolment_key()
            self._count_advert(plan, now_s)
            session = DeviceSession(plan, self._identity(), certificate, enrolment_key, self._now_s)
            self._sessions[key] = session
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.pop(next(iter(self._sessions))).abandon("a newer round took its place")
        return SealedMessage(plan.task, plan.round_id, ADVERTISE, session.advert())

    def answer_stage(self, task: str, round_id: int, stage: str, body: bytes) -> SealedMessage:
        """Answer `draw`, `share`, `agree` or `unmask` of a round that was advertised for, in order, each once.

        Raises RefusedError; SecureSumError for what the protocol does not allow, and the round is over for this device.
        """
        session = self._session(task, round_id)
        answers = {DRAW: session.draw, SHARE: session.share, AGREE: session.agree, UNMASK: session.unmask}
        if stage not in answers:
            raise WireError(f"a secure sum has no stage {str(stage)[:40]!r} to answer")
        # Each time: a consent that was withdrawn, a halt or the deadline ends the round for this device at any stage.
        self._check(session.plan, self._now_s())
        return SealedMessage(task, round_id, stage, answers[stage](body))

    # -- the door -------------------------------------------------------------------------------------------------

    def seal(
        self, signed_plan: Envelope, update: Update, *, model_hash: str, encoder_hash: str, request: bytes = b""
    ) -> SealedContribution:
        """Answer one round. `update(plan)` is called only after everything was checked and the budget was reserved.

        `request` is the message of the secure sum's stage `contribute`, in mode `distributed`.

        `model_hash` is that of the model that came with the plan, `encoder_hash` that of the encoder in use here: a plan for
        others is a WireError.

        An update that fails, is not finite or has the wrong shape is replaced by zeros (staying away would say something about
        the user's data), and the receipt notes it. Raises RefusedError (its reason must not leave the device) and, for a plan
        that is not authentic or does not fit its model, WireError; `update` raises these two only for what is wrong with the
        plan.
        """
        plan = self._authenticate(signed_plan)
        if plan.model_hash != model_hash or plan.encoder_hash != encoder_hash:
            raise WireError("the plan was signed for another model or encoder than the one at hand")
        now_s = self._now_s()
        self._check(plan, now_s)
        session = None
        if plan.mode == MODE_DISTRIBUTED:
            session = self._session(plan.task, plan.round_id)
            require(session.plan.hash == plan.hash, "the plan is not the one that this device advertised for")
            session.open_contribute(request)
        spending = self._reserve(plan, now_s)
        learned = plan.dimension - plan.health_dimension
        note = ""
        try:
            vector = finite_vector(update(plan), learned)
        except ContributionError as error:
            vector, note = np.zeros(learned), str(error)
        except (RefusedError, WireError):
            raise
        except Exception as error:  # noqa: BLE001 - a plan made so that only some users' data fail would read who they are
            vector, note = np.zeros(learned), f"the update failed with {type(error).__name__}"
        # The last coordinates are zero on every device: the released sum shows pure noise there, which can be tested.
        grid = np.concatenate(
            [discretise(clip_l2(vector, plan.clip_norm)).values, np.zeros(plan.health_dimension, np.int64)]
        )
        proof = b""
        if session is None:
            # Mode trusted-aggregator: the integers as they are; the aggregator adds the noise (privacy.mechanisms.TrustedSum).
            values = to_ring(grid)
        else:
            noisy = to_ring(grid + self._noise(plan.share_variance, plan.dimension))
            values, proof = session.masked(noisy)
        sealed = SealedContribution(plan.task, plan.round_id, plan.hash, values, secrets.token_hex(16), proof)
        self._write_receipt(plan, spending, sealed, note)
        return sealed

    def _authenticate(self, signed_plan: Envelope) -> RoundPlan:
        return RoundPlan.from_envelope(signed_plan, self._require_policy().aggregator_key)

    def _check(self, plan: RoundPlan, now_s: float) -> None:
        if self._memory.damaged:
            raise MemoryLostError("records of what this device has spent may be lost to damage: it contributes no more")
        self._check_consent(plan)
        check_plan(plan, self._require_policy(), now_s)

    def _count_advert(self, plan: RoundPlan, now_s: float) -> None:
        """Durably, before any key is offered: each round draws a graph anew, and a server may try for one that suits it."""
        key = f"advert/{plan.task}/{plan.round_id}"
        if self._memory.get(key) is not None:
            raise ReplayError(f"keys for round {plan.round_id} of {plan.task!r} were offered before, and are lost")
        advert = Advertised(plan.purpose, now_s)
        earlier = [Advertised(**item) for item in self._memory.entries("advert/")]
        check_adverts(self._require_policy(), advert, earlier)
        with self._memory.transaction():
            self._memory.put(key, dataclasses.asdict(advert))
            self._memory.put("clock", {"latest_s": now_s})

    def _session(self, task: str, round_id: int) -> DeviceSession:
        session = self._sessions.get((task, round_id))
        if session is None:
            raise ReplayError(f"no keys were offered for round {round_id} of {str(task)[:100]!r}, or they are lost")
        return session

    def _identity(self) -> nacl.signing.SigningKey:
        stored = self._memory.get("identity")
        if stored is None:
            stored = {"seed": secrets.token_hex(32)}
            with self._memory.transaction():
                self._memory.put("identity", stored)
        return nacl.signing.SigningKey(bytes.fromhex(stored["seed"]))

    def _enrolment_key(self) -> bytes:
        key = self._require_policy().enrolment_key
        if key is None:
            raise PolicyError("the policy names no enrolment authority, so no secure sum can be joined")
        return key

    def _certified(self, now_s: float) -> Certificate:
        certificate = self.certificate
        if certificate is None:
            raise PolicyError("this device has no enrolment certificate yet: `tacit-device certificate FILE`")
        certificate.check(self._enrolment_key(), self._require_policy().fleet, now_s)
        return certificate

    def _check_consent(self, plan: RoundPlan) -> None:
        since_s = self._given_since(plan.purpose, counting=True)
        if since_s is None:
            raise ConsentError(f"the user has not consented to {plan.purpose!r}")
        if self._stale_consents().get(plan.purpose) == since_s:
            raise ConsentError(f"the policy allows more than the user has consented to for {plan.purpose!r}: ask again")

    def _check_affordable(self, plan: RoundPlan, now_s: float) -> None:
        if self._memory.get(f"spent/{plan.task}/{plan.round_id}") is not None:
            raise ReplayError(f"round {plan.round_id} of {plan.task!r} was answered or reserved before: once only")
        state = budget_state(self._require_policy(), plan.purpose, self.spendings(), now_s)
        check_budget(state, plan.rho, now_s)

    def _reserve(self, plan: RoundPlan, now_s: float) -> Spending:
        key = f"spent/{plan.task}/{plan.round_id}"
        self._check_affordable(plan, now_s)
        spending = Spending(plan.task, plan.round_id, plan.purpose, plan.contribution, plan.hash, plan.rho, now_s)
        with self._memory.transaction():
            self._memory.put(key, spending.document())
            self._memory.put("clock", {"latest_s": now_s})
        return spending

    def _write_receipt(self, plan: RoundPlan, spending: Spending, sealed: SealedContribution, note: str) -> None:
        earlier = self.receipts()
        last = Entry.from_document(dict(earlier[-1])) if earlier else None
        body = {**spending.document(), "commitment": sealed.commitment, "mode": plan.mode, "note": note}
        body["local_noise_multiplier"] = plan.local.noise_multiplier if plan.local else 0.0
        with self._memory.transaction():
            receipt = next_entry(last, self._now_s(), "contribution", body)
            self._memory.put(f"receipt/{plan.task}/{plan.round_id}", receipt.document())

    # -- small things ---------------------------------------------------------------------------------------------

    def _require_policy(self) -> Policy:
        policy = self.policy
        if policy is None:
            raise PolicyError("this device has no privacy policy yet, so nothing can leave it")
        return policy

    def _given_since(self, purpose: str, *, counting: bool = False) -> float | None:
        """Unix time of the consent that was given; with `counting`, only if it counts now."""
        try:
            return self._consent.granted_since(purpose) if counting else self._consent.given_since(purpose)
        except ConfigError:
            # A purpose that this version of the app does not know: nobody can have consented to it.
            return None

    def _stale_consents(self) -> dict[str, float]:
        """Purpose → the consent (by its time) that was in force when the policy became looser: it does not count any more."""
        stored = self._memory.get("policy")
        return dict(stored["stale_consents"]) if stored else {}

    def _now_s(self) -> float:
        """Never earlier than any time at which something was reserved: turning the clock back frees no budget."""
        stored = self._memory.get("clock")
        return max(self._clock(), float(stored["latest_s"]) if stored else 0.0)


__all__ = [
    "ConsentSource",
    "Gate",
    "GateMemory",
    "RefusedError",
    "SealedContribution",
    "SealedMessage",
    "Update",
    "contribution_commitment",
]
