"""Recognising the intent of one utterance: encoder → head → calibrated confidence → out-of-scope → the user's own intents.

The user's own intents are prototypes: means of the unit features of the user's own phrases (Snell et al. 2017). They are
arguments here, kept by the device's store, and never leave the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from shared_models.errors import ModelDamagedError
from shared_models.intent_head import (
    HeadSession,
    energies,
    features,
    out_of_scope_probability,
    probabilities,
)
from shared_models.intents import OUT_OF_SCOPE, Alternative, Recognition
from shared_models.text_encoder import TextEncoder, clean_text

Array = npt.NDArray[np.float32]

ALTERNATIVES = 3


class IntentModel:
    """Encoder and head together, with the user's own intents beside the published ones.

    Raises ModelDamagedError if the head was made for another encoder.
    """

    def __init__(self, encoder: TextEncoder, head: HeadSession, personal: Mapping[str, Array] | None = None) -> None:
        if head.encoder_sha256 != encoder.sha256:
            raise ModelDamagedError(
                f"this head was made for the encoder {head.encoder_sha256[:16]}…, the encoder here is"
                f" {encoder.sha256[:16]}…; fetch the bundle again"
            )
        self._encoder = encoder
        self._head = head
        self._personal = {name: _checked(name, vectors, head) for name, vectors in (personal or {}).items()}
