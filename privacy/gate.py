"""THE door: the only code that may make something that leaves a device.

    plan → consent → policy → budget → (update) → clip → integers → mode → receipt

What it needs from the device (consent, durable memory, a clock) are the Protocols below. A test holds that no other module makes
a `SealedContribution` and that the agent sends nothing else. Order matters: the budget is reserved, durably, before the update
is computed; a crash at any later point leaves it spent.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from privacy.budgets import BudgetState, Spending, budget_state, check_budget
from privacy.clipping import RingArray, clip_l2, discretise, finite_vector, to_ring
from privacy.ledger import Entry, next_entry
from privacy.policy import ContributionLimits, Policy, is_looser, parse_policy
from shared_models.canonical import Envelope
from shared_models.errors import (
    ConfigError,
    ConsentError,
    ContributionError,
    HaltedError,
    PolicyError,
    RefusedError,
    ReplayError,
    WireError,
)
from shared_models.wire import MODE_TRUSTED, RoundPlan, noise_variance_for

Update = Callable[[RoundPlan], npt.NDArray[Any]]
"""Computes the raw update [dimension] for a plan that the gate has already accepted and paid for."""


class ConsentSource(Protocol):
    def granted_since(self, purpose: str) -> float | None:
        """Unix time of the consent in force for `purpose`; None if there is none."""


class GateMemory(Protocol):
    """Durable key → JSON object. What `put` wrote inside one `transaction` is there after kill -9, whole or not at all."""

    def get(self, key: str) -> dict[str, Any] | None: ...

    def put(self, key: str, value: Mapping[str, Any]) -> None: ...

    def entries(self, prefix: str) -> list[dict[str, Any]]:
        """Values of all keys that start with `prefix`, in the order in which they were first put."""

    def transaction(self) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class SealedContribution:
    """What a device sends, whole: nothing else of the round leaves it. Made by `Gate.seal` only."""

    task: str
    round_id: int
    plan_hash: str
    values: RingArray
    """uint32 [dimension]; in mode `trusted-aggregator` the clipped integers, mod 2^32."""
    nonce: str
    """Hexadecimal; opens the commitment to whoever holds the values."""

    @property
    def commitment(self) -> str:
        """SHA-256 over plan, nonce and values: the leaf that stands for this contribution in the ledger's Merkle root."""
        return contribution_commitment(self.plan_hash, self.nonce, self.values)


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
    ) -> None:
        self._officer_key = officer_key
        self._consent = consent
        self._memory = memory
        self._clock = clock
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
            stale |= {name: since_s for name in policy.purposes if (since_s := self._granted_since(name)) is not None}
        with self._memory.transaction():
            self._memory.put("policy", {"envelope": envelope.document(), "stale_consents": stale})
        return policy

    # -- the door -------------------------------------------------------------------------------------------------

    def seal(self, signed_plan: Envelope, update: Update, *, model_hash: str, encoder_hash: str) -> SealedContribution:
        """Answer one round. `update(plan)` is called only after everything was checked and the budget was reserved.

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
        self._check_consent(plan)
        self._check_policy(plan, now_s)
        spending = self._reserve(plan, now_s)
        note = ""
        try:
            vector = finite_vector(update(plan), plan.dimension)
        except ContributionError as error:
            vector, note = np.zeros(plan.dimension), str(error)
        except (RefusedError, WireError):
            raise
        except Exception as error:  # noqa: BLE001 - a plan made so that only some users' data fail would read who they are
            vector, note = np.zeros(plan.dimension), f"the update failed with {type(error).__name__}"
        grid = discretise(clip_l2(vector, plan.clip_norm))
        # Mode trusted-aggregator: the integers as they are; the aggregator adds the noise (privacy.mechanisms.TrustedSum).
        sealed = SealedContribution(plan.task, plan.round_id, plan.hash, to_ring(grid.values), secrets.token_hex(16))
        self._write_receipt(plan, spending, sealed, note)
        return sealed

    def _authenticate(self, signed_plan: Envelope) -> RoundPlan:
        return RoundPlan.from_envelope(signed_plan, self._require_policy().aggregator_key)

    def _check_consent(self, plan: RoundPlan) -> None:
        since_s = self._granted_since(plan.purpose)
        if since_s is None:
            raise ConsentError(f"the user has not consented to {plan.purpose!r}")
        if self._stale_consents().get(plan.purpose) == since_s:
            raise ConsentError(f"the policy allows more than the user has consented to for {plan.purpose!r}: ask again")

    def _check_policy(self, plan: RoundPlan, now_s: float) -> None:
        policy = self._require_policy()
        policy.check_valid_at(now_s)
        if policy.halted:
            raise HaltedError(f"the privacy officer has halted contributions: {policy.reason or 'no reason given'}")
        _require(plan.task == policy.fleet, f"task {plan.task!r}, this device belongs to {policy.fleet!r}")
        _require(plan.policy_hash == policy.hash, "the plan was made under another policy than the one in force here")
        _require(plan.policy_sequence == policy.sequence, "the plan names another policy number")
        _require(plan.mode in policy.modes, f"mode {plan.mode!r} is not allowed")
        _require(plan.mode == MODE_TRUSTED, f"this version cannot contribute in mode {plan.mode!r}")
        _require(plan.issued_s <= now_s + 300, "the plan was issued in the future")
        _require(now_s <= plan.deadline_s, "the plan's deadline has passed")
        limits = policy.purposes.get(plan.purpose)
        _require(limits is not None, f"purpose {plan.purpose!r} is not allowed")
        assert limits is not None
        allowed = limits.contributions.get(plan.contribution)
        _require(allowed is not None, f"contribution {plan.contribution!r} is not allowed for {plan.purpose!r}")
        assert allowed is not None
        _check_limits(plan, allowed)

    def _reserve(self, plan: RoundPlan, now_s: float) -> Spending:
        key = f"spent/{plan.task}/{plan.round_id}"
        if self._memory.get(key) is not None:
            raise ReplayError(f"round {plan.round_id} of {plan.task!r} was answered or reserved before: once only")
        state = budget_state(self._require_policy(), plan.purpose, self.spendings(), now_s)
        check_budget(state, plan.rho, now_s)
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

    def _granted_since(self, purpose: str) -> float | None:
        try:
            return self._consent.granted_since(purpose)
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


def _check_limits(plan: RoundPlan, allowed: ContributionLimits) -> None:
    _require(
        plan.contribution_version == allowed.version, f"version {plan.contribution_version} of {plan.contribution!r}"
    )
    _require(plan.dimension <= allowed.max_dimension, f"dimension {plan.dimension} is above {allowed.max_dimension}")
    _require(plan.clip_norm <= allowed.clip_norm, f"clip norm {plan.clip_norm} is above {allowed.clip_norm}")
    _require(
        plan.noise_variance >= noise_variance_for(allowed.noise_multiplier),
        f"noise multiplier {plan.noise_multiplier:.6g} is below {allowed.noise_multiplier:.6g}",
    )
    _require(
        plan.min_survivors >= allowed.min_survivors, f"n_min {plan.min_survivors} is below {allowed.min_survivors}"
    )
    _require(plan.local == allowed.local, "the constants of local training are not those of the policy")


def _require(condition: bool, what_is_wrong: str) -> None:
    if not condition:
        raise PolicyError(f"the plan exceeds the policy: {what_is_wrong}")


__all__ = [
    "ConsentSource",
    "Gate",
    "GateMemory",
    "RefusedError",
    "SealedContribution",
    "Update",
    "contribution_commitment",
]
