"""Studies of a fleet's own domain, and what `tacit-fleet` says of them."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import nacl.signing
import numpy as np
import pytest

from aggregator import operating
from aggregator.checkpoint import FleetState
from aggregator.cli import CONTRIBUTIONS, main
from aggregator.fleet import Fleet
from aggregator.fleet_studies import STUDIES, study_of
from aggregator.status import status_lines
from shared_models.bandit_prior import BanditPrior, MomentLayout
from shared_models.domain import TRAVEL
from shared_models.errors import ConfigError
from shared_models.layouts import ItemLayout, JudgedPolicy
from shared_models.preference import gram_dimension
from shared_models.travel.catalogue import load_catalogue

KEY = nacl.signing.SigningKey(bytes(range(32)))


@pytest.fixture(scope="module")
def travel(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("fleet")
    shutil.copytree(TRAVEL, folder / "domain")
    return Fleet(folder, "travel")


@pytest.fixture
def state(tmp_path: Path) -> FleetState:
    return FleetState(tmp_path / "state.sqlite", KEY)


@pytest.mark.deep
def test_every_study_of_the_travel_domain_has_a_first_round(travel: Fleet, state: FleetState) -> None:
    steps = {name: study_of(travel, state, name).next_step([]) for name in STUDIES}
    count = len(load_catalogue())
    items, moments = steps["item_gram"], steps["bandit_moments"]
    assert items is not None
    assert ItemLayout.from_document(items.layout).chosen(tuple(load_catalogue().rows)) == tuple(load_catalogue().rows)
    assert items.dimension == gram_dimension(count)
    assert moments is not None
    assert MomentLayout.from_document(moments.layout).features[0] == "one"
    assert moments.noise_factor == pytest.approx(9.0)
    assert all(step is not None and step.contribution == name for name, step in steps.items())


def test_a_catalogue_that_is_too_large_to_pair_is_counted_first() -> None:
    from aggregator.releases.item_space import COUNTS
    from aggregator.studies import ItemSpaceStudy, ReleasedSum
    from privacy.mechanisms import NoisySum
    from shared_models.wire import SCALE

    study = ItemSpaceStudy(tuple(f"item {number}" for number in range(30)), most=5)
    step = study.next_step([])
    assert step is not None
    assert (step.contribution, step.dimension) == (COUNTS, 30)
    counts = np.arange(30) * SCALE
    counted = ReleasedSum(1, COUNTS, step.layout, NoisySum(counts, 100, SCALE * SCALE, 1.0))
    step = study.next_step([counted])
    assert step is not None
    head = ItemLayout.from_document(step.layout)
    assert head.head == (29, 28, 27, 26, 25)
    assert step.dimension == gram_dimension(5)
    random = np.random.default_rng(0)
    gram = NoisySum((random.uniform(0, 9, 15) * SCALE).astype(np.int64), 100, SCALE * SCALE, 1.0)
    done = [counted, ReleasedSum(2, "item_gram", step.layout, gram)]
    assert study.next_step(done) is None
    made = study.make(done)
    assert made.rounds == (1, 2)
    # Of another catalogue nothing is taken.
    assert ItemSpaceStudy(study.items[::-1], most=5).next_step(done) is not None


def test_a_candidate_is_judged_once_there_is_one(travel: Fleet, state: FleetState) -> None:
    with pytest.raises(ConfigError, match="no candidate"):
        study_of(travel, state, "policy_value_sums", "candidate")
    with pytest.raises(ConfigError, match="the policy to judge"):
        study_of(travel, state, "policy_value_sums", "mood")
    prior = BanditPrior.wide(("one", "sun"), reward_low=0.0, reward_high=1.0)
    state.append("genesis", {})
    state.append(
        "artifact", {"study": "bandit_moments", "rounds": []}, artifacts={"bandit-prior.json": prior.to_bytes()}
    )
    step = study_of(travel, state, "policy_value_sums", "candidate").next_step([])
    assert step is not None
    assert JudgedPolicy.from_document(dict(step.layout)).features == ("one", "sun")


def test_a_domain_without_a_catalogue_has_nothing_to_learn_tastes_from(
    tmp_path: Path, tiny_domain_dir: Path, state: FleetState
) -> None:
    shutil.copytree(tiny_domain_dir, tmp_path / "domain")
    fleet = Fleet(tmp_path, "library")
    for name in ("item_gram", "bandit_moments"):
        with pytest.raises(ConfigError, match=r"has no catalogue\.yaml"):
            study_of(fleet, state, name)
    with pytest.raises(ConfigError, match="no contribution 'mood'"):
        study_of(fleet, state, "mood")


def test_a_study_is_run_whole_and_nothing_else_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ("intent_head", *STUDIES) == CONTRIBUTIONS
    options = argparse.Namespace(contribute="item_gram", rounds=3, judge="prior", fleet=tmp_path)
    with pytest.raises(ConfigError, match="makes all the rounds that it needs"):
        operating.run(options)
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path), "--contribute", "mood"])
    assert "item_gram" in capsys.readouterr().err


def test_status_says_what_was_made_and_what_was_interrupted() -> None:
    document = {
        "fleet": "f",
        "published": 1,
        "rounds": {"done": 0, "planned": 0},
        "devices": None,
        "policy": {"sequence": 1, "expires_s": 1_800_000_000, "halted": False},
        "next_round": {
            "item_gram": {
                "purpose": "preference-model",
                "epsilon_spent": 0.0,
                "epsilon_after": 1.0,
                "epsilon_limit": 2.0,
                "rounds_left": 1,
                "min_survivors": 5,
            }
        },
        "artifacts": [{"name": "items.json", "study": "item_gram", "rounds": [4, 5], "time_s": 1_800_000_000}],
        "interrupted": "bandit_moments",
        "last_abort": None,
    }
    lines = "\n".join(status_lines(document))
    assert "Made of item_gram, 2027-01-15 08:00 UTC: items.json (round 4 and 5)." in lines
    assert "Next round of item_gram" in lines
    assert "Interrupted: bandit_moments; `tacit-fleet resume` goes on." in lines
