"""What the user teaches: examples and intents of the user's own, kept with consent to `personal-learning` only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edge_client.answer.feedback import KEPT, KEPT_AS_PHRASE, NO_CONSENT, FeedbackResult
from edge_client.know.consent import Consent
from edge_client.know.examples import Examples
from edge_client.know.own_intents import OwnIntents
from edge_client.know.store import Store
from shared_models.bundle import Manifest
from shared_models.errors import ConsentError
from shared_models.purposes import PERSONAL_LEARNING

Embed = Callable[[str], npt.NDArray[np.float32]]


class Learning:
    """The user's lessons of one store. The owner holds the lock."""

    def __init__(self, store: Store, examples: Examples, own: OwnIntents, consent: Consent) -> None:
        self._store, self._consent = store, consent
        self.examples, self.own = examples, own

    @property
    def allowed(self) -> bool:
        """True if what was learned may be used now: a restriction or an objection keeps it, unused."""
        return self._consent.is_granted(PERSONAL_LEARNING.name)

    def keep(self, text: str, intent: str, how: str, manifest: Manifest, embed: Embed) -> tuple[FeedbackResult, bool]:
        """Keep `text` as an example of `intent`, or as a phrase of an own one (then the second value is True)."""
        if not self._consent.is_granted(PERSONAL_LEARNING.name):
            return FeedbackResult(intent, False, NO_CONSENT, len(self.examples)), False
        if intent not in manifest.labels:
            with self._store.transaction():
                self.examples.forget_text(text)
                self.own.define(intent, [text], embed, manifest.encoder_sha256, manifest.labels)
            return FeedbackResult(intent, True, KEPT_AS_PHRASE, len(self.examples)), True
        self.examples.keep(text, intent, how, embed(text), manifest.encoder_sha256)
        return FeedbackResult(intent, True, KEPT, len(self.examples)), False

    def require_consent(self) -> None:
        """Raises ConsentError without consent to `personal-learning`."""
        if not self._consent.is_granted(PERSONAL_LEARNING.name):
            raise ConsentError(
                f"the user has not allowed “{PERSONAL_LEARNING.title.lower()}”: grant {PERSONAL_LEARNING.name!r} first"
            )

    def clear(self) -> None:
        self.examples.clear()
        self.own.clear()
