"""What a user can consent to. A purpose that is not here does not exist: every contribution and every kept example names one."""

from __future__ import annotations

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


PERSONAL_LEARNING = Purpose(
    "personal-learning",
    "Keep my examples on this device",
    "When you correct or confirm the assistant, it may remember what you wrote, encrypted and on this device only.",
)

INTENT_MODEL = Purpose(
    "intent-model",
    "Help improve the shared assistant",
    "This device may add a small, noise-protected learning step from your kept examples to the model that all users share; "
    "your words never leave it.",
)

PURPOSES: dict[str, Purpose] = {purpose.name: purpose for purpose in (PERSONAL_LEARNING, INTENT_MODEL)}
"""All purposes, by name, in the order in which a user is asked."""


def find_purpose(name: str) -> Purpose:
    """The purpose called `name`. Raises ConfigError."""
    purpose = PURPOSES.get(name) if isinstance(name, str) else None
    if purpose is None:
        raise ConfigError(f"there is no purpose {str(name)[:60]!r}; expected one of {', '.join(PURPOSES)}")
    return purpose
