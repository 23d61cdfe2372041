"""A deployed fleet as its users type it: real processes of `tacit-fleet`, `tacit-device` and `tacit-privacy` in one folder.

The domain is the small one of tests/data, so that a command costs seconds; everything else is what a team would run.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.ports import free_port, port_is_free

ROOT = Path(__file__).parents[2]
DOMAIN = ROOT / "tests" / "data" / "tiny_domain"
MODULES = {"tacit-fleet": "aggregator.cli", "tacit-device": "edge_client.cli", "tacit-privacy": "privacy.cli"}
QUICK = ("--heartbeat-s", "10", "--poll-s", "0.5")
BRISK = Path(__file__).with_name("brisk.py")


def command_of(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", MODULES[program], *map(str, arguments)]


@dataclass
class Terminal:
    """One program that keeps running, and what it has printed so far."""

    process: subprocess.Popen[bytes]
    output: Path

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def await_text(self, pattern: str, timeout_s: float = 90.0) -> str:
        """Wait until a line matches; fails at once when the program has ended without it."""
        give_up_s = time.monotonic() + timeout_s
        while True:
            ended = self.process.poll() is not None
            if found := re.search(pattern, self.text(), re.MULTILINE):
                return found[0]
            assert not ended, f"it ended with {self.process.returncode} and never said {pattern!r}:\n{self.text()}"
            assert time.monotonic() < give_up_s, f"it has not said {pattern!r} within {timeout_s} s:\n{self.text()}"
            time.sleep(0.1)

    def await_end(self, timeout_s: float = 120.0) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(30.0)


@dataclass
class Deployed:
    """A fleet's folder and its devices under `folder`; commands run there."""

    folder: Path
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    brisk: bool = False
    """Agents wait little and train without torch (see brisk.py), for tests of what happens to rounds and not in them."""

    @property
    def fleet(self) -> Path:
        return self.folder / "fleet"

    def run(self, program: str, *arguments: object, typed: str = "", expect: int = 0, timeout_s: float = 120.0) -> str:
        """Type one command; returns what it printed, both streams. Fails on another exit status than `expect`."""
        done = subprocess.run(
            command_of(program, *arguments),
            input=typed,
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=timeout_s,
            env=self._environment(),
        )
        said = done.stdout + done.stderr
        assert done.returncode == expect, f"{program} {arguments} ended with {done.returncode}:\n{said}"
        assert "Traceback" not in said
        return said

    def terminal(self, name: str, program: str, *arguments: object) -> AbstractContextManager[Terminal]:
        """A program that is left running, in a terminal of its own; it is ended at the end."""
        return self._left_running(name, command_of(program, *arguments))

    @contextmanager
    def _left_running(self, name: str, command: Sequence[str]) -> Iterator[Terminal]:
        output = self.folder / f"{name}.out"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environment(),
            )
        try:
            yield Terminal(process, output)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(25.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    # -- the officer and the central team ---------------------------------------------------------------------------

    def set_up(self, *, domain: Path = DOMAIN, population: int = 2000, trusted: bool = False, **limits: object) -> None:
        """Officer's key, enrolment authority, fleet's folder, signed policy in force: secure sums with γ = 0 (fleets are tiny),
        or the mode `trusted-aggregator`.

        `limits` are options of `policy init`.
        """
        self.run("tacit-privacy", "keys", "new", "officer")
        self.run("tacit-privacy", "enrolment", "keys", "authority")
        self.run("tacit-fleet", "init", "fleet", "--officer", "officer.pub", "--domain", domain)
        options = {"min_survivors": 2, "participations": 8, **limits}
        self.run(
            *("tacit-privacy", "policy", "init", "--fleet", "fleet", "--aggregator", "fleet/keys/aggregator.pub"),
            *("--population", population),
            *(
                ("--mode", "trusted-aggregator")
                if trusted
                else ("--enrolment-key", "authority/enrolment.pub", "--colluding-share", 0)
            ),
            *(part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)),
        )
        self.run("tacit-privacy", "policy", "sign", "policy.yaml", "--key", "officer.key")
        self.run("tacit-fleet", "policy", "fleet", "policy.signed.json")

    def serve(self, name: str = "serve", timeout_s: float = 30.0) -> AbstractContextManager[Terminal]:
        """The fleet's own terminal. A server that was killed may hold the port for a moment: its end is waited for."""
        give_up_s = time.monotonic() + timeout_s
        while not port_is_free(self.port):
            assert time.monotonic() < give_up_s, f"port {self.port} is still taken after {timeout_s} s"
            time.sleep(0.05)
        return self.terminal(name, "tacit-fleet", "serve", "fleet", "--port", self.port)

    def status(self) -> dict[str, object]:
        return json.loads(self.run("tacit-fleet", "status", "fleet", "--json"))

    def await_online(self, count: int, timeout_s: float = 90.0) -> None:
        give_up_s = time.monotonic() + timeout_s
        while (devices := self.status()["devices"])["online"] < count:  # type: ignore[index]
            assert time.monotonic() < give_up_s, devices

    def ledger(self) -> list[dict[str, object]]:
        """The exported ledger, once the officer's own command has verified it: (kind, body) as written."""
        self.run("tacit-fleet", "ledger", "fleet", "--out", "ledger.jsonl")
        self.run("tacit-privacy", "ledger", "verify", "ledger.jsonl", "--officer", "officer.pub")
        from privacy.ledger import read_entries
        from privacy.reports import read_ledger

        entries = [entry for _, entry in read_entries(read_ledger(self.folder / "ledger.jsonl"))]
        return [{"kind": entry.kind, "body": entry.body} for entry in entries]

    # -- devices ----------------------------------------------------------------------------------------------------

    def device(self, name: str, command: str, *arguments: object, typed: str = "", expect: int = 0) -> str:
        """`tacit-device` of the device `name`."""
        return self.run("tacit-device", command, *arguments, *self._of(name), typed=typed, expect=expect)

    def enrol(self, names: Sequence[str], phrases: Callable[[str], Sequence[tuple[str, str]]] | None = None) -> None:
        """Devices with consent, feedback given in a chat, and keys that the fleet admits."""
        for name in names:
            (self.folder / f"{name}.key").write_text(secrets.token_hex(32))
            self.device(name, "consent", "grant", "personal-learning", "intent-model", "--bundle", "fleet/bundle")
            said = phrases(name) if phrases else [("how long may I keep this novel", "renew_loan")]
            typed = "".join(f"{text}\n/meant {intent}\n" for text, intent in said)
            answer = self.device(name, "chat", typed=typed)
            assert answer.count("kept on this device") == len(said), answer
            address = f"127.0.0.1:{self.port}"
            self.device(name, "enrol", "--fleet", address, "--ca", "fleet/ca.pem", "--out", f"{name}.pem")
            self.run(
                *(
                    "tacit-privacy",
                    "enrolment",
                    "certify",
                    "--authority",
                    "authority",
                    "--fleet",
                    "fleet",
                    "--user",
                    name,
                ),
                *("--identity", f"{name}.identity", "--out", f"{name}.cert"),
            )
            assert "Certified for fleet fleet" in self.device(name, "certificate", f"{name}.cert")
        self.run("tacit-fleet", "enrol", "fleet", *(f"{name}.pem" for name in names))

    def agent(self, name: str, *options: object) -> AbstractContextManager[Terminal]:
        arguments = (*QUICK, "--log", f"{name}.log", "--log-level", "DEBUG", *options, *self._of(name))
        command = command_of("tacit-device", "agent", *arguments)
        if self.brisk:
            command = [sys.executable, str(BRISK), "agent", *map(str, arguments)]
        return self._left_running(f"agent-{name}", command)

    def _of(self, name: str) -> tuple[str, ...]:
        return ("--home", f"device-{name}", "--key-file", f"{name}.key")

    def _environment(self) -> dict[str, str]:
        search = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(search), "PYTHONUTF8": "1", **self.environment}


@contextmanager
def agents_ready(deployed: Deployed, names: Sequence[str], *options: object) -> Iterator[list[Terminal]]:
    """Agents of all these devices, each in its own terminal, online."""
    with ExitStack() as stack:
        running = [stack.enter_context(deployed.agent(name, *options)) for name in names]
        for one in running:
            one.await_text(r"^ready$")
        yield running


def server_app_pids(deployed: Deployed) -> list[int]:
    """Processes of Flower that run this fleet's ServerApp."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command, environment = path.read_bytes(), (path.parent / "environ").read_bytes()
        except OSError:
            continue
        if b"flwr-serverapp" in command and str(deployed.fleet / "superlink").encode() in environment:
            found.append(int(path.parent.name))
    return found
