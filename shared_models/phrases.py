"""`phrases.json`: the public phrases that a head was started from, so that a device can tell what it would forget.

Optional in a bundle. A device that tunes its own copy of the head needs them twice: some beside the user's examples, against
forgetting, the others to measure what was forgotten. Without them it does not tune.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared_models.canonical import canonical_bytes, parse_document
from shared_models.domain import Domain
from shared_models.errors import WireError

FORMAT = 1
MOST_PHRASES = 5000
"""In all; a device encodes each once a night (about 4 ms)."""
MOST_CHARS = 300
"""Of one; a domain's longer ones are left out."""


@dataclass(frozen=True)
class PublicPhrases:
    """What anybody may read."""

    intents: Mapping[str, tuple[str, ...]]
    """Intent -> phrases that mean it."""
    out_of_scope: tuple[str, ...] = ()
    """Phrases that mean none of them."""

    @classmethod
    def of_domain(cls, domain: Domain) -> PublicPhrases:
        """The domain's seed phrases; evenly fewer of each intent where they would be too many."""
        most = MOST_PHRASES // (len(domain.intents) + 1)

        def some(phrases: Sequence[str]) -> tuple[str, ...]:
            return tuple(phrase for phrase in phrases if len(phrase) <= MOST_CHARS)[:most]

        return cls({spec.name: some(spec.seeds) for spec in domain.intents}, some(domain.out_of_scope_calibration))

    def to_bytes(self) -> bytes:
        """The target: canonical JSON."""
        return canonical_bytes(
            {
                "format": FORMAT,
                "intents": {name: list(phrases) for name, phrases in self.intents.items()},
                "out_of_scope": list(self.out_of_scope),
            }
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> PublicPhrases:
        """Raises WireError."""
        document = parse_document(raw)
        intents, outside = document.get("intents"), document.get("out_of_scope")
        if document.get("format") != FORMAT or not isinstance(intents, dict) or not isinstance(outside, list):
            raise WireError(f"these are no public phrases of format {FORMAT}")
        for name, phrases in (*intents.items(), ("out_of_scope", outside)):
            if not isinstance(phrases, list) or not all(
                isinstance(phrase, str) and 0 < len(phrase) <= MOST_CHARS for phrase in phrases
            ):
                raise WireError(f"{str(name)[:60]!r}: expected phrases of 1 to {MOST_CHARS} characters")
        if sum(map(len, intents.values())) + len(outside) > MOST_PHRASES:
            raise WireError(f"more than {MOST_PHRASES} public phrases")
        return cls({str(name): tuple(phrases) for name, phrases in intents.items()}, tuple(outside))
