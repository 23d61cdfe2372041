"""How one value is read: from what an app sends to the one form in which it is kept. Pure functions; what an attribute is stands
in profile.py.

    number, integer   5, "5 mi", {"value": 5, "unit": "mi"}, {"amount": 5, "currency": "EUR"} -> a number in the declared unit
    text              Unicode NFC without control characters; units `BCP 47`, `ISO 4217`, `ISO 3166-1` fix its form
    category          one of the choices, case aside; without choices a short text
    boolean           true or false
    time              ISO 8601 or Unix seconds or milliseconds -> Unix seconds in UTC (without a zone it is UTC)
    place             a town, region or country, or coordinates rounded to 0.1 degree (about 10 km) -> text
    list              a list of categories without repetitions

Reading what was read before changes nothing: normalised(normalised(x)) == normalised(x).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

TYPES = ("number", "integer", "text", "category", "boolean", "time", "place", "list")
ZERO: Mapping[str, Any] = {
    "number": 0.0,
    "integer": 0,
    "text": "",
    "category": "",
    "boolean": False,
    "time": 0.0,
    "place": "",
    "list": [],
}
"""The default of an attribute that declares none."""

LANGUAGE_TAG, CURRENCY_CODE, COUNTRY_CODE = "BCP 47", "ISO 4217", "ISO 3166-1"
OF_THE_EVENT = "currency"
"""Unit of an amount whose currency stands beside it, in the property `currency` of the same event."""

MAX_TEXT_CHARS = 1000
"""Of one value, all items of a list together: at most 12 kB as ASCII JSON."""
MAX_SHORT_CHARS = 100
MAX_ITEMS = 100
MAX_NUMBER = 1e15
LAST_S = 4102444800.0
"""2100-01-01 in Unix seconds: a later time is a mistake."""

_TO_BASE: dict[str, tuple[str, float, float]] = {
    **{
        name: ("length", factor, 0.0)
        for name, factor in {"m": 1.0, "km": 1e3, "cm": 1e-2, "mm": 1e-3, "mi": 1609.344}.items()
    },
    **{
        name: ("length", factor, 0.0)
        for name, factor in {"ft": 0.3048, "in": 0.0254, "yd": 0.9144, "nmi": 1852.0}.items()
    },
    "degC": ("temperature", 1.0, 273.15),
    "degF": ("temperature", 5 / 9, 273.15 - 32 * 5 / 9),
    "K": ("temperature", 1.0, 0.0),
    **{
        name: ("mass", factor, 0.0)
        for name, factor in {"kg": 1.0, "g": 1e-3, "lb": 0.45359237, "oz": 0.028349523125}.items()
    },
    **{
        name: ("speed", factor, 0.0)
        for name, factor in {"m/s": 1.0, "km/h": 1 / 3.6, "mph": 0.44704, "kn": 1852 / 3600}.items()
    },
    **{
        name: ("duration", factor, 0.0)
        for name, factor in {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}.items()
    },
    "1": ("share", 1.0, 0.0),
    "%": ("share", 0.01, 0.0),
}
"""Unit -> dimension, factor and offset to the base unit of that dimension (NIST SP 811, appendix B)."""

_UNIT_NAMES = {
    "°c": "degC",
    "℃": "degC",
    "celsius": "degC",
    "°f": "degF",
    "℉": "degF",
    "fahrenheit": "degF",
    "miles": "mi",
    "mile": "mi",
    "meters": "m",
    "metres": "m",
    "kilometers": "km",
    "kilometres": "km",
    "kmh": "km/h",
    "kph": "km/h",
    "feet": "ft",
    "sec": "s",
    "seconds": "s",
    "minutes": "min",
    "hours": "h",
    "hr": "h",
    "days": "d",
    "lbs": "lb",
    "percent": "%",
    "degc": "degC",
    "degf": "degF",
    "c": "degC",
    "f": "degF",
    "k": "K",
}
_QUANTITY = re.compile(r"([+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,3})?) ?(\S{0,16})\Z")
_COORDINATES = re.compile(r"([+-]?[0-9]{1,3}(?:\.[0-9]{1,15})?) ?, ?([+-]?[0-9]{1,3}(?:\.[0-9]{1,15})?)\Z")
_CODE = re.compile(r"[A-Z]{3}\Z")
_AMOUNT_KEYS = ({"value", "unit"}, {"amount", "currency"}, {"value"}, {"amount"})


def normalised(kind: str, unit: str, choices: tuple[str, ...], value: Any) -> Any:
    """`value` in the form in which type `kind` is kept. Raises ValueError in plain words; no other error, whatever `value` is."""
    if kind == "number":
        return _number(unit, value)
    if kind == "integer":
        number = _number(unit, value)
        if not number.is_integer():
            raise ValueError("expected a whole number")
        return int(number)
    if kind == "text":
        return _coded(unit, clean(value, MAX_TEXT_CHARS))
    if kind == "category":
        return _category(choices, value)
    if kind == "boolean":
        return _boolean(value)
    if kind == "time":
        return unix_seconds(value)
    if kind == "place":
        return _place(choices, value)
    if kind == "list":
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list, got {type(value).__name__}")
        if len(value) > MAX_ITEMS:
            raise ValueError(f"{len(value)} items, at most {MAX_ITEMS} are kept")
        items = list(dict.fromkeys(_category(choices, item) for item in value))
        if sum(map(len, items)) > MAX_TEXT_CHARS:
            raise ValueError(f"more than {MAX_TEXT_CHARS} characters in all")
        return items
    raise ValueError(f"there is no type {kind!r}")


def is_unit(unit: str) -> bool:
    """True for a unit that quantities can be converted to."""
    return unit in _TO_BASE


def clean(value: Any, most: int) -> str:
    """Text in Unicode NFC, control characters replaced by spaces, trimmed. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {type(value).__name__}")
    # Before anything else is done with it: normalising a megabyte of combining marks is slow.
    if len(value) > most:
        raise ValueError(f"{len(value)} characters, at most {most} are kept")
    text = unicodedata.normalize("NFC", value)
    text = "".join(" " if unicodedata.category(char) == "Cc" and char != "\n" else char for char in text).strip()
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("half of a surrogate pair is not text")
    if len(text) > most:
        raise ValueError(f"{len(text)} characters, at most {most} are kept")
    return text


def unix_seconds(value: Any) -> float:
    """Unix seconds in UTC, to the millisecond, from 1970 to 2100. Raises ValueError.

    Takes ISO 8601 text or a datetime (without a zone it is UTC), and Unix seconds or, from 1e11 on, milliseconds.
    """
    return moment(value)[0]


def moment(value: Any) -> tuple[float, int | None]:
    """Unix seconds as `unix_seconds`, and the offset from UTC that was given, rounded to whole hours; None if none was."""
    offset_h: int | None = None
    if isinstance(value, str):
        text = value.strip()
        if not 4 <= len(text) <= 40:
            raise ValueError("expected a time in ISO 8601, such as 2026-11-24T13:00:00Z")
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("expected a time in ISO 8601, such as 2026-11-24T13:00:00Z") from None
    if isinstance(value, datetime):
        try:
            shift = value.utcoffset()
            offset_h = None if shift is None else round(shift.total_seconds() / 3600)
            seconds = (value if shift is not None else value.replace(tzinfo=UTC)).timestamp()
        except (OverflowError, ValueError):
            raise ValueError("this time cannot be told in UTC") from None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= MAX_NUMBER else math.inf
        if abs(seconds) >= 1e11:
            seconds /= 1000.0
    else:
        raise ValueError(f"expected a time, got {type(value).__name__}")
    if not 0.0 <= seconds <= LAST_S:  # also refuses NaN
        raise ValueError("expected a time from 1970 to 2100")
    return round(seconds, 3), offset_h


def language_tag(value: str) -> str:
    """Language, script and region of a BCP 47 tag (RFC 5646, section 2.1.1 for its letters' case); the rest is left out.

    Takes POSIX forms such as `de_CH.UTF-8` too. Raises ValueError.
    """
    parts = re.split(r"[-_]", value.partition(".")[0].partition("@")[0])
    if not re.match(r"[A-Za-z]{2,3}\Z", parts[0]):
        raise ValueError("expected a language tag in BCP 47, such as de-CH")
    tag, rest = [parts[0].lower()], parts[1:]
    if rest and re.match(r"[A-Za-z]{4}\Z", rest[0]):
        tag.append(rest.pop(0).title())
    if rest and re.match(r"(?:[A-Za-z]{2}|[0-9]{3})\Z", rest[0]):
        tag.append(rest.pop(0).upper())
    return "-".join(tag)


def amount_and_currency(value: Any) -> tuple[Any, str | None]:
    """Split {"amount": 5, "currency": "EUR"} or "5 EUR" into its two; anything else comes back as it is, without a currency."""
    if isinstance(value, Mapping) and set(value) == {"amount", "currency"}:
        code = value["currency"]
        return value["amount"], code if isinstance(code, str) else ""
    if isinstance(value, str) and (found := _QUANTITY.match(value.strip())) is not None and found[2]:
        return float(found[1]), found[2]
    return value, None


def _number(unit: str, value: Any) -> float:
    given = ""
    if isinstance(value, Mapping):
        if set(value) not in _AMOUNT_KEYS:
            raise ValueError("expected a number, or an object with value and unit, or with amount and currency")
        given = value.get("unit", value.get("currency", ""))
        value = value.get("value", value.get("amount"))
        if not isinstance(given, str):
            raise ValueError("the unit is not text")
    elif isinstance(value, str):
        found = _QUANTITY.match(value.strip()) if len(value) <= MAX_SHORT_CHARS else None
        if found is None:
            raise ValueError("expected a number, with or without a unit behind it")
        value, given = float(found[1]), found[2]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {type(value).__name__}")
    if not abs(value) <= MAX_NUMBER:  # also refuses NaN
        raise ValueError(f"expected a finite number up to {MAX_NUMBER:g}")
    number = float(value) + 0.0  # no negative zero
    return number if not given else _converted(number, given.strip(), unit)


def _converted(number: float, given: str, unit: str) -> float:
    if _CODE.match(unit):
        if given.upper() != unit:
            raise ValueError(f"this amount is kept in {unit}; rates of exchange are not known here")
        return number
    name = given if given in _TO_BASE else _UNIT_NAMES.get(given.casefold(), given)
    if name == unit:
        return number
    source, target = _TO_BASE.get(name), _TO_BASE.get(unit)
    if source is None or target is None or source[0] != target[0]:
        raise ValueError(f"expected {unit or 'a number without a unit'}, got another unit")
    return round((number * source[1] + source[2] - target[2]) / target[1], 9) + 0.0


def _coded(unit: str, text: str) -> str:
    if unit == LANGUAGE_TAG:
        return language_tag(text)
    if unit == CURRENCY_CODE:
        if not _CODE.match(text.upper()):
            raise ValueError("expected a currency code in ISO 4217, such as EUR; a sign such as $ names several")
        return text.upper()
    if unit == COUNTRY_CODE:
        if not re.match(r"[A-Z]{2}\Z", text.upper()):
            raise ValueError("expected a country code in ISO 3166-1, such as CH")
        return text.upper()
    return text


def _category(choices: tuple[str, ...], value: Any) -> str:
    text = clean(value, MAX_SHORT_CHARS)
    if not text:
        raise ValueError("expected a text that is not empty")
    if not choices:
        return text
    for choice in choices:
        if choice.casefold() == text.casefold():
            return choice
    shown = ", ".join(choices[:8]) + (", …" if len(choices) > 8 else "")
    raise ValueError(f"expected one of {shown}")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ValueError("expected true or false")


def _place(choices: tuple[str, ...], value: Any) -> str:
    if isinstance(value, Mapping):
        names = [value[key] for key in ("city", "region", "country") if isinstance(value.get(key), str) and value[key]]
        if names:
            value = ", ".join(clean(name, MAX_SHORT_CHARS) for name in names)
        else:
            return _coordinates(
                next((value[key] for key in ("latitude", "lat") if key in value), None),
                next((value[key] for key in ("longitude", "lng", "lon") if key in value), None),
            )
    text = clean(value, MAX_SHORT_CHARS)
    if found := _COORDINATES.match(text):
        return _coordinates(float(found[1]), float(found[2]))
    if not text or any(char.isdigit() for char in text):
        # Numbers are those of houses and postcodes: finer than a place may be.
        raise ValueError("expected a town, region or country without numbers, or coordinates")
    return _category(choices, text)


def _coordinates(latitude: Any, longitude: Any) -> str:
    for number, most in ((latitude, 90), (longitude, 180)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= most:
            raise ValueError("expected latitude from -90 to 90 and longitude from -180 to 180")
    return f"{round(float(latitude), 1) + 0.0:.1f},{round(float(longitude), 1) + 0.0:.1f}"
