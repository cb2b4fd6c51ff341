"""Parts that the verbs share: options, logging, exit status, output for people and for programs."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import typer

from .terminal import shows_everything

P = ParamSpec("P")
R = TypeVar("R")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")]
LARGEST_INTEGER = 2**64 - 1
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.", min=0, max=LARGEST_INTEGER)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[
    int | None, typer.Option("--threads", help="CPU threads; the last digits of a run depend on it.", min=1, max=1024)
]
Pair = Annotated[
    str | None,
    typer.Option("--pair", help="FILE.py:Name of a pair of your own. That file is run.", metavar="FILE:NAME"),
]
Part = Annotated[str | None, typer.Option(help="test, validation or train; held-out data where absent.")]
Which = Annotated[Literal["result", "best", "last"], typer.Option(help="Which parameters.")]
WIDTH = 120
"""Of a table that goes into a file or a pipe."""
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Go on although data, versions, the number of processes or the file of --pair changed."
    ),
]


def say(text: str) -> None:
    """A line for people on standard error."""
    print(text, file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """The result for programs, on standard output."""
    from ..runs.storage.atomic import plain

    print(json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=not shows_everything()))


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an exception of a verb into one clear message on standard error and an exit status.

    0 success; 1 failure; 2 bad usage (typer's own); 130 Ctrl-C; 143 SIGTERM. ``PPVAE_DEBUG=1`` shows the traceback.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with _logging_to_stderr(), _process_group():
            try:
                with _first_process_speaks(function.__name__):
                    return function(*args, **kwargs)
            except KeyboardInterrupt as error:
                status = 128 + int(getattr(error, "signal", 2))
                _fail(str(error) or "interrupted", error)
            except (typer.Exit, typer.BadParameter):
                raise
            except BrokenPipeError:
                status = 1  # the reader of our output went away
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            except Exception as error:
                status = 1
                from ..core.errors import PairError, PpvaeError

                if isinstance(error, PpvaeError):
                    from .remedies import in_options

                    own = isinstance(error, PairError) and bool(kwargs.get("pair"))
                    _fail(f"error: {in_options(str(error), function, kwargs, own_pair=own)}", error)
                elif _is_out_of_memory(error):
                    _fail(f"error: out of memory: {_first_line(error)}\n{_SMALLER}", error)
                else:
                    _fail(
                        f"error: {type(error).__name__}: {error}\nThis is an error inside ppvae: please report it, "
                        "with the output under PPVAE_DEBUG=1.",
                        error,
                    )
        raise typer.Exit(status)

    return wrapper


_SMALLER = """Try one of:
  - fewer data at once: --batch-size, --chunk-size, --num-data
  - fewer draws: --num, --num-samples, or the options of a method
  - a smaller model"""


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or PyTorch found no memory; on a CPU PyTorch has no class of its own for that."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many CPU threads inside."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    elif is_contended(before):
        say(
            f"the machine is busy, and {before} threads contend with other work for its cores: --threads 1 may be many "
            "times faster"
        )
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def is_contended(num_threads: int) -> bool:
    """Whether so many threads of ours, beside what runs at this moment, are half as many again as the cores."""
    if num_threads == 1:
        return False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return num_threads + running_beside() > 1.5 * cores


def running_beside() -> float:
    """Processes that run beside this one, the median of five looks; 0 where the system does not tell (Linux does).

    Not the load average, in which the command that ended a moment ago still counts.
    """
    looks = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for _ in range(5):
            looks.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1)
            time.sleep(0.01)
    return float(statistics.median(looks)) if looks else 0.0


def pair_of(spec: str | None) -> Any:
    """The class, function or instance that --pair names; its file is run."""
    from ..runs import member_of

    return None if spec is None else member_of(spec)


def require_run(run: Path | None) -> Path:
    """The run folder; a usage error where it is absent."""
    if run is None:
        raise typer.BadParameter("give a RUN, the folder that ppvae fit wrote (its --out)")
    return run


def require_writable(path: Path, *, folder: bool = False, option: str = "--out") -> None:
    """Raise a RunError, before work begins, where a file or a folder cannot be made; nothing is left there.

    Args:
        path: the file or folder.
        folder: whether it is a folder, which is made with the folders above it.
        option: of the command line, for the message.
    """
    from ..core.errors import RunError, try_one_of

    place = path if folder else path.parent
    try:
        while folder and not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
        if path.is_dir() and not folder:
            raise IsADirectoryError(None, "it is a folder")
    except OSError as error:
        what = "made" if folder else "written"
        raise RunError(
            f"{option} {path}: cannot be {what}: {error.strerror or error}"
            + try_one_of(f"{option} in a folder that exists and that you may write to")
        ) from error


_TOGETHER = ("fit", "evaluate")
"""Verbs that several processes share."""


def _has_others() -> bool:
    """Whether torchrun started more processes than this one; no torch is imported where it did not."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def _process_group() -> Iterator[None]:
    """Afterwards the group of the processes that torchrun started is ended."""
    try:
        yield
    finally:
        if _has_others():
            from ..inference.execution.processes import leave_group

            leave_group()


@contextmanager
def _first_process_speaks(name: str) -> Iterator[None]:
    """Join the processes that torchrun started; inside, all but the first are silent."""
    if not _has_others():
        yield
        return
    from ..core.errors import RunError, try_one_of
    from ..inference.execution.processes import join_group

    processes = join_group()
    if processes.count > 1 and name not in _TOGETHER:
        raise RunError(
            f"{name.replace('_', '-')}: expected one process, found {processes.count}: {' and '.join(_TOGETHER)} are "
            "shared by several" + try_one_of("the same command without torchrun")
        )
    if processes.is_first:
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    finally:
        logging.disable(before)


def _fail(message: str, error: BaseException) -> None:
    if _has_others():
        from ..inference.execution.processes import says_first

        if not says_first(_first_line(error)):
            return
    if os.environ.get("PPVAE_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    say(message)


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    logger = logging.getLogger("ppvae")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
