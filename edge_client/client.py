"""The façade: one user's assistant on one device. It joins the rooms and holds their lock; what they do stands in the rooms.

Nothing here sends anything: what leaves a device is edge_client/share/, through privacy/gate.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from edge_client.answer.respond import CHOSEN_NOW, TOLD_BEFORE, Reply, Responder, chosen_reading
from edge_client.bundle_words import describe_bundle, no_model_text
from edge_client.bundles import ActiveBundle, BundleStore
from edge_client.config import EdgeConfig
from edge_client.decide.decision import AskLimits, decide
from edge_client.know.consent import Consent
from edge_client.know.examples import ACCEPTED, MEANT, Examples
from edge_client.know.own_intents import OwnIntents
from edge_client.know.store import Store
from edge_client.platform import private_folder
from shared_models.bundle import Staleness, TrustAnchor
from shared_models.errors import (
    BundleError,
    BundleRollbackError,
    BundleUnavailableError,
    ConfigError,
    ConsentError,
    ModelError,
    ModelMissingError,
    StoreClosedError,
    StoreWriteError,
    TextError,
)
from shared_models.intents import Recognition
from shared_models.purposes import INTENT_MODEL, PERSONAL_LEARNING
from shared_models.text_encoder import DIMENSION, clean_text

if TYPE_CHECKING:
    from types import TracebackType

    from edge_client.know.store.keys import KeySource
    from edge_client.share.device import ClientPort
    from edge_client.understand.intent import IntentModel
    from shared_models.text_encoder import TextEncoder

BUNDLE_FOLDER = "bundle"
_log = logging.getLogger(__name__)


class EdgeClient:
    """One user's assistant. Thread-safe; use it as a context manager, or `close()` it.

    Opening is cheap: models are loaded with the first text. `consent`, `store` and `model` are the rooms themselves.
    """

    def __init__(self, store: Store, bundles: BundleStore, config: EdgeConfig) -> None:
        """For callers that bring their own parts; apps use `open`."""
        self.config = config
        self.store = store
        self._bundles = bundles
        self._lock = store.lock
        self._examples = Examples(store, config.clock, config.most_examples)
        self._own = OwnIntents(store, config.clock)
        self.consent = Consent(store, config.clock, {PERSONAL_LEARNING.name: self._erase_learned})
        self._bundle: ActiveBundle | None = None
        self._bundle_problem: BundleError | ModelError | None = None
        try:
            self._bundle = bundles.current()
        except (BundleError, ModelError) as error:
            # The user's rights need no model: what is kept can be seen, and consents changed, all the same.
            self._bundle_problem = error
        self._source: Path | str | None = None
        self._responder: Responder | None = None
        self._model: IntentModel | None = None
        self._encoder: TextEncoder | None = None
        self._asked: tuple[str, tuple[str, ...]] | None = None
        """The text that the assistant has just asked about, and the two readings."""

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        key: bytes | str | KeySource | None = None,
        bundle: Path | str | None = None,
        trust: Path | None = None,
        config: EdgeConfig | None = None,
    ) -> EdgeClient:
        """Open, or make, the assistant that lives in folder `path`.

        `key`: 32 raw bytes, a passphrase, or None for the keyring of the operating system. `bundle`: a folder or an http(s)
        URL; needed once, then everything works offline, and a `bundle` that cannot be reached is no error. `trust`: the
        fleet's trust.json, for the first time from a URL.

        Raises ModelMissingError, BundleError, ModelDamagedError, StoreError (wrong key, damaged, locked, rolled back, newer,
        not writable), ConfigError. Then nothing is open and nothing was changed, apart from a bundle that arrived.
        """
        config = config or EdgeConfig()
        home = Path(path)
        if home.exists() and not home.is_dir():
            raise ConfigError(f"{home}: is not a folder; the assistant needs one of its own")
        bundles = config.bundles or BundleStore(
            config.bundle_folder or home / BUNDLE_FOLDER, config.clock, timeout_s=config.fetch_timeout_s
        )
        if bundle is not None:
            private_folder(home)
            try:
                bundles.refresh(bundle, trust)
            except (BundleUnavailableError, BundleRollbackError):
                # Offline is normal, and a folder that the app ships may be older than what arrived since: what is active
                # stays active, and says how old it is.
                if bundles.current() is None:
                    raise
        elif bundles.current() is None:
            raise ModelMissingError(no_model_text())
        client = cls(Store(home, key=config.key_source if key is None else key), bundles, config)
        client._source = bundle
        return client

    # -- understanding and answering ------------------------------------------------------------------------------

    def recognize(self, text: str) -> Recognition:
        """What `text` means. A text that the user has explained before means what the user said. Raises TextError."""
        return self._understand(text)[0]

    def respond(self, text: str) -> Reply:
        """One turn of the conversation: understand, apply the rules, choose, answer with reasons. Raises TextError."""
        clean = clean_text(text)
        with self._lock:
            asked, self._asked = self._asked, None
            responder = self._words()
        if asked is not None and (chosen := chosen_reading(clean, asked[1], responder)) is not None:
            self._learn_choice(asked[0], chosen)
            version = self._active().manifest.version
            recognition = Recognition(asked[0], chosen, 1.0, (), False, version, chosen in self._own)
            told = CHOSEN_NOW
        else:
            recognition, told = self._understand(clean)
        limits = AskLimits(self.config.ask_below, self.config.ask_margin)
        bundle = self._active()
        decision = decide(recognition, bundle.rules, limits)
        with self._lock:
            if decision.action == "ask":
                self._asked = (recognition.text, decision.between)
            return responder.respond(decision, self._bundles.staleness_of(bundle), told=told)

    def intents(self) -> dict[str, str]:
        """All intents that this assistant knows, the user's own at the end: name -> plain words."""
        with self._lock:
            words = self._words()
            return {name: words.label(name) for name in (*self._active().manifest.labels, *self._own.names())}

    # -- learning from the user -----------------------------------------------------------------------------------

    def feedback(self, text: str | Recognition | Reply, *, intent: str) -> FeedbackResult:
        """The user says: "I meant `intent`" (its name, or its plain words). Kept with consent only, durable on return.

        Raises UnknownIntentError (with the nearest names), TextError, StoreWriteError.
        """
        said = words_of(text)
        with self._lock:
            name = resolve_intent(intent, self.intents(), self._active().intent_labels)
            return self._keep(said, name, MEANT)

    def accept(self, recognition: Recognition | Reply) -> FeedbackResult:
        """The user says: that was right. Kept with consent only, durable on return. Raises StoreWriteError."""
        found = recognition.recognition if isinstance(recognition, Reply) else recognition
        if not isinstance(found, Recognition):
            raise TextError(f"expected a Recognition or a Reply, got {type(found).__name__}")
        with self._lock:
            if found.out_of_scope or found.intent not in self.intents():
                return FeedbackResult(found.intent, False, NOT_AN_INTENT, len(self._examples))
            return self._keep(words_of(found), found.intent, ACCEPTED)

    def define_intent(self, name: str, phrases: Sequence[str]) -> int:
        """Teach an intent of the user's own, or more phrases for it; returns how many it has. It never leaves the device.

        Raises ConsentError without consent to `personal-learning`, InputError for a name or phrases that cannot be used.
        """
        with self._lock:
            self._require_learning()
            bundle = self._active()
            count = self._own.define(name, phrases, self._embed, bundle.manifest.encoder_sha256, bundle.manifest.labels)
            self._model = None
            return count

    def remove_intent(self, name: str) -> None:
        """Erase an intent of the user's own. Raises UnknownIntentError."""
        with self._lock, self.store.transaction():
            self._own.remove(name)
            self._examples.forget_intent(name)
            self._model = None

    def training_examples(self) -> tuple[npt.NDArray[np.float32], list[str]]:
        """What this device may learn from for others: embeddings [n, 384] (unit, not centred) and intents, oldest first.

        One row for each mention. Empty unless both `personal-learning` and `intent-model` are granted.
        """
        with self._lock:
            granted = all(self.consent.is_granted(purpose.name) for purpose in (PERSONAL_LEARNING, INTENT_MODEL))
            if not granted or not len(self._examples):
                return np.empty((0, DIMENSION), np.float32), []
            return self._examples.matrix(self._embed, self._active().manifest.encoder_sha256, DIMENSION)

    # -- what arrives ---------------------------------------------------------------------------------------------

    def refresh(self, source: Path | str | None = None, trust: Path | None = None) -> Staleness:
        """Fetch and verify what is published now; without `source` from where it came before.

        Raises BundleError; then the former bundle stays in use.
        """
        with self._lock:
            self._require_open()
            known = source or self._source or (self._bundle.trust.bundle_url if self._bundle is not None else None)
        if known is None:
            raise ConfigError("there is no address of a bundle yet: name a folder or a URL")
        # Outside the lock: the conversation goes on while a slow server answers.
        staleness = self._bundles.refresh(known, trust)
        bundle = self._bundles.current()
        with self._lock:
            self._require_open()
            self._source, self._bundle, self._bundle_problem = known, bundle, None
            self._drop_models()
        return staleness

    # -- sharing --------------------------------------------------------------------------------------------------

    @property
    def trust(self) -> TrustAnchor:
        """Whom this device trusts: pinned with the first bundle."""
        return self._active().trust

    @property
    def published_policy(self) -> bytes | None:
        """The privacy officer's signed envelope in the active bundle. Whether it is in force is the gate's question."""
        return self._active().policy

    def device_port(self) -> ClientPort:
        """What answers federated rounds for this device, through the gate. Raises PolicyError."""
        from edge_client.share.device import ClientPort

        with self._lock:
            return ClientPort(self)

    # -- the user's rights ----------------------------------------------------------------------------------------

    def inspect(self) -> dict[str, Any]:
        """All that is known about the user, and all that is kept here, as plain JSON."""
        with self._lock:
            return {
                **self.status(),
                "consent_receipts": [receipt.document() for receipt in self.consent.receipts()],
                "examples": [dict(example.__dict__) for example in self._examples.all()],
                "examples_by_intent": self._examples.counts(),
                "own_intents": self._own.phrases(),
                "consents": self.consent.document(),
            }

    def status(self) -> dict[str, Any]:
        """Counts and states without any text of the user's, as plain JSON: fit for a log or a support page."""
        with self._lock:
            storage = self.store.describe()
            staleness = self._bundles.staleness_of(self._bundle) if self._bundle is not None else None
            return {
                "home": str(self.store.folder),
                "bundle": describe_bundle(self._bundle, self._bundle_problem, staleness),
                "consents": {name: entry["granted"] for name, entry in self.consent.document().items()},
                "counts": {"examples": len(self._examples), "own_intents": len(self._own)},
                "storage": storage,
            }

    def forget(self) -> tuple[str, ...]:
        """Erase everything about the user: first the key, then the files. The client is closed afterwards.

        Returns what withstood, in words (a keyring that refuses); normally nothing. Raises StoreWriteError.
        """
        with self._lock:
            problems = self.store.erase()
            self._drop_models()
            return tuple(problems)

    def close(self) -> None:
        """Give the store back. Everything that was kept is on disk already; twice is fine."""
        with self._lock:
            self.store.close()
            self._drop_models()

    def __enter__(self) -> EdgeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the rooms ------------------------------------------------------------------------------------------------

    @property
    def model(self) -> IntentModel:
        """The intent model of the active bundle with the user's own intents beside it; loaded when first needed."""
        with self._lock:
            if self._model is None:
                from edge_client.loaded_models import load_head
                from edge_client.understand.intent import IntentModel

                bundle = self._active()
                own = self._own.vectors(self._embed, bundle.manifest.encoder_sha256) if len(self._own) else {}
                # A newer release may have an intent of the same name: then the published one is meant.
                own = {name: vectors for name, vectors in own.items() if name not in bundle.manifest.labels}
                self._model = IntentModel(self._loaded_encoder(), load_head(bundle), own)
            return self._model

    def _require_open(self) -> None:
        if self.store.closed:
            raise StoreClosedError("this client was closed or has forgotten everything; open it again")

    def _active(self) -> ActiveBundle:
        self._require_open()
        if self._bundle is None:
            raise self._bundle_problem or ModelMissingError(no_model_text())
        return self._bundle

    def _words(self) -> Responder:
        bundle = self._active()
        if self._responder is None:
            self._responder = Responder(bundle.templates, bundle.intent_labels)
        return self._responder

    def _loaded_encoder(self) -> TextEncoder:
        # Held from the first text on: who gives feedback only would load 23 MB again for each.
        if self._encoder is None:
            from edge_client.loaded_models import load_encoder

            self._encoder = load_encoder(self._active())
        return self._encoder

    def _embed(self, text: str) -> npt.NDArray[np.float32]:
        return self._loaded_encoder().encode_one(text)

    def _understand(self, text: str) -> tuple[Recognition, str]:
        clean = clean_text(text)
        with self._lock:
            bundle = self._active()
            example = self._examples.find(clean) if clean else None
            if example is not None and (example.intent in bundle.manifest.labels or example.intent in self._own):
                own = example.intent not in bundle.manifest.labels
                version = bundle.manifest.version
                return Recognition(clean, example.intent, 1.0, (), False, version, own), TOLD_BEFORE
            model = self.model
        return model.recognize(clean), ""

    def _keep(self, text: str, intent: str, how: str) -> FeedbackResult:
        if not self.consent.is_granted(PERSONAL_LEARNING.name):
            return FeedbackResult(intent, False, NO_CONSENT, len(self._examples))
        manifest = self._active().manifest
        if intent not in manifest.labels:
            with self.store.transaction():
                self._examples.forget_text(text)
                self._own.define(intent, [text], self._embed, manifest.encoder_sha256, manifest.labels)
                self._model = None
            return FeedbackResult(intent, True, KEPT_AS_PHRASE, len(self._examples))
        self._examples.keep(text, intent, how, self._embed(text), manifest.encoder_sha256)
        return FeedbackResult(intent, True, KEPT, len(self._examples))

    def _learn_choice(self, text: str, intent: str) -> None:
        try:
            self.feedback(text, intent=intent)
        except StoreWriteError as error:
            # The user is waiting for an answer, not for the disk; status() and doctor have the words for it.
            _log.warning("a choice could not be kept: %s", type(error).__name__)

    def _require_learning(self) -> None:
        if not self.consent.is_granted(PERSONAL_LEARNING.name):
            raise ConsentError(
                f"the user has not allowed “{PERSONAL_LEARNING.title.lower()}”: grant {PERSONAL_LEARNING.name!r} first"
            )

    def _erase_learned(self) -> None:
        self._examples.clear()
        self._own.clear()
        self._model, self._asked = None, None

    def _drop_models(self) -> None:
        self._model, self._encoder, self._responder, self._asked = None, None, None, None
