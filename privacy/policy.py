"""The officer's policy: YAML that people read, signed as it stands, enforced by every device.

A device accepts no plan that a valid policy does not allow, whoever signed the plan. Policies are numbered; a higher number
replaces a lower one, never the reverse. They expire, so that a stricter one cannot be withheld for long. `halted: true` in a
newer policy stops all contributions.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import nacl.signing
import yaml

from privacy.accounting import epsilon_from_rho
from shared_models.canonical import Envelope, seal_envelope
from shared_models.errors import PolicyError, PolicyExpiredError, SignatureError, WireError
from shared_models.wire import MODE_DISTRIBUTED, MODE_TRUSTED, LocalTraining

POLICY_KIND = "application/vnd.tacit.policy+yaml"
POLICY_FORMAT = 2
MAX_POLICY_BYTES = 256 * 1024
MAX_VALID_DAYS = 14


@dataclass(frozen=True)
class ContributionLimits:
    """What the policy allows one kind of contribution."""

    version: int
    max_dimension: int
    clip_norm: float
    """Largest clip norm; the sensitivity on the grid does not depend on it."""
    noise_multiplier: float
    """Least σ/Δ of the released sum."""
    min_survivors: int
    """Least n_min: below it nothing may be released."""
    local: LocalTraining | None
    """Public constants of training on the device; a plan must carry exactly these. None: nothing is trained."""
    health_dimension: int = 0
    """Coordinates that are zero on every device, so that the released noise can be tested; a plan must have exactly these."""


@dataclass(frozen=True)
class PurposeLimits:
    """What the policy allows one consent purpose, per enrolment."""

    rho: float
    """Budget of zCDP within any window of the policy's period."""
    participations: int
    """Most contributions within any window of the period (k)."""
    separation_s: int
    """Least time between two contributions."""
    contributions: Mapping[str, ContributionLimits]


@dataclass(frozen=True)
class Policy:
    """A parsed policy. Times are Unix seconds."""

    fleet: str
    sequence: int
    issued_s: int
    expires_s: int
    halted: bool
    reason: str
    aggregator_key: bytes
    """Ed25519 key that signs plans and the aggregator's ledger."""
    delta: float
    population: int
    """Enrolments that δ was chosen for (N)."""
    colluding_share: float
    """γ: the share of a cohort that is assumed to collude. An assumption, not something that is enforced."""
    period_days: int
    rho_total: float
    """Budget over all purposes within any window of the period."""
    modes: tuple[str, ...]
    purposes: Mapping[str, PurposeLimits]
    hash: str
    """Hash of the signed envelope."""
    enrolment_key: bytes | None = None
    """Ed25519 key that certifies devices, not held by the operators; mode `distributed` cannot do without."""

    @property
    def period_s(self) -> int:
        return self.period_days * 86_400

    @property
    def epsilon_total(self) -> float:
        return epsilon_from_rho(self.rho_total, self.delta)

    def check_valid_at(self, now_s: float) -> None:
        """Raise PolicyExpiredError unless the policy is in force at `now_s`."""
        if now_s >= self.expires_s:
            raise PolicyExpiredError(f"policy {self.sequence} expired on {_iso(self.expires_s)}; a newer one is needed")
        if now_s < self.issued_s - 300:
            raise PolicyExpiredError(
                f"policy {self.sequence} is not in force before {_iso(self.issued_s)}: check the clock"
            )


def sign_policy(text: str, officer: nacl.signing.SigningKey) -> Envelope:
    """Check the policy's text and sign it as it stands. Raises PolicyError."""
    envelope = seal_envelope(POLICY_KIND, text.encode(), officer)
    parse_policy(envelope, bytes(officer.verify_key))
    return envelope


@functools.lru_cache(maxsize=64)
def parse_policy(envelope: Envelope, officer_key: bytes) -> Policy:
    """Verify the officer's signature, then parse strictly: unknown fields are errors. Raises PolicyError."""
    try:
        payload = envelope.open(POLICY_KIND, officer_key)
    except SignatureError as error:
        raise PolicyError(f"policy: {error}") from error
    if len(payload) > MAX_POLICY_BYTES:
        raise PolicyError(f"policy: {len(payload)} bytes, at most {MAX_POLICY_BYTES} are accepted")
    return _policy(_Fields("policy", read_yaml(payload)), envelope.hash)


def read_yaml(text: bytes) -> Any:
    """The YAML value of a policy's text, which has one meaning only: no key twice, no aliases. Raises PolicyError."""
    try:
        return yaml.load(text.decode("utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise PolicyError(f"policy: not valid YAML: {' '.join(str(error).split())[:300]}") from error


def is_looser(old: Policy, new: Policy) -> bool:
    """True if `new` allows anything that `old` did not: then each purpose needs fresh consent."""
    if (
        new.rho_total > old.rho_total
        or new.delta > old.delta
        or new.period_days < old.period_days
        or set(new.modes) - set(old.modes)
        or set(new.purposes) - set(old.purposes)
        or new.colluding_share < old.colluding_share
        or (old.enrolment_key is not None and new.enrolment_key != old.enrolment_key)
    ):
        return True
    return any(_purpose_is_looser(old.purposes[name], limits) for name, limits in new.purposes.items())


def _purpose_is_looser(old: PurposeLimits, new: PurposeLimits) -> bool:
    if new.rho > old.rho or new.participations > old.participations or new.separation_s < old.separation_s:
        return True
    for name, limits in new.contributions.items():
        before = old.contributions.get(name)
        if (
            before is None
            or limits.noise_multiplier < before.noise_multiplier
            or limits.min_survivors < before.min_survivors
            or limits.clip_norm > before.clip_norm
            or limits.max_dimension > before.max_dimension
            or _local_noise(limits) < _local_noise(before)
        ):
            return True
    return False


def _local_noise(limits: ContributionLimits) -> float:
    return limits.local.noise_multiplier if limits.local else float("inf")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without what lets one text mean two things, or a short text a huge value."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if len(set(map(str, names))) != len(names):
            raise yaml.YAMLError("a field stands twice in one mapping")
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-5 for a text, because it has no dot.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


class _Fields:
    """A mapping that is taken apart field by field; what is left over is an error."""

    def __init__(self, where: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise PolicyError(f"{where}: expected a mapping, got {type(value).__name__}")
        self.where, self.left = where, dict(value)

    def take(self, name: str) -> Any:
        if name not in self.left:
            raise PolicyError(f"{self.where}: field {name!r} is missing")
        return self.left.pop(name)

    def integer(self, name: str, least: int, most: int) -> int:
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise PolicyError(f"{self.where}: {name} is {str(value)[:60]!r}, expected a whole number {least} to {most}")
        return value

    def number(self, name: str, least: float, most: float, *, above: bool = True) -> float:
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PolicyError(f"{self.where}: {name} is {str(value)[:60]!r}, expected a number")
        if not (least < value <= most or (not above and value == least)):
            raise PolicyError(
                f"{self.where}: {name} is {value}, expected {'above' if above else 'from'} {least} to {most}"
            )
        return float(value)

    def text(self, name: str, *, empty: bool = False) -> str:
        value = self.take(name)
        if not isinstance(value, str) or len(value) > 1000 or not (value or empty):
            raise PolicyError(f"{self.where}: {name} is {str(value)[:60]!r}, expected a short text")
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise PolicyError(f"{self.where}: {name} is {str(value)[:60]!r}, expected true or false")
        return value

    def time_s(self, name: str) -> int:
        value = self.take(name)
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            time_s = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
            # Until 9999-12-31 at most, so that every time can be shown.
            datetime.fromtimestamp(time_s + MAX_VALID_DAYS * 86_400, UTC)
        except (TypeError, ValueError, OverflowError) as error:
            raise PolicyError(
                f"{self.where}: {name} is {str(value)[:60]!r}, expected a time (ISO 8601, UTC)"
            ) from error
        return time_s

    def done(self) -> None:
        if self.left:
            raise PolicyError(f"{self.where}: unknown field {str(min(map(str, self.left)))[:60]!r}")


def _policy(fields: _Fields, digest: str) -> Policy:
    fields.integer("format", POLICY_FORMAT, POLICY_FORMAT)
    issued_s, expires_s = fields.time_s("issued"), fields.time_s("expires")
    if not issued_s < expires_s <= issued_s + MAX_VALID_DAYS * 86_400:
        raise PolicyError(f"policy: expires must lie within {MAX_VALID_DAYS} days after issued")
    modes = fields.take("modes")
    if not isinstance(modes, list) or not modes or set(map(str, modes)) - {MODE_TRUSTED, MODE_DISTRIBUTED}:
        raise PolicyError(
            f"policy: modes is {str(modes)[:60]!r}, expected a list of {MODE_TRUSTED}, {MODE_DISTRIBUTED}"
        )
    purposes = fields.take("purposes")
    if not isinstance(purposes, dict):
        raise PolicyError("policy: purposes: expected a mapping")
    policy = Policy(
        fleet=fields.text("fleet"),
        sequence=fields.integer("sequence", 1, 1 << 40),
        issued_s=issued_s,
        expires_s=expires_s,
        halted=fields.flag("halted"),
        reason=fields.text("reason", empty=True),
        aggregator_key=_key("policy: aggregator_key", fields.text("aggregator_key")),
        delta=fields.number("delta", 0.0, 0.01),
        population=fields.integer("population", 2, 1 << 40),
        colluding_share=fields.number("colluding_share", 0.0, 0.99, above=False),
        period_days=fields.integer("period_days", 1, 3660),
        rho_total=fields.number("rho_total", 0.0, 1000.0),
        modes=tuple(modes),
        purposes={str(name): _purpose(_Fields(f"policy: purposes.{name}", body)) for name, body in purposes.items()},
        hash=digest,
        enrolment_key=(
            _key("policy: enrolment_key", fields.text("enrolment_key")) if "enrolment_key" in fields.left else None
        ),
    )
    fields.done()
    if MODE_DISTRIBUTED in modes and policy.enrolment_key is None:
        raise PolicyError(f"policy: mode {MODE_DISTRIBUTED} needs an enrolment_key, which certifies the devices")
    return policy


def _purpose(fields: _Fields) -> PurposeLimits:
    contributions = fields.take("contributions")
    if not isinstance(contributions, dict) or not contributions:
        raise PolicyError(f"{fields.where}: contributions: expected a mapping that is not empty")
    limits = PurposeLimits(
        rho=fields.number("rho", 0.0, 1000.0),
        participations=fields.integer("participations", 1, 100_000),
        separation_s=fields.integer("separation_s", 0, 1 << 31),
        contributions={
            str(name): _contribution(_Fields(f"{fields.where}.contributions.{name}", body))
            for name, body in contributions.items()
        },
    )
    fields.done()
    return limits


def _contribution(fields: _Fields) -> ContributionLimits:
    local = fields.take("local")
    limits = ContributionLimits(
        version=fields.integer("version", 1, 1_000_000),
        max_dimension=fields.integer("max_dimension", 1, 1 << 22),
        clip_norm=fields.number("clip_norm", 0.0, 1e6),
        noise_multiplier=fields.number("noise_multiplier", 0.0, 1e5),
        min_survivors=fields.integer("min_survivors", 1, 1_000_000),
        local=None if local is None else _local(_Fields(f"{fields.where}.local", local)),
        health_dimension=fields.integer("health_dimension", 0, 1 << 16),
    )
    fields.done()
    return limits


def _local(fields: _Fields) -> LocalTraining:
    try:
        local = LocalTraining(
            max_grad_norm=fields.number("max_grad_norm", 0.0, 1e6),
            expected_batch=fields.integer("expected_batch", 1, 1_000_000),
            sample_rate=fields.number("sample_rate", 0.0, 1.0),
            noise_multiplier=fields.number("noise_multiplier", 0.0, 1e6, above=False),
        )
    except WireError as error:
        raise PolicyError(f"{fields.where}: {error}") from error
    fields.done()
    return local


def _key(where: str, text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise PolicyError(f"{where}: expected 64 hexadecimal digits")
    return raw


def _iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
