"""Consent receipts: the structure of ISO/IEC TS 27560:2023, the pseudonym, and receipts of older stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_client.know.consent import Consent, ConsentReceipt, ConsentTerms, Controller
from edge_client.know.store import Store
from shared_models.purposes import PURPOSES, notice_sha256

KEY = bytes(range(32))
PERSONAL = "personalisation"
TERMS = ConsentTerms(
    controllers=(Controller("example-app", "Example App Ltd", "privacy@example.org"),),
    notice_reference="https://example.org/privacy",
    language="en-GB",
    retention="P395D",
)
OLD_RECEIPT = {
    "number": 1,
    "purpose": "intent-model",
    "action": "granted",
    "at_s": 1_700_000_000.0,
    "notice_version": 1,
}


def clock() -> float:
    return 1_800_000_000.5


def old_store(folder: Path) -> None:
    """What a version from before this structure wrote."""
    with Store(folder, key=KEY) as store:
        store.table("consent").put("intent-model", {"granted": True, "since_s": 1_700_000_000.0, "notice_version": 1})
        store.table("consent-receipts").put("00000001", OLD_RECEIPT)


def test_a_receipt_has_the_sections_and_fields_of_the_technical_specification(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        receipt = Consent(store, clock, terms=TERMS).grant(PERSONAL)
    found = json.loads(json.dumps(receipt.structure(), allow_nan=False))
    assert list(found) == ["receipt_metadata", "consent_record"]
    assert found["receipt_metadata"]["issued_at"] == "2027-01-15T08:00:00.500+00:00"
    record = found["consent_record"]
    assert list(record) == ["record_header", "pii_processing", "party_identification", "events"]
    assert record["record_header"]["schema_version"].startswith("ISO/IEC TS 27560:2023")
    assert record["record_header"]["record_id"] == receipt.record_id
    assert record["record_header"]["pii_principal_id"] == receipt.principal_id
    assert record["pii_processing"]["privacy_notice"] == "https://example.org/privacy"
    assert record["pii_processing"]["language"] == "en-GB"
    (purpose,) = record["pii_processing"]["purposes"]
    assert purpose["purpose"] == PERSONAL
    assert purpose["lawful_basis"] == "consent"
    assert purpose["storage_locations"] == ["this device"]
    assert purpose["retention_period"] == "P395D"
    assert purpose["pii_controllers"] == ["example-app"]
    assert purpose["recipient_third_parties"] == []
    assert purpose["processing_method"] == "on this device only"
    assert [kind["pii_type"] for kind in purpose["pii_information"]] == list(PURPOSES[PERSONAL].data)
    assert "withdraw" in purpose["withdrawal_method"]
    (party,) = record["party_identification"]
    assert party["party_name"] == "Example App Ltd"
    (event,) = record["events"]
    assert event == {
        "event_time": "2027-01-15T08:00:00.500+00:00",
        "event_type": "explicit consent",
        "event_state": "given",
        "entity_id": receipt.principal_id,
        "notice_reference": "https://example.org/privacy",
        "notice_version": 1,
        "notice_sha256": notice_sha256(PURPOSES[PERSONAL].notice),
    }


@pytest.mark.parametrize("name", sorted(PURPOSES))
def test_each_purpose_says_what_data_it_needs_and_a_receipt_says_who_gets_any(tmp_path: Path, name: str) -> None:
    with Store(tmp_path, key=KEY) as store:
        found = Consent(store, clock).grant(name).structure()
    (purpose,) = found["consent_record"]["pii_processing"]["purposes"]
    assert purpose["pii_information"] != []
    leaves = name not in ("personal-learning", "personalisation")
    assert bool(purpose["recipient_third_parties"]) == leaves
    assert ("what leaves it" in purpose["processing_method"]) == leaves


def test_a_record_holds_the_whole_life_of_one_consent(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock, terms=TERMS)
        consent.decline(PERSONAL)
        consent.grant(PERSONAL)
        consent.grant("intent-model")
        consent.withdraw(PERSONAL)
        records = consent.records()
    states = {
        record["pii_processing"]["purposes"][0]["purpose"]: [event["event_state"] for event in record["events"]]
        for record in records
    }
    assert states == {PERSONAL: ["refused", "given", "withdrawn"], "intent-model": ["given"]}
    assert len({record["record_header"]["record_id"] for record in records}) == 2


def test_the_pseudonym_is_random_for_each_device_and_the_same_in_all_its_receipts(tmp_path: Path) -> None:
    found: list[set[str]] = []
    for name in ("one", "two"):
        for _ in range(2):
            with Store(tmp_path / name, key=KEY) as store:
                Consent(store, clock).grant(PERSONAL)
        with Store(tmp_path / name, key=KEY) as store:
            found.append({receipt.principal_id for receipt in Consent(store, clock).receipts()})
            assert store.describe()["store_id"] not in json.dumps(
                [receipt.structure() for receipt in Consent(store, clock).receipts()]
            )
    assert [len(names) for names in found] == [1, 1]
    assert found[0] != found[1]


def test_receipts_and_switches_of_an_older_store_count_and_are_continued(tmp_path: Path) -> None:
    old_store(tmp_path)
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock, terms=TERMS)
        assert consent.granted_since("intent-model") == 1_700_000_000.0
        (old,) = consent.receipts()
        assert old == ConsentReceipt(1, "intent-model", "granted", 1_700_000_000.0, 1)
        assert old.structure()["consent_record"]["events"][0]["event_state"] == "given"
        assert old.structure()["consent_record"]["party_identification"] == []
        assert consent.withdraw("intent-model").number == 2
        (record,) = consent.records()
        assert [event["event_state"] for event in record["events"]] == ["given", "withdrawn"]


def test_a_receipt_survives_the_way_through_its_document(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        receipt = Consent(store, clock, terms=TERMS).grant(PERSONAL)
        assert Consent(store, clock).receipts() == [receipt]
    later: dict[str, Any] = {**receipt.document(), "a field of a newer version": 1}
    assert ConsentReceipt.from_document(json.loads(json.dumps(later))) == receipt


def test_an_unknown_newer_notice_has_no_hash_that_it_was_not_shown(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        assert consent.grant(PERSONAL, notice_version=9).notice_sha256 == ""
        assert consent.is_granted(PERSONAL)


@pytest.mark.parametrize("at_s", [float("inf"), 1e30, -1e30])
def test_a_time_that_no_calendar_has_does_not_stop_a_receipt(at_s: float) -> None:
    receipt = ConsentReceipt(1, PERSONAL, "granted", at_s, 1)
    assert receipt.structure()["receipt_metadata"]["issued_at"] == str(at_s)
