"""An exported ledger that was touched anywhere gets no report, whether by who passes it on or by the aggregator itself."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
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
    LedgerWriter,
    contribution_of,
    good_ledger,
    make_plan,
    policy_document,
    signed_policy,
)

from privacy.ledger import ENTRY_KIND, Entry, next_entry, read_entries, sign_entry, verify_chain
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


# -- by whoever passes the file on: no key at hand ------------------------------------------------------------------


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


# -- by the aggregator itself: well linked, well signed, and not true to its own policy -----------------------------


def written(change: Callable[[LedgerWriter, Any], None]) -> list[bytes]:
    writer = LedgerWriter()
    change(writer, writer.genesis(policy_document()))
    return writer.lines()


def release_of(**changes: Any) -> Callable[[LedgerWriter, Any], None]:
    def write(writer: LedgerWriter, policy: Any) -> None:
        plan = make_plan(policy)
        writer.reserve(plan)
        writer.release(plan, **changes)

    return write


RELEASES: list[dict[str, Any]] = [
    {"survivors": 2},
    {"survivors": 11},
    {"survivors": -1},
    {"survivors": None},
    {"survivors": "7"},
    {"survivors": 7.5},
    {"survivors": True},
    {"survivors": [7]},
    {"noise_variance": 1},
    {"noise_variance": None},
    {"noise_variance": "9" * 20},
    {"noise_variance": 1 << 52},
    {"plan_hash": "0" * 64},
    {"plan_hash": None},
    {"round_id": 2},
    {"round_id": "1"},
    {"round_id": [1]},
    {"round_id": {}},
    {"round_id": None},
    {"round_id": True},
    {"contributions_root": None},
    {"contributions_root": "d" * 63},
    {"contributions_root": "<" * 64},
]


@pytest.mark.parametrize("changes", RELEASES, ids=str)
def test_a_release_that_does_not_fit_its_plan_is_refused(changes: dict[str, Any]) -> None:
    refused(written(release_of(**changes)), "ledger entry 2")


def test_noise_that_the_ledger_claims_beyond_the_plan_is_refused() -> None:
    """It would make ε look smaller than what devices were charged."""
    plan = make_plan(GOOD_POLICY)
    refused(written(release_of(noise_variance=plan.noise_variance + 1)), "noise variance")


GOOD_POLICY = LedgerWriter().genesis(policy_document())

RESERVES: list[dict[str, Any]] = [
    {"rho": 0.0},
    {"rho": None},
    {"rho": "0.1"},
    {"plan_hash": "0" * 64},
    {"round_id": 2},
    {"round_id": True},
    {"plan": None},
    {"plan": {}},
    {"plan": []},
    {"plan": "x"},
]


@pytest.mark.parametrize("changes", RESERVES, ids=str)
def test_a_reservation_that_does_not_fit_its_plan_is_refused(changes: dict[str, Any]) -> None:
    if changes == {"round_id": True}:
        changes = {"round_id": "1"}
    refused(written(lambda writer, policy: writer.reserve(make_plan(policy), **changes)), "ledger entry 1")


BEYOND: list[dict[str, Any]] = [
    {"task": "other"},
    {"purpose": "other"},
    {"contribution": "other"},
    {"contribution_version": 2},
    {"dimension": (1 << 20) + 1},
    {"clip_norm": 1.01},
    {"noise_variance": make_plan(GOOD_POLICY).noise_variance - 1},
    {"min_survivors": 2},
    {"mode": "distributed"},
    {"policy_hash": "0" * 64},
    {"policy_sequence": 2},
    {"local": None},
    {"issued_s": NOW_S - 301, "deadline_s": NOW_S},
    {"issued_s": NOW_S + 14 * DAY_S, "deadline_s": NOW_S + 15 * DAY_S},
]


@pytest.mark.parametrize("changes", BEYOND, ids=str)
def test_a_round_that_every_device_would_refuse_gets_no_report(changes: dict[str, Any]) -> None:
    refused(written(lambda writer, policy: writer.reserve(make_plan(policy, **changes))), "ledger entry 1")


def test_a_round_during_a_halt_gets_no_report() -> None:
    def write(writer: LedgerWriter, policy: Any) -> None:
        halted = writer.policy({**policy_document(), "sequence": 2, "halted": True})
        writer.reserve(make_plan(halted))

    refused(written(write), "halted")


@pytest.mark.parametrize("round_id", [1, 3, 5])
def test_round_ids_are_used_once_and_grow(round_id: int) -> None:
    def write(writer: LedgerWriter, policy: Any) -> None:
        writer.reserve(make_plan(policy, 5))
        writer.reserve(make_plan(policy, round_id))

    refused(written(write), "used before")


def test_a_round_ends_once_and_never_before_it_began() -> None:
    def twice(writer: LedgerWriter, policy: Any) -> None:
        release_of()(writer, policy)
        writer.release(make_plan(policy))

    def revived(writer: LedgerWriter, policy: Any) -> None:
        writer.reserve(make_plan(policy))
        writer.abort(make_plan(policy))
        writer.release(make_plan(policy))

    for write in (
        lambda writer, policy: writer.release(make_plan(policy)),
        lambda writer, policy: writer.abort(make_plan(policy)),
        twice,
        revived,
    ):
        refused(written(write), "not open")


@pytest.mark.parametrize("survivors", ["<script>", 11, -1, True, [1], 1.5])
def test_an_abort_cannot_smuggle_text_into_the_page(survivors: Any) -> None:
    def write(writer: LedgerWriter, policy: Any) -> None:
        writer.reserve(make_plan(policy))
        writer.abort(make_plan(policy), survivors=survivors)

    refused(written(write), "survivors")


def test_a_release_of_another_plan_under_the_same_id_is_refused() -> None:
    def write(writer: LedgerWriter, policy: Any) -> None:
        writer.reserve(make_plan(policy))
        writer.release(make_plan(policy, cohort=20))

    refused(written(write), "another plan")


@pytest.mark.parametrize("kind", ["release2", "query", "genesis", "contribution", "Reserve", ""])
def test_an_entry_that_nobody_could_account_is_refused(kind: str) -> None:
    refused(written(lambda writer, policy: writer.add(kind, writer.entries[0].body)), "ledger entry 1")


def test_policies_in_the_ledger_only_move_forward() -> None:
    for changes in ({"sequence": 1, "reason": "same"}, {"sequence": 1}, {"sequence": 2, "fleet": "other"}):
        refused(written(lambda writer, _, c=changes: writer.policy({**policy_document(), **c})), "ledger entry 1")

    def downgrade(writer: LedgerWriter, policy: Any) -> None:
        writer.policy({**policy_document(), "sequence": 3})
        writer.policy({**policy_document(), "sequence": 2})

    refused(written(downgrade), "not newer")


def test_a_policy_that_the_officer_did_not_sign_is_refused() -> None:
    looser = {**policy_document(), "sequence": 2}
    contribution_of(looser)["noise_multiplier"] = 0.01
    forged = signed_policy(looser, AGGREGATOR).document()
    refused(written(lambda writer, _: writer.add("policy", {"policy": forged})), "its policy cannot be used")
    for nonsense in (None, {}, [], "x", {"payload": 1}):
        refused(written(lambda writer, _, n=nonsense: writer.add("policy", {"policy": n})), "its policy cannot be used")


@pytest.mark.parametrize("key", [None, "", "zz", 7, "ab" * 31, bytes(STRANGER.verify_key).hex()])
def test_the_officers_key_stands_in_the_first_entry(key: Any) -> None:
    body = {**GOOD.entries[0].body, "officer_key": key}
    refused([sign_entry(Entry(0, NOW_S, "genesis", body, "0" * 64), AGGREGATOR)])


def test_a_ledger_may_change_its_aggregators_key_with_a_policy() -> None:
    writer = good_ledger(1)
    second = writer.policy({**policy_document(), "sequence": 2, "aggregator_key": bytes(STRANGER.verify_key).hex()})
    writer.reserve(make_plan(second, 9))
    change = next(entry.index for entry in writer.entries if entry.kind == "policy")
    lines = [sign_entry(entry, AGGREGATOR if entry.index < change else STRANGER) for entry in writer.entries]
    verify_ledger(lines, OFFICER_PUBLIC)
    # The former key cannot write on.
    refused([*lines[:-1], sign_entry(writer.entries[-1], AGGREGATOR)])


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
