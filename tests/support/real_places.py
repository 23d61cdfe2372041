"""The places of a real bundle without a catalogue, made from the same sources as by `tacit-fleet build`, once a session."""

from __future__ import annotations

from functools import lru_cache

from edge_client.understand.places import Gazetteer
from edge_client.understand.slots import SlotReader
from shared_models.languages.places_source import build_place_list


@lru_cache(maxsize=1)
def gazetteer() -> Gazetteer:
    """Countries, regions and cities of the whole world."""
    return Gazetteer(build_place_list().places)


@lru_cache(maxsize=1)
def slot_reader() -> SlotReader:
    """Reads with them."""
    return SlotReader(gazetteer())
