"""Runs ``ppvae`` again and again in processes of their own, without importing torch again and again.

Reads one JSON list of arguments a line; forks; prints the child's number, and when it has ended its status as
``os.waitstatus_to_exitcode`` has it (-9 for one that was killed). Training saves after every epoch, not every few
seconds, so that runs of a second or two have checkpoints to go on from.
"""

from __future__ import annotations

import json
import os
import sys

import sklearn.datasets  # noqa: F401  what the children need, imported once
import torch

import ppvae.cli.fit
import ppvae.runs.evaluation.evaluation  # noqa: F401
from ppvae.cli.main import app
from ppvae.inference import TrainingState
from ppvae.runs.training import history, run


class EveryEpoch(history.Checkpoints):
    def on_epoch(self, state: TrainingState) -> None:
        self._next = 0.0
        super().on_epoch(state)


def main() -> None:
    torch.set_num_threads(1)
    run.Checkpoints = EveryEpoch  # type: ignore[misc]
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            log = os.open(os.environ["LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                app(json.loads(line))
            except SystemExit as end:
                os._exit(int(end.code or 0))
            os._exit(99)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
