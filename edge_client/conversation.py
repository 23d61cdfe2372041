"""The turns of conversations: understand, apply the rules, choose, say it with reasons, and remember what may be remembered.

Without a catalogue in the bundle a turn is: recognise, decide, answer in the domain's words. With one, a dialogue keeps what was
said over turns, and what is suggested comes as cards. Conversations stay in memory and end with the process; what is learned from
them stands in suggestions.py. The store's lock is held for everything but the recognising of a text and a local model's words.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from edge_client.answer.respond import CHOSEN_NOW, Reply, Responder, chosen_reading
from edge_client.answer.speaking import Speaking
from edge_client.bundles import ActiveBundle
from edge_client.config import EdgeConfig
from edge_client.decide.decision import Decision
from edge_client.dialogue_turns import DialogueTurns, Draft, Heard, Thread
from edge_client.giving_way import gives_way
from edge_client.held_models import HeldModels
from edge_client.know.consent import Consent
from edge_client.know.store import Store
from edge_client.knowledge import Knowledge
from edge_client.logged_suggestions import LoggedSuggestions
from edge_client.suggestions import Suggestions
from edge_client.understand.slot_values import wanted_values
from shared_models.bundle import Staleness
from shared_models.errors import InputError, StoreWriteError
from shared_models.intents import Recognition
from shared_models.text_encoder import clean_text

MOST_CONVERSATIONS = 64
MOST_NAME_CHARS = 200
_log = logging.getLogger(__name__)


class Conversations:
    """All conversations of one client."""

    def __init__(
        self,
        config: EdgeConfig,
        store: Store,
        consent: Consent,
        held: HeldModels,
        known: Knowledge,
        suggestions: Suggestions,
        log: LoggedSuggestions,
        *,
        active: Callable[[], ActiveBundle],
        staleness: Callable[[ActiveBundle], Staleness],
        understand: Callable[[str], tuple[Recognition, str]],
        is_own: Callable[[str], bool],
        learn_choice: Callable[[str, str], None],
    ) -> None:
        """`active`: the bundle in use, or an error; `learn_choice(text, intent)`: the user said what a text means."""
        self._config, self._store, self._held, self._known = config, store, held, known
        self._suggestions, self._log = suggestions, log
        self._active, self._staleness, self._understand = active, staleness, understand
        self._is_own, self._learn_choice = is_own, learn_choice
        self._threads: OrderedDict[str, Thread] = OrderedDict()
        self._speaking = Speaking(consent, config.local_model, config.model_may_see)
        self._turns = DialogueTurns(
            config,
            held,
            suggestions,
            log,
            self._speaking,
            staleness=staleness,
            learn_choice=learn_choice,
            plain=self._plain,
        )

    # -- conversations ----------------------------------------------------------------------------------------------

    def thread(self, name: str) -> Thread:
        """The conversation called `name`. Raises InputError.

        Names that agree up to the first `/` are of one owner. Who has most of them gives one way, the one unused for longest.
        """
        if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME_CHARS:
            raise InputError(f"a conversation has a name of 1 to {MOST_NAME_CHARS} characters")
        found = self._threads.pop(name, None)
        if found is None:
            found = Thread(name=name)
            self._suggestions.learned.elicitor.begin_session()
        self._threads[name] = found
        while len(self._threads) > MOST_CONVERSATIONS:
            names = list(self._threads)
            del self._threads[names[gives_way([each.partition("/")[0] for each in names])]]
        return found

    def begin(self, name: str) -> None:
        """Start this conversation anew. Raises InputError."""
        self.thread(name)
        del self._threads[name]
        self.thread(name)

    def with_suggestion(self, decision_id: str, within: str = "") -> Thread | None:
        """The conversation that has this suggestion on its table and a name that begins with `within`; None if none has."""
        own = (thread for thread in reversed(self._threads.values()) if thread.name.startswith(within))
        return next((thread for thread in own if decision_id in thread.shown), None)

    def forget(self) -> None:
        """End all conversations."""
        self._threads.clear()

    def forget_questions(self) -> None:
        """No open question is answered any more: what it was about has changed."""
        for thread in self._threads.values():
            thread.asked = thread.elicited = None

    # -- one turn ---------------------------------------------------------------------------------------------------

    def respond(self, text: str, name: str, *, learn: bool = True, shown: bool = True) -> Reply:
        """One turn; without `learn` nothing is kept or learned from it, and if it is not `shown` to anybody no local model is
        asked for its words. Raises TextError, InputError."""
        clean = clean_text(text)
        with self._store.lock:
            thread = self.thread(name)
            asked, thread.asked = thread.asked, None
            responder = self._held.words(self._active())
            today = self._suggestions.now().date()
        if asked is not None and (chosen := chosen_reading(clean, asked[1], responder)) is not None:
            if learn:
                self._learn_choice(asked[0], chosen)
            version = self._active().manifest.version
            recognition = Recognition(asked[0], chosen, 1.0, (), False, version, self._is_own(chosen))
            heard = Heard(asked[0], recognition, CHOSEN_NOW, today)
        else:
            heard = Heard(clean, *self._understand(clean), today)
        with self._store.lock:
            bundle = self._active()
            draft = self._drafted(thread, heard, bundle, learn)
            thread.number += 1
            gazetteer = self._held.gazetteer(bundle) if draft.spoken is not None else None
            personal = self._suggestions.learned.allowed
            reply = draft.reply
            if thread.state.intent == reply.intent:
                reply = replace(reply, slots=wanted_values(thread.state, reply.language))
        if shown and draft.spoken is not None and self._speaking.rewords:
            spoken = self._speaking.reworded(
                draft.spoken, today, draft.offers, heard.text, gazetteer, personal=personal
            )
            reply = replace(reply, text=spoken.text + reply.text[len(draft.spoken.text) :])
        return reply

    def _drafted(self, thread: Thread, heard: Heard, bundle: ActiveBundle, learn: bool) -> Draft:
        """The reply, and everything that is kept of the turn in one commit."""
        suggester = self._suggestions.suggester(bundle)
        draft: Draft | None = None
        self._log.silent = not learn
        try:
            with self._suggestions.one_turn(), self._store.transaction():
                if suggester is None:
                    draft = Draft(self._plain(thread, heard, bundle, self._held.words(bundle)))
                else:
                    draft = self._turns.take(thread, heard, bundle, suggester)
                if learn:
                    draft = replace(draft, reply=self._known.remember(draft.reply, thread.name))
                    self._known.tell(draft.reply)
        except StoreWriteError as error:
            # The user waits for an answer, not for the disk.
            if draft is None:
                raise
            draft = replace(draft, reply=replace(draft.reply, decision_id=""))
            _log.warning("a turn could not be noted: %s", type(error).__name__)
        finally:
            self._log.silent = False
        return draft

    def _plain(
        self,
        thread: Thread,
        heard: Heard,
        bundle: ActiveBundle,
        responder: Responder,
        decision: Decision | None = None,
    ) -> Reply:
        """The decision in the domain's own words."""
        decision = decision or self._turns.decided(heard.recognition, bundle)
        if decision.action == "ask":
            thread.asked = (decision.recognition.text, decision.between)
        reply = responder.respond(decision, self._staleness(bundle), told=heard.told)
        return replace(reply, language=responder.language)
