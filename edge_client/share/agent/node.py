"""A fleet node inside another process: activate, heart-beat, look for messages, stop. What is done with one is in `exchange`.

Only the handler that was compiled in answers: code is never fetched, imported or executed, and nothing here ends or signals
the process. Logs hold message ids and counts only.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node

from edge_client.share.agent.exchange import Backoff, Handler, MessageExchange
from edge_client.share.agent.fleet import FleetConfig, FleetState
from edge_client.share.agent.fleet_client import BoundedFleetClient, FleetStatusError
from shared_models.errors import FleetError, FleetRefusedError

StateCallback = Callable[[FleetState, FleetError | None], None]
logger = logging.getLogger(__name__)

SOON_S = 0.25
"""The first pause after a message: a round asks again as soon as the last device has answered. Each pause is twice the one
before, up to the usual one, so that waiting costs a round a part of what it waited for anyway."""

OFFLINE_SEEN_S = 4.0
"""How long a node whose process was killed stays offline at least, so that a waiting round sees it."""


class NotActivatedError(FleetError):
    """The key is not enrolled, or its earlier process still counts as online."""


class FleetNode:
    """One node. `start()` runs it in a thread, `run()` in the caller's.

    `on_state` is called from the node's threads at each change, with the error that led to it, if any; `on_reply` once for
    each reply, with whether the aggregator has it.
    Raises ConfigError if key or certificate cannot be used; after that, failures are states and never exceptions.
    """

    def __init__(
        self,
        config: FleetConfig,
        handler: Handler,
        on_state: StateCallback | None = None,
        on_reply: Callable[[bool], None] | None = None,
    ) -> None:
        self._config = config
        self._on_state = on_state
        self._client = BoundedFleetClient(config)
        self._stop = threading.Event()
        self._exchange = MessageExchange(self._client, config, handler, self._stop, on_reply)
        self._beat_now = threading.Event()
        self._pause_s = config.poll_interval_s
        self._node: Node | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._state = FleetState.CONNECTING
        self._error: FleetError | None = None

    @property
    def state(self) -> FleetState:
        return self._state

    @property
    def error(self) -> FleetError | None:
        """Why the node is `connecting` or `refused`."""
        return self._error

    def start(self) -> None:
        self._thread = threading.Thread(target=self.run, name="fleet-node", daemon=True)
        self._thread.start()

    def stop(self, grace_s: float = 2.0) -> None:
        """End within about `grace_s`, whatever handler or network do; the aggregator is told if it can be reached."""
        self._stop.set()
        self._beat_now.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(grace_s)
            if self._thread.is_alive():
                # The handler or a call holds the loop. The aggregator need not wait two heartbeat intervals for that.
                goodbye = threading.Thread(target=self._deactivate, name="fleet-goodbye", daemon=True)
                goodbye.start()
                goodbye.join(grace_s)
                self._set_state(FleetState.STOPPED)

    def run(self) -> None:
        """Serve until `stop()` or until the aggregator refuses this key."""
        heart = threading.Thread(target=self._beat, name="fleet-heartbeat", daemon=True)
        heart.start()
        backoff = Backoff()
        final, error = FleetState.STOPPED, None
        try:
            while not self._stop.is_set():
                try:
                    self._serve_once()
                    backoff.reset()
                except FleetRefusedError as refusal:
                    final, error = FleetState.REFUSED, refusal
                    return
                except FleetError as failure:
                    self._set_state(FleetState.CONNECTING, failure)
                    waits = isinstance(failure, NotActivatedError)
                    self._stop.wait(self._until_offline_s() if waits else backoff.next_s())
        finally:
            self._stop.set()
            self._beat_now.set()
            self._deactivate()
            heart.join(1.0)
            self._client.close()
            self._set_state(final, error)

    # -- the loop's parts -----------------------------------------------------------------------------------------

    def _serve_once(self) -> None:
        node = self._node or self._activate()
        pulled = self._client.call(self._client.PullMessages, PullMessagesRequest(node=node))
        if self._state is FleetState.CONNECTING:
            self._beat_now.set()
        self._set_state(FleetState.READY)
        if not pulled.messages_list:
            self._stop.wait(self._pause_s * random.uniform(0.8, 1.2))
            self._pause_s = min(2 * self._pause_s, self._config.poll_interval_s)
            return
        self._pause_s = min(SOON_S, self._config.poll_interval_s)
        if len(pulled.messages_list) != len(pulled.message_object_trees):
            raise FleetError("the aggregator's answer cannot be read: messages without their object trees")
        self._set_state(FleetState.BUSY)
        try:
            for message, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
                self._exchange.answer(node, message, tree)
        finally:
            if self._state is FleetState.BUSY:
                self._set_state(FleetState.READY)

    def _activate(self) -> Node:
        request = ActivateNodeRequest(
            public_key=self._client.public_key_pem, heartbeat_interval=self._config.heartbeat_interval_s
        )
        try:
            answer = self._client.call(self._client.ActivateNode, request)
        except FleetStatusError as error:
            if error.status != 412:
                raise
            raise NotActivatedError(
                "the aggregator does not activate this node: it is not enrolled, or an earlier process with the same "
                "key still counts as online"
            ) from error
        self._node = Node(node_id=answer.node_id)
        logger.debug("node activated")
        return self._node

    def _beat(self) -> None:
        wait_s = 0.0
        while True:
            self._beat_now.wait(wait_s or self._next_beat_s())
            self._beat_now.clear()
            if self._stop.is_set():
                return
            wait_s, node = 0.0, self._node
            if node is None:
                continue
            request = SendNodeHeartbeatRequest(node=node, heartbeat_interval=self._config.heartbeat_interval_s)
            try:
                if not self._client.call(self._client.SendNodeHeartbeat, request).success:
                    self._node = None
            except FleetRefusedError:
                logger.debug("heartbeat refused")
            except FleetError as error:
                logger.debug("heartbeat failed: %s", error)
                wait_s = 2.0

    def _until_offline_s(self) -> float:
        """Flower says the same of a key that is unknown and of one whose earlier process still counts as online.

        In the second case nobody must be told too early: as long as the node counts as offline, and only then, the aggregator
        learns that the message which that process had taken is lost.
        """
        return 2 * self._config.heartbeat_interval_s + OFFLINE_SEEN_S

    def _next_beat_s(self) -> float:
        return self._config.heartbeat_interval_s * random.uniform(0.6, 0.8)

    def _deactivate(self) -> None:
        node, self._node = self._node, None
        if node is None:
            return
        try:
            self._client.call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=node.node_id))
        except FleetError as error:
            logger.debug("the aggregator was not told of the end: %s", error)

    def _set_state(self, state: FleetState, error: FleetError | None = None) -> None:
        with self._lock:
            if (state, str(error)) == (self._state, str(self._error)) or self._state is FleetState.STOPPED:
                return
            self._state, self._error = state, error
        logger.debug("node is %s%s", state, f": {error}" if error else "")
        if self._on_state:
            self._on_state(state, error)
