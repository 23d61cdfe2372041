"""When the night is: the user's schedule says so (share/scheduler.py, the same rules as for rounds), once in NIGHT_EVERY_S.

A thread of whoever owns the store (the agent, a sidecar). It leaves off at once when the user is back, and tries again later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_client.improve.nightly import Nightly, NightReport
from edge_client.share.agent.training import TrainingProcess
from edge_client.share.scheduler import Outcome, Scheduler
from shared_models.errors import StoreClosedError, TacitError
from shared_models.purposes import PERSONAL_LEARNING

if TYPE_CHECKING:
    from edge_client.client import EdgeClient

NIGHT_EVERY_S = 20 * 3600.0
"""Less than a day: whoever goes to bed earlier today than yesterday has a night all the same."""
AGAIN_AFTER_S = 1800.0
"""After a night that was cut short or failed."""
LOOK_EVERY_S = 30.0


class NightWatch:
    """From `start` to `stop`. `tell` gets one line for each night, from the watch's own thread."""

    def __init__(
        self,
        client: EdgeClient,
        scheduler: Scheduler,
        *,
        tell: Callable[[str], None],
        training: TrainingProcess | None = None,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._client, self._scheduler, self._tell = client, scheduler, tell
        self._training = training or TrainingProcess()
        self._look_every_s = look_every_s
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="night-watch", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End a night that is under way, and the watch. Twice is fine."""
        self._over.set()
        self._training.abort()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def night_if_due(self) -> NightReport | None:
        """A night, if it is time for one and the schedule allows it now; None otherwise. Raises StoreError."""
        now_s = float(self._client.config.clock())
        if now_s < self._client.improvement.next_night_s(NIGHT_EVERY_S, AGAIN_AFTER_S):
            return None
        if not self._scheduler.may_run(PERSONAL_LEARNING.name).allowed:
            return None
        return self._night()

    def _night(self) -> NightReport:
        self._scheduler.started(PERSONAL_LEARNING.name)
        self._training.begin()
        begun_s, wanted = time.monotonic(), threading.Event()

        def abort() -> None:
            wanted.set()
            self._training.abort()

        with self._scheduler.watch(abort) as watch:
            report = Nightly(
                self._client,
                self._training.tune,
                stopping=lambda: wanted.is_set() or self._over.is_set(),
                abort=self._training.abort,
            ).run()
        failed = any(step.outcome == "failed" for step in report.steps)
        if report.stopped:
            self._scheduler.ended(PERSONAL_LEARNING.name, Outcome.ABORTED, watch.reasons or ("the agent is ending",))
        else:
            # Its length is no round's: what answers are held by is not learned from nights.
            self._scheduler.ended(PERSONAL_LEARNING.name, Outcome.FAILED if failed else Outcome.TRAINED)
        said = "; ".join(f"{step.name}: {step.words}" for step in report.steps if step.outcome != "nothing to do")
        self._tell(f"night of {time.monotonic() - begun_s:.0f} s: {said or 'nothing to do'}")
        return report

    def _watch(self) -> None:
        while not self._over.wait(self._look_every_s):
            try:
                self.night_if_due()
            except StoreClosedError:
                return
            except TacitError as error:
                self._tell(f"night failed: {type(error).__name__}")
