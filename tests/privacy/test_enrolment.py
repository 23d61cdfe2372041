"""Certificates hold for one fleet, one key and one time; the register gives one per user and period, also after a crash."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import nacl.signing
import pytest

from privacy.enrolment import CLOCK_SLACK_S, Certificate, EnrolmentRegister, issue_certificate
from shared_models.errors import CertificateError, ConfigError, RefusedError

NOW_S, DAY_S = 1_800_000_000, 86_400
AUTHORITY = nacl.signing.SigningKey(bytes([7]) * 32)
AUTHORITY_KEY = bytes(AUTHORITY.verify_key)
PHONE, TABLET = bytes([1]) * 32, bytes([2]) * 32
GOOD = issue_certificate(AUTHORITY, "fleet", PHONE, NOW_S, NOW_S + DAY_S)


def test_a_good_certificate_is_accepted_until_it_ends() -> None:
    for now_s in (NOW_S - CLOCK_SLACK_S, NOW_S, NOW_S + DAY_S - 1):
        GOOD.check(AUTHORITY_KEY, "fleet", now_s)
    for now_s in (NOW_S - CLOCK_SLACK_S - 1, NOW_S + DAY_S, NOW_S + 10 * DAY_S):
        with pytest.raises(CertificateError, match="not in force"):
            GOOD.check(AUTHORITY_KEY, "fleet", now_s)
    assert issubclass(CertificateError, RefusedError)


@pytest.mark.parametrize(
    "changed",
    [
        {"identity_key": TABLET},
        {"not_before_s": NOW_S - 1},
        {"not_after_s": NOW_S + 2 * DAY_S},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
)
def test_a_changed_field_breaks_the_signature(changed: dict[str, object]) -> None:
    with pytest.raises(CertificateError, match="not signed"):
        replace(GOOD, **changed).check(AUTHORITY_KEY, "fleet", NOW_S)


def test_another_fleet_or_another_authority_is_refused() -> None:
    with pytest.raises(CertificateError, match="fleet"):
        GOOD.check(AUTHORITY_KEY, "other", NOW_S)
    with pytest.raises(CertificateError, match="not signed"):
        replace(GOOD, fleet="other").check(AUTHORITY_KEY, "other", NOW_S)
    for stranger in (bytes(nacl.signing.SigningKey(bytes([8]) * 32).verify_key), b"", bytes(32)):
        with pytest.raises(CertificateError, match="not signed"):
            GOOD.check(stranger, "fleet", NOW_S)


def test_a_certificate_reads_back_equal_and_garbage_is_refused() -> None:
    assert Certificate.from_bytes(GOOD.to_bytes()) == GOOD == Certificate.from_document(GOOD.document())
    for name, value in (
        ("format", 2),
        ("fleet", 3),
        ("identity", "00"),
        ("identity", None),
        ("signature", "zz"),
        ("not_before_s", True),
        ("not_after_s", NOW_S),
        ("not_after_s", 1 << 40),
        ("extra", 1),
    ):
        with pytest.raises(CertificateError):
            Certificate.from_document({**GOOD.document(), name: value})
    for raw in (b"", b"[]", b"{}", b"\xff", GOOD.to_bytes()[:-1]):
        with pytest.raises(CertificateError):
            Certificate.from_bytes(raw)


def test_an_erased_device_that_enrols_anew_gets_no_second_certificate(tmp_path: Path) -> None:
    register = EnrolmentRegister.create(tmp_path)
    first = register.certify("fleet", "ada", PHONE, NOW_S, 90)
    first.check(register.public_key, "fleet", NOW_S)
    reopened = EnrolmentRegister(tmp_path)
    assert reopened.certify("fleet", "ada", PHONE, NOW_S + DAY_S, 90) == first
    with pytest.raises(CertificateError, match="one per user and period"):
        reopened.certify("fleet", "ada", TABLET, NOW_S + 180 * DAY_S - 1, 90, rest_days=90)
    with pytest.raises(CertificateError, match="another user"):
        reopened.certify("fleet", "bob", PHONE, NOW_S, 90)
    after = reopened.certify("fleet", "ada", TABLET, NOW_S + 180 * DAY_S, 90, rest_days=90)
    assert [certificate for _, certificate in reopened.entries()] == [first, after]


def test_the_same_device_is_certified_anew_without_a_rest(tmp_path: Path) -> None:
    register = EnrolmentRegister.create(tmp_path)
    register.certify("fleet", "ada", PHONE, NOW_S, 90)
    again = register.certify("fleet", "ada", PHONE, NOW_S + 90 * DAY_S, 90)
    again.check(register.public_key, "fleet", NOW_S + 100 * DAY_S)
    with pytest.raises(CertificateError, match="in 81 days"):
        register.certify("fleet", "ada", TABLET, NOW_S + 189 * DAY_S, 90)


def test_no_window_of_a_period_holds_the_budgets_of_two_devices_of_one_user(tmp_path: Path) -> None:
    """Short certificates do not help: devices taken in turn, each certified as soon as it can be."""
    register, period_days, day, spans = EnrolmentRegister.create(tmp_path), 30, 0, []
    for device in range(4):
        while True:
            try:
                found = register.certify("fleet", "ada", bytes([device + 1]) * 32, NOW_S + day * DAY_S, 7, period_days)
                break
            except CertificateError:
                day += 1
        spans.append((found.not_before_s, found.not_after_s))
    assert all(later[0] - earlier[1] >= period_days * DAY_S for earlier, later in itertools.pairwise(spans))


def test_the_register_names_nobody_and_is_private(tmp_path: Path) -> None:
    register = EnrolmentRegister.create(tmp_path)
    register.certify("fleet", "ada@example.org", PHONE, NOW_S, 90)
    assert b"ada@" not in (tmp_path / "register.jsonl").read_bytes()
    for name in ("register.jsonl", "register.salt", "enrolment.key"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    other = EnrolmentRegister.create(tmp_path / "other")
    other.certify("fleet", "ada@example.org", PHONE, NOW_S, 90)
    assert other.entries()[0][0] != register.entries()[0][0]


def test_a_line_cut_off_by_a_crash_is_overwritten_and_a_damaged_one_is_not_passed_over(tmp_path: Path) -> None:
    register = EnrolmentRegister.create(tmp_path)
    first = register.certify("fleet", "ada", PHONE, NOW_S, 90)
    path = tmp_path / "register.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:100])
    assert [certificate for _, certificate in register.entries()] == [first]
    second = register.certify("fleet", "bob", TABLET, NOW_S, 90)
    assert [certificate for _, certificate in register.entries()] == [first, second]
    path.write_bytes(path.read_bytes().replace(PHONE.hex().encode(), TABLET.hex().encode()))
    with pytest.raises(ConfigError, match="line 1 is damaged"):
        register.certify("fleet", "cleo", bytes([3]) * 32, NOW_S, 90)


def test_an_authority_is_never_overwritten(tmp_path: Path) -> None:
    EnrolmentRegister.create(tmp_path)
    with pytest.raises(ConfigError, match="exists already"):
        EnrolmentRegister.create(tmp_path)
    (tmp_path / "register.salt").write_text("short")
    with pytest.raises(ConfigError, match="salt"):
        EnrolmentRegister(tmp_path)


@pytest.mark.parametrize(
    ("fleet", "user", "identity", "days"),
    [("", "ada", PHONE, 90), ("fleet", "", PHONE, 90), ("fleet", "ada", b"", 90), ("fleet", "ada", PHONE, 0)],
)
def test_a_certificate_for_nobody_is_not_issued(
    tmp_path: Path, fleet: str, user: str, identity: bytes, days: int
) -> None:
    with pytest.raises(CertificateError, match="needs"):
        EnrolmentRegister.create(tmp_path).certify(fleet, user, identity, NOW_S, days)
