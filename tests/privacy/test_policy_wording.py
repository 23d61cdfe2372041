"""Drafts keep their promise, explanations say what a policy allows, and a halt works whatever the text looks like."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_world import AGGREGATOR, NOW_S, OFFICER, OFFICER_PUBLIC, PURPOSE, STRANGER, parsed, policy_document

from privacy.accounting import epsilon_from_rho
from privacy.policy import parse_policy, sign_policy
from privacy.policy_role import sign_policy_role
from privacy.policy_text import PolicyDraft, draft_policy, explain_policy, halt_text
from shared_models.canonical import seal_envelope
from shared_models.errors import ConfigError, PolicyError

NOW = datetime.fromtimestamp(NOW_S, UTC)


def draft(**changes: object) -> str:
    whole = {
        "fleet": "test",
        "aggregator_key": bytes(AGGREGATOR.verify_key),
        "epsilon": 4.0,
        "participations": 8,
        "population": 2000,
        "min_survivors": 100,
    }
    return draft_policy(PolicyDraft(**{**whole, **changes}), now=NOW)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 12.0), st.integers(1, 300), st.integers(100, 10**9))
def test_a_draft_keeps_its_promise_in_epsilon(epsilon: float, participations: int, population: int) -> None:
    policy = parsed(yaml.safe_load(draft(epsilon=epsilon, participations=participations, population=population)))
    assert policy.epsilon_total <= epsilon
    assert policy.epsilon_total == pytest.approx(epsilon, rel=1e-3)
    limits = policy.purposes[PURPOSE]
    one = 1.0 / (2.0 * limits.contributions["intent_head"].noise_multiplier ** 2)
    assert participations * one <= limits.rho * (1 + 1e-12)
    assert epsilon_from_rho(participations * one, policy.delta) <= epsilon


@pytest.mark.parametrize(
    "changes",
    [
        {"fleet": ""},
        {"fleet": "two\nlines"},
        {"fleet": "a: b"},
        {"fleet": "x" * 64},
        {"fleet": "#"},
        {"valid_days": 0},
        {"valid_days": 15},
        {"epsilon": 0.0},
        {"epsilon": float("nan")},
        {"epsilon": float("inf")},
        {"participations": 0},
        {"population": 1},
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        draft(**changes)


def test_an_explanation_names_the_figures() -> None:
    text = "\n".join(explain_policy(parsed(policy_document(local_noise_multiplier=0.0))))
    for part in (
        "Policy 1 of fleet test",
        "no amplification",
        "at most 5 contributions",
        "No local noise",
        "not against",
    ):
        assert part in text
    noisy = "\n".join(explain_policy(parsed(policy_document(local_noise_multiplier=1.5))))
    assert "Second line: local noise 1.5 per example (generator not cryptographic)" in noisy
    halted = "\n".join(explain_policy(parsed({**policy_document(), "halted": True, "reason": "a leak"})))
    assert "HALTED" in halted
    assert "a leak" in halted
    untrained = policy_document()
    untrained["purposes"][PURPOSE]["contributions"]["intent_head"]["local"] = None
    assert "Nothing is trained" in "\n".join(explain_policy(parsed(untrained)))


FORMS = {
    "draft": draft(),
    "dumped": yaml.safe_dump(yaml.safe_load(draft())),
    "json": json.dumps(policy_document()),
    "windows": draft().replace("\n", "\r\n"),
    "folded": draft().replace('reason: ""', "reason: >-\n  two lines\n  of reason"),
    "quoted": draft().replace("sequence: 1 ", '"sequence": 0x10 '),
    "underscores": draft().replace("sequence: 1 ", "sequence: 1_0 "),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "reason", ["incident 7", '"quotes" and \\ : # {}', "", "two\nlines", "ünïcode 🙂", "\x1b[31m", "x" * 900]
)
def test_a_halt_works_whatever_the_form_of_the_text(form: str, reason: str) -> None:
    before = parse_policy(sign_policy(FORMS[form], OFFICER), OFFICER_PUBLIC)
    later = NOW + timedelta(days=3)
    after = parse_policy(sign_policy(halt_text(FORMS[form], reason, now=later), OFFICER), OFFICER_PUBLIC)
    assert after.halted
    assert after.sequence == before.sequence + 1
    assert after.reason == " ".join(reason.split())[:500]
    assert after.issued_s == NOW_S + 3 * 86_400
    assert after.expires_s == after.issued_s + 14 * 86_400
    unchanged = ("fleet", "aggregator_key", "delta", "rho_total", "modes", "purposes", "period_days", "colluding_share")
    assert all(getattr(after, name) == getattr(before, name) for name in unchanged)


@pytest.mark.parametrize("text", ["", "[]", "fleet: x", "sequence: one", "sequence: [1]"])
def test_a_text_without_a_number_cannot_be_halted(text: str) -> None:
    with pytest.raises(PolicyError):
        sign_policy(halt_text(text, "stop"), OFFICER)


def test_the_officers_role_is_signed_by_the_officer_only() -> None:
    envelope = sign_policy(draft(), OFFICER).to_bytes()
    assert b"privacy-policy" in sign_policy_role(OFFICER, envelope, 1, NOW + timedelta(days=14))
    with pytest.raises(PolicyError):
        sign_policy_role(STRANGER, envelope, 1, NOW)
    with pytest.raises(PolicyError):
        sign_policy_role(OFFICER, b"{}", 1, NOW)
    with pytest.raises(PolicyError):
        sign_policy_role(OFFICER, envelope, 1, NOW.replace(tzinfo=None))
    for version in (0, -1, True, "1", 1.0):
        with pytest.raises(PolicyError):
            sign_policy_role(OFFICER, envelope, version, NOW)  # type: ignore[arg-type]
    with pytest.raises(PolicyError):
        sign_policy_role(OFFICER, seal_envelope("x", b"a" * (1 << 20), OFFICER).to_bytes(), 1, NOW)
