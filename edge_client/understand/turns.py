"""One text against one state: which turn it is. The rules of reading, from the most to the least particular."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from types import MappingProxyType

from edge_client.understand.amounts import MOST_TRAVELLERS, Budget, Party
from edge_client.understand.complaints import read_complaint
from edge_client.understand.numbers import number_at
from edge_client.understand.ordinals import read_ordinal
from edge_client.understand.places import Gazetteer, Place, no_places, same_name
from edge_client.understand.slots import Slot, SlotName, Understood
from edge_client.understand.state import (
    MOST_TOPICS,
    Act,
    Correction,
    DialogueNeeds,
    DialogueState,
    Offer,
    Question,
    Turn,
    differences,
)
from shared_models.intents import Recognition
from shared_models.languages import Language, load_language
from shared_models.languages.tokens import Token

SURE = 0.5
"""Confidence from which a recognised intent may open or switch a topic."""
_WEAK_CUES = ("suggest_destination", "thanks", "greeting")
_LONGEST_ORDINAL_TEXT = 12


class TurnReader:
    """One text against one state."""

    def __init__(
        self,
        state: DialogueState,
        read: Understood,
        needs: DialogueNeeds,
        today: date,
        recognition: Recognition | None,
        gazetteer: Gazetteer | None = None,
    ) -> None:
        self._state = state
        self._read = read
        self._needs = needs
        self._today = today
        self._gazetteer = gazetteer or no_places()
        self._words: Language = load_language(read.language)
        self._tokens: Sequence[Token] = read.tokens
        complaint = read_complaint(self._tokens, read.slots, self._words)
        self._complains, spoilt = complaint.said, complaint.places
        self._aside = (*spoilt, *complaint.measures)
        slots = [slot for slot in read.slots if slot not in complaint.measures]
        self._wanted = tuple(slot for slot in slots if not slot.negated and slot not in spoilt)
        self._refused = tuple(slot for slot in slots if slot.negated or slot in spoilt)
        self._intent = self._named_intent(recognition)

    def turn(self) -> Turn:
        """The first reading that fits, from the most to the least particular."""
        for read in (self._answered, self._controlled, self._chosen, self._priced, self._asked_for_more, self._misread):
            found = read()
            if found is not None:
                return found
        return self._changed()

    # -- readings -----------------------------------------------------------------------------------------------------

    def _answered(self) -> Turn | None:
        asked = self._state.asked
        if asked is None:
            return None
        if asked.kind == "which" and asked.places:
            number = read_ordinal(self._tokens, self._read.slots, self._words)
            picks = [place for place in asked.places if self._mentions(self._country(place))]
            if number is not None and -1 <= number <= len(asked.places) and number != 0:
                picks = [asked.places[number - 1 if number > 0 else -1]]
            if len(picks) == 1:
                return self._settle_place(picks[0])
        if asked.kind == "confirm" and not self._wanted:
            if self._says("accept"):
                return self._settle_place(asked.places[0])
            if self._says("refuse"):
                return self._done(self._state.without("place"), "answer", ("place",))
        if asked.kind in ("missing", "past") and asked.about != "intent":
            bare = self._bare_answer(asked.about)
            if bare is not None:
                return self._done(self._state.with_slots(bare), "answer", (bare.name,))
        left_open = self._left_open()
        if left_open:
            return self._done(replace(self._state, open=self._state.open | left_open), "answer", tuple(left_open))
        return None

    def _settle_place(self, place: Place) -> Turn:
        slot = self._state.slots.get("place") or Slot("place", place, 0, 0, "")
        settled = replace(slot, value=place, choices=(), confidence=1.0)
        return self._done(self._state.with_slots(settled), "answer", ("place",))

    def _bare_answer(self, about: str) -> Slot | None:
        """ "2" answers how many, "500" how much, "five" how long."""
        if self._wanted or about not in ("party", "budget", "duration"):
            return None
        for index in range(min(len(self._tokens), 6)):
            number = number_at(self._tokens, index, self._words)
            if number is None or number.value <= 0:
                continue
            start, end = self._tokens[index].start, self._tokens[index + number.tokens - 1].end
            text, whole = self._read.text[start:end], int(number.value)
            if about == "budget":
                return Slot("budget", Budget(None, number.value, None), start, end, text)
            if whole != number.value:
                return None
            if about == "party" and whole <= MOST_TRAVELLERS:
                return Slot("party", Party(whole), start, end, text)
            if about == "duration" and whole <= 365:
                return Slot("duration", whole, start, end, text)
        return None

    def _left_open(self) -> frozenset[SlotName]:
        names: dict[str, SlotName] = {"anything": "place", "flexible": "dates", "no_limit": "budget"}
        return frozenset(slot for phrase, slot in names.items() if self._says(phrase))

    def _controlled(self) -> Turn | None:
        if self._says("reset"):
            return self._done(DialogueState(topics=()), "reset")
        if self._says("undo") and not self._wanted and self._state.before is not None:
            return self._done(self._state.before, "undo", differences(self._state, self._state.before))
        if self._says("why", whole=True) and not self._wanted:
            return Turn(self._state, "why", self._read.language, question=self._state.asked)
        return None

    def _chosen(self) -> Turn | None:
        offers = self._state.offers
        if not offers or self._refused or self._complains or len(self._tokens) > _LONGEST_ORDINAL_TEXT:
            return None
        number = read_ordinal(self._tokens, self._read.slots, self._words)
        if number is not None and (number == -1 or 1 <= number <= len(offers)):
            return self._take(offers[number - 1 if number > 0 else -1])
        # The whole name, or its first words up to a comma or bracket: "the Bella Vista, please".
        named = [offer for offer in offers if self._mentions(offer.name)]
        if len(named) == 1 and not any(slot.name != "place" for slot in self._wanted):
            return self._take(named[0])
        if self._says("accept", whole=True) and len(offers) == 1:
            return self._take(offers[0])
        return None

    def _take(self, offer: Offer) -> Turn:
        return self._done(replace(self._state, chosen=offer), "choose", ("chosen",))

    def _priced(self) -> Turn | None:
        for act, name in (("cheaper", "cheaper"), ("pricier", "pricier")):
            if not self._says(name) or not (self._state.offers or self._state.intent):
                continue
            meant = [offer for offer in self._state.offers if self._mentions(offer.name)]
            prices = [offer.price for offer in meant or self._state.offers if offer.price is not None]
            if self._state.chosen is not None and self._state.chosen.price is not None:
                prices = [self._state.chosen.price]
            state = self._merged(self._state)
            if act == "cheaper":
                state = replace(state, price_below=min(prices) if prices else state.price_below, price_above=None)
            else:
                state = replace(state, price_above=max(prices) if prices else state.price_above, price_below=None)
            shown = tuple(offer.id for offer in self._state.offers)
            state = replace(state, offers=(), chosen=None, refused_offers=_joined(state.refused_offers, shown))
            return self._done(state, "cheaper" if act == "cheaper" else "pricier", ("price", *self._names()))
        return None

    def _asked_for_more(self) -> Turn | None:
        if not self._state.offers or not self._says("more") or self._wanted or self._refused:
            return None
        shown = tuple(offer.id for offer in self._state.offers)
        refused = _joined(self._state.refused_offers, shown)
        return self._done(replace(self._state, offers=(), chosen=None, refused_offers=refused), "more")

    def _misread(self) -> Turn | None:
        """ "No, I meant a hotel": the earlier text meant this intent."""
        if not self._state.intent or not self._says("meant") or self._intent in ("", self._state.intent):
            return None
        wrong, right = self._state.intent, self._intent
        correction = Correction(self._state.last_text, right, wrong) if self._state.last_text else None
        state = self._merged(replace(self._state, intent=right, offers=(), chosen=None))
        return self._done(state, "correct", ("intent", *self._names()), correction=correction)

    def _changed(self) -> Turn:
        """A topic, or a change of what is wanted."""
        state, act = self._state, self._act()
        if act == "topic":
            state = self._switched()
        if act in ("unclear", "remark") and self._complains and state.offers:
            # "The second one is too far": what of it matters is the refusal's to understand.
            act = "refuse"
        if act in ("accept", "refuse"):
            if act == "refuse" and state.offers:
                shown = tuple(offer.id for offer in state.offers)
                state = replace(state, offers=(), chosen=None, refused_offers=_joined(state.refused_offers, shown))
            return self._done(state, act)
        if act in ("unclear", "remark"):
            asked = self._state.asked
            pending = asked if asked is not None and asked.kind != "rephrase" else None
            question = pending if act == "remark" else Question("intent", "rephrase")
            remark = self._intent if act == "remark" else ""
            return Turn(state, act, self._read.language, question=question, remark=remark)
        state = self._merged(state)
        if self._left_open():
            state = replace(state, open=state.open | self._left_open())
        dropped = tuple(slot.text for slot in self._refused)
        if act != "topic" or self._names():
            state = replace(state, offers=(), chosen=None)
        return self._done(state, act, self._names(), dropped=dropped)

    def _act(self) -> Act:
        state = self._state
        corrects = self._starts("correction")
        new_topic = bool(self._intent) and self._intent != state.intent and self._intent not in self._needs.remarks
        if new_topic and (not state.intent or not (self._stays() or self._answers())):
            return "topic"
        if self._refused and not (corrects and self._wanted):
            return "negate"
        if self._wanted:
            if state.asked is not None and any(slot.name == state.asked.about for slot in self._wanted):
                return "answer"
            replaced = any(slot.name in state.slots for slot in self._wanted if slot.name != "interest")
            if corrects and (replaced or state.intent):
                return "correct"
            return "refine" if state.intent else "topic"
        if self._left_open():
            return "refine"
        if self._intent and self._intent == state.intent:
            return "refine"
        if self._intent in self._needs.remarks:
            return "remark"
        if self._says("accept", whole=True):
            return "accept"
        if self._says("refuse", whole=True):
            return "refuse"
        return "unclear"

    def _answers(self) -> bool:
        """Whether what a recogniser takes for another topic is only what was asked for, or details alone: "on 3 May"."""
        if self._intent_by_words or not self._wanted:
            return False
        asked = self._state.asked
        if asked is not None and not self._sure_of_topic and asked.about in [slot.name for slot in self._wanted]:
            return True
        spans = [(slot.start, slot.end) for slot in self._read.slots]
        return not any(
            token.is_word
            and token.folded not in self._words.words
            and not any(start <= token.start < end for start, end in spans)
            for token in self._tokens
        )

    def _stays(self) -> bool:
        """Whether a hint at another intent belongs to the running topic: "it is a family trip", "Lima is too far"."""
        if self._complains and any(self._mentions(offer.name) for offer in self._state.offers):
            return True
        if self._refines():
            return True
        return self._intent in _WEAK_CUES and bool(self._wanted or self._refused) and not self._sure_of_topic

    def _refines(self) -> bool:
        """ "What about Portugal?", "something with good food": after such words nothing but what is wanted or refused."""
        lead = self._words.phrases("refining").at(self._tokens, 0)
        if lead is None or not (self._wanted or self._refused):
            return False
        spans = [(slot.start, slot.end) for slot in self._read.slots]
        rest = [
            token for token in self._tokens[lead.tokens :] if token.is_word and token.folded not in self._words.words
        ]
        return all(any(start <= token.start < end for start, end in spans) for token in rest)

    def _switched(self) -> DialogueState:
        """The new topic; where, when, who and how much go with the traveller, what was refused stays behind."""
        state = self._state
        if not state.intent:
            return replace(state, intent=self._intent or "suggest_destination")
        parked = tuple(topic for topic in state.topics if topic.intent != self._intent)
        earlier = next((topic for topic in state.topics if topic.intent == self._intent), None)
        mine = replace(state, topics=(), before=None, asked=None)
        fresh = DialogueState(
            intent=self._intent,
            slots=MappingProxyType({**(earlier.slots if earlier else {}), **state.slots}),
            interests=state.interests,
            refused_interests=state.refused_interests,
            refused_places=state.refused_places,
            offers=earlier.offers if earlier else (),
            chosen=earlier.chosen if earlier else None,
            last_text=state.last_text,
            topics=(*parked, mine)[-MOST_TOPICS:],
        )
        return fresh

    def _merged(self, state: DialogueState) -> DialogueState:
        """What is wanted and refused in this text, put into the state."""
        interests = [str(slot.value) for slot in self._wanted if slot.name == "interest"]
        not_wanted = [str(slot.value) for slot in self._refused if slot.name == "interest"]
        state = replace(
            state,
            interests=tuple(tag for tag in _joined(state.interests, interests) if tag not in not_wanted),
            refused_interests=tuple(
                tag for tag in _joined(state.refused_interests, not_wanted) if tag not in interests
            ),
        )
        for slot in self._refused:
            if slot.name in ("place", "origin"):
                state = replace(state, refused_places=(*state.refused_places, slot.value))  # type: ignore[arg-type]
                held = state.place
                if held is not None and held == slot.value:
                    state = state.without("place")
            elif slot.name in state.slots and state.slots[slot.name].value == slot.value:
                state = state.without(slot.name)
        # The last one said counts: "in April, no, in May".
        singles = {slot.name: slot for slot in self._wanted if slot.name != "interest"}
        if any(slot.name == "dates" and slot.value.days > 1 for slot in singles.values()) and "duration" not in singles:  # type: ignore[union-attr]
            state = state.without("duration") if "dates" in state.slots else state
        if "budget" in singles:
            state = replace(state, price_below=None, price_above=None)
        return state.with_slots(*singles.values())

    def _country(self, place: Place) -> str:
        return self._gazetteer.country_name(place.country, self._read.language)

    def _done(
        self, state: DialogueState, act: Act, changed: tuple[str, ...] = (), *, correction: Correction | None = None,
        dropped: tuple[str, ...] = (),
    ) -> Turn:  # fmt: skip
        question = self._question(state) if act not in ("choose", "reset") else None
        return Turn(state, act, self._read.language, tuple(dict.fromkeys(changed)), question, correction, dropped)

    def _question(self, state: DialogueState) -> Question | None:
        """What must be asked before acting: a doubtful place, dates that are over, what the intent needs."""
        slot = state.slots.get("place")
        if slot is not None and slot.choices:
            names = tuple(f"{place.name(self._read.language)} ({self._country(place)})" for place in slot.choices)
            return Question("place", "which", names, slot.choices)
        if slot is not None and slot.confidence < 0.7 and state.place is not None:
            return Question("place", "confirm", (state.place.name(self._read.language),), (state.place,))
        if state.past(self._today):
            return Question("dates", "past")
        missing = next((name for name in self._needs.needs.get(state.intent, ()) if self._lacks(state, name)), None)
        return None if missing is None else Question(missing, "missing")

    def _lacks(self, state: DialogueState, name: SlotName) -> bool:
        if name in state.slots or name in state.open:
            return False
        # Dates with a first and a last day tell how long.
        return not (name == "duration" and state.dates is not None and 1 < state.dates.days <= 21)

    # -- words --------------------------------------------------------------------------------------------------------

    def _named_intent(self, recognition: Recognition | None) -> str:
        self._sure_of_topic = False
        self._intent_by_words = False
        trusted = recognition is not None and not recognition.out_of_scope and recognition.confidence >= SURE
        if trusted and recognition is not None and (self._read.language == "en" or recognition.personal):
            self._sure_of_topic = recognition.confidence >= 0.8
            return recognition.intent
        spans = [(slot.start, slot.end) for slot in self._read.slots if slot.name == "interest"]
        found: list[tuple[bool, int, str]] = []
        for index, match in self._words.phrases("intent_cues").anywhere(self._tokens):
            start, end = self._tokens[index].start, self._tokens[index + match.tokens - 1].end
            if self._state.intent and any(begin < end and start < stop for begin, stop in spans):
                continue
            found.append((match.value in _WEAK_CUES, -match.tokens, match.value))
        if not found:
            return ""
        self._intent_by_words = True
        weak, size, intent = min(found, key=lambda cue: cue[0])
        self._sure_of_topic = weak and size <= -2
        return intent

    def _says(self, name: str, *, whole: bool = False) -> bool:
        """Whether a phrase of the list occurs; `whole`: the text is little else."""
        found = self._words.phrases(name).anywhere(self._tokens)
        if not found or not whole:
            return bool(found)
        words = sum(token.is_word for token in self._tokens)
        return found[0][0] <= 1 and words - sum(match.tokens for _, match in found) <= 3

    def _starts(self, name: str) -> bool:
        return self._words.phrases(name).at(self._tokens, 0) is not None

    def _mentions(self, name: str) -> bool:
        size = len(name.split())
        texts = [token.text for token in self._tokens if token.is_word or token.is_number]
        return any(same_name(" ".join(texts[start : start + size]), name) for start in range(len(texts)))

    def _names(self) -> tuple[str, ...]:
        """Of what is wanted and what is refused by its name; a complaint names what it is about, and changes no wish."""
        return tuple(dict.fromkeys(slot.name for slot in self._read.slots if slot not in self._aside))


def _joined(known: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*known, *new)))
