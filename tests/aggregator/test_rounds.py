"""Rounds over the in-process grid with real gates: what is sent, counted, released, learned and written, and in which order."""

from __future__ import annotations

import time
from pathlib import Path

import nacl.signing
import numpy as np
import pytest
from small_fleet import AGGREGATOR, ENCODER, FEATURES, LABELS, NOW_S, OFFICER, SmallFleet, examples, signed_policy

import privacy.mechanisms
from aggregator.releases.intent_head import ServerOptimizer
from aggregator.replica import ReplicaClient, ReplicaSettings, train
from aggregator.rounds import RoundOutcome, RoundRunner, RoundSettings
from privacy.dpsgd import HeadTrainer
from privacy.merkle import merkle_root
from privacy.reports import verify_ledger
from shared_models.canonical import Envelope
from shared_models.errors import (
    ConfigError,
    HaltedError,
    PolicyError,
    PolicyExpiredError,
    RoundError,
    TooFewSurvivorsError,
)
from shared_models.messages import read_round
from shared_models.wire import SCALE, RoundPlan, model_hash, noise_variance_for


def fixed_noise(variance: int, size: int) -> np.ndarray:
    """A draw that is known beforehand, of about the right size."""
    return np.rint(np.random.default_rng(variance % 1000).normal(size=size) * np.sqrt(variance)).astype(np.int64)


def test_a_series_writes_each_step_once_and_in_order(tmp_path: Path) -> None:
    fleet = SmallFleet()
    state = fleet.state(tmp_path / "state.sqlite")
    outcomes: list[RoundOutcome] = []
    last = fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=3), outcomes.append)
    entries = state.entries()
    assert [entry.kind for entry in entries] == ["genesis", "begin", *["reserve", "release"] * 3]
    assert [outcome.round_id for outcome in outcomes] == [1, 2, 3]
    assert all(o.invited == o.survivors == 6 and o.refused == o.rejected == 0 for o in outcomes)
    assert outcomes[0].bytes_up == 6 * len(LABELS) * FEATURES * 4
    assert (last.rounds_done, last.next_round_id) == (3, 4)
    assert entries[-1].body["model_hash"] == model_hash(LABELS, last.weights)
    stored = state.checkpoint()
    assert stored is not None
    np.testing.assert_array_equal(stored.weights, last.weights)
    ledger = verify_ledger(state.lines(), bytes(OFFICER.verify_key))
    assert [item.survivors for item in ledger.rounds] == [6, 6, 6]
    assert all(item.plan.noise_variance == entries[3].body["noise_variance"] for item in ledger.rounds)


def test_the_plan_is_signed_and_says_what_the_policy_says(tmp_path: Path) -> None:
    fleet = SmallFleet()
    seen: list[tuple[Envelope, tuple[str, ...], np.ndarray]] = []

    def look(message, context, honest):
        seen.append(read_round(message))
        return honest(message, context)

    fleet.behaviours[2] = look
    state = fleet.state(tmp_path / "state.sqlite")
    fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=1, deadline_s=60))
    ((envelope, labels, weights, _),) = seen
    plan = RoundPlan.from_envelope(envelope, bytes(AGGREGATOR.verify_key))
    limits = fleet.policy.purposes["intent-model"].contributions["intent_head"]
    assert labels == LABELS
    assert plan.model_hash == model_hash(labels, weights)
    assert (plan.task, plan.round_id, plan.cohort, plan.min_survivors) == ("small", 1, 6, 3)
    assert (plan.clip_norm, plan.local) == (limits.clip_norm, limits.local)
    assert plan.noise_variance == noise_variance_for(limits.noise_multiplier)
    assert (plan.policy_hash, plan.encoder_hash) == (fleet.policy.hash, ENCODER)
    assert (plan.issued_s, plan.deadline_s) == (int(NOW_S), int(NOW_S) + 60)
    reserve = state.entries()[2]
    assert reserve.body["plan"] == plan.document()
    assert reserve.body["rho"] == plan.rho


def test_the_ledger_commits_to_every_contribution_that_devices_keep_a_receipt_of(tmp_path: Path) -> None:
    fleet = SmallFleet()
    state = fleet.state(tmp_path / "state.sqlite")
    fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=2))
    for round_id, entry in ((1, state.entries()[3]), (2, state.entries()[5])):
        receipts = [fleet.port(index)._gate.receipts()[round_id - 1]["body"] for index in range(6)]  # type: ignore[attr-defined]
        assert sorted(receipt["commitment"] for receipt in receipts) == state.leaves(round_id)
        root = merkle_root([bytes.fromhex(leaf) for leaf in state.leaves(round_id)])
        assert entry.body["contributions_root"] == root.hex()
        assert {receipt["plan_hash"] for receipt in receipts} == {entry.body["plan_hash"]}


@pytest.mark.parametrize("real_opacus", [False, True])
def test_rounds_equal_the_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_opacus: bool) -> None:
    monkeypatch.setattr(privacy.mechanisms, "sample_discrete_gaussian", fixed_noise)
    optimizer = ServerOptimizer(learning_rate=0.5, momentum=0.9, tail_rounds=2)
    fleet = SmallFleet(8)
    state = fleet.state(tmp_path / "state.sqlite")
    models: list[np.ndarray] = []
    grid = fleet.grid(HeadTrainer()) if real_opacus else fleet.grid()
    ended = fleet.runner(state).run(
        grid, RoundSettings(rounds=3, optimizer=optimizer), lambda outcome: models.append(outcome.checkpoint.weights)
    )
    limits = fleet.policy.purposes["intent-model"].contributions["intent_head"]
    assert limits.local is not None
    settings = ReplicaSettings(3, limits.clip_norm, limits.noise_multiplier, limits.local, optimizer)
    clients = [ReplicaClient(*examples(index)) for index in range(8)]
    theirs: list[np.ndarray] = []
    start = np.zeros((len(LABELS), FEATURES), np.float32)
    replica = train(
        LABELS,
        start,
        clients,
        settings,
        sampler=fixed_noise,
        on_round=lambda checkpoint: theirs.append(checkpoint.weights),
    )
    # Opacus sums in another order: an entry may round to the neighbouring integer on a device, one step in 2^14 each.
    exact = 0.0 if not real_opacus else 8 * 0.5 * 3 * 10 * limits.clip_norm / SCALE / 8
    for ours, other in zip(models, theirs, strict=True):
        np.testing.assert_allclose(ours, other, atol=exact, rtol=0)
    np.testing.assert_allclose(ended.released_weights(), replica.released_weights(), atol=exact, rtol=0)


def test_every_device_weighs_the_same_whatever_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy.mechanisms, "sample_discrete_gaussian", lambda variance, size: np.zeros(size, np.int64))

    def mean_after(behaviour: int) -> np.ndarray:
        fleet = SmallFleet(4)
        fleet.behaviours = {index: refuse for index in range(4) if index not in (0, behaviour)}
        envelope = signed_policy({"min_survivors: 3": "min_survivors: 1"})
        fleet.policy_envelope = envelope
        state = fleet.state(tmp_path / f"state-{behaviour}.sqlite")
        checkpoint = fleet.runner(state).run(
            fleet.grid(), RoundSettings(1, optimizer=ServerOptimizer(1.0, tail_rounds=1))
        )
        return checkpoint.weights

    alone, both = mean_after(0), mean_after(3)
    other = (2 * both - alone).reshape(-1)
    limits = SmallFleet().policy.purposes["intent-model"].contributions["intent_head"]
    assert np.linalg.norm(other) <= limits.clip_norm * 1.001
    assert np.linalg.norm(other) > 0.01


def refuse(message, context, honest):
    raise RuntimeError("this device fails")


def test_too_few_survivors_release_nothing_and_leave_a_reason(tmp_path: Path) -> None:
    fleet = SmallFleet(5)
    fleet.behaviours = {index: refuse for index in (0, 1, 2)}
    state = fleet.state(tmp_path / "state.sqlite")
    runner = fleet.runner(state)
    with pytest.raises(TooFewSurvivorsError, match="2 devices contributed, the plan releases nothing below 3"):
        runner.run(fleet.grid(), RoundSettings(rounds=1))
    entries = state.entries()
    assert [entry.kind for entry in entries] == ["genesis", "begin", "reserve", "abort"]
    assert entries[-1].body["survivors"] == 2
    assert "2 devices contributed" in state.notes()["last_abort"]["reason"]
    assert state.leaves(1) == []
    checkpoint = state.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.rounds_done, checkpoint.next_round_id) == (0, 2)
    assert not checkpoint.weights.any()
    fleet.behaviours.clear()
    runner.run(fleet.grid(), RoundSettings(rounds=1))
    ledger = verify_ledger(state.lines(), bytes(OFFICER.verify_key))
    assert [(item.plan.round_id, item.survivors is None) for item in ledger.rounds][-1] == (2, False)


def test_too_few_devices_online_starts_nothing(tmp_path: Path) -> None:
    fleet = SmallFleet(2)
    state = fleet.state(tmp_path / "state.sqlite")
    with pytest.raises(RoundError, match="2 devices are online, the policy releases nothing below 3"):
        fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=1))
    assert [entry.kind for entry in state.entries()] == ["genesis", "begin"]
    assert "2 devices are online" in state.notes()["last_abort"]["reason"]
    assert fleet.handled == []


def test_a_cohort_below_the_policy_is_refused_at_once(tmp_path: Path) -> None:
    fleet = SmallFleet(6)
    state = fleet.state(tmp_path / "state.sqlite")
    with pytest.raises(ConfigError, match="a cohort of 2 is too small"):
        fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=1, cohort=2, wait_for_devices_s=600))
    assert fleet.handled == []


@pytest.mark.parametrize("wrong", [dict(rounds=-1), dict(rounds=1, cohort=0), dict(rounds=1, deadline_s=0)])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        RoundSettings(**wrong)


def test_a_cohort_is_a_part_of_the_fleet(tmp_path: Path) -> None:
    fleet = SmallFleet(20)
    state = fleet.state(tmp_path / "state.sqlite")
    outcomes: list[RoundOutcome] = []
    fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=4, cohort=5), outcomes.append)
    assert all(outcome.invited == outcome.survivors == 5 for outcome in outcomes)
    rounds = [set(fleet.handled[start : start + 5]) for start in range(0, 20, 5)]
    assert all(len(invited) == 5 for invited in rounds)
    assert len(set().union(*rounds)) > 5, "each round draws anew"


@pytest.mark.parametrize(
    ("envelope", "now_s", "expected"),
    [
        (signed_policy(), NOW_S + 15 * 86_400, PolicyExpiredError),
        (signed_policy(), NOW_S - 3600, PolicyExpiredError),
        (signed_policy({"halted: false": "halted: true"}), NOW_S, HaltedError),
        (signed_policy({"  intent-model:": "  another-purpose:"}), NOW_S, PolicyError),
        (signed_policy({"      intent_head:": "      segment_sums:"}), NOW_S, PolicyError),
    ],
    ids=["expired", "not yet", "halted", "another purpose", "another contribution"],
)
def test_what_the_policy_does_not_allow_is_refused_before_anything_is_sent(
    tmp_path: Path, envelope: Envelope, now_s: float, expected: type[Exception]
) -> None:
    fleet = SmallFleet(policy_envelope=envelope, now_s=now_s)
    state = fleet.state(tmp_path / "state.sqlite")
    with pytest.raises(expected):
        fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=1))
    assert [entry.kind for entry in state.entries()] == ["genesis", "begin"]
    assert fleet.handled == []


def test_devices_stop_when_their_participations_are_used_up(tmp_path: Path) -> None:
    fleet = SmallFleet(policy_envelope=signed_policy(participations=2))
    state = fleet.state(tmp_path / "state.sqlite")
    runner = fleet.runner(state)
    runner.run(fleet.grid(), RoundSettings(rounds=2))
    with pytest.raises(TooFewSurvivorsError, match="0 devices contributed"):
        runner.run(fleet.grid(), RoundSettings(rounds=3, cohort=6))
    report = verify_ledger(state.lines(), bytes(OFFICER.verify_key))
    assert [item.survivors for item in report.rounds if item.survivors] == [6, 6]


def test_a_round_that_nobody_can_afford_is_refused_before_it_starts(tmp_path: Path) -> None:
    fleet = SmallFleet(policy_envelope=signed_policy(participations=2))
    state = fleet.state(tmp_path / "state.sqlite")
    runner = fleet.runner(state)
    runner.run(fleet.grid(), RoundSettings(rounds=2))
    before = len(state.lines())
    with pytest.raises(RoundError, match="2 rounds of this period are spent, a device may take part in 2"):
        runner.run(fleet.grid(), RoundSettings(rounds=3))
    assert len(state.lines()) == before
    assert "are spent" in state.notes()["last_abort"]["reason"]


def test_a_run_before_a_model_is_refused(tmp_path: Path) -> None:
    fleet = SmallFleet()
    state = fleet.state(tmp_path / "state.sqlite")
    runner = RoundRunner(state, fleet.policy, AGGREGATOR, ENCODER, clock=fleet.clock)
    with pytest.raises(RoundError, match="holds no model yet"):
        runner.run(fleet.grid(), RoundSettings(rounds=1))


def test_a_new_series_starts_from_the_released_model(tmp_path: Path) -> None:
    fleet = SmallFleet()
    state = fleet.state(tmp_path / "state.sqlite")
    runner = fleet.runner(state)
    optimizer = ServerOptimizer(learning_rate=2.0, momentum=0.9, tail_rounds=2)
    first = runner.run(fleet.grid(), RoundSettings(rounds=3, optimizer=optimizer))
    assert first.tail_count == 2
    assert np.abs(first.released_weights() - first.weights).max() > 0
    sent: list[np.ndarray] = []

    def look(message, context, honest):
        sent.append(read_round(message)[2])
        return honest(message, context)

    fleet.behaviours[0] = look
    second = runner.run(fleet.grid(), RoundSettings(rounds=5, optimizer=optimizer))
    np.testing.assert_array_equal(sent[0], first.released_weights())
    assert (second.rounds_done, second.next_round_id, second.tail_count) == (5, 6, 2)
    # Nothing is left to do: running again sends nothing and changes nothing.
    count = len(state.entries())
    runner.run(fleet.grid(), RoundSettings(rounds=5, optimizer=optimizer))
    assert len(state.entries()) == count


def test_devices_of_another_aggregator_do_not_answer(tmp_path: Path) -> None:
    fleet = SmallFleet()
    state = fleet.state(tmp_path / "state.sqlite")
    impostor = RoundRunner(state, fleet.policy, nacl.signing.SigningKey.generate(), ENCODER, clock=fleet.clock)
    impostor.begin(LABELS, np.zeros((len(LABELS), FEATURES), np.float32), 0)
    with pytest.raises(TooFewSurvivorsError, match="0 devices contributed"):
        impostor.run(fleet.grid(), RoundSettings(rounds=1))


def test_lost_devices_are_counted_and_the_rest_is_released(tmp_path: Path) -> None:
    fleet = SmallFleet(9)
    state = fleet.state(tmp_path / "state.sqlite")
    outcomes: list[RoundOutcome] = []
    away: set[int] = set()
    grid = fleet.grid(lost=lambda message: message.metadata.dst_node_id in away)
    away.update(grid.get_node_ids()[:4])
    fleet.runner(state).run(grid, RoundSettings(rounds=1), outcomes.append)
    assert [(o.invited, o.survivors, o.refused, o.rejected) for o in outcomes] == [(9, 5, 4, 0)]
    assert len(state.leaves(1)) == 5


def test_silent_devices_are_waited_for_until_the_deadline_only(tmp_path: Path) -> None:
    fleet = SmallFleet(6)
    state = fleet.state(tmp_path / "state.sqlite")
    grid = fleet.grid()
    silent = set(grid.get_node_ids()[:2])
    pull = grid.pull_messages

    def pull_some(identifiers):
        known = [i for i in identifiers if i in grid._waiting]
        return pull([i for i in known if grid._waiting[i].metadata.dst_node_id not in silent])

    grid.pull_messages = pull_some  # type: ignore[method-assign]
    started_s = time.monotonic()
    outcomes: list[RoundOutcome] = []
    fleet.runner(state).run(grid, RoundSettings(rounds=1, deadline_s=1), outcomes.append)
    assert outcomes[0].survivors == 4
    assert 0.9 < time.monotonic() - started_s < 10
