"""Whatever code asks, the profile keeps nothing sensitive as inferred: neither by the attribute's name nor by its value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_client.know.profile import Profile
from edge_client.know.store import Store
from shared_models.profile import Attribute, ProfileSchema, default_schema

NOW_S = 1_800_000_000.0
NOT_DECLARED = ("inferred", "observed", "connector")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path, key=bytes(32)) as opened:
        yield opened


@pytest.fixture
def profile(store: Store) -> Profile:
    return Profile(store, default_schema(), lambda: NOW_S)


@pytest.mark.parametrize("source", NOT_DECLARED)
@pytest.mark.parametrize(
    "value",
    ["Pregnancy tests", "Schwangerschaftsmode", "clínica", "gay bars", "Places of Worship", "H.I.V.", "relіgion books"],
)
def test_an_inferred_value_that_speaks_of_something_sensitive_is_not_even_remembered(
    profile: Profile, store: Store, source: str, value: str
) -> None:
    assert not profile.observe("favourite_category", value, source=source, at_s=NOW_S)
    assert profile.get("favourite_category") is None
    assert len(store.table("profile")) == 0


def test_one_sensitive_value_in_a_list_keeps_the_list_out(profile: Profile) -> None:
    assert not profile.observe("interests", ["hiking", "mosque visits"], source="inferred", at_s=NOW_S)
    assert profile.observe("interests", ["hiking", "museums"], source="inferred", at_s=NOW_S)
    assert profile.observe("favourite_category", "race tickets", source="inferred", at_s=NOW_S)


def test_what_the_user_declares_is_the_users_business(profile: Profile) -> None:
    assert profile.observe("interests", ["church music"], source="declared", at_s=NOW_S)
    profile.correct("interests", ["pilgrim routes"])
    found = profile.get("interests")
    assert found is not None
    assert found.value == ["pilgrim routes"]


def test_what_is_on_nearby_says_nothing_about_the_user(profile: Profile) -> None:
    assert profile.observe("local_events", ["Concert in a church"], source="context", at_s=NOW_S)


def test_a_schema_that_was_smuggled_past_its_own_check_gains_nothing(store: Store) -> None:
    attribute = Attribute(
        "pregnant", "demographic", "boolean", "", False, "personalisation", "ordinary", 30, "inferred"
    )
    schema = ProfileSchema({}, {})
    object.__setattr__(schema, "attributes", {"pregnant": attribute})
    profile = Profile(store, schema, lambda: NOW_S)
    for source in (*NOT_DECLARED, "context"):
        assert not profile.observe("pregnant", True, source=source, at_s=NOW_S)
    assert profile.document()["attributes"] == {}
