"""Manifest, wording and trust anchor: one encoding each, and one typed error for everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_models.bundle import (
    Manifest,
    TrustAnchor,
    Wording,
    is_target_name,
    max_target_bytes,
    owner_of_target,
)
from shared_models.canonical import canonical_bytes
from shared_models.errors import TrustError, WireError

names = st.text("abcxyz019_", min_size=1, max_size=64).map(lambda text: f"a{text}"[:64])
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)

MANIFEST = Manifest(3, "travel", ("a", "b"), "0" * 64, "1" * 64, "2" * 64, None, 1_800_000_000)
ANCHOR = TrustAnchor("fleet", {"signed": {"version": 1}, "signatures": []}, b"\1" * 32, b"\2" * 32)


@given(
    st.builds(
        Manifest,
        version=st.integers(0, 1 << 50),
        domain=names,
        labels=st.lists(names, min_size=2, max_size=6, unique=True).map(tuple),
        encoder_sha256=digests,
        tokenizer_sha256=digests,
        head_sha256=digests,
        policy_hash=st.none() | digests,
        published_s=st.integers(0, 1 << 50),
    )
)
def test_a_manifest_comes_back_as_it_was_and_names_targets_of_its_roles(manifest: Manifest) -> None:
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert all(map(is_target_name, (manifest.encoder_target, manifest.tokenizer_target, manifest.head_target)))
    assert owner_of_target(manifest.encoder_target) == owner_of_target(manifest.tokenizer_target) == "models"
    assert owner_of_target(manifest.head_target) == "targets"


@given(st.dictionaries(names, st.lists(texts, min_size=1, max_size=3).map(tuple)), st.dictionaries(names, texts))
def test_wording_comes_back_as_it_was(templates: dict[str, tuple[str, ...]], labels: dict[str, str]) -> None:
    wording = Wording(templates, labels)
    assert Wording.from_bytes(wording.to_bytes()) == wording


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_one_typed_error(raw: bytes) -> None:
    for kind, error in ((Manifest, WireError), (Wording, WireError), (TrustAnchor, TrustError)):
        with pytest.raises(error):
            kind.from_bytes(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(MANIFEST.document())), json_values)
def test_a_manifest_with_any_other_value_in_a_field_is_sound_or_refused(field: str, value: Any) -> None:
    document = {**MANIFEST.document(), field: value}
    try:
        manifest = Manifest.from_bytes(json.dumps(document).encode())
    except WireError:
        return
    assert manifest.to_bytes() == json.dumps(document).encode()


@given(st.sampled_from(sorted(ANCHOR.document())), json_values)
def test_an_anchor_with_any_other_value_in_a_field_is_sound_or_refused(field: str, value: Any) -> None:
    try:
        anchor = TrustAnchor.from_bytes(json.dumps({**ANCHOR.document(), field: value}).encode())
    except TrustError:
        return
    assert TrustAnchor.from_bytes(anchor.to_bytes()) == anchor


def test_fields_are_exact_and_the_encoding_canonical() -> None:
    document = MANIFEST.document()
    for bad in (
        {**document, "extra": 1},
        {name: value for name, value in document.items() if name != "labels"},
        {**document, "format": 2},
        {**document, "format": True},
        {**document, "labels": ["a", "a"]},
        {**document, "labels": "ab"},
        {**document, "labels": [["a"], "b"]},
        {**document, "encoder_sha256": "A" * 64},
        {**document, "version": 1.0},
    ):
        with pytest.raises(WireError):
            Manifest.from_bytes(json.dumps(bad, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(WireError, match="canonical"):
        Manifest.from_bytes(json.dumps(document).encode())
    with pytest.raises(WireError):
        Manifest.from_bytes(MANIFEST.to_bytes() + b" " * 300_000)


def test_an_anchors_hash_covers_what_is_trusted_and_not_the_address() -> None:
    moved = TrustAnchor(ANCHOR.fleet, ANCHOR.root, ANCHOR.officer_key, ANCHOR.aggregator_key, "https://example.org/b")
    assert moved.hash == ANCHOR.hash
    assert TrustAnchor.from_bytes(moved.to_bytes()) == moved
    other = TrustAnchor(ANCHOR.fleet, ANCHOR.root, b"\3" * 32, ANCHOR.aggregator_key)
    assert other.hash != ANCHOR.hash
    assert ANCHOR.root_bytes == canonical_bytes({"signed": {"version": 1}, "signatures": []})


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/a",
        "a/",
        "a//b",
        "a/../b",
        ".a",
        "a/.b",
        "a\\b",
        "a b",
        "a\0",
        "a\n",
        "é",
        "C:a",
        "a/b/c/d/e",
        "x" * 300,
    ],
)
def test_names_that_could_lead_elsewhere_are_no_names_of_targets(name: str) -> None:
    assert not is_target_name(name)


def test_every_known_target_has_an_owner_and_a_limit() -> None:
    for name in (
        "manifest.json",
        "rules.json",
        "templates.json",
        "privacy-policy.json",
        "head/1.onnx",
        "encoder/x",
        "tokenizer/x",
    ):
        assert owner_of_target(name) is not None
        assert max_target_bytes(name) > 0
    assert owner_of_target("context/weather.json") is None
