"""The report's figures, recomputed here from the ledger's JSON alone with none of the package's arithmetic; and its page."""

from __future__ import annotations

import base64
import copy
import html.parser
import json
import math
from typing import Any

import pytest
from privacy_world import (
    DAY_S,
    NOW_S,
    PURPOSE,
    LedgerWriter,
    contribution_of,
    good_ledger,
    make_plan,
    policy_document,
)

from privacy.report_page import render_html
from privacy.reports import build_report, spent_epsilon, verify_ledger


def by_hand(lines: list[bytes]) -> dict[str, Any]:
    """A third party's reading: base64, JSON, YAML's numbers, and the conversion of Canonne, Kamath, Steinke by brute force."""
    import yaml

    entries = [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in lines]
    envelope = [entry for entry in entries if entry["kind"] in ("genesis", "policy")][-1]["body"]["policy"]
    policy = yaml.safe_load(base64.b64decode(envelope["payload"]))
    plans = {entry["body"]["round_id"]: entry["body"]["plan"] for entry in entries if entry["kind"] == "reserve"}
    releases = [entry["body"] for entry in entries if entry["kind"] == "release"]
    costs = sorted((2.0**28 / (2.0 * plan["noise_variance"]) for plan in plans.values()), reverse=True)
    rho = sum(costs[: policy["purposes"][PURPOSE]["participations"]])
    delta = policy["delta"]
    epsilon = min(
        order * rho + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        for order in (1.0 + 1.002**exponent for exponent in range(-2500, 4000))
    )
    return {
        "rho": rho,
        "epsilon": epsilon,
        "released": len(releases),
        "charged": len(plans),
        "least_survivors": min(body["survivors"] for body in releases),
        "least_noise": min(math.sqrt(plan["noise_variance"]) / 2.0**14 for plan in plans.values()),
    }


@pytest.mark.parametrize("rounds", [1, 2, 3, 8])
def test_every_figure_can_be_recomputed_without_our_code(rounds: int) -> None:
    lines = good_ledger(rounds).lines()
    report, hand = build_report(lines), by_hand(lines)
    for spent in (report["total"], report["purposes"][0]):
        assert spent["rho"] == pytest.approx(hand["rho"], rel=1e-12)
        assert spent["epsilon"] == pytest.approx(hand["epsilon"], rel=1e-4)
        assert spent["rounds_released"] == hand["released"] == rounds
        assert spent["rounds_charged"] == hand["charged"] == rounds + 2
        assert spent["least_survivors"] == hand["least_survivors"]
        assert spent["least_noise_multiplier"] == pytest.approx(hand["least_noise"])
        assert 0 < spent["epsilon_pld_continuous_surrogate_plan_fixed"] < spent["epsilon"]
    assert report["total"]["epsilon"] <= report["policy"]["epsilon_total"] * (1 + 1e-6)
    assert len(report["rounds"]) == rounds + 2
    json.dumps(report, allow_nan=False)


def test_rounds_of_different_noise_count_the_dearest_first() -> None:
    writer = LedgerWriter()
    policy = writer.genesis(policy_document(participations=3))
    least = make_plan(policy).noise_variance
    for round_id, factor in enumerate((8, 1, 4, 2, 16), 1):
        plan = make_plan(policy, round_id, noise_variance=least * factor)
        writer.reserve(plan)
        writer.release(plan)
    report = build_report(writer.lines())
    assert report["total"]["rho"] == pytest.approx(2.0**28 / (2.0 * least) * (1 + 1 / 2 + 1 / 4))
    assert report["total"]["participations"] == 3
    assert report["total"]["rho"] == pytest.approx(by_hand(writer.lines())["rho"])


def test_a_ledger_without_rounds_has_spent_nothing() -> None:
    writer = LedgerWriter()
    writer.genesis(policy_document())
    report = build_report(writer.lines())
    assert report["total"]["epsilon"] == report["total"]["rho"] == 0.0
    assert report["purposes"][0]["rounds_left"] is None
    assert report["total"]["least_survivors"] is None
    assert "None yet." in render_html(report)
    assert "no round yet" in render_html(report)


def test_aborted_and_open_rounds_count_as_spent() -> None:
    released_only = LedgerWriter()
    policy = released_only.genesis(policy_document())
    for round_id in (1, 2, 3):
        released_only.reserve(make_plan(policy, round_id))
        released_only.release(make_plan(policy, round_id))
    assert build_report(good_ledger(1).lines())["total"]["rho"] == pytest.approx(
        build_report(released_only.lines())["total"]["rho"]
    )


def test_a_policy_that_allows_less_afterwards_makes_nothing_cheaper() -> None:
    """Twenty participations were allowed and may have been used: a later policy of one does not undo them."""
    writer = LedgerWriter()
    policy = writer.genesis(policy_document(participations=20))
    for round_id in range(1, 21):
        plan = make_plan(policy, round_id)
        writer.reserve(plan)
        writer.release(plan)
    before = build_report(writer.lines())
    tight = {**policy_document(participations=20), "sequence": 2}
    tight["purposes"][PURPOSE]["participations"] = 1
    writer.policy(tight)
    after = build_report(writer.lines())
    assert after["total"]["epsilon"] == before["total"]["epsilon"] > 3.9
    assert after["purposes"][0]["participations"] == 20
    renamed = {**tight, "sequence": 3, "purposes": {"other": tight["purposes"][PURPOSE]}}
    writer.policy(renamed)
    assert build_report(writer.lines())["total"]["epsilon"] == before["total"]["epsilon"]
    assert spent_epsilon(writer.lines()) == before["total"]["epsilon"]


def test_a_ledger_of_several_periods_says_what_all_of_them_cost() -> None:
    writer = LedgerWriter()
    document = policy_document(participations=2, period_days=10)
    policy = writer.genesis(document)
    for round_id, day in enumerate((0, 1, 11, 12), 1):
        writer.time_s = NOW_S + day * DAY_S
        plan = make_plan(policy, round_id, issued_s=writer.time_s, deadline_s=writer.time_s + 60)
        writer.reserve(plan)
        writer.release(plan)
    report = build_report(writer.lines())
    assert report["total"]["participations"] == 2
    assert report["total"]["participations_whole_ledger"] == 4
    assert report["total"]["epsilon_whole_ledger"] > 1.3 * report["total"]["epsilon"]
    (statement,) = [text for text in report["statements"] if "several periods" in text]
    assert f"{report['total']['epsilon_whole_ledger']:.3f}" in statement
    assert report["purposes"][0]["rounds_left"] == 0


def test_within_one_period_the_whole_ledger_costs_the_headline() -> None:
    report = build_report(good_ledger(3).lines())
    assert report["total"]["epsilon_whole_ledger"] == report["total"]["epsilon"]
    assert not any("several periods" in text for text in report["statements"])


@pytest.mark.parametrize(("rounds", "left"), [(1, 2), (2, 1), (3, 0), (6, 0)])
def test_the_forecast_counts_what_one_device_may_still_answer(rounds: int, left: int) -> None:
    report = build_report(good_ledger(rounds).lines())
    assert report["purposes"][0]["rounds_left"] == left
    page = render_html(report)
    assert (f"exhausted after {left} more rounds" if left else "exhausted.") in page.replace(
        "exhausted. ", "exhausted."
    )


def noisy_document(multiplier: float, **changes: Any) -> dict[str, Any]:
    return {**policy_document(local_noise_multiplier=multiplier), **changes}


def test_local_noise_has_a_line_of_its_own_with_its_generator() -> None:
    report = build_report(good_ledger(2, noisy_document(1.5)).lines())
    line = report["purposes"][0]["local_noise"]
    assert line["noise_multiplier"] == 1.5
    assert "not cryptographic" in line["generator"]
    assert "one example" in line["unit"]
    for part in ("example-level", "not cryptographic", "not part of the headline", "4 of 4 rounds"):
        assert part in line["text"]
    assert line["text"] in render_html(report)
    assert not any("No local noise" in text for text in report["statements"])
    # And it changes nothing of the headline.
    assert report["total"] == build_report(good_ledger(2).lines())["total"]


def test_without_local_noise_the_report_says_so() -> None:
    report = build_report(good_ledger(2).lines())
    assert report["purposes"][0]["local_noise"]["text"] == "no local noise"
    assert any(text.startswith("No local noise") for text in report["statements"])
    assert "no local noise" in render_html(report)


def test_a_ledger_with_and_without_local_noise_tells_them_apart() -> None:
    writer = LedgerWriter()
    quiet = writer.genesis(noisy_document(0.0))
    writer.reserve(make_plan(quiet, 1))
    loud = writer.policy(noisy_document(0.7, sequence=2))
    writer.reserve(make_plan(loud, 2))
    report = build_report(writer.lines())
    assert "local noise multiplier 0.7 in 1 of 2 rounds" in report["purposes"][0]["local_noise"]["text"]
    assert not any("No local noise" in text for text in report["statements"])


def test_the_mode_and_its_limits_are_stated() -> None:
    statements = " ".join(build_report(good_ledger(1).lines())["statements"])
    for part in (
        "Mode trusted-aggregator",
        "not against the aggregator",
        "no amplification",
        "does not prove that noise",
    ):
        assert part in statements


def test_a_halt_is_shown() -> None:
    writer = good_ledger(1)
    writer.policy({**policy_document(), "sequence": 2, "halted": True, "reason": "<b>leak</b>"})
    report = build_report(writer.lines())
    assert report["policy"]["halted"]
    page = render_html(report)
    assert "Contributions are halted" in page
    assert "<b>leak" not in page
    assert "&lt;b&gt;leak" in page


class Page(html.parser.HTMLParser):
    """Collects tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</title><svg onload=alert(1)>",
    "\"'><iframe src=//evil.example>",
    "a&amp;<b",
    "</style><script src=//evil.example></script>",
    "\u202eright-to-left",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_and_the_page_loads_nothing(name: str) -> None:
    document = copy.deepcopy(policy_document())
    document["fleet"] = name
    hostile_purpose = name[:90]
    document["purposes"] = {hostile_purpose: document["purposes"][PURPOSE]}
    writer = LedgerWriter()
    policy = writer.genesis(document)
    limits = policy.purposes[hostile_purpose].contributions["intent_head"]
    assert limits == policy.purposes[hostile_purpose].contributions["intent_head"]
    aborted = make_plan(_with_purpose(policy, hostile_purpose), 1, purpose=hostile_purpose)
    writer.reserve(aborted)
    writer.abort(aborted, reason=name * 3)
    report = build_report(writer.lines())
    assert report["fleet"] == name
    page = Page(render_html(report))
    plain = Page(render_html(build_report(good_ledger(1).lines())))
    assert set(page.tags) <= set(plain.tags)
    assert "script" not in page.tags
    for attribute, value in page.attributes:
        assert attribute not in ("src", "href", "srcset", "action", "data")
        assert not attribute.startswith("on")
        assert "url(" not in value
    text = render_html(report)
    for loading in ("http://", "https://", "@import", "url("):
        assert loading not in text
    assert "default-src 'none'" in text


def _with_purpose(policy: Any, purpose: str) -> Any:
    """`make_plan` reads the limits of the usual purpose."""
    from dataclasses import replace

    return replace(policy, purposes={PURPOSE: policy.purposes[purpose], **policy.purposes})


def test_verified_rounds_carry_what_the_ledger_says() -> None:
    (first, *_), lines = verify_ledger(good_ledger(1).lines()).rounds, good_ledger(1).lines()
    assert first.survivors == 7
    assert first.contributions_root == "d" * 64
    assert first.noise_multiplier**2 == pytest.approx(1 / (2 * first.rho))
    assert contribution_of(policy_document())["min_survivors"] == first.plan.min_survivors
    assert len(lines) == 6
