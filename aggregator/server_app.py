"""The Flower `ServerApp` of a deployment: rounds over a SuperLink's grid, from the fleet folder that the run names.

Killed at any moment, a new run (`tacit-fleet resume`) continues from the fleet's own state: Flower does not resume runs.
"""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from aggregator.fleet import Fleet
from aggregator.fleet_studies import study_of
from aggregator.rounds import RoundOutcome, RoundSettings
from shared_models.errors import TacitError
from shared_models.layouts import PRIOR

logger = logging.getLogger(__name__)
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """`run_config`: state-dir, rounds (target in all), and optionally cohort (0 is all), deadline-s, wait-s, drop-out.

    With `contribute` a study is run instead of rounds of the shared head; `judge`: the policy that one of policy values is about.
    """
    config = context.run_config
    fleet = Fleet.open(Path(str(config["state-dir"])))
    settings = RoundSettings(
        rounds=int(config["rounds"]),
        cohort=int(config.get("cohort", 0)) or None,
        deadline_s=int(config.get("deadline-s", 600)),
        wait_for_devices_s=int(config.get("wait-s", 300)),
        drop_out=float(config.get("drop-out", 0.3)),
    )
    state = fleet.state()

    def report(outcome: RoundOutcome) -> None:
        print(f"round {outcome.round_id}: {outcome.survivors} of {outcome.invited} devices, released", flush=True)

    try:
        runner, study = fleet.runner(state), str(config.get("contribute", ""))
        if study:
            judge = str(config.get("judge", PRIOR))
            # So that `tacit-fleet resume` knows what was interrupted.
            state.note("study", {"contribute": study, "judge": judge})
            runner.run_study(grid, settings, study_of(fleet, state, study, judge), report)
            state.note("study", None)
        else:
            state.note("study", None)
            runner.run(grid, settings, report)
    except TacitError as error:
        print(f"stopped: {error}", flush=True)
        state.note("last_error", {"error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        state.export_ledger(fleet.directory / "ledger.jsonl")
        state.close()
