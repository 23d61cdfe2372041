"""What Flower and Ray must be told so that they report to nobody and fetch nothing: for every process that loads them."""

from __future__ import annotations

from collections.abc import Mapping

TELEMETRY_OFF: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_TELEMETRY_LOGGING": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment variables of a child process."""
