"""macOS: power from `pmset`, presence from the HID system. The network's cost is unknown: no program of the system tells it."""

from __future__ import annotations

import re

from edge_client.share.probes import Network, Power, RunProgram, run_program

_DRAWN_FROM = re.compile(r"Now drawing from '([^']*)'")
_HID_IDLE = re.compile(r'"HIDIdleTime" = (\d{1,19})\b', re.ASCII)


class MacProbes:
    """Implements `Probes`."""

    def __init__(self, *, run: RunProgram = run_program) -> None:
        self._run = run

    def idle_s(self) -> float | None:
        """Since the last key, click or touch, in nanoseconds of IOHIDSystem; the smallest, if several systems answer."""
        said = self._run(["/usr/sbin/ioreg", "-c", "IOHIDSystem", "-r", "-d", "1"]) or ""
        found = [int(number) for number in _HID_IDLE.findall(said)]
        return min(found) / 1e9 if found else None

    def power(self) -> Power:
        found = _DRAWN_FROM.search(self._run(["/usr/bin/pmset", "-g", "batt"]) or "")
        if found is None:
            return Power.UNKNOWN
        # A UPS means that the mains are gone.
        return {"AC Power": Power.MAINS, "Battery Power": Power.BATTERY, "UPS Power": Power.BATTERY}.get(
            found[1], Power.UNKNOWN
        )

    def network(self) -> Network:
        return Network.UNKNOWN
