"""A real SuperLink as a child process: TLS and node authentication on, telemetry off, on loopback only, gone when we are.

Fleet, Control and Runtime API share its one port, and whoever reaches Control can submit code: so it never listens on anything
but 127.0.0.1, and devices come through `aggregator.service.passthrough`.

    DIRECTORY/ca.pem server.pem server.key   see `certificates`
    DIRECTORY/superlink/state.db             nodes and runs; survives kill -9
    DIRECTORY/superlink/process.json         port and process id, while it runs
    DIRECTORY/superlink/superlink.log        its output
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import filelock
import httpx

from aggregator.certificates import FleetCertificates, create_fleet_ca, create_node_key
from aggregator.control import FleetControl
from aggregator.ports import LOOPBACK, free_port
from shared_models.errors import ConfigError, FleetError
from shared_models.telemetry import TELEMETRY_OFF

__all__ = ["SuperLink", "create_fleet_ca", "create_node_key", "flower_environment", "served_address"]

MAX_LOG_BYTES = 16 * 1024 * 1024
_KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "SYSTEMROOT",
    "TMPDIR",
    "TEMP",
    "TMP",
    "VIRTUAL_ENV",
    "PYTHONPATH",
)


_SOURCE_ROOT = Path(__file__).resolve().parents[1]


class SuperLink:
    """One fleet's SuperLink. Raises ConfigError if the fleet has no certificates; FleetError if it does not start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self.folder = self._directory / "superlink"
        self._certificates = FleetCertificates.of(self._directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = filelock.FileLock(self.folder / "lock", thread_local=False)
        self._port = 0

    @property
    def address(self) -> str:
        """HOST:PORT on loopback; the same over restarts of this object."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def authority_pem(self) -> bytes:
        return self._certificates.authority.read_bytes()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def control(self) -> FleetControl:
        return FleetControl(self.address, self.authority_pem)

    def start(self, timeout_s: float = 60.0) -> None:
        """Start and wait until it answers. Raises FleetError; nothing is left running then."""
        if self.alive:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if not self._lock.is_locked:
                self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise FleetError(f"{self._directory}: this fleet is being served by another process") from error
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be written: {error.strerror}") from error
        try:
            self._port = self._port or free_port()
            self._process = self._spawn()
            self._await_health(timeout_s)
            record = {"port": self._port, "pid": self._process.pid}
            temporary = self.folder / "process.json.new"
            temporary.write_text(json.dumps(record), encoding="ascii")
            temporary.replace(self.folder / "process.json")
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_s: float = 10.0) -> None:
        """End it and all that it started, within about `grace_s`."""
        process, self._process = self._process, None
        if process is not None:
            family = _descendants(process.pid)
            if process.stdin is not None:
                process.stdin.close()  # aggregator.superlink_process takes this for the sign to end
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _end_all(family, grace_s=3.0)
        if self._lock.is_locked:  # else the file is another's
            (self.folder / "process.json").unlink(missing_ok=True)
            self._lock.release()

    def restart(self, timeout_s: float = 60.0) -> None:
        """Start again on the same port and database after it has died. Raises FleetError; it may be tried again."""
        self.stop()
        self.start(timeout_s)

    def healthy(self, timeout_s: float = 5.0) -> bool:
        """Whether it answers over TLS."""
        try:
            with httpx.Client(verify=self._trust(), timeout=timeout_s, trust_env=False) as client:
                return client.get(f"https://{self.address}/health").status_code == 200
        except (httpx.HTTPError, OSError):
            return False

    def __enter__(self) -> SuperLink:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- parts ----------------------------------------------------------------------------------------------------

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "aggregator.superlink_process"),
            *("--host", LOOPBACK, "--port", str(self._port)),
            *("--ssl-ca-certfile", str(self._certificates.authority)),
            *("--ssl-certfile", str(self._certificates.certificate)),
            *("--ssl-keyfile", str(self._certificates.key)),
            "--enable-supernode-auth",
            *("--database", str(self.folder / "state.db")),
            *("--isolation", "subprocess"),
            "--disable-runtime-dependency-installation",
        ]
        log_path = self.folder / "superlink.log"
        if log_path.exists() and log_path.stat().st_size > MAX_LOG_BYTES:
            log_path.replace(log_path.with_suffix(".log.1"))
        with log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=flower_environment(self.folder / "flwr"),
                start_new_session=True,
            )

    def _await_health(self, timeout_s: float) -> None:
        give_up_s = time.monotonic() + timeout_s
        assert self._process is not None
        while not self.healthy():
            if self._process.poll() is not None:
                raise FleetError(
                    f"the SuperLink ended with status {self._process.returncode}: {self._last_words()} "
                    f"(all of it in {self.folder / 'superlink.log'})"
                )
            if time.monotonic() > give_up_s:
                raise FleetError(f"the SuperLink does not answer after {timeout_s} s: {self._last_words()}")
            time.sleep(0.2)

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self._certificates.authority))

    def _last_words(self) -> str:
        lines = (self.folder / "superlink.log").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")


def served_address(directory: Path) -> str:
    """HOST:PORT of the SuperLink that serves `directory`. Raises FleetError if none does."""
    try:
        record = json.loads((directory / "superlink" / "process.json").read_text(encoding="ascii"))
        return f"{LOOPBACK}:{int(record['port'])}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FleetError(f"{directory}: this fleet is not being served; start `tacit-fleet serve`") from error


def flower_environment(home: Path) -> dict[str, str]:
    """Environment for Flower's own processes: telemetry off, a home of their own, Flower's commands on the path."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    scripts = str(Path(sys.executable).parent)
    search = [str(_SOURCE_ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        **TELEMETRY_OFF,
        "FLWR_HOME": str(home),
        "PATH": os.pathsep.join([scripts, kept.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(search),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }


def _descendants(pid: int) -> list[tuple[int, str]]:
    """(process id, start time) of all children's children, where /proc tells; elsewhere Flower's own parent watch must do."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _stat(path)
        if fields:
            parents.setdefault(int(fields[1]), []).append((int(path.parent.name), fields[19]))
    found: list[tuple[int, str]] = []
    generation = [pid]
    while generation:
        children = [child for parent in generation for child in parents.get(parent, [])]
        found += children
        generation = [child for child, _ in children]
    return found


def _stat(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _end_all(family: list[tuple[int, str]], grace_s: float) -> None:
    """Wait for them to end by themselves, then kill those that are still the same processes."""
    give_up_s = time.monotonic() + grace_s
    while True:
        left = [pid for pid, started in family if (_stat(Path(f"/proc/{pid}/stat")) or [""] * 20)[19] == started]
        if not left:
            return
        if time.monotonic() > give_up_s:
            break
        time.sleep(0.1)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
