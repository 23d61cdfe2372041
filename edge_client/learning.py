"""Understanding with what the user has taught, and the teaching: kept with consent to `personal-learning` only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edge_client.answer.feedback import (
    KEPT,
    KEPT_AS_PHRASE,
    NO_CONSENT,
    NOT_AN_INTENT,
    FeedbackResult,
    resolve_intent,
    words_of,
)
from edge_client.answer.respond import TOLD_BEFORE, Reply
from edge_client.bundles import ActiveBundle
from edge_client.held_models import HeldModels
from edge_client.know.consent import Consent
from edge_client.know.examples import ACCEPTED, MEANT, Examples
from edge_client.know.outcomes import Outcomes
from edge_client.know.own_intents import OwnIntents
from edge_client.know.store import Store
from edge_client.understand.intent import IntentModel
from shared_models.errors import ConsentError, StoreWriteError, TextError
from shared_models.intents import Recognition
from shared_models.purposes import INTENT_MODEL, PERSONAL_LEARNING
from shared_models.text_encoder import DIMENSION, clean_text

_log = logging.getLogger(__name__)


class Learning:
    """The user's lessons of one store, and what they make of a text. Thread-safe by the store's lock."""

    def __init__(
        self,
        store: Store,
        examples: Examples,
        own: OwnIntents,
        consent: Consent,
        held: HeldModels,
        active: Callable[[], ActiveBundle],
        corrected: Callable[[object, str], None] | None = None,
    ) -> None:
        """`active`: the bundle in use, or an error. `corrected` is told what the user said was meant."""
        self._corrected = corrected
        self.outcomes: Outcomes | None = None
        """Where it is counted that a turn was wrong, as the owner has it."""
        self._store, self._consent, self._held, self._active = store, consent, held, active
        self.examples, self.own = examples, own
        # The encoder has the vectors of what was said at hand, by the words.
        consent.when_narrowed(held.forget_texts)

    @property
    def allowed(self) -> bool:
        """True if what was learned may be used now: a restriction or an objection keeps it, unused."""
        return self._consent.is_granted(PERSONAL_LEARNING.name)

    # -- understanding ----------------------------------------------------------------------------------------------

    @property
    def model(self) -> IntentModel:
        """With the user's own intents, if they may be used."""
        with self._store.lock:
            return self._held.model(self._active(), with_own=self.allowed)

    def understand(self, text: str) -> tuple[Recognition, str]:
        """What `text` means; the second value is TOLD_BEFORE if the user has said so before. Raises TextError."""
        clean = clean_text(text)
        with self._store.lock:
            bundle = self._active()
            example = self.examples.find(clean) if clean and self.allowed else None
            if example is not None and (example.intent in bundle.manifest.labels or example.intent in self.own):
                own = example.intent not in bundle.manifest.labels
                version = bundle.manifest.version
                return Recognition(clean, example.intent, 1.0, (), False, version, own), TOLD_BEFORE
            model = self.model
        return model.recognize(clean), ""

    def intents(self) -> dict[str, str]:
        """All intents that may be used now, the user's own at the end: name -> plain words."""
        with self._store.lock:
            words = self._held.words(self._active())
            own = self.own.names() if self.allowed else ()
            return {name: words.label(name) for name in (*self._active().manifest.labels, *own)}

    # -- lessons ----------------------------------------------------------------------------------------------------

    def feedback(self, text: str | Recognition | Reply, intent: str, own: bool = True) -> FeedbackResult:
        """`EdgeClient.feedback`."""
        said = words_of(text)
        with self._store.lock:
            known = self.intents() if own else self._active().manifest.labels
            name = resolve_intent(intent, known, self._active().intent_labels)
            if self._corrected is not None:
                self._corrected(text, name)
            self._count_correction(text, name)
            return self._keep(said, name, MEANT)

    def _count_correction(self, said: str | Recognition | Reply, meant: str) -> None:
        """A turn that was counted as right was not. Of a text alone nobody knows whether there was such a turn."""
        found = said.recognition if isinstance(said, Reply) else said
        if self.outcomes is None or not isinstance(found, Recognition) or found.intent == meant:
            return
        language = {"language": said.language} if isinstance(said, Reply) else {}
        with self._store.transaction():
            self.outcomes.record("declined" if found.out_of_scope else "right", -1, **language)
            self.outcomes.record("corrected", **language)

    def accept(self, recognition: Recognition | Reply) -> FeedbackResult:
        """`EdgeClient.accept`."""
        found = recognition.recognition if isinstance(recognition, Reply) else recognition
        if not isinstance(found, Recognition):
            raise TextError(f"expected a Recognition or a Reply, got {type(found).__name__}")
        with self._store.lock:
            if found.out_of_scope or found.intent not in self.intents():
                return FeedbackResult(found.intent, False, NOT_AN_INTENT, len(self.examples))
            return self._keep(words_of(found), found.intent, ACCEPTED)

    def choice(self, text: str, intent: str) -> None:
        """The user has said in a conversation what a text means."""
        try:
            self.feedback(text, intent)
        except StoreWriteError as error:
            # The user is waiting for an answer, not for the disk; status() and doctor have the words for it.
            _log.warning("a choice could not be kept: %s", type(error).__name__)

    def define(self, name: str, phrases: Sequence[str]) -> int:
        """`EdgeClient.define_intent`."""
        with self._store.lock:
            self.require_consent()
            manifest = self._active().manifest
            count = self.own.define(name, phrases, self._embed, manifest.encoder_sha256, manifest.labels)
            self._held.drop_model()
            return count

    def remove(self, name: str) -> None:
        """`EdgeClient.remove_intent`."""
        with self._store.lock, self._store.transaction():
            self.own.remove(name)
            self.examples.forget_intent(name)
            self._held.drop_model()

    def training_examples(self) -> tuple[npt.NDArray[np.float32], list[str]]:
        """`EdgeClient.training_examples`."""
        with self._store.lock:
            granted = all(self._consent.is_granted(purpose.name) for purpose in (PERSONAL_LEARNING, INTENT_MODEL))
            if not granted or not len(self.examples):
                return np.empty((0, DIMENSION), np.float32), []
            return self.examples.matrix(self._embed, self._active().manifest.encoder_sha256, DIMENSION)

    def require_consent(self) -> None:
        """Raises ConsentError without consent to `personal-learning`."""
        if not self._consent.is_granted(PERSONAL_LEARNING.name):
            raise ConsentError(
                f"the user has not allowed “{PERSONAL_LEARNING.title.lower()}”: grant {PERSONAL_LEARNING.name!r} first"
            )

    def clear(self) -> None:
        """Erase all lessons, inside the transaction of a withdrawal."""
        self.examples.clear()
        self.own.clear()
        self._held.drop_model()

    def _keep(self, text: str, intent: str, how: str) -> FeedbackResult:
        """Keep `text` as an example of `intent`, or as a phrase of an own one."""
        if not self._consent.is_granted(PERSONAL_LEARNING.name):
            return FeedbackResult(intent, False, NO_CONSENT, len(self.examples))
        manifest = self._active().manifest
        if intent not in manifest.labels:
            with self._store.transaction():
                self.examples.forget_text(text)
                self.own.define(intent, [text], self._embed, manifest.encoder_sha256, manifest.labels)
            self._held.drop_model()
            return FeedbackResult(intent, True, KEPT_AS_PHRASE, len(self.examples))
        self.examples.keep(text, intent, how, self._embed(text), manifest.encoder_sha256)
        return FeedbackResult(intent, True, KEPT, len(self.examples))

    def _embed(self, text: str) -> npt.NDArray[np.float32]:
        return self._held.encoder(self._active()).encode_one(text)
