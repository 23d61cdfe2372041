"""Consent on a real store: switches, notices, withdrawal, damage, threads; any order of changes against a model."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.know.consent import Consent, ConsentTerms, Controller
from edge_client.know.decisions import DecisionLog
from edge_client.know.store import Store
from shared_models.errors import ConfigError, StoreWriteError
from shared_models.purposes import NOTICE_VERSION, PURPOSES, find_purpose, notice_sha256

KEY = bytes(range(32))
PERSONAL = "personalisation"
NOTICES = {
    "personal-learning": "96e63f55",
    "personalisation": "ad291f1b",
    "intent-model": "9a31df26",
    "preference-model": "4948bf20",
    "suggestion-model": "ab4cd622",
    "quality-check": "ef185f1b",
    "remote-language-model": "4db2fd3c",
}
"""First digits of the SHA-256 of the wording at NOTICE_VERSION 1."""


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(tmp_path / "home", key=KEY) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def consent(store: Store, clock: Clock) -> Consent:
    return Consent(store, clock)


# -- switches and notices ----------------------------------------------------------------------------------------------


def test_every_purpose_is_off_until_it_is_granted(consent: Consent) -> None:
    assert {name: consent.state(name) for name in PURPOSES} == dict.fromkeys(PURPOSES, "unasked")
    assert not any(consent.is_granted(name) or consent.was_asked(name) for name in PURPOSES)
    assert find_purpose(PERSONAL).title == "Use what I do in this app to make suggestions"


def test_granting_one_purpose_grants_no_other(consent: Consent) -> None:
    consent.grant(PERSONAL)
    assert [name for name in PURPOSES if consent.is_granted(name)] == [PERSONAL]


def test_the_wording_cannot_change_without_a_decision_about_its_version() -> None:
    """If this fails, the words of a switch were changed: raise NOTICE_VERSION if users have to be asked again, then pin anew."""
    assert NOTICE_VERSION == 1
    assert {name: notice_sha256(purpose.notice)[:8] for name, purpose in PURPOSES.items()} == NOTICES


def test_a_receipt_names_the_version_and_the_hash_of_the_text_that_was_shown(consent: Consent) -> None:
    receipt = consent.grant(PERSONAL)
    shown = PURPOSES[PERSONAL].notice
    assert receipt.notice_version == NOTICE_VERSION
    assert receipt.notice_sha256 == hashlib.sha256(shown.encode()).hexdigest()
    assert consent.notices() == {receipt.notice_sha256: shown}


def test_a_new_notice_makes_older_consents_stale_until_they_are_given_again(store: Store, clock: Clock) -> None:
    Consent(store, clock).grant(PERSONAL)
    Consent(store, clock).decline("intent-model")
    terms = ConsentTerms(notice_version=2, notices={PERSONAL: "New words."})
    consent = Consent(store, clock, terms=terms)
    assert consent.state(PERSONAL) == "stale"
    assert not consent.is_granted(PERSONAL)
    assert not consent.was_asked(PERSONAL)
    assert consent.was_asked("intent-model")
    with pytest.raises(ConfigError, match="version 2 is in force"):
        consent.grant(PERSONAL, notice_version=1)
    receipt = consent.grant(PERSONAL)
    assert consent.is_granted(PERSONAL)
    assert receipt.notice_sha256 == notice_sha256("New words.")
    assert sorted(consent.notices().values()) == sorted(
        ["New words.", PURPOSES[PERSONAL].notice, PURPOSES["intent-model"].notice]
    )


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", 2**40])
def test_a_notice_version_that_is_no_number_is_refused(consent: Consent, version: Any) -> None:
    with pytest.raises(ConfigError, match="notice_version"):
        consent.grant(PERSONAL, notice_version=version)
    with pytest.raises(ConfigError, match="notice_version"):
        ConsentTerms(notice_version=version)
    assert consent.receipts() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"controllers": tuple(Controller(str(number), "x") for number in range(21))},
        {"controllers": ({"party_id": "x"},)},
        {"controllers": (Controller("x", "n" * 501),)},
        {"language": 7},
        {"notices": {"marketing": "x"}},
        {"notices": {PERSONAL: "  "}},
    ],
)
def test_terms_that_cannot_be_kept_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ConsentTerms(**wrong)


# -- withdrawal --------------------------------------------------------------------------------------------------------


def test_a_withdrawal_runs_every_eraser_once_and_needs_one_call(store: Store, clock: Clock) -> None:
    erased: list[str] = []
    consent = Consent(store, clock, {PERSONAL: lambda: erased.append("first")})
    consent.when_withdrawn(PERSONAL, lambda: erased.append("second"))
    consent.when_withdrawn("intent-model", lambda: erased.append("other"))
    consent.grant(PERSONAL)
    consent.withdraw(PERSONAL)
    assert erased == ["first", "second"]
    assert consent.state(PERSONAL) == "off"
    consent.decline(PERSONAL)
    assert erased == ["first", "second"] * 2


def test_a_withdrawal_that_cannot_erase_withdraws_nothing(store: Store, clock: Clock) -> None:
    table = store.table("things", purpose=PERSONAL)
    consent = Consent(store, clock, {PERSONAL: lambda: table.clear() and None})

    def fail() -> None:
        raise StoreWriteError("the disk is full")

    consent.when_withdrawn(PERSONAL, fail)
    consent.grant(PERSONAL)
    table.put("a", {"x": 1})
    with pytest.raises(StoreWriteError):
        consent.withdraw(PERSONAL)
    assert consent.is_granted(PERSONAL)
    assert len(consent.receipts()) == 1
    assert store.table("things", purpose=PERSONAL).get("a") == {"x": 1}


def test_what_is_kept_after_a_new_consent_outlives_the_former_withdrawal(tmp_path: Path, clock: Clock) -> None:
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        for turn in range(3):
            consent.grant(PERSONAL)
            store.table("things", purpose=PERSONAL).put("a", {"turn": turn})
            if turn < 2:
                consent.withdraw(PERSONAL)
                assert len(store.table("things", purpose=PERSONAL)) == 0
    with Store(tmp_path, key=KEY) as store:
        assert Consent(store, clock).is_granted(PERSONAL)
        assert store.table("things", purpose=PERSONAL).get("a") == {"turn": 2}


def test_withdrawing_one_purpose_leaves_the_data_of_the_others(store: Store, consent: Consent) -> None:
    for name in PURPOSES:
        consent.grant(name)
        store.table(f"things of {name}", purpose=name).put("a", {"x": name})
    store.table("of no purpose").put("a", {"x": 1})
    consent.withdraw(PERSONAL)
    left = {name: len(store.table(f"things of {name}", purpose=name)) for name in PURPOSES}
    assert left == {name: 0 if name == PERSONAL else 1 for name in PURPOSES}
    assert len(store.table("of no purpose")) == 1


@pytest.mark.parametrize("wrong", ["marketing", "", None, 7, ["personalisation"], PERSONAL + " "])
def test_every_call_refuses_a_purpose_that_does_not_exist(consent: Consent, wrong: Any) -> None:
    calls: list[Callable[[Any], Any]] = [
        consent.grant,
        consent.withdraw,
        consent.decline,
        consent.is_granted,
        consent.granted_since,
        consent.given_since,
        consent.state,
        consent.was_asked,
        consent.restrict,
        consent.lift,
        lambda name: consent.when_withdrawn(name, lambda: None),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="no purpose"):
            call(wrong)
    assert consent.receipts() == []


# -- damage and many threads -------------------------------------------------------------------------------------------


def test_a_store_that_may_have_lost_a_withdrawal_asks_again(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "store.tacit"
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        consent.grant("personal-learning")
        consent.grant(PERSONAL)
        start_bytes = store.describe()["size_bytes"]
        store.table("of no purpose").put("a", {"x": "what is lost"})
        end_bytes = store.describe()["size_bytes"]
        store.table("of no purpose").put("b", {"x": "what comes behind"})
    raw = bytearray(file.read_bytes())
    raw[(start_bytes + end_bytes) // 2] ^= 1
    file.write_bytes(bytes(raw))
    with Store(tmp_path, key=KEY) as store:
        assert store.quarantined
        consent = Consent(store, clock)
        assert consent.state(PERSONAL) == "stale"
        assert [name for name in PURPOSES if consent.is_granted(name)] == []
        assert not consent.was_asked(PERSONAL)
        consent.grant(PERSONAL)
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        assert [name for name in PURPOSES if consent.is_granted(name)] == [PERSONAL]
        assert [receipt.number for receipt in consent.receipts()] == [1, 2, 3]


def test_no_thread_keeps_anything_after_a_withdrawal_has_returned(store: Store, consent: Consent, clock: Clock) -> None:
    log = DecisionLog(store, consent, clock)
    consent.grant(PERSONAL)
    done = threading.Event()

    def decide() -> int:
        kept = 0
        while not done.is_set():
            kept += log.record("answer", "x", []) is not None
        return kept

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(decide) for _ in range(3)]
        try:
            for _ in range(5):
                while not len(log):
                    time.sleep(0)
                consent.withdraw(PERSONAL)
                assert len(log) == 0
                time.sleep(0.01)
                assert len(log) == 0
                consent.grant(PERSONAL)
        finally:
            done.set()
        assert all(future.result(10) > 0 for future in working)


# -- against a model ---------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["grant", "withdraw", "decline", "restrict", "lift", "object", "unobject", "gpc", "ungpc", "open"]
        ),
        st.sampled_from(sorted(PURPOSES)),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=20, deadline=None)
@given(steps=STEPS)
def test_any_order_of_changes_gives_what_the_rules_say(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    folder, clock = tmp_path_factory.mktemp("model"), Clock()
    given_names: set[str] = set()
    restricted: set[str] = set()
    kept: set[str] = set()
    by_user = by_signal = False
    store = Store(folder, key=KEY)
    consent = Consent(store, clock)
    try:
        for step, name in steps:
            match step:
                case "grant":
                    consent.grant(name)
                    given_names.add(name)
                    store.table(f"of {name}", purpose=name).put("x", {})
                    kept.add(name)
                case "withdraw" | "decline":
                    (consent.withdraw if step == "withdraw" else consent.decline)(name)
                    given_names.discard(name)
                    restricted.discard(name)
                    kept.discard(name)
                case "restrict":
                    consent.restrict(name)
                    restricted.add(name)
                case "lift":
                    consent.lift(name)
                    restricted.discard(name)
                case "object" | "unobject":
                    by_user = step == "object"
                    consent.object_to_profiling() if by_user else consent.withdraw_objection()
                case "gpc" | "ungpc":
                    by_signal = step == "gpc"
                    consent.signal_gpc(by_signal)
                case "open":
                    store.close()
                    store = Store(folder, key=KEY)
                    consent = Consent(store, clock)
            assert consent.objects_to_profiling == (by_user or by_signal)
            expected = set() if by_user or by_signal else given_names - restricted
            assert {other for other in PURPOSES if consent.is_granted(other)} == expected
            assert {other for other in PURPOSES if consent.given_since(other) is not None} == given_names
            assert {other for other in PURPOSES if len(store.table(f"of {other}", purpose=other))} == kept
    finally:
        store.close()
