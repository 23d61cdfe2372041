"""A ledger that its own aggregator wrote, well linked and well signed, but not true to its own policy, gets no report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from privacy_world import (
    AGGREGATOR,
    DAY_S,
    NOW_S,
    OFFICER_PUBLIC,
    STRANGER,
    LedgerWriter,
    contribution_of,
    good_ledger,
    make_plan,
    policy_document,
    signed_policy,
)

from privacy.ledger import Entry, sign_entry
from privacy.reports import build_report, verify_ledger
from shared_models.errors import LedgerError

GOOD = good_ledger(2)
GOOD_POLICY = LedgerWriter().genesis(policy_document())


def refused(lines: list[bytes], match: str | None = None) -> None:
    for reader in (verify_ledger, build_report):
        with pytest.raises(LedgerError, match=match):
            reader(lines, OFFICER_PUBLIC)


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
    {"mode": "distributed", "colluders": 1, "degree": 9, "threshold": 6},
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
