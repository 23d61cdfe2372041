"""A thread that asks every minute whether something is to be said: for a program that has no scheduler of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from edge_client.delivering import Delivering
from shared_models.errors import ConfigError, StoreClosedError, TacitError

EVERY_S = 60.0
_log = logging.getLogger(__name__)


class DeliveryTicks:
    """Ticks of one room. A context manager, or `start` and `stop`; it ends by itself when the store is closed."""

    def __init__(
        self,
        room: Delivering,
        *,
        every_s: float = EVERY_S,
        context: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        """`context` gives what `Delivering.tick` takes. Raises ConfigError."""
        if isinstance(every_s, bool) or not isinstance(every_s, int | float) or not 0.0 < every_s <= 86_400.0:
            raise ConfigError(f"every_s is {str(every_s)[:40]!r}, expected seconds up to a day")
        self._room, self._every_s, self._context = room, float(every_s), context
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> DeliveryTicks:
        """Twice is fine."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tacit-delivery-ticks", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Returns when a tick that is under way has ended, after ten seconds at the latest. Twice is fine."""
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(10.0)

    def __enter__(self) -> DeliveryTicks:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._room.tick(context=None if self._context is None else self._context())
            except StoreClosedError:
                return
            except TacitError as error:
                _log.warning("a tick of deliveries failed: %s", type(error).__name__)
            except Exception as error:  # noqa: BLE001 - the app's context; the next minute may be better
                _log.warning("the context of deliveries failed: %s", type(error).__name__)
