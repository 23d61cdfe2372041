"""Intents that the user has defined: a name and a few phrases with their embeddings. They never leave the device."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from edge_client.know.store import Store
from edge_client.know.vectors import Embed, pack_vector, unpack_vector
from shared_models.domain import UNSURE
from shared_models.errors import InputError, TextError, UnknownIntentError
from shared_models.intents import OUT_OF_SCOPE
from shared_models.purposes import PERSONAL_LEARNING
from shared_models.text_encoder import clean_text

MAX_INTENTS = 200
MAX_PHRASES = 200
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


class OwnIntents:
    """The user's own intents, in the order in which they were defined."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._table = store.table("own-intents", purpose=PERSONAL_LEARNING.name)
        self._clock = clock

    def define(
        self, name: str, phrases: Sequence[str], embed: Embed, encoder_sha256: str, taken: Collection[str]
    ) -> int:
        """Make intent `name`, or add phrases to it; returns how many it has now. `taken` are the assistant's own names.

        Raises InputError for a name or phrases that cannot be used; then nothing is kept.
        """
        if not isinstance(name, str) or not _NAME.match(name):
            raise InputError(
                f"{str(name)[:60]!r} is not a name for an intent: lower case letters, digits and _, a letter first"
            )
        if name in taken or name in (OUT_OF_SCOPE, UNSURE):
            raise InputError(
                f"{name!r} is one of the assistant's intents; teach it with feedback, or choose another name"
            )
        if isinstance(phrases, str) or not isinstance(phrases, Sequence):
            raise TextError("expected a list of phrases")
        texts = [clean_text(phrase) for phrase in phrases]
        if not texts or not all(texts):
            raise TextError("an intent needs at least one phrase, and no phrase may be empty")
        with self._store.transaction():
            record = self._table.get(name) or {"at_s": float(self._clock()), "phrases": []}
            known = {phrase["text"] for phrase in record["phrases"]}
            fresh = [text for text in dict.fromkeys(texts) if text not in known]
            if len(known) + len(fresh) > MAX_PHRASES or (name not in self._table and len(self._table) >= MAX_INTENTS):
                raise InputError(f"at most {MAX_INTENTS} own intents with {MAX_PHRASES} phrases each are kept")
            record["phrases"] += [{"text": text, **pack_vector(embed(text), encoder_sha256)} for text in fresh]
            self._table.put(name, record)
        return len(record["phrases"])

    def remove(self, name: str) -> None:
        """Raises UnknownIntentError if the user has no such intent."""
        if not isinstance(name, str) or not self._table.delete(name):
            raise UnknownIntentError(f"you have no own intent {str(name)[:60]!r}")

    def names(self) -> list[str]:
        return self._table.keys()

    def phrases(self) -> dict[str, list[str]]:
        return {name: [phrase["text"] for phrase in record["phrases"]] for name, record in self._table.items()}

    def vectors(self, embed: Embed, encoder_sha256: str) -> dict[str, npt.NDArray[np.float32]]:
        """Intent -> embeddings of its phrases [n, D]. Stores what had to be embedded anew."""
        found = {}
        with self._store.transaction():
            for name, record in self._table.items():
                rows, stale = [], False
                for phrase in record["phrases"]:
                    vector = unpack_vector(phrase, encoder_sha256)
                    if vector is None:
                        vector, stale = embed(phrase["text"]), True
                        phrase.update(pack_vector(vector, encoder_sha256))
                    rows.append(vector)
                if stale:
                    self._table.put(name, record)
                found[name] = np.stack(rows)
        return found

    def clear(self) -> int:
        return self._table.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def __len__(self) -> int:
        return len(self._table)
