"""Enrolment certificates at the gate: without one that holds, no keys are offered."""

from __future__ import annotations

from typing import Any

import pytest
from privacy_world import (
    NOW_S,
    STRANGER,
    signed_plan,
)
from secure_fleet import AUTHORITY, Fleet, Member, untouched

from privacy.enrolment import issue_certificate
from shared_models.errors import (
    CertificateError,
    PolicyError,
)

# -- identity ----------------------------------------------------------------------------------------------------------


def newcomer(fleet: Fleet) -> Member:
    member = Member(99, fleet.first.document)
    del member.memory.items["certificate"]
    return member


def test_without_a_certificate_no_keys_are_offered(fleet: Fleet) -> None:
    member = newcomer(fleet)
    assert member.gate.certificate is None
    untouched(
        member, lambda: member.gate.advertise(signed_plan(member.plan())), PolicyError, "no enrolment certificate"
    )


BAD_CERTIFICATES: dict[str, dict[str, Any]] = {
    "expired": {"days": -0.001},
    "another fleet's": {"fleet": "other"},
    "another authority's": {"authority": STRANGER},
}


@pytest.mark.parametrize("case", BAD_CERTIFICATES)
def test_a_certificate_that_does_not_hold_is_neither_kept_nor_used(fleet: Fleet, case: str) -> None:
    member = newcomer(fleet)
    untouched(member, lambda: member.certify(**BAD_CERTIFICATES[case]), CertificateError)
    # Kept from before the device had its first policy: it is judged again when it is used.
    wish = {"fleet": "test", "days": 90, "authority": AUTHORITY, **BAD_CERTIFICATES[case]}
    until_s = int(NOW_S + wish["days"] * 86_400)
    kept = issue_certificate(wish["authority"], wish["fleet"], member.gate.identity_key(), NOW_S - 1000, until_s)
    member.memory.put("certificate", kept.document())
    untouched(member, lambda: member.gate.advertise(signed_plan(member.plan())), CertificateError)


def test_a_certificate_that_runs_out_ends_taking_part(fleet: Fleet) -> None:
    member = newcomer(fleet)
    member.certify(days=1)
    member.gate.advertise(signed_plan(member.plan()))
    member.now_s += 86_400
    untouched(member, lambda: member.gate.advertise(signed_plan(member.plan(2))), CertificateError, "not in force")


def test_a_certificate_of_another_device_is_not_installed(fleet: Fleet) -> None:
    certificate = fleet.members[1].gate.certificate
    assert certificate is not None
    untouched(fleet.first, lambda: fleet.first.gate.install_certificate(certificate), PolicyError, "another device")


def test_the_identity_outlives_a_restart(fleet: Fleet) -> None:
    key = fleet.first.gate.identity_key()
    assert fleet.first.new_gate().identity_key() == key
    assert fleet.members[1].gate.identity_key() != key
