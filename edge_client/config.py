"""The one configuration of an edge client: frozen, with everything injectable that touches the world."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared_models.errors import ConfigError

if TYPE_CHECKING:
    from edge_client.answer.local_model import LocalModelConfig, Share
    from edge_client.bundles import BundleStore
    from edge_client.decide.elicitation import AskingLimits
    from edge_client.know.store.keys import KeySource


@dataclass(frozen=True, kw_only=True)
class EdgeConfig:
    """How one client behaves. Raises ConfigError for values out of range."""

    clock: Callable[[], float] = time.time
    """Unix time in seconds."""
    key_source: KeySource | None = None
    """Where the store's key comes from, if `open(key=…)` gives none; None is the keyring of the operating system."""
    bundles: BundleStore | None = None
    """Bundles shared by several clients of one process; None keeps them in `bundle_folder`."""
    bundle_folder: Path | None = None
    """Where fetched bundles are kept; None is `bundle` inside the client's own folder. A shared folder survives `forget`."""
    fetch_timeout_s: float = 10.0
    """Longest silence of a bundle server."""
    most_examples: int = 2000
    """Texts kept as examples; beyond that the oldest go."""
    local_model: LocalModelConfig | None = None
    """A language model that rewords answers; None: there is none. One on another machine is sent nothing without the user's
    consent to personalisation, and the privacy centre shows it."""
    model_may_see: tuple[Share, ...] = ()
    """What its prompts may hold beside the answer itself: `words`, what the user wrote; `reasons`, with consent to
    personalisation only."""
    asking: AskingLimits | None = None
    """How much the user may be asked about their taste; None: as decide/asking.py has it."""
    random_seed: int | None = None
    """Of what suggestions try out; None: every process its own."""
    ask_below: float = 0.6
    """The user is asked only if the best reading is less likely than this …"""
    ask_margin: float = 0.15
    """… and leads the next by less than this."""

    def __post_init__(self) -> None:
        if not callable(self.clock):
            raise ConfigError("clock is not callable; expected a function that gives Unix time in seconds")
        if isinstance(self.most_examples, bool) or not isinstance(self.most_examples, int) or self.most_examples < 1:
            raise ConfigError(f"most_examples is {self.most_examples!r}, expected a whole number from 1")
        if not set(self.model_may_see) <= {"words", "reasons"}:
            raise ConfigError(
                f"model_may_see is {str(self.model_may_see)[:60]}, expected words, reasons, both or nothing"
            )
        seed = self.random_seed
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
            raise ConfigError(f"random_seed is {str(seed)[:40]!r}, expected a whole number from 0, or None")
        for name in ("ask_below", "ask_margin"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} is {value!r}, expected a number from 0 to 1")
        if not isinstance(self.fetch_timeout_s, int | float) or not 0 < self.fetch_timeout_s <= 3600:
            raise ConfigError(f"fetch_timeout_s is {self.fetch_timeout_s!r}, expected seconds above 0")
