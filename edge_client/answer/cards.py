"""A suggestion as it is shown: a card with its price, its reasons, and the name under which the user can answer it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Card:
    """One suggestion on the table."""

    id: str
    """Of the item: for the travel domain, the destination in the catalogue."""
    title: str
    """Its name in the language of the reply."""
    price: float | None = None
    currency: str = "EUR"
    per: str = ""
    """`night`, `person`, `day`, `total` or nothing."""
    reasons: tuple[str, ...] = ()
    """What speaks for it, in words, the strongest first."""
    drawbacks: tuple[str, ...] = ()
    """What speaks against it, the strongest first."""
    decision_id: str = ""
    """What `EdgeClient.react` and `why` take. It lives as long as the conversation and, with consent, as long as its log."""
    propensity: float = 1.0
    """Probability with which this was chosen for its place in the list, given those before it."""

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)
