"""What each system says, as its programs really print it, and what becomes of an answer that is missing, late or garbage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.share import probes as probes_module
from edge_client.share.probes import GivenProbes, Network, Power, Readings, look, run_program, system_probes
from edge_client.share.probes_linux import LinuxProbes
from edge_client.share.probes_macos import MacProbes
from edge_client.share.probes_windows import COST_KEPT_S, WindowsProbes

ROOT = Path(__file__).parents[2]
NOW_S = 1_800_000_000.0
DESKTOP = {"DISPLAY": ":0", "XDG_RUNTIME_DIR": "/run/user/1000"}


class Programs:
    """Answers of programs by the words that their command holds; what is not named is not installed."""

    def __init__(self, **answers: str | None) -> None:
        self._answers = answers
        self.asked: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str]) -> str | None:
        self.asked.append(command)
        for name, answer in self._answers.items():
            if any(name in word for word in command):
                return answer
        return None


def linux(folder: Path | None = None, environment: dict[str, str] | None = None, **answers: str | None) -> LinuxProbes:
    return LinuxProbes(
        power_folder=folder or Path("/no/such/folder"),
        run=Programs(**answers),
        clock=lambda: NOW_S,
        environment=DESKTOP if environment is None else environment,
    )


def supplies(folder: Path, **each: dict[str, str]) -> Path:
    for name, fields in each.items():
        (folder / name).mkdir()
        for field, value in fields.items():
            (folder / name / field).write_text(value + "\n")
    return folder


# -- Linux -----------------------------------------------------------------------------------------------------------

BATTERY = {"type": "Battery", "scope": "System"}


@pytest.mark.parametrize(
    ("each", "power"),
    [
        ({"AC": {"type": "Mains", "online": "1"}, "BAT0": BATTERY | {"status": "Charging"}}, Power.MAINS),
        ({"AC": {"type": "Mains", "online": "1"}, "BAT0": BATTERY | {"status": "Not charging"}}, Power.MAINS),
        ({"AC": {"type": "Mains", "online": "0"}, "BAT0": BATTERY | {"status": "Discharging"}}, Power.BATTERY),
        ({"usb": {"type": "USB", "online": "1"}, "BAT0": BATTERY | {"status": "Full"}}, Power.MAINS),
        ({"BAT0": BATTERY | {"status": "Full"}}, Power.MAINS),
        ({"BAT0": BATTERY | {"status": "Full"}, "BAT1": BATTERY | {"status": "Discharging"}}, Power.BATTERY),
        ({"BAT0": {"type": "Battery", "status": "Unknown"}}, Power.UNKNOWN),
        ({"BAT0": {"type": "Battery"}}, Power.UNKNOWN),
        ({"ups": {"type": "UPS", "status": "Discharging"}}, Power.BATTERY),
        # A mouse on the desk of a machine without a battery of its own.
        ({"hidpp_0": {"type": "Battery", "scope": "Device", "status": "Discharging"}}, Power.MAINS),
        ({"AC": {"type": "Mains", "online": "0"}}, Power.MAINS),
        ({}, Power.MAINS),
    ],
)
def test_linux_power_is_what_the_kernel_lists(tmp_path: Path, each: dict[str, dict[str, str]], power: Power) -> None:
    assert linux(supplies(tmp_path, **each)).power() is power


def test_linux_without_the_kernels_list_does_not_know_the_power() -> None:
    assert linux().power() is Power.UNKNOWN


@pytest.mark.parametrize(
    ("said", "network"),
    [
        ("u 1\n", Network.METERED),
        ("u 2\n", Network.UNMETERED),
        ("u 3\n", Network.METERED),
        ("u 4\n", Network.UNMETERED),
        ("u 0\n", Network.UNKNOWN),
        ("u 77\n", Network.UNKNOWN),
        ('s "yes"\n', Network.UNKNOWN),
        ("", Network.UNKNOWN),
        ("x" * 50_000, Network.UNKNOWN),
    ],
)
def test_linux_network_is_what_networkmanager_says_on_the_bus(said: str, network: Network) -> None:
    assert linux(busctl=said, nmcli="GENERAL.STATE:100 (connected)\nGENERAL.METERED:yes\n").network() is network


@pytest.mark.parametrize(
    ("said", "network"),
    [
        ("GENERAL.STATE:100 (connected)\nGENERAL.METERED:no (guessed)\n", Network.UNMETERED),
        ("GENERAL.STATE:100 (connected)\nGENERAL.METERED:yes (guessed)\n", Network.METERED),
        (
            "GENERAL.STATE:100 (connected)\nGENERAL.METERED:no\n\nGENERAL.STATE:30 (disconnected)\nGENERAL.METERED:yes\n",
            Network.UNMETERED,
        ),
        (
            "GENERAL.STATE:100 (connected)\nGENERAL.METERED:no\n\nGENERAL.STATE:100 (connected)\nGENERAL.METERED:yes\n",
            Network.METERED,
        ),
        ("GENERAL.STATE:100 (connected)\nGENERAL.METERED:unknown\n", Network.UNKNOWN),
        ("GENERAL.STATE:20 (unavailable)\nGENERAL.METERED:no\n", Network.UNKNOWN),
        ("Error: NetworkManager is not running.\n", Network.UNKNOWN),
    ],
)
def test_linux_without_busctl_asks_nmcli(said: str, network: Network) -> None:
    assert linux(nmcli=said).network() is network


def test_linux_presence_comes_from_the_desktop_then_x_then_logind() -> None:
    everything = {
        "Mutter": "t 61500\n",
        "ScreenSaver": "u 5000\n",
        "xprintidle": "4000\n",
        "loginctl": "IdleHint=yes\nIdleSinceHint=1799999940000000\n",
    }
    found = []
    for name in list(everything):
        found.append(linux(**everything).idle_s())
        del everything[name]
    assert found == [61.5, 5.0, 4.0, 60.0]
    assert linux().idle_s() is None


def test_linux_without_a_session_asks_no_desktop() -> None:
    programs = Programs(loginctl="IdleHint=no\nIdleSinceHint=0\n", Mutter="t 1\n", xprintidle="1\n")
    assert LinuxProbes(run=programs, environment={}).idle_s() == 0.0
    assert [command[0] for command in programs.asked] == ["loginctl"]


@pytest.mark.parametrize(
    ("said", "idle_s"),
    [
        ("IdleHint=no\nIdleSinceHint=1799999940000000\n", 0.0),
        ("IdleHint=yes\nIdleSinceHint=0\n", NOW_S),  # nobody has been here since the machine was started
        ("IdleHint=yes\nIdleSinceHint=1900000000000000\n", 0.0),
        ("IdleHint=yes\n", None),
        ("IdleHint=yes\nIdleSinceHint=soon\n", None),
        ("IdleHint=yes\nIdleSinceHint=" + "9" * 5000, None),
        ("Failed to look up user 1000: No such process", None),
        ("", None),
    ],
)
def test_linux_reads_logind_with_care(said: str, idle_s: float | None) -> None:
    assert linux(environment={}, loginctl=said).idle_s() == idle_s


# -- macOS -----------------------------------------------------------------------------------------------------------

PMSET = """Now drawing from '{}'
 -InternalBattery-0 (id=4653155)\t87%; discharging; 4:12 remaining present: true
"""
IOREG = """+-o IOHIDSystem  <class IOHIDSystem, id 0x100000434, registered, matched, active, busy 0 (0 ms), retain 30>
    {
      "IOClass" = "IOHIDSystem"
      "HIDIdleTime" = 125041458
      "HIDParameters" = {"HIDClickTime"=500000000,"HIDIdleTimeOther"=7}
    }
"""


@pytest.mark.parametrize(
    ("source", "power"),
    [
        ("AC Power", Power.MAINS),
        ("Battery Power", Power.BATTERY),
        ("UPS Power", Power.BATTERY),
        ("Sun", Power.UNKNOWN),
    ],
)
def test_macos_power_is_what_pmset_draws_from(source: str, power: Power) -> None:
    assert MacProbes(run=Programs(pmset=PMSET.format(source))).power() is power


def test_macos_presence_is_the_idle_time_of_the_hid_system() -> None:
    assert MacProbes(run=Programs(ioreg=IOREG)).idle_s() == 0.125041458
    assert MacProbes(run=Programs(ioreg=IOREG + IOREG.replace("125041458", "99000000000"))).idle_s() == 0.125041458


def test_macos_that_says_nothing_is_unknown() -> None:
    assert look(MacProbes(run=Programs())) == Readings(None, Power.UNKNOWN, Network.UNKNOWN)


# -- Windows ---------------------------------------------------------------------------------------------------------


class Calls:
    def __init__(self, ticks: tuple[int, int] | None = (100_000, 40_000), line: int | None = 1) -> None:
        self._ticks, self._line = ticks, line

    def ticks_ms(self) -> tuple[int, int] | None:
        return self._ticks

    def line_status(self) -> int | None:
        return self._line


@pytest.mark.parametrize(
    ("ticks", "idle_s"),
    [((100_000, 40_000), 60.0), ((5, 5), 0.0), ((1_000, 2**32 - 1_000), 2.0), (None, None)],
)
def test_windows_presence_counts_over_the_wrap_of_its_clock(
    ticks: tuple[int, int] | None, idle_s: float | None
) -> None:
    assert WindowsProbes(calls=Calls(ticks)).idle_s() == idle_s


@pytest.mark.parametrize(
    ("line", "power"),
    [(0, Power.BATTERY), (1, Power.MAINS), (255, Power.UNKNOWN), (None, Power.UNKNOWN)],
)
def test_windows_power_is_the_line_status(line: int | None, power: Power) -> None:
    assert WindowsProbes(calls=Calls(line=line)).power() is power


@pytest.mark.parametrize(
    ("said", "network"),
    [
        ("Unrestricted False\r\n", Network.UNMETERED),
        ("Fixed False\r\n", Network.METERED),
        ("Variable False\r\n", Network.METERED),
        ("Unrestricted True\r\n", Network.METERED),  # roaming
        ("Unknown False\r\n", Network.UNKNOWN),
        ("", Network.UNKNOWN),
        (None, Network.UNKNOWN),
    ],
)
def test_windows_network_is_the_cost_of_the_internet_profile(said: str | None, network: Network) -> None:
    assert WindowsProbes(calls=Calls(), run=Programs(powershell=said)).network() is network


def test_windows_asks_powershell_once_a_minute() -> None:
    now_s = [1000.0]
    programs = Programs(powershell="Unrestricted False")
    probes = WindowsProbes(calls=Calls(), run=programs, monotonic=lambda: now_s[0])
    for _ in range(3):
        probes.network()
    assert len(programs.asked) == 1
    now_s[0] += COST_KEPT_S
    probes.network()
    assert len(programs.asked) == 2


def test_windows_calls_on_another_system_are_unknown() -> None:
    if sys.platform != "win32":
        assert look(WindowsProbes(run=Programs())) == Readings(None, Power.UNKNOWN, Network.UNKNOWN)


# -- all of them -----------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200) | st.none())
def test_no_answer_of_any_program_breaks_a_probe(said: str | None) -> None:
    def everywhere(command: Sequence[str]) -> str | None:
        return said

    for probes in (
        LinuxProbes(power_folder=Path("/no/such/folder"), run=everywhere, environment=DESKTOP),
        MacProbes(run=everywhere),
        WindowsProbes(calls=Calls(), run=everywhere),
    ):
        assert isinstance(probes.power(), Power)
        assert isinstance(probes.network(), Network)
        idle_s = probes.idle_s()
        assert idle_s is None or idle_s >= 0


def test_the_probes_of_this_very_system_answer() -> None:
    readings = look(system_probes())
    assert isinstance(readings.power, Power)
    assert isinstance(readings.network, Network)
    assert readings.document()["idle_s"] == "unknown" or readings.idle_s is not None


@pytest.mark.parametrize(
    ("platform", "kind"),
    [("linux", LinuxProbes), ("darwin", MacProbes), ("win32", WindowsProbes), ("emscripten", GivenProbes)],
)
def test_each_system_gets_its_own_probes(platform: str, kind: type[Any]) -> None:
    assert type(system_probes(platform)) is kind


@pytest.mark.parametrize(
    "program",
    ["raise SystemExit(1)", "import time; time.sleep(60)", "import os; os.kill(os.getpid(), 9)"],
)
def test_a_program_that_fails_or_hangs_has_said_nothing(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "PROGRAM_LIMIT_S", 0.5)
    assert run_program([sys.executable, "-c", program]) is None


def test_a_program_that_is_not_there_has_said_nothing() -> None:
    assert run_program(["/no/such/program"]) is None
    assert run_program(["\0"]) is None


def test_real_programs_found_on_the_path_are_asked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, says: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\nimport sys\nif {says!r} in sys.argv: print('u 4')\nelse: sys.exit(1)\n")
        path.chmod(0o755)

    install("busctl", "Metered")
    monkeypatch.setenv("PATH", str(tmp_path))
    probes = LinuxProbes(power_folder=tmp_path / "none", environment={})
    assert look(probes) == Readings(None, Power.UNKNOWN, Network.UNMETERED)


def test_probes_and_schedule_are_light_and_load_no_other_systems_file() -> None:
    code = (
        "import sys; import edge_client.share.scheduler, edge_client.share.scheduled_port, edge_client.share.presence\n"
        "from edge_client.share.probes import system_probes; system_probes()\n"
        "heavy = {'torch', 'flwr', 'opacus', 'grpc', 'httpx', 'scipy', 'fastapi', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert len([name for name in sys.modules if 'share.probes_' in name]) <= 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
