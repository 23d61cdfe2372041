"""Models in memory, shared by all clients of a process and freed with the last one: a hundred clients load one encoder."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from shared_models.intent_head import HeadSession
from shared_models.text_encoder import TextEncoder

if TYPE_CHECKING:
    from edge_client.bundles import ActiveBundle

_lock = threading.Lock()
_encoders: weakref.WeakValueDictionary[tuple[str, str], TextEncoder] = weakref.WeakValueDictionary()
_heads: weakref.WeakValueDictionary[str, HeadSession] = weakref.WeakValueDictionary()


def load_encoder(bundle: ActiveBundle) -> TextEncoder:
    """The bundle's encoder. Raises ModelError."""
    manifest = bundle.manifest
    name = (manifest.encoder_sha256, manifest.tokenizer_sha256)
    with _lock:
        encoder = _encoders.get(name)
        if encoder is None:
            encoder = TextEncoder(bundle.encoder_model, bundle.tokenizer, expected_sha256=manifest.encoder_sha256)
            _encoders[name] = encoder
    return encoder


def load_head(bundle: ActiveBundle) -> HeadSession:
    """The bundle's head. Raises ModelDamagedError."""
    name = bundle.manifest.head_sha256
    with _lock:
        head = _heads.get(name)
        if head is None:
            head = HeadSession(bundle.head, expected_sha256=name)
            _heads[name] = head
    return head
