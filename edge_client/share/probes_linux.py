"""Linux: power from sysfs, presence from the desktop, X or logind, the network's cost from NetworkManager.

What is not there (a container, another init, no desktop) is `unknown`. The only thing that is inferred: a machine whose kernel
lists no battery runs on mains.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_client.share.probes import Network, Power, RunProgram, run_program

POWER_FOLDER = Path("/sys/class/power_supply")
_NETWORK_MANAGER = ("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager")
# NMMetered of NetworkManager's D-Bus API; a guess counts, as its documentation advises for `guess-yes`.
_METERED = {
    "1": Network.METERED,
    "2": Network.UNMETERED,
    "3": Network.METERED,
    "4": Network.UNMETERED,
}
# Who knows in milliseconds how long nobody touched the session: GNOME (X and Wayland), then KDE and others.
_SESSION_CLOCKS = (
    (
        "org.gnome.Mutter.IdleMonitor",
        "/org/gnome/Mutter/IdleMonitor/Core",
        "org.gnome.Mutter.IdleMonitor",
        "GetIdletime",
    ),
    (
        "org.freedesktop.ScreenSaver",
        "/org/freedesktop/ScreenSaver",
        "org.freedesktop.ScreenSaver",
        "GetSessionIdleTime",
    ),
)
_NUMBER = re.compile(r"[ut] (\d{1,18})\s*", re.ASCII)


class LinuxProbes:
    """Implements `Probes`."""

    def __init__(
        self,
        *,
        power_folder: Path = POWER_FOLDER,
        run: RunProgram = run_program,
        clock: Callable[[], float] = time.time,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._power_folder = power_folder
        self._run = run
        self._clock = clock
        self._environment = environment

    def idle_s(self) -> float | None:
        """From the first that knows: the desktop, `xprintidle` on X, logind (the desktop's hint, or when a terminal was used)."""
        for ask in (self._desktop_idle_s, self._x_idle_s, self._logind_idle_s):
            found = ask()
            if found is not None:
                return found
        return None

    def power(self) -> Power:
        try:
            supplies = [_supply(folder) for folder in sorted(self._power_folder.iterdir())]
        except OSError:
            return Power.UNKNOWN
        # A mouse or a headset has a battery too: its scope is the device, not the system.
        own = [supply for supply in supplies if supply.get("scope") != "Device"]
        batteries = [supply for supply in own if supply.get("type") in ("Battery", "UPS")]
        if any(
            supply.get("type") in ("Mains", "USB", "Wireless") and supply.get("online") in ("1", "2") for supply in own
        ):
            return Power.MAINS
        if not batteries:
            return Power.MAINS
        states = {supply.get("status") for supply in batteries}
        if "Discharging" in states:
            return Power.BATTERY
        return Power.MAINS if states & {"Charging", "Full", "Not charging"} else Power.UNKNOWN

    def network(self) -> Network:
        name, path = _NETWORK_MANAGER
        said = self._run(["busctl", "--system", "--timeout=1", "get-property", name, path, name, "Metered"])
        if said is not None:
            found = _NUMBER.fullmatch(said)
            return _METERED.get(found[1], Network.UNKNOWN) if found else Network.UNKNOWN
        return self._network_by_nmcli()

    def _network_by_nmcli(self) -> Network:
        # One line for each device; the state of what carries no traffic says nothing.
        said = self._run(
            ["nmcli", "--terse", "--escape", "no", "--fields", "GENERAL.STATE,GENERAL.METERED", "device", "show"]
        )
        found: set[Network] = set()
        connected = False
        for line in (said or "").splitlines():
            field, _, value = line.partition(":")
            if field == "GENERAL.STATE":
                connected = value.startswith("100")
            elif field == "GENERAL.METERED" and connected:
                answer = value.partition(" ")[0]
                found |= {{"yes": Network.METERED, "no": Network.UNMETERED}.get(answer, Network.UNKNOWN)}
        if Network.METERED in found:
            return Network.METERED
        return Network.UNMETERED if found == {Network.UNMETERED} else Network.UNKNOWN

    def _desktop_idle_s(self) -> float | None:
        if "DBUS_SESSION_BUS_ADDRESS" not in self._environment and "XDG_RUNTIME_DIR" not in self._environment:
            return None
        for name, path, interface, method in _SESSION_CLOCKS:
            said = self._run(
                ["busctl", "--user", "--timeout=1", "--auto-start=no", "call", name, path, interface, method]
            )
            found = _NUMBER.fullmatch(said) if said is not None else None
            if found:
                return int(found[1]) / 1000.0
        return None

    def _x_idle_s(self) -> float | None:
        if not self._environment.get("DISPLAY"):
            return None
        said = (self._run(["xprintidle"]) or "").strip()
        return int(said) / 1000.0 if said.isascii() and said.isdigit() and len(said) < 19 else None

    def _logind_idle_s(self) -> float | None:
        said = self._run(["loginctl", "show-user", str(os.getuid()), "--property=IdleHint", "--property=IdleSinceHint"])
        fields = dict(line.split("=", 1) for line in (said or "").splitlines() if "=" in line)
        if fields.get("IdleHint") == "no":
            return 0.0
        since_us = fields.get("IdleSinceHint", "")
        if fields.get("IdleHint") != "yes" or not since_us.isascii() or not since_us.isdigit() or len(since_us) > 18:
            return None
        return max(0.0, self._clock() - int(since_us) / 1e6)


def _supply(folder: Path) -> dict[str, str]:
    found = {}
    for name in ("type", "scope", "online", "status"):
        try:
            found[name] = (folder / name).read_text("ascii", "replace").strip()[:40]
        except OSError:
            continue
    return found
