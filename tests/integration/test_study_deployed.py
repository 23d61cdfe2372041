"""A study over a real SuperLink: two devices, each program in a terminal of its own; what operator and officer see of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deployed import Deployed, agents_ready

DEVICES = ("anna", "bert")


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_a_study_is_run_shown_and_verified_and_only_who_allowed_it_is_in_it(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path)
    deployed.set_up(purpose="quality-check")
    deployed.enrol(DEVICES)
    with deployed.serve() as serve:
        serve.await_text("^serving")
        with agents_ready(deployed, DEVICES):
            # Neither has allowed this purpose; both have allowed another.
            run = ("tacit-fleet", "run", "fleet", "--contribute", "drift_count", "--cohort", 2)
            assert "aborted" in deployed.run(*run, expect=1)
        for name in DEVICES:
            deployed.device(name, "consent", "grant", "quality-check")
        with agents_ready(deployed, DEVICES):
            said = deployed.run("tacit-fleet", "resume", "fleet", "--cohort", 2)
            assert "2 devices invited to drift_count" in said
            assert "made drift.json" in said
        shown = deployed.run("tacit-fleet", "status", "fleet")
        assert "Made of drift_count" in shown
        assert "drift.json (round 2)" in shown
    kinds = [entry["kind"] for entry in deployed.ledger()]
    assert kinds[-1] == "artifact"
    report = json.loads(deployed.run("tacit-privacy", "report", "ledger.jsonl", "--officer", "officer.pub"))
    assert [item["name"] for item in report["artifacts"]] == ["drift.json"]
    shared = json.loads(deployed.device("anna", "shared", "--json"))
    (receipt,) = shared["receipts"]
    assert (receipt["body"]["contribution"], receipt["body"]["purpose"]) == ("drift_count", "quality-check")
    assert shared["purposes"]["quality-check"]["participations"] == 1
