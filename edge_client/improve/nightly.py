"""What a device does at night to be better by day: tune the head, fold in tastes anew, let go of what is old, tidy the store.

Nothing of it leaves the device. Each step is whole or not at all (one transaction at its end), so that a kill at any moment
loses nothing and the next night goes on; a step that fails is told and does not keep the others from being done. The store is
held only to read and to write: a conversation goes on while a head is tuned.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_client.improve.head_tuning import Lessons, features_of, held_out_of, tune
from edge_client.share.port import Tuner
from shared_models.errors import (
    AgentError,
    ContributionError,
    NotTrainedError,
    StoreClosedError,
    StoreWriteError,
    TacitError,
)
from shared_models.local_tuning import LocalTuning

if TYPE_CHECKING:
    from edge_client.client import EdgeClient
    from edge_client.know.examples import Example
    from edge_client.know.vectors import Vector
    from shared_models.intent_head import HeadSession
    from shared_models.phrases import PublicPhrases
    from shared_models.text_encoder import TextEncoder

LOOK_EVERY_S = 0.1
"""Between two looks for the user's return while a head is tuned."""
TUNE_AFTER = 5
"""New examples after which the head is tuned anew; a new release of it, or drift, needs none."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One thing of a night."""

    name: str
    outcome: str
    """`done`, `nothing to do`, `stopped` (the user is back) or `failed`."""
    words: str
    """Plain, without any text of the user's."""
    counts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NightReport:
    """What was done in one night."""

    at_s: float
    steps: tuple[Step, ...]

    @property
    def stopped(self) -> bool:
        return any(step.outcome == "stopped" for step in self.steps)

    def document(self) -> dict[str, Any]:
        """Plain JSON, without any text of the user's."""
        return {
            "at_s": self.at_s,
            "steps": [
                {"name": step.name, "outcome": step.outcome, "words": step.words, "counts": dict(step.counts)}
                for step in self.steps
            ],
        }


class Nightly:
    """The nights of one client. One at a time."""

    def __init__(
        self,
        client: EdgeClient,
        tuner: Tuner,
        *,
        tuning: LocalTuning | None = None,
        stopping: Callable[[], bool] = lambda: False,
        abort: Callable[[], None] = lambda: None,
    ) -> None:
        """`tuner` trains (share.agent.training.TrainingProcess.tune); `stopping`: the user is back, leave off at once.

        `abort` ends what `tuner` does, from another thread: when the user withdraws.
        """
        self._client, self._tuner, self._stopping, self._abort = client, tuner, stopping, abort
        self._tuning = tuning or LocalTuning()

    def run(self) -> NightReport:
        """Do what there is to do, the quick things first. Raises StoreClosedError only."""
        steps = []
        for name, step in (
            ("old events", self._expire),
            ("tastes", self._refold),
            ("intent head", self._tune),
            ("store", self._compact),
        ):
            if self._stopping():
                steps.append(Step(name, "stopped", "the device is wanted"))
                break
            steps.append(self._done(name, step))
        report = NightReport(float(self._client.config.clock()), tuple(steps))
        try:
            self._client.improvement.night_over(report)
        except StoreWriteError as error:
            _log.warning("that there was a night could not be kept: %s", type(error).__name__)
        return report

    def _done(self, name: str, step: Callable[[], Step]) -> Step:
        try:
            return step()
        except StoreClosedError:
            raise
        except NotTrainedError as stopped:
            return Step(name, "stopped", str(stopped))
        except TacitError as error:
            if self._stopping():
                return Step(name, "stopped", "the device is wanted")
            _log.warning("at night, %s failed: %s", name, type(error).__name__)
            return Step(name, "failed", f"{type(error).__name__}: {error}"[:300])

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _expire(self) -> Step:
        now_s = float(self._client.config.clock())
        events, values = self._client.capture.expire(now_s), self._client.profile.expire(now_s)
        counts = {"events": events, "values": values}
        return _step(
            "old events", counts, f"{events} events and {values} values of the profile had outlived their time"
        )

    def _refold(self) -> Step:
        counts = self._client.improvement.refold()
        gone = sum(counts.values())
        return _step(
            "tastes", counts, f"{gone} signals and suggestions were too old to say anything; tastes are of today"
        )

    def _compact(self) -> Step:
        with self._client.store.lock:
            self._client.improvement.watch.keep()
            self._client.store.compact()
        return Step("store", "done", "compacted")

    def _tune(self) -> Step:
        ready = self._client.improvement.ready_to_tune(TUNE_AFTER)
        if isinstance(ready, str):
            return Step("intent head", "nothing to do", ready)
        lessons = self._lessons(ready.head, ready.encoder, ready.examples, ready.phrases)
        if not lessons.enough:
            return Step("intent head", "nothing to do", "too few examples to learn from and to measure")
        improvement = self._client.improvement
        try:
            with improvement.tuning(ready, self._abort):
                change, measured = tune(ready.head, lessons, self._tuner, self._tuning, in_force=ready.in_force)
        except (AgentError, ContributionError):
            if not improvement.still_wanted(ready):
                return _WITHDRAWN
            if self._stopping():
                raise NotTrainedError("the device is wanted") from None
            raise
        used = improvement.take(ready, change, measured.document(), self._tuning)
        if not used and not improvement.still_wanted(ready):
            # What was measured was measured on words that are erased.
            return _WITHDRAWN
        before, after, counts = measured.before, measured.after, measured.document()
        if not used:
            words = "the model in use has changed meanwhile; tuned anew next night"
        elif change is None:
            words = "tuning found nothing that is better and forgets nothing: the published head stays"
        else:
            words = (
                f"your own held-out words: {before.own} of {measured.held_out} right before, {after.own} now; "
                f"public phrases {before.public} of {measured.public}, {after.public} now"
            )
        return Step("intent head", "done", words, counts)

    def _lessons(
        self,
        head: HeadSession,
        encoder: TextEncoder,
        examples: Sequence[tuple[Example, Vector]],
        phrases: PublicPhrases,
    ) -> Lessons:
        place = {label: number for number, label in enumerate(head.labels)}
        known = [(example, vector) for example, vector in examples if example.intent in place]
        public = [(text, place[name]) for name, texts in phrases.intents.items() if name in place for text in texts]
        return Lessons(
            own=features_of([vector for _, vector in known], head),
            own_classes=np.array([place[example.intent] for example, _ in known], np.int64),
            own_held_out=held_out_of([example.text for example, _ in known]),
            public=features_of([self._encoded(encoder, text) for text, _ in public], head),
            public_classes=np.array([number for _, number in public], np.int64),
            # Every other phrase, within each intent: they stand in the file in the order of their intents.
            public_held_out=np.arange(len(public)) % 2 == 1,
            outside=features_of([self._encoded(encoder, text) for text in phrases.out_of_scope], head),
            outside_held_out=np.arange(len(phrases.out_of_scope)) % 2 == 1,
        )

    def _encoded(self, encoder: TextEncoder, text: str) -> Vector:
        if self._stopping():
            raise NotTrainedError("the device is wanted")
        return encoder.encode_one(text)


def tonight(client: EdgeClient, stopping: Callable[[], bool]) -> NightReport:
    """One night, the tuning in a process of its own that is killed as soon as `stopping` says so."""
    from edge_client.share.agent.training import TrainingProcess

    training, over = TrainingProcess(), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            if stopping():
                training.abort()
                return

    threading.Thread(target=look, name="night-watch", daemon=True).start()
    try:
        return Nightly(client, training.tune, stopping=stopping, abort=training.abort).run()
    finally:
        over.set()


_WITHDRAWN = Step("intent head", "nothing to do", "the consent to learn from examples was withdrawn meanwhile")


def _step(name: str, counts: Mapping[str, int], words: str) -> Step:
    return Step(name, "done" if any(counts.values()) else "nothing to do", words, counts)
