"""Rounds in mode `distributed`, on the in-process grid with real gates: what drops, lies or cheats, and what the ledger says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from small_fleet import AUTHORITY, LABELS, OFFICER, SmallFleet, signed_policy

from aggregator.checkpoint import FleetState
from aggregator.rounds import RoundOutcome, RoundSettings
from privacy.reports import build_report, verify_ledger
from shared_models.errors import LedgerError, SecureSumError, TooFewSurvivorsError
from shared_models.messages import QUERY_STAGES
from shared_models.wire import SCALE

DISTRIBUTED = {"enrolment_key": bytes(AUTHORITY.verify_key), "health_dimension": 100, "min_survivors": 6}
MESSAGES = {"contribute": "train", **{stage: f"query.{stage}" for stage in QUERY_STAGES}}


def secure_fleet(devices: int = 10) -> SmallFleet:
    return SmallFleet(devices, signed_policy(**DISTRIBUTED))


def run(fleet: SmallFleet, folder: Path, rounds: int = 1, **options: object) -> tuple[list[RoundOutcome], FleetState]:
    state = fleet.state(folder / "state.sqlite")
    outcomes: list[RoundOutcome] = []
    fleet.runner(state).run(fleet.grid(**options), RoundSettings(rounds=rounds, deadline_s=120), outcomes.append)
    return outcomes, state


def gone_from(stage: str) -> Callable[[Message], bool]:
    """Devices 0 and 1 are lost from `stage` on."""
    names = list(MESSAGES)
    order = ["advertise", "draw", "share", "contribute", "agree", "unmask"]
    assert sorted(names) == sorted(order)
    late = {MESSAGES[name] for name in order[order.index(stage) :]}
    return lambda message: message.metadata.message_type in late and message.metadata.dst_node_id in LOST


LOST: set[int] = set()


@pytest.mark.parametrize("stage", list(MESSAGES))
def test_a_round_goes_on_without_devices_that_are_lost_at_any_stage(tmp_path: Path, stage: str) -> None:
    fleet = secure_fleet()
    state = fleet.state(tmp_path / "state.sqlite")
    grid = fleet.grid(lost=gone_from(stage))
    LOST.clear()
    LOST.update(list(grid.get_node_ids())[:2])
    outcomes: list[RoundOutcome] = []
    fleet.runner(state).run(grid, RoundSettings(rounds=1, deadline_s=120), outcomes.append)
    expected = 8 if stage in ("advertise", "draw", "share", "contribute") else 10
    assert outcomes[0].survivors == expected
    entry = state.entries()[-1]
    plan = verify_ledger(state.lines(), bytes(OFFICER.verify_key)).rounds[0].plan
    assert entry.kind == "release"
    assert entry.body["noise_variance"] == (expected - plan.colluders) * plan.share_variance >= plan.noise_variance
    assert abs(entry.body["health"]["z"]) < 6
    state.close()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("advertise", "advertised"),
        ("draw", "drew"),
        ("share", "shared"),
        ("contribute", "contributed"),
        ("agree", "agreed"),
        ("unmask", "shares"),
    ],
)
def test_too_few_at_any_stage_abort_the_round_which_names_the_stage(tmp_path: Path, stage: str, words: str) -> None:
    fleet = secure_fleet()
    state = fleet.state(tmp_path / "state.sqlite")
    grid = fleet.grid(lost=gone_from(stage))
    LOST.clear()
    LOST.update(list(grid.get_node_ids())[:6])
    with pytest.raises((SecureSumError, TooFewSurvivorsError), match=words):
        fleet.runner(state).run(grid, RoundSettings(rounds=1, deadline_s=120))
    (reserve, abort) = state.entries()[-2:]
    assert (reserve.kind, abort.kind, abort.body["stage"]) == ("reserve", "abort", stage)
    assert f"stage {stage}" in state.notes()["last_abort"]["reason"]
    report = build_report(state.lines(), bytes(OFFICER.verify_key))
    assert report["total"]["rho"] > 0, "what was at risk is charged"
    # What devices hold of that round is worth nothing: the next one has fresh keys and goes through.
    LOST.clear()
    outcomes: list[RoundOutcome] = []
    fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=1, deadline_s=120), outcomes.append)
    assert outcomes[0].round_id == 2
    state.close()


def garbled(message: Message, context: Context, honest: Callable[[Message, Context], Message]) -> Message:
    reply = honest(message, context)
    content = {name: record for name, record in reply.content.items()}
    if "stage" in content:
        content["stage"] = ConfigRecord({**content["stage"], "body": b"\xff" * 70})
    else:
        values = np.zeros(3, np.uint32)
        content["contribution"] = ArrayRecord({"values": Array(values)})
    return Message(RecordDict(content), reply_to=message)


def doubled(message: Message, context: Context, honest: Callable[[Message, Context], Message]) -> Message:
    """Asks its gate twice for everything; the second answer is what is sent."""
    honest(message, context)
    return honest(message, context)


@pytest.mark.parametrize("stage", list(MESSAGES))
def test_garbage_of_a_device_at_any_stage_counts_as_a_drop_out(tmp_path: Path, stage: str) -> None:
    fleet = secure_fleet()

    def behave(message: Message, context: Context, honest: Callable[[Message, Context], Message]) -> Message:
        chosen = garbled if message.metadata.message_type == MESSAGES[stage] else honest
        return chosen(message, context, honest) if chosen is garbled else honest(message, context)

    fleet.behaviours[2] = behave
    outcomes, state = run(fleet, tmp_path)
    assert outcomes[0].survivors == (9 if stage in ("advertise", "draw", "share", "contribute") else 10)
    assert outcomes[0].rejected == 1
    state.close()


def test_a_device_that_is_asked_twice_contributes_once(tmp_path: Path) -> None:
    fleet = secure_fleet()
    fleet.behaviours[4] = doubled
    outcomes, state = run(fleet, tmp_path)
    # Its second contribution is refused by its gate, so that it looks lost; repeated stages give the same bytes.
    assert outcomes[0].survivors == 9
    assert outcomes[0].refused == 1
    state.close()


def test_the_released_sum_is_that_of_the_devices_and_nothing_else(tmp_path: Path) -> None:
    """With noise of the least share, the model of a secure round is that of a trusted one up to the noise."""
    fleet = secure_fleet()
    outcomes, state = run(fleet, tmp_path)
    (entry,) = [item for item in state.entries() if item.kind == "release"]
    plan = verify_ledger(state.lines(), bytes(OFFICER.verify_key)).rounds[0].plan
    checkpoint = outcomes[0].checkpoint
    step = RoundSettings(rounds=1).optimizer.learning_rate
    mean = checkpoint.weights.astype(np.float64).ravel() / step
    expected = np.zeros(mean.size)
    from small_fleet import closed_form, examples

    limits = fleet.policy.purposes["intent-model"].contributions["intent_head"]
    for index in range(10):
        update = closed_form(limits.local, *examples(index), np.zeros((len(LABELS), 16), np.float32)).ravel()
        norm = float(np.linalg.norm(update))
        expected += update * min(1.0, limits.clip_norm / norm)
    residual = (mean * 10 - expected) * SCALE
    total = 10 * plan.share_variance
    assert float(np.square(residual).mean()) == pytest.approx(total, rel=0.6)
    assert entry.body["roster"] == 10
    state.close()


def test_the_ledger_of_a_secure_round_cannot_claim_more_noise(tmp_path: Path) -> None:
    from small_fleet import AGGREGATOR

    from privacy.ledger import next_entry, read_entries, sign_entry

    fleet = secure_fleet()
    _, state = run(fleet, tmp_path)
    entries = [entry for _, entry in read_entries(state.lines())]
    report = build_report(state.lines(), bytes(OFFICER.verify_key))
    left = report["total"]["epsilon_if_more_collude"]
    assert report["total"]["epsilon"] == pytest.approx(left["gamma"])
    assert left["gamma"] < left["half"] <= left["nine in ten"] <= left["all but one"]
    assert report["total"]["delta_protocol"] > report["total"]["delta"]
    assert report["rounds"][0]["mode"] == "distributed"

    def rewritten(**changes: object) -> list[bytes]:
        lines, last = [], None
        for entry in entries:
            body = {**entry.body, **changes} if entry.kind == "release" else entry.body
            last = next_entry(last, entry.time_s, entry.kind, body)
            lines.append(sign_entry(last, AGGREGATOR))
        return lines

    variance = entries[-1].body["noise_variance"]
    verify_ledger(rewritten(), bytes(OFFICER.verify_key))
    for changes in (
        {"noise_variance": variance + 1},
        {"noise_variance": variance - 1},
        {"survivors": 9},
        {"survivors": 5},
        {"roster": 9},
        {"roster": 11},
        {"roster": None},
        {"health": None},
        {"health": {"z": "0", "ratio": 1.0}},
    ):
        with pytest.raises(LedgerError):
            verify_ledger(rewritten(**changes), bytes(OFFICER.verify_key))
    state.close()


def test_a_device_without_a_certificate_stays_away_and_the_others_go_on(tmp_path: Path) -> None:
    fleet = secure_fleet()
    port = fleet.port(3)
    port._gate._memory._items.pop("certificate")  # type: ignore[attr-defined]
    outcomes, state = run(fleet, tmp_path)
    assert (outcomes[0].survivors, outcomes[0].refused) == (9, 1)
    state.close()


def test_many_rounds_learn(tmp_path: Path) -> None:
    fleet = secure_fleet()
    outcomes, state = run(fleet, tmp_path, rounds=3)
    assert [item.survivors for item in outcomes] == [10, 10, 10]
    assert dataclasses.asdict(outcomes[-1])["bytes_up"] > 0
    state.close()
