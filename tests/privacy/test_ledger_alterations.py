"""An exported ledger that was touched anywhere by who passes it on gets no report."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_world import (
    AGGREGATOR,
    DAY_S,
    NOW_S,
    OFFICER_PUBLIC,
    PURPOSE,
    STRANGER,
    good_ledger,
)

from privacy.ledger import ENTRY_KIND, next_entry, read_entries, sign_entry, verify_chain
from privacy.reports import build_report, read_ledger, verify_ledger
from shared_models.canonical import Envelope, canonical_bytes, seal_envelope
from shared_models.errors import LedgerError

GOOD = good_ledger(2)
LINES = GOOD.lines()


def refused(lines: list[bytes], match: str | None = None) -> None:
    for reader in (verify_ledger, build_report):
        with pytest.raises(LedgerError, match=match):
            reader(lines, OFFICER_PUBLIC)


def test_a_good_ledger_holds() -> None:
    ledger = verify_ledger(LINES, OFFICER_PUBLIC)
    assert len(ledger.entries) == len(LINES) == 8
    assert [item.outcome for item in ledger.rounds] == ["released", "released", "aborted", "open"]
    assert ledger.head == ledger.entries[-1].hash
    assert verify_ledger(LINES).head == ledger.head


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(LINES) - 1), st.integers(0, 10**6), st.integers(1, 255))
def test_no_byte_can_be_changed(line: int, place: int, flip: int) -> None:
    bent = bytearray(LINES[line])
    bent[place % len(bent)] ^= flip
    with pytest.raises(LedgerError):
        verify_ledger([*LINES[:line], bytes(bent), *LINES[line + 1 :]], OFFICER_PUBLIC)


@pytest.mark.parametrize("line", [0, 2, 7])
def test_no_byte_of_a_whole_line_can_be_changed(line: int) -> None:
    raw = LINES[line]
    step = max(1, len(raw) // 100)
    for place in [*range(0, len(raw), step), *range(len(raw) - 130, len(raw))]:
        bent = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        with pytest.raises(LedgerError):
            verify_ledger([*LINES[:line], bent, *LINES[line + 1 :]], OFFICER_PUBLIC)


@pytest.mark.parametrize("line", range(len(LINES)))
def test_no_byte_can_be_added_or_left_out(line: int) -> None:
    raw = LINES[line]
    for bent in (raw + b" ", b" " + raw, raw[:-1], raw[1:], b"", raw.replace(b":", b": ", 1), raw + b"\r"):
        refused([*LINES[:line], bent, *LINES[line + 1 :]])


@pytest.mark.parametrize("line", range(len(LINES)))
def test_the_envelopes_fields_are_bound_too(line: int) -> None:
    document = json.loads(LINES[line])

    def with_(**changes: Any) -> bytes:
        return canonical_bytes({**document, **changes})

    (signature,) = document["signatures"]
    for bent in (
        with_(payloadType="application/vnd.tacit.policy+yaml"),
        with_(signatures=[{**signature, "keyid": "0" * 16}]),
        with_(signatures=[{**signature, "keyid": ""}]),
        with_(signatures=[{**signature, "sig": base64.b64encode(bytes(64)).decode()}]),
        with_(signatures=[signature, signature]),
        with_(signatures=[]),
        with_(signatures=[{**signature, "note": 1}]),
        with_(extra=1),
    ):
        refused([*LINES[:line], bent, *LINES[line + 1 :]])


FIELDS = [
    (position, name)
    for position, entry in enumerate(GOOD.entries)
    for name in ("index", "time_s", "kind", "previous", *(f"body.{name}" for name in entry.body))
]


def other_value(value: Any) -> Any:
    if isinstance(value, int | float):
        return value + 1
    return value[:-1] + ("0" if value[-1:] != "0" else "1") if isinstance(value, str) else {}


@pytest.mark.parametrize(("position", "name"), FIELDS)
def test_a_changed_field_breaks_signature_and_chain(position: int, name: str) -> None:
    document = copy.deepcopy(GOOD.entries[position].document())
    place = document["body"] if name.startswith("body.") else document
    key = name.removeprefix("body.")
    place[key] = other_value(place[key])
    old = Envelope.from_bytes(LINES[position])
    bent = Envelope(old.kind, canonical_bytes(document), old.signer, old.signature).to_bytes()
    refused([*LINES[:position], bent, *LINES[position + 1 :]])
    # Signed anew by somebody else, and even by the aggregator: later entries do not follow, unless it is the last one.
    for key_of in (STRANGER, AGGREGATOR) if position < len(LINES) - 1 else (STRANGER,):
        resigned = seal_envelope(ENTRY_KIND, canonical_bytes(document), key_of).to_bytes()
        refused([*LINES[:position], resigned, *LINES[position + 1 :]])


@pytest.mark.parametrize("position", range(len(LINES) - 1))
def test_an_entry_cannot_be_taken_out_moved_or_doubled(position: int) -> None:
    refused(LINES[:position] + LINES[position + 1 :])
    refused([*LINES[:position], LINES[position + 1], LINES[position], *LINES[position + 2 :]])
    refused([*LINES[: position + 1], LINES[position], *LINES[position + 1 :]])


@pytest.mark.parametrize("kept", range(1, len(LINES)))
def test_a_cut_at_the_end_is_allowed_and_shows_in_the_head(kept: int) -> None:
    short = verify_ledger(LINES[:kept], OFFICER_PUBLIC)
    assert short.head == GOOD.entries[kept - 1].hash != GOOD.entries[-1].hash
    assert build_report(LINES[:kept])["ledger"]["head"] == short.head


def test_the_whole_ledger_signed_by_somebody_else_is_refused() -> None:
    refused([sign_entry(entry, STRANGER) for entry in GOOD.entries], "entry 0")


def test_another_officer_than_the_trusted_one_is_refused() -> None:
    with pytest.raises(LedgerError, match="trusted one"):
        verify_ledger(LINES, bytes(STRANGER.verify_key))


@pytest.mark.parametrize(
    "lines", [[], [b""], [b"{}"], [b"\xff"], [b"null"], [b"[" * 100_000], [LINES[1]], LINES[1:], [b"x" * (5 << 20)]]
)
def test_what_is_no_ledger_is_one_typed_error(lines: list[bytes]) -> None:
    refused(lines)


def test_a_file_without_its_last_newline_is_cut_off(tmp_path: Any) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"\n".join(LINES) + b"\n")
    assert read_ledger(path) == LINES
    for raw in (b"", b"\n".join(LINES), LINES[0]):
        path.write_bytes(raw)
        with pytest.raises(LedgerError, match="cut off"):
            read_ledger(path)
    with pytest.raises(LedgerError, match="cannot be read"):
        read_ledger(tmp_path / "nothing")


@pytest.mark.parametrize(
    "changes",
    [
        {"index": True},
        {"index": "0"},
        {"time_s": 1.5},
        {"time_s": -1},
        {"time_s": 1 << 50},
        {"time_s": None},
        {"kind": 1},
        {"body": []},
        {"previous": None},
        {"extra": 1},
    ],
)
def test_an_entry_of_another_form_is_refused_even_when_well_signed(changes: dict[str, Any]) -> None:
    document = {**GOOD.entries[0].document(), **changes}
    refused([seal_envelope(ENTRY_KIND, canonical_bytes(document), AGGREGATOR).to_bytes()])


def test_a_payload_that_is_not_canonical_is_refused_even_when_well_signed() -> None:
    document = GOOD.entries[0].document()
    for payload in (json.dumps(document).encode(), canonical_bytes(document) + b"\n"):
        refused([seal_envelope(ENTRY_KIND, payload, AGGREGATOR).to_bytes()], "canonical")
    huge = canonical_bytes({**document, "body": {"n": 1}}).replace(b'"n":1', b'"n":' + str(1 << 60).encode())
    refused([seal_envelope(ENTRY_KIND, huge, AGGREGATOR).to_bytes()])


def test_time_never_runs_backwards_along_the_chain() -> None:
    late = next_entry(GOOD.entries[-1], NOW_S - 10 * DAY_S, "begin", {})
    assert late.time_s == GOOD.entries[-1].time_s
    moved = replace(late, time_s=NOW_S - 1)
    with pytest.raises(LedgerError, match="older"):
        verify_chain([*GOOD.entries, moved])


def test_a_relinked_ledger_with_a_round_taken_out_shows_in_its_head() -> None:
    """The aggregator can rewrite its own history; whoever kept an earlier head sees it."""
    writer = good_ledger(3)
    head = verify_ledger(writer.lines()).head
    writer.entries = [entry for entry in writer.entries if entry.body.get("round_id") != 3]
    assert verify_ledger(writer.relinked()).head != head


def test_reading_names_the_line() -> None:
    with pytest.raises(LedgerError, match="ledger line 3"):
        list(read_entries([LINES[0], LINES[1], b"{}"]))


def test_purposes_are_named_in_the_ledger() -> None:
    assert {item.plan.purpose for item in verify_ledger(LINES).rounds} == {PURPOSE}
    assert datetime.fromtimestamp(GOOD.entries[0].time_s, UTC).year == 2027
