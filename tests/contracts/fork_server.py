"""Runs ``ppvae`` again and again in processes of their own, without importing torch again and again.

Reads one JSON list a line, of the arguments and of the files that take stdout and stderr; forks; prints the child's
number, and when it has ended its status as ``os.waitstatus_to_exitcode`` has it (-9 for one that was killed). A child
meets signals as a process does that a shell started in the foreground. Training saves after every epoch, not every few
seconds, so that runs of a second or two have checkpoints to go on from.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import sklearn.datasets  # noqa: F401  what the children need, imported once
import torch
import torch._dynamo

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
            words, *files = json.loads(line)
            for number, file in enumerate(files, 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for ending in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(ending, signal.SIG_DFL)
            try:
                app(words)
            except SystemExit as end:
                os._exit(int(end.code or 0))
            os._exit(99)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
