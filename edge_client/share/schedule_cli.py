"""The schedule at the command line: the options of `tacit-device agent` that say when to train, and `tacit-device schedule`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from edge_client.chat import spoken_time
from edge_client.cli import opened_without_model
from edge_client.share.probes import system_probes
from edge_client.share.schedule_rules import QuietHours, ScheduleRules
from edge_client.share.scheduler import SCHEDULE_TABLE, Scheduler, kept_rules
from shared_models.errors import ConfigError

MINUTE_S, HOUR_S = 60.0, 3600.0
MOST_PAUSE_HOURS = 24 * 366.0
UNKNOWN_TRAINS, UNKNOWN_WAITS = "train", "wait"


def arguments_when(parser: argparse.ArgumentParser) -> None:
    when = parser.add_argument_group(
        "when to train", "An invitation is always answered: with zeros, where these say that nothing is trained now."
    )
    when.add_argument(
        "--only-when-idle",
        type=float,
        nargs="?",
        const=5.0,
        metavar="MINUTES",
        help="only after nobody used the device for so long (5), and stop at once when somebody does",
    )
    when.add_argument(
        "--quiet-hours",
        action="append",
        default=[],
        metavar="HH:MM-HH:MM",
        help="never in these hours of the day; may be given several times",
    )
    when.add_argument("--time-zone", metavar="NAME", help="of the quiet hours (default: the system's)")
    when.add_argument("--allow-battery", action="store_true", help="train without mains power too")
    when.add_argument("--allow-metered", action="store_true", help="be online, and train, on metered networks too")
    when.add_argument("--separation-minutes", type=float, default=0.0, metavar="N", help="least time between trainings")
    when.add_argument(
        "--when-unknown",
        choices=(UNKNOWN_TRAINS, UNKNOWN_WAITS),
        default=UNKNOWN_TRAINS,
        help="what to do where the system cannot say whether it is idle, charging or metered",
    )


def schedule_rules(options: argparse.Namespace) -> ScheduleRules:
    """The rules that the options of `agent` say. Raises ConfigError."""
    unknown = options.when_unknown == UNKNOWN_TRAINS
    return ScheduleRules(
        idle_s=None if options.only_when_idle is None else options.only_when_idle * MINUTE_S,
        on_battery=options.allow_battery,
        on_metered=options.allow_metered,
        quiet_hours=tuple(QuietHours.parse(hours) for hours in options.quiet_hours),
        min_separation_s=options.separation_minutes * MINUTE_S,
        zone=options.time_zone,
        unknown_idle=unknown,
        unknown_power=unknown,
        unknown_network=unknown,
    )


def arguments_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("show", "pause", "resume"))
    parser.add_argument("--hours", type=float, metavar="N", help="pause for so long (default: until resumed)")
    parser.add_argument("--json", action="store_true", help="show as JSON")


def run_schedule(options: argparse.Namespace) -> int:
    """Pause and resume are kept. The rules are those that `agent` worked by last."""
    if options.hours is not None and not 0.0 < options.hours <= MOST_PAUSE_HOURS:
        raise ConfigError(f"--hours is {options.hours}, expected more than 0 and at most {MOST_PAUSE_HOURS:.0f}")
    with opened_without_model(options) as client:
        memory = client.store.table(SCHEDULE_TABLE)
        scheduler = Scheduler(kept_rules(memory), system_probes(), client.config.clock, memory)
        if options.action == "pause":
            scheduler.pause(None if options.hours is None else client.config.clock() + options.hours * HOUR_S)
        elif options.action == "resume":
            scheduler.resume()
        document = scheduler.document()
    if options.json:
        print(json.dumps(document, indent=2))
        return 0
    for line in schedule_lines(document):
        print(line)
    return 0


def schedule_lines(document: Mapping[str, Any]) -> list[str]:
    """A schedule's document in words."""
    readings, last = document["readings"], document["last"]
    idle_s = readings["idle_s"]
    away = idle_s if isinstance(idle_s, str) else f"{idle_s / MINUTE_S:.0f} minutes"
    now = "it may be trained now" if document["may_train"] else f"not now: {', '.join(document['reasons'])}"
    lines = [
        f"training {now}",
        f"device   not used for {away}, power {readings['power']}, network {readings['network']}",
    ]
    if document["paused"] is None:
        lines.append("paused   no")
    else:
        until_s = document["paused"]["until_s"]
        lines.append(f"paused   until {'resumed' if until_s is None else spoken_time(until_s)}")
    if last is not None:
        why = f": {', '.join(last['reasons'])}" if last["reasons"] else ""
        lines.append(f"last     {spoken_time(last['at_s'])} {last['purpose']} {last['outcome']}{why}")
    return lines
