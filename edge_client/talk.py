"""The talking side of a client: conversations, suggestions and what is remembered of them, joined. The rooms do the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_client.answer.feedback import Reaction
from edge_client.answer.respond import Reply
from edge_client.bundles import ActiveBundle
from edge_client.config import EdgeConfig
from edge_client.conversation import Conversations
from edge_client.decide.asking import TRAVEL_LIMITS
from edge_client.decide.learned import Learned
from edge_client.delivering import Delivering
from edge_client.held_models import HeldModels
from edge_client.improve.improvement import Improvement
from edge_client.know.consent import Consent
from edge_client.know.store import Store
from edge_client.knowledge import Knowledge
from edge_client.learning import Learning
from edge_client.logged_suggestions import LoggedSuggestions
from edge_client.suggestions import Suggestions
from shared_models.bundle import Staleness
from shared_models.purposes import PERSONALISATION

if TYPE_CHECKING:
    from edge_client.decide.preference import Signal
    from edge_client.know.triggers import Firing
    from edge_client.share.kept_sources import KeptTaste
    from shared_models.travel.catalogue import Catalogue


class Talk:
    """Made with the first text or reaction: opening a client stays cheap. Thread-safe by the store's lock."""

    def __init__(
        self,
        config: EdgeConfig,
        store: Store,
        consent: Consent,
        held: HeldModels,
        known: Knowledge,
        *,
        active: Callable[[], ActiveBundle],
        staleness: Callable[[ActiveBundle], Staleness],
        learning: Learning,
        delivery: Callable[[], Delivering],
        improvement: Improvement,
    ) -> None:
        self._store, self._active, self._held = store, active, held
        self._improvement = improvement
        self.learned = Learned(store, consent, config.clock, config.asking or TRAVEL_LIMITS, improvement.watch)
        random = np.random.default_rng(config.random_seed)
        self._suggestions = Suggestions(self.learned, held, known.profile, lambda: known.capture, config.clock, random)
        self._log = LoggedSuggestions(store, self.learned, known.decisions, known.outcomes, config.clock, delivery)
        self._conversations = Conversations(
            config,
            store,
            consent,
            held,
            known,
            self._suggestions,
            self._log,
            active=active,
            staleness=staleness,
            understand=learning.understand,
            is_own=learning.own.__contains__,
            learn_choice=learning.choice,
        )
        consent.when_withdrawn(PERSONALISATION.name, self._erased)
        consent.when_narrowed(self._narrowed)
        store.when_rolled_back(self._suggestions.drop)

    def respond(self, text: str, conversation: str, *, learn: bool, shown: bool) -> Reply:
        reply = self._conversations.respond(text, conversation, learn=learn, shown=shown)
        if learn:
            self._improvement.turned(reply)
        return reply

    def begin(self, conversation: str) -> None:
        with self._store.lock:
            self._conversations.begin(conversation)

    def react(self, decision_id: str, verdict: str, because: str, within: str = "") -> Reaction:
        with self._store.lock:
            table = self._conversations.with_suggestion(decision_id, within)
            suggester = self._suggestions.suggester(self._active())
            return self._log.react(decision_id, verdict, because, table, suggester, within)

    def why(self, decision_id: str, within: str = "") -> tuple[str, ...]:
        with self._store.lock:
            return self._log.why(decision_id, self._conversations.with_suggestion(decision_id, within), within)

    def hear(self, firing: Firing) -> None:
        """An event was captured."""
        with self._store.lock:
            self._suggestions.hear(firing)

    def refold(self) -> Mapping[str, int]:
        """Let tastes be of today: see Learned.refold."""
        with self._store.lock:
            self._suggestions.drop()
            return self.learned.refold()

    def forget_questions(self) -> None:
        """What open questions were about has changed."""
        self._conversations.forget_questions()

    def taste(self) -> KeptTaste:
        """The user's likes and decisions as contributions read them (edge_client.share.sources); under the store's lock."""
        from edge_client.share.kept_sources import KeptTaste

        def catalogue() -> Catalogue | None:
            return self._held.catalogue(self._active())

        def signals() -> Sequence[Signal]:
            known = catalogue()
            return () if known is None else self._suggestions.signals(known)

        return KeptTaste(catalogue, lambda: self._held.bandit_prior(self._active()), signals, self.learned.outcomes)

    def document(self) -> dict[str, Any]:
        """What was learned, for the export."""
        return self.learned.document()

    def _narrowed(self) -> None:
        """Less may be used than before: what is held in memory is read again, if it may be."""
        with self._store.lock:
            self._suggestions.drop()
            if self._store.closed or not self.learned.allowed:
                self.learned.drop()

    def _erased(self) -> None:
        self._suggestions.drop()
        self._conversations.forget()
