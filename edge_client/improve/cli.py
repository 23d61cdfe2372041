"""`tacit-device nightly`: do now what is done at night, show what it learned, or take that back."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

RUN, SHOW, RESET = "run", "show", "reset"


def arguments_nightly(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=(RUN, SHOW, RESET),
        default=RUN,
        help="run: now, without asking the schedule; show: what was learned; reset: forget what was learned of your words",
    )
    parser.add_argument("--json", action="store_true")


def run_nightly(options: argparse.Namespace) -> int:
    """1 if a step failed."""
    from edge_client.cli import open_client, opened_without_model

    if options.action == RUN:
        with open_client(options) as client:
            report = client.nightly()
        print(json.dumps(report.document(), indent=2) if options.json else "\n".join(night_lines(report.document())))
        return 1 if any(step.outcome == "failed" for step in report.steps) else 0
    with opened_without_model(options) as client:
        if options.action == RESET:
            there = client.improvement.reset()
            print("What was learned of your words is out of use and erased." if there else "Nothing was in use.")
            return 0
        document = client.improvement.document()
    print(json.dumps(document, indent=2) if options.json else "\n".join(shown_lines(document)))
    return 0


def night_lines(document: Mapping[str, Any]) -> list[str]:
    """A night's report in words."""
    return [f"{step['name']:14} {step['outcome']}: {step['words']}" for step in document["steps"]]


def shown_lines(document: Mapping[str, Any]) -> list[str]:
    """What is kept, in words."""
    head, drift = document["personal_head"]["in_force"], document["drift"]
    if head is None:
        lines = ["your words     the published model is in use, nothing was learned beside it"]
    else:
        measured = head["measured"]
        before, after = measured["before"], measured["after"]
        epsilon = "no epsilon is stated" if head["epsilon"] is None else f"epsilon {head['epsilon']:.2f}"
        lines = [
            f"your words     learned from {measured['learned']} examples for release {head['version']}; {epsilon}",
            f"               of {measured['held_out']} held out: {before['own']} right before, {after['own']} now",
            f"               of {measured['public']} public phrases: {before['public']} before, {after['public']} now",
        ]
    changed = ", ".join(sorted(drift["changed_s"])) or "nothing so far"
    return [*lines, f"has changed    {changed}", *night_lines(document["last_night"] or {"steps": []})]
