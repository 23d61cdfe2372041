"""Rounds of studies in mode `distributed`, with real gates: what comes of each, what is refused, what a crash leaves."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_fleet import AGGREGATOR, OFFICER
from study_fleet import FEATURES, ITEMS, StudyFleet, studies, study_policy

import aggregator.simulate
from aggregator.checkpoint import FleetState
from aggregator.rounds import RoundOutcome, RoundSettings, released_sums
from aggregator.studies import ItemSpaceStudy, Study
from privacy.ledger import next_entry, read_entries, sign_entry
from privacy.reports import build_report, verify_ledger
from shared_models.bandit_prior import BanditPrior
from shared_models.errors import (
    CheckpointError,
    ConsentError,
    LedgerError,
    PolicyError,
    RoundError,
    SecureSumError,
    TooFewSurvivorsError,
)
from shared_models.optional_targets import check_targets
from shared_models.preference import ItemSpaceSession

SETTINGS = RoundSettings(rounds=0, deadline_s=120)


def run(fleet: StudyFleet, state: FleetState, study: Study, **options: object) -> list[RoundOutcome]:
    outcomes: list[RoundOutcome] = []
    fleet.runner(state).run_study(fleet.grid(**options), SETTINGS, study, outcomes.append)
    return outcomes


def test_every_study_goes_through_real_gates_and_leaves_its_artefacts(tmp_path: Path) -> None:
    fleet = StudyFleet()
    state = fleet.state(tmp_path / "state.sqlite")
    rounds = {name: len(run(fleet, state, study)) for name, study in studies().items()}
    assert rounds == {
        "item_gram": 1,
        "bandit_moments": 2,
        "policy_value_sums": 1,
        "drift_count": 1,
        "fairness_slices": 1,
    }
    made = state.artifacts()
    assert set(made) == {
        "items.json",
        "items.onnx",
        "bandit-prior.json",
        "policy-value.json",
        "drift.json",
        "fairness.json",
    }
    check_targets({name: made[name] for name in ("items.json", "items.onnx", "bandit-prior.json")})
    # What everybody likes is what the space ranks first.
    space = ItemSpaceSession(made["items.onnx"])
    assert set(json.loads(made["items.json"])["items"]) == set(ITEMS)
    _, rows = space.top(np.zeros(len(ITEMS), np.float32), np.zeros(space.rank, np.float32), 2)
    assert {space.items[row] for row in rows} == set(ITEMS[:2])
    prior = BanditPrior.from_bytes(made["bandit-prior.json"])
    assert prior.features == FEATURES
    assert prior.mean[1] > 0.2, "rewards rise with the second feature"
    assert json.loads(made["policy-value.json"])["target"] == "prior"
    assert json.loads(made["drift.json"])["rates"]["scope"]["value"] > 0.3
    ledger = verify_ledger(state.lines(), bytes(OFFICER.verify_key))
    assert [item.outcome for item in ledger.rounds] == ["released"] * 6
    assert {item.name for item in ledger.artifacts} == set(made)
    state.close()


def check_report(state: FleetState) -> None:
    """Every figure of the report follows from the ledger, and no purpose and not the total is above what the officer allowed."""
    report = build_report(state.lines(), bytes(OFFICER.verify_key))
    assert report["total"]["rho"] == pytest.approx(math.fsum(item["rho"] for item in report["purposes"]))
    assert report["total"]["rho"] <= report["policy"]["rho_total"]
    for item in report["purposes"]:
        assert item["rho"] <= item["rho_limit"]
        assert item["rho"] == pytest.approx(math.fsum(x["rho"] for x in item["contributions"].values()))
    assert {item["name"] for item in report["artifacts"]} == set(state.artifacts())
    assert any("Several purposes" in text for text in report["statements"])


def test_devices_without_data_say_zeros_and_all_spend_no_more_than_the_officer_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounded(variance: int, size: int) -> np.ndarray:
        """Real noise is as large as here, but its table for the sampler takes a second to make for each round."""
        return np.rint(np.random.default_rng().normal(size=size) * math.sqrt(variance)).astype(np.int64)

    monkeypatch.setattr(aggregator.simulate, "sample_from_table", rounded)
    fleet = StudyFleet(5, study_policy(epsilon=4.0))
    state = fleet.state(tmp_path / "state.sqlite")
    for held in fleet.held[:3]:
        held.silent = True
    for study in studies().values():
        assert all(outcome.survivors == 5 and outcome.refused == 0 for outcome in run(fleet, state, study))
    assert [item["body"]["note"] for item in fleet.port(0)._gate.receipts()] == [""] * 6  # type: ignore[attr-defined]
    check_report(state)
    gate = fleet.port(0)._gate  # type: ignore[attr-defined]
    policy = fleet.policy
    for name in ("preference-model", "suggestion-model", "quality-check"):
        budget = gate.budget(name)
        assert 0.0 < budget.rho_spent <= budget.rho_limit
    assert gate.budget("suggestion-model").rho_spent == pytest.approx(policy.purposes["suggestion-model"].rho, rel=1e-3)
    assert math.fsum(item.rho for item in gate.spendings()) <= policy.rho_total
    # What is spent is spent: a second item space in the same period is not even asked for.
    with pytest.raises(RoundError, match="spent"):
        run(fleet, state, ItemSpaceStudy(ITEMS))
    # And a server that asks all the same gets nothing from any device.
    unforeseen = RoundSettings(rounds=0, deadline_s=120, cohort=5)
    with pytest.raises((SecureSumError, TooFewSurvivorsError), match="advertised"):
        fleet.runner(state).run_study(fleet.grid(), unforeseen, ItemSpaceStudy(ITEMS))
    assert fleet.port(0)._gate.budget("preference-model").participations == 1  # type: ignore[attr-defined]
    state.close()


def test_data_that_cannot_be_read_make_zeros_and_no_refusal(tmp_path: Path) -> None:
    fleet = StudyFleet(6)

    def broken() -> list[str]:
        raise ConsentError("the user did not allow that this is kept")

    fleet.held[1].liked_items = broken  # type: ignore[method-assign]
    state = fleet.state(tmp_path / "state.sqlite")
    (outcome,) = run(fleet, state, ItemSpaceStudy(ITEMS))
    assert (outcome.survivors, outcome.refused) == (6, 0)
    assert fleet.port(1)._gate.receipts()[0]["body"]["note"] == "the update failed with ConsentError"  # type: ignore[attr-defined]
    state.close()


# -- who does not take part ------------------------------------------------------------------------------------------


def test_a_device_whose_user_did_not_allow_the_purpose_refuses_and_is_not_in_the_sum(tmp_path: Path) -> None:
    fleet = StudyFleet(6)
    consent = fleet.port(2)._gate._consent  # type: ignore[attr-defined]
    allowed = ("intent-model", "suggestion-model", "quality-check")
    consent.granted_since = lambda purpose: 0.0 if purpose in allowed else None
    state = fleet.state(tmp_path / "state.sqlite")
    (outcome,) = run(fleet, state, ItemSpaceStudy(ITEMS))
    assert (outcome.survivors, outcome.refused) == (5, 1)
    assert fleet.held[2].asked == [], "nothing of the user's was read"
    # The others' consent is to each purpose alone: what it did allow goes on.
    assert [item.survivors for item in run(fleet, state, studies()["drift_count"])] == [6]
    state.close()


# -- what a crash leaves ----------------------------------------------------------------------------------------------


def killed(folder: Path, name: str, prepare: Callable[[], None]) -> bool:
    """Run a study in a child that `prepare` makes kill itself; whether it did."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            fleet = StudyFleet(5)
            run(fleet, fleet.state(folder / "state.sqlite"), studies()[name])
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a forked child must never return into the test run
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def dies_at(kind: str, number: int, *, after: bool) -> Callable[[], None]:
    """Die at the n-th ledger entry of that kind, before or after it is on disk."""

    def prepare() -> None:
        real, left = FleetState.append, [number]

        def append(self: FleetState, entry_kind: str, *given: object, **more: object) -> object:
            meant = entry_kind == kind
            left[0] -= meant
            if meant and left[0] == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            entry = real(self, entry_kind, *given, **more)  # type: ignore[arg-type]
            if meant and left[0] == 0 and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return entry

        FleetState.append = append  # type: ignore[method-assign, assignment]

    return prepare


def test_an_artefact_is_made_of_the_stored_sum_after_a_kill_and_nothing_is_asked_again(tmp_path: Path) -> None:
    assert killed(tmp_path, "item_gram", dies_at("release", 1, after=True))
    fleet = StudyFleet(5)
    state = fleet.state(tmp_path / "state.sqlite")
    assert state.artifact("items.json") is None
    (released,) = released_sums(state, ("item_gram",))
    assert run(fleet, state, studies()["item_gram"]) == [], "no round was run"
    assert fleet.handled == []
    assert studies()["item_gram"].make([released]).artifacts == state.artifacts()
    assert released_sums(state, ("item_gram",)) == []
    verify_ledger(state.lines(), bytes(OFFICER.verify_key))
    state.close()


def test_a_study_of_two_rounds_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    # Between its rounds, in the second one, and before its artefact is on disk.
    assert killed(tmp_path, "bandit_moments", dies_at("release", 1, after=True))
    assert killed(tmp_path, "bandit_moments", dies_at("release", 1, after=True))
    assert killed(tmp_path, "bandit_moments", dies_at("artifact", 1, after=False))
    fleet = StudyFleet(5)
    state = fleet.state(tmp_path / "state.sqlite")
    assert run(fleet, state, studies()["bandit_moments"]) == []
    assert [entry.kind for entry in state.entries()].count("release") == 2
    first, second = verify_ledger(state.lines(), bytes(OFFICER.verify_key)).rounds
    assert second.plan.noise_variance * 9 == pytest.approx(first.plan.noise_variance, rel=1e-6)
    BanditPrior.from_bytes(state.artifacts()["bandit-prior.json"])
    state.close()


def test_a_round_that_was_killed_before_its_release_is_spent_and_a_new_one_is_asked(tmp_path: Path) -> None:
    assert killed(tmp_path, "drift_count", dies_at("release", 1, after=False))
    fleet = StudyFleet(5)
    state = fleet.state(tmp_path / "state.sqlite")
    assert [outcome.round_id for outcome in run(fleet, state, studies()["drift_count"])] == [2]
    assert [item.outcome for item in verify_ledger(state.lines()).rounds] == ["aborted", "released"]
    state.close()


def test_too_few_release_nothing_and_make_nothing(tmp_path: Path) -> None:
    fleet = StudyFleet(5)
    fleet.held[0].items = ("another catalogue",)
    state = fleet.state(tmp_path / "state.sqlite")
    with pytest.raises((SecureSumError, TooFewSurvivorsError), match="advertised"):
        run(fleet, state, ItemSpaceStudy(ITEMS))
    assert state.artifacts() == {}
    assert released_sums(state, ("item_gram",)) == []
    state.close()


def test_a_stored_sum_or_artefact_that_was_changed_is_found(tmp_path: Path) -> None:
    import sqlite3

    fleet = StudyFleet(5)
    state = fleet.state(tmp_path / "state.sqlite")
    run(fleet, state, studies()["drift_count"])
    with sqlite3.connect(tmp_path / "state.sqlite") as database:
        database.execute("UPDATE artifacts SET content = x'00'")
        database.execute("UPDATE sums SET grid = x'0000000000000000'")
    with pytest.raises(CheckpointError, match=r"drift\.json is missing or damaged"):
        state.artifact("drift.json")
    with pytest.raises(CheckpointError, match="sum of round 1"):
        state.released_grid(1)
    state.close()


# -- what the ledger holds --------------------------------------------------------------------------------------------


def test_a_ledger_that_lies_about_layouts_or_artefacts_does_not_hold(tmp_path: Path) -> None:
    fleet = StudyFleet(5)
    state = fleet.state(tmp_path / "state.sqlite")
    run(fleet, state, studies()["drift_count"])
    entries = [entry for _, entry in read_entries(state.lines())]
    state.close()

    def rewritten(kind: str, **changes: object) -> list[bytes]:
        lines, last = [], None
        for entry in entries:
            body = {**entry.body, **changes} if entry.kind == kind else entry.body
            last = next_entry(last, entry.time_s, entry.kind, body)
            lines.append(sign_entry(last, AGGREGATOR))
        return lines

    verify_ledger(rewritten("artifact"), bytes(OFFICER.verify_key))
    for kind, changes in (
        ("reserve", {"layout": {"kinds": ["mood"]}}),
        ("reserve", {"layout": None}),
        ("artifact", {"rounds": [2]}),
        ("artifact", {"rounds": [1, 1]}),
        ("artifact", {"rounds": []}),
        ("artifact", {"artifacts": {"drift.json": "0"}}),
        ("artifact", {"study": 3}),
    ):
        with pytest.raises(LedgerError):
            verify_ledger(rewritten(kind, **changes), bytes(OFFICER.verify_key))


def test_a_round_that_the_policy_does_not_allow_is_not_begun(tmp_path: Path) -> None:
    only = StudyFleet(5, study_policy(shares={"intent-model": 1.0}))
    state = only.state(tmp_path / "state.sqlite")
    with pytest.raises(PolicyError, match="does not allow 'item_gram'"):
        run(only, state, ItemSpaceStudy(ITEMS))
    assert [entry.kind for entry in state.entries()] == ["genesis", "begin"]
    state.close()
