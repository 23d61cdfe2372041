"""The user's own examples: what was said and what was meant. Kept with consent only; whoever calls `keep` has checked that.

One record for each text, with a count; a correction replaces what the text was thought to mean before. Embeddings are cached
beside the text and made anew when the encoder changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_client.know.store import Store
from edge_client.know.vectors import Embed, Vector, pack_vector, unpack_vector
from shared_models.purposes import PERSONAL_LEARNING
from shared_models.text_encoder import clean_text

MAX_COUNT = 50
"""A text that was said more often than this counts this often: habits, not hammering."""

MEANT = "meant"
ACCEPTED = "accepted"


@dataclass(frozen=True)
class Example:
    """One kept example."""

    text: str
    intent: str
    how: str
    """`meant`: the user corrected or taught; `accepted`: the user confirmed."""
    at_s: float
    """Unix time of the last mention."""
    count: int


class Examples:
    """The kept examples of one store, oldest mention first."""

    def __init__(self, store: Store, clock: Callable[[], float], most: int) -> None:
        """`most` records are kept; beyond that the oldest go."""
        self._store = store
        self._table = store.table("examples", purpose=PERSONAL_LEARNING.name)
        self._clock = clock
        self._most = most

    def keep(self, text: str, intent: str, how: str, vector: Vector, encoder_sha256: str) -> Example:
        """Keep one example, durably. Raises StoreWriteError."""
        key = example_key(text)
        with self._store.transaction():
            before = self._table.get(key)
            count = min(before["count"] + 1, MAX_COUNT) if before is not None and before["intent"] == intent else 1
            example = Example(clean_text(text), intent, how, float(self._clock()), count)
            # Removed first, so that the order of records is the order of the last mention.
            self._table.delete(key)
            self._table.put(key, {**example.__dict__, **pack_vector(vector, encoder_sha256)})
            for surplus in self._table.oldest(len(self._table) - self._most):
                self._table.delete(surplus)
        return example

    def find(self, text: str) -> Example | None:
        """The example with the same text (case and spacing aside)."""
        record = self._table.get(example_key(text))
        return None if record is None else _example(record)

    def all(self) -> list[Example]:
        return [_example(record) for record in self._table.entries()]

    def counts(self) -> dict[str, int]:
        """Mentions by intent."""
        counts: dict[str, int] = {}
        for example in self.all():
            counts[example.intent] = counts.get(example.intent, 0) + example.count
        return counts

    def matrix(self, embed: Embed, encoder_sha256: str, dimension: int) -> tuple[npt.NDArray[np.float32], list[str]]:
        """One row for each mention: embeddings [n, dimension] and intents, oldest first. Stores what had to be embedded anew."""
        found = self.vectors(embed, encoder_sha256)
        rows = [vector for example, vector in found for _ in range(example.count)]
        intents = [example.intent for example, _ in found for _ in range(example.count)]
        return (np.stack(rows) if rows else np.empty((0, dimension), np.float32)), intents

    def vectors(self, embed: Embed, encoder_sha256: str) -> list[tuple[Example, Vector]]:
        """Every example once, with its embedding, oldest first. Stores what had to be embedded anew."""
        found = []
        with self._store.transaction():
            for key, record in self._table.items():
                vector = unpack_vector(record, encoder_sha256)
                if vector is None:
                    vector = embed(record["text"])
                    self._table.put(key, {**record, **pack_vector(vector, encoder_sha256)})
                found.append((_example(record), vector))
        return found

    def forget_intent(self, intent: str) -> int:
        """Erase all examples of one intent; returns how many records."""
        with self._store.transaction():
            keys = [key for key, record in self._table.items() if record["intent"] == intent]
            return sum(self._table.delete(key) for key in keys)

    def forget_text(self, text: str) -> bool:
        """Erase the example of one text; True if there was one."""
        return self._table.delete(example_key(text))

    def clear(self) -> int:
        """Erase all; returns how many records."""
        return self._table.clear()

    def __len__(self) -> int:
        return len(self._table)


def example_key(text: str) -> str:
    """Name of a text's record: hash of the text as it is read, case aside."""
    return hashlib.sha256(clean_text(text).casefold().encode("utf-8", "replace")).hexdigest()[:32]


def _example(record: dict[str, Any]) -> Example:
    return Example(record["text"], record["intent"], record["how"], record["at_s"], record["count"])
