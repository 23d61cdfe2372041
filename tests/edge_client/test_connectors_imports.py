"""Imports of files: encodings, dialects, one message for each row and field, and all or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connector_world import EXTENSION, KEY, NOW_S, Device
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_client.know.capture import Capture
from edge_client.know.connectors import EventMapping, FieldMapping
from edge_client.know.connectors import imports as imports_module
from edge_client.know.connectors.calendar import CalendarConnector
from edge_client.know.connectors.imports import MOST_ROWS_TOLD, FileImport
from edge_client.know.connectors.reading import read_csv
from edge_client.know.store import Store
from shared_models.errors import (
    CaptureError,
    ConfigError,
    ConnectorDataError,
    ConsentError,
    RowsError,
    StoreWriteError,
)
from shared_models.profile import ProfileSchema, default_schema

ORDERS = FieldMapping(
    event=EventMapping(event="order_completed", id="No", properties={"Betrag": "total", "Währung": "currency"}),
    at="Datum",
)
CSV = "No,Betrag,Währung,Datum,Notiz\r\n1,12.50,EUR,2026-11-20T10:00:00+01:00,geheim\r\n2,7,EUR,2026-11-21,x\r\n"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "store")
    with made.store:
        yield made


def csv_import(raw: bytes, mapping: FieldMapping = ORDERS, **options: Any) -> FileImport:
    return FileImport("export", raw, mapping, file_format="csv", **options)


def totals(device: Device) -> list[float]:
    return [event.properties["total"] for event in device.capture.events(name="order_completed")]


def test_a_csv_file_becomes_events_and_the_rest_is_counted(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(CSV, encoding="utf-8", newline="")
    reading = FileImport("export", path, ORDERS).pull(device.intake)
    assert totals(device) == [12.5, 7.0]
    assert device.capture.events()[0].at_s == 1_795_165_200.0
    assert (reading.records, reading.events, dict(reading.dropped)) == (2, 2, {"Notiz": 2})
    assert "geheim" not in device.kept()
    again = FileImport("export", path, ORDERS).pull(device.intake)
    assert dict(again.not_kept) == {"duplicate": 2}
    assert len(device.capture.events()) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_are_known_by_their_mark(device: Device, encoding: str) -> None:
    csv_import(CSV.encode(encoding)).pull(device.intake)
    assert totals(device) == [12.5, 7.0]


def test_other_encodings_are_named_and_never_guessed(device: Device) -> None:
    raw = CSV.encode("cp1252")
    with pytest.raises(ConnectorDataError, match="cp1252"):
        csv_import(raw).pull(device.intake)
    assert device.capture.events() == []
    csv_import(raw, encoding="cp1252").pull(device.intake)
    assert totals(device) == [12.5, 7.0]
    for wrong in ("zip", "base64", "klingon", "rot13", "\0"):
        with pytest.raises(ConfigError):
            csv_import(raw, encoding=wrong).pull(device.intake)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_dialect_is_read_from_the_header(delimiter: str) -> None:
    header = delimiter.join(["a", '"b; , | c"', "d"])
    text = f'{header}\n1{delimiter}"say ""{delimiter}""\nand on"{delimiter}3\n\n  \n'
    expected = [{"a": "1", "b; , | c": f'say "{delimiter}"\nand on', "d": "3"}]
    assert read_csv(text.encode()) == expected
    assert read_csv(text.encode(), delimiter=delimiter) == expected


def test_numbers_with_a_decimal_comma_and_groups(device: Device) -> None:
    mapping = FieldMapping(
        attributes={"a": "lifetime_value", "b": "orders", "c": "notifications", "d": "interests"}, decimal=","
    )
    csv_import("a;b;c;d\n1.234,50;1.000;yes;golf; \n".replace("golf; ", "golf").encode(), mapping).pull(device.intake)
    assert device.values() == {
        "lifetime_value": 1234.5,
        "orders": 1000,
        "notifications": True,
        "interests": ["golf"],
    }
    with pytest.raises(RowsError) as caught:
        csv_import(b"a;b\n1.5;2\n", mapping).pull(device.intake)
    assert set(caught.value.rows[1]) == {"a"}
    english = FieldMapping(attributes={"a": "lifetime_value"})
    device.clock.now_s += 1
    csv_import(b'a,b\n"1,234.50",x\n', english).pull(device.intake)
    assert device.values()["lifetime_value"] == 1234.5
    with pytest.raises(RowsError):
        csv_import(b"a;b\n12,5;x\n", english).pull(device.intake)


def test_every_row_and_field_that_is_wrong_is_told_and_nothing_is_imported(device: Device) -> None:
    rows = [
        "1,5,EUR,2026-11-20",
        "2,much,EUR,yesterday",
        ",5,EUR,2026-11-20",
        "4,5,EUR",
        "5,5,money,2026-11-20",
        "6,5,EUR,2027-11-20",
    ]
    with pytest.raises(RowsError) as caught:
        csv_import(("No,Betrag,Währung,Datum\n" + "\n".join(rows)).encode()).pull(device.intake)
    assert {number: set(fields) for number, fields in caught.value.rows.items()} == {
        2: {"Betrag", "Datum"},
        3: {"No"},
        4: {"row"},
        5: {"Währung"},
        6: {"Datum"},
    }
    assert caught.value.total == 5
    assert "row 2, Betrag" in str(caught.value)
    assert device.capture.events() == []
    assert device.intake.document() == {}


def test_errors_without_number_are_counted_beyond_the_first(device: Device) -> None:
    raw = "No,Betrag\n" + "x,much\n" * 500
    with pytest.raises(RowsError) as caught:
        csv_import(raw.encode()).pull(device.intake)
    assert (len(caught.value.rows), caught.value.total) == (MOST_ROWS_TOLD, 500)
    assert len(str(caught.value)) < 2000


def test_a_write_that_fails_in_the_middle_leaves_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real store; its transaction is broken off at the third row, as a full disk would."""
    mapping = FieldMapping(attributes={"Stadt": "home_city"}, event=ORDERS.event, at="Datum")
    device.profile.observe("home_city", "Bern", source="connector", at_s=NOW_S - 1e6)
    before, receive, calls = device.profile.document(), device.capture.receive, []

    def third_fails(document: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise StoreWriteError("no space")
        return receive(document)

    monkeypatch.setattr(device.capture, "receive", third_fails)
    raw = "No,Betrag,Währung,Datum,Stadt\n" + "".join(f"{n},5,EUR,2026-11-2{n},Oslo\n" for n in range(4))
    with pytest.raises(StoreWriteError):
        csv_import(raw.encode(), mapping).pull(device.intake)
    assert len(calls) == 3
    assert device.profile.document() == before
    assert device.capture.events() == []
    anew = Capture(device.store, device.schema, device.consent, device.profile, device.clock)
    assert device.capture.windows() == anew.windows()
    monkeypatch.undo()
    assert csv_import(raw.encode(), mapping).pull(device.intake).events == 4


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"a,a\n1,2\n", "twice"),
        (b'a,b\n"1,2\n', "line"),
        (b'a,b\n"1"x,2\n', "line"),
        (b"a\0b\n1\n", "NUL"),
        (b"a\n" + b"x" * 200_000, "line"),
        (",".join(f"c{n}" for n in range(600)).encode() + b"\n", "columns"),
        (b"\xff\xfe\x00", "utf-16"),
    ],
)
def test_a_file_that_is_no_csv_is_one_clear_error(device: Device, raw: bytes, what: str) -> None:
    with pytest.raises(ConnectorDataError, match=what):
        csv_import(raw).pull(device.intake)


@pytest.mark.parametrize("file_format", ["json", "ndjson"])
def test_json_files_are_read_whole(device: Device, tmp_path: Path, file_format: str) -> None:
    rows = [{"No": n, "Betrag": {"amount": n, "currency": "EUR"}, "Datum": NOW_S - 100 + n} for n in range(3)]
    text = json.dumps({"all": rows}) if file_format == "json" else "\n".join(map(json.dumps, rows))
    path = tmp_path / f"orders.{file_format}"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    mapping = FieldMapping(
        event=EventMapping(event="order_completed", id="No", properties={"Betrag": "total"}), at="Datum"
    )
    FileImport("export", path, mapping, records="all" if file_format == "json" else "").pull(device.intake)
    assert totals(device) == [0.0, 1.0, 2.0]
    assert device.capture.events()[0].properties["currency"] == "EUR"


@pytest.mark.parametrize(
    "raw", [b"{", b"[1]", b'[{"a": 1, "a": 2}]', b"[NaN]", b"[" * 50_000, b'{"a": 1}\n{', b"\xc3\x28"]
)
def test_a_json_file_that_is_none_is_one_clear_error(device: Device, raw: bytes) -> None:
    for file_format in ("json", "ndjson"):
        with pytest.raises((ConnectorDataError, RowsError)):
            FileImport("export", raw, ORDERS, file_format=file_format).pull(device.intake)
    assert device.capture.events() == []


def test_consent_comes_before_the_file_is_opened(tmp_path: Path) -> None:
    device = Device(tmp_path / "none", consent=False)
    with device.store:
        with pytest.raises(ConsentError):
            FileImport("export", tmp_path / "missing.csv", ORDERS).pull(device.intake)
        device.consent.grant("personalisation")
        with pytest.raises(ConnectorDataError, match="no such file"):
            FileImport("export", tmp_path / "missing.csv", ORDERS).pull(device.intake)


def test_a_withdrawal_leaves_nothing_of_any_source(tmp_path: Path) -> None:
    device = Device(tmp_path / "store", default_schema().extended(ProfileSchema.from_yaml(EXTENSION)))
    rows = [{"No": f"zanzibar-{n}", "Betrag": 5, "Währung": "EUR", "city": "Zanzibar", "Zanzibar": 1} for n in range(3)]
    mapping = FieldMapping(attributes={"city": "home_city"}, event=ORDERS.event)
    title = "BEGIN:VEVENT\r\nUID:1\r\nSUMMARY:Zanzibar\r\nDTSTART:20261125T090000Z\r\nDURATION:PT1H\r\nEND:VEVENT\r\n"
    calendar = f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\n{title}END:VCALENDAR\r\n".encode()

    def everything() -> str:
        return str({name: device.store.table(name).items() for name in device.store.describe()["records"]}).casefold()

    with device.store:
        FileImport("export", json.dumps(rows).encode(), mapping, file_format="json").pull(device.intake)
        CalendarConnector("calendar", [calendar]).pull(device.intake)
        assert everything().count("zanzibar") >= 3
        device.consent.withdraw("personalisation")
        assert "zanzibar" not in everything()
        assert (device.values(), device.capture.events(), device.intake.document()) == ({}, [], {})
        with pytest.raises(ConsentError):
            FileImport("export", json.dumps(rows).encode(), mapping, file_format="json").pull(device.intake)
    with Store(tmp_path / "store", key=KEY) as device.store:
        assert "zanzibar" not in everything()


def test_files_that_never_end_or_are_too_large_are_refused(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports_module, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ConnectorDataError, match="more than 1000 bytes"):
        csv_import(b"a,b\n" * 1000).pull(device.intake)
    big = tmp_path / "big.csv"
    big.write_bytes(b"a,b\n" * 1000)
    with pytest.raises(ConnectorDataError, match="more than 1000 bytes"):
        FileImport("export", big, ORDERS).pull(device.intake)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.csv")
        with pytest.raises(ConnectorDataError, match="no such file"):
            FileImport("export", tmp_path / "pipe.csv", ORDERS).pull(device.intake)


def test_options_that_cannot_be_used_are_said_at_once(device: Device, tmp_path: Path) -> None:
    for options in ({"file_format": "xml"}, {"file_format": None}):
        with pytest.raises(ConfigError):
            FileImport("export", b"", ORDERS, **options)
    with pytest.raises(ConfigError):
        FileImport("My Export", b"", ORDERS, file_format="csv")
    with pytest.raises(ConfigError):
        csv_import(b"a,b\n", delimiter="::").pull(device.intake)
    with pytest.raises(ConfigError):
        FileImport("export", "text", ORDERS, file_format="csv").pull(device.intake)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mapping", "what"),
    [
        (FieldMapping(), "nothing"),
        (FieldMapping(attributes={"a": "shoe_size"}), "shoe_size"),
        (FieldMapping(attributes={"a": "home_city"}, source="correction"), "source"),
        (FieldMapping(attributes={"a": "home_city"}, source="rumour"), "source"),
        (FieldMapping(attributes={"a": "home_city"}, decimal="'"), "decimal"),
        (FieldMapping(attributes={"": "home_city"}), "field"),
        (FieldMapping(attributes={"a.b.c.d.e.f.g.h.i": "home_city"}), "field"),
        (FieldMapping(event=EventMapping(event="explosion", id="a")), "explosion"),
        (FieldMapping(event=EventMapping(event="identify", id="a")), "identify"),
        (FieldMapping(event=EventMapping(event="order_completed", id="a", properties={"b": "colour"})), "colour"),
        (FieldMapping(attributes={"a": "home_city", "b": "home_city"}), "twice"),
    ],
)
def test_a_mapping_that_is_not_the_schemas_is_refused_before_reading(
    device: Device, mapping: FieldMapping, what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        csv_import(b"a,b\n1,2\n", mapping).pull(device.intake)


def test_a_null_takes_back_what_this_source_said_and_only_that(device: Device) -> None:
    mapping = FieldMapping(attributes={"tier": "loyalty_tier", "plan": "plan"})

    def say(name: str, record: dict[str, Any]) -> None:
        device.clock.now_s += 10
        FileImport(name, json.dumps(record).encode(), mapping, file_format="json").pull(device.intake)

    say("crm", {"tier": "gold", "plan": "basic"})
    say("shop", {"tier": None})
    assert device.values() == {"loyalty_tier": "gold", "plan": "basic"}
    say("crm", {"tier": None, "plan": ""})
    assert device.values() == {"plan": "basic"}
    overruled = device.profile.document()["attributes"]["loyalty_tier"]["overruled"]
    assert [(entry["value"], entry["why"]) for entry in overruled] == [("gold", "retracted")]


def test_a_special_attribute_comes_from_a_file_only_if_the_user_declares_it(device: Device) -> None:
    raw = b"diet\nvegan\n"
    csv_import(raw, FieldMapping(attributes={"diet": "diet"})).pull(device.intake)
    assert device.values() == {}
    csv_import(raw, FieldMapping(attributes={"diet": "diet"}, source="declared")).pull(device.intake)
    assert device.values() == {"diet": ["vegan"]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=25,
)
FIELDS = st.sampled_from(["No", "Betrag", "Währung", "Datum", "city", "city.name", "geheim"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=JSON | st.dictionaries(FIELDS, JSON, max_size=7))
def test_whatever_a_record_is_it_is_mapped_or_one_error(device: Device, record: Any) -> None:
    mapping = FieldMapping(
        attributes={"city.name": "home_city", "tier": "loyalty_tier"}, event=ORDERS.event, at="Datum"
    )
    try:
        mapped = mapping.read(record, device.schema)
    except CaptureError:
        return
    assert set(mapped.attributes) <= {"home_city", "loyalty_tier"}
    assert set(mapped.properties) <= {"total", "currency"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_a_file_is_it_is_read_or_one_error(device: Device, raw: bytes) -> None:
    for file_format in ("csv", "json", "ndjson"):
        try:
            FileImport("any", raw, ORDERS, file_format=file_format).pull(device.intake)
        except (ConnectorDataError, RowsError):
            continue
