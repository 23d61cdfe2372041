"""The unified profile: who is believed, what was overruled, what goes by itself, and what is never kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_client.know.profile import MOST_OVERRULED, SECONDS_PER_DAY, TRUST, Profile, conflict_rule
from edge_client.know.store import Store
from shared_models.errors import CaptureError, InputError
from shared_models.profile import ProfileSchema, default_schema
from shared_models.purposes import PERSONALISATION

KEY = bytes(32)
NOW_S = 1_800_000_000.0
SOURCES = [source for source in TRUST if source != "correction"]


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path, key=KEY) as opened:
        yield opened


@pytest.fixture
def profile(store: Store, clock: Clock) -> Profile:
    return Profile(store, default_schema(), clock)


def value_of(profile: Profile, name: str) -> object:
    found = profile.get(name)
    return None if found is None else found.value


def test_a_value_comes_back_with_where_it_is_from(profile: Profile) -> None:
    assert profile.observe(
        "home_city", "Bern", source="connector", at_s=NOW_S - 5, confidence=0.75, provenance="connector:crm"
    )
    found = profile.get("home_city")
    assert found is not None
    assert (found.value, found.source, found.at_s, found.confidence, found.provenance, found.corrected) == (
        "Bern",
        "connector",
        NOW_S - 5,
        0.75,
        "connector:crm",
        False,
    )
    assert profile.values() == {"home_city": found}


def test_the_more_trusted_source_wins_however_old(profile: Profile) -> None:
    assert profile.observe("home_city", "Rome", source="inferred", at_s=NOW_S - 50)
    assert profile.observe("home_city", "Bern", source="declared", at_s=NOW_S - 100)
    assert not profile.observe("home_city", "Oslo", source="connector", at_s=NOW_S)
    assert value_of(profile, "home_city") == "Bern"
    overruled = profile.document()["attributes"]["home_city"]["overruled"]
    assert {(entry["value"], entry["why"]) for entry in overruled} == {
        ("Rome", "less_trusted"),
        ("Oslo", "less_trusted"),
    }


def test_within_one_source_the_newer_wins_in_any_order_of_arrival(profile: Profile) -> None:
    assert profile.observe("home_city", "Oslo", source="declared", at_s=NOW_S - 10)
    assert not profile.observe("home_city", "Bern", source="declared", at_s=NOW_S - 20)
    assert value_of(profile, "home_city") == "Oslo"
    assert profile.observe("home_city", "Paris", source="declared", at_s=NOW_S)
    assert value_of(profile, "home_city") == "Paris"
    overruled = profile.document()["attributes"]["home_city"]["overruled"]
    assert [(entry["value"], entry["why"]) for entry in overruled] == [("Bern", "older"), ("Oslo", "replaced")]


def test_what_describes_the_moment_goes_by_time_and_not_by_trust(profile: Profile) -> None:
    assert conflict_rule(default_schema().attributes["place"]) == "newest"
    profile.observe("place", "Bern", source="declared", at_s=NOW_S - 3600)
    assert profile.observe("place", "Lyon", source="context", at_s=NOW_S)
    assert not profile.observe("place", "Oslo", source="connector", at_s=NOW_S - 60)
    assert value_of(profile, "place") == "Lyon"
    assert {e["why"] for e in profile.document()["attributes"]["place"]["overruled"]} == {"older"}
    profile.correct("place", "Nice")
    assert not profile.observe("place", "Lyon", source="context", at_s=NOW_S)
    assert value_of(profile, "place") == "Nice"


def test_the_users_word_wins_until_it_is_withdrawn(profile: Profile, clock: Clock) -> None:
    profile.observe("home_city", "Bern", source="declared", at_s=NOW_S)
    profile.correct("home_city", "Lyon")
    clock.now_s += 400 * SECONDS_PER_DAY
    assert not profile.observe("home_city", "Oslo", source="declared", at_s=clock.now_s)
    found = profile.get("home_city")
    assert found is not None
    assert (found.value, found.corrected, found.source) == ("Lyon", True, "correction")
    assert profile.document()["attributes"]["home_city"]["corrected"] is True
    assert profile.withdraw_correction("home_city")
    assert not profile.withdraw_correction("home_city")
    assert value_of(profile, "home_city") == "Oslo"


def test_a_correction_outlives_retention_so_that_the_error_does_not_return(profile: Profile, clock: Clock) -> None:
    profile.observe("price_sensitivity", 0.9, source="inferred", at_s=NOW_S)
    profile.correct("price_sensitivity", 0.1)
    clock.now_s += 1000 * SECONDS_PER_DAY
    assert profile.expire(clock.now_s) == 1
    assert value_of(profile, "price_sensitivity") == 0.1


def test_a_special_attribute_is_only_ever_declared(profile: Profile, store: Store) -> None:
    for source in SOURCES:
        if source != "declared":
            assert not profile.observe("diet", ["halal"], source=source, at_s=NOW_S)
    assert profile.document()["attributes"] == {}
    assert len(store.table("profile")) == 0
    assert profile.observe("diet", ["vegan"], source="declared", at_s=NOW_S)
    assert not profile.observe("diet", ["halal"], source="inferred", at_s=NOW_S + 1)
    assert "halal" not in str(profile.document())


def test_what_the_schema_does_not_name_is_refused_and_values_are_normalised(profile: Profile) -> None:
    with pytest.raises(CaptureError) as caught:
        profile.observe("shoe_size", 44, source="declared", at_s=NOW_S)
    assert set(caught.value.fields) == {"shoe_size"}
    with pytest.raises(CaptureError):
        profile.correct("device_type", "toaster")
    assert profile.get("shoe_size") is None
    profile.observe("home_city", "  Bern ", source="declared", at_s=NOW_S)
    assert value_of(profile, "home_city") == "Bern"
    profile.observe("temperature", "50 °F", source="context", at_s=NOW_S)
    assert value_of(profile, "temperature") == 10.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "correction"},
        {"source": "rumour"},
        {"source": None},
        {"at_s": float("nan")},
        {"at_s": "today"},
        {"at_s": True},
        {"confidence": 1.5},
        {"confidence": float("inf")},
        {"provenance": 5},
    ],
)
def test_arguments_that_cannot_be_used_are_one_clear_error(profile: Profile, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        profile.observe("home_city", "Bern", **{"source": "declared", "at_s": NOW_S, **wrong})  # type: ignore[arg-type]
    assert profile.values() == {}


def test_a_time_ahead_of_the_clock_does_not_win_for_ever(profile: Profile, clock: Clock) -> None:
    profile.observe("home_city", "Bern", source="declared", at_s=NOW_S + 1e9)
    clock.now_s += 60
    assert profile.observe("home_city", "Oslo", source="declared", at_s=clock.now_s)
    assert value_of(profile, "home_city") == "Oslo"


def test_saying_the_same_again_changes_nothing(profile: Profile, store: Store) -> None:
    for _ in range(3):
        assert profile.observe("home_city", "Bern", source="declared", at_s=NOW_S)
    before = store.describe()["commits"]
    assert profile.observe("home_city", "Bern", source="declared", at_s=NOW_S)
    assert store.describe()["commits"] == before
    profile.observe("home_city", "Oslo", source="declared", at_s=NOW_S + 0.0, confidence=0.5)
    document = profile.document()
    assert profile.observe("home_city", "Bern", source="declared", at_s=NOW_S)
    profile.observe("home_city", "Oslo", source="declared", at_s=NOW_S, confidence=0.5)
    assert profile.document() == document


def test_what_was_overruled_or_retracted_does_not_come_back_when_it_is_said_again(profile: Profile) -> None:
    for _ in range(3):
        for city in ("Bern", "Oslo"):
            profile.observe("home_city", city, source="connector", at_s=NOW_S - 60, provenance="connector:crm")
    assert value_of(profile, "home_city") == "Oslo"
    assert profile.retract("home_city", source="connector", at_s=NOW_S, provenance="connector:crm")
    assert not profile.retract("home_city", source="connector", at_s=NOW_S, provenance="connector:crm")
    assert not profile.observe("home_city", "Oslo", source="connector", at_s=NOW_S - 60, provenance="connector:crm")
    assert profile.get("home_city") is None
    overruled = profile.document()["attributes"]["home_city"]["overruled"]
    assert {(entry["value"], entry["why"]) for entry in overruled} == {("Bern", "replaced"), ("Oslo", "retracted")}


def test_a_source_takes_back_its_own_word_only(profile: Profile) -> None:
    profile.observe("home_city", "Bern", source="connector", at_s=NOW_S, provenance="connector:crm")
    for other in (
        {"source": "declared"},
        {"provenance": "connector:shop"},
        {"at_s": NOW_S - 1},
        {"source": "correction"},
    ):
        said = {"source": "connector", "at_s": NOW_S, "provenance": "connector:crm", **other}
        assert not profile.retract("home_city", **said)  # type: ignore[arg-type]
    profile.correct("home_city", "Lyon")
    assert not profile.retract("home_city", source="correction", at_s=NOW_S, provenance="user")
    assert value_of(profile, "home_city") == "Lyon"
    with pytest.raises(InputError):
        profile.retract("shoe_size", source="connector", at_s=NOW_S, provenance="")


def test_sources_that_agree_overrule_nobody(profile: Profile) -> None:
    profile.observe("home_city", "Bern", source="declared", at_s=NOW_S)
    profile.observe("home_city", "Bern", source="connector", at_s=NOW_S, provenance="connector:crm")
    found = profile.document()["attributes"]["home_city"]
    assert found["overruled"] == []
    assert [entry["provenance"] for entry in found["agreeing"]] == ["connector:crm"]


def test_many_threads_lose_nothing(profile: Profile) -> None:
    def say(thread: int) -> None:
        for turn in range(10):
            profile.observe("orders", thread * 100 + turn, source="connector", at_s=NOW_S - 1000 + thread * 10 + turn)

    threads = [threading.Thread(target=say, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value_of(profile, "orders") == 509


def test_the_history_is_bounded_and_forgets_the_oldest(profile: Profile) -> None:
    cities = [f"City{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)]
    for age, city in enumerate(cities):
        profile.observe("home_city", city, source="observed", at_s=NOW_S - 60 + age)
    overruled = profile.document()["attributes"]["home_city"]["overruled"]
    assert [entry["value"] for entry in overruled] == cities[-1 - MOST_OVERRULED : -1]


def test_what_has_outlived_its_retention_is_not_read_and_then_erased(profile: Profile, clock: Clock) -> None:
    days = default_schema().attributes["weather"].retention_days
    profile.observe("weather", "rain", source="context", at_s=NOW_S)
    profile.observe("home_city", "Bern", source="declared", at_s=NOW_S)
    clock.now_s = NOW_S + days * SECONDS_PER_DAY
    assert value_of(profile, "weather") == "rain"
    clock.now_s += 1
    assert profile.get("weather") is None
    assert set(profile.values()) == set(profile.document()["attributes"]) == {"home_city"}
    assert profile.expire(clock.now_s) == 1
    assert profile.expire(clock.now_s) == 0
    assert not profile.observe("weather", "snow", source="context", at_s=NOW_S)


def test_what_is_over_is_erased_by_itself(profile: Profile, clock: Clock, store: Store) -> None:
    profile.observe("weather", "rain", source="context", at_s=NOW_S)
    clock.now_s += 10 * SECONDS_PER_DAY
    profile.observe("home_city", "Bern", source="declared", at_s=clock.now_s)
    assert "rain" not in str(store.table("profile").items())


def test_when_the_most_trusted_expires_the_next_stands_again(profile: Profile, clock: Clock) -> None:
    profile.observe("plan", "gold", source="declared", at_s=NOW_S)
    clock.now_s = NOW_S + 300 * SECONDS_PER_DAY
    profile.observe("plan", "basic", source="connector", at_s=clock.now_s)
    assert value_of(profile, "plan") == "gold"
    clock.now_s = NOW_S + 366 * SECONDS_PER_DAY
    assert value_of(profile, "plan") == "basic"


def test_removal_takes_the_history_too_and_an_old_value_does_not_come_back(
    profile: Profile, clock: Clock, store: Store
) -> None:
    profile.observe("home_city", "Bern", source="connector", at_s=NOW_S - 60)
    profile.correct("home_city", "Lyon")
    assert profile.remove("home_city")
    assert not profile.remove("home_city")
    assert profile.get("home_city") is None
    assert "Bern" not in str(store.table("profile").entries())
    assert not profile.observe("home_city", "Bern", source="connector", at_s=NOW_S - 60)
    assert profile.document()["attributes"] == {}
    clock.now_s += 60
    assert profile.observe("home_city", "Oslo", source="connector", at_s=clock.now_s)
    with pytest.raises(InputError):
        profile.remove("shoe_size")


def test_it_is_all_still_there_after_opening_again(tmp_path: Path, clock: Clock) -> None:
    with Store(tmp_path, key=KEY) as store:
        profile = Profile(store, default_schema(), clock)
        profile.observe("home_city", "Rome", source="inferred", at_s=NOW_S)
        profile.correct("home_city", "Bern")
        document = profile.document()
    with Store(tmp_path, key=KEY) as store:
        assert Profile(store, default_schema(), clock).document() == document


def test_a_schema_that_names_less_keeps_less(store: Store, clock: Clock) -> None:
    wide = default_schema()
    Profile(store, wide, clock).observe("home_city", "Bern", source="declared", at_s=NOW_S)
    narrow = ProfileSchema({n: a for n, a in wide.attributes.items() if n != "home_city"}, wide.events)
    profile = Profile(store, narrow, clock)
    assert profile.get("home_city") is None
    assert profile.document()["attributes"] == {}
    assert profile.expire(clock.now_s) == 1
    assert len(store.table("profile")) == 0


def test_each_purpose_has_a_table_of_its_own(store: Store, clock: Clock) -> None:
    schema = default_schema().extended(
        ProfileSchema.from_yaml(
            b"purpose: personal-learning\nattributes:\n"
            b"  tone: {kind: behavioural, type: category, retention_days: 30, source: inferred}\n"
        )
    )
    profile = Profile(store, schema, clock)
    profile.observe("home_city", "Bern", source="declared", at_s=NOW_S)
    profile.observe("tone", "formal", source="inferred", at_s=NOW_S)
    assert list(profile.values()) == ["home_city", "tone"]
    assert profile.clear(PERSONALISATION.name) == 1
    assert list(profile.values()) == ["tone"]
    assert profile.clear() == 1
    assert profile.values() == {}


def test_a_destroyed_purpose_leaves_nothing_and_can_begin_again(store: Store, profile: Profile) -> None:
    profile.observe("home_city", "Bern", source="declared", at_s=NOW_S)
    store.destroy_purpose(PERSONALISATION.name)
    assert profile.values() == {}
    assert profile.document()["attributes"] == {}
    assert profile.observe("home_city", "Oslo", source="declared", at_s=NOW_S)
    assert value_of(profile, "home_city") == "Oslo"


def test_a_failed_transaction_around_it_leaves_the_profile_as_it_was(store: Store, profile: Profile) -> None:
    profile.observe("home_city", "Bern", source="declared", at_s=NOW_S)
    before = profile.document()

    def fail_after_two() -> None:
        with store.transaction():
            profile.observe("home_city", "Oslo", source="declared", at_s=NOW_S)
            profile.observe("plan", "gold", source="declared", at_s=NOW_S)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_two()
    assert profile.document() == before


WORDS = st.tuples(
    st.sampled_from(SOURCES), st.sampled_from(["Bern", "Oslo", "Rome"]), st.integers(0, 50).map(lambda n: NOW_S - n)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, min_size=1, max_size=7, unique_by=lambda w: (w[0], w[2])), seed=st.randoms())
def test_the_value_depends_on_what_was_said_and_not_on_the_order_of_arrival(
    store: Store, profile: Profile, words: list[tuple[str, str, float]], seed: object
) -> None:
    shuffled = list(words)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    found = []
    for order in (words, shuffled):
        profile.clear()
        for source, city, at_s in order:
            profile.observe("home_city", city, source=source, at_s=at_s)
        found.append(profile.get("home_city"))
    assert found[0] == found[1]
    best = max(words, key=lambda word: (TRUST[word[0]], word[2]))
    assert found[0] is not None
    assert (found[0].source, found[0].value, found[0].at_s) == best
