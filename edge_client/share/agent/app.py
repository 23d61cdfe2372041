"""The ClientApp for a stock Flower SuperNode, for managed fleets: `--node-config 'home="DIR" key-file="FILE"'`.

Optional: `bundle="DIR_or_URL"`, looked at for a newer policy before each answer. Outside law 2: a stock SuperNode also executes
whatever app the SuperLink names. The device's gate still decides what this app contributes, and the store must not be open
elsewhere at the same time.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from flwr.app import Context

from edge_client.client import EdgeClient
from edge_client.share.agent.client_app import make_client_app
from edge_client.share.device import WatchedPort
from edge_client.share.port import DevicePort
from shared_models.errors import ConfigError

logger = logging.getLogger(__name__)
_ports: dict[str, DevicePort] = {}
_lock = threading.Lock()


def _port_for(context: Context) -> DevicePort:
    """One open store per home, for the life of this process. Raises ConfigError, and what `EdgeClient.open` raises."""
    home, key_file, bundle = (context.node_config.get(name) for name in ("home", "key-file", "bundle"))
    if not isinstance(home, str) or not isinstance(key_file, str):
        raise ConfigError('a stock SuperNode needs --node-config with home="DIR" and key-file="FILE"')
    with _lock:
        if home not in _ports:
            client = EdgeClient.open(home, key=_read_key(Path(key_file)))
            _ports[home] = WatchedPort(client, bundle, logger.info) if isinstance(bundle, str) else client.device_port()
        return _ports[home]


def _read_key(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        key = raw if len(raw) == 32 else bytes.fromhex(raw.decode("ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a key: {type(error).__name__}") from error
    if len(key) != 32:
        raise ConfigError(f"{path}: expected a key of 32 bytes, raw or as 64 hexadecimal digits")
    return key


app = make_client_app(_port_for)
