"""What a user can consent to. A purpose that is not here does not exist: every contribution and every kept example names one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from shared_models.errors import ConfigError

NOTICE_VERSION = 1
"""Version of the wording below; grows when it changes in a way that needs to be asked again."""


@dataclass(frozen=True)
class Purpose:
    """One thing a user may allow."""

    name: str
    title: str
    """Plain words for a switch."""
    description: str
    """Two plain sentences at most: what happens if it is allowed."""
    data: tuple[str, ...] = ()
    """Kinds of personal data that are processed for it, in plain words: for the consent record."""
    recipients: tuple[str, ...] = ()
    """Who gets anything of it; empty if nothing leaves the device."""
    profiling: bool = True
    """True if it learns about one person or adapts to one: then an objection to profiling, or `Sec-GPC: 1`, stops it."""

    @property
    def notice(self) -> str:
        """The text that a user is shown before the switch: what a consent receipt refers to."""
        return f"{self.title}\n\n{self.description}\n"


PERSONAL_LEARNING = Purpose(
    "personal-learning",
    "Keep my examples on this device",
    "When you correct or confirm the assistant, it may remember what you wrote, encrypted and on this device only.",
    data=("what the user writes to the assistant and means by it", "names and phrases of intents of the user's own"),
)

PERSONALISATION = Purpose(
    "personalisation",
    "Use what I do in this app to make suggestions",
    "The app may remember what you do in it, encrypted and on this device only, and suggest what fits you; "
    "switched off, all of that is erased.",
    data=("what the user does in the app", "attributes of the user's profile", "what was suggested and why"),
)

INTENT_MODEL = Purpose(
    "intent-model",
    "Help improve the shared assistant",
    "This device may add a small, noise-protected learning step from your kept examples to the model that all users share; "
    "your words never leave it.",
    data=("a clipped and noise-protected learning step, made from the kept examples",),
    recipients=("the aggregator of the fleet",),
)

PURPOSES: dict[str, Purpose] = {purpose.name: purpose for purpose in (PERSONAL_LEARNING, PERSONALISATION, INTENT_MODEL)}
"""All purposes, by name, in the order in which a user is asked."""


def find_purpose(name: str) -> Purpose:
    """The purpose called `name`. Raises ConfigError."""
    purpose = PURPOSES.get(name) if isinstance(name, str) else None
    if purpose is None:
        raise ConfigError(f"there is no purpose {str(name)[:60]!r}; expected one of {', '.join(PURPOSES)}")
    return purpose


def notice_sha256(text: str) -> str:
    """SHA-256 of a notice's text (UTF-8), in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
