"""The commands of `tacit-fleet` that operate a fleet: enrol, serve, run, resume, stop. Parsing stands in cli.py."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared_models.errors import ConfigError, HaltedError, TacitError

if TYPE_CHECKING:
    from aggregator.fleet import Fleet

HEAD = "intent_head"
"""The contribution that `run` asks for unless told otherwise: rounds of the shared head."""


def enrol(options: argparse.Namespace) -> int:
    import hashlib

    from aggregator.certificates import check_node_public_key
    from privacy.cli import write_atomically
    from shared_models.errors import FleetError

    fleet = open_fleet(options)
    folder = fleet.directory / "enrolled"
    folder.mkdir(exist_ok=True)
    checked = []
    for path in options.keys:
        try:
            checked.append(check_node_public_key(path.read_bytes()))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
    for pem in checked:
        write_atomically(folder / f"{hashlib.sha256(pem).hexdigest()[:32]}.pem", pem)
    print(f"{len(checked)} devices enrolled")
    try:
        _register_enrolled(fleet)
    except FleetError:
        print("They are admitted when `tacit-fleet serve` starts.")
    return 0


def _register_enrolled(fleet: Fleet) -> int:
    """Tell the SuperLink that is running of all enrolled keys; returns how many were new. Raises FleetError."""
    from aggregator.control import control_of

    new = 0
    with control_of(fleet.directory) as control:
        for path in sorted((fleet.directory / "enrolled").glob("*.pem")):
            pem = path.read_bytes()
            if control.node_id(pem) is None:
                control.register_node(pem)
                new += 1
    return new


def serve(options: argparse.Namespace) -> int:
    import threading

    from aggregator.deployment import FleetServer
    from aggregator.publish import refresh_timestamp

    fleet = open_fleet(options)
    server = FleetServer(fleet.directory, host=options.host, port=options.port)
    ended = threading.Event()

    def vouch() -> None:
        # The bundle's timestamp lives for a day: vouch anew each hour, for as long as this runs.
        while not ended.is_set():
            try:
                refresh_timestamp(fleet.bundle)
            except TacitError as error:
                print(f"tacit-fleet: the bundle's timestamp was not renewed: {error}", file=sys.stderr, flush=True)
            ended.wait(3600.0)

    def ready(address: str) -> None:
        _register_enrolled(fleet)
        # A run of an earlier, killed `serve` is dead, but Flower calls it running until its heartbeat is missed.
        _stop_runs(fleet)
        print(f"serving fleet {fleet.name} on https://{address}", flush=True)

    threading.Thread(target=vouch, name="timestamp", daemon=True).start()
    try:
        server.run(ready)
    finally:
        ended.set()
    return 0


def run(options: argparse.Namespace) -> int:
    if options.rounds < 1:
        raise ConfigError(f"--rounds is {options.rounds}, expected at least 1")
    if options.contribute != HEAD:
        if options.rounds != 1:
            raise ConfigError(
                f"--rounds is for {HEAD}: a run of {options.contribute} makes all the rounds that it needs"
            )
        return _rounds(options, lambda done, planned: done, options.contribute, options.judge)
    return _rounds(options, lambda done, planned: done + options.rounds)


def resume(options: argparse.Namespace) -> int:
    def remaining(done: int, planned: int) -> int:
        if planned <= done:
            raise ConfigError("nothing was interrupted: all planned rounds are done; `tacit-fleet run` starts more")
        return planned

    state = open_fleet(options).state(read_only=True)
    try:
        interrupted = state.notes().get("study")
    finally:
        state.close()
    if interrupted:
        return _rounds(options, lambda done, planned: done, interrupted["contribute"], interrupted["judge"])
    return _rounds(options, remaining)


def _rounds(options: argparse.Namespace, goal: Callable[[int, int], int], study: str = "", judge: str = "") -> int:
    from aggregator.control import FleetApp, control_of
    from aggregator.rounds import RoundSettings

    fleet = open_fleet(options)
    policy = fleet.policy()
    policy.check_valid_at(time.time())
    if policy.halted:
        raise HaltedError(f"the privacy officer has halted contributions: {policy.reason or 'no reason given'}")
    with control_of(fleet.directory) as control:
        # Before anything is written: a ledger has one writer.
        if any(not run.finished for run in control.runs()):
            raise ConfigError("rounds are running already; `tacit-fleet stop` ends them")
        target, seen = _prepare_rounds(fleet, goal, study, judge)
        # What cannot be run is refused here, and not by a process that nobody looks at.
        RoundSettings(rounds=target, deadline_s=options.deadline_s, drop_out=options.drop_out)
        config = {
            "state-dir": str(fleet.directory.absolute()),
            "rounds": target,
            "cohort": options.cohort,
            "deadline-s": options.deadline_s,
            "drop-out": options.drop_out,
            "wait-s": options.wait_s,
            **({"contribute": study, "judge": judge} if study else {}),
        }
        run_id = control.start_run(FleetApp(config=config))
        print(f"started; it waits up to {options.wait_s} s for enough devices", flush=True)
        reader = fleet.state(read_only=True)
        try:
            while True:
                finished = control.run(run_id)
                seen = _print_news(reader, seen)
                if finished.finished:
                    break
                time.sleep(1.0)
            notes, checkpoint = reader.notes(), reader.checkpoint()
        finally:
            reader.close()
    error = notes.get("last_error")
    if finished.completed and study:
        print(f"done: {study}; publish what it made with `tacit-fleet publish {options.fleet}`")
        return 0
    if finished.completed:
        print(f"done: {target} rounds in all; publish the model with `tacit-fleet publish {options.fleet}`")
        return 0
    why = error["error"] if error else " ".join(finished.details.split()) or "no reason is known"
    left = notes.get("study") or (checkpoint is not None and checkpoint.rounds_planned > checkpoint.rounds_done)
    advice = f"; `tacit-fleet resume {options.fleet}` goes on" if left else ""
    print(f"tacit-fleet: {finished.outcome}: {why}{advice}", file=sys.stderr)
    return 1


def _prepare_rounds(fleet: Fleet, goal: Callable[[int, int], int], study: str, judge: str) -> tuple[int, int]:
    """Returns (rounds to have done in the end, ledger entries so far); policy and first model are in the ledger then."""
    fleet.record_policy()
    state = fleet.state()
    try:
        fleet.runner(state)
        if study:
            # What cannot be studied here is refused here.
            from aggregator.fleet_studies import study_of

            study_of(fleet, state, study, judge)
        checkpoint = state.checkpoint()
        assert checkpoint is not None
        target = goal(checkpoint.rounds_done, checkpoint.rounds_planned)
        state.note("last_error", None)
        return target, len(state.lines())
    finally:
        state.close()


def _print_news(reader, seen: int) -> int:  # type: ignore[no-untyped-def]
    entries = reader.entries()
    for entry in entries[seen:]:
        if entry.kind == "reserve":
            plan = entry.body["plan"]
            what = "" if plan["contribution"] == HEAD else f" to {plan['contribution']}"
            print(f"round {entry.body['round_id']}: {plan['cohort']} devices invited{what}", flush=True)
        elif entry.kind == "release":
            print(f"round {entry.body['round_id']}: released over {entry.body['survivors']} devices", flush=True)
        elif entry.kind == "abort":
            print(f"round {entry.body['round_id']}: aborted: {entry.body['reason']}", flush=True)
        elif entry.kind == "artifact":
            print(f"made {', '.join(entry.body['artifacts'])}", flush=True)
    return len(entries)


def stop(options: argparse.Namespace) -> int:
    if not _stop_runs(open_fleet(options)):
        print("no rounds are running")
    else:
        print("stopped; what was reserved stays spent, `tacit-fleet resume` goes on")
    return 0


def _stop_runs(fleet: Fleet) -> int:
    """Returns how many were running. Raises FleetError."""
    from aggregator.control import control_of

    with control_of(fleet.directory) as control:
        running = [run for run in control.runs() if not run.finished]
        for run in running:
            control.stop_run(run.run_id)
    return len(running)


def open_fleet(options: argparse.Namespace) -> Fleet:
    from aggregator.fleet import Fleet

    return Fleet.open(options.fleet)
