"""The words of a question, of its "why do you ask?", and what answers mean as explicit feedback. English, German, Spanish.

Every sentence is true of the numbers it comes with; none presses, none promises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_client.decide.elicitation import Question
from shared_models.errors import DecisionError

LANGUAGES = ("en", "de", "es")
ANSWERS = ("love", "like", "neutral", "dislike", "hate", "skip")
_VALUES = {"love": 1.0, "like": 0.5, "neutral": 0.0, "dislike": -0.5, "hate": -1.0}

_SAID = {
    words: name
    for name, said in {
        "love": "love it|i love it|very much|absolutely|a lot|definitely|sehr|sehr gern|sehr gerne|total|unbedingt|mucho|"
        "muchísimo|me encanta|por supuesto",
        "like": "yes|yeah|yep|yes please|sure|i do|like it|i like it|i like that|good|ok|okay|ja|ja gern|ja gerne|gern|gerne|"
        "mag ich|sí|si|me gusta|claro|sí me gusta",
        "neutral": "maybe|so so|so-so|neutral|i don t mind|don t mind|don t care|no strong feeling|it depends|egal|ist mir egal|"
        "vielleicht|mittel|geht so|kommt darauf an|me da igual|depende|quizás|tal vez|más o menos",
        "dislike": "no|nope|not really|rather not|not so much|no thanks|i don t|i don t like it|nein|eher nicht|nein danke|"
        "nicht so|mag ich nicht|nicht wirklich|no mucho|la verdad es que no|no me gusta",
        "hate": "not at all|never|i hate it|hate it|gar nicht|überhaupt nicht|hasse ich|nada|para nada|lo odio|nunca",
        "skip": "skip|skip it|no answer|rather not say|none of your business|überspringen|keine antwort|omitir|saltar|paso",
    }.items()
    for words in said.split("|")
}
"""What people say instead of pressing a button."""

_ASK = {
    "en": (
        "May I ask: how do you feel about {topic}?",
        "One thing would help me: do you like {topic}?",
        "Is {topic} something for you?",
    ),
    "de": (
        "Darf ich fragen: Wie stehst du zu {topic}?",
        "Eines würde mir helfen: Magst du {topic}?",
        "Ist {topic} etwas für dich?",
    ),
    "es": (
        "¿Puedo preguntarte qué te parece esto: {topic}?",
        "Una cosa me ayudaría: ¿te gusta {topic}?",
        "¿Te interesa {topic}?",
    ),
}
_WHY = {
    "en": "Your answer would clear up about {percent} of what I do not know about your taste here. It stays on this device, "
    "and you can skip the question.",
    "de": "Deine Antwort klärt etwa {percent} von dem, was ich hier über deinen Geschmack nicht weiß. Sie bleibt auf diesem "
    "Gerät, und du kannst die Frage überspringen.",
    "es": "Tu respuesta aclararía cerca del {percent} de lo que no sé aquí sobre tus gustos. Se queda en este "
    "dispositivo, y puedes omitir la pregunta.",
}
_LITTLE = {"en": "less than 1%", "de": "weniger als 1 %", "es": "menos del 1 %"}
_PERCENT = {"en": "{}%", "de": "{} %", "es": "{} %"}
_WORDS = {
    "en": ("I love it", "I like it", "No strong feeling", "Not really", "Not at all", "Skip"),
    "de": ("Sehr gern", "Gern", "Egal", "Eher nicht", "Gar nicht", "Überspringen"),
    "es": ("Me encanta", "Me gusta", "Me da igual", "No mucho", "Nada", "Omitir"),
}


@dataclass(frozen=True)
class SpokenQuestion:
    """What a chat shows."""

    text: str
    why: str
    """The answer to "why do you ask?"."""
    answers: tuple[tuple[str, str], ...]
    """(name, words) of each button; `skip` is always there."""


def speak(question: Question, topic: str, language: str = "en", variant: int = 0) -> SpokenQuestion:
    """Put `question` about `topic` (its name in `language`) into words. `variant` picks the phrasing.

    Raises DecisionError for another language or an unusable topic.
    """
    if language not in LANGUAGES:
        raise DecisionError(f"no questions in language {str(language)[:20]!r}, expected one of {', '.join(LANGUAGES)}")
    if not isinstance(topic, str) or not 0 < len(topic.strip()) <= 100 or not topic.isprintable():
        raise DecisionError("the topic of a question is a short printable text")
    phrases = _ASK[language]
    whole = round(100.0 * question.removed)
    percent = _PERCENT[language].format(whole) if whole >= 1 else _LITTLE[language]
    # Not by format(): a topic with braces in it is text, not a template.
    text = phrases[variant % len(phrases)].replace("{topic}", topic.strip())
    return SpokenQuestion(
        text, _WHY[language].replace("{percent}", percent), tuple(zip(ANSWERS, _WORDS[language], strict=True))
    )


def answer_named(text: str, question: SpokenQuestion) -> str | None:
    """Which answer a short text gives: the words of a button, or what people say instead; None for anything else."""
    said = " ".join(re.sub(r"[.,!?¡¿\"'“”„:;()]", " ", text).casefold().split())
    if not said or len(said) > 60:
        return None
    for name, words in question.answers:
        if said in (name, words.casefold()):
            return name
    return _SAID.get(said)


def answer_value(answer: str, low: float, high: float) -> float | None:
    """An answer as explicit feedback on the scale of rewards [low, high]; None for `skip`: it says nothing about the topic."""
    if answer == "skip":
        return None
    if answer not in _VALUES:
        raise DecisionError(f"answer is {str(answer)[:40]!r}, expected one of {', '.join(ANSWERS)}")
    if not low < high:
        raise DecisionError(f"rewards range from {low} to {high}, expected the lower first")
    return (low + high) / 2.0 + _VALUES[answer] * (high - low) / 2.0
