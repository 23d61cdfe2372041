"""The bandit on Jester's cold start with a prior learned under DP; its decision time; off-policy and session values.

Cold start: a new user is shown 30 jokes one after the other, each once and of those the user has rated; reward is the rating.
Mean reward per decision over the first 5 and over all 30. New users are a fifth of all, drawn anew for each seed; peers are
warm-started on the other users' raw ratings. Penalty and weights of the release were tried on seeds 0 to 9 of this data, so these
figures are not independent of it.
"""

from __future__ import annotations

import math

import numpy as np

from aggregator.releases.policy_value import policy_value_from
from aggregator.replica import gate_integers
from benchmarks import bandit_peers as peers
from benchmarks.bandit_sessions import session_rows
from benchmarks.harness import Options, Row, main
from benchmarks.jester import DELTA, HIGH, LOW, private_prior, raw_prior, split
from edge_client.decide.bandit import Bandit, Exploration
from edge_client.decide.policy_value import Log, policy_value
from edge_client.share.contributions import policy_value_sums
from privacy.accounting import default_delta, noise_multiplier_for
from privacy.mechanisms import NoisySum
from shared_models.bandit_prior import BanditPrior
from shared_models.policy_value import ValueLayout
from shared_models.wire import noise_variance_for

ROUNDS = 30
SHORT = 5
GOALS = {SHORT: 3.32, ROUNDS: 2.57}
GOAL_US = 10.0
GREEDY = Exploration("greedy", floor=0.0)
THOMPSON = Exploration("thompson", spread=0.3, floor=0.0)


def run(options: Options) -> list[Row]:
    return [*decision_time(options), *cold_start(options), *off_policy(options), *session_rows(options)]


def decision_time(options: Options) -> list[Row]:
    features = np.random.default_rng(0).standard_normal((100, 64))
    prior = BanditPrior.wide(tuple(f"f{number}" for number in range(64)), reward_low=-1.0, reward_high=1.0)
    permitted = np.arange(100) % 7 != 0
    theirs = {}
    for name, measure in (
        ("Vowpal Wabbit", peers.vowpal_wabbit_decision_us),
        ("MABWiser LinTS", peers.mabwiser_decision_us),
    ):
        try:
            theirs[name] = measure(features)
        except ImportError:
            options.leave_out(f"decision time of {name}: not installed (extra bench)")
    rows = []
    for name, exploration in (("Thompson", Exploration()), ("greedy", Exploration("greedy"))):
        bandit = Bandit(prior, exploration, random=np.random.default_rng(0))
        for row in features:
            bandit.learn(row, 0.1)
        spent = peers.best_us(lambda bandit=bandit: bandit.choose(features), 100)
        case = f"one decision, 100 arms × 64 features, {name}"
        rows.append(Row(case, "best of 200 batches", "µs", spent, "goal", GOAL_US))
        rows.extend(Row(case, "best of 200 batches", "µs", spent, peer, value) for peer, value in theirs.items())
        masked = peers.best_us(lambda bandit=bandit: bandit.choose(features, permitted), 100)
        rows.append(Row(f"{case}, rules' mask", "best of 200 batches", "µs", masked, "goal", GOAL_US))
    learned = peers.best_us(lambda: bandit.learn(features[3], 0.1), 50)
    rows.append(Row("one update, 64 features", "best of 200 batches", "µs", learned))
    return rows


def cold_start(options: Options) -> list[Row]:
    seeds, users, peer_users = options.pick(1, 5, 10), options.pick(60, 795, 795), options.pick(20, 60, 200)
    ours: dict[str, list[np.ndarray]] = {}
    theirs: dict[str, list[np.ndarray]] = {}
    for seed in range(seeds):
        data = split(options, seed)
        if data is None:
            return []
        fresh = data.fresh[:users]
        priors = {"eps=1": private_prior(data.known, 1.0, seed)}
        if not options.quick:
            lenient = default_delta(len(data.known))
            priors["eps=1 (delta=N^-1.1)"] = private_prior(data.known, 1.0, seed, lenient)
            priors["eps=2"] = private_prior(data.known, 2.0, seed)
            priors["eps=8"] = private_prior(data.known, 8.0, seed)
        priors["not private"] = raw_prior(data.known)
        priors["no prior"] = BanditPrior.wide(priors["eps=1"].features, reward_low=LOW, reward_high=HIGH, spread=5.0)
        for name, prior in priors.items():
            options.say(f"seed {seed}, greedy, {name}")
            ours.setdefault(f"greedy, {name}", []).append(played(prior, GREEDY, fresh, seed))
        options.say(f"seed {seed}, Thompson")
        ours.setdefault("Thompson (spread 0.3), eps=1", []).append(played(priors["eps=1"], THOMPSON, fresh, seed))
        theirs.setdefault("popularity, not private", []).append(
            peers.rewards_of(peers.popularity(data.known), fresh, ROUNDS)
        )
        for name, make in (("Vowpal Wabbit", peers.vowpal_wabbit), ("MABWiser LinUCB", peers.mabwiser)):
            options.say(f"seed {seed}, {name}")
            try:
                scorer = make(data.known, seed)
            except ImportError:
                options.leave_out(f"{name}: not installed (extra bench)")
                continue
            theirs.setdefault(f"{name}, warm, not private", []).append(
                peers.rewards_of(scorer, fresh[:peer_users], ROUNDS)
            )
    rows = []
    for name, found in ours.items():
        for rounds, goal in GOALS.items():
            value = float(np.mean([item[:, :rounds].mean() for item in found]))
            case = f"Jester, T={rounds}, {name}"
            if name.endswith("eps=1"):
                case += f" (delta={DELTA:g})"
            rows.append(Row(case, "reward per decision", "rating", value, "goal", goal, seeds))
            if name != "greedy, eps=1":
                continue
            for peer, results in theirs.items():
                pairs = [
                    (mine[: len(other), :rounds].mean(axis=1), other[:, :rounds].mean(axis=1))
                    for mine, other in zip(found, results, strict=True)
                ]
                mine, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
                half = 1.96 * float((mine - other).std(ddof=1)) / math.sqrt(len(mine))
                paired = f"paired difference {float((mine - other).mean()):+.2f} ± {half:.2f}, {len(mine):,} users"
                rows.append(
                    Row(
                        f"{case}, {paired}",
                        "reward per decision",
                        "rating",
                        float(mine.mean()),
                        peer,
                        float(other.mean()),
                        seeds,
                    )
                )
    return rows


def played(prior: BanditPrior, exploration: Exploration, fresh: np.ndarray, seed: int) -> np.ndarray:
    """[users, ROUNDS]: rewards of one bandit per user, through the class that a device uses."""
    eye = np.eye(fresh.shape[1])
    found = np.zeros((len(fresh), ROUNDS))
    for user, ratings in enumerate(fresh):
        bandit = Bandit(prior, exploration, random=np.random.default_rng([seed, user]))
        permitted = ~np.isnan(ratings)
        for number in range(ROUNDS):
            action = bandit.choose(eye, permitted).action
            permitted[action] = False
            found[user, number] = ratings[action]
            bandit.learn(eye[action], float(ratings[action]))
    return found


def off_policy(options: Options) -> list[Row]:
    """Thompson sampling with a floor is logged; what would greedy earn? All users, five decisions each among eight jokes."""
    data = split(options, 0)
    if data is None:
        return []
    options.say("off-policy evaluation")
    prior = raw_prior(data.known)
    everyone = np.concatenate([data.known, data.fresh])[: options.pick(300, 4000, 4000)]
    layout = ValueLayout(LOW, HIGH, most_decisions=5, most_weight=16.0)
    eye, logs, truth = np.eye(everyone.shape[1]), [], []
    for user, ratings in enumerate(everyone):
        bandit = Bandit(prior, Exploration(spread=1.0, floor=0.5), random=np.random.default_rng([3, user]))
        # The eight of this user's rated jokes that are liked best by all.
        permitted = np.zeros(len(ratings), bool)
        permitted[np.argsort(np.where(np.isnan(ratings), np.inf, -prior.mean))[:8]] = True
        greedy = int(np.where(permitted, prior.mean, -np.inf).argmax())
        truth.append(ratings[greedy])
        chosen = [bandit.choose(eye, permitted) for _ in range(layout.most_decisions)]
        actions = np.array([choice.action for choice in chosen])
        logs.append(
            Log(
                np.array([choice.propensity for choice in chosen]),
                (actions == greedy).astype(np.float64),
                ratings[actions],
                prior.mean[actions],
                np.full(len(actions), prior.mean[greedy]),
            )
        )
    columns = ("propensity", "target", "reward", "model_chosen", "model_target")
    value = policy_value(Log(*(np.concatenate([getattr(log, name) for log in logs]) for name in columns)))
    total = sum(gate_integers(policy_value_sums.compute(layout, log), policy_value_sums.CLIP_NORM) for log in logs)
    variance = noise_variance_for(noise_multiplier_for(1.0, DELTA, 1))
    noise = np.rint(np.random.default_rng(4).standard_normal(len(total)) * math.sqrt(variance))
    released = policy_value_from(
        NoisySum((total + noise).astype(np.int64), len(logs), variance, policy_value_sums.CLIP_NORM), layout
    )
    actual = float(np.mean(truth))
    case = f"Jester, what greedy would earn, from {value.decisions:,} logged decisions of {len(logs):,} users"
    rows = []
    for name, estimate, error in (
        ("IPS", value.ips, value.ips_error),
        ("SNIPS", value.snips, value.snips_error),
        ("DR", value.doubly_robust, value.doubly_robust_error),
    ):
        rows.append(Row(f"{case}, ± {1.96 * error:.2f}", name, "rating", estimate, "truth", actual))
    for name, found in (("IPS", released.ips), ("SNIPS", released.snips), ("DR", released.doubly_robust)):
        half = 1.96 * found.error
        rows.append(Row(f"{case}, released at eps=1, ± {half:.2f}", name, "rating", found.value, "truth", actual))
    return rows


if __name__ == "__main__":
    main("bandit", run)
