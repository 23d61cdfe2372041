"""Which of a list is meant: "the second one", "number two", "the last"."""

from __future__ import annotations

from collections.abc import Sequence

from edge_client.understand.numbers import number_at
from edge_client.understand.slots import Slot
from shared_models.languages import Language
from shared_models.languages.tokens import Token


def read_ordinal(tokens: Sequence[Token], slots: Sequence[Slot], words: Language) -> int | None:
    """ "The second one", "number two", "2": which of a list; None if a date or a number of people was meant."""
    claimed = {
        position for slot in slots for position, token in enumerate(tokens) if slot.start <= token.start < slot.end
    }
    for index, match in words.phrases("ordinals").anywhere(tokens):
        if claimed.isdisjoint(range(index, index + match.tokens)):
            after = tokens[index + match.tokens :]
            if not after or not after[0].is_word or len(tokens) <= 6 or words.phrases("ordinal_tail").at(after, 0):
                return int(match.value)
    for index, match in words.phrases("option_words").anywhere(tokens):
        number = number_at(tokens, index + match.tokens, words)
        if number is not None and number.value == int(number.value):
            return int(number.value)
    if len(tokens) <= 2:
        number = number_at(tokens, 0, words)
        if number is not None and number.value == int(number.value) and not slots:
            return int(number.value)
    return None
