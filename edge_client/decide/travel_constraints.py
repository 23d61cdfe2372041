"""What a trip must and must not be: the wish for a trip, hard constraints, and "no, because …" turned into them.

A constraint excludes places and is never weighed against anything. Numbers of a refusal are relative to the place that
was refused: "too expensive" means clearly less than that one cost. Words are English, German and Spanish. Nothing here is
kept or sent.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from shared_models.errors import DecisionError, TextError
from shared_models.travel.catalogue import Catalogue, Destination

Mask = npt.NDArray[np.bool_]
Mood = Literal["adventurous", "relaxed", "sociable", "curious"]
MOODS: Mapping[Mood, Mapping[str, float]] = {
    "adventurous": {"nature": 1.0, "winter_sports": 0.3},
    "relaxed": {"quiet": 1.0, "beach": 0.6},
    "sociable": {"nightlife": 1.0, "food": 0.6},
    "curious": {"culture": 1.0, "food": 0.4},
}
"""Moods are only what a user says; none is guessed, and none is about health."""
Kind = Literal[
    "not_place", "not_country", "max_price", "max_km", "min_high", "max_high", "max_rain_days", "at_least", "at_most"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_CONSTRAINTS = 200
MAX_REFUSAL_CHARS = 2000
MAX_TRIP_DAYS = 366
CHEAPER = 0.85
"""Of the refused price, the most that the next may cost."""
NEARER = 0.7
DEGREES = 4.0
"""So much cooler or warmer than what was refused."""
STEP = 0.2
"""So much more or less of a feature than the refused place has."""
WANTED = 0.6
"""A feature that was missed must be at least this, and never more than MOST_WANTED."""
MOST_WANTED = 0.8


@dataclass(frozen=True)
class Trip:
    """What a user would like. Raises DecisionError."""

    first: date
    last: date
    budget: float | None = None
    """Euros per person and day that feel right; a hard limit is a constraint."""
    origin: tuple[float, float] | None = None
    """Latitude and longitude where the trip starts; used here and nowhere else."""
    wishes: Mapping[str, float] = field(default_factory=dict)
    """Feature -> importance, 0..1."""
    warm_c: float | None = None
    """The daily high that the user likes; None: what suits the wishes."""
    mood: Mood | None = None
    lasting: frozenset[str] = frozenset()
    """What of this is known of the user and was not said in this conversation: `budget`, `origin`, `wishes.<feature>`."""

    def __post_init__(self) -> None:
        days = (self.last - self.first).days if type(self.first) is type(self.last) is date else -1
        if not 0 <= days < MAX_TRIP_DAYS:
            raise DecisionError(f"a trip is from a day to the same or a later one, at most {MAX_TRIP_DAYS} days")
        if self.budget is not None:
            _number("budget", self.budget, 1.0, 100_000.0)
        if self.warm_c is not None:
            _number("warm_c", self.warm_c, -60.0, 60.0)
        if self.origin is not None:
            if not isinstance(self.origin, tuple) or len(self.origin) != 2:
                raise DecisionError("origin: expected latitude and longitude")
            for value, most in zip(self.origin, (90.0, 180.0), strict=True):
                _number("origin", value, -most, most)
        if not isinstance(self.wishes, Mapping) or len(self.wishes) > 64:
            raise DecisionError("wishes: expected features with their importance")
        for name, value in self.wishes.items():
            _number(f"wish {str(name)[:40]}", value, 0.0, 1.0)
        if not isinstance(self.lasting, frozenset):
            raise DecisionError("lasting: expected a frozen set of names")
        if self.mood is not None and (not isinstance(self.mood, str) or self.mood not in MOODS):
            raise DecisionError(f"mood is {str(self.mood)[:40]!r}, expected one of {', '.join(MOODS)}")

    @property
    def month(self) -> int:
        """Of the first day, 1 to 12."""
        return self.first.month

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1


@dataclass(frozen=True)
class Constraint:
    """One hard limit. Raises DecisionError for what cannot be one."""

    kind: Kind
    value: float | str
    """A number for limits and shares of a feature; an id or a country for `not_place` and `not_country`."""
    feature: str = ""
    """For `at_least` and `at_most`."""
    because: str = ""
    """What the user said, for the explanation."""

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise DecisionError(f"{str(self.kind)[:40]!r} is not a kind of constraint; there are {', '.join(KINDS)}")
        if self.kind in ("not_place", "not_country"):
            if not isinstance(self.value, str) or not 0 < len(self.value) <= 64:
                raise DecisionError(f"constraint {self.kind}: expected a place or a country")
        else:
            _number(f"constraint {self.kind}", self.value, -1e6, 1e6)
        if (self.kind in ("at_least", "at_most")) != bool(self.feature) or not isinstance(self.because, str):
            raise DecisionError(f"constraint {self.kind}: at_least and at_most, and only they, are about a feature")

    def allows(self, catalogue: Catalogue, trip: Trip) -> Mask:
        """[n]: the places that this leaves. Raises DomainError for a feature that the catalogue does not have."""
        column = trip.month - 1
        if self.kind == "not_place":
            left = np.ones(len(catalogue), bool)
            if (row := catalogue.rows.get(str(self.value))) is not None:
                left[row] = False
            return left
        if self.kind == "not_country":
            return np.asarray(countries_of(catalogue) != self.value)
        limit = float(self.value)
        if self.kind == "max_km":
            # Without a place to start from nothing is known to be too far.
            here = trip.origin
            return np.ones(len(catalogue), bool) if here is None else catalogue.distances_km(*here) <= limit
        if self.kind in ("at_least", "at_most"):
            has = catalogue.column(self.feature)
            return np.asarray(has >= limit - 1e-9 if self.kind == "at_least" else has <= limit + 1e-9)
        if self.kind == "min_high":
            return np.asarray(catalogue.highs[:, column] >= limit)
        table = {"max_price": catalogue.prices, "max_high": catalogue.highs, "max_rain_days": catalogue.rain_days}
        return np.asarray(table[self.kind][:, column] <= limit)


class Refusal(NamedTuple):
    """What a "no" means."""

    constraints: tuple[Constraint, ...]
    """At least that this place is not suggested again for this trip."""
    understood: bool
    """False: no reason was recognised, and the user may be asked for one."""


def understand_refusal(text: str, place: Destination, trip: Trip, catalogue: Catalogue) -> Refusal:
    """What `text`, said about a suggested `place`, excludes from now on. Raises TextError for what is no text or too long."""
    if not isinstance(text, str) or len(text) > MAX_REFUSAL_CHARS:
        raise TextError(f"a refusal is a text of at most {MAX_REFUSAL_CHARS} characters")
    said = " ".join(unicodedata.normalize("NFC", text).casefold().replace("’", "'").split())
    month, price = place.month(trip.month), place.price_in(trip.month)
    found: list[Constraint] = []

    def add(kind: Kind, value: float | str, feature: str = "") -> None:
        found.append(Constraint(kind, round(value, 2) if isinstance(value, float) else value, feature, text[:200]))

    if (amount := _AMOUNT.search(said)) is not None:
        number = float(amount.group(1))
        if 1.0 <= number <= 100_000.0:
            add("max_price", number)
    elif _SAID["expensive"].search(said):
        add("max_price", CHEAPER * price)
    if _SAID["hot"].search(said):
        add("max_high", month.high_c - DEGREES)
    if _SAID["cold"].search(said):
        add("min_high", month.high_c + DEGREES)
    if _SAID["rain"].search(said):
        add("max_rain_days", max(2.0, NEARER * month.rain_days))
    if _SAID["far"].search(said) and trip.origin is not None:
        away = float(catalogue.distances_km(*trip.origin)[catalogue.rows[place.id]])
        add("max_km", NEARER * away)
    if _SAID["crowded"].search(said) and "quiet" in place.features:
        add("at_least", min(1.0, place.features["quiet"] + STEP), "quiet")
    if _SAID["boring"].search(said) and "quiet" in place.features:
        add("at_most", max(0.0, place.features["quiet"] - STEP), "quiet")
    if _SAID["country"].search(said):
        add("not_country", place.country)
    for feature, words in _FEATURE_WORDS.items():
        if feature not in place.features or not (mention := words.search(said)):
            continue
        if _UNWANTED.search(said[: mention.start()]):
            add("at_most", min(place.features[feature], 1.0 - WANTED), feature)
        else:
            add("at_least", max(WANTED, min(MOST_WANTED, place.features[feature] + STEP)), feature)
    understood = bool(found) or _SAID["been"].search(said) is not None
    found.append(Constraint("not_place", place.id, because=text[:200]))
    return Refusal(tuple(found), understood)


def permitted(catalogue: Catalogue, trip: Trip, constraints: Sequence[Constraint]) -> Mask:
    """[n]: the places that all constraints leave. Raises DecisionError for too many."""
    if len(constraints) > MAX_CONSTRAINTS or not all(isinstance(one, Constraint) for one in constraints):
        raise DecisionError(f"expected at most {MAX_CONSTRAINTS} constraints")
    left = np.ones(len(catalogue), dtype=bool)
    for constraint in constraints:
        left &= constraint.allows(catalogue, trip)
    return left


@lru_cache(maxsize=4)
def countries_of(catalogue: Catalogue) -> npt.NDArray[np.str_]:
    """[n]: the country of each place, made once."""
    return np.array([place.country for place in catalogue.destinations])


def most_limiting(
    catalogue: Catalogue, trip: Trip, constraints: Sequence[Constraint], allowed: Mask | None = None
) -> tuple[Constraint, int] | None:
    """The constraint whose absence would leave most places, and how many; None if no single one helps.

    `allowed` [n]: what rules permit; no constraint's absence brings back anything else.
    """
    best: tuple[Constraint, int] | None = None
    for constraint in constraints:
        left = permitted(catalogue, trip, [other for other in constraints if other is not constraint])
        count = int((left if allowed is None else left & allowed).sum())
        if count > (best[1] if best else 0):
            best = (constraint, count)
    return best


def _number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise DecisionError(f"{name} is {str(value)[:40]!r}, expected a number from {least:g} to {most:g}")
    if not math.isfinite(value):
        raise DecisionError(f"{name} is not finite")


_AMOUNT = re.compile(
    r"(?:under|below|less than|at most|max(?:imum|imal)?|no more than|unter|höchstens|weniger als|menos de|máximo|como mucho)"
    r" (?:€ ?)?([0-9]{1,6}(?:\.[0-9]{1,2})?)(?![0-9.])(?! ?(?:°|grad|degrees|grados|km|kilom|days|tage|días|hours|stunden|horas))"
)
_SAID = {
    name: re.compile(pattern)
    for name, pattern in {
        "expensive": r"too (?:expensive|pricey|dear|costly|much money)|over (?:my |our )?budget|can'?t afford|cheaper|"
        r"zu (?:teuer|kostspielig)|billiger|günstiger|nicht leisten|"
        r"(?:demasiado|muy|tan) car[oa]|más barat[oa]|no me lo puedo permitir",
        "hot": r"too (?:hot|warm)|cooler|kühler|más fresc[oa]|zu (?:heiß|heiss|warm)|"
        r"(?:demasiado|mucho|muy) (?:calor|caluros[oa])",
        "cold": r"too (?:cold|chilly|cool)\b|(?:hot|warm) enough|warmer|freezing|warm genug|wärmer|zu (?:kalt|kühl)|"
        r"más cálid[oa]|(?:demasiado|mucho|muy) frí[oa]",
        "rain": r"too (?:rainy|wet)|rains|too much rain|zu (?:nass|regnerisch)|zu viel regen|regnet|"
        r"demasiada lluvia|mucha lluvia|llueve|muy lluvios[oa]",
        "far": r"too far|flight is too long|closer|nearer|zu weit|flug ist zu lang|näher|"
        r"(?:demasiado|muy) lejos|más cerca|vuelo es demasiado largo",
        "crowded": r"too (?:crowded|touristy|busy|loud|noisy|many (?:people|tourists))|"
        r"zu (?:voll|touristisch|laut|viele (?:leute|touristen))|überlaufen|"
        r"(?:demasiad[oa]s?|muy|much[oa]s?) (?:gente|turistas|turístic[oa]|ruid(?:o|os[oa])|llen[oa])",
        "boring": r"too quiet|boring|dull|zu ruhig|langweilig|(?:demasiado|muy) tranquil[oa]|aburrid[oa]",
        "country": r"(?:other|different|another) country|ander(?:es|en) land\b|otro país",
        "been": r"been there|already (?:been|visited|seen|know)|kenne ich|ya (?:he|hemos) (?:estado|ido)|ya l[oa] conozco|"
        r"war(?:en)? (?:ich |wir )?(?:schon|bereits)|schon (?:mal )?(?:da|dort|besucht|gesehen)",
    }.items()
}
_FEATURE_WORDS = {
    name: re.compile(rf"\b(?:{pattern})")
    for name, pattern in {
        "beach": r"beach|sea\b|strand|meer\b|playa|mar\b",
        "culture": r"culture|museum|kultur|museen|cultura|museo",
        "nature": r"nature|hiking|mountains|natur\b|wandern|berge\b|naturaleza|montaña|senderismo",
        "nightlife": r"nightlife|clubs|bars\b|nachtleben|vida nocturna|discotecas",
        "family": r"famil|child|kids|kinder|niños",
        "food": r"food\b|restaurants|essen\b|küche|comida|gastronomía",
        "winter_sports": r"ski(?:ing|fahren|s)?\b|snow|schnee|nieve|esquí",
    }.items()
}
_UNWANTED = re.compile(
    r"(?:don'?t (?:want|like|need)|do not (?:want|like|need)|\bless|too much|hate|keine? lust auf|"
    r"mag kein(?:e|en)?|will kein(?:e|en)?|weniger|zu viel|no quiero|no me gustan?|menos|demasiad[oa])(?: \S+){0,2} ?$"
)
