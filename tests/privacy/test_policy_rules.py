"""Policies: strict reading, the officer's signature, dates, and what counts as looser."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from privacy_world import (
    CONTRIBUTION,
    DAY_S,
    NOW_S,
    OFFICER,
    OFFICER_PUBLIC,
    PURPOSE,
    STRANGER,
    contribution_of,
    parsed,
    policy_document,
    signed_policy,
)

from privacy.policy import MAX_POLICY_BYTES, POLICY_KIND, is_looser, parse_policy, sign_policy
from shared_models.canonical import Envelope, seal_envelope
from shared_models.errors import PolicyError, PolicyExpiredError

Path = tuple[str, ...]


def all_paths(value: Any, at: Path = ()) -> list[Path]:
    """Every field of a policy, the inner mappings among them."""
    found = []
    for name, inner in value.items():
        found.append((*at, name))
        if isinstance(inner, dict):
            found += all_paths(inner, (*at, name))
    return found


def changed(path: Path, value: Any, **wish: Any) -> dict[str, Any]:
    document = copy.deepcopy(policy_document(**wish))
    target = document
    for name in path[:-1]:
        target = target[name]
    if value is KeyError:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return document


def refused(document: Any) -> str:
    """Officers cannot sign it, and devices would not take it from an officer whose software could."""
    text = yaml.safe_dump(document, sort_keys=False)
    with pytest.raises(PolicyError):
        sign_policy(text, OFFICER)
    with pytest.raises(PolicyError) as caught:
        parse_policy(seal_envelope(POLICY_KIND, text.encode(), OFFICER), OFFICER_PUBLIC)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FIELDS = all_paths(policy_document())


def ident(path: Any) -> str:
    return ".".join(path) if isinstance(path, tuple) else repr(path)


def test_the_good_policy_is_read_field_by_field() -> None:
    policy = parsed(policy_document())
    assert (policy.fleet, policy.sequence, policy.halted) == ("test", 1, False)
    assert policy.expires_s == NOW_S + 14 * DAY_S
    assert policy.epsilon_total <= 4.0
    limits = policy.purposes[PURPOSE].contributions[CONTRIBUTION]
    assert limits.min_survivors == 3
    assert limits.local is not None
    assert limits.local.noise_multiplier == 0.0


@pytest.mark.parametrize("path", FIELDS, ids=ident)
def test_a_missing_field_is_an_error(path: Path) -> None:
    if len(path) > 1 and path[-2] in ("purposes", "contributions"):
        return  # names that the officer chooses; without any, see below
    assert path[-1] in refused(changed(path, KeyError))


@pytest.mark.parametrize(
    "at",
    [
        (),
        ("purposes", PURPOSE),
        ("purposes", PURPOSE, "contributions", CONTRIBUTION),
        ("purposes", PURPOSE, "contributions", CONTRIBUTION, "local"),
    ],
    ids=ident,
)
@pytest.mark.parametrize("name", ["surprise", "Rho", "halted ", "local_", "sensitivity"])
def test_an_unknown_field_is_an_error(at: Path, name: str) -> None:
    assert "unknown field" in refused(changed((*at, name), 1))


@pytest.mark.parametrize("path", FIELDS, ids=ident)
@pytest.mark.parametrize("value", [None, [], [1], {}, {"a": 1}, "", "many", float("nan"), float("inf"), -1, 1e12])
def test_a_value_of_another_type_or_range_is_an_error(path: Path, value: Any) -> None:
    if path[-1] == "local" and value is None:
        return  # nothing is trained on devices
    if path[-1] == "reason" and isinstance(value, str):
        return
    if path[-1] in ("purposes",) and value == {}:
        return  # a policy that allows nothing
    if path[-1] == "fleet" and value == "many":
        return
    refused(changed(path, value))


@pytest.mark.parametrize("path", [path for path in FIELDS if path[-1] != "halted"], ids=ident)
@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_not_numbers(path: Path, value: bool) -> None:
    refused(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 1),
        (("format",), 2.0),
        (("delta",), 0.011),
        (("delta",), 0),
        (("colluding_share",), 1.0),
        (("modes",), ["local"]),
        (("modes",), ["trusted-aggregator", 7]),
        (("modes",), "trusted-aggregator"),
        (("modes",), [["trusted-aggregator"]]),
        (("aggregator_key",), "ab" * 31),
        (("aggregator_key",), "zz" * 32),
        (("purposes", PURPOSE, "contributions"), {}),
        (("purposes", PURPOSE, "contributions", CONTRIBUTION, "local", "sample_rate"), 1.5),
        (("purposes", PURPOSE, "contributions", CONTRIBUTION, "local", "expected_batch"), 0),
        (("purposes", PURPOSE, "participations"), 5.0),
        (("fleet",), "x" * 1001),
    ],
)
def test_limits_of_single_fields(path: Path, value: Any) -> None:
    refused(changed(path, value))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"- 1",
        b"just words",
        b"{",
        b"\xff\xfe\x00",
        b"a: !!python/object/apply:os.system ['true']",
        b"a: &a [*a]",
        b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]",
        b"[" * 100_000,
        b"format: 1\nissued: 2026-99-99 00:00:00\n",
        b"format: " + b"9" * 5000,
        b"x: " + b"y" * MAX_POLICY_BYTES,
        b"? {a: 1}\n: 2\n",
    ],
    ids=range(13),
)
def test_what_is_not_a_policy_at_all_is_one_typed_error(text: bytes) -> None:
    with pytest.raises(PolicyError):
        parse_policy(seal_envelope(POLICY_KIND, text, OFFICER), OFFICER_PUBLIC)


@pytest.mark.parametrize("line", ["rho_total: 0.000001", "halted: true", "format: 1"])
def test_a_field_that_stands_twice_is_an_error(line: str) -> None:
    """Else the officer reads the first one, and devices obey the last."""
    text = yaml.safe_dump(policy_document(), sort_keys=False)
    with pytest.raises(PolicyError, match="twice"):
        sign_policy(f"{line}\n{text}", OFFICER)


def test_aliases_are_refused_before_they_can_grow() -> None:
    bomb = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12))
    with pytest.raises(PolicyError, match="aliases"):
        sign_policy(f"l0: &l0 [x]\n{bomb}", OFFICER)


def test_numbers_may_be_written_as_officers_write_them() -> None:
    text = yaml.safe_dump(policy_document(), sort_keys=False)
    lines = [line for line in text.splitlines() if not line.startswith("delta:")]
    for written, value in (("1e-5", 1e-5), ("1.0e-05", 1e-5), ("0.00001", 1e-5), ("1E-5", 1e-5)):
        signed = sign_policy("\n".join([*lines, f"delta: {written}"]), OFFICER)
        assert parse_policy(signed, OFFICER_PUBLIC).delta == value


@pytest.mark.parametrize(
    "life", [timedelta(0), timedelta(-1), timedelta(14, 1), timedelta(15), timedelta(3650)], ids=str
)
def test_a_policy_lives_14_days_at_most(life: timedelta) -> None:
    issued = datetime(2027, 1, 1, tzinfo=UTC)
    refused({**policy_document(), "issued": issued.isoformat(), "expires": (issued + life).isoformat()})


def test_times_without_a_zone_are_utc_and_dates_alone_are_no_times() -> None:
    document = policy_document()
    document["issued"], document["expires"] = "2027-01-01T00:00:00", "2027-01-15T02:00:00+02:00"
    policy = parsed(document)
    assert policy.expires_s - policy.issued_s == 14 * DAY_S
    for nonsense in ("2027-01-01T", "tomorrow", 20270101, "9999-12-31T23:59:59+00:00"):
        refused({**document, "expires": nonsense})


def test_a_policy_is_in_force_from_its_issue_until_its_expiry() -> None:
    policy = parsed(policy_document())
    for now_s in (NOW_S - 299, NOW_S, NOW_S + 14 * DAY_S - 1):
        policy.check_valid_at(now_s)
    for now_s in (NOW_S - 301, NOW_S + 14 * DAY_S, NOW_S + 365 * DAY_S):
        with pytest.raises(PolicyExpiredError):
            policy.check_valid_at(now_s)


def test_only_the_officers_signature_counts() -> None:
    good = signed_policy(policy_document())
    with pytest.raises(PolicyError):
        parse_policy(signed_policy(policy_document(), STRANGER), OFFICER_PUBLIC)
    for bad in (
        Envelope(good.kind, good.payload + b" ", good.signer, good.signature),
        Envelope("application/vnd.tacit.round-plan+json", good.payload, good.signer, good.signature),
        Envelope(good.kind, good.payload, good.signer, bytes(64)),
        Envelope(good.kind, good.payload, good.signer, b""),
        seal_envelope("application/vnd.tacit.ledger-entry+json", good.payload, OFFICER),
    ):
        with pytest.raises(PolicyError):
            parse_policy(bad, OFFICER_PUBLIC)


LOOSER = [
    (("rho_total",), lambda x: x * 1.01),
    (("delta",), lambda x: x * 1.01),
    (("period_days",), lambda x: x - 1),
    (("colluding_share",), lambda x: x - 0.01),
    (("modes",), lambda x: [*x, "trusted-aggregator"]),
    (("purposes", PURPOSE, "rho"), lambda x: x * 1.01),
    (("purposes", PURPOSE, "participations"), lambda x: x + 1),
    (("purposes", PURPOSE, "contributions", CONTRIBUTION, "max_dimension"), lambda x: x + 1),
    (("purposes", PURPOSE, "contributions", CONTRIBUTION, "clip_norm"), lambda x: x * 1.01),
    (("purposes", PURPOSE, "contributions", CONTRIBUTION, "noise_multiplier"), lambda x: x * 0.99),
    (("purposes", PURPOSE, "contributions", CONTRIBUTION, "min_survivors"), lambda x: x - 1),
]


def value_at(document: Any, path: Path) -> Any:
    for name in path:
        document = document[name]
    return document


@pytest.mark.parametrize(("path", "change"), LOOSER, ids=lambda item: ident(item) if isinstance(item, tuple) else "")
def test_each_single_loosening_is_seen_and_its_reverse_is_not_one(path: Path, change: Any) -> None:
    wish = {"enrolment_key": bytes(range(32))} if path == ("modes",) else {}
    before = policy_document(**wish)
    after = changed(path, change(value_at(before, path)), **wish)
    assert is_looser(parsed(before), parsed(after))
    assert not is_looser(parsed(after), parsed(before))


def test_less_separation_less_local_noise_and_new_names_are_looser() -> None:
    before = policy_document(separation_s=60, local_noise_multiplier=1.0)
    assert is_looser(parsed(before), parsed(policy_document(separation_s=59, local_noise_multiplier=1.0)))
    assert is_looser(parsed(before), parsed(policy_document(separation_s=60, local_noise_multiplier=0.5)))
    assert not is_looser(parsed(before), parsed(policy_document(separation_s=61, local_noise_multiplier=2.0)))
    more = copy.deepcopy(before)
    more["purposes"]["other"] = copy.deepcopy(before["purposes"][PURPOSE])
    assert is_looser(parsed(before), parsed(more))
    assert not is_looser(parsed(more), parsed(before))
    again = copy.deepcopy(before)
    again["purposes"][PURPOSE]["contributions"]["second"] = contribution_of(before)
    assert is_looser(parsed(before), parsed({**again}))
    untrained = copy.deepcopy(before)
    contribution_of(untrained)["local"] = None
    assert not is_looser(parsed(before), parsed(untrained))
    assert is_looser(parsed(untrained), parsed(before))


def test_another_mode_or_another_enrolment_authority_is_looser() -> None:
    trusted, secure = policy_document(), policy_document(enrolment_key=bytes(range(32)))
    both = {**secure, "modes": ["trusted-aggregator", "distributed"]}
    assert secure["modes"] == ["distributed"]
    for before in (trusted, secure):
        assert is_looser(parsed(before), parsed(both))
    assert is_looser(parsed(secure), parsed(trusted))
    assert not is_looser(parsed(both), parsed(secure))
    assert is_looser(parsed(secure), parsed({**secure, "enrolment_key": "ab" * 32}))
    with pytest.raises(PolicyError, match="enrolment_key"):
        parsed({**trusted, "modes": ["distributed"]})


def test_the_same_limits_with_another_date_number_or_reason_are_not_looser() -> None:
    before = policy_document()
    after = {**before, "sequence": 2, "reason": "a new month", "halted": True, "population": 20_000}
    assert not is_looser(parsed(before), parsed(after))
    assert not is_looser(parsed(after), parsed(before))
