"""`tacit-privacy` as the officer types it: every command, and one line with exit code 2 for what cannot be taken."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from privacy_world import AGGREGATOR, OFFICER_PUBLIC, good_ledger, policy_document, signed_policy

from privacy.cli import main, role_path, write_atomically
from privacy.keys import load_public_key
from privacy.policy import parse_policy
from shared_models.canonical import Envelope
from shared_models.errors import ConfigError


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The officer's folder, with two key pairs and a ledger in it."""
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "new", "officer"]) == 0
    assert main(["keys", "new", "aggregator", "--dir", "central"]) == 0
    Path("ledger.jsonl").write_bytes(b"".join(line + b"\n" for line in good_ledger(2).lines()))
    Path("trusted.pub").write_text(OFFICER_PUBLIC.hex())
    capsys.readouterr()
    return tmp_path


INIT = [
    *("policy", "init", "--fleet", "trips", "--aggregator", "central/aggregator.pub"),
    *("--population", "2000", "--min-survivors", "100", "--mode", "trusted-aggregator"),
]


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The call ends with `code` and one line of explanation, and changes nothing."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert main(list(arguments)) == code
    _, err = said(capsys)
    assert err.startswith("tacit-privacy: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    return err


def test_the_officers_whole_way(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*INIT, "--epsilon", "2"]) == 0
    assert "policy sign policy.yaml" in said(capsys)[0]
    assert main(["policy", "explain", "policy.yaml"]) == 0
    out, _ = said(capsys)
    assert out.startswith("A draft: not signed yet.")
    assert "epsilon 2.000" in out
    assert main(["policy", "sign", "policy.yaml", "--key", "officer.key"]) == 0
    officer = load_public_key(Path("officer.pub"))
    envelope = Envelope.from_bytes(Path("policy.signed.json").read_bytes())
    assert parse_policy(envelope, officer).fleet == "trips"
    assert envelope.payload == Path("policy.yaml").read_bytes()
    assert role_path(Path("policy.signed.json")).exists()
    said(capsys)
    assert main(["policy", "explain", "policy.signed.json", "--officer", "officer.pub"]) == 0
    assert said(capsys)[0].startswith("Signed by the officer's key")
    assert main(["policy", "explain", "policy.signed.json"]) == 0
    assert "not checked" in said(capsys)[0]
    assert main(["policy", "halt", "policy.signed.json", "--key", "officer.key", "--reason", "incident 7"]) == 0
    halted = parse_policy(Envelope.from_bytes(Path("policy.halt.json").read_bytes()), officer)
    assert (halted.halted, halted.sequence, halted.reason) == (True, 2, "incident 7")
    assert role_path(Path("policy.halt.json")).exists()


def test_ledger_and_report(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "show", "ledger.jsonl", "--officer", "trusted.pub"]) == 0
    out, _ = said(capsys)
    assert [line.split()[3].strip('"') for line in out.splitlines()[:3]] == ["genesis", "reserve", "release"]
    assert main(["ledger", "verify", "ledger.jsonl", "--officer", "trusted.pub"]) == 0
    assert "the trusted officer's key" in said(capsys)[0]
    assert main(["ledger", "verify", "ledger.jsonl"]) == 0
    assert "names itself" in said(capsys)[0]
    assert main(["report", "ledger.jsonl"]) == 0
    report = json.loads(said(capsys)[0])
    assert report["total"]["rounds_released"] == 2
    assert main(["report", "ledger.jsonl", "--html", "r.html", "--json", "r.json", "--officer", "trusted.pub"]) == 0
    assert json.loads(Path("r.json").read_text()) == report
    assert Path("r.html").read_text().startswith("<!doctype html>")


def test_a_ledger_that_does_not_hold_is_exit_code_1(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = Path("ledger.jsonl").read_bytes()
    for name, content in (
        ("bent", raw.replace(b"keyid", b"keyie", 1)),
        ("cut", raw[:-1]),
        ("short", raw[raw.index(b"\n") + 1 :]),
        ("empty", b""),
        ("binary", bytes(range(256)) + b"\n"),
        ("text", "not a ledger 🙂\n".encode()),
    ):
        Path(name).write_bytes(content)
        for command in (["report"], ["ledger", "verify"], ["ledger", "show"]):
            fails(capsys, 1, *command, name)
    assert main(["report", "bent", "--html", "r.html", "--json", "r.json"]) == 1
    assert not Path("r.html").exists()
    assert not Path("r.json").exists()
    said(capsys)
    fails(capsys, 1, "report", "ledger.jsonl", "--officer", "officer.pub")
    fails(capsys, 1, "ledger", "verify", "ledger.jsonl", "--officer", "officer.pub")


def test_what_cannot_be_taken_is_exit_code_2_in_one_line(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("junk").write_bytes(bytes(range(256)))
    Path("bad.yaml").write_text("a: [1,\nb: {\n\tc")
    Path("twice.yaml").write_text("format: 1\nformat: 1\n")
    Path("brace").write_text("{}")
    Path("signed.json").write_bytes(signed_policy(policy_document()).to_bytes())
    for arguments in (
        ("keys", "new", "officer"),
        ("keys", "new", "../up"),
        ("keys", "new", "x", "--dir", "junk"),
        ("keys", "new", "x", "--dir", "junk/below"),
        (*INIT, "--epsilon", "0"),
        (*INIT, "--epsilon", "nan"),
        (*INIT, "--epsilon", "1e9"),
        (*INIT, "--participations", "0"),
        (*INIT, "--participations", "1000000"),
        (*INIT, "--population", "1"),
        (*INIT, "--population", "2"),
        (*INIT, "--min-survivors", "0"),
        (*INIT, "--period-days", "0"),
        (*INIT, "--separation-s", "-1"),
        (*INIT, "--valid-days", "15"),
        (*INIT, "--fleet", "a: b"),
        (*INIT, "--aggregator", "nowhere.pub"),
        (*INIT, "--aggregator", "officer.key"),
        (*INIT, "--out", "junk"),
        (*INIT, "--out", "no/such/folder/p.yaml"),
        ("policy", "explain", "nowhere"),
        ("policy", "explain", "."),
        ("policy", "explain", "junk"),
        ("policy", "explain", "bad.yaml"),
        ("policy", "explain", "twice.yaml"),
        ("policy", "explain", "brace"),
        ("policy", "explain", "signed.json", "--officer", "officer.pub"),
        ("policy", "sign", "bad.yaml", "--key", "officer.key"),
        ("policy", "sign", "nowhere", "--key", "officer.key"),
        ("policy", "sign", "bad.yaml", "--key", "officer.pub"),
        ("policy", "halt", "signed.json", "--key", "officer.key", "--reason", "x"),
        ("policy", "halt", "brace", "--key", "officer.key", "--reason", "x"),
        ("ledger", "show", "nowhere"),
        ("ledger", "verify", "."),
        ("ledger", "verify", "ledger.jsonl", "--officer", "junk"),
        ("report", "nowhere"),
        ("report", "ledger.jsonl", "--officer", "nowhere"),
        ("report", "ledger.jsonl", "--html", "no/such/folder.html"),
    ):
        fails(capsys, 2, *arguments)


@pytest.mark.parametrize(
    "arguments", [[], ["policy"], ["nonsense"], ["report"], ["policy", "init", "--epsilon", "many"]]
)
def test_calls_that_the_parser_refuses_are_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: tacit-privacy" in said(capsys)[1]


def test_a_draft_is_not_overwritten(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(INIT) == 0
    said(capsys)
    assert "exists already" in fails(capsys, 2, *INIT)


def test_a_ledgers_text_cannot_drive_the_terminal(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = good_ledger(1)
    writer.add("\x1b]0;owned\x07\u202e\x9b31m", {"reason\n": "\x1b[2J\u202etxt"})
    Path("evil.jsonl").write_bytes(b"".join(line + b"\n" for line in writer.lines()))
    assert main(["ledger", "show", "evil.jsonl"]) == 1
    out, err = said(capsys)
    evil = {**policy_document(), "halted": True, "reason": "\x1b[2J\u202etxt", "fleet": "\x9b31m"}
    evil["purposes"] = {"\x1b]0;owned\x07": evil["purposes"]["intent-model"]}
    Path("evil.yaml").write_text(yaml.safe_dump(evil))
    assert main(["policy", "explain", "evil.yaml"]) == 0
    broken = {**evil, "purposes": {"\x1b]0;owned\x07": 7}}
    Path("broken.yaml").write_text(yaml.safe_dump(broken))
    assert main(["policy", "explain", "broken.yaml"]) == 2
    for text in (out, err, *said(capsys)):
        assert text
        assert all(character.isprintable() or character == "\n" for character in text)


def test_a_pipe_that_closes_early_is_no_error(desk: Path) -> None:
    program = (
        f"import sys; from privacy.cli import main; sys.exit(main(['ledger', 'show', {str(desk / 'ledger.jsonl')!r}]))"
    )
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert b"Traceback" not in child.stderr.read()
    child.wait()
    child.stderr.close()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"one")
    write_atomically(target, b"two")
    assert target.read_bytes() == b"two"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("x")
    with pytest.raises(ConfigError):
        write_atomically(tmp_path / "folder", b"three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_the_aggregator_is_not_needed_to_read_its_ledger(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "ledger.jsonl"]) == 0
    assert bytes(AGGREGATOR.verify_key).hex() not in said(capsys)[0]


def test_the_default_mode_needs_an_enrolment_authority(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--enrolment-key" in fails(capsys, 2, *INIT[:-2])
    assert "--enrolment-key" in fails(capsys, 2, *INIT, "--enrolment-key", "central/aggregator.pub")
    assert main(["enrolment", "keys", "authority"]) == 0
    assert main([*INIT[:-2], "--enrolment-key", "authority/enrolment.pub", "--out", "distributed.yaml"]) == 0
    assert "modes: [distributed]" in Path("distributed.yaml").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["policy", "explain", "distributed.yaml"]) == 0
    assert "only sums" in said(capsys)[0]


def test_an_authority_certifies_one_device_per_user(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enrolment", "keys", "authority"]) == 0
    assert main(["keys", "new", "phone"]) == 0
    assert main(["keys", "new", "tablet"]) == 0
    certify = ["enrolment", "certify", "--authority", "authority", "--fleet", "trips", "--user", "ada@example.org"]
    assert main([*certify, "--identity", "phone.pub", "--out", "phone.cert"]) == 0
    first = Path("phone.cert").read_bytes()
    assert main([*certify, "--identity", "phone.pub", "--out", "phone.cert"]) == 0
    assert Path("phone.cert").read_bytes() == first
    capsys.readouterr()
    assert "one per user" in fails(capsys, 2, *certify, "--identity", "tablet.pub", "--out", "tablet.cert")
    assert main(["enrolment", "list", "--authority", "authority"]) == 0
    listed, _ = said(capsys)
    assert listed.count("trips") == 1
    assert "ada" not in listed + Path("authority/register.jsonl").read_text(encoding="utf-8")
