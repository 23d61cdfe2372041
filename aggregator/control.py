"""What operators ask of a SuperLink, by its Control API on loopback: enrol nodes, count them, submit and follow runs.

The calls behind `flwr supernode register` and `flwr run`, without their command line: no configuration file, no prompts.
Nothing here reaches the SuperLink from anywhere but its own machine.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab

from aggregator.certificates import check_node_public_key
from shared_models.errors import FleetError, RoundError

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")
RunValue = str | int | float | bool


@dataclass(frozen=True)
class FleetApp:
    """A run to submit: code that is installed already, named, never shipped.

    The bundle that Flower wants (FAB) holds this description only. `client` is for stock SuperNodes; embedded agents ignore it.
    """

    server: str = "aggregator.server_app:app"
    client: str = "edge_client.share.agent.app:app"
    config: Mapping[str, RunValue] = field(default_factory=dict)
    """Becomes `context.run_config`; stock SuperNodes can read it."""

    def bundle(self) -> bytes:
        """The FAB."""
        description = {
            "project": {
                "name": "tacit-fleet",
                "version": "1.0.0",
                "license": {"text": "Apache-2.0"},
                "dependencies": [],
            },
            "tool": {
                "flwr": {
                    "app": {
                        "publisher": "tacit",
                        "components": {"serverapp": self.server, "clientapp": self.client},
                        "config": dict(self.config),
                    }
                }
            },
        }
        content, _ = build_fab_from_files({"pyproject.toml": tomli_w.dumps(description).encode()})
        return content


@dataclass(frozen=True)
class NodeCounts:
    """How many devices there are; which ones is nobody's business."""

    enrolled: int
    online: int


@dataclass(frozen=True)
class RunState:
    """Where a run stands."""

    run_id: int
    status: str
    """`pending`, `starting`, `running` or `finished`."""
    outcome: str
    """`completed`, `failed` or `stopped` once it has finished."""
    details: str
    """Why it failed."""

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def completed(self) -> bool:
        return self.finished and self.outcome == "completed"


class FleetControl:
    """A client of one SuperLink's Control API. All methods raise FleetError if it cannot be reached or says no."""

    def __init__(self, address: str, authority_pem: bytes, *, timeout_s: float = 20.0) -> None:
        """`address` is HOST:PORT on loopback."""
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(cadata=authority_pem.decode("ascii"))
        self._client = ControlHttpClient(f"https://{address}", verify=trust, timeout=timeout_s)
        self._client._client.close()
        self._client._client = httpx.Client(verify=trust, timeout=timeout_s, follow_redirects=False, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> FleetControl:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- nodes ----------------------------------------------------------------------------------------------------

    def register_node(self, public_key_pem: bytes) -> int:
        """Enrol a node by its P-384 public key, PEM; returns its node id. Raises ConfigError for another kind of key."""
        key = check_node_public_key(public_key_pem)
        return self._call(self._client.RegisterNode, RegisterNodeRequest(public_key=key), "enrol a node").node_id

    def unregister_node(self, node_id: int) -> None:
        """Take a node out of the fleet for good: its key is never accepted again."""
        self._call(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id), "remove a node")

    def node_id(self, public_key_pem: bytes) -> int | None:
        """Id of the enrolled node with this key."""
        key = check_node_public_key(public_key_pem)
        for node in self._call(self._client.ListNodes, ListNodesRequest(), "list nodes").nodes_info:
            if node.public_key == key and node.status != "unregistered":
                return int(node.node_id)
        return None

    def nodes(self) -> NodeCounts:
        answer = self._call(self._client.ListNodes, ListNodesRequest(), "list nodes")
        known = [node for node in answer.nodes_info if node.status != "unregistered"]
        return NodeCounts(len(known), sum(node.status == "online" for node in known))

    # -- runs -----------------------------------------------------------------------------------------------------

    def start_run(self, app: FleetApp) -> int:
        """Submit a run; returns its id."""
        content = app.bundle()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        answer = self._call(self._client.StartRun, StartRunRequest(fab=fab_to_proto(fab)), "start a run")
        if not answer.HasField("run_id"):
            raise FleetError("the SuperLink did not start the run; its log says why")
        return answer.run_id

    def run(self, run_id: int) -> RunState:
        """Raises RoundError if there is no such run."""
        try:
            answer = self._call(self._client.ListRuns, ListRunsRequest(run_id=run_id), "look up a run")
        except FleetError as error:
            cause = error.__cause__
            if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.NOT_FOUND:
                raise RoundError(f"there is no run {run_id}") from error
            raise
        status = answer.run_dict[run_id].status
        return RunState(run_id, status.status, status.sub_status, status.details)

    def runs(self) -> list[RunState]:
        """All runs, newest first."""
        answer = self._call(self._client.ListRuns, ListRunsRequest(), "list runs")
        newest_first = sorted(answer.run_dict.values(), key=lambda run: run.pending_at, reverse=True)
        return [
            RunState(run.run_id, run.status.status, run.status.sub_status, run.status.details) for run in newest_first
        ]

    def wait_for_run(
        self,
        run_id: int,
        timeout_s: float,
        *,
        poll_s: float = 0.5,
        on_state: Callable[[RunState], None] | None = None,
    ) -> RunState:
        """Wait until the run has finished. Raises RoundError after `timeout_s`; the run then goes on."""
        give_up_s = time.monotonic() + timeout_s
        last: RunState | None = None
        while True:
            state = self.run(run_id)
            if on_state and state != last:
                on_state(state)
            if state.finished:
                return state
            if time.monotonic() > give_up_s:
                raise RoundError(f"run {run_id} is still {state.status} after {timeout_s} s")
            last = state
            time.sleep(poll_s)

    def stop_run(self, run_id: int) -> None:
        self._call(self._client.StopRun, StopRunRequest(run_id=run_id), "stop a run")

    def logs(self, run_id: int) -> Iterator[str]:
        """What the run's ServerApp prints, as it comes, until the run ends."""
        try:
            for part in self._client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=0.0)):
                yield part.log_output
        except (httpx.HTTPError, ValueError) as error:
            raise FleetError(f"the run's log cannot be read: {type(error).__name__}") from error

    def _call(self, method: Callable[[_Request], _Answer], request: _Request, what: str) -> _Answer:
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            raise FleetError(f"the SuperLink did not {what}: {_reason(error.response)}") from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise FleetError(
                f"cannot {what}: the SuperLink does not answer ({type(error).__name__}); is `tacit-fleet serve` running?"
            ) from error


def control_of(directory: Path) -> FleetControl:
    """Control of the SuperLink that serves `directory` now. Raises FleetError if none does."""
    from aggregator.superlink import served_address

    return FleetControl(served_address(directory), (directory / "ca.pem").read_bytes())


def _reason(response: httpx.Response) -> str:
    try:
        body = response.json()
        return str(body.get("message") or body.get("detail") or body)[:300]
    except (ValueError, AttributeError):
        return f"HTTP status {response.status_code}"
