"""The unified profile: one value for each attribute of the schema, whichever source it came from, and why that one stands.

Several sources may say something about one attribute. The last word of each is kept; which of them is the value says
`conflict_rule`, among those that have not outlived their retention; what was overruled stays in a bounded history, so that the
user can see it. Nothing is kept that the schema does not name. Whoever calls `observe` has checked the consent. Each purpose has
a table (and a key) of its own, so that a withdrawal takes exactly what was kept for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from edge_client.know.store import Records, Store
from shared_models.errors import CaptureError, InputError
from shared_models.profile import Attribute, ProfileSchema
from shared_models.purposes import PERSONALISATION, PURPOSES

TRUST: Mapping[str, int] = MappingProxyType(
    {"correction": 5, "declared": 4, "connector": 3, "observed": 2, "inferred": 1, "context": 0}
)
"""Who is believed more; within one source the newer wins. `correction` is the user's own word and wins always."""

MOST_TRUSTED = "most_trusted"
NEWEST = "newest"

MOST_OVERRULED = 8
"""Former values kept for each attribute; beyond that the oldest go."""
MAX_PROVENANCE = 200
"""Characters of a provenance; longer ones are cut."""
MAX_VALUE_BYTES = 16 * 1024
SECONDS_PER_DAY = 86_400.0
SECONDS_BETWEEN_EXPIRIES = 3600.0

_CORRECTION = "correction"


@dataclass(frozen=True)
class ProfileValue:
    """The value in force of one attribute, and where it is from."""

    value: Any
    source: str
    """A name in TRUST."""
    at_s: float
    """Unix time at which it was true, in seconds."""
    confidence: float
    """0 to 1, as the source says; it decides only between values of one source and one time."""
    provenance: str
    """Where in the source: `event:Order Completed`, `connector:crm`."""
    corrected: bool
    """True if this is the user's correction."""


def conflict_rule(attribute: Attribute) -> str:
    """How two sources that disagree are settled: by who is trusted more, or, for what describes the moment, by which is newer."""
    return NEWEST if attribute.kind == "contextual" else MOST_TRUSTED


class Profile:
    """The profile of one store. Thread-safe; every change is durable on return, or with the transaction around it."""

    def __init__(self, store: Store, schema: ProfileSchema, clock: Callable[[], float]) -> None:
        self._store = store
        self._schema = schema
        self._clock = clock
        self._last_expiry_s = -math.inf

    # -- what sources say -----------------------------------------------------------------------------------------

    def observe(
        self, name: str, value: Any, *, source: str, at_s: float, confidence: float = 1.0, provenance: str = ""
    ) -> bool:
        """What `source` says about an attribute; True if that is the value in force afterwards.

        A time ahead of the clock counts as now, so that a wrong clock does not win for ever. A special attribute, and whatever
        speaks of what is never inferred (shared_models.sensitive), is taken from the user's own declaration only; from any other
        source it is not even remembered. The same thing twice changes nothing.

        Raises CaptureError for a name or value that is not the schema's, InputError for another argument, StoreWriteError.
        """
        if source not in TRUST or source == _CORRECTION:
            known = ", ".join(other for other in TRUST if other != _CORRECTION)
            raise InputError(f"{str(source)[:60]!r} is not a source of attributes; expected one of {known}")
        at_s, confidence = _number("at_s", at_s), _number("confidence", confidence)
        if not 0.0 <= confidence <= 1.0:
            raise InputError(f"confidence is {confidence!r}, expected a number from 0 to 1")
        if not isinstance(provenance, str):
            raise InputError(f"provenance is a {type(provenance).__name__}, expected a text")
        attribute, checked = self._checked(name, value)
        if source != "declared" and not self._may_infer(attribute, checked, source):
            return False
        now_s = float(self._clock())
        entry = {
            "value": checked,
            "source": source,
            "at_s": min(at_s, now_s),
            "confidence": confidence,
            "provenance": provenance[:MAX_PROVENANCE],
        }
        if _expired(entry, attribute, now_s):
            return False
        with self._store.transaction():
            if abs(now_s - self._last_expiry_s) >= SECONDS_BETWEEN_EXPIRIES:
                self.expire(now_s)
            table = self._table(attribute)
            record = table.get(attribute.name) or _blank()
            if entry["at_s"] < record["removed_at_s"]:
                return False
            if _merge(record, entry):
                table.put(attribute.name, record)
            return _same(_in_force(record, attribute, now_s), entry)

    def retract(self, name: str, *, source: str, at_s: float, provenance: str) -> bool:
        """`source` has nothing to say any more about an attribute: its last word goes into the history; True if it had one.

        Only a word of the same provenance that is not newer than `at_s`. Raises InputError, StoreWriteError.
        """
        attribute, at_s = self._known(name), _number("at_s", at_s)
        with self._store.transaction():
            table = self._table(attribute)
            record = table.get(attribute.name)
            entry = None if record is None or source == _CORRECTION else record["latest"].get(source)
            if record is None or entry is None or entry["provenance"] != provenance or entry["at_s"] > at_s:
                return False
            _overrule(record, record["latest"].pop(source), "retracted")
            table.put(attribute.name, record)
            return True

    # -- what the user says ---------------------------------------------------------------------------------------

    def correct(self, name: str, value: Any) -> None:
        """The user's own word: it is the value until `withdraw_correction` or `remove`, whatever any source says and however old.

        Raises CaptureError for a name or value that is not the schema's, StoreWriteError.
        """
        attribute, checked = self._checked(name, value)
        entry = {
            "value": checked,
            "source": _CORRECTION,
            "at_s": float(self._clock()),
            "confidence": 1.0,
            "provenance": "user",
        }
        with self._store.transaction():
            table = self._table(attribute)
            record = table.get(attribute.name) or _blank()
            # The newest word wins even if the clock was put back in between.
            _overrule(record, record["latest"].pop(_CORRECTION, None), "replaced", unless=entry)
            record["latest"][_CORRECTION] = entry
            table.put(attribute.name, record)

    def withdraw_correction(self, name: str) -> bool:
        """Take the user's word back: what the sources say stands again. True if there was a correction."""
        attribute = self._known(name)
        with self._store.transaction():
            table = self._table(attribute)
            record = table.get(attribute.name)
            if record is None or _CORRECTION not in record["latest"]:
                return False
            _overrule(record, record["latest"].pop(_CORRECTION), "withdrawn")
            table.put(attribute.name, record)
            return True

    def remove(self, name: str) -> bool:
        """Erase all that is known about an attribute, its history too; True if there was anything.

        The time of the removal stays, so that a source that sends the same old value again does not bring it back; something
        newer may.
        """
        attribute = self._known(name)
        with self._store.transaction():
            table = self._table(attribute)
            record = table.get(attribute.name)
            if record is None:
                return False
            had = bool(record["latest"] or record["overruled"])
            table.put(attribute.name, {**_blank(), "removed_at_s": float(self._clock())})
            return had

    # -- what is known --------------------------------------------------------------------------------------------

    def get(self, name: str) -> ProfileValue | None:
        """The value in force; None if nothing is known, or nothing that has not outlived its retention."""
        attribute = self._schema.attribute(name)
        if attribute is None:
            return None
        record = self._table(attribute).get(attribute.name)
        return None if record is None else _value(_in_force(record, attribute, float(self._clock())))

    def values(self) -> dict[str, ProfileValue]:
        """Every attribute of which something is known, in the order of the schema."""
        now_s = float(self._clock())
        found = {}
        with self._store.lock:
            held = self._held()
        for name, attribute in self._schema.attributes.items():
            value = _value(_in_force(held[name], attribute, now_s)) if name in held else None
            if value is not None:
                found[name] = value
        return found

    def document(self) -> dict[str, Any]:
        """All as plain JSON: each attribute's value with source, time and provenance, who agrees, what was overruled and why."""
        now_s = float(self._clock())
        attributes: dict[str, Any] = {}
        with self._store.lock:
            held = self._held()
        for name, attribute in self._schema.attributes.items():
            if name not in held:
                continue
            standing = _in_force(held[name], attribute, now_s)
            others = [
                entry
                for entry in held[name]["latest"].values()
                if not _same(standing, entry) and not _expired(entry, attribute, now_s)
            ]
            agreeing = [entry for entry in others if standing is not None and entry["value"] == standing["value"]]
            why = "older" if conflict_rule(attribute) == NEWEST else "less_trusted"
            overruled = [{**entry, "why": why} for entry in others if entry not in agreeing] + [
                entry for entry in held[name]["overruled"] if not _expired(entry, attribute, now_s)
            ]
            if standing is None and not overruled:
                continue
            attributes[name] = {
                "kind": attribute.kind,
                "purpose": attribute.purpose,
                "sensitivity": attribute.sensitivity,
                "unit": attribute.unit,
                "retention_days": attribute.retention_days,
                "conflict_rule": conflict_rule(attribute),
                **(standing or {"value": None}),
                "corrected": standing is not None and standing["source"] == _CORRECTION,
                "agreeing": agreeing,
                "overruled": overruled,
            }
        return {"trust": sorted(TRUST, key=lambda source: -TRUST[source]), "attributes": attributes}

    # -- what goes ------------------------------------------------------------------------------------------------

    def expire(self, now_s: float) -> int:
        """Erase what has outlived its retention, and what the schema does not name any more; returns how many values.

        It is not read any more in any case; `observe` does this by itself once an hour.
        The user's corrections stay until the user takes them back: if one went alone, the error that it corrects would return.
        """
        self._last_expiry_s = now_s = _number("now_s", now_s)
        gone = 0
        with self._store.transaction():
            for table in self._tables():
                for name, record in table.items():
                    attribute = self._schema.attributes.get(name)
                    if attribute is None or self._table(attribute).name != table.name:
                        gone += len(record["latest"]) + len(record["overruled"])
                        table.delete(name)
                        continue
                    latest = {key: e for key, e in record["latest"].items() if not _expired(e, attribute, now_s)}
                    overruled = [entry for entry in record["overruled"] if not _expired(entry, attribute, now_s)]
                    lost = len(record["latest"]) - len(latest) + len(record["overruled"]) - len(overruled)
                    removed_at_s = record["removed_at_s"]
                    if not latest and not overruled and _outlived(removed_at_s, attribute, now_s):
                        table.delete(name)
                    elif lost:
                        table.put(name, {"latest": latest, "overruled": overruled, "removed_at_s": removed_at_s})
                    gone += lost
        return gone

    def clear(self, purpose: str | None = None) -> int:
        """Erase everything, or everything that was kept for one purpose; returns how many attributes."""
        with self._store.transaction():
            return sum(t.clear() for t in self._tables() if purpose is None or t.name == _table_name(purpose))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _may_infer(self, attribute: Attribute, value: Any, source: str) -> bool:
        # Of the moment only the attribute counts: a concert in a church says nothing about the user.
        return self._schema.may_infer(attribute, "" if source == "context" else value)

    def _known(self, name: str) -> Attribute:
        attribute = self._schema.attribute(name)
        if attribute is None:
            raise InputError(f"the schema names no attribute {str(name)[:60]!r}")
        return attribute

    def _checked(self, name: str, value: Any) -> tuple[Attribute, Any]:
        """The value as the schema normalises it and as the store gives it back, so that two readings of one thing are equal."""
        checked = self._schema.check(name, value)
        attribute = self._known(name)
        raw = json.dumps(checked, allow_nan=False)
        if len(raw) > MAX_VALUE_BYTES:
            raise CaptureError({attribute.name: f"the value has {len(raw)} bytes, at most {MAX_VALUE_BYTES} are kept"})
        return attribute, json.loads(raw)

    def _table(self, attribute: Attribute) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        return self._store.table(_table_name(attribute.purpose), purpose=attribute.purpose)

    def _tables(self) -> list[Records]:
        """The tables of all purposes: a schema that changed may have left something in one that it does not use now."""
        purposes = dict.fromkeys([*PURPOSES, *(a.purpose for a in self._schema.attributes.values())])
        return [self._store.table(_table_name(purpose), purpose=purpose) for purpose in purposes]

    def _held(self) -> dict[str, dict[str, Any]]:
        tables = {a.purpose: self._table(a) for a in self._schema.attributes.values()}
        records = {purpose: dict(table.items()) for purpose, table in tables.items()}
        return {
            name: records[attribute.purpose][name]
            for name, attribute in self._schema.attributes.items()
            if name in records[attribute.purpose]
        }


def _table_name(purpose: str) -> str:
    return "profile" if purpose == PERSONALISATION.name else f"profile-{purpose}"


def _blank() -> dict[str, Any]:
    """`latest`: the last word of each source; `overruled`: former words, oldest first."""
    return {"latest": {}, "overruled": [], "removed_at_s": 0.0}


def _merge(record: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Take `entry` into `record`; False if that changed nothing."""
    former = record["latest"].get(entry["source"])
    if any(_same(entry, known) for known in record["overruled"]):
        # A source that is read again from the start must not bring back what was overruled already.
        return False
    if former is not None:
        if _same(former, entry):
            return False
        if (entry["at_s"], entry["confidence"]) < (former["at_s"], former["confidence"]):
            return _overrule(record, entry, "older", unless=former)
        _overrule(record, former, "replaced", unless=entry)
    record["latest"][entry["source"]] = entry
    return True


def _overrule(
    record: dict[str, Any], entry: dict[str, Any] | None, why: str, unless: dict[str, Any] | None = None
) -> bool:
    """Put `entry` into the history, unless it says what `unless` says; True if it is there now and was not before."""
    history: list[dict[str, Any]] = record["overruled"]
    if entry is None or (unless is not None and entry["value"] == unless["value"]):
        return False
    if any(_same(entry, known) for known in history):
        return False
    history.append({**entry, "why": why})
    history.sort(key=lambda known: float(known["at_s"]))
    surplus = history[: max(0, len(history) - MOST_OVERRULED)]
    del history[: len(surplus)]
    return not any(_same(entry, gone) for gone in surplus)


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    fields = ("value", "source", "at_s", "confidence", "provenance")
    return one is not None and all(one[field] == other[field] for field in fields)


def _in_force(record: Mapping[str, Any], attribute: Attribute, now_s: float) -> dict[str, Any] | None:
    def standing(entry: Mapping[str, Any]) -> tuple[float, ...]:
        trust = TRUST[entry["source"]]
        if conflict_rule(attribute) == NEWEST:
            return (entry["source"] == _CORRECTION, entry["at_s"], trust)
        return (trust,)

    alive = [entry for entry in record["latest"].values() if not _expired(entry, attribute, now_s)]
    return max(alive, key=standing, default=None)


def _expired(entry: Mapping[str, Any], attribute: Attribute, now_s: float) -> bool:
    return entry["source"] != _CORRECTION and _outlived(entry["at_s"], attribute, now_s)


def _outlived(at_s: float, attribute: Attribute, now_s: float) -> bool:
    return now_s - at_s > attribute.retention_days * SECONDS_PER_DAY


def _value(entry: Mapping[str, Any] | None) -> ProfileValue | None:
    if entry is None:
        return None
    return ProfileValue(
        entry["value"],
        entry["source"],
        entry["at_s"],
        entry["confidence"],
        entry["provenance"],
        entry["source"] == _CORRECTION,
    )


def _number(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{field} is {str(value)[:40]!r}, expected a finite number")
    return float(value)
