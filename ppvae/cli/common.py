"""Parts that the verbs share: options, logging, exit status, output for people and for programs."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.", min=0)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[
    int | None, typer.Option("--threads", help="CPU threads; the last digits of a run depend on it.", min=1)
]
Pair = Annotated[
    str | None,
    typer.Option("--pair", help="FILE.py:Name of a pair of your own. That file is run.", metavar="FILE:NAME"),
]
Force = Annotated[bool, typer.Option("--force", help="Go on although data, versions or the file of --pair changed.")]


def say(text: str) -> None:
    """A line for people on standard error."""
    print(text, file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """The result for programs, on standard output."""
    from ..runs.storage.atomic import plain

    print(json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False))


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an exception of a verb into one clear message on standard error and an exit status.

    0 success; 1 failure; 2 bad usage (typer's own); 130 Ctrl-C; 143 SIGTERM. ``PPVAE_DEBUG=1`` shows the traceback.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with _logging_to_stderr():
            try:
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
                from ..core.errors import PpvaeError

                if isinstance(error, PpvaeError):
                    _fail(f"error: {error}", error)
                else:
                    _fail(
                        f"error: {type(error).__name__}: {error}\nThis is an error inside ppvae: please report it, "
                        "with the output under PPVAE_DEBUG=1.",
                        error,
                    )
        raise typer.Exit(status)

    return wrapper


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many CPU threads inside."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def pair_of(spec: str | None) -> Any:
    """The class, function or instance that --pair names; its file is run."""
    from ..runs import member_of

    return None if spec is None else member_of(spec)


def require_run(run: Path | None) -> Path:
    """The run folder; a usage error where it is absent."""
    if run is None:
        raise typer.BadParameter("give a RUN, the folder that ppvae fit wrote (its --out)")
    return run


def options_of(entry: Any) -> dict[str, Any]:
    """The options of an entry, and their defaults."""
    return {name: None if field.is_required() else field.default for name, field in entry.options.model_fields.items()}


def _fail(message: str, error: BaseException) -> None:
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
