"""The façade: one user's assistant on one device. It joins the rooms and holds their lock; what they do stands in the rooms.

Nothing here sends anything: what leaves a device is edge_client/share/, through privacy/gate.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_client.account import inspected, more_to_export
from edge_client.answer.feedback import FeedbackResult, Reaction
from edge_client.answer.respond import Reply
from edge_client.bundle_words import describe_bundle, no_model_text
from edge_client.bundles import ActiveBundle, BundleStore
from edge_client.config import EdgeConfig
from edge_client.held_models import HeldModels
from edge_client.improve.improvement import Improvement
from edge_client.know.consent import Consent
from edge_client.know.examples import Examples
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
    TacitError,
)
from shared_models.intents import Recognition
from shared_models.purposes import PERSONAL_LEARNING

if TYPE_CHECKING:
    from edge_client.delivering import Delivering
    from edge_client.improve.nightly import NightReport
    from edge_client.know.capture import Capture
    from edge_client.know.connectors import Intake
    from edge_client.know.decisions import DecisionLog
    from edge_client.know.profile import Profile
    from edge_client.know.rights import Rights
    from edge_client.know.store.keys import KeySource
    from edge_client.know.triggers import Firing
    from edge_client.share.device import ClientPort
    from edge_client.talk import Talk
    from edge_client.understand.intent import IntentModel
    from shared_models.context_feed import BroadcastFeed
    from shared_models.profile import ProfileSchema
    from shared_models.travel.catalogue import Catalogue

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
        self._held = HeldModels(self._own)
        self.improvement = Improvement(
            store, self.consent, self._examples, self._held, config.clock, self._active, lambda: self._talk.refold()
        )
        self._learning = Learning(
            store, self._examples, self._own, self.consent, self._held, self._active, self.improvement.corrected
        )
        self._bundle: ActiveBundle | None = None
        self._bundle_problem: BundleError | ModelError | None = None
        published: ProfileSchema | None = None
        try:
            self._bundle = bundles.current()
            published = self._held.schema(self._bundle)
        except (BundleError, ModelError) as error:
            # The user's rights need no model: what is kept can be seen, and consents changed, all the same.
            self._bundle_problem = error
        self._known = Knowledge(store, schema, self.consent, config.clock, self._more_to_export, self._hear, published)
        self._known.places = self._places
        self._learning.outcomes = self._known.outcomes
        self._source: Path | str | None = None
        self._talking: Talk | None = None

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
        from a URL. `schema`: what may be known; it is kept. None is the one that was kept, else that of the bundle's domain, else
        the one that ships.

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
        return self._learning.understand(text)[0]

    def respond(self, text: str, *, conversation: str = "main", learn: bool = True, shown: bool | None = None) -> Reply:
        """One turn: understand, apply the rules, choose, answer with reasons. Conversations end with the process.

        Without `learn` nothing is kept, without `shown` (None: as `learn`) no model rewords it. Raises TextError, InputError.
        """
        return self._talk.respond(text, conversation, learn=learn, shown=learn if shown is None else shown)

    def new_conversation(self, name: str = "main") -> None:
        """Begin this conversation anew. Raises InputError."""
        self._talk.begin(name)

    def react(self, decision_id: str, verdict: str, because: str = "", *, within: str = "") -> Reaction:
        """The user's word on a suggestion: `up`, `down`, `chosen`, `dismissed`; `because`: why. Durable, kept with consent only.

        `within`: how its conversation's name begins. Raises UnknownDecisionError, InputError, TextError, StoreWriteError.
        """
        return self._talk.react(decision_id, verdict, because, within)

    def why(self, decision_id: str, *, within: str = "") -> tuple[str, ...]:
        """What a decision was made on, in plain words; `within` as for `react`. Raises UnknownDecisionError."""
        return self._talk.why(decision_id, within)

    def intents(self) -> dict[str, str]:
        """All intents that this assistant knows, the user's own at the end: name -> plain words."""
        return self._learning.intents()

    # -- learning from the user -----------------------------------------------------------------------------------

    def feedback(self, text: str | Recognition | Reply, *, intent: str, own: bool = True) -> FeedbackResult:
        """The user says: "I meant `intent`" (its name, or its plain words). Kept with consent only, durable on return.

        `own`: may it be one of the user's own? Raises UnknownIntentError (with the nearest names), TextError, StoreWriteError.
        """
        return self._learning.feedback(text, intent, own)

    def accept(self, recognition: Recognition | Reply) -> FeedbackResult:
        """The user says: that was right. Kept with consent only, durable on return. Raises StoreWriteError."""
        return self._learning.accept(recognition)

    def define_intent(self, name: str, phrases: Sequence[str]) -> int:
        """Teach an intent of the user's own, or more phrases for it; returns how many it has. It never leaves the device.

        Raises ConsentError without consent to `personal-learning`, InputError for a name or phrases that cannot be used.
        """
        return self._learning.define(name, phrases)

    def remove_intent(self, name: str) -> None:
        """Erase an intent of the user's own. Raises UnknownIntentError."""
        self._learning.remove(name)

    def training_examples(self) -> tuple[npt.NDArray[np.float32], list[str]]:
        """What this device may learn from for others: embeddings [n, 384] (unit, not centred) and intents, oldest first.

        One row for each mention. Empty unless both `personal-learning` and `intent-model` are granted.
        """
        return self._learning.training_examples()

    def nightly(self, stopping: Callable[[], bool] = lambda: False) -> NightReport:
        """What makes it better by night (improve/nightly.py); `stopping`: leave off at once. Raises StoreClosedError."""
        from edge_client.improve.nightly import tonight

        return tonight(self, stopping)

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
            return inspected(self, self._examples, self._own)

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
            problems = tuple(self.store.erase())
            self.close()
            self.consent.tell_narrowed()
            return problems

    def close(self) -> None:
        """Give the store back. Everything that was kept is on disk already; twice is fine."""
        with self._lock:
            self.store.close()
            self._drop_models()
            self._talking = None

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
    def delivery(self) -> Delivering:
        """What the assistant says by itself, when and by which channel: planned follow-ups."""
        return self._known.delivery

    @property
    def rights(self) -> Rights:
        """What the user may demand: export, correct, restrict, object, erase."""
        return self._known.rights

    @property
    def model(self) -> IntentModel:
        """The intent model of the active bundle with the user's own intents beside it; loaded when first needed."""
        return self._learning.model

    @property
    def _talk(self) -> Talk:
        with self._lock:
            self._require_open()
            if self._talking is None:
                from edge_client.talk import Talk

                self._talking = Talk(
                    self.config,
                    self.store,
                    self.consent,
                    self._held,
                    self._known,
                    active=self._active,
                    staleness=self._bundles.staleness_of,
                    learning=self._learning,
                    delivery=lambda: self.delivery,
                    improvement=self.improvement,
                )
            return self._talking

    def _require_open(self) -> None:
        if self.store.closed:
            raise StoreClosedError("this client was closed or has forgotten everything; open it again")

    def _active(self) -> ActiveBundle:
        self._require_open()
        if self._bundle is None:
            raise self._bundle_problem or ModelMissingError(no_model_text())
        return self._bundle

    def _more_to_export(self) -> dict[str, Any]:
        return more_to_export(self, self._examples, self._own, self._talk.document())

    def _erase_learned(self) -> None:
        self._learning.clear()
        self._forget_questions()

    def _drop_models(self) -> None:
        self._held.drop()
        self._forget_questions()

    def _forget_questions(self) -> None:
        if self._talking is not None:
            self._talking.forget_questions()

    def _places(self) -> tuple[Catalogue | None, BroadcastFeed | None]:
        with self._lock:
            bundle = self._active()
            return self._held.catalogue(bundle), self._held.feed(bundle)

    def _hear(self, firing: Firing) -> None:
        # Before the first text nobody waits for events: they are read from the store then.
        if self._talking is not None:
            self._talking.hear(firing)
