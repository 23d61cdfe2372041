"""Devices that cheat, break or answer what was not asked: rejected and counted, and the round of the others is not lost."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from small_fleet import FEATURES, LABELS, Handler, SmallFleet

from aggregator.rounds import RoundOutcome, RoundSettings
from shared_models.messages import read_contribution
from shared_models.wire import SCALE

DIMENSION = len(LABELS) * FEATURES
Change = Callable[[RecordDict], RecordDict | None]


def answering(change: Change) -> Callable[[Message, Context, Handler], Message]:
    """A device that seals honestly and then changes what it sends."""

    def behave(message: Message, context: Context, honest: Handler) -> Message:
        reply = honest(message, context)
        changed = change(reply.content)
        return reply if changed is None else Message(changed, reply_to=message)

    return behave


def with_values(values: np.ndarray) -> Change:
    return lambda content: RecordDict({"contribution": ArrayRecord({"values": Array(values)}), "seal": content["seal"]})


def with_raw_values(data: bytes, shape: tuple[int, ...] = (DIMENSION,), dtype: str = "uint32") -> Change:
    array = Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)
    return lambda content: RecordDict({"contribution": ArrayRecord({"values": array}), "seal": content["seal"]})


def with_seal(**fields: object) -> Change:
    def change(content: RecordDict) -> RecordDict:
        seal = {**content["seal"], **fields}
        return RecordDict({"contribution": content["contribution"], "seal": ConfigRecord(seal)})

    return change


def npy(header: str) -> bytes:
    """An .npy file that promises what it does not hold."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, values=np.zeros(DIMENSION, np.uint32))
    return buffer.getvalue()


def ring(*leading: int) -> np.ndarray:
    values = np.zeros(DIMENSION, np.int64)
    values[: len(leading)] = leading
    return (values & 0xFFFFFFFF).astype(np.uint32)


REJECTED: dict[str, Change] = {
    "too few values": with_values(np.zeros(DIMENSION - 1, np.uint32)),
    "too many values": with_values(np.zeros(DIMENSION + 1, np.uint32)),
    "two dimensions": with_values(np.zeros((len(LABELS), FEATURES), np.uint32)),
    "no dimensions": with_values(np.array(7, np.uint32)),
    "float values": with_values(np.zeros(DIMENSION, np.float32)),
    "NaN values": with_values(np.full(DIMENSION, np.nan)),
    "signed values": with_values(np.zeros(DIMENSION, np.int32)),
    "wide values": with_values(np.zeros(DIMENSION, np.uint64)),
    "other byte order": with_values(np.zeros(DIMENSION, ">u4")),
    "one step too long": with_values(ring(SCALE, 1)),
    "much too long": with_values(np.full(DIMENSION, 0x7FFFFFFF, np.uint32)),
    "much too long, negative": with_values(np.full(DIMENSION, 0x80000000, np.uint32)),
    "another round": with_seal(round_id=99),
    "another task": with_seal(task="another"),
    "another plan": with_seal(plan_hash="0" * 64),
    "round as text": with_seal(round_id="1"),
    "plan hash as bytes": with_seal(plan_hash=b"0"),
    "endless nonce": with_seal(nonce="a" * 10_000),
    "no records": lambda content: RecordDict(),
    "no seal": lambda content: RecordDict({"contribution": content["contribution"]}),
    "no values": lambda content: RecordDict({"contribution": ArrayRecord({}), "seal": content["seal"]}),
    "something beside it": lambda content: RecordDict({**content, "metrics": MetricRecord({"loss": 1.0})}),
    "two arrays": lambda content: RecordDict(
        {
            "contribution": ArrayRecord({"values": Array(ring()), "more": Array(ring())}),
            "seal": content["seal"],
        }
    ),
    "records of the wrong kind": lambda content: RecordDict(
        {"contribution": ConfigRecord({"values": b"x"}), "seal": content["seal"]}
    ),
    "no bytes": with_raw_values(b""),
    "bytes that are no array": with_raw_values(b"\x00\xff garbage"),
    "half an array": with_raw_values(npy("{'descr': '<u4', 'fortran_order': False, 'shape': (80,)}") + b"\0" * 100),
    "a promise of petabytes": with_raw_values(
        npy("{'descr': '<u4', 'fortran_order': False, 'shape': (1000000000000000,)}")
    ),
    "a header that is no header": with_raw_values(npy("{'descr': (((((, 'shape': ")),
    "a header of objects": with_raw_values(npy("{'descr': '|O', 'fortran_order': False, 'shape': (80,)}")),
    "a header of brackets": with_raw_values(npy("(" * 110)),
    "a pickle": with_raw_values(pickled()),
    "an archive": with_raw_values(zipped()),
    "half an archive": with_raw_values(zipped()[:100]),
}


def run_one(fleet: SmallFleet, folder: Path) -> RoundOutcome:
    state = fleet.state(folder / "state.sqlite")
    outcomes: list[RoundOutcome] = []
    try:
        fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=1, deadline_s=1), outcomes.append)
        assert len(state.leaves(1)) == outcomes[0].survivors
        assert state.entries()[-1].kind == "release"
    finally:
        state.close()
    return outcomes[0]


@pytest.mark.parametrize("change", REJECTED.values(), ids=REJECTED.keys())
def test_a_reply_that_does_not_fit_is_rejected_and_the_round_goes_on(
    tmp_path: Path, change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = SmallFleet(4)
    fleet.behaviours[1] = answering(change)
    with caplog.at_level(logging.WARNING, "aggregator.collection"):
        outcome = run_one(fleet, tmp_path)
    assert (outcome.survivors, outcome.rejected, outcome.refused) == (3, 1, 0)
    (record,) = [item for item in caplog.records if item.name == "aggregator.collection"]
    assert len(record.getMessage()) < 400


@pytest.mark.parametrize("change", [with_values(ring(SCALE)), with_values(ring(-SCALE)), with_values(ring())])
def test_a_vector_at_the_bound_is_taken(tmp_path: Path, change: Change) -> None:
    fleet = SmallFleet(4)
    fleet.behaviours[1] = answering(change)
    outcome = run_one(fleet, tmp_path)
    assert (outcome.survivors, outcome.rejected) == (4, 0)


def test_error_replies_are_refusals(tmp_path: Path) -> None:
    fleet = SmallFleet(5)
    fleet.behaviours[0] = lambda message, context, honest: Message(Error(0, "x" * 1000), reply_to=message)
    fleet.behaviours[4] = lambda message, context, honest: Message(Error(1 << 20, ""), reply_to=message)
    outcome = run_one(fleet, tmp_path)
    assert (outcome.survivors, outcome.refused, outcome.rejected) == (3, 2, 0)


class RewritingGrid:
    """A grid between runner and devices on which replies are doubled, misattributed or come late."""

    def __init__(self, grid, rewrite: Callable[[list[Message]], list[Message]]) -> None:
        self._grid, self._rewrite = grid, rewrite

    def __getattr__(self, name: str):
        return getattr(self._grid, name)

    def pull_messages(self, identifiers):
        return self._rewrite(self._grid.pull_messages(identifiers))


def copied(reply: Message, **metadata: object) -> Message:
    twin = Message(reply.content, metadata=copy.deepcopy(reply.metadata))
    for name, value in metadata.items():
        twin.metadata.__dict__[f"_{name}"] = value
    return twin


def run_rewritten(fleet: SmallFleet, folder: Path, rewrite, rounds: int = 1) -> list[RoundOutcome]:
    state = fleet.state(folder / "state.sqlite")
    outcomes: list[RoundOutcome] = []
    grid = RewritingGrid(fleet.grid(), rewrite)
    fleet.runner(state).run(grid, RoundSettings(rounds=rounds, deadline_s=1), outcomes.append)  # type: ignore[arg-type]
    for outcome in outcomes:
        assert len(state.leaves(outcome.round_id)) == outcome.survivors
    state.close()
    return outcomes


def test_a_device_that_answers_twice_counts_once(tmp_path: Path) -> None:
    fleet = SmallFleet(4)
    (outcome,) = run_rewritten(fleet, tmp_path, lambda replies: [twin for reply in replies for twin in (reply, reply)])
    assert (outcome.survivors, outcome.rejected) == (4, 4)


def test_a_device_that_was_not_invited_does_not_count(tmp_path: Path) -> None:
    fleet = SmallFleet(4)

    def from_a_stranger(replies: list[Message]) -> list[Message]:
        return [*replies, *(copied(reply, src_node_id=12345) for reply in replies[:1])]

    (outcome,) = run_rewritten(fleet, tmp_path, from_a_stranger)
    assert (outcome.survivors, outcome.rejected) == (4, 1)


def test_an_answer_to_an_earlier_round_that_comes_late_does_not_count(tmp_path: Path) -> None:
    fleet = SmallFleet(5)
    late: list[Message] = []

    def hold_back_one(replies: list[Message]) -> list[Message]:
        if replies and not late:
            late.append(replies[0])
            return replies[1:]
        if late and replies:
            # In the next round it comes first, in the place of what that device would have said now.
            return [late[0], *(r for r in replies if r.metadata.src_node_id != late[0].metadata.src_node_id)]
        return replies

    first, second = run_rewritten(fleet, tmp_path, hold_back_one, rounds=2)
    assert (first.survivors, first.rejected) == (4, 0)
    assert (second.survivors, second.rejected) == (4, 1)


def test_garbage_may_be_followed_by_the_honest_answer(tmp_path: Path) -> None:
    fleet = SmallFleet(4)

    def garbage_first(replies: list[Message]) -> list[Message]:
        return [m for reply in replies for m in (Message(RecordDict(), metadata=reply.metadata), reply)]

    (outcome,) = run_rewritten(fleet, tmp_path, garbage_first)
    assert (outcome.survivors, outcome.rejected) == (4, 4)


def test_many_hostile_devices_cannot_stop_a_round_that_has_enough_honest_ones(tmp_path: Path) -> None:
    fleet = SmallFleet(3 + len(REJECTED))
    for index, change in enumerate(REJECTED.values(), 3):
        fleet.behaviours[index] = answering(change)
    outcome = run_one(fleet, tmp_path)
    assert (outcome.survivors, outcome.rejected) == (3, len(REJECTED))


def test_what_devices_send_is_what_the_gate_sealed(tmp_path: Path) -> None:
    fleet = SmallFleet(4)
    replies: list[Message] = []

    def keep(pulled: list[Message]) -> list[Message]:
        replies.extend(pulled)
        return pulled

    run_rewritten(fleet, tmp_path, keep)
    for reply in replies:
        assert set(reply.content) == {"contribution", "seal"}
        assert set(reply.content["seal"]) == {"task", "round_id", "plan_hash", "nonce", "proof"}
        assert read_contribution(reply).values.dtype == np.uint32
