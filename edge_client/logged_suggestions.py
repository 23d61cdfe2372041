"""What is remembered of turns and suggestions, and what a reaction to one does: log, rewards, signals, follow-ups.

All of it with consent to personalisation only. A user waits for an answer, not for the disk: what could not be kept in a turn is
logged; what the user asks for explicitly (`react`) raises.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edge_client.answer.cards import Card
from edge_client.answer.facts import Suggestion
from edge_client.answer.feedback import KEPT_TASTE, NO_CONSENT_TASTE, NOT_A_SUGGESTION, NOT_WAITING, Reaction
from edge_client.answer.offers import card
from edge_client.decide.asking import Asked
from edge_client.decide.follow_ups import FollowUp, Topic, after_choice, after_suggestion
from edge_client.decide.learned import REWARDS, Learned
from edge_client.decide.learned_records import Open
from edge_client.decide.preference import Signal
from edge_client.decide.question_words import answer_value
from edge_client.decide.refusals import Refused, read_refusal
from edge_client.decide.suggesting import Choices, Suggester
from edge_client.decide.travel_constraints import MAX_REFUSAL_CHARS, Constraint, Trip
from edge_client.decide.travel_reasons import constraint_text
from edge_client.decide.travel_trip import Wish
from edge_client.delivering import Delivering
from edge_client.know.decisions import MAX_WORDS, DecisionLog
from edge_client.know.outcomes import Outcomes
from edge_client.know.store import Store
from edge_client.understand.state import DialogueState, Offer
from shared_models.errors import DecisionError, InputError, StoreWriteError, TextError, UnknownDecisionError
from shared_models.languages import language_of
from shared_models.travel.action_features import REWARD_HIGH, REWARD_LOW

SUGGESTION = "suggestion"
"""Kind of a suggestion in the decision log."""
SIGNALS = {"chosen": "chosen", "up": "like", "down": "dislike", "dismissed": "dismiss", "passed": "skip"}
VOIDS: Mapping[str, Topic | None] = {"down": None, "dismissed": None, "passed": "still_thinking"}
"""After these the assistant does not come back to the place by itself: not at all (None), or not about that."""
MOST_CONSTRAINTS = 50
MOST_SHOWN = 60
"""Suggestions of one conversation that can still be answered without consent."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """One card, and the trip that it was for."""

    card: Card
    trip: Trip
    language: str


@dataclass
class Table:
    """What is on the table of one conversation, in memory."""

    name: str = ""
    """Of the conversation."""
    state: DialogueState = field(default_factory=DialogueState)
    offers: tuple[Suggestion, ...] = ()
    """The last suggestions, in words: for "why?"."""
    cards: tuple[Card, ...] = ()
    """The last suggestions."""
    shown: dict[str, Shown] = field(default_factory=dict)
    """All that can still be answered, by decision id, the latest last."""
    trip: Trip | None = None
    """That the last suggestions were for."""
    refused: list[Constraint] = field(default_factory=list)
    """From "no, because …"."""
    rounds: int = 0
    """How often something was suggested."""


class LoggedSuggestions:
    """The memory of suggestions of one client. The owner holds the store's lock."""

    def __init__(
        self,
        store: Store,
        learned: Learned,
        decisions: DecisionLog,
        outcomes: Outcomes,
        clock: Callable[[], float],
        delivery: Callable[[], Delivering],
    ) -> None:
        """`delivery` keeps follow-ups: what the assistant comes back to by itself."""
        self._store, self._learned, self._decisions = store, learned, decisions
        self._outcomes, self._clock, self._delivery = outcomes, clock, delivery
        self.silent = False
        """True while a turn is only read again: nothing is kept or learned."""

    @property
    def _keeps(self) -> bool:
        return self._learned.allowed and not self.silent

    # -- what was suggested -----------------------------------------------------------------------------------------

    def offered(self, choices: Choices, wish: Wish, language: str, table: Table) -> tuple[Card, ...]:
        """The cards of what was chosen, on the table and, with consent, in the log with their propensities."""
        month, now_s = wish.trip.month, float(self._clock())
        cards = tuple(
            card(one.suggestion, month, language, f"here-{secrets.token_hex(8)}", one.propensity)
            for one in choices.picked
        )
        if self._keeps and cards:
            try:
                cards = self._logged(cards, choices, wish, now_s, table.name)
            except StoreWriteError as error:
                _log.warning("a suggestion could not be kept: %s", type(error).__name__)
        table.cards, table.trip = cards, wish.trip
        for one in cards:
            table.shown[one.decision_id] = Shown(one, wish.trip, language)
        for surplus in list(table.shown)[:-MOST_SHOWN]:
            del table.shown[surplus]
        if table.rounds == 1 and cards:
            self._planned(after_suggestion(cards[0].id, wish.trip, now_s))
        return cards

    def _logged(
        self, cards: tuple[Card, ...], choices: Choices, wish: Wish, now_s: float, conversation: str
    ) -> tuple[Card, ...]:
        group, logged, opened = secrets.token_hex(6), [], {}
        with self._store.transaction():
            for slot, (one, picked) in enumerate(zip(cards, choices.picked, strict=True)):
                context = {
                    "propensity": picked.propensity,
                    "slot": slot,
                    "list": group,
                    "possible": choices.possible,
                    "candidates": len(picked.candidates),
                    "score": round(picked.suggestion.score, 6),
                }
                reasons = [text[:MAX_WORDS] for text in one.reasons] or [one.title]
                key = self._decisions.record(SUGGESTION, one.id, reasons, context=context, conversation=conversation)
                if key is None:
                    return cards
                opened[key] = Open(one.id, picked.candidates, picked.row, picked.propensity, now_s, group)
                logged.append(replace(one, decision_id=key))
            self._learned.offer(opened)
            self._learned.exposure.record([picked.place.country for picked in choices.picked])
            self._learned.keep_state()
        return tuple(logged)

    # -- what came of it --------------------------------------------------------------------------------------------

    def react(
        self,
        decision_id: str,
        verdict: str,
        because: str,
        table: Table | None,
        suggester: Suggester | None,
        within: str = "",
    ) -> Reaction:
        """What the user did about a suggestion. `table`: of the conversation that has it on the table, if one does.

        `within`: how the names of the conversations begin that may have made it.
        Raises InputError, UnknownDecisionError, TextError, StoreWriteError.
        """
        if verdict not in REWARDS:
            raise InputError(f"reaction is {str(verdict)[:40]!r}, expected one of {', '.join(REWARDS)}")
        if not isinstance(because, str) or len(because) > MAX_REFUSAL_CHARS:
            raise TextError(f"a reason is a text of at most {MAX_REFUSAL_CHARS} characters")
        shown = None if table is None else table.shown.get(decision_id)
        item = shown.card.id if shown is not None else self._item(decision_id, within)
        if item is None:
            return Reaction(decision_id, "", verdict, False, NOT_A_SUGGESTION)
        found = None
        if because.strip() and shown is not None and suggester is not None and item in suggester.catalogue.rows:
            language = language_of(because, shown.language)
            found = read_refusal(because, [_offer(shown)], shown.trip, suggester.catalogue, language)
        settled = self._settle([(decision_id, item)], verdict)
        excludes: tuple[str, ...] = ()
        if table is not None and shown is not None:
            if verdict == "chosen":
                self._chosen_on(table, shown)
            elif verdict in ("down", "dismissed"):
                refused = tuple(dict.fromkeys((*table.state.refused_offers, item)))
                table.state = replace(table.state, refused_offers=refused)
            if found is not None and suggester is not None:
                table.refused = [*table.refused, *found.constraints][-MOST_CONSTRAINTS:]
                excludes = tuple(constraint_text(one, suggester.catalogue, shown.language) for one in found.constraints)
        reason = NO_CONSENT_TASTE if not self._learned.allowed else KEPT_TASTE if settled else NOT_WAITING
        understood = not because.strip() or found is not None
        return Reaction(decision_id, item, verdict, self._learned.allowed, reason, understood, excludes)

    def chosen(self, table: Table, chosen: Card) -> None:
        """The user took one in the conversation."""
        shown = table.shown.get(chosen.decision_id)
        self._quietly(lambda: self._settle([(chosen.decision_id, chosen.id)], "chosen"))
        if shown is not None:
            self._chosen_on(table, shown)

    def refused(self, table: Table, refused: Refused) -> None:
        """The user refused what was on the table, with a reason: the reason is what counts."""
        table.refused = [*table.refused, *refused.constraints][-MOST_CONSTRAINTS:]
        self.passed(table, refused.items)

    def passed(self, table: Table, items: Sequence[str]) -> None:
        """These were not what was wanted, for a reason or for something else: a weak word against them."""
        gone = [(one.decision_id, one.id) for one in table.cards if one.id in items]
        if gone:
            self._quietly(lambda: self._settle(gone, "passed"))

    def _settle(self, suggestions: Sequence[tuple[str, str]], verdict: str) -> bool:
        if not self._keeps:
            return False
        now_s, settled = float(self._clock()), False
        with self._store.transaction():
            for key, item in suggestions:
                settled = self._learned.settle(key, verdict) or settled
                self._learned.note(Signal(item, SIGNALS[verdict], now_s))
                if verdict in VOIDS:
                    self._delivery().drop(item, topic=VOIDS[verdict])
            self._outcomes.record("accepted" if verdict in ("chosen", "up") else "passed", len(suggestions))
        return settled

    def _chosen_on(self, table: Table, shown: Shown) -> None:
        table.state = replace(table.state, chosen=_offer(shown))
        self._planned(after_choice(shown.card.id, shown.trip, float(self._clock())))

    def _item(self, decision_id: str, within: str) -> str | None:
        """What was suggested under this id; None if it was another decision. Raises UnknownDecisionError."""
        entry = self._entry(decision_id, within)
        return str(entry["chosen"]) if entry["kind"] == SUGGESTION else None

    def _entry(self, decision_id: str, within: str) -> Mapping[str, Any]:
        entry = self._decisions.find(decision_id) if isinstance(decision_id, str) else None
        if entry is None or not str(entry.get("conversation", "")).startswith(within):
            raise UnknownDecisionError(
                f"there is no decision {str(decision_id)[:60]!r}: it was never made here, or is forgotten"
            )
        return entry

    def why(self, decision_id: str, table: Table | None, within: str = "") -> tuple[str, ...]:
        """What a decision was made on, in words; `within` as for `react`. Raises UnknownDecisionError."""
        shown = None if table is None else table.shown.get(decision_id)
        if shown is not None:
            return (*shown.card.reasons, *shown.card.drawbacks)
        return tuple(map(str, self._entry(decision_id, within)["reasons"]))

    # -- what was asked ---------------------------------------------------------------------------------------------

    def asked(self, asked: Asked) -> bool:
        """A question about taste is shown; False if that could not be counted: then it is not asked."""
        if not self._keeps:
            return False
        try:
            self._learned.elicitor.asked(float(self._clock()))
            self._learned.keep_state(topic=asked.topic)
        except StoreWriteError as error:
            _log.warning("a question could not be counted: %s", type(error).__name__)
            return False
        return True

    def answered(self, asked: Asked, answer: str | None) -> None:
        """It was answered (one of question_words.ANSWERS), or not."""
        if not self._keeps:
            return
        value = None if answer is None else answer_value(answer, REWARD_LOW, REWARD_HIGH)

        def keep() -> None:
            with self._store.transaction():
                self._learned.elicitor.outcome(skipped=value is None)
                if value is not None:
                    self._learned.answer(asked.features, value)
                self._learned.keep_state()

        self._quietly(keep)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _planned(self, follow_ups: Sequence[FollowUp]) -> None:
        if self._keeps and follow_ups:
            self._quietly(lambda: self._delivery().plan(follow_ups))

    @staticmethod
    def _quietly(write: Callable[[], object]) -> None:
        try:
            write()
        except (StoreWriteError, DecisionError) as error:
            _log.warning("something about a suggestion could not be kept: %s", type(error).__name__)


def _offer(shown: Shown) -> Offer:
    one = shown.card
    return Offer(one.id, one.title, one.price, one.currency, one.per)
