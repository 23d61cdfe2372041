"""Windows: presence and power from user32 and kernel32, the network's cost from WinRT through PowerShell.

Asking PowerShell takes about a second, so its answer is kept for a minute. The two system calls are injected: what is made of
them can be tested anywhere.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any, Protocol

from edge_client.share.probes import Network, Power, RunProgram, run_program

COST_KEPT_S = 60.0
_TICKS = 1 << 32
_COST_SCRIPT = (
    "$null = [Windows.Networking.Connectivity.NetworkInformation, Windows, ContentType = WindowsRuntime];"
    "$profile = [Windows.Networking.Connectivity.NetworkInformation]::GetInternetConnectionProfile();"
    "if ($profile) { $cost = $profile.GetConnectionCost(); '' + $cost.NetworkCostType + ' ' + $cost.Roaming }"
)


class SystemCalls(Protocol):
    """The part of the Windows API that is used; None is "the call failed"."""

    def ticks_ms(self) -> tuple[int, int] | None:
        """(now, at the last input): milliseconds since the start, modulo 2³²."""

    def line_status(self) -> int | None:
        """ACLineStatus: 0 offline, 1 online, 255 unknown."""


class WindowsProbes:
    """Implements `Probes`."""

    def __init__(
        self,
        *,
        calls: SystemCalls | None = None,
        run: RunProgram = run_program,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls or _Api()
        self._run = run
        self._monotonic = monotonic
        self._cost: tuple[float, Network] | None = None

    def idle_s(self) -> float | None:
        ticks = self._calls.ticks_ms()
        if ticks is None:
            return None
        now_ms, last_ms = ticks
        # Both clocks wrap around after 49.7 days.
        return ((now_ms - last_ms) % _TICKS) / 1000.0

    def power(self) -> Power:
        status = self._calls.line_status()
        return {0: Power.BATTERY, 1: Power.MAINS}.get(-1 if status is None else status, Power.UNKNOWN)

    def network(self) -> Network:
        now_s = self._monotonic()
        if self._cost is None or not 0 <= now_s - self._cost[0] < COST_KEPT_S:
            self._cost = (now_s, self._asked_cost())
        return self._cost[1]

    def _asked_cost(self) -> Network:
        said = self._run(["powershell.exe", "-NoProfile", "-NonInteractive", "-Command", _COST_SCRIPT]) or ""
        kind, _, roaming = said.strip().partition(" ")
        if roaming == "True" or kind in ("Fixed", "Variable"):
            return Network.METERED
        return Network.UNMETERED if kind == "Unrestricted" else Network.UNKNOWN


class _LastInput(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint32), ("time_ms", ctypes.c_uint32))


class _PowerStatus(ctypes.Structure):
    _fields_ = (
        ("line", ctypes.c_uint8),
        ("battery_flag", ctypes.c_uint8),
        ("battery_percent", ctypes.c_uint8),
        ("saver", ctypes.c_uint8),
        ("left_s", ctypes.c_uint32),
        ("full_s", ctypes.c_uint32),
    )


class _Api:
    """Implements `SystemCalls` by ctypes."""

    def ticks_ms(self) -> tuple[int, int] | None:
        windows = _libraries()
        last = _LastInput(ctypes.sizeof(_LastInput), 0)
        if not windows.user32.GetLastInputInfo(ctypes.byref(last)):
            return None
        return windows.kernel32.GetTickCount() % _TICKS, last.time_ms

    def line_status(self) -> int | None:
        status = _PowerStatus()
        return int(status.line) if _libraries().kernel32.GetSystemPowerStatus(ctypes.byref(status)) else None


def _libraries() -> Any:
    libraries: Any = getattr(ctypes, "windll", None)
    if libraries is None:
        raise OSError("this is not Windows")
    return libraries
