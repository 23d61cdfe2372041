"""Why a place was suggested, in English, German and Spanish: each reason is a kind and the data that it names.

Nothing is said that is not in the data of the reason; a kind without words in a language is said in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from edge_client.decide.travel_constraints import Constraint
from shared_models.errors import DecisionError
from shared_models.travel.catalogue import LANGUAGES, Catalogue

LASTING = {
    "wish": "lasting_wish",
    "missing_wish": "missing_lasting_wish",
    "price": "usual_budget",
    "distance": "from_home",
}
"""Kind of a reason that the conversation gave -> of the same one where it is known of the user from before."""


@dataclass(frozen=True)
class Reason:
    """One fact for or against a place."""

    kind: str
    """Key of the words below."""
    data: Mapping[str, Any]
    """Everything that the words name; plain JSON."""
    source: str
    """`catalogue`, `you`, `model`, or who the feed says it is from."""
    amount: float
    """What it adds to the score; below 0 it speaks against the place. 0: a fact that is worth knowing."""

    def text(self, language: str = "en") -> str:
        """In plain words."""
        kind = "climate_one" if self.kind == "climate" and self.data.get("rain") == 1 else self.kind
        return _fill(_words(kind, language), self.data, language)

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"kind": self.kind, "data": dict(self.data), "source": self.source, "amount": self.amount}


def constraint_text(constraint: Constraint, catalogue: Catalogue, language: str = "en") -> str:
    """A hard limit in plain words. Raises DomainError for a place that the catalogue does not have."""
    data: dict[str, Any] = {"value": constraint.value, "feature": constraint.feature}
    if constraint.kind == "not_place":
        data["value"] = catalogue.place(str(constraint.value)).name(language)
    return _fill(_words(constraint.kind, language), data, language)


def limiting_text(constraint: Constraint, count: int, catalogue: Catalogue, language: str = "en") -> str:
    """Why nothing fits: how many places would without one limit."""
    return _fill(
        _words("limiting", language),
        {"limit": constraint_text(constraint, catalogue, language), "count": count},
        language,
    )


def feature_words(feature: str, language: str = "en") -> str:
    """A feature of the catalogue in plain words; its name for one that has none here."""
    column = LANGUAGES.index(language) if language in LANGUAGES else 0
    return _FEATURES.get(feature, (feature.replace("_", " "),) * 3)[column]


def _words(kind: str, language: str) -> str:
    found = _TEXTS.get(kind)
    if found is None:
        raise DecisionError(f"there are no words for {str(kind)[:40]!r}")
    return found[LANGUAGES.index(language) if language in LANGUAGES else 0]


def _fill(template: str, data: Mapping[str, Any], language: str) -> str:
    # Not str.format: event titles and names are data, and must not reach into objects.
    column = LANGUAGES.index(language) if language in LANGUAGES else 0
    parts = template.split("{")
    said = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition("}")
        said.append(_value(name, data.get(name, ""), column) + rest)
    return "".join(said)


def _value(name: str, value: Any, column: int) -> str:
    if isinstance(value, Mapping):
        # Names and titles by language.
        return str(value.get(LANGUAGES[column]) or value.get("en") or next(iter(value.values())))
    if name == "feature":
        return feature_words(str(value), LANGUAGES[column])
    if name == "mood":
        return _MOODS[value][column]
    if name == "month":
        return _MONTHS[column][int(value) - 1]
    if name in ("first", "last", "day"):
        when = date.fromisoformat(value)
        month = _MONTHS[column][when.month - 1]
        return (f"{when.day} {month}", f"{when.day}. {month}", f"{when.day} de {month}")[column]
    if name in ("has", "likely"):
        return f"{value:.0%}" if column == 0 else f"{100 * value:.0f} %"
    if isinstance(value, float):
        digits: str = f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.0f}"
        return digits if column == 0 else digits.replace(".", ",")
    return str(value)


_TEXTS: Mapping[str, tuple[str, str, str]] = {
    "taste": (
        "I expect that you like it ({likely}), from what you chose before",
        "nach dem, was bisher gewählt wurde, dürfte es gefallen ({likely})",
        "por lo elegido hasta ahora debería gustar ({likely})",
    ),
    "not_taste": (
        "from what you chose before I am less sure that you like it ({likely})",
        "nach dem, was bisher gewählt wurde, bin ich weniger sicher, dass es gefällt ({likely})",
        "por lo elegido hasta ahora es menos seguro que guste ({likely})",
    ),
    "wish": (
        "you asked for {feature}: {has} on our scale",
        "gewünscht ist {feature}: {has} auf unserer Skala",
        "se busca {feature}: {has} en nuestra escala",
    ),
    "missing_wish": (
        "you asked for {feature}, and it has only {has} of that on our scale",
        "gewünscht ist {feature}, davon hat es nur {has} auf unserer Skala",
        "se busca {feature}, y solo tiene {has} en nuestra escala",
    ),
    "lasting_wish": (
        "you like {feature}: {has} on our scale",
        "nach deinem Profil magst du {feature}: {has} auf unserer Skala",
        "según tu perfil te gusta {feature}: {has} en nuestra escala",
    ),
    "missing_lasting_wish": (
        "you like {feature}, and it has only {has} of that on our scale",
        "nach deinem Profil magst du {feature}, davon hat es nur {has} auf unserer Skala",
        "según tu perfil te gusta {feature}, y solo tiene {has} en nuestra escala",
    ),
    "mood": (
        "you feel {mood}: {feature} {has} on our scale",
        "Stimmung {mood}: {feature} {has} auf unserer Skala",
        "ánimo {mood}: {feature} {has} en nuestra escala",
    ),
    "forecast": (
        "forecast for {days} of your days: highs of {high} °C, {wet} wet",
        "Vorhersage für {days} der Tage: bis {high} °C, {wet} davon nass",
        "previsión para {days} de los días: máximas de {high} °C, {wet} con lluvia",
    ),
    "climate": (
        "in {month} it usually gets {high} °C there, with {rain} days of rain in the month",
        "im {month} sind es dort gewöhnlich {high} °C, bei {rain} Regentagen im Monat",
        "en {month} suele haber {high} °C, con {rain} días de lluvia al mes",
    ),
    "climate_one": (
        "in {month} it usually gets {high} °C there, with {rain} day of rain in the month",
        "im {month} sind es dort gewöhnlich {high} °C, bei {rain} Regentag im Monat",
        "en {month} suele haber {high} °C, con {rain} día de lluvia al mes",
    ),
    "price": (
        "about €{price} a person and day in that season, your budget is €{budget}",
        "etwa {price} € je Person und Tag in dieser Zeit, bei einem Budget von {budget} €",
        "unos {price} € por persona y día en esa época, con un presupuesto de {budget} €",
    ),
    "usual_budget": (
        "about €{price} a person and day in that season, your usual budget is €{budget}",
        "etwa {price} € je Person und Tag in dieser Zeit, bei deinem üblichen Budget von {budget} €",
        "unos {price} € por persona y día en esa época, con tu presupuesto habitual de {budget} €",
    ),
    "from_home": (
        "it is {km} km from your home",
        "es ist {km} km von deinem Zuhause entfernt",
        "está a {km} km de tu casa",
    ),
    "distance": ("it is {km} km away", "es ist {km} km entfernt", "está a {km} km"),
    "event": (
        "“{title}” is on from {first} to {last}",
        "„{title}“ findet vom {first} bis {last} statt",
        "«{title}» se celebra del {first} al {last}",
    ),
    "holiday": (
        "{day} is a public holiday there: {title}",
        "der {day} ist dort ein Feiertag: {title}",
        "el {day} es festivo allí: {title}",
    ),
    "like": (
        "it offers much of what {place} does, which you liked",
        "es bietet viel von dem, was {place} bietet, und das hat gefallen",
        "ofrece mucho de lo que ofrece {place}, que gustó",
    ),
    "visited": ("you have been there", "dort warst du schon", "ya has estado allí"),
    "limiting": (
        "without “{limit}” {count} places would fit",
        "ohne „{limit}“ gäbe es {count} passende Orte",
        "sin «{limit}» habría {count} destinos",
    ),
    "not_place": ("not {value}", "nicht {value}", "no a {value}"),
    "not_country": ("another country than {value}", "ein anderes Land als {value}", "otro país que {value}"),
    "max_price": (
        "at most €{value} a person and day",
        "höchstens {value} € je Person und Tag",
        "como máximo {value} € por persona y día",
    ),
    "max_km": ("at most {value} km away", "höchstens {value} km entfernt", "como máximo a {value} km"),
    "min_high": ("usually at least {value} °C", "gewöhnlich mindestens {value} °C", "normalmente al menos {value} °C"),
    "max_high": ("usually at most {value} °C", "gewöhnlich höchstens {value} °C", "normalmente como máximo {value} °C"),
    "max_rain_days": (
        "usually at most {value} days of rain in the month",
        "gewöhnlich höchstens {value} Regentage im Monat",
        "normalmente como máximo {value} días de lluvia al mes",
    ),
    "at_least": (
        "{feature}: at least {value} on our scale",
        "{feature}: mindestens {value} auf unserer Skala",
        "{feature}: al menos {value} en nuestra escala",
    ),
    "at_most": (
        "{feature}: at most {value} on our scale",
        "{feature}: höchstens {value} auf unserer Skala",
        "{feature}: como máximo {value} en nuestra escala",
    ),
}
_FEATURES: Mapping[str, tuple[str, str, str]] = {
    "beach": ("beach", "Strand", "playa"),
    "culture": ("culture", "Kultur", "cultura"),
    "nature": ("nature", "Natur", "naturaleza"),
    "nightlife": ("nightlife", "Nachtleben", "vida nocturna"),
    "family": ("things for families", "Angebote für Familien", "planes para familias"),
    "food": ("food", "Essen", "gastronomía"),
    "winter_sports": ("winter sports", "Wintersport", "deportes de invierno"),
    "quiet": ("quiet", "Ruhe", "tranquilidad"),
}
_MOODS: Mapping[str, tuple[str, str, str]] = {
    "adventurous": ("adventurous", "abenteuerlich", "con ganas de aventura"),
    "relaxed": ("like relaxing", "nach Erholung", "con ganas de descansar"),
    "sociable": ("sociable", "gesellig", "sociable"),
    "curious": ("curious", "neugierig", "curioso"),
}
_MONTHS = (
    [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
    [
        "Januar",
        "Februar",
        "März",
        "April",
        "Mai",
        "Juni",
        "Juli",
        "August",
        "September",
        "Oktober",
        "November",
        "Dezember",
    ],
    [
        "enero",
        "febrero",
        "marzo",
        "abril",
        "mayo",
        "junio",
        "julio",
        "agosto",
        "septiembre",
        "octubre",
        "noviembre",
        "diciembre",
    ],
)
