"""One agent child and its pipe: start it with a clean environment, exchange frames with time limits, end it.

What the frames mean is in `process`. The child sees none of the owner's environment but what a Python process needs.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from edge_client.share.agent.pipe import Frame, read_frame, skip_preamble, write_frame
from shared_models.errors import AgentError, TacitError, WireError
from shared_models.telemetry import TELEMETRY_OFF

logger = logging.getLogger(__name__)

TICK_S = 0.2
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV")
_SOURCE_ROOT = Path(__file__).resolve().parents[3]


class AgentChannel:
    """The process and its pipe; a thread reads its frames."""

    def __init__(self, command: Sequence[str], home: str, log_path: Path | None) -> None:
        log: Any = subprocess.DEVNULL
        if log_path is not None:
            log = log_path.open("ab")
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=_environment(home), cwd=home
            )
        finally:
            if log_path is not None:
                log.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._stdout: BinaryIO = self._process.stdout  # type: ignore[assignment]
        self._write = threading.Lock()
        self._frames: queue.Queue[Frame | WireError | str | None] = queue.Queue(maxsize=4)
        self._killed = threading.Event()
        threading.Thread(target=self._read, name="agent-pipe", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, frame: Frame) -> None:
        """Raises OSError if the child is gone."""
        try:
            with self._write:
                write_frame(self._stdin, frame)
        except ValueError as error:
            if isinstance(error, TacitError):
                raise
            raise BrokenPipeError("the agent's pipe is closed") from error

    def expect_preamble(self, timeout_s: float) -> None:
        if self._next(timeout_s) != "preamble":
            raise AgentError("the agent ended before it had started")

    def receive(self, timeout_s: float | None) -> Frame | None:
        """The next frame; None once the child has closed its end. Raises WireError for garbage, AgentError when time is up."""
        item = self._next(timeout_s)
        assert not isinstance(item, str)
        return item

    def end(self, grace_s: float) -> None:
        """Ask for the end, then insist."""
        try:
            self.send(Frame("stop"))
            self._stdin.close()
        except (OSError, ValueError):
            logger.debug("the agent has ended already")
        self.wait(grace_s)
        self.kill()

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._killed.set()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout):
            try:
                stream.close()
            except OSError:
                logger.debug("the agent's pipe was broken")

    def _next(self, timeout_s: float | None) -> Frame | str | None:
        give_up_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                item = self._frames.get(timeout=_tick_s(give_up_s))
                break
            except queue.Empty:
                if self._killed.is_set():
                    return None
                if give_up_s is not None and time.monotonic() >= give_up_s:
                    raise AgentError(f"the agent has not answered within {timeout_s} s") from None
        if isinstance(item, WireError):
            raise item
        return item

    def _read(self) -> None:
        try:
            skip_preamble(self._stdout)
            self._put("preamble")
            while (frame := read_frame(self._stdout)) is not None:
                self._put(frame)
            self._put(None)
        except WireError as error:
            self._put(error)
        except (OSError, ValueError):
            # Closed under our hands by kill().
            self._put(None)

    def _put(self, item: Frame | WireError | str | None) -> None:
        while not self._killed.is_set():
            try:
                self._frames.put(item, timeout=TICK_S)
                return
            except queue.Full:
                continue


def _tick_s(give_up_s: float | None) -> float:
    """Short enough that a kill from another thread is noticed."""
    return TICK_S if give_up_s is None else max(0.0, min(TICK_S, give_up_s - time.monotonic()))


def _environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    search = [str(_SOURCE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **kept,
        **TELEMETRY_OFF,
        "HOME": home,
        "USERPROFILE": home,
        "FLWR_HOME": str(Path(home, "flwr")),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(search),
        "PYTHONUTF8": "1",
    }
