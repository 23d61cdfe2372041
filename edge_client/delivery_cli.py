"""`tacit-device delivery`: what the assistant would say by itself and has said, and what the user has to say about that."""

from __future__ import annotations

import argparse
import json
from typing import Any

from shared_models.errors import ConfigError

ACTIONS = ("show", "stop", "restore", "quiet")


def arguments_delivery(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS, nargs="?", default="show")
    parser.add_argument(
        "what",
        nargs="*",
        metavar="WHAT",
        help="stop, restore: all, a topic, or channel/notification; quiet: hours such as 22:00-07:00, `none`, or `night`",
    )
    parser.add_argument("--json", action="store_true", help="show: as JSON")


def run_delivery(options: argparse.Namespace) -> int:
    from edge_client.cli import opened_without_model

    if options.action == "show" and options.what:
        raise ConfigError("show takes nothing more")
    if options.action == "quiet" and not options.what:
        raise ConfigError("which hours? Such as 22:00-07:00, none, or night")
    with opened_without_model(options) as client:
        room = client.delivery
        if options.action == "stop":
            for what in options.what or ["all"]:
                room.stop(what)
        elif options.action == "restore":
            for what in options.what or ["all"]:
                room.restore(what)
        elif options.action == "quiet":
            room.set_quiet_hours({"none": [], "night": None}.get(options.what[0], options.what))
        document = room.document()
    if options.json:
        print(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    _show(document)
    return 0


def _show(document: dict[str, Any]) -> None:
    from edge_client.chat import spoken_time

    by_user = "" if document["quiet_hours_by_user"] else " (until you say otherwise)"
    print(f"quiet     {', '.join(document['quiet_hours']) or 'never'}{by_user}")
    print(f"stopped   {', '.join(document['stopped']) or 'nothing'}")
    for plan in document["pending"]:
        print(f"planned   {plan['topic']:20} {plan['place']:20} from {spoken_time(plan['due_s'])}")
    for said in document["delivered"]:
        outcome = said["outcome"] or "no outcome yet"
        print(f"said      {spoken_time(said['at_s'])} {said['channel']:13} {outcome:15} {said['text']}")
