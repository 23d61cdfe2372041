"""Canonical encoding and signed envelopes, held by JSON conformance vectors for clients in other languages."""

from __future__ import annotations

import json
from pathlib import Path

import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_models.canonical import Envelope, canonical_bytes, canonical_hash, parse_document, seal_envelope
from shared_models.errors import SignatureError, WireError

VECTORS = json.loads((Path(__file__).parent.parent / "data" / "wire_vectors.json").read_text(encoding="utf-8"))
KEY = nacl.signing.SigningKey(bytes.fromhex(VECTORS["secret_key"]))

NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("vector", VECTORS["canonical"], ids=lambda vector: vector["name"])
def test_canonical_bytes_are_those_of_the_vectors(vector: dict) -> None:
    assert canonical_bytes(vector["value"]).hex() == vector["bytes"]
    assert canonical_hash(vector["value"]) == vector["sha256"]


@pytest.mark.parametrize("vector", VECTORS["envelopes"], ids=lambda vector: vector["kind"])
def test_envelopes_are_those_of_the_vectors(vector: dict) -> None:
    payload = bytes.fromhex(vector["payload"])
    sealed = seal_envelope(vector["kind"], payload, KEY)
    assert sealed.to_bytes().decode() == vector["envelope"]
    assert sealed.hash == vector["hash"]
    assert Envelope.from_bytes(vector["envelope"].encode()).open(vector["kind"], bytes(KEY.verify_key)) == payload


@given(VALUES)
def test_what_is_encoded_reads_back_equal_and_encodes_the_same(value: object) -> None:
    try:
        raw = canonical_bytes({"value": value})
    except WireError:
        return  # a lone surrogate has no UTF-8
    assert canonical_bytes(parse_document(raw)) == raw


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**60, b"bytes", {1: 2}, object(), "\ud800"])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        canonical_bytes({"value": value})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[1]",
        b"nul",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b"{" * 200_000,
        b'{"a":' * 100_000,
        b'"text"',
        b"{}" * 3,
    ],
)
def test_documents_that_are_not_one_json_object_are_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        parse_document(raw)


def test_a_document_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(WireError, match="bytes"):
        parse_document(b" " * 100, limit_bytes=99)


@given(st.binary(max_size=40), st.integers(0, 63), st.integers(0, 7))
def test_a_changed_signature_payload_or_kind_is_refused(payload: bytes, position: int, bit: int) -> None:
    sealed = seal_envelope("kind-a", payload, KEY)
    public = bytes(KEY.verify_key)
    broken = bytearray(sealed.signature)
    broken[position] ^= 1 << bit
    for changed in (
        Envelope("kind-a", payload, sealed.signer, bytes(broken)),
        Envelope("kind-a", payload + b"x", sealed.signer, sealed.signature),
        Envelope("kind-b", payload, sealed.signer, sealed.signature),
    ):
        with pytest.raises(SignatureError):
            changed.open(changed.kind, public)
    with pytest.raises(SignatureError):
        sealed.open("kind-a", bytes(nacl.signing.SigningKey.generate().verify_key))
    with pytest.raises(SignatureError):
        sealed.open("kind-b", public)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"payloadType": "k", "payload": "AA==", "signatures": []},
        {"payloadType": "k", "payload": "AA==", "signatures": [{"keyid": "a", "sig": "AA=="}] * 2},
        {"payloadType": 1, "payload": "AA==", "signatures": [{"keyid": "a", "sig": "AA=="}]},
        {"payloadType": "k", "payload": "not base64", "signatures": [{"keyid": "a", "sig": "AA=="}]},
        {"payloadType": "k", "payload": "AA==", "signatures": "text"},
        {"payloadType": "k", "payload": "AA==", "signatures": [[1]]},
    ],
)
def test_what_is_not_an_envelope_is_refused(document: dict) -> None:
    with pytest.raises(WireError):
        Envelope.from_bytes(json.dumps(document).encode())
