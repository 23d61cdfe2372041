"""What the sidecar counts about itself, as Prometheus reads it: requests by route and status, refusals, listeners, state.

No event name, no app name, no time of a single request. What is counted about the *user's* events (edge_client/know/quality.py)
is not here: it may leave the device through the gate only, and a scraper is a way out.
"""

from __future__ import annotations

import threading
from collections import Counter

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("NOT_READY", "READY", "STALE", "ERROR")


class Metrics:
    """Thread-safe totals since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._refusals: Counter[str] = Counter()

    def answered(self, route: str, status: int) -> None:
        """`route` is the template of a route, or `other`: never what was asked for."""
        with self._lock:
            self._requests[route, status] += 1

    def refused(self, why: str) -> None:
        """`why`: host, origin, token, rate or size."""
        with self._lock:
            self._refusals[why] += 1

    def exposition(self, state: str, listeners: int) -> str:
        """The text format 0.0.4."""
        with self._lock:
            requests, refusals = sorted(self._requests.items()), sorted(self._refusals.items())
        lines = [
            "# HELP tacit_sidecar_requests_total Requests answered.",
            "# TYPE tacit_sidecar_requests_total counter",
            *(f'tacit_sidecar_requests_total{{route="{route}",status="{code}"}} {n}' for (route, code), n in requests),
            "# HELP tacit_sidecar_refused_total Requests turned away before they were looked at.",
            "# TYPE tacit_sidecar_refused_total counter",
            *(f'tacit_sidecar_refused_total{{reason="{why}"}} {n}' for why, n in refusals),
            "# HELP tacit_sidecar_listeners Open event streams.",
            "# TYPE tacit_sidecar_listeners gauge",
            f"tacit_sidecar_listeners {listeners}",
            "# HELP tacit_sidecar_state The assistant's lifecycle: 1 for the state that it is in.",
            "# TYPE tacit_sidecar_state gauge",
            *(f'tacit_sidecar_state{{state="{name}"}} {int(name == state)}' for name in STATES),
        ]
        return "\n".join(lines) + "\n"
