"""Rules that deny suggested items: what is refused when read, what the check says, and that nothing denied is suggested."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from travel_bundle import NOW_S, catalogue, travel_bundles

from aggregator.domain_scaffold import write_scaffold
from edge_client import EdgeClient, EdgeConfig
from edge_client.decide.bandit import Bandit, Exploration
from edge_client.decide.elicitation import AskingLimits
from edge_client.decide.suggesting import Personal, Suggester, Surroundings
from edge_client.decide.travel_trip import Known, wish_of
from edge_client.understand.state import DialogueState
from shared_models.domain import TRAVEL, load_domain
from shared_models.domain_lint import lint_domain
from shared_models.domain_targets import CATALOGUE_FILE
from shared_models.errors import DomainError
from shared_models.rules.items import denied_items
from shared_models.rules.ruleset import MAX_ITEMS, Rule, RuleSet

if TYPE_CHECKING:
    from real_bundle import RealBundle

PLACES = catalogue().destinations
COUNTRIES = sorted({place.country for place in PLACES})
JULY = "Where should I go in July?"


def rules_of(**fields: Any) -> RuleSet:
    return RuleSet.from_document({"rules": [{"id": "r", "kind": "deny", "reason": "not sold", **fields}]})


def test_rules_about_items_come_back_from_their_document_and_older_ones_look_as_before() -> None:
    made = rules_of(items=[PLACES[0].id], countries=["ES"], features={"beach": 0.5})
    assert RuleSet.from_document(made.document()) == made
    old = RuleSet((Rule("a", "deny", ("cancel",), "why"),))
    assert old.document()["rules"] == [{"id": "a", "kind": "deny", "intents": ["cancel"], "reason": "why"}]
    assert RuleSet.from_document(old.document(), {"cancel"}) == old


@pytest.mark.parametrize(
    "fields",
    [
        {"items": []},
        {"items": "goa"},
        {"items": [7]},
        {"items": ["x" * 200]},
        {"items": [f"i{n}" for n in range(MAX_ITEMS + 1)]},
        {"countries": [False]},
        {"countries": ["es"]},
        {"countries": None},
        {"features": {}},
        {"features": ["beach"]},
        {"features": {"beach": float("nan")}},
        {"features": {"beach": 2}},
        {"features": {"beach": True}},
        {"features": {7: 0.5}},
        {"items": ["goa"], "intents": ["cancel"]},
        {"items": ["goa"], "boost": 0.2},
        {"items": ["goa"], "reply": "No."},
        {"items": ["goa"], "kind": "allow"},
        {"items": ["goa"], "kind": "boost", "boost": 0.2},
        {"items": ["goa"], "reason": ""},
    ],
)
def test_rules_about_items_that_make_no_sense_are_one_clear_error(fields: dict[str, Any]) -> None:
    with pytest.raises(DomainError, match="rule 1"):
        rules_of(**fields)


def test_items_countries_and_features_each_deny_and_what_is_unknown_denies_nothing() -> None:
    place = PLACES[3]
    assert list(denied_items(rules_of(items=[place.id, "atlantis"]), catalogue())) == [place.id]
    by_country = denied_items(rules_of(countries=["ES"]), catalogue())
    assert set(by_country) == {one.id for one in PLACES if one.country == "ES"} != set()
    name = catalogue().feature_names[0]
    by_feature = denied_items(rules_of(features={name: 0.5}), catalogue())
    assert set(by_feature) == {one.id for one in PLACES if one.features[name] >= 0.5} != set()
    assert not denied_items(RuleSet((Rule("a", "deny", ("cancel",), "why"),)), catalogue())


def test_the_domain_check_names_what_the_catalogue_lacks_and_the_nearest(tmp_path: Path) -> None:
    folder = tmp_path / "domain"
    write_scaffold(folder)
    shutil.copy(TRAVEL / CATALOGUE_FILE, folder / CATALOGUE_FILE)
    assert lint_domain(load_domain(folder)) == []
    wrong = PLACES[0].id + "x"
    text = f"- {{id: z, kind: deny, items: [{wrong}], countries: [XX], features: {{nope: 0.5}}, reason: not sold}}\n"
    with (folder / "rules.yaml").open("a") as file:
        file.write(text)
    found = lint_domain(load_domain(folder))
    assert len(found) == 3
    assert repr(wrong) in found[0]
    assert f"the nearest is {PLACES[0].id!r}" in found[0]
    assert "'XX' is no country" in found[1]
    assert "'nope' is no feature" in found[2]
    (folder / CATALOGUE_FILE).unlink()
    assert any("has no catalogue" in line for line in lint_domain(load_domain(folder)))


@settings(max_examples=40, deadline=None)
@given(
    items=st.lists(st.sampled_from([place.id for place in PLACES]), min_size=1, max_size=60),
    countries=st.lists(st.sampled_from(COUNTRIES), min_size=1, max_size=len(COUNTRIES) - 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_with_exploration_at_its_highest_nothing_denied_is_chosen_and_propensities_are_exact(
    items: list[str], countries: list[str], seed: int
) -> None:
    denied = denied_items(rules_of(items=items, countries=countries), catalogue())
    suggester = Suggester(catalogue())
    # Uniform: every choice is exploration, and its propensity is known from how many the mask leaves.
    masks: list[int] = []

    class Watched(Bandit):
        def choose(self, features: Any, permitted: Any = None, sensitive: Any = None) -> Any:
            masks.append(int(permitted.sum()))
            return super().choose(features, permitted, sensitive)

    bandit = Watched(suggester.prior, Exploration("thompson", 10.0, 1.0), random=np.random.default_rng(seed))
    wish = wish_of(DialogueState(intent="suggest_destination"), date(2026, 6, 1), catalogue(), Known(), ())
    for turn in range(4):
        choices = suggester.choose(
            wish, bandit, around=Surroundings(turn), personal=Personal(), forbidden=denied, now_s=NOW_S
        )
        picked = [one.place for one in choices.picked]
        assert not {place.id for place in picked} & set(denied)
        assert choices.possible == len(PLACES) - len(denied) or not choices.picked
        left = masks[-len(picked) :] if picked else []
        assert [one.propensity for one in choices.picked] == pytest.approx([1.0 / count for count in left])
        assert left[:1] == [len(one.candidates) for one in choices.picked[:1]]


def test_a_client_never_suggests_what_a_signed_rule_denies_and_says_why_if_nothing_is_left(
    real_bundle: RealBundle, tmp_path: Path
) -> None:
    config = EdgeConfig(
        bundles=travel_bundles(real_bundle, tmp_path, rules_of(countries=["ES", "IT", "FR"])),
        clock=lambda: NOW_S,
        random_seed=3,
        asking=AskingLimits(per_session=0),
    )
    with EdgeClient.open(tmp_path / "home", key=bytes(32), config=config) as client:
        for number in range(6):
            cards = client.respond(JULY, conversation=f"c{number}").suggestions
            assert cards
            assert not {catalogue().place(card.id).country for card in cards} & {"ES", "IT", "FR"}
        named = client.respond("Where in Spain should I go in July?", conversation="named")
        assert not named.suggestions
        client._bundle = replace(client._active(), rules=rules_of(countries=COUNTRIES))
        nothing = client.respond(JULY, conversation="none")
        assert nothing.suggestions == ()
        assert "not sold" in nothing.reasons
        assert nothing.rule_ids == ("r",)
