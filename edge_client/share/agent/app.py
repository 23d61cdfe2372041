"""The ClientApp for a stock Flower SuperNode, for managed fleets: `--node-config 'home="DIR" key-file="FILE"'`.

Outside law 2: a stock SuperNode also executes whatever app the SuperLink names. The device's gate still decides what this app
contributes, and the store must not be open elsewhere at the same time.
"""

from __future__ import annotations

import threading
from pathlib import Path

from flwr.app import Context

from edge_client.client import EdgeClient
from edge_client.share.agent.client_app import make_client_app
from edge_client.share.port import DevicePort
from shared_models.errors import ConfigError

_ports: dict[str, DevicePort] = {}
_lock = threading.Lock()


def _port_for(context: Context) -> DevicePort:
    """One open store per home, for the life of this process."""
    home, key_file = context.node_config.get("home"), context.node_config.get("key-file")
    if not isinstance(home, str) or not isinstance(key_file, str):
        raise ConfigError('a stock SuperNode needs --node-config with home="DIR" and key-file="FILE"')
    with _lock:
        if home not in _ports:
            key = bytes.fromhex(Path(key_file).read_text(encoding="ascii").strip())
            _ports[home] = EdgeClient.open(home, key=key).device_port()
        return _ports[home]


app = make_client_app(_port_for)
