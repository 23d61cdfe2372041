"""Which questions to ask a new user of Jester: error of all other ratings after five answers, by rule and by prior.

New users are a fifth of all, drawn anew for each seed; the prior comes from the others. A question is "how do you like this
joke?", among those that the user has rated; the answer is the rating. RMSE over the jokes not asked about. Paired: the same users
and the same prior, differences of squared error per user with a 95% interval over all of them. Penalty and weights of the release
were tried on seeds 0 to 9 of this data, so these figures are not independent of it.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.harness import Options, Row, main
from benchmarks.jester import private_prior, raw_prior, split
from edge_client.decide.elicitation import Knowledge, variance_removed
from shared_models.bandit_prior import BanditPrior

QUESTIONS = 5
GOAL = 4.42
RULES = ("A-optimal", "largest variance", "random")


def run(options: Options) -> list[Row]:
    seeds = options.pick(1, 3, 10)
    users = options.pick(40, 200, 400)
    priors = {"not private": math.inf} if options.quick else {"eps=1": 1.0, "eps=2": 2.0, "not private": math.inf}
    errors: dict[tuple[str, str], list[np.ndarray]] = {}
    for seed in range(seeds):
        data = split(options, seed)
        if data is None:
            return []
        fresh = data.fresh[:users]
        for name, epsilon in priors.items():
            options.say(f"seed {seed}, prior {name}")
            prior = raw_prior(data.known) if math.isinf(epsilon) else private_prior(data.known, epsilon, seed)
            for rule in RULES:
                random = np.random.default_rng([seed, 5])
                found = np.array([squared_errors(prior, ratings, rule, random) for ratings in fresh])
                errors.setdefault((name, rule), []).append(found)
    rows = []
    for name in priors:
        ours = np.concatenate(errors[name, RULES[0]])
        case = f"Jester, prior {name}, {len(ours):,} new users"
        rows.append(Row(f"{case}, no question", "RMSE", "rating", _rmse(ours[:, 0]), seeds=seeds))
        rows.append(Row(f"{case}, 5 questions", "RMSE", "rating", _rmse(ours[:, QUESTIONS]), "goal", GOAL, seeds))
        for rule in RULES[1:]:
            theirs = np.concatenate(errors[name, rule])
            difference = ours[:, QUESTIONS] - theirs[:, QUESTIONS]
            half = 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
            interval = f"paired difference of squared error {difference.mean():+.2f} ± {half:.2f}"
            rows.append(
                Row(
                    f"{case}, 5 questions, {interval}",
                    "RMSE",
                    "rating",
                    _rmse(ours[:, QUESTIONS]),
                    rule,
                    _rmse(theirs[:, QUESTIONS]),
                    seeds,
                )
            )
    return rows


def squared_errors(prior: BanditPrior, ratings: np.ndarray, rule: str, random: np.random.Generator) -> np.ndarray:
    """[QUESTIONS + 1]: mean squared error over the jokes that were not asked about, after each number of questions."""
    open_items = ~np.isnan(ratings)
    knowledge = Knowledge.of_items(
        prior.mean, prior.covariance, prior.noise_variance, weights=open_items.astype(np.float64)
    )
    found = []
    for number in range(QUESTIONS + 1):
        found.append(float(np.mean((knowledge.mean - ratings)[open_items] ** 2)))
        if number == QUESTIONS:
            break
        if rule == "A-optimal":
            score = variance_removed(knowledge)
        elif rule == "random":
            score = random.random(len(ratings))
        else:
            score = np.diag(knowledge.covariance)
        asked = int(np.where(open_items, score, -np.inf).argmax())
        open_items = open_items.copy()
        open_items[asked] = False
        knowledge = knowledge.answered(asked, float(ratings[asked]))
        knowledge = Knowledge(
            knowledge.mean,
            knowledge.covariance,
            knowledge.noise_variance,
            knowledge.questions,
            knowledge.targets,
            open_items.astype(np.float64),
        )
    return np.array(found)


def _rmse(squared: np.ndarray) -> float:
    return math.sqrt(float(squared.mean()))


if __name__ == "__main__":
    main("elicitation", run)
