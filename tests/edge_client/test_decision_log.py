"""The decision log on a real store: with consent only, bounded, exact, gone with the consent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.know.consent import Consent
from edge_client.know.decisions import DecisionLog
from edge_client.know.store import Store
from shared_models.errors import InputError

KEY = bytes(range(32))
PERSONAL = "personalisation"


def clock() -> float:
    return 1_800_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "home", key=KEY) as opened:
        yield opened


@pytest.fixture
def consent(store: Store) -> Consent:
    return Consent(store, clock)


@pytest.fixture
def log(store: Store, consent: Consent) -> DecisionLog:
    return DecisionLog(store, consent, clock, most=5)


def test_nothing_is_kept_without_consent_or_while_it_does_not_count(log: DecisionLog, consent: Consent) -> None:
    assert log.record("answer", "book_hotel", ["you asked"]) is None
    consent.grant(PERSONAL)
    assert log.record("answer", "book_hotel", ["you asked"]) is not None
    for stop, go in (
        (lambda: consent.restrict(PERSONAL), lambda: consent.lift(PERSONAL)),
        (consent.object_to_profiling, consent.withdraw_objection),
        (lambda: consent.signal_gpc(True), lambda: consent.signal_gpc(False)),
    ):
        stop()
        assert log.record("answer", "rent_car", ["you asked"]) is None
        go()
    assert [entry["chosen"] for entry in log.recent()] == ["book_hotel"]


def test_decisions_are_kept_whole_newest_first_and_over_a_restart(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        consent.grant(PERSONAL)
        log = DecisionLog(store, consent, clock)
        first = log.record(
            "answer", "book_hotel", ["you asked for it", "rule 7"], context={"score": 0.5, "in": [1, None]}
        )
        second = log.record("suggestion", "Lisbon", [])
        assert first is not None
        assert second is not None
        assert first < second
    with Store(tmp_path, key=KEY) as store:
        log = DecisionLog(store, Consent(store, clock), clock)
        assert log.recent() == [
            {"id": second, "at_s": clock(), "kind": "suggestion", "chosen": "Lisbon", "reasons": [], "context": {}},
            {
                "id": first,
                "at_s": clock(),
                "kind": "answer",
                "chosen": "book_hotel",
                "reasons": ["you asked for it", "rule 7"],
                "context": {"score": 0.5, "in": [1, None]},
            },
        ]
        assert [entry["id"] for entry in log.recent(1)] == [second]
        assert log.recent(0) == []


def test_the_oldest_go_when_there_are_too_many(log: DecisionLog, consent: Consent) -> None:
    consent.grant(PERSONAL)
    ids = [log.record("answer", str(number), []) for number in range(12)]
    assert len(log) == 5
    assert [entry["id"] for entry in log.recent()] == ids[:6:-1]
    assert len(set(ids)) == 12


def test_withdrawal_erases_the_log(log: DecisionLog, consent: Consent) -> None:
    consent.grant(PERSONAL)
    log.record("answer", "x", [])
    consent.withdraw(PERSONAL)
    assert log.recent() == []
    consent.grant(PERSONAL)
    assert log.record("answer", "y", []) is not None
    assert [entry["chosen"] for entry in log.recent()] == ["y"]


def test_clearing_tells_how_many_there_were(log: DecisionLog, consent: Consent) -> None:
    consent.grant(PERSONAL)
    log.record("answer", "x", [])
    assert log.clear() == 1
    assert log.clear() == 0


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": ""},
        {"kind": None},
        {"chosen": " "},
        {"chosen": "x" * 301},
        {"chosen": "\ud800"},
        {"reasons": "one"},
        {"reasons": ["x"] * 21},
        {"reasons": [7]},
        {"reasons": None},
        {"context": [1]},
        {"context": {"x": float("nan")}},
        {"context": {"x": b"bytes"}},
        {"context": {"x": "y" * 9000}},
        {"context": {"x": DEEP}},
        {"context": {("a", "b"): 1}},
        {"context": {"x": "\ud800"}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_cannot_be_kept_is_refused_with_or_without_consent(
    log: DecisionLog, consent: Consent, wrong: dict[str, Any]
) -> None:
    right: dict[str, Any] = {"kind": "answer", "chosen": "x", "reasons": ["y"], "context": {}}
    call = {**right, **wrong}
    for _ in range(2):
        with pytest.raises(InputError):
            log.record(call["kind"], call["chosen"], call["reasons"], context=call["context"])
        consent.grant(PERSONAL)
    assert log.recent() == []


@pytest.mark.parametrize("wrong", [-1, True, "5", 1.0, None])
def test_counts_that_are_none_are_refused(log: DecisionLog, store: Store, consent: Consent, wrong: Any) -> None:
    with pytest.raises(InputError):
        log.recent(wrong)
    with pytest.raises(InputError):
        DecisionLog(store, consent, clock, most=wrong)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(
    context=st.dictionaries(st.text(max_size=6), JSON, max_size=4), reasons=st.lists(st.text(max_size=12), max_size=4)
)
def test_any_json_is_kept_as_it_is_or_refused(
    tmp_path_factory: pytest.TempPathFactory, context: dict[str, Any], reasons: list[str]
) -> None:
    with Store(tmp_path_factory.mktemp("any"), key=KEY) as store:
        consent = Consent(store, clock)
        consent.grant(PERSONAL)
        log = DecisionLog(store, consent, clock)
        try:
            log.record("kind", "chosen", reasons, context=context)
        except InputError:
            assert len(log) == 0
            return
        (entry,) = log.recent()
        assert entry["context"] == context
        assert entry["reasons"] == reasons
