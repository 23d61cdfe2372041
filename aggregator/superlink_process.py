"""`python -m aggregator.superlink_process ARGUMENTS`: Flower's SuperLink, ending when its parent does. Started by `superlink`.

The parent holds the other end of stdin; a SuperLink that outlived `tacit-fleet serve` would keep the database and the Control
API open with nobody watching.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

GRACE_S = 3.0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from flwr.superlink.cli import flower_superlink

    sys.argv[0] = "flower-superlink"
    flower_superlink()


if __name__ == "__main__":
    main()
