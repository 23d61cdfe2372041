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
    needs_policy: bool = False
    """True if a user is asked only where the fleet's policy names it: nobody is asked for what nobody does."""
    needs_remote_model: bool = False
    """True if a user is asked only where the app has a language model on another machine word the answers."""
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

PREFERENCE_MODEL = Purpose(
    "preference-model",
    "Help learn what people like together",
    "This device may add, noise-protected, which things you liked to a sum over many people, from which everybody's suggestions "
    "start; your own list never leaves it.",
    data=("one clipped and noise-protected vector of the things that the user liked",),
    recipients=("the aggregator of the fleet",),
    needs_policy=True,
)

SUGGESTION_MODEL = Purpose(
    "suggestion-model",
    "Help learn which suggestions are welcome",
    "This device may add, noise-protected, how kinds of suggestions were received to a sum over many people, from which new "
    "users' suggestions start; no suggestion and no answer of yours leaves it.",
    data=("clipped and noise-protected sums over what was suggested to the user and how it was received",),
    recipients=("the aggregator of the fleet",),
    needs_policy=True,
)

QUALITY_CHECK = Purpose(
    "quality-check",
    "Help check how well the assistant works",
    "This device may be counted, noise-protected, in sums over many people: how often the assistant was right, for which groups, "
    "whether that changes, and what other rules would have earned. Nothing that you said or did leaves it.",
    data=(
        "clipped and noise-protected counts of how often the assistant was right, by kind and by group",
        "clipped and noise-protected sums of what other rules would have earned",
    ),
    recipients=("the aggregator of the fleet",),
    needs_policy=True,
)

REMOTE_LANGUAGE_MODEL = Purpose(
    "remote-language-model",
    "Let a language model on another machine word the answers",
    "What the assistant is about to tell you, and what you wrote if the app has set that, may be sent to the language model that "
    "the app has named; switched off, answers are worded on this device.",
    data=("what the assistant is about to answer", "what the user wrote, if the app has set that it may be told"),
    recipients=("whoever runs the language model that the app has named",),
    needs_remote_model=True,
)

PURPOSES: dict[str, Purpose] = {
    purpose.name: purpose
    for purpose in (
        PERSONAL_LEARNING,
        PERSONALISATION,
        INTENT_MODEL,
        PREFERENCE_MODEL,
        SUGGESTION_MODEL,
        QUALITY_CHECK,
        REMOTE_LANGUAGE_MODEL,
    )
}
"""All purposes, by name, in the order in which a user is asked."""

SHARED: tuple[str, ...] = tuple(
    purpose.name for purpose in PURPOSES.values() if purpose.recipients and not purpose.needs_remote_model
)
"""Names of the purposes for which anything may leave a device in rounds, through the gate."""


def find_purpose(name: str) -> Purpose:
    """The purpose called `name`. Raises ConfigError."""
    purpose = PURPOSES.get(name) if isinstance(name, str) else None
    if purpose is None:
        raise ConfigError(f"there is no purpose {str(name)[:60]!r}; expected one of {', '.join(PURPOSES)}")
    return purpose


def notice_sha256(text: str) -> str:
    """SHA-256 of a notice's text (UTF-8), in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
