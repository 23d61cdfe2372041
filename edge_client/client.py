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

from edge_client.account import learned_document, shared_document
from edge_client.answer.feedback import NOT_AN_INTENT, FeedbackResult, resolve_intent, words_of
from edge_client.answer.respond import CHOSEN_NOW, TOLD_BEFORE, Reply, chosen_reading
from edge_client.bundle_words import describe_bundle, no_model_text
from edge_client.bundles import ActiveBundle, BundleStore
from edge_client.config import EdgeConfig
from edge_client.decide.decision import AskLimits, decide
from edge_client.held_models import HeldModels
from edge_client.know.consent import Consent
from edge_client.know.examples import ACCEPTED, MEANT, Examples
from edge_client.know.own_intents import OwnIntents
from edge_client.know.store import Store
from edge_client.knowledge import Knowledge
from edge_client.learning import Learning
from edge_client.lifecycle import Lifecycle, lifecycle
from edge_client.opening import BUNDLE_FOLDER as BUNDLE_FOLDER
from edge_client.opening import active_bundles
from shared_models.bundle import Staleness, TrustAnchor
from shared_models.errors import (
    BundleError,
    ConfigError,
    ModelError,
    ModelMissingError,
    StoreClosedError,
    StoreWriteError,
    TacitError,
    TextError,
)
from shared_models.intents import Recognition
from shared_models.purposes import INTENT_MODEL, PERSONAL_LEARNING
from shared_models.text_encoder import DIMENSION, clean_text

if TYPE_CHECKING:
    from edge_client.know.capture import Capture
    from edge_client.know.connectors import Intake
    from edge_client.know.decisions import DecisionLog
    from edge_client.know.profile import Profile
    from edge_client.know.rights import Rights
    from edge_client.know.store.keys import KeySource
    from edge_client.share.device import ClientPort
    from edge_client.understand.intent import IntentModel
    from shared_models.profile import ProfileSchema

_log = logging.getLogger(__name__)


class EdgeClient:
    """One user's assistant. Thread-safe; use it as a context manager, or `close()` it.

    Opening is cheap: models are loaded with the first text. `consent`, `store` and `model` are the rooms themselves.
    """

    def __init__(
        self, store: Store, bundles: BundleStore, config: EdgeConfig, schema: ProfileSchema | None = None
    ) -> None:
        """For callers that bring their own parts; apps use `open`."""
        self.config = config
        self.store = store
        self._bundles = bundles
        self._lock = store.lock
        self._examples = Examples(store, config.clock, config.most_examples)
        self._own = OwnIntents(store, config.clock)
        self.consent = Consent(store, config.clock, {PERSONAL_LEARNING.name: self._erase_learned})
        self._learning = Learning(store, self._examples, self._own, self.consent)
        self._known = Knowledge(store, schema, self.consent, config.clock, self._more_to_export)
        self._bundle: ActiveBundle | None = None
        self._bundle_problem: BundleError | ModelError | None = None
        try:
            self._bundle = bundles.current()
        except (BundleError, ModelError) as error:
            # The user's rights need no model: what is kept can be seen, and consents changed, all the same.
            self._bundle_problem = error
        self._source: Path | str | None = None
        self._held = HeldModels(self._own)
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
        schema: ProfileSchema | None = None,
    ) -> EdgeClient:
        """Open, or make, the assistant that lives in folder `path`.

        `key`: 32 raw bytes, a passphrase, or None for the keyring of the operating system. `bundle`: a folder or an http(s)
        URL; needed once, and one that cannot be reached later is no error. `trust`: the fleet's trust.json, for the first time
        from a URL. `schema`: what may be known; it is kept, and None is the one that was kept, else the one that ships.

        Raises ModelMissingError, BundleError, ModelDamagedError, StoreError (wrong key, damaged, locked, rolled back, newer,
        not writable), ConfigError, DomainError. Then nothing is open and nothing was changed, apart from a bundle that arrived.
        """
        config = config or EdgeConfig()
        home = Path(path)
        bundles = active_bundles(home, bundle, trust, config)
        store = Store(home, key=config.key_source if key is None else key)
        try:
            client = cls(store, bundles, config, schema)
        except TacitError:
            store.close()
            raise
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
            responder = self._held.words(self._active())
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
            reply = responder.respond(decision, self._bundles.staleness_of(bundle), told=told)
        self._known.remember(reply)
        return reply

    def intents(self) -> dict[str, str]:
        """All intents that this assistant knows, the user's own at the end: name -> plain words."""
        with self._lock:
            words = self._held.words(self._active())
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
            self._learning.require_consent()
            bundle = self._active()
            count = self._own.define(name, phrases, self._embed, bundle.manifest.encoder_sha256, bundle.manifest.labels)
            self._held.drop_model()
            return count

    def remove_intent(self, name: str) -> None:
        """Erase an intent of the user's own. Raises UnknownIntentError."""
        with self._lock, self.store.transaction():
            self._own.remove(name)
            self._examples.forget_intent(name)
            self._held.drop_model()

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
            known = source or self._source or (self._bundle and self._bundle.trust.bundle_url)
        if not known:
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
                **learned_document(self._examples, self._own),
                "profile": self.profile.document(),
                "consent_receipts": [receipt.document() for receipt in self.consent.receipts()],
                "consents": self.consent.document(),
            }

    def export(self) -> dict[str, Any]:
        """Everything that is kept about the user, machine-readable: the layout is `know.rights.EXPORT_SCHEMA`."""
        return self.rights.export()

    def status(self) -> dict[str, Any]:
        """Counts and states without any text of the user's, as plain JSON: fit for a log or a support page."""
        with self._lock:
            staleness = self._bundles.staleness_of(self._bundle) if self._bundle is not None else None
            return {
                "home": str(self.store.folder),
                "state": str(self.state),
                "bundle": describe_bundle(self._bundle, self._bundle_problem, staleness),
                "consents": {name: entry["granted"] for name, entry in self.consent.document().items()},
                "counts": {"examples": len(self._examples), "own_intents": len(self._own)},
                "storage": self.store.describe(),
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

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the rooms ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Lifecycle:
        """What this client can do now."""
        with self._lock:
            closed = self.store.closed
            staleness = None if closed or self._bundle is None else self._bundles.staleness_of(self._bundle)
            damaged = not closed and self.store.quarantined
            return lifecycle(closed=closed, problem=self._bundle_problem, quarantined=damaged, staleness=staleness)

    @property
    def schema(self) -> ProfileSchema:
        """What may be known about the user."""
        return self._known.schema

    @property
    def capture(self) -> Capture:
        """Where the app's events arrive."""
        return self._known.capture

    @property
    def intake(self) -> Intake:
        """Where connectors bring what other sources know."""
        return self._known.intake

    @property
    def profile(self) -> Profile:
        """What is known about the user, one value for each attribute of the schema."""
        return self._known.profile

    @property
    def decisions(self) -> DecisionLog:
        """What was chosen for the user, and why."""
        return self._known.decisions

    @property
    def rights(self) -> Rights:
        """What the user may demand: export, correct, restrict, object, erase."""
        return self._known.rights

    @property
    def model(self) -> IntentModel:
        """The intent model of the active bundle with the user's own intents beside it; loaded when first needed."""
        with self._lock:
            return self._held.model(self._active(), with_own=self._learning.allowed)

    def _require_open(self) -> None:
        if self.store.closed:
            raise StoreClosedError("this client was closed or has forgotten everything; open it again")

    def _active(self) -> ActiveBundle:
        self._require_open()
        if self._bundle is None:
            raise self._bundle_problem or ModelMissingError(no_model_text())
        return self._bundle

    def _embed(self, text: str) -> npt.NDArray[np.float32]:
        return self._held.encoder(self._active()).encode_one(text)

    def _understand(self, text: str) -> tuple[Recognition, str]:
        clean = clean_text(text)
        with self._lock:
            bundle = self._active()
            example = self._examples.find(clean) if clean and self._learning.allowed else None
            if example is not None and (example.intent in bundle.manifest.labels or example.intent in self._own):
                own = example.intent not in bundle.manifest.labels
                version = bundle.manifest.version
                return Recognition(clean, example.intent, 1.0, (), False, version, own), TOLD_BEFORE
            model = self.model
        return model.recognize(clean), ""

    def _keep(self, text: str, intent: str, how: str) -> FeedbackResult:
        result, taught_own = self._learning.keep(text, intent, how, self._active().manifest, self._embed)
        if taught_own:
            self._held.drop_model()
        return result

    def _learn_choice(self, text: str, intent: str) -> None:
        try:
            self.feedback(text, intent=intent)
        except StoreWriteError as error:
            # The user is waiting for an answer, not for the disk; status() and doctor have the words for it.
            _log.warning("a choice could not be kept: %s", type(error).__name__)

    def _more_to_export(self) -> dict[str, Any]:
        learned = learned_document(self._examples, self._own)
        return {**learned, "shared": shared_document(self), "connectors": self.intake.document()}

    def _erase_learned(self) -> None:
        self._learning.clear()
        self._held.drop_model()
        self._asked = None

    def _drop_models(self) -> None:
        self._held.drop()
        self._asked = None
