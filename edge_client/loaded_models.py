"""Models in memory, shared by all clients of a process and freed with the last one: a hundred clients load one encoder."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from shared_models.bundle import CATALOGUE_TARGET, PLACES_TARGET
from shared_models.intent_head import HeadSession
from shared_models.text_encoder import TextEncoder

if TYPE_CHECKING:
    from edge_client.bundles import ActiveBundle
    from edge_client.understand.places import Gazetteer
    from shared_models.preference import ItemSpaceSession
    from shared_models.travel.catalogue import Catalogue

_lock = threading.Lock()
_encoders: weakref.WeakValueDictionary[tuple[str, str], TextEncoder] = weakref.WeakValueDictionary()
_heads: weakref.WeakValueDictionary[str, HeadSession] = weakref.WeakValueDictionary()
_spaces: weakref.WeakValueDictionary[str, ItemSpaceSession] = weakref.WeakValueDictionary()
_gazetteers: weakref.WeakValueDictionary[str, Gazetteer] = weakref.WeakValueDictionary()


@contextlib.contextmanager
def nothing_collected() -> Iterator[None]:
    """No garbage collection inside: what is loaded stays, and the collector would walk through all of it again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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


def load_item_space(raw: bytes) -> ItemSpaceSession:
    """The item space of `items.onnx`. Raises ModelDamagedError."""
    from shared_models.preference import ItemSpaceSession

    name = hashlib.sha256(raw).hexdigest()
    with _lock:
        space = _spaces.get(name)
        if space is None:
            space = _spaces[name] = ItemSpaceSession(raw)
    return space


def load_gazetteer(bundle: ActiveBundle, catalogue: Catalogue | None) -> Gazetteer:
    """The places of `places.json` and those of the bundle's catalogue, which go before. Raises WireError, BundleTamperedError."""
    from edge_client.understand.places import Gazetteer, places_of
    from shared_models.languages.place_list import PlaceList

    files = [bundle.optional_files.get(target) for target in (PLACES_TARGET, CATALOGUE_TARGET)]
    name = "".join("-" if path is None else path.name for path in files)
    with _lock:
        gazetteer = _gazetteers.get(name)
        if gazetteer is None:
            raw = bundle.optional(PLACES_TARGET)
            known = () if raw is None else PlaceList.from_checked_bytes(raw).places
            own = () if catalogue is None else places_of(catalogue)
            gazetteer = _gazetteers[name] = Gazetteer((*own, *known))
    return gazetteer
