"""What passes between aggregator and device: the signed plan of a round. Field by field, with its checks.

The arrays of a round (model out, contribution back) travel as raw arrays beside the plan, bound by hash or by the gate.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shared_models.canonical import Envelope, canonical_bytes, canonical_hash, parse_document
from shared_models.errors import WireError

PLAN_KIND = "application/vnd.tacit.round-plan+json"
PLAN_FORMAT = 2

SCALE_BITS = 14
SCALE = 1 << SCALE_BITS
"""The clip norm is this many units of the integer grid; it is the exact L2 sensitivity of a contribution."""

MAX_DIMENSION = 1 << 22
MAX_COHORT = 1_000_000

MODE_TRUSTED = "trusted-aggregator"
MODE_DISTRIBUTED = "distributed"

STAGES = ("advertise", "draw", "share", "contribute", "agree", "unmask")
"""Of a secure sum, in order. Messages of `contribute` are Flower's `train`, those of the others `query.<stage>`."""
ADVERTISE, DRAW, SHARE, CONTRIBUTE, AGREE, UNMASK = STAGES


@dataclass(frozen=True)
class LocalTraining:
    """Public constants of training on a device (Opacus): nothing here may depend on what the device holds."""

    max_grad_norm: float
    """Clip norm of one example's gradient, L2."""
    expected_batch: int
    """Divides the sum of clipped gradients; public, whatever the device holds."""
    sample_rate: float
    """Rate at which each example is taken, 0 < rate ≤ 1."""
    noise_multiplier: float
    """Example-level noise of the policy's second line, in units of max_grad_norm; 0 is none."""

    def __post_init__(self) -> None:
        _number("local.max_grad_norm", self.max_grad_norm, above=0.0, most=1e6)
        _integer("local.expected_batch", self.expected_batch, 1, 1_000_000)
        _number("local.sample_rate", self.sample_rate, above=0.0, most=1.0)
        _number("local.noise_multiplier", self.noise_multiplier, above=-1e-300, most=1e6)


@dataclass(frozen=True)
class RoundPlan:
    """All that a device needs to know to decide whether to answer, and how. Signed by the aggregator."""

    task: str
    """Name of the federated task; round ids are unique within it."""
    round_id: int
    """Grows by one with each plan of the task and is never used twice, also after a crash."""
    purpose: str
    """The consent purpose that it is charged to."""
    contribution: str
    """Name of a contribution that is compiled into the device."""
    contribution_version: int
    dimension: int
    clip_norm: float
    """L2 bound of the contribution before scaling; becomes SCALE on the integer grid."""
    noise_variance: int
    """Variance of the discrete Gaussian noise of the released sum, in squared units of the integer grid."""
    cohort: int
    """Devices invited."""
    min_survivors: int
    """Below this many contributions nothing is released (n_min)."""
    mode: str
    """`trusted-aggregator` or `distributed`."""
    issued_s: int
    deadline_s: int
    """Unix times in seconds; a device does not answer after the deadline."""
    model_hash: str
    encoder_hash: str
    policy_hash: str
    policy_sequence: int
    local: LocalTraining | None = None
    colluders: int = 0
    """Of the cohort, how many are assumed to collude with the server (t = ⌈γn⌉); mode `distributed` only, as the next two."""
    degree: int = 0
    """Share-holders of a device (k), for the whole cohort: privacy.secure_sum.sizing."""
    threshold: int = 0
    """Shares that reconstruct a secret."""
    health_dimension: int = 0
    """How many coordinates at the end of the vector are zero on every device; `dimension` counts them."""

    def __post_init__(self) -> None:
        for name in ("task", "purpose", "contribution", "mode"):
            _name(name, getattr(self, name))
        _integer("round_id", self.round_id, 0, 1 << 50)
        _integer("contribution_version", self.contribution_version, 1, 1_000_000)
        _integer("dimension", self.dimension, 1, MAX_DIMENSION)
        _number("clip_norm", self.clip_norm, above=0.0, most=1e6)
        _integer("noise_variance", self.noise_variance, 1, 1 << 53)
        _integer("cohort", self.cohort, 1, MAX_COHORT)
        _integer("min_survivors", self.min_survivors, 1, self.cohort)
        if self.mode not in (MODE_TRUSTED, MODE_DISTRIBUTED):
            raise WireError(f"plan: mode is {self.mode!r}, expected {MODE_TRUSTED!r} or {MODE_DISTRIBUTED!r}")
        _integer("issued_s", self.issued_s, 0, 1 << 40)
        _integer("deadline_s", self.deadline_s, self.issued_s, 1 << 40)
        for name in ("model_hash", "encoder_hash", "policy_hash"):
            _hex_digest(name, getattr(self, name))
        _integer("policy_sequence", self.policy_sequence, 0, 1 << 50)
        if self.local is not None and not isinstance(self.local, LocalTraining):
            raise WireError(f"plan: local is {self.local!r}, expected LocalTraining or None")
        _integer("health_dimension", self.health_dimension, 0, self.dimension - 1)
        largest_variance = self.noise_variance
        if self.mode == MODE_DISTRIBUTED:
            _integer("colluders", self.colluders, 0, self.min_survivors - 1)
            _integer("degree", self.degree, 1, min(254, self.cohort - 1))
            _integer("threshold", self.threshold, 1, self.degree)
            if self.share_variance < 16:
                raise WireError("plan: a device's share of the noise has a standard deviation below 4")
            # The sum holds the shares of all who answer, more than the plan needs.
            largest_variance = self.cohort * self.share_variance
        elif (self.colluders, self.degree, self.threshold) != (0, 0, 0):
            raise WireError(f"plan: colluders, degree and threshold belong to mode {MODE_DISTRIBUTED!r}")
        # The released sum must stay inside 32 bits: n·2^14 + 12 standard deviations < 2^31.
        if self.cohort * SCALE + 12 * (math.isqrt(largest_variance) + 1) >= 1 << 31:
            raise WireError(f"plan: a sum over {self.cohort} devices with this noise does not fit 32 bits")

    @property
    def rho(self) -> float:
        """zCDP cost of one participation: Δ²/(2σ²) with Δ = SCALE (Canonne, Kamath, Steinke 2020, Prop. 1.6)."""
        return SCALE * SCALE / (2.0 * self.noise_variance)

    @property
    def share_variance(self) -> int:
        """Variance of a device's share of the noise: enough if `min_survivors` answer and `colluders` of them add none."""
        return -(-self.noise_variance // (self.min_survivors - self.colluders))

    @property
    def noise_multiplier(self) -> float:
        """σ/Δ of the released sum."""
        return math.sqrt(self.noise_variance) / SCALE

    def document(self) -> dict[str, Any]:
        return {"format": PLAN_FORMAT, **asdict(self)}

    def to_bytes(self) -> bytes:
        return canonical_bytes(self.document())

    @functools.cached_property
    def hash(self) -> str:
        return canonical_hash(self.document())

    @classmethod
    def from_bytes(cls, raw: bytes) -> RoundPlan:
        document = parse_document(raw, limit_bytes=64 * 1024)
        if document.pop("format", None) != PLAN_FORMAT:
            raise WireError(f"plan: unknown format, this version reads format {PLAN_FORMAT}")
        local = document.get("local")
        if missing := sorted({field.name for field in fields(cls)} - set(document) - {"local"}):
            raise WireError(f"plan: field {missing[0]!r} is missing")
        try:
            if local is not None:
                document["local"] = _from_fields(LocalTraining, local)
            plan: RoundPlan = _from_fields(cls, document)
        except TypeError as error:
            raise WireError(f"plan: {error}") from error
        return plan

    @classmethod
    def from_envelope(cls, envelope: Envelope, aggregator_key: bytes) -> RoundPlan:
        """Verify and parse. Raises SignatureError or WireError."""
        return _verified_plan(envelope, aggregator_key)


class Sealed(Protocol):
    """The fields of a `privacy.gate.SealedContribution`: all that leaves a device in a round."""

    @property
    def task(self) -> str: ...
    @property
    def round_id(self) -> int: ...
    @property
    def plan_hash(self) -> str: ...
    @property
    def nonce(self) -> str: ...
    @property
    def proof(self) -> bytes: ...
    @property
    def values(self) -> npt.NDArray[np.uint32]:
        """[dimension]"""


class SealedStage(Protocol):
    """The fields of a `privacy.gate.SealedMessage`: what leaves a device in the other stages of a secure sum."""

    @property
    def task(self) -> str: ...
    @property
    def round_id(self) -> int: ...
    @property
    def body(self) -> bytes: ...


@functools.lru_cache(maxsize=32)
def _verified_plan(envelope: Envelope, aggregator_key: bytes) -> RoundPlan:
    """Pure, so remembered: in a simulation thousands of devices verify the same plan in one process."""
    return RoundPlan.from_bytes(envelope.open(PLAN_KIND, aggregator_key))


def noise_variance_for(noise_multiplier: float) -> int:
    """Least integer variance on the grid whose multiplier is at least `noise_multiplier` (so ρ is never above the wish)."""
    return math.ceil((noise_multiplier * SCALE) ** 2)


def model_hash(labels: Sequence[str], weights: npt.NDArray[np.float32]) -> str:
    """SHA-256 over the labels and the weights [classes, features] as little-endian float32, in hexadecimal."""
    head = canonical_bytes({"labels": list(labels), "shape": list(weights.shape)})
    return hashlib.sha256(head + b"\0" + weights.astype("<f4").tobytes()).hexdigest()


def _from_fields(kind: type[Any], document: Any) -> Any:
    if not isinstance(document, dict):
        raise WireError(f"{kind.__name__}: expected an object, got {type(document).__name__}")
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(document) - known):
        raise WireError(f"{kind.__name__}: unknown field {str(unknown[0])[:80]!r}")
    return kind(**document)


def _integer(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise WireError(f"plan: {name} is {str(value)[:80]!r}, expected a whole number from {least} to {most}")


def _number(name: str, value: Any, *, above: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= most:
        raise WireError(f"plan: {name} is {str(value)[:80]!r}, expected a number above {max(above, 0.0)} up to {most}")


def _name(name: str, value: Any) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= 100:
        raise WireError(f"plan: {name} is {str(value)[:80]!r}, expected a short name")


def _hex_digest(name: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise WireError(f"plan: {name} is {str(value)[:80]!r}, expected 64 hexadecimal digits")
