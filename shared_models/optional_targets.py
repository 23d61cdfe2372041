"""What the optional targets of a bundle must be (names and owners: bundle.py). The publisher and every device check with these.

Each kind has one typed value of its own, which its reader makes; nothing here keeps it. Heavy readers are loaded when needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from shared_models.bundle import (
    BANDIT_PRIOR_TARGET,
    CATALOGUE_TARGET,
    FEED_TARGET,
    ITEM_SPACE_TARGET,
    ITEMS_TARGET,
    MAX_TARGET_BYTES,
    PHRASES_TARGET,
    PLACES_TARGET,
    PROFILE_TARGET,
    Wording,
    language_of_words,
    max_target_bytes,
)
from shared_models.canonical import parse_document
from shared_models.errors import DomainError, ModelDamagedError, WireError
from shared_models.profile import ProfileSchema, default_schema
from shared_models.sensitive import check_features

MAX_ITEMS = 50_000


def read_items(raw: bytes) -> tuple[str, ...]:
    """The items that `items.json` names under `items`, in order; what else it says is its readers' business. Raises WireError."""
    items = parse_document(raw, limit_bytes=MAX_TARGET_BYTES[ITEMS_TARGET]).get("items")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_ITEMS:
        raise WireError(f"items: expected a list of 1 to {MAX_ITEMS}")
    if not all(isinstance(item, str) and 0 < len(item) <= 100 for item in items) or len(set(items)) != len(items):
        raise WireError("items: expected short names, each once")
    check_features(items, where="items", error=WireError)
    return tuple(items)


@lru_cache(maxsize=4)
def read_profile(raw: bytes) -> ProfileSchema:
    """The schema that ships, extended by a domain's `profile.yaml`. Raises DomainError."""
    return default_schema().extended(ProfileSchema.from_yaml(raw))


def check_targets(targets: Mapping[str, bytes | Path]) -> None:
    """Check the optional ones among `targets` (name -> bytes, or the file that holds them), each alone and together.

    Raises WireError that names the target, OSError if a file cannot be read; other targets are passed over.
    """
    items, space_items = None, None
    for name, source in targets.items():
        read = _READERS.get(name) or (_check_words if language_of_words(name) else None)
        if read is None:
            continue
        raw = source if isinstance(source, bytes) else source.read_bytes()
        if not 0 < len(raw) <= max_target_bytes(name):
            raise WireError(f"{name}: {len(raw)} bytes, expected 1 to {max_target_bytes(name)}")
        try:
            found = read(raw)
        except (WireError, DomainError, ModelDamagedError) as error:
            raise WireError(f"{name}: {error}") from error
        if name == ITEMS_TARGET:
            items = found
        elif name == ITEM_SPACE_TARGET:
            space_items = found
    if items is not None and space_items is not None and (stray := set(items) - set(space_items)):
        raise WireError(f"{ITEM_SPACE_TARGET}: lacks {min(stray)[:80]!r}, which {ITEMS_TARGET} names")


def _check_words(raw: bytes) -> tuple[str, ...]:
    Wording.from_bytes(raw)
    return ()


def _item_space(raw: bytes) -> tuple[str, ...]:
    from shared_models.preference import ItemSpaceSession

    return ItemSpaceSession(raw).items


def _check_prior(raw: bytes) -> tuple[str, ...]:
    from shared_models.bandit_prior import BanditPrior

    BanditPrior.from_bytes(raw)
    return ()


def _check_phrases(raw: bytes) -> tuple[str, ...]:
    from shared_models.phrases import PublicPhrases

    PublicPhrases.from_bytes(raw)
    return ()


def _check_places(raw: bytes) -> tuple[str, ...]:
    from shared_models.languages.place_list import PlaceList

    PlaceList.from_bytes(raw)
    return ()


def _check_profile(raw: bytes) -> tuple[str, ...]:
    read_profile(raw)
    return ()


def _check_feed(raw: bytes) -> tuple[str, ...]:
    from shared_models.context_feed import BroadcastFeed

    BroadcastFeed.from_bytes(raw)
    return ()


def _check_catalogue(raw: bytes) -> tuple[str, ...]:
    from shared_models.travel.catalogue import Catalogue

    Catalogue.from_bytes(raw)
    return ()


_READERS: Mapping[str, Callable[[bytes], tuple[str, ...]]] = {
    ITEMS_TARGET: read_items,
    ITEM_SPACE_TARGET: _item_space,
    BANDIT_PRIOR_TARGET: _check_prior,
    PHRASES_TARGET: _check_phrases,
    PLACES_TARGET: _check_places,
    PROFILE_TARGET: _check_profile,
    FEED_TARGET: _check_feed,
    CATALOGUE_TARGET: _check_catalogue,
}
