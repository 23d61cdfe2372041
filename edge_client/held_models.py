"""What one client holds in memory of its active bundle: wording, encoder, intent model. Not thread-safe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_client.answer.respond import Responder
from edge_client.bundles import ActiveBundle
from edge_client.know.own_intents import OwnIntents

if TYPE_CHECKING:
    from edge_client.understand.intent import IntentModel
    from shared_models.text_encoder import TextEncoder


class HeldModels:
    """Loaded when first needed; the owner gives the active bundle with each call, and drops all when it changes."""

    def __init__(self, own: OwnIntents) -> None:
        self._own = own
        self.drop()

    def drop(self) -> None:
        self._words: Responder | None = None
        self._encoder: TextEncoder | None = None
        self._model: IntentModel | None = None
        self._with_own = False

    def drop_model(self) -> None:
        """The user's own intents have changed."""
        self._model = None

    def words(self, bundle: ActiveBundle) -> Responder:
        if self._words is None:
            self._words = Responder(bundle.templates, bundle.intent_labels)
        return self._words

    def encoder(self, bundle: ActiveBundle) -> TextEncoder:
        """Held from the first text on: who gives feedback only would load 23 MB again for each. Raises ModelError."""
        if self._encoder is None:
            from edge_client.loaded_models import load_encoder

            self._encoder = load_encoder(bundle)
        return self._encoder

    def model(self, bundle: ActiveBundle, *, with_own: bool) -> IntentModel:
        """`with_own`: with the user's own intents. Raises ModelError."""
        if self._model is None or self._with_own != with_own:
            from edge_client.loaded_models import load_head
            from edge_client.understand.intent import IntentModel

            encoder, manifest = self.encoder(bundle), bundle.manifest
            usable = with_own and len(self._own)
            own = self._own.vectors(encoder.encode_one, manifest.encoder_sha256) if usable else {}
            # A newer release may have an intent of the same name: then the published one is meant.
            own = {name: vectors for name, vectors in own.items() if name not in manifest.labels}
            self._model, self._with_own = IntentModel(encoder, load_head(bundle), own), with_own
        return self._model
