"""From chosen places to what is said and shown of them: cards for the app, suggestions with licensed facts for the wording."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from edge_client.answer.cards import Card
from edge_client.answer.facts import Reason, Suggestion, Value
from edge_client.decide.travel import Suggestion as Advised
from edge_client.decide.travel_reasons import Reason as Advice

PUBLIC_KINDS = ("wish", "missing_wish", "mood", "forecast", "climate", "price", "distance", "event", "holiday")
"""Reasons that tell nothing about the user beyond this conversation. Every other kind is personal."""
_PER = "day"
_CURRENCY = "EUR"


def spoken_offer(advised: Advised, month: int, language: str, first: date) -> Suggestion:
    """What the wording says of one place; its reasons are worded already, and bring the data that they name."""
    reasons = tuple(_reason(reason, language, first) for reason in advised.reasons)
    place = advised.place
    return Suggestion(place.id, place.name(language), place.price_in(month), _CURRENCY, _PER, reasons)


def card(advised: Advised, month: int, language: str, decision_id: str, propensity: float) -> Card:
    """What the app shows of one place."""
    place = advised.place
    return Card(
        id=place.id,
        title=place.name(language),
        price=place.price_in(month),
        currency=_CURRENCY,
        per=_PER,
        reasons=tuple(reason.text(language) for reason in advised.reasons),
        drawbacks=tuple(reason.text(language) for reason in advised.drawbacks),
        decision_id=decision_id,
        propensity=propensity,
    )


def _reason(reason: Advice, language: str, first: date) -> Reason:
    values: dict[str, Value] = {}
    for name, value in reason.data.items():
        values |= _licensed(name, value, first)
    kind = "said" if reason.kind in PUBLIC_KINDS else "liked"
    return Reason(kind, values, reason.text(language))


def _licensed(name: str, value: Any, first: date) -> Mapping[str, Value]:
    """The values as their sentence says them."""
    if isinstance(value, Mapping):
        return {f"{name}.{language}": str(text) for language, text in value.items()}
    if name in ("first", "last", "day"):
        return {name: date.fromisoformat(value)}
    if name == "month":
        return {name: date(first.year, int(value), 1)}
    if name in ("has", "likely"):
        return {name: float(round(100.0 * float(value)))}
    if name in ("price", "budget"):
        return {"price" if name == "price" else "limit": float(round(float(value)))}
    return {name: value if isinstance(value, int | float | str) else str(value)}
