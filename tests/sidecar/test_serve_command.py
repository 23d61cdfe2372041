"""`tacit-device serve` and `export` as they are typed: real processes on real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from edge_client.cli import main
from edge_client.sidecar.cli import read_triggers
from edge_client.sidecar.tokens import Apps
from shared_models.errors import ConfigError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "TACIT_PASSPHRASE": "four words make one", "PYTHONUNBUFFERED": "1"}


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A sidecar that is up, and the lines that it has printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_client.cli", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith(("Privacy centre", "Serving unix:")):
                break
        assert lines, "it said nothing"
        yield process, lines
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


def test_it_serves_an_app_with_the_token_that_it_printed(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    with serving("--home", home, "--port", "0", "--app", "shop", "--scope", "capture", "--scope", "rights") as (
        process,
        lines,
    ):
        token = lines[0].removeprefix("Token of shop, shown once: ")
        address = lines[1].split()[1]
        assert address.startswith("http://127.0.0.1:")
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{address}/healthz").json()["status"] == "ok"
        granted = httpx.put(f"{address}/v1/consents/personalisation", json={"granted": True}, headers=headers)
        assert granted.json()["granted"]
        assert (
            httpx.post(f"{address}/v1/page", json={"userId": "u", "name": "Start"}, headers=headers).status_code == 200
        )
        centre = lines[2].split(": ", 1)[1]
        assert httpx.get(centre).status_code == 200
        assert httpx.get(centre).status_code == 403
        # Listens for this machine alone.
        port = int(address.rsplit(":", 1)[1])
        listening = {
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
        }
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
        # A second sidecar of the same home does not start.
        second = subprocess.run(
            [sys.executable, "-m", "edge_client.cli", "serve", "--home", home, "--port", "0"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=ENVIRONMENT,
            timeout=60,
        )
        assert second.returncode == 2
        assert "open elsewhere" in second.stderr
        # But a further app can be registered, and is known at once.
        file = tmp_path / "token"
        assert main(["serve", "--home", home, "--app", "later", "--token-file", str(file), "--only-register"]) == 0
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        later = {"Authorization": f"Bearer {file.read_text().strip()}"}
        assert httpx.get(f"{address}/v1/features", headers=later).status_code == 200
    assert process.returncode == 0


@pytest.mark.deep
def test_it_keeps_the_nights_of_the_device_that_it_serves(tmp_path: Path) -> None:
    with serving("--home", str(tmp_path / "home"), "--socket", str(tmp_path / "socket")) as (process, _):
        assert process.stdout is not None
        # It looks for the first time half a minute after its start.
        assert next(line for line in process.stdout if line.startswith("night of "))


def test_it_serves_on_a_unix_socket_that_goes_with_it(tmp_path: Path) -> None:
    home, path = tmp_path / "home", tmp_path / "socket"
    with serving("--home", str(home), "--socket", str(path)) as (_, lines):
        assert lines == [f"Serving unix:{path}  (stop with Ctrl-C)"]
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as caller:
            assert caller.get("/healthz").status_code == 200
    assert not path.exists()


def test_a_killed_sidecars_socket_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with serving("--home", str(tmp_path / "home"), "--socket", str(path)):
        assert path.is_socket()


def test_erasing_in_the_centre_leaves_no_file(tmp_path: Path) -> None:
    import re

    home = tmp_path / "home"
    with serving("--home", str(home), "--port", "0") as (_, lines):
        with httpx.Client() as browser:
            address = next(line for line in lines if line.startswith("Serving")).split()[1]
            opened = browser.get(lines[-1].split(": ", 1)[1])
            root = re.search(r'url=(/centre/[^"/]+)/known', opened.text)[1]  # type: ignore[index]
            csrf = re.search(r'name="csrf" value="([^"]+)"', browser.get(f"{address}{root}/rights").text)[1]  # type: ignore[index]
            fields = {"csrf": csrf, "sure": "yes"}
            assert browser.post(f"{address}{root}/erase", data=fields, headers={"Origin": address}).status_code == 200
            time.sleep(0.2)
            assert [path for path in home.rglob("*") if path.is_file()] == []
            saved = browser.post(f"{address}{root}/certificate", data=fields, headers={"Origin": address})
            assert "payload" in saved.json()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "loopback only"),
        (["--port", "70000"], "0 to 65535"),
        (["--origin", "https://x.example"], "--app NAME"),
        (["--app", "Bad Name"], "an app is named by"),
        (["--app", "a", "--origin", "*"], "is no origin"),
        (["--remove-app", "nobody"], "there is no app"),
        (["--only-register"], "needs --app"),
        (["--triggers", "nowhere.yaml"], "cannot be read"),
    ],
)
def test_a_call_that_cannot_work_is_one_line(
    tmp_path: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TACIT_PASSPHRASE", "four words make one")
    assert main(["serve", "--home", str(tmp_path / "home"), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_apps_are_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path / "home")
    assert main(["serve", "--home", home, "--app", "shop", "--only-register"]) == 0
    assert "shown once" in capsys.readouterr().out
    assert main(["serve", "--home", home, "--remove-app", "shop", "--only-register"]) == 0
    assert Apps(tmp_path / "home").all() == ()


@pytest.mark.parametrize(
    "text", ["", "{}", "- 7", "- {name: x, conditions: [[a, b]]}", "a: [", "- !!python/object:x {}"]
)
def test_odd_files_of_triggers_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError):
        read_triggers(tmp_path / "t.yaml")


def test_triggers_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "- {name: keen, events: [product_viewed], conditions: [[count.product_viewed.1h, '>=', 3]]}"
    )
    assert [trigger.name for trigger in read_triggers(tmp_path / "t.yaml")] == ["keen"]


def test_export_writes_a_private_file_or_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACIT_PASSPHRASE", "four words make one")
    home, out = str(tmp_path / "home"), tmp_path / "me.json"
    assert main(["consent", "grant", "personalisation", "--home", home]) == 0
    capsys.readouterr()
    assert main(["export", "--home", home, "--out", str(out)]) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert json.loads(out.read_text())["consents"]["personalisation"]["granted"] is True
    capsys.readouterr()
    assert main(["export", "--home", home]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "tacit-export/1"
    assert main(["export", "--home", home, "--out", str(tmp_path / "no" / "where.json")]) == 2
