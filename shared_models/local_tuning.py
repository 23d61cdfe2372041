"""Public constants of tuning a device's own copy of the intent head: what is trained there stays there, night for night."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared_models.errors import ConfigError
from shared_models.wire import LocalTraining

MAX_STEPS = 1000


@dataclass(frozen=True)
class LocalTuning:
    """How the head is tuned: `steps` times the mean of clipped per-example gradients, beside those of public phrases.

    Measured (benchmarks/personal_head.py, docs/feedback-loop.md): few and short steps gain most of what there is to gain, and
    longer ones forget more of what is public.
    """

    steps: int = 15
    learning_rate: float = 4.0
    half_weight: float = 76.0
    """With so many examples the user's gradient counts half, with few accordingly less."""
    replay: float = 0.9
    """Of the gradient of public phrases, against forgetting."""
    outside: float = 3.0
    """Of the gradient that keeps public phrases that mean nothing from looking like something."""
    max_grad_norm: float = 1.0
    """Clip norm of one example's gradient, L2: no single example moves the head further."""
    noise_multiplier: float = 0.0
    """Example-level noise in units of max_grad_norm. 0 states no ε: at ε = 6 nothing is gained (measured)."""

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(f"tuning: steps is {str(self.steps)[:40]!r}, expected 1 to {MAX_STEPS}")
        for name, least, most in (
            ("learning_rate", 1e-6, 1e3),
            ("half_weight", 0.0, 1e6),
            ("replay", 0.0, 1e3),
            ("outside", 0.0, 1e3),
            ("max_grad_norm", 1e-6, 1e6),
            ("noise_multiplier", 0.0, 1e6),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise ConfigError(
                    f"tuning: {name} is {str(value)[:40]!r}, expected a number from {least:g} to {most:g}"
                )

    def local(self, examples: int) -> LocalTraining:
        """One step over all of `examples`: nothing leaves the device, so their number may be the divisor."""
        return LocalTraining(self.max_grad_norm, max(1, examples), 1.0, self.noise_multiplier)

    @property
    def rho(self) -> float:
        """zCDP of one tuning at the level of one example (zero-out); infinite without noise."""
        if self.noise_multiplier == 0.0:
            return math.inf
        return self.steps / (2.0 * self.noise_multiplier**2)
