"""How a device speaks to its user: language and tone by the profile, the wording of turns, a local model if there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from edge_client.answer.facts import Facts, Suggestion
from edge_client.answer.offers import spoken_offer
from edge_client.answer.wording import TONES, Spoken, Tone, Wording
from edge_client.understand.places import Gazetteer
from edge_client.understand.state import Question, Turn
from shared_models.languages import LANGUAGES
from shared_models.purposes import REMOTE_LANGUAGE_MODEL

if TYPE_CHECKING:
    from edge_client.answer.local_model import LocalModelConfig, LocalSpeaker, Share
    from edge_client.decide.suggesting import Choices
    from edge_client.decide.travel_trip import Wish
    from edge_client.know.consent import Consent

Value = Callable[[str], Any]
"""Name of an attribute of the profile -> its value, None if it is not known or may not be used."""


class Speaking:
    """The voice of one client. Holds nothing of the user; what the profile says is asked for with each turn."""

    def __init__(self, consent: Consent, model: LocalModelConfig | None, shares: Sequence[Share] = ()) -> None:
        """`model`: what rewords answers; None: nothing does. `shares`: what its prompts may hold beside the answer itself."""
        self._consent, self._model, self._shares = consent, model, tuple(shares)
        self._speaker: tuple[Gazetteer | None, LocalSpeaker] | None = None

    @staticmethod
    def preferred(value: Value) -> tuple[str, Tone]:
        """Language ("": that of the text) and tone that the user wants, as far as the profile may tell."""
        said = value("language")
        language = said.partition("-")[0].partition("_")[0].casefold() if isinstance(said, str) else ""
        tone = value("tone")
        return language if language in LANGUAGES else "", tone if tone in TONES else "casual"

    @staticmethod
    def offers(choices: Choices, wish: Wish, language: str) -> tuple[Suggestion, ...]:
        """What was chosen, for the wording."""
        trip = wish.trip
        return tuple(spoken_offer(one.suggestion, trip.month, language, trip.first) for one in choices.picked)

    def say(
        self,
        turn: Turn,
        today: date,
        offers: Sequence[Suggestion] | None,
        *,
        number: int,
        labels: Mapping[str, str],
        gazetteer: Gazetteer | None,
        value: Value,
    ) -> Spoken:
        """One turn by the templates."""
        language, tone = self.preferred(value)
        wording = Wording(language, tone, labels=labels, gazetteer=gazetteer)
        return wording.say(turn, today, offers, number=number)

    def ask(self, question: Question, language: str, today: date, gazetteer: Gazetteer | None, value: Value) -> str:
        """A question that follows an answer."""
        _, tone = self.preferred(value)
        return Wording(language, tone, gazetteer=gazetteer).sentence(f"ask.{question.about}", Facts(), today)

    @property
    def rewords(self) -> bool:
        """Whether a model is configured. It may take seconds: not to be called while anything is held."""
        return self._model is not None

    def reworded(
        self,
        spoken: Spoken,
        today: date,
        offers: Sequence[Suggestion],
        words: str,
        gazetteer: Gazetteer | None,
        *,
        personal: bool,
    ) -> Spoken:
        """In the model's words if they pass every check. `personal`: the user has consented to personalisation; without that
        no reason that tells of the user is in the prompt. Nothing is sent to another machine without the user's
        consent to that, whatever the app has configured."""
        if self._model is None or not (self._model.stays_here or self._consent.is_granted(REMOTE_LANGUAGE_MODEL.name)):
            return spoken
        if self._speaker is None or self._speaker[0] is not gazetteer:
            from edge_client.answer.local_model import LocalSpeaker

            self._speaker = (gazetteer, LocalSpeaker(self._model, gazetteer=gazetteer))
        allowed = [share for share in self._shares if share != "reasons" or personal]
        return self._speaker[1].reword(spoken, today, suggestions=offers, words=words, allowed=allowed)
