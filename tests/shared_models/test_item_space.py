"""The published item space: the int8 file ranks as the float value does, and hostile bytes are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shared_models.errors import ConfigError, InputError, ModelDamagedError
from shared_models.preference import ItemSpace, ItemSpaceSession, gram_dimension, to_onnx


def make_space(n: int = 40, head: int = 25, rank: int = 6, seed: int = 0) -> ItemSpace:
    random = np.random.default_rng(seed)
    mixtures = random.dirichlet(np.ones(head), n - head) if head else np.zeros((n, 0))
    return ItemSpace(
        tuple(f"item {number}" for number in range(n)),
        np.log(random.dirichlet(np.ones(n))).astype(np.float32),
        0.1 * random.normal(size=(n, head)).astype(np.float32),
        random.normal(size=(n, head)).astype(np.float32),
        random.normal(size=(n, rank)).astype(np.float32),
        mixtures.astype(np.float32),
        version=3,
    )


def histories(space: ItemSpace, count: int = 30) -> np.ndarray:
    random = np.random.default_rng(1)
    return (random.random((count, space.head)) < 0.15).astype(np.float32)


def test_the_file_ranks_as_the_value_does() -> None:
    space = make_space()
    session = ItemSpaceSession(to_onnx(space))
    assert (session.items, session.head, session.rank, session.version) == (space.items, 25, 6, 3)
    users = np.random.default_rng(2).normal(size=(30, 6)).astype(np.float32)
    overlaps = []
    for history, user in zip(histories(space), users, strict=True):
        expected = space.scores(history[None], user[None])[0]
        scores, rows = session.top(history, user, 10, np.flatnonzero(history))
        assert not set(rows) & set(np.flatnonzero(history))
        assert (np.diff(scores) <= 0).all()
        assert np.abs(scores - expected[rows]).max() < 0.06
        overlaps.append(len(set(rows.tolist()) & set(np.argsort(-expected)[:10].tolist())))
    assert np.mean(overlaps) >= 9.3


def test_a_space_without_a_head_is_item_vectors_alone() -> None:
    space = make_space(head=0)
    session = ItemSpaceSession(to_onnx(space))
    user = np.random.default_rng(3).normal(size=6).astype(np.float32)
    expected = space.scores(np.zeros((1, 0), np.float32), user[None])[0]
    _, rows = session.top(np.zeros(0, np.float32), user, 10)
    assert len(set(rows.tolist()) & set(np.argsort(-expected)[:10].tolist())) >= 9
    best = [int(row) for row in rows[:2]]
    _, without = session.top(np.zeros(0, np.float32), user, 10, best)
    assert not set(best) & set(without.tolist())
    assert len(without) == 10


def test_whoever_has_done_nothing_gets_the_populations_ranking() -> None:
    space = make_space()
    session = ItemSpaceSession(to_onnx(space))
    _, rows = session.top(np.zeros(25, np.float32), np.zeros(6, np.float32), 5)
    assert rows.tolist() == np.argsort(-space.prior)[:5].tolist()


def test_arrays_to_fold_with_are_those_of_the_value_up_to_quantisation() -> None:
    space = make_space()
    session = ItemSpaceSession(to_onnx(space))
    rows = np.array([0, 30, 24, 39])
    step = np.abs(np.concatenate([space.odds, space.factors], axis=1)).max(axis=1)[rows] / 127
    assert (np.abs(session.vectors(rows) - space.factors[rows]).max(axis=1) <= step).all()
    mixtures = session.mixtures(rows)
    assert np.abs(mixtures[[1, 3]] - space.transfer[[5, 14]]).max() <= 1 / 255
    assert mixtures[[0, 2]].tolist() == np.eye(25)[[0, 24]].tolist()


def test_the_same_space_gives_the_same_bytes() -> None:
    assert to_onnx(make_space()) == to_onnx(make_space())


def test_no_more_items_are_given_than_there_are() -> None:
    session = ItemSpaceSession(to_onnx(make_space()))
    nothing, user = np.zeros(25, np.float32), np.zeros(6, np.float32)
    _, rows = session.top(nothing, user, 1000, [*range(35), 0, 0])
    assert sorted(rows.tolist()) == list(range(35, 40))
    _, rows = session.top(nothing, user, 5, list(range(40)))
    assert len(rows) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("items", ()),
        ("items", ("twice",) * 40),
        ("items", ("x" * 101, *(str(number) for number in range(39)))),
        ("prior", np.zeros(39, np.float32)),
        ("prior", np.full(40, np.nan, np.float32)),
        ("linear", np.zeros((40, 41), np.float32)),
        ("linear", np.zeros(40, np.float32)),
        ("odds", np.full((40, 25), np.inf, np.float32)),
        ("factors", np.zeros((40, 257), np.float32)),
        ("transfer", np.full((15, 25), 1.5, np.float32)),
        ("odds_weight", float("nan")),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(make_space(), **{field: value})


@pytest.mark.parametrize("raw", [b"", b"not a model", b"\x08\x09" * 50_000])
def test_bytes_that_are_no_model_are_refused(raw: bytes) -> None:
    with pytest.raises(ModelDamagedError):
        ItemSpaceSession(raw)


def test_another_file_than_the_expected_one_is_refused() -> None:
    with pytest.raises(ModelDamagedError, match="expected"):
        ItemSpaceSession(to_onnx(make_space()), expected_sha256="0" * 64)


def test_changed_bytes_are_refused_or_rank_the_items_all_the_same() -> None:
    raw = to_onnx(make_space(n=12, head=6, rank=2))
    random = np.random.default_rng(4)
    for _ in range(150):
        changed = bytearray(raw)
        for place in random.integers(0, len(raw), 3):
            changed[place] = random.integers(0, 256)
        try:
            session = ItemSpaceSession(bytes(changed))
        except ModelDamagedError:
            continue
        _, rows = session.top(np.zeros(session.head, np.float32), np.zeros(session.rank, np.float32), 3)
        assert set(rows.tolist()) <= set(range(len(session.items)))


@pytest.mark.parametrize("change", [{"head": 24}, {"rank": 7}, {"items": ["a"]}, {"format": 9}, {"version": True}])
def test_metadata_that_do_not_fit_the_graph_are_refused(change: dict[str, object]) -> None:
    import json

    import onnx

    model = onnx.load_from_string(to_onnx(make_space()))
    metadata = json.loads(model.metadata_props[0].value) | change
    model.metadata_props[0].value = json.dumps(metadata)
    with pytest.raises(ModelDamagedError):
        ItemSpaceSession(model.SerializeToString())


@pytest.mark.parametrize(
    "asked",
    [
        {"history": np.zeros(24, np.float32)},
        {"history": np.full(25, 1.1, np.float32)},
        {"history": np.full(25, np.nan, np.float32)},
        {"user": np.full(6, np.inf, np.float32)},
        {"user": np.array(["a"] * 6)},
        {"k": 0},
        {"k": True},
        {"k": 1 << 40},
        {"excluded": [40]},
        {"excluded": [-1]},
        {"excluded": [0.5]},
    ],
)
def test_a_question_that_makes_no_sense_is_refused(asked: dict[str, object]) -> None:
    session = ItemSpaceSession(to_onnx(make_space()))
    good = {"history": np.zeros(25, np.float32), "user": np.zeros(6, np.float32), "k": 3, "excluded": ()}
    with pytest.raises(InputError):
        session.top(**{**good, **asked})


def test_the_length_of_a_contribution_is_that_of_a_triangle() -> None:
    assert [gram_dimension(items) for items in (1, 2, 285)] == [1, 3, 40_755]
