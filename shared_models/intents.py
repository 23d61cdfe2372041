"""What recognition returns."""

from __future__ import annotations

from dataclasses import dataclass

OUT_OF_SCOPE = "out_of_scope"
"""Name of the answer "this is none of the assistant's intents"; never a class of the model."""


@dataclass(frozen=True)
class Alternative:
    """Another reading of the same text."""

    intent: str
    confidence: float


@dataclass(frozen=True)
class Recognition:
    """What was understood of one utterance."""

    text: str
    """The utterance as it was read."""
    intent: str
    """The likeliest intent, or OUT_OF_SCOPE."""
    confidence: float
    """Calibrated probability of `intent` in 0..1; of being out of scope, when it is."""
    alternatives: tuple[Alternative, ...]
    """Next likeliest intents, best first; when out of scope, the intents it came closest to."""
    out_of_scope: bool
    """True if nothing this assistant knows fits: an answer, not an error."""
    model_version: int
    """Version of the published head that answered; 0 is the bootstrap model."""
    personal: bool = False
    """True if one of the user's own intents answered (its examples never leave the device)."""
