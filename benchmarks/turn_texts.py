"""What is said to measure a turn: the domain's utterances, conversations about where to go, and one of every kind of turn."""

from __future__ import annotations

TALKS = (
    "somewhere {mood} in {month} for a week", "something cheaper", "the second one sounds good", "why that one?",
    "not {mood}, rather quiet", "two of us, at most {budget} euros", "more like that", "what about {month} instead",
)  # fmt: skip
MOODS = ("warm", "sunny", "with a beach", "with museums", "for hiking", "with good food", "by the sea", "for families")
MONTHS = ("January", "March", "May", "June", "July", "September", "October", "December")


def spoken(count: int, split: str = "test") -> list[tuple[str, str, str]]:
    """(conversation, text, intent or ""): every other one a turn of a conversation about where to go."""
    from shared_models.domain import TRAVEL, load_domain

    domain = load_domain(TRAVEL)
    said = [(one.text, one.intent) for spec in domain.intents for one in (spec.test if split == "test" else spec.train)]
    # Spread over the intents, the same in every process.
    said = [said[place * 257 % len(said)] for place in range(len(said))]
    out = []
    for number in range(count):
        if number % 2:
            turn = number // 2
            talk = turn // len(TALKS)
            text = TALKS[turn % len(TALKS)].format(
                mood=MOODS[talk % len(MOODS)], month=MONTHS[(talk // 3) % len(MONTHS)], budget=300 + 10 * talk
            )
            # What is short in a conversation is said again in others: the words around it make it another text.
            out.append((f"talk-{talk}", f"{text} please{'!' * (talk % 7)}", ""))
        else:
            text, intent = said[number // 2 % len(said)]
            out.append(("other", text, intent))
    return out


def every_path() -> list[tuple[str, str]]:
    """(conversation, text): among them the misspelled, the unknown, the refused, the undone and the other languages."""
    said = [(f"warm-{conversation}", text) for conversation, text, _ in spoken(4 * len(TALKS), "train")]
    said += [("warm-es", "algún sitio cálido en junio"), ("warm-de", "irgendwohin im Mai, wo es warm ist")]
    return [*said, *(("warm", text) for text in ("to Lisbn in May", "no, too expensive", "qwertz asdf", "undo that"))]
