"""The room of a client that gets better: the user's own head, the watch for drift, and what a night needs of the other rooms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_client.answer.respond import Reply
from edge_client.bundles import ActiveBundle
from edge_client.improve.drift_watch import DriftWatch
from edge_client.improve.personal_head import Array, PersonalHead
from shared_models.bundle import PHRASES_TARGET
from shared_models.intents import Recognition
from shared_models.local_tuning import LocalTuning
from shared_models.phrases import PublicPhrases
from shared_models.purposes import PERSONAL_LEARNING, PERSONALISATION

NIGHTS_TABLE = "nights"
"""When and how it went: kept for no purpose of the user's, as the schedule is."""
PURPOSE_OF: Mapping[str, str] = {
    "old events": PERSONALISATION.name,
    "tastes": PERSONALISATION.name,
    "intent head": PERSONAL_LEARNING.name,
}
"""Step of a night -> the purpose that its words and counts are kept for, since they tell of the user."""

if TYPE_CHECKING:
    from edge_client.held_models import HeldModels
    from edge_client.improve.nightly import NightReport
    from edge_client.know.consent import Consent
    from edge_client.know.examples import Example, Examples
    from edge_client.know.store import Records, Store
    from edge_client.know.vectors import Vector
    from shared_models.intent_head import HeadSession
    from shared_models.text_encoder import TextEncoder


@dataclass(frozen=True, eq=False)
class ReadyToTune:
    """A copy of what a tuning starts from: while it runs the store is not held."""

    bundle: ActiveBundle
    head: HeadSession
    encoder: TextEncoder
    examples: Sequence[tuple[Example, Vector]]
    phrases: PublicPhrases
    reset_s: float
    in_force: Array | None
    """The change of this head that counts now."""
    given_since: float | None = None
    """When the consent to personal learning was given that the examples were kept with; with None nothing is taken."""
    withdrawals: int = 0
    """How often that consent had been withdrawn while this client is open."""


class Improvement:
    """Of one client. Thread-safe by the store's lock."""

    def __init__(
        self,
        store: Store,
        consent: Consent,
        examples: Examples,
        held: HeldModels,
        clock: Callable[[], float],
        active: Callable[[], ActiveBundle],
        refold: Callable[[], Mapping[str, int]],
    ) -> None:
        """`active`: the bundle in use, or an error. `refold`: let tastes be of today; gives how many things were too old."""
        self._store, self._examples, self._held, self._active = store, examples, held, active
        self._refold, self._clock, self._consent = refold, clock, consent
        self._withdrawals = 0
        self._aborts: list[Callable[[], None]] = []
        consent.when_withdrawn(PERSONAL_LEARNING.name, self._withdrawn)
        self.head = PersonalHead(store, consent, clock)
        self.watch = DriftWatch(store, consent, clock)
        held.change_for = self.head.change_for

    # -- what happens by day ------------------------------------------------------------------------------------------

    def turned(self, reply: Reply) -> None:
        """One turn of a conversation was answered."""
        found = reply.recognition
        with self._store.lock:
            self.watch.observe("confidence", 0.0 if found.out_of_scope else min(max(1.0 - found.confidence, 0.0), 1.0))
            self.watch.observe("scope", found.out_of_scope)
            # A turn that nobody corrects is one that was right: it counts now, the correction of a wrong one beside it.
            self.watch.observe("correction", False)

    def corrected(self, said: object, meant: str) -> None:
        """The user has said what was meant; a word that only confirms is no correction."""
        found = said.recognition if isinstance(said, Reply) else said
        if isinstance(found, Recognition) and found.intent == meant:
            return
        with self._store.lock:
            self.watch.observe("correction", True)

    # -- and by night -------------------------------------------------------------------------------------------------

    def refold(self) -> Mapping[str, int]:
        """Tastes from signals as old as they are now; signals too old to say anything go. Raises StoreWriteError."""
        with self._store.lock:
            return self._refold()

    def ready_to_tune(self, after: int) -> ReadyToTune | str:
        """What a tuning starts from, or why there is nothing to tune. Raises ModelError, BundleError, StoreWriteError."""
        with self._store.lock:
            if not self.head.allowed:
                return "the user has not allowed that examples are learned from"
            bundle = self._active()
            last, reset_s = self.head.last_attempt, self.head.reset_s
            count = sum(1 for example in self._examples.all() if example.at_s > reset_s)
            same = last.get("head_sha256") == bundle.manifest.head_sha256
            if same and not self.watch.asks_for_tuning(float(last.get("at_s", 0.0))):
                if count - int(last.get("examples", 0)) < after:
                    return "hardly any new examples since the last tuning"
            elif not count:
                return "there are no examples yet"
            raw = bundle.optional(PHRASES_TARGET)
            if raw is None:
                return "this bundle brings no public phrases, so that nobody could tell what is forgotten"
            encoder = self._held.encoder(bundle)
            found = self._examples.vectors(encoder.encode_one, bundle.manifest.encoder_sha256)
            head = self._held.model(bundle, with_own=True).head
            examples = [(example, vector) for example, vector in found if example.at_s > reset_s]
            in_force = self.head.change_for(head.sha256, len(head.labels), encoder.dimension)
            phrases, since_s = PublicPhrases.from_bytes(raw), self._consent.given_since(PERSONAL_LEARNING.name)
            return ReadyToTune(bundle, head, encoder, examples, phrases, reset_s, in_force, since_s, self._withdrawals)

    @contextlib.contextmanager
    def tuning(self, ready: ReadyToTune, abort: Callable[[], None]) -> Iterator[None]:
        """While a tuning runs: `abort` is called, with the store held, when the consent to it is withdrawn; at once if it was."""
        with self._store.lock:
            self._aborts.append(abort)
            if not self.still_wanted(ready):
                abort()
        try:
            yield
        finally:
            with self._store.lock:
                self._aborts.remove(abort)

    def still_wanted(self, ready: ReadyToTune) -> bool:
        """False if the consent that it began with was withdrawn, even if a new one was given meanwhile, or may not be used."""
        with self._store.lock:
            since_s = self._consent.given_since(PERSONAL_LEARNING.name)
            same = since_s is not None and (since_s, self._withdrawals) == (ready.given_since, ready.withdrawals)
            return same and self.head.allowed

    def _withdrawn(self) -> None:
        self._withdrawals += 1
        for abort in self._aborts:
            abort()

    def take(self, ready: ReadyToTune, change: Array | None, measured: Mapping[str, Any], tuning: LocalTuning) -> bool:
        """Use what came of a tuning, durably; False if consent, the user's word or the release has changed meanwhile.

        Raises StoreWriteError, and then nothing has changed.
        """
        with self._store.lock:
            manifest = self._active().manifest
            changed = manifest.head_sha256 != ready.bundle.manifest.head_sha256 or self.head.reset_s != ready.reset_s
            if changed or not self.still_wanted(ready):
                return False
            with self._store.transaction():
                if change is None:
                    # Neither what was found now nor what was in force is better than the published head.
                    self.head.drop_tuned()
                else:
                    self.head.keep(change, manifest.head_sha256, manifest.version, measured, tuning)
                outcome = "published head stays" if change is None else "in force"
                self.head.attempted(manifest.head_sha256, len(ready.examples), outcome, measured)
            self._held.drop_model()
            return True

    def night_over(self, report: NightReport) -> None:
        """Remember when the last night was and how it went, without any text of the user's. Raises StoreWriteError.

        What a step says of the user is kept for its purpose, and goes with it.
        """
        document = report.document()
        with self._store.transaction():
            for step in document["steps"]:
                purpose = PURPOSE_OF.get(step["name"])
                if purpose is None or step["outcome"] != "done":
                    continue
                said = {"at_s": document["at_s"], "words": step["words"], "counts": step["counts"]}
                step["words"], step["counts"] = "", {}
                if self._consent.is_granted(purpose):
                    self._said(purpose).put(step["name"], said)
            self._store.table(NIGHTS_TABLE).put("last", document)

    def _said(self, purpose: str) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        return self._store.table(f"{NIGHTS_TABLE}-{purpose}", purpose=purpose)

    @property
    def last_night(self) -> dict[str, Any] | None:
        """The report of the last night; None before the first."""
        with self._store.lock:
            last = self._store.table(NIGHTS_TABLE).get("last")
            for step in () if last is None else last["steps"]:
                purpose = PURPOSE_OF.get(step["name"])
                said = None if purpose is None else self._said(purpose).get(step["name"])
                if said is not None and said["at_s"] == last["at_s"]:
                    step["words"], step["counts"] = said["words"], said["counts"]
            return last

    def next_night_s(self, every_s: float, again_after_s: float) -> float:
        """Not before this Unix time. A clock that was set back: from now on, and not from a time to come."""
        last = self.last_night
        if last is None:
            return 0.0
        whole = all(step["outcome"] in ("done", "nothing to do") for step in last["steps"])
        return min(float(last["at_s"]), float(self._clock())) + (every_s if whole else again_after_s)

    def reset(self) -> bool:
        """The user: forget what you have learned of my words. At once and durably; the examples themselves stay.

        True if something was in force. Raises StoreWriteError.
        """
        with self._store.lock:
            there = self.head.reset()
            self._held.drop_model()
            return there

    def document(self) -> dict[str, Any]:
        """What is kept, for the export and the privacy centre."""
        with self._store.lock:
            return {
                "personal_head": self.head.document(),
                "drift": self.watch.document(),
                "last_night": self.last_night,
            }
