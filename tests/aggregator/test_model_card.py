"""The model card: every figure is from the ledger, a release or what was measured; what was not measured is said."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_fleet import OFFICER
from study_fleet import StudyFleet, studies

from aggregator.model_card import (
    INTENDED_USE,
    JSON_FILE,
    LIMITS,
    NOT_FOR,
    Measure,
    TrainedOn,
    epsilon_in_words,
    model_card,
    read_evaluation,
    render_markdown,
    write_model_card,
)
from aggregator.releases.fairness_slices import ARTIFACT, fairness_document, fairness_from
from aggregator.rounds import RoundSettings
from privacy.mechanisms import NoisySum
from privacy.reports import build_report
from shared_models.errors import ConfigError
from shared_models.fairness import FairnessLayout
from shared_models.profile import default_schema
from shared_models.wire import SCALE

LAYOUT = FairnessLayout(default_schema().slices)


def card(**change: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": "acme",
        "version": 3,
        "domain": "travel",
        "languages": ["en", "de"],
        "intended_use": INTENDED_USE,
        "not_for": NOT_FOR,
        "trained_on": [TrainedOn("seed phrases", "public", False), TrainedOn("intent_head", "6 rounds", True)],
        "artifacts": {"head": hashlib.sha256(b"head").hexdigest()},
        "report": None,
        "evaluation": [Measure("accuracy", 0.91, "900 held-out sentences", 0.89, 0.93)],
        "fairness": None,
        "limits": LIMITS,
    }
    return model_card(**{**plain, **change})


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """(privacy report, fairness.json) of a real round of `fairness_slices`, through real gates."""
    fleet = StudyFleet()
    state = fleet.state(tmp_path_factory.mktemp("state") / "state.sqlite")
    fleet.runner(state).run_study(fleet.grid(), RoundSettings(rounds=0, deadline_s=120), studies()["fairness_slices"])
    raw = state.artifact(ARTIFACT)
    assert raw is not None
    report = build_report(state.lines(), bytes(OFFICER.verify_key))
    state.close()
    return report, fairness_document(raw)


@pytest.mark.deep
def test_the_card_shows_what_the_ledger_and_the_release_say(measured: tuple[dict[str, Any], dict[str, Any]]) -> None:
    report, fairness = measured
    made = card(report=report, fairness=fairness)
    assert made["privacy"]["epsilon"] == report["total"]["epsilon"]
    (contribution,) = made["privacy"]["contributions"]
    assert (contribution["contribution"], contribution["released"], contribution["purpose"]) == (
        "fairness_slices",
        1,
        "quality-check",
    )
    text = render_markdown(made)
    for said in (
        f"ε = {report['total']['epsilon']:.3f}",
        report["ledger"]["head"],
        "held-out sentences",
        "0.89 to 0.93",
        fairness["words"],
    ):
        assert said in text, said
    assert all(statement[:40] in text for statement in report["statements"])
    assert text.count("| language: ") == len([1 for rate in fairness["rates"] if rate["slice"] == "language"]) / 5


def test_rounds_are_gathered_by_contribution_and_groups_are_shown_with_their_intervals() -> None:
    done = {
        "contribution": "intent_head",
        "purpose": "intent-model",
        "mode": "distributed",
        "outcome": "released",
        "survivors": 900,
        "noise_multiplier": 4.5,
    }
    report = {
        "total": {"epsilon": 1.25, "delta": 1e-6, "rho": 0.02, "participations": 2},
        "policy": {"epsilon_total": 2.0, "period_days": 30},
        "purposes": [{"purpose": "intent-model", "epsilon": 1.25}],
        "rounds": [done, {**done, "survivors": 950}, {**done, "outcome": "aborted", "survivors": None}],
        "ledger": {"head": "ab" * 32},
        "statements": ["Every round that was reserved counts as spent."],
    }
    values = np.zeros(LAYOUT.dimension, np.int64)
    for place, (_, bucket, outcome) in enumerate(LAYOUT.slots):
        shares = {"right": 0.8, "corrected": 0.1, "declined": 0.1, "accepted": 0.25, "passed": 0.75}
        values[place] = round(1500 * shares[outcome] * LAYOUT.factor * SCALE) if bucket in ("english", "new") else 0
    fairness = fairness_document(fairness_from(NoisySum(values, 3000, (4 * SCALE) ** 2, 1.0), LAYOUT).to_bytes())
    made = card(report=report, fairness=fairness)
    (row,) = made["privacy"]["contributions"]
    assert (row["rounds"], row["released"], row["least_survivors"], row["most_survivors"]) == (3, 2, 900, 950)
    text = render_markdown(made)
    assert "| intent_head | intent-model | 3 | 2 | 900 to 950 | distributed | 4.50 |" in text
    assert "ε = 1.250" in text
    assert "| language: english | 80% (77 to 83) |" in text
    assert "| language: german | – | – | – | – | – |" in text


def test_what_was_not_measured_is_said() -> None:
    text = render_markdown(card(evaluation=[]))
    assert text.count("Not measured") == 2
    assert "no round was ever run" in text


def test_epsilon_is_put_into_words_that_hold() -> None:
    assert "50% sure" in epsilon_in_words(0.0, 1e-6)
    assert "73% sure" in epsilon_in_words(1.0, 1e-6)
    assert "1.0e-06" in epsilon_in_words(1.0, 1e-6)
    assert "100% sure" in epsilon_in_words(50.0, 1e-6)


def test_a_text_of_a_domain_cannot_become_markup() -> None:
    text = render_markdown(card(name="a|b", domain="<script>x</script>\n# Heading", languages=["[x](javascript:y)"]))
    assert "<script>" not in text
    assert "\n# Heading" not in text
    assert "\\[x\\](javascript" in text  # escaped: no link
    assert "a\\|b" in text


def test_both_forms_are_written_and_the_json_reads_back(tmp_path: Path) -> None:
    made = card()
    json_path, markdown_path = write_model_card(tmp_path / "card", made)
    assert json_path.name == JSON_FILE
    assert json.loads(json_path.read_text(encoding="utf-8")) == json.loads(json.dumps(made))
    assert markdown_path.read_text(encoding="utf-8") == render_markdown(made)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"version": -1},
        {"version": True},
        {"intended_use": []},
        {"not_for": []},
        {"limits": []},
        {"evaluation": [Measure("a", float("nan"), "b")]},
    ],
)
def test_a_card_without_its_parts_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        card(**change)


def test_measures_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(
        json.dumps([{"name": "accuracy", "value": 0.9, "data": "1,000 sentences", "low": 0.88, "high": 0.92}])
    )
    assert read_evaluation(path) == (Measure("accuracy", 0.9, "1,000 sentences", 0.88, 0.92),)
    for text in (
        "",
        "[5]",
        '[{"name": "a"}]',
        '[{"name": "a", "value": "x", "data": "b"}]',
        '[{"name": 5, "value": 1, "data": "b"}]',
        "{}x",
        "[" * 10_000,
    ):
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_evaluation(path)
    with pytest.raises(ConfigError):
        read_evaluation(tmp_path / "nothing.json")
