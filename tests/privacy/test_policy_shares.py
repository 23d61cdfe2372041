"""A budget that is divided over purposes: what a draft promises, what is explained, and what a report charges."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import nacl.signing
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_world import AGGREGATOR, NOW_S, LedgerWriter, make_plan, parsed, policy_document

from privacy.accounting import rho_from_epsilon
from privacy.charging import within_limit
from privacy.cli import main
from privacy.policy import Policy
from privacy.policy_text import DEFAULT_SHARES, PolicyDraft, default_shares, draft_policy, explain_policy
from privacy.reports import build_report
from shared_models.errors import ConfigError
from shared_models.purposes import SHARED
from shared_models.wire import RoundPlan, noise_variance_for


def drafted(shares: dict[str, float] | None, **changes: object) -> Policy:
    wish = {"fleet": "test", "aggregator_key": bytes(AGGREGATOR.verify_key), "epsilon": 4.0, "participations": 8}
    wish |= {"population": 10_000, "min_survivors": 3, "shares": shares, **changes}
    return parsed(yaml.safe_load(draft_policy(PolicyDraft(**wish), now=datetime.fromtimestamp(NOW_S, UTC))) | times())  # type: ignore[arg-type]


def times() -> dict[str, str]:
    document = policy_document()
    return {name: document[name] for name in ("issued", "expires")}


parts = st.dictionaries(st.sampled_from(sorted(DEFAULT_SHARES)), st.floats(1e-3, 1.0), min_size=1)


@settings(max_examples=6, deadline=None)
@given(parts, st.floats(0.1, 20.0), st.sampled_from([10, 512, 513, 20_000]), st.integers(1, 30))
def test_the_purposes_together_never_exceed_the_total_and_the_total_keeps_the_promise(
    shares: dict[str, float], epsilon: float, items: int, participations: int
) -> None:
    whole = math.fsum(shares.values())
    shares = {name: part / whole for name, part in shares.items()}
    policy = drafted(shares, epsilon=epsilon, catalogue_items=items, participations=participations)
    assert set(policy.purposes) == set(shares)
    assert policy.epsilon_total <= epsilon * (1 + 1e-9)
    assert policy.rho_total >= 0.999 * rho_from_epsilon(epsilon, policy.delta), "and gives away nothing of it"
    assert math.fsum(limits.rho for limits in policy.purposes.values()) <= policy.rho_total
    for name, limits in policy.purposes.items():
        assert limits.rho <= shares[name] * policy.rho_total * (1 + 1e-12)
        # What the rounds of the purpose cost at their least noise fits into its own limit.
        assert cost_of_all(policy, name) <= limits.rho * (1 + 1e-9)
        assert cost_of_all(policy, name) >= 0.99 * limits.rho


def cost_of_all(policy: Policy, purpose: str) -> float:
    rounds = {"policy_value_sums": 2, "drift_count": 3, "intent_head": policy.purposes[purpose].participations}
    cost = 0.0
    for name, allowed in policy.purposes[purpose].contributions.items():
        variance = noise_variance_for(allowed.noise_multiplier)
        if name == "bandit_moments":
            # Two releases, the first with nine times the variance (aggregator.releases.bandit_prior.FIRST_SHARE).
            cost += (1 << 28) / (2.0 * variance) + (1 << 28) / (2.0 * math.ceil(variance * 9.0))
        else:
            cost += rounds.get(name, 1) * (1 << 28) / (2.0 * variance)
    return cost


def test_the_parts_of_a_draft_are_those_of_the_contributions_that_exist() -> None:
    from aggregator.releases.bandit_prior import FIRST_SHARE
    from edge_client.share.answers import ANSWERS
    from privacy.policy_text import FIRST_MOMENTS_SHARE

    assert FIRST_MOMENTS_SHARE == FIRST_SHARE
    assert set(DEFAULT_SHARES) == set(SHARED)
    policy = drafted(dict(DEFAULT_SHARES), catalogue_items=600)
    named = {(name, purpose) for purpose, limits in policy.purposes.items() for name in limits.contributions}
    assert named == {(name, answer.purpose) for name, answer in ANSWERS.items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "shares",
    [{}, {"mood": 1.0}, {"intent-model": 0.7, "quality-check": 0.4}, {"intent-model": 0.0}, {"intent-model": math.nan}],
)
def test_parts_that_cannot_be_given_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        drafted(shares)


def test_named_purposes_without_parts_get_the_usual_ones() -> None:
    assert default_shares(["quality-check", "intent-model"]) == {
        "intent-model": pytest.approx(0.5 / 0.58),
        "quality-check": pytest.approx(0.08 / 0.58),
    }
    with pytest.raises(ConfigError, match="no purpose 'mood'"):
        default_shares(["mood"])


def test_what_a_divided_budget_means_is_explained() -> None:
    text = "\n".join(explain_policy(drafted(dict(DEFAULT_SHARES))))
    assert "intent-model 50.0%" in text
    assert "none can spend what is another's" in text
    assert "a consent of its own" in text
    assert "  item_gram: every release" in text
    assert "With more noise a release costs less" in text
    document = policy_document()
    document["purposes"]["quality-check"] = copy.deepcopy(document["purposes"]["intent-model"])
    greedy = "\n".join(explain_policy(parsed(document)))
    assert "together 200%: the total holds all the same" in greedy
    assert "consent of its own" not in "\n".join(explain_policy(parsed(policy_document())))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aggregator.pub").write_text(f"{bytes(nacl.signing.SigningKey.generate().verify_key).hex()}\n")
    base = ("policy", "init", "--fleet", "f", "--aggregator", "aggregator.pub", "--population", "1000")
    mode = ("--min-survivors", "20", "--mode", "trusted-aggregator", "--out", "p.yaml")
    return lambda *more: main([*base, *mode, *more])


def test_the_command_drafts_divided_budgets(desk: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert desk("--purpose", "preference-model=0.75", "--purpose", "intent-model=0.25") == 0
    policy = parsed(yaml.safe_load(Path("p.yaml").read_text()) | times())
    assert policy.purposes["preference-model"].rho == pytest.approx(0.75 * policy.rho_total, rel=1e-4)
    Path("p.yaml").unlink()
    assert desk("--all-purposes", "--catalogue-items", "2000") == 0
    assert main(["policy", "explain", "p.yaml"]) == 0
    assert "item_counts" in capsys.readouterr().out
    Path("p.yaml").unlink()
    for wrong in (
        ("--purpose", "mood"),
        ("--purpose", "intent-model=x"),
        ("--purpose", "intent-model=0.5", "--purpose", "quality-check"),
        ("--purpose", "intent-model=0.5", "--purpose", "intent-model=0.5"),
        ("--purpose", "intent-model", "--all-purposes"),
        ("--purpose", "intent-model=0.9", "--purpose", "quality-check=0.2"),
        ("--all-purposes", "--catalogue-items", "0"),
    ):
        assert desk(*wrong) == 2
        assert not Path("p.yaml").exists()


# -- what is charged --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1.0, 2.0, 5.0]), st.floats(0.1, 1.0)), max_size=7),
    st.integers(0, 4),
    st.floats(0.5, 12.0),
)
def test_what_a_budget_can_have_paid_is_the_best_of_all_choices(
    rounds: list[tuple[float, float]], most: int, limit: float
) -> None:
    costs, gains = [cost for cost, _ in rounds], [cost * part for cost, part in rounds]
    found = within_limit(costs, gains, most, limit)
    assert found is not None
    assert len(found) <= most
    assert math.fsum(costs[index] for index in found) <= limit * (1 + 1e-6)
    best = 0.0
    for choice in range(1 << len(rounds)):
        chosen = [index for index in range(len(rounds)) if choice >> index & 1]
        if len(chosen) <= most and math.fsum(costs[index] for index in chosen) <= limit:
            best = max(best, math.fsum(gains[index] for index in chosen))
    assert math.fsum(gains[index] for index in found) >= best - 1e-9


def test_too_many_different_costs_are_not_tried() -> None:
    costs = [1.0 + number / 100 for number in range(30)]
    assert within_limit(costs, costs, 20, 5.0) is None


def test_two_pairs_of_rounds_are_charged_as_what_one_budget_can_pay() -> None:
    """The rough release and the fine one, twice in a period: whoever paid for a fine one had nothing left for the other."""
    writer = LedgerWriter()
    document = yaml.safe_load(
        draft_policy(
            PolicyDraft(
                "test",
                bytes(AGGREGATOR.verify_key),
                4.0,
                8,
                10_000,
                3,
                shares={"suggestion-model": 0.5, "intent-model": 0.5},
            ),
            now=datetime.fromtimestamp(NOW_S, UTC),
        )
    )
    policy = writer.genesis(document | times())
    allowed = policy.purposes["suggestion-model"].contributions["bandit_moments"]
    least = noise_variance_for(allowed.noise_multiplier)

    def round_of(number: int, variance: int) -> None:
        plan = RoundPlan(
            **{
                **make_plan(policy, number, purpose="intent-model", contribution="intent_head").__dict__,
                "purpose": "suggestion-model",
                "contribution": "bandit_moments",
                "noise_variance": variance,
                "local": None,
            }
        )
        writer.reserve(plan)
        writer.release(plan)

    for number, variance in enumerate([9 * least, least, 9 * least, least], 1):
        round_of(number, variance)
    (item,) = [x for x in build_report(writer.lines())["purposes"] if x["purpose"] == "suggestion-model"]
    assert item["participations"] == 2
    assert item["rho"] == pytest.approx(item["rho_limit"], rel=1e-3)
    assert item["rho"] <= item["rho_limit"] * (1 + 1e-9)
    assert item["contributions"]["bandit_moments"]["rounds"] == 4
    assert item["rounds_left"] == 0
