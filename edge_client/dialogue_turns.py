"""A turn with a dialogue: what the text changes in the conversation, what is suggested or asked, and how it is said.

It reads and moves the conversation's thread, and gives a draft of the reply; what is kept of it goes through
logged_suggestions.py. The owner holds the store's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

from edge_client.answer.facts import Suggestion
from edge_client.answer.respond import CHOSEN_NOW, CONTINUED, Reply
from edge_client.answer.speaking import Speaking
from edge_client.answer.wording import Spoken
from edge_client.bundles import ActiveBundle
from edge_client.config import EdgeConfig
from edge_client.decide.asking import Asked, read_answer, worth_asking
from edge_client.decide.bandit import Bandit
from edge_client.decide.decision import AskLimits, Decision, decide
from edge_client.decide.refusals import Refused, read_refusal
from edge_client.decide.suggesting import Choices, Suggester
from edge_client.decide.travel_constraints import Constraint
from edge_client.decide.travel_reasons import limiting_text
from edge_client.decide.travel_trip import wish_of, within
from edge_client.held_models import HeldModels
from edge_client.logged_suggestions import LoggedSuggestions, Table
from edge_client.suggestions import Suggestions
from edge_client.understand.dialogue import Dialogue, travel_needs
from edge_client.understand.slots import SlotReader
from edge_client.understand.state import DialogueState, Question, Turn
from edge_client.understand.turns import SURE
from shared_models.bundle import Staleness
from shared_models.intents import Recognition
from shared_models.languages.tokens import fold
from shared_models.travel.catalogue import Catalogue

PROPOSES = ("topic", "refine", "correct", "negate", "cheaper", "pricier", "more", "answer", "undo", "refuse")
"""Acts after which something is suggested, if the intent suggests and nothing has to be asked first."""
LEADS = (*PROPOSES[1:], "choose", "accept", "why", "reset")
"""Acts that are about the running conversation, whatever the words alone might mean."""
_MAY_ASK = ("topic", "more", "answer")
"""Acts after which the user may be asked something: who is correcting and narrowing down has enough to say."""
_ASKING = ("ask", "frag", "pregunt")
_WANTED = ("place", "origin", "dates", "duration", "budget", "party", "interest")
_SHOWN_RULES = 3
_BY_WORDS = 0.75
"""Confidence of an intent that was read from cue words or from the conversation, for the rules."""


@dataclass
class Thread(Table):
    """One conversation, in memory."""

    asked: tuple[str, tuple[str, ...]] | None = None
    """The text that the assistant has just asked about, and the two readings."""
    elicited: Asked | None = None
    """The question about the user's taste that is open."""
    number: int = 0
    """Of turns."""
    dates_asked: bool = False


@dataclass(frozen=True, eq=False)
class Heard:
    """One text, as it was understood."""

    text: str
    recognition: Recognition
    told: str
    today: date


@dataclass(frozen=True, eq=False)
class Draft:
    """A reply by the templates, with what a local model needs to reword it."""

    reply: Reply
    spoken: Spoken | None = None
    offers: tuple[Suggestion, ...] = ()


class DialogueTurns:
    """Takes turns of conversations about what the bundle's catalogue holds."""

    def __init__(
        self,
        config: EdgeConfig,
        held: HeldModels,
        suggestions: Suggestions,
        log: LoggedSuggestions,
        speaking: Speaking,
        *,
        staleness: Callable[[ActiveBundle], Staleness],
        learn_choice: Callable[[str, str], None],
        plain: Callable[..., Reply],
    ) -> None:
        """`plain`: the reply of a turn without a dialogue, in the domain's own words."""
        self._config, self._held, self._suggestions, self._log = config, held, suggestions, log
        self._speaking, self._staleness, self._learn_choice, self._plain = speaking, staleness, learn_choice, plain
        self._dialogue: tuple[ActiveBundle, Dialogue] | None = None

    def take(self, thread: Thread, heard: Heard, bundle: ActiveBundle, suggester: Suggester) -> Draft:
        """One turn."""
        if thread.elicited is not None and (answered := self._answered(thread, heard, bundle, suggester)) is not None:
            return answered
        language, _ = self._speaking.preferred(self._suggestions.value)
        turn = self._reads(bundle).step(
            thread.state, heard.text, heard.today, recognition=heard.recognition, language=language or "en"
        )
        turn, refusal = self._refusal(thread, heard, turn, suggester)
        responder = self._held.words(bundle, language or turn.language)
        suggests = turn.state.intent in travel_needs().suggests
        decision = self._decision(turn, heard, bundle)
        leads = turn.act in LEADS
        detail = turn.act == "topic" and decision.intent == turn.state.intent and bool(turn.question or turn.changed)
        follows = leads or (turn.act == "topic" and (suggests or detail))
        if decision.action in ("refuse", "decline") or decision.reply or (decision.action == "ask" and not leads):
            # A rule has the last word, in any language; what it forbids, and what is only guessed, opens no topic.
            follows = False
        elif not follows:
            thread.state = turn.state
        if not follows:
            return Draft(self._plain(thread, heard, bundle, responder, decision))
        if turn.correction is not None and not self._log.silent:
            self._learn_choice(turn.correction.text, turn.correction.meant)
        # "No" alone: what should be different is asked, not guessed.
        if turn.question is None and turn.act in PROPOSES and suggests and (turn.act != "refuse" or refusal):
            if turn.act == "more":
                self._log.passed(thread, [one.id for one in thread.cards])
            return self._suggest(thread, heard, turn, decision, bundle, suggester, refusal.mild if refusal else ())
        draft = self._said(thread, heard, turn, decision, bundle, None)
        thread.state = turn.state
        if turn.act == "choose" and turn.state.chosen is not None:
            chosen = next((one for one in thread.cards if one.id == turn.state.chosen.id), None)
            if chosen is not None:
                self._log.chosen(thread, chosen)
        return draft

    def decided(self, recognition: Recognition, bundle: ActiveBundle) -> Decision:
        """What the rules make of it."""
        return decide(recognition, bundle.rules, AskLimits(self._config.ask_below, self._config.ask_margin))

    def _refusal(self, thread: Thread, heard: Heard, turn: Turn, suggester: Suggester) -> tuple[Turn, Refused | None]:
        """The turn, as a refusal with reasons if it is one."""
        before = thread.state
        acts = ("choose", "undo", "reset", "cheaper", "pricier", "why")
        if thread.trip is None or not thread.cards or turn.act in acts or heard.told == CHOSEN_NOW:
            return turn, None
        offers = [one.offer for one in thread.offers]
        wanted = any(name in _WANTED for name in turn.changed)
        found = read_refusal(heard.text, offers, thread.trip, suggester.catalogue, turn.language, wanted=wanted)
        if found is None:
            return turn, None
        self._log.refused(thread, found)
        kept = turn.state if turn.state.intent == before.intent and turn.act != "unclear" else before
        gone = tuple(dict.fromkeys((*kept.refused_offers, *(offer.id for offer in offers))))
        state = replace(
            kept, offers=(), chosen=None, asked=None, language=turn.language, refused_offers=gone, before=before
        )
        return Turn(state, "refuse", turn.language), found

    def _decision(self, turn: Turn, heard: Heard, bundle: ActiveBundle) -> Decision:
        """By the rules, about the intent that the conversation is about."""
        found, intent = heard.recognition, turn.state.intent
        # As the dialogue sees it: the encoder reads English, and what it is unsure about was named by the words.
        recognised = found.personal or heard.told or (turn.language == "en" and found.confidence >= SURE)
        trusted = found.intent == intent and not found.out_of_scope and bool(recognised)
        if turn.act == "reset":
            return Decision("answer", found.intent, found.confidence, found)
        if turn.act in (*LEADS, "topic") and intent and not trusted:
            found = Recognition(found.text, intent, _BY_WORDS, (), False, found.model_version)
        if turn.remark and (found.intent != turn.remark or found.out_of_scope):
            found = Recognition(found.text, turn.remark, _BY_WORDS, (), False, found.model_version)
        return self.decided(found, bundle)

    def _suggest(
        self,
        thread: Thread,
        heard: Heard,
        turn: Turn,
        decision: Decision,
        bundle: ActiveBundle,
        suggester: Suggester,
        mild: tuple[Constraint, ...] = (),
    ) -> Draft:
        """`mild`: what the last refusal excludes at least."""
        known = self._suggestions.known(bundle)
        wish = wish_of(turn.state, heard.today, suggester.catalogue, known, thread.refused)
        choices, bandit = self._suggestions.choose(bundle, suggester, wish, thread.rounds)
        if turn.act != "refuse":
            self._log.passed(thread, _named_and_refused(thread, turn.state, suggester.catalogue))
        if not choices.picked and turn.act == "refuse":
            # What was just refused would exclude everything: "cheaper than that" gives way, and the limits are the mildest.
            thread.refused = [*thread.refused[: len(thread.refused) - len(mild)], *mild]
            turn = replace(turn, state=replace(turn.state, price_below=None, price_above=None))
            wish = wish_of(turn.state, heard.today, suggester.catalogue, known, thread.refused)
            choices, bandit = self._suggestions.choose(bundle, suggester, wish, thread.rounds)
        language, _ = self._speaking.preferred(self._suggestions.value)
        language = language or turn.language
        thread.rounds += 1
        cards = self._log.offered(choices, wish, language, thread)
        thread.offers = self._speaking.offers(choices, wish, language)
        draft = self._said(thread, heard, turn, decision, bundle, thread.offers)
        reply = replace(draft.reply, suggestions=cards)
        if not cards and choices.denied:
            rules = tuple(dict.fromkeys(self._suggestions.denied[id] for id in choices.denied))
            reply = replace(
                reply,
                reasons=(*reply.reasons, *(rule.reason for rule in rules[:_SHOWN_RULES])),
                rule_ids=tuple(dict.fromkeys((*reply.rule_ids, *(rule.id for rule in rules[:_SHOWN_RULES])))),
            )
        elif not cards and choices.limiting is not None:
            reason = limiting_text(*choices.limiting, suggester.catalogue, language)
            reply = replace(reply, reasons=(*reply.reasons, reason))
        thread.state = turn.state.offering(*(one.offer for one in thread.offers))
        if turn.act in _MAY_ASK:
            reply = self._with_question(thread, heard, reply, choices, wish.dated, bundle, suggester, bandit)
        return replace(draft, reply=reply)

    def _with_question(
        self,
        thread: Thread,
        heard: Heard,
        reply: Reply,
        choices: Choices,
        dated: bool,
        bundle: ActiveBundle,
        suggester: Suggester,
        bandit: Bandit,
    ) -> Reply:
        """The reply with at most one question at its end: when, if that was not said; else what the user likes, if it pays."""
        if choices.candidates is None:
            return reply
        if not dated and not thread.dates_asked and "dates" not in thread.state.open:
            thread.dates_asked = True
            question = Question("dates", "missing")
            thread.state = replace(thread.state, asked=question)
            gazetteer, value = self._held.gazetteer(bundle), self._suggestions.value
            return _asking(reply, self._speaking.ask(question, reply.language, heard.today, gazetteer, value))
        learned, said = self._suggestions.learned, thread.state
        if not learned.allowed:
            return reply
        asked = worth_asking(
            suggester.catalogue,
            bandit,
            choices.candidates,
            learned.elicitor,
            float(self._config.clock()),
            done={*learned.asked_topics(), *said.interests, *said.refused_interests},
            language=reply.language,
            variant=thread.number,
        )
        if asked is None or not self._log.asked(asked):
            return reply
        thread.elicited = asked
        return _asking(reply, asked.spoken.text)

    def _answered(self, thread: Thread, heard: Heard, bundle: ActiveBundle, suggester: Suggester) -> Draft | None:
        """The reply to an answer to the open question about taste; None if the text is none."""
        asked, state = thread.elicited, thread.state
        assert asked is not None
        turn = self._reads(bundle).step(state, heard.text, heard.today, language=state.language or "en")
        decision = self._decision(replace(turn, state=state, act="answer"), heard, bundle)
        if turn.act == "why" and not any(word in fold(heard.text) for word in _ASKING):
            # About the suggestions, not about the question: that one stays open.
            return None
        if turn.act == "why":
            draft = self._said(thread, heard, replace(turn, state=state, act="accept"), decision, bundle, None)
            why = asked.spoken.why
            return Draft(replace(draft.reply, text=why, reasons=(why,), question=asked.spoken.text))
        thread.elicited = None
        answer = read_answer(heard.text, asked)
        self._log.answered(asked, answer)
        if answer is None:
            return None
        if answer == "skip":
            return self._said(thread, heard, Turn(state, "accept", turn.language), decision, bundle, None)
        shown = tuple(dict.fromkeys((*state.refused_offers, *(offer.id for offer in state.offers))))
        more = Turn(replace(state, offers=(), refused_offers=shown), "more", turn.language)
        return self._suggest(thread, heard, more, decision, bundle, suggester)

    def _reads(self, bundle: ActiveBundle) -> Dialogue:
        if self._dialogue is None or self._dialogue[0] is not bundle:
            self._dialogue = (bundle, Dialogue(SlotReader(self._held.gazetteer(bundle))))
        return self._dialogue[1]

    def _said(
        self,
        thread: Thread,
        heard: Heard,
        turn: Turn,
        decision: Decision,
        bundle: ActiveBundle,
        offers: tuple[Suggestion, ...] | None,
    ) -> Draft:
        value = self._suggestions.value
        language, _ = self._speaking.preferred(value)
        responder = self._held.words(bundle, language or turn.language)
        shown = explained(thread) if turn.act == "why" else offers
        spoken = self._speaking.say(
            turn,
            heard.today,
            shown,
            number=thread.number,
            labels=responder.labels,
            gazetteer=self._held.gazetteer(bundle),
            value=value,
        )
        told = heard.told or ("" if decision.recognition is heard.recognition else CONTINUED)
        reasons = responder.reasons(decision, self._staleness(bundle), told)
        if turn.act == "topic" and turn.question is None and offers is None:
            # A topic that nothing has to be asked about, and that is answered by the app: what was understood of it.
            spoken = spoken.after(responder.restated(decision.intent))
        reply = Reply(
            text=spoken.text,
            intent=decision.intent,
            confidence=decision.confidence,
            reasons=spoken.reasons if turn.act == "why" and spoken.reasons else reasons,
            out_of_scope=False,
            rule_ids=tuple(dict.fromkeys(rule.id for rule in decision.rules)),
            action="answer",
            choices=(),
            recognition=heard.recognition,
            question=spoken.question,
            language=spoken.language,
        )
        return Draft(reply, spoken, tuple(shown or ()))


def explained(thread: Thread) -> tuple[Suggestion, ...]:
    """What "why?" is about: what was chosen, else all on the table, each reason then with its place."""
    chosen = thread.state.chosen
    shown = [one for one in thread.offers if chosen is None or one.id == chosen.id] or list(thread.offers)
    if len(shown) == 1:
        return tuple(shown)
    return tuple(
        replace(one, reasons=tuple(replace(why, text=f"{one.name}: {why.text}") for why in one.reasons[:2]))
        for one in shown
    )


def _named_and_refused(thread: Thread, state: DialogueState, catalogue: Catalogue) -> list[str]:
    """Of what is on the table, the places that the user has just refused by their names."""
    refused = [within(place, catalogue) for place in state.refused_places if place not in thread.state.refused_places]
    return [one.id for one in thread.cards if any(places[catalogue.rows[one.id]] for places in refused)]


def _asking(reply: Reply, question: str) -> Reply:
    return replace(reply, text=f"{reply.text} {question}", question=question) if question else reply
