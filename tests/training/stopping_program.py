"""Runs `python -m upscore ...`, but waits for a signal during training.

`python -m tests.training.stopping_program STEP MARKER ...` creates the file MARKER after training step STEP, and
continues once it has received SIGINT.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from upscore.cli import main
from upscore.training.callbacks import TerminalProgress


class Stopping(TerminalProgress):
    """Progress bar that waits for SIGINT after a step."""

    step = 0
    marker = Path()

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        super().on_step_end(step, total_steps, loss)
        if step != self.step:
            return
        held, received = signal.getsignal(signal.SIGINT), []
        assert callable(held)
        signal.signal(signal.SIGINT, lambda number, frame: (received.append(number), held(number, frame)))
        self.marker.touch()
        while not received:
            time.sleep(0.01)


if __name__ == "__main__":
    Stopping.step, Stopping.marker = int(sys.argv.pop(1)), Path(sys.argv.pop(1))
    sys.modules["upscore.training.callbacks"].TerminalProgress = Stopping  # type: ignore[attr-defined]
    main()
