"""Consent receipts and records: plain values in the structure of ISO/IEC TS 27560:2023. Nothing here is stored or decided.

The Technical Specification names the fields and leaves the encoding to the implementer. The JSON here keeps its sections (header,
PII processing, party identification, events; for a receipt also receipt metadata) and its field names. A record is about one
purpose and holds all its events; a receipt is a copy of the record with the one event that it confirms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from shared_models.errors import ConfigError
from shared_models.purposes import NOTICE_VERSION, PURPOSES, REMOTE_LANGUAGE_MODEL

SCHEMA_VERSION = "ISO/IEC TS 27560:2023; tacit-consent/1"
GRANTED, DECLINED, WITHDRAWN = "granted", "declined", "withdrawn"
EVENT_STATES = {GRANTED: "given", DECLINED: "refused", WITHDRAWN: "withdrawn"}
WITHDRAWAL_METHOD = "the same switch, or one call: Consent.withdraw; nothing is asked, and it takes effect at once"
SHARED = (
    "on this device; what leaves it is clipped, noise-protected and counted against a budget, and is only used in sums"
)
PRIVACY_RIGHTS = (
    "access",
    "portability",
    "rectification",
    "erasure",
    "restriction",
    "objection",
    "withdrawal of consent",
)
ELSEWHERE = "on this device; what leaves it goes to the language model that the app has named, as it is, without noise"
MAX_CONTROLLERS = 20
MAX_WORDS = 500


@dataclass(frozen=True)
class Controller:
    """Who answers for the processing: the app's own party. Required by the record, known only to the app."""

    party_id: str
    name: str
    contact: str = ""
    """An address, a telephone number or a URL at which rights can be exercised."""
    role: str = "PII controller"


@dataclass(frozen=True)
class ConsentTerms:
    """What an app states with each consent that it asks for."""

    controllers: tuple[Controller, ...] = ()
    notice_version: int = NOTICE_VERSION
    """Version of the notices in force. Consents that were given to an older one count no longer: ask again."""
    notices: Mapping[str, str] | None = None
    """Purpose → the text that this app shows instead of the purpose's own title and description."""
    notice_reference: str = ""
    """Where the whole privacy notice can be read."""
    language: str = "en"
    retention: str = "until withdrawn or erased"

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_version(self.notice_version)
        if self.notice_version < NOTICE_VERSION:
            raise ConfigError(
                f"notice_version is {self.notice_version}, older than this version's wording ({NOTICE_VERSION})"
            )
        if len(self.controllers) > MAX_CONTROLLERS:
            raise ConfigError(f"{len(self.controllers)} controllers, at most {MAX_CONTROLLERS} are kept with a receipt")
        words = [self.notice_reference, self.language, self.retention]
        for party in self.controllers:
            if not isinstance(party, Controller):
                raise ConfigError(f"controllers holds a {type(party).__name__}, expected Controller")
            words += [party.party_id, party.name, party.contact, party.role]
        for word in words:
            if not isinstance(word, str) or len(word) > MAX_WORDS:
                raise ConfigError(f"{str(word)[:60]!r}: expected text of at most {MAX_WORDS} characters")
        for name, text in (self.notices or {}).items():
            if name not in PURPOSES or not isinstance(text, str) or not text.strip():
                raise ConfigError(f"notices[{str(name)[:60]!r}]: expected the text of a notice for a known purpose")

    def notice(self, purpose: str) -> str:
        """The text that is shown before the switch of `purpose`."""
        return (self.notices or {}).get(purpose, PURPOSES[purpose].notice)


@dataclass(frozen=True)
class ConsentReceipt:
    """One change of one switch. The fields after `notice_version` are empty in receipts of a store from before they existed."""

    number: int
    purpose: str
    action: str
    """`granted`, `declined` (asked, and not allowed) or `withdrawn`."""
    at_s: float
    """Unix time in seconds."""
    notice_version: int
    """Version of the wording that the user saw."""
    notice_sha256: str = ""
    """SHA-256 of the text that the user saw (UTF-8), in hexadecimal."""
    notice_reference: str = ""
    language: str = ""
    retention: str = ""
    record_id: str = ""
    """The record that this event belongs to: one for each purpose of a device, random."""
    principal_id: str = ""
    """Random pseudonym of this device's user, made for these records and used for nothing else."""
    data: tuple[str, ...] = ()
    """Kinds of personal data, as they were named then."""
    recipients: tuple[str, ...] = ()
    controllers: tuple[Mapping[str, str], ...] = ()

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ConsentReceipt:
        """Read what `document()` gave, of this version or of an earlier one."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        for name in ("data", "recipients", "controllers"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)

    def document(self) -> dict[str, Any]:
        """The receipt flat, as plain JSON."""
        return {
            **asdict(self),
            "data": list(self.data),
            "recipients": list(self.recipients),
            "controllers": [dict(party) for party in self.controllers],
        }

    def structure(self) -> dict[str, Any]:
        """The receipt in the sections of ISO/IEC TS 27560:2023, as plain JSON."""
        return {
            "receipt_metadata": {
                "receipt_id": f"{self.record_id or 'record'}/{self.number}",
                "schema_version": SCHEMA_VERSION,
                "issued_at": iso_time(self.at_s),
            },
            "consent_record": consent_record([self]),
        }


def _processing_method(receipt: ConsentReceipt) -> str:
    if receipt.purpose == REMOTE_LANGUAGE_MODEL.name:
        return ELSEWHERE
    return SHARED if receipt.recipients else "on this device only"


def consent_record(receipts: Iterable[ConsentReceipt]) -> dict[str, Any]:
    """The record of one purpose: `receipts` are its events, oldest first, at least one; the latest says what is in force."""
    events = list(receipts)
    last = events[-1]
    purpose = PURPOSES.get(last.purpose)
    return {
        "record_header": {
            "record_id": last.record_id,
            "schema_version": SCHEMA_VERSION,
            "pii_principal_id": last.principal_id,
        },
        "pii_processing": {
            "privacy_notice": last.notice_reference,
            "language": last.language,
            "purposes": [
                {
                    "purpose": last.purpose,
                    "purpose_description": purpose.title if purpose is not None else "",
                    "lawful_basis": "consent",
                    "pii_information": [{"pii_type": kind, "pii_optional": True} for kind in last.data],
                    "pii_controllers": [party["party_id"] for party in last.controllers],
                    "collection_method": "what the user does and writes in the app, on this device",
                    "processing_method": _processing_method(last),
                    "storage_locations": ["this device"],
                    "retention_period": last.retention,
                    "recipient_third_parties": list(last.recipients),
                    "withdrawal_method": WITHDRAWAL_METHOD,
                    "privacy_rights": list(PRIVACY_RIGHTS),
                }
            ],
        },
        "party_identification": [
            {
                "party_id": party["party_id"],
                "party_name": party["name"],
                "party_contact": party["contact"],
                "party_role": party["role"],
            }
            for party in last.controllers
        ],
        "events": [
            {
                "event_time": iso_time(event.at_s),
                "event_type": "explicit consent",
                "event_state": EVENT_STATES.get(event.action, event.action),
                "entity_id": event.principal_id,
                "notice_reference": event.notice_reference,
                "notice_version": event.notice_version,
                "notice_sha256": event.notice_sha256,
            }
            for event in events
        ],
    }


def check_version(version: object) -> None:
    """Raises ConfigError unless `version` is a whole number from 1."""
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < 2**31:
        raise ConfigError(f"notice_version is {str(version)[:60]!r}, expected a whole number from 1")


def iso_time(at_s: float) -> str:
    """Unix seconds as ISO 8601 in UTC; a time that no calendar has as the number itself."""
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, OSError, ValueError):
        return str(at_s)
