"""How a device reaches its fleet: address, trust anchor, its own key, the limits on what it accepts. Light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from shared_models.errors import ConfigError

MIN_HEARTBEAT_S = 10.0
"""Flower refuses shorter intervals. A node counts as offline two intervals after its last heartbeat."""

MAX_HEARTBEAT_S = 1800.0


class FleetState(StrEnum):
    """Where a node stands."""

    CONNECTING = "connecting"
    """Not there yet, or the link was lost: it is retried with back-off for as long as the node runs."""
    READY = "ready"
    BUSY = "busy"
    """Answering a message."""
    STOPPED = "stopped"
    REFUSED = "refused"
    """The aggregator does not accept this key; retrying would not help."""


@dataclass(frozen=True)
class FleetConfig:
    """One device's way to its fleet. Raises ConfigError for values that cannot work."""

    address: str
    """HOST:PORT of the aggregator; TLS always."""
    ca_pem: bytes
    """The only certificate authority that is trusted for it."""
    node_key_pem: bytes = field(repr=False)
    """P-384 private key, PEM (see `new_node_key`)."""
    heartbeat_interval_s: float = 30.0
    poll_interval_s: float = 3.0
    """The longest pause between two looks for work, ± 20 %; shorter ones follow a message (`node.SOON_S`)."""
    send_grid_s: float = 1.0
    """Answers leave at whole multiples of this after their message was received, refusals too: how long a device computed shows
    to the grid only. 0 sends at once."""
    contribution_grid_s: float = 10.0
    """The same for contributions, which take longer with more examples: longer than training takes, so that all devices answer
    equally long after they were asked, whatever they hold and whether or not they refuse."""
    request_timeout_s: float = 20.0
    """For a whole request with its answer."""
    max_object_bytes: int = 16 * 1024 * 1024
    max_message_bytes: int = 64 * 1024 * 1024
    """All objects of one message together."""
    log_level: str = "WARNING"

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if (
            not host
            or not port.isascii()
            or not port.isdigit()
            or not 0 < int(port) < 65536
            or set(host) & set("/@?# ")
        ):
            raise ConfigError(f"fleet address is {self.address[:200]!r}, expected HOST:PORT")
        if b"BEGIN CERTIFICATE" not in self.ca_pem:
            raise ConfigError("the fleet's certificate authority is not a PEM certificate")
        if b"PRIVATE KEY" not in self.node_key_pem:
            raise ConfigError("the node key is not a PEM private key")
        if not MIN_HEARTBEAT_S <= self.heartbeat_interval_s <= MAX_HEARTBEAT_S:
            raise ConfigError(
                f"heartbeat_interval_s is {self.heartbeat_interval_s}, expected {MIN_HEARTBEAT_S} to {MAX_HEARTBEAT_S}"
            )
        for name in ("send_grid_s", "contribution_grid_s"):
            if not 0 <= getattr(self, name) <= 60:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 to 60")
        for name in ("poll_interval_s", "request_timeout_s", "max_object_bytes", "max_message_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")


def new_node_key() -> tuple[bytes, bytes]:
    """A fresh P-384 key for a device: (private key, public key), both PEM. The public one is what gets enrolled."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public
