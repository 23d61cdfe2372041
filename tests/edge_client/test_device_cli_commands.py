"""`tacit-device` as it is typed: real processes, pipes and a terminal."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_bundle import RealBundle

from edge_client.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
WORDS = "four words make one"


@pytest.fixture(scope="module")
def prepared(real_bundle: RealBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a bundle and a store, to be copied."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    done = device(home, "consent", "show", "--bundle", str(real_bundle.folder))
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "home"))


def device(home: Path, *arguments: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_client.cli", *arguments, "--home", str(home)],
        input=typed,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={**os.environ, "TACIT_PASSPHRASE": WORDS, **environment},
    )


def test_a_chat_over_a_pipe_is_a_conversation_that_learns(home: Path) -> None:
    typed = "\n".join(
        [
            "Book a flight to Lisbon",
            "/why",
            "/meant book_hotel",
            "/consent grant personal-learning",
            "zip zap to the sea",
            "/meant book a hotel",
            "zip zap to the sea",
            "/good",
            "/teach water_plants: water my plants | sprinkle the ferns",
            "please water my plants",
            "/learned",
            "/intents",
            "/nonsense",
            "/meant nonsense",
            "/quit",
            "never read",
        ]
    )
    done = device(home, "chat", typed=typed)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "because: I understood “book a flight”" in done.stdout
    assert "not kept: you have not allowed" in done.stdout
    assert "understood: book_hotel; kept on this device as an example" in done.stdout
    assert "  because: you told me before that this means “book a hotel”" in lines
    assert "book_hotel               zip zap to the sea (2 times)" in lines
    assert "water_plants             your own: water my plants | sprinkle the ferns" in lines
    assert "This is your own “water plants”." in lines
    assert "there is no intent 'nonsense'" in done.stdout
    assert "no such command" in done.stdout
    assert "\x1b" not in done.stdout
    assert "never read" not in done.stdout


def test_odd_bytes_on_the_pipe_end_nothing(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_client.cli", "chat", "--home", str(home)],
        input=b"\xff\xfe\x00\n" + b"x" * 1_000_000 + b"\n\xd8\xa7\xd8\xad\n/meant \xff\nhello\n",
        capture_output=True,
        cwd=ROOT,
        timeout=120,
        env={**os.environ, "TACIT_PASSPHRASE": WORDS, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert b"at most 100000 are accepted" in done.stdout
    assert b"say hello" in done.stdout
    assert b"Traceback" not in done.stderr


def test_a_terminal_is_asked_for_consent_once_with_no_as_the_default(home: Path) -> None:
    if sys.platform == "win32":
        return
    first = on_terminal(home, ["\n", "\n", "yes\n", "hello\n", "/quit\n"])
    assert first.count("Allow this? [y/N]") == 3
    assert "Keep my examples on this device?" in first
    assert "\x1b[2m" in first
    second = on_terminal(home, ["/consent\n", "/quit\n"])
    assert "Allow this?" not in second
    assert "off personal-learning" in second
    assert "on  intent-model" in second


def on_terminal(home: Path, typed: list[str]) -> str:
    """What a chat shows on a pseudo-terminal; each text is typed once the output has paused at a prompt."""
    import pty

    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "edge_client.cli", "chat", "--home", str(home)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=ROOT,
        env={**os.environ, "TACIT_PASSPHRASE": WORDS, "TERM": "xterm", "NO_COLOR": ""},
    )
    os.close(follower)
    shown, waiting, deadline = "", list(typed), time.monotonic() + 60
    while time.monotonic() < deadline:
        ready, _, _ = select.select([leader], [], [], 0.1)
        if ready:
            try:
                piece = os.read(leader, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece.decode(errors="replace")
        elif waiting and shown.replace("\x1b[?2004h", "").endswith(("] ", "> ")):
            os.write(leader, waiting.pop(0).encode())
    os.close(leader)
    assert child.wait(30) == 0, shown
    return shown


def test_consent_is_shown_granted_and_withdrawn(home: Path) -> None:
    assert device(home, "consent", "grant", "all").returncode == 0
    shown = device(home, "consent", "show").stdout
    assert "on  personal-learning" in shown
    assert "on  intent-model" in shown
    assert "1. " in shown
    assert "off intent-model" in device(home, "consent", "withdraw", "intent-model").stdout
    for wrong in (["consent", "grant"], ["consent", "grant", "marketing"]):
        done = device(home, *wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("tacit-device: ")


def test_inspect_shows_all_as_text_and_as_json(home: Path) -> None:
    device(home, "chat", typed="/consent grant personal-learning\nzip zap\n/meant rent_car\n")
    shown = device(home, "inspect").stdout
    assert "rent_car                 zip zap" in shown
    known = json.loads(device(home, "inspect", "--json").stdout)
    assert known["examples"][0]["text"] == "zip zap"
    assert known["bundle"]["domain"] == "travel"


def test_forget_asks_first_and_erases_all(home: Path) -> None:
    refused = device(home, "forget")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert (home / "store.key").exists()
    done = device(home, "forget", "--yes", TACIT_PASSPHRASE="not needed for this")
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
    assert device(home / "never", "forget", "--yes").returncode == 0


def test_doctor_is_content_with_a_sound_device_and_names_what_is_wrong(home: Path, tmp_path: Path) -> None:
    sound = device(home, "doctor")
    assert sound.returncode == 0, sound.stdout
    assert "BAD" not in sound.stdout
    for topic in ("system", "clock", "disk", "permissions", "key", "store", "bundle", "model"):
        assert f"ok  {topic} " in sound.stdout
    wrong = device(home, "doctor", TACIT_PASSPHRASE="wrong words")
    assert wrong.returncode == 1
    assert "BAD store        WrongKeyError" in wrong.stdout
    none = device(tmp_path / "nowhere", "doctor")
    assert none.returncode == 1
    assert "tacit-fleet build" in none.stdout
    assert not (tmp_path / "nowhere").exists()
    for path in (home / "bundle" / "objects").iterdir():
        path.write_bytes(b"junk")
    assert "BAD bundle" in device(home, "doctor").stdout
    assert "cannot be used" in device(home, "inspect").stdout
    (home / "store.tacit").write_bytes(b"junk")
    if os.name != "nt":
        (home / "store.key").chmod(0o644)
    hurt = device(home, "doctor")
    assert hurt.returncode == 1
    assert "StoreDamagedError" in hurt.stdout
    assert "open to other users" in hurt.stdout


def test_keys_come_from_files_too(real_bundle: RealBundle, tmp_path: Path) -> None:
    (tmp_path / "key.hex").write_text("ab" * 32 + "\n")
    (tmp_path / "key.raw").write_bytes(bytes.fromhex("ab" * 32))
    (tmp_path / "short").write_text("ab")
    home = tmp_path / "home"
    assert device(home, "consent", "show", "--key-file", str(tmp_path / "key.hex")).returncode == 0
    assert device(home, "consent", "show", "--key-file", str(tmp_path / "key.raw")).returncode == 0
    for wrong, said in (
        (["--key-file", str(tmp_path / "short")], "32 bytes"),
        (["--key-file", str(tmp_path / "none")], "cannot be read"),
        (["--key-file", str(tmp_path / "short"), "--passphrase-file", str(tmp_path / "short")], "not both"),
        (["--passphrase-file", str(tmp_path / "short")], "made with a raw key"),
    ):
        done = device(home, "consent", "show", *wrong)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_without_a_terminal_and_a_keyring_the_ways_to_give_a_key_are_named(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TACIT_PASSPHRASE"}
    environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
    done = subprocess.run(
        [sys.executable, "-m", "edge_client.cli", "consent", "show", "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "TACIT_PASSPHRASE" in done.stderr


def test_a_chat_without_a_model_names_the_command_and_leaves_nothing(tmp_path: Path) -> None:
    done = device(tmp_path / "home", "chat")
    assert done.returncode == 2
    assert "tacit-fleet build" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


def test_a_reader_that_leaves_ends_quietly(home: Path) -> None:
    device(home, "consent", "grant", "all")
    command = f"{sys.executable} -m edge_client.cli inspect --json --home {home} | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TACIT_PASSPHRASE": WORDS},
    )
    assert done.stderr == ""


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command.name, "--help"])
        assert ended.value.code == 0
        assert "--home" in capsys.readouterr().out


def talk_until_killed(home: Path, turns: int, pause_s: float) -> list[str]:
    """Teach one text after the other in a chat, kill it in the midst; returns the texts that it said it kept."""
    child = subprocess.Popen(
        [sys.executable, "-m", "edge_client.cli", "chat", "--home", str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TACIT_PASSPHRASE": WORDS},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    texts = [f"saying {home.name} {number}" for number in range(turns)]
    child.stdin.write("".join(f"{text}\n/meant rent_car\n" for text in texts))
    child.stdin.flush()
    acknowledged = 0
    for line in child.stdout:
        acknowledged += "kept on this device as an example" in line
        if acknowledged == 3:
            break
    time.sleep(pause_s)
    child.kill()
    rest, _ = child.communicate(timeout=60)
    acknowledged += rest.count("kept on this device as an example\n")
    return texts[:acknowledged]


def check_taught(home: Path, acknowledged: list[str]) -> None:
    known = json.loads(device(home, "inspect", "--json").stdout)
    kept = [example["text"] for example in known["examples"]]
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) - len(acknowledged) in (0, 1)


def test_a_killed_chat_has_kept_what_it_said_it_kept(home: Path) -> None:
    device(home, "consent", "grant", "personal-learning")
    acknowledged = talk_until_killed(home, 200, 0.05)
    assert 3 <= len(acknowledged) < 200
    check_taught(home, acknowledged)


@pytest.mark.deep
def test_many_killed_chats_have_kept_what_they_said_they_kept(prepared: Path, tmp_path: Path) -> None:
    for number in range(12):
        home = Path(shutil.copytree(prepared, tmp_path / f"home{number}"))
        device(home, "consent", "grant", "personal-learning")
        acknowledged = talk_until_killed(home, 300, number * 0.017)
        check_taught(home, acknowledged)
