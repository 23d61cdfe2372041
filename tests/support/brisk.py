"""`python brisk.py ARGUMENTS`: `tacit-device ARGUMENTS` of a device that waits little, for tests of what happens to rounds.

Its contributions leave on a grid of one second, it looks for a newer policy before a round that comes ten seconds after the last
look, and it trains by a plain sum in a process without torch. Everything else is the program as users have it.
"""

from __future__ import annotations

import functools
import sys

TRAINER = "--trainer"


def device() -> int:
    from edge_client import cli
    from edge_client.share import cli as share
    from edge_client.share import device as devices
    from edge_client.share import taking_part

    devices.LOOK_BEFORE_ROUND_S = 10.0
    share.FleetConfig = functools.partial(share.FleetConfig, contribution_grid_s=1.0)  # type: ignore[assignment,misc]
    light = [sys.executable, __file__, TRAINER]
    training = functools.partial(taking_part.TrainingProcess, command=light)
    taking_part.TrainingProcess = training  # type: ignore[assignment,misc]
    return cli.main(sys.argv[1:])


def trainer() -> int:
    from plain_training import plain_sum

    from edge_client.share.agent.trainer import run

    return run(plain_sum)


if __name__ == "__main__":
    sys.exit(trainer() if sys.argv[1:] == [TRAINER] else device())
