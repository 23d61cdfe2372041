"""`tacit-fleet` on a fleet's folder: what can be refused before anything runs is one clear line and an exit code."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from aggregator.certificates import create_node_key
from aggregator.cli import main
from aggregator.fleet import Fleet
from edge_client.share.agent.fleet import new_node_key
from privacy.cli import main as privacy_main
from privacy.cli import role_path, sign_for_fleet
from privacy.keys import load_signing_key
from shared_models.errors import CheckpointError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_domain_dir: Path) -> Path:
    """A folder with officer.key, officer.pub, fleet/ (no policy yet), policy.yaml and policy.signed.json."""
    folder = tmp_path_factory.mktemp("made")
    assert privacy_main(["keys", "new", "officer", "--dir", str(folder)]) == 0
    officer, fleet = folder / "officer.pub", folder / "fleet"
    assert main(["init", str(fleet), "--officer", str(officer), "--domain", str(tiny_domain_dir)]) == 0
    draft = ["policy", "init", "--fleet", "fleet", "--aggregator", str(fleet / "keys" / "aggregator.pub")]
    draft += [
        "--population",
        "2000",
        "--min-survivors",
        "2",
        "--mode",
        "trusted-aggregator",
        "--out",
        str(folder / "policy.yaml"),
    ]
    assert privacy_main(draft) == 0
    sign(folder, {}, "policy.signed.json")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "world"))


@pytest.fixture
def governed(folder: Path, capsys: Captured) -> Path:
    """With the policy in force."""
    assert main(["policy", str(folder / "fleet"), str(folder / "policy.signed.json")]) == 0
    capsys.readouterr()
    return folder


def sign(folder: Path, change: dict[str, object], name: str) -> Path:
    """The officer signs the draft with some fields changed."""
    document = {**yaml.safe_load((folder / "policy.yaml").read_text()), **change}
    envelope, role = sign_for_fleet(yaml.safe_dump(document), load_signing_key(folder / "officer.key"))
    role_path(folder / name).write_bytes(role)
    (folder / name).write_bytes(envelope.to_bytes())
    return folder / name


def refused(capsys: Captured, *arguments: object, code: int = 2) -> str:
    """Run a command that must fail with one line; returns the line."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    said = capsys.readouterr()
    assert said.err.startswith("tacit-fleet: ")
    assert said.err.count("\n") == 1
    return said.err


def test_a_fleet_without_a_policy_runs_nothing_and_says_who_has_to_act(folder: Path, capsys: Captured) -> None:
    assert "no signed policy yet" in refused(capsys, "run", folder / "fleet")
    assert main(["status", str(folder / "fleet")]) == 0
    said = capsys.readouterr().out
    assert "Not being served" in said
    assert "no signed policy yet" in said


def test_a_policy_in_force_is_explained_recorded_and_published_once(governed: Path, capsys: Captured) -> None:
    assert main(["policy", str(governed / "fleet"), str(governed / "policy.signed.json")]) == 0
    assert "at most 8 contributions" in capsys.readouterr().out
    fleet = Fleet.open(governed / "fleet")
    state = fleet.state(read_only=True)
    assert [entry.kind for entry in state.entries()] == ["genesis"]
    state.close()
    assert main(["ledger", str(governed / "fleet"), "--out", str(governed / "ledger.jsonl")]) == 0
    verify = ["ledger", "verify", str(governed / "ledger.jsonl"), "--officer", str(governed / "officer.pub")]
    assert privacy_main(verify) == 0


def test_run_needs_a_fleet_that_is_served(governed: Path, capsys: Captured) -> None:
    for command in ("run", "resume", "stop"):
        assert "not being served; start `tacit-fleet serve`" in refused(capsys, command, governed / "fleet")
    state = Fleet.open(governed / "fleet").state(read_only=True)
    assert state.checkpoint() is None, "nothing was written"
    state.close()


def test_run_refuses_under_an_expired_policy(governed: Path, capsys: Captured) -> None:
    then = datetime.now(UTC).replace(microsecond=0) - timedelta(days=20)
    dates = {"issued": then.isoformat(), "expires": (then + timedelta(days=14)).isoformat()}
    expired = sign(governed, {"sequence": 2, **dates}, "expired.json")
    # Adopted in time, and expired since.
    shutil.copy(expired, governed / "fleet" / "policy.signed.json")
    shutil.copy(role_path(expired), governed / "fleet" / "policy.role.json")
    assert "expired" in refused(capsys, "run", governed / "fleet")


def test_run_refuses_when_the_officer_has_halted(governed: Path, capsys: Captured) -> None:
    signed, halt = str(governed / "policy.signed.json"), governed / "halt.json"
    key = str(governed / "officer.key")
    assert privacy_main(["policy", "halt", signed, "--key", key, "--reason", "an incident", "--out", str(halt)]) == 0
    assert main(["policy", str(governed / "fleet"), str(halt)]) == 0
    said = refused(capsys, "run", governed / "fleet")
    assert said == "tacit-fleet: the privacy officer has halted contributions: an incident\n"
    assert main(["status", str(governed / "fleet")]) == 0
    assert "HALTED by the privacy officer" in capsys.readouterr().out
    assert "older than policy 2" in refused(capsys, "policy", governed / "fleet", governed / "policy.signed.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fleet": "other"}, "this policy is for fleet 'other'"),
        ({"aggregator_key": "ab" * 32}, "names another aggregator's key"),
    ],
)
def test_a_policy_for_others_is_not_adopted(
    folder: Path, change: dict[str, object], words: str, capsys: Captured
) -> None:
    assert words in refused(capsys, "policy", folder / "fleet", sign(folder, change, "other.json"))
    assert not (folder / "fleet" / "policy.signed.json").exists()


def test_a_policy_that_the_officer_did_not_sign_is_not_adopted(folder: Path, capsys: Captured) -> None:
    assert privacy_main(["keys", "new", "mallory", "--dir", str(folder)]) == 0
    draft, key = str(folder / "policy.yaml"), str(folder / "mallory.key")
    assert privacy_main(["policy", "sign", draft, "--key", key, "--out", str(folder / "forged.json")]) == 0
    refused(capsys, "policy", folder / "fleet", folder / "forged.json")
    role_path(folder / "policy.signed.json").unlink()
    assert "is not beside it" in refused(capsys, "policy", folder / "fleet", folder / "policy.signed.json")
    (folder / "forged.json").write_bytes(b"\x00 not a policy")
    refused(capsys, "policy", folder / "fleet", folder / "forged.json")


def test_enrol_takes_all_keys_or_none(folder: Path, capsys: Captured) -> None:
    good, stock, bad = folder / "good.pem", folder / "stock.pem", folder / "bad.pem"
    good.write_bytes(new_node_key()[1])
    stock.write_bytes(create_node_key(folder / "stock.key"))
    bad.write_bytes(b"-----BEGIN NOTHING-----")
    for wrong in (bad, folder / "nowhere.pem", folder / "officer.pub"):
        refused(capsys, "enrol", folder / "fleet", good, wrong)
    assert not list((folder / "fleet" / "enrolled").glob("*.pem"))
    assert main(["enrol", str(folder / "fleet"), str(good), str(stock), str(good)]) == 0
    assert "admitted when `tacit-fleet serve` starts" in capsys.readouterr().out
    assert len(list((folder / "fleet" / "enrolled").glob("*.pem"))) == 2


def test_of_two_writers_the_second_is_refused_and_readers_are_free(folder: Path, capsys: Captured) -> None:
    late = Fleet.open(folder / "fleet").state()
    try:
        assert main(["policy", str(folder / "fleet"), str(folder / "policy.signed.json")]) == 0
        with pytest.raises(CheckpointError):
            late.append("genesis", {"fleet": "fleet"})
        capsys.readouterr()
        assert main(["status", str(folder / "fleet"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rounds"] == {"done": 0, "planned": 0}
    finally:
        late.close()
    state = Fleet.open(folder / "fleet").state(read_only=True)
    assert [entry.kind for entry in state.entries()] == ["genesis"]
    state.close()


def test_publish_and_rollback_need_something_to_publish(governed: Path, capsys: Captured) -> None:
    assert "no round has been released yet" in refused(capsys, "publish", governed / "fleet")
    assert "version 7 was never released here" in refused(capsys, "rollback", governed / "fleet", 7)


def test_what_is_no_fleet_names_the_command_that_makes_one(tmp_path: Path, capsys: Captured) -> None:
    for command in ("run", "status", "serve", "publish", "stop", "ledger"):
        assert "tacit-fleet init" in refused(capsys, command, tmp_path / "nowhere")
    (tmp_path / "fleet.json").write_bytes(b"{")
    assert "not a fleet's folder" in refused(capsys, "status", tmp_path)
    officer = tmp_path / "officer.pub"
    officer.write_text("no key")
    refused(capsys, "init", tmp_path / "new", "--officer", officer)
    assert not (tmp_path / "new").exists()
    assert "expected at least 1" in refused(capsys, "run", tmp_path, "--rounds", 0)


def test_a_fleet_that_is_there_is_never_made_again(folder: Path, capsys: Captured) -> None:
    key = (folder / "fleet" / "keys" / "aggregator.key").read_bytes()
    said = refused(capsys, "init", folder / "fleet", "--officer", folder / "officer.pub")
    assert "exists and is not empty" in said
    assert (folder / "fleet" / "keys" / "aggregator.key").read_bytes() == key


def test_the_model_card_of_a_fleet_says_what_it_is_made_of(governed: Path, capsys: Captured) -> None:
    measured = governed / "evaluation.json"
    measured.write_text('[{"name": "accuracy", "value": 0.9, "data": "100 sentences"}]')
    out = governed / "card"
    assert main(["model-card", str(governed / "fleet"), "--evaluation", str(measured), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out / "model-card.json"), str(out / "model-card.md")]
    document = json.loads((out / "model-card.json").read_text(encoding="utf-8"))
    assert document["privacy"]["epsilon"] == 0.0
    assert document["fairness"] is None
    assert document["artifacts"]["head"]
    assert "100 sentences" in (out / "model-card.md").read_text(encoding="utf-8")
    measured.write_text("{")
    assert main(["model-card", str(governed / "fleet"), "--evaluation", str(measured), "--out", str(out)]) == 2
