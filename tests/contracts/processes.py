"""The command in processes of its own, which share one start of Python."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

When: TypeAlias = float | Callable[[], bool]


class Ppvae:
    """The command in processes that can be killed or sent a signal; see ``fork_server.py``.

    Args:
        folder: an empty one; ``log`` in it takes what the processes print.
    """

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.log.touch()
        self.kills = 0
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that a line that was not read yet can be waited for
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().decode().strip()

    def _start(self, words: Sequence[str], stdout: Path, stderr: Path) -> int:
        (child,) = self._start_several(1, list(words), stdout, stderr)
        return child

    def _start_several(self, count: int, words: Any, stdout: Path, stderr: Path) -> list[int]:
        assert self._server.stdin is not None
        self._server.stdin.write((json.dumps([count, words, str(stdout), str(stderr)]) + "\n").encode())
        return [int(child) for child in self._line().split()]

    def together(
        self,
        *words: str,
        count: int = 2,
        end: Mapping[int, tuple[When, signal.Signals]] | None = None,
    ) -> list[int]:
        """Run it in so many processes that know of each other; their statuses.

        Args:
            words: of the command.
            count: of processes.
            end: which process gets which signal, after so many seconds or once something is so.
        """
        children = self._start_several(count, list(words), self.log, self.log)
        started, waiting = time.monotonic(), dict(end or {})
        while not select.select([self._server.stdout], [], [], 0.005)[0]:
            for rank, (when, number) in list(waiting.items()):
                if when() if callable(when) else time.monotonic() - started > when:
                    os.kill(children[rank], number)
                    del waiting[rank]
            assert time.monotonic() - started < 240, self.log.read_text()
        return [int(status) for status in self._line().split()]

    def call_together(self, file: str, function: str, *arguments: Any, count: int = 2) -> list[Any]:
        """What a function of a file returns in each of so many processes that know of each other."""
        with tempfile.TemporaryDirectory() as folder:
            work = {"file": file, "function": function, "arguments": list(arguments), "folder": folder}
            self._start_several(count, work, self.log, self.log)
            assert self._line().split() == ["0"] * count, self.log.read_text()
            return [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(count)]

    def __call__(
        self, *words: str, kill_after: float | None = None, kill_when: Callable[[], bool] | None = None
    ) -> int:
        """Run it, to its end or until it is killed: after so many seconds, or once something is so; its status."""
        child = self._start(words, self.log, self.log)
        if kill_after is not None and not select.select([self._server.stdout], [], [], kill_after)[0]:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(child, signal.SIGKILL)
        if kill_when is not None:
            while not select.select([self._server.stdout], [], [], 0.002)[0]:
                if kill_when():
                    os.kill(child, signal.SIGKILL)
                    break
        status = int(self._line())
        self.kills += status == -signal.SIGKILL
        return status

    def stopped_by(
        self, number: signal.Signals, words: Sequence[str], ready: Callable[[], bool], folder: Path
    ) -> tuple[int, str, str]:
        """Run it and send it a signal once something is so: status, stdout and stderr, which files in a folder take."""
        stdout, stderr = folder / "stdout", folder / "stderr"
        child = self._start(words, stdout, stderr)
        deadline = time.monotonic() + 120
        while not select.select([self._server.stdout], [], [], 0.02)[0] and time.monotonic() < deadline:
            if ready():
                os.kill(child, number)
                break
        if not select.select([self._server.stdout], [], [], 120)[0]:
            os.kill(child, signal.SIGKILL)
        return int(self._line()), stdout.read_text(), stderr.read_text()

    def check(self, *words: str) -> float:
        """Run it to its end, which must be a good one; seconds."""
        started = time.monotonic()
        assert self(*words) == 0, self.log.read_text()
        return time.monotonic() - started

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()
