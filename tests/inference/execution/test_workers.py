"""Calls in other processes: an interruption at any time is one, and not an error of theirs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

from ppvae.core import PpvaeError
from ppvae.inference.execution.workers import in_processes


@pytest.mark.usefixtures("ctrl_c_works")
@pytest.mark.parametrize("seconds", [0.1, 0.4])
def test_ctrl_c_while_the_processes_still_import_is_an_interrupt(seconds: float) -> None:
    """They end without a word: "Connection reset by peer" came out, as an error inside ppvae."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(in_processes(time.sleep, [(60.0,), (60.0,)], 2))
    timer.join()
    assert time.monotonic() - start < 50


def test_a_process_that_is_killed_while_it_imports_is_an_error() -> None:
    timer = threading.Timer(0.4, lambda: [child.kill() for child in multiprocessing.active_children()])
    timer.start()
    with pytest.raises(PpvaeError, match=r"a process ended without an answer \(exit status -9\)"):
        list(in_processes(time.sleep, [(60.0,)], 1))
    timer.join()


def test_a_process_that_ends_by_itself_is_an_error() -> None:
    with pytest.raises(PpvaeError, match=r"a process ended without an answer \(exit status 3\)"):
        list(in_processes(os._exit, [(3,)], 1))
