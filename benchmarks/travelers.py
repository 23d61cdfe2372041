"""Simulated travellers over 200 sessions: how much is lost against knowing the truth, by policy, and what disturbs it.

    python -m benchmarks.travelers [--quick|--full]

The generator is declared in shared_models/travel/simulator.py; no data are needed. Regret of a session is the probability
with which the best permitted place would have been accepted less that of the first suggestion; what is refused may be
followed by two more suggestions in the same session ("no, because …"). All policies meet the same travellers. The
population's prior and the popularity come from other travellers of the same generator and are not private here: what
privacy costs is measured in benchmarks/bandit.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import Options, Row, main
from benchmarks.traveler_policies import (
    Learned,
    Policy,
    Popularity,
    RankedByAdviser,
    RulesAndLearned,
    RulesOnly,
    action_features,
    arguments,
    feature_names,
    fitted_prior,
    quarter,
)
from benchmarks.traveler_variety import variety
from edge_client.decide.travel import TravelAdviser
from shared_models.bandit_prior import BanditPrior
from shared_models.travel.catalogue import Array, load_catalogue
from shared_models.travel.simulator import Disturbance, Traveller, World

SESSIONS = 200
TURNS = 3
POLICIES: tuple[type[Policy], ...] = (Policy, Popularity, RulesOnly, Learned, RankedByAdviser, RulesAndLearned)
SCENARIOS: Mapping[str, Disturbance] = {
    "steady": Disturbance(),
    "drift: a jump halfway": Disturbance(drift="jump"),
    "drift: a random walk": Disturbance(drift="walk"),
    "20% noisy answers": Disturbance(noise=0.2),
    "hostile for 50 sessions": Disturbance(hostile_sessions=50),
}
LEARNING_SESSIONS = 60
LEARNERS_FROM = 1_000_000
"""Seeds of the travellers that the population's knowledge comes from; none of them is measured."""
HOSTILE_SHARE = 0.1


@dataclass(frozen=True)
class Known:
    """What a population has taught."""

    priors: Mapping[bool, BanditPrior]
    """With rules or without -> prior."""
    rates: Array
    """[n, 4]"""


@dataclass(frozen=True)
class Outcome:
    """One traveller with one policy."""

    regret: Array
    """[sessions]"""
    accepted: float
    """Share of sessions in which one of the suggestions was taken."""
    violations: int
    """Suggestions beyond a hard limit."""


def learned_population(world: World, adviser: TravelAdviser, travellers: int, hostile: float = 0.0) -> Known:
    """Popularity and priors from `travellers` others; a part of them answers the opposite.

    Each has 60 sessions with one place, half of the time out of the adviser's better ones, else out of all that is permitted.
    """
    catalogue = world.catalogue
    # Before anything is known a place is liked by three in twenty.
    tried, liked = np.full((len(catalogue), 4), 4.0), np.full((len(catalogue), 4), 0.6)
    logs: list[list[tuple[Policy, int, bool]]] = []
    for number in range(travellers):
        disturbance = Disturbance(hostile_sessions=SESSIONS if number < hostile * travellers else 0)
        traveller = Traveller(world, LEARNERS_FROM + number, disturbance)
        policy = RulesOnly(adviser, traveller.declared, number)
        log: list[tuple[Policy, int, bool]] = []
        for _ in range(LEARNING_SESSIONS):
            policy.begin(traveller.situation())
            scores = np.where(policy.left, adviser.declared_scores(policy.trip), -np.inf)
            better = np.argsort(-scores)[:40]
            pool = better[scores[better] > -np.inf] if policy.random.random() < 0.5 else np.flatnonzero(policy.left)
            row, before = int(policy.random.choice(pool)), policy.remembered()
            yes = traveller.answer(row)
            policy.learn(row, yes, "")
            log.append((before, row, yes))
            tried[row, quarter(policy.trip)] += 1
            liked[row, quarter(policy.trip)] += yes
            traveller.next_session()
        logs.append(log)
    # A quarter of the year borrows from the whole year: few have tried a place in each.
    rates = (liked + 8.0 * liked.sum(axis=1, keepdims=True) / tried.sum(axis=1, keepdims=True)) / (tried + 8.0)
    priors = {}
    for rules in (False, True):
        users = []
        for log in logs:
            rows = [action_features(before, rates, rules)[row] for before, row, _ in log]
            users.append((np.array(rows), np.array([float(yes) for *_, yes in log])))
        priors[rules] = fitted_prior(users, feature_names(catalogue, rules))
    return Known(priors, rates)


def lived(
    world: World, adviser: TravelAdviser, kind: type[Policy], known: Known, disturbance: Disturbance, seed: int
) -> Outcome:
    """200 sessions of one traveller with one policy."""
    traveller = Traveller(world, seed, disturbance, SESSIONS)
    policy = kind(adviser, traveller.declared, seed, **arguments(kind, known.priors, known.rates))
    regret, accepted, violations = np.zeros(SESSIONS), 0, 0
    for session in range(SESSIONS):
        policy.begin(traveller.situation())
        taken = traveller.trips
        truth, allowed = traveller.probabilities(), traveller.allowed()
        for turn in range(TURNS):
            row = policy.choose()
            if turn == 0:
                regret[session] = truth.max() - truth[row]
            violations += not allowed[row]
            yes = traveller.answer(row)
            policy.learn(row, yes, "" if yes else traveller.reason(row))
            if yes:
                break
        # Trips, not answers: those may be false.
        accepted += traveller.trips > taken
        traveller.next_session()
    return Outcome(regret, accepted / SESSIONS, violations)


def run(options: Options) -> list[Row]:
    travellers, others = options.pick(4, 24, 100), options.pick(60, 200, 600)
    catalogue = load_catalogue()
    world, adviser = World.drawn(catalogue, 0), TravelAdviser(catalogue)
    options.say(f"a population of {others} travellers teaches popularity and priors")
    known = learned_population(world, adviser, others)
    rows: list[Row] = []
    steady: list[Outcome] = []
    for name, disturbance in SCENARIOS.items():
        outcomes = {
            kind.name: [lived(world, adviser, kind, known, disturbance, seed) for seed in range(travellers)]
            for kind in POLICIES
        }
        options.say(name)
        rows += _compared(name, outcomes)
        steady = steady or outcomes[RulesAndLearned.name]
        if disturbance.hostile_sessions:
            # What is left of the ill will once it has ended.
            later = [float(one.regret[150:].mean()) for one in outcomes[RulesAndLearned.name]]
            usual = [float(one.regret[150:].mean()) for one in steady]
            rows.append(
                Row(
                    name,
                    f"regret in sessions 151-200 {_interval(np.array(later) - np.array(usual), 'difference')}",
                    "per session",
                    float(np.mean(later)),
                    "the same travellers, honest throughout",
                    float(np.mean(usual)),
                    travellers,
                )
            )
    rows += variety(world, known.priors[True], known.rates, travellers)
    options.say("filter-bubble guard")
    poisoned = learned_population(world, adviser, others, HOSTILE_SHARE)
    hurt = [lived(world, adviser, RulesAndLearned, poisoned, Disturbance(), seed) for seed in range(travellers)]
    options.say("hostile contributors")
    paired = np.array([one.regret.sum() - other.regret.sum() for one, other in zip(hurt, steady, strict=True)])
    rows.append(
        Row(
            f"{HOSTILE_SHARE:.0%} of contributors hostile",
            f"regret over {SESSIONS} sessions {_interval(paired, 'difference')}",
            "accepted trips",
            float(np.mean([one.regret.sum() for one in hurt])),
            "honest contributors",
            float(np.mean([one.regret.sum() for one in steady])),
            travellers,
        )
    )
    return rows


def _compared(name: str, outcomes: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    ours = outcomes[RulesAndLearned.name]
    regrets = {policy: np.array([one.regret.sum() for one in lives]) for policy, lives in outcomes.items()}
    rows = []
    for policy in outcomes:
        if policy == RulesAndLearned.name:
            continue
        gap = regrets[RulesAndLearned.name] - regrets[policy]
        metric = f"regret over {SESSIONS} sessions {_interval(gap, 'difference')}"
        mine = float(regrets[RulesAndLearned.name].mean())
        rows.append(Row(name, metric, "accepted trips", mine, policy, float(regrets[policy].mean()), len(ours)))
    for policy in (RulesOnly.name, Learned.name):
        taken = [float(np.mean([one.accepted for one in outcomes[which]])) for which in (RulesAndLearned.name, policy)]
        rows.append(
            Row(name, f"a suggestion taken within {TURNS}", "of sessions", taken[0], policy, taken[1], len(ours))
        )
    broken = [
        float(np.mean([one.violations for one in outcomes[which]])) for which in (RulesAndLearned.name, Learned.name)
    ]
    rows.append(
        Row(name, "suggestions beyond a hard limit", "per traveller", broken[0], Learned.name, broken[1], len(ours))
    )
    return rows


def _interval(gaps: Array, what: str) -> str:
    """Mean of paired differences with its 95% interval over travellers (normal approximation)."""
    half = 1.96 * float(gaps.std(ddof=1)) / np.sqrt(len(gaps)) if len(gaps) > 1 else float("nan")
    return f"({what} {gaps.mean():+.2f} ± {half:.2f})"


if __name__ == "__main__":
    main("travelers", run)
