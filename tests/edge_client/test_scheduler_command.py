"""The schedule at the command line: options that say when to train, and a pause that is kept."""

from __future__ import annotations

import argparse
import json
from datetime import time
from pathlib import Path

import pytest

from edge_client.cli import common_options
from edge_client.share.cli import arguments_agent
from edge_client.share.schedule_cli import arguments_schedule, run_schedule, schedule_rules
from edge_client.share.schedule_rules import QuietHours, ScheduleRules
from shared_models.errors import ConfigError


def rules(*given: str) -> ScheduleRules:
    parser = argparse.ArgumentParser()
    arguments_agent(parser)
    return schedule_rules(parser.parse_args(given))


def schedule(home: Path, *given: str) -> int:
    parser = argparse.ArgumentParser(parents=[common_options()])
    arguments_schedule(parser)
    key = home.with_suffix(".key")
    key.write_bytes(bytes(32))
    return run_schedule(parser.parse_args([*given, "--home", str(home), "--key-file", str(key)]))


def test_an_agent_that_somebody_starts_trains_at_once_but_on_mains_and_unmetered() -> None:
    assert rules() == ScheduleRules(idle_s=None)


def test_each_option_is_one_rule() -> None:
    assert rules(
        *("--only-when-idle", "10", "--allow-battery", "--allow-metered", "--separation-minutes", "90"),
        *("--quiet-hours", "22:00-07:00", "--quiet-hours", "12:00-13:30", "--time-zone", "Europe/Berlin"),
        *("--when-unknown", "wait"),
    ) == ScheduleRules(
        idle_s=600.0,
        on_battery=True,
        on_metered=True,
        quiet_hours=(QuietHours(time(22), time(7)), QuietHours(time(12), time(13, 30))),
        min_separation_s=5400.0,
        zone="Europe/Berlin",
        unknown_idle=False,
        unknown_power=False,
        unknown_network=False,
    )
    assert rules("--only-when-idle") == ScheduleRules(idle_s=300.0)


@pytest.mark.parametrize(
    "given",
    [
        ("--quiet-hours", "22-7"),
        ("--only-when-idle", "nan"),
        ("--only-when-idle", "-1"),
        ("--separation-minutes", "inf"),
        ("--time-zone", "Middle/Earth"),
    ],
)
def test_options_that_cannot_work_are_one_clear_error(given: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        rules(*given)


def test_a_pause_is_kept_shown_and_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert schedule(home, "pause") == 0
    assert "paused   until resumed" in capsys.readouterr().out
    assert schedule(home, "show", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["paused"] == {"until_s": None}
    assert document["may_connect"] is False
    schedule(home, "pause", "--hours", "2")
    assert "UTC" in capsys.readouterr().out
    schedule(home, "resume")
    assert "paused   no" in capsys.readouterr().out
    schedule(home, "show")
    assert "device   not used for" in capsys.readouterr().out


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "1e9"])
def test_hours_that_are_none_are_one_clear_error(tmp_path: Path, hours: str) -> None:
    with pytest.raises(ConfigError, match="--hours"):
        schedule(tmp_path / "home", "pause", "--hours", hours)
