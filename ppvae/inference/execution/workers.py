"""Pieces of work in processes of their own, one thread each; Ctrl-C is passed on to each, and its result awaited."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import multiprocessing.connection
import multiprocessing.reduction
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...core import PpvaeError
from ...core.errors import try_one_of


class Done(NamedTuple):
    """A finished piece of work.

    Attributes:
        number: of the piece.
        value: what it returned; None where it raised.
        error: what it raised, or None.
    """

    number: int
    value: Any
    error: BaseException | None


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def why_no_processes(*work: Any) -> str:
    """Why work cannot be done in other processes, in a clause; empty where it can.

    Args:
        work: functions and their arguments, which must reach the other process.
    """
    if multiprocessing.parent_process() is not None:
        return "this is such a process itself"
    main = sys.modules["__main__"]
    source, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if spec is not None and spec.name.endswith(".__main__"):  # python -m package, which is not run again
        source = None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        # A new process runs the main script again, to find its functions: up to this line, if nothing guards it.
        if source is not None and "__main__" not in Path(source).read_text(encoding="utf-8"):
            return f'{Path(source).name} has no `if __name__ == "__main__":` around what it runs'
    try:
        multiprocessing.reduction.ForkingPickler.dumps(work)
    except Exception as error:  # each kind of object has its own
        return f"what is to be done cannot be sent there: {(str(error) or type(error).__name__).splitlines()[0]}"
    return ""


def in_processes(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], num_processes: int) -> Iterator[Done]:
    """Call a function with each of these arguments, in as many processes; what is finished first comes first.

    Ctrl-C here interrupts each call that is under way, as if it had been pressed there, and no further one begins; a
    second one interrupts at once. A process whose parent is gone is interrupted too.

    Args:
        function: importable, as its arguments are.
        jobs: the arguments of each call.
        num_processes: how many at a time, each with one thread.

    Raises:
        PpvaeError: a process ended without an answer.
        KeyboardInterrupt: after Ctrl-C, once every call under way has ended; those are yielded before.
    """
    context = multiprocessing.get_context("spawn")
    waiting, interrupts = list(enumerate(jobs)), 0
    workers: dict[Any, tuple[BaseProcess, int | None]] = {}  # by the end of a pipe
    importing = set[Any]()  # those in which an interrupt may be lost
    try:
        for _ in range(min(num_processes, len(jobs))):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(theirs, function), daemon=True)
            worker.start()
            theirs.close()
            workers[ours] = worker, None
            importing.add(ours)
        while waiting or any(number is not None for _, number in workers.values()):
            try:
                for connection, (process, number) in workers.items():
                    if number is None and waiting:
                        number, arguments = waiting.pop(0)
                        workers[connection] = process, number
                        connection.send(arguments)
                busy = [connection for connection, (_, number) in workers.items() if number is not None]
                ready: list[Any] = multiprocessing.connection.wait(busy)
            except KeyboardInterrupt:
                waiting.clear()
                interrupts += 1
                for connection, (process, number) in workers.items():
                    if number is None or process.pid is None:
                        continue
                    if connection in importing:  # its call has not begun
                        process.terminate()
                        workers[connection] = process, None
                        continue
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)
                continue
            for connection in ready:
                process, number = workers[connection]
                assert number is not None
                try:
                    answer = connection.recv()
                except (EOFError, ConnectionResetError):
                    process.join(5)
                    raise PpvaeError(
                        f"a process ended without an answer (exit status {process.exitcode})"
                        + try_one_of("fewer at a time: more memory for each", "one after another")
                    ) from None
                if answer is None:
                    importing.discard(connection)
                    continue
                workers[connection] = process, None
                yield Done(number, *answer)
        if interrupts:
            raise KeyboardInterrupt
    finally:
        for connection in workers:
            connection.close()  # the end of what a process waits for
        for process, number in workers.values():
            if number is not None:
                process.terminate()
            process.join(5)


class _Interrupt:
    """Ctrl-C of a process that works for another: outside the work it is remembered."""

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGINT, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.came = True

    def __enter__(self) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.came:
            raise KeyboardInterrupt

    def __exit__(self, *about: object) -> None:
        signal.signal(signal.SIGINT, self._remember)


def _work(connection: Connection, function: Callable[..., Any]) -> None:
    interrupt = _Interrupt()
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal goes to the parent alone, which passes it on
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        connection.send(None)  # it has done importing
        while True:
            arguments = connection.recv()
            value, error = None, None
            try:
                with interrupt:
                    value = function(*arguments)
            except BaseException as raised:
                error = raised
            _answer(connection, value, error)


def _answer(connection: Connection, value: Any, error: BaseException | None) -> None:
    try:
        copy.copy(error)  # as the other process makes it again, which an error with arguments of its own may refuse
        connection.send((value, error))
    except (BrokenPipeError, EOFError):
        raise
    except Exception as problem:  # each kind of object has its own
        told = problem if error is None else error
        connection.send((None, RuntimeError(f"{type(told).__name__}: {told}")))


def by_value(tree: Any) -> Any:
    """Nested tensors as arrays, which are copied to another process: a tensor would take a file of shared memory."""
    return pytree.tree_map(lambda leaf: leaf.numpy(force=True) if isinstance(leaf, Tensor) else leaf, tree)


def as_tensors(tree: Any) -> Any:
    """Nested arrays as tensors again."""
    return pytree.tree_map(lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)
