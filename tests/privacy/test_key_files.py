"""Key files: written once, private, read strictly."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from privacy.keys import fingerprint, load_public_key, load_signing_key, new_key_pair
from shared_models.errors import ConfigError


def test_a_pair_fits_together_and_is_read_back(tmp_path: Path) -> None:
    secret, public = new_key_pair(tmp_path / "deep" / "er", "officer")
    key = load_signing_key(secret)
    assert load_public_key(public) == bytes(key.verify_key)
    assert load_signing_key(secret).sign(b"x").signature == key.sign(b"x").signature
    assert (secret.name, public.name) == ("officer.key", "officer.pub")


@pytest.mark.parametrize("mask", [0, 0o77])
def test_only_the_owner_can_read_a_secret_key(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        secret, _ = new_key_pair(tmp_path, "officer")
    finally:
        os.umask(before)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@pytest.mark.parametrize("present", ["officer.key", "officer.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("here already")
    with pytest.raises(ConfigError, match="never overwritten"):
        new_key_pair(tmp_path, "officer")
    assert (tmp_path / present).read_text() == "here already"
    assert [path.name for path in tmp_path.iterdir()] == [present]


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../up", "a\\b", "nul\0", "two\nlines", "\x1b[31m"])
def test_a_name_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        new_key_pair(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        new_key_pair(tmp_path / "file", "officer")
    with pytest.raises(ConfigError, match="cannot be written"):
        new_key_pair(tmp_path, "x" * 5000)


@pytest.mark.parametrize(
    "content", [b"", b"zz" * 32, b"ab" * 31, b"ab" * 33, b"\xff" * 64, b"tacit-ed25519-secret-key:", b"ab" * 32, b"\n"]
)
def test_a_file_that_is_no_secret_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_signing_key(path)


def test_a_secret_key_given_for_a_public_one_is_refused(tmp_path: Path) -> None:
    """So that nobody hands it on by mistake."""
    secret, public = new_key_pair(tmp_path, "officer")
    with pytest.raises(ConfigError) as caught:
        load_public_key(secret)
    assert secret.read_text().strip()[-64:] not in str(caught.value)
    with pytest.raises(ConfigError):
        load_signing_key(public)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError):
            load_public_key(missing)


def test_fingerprints_are_for_people_and_tell_keys_apart() -> None:
    first, second = fingerprint(bytes(32)), fingerprint(bytes(31) + b"\1")
    assert first != second
    assert [len(group) for group in first.split(" ")] == [4, 4, 4, 4]
