"""One-step rewards against session values, in a declared simulator of sessions: is planning ahead worth having? No `run` here.

A session has up to 12 decisions. Three `pushy` actions please at once (0.8 less fatigue) and tire the user by 0.4; three `gentle`
ones please less (0.35 less fatigue) and let fatigue go down by 0.1. After each decision the user leaves with probability
fatigue / 2. In the second world fatigue is drawn anew each time, so that nothing a policy does matters later. Both policies are
greedy on a linear model over action × (1, fatigue), learned from the same sessions of a random policy.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.harness import Options, Row
from edge_client.decide.session_value import Step, fitted_q

ACTIONS, LONGEST, DISCOUNT = 6, 12, 0.9


def session_rows(options: Options) -> list[Row]:
    seeds, learned_from, judged_on = options.pick(2, 10, 30), 300, options.pick(100, 400, 1000)
    rows = []
    for world, tiring in (("tires", True), ("independent", False)):
        one_step, planned = [], []
        for seed in range(seeds):
            steps = [step for number in range(learned_from) for step in session(None, tiring, [seed, number])[0]]
            for found, discount in ((one_step, 0.0), (planned, DISCOUNT)):
                weights = fitted_q(steps, discount=discount)
                found.append(
                    np.mean([session(weights, tiring, [seed, 10_000 + number])[1] for number in range(judged_on)])
                )
        difference = np.array(planned) - np.array(one_step)
        half = 1.96 * float(difference.std(ddof=1)) / math.sqrt(seeds)
        case = f"simulated sessions, user {world}, difference {difference.mean():+.2f} ± {half:.2f}"
        rows.append(
            Row(case, "reward per session", "", float(np.mean(planned)), "one-step", float(np.mean(one_step)), seeds)
        )
    return rows


def session(weights: np.ndarray | None, tiring: bool, seed: list[int]) -> tuple[list[Step], float]:
    """The steps of one session and its reward; `weights` None chooses at random."""
    random = np.random.default_rng(seed)
    fatigue, total, steps = float(random.random() * 0.3), 0.0, []
    table = _features(fatigue)
    for number in range(LONGEST):
        action = int(random.integers(ACTIONS)) if weights is None else int((table @ weights).argmax())
        pushy = action < ACTIONS // 2
        reward = (0.8 if pushy else 0.35) - fatigue + 0.2 * float(random.standard_normal())
        tired = min(1.0, max(0.0, fatigue + (0.4 if pushy else -0.1)))
        fatigue = tired if tiring else float(random.random())
        total += reward
        leaves = random.random() < fatigue / 2.0 or number == LONGEST - 1
        following = None if leaves else _features(fatigue)
        steps.append(Step(table[action], reward, following))
        if leaves:
            break
        table = _features(fatigue)
    return steps, total


def _features(fatigue: float) -> np.ndarray:
    eye = np.eye(ACTIONS)
    return np.c_[eye, eye * fatigue]
