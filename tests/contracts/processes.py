"""The command in processes of its own, which share one start of Python."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class Ppvae:
    """The command in processes that can be killed or sent a signal; see ``fork_server.py``.

    Args:
        folder: an empty one; ``log`` in it takes what the processes print.
    """

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
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
        assert self._server.stdin is not None
        self._server.stdin.write((json.dumps([words, str(stdout), str(stderr)]) + "\n").encode())
        return int(self._line())

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
