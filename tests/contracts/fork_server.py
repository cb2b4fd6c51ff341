"""Runs ``ppvae`` again and again in processes of their own, without importing torch again and again.

Reads one JSON list a line: how many processes, the arguments, and the files that take stdout and stderr; forks; prints
the children's numbers, and when all have ended their statuses as ``os.waitstatus_to_exitcode`` has it (-9 for one that
was killed). Several children are told of each other as torchrun tells them; unlike there, nobody ends the others when
one has failed. In place of arguments a table may stand, of a file with a function of that file and what it is called
with. A child meets signals as a process does that a shell started in the foreground. Training saves after every epoch,
not every few seconds, so that runs of a second or two have checkpoints to go on from.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch  # what the children need, imported once
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
    sys.path.append(str(Path(__file__).parent.parent))  # so that a test's file finds the contracts
    run.Checkpoints = EveryEpoch  # type: ignore[misc]
    print("ready", flush=True)
    for line in sys.stdin:
        count, words, *files = json.loads(line)
        port = free_port() if count > 1 else 0
        children = []
        for rank in range(count):
            child = os.fork()
            if child:
                children.append(child)
                continue
            if count > 1:
                named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in named.items()}, MASTER_ADDR="127.0.0.1")
            for number, file in enumerate(files, 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for ending in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(ending, signal.SIG_DFL)
            try:
                if isinstance(words, dict):
                    call(**words)
                else:
                    app(words)
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(int(end.code or 0))
            except BaseException:
                traceback.print_exc()
                os._exit(98)
            os._exit(99)
        print(*children, flush=True)
        print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)


def call(file: str, function: str, arguments: list[Any], folder: str) -> None:
    """Call a function of a file; what it returns goes into the folder, under the number of the process."""
    module = runpy.run_path(file)
    result = module[function](*arguments)
    torch.save(result, f"{folder}/{os.environ['RANK']}.pt")
    sys.exit(0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
