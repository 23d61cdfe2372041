"""The decision log: what the assistant chose for the user and why. Kept with consent to personalisation only, and bounded.

What was decided is the business of decide/; this room only remembers it, so that it can be shown, exported and erased.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from edge_client.know.consent import Consent
from edge_client.know.store import Records, Store
from shared_models.errors import InputError
from shared_models.purposes import PERSONALISATION

MAX_WORDS = 300
MAX_REASONS = 20
MAX_CONTEXT_BYTES = 8 * 1024


class DecisionLog:
    """The latest decisions of one store."""

    def __init__(self, store: Store, consent: Consent, clock: Callable[[], float], most: int = 500) -> None:
        """`most` decisions are kept; beyond that the oldest go. Raises InputError."""
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 100_000:
            raise InputError(f"most is {str(most)[:60]!r}, expected a whole number from 1 to 100000")
        self._store = store
        self._consent = consent
        self._clock = clock
        self._most = most
        consent.when_withdrawn(PERSONALISATION.name, self._erase)

    @property
    def _table(self) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        return self._store.table("decisions", purpose=PERSONALISATION.name)

    def record(
        self,
        kind: str,
        chosen: str,
        reasons: Sequence[str],
        *,
        context: Mapping[str, Any] | None = None,
        conversation: str = "",
    ) -> str | None:
        """Keep one decision, durably; returns its id, or None without consent (then nothing is kept).

        `kind`: what was decided about (`answer`, `suggestion` …); `chosen`: what was chosen; `reasons`: plain sentences, the
        weightiest first; `context`: what it was decided on, as JSON of at most 8 KiB; `conversation`: where it was made, for
        whoever may ask about it. Ids are in the order of the decisions and cannot be guessed. Raises InputError, StoreWriteError.
        """
        entry = {
            "kind": _words("kind", kind),
            "chosen": _words("chosen", chosen),
            "reasons": _reasons(reasons),
            "context": _context({} if context is None else context),
            **({"conversation": _words("conversation", conversation)} if conversation else {}),
        }
        with self._store.lock:
            if not self._consent.is_granted(PERSONALISATION.name):
                return None
            with self._store.transaction():
                table = self._table
                key = table.append({"at_s": float(self._clock()), **entry}, suffix=f"-{secrets.token_hex(8)}")
                if len(table) > self._most:
                    for old in table.oldest(len(table) - self._most):
                        table.delete(old)
        return key

    def recent(self, n: int = 50, *, within: str = "") -> list[dict[str, Any]]:
        """The latest `n` decisions, newest first: `id`, `at_s` (Unix seconds), `kind`, `chosen`, `reasons`, `context`.

        With `conversation`, if it was made in one; `within`: only of conversations whose name begins so.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise InputError(f"n is {str(n)[:60]!r}, expected a whole number from 0")
        with self._store.lock:
            table = self._table
            keys = table.keys()
            kept = ((key, table.get(key)) for key in reversed(keys))
            of_interest = (
                {"id": key, **entry}
                for key, entry in kept
                if entry is not None and entry.get("conversation", "").startswith(within)
            )
            return list(islice(of_interest, n))

    def find(self, id: str) -> dict[str, Any] | None:
        """One decision as `recent` gives it; None if it is not kept (any more)."""
        with self._store.lock:
            entry = self._table.get(id)
        return None if entry is None else {"id": id, **entry}

    def clear(self) -> int:
        """Erase all; returns how many there were."""
        return self._table.clear()

    def __len__(self) -> int:
        return len(self._table)

    def _erase(self) -> None:
        self.clear()


def _words(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_WORDS:
        raise InputError(f"{name} is {str(value)[:60]!r}, expected text of 1 to {MAX_WORDS} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} holds half a character (a lone surrogate)") from error
    return value


def _reasons(reasons: object) -> list[str]:
    if isinstance(reasons, str | bytes) or not isinstance(reasons, Sequence) or len(reasons) > MAX_REASONS:
        raise InputError(f"reasons: expected a list of at most {MAX_REASONS} sentences")
    return [_words("a reason", reason) for reason in reasons]


def _context(context: object) -> dict[str, Any]:
    if not isinstance(context, Mapping):
        raise InputError(f"context is a {type(context).__name__}, expected a JSON object")
    try:
        text = json.dumps(dict(context), allow_nan=False, ensure_ascii=False)
        size_bytes = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"context is not JSON: {str(error)[:200]}") from error
    if size_bytes > MAX_CONTEXT_BYTES:
        raise InputError(f"context has {size_bytes} bytes, at most {MAX_CONTEXT_BYTES} are kept")
    found: dict[str, Any] = json.loads(text)
    return found
