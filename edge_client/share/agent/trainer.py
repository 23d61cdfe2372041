"""The training process: `python -m edge_client.share.agent.trainer`. It trains what it is handed, and has no network.

Frames as in `process`: `train` or `tune` in, `update` or `failed` out. It can be killed at any moment, for nothing hangs on it:
the process that carries messages is another one. When its owner goes, so does it, also out of the middle of a training.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import BinaryIO

from edge_client.share.agent.child import claim_standard_streams, train_as_asked, tune_as_asked
from edge_client.share.agent.pipe import PREAMBLE, Frame, read_frame, write_frame
from edge_client.share.port import Trainer, Tuner
from shared_models.errors import WireError


def run(trainer: Trainer | None = None, tuner: Tuner | None = None) -> int:
    """Train until the owner says stop or is gone. `trainer` and `tuner` are by default Opacus on this process's torch."""
    source, sink = claim_standard_streams()
    sink.write(PREAMBLE)
    sink.flush()
    frames: queue.Queue[Frame] = queue.Queue(maxsize=2)
    threading.Thread(target=_read, args=(source, frames), name="owner-pipe", daemon=True).start()
    while True:
        frame = frames.get()
        # torch and Opacus are loaded with the first frame that needs them.
        if frame.kind == "tune":
            tuner = tuner or _head_tuner()
            write_frame(sink, tune_as_asked(frame, tuner))
        else:
            trainer = trainer or _head_trainer()
            write_frame(sink, train_as_asked(frame, trainer))


def _head_trainer() -> Trainer:
    from privacy.dpsgd import HeadTrainer

    return HeadTrainer()


def _head_tuner() -> Tuner:
    from privacy.dpsgd import HeadTuner

    return HeadTuner()


def _read(source: BinaryIO, frames: queue.Queue[Frame]) -> None:
    # Nothing here needs an orderly end, and torch in another thread would not let go.
    status = 0
    try:
        while (frame := read_frame(source)) is not None and frame.kind in ("train", "tune"):
            frames.put(frame)
    except (WireError, OSError):
        status = 2
    os._exit(status)


if __name__ == "__main__":
    sys.exit(run())
